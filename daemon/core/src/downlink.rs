//! From Kafka: status records between arrival and commit.
//!
//! Records are applied when their order's lane is free, so they may finish out of turn; the offset that is stored is that of the last
//! record before the first unfinished one. A record that is read twice changes nothing the second time.

use crate::dialect::Incoming;
use crate::io::{Found, PartitionName};
use crate::rebuild::Recalled;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How far a record has come.
#[derive(Debug)]
pub enum Stage {
    /// It waits for its order's lane, or for the store.
    Waiting,
    /// It was looked up and is ready to be applied.
    Ready(Box<Found>),
    /// It is part of the commit in flight.
    Committing,
    /// It is applied, or changes nothing.
    Done,
}

/// What a record tells.
#[derive(Debug)]
pub enum News {
    /// It changes nothing.
    None,
    /// What the centre says of an order.
    Status(Incoming),
    /// An own event, read back.
    Recalled(Arc<Recalled>),
}

/// A record in flight.
#[derive(Debug)]
pub struct Entry {
    /// Where it was read; `None` for one whose offset is not stored.
    place: Option<(PartitionName, i64)>,
    /// What it is.
    pub news: News,
    /// How far it has come.
    pub stage: Stage,
    /// An order that is born at the centre is this house's.
    pub ours: bool,
}

/// The records in flight, in order of arrival, and the offsets that are due.
#[derive(Debug, Default)]
pub struct Downlink {
    entries: VecDeque<Entry>,
    first: u64,
    /// Next offsets that are not stored yet.
    due: BTreeMap<PartitionName, i64>,
    due_since: Option<u64>,
    urgent: bool,
}

impl Downlink {
    /// How many records are in flight.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes a record in; gives its number. One without news is done already.
    pub fn push(&mut self, now: u64, place: Option<(PartitionName, i64)>, news: News, ours: bool) -> u64 {
        let stage = if matches!(news, News::None) { Stage::Done } else { Stage::Waiting };
        self.entries.push_back(Entry { place, news, stage, ours });
        let number = self.first + self.entries.len() as u64 - 1;
        self.settle(now);
        number
    }

    /// A record in flight.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Entry> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    /// Moves what is done at the front into the offsets that are due.
    pub fn settle(&mut self, now: u64) {
        while let Some(entry) = self.entries.front()
            && matches!(entry.stage, Stage::Done)
        {
            if let Some((at, offset)) = &entry.place {
                let due = self.due.entry(at.clone()).or_insert(offset + 1);
                *due = (*due).max(offset + 1);
                self.due_since.get_or_insert(now);
            }
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// The offsets that may be stored once the records of the commit that is being built are: as if these were done already.
    pub fn offsets_with_commit(&self) -> Vec<(PartitionName, i64)> {
        let mut offsets = self.due.clone();
        let finished = self.entries.iter().take_while(|e| matches!(e.stage, Stage::Done | Stage::Committing));
        for (at, offset) in finished.filter_map(|entry| entry.place.as_ref()) {
            let due = offsets.entry(at.clone()).or_insert(0);
            *due = (*due).max(offset + 1);
        }
        let mut offsets: Vec<_> = offsets.into_iter().collect();
        offsets.sort();
        offsets
    }

    /// Offsets are durable.
    pub fn offsets_stored(&mut self, stored: &[(PartitionName, i64)], now: u64) {
        for (at, offset) in stored {
            if self.due.get(at).is_some_and(|due| due <= offset) {
                self.due.remove(at);
            }
        }
        self.due_since = (!self.due.is_empty()).then_some(now);
        self.urgent &= !self.due.is_empty();
    }

    /// A place in a log that is stored with the next commit, and causes one: what lies below it would be told twice.
    pub fn place(&mut self, at: PartitionName, place: i64, now: u64) {
        self.due.insert(at, place);
        self.due_since.get_or_insert(now);
        self.urgent = true;
    }

    /// Whether what is due waits for no other commit.
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Since when an offset has been due.
    pub fn due_since(&self) -> Option<u64> {
        self.due_since
    }

    /// The commit in flight ended. What it held is done if it was stored, else to be looked up again.
    pub fn end_commit(&mut self, now: u64, stored: bool) {
        for entry in self.entries.iter_mut().filter(|e| matches!(e.stage, Stage::Committing)) {
            entry.stage = if stored { Stage::Done } else { Stage::Waiting };
        }
        self.settle(now);
    }

    /// The own event that a record in flight is.
    pub fn recalled(&self, number: u64) -> Option<&Arc<Recalled>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        match &self.entries.get(index)?.news {
            News::Recalled(recalled) => Some(recalled),
            News::None | News::Status(_) => None,
        }
    }

    /// Whether an own event is still to be recalled.
    pub fn is_recalling(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.news, News::Recalled(_)) && !matches!(entry.stage, Stage::Done))
    }

    /// Whether a record is still to be applied.
    pub fn is_unfinished(&self, number: u64) -> bool {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.entries.get(index)).is_some_and(|entry| !matches!(entry.stage, Stage::Done))
    }

    /// The store was opened again: what lies below its offsets is done, everything else that is unfinished is to be looked up again.
    pub fn restart(&mut self, now: u64, stored: &[(PartitionName, i64)]) {
        for entry in &mut self.entries {
            let place = entry.place.as_ref();
            if place.is_some_and(|(at, offset)| stored.iter().any(|(of, next)| of == at && offset < next)) {
                entry.stage = Stage::Done;
            } else if !matches!(entry.stage, Stage::Done) {
                entry.stage = Stage::Waiting;
            }
        }
        self.settle(now);
    }
}
