//! The downlink: reads the status topics on a thread of its own and hands records on, in order per partition.
//!
//! Offsets are the store's: the thread begins where the core left off and never reads what librdkafka committed (the group
//! `dumbwaiter-{gateway}` is committed for lag tools only). They are kept under the topic's name and the ids of cluster and topic: a log
//! that was made anew under the same name, while the gateway was down as well, is another one and has no offsets yet. Nothing is skipped in silence: where no offset can be used, what was decided
//! is logged. While the event loop takes no records, none are fetched.

use super::client::{Connection, REFUSED_PAUSE, Refused, Renewal, Voice, drop_within_limit, shown};
use super::errors::{class, reason};
use super::partitioner::partition_of;
use super::topics;
use crate::config::{self, DownlinkSource};
use gateway::ids::Name;
use gateway::io::{FailureClass, PartitionName, Record, Select};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Records between the thread and the event loop: the capacity of the channel that [`Downlink::start`] is given.
pub const RECORDS_MAX: usize = 64;
/// Largest value that is handed on whole, in bytes; of a larger one so much that the dialect sees that it is too large.
const VALUE_BYTES_MAX: usize = 256 * 1024;
/// A partition that is read for the first time is read from so many records before its end, at most.
const FIRST_RECORDS_MAX: i64 = 10_000;
/// Between a topic and the id of its log: no topic's name has it.
const LOG_MARK: char = '#';
/// How often a stop looks whether the thread has ended.
const STOP_POLL: Duration = Duration::from_millis(10);
/// How long `poll` waits for a record before the thread looks at its other duties.
const POLL: Duration = Duration::from_millis(250);
/// How long a question to a broker may take: a broker answers a connection's requests one after the other, so it waits behind a fetch
/// that waits for records. No record is late for it: one that comes ends that wait.
const ASK_LIMIT: Duration = Duration::from_secs(15);
/// How long a fetch waits for records. A short wait takes 7 % of a slow line while nothing comes, and 20,000 requests a second from
/// 10,000 gateways.
const FETCH_WAIT_MS: &str = "10000";
/// Topics and partitions are looked at this often while one is missing …
const LOOK_MISSING: Duration = Duration::from_secs(5);
/// … and while all are there: new partitions show then.
const LOOK: Duration = Duration::from_secs(300);
/// Topics are asked for their ids this often while no record comes: one made anew under the same name is never told of otherwise.
const IDENTIFY: Duration = Duration::from_secs(40);
/// How the ids of librdkafka's mock clusters begin, which leave the question for a topic's id unanswered.
const MOCK_CLUSTER: &str = "mockCluster";
/// Offsets are committed for lag tools this often, if they moved.
const COMMIT: Duration = Duration::from_secs(60);
/// The lag is measured this often.
const MEASURE: Duration = Duration::from_secs(30);
/// A consumer that could not be made is tried again after this.
const MAKE_AGAIN: Duration = Duration::from_secs(10);

/// What the downlink needs to know.
#[derive(Debug, Clone)]
pub struct DownlinkSettings {
    /// How the brokers are reached.
    pub connection: Connection,
    /// How they shall be reached instead, once it is put down.
    pub renewal: Renewal,
    /// `[[downlink]]`.
    pub topics: Vec<config::Downlink>,
    /// A partition that is read for the first time is read from this long ago (`board.hours`: what is older has left the board), if the
    /// wall time is known, and from [`FIRST_RECORDS_MAX`] before its end at most. So a new store shows what a replaced one showed, and
    /// never replays a year.
    pub first_read_ms: u64,
    /// Wall time in Unix milliseconds, if known.
    pub wall_ms: fn() -> Option<i64>,
}

/// What librdkafka is given for the downlink, by name. Secrets are hidden.
pub fn librdkafka(connection: &Connection) -> BTreeMap<String, String> {
    shown(&config(connection))
}

