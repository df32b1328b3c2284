//! What must not start says why; what is malformed is answered and stops nothing.

use crate::house::{House, free_address, http, order, refused};
use serde_json::json;

#[test]
fn a_config_with_a_typo_names_line_key_and_the_likely_word() {
    let house = House::new("[board]\nready_minuts = 5\n");
    let said = refused(&house.config());
    assert!(said.contains("dumbwaiter.toml:9") && said.contains("ready_minuts") && said.contains("ready_minutes"), "{said}");
}

#[test]
fn one_terminal_name_on_two_ports_is_refused() {
    let port = |path: &str| format!("[[serial]]\nterminal = \"till-1\"\npath = \"{path}\"\n");
    let house = House::new(&(port("/dev/ttyA") + &port("/dev/ttyB")));
    let said = refused(&house.config());
    assert!(said.contains("till-1"), "{said}");
}

#[test]
fn a_second_process_on_the_same_data_folder_is_refused_by_name() {
    let mut house = House::new("");
    house.start();
    let other = House::new("");
    let text = std::fs::read_to_string(other.config()).expect("its config");
    let data = |h: &House| format!("{:?}", h.data_dir());
    std::fs::write(other.config(), text.replace(&data(&other), &data(&house))).expect("its config");
    let said = refused(&other.config());
    assert!(said.contains("process") && said.contains(house.data_dir().to_str().expect("a plain path")), "{said}");
    assert_eq!(house.get("/ready").status, 200, "the first goes on");
    house.stop();
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    let house = House::new("");
    std::fs::write(house.data_dir(), "a file where the folder should be").expect("a file");
    let said = refused(&house.config());
    assert!(said.contains(house.data_dir().to_str().expect("a plain path")), "{said}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let house = House::new("");
    let _taken = std::net::TcpListener::bind(house.http).expect("it was free");
    let said = refused(&house.config());
    assert!(said.contains(&house.http.to_string()), "{said}");
}

#[test]
fn a_serial_port_that_does_not_exist_stops_nothing_else() {
    let mut house = House::new("[[serial]]\nterminal = \"till-9\"\npath = \"/dev/no-such-port\"\n");
    house.start();
    assert_eq!(house.post("/api/v1/orders", "req-1", &order("order-1")).status, 201);
    crate::house::wait_for("the missing port to be reported", || house.log().contains("/dev/no-such-port").then_some(()));
    house.stop();
}

#[test]
fn an_unreachable_kafka_stops_nothing_and_ready_does_not_depend_on_it() {
    let mut house = House::new(&format!("[kafka]\nbrokers = \"{}\"\n", free_address()));
    house.start();
    assert_eq!(house.post("/api/v1/orders", "req-1", &order("order-1")).status, 201);
    crate::house::wait_for("the order to show in the queue", || (house.get("/health").json()["queued"] == 1).then_some(()));
    house.stop();
}

#[test]
fn malformed_requests_are_answered_and_store_nothing() {
    let mut house = House::new("");
    house.start();
    let post = |body: &[u8]| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "key-1")];
        http(house.http, "POST", "/api/v1/orders", &headers, body).expect("an answer")
    };
    assert_eq!(post(b"{").status, 400);
    assert_eq!(post(&[0xff, 0xfe]).status, 400);
    assert_eq!(post(b"[1]").status, 400);
    assert_eq!(post(br#"{"orderDetails": []}"#).status, 422);
    assert_eq!(post(br#"{"orderDetails": [{"price": "free"}]}"#).status, 422);
    assert_eq!(post(br#"{"orderDetails": [{"price": 1, "quantity": 1.5}]}"#).status, 422);
    assert_eq!(post(br#"{"orderDetails": [{"price": 1}], "ticket": 4}"#).status, 422, "the ticket is the gateway's to give");
    assert_eq!(post(&vec![b' '; 20_000]).status, 413);
    let deep = format!("{{\"orderDetails\": {}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    assert_eq!(post(deep.as_bytes()).status, 400);
    assert_eq!(house.get("/health").json()["queued"], 0);
    house.stop();
}

#[test]
fn an_order_id_of_slashes_and_wildcards_goes_all_the_way() {
    let mut house = House::new("");
    house.start();
    let id = "a/b/#/+/../ü%2F";
    assert_eq!(house.post("/api/v1/orders", "req-1", &order(id)).status, 201);
    let path = "/api/v1/orders/a%2Fb%2F%23%2F%2B%2F..%2F%C3%BC%252F";
    let found = house.get(path);
    assert_eq!((found.status, &found.json()["orderId"]), (200, &json!(id)), "{found:?}");
    let event = house.post(&format!("{path}/events"), "req-2", &json!({"type": "order.state_changed", "data": {"status": "READY"}}));
    assert_eq!(event.status, 201, "{event:?}");
    house.stop();
}

#[test]
fn the_same_request_again_is_a_duplicate_and_another_body_a_conflict() {
    let mut house = House::new("");
    house.start();
    let first = house.post("/api/v1/orders", "req-1", &order("order-1"));
    assert_eq!(first.header("Idempotency-Key"), Some("req-1"));
    assert_eq!(house.post("/api/v1/orders", "req-1", &order("order-1")).status, 200);
    let other = house.post("/api/v1/orders", "req-1", &order("order-2"));
    assert_eq!((other.status, &other.json()["code"]), (409, &json!("conflict")));
    let known = house.post("/api/v1/orders", "req-2", &order("order-1"));
    assert_eq!((known.status, &known.json()["code"]), (409, &json!("conflict")));
    house.stop();
}
