//! sled 0.34, with the cures that make it keep what it acknowledged.
//!
//! sled's `flush` ends in `sync_file_range`, which saves neither the file's size nor its extents nor what a device caches: after a power
//! cut all of it was gone. So every commit here ends in an `fdatasync` of the same file by a handle of our own, and only then returns.
//! Further: what sled creates is synced with its folders before anything is acknowledged; snapshots that are not whole, which make every
//! opening fail, are removed first; `conf` is believed only with its checksum; no commit is so large that a torn one could come back in
//! parts; no value so large that it would become a file that is never synced; and sled never meets a full disk, since its writes fail
//! for good then, deletions too.

use crate::disk::{Disk, Op, Read, Record, Space};
use crate::error::{CommitError, OpenError, ReadError};
use crate::folder::{Folder, Room, sync_folder};
use crate::layout::{key, value};
use crate::reads;
use crate::store::identity;
use rustix::fs::{Advice, Timespec, Timestamps};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// sled's segment size. It can never change once a store exists; 16 values of [`crate::disk::VALUE_BYTES_MAX`] fit a quarter of it.
pub(crate) const SEGMENT_BYTES: usize = 2 << 20;
/// sled's page cache.
const CACHE_BYTES: u64 = 4 << 20;
/// Zeros that are written at once behind the end of sled's file, and the largest commit that is worth them. A file that grows makes the
/// file system write its journal at each sync, about 20 KB; one that is written over does not.
const AHEAD_BYTES: u64 = 256 << 10;
const SMALL_COMMIT_BYTES: u64 = 16 << 10;
/// How long the previous handle may take to let go of sled's lock after it was dropped.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Called after each disk sync; an error counts as the sync's. For measurements (a slower disk) and for tests (a failing one).
pub type SyncHook = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Where and how a disk is opened.
#[derive(Clone)]
pub struct SledOptions {
    /// The data folder. It is made if it is missing; one process has it at a time.
    pub data_dir: PathBuf,
    /// How the last room is shared out.
    pub room: Room,
    /// Take a folder where a sync protects nothing, such as one in memory: for tests and the demo.
    pub allow_volatile: bool,
    /// Called after each disk sync.
    pub sync_hook: Option<SyncHook>,
}

impl SledOptions {
    /// The usual options for a data folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> SledOptions {
        SledOptions { data_dir: data_dir.into(), room: Room::default(), allow_volatile: false, sync_hook: None }
    }
}

impl std::fmt::Debug for SledOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledOptions").field("data_dir", &self.data_dir).field("room", &self.room).finish_non_exhaustive()
    }
}

/// What the last commit cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitCost {
    /// From sled's flush to the end of the disk sync.
    pub sync: Duration,
    /// Bytes of the keys and values that were written.
    pub bytes: u64,
}

/// A sled database in a data folder.
#[derive(Debug)]
pub struct SledDisk {
    folder: Folder,
    options: SledOptions,
    reader: SledReader,
    /// Our own handle on sled's file, for the one sync function. Present while the database is open.
    file: Option<File>,
    /// The file's length after the last commit.
    file_len: u64,
    syncs: u64,
    cost: CommitCost,
}

/// Reads of a [`SledDisk`], also from another thread while a commit syncs. Closed while the disk is; after a reopening it reads the new
/// handle. It may show what the commit in flight is about to make durable.
#[derive(Debug, Clone, Default)]
pub struct SledReader {
    db: Arc<RwLock<Option<sled::Db>>>,
    /// A page could not be read although the device gave its bytes.
    suspected: Arc<AtomicBool>,
}

impl SledDisk {
    /// Takes the data folder and opens the database in it, or makes one; proves that a sync here is a sync.
    ///
    /// # Errors
    /// No record was changed or removed.
    pub fn open(options: SledOptions) -> Result<SledDisk, OpenError> {
        let folder = Folder::take(&options.data_dir, options.room)?;
        if !options.allow_volatile {
            folder.check_durable()?;
        }
        let mut disk =
            SledDisk { folder, options, reader: SledReader::default(), file: None, file_len: 0, syncs: 0, cost: CommitCost::default() };
        disk.reopen()?;
        Ok(disk)
    }

