//! The canonical event: what the outbox keeps. A dialect encodes it when it is delivered.

use crate::ids::{Epoch, OrderId, RequestKey};
use crate::request::EventType;
use serde::{Deserialize, Serialize};

/// An `OrderEvent` as admitted. (gateway, epoch, seq) names it for ever; the seq is its key in the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEvent {
    /// The start under which it was admitted.
    pub epoch: Epoch,
    /// Who submitted it, under which request id.
    pub request: RequestKey,
    /// A UUID of version 7.
    pub id: [u8; 16],
    /// Its type.
    pub event_type: EventType,
    /// The order.
    pub order_id: OrderId,
    /// The customer or member of staff, as the terminal named them.
    pub user_id: Option<String>,
    /// When it was admitted, Unix milliseconds. Never earlier than an earlier event's, and never later than a later one's, unless the
    /// wall clock went back.
    pub occurred_at_ms: i64,
    /// Whether the wall clock was known then.
    pub clock: Clock,
    /// The event's `data`: a JSON object as text, with the gateway's own fields added.
    pub data: String,
}

/// Whether the device knew the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clock {
    /// The wall clock was known.
    Synced,
    /// It was not: `occurred_at_ms` is the time as last known.
    Unset,
}

impl Clock {
    /// The header's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Clock::Synced => "synced",
            Clock::Unset => "unset",
        }
    }
}

impl OrderEvent {
    /// About how many bytes it takes in memory and on disk: for limits, not for layouts.
    pub fn weight(&self) -> usize {
        let user = self.user_id.as_deref().map_or(0, str::len);
        let ids = self.request.terminal.as_str().len() + self.request.request_id.as_str().len() + self.order_id.as_str().len();
        64 + ids + user + self.data.len()
    }
}
