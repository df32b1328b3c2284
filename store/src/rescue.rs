//! A store that can never be opened again is moved aside and kept, and what can be read of it goes into a new one.
//!
//! Every record keeps its key and its value, so each event keeps its epoch and its seq. Seqs for which no event was found are written
//! down as lost, so that the outbox may have a gap there; new seqs follow the highest that is known. A new start has a new epoch, so none
//! is ever given twice.
//!
//! ```text
//! DATA_DIR/
//!   store/             damaged
//!   store.new/         being filled
//!   store.rescued/     filled and synced: from here on a start only finishes the renaming
//!   store.damaged-1/   the damaged one, kept until a person removes it
//!   store.damaged-1.txt  what became of it, a line
//! ```
//!
//! A power cut at any step leaves a folder from which the next start goes on.

use crate::disk::{COMMIT_RECORDS_MAX, Disk, Op, Space, VALUE_BYTES_MAX};
use crate::error::{CommitError, OpenError, ReadError};
use crate::folder::Room;
use crate::layout::{FORMAT, Identity, Kind, QueuedHead, key, value};
use crate::salvage::Salvage;
use crate::sled_disk::{SledDisk, SledOptions};
use crate::store::Store;
use gateway::ids::{Name, Seq};
use gateway::io::Opened;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What the data folder says of a store that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Where it is.
    pub path: PathBuf,
    /// What was rescued of it and what was not; a sentence.
    pub account: String,
}

/// What a rescue came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Account {
    reason: String,
    records: u64,
    unreadable: u64,
    queued: u64,
    lost: Vec<(Seq, Seq)>,
    damaged_bytes: u64,
}

/// Opens the store of a data folder like [`SledDisk::open`] and [`Store::open`]. If it is damaged, it is moved aside first and rescued.
///
/// # Errors
/// As those, but for damage; or the rescue failed, and may be tried again.
pub fn open_or_rescue(options: SledOptions, gateway: Name) -> Result<(Store<SledDisk>, Opened), OpenError> {
    let twice = || {
        open(options.clone(), gateway.clone()).or_else(|error| {
            // Once more: moving a store aside is not for a card that was not ready yet.
            if error.is_damage() { open(options.clone(), gateway.clone()) } else { Err(error) }
        })
    };
    match twice() {
        Err(error) if error.is_damage() => {
            tracing::error!(error = chain(&error), "the store is damaged; it is moved aside and rescued");
            let account = rescue(&options, &gateway, &chain(&error))?;
            tracing::error!(account = %account.sentence(), "the damaged store was moved aside; look at what is lost, then remove it");
            open(options, gateway)
        }
        result => result,
    }
}

fn open(options: SledOptions, gateway: Name) -> Result<(Store<SledDisk>, Opened), OpenError> {
    let disk = SledDisk::open(options)?;
    Store::open(disk, gateway)
}

/// The stores that were moved aside in a data folder and that nobody has removed yet.
///
/// # Errors
/// The system's.
pub fn aside(data_dir: &Path) -> io::Result<Vec<Aside>> {
    let mut aside = Vec::new();
    for entry in fs::read_dir(data_dir)? {
        let path = entry?.path();
        let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(DAMAGED));
        if named && path.is_dir() {
            let account = fs::read_to_string(account_of(&path)).unwrap_or_default();
            aside.push(Aside { account: account.trim().to_owned(), path });
        }
    }
    aside.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(aside)
}

const DAMAGED: &str = "store.damaged-";

fn account_of(damaged: &Path) -> PathBuf {
    damaged.with_extension(match damaged.extension().and_then(|extension| extension.to_str()) {
        Some(extension) => format!("{extension}.txt"),
        None => "txt".to_owned(),
    })
}