/// Records that were not read yet, per partition. Markers of transactions count.
pub type Lags = BTreeMap<PartitionName, i64>;

/// The downlink's thread.
pub struct Downlink {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    lags: Arc<Mutex<Lags>>,
}

impl Downlink {
    /// Starts reading at `offsets`, the next ones to read as the store has them. `records` has a capacity of [`RECORDS_MAX`]; while it
    /// is full, nothing is fetched.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(settings: DownlinkSettings, offsets: Vec<(PartitionName, i64)>, records: mpsc::Sender<Record>) -> io::Result<Downlink> {
        let (stop, lags) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Lags>>::default());
        let reader = Reader {
            settings,
            stored: offsets.into_iter().collect(),
            reading: BTreeMap::new(),
            missing: BTreeSet::new(),
            ids: BTreeMap::new(),
            fetch_failure: None,
            records,
            stop: Arc::clone(&stop),
            lags: Arc::clone(&lags),
        };
        let thread = std::thread::Builder::new().name("kafka-down".into()).spawn(move || reader.run())?;
        Ok(Downlink { thread, stop, lags })
    }

    /// The lag of each partition, as last measured.
    /// Reads it for as long as the reader is kept, also after the thread has ended.
    pub fn lags(&self) -> impl Fn() -> Lags + Send + use<> {
        let lags = Arc::clone(&self.lags);
        move || lags.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread, and waits for it at most so long. The receiver of the records must be drained or dropped.
    pub fn stop(self, limit: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let until = Instant::now() + limit;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(STOP_POLL);
        }
        if !self.thread.is_finished() {
            tracing::debug!("kafka downlink still waits for a broker");
        } else if self.thread.join().is_err() {
            tracing::error!("kafka downlink panicked");
        }
    }
}

/// The partitions to read of a topic that has `count`. Where the centre added partitions, the gateway's own may be another than before:
/// then the former one is read on as well, until the own one has a stored offset at a start.
fn wanted(topic: &config::Downlink, gateway: &Name, count: i32, stored: &BTreeMap<i32, i64>) -> BTreeSet<i32> {
    let own = match topic.source {
        DownlinkSource::All | DownlinkSource::Topic => return (0..count).collect(),
        DownlinkSource::Partition(partition) => partition,
        DownlinkSource::Keyed(partitioner) => partition_of(partitioner, gateway.as_str().as_bytes(), count),
    };
    let former = if stored.contains_key(&own) { BTreeSet::new() } else { stored.keys().copied().collect() };
    former.into_iter().chain([own]).filter(|partition| (0..count).contains(partition)).collect()
}

/// Where a partition begins and ends, and where the records of the last hours begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    begin: i64,
    end: i64,
    recent: Option<i64>,
}

/// Why a partition is read from where it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Resumed,
    FirstTime,
    ExpiredUnread,
    MadeAnew,
}

/// Where to begin.
fn first_offset(stored: Option<i64>, extent: Extent) -> (i64, Why) {
    let Extent { begin, end, recent } = extent;
    let first_time = (end - FIRST_RECORDS_MAX).max(recent.unwrap_or(begin)).clamp(begin, end);
    match stored {
        None => (first_time, Why::FirstTime),
        Some(offset) if offset < begin => (begin, Why::ExpiredUnread),
        Some(offset) if offset > end => (first_time, Why::MadeAnew),
        Some(offset) => (offset, Why::Resumed),
    }
}

/// A partition that is read.
struct Reading {
    /// The name of its log in the store.
    log: String,
    select: Select,
    next: i64,
    committed: i64,
}

struct Reader {
    settings: DownlinkSettings,
    /// By the names of the logs, as the store has them.
    stored: BTreeMap<PartitionName, i64>,
    reading: BTreeMap<PartitionName, Reading>,
    missing: BTreeSet<String>,
    /// The topics' ids, as the current consumer found them.
    ids: BTreeMap<String, Option<String>>,
    /// Why records could not be fetched, since one last was.
    fetch_failure: Option<String>,
    records: mpsc::Sender<Record>,
    stop: Arc<AtomicBool>,
    lags: Arc<Mutex<Lags>>,
}

