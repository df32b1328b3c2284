//! Putting exported events into a store, each with the epoch and the seq that it had: (gateway, epoch, seq) names an event for ever, and
//! whoever got it from the first device drops it when it comes from the second.
//!
//! A seq is also the event's place in the outbox. So the exported outbox follows this store's own seqs, with a gap if need be: this
//! store's outbox must be empty then, and none of the seqs may have been given here. Both hold for a new data folder.
//!
//! What was imported is remembered under its epoch and seq in the same batch, so that the same lines, or more of the same export, may be
//! imported again. Requests and orders are not in an export: the next start makes them of the events, as it does for a new store, so it
//! needs `[kafka]` to recognise a terminal that repeats an exported request.

use crate::batch::{Batch, NOT_OURS};
use crate::disk::{COMMIT_RECORDS_MAX, Disk, Read};
use crate::error::{ApplyError, ReadError};
use crate::export::Line;
use crate::journal::Keep;
use crate::layout::{Kind, key, value};
use crate::reads;
use crate::store::Store;
use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Epoch, Name, OrderId, RequestKey, Seq};
use gateway::io::{Change, DeadLetter};
use gateway::request::EventType;
use gateway::time::unix_ms;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

/// Longest line that is read, in bytes: an event at its largest, with every character escaped.
pub const LINE_BYTES_MAX: u64 = 256 * 1024;
/// Lines in one commit. A line takes four records at most.
const LINES_PER_COMMIT: usize = COMMIT_RECORDS_MAX / 8;

/// An import that broke off. What was imported so far stays; the same lines may be imported again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line cannot be taken.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The lines cannot be read.
    #[error("the lines cannot be read")]
    Read(#[from] io::Error),
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] ReadError),
    /// A batch could not be stored.
    #[error("the events before line {line} could not be stored")]
    Apply {
        /// The number of the line after the batch.
        line: u64,
        /// Why.
        source: ApplyError,
    },
}

/// What became of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Events that were appended to the outbox.
    pub queued: u64,
    /// Dead letters that were taken.
    pub dead: u64,
    /// Held events that were taken.
    pub held: u64,
    /// Events that this store had already, or had and delivered.
    pub known: u64,
}

/// The `event` of a line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Event {
    id: String,
    r#type: String,
    order_id: OrderId,
    #[serde(default)]
    user_id: Option<String>,
    data: Box<RawValue>,
    occurred_at: String,
    #[serde(rename = "version")]
    _version: String,
}

/// Where an imported event belongs.
enum Place {
    Queue,
    Dead { reason: String, since_ms: i64, attempts: u32 },
    Behind(Seq),
}

/// Which events this store had before the import and got by it.
struct Known {
    /// What this store gave itself: each epoch with its seqs.
    own: BTreeMap<Epoch, Range<Seq>>,
    /// Ranges of seqs by their epoch: first to last.
    imported: BTreeMap<Epoch, BTreeMap<Seq, Seq>>,
}

/// The gateway that a line names.
pub(crate) fn gateway_of(line: &str) -> Result<Name, ImportError> {
    parse(line).map(|(gateway, ..)| gateway).map_err(|reason| ImportError::Line { line: 1, reason })
}

