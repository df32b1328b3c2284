//! The store over a disk in memory.

use super::memory::{Fault, Memory};
use super::samples;
use crate::KeptEvent;
use crate::disk::{COMMIT_RECORDS_MAX, Op, Space, VALUE_BYTES_MAX};
use crate::layout::{FORMAT, Identity, key};
use crate::{ApplyError, CommitError, EPOCHS_MAX, OpenError, SESSIONS_MAX, Store};
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, OrderId, RequestKey, Seq, SessionId};
use gateway::io::{Buried, Change, DeadLetter, Forgettable, HELD_READ_MAX, Old, Opened, PartitionName, Remembered, Wanted};
use gateway::order::Projection;
use gateway::settings::OPEN_ORDERS_MAX;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const NOTHING: Wanted = Wanted { request: None, order: None, session: None, dead_letter: None };

fn open() -> Store<Memory> {
    Store::open(Memory::default(), samples::name("store-042")).unwrap().0
}

fn enqueue(seq: u64) -> Change {
    Change::Enqueue(Seq(seq), Arc::new(samples::event("order-123", "{}")))
}

fn session_number(store: &Store<Memory>, terminal: &str, session: u64) -> Option<u64> {
    let wanted = Wanted { session: Some((samples::name(terminal), SessionId(session))), ..NOTHING };
    store.load(&wanted).unwrap().session
}

fn written(store: &Store<Memory>) -> &[Op] {
    &store.disk().commits.last().unwrap().0
}

#[test]
fn a_new_store_is_empty_and_begins_at_one() {
    let (_, opened) = Store::open(Memory::default(), samples::name("store-042")).unwrap();
    assert_eq!(opened, Opened { next_seq: Seq(1), is_new: true, ..Opened::default() });
}

#[test]
fn a_store_is_new_until_its_first_start_is_remembered() {
    let mut store = open();
    store.apply(&[Change::FormerEpoch(Epoch(1))]).unwrap();
    let opened = store.reopen().unwrap();
    assert!(opened.is_new && opened.epochs == [Epoch(1)], "another store's starts are not its own");
    assert!(!store.knows(Epoch(1)).unwrap(), "nothing of it was ever stored here");
    store.apply(&[Change::Epoch(Epoch(2))]).unwrap();
    assert!(!store.reopen().unwrap().is_new && store.knows(Epoch(2)).unwrap());
}

#[test]
fn seqs_go_on_after_everything_was_forgotten() {
    let mut store = open();
    store.apply(&[enqueue(1), enqueue(2)]).unwrap();
    store.apply(&[Change::Forget { from: Seq(1), upto: Seq(2) }]).unwrap();
    let opened = store.reopen().unwrap();
    assert_eq!((opened.next_seq, opened.progress, opened.queued_bytes), (Seq(3), Seq(2), 0));
    assert!(store.disk().map.keys().all(|key| key[0] != b'Q'), "forgotten events are removed");
}

#[test]
fn a_gap_in_the_seqs_is_refused_before_anything_is_written() {
    let mut store = open();
    let before = store.disk().map.clone();
    let error = store.apply(&[enqueue(1), enqueue(3)]).unwrap_err();
    assert_eq!(error.to_string(), "refused before anything was written: seq 3 does not follow 1");
    assert_eq!(store.disk().map, before);
    store.apply(&[enqueue(1)]).unwrap();
}

#[test]
fn progress_never_passes_the_last_event() {
    let mut store = open();
    assert!(matches!(store.apply(&[Change::Forget { from: Seq(1), upto: Seq(1) }]), Err(ApplyError::Refused(_))));
}

#[test]
fn a_value_that_would_become_a_file_is_refused_before_anything_is_written() {
    let mut store = open();
    let before = store.disk().map.clone();
    let big = Arc::new(samples::event("order-123", &"x".repeat(VALUE_BYTES_MAX)));
    let error = store.apply(&[Change::Counters(samples::counters()), Change::Enqueue(Seq(1), big)]).unwrap_err();
    assert!(matches!(&error, ApplyError::Refused(reason) if reason.contains("24576")), "{error}");
    assert_eq!(store.disk().map, before);
}

