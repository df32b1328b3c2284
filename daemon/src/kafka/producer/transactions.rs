//! Exactly once: events go to Kafka in transactions, and the progress goes with them.
//!
//! A thread of its own owns the transactions of one handle, for librdkafka's calls about them wait. It begins by ending what an older
//! handle left open, reads the progress that Kafka keeps, and decides where to go on ([`super::resume`]). Then what gathered during one
//! transaction makes the next. Before each, the intent is durable; after anything that fails or stays unclear the handle is of no use any
//! more, and whoever follows begins by asking Kafka again.

use super::handle::{Context, Reported, Ticket, record};
use super::resume::{Kept, Resume, resume};
use super::{ExactlyOnce, Report, UplinkReport, UplinkSettings, lock};
use crate::kafka::client::{Connection, Voice, drop_within_limit};
use crate::kafka::errors::{class, reason};
use gateway::dialect::Dialect;
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, ProducerId, Seq};
use gateway::io::{Delivery, FailureClass};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use store::{Intent, IntentFile, Place, Progress};

/// Events of one transaction: readers see none of them before the last is in Kafka.
pub(super) const BATCH_EVENTS_MAX: usize = 200;
/// Bytes of one transaction, before compression; the last event may pass it.
pub(super) const BATCH_BYTES_MAX: usize = 128 * 1024;
/// One call to librdkafka waits so long before the thread looks whether it shall end.
const SLICE: Duration = Duration::from_secs(2);
/// So long for a report before the thread looks whether it shall end.
const REPORT_WAIT: Duration = Duration::from_millis(250);
/// Between two tries of a call that fails at once.
const PAUSE: Duration = Duration::from_millis(100);
/// The progress is asked for so long: brokers that just started have to load it first.
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);
/// The disk may take so long for a look-up.
const PLACE_LIMIT: Duration = Duration::from_secs(120);
/// Kafka forgets a progress that is not committed for a week: without events it is committed again after this.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
/// Kafka keeps the progress under this partition of the events' topic.
const PARTITION: i32 = 0;

/// Of `gateway.id`: brokers let one producer at a time have it.
pub(in crate::kafka) fn transactional_id(connection: &Connection) -> String {
    format!("dumbwaiter-{}", connection.gateway)
}

/// The consumer group whose offset is the progress. No gateway's name has a colon, so it is no other gateway's group.
pub(in crate::kafka) fn group(connection: &Connection) -> String {
    format!("dumbwaiter-{}:uplink", connection.gateway)
}

/// What all handles of an uplink share.
pub(super) struct Shared {
    pub(super) connection: Connection,
    dialect: Dialect,
    pub(super) once: ExactlyOnce,
    intents: Arc<Mutex<Option<IntentFile>>>,
    window_events_max: usize,
}

impl Shared {
    pub(super) fn new(settings: &UplinkSettings, once: ExactlyOnce) -> Shared {
        let UplinkSettings { connection, dialect, window_events_max, .. } = settings.clone();
        Shared { connection, dialect, once, intents: Arc::default(), window_events_max }
    }

    /// The same over another connection.
    pub(super) fn renewed(&self, connection: Connection) -> Shared {
        let Shared { dialect, window_events_max, .. } = *self;
        Shared { connection, dialect, once: self.once.clone(), intents: Arc::clone(&self.intents), window_events_max }
    }

    fn topic(&self) -> &str {
        self.connection.kafka.topic.as_str()
    }

    /// The file is opened at the first need, and again after it failed.
    fn with_intents<T>(&self, call: impl FnOnce(&mut IntentFile) -> std::io::Result<T>) -> Result<T, Trouble> {
        let mut slot = lock(&self.intents);
        let opened = match slot.take() {
            Some(file) => Ok(file),
            None => IntentFile::open(&self.once.data_dir),
        };
        let done = opened.and_then(|mut file| {
            let done = call(&mut file)?;
            *slot = Some(file);
            Ok(done)
        });
        done.map_err(|error| Trouble::hold(format!("the intent cannot be written: {error}; look at the disk")))
    }
}

