//! The core's bounds, each reached: what is beyond it is refused, and counted.

use crate::board::BoardRules;
use crate::dialect::Dialect;
use crate::gateway::Gateway;
use crate::gauges::Gauges;
use crate::ids::{CommitId, Epoch, ProducerId, ReplyTo, Seq};
use crate::io::{Decided, Decision, Delivery, Found, Input, Opened, Output, PartitionName, Record, Select, Submission};
use crate::journal::{COMMANDS_MAX, Deed, SENT_MAX};
use crate::release::RELEASES_MAX;
use crate::request::{Answer, Code, Request};
use crate::settings::{Limits, Settings};
use crate::time::Now;

const NOW: Now = Now { mono_ms: 0, wall: None };

/// A gateway, and a store that finds nothing and commits when it is told to.
struct House {
    gateway: Gateway,
    commit: Option<CommitId>,
    refused: Vec<(ReplyTo, Code)>,
    decided: Vec<(ReplyTo, Decided)>,
}

impl House {
    fn new(limits: Limits, opened: Opened) -> House {
        let settings = Settings {
            gateway: "store-042".parse().unwrap(),
            restaurant_ids: vec![],
            strict_orders: false,
            hold_behind_dead: true,
            remember_ms: 1_000_000_000,
            forget_details_ms: 100_000_000,
            journal: true,
            new_card: None,
            board: BoardRules::default(),
            dialect: Dialect::OrderEvent,
            limits,
        };
        let gateway = Gateway::new(settings, opened, Epoch(1), [1; 16], NOW);
        let mut house = House { gateway, commit: None, refused: vec![], decided: vec![] };
        house.settle();
        house
    }

    /// Whose first commit, with its epoch, is on its way and stays there.
    fn busy(limits: Limits) -> House {
        let house = House::new(limits, Opened { next_seq: Seq(1), epochs: vec![Epoch(9)], ..Opened::default() });
        assert!(house.commit.is_some());
        house
    }

    fn tell(&mut self, input: Input) {
        self.gateway.handle(NOW, input);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Load { load, .. } => self.gateway.handle(NOW, Input::Loaded { load, found: Found::default() }),
                Output::Store { commit, .. } => self.commit = Some(commit),
                Output::Answer { reply_to, answer: Answer::Rejected(rejected) } => self.refused.push((reply_to, rejected.code)),
                Output::Decided { reply_to, outcome } => self.decided.push((reply_to, outcome)),
                _ => {}
            }
        }
    }

    fn submit(&mut self, reply_to: u64, id: &str) {
        let body = format!(
            r#"{{"requestId":"{id}","orderId":"{id}","data":{{"orderDetails":[{{"foodId":"f","foodName":"Pizza","price":12.50,"quantity":1}}]}}}}"#
        );
        let request = Request::parse(body.as_bytes()).unwrap();
        let submission = Submission { terminal: "till-1".parse().unwrap(), request, session: None, maybe_stored: false };
        self.tell(Input::Submit { reply_to: ReplyTo(reply_to), submission });
    }

    fn commit(&mut self) {
        let commit = self.commit.take().expect("a commit is on its way");
        self.tell(Input::Stored { commit });
    }

    fn gauges(&self) -> Gauges {
        self.gateway.gauges()
    }
}

#[test]
fn more_requests_than_may_be_in_flight_are_refused() {
    let mut house = House::busy(Limits { requests_in_flight_max: 2, ..Limits::default() });
    (1..=3).for_each(|n| house.submit(n, &format!("r-{n}")));
    assert_eq!(house.refused, [(ReplyTo(3), Code::Busy)]);
    let gauges = house.gauges();
    assert_eq!((gauges.requests_in_flight, gauges.tally.requests_refused, gauges.tally.copies_refused), (2, 1, 0));
}

#[test]
fn more_copies_of_a_request_than_may_wait_are_refused() {
    let mut house = House::busy(Limits { waiters_max: 2, ..Limits::default() });
    (1..=4).for_each(|n| house.submit(n, "r-1"));
    assert_eq!(house.refused, [(ReplyTo(4), Code::Busy)]);
    let gauges = house.gauges();
    assert_eq!((gauges.copies_most, gauges.tally.copies_refused, gauges.tally.requests_refused), (2, 1, 0));
}

#[test]
fn what_one_commit_cannot_hold_waits_for_the_next() {
    let mut house = House::busy(Limits { batch_requests_max: 2, ..Limits::default() });
    (1..=3).for_each(|n| house.submit(n, &format!("r-{n}")));
    house.commit();
    let tally = house.gauges().tally;
    assert_eq!((tally.batch_requests_most, tally.batches_full), (2, 1));
    house.commit();
    house.commit();
    assert_eq!((house.gauges().requests_in_flight, house.gauges().tally.batches_full), (0, 1));
    assert_eq!(house.refused, []);
}

#[test]
fn more_commands_than_may_wait_to_be_written_down_are_refused() {
    let mut house = House::busy(Limits::default());
    let deed = Deed::Replay { from_ms: 0, to_ms: 1, order: None };
    for n in 0..=COMMANDS_MAX as u64 {
        house.tell(Input::Command { reply_to: ReplyTo(n), by: "somebody".into(), deed: deed.clone() });
    }
    assert_eq!(house.decided, [(ReplyTo(COMMANDS_MAX as u64), Decided::Busy)]);
    assert_eq!((house.gauges().commands, house.gauges().tally.commands_refused), (COMMANDS_MAX, 1));
    house.commit();
    house.commit();
    assert_eq!((house.decided.len(), house.gauges().commands), (COMMANDS_MAX + 1, 0));
}

