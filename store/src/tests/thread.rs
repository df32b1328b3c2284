//! The store on its threads, over a real disk whose syncs the test holds and releases.

use super::samples;
use super::sled::options;
use crate::thread::{DURABLE_READS_MAX, StoreReport, StoreThread};
use crate::{NotTaken, SledDisk, SledOptions, Store, SyncHook};
use gateway::ids::{CommitId, LoadId, Seq};
use gateway::io::{Change, CommitFailure, Old, Wanted};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

/// A disk whose syncs wait for the test, once it took hold.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Option<Held>>>);

/// The disk's end of a gate.
type Held = (Sender<()>, Receiver<io::Result<()>>);

/// The test's end of a gate: a sync has begun; let it return.
struct Hold {
    begun: Receiver<()>,
    result: Sender<io::Result<()>>,
}

impl Gate {
    fn hook(&self) -> SyncHook {
        let gate = Arc::clone(&self.0);
        Arc::new(move || match &*gate.lock().unwrap() {
            Some((begun, result)) => {
                begun.send(()).unwrap();
                result.recv().unwrap()
            }
            None => Ok(()),
        })
    }

    fn hold(&self) -> Hold {
        let ((begin, begun), (result, results)) = (channel(), channel());
        *self.0.lock().unwrap() = Some((begin, results));
        Hold { begun, result }
    }

    fn release(&self) {
        *self.0.lock().unwrap() = None;
    }
}

struct Rig {
    thread: StoreThread,
    reports: Receiver<StoreReport>,
    gate: Gate,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::default();
        let disk = SledDisk::open(SledOptions { sync_hook: Some(gate.hook()), ..options(dir.path()) }).unwrap();
        let (store, _) = Store::open(disk, samples::name("store-042")).unwrap();
        let (send, reports) = channel();
        let thread = StoreThread::start(store, move |report| drop(send.send(report))).unwrap();
        Rig { thread, reports, gate, _dir: dir }
    }

    fn next(&self) -> StoreReport {
        self.reports.recv_timeout(DEADLINE).expect("a report within the deadline")
    }

    fn commit(&self, commit: u64, change: Change) {
        self.thread.apply(CommitId(commit), vec![change]).unwrap();
        assert!(matches!(self.next(), StoreReport::Applied { commit: CommitId(id), result: Ok(_) } if id == commit));
    }
}

fn enqueue(seq: u64) -> Change {
    Change::Enqueue(Seq(seq), Arc::new(samples::event("order-123", "{}")))
}

fn project(order: &str) -> Change {
    Change::Project(Arc::new(samples::projection(order, true)))
}

fn wanted(order: &str) -> Wanted {
    Wanted { request: None, order: Some(samples::order_id(order)), session: None, dead_letter: None }
}

#[test]
fn look_ups_are_answered_while_a_commit_syncs() {
    let rig = Rig::new();
    rig.commit(1, project("order-1"));
    let hold = rig.gate.hold();
    rig.thread.apply(CommitId(2), vec![enqueue(1)]).unwrap();
    hold.begun.recv_timeout(DEADLINE).unwrap();
    rig.thread.load(vec![(LoadId(1), wanted("order-1")), (LoadId(2), wanted("order-2"))]).unwrap();
    let mut found = Vec::new();
    while found.len() < 2 {
        let StoreReport::Loaded(loaded) = rig.next() else { panic!("the commit cannot have returned") };
        found.extend(loaded.into_iter().map(|(id, found)| (id.0, found.unwrap().order.is_some())));
    }
    assert_eq!(found, [(1, true), (2, false)]);
    hold.result.send(Ok(())).unwrap();
    assert!(matches!(rig.next(), StoreReport::Applied { result: Ok(_), .. }));
}

#[test]
fn people_never_see_an_order_that_is_not_durable_yet() {
    let rig = Rig::new();
    let hold = rig.gate.hold();
    rig.thread.apply(CommitId(1), vec![project("order-1")]).unwrap();
    hold.begun.recv_timeout(DEADLINE).unwrap();
    let (send, seen) = channel();
    let list = send.clone();
    rig.thread.find(wanted("order-1"), move |found| send.send(found.unwrap().order.is_some()).unwrap()).unwrap();
    rig.thread.open_orders(10, move |orders| list.send(orders.unwrap().len() == 1).unwrap()).unwrap();
    assert!(seen.try_recv().is_err(), "it waits for the commit");
    hold.result.send(Ok(())).unwrap();
    assert!(seen.recv_timeout(DEADLINE).unwrap() && seen.recv_timeout(DEADLINE).unwrap());
}

#[test]
fn a_call_that_is_stuck_can_be_seen() {
    let rig = Rig::new();
    let hold = rig.gate.hold();
    rig.thread.apply(CommitId(1), vec![enqueue(1)]).unwrap();
    hold.begun.recv_timeout(DEADLINE).unwrap();
    let first = rig.thread.busy_for().expect("a call is running");
    while rig.thread.busy_for().unwrap() <= first {
        std::thread::yield_now();
    }
    hold.result.send(Ok(())).unwrap();
    rig.next();
    let begun = std::time::Instant::now();
    while rig.thread.busy_for().is_some() {
        assert!(begun.elapsed() < DEADLINE, "the call has ended");
        std::thread::yield_now();
    }
}

