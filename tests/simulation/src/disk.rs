//! The disk: a durable image, and the volatile one that reads see until the power goes.
//!
//! A process that is killed loses neither: what it wrote but never synced stays visible to the next process, and is gone after the next
//! power cut unless somebody synced meanwhile. So opening the disk syncs first, as the real one does; [`Platter::sync_on_open`] is off
//! only to show that this matters.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::disk::{COMMIT_RECORDS_MAX, Disk, Op, Read, Record, Space};
use store::{CommitError, OpenError, ReadError};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// How the next commit ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It will be synced.
    Fine,
    /// It fails, and only opening the disk again tells what happened.
    Unclear {
        /// It happened all the same.
        happened: bool,
    },
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Room {
    /// Enough.
    #[default]
    Plenty,
    /// Less than the floor that admission leaves free.
    BelowFloor,
    /// None at all.
    Nothing,
}

/// What outlives a process.
#[derive(Debug)]
pub struct Platter {
    durable: Map,
    visible: Map,
    unsynced: Vec<Op>,
    /// How the next commit ends.
    pub fate: Fate,
    /// How much room there is.
    pub room: Room,
    /// The next opening fails.
    pub reopen_fails: bool,
    /// The next read fails.
    pub read_fails: bool,
    /// Opening syncs what the last process left.
    pub sync_on_open: bool,
    /// Keys of one commit that a power cut tears apart; only to show that this would be seen.
    pub tears: bool,
    /// The largest commit so far.
    pub records_max: usize,
}

impl Platter {
    /// The commit that was written is durable from now on.
    pub fn sync(&mut self) {
        for op in self.unsynced.drain(..) {
            write(&mut self.durable, &op);
        }
    }

    /// The power goes. A commit in flight has reached the disk as a whole or not at all.
    pub fn cut_power(&mut self, commit_arrived: bool) {
        if self.tears {
            let half = self.unsynced.len().div_ceil(2);
            self.unsynced.truncate(half);
            self.sync();
        } else if commit_arrived {
            self.sync();
        }
        self.unsynced.clear();
        self.visible = self.durable.clone();
    }
}

fn write(map: &mut Map, op: &Op) {
    match &op.value {
        Some(value) => drop(map.insert(op.key.clone(), value.clone())),
        None => drop(map.remove(&op.key)),
    }
}

/// A process's handle on the platter.
#[derive(Debug, Clone)]
pub struct MemDisk {
    platter: Arc<Mutex<Platter>>,
    open: bool,
}

impl Default for MemDisk {
    /// An empty disk. It is opened by [`Disk::reopen`].
    fn default() -> MemDisk {
        let platter = Platter {
            durable: Map::new(),
            visible: Map::new(),
            unsynced: Vec::new(),
            fate: Fate::Fine,
            room: Room::Plenty,
            reopen_fails: false,
            read_fails: false,
            sync_on_open: true,
            tears: false,
            records_max: 0,
        };
        MemDisk { platter: Arc::new(Mutex::new(platter)), open: false }
    }
}

impl MemDisk {
    /// The platter, for faults.
    pub fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readable(&self) -> Result<MutexGuard<'_, Platter>, ReadError> {
        let mut platter = self.platter();
        if !self.open {
            return Err(ReadError::Closed);
        }
        if std::mem::take(&mut platter.read_fails) {
            return Err(ReadError::Disk("the simulated medium has a bad spot".into()));
        }
        Ok(platter)
    }
}

impl Read for MemDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.readable()?.visible.get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], records_max: usize, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        let platter = self.readable()?;
        let mut records = Vec::new();
        let mut bytes = 0;
        if from >= to {
            return Ok(records);
        }
        for (key, value) in platter.visible.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).take(records_max) {
            bytes += key.len() + value.len();
            records.push((key.clone(), value.clone()));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, ReadError> {
        let platter = self.readable()?;
        if from >= to {
            return Ok(None);
        }
        let last = platter.visible.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }
}

impl Disk for MemDisk {
    /// Writes; [`Platter::sync`] makes it durable later, at the virtual time at which the real call would return.
    fn commit(&mut self, ops: &[Op], space: Space) -> Result<(), CommitError> {
        if !self.open {
            return Err(CommitError::Unclear("the disk is closed".into()));
        }
        let mut platter = self.platter();
        assert!(ops.len() <= COMMIT_RECORDS_MAX, "{} records in one commit", ops.len());
        platter.records_max = platter.records_max.max(ops.len());
        match (platter.room, space) {
            (Room::Plenty, _) | (Room::BelowFloor, Space::Reserve) => {}
            (Room::Nothing, _) | (Room::BelowFloor, Space::Floor) => return Err(CommitError::NoSpace("simulated".into())),
        }
        let fate = std::mem::replace(&mut platter.fate, Fate::Fine);
        if fate != (Fate::Unclear { happened: false }) {
            for op in ops {
                write(&mut platter.visible, op);
            }
            platter.unsynced.extend_from_slice(ops);
        }
        drop(platter);
        match fate {
            Fate::Fine => Ok(()),
            Fate::Unclear { .. } => {
                self.open = false;
                Err(CommitError::Unclear("simulated".into()))
            }
        }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        self.open = false;
        let mut platter = self.platter();
        if std::mem::take(&mut platter.reopen_fails) {
            return Err(OpenError::Disk("simulated".into()));
        }
        if platter.room == Room::Nothing {
            return Err(OpenError::NoSpace("simulated".into()));
        }
        if platter.sync_on_open {
            platter.sync();
        }
        drop(platter);
        self.open = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &mut MemDisk, key: &str) {
        disk.commit(&[Op { key: key.into(), value: Some(vec![1]) }], Space::Floor).unwrap();
    }

    fn has(disk: &MemDisk, key: &str) -> bool {
        disk.get(key.as_bytes()).unwrap().is_some()
    }

    fn open() -> MemDisk {
        let mut disk = MemDisk::default();
        disk.reopen().unwrap();
        disk
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        let mut disk = open();
        put(&mut disk, "a");
        disk.platter().sync();
        put(&mut disk, "b");
        disk.platter().cut_power(false);
        disk.reopen().unwrap();
        assert!(has(&disk, "a") && !has(&disk, "b"));
    }

    #[test]
    fn what_a_killed_process_left_is_durable_once_the_disk_was_opened_again() {
        for synced in [true, false] {
            let mut disk = open();
            put(&mut disk, "a");
            let mut next = disk.clone();
            next.platter().sync_on_open = synced;
            next.reopen().unwrap();
            assert!(has(&next, "a"), "the next process sees it");
            next.platter().cut_power(false);
            next.reopen().unwrap();
            assert_eq!(has(&next, "a"), synced, "and keeps it only if opening synced it");
        }
    }

    #[test]
    fn an_unclear_commit_closes_the_disk_until_it_is_opened_again() {
        for happened in [true, false] {
            let mut disk = open();
            disk.platter().fate = Fate::Unclear { happened };
            assert!(disk.commit(&[Op { key: b"a".to_vec(), value: Some(vec![1]) }], Space::Floor).is_err());
            assert!(disk.get(b"a").is_err());
            disk.reopen().unwrap();
            assert_eq!(has(&disk, "a"), happened);
        }
    }
}
