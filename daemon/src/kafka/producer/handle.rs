//! One librdkafka producer, the thread that polls it, and what it says.

use super::keeper::Line;
use super::transactions::{Handed, Queue, Shared, Transactions};
use super::{Mailbox, Report};
use crate::kafka::client::{Voice, drop_within_limit};
use crate::kafka::errors::{class, reason};
use gateway::dialect::Outgoing;
use gateway::event::OrderEvent;
use gateway::ids::{ProducerId, Seq};
use gateway::io::{Delivery, FailureClass};
use gateway::request::EventType;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig};
use rdkafka::{ClientConfig, ClientContext, Message};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long `poll` runs before the polling thread looks whether it shall end. Reports do not wait for it.
const POLL: Duration = Duration::from_millis(250);

/// A producer and the thread that polls it.
pub(super) struct Handle {
    producer: Arc<BaseProducer<Context>>,
    poller: JoinHandle<()>,
    /// Of a handle that delivers exactly once.
    transactions: Option<(Arc<Queue>, JoinHandle<()>)>,
}

impl Handle {
    /// Makes one; `made_for` names it in its reports. One with transactions reports by itself when it is ready.
    pub(super) fn make(
        made_for: ProducerId,
        config: &ClientConfig,
        report: Report,
        line: Arc<Line>,
        voice: Arc<Voice>,
        once: Option<&Arc<Shared>>,
    ) -> Result<Handle, String> {
        let (reports, reported) = channel();
        let report_to = Arc::clone(&report);
        let context = Context {
            transaction: once.map(|_| reports),
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
        let spawn =
            |name: &str, run: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| e.to_string());
        let poller = spawn("kafka-up", Box::new(poll))?;
        let transactions = once.map(|shared| {
            let queue = Arc::new(Queue::new(shared));
            let (shared, producer, filled) = (Arc::clone(shared), Arc::clone(&producer), Arc::clone(&queue));
            let transactions = Transactions { id: made_for, shared, producer, queue, reported, report: report_to };
            Ok::<_, String>((filled, spawn("kafka-commit", Box::new(move || transactions.run()))?))
        });
        Ok(Handle { transactions: transactions.transpose()?, producer, poller })
    }

    /// Where it reports.
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.producer.context().mailbox
    }

    /// Hands an event over, unless one before it failed: then nothing may follow, or it would overtake.
    ///
    /// # Errors
    /// What to report, with the ticket back. The handle takes nothing any more.
    pub(super) fn send<'e>(
        &self,
        topic: &str,
        encode: impl FnOnce() -> Outgoing<'e>,
        event: &'e Arc<OrderEvent>,
        ticket: Box<Ticket>,
    ) -> Result<(), (Box<Ticket>, Delivery)> {
        let context = self.producer.context();
        if context.broken.load(Ordering::Relaxed) {
            let reason = "an earlier event of this producer failed".into();
            return Err((ticket, Delivery::Failed { class: FailureClass::Hold, reason }));
        }
        if let Some((queue, _)) = &self.transactions {
            let refused = |handed: Handed| (handed.ticket, failed(&KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)));
            return queue.push(Handed { ticket, event: Arc::clone(event) }).map_err(refused);
        }
        let outgoing = encode();
        self.producer.send(record(topic, &outgoing, None, ticket)).map_err(|(error, record)| {
            context.broken.store(true, Ordering::Relaxed);
            (record.delivery_opaque, failed(&error))
        })
    }

    /// Events that it holds.
    pub(super) fn waiting(&self) -> usize {
        let queued = self.transactions.as_ref().map_or(0, |(queue, _)| queue.len());
        queued + usize::try_from(self.producer.in_flight_count()).unwrap_or_default()
    }

    /// Waits at most so long until Kafka has all that it holds.
    pub(super) fn flush(&self, limit: Duration) {
        match &self.transactions {
            Some((queue, _)) => queue.wait_until_idle(limit),
            None => {
                if let Err(error) = self.producer.flush(limit) {
                    tracing::info!(reason = reason(&error), "events in flight stay in the outbox");
                }
            }
        }
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
        if let Some((queue, _)) = &self.transactions {
            queue.shut();
        }
        drop_within_limit("uplink", move || {
            // A thread that panicked does nothing more either.
            let _ = self.poller.join();
            if let Some((_, thread)) = self.transactions {
                let _ = thread.join();
            }
            drop(self.producer);
        })
    }
}

/// A record of an event, with one more header if there is one.
pub(super) fn record<'a>(
    topic: &'a str,
    event: &'a Outgoing<'_>,
    more: Option<(&str, &str)>,
    ticket: Box<Ticket>,
) -> BaseRecord<'a, str, [u8], Box<Ticket>> {
    let own = event.headers.iter().map(|(key, value)| (*key, value.as_ref()));
    let headers = own.chain(more).fold(OwnedHeaders::new_with_capacity(event.headers.len() + 1), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value.as_bytes()) })
    });
    BaseRecord::with_opaque_to(topic, ticket).key(event.key).payload(event.value.as_slice()).headers(headers)
}

/// What goes with a message and comes back with its report.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) seq: Seq,
    pub(super) event_type: EventType,
    pub(super) sent: Instant,
}

/// What became of an event within a transaction.
pub(super) struct Reported {
    pub(super) seq: Seq,
    /// Partition and offset, or why not.
    pub(super) outcome: Result<(i32, i64), (FailureClass, String)>,
}

pub(super) struct Context {
    /// Who waits for the reports of a transaction.
    transaction: Option<Sender<Reported>>,
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

impl Context {
    /// The handle takes nothing any more.
    pub(super) fn breaks(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// The handle is being dropped.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Why the handle was given up, if it was.
    pub(super) fn given_up(&self) -> Option<(FailureClass, String)> {
        self.given_up.get().cloned()
    }

    /// Tells what became of an event.
    pub(super) fn post(&self, ticket: &Ticket, outcome: Delivery) {
        self.mailbox.post(&self.report, ticket, outcome);
    }
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
                self.breaks();
                match self.given_up() {
                    Some((class, reason)) => Delivery::Failed { class, reason },
                    None => failed(error),
                }
            }
        };
        let Some(transaction) = &self.transaction else { return self.post(&ticket, outcome) };
        let outcome = match outcome {
            Delivery::Acknowledged { partition, offset } => Ok((partition, offset)),
            Delivery::Failed { class, reason } => Err((class, reason)),
        };
        // A thread that has ended told already that all of its events failed.
        let _ = transaction.send(Reported { seq: ticket.seq, outcome });
    }
}

fn failed(error: &KafkaError) -> Delivery {
    let class = class(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown));
    Delivery::Failed { class, reason: reason(error) }
}
