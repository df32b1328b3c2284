//! Looking at every record: does it decode, and does it fit the others?

use crate::disk::Read;
use crate::error::ReadError;
use crate::layout::{Identity, Kind, QueuedHead, key, value};
use crate::reads;
use gateway::ids::{Name, Seq};
use std::collections::{BTreeMap, BTreeSet};

/// Problems that a report names; more are only counted.
pub const PROBLEMS_MAX: usize = 100;

/// What a store holds, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Whose store it is.
    pub gateway: Option<Name>,
    /// The next seq to give.
    pub next_seq: Seq,
    /// All at or below it is accounted for.
    pub progress: Seq,
    /// Events in the outbox above the progress, and their weight in bytes.
    pub queued: u64,
    /// See `queued`.
    pub queued_bytes: u64,
    /// Events at or below the progress that are kept in the journal.
    pub journalled: u64,
    /// Commands that are journalled.
    pub commands: u64,
    /// Dead letters.
    pub dead: u64,
    /// Events held behind dead letters.
    pub held: u64,
    /// Remembered requests.
    pub requests: u64,
    /// Orders on the board.
    pub open_orders: u64,
    /// Orders that left it.
    pub closed_orders: u64,
    /// Serial sessions.
    pub sessions: u64,
    /// Status partitions.
    pub offsets: u64,
    /// Starts that are remembered.
    pub epochs: u64,
    /// The first [`PROBLEMS_MAX`] problems, a sentence fragment each.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problems_count: u64,
}

impl CheckReport {
    fn problem(&mut self, problem: impl FnOnce() -> String) {
        self.problems_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem());
        }
    }

    fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problem(problem);
        }
    }
}

/// What one record says about others. Dead letters and held events are few; of the outbox only the last record is kept.
#[derive(Default)]
struct Links {
    /// Nothing was found that belongs to a gateway.
    unowned: bool,
    last_queued: Option<(Seq, u64)>,
    first_queued: Option<Seq>,
    lost: Vec<(Seq, Seq)>,
    dead: BTreeSet<Seq>,
    held: BTreeSet<(Seq, Seq)>,
    held_by_seq: BTreeMap<Seq, Seq>,
}

/// Reads every record once.
///
/// # Errors
/// The disk itself cannot be read; a record that does not decode is a problem in the report.
pub(crate) fn check<R: Read>(disk: &R) -> Result<CheckReport, ReadError> {
    let mut report = CheckReport::default();
    let mut links = Links { unowned: true, lost: reads::lost(disk).unwrap_or_default(), ..Links::default() };
    match reads::progress(disk) {
        Ok(progress) => report.progress = progress,
        Err(ReadError::Damaged { .. }) => {}
        Err(e) => return Err(e),
    }
    reads::for_each(disk, key::all(), |key, value| {
        match record(&mut report, &mut links, key, value) {
            Ok(()) => {}
            Err(e @ ReadError::Damaged { .. }) => report.problem(|| e.to_string()),
            Err(e) => return Err(e),
        }
        Ok(())
    })?;
    links.compare(&mut report);
    // A store that holds nothing else is one whose first start was cut off before it was anybody's.
    report.expect(report.gateway.is_some() || links.unowned, || "the store's identity is missing".into());
    Ok(report)
}

/// Whether a record is what this program writes, by itself.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn readable(key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    let mut report = CheckReport::default();
    record(&mut report, &mut Links::default(), key, value)?;
    match report.problems.pop() {
        None => Ok(()),
        Some(problem) => Err(crate::layout::damaged(key, problem)),
    }
}

