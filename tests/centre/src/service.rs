//! The centre's thread: reads, answers, commits.

use crate::Settings;
use crate::event::{Answer, Event, Read, read};
use crate::kitchen::Work;
use crate::ledger::Ledger;
use crate::payment::succeeds;
use crate::repeats::Repeats;
use anyhow::{Context as _, anyhow};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Message, Offset, TopicPartitionList};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Records that were read and whose answers are not due yet. Beyond it none are read.
const WAITING_MAX: usize = 10_000;
/// Records read before their answers go out together.
const BATCH_MAX: usize = 500;
/// How long the thread waits for records before it looks at the clock.
const POLL: Duration = Duration::from_millis(50);
/// Offsets are committed no more often than this.
const COMMIT: Duration = Duration::from_millis(200);
/// How long the last commit and the consumer's goodbye may take.
const LEAVE_MAX: Duration = Duration::from_secs(10);

pub(crate) struct Service {
    settings: Settings,
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    consumer: BaseConsumer<Quiet>,
    producer: BaseProducer<Answers>,
    line: Arc<Line>,
    repeats: Repeats,
    kitchen: Option<Work>,
    /// Answers in the order of their records: the delay is the same for all.
    waiting: VecDeque<Waiting>,
    /// The last offset read of each partition: a record that comes again after a rebalance is no copy.
    read: BTreeMap<i32, i64>,
    /// The next offset to commit of each partition.
    answered: BTreeMap<i32, i64>,
}

struct Waiting {
    due: Instant,
    partition: i32,
    offset: i64,
    answers: Vec<Answer>,
}

/// Says once that the brokers are away: librdkafka says so at every try to connect.
#[derive(Default)]
struct Line {
    down: AtomicBool,
}

impl Line {
    fn lost(&self, why: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "kafka is out of reach; the centre waits");
        }
    }

    fn works(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            tracing::info!("kafka is reached");
        }
    }
}

/// Takes what librdkafka says.
struct Quiet(Arc<Line>);

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        let code = error.rdkafka_error_code();
        if let Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) = code {
            self.0.lost(reason);
        }
    }
}

impl ConsumerContext for Quiet {}

/// Keeps the first answer that Kafka refused for good.
struct Answers {
    quiet: Quiet,
    refused: OnceLock<KafkaError>,
}

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.quiet.error(error, reason);
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.refused.get_or_init(|| error.clone());
        }
    }
}

impl Service {
    pub(crate) fn new(settings: Settings, stop: Arc<AtomicBool>, ledger: Arc<Mutex<Ledger>>) -> anyhow::Result<Service> {
        let line = Arc::<Line>::default();
        let consumer = BaseConsumer::from_config_and_context(
            &config(
                &settings,
                &[
                    ("group.id", &settings.group),
                    ("enable.auto.commit", "false"),
                    ("isolation.level", "read_committed"),
                    ("auto.offset.reset", "earliest"),
                    ("queued.max.messages.kbytes", "8192"),
                ],
            ),
            Quiet(Arc::clone(&line)),
        );
        let producer = BaseProducer::<Answers, NoCustomPartitioner>::from_config_and_context(
            &config(
                &settings,
                &[
                    ("enable.idempotence", "true"),
                    ("acks", "all"),
                    ("message.timeout.ms", "0"),
                    ("partitioner", &settings.partitioner),
                    ("linger.ms", "1"),
                ],
            ),
            Answers { quiet: Quiet(Arc::clone(&line)), refused: OnceLock::new() },
        );
        let kitchen = settings.kitchen.map(Work::new);
        Ok(Service {
            stop,
            ledger,
            consumer: consumer.context("the centre's consumer")?,
            producer: producer.context("the centre's producer")?,
            line,
            settings,
            repeats: Repeats::default(),
            kitchen,
            waiting: VecDeque::new(),
            read: BTreeMap::new(),
            answered: BTreeMap::new(),
        })
    }

