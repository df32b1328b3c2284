//! Kafka: the uplink, the downlink, the sign of life, the dead letter topic, replays and a new store's rebuilding, each with a client of
//! its own.
//!
//! Nothing here decides: the uplink reports what became of each event and the core decides what to do about it; the downlink hands
//! records on and the core decides what they mean. Nothing here blocks the event loop: librdkafka's calls that wait run on threads
//! with names (`kafka-up`, `kafka-commit`, `kafka-keeper`, `kafka-watch`, `kafka-knock`, `kafka-down`, `kafka-status`, `kafka-dead`,
//! `kafka-replay`, `kafka-rebuild`).

mod client;
mod consumer;
mod dead_letters;
mod errors;
mod gate;
mod holes;
mod knock;
mod look;
mod outage;
mod partitioner;
mod producer;
mod rebuild;
mod replay;
mod sign_of_life;
mod stranger;
#[cfg(test)]
mod tests;
mod topics;

pub use client::{Connection, Renewal};
pub use consumer::{Downlink, DownlinkSettings, Lags, RECORDS_MAX, librdkafka as downlink_librdkafka, topic_of};
pub use dead_letters::{DeadLetterSettings, DeadLetterTopic, Tell};
pub use gate::Gate;
pub use look::{Finding, look, try_out};
pub use producer::{Delivered, ExactlyOnce, Uplink, UplinkReport, UplinkSettings};
pub use rebuild::{RECALLS_MAX, Rebuild, RebuildSettings};
pub use replay::{Replay, Replayed, Steps as ReplaySteps};
pub use sign_of_life::SignOfLife;
