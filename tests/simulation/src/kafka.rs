//! Kafka: topics with partitions, and the gateway's producer.
//!
//! The producer is idempotent and gapless, as the gateway's settings make it: it appends in order, and once a batch failed for good
//! everything behind it in the handle fails too. What it cannot promise is modelled: an acknowledgement may be lost, and what a dropped
//! handle had on the wire may still arrive.

use crate::centre::Meaning;
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, ProducerId, Seq};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The gateway's topic.
pub const EVENTS: &str = "order-events";
/// Partitions of each topic.
pub const PARTITIONS: usize = 3;

/// A record in a log.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its header `gateway-id`.
    pub gateway_id: Option<String>,
    /// Its header `gateway-epoch`.
    pub epoch: Option<Epoch>,
    /// What it means to this house.
    pub meaning: Meaning,
}

/// A batch to one partition.
pub type Batch = Vec<(Seq, Arc<OrderEvent>)>;

/// The producer's handle.
#[derive(Debug)]
pub struct Handle {
    /// Its name.
    pub id: ProducerId,
    /// It failed for good.
    pub broken: bool,
    /// What it was given and has not sent, by partition.
    pub queues: Vec<VecDeque<(Seq, Arc<OrderEvent>)>>,
    /// A batch of that partition is on its way.
    pub busy: Vec<bool>,
    /// The latest report of each partition, so that they come in order.
    pub reported_at: Vec<u64>,
}

/// All logs, and the producer.
#[derive(Debug)]
pub struct Cluster {
    /// The logs, by topic and partition.
    pub logs: BTreeMap<String, Vec<Vec<LogRecord>>>,
    /// The first offset of each partition that is still there, where some are gone.
    starts: BTreeMap<(String, usize), i64>,
    /// The gateway's handle.
    pub handle: Option<Handle>,
}

/// The partition of a key: any function of the key will do.
pub fn partition_of(key: &str) -> usize {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    usize::try_from((hash >> 32) % PARTITIONS as u64).expect("small")
}

impl Cluster {
    /// Empty topics.
    pub fn new(topics: &[&str]) -> Cluster {
        let logs = topics.iter().map(|topic| ((*topic).to_owned(), vec![Vec::new(); PARTITIONS])).collect();
        Cluster { logs, starts: BTreeMap::new(), handle: None }
    }

    /// All that is in the logs is gone: retention.
    pub fn forget(&mut self) {
        for (topic, partitions) in &self.logs {
            for (partition, log) in partitions.iter().enumerate() {
                self.starts.insert((topic.clone(), partition), i64::try_from(log.len()).expect("small"));
            }
        }
    }

    /// Where a consumer reads on that wants to at `offset`.
    pub fn next_offset(&self, topic: &str, partition: usize, offset: Option<i64>) -> i64 {
        let start = self.starts.get(&(topic.to_owned(), partition)).copied().unwrap_or(0);
        offset.unwrap_or(0).max(start)
    }

    /// Appends a record.
    pub fn append(&mut self, topic: &str, partition: usize, record: LogRecord) {
        self.logs.get_mut(topic).expect("every topic exists")[partition].push(record);
    }

    /// Makes the handle of that name; the older one is gone.
    pub fn make(&mut self, id: ProducerId) {
        self.handle = Some(Handle {
            id,
            broken: false,
            queues: vec![VecDeque::new(); PARTITIONS],
            busy: vec![false; PARTITIONS],
            reported_at: vec![0; PARTITIONS],
        });
    }

    /// The handle of that name, if it is still there.
    pub fn handle(&mut self, id: ProducerId) -> Option<&mut Handle> {
        self.handle.as_mut().filter(|handle| handle.id == id)
    }
}

impl Handle {
    /// Takes an event.
    pub fn take(&mut self, seq: Seq, event: Arc<OrderEvent>) -> usize {
        let partition = partition_of(event.order_id.as_str());
        self.queues[partition].push_back((seq, event));
        partition
    }

    /// The next batch of a partition.
    pub fn next_batch(&mut self, partition: usize, events_max: usize) -> Batch {
        let queue = &mut self.queues[partition];
        let count = queue.len().min(events_max);
        queue.drain(..count).collect()
    }

    /// All that was not sent.
    pub fn drain(&mut self) -> Batch {
        let mut all: Batch = self.queues.iter_mut().flat_map(std::mem::take).collect();
        all.sort_by_key(|(seq, _)| *seq);
        all
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty) && !self.busy.contains(&true)
    }
}
