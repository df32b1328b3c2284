//! What the kitchen's page goes by.

use super::house::House;
use crate::config::{HttpAllow, Kitchen};
use crate::ingress::http::Settings;
use crate::ingress::http::keys::{KeyRing, Keys};
use serde_json::json;

#[tokio::test]
async fn the_page_is_told_its_limits_and_the_name_of_an_admitted_address() {
    let kitchen = Kitchen { warn_minutes: 3, late_minutes: 7 };
    let house = House::open_with(Settings { kitchen, ..Settings::default() }).await;
    let own = house.get("/api/v1/kitchen").await.json();
    assert_eq!(own, json!({"warnMinutes": 3, "lateMinutes": 7, "terminal": null, "printers": []}), "a page on this computer names itself");
    let allow = vec![HttpAllow { from: house.address.ip(), terminal: "kitchen-2".parse().unwrap() }];
    let house = House::open_with(Settings { keys: KeyRing::new(Keys { allow, ..Keys::default() }), ..Settings::default() }).await;
    assert_eq!(house.get("/api/v1/kitchen").await.json()["terminal"], "kitchen-2");
}