#[test]
fn a_batch_beyond_the_bound_is_refused_before_anything_is_written() {
    let mut store = open();
    let before = store.disk().map.clone();
    let batch: Vec<_> = (1..=COMMIT_RECORDS_MAX as u64 + 1).map(enqueue).collect();
    assert!(matches!(store.apply(&batch), Err(ApplyError::Refused(_))));
    assert_eq!(store.disk().map, before);
    store.apply(&batch[..COMMIT_RECORDS_MAX]).unwrap();
}

#[test]
fn forgetting_more_than_a_commit_may_hold_goes_on_in_the_next_ones() {
    let mut store = open();
    for first in [1, 801, 1601] {
        let batch: Vec<_> = (first..first + 800).map(enqueue).collect();
        store.apply(&batch).unwrap();
    }
    store.apply(&[Change::Forget { from: Seq(1), upto: Seq(2399) }]).unwrap();
    assert_eq!(written(&store).len(), COMMIT_RECORDS_MAX);
    let opened = store.reopen().unwrap();
    assert_eq!((opened.progress, opened.next_seq), (Seq(2399), Seq(2401)));
    assert_eq!(opened.queued_bytes, samples::event("order-123", "{}").weight() as u64);
    store.apply(&[Change::Counters(samples::counters())]).unwrap();
    store.apply(&[Change::Counters(samples::counters())]).unwrap();
    assert_eq!(store.disk().map.keys().filter(|key| key[0] == b'Q').count(), 1);
    assert_eq!(store.reopen().unwrap().queued_bytes, opened.queued_bytes);
}

#[test]
fn an_order_is_either_open_or_closed() {
    let mut store = open();
    let order = samples::order_id("order-123");
    store.apply(&[Change::Project(Arc::new(samples::projection("order-123", true)))]).unwrap();
    assert_eq!(store.open_orders(10).unwrap().len(), 1);
    store.apply(&[Change::Project(Arc::new(samples::projection("order-123", false)))]).unwrap();
    assert_eq!(store.open_orders(10).unwrap(), []);
    assert_eq!(store.order(&order).unwrap().map(|o| o.open), Some(false));
    store.apply(&[Change::Project(Arc::new(samples::projection("order-123", true)))]).unwrap();
    assert_eq!(store.reopen().unwrap().open.len(), 1);
    assert!(!store.disk().map.contains_key(&key::closed_order(&order)));
}

#[test]
fn of_too_many_open_orders_the_newest_are_read_when_the_store_is_opened() {
    let mut store = open();
    // Ids in another order than ages.
    let age = |n: usize| i64::try_from(n * 7_919 % (OPEN_ORDERS_MAX + 300)).unwrap();
    let order = |n: usize| Projection { created_at_ms: age(n), ..samples::projection(&format!("order-{n:05}"), true) };
    let orders: Vec<_> = (0..OPEN_ORDERS_MAX + 300).map(|n| Change::Project(Arc::new(order(n)))).collect();
    for batch in orders.chunks(400) {
        store.apply(batch).unwrap();
    }
    let read = store.reopen().unwrap().open;
    assert_eq!(read.len(), OPEN_ORDERS_MAX);
    assert!(read.iter().all(|order| order.created_at_ms >= 300));
    assert!(read.is_sorted_by_key(|order| order.order_id.clone()));
}

#[test]
fn the_last_change_of_a_key_wins_also_when_an_order_opens_and_closes_in_one_batch() {
    let mut store = open();
    let changes = [true, false, true, false].map(|open| Change::Project(Arc::new(samples::projection("order-123", open))));
    store.apply(&changes).unwrap();
    assert_eq!(written(&store).iter().map(|op| &op.key[..1]).collect::<Vec<_>>(), [b"Z"]);
}

