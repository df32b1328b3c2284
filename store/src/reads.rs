//! Reading: look-ups, the outbox's head, sweeps and lists, over anything that can be read.

use crate::disk::Read;
use crate::error::ReadError;
use crate::layout::{Kind, QueuedHead, Range, damaged, key, value};
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, Name, OrderId, Seq};
use gateway::io::{Buried, Counters, DeadLetter, Forgettable, Found, HELD_READ_MAX, Old, Opened, PartitionName, Wanted};
use gateway::order::{Projection, Status};
use gateway::printed::{PrintKey, Printed};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// An event that is kept beside the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptEvent {
    /// A dead letter.
    Letter(DeadLetter),
    /// It waits behind its order's dead letter.
    Held {
        /// The dead letter.
        behind: Seq,
        /// The event.
        event: OrderEvent,
    },
}

/// Records, and about how many bytes of them, that one step of a longer read holds in memory.
const STEP_RECORDS_MAX: usize = 256;
const STEP_BYTES_MAX: usize = 256 * 1024;

/// Hands every record of a range to `each`, a bounded step at a time.
pub(crate) fn for_each<R: Read>(
    disk: &R,
    range: Range,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut rest = range;
    loop {
        let step = disk.range(&rest.from, &rest.to, STEP_RECORDS_MAX, STEP_BYTES_MAX)?;
        for (key, value) in &step {
            each(key, value)?;
        }
        match step.into_iter().next_back() {
            Some((last, _)) => rest = rest.after(last),
            None => return Ok(()),
        }
    }
}

pub(crate) fn load<R: Read>(disk: &R, wanted: &Wanted) -> Result<Found, ReadError> {
    let mut found = Found::default();
    if let Some(request) = &wanted.request {
        let key = key::request(request);
        found.request = disk.get(&key)?.map(|bytes| value::remembered(&key, &bytes)).transpose()?;
    }
    if let Some(id) = &wanted.order {
        found.order = order(disk, id)?;
    }
    if let Some((terminal, session)) = &wanted.session {
        let key = key::session(terminal, *session);
        found.session = disk.get(&key)?.map(|bytes| value::session(&key, &bytes)).transpose()?.map(|(number, _)| number);
    }
    if let Some(seq) = wanted.dead_letter {
        found.dead_letter = dead_letter(disk, seq)?;
    }
    Ok(found)
}

pub(crate) fn order<R: Read>(disk: &R, id: &OrderId) -> Result<Option<Projection>, ReadError> {
    for key in [key::open_order(id), key::closed_order(id)] {
        if let Some(bytes) = disk.get(&key)? {
            return value::projection(&key, &bytes).map(Some);
        }
    }
    Ok(None)
}

fn dead_letter<R: Read>(disk: &R, seq: Seq) -> Result<Option<Buried>, ReadError> {
    let key = key::dead(seq);
    let letter = disk.get(&key)?.map(|bytes| value::dead_letter(&key, &bytes)).transpose()?;
    let range = key::held_behind(seq);
    let mut records = disk.range(&range.from, &range.to, HELD_READ_MAX + 1, usize::MAX)?;
    let more = records.len() > HELD_READ_MAX;
    records.truncate(HELD_READ_MAX);
    let mut held = Vec::with_capacity(records.len());
    for (key, bytes) in records {
        if let Kind::Held(_, seq) = Kind::read(&key)? {
            held.push((seq, Arc::new(value::event(&key, &bytes)?)));
        }
    }
    Ok((letter.is_some() || !held.is_empty()).then_some(Buried { letter, held, more }))
}

/// At most `letters_max` dead letters behind `after`, each with how many events are held behind it.
pub(crate) fn dead_letters<R: Read>(disk: &R, after: Seq, letters_max: usize) -> Result<Vec<(Seq, DeadLetter, u64)>, ReadError> {
    let range = key::all_dead().after(key::dead(after));
    let mut letters = Vec::new();
    for (key, bytes) in disk.range(&range.from, &range.to, letters_max, usize::MAX)? {
        let Kind::Dead(seq) = Kind::read(&key)? else { continue };
        let mut held = 0;
        for_each(disk, key::held_behind(seq), |_, _| {
            held += 1;
            Ok(())
        })?;
        letters.push((seq, value::dead_letter(&key, &bytes)?, held));
    }
    Ok(letters)
}

