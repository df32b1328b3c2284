//! Reading a whole topic, and producing it again by librdkafka alone.

use crate::Settings;
use anyhow::{Context, anyhow, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientContext, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A broker that answers nothing for so long is not there.
const LIMIT: Duration = Duration::from_secs(30);
/// librdkafka's queue is full: it is tried again after this.
const FULL_PAUSE: Duration = Duration::from_millis(1);

fn client(settings: &Settings, which: &str) -> anyhow::Result<ClientConfig> {
    let settings = settings.get(which).with_context(|| format!("no settings of a {which}"))?;
    Ok(settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// All records that a topic holds now.
pub fn read(settings: &Settings, topic: &str) -> anyhow::Result<Vec<OwnedMessage>> {
    let consumer: BaseConsumer = client(settings, "consumer")?.set("fetch.wait.max.ms", "100").create()?;
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT)?;
    let found = metadata.topics().first().filter(|found| found.error().is_none()).with_context(|| format!("no topic {topic}"))?;
    let (mut from, mut ends) = (TopicPartitionList::new(), BTreeMap::new());
    for partition in found.partitions() {
        let (begin, end) = consumer.fetch_watermarks(topic, partition.id(), LIMIT)?;
        if begin < end {
            from.add_partition_offset(topic, partition.id(), Offset::Offset(begin))?;
            ends.insert(partition.id(), end);
        }
    }
    consumer.assign(&from)?;
    let mut records = Vec::new();
    while !ends.is_empty() {
        let message = consumer.poll(LIMIT).ok_or_else(|| anyhow!("{topic}: nothing more came within {LIMIT:?}"))??;
        if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&message.partition());
        }
        records.push(message.detach());
    }
    Ok(records)
}

/// What they are: how many, and how many of them are no repeats. Of those that the broker got at `since_ms` or later: when it got the
/// first and the last, if the topic's timestamps are the broker's.
pub fn summary(records: &[OwnedMessage], since_ms: i64) -> Value {
    let name = |record| Some((header(record, "gateway-epoch")?, header(record, "gateway-seq")?));
    let events: BTreeSet<_> = records.iter().filter_map(name).collect();
    let appended = || records.iter().filter_map(|record| appended_ms(record.timestamp())).filter(|ms| *ms >= since_ms);
    json!({"records": records.len(), "events": events.len(), "firstMs": appended().min(), "lastMs": appended().max()})
}

fn header<'a>(record: &'a OwnedMessage, name: &str) -> Option<&'a [u8]> {
    record.headers()?.iter().find(|header| header.key == name)?.value
}

fn appended_ms(timestamp: Timestamp) -> Option<i64> {
    match timestamp {
        Timestamp::LogAppendTime(ms) => Some(ms),
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
    }
}

/// Counts what the brokers acknowledged.
#[derive(Clone, Default)]
struct Acknowledged(Arc<AtomicU64>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    }
}

/// Produces the records as fast as librdkafka takes them, and waits until all are acknowledged.
///
/// # Errors
/// Not all were.
pub fn produce(settings: &Settings, topic: &str, records: &[OwnedMessage]) -> anyhow::Result<()> {
    let acknowledged = Acknowledged::default();
    let producer: ThreadedProducer<Acknowledged> = client(settings, "producer")?.create_with_context(acknowledged.clone())?;
    for record in records {
        let headers = record
            .headers()
            .into_iter()
            .flat_map(Headers::iter)
            .fold(OwnedHeaders::new(), |headers, Header { key, value }| headers.insert(Header { key, value }));
        let mut next = BaseRecord::to(topic).headers(headers);
        next.key = record.key();
        next.payload = record.payload();
        while let Err((error, same)) = producer.send(next) {
            ensure!(error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), "{topic}: {error}");
            next = same;
            std::thread::sleep(FULL_PAUSE);
        }
    }
    producer.flush(LIMIT)?;
    let count = acknowledged.0.load(Ordering::Relaxed);
    ensure!(count == records.len() as u64, "{topic}: {count} of {} records were acknowledged", records.len());
    Ok(())
}