/// The event loop takes no more records.
struct Closed;

impl Reader {
    fn run(mut self) {
        while !self.stopped() {
            if self.settings.renewal.gate().is_shut() {
                std::thread::sleep(POLL);
                continue;
            }
            if let Some(connection) = self.settings.renewal.take() {
                self.settings.connection = connection;
            }
            let refused = Arc::<Refused>::default();
            match make(&self.settings.connection, &refused) {
                Ok(consumer) => {
                    self.read(&consumer, &refused);
                    drop_within_limit("downlink", move || drop(consumer));
                    if let Some((_, why)) = refused.lasting() {
                        // The uplink says it louder.
                        tracing::warn!(why, pause_s = REFUSED_PAUSE.as_secs(), "kafka refuses this gateway's consumer");
                        self.pause(REFUSED_PAUSE);
                    }
                }
                Err(error) => {
                    tracing::error!(reason = reason(&error), "kafka consumer could not be made");
                    self.pause(MAKE_AGAIN);
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.records.is_closed()
    }

    fn pause(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.stopped() && !self.settings.renewal.is_there() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
    }

    /// Reads until the end of the daemon, or until only a new consumer can go on.
    fn read(&mut self, consumer: &BaseConsumer<Voice>, refused: &Refused) {
        let now = Instant::now();
        let (mut look_at, mut commit_at, mut measure_at, mut identify_at) = (now, now + COMMIT, now + MEASURE, now + IDENTIFY);
        self.ids.clear();
        while !self.stopped() {
            let now = Instant::now();
            if self.settings.renewal.is_there() || self.settings.renewal.gate().is_shut() {
                return self.let_go(consumer);
            }
            if refused.lasting().is_some() {
                // Another broker may well answer.
                let topic = self.settings.topics.first().map(|topic| topic.topic.as_str());
                match consumer.fetch_metadata(topic, ASK_LIMIT) {
                    Ok(_) => refused.clear(),
                    Err(_) => return self.let_go(consumer),
                }
            }
            if now >= look_at {
                look_at = now + if self.look(consumer) { LOOK } else { LOOK_MISSING };
            }
            if now >= identify_at {
                identify_at = now + IDENTIFY;
                if self.made_anew(consumer) {
                    return self.let_go(consumer);
                }
            }
            if now >= commit_at {
                commit_at = now + COMMIT;
                self.commit(consumer);
            }
            if now >= measure_at {
                measure_at = now + MEASURE;
                self.measure(consumer);
            }
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    identify_at = now + IDENTIFY;
                    if let Err(Closed) = self.hand_on(&message) {
                        return;
                    }
                }
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    // An offset is out of the log while it is read: decided anew, in the open. Not at once, lest it spins.
                    self.let_go(consumer);
                    look_at = now + LOOK_MISSING;
                }
                Some(Err(error)) => self.note_fetch_failure(&error),
            }
        }
    }

    /// Says once what a person has to mend; a consumer goes on by itself when that is done.
    fn note_fetch_failure(&mut self, error: &KafkaError) {
        let needs_person = error.rdkafka_error_code().map(class) == Some(FailureClass::Person);
        let said = self.fetch_failure.replace(reason(error));
        if needs_person && said != self.fetch_failure {
            tracing::warn!(reason = self.fetch_failure, "status records cannot be fetched; it is tried again");
        } else {
            tracing::debug!(reason = self.fetch_failure, "kafka consumer");
        }
    }

    /// Whether a topic has another id than before: a consumer hangs on it, or reads on at an offset that means nothing any more.
    fn made_anew(&self, consumer: &BaseConsumer<Voice>) -> bool {
        for (topic, id) in self.ids.iter().filter(|(_, id)| id.is_some()) {
            match identify(consumer, topic) {
                Ok(found) if found != *id => return true,
                Ok(_) => {}
                // The others would be waited for just as long.
                Err(RDKafkaErrorCode::OperationTimedOut) => return false,
                Err(_) => {}
            }
        }
        false
    }

