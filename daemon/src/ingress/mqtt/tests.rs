//! The ingress against brokers, with a stand-in for the event loop.

mod by_hand;
#[cfg(feature = "demo")]
mod embedded;
mod mosquitto;
mod probe;
mod rig;
#[cfg(feature = "demo")]
mod terminals;

pub use rig::order;
