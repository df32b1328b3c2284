//! Reads a new store's own events back: from all partitions of the topic of the orders, then from those of the dead letter topic, from
//! some days ago up to where they ended when reading began.
//!
//! Every gateway of a chain may write to these topics, and a broker cannot choose: so all records are fetched, and what is another's is
//! dropped by its headers. Memory is bounded, and time is the core's business. An attempt that fails begins anew, for an event that is
//! recalled twice changes nothing.

use super::client::{Connection, Refused, Renewal, Voice, drop_within_limit};
use super::consumer::{offsets, partition_count};
use super::errors::{class, reason};
use crate::clock::Clock;
use gateway::dialect::{Dialect, Incoming};
use gateway::ids::{Name, RequestKey, Seq};
use gateway::io::{FailureClass, PartitionName, Record, Select};
use gateway::json::Object;
use gateway::rebuild::{Recall, Recalled};
use gateway::request::uuid_of;
use gateway::time::{Wall, unix_ms};
use rdkafka::Message;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

#[cfg(test)]
mod tests;

/// Events between the thread and the event loop: the capacity of the channel that [`Rebuild::start`] is given.
pub const RECALLS_MAX: usize = 64;
/// Largest value that is read, in bytes.
const VALUE_BYTES_MAX: usize = 256 * 1024;
/// How long `poll` waits for a record before the thread looks whether it shall end.
const POLL: Duration = Duration::from_millis(250);
/// A failed attempt is made anew after this …
const AGAIN: Duration = Duration::from_secs(1);
/// … and one that a person has to mend after this.
const AGAIN_MENDED: Duration = Duration::from_secs(5);
/// A topic is missing if it is in so many attempts, one after the other: a broker that starts does not know all of them at once.
const MISSING_ATTEMPTS: u32 = 3;
/// Reading stands still for so long: the handle may hang.
const STALLED: Duration = Duration::from_secs(60);
/// How often it is logged how far reading has come.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// What reading back needs to know.
pub struct RebuildSettings {
    /// How the brokers are reached.
    pub connection: Connection,
    /// How they shall be reached instead, once it is put down.
    pub renewal: Renewal,
    /// `centre.dialect`.
    pub dialect: Dialect,
    /// What was sent longer ago than this is not read, if the wall time is known.
    pub since_ms: u64,
    /// Wall time in Unix milliseconds, if known.
    pub wall_ms: fn() -> Option<i64>,
    /// For business days.
    pub clock: Clock,
}

/// How far reading has come. Shared with the thread.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records that were looked at.
    pub read: AtomicU64,
    /// Offsets up to the end, of the topics that were begun: no fewer than the records.
    pub of: AtomicU64,
    /// Own events among them.
    pub own: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
}

