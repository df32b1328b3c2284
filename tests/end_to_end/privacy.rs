//! What is known of a customer stays where it is needed, and for no longer.

use crate::house::{House, dumbwaiter, http, order, wait_for};
use crate::kafka::Kafka;
use serde_json::{Value, json};

/// In every text of a customer's, and in nothing else.
const MARK: &str = "Markwart";

/// A customer's order, told by all that could give the customer away.
fn order_of_a_customer(id: &str) -> Value {
    let mut order = order(id);
    order["customerName"] = MARK.into();
    order["dueAt"] = MARK.into();
    order["displayNumber"] = MARK[..4].into();
    order["delivery"] = json!({"address": format!("{MARK} street 7"), "phone": MARK});
    order["orderDetails"][0]["notes"] = format!("for {MARK}, no onions").into();
    order["orderDetails"][0]["modifiers"] = json!([MARK]);
    order
}

fn event(house: &House, id: &str, key: &str, event: &Value) {
    let answer = house.post(&format!("/api/v1/orders/{id}/events"), key, event);
    assert_eq!(answer.status, 201, "{}", answer.body);
}

#[test]
fn no_log_and_no_support_file_knows_a_customer() {
    let kafka = Kafka::start();
    let rest = "[kafka.properties]\n\"fetch.wait.max.ms\" = 100\n[[downlink]]\ntopic = \"order-status\"\nselect = \"all\"\n[log]\nlevel = \"trace\"\n";
    let mut house = House::new(&format!("{}{rest}", kafka.section()));
    house.start();

    // Taken, repeated, contradicted, broken and refused.
    let body = order_of_a_customer("o-1");
    assert_eq!(house.post("/api/v1/orders", "k-1", &body).status, 201);
    assert_eq!(house.post("/api/v1/orders", "k-1", &body).status, 200);
    assert_eq!(house.post("/api/v1/orders", "k-1", &order_of_a_customer("o-2")).status, 409);
    let mut wrong = body.clone();
    wrong["orderDetails"][0]["quantity"] = MARK.into();
    assert_eq!(house.post("/api/v1/orders", "k-2", &wrong).status, 422);
    let json = [("Content-Type", "application/json"), ("Idempotency-Key", "k-3")];
    let broken = http(house.http, "POST", "/api/v1/orders", &json, format!("{{\"customerName\":\"{MARK}\",").as_bytes());
    assert_eq!(broken.expect("an answer").status, 400);
    // Changed by the house, and by the centre in words that cannot be read and in words that can.
    event(&house, "o-1", "k-4", &json!({"type": "order.shipper_assigned", "data": {"shipperName": MARK}}));
    let of_the_centre = |data: &Value| json!({"id": "c", "type": "order.state_changed", "orderId": "o-1", "data": data}).to_string();
    kafka.put("order-status", "store-042", &of_the_centre(&json!({"status": MARK, "customerName": MARK})));
    kafka.put("order-status", "store-042", &format!("{{\"customerName\": \"{MARK}\" {MARK}"));
    kafka.put("order-status", "store-042", &of_the_centre(&json!({"status": "CONFIRMED", "customerName": MARK})));
    wait_for("the centre to be heard", || (house.get("/api/v1/orders/o-1").json()["status"] == "CONFIRMED").then_some(()));
    // Refused by Kafka, and sent again.
    kafka.refuse();
    assert_eq!(house.post("/api/v1/orders", "k-5", &order_of_a_customer("o-3")).status, 201);
    let seq = wait_for("a dead letter", || house.get("/api/v1/dead-letters").json()["deadLetters"][0]["seq"].as_u64());
    kafka.take();
    wait_for("a decision", || {
        (house.post(&format!("/api/v1/dead-letters/{seq}"), "", &json!({"decision": "retry"})).status == 200).then_some(())
    });
    kafka.read_until(|seen| ["o-1", "o-3"].iter().all(|id| seen.iter().any(|event| event.key == *id)));
    house.kill();
    house.start();

    let bundle = house.folder.path().join("bundle.txt");
    let (config, file) = (house.config(), bundle.clone());
    dumbwaiter(&["doctor", "--config", config.to_str().expect("UTF-8"), "--bundle", file.to_str().expect("UTF-8")]);
    let bundle = std::fs::read_to_string(bundle).expect("doctor wrote its file");
    assert!(bundle.contains("/api/v1/state") && bundle.contains("\"queued\""), "the daemon was asked: {bundle}");
    house.stop();
    let log = house.log();
    assert!(log.contains("dead letter") && log.contains("unreadable"), "what was to be logged was: {log}");
    for (name, text) in [("log", &log), ("bundle", &bundle)] {
        let told: Vec<_> = text.lines().filter(|line| line.contains(&MARK[..4])).collect();
        assert!(told.is_empty(), "the {name} says {told:?}");
    }
}

#[test]
fn what_was_ordered_and_by_whom_is_forgotten_before_the_order_is() {
    let mut house = House::new("");
    let config = std::fs::read_to_string(house.config()).expect("the config");
    std::fs::write(house.config(), config.replace("[store]\n", "[store]\nforget_orders_hours = 0\n")).expect("the config");
    house.start();
    for id in ["over", "open"] {
        assert_eq!(house.post("/api/v1/orders", id, &order_of_a_customer(id)).status, 201);
    }
    event(&house, "over", "k-1", &json!({"type": "order.shipper_assigned", "data": {"shipperName": MARK}}));
    event(&house, "over", "k-2", &json!({"type": "order.delivered"}));
    let over = wait_for("the details to go", || {
        let known = house.get("/api/v1/orders/over");
        (!known.body.contains(&MARK[..4])).then_some(known.json())
    });
    assert_eq!((&over["status"], &over["totalPrice"], &over["ticket"]), (&json!("DELIVERED"), &json!(25.5), &json!(1)), "{over}");
    assert_eq!((&over["lines"], &over["linesOmitted"]), (&json!([]), &json!(1)));
    // What is still worked on stays whole, also for the next start.
    house.kill();
    house.start();
    assert!(house.get("/api/v1/orders/open").body.contains(MARK));
    assert!(!house.get("/api/v1/orders/over").body.contains(&MARK[..4]));
}