/// At most `events_max` of the events that are kept beside the outbox, by seq, of those behind `after` up to and with `upto`.
pub(crate) fn kept_events<R: Read>(disk: &R, after: Seq, upto: Seq, events_max: usize) -> Result<Vec<(Seq, KeptEvent)>, ReadError> {
    let (first, last) = (after.next(), upto.next());
    let mut kept = Vec::new();
    for (key, bytes) in disk.range(&key::dead(first), &key::dead(last), events_max, usize::MAX)? {
        if let Kind::Dead(seq) = Kind::read(&key)? {
            kept.push((seq, KeptEvent::Letter(value::dead_letter(&key, &bytes)?)));
        }
    }
    for (key, bytes) in disk.range(&key::held_by_seq(first), &key::held_by_seq(last), events_max, usize::MAX)? {
        let Kind::HeldBySeq(seq) = Kind::read(&key)? else { continue };
        let behind = value::seq(&key, &bytes)?;
        let key = key::held(behind, seq);
        let bytes = disk.get(&key)?.ok_or_else(|| damaged(&key, "the held event is missing"))?;
        kept.push((seq, KeptEvent::Held { behind, event: value::event(&key, &bytes)? }));
    }
    kept.sort_by_key(|(seq, _)| *seq);
    kept.truncate(events_max);
    Ok(kept)
}

/// The outbox from `from` on, without gaps but for those that a rescue left: behind one of these the next events come as if it were none.
pub(crate) fn head<R: Read>(disk: &R, from: Seq, events_max: usize, bytes_max: usize) -> Result<Vec<(Seq, Arc<OrderEvent>)>, ReadError> {
    let range = key::all_queued().from(key::queued(from));
    let records = disk.range(&range.from, &range.to, events_max, bytes_max)?;
    let mut events = Vec::with_capacity(records.len());
    let mut expected = from;
    for (key, bytes) in records {
        let Kind::Queued(seq) = Kind::read(&key)? else { return Err(damaged(&key, "it is outside the outbox")) };
        if seq != expected && !is_lost(disk, expected, Seq(seq.0 - 1))? {
            return Err(damaged(&key, format!("seq {expected} is missing before it")));
        }
        events.push((seq, Arc::new(value::queued(&key, &bytes)?)));
        expected = seq.next();
    }
    Ok(events)
}

/// The event that waits at a seq, if one does.
pub(crate) fn queued<R: Read>(disk: &R, seq: Seq) -> Result<Option<OrderEvent>, ReadError> {
    let key = key::queued(seq);
    disk.get(&key)?.map(|bytes| value::queued(&key, &bytes)).transpose()
}

/// Whether all seqs from `first` to `last` are known to be lost. There are few such ranges, and most often none.
pub(crate) fn is_lost<R: Read>(disk: &R, first: Seq, last: Seq) -> Result<bool, ReadError> {
    Ok(lost(disk)?.iter().any(|(from, to)| *from <= first && last <= *to))
}

/// The ranges of seqs that a rescue found no event for, first and last of each.
pub(crate) fn lost<R: Read>(disk: &R) -> Result<Vec<(Seq, Seq)>, ReadError> {
    let mut lost = Vec::new();
    for_each(disk, key::all_lost(), |key, bytes| {
        if let Kind::Lost(first) = Kind::read(key)? {
            lost.push((first, value::seq(key, bytes)?));
        }
        Ok(())
    })?;
    Ok(lost)
}

/// Looks at up to `keys_max` forgettable records from `from` on: first remembered requests, then closed orders, then what
/// printers have. Gives what is old
/// enough, and where the next sweep begins.
pub(crate) fn sweep<R: Read>(
    disk: &R,
    from: Option<&Forgettable>,
    keys_max: usize,
    old: Old,
) -> Result<(Vec<Forgettable>, Option<Forgettable>), ReadError> {
    let begin = from.map(key::forgettable);
    let ranges = match (from, begin) {
        (None, _) | (_, None) => vec![key::all_requests(), key::all_closed_orders(), key::all_printed()],
        (Some(Forgettable::Request(_)), Some(key)) => vec![key::all_requests().from(key), key::all_closed_orders(), key::all_printed()],
        (Some(Forgettable::Order(_) | Forgettable::Details(_)), Some(key)) => {
            vec![key::all_closed_orders().from(key), key::all_printed()]
        }
        (Some(Forgettable::Print(_)), Some(key)) => vec![key::all_printed().from(key)],
    };
    let mut expired = Vec::new();
    let mut left = keys_max;
    for mut rest in ranges {
        loop {
            // One more than may be looked at: it tells where the next sweep begins.
            let step = disk.range(&rest.from, &rest.to, left.saturating_add(1).min(STEP_RECORDS_MAX), STEP_BYTES_MAX)?;
            let Some((last, _)) = step.last() else { break };
            rest = rest.after(last.clone());
            for (key, bytes) in &step {
                let (what, forget) = forgettable(disk, key, bytes, old)?;
                if left == 0 {
                    return Ok((expired, Some(what)));
                }
                left -= 1;
                if forget {
                    expired.push(what);
                }
            }
        }
    }
    Ok((expired, None))
}