#[test]
fn deliveries_beyond_what_may_wait_are_not_journalled() {
    let mut house = House::busy(Limits::default());
    for n in 0..=SENT_MAX as u64 {
        let outcome = Delivery::Acknowledged { partition: 0, offset: i64::try_from(n).unwrap() };
        house.tell(Input::Delivered { producer: ProducerId(1), seq: Seq(n + 1), outcome });
    }
    let gauges = house.gauges();
    assert_eq!((gauges.deliveries_unwritten, gauges.tally.deliveries_unwritten), (SENT_MAX, 1));
}

#[test]
fn more_decisions_than_may_be_at_work_are_refused() {
    let dead: Vec<_> = (1..=RELEASES_MAX as u64 + 1).map(|n| (Seq(n), format!("o-{n}").parse().unwrap())).collect();
    let end = Seq(RELEASES_MAX as u64 + 2);
    let mut house = House::new(Limits::default(), Opened { next_seq: end, progress: Seq(1), dead, ..Opened::default() });
    for n in 1..=RELEASES_MAX as u64 + 1 {
        house.tell(Input::Decide { reply_to: ReplyTo(n), dead: Seq(n), decision: Decision::Retry, by: "somebody".into() });
    }
    assert_eq!(house.decided, [(ReplyTo(RELEASES_MAX as u64 + 1), Decided::Busy)]);
    assert_eq!((house.gauges().decisions, house.gauges().tally.decisions_refused), (RELEASES_MAX, 1));
}

/// Orders one after the other, each durable before the next, until one is refused; gives how many were taken.
fn orders_until_refused(house: &mut House) -> u64 {
    house.commit();
    for n in 1..100 {
        house.submit(n, &format!("r-{n}"));
        if !house.refused.is_empty() {
            assert_eq!(house.refused, [(ReplyTo(n), Code::Full)]);
            return n - 1;
        }
        house.commit();
    }
    panic!("none is refused");
}

#[test]
fn an_outbox_keeps_its_last_tenth_from_new_orders() {
    let mut house = House::busy(Limits { queued_events_max: 20, ..Limits::default() });
    assert_eq!(orders_until_refused(&mut house), 18);
    let known = Request::parse(br#"{"requestId":"s-1","type":"order.state_changed","orderId":"r-1","data":{"status":"READY"}}"#).unwrap();
    let submission = Submission { terminal: "till-1".parse().unwrap(), request: known, session: None, maybe_stored: false };
    house.tell(Input::Submit { reply_to: ReplyTo(100), submission });
    house.commit();
    assert_eq!((house.refused.len(), house.gauges().queued), (1, 19));
}

#[test]
fn an_outbox_has_a_bound_in_bytes() {
    let mut house = House::busy(Limits { queued_bytes_max: 4_000, ..Limits::default() });
    let taken = orders_until_refused(&mut house);
    let bytes = house.gauges().queued_bytes;
    assert!((1..20).contains(&taken) && (3_600..=4_000).contains(&bytes), "{taken} orders of {bytes} bytes");
}

#[test]
fn with_too_many_dead_letters_no_new_order_is_taken() {
    let opened = Opened { next_seq: Seq(2), progress: Seq(1), dead: vec![(Seq(1), "o-1".parse().unwrap())], ..Opened::default() };
    let mut house = House::new(Limits { dead_letters_max: 1, ..Limits::default() }, opened);
    assert_eq!(orders_until_refused(&mut house), 0);
    assert_eq!(house.gauges().dead_letters, 1);
}

#[test]
fn more_open_orders_than_fit_in_memory_leave_the_oldest_out() {
    let mut house = House::busy(Limits { open_orders_max: 2, ..Limits::default() });
    for n in 1..=3 {
        house.commit();
        house.submit(n, &format!("r-{n}"));
    }
    house.commit();
    let gauges = house.gauges();
    assert_eq!((gauges.open_orders, gauges.open_orders_crowded_out), (2, 1));
    let left: Vec<_> = house.gateway.open_orders().map(|order| order.order_id.to_string()).collect();
    assert_eq!(left, ["r-2", "r-3"]);
}

#[test]
fn the_producer_holds_no_more_than_its_window() {
    for limits in [Limits { window_events_max: 2, ..Limits::default() }, Limits { window_bytes_max: 1, ..Limits::default() }] {
        let most = limits.window_events_max.min(2).min(limits.window_bytes_max);
        let mut house = House::busy(limits);
        house.commit();
        for n in 1..=3 {
            house.submit(n, &format!("r-{n}"));
            house.commit();
        }
        assert_eq!((house.gauges().window_events, house.gauges().queued), (most, 3));
    }
}

#[test]
fn the_consumer_waits_while_too_many_statuses_are_in_flight() {
    let mut house = House::busy(Limits { statuses_in_flight_max: 2, ..Limits::default() });
    for offset in 0..2 {
        assert!(house.gateway.takes_status());
        let value = r#"{"id":"e","type":"order.state_changed","orderId":"o-1","data":{"status":"CONFIRMED"},"occurredAt":"2024-01-01T12:00:00Z","version":"1.0"}"#;
        house.tell(Input::Status(Record {
            at: PartitionName { topic: "order-status".into(), partition: 0 },
            offset,
            key: Some(b"store-042".to_vec()),
            value: Some(value.into()),
            gateway_id: None,
            gateway_epoch: None,
            select: Select::Partition,
        }));
    }
    assert!(!house.gateway.takes_status());
    assert_eq!(house.gauges().statuses_in_flight, 2);
}
