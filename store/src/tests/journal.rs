//! The journal over a disk in memory.

use super::memory::Memory;
use super::samples;
use crate::disk::COMMIT_RECORDS_MAX;
use crate::journal::{COMMANDS_MAX, Fate, JournalUsage, Keep, Page, TRIMMED_MAX, Wanted};
use crate::{CheckReport, Store};
use gateway::event::OrderEvent;
use gateway::ids::Seq;
use gateway::io::{Change, Counters};
use gateway::journal::{Command, Deed, Mark, Sent};
use proptest::prelude::*;
use std::sync::Arc;

const DAY_MS: u64 = 86_400_000;
const WEEK: Keep = Keep { keep_ms: 7 * DAY_MS, bytes_max: u64::MAX };

fn open(keep: Keep) -> Store<Memory> {
    Store::open(Memory::default(), samples::name("store-042")).unwrap().0.keeping(keep)
}

/// Event `seq` of order `seq % 3`, a second after the one before.
fn event(seq: u64) -> OrderEvent {
    OrderEvent { occurred_at_ms: 1_000 * seq.cast_signed(), ..samples::event(&format!("order-{}", seq % 3), "{}") }
}

fn weight() -> u64 {
    event(1).weight() as u64
}

fn enqueue(store: &mut Store<Memory>, seqs: std::ops::RangeInclusive<u64>) {
    let batch: Vec<_> = seqs.map(|seq| Change::Enqueue(Seq(seq), Arc::new(event(seq)))).collect();
    store.apply(&batch).unwrap();
}

/// Where event `seq` is in Kafka, half a second after it happened.
fn sent(seq: u64) -> Sent {
    Sent { seq: Seq(seq), partition: 2, offset: 100 + seq.cast_signed(), at_ms: 1_000 * seq.cast_signed() + 500 }
}

/// Forgets what Kafka got, `run_ms` after the store was made.
fn deliver(store: &mut Store<Memory>, seqs: std::ops::RangeInclusive<u64>, run_ms: u64) {
    let (from, upto) = (Seq(*seqs.start()), Seq(*seqs.end()));
    store.apply(&[Change::Forget { from, upto }, Change::Journal(Mark { upto, run_ms, sent: seqs.map(sent).collect() })]).unwrap();
}

fn at(store: &mut Store<Memory>, running_ms: u64) {
    store.apply(&[Change::Counters(Counters { running_ms, ..samples::counters() })]).unwrap();
}

fn kept(store: &Store<Memory>, kind: u8) -> usize {
    store.disk().map.keys().filter(|key| key[0] == kind).count()
}

fn checked(store: &Store<Memory>) -> CheckReport {
    let report = store.check().unwrap();
    assert_eq!(report.problems, [""; 0]);
    report
}

/// All steps of a read, put together.
fn all(mut step: impl FnMut(Seq) -> Page) -> Vec<(u64, Fate)> {
    let (mut found, mut from) = (Vec::new(), Seq(0));
    loop {
        let page = step(from);
        found.extend(page.entries.iter().map(|entry| {
            assert_eq!(entry.event, event(entry.seq.0));
            (entry.seq.0, entry.fate)
        }));
        match page.next {
            Some(next) => from = next,
            None => return found,
        }
    }
}

#[test]
fn delivered_events_stay_for_their_running_time_and_queued_ones_are_counted_without_them() {
    let mut store = open(WEEK);
    enqueue(&mut store, 1..=6);
    deliver(&mut store, 1..=2, DAY_MS);
    deliver(&mut store, 3..=4, 2 * DAY_MS);
    let usage = JournalUsage { events: 4, bytes: 4 * weight(), given_up: 0 };
    assert_eq!(store.journal_usage(), usage);
    let opened = store.reopen().unwrap();
    assert_eq!((opened.progress, opened.next_seq, opened.queued_bytes), (Seq(4), Seq(7), 2 * weight()));
    assert_eq!((store.journal_usage(), checked(&store).journalled), (usage, 4));
    assert_eq!(store.read_head(Seq(5), 9, usize::MAX).unwrap().len(), 2);

    at(&mut store, 8 * DAY_MS - 1);
    assert_eq!((kept(&store, b'Q'), kept(&store, b'J')), (6, 2));
    at(&mut store, 8 * DAY_MS);
    assert_eq!((kept(&store, b'Q'), kept(&store, b'J')), (4, 1), "the first two are too old");
    at(&mut store, 9 * DAY_MS);
    assert_eq!((kept(&store, b'Q'), kept(&store, b'J')), (2, 0));
    assert_eq!(store.journal_usage(), JournalUsage::default());
    assert_eq!(store.reopen().unwrap().queued_bytes, 2 * weight());
    checked(&store);
}

