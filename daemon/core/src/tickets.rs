//! Tickets: short numbers to call out, and which of them are on the board.

use crate::ids::Ticket;
use crate::time::Wall;
use std::collections::{BTreeMap, BTreeSet};

/// The last number before they begin again at 1.
pub const TICKET_WRAP: u32 = 999;

/// Gives tickets: the next free one after the last, over again each business day.
#[derive(Debug, Clone)]
pub struct Tickets {
    last: u32,
    business_day: i32,
    /// How many orders on the board have a number: more than one only after a reopening.
    on_board: BTreeMap<u32, u32>,
    /// The numbers from 1 to [`TICKET_WRAP`] that none has.
    free: BTreeSet<u32>,
    /// All numbers past [`TICKET_WRAP`] and below this one are on the board.
    past: u32,
}

impl Tickets {
    /// Goes on after `last` of that business day.
    pub fn new(last: u32, business_day: i32) -> Tickets {
        Tickets { last, business_day, on_board: BTreeMap::new(), free: (1..=TICKET_WRAP).collect(), past: TICKET_WRAP + 1 }
    }

    /// The last number and its business day, as they are stored.
    pub fn position(&self) -> (u32, i32) {
        (self.last, self.business_day)
    }

    /// Goes back to an earlier position: what was given since was never stored.
    pub fn rewind(&mut self, (last, business_day): (u32, i32)) {
        (self.last, self.business_day) = (last, business_day);
    }

    /// An order with this number stands on the board now.
    pub fn put_on(&mut self, ticket: Ticket) {
        *self.on_board.entry(ticket.0).or_default() += 1;
        self.free.remove(&ticket.0);
    }

    /// An order with this number left the board.
    pub fn take_off(&mut self, ticket: Ticket) {
        if let Some(count) = self.on_board.get_mut(&ticket.0) {
            *count -= 1;
            if *count == 0 {
                self.on_board.remove(&ticket.0);
                match ticket.0 {
                    0 => {}
                    n @ 1..=TICKET_WRAP => drop(self.free.insert(n)),
                    n => self.past = self.past.min(n),
                }
            }
        }
    }

    /// The next ticket. Always finds one: past [`TICKET_WRAP`] when all up to it are on the board.
    pub fn next(&mut self, wall: Option<Wall>) -> Ticket {
        // The business day never goes back, and goes on while the time is unknown.
        if let Some(day) = wall.map(|w| w.business_day).filter(|d| *d > self.business_day) {
            self.business_day = day;
            self.last = 0;
        }
        let after = self.free.range(self.last.saturating_add(1)..).next();
        if let Some(free) = after.or(self.free.first()) {
            self.last = *free;
            return Ticket(*free);
        }
        let past = (self.past..).find(|n| !self.on_board.contains_key(n));
        self.past = past.expect("the board is bounded far below u32::MAX");
        Ticket(self.past)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(business_day: i32) -> Option<Wall> {
        Some(Wall { unix_ms: 0, business_day })
    }

    #[test]
    fn numbers_begin_again_each_business_day_but_never_go_back_a_day() {
        let mut tickets = Tickets::new(41, 10);
        assert_eq!(tickets.next(day(10)), Ticket(42));
        assert_eq!(tickets.next(None), Ticket(43));
        assert_eq!(tickets.next(day(11)), Ticket(1));
        assert_eq!(tickets.next(day(10)), Ticket(2), "a clock that jumps back changes nothing");
    }

    #[test]
    fn a_number_on_the_board_is_passed_over_even_after_the_wrap() {
        let mut tickets = Tickets::new(997, 1);
        for n in [998, 1, 2] {
            tickets.put_on(Ticket(n));
        }
        assert_eq!(tickets.next(day(1)), Ticket(999));
        assert_eq!(tickets.next(day(1)), Ticket(3));
    }

    #[test]
    fn with_all_numbers_on_the_board_they_grow_past_999() {
        let mut tickets = Tickets::new(5, 1);
        for n in 1..=TICKET_WRAP {
            tickets.put_on(Ticket(n));
        }
        for expected in [1000, 1001] {
            let ticket = tickets.next(day(1));
            assert_eq!(ticket, Ticket(expected));
            tickets.put_on(ticket);
        }
        tickets.take_off(Ticket(1000));
        assert_eq!(tickets.next(day(1)), Ticket(1000), "the lowest past the wrap");
        tickets.take_off(Ticket(7));
        assert_eq!(tickets.next(day(1)), Ticket(7));
    }
}
