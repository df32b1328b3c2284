//! What the daemon counts, for Prometheus. The names and labels are a contract (DESIGN.md, "Metrics"): a test pins them.
//!
//! Each bound of the daemon is a [`Bound`]: a gauge for how full it is, one for its limit, and a counter for what it refused.

mod process;

use crate::config::Config;
use crate::handle::Ingress;
use gateway::io::Delivery;
use gateway::journal::{COMMANDS_MAX, SENT_MAX};
use gateway::request::{Answer, Code, EventType, REQUEST_BYTES_MAX};
use gateway::settings::Limits;
use gateway::{Gauges, RELEASES_MAX};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use store::journal::JournalUsage;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of every name of ours.
const PREFIX: &str = "dumbwaiter";

/// From a sync of a fast disk to the 120 s after which a store call counts as stuck.
const SECONDS: [f64; 16] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0];

type Seconds<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfIngress {
    ingress: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    ingress: &'static str,
    result: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTopic {
    topic: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPartition {
    topic: String,
    partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCertificate {
    certificate: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBound {
    bound: &'static str,
}

/// What Linux says of the process, and for how many days each certificate is still good.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// Memory that it occupies.
    pub memory_bytes: Option<u64>,
    /// What it caused to be written to disks since it began.
    pub written_bytes: Option<u64>,
    /// By the config's key.
    pub certificates: BTreeMap<&'static str, i64>,
}

/// All metrics. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    before_encoding: Mutex<Hooks>,
    topic: String,
    requests: Family<OfRequest, Counter>,
    answer_seconds: Seconds<OfIngress>,
    published: Family<OfTopic, Counter>,
    failed: Family<OfTopic, Counter>,
    retries: Counter,
    repeats_possible: Counter,
    publish_seconds: Seconds<OfType>,
    outbox_events: Gauge,
    outbox_bytes: Gauge,
    outbox_oldest_seconds: Gauge<f64, AtomicU64>,
    dead_letters: Gauge,
    damaged_stores: Gauge,
    certificate_days: Family<OfCertificate, Gauge>,
    certificates: Mutex<BTreeMap<&'static str, i64>>,
    journal_events: Gauge,
    store_sync_seconds: Histogram,
    store_up: Gauge,
    store_busy_seconds: Gauge<f64, AtomicU64>,
    accepting: Gauge,
    rebuilding: Gauge,
    recalled: Counter,
    stored_twice: Counter,
    another_gateway: Gauge,
    kafka_up: Gauge,
    unheard_seconds: Gauge<f64, AtomicU64>,
    consumer_lag: Family<OfPartition, Gauge>,
    terminals_online: Gauge,
    terminals_by_ingress: [AtomicU64; 3],
    bounds: Bounds,
    core: CoreBounds,
    process: process::Figures,
}

/// Each is called before the text is written, to read figures that live elsewhere.
#[derive(Default)]
struct Hooks(Vec<Box<dyn Fn() + Send>>);

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hooks", self.0.len())
    }
}

#[derive(Debug, Clone, Default)]
struct Bounds {
    used: Family<OfBound, Gauge>,
    max: Family<OfBound, Gauge>,
    refused: Family<OfBound, Counter>,
}

impl Bounds {
    fn get(&self, bound: &'static str, max: u64) -> Bound {
        let labels = OfBound { bound };
        self.max.get_or_create(&labels).set(clamp(max));
        Bound {
            used: self.used.get_or_create_owned(&labels),
            max: self.max.get_or_create_owned(&labels),
            refused: self.refused.get_or_create_owned(&labels),
        }
    }
}

/// How full a bounded thing is, and what it refused. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bound {
    used: Gauge,
    max: Gauge,
    refused: Counter,
}

impl Bound {
    /// How full it is now.
    pub fn set(&self, used: u64) {
        self.used.set(clamp(used));
    }

    /// It refused one.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// It has refused so many since the start: for a count that is kept elsewhere.
    pub fn set_refused(&self, total: u64) {
        self.refused.inner().store(total, Ordering::Relaxed);
    }

    /// Its last tenth is reached, which is kept for orders already stored.
    fn is_nearly_full(&self) -> bool {
        self.used.get() >= self.max.get() / 10 * 9
    }
}

