//! One librdkafka producer, the thread that polls it, and what it says.

use super::keeper::Line;
use super::{Mailbox, Report};
use crate::kafka::client::{Voice, drop_within_limit};
use crate::kafka::errors::{class, reason};
use gateway::dialect::Outgoing;
use gateway::ids::{ProducerId, Seq};
use gateway::io::{Delivery, FailureClass};
use gateway::request::EventType;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig};
use rdkafka::{ClientConfig, ClientContext, Message};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long `poll` runs before the polling thread looks whether it shall end. Reports do not wait for it.
const POLL: Duration = Duration::from_millis(250);

/// A producer and the thread that polls it.
pub(super) struct Handle {
    producer: Arc<BaseProducer<Context>>,
    poller: JoinHandle<()>,
}

impl Handle {
    /// Makes one; `made_for` names it in its reports.
    pub(super) fn make(
        made_for: ProducerId,
        config: &ClientConfig,
        report: Report,
        line: Arc<Line>,
        voice: Arc<Voice>,
    ) -> Result<Handle, String> {
        let context = Context {
            voice,
            mailbox: Arc::new(Mailbox::new(made_for)),
            broken: AtomicBool::new(false),
            given_up: OnceLock::new(),
            ended: AtomicBool::new(false),
            report,
            line,
        };
        let made = BaseProducer::<Context, NoCustomPartitioner>::from_config_and_context(config, context);
        let producer = Arc::new(made.map_err(|error| reason(&error))?);
        let polled = Arc::clone(&producer);
        let poll = move || {
            while !polled.context().ended.load(Ordering::Relaxed) {
                polled.poll(POLL);
            }
        };
        let poller = std::thread::Builder::new().name("kafka-up".into()).spawn(poll).map_err(|error| error.to_string())?;
        Ok(Handle { producer, poller })
    }

    /// Where it reports.
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.producer.context().mailbox
    }

    /// Hands an event over, unless one before it failed: then nothing may follow, or it would overtake.
    ///
    /// # Errors
    /// What to report, with the ticket back. The handle takes nothing any more.
    pub(super) fn send(&self, topic: &str, event: &Outgoing<'_>, ticket: Box<Ticket>) -> Result<(), (Box<Ticket>, Delivery)> {
        let context = self.producer.context();
        if context.broken.load(Ordering::Relaxed) {
            let reason = "an earlier event of this producer failed".into();
            return Err((ticket, Delivery::Failed { class: FailureClass::Hold, reason }));
        }
        let headers = event.headers.iter().fold(OwnedHeaders::new_with_capacity(event.headers.len()), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_bytes()) })
        });
        let record = BaseRecord::with_opaque_to(topic, ticket).key(event.key).payload(&event.value).headers(headers);
        self.producer.send(record).map_err(|(error, record)| {
            context.broken.store(true, Ordering::Relaxed);
            (record.delivery_opaque, failed(&error))
        })
    }

    /// The producer alone, for questions that take long: to be asked without holding a lock.
    pub(super) fn producer(&self) -> Arc<BaseProducer<Context>> {
        Arc::clone(&self.producer)
    }

    /// From now on whatever fails fails for this reason, and needs a person.
    pub(super) fn refuse(&self, why: &str) {
        self.producer.context().given_up.get_or_init(|| (FailureClass::Person, why.to_owned()));
    }

    /// Takes and sends nothing any more; what it holds fails, and a new handle will do.
    pub(super) fn give_up(&self, why: &str) {
        let context = self.producer.context();
        context.given_up.get_or_init(|| (FailureClass::Recreate, why.to_owned()));
        context.broken.store(true, Ordering::Relaxed);
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }

    /// Drops all that is queued or in flight, then the producer; `false` if it hangs and was left behind, purged: it sends nothing any
    /// more.
    pub(super) fn retire(self) -> bool {
        self.producer.context().ended.store(true, Ordering::Relaxed);
        self.producer.purge(PurgeConfig::default().queue().inflight());
        drop_within_limit("uplink", move || {
            // A poller that panicked polls no more either.
            let _ = self.poller.join();
            drop(self.producer);
        })
    }
}

/// What goes with a message and comes back with its report.
pub(super) struct Ticket {
    pub(super) seq: Seq,
    pub(super) event_type: EventType,
    pub(super) sent: Instant,
}

pub(super) struct Context {
    voice: Arc<Voice>,
    mailbox: Arc<Mailbox>,
    /// An event failed: nothing behind it may be taken, or it would overtake.
    broken: AtomicBool,
    /// What was purged failed for this reason.
    given_up: OnceLock<(FailureClass, String)>,
    /// The poller shall end.
    ended: AtomicBool,
    report: Report,
    line: Arc<Line>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What is dropped complains of the gap that this leaves.
        if !self.ended.load(Ordering::Relaxed) {
            self.voice.log(level, facility, message);
        }
    }

    fn error(&self, error: KafkaError, text: &str) {
        if !self.ended.load(Ordering::Relaxed) {
            self.voice.error(error, text);
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let outcome = match result {
            Ok(message) => {
                tracing::trace!(seq = ticket.seq.0, partition = message.partition(), offset = message.offset(), "acknowledged");
                self.line.acknowledged();
                Delivery::Acknowledged { partition: message.partition(), offset: message.offset() }
            }
            Err((error, _)) => {
                self.broken.store(true, Ordering::Relaxed);
                match self.given_up.get() {
                    Some((class, why)) => Delivery::Failed { class: *class, reason: why.clone() },
                    None => failed(error),
                }
            }
        };
        self.mailbox.post(&self.report, &ticket, outcome);
    }
}

fn failed(error: &KafkaError) -> Delivery {
    let class = class(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown));
    Delivery::Failed { class, reason: reason(error) }
}