    /// The name under which the store has the offsets of a topic: with the id of its log, for in another they mean nothing. `None` if
    /// the store knows an id and no broker tells one.
    fn log_name(&mut self, topic: &str) -> Option<String> {
        let known = |at: &&PartitionName| topic_of(at) == topic;
        let with_id = self.stored.keys().filter(known).any(|at| at.topic != topic);
        let Some(id) = self.ids.get(topic).and_then(Option::as_ref) else { return (!with_id).then(|| topic.to_owned()) };
        let log = format!("{topic}{LOG_MARK}{id}");
        if with_id && !self.stored.keys().any(|at| at.topic == log) {
            tracing::error!(topic, "a topic was made anew under the same name; what was in it is gone");
        } else if !with_id {
            // An earlier release stored no ids.
            let same = |(at, next): (&PartitionName, &i64)| (PartitionName { topic: log.clone(), partition: at.partition }, *next);
            let adopted: Vec<_> = self.stored.iter().filter(|(at, _)| known(at)).map(same).collect();
            self.stored.extend(adopted);
        }
        Some(log)
    }

    /// Finds out what there is to read and begins what is not read yet; `false` if something is missing.
    fn look(&mut self, consumer: &BaseConsumer<Voice>) -> bool {
        let topics = std::mem::take(&mut self.settings.topics);
        let found = topics.iter().filter(|topic| self.look_at(consumer, topic)).count();
        let complete = found == topics.len();
        self.settings.topics = topics;
        complete
    }

    fn look_at(&mut self, consumer: &BaseConsumer<Voice>, downlink: &config::Downlink) -> bool {
        let topic = downlink.topic.as_str();
        let count = match partition_count(consumer, topic) {
            Ok(count) => count,
            Err(trouble) => return self.miss(topic, &reason(&trouble)),
        };
        if let DownlinkSource::Partition(partition) = downlink.source
            && !(0..count).contains(&partition)
        {
            return self.miss(topic, &format!("it has {count} partitions, and none is number {partition}"));
        }
        if !self.ids.contains_key(topic) {
            match identify(consumer, topic) {
                Ok(id) => drop(self.ids.insert(topic.to_owned(), id)),
                Err(code) => return self.miss(topic, &format!("its id is not told: {code:?} ({})", code as i32)),
            }
        }
        let Some(log) = self.log_name(topic) else { return self.miss(topic, "no broker tells its id, by which its offsets are kept") };
        let of_log = self.stored.iter().filter(|(at, _)| at.topic == log).map(|(at, next)| (at.partition, *next)).collect();
        let fresh = wanted(downlink, &self.settings.connection.gateway, count, &of_log)
            .into_iter()
            .map(|partition| PartitionName { topic: topic.to_owned(), partition })
            .filter(|at| !self.reading.contains_key(at))
            .collect::<Vec<_>>();
        match self.begin(consumer, downlink.source.select(), &log, &of_log, &fresh) {
            Ok(()) => {
                if self.missing.remove(topic) {
                    tracing::info!(topic, "status topic is read");
                }
                true
            }
            Err(error) => {
                tracing::debug!(topic, reason = reason(&error), "status topic could not be asked for its offsets");
                false
            }
        }
    }

    /// Says once that a topic is missing.
    fn miss(&mut self, topic: &str, why: &str) -> bool {
        if self.missing.insert(topic.to_owned()) {
            tracing::warn!(topic, reason = why, "status topic cannot be read yet; it is tried again");
        }
        false
    }

