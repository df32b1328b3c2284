//! The dead letter topic: what is kept beside the outbox is told here as well, so that whoever reads both topics can account for every
//! seq.
//!
//! It has a small producer of its own: what is refused here must not stop the orders. A batch is told whole or told again: a repeat has
//! the same gateway, epoch and seq in its headers. A record that is refused for good, alone, goes out once more without its value, which
//! is most often what is wrong with it; the headers account for it.

use super::client::{Connection, LINE_DOWN, Refused, Renewal, Voice, drop_within_limit};
use super::errors::{class, reason};
use gateway::dialect::Dialect;
use gateway::event::OrderEvent;
use gateway::ids::Seq;
use gateway::io::{DeadLetter, FailureClass};
use gateway::time::rfc3339;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use store::KeptEvent;

/// A record that is not acknowledged within this time is told again with its whole batch.
const LIMIT_MS: &str = "30000";
/// The producer is kept so long for the next batch.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How often the thread looks for acknowledgements.
const POLL: Duration = Duration::from_millis(100);

/// Events to tell of, and the seq up to which all is told then.
#[derive(Debug)]
pub struct Tell {
    /// By seq.
    pub events: Vec<(Seq, KeptEvent)>,
    /// All at or below it is accounted for.
    pub upto: Seq,
}

/// What the topic needs to know.
pub struct DeadLetterSettings {
    /// How the brokers are reached.
    pub connection: Connection,
    /// How they shall be reached instead, once it is put down.
    pub renewal: Renewal,
    /// `centre.dialect`: a record's value is that of the event on its own topic.
    pub dialect: Dialect,
    /// `kafka.dead_letter_topic`.
    pub topic: String,
}

type Report = Box<dyn Fn(Result<Seq, String>) + Send>;

/// The thread that tells.
pub struct DeadLetterTopic {
    batches: SyncSender<Tell>,
    thread: JoinHandle<()>,
}

impl DeadLetterTopic {
    /// Starts the thread. `report` hears of each batch: up to where all is told, or why it was not.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(settings: DeadLetterSettings, report: impl Fn(Result<Seq, String>) + Send + 'static) -> io::Result<DeadLetterTopic> {
        // One batch at a time is asked for.
        let (batches, inbox) = sync_channel(1);
        let teller = Teller { settings, producer: None, report: Box::new(report) };
        let thread = std::thread::Builder::new().name("kafka-dead".into()).spawn(move || teller.run(&inbox))?;
        Ok(DeadLetterTopic { batches, thread })
    }

    /// Hands a batch over; the one before must have been reported.
    pub fn tell(&self, batch: Tell) {
        // A thread that has ended reports nothing, and what is not told is told at the next start.
        let _ = self.batches.try_send(batch);
    }

    /// Ends the thread, which may take as long as a batch; what is on its way is told again at the next start.
    pub fn stop(self) {
        drop(self.batches);
        // It waits for a broker at most: not worth holding up the end of the daemon.
        drop(self.thread);
    }
}

struct Context {
    voice: Voice,
    refused: Arc<Refused>,
    outcomes: Mutex<Outcomes>,
}

/// What became of the records of a round.
#[derive(Default)]
struct Outcomes {
    acknowledged: usize,
    failed: Vec<(usize, RDKafkaErrorCode, String)>,
}

impl Context {
    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
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
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        let mut outcomes = self.outcomes();
        match result {
            Ok(_) => outcomes.acknowledged += 1,
            Err((error, _)) => outcomes.failed.push((place, code(error), reason(error))),
        }
    }
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}

struct Teller {
    settings: DeadLetterSettings,
    producer: Option<BaseProducer<Context>>,
    report: Report,
}

impl Teller {
    fn run(mut self, inbox: &Receiver<Tell>) {
        loop {
            match inbox.recv_timeout(IDLE_MAX) {
                Ok(Tell { events, upto }) => {
                    let told = self.tell(&events);
                    if told.is_err() {
                        // It keeps the password and the certificates with which it was made, and may hang on a topic that was made anew.
                        self.drop_producer();
                    }
                    (self.report)(told.map(|()| upto));
                }
                Err(RecvTimeoutError::Timeout) => self.drop_producer(),
                Err(RecvTimeoutError::Disconnected) => return self.drop_producer(),
            }
        }
    }

