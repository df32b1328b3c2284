//! Dead letters: kept, listed, retried and given up by the commands that an operator has.

use crate::house::{House, dumbwaiter, order, wait_for};
use crate::kafka::{Kafka, Seen};
use serde_json::{Value, json};

fn ask(house: &House, arguments: &[&str]) -> Value {
    let url = format!("http://{}", house.http);
    let output = dumbwaiter(&[&["dead-letters"], arguments, &["--json", "--url", &url]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// The only dead letter, once so many events wait behind it.
fn letter(house: &House, held: u64) -> Value {
    wait_for("a dead letter", || {
        let letters = ask(house, &["list"]);
        letters.as_array().filter(|letters| letters.len() == 1 && letters[0]["held"] == held).map(|letters| letters[0].clone())
    })
}

/// Stores an order that Kafka refuses, sent with others and alone, and two events behind it.
fn refused(house: &House, kafka: &Kafka, id: &str) -> Value {
    kafka.refuse();
    assert_eq!(house.post("/api/v1/orders", &format!("{id}-1"), &order(id)).status, 201);
    letter(house, 0);
    kafka.take();
    for (n, status) in [(2, "PREPARING"), (3, "READY")] {
        let event = json!({"type": "order.state_changed", "data": {"status": status}});
        assert_eq!(house.post(&format!("/api/v1/orders/{id}/events"), &format!("{id}-{n}"), &event).status, 201);
    }
    letter(house, 2)
}

fn requests<'a>(seen: &'a [Seen], order: &str) -> Vec<&'a str> {
    seen.iter().filter(|event| event.key == order).map(|event| event.header("request-id")).collect()
}

#[test]
fn a_dead_letter_holds_its_order_alone_until_somebody_decides() {
    let kafka = Kafka::start();
    let mut house = House::new(&kafka.section());
    house.start();

    let dead = refused(&house, &kafka, "o-1");
    assert!(dead["reason"].as_str().is_some_and(|reason| reason.starts_with("MessageSizeTooLarge")), "{dead}");
    assert_eq!((&dead["orderId"], &dead["event"]["orderId"]), (&json!("o-1"), &json!("o-1")));
    assert_eq!(house.post("/api/v1/orders", "o-2-1", &order("o-2")).status, 201);
    let seen = kafka.read_until(|seen| !requests(seen, "o-2").is_empty());
    assert!(requests(&seen, "o-1").is_empty(), "{seen:?}");

    // What is kept survives a crash, and so does the decision.
    house.kill();
    house.start();
    let seq = letter(&house, 2)["seq"].to_string();
    assert_eq!(ask(&house, &["retry", &seq])["appended"], 3);
    house.kill();
    house.start();
    assert_eq!(ask(&house, &["list"]), json!([]));
    let seen = kafka.read_until(|seen| requests(seen, "o-1").len() >= 3);
    let mut order = requests(&seen, "o-1");
    order.dedup();
    assert!(order.starts_with(&["o-1-1", "o-1-2", "o-1-3"]), "{order:?}");
    let retried = seen.iter().find(|event| event.key == "o-1").expect("it was just counted");
    assert_eq!(retried.value["id"], dead["eventId"], "a retried event keeps its id");
    assert!(retried.seq() > dead["seq"].as_u64().expect("a seq"), "and has a new seq");

    let seq = refused(&house, &kafka, "o-3")["seq"].to_string();
    assert_eq!(ask(&house, &["discard", &seq])["appended"], 2);
    let seen = kafka.read_until(|seen| requests(seen, "o-3").len() >= 2);
    assert_eq!(requests(&seen, "o-3")[..2], ["o-3-2", "o-3-3"]);
    house.stop();
}
