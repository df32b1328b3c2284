//! Dead letters: listed, shown, decided about.

use super::house::House;
use crate::ingress::http::Limits;
use serde_json::{Value, json};

#[tokio::test]
async fn dead_letters_are_listed_and_shown_with_their_events() {
    let house = House::open(Limits::default()).await;
    let list = house.get("/api/v1/dead-letters").await.json();
    let seqs =
        |list: &Value| list["deadLetters"].as_array().unwrap().iter().map(|letter| letter["seq"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((seqs(&list), &list["more"]), (vec![2, 3], &json!(false)));
    assert_eq!(seqs(&house.get("/api/v1/dead-letters?after=2").await.json()), [3]);
    let letter = house.get("/api/v1/dead-letters/2").await.json();
    assert_eq!(letter, list["deadLetters"][0]);
    assert_eq!((&letter["reason"], &letter["held"], &letter["attempts"]), (&json!("too large"), &json!(5), &json!(2)));
    assert_eq!(letter["event"]["data"].to_string(), r#"{"totalPrice":12.50}"#);
}

#[tokio::test]
async fn a_decision_is_carried_out_once() {
    let house = House::open(Limits::default()).await;
    let retry = json!({"decision": "retry"});
    let done = house.post("/api/v1/dead-letters/2", "k", &retry).await;
    assert_eq!((done.status.as_u16(), done.json()), (200, json!({"seq": 2, "decision": "retry", "appended": 6})));
    assert_eq!(house.post("/api/v1/dead-letters/2", "k", &retry).await.status, 404);
    let busy = house.post("/api/v1/dead-letters/3", "k", &json!({"decision": "discard"})).await;
    assert_eq!((busy.status.as_u16(), busy.header("retry-after")), (503, Some("1")));
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let house = House::open(Limits::default()).await;
    for (path, status) in [("/api/v1/dead-letters/1", 404), ("/api/v1/dead-letters/x", 422), ("/api/v1/dead-letters?before=1", 422)] {
        assert_eq!(house.get(path).await.status, status, "{path}");
    }
    for wish in [json!({"decision": "eat"}), json!({}), json!({"decision": "retry", "now": true})] {
        assert_eq!(house.post("/api/v1/dead-letters/2", "k", &wish).await.status, 422, "{wish}");
    }
}
