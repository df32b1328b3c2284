//! The store over any disk: what the core reads and writes, in its own types.

use crate::batch::{Batch, NOT_OURS, Tail};
use crate::check::{self, CheckReport};
use crate::day::{self, Cursor, OrdersStep, QueuedStep};
use crate::disk::{Disk, Op, Read, Space};
use crate::error::{ApplyError, CommitError, OpenError, ReadError};
use crate::export::{self, ExportError, ExportReport};
use crate::journal::{self, JournalUsage, Keep, Page, Trail};
use crate::layout::{FORMAT, Identity, key};
use crate::reads::{self, KeptEvent};
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, Name, OrderId, Seq};
use gateway::io::{Change, DeadLetter, Forgettable, Found, Old, Opened, Wanted};
use gateway::journal::Command;
use gateway::order::Projection;
use gateway::printed::{PrintKey, Printed};
use gateway::settings::OPEN_ORDERS_MAX;
use std::ops::Range;
use std::sync::Arc;

/// The durable store. It has one owner and no thread; every call returns when its work is done.
///
/// [`Store::apply`] returns only after the disk sync. Once it fails with an unclear outcome, all calls fail until [`Store::reopen`].
#[derive(Debug)]
pub struct Store<D> {
    pub(crate) disk: D,
    pub(crate) gateway: Name,
    pub(crate) tail: Tail,
    pub(crate) keep: Keep,
}

/// What the outbox knows of a seq, and of the epoch under which somebody claims to have given it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// All at or below it is accounted for.
    pub progress: Seq,
    /// The last seq given.
    pub last: Seq,
    /// The epoch of the event that waits there, if one does.
    pub epoch: Option<Epoch>,
}

impl<D: Disk> Store<D> {
    /// Opens the store on a disk, and a new one on an empty disk. It belongs to `gateway` from then on.
    ///
    /// # Errors
    /// It is a newer release's, another gateway's with events waiting, or unreadable. Nothing was changed.
    pub fn open(mut disk: D, gateway: Name) -> Result<(Store<D>, Opened), OpenError> {
        let (opened, tail) = read_opened(&disk)?;
        claim(&mut disk, &gateway, &opened)?;
        Ok((Store { disk, gateway, tail, keep: Keep::NOTHING }, opened))
    }