    /// Opens the database of a data folder in order to read it: makes none, proves nothing, and leaves the ballast alone.
    ///
    /// # Errors
    /// As [`SledDisk::open`]; [`OpenError::Missing`] if there is none.
    pub(crate) fn open_as_it_is(data_dir: &Path) -> Result<SledDisk, OpenError> {
        let options = SledOptions { allow_volatile: true, ..SledOptions::new(data_dir) };
        if !data_dir.join("store").is_dir() && !data_dir.join("store.rescued").is_dir() {
            return Err(OpenError::Missing { path: data_dir.to_owned() });
        }
        let folder = Folder::take(data_dir, options.room)?;
        let mut disk =
            SledDisk { folder, options, reader: SledReader::default(), file: None, file_len: 0, syncs: 0, cost: CommitCost::default() };
        if !disk.folder.store().exists() {
            disk.finish_rescue().map_err(|e| OpenError::Disk(e.to_string()))?;
        }
        disk.open_existing()?;
        Ok(disk)
    }

    /// Reads of this disk, for another thread.
    pub fn reader(&self) -> SledReader {
        self.reader.clone()
    }

    /// What the last commit cost.
    pub fn last_cost(&self) -> CommitCost {
        self.cost
    }

    /// Disk syncs since the start.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    fn close(&mut self) {
        self.file = None;
        let db = self.reader.slot().write().unwrap_or_else(PoisonError::into_inner).take();
        if !let_go(db) {
            tracing::error!(path = %self.folder.path().display(), "closing the broken store failed too");
        }
    }

    fn create(&self) -> Result<(), OpenError> {
        let (new, path) = (self.folder.new_store(), self.folder.store());
        let failed = |e: io::Error| open_error(&path, &sled::Error::Io(e));
        // It was never renamed, so nothing was ever acknowledged from it.
        match fs::remove_dir_all(&new) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            Ok(()) | Err(_) => {}
        }
        let_go(Some(open_sled(&new)?));
        sync_files(&new).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)?;
        self.folder.sync().map_err(failed)
    }

    /// Opens an existing database, and sees to it that all its files are durable. Where that fails the disk is closed.
    fn open_existing(&mut self) -> Result<(), OpenError> {
        self.open_files().inspect_err(|_| self.close())
    }

    fn open_files(&mut self) -> Result<(), OpenError> {
        let path = self.folder.store();
        let failed = |e: io::Error| open_error(&path, &sled::Error::Io(e));
        remove_bad_snapshots(&path).map_err(failed)?;
        check_conf(&path)?;
        let file = OpenOptions::new().read(true).write(true).open(path.join("db")).map_err(failed)?;
        read_from_disk(&file).map_err(failed)?;
        let db = open_sled(&path)?;
        *self.reader.slot().write().unwrap_or_else(PoisonError::into_inner) = Some(db);
        sync_files(&path).map_err(failed)?;
        self.folder.sync().map_err(failed)?;
        self.file_len = file.metadata().map_err(failed)?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes something and looks whether it went the way that commits rely on: sled's flush must have written to the very file that our
    /// handle syncs, and the commit must have ended in a sync. The file's time of change is set back first, so that a write shows
    /// however coarse the clock is. That the sync reaches the medium only a power cut can show.
    fn prove_sync(&mut self) -> Result<(), OpenError> {
        let broken = |e: io::Error| OpenError::Disk(e.to_string());
        let closed = || OpenError::Read(ReadError::Closed);
        let long_ago = Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = Timestamps { last_access: long_ago, last_modification: long_ago };
        rustix::fs::futimens(self.file.as_ref().ok_or_else(closed)?, &times).map_err(|e| broken(e.into()))?;
        let syncs = self.syncs;
        let probe = Op { key: key::probe(), value: Some(value::encode_probe()) };
        self.commit(&[probe], Space::Reserve).map_err(|e| match e {
            CommitError::NoSpace(reason) => OpenError::NoSpace(reason),
            CommitError::Unclear(reason) => OpenError::Disk(reason),
        })?;
        let ours = self.file.as_ref().ok_or_else(closed)?.metadata().map_err(broken)?;
        let named = fs::metadata(self.folder.store().join("db")).map_err(broken)?;
        if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
            return Err(self.not_durable("the database's file was replaced by another while it was opened"));
        }
        if ours.mtime() == long_ago.tv_sec {
            return Err(self.not_durable("a flushed write did not arrive in the file that is synced"));
        }
        if self.syncs != syncs + 1 {
            return Err(self.not_durable("a commit did not end in a disk sync"));
        }
        Ok(())
    }

    /// Gives the store that a rescue left its name, if there is one.
    fn finish_rescue(&self) -> io::Result<bool> {
        match fs::rename(self.folder.rescued_store(), self.folder.store()) {
            Ok(()) => self.folder.sync().map(|()| true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads every record if a page could not be read since the last time; also by the process before this one.
    fn clear_of_suspicion(&self) -> Result<(), OpenError> {
        let mark = self.folder.suspicion();
        let suspected = self.reader.suspected.swap(false, Ordering::SeqCst);
        if !suspected && !mark.exists() {
            return Ok(());
        }
        // A disk that does not take the mark is read all the same; only the next process would not know.
        if let Err(error) = File::create(&mark).and_then(|file| file.sync_all()) {
            tracing::warn!(path = %mark.display(), %error, "the suspicion cannot be written down");
        }
        tracing::warn!(path = %self.folder.path().display(), "a page of the store could not be read; reading all of it");
        reads::for_each(self, key::all(), |_, _| Ok(()))?;
        match fs::remove_file(&mark) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(OpenError::Disk(format!("{}: {e}", mark.display()))),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn not_durable(&self, reason: &str) -> OpenError {
        OpenError::NotDurable { path: self.folder.path().to_owned(), reason: reason.to_owned() }
    }

    fn has_room(&mut self, space: Space) -> Result<(), CommitError> {
        let room = match space {
            Space::Floor => self.folder.room_to_admit(),
            Space::Reserve => self.folder.room_to_drain(),
        };
        match room {
            Ok(room) => room.map_err(CommitError::NoSpace),
            Err(e) => Err(self.fail(format!("{}: {e}", self.folder.path().display()))),
        }
    }

    fn fail(&mut self, reason: String) -> CommitError {
        self.close();
        CommitError::Unclear(reason)
    }

    fn write(&mut self, ops: &[Op]) -> Result<Duration, String> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match &op.value {
                Some(value) => batch.insert(op.key.as_slice(), value.as_slice()),
                None => batch.remove(op.key.as_slice()),
            }
        }
        self.reader.call(|db| db.apply_batch(batch)).map_err(|e| e.to_string())?;
        let begun = Instant::now();
        self.reader.call(|db| db.flush()).map_err(|e| e.to_string())?;
        self.write_ahead(ops).map_err(|e| e.to_string())?;
        self.sync().map_err(|e| e.to_string())?;
        Ok(begun.elapsed())
    }

    /// Where a small commit made the file grow, fills the segment some way on with zeros, as sled itself does when it opens: the next
    /// commits are written over them. The bytes behind the end are nobody's while no call of sled runs and all that was given to it is
    /// written, and sled takes zeros there for the end of its log.
    fn write_ahead(&mut self, ops: &[Op]) -> Result<(), ReadError> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |e: io::Error| ReadError::Disk(e.to_string());
        let len = file.metadata().map_err(failed)?.len();
        let grown = len > std::mem::replace(&mut self.file_len, len);
        if !grown || written_bytes(ops) > SMALL_COMMIT_BYTES || !matches!(self.folder.room_to_admit(), Ok(Ok(()))) {
            return Ok(());
        }
        self.file_len = self.reader.call_alone(|db| {
            db.flush()?;
            let len = file.metadata()?.len();
            let end = len.next_multiple_of(SEGMENT_BYTES as u64).min(len + AHEAD_BYTES);
            let zeros = vec![0; usize::try_from(end - len).unwrap_or(0)];
            // The file may stay as short as it is: then the next commit makes it grow.
            Ok(if file.write_all_at(&zeros, len).is_ok() { end } else { len })
        })?;
        Ok(())
    }

    /// The one place where bytes become durable. The system call is made without the C library, so that a preloaded one which skips
    /// syncs has no say.
    fn sync(&mut self) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(ErrorKind::NotConnected)?;
        rustix::fs::fdatasync(file)?;
        self.syncs += 1;
        self.options.sync_hook.as_ref().map_or(Ok(()), |hook| hook())
    }
}