/// A count that is kept elsewhere, by reason. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ByReason(Family<OfReason, Counter>);

impl ByReason {
    /// It has come to so many since the start.
    pub fn set(&self, reason: &'static str, total: u64) {
        self.0.get_or_create(&OfReason { reason }).inner().store(total, Ordering::Relaxed);
    }
}

/// A count that is kept elsewhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Total(Counter);

impl Total {
    /// It has come to so many since the start.
    pub fn set(&self, total: u64) {
        self.0.inner().store(total, Ordering::Relaxed);
    }
}

/// The bounds of the core, by the names of its limits.
#[derive(Debug)]
struct CoreBounds {
    outbox_events: Bound,
    outbox_bytes: Bound,
    disk_free: Bound,
    request_bytes: Bound,
    requests_in_flight: Bound,
    request_copies: Bound,
    commit_requests: Bound,
    decisions: Bound,
    commands: Bound,
    deliveries_unwritten: Bound,
    statuses_in_flight: Bound,
    window_events: Bound,
    window_bytes: Bound,
    open_orders: Bound,
    dead_letters: Bound,
    journal_bytes: Bound,
}

impl CoreBounds {
    fn new(bounds: &Bounds, limits: &Limits, journal_bytes_max: u64) -> CoreBounds {
        let bound = |name, max: usize| bounds.get(name, max as u64);
        CoreBounds {
            outbox_events: bounds.get("outbox_events", limits.queued_events_max),
            outbox_bytes: bounds.get("outbox_bytes", limits.queued_bytes_max),
            // How much of a disk is free has no upper limit; what counts is what was refused for it.
            disk_free: bounds.get("disk_free", 0),
            request_bytes: bound("request_bytes", REQUEST_BYTES_MAX),
            requests_in_flight: bound("requests_in_flight", limits.requests_in_flight_max),
            request_copies: bound("request_copies", limits.waiters_max),
            commit_requests: bound("commit_requests", limits.batch_requests_max),
            decisions: bound("decisions", RELEASES_MAX),
            commands: bound("commands", COMMANDS_MAX),
            deliveries_unwritten: bound("deliveries_unwritten", SENT_MAX),
            statuses_in_flight: bound("statuses_in_flight", limits.statuses_in_flight_max),
            window_events: bound("window_events", limits.window_events_max),
            window_bytes: bound("window_bytes", limits.window_bytes_max),
            open_orders: bound("open_orders", limits.open_orders_max),
            dead_letters: bound("dead_letters", limits.dead_letters_max),
            journal_bytes: bounds.get("journal_bytes", journal_bytes_max),
        }
    }

