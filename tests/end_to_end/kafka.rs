//! librdkafka's mock cluster, and a reader of what the gateway sent. It neither fences nor keeps transactions: good for outages and for
//! order, no proof of exactly once.

use crate::house::PATIENCE;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 3;

/// A Kafka of one broker.
pub struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    /// What the centre writes with.
    centre: OnceCell<BaseProducer>,
}

/// One event as a consumer sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub partition: i32,
    pub key: String,
    pub value: Value,
    pub headers: HashMap<String, String>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn seq(&self) -> u64 {
        self.header("gateway-seq").parse().expect("a seq")
    }
}

impl Kafka {
    pub fn start() -> Kafka {
        let cluster = MockCluster::new(1).expect("the mock cluster starts");
        for (topic, partitions) in [("order-events", PARTITIONS), ("order-events-dlq", 1), ("order-status", 2), ("gateway-status", 1)] {
            cluster.create_topic(topic, partitions, 1).expect("a topic");
        }
        Kafka { cluster, centre: OnceCell::new() }
    }

    /// The config section of a gateway that uses it.
    pub fn section(&self) -> String {
        format!("[kafka]\nbrokers = \"{}\"\n", self.cluster.bootstrap_servers())
    }

    /// Puts a record on a topic, as the centre does, and waits until it is there.
    pub fn put(&self, topic: &str, key: &str, value: &str) {
        let producer = self.centre.get_or_init(|| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("linger.ms", "0").create().expect("a producer")
        });
        producer.send(BaseRecord::to(topic).key(key).payload(value)).expect("the queue is empty");
        producer.flush(PATIENCE).expect("it is taken");
    }

    pub fn cut(&self) {
        self.cluster.broker_down(1).expect("the broker goes down");
    }

    pub fn mend(&self) {
        self.cluster.broker_up(1).expect("the broker comes up");
    }

    /// Answers every batch that it is too large, whatever it is, until [`Kafka::take`].
    pub fn refuse(&self) {
        // More than anything here sends meanwhile; the sign of life is refused too.
        self.cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 1_000]);
    }

    /// Takes batches again.
    pub fn take(&self) {
        self.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    }

    /// Reads `order-events` from the beginning until `enough` says so.
    pub fn read_until(&self, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        self.read_topic_until("order-events", PARTITIONS, enough)
    }

    /// The same of `order-events-dlq`.
    pub fn read_dead_until(&self, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        self.read_topic_until("order-events-dlq", 1, enough)
    }

    fn read_topic_until(&self, topic: &str, count: i32, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .create()
            .expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..count {
            partitions.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&partitions).expect("an assignment");
        let (began, mut seen) = (Instant::now(), Vec::new());
        while !enough(&seen) {
            assert!(began.elapsed() < PATIENCE, "only {} events came", seen.len());
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = message.headers().map(|h| h.iter().map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default()))).collect());
                seen.push(Seen {
                    partition: message.partition(),
                    key: text(message.key().unwrap_or_default()),
                    // A record of the dead letter topic may have its headers alone.
                    value: message.payload().map_or(Value::Null, |value| serde_json::from_slice(value).expect("JSON")),
                    headers: headers.unwrap_or_default(),
                });
            }
        }
        seen
    }
}

/// Each request in Kafka under one (gateway, epoch, seq) alone, and each order's events in seq order on their first appearance.
pub fn assert_once_and_in_order(seen: &[Seen]) {
    let mut names: HashMap<(String, String), (String, String)> = HashMap::new();
    let mut appeared = HashSet::new();
    let mut last: HashMap<String, u64> = HashMap::new();
    for event in seen {
        let request = (event.header("terminal").to_owned(), event.header("request-id").to_owned());
        let name = (event.header("gateway-epoch").to_owned(), event.header("gateway-seq").to_owned());
        let first = names.entry(request.clone()).or_insert_with(|| name.clone());
        assert_eq!(*first, name, "the request {request:?} is doubled");
        if appeared.insert(name) {
            let before = last.insert(event.key.clone(), event.seq()).unwrap_or(0);
            assert!(before < event.seq(), "order {} went from seq {before} to {}", event.key, event.seq());
        }
    }
}
