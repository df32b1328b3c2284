//! Uplink and downlink against librdkafka's mock cluster: it proves nothing about a real broker's promises, but it fails on demand.

use super::partitioner::partition_of;
use super::*;
use crate::config::{self, DownlinkSource};
use gateway::dialect::{Dialect, Partitioner};
use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Epoch, ProducerId, RequestKey, Seq};
use gateway::io::{Delivery, FailureClass, PartitionName, Record, Select};
use gateway::request::EventType;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub(super) const LIMIT: Duration = Duration::from_secs(30);

pub(super) type Cluster = MockCluster<'static, DefaultProducerContext>;

pub(super) fn cluster(topic: &str, partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    cluster
}

/// The connection that a config's text gives.
pub(super) fn connection(config: &str) -> Connection {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dumbwaiter.toml");
    std::fs::write(&file, config).unwrap();
    let config = crate::config::Config::load(&file, &crate::config::Environment::default()).unwrap();
    Connection { gateway: config.gateway.id, kafka: config.kafka.unwrap() }
}

fn connect(cluster: &Cluster, partitioner: Partitioner) -> Connection {
    let (brokers, partitioner) = (cluster.bootstrap_servers(), partitioner.as_str());
    connection(&format!("[gateway]\nid = \"store-042\"\n[kafka]\nbrokers = \"{brokers}\"\npartitioner = \"{partitioner}\""))
}

fn event(n: u64, order: &str) -> Arc<OrderEvent> {
    Arc::new(OrderEvent {
        epoch: Epoch(0xabc),
        request: RequestKey { terminal: "till-1".parse().unwrap(), request_id: format!("r-{n}").parse().unwrap() },
        id: [7; 16],
        event_type: EventType::Created,
        order_id: order.parse().unwrap(),
        user_id: None,
        occurred_at_ms: 1_704_110_400_000,
        clock: Clock::Synced,
        data: format!(r#"{{"n":{n}}}"#),
    })
}

struct Up {
    uplink: Uplink,
    reports: Receiver<UplinkReport>,
}

impl Up {
    fn start(cluster: &Cluster, partitioner: Partitioner) -> Up {
        Up::connect(connect(cluster, partitioner))
    }

    fn connect(connection: Connection) -> Up {
        let up = Up::begin(connection, &Gate::new([0; 16]));
        up.renew(ProducerId(1));
        up
    }

    fn begin(connection: Connection, gate: &Gate) -> Up {
        let (sender, reports) = channel();
        let sender = Mutex::new(sender);
        let settings =
            UplinkSettings { connection, dialect: Dialect::OrderEvent, window_events_max: 5_000, window_bytes_max: 2 << 20, once: None };
        let report = Arc::new(move |report| drop(sender.lock().unwrap().send(report)));
        Up { uplink: Uplink::start(settings, Renewal::new(gate), report).unwrap(), reports }
    }

    fn wait<T>(&self, what: &str, mut wanted: impl FnMut(UplinkReport) -> Option<T>) -> T {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let report = self.reports.recv_timeout(left).unwrap_or_else(|_| panic!("no report: {what}"));
            if let Some(found) = wanted(report) {
                return found;
            }
        }
    }

    fn renew(&self, producer: ProducerId) {
        self.uplink.new_producer(producer);
        self.wait("ready", |report| matches!(report, UplinkReport::Ready { producer: ready, .. } if ready == producer).then_some(()));
    }

    fn outcomes(&self, count: usize) -> Vec<(ProducerId, Seq, Delivery)> {
        let mut outcomes = vec![];
        self.wait("outcomes", |report| {
            if let UplinkReport::Delivered(mailbox) = report {
                outcomes.extend(mailbox.take().into_iter().map(|d| (mailbox.producer(), d.seq, d.outcome)));
            }
            (outcomes.len() >= count).then_some(())
        });
        outcomes
    }

    fn wait_for_line(&self, wanted: bool) {
        if self.uplink.is_up() != wanted {
            self.wait("line", |report| matches!(report, UplinkReport::Line { up } if up == wanted).then_some(()));
        }
    }
}