    /// The core says that it is full, not of what: the gauges know.
    fn count_refusal(&self, code: Code) {
        match code {
            Code::Full if self.outbox_events.is_nearly_full() => self.outbox_events.refused(),
            Code::Full if self.outbox_bytes.is_nearly_full() => self.outbox_bytes.refused(),
            Code::Full => self.disk_free.refused(),
            Code::Busy | Code::Invalid | Code::Conflict | Code::TooLarge => {}
            Code::Expired | Code::UnknownOrder | Code::Final | Code::Unauthorized => {}
        }
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new(config: &Config) -> Metrics {
        let bounds = Bounds::default();
        let core = CoreBounds::new(&bounds, &config.settings().limits, config.store.journal_bytes);
        let mut inner = Inner {
            registry: Mutex::default(),
            before_encoding: Mutex::default(),
            topic: config.kafka.as_ref().map_or_else(String::new, |kafka| kafka.topic.to_string()),
            requests: Family::default(),
            answer_seconds: Family::new_with_constructor(seconds),
            published: Family::default(),
            failed: Family::default(),
            retries: Counter::default(),
            repeats_possible: Counter::default(),
            publish_seconds: Family::new_with_constructor(seconds),
            outbox_events: Gauge::default(),
            outbox_bytes: Gauge::default(),
            outbox_oldest_seconds: Gauge::default(),
            dead_letters: Gauge::default(),
            damaged_stores: Gauge::default(),
            certificate_days: Family::default(),
            certificates: Mutex::default(),
            journal_events: Gauge::default(),
            store_sync_seconds: seconds(),
            store_up: Gauge::default(),
            store_busy_seconds: Gauge::default(),
            accepting: Gauge::default(),
            rebuilding: Gauge::default(),
            recalled: Counter::default(),
            stored_twice: Counter::default(),
            another_gateway: Gauge::default(),
            kafka_up: Gauge::default(),
            unheard_seconds: Gauge::default(),
            consumer_lag: Family::default(),
            terminals_online: Gauge::default(),
            terminals_by_ingress: Default::default(),
            bounds,
            core,
            process: process::Figures::default(),
        };
        inner.register();
        Metrics(Arc::new(inner))
    }

    /// The bounds that a reload may have changed.
    pub fn limits(&self, limits: &Limits) {
        self.0.core.outbox_events.max.set(clamp(limits.queued_events_max));
        self.0.core.outbox_bytes.max.set(clamp(limits.queued_bytes_max));
    }

    /// A request was answered by the core.
    pub fn answered(&self, ingress: Ingress, answer: &Answer, took: Duration) {
        let (result, code) = match answer {
            Answer::Stored(stored) if stored.duplicate => ("duplicate", ""),
            Answer::Stored(_) => ("stored", ""),
            Answer::Rejected(rejected) => {
                self.0.core.count_refusal(rejected.code);
                ("rejected", rejected.code.as_str())
            }
        };
        self.0.requests.get_or_create(&OfRequest { ingress: ingress.as_str(), result, code }).inc();
        self.0.answer_seconds.get_or_create(&OfIngress { ingress: ingress.as_str() }).observe(took.as_secs_f64());
    }

    /// So many requests were refused before the core saw them.
    pub fn refused(&self, ingress: Ingress, code: Code, count: u64) {
        self.0.requests.get_or_create(&OfRequest { ingress: ingress.as_str(), result: "rejected", code: code.as_str() }).inc_by(count);
        if code == Code::TooLarge {
            self.0.core.request_bytes.refused.inc_by(count);
        }
    }

    /// What became of an event at the producer, and how long that took.
    pub fn delivered(&self, event_type: EventType, outcome: &Delivery, took: Duration) {
        let labels = OfTopic { topic: self.0.topic.clone(), r#type: event_type.as_str() };
        match outcome {
            Delivery::Acknowledged { .. } => {
                self.0.published.get_or_create(&labels).inc();
                self.0.publish_seconds.get_or_create(&OfType { r#type: labels.r#type }).observe(took.as_secs_f64());
            }
            Delivery::Failed { .. } => drop(self.0.failed.get_or_create(&labels).inc()),
        }
    }

    /// So many events were sent again.
    pub fn retried(&self, count: u64) {
        self.0.retries.inc_by(count);
    }

    /// A commit's disk sync took so long.
    pub fn synced(&self, took: Duration) {
        self.0.store_sync_seconds.observe(took.as_secs_f64());
    }

    /// How the disk is, for how long the call that is running has been running, and whether new orders are taken.
    pub fn disk(&self, is_well: bool, busy: Duration, accepting: bool) {
        self.0.store_up.set(i64::from(is_well));
        self.0.store_busy_seconds.set(busy.as_secs_f64());
        self.0.accepting.set(i64::from(accepting));
    }

    /// How full the core is.
    pub fn gauges(&self, gauges: &Gauges) {
        let (inner, core) = (&self.0, &self.0.core);
        inner.outbox_events.set(clamp(gauges.queued));
        inner.outbox_bytes.set(clamp(gauges.queued_bytes));
        inner.dead_letters.set(clamp(gauges.dead_letters as u64));
        match gauges.oldest_queued_ms {
            Some(since_ms) => drop(inner.outbox_oldest_seconds.set(age_seconds(since_ms))),
            None if gauges.queued == 0 => drop(inner.outbox_oldest_seconds.set(0.0)),
            // It was not read from disk yet; the last figure is the better guess.
            None => {}
        }
        core.outbox_events.set(gauges.queued);
        core.outbox_bytes.set(gauges.queued_bytes);
        core.requests_in_flight.set(gauges.requests_in_flight as u64);
        core.request_copies.set(gauges.copies_most as u64);
        core.commit_requests.set(gauges.tally.batch_requests_most as u64);
        core.decisions.set(gauges.decisions as u64);
        core.commands.set(gauges.commands as u64);
        core.deliveries_unwritten.set(gauges.deliveries_unwritten as u64);
        core.statuses_in_flight.set(gauges.statuses_in_flight as u64);
        core.window_events.set(gauges.window_events as u64);
        core.window_bytes.set(gauges.window_bytes as u64);
        core.open_orders.set(gauges.open_orders as u64);
        core.open_orders.set_refused(gauges.open_orders_crowded_out);
        core.dead_letters.set(gauges.dead_letters as u64);
        inner.rebuilding.set(i64::from(gauges.rebuilding));
        let tally = gauges.tally;
        core.requests_in_flight.set_refused(tally.requests_refused);
        core.request_copies.set_refused(tally.copies_refused);
        core.commit_requests.set_refused(tally.batches_full);
        core.decisions.set_refused(tally.decisions_refused);
        core.commands.set_refused(tally.commands_refused);
        core.deliveries_unwritten.set_refused(tally.deliveries_unwritten);
        inner.recalled.inner().store(tally.recalled, Ordering::Relaxed);
        inner.stored_twice.inner().store(tally.stored_twice, Ordering::Relaxed);
    }

    /// How full the journal is. What it refused is what it gave up before its time.
    pub fn journal(&self, usage: JournalUsage) {
        self.0.journal_events.set(clamp(usage.events));
        self.0.core.journal_bytes.set(usage.bytes);
        self.0.core.journal_bytes.set_refused(usage.given_up);
    }

    /// So many events were sent that Kafka may have had already.
    pub fn repeats_possible(&self, count: u64) {
        self.0.repeats_possible.inc_by(count);
    }

    /// So many damaged stores are kept in the data folder.
    pub fn damaged_stores(&self, count: usize) {
        self.0.damaged_stores.set(clamp(count as u64));
    }

    /// So many whole days until the certificate expires that a key of the config names.
    pub fn certificate_days(&self, certificate: &'static str, days: i64) {
        self.0.certificate_days.get_or_create(&OfCertificate { certificate }).set(days);
        self.0.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(certificate, days);
    }

    /// For so long events have been delivered without a status of an order coming back.
    pub fn unheard(&self, unheard: Duration) {
        self.0.unheard_seconds.set(unheard.as_secs_f64());
    }

    /// Whether another gateway is heard of under this gateway's id.
    pub fn another_gateway(&self, heard: bool) {
        self.0.another_gateway.set(i64::from(heard));
    }

    /// Whether the uplink has a broker connection.
    pub fn kafka_up(&self, up: bool) {
        self.0.kafka_up.set(i64::from(up));
    }

    /// Records of a status topic's partition that were not read yet.
    pub fn consumer_lag(&self, topic: &str, partition: i32, records: i64) {
        self.0.consumer_lag.get_or_create(&OfPartition { topic: topic.to_owned(), partition }).set(records);
    }

    /// What the page /operations shows of the process and of its certificates.
    pub fn device(&self) -> Device {
        self.0.process.read();
        let certificates = self.0.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let memory_bytes = u64::try_from(self.0.process.resident_bytes.get()).ok();
        Device { memory_bytes, written_bytes: Some(self.0.process.disk_written_bytes.get()), certificates }
    }

    /// So many terminals of this ingress are there.
    pub fn terminals_online(&self, ingress: Ingress, count: usize) {
        let place = match ingress {
            Ingress::Serial => 0,
            Ingress::Mqtt => 1,
            Ingress::Http => 2,
        };
        self.0.terminals_by_ingress[place].store(count as u64, Ordering::Relaxed);
    }

    /// A bound of the shell, by a name of its own: `bound_used`, `bound_max` and `bound_refused_total`.
    pub fn bound(&self, name: &'static str, max: u64) -> Bound {
        self.0.bounds.get(name, max)
    }

    /// A gauge of a part that may be absent, named without the prefix. Called once for each.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        let gauge = Gauge::default();
        self.registry().sub_registry_with_prefix(PREFIX).register(name, help, gauge.clone());
        gauge
    }

    /// A counter of a part that may be absent, named without the prefix and without `_total`. Called once for each.
    pub fn total(&self, name: &'static str, help: &'static str) -> Total {
        let counter = Counter::default();
        self.registry().sub_registry_with_prefix(PREFIX).register(name, help, counter.clone());
        Total(counter)
    }

    /// As [`Metrics::total`], with the label `reason`.
    pub fn by_reason(&self, name: &'static str, help: &'static str) -> ByReason {
        let family = Family::default();
        self.registry().sub_registry_with_prefix(PREFIX).register(name, help, family.clone());
        ByReason(family)
    }

    /// A metric of a part that may be absent, with labels of its own; named without the prefix. Called once for each.
    pub fn register(&self, name: &'static str, help: &'static str, metric: impl prometheus_client::registry::Metric) {
        self.registry().sub_registry_with_prefix(PREFIX).register(name, help, metric);
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `read` before each encoding, to take over figures that are kept elsewhere. It must not block.
    pub fn before_encoding(&self, read: impl Fn() + Send + 'static) {
        self.0.before_encoding.lock().unwrap_or_else(PoisonError::into_inner).0.push(Box::new(read));
    }

    /// The text for `/metrics`, of [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let inner = &self.0;
        for read in &inner.before_encoding.lock().unwrap_or_else(PoisonError::into_inner).0 {
            read();
        }
        let online = inner.terminals_by_ingress.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        inner.terminals_online.set(clamp(online));
        inner.process.read();
        let mut text = String::new();
        encode(&mut text, &self.registry()).expect("writing into a String cannot fail");
        text
    }
}

impl Inner {
    /// A counter's name is written without `_total`, which the encoder appends.
    fn register(&mut self) {
        let root = self.registry.get_mut().unwrap_or_else(PoisonError::into_inner);
        root.register("process_resident_memory_bytes", "Memory that the process occupies", self.process.resident_bytes.clone());
        root.register("process_cpu_seconds", "Processor time that the process used", self.process.cpu_seconds.clone());
        let r = root.sub_registry_with_prefix(PREFIX);
        r.register("build", "The build", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("requests", "Requests answered", self.requests.clone());
        r.register("answer_seconds", "From a request to its answer", self.answer_seconds.clone());
        r.register("events_published", "Events that Kafka acknowledged", self.published.clone());
        r.register("events_failed", "Deliveries that Kafka did not take", self.failed.clone());
        r.register("publish_retries", "Events that were sent again", self.retries.clone());
        r.register("repeats_possible", "Events sent that Kafka may have had already: each is marked", self.repeats_possible.clone());
        r.register("publish_seconds", "From the producer to Kafka's acknowledgement", self.publish_seconds.clone());
        r.register("journal_events", "Delivered events that are kept", self.journal_events.clone());
        r.register("outbox_events", "Events that Kafka does not have yet", self.outbox_events.clone());
        r.register("outbox_bytes", "Their bytes", self.outbox_bytes.clone());
        r.register("outbox_oldest_seconds", "Age of the oldest of them", self.outbox_oldest_seconds.clone());
        r.register("dead_letters", "Events that Kafka can never take and that wait for a person", self.dead_letters.clone());
        r.register("damaged_stores", "Damaged stores that were moved aside and are kept", self.damaged_stores.clone());
        r.register("certificate_days", "Days until the certificate expires that a key of the config names", self.certificate_days.clone());
        r.register("store_up", "1 while the store is open and its disk answers", self.store_up.clone());
        r.register("store_busy_seconds", "For how long the store call that is running has been running", self.store_busy_seconds.clone());
        r.register("accepting", "1 while new orders are taken", self.accepting.clone());
        r.register("rebuilding", "1 while the store is new and this gateway's own events are read back", self.rebuilding.clone());
        r.register("recalled", "Requests that a new store remembers again", self.recalled.clone());
        r.register("stored_twice", "Requests that were stored before the card was replaced and once more after", self.stored_twice.clone());
        r.register("another_gateway", "1 while another gateway is heard of under this gateway's id", self.another_gateway.clone());
        r.register("store_sync_seconds", "Disk syncs", self.store_sync_seconds.clone());
        r.register("disk_written_bytes", "Bytes that the process caused to be written to disks", self.process.disk_written_bytes.clone());
        r.register("kafka_up", "1 while the uplink has a broker connection", self.kafka_up.clone());
        r.register("unheard_seconds", "For how long events went out and no status came back", self.unheard_seconds.clone());
        r.register("kafka_consumer_lag", "Records of status topics that were not read yet", self.consumer_lag.clone());
        r.register("terminals_online", "Terminals that are there", self.terminals_online.clone());
        r.register("bound_used", "How full a bound is", self.bounds.used.clone());
        r.register("bound_max", "The bound", self.bounds.max.clone());
        r.register("bound_refused", "What was refused because of the bound", self.bounds.refused.clone());
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn age_seconds(since_unix_ms: i64) -> f64 {
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(since_unix_ms).unwrap_or(0));
    // A clock that was set back shows no negative ages.
    since.elapsed().map_or(0.0, |age| age.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use gateway::Tally;
    use gateway::ids::Seq;
    use gateway::io::FailureClass;
    use gateway::request::Stored;

    fn metrics(config: &str) -> Metrics {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dumbwaiter.toml");
        std::fs::write(&path, config).unwrap();
        Metrics::new(&Config::load(&path, &Environment::default()).unwrap())
    }

    /// The value of each line that is no comment.
    fn values(metrics: &Metrics) -> BTreeMap<String, f64> {
        let text = metrics.encode();
        assert!(text.ends_with("# EOF\n"));
        let line = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
    }

    fn stored(duplicate: bool) -> Answer {
        let (request_id, order_id) = ("r-1".parse().unwrap(), "o-1".parse().unwrap());
        Answer::Stored(Stored { request_id, duplicate, order_id, event_id: [0; 16], ticket: None, seq: Seq(1) })
    }

    const CONFIG: &str = "gateway.id = 'g'\nkafka.brokers = 'k'\nstore.max_queued = 1000";

    /// Dashboards and alarms are built on these: add to them, change none.
    #[test]
    fn names_and_labels_are_the_contract() {
        let metrics = metrics(CONFIG);
        let took = Duration::from_millis(3);
        metrics.answered(Ingress::Mqtt, &stored(false), took);
        metrics.delivered(EventType::Created, &Delivery::Acknowledged { partition: 0, offset: 0 }, took);
        metrics.delivered(EventType::Created, &Delivery::Failed { class: FailureClass::Hold, reason: String::new() }, took);
        metrics.synced(took);
        metrics.consumer_lag("order-status", 2, 7);
        let values = values(&metrics);
        for name in [
            r#"dumbwaiter_events_published_total{topic="order-events",type="order.created"}"#,
            r#"dumbwaiter_events_failed_total{topic="order-events",type="order.created"}"#,
            "dumbwaiter_publish_retries_total",
            r#"dumbwaiter_publish_seconds_count{type="order.created"}"#,
            r#"dumbwaiter_answer_seconds_count{ingress="mqtt"}"#,
            r#"dumbwaiter_answer_seconds_bucket{le="0.0005",ingress="mqtt"}"#,
            r#"dumbwaiter_answer_seconds_bucket{le="120.0",ingress="mqtt"}"#,
            r#"dumbwaiter_requests_total{ingress="mqtt",result="stored",code=""}"#,
            "dumbwaiter_outbox_events",
            "dumbwaiter_outbox_bytes",
            "dumbwaiter_outbox_oldest_seconds",
            "dumbwaiter_dead_letters",
            "dumbwaiter_store_sync_seconds_count",
            "dumbwaiter_store_up",
            "dumbwaiter_store_busy_seconds",
            "dumbwaiter_accepting",
            "dumbwaiter_disk_written_bytes_total",
            "dumbwaiter_kafka_up",
            r#"dumbwaiter_kafka_consumer_lag{topic="order-status",partition="2"}"#,
            "dumbwaiter_terminals_online",
            concat!("dumbwaiter_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
            r#"dumbwaiter_bound_used{bound="outbox_events"}"#,
            r#"dumbwaiter_bound_max{bound="outbox_events"}"#,
            r#"dumbwaiter_bound_refused_total{bound="outbox_events"}"#,
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
        ] {
            assert!(values.contains_key(name), "{name} is missing in {values:#?}");
        }
        assert_eq!(values[r#"dumbwaiter_answer_seconds_bucket{le="0.002",ingress="mqtt"}"#], 0.0);
        assert_eq!(values[r#"dumbwaiter_answer_seconds_bucket{le="0.005",ingress="mqtt"}"#], 1.0);
    }

    #[test]
    fn answers_are_counted_by_result_and_code() {
        let metrics = metrics(CONFIG);
        metrics.answered(Ingress::Http, &stored(false), Duration::ZERO);
        metrics.answered(Ingress::Http, &stored(true), Duration::ZERO);
        metrics.answered(Ingress::Http, &Answer::rejected(None, Code::Conflict, "", None), Duration::ZERO);
        metrics.refused(Ingress::Http, Code::Conflict, 2);
        let values = values(&metrics);
        let count =
            |result: &str, code: &str| values[&format!(r#"dumbwaiter_requests_total{{ingress="http",result="{result}",code="{code}"}}"#)];
        assert_eq!((count("stored", ""), count("duplicate", ""), count("rejected", "conflict")), (1.0, 1.0, 3.0));
    }

    #[test]
    fn a_refusal_counts_for_the_bound_that_is_full() {
        let metrics = metrics(CONFIG);
        let full = || metrics.answered(Ingress::Mqtt, &Answer::rejected(None, Code::Full, "", None), Duration::ZERO);
        let refused = |bound: &str| values(&metrics)[&format!(r#"dumbwaiter_bound_refused_total{{bound="{bound}"}}"#)];
        metrics.gauges(&Gauges { queued: 899, ..Gauges::default() });
        full();
        assert_eq!((refused("disk_free"), refused("outbox_events")), (1.0, 0.0));
        metrics.gauges(&Gauges { queued: 900, ..Gauges::default() });
        full();
        assert_eq!((refused("disk_free"), refused("outbox_events")), (1.0, 1.0));
        metrics.gauges(&Gauges { queued_bytes: 1 << 30, ..Gauges::default() });
        full();
        assert_eq!(refused("outbox_bytes"), 1.0);
        let tally = Tally { requests_refused: 3, copies_refused: 2, ..Tally::default() };
        metrics.gauges(&Gauges { tally, ..Gauges::default() });
        assert_eq!((refused("requests_in_flight"), refused("request_copies")), (3.0, 2.0));
        metrics.refused(Ingress::Serial, Code::TooLarge, 4);
        assert_eq!(refused("request_bytes"), 4.0);
    }

    #[test]
    fn the_age_of_the_queue_is_kept_until_the_queue_is_empty() {
        let metrics = metrics(CONFIG);
        let age = || values(&metrics)["dumbwaiter_outbox_oldest_seconds"];
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let since = i64::try_from(now_ms).unwrap() - 60_000;
        metrics.gauges(&Gauges { queued: 5, oldest_queued_ms: Some(since), ..Gauges::default() });
        assert!((60.0..600.0).contains(&age()));
        metrics.gauges(&Gauges { queued: 5, oldest_queued_ms: None, ..Gauges::default() });
        assert!(age() >= 60.0);
        metrics.gauges(&Gauges { queued: 5, oldest_queued_ms: Some(i64::MAX), ..Gauges::default() });
        assert_eq!(age(), 0.0);
        metrics.gauges(&Gauges::default());
        assert_eq!(age(), 0.0);
    }

    #[test]
    fn figures_that_are_kept_elsewhere_are_read_at_each_encoding() {
        let metrics = metrics(CONFIG);
        let bound = metrics.bound("mqtt_answers", 64);
        let (count, hook) = (Arc::new(AtomicU64::new(1)), bound.clone());
        metrics.before_encoding({
            let count = count.clone();
            move || {
                hook.set(count.load(Ordering::Relaxed));
                hook.set_refused(count.load(Ordering::Relaxed) * 2);
            }
        });
        count.store(7, Ordering::Relaxed);
        metrics.terminals_online(Ingress::Serial, 2);
        metrics.terminals_online(Ingress::Mqtt, 3);
        metrics.terminals_online(Ingress::Serial, 1);
        let values = values(&metrics);
        assert_eq!(values[r#"dumbwaiter_bound_used{bound="mqtt_answers"}"#], 7.0);
        assert_eq!(values[r#"dumbwaiter_bound_max{bound="mqtt_answers"}"#], 64.0);
        assert_eq!(values[r#"dumbwaiter_bound_refused_total{bound="mqtt_answers"}"#], 14.0);
        assert_eq!(values["dumbwaiter_terminals_online"], 4.0);
    }
}