fn record(report: &mut CheckReport, links: &mut Links, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    let kind = Kind::read(key)?;
    links.unowned &= kind == Kind::Probe;
    match kind {
        Kind::Identity => report.gateway = Some(Identity::decode(value)?.gateway),
        Kind::Probe => {}
        Kind::Counters => drop(value::counters(key, value)?),
        Kind::Progress => drop(value::seq(key, value)?),
        Kind::Delivered(upto) => {
            let mark = value::mark(key, upto, value)?;
            report.expect(upto <= report.progress, || format!("deliveries up to {upto} are journalled, beyond the progress"));
            let rising = mark.sent.is_sorted_by_key(|sent| sent.seq);
            report.expect(rising && mark.sent.iter().all(|sent| sent.seq <= upto), || {
                format!("the deliveries up to {upto} are not in order")
            });
        }
        Kind::Command(_) => {
            report.commands += 1;
            value::command(key, value)?;
        }
        Kind::Lost(_) | Kind::Imported(..) => drop(value::seq(key, value)?),
        Kind::Dead(seq) => {
            report.dead += 1;
            links.dead.insert(seq);
            value::dead_letter(key, value)?;
        }
        Kind::Held(dead, seq) => {
            report.held += 1;
            links.held.insert((dead, seq));
            value::event(key, value)?;
        }
        Kind::HeldBySeq(seq) => drop(links.held_by_seq.insert(seq, value::seq(key, value)?)),
        Kind::Epoch(_) => {
            report.epochs += 1;
            value::epoch(key, value)?;
        }
        Kind::Offset(_) => {
            report.offsets += 1;
            value::offset(key, value)?;
        }
        Kind::Session(..) => {
            report.sessions += 1;
            value::session(key, value)?;
        }
        Kind::Request(_) => {
            report.requests += 1;
            value::remembered(key, value)?;
        }
        Kind::OpenOrder(order) => {
            report.open_orders += 1;
            let found = value::projection(key, value)?;
            report.expect(found.order_id == order && found.open, || format!("the open order {order} is another or closed"));
        }
        Kind::ClosedOrder(order) => {
            report.closed_orders += 1;
            let found = value::projection(key, value)?;
            report.expect(found.order_id == order && !found.open, || format!("the closed order {order} is another or open"));
        }
        Kind::Printed(_) => drop(value::printed(key, value)?),
        Kind::Queued(seq) => queued(report, links, seq, key, value)?,
    }
    Ok(())
}

fn queued(report: &mut CheckReport, links: &mut Links, seq: Seq, key: &[u8], value: &[u8]) -> Result<(), ReadError> {
    let head = QueuedHead::decode(key, value)?;
    if let Some((last, sum)) = links.last_queued {
        let follows = links.follows(last, seq);
        report.expect(follows, || format!("events between {last} and {seq} are missing"));
        report.expect(head.sum == sum + u64::from(head.weight), || format!("the sum of event {seq} does not follow from the one before"));
    }
    links.first_queued.get_or_insert(seq);
    links.last_queued = Some((seq, head.sum));
    if seq > report.progress {
        report.queued += 1;
        report.queued_bytes += u64::from(head.weight);
    } else {
        report.journalled += 1;
    }
    value::queued(key, value)?;
    Ok(())
}

impl Links {
    /// Whether nothing is between two seqs but what is known to be lost.
    fn follows(&self, before: Seq, seq: Seq) -> bool {
        seq == before.next() || self.lost.iter().any(|(first, last)| *first <= before.next() && seq <= last.next())
    }

    fn compare(&self, report: &mut CheckReport) {
        let progress = report.progress;
        let last_lost = self.lost.last().map_or(Seq(0), |(_, last)| *last);
        let last = self.last_queued.map_or(progress, |(last, _)| last).max(last_lost);
        report.next_seq = last.max(progress).next();
        if let Some(first) = self.first_queued {
            report.expect(first <= progress.next() || self.follows(progress, first), || {
                format!("events between the progress {progress} and {first} are missing")
            });
            report.expect(last >= progress, || format!("the progress {progress} is beyond the last event {last}"));
        }
        // A dead letter that is decided about goes before what is held behind it: held events may be alone.
        for (dead, seq) in &self.held {
            report.expect(self.held_by_seq.get(seq) == Some(dead), || format!("the held event {seq} cannot be found by its seq"));
        }
        for (seq, dead) in &self.held_by_seq {
            report.expect(self.held.contains(&(*dead, *seq)), || format!("event {seq} should be held behind {dead} and is not"));
        }
        for seq in self.dead.iter().chain(self.held_by_seq.keys()) {
            // The progress follows within seconds.
            report.expect(*seq <= last, || format!("event {seq} is dead or held, but beyond the last event {last}"));
        }
    }
}
