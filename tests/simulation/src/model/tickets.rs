//! The rule for tickets, written a second time: the next free one after the last, over again each business day.

use super::Image;
use gateway::time::Now;
use std::collections::BTreeSet;

/// Where the tickets are, and which are on the board.
#[derive(Debug)]
pub struct Tickets {
    last: u32,
    day: i32,
    on_board: BTreeSet<u32>,
}

impl Tickets {
    /// As they are on disk.
    pub fn at(image: &Image) -> Tickets {
        let on_board = image.open_orders().filter_map(|order| order.ticket).map(|ticket| ticket.0).collect();
        Tickets { last: image.counters.last_ticket, day: image.counters.business_day, on_board }
    }

    /// The ticket that the next new order must get.
    pub fn give(&mut self, now: Now) -> u32 {
        if let Some(wall) = now.wall
            && wall.business_day > self.day
        {
            self.day = wall.business_day;
            self.last = 0;
        }
        let ring = (0..999).map(|step| (self.last + step) % 999 + 1).find(|n| !self.on_board.contains(n));
        let ticket = ring.unwrap_or_else(|| (1_000..).find(|n| !self.on_board.contains(n)).expect("the board is bounded"));
        if ticket <= 999 {
            self.last = ticket;
        }
        self.on_board.insert(ticket);
        ticket
    }

    /// The last one given and its business day.
    pub fn position(&self) -> (u32, i32) {
        (self.last, self.day)
    }
}
