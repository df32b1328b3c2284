//! Against rumqttd inside the test process.

use super::probe::{Line, Probe, free_port};
use super::rig::{Ingress, Mood, Rig, access, eventually, order, request};
use crate::config::{Config, Environment};
use crate::ingress::mqtt::intake::TERMINAL_IN_FLIGHT_MAX;
use crate::ingress::mqtt::statuses::STATUSES_RETAINED_MAX;
use crate::metrics::Metrics;
use gateway::board::Board;
use gateway::order::Status;
use gateway::request::{Code, REQUEST_BYTES_MAX};
use rumqttd::{ConnectionSettings, RouterConfig, ServerSettings};
use serde_json::json;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::atomic::Ordering::Relaxed;

/// Starts a broker; it ends with the test process.
pub fn broker() -> u16 {
    let port = free_port();
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 200,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let server = ServerSettings { name: "test".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    let router = RouterConfig {
        max_connections: 100,
        max_outgoing_packet_count: 200,
        max_segment_size: 1 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let v5 = Some(HashMap::from([("test".to_owned(), server)]));
    let config = rumqttd::Config { id: 0, router, v5, ..rumqttd::Config::default() };
    std::thread::spawn(move || drop(rumqttd::Broker::new(config).start()));
    port
}

pub fn url(port: u16) -> String {
    format!("mqtt://127.0.0.1:{port}")
}

fn metrics() -> Metrics {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dumbwaiter.toml");
    std::fs::write(&path, "gateway.id = 'store-042'").unwrap();
    Metrics::new(&Config::load(&path, &Environment::default()).unwrap())
}

const GATEWAY: &str = "ord/v1/store-042/gateway";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_on_its_terminals_topic_and_a_repeat_is_marked() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/till-1/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    let state = till.json_with(GATEWAY, |state| state["online"] == true).await;
    assert_eq!(state, json!({"online": true, "accepting": true, "maxBytes": 16384, "boot": "0000000000000007"}));

    till.publish("ord/v1/store-042/t/till-1/submit", request("r-1"), false).await;
    let first = till.answer("till-1", "r-1").await;
    assert_eq!((&first["result"], &first["duplicate"], &first["seq"]), (&json!("stored"), &json!(false), &json!(1)));
    till.publish("ord/v1/store-042/t/till-1/submit", request("r-1"), false).await;
    let again = till.answer("till-1", "r-1").await;
    assert_eq!((&again["duplicate"], &again["eventId"]), (&json!(true), &first["eventId"]));
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_input_is_answered_where_it_can_be_and_stops_nothing() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/+/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    till.json_with(GATEWAY, |state| state["online"] == true).await;

    let answers = "ord/v1/store-042/t/till-1/answer";
    let too_large = format!(r#"{{"requestId":"r-2","data":"{}"}}"#, "x".repeat(REQUEST_BYTES_MAX));
    let cases: [(Vec<u8>, &str); 7] = [
        (b"".into(), "invalid"),
        (b"{".into(), "invalid"),
        (b"\xff\xfe\x00".into(), "invalid"),
        (b"[1,2]".into(), "invalid"),
        (br#"{"data":{}}"#.into(), "invalid"),
        (too_large.into(), "too_large"),
        ("[".repeat(8_000).into(), "invalid"),
    ];
    for (payload, code) in cases {
        till.publish("ord/v1/store-042/t/till-1/submit", payload, false).await;
        let answer = till.json(answers).await;
        assert_eq!((&answer["result"], &answer["code"], &answer["requestId"]), (&json!("rejected"), &json!(code), &json!(null)));
    }
    // The id is echoed where it can be read, whatever else is wrong.
    till.publish("ord/v1/store-042/t/till-1/submit", r#"{"requestId":"r-9","colour":"red","data":{}}"#, false).await;
    assert_eq!(till.answer("till-1", "r-9").await["code"], "invalid");
    // No name, no answer: the topic would be somebody else's.
    for terminal in ["tïll", "a b", &"x".repeat(49), ""] {
        till.publish(&format!("ord/v1/store-042/t/{terminal}/submit"), request("r-3"), false).await;
    }
    eventually("the nameless are counted", || ingress.figures.ignored.load(Relaxed) == 4).await;

    till.publish("ord/v1/store-042/t/till-1/submit", request("r-4"), false).await;
    assert_eq!(till.answer("till-1", "r-4").await["result"], "stored");
    let metrics = metrics();
    ingress.figures.report_to(&metrics);
    // Twice: a count is added once, however often it is read.
    let first = metrics.encode();
    let text = metrics.encode();
    assert!(first.contains(r#"code="invalid"} 7"#));
    let refused = r#"dumbwaiter_requests_total{ingress="mqtt",result="rejected",code="invalid"} 7"#;
    assert!(text.contains(refused) && text.contains(r#"dumbwaiter_bound_max{bound="mqtt_requests_in_flight"} 512"#), "{text}");
    for line in [r#"dumbwaiter_mqtt_messages_dropped_total{reason="no_terminal"} 4"#, "dumbwaiter_mqtt_up 1", "dumbwaiter_mqtt_refusing 0"]
    {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let refused: HashMap<Code, u64> = ingress.figures.refused().collect();
    assert_eq!((refused[&Code::Invalid], refused[&Code::TooLarge], rig.submissions()), (7, 1, 1));
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_submit_is_refused_never_stored_and_cleared() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let submit = "ord/v1/store-042/t/till-1/submit";
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/till-1/answer"]).await;
    till.publish(submit, request("r-1"), true).await;
    let mut witness = Probe::connect(port, "witness", &[submit]).await;
    assert!(witness.message(submit).await.retain, "the broker keeps it");

    let ingress = Ingress::start(&rig, access(&url(port)));
    let answer = till.answer("till-1", "r-1").await;
    assert_eq!((&answer["result"], &answer["code"]), (&json!("rejected"), &json!("invalid")));
    assert!(witness.message(submit).await.payload.is_empty(), "it is cleared");
    assert_eq!(rig.submissions(), 0);

    // Nothing of it is left for the next one who subscribes.
    let mut late = Probe::connect(port, "late", &[submit]).await;
    till.publish(submit, request("r-2"), false).await;
    let first = late.message(submit).await;
    assert_eq!((first.retain, first.payload.as_ref()), (false, request("r-2").as_bytes()));
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gone_mad_hears_busy_and_the_others_hear_nothing_of_it() {
    let (port, rig) = (broker(), Rig::new(Mood::Stuck));
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/+/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    till.json_with(GATEWAY, |state| state["online"] == true).await;

    for n in 0..TERMINAL_IN_FLIGHT_MAX + 20 {
        till.publish("ord/v1/store-042/t/mad/submit", request(&format!("r-{n}")), false).await;
    }
    for n in TERMINAL_IN_FLIGHT_MAX..TERMINAL_IN_FLIGHT_MAX + 20 {
        let answer = till.answer("mad", &format!("r-{n}")).await;
        assert_eq!((&answer["code"], &answer["retryAfterMs"]), (&json!("busy"), &json!(2000)));
    }
    till.publish("ord/v1/store-042/t/till-1/submit", request("r-1"), false).await;
    eventually("the other terminal's request is in flight", || rig.submissions() == TERMINAL_IN_FLIGHT_MAX + 1).await;
    let figures = &ingress.figures;
    assert_eq!(figures.terminal_most.load(Ordering::Relaxed), TERMINAL_IN_FLIGHT_MAX);
    assert_eq!(figures.terminal_refused.load(Ordering::Relaxed), 20);
    rig.mood.send_replace(Mood::Prompt);
    assert_eq!(till.answer("till-1", "r-1").await["result"], "stored");
    // After busy the same id is welcome.
    let refused = format!("r-{TERMINAL_IN_FLIGHT_MAX}");
    till.publish("ord/v1/store-042/t/mad/submit", request(&refused), false).await;
    assert_eq!(till.answer("mad", &refused).await["result"], "stored");
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_broken_line_took_is_given_over_the_next() {
    let (first, rig) = (broker(), Rig::new(Mood::Stuck));
    let line = Line::to(first).await;
    let mut till = Probe::connect(first, "till-1", &["ord/v1/store-042/t/till-1/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&url(line.port)));
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    till.publish("ord/v1/store-042/t/till-1/submit", request("r-1"), false).await;
    eventually("the request is in flight", || rig.submissions() == 1).await;

    line.cut();
    eventually("the ingress notices", || !ingress.figures.connected.load(Relaxed)).await;
    rig.mood.send_replace(Mood::Prompt);
    // The broker starts anew, with nothing of before: another one at the same address.
    let second = broker();
    let mut till = Probe::connect(second, "till-1", &["ord/v1/store-042/t/till-1/answer", GATEWAY]).await;
    line.lead_to(second);
    assert_eq!(till.answer("till-1", "r-1").await["result"], "stored");
    till.publish("ord/v1/store-042/t/till-1/submit", request("r-2"), false).await;
    assert_eq!(till.answer("till-1", "r-2").await["seq"], 2);
    assert_eq!(ingress.figures.connections.load(Relaxed), 2);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_retained_while_the_order_is_open_and_its_end_is_seen_before_it_is_cleared() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let topic = "ord/v1/store-042/t/till-1/status/a%2Fb%23";
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/till-1/status/#"]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    eventually("it serves", || ingress.figures.connected.load(Relaxed)).await;
    rig.change(order("a/b#", Some("till-1"), Status::Created));
    assert_eq!(till.json(topic).await["status"], "CREATED");
    rig.change(order("a/b#", Some("till-1"), Status::Ready));
    let ready = till.json(topic).await;
    assert_eq!((&ready["status"], &ready["orderId"]), (&json!("READY"), &json!("a/b#")));
    let mut late = Probe::connect(port, "late", &["ord/v1/store-042/t/till-1/status/#"]).await;
    let kept = late.message(topic).await;
    assert!(kept.retain, "who comes later sees it");

    rig.change(order("a/b#", Some("till-1"), Status::Delivered));
    assert_eq!(till.json(topic).await["status"], "DELIVERED");
    assert!(till.message(topic).await.payload.is_empty());
    eventually("nothing is retained", || ingress.figures.statuses_retained.load(Relaxed) == 0).await;
    let mut last = Probe::connect(port, "last", &["ord/v1/store-042/t/till-1/status/#"]).await;
    rig.change(order("next", Some("till-1"), Status::Created));
    assert_eq!(last.message("ord/v1/store-042/t/till-1/status/next").await.payload.first(), Some(&b'{'));
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_told_from_the_store_after_a_connect_and_unknown_ones_cleared() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    rig.change(order("open", Some("till-1"), Status::Preparing));
    rig.change(order("ended", Some("till-1"), Status::Delivered));
    rig.change(order("from-the-centre", None, Status::Confirmed));
    let statuses = "ord/v1/store-042/t/till-1/status";
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/+/status/#"]).await;
    for stale in ["open", "ended", "unknown", "no/order"] {
        till.publish(&format!("{statuses}/{stale}"), r#"{"status":"CREATED"}"#, true).await;
        assert_eq!(till.json(&format!("{statuses}/{stale}")).await["status"], "CREATED");
    }
    let ingress = Ingress::start(&rig, access(&url(port)));
    let mut late = Probe::connect(port, "witness", &["ord/v1/store-042/t/+/status/#"]).await;
    // In the order in which they may come: each is waited for on its own.
    assert_eq!(late.json_with(&format!("{statuses}/open"), |s| s["status"] == "PREPARING").await["orderId"], "open");
    eventually("the stale ones are cleared", || ingress.figures.statuses_cleared.load(Relaxed) == 2).await;
    assert_eq!(till.json_with(&format!("{statuses}/ended"), |s| s["status"] == "DELIVERED").await["orderId"], "ended");
    assert!(till.message(&format!("{statuses}/ended")).await.payload.is_empty());
    let mut last = Probe::connect(port, "last", &["ord/v1/store-042/t/+/status/#"]).await;
    rig.change(order("open", Some("till-1"), Status::Ready));
    let first = last.message(&format!("{statuses}/open")).await;
    assert!(first.retain);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_the_line_was_down_is_told_when_it_is_back() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let line = Line::to(port).await;
    let topic = |order: &str| format!("ord/v1/store-042/t/till-1/status/{order}");
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/till-1/status/#"]).await;
    let ingress = Ingress::start(&rig, access(&url(line.port)));
    eventually("it serves", || ingress.figures.connected.load(Relaxed)).await;
    rig.change(order("a", Some("till-1"), Status::Created));
    rig.change(order("b", Some("till-1"), Status::Created));
    till.json(&topic("b")).await;
    line.cut();
    eventually("the ingress notices", || !ingress.figures.connected.load(Relaxed)).await;
    rig.change(order("a", Some("till-1"), Status::Cancelled));
    rig.change(order("b", Some("till-1"), Status::Ready));
    line.lead_to(port);
    let mut watcher = Probe::connect(port, "watcher", &["ord/v1/store-042/t/till-1/status/#"]).await;
    assert_eq!(till.json_with(&topic("a"), |s| s["status"] == "CANCELLED").await["orderId"], "a");
    assert!(till.message(&topic("a")).await.payload.is_empty());
    assert_eq!(watcher.json_with(&topic("b"), |s| s["status"] == "READY").await["orderId"], "b");
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_retains_no_more_statuses_than_the_bound() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/till-1/status/o-0"]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    eventually("it serves", || ingress.figures.connected.load(Relaxed)).await;
    for n in 0..STATUSES_RETAINED_MAX + 10 {
        rig.change(order(&format!("o-{n}"), Some("till-1"), Status::Created));
        if n % 500 == 0 {
            eventually("it keeps up", || ingress.figures.statuses_retained.load(Relaxed) > n.min(STATUSES_RETAINED_MAX - 1)).await;
        }
    }
    assert_eq!(till.json("ord/v1/store-042/t/till-1/status/o-0").await["status"], "CREATED");
    assert!(till.message("ord/v1/store-042/t/till-1/status/o-0").await.payload.is_empty(), "the oldest goes first");
    eventually("the oldest are cleared", || ingress.figures.statuses_crowded_out.load(Relaxed) == 10).await;
    assert_eq!(ingress.figures.statuses_retained.load(Relaxed), STATUSES_RETAINED_MAX);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_state_is_retained_and_follows_what_it_accepts_and_its_end() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let mut till = Probe::connect(port, "till-1", &[GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    rig.state.send_replace(Arc::new(crate::handle::State { accepting: false, ..Default::default() }));
    till.json_with(GATEWAY, |state| state["online"] == true && state["accepting"] == false).await;
    let mut late = Probe::connect(port, "late", &[GATEWAY]).await;
    let state = late.message(GATEWAY).await;
    assert!(state.retain);
    ingress.stop().await;
    till.json_with(GATEWAY, |state| state["online"] == false && state["accepting"] == false).await;

    // A gateway that dies says nothing: its will does.
    rig.state.send_replace(Arc::new(crate::handle::State { accepting: true, ..Default::default() }));
    let ingress = Ingress::start(&rig, access(&url(port)));
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    ingress.kill();
    till.json_with(GATEWAY, |state| state["online"] == false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_answered_before_the_goodbye() {
    let (port, rig) = (broker(), Rig::new(Mood::Stuck));
    let mut till = Probe::connect(port, "till-1", &["ord/v1/store-042/t/till-1/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    till.publish("ord/v1/store-042/t/till-1/submit", request("r-1"), false).await;
    eventually("the request is in flight", || rig.submissions() == 1).await;
    let heard = Arc::clone(&ingress.stopping);
    let stopping = tokio::spawn(ingress.stop());
    eventually("it is told to stop", || heard.load(Relaxed)).await;
    rig.mood.send_replace(Mood::Prompt);
    assert_eq!(till.answer("till-1", "r-1").await["result"], "stored");
    till.json_with(GATEWAY, |state| state["online"] == false).await;
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_is_retained_and_published_at_most_once_a_second() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let topic = "ord/v1/store-042/board";
    let mut display = Probe::connect(port, "display", &[topic]).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    assert_eq!(display.json(topic).await, json!({"preparing": [], "ready": []}));
    let since = std::time::Instant::now();
    for n in 1..=50 {
        let open = [order(&format!("o-{n}"), Some("till-1"), Status::Ready)];
        rig.board.send_replace(Arc::new(Board::of(open.iter())));
        tokio::task::yield_now().await;
    }
    let mut messages = 0;
    loop {
        messages += 1;
        if display.json(topic).await["ready"][0]["orderId"] == "o-50" {
            break;
        }
    }
    assert!(messages as f64 <= 1.0 + since.elapsed().as_secs_f64().ceil(), "{messages} boards in {:?}", since.elapsed());
    let mut late = Probe::connect(port, "late", &[topic]).await;
    assert!(late.message(topic).await.retain);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_that_are_there_are_counted_and_their_wills_heard() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let till = Probe::connect(port, "till-1", &[]).await;
    till.publish("ord/v1/store-042/t/till-1/state", r#"{"online":true}"#, true).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    eventually("one is there", || ingress.figures.terminals_online.load(Relaxed) == 1).await;
    till.publish("ord/v1/store-042/t/till-2/state", r#"{"online":true}"#, true).await;
    eventually("two are there", || ingress.figures.terminals_online.load(Relaxed) == 2).await;
    till.publish("ord/v1/store-042/t/till-1/state", r#"{"online":false}"#, true).await;
    eventually("one has gone", || ingress.figures.terminals_offline.load(Relaxed) == 1).await;
    let figures = Arc::clone(&ingress.figures);
    ingress.stop().await;
    assert_eq!(figures.terminals_online.load(Relaxed), 0);
}
