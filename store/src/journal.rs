//! The journal: events at or below the progress stay in the outbox's range until they are too old or too many, oldest first, with a mark
//! for each commit that forgot some of them.
//!
//! It is no promise. It is what a short disk gives up first, it never keeps an order out, and a rescue or an import leaves it behind.

use crate::batch::Batch;
use crate::disk::{COMMIT_RECORDS_MAX, Read};
use crate::error::ReadError;
use crate::layout::{Kind, QueuedHead, damaged, key, value};
use crate::reads;
use gateway::event::OrderEvent;
use gateway::ids::{OrderId, Seq};
use gateway::journal::{Command, Mark, Sent};

/// Commands that are kept. One more drops the oldest.
pub const COMMANDS_MAX: usize = 4_096;
/// Marks that one step of a read looks at, and about how many bytes of events it gives.
const STEP_MARKS_MAX: usize = 256;
const STEP_BYTES_MAX: usize = 256 * 1024;
/// Events that one step of a replay gives.
const STEP_ENTRIES_MAX: usize = 500;
/// Events that a commit removes from the journal beside twice as many as it appends: so what many deliveries at once make due is paid by
/// the commits after them, not by the drain, and journal and outbox together never outgrow what they were.
pub(crate) const TRIMMED_MAX: u64 = 64;
/// Events that one step of a history looks at.
const STEP_EVENTS_MAX: usize = 512;

/// How much of what is delivered stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// For so many milliseconds of running time. 0 keeps nothing.
    pub keep_ms: u64,
    /// About so many bytes of events.
    pub bytes_max: u64,
}

impl Keep {
    /// No journal.
    pub const NOTHING: Keep = Keep { keep_ms: 0, bytes_max: 0 };
}

/// How full the journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalUsage {
    /// Seqs that it spans.
    pub events: u64,
    /// The weight of its events.
    pub bytes: u64,
    /// Events that were given up before their time, since the store was opened.
    pub given_up: u64,
}

/// What the store keeps in memory about the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Trail {
    /// All at or below it is removed; never above the progress.
    pub trimmed: u64,
    /// Weights of all events up to and with it, and up to and with the progress, as the outbox counts them.
    pub trimmed_sum: u64,
    pub progress_sum: u64,
    /// The oldest mark: its seq, and the running time then.
    pub oldest: Option<(u64, u64)>,
    /// See [`JournalUsage::given_up`].
    pub given_up: u64,
}

impl Trail {
    pub fn read<R: Read>(disk: &R, trimmed: u64, trimmed_sum: u64, progress_sum: u64) -> Result<Trail, ReadError> {
        let oldest = next_mark(disk, 0)?;
        Ok(Trail { trimmed, trimmed_sum, progress_sum, oldest, given_up: 0 })
    }

    fn bytes(&self) -> u64 {
        self.progress_sum.saturating_sub(self.trimmed_sum)
    }

    pub fn usage(&self, progress: u64) -> JournalUsage {
        JournalUsage { events: progress.saturating_sub(self.trimmed), bytes: self.bytes(), given_up: self.given_up }
    }
}

fn next_mark<R: Read>(disk: &R, after: u64) -> Result<Option<(u64, u64)>, ReadError> {
    let range = key::all_delivered().after(key::delivered(Seq(after)));
    let Some((key, bytes)) = disk.range(&range.from, &range.to, 1, 1)?.into_iter().next() else { return Ok(None) };
    let Kind::Delivered(upto) = Kind::read(&key)? else { return Ok(None) };
    // One that cannot be read any more is as old as can be.
    Ok(Some((upto.0, value::mark(&key, upto, &bytes).map_or(0, |mark| mark.run_ms))))
}

/// Why events are removed.
enum Why {
    /// All of them may go.
    Off,
    /// These are too old.
    Expired,
    /// There are too many.
    Crowded,
}