    fn begin(
        &mut self,
        consumer: &BaseConsumer<Voice>,
        select: Select,
        log: &str,
        stored: &BTreeMap<i32, i64>,
        fresh: &[PartitionName],
    ) -> KafkaResult<()> {
        if fresh.is_empty() {
            return Ok(());
        }
        let extents = self.extents(consumer, fresh)?;
        let mut list = TopicPartitionList::new();
        let mut begun = vec![];
        for (at, extent) in fresh.iter().zip(extents) {
            let before = stored.get(&at.partition).copied();
            let (next, why) = first_offset(before, extent);
            let Extent { begin, end, .. } = extent;
            let (topic, partition) = (&at.topic, at.partition);
            let skipped = next - before.filter(|_| why == Why::ExpiredUnread).unwrap_or(begin);
            match why {
                Why::Resumed => tracing::debug!(topic, partition, next, end, "status partition is read on"),
                Why::FirstTime => tracing::info!(
                    topic,
                    partition,
                    next,
                    end,
                    skipped,
                    "status partition is new; what is older than the board shows, or beyond the last 10,000 records, is skipped"
                ),
                Why::ExpiredUnread => tracing::warn!(topic, partition, next, end, skipped, "status records expired before they were read"),
                Why::MadeAnew => tracing::warn!(topic, partition, next, end, skipped, "status partition was made anew or cut"),
            }
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(next))?;
            begun.push((at.clone(), Reading { log: log.to_owned(), select, next, committed: next }));
        }
        consumer.incremental_assign(&list)?;
        self.reading.extend(begun);
        Ok(())
    }

    fn extents(&self, consumer: &BaseConsumer<Voice>, at: &[PartitionName]) -> KafkaResult<Vec<Extent>> {
        let begins = offsets(consumer, at, Offset::Beginning)?;
        let ends = offsets(consumer, at, Offset::End)?;
        let since = (self.settings.wall_ms)().map(|now| now.saturating_sub_unsigned(self.settings.first_read_ms));
        let recents = since.map(|since| offsets(consumer, at, Offset::Offset(since.max(0)))).transpose()?;
        let extent = |n: usize| {
            // No record is that young: the end.
            let recent = recents.as_ref().map(|recents| recents[n].unwrap_or(i64::MAX));
            let (begin, end) = (begins[n].unwrap_or(0), ends[n].unwrap_or(0));
            Extent { begin, end, recent }
        };
        Ok((0..at.len()).map(extent).collect())
    }

    /// Reads nothing any more, remembering where each partition was.
    fn let_go(&mut self, consumer: &BaseConsumer<Voice>) {
        if let Err(error) = consumer.unassign() {
            tracing::warn!(reason = reason(&error), "kafka consumer could not let go of its partitions");
        }
        let read = std::mem::take(&mut self.reading);
        let in_store = |(at, reading): (PartitionName, Reading)| (PartitionName { topic: reading.log, ..at }, reading.next);
        self.stored.extend(read.into_iter().map(in_store));
    }

    fn hand_on(&mut self, message: &BorrowedMessage<'_>) -> Result<(), Closed> {
        let at = PartitionName { topic: message.topic().to_owned(), partition: message.partition() };
        // A record that was fetched before its partition was let go.
        let Some(reading) = self.reading.get_mut(&at) else {
            return Ok(());
        };
        self.fetch_failure = None;
        let record = record(message, PartitionName { topic: reading.log.clone(), ..at }, reading.select);
        reading.next = record.offset + 1;
        self.records.blocking_send(record).map_err(|_| Closed)
    }

    fn commit(&mut self, consumer: &BaseConsumer<Voice>) {
        let mut list = TopicPartitionList::new();
        for (at, reading) in self.reading.iter_mut().filter(|(_, reading)| reading.next > reading.committed) {
            // A list grows as needed: this fails for a bad offset only, and `next` is above one that was read.
            if list.add_partition_offset(&at.topic, at.partition, Offset::Offset(reading.next)).is_ok() {
                reading.committed = reading.next;
            }
        }
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(reason = reason(&error), "offsets for lag tools could not be committed");
        }
    }

    fn measure(&self, consumer: &BaseConsumer<Voice>) {
        let at = self.reading.keys().cloned().collect::<Vec<_>>();
        if at.is_empty() {
            return;
        }
        let ends = match offsets(consumer, &at, Offset::End) {
            Ok(ends) => ends,
            Err(error) => return tracing::debug!(reason = reason(&error), "lag could not be measured"),
        };
        let lag = |(reading, end): (&Reading, Option<i64>)| end.map_or(0, |end| (end - reading.next).max(0));
        let lags = at.into_iter().zip(self.reading.values().zip(ends).map(lag)).collect();
        *self.lags.lock().unwrap_or_else(PoisonError::into_inner) = lags;
    }
}

