//! The data folder: who may use it, how much room is left, and whether a sync protects anything there.
//!
//! ```text
//! DATA_DIR/
//!   lock         held by the one process that has the folder; its process id, as text
//!   ballast      zeros: room that is given up only so that a full store can open and drain
//!   intent       what the uplink is about to commit to Kafka: see the module `intent`
//!   store/       sled's own files
//!   store.suspect  made when a page could not be read: the next opening reads every record before it trusts the store
//!   store.new/   a store that is being made: renamed once it is whole, so that a torn one is never opened
//! ```

use crate::error::OpenError;
use rustix::fs::{FallocateFlags, StatVfs};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How a disk's last room is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Nothing new is stored while less than this is free, in bytes.
    pub floor_bytes: u64,
    /// Nothing at all is written while less than this is free, in bytes: sled must never meet a full disk.
    pub reserve_bytes: u64,
    /// Size of the ballast file: at least the reserve and what a drain writes.
    pub ballast_bytes: u64,
}

impl Default for Room {
    fn default() -> Room {
        Room { floor_bytes: 64 << 20, reserve_bytes: 6 << 20, ballast_bytes: 16 << 20 }
    }
}

/// Nothing new is stored while fewer files than this can be made: sled writes each of its snapshots as a new file.
const FILES_TO_ADMIT: u64 = 8;
/// To open and to drain, which the ballast's own inode is enough for.
const FILES_TO_DRAIN: u64 = 1;

/// A data folder that this process has for itself until it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    room: Room,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is missing, and takes it.
    ///
    /// # Errors
    /// Another process has it, or it may not be written.
    pub fn take(path: &Path, room: Room) -> Result<Folder, OpenError> {
        let refuse = |path: &Path, e: &io::Error| OpenError::NotWritable { path: path.to_owned(), reason: e.to_string() };
        make_durably(path).map_err(|e| refuse(path, &e))?;
        let lock_path = path.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let mut lock = open.map_err(|e| refuse(&lock_path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: lock_path, holder: holder(&mut lock) }),
            Err(TryLockError::Error(e)) => return Err(refuse(&lock_path, &e)),
        }
        // The name is for people; a disk that is full to the last byte is opened all the same.
        if let Err(error) = write_holder(&mut lock) {
            tracing::warn!(path = %lock_path.display(), %error, "the process's id cannot be written down");
        }
        Ok(Folder { path: path.to_owned(), room, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    pub fn new_store(&self) -> PathBuf {
        self.path.join("store.new")
    }

    /// A rescued store that only has to be renamed; see the module `rescue`.
    pub fn rescued_store(&self) -> PathBuf {
        self.path.join("store.rescued")
    }

    /// There while the store is under suspicion.
    pub fn suspicion(&self) -> PathBuf {
        self.path.join("store.suspect")
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Whether there is room to admit something new; if not, says how much is missing.
    pub fn room_to_admit(&self) -> io::Result<Result<(), String>> {
        Ok(Free::at(&self.path)?.enough(self.room.floor_bytes, FILES_TO_ADMIT))
    }

    /// Whether less than twice the floor is free.
    pub fn is_short(&self) -> bool {
        free_bytes(&self.path).is_ok_and(|free| free < self.room.floor_bytes.saturating_mul(2))
    }

    /// Whether there is room to open or to drain. Gives the ballast up if that is what it takes.
    pub fn room_to_drain(&self) -> io::Result<Result<(), String>> {
        let enough = || Ok(Free::at(&self.path)?.enough(self.room.reserve_bytes, FILES_TO_DRAIN));
        if enough()?.is_ok() {
            return Ok(Ok(()));
        }
        match fs::remove_file(self.ballast()) {
            Ok(()) => {
                tracing::warn!(path = %self.ballast().display(), "the disk is full: the ballast was given up so that the store can drain");
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        enough()
    }

    /// Puts the ballast back once there is room for it above the floor.
    pub fn restore_ballast(&self) -> io::Result<()> {
        let path = self.ballast();
        let wanted = self.room.ballast_bytes;
        if wanted == 0 || fs::metadata(&path).is_ok_and(|m| m.len() == wanted) {
            return Ok(());
        }
        if Free::at(&self.path)?.enough(self.room.floor_bytes.saturating_add(wanted), FILES_TO_ADMIT + 1).is_err() {
            return Ok(());
        }
        let mut file = File::create(&path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, wanted) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP) => {
                io::copy(&mut io::repeat(0).take(wanted), &mut file)?;
            }
            Err(e) => return Err(e.into()),
        }
        file.sync_all()
    }

    /// Makes the entries of the folder durable.
    pub fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }

    /// Refuses a place where a sync protects nothing.
    ///
    /// # Errors
    /// It is a file system in memory, or one that is mounted without write barriers.
    pub fn check_durable(&self) -> Result<(), OpenError> {
        let refuse = |reason: String| OpenError::NotDurable { path: self.path.clone(), reason };
        let broken = |e: io::Error| OpenError::Disk(format!("{}: {e}", self.path.display()));
        let kind = rustix::fs::statfs(&self.path).map_err(|e| broken(e.into()))?.f_type;
        // The widths of f_type differ between targets; the magic numbers are 32 bits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        if matches!(kind as u32, TMPFS_MAGIC | RAMFS_MAGIC) {
            return Err(refuse("this file system is in memory and does not survive a power cut; choose a folder on a disk".into()));
        }
        let device = fs::metadata(&self.path).map_err(broken)?.dev();
        // Without /proc nothing is known about the mount, and nothing is claimed.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        match without_barriers(&mounts, &format!("{major}:{minor}")) {
            Some(option) => {
                Err(refuse(format!("it is mounted with {option}, so that a sync does not reach the disk; mount it without that")))
            }
            None => Ok(()),
        }
    }
}

