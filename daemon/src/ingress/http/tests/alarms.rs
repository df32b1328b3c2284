//! Alarms: who has seen one.

use super::house::{House, pizza};
use crate::ingress::http::Limits;
use serde_json::json;

/// Where the alarm of a new order is acknowledged.
async fn acknowledge(house: &House) -> String {
    let order = house.post("/api/v1/orders", "k-1", &pizza()).await.json();
    format!("/api/v1/orders/{}/acknowledge", order["orderId"].as_str().unwrap())
}

#[tokio::test]
async fn who_has_seen_an_alarm_is_written_down() {
    let house = House::open(Limits::default()).await;
    let path = acknowledge(&house).await;
    let order = path.split('/').nth(4).unwrap();
    let seen = house.post(&path, "k", &json!({})).await;
    assert_eq!((seen.status.as_u16(), seen.json()), (200, json!({"orderId": order, "acknowledged": true})));
    assert_eq!(house.post(&path, "k", &json!({"by": "anna"})).await.status, 200);
    let history = house.get(&format!("/api/v1/orders/{order}/history")).await.json();
    let commands = history["history"].as_array().unwrap().iter().filter(|entry| entry["what"] == "command");
    let told: Vec<_> = commands.map(|entry| (&entry["command"], &entry["by"])).collect();
    assert_eq!(told, [(&json!("acknowledge"), &json!("http")), (&json!("acknowledge"), &json!("anna"))]);
}

#[tokio::test]
async fn an_alarm_of_nobody_and_a_name_that_is_none_are_refused() {
    let house = House::open(Limits::default()).await;
    assert_eq!(house.post("/api/v1/orders/order-9/acknowledge", "k", &json!({})).await.status, 404);
    let path = acknowledge(&house).await;
    for wrong in [json!({"by": null}), json!({"by": ""}), json!({"who": "anna"}), json!([])] {
        assert_eq!(house.post(&path, "k", &wrong).await.status, 422, "{wrong}");
    }
}