#[test]
fn reads_for_people_never_take_the_commits_place_in_the_queue() {
    let rig = Rig::new();
    let hold = rig.gate.hold();
    rig.thread.apply(CommitId(1), vec![enqueue(1)]).unwrap();
    hold.begun.recv_timeout(DEADLINE).unwrap();
    let read = || rig.thread.find(wanted("order-1"), |_| ());
    for _ in 0..DURABLE_READS_MAX {
        read().unwrap();
    }
    assert_eq!(read(), Err(NotTaken));
    rig.thread.apply(CommitId(2), vec![enqueue(2)]).unwrap();
    hold.result.send(Ok(())).unwrap();
    hold.result.send(Ok(())).unwrap();
    assert!(matches!(rig.next(), StoreReport::Applied { commit: CommitId(1), result: Ok(_) }));
    assert!(matches!(rig.next(), StoreReport::Applied { commit: CommitId(2), result: Ok(_) }));
    read().unwrap();
}

#[test]
fn after_a_failed_commit_the_store_is_reopened_and_nothing_from_before_is_reported() {
    let rig = Rig::new();
    rig.commit(1, project("order-1"));
    let hold = rig.gate.hold();
    rig.thread.apply(CommitId(2), vec![enqueue(1)]).unwrap();
    hold.begun.recv_timeout(DEADLINE).unwrap();
    hold.result.send(Err(io::Error::other("as the test asked"))).unwrap();
    let StoreReport::Applied { commit: CommitId(2), result: Err(failure) } = rig.next() else { panic!("the commit fails") };
    assert_eq!(failure.failure(), CommitFailure::Unclear);
    rig.thread.load(vec![(LoadId(1), wanted("order-1"))]).unwrap();
    let StoreReport::Loaded(loaded) = rig.next() else { panic!("the look-up is answered") };
    assert!(loaded[0].1.is_err(), "a closed store finds nothing");

    rig.gate.release();
    rig.thread.apply(CommitId(3), vec![enqueue(9)]).unwrap();
    rig.thread.reopen().unwrap();
    rig.thread.load(vec![(LoadId(2), wanted("order-1"))]).unwrap();
    let mut reopened = false;
    loop {
        match rig.next() {
            StoreReport::Reopened(opened) => {
                assert!(matches!(opened.unwrap().next_seq, Seq(1 | 2)));
                reopened = true;
            }
            // The commit from before may have failed before the reopening was asked for; later it is not reported.
            StoreReport::Applied { commit, result } => assert!(commit == CommitId(3) && result.is_err() && !reopened),
            StoreReport::Loaded(loaded) => assert_eq!(loaded[0].0, LoadId(2)),
            other => panic!("{other:?}"),
        }
        if reopened {
            break;
        }
    }
    rig.thread.load(vec![(LoadId(3), wanted("order-1"))]).unwrap();
    loop {
        let StoreReport::Loaded(loaded) = rig.next() else { panic!("only look-ups were asked") };
        if loaded.last().unwrap().0 == LoadId(3) {
            assert!(loaded.last().unwrap().1.as_ref().unwrap().order.is_some());
            break;
        }
    }
}

#[test]
fn a_commit_that_returns_after_a_reopening_was_asked_for_is_not_reported() {
    let rig = Rig::new();
    let hold = rig.gate.hold();
    rig.thread.apply(CommitId(1), vec![enqueue(1)]).unwrap();
    hold.begun.recv_timeout(DEADLINE).unwrap();
    rig.thread.reopen().unwrap();
    // The commit's own sync, and that of the proof while the store opens.
    hold.result.send(Ok(())).unwrap();
    hold.result.send(Ok(())).unwrap();
    let StoreReport::Reopened(Ok(opened)) = rig.next() else { panic!("the core hears of the store as it is, and of nothing before") };
    assert_eq!(opened.next_seq, Seq(2), "it happened all the same");
}

#[test]
fn the_head_and_sweeps_are_reported() {
    let rig = Rig::new();
    rig.commit(1, enqueue(1));
    rig.commit(2, Change::Remember(samples::request("till-1", "r"), samples::remembered(1, 5)));
    rig.thread.read_head(Seq(1), 10, 1000).unwrap();
    assert!(matches!(rig.next(), StoreReport::Head(Ok(events)) if events.len() == 1));
    rig.thread.sweep(None, 10, Old { expired_ms: Some(5), details_ms: None }).unwrap();
    assert!(matches!(rig.next(), StoreReport::Swept(Ok((expired, None))) if expired.len() == 1));
}

#[test]
fn a_stopped_store_has_finished_what_waited_and_left_the_folder() {
    let rig = Rig::new();
    for seq in 1..=20 {
        rig.thread.apply(CommitId(seq), vec![enqueue(seq)]).unwrap();
    }
    assert!(rig.thread.stop(DEADLINE));
    assert_eq!(rig.reports.iter().filter(|report| matches!(report, StoreReport::Applied { result: Ok(_), .. })).count(), 20);
    let disk = SledDisk::open(options(rig._dir.path())).unwrap();
    assert_eq!(Store::open(disk, samples::name("store-042")).unwrap().1.next_seq, Seq(21));
}

#[test]
fn a_thread_that_panics_is_reported() {
    let rig = Rig::new();
    rig.thread.find(wanted("order-1"), |_| panic!("as the test asked")).unwrap();
    assert!(matches!(rig.next(), StoreReport::Died { thread: "store" }));
}
