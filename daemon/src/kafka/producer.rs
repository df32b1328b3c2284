//! The uplink: hands events to librdkafka and reports what became of each.
//!
//! It promises: what one handle acknowledges, it acknowledges in seq order per partition, and after the first event that fails for good
//! it takes none of those behind it (`enable.gapless.guarantee`: a fatal error instead of a silent reorder). A new handle is reported
//! ready only when the older one sends nothing any more. It never gives an event up by itself (`message.timeout.ms = 0`): the outbox
//! bounds what waits, and the core decides about whatever comes back.

mod handle;
mod keeper;
mod resume;
mod transactions;

use super::client::{Connection, LINE_DOWN, Renewal, shown};
use super::gate::Gate;
use super::holes::{Ports, Watch};
use crate::config::{self, Config};
use gateway::dialect::Dialect;
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, Name, ProducerId, Seq};
use gateway::io::{Delivery, FailureClass};
use gateway::request::EventType;
use gateway::settings::Limits;
use handle::{Handle, Ticket};
use keeper::{Command, Keeper, Line};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use store::Place;

/// Commands that wait for the keeper. The core asks for one producer at a time; beyond it a new producer is refused.
const COMMANDS_MAX: usize = 4;
/// librdkafka counts values only; an encoded value is larger than the event's weight by the envelope, at most by this.
pub(super) const ENVELOPE_BYTES_MAX: usize = 1024;

/// What the uplink needs to know.
#[derive(Debug, Clone)]
pub struct UplinkSettings {
    /// How the brokers are reached, and what goes there.
    pub connection: Connection,
    /// `centre.dialect`.
    pub dialect: Dialect,
    /// The core's `window_events_max`: librdkafka's queue is made larger, so that it is never full.
    pub window_events_max: usize,
    /// The core's `window_bytes_max`, likewise.
    pub window_bytes_max: usize,
    /// `uplink.delivery = "exactly-once"`; `None` is at least once.
    pub once: Option<ExactlyOnce>,
}

/// What transactions need.
#[derive(Debug, Clone)]
pub struct ExactlyOnce {
    /// `store.data_dir`: there the intents are written.
    pub data_dir: PathBuf,
    /// Of this start.
    pub epoch: Epoch,
    /// `uplink.transaction_seconds`: brokers end a transaction that is open for longer.
    pub transaction_limit: Duration,
}

impl ExactlyOnce {
    /// What a config says; `None` if it wants at least once.
    pub fn of(config: &Config, epoch: Epoch) -> Option<ExactlyOnce> {
        match config.delivery {
            config::Delivery::AtLeastOnce => None,
            config::Delivery::ExactlyOnce { transaction_s } => {
                Some(ExactlyOnce { data_dir: config.store.data_dir.clone(), epoch, transaction_limit: Duration::from_secs(transaction_s) })
            }
        }
    }
}

/// What the uplink tells. The callback that takes it runs on the uplink's threads and inside [`Uplink::deliver`]: it must not block.
#[derive(Debug, Clone)]
pub enum UplinkReport {
    /// Reports wait in the mailbox. Said when the first comes into an empty one: whoever takes them takes all that came meanwhile.
    Delivered(Arc<Mailbox>),
    /// The handle is there, and the older one is gone with all that it held.
    Ready {
        /// The handle that was asked for.
        producer: ProducerId,
        /// Kafka has all up to it; `None` if Kafka was not asked.
        delivered: Option<Seq>,
    },
    /// The handle could not be made.
    Failed {
        /// The handle that was asked for.
        producer: ProducerId,
        /// What kind of failure.
        class: FailureClass,
        /// For people.
        reason: String,
    },
    /// What the store knows of a seq, and whether it knows an epoch. A reply that is dropped says that it cannot tell.
    Place {
        /// The seq.
        seq: Seq,
        /// The epoch.
        epoch: Epoch,
        /// Has room for the answer.
        reply: SyncSender<(Place, bool)>,
    },
    /// So many events were sent that Kafka may have had already; each is marked.
    RepeatsPossible(u64),
    /// The line to the brokers came up or went down.
    Line {
        /// Which of the two.
        up: bool,
    },
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Its position.
    pub seq: Seq,
    /// Its type, for metrics.
    pub event_type: EventType,
    /// From [`Uplink::deliver`] to the report.
    pub took: Duration,
    /// The outcome.
    pub outcome: Delivery,
}

