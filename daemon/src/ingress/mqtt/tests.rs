//! The ingress against brokers, with a stand-in for the event loop.

#[cfg(feature = "demo")]
mod embedded;
mod mosquitto;
mod probe;
mod rig;
#[cfg(feature = "demo")]
mod terminals;

pub use rig::order;
