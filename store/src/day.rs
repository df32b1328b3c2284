//! What the end of a day is counted from: the orders that were made in a span of time, and the events of it that Kafka has not got. Each
//! read is one small step, so that no commit waits for long.

use crate::disk::Read;
use crate::error::ReadError;
use crate::layout::{Kind, key, value};
use gateway::ids::Seq;
use gateway::order::Projection;
use std::ops::Range;

/// Records, and about how many bytes of them, that one step looks at.
const STEP_RECORDS_MAX: usize = 256;
const STEP_BYTES_MAX: usize = 256 * 1024;

/// How far a read of the orders has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(Vec<u8>);

/// A step of a read of the orders: the open ones first, then those that left the board.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OrdersStep {
    /// Those of the span.
    pub orders: Vec<Projection>,
    /// Where the next step begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// A step of a read of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueuedStep {
    /// How many events of the span wait.
    pub events: u64,
    /// When the first of them happened, in Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// Where the next step begins; `None` after the last.
    pub next: Option<Seq>,
}

pub(crate) fn orders<R: Read>(disk: &R, span_ms: &Range<i64>, from: Option<Cursor>) -> Result<OrdersStep, ReadError> {
    let (open, closed) = (key::all_open_orders(), key::all_closed_orders());
    let (in_open, range) = match from {
        None => (true, open),
        Some(Cursor(last)) if last < open.to => (true, open.after(last)),
        Some(Cursor(last)) => (false, closed.clone().after(last)),
    };
    let mut step = OrdersStep::default();
    let records = disk.range(&range.from, &range.to, STEP_RECORDS_MAX, STEP_BYTES_MAX)?;
    for (key, bytes) in &records {
        if span_ms.contains(&value::created_at_ms(key, bytes)?) {
            step.orders.push(value::projection(key, bytes)?);
        }
    }
    step.next = match records.into_iter().next_back() {
        Some((last, _)) => Some(Cursor(last)),
        None => in_open.then_some(Cursor(closed.from)),
    };
    Ok(step)
}

pub(crate) fn queued<R: Read>(disk: &R, span_ms: &Range<i64>, from: Seq) -> Result<QueuedStep, ReadError> {
    let range = key::all_queued().from(key::queued(from));
    let mut step = QueuedStep::default();
    for (key, bytes) in disk.range(&range.from, &range.to, STEP_RECORDS_MAX, STEP_BYTES_MAX)? {
        let Kind::Queued(seq) = Kind::read(&key)? else { continue };
        let at_ms = value::queued(&key, &bytes)?.occurred_at_ms;
        step.next = Some(seq.next());
        if span_ms.contains(&at_ms) {
            step.events += 1;
            step.oldest_ms = Some(step.oldest_ms.map_or(at_ms, |oldest| oldest.min(at_ms)));
        }
    }
    Ok(step)
}
