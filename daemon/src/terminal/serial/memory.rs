//! What a serial terminal must keep across its own restart, and its file.

use anyhow::Context;
use protocol::Resume;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use tokio::time::Instant;

/// The session, its unfinished orders in number order, and what has no number yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub session: Option<u64>,
    /// The lowest unfinished number: that of the first in `kept`.
    pub first: u64,
    pub kept: VecDeque<KeptOrder>,
    pub queue: VecDeque<KeptOrder>,
}

/// An order until it is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptOrder {
    pub token: u64,
    pub body: String,
    pub maybe_stored: bool,
    #[serde(skip, default = "Instant::now")]
    pub since: Instant,
}

impl KeptOrder {
    pub fn new(token: u64, body: String) -> KeptOrder {
        KeptOrder { token, body, maybe_stored: false, since: Instant::now() }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory { session: None, first: 1, kept: VecDeque::new(), queue: VecDeque::new() }
    }
}

impl Memory {
    /// The memory in a file; an empty one if there is no file.
    pub fn read(path: &Path) -> anyhow::Result<Memory> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is no terminal's state", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Memory::default()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// Makes the file say this, durably: a power cut leaves the old or the new.
    pub async fn write(&self, path: &Path, waiting: impl Iterator<Item = &KeptOrder>) -> anyhow::Result<()> {
        let mut whole = self.clone();
        whole.queue.extend(waiting.cloned());
        let text = serde_json::to_vec(&whole).context("the state cannot be written as JSON")?;
        let path = path.to_path_buf();
        tokio::task::spawn_blocking(move || replace(&path, &text)).await?
    }

    /// The session to go on with.
    pub fn resume(&self) -> Option<Resume> {
        self.session.map(|session| Resume { session, first: self.first })
    }

    /// The number after the last that is kept.
    pub fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Begins a session: all that is kept is numbered anew, and the first `maybe_stored` of it may be stored already.
    pub fn open(&mut self, session: u64, maybe_stored: u64) {
        let sent = usize::try_from(maybe_stored).unwrap_or(usize::MAX);
        self.kept.iter_mut().take(sent).for_each(|order| order.maybe_stored = true);
        (self.session, self.first) = (Some(session), 1);
    }

    /// Takes the lowest unfinished order out, if it has this number.
    pub fn finish(&mut self, number: u64) -> Option<KeptOrder> {
        if number != self.first {
            return None;
        }
        let order = self.kept.pop_front()?;
        self.first += 1;
        Some(order)
    }
}

fn replace(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    let written = (|| {
        let mut file = File::create(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    })();
    written.with_context(|| format!("{} cannot be written", path.display()))
}
