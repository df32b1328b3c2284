//! The disks that a power cut could leave.
//!
//! A disk keeps what a completed sync covers. Of all else nothing is promised: a write may be there, missing, or there in
//! some of its sectors; writes may have overtaken each other; a file's size may be the old one, with what lay beyond it lost, or the new
//! one over zeros; a name may be missing, be the old one, or stay after its removal. `sync_file_range` counts for nothing. A sync of
//! a file does not cover its name: that is its folder's.
//!
//! Not modelled: sectors that are torn themselves, and stale bytes of other files in a grown one, which ext4's ordered mode excludes.

use crate::dice::Dice;
use crate::record::{Event, Record};
use crate::tree::{FileId, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// Which syncs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// As the system promises.
    Count,
    /// Those of data alone do nothing: the store as it would be without its own.
    WithoutData,
}

/// How much of what was not synced is there.
#[derive(Debug, Clone, Copy)]
enum Luck {
    All,
    Nothing,
    /// The first so many.
    First(usize),
    /// All but the first so many: the later ones overtook them.
    Last(usize),
    /// Each by itself, so many in a thousand.
    Each(u64),
    /// Each sector of each by itself, so many in a thousand.
    Sectors(u64),
    /// All but this one.
    AllBut(usize),
    /// This one alone.
    Only(usize),
}

/// What becomes of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    There,
    Missing,
    Torn,
}

impl Luck {
    fn throw(dice: &mut Dice, count: usize) -> Luck {
        let number = dice.index(count + 1);
        let per_mille = dice.pick(&[30, 200, 500, 800, 970]);
        match dice.below(9) {
            0 => Luck::All,
            1 => Luck::Nothing,
            2 | 3 => Luck::First(number),
            4 => Luck::Last(number),
            5 => Luck::Each(per_mille),
            6 => Luck::Sectors(per_mille),
            7 => Luck::AllBut(number),
            _ => Luck::Only(number),
        }
    }

    /// The fate of the `n`th of what was not synced.
    fn fate(self, n: usize, dice: &mut Dice) -> Fate {
        let there = |there| if there { Fate::There } else { Fate::Missing };
        match self {
            Luck::All => Fate::There,
            Luck::Nothing => Fate::Missing,
            Luck::First(count) if n == count => dice.pick(&[Fate::There, Fate::Missing, Fate::Torn]),
            Luck::First(count) => there(n < count),
            Luck::Last(count) => there(n >= count),
            Luck::Each(per_mille) => {
                if dice.chance(100) {
                    Fate::Torn
                } else {
                    there(dice.chance(per_mille))
                }
            }
            Luck::Sectors(_) => Fate::Torn,
            Luck::AllBut(number) => there(n != number),
            Luck::Only(number) => there(n == number),
        }
    }
}

/// A disk after a power cut.
#[derive(Debug)]
pub struct Image {
    /// What is on it.
    pub tree: Tree,
    /// Before which event of the record the power was cut.
    pub cut: usize,
    /// How much was left to luck: writes, sizes and names that no sync covered.
    pub unsynced: usize,
    /// What was thrown, for a person.
    pub luck: String,
}

/// Builds one of the disks that a power cut before the event `cut` could leave.
pub fn build(record: &Record, cut: usize, syncs: Syncs, dice: &mut Dice) -> Image {
    let settled = settled(&record.events[..cut], syncs);
    let is_name = |event: &Event| matches!(event, Event::Create { .. } | Event::Rename { .. } | Event::Remove { .. });
    let is_data = |event: &Event| matches!(event, Event::Write { .. } | Event::Resize { .. });
    let count = |wanted: &dyn Fn(&Event) -> bool| {
        record.events[..cut].iter().zip(&settled).filter(|(event, settled)| !**settled && wanted(event)).count()
    };
    let (data, names) = (count(&is_data), count(&is_name));
    let (data_luck, name_luck) = (Luck::throw(dice, data), Luck::throw(dice, names));
    let mut sizes = Sizes::default();
    let mut tree = record.before.clone();
    let (mut data_seen, mut names_seen) = (0, 0);
    for (event, settled) in record.events[..cut].iter().zip(settled) {
        if settled {
            event.happen(&mut tree);
            sizes.settle(event, &tree);
        } else if is_data(event) {
            sizes.leave_open(event, &record.before, &tree);
            let fate = data_luck.fate(data_seen, dice);
            data_seen += 1;
            change(&mut tree, event, fate, data_luck, dice);
        } else if is_name(event) {
            if let Event::Create { file, node, .. } = event {
                tree.add(*file, node.clone());
            }
            // A name is there or is not: the journal of a file system writes it in one piece.
            if name_luck.fate(names_seen, dice) != Fate::Missing {
                name(&mut tree, event);
            }
            names_seen += 1;
        }
    }
    let old_sizes = sizes.cut_back(&mut tree, dice);
    let luck = format!("{data} changes of data ({data_luck:?}), {names} of names ({name_luck:?}), {old_sizes} files with an old size");
    Image { tree, cut, unsynced: data + names, luck }
}

