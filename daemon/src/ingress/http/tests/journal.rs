//! The journal: what happened to an order, and replays.

use super::house::House;
use crate::ingress::http::Limits;
use serde_json::json;

#[tokio::test]
async fn a_history_tells_in_the_order_of_time_what_happened_and_where_it_went() {
    let house = House::open(Limits::default()).await;
    let line = json!({"foodId": "f", "foodName": "Pizza", "price": 1.5, "quantity": 1, "discount": 0});
    let order = house.post("/api/v1/orders", "k-1", &json!({"orderId": "o-1", "userId": "u", "orderDetails": [line]})).await;
    assert_eq!(order.status, 201);
    let history = house.get("/api/v1/orders/o-1/history").await.json();
    let told: Vec<_> = history["history"].as_array().unwrap().iter().map(|entry| (&entry["seq"], &entry["delivery"])).collect();
    assert_eq!(told, [(&json!(9), &json!("delivered")), (&json!(10), &json!("queued"))]);
    let first = &history["history"][0];
    assert_eq!((&first["partition"], &first["offset"], &first["deliveredAt"]), (&json!(2), &json!(17), &json!("2024-01-01T12:00:00.100Z")));
    assert_eq!((&history["orderId"], &history["complete"]), (&json!("o-1"), &json!(true)));
    assert_eq!(house.get("/api/v1/orders/o-2/history").await.status, 404);
}

#[tokio::test]
async fn a_replay_goes_step_by_step_and_is_written_down_once() {
    let house = House::open(Limits::default()).await;
    let line = json!({"foodId": "f", "foodName": "Pizza", "price": 1.5, "quantity": 1, "discount": 0});
    house.post("/api/v1/orders", "k-1", &json!({"orderId": "o-1", "userId": "u", "orderDetails": [line]})).await;
    let mut wish = json!({"fromMs": 500, "toMs": 2_000, "orderId": "o-1", "by": "anna"});
    let first = house.post("/api/v1/replay", "k", &wish).await;
    let begins = "1970-01-01T00:00:01.000Z";
    assert_eq!((first.status.as_u16(), first.json()), (200, json!({"sent": 2, "next": 3, "incomplete": true, "journalBegins": begins})));
    wish["next"] = 3.into();
    assert_eq!(house.post("/api/v1/replay", "k", &wish).await.json()["next"], json!(null));
    let history = house.get("/api/v1/orders/o-1/history").await.json();
    let commands = history["history"].as_array().unwrap().iter().filter(|entry| entry["what"] == "command");
    assert_eq!(commands.map(|entry| (&entry["command"], &entry["by"])).collect::<Vec<_>>(), [(&json!("replay"), &json!("anna"))]);
}

#[tokio::test]
async fn a_replay_that_fails_says_how_far_it_came() {
    let house = House::open(Limits::default()).await;
    let failed = house.post("/api/v1/replay", "k", &json!({"fromMs": 13, "toMs": 14})).await;
    assert_eq!(failed.status, 503);
    assert_eq!(failed.json()["message"], "sent 2 events of this step, then: as the test asked");
    for wrong in [json!({"fromMs": 1}), json!({"fromMs": 1, "toMs": 2, "by": ""}), json!({"fromMs": -1, "toMs": 2}), json!({"all": true})] {
        assert_eq!(house.post("/api/v1/replay", "k", &wrong).await.status, 422, "{wrong}");
    }
}
