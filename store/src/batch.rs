//! Building a commit: many changes, one write a key, the last one wins.

use crate::disk::{COMMIT_RECORDS_MAX, Op, Read, Space, VALUE_BYTES_MAX};
use crate::error::{ApplyError, CommitError, ReadError};
use crate::journal::{Keep, Trail};
use crate::layout::{QueuedHead, key, value};
use crate::reads;
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, Name, OrderId, Seq, SessionId};
use gateway::io::{Change, Forgettable, HeldBehind};
use gateway::order::Projection;
use std::collections::BTreeMap;

/// Serial sessions that are kept of one terminal. Opening one more drops the oldest.
pub const SESSIONS_MAX: usize = 64;
/// Epochs that are kept. One more drops the oldest; by then a device that restarts every three minutes has outlived a week of Kafka's
/// retention, and no event of that epoch can come back.
pub const EPOCHS_MAX: usize = 4_096;

/// In place of the first seq of an epoch: it was another device's.
pub(crate) const NOT_OURS: Seq = Seq(0);

/// What the store keeps in memory about the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    /// The next seq to give.
    pub next_seq: u64,
    /// All at or below it is accounted for.
    pub progress: u64,
    /// Weights of all events ever appended, counted from when the outbox was last empty.
    pub sum: u64,
    /// What is left of the events below the progress.
    pub trail: Trail,
}

/// A commit that is being built over what the disk holds. Sorted by key, so that the simulator's runs repeat.
#[derive(Debug)]
pub(crate) struct Batch<'d, R> {
    pub disk: &'d R,
    pub writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    space: Space,
    pub tail: Tail,
    keep: Keep,
    /// The running time that the batch brings along.
    pub run_ms: u64,
    /// The first seq that this batch can give.
    first_seq: Seq,
}

impl From<ReadError> for ApplyError {
    /// Nothing was written, but a disk that cannot be read has to be opened again like one that cannot be written.
    fn from(e: ReadError) -> ApplyError {
        ApplyError::Commit(CommitError::Unclear(e.to_string()))
    }
}

impl<'d, R: Read> Batch<'d, R> {
    /// A batch over what is there; `keep` says how much of the journal stays.
    pub fn new(disk: &'d R, tail: Tail, keep: Keep) -> Batch<'d, R> {
        Batch { disk, writes: BTreeMap::new(), space: Space::Reserve, tail, keep, run_ms: 0, first_seq: Seq(tail.next_seq) }
    }

    /// Leaves the seqs before `seq` out; `false` if events are waiting before them. For imports into a drained outbox.
    pub fn skip_to(&mut self, seq: u64) -> bool {
        let empty = self.tail.progress + 1 == self.tail.next_seq && self.tail.trail.trimmed == self.tail.progress;
        if empty {
            let before = seq - 1;
            (self.tail.next_seq, self.tail.progress, self.tail.trail.trimmed) = (seq, before, before);
            self.put(key::progress(), value::encode_seq(Seq(before)));
        }
        empty
    }

    /// Events that it appends.
    pub fn appended(&self) -> u64 {
        self.tail.next_seq - self.first_seq.0
    }

    /// Adds a change.
    pub fn add(&mut self, change: &Change) -> Result<(), ApplyError> {
        match change {
            Change::Enqueue(seq, event) => return self.enqueue(*seq, event),
            Change::Forget { from: _, upto } => return self.forget(*upto),
            Change::Remember(request, remembered) => self.put(key::request(request), value::encode_remembered(remembered)),
            Change::Project(projection) => self.project(projection)?,
            Change::Counters(counters) => {
                self.run_ms = self.run_ms.max(counters.running_ms);
                self.put(key::counters(), value::encode_counters(counters));
            }
            Change::Journal(mark) => self.mark(mark),
            Change::Command(command) => self.command(command, self.keep)?,
            Change::Offset(at, offset) => self.put(key::offset(at), value::encode_offset(*offset)),
            Change::Print(what, printed) => self.put(key::printed(what), value::encode_printed(printed)),
            Change::DeadLetter(seq, letter) => self.put(key::dead(*seq), value::encode_dead_letter(letter)),
            Change::Hold(seq, dead, event) => self.hold(*seq, *dead, event),
            Change::Release(seq) => self.release(*seq)?,
            Change::Session(terminal, session, number) => self.session(terminal, *session, *number)?,
            Change::Epoch(epoch) => self.epoch(*epoch, self.first_seq)?,
            Change::FormerEpoch(epoch) => self.epoch(*epoch, NOT_OURS)?,
            Change::Expire(Forgettable::Details(order)) => self.forget_details(order)?,
            Change::Expire(what) => self.remove(key::forgettable(what))?,
        }
        Ok(())
    }

    /// Fills what room is left with the removal of what the journal need not keep, and checks every bound. Gives the writes, and what
    /// the store keeps in memory once they are durable.
    pub fn finish(mut self) -> Result<(Vec<Op>, Space, Tail), ApplyError> {
        self.trim(self.keep)?;
        if self.writes.len() > COMMIT_RECORDS_MAX {
            let message = format!("{} records are more than the {COMMIT_RECORDS_MAX} that one commit may have", self.writes.len());
            return Err(ApplyError::Refused(message));
        }
        let ops: Vec<Op> = self.writes.into_iter().map(|(key, value)| Op { key, value }).collect();
        match ops.iter().find_map(|op| Some((&op.key, op.value.as_ref()?.len())).filter(|(_, len)| *len > VALUE_BYTES_MAX)) {
            Some((key, len)) => Err(ApplyError::Refused(format!(
                "the record {} has {len} bytes, more than the {VALUE_BYTES_MAX} that survive a power cut",
                key.escape_ascii()
            ))),
            None => Ok((ops, self.space, self.tail)),
        }
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.disk.get(key),
        }
    }

