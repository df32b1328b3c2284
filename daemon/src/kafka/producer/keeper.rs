//! What may take long and must not keep the event loop: making and dropping handles, and asking about the line.

use super::handle::{Context, Handle};
use super::transactions::Shared;
use super::{Current, Mailbox, Report, UplinkReport, UplinkSettings, lock};
use crate::kafka::client::{LINE_DOWN, REFUSED_PAUSE, Refused, Renewal, Voice, explained};
use crate::kafka::errors::{Refusal, reason};
use crate::kafka::gate::Gate;
use crate::kafka::holes::Ports;
use crate::kafka::{knock, topics};
use gateway::ids::ProducerId;
use gateway::io::FailureClass;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, Producer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Handles that hung while they were dropped. Beyond it no new one is made: each holds memory and connections.
const ABANDONED_MAX: u32 = 4;
/// The line is asked about this often while it is down …
const PROBE_DOWN: Duration = Duration::from_secs(2);
/// … and while it is up and something is on its way, unless an acknowledgement came meanwhile: a dead line says nothing by itself.
const PROBE_UP: Duration = Duration::from_secs(5);
/// While it is up and nothing is on its way.
const PROBE_IDLE: Duration = Duration::from_secs(15);
/// An answer to that is waited for this long.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked whether an attempt in an outage that lasts has succeeded.
const ATTEMPT_POLL: Duration = Duration::from_millis(100);
/// A new handle's first question for the topic's id is answered at once or never: the mock cluster does not.
const FIRST_ID_LIMIT: Duration = Duration::from_secs(1);
/// A broker that answers and acknowledges nothing, though events wait, is told of after this.
const STALLED: Duration = Duration::from_secs(20);
/// A handle that gives way to one with other settings may take so long for what it has on its way.
const RENEWAL_FLUSH: Duration = Duration::from_secs(2);
/// A refusal that stays the same is said again after this.
const REFUSED_SAY: Duration = Duration::from_secs(3600);

/// What the keeper is told.
pub(super) enum Command {
    /// Make a new handle, and drop the older one first.
    New(ProducerId),
    /// Wait at most so long for what is in flight, then end.
    Stop(Duration),
}

/// Whether the brokers can be reached.
pub(super) struct Line {
    up: AtomicBool,
    /// What was reported last.
    reported: Mutex<Option<bool>>,
    /// Something was acknowledged since the keeper last looked.
    acknowledged: AtomicBool,
    refused: Refused,
    /// Why a connection ended last.
    ended: Mutex<String>,
    report: Report,
    gate: Gate,
}

impl Line {
    pub(super) fn new(report: Report, gate: Gate) -> Line {
        Line {
            up: AtomicBool::new(false),
            reported: Mutex::default(),
            acknowledged: AtomicBool::new(false),
            refused: Refused::default(),
            ended: Mutex::default(),
            report,
            gate,
        }
    }

    /// An event was acknowledged.
    pub(super) fn acknowledged(&self) {
        self.acknowledged.store(true, Ordering::Relaxed);
        self.set(true, "an event was acknowledged");
    }

    /// A broker answered lately.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// What a client says about its connections.
    fn hear(&self, code: RDKafkaErrorCode, text: &str) {
        self.refused.hear(code, text);
        if code == RDKafkaErrorCode::AllBrokersDown {
            let why = lock(&self.ended).clone();
            self.set(false, if why.is_empty() { text } else { &why });
        } else {
            *lock(&self.ended) = explained(code, text);
        }
    }

    fn set(&self, up: bool, why: &str) {
        if up {
            self.refused.clear();
            self.gate.is_back();
        } else {
            self.gate.lost();
        }
        if up && self.is_up() || lock(&self.reported).replace(up) == Some(up) {
            return;
        }
        self.up.store(up, Ordering::Relaxed);
        match up {
            true => tracing::info!(why, "kafka is reached"),
            false => tracing::warn!(why, "kafka is out of reach"),
        }
        (self.report)(UplinkReport::Line { up });
    }
}

/// The topic's id, as the current handle found it.
enum TopicId {
    Unasked,
    Untold,
    Told(String),
}

/// Events wait and brokers answer, but acknowledge none of them.
enum Stall {
    No,
    Since(Instant),
    Said,
}

