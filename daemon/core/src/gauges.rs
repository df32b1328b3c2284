//! How full everything is, and what was counted.

use crate::gateway::Gateway;
use crate::io::Kept;

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Status records that could not be read.
    pub statuses_poison: u64,
    /// Status records that did not concern this house.
    pub statuses_foreign: u64,
    /// Our own events, read back.
    pub statuses_own: u64,
    /// Status records for orders that the house does not know.
    pub statuses_unknown: u64,
    /// Status records that were applied.
    pub statuses_applied: u64,
    /// Events that became dead letters.
    pub dead_lettered: u64,
    /// Requests that a new store remembers again.
    pub recalled: u64,
    /// Of those, what it had stored once more before.
    pub stored_twice: u64,
    /// Starts of other gateways with our id that were heard of.
    pub strangers: u64,
    /// Requests beyond [`Limits::requests_in_flight_max`].
    pub requests_refused: u64,
    /// Copies of a request beyond [`Limits::waiters_max`].
    pub copies_refused: u64,
    /// The most requests that one commit held.
    pub batch_requests_most: usize,
    /// Commits that held as many requests as they may, while more waited.
    pub batches_full: u64,
    /// Decisions about dead letters that were refused because too many were at work.
    pub decisions_refused: u64,
    /// Commands that were refused because too many waited to be written down.
    pub commands_refused: u64,
    /// Deliveries that will not be journalled because too many waited for it.
    pub deliveries_unwritten: u64,
}

/// How full everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Events in the outbox that Kafka does not have.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Admission of the oldest of them, Unix milliseconds, if it is in memory.
    pub oldest_queued_ms: Option<i64>,
    /// Requests between submission and answer.
    pub requests_in_flight: usize,
    /// The most copies of one request that waited for its answer since the start.
    pub copies_most: usize,
    /// Decisions about dead letters at work.
    pub decisions: usize,
    /// Commands that wait to be written down.
    pub commands: usize,
    /// Deliveries that wait to be written down.
    pub deliveries_unwritten: usize,
    /// Status records between arrival and commit.
    pub statuses_in_flight: usize,
    /// Events with the producer.
    pub window_events: usize,
    /// Their bytes.
    pub window_bytes: usize,
    /// Events that were sent again.
    pub retries: u64,
    /// Open orders in memory.
    pub open_orders: usize,
    /// Open orders that were crowded out of memory.
    pub open_orders_crowded_out: u64,
    /// Dead letters.
    pub dead_letters: usize,
    /// Dead letters and the events held behind them: they count against the outbox's bounds.
    pub kept: Kept,
    /// New orders are taken.
    pub accepting: bool,
    /// The store is new, and its own events are still to be read back from Kafka.
    pub rebuilding: bool,
    /// Since when the uplink has been failing, monotonic milliseconds.
    pub uplink_failed_since: Option<u64>,
    /// The last seq given.
    pub last_seq: u64,
    /// The wall time as it was last known, Unix milliseconds.
    pub last_wall_ms: i64,
    /// Counts since the start.
    pub tally: Tally,
}

impl Gateway {
    /// How full everything is.
    pub fn gauges(&self) -> Gauges {
        let (window_events, window_bytes, retries) = self.uplink.usage();
        let (open_orders, open_orders_crowded_out) = self.open.counts();
        Gauges {
            queued: self.queued(),
            queued_bytes: self.queued_bytes,
            oldest_queued_ms: self.uplink.oldest().map(|event| event.occurred_at_ms),
            requests_in_flight: self.flights.len(),
            copies_most: self.flights.copies_most(),
            decisions: self.releases.len(),
            commands: self.journal.waiting().0,
            deliveries_unwritten: self.journal.waiting().1,
            statuses_in_flight: self.downlink.len(),
            window_events,
            window_bytes,
            retries,
            open_orders,
            open_orders_crowded_out,
            dead_letters: self.uplink.dead_letters(),
            kept: self.kept,
            accepting: self.accepting && self.rebuild.refuses_until().is_none(),
            rebuilding: self.rebuild.is_under_way(),
            uplink_failed_since: self.uplink.failed_since(),
            last_seq: self.next_seq.0 - 1,
            last_wall_ms: self.last_wall_ms,
            tally: self.tally,
        }
    }
}