    /// Serves until it is stopped or Kafka refuses an answer for good.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let ended = self.serve();
        self.leave();
        ended
    }

    /// Commits and closes, but not for ever: rdkafka drops a consumer only when its group has let it go (rust-rdkafka #509), and a group
    /// whose coordinator is away or forgot it may never.
    fn leave(mut self) {
        let (done, left) = mpsc::channel();
        let leaving = std::thread::Builder::new().name("centre-leaves".into()).spawn(move || {
            self.commit(CommitMode::Sync);
            drop(self);
            // Who waited too long is gone.
            let _ = done.send(());
        });
        if leaving.is_ok() && left.recv_timeout(LEAVE_MAX).is_err() {
            tracing::warn!("kafka does not let the centre's consumer go; it is left behind");
        }
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        self.consumer.subscribe(&[&self.settings.events_topic]).context("subscribing")?;
        let mut commit_at = Instant::now();
        while !self.stopped() {
            self.read_batch();
            self.answer()?;
            let now = Instant::now();
            if now >= commit_at {
                commit_at = now + COMMIT;
                self.commit(CommitMode::Async);
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Reads what is there, and waits a moment if nothing is.
    fn read_batch(&mut self) {
        let now = Instant::now();
        let kitchen_due = self.kitchen.as_ref().and_then(Work::next);
        let due = self.waiting.front().map(|waiting| waiting.due).into_iter().chain(kitchen_due).min();
        let mut pause = due.map_or(POLL, |due| due.saturating_duration_since(now).min(POLL));
        if self.waiting.len() >= WAITING_MAX {
            std::thread::sleep(pause);
            return;
        }
        for _ in 0..BATCH_MAX {
            match self.consumer.poll(pause) {
                None => return,
                Some(Err(error)) => tracing::debug!(%error, "centre"),
                Some(Ok(message)) => {
                    self.line.works();
                    let (partition, offset) = (message.partition(), message.offset());
                    let found = read(&message);
                    drop(message);
                    self.take_in(partition, offset, found);
                }
            }
            pause = Duration::ZERO;
        }
    }

    fn take_in(&mut self, partition: i32, offset: i64, found: Read) {
        if self.read.get(&partition).is_some_and(|last| offset <= *last) {
            return;
        }
        self.read.insert(partition, offset);
        let answers = match found {
            Read::Event(event) => self.judge(*event),
            Read::Foreign => {
                self.ledger(|ledger| ledger.foreign += 1);
                vec![]
            }
            Read::Poison(reason) => {
                tracing::warn!(partition, offset, reason, "an event cannot be read and is passed over");
                self.ledger(|ledger| ledger.poison += 1);
                vec![]
            }
        };
        self.waiting.push_back(Waiting { due: Instant::now() + self.settings.delay, partition, offset, answers });
    }

    fn ledger(&self, note: impl FnOnce(&mut Ledger)) {
        note(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What the centre says to an event.
    fn judge(&mut self, event: Event) -> Vec<Answer> {
        let Event { name, request, event_type, order, data } = event;
        if !self.repeats.first(&name.gateway, &name.epoch, name.seq) {
            self.ledger(|ledger| ledger.repeats += 1);
            return vec![];
        }
        tracing::debug!(gateway = name.gateway, seq = name.seq, order = order.order_id, event_type, "event");
        self.ledger(|ledger| ledger.first(name, request, &order.order_id));
        if event_type != "order.created" {
            // The house moves the order itself, or it is over.
            if let Some(kitchen) = &mut self.kitchen
                && event_type != "order.payment_processed"
            {
                kitchen.leave(&order.key());
            }
            return vec![];
        }
        let paid = succeeds(self.settings.seed, &order.order_id);
        let answers = vec![Answer::status(&order, "CONFIRMED"), Answer::payment(&order, data.get("totalPrice"), paid)];
        if let Some(kitchen) = self.kitchen.as_mut().filter(|_| paid) {
            kitchen.begin(order, Instant::now() + self.settings.delay);
        }
        answers
    }

    /// Sends what is due and waits until all of it is acknowledged.
    fn answer(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut done = vec![];
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.due <= now) {
            for answer in waiting.answers {
                self.send(answer)?;
            }
            done.push((waiting.partition, waiting.offset + 1));
        }
        while let Some((order, status)) = self.kitchen.as_mut().and_then(|kitchen| kitchen.take(now)) {
            self.send(Answer::status(&order, status))?;
        }
        // Late answers are waited for, however long the brokers are away. (The queue's length would not do: it counts log lines too.)
        while self.producer.flush(POLL).is_err() {
            if self.stopped() {
                return Ok(());
            }
        }
        if let Some(error) = self.producer.context().refused.get() {
            return Err(anyhow!("{} takes no answers: {error}", self.settings.status_topic));
        }
        self.answered.extend(done);
        Ok(())
    }

    fn send(&self, answer: Answer) -> anyhow::Result<()> {
        let (gateway, event_type) = (answer.gateway.clone(), answer.event_type);
        let value = answer.encode();
        let headers = OwnedHeaders::new()
            .insert(Header { key: "event-type", value: Some(event_type) })
            .insert(Header { key: "content-type", value: Some("application/json") });
        let mut record = BaseRecord::to(&self.settings.status_topic).key(&gateway).payload(&value).headers(headers);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) && !self.stopped() => {
                    self.producer.poll(POLL);
                    record = back;
                }
                Err((error, _)) => return Err(anyhow!("{} takes no answers: {error}", self.settings.status_topic)),
            }
        }
    }

    fn commit(&mut self, mode: CommitMode) {
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in std::mem::take(&mut self.answered) {
            if let Err(error) = offsets.add_partition_offset(&self.settings.events_topic, partition, Offset::Offset(next)) {
                tracing::warn!(%error, partition, "an offset could not be committed");
            }
        }
        if offsets.count() > 0
            && let Err(error) = self.consumer.commit(&offsets, mode)
        {
            // It is read and answered again after the next start, with the same ids.
            tracing::warn!(%error, "offsets could not be committed");
        }
    }
}

fn config(settings: &Settings, own: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers).set("client.id", "centre").set("reconnect.backoff.max.ms", "1000");
    config.set("enable.metrics.push", "false").set("log.connection.close", "false");
    for (key, value) in own {
        config.set(*key, *value);
    }
    for (key, value) in &settings.properties {
        config.set(key, value);
    }
    config
}
