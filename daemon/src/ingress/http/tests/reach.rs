//! Who may see what, and how the server says how the gateway is.

use super::house::{House, Loop, Reply, pizza, soon};
use crate::config::HttpAllow;
use crate::display::{BoardText, Streams};
use crate::handle::State;
use crate::ingress::http::connection::Peer;
use crate::ingress::http::keys::{KeyRing, Keys};
use crate::ingress::http::pairing::Pairing;
use crate::ingress::http::rate::Rates;
use crate::ingress::http::roles::{Who, who};
use crate::ingress::http::routes::{router, routes};
use crate::ingress::http::{App, Limits, Settings};
use crate::ingress::mqtt;
use axum::body::Body;
use axum::http::Request;
use axum::{Extension, Router};
use gateway::Gauges;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The server as a client of this address meets it.
fn seen_from(remote: &str, inside: &Loop) -> Router {
    let allow = vec![HttpAllow { from: [10, 0, 4, 21].into(), terminal: "kiosk-3".parse().unwrap() }];
    let settings = Settings { keys: KeyRing::new(Keys { allow, ..Keys::default() }), ..Settings::default() };
    from(&server(settings, inside), remote)
}

/// A server as it is to a client of this address.
pub fn from(server: &Router, remote: &str) -> Router {
    server.clone().layer(Extension(Peer { remote: remote.parse().unwrap(), local: IpAddr::from([10, 0, 4, 1]) }))
}

/// A server without connections.
pub fn server(settings: Settings, inside: &Loop) -> Router {
    let (running, stopped) = watch::channel(false);
    let app = App {
        handle: inside.handle.clone(),
        rates: Mutex::new(Rates::new(Duration::from_millis(1), 100, 8)),
        pairing: Pairing::new(settings.keys.clone(), settings.pages_file.clone(), settings.usage.clone()),
        strikes: Mutex::new(Rates::new(Duration::from_secs(1), 1, 8)),
        counting: tokio::sync::Mutex::default(),
        public_board: Arc::new(BoardText::public()),
        house_board: Arc::new(BoardText::house()),
        public_streams: Streams::new(8, settings.usage.clone(), |usage| &usage.public_streams, stopped.clone()),
        house_streams: Streams::new(8, settings.usage.clone(), |usage| &usage.house_streams, stopped),
        settings,
        metrics_text: Arc::new(String::new),
    };
    // Streams end with it.
    router(&Arc::new(app)).layer(Extension(Arc::new(running)))
}

async fn ask(router: &Router, method: &str, path: &str) -> Reply {
    let request = Request::builder().method(method).uri(path).header("host", "10.0.4.1:8080").header("content-type", "application/json");
    let response = TowerToHyperService::new(router.clone()).call(request.body(Body::empty()).unwrap()).await.unwrap();
    // A stream has no end.
    let response = if response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream") {
        response.map(|_| Body::empty())
    } else {
        response
    };
    Reply::of(response).await
}

