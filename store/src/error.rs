//! What can go wrong, by what the caller can do about it.

use gateway::ids::Name;
use gateway::io::CommitFailure;
use std::path::PathBuf;

/// A read failed: nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store is closed since a commit failed. It is to be opened again.
    #[error("the store is not open")]
    Closed,
    /// The disk refused. The store is to be opened again.
    #[error("the disk cannot be read: {0}")]
    Disk(String),
    /// A record is not what this program writes. Opening again does not help: `dumbwaiter store check` names all of them.
    #[error("the record {key} is damaged: {reason}")]
    Damaged {
        /// The record's key, in escaped ASCII.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A disk could not commit.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written; the disk goes on.
    #[error("no room on the disk: {0}")]
    NoSpace(String),
    /// It may or may not have happened; the disk is closed until it is opened again.
    #[error("it is unclear whether the commit happened: {0}")]
    Unclear(String),
}

/// A batch could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The batch breaks a bound or the order of seqs. Nothing was written, and the same batch can never be.
    #[error("refused before anything was written: {0}")]
    Refused(String),
    /// The disk failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl ApplyError {
    /// What the core is told. A refused batch left the store as it was, like one without room.
    pub fn failure(&self) -> CommitFailure {
        match self {
            ApplyError::Refused(_) | ApplyError::Commit(CommitError::NoSpace(_)) => CommitFailure::NoSpace,
            ApplyError::Commit(CommitError::Unclear(_)) => CommitFailure::Unclear,
        }
    }
}

/// A store could not be opened. No record of it was changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the data folder.
    #[error("{path} is in use by process {holder}; stop that one first")]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// The other process's id, as it wrote it down.
        holder: String,
    },
    /// The folder is missing or may not be written.
    #[error("{path} cannot be written ({reason}); it must be a folder that this user owns")]
    NotWritable {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// There is no store, and none was to be made.
    #[error("there is no store in {path}")]
    Missing {
        /// The data folder.
        path: PathBuf,
    },
    /// The store was written by a newer release.
    #[error("the store has format {found}, and this release knows formats up to {known}; install the newer release again")]
    Newer {
        /// The store's format.
        found: u16,
        /// The newest known.
        known: u16,
    },
    /// The store belongs to another gateway and holds what only that one may deliver.
    #[error(
        "the store belongs to gateway {found}, not {wanted}, and {queued} events wait in it ({dead} dead letters); start as {found} until it is empty, or choose another data folder"
    )]
    OtherGateway {
        /// The id in the store.
        found: Name,
        /// The id in the config.
        wanted: Name,
        /// Events in the outbox.
        queued: u64,
        /// Dead letters.
        dead: usize,
    },
    /// A disk sync would not protect anything here.
    #[error("{path} is no place for orders: {reason}")]
    NotDurable {
        /// The folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// No room even to open.
    #[error("no room on the disk to open the store: {0}")]
    NoSpace(String),
    /// What is there cannot be read. It is left as it is.
    #[error("the store at {path} cannot be opened: {reason}")]
    Damaged {
        /// The store's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A record cannot be read.
    #[error("the store's contents cannot be read")]
    Read(#[from] ReadError),
    /// The disk refused: it may be tried again.
    #[error("the disk failed while the store was opened: {0}")]
    Disk(String),
}