#[test]
fn the_oldest_go_first_where_there_are_too_many() {
    let mut store = open(Keep { bytes_max: 3 * weight(), ..WEEK });
    enqueue(&mut store, 1..=10);
    deliver(&mut store, 1..=4, 0);
    deliver(&mut store, 5..=8, 0);
    assert_eq!(store.journal_usage(), JournalUsage { events: 3, bytes: 3 * weight(), given_up: 5 });
    let wanted = Wanted { from_ms: 0, to_ms: i64::MAX, order: None };
    let left: Vec<_> = all(|from| store.delivered(&wanted, from).unwrap()).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(left, [6, 7, 8]);
    assert_eq!(store.reopen().unwrap().queued_bytes, 2 * weight());
    checked(&store);
}

#[test]
fn a_short_disk_gives_the_journal_up_and_nothing_that_waits() {
    let mut store = open(WEEK);
    enqueue(&mut store, 1..=6);
    deliver(&mut store, 1..=4, 0);
    store.disk_mut().short = true;
    at(&mut store, 1);
    assert_eq!((kept(&store, b'Q'), kept(&store, b'J')), (2, 0));
    assert_eq!(store.journal_usage(), JournalUsage { given_up: 4, ..JournalUsage::default() });
    assert_eq!(store.reopen().unwrap().queued_bytes, 2 * weight());
}

#[test]
fn without_a_journal_nothing_of_an_older_one_stays() {
    let mut store = open(WEEK);
    enqueue(&mut store, 1..=6);
    deliver(&mut store, 1..=4, 0);
    let mut store = store.keeping(Keep::NOTHING);
    at(&mut store, 1);
    assert_eq!((kept(&store, b'Q'), kept(&store, b'J')), (2, 0));
    checked(&store);
}

#[test]
fn a_long_journal_expires_little_by_little() {
    let mut store = open(WEEK);
    for first in (1..=2_000).step_by(500) {
        enqueue(&mut store, first..=first + 499);
    }
    for seq in 1..=2_000 {
        deliver(&mut store, seq..=seq, 0);
    }
    let mut commits = 0;
    while kept(&store, b'Q') > 0 {
        at(&mut store, 7 * DAY_MS);
        commits += 1;
    }
    assert_eq!((kept(&store, b'J'), commits), (0, 2_000_u64.div_ceil(TRIMMED_MAX)));
}

#[test]
fn a_short_disk_gives_a_long_journal_up_in_commits_that_keep_their_bound() {
    let mut store = open(WEEK);
    for first in (1..=2_000).step_by(500) {
        enqueue(&mut store, first..=first + 499);
    }
    for seq in 1..=2_000 {
        deliver(&mut store, seq..=seq, 0);
    }
    store.disk_mut().short = true;
    let mut commits = 0;
    while kept(&store, b'Q') > 0 {
        at(&mut store, 1);
        commits += 1;
    }
    assert_eq!((kept(&store, b'J'), commits), (0, 5));
    assert!(store.disk().commits.iter().all(|(ops, _)| ops.len() <= COMMIT_RECORDS_MAX));
}

#[test]
fn what_a_drain_makes_due_goes_with_later_commits_faster_than_they_append() {
    let mut store = open(Keep { bytes_max: 10 * weight(), ..WEEK });
    enqueue(&mut store, 1..=800);
    deliver(&mut store, 1..=800, 0);
    assert_eq!(store.journal_usage().events, 800 - TRIMMED_MAX);
    enqueue(&mut store, 801..=900);
    assert_eq!(store.journal_usage().events, 800 - 2 * TRIMMED_MAX - 2 * 100);
    assert_eq!(store.reopen().unwrap().queued_bytes, 100 * weight());
    checked(&store);
}

#[test]
fn what_was_delivered_is_found_by_its_time_and_its_order() {
    let mut store = open(WEEK);
    enqueue(&mut store, 1..=900);
    for first in (1..=800).step_by(2) {
        deliver(&mut store, first..=first + 1, 0);
    }
    let wanted = |from_ms, to_ms, order: Option<&str>| Wanted { from_ms, to_ms, order: order.map(samples::order_id) };
    let found = |wanted: &Wanted| all(|from| store.delivered(wanted, from).unwrap());
    assert_eq!(found(&wanted(0, i64::MAX, None)), (1..=800).map(|seq| (seq, Fate::Delivered(sent(seq)))).collect::<Vec<_>>());
    let (from_ms, to_ms) = (sent(10).at_ms, sent(20).at_ms);
    let seqs: Vec<_> = found(&wanted(from_ms, to_ms, Some("order-1"))).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(seqs, [10, 13, 16, 19], "the end is not part of it");
}