/// Reads one line without its end; `None` after the last.
///
/// # Errors
/// It cannot be read, or is longer than [`LINE_BYTES_MAX`].
pub(crate) fn read_line(input: &mut impl BufRead, number: u64) -> Result<Option<String>, ImportError> {
    let mut line = String::new();
    let read = io::Read::take(&mut *input, LINE_BYTES_MAX).read_line(&mut line)? as u64;
    if read == LINE_BYTES_MAX && !line.ends_with('\n') {
        return Err(ImportError::Line { line: number, reason: format!("it is longer than {LINE_BYTES_MAX} bytes") });
    }
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

impl<D: Disk> Store<D> {
    /// Takes exported lines in; see the module.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import(&mut self, mut input: impl BufRead) -> Result<ImportReport, ImportError> {
        let mut report = ImportReport::default();
        let mut known = Known::read(&self.disk, Seq(self.tail.next_seq))?;
        // The journal is removed first, so that a gap in the seqs begins behind the last record.
        self.keep = Keep::NOTHING;
        while self.tail.trail.trimmed < self.tail.progress {
            self.apply(&[]).map_err(|source| ImportError::Apply { line: 1, source })?;
        }
        let mut number = 1;
        loop {
            let done = self.import_batch(&mut input, &mut number, &mut known, &mut report)?;
            if done {
                return Ok(report);
            }
        }
    }

    /// Stores the next lines in one commit; says whether they were the last.
    fn import_batch(
        &mut self,
        input: &mut impl BufRead,
        number: &mut u64,
        known: &mut Known,
        report: &mut ImportReport,
    ) -> Result<bool, ImportError> {
        let mut lines = 0;
        let mut batch = Batch::new(&self.disk, self.tail, Keep::NOTHING);
        let mut done = false;
        while lines < LINES_PER_COMMIT {
            let Some(line) = read_line(input, *number)? else {
                done = true;
                break;
            };
            let refuse = |reason: String| ImportError::Line { line: *number, reason };
            if !line.is_empty() {
                let (gateway, seq, event, place) = parse(&line).map_err(refuse)?;
                if gateway != self.gateway {
                    return Err(refuse(format!("it is gateway {gateway}'s, and the store is {}'s", self.gateway)));
                }
                if known.has(event.epoch, seq) {
                    report.known += 1;
                } else {
                    let epoch = event.epoch;
                    take(&mut batch, seq, event, place, report).map_err(|e| match e {
                        Taken::Refused(reason) => refuse(reason),
                        Taken::Apply(source) => ImportError::Apply { line: *number, source },
                    })?;
                    let (first, last) = known.add(epoch, seq);
                    if first == last {
                        batch.epoch(epoch, NOT_OURS)?;
                    }
                    batch.put(key::imported(epoch, first), value::encode_seq(last));
                    batch.put(key::offset(&gateway::rebuild::place()), value::encode_offset(gateway::rebuild::TO_DO));
                    lines += 1;
                }
            }
            *number += 1;
        }
        let failed = |source| ImportError::Apply { line: *number, source };
        let (ops, space, tail) = batch.finish().map_err(failed)?;
        if !ops.is_empty() {
            self.disk.commit(&ops, space).map_err(|e| failed(e.into()))?;
        }
        self.tail = tail;
        Ok(done)
    }
}

/// Why an event was not taken.
enum Taken {
    Refused(String),
    Apply(ApplyError),
}

impl From<ApplyError> for Taken {
    fn from(e: ApplyError) -> Taken {
        Taken::Apply(e)
    }
}

fn take<R: Read>(batch: &mut Batch<'_, R>, seq: Seq, event: OrderEvent, place: Place, report: &mut ImportReport) -> Result<(), Taken> {
    match place {
        Place::Queue => {
            if seq.0 < batch.tail.next_seq {
                return Err(Taken::Refused(format!("this store has given the seq {seq} itself; import into a new data folder")));
            }
            if seq.0 > batch.tail.next_seq && !batch.skip_to(seq.0) {
                let missing = batch.tail.next_seq;
                return Err(Taken::Refused(format!(
                    "the seq {missing} should come before {seq}; import the whole export, and into an outbox that has been drained"
                )));
            }
            batch.add(&Change::Enqueue(seq, Arc::new(event)))?;
            report.queued += 1;
        }
        Place::Dead { reason, since_ms, attempts } => {
            settle(batch, seq)?;
            batch.add(&Change::DeadLetter(seq, DeadLetter { event, reason, since_ms, attempts }))?;
            report.dead += 1;
        }
        Place::Behind(dead) => {
            settle(batch, seq)?;
            batch.add(&Change::Hold(seq, dead, Arc::new(event)))?;
            report.held += 1;
        }
    }
    Ok(())
}

/// Sees to it that a seq is accounted for and that no dead letter or held event of this store has it.
fn settle<R: Read>(batch: &mut Batch<'_, R>, seq: Seq) -> Result<(), Taken> {
    let refuse = |reason: &str| Err(Taken::Refused(format!("seq {seq}: {reason}; import into a new data folder")));
    if seq.0 > batch.tail.progress && !batch.skip_to(seq.0 + 1) {
        return refuse("this store's outbox is not empty");
    }
    for key in [key::dead(seq), key::held_by_seq(seq)] {
        if batch.get(&key).map_err(ApplyError::from)?.is_some() {
            return refuse("this store has a dead letter or a held event there");
        }
    }
    Ok(())
}