/// Why a handle is of no use any more.
#[derive(Debug, Clone)]
struct Trouble {
    class: FailureClass,
    reason: String,
}

impl Trouble {
    fn hold(reason: impl Into<String>) -> Trouble {
        Trouble { class: FailureClass::Hold, reason: reason.into() }
    }

    fn of(error: &KafkaError, shared: &Shared) -> Trouble {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let advice = match code {
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
                format!("; let this gateway's user WRITE to the transactional id {}", transactional_id(&shared.connection))
            }
            RDKafkaErrorCode::GroupAuthorizationFailed => {
                format!("; let this gateway's user READ the group {}", group(&shared.connection))
            }
            // Who writes only may produce, but not keep the progress under the topic.
            RDKafkaErrorCode::TopicAuthorizationFailed => format!("; let this gateway's user READ the topic {}", shared.topic()),
            _ => String::new(),
        };
        Trouble { class: class(code), reason: format!("{}{advice}", reason(error)) }
    }
}

/// An event on its way into a transaction.
pub(super) struct Handed {
    pub(super) ticket: Box<Ticket>,
    pub(super) event: Arc<OrderEvent>,
}

/// What waits for the next transaction: at most what the core has in its window.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    events_max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Handed>,
    /// A transaction is under way.
    busy: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(shared: &Shared) -> Queue {
        Queue { state: Mutex::default(), changed: Condvar::new(), events_max: shared.window_events_max * 2 }
    }

    /// # Errors
    /// It is closed, or full: the event comes back.
    pub(super) fn push(&self, handed: Handed) -> Result<(), Handed> {
        let mut state = lock(&self.state);
        if state.closed || state.waiting.len() >= self.events_max {
            return Err(handed);
        }
        state.waiting.push_back(handed);
        self.changed.notify_all();
        Ok(())
    }

    /// Events that wait.
    pub(super) fn len(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Nothing more is to come of it.
    pub(super) fn shut(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Takes nothing any more; gives what waits.
    fn close(&self) -> VecDeque<Handed> {
        let mut state = lock(&self.state);
        (state.closed, state.busy) = (true, false);
        self.changed.notify_all();
        std::mem::take(&mut state.waiting)
    }

    /// Waits until all is committed, or nothing will be any more, or the time is over.
    pub(super) fn wait_until_idle(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = lock(&self.state);
        while !state.closed && (state.busy || !state.waiting.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next batch; an empty one when nothing came for so long, and none once it is closed.
    fn next(&self, limit: Duration) -> Option<Vec<Handed>> {
        let mut state = lock(&self.state);
        state.busy = false;
        self.changed.notify_all();
        let idle = |state: &mut State| !state.closed && state.waiting.is_empty();
        state = self.changed.wait_timeout_while(state, limit, idle).unwrap_or_else(PoisonError::into_inner).0;
        if state.closed {
            return None;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_EVENTS_MAX
            && bytes < BATCH_BYTES_MAX
            && let Some(handed) = state.waiting.pop_front()
        {
            bytes += handed.event.weight();
            batch.push(handed);
        }
        state.busy = true;
        Some(batch)
    }
}

/// Partition and offset of each event that came back well, and why the others did not.
type Places = BTreeMap<Seq, (i32, i64)>;
type Failures = BTreeMap<Seq, Trouble>;

/// The transactions of one handle.
pub(super) struct Transactions {
    pub(super) id: ProducerId,
    pub(super) shared: Arc<Shared>,
    pub(super) producer: Arc<BaseProducer<Context>>,
    pub(super) queue: Arc<Queue>,
    pub(super) reported: Receiver<Reported>,
    pub(super) report: Report,
}

/// What a handle knows once it has asked Kafka.
struct Begun {
    group: ConsumerGroupMetadata,
    /// The progress that Kafka keeps, if it is ours.
    kept: Option<Progress>,
    /// Events up to it may be in Kafka already.
    repeats_upto: Seq,
}

impl Transactions {
    /// Runs until the handle is of no use any more, or is dropped.
    pub(super) fn run(self) {
        match self.begin() {
            Ok((mut begun, after)) => {
                (self.report)(UplinkReport::Ready { producer: self.id, delivered: Some(after) });
                while let Some(batch) = self.queue.next(REFRESH) {
                    if !self.transact(&mut begun, batch) {
                        return;
                    }
                }
                self.fail(&self.dropped(), &[], &BTreeMap::new());
            }
            // Nobody waits for a handle that was dropped.
            Err(_) if self.is_ended() => {}
            Err(Trouble { class, reason }) => (self.report)(UplinkReport::Failed { producer: self.id, class, reason }),
        }
    }

    fn is_ended(&self) -> bool {
        self.producer.context().is_ended()
    }

    fn dropped(&self) -> Trouble {
        let given_up = self.producer.context().given_up();
        given_up.map_or_else(|| Trouble::hold("the producer was dropped"), |(class, reason)| Trouble { class, reason })
    }

    /// Calls again what may be called again, until it succeeds or the time is over.
    fn persist(&self, until: Option<Instant>, mut call: impl FnMut(&BaseProducer<Context>) -> KafkaResult<()>) -> Result<(), Trouble> {
        loop {
            let error = match call(&self.producer) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let retriable = match &error {
                KafkaError::Transaction(error) => error.is_retriable() && !error.is_fatal(),
                KafkaError::Flush(_) => true,
                _ => false,
            };
            if self.is_ended() {
                return Err(self.dropped());
            }
            if !retriable || until.is_some_and(|until| Instant::now() >= until) {
                return Err(Trouble::of(&error, &self.shared));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends what an older handle left open, asks Kafka for the progress, and decides where to go on.
    fn begin(&self) -> Result<(Begun, Seq), Trouble> {
        self.persist(None, |producer| producer.init_transactions(SLICE))?;
        let intent = self.shared.with_intents(|file| Ok(file.last().cloned()))?;
        let kept_under = intent.as_ref().map_or(self.shared.topic(), |intent| intent.topic.as_str()).to_owned();
        let (group, found) = self.ask_kafka(&kept_under)?;
        let (seq, epoch) =
            (found.map_or(Seq(0), |found| found.progress.seq), intent.as_ref().map_or(Epoch(0), |intent| intent.after.epoch));
        let (place, knows) = self.ask_store(seq, epoch)?;
        // What another store was about to do says nothing about this one.
        let intent = intent.filter(|_| knows);
        let Resume { after, repeats_upto, settled, stranger } = resume(&place, found, intent.as_ref());
        if stranger {
            tracing::error!(?found, "another gateway writes to Kafka under this gateway's id: give each its own, or stop the copy");
        }
        if repeats_upto > after {
            tracing::warn!(
                after = after.0,
                upto = repeats_upto.0,
                "nobody knows whether Kafka has these events: they are sent, and marked"
            );
        }
        let mut begun = Begun { group, kept: found.filter(|_| settled).map(|found| found.progress), repeats_upto };
        if !settled || kept_under != self.shared.topic() {
            let progress = Progress { epoch: self.shared.once.epoch, seq: after };
            // Only by an epoch that the store knows can the intent be told from another store's.
            while !self.ask_store(Seq(0), progress.epoch)?.1 {
                std::thread::sleep(PAUSE);
            }
            self.write_intent(&begun, after.next(), progress)?;
            self.keep(&mut begun, progress)?;
        }
        Ok((begun, after))
    }

    /// The progress that Kafka keeps under a topic.
    fn ask_kafka(&self, topic: &str) -> Result<(ConsumerGroupMetadata, Option<Kept>), Trouble> {
        let group = group(&self.shared.connection);
        let promises = [("group.id", group.as_str()), ("enable.auto.commit", "false"), ("isolation.level", "read_committed")];
        let config = self.shared.connection.config(&[], &promises);
        let made: KafkaResult<BaseConsumer<Voice>> = BaseConsumer::from_config_and_context(&config, Voice::new("progress", |_, _| ()));
        let consumer = made.map_err(|error| Trouble::of(&error, &self.shared))?;
        let (metadata, found) = (consumer.group_metadata(), self.read_progress(&consumer, topic));
        drop_within_limit("progress", move || drop(consumer));
        let metadata = metadata.ok_or_else(|| Trouble::hold("librdkafka knows no group"))?;
        Ok((metadata, found?))
    }

    fn read_progress(&self, consumer: &BaseConsumer<Voice>, topic: &str) -> Result<Option<Kept>, Trouble> {
        let until = Instant::now() + PROGRESS_LIMIT;
        loop {
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition(topic, PARTITION);
            let found = consumer.committed_offsets(wanted, SLICE).and_then(|found| match found.find_partition(topic, PARTITION) {
                Some(found) => found.error().map(|()| kept(found.offset(), found.metadata())),
                None => Ok(None),
            });
            let error = match found {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            // A denial is told to whoever waits for records, and to nobody else.
            if let Some(Err(denied)) = consumer.poll(Duration::ZERO)
                && denied.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
            {
                return Err(Trouble::of(&denied, &self.shared));
            }
            if self.is_ended() || Instant::now() >= until {
                return Err(Trouble::of(&error, &self.shared));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn ask_store(&self, seq: Seq, epoch: Epoch) -> Result<(Place, bool), Trouble> {
        let (reply, found) = sync_channel(1);
        (self.report)(UplinkReport::Place { seq, epoch, reply });
        found.recv_timeout(PLACE_LIMIT).map_err(|_| Trouble::hold("the store does not answer"))
    }

    fn write_intent(&self, begun: &Begun, from: Seq, after: Progress) -> Result<(), Trouble> {
        let topic = self.shared.topic().to_owned();
        let intent = Intent { topic, before: begun.kept, after, from, repeats_upto: begun.repeats_upto };
        self.shared.with_intents(|file| file.write(intent))
    }

    /// Commits a progress without events.
    fn keep(&self, begun: &mut Begun, progress: Progress) -> Result<(), Trouble> {
        self.persist(None, BaseProducer::begin_transaction)?;
        self.commit(begun, progress, Instant::now())
    }

    /// Commits the transaction that is open, with the progress.
    fn commit(&self, begun: &mut Begun, progress: Progress, began: Instant) -> Result<(), Trouble> {
        let until = Some(began + self.shared.once.transaction_limit);
        let offset = i64::try_from(progress.seq.0).unwrap_or(i64::MAX);
        let mut offsets = TopicPartitionList::new();
        let mut place = offsets.add_partition(self.shared.topic(), PARTITION);
        place.set_offset(Offset::Offset(offset)).map_err(|error| Trouble::of(&error, &self.shared))?;
        place.set_metadata(format!("{} {}", progress.epoch, begun.repeats_upto));
        self.persist(until, |producer| producer.send_offsets_to_transaction(&offsets, &begun.group, SLICE))?;
        self.persist(until, |producer| producer.commit_transaction(SLICE))?;
        begun.kept = Some(progress);
        Ok(())
    }

    /// One transaction: `false` if the handle is of no use any more. What became of each event is reported.
    fn transact(&self, begun: &mut Begun, batch: Vec<Handed>) -> bool {
        let tickets: Vec<Ticket> = batch.iter().map(|handed| handed.ticket.as_ref().clone()).collect();
        let (mut places, mut failures) = (BTreeMap::new(), BTreeMap::new());
        match self.deliver(begun, batch, &mut places, &mut failures) {
            Ok(()) => {
                let repeats = tickets.iter().filter(|ticket| ticket.seq <= begun.repeats_upto).count();
                if repeats > 0 {
                    (self.report)(UplinkReport::RepeatsPossible(repeats as u64));
                }
                for ticket in &tickets {
                    let (partition, offset) = places.get(&ticket.seq).copied().unwrap_or((-1, -1));
                    self.producer.context().post(ticket, Delivery::Acknowledged { partition, offset });
                }
                true
            }
            Err(trouble) => {
                self.fail(&trouble, &tickets, &failures);
                false
            }
        }
    }

    fn deliver(&self, begun: &mut Begun, batch: Vec<Handed>, places: &mut Places, failures: &mut Failures) -> Result<(), Trouble> {
        let Some((first, last)) = batch.first().zip(batch.last()) else {
            // Idle for long: what Kafka keeps must not grow too old.
            let progress = begun.kept.ok_or_else(|| Trouble::hold("there is no progress to keep"))?;
            return self.keep(begun, progress);
        };
        let after = Progress { epoch: last.event.epoch, seq: last.ticket.seq };
        self.write_intent(begun, first.ticket.seq, after)?;
        let began = Instant::now();
        self.persist(None, BaseProducer::begin_transaction)?;
        self.produce(batch, begun.repeats_upto, places, failures);
        // What one event's failure means for it, nobody can tell of the others: the worst says what to do with the handle.
        let sent = match failures.values().min_by_key(|trouble| rank(trouble.class)) {
            Some(trouble) => Err(trouble.clone()),
            None if self.is_ended() => Err(self.dropped()),
            None => self.commit(begun, after, began),
        };
        if sent.is_err() && !self.is_ended() {
            // So that readers do not wait for the time limit. Whether it works is all the same: the next handle asks Kafka.
            let _ = self.producer.abort_transaction(SLICE);
        }
        sent
    }

    /// Sends the events, and waits until each came back.
    fn produce(&self, batch: Vec<Handed>, repeats_upto: Seq, places: &mut Places, failures: &mut Failures) {
        let mut out = 0;
        for Handed { ticket, event } in batch {
            let seq = ticket.seq;
            let outgoing = self.shared.dialect.encode(&self.shared.connection.gateway, seq, &event);
            let mark = (seq <= repeats_upto).then_some(("gateway-repeat", "possible"));
            match self.producer.send(record(self.shared.topic(), &outgoing, mark, ticket)) {
                Ok(()) => out += 1,
                Err((error, _)) => {
                    failures.insert(seq, Trouble::of(&error, &self.shared));
                    break;
                }
            }
        }
        while out > 0 {
            match self.reported.recv_timeout(REPORT_WAIT) {
                Ok(Reported { seq, outcome }) => {
                    out -= 1;
                    match outcome {
                        Ok(place) => drop(places.insert(seq, place)),
                        Err((class, reason)) => drop(failures.insert(seq, Trouble { class, reason })),
                    }
                }
                Err(RecvTimeoutError::Timeout) if !self.is_ended() => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Says of every event that this handle holds that it failed: those that failed by themselves first, for they say why.
    fn fail(&self, trouble: &Trouble, tickets: &[Ticket], failures: &Failures) {
        let behind = Trouble::hold("another event of its transaction failed");
        let of = |ticket: &Ticket| failures.get(&ticket.seq).unwrap_or(if failures.is_empty() { trouble } else { &behind }).clone();
        let mut failed: Vec<_> = tickets.iter().map(|ticket| (of(ticket), ticket.clone())).collect();
        failed.sort_by_key(|(trouble, _)| rank(trouble.class));
        let context = self.producer.context();
        context.breaks();
        let waiting = self.queue.close().into_iter().map(|handed| (Trouble::hold("an earlier transaction failed"), *handed.ticket));
        for (Trouble { class, reason }, ticket) in failed.into_iter().chain(waiting) {
            context.post(&ticket, Delivery::Failed { class, reason });
        }
    }
}

/// What says most about a failure comes first.
fn rank(class: FailureClass) -> u8 {
    match class {
        FailureClass::ThisEvent => 0,
        FailureClass::Person => 1,
        FailureClass::Recreate => 2,
        FailureClass::Hold => 3,
    }
}

/// An offset as this uplink commits it; whatever else stands there is no progress of any gateway.
fn kept(offset: Offset, metadata: &str) -> Option<Kept> {
    let Offset::Offset(seq) = offset else { return None };
    let (epoch, repeats_upto) = metadata.split_once(' ')?;
    let progress = Progress { epoch: epoch.parse().ok()?, seq: Seq(u64::try_from(seq).ok()?) };
    Some(Kept { progress, repeats_upto: Seq(repeats_upto.parse().ok()?) })
}