fn rescue(options: &SledOptions, gateway: &Name, reason: &str) -> Result<Account, OpenError> {
    let failed = |e: io::Error| OpenError::Disk(format!("the rescue: {e}"));
    // The new store is a data folder of its own until it is whole.
    let building = options.data_dir.join("store.new");
    remove(&building).map_err(failed)?;
    let mut account = Account { reason: reason.to_owned(), ..Account::default() };
    {
        let damaged = options.data_dir.join("store");
        let salvage = match Salvage::read(&damaged) {
            Ok(salvage) => Some(salvage),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e)),
        };
        let room = Room { ballast_bytes: 0, ..options.room };
        let mut disk = SledDisk::open(SledOptions { data_dir: building.clone(), room, ..options.clone() })?;
        if let Some(salvage) = salvage {
            fill(&mut disk, &salvage, &damaged, gateway, &mut account)?;
        }
    }
    let sync = |path: &Path| File::open(path)?.sync_all();
    let rescued = options.data_dir.join("store.rescued");
    remove(&rescued).map_err(failed)?;
    fs::rename(building.join("store"), &rescued).map_err(failed)?;
    let aside = unused(&options.data_dir);
    let mut text = File::create(account_of(&aside)).map_err(failed)?;
    writeln!(text, "{}", account.sentence()).and_then(|()| text.sync_all()).map_err(failed)?;
    sync(&building).and_then(|()| sync(&options.data_dir)).map_err(failed)?;
    fs::rename(options.data_dir.join("store"), &aside).and_then(|()| sync(&options.data_dir)).map_err(failed)?;
    fs::rename(&rescued, options.data_dir.join("store")).and_then(|()| sync(&options.data_dir)).map_err(failed)?;
    remove(&building).map_err(failed)?;
    Ok(account)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn unused(data_dir: &Path) -> PathBuf {
    let numbered = (1_u32..).map(|n| data_dir.join(format!("{DAMAGED}{n}")));
    numbered.into_iter().find(|path| !path.exists()).unwrap_or_else(|| data_dir.join(DAMAGED))
}

/// Copies what was salvaged into a new store.
fn fill(disk: &mut SledDisk, salvage: &Salvage, store: &Path, gateway: &Name, account: &mut Account) -> Result<(), OpenError> {
    let identity = salvage.get(&key::identity());
    match identity.as_deref().map(Identity::format) {
        Some(Ok(found)) if found > FORMAT => return Err(OpenError::Newer { found, known: FORMAT }),
        Some(_) | None => {}
    }
    let mut copy = Copy { disk, ops: Vec::new(), bytes: 0 };
    let mut outbox = Outbox::read(salvage);
    account.damaged_bytes = salvage.damaged_bytes;
    for key in salvage.keys() {
        let Some(value) = salvage.get(key).filter(|value| value.len() <= VALUE_BYTES_MAX) else {
            account.unreadable += 1;
            continue;
        };
        // Its checksum was right, so it is what somebody wrote: a newer release, which alone can rescue it.
        if value.first().is_some_and(|format| *format > value::RECORD_FORMAT) {
            let reason = "a newer release wrote records of this damaged store; install that release again, it rescues them";
            return Err(OpenError::Damaged { path: store.to_owned(), reason: reason.to_owned() });
        }
        match (Kind::read(key), crate::check::readable(key, &value)) {
            (Ok(Kind::Probe), _) => {}
            (Ok(Kind::Progress | Kind::Lost(_)), Ok(())) => {}
            // The journal is no promise: it stays with the damaged store.
            (Ok(Kind::Delivered(_)), _) => {}
            (Ok(Kind::Queued(seq)), Ok(())) if seq <= outbox.progress => {}
            (Ok(Kind::Queued(seq)), Ok(())) => {
                outbox.add(seq, key, &value, &mut copy)?;
                account.queued += 1;
                account.records += 1;
            }
            (Ok(_), Ok(())) => {
                copy.put(key.to_vec(), value)?;
                account.records += 1;
            }
            (Ok(_) | Err(_), _) => account.unreadable += 1,
        }
    }
    if identity.as_deref().is_none_or(|bytes| Identity::decode(bytes).is_err()) {
        copy.put(key::identity(), Identity { format: FORMAT, gateway: gateway.clone() }.encode())?;
    }
    account.lost = outbox.end(&mut copy)?;
    copy.commit()
}

/// Records on their way into the new store.
struct Copy<'d> {
    disk: &'d mut SledDisk,
    ops: Vec<Op>,
    bytes: usize,
}

impl Copy<'_> {
    /// About how many bytes one commit takes.
    const COMMIT_BYTES: usize = 1 << 20;

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), OpenError> {
        self.bytes += key.len() + value.len();
        self.ops.push(Op { key, value: Some(value) });
        if self.ops.len() == COMMIT_RECORDS_MAX || self.bytes >= Copy::COMMIT_BYTES { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), OpenError> {
        if self.ops.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let ops = std::mem::take(&mut self.ops);
        self.disk.commit(&ops, Space::Reserve).map_err(|e| match e {
            CommitError::NoSpace(reason) => OpenError::NoSpace(reason),
            CommitError::Unclear(reason) => OpenError::Disk(reason),
        })
    }
}

