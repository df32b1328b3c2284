//! A card dies: what Kafka has of its events makes a new store what it was.

use super::*;
use crate::board::BoardRules;
use crate::dialect::Dialect;
use crate::ids::ReplyTo;
use crate::io::{Counters, Found, Input, Record, Select, Submission, Wanted};
use crate::order::Status;
use crate::random::Random;
use crate::request::{Answer, Code, Request, Stored};
use crate::settings::{Limits, NewCard};
use std::collections::BTreeMap;

const HOUR: u64 = 3_600_000;
const NOON_MS: i64 = 1_800_000_000_000;
const NEW_CARD: NewCard = NewCard { reach_max_ms: 20_000, read_max_ms: 300_000 };

fn settings() -> Settings {
    Settings {
        gateway: "store-042".parse().unwrap(),
        restaurant_ids: vec!["restaurant-789".into()],
        strict_orders: false,
        hold_behind_dead: true,
        remember_ms: 7 * 24 * HOUR,
        forget_details_ms: 24 * HOUR,
        journal: false,
        new_card: Some(NEW_CARD),
        board: BoardRules::default(),
        dialect: Dialect::OrderEvent,
        limits: Limits::default(),
    }
}

/// No two starts make the same ids.
fn seed(epoch: u64) -> [u8; 16] {
    u128::from(epoch).to_le_bytes()
}

/// A gateway over a store of maps.
struct House {
    gateway: Gateway,
    now_ms: u64,
    requests: BTreeMap<RequestKey, Remembered>,
    orders: BTreeMap<OrderId, Projection>,
    /// What is at [`place`].
    place: Option<i64>,
    former: Vec<Epoch>,
    own: Vec<Epoch>,
    counters: Counters,
    events: Vec<(Seq, Arc<OrderEvent>)>,
    answers: BTreeMap<ReplyTo, Answer>,
    notices: Vec<Notice>,
    last_reply: u64,
}

impl House {
    fn open(epoch: u64, opened: Opened, now_ms: u64) -> House {
        let now = Self::at(now_ms);
        let mut house = House {
            gateway: Gateway::new(settings(), opened, Epoch(epoch), seed(epoch), now),
            now_ms,
            requests: BTreeMap::new(),
            orders: BTreeMap::new(),
            place: None,
            former: vec![],
            own: vec![],
            counters: Counters::default(),
            events: vec![],
            answers: BTreeMap::new(),
            notices: vec![],
            last_reply: 0,
        };
        house.settle();
        house
    }

    fn new(epoch: u64, now_ms: u64) -> House {
        House::open(epoch, Opened { next_seq: Seq(1), is_new: true, ..Opened::default() }, now_ms)
    }

    /// The same store after a crash.
    fn start_again(&mut self, epoch: u64) {
        let opened = Opened {
            next_seq: Seq(self.events.len() as u64 + 1),
            counters: self.counters,
            open: self.orders.values().filter(|order| order.open).cloned().collect(),
            epochs: self.former.iter().chain(&self.own).copied().collect(),
            offsets: self.place.map(|done| (super::place(), done)).into_iter().collect(),
            ..Opened::default()
        };
        self.gateway = Gateway::new(settings(), opened, Epoch(epoch), seed(epoch), Self::at(self.now_ms));
        self.settle();
    }

    /// Monotonic time and wall time go together.
    fn at(ms: u64) -> Now {
        Now { mono_ms: ms, wall: Some(Wall { unix_ms: NOON_MS + i64::try_from(ms).unwrap(), business_day: 20_000 }) }
    }