    /// The store, keeping a journal of what was delivered from now on.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Store<D> {
        Store { keep, ..self }
    }

    /// How full the journal is.
    pub fn journal_usage(&self) -> JournalUsage {
        self.tail.trail.usage(self.tail.progress)
    }

    /// Opens the disk again, and reads what is durable.
    ///
    /// # Errors
    /// As [`Store::open`]; the store stays closed and this may be tried again.
    pub fn reopen(&mut self) -> Result<Opened, OpenError> {
        self.disk.reopen()?;
        let (opened, tail) = read_opened(&self.disk)?;
        claim(&mut self.disk, &self.gateway, &opened)?;
        self.tail = tail;
        Ok(opened)
    }

    /// Writes a batch, all or nothing, and returns once it is durable. The last change of a key wins. What [`Change::Forget`] names is
    /// not read as queued any more; its bytes are removed by this and the next commits, so far as their bound leaves room, or stay in the
    /// journal.
    ///
    /// # Errors
    /// [`ApplyError::Refused`] and [`CommitError::NoSpace`]: nothing was written, the store goes on.
    /// [`CommitError::Unclear`]: only [`Store::reopen`] tells whether it happened.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        // What is short of room gives the journal up before it refuses an order.
        let keep = if self.disk.is_short() { Keep { bytes_max: 0, ..self.keep } } else { self.keep };
        let mut batch = Batch::new(&self.disk, self.tail, keep);
        for change in changes {
            batch.add(change)?;
        }
        let (ops, space, tail) = batch.finish()?;
        if !ops.is_empty() {
            self.disk.commit(&ops, space)?;
        }
        self.tail = tail;
        Ok(())
    }

    /// Looks a request, an order, a session or a dead letter up.
    ///
    /// # Errors
    /// Nothing is known; the store has to be opened again.
    pub fn load(&self, wanted: &Wanted) -> Result<Found, ReadError> {
        reads::load(&self.disk, wanted)
    }

    /// Reads the outbox from `from` on, without gaps: at most `events_max` events, and none more once they reach `bytes_max`.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn read_head(&self, from: Seq, events_max: usize, bytes_max: usize) -> Result<Vec<(Seq, Arc<OrderEvent>)>, ReadError> {
        reads::head(&self.disk, from, events_max, bytes_max)
    }

    /// Looks at up to `keys_max` remembered requests and closed orders from `from` on. Gives what is to be forgotten of those that are
    /// `old`, and where the next sweep begins (`None`: at the start).
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn sweep(
        &self,
        from: Option<&Forgettable>,
        keys_max: usize,
        old: Old,
    ) -> Result<(Vec<Forgettable>, Option<Forgettable>), ReadError> {
        reads::sweep(&self.disk, from, keys_max, old)
    }

    /// An order, open or closed.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn order(&self, order: &OrderId) -> Result<Option<Projection>, ReadError> {
        reads::order(&self.disk, order)
    }

    /// At most `orders_max` open orders, in order of their ids.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn open_orders(&self, orders_max: usize) -> Result<Vec<Projection>, ReadError> {
        reads::open_orders(&self.disk, orders_max)
    }

    /// What a printer has of an order; without an order, something if the printer is known.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn printed(&self, key: &PrintKey) -> Result<Option<Printed>, ReadError> {
        reads::printed(&self.disk, key)
    }

    /// Orders that ended by being cancelled after the printer had a ticket of them, and of which it has no cancellation: of the first
    /// `marks_max` behind `after` of which it has something, and where the next step begins.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn cancelled_since_printed(
        &self,
        printer: &Name,
        after: Option<&OrderId>,
        marks_max: usize,
    ) -> Result<(Vec<Projection>, Option<OrderId>), ReadError> {
        reads::cancelled_since_printed(&self.disk, printer, after, marks_max)
    }

    /// At most `events_max` dead letters and held events, by seq, of those behind `after` up to and with `upto`.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn kept_events(&self, after: Seq, upto: Seq, events_max: usize) -> Result<Vec<(Seq, KeptEvent)>, ReadError> {
        reads::kept_events(&self.disk, after, upto, events_max)
    }

    /// At most `letters_max` dead letters behind `after`, by seq, each with how many events are held behind it.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn dead_letters(&self, after: Seq, letters_max: usize) -> Result<Vec<(Seq, DeadLetter, u64)>, ReadError> {
        reads::dead_letters(&self.disk, after, letters_max)
    }

    /// What was delivered in a span of time, from `from` on: one step.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn delivered(&self, wanted: &journal::Wanted, from: Seq) -> Result<Page, ReadError> {
        journal::delivered(&self.disk, wanted, from)
    }

    /// The events of an order that happened in a span of time in Unix milliseconds, from `from` on (0: all): one step.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn history(&self, order: &OrderId, span_ms: (i64, i64), from: Seq) -> Result<Page, ReadError> {
        journal::history(&self.disk, order, span_ms, from)
    }

    /// The orders that were made in a span of time in Unix milliseconds, from `from` on (`None`: all): one step.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn orders_of(&self, span_ms: &Range<i64>, from: Option<Cursor>) -> Result<OrdersStep, ReadError> {
        day::orders(&self.disk, span_ms, from)
    }

    /// How many events of a span of time in Unix milliseconds wait, from `from` on: one step.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn queued_of(&self, span_ms: &Range<i64>, from: Seq) -> Result<QueuedStep, ReadError> {
        day::queued(&self.disk, span_ms, from)
    }

    /// The commands that are journalled, oldest first.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn commands(&self) -> Result<Vec<Command>, ReadError> {
        journal::commands(&self.disk)
    }

    /// What is known of a seq.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn place(&self, seq: Seq) -> Result<Place, ReadError> {
        let waits = seq.0 > self.tail.progress && seq.0 < self.tail.next_seq;
        let epoch = if waits { reads::queued(&self.disk, seq)?.map(|event| event.epoch) } else { None };
        Ok(Place { progress: Seq(self.tail.progress), last: Seq(self.tail.next_seq - 1), epoch })
    }

    /// Whether an event was ever stored here under this epoch.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn knows(&self, epoch: Epoch) -> Result<bool, ReadError> {
        let ours = reads::starts(&self.disk)?.iter().any(|start| start.epoch == epoch && start.first != NOT_OURS);
        Ok(ours || reads::imported(&self.disk, epoch)?)
    }

    /// Reads every record and compares them with each other: for `store check` and for the simulator. As slow as the store is large.
    ///
    /// # Errors
    /// As [`Store::load`]. Records that are wrong are in the report.
    pub fn check(&self) -> Result<CheckReport, ReadError> {
        check::check(&self.disk)
    }

    /// Writes a JSON line for each event that Kafka has not got.
    ///
    /// # Errors
    /// The store cannot be read or the lines cannot be written.
    pub fn export(&self, out: impl std::io::Write) -> Result<ExportReport, ExportError> {
        export::export(&self.disk, &self.gateway, out)
    }

    /// The disk below.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The disk below, for the faults of a simulator.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.disk
    }
}

