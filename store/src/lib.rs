//! The durable store: outbox, request ids, projections, dead letters, offsets. The only crate that names sled.
//!
//! It promises: [`Store::apply`] returns after the disk sync that holds the whole batch; a batch is there entirely or not at all after
//! any crash; after an unclear failure nothing is answered until the disk was opened again. It never deletes anything to recover, never
//! answers from memory what the disk does not hold, and never scans the outbox.

mod batch;
mod check;
pub mod day;
pub mod disk;
mod error;
mod export;
mod folder;
mod import;
mod intent;
pub mod journal;
mod layout;
mod offline;
mod reader;
mod reads;
mod rescue;
mod salvage;
mod sled_disk;
mod store;
mod thread;

pub use batch::{EPOCHS_MAX, SESSIONS_MAX};
pub use check::{CheckReport, PROBLEMS_MAX};
pub use error::{ApplyError, CommitError, OpenError, ReadError};
pub use export::{ExportError, ExportReport};
pub use folder::Room;
pub use import::{ImportError, ImportReport, LINE_BYTES_MAX};
pub use intent::{Intent, IntentFile, Progress};
pub use offline::{OfflineError, check, export, import};
pub use reader::Reader;
pub use reads::KeptEvent;
pub use rescue::{Aside, aside, open_or_rescue};
pub use sled_disk::{CommitCost, SledDisk, SledOptions, SledReader, SyncHook};
pub use store::{Place, Store};
pub use thread::{DeadLetters, NotTaken, READ_JOBS_MAX, StoreReport, StoreThread, WRITE_JOBS_MAX};

#[cfg(test)]
mod tests;