#[test]
fn an_order_costs_four_records() {
    let mut store = open();
    store
        .apply(&[
            enqueue(1),
            Change::Remember(samples::request("till-1", "01JC"), samples::remembered(1, 0)),
            Change::Project(Arc::new(samples::projection("order-123", true))),
            Change::Counters(samples::counters()),
        ])
        .unwrap();
    assert_eq!(written(&store).len(), 4);
}

#[test]
fn the_65th_session_of_a_terminal_drops_its_oldest_and_nobody_elses() {
    let mut store = open();
    store.apply(&[Change::Session(samples::name("till-2"), SessionId(7), 0)]).unwrap();
    for session in 1..=SESSIONS_MAX as u64 {
        // Ids fall while ages grow, so that the order of keys is not the order of age.
        store.apply(&[Change::Session(samples::name("till-1"), SessionId(1000 - session), 0)]).unwrap();
    }
    assert_eq!(session_number(&store, "till-1", 999), Some(0));
    store.apply(&[Change::Session(samples::name("till-1"), SessionId(5), 0)]).unwrap();
    assert_eq!(session_number(&store, "till-1", 999), None);
    assert_eq!(session_number(&store, "till-1", 998), Some(0));
    assert_eq!(session_number(&store, "till-1", 5), Some(0));
    assert_eq!(session_number(&store, "till-2", 7), Some(0));
}

#[test]
fn sessions_opened_in_one_batch_are_counted_too() {
    let mut store = open();
    let batch: Vec<_> = (1..=70).map(|session| Change::Session(samples::name("till-1"), SessionId(session), 0)).collect();
    store.apply(&batch).unwrap();
    let kept: Vec<_> = (1..=70).filter(|session| session_number(&store, "till-1", *session).is_some()).collect();
    assert_eq!(kept, (7..=70).collect::<Vec<_>>());
}

#[test]
fn a_sessions_number_only_grows() {
    let mut store = open();
    for (number, expected) in [(0, 0), (3, 3), (2, 3), (0, 3), (4, 4)] {
        store.apply(&[Change::Session(samples::name("till-1"), SessionId(7), number)]).unwrap();
        assert_eq!(session_number(&store, "till-1", 7), Some(expected));
    }
}