struct Down {
    downlink: Downlink,
    records: mpsc::Receiver<Record>,
}

impl Down {
    fn start(cluster: &Cluster, topic: &str, source: DownlinkSource, offsets: Vec<(PartitionName, i64)>) -> Down {
        Down::begin(connect(cluster, Partitioner::Fnv1aRandom), &Gate::new([0; 16]), topic, source, offsets)
    }

    fn begin(connection: Connection, gate: &Gate, topic: &str, source: DownlinkSource, offsets: Vec<(PartitionName, i64)>) -> Down {
        let (sender, records) = mpsc::channel(RECORDS_MAX);
        let settings = DownlinkSettings {
            connection,
            renewal: Renewal::new(gate),
            topics: vec![config::Downlink { topic: topic.parse().unwrap(), source }],
            first_read_ms: 3_600_000,
            wall_ms: || None,
        };
        Down { downlink: Downlink::start(settings, offsets, sender).unwrap(), records }
    }

    fn read(&mut self, count: usize) -> Vec<Record> {
        let until = Instant::now() + LIMIT;
        let mut records = vec![];
        while records.len() < count {
            match self.records.try_recv() {
                Ok(record) => records.push(record),
                Err(_) if Instant::now() > until => panic!("{} of {count} records", records.len()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        records
    }

    fn stop(self) {
        drop(self.records);
        self.downlink.stop(LIMIT);
    }
}

fn send_all(up: &Up, orders: &[String]) {
    for (seq, order) in (1..).zip(orders) {
        up.uplink.deliver(ProducerId(1), Seq(seq), &event(seq, order));
    }
    let outcomes = up.outcomes(orders.len());
    assert!(
        outcomes.iter().all(|(_, _, outcome)| matches!(outcome, Delivery::Acknowledged { partition: 0.., offset: 0.. })),
        "{outcomes:?}"
    );
}

#[test]
fn what_is_delivered_is_read_back_in_the_order_of_each_key_with_its_headers() {
    let cluster = cluster("order-events", 3);
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    let orders = (0..500).map(|n| format!("order-{}", n % 17)).collect::<Vec<_>>();
    send_all(&up, &orders);
    let mut down = Down::start(&cluster, "order-events", DownlinkSource::All, vec![]);
    let mut last = BTreeMap::new();
    for record in down.read(orders.len()) {
        assert_eq!(record.gateway_id.as_deref(), Some("store-042"));
        assert_eq!(record.gateway_epoch, Some(Epoch(0xabc)));
        assert_eq!(record.select, Select::All);
        let value: serde_json::Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let n = value["data"]["n"].as_u64().unwrap();
        let before = last.insert(record.key.clone().unwrap(), n);
        assert!(before < Some(n), "{before:?} before {n} of {:?}", record.key);
    }
    assert_eq!(last.len(), 17);
    down.stop();
    up.uplink.stop(LIMIT);
}

#[test]
fn keys_land_in_the_partition_that_is_computed_for_them() {
    for partitioner in [Partitioner::Fnv1aRandom, Partitioner::Murmur2Random, Partitioner::ConsistentRandom] {
        let cluster = cluster("order-events", 7);
        let up = Up::start(&cluster, partitioner);
        let orders = (0..50).map(|n| format!("store-{n:03}")).collect::<Vec<_>>();
        send_all(&up, &orders);
        let mut down = Down::start(&cluster, "order-events", DownlinkSource::Topic, vec![]);
        for record in down.read(orders.len()) {
            let key = record.key.unwrap();
            assert_eq!(partition_of(partitioner, &key, 7), record.at.partition, "{partitioner:?} {}", String::from_utf8_lossy(&key));
        }
        down.stop();
        up.uplink.stop(LIMIT);
    }
}

#[test]
fn after_a_failure_a_handle_takes_nothing_more_and_a_new_one_does() {
    let cluster = cluster("order-events", 1);
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    up.uplink.deliver(ProducerId(1), Seq(1), &event(1, "order-1"));
    let outcomes = up.outcomes(1);
    assert!(outcomes[0].1 == Seq(1) && needs_person(&outcomes[0].2), "{outcomes:?}");

    up.uplink.deliver(ProducerId(1), Seq(2), &event(2, "order-1"));
    let outcomes = up.outcomes(1);
    let held = |outcome: &Delivery| matches!(outcome, Delivery::Failed { class: FailureClass::Hold, .. });
    assert!(outcomes[0].1 == Seq(2) && held(&outcomes[0].2), "{outcomes:?}");

    up.renew(ProducerId(2));
    up.uplink.deliver(ProducerId(1), Seq(3), &event(3, "an older handle's"));
    up.uplink.deliver(ProducerId(2), Seq(1), &event(1, "order-1"));
    assert_eq!(up.outcomes(1), [(ProducerId(2), Seq(1), Delivery::Acknowledged { partition: 0, offset: 0 })]);
    up.uplink.stop(LIMIT);
}

#[test]
fn a_record_that_is_too_large_is_this_events_failure() {
    let cluster = cluster("order-events", 1);
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    up.uplink.deliver(ProducerId(1), Seq(1), &event(1, "order-1"));
    let outcomes = up.outcomes(1);
    assert!(matches!(outcomes[0].2, Delivery::Failed { class: FailureClass::ThisEvent, .. }), "{outcomes:?}");
    up.uplink.stop(LIMIT);
}

/// What the broker says in answer to a batch, and what comes of its event: librdkafka mends some of it by itself.
#[test]
fn each_class_comes_back_as_the_table_says() {
    use RDKafkaRespErr::*;
    let cases = [
        (RD_KAFKA_RESP_ERR_INVALID_RECORD, Some(FailureClass::ThisEvent)),
        (RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Some(FailureClass::ThisEvent)),
        (RD_KAFKA_RESP_ERR_POLICY_VIOLATION, Some(FailureClass::ThisEvent)),
        (RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, Some(FailureClass::ThisEvent)),
        (RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, Some(FailureClass::Person)),
        (RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE, Some(FailureClass::Person)),
        (RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT, Some(FailureClass::Person)),
        (RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, Some(FailureClass::Recreate)),
        (RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, Some(FailureClass::Recreate)),
        (RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING, Some(FailureClass::Recreate)),
        (RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED, Some(FailureClass::Hold)),
        (RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, None),
        (RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, None),
        (RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, None),
        (RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, None),
        (RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, None),
        (RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, None),
    ];
    let outcome = |error| {
        let cluster = cluster("order-events", 1);
        let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        up.uplink.deliver(ProducerId(1), Seq(1), &event(1, "order-1"));
        let (_, _, outcome) = up.outcomes(1).remove(0);
        up.uplink.stop(LIMIT);
        match outcome {
            Delivery::Acknowledged { .. } => None,
            Delivery::Failed { class, .. } => Some(class),
        }
    };
    std::thread::scope(|threads| {
        // Each mostly waits.
        let running = cases.map(|(error, expected)| (error, expected, threads.spawn(move || outcome(error))));
        for (error, expected, case) in running {
            assert_eq!(case.join().unwrap(), expected, "{error:?}");
        }
    });
}

#[test]
fn the_line_is_seen_to_fail_and_to_come_back_and_nothing_is_lost() {
    let cluster = cluster("order-events", 1);
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    up.wait_for_line(true);
    cluster.broker_down(1).unwrap();
    up.wait_for_line(false);
    up.uplink.deliver(ProducerId(1), Seq(1), &event(1, "order-1"));
    cluster.broker_up(1).unwrap();
    assert_eq!(up.outcomes(1), [(ProducerId(1), Seq(1), Delivery::Acknowledged { partition: 0, offset: 0 })]);
    up.wait_for_line(true);
    up.uplink.stop(LIMIT);
}

#[test]
fn when_the_brokers_refuse_us_events_come_back_for_a_person() {
    let broker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker.local_addr().unwrap();
    // No broker at all: a captive portal.
    std::thread::spawn(move || {
        for mut client in broker.incoming().flatten() {
            let _ = client.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n");
        }
    });
    let refused = connection(&format!("[gateway]\nid = \"store-042\"\n[kafka]\nbrokers = \"{address}\"\nsecurity = \"ssl\""));
    let up = Up::connect(refused);
    for seq in [1, 2] {
        up.uplink.deliver(ProducerId(1), Seq(seq), &event(seq, "order-1"));
    }
    let outcomes = up.outcomes(2);
    assert!(outcomes.iter().all(|(_, _, outcome)| needs_person(outcome)), "{outcomes:?}");
    // Given up for a while: what comes now fails at once.
    up.uplink.deliver(ProducerId(1), Seq(3), &event(3, "order-1"));
    let outcomes = up.outcomes(1);
    assert!(needs_person(&outcomes[0].2), "{outcomes:?}");
    up.uplink.stop(LIMIT);
}

/// A gate whose outage is no short one any more.
fn shut() -> Gate {
    Gate::since(Instant::now().checked_sub(Duration::from_secs(121)).unwrap(), [0; 16])
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn in_an_outage_that_lasts_each_attempt_dials_once_and_nobody_else_dials() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let dialed = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&dialed);
    // What takes connections in the brokers' place and ends them, as a proxy does whose brokers are away.
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let connection = connection(&format!("[gateway]\nid = \"store-042\"\n[kafka]\nbrokers = \"127.0.0.1:{port}\""));
    let gate = shut();
    let up = Up::begin(connection.clone(), &gate);
    let down = Down::begin(connection.clone(), &gate, "status", DownlinkSource::All, vec![]);
    let life = SignOfLife::start(connection, Renewal::new(&gate), "gateway-status".into(), Epoch(1)).unwrap();
    life.tell("{}".into());
    for attempt in 1..4 {
        gate.hurry();
        up.uplink.new_producer(ProducerId(attempt));
        until("the knock and the client come", || dialed.load(Ordering::Relaxed) == 2 * attempt);
    }
    assert!(gate.is_shut() && !up.uplink.is_up());
    life.stop();
    down.stop();
    up.uplink.stop(Duration::ZERO);
    assert_eq!(dialed.load(Ordering::Relaxed), 6);
}

#[test]
fn after_an_outage_that_lasted_all_clients_come_back() {
    let cluster = cluster("order-events", 1);
    cluster.create_topic("status", 1, 1).unwrap();
    let gate = shut();
    let up = Up::begin(connect(&cluster, Partitioner::Murmur2Random), &gate);
    let mut down = Down::begin(connect(&cluster, Partitioner::Murmur2Random), &gate, "order-events", DownlinkSource::All, vec![]);
    gate.hurry();
    up.renew(ProducerId(7));
    assert!(!gate.is_shut());
    up.uplink.deliver(ProducerId(7), Seq(1), &event(1, "a"));
    assert!(matches!(up.outcomes(1)[..], [(ProducerId(7), Seq(1), Delivery::Acknowledged { .. })]));
    assert_eq!(down.read(1).len(), 1);
    down.stop();
}

#[test]
fn an_event_that_comes_while_the_clients_are_dropped_is_held() {
    let cluster = cluster("order-events", 1);
    let gate = shut();
    gate.hurry();
    let up = Up::begin(connect(&cluster, Partitioner::Murmur2Random), &gate);
    up.renew(ProducerId(1));
    up.wait_for_line(true);
    cluster.broker_down(1).unwrap();
    up.uplink.deliver(ProducerId(1), Seq(1), &event(1, "a"));
    up.wait_for_line(false);
    gate.lasts();
    let of_the_dropped = &up.outcomes(1)[0].2;
    assert!(matches!(of_the_dropped, Delivery::Failed { class: FailureClass::Recreate, .. }), "{of_the_dropped:?}");
    up.uplink.deliver(ProducerId(1), Seq(2), &event(2, "a"));
    assert!(matches!(&up.outcomes(1)[0].2, Delivery::Failed { class: FailureClass::Hold, reason } if reason.contains("now and then")));
    cluster.broker_up(1).unwrap();
    gate.hurry();
    up.renew(ProducerId(2));
    up.uplink.deliver(ProducerId(2), Seq(1), &event(1, "a"));
    assert!(matches!(up.outcomes(1)[..], [(ProducerId(2), Seq(1), Delivery::Acknowledged { .. })]));
}

fn needs_person(outcome: &Delivery) -> bool {
    matches!(outcome, Delivery::Failed { class: FailureClass::Person, .. })
}

#[test]
fn reading_goes_on_at_the_stores_offset() {
    let cluster = cluster("order-events", 1);
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    send_all(&up, &vec!["order-1".to_owned(); 10]);
    let at = PartitionName { topic: "order-events".into(), partition: 0 };
    let mut down = Down::start(&cluster, "order-events", DownlinkSource::All, vec![(at, 7)]);
    assert_eq!(down.read(3).iter().map(|record| record.offset).collect::<Vec<_>>(), [7, 8, 9]);
    down.stop();
    up.uplink.stop(LIMIT);
}

#[test]
fn of_a_topic_keyed_by_gateway_only_the_own_partition_is_read() {
    let cluster = cluster("order-events", 7);
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    let keys = (0..50).map(|n| format!("store-{n:03}")).collect::<Vec<_>>();
    send_all(&up, &keys);
    let own = partition_of(Partitioner::Fnv1aRandom, b"store-042", 7);
    let expected = keys.iter().filter(|key| partition_of(Partitioner::Fnv1aRandom, key.as_bytes(), 7) == own).count();
    assert!((1..50).contains(&expected));
    let mut down = Down::start(&cluster, "order-events", DownlinkSource::Keyed(Partitioner::Fnv1aRandom), vec![]);
    assert!(down.read(expected).iter().all(|record| record.at.partition == own));
    down.stop();
    up.uplink.stop(LIMIT);
}

#[test]
fn records_wait_in_kafka_while_nobody_takes_them() {
    let cluster = cluster("order-events", 1);
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    let orders = vec!["order-1".to_owned(); 20 * RECORDS_MAX];
    send_all(&up, &orders);
    let mut down = Down::start(&cluster, "order-events", DownlinkSource::All, vec![]);
    let until = Instant::now() + LIMIT;
    while down.records.len() < RECORDS_MAX {
        assert!(Instant::now() < until, "the queue never filled");
        std::thread::sleep(Duration::from_millis(5));
    }
    let offsets = down.read(orders.len()).iter().map(|record| record.offset).collect::<Vec<_>>();
    assert_eq!(offsets, (0..).take(orders.len()).collect::<Vec<i64>>());
    down.stop();
    up.uplink.stop(LIMIT);
}

#[test]
fn a_topic_that_is_missing_is_read_once_it_is_there() {
    let cluster = cluster("order-events", 1);
    cluster.topic_error("for-store-042", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let up = Up::start(&cluster, Partitioner::Fnv1aRandom);
    let mut down = Down::start(&cluster, "for-store-042", DownlinkSource::Topic, vec![]);
    send_all(&up, &["order-1".to_owned()]);
    assert!(down.records.try_recv().is_err());
    cluster.topic_error("for-store-042", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    let producer: rdkafka::producer::BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    producer.send(rdkafka::producer::BaseRecord::to("for-store-042").key("k").payload("late")).unwrap();
    rdkafka::producer::Producer::flush(&producer, LIMIT).unwrap();
    assert_eq!(down.read(1)[0].value.as_deref(), Some(&b"late"[..]));
    down.stop();
    up.uplink.stop(LIMIT);
}
