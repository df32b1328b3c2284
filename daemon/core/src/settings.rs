//! What the config decides for the core, with every bound by its name.

use crate::board::BoardRules;
use crate::dialect::Dialect;
use crate::ids::Name;

/// The core's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `gateway.id`.
    pub gateway: Name,
    /// `gateway.restaurant_ids`: the first one fills a missing `data.restaurantId`.
    pub restaurant_ids: Vec<String>,
    /// `orders.strict`: events for unknown orders are refused.
    pub strict_orders: bool,
    /// `uplink.dead_letters`: an order's later events wait behind its dead letter.
    pub hold_behind_dead: bool,
    /// `store.remember_days`, in milliseconds of running time.
    pub remember_ms: u64,
    /// `store.forget_orders_hours`, in milliseconds of running time.
    pub forget_details_ms: u64,
    /// `store.journal_days` is not 0: deliveries are written down.
    pub journal: bool,
    /// `store.new_card`; `None` where there is no Kafka to rebuild a new store from.
    pub new_card: Option<NewCard>,
    /// `[board]`.
    pub board: BoardRules,
    /// `centre.dialect`.
    pub dialect: Dialect,
    /// The bounds.
    pub limits: Limits,
}

/// How long a new store refuses requests while its own events are read back from Kafka. What it admits later, and not rebuilt yet, is
/// marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewCard {
    /// Until Kafka is reached.
    pub reach_max_ms: u64,
    /// Once it is.
    pub read_max_ms: u64,
}

/// Open orders that are kept in memory, and that the store reads when it is opened: the newest.
pub const OPEN_ORDERS_MAX: usize = 2_000;

/// Every bound of the core. Full means: refuse with a reason and a time, never drop and never grow.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `store.max_queued`: events in the outbox. The last tenth is for events of orders already stored.
    pub queued_events_max: u64,
    /// `store.max_queued_bytes`: bytes of events in the outbox; the last one may pass it. The last tenth likewise.
    pub queued_bytes_max: u64,
    /// Requests between submission and answer.
    pub requests_in_flight_max: usize,
    /// Copies of one request that wait for the same answer.
    pub waiters_max: usize,
    /// Requests in one commit. A commit may hold 1,000 records at most (the store's cure for torn writes), five a request.
    pub batch_requests_max: usize,
    /// Events removed by one commit, for the same reason.
    pub batch_forget_max: u64,
    /// Held events appended again by one commit, for the same reason.
    pub batch_release_max: usize,
    /// Status records between arrival and commit.
    pub statuses_in_flight_max: usize,
    /// Open orders. Beyond it new orders are refused: a house with so many has stopped bumping them.
    pub open_orders_max: usize,
    /// Events with the producer.
    pub window_events_max: usize,
    /// Bytes of events with the producer.
    pub window_bytes_max: usize,
    /// Dead letters. Beyond it new orders are refused: somebody has to look. Dead letters and what they hold count as queued as well.
    pub dead_letters_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queued_events_max: 200_000,
            queued_bytes_max: 1 << 30,
            requests_in_flight_max: 1024,
            waiters_max: 8,
            batch_requests_max: 120,
            batch_forget_max: 800,
            batch_release_max: 128,
            statuses_in_flight_max: 256,
            open_orders_max: OPEN_ORDERS_MAX,
            window_events_max: 2_000,
            window_bytes_max: 1 << 20,
            dead_letters_max: 10_000,
        }
    }
}