#[test]
fn a_dead_letter_is_found_with_what_is_held_behind_it_and_released_one_by_one() {
    let mut store = open();
    let held = Arc::new(samples::event("order-123", r#"{"n":2}"#));
    store
        .apply(&[
            enqueue(1),
            enqueue(2),
            enqueue(3),
            Change::DeadLetter(Seq(1), samples::dead_letter("order-123")),
            Change::Hold(Seq(2), Seq(1), Arc::clone(&held)),
            Change::DeadLetter(Seq(3), samples::dead_letter("order-9")),
            Change::Forget { from: Seq(1), upto: Seq(3) },
        ])
        .unwrap();
    let opened = store.reopen().unwrap();
    assert_eq!(opened.dead, [(Seq(1), samples::order_id("order-123")), (Seq(3), samples::order_id("order-9"))]);
    assert_eq!((opened.holding, opened.releasing), (vec![Seq(1)], vec![]));
    let wanted = Wanted { dead_letter: Some(Seq(1)), ..NOTHING };
    let letter = Some(samples::dead_letter("order-123"));
    let expected = Some(Buried { letter, held: vec![(Seq(2), held)], more: false });
    assert_eq!(store.load(&wanted).unwrap().dead_letter, expected);
    let seqs = |after, upto, max| -> Vec<u64> {
        let kept = store.kept_events(Seq(after), Seq(upto), max).unwrap();
        assert!(kept.iter().all(|(seq, kept)| (*seq == Seq(2)) == matches!(kept, KeptEvent::Held { behind: Seq(1), .. })));
        kept.iter().map(|(seq, _)| seq.0).collect()
    };
    assert_eq!((seqs(0, 9, 9), seqs(0, 9, 2), seqs(1, 2, 9), seqs(3, 9, 9)), (vec![1, 2, 3], vec![1, 2], vec![2], vec![]));
    store.apply(&[Change::Release(Seq(1))]).unwrap();
    let opened = store.reopen().unwrap();
    assert_eq!(opened.releasing, [(Seq(1), samples::order_id("order-123"))], "what is held goes on after a start in between");
    assert_eq!(opened.holding, []);
    assert_eq!(opened.kept.events, 2);
    assert_eq!(store.check().unwrap().problems, [""; 0]);
    store.apply(&[Change::Release(Seq(2))]).unwrap();
    assert_eq!(store.load(&wanted).unwrap().dead_letter, None);
    assert!(store.disk().map.keys().all(|key| !matches!(key[0], b'H' | b'I')));
    assert_eq!(store.reopen().unwrap().dead, [(Seq(3), samples::order_id("order-9"))]);
}

#[test]
fn held_events_are_looked_up_some_at_a_time_and_known_above_the_progress() {
    let mut store = open();
    let events = u64::try_from(HELD_READ_MAX).unwrap() + 2;
    let event = Arc::new(samples::event("order-123", "{}"));
    store.apply(&(1..=events).map(enqueue).collect::<Vec<_>>()).unwrap();
    store
        .apply(&[Change::DeadLetter(Seq(1), samples::dead_letter("order-123")), Change::Forget { from: Seq(1), upto: Seq(events - 1) }])
        .unwrap();
    store.apply(&(2..=events).map(|seq| Change::Hold(Seq(seq), Seq(1), Arc::clone(&event))).collect::<Vec<_>>()).unwrap();
    let opened = store.reopen().unwrap();
    assert_eq!((opened.kept.events, opened.held), (events, vec![Seq(events)]));
    let found = store.load(&Wanted { dead_letter: Some(Seq(1)), ..NOTHING }).unwrap().dead_letter.unwrap();
    assert_eq!((found.held.len(), found.more), (HELD_READ_MAX, true));
    assert_eq!(found.held[0].0, Seq(2));
}

#[test]
fn epochs_are_kept_in_order_and_bounded() {
    let mut store = open();
    let epochs: Vec<Epoch> = (0..EPOCHS_MAX as u64 + 2).map(|n| Epoch(u64::MAX - n)).collect();
    for batch in epochs[..EPOCHS_MAX].chunks(COMMIT_RECORDS_MAX) {
        store.apply(&batch.iter().map(|epoch| Change::Epoch(*epoch)).collect::<Vec<_>>()).unwrap();
    }
    for batch in [[EPOCHS_MAX, EPOCHS_MAX + 1], [EPOCHS_MAX + 1, EPOCHS_MAX + 1], [EPOCHS_MAX, EPOCHS_MAX]] {
        store.apply(&batch.map(|n| Change::Epoch(epochs[n]))).unwrap();
    }
    let mut twice = open();
    twice.apply(&[Change::Epoch(Epoch(1)), Change::Epoch(Epoch(1))]).unwrap();
    assert_eq!(twice.reopen().unwrap().epochs, [Epoch(1)]);
    assert_eq!(store.reopen().unwrap().epochs, epochs[2..]);
}

/// What was last changed at 9 or before has expired.
const EXPIRED: Old = Old { expired_ms: Some(9), details_ms: None };

#[test]
fn sweeping_in_small_steps_finds_everything_that_expired_once() {
    let mut store = open();
    let mut batch = Vec::new();
    for n in 0..20 {
        batch.push(Change::Remember(samples::request("till-1", &format!("r{n:02}")), samples::remembered(n, n)));
        let mut order = samples::projection(&format!("order-{n:02}"), n % 2 == 0);
        order.changed_run_ms = n;
        batch.push(Change::Project(Arc::new(order)));
    }
    store.apply(&batch).unwrap();
    for keys_max in [1, 3, 7, 100] {
        let (mut found, mut from, mut steps) = (Vec::new(), None, 0);
        loop {
            let (expired, next) = store.sweep(from.as_ref(), keys_max, EXPIRED).unwrap();
            assert!(expired.len() <= keys_max);
            found.extend(expired);
            steps += 1;
            from = next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!(steps, 30usize.div_ceil(keys_max), "the last step says that it is the last");
        let requests = (0..10).map(|n| Forgettable::Request(samples::request("till-1", &format!("r{n:02}"))));
        let orders = (0..10).filter(|n| n % 2 == 1).map(|n| Forgettable::Order(samples::order_id(&format!("order-{n:02}"))));
        assert_eq!(found, requests.chain(orders).collect::<Vec<_>>());
    }
    let (expired, _) = store.sweep(None, 100, EXPIRED).unwrap();
    store.apply(&expired.into_iter().map(Change::Expire).collect::<Vec<_>>()).unwrap();
    assert_eq!(store.sweep(None, 100, EXPIRED).unwrap(), (vec![], None));
    assert_eq!(store.open_orders(100).unwrap().len(), 10, "open orders never expire");
}

#[test]
fn the_details_of_an_order_go_before_the_order_and_once() {
    let mut store = open();
    let mut full = samples::projection("closed", false);
    full.customer_name = Some("Ada".into());
    full.changed_run_ms = 7;
    let open = Projection { order_id: samples::order_id("open"), open: true, ..full.clone() };
    let late = Projection { order_id: samples::order_id("late"), changed_run_ms: 8, ..full.clone() };
    store.apply(&[&full, &open, &late].map(|order| Change::Project(Arc::new(order.clone())))).unwrap();
    let details = Old { expired_ms: None, details_ms: Some(7) };
    let (found, _) = store.sweep(None, 100, details).unwrap();
    assert_eq!(found, [Forgettable::Details(samples::order_id("closed"))]);
    store.apply(&found.into_iter().map(Change::Expire).collect::<Vec<_>>()).unwrap();
    let bare = store.order(&samples::order_id("closed")).unwrap().unwrap();
    let told = format!("{bare:?}");
    assert!(!told.contains("Ada") && !told.contains("well done") && !told.contains("Pizza"), "{told}");
    assert_eq!((bare.ticket, bare.status, bare.lines_omitted, bare.history), (full.ticket, full.status, 1, full.history));
    for kept in [open, late] {
        assert_eq!(store.order(&kept.order_id).unwrap(), Some(kept));
    }
    assert_eq!(store.sweep(None, 100, details).unwrap(), (vec![], None), "an order is written anew once");
    let (both, _) = store.sweep(None, 100, Old { expired_ms: Some(7), details_ms: Some(8) }).unwrap();
    assert_eq!(both, [Forgettable::Order(samples::order_id("closed")), Forgettable::Details(samples::order_id("late"))]);
}

#[test]
fn the_head_is_read_within_its_bounds_and_without_gaps() {
    let mut store = open();
    store.apply(&(1..=10).map(enqueue).collect::<Vec<_>>()).unwrap();
    let seqs = |from, events_max, bytes_max| -> Vec<u64> {
        store.read_head(Seq(from), events_max, bytes_max).unwrap().iter().map(|(seq, _)| seq.0).collect()
    };
    assert_eq!(seqs(1, 3, usize::MAX), [1, 2, 3]);
    assert_eq!(seqs(9, 5, usize::MAX), [9, 10]);
    assert_eq!(seqs(4, 5, 1), [4], "at least one");
    assert_eq!(seqs(11, 5, 1), [0; 0]);
    store.disk_mut().map.remove(&key::queued(Seq(5)));
    assert!(store.read_head(Seq(4), 5, usize::MAX).is_err(), "a hole is no end");
}

#[test]
fn only_what_admits_something_needs_the_floor() {
    let mut store = open();
    store.apply(&[enqueue(1)]).unwrap();
    assert_eq!(store.disk().commits.last().unwrap().1, Space::Floor);
    store.apply(&[Change::Forget { from: Seq(1), upto: Seq(1) }, Change::Epoch(Epoch(1))]).unwrap();
    assert_eq!(store.disk().commits.last().unwrap().1, Space::Reserve);
}

#[test]
fn a_batch_without_room_leaves_the_store_as_it_was_and_working() {
    let mut store = open();
    store.disk_mut().fault = Some(Fault::NoSpace);
    assert!(matches!(store.apply(&[enqueue(1)]), Err(ApplyError::Commit(CommitError::NoSpace(_)))));
    store.apply(&[enqueue(1)]).unwrap();
    assert_eq!(store.reopen().unwrap().next_seq, Seq(2));
}

#[test]
fn after_an_unclear_commit_nothing_is_answered_until_the_store_was_reopened() {
    for (fault, next_seq) in [(Fault::UnclearLost, 1), (Fault::UnclearKept, 2)] {
        let mut store = open();
        store.disk_mut().fault = Some(fault);
        assert!(matches!(store.apply(&[enqueue(1)]), Err(ApplyError::Commit(CommitError::Unclear(_)))));
        assert!(store.load(&Wanted { dead_letter: Some(Seq(1)), ..NOTHING }).is_err());
        assert!(store.read_head(Seq(1), 1, 1).is_err());
        assert!(matches!(store.apply(&[enqueue(1)]), Err(ApplyError::Commit(CommitError::Unclear(_)))));
        assert_eq!(store.reopen().unwrap().next_seq, Seq(next_seq));
        store.apply(&[enqueue(next_seq)]).unwrap();
    }
}

#[test]
fn a_newer_store_is_refused_and_left_alone() {
    let mut disk = Memory::default();
    disk.map.insert(key::identity(), Identity { format: FORMAT + 1, gateway: samples::name("store-042") }.encode());
    disk.map.insert(key::counters(), vec![99]);
    let before = disk.map.clone();
    let error = Store::open(disk, samples::name("store-042")).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1 }), "{error}");
    assert_eq!(before.len(), 2);
}