/// Makes and drops handles, and asks about the line: all that may take long.
pub(super) struct Keeper {
    settings: UplinkSettings,
    renewal: Renewal,
    /// Of an uplink that delivers exactly once.
    once: Option<Arc<Shared>>,
    inbox: Receiver<Command>,
    current: Arc<Mutex<Current>>,
    report: Report,
    line: Arc<Line>,
    abandoned: u32,
    /// When a broker last answered, as far as the keeper looked.
    answered: Instant,
    /// One for all handles: a new one begins with what the older one said already.
    voice: Arc<Voice>,
    topic_trouble: Option<RDKafkaErrorCode>,
    topic_id: TopicId,
    stall: Stall,
    /// The refusal that was said last, and when.
    refusal: Option<(Refusal, Instant)>,
    /// In an outage that lasts, the attempt that is under way.
    attempt: Option<Receiver<Result<(), String>>>,
    /// Of all brokers that are known.
    ports: Ports,
}

impl Keeper {
    pub(super) fn new(
        (settings, renewal, ports): (UplinkSettings, Renewal, Ports),
        inbox: Receiver<Command>,
        current: Arc<Mutex<Current>>,
        report: Report,
        line: Arc<Line>,
    ) -> Keeper {
        let heard = Arc::clone(&line);
        let voice = Arc::new(Voice::new("uplink", move |code, text| heard.hear(code, text)));
        let answered = Instant::now();
        let once = settings.once.clone().map(|once| Arc::new(Shared::new(&settings, once)));
        Keeper {
            settings,
            renewal,
            once,
            inbox,
            current,
            report,
            line,
            abandoned: 0,
            answered,
            voice,
            topic_trouble: None,
            topic_id: TopicId::Unasked,
            stall: Stall::No,
            refusal: None,
            attempt: None,
            ports,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.inbox.recv_timeout(self.pause()) {
                Ok(Command::New(producer)) => self.renew(producer),
                Ok(Command::Stop(flush)) => return self.stop(flush),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return self.stop(Duration::ZERO),
            }
        }
    }

    fn pause(&self) -> Duration {
        if self.attempt.is_some() {
            return ATTEMPT_POLL;
        }
        match &*lock(&self.current) {
            // Once the gate is open, it is looked at in the same way.
            Current::Away { .. } => {
                self.line.gate.next().map_or(ATTEMPT_POLL, |at| at.saturating_duration_since(Instant::now())).max(ATTEMPT_POLL)
            }
            Current::Refused { until, .. } => until.saturating_duration_since(Instant::now()),
            Current::Nothing | Current::Handle(_) if self.line.is_up() => PROBE_UP,
            Current::Nothing | Current::Handle(_) => PROBE_DOWN,
        }
    }

    fn look(&mut self) {
        if self.endures() {
            return;
        }
        let again = match &*lock(&self.current) {
            Current::Refused { mailbox, .. } => Some(mailbox.producer),
            Current::Nothing | Current::Handle(_) | Current::Away { .. } => None,
        };
        match (again, self.line.refused.lasting()) {
            (Some(producer), _) => self.try_again(producer),
            // Of several brokers one may be refused while the others take events.
            (None, Some((refusal, why))) if !self.line.is_up() => {
                self.say_refused(refusal, &why);
                self.refuse(why);
            }
            (None, Some(_) | None) => self.probe(),
        }
    }

