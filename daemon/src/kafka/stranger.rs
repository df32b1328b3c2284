//! Whether another gateway is at work under our id. Each gateway says every minute that it lives, under its id and with a random name for
//! this start of it: so a record of our key and another start, between two of our own, is a stranger's. Whether we know that start does
//! not matter: none of ours from before can speak any more.
//!
//! Of 10,000 gateways' signs of life one partition has some hundred a minute: how often one looks depends on how much there is to read.

use super::client::{Connection, Voice, drop_within_limit};
use super::errors::{class, reason};
use gateway::ids::Epoch;
use gateway::io::FailureClass;
use rdkafka::Message;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Records that one look reads at most: the last before our own.
const RECORDS_MAX: i64 = 2_000;
/// So long between two looks for each record that the last one read.
const A_RECORD: Duration = Duration::from_secs(1);
/// A stranger that was not heard for so long is gone: it says each minute that it lives.
const GONE: Duration = Duration::from_secs(150);
/// A look may take so long.
const LIMIT: Duration = Duration::from_secs(15);
/// One that failed is not tried again before …
const AGAIN: Duration = Duration::from_secs(5);
/// … nor one that a person has to mend.
const AGAIN_MENDED: Duration = Duration::from_secs(3_600);
const POLL: Duration = Duration::from_millis(100);

/// What was heard last: the stranger's start, and when.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Option<(String, Instant)>>>);

impl Heard {
    /// The start of a stranger that is at work.
    pub fn of(&self) -> Option<String> {
        self.get().as_ref().map(|(boot, _)| boot.clone())
    }

    /// What a look found. A stranger that says nothing for a while is gone.
    fn set(&self, boot: Option<String>) {
        let mut heard = self.get();
        match boot {
            Some(boot) => *heard = Some((boot, Instant::now())),
            None => drop(heard.take_if(|(_, at)| at.elapsed() >= GONE)),
        }
    }

    fn get(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks between our own signs of life.
pub(super) struct Watch {
    connection: Connection,
    topic: String,
    boot: Epoch,
    heard: Heard,
    /// Where our sign of life is up to which was looked.
    last: Option<(i32, i64)>,
    not_before: Instant,
    consumer: Option<BaseConsumer<Voice>>,
}

/// Of a sign of life, who says it.
#[derive(Deserialize)]
struct Sign {
    boot: String,
}

impl Watch {
    pub(super) fn new(connection: Connection, topic: String, boot: Epoch, heard: Heard) -> Watch {
        Watch { connection, topic, boot, heard, last: None, not_before: Instant::now(), consumer: None }
    }

    /// The brokers are reached in another way from now on.
    pub(super) fn renew(&mut self, connection: &Connection) {
        self.connection = connection.clone();
        self.drop_consumer();
    }

    pub(super) fn drop_consumer(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            drop_within_limit("stranger", move || drop(consumer));
        }
    }

    /// Our sign of life is there. Blocks for a look, if one is due, until `stop`.
    pub(super) fn sent(&mut self, partition: i32, offset: i64, stop: impl Fn() -> bool) {
        let before = self.last.filter(|(at, _)| *at == partition);
        let Some((_, before)) = before.filter(|_| Instant::now() >= self.not_before) else {
            return self.last = self.last.filter(|_| before.is_some()).or(Some((partition, offset)));
        };
        let from = (before + 1).max(offset - RECORDS_MAX);
        let records = u32::try_from(offset - from).unwrap_or(0);
        self.not_before = Instant::now() + A_RECORD * records;
        match self.look(partition, from, offset, stop) {
            Ok(found) => {
                self.heard.set(found);
                self.last = Some((partition, offset));
            }
            Err(error) => {
                tracing::debug!(topic = self.topic, reason = reason(&error), "it cannot be seen whether another gateway has this one's id");
                let needs_person = error.rdkafka_error_code().map(class) == Some(FailureClass::Person);
                self.not_before = Instant::now() + if needs_person { AGAIN_MENDED } else { AGAIN };
                self.drop_consumer();
            }
        }
    }

    /// Who said under our id that it lives, from an offset on and before our own record at `own`.
    fn look(&mut self, partition: i32, from: i64, own: i64, stop: impl Fn() -> bool) -> Result<Option<String>, KafkaError> {
        if from >= own {
            return Ok(None);
        }
        let consumer = match &self.consumer {
            Some(consumer) => consumer,
            None => self.consumer.insert(make(&self.connection)?),
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(from))?;
        consumer.assign(&list)?;
        let (mut found, until) = (None, Instant::now() + LIMIT);
        while !stop() && Instant::now() < until {
            let Some(message) = consumer.poll(POLL) else { continue };
            let message = message?;
            if message.offset() >= own {
                break;
            }
            if message.key() == Some(self.connection.gateway.as_str().as_bytes()) {
                let sign = message.payload().and_then(|value| serde_json::from_slice::<Sign>(value).ok());
                found = sign.map(|sign| sign.boot).filter(|boot| *boot != self.boot.to_string()).or(found);
            }
        }
        consumer.unassign()?;
        Ok(found)
    }
}

fn make(connection: &Connection) -> Result<BaseConsumer<Voice>, KafkaError> {
    let group = format!("dumbwaiter-{}", connection.gateway);
    let config = connection.config(
        &[("queued.max.messages.kbytes", "256"), ("fetch.message.max.bytes", "65536"), ("fetch.max.bytes", "262144")],
        &[
            ("group.id", &group),
            ("message.max.bytes", "262144"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_uncommitted"),
        ],
    );
    BaseConsumer::from_config_and_context(&config, Voice::new("stranger", |_, _| ()))
}
