//! A disk in memory whose commits can fail.

use crate::disk::{Disk, Op, Read, Record, Space};
use crate::{CommitError, OpenError, ReadError};
use std::collections::BTreeMap;

/// How the next commit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NoSpace,
    /// It did not happen, but nobody knows.
    UnclearLost,
    /// It happened, but nobody knows.
    UnclearKept,
}

#[derive(Debug, Default)]
pub struct Memory {
    pub map: BTreeMap<Vec<u8>, Vec<u8>>,
    pub fault: Option<Fault>,
    pub commits: Vec<(Vec<Op>, Space)>,
    pub short: bool,
    closed: bool,
}

impl Memory {
    pub fn holding(map: BTreeMap<Vec<u8>, Vec<u8>>) -> Memory {
        Memory { map, ..Memory::default() }
    }

    fn check_open(&self) -> Result<(), ReadError> {
        if self.closed { Err(ReadError::Closed) } else { Ok(()) }
    }
}

impl Read for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.check_open()?;
        Ok(self.map.get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], records_max: usize, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        self.check_open()?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        for (key, value) in self.map.range(from.to_vec()..to.to_vec()).take(records_max) {
            bytes += key.len() + value.len();
            records.push((key.clone(), value.clone()));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, ReadError> {
        self.check_open()?;
        Ok(self.map.range(from.to_vec()..to.to_vec()).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }
}

impl Disk for Memory {
    fn is_short(&self) -> bool {
        self.short
    }

    fn commit(&mut self, ops: &[Op], space: Space) -> Result<(), CommitError> {
        self.check_open().map_err(|e| CommitError::Unclear(e.to_string()))?;
        let fault = self.fault.take();
        match fault {
            Some(Fault::NoSpace) => return Err(CommitError::NoSpace("as the test asked".into())),
            Some(Fault::UnclearLost) => {}
            Some(Fault::UnclearKept) | None => {
                for op in ops {
                    match &op.value {
                        Some(value) => self.map.insert(op.key.clone(), value.clone()),
                        None => self.map.remove(&op.key),
                    };
                }
                self.commits.push((ops.to_vec(), space));
            }
        }
        self.closed = fault.is_some();
        if self.closed { Err(CommitError::Unclear("as the test asked".into())) } else { Ok(()) }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        self.closed = false;
        Ok(())
    }
}
