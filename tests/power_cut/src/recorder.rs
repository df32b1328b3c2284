//! Makes a [`Record`] of a running process.
//!
//! Each call that changes the folder, or that syncs something in it, becomes an event when it is over; its arguments are read when it
//! begins. What cannot be recorded (a file that is mapped for writing, a link) breaks the record, and in the end the
//! record is proved: played again it has to give the very bytes that are on the disk.

use crate::record::{Event, Record};
use crate::trace::{self, Call, Interest, Thread, Watch};
use crate::tree::{FileId, Node, Place, ROOT, Tree};
use anyhow::{Context, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Longest path that is read from the process.
const PATH_BYTES_MAX: usize = 4096;
/// The process says what is stored by lines of this descriptor, its standard output.
const VOICE: i32 = 1;

/// Calls that are recorded, or refused by [`Calls::decode`].
const NUMBERS: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_io_uring_setup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
];

/// A process that is being recorded.
#[derive(Debug)]
pub struct Recording {
    events: Arc<Mutex<Vec<Event>>>,
    process: u32,
    thread: JoinHandle<anyhow::Result<Record>>,
    root: PathBuf,
}

impl Recording {
    /// Starts a command and records what it does to `root` and below. Each line that it writes to its standard output by a call of its own
    /// is something heard.
    ///
    /// # Errors
    /// The folder cannot be read, or the command cannot be started or traced.
    pub fn start(command: Command, root: &Path) -> anyhow::Result<Recording> {
        let root = root.canonicalize().with_context(|| root.display().to_string())?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let (started, start) = mpsc::channel();
        let thread = {
            let (events, root) = (Arc::clone(&events), root.clone());
            // The tracer has to be the thread that starts the process.
            std::thread::Builder::new().name("tracer".into()).spawn(move || {
                let mut calls = Calls::new(root, events, started)?;
                trace::run(command, NUMBERS, &mut calls)?;
                calls.finish()
            })?
        };
        match start.recv() {
            Ok(process) => Ok(Recording { events, process, thread, root }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) | Err(_) => bail!("the tracer ended before the process began"),
            },
        }
    }

    /// The process's id.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Marks the moment at which somebody has heard something. To be called after the answer arrived: by then all that the answer rests
    /// on stands in the record.
    pub fn heard(&self, what: String) {
        lock(&self.events).push(Event::Heard(what));
    }

    /// Whether the process has ended.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the process to end, and proves the record.
    ///
    /// # Errors
    /// The process ended badly, or the record is not complete.
    pub fn finish(self) -> anyhow::Result<Record> {
        let mut record = self.thread.join().map_err(|_| anyhow::anyhow!("the tracer panicked"))??;
        record.events = std::mem::take(&mut *lock(&self.events));
        record.prove(&Tree::read(&self.root, |_, _| {})?)?;
        Ok(record)
    }
}

fn lock(events: &Mutex<Vec<Event>>) -> std::sync::MutexGuard<'_, Vec<Event>> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a call that was begun is about to do.
#[derive(Debug)]
enum Begun {
    Open { path: PathBuf, cut: bool },
    MakeFolder(PathBuf),
    Write { file: FileId, offset: u64, bytes: Vec<u8> },
    Resize { file: FileId, len: u64 },
    Extend { file: FileId, end: u64 },
    Sync { file: FileId, begun: usize, data_only: bool },
    Rename { from: PathBuf, to: PathBuf },
    Remove(PathBuf),
    Say(String),
}

impl Begun {
    fn changes(&self) -> bool {
        !matches!(self, Begun::Sync { .. } | Begun::Say(_))
    }
}

/// The calls of one process, as they come.
#[derive(Debug)]
struct Calls {
    root: PathBuf,
    events: Arc<Mutex<Vec<Event>>>,
    started: Option<mpsc::Sender<u32>>,
    before: Tree,
    /// What each path names now.
    names: BTreeMap<PathBuf, FileId>,
    sizes: HashMap<FileId, u64>,
    /// By device and inode number, which is given anew once a file is gone.
    ids: HashMap<(u64, u64), FileId>,
    next_id: FileId,
    begun: HashMap<Thread, Begun>,
    broken: Option<anyhow::Error>,
}

