//! The board, live.

use super::house::{House, soon};
use crate::ingress::http::Limits;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_listener_sees_the_board_and_every_change_but_at_most_one_a_second() {
    let house = House::open(Limits::default()).await;
    house.inside.show(&["41"], &[]);
    let before = Instant::now();
    let mut events = house.listen("/api/v1/stream").await;
    let board = events.board().await.unwrap();
    assert_eq!(board, json!({"preparing": [{"orderId": "order/41", "number": "41", "status": "PREPARING"}], "ready": []}));

    for n in 0..100 {
        house.inside.show(&[&n.to_string()], &[]);
    }
    house.inside.show(&[], &["41"]);
    let board = events.board().await.unwrap();
    assert!(before.elapsed() > Duration::from_secs(1), "a second between two boards");
    assert_eq!(board["ready"][0]["number"], "41", "the newest, and none of those in between");
    assert_eq!(board["preparing"], json!([]));
}

#[tokio::test]
async fn the_customers_stream_holds_numbers_and_statuses_only() {
    let house = House::open(Limits::default()).await;
    house.inside.show(&["41"], &["40"]);
    let mut events = house.listen("/board/stream").await;
    let (name, alive) = events.next().await.unwrap();
    let streamed = events.board().await.unwrap();
    assert_eq!((name.as_str(), &alive["build"]), ("alive", &streamed["build"]), "known before anything else");
    assert_eq!(streamed["preparing"], json!([{"number": "41", "status": "PREPARING"}]));
    assert_eq!(streamed["ready"], json!([{"number": "40", "status": "READY"}]));
    assert_eq!(streamed, house.get("/board.json").await.json());
    let page = house.get("/").await;
    let build = streamed["build"].as_str().unwrap();
    assert!(String::from_utf8_lossy(&page.body).contains(&format!("data-build=\"{build}\"")), "a page knows its own build");
}

#[tokio::test]
async fn streams_are_bounded_and_a_place_comes_back() {
    let house = House::open(Limits { streams: 1, ..Limits::default() }).await;
    let mut first = house.listen("/board/stream").await;
    first.next().await.unwrap();
    let refused = house.get("/board/stream").await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, Some("1")));
    assert_eq!((house.usage.public_streams.used.get(), house.usage.public_streams.refused.get()), (1, 1));
    drop(first);
    soon("the place comes back", async {
        while house.usage.public_streams.used.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    house.listen("/board/stream").await.next().await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_the_event_loop() {
    let mut house = House::open(Limits::default()).await;
    let mut events = house.listen("/board/stream").await;
    events.board().await.unwrap();
    house.inside.end_board();
    assert!(events.next().await.is_none(), "the page comes back when there is something to hear");
    house.close().await;
}
