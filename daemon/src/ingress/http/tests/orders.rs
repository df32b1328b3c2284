//! Orders in, answers out.

use super::house::{House, order, pizza, soon};
use crate::ingress::http::{Limits, ORDERS_BYTES_MAX, reads};
use axum::http::Request;
use gateway::request::Code;
use http_body_util::Full;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn an_order_is_stored_once_and_a_repeat_gets_the_first_answer() {
    let house = House::open(Limits::default()).await;
    let first = house.post("/api/v1/orders", "01JC-1", &pizza()).await;
    assert_eq!(first.status, 201);
    assert_eq!(first.header("idempotency-key"), Some("01JC-1"));
    let mut answer = first.json();
    assert_eq!(answer["requestId"], "01JC-1");
    assert_eq!((&answer["result"], &answer["duplicate"], &answer["ticket"]), (&json!("stored"), &json!(false), &json!(1)));

    let again = house.post("/api/v1/orders", "01JC-1", &pizza()).await;
    assert_eq!(again.status, 200);
    answer["duplicate"] = json!(true);
    assert_eq!(again.json(), answer);

    let other = house.post("/api/v1/orders", "01JC-1", &json!({"orderDetails": [{"price": 1}]})).await;
    assert_eq!((other.status.as_u16(), &other.json()["code"]), (409, &json!("conflict")));
}

#[tokio::test]
async fn every_code_has_its_status_and_echoes_the_key() {
    let house = House::open(Limits::default()).await;
    for (code, status) in Code::ALL.into_iter().zip([422, 409, 429, 503, 413, 410, 404, 409, 403]) {
        let mut body = pizza();
        body["userId"] = json!(code.as_str());
        let reply = house.post("/api/v1/orders", "k1", &body).await;
        assert_eq!(reply.status, status, "{code:?}");
        assert_eq!(reply.header("idempotency-key"), Some("k1"), "{code:?}");
        assert_eq!(reply.header("retry-after"), matches!(code, Code::Busy | Code::Full).then_some("3"), "{code:?}");
        let answer = reply.json();
        assert_eq!((&answer["result"], &answer["code"], &answer["requestId"]), (&json!("rejected"), &json!(code.as_str()), &json!("k1")));
    }
}

#[tokio::test]
async fn a_request_without_a_key_gets_one() {
    let house = House::open(Limits::default()).await;
    let mut keys = Vec::new();
    for body in [pizza().to_string(), "not JSON".into()] {
        let request = Request::post("/api/v1/orders").header("content-type", "application/json");
        let reply = house.ask(request.body(Full::from(body)).unwrap()).await;
        let key = reply.header("idempotency-key").expect("a key was made").to_owned();
        assert_eq!(key.len(), 36, "a UUID");
        assert_eq!(reply.json()["requestId"], json!(key));
        keys.push(key);
    }
    assert_ne!(keys[0], keys[1]);
    let repeat = house.post("/api/v1/orders", &keys[0], &pizza()).await;
    assert_eq!(repeat.status, 200, "the made key is as good as an own one");
}

#[tokio::test]
async fn the_terminal_is_the_headers_or_http() {
    let house = House::open(Limits::default()).await;
    house.post("/api/v1/orders", "k1", &pizza()).await;
    let request = Request::post("/api/v1/orders").header("content-type", "application/json").header("x-terminal", "till-7");
    let reply = house.ask(request.header("idempotency-key", "k1").body(Full::from(pizza().to_string())).unwrap()).await;
    assert_eq!(reply.status, 201, "another terminal's request of the same id is another request");
    let terminals: Vec<_> = house.inside.seen.lock().unwrap().iter().map(|s| s.terminal.to_string()).collect();
    assert_eq!(terminals, ["http", "till-7"]);
}