impl Disk for SledDisk {
    fn commit(&mut self, ops: &[Op], space: Space) -> Result<(), CommitError> {
        if self.file.is_none() {
            return Err(CommitError::Unclear("the store is closed since an earlier failure".into()));
        }
        self.has_room(space)?;
        let sync = self.write(ops).map_err(|e| self.fail(e))?;
        self.cost = CommitCost { sync, bytes: written_bytes(ops) };
        Ok(())
    }

    fn is_short(&self) -> bool {
        self.folder.is_short()
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        self.close();
        let broken = |e: io::Error| OpenError::Disk(e.to_string());
        self.folder.room_to_drain().map_err(broken)?.map_err(OpenError::NoSpace)?;
        if !self.folder.store().exists() && !self.finish_rescue().map_err(broken)? {
            self.create()?;
        }
        self.open_existing()?;
        // A newer release's store is not written to, not even for the proof.
        if let Err(e) = identity(self).and_then(|_| self.clear_of_suspicion()).and_then(|()| self.prove_sync()) {
            self.close();
            return Err(e);
        }
        self.folder.restore_ballast().map_err(broken)
    }
}

impl Drop for SledDisk {
    fn drop(&mut self) {
        self.close();
    }
}

impl Read for SledDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.reader.get(key)
    }
    fn range(&self, from: &[u8], to: &[u8], records_max: usize, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        self.reader.range(from, to, records_max, bytes_max)
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, ReadError> {
        self.reader.last(from, to)
    }
}