#[test]
fn another_gateway_is_refused_while_anything_waits() {
    let mut store = open();
    store.apply(&[enqueue(1)]).unwrap();
    let disk = store.into_disk();
    let bytes = disk.map.clone();
    let error = Store::open(disk, samples::name("store-043")).unwrap_err();
    assert!(matches!(&error, OpenError::OtherGateway { queued: 1, dead: 0, .. }), "{error}");

    let mut store = Store::open(Memory::holding(bytes), samples::name("store-042")).unwrap().0;
    store.apply(&[Change::Forget { from: Seq(1), upto: Seq(1) }, Change::DeadLetter(Seq(1), samples::dead_letter("o"))]).unwrap();
    let bytes = store.into_disk().map;
    let error = Store::open(Memory::holding(bytes.clone()), samples::name("store-043")).unwrap_err();
    assert!(matches!(&error, OpenError::OtherGateway { queued: 0, dead: 1, .. }), "{error}");

    let mut store = Store::open(Memory::holding(bytes), samples::name("store-042")).unwrap().0;
    store.apply(&[Change::Release(Seq(1))]).unwrap();
    let (store, opened) = Store::open(store.into_disk(), samples::name("store-043")).unwrap();
    assert_eq!(opened.next_seq, Seq(2));
    assert!(Store::open(store.into_disk(), samples::name("store-043")).is_ok());
}

