//! How the disk is, in one word, for `/health`, `/metrics` and the pages; and the lines of the log that say so once, with what to do.

use crate::attention::{Attention, Subject};
use std::time::{Duration, Instant};
use store::OpenError;

/// A store call that takes longer than this is said to stall. Cards do that; nothing is lost, but terminals wait.
const STALLED_AFTER: Duration = Duration::from_secs(5);

const STALLED: &str = "the disk does not answer; nothing is lost, and terminals wait: if it comes again, replace the card";
/// The core tries again every 5 s whether there is room.
const FULL_FOR: Duration = Duration::from_secs(10);

/// How the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskState {
    /// It takes what comes.
    #[default]
    Well,
    /// A write or a sync has been under way for longer than [`STALLED_AFTER`].
    Stalled,
    /// The store is closed, and cannot be opened.
    Failing,
}

impl DiskState {
    /// The word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            DiskState::Well => "well",
            DiskState::Stalled => "stalled",
            DiskState::Failing => "failing",
        }
    }
}

/// Follows the disk, and says each change once: the log may lie on the same disk.
#[derive(Debug)]
pub struct DiskWatch {
    attention: Attention,
    /// Why the store cannot be opened, and what to do.
    failing: Option<String>,
    stalled: bool,
    /// What there was no room for, and when last.
    full: Option<(String, Instant)>,
}

impl DiskWatch {
    /// A watch over a disk that is well.
    pub fn new(attention: Attention) -> DiskWatch {
        DiskWatch { attention, failing: None, stalled: false, full: None }
    }

    /// The store was opened again.
    pub fn opened(&mut self) {
        self.failing = None;
    }

    /// It could not be.
    pub fn failed(&mut self, error: &OpenError, reason: &str) {
        let sentence = format!("the store cannot be opened again, and terminals hear busy; it is tried on: {reason}; {}", advice(error));
        if self.failing.as_ref() != Some(&sentence) {
            tracing::error!("{sentence}");
            self.failing = Some(sentence);
        }
    }

    /// There was no room for a commit.
    pub fn no_room(&mut self, reason: &str) {
        if self.full.is_none() {
            tracing::warn!(reason, "no room on the disk: free some; until then orders are refused, and what is queued drains");
        }
        self.full = Some((reason.to_owned(), Instant::now()));
    }

    /// How it is now; `busy` is for how long the store call that is running has been running.
    pub fn look(&mut self, busy: Option<Duration>) -> DiskState {
        let stalled = busy.is_some_and(|busy| busy > STALLED_AFTER);
        if stalled && !self.stalled {
            tracing::warn!(seconds = STALLED_AFTER.as_secs(), "{STALLED}");
        } else if self.stalled && !stalled {
            tracing::info!("the disk answers again");
        }
        self.stalled = stalled;
        self.full.take_if(|(_, at)| at.elapsed() > FULL_FOR);
        let full = self.full.as_ref().map(|(reason, _)| format!("no room on the disk: free some: {reason}"));
        let sentence = self.failing.clone().or(stalled.then(|| STALLED.to_owned())).or(full);
        self.attention.say(Subject::Disk, sentence);
        match (&self.failing, stalled) {
            (Some(_), _) => DiskState::Failing,
            (None, true) => DiskState::Stalled,
            (None, false) => DiskState::Well,
        }
    }
}

fn advice(error: &OpenError) -> &'static str {
    match error {
        OpenError::NoSpace(_) => "free space or inodes on the disk",
        OpenError::NotWritable { .. } => {
            "if the disk went read-only after errors (see dmesg), stop the daemon, check the file system, mount it again and start"
        }
        OpenError::Disk(_) | OpenError::Read(_) => "look at the disk (dmesg); what was answered stored is on it",
        OpenError::InUse { .. } | OpenError::Missing { .. } | OpenError::Newer { .. } | OpenError::OtherGateway { .. } => {
            "somebody else changed the data folder while the daemon ran"
        }
        OpenError::NotDurable { .. } => "a sync protects nothing there any more",
        OpenError::Damaged { .. } => "the next start moves it aside and rescues what can be read",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_is_failing_until_the_store_is_open_again() {
        let attention = Attention::default();
        let mut watch = DiskWatch::new(attention.clone());
        assert_eq!(watch.look(Some(STALLED_AFTER)), DiskState::Well);
        assert_eq!(attention.sentences(), Vec::<String>::new());
        assert_eq!(watch.look(Some(STALLED_AFTER * 2)), DiskState::Stalled);
        assert_eq!(attention.sentences(), [STALLED]);
        watch.failed(&OpenError::Disk("no".into()), "no");
        assert_eq!(watch.look(Some(STALLED_AFTER * 2)), DiskState::Failing);
        assert_eq!(watch.look(None), DiskState::Failing);
        assert!(attention.sentences()[0].contains("look at the disk"), "{attention:?}");
        watch.opened();
        assert_eq!(watch.look(None), DiskState::Well);
        assert_eq!(attention.sentences(), Vec::<String>::new());
        watch.no_room("1 byte is free");
        assert_eq!(watch.look(None), DiskState::Well, "a full disk is full, no more");
        assert!(attention.sentences()[0].ends_with("1 byte is free"), "{attention:?}");
    }
}