impl Progress {
    /// Why the last attempt failed, and whether a person has to mend that.
    pub fn trouble(&self) -> Option<(String, bool)> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|trouble| (trouble.why.clone(), trouble.needs_person))
    }

    fn note(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// The thread.
pub struct Rebuild {
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
}

impl Rebuild {
    /// Starts the thread. `recalls` has a capacity of [`RECALLS_MAX`]; the last that comes is [`Recall::Ended`].
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(settings: RebuildSettings, recalls: mpsc::Sender<Recall>) -> io::Result<Rebuild> {
        let (progress, stop) = (Arc::<Progress>::default(), Arc::<AtomicBool>::default());
        let reader = Reader { settings, recalls, progress: Arc::clone(&progress), stop: Arc::clone(&stop), missing: 0 };
        std::thread::Builder::new().name("kafka-rebuild".into()).spawn(move || reader.run())?;
        Ok(Rebuild { progress, stop })
    }

    /// How far it has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Ends the thread soon. It only reads: nothing waits for its end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Why an attempt ended.
#[derive(Debug)]
struct Trouble {
    why: String,
    needs_person: bool,
    /// There is no such topic.
    missing: bool,
}

impl Trouble {
    fn passing(why: impl Into<String>) -> Trouble {
        Trouble { why: why.into(), needs_person: false, missing: false }
    }
}

impl From<KafkaError> for Trouble {
    fn from(error: KafkaError) -> Trouble {
        let code = error.rdkafka_error_code();
        let missing = matches!(code, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic));
        let advice = match code {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => "; let this gateway's user READ the topic",
            _ => "",
        };
        Trouble { why: reason(&error) + advice, needs_person: code.map(class) == Some(FailureClass::Person), missing }
    }
}

/// Nobody wants to know any more.
struct Stopped;

type Client = BaseConsumer<Voice>;

struct Reader {
    settings: RebuildSettings,
    recalls: mpsc::Sender<Recall>,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    /// Attempts, one after the other, in which the topic of the orders was missing.
    missing: u32,
}

impl Reader {
    fn run(mut self) {
        while !self.stopped() {
            if self.settings.renewal.gate().is_shut() {
                // In an outage that lasts nobody but the uplink dials.
                std::thread::sleep(POLL);
                continue;
            }
            if let Some(connection) = self.settings.renewal.take() {
                self.settings.connection = connection;
            }
            for counter in [&self.progress.read, &self.progress.of, &self.progress.own] {
                counter.store(0, Ordering::Relaxed);
            }
            let refused = Arc::<Refused>::default();
            match self.read_all(&refused) {
                Ok(Ok(())) => return drop(self.tell(Recall::Ended)),
                Ok(Err(Stopped)) => return,
                Err(trouble) => {
                    self.missing = if trouble.missing { self.missing + 1 } else { 0 };
                    let (why, needs_person) = refused.lasting().map_or((trouble.why, trouble.needs_person), |(_, why)| (why, true));
                    tracing::debug!(why, "own events cannot be read back");
                    self.progress.note(Some(Trouble { why, needs_person, missing: false }));
                    self.pause(if needs_person { AGAIN_MENDED } else { AGAIN });
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.recalls.is_closed()
    }

    fn pause(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.stopped() && !self.settings.renewal.is_there() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
    }

    fn tell(&self, recall: Recall) -> Result<(), Stopped> {
        self.recalls.blocking_send(recall).map_err(|_| Stopped)
    }

    /// Reads both topics once, with clients of their own.
    fn read_all(&self, refused: &Arc<Refused>) -> Result<Result<(), Stopped>, Trouble> {
        let kafka = &self.settings.connection.kafka;
        let [orders, dead] = [Some(&kafka.topic), kafka.dead_letter_topic.as_ref()].map(|topic| topic.map(ToString::to_string));
        for topic in orders.iter().chain(&dead) {
            let is_dead = Some(topic) == dead.as_ref();
            match self.read(topic, refused) {
                Ok(Ok(())) => self.progress.note(None),
                Ok(Err(Stopped)) => return Ok(Err(Stopped)),
                Err(trouble) if !is_dead && trouble.missing && self.missing + 1 >= MISSING_ATTEMPTS => {
                    tracing::info!(topic, "there is no such topic, so nothing of this gateway's is in it");
                }
                Err(trouble) if is_dead && (trouble.missing || trouble.needs_person) => {
                    tracing::warn!(topic, why = trouble.why, "the requests of dead letters cannot be read back");
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(Ok(()))
    }

    fn read(&self, topic: &str, refused: &Arc<Refused>) -> Result<Result<(), Stopped>, Trouble> {
        // Where the topic ends is where it ends for everybody: what is behind an open transaction may be ours.
        let ends = self.ends(topic, refused)?;
        if let Err(Stopped) = self.tell(Recall::Reached) {
            return Ok(Err(Stopped));
        }
        let consumer = self.make("read_committed", refused)?;
        let read = self.read_up_to(&consumer, &ends);
        drop_within_limit("rebuild", move || drop(consumer));
        read
    }

    /// The partitions that are to be read, each with its first offset and its end.
    fn ends(&self, topic: &str, refused: &Arc<Refused>) -> Result<BTreeMap<PartitionName, (i64, i64)>, Trouble> {
        let consumer = self.make("read_uncommitted", refused)?;
        let asked = || {
            let count = partition_count(&consumer, topic)?;
            let at: Vec<_> = (0..count).map(|partition| PartitionName { topic: topic.to_owned(), partition }).collect();
            let begins = match (self.settings.wall_ms)().map(|now| now.saturating_sub_unsigned(self.settings.since_ms)) {
                Some(since) => offsets(&consumer, &at, Offset::Offset(since.max(0)))?,
                None => offsets(&consumer, &at, Offset::Beginning)?,
            };
            let ends = offsets(&consumer, &at, Offset::End)?;
            // Where no record is that young, there is nothing to read.
            let extent = |(begin, end): (Option<i64>, Option<i64>)| Some((begin?, end?)).filter(|(begin, end)| begin < end);
            let extents = begins.into_iter().zip(ends).map(extent);
            Ok(at.into_iter().zip(extents).filter_map(|(at, extent)| Some((at, extent?))).collect())
        };
        let asked = asked();
        drop_within_limit("rebuild", move || drop(consumer));
        asked
    }

    fn make(&self, isolation: &str, refused: &Arc<Refused>) -> KafkaResult<Client> {
        let group = format!("dumbwaiter-{}", self.settings.connection.gateway);
        let config = self.settings.connection.config(
            // Most of what is read is dropped, so more is fetched at once than by the downlink: up to about 6 MB of memory, for a while.
            &[
                ("queued.max.messages.kbytes", "4096"),
                ("fetch.message.max.bytes", "524288"),
                ("fetch.max.bytes", "1048576"),
                ("receive.message.max.bytes", "4194304"),
                ("fetch.wait.max.ms", "100"),
                ("fetch.queue.backoff.ms", "10"),
            ],
            &[
                ("group.id", &group),
                // `fetch.max.bytes` may not be below it; it limits nothing that is read.
                ("message.max.bytes", "1048576"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("enable.partition.eof", "true"),
                ("auto.offset.reset", "error"),
                ("isolation.level", isolation),
            ],
        );
        let heard = Arc::clone(refused);
        BaseConsumer::from_config_and_context(&config, Voice::new("rebuild", move |code, text| heard.hear(code, text)))
    }

    /// Reads each partition from its first offset to its end. A partition with an open transaction below its end is begun when that is
    /// decided: so the end of what is committed is never below the end that is wanted.
    fn read_up_to(&self, consumer: &Client, ends: &BTreeMap<PartitionName, (i64, i64)>) -> Result<Result<(), Stopped>, Trouble> {
        let mut waiting: Vec<_> = ends.keys().cloned().collect();
        let mut reading = BTreeMap::new();
        self.progress.of.fetch_add(ends.values().map(|(begin, end)| (end - begin).unsigned_abs()).sum(), Ordering::Relaxed);
        let (mut ask_at, mut moved_at, mut tell_at) = (Instant::now(), Instant::now(), Instant::now() + TOLD_EVERY);
        while !(waiting.is_empty() && reading.is_empty()) {
            if self.stopped() {
                return Ok(Err(Stopped));
            }
            if self.settings.renewal.gate().is_shut() {
                return Err(Trouble::passing("the line to Kafka is down"));
            }
            let now = Instant::now();
            if !waiting.is_empty() && now >= ask_at {
                ask_at = now + AGAIN;
                let committed = offsets(consumer, &waiting, Offset::End)?;
                let mut list = TopicPartitionList::new();
                for (at, committed) in std::mem::take(&mut waiting).into_iter().zip(committed) {
                    let (begin, end) = ends[&at];
                    if committed.is_some_and(|committed| committed >= end) {
                        list.add_partition_offset(&at.topic, at.partition, Offset::Offset(begin))?;
                        reading.insert(at.partition, end);
                    } else {
                        waiting.push(at);
                    }
                }
                if list.count() > 0 {
                    consumer.incremental_assign(&list)?;
                }
            }
            if now >= tell_at {
                tell_at = now + TOLD_EVERY;
                let [read, of, own] = [&self.progress.read, &self.progress.of, &self.progress.own].map(|n| n.load(Ordering::Relaxed));
                tracing::info!(read, of, own, "own events are being read back");
            }
            match consumer.poll(POLL) {
                None if moved_at.elapsed() > STALLED && waiting.is_empty() => return Err(Trouble::passing("nothing more is fetched")),
                None => continue,
                Some(Ok(message)) => {
                    self.progress.read.fetch_add(1, Ordering::Relaxed);
                    if let Err(Stopped) = self.hand_on(&message) {
                        return Ok(Err(Stopped));
                    }
                    reading.retain(|partition, end| *partition != message.partition() || message.offset() + 1 < *end);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(reading.remove(&partition)),
                // A broker that is away comes back, and librdkafka goes on by itself.
                Some(Err(error)) if error.rdkafka_error_code().map(class) == Some(FailureClass::Hold) => continue,
                Some(Err(error)) => return Err(error.into()),
            }
            moved_at = Instant::now();
        }
        Ok(Ok(()))
    }

    fn hand_on(&self, message: &BorrowedMessage<'_>) -> Result<(), Stopped> {
        let Some(own) = Own::of(message, &self.settings.connection.gateway) else { return Ok(()) };
        self.progress.own.fetch_add(1, Ordering::Relaxed);
        match own.read(message, self.settings.dialect, &self.settings.clock) {
            Ok(recalled) => self.tell(Recall::Event(Box::new(recalled))),
            Err(why) => {
                let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                tracing::warn!(topic, partition, offset, why, "an own event cannot be read back and is passed over");
                Ok(())
            }
        }
    }
}

/// What an own event's headers say.
struct Own<'m> {
    epoch: &'m str,
    seq: &'m str,
    terminal: &'m str,
    request_id: &'m str,
    event_id: Option<&'m str>,
}

/// As a dialect takes it.
fn record(value: &[u8]) -> Record {
    Record {
        at: PartitionName { topic: String::new(), partition: 0 },
        offset: 0,
        key: None,
        value: Some(value[..value.len().min(VALUE_BYTES_MAX + 1)].to_vec()),
        gateway_id: None,
        gateway_epoch: None,
        select: Select::All,
    }
}

/// Of the value, what a dialect does not decode.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    id: String,
    occurred_at: String,
}

impl<'m> Own<'m> {
    /// `None` for another gateway's record.
    fn of(message: &'m BorrowedMessage<'_>, gateway: &Name) -> Option<Own<'m>> {
        let headers = message.headers()?;
        let header = |name: &str| {
            let value = headers.iter().find(|header| header.key == name)?.value?;
            std::str::from_utf8(value).ok()
        };
        if header("gateway-id")? != gateway.as_str() {
            return None;
        }
        let [epoch, seq, terminal, request_id] = ["gateway-epoch", "gateway-seq", "terminal", "request-id"].map(header);
        let event_id = header("dead-letter-event-id");
        Some(Own { epoch: epoch?, seq: seq?, terminal: terminal?, request_id: request_id?, event_id })
    }

    /// Of a dead letter that its topic took without its value, only the request is told.
    fn read(&self, message: &BorrowedMessage<'_>, dialect: Dialect, clock: &Clock) -> Result<Recalled, String> {
        let word = |what: &str| format!("its {what} is none of this gateway's");
        let request = RequestKey {
            terminal: self.terminal.parse().map_err(|_| word("terminal"))?,
            request_id: self.request_id.parse().map_err(|_| word("request-id"))?,
        };
        let (epoch, seq) = (self.epoch.parse().map_err(|_| word("epoch"))?, self.seq.parse().map(Seq).map_err(|_| word("seq"))?);
        let (event_id, at_ms, order_id, data, effect) = match message.payload() {
            None => {
                let key = message.key().and_then(|key| std::str::from_utf8(key).ok()).ok_or("it has no key")?;
                let at_ms = message.timestamp().to_millis().unwrap_or(0);
                (self.event_id.ok_or("it has no value")?.to_owned(), at_ms, key.parse().map_err(|_| word("key"))?, Object::new(), None)
            }
            Some(value) => {
                let Envelope { id, occurred_at } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
                let at_ms = unix_ms(&occurred_at).ok_or("occurredAt is not like 2024-01-01T12:00:00.000Z")?;
                let Incoming { order_id, data, effect, .. } = dialect.decode(&record(value))?;
                (id, at_ms, order_id, data, Some(effect))
            }
        };
        let event_id = uuid_of(&event_id).ok_or("its id is no UUID")?;
        let at = Wall { unix_ms: at_ms, business_day: clock.day_of(at_ms) };
        Ok(Recalled { request, epoch, seq, event_id, at, order_id, data, effect })
    }
}
