//! The gateway as a pure state machine: inputs and the time go in, outputs come out.
//!
//! It promises the invariants of ARCHITECTURE.md as far as they are decisions: what is admitted, what is a repeat, which ticket an
//! order gets, what a status does, what is delivered next and when it is tried again. It never does I/O, reads no clock, draws no
//! random number, and keeps nothing of unbounded size. The store, Kafka and the terminals are the shell's; a simulator stands in for
//! all of them with the same `Gateway`.

mod admission;
pub mod board;
mod card_number;
mod commit;
pub mod dialect;
mod downlink;
pub mod event;
mod gateway;
mod gauges;
pub mod ids;
pub mod io;
pub mod journal;
pub mod json;
pub mod money;
mod open_orders;
pub mod order;
pub mod printed;
pub mod random;
pub mod rebuild;
mod release;
pub mod request;
pub mod settings;
mod shown;
mod sweep;
mod tickets;
pub mod time;
mod uplink;

#[cfg(test)]
mod bounds;

pub use gateway::Gateway;
pub use gauges::{Gauges, Tally};
pub use release::{DECISION_WAITS_MS, RELEASES_MAX};