    /// In an outage that lasts there is no handle; the line is tried when the gate says so. `false` if it is none.
    fn endures(&mut self) -> bool {
        match self.attempt.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return true,
            Some(Ok(Ok(()))) => self.line.set(true, "a broker answered"),
            Some(Ok(Err(why))) => tracing::info!(why, "kafka is still out of reach"),
            Some(Err(TryRecvError::Disconnected)) => tracing::error!("an attempt to reach kafka panicked"),
            None => {}
        }
        self.attempt = None;
        let Some(at) = self.line.gate.next() else {
            self.come_back();
            return false;
        };
        self.go_away();
        if at <= Instant::now() {
            let patience = self.line.gate.tried();
            match knock::attempt(self.settings.connection.clone(), patience) {
                Ok(attempt) => self.attempt = Some(attempt),
                Err(error) => tracing::error!(%error, "the system gives no thread for an attempt to reach kafka"),
            }
        }
        true
    }

    /// Drops the handle, or what stands in its place; all that it holds fails.
    fn go_away(&mut self) {
        let handle = {
            let mut current = lock(&self.current);
            let (mailbox, handle) = match std::mem::take(&mut *current) {
                Current::Handle(handle) => (Arc::clone(handle.mailbox()), Some(handle)),
                Current::Refused { mailbox, .. } => (mailbox, None),
                other @ (Current::Nothing | Current::Away { .. }) => {
                    *current = other;
                    return;
                }
            };
            *current = Current::Away { mailbox, asked: false };
            handle
        };
        tracing::warn!("the outage lasts: kafka's clients are dropped, and the line is tried once in a while");
        if let Some(handle) = handle {
            handle.give_up(LINE_DOWN);
            self.retire(handle);
        }
        self.line.refused.clear();
    }

    /// The line is back: a handle takes the place of the one that was dropped.
    fn come_back(&mut self) {
        let (producer, asked) = match &*lock(&self.current) {
            Current::Away { mailbox, asked } => (mailbox.producer, *asked),
            Current::Nothing | Current::Handle(_) | Current::Refused { .. } => return,
        };
        if asked { self.renew(producer) } else { self.try_again(producer) }
    }

    /// It may last for months, with a try each half minute.
    fn say_refused(&mut self, refusal: Refusal, why: &str) {
        if self.refusal.is_none_or(|(said, at)| said != refusal || at.elapsed() >= REFUSED_SAY) {
            self.refusal = Some((refusal, Instant::now()));
            tracing::error!(why, pause_s = REFUSED_PAUSE.as_secs(), "kafka refuses this gateway, or cannot prove who it is");
        }
    }

    /// Gives the handle up for a while; all that it holds fails.
    fn refuse(&mut self, why: String) {
        let until = Instant::now() + REFUSED_PAUSE;
        // At no time does nobody report on what is delivered.
        let handle = {
            let mut current = lock(&self.current);
            match std::mem::take(&mut *current) {
                Current::Handle(handle) => {
                    *current = Current::Refused { mailbox: Arc::clone(handle.mailbox()), why: why.clone(), until };
                    handle
                }
                other @ (Current::Nothing | Current::Refused { .. } | Current::Away { .. }) => {
                    *current = other;
                    return;
                }
            }
        };
        handle.refuse(&why);
        self.retire(handle);
        self.line.refused.clear();
    }

    /// A new handle under the name of the one that was given up: the core knows no other.
    fn try_again(&mut self, producer: ProducerId) {
        if let Err(why) = self.make(producer) {
            let mailbox = Arc::new(Mailbox::new(producer));
            *lock(&self.current) = Current::Refused { mailbox, why, until: Instant::now() + REFUSED_PAUSE };
        }
    }

    fn retire(&mut self, handle: Handle) {
        if !handle.retire() {
            self.abandoned += 1;
        }
    }

    fn renew(&mut self, producer: ProducerId) {
        let older = std::mem::take(&mut *lock(&self.current));
        if let Current::Handle(older) = older {
            if self.renewal.is_there() {
                // It works as far as anybody knows: what is on its way need not be sent twice.
                older.flush(RENEWAL_FLUSH);
            }
            self.retire(older);
        }
        if self.line.gate.is_shut() {
            *lock(&self.current) = Current::Away { mailbox: Arc::new(Mailbox::new(producer)), asked: true };
            return self.look();
        }
        if let Err(reason) = self.make(producer) {
            tracing::error!(producer = producer.0, reason, "kafka producer could not be made");
            return (self.report)(UplinkReport::Failed { producer, class: FailureClass::Hold, reason });
        }
        if self.once.is_none() {
            (self.report)(UplinkReport::Ready { producer, delivered: None });
        }
        self.probe();
    }

    fn make(&mut self, producer: ProducerId) -> Result<(), String> {
        if self.abandoned >= ABANDONED_MAX {
            return Err(format!("{} older handles hang; the daemon must be started anew", self.abandoned));
        }
        if let Some(connection) = self.renewal.take() {
            self.once = self.once.take().map(|shared| Arc::new(shared.renewed(connection.clone())));
            self.ports.add(connection.kafka.brokers.iter().map(|broker| broker.0.port));
            self.settings.connection = connection;
        }
        let config = self.settings.config();
        let (report, line, voice) = (Arc::clone(&self.report), Arc::clone(&self.line), Arc::clone(&self.voice));
        *lock(&self.current) = Current::Handle(Handle::make(producer, &config, report, line, voice, self.once.as_ref())?);
        self.topic_id = TopicId::Unasked;
        Ok(())
    }

    /// Asks a broker about the topic. The answer says that the line is up; while acknowledgements come, nothing needs to be asked.
    fn probe(&mut self) {
        if self.line.acknowledged.swap(false, Ordering::Relaxed) {
            self.answered = Instant::now();
            return self.unstall();
        }
        let Some((producer, waiting)) = lock(&self.current).handle().map(|handle| (handle.producer(), handle.waiting())) else {
            return;
        };
        if waiting == 0 && self.line.is_up() && self.answered.elapsed() < PROBE_IDLE {
            return;
        }
        match self.stall {
            _ if waiting == 0 => self.unstall(),
            Stall::No => self.stall = Stall::Since(Instant::now()),
            Stall::Since(_) | Stall::Said => {}
        }
        let topic = self.settings.connection.kafka.topic.clone();
        let metadata = match producer.client().fetch_metadata(Some(topic.as_str()), PROBE_LIMIT) {
            Ok(metadata) => metadata,
            Err(error) if !self.line.acknowledged.load(Ordering::Relaxed) => return self.line.set(false, &reason(&error)),
            Err(_) => return,
        };
        self.answered = Instant::now();
        self.refusal = None;
        self.ports.add(metadata.brokers().iter().filter_map(|broker| u16::try_from(broker.port()).ok()));
        self.line.set(true, "a broker answered");
        let Some(found) = metadata.topics().first() else { return };
        let trouble = found.error().map(RDKafkaErrorCode::from);
        if trouble.is_some() && trouble != self.topic_trouble {
            tracing::warn!(topic = topic.as_str(), ?trouble, "kafka does not take events for this topic");
        }
        self.topic_trouble = trouble;
        if trouble.is_none() && !self.was_made_anew(&producer, topic.as_str(), waiting) {
            self.say_stalled(found, waiting);
        }
    }

    /// A handle may hang without an error when its topic is made anew (librdkafka #4898): then it is given up.
    fn was_made_anew(&mut self, producer: &BaseProducer<Context>, topic: &str, waiting: usize) -> bool {
        let limit = match self.topic_id {
            TopicId::Unasked => FIRST_ID_LIMIT,
            TopicId::Told(_) if waiting > 0 => PROBE_LIMIT,
            TopicId::Told(_) | TopicId::Untold => return false,
        };
        let found = topics::describe(producer.client(), topic, limit);
        match (&self.topic_id, found) {
            (TopicId::Told(before), Ok(found)) if *before != found.id => {}
            (TopicId::Unasked, found) => {
                self.topic_id = found.map_or(TopicId::Untold, |found| TopicId::Told(found.id));
                return false;
            }
            (TopicId::Told(_) | TopicId::Untold, _) => return false,
        }
        tracing::error!(topic, "a topic was made anew under the same name; what was in it is gone");
        if let Some(handle) = lock(&self.current).handle() {
            handle.give_up("the topic was made anew under the same name");
        }
        true
    }

    fn say_stalled(&mut self, topic: &MetadataTopic, waiting: usize) {
        if let Stall::Since(since) = self.stall
            && since.elapsed() >= STALLED
        {
            self.stall = Stall::Said;
            let why = lacks(topic).unwrap_or_else(|| "a quota may hold this gateway back, or the brokers are busy".to_owned());
            tracing::warn!(why, waiting, "kafka answers, but acknowledges nothing; it is waited for");
        }
    }

    fn unstall(&mut self) {
        if let Stall::Said = std::mem::replace(&mut self.stall, Stall::No) {
            tracing::info!("kafka acknowledges again");
        }
    }

    fn stop(&mut self, flush: Duration) {
        let Current::Handle(handle) = std::mem::take(&mut *lock(&self.current)) else {
            return;
        };
        handle.flush(flush);
        handle.retire();
    }
}

/// What the first partition lacks that lacks something.
fn lacks(topic: &MetadataTopic) -> Option<String> {
    topic.partitions().iter().find_map(|partition| {
        let (number, in_sync, replicas) = (partition.id(), partition.isr().len(), partition.replicas().len());
        if partition.leader() < 0 {
            return Some(format!("partition {number} has no leader: see the brokers"));
        }
        (in_sync < replicas).then(|| format!("partition {number}: {in_sync} of {replicas} replicas are in sync: see the brokers"))
    })
}
