//! Replays: delivered events are sent once more, marked, by a producer of their own: nothing live waits for them or fails with them.
//!
//! Each keeps its id, its epoch and its seq, so whoever has it drops it like any repeat. A step is a bounded list of events, sent in its
//! order and no faster than [`EVENTS_PER_SECOND`]; it ends with the first that fails, and none behind that one is sent.

use super::client::{LINE_DOWN, Renewal, Voice, drop_within_limit};
use super::errors::reason;
use super::producer::UplinkSettings;
use gateway::event::OrderEvent;
use gateway::ids::Seq;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How fast a replay is sent at most.
pub const EVENTS_PER_SECOND: u32 = 250;
/// Steps that wait behind the one that is sent. Beyond it a replay is asked to wait.
const STEPS_MAX: usize = 1;
/// How long Kafka may take for a step, once all of it is handed over.
const ANSWER_MAX: Duration = Duration::from_secs(6);
/// The producer is kept so long for the next step.
const IDLE_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Events that Kafka acknowledged.
    pub sent: u64,
    /// Why not all of them were.
    pub failed: Option<String>,
}

type Done = Box<dyn FnOnce(Replayed) + Send>;

struct Step {
    events: Vec<(Seq, OrderEvent)>,
    done: Done,
}

/// Sends replays on a thread of its own. Cheap to clone.
#[derive(Clone)]
pub struct Steps(SyncSender<Step>);

impl Steps {
    /// Sends these events; `done` is called on the thread, or at once if another step waits already, or dropped if the thread ends.
    pub fn send(&self, events: Vec<(Seq, OrderEvent)>, done: impl FnOnce(Replayed) + Send + 'static) {
        if let Err(TrySendError::Full(Step { done, .. })) = self.0.try_send(Step { events, done: Box::new(done) }) {
            done(Replayed { sent: 0, failed: Some("another replay is under way".into()) });
        }
    }
}

/// The thread.
pub struct Replay {
    steps: Steps,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Replay {
    /// Starts the thread, without a producer: the first step makes one.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(settings: UplinkSettings, renewal: Renewal) -> io::Result<Replay> {
        let (steps, inbox) = sync_channel(STEPS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let sender = Sender { settings, renewal, stop: Arc::clone(&stop), producer: None };
        let thread = std::thread::Builder::new().name("kafka-replay".into()).spawn(move || sender.run(&inbox))?;
        Ok(Replay { steps: Steps(steps), stop, thread })
    }

    /// Where steps are handed over.
    pub fn steps(&self) -> Steps {
        self.steps.clone()
    }

    /// Ends the thread. What is on its way may still arrive.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.steps);
        if self.thread.join().is_err() {
            tracing::error!("kafka replay panicked");
        }
    }
}

struct Context {
    voice: Voice,
    acknowledged: AtomicU64,
    failed: Mutex<Option<String>>,
}

impl Context {
    fn failed(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, text: &str) {
        self.voice.error(error, text);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err((error, _)) => drop(self.failed().get_or_insert_with(|| reason(error))),
        }
    }
}

type Sending = BaseProducer<Context, NoCustomPartitioner>;

struct Sender {
    settings: UplinkSettings,
    renewal: Renewal,
    stop: Arc<AtomicBool>,
    producer: Option<Sending>,
}

impl Sender {
    fn run(mut self, inbox: &Receiver<Step>) {
        while !self.stop.load(Ordering::Relaxed) {
            match inbox.recv_timeout(IDLE_MAX) {
                Ok(Step { events, done }) => {
                    let replayed = self.carry_out(&events);
                    if replayed.failed.is_some() {
                        self.retire();
                    }
                    done(replayed);
                }
                Err(RecvTimeoutError::Timeout) => self.retire(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.retire();
    }

    fn retire(&mut self) {
        if let Some(producer) = self.producer.take() {
            producer.purge(PurgeConfig::default().queue().inflight());
            drop_within_limit("replay", move || drop(producer));
        }
    }

    fn carry_out(&mut self, events: &[(Seq, OrderEvent)]) -> Replayed {
        if let Some(connection) = self.renewal.take() {
            self.settings.connection = connection;
            self.retire();
        }
        let refused = |failed: String| Replayed { sent: 0, failed: Some(failed) };
        if self.renewal.gate().is_shut() {
            return refused(LINE_DOWN.into());
        }
        if self.producer.is_none() {
            let context = Context { voice: Voice::new("replay", |_, _| ()), acknowledged: AtomicU64::new(0), failed: Mutex::default() };
            match Sending::from_config_and_context(&self.settings.config(), context) {
                Ok(producer) => self.producer = Some(producer),
                Err(error) => return refused(reason(&error)),
            }
        }
        let Some(producer) = &self.producer else { return refused("there is no producer".into()) };
        self.send(producer, events)
    }

    fn send(&self, producer: &Sending, events: &[(Seq, OrderEvent)]) -> Replayed {
        let context = producer.context();
        context.acknowledged.store(0, Ordering::Relaxed);
        let UplinkSettings { connection, dialect, .. } = &self.settings;
        let (topic, begun) = (connection.kafka.topic.to_string(), Instant::now());
        for (n, (seq, event)) in (0_u32..).zip(events) {
            let outgoing = dialect.encode(&connection.gateway, *seq, event);
            let marked = outgoing.headers.iter().map(|(key, value)| (*key, value.as_ref())).chain([("gateway-repeat", "replay")]);
            let headers = marked.fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let record = BaseRecord::to(&topic).key(outgoing.key).payload(&outgoing.value).headers(headers);
            if let Err((error, _)) = producer.send(record) {
                context.failed().get_or_insert_with(|| reason(&error));
            }
            let next_at = begun + Duration::from_secs(1) * (n + 1) / EVENTS_PER_SECOND;
            producer.poll(next_at.saturating_duration_since(Instant::now()));
            if self.ends(producer) {
                break;
            }
        }
        let give_up_at = Instant::now() + ANSWER_MAX;
        while producer.in_flight_count() > 0 && !self.ends(producer) && Instant::now() < give_up_at {
            producer.poll(POLL);
        }
        let sent = context.acknowledged.load(Ordering::Relaxed);
        let failed = context.failed().take();
        let late = || format!("Kafka did not acknowledge {} events within {} s", events.len() as u64 - sent, ANSWER_MAX.as_secs());
        let failed = failed.or_else(|| (sent < events.len() as u64).then(late));
        Replayed { sent, failed }
    }

    fn ends(&self, producer: &Sending) -> bool {
        self.stop.load(Ordering::Relaxed) || producer.context().failed().is_some()
    }
}