    fn tell(&mut self, input: Input) {
        self.gateway.handle(Self::at(self.now_ms), input);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            let input = match output {
                Output::Load { load, wanted: Wanted { request, order, .. } } => {
                    let request = request.and_then(|key| self.requests.get(&key).cloned());
                    let order = order.and_then(|id| self.orders.get(&id).cloned());
                    Input::Loaded { load, found: Found { request, order, ..Found::default() } }
                }
                Output::Store { commit, batch } => {
                    batch.into_iter().for_each(|change| self.write(change));
                    Input::Stored { commit }
                }
                Output::Answer { reply_to, answer } => {
                    self.answers.insert(reply_to, answer);
                    continue;
                }
                Output::Notice(notice) => {
                    self.notices.push(notice);
                    continue;
                }
                _ => continue,
            };
            self.gateway.handle(Self::at(self.now_ms), input);
        }
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::Remember(key, remembered) => drop(self.requests.insert(key, remembered)),
            Change::Project(order) => drop(self.orders.insert(order.order_id.clone(), order.as_ref().clone())),
            Change::Offset(at, offset) if at == super::place() => self.place = Some(offset),
            Change::FormerEpoch(epoch) => self.former.push(epoch),
            Change::Epoch(epoch) => self.own.push(epoch),
            Change::Counters(counters) => self.counters = counters,
            Change::Enqueue(seq, event) => self.events.push((seq, event)),
            _ => {}
        }
    }

    fn submit(&mut self, id: &str, body: &str) -> Answer {
        self.last_reply += 1;
        let reply_to = ReplyTo(self.last_reply);
        let request = Request::parse_with_id(id.parse().unwrap(), body.as_bytes()).unwrap();
        let submission = Submission { terminal: "till-1".parse().unwrap(), request, session: None, maybe_stored: false };
        self.tell(Input::Submit { reply_to, submission });
        self.answers.remove(&reply_to).expect("it is answered at once")
    }

    fn stored(&mut self, id: &str, body: &str) -> Stored {
        match self.submit(id, body) {
            Answer::Stored(stored) => stored,
            Answer::Rejected(rejected) => panic!("{rejected:?}"),
        }
    }

    fn order(&mut self, id: &str, order: &str) -> Stored {
        self.stored(id, &new_order(order))
    }

    fn set(&mut self, id: &str, order: &str, status: &str) -> Stored {
        self.stored(id, &format!(r#"{{"type":"order.state_changed","orderId":"{order}","data":{{"status":"{status}"}}}}"#))
    }

    /// Reads all of another house's events back.
    fn recall_all(&mut self, from: &[(Seq, Arc<OrderEvent>)]) {
        self.tell(Input::Recall(Recall::Reached));
        for (seq, event) in from {
            self.tell(Input::Recall(Recall::Event(Box::new(through_kafka(*seq, event)))));
        }
        self.tell(Input::Recall(Recall::Ended));
    }

    fn board(&self) -> Vec<(String, Option<u32>, Status)> {
        self.gateway.open_orders().map(|order| (order.order_id.to_string(), order.ticket.map(|t| t.0), order.status)).collect()
    }
}

fn new_order(order: &str) -> String {
    format!(r#"{{"orderId":"{order}","data":{{"orderDetails":[{{"foodId":"f","foodName":"Pizza","price":12.50,"quantity":1}}]}}}}"#)
}

fn through_kafka(seq: Seq, event: &OrderEvent) -> Recalled {
    let record = Record {
        at: PartitionName { topic: "order-events".into(), partition: 0 },
        offset: 0,
        key: None,
        value: Some(Dialect::OrderEvent.value(event)),
        gateway_id: None,
        gateway_epoch: None,
        select: Select::All,
    };
    let incoming = Dialect::OrderEvent.decode(&record).unwrap();
    Recalled { data: incoming.data, effect: Some(incoming.effect), ..Recalled::of(event, seq, 20_000).unwrap() }
}

/// A house that had some orders, two of which are over.
fn old_house() -> House {
    let mut old = House::open(1, Opened { next_seq: Seq(1), epochs: vec![Epoch(1)], ..Opened::default() }, 0);
    for n in 1..=4 {
        old.order(&format!("r-{n}"), &format!("o-{n}"));
        old.now_ms += 60_000;
    }
    old.set("s-1", "o-1", "READY");
    old.set("s-2", "o-1", "DELIVERED");
    old.set("s-3", "o-2", "CANCELLED");
    old.set("s-4", "o-3", "READY");
    old
}

#[test]
fn a_new_store_is_rebuilt_from_its_events_before_it_accepts() {
    let mut old = old_house();
    let heard = old.order("again", "o-5");
    let before = old.board();
    let mut new = House::new(2, old.now_ms + 120_000);
    assert_eq!(new.place, Some(TO_DO), "a crash before the end begins anew");
    assert!(new.gateway.gauges().rebuilding && !new.gateway.gauges().accepting);
    let Answer::Rejected(busy) = new.submit("again", &new_order("o-5")) else { panic!("nobody knows yet") };
    assert!(busy.code == Code::Busy && busy.retry_after_ms.is_some());
    new.recall_all(&old.events);
    assert_eq!(new.place, Some(DONE));
    assert!(new.gateway.gauges().accepting && !new.gateway.gauges().rebuilding);
    assert_eq!(new.notices, [Notice::Rebuilt { recalled: old.events.len() as u64 }]);
    assert_eq!(new.former, [Epoch(1)]);
    assert_eq!(new.board(), before);
    assert_eq!(new.order("again", "o-5"), Stored { duplicate: true, ..heard.clone() });
    assert_eq!(new.stored("again", &new_order("o-77")), Stored { duplicate: true, ..heard }, "whose repeat it is cannot be told");
    assert!(new.events.is_empty(), "nothing is sent a second time");
    assert_eq!(new.order("r-6", "o-6").ticket, Some(Ticket(6)));
    assert!(!new.events[0].1.data.contains(MAYBE_STORED));
}

#[test]
fn partitions_that_are_read_one_after_the_other_leave_the_newest_ticket() {
    let mut old = old_house();
    old.order("r-5", "o-5");
    let (even, odd): (Vec<_>, Vec<_>) = old.events.clone().into_iter().partition(|(_, event)| event.order_id.as_str().ends_with('4'));
    let mut new = House::new(2, old.now_ms);
    new.recall_all(&[odd, even].concat());
    assert_eq!(new.order("r-6", "o-6").ticket, Some(Ticket(6)));
}

#[test]
fn what_is_read_back_twice_or_was_admitted_here_changes_nothing() {
    let old = old_house();
    let mut new = House::new(2, old.now_ms);
    new.tell(Input::Recall(Recall::Reached));
    let twice: Vec<_> = old.events.iter().chain(&old.events).cloned().collect();
    new.recall_all(&twice);
    assert_eq!((new.board(), new.gateway.gauges().tally.recalled), (old.board(), old.events.len() as u64));
    new.set("s-5", "o-3", "DELIVERED");
    let again = through_kafka(new.events[0].0, &new.events[0].1);
    new.tell(Input::Recall(Recall::Event(Box::new(again))));
    assert_eq!(new.board().len(), 1, "after the end nothing is recalled");
}

#[test]
fn a_retried_dead_letter_keeps_the_seq_that_was_told_first() {
    let old = old_house();
    let mut new = House::new(2, old.now_ms);
    let (first, event) = old.events[0].clone();
    new.recall_all(&[(Seq(90), Arc::clone(&event)), (first, event)]);
    assert_eq!(new.requests.values().map(|found| found.seq).collect::<Vec<_>>(), [first]);
    assert_eq!(new.order("r-1", "o-1").seq, first);
}

#[test]
fn an_order_has_its_age_and_leaves_the_board_when_it_would_have() {
    let old = old_house();
    let ready_minutes = 20 * 60_000;
    // READY in the last minute: all but a minute of its time on the board is over.
    let mut new = House::new(2, old.now_ms + ready_minutes - 60_000);
    new.recall_all(&old.events);
    assert_eq!(new.board().len(), 2);
    new.now_ms += 61_000;
    new.tell(Input::Tick);
    assert_eq!(new.board(), [("o-4".to_owned(), Some(4), Status::Created)]);
    // After half a day none is on it, and all are known.
    let mut late = House::new(3, old.now_ms + 13 * HOUR);
    late.recall_all(&old.events);
    assert_eq!((late.board(), late.orders.len()), (vec![], 4));
    let Answer::Rejected(conflict) = late.submit("r-77", &new_order("o-4")) else { panic!("there is such an order") };
    assert_eq!(conflict.code, Code::Conflict);
    // A week after its request nobody repeats it.
    let stored_run_ms = late.requests.values().map(|found| found.stored_run_ms).min().unwrap();
    assert_eq!(stored_run_ms, 7 * 24 * HOUR - (13 * HOUR + 4 * 60_000));
}

#[test]
fn after_its_time_a_new_store_accepts_marks_and_is_rebuilt_later() {
    let mut old = old_house();
    let heard = old.order("again", "o-5");
    let mut new = House::new(2, old.now_ms);
    new.now_ms += NEW_CARD.reach_max_ms;
    new.tell(Input::Tick);
    assert_eq!(new.notices, [Notice::NotRebuilt]);
    assert!(new.gateway.gauges().accepting && new.gateway.gauges().rebuilding);
    // One that the old store had, under an id that the gateway makes up; and a new one.
    let anew = new.stored("again", r#"{"data":{"orderDetails":[{"foodId":"f","foodName":"Pizza","price":1,"quantity":1}]}}"#);
    new.order("r-7", "o-7");
    for (_, event) in &new.events {
        assert!(event.data.contains(r#""maybeStored":true"#), "{}", event.data);
    }
    assert!(new.gateway.open_orders().all(|order| order.maybe_stored));
    assert_eq!(new.place, Some(LATE));
    // Kafka has its own events as well by then.
    let all: Vec<_> = old.events.iter().chain(&new.events).cloned().collect();
    let sent = new.events.len();
    new.recall_all(&all);
    assert_eq!(new.place, Some(DONE));
    let again = RequestKey { terminal: "till-1".parse().unwrap(), request_id: "again".parse().unwrap() };
    assert_eq!(new.notices[1..], [Notice::StoredTwice(again), Notice::Rebuilt { recalled: old.events.len() as u64 - 1 }]);
    assert_ne!(anew.event_id, heard.event_id);
    assert_eq!(
        new.stored("again", r#"{"data":{"orderDetails":[{"foodId":"f","foodName":"Pizza","price":1,"quantity":1}]}}"#).event_id,
        anew.event_id
    );
    assert_eq!(new.order("r-4", "o-4").ticket, Some(Ticket(4)));
    assert_eq!(new.events.len(), sent, "nothing of it is sent again");
    assert_eq!(new.board().len(), 5, "three of the old ones and both of the new");
    assert!(!new.order("r-8", "o-8").duplicate && !new.events[sent].1.data.contains(MAYBE_STORED));
}

#[test]
fn once_kafka_is_reached_reading_has_a_time_of_its_own() {
    let mut new = House::new(2, 0);
    new.now_ms = NEW_CARD.reach_max_ms - 1;
    new.tell(Input::Recall(Recall::Reached));
    new.now_ms += NEW_CARD.read_max_ms - 1;
    new.tell(Input::Tick);
    assert!(!new.gateway.gauges().accepting);
    assert_eq!(new.gateway.wake_at().map(|at| at.min(new.now_ms + 1)), Some(new.now_ms + 1));
    new.now_ms += 1;
    new.tell(Input::Tick);
    assert!(new.gateway.gauges().accepting);
    new.tell(Input::Recall(Recall::Reached));
    assert!(new.gateway.gauges().accepting, "it never goes back");
}

#[test]
fn a_crash_in_between_begins_anew_and_a_store_with_a_past_does_not() {
    let old = old_house();
    let broken = Opened { offsets: vec![(super::place(), TO_DO)], epochs: vec![Epoch(1), Epoch(2)], ..Opened::default() };
    let mut new = House::open(3, broken, old.now_ms);
    new.recall_all(&old.events);
    assert_eq!(new.board(), old.board());
    let done = Opened { offsets: vec![(super::place(), DONE)], epochs: vec![Epoch(1), Epoch(2)], ..Opened::default() };
    assert!(House::open(4, done, 0).gateway.gauges().accepting);
}

#[test]
fn one_that_accepts_already_does_not_refuse_again_after_a_restart() {
    let mut new = House::new(2, 0);
    new.now_ms += NEW_CARD.reach_max_ms;
    new.tell(Input::Tick);
    let stored = new.order("r-1", "o-1");
    new.start_again(3);
    assert!(new.gateway.is_rebuilding());
    assert_eq!(new.order("r-1", "o-1"), Stored { duplicate: true, ..stored });
    new.order("r-2", "o-2");
    assert!(new.events[1].1.data.contains(MAYBE_STORED), "nobody has read back what was before");
}

#[test]
fn own_events_of_a_former_store_are_no_alarm_and_a_strangers_are() {
    let old = old_house();
    let mut new = House::new(2, old.now_ms);
    let status = |offset: i64, epoch: u64| {
        Input::Status(Record {
            at: PartitionName { topic: "order-events".into(), partition: 0 },
            offset,
            key: None,
            value: Some(b"{}".to_vec()),
            gateway_id: Some("store-042".into()),
            gateway_epoch: Some(Epoch(epoch)),
            select: Select::All,
        })
    };
    new.tell(status(0, 1));
    new.recall_all(&old.events);
    new.tell(status(1, 1));
    assert_eq!(new.gateway.gauges().tally.strangers, 0);
    new.tell(status(2, 9));
    new.tell(status(3, 9));
    assert_eq!(new.gateway.gauges().tally.strangers, 1);
    assert_eq!(new.notices.last(), Some(&Notice::ForeignEpoch(Epoch(9))));
}

#[test]
fn a_failed_commit_is_recalled_again() {
    let old = old_house();
    let mut new = House::new(2, old.now_ms);
    let now = House::at(new.now_ms);
    let recalled = through_kafka(old.events[0].0, &old.events[0].1);
    new.gateway.handle(now, Input::Recall(Recall::Event(Box::new(recalled))));
    let Some(Output::Load { load, .. }) = new.gateway.poll_output() else { panic!("it is looked up") };
    new.gateway.handle(now, Input::Loaded { load, found: Found::default() });
    let Some(Output::Store { commit, .. }) = new.gateway.poll_output() else { panic!("it is stored") };
    new.gateway.handle(now, Input::Recall(Recall::Ended));
    let failure = crate::io::CommitFailure::NoSpace;
    new.tell(Input::StoreFailed { commit, failure });
    assert_eq!(new.requests.len(), 0);
    new.now_ms += 10_000;
    new.tell(Input::Tick);
    assert_eq!((new.requests.len(), new.place), (1, Some(DONE)));
}

type Events = Vec<(Seq, Arc<OrderEvent>)>;

/// What the terminals of a house meant, and what Kafka has, over the lives of many cards.
struct Lives {
    dice: Random,
    house: House,
    epoch: u64,
    /// Every request that was ever submitted: its id, and its body.
    requests: Vec<(String, String)>,
    orders: u64,
    /// What Kafka has, in the order in which it came.
    kafka: Events,
    /// How many of the present card's events Kafka has.
    delivered: usize,
    /// What is still to be read back of it, each partition in its order; then the end.
    reading: Option<[Events; 3]>,
    /// A card that admitted something before it was rebuilt may give a ticket twice.
    hasty: bool,
}

impl Lives {
    fn new(seed: u8) -> Lives {
        let mut lives = Lives {
            dice: Random::new([seed; 16]),
            house: House::new(1, 0),
            epoch: 1,
            requests: vec![],
            orders: 0,
            kafka: vec![],
            delivered: 0,
            reading: None,
            hasty: false,
        };
        lives.begin_reading();
        lives
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.dice.below(n as u64)).unwrap()
    }

    /// As the consumer does: from the beginning, up to what is there now.
    fn begin_reading(&mut self) {
        let mut partitions: [Vec<_>; 3] = Default::default();
        for (seq, event) in self.kafka.iter().rev() {
            let partition = event.order_id.as_str().bytes().map(usize::from).sum::<usize>() % 3;
            partitions[partition].push((*seq, Arc::clone(event)));
        }
        self.reading = Some(partitions);
    }

    fn read_on(&mut self) {
        let n = self.below(3);
        let Some(partitions) = &mut self.reading else { return };
        let next = (0..3).find_map(|shift| partitions[(n + shift) % 3].pop());
        match next {
            Some((seq, event)) => self.house.tell(Input::Recall(Recall::Event(Box::new(through_kafka(seq, &event))))),
            None => {
                self.reading = None;
                self.house.tell(Input::Recall(Recall::Ended));
            }
        }
    }

    fn submit(&mut self) {
        let again = !self.requests.is_empty() && self.below(3) == 0;
        let (id, body) = if again {
            let n = self.below(self.requests.len());
            self.requests[n].clone()
        } else {
            let id = format!("r-{}", self.requests.len());
            let body = match self.below(3) {
                0 if self.orders > 0 => {
                    let order = self.below(usize::try_from(self.orders).unwrap());
                    let status = ["PREPARING", "READY", "DELIVERED"][self.below(3)];
                    format!(r#"{{"type":"order.state_changed","orderId":"o-{order}","data":{{"status":"{status}"}}}}"#)
                }
                // One whose order the gateway names.
                1 => r#"{"data":{"orderDetails":[{"foodId":"f","foodName":"Pizza","price":1,"quantity":1}]}}"#.to_owned(),
                _ => {
                    self.orders += 1;
                    new_order(&format!("o-{}", self.orders - 1))
                }
            };
            self.requests.push((id.clone(), body.clone()));
            (id, body)
        };
        let unsure = self.house.gateway.is_rebuilding();
        let answer = self.house.submit(&id, &body);
        self.hasty |= unsure && matches!(answer, Answer::Stored(_));
        let Answer::Stored(stored) = answer else { return };
        // One that Kafka has, of a house that knows all that Kafka has, is a repeat and nothing else.
        let sent: Vec<_> = self.kafka.iter().filter(|(_, event)| event.request.request_id.as_str() == id).collect();
        if !unsure && !sent.is_empty() {
            assert!(stored.duplicate, "{id} was stored again: {sent:?}");
        }
    }

    fn deliver(&mut self) {
        let waiting = self.house.events.len() - self.delivered;
        let count = self.below(waiting + 1);
        self.kafka.extend(self.house.events[self.delivered..][..count].iter().cloned());
        self.delivered += count;
    }

    fn card_dies(&mut self) {
        self.epoch += 1;
        self.house = House::new(self.epoch, self.house.now_ms + 1_000);
        self.delivered = 0;
        self.begin_reading();
    }

    fn step(&mut self) {
        self.house.now_ms += 1_000;
        match self.below(100) {
            0 => self.card_dies(),
            1 if self.reading.is_some() => {
                // A crash while it is rebuilt.
                self.epoch += 1;
                self.house.start_again(self.epoch);
                self.begin_reading();
            }
            2..40 => (0..if self.epoch.is_multiple_of(2) { 20 } else { 1 }).for_each(|_| self.read_on()),
            40..60 => self.deliver(),
            _ => self.submit(),
        }
    }

    fn check(&self) {
        let mut first = BTreeMap::new();
        for (_, event) in &self.kafka {
            let id = first.entry(&event.request).or_insert(event.id);
            assert!(*id == event.id || event.data.contains(MAYBE_STORED), "{:?} is doubled, and nothing says so", event.request);
        }
        let names: std::collections::BTreeSet<_> = self.kafka.iter().map(|(seq, event)| (event.epoch, *seq)).collect();
        assert_eq!(names.len(), self.kafka.len(), "nothing that was read back is sent");
        let tickets: Vec<_> = self.house.gateway.open_orders().filter_map(|order| order.ticket).collect();
        let apart: std::collections::BTreeSet<_> = tickets.iter().collect();
        assert!(self.hasty || apart.len() == tickets.len(), "two orders on the board have a ticket: {tickets:?}");
    }
}

/// What a simulation of the whole gateway would find of a new card, without its disks and lines.
#[test]
fn over_many_cards_no_order_is_doubled_unmarked() {
    let (mut marked, mut rebuilt, mut calm) = (0, 0, 0);
    for seed in 0..200 {
        let mut lives = Lives::new(seed);
        for _ in 0..600 {
            let before = lives.house.gateway.is_rebuilding();
            lives.step();
            lives.check();
            rebuilt += usize::from(before && !lives.house.gateway.is_rebuilding() && !lives.kafka.is_empty());
            calm += usize::from(!lives.hasty);
        }
        marked += lives.kafka.iter().filter(|(_, event)| event.data.contains(MAYBE_STORED)).count();
    }
    assert!(marked > 1_000 && rebuilt > 200 && calm > 10_000, "it tries what it should: {marked} {rebuilt} {calm}");
}