#[tokio::test]
async fn a_stranger_sees_the_customers_board_and_health_and_nothing_else() {
    let inside = Loop::start();
    inside.show(&["41"], &["42"]);
    let (stranger, kiosk) = (seen_from("10.0.4.22", &inside), seen_from("10.0.4.21", &inside));
    let mut public = Vec::new();
    for route in routes() {
        for method in route.methods {
            let path = route.path.replace("{orderId}", "o1").replace("{file}", "board.js");
            let (to_stranger, to_kiosk) =
                (ask(&stranger, &method.to_uppercase(), &path).await, ask(&kiosk, &method.to_uppercase(), &path).await);
            assert_ne!(to_kiosk.status, 401, "{path}");
            if who(method, route.path) == Who::Anybody {
                // The form is refused for having no form's type, before anything else.
                assert_eq!(to_stranger.status, if *method == "post" { 415 } else { 200 }, "{path}");
                let text = String::from_utf8_lossy(&to_stranger.body).into_owned();
                assert!(!text.contains("order/41"), "{path} shows an order id");
                public.push(route.path);
            } else if matches!(route.path, "/kitchen" | "/operations") {
                assert_eq!(
                    (to_stranger.status.as_u16(), to_stranger.header("location")),
                    (303, Some(format!("/pair?next=%2F{}", &path[1..]).as_str()))
                );
            } else {
                assert_eq!(to_stranger.status, 401, "{path}");
                assert!(to_stranger.headers.contains_key("www-authenticate"));
                assert_eq!(to_stranger.json()["code"], "unauthorized");
            }
        }
    }
    assert_eq!(public, ["/health", "/", "/board.json", "/board/stream", "/pair", "/pair", "/static/{file}"]);
    assert!(inside.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn health_and_readiness_do_not_depend_on_kafka() {
    let mut house = House::open(Limits::default()).await;
    let gauges = Gauges { queued: 7, oldest_queued_ms: Some(1_000), ..Gauges::default() };
    house.inside.state.send_replace(Arc::new(State { accepting: true, kafka_up: false, gauges, ..State::default() }));
    let health = house.get("/health").await.json();
    assert_eq!((&health["status"], &health["kafka"], &health["queued"]), (&json!("healthy"), &json!("down"), &json!(7)));
    assert_eq!((&health["service"], &health["version"]), (&json!("dumbwaiter"), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(health["oldestQueuedMs"].as_u64().unwrap() > 1_000_000_000, "an age, not a date");
    assert_eq!(house.get("/ready").await.status, 200);
    assert_eq!(house.get("/api/v1/state").await.json()["queued"], 7);

    house.inside.state.send_replace(Arc::new(State { accepting: false, kafka_up: true, ..State::default() }));
    let health = house.get("/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["status"]), (200, &json!("degraded")));
    assert_eq!(health.json()["oldestQueuedMs"], json!(null));
    let ready = house.get("/ready").await;
    assert_eq!((ready.status.as_u16(), ready.header("retry-after")), (503, Some("1")));
    house.close().await;
}

#[tokio::test]
async fn health_says_how_the_line_to_the_broker_is() {
    let mqtt = Arc::new(mqtt::Figures::default());
    let house = House::open_with(Settings { mqtt: Some(mqtt.clone()), ..Settings::default() }).await;
    assert_eq!(house.get("/health").await.json()["mqtt"], "down");
    mqtt.connected.store(true, Relaxed);
    assert_eq!(house.get("/health").await.json()["mqtt"], "up");
    mqtt.refusing.store(true, Relaxed);
    assert_eq!(house.get("/health").await.json()["mqtt"], "refusing");
    let without = House::open(Limits::default()).await;
    assert_eq!(without.get("/health").await.json().get("mqtt"), None);
}

#[tokio::test]
async fn a_request_that_meets_the_end_is_told_to_come_back_not_to_slow_down() {
    let house = House::open(Limits::default()).await;
    house.inside.end().await;
    let reply = house.post("/api/v1/orders", "r-1", &pizza()).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after"), &reply.json()["code"]), (503, Some("2"), &json!("busy")));
}

#[tokio::test]
async fn metrics_are_passed_on_in_their_format() {
    let house = House::open(Limits::default()).await;
    let metrics = house.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert_eq!(metrics.body, "dumbwaiter_outbox_events 3\n# EOF\n");
}

#[tokio::test]
async fn pages_are_told_to_run_nothing_but_ours() {
    let house = House::open(Limits::default()).await;
    for path in ["/", "/kitchen", "/operations"] {
        let page = house.get(path).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(!String::from_utf8_lossy(&page.body).contains("{{"), "{path} names its build");
    }
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_end_and_cuts_streams() {
    let mut house = House::open(Limits::default()).await;
    let mut events = house.listen("/board/stream").await;
    events.board().await.expect("the board");
    house.close().await;
    assert!(events.next().await.is_none());
    soon("nobody listens", async { assert!(tokio::net::TcpStream::connect(house.address).await.is_err()) }).await;
}