/// The outbox of the new store as far as it has come.
struct Outbox {
    progress: Seq,
    /// The highest seq that any record names.
    highest: Seq,
    last: Seq,
    sum: u64,
    lost: BTreeMap<Seq, Seq>,
}

impl Outbox {
    fn read(salvage: &Salvage) -> Outbox {
        let (mut first, mut highest, mut progress, mut lost) = (None, Seq(0), None, BTreeMap::new());
        let mut delivered = None;
        for key in salvage.keys() {
            match Kind::read(key) {
                Ok(Kind::Queued(seq)) => {
                    first.get_or_insert(seq);
                    highest = highest.max(seq);
                }
                Ok(Kind::Dead(seq) | Kind::HeldBySeq(seq)) => highest = highest.max(seq),
                Ok(Kind::Request(_)) => {
                    let remembered = salvage.get(key).and_then(|bytes| value::remembered(key, &bytes).ok());
                    highest = highest.max(remembered.map_or(Seq(0), |remembered| remembered.seq));
                }
                Ok(Kind::Progress) => progress = salvage.get(key).and_then(|bytes| value::seq(key, &bytes).ok()),
                Ok(Kind::Delivered(upto)) => delivered = delivered.max(Some(upto)),
                Ok(Kind::Lost(from)) => {
                    if let Some(Ok(to)) = salvage.get(key).map(|bytes| value::seq(key, &bytes)) {
                        lost.insert(from, to);
                        highest = highest.max(to);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
        // Each mark of the journal was the progress once.
        let progress = progress.max(delivered);
        // Without its record, all before the first event that is left counts as accounted for: the outbox removes in that order.
        let progress = progress.unwrap_or_else(|| first.map_or(highest, |first: Seq| Seq(first.0.saturating_sub(1))));
        Outbox { progress, highest: highest.max(progress), last: progress, sum: 0, lost }
    }

    fn add(&mut self, seq: Seq, key: &[u8], bytes: &[u8], copy: &mut Copy<'_>) -> Result<(), OpenError> {
        self.miss(Seq(seq.0 - 1));
        let event = value::queued(key, bytes)?;
        let weight = QueuedHead::decode(key, bytes)?.weight;
        self.sum += u64::from(weight);
        self.last = seq;
        copy.put(key.to_vec(), value::encode_queued(QueuedHead { sum: self.sum, weight }, &event))
    }

    /// Nothing is there from the last event up to `upto`.
    fn miss(&mut self, upto: Seq) {
        if upto > self.last {
            self.lost.insert(self.last.next(), upto);
        }
    }

    /// Writes down what is lost and the progress; gives what is lost.
    fn end(mut self, copy: &mut Copy<'_>) -> Result<Vec<(Seq, Seq)>, OpenError> {
        self.miss(self.highest);
        let lost: Vec<_> = self.lost.into_iter().filter(|(_, last)| *last > self.progress).collect();
        for (first, last) in &lost {
            copy.put(key::lost(*first), value::encode_seq(*last))?;
        }
        copy.put(key::progress(), value::encode_seq(self.progress))?;
        Ok(lost)
    }
}

impl Account {
    fn sentence(&self) -> String {
        let Account { reason, records, unreadable, queued, lost, damaged_bytes } = self;
        let count: u64 = lost.iter().map(|(first, last)| last.0 - first.0 + 1).sum();
        let ranges = lost.iter().map(|(first, last)| format!("{first} to {last}")).collect::<Vec<_>>().join(", ");
        let missing = if lost.is_empty() {
            "no event that waited for Kafka is missing".to_owned()
        } else {
            format!("{count} events that waited for Kafka, or were delivered lately, are missing: seq {ranges}")
        };
        format!(
            "rescued {records} records with {queued} waiting events; {missing}; {unreadable} records and {damaged_bytes} bytes were \
             unreadable. It could not be opened: {reason}"
        )
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

impl OpenError {
    /// Whether what is there will never open: trying again cannot help.
    pub fn is_damage(&self) -> bool {
        matches!(self, OpenError::Damaged { .. } | OpenError::Read(ReadError::Damaged { .. }))
    }
}