#[test]
fn a_history_tells_what_became_of_each_event_of_an_order() {
    let mut store = open(WEEK);
    enqueue(&mut store, 1..=600);
    // Nobody knows where the sixth went; the ninth is dead.
    let known = (1..=9).filter(|seq| ![6, 9].contains(seq)).map(sent).collect();
    let dead = Change::DeadLetter(Seq(9), samples::dead_letter("order-0"));
    store
        .apply(&[Change::Forget { from: Seq(1), upto: Seq(9) }, dead, Change::Journal(Mark { upto: Seq(9), run_ms: 0, sent: known })])
        .unwrap();
    let span = (event(3).occurred_at_ms, event(599).occurred_at_ms);
    let found = all(|from| store.history(&samples::order_id("order-0"), span, from).unwrap());
    let head = [(3, Fate::Delivered(sent(3))), (6, Fate::DeliveredSomewhere), (9, Fate::Buried), (12, Fate::Queued)];
    assert_eq!(found[..4], head);
    assert_eq!((found.len(), found.last()), (199, Some(&(597, Fate::Queued))));
    let later = (event(4).occurred_at_ms, event(9).occurred_at_ms);
    let found = all(|from| store.history(&samples::order_id("order-0"), later, from).unwrap());
    assert_eq!(found.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [6, 9]);
}

#[test]
fn commands_stay_as_long_as_deliveries_and_never_too_many() {
    let mut store = open(WEEK);
    let command = |n: u64, run_ms| Command {
        at_ms: n.cast_signed(),
        run_ms,
        by: "anna".into(),
        deed: Deed::Discard { dead: Seq(n), order: samples::order_id("order-1") },
    };
    store.apply(&[Change::Command(command(1, 0)), Change::Command(command(2, DAY_MS))]).unwrap();
    store.apply(&[Change::Command(command(3, 7 * DAY_MS))]).unwrap();
    let told = |store: &Store<Memory>| store.commands().unwrap().iter().map(|command| command.at_ms).collect::<Vec<_>>();
    assert_eq!(told(&store), [2, 3]);
    for n in 4..=COMMANDS_MAX as u64 + 10 {
        store.apply(&[Change::Command(command(n, 7 * DAY_MS))]).unwrap();
    }
    assert_eq!((told(&store).len(), told(&store)[0]), (COMMANDS_MAX, 11));
    checked(&store);
}

proptest! {
    /// Whatever is enqueued, delivered and reopened: the journal is the newest of what was delivered, within its bounds.
    #[test]
    fn the_journal_is_the_newest_of_what_was_delivered(steps in prop::collection::vec((1..20u64, 1..20u64, 0..DAY_MS, any::<bool>()), 1..30)) {
        let keep = Keep { keep_ms: 3 * DAY_MS, bytes_max: 25 * weight() };
        let mut store = open(keep);
        let (mut next, mut progress, mut run_ms) = (1, 0, 0);
        let mut delivered: Vec<(u64, u64)> = Vec::new();
        for (more, done, pause, reopen) in steps {
            enqueue(&mut store, next..=next + more - 1);
            next += more;
            run_ms += pause;
            let upto = (progress + done).min(next - 1);
            if upto > progress {
                deliver(&mut store, progress + 1..=upto, run_ms);
                delivered.extend((progress + 1..=upto).map(|seq| (seq, run_ms)));
                progress = upto;
                delivered.retain(|(_, at)| at + keep.keep_ms > run_ms);
                let crowded = delivered.len().saturating_sub(25);
                delivered.drain(..crowded);
            }
            if reopen {
                let opened = store.reopen().unwrap();
                prop_assert_eq!((opened.next_seq.0, opened.progress.0, opened.queued_bytes), (next, progress, (next - 1 - progress) * weight()));
            }
            let usage = store.journal_usage();
            prop_assert_eq!((usage.events, usage.bytes), (delivered.len() as u64, delivered.len() as u64 * weight()));
            let wanted = Wanted { from_ms: 0, to_ms: i64::MAX, order: None };
            let found: Vec<_> = all(|from| store.delivered(&wanted, from).unwrap()).into_iter().map(|(seq, _)| seq).collect();
            prop_assert_eq!(found, delivered.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
            checked(&store);
        }
    }
}
