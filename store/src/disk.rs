//! The seam below the store: an ordered map of bytes that survives a power cut.
//!
//! Two disks exist: sled with its cures in the daemon, and one in memory with a durable and a volatile image in the simulator. Keys,
//! values and batches are made above this line and are the same in both. A disk never retries and never decides.

use crate::error::{CommitError, OpenError, ReadError};

/// Largest value in bytes. Beyond a quarter of a segment sled moves a leaf of 16 records into a file of its own that it never syncs;
/// 16 values of this size stay below that.
pub const VALUE_BYTES_MAX: usize = 24 * 1024;
/// Most records in one commit. Power was cut on thousands of images: up to 1,920 records every one came back whole, with 19,200 not.
pub const COMMIT_RECORDS_MAX: usize = 1_000;

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// One write of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// The key.
    pub key: Vec<u8>,
    /// What it holds from then on; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// Which part of the disk's free space a commit may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// It admits something new: it fails while less than the floor is free.
    Floor,
    /// It forgets, moves or corrects what is there: it may use what the floor keeps free, so that a full disk can drain.
    Reserve,
}

/// Reads of an ordered map of bytes. They show every commit that has returned, and may show parts of the one in flight.
pub trait Read {
    /// The value of a key.
    ///
    /// # Errors
    /// The disk is not open, or broken: nothing is known.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError>;

    /// The records of `from..to` in order: at most `records_max`, and none more once their keys and values reach `bytes_max`. So where
    /// there is one, at least one is returned.
    ///
    /// # Errors
    /// As [`Read::get`].
    fn range(&self, from: &[u8], to: &[u8], records_max: usize, bytes_max: usize) -> Result<Vec<Record>, ReadError>;

    /// The last record of `from..to`.
    ///
    /// # Errors
    /// As [`Read::get`].
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, ReadError>;
}

/// A disk that can be written: one owner, one commit at a time.
pub trait Disk: Read + Send {
    /// Writes all or nothing, and returns once it is durable. No key is in `ops` twice; at most [`COMMIT_RECORDS_MAX`] are.
    ///
    /// # Errors
    /// [`CommitError::NoSpace`]: nothing was written and the disk goes on. [`CommitError::Unclear`]: it may or may not have happened,
    /// and every call fails until [`Disk::reopen`].
    fn commit(&mut self, ops: &[Op], space: Space) -> Result<(), CommitError>;

    /// Whether so little is free that what may be given up is given up now.
    fn is_short(&self) -> bool {
        false
    }

    /// Closes the disk and opens it again: from then on reads show what is durable and nothing else.
    ///
    /// # Errors
    /// It stays closed; it may be tried again.
    fn reopen(&mut self) -> Result<(), OpenError>;
}
