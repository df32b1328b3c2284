//! Which statuses the broker retains for us, which wait to be published, and how fast they may be.

use gateway::ids::{Name, OrderId};
use gateway::order::Projection;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Orders whose status the broker retains for us: beyond it the oldest is cleared. As many as the core keeps open.
pub const STATUSES_RETAINED_MAX: usize = 2_000;
/// Orders whose status waits to be published: beyond it the oldest is given up.
pub const STATUSES_WAITING_MAX: usize = STATUSES_RETAINED_MAX;
/// Statuses published in a second. No house needs more, and a flood of orders must leave the broker to its answers.
const STATUSES_PER_SECOND: u32 = 500;
/// How many may follow each other at once.
const STATUSES_AT_ONCE: u32 = 250;

/// Whose status of which order.
pub type Shown = (Name, OrderId);

/// Orders whose status is to be published, the one that waits longest first. Of each only the latest state waits.
#[derive(Debug, Default)]
pub struct Waiting {
    by_order: HashMap<OrderId, u64>,
    by_age: BTreeMap<u64, Arc<Projection>>,
    next: u64,
}

impl Waiting {
    /// Lets an order's state wait instead of an older one; gives the order that is given up for it, if there are too many.
    pub fn put(&mut self, order: Arc<Projection>) -> Option<Arc<Projection>> {
        if let Some(age) = self.by_order.get(&order.order_id) {
            self.by_age.insert(*age, order);
            return None;
        }
        let given_up = if self.by_order.len() >= STATUSES_WAITING_MAX { self.take() } else { None };
        self.by_order.insert(order.order_id.clone(), self.next);
        self.by_age.insert(self.next, order);
        self.next += 1;
        given_up
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.by_order.len()
    }

    /// The order that waits longest.
    pub fn take(&mut self) -> Option<Arc<Projection>> {
        let (_, order) = self.by_age.pop_first()?;
        self.by_order.remove(&order.order_id);
        Some(order)
    }

    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }
}

/// Lets [`STATUSES_AT_ONCE`] through at once and [`STATUSES_PER_SECOND`] in the long run.
#[derive(Debug)]
pub struct Pace {
    /// When all that was let through would have been, at the even pace.
    even: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        Pace { even: now }
    }

    /// When the next one may follow.
    pub fn next_at(&self) -> Instant {
        // A clock that has not run for half a second yet has a burst to spare.
        self.even.checked_sub(Duration::from_secs(1) * STATUSES_AT_ONCE / STATUSES_PER_SECOND).unwrap_or(self.even)
    }

    /// One was let through.
    pub fn passed(&mut self, now: Instant) {
        self.even = self.even.max(now) + Duration::from_secs(1) / STATUSES_PER_SECOND;
    }
}

/// What the broker retains for us, the oldest first.
#[derive(Debug, Default)]
pub struct Retained {
    by_order: HashMap<Shown, (u64, u64)>,
    by_age: BTreeMap<u64, Shown>,
    next: u64,
}

impl Retained {
    /// Notes a payload; `false` if the same was published last.
    pub fn put(&mut self, shown: Shown, payload: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        payload.hash(&mut hasher);
        // 0 stands for a payload that nobody remembers.
        let hash = hasher.finish().max(1);
        if let Some((_, last)) = self.by_order.get_mut(&shown) {
            return std::mem::replace(last, hash) != hash;
        }
        self.by_age.insert(self.next, shown.clone());
        self.by_order.insert(shown, (self.next, hash));
        self.next += 1;
        true
    }

    /// Takes an order off the list; `true` if it stood there.
    pub fn remove(&mut self, shown: &Shown) -> bool {
        let Some((age, _)) = self.by_order.remove(shown) else { return false };
        self.by_age.remove(&age);
        true
    }

    /// The oldest, if there are more than the bound.
    pub fn take_surplus(&mut self) -> Option<Shown> {
        if self.by_order.len() <= STATUSES_RETAINED_MAX {
            return None;
        }
        let (_, oldest) = self.by_age.pop_first()?;
        self.by_order.remove(&oldest);
        Some(oldest)
    }

    /// After it, every payload is news: what the broker has is not known any more.
    pub fn forget_payloads(&mut self) {
        self.by_order.values_mut().for_each(|(_, hash)| *hash = 0);
    }

    /// Whether the order stands there.
    pub fn holds(&self, shown: &Shown) -> bool {
        self.by_order.contains_key(shown)
    }

    /// All that stand there.
    pub fn orders(&self) -> HashSet<Shown> {
        self.by_order.keys().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.by_order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::order;
    use super::*;
    use gateway::order::Status;

    fn waiting(n: usize) -> Waiting {
        let mut waiting = Waiting::default();
        for n in 0..n {
            assert!(waiting.put(Arc::new(order(&format!("o-{n}"), Some("t"), Status::Created))).is_none());
        }
        waiting
    }

    #[test]
    fn of_each_order_only_the_latest_state_waits_and_keeps_its_place() {
        let mut waiting = waiting(3);
        waiting.put(Arc::new(order("o-0", Some("t"), Status::Ready)));
        let taken: Vec<_> = std::iter::from_fn(|| waiting.take()).map(|o| (o.order_id.to_string(), o.status)).collect();
        let expected = [("o-0", Status::Ready), ("o-1", Status::Created), ("o-2", Status::Created)];
        assert_eq!(taken, expected.map(|(id, status)| (id.to_owned(), status)));
        assert!(waiting.is_empty());
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_given_up() {
        let mut waiting = waiting(STATUSES_WAITING_MAX);
        assert!(waiting.put(Arc::new(order("o-7", Some("t"), Status::Ready))).is_none(), "it waits already");
        let given_up = waiting.put(Arc::new(order("new", Some("t"), Status::Created))).unwrap();
        assert_eq!(given_up.order_id.as_str(), "o-0");
    }

    #[test]
    fn a_burst_passes_at_once_and_a_flood_at_the_even_pace() {
        let start = Instant::now() + Duration::from_secs(10);
        let (mut pace, mut now) = (Pace::new(start), start);
        let mut passed_at_once = 0;
        for n in 0..STATUSES_AT_ONCE + 2 * STATUSES_PER_SECOND {
            if pace.next_at() <= now {
                passed_at_once += u32::from(now == start);
            } else {
                now = pace.next_at();
            }
            pace.passed(now);
            assert!(now - start <= Duration::from_secs(1) * n / STATUSES_PER_SECOND);
        }
        assert!((STATUSES_AT_ONCE..=STATUSES_AT_ONCE + 1).contains(&passed_at_once), "{passed_at_once}");
        assert!((now - start).as_secs_f64() > 1.99, "{:?}", now - start);
    }

    #[test]
    fn the_same_payload_is_not_news_until_it_is_forgotten() {
        let (mut retained, shown) = (Retained::default(), ("t".parse().unwrap(), "o".parse().unwrap()));
        let put = |retained: &mut Retained, payload| retained.put(Shown::clone(&shown), payload);
        assert!(put(&mut retained, "a") && !put(&mut retained, "a") && put(&mut retained, "b"));
        retained.forget_payloads();
        assert!(put(&mut retained, "b") && retained.holds(&shown));
        retained.remove(&shown);
        assert!(!retained.holds(&shown) && retained.take_surplus().is_none());
    }
}