fn record(message: &BorrowedMessage<'_>, at: PartitionName, select: Select) -> Record {
    let header = |name: &str| {
        let headers = message.headers()?;
        let value = headers.iter().find(|header| header.key == name)?.value?;
        std::str::from_utf8(value).ok()
    };
    Record {
        at,
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(|value| value[..value.len().min(VALUE_BYTES_MAX + 1)].to_vec()),
        gateway_id: header("gateway-id").map(str::to_owned),
        gateway_epoch: header("gateway-epoch").and_then(|text| text.parse().ok()),
        select,
    }
}

/// The topic whose log's partition this is.
pub fn topic_of(at: &PartitionName) -> &str {
    at.topic.split_once(LOG_MARK).map_or(&at.topic, |(topic, _)| topic)
}

/// What tells a topic's log from every other, on this cluster and elsewhere; `None` if these brokers tell no ids.
///
/// # Errors
/// It is not known now; another try may tell.
fn identify(consumer: &BaseConsumer<Voice>, topic: &str) -> Result<Option<String>, RDKafkaErrorCode> {
    let cluster = consumer.client().fetch_cluster_id(ASK_LIMIT).ok_or(RDKafkaErrorCode::OperationTimedOut)?;
    if cluster.starts_with(MOCK_CLUSTER) {
        return Ok(None);
    }
    match topics::describe(consumer.client(), topic, ASK_LIMIT) {
        Ok(found) => Ok(Some(format!("{cluster}/{}", found.id))),
        Err(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion) => Ok(None),
        Err(code) => Err(code),
    }
}

pub(super) fn partition_count(consumer: &BaseConsumer<Voice>, topic: &str) -> KafkaResult<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_LIMIT)?;
    let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
    let found = metadata.topics().iter().find(|found| found.name() == topic).ok_or_else(|| unknown.clone())?;
    match found.error() {
        Some(code) => Err(KafkaError::MetadataFetch(code.into())),
        None if found.partitions().is_empty() => Err(unknown),
        None => Ok(i32::try_from(found.partitions().len()).expect("Kafka counts partitions in an i32")),
    }
}

/// Asks for an offset of each partition: the beginning, the end, or the first at or after a time. One request per broker. `None` where
/// there is none.
pub(super) fn offsets(consumer: &BaseConsumer<Voice>, at: &[PartitionName], wanted: Offset) -> KafkaResult<Vec<Option<i64>>> {
    let mut list = TopicPartitionList::with_capacity(at.len());
    for at in at {
        // The protocol's field for a time also takes the two names, as librdkafka's numbers for them: -2 and -1.
        list.add_partition_offset(&at.topic, at.partition, wanted)?;
    }
    let found = consumer.offsets_for_times(list, ASK_LIMIT)?;
    let offset = |at: &PartitionName| {
        let element = found.find_partition(&at.topic, at.partition);
        let element = element.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))?;
        element.error()?;
        Ok(match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    };
    at.iter().map(offset).collect()
}

fn make(connection: &Connection, refused: &Arc<Refused>) -> KafkaResult<BaseConsumer<Voice>> {
    let heard = Arc::clone(refused);
    BaseConsumer::from_config_and_context(&config(connection), Voice::new("downlink", move |code, text| heard.hear(code, text)))
}