impl SledReader {
    fn slot(&self) -> &RwLock<Option<sled::Db>> {
        &self.db
    }

    /// Calls sled. It panics on some broken disks where it might return an error: that becomes one.
    fn call<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, ReadError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        self.guard(db.as_ref(), call)
    }

    /// As [`SledReader::call`], while no other thread calls sled.
    fn call_alone<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, ReadError> {
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        self.guard(db.as_ref(), call)
    }

    fn guard<T>(&self, db: Option<&sled::Db>, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, ReadError> {
        let db = db.ok_or(ReadError::Closed)?;
        let damaged = |reason: String| {
            self.suspected.store(true, Ordering::SeqCst);
            ReadError::Damaged { key: "(a page of the database)".into(), reason }
        };
        match catch_unwind(AssertUnwindSafe(|| call(db))) {
            Ok(Err(e @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_)))) => Err(damaged(e.to_string())),
            Ok(result) => result.map_err(|e| ReadError::Disk(e.to_string())),
            Err(_) => Err(damaged("sled panicked".into())),
        }
    }
}

impl Read for SledReader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.call(|db| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    fn range(&self, from: &[u8], to: &[u8], records_max: usize, bytes_max: usize) -> Result<Vec<Record>, ReadError> {
        self.call(|db| {
            let mut records = Vec::new();
            let mut bytes = 0;
            for record in db.range(from..to).take(records_max) {
                let (key, value) = record?;
                // sled's cache is of 256 parts, and each looks at its limit only after 64 accesses. A scan is one access to a page of 16
                // records: without more of them it would keep all that it reads.
                db.contains_key(&key)?;
                bytes += key.len() + value.len();
                records.push((key.to_vec(), value.to_vec()));
                if bytes >= bytes_max {
                    break;
                }
            }
            Ok(records)
        })
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Record>, ReadError> {
        self.call(|db| {
            let last = db.range(from..to).next_back().transpose()?;
            Ok(last.map(|(key, value)| (key.to_vec(), value.to_vec())))
        })
    }
}

/// Bytes of the keys and values.
fn written_bytes(ops: &[Op]) -> u64 {
    ops.iter().map(|op| op.key.len() + op.value.as_ref().map_or(0, Vec::len)).sum::<usize>() as u64
}

/// Opens sled, waiting a moment for the lock: a handle that was just dropped may still hold it.
fn open_sled(path: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .use_compression(false)
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput);
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(e)) if is_locked(&e) && Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            Ok(Err(e)) => return Err(open_error(path, &e)),
            Err(_) => {
                let reason = "sled panicked while it read its files".to_owned();
                return Err(OpenError::Damaged { path: path.to_owned(), reason });
            }
        }
    }
}

/// On a broken disk sled's last sync panics while it is dropped; it is on its way out all the same. Whether it went in peace.
fn let_go(db: Option<sled::Db>) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(db))).is_ok()
}