    /// Removes a key that may not be there: removing one that is not would still be written to the disk.
    fn remove(&mut self, key: Vec<u8>) -> Result<(), ReadError> {
        if self.disk.get(&key)?.is_some() {
            self.writes.insert(key, None);
        } else {
            self.writes.remove(&key);
        }
        Ok(())
    }

    fn enqueue(&mut self, seq: Seq, event: &OrderEvent) -> Result<(), ApplyError> {
        if seq.0 != self.tail.next_seq {
            return Err(ApplyError::Refused(format!("seq {seq} does not follow {}", self.tail.next_seq - 1)));
        }
        let weight = u32::try_from(event.weight()).map_err(|_| ApplyError::Refused(format!("the event {seq} is over 4 GiB")))?;
        self.tail.next_seq += 1;
        self.tail.sum += u64::from(weight);
        self.space = Space::Floor;
        self.put(key::queued(seq), value::encode_queued(QueuedHead { sum: self.tail.sum, weight }, event));
        Ok(())
    }

    fn forget(&mut self, upto: Seq) -> Result<(), ApplyError> {
        if upto.0 >= self.tail.next_seq {
            return Err(ApplyError::Refused(format!("the progress {upto} would pass the last event, {}", self.tail.next_seq - 1)));
        }
        if upto.0 > self.tail.progress {
            self.tail.progress = upto.0;
            self.put(key::progress(), value::encode_seq(upto));
            let key = key::queued(upto);
            let last = self.get(&key)?.and_then(|bytes| QueuedHead::decode(&key, &bytes).ok());
            // Nothing is there where a rescue found nothing: until the next event the journal seems smaller than it is.
            self.tail.trail.progress_sum = last.map_or(self.tail.trail.progress_sum, |head| head.sum);
        }
        Ok(())
    }

    fn project(&mut self, projection: &Projection) -> Result<(), ReadError> {
        let (open, closed) = (key::open_order(&projection.order_id), key::closed_order(&projection.order_id));
        let (here, there) = if projection.open { (open, closed) } else { (closed, open) };
        self.put(here, value::encode_projection(projection));
        self.remove(there)
    }

    fn forget_details(&mut self, order: &OrderId) -> Result<(), ReadError> {
        let key = key::closed_order(order);
        if let Some(bytes) = self.get(&key)? {
            let bare = value::projection(&key, &bytes)?.without_details();
            self.put(key, value::encode_projection(&bare));
        }
        Ok(())
    }

    fn hold(&mut self, seq: Seq, dead: HeldBehind, event: &OrderEvent) {
        self.put(key::held(dead, seq), value::encode_event(event));
        self.put(key::held_by_seq(seq), value::encode_seq(dead));
    }

    fn release(&mut self, seq: Seq) -> Result<(), ReadError> {
        self.remove(key::dead(seq))?;
        let by_seq = key::held_by_seq(seq);
        if let Some(bytes) = self.get(&by_seq)? {
            let dead = value::seq(&by_seq, &bytes)?;
            self.remove(key::held(dead, seq))?;
            self.remove(by_seq)?;
        }
        Ok(())
    }

    fn session(&mut self, terminal: &Name, session: SessionId, number: u64) -> Result<(), ReadError> {
        let own = key::session(terminal, session);
        let (number, opened) = match self.get(&own)? {
            Some(bytes) => {
                let (highest, opened) = value::session(&own, &bytes)?;
                (highest.max(number), opened)
            }
            None => (number, self.open_session(terminal)?),
        };
        self.put(own, value::encode_session(number, opened));
        Ok(())
    }

    /// Makes room for one more session of a terminal; gives its place among them.
    fn open_session(&mut self, terminal: &Name) -> Result<u64, ReadError> {
        let range = key::sessions_of(terminal);
        let on_disk = self.disk.range(&range.from, &range.to, 2 * SESSIONS_MAX, usize::MAX)?;
        let mut sessions: BTreeMap<Vec<u8>, Option<Vec<u8>>> = on_disk.into_iter().map(|(key, value)| (key, Some(value))).collect();
        sessions.extend(self.writes.range(range.from..range.to).map(|(key, value)| (key.clone(), value.clone())));
        let mut by_age = Vec::with_capacity(sessions.len());
        for (key, bytes) in sessions {
            if let Some(bytes) = bytes {
                by_age.push((value::session(&key, &bytes)?.1, key));
            }
        }
        by_age.sort();
        let next = by_age.last().map_or(1, |(opened, _)| opened + 1);
        let too_many = (by_age.len() + 1).saturating_sub(SESSIONS_MAX);
        for (_, key) in by_age.drain(..too_many) {
            self.remove(key)?;
        }
        Ok(next)
    }

    /// Remembers an epoch; `first` is the first seq that could be given under it, 0 for one of another device. One that is known stays.
    pub fn epoch(&mut self, epoch: Epoch, first: Seq) -> Result<(), ReadError> {
        let known = reads::starts(self.disk)?;
        if known.iter().any(|start| start.epoch == epoch) {
            return Ok(());
        }
        let range = key::all_epochs();
        let written: Vec<_> = self.writes.range(range.from..range.to).filter_map(|(_, value)| value.as_deref()).collect();
        let value = value::encode_epoch(epoch, first);
        if written.contains(&value.as_slice()) {
            return Ok(());
        }
        let count = known.len() + written.len() + 1;
        let ordinal = known.last().map_or(0, |start| start.ordinal) + 1 + written.len() as u64;
        self.put(key::epoch(ordinal), value);
        for start in known.iter().take(count.saturating_sub(EPOCHS_MAX)) {
            self.remove(key::epoch(start.ordinal))?;
        }
        Ok(())
    }
}