impl<R: Read> Batch<'_, R> {
    /// Writes a mark down.
    pub fn mark(&mut self, mark: &Mark) {
        self.put(key::delivered(mark.upto), value::encode_mark(mark));
        self.tail.trail.oldest.get_or_insert((mark.upto.0, mark.run_ms));
        self.run_ms = self.run_ms.max(mark.run_ms);
    }

    /// Writes a command down; those that are too old or too many go.
    pub fn command(&mut self, command: &Command, keep: Keep) -> Result<(), ReadError> {
        let range = key::all_commands();
        let last = match self.writes.range(range.from.clone()..range.to.clone()).next_back() {
            Some((key, _)) => Some(key.clone()),
            None => self.disk.last(&range.from, &range.to)?.map(|(key, _)| key),
        };
        let ordinal = match last.map(|key| Kind::read(&key)).transpose()? {
            Some(Kind::Command(last)) => last + 1,
            Some(_) | None => 1,
        };
        self.put(key::command(ordinal), value::encode_command(command));
        for (key, bytes) in self.disk.range(&range.from, &range.to, 4, usize::MAX)? {
            let (Kind::Command(old), old_run_ms) = (Kind::read(&key)?, value::command(&key, &bytes)?.run_ms) else { continue };
            let expired = old_run_ms.saturating_add(keep.keep_ms) <= command.run_ms;
            if (expired && keep != Keep::NOTHING) || old + COMMANDS_MAX as u64 <= ordinal {
                self.writes.insert(key, None);
            }
        }
        Ok(())
    }

    /// Removes what need not be kept any more, oldest first, as far as the commit has room.
    pub fn trim(&mut self, keep: Keep) -> Result<(), ReadError> {
        let at_once = keep.keep_ms == 0 || keep.bytes_max == 0;
        let share = if at_once { u64::MAX } else { self.appended().saturating_mul(2).saturating_add(TRIMMED_MAX) };
        let trimmed_max = self.tail.trail.trimmed.saturating_add(share);
        loop {
            self.drop_marks()?;
            // A record for each event, and one for each mark between them.
            let room = COMMIT_RECORDS_MAX.saturating_sub(self.writes.len()) / if self.tail.trail.oldest.is_some() { 2 } else { 1 };
            let left = trimmed_max.saturating_sub(self.tail.trail.trimmed);
            let room = room.min(usize::try_from(left).unwrap_or(usize::MAX));
            let Some((upto, why)) = self.due(keep) else { return Ok(()) };
            if room == 0 {
                return Ok(());
            }
            self.remove_events(upto, &why, keep, room)?;
        }
    }

    /// Up to where events are to be removed.
    fn due(&self, keep: Keep) -> Option<(u64, Why)> {
        let trail = &self.tail.trail;
        let progress = self.tail.progress;
        if trail.trimmed >= progress {
            return None;
        }
        match trail.oldest {
            _ if keep.keep_ms == 0 => Some((progress, Why::Off)),
            // From before there was a journal.
            None => Some((progress, Why::Off)),
            Some((upto, run_ms)) if run_ms.saturating_add(keep.keep_ms) <= self.run_ms => Some((upto.min(progress), Why::Expired)),
            Some(_) if trail.bytes() > keep.bytes_max => Some((progress, Why::Crowded)),
            Some(_) => None,
        }
    }

    fn remove_events(&mut self, upto: u64, why: &Why, keep: Keep, room: usize) -> Result<(), ReadError> {
        let (from, to) = (key::queued(Seq(self.tail.trail.trimmed + 1)), key::queued(Seq(upto + 1)));
        let found = self.disk.range(&from, &to, room, usize::MAX)?;
        let all = found.len() < room;
        for (key, bytes) in found {
            let Kind::Queued(seq) = Kind::read(&key)? else { return Err(damaged(&key, "it is outside the outbox")) };
            self.tail.trail.trimmed = seq.0;
            // What cannot be read any more goes all the same.
            self.tail.trail.trimmed_sum = QueuedHead::decode(&key, &bytes).map_or(self.tail.trail.trimmed_sum, |head| head.sum);
            self.writes.insert(key, None);
            if matches!(why, Why::Crowded) {
                self.tail.trail.given_up += 1;
                if self.tail.trail.bytes() <= keep.bytes_max {
                    return Ok(());
                }
            }
        }
        if all {
            // Those that this very batch appends, and then a gap or nothing.
            self.writes.range_mut(from..to).for_each(|(_, value)| *value = None);
            self.tail.trail.trimmed = upto;
            if upto == self.tail.progress {
                self.tail.trail.trimmed_sum = self.tail.trail.progress_sum;
            }
        }
        Ok(())
    }

    /// Removes the marks of events that are gone.
    fn drop_marks(&mut self) -> Result<(), ReadError> {
        while let Some((upto, _)) = self.tail.trail.oldest
            && upto <= self.tail.trail.trimmed
            && self.writes.len() < COMMIT_RECORDS_MAX
        {
            self.writes.insert(key::delivered(Seq(upto)), None);
            self.tail.trail.oldest = match next_mark(self.disk, upto)? {
                Some(next) => Some(next),
                None => self.last_written_mark(upto)?,
            };
        }
        Ok(())
    }

    fn last_written_mark(&self, after: u64) -> Result<Option<(u64, u64)>, ReadError> {
        let range = key::all_delivered().after(key::delivered(Seq(after)));
        let Some((key, Some(bytes))) = self.writes.range(range.from..range.to).next() else { return Ok(None) };
        let Kind::Delivered(upto) = Kind::read(key)? else { return Ok(None) };
        Ok(Some((upto.0, value::mark(key, upto, bytes)?.run_ms)))
    }
}

