//! The board: which orders stand on it, in which column, and for how long.

use crate::ids::OrderId;
use crate::order::{Projection, Status};
use serde_json::{Value, json};

/// Most orders that a board shows: the newest.
pub const BOARD_ORDERS_MAX: usize = 200;

/// When orders leave the board by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardRules {
    /// After READY.
    pub ready_ms: u64,
    /// After the last change.
    pub unchanged_ms: u64,
}

impl Default for BoardRules {
    fn default() -> Self {
        BoardRules { ready_ms: 20 * 60_000, unchanged_ms: 12 * 3_600_000 }
    }
}

impl BoardRules {
    /// The running time at which an order that stands on the board leaves it; with an alarm, not for being READY.
    pub fn leaves_at(&self, order: &Projection) -> u64 {
        let ready = order.ready_run_ms.filter(|_| order.alarm.is_none()).map_or(u64::MAX, |at| at.saturating_add(self.ready_ms));
        ready.min(order.changed_run_ms.saturating_add(self.unchanged_ms))
    }
}

/// What a customers' board shows of one order: no more than may be read from the street.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The order.
    pub order_id: OrderId,
    /// What people call out.
    pub number: String,
    /// Its status.
    pub status: Status,
}

/// The customers' board: oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Board {
    /// In preparation: CREATED to PREPARING.
    pub preparing: Vec<Entry>,
    /// May be collected: READY, and OUT_FOR_DELIVERY.
    pub ready: Vec<Entry>,
}

impl Board {
    /// The newest [`BOARD_ORDERS_MAX`] of the open orders that have a number.
    pub fn of<'a>(open: impl Iterator<Item = &'a Projection>) -> Board {
        let mut orders: Vec<&Projection> = open.filter(|o| o.open && !o.status.is_final() && o.number().is_some()).collect();
        orders.sort_by(|a, b| (a.created_at_ms, &a.order_id).cmp(&(b.created_at_ms, &b.order_id)));
        let first = orders.len().saturating_sub(BOARD_ORDERS_MAX);
        let mut board = Board::default();
        for order in &orders[first..] {
            let entry = Entry { order_id: order.order_id.clone(), number: order.number().unwrap_or_default(), status: order.status };
            match order.status {
                Status::Created | Status::Confirmed | Status::Preparing => board.preparing.push(entry),
                Status::Ready | Status::OutForDelivery => board.ready.push(entry),
                Status::Delivered | Status::Cancelled => {}
            }
        }
        board
    }

    /// The board as DESIGN.md's topic `board` and the page's stream carry it.
    pub fn to_json(&self) -> Value {
        let column = |entries: &[Entry]| -> Vec<Value> {
            entries.iter().map(|e| json!({"orderId": e.order_id.as_str(), "number": e.number, "status": e.status.as_str()})).collect()
        };
        json!({"preparing": column(&self.preparing), "ready": column(&self.ready)})
    }
}