/// What a record is, and whether it is to be forgotten.
fn forgettable<R: Read>(disk: &R, key: &[u8], bytes: &[u8], old: Old) -> Result<(Forgettable, bool), ReadError> {
    let is_old = |changed_ms: u64, before_ms: Option<u64>| before_ms.is_some_and(|before_ms| changed_ms <= before_ms);
    match Kind::read(key)? {
        Kind::Request(request) => {
            let stored_run_ms = value::remembered(key, bytes)?.stored_run_ms;
            Ok((Forgettable::Request(request), is_old(stored_run_ms, old.expired_ms)))
        }
        Kind::ClosedOrder(id) => {
            let order = value::projection(key, bytes)?;
            if is_old(order.changed_run_ms, old.expired_ms) || !is_old(order.changed_run_ms, old.details_ms) {
                return Ok((Forgettable::Order(id), is_old(order.changed_run_ms, old.expired_ms)));
            }
            let has_details = order.without_details() != order;
            Ok((Forgettable::Details(id), has_details))
        }
        // It has no age of its own: it goes when its order's lines go, and that a printer is known stays.
        Kind::Printed(print) => {
            let of = |key: Vec<u8>| disk.get(&key)?.map(|bytes| value::projection(&key, &bytes)).transpose();
            let forget = match &print.order {
                None => false,
                Some(id) if of(key::open_order(id))?.is_some() => false,
                Some(id) => of(key::closed_order(id))?.is_none_or(|order| is_old(order.changed_run_ms, old.details_ms)),
            };
            Ok((Forgettable::Print(print), forget))
        }
        _ => Err(damaged(key, "it is outside the ranges that are swept")),
    }
}

/// What a printer has of an order; without an order, whether the printer is known.
pub(crate) fn printed<R: Read>(disk: &R, wanted: &PrintKey) -> Result<Option<Printed>, ReadError> {
    let key = key::printed(wanted);
    disk.get(&key)?.map(|bytes| value::printed(&key, &bytes)).transpose()
}

/// Of the first `marks_max` orders behind `after` of which the printer has something: those that ended by being cancelled, and of which
/// it does not surely say so. And where the next step begins.
pub(crate) fn cancelled_since_printed<R: Read>(
    disk: &R,
    printer: &Name,
    after: Option<&OrderId>,
    marks_max: usize,
) -> Result<(Vec<Projection>, Option<OrderId>), ReadError> {
    let of = |order: Option<&OrderId>| key::printed(&PrintKey { printer: printer.clone(), order: order.cloned() });
    let range = key::printed_by(printer).after(of(after));
    let (mut cancelled, mut last) = (Vec::new(), None);
    let step = disk.range(&range.from, &range.to, marks_max, usize::MAX)?;
    let more = step.len() == marks_max;
    for (key, bytes) in step {
        let Kind::Printed(PrintKey { order: Some(id), .. }) = Kind::read(&key)? else { continue };
        let printed = value::printed(&key, &bytes)?;
        if !printed.sure.is_some_and(|paper| paper.cancelled)
            && let Some(bytes) = disk.get(&key::closed_order(&id))?
        {
            let order = value::projection(&key, &bytes)?;
            cancelled.extend(Some(order).filter(|order| order.status == Status::Cancelled));
        }
        last = Some(id);
    }
    Ok((cancelled, last.filter(|_| more)))
}

/// At most `orders_max` open orders, in order of their ids.
pub(crate) fn open_orders<R: Read>(disk: &R, orders_max: usize) -> Result<Vec<Projection>, ReadError> {
    let mut orders = Vec::new();
    let mut rest = key::all_open_orders();
    while orders.len() < orders_max {
        let step = disk.range(&rest.from, &rest.to, (orders_max - orders.len()).min(STEP_RECORDS_MAX), STEP_BYTES_MAX)?;
        for (key, bytes) in &step {
            orders.push(value::projection(key, bytes)?);
        }
        match step.into_iter().next_back() {
            Some((last, _)) => rest = rest.after(last),
            None => break,
        }
    }
    Ok(orders)
}

/// The open orders that were created last, at most `orders_max`, in order of their ids. Looks at all of them and keeps no more in memory.
pub(crate) fn newest_open_orders<R: Read>(disk: &R, orders_max: usize) -> Result<Vec<Projection>, ReadError> {
    let mut newest = BinaryHeap::new();
    for_each(disk, key::all_open_orders(), |key, bytes| {
        newest.push(Reverse((value::created_at_ms(key, bytes)?, key.to_vec())));
        if newest.len() > orders_max {
            newest.pop();
        }
        Ok(())
    })?;
    let mut keys: Vec<_> = newest.into_iter().map(|Reverse((_, key))| key).collect();
    keys.sort();
    let mut orders = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(bytes) = disk.get(&key)? {
            orders.push(value::projection(&key, &bytes)?);
        }
    }
    Ok(orders)
}