/// Which events a completed sync covers.
fn settled(events: &[Event], syncs: Syncs) -> Vec<bool> {
    let mut settled = vec![false; events.len()];
    let mut open: BTreeMap<FileId, Vec<usize>> = BTreeMap::new();
    let mut halves = BTreeSet::new();
    for (n, event) in events.iter().enumerate() {
        match event {
            Event::Write { file, .. } | Event::Resize { file, .. } => open.entry(*file).or_default().push(n),
            Event::Create { at, .. } | Event::Remove { at, .. } => open.entry(at.folder).or_default().push(n),
            Event::Rename { from, to, .. } => {
                open.entry(to.folder).or_default().push(n);
                if from.folder != to.folder {
                    open.entry(from.folder).or_default().push(n);
                    halves.insert(n);
                }
            }
            Event::Sync { data_only: true, .. } if syncs == Syncs::WithoutData => {}
            Event::Sync { file, begun, .. } => {
                if let Some(waiting) = open.get_mut(file) {
                    // A name that moved between folders is safe once both are.
                    waiting.iter().filter(|n| **n < *begun).for_each(|n| settled[*n] = !halves.remove(n));
                    waiting.retain(|n| n >= begun);
                }
            }
            Event::Heard(_) => {}
        }
    }
    settled
}

fn change(tree: &mut Tree, event: &Event, fate: Fate, luck: Luck, dice: &mut Dice) {
    match (event, fate) {
        (_, Fate::There) => event.happen(tree),
        (Event::Write { file, offset, bytes }, Fate::Missing) => {
            if dice.chance(300) {
                grow(tree, *file, offset + bytes.len());
            }
        }
        (Event::Write { file, offset, bytes }, Fate::Torn) => {
            if dice.chance(500) {
                grow(tree, *file, offset + bytes.len());
            }
            tear(tree, *file, *offset, bytes, luck, dice);
        }
        (Event::Resize { .. }, Fate::Torn) => {
            if dice.chance(500) {
                event.happen(tree);
            }
        }
        (_, Fate::Missing | Fate::Torn) => {}
    }
}

/// The size arrived, the bytes did not.
fn grow(tree: &mut Tree, file: FileId, len: usize) {
    if tree.bytes(file).len() < len {
        tree.resize(file, len);
    }
}

/// Writes some sectors of a write: those up to a point, those from a point on, or any.
fn tear(tree: &mut Tree, file: FileId, offset: usize, bytes: &[u8], luck: Luck, dice: &mut Dice) {
    let first = offset / SECTOR_BYTES;
    let end = (offset + bytes.len()).div_ceil(SECTOR_BYTES);
    let point = first + dice.index(end - first + 1);
    let per_mille = if let Luck::Sectors(per_mille) = luck { Some(per_mille) } else { dice.chance(300).then_some(500) };
    let up_to = dice.chance(500);
    for sector in first..end {
        let there = match per_mille {
            Some(per_mille) => dice.chance(per_mille),
            None => (sector < point) == up_to,
        };
        if there {
            let from = (sector * SECTOR_BYTES).max(offset);
            let to = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len());
            tree.write(file, from, &bytes[from - offset..to - offset]);
        }
    }
}

fn name(tree: &mut Tree, event: &Event) {
    match event {
        Event::Create { at, file, .. } => tree.name(at, *file),
        Event::Rename { file, from, to } => {
            tree.unname(from, *file);
            tree.name(to, *file);
        }
        Event::Remove { at, file } => tree.unname(at, *file),
        Event::Write { .. } | Event::Resize { .. } | Event::Sync { .. } | Event::Heard(_) => {}
    }
}

/// The sizes that are promised of files whose size is open.
#[derive(Default)]
struct Sizes {
    durable: BTreeMap<FileId, usize>,
    open: BTreeSet<FileId>,
}

impl Sizes {
    fn settle(&mut self, event: &Event, tree: &Tree) {
        if let Event::Write { file, .. } | Event::Resize { file, .. } = event {
            self.durable.insert(*file, tree.bytes(*file).len());
        }
    }

    fn leave_open(&mut self, event: &Event, before: &Tree, tree: &Tree) {
        if let Event::Write { file, .. } | Event::Resize { file, .. } = event {
            // A file that was there before and has not been touched has the size that it had; a new one has none.
            self.durable.entry(*file).or_insert_with(|| before.bytes(*file).len().min(tree.bytes(*file).len()));
            self.open.insert(*file);
        }
    }

    /// Gives some files the size that is promised, if theirs is larger; says how many.
    fn cut_back(&self, tree: &mut Tree, dice: &mut Dice) -> usize {
        let mut cut = 0;
        let often = dice.pick(&[0, 300, 1_000]);
        for file in &self.open {
            let promised = self.durable.get(file).copied().unwrap_or(0);
            if tree.bytes(*file).len() > promised && dice.chance(often) {
                tree.resize(*file, promised);
                cut += 1;
            }
        }
        cut
    }
}