#[tokio::test]
async fn the_same_key_while_the_first_is_in_flight_waits_for_it() {
    let house = Arc::new(House::open(Limits::default()).await);
    house.inside.hold.send_replace(true);
    let post = || {
        let house = house.clone();
        tokio::spawn(async move { house.post("/api/v1/orders", "k1", &pizza()).await.status.as_u16() })
    };
    let (one, other) = (post(), post());
    soon("both are with the event loop", async {
        // One is in the loop's hands, the other in its inbox.
        while house.inside.handle.calls.max_capacity() - house.inside.handle.calls.capacity() < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!one.is_finished() && !other.is_finished());
    house.inside.hold.send_replace(false);
    let mut statuses = [one.await.unwrap(), other.await.unwrap()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
}

#[tokio::test]
async fn a_late_decision_is_503_and_a_repeat_gets_it() {
    let house = House::open(Limits { answer_time: Duration::from_millis(100), ..Limits::default() }).await;
    house.inside.hold.send_replace(true);
    let late = house.post("/api/v1/orders", "k1", &pizza()).await;
    assert_eq!(late.status, 503);
    assert_eq!((late.header("idempotency-key"), late.header("retry-after")), (Some("k1"), Some("1")));
    assert_eq!((&late.json()["code"], &late.json()["requestId"]), (&json!("busy"), &json!("k1")));
    assert_eq!(house.usage.answers_late.get(), 1);
    assert_eq!(house.get("/api/v1/orders").await.status, 503);
    assert_eq!(house.get("/api/v1/orders/order-1").await.status, 503);

    house.inside.hold.send_replace(false);
    soon("the repeat is a duplicate", async {
        // The first try goes on without its client: once decided, it is what a repeat hears.
        while house.post("/api/v1/orders", "k1", &pizza()).await.status != 200 {}
        while house.get("/api/v1/orders/order-1").await.status != 200 {}
    })
    .await;
}

#[tokio::test]
async fn a_terminal_that_submits_too_fast_is_told_when_to_come_back() {
    let house = House::open(Limits { submits_per_second: 1, submits_burst: 2, ..Limits::default() }).await;
    let mut stored = 0;
    let refused = soon("a refusal", async {
        loop {
            let reply = house.post("/api/v1/orders", &format!("k{stored}"), &pizza()).await;
            if reply.status != 201 {
                return reply;
            }
            stored += 1;
        }
    })
    .await;
    assert!(stored >= 2, "a burst is taken");
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, Some("1")));
    assert_eq!((&refused.json()["code"], refused.header("idempotency-key")), (&json!("busy"), Some(format!("k{stored}").as_str())));
    assert_eq!(house.usage.rate_refused.get(), 1);
    assert_eq!(house.inside.seen.lock().unwrap().len(), stored, "it never reached the event loop");
}

#[tokio::test]
async fn an_order_id_may_hold_slashes_and_wildcards() {
    let house = House::open(Limits::default()).await;
    let id = "a/b/#/+/../* ü%2F";
    let path = "/api/v1/orders/a%2Fb%2F%23%2F%2B%2F..%2F*%20%C3%BC%252F";
    let mut body = pizza();
    body["orderId"] = json!(id);
    assert_eq!(house.post("/api/v1/orders", "k1", &body).await.json()["orderId"], id);
    assert_eq!(house.get(path).await.json()["orderId"], id);
    let event = json!({"type": "order.state_changed", "data": {"status": "READY"}});
    assert_eq!(house.post(&format!("{path}/events"), "k2", &event).await.json()["orderId"], id);
    let seen = house.inside.seen.lock().unwrap();
    assert!(seen.iter().all(|s| s.request.order_id.as_ref().is_some_and(|seen| seen.as_str() == id)));
}

#[tokio::test]
async fn orders_are_listed_by_status_and_read_one_by_one() {
    let house = House::open(Limits::default()).await;
    house.post("/api/v1/orders", "k1", &pizza()).await;
    let list = house.get("/api/v1/orders").await.json();
    assert_eq!((&list["orders"][0]["orderId"], &list["more"]), (&json!("order-1"), &json!(false)));
    assert_eq!(list["orders"][0]["totalPrice"].to_string(), "25.50", "digits stay as they are");
    assert_eq!(house.get("/api/v1/orders?status=CREATED").await.json()["orders"].as_array().map(Vec::len), Some(1));
    assert_eq!(house.get("/api/v1/orders?status=READY").await.json()["orders"], json!([]));
    let unknown = house.get("/api/v1/orders/nobody").await;
    assert_eq!((unknown.status.as_u16(), &unknown.json()["code"]), (404, &json!("unknown_order")));
}

#[test]
fn a_list_has_a_bound_in_bytes() {
    let mut large = order("large", 1);
    large.customer_name = Some("x".repeat(4_000));
    let text = reads::list(&vec![large; 100]);
    assert!(text.len() <= ORDERS_BYTES_MAX + 32);
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["more"], json!(true));
    assert!(list["orders"].as_array().unwrap().len() > 50);
}