pub(crate) fn identity<R: Read>(disk: &R) -> Result<Option<Identity>, OpenError> {
    let Some(bytes) = disk.get(&key::identity())? else { return Ok(None) };
    let found = Identity::format(&bytes)?;
    if found > FORMAT {
        return Err(OpenError::Newer { found, known: FORMAT });
    }
    Ok(Some(Identity::decode(&bytes)?))
}

/// Reads what the core and the store keep in memory. Looks at the format first: nothing of a newer store may be guessed at.
fn read_opened<R: Read>(disk: &R) -> Result<(Opened, Tail), OpenError> {
    identity(disk)?;
    let progress = reads::progress(disk)?;
    let ends = reads::queue_ends(disk)?;
    let last_lost = reads::lost(disk)?.last().map_or(Seq(0), |(_, last)| *last);
    let last = ends.map_or(progress, |[_, (last, _)]| last.max(progress)).max(last_lost);
    let sum = ends.map_or(0, |[_, (_, head)]| head.sum);
    let queued_bytes = reads::sum_at_progress(disk, progress, last)?.map_or(0, |before| sum.saturating_sub(before));
    let starts = reads::starts(disk)?;
    let opened = Opened {
        next_seq: last.next(),
        progress,
        queued_bytes,
        counters: reads::counters(disk)?,
        open: reads::newest_open_orders(disk, OPEN_ORDERS_MAX)?,
        is_new: starts.iter().all(|start| start.first == NOT_OURS),
        epochs: starts.into_iter().map(|start| start.epoch).collect(),
        offsets: reads::offsets(disk)?,
        ..reads::buried(disk, progress)?
    };
    let (trimmed, before_first) = ends.map_or((progress, 0), |[(first, head), _]| (Seq(first.0 - 1), head.sum - u64::from(head.weight)));
    let trail = Trail::read(disk, trimmed.min(progress).0, before_first, sum.saturating_sub(queued_bytes))?;
    Ok((opened, Tail { next_seq: last.0 + 1, progress: progress.0, sum, trail }))
}

/// Writes the gateway's id into a store that has none, or that holds nothing of another's.
fn claim<D: Disk>(disk: &mut D, gateway: &Name, opened: &Opened) -> Result<(), OpenError> {
    if let Some(found) = identity(disk)? {
        let queued = opened.next_seq.0 - 1 - opened.progress.0;
        if found.gateway == *gateway {
            return Ok(());
        }
        if queued > 0 || !opened.dead.is_empty() {
            return Err(OpenError::OtherGateway { found: found.gateway, wanted: gateway.clone(), queued, dead: opened.dead.len() });
        }
    }
    let value = Identity { format: FORMAT, gateway: gateway.clone() }.encode();
    disk.commit(&[Op { key: key::identity(), value: Some(value) }], Space::Reserve).map_err(|e| match e {
        CommitError::NoSpace(reason) => OpenError::NoSpace(reason),
        CommitError::Unclear(reason) => OpenError::Disk(reason),
    })
}