/// Reports of one handle that nobody has taken yet: at most as many as the core has in flight.
#[derive(Debug)]
pub struct Mailbox {
    producer: ProducerId,
    waiting: Mutex<Vec<Delivered>>,
}

impl Mailbox {
    fn new(producer: ProducerId) -> Mailbox {
        Mailbox { producer, waiting: Mutex::default() }
    }

    /// The handle that reports.
    pub fn producer(&self) -> ProducerId {
        self.producer
    }

    /// Takes all reports, in the order in which they came.
    pub fn take(&self) -> Vec<Delivered> {
        let mut waiting = lock(&self.waiting);
        // As many are likely to come next.
        let next = Vec::with_capacity(waiting.len());
        std::mem::replace(&mut *waiting, next)
    }

    fn post(self: &Arc<Self>, report: &Report, ticket: &Ticket, outcome: Delivery) {
        let first = {
            let mut waiting = lock(&self.waiting);
            waiting.push(Delivered { seq: ticket.seq, event_type: ticket.event_type, took: ticket.sent.elapsed(), outcome });
            waiting.len() == 1
        };
        if first {
            report(UplinkReport::Delivered(Arc::clone(self)));
        }
    }
}

type Report = Arc<dyn Fn(UplinkReport) + Send + Sync>;

/// The uplink. Its methods never block, but for [`Uplink::stop`].
pub struct Uplink {
    gateway: Name,
    topic: String,
    dialect: Dialect,
    report: Report,
    current: Arc<Mutex<Current>>,
    commands: SyncSender<Command>,
    keeper: JoinHandle<()>,
    line: Arc<Line>,
    gate: Gate,
    _watch: Watch,
}

/// What takes events now.
#[derive(Default)]
enum Current {
    #[default]
    Nothing,
    Handle(Handle),
    /// The brokers refuse us, or we them: every event fails until a new handle is tried.
    Refused {
        mailbox: Arc<Mailbox>,
        why: String,
        until: Instant,
    },
    /// The outage lasts: every event fails until the line is back.
    Away {
        mailbox: Arc<Mailbox>,
        /// The core waits to hear that the handle is there.
        asked: bool,
    },
}

impl Current {
    fn handle(&self) -> Option<&Handle> {
        match self {
            Current::Handle(handle) => Some(handle),
            Current::Nothing | Current::Refused { .. } | Current::Away { .. } => None,
        }
    }
}