/// What a store should hold, kept the simplest way.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    next_seq: u64,
    progress: u64,
    queue: BTreeMap<u64, OrderEvent>,
    requests: BTreeMap<RequestKey, Remembered>,
    orders: BTreeMap<OrderId, Projection>,
    offsets: BTreeMap<(i32, String), i64>,
    dead: BTreeMap<u64, DeadLetter>,
    held: BTreeMap<u64, (u64, OrderEvent)>,
}

impl Model {
    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Enqueue(seq, event) => {
                self.queue.insert(seq.0, event.as_ref().clone());
                self.next_seq = seq.0 + 1;
            }
            Change::Remember(request, remembered) => drop(self.requests.insert(request, remembered)),
            Change::Project(projection) => drop(self.orders.insert(projection.order_id.clone(), projection.as_ref().clone())),
            Change::Offset(at, offset) => drop(self.offsets.insert((at.partition, at.topic), offset)),
            Change::Forget { upto, .. } => {
                self.queue.retain(|seq, _| *seq > upto.0);
                self.progress = upto.0;
            }
            Change::DeadLetter(seq, letter) => drop(self.dead.insert(seq.0, letter)),
            Change::Hold(seq, dead, event) => drop(self.held.insert(seq.0, (dead.0, event.as_ref().clone()))),
            Change::Release(seq) => {
                self.dead.remove(&seq.0);
                self.held.remove(&seq.0);
            }
            Change::Expire(Forgettable::Request(request)) => drop(self.requests.remove(&request)),
            Change::Expire(Forgettable::Order(order)) => {
                if self.orders.get(&order).is_some_and(|o| !o.open) {
                    self.orders.remove(&order);
                }
            }
            Change::Expire(Forgettable::Details(order)) => {
                if let Some(order) = self.orders.get_mut(&order).filter(|order| !order.open) {
                    *order = order.without_details();
                }
            }
            Change::Counters(_) | Change::Session(..) | Change::Epoch(_) | Change::FormerEpoch(_) => {}
            Change::Journal(_) | Change::Command(_) | Change::Print(..) | Change::Expire(Forgettable::Print(_)) => {}
        }
    }

    fn check(&self, store: &Store<Memory>, opened: &Opened) {
        assert_eq!((opened.next_seq.0, opened.progress.0), (self.next_seq, self.progress));
        assert_eq!(opened.queued_bytes, self.queue.values().map(|e| e.weight() as u64).sum::<u64>());
        let head = store.read_head(opened.progress.next(), usize::MAX, usize::MAX).unwrap();
        let head: BTreeMap<u64, OrderEvent> = head.into_iter().map(|(seq, event)| (seq.0, event.as_ref().clone())).collect();
        assert_eq!(head, self.queue);
        let open: Vec<_> = self.orders.values().filter(|o| o.open).cloned().collect();
        assert_eq!(opened.open, open);
        for n in 0..NAMES {
            let (request, order) = (request(n), order(n));
            let found = store.load(&Wanted { request: Some(request.clone()), order: Some(order.clone()), ..NOTHING }).unwrap();
            assert_eq!(found.request.as_ref(), self.requests.get(&request));
            assert_eq!(found.order.as_ref(), self.orders.get(&order));
        }
        let offsets: Vec<_> = self
            .offsets
            .iter()
            .map(|((partition, topic), at)| (PartitionName { topic: topic.clone(), partition: *partition }, *at))
            .collect();
        assert_eq!(opened.offsets, offsets);
        assert_eq!(opened.dead, self.dead.iter().map(|(seq, l)| (Seq(*seq), l.event.order_id.clone())).collect::<Vec<_>>());
        for (seq, letter) in &self.dead {
            let found = store.load(&Wanted { dead_letter: Some(Seq(*seq)), ..NOTHING }).unwrap().dead_letter.unwrap();
            let held = self.held.iter().filter(|(_, (dead, _))| dead == seq).map(|(seq, (_, event))| (Seq(*seq), Arc::new(event.clone())));
            assert_eq!(found, Buried { letter: Some(letter.clone()), held: held.collect(), more: false });
        }
    }
}

