//! Forgetting what is older than it must be remembered: a piece of the store is looked at now and then.
//!
//! A look-up and the removal of what it found are two steps, and an order may change between them. So an order that changes while a
//! sweep is under way is not touched by it. A remembered request never changes.

use crate::ids::OrderId;
use crate::io::Forgettable;
use crate::printed::PrintKey;
use std::collections::BTreeSet;

/// How often a piece is looked at, and how many keys a piece has.
const EVERY_MS: u64 = 10_000;
pub(crate) const KEYS_MAX: usize = 256;
/// Orders that changed during one sweep, by id; with more of them no order is removed by it.
const CHANGED_MAX: usize = 1_024;

/// Where the sweeping is.
#[derive(Debug)]
pub(crate) struct Sweep {
    due_at: u64,
    asked: bool,
    from: Option<Forgettable>,
    expired: Vec<Forgettable>,
    changed: BTreeSet<OrderId>,
}

impl Sweep {
    /// The first sweep is due a while after the start.
    pub fn new(now: u64) -> Sweep {
        Sweep { due_at: now + EVERY_MS, asked: false, from: None, expired: Vec::new(), changed: BTreeSet::new() }
    }

    /// When the next sweep is due; `None` while one is under way.
    pub fn due_at(&self) -> Option<u64> {
        let under_way = self.asked || !self.expired.is_empty();
        (!under_way).then_some(self.due_at)
    }

    /// Puts the next sweep off: nothing can have expired yet.
    pub fn skip(&mut self, now: u64) {
        self.due_at = now + EVERY_MS;
    }

    /// A sweep begins; gives where. What is just being committed may not be seen by it.
    pub fn begin(&mut self, now: u64, committing: impl Iterator<Item = OrderId>) -> Option<Forgettable> {
        self.due_at = now + EVERY_MS;
        self.asked = true;
        self.changed.clear();
        self.changed.extend(committing);
        self.from.take()
    }

    /// An order changes.
    pub fn order_changes(&mut self, order: &OrderId) {
        if self.due_at().is_none() && self.changed.len() < CHANGED_MAX {
            self.changed.insert(order.clone());
        }
    }

    /// The store was looked at.
    pub fn swept(&mut self, expired: Vec<Forgettable>, next: Option<Forgettable>) {
        self.asked = false;
        self.expired = expired;
        self.from = next;
    }

    /// Whether there is something to remove.
    pub fn has_expired(&self) -> bool {
        !self.expired.is_empty()
    }

    /// At most so many that may be removed now. Not what is in use: something was just looked up there.
    pub fn take(&mut self, keys_max: usize, in_use: impl Fn(&Forgettable) -> bool) -> Vec<Forgettable> {
        let changed = &self.changed;
        let stands = |what: &Forgettable| match what {
            Forgettable::Request(_) => !in_use(what),
            Forgettable::Order(order) | Forgettable::Details(order) | Forgettable::Print(PrintKey { order: Some(order), .. }) => {
                changed.len() < CHANGED_MAX && !changed.contains(order) && !in_use(what)
            }
            Forgettable::Print(PrintKey { order: None, .. }) => false,
        };
        self.expired.retain(stands);
        self.expired.drain(..self.expired.len().min(keys_max)).collect()
    }

    /// The store was opened again: nothing that it said before counts.
    pub fn restart(&mut self) {
        self.asked = false;
        self.expired.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: &str) -> OrderId {
        id.parse().unwrap()
    }

    #[test]
    fn an_order_that_changes_during_a_sweep_is_not_forgotten_by_it() {
        let mut sweep = Sweep::new(0);
        sweep.begin(EVERY_MS, [order("committing")].into_iter());
        sweep.order_changes(&order("changing"));
        let expired = ["committing", "changing", "in use", "old"].map(|id| Forgettable::Order(order(id)));
        sweep.swept(expired.to_vec(), None);
        sweep.order_changes(&order("old"));
        assert_eq!(sweep.take(10, |what| *what == Forgettable::Order(order("in use"))), []);
        assert_eq!(sweep.due_at(), Some(2 * EVERY_MS));
    }

    #[test]
    fn with_too_many_changes_no_order_is_forgotten_but_requests_are() {
        let mut sweep = Sweep::new(0);
        sweep.begin(EVERY_MS, std::iter::empty());
        for n in 0..=CHANGED_MAX {
            sweep.order_changes(&order(&format!("o-{n}")));
        }
        let request = Forgettable::Request(crate::ids::RequestKey { terminal: "t".parse().unwrap(), request_id: "r".parse().unwrap() });
        sweep.swept(vec![request.clone(), Forgettable::Order(order("old"))], None);
        assert_eq!(sweep.take(10, |what| *what == Forgettable::Order(order("in use"))), [request]);
    }
}