impl Calls {
    fn new(root: PathBuf, events: Arc<Mutex<Vec<Event>>>, started: mpsc::Sender<u32>) -> anyhow::Result<Calls> {
        let (mut names, mut sizes, mut ids, mut failed) = (BTreeMap::new(), HashMap::new(), HashMap::new(), None);
        let before = Tree::read(&root, |path, file| match fs::symlink_metadata(path) {
            Ok(metadata) => {
                names.insert(path.to_owned(), file);
                sizes.insert(file, metadata.len());
                ids.insert((metadata.dev(), metadata.ino()), file);
            }
            Err(error) => failed = Some(error),
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let next_id = names.len();
        let (begun, started) = (HashMap::new(), Some(started));
        Ok(Calls { root, events, started, before, names, sizes, ids, next_id, begun, broken: None })
    }

    fn finish(self) -> anyhow::Result<Record> {
        match self.broken {
            None => Ok(Record { before: self.before, events: Vec::new() }),
            Some(error) => Err(error.context("the record broke")),
        }
    }

    fn push(&self, event: Event) {
        lock(&self.events).push(event);
    }

    /// The bytes that an array of `struct iovec` gathers.
    fn gather(thread: Thread, address: u64, count: u64) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for vector in read(thread, address, count * 16)?.chunks_exact(16) {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| vector[at + n]));
            bytes.extend(read(thread, word(0), word(8))?);
        }
        Ok(bytes)
    }

    fn read_path(thread: Thread, address: u64) -> anyhow::Result<PathBuf> {
        let mut bytes = vec![0; PATH_BYTES_MAX];
        let read = memory(thread)?.read_at(&mut bytes, address)?;
        let end = bytes[..read].iter().position(|byte| *byte == 0).context("a path has no end")?;
        bytes.truncate(end);
        Ok(PathBuf::from(String::from_utf8(bytes)?))
    }

    /// A path as the process means it, if it lies in the folder that is watched.
    fn path(&self, thread: Thread, folder: u64, text: u64) -> anyhow::Result<Option<PathBuf>> {
        let path = Calls::read_path(thread, text)?;
        let path = if path.is_absolute() {
            path
        } else if descriptor(folder) == libc::AT_FDCWD {
            fs::read_link(format!("/proc/{thread}/cwd"))?.join(path)
        } else {
            fs::read_link(format!("/proc/{thread}/fd/{}", descriptor(folder)))?.join(path)
        };
        let path: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
        if !path.starts_with(&self.root) {
            return Ok(None);
        }
        ensure!(!path.components().any(|part| part == Component::ParentDir), "{} has an unclear parent", path.display());
        Ok(Some(path))
    }

    /// Which file of the folder a descriptor is of.
    fn file(&self, thread: Thread, number: u64) -> Option<FileId> {
        let metadata = fs::metadata(format!("/proc/{thread}/fd/{}", descriptor(number))).ok()?;
        self.ids.get(&(metadata.dev(), metadata.ino())).copied()
    }

    /// Where a plain write of a descriptor goes.
    fn position(&self, thread: Thread, number: u64, file: FileId) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{thread}/fdinfo/{}", descriptor(number)))?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).context("fdinfo has changed");
        let flags = i32::from_str_radix(field("flags:")?, 8)?;
        if flags & libc::O_APPEND != 0 { Ok(self.sizes.get(&file).copied().unwrap_or(0)) } else { Ok(field("pos:")?.parse()?) }
    }

    fn place(&self, path: &Path) -> anyhow::Result<Place> {
        let parent = path.parent().context("the folder itself was touched")?;
        let name = path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name", path.display()))?;
        let folder = *self.names.get(parent).with_context(|| format!("{} was never made", parent.display()))?;
        Ok(Place { folder, name: name.to_owned() })
    }

    /// What a call is going to do to the folder; `None` if nothing.
    fn decode(&self, thread: Thread, call: Call) -> anyhow::Result<Option<Begun>> {
        let [a, b, c, d, ..] = call.arguments;
        let here = i64::from(libc::AT_FDCWD).cast_unsigned();
        match call.number {
            libc::SYS_openat => self.open(thread, a, b, c),
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev => {
                let Some(file) = self.file(thread, a) else { return Calls::voice(thread, call) };
                let gathers = matches!(call.number, libc::SYS_writev | libc::SYS_pwritev);
                let bytes = if gathers { Calls::gather(thread, b, c)? } else { read(thread, b, c)? };
                let at = matches!(call.number, libc::SYS_pwrite64 | libc::SYS_pwritev);
                let offset = if at { d } else { self.position(thread, a, file)? };
                Ok(Some(Begun::Write { file, offset, bytes }))
            }
            libc::SYS_ftruncate => Ok(self.file(thread, a).map(|file| Begun::Resize { file, len: b })),
            libc::SYS_fallocate => {
                let Some(file) = self.file(thread, a) else { return Ok(None) };
                ensure!(b == 0, "fallocate in mode {b} is not modelled");
                Ok(Some(Begun::Extend { file, end: c + d }))
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                let begun = lock(&self.events).len();
                let data_only = call.number == libc::SYS_fdatasync;
                Ok(self.file(thread, a).map(|file| Begun::Sync { file, begun, data_only }))
            }
            libc::SYS_renameat | libc::SYS_renameat2 => self.rename(thread, (a, b), (c, d)),
            libc::SYS_unlinkat => Ok(self.path(thread, a, b)?.map(Begun::Remove)),
            libc::SYS_mkdirat => Ok(self.path(thread, a, b)?.map(Begun::MakeFolder)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.open(thread, here, a, b),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => self.open(thread, here, a, (libc::O_CREAT | libc::O_TRUNC).unsigned_abs().into()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => self.rename(thread, (here, a), (here, b)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => Ok(self.path(thread, here, a)?.map(Begun::Remove)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => Ok(self.path(thread, here, a)?.map(Begun::MakeFolder)),
            _ => self.refuse(thread, call).map(|()| None),
        }
    }

    /// What the process says, if that is what it does.
    fn voice(thread: Thread, call: Call) -> anyhow::Result<Option<Begun>> {
        let [number, address, len, ..] = call.arguments;
        if call.number != libc::SYS_write || descriptor(number) != VOICE {
            return Ok(None);
        }
        Ok(String::from_utf8(read(thread, address, len)?).ok().map(|line| Begun::Say(line.trim().to_owned())))
    }

    /// Breaks the record if a call that is not modelled concerns the folder.
    fn refuse(&self, thread: Thread, call: Call) -> anyhow::Result<()> {
        let [a, b, c, d, e, _] = call.arguments;
        let concerned = match call.number {
            libc::SYS_mmap => {
                let shared = d & u64::from(libc::MAP_SHARED.unsigned_abs()) != 0;
                shared && c & u64::from(libc::PROT_WRITE.unsigned_abs()) != 0 && self.file(thread, e).is_some()
            }
            libc::SYS_pwritev2 | libc::SYS_sendfile => self.file(thread, a).is_some(),
            libc::SYS_copy_file_range | libc::SYS_splice => self.file(thread, c).is_some(),
            libc::SYS_openat2 | libc::SYS_symlinkat => self.path(thread, a, b)?.is_some(),
            libc::SYS_truncate => self.path(thread, i64::from(libc::AT_FDCWD).cast_unsigned(), a)?.is_some(),
            libc::SYS_linkat => self.path(thread, c, d)?.is_some(),
            // What goes through a ring cannot be seen; a process may make one that it does not use for files, and the proof tells.
            libc::SYS_io_uring_setup => false,
            _ => self.path(thread, i64::from(libc::AT_FDCWD).cast_unsigned(), b)?.is_some(),
        };
        ensure!(!concerned, "the system call {} on the folder is not modelled", call.number);
        Ok(())
    }

    fn open(&self, thread: Thread, folder: u64, text: u64, flags: u64) -> anyhow::Result<Option<Begun>> {
        let has = |flag: libc::c_int| flags & u64::from(flag.unsigned_abs()) == u64::from(flag.unsigned_abs());
        if !has(libc::O_CREAT) && !has(libc::O_TRUNC) && !has(libc::O_TMPFILE) {
            return Ok(None);
        }
        let Some(path) = self.path(thread, folder, text)? else { return Ok(None) };
        ensure!(!has(libc::O_TMPFILE), "a nameless file is not modelled");
        Ok(Some(Begun::Open { path, cut: has(libc::O_TRUNC) }))
    }

    fn rename(&self, thread: Thread, from: (u64, u64), to: (u64, u64)) -> anyhow::Result<Option<Begun>> {
        match (self.path(thread, from.0, from.1)?, self.path(thread, to.0, to.1)?) {
            (Some(from), Some(to)) => Ok(Some(Begun::Rename { from, to })),
            (None, None) => Ok(None),
            (from, to) => bail!("a rename into or out of the folder is not modelled: {from:?} to {to:?}"),
        }
    }

    fn done(&mut self, begun: Begun, result: u64) -> anyhow::Result<()> {
        match begun {
            Begun::Open { path, cut } => match self.names.get(&path) {
                Some(file) if cut => {
                    let file = *file;
                    self.sizes.insert(file, 0);
                    self.push(Event::Resize { file, len: 0 });
                }
                Some(_) => {}
                None => self.create(path, Node::File(Vec::new()))?,
            },
            Begun::MakeFolder(path) => self.create(path, Node::Folder(BTreeMap::new()))?,
            Begun::Write { file, offset, mut bytes } => {
                bytes.truncate(usize::try_from(result)?);
                let size = self.sizes.entry(file).or_default();
                *size = (*size).max(offset + result);
                self.push(Event::Write { file, offset: usize::try_from(offset)?, bytes });
            }
            Begun::Resize { file, len } => {
                self.sizes.insert(file, len);
                self.push(Event::Resize { file, len: usize::try_from(len)? });
            }
            Begun::Extend { file, end } => {
                if self.sizes.get(&file).is_none_or(|size| *size < end) {
                    self.sizes.insert(file, end);
                    self.push(Event::Resize { file, len: usize::try_from(end)? });
                }
            }
            Begun::Sync { file, begun, data_only } => self.push(Event::Sync { file, begun, data_only }),
            Begun::Rename { from, to } => {
                let (old, new) = (self.place(&from)?, self.place(&to)?);
                let file = *self.names.get(&from).with_context(|| format!("{} was never made", from.display()))?;
                let moved: Vec<_> = self.names.keys().filter(|path| path.starts_with(&from)).cloned().collect();
                for path in moved {
                    if let (Some(file), Ok(below)) = (self.names.remove(&path), path.strip_prefix(&from)) {
                        let new = if below.as_os_str().is_empty() { to.clone() } else { to.join(below) };
                        self.names.insert(new, file);
                    }
                }
                self.push(Event::Rename { file, from: old, to: new });
            }
            Begun::Remove(path) => {
                let at = self.place(&path)?;
                let file = self.names.remove(&path).with_context(|| format!("{} was never made", path.display()))?;
                self.push(Event::Remove { at, file });
            }
            Begun::Say(line) => self.push(Event::Heard(line)),
        }
        Ok(())
    }

    fn create(&mut self, path: PathBuf, node: Node) -> anyhow::Result<()> {
        let at = self.place(&path)?;
        let metadata = fs::symlink_metadata(&path).with_context(|| format!("{} is gone at once", path.display()))?;
        let file = self.next_id;
        self.next_id += 1;
        self.ids.insert((metadata.dev(), metadata.ino()), file);
        self.names.insert(path, file);
        self.sizes.insert(file, 0);
        self.push(Event::Create { at, file, node });
        Ok(())
    }
}

impl Watch for Calls {
    fn started(&mut self, process: Thread) -> anyhow::Result<()> {
        debug_assert_eq!(self.names.get(&self.root), Some(&ROOT));
        if let Some(started) = self.started.take() {
            started.send(process.unsigned_abs())?;
        }
        Ok(())
    }

    fn enters(&mut self, thread: Thread, call: Call) -> Interest {
        match self.decode(thread, call) {
            Ok(None) => Interest::None,
            // One change at a time, so that their order is known. Syncs go on beside them: they are long, and overtaken.
            Ok(Some(begun)) if begun.changes() && self.begun.values().any(Begun::changes) => Interest::Wait,
            Ok(Some(begun)) => {
                self.begun.insert(thread, begun);
                Interest::End
            }
            Err(error) => {
                self.broken.get_or_insert(error);
                Interest::None
            }
        }
    }

    fn leaves(&mut self, thread: Thread, result: i64) {
        let Some(begun) = self.begun.remove(&thread) else { return };
        // What failed did nothing.
        let Ok(result) = u64::try_from(result) else { return };
        if let Err(error) = self.done(begun, result) {
            self.broken.get_or_insert(error);
        }
    }
}

fn memory(thread: Thread) -> anyhow::Result<File> {
    File::open(format!("/proc/{thread}/mem")).context("the process's memory")
}

fn read(thread: Thread, address: u64, len: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len)?];
    memory(thread)?.read_exact_at(&mut bytes, address).context("reading the process's memory")?;
    Ok(bytes)
}

/// An `int` among a system call's arguments: its low half.
#[allow(clippy::cast_possible_truncation, reason = "the high half is not the argument's")]
fn descriptor(argument: u64) -> i32 {
    (argument as u32).cast_signed()
}
