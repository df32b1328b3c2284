//! A reference centre: what stands behind Kafka, small but real. For the demo, for tests, and for a chain that tries its gateways.
//!
//! It reads `order-events` as a consumer group, read_committed, and for each new order confirms it and takes the payment, which
//! succeeds in 85 of 100 cases, drawn from the order's id and a seed. The answers go to `order-status`, keyed by gateway id; an offset
//! is committed only after the answers to all before it are acknowledged. A repeat, the same (gateway, epoch, seq) again, is counted
//! and not answered. With [`Kitchen`] it also plays a house where nobody bumps orders.
//!
//! It promises that every order is answered at least once, and that an answer has the same event id each time: a centre that died
//! between its answers and its commit answers again, and decides as before. It remembers nothing across its own restarts.
//!
//! It shares no code with the gateway on purpose: it reads what Kafka holds as a stranger would.

mod event;
mod kitchen;
mod ledger;
mod payment;
mod repeats;
mod service;

pub use kitchen::Kitchen;
pub use ledger::{EventName, Ledger, RequestName};
pub use payment::succeeds;

use anyhow::Context;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a centre does, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kafka's brokers, `host:port`, comma separated.
    pub brokers: String,
    /// The topic that orders come from.
    pub events_topic: String,
    /// The topic that the houses read.
    pub status_topic: String,
    /// How a gateway's id becomes a partition of that topic: librdkafka's word, the one that the gateways compute with.
    pub partitioner: String,
    /// The consumer group.
    pub group: String,
    /// Payments are drawn from this number.
    pub seed: u64,
    /// How long the centre takes to answer.
    pub delay: Duration,
    /// Moves orders on as a kitchen would.
    pub kitchen: Option<Kitchen>,
    /// Events that the ledger remembers one by one; beyond it they are only counted.
    pub ledger_events_max: usize,
    /// librdkafka's own settings, for TLS and passwords; they override the centre's.
    pub properties: Vec<(String, String)>,
}

impl Settings {
    /// The usual names, no delay, no kitchen.
    pub fn new(brokers: impl Into<String>) -> Settings {
        Settings {
            brokers: brokers.into(),
            events_topic: "order-events".into(),
            status_topic: "order-status".into(),
            partitioner: "fnv1a_random".into(),
            group: "order-service".into(),
            seed: 1,
            delay: Duration::ZERO,
            kitchen: None,
            ledger_events_max: 1_000_000,
            properties: vec![],
        }
    }
}

/// A running centre.
#[derive(Debug)]
pub struct Centre {
    thread: JoinHandle<anyhow::Result<()>>,
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Centre {
    /// Starts a centre on a thread of its own.
    ///
    /// # Errors
    /// A setting that librdkafka refuses, or no thread to be had. Brokers and topics that are not there yet are waited for.
    pub fn start(settings: Settings) -> anyhow::Result<Centre> {
        let (stop, ledger) = (Arc::<AtomicBool>::default(), Arc::new(Mutex::new(Ledger::new(settings.ledger_events_max))));
        let service = service::Service::new(settings, Arc::clone(&stop), Arc::clone(&ledger))?;
        let thread = std::thread::Builder::new().name("centre".into()).spawn(move || service.run()).context("no thread")?;
        Ok(Centre { thread, stop, ledger })
    }

    /// Looks at what it saw so far. The centre waits meanwhile.
    pub fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It has not ended by itself.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends it; what it has read and not answered yet is left for the next start.
    ///
    /// # Errors
    /// Why it ended by itself, if it did: an answer that Kafka refuses for good.
    pub fn stop(self) -> anyhow::Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the centre panicked"))??;
        Ok(std::mem::take(&mut *self.ledger.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
