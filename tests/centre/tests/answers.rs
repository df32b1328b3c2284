//! The centre against librdkafka's mock cluster.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use centre::{Centre, Kitchen, RequestName, Settings, succeeds};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Nothing in these tests waits so long for one thing unless it is broken.
const LIMIT: Duration = Duration::from_secs(90);
/// A test has several such things. Then it has hung, in librdkafka perhaps, where nothing else would end it.
const TEST_LIMIT: Duration = Duration::from_secs(400);

fn within_limit(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match ended.recv_timeout(TEST_LIMIT) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The clients are dropped before the cluster: a consumer that says goodbye to nobody waits for 45 s.
struct House {
    statuses: BaseConsumer,
    producer: BaseProducer,
    cluster: MockCluster<'static, DefaultProducerContext>,
}

/// A status that reached the house.
#[derive(Debug, PartialEq)]
struct Status {
    id: String,
    order: String,
    word: String,
}

impl House {
    fn open() -> House {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("order-events", 3, 1).unwrap();
        cluster.create_topic("order-status", 2, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer = config.create().unwrap();
        // Assigned, as the gateway does it: no group that has to gather first and to let it go at the end.
        let statuses: BaseConsumer = config.set("group.id", "house").create().unwrap();
        let mut partitions = TopicPartitionList::new();
        for partition in 0..2 {
            partitions.add_partition_offset("order-status", partition, Offset::Beginning).unwrap();
        }
        statuses.assign(&partitions).unwrap();
        House { cluster, producer, statuses }
    }

    fn settings(&self) -> Settings {
        // The mock cluster does not hear a consumer leave: the next one waits for the session of the one before. And it forgets one that
        // starved while it waited to join, without a word: librdkafka asks again only 3 s after `max.poll.interval.ms`, which is 5 minutes.
        let properties = [("session.timeout.ms", "5000"), ("heartbeat.interval.ms", "500"), ("max.poll.interval.ms", "6000")];
        let properties = properties.map(|(key, value)| (key.into(), value.into())).into();
        Settings { properties, ..Settings::new(self.cluster.bootstrap_servers()) }
    }

    fn send(&self, seq: u64, request_id: &str, event_type: &str, order: &str) {
        let value = format!(
            r#"{{"id":"id-{request_id}","type":"{event_type}","orderId":"{order}","data":{{"totalPrice":25.50}},"occurredAt":"2024-01-01T12:00:00Z","version":"1.0"}}"#
        );
        let seq = seq.to_string();
        let headers = [
            ("gateway-id", "store-042"),
            ("gateway-epoch", "00ab"),
            ("gateway-seq", &seq),
            ("terminal", "till-1"),
            ("request-id", request_id),
        ];
        let headers =
            headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        self.producer.send(BaseRecord::to("order-events").key(order).payload(&value).headers(headers)).unwrap();
        self.producer.flush(LIMIT).unwrap();
    }

    fn read(&self, count: usize) -> Vec<Status> {
        let until = Instant::now() + LIMIT;
        let mut statuses = vec![];
        while statuses.len() < count {
            assert!(Instant::now() < until, "{count} statuses expected: {statuses:?}");
            let Some(Ok(message)) = self.statuses.poll(Duration::from_millis(50)) else { continue };
            assert_eq!(message.key(), Some(&b"store-042"[..]));
            assert!(message.headers().unwrap().iter().all(|header| header.key != "gateway-epoch"), "it would pass for the gateway's own");
            let value: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            statuses.push(Status { id: text(&value["id"]), order: text(&value["orderId"]), word: text(&value["data"]["status"]) });
        }
        statuses
    }
}

fn words(statuses: &[Status]) -> Vec<(&str, &str)> {
    statuses.iter().map(|status| (status.order.as_str(), status.word.as_str())).collect()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn payment(order: &str) -> &'static str {
    if succeeds(1, order) { "PAID" } else { "FAILED" }
}

#[test]
fn each_order_is_confirmed_and_paid_for_once_however_often_it_comes() {
    within_limit(|| {
        let house = House::open();
        let centre = Centre::start(house.settings()).unwrap();
        house.send(1, "r1", "order.created", "order-1");
        house.send(1, "r1", "order.created", "order-1");
        house.send(2, "r2", "order.state_changed", "order-1");
        house.send(3, "r3", "order.created", "order-3");
        let mut statuses = house.read(4);
        statuses.sort_by(|a, b| a.order.cmp(&b.order));
        let expected =
            [("order-1", "CONFIRMED"), ("order-1", payment("order-1")), ("order-3", "CONFIRMED"), ("order-3", payment("order-3"))];
        assert_eq!(words(&statuses), expected);
        wait_for("everything is seen", || centre.ledger(|ledger| (ledger.delivered, ledger.repeats) == (3, 1)));
        let ledger = centre.stop().unwrap();
        assert_eq!((ledger.doubled, ledger.out_of_order, ledger.foreign, ledger.poison), (0, 0, 0, 0));
        assert_eq!(ledger.order("store-042", "order-1"), [1, 2]);
    });
}

#[test]
fn one_request_under_two_names_and_a_seq_out_of_order_are_found() {
    within_limit(|| {
        let house = House::open();
        let centre = Centre::start(house.settings()).unwrap();
        house.send(2, "r2", "order.created", "order-1");
        house.send(1, "r1", "order.state_changed", "order-1");
        house.send(3, "r2", "order.created", "order-1");
        wait_for("everything is seen", || centre.ledger(|ledger| ledger.delivered == 3));
        let ledger = centre.stop().unwrap();
        assert_eq!((ledger.doubled, ledger.out_of_order), (1, 1));
        let request = RequestName { gateway: "store-042".into(), terminal: "till-1".into(), request_id: "r2".into() };
        assert_eq!(ledger.request(&request).iter().map(|name| name.seq).collect::<Vec<_>>(), [2, 3]);
    });
}

#[test]
fn what_was_not_answered_is_answered_by_the_next_start_and_what_was_is_not() {
    within_limit(|| {
        let house = House::open();
        let patient = Settings { delay: Duration::from_secs(3_600), ..house.settings() };
        house.send(1, "r1", "order.created", "order-1");
        let first = Centre::start(patient).unwrap();
        wait_for("it is read", || first.ledger(|ledger| ledger.delivered == 1));
        first.stop().unwrap();

        let second = Centre::start(house.settings()).unwrap();
        assert_eq!(words(&house.read(2)), [("order-1", "CONFIRMED"), ("order-1", payment("order-1"))]);
        second.stop().unwrap();

        let third = Centre::start(house.settings()).unwrap();
        house.send(2, "r2", "order.created", "order-2");
        assert_eq!(words(&house.read(2)), [("order-2", "CONFIRMED"), ("order-2", payment("order-2"))]);
        assert_eq!(third.stop().unwrap().delivered, 1);
    });
}

#[test]
fn broken_and_foreign_records_are_counted_and_stop_nothing() {
    within_limit(|| {
        let house = House::open();
        let centre = Centre::start(house.settings()).unwrap();
        house.producer.send(BaseRecord::to("order-events").key("k").payload("no gateway's")).unwrap();
        let headers = ["gateway-id", "gateway-epoch", "gateway-seq"];
        let headers = headers.into_iter().fold(OwnedHeaders::new(), |headers, key| headers.insert(Header { key, value: Some("7") }));
        house.producer.send(BaseRecord::to("order-events").key("k").payload("{not json").headers(headers)).unwrap();
        house.send(1, "r1", "order.created", "order-1");
        house.read(2);
        wait_for("both are counted", || centre.ledger(|ledger| (ledger.foreign, ledger.poison) == (1, 1)));
        centre.stop().unwrap();
    });
}

#[test]
fn a_kitchen_without_people_serves_what_was_paid_and_leaves_what_the_house_moves() {
    within_limit(|| {
        let house = House::open();
        let step = Duration::from_millis(300);
        let kitchen = Some(Kitchen { preparing: step, ready: step, delivered: step });
        let centre = Centre::start(Settings { kitchen, ..house.settings() }).unwrap();
        let paid = (0..).map(|n| format!("order-{n}")).filter(|order| succeeds(1, order)).take(2).collect::<Vec<_>>();
        house.send(1, "r1", "order.created", &paid[0]);
        house.send(2, "r2", "order.created", &paid[1]);
        house.send(3, "r3", "order.state_changed", &paid[1]);
        let statuses = house.read(7);
        let of = |order: &str| words(&statuses).into_iter().filter(|(of, _)| *of == order).map(|(_, word)| word).collect::<Vec<_>>();
        assert_eq!(of(&paid[0]), ["CONFIRMED", "PAID", "PREPARING", "READY", "DELIVERED"]);
        assert_eq!(of(&paid[1]), ["CONFIRMED", "PAID"]);
        centre.stop().unwrap();
    });
}