const NAMES: u8 = 4;

fn request(n: u8) -> RequestKey {
    samples::request("till-1", &format!("r{n}"))
}

fn order(n: u8) -> OrderId {
    samples::order_id(&format!("order-{n}"))
}

/// A step of a random life: its numbers become valid where the model says what is valid.
#[derive(Debug, Clone)]
enum Step {
    Enqueue(u8),
    Remember(u8, u64),
    Project(u8, bool, u64),
    Offset(u8, i64),
    Forget(u8),
    Dead(u8, u8),
    Hold(u8),
    Release(u8),
    ExpireRequest(u8),
    ExpireOrder(u8),
    ExpireDetails(u8),
}

impl Step {
    fn change(self, model: &Model) -> Change {
        let seq = |n: u8| Seq(1 + u64::from(n) % 16);
        match self {
            Step::Enqueue(n) => {
                Change::Enqueue(Seq(model.next_seq), Arc::new(samples::event(&format!("order-{n}"), &"x".repeat(n.into()))))
            }
            Step::Remember(n, at) => Change::Remember(request(n % NAMES), samples::remembered(at, at)),
            Step::Project(n, open, at) => {
                let mut projection = samples::projection(&format!("order-{}", n % NAMES), open);
                projection.changed_run_ms = at;
                Change::Project(Arc::new(projection))
            }
            Step::Offset(n, offset) => Change::Offset(samples::partition("order-status", i32::from(n % NAMES)), offset),
            Step::Forget(n) => {
                let queued = model.next_seq - 1 - model.progress;
                let upto = model.progress + u64::from(n) % (queued + 1);
                Change::Forget { from: Seq(model.progress + 1), upto: Seq(upto) }
            }
            Step::Dead(n, order) => Change::DeadLetter(seq(n), samples::dead_letter(&format!("order-{order}"))),
            // One event is held behind one dead letter in its life: the seq of a retried one is a new one.
            Step::Hold(n) => Change::Hold(Seq(100 + u64::from(n)), seq(n / 16), Arc::new(samples::event("order-1", "{}"))),
            Step::Release(n) if n % 2 == 0 => Change::Release(seq(n)),
            Step::Release(n) => Change::Release(Seq(100 + u64::from(n))),
            Step::ExpireRequest(n) => Change::Expire(Forgettable::Request(request(n % NAMES))),
            Step::ExpireOrder(n) => Change::Expire(Forgettable::Order(order(n % NAMES))),
            Step::ExpireDetails(n) => Change::Expire(Forgettable::Details(order(n % NAMES))),
        }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Enqueue),
        1 => any::<(u8, u64)>().prop_map(|(n, at)| Step::Remember(n, at)),
        3 => any::<(u8, bool, u64)>().prop_map(|(n, open, at)| Step::Project(n, open, at)),
        1 => any::<(u8, i64)>().prop_map(|(n, offset)| Step::Offset(n, offset)),
        2 => any::<u8>().prop_map(Step::Forget),
        1 => any::<(u8, u8)>().prop_map(|(n, order)| Step::Dead(n, order)),
        1 => any::<u8>().prop_map(Step::Hold),
        1 => any::<u8>().prop_map(Step::Release),
        1 => any::<u8>().prop_map(Step::ExpireRequest),
        1 => any::<u8>().prop_map(Step::ExpireOrder),
        1 => any::<u8>().prop_map(Step::ExpireDetails),
    ]
}

