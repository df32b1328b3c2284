//! kill -9 of a process that stores loses nothing that it reported stored, and leaves no batch in parts.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests")]

use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Epoch, Name, OrderId, RequestKey, Seq};
use gateway::io::{Change, Counters, Remembered, Wanted};
use gateway::order::{Moment, Projection};
use gateway::request::EventType;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use store::{Room, SledDisk, SledOptions, Store};

/// Says to the child where its store is; without it the child's test does nothing.
const DIR: &str = "DUMBWAITER_KILL_TEST_DIR";
const KILLS: u64 = 12;
/// Every so many orders the child forgets the older half of its queue.
const FORGET_EVERY: u64 = 50;

fn open(dir: &Path) -> (Store<SledDisk>, gateway::io::Opened) {
    let room = Room { floor_bytes: 0, reserve_bytes: 0, ballast_bytes: 0 };
    let disk = SledDisk::open(SledOptions { room, allow_volatile: true, ..SledOptions::new(dir) }).unwrap();
    Store::open(disk, "store-042".parse().unwrap()).unwrap()
}

fn request(seq: u64) -> RequestKey {
    RequestKey { terminal: "till-1".parse::<Name>().unwrap(), request_id: format!("r{seq}").parse().unwrap() }
}

fn order_id(seq: u64) -> OrderId {
    format!("order-{seq}").parse().unwrap()
}

/// All that one order stores.
fn order(seq: u64) -> Vec<Change> {
    let event = OrderEvent {
        epoch: Epoch(7),
        request: request(seq),
        id: [1; 16],
        event_type: EventType::Created,
        order_id: order_id(seq),
        user_id: None,
        occurred_at_ms: 0,
        clock: Clock::Unset,
        data: "x".repeat(400),
    };
    let remembered =
        Remembered { body_hash: [0; 16], order_id: order_id(seq), event_id: [1; 16], ticket: None, seq: Seq(seq), stored_run_ms: 0 };
    let projection = Projection::new(order_id(seq), |_| None, vec![], 0, Moment { wall_ms: 0, run_ms: 0 });
    vec![
        Change::Enqueue(Seq(seq), Arc::new(event)),
        Change::Remember(request(seq), remembered),
        Change::Project(Arc::new(projection)),
        Change::Counters(Counters { running_ms: seq, ..Counters::default() }),
    ]
}

#[test]
fn child_that_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let (mut store, opened) = open(Path::new(&dir));
    let mut stdout = std::io::stdout();
    for seq in opened.next_seq.0.. {
        let mut batch = order(seq);
        if seq % FORGET_EVERY == 0 {
            batch.push(Change::Forget { from: Seq(1), upto: Seq(seq - FORGET_EVERY / 2) });
        }
        store.apply(&batch).unwrap();
        // One write, so that a kill never leaves half a number.
        stdout.write_all(format!("\nstored {seq}\n").as_bytes()).unwrap();
    }
}

#[test]
fn kill_9_loses_nothing_that_was_reported_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut reported = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stored = |line: std::io::Result<String>| line.unwrap().strip_prefix("stored ").map(|seq| seq.parse::<u64>().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed after a different number of orders each time, wherever the child is by then.
        let until = 1 + usize::try_from(kill * 7).unwrap();
        reported = lines.by_ref().filter_map(stored).take(until).last().unwrap();
        child.kill().unwrap();
        reported = lines.filter_map(stored).last().unwrap_or(reported);
        child.wait().unwrap();

        let (store, opened) = open(dir.path());
        assert!(opened.next_seq.0 > reported, "seq {reported} was reported, {} is the next", opened.next_seq);
        assert!(opened.next_seq.0 <= reported + 2, "at most the order in flight is there without a report");
        assert_eq!(opened.counters.running_ms, opened.next_seq.0 - 1, "the last batch is there in all its parts");
        for seq in 1..opened.next_seq.0 {
            let wanted = Wanted { request: Some(request(seq)), order: Some(order_id(seq)), session: None, dead_letter: None };
            let found = store.load(&wanted).unwrap();
            assert!(found.request.is_some() && found.order.is_some(), "order {seq} is whole");
        }
        let queued = store.read_head(opened.progress.next(), usize::MAX, usize::MAX).unwrap();
        assert_eq!(queued.len() as u64, opened.next_seq.0 - 1 - opened.progress.0);
    }
    assert!(reported > KILLS);
}
