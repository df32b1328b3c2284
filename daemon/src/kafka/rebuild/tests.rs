//! Against librdkafka's mock cluster, which knows no times: all is read from its beginning, as with an unknown clock.

use super::*;
use crate::config::{Config, Environment};
use crate::kafka::Gate;
use crate::kafka::tests::{Cluster, LIMIT, cluster};
use gateway::event::{self, OrderEvent};
use gateway::ids::Epoch;
use gateway::request::{EventType, uuid_text};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const DEAD: &str = "order-events-dlq";

fn own_event(n: u8) -> OrderEvent {
    OrderEvent {
        epoch: Epoch(0xabc),
        request: RequestKey { terminal: "till-1".parse().unwrap(), request_id: format!("r-{n}").parse().unwrap() },
        id: [n; 16],
        event_type: EventType::StateChanged,
        order_id: format!("order-{n}").parse().unwrap(),
        user_id: None,
        occurred_at_ms: 1_704_110_400_000,
        clock: event::Clock::Synced,
        data: r#"{"status":"READY"}"#.into(),
    }
}

struct Topics(BaseProducer);

impl Topics {
    fn of(cluster: &Cluster) -> Topics {
        cluster.create_topic(DEAD, 1, 1).unwrap();
        Topics(ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap())
    }

    fn send(&self, topic: &str, gateway: &str, n: u8, value: Option<&[u8]>) {
        let (gateway, event) = (gateway.parse().unwrap(), own_event(n));
        let outgoing = Dialect::OrderEvent.encode(&gateway, Seq(n.into()), &event);
        let id = uuid_text(&event.id);
        let headers = outgoing.headers.iter().map(|(key, value)| (*key, value.as_ref())).chain([("dead-letter-event-id", id.as_str())]);
        let headers = headers.fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let record = BaseRecord::to(topic).key(outgoing.key).headers(headers);
        let record = if let Some(value) = value { record.payload(value) } else { record };
        self.0.send(record).map_err(|(error, _)| error).unwrap();
        self.0.flush(LIMIT).unwrap();
    }

    fn send_event(&self, topic: &str, gateway: &str, n: u8) {
        self.send(topic, gateway, n, Some(&Dialect::OrderEvent.value(&own_event(n))));
    }
}

fn start(cluster: &Cluster) -> (Rebuild, mpsc::Receiver<Recall>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dumbwaiter.toml");
    let text = format!("[gateway]\nid = \"store-042\"\n[kafka]\nbrokers = \"{}\"", cluster.bootstrap_servers());
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&file, &Environment::default()).unwrap();
    let settings = RebuildSettings {
        connection: Connection::new(&config, config.kafka.as_ref().unwrap()),
        renewal: Renewal::new(&Gate::new([1; 16])),
        dialect: Dialect::OrderEvent,
        since_ms: 0,
        wall_ms: || None,
        clock: Clock::new(&config),
    };
    let (sender, recalls) = mpsc::channel(RECALLS_MAX);
    (Rebuild::start(settings, sender).unwrap(), recalls)
}

/// What is recalled until the end.
fn all(mut recalls: mpsc::Receiver<Recall>) -> Vec<Recalled> {
    let mut found = vec![];
    loop {
        match recalls.blocking_recv().expect("the end is told") {
            Recall::Reached => {}
            Recall::Event(recalled) => found.push(*recalled),
            Recall::Ended => return found,
        }
    }
}

#[test]
fn own_events_of_all_partitions_and_own_dead_letters_are_read_back_and_nobody_elses() {
    let cluster = cluster("order-events", 3);
    let topics = Topics::of(&cluster);
    for n in 1..=20 {
        topics.send_event("order-events", "store-042", n);
        topics.send_event("order-events", "store-043", 100 + n);
    }
    topics.send("order-events", "store-042", 21, Some(b"no event"));
    topics.send_event(DEAD, "store-042", 22);
    topics.send(DEAD, "store-042", 23, None);
    let (rebuild, recalls) = start(&cluster);
    let found = all(recalls);
    let seqs: Vec<_> = found.iter().map(|recalled| recalled.seq.0).collect();
    let mut orders = seqs[..20].to_vec();
    orders.sort_unstable();
    assert_eq!((orders, &seqs[20..]), ((1..=20).collect(), &[22, 23][..]));
    for Recalled { request, epoch, seq, event_id, order_id, effect, .. } in &found {
        let event = own_event(u8::try_from(seq.0).unwrap());
        assert_eq!((request, epoch, event_id, order_id), (&event.request, &event.epoch, &event.id, &event.order_id));
        assert_eq!(effect.is_some(), seq.0 != 23, "without its value nobody can tell what it did");
    }
    let progress = rebuild.progress();
    assert_eq!([&progress.read, &progress.own].map(|count| count.load(Ordering::Relaxed)), [43, 23]);
}

#[test]
fn a_broker_that_fails_at_first_is_asked_again() {
    let cluster = cluster("order-events", 1);
    Topics::of(&cluster).send_event("order-events", "store-042", 1);
    let (_, recalls) = {
        cluster.broker_down(1).unwrap();
        let started = start(&cluster);
        let until = Instant::now() + LIMIT;
        while started.0.progress().trouble().is_none() {
            assert!(Instant::now() < until, "it is said that no broker answers");
            std::thread::sleep(POLL);
        }
        cluster.broker_up(1).unwrap();
        started
    };
    assert_eq!(all(recalls).len(), 1);
}