    fn drop_producer(&mut self) {
        if let Some(producer) = self.producer.take() {
            drop_within_limit("dead letters", move || drop(producer));
        }
    }

    fn tell(&mut self, events: &[(Seq, KeptEvent)]) -> Result<(), String> {
        for place in self.send(events, true)? {
            // A batch is refused whole for one that is too large.
            let alone = std::slice::from_ref(&events[place]);
            if !self.send(alone, true)?.is_empty() && !self.send(alone, false)?.is_empty() {
                return Err(format!("it refuses even the headers of seq {}", events[place].0));
            }
        }
        Ok(())
    }

    /// Sends all of them and waits for what becomes of each; gives the places of those that are refused for good.
    fn send(&mut self, events: &[(Seq, KeptEvent)], with_value: bool) -> Result<Vec<usize>, String> {
        if let Some(connection) = self.settings.renewal.take() {
            self.drop_producer();
            self.settings.connection = connection;
        }
        let DeadLetterSettings { connection, dialect, topic, renewal } = &self.settings;
        if renewal.gate().is_shut() {
            return Err(LINE_DOWN.into());
        }
        let producer = match &self.producer {
            Some(producer) => producer,
            None => self.producer.insert(make(connection)?),
        };
        let context = producer.context();
        *context.outcomes() = Outcomes::default();
        for (place, (seq, kept)) in events.iter().enumerate() {
            let (event, fate) = match kept {
                KeptEvent::Letter(DeadLetter { event, reason, since_ms, attempts }) => {
                    let fate = [("reason", reason.clone()), ("since", rfc3339(*since_ms)), ("attempts", attempts.to_string())];
                    (event, fate.to_vec())
                }
                KeptEvent::Held { behind, event } => (event, vec![("behind", behind.to_string())]),
            };
            let outgoing = dialect.encode(&connection.gateway, *seq, event);
            let own = outgoing.headers.iter().map(|(name, value)| (*name, value.as_ref()));
            let headers = headers(own, connection.kafka.topic.as_str(), outgoing.key, event, &fate);
            let record = BaseRecord::with_opaque_to(topic, place).key(outgoing.key).headers(headers);
            let record = if with_value { record.payload(&outgoing.value) } else { record };
            producer.send(record).map_err(|(error, _)| reason(&error))?;
        }
        // librdkafka reports on each in any case once its time is over.
        while producer.in_flight_count() > 0 {
            producer.poll(POLL);
            if let Some((_, why)) = context.refused.lasting() {
                return Err(why);
            }
        }
        context.refused.clear();
        let Outcomes { acknowledged, failed } = std::mem::take(&mut *context.outcomes());
        if let Some((_, _, why)) = failed.iter().find(|(_, code, _)| class(*code) != FailureClass::ThisEvent) {
            return Err(why.clone());
        }
        debug_assert_eq!(acknowledged + failed.len(), events.len());
        Ok(failed.into_iter().map(|(place, ..)| place).collect())
    }
}

/// The headers that the event has on its own topic, and why it is here.
fn headers<'h>(
    own: impl Iterator<Item = (&'h str, &'h str)>,
    topic: &str,
    key: &str,
    event: &OrderEvent,
    fate: &[(&str, String)],
) -> OwnedHeaders {
    let state = if fate.len() == 1 { "held" } else { "dead" };
    let why = [("topic", topic), ("key", key), ("state", state), ("event-id", &gateway::request::uuid_text(&event.id))]
        .map(|(name, value)| (name, value.to_owned()));
    let own = own.fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    why.iter()
        .chain(fate)
        .fold(own, |headers, (name, value)| headers.insert(Header { key: &format!("dead-letter-{name}"), value: Some(value) }))
}

fn make(connection: &Connection) -> Result<BaseProducer<Context>, String> {
    let refused = Arc::<Refused>::default();
    let heard = Arc::clone(&refused);
    let voice = Voice::new("dead letters", move |code, text| heard.hear(code, text));
    let context = Context { voice, refused, outcomes: Mutex::default() };
    let promises = [("message.timeout.ms", LIMIT_MS), ("acks", "all"), ("enable.idempotence", "true")];
    let config = connection.config(&[("partitioner", connection.kafka.partitioner.as_str()), ("batch.size", "65536")], &promises);
    BaseProducer::<Context, NoCustomPartitioner>::from_config_and_context(&config, context).map_err(|error| reason(&error))
}