/// A start of the daemon, or one whose events were imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub ordinal: u64,
    pub epoch: Epoch,
    /// The next seq to give as it began; 0 for one of another device.
    pub first: Seq,
}

/// Every start that is remembered, oldest first.
pub(crate) fn starts<R: Read>(disk: &R) -> Result<Vec<Start>, ReadError> {
    let mut starts = Vec::new();
    for_each(disk, key::all_epochs(), |key, bytes| {
        if let Kind::Epoch(ordinal) = Kind::read(key)? {
            let (epoch, first) = value::epoch(key, bytes)?;
            starts.push(Start { ordinal, epoch, first });
        }
        Ok(())
    })?;
    Ok(starts)
}

/// Whether events of an epoch were imported.
pub(crate) fn imported<R: Read>(disk: &R, epoch: Epoch) -> Result<bool, ReadError> {
    let mut found = false;
    for_each(disk, key::all_imported(), |key, _| {
        found |= matches!(Kind::read(key)?, Kind::Imported(of, _) if of == epoch);
        Ok(())
    })?;
    Ok(found)
}

pub(crate) fn offsets<R: Read>(disk: &R) -> Result<Vec<(PartitionName, i64)>, ReadError> {
    let mut offsets = Vec::new();
    for_each(disk, key::all_offsets(), |key, bytes| {
        if let Kind::Offset(at) = Kind::read(key)? {
            offsets.push((at, value::offset(key, bytes)?));
        }
        Ok(())
    })?;
    Ok(offsets)
}

/// What of [`Opened`] concerns dead letters and held events.
pub(crate) fn buried<R: Read>(disk: &R, progress: Seq) -> Result<Opened, ReadError> {
    let mut opened = Opened::default();
    for_each(disk, key::all_dead(), |key, bytes| {
        if let Kind::Dead(seq) = Kind::read(key)? {
            let event = value::dead_letter(key, bytes)?.event;
            opened.kept.add(&event);
            opened.dead.push((seq, event.order_id));
        }
        Ok(())
    })?;
    for_each(disk, key::all_held(), |key, bytes| {
        if let Kind::Held(dead, seq) = Kind::read(key)? {
            let event = value::event(key, bytes)?;
            opened.kept.add(&event);
            opened.held.extend(Some(seq).filter(|seq| *seq > progress));
            // Both are in order of their dead letters' seqs.
            let known = opened.dead.binary_search_by_key(&dead, |(seq, _)| *seq).is_ok();
            if known && opened.holding.last() != Some(&dead) {
                opened.holding.push(dead);
            } else if !known && opened.releasing.last().is_none_or(|(last, _)| *last != dead) {
                opened.releasing.push((dead, event.order_id));
            }
        }
        Ok(())
    })?;
    Ok(opened)
}

pub(crate) fn counters<R: Read>(disk: &R) -> Result<Counters, ReadError> {
    let key = key::counters();
    disk.get(&key)?.map_or(Ok(Counters::default()), |bytes| value::counters(&key, &bytes))
}

pub(crate) fn progress<R: Read>(disk: &R) -> Result<Seq, ReadError> {
    let key = key::progress();
    disk.get(&key)?.map_or(Ok(Seq(0)), |bytes| value::seq(&key, &bytes))
}

/// The outbox's first and last records that are there.
pub(crate) fn queue_ends<R: Read>(disk: &R) -> Result<Option<[(Seq, QueuedHead); 2]>, ReadError> {
    let range = key::all_queued();
    let first = disk.range(&range.from, &range.to, 1, 1)?.into_iter().next();
    let (Some(first), Some(last)) = (first, disk.last(&range.from, &range.to)?) else { return Ok(None) };
    let end = |(key, bytes): (Vec<u8>, Vec<u8>)| match Kind::read(&key)? {
        Kind::Queued(seq) => Ok((seq, QueuedHead::decode(&key, &bytes)?)),
        _ => Err(damaged(&key, "it is outside the outbox")),
    };
    Ok(Some([end(first)?, end(last)?]))
}

/// The weights of all events up to and with the progress, as the outbox counts them; `None` if nothing is queued.
pub(crate) fn sum_at_progress<R: Read>(disk: &R, progress: Seq, last: Seq) -> Result<Option<u64>, ReadError> {
    let (from, to) = (key::queued(progress.next()), key::queued(last.next()));
    if from >= to {
        return Ok(None);
    }
    let Some((key, bytes)) = disk.range(&from, &to, 1, 1)?.into_iter().next() else { return Ok(None) };
    let head = QueuedHead::decode(&key, &bytes)?;
    Ok(Some(head.sum.saturating_sub(u64::from(head.weight))))
}