fn is_locked(e: &sled::Error) -> bool {
    matches!(e, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

fn open_error(path: &Path, e: &sled::Error) -> OpenError {
    match e {
        sled::Error::Io(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => OpenError::NoSpace(e.to_string()),
        sled::Error::Io(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            OpenError::NotWritable { path: path.to_owned(), reason: e.to_string() }
        }
        sled::Error::Io(e) => OpenError::Disk(format!("{}: {e}", path.display())),
        e => OpenError::Damaged { path: path.to_owned(), reason: e.to_string() },
    }
}

/// Makes all that sled created durable, names included.
fn sync_files(path: &Path) -> io::Result<()> {
    for name in ["conf", "db"] {
        File::open(path.join(name))?.sync_all()?;
    }
    sync_folder(&path.join("blobs"))?;
    sync_folder(path)
}

/// Lets go of what the system holds of a file in memory. After a failed sync Linux counts the bytes that it could not write as written:
/// read from memory they would look durable, and a power cut would take them.
fn read_from_disk(file: &File) -> io::Result<()> {
    file.sync_data()?;
    Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?)
}

/// Removes the snapshots that sled could not use: what it leaves when it dies while it writes one (`.generating`; sled issues 1527 and
/// 1533), and those of which a disk has kept a part only. On either it fails for good; without them it reads its log from the beginning
/// and makes a new one. What it says in memory is no proof, hence [`read_from_disk`].
///
/// ```text
/// +------------+--------------------------+--------------------------------+
/// | the pages' | bytes of the pages'      | CRC-32 of the pages'           |
/// | places     | places, u64 LE           | places, u32 LE                 |
/// +------------+--------------------------+--------------------------------+
/// ```
fn remove_bad_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(snapshot) = name.to_str().filter(|name| name.starts_with("snap.")) else { continue };
        if snapshot.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        } else if !is_whole_snapshot(&entry.path())? {
            tracing::warn!(snapshot, "the disk has not kept a snapshot of the store: its log is read instead");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_whole_snapshot(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    read_from_disk(&file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let Some((rest, crc)) = bytes.split_last_chunk::<4>() else { return Ok(false) };
    let Some((places, _)) = rest.split_last_chunk::<8>() else { return Ok(false) };
    Ok(!places.is_empty() && crc32(places) == u32::from_le_bytes(*crc))
}

/// The sum that sled uses.
fn crc32(bytes: &[u8]) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(bytes)
}

/// Checks `conf`, which sled would take with a wrong checksum, or write anew if it were short.
///
/// ```text
/// +---------------------------------------------+----------------+
/// | "segment_size: 2097152\nuse_compression: …" | CRC-32, u32 LE |
/// +---------------------------------------------+----------------+
/// ```
fn check_conf(path: &Path) -> Result<(), OpenError> {
    let damaged = |reason: &str| OpenError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let conf = match fs::read(path.join("conf")) {
        Ok(conf) => conf,
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(damaged("its file conf is missing")),
        Err(e) => return Err(open_error(path, &sled::Error::Io(e))),
    };
    let Some((text, crc)) = conf.split_last_chunk::<4>() else { return Err(damaged("its file conf is cut off")) };
    if crc32(text) != u32::from_le_bytes(*crc) {
        return Err(damaged("the checksum of its file conf is wrong"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> SledDisk {
        let room = Room { floor_bytes: 0, reserve_bytes: 0, ballast_bytes: 0 };
        SledDisk::open(SledOptions { room, allow_volatile: true, ..SledOptions::new(dir) }).unwrap()
    }

    #[test]
    fn a_commit_is_a_sync_of_our_handle_by_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        // The system refuses to sync this one: so it was asked.
        disk.file = Some(File::open("/dev/null").unwrap());
        let error = disk.commit(&[Op { key: b"Qa".to_vec(), value: Some(vec![1]) }], Space::Floor).unwrap_err();
        assert!(matches!(&error, CommitError::Unclear(reason) if reason.contains("Invalid argument")), "{error}");
    }

    #[test]
    fn writes_that_go_to_another_file_than_the_synced_one_are_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open(dir.path());
        let db = dir.path().join("store/db");
        fs::rename(&db, db.with_extension("old")).unwrap();
        fs::copy(db.with_extension("old"), &db).unwrap();
        disk.file = Some(OpenOptions::new().read(true).write(true).open(&db).unwrap());
        let error = disk.prove_sync().unwrap_err();
        assert!(matches!(&error, OpenError::NotDurable { reason, .. } if reason.contains("did not arrive")), "{error}");
    }
}
