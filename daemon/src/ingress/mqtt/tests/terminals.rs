//! The terminals of the command line and of the demo, against the ingress.

use super::embedded::{broker, url};
use super::probe::Line;
use super::rig::{Ingress, Mood, Rig, access, eventually, order};
use crate::terminal::load::{Options, Target, run};
use crate::terminal::{EVENTS_QUEUED_MAX, Ends, Orders, Reply, TerminalEvent, mqtt};
use gateway::ids::Epoch;
use gateway::order::Status;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

fn load(port: u16, terminals: usize, count: u64) -> Options {
    let target = Target::Mqtt { access: access(&url(port)), gateway: "store-042".parse().unwrap() };
    Options { target, name: "till".parse().unwrap(), terminals, count, rate: None, patience: Duration::from_secs(20), quiet: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_counts_every_order_once() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let ingress = Ingress::start(&rig, access(&url(port)));
    let report = run(load(port, 8, 200)).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.submitted, report.stored, rig.seen.lock().unwrap().stored.len()), (200, 200, 200));
    assert!(report.answer_ms.p50 > 0.0 && report.answer_ms.p50 <= report.answer_ms.max);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let (port, rig) = (broker(), Rig::new(Mood::Prompt));
    let ingress = Ingress::start(&rig, access(&url(port)));
    eventually("it serves", || ingress.figures.connected.load(Relaxed)).await;
    let since = Instant::now();
    let report = run(Options { rate: Some(40.0), ..load(port, 4, 21) }).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(since.elapsed() >= Duration::from_millis(500), "the last of 21 is due after 20/40 s, not {:?}", since.elapsed());
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_met_busy_is_submitted_again_and_stored_once() {
    let (port, rig) = (broker(), Rig::new(Mood::BusyFirst));
    let ingress = Ingress::start(&rig, access(&url(port)));
    let report = run(load(port, 2, 10)).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(report.resubmitted >= 10, "{report}");
    assert_eq!(rig.seen.lock().unwrap().stored.len(), 10);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_keeps_its_order_through_a_dead_gateway_and_a_dead_line() {
    let (port, rig) = (broker(), Rig::new(Mood::Stuck));
    let line = Line::to(port).await;
    let ingress = Ingress::start(&rig, access(&url(port)));
    eventually("it serves", || ingress.figures.connected.load(Relaxed)).await;
    let (give, orders) = mpsc::channel(1);
    let (events, mut told) = mpsc::channel(EVENTS_QUEUED_MAX);
    let till = "till-1".parse().unwrap();
    let _terminal = mqtt::start(access(&url(line.port)), &"store-042".parse().unwrap(), till, Ends { orders, events });
    let first = Orders::new().unwrap().make();
    give.send(first.clone()).await.unwrap();
    eventually("the gateway has read it", || rig.submissions() == 1).await;

    // The gateway dies with the order in its hands. The next one tells a new boot, and the terminal does not wait for its time-out.
    ingress.kill();
    let reborn = Instant::now();
    let ingress = Ingress::start_as(&rig, access(&url(port)), Epoch(8));
    eventually("the order comes again", || rig.submissions() == 2).await;
    assert!(reborn.elapsed() < Duration::from_secs(4), "not by the time-out of 5 s: {:?}", reborn.elapsed());

    line.cut();
    rig.mood.send_replace(Mood::Prompt);
    line.lead_to(port);
    let (mut submitted, mut troubled) = (0, false);
    let reply = loop {
        match told.recv().await.unwrap().1 {
            TerminalEvent::Submitted { request_id } => {
                submitted += 1;
                assert_eq!(request_id, first.request_id);
            }
            TerminalEvent::Answered { request_id, reply, .. } => {
                assert_eq!(request_id, first.request_id);
                break reply;
            }
            TerminalEvent::Trouble { .. } => troubled = true,
            TerminalEvent::Resubmitted { .. } | TerminalEvent::AnsweredAgain { .. } | TerminalEvent::Status { .. } => {}
        }
    };
    assert!(matches!(reply, Reply::Stored { seq: 1, .. }), "{reply:?}");
    assert!(submitted == 1 && troubled);

    // It goes on telling statuses when there are no orders left.
    drop(give);
    rig.change(order("order-1", Some("till-1"), Status::Ready));
    let is_ready =
        |event: &TerminalEvent| matches!(event, TerminalEvent::Status { order_id, status } if order_id == "order-1" && status == "READY");
    while !is_ready(&told.recv().await.unwrap().1) {}
    ingress.stop().await;
}