fn config(connection: &Connection) -> ClientConfig {
    let group = format!("dumbwaiter-{}", connection.gateway);
    connection.config(
        // Small queues: a slow reader otherwise takes 88 MB.
        &[
            ("queued.max.messages.kbytes", "1024"),
            ("queued.min.messages", "100"),
            ("fetch.message.max.bytes", "65536"),
            ("fetch.max.bytes", "262144"),
            ("receive.message.max.bytes", "4194304"),
            ("fetch.wait.max.ms", FETCH_WAIT_MS),
            ("fetch.queue.backoff.ms", "50"),
        ],
        &[
            ("group.id", &group),
            // `fetch.max.bytes` may not be below it; it limits nothing that is read.
            ("message.max.bytes", "262144"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
        ],
    )
}

impl ConsumerContext for Voice {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            self.log(RDKafkaLogLevel::Debug, "COMMIT", &reason(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::dialect::Partitioner;

    const EXTENT: Extent = Extent { begin: 100, end: 50_000, recent: Some(45_000) };

    #[test]
    fn a_stored_offset_inside_the_log_is_resumed() {
        for offset in [100, 4_711, 50_000] {
            assert_eq!(first_offset(Some(offset), EXTENT), (offset, Why::Resumed));
        }
    }

    #[test]
    fn after_a_long_absence_reading_begins_with_the_oldest_record_that_is_left() {
        assert_eq!(first_offset(Some(99), EXTENT), (100, Why::ExpiredUnread));
    }

    #[test]
    fn an_offset_beyond_the_end_means_another_log() {
        assert_eq!(first_offset(Some(50_001), EXTENT), (45_000, Why::MadeAnew));
    }

    #[test]
    fn a_new_store_reads_the_last_hours_but_never_more_than_the_bound() {
        assert_eq!(first_offset(None, EXTENT), (45_000, Why::FirstTime));
        assert_eq!(first_offset(None, Extent { recent: Some(200), ..EXTENT }), (40_000, Why::FirstTime));
        assert_eq!(first_offset(None, Extent { recent: None, ..EXTENT }), (40_000, Why::FirstTime));
        assert_eq!(first_offset(None, Extent { recent: Some(i64::MAX), ..EXTENT }), (50_000, Why::FirstTime));
        assert_eq!(first_offset(None, Extent { begin: 0, end: 3, recent: None }), (0, Why::FirstTime));
    }

    fn partitions(source: DownlinkSource, count: i32, stored: &[i32]) -> Vec<i32> {
        let at = |partition: &i32| (*partition, 5);
        let topic = config::Downlink { topic: "order-status".parse().unwrap(), source };
        wanted(&topic, &"store-042".parse().unwrap(), count, &stored.iter().map(at).collect()).into_iter().collect()
    }

    #[test]
    fn each_way_to_select_reads_its_partitions() {
        assert_eq!(partitions(DownlinkSource::All, 3, &[]), [0, 1, 2]);
        assert_eq!(partitions(DownlinkSource::Topic, 2, &[]), [0, 1]);
        assert_eq!(partitions(DownlinkSource::Partition(4), 6, &[]), [4]);
        assert_eq!(partitions(DownlinkSource::Partition(6), 6, &[]), [0; 0]);
    }

    #[test]
    fn when_the_centre_adds_partitions_the_former_one_is_read_on() {
        let keyed = DownlinkSource::Keyed(Partitioner::Fnv1aRandom);
        let (before, after) = (partitions(keyed, 6, &[])[0], partitions(keyed, 7, &[])[0]);
        assert_ne!(before, after);
        let mut both = vec![before, after];
        both.sort_unstable();
        assert_eq!(partitions(keyed, 7, &[before]), both);
        assert_eq!(partitions(keyed, 7, &[before, after]), [after]);
    }
}
