//! What a process did to its data folder, in the order in which it happened, with the moments at which somebody heard *stored*.

use crate::tree::{FileId, Node, Place, Tree};
use anyhow::bail;

/// Something that happened. Each stands where it was over: what had begun by then and was not over is behind it.
#[derive(Debug, Clone)]
pub enum Event {
    /// A file or a folder was made.
    Create {
        /// Where.
        at: Place,
        /// What.
        file: FileId,
        /// Which it is: an empty file or an empty folder.
        node: Node,
    },
    /// Bytes were written.
    Write {
        /// To which file.
        file: FileId,
        /// Where in it.
        offset: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file was cut off, or grew with zeros.
    Resize {
        /// Which.
        file: FileId,
        /// Its size since.
        len: usize,
    },
    /// A name was changed, within its folder or into another; what had the new name before lost it.
    Rename {
        /// What was renamed.
        file: FileId,
        /// Its old place.
        from: Place,
        /// Its new place.
        to: Place,
    },
    /// A name was removed.
    Remove {
        /// Which.
        at: Place,
        /// What it named.
        file: FileId,
    },
    /// A sync returned well. It covers what stood in the record when it began.
    Sync {
        /// Of which file or folder.
        file: FileId,
        /// How many events there were when it began.
        begun: usize,
        /// It was an `fdatasync`.
        data_only: bool,
    },
    /// Somebody heard that something is stored.
    Heard(String),
}

/// What a process did, from a folder as it was before to the folder as it was after.
#[derive(Debug, Clone)]
pub struct Record {
    /// The folder before, all of it durable.
    pub before: Tree,
    /// What happened.
    pub events: Vec<Event>,
}

impl Record {
    /// Proves that nothing is missing in the record: the folder before and the events make the folder after, to the byte.
    ///
    /// # Errors
    /// They do not, and where.
    pub fn prove(&self, after: &Tree) -> anyhow::Result<()> {
        let mut tree = self.before.clone();
        self.events.iter().for_each(|event| event.happen(&mut tree));
        match tree.difference(after) {
            None => Ok(()),
            Some(difference) => bail!("the record is not complete: played again it differs in {difference}"),
        }
    }

    /// What was heard before a cut.
    pub fn heard(&self, cut: usize) -> impl Iterator<Item = &str> {
        self.events[..cut].iter().filter_map(|event| match event {
            Event::Heard(what) => Some(what.as_str()),
            _ => None,
        })
    }
}

impl Event {
    /// Does it to a tree.
    pub fn happen(&self, tree: &mut Tree) {
        match self {
            Event::Create { at, file, node } => {
                tree.add(*file, node.clone());
                tree.name(at, *file);
            }
            Event::Write { file, offset, bytes } => tree.write(*file, *offset, bytes),
            Event::Resize { file, len } => tree.resize(*file, *len),
            Event::Rename { file, from, to } => {
                tree.unname(from, *file);
                tree.name(to, *file);
            }
            Event::Remove { at, file } => tree.unname(at, *file),
            Event::Sync { .. } | Event::Heard(_) => {}
        }
    }
}