fn faults() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Fault::NoSpace)),
        1 => Just(Some(Fault::UnclearLost)),
        1 => Just(Some(Fault::UnclearKept)),
    ]
}

proptest! {
    #[test]
    fn a_store_holds_what_was_committed_and_every_batch_whole_or_not_at_all(
        life in prop::collection::vec((prop::collection::vec(steps(), 1..6), faults()), 1..40),
    ) {
        let mut model = Model { next_seq: 1, ..Model::default() };
        let mut store = open();
        for (batch, fault) in life {
            let mut after = model.clone();
            let mut changes = Vec::new();
            for step in batch {
                let change = step.change(&after);
                after.apply(&change);
                changes.push(change);
            }
            store.disk_mut().fault = fault;
            // A batch that changes nothing never reaches the disk.
            let commits = store.disk().commits.len();
            let result = store.apply(&changes);
            let reached = store.disk().fault.is_none();
            match fault.filter(|_| reached) {
                None => {
                    prop_assert!(result.is_ok());
                    model = after;
                }
                Some(Fault::NoSpace | Fault::UnclearLost) => prop_assert!(result.is_err()),
                Some(Fault::UnclearKept) => {
                    prop_assert!(result.is_err());
                    prop_assert_eq!(store.disk().commits.len(), commits + 1);
                    model = after;
                }
            }
            store.disk_mut().fault = None;
            let opened = store.reopen().unwrap();
            model.check(&store, &opened);
        }
    }
}
