//! Requests between submission and answer, and the lanes that let one order change one step at a time.

use crate::ids::{OrderId, ReplyTo, RequestKey, Seq};
use crate::io::{Found, Submission};
use std::collections::{BTreeMap, VecDeque};

/// A request between submission and answer.
#[derive(Debug)]
pub struct Flight {
    /// What was submitted.
    pub submission: Submission,
    /// The order: the request's own, or the one that the gateway made up.
    pub order_id: OrderId,
    /// Who is answered.
    pub reply_to: ReplyTo,
    /// Who sent the same request meanwhile, and is answered too.
    pub waiters: Vec<ReplyTo>,
    /// Monotonic time after which it is not to be stored any more.
    pub deadline: Option<u64>,
    /// It was part of a commit whose outcome is unclear: what the store remembers may be this very try.
    pub attempted: bool,
    /// What the store holds, once it was looked up.
    pub found: Option<Found>,
}

/// Why a request was not taken into flight.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The same id is in flight with another body.
    Conflict,
    /// Too many requests.
    Busy,
    /// Too many copies of this one.
    Copies,
}

/// All requests in flight, bounded, by their key.
#[derive(Debug, Default)]
pub struct Flights {
    by_key: BTreeMap<RequestKey, Flight>,
    copies_most: usize,
}

impl Flights {
    /// Lets a copy of a request in flight wait for the same answer. `None`: none is in flight.
    pub fn join(&mut self, key: &RequestKey, body_hash: [u8; 16], reply_to: ReplyTo, waiters_max: usize) -> Option<Result<(), Refusal>> {
        let flight = self.by_key.get_mut(key)?;
        Some(if flight.submission.request.body_hash != body_hash {
            Err(Refusal::Conflict)
        } else if flight.waiters.len() >= waiters_max {
            Err(Refusal::Copies)
        } else {
            flight.waiters.push(reply_to);
            self.copies_most = self.copies_most.max(flight.waiters.len());
            Ok(())
        })
    }

    /// Takes a request into flight.
    pub fn insert(&mut self, key: RequestKey, flight: Flight) {
        self.by_key.insert(key, flight);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The most copies of one request that waited for its answer since the start.
    pub fn copies_most(&self) -> usize {
        self.copies_most
    }

    /// One of them.
    pub fn get(&self, key: &RequestKey) -> Option<&Flight> {
        self.by_key.get(key)
    }

    /// One of them.
    pub fn get_mut(&mut self, key: &RequestKey) -> Option<&mut Flight> {
        self.by_key.get_mut(key)
    }

    /// Ends a flight.
    pub fn remove(&mut self, key: &RequestKey) -> Option<Flight> {
        self.by_key.remove(key)
    }
}

/// Work on one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A request in flight.
    Request(RequestKey),
    /// A status record, by its number in the downlink.
    Status(u64),
    /// Its time on the board is over, or somebody has seen its alarm.
    Tidy,
    /// A person decided about the order's dead letter.
    Release(Seq),
}

/// One queue per order with work: its first is at work, the others wait. Bounded by the flights and the statuses in flight.
#[derive(Debug, Default)]
pub struct Lanes {
    by_order: BTreeMap<OrderId, VecDeque<Work>>,
}

impl Lanes {
    /// Queues work up; `true` if it may begin at once.
    pub fn enter(&mut self, order: &OrderId, work: Work) -> bool {
        let lane = self.by_order.entry(order.clone()).or_default();
        lane.push_back(work);
        lane.len() == 1
    }

    /// Whether something is at work on the order.
    pub fn is_busy(&self, order: &OrderId) -> bool {
        self.by_order.contains_key(order)
    }

    /// Ends the work that is at work; gives what may begin now.
    pub fn leave(&mut self, order: &OrderId) -> Option<Work> {
        let lane = self.by_order.get_mut(order)?;
        lane.pop_front();
        let next = lane.front().cloned();
        if next.is_none() {
            self.by_order.remove(order);
        }
        next
    }

    /// What is at work on each order, to be begun anew.
    pub fn at_work(&self) -> Vec<(OrderId, Work)> {
        self.by_order.iter().filter_map(|(order, lane)| Some((order.clone(), lane.front()?.clone()))).collect()
    }
}
