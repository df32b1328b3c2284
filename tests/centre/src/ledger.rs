//! What the centre saw: enough to say that nothing was lost, doubled or out of order.

use std::collections::HashMap;

/// An event's name for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventName {
    /// The gateway.
    pub gateway: String,
    /// The start under which it was admitted, as in the header.
    pub epoch: String,
    /// Its position in the gateway's outbox.
    pub seq: u64,
}

/// A request's name in the chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestName {
    /// The gateway.
    pub gateway: String,
    /// The terminal that submitted it.
    pub terminal: String,
    /// The id that the terminal gave it.
    pub request_id: String,
}

/// The ledger. Each copy of an event counts once, wherever the centre read it from and however often.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Different events.
    pub delivered: u64,
    /// Further copies of an event, with the same (gateway, epoch, seq).
    pub repeats: u64,
    /// Requests that came under more than one name.
    pub doubled: u64,
    /// Events whose seq is below that of an earlier one of the same order, judged on first appearances.
    pub out_of_order: u64,
    /// Records without a gateway's headers: the centre's own, other services'.
    pub foreign: u64,
    /// Records with a gateway's headers that could not be read.
    pub poison: u64,
    /// Events beyond the ledger's bound: counted, and not judged as doubled or out of order.
    pub not_remembered: u64,
    events_max: usize,
    remembered: usize,
    requests: HashMap<RequestName, Vec<EventName>>,
    orders: HashMap<(String, String), Vec<u64>>,
}

impl Ledger {
    pub(crate) fn new(events_max: usize) -> Ledger {
        Ledger { events_max, ..Ledger::default() }
    }

    /// Notes the first appearance of an event.
    pub(crate) fn first(&mut self, name: EventName, request: RequestName, order_id: &str) {
        self.delivered += 1;
        if self.remembered == self.events_max {
            self.not_remembered += 1;
            return;
        }
        self.remembered += 1;
        let seqs = self.orders.entry((name.gateway.clone(), order_id.to_owned())).or_default();
        if seqs.last().is_some_and(|last| name.seq < *last) {
            self.out_of_order += 1;
        }
        seqs.push(name.seq);
        let names = self.requests.entry(request).or_default();
        names.push(name);
        if names.len() == 2 {
            self.doubled += 1;
        }
    }

    /// The names under which a request came.
    pub fn request(&self, request: &RequestName) -> &[EventName] {
        self.requests.get(request).map_or(&[], Vec::as_slice)
    }

    /// Every request, with the names under which it came.
    pub fn requests(&self) -> impl Iterator<Item = (&RequestName, &[EventName])> {
        self.requests.iter().map(|(request, names)| (request, names.as_slice()))
    }

    /// The seqs of an order's events, in the order of their first appearance.
    pub fn order(&self, gateway: &str, order_id: &str) -> &[u64] {
        self.orders.get(&(gateway.to_owned(), order_id.to_owned())).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(epoch: &str, seq: u64) -> EventName {
        EventName { gateway: "g".into(), epoch: epoch.into(), seq }
    }

    fn request(id: &str) -> RequestName {
        RequestName { gateway: "g".into(), terminal: "t".into(), request_id: id.into() }
    }

    #[test]
    fn a_request_under_two_names_is_doubled_once() {
        let mut ledger = Ledger::new(10);
        ledger.first(name("e", 1), request("r1"), "o1");
        ledger.first(name("e", 2), request("r2"), "o2");
        assert_eq!(ledger.doubled, 0);
        ledger.first(name("e", 3), request("r1"), "o1");
        ledger.first(name("f", 4), request("r1"), "o1");
        assert_eq!((ledger.delivered, ledger.doubled), (4, 1));
        assert_eq!(ledger.request(&request("r1")).len(), 3);
    }

    #[test]
    fn order_is_judged_within_one_order() {
        let mut ledger = Ledger::new(10);
        for (seq, order) in [(2, "o1"), (1, "o2"), (4, "o1"), (3, "o1")] {
            ledger.first(name("e", seq), request(&seq.to_string()), order);
        }
        assert_eq!(ledger.out_of_order, 1);
        assert_eq!(ledger.order("g", "o1"), [2, 4, 3]);
    }

    #[test]
    fn beyond_its_bound_the_ledger_only_counts() {
        let mut ledger = Ledger::new(1);
        ledger.first(name("e", 1), request("r"), "o");
        ledger.first(name("e", 2), request("r"), "o");
        assert_eq!((ledger.delivered, ledger.doubled, ledger.not_remembered), (2, 0, 1));
    }
}