const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// The option by which a device is mounted without write barriers: proc(5), fields of /proc/self/mountinfo.
fn without_barriers<'m>(mountinfo: &'m str, device: &str) -> Option<&'m str> {
    let mount = mountinfo.lines().find(|line| line.split(' ').nth(2) == Some(device))?;
    mount.rsplit(' ').next()?.split(',').find(|option| matches!(*option, "nobarrier" | "barrier=0"))
}

/// What this process may still use on a file system.
struct Free {
    bytes: u64,
    /// `None`: this file system does not count them.
    files: Option<u64>,
}

impl Free {
    fn at(path: &Path) -> io::Result<Free> {
        let StatVfs { f_bavail, f_frsize, f_files, f_favail, .. } = rustix::fs::statvfs(path)?;
        Ok(Free { bytes: f_bavail.saturating_mul(f_frsize), files: (f_files > 0).then_some(f_favail) })
    }

    fn enough(&self, needed_bytes: u64, needed_files: u64) -> Result<(), String> {
        if self.bytes < needed_bytes {
            return Err(format!("{} bytes are free, {needed_bytes} are needed", self.bytes));
        }
        match self.files {
            Some(files) if files < needed_files => Err(format!("{files} more files can be made (inodes), {needed_files} are needed")),
            Some(_) | None => Ok(()),
        }
    }
}

/// Bytes that this process may still use on the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    Ok(Free::at(path)?.bytes)
}

/// Makes a folder's entries durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a folder and those above it, and sees to it that a power cut does not take its name away, and all in it with the name.
fn make_durably(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if path.is_dir() {
        // Whoever made it may have been killed before the sync. A parent that may not be opened is another's, like systemd's.
        return match sync_folder(parent) {
            Err(e) if e.kind() != ErrorKind::PermissionDenied => Err(e),
            Ok(()) | Err(_) => Ok(()),
        };
    }
    if !parent.is_dir() {
        make_durably(parent)?;
    }
    // Orders name customers: what is made here is for this user alone.
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    sync_folder(parent)
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "(unknown)".to_owned(),
    }
}

fn write_holder(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_without_barriers_is_seen() {
        let mountinfo = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                         37 35 98:1 / /data rw shared:1 - ext4 /dev/sdb1 rw,nobarrier\n";
        assert_eq!(without_barriers(mountinfo, "98:1"), Some("nobarrier"));
        assert_eq!(without_barriers(mountinfo, "98:0"), None);
        assert_eq!(without_barriers(mountinfo, "98:2"), None);
    }

    #[test]
    fn a_full_disk_gives_up_the_ballast_once_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let roomy = Room { floor_bytes: 0, reserve_bytes: 0, ballast_bytes: 4096 };
        let folder = Folder::take(dir.path(), roomy).unwrap();
        folder.restore_ballast().unwrap();
        assert_eq!(fs::metadata(folder.ballast()).unwrap().len(), 4096);
        assert_eq!(folder.room_to_drain().unwrap(), Ok(()));
        assert!(folder.ballast().exists());
        drop(folder);

        let full = Folder::take(dir.path(), Room { reserve_bytes: u64::MAX, ..roomy }).unwrap();
        assert!(full.room_to_drain().unwrap().is_err());
        assert!(!full.ballast().exists());
        assert!(full.room_to_drain().unwrap().is_err());
    }

    #[test]
    fn the_ballast_is_not_restored_below_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(dir.path(), Room { floor_bytes: u64::MAX / 2, reserve_bytes: 0, ballast_bytes: 4096 }).unwrap();
        folder.restore_ballast().unwrap();
        assert!(!folder.ballast().exists());
    }
}
