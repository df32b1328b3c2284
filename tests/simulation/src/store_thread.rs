//! The store's threads: one that writes, one commit or reopening at a time, and one that reads meanwhile.

use crate::disk::MemDisk;
use gateway::ids::{CommitId, LoadId, Name};
use gateway::io::{Change, CommitFailure, Opened};
use std::collections::VecDeque;
use std::sync::Arc;
use store::journal::Keep;
use store::{ApplyError, Store};

/// What the writing thread does.
#[derive(Debug, Clone)]
pub enum Job {
    /// A commit.
    Commit(CommitId, Arc<Vec<Change>>),
    /// Opening the store again.
    Reopen,
}

/// A step of a store's thread.
#[derive(Debug, Clone)]
pub enum Step {
    /// The job at the front begins: a commit is written, and can be read from then on.
    Begin,
    /// It ends: a commit is synced, or has failed.
    End,
    /// A look-up reads.
    Load(LoadId, gateway::io::Wanted),
    /// The outbox's head is read.
    Read {
        /// From here.
        from: gateway::ids::Seq,
        /// So many.
        events_max: usize,
        /// So much.
        bytes_max: usize,
    },
    /// What has expired is looked for.
    Sweep {
        /// From here.
        from: Option<gateway::io::Forgettable>,
        /// So many.
        keys_max: usize,
        /// So old.
        old: gateway::io::Old,
    },
}

/// The store of one gateway process.
#[derive(Debug)]
pub struct StoreThreads {
    /// The disk, which outlives the process.
    pub disk: MemDisk,
    /// The open store; `None` while no process runs.
    pub store: Option<Store<MemDisk>>,
    /// Reads from before the last reopening are never answered.
    pub generation: u32,
    jobs: VecDeque<Job>,
    written: Option<Result<(), CommitFailure>>,
}

impl StoreThreads {
    /// Over an empty disk.
    pub fn new() -> StoreThreads {
        StoreThreads { disk: MemDisk::default(), store: None, generation: 0, jobs: VecDeque::new(), written: None }
    }

    /// A process opens the store.
    ///
    /// # Errors
    /// The store's; it may be tried again.
    pub fn open(&mut self, gateway: Name) -> Result<Opened, store::OpenError> {
        let mut disk = self.disk.clone();
        store::disk::Disk::reopen(&mut disk)?;
        let (store, opened) = Store::open(disk, gateway)?;
        // The commit that claims a new store returns before anything is answered.
        if self.disk.platter().sync_on_open {
            self.disk.platter().sync();
        }
        // So small that much is given up, and much expires.
        self.store = Some(store.keeping(Keep { keep_ms: 60 * 60_000, bytes_max: 4_000 }));
        Ok(opened)
    }

    /// The open store.
    pub fn store(&self) -> &Store<MemDisk> {
        self.store.as_ref().expect("a living gateway has a store")
    }

    /// Queues a job; `true` if it begins at once.
    pub fn push(&mut self, job: Job) -> bool {
        self.jobs.push_back(job);
        self.jobs.len() == 1
    }

    /// The job at the front.
    pub fn front(&self) -> Option<&Job> {
        self.jobs.front()
    }

    /// Whether anything is at work.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Writes the commit at the front. What comes of it shows at its end.
    ///
    /// # Errors
    /// The store refused the batch: the core broke one of its bounds.
    pub fn write(&mut self, batch: &[Change]) -> Result<(), String> {
        let applied = self.store.as_mut().expect("a living gateway has a store").apply(batch);
        self.written = Some(match applied {
            Ok(()) => Ok(()),
            Err(ApplyError::Refused(reason)) => return Err(reason),
            Err(e) => Err(e.failure()),
        });
        Ok(())
    }

    /// Ends the job at the front with a sync, unless that is skipped; gives it, and what came of a commit.
    pub fn end(&mut self, skips_the_sync: bool) -> Option<(Job, Result<(), CommitFailure>)> {
        let job = self.jobs.pop_front()?;
        let written = self.written.take().unwrap_or(Ok(()));
        if written.is_ok() && !skips_the_sync {
            self.disk.platter().sync();
        }
        Some((job, written))
    }

    /// The process is gone. A commit that was about to begin may just have been written.
    pub fn die(&mut self, last_write: bool) {
        if let (Some(Job::Commit(_, batch)), None, true) = (self.jobs.front().cloned(), self.written, last_write) {
            // Whatever comes of it: nobody is left to hear.
            drop(self.store.as_mut().map(|store| store.apply(&batch)));
        }
        self.jobs.clear();
        self.written = None;
        self.store = None;
        self.generation += 1;
    }
}