impl Known {
    fn read<R: Read>(disk: &R, next_seq: Seq) -> Result<Known, ReadError> {
        let mut imported: BTreeMap<Epoch, BTreeMap<Seq, Seq>> = BTreeMap::new();
        reads::for_each(disk, key::all_imported(), |key, bytes| {
            if let Kind::Imported(epoch, first) = Kind::read(key)? {
                imported.entry(epoch).or_default().insert(first, value::seq(key, bytes)?);
            }
            Ok(())
        })?;
        let starts: Vec<_> = reads::starts(disk)?.into_iter().filter(|start| start.first != NOT_OURS).collect();
        let ends = starts.iter().skip(1).map(|start| start.first).chain([next_seq]);
        let own = starts.iter().zip(ends).map(|(start, end)| (start.epoch, start.first..end)).collect();
        Ok(Known { own, imported })
    }

    fn has(&self, epoch: Epoch, seq: Seq) -> bool {
        let imported = self.imported.get(&epoch).and_then(|ranges| ranges.range(..=seq).next_back());
        self.own.get(&epoch).is_some_and(|own| own.contains(&seq)) || imported.is_some_and(|(_, last)| seq <= *last)
    }

    /// Adds a seq; gives the range that it is in now.
    fn add(&mut self, epoch: Epoch, seq: Seq) -> (Seq, Seq) {
        let ranges = self.imported.entry(epoch).or_default();
        if let Some((first, last)) = ranges.range_mut(..=seq).next_back()
            && last.next() == seq
        {
            *last = seq;
            return (*first, seq);
        }
        ranges.insert(seq, seq);
        (seq, seq)
    }
}

fn parse(line: &str) -> Result<(Name, Seq, OrderEvent, Place), String> {
    let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let event: Event = serde_json::from_str(line.event.get()).map_err(|e| format!("event: {e}"))?;
    let place = match (line.dead, line.held_behind) {
        (None, None) => Place::Queue,
        (Some(dead), None) => Place::Dead { reason: dead.reason, since_ms: dead.since_ms, attempts: dead.attempts },
        (None, Some(behind)) => Place::Behind(Seq(behind)),
        (Some(_), Some(_)) => return Err("it is dead and held at once".into()),
    };
    if line.seq == 0 || line.seq == u64::MAX {
        return Err(format!("seq {} is none", line.seq));
    }
    let clock = match line.clock.as_deref() {
        None | Some("synced") => Clock::Synced,
        Some("unset") => Clock::Unset,
        Some(other) => return Err(format!("clock {other:?} is neither synced nor unset")),
    };
    let request_id = line.request_id.parse().map_err(|e| format!("requestId {e}"))?;
    let event = OrderEvent {
        epoch: line.epoch.parse().map_err(|e| format!("epoch {e}"))?,
        request: RequestKey { terminal: line.terminal, request_id },
        id: uuid::Uuid::parse_str(&event.id).map_err(|e| format!("event.id {e}"))?.into_bytes(),
        event_type: EventType::from_name(&event.r#type).ok_or_else(|| format!("event.type {:?} is unknown", event.r#type))?,
        order_id: event.order_id,
        user_id: event.user_id,
        occurred_at_ms: unix_ms(&event.occurred_at).ok_or("event.occurredAt is not like 2024-01-01T12:00:00.000Z")?,
        clock,
        data: event.data.get().to_owned(),
    };
    if !event.data.starts_with('{') {
        return Err("event.data is not an object".into());
    }
    Ok((line.gateway, Seq(line.seq), event, place))
}

#[cfg(test)]
mod tests {
    use gateway::time::{rfc3339, unix_ms};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_printed_time_is_read_back(ms in -62_167_219_200_000i64..=253_402_300_799_999) {
            prop_assert_eq!(unix_ms(&rfc3339(ms)), Some(ms));
        }

        #[test]
        fn reading_noise_as_a_time_never_panics(text in "\\PC{0,30}") {
            let _ = unix_ms(&text);
        }
    }

    #[test]
    fn a_date_that_does_not_exist_is_none() {
        assert_eq!(unix_ms("2024-04-31T12:00:00.000Z"), None);
        assert_eq!(unix_ms("2024-01-01T24:00:00.000Z"), None);
        assert_eq!(unix_ms("2024-01-01T12:00:00Z"), None);
    }
}
