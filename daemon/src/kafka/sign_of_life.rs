//! The sign of life: the gateway's latest state on `gateway-status`, so that the centre sees a dark store.
//!
//! It has a small producer of its own. Through the uplink's it could hurt: there, a state that is refused for good (a topic that was
//! never made, a denied one) would stop the orders, for a gap is fatal to it. Nothing is ever queued: one state is on its way at most,
//! and what was told meanwhile is replaced by what is told later.

use super::client::{Connection, Refused, Renewal, Voice, drop_within_limit};
use super::errors::reason;
use super::stranger::{Heard, Watch};
use gateway::ids::Epoch;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The state is sent again after this time, even if nobody told a newer one.
const EVERY: Duration = Duration::from_secs(60);
/// Changes are sent no more often than this: 10,000 gateways share the topic.
const GAP: Duration = Duration::from_secs(5);
/// A state that is not acknowledged within this time is given up.
const LIMIT: Duration = Duration::from_secs(30);
/// How often the thread looks for the acknowledgement.
const POLL: Duration = Duration::from_millis(100);

/// Sends the latest state every [`EVERY`] and on change.
pub struct SignOfLife {
    desk: Arc<Desk>,
    heard: Heard,
    thread: JoinHandle<()>,
}

/// Where the latest state lies.
#[derive(Default)]
struct Desk {
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Default)]
struct Told {
    latest: Option<String>,
    unsent: bool,
    stop: bool,
}

impl Desk {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `limit` has passed or `until` holds.
    fn wait(&self, limit: Duration, until: impl Fn(&Told) -> bool) -> MutexGuard<'_, Told> {
        let (told, _) = self.changed.wait_timeout_while(self.told(), limit, |told| !until(told)).unwrap_or_else(PoisonError::into_inner);
        told
    }
}

impl SignOfLife {
    /// Starts the thread. Nothing is sent before the first state is told.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(connection: Connection, renewal: Renewal, topic: String, boot: Epoch) -> io::Result<SignOfLife> {
        let (desk, heard) = (Arc::<Desk>::default(), Heard::default());
        let watch = Watch::new(connection.clone(), topic.clone(), boot, heard.clone());
        let sender = Sender { connection, renewal, topic, desk: Arc::clone(&desk), producer: None, trouble: None, watch };
        let thread = std::thread::Builder::new().name("kafka-status".into()).spawn(move || sender.run())?;
        Ok(SignOfLife { desk, heard, thread })
    }

    /// Tells a new state, JSON text. Never blocks for longer than it takes to copy a pointer; the latest wins.
    pub fn tell(&self, state: String) {
        let mut told = self.desk.told();
        (told.latest, told.unsent) = (Some(state), true);
        drop(told);
        self.desk.changed.notify_one();
    }

    /// The start of another gateway that is at work under our id.
    pub fn stranger(&self) -> Option<String> {
        self.heard.of()
    }

    /// Ends the thread. A state on its way may still arrive.
    pub fn stop(self) {
        self.desk.told().stop = true;
        self.desk.changed.notify_one();
        if self.thread.join().is_err() {
            tracing::error!("kafka sign of life panicked");
        }
    }
}

struct Context {
    voice: Voice,
    refused: Arc<Refused>,
    reported: AtomicBool,
    outcome: Mutex<Outcome>,
}

/// Where the record is, or why it is not there.
type Outcome = Result<(i32, i64), String>;

impl Context {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, outcome: Outcome) {
        *self.outcome() = outcome;
        self.reported.store(true, Ordering::Release);
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
        let place = result.as_ref().map(|record| (record.partition(), record.offset()));
        self.settle(place.map_err(|(error, _)| reason(error)));
    }
}

struct Sender {
    connection: Connection,
    renewal: Renewal,
    topic: String,
    desk: Arc<Desk>,
    producer: Option<BaseProducer<Context>>,
    trouble: Option<String>,
    watch: Watch,
}

impl Sender {
    fn run(mut self) {
        while let Some(state) = self.next() {
            // In an outage that lasts nobody but the uplink dials, and that one says so.
            if self.renewal.gate().is_shut() {
                self.watch.drop_consumer();
            } else {
                let sent = self.send(&state);
                if self.desk.told().stop {
                    break;
                }
                match &sent {
                    Ok((partition, offset)) => {
                        let desk = Arc::clone(&self.desk);
                        self.watch.sent(*partition, *offset, || desk.told().stop);
                    }
                    // It keeps the password with which it was made, and would go on dialing.
                    Err(_) => self.drop_producer(),
                }
                self.note(sent.err());
            }
            drop(self.desk.wait(GAP, |told| told.stop));
        }
        self.drop_producer();
        self.watch.drop_consumer();
    }

    fn drop_producer(&mut self) {
        if let Some(producer) = self.producer.take() {
            drop_within_limit("sign of life", move || drop(producer));
        }
    }

    /// The next state to send; `None` at the end.
    fn next(&self) -> Option<String> {
        loop {
            let mut told = self.desk.wait(EVERY - GAP, |told| told.stop || told.unsent);
            if told.stop {
                return None;
            }
            if let Some(state) = &told.latest {
                let state = state.clone();
                told.unsent = false;
                return Some(state);
            }
        }
    }

    fn send(&mut self, state: &str) -> Outcome {
        if let Some(connection) = self.renewal.take() {
            self.drop_producer();
            self.watch.renew(&connection);
            self.connection = connection;
        }
        let producer = match &self.producer {
            Some(producer) => producer,
            None => self.producer.insert(make(&self.connection)?),
        };
        let context = producer.context();
        context.reported.store(false, Ordering::Relaxed);
        let record = BaseRecord::to(&self.topic).key(self.connection.gateway.as_str()).payload(state);
        producer.send(record).map_err(|(error, _)| reason(&error))?;
        // librdkafka reports in any case once LIMIT has passed.
        while !context.reported.load(Ordering::Acquire) && !self.desk.told().stop {
            producer.poll(POLL);
        }
        let outcome = context.outcome().clone();
        if outcome.is_ok() {
            context.refused.clear();
        }
        outcome
    }

    /// Says once what is wrong, and once that it is well again.
    fn note(&mut self, failure: Option<String>) {
        match (&failure, &self.trouble) {
            (Some(reason), before) if before.as_ref() != Some(reason) => {
                tracing::warn!(topic = self.topic, reason, "the gateway's state could not be sent");
            }
            (None, Some(_)) => tracing::info!(topic = self.topic, "the gateway's state is sent again"),
            (Some(_), Some(_) | None) | (None, None) => {}
        }
        self.trouble = failure;
    }
}

fn make(connection: &Connection) -> Result<BaseProducer<Context>, String> {
    let refused = Arc::<Refused>::default();
    let heard = Arc::clone(&refused);
    let voice = Voice::new("sign of life", move |code, text| heard.hear(code, text));
    let context = Context { voice, refused, reported: AtomicBool::new(false), outcome: Mutex::new(Err(String::new())) };
    let limit = LIMIT.as_millis().to_string();
    let promises = [("message.timeout.ms", limit.as_str()), ("queue.buffering.max.messages", "1"), ("linger.ms", "0")];
    let config = connection.config(&[("acks", "1"), ("partitioner", "murmur2_random")], &promises);
    BaseProducer::<Context, NoCustomPartitioner>::from_config_and_context(&config, context).map_err(|error| reason(&error))
}