/// An event of the journal or of the outbox, and what is known of its delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its position.
    pub seq: Seq,
    /// The event.
    pub event: OrderEvent,
    /// What became of it.
    pub fate: Fate,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Kafka has it.
    Delivered(Sent),
    /// Kafka has it; where was not written down.
    DeliveredSomewhere,
    /// It waits in the outbox.
    Queued,
    /// It is a dead letter, or waits behind one, or was one.
    Buried,
}

/// A step of a read of the journal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// What was found, by seq.
    pub entries: Vec<Entry>,
    /// Where the next step begins; `None` after the last.
    pub next: Option<Seq>,
    /// The first event that is kept.
    pub oldest: Option<(Seq, i64)>,
    /// When the first of them was delivered, in Unix milliseconds, as far as that is known.
    pub begins_ms: Option<i64>,
}

/// What to look for among what was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Delivered at this time or later, in Unix milliseconds.
    pub from_ms: i64,
    /// And before this.
    pub to_ms: i64,
    /// Of this order alone.
    pub order: Option<OrderId>,
}

/// What was delivered in a span of time, from the marks at `from` on: looks at so many of them that it is soon done.
pub(crate) fn delivered<R: Read>(disk: &R, wanted: &Wanted, from: Seq) -> Result<Page, ReadError> {
    let mut page = Page { oldest: oldest(disk)?, begins_ms: begins_ms(disk)?, ..Page::default() };
    let range = key::all_delivered().from(key::delivered(from));
    let marks = disk.range(&range.from, &range.to, STEP_MARKS_MAX, STEP_BYTES_MAX)?;
    let mut bytes_left = STEP_BYTES_MAX;
    for (key, bytes) in marks {
        let Kind::Delivered(upto) = Kind::read(&key)? else { continue };
        for sent in value::mark(&key, upto, &bytes)?.sent {
            // The rest of a mark that was begun belongs to the next step.
            if sent.seq < from || !(wanted.from_ms..wanted.to_ms).contains(&sent.at_ms) {
                continue;
            }
            let key = key::queued(sent.seq);
            let Some(bytes) = disk.get(&key)? else { continue };
            let event = value::queued(&key, &bytes)?;
            if wanted.order.as_ref().is_some_and(|order| *order != event.order_id) {
                continue;
            }
            if bytes.len() > bytes_left || page.entries.len() == STEP_ENTRIES_MAX {
                page.next = Some(sent.seq);
                return Ok(page);
            }
            bytes_left -= bytes.len();
            page.entries.push(Entry { seq: sent.seq, event, fate: Fate::Delivered(sent) });
        }
        page.next = Some(upto.next());
    }
    Ok(page)
}