impl Uplink {
    /// Starts the uplink's threads, without a producer: [`Uplink::new_producer`] makes one, and is to be called as well when a `renewal`
    /// was put down.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(settings: UplinkSettings, renewal: Renewal, report: Report) -> io::Result<Uplink> {
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let gate = renewal.gate().clone();
        let ports = Ports::default();
        ports.add(settings.connection.kafka.brokers.iter().map(|broker| broker.0.port));
        let watch = Watch::start(ports.clone())?;
        let (current, line) = (Arc::default(), Arc::new(Line::new(Arc::clone(&report), gate.clone())));
        let uplink_keeper =
            Keeper::new((settings.clone(), renewal, ports), inbox, Arc::clone(&current), Arc::clone(&report), Arc::clone(&line));
        let keeper = std::thread::Builder::new().name("kafka-keeper".into()).spawn(move || uplink_keeper.run())?;
        let UplinkSettings { connection: Connection { gateway, kafka }, dialect, .. } = settings;
        Ok(Uplink { gateway, topic: kafka.topic.to_string(), dialect, report, current, commands, keeper, line, gate, _watch: watch })
    }

    /// Drops the handle with all that it holds, then makes a new one. [`UplinkReport::Ready`] or [`UplinkReport::Failed`] follows.
    /// Until then the older handle may still report.
    pub fn new_producer(&self, producer: ProducerId) {
        if self.commands.try_send(Command::New(producer)).is_err() {
            let reason = "the uplink is still busy with an older handle".into();
            (self.report)(UplinkReport::Failed { producer, class: FailureClass::Hold, reason });
        }
    }

    /// Hands an event over. What comes of it is reported, unless the handle is not the current one any more.
    pub fn deliver(&self, producer: ProducerId, seq: Seq, event: &Arc<OrderEvent>) {
        let ticket = Box::new(Ticket { seq, event_type: event.event_type, sent: Instant::now() });
        let current = lock(&self.current);
        let (mailbox, failure) = match &*current {
            Current::Handle(handle) if handle.mailbox().producer == producer => {
                let encode = || self.dialect.encode(&self.gateway, seq, event);
                (handle.mailbox(), handle.send(&self.topic, encode, event, ticket).err())
            }
            Current::Refused { mailbox, why, .. } if mailbox.producer == producer => {
                (mailbox, Some((ticket, Delivery::Failed { class: FailureClass::Person, reason: why.clone() })))
            }
            Current::Away { mailbox, .. } if mailbox.producer == producer => {
                (mailbox, Some((ticket, Delivery::Failed { class: FailureClass::Hold, reason: LINE_DOWN.into() })))
            }
            Current::Nothing | Current::Handle(_) | Current::Refused { .. } | Current::Away { .. } => return,
        };
        let mailbox = Arc::clone(mailbox);
        // The callback must be free to call the uplink.
        drop(current);
        if let Some((ticket, outcome)) = failure {
            mailbox.post(&self.report, &ticket, outcome);
        }
    }

    /// Whether a broker answered lately.
    pub fn is_up(&self) -> bool {
        self.line.is_up()
    }

    /// Since when the line is down and when it is tried next, for people; `None` while it is up.
    pub fn outage(&self, wall_ms: Option<i64>) -> Option<String> {
        self.gate.sentence(wall_ms)
    }

    /// Waits at most `flush` for what is in flight, drops the handle and ends the threads. What is not acknowledged stays in the outbox.
    pub fn stop(self, flush: Duration) {
        if self.commands.send(Command::Stop(flush)).is_ok() && self.keeper.join().is_err() {
            tracing::error!("kafka keeper panicked");
        }
    }
}

impl UplinkSettings {
    /// What a config decides for the uplink.
    pub fn new(connection: Connection, dialect: Dialect, limits: &Limits, once: Option<ExactlyOnce>) -> UplinkSettings {
        let Limits { window_events_max, window_bytes_max, .. } = *limits;
        UplinkSettings { connection, dialect, window_events_max, window_bytes_max, once }
    }

    /// What librdkafka is given, by name. Secrets are hidden.
    pub fn librdkafka(&self) -> BTreeMap<String, String> {
        shown(&self.config())
    }

    pub(super) fn config(&self) -> rdkafka::ClientConfig {
        let messages = (self.window_events_max * 2).to_string();
        let kbytes = ((self.window_bytes_max + self.window_events_max * ENVELOPE_BYTES_MAX) / 1024 + 1).to_string();
        let kafka = &self.connection.kafka;
        // librdkafka waits at most so long for a full batch. While one is on its way and the next has waited for longer, its thread spins
        // instead of sleeping: with 5 ms that is most of a drain. A transaction waits so long each time.
        let linger_ms = if self.once.is_some() { "5" } else { "100" };
        let mut config = self.connection.config(
            &[
                ("linger.ms", linger_ms),
                // A batch of 1 MB, the default, never gets through a line of 64 kbit/s.
                ("batch.size", "65536"),
                ("max.in.flight.requests.per.connection", "5"),
                ("queue.buffering.max.messages", &messages),
                ("queue.buffering.max.kbytes", &kbytes),
            ],
            &[
                ("enable.idempotence", "true"),
                ("acks", "all"),
                ("partitioner", kafka.partitioner.as_str()),
                ("compression.type", kafka.compression.as_str()),
            ],
        );
        let Some(once) = &self.once else {
            config.set("enable.gapless.guarantee", "true").set("message.timeout.ms", "0");
            return config;
        };
        // An event fails with its transaction, at the latest when that one's time is over; no request may take longer.
        let limit_ms = once.transaction_limit.as_millis();
        let request_ms = config.get("socket.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(limit_ms).min(limit_ms);
        config.set("socket.timeout.ms", request_ms.to_string());
        config.set("transactional.id", transactions::transactional_id(&self.connection));
        config.set("transaction.timeout.ms", limit_ms.to_string());
        config
    }
}

/// No one panics while holding one of these locks, and what they guard is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
