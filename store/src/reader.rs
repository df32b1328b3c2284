//! Look-ups from another thread, so that they never wait for a disk sync.

use crate::error::ReadError;
use crate::reads;
use crate::sled_disk::{SledDisk, SledReader};
use crate::store::Store;
use gateway::event::OrderEvent;
use gateway::ids::Seq;
use gateway::io::{Forgettable, Found, Old, Wanted};
use std::sync::Arc;

/// Reads of a store while its owner commits. All fail while the store is closed, and go on once it was reopened.
///
/// They may show what the commit in flight is about to make durable: so they are for what the core looks up, which answers nothing from
/// a request or an order in flight, and never for answers to people.
#[derive(Debug, Clone)]
pub struct Reader {
    disk: SledReader,
}

impl Store<SledDisk> {
    /// Reads of this store, for another thread.
    pub fn reader(&self) -> Reader {
        Reader { disk: self.disk().reader() }
    }
}

impl Reader {
    /// As [`Store::load`].
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load(&self, wanted: &Wanted) -> Result<Found, ReadError> {
        reads::load(&self.disk, wanted)
    }

    /// As [`Store::read_head`].
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn read_head(&self, from: Seq, events_max: usize, bytes_max: usize) -> Result<Vec<(Seq, Arc<OrderEvent>)>, ReadError> {
        reads::head(&self.disk, from, events_max, bytes_max)
    }

    /// As [`Store::sweep`].
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn sweep(
        &self,
        from: Option<&Forgettable>,
        keys_max: usize,
        old: Old,
    ) -> Result<(Vec<Forgettable>, Option<Forgettable>), ReadError> {
        reads::sweep(&self.disk, from, keys_max, old)
    }
}