/// The events of an order that happened in a span of time, from `from` on (0: where the span begins). Looks at so many that it is soon
/// done.
pub(crate) fn history<R: Read>(disk: &R, order: &OrderId, span_ms: (i64, i64), from: Seq) -> Result<Page, ReadError> {
    let mut page = Page { oldest: oldest(disk)?, ..Page::default() };
    let from = if from == Seq(0) { first_since(disk, span_ms.0)? } else { from };
    let progress = reads::progress(disk)?;
    let range = key::all_queued().from(key::queued(from));
    for (key, bytes) in disk.range(&range.from, &range.to, STEP_EVENTS_MAX, STEP_BYTES_MAX)? {
        let Kind::Queued(seq) = Kind::read(&key)? else { continue };
        let event = value::queued(&key, &bytes)?;
        if event.occurred_at_ms > span_ms.1 {
            page.next = None;
            return Ok(page);
        }
        page.next = Some(seq.next());
        if event.order_id == *order {
            let fate = if seq > progress { Fate::Queued } else { fate(disk, seq)? };
            page.entries.push(Entry { seq, event, fate });
        }
    }
    Ok(page)
}

fn fate<R: Read>(disk: &R, seq: Seq) -> Result<Fate, ReadError> {
    if disk.get(&key::dead(seq))?.is_some() || disk.get(&key::held_by_seq(seq))?.is_some() {
        return Ok(Fate::Buried);
    }
    let range = key::all_delivered().from(key::delivered(seq));
    let Some((key, bytes)) = disk.range(&range.from, &range.to, 1, 1)?.into_iter().next() else { return Ok(Fate::DeliveredSomewhere) };
    let Kind::Delivered(upto) = Kind::read(&key)? else { return Ok(Fate::DeliveredSomewhere) };
    let mark = value::mark(&key, upto, &bytes)?;
    Ok(mark.sent.iter().find(|sent| sent.seq == seq).map_or(Fate::DeliveredSomewhere, |sent| Fate::Delivered(*sent)))
}

/// When the first event that is kept was delivered: what was delivered before is gone.
fn begins_ms<R: Read>(disk: &R) -> Result<Option<i64>, ReadError> {
    let Some((first, _)) = oldest(disk)? else { return Ok(None) };
    let range = key::all_delivered();
    let Some((key, bytes)) = disk.range(&range.from, &range.to, 1, 1)?.into_iter().next() else { return Ok(None) };
    let Kind::Delivered(upto) = Kind::read(&key)? else { return Ok(None) };
    Ok(value::mark(&key, upto, &bytes)?.sent.iter().filter(|sent| sent.seq >= first).map(|sent| sent.at_ms).min())
}

/// The first event that is kept, and when it happened.
fn oldest<R: Read>(disk: &R) -> Result<Option<(Seq, i64)>, ReadError> {
    event_at(disk, Seq(0))
}

/// The first event at or behind a seq, and when it happened.
fn event_at<R: Read>(disk: &R, seq: Seq) -> Result<Option<(Seq, i64)>, ReadError> {
    let range = key::all_queued().from(key::queued(seq));
    let Some((key, bytes)) = disk.range(&range.from, &range.to, 1, 1)?.into_iter().next() else { return Ok(None) };
    let Kind::Queued(seq) = Kind::read(&key)? else { return Ok(None) };
    Ok(Some((seq, value::queued(&key, &bytes)?.occurred_at_ms)))
}

/// The first event that happened at a time or later: events are dated in the order of their seqs, unless the wall clock went back.
fn first_since<R: Read>(disk: &R, since_ms: i64) -> Result<Seq, ReadError> {
    let range = key::all_queued();
    let (Some((first, _)), Some((last, _))) = (oldest(disk)?, disk.last(&range.from, &range.to)?) else { return Ok(Seq(1)) };
    let Kind::Queued(last) = Kind::read(&last)? else { return Ok(first) };
    let (mut low, mut high) = (first.0, last.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match event_at(disk, Seq(middle))? {
            Some((_, at_ms)) if at_ms < since_ms => low = middle + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok(Seq(low.max(1)))
}

/// The commands that are kept, oldest first.
pub(crate) fn commands<R: Read>(disk: &R) -> Result<Vec<Command>, ReadError> {
    let mut commands = Vec::new();
    reads::for_each(disk, key::all_commands(), |key, bytes| {
        commands.push(value::command(key, bytes)?);
        Ok(())
    })?;
    Ok(commands)
}
