//! Tests of the store over memory and over sled.

mod golden_bytes;
mod journal;
mod layout;
mod memory;
mod offline;
mod printed;
mod rescue;
mod samples;
mod sled;
mod store;
mod thread;

pub(crate) use sled::options as sled_options;
