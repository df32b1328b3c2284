//! The orders that stand on the board: the only orders that are kept in memory.

use crate::board::{Board, BoardRules};
use crate::ids::{OrderId, Ticket};
use crate::order::Projection;
use crate::tickets::Tickets;
use crate::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The open orders, by id and by age, with the tickets that they hold.
#[derive(Debug)]
pub struct OpenOrders {
    orders: BTreeMap<OrderId, Arc<Projection>>,
    by_age: BTreeSet<(i64, OrderId)>,
    orders_max: usize,
    /// Orders that were left out of memory because there were too many: their projections are on disk all the same.
    crowded_out: u64,
    tickets: Tickets,
}

impl OpenOrders {
    /// No orders yet; tickets go on after `last_ticket`.
    pub fn new(orders_max: usize, last_ticket: u32, business_day: i32) -> OpenOrders {
        let tickets = Tickets::new(last_ticket, business_day);
        OpenOrders { orders: BTreeMap::new(), by_age: BTreeSet::new(), orders_max, crowded_out: 0, tickets }
    }

    /// Takes an order's new, durable state in.
    pub fn put(&mut self, order: &Arc<Projection>) {
        self.remove(&order.order_id);
        if order.open {
            if let Some(ticket) = order.ticket {
                self.tickets.put_on(ticket);
            }
            self.by_age.insert((order.created_at_ms, order.order_id.clone()));
            self.orders.insert(order.order_id.clone(), Arc::clone(order));
            self.crowd_out();
        }
    }

    /// An open order.
    pub fn get(&self, id: &OrderId) -> Option<&Arc<Projection>> {
        self.orders.get(id)
    }

    fn remove(&mut self, id: &OrderId) {
        if let Some(order) = self.orders.remove(id) {
            self.by_age.remove(&(order.created_at_ms, id.clone()));
            if let Some(ticket) = order.ticket {
                self.tickets.take_off(ticket);
            }
        }
    }

    fn crowd_out(&mut self) {
        while self.orders.len() > self.orders_max {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.remove(&oldest);
            self.crowded_out += 1;
        }
    }

    /// The next ticket for a new order, reserved until [`OpenOrders::unreserve`].
    pub fn reserve_ticket(&mut self, wall: Option<Wall>) -> Ticket {
        let ticket = self.tickets.next(wall);
        self.tickets.put_on(ticket);
        ticket
    }

    /// Ends a reservation: the order is stored, or never will be.
    pub fn unreserve(&mut self, ticket: Ticket) {
        self.tickets.take_off(ticket);
    }

    /// Where the tickets are.
    pub fn ticket_position(&self) -> (u32, i32) {
        self.tickets.position()
    }

    /// Goes back to where the tickets were.
    pub fn rewind_tickets(&mut self, position: (u32, i32)) {
        self.tickets.rewind(position);
    }

    /// How many there are, and how many were crowded out since the start.
    pub fn counts(&self) -> (usize, u64) {
        (self.orders.len(), self.crowded_out)
    }

    /// The customers' board.
    pub fn board(&self) -> Board {
        Board::of(self.orders.values().map(Arc::as_ref))
    }

    /// The orders, oldest first.
    pub fn by_age(&self) -> impl Iterator<Item = &Arc<Projection>> {
        self.by_age.iter().filter_map(|(_, id)| self.orders.get(id))
    }

    /// Those whose time on the board is over at that running time, oldest first.
    pub fn overdue(&self, rules: &BoardRules, run_ms: u64) -> Vec<Arc<Projection>> {
        self.by_age().filter(|o| rules.leaves_at(o) <= run_ms).map(Arc::clone).collect()
    }
}
