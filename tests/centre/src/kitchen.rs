//! A kitchen without people: moves orders on after a while, unless the house does.

use crate::event::Order;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Orders in work. Beyond it a new one is not moved on.
const ORDERS_MAX: usize = 10_000;

/// How long each step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kitchen {
    /// From confirmed to PREPARING.
    pub preparing: Duration,
    /// From there to READY.
    pub ready: Duration,
    /// From there to DELIVERED.
    pub delivered: Duration,
}

impl Kitchen {
    fn steps(self) -> [(&'static str, Duration); 3] {
        [("PREPARING", self.preparing), ("READY", self.ready), ("DELIVERED", self.delivered)]
    }
}

/// The orders in work.
#[derive(Debug)]
pub(crate) struct Work {
    kitchen: Kitchen,
    due: BTreeMap<(Instant, u64), (Order, usize)>,
    places: HashMap<(String, String), (Instant, u64)>,
    count: u64,
}

impl Work {
    pub(crate) fn new(kitchen: Kitchen) -> Work {
        Work { kitchen, due: BTreeMap::new(), places: HashMap::new(), count: 0 }
    }

    /// Begins an order.
    pub(crate) fn begin(&mut self, order: Order, now: Instant) {
        if self.due.len() < ORDERS_MAX {
            self.plan(order, 0, now);
        }
    }

    fn plan(&mut self, order: Order, step: usize, now: Instant) {
        if let Some((_, wait)) = self.kitchen.steps().get(step) {
            self.count += 1;
            let place = (now + *wait, self.count);
            self.places.insert(order.key(), place);
            self.due.insert(place, (order, step));
        }
    }

    /// The house itself moved the order, or it is over: the kitchen keeps its hands off.
    pub(crate) fn leave(&mut self, key: &(String, String)) {
        if let Some(place) = self.places.remove(key) {
            self.due.remove(&place);
        }
    }

    /// When the next step is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// The next step that is due, with its status.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Order, &'static str)> {
        let place = *self.due.keys().next().filter(|(at, _)| *at <= now)?;
        let (order, step) = self.due.remove(&place)?;
        self.places.remove(&order.key());
        self.plan(order.clone(), step + 1, now);
        Some((order, self.kitchen.steps()[step].0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn order(id: &str) -> Order {
        Order { gateway: "g".into(), order_id: id.into(), user_id: None, restaurant_id: None, event_id: "e".into() }
    }

    fn work() -> Work {
        Work::new(Kitchen { preparing: SECOND, ready: 2 * SECOND, delivered: 3 * SECOND })
    }

    #[test]
    fn an_order_goes_through_every_step_in_its_time() {
        let (mut work, start) = (work(), Instant::now());
        work.begin(order("o"), start);
        let mut seen = vec![];
        for second in 0..10 {
            while let Some((_, status)) = work.take(start + SECOND * second) {
                seen.push((second, status));
            }
        }
        assert_eq!(seen, [(1, "PREPARING"), (3, "READY"), (6, "DELIVERED")]);
        assert!(work.next().is_none() && work.places.is_empty());
    }

    #[test]
    fn what_the_house_moves_is_left_to_it() {
        let (mut work, start) = (work(), Instant::now());
        work.begin(order("o"), start);
        work.begin(order("p"), start);
        work.leave(&order("o").key());
        assert_eq!(work.take(start + SECOND).map(|(order, _)| order.order_id), Some("p".into()));
        assert_eq!(work.take(start + SECOND), None);
    }

    #[test]
    fn a_full_kitchen_takes_no_more() {
        let (mut work, now) = (work(), Instant::now());
        for n in 0..ORDERS_MAX + 5 {
            work.begin(order(&n.to_string()), now);
        }
        assert_eq!(work.due.len(), ORDERS_MAX);
    }
}
