//! The store's two threads: one commits, one reads.
//!
//! `store` owns the store and takes commits, reopenings and the reads that people see: these show only what is durable, and wait for the
//! commit in flight. `store-read` takes the core's look-ups, the outbox's head and sweeps, and never waits for a sync. Both hand their
//! results to one function, one at a time.
//!
//! After [`StoreThread::reopen`] was called, what was asked before it is not reported behind its own report: so the core never hears of
//! the store that was.

use crate::error::{ApplyError, OpenError, ReadError};
use crate::journal::JournalUsage;
use crate::reader::Reader;
use crate::sled_disk::{CommitCost, SledDisk};
use crate::store::Store;
use gateway::event::OrderEvent;
use gateway::ids::{CommitId, LoadId, Seq};
use gateway::io::{Change, DeadLetter, Forgettable, Found, Old, Opened, Wanted};
use gateway::order::Projection;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Jobs that wait for the committing thread. The core has one commit or reopening at a time; the rest is for reads that people asked for.
pub const WRITE_JOBS_MAX: usize = 64;
/// Of these, reads: so that they never take the commit's place.
pub(crate) const DURABLE_READS_MAX: usize = WRITE_JOBS_MAX - 4;
/// Jobs that wait for the reading thread; a job may hold many look-ups, which the core bounds by the requests in flight.
pub const READ_JOBS_MAX: usize = 1_024;
/// Look-ups that are answered in one report.
const LOADS_PER_REPORT: usize = 256;
/// How often an ending thread is looked at.
const STOP_POLL: Duration = Duration::from_millis(2);

/// What became of a job.
#[derive(Debug)]
pub enum StoreReport {
    /// A commit returned: durable, with its cost, or not.
    Applied {
        /// Which.
        commit: CommitId,
        /// What became of it.
        result: Result<CommitCost, ApplyError>,
    },
    /// The store was reopened, or could not be.
    Reopened(Result<Box<Opened>, OpenError>),
    /// Look-ups, in the order in which they were asked.
    Loaded(Vec<(LoadId, Result<Found, ReadError>)>),
    /// The outbox's head.
    Head(Result<Vec<(Seq, Arc<OrderEvent>)>, ReadError>),
    /// What expired, and where the next sweep begins.
    Swept(Result<(Vec<Forgettable>, Option<Forgettable>), ReadError>),
    /// A thread panicked: nothing is answered any more, and the process has to be started again.
    Died {
        /// Which thread.
        thread: &'static str,
    },
}

/// The job was not taken: the queue is full, or its thread has ended. Nothing will be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store takes no more jobs")]
pub struct NotTaken;

/// Dead letters by seq, each with how many events are held behind it.
pub type DeadLetters = Vec<(Seq, DeadLetter, u64)>;

type Look = Box<dyn FnOnce(&Store<SledDisk>) + Send>;
type Reply<T> = Box<dyn FnOnce(Result<T, ReadError>) + Send>;

enum WriteJob {
    Apply(CommitId, Vec<Change>),
    Reopen,
    Find(Wanted, Reply<Found>),
    OpenOrders(usize, Reply<Vec<Projection>>),
    DeadLetters(Seq, usize, Reply<DeadLetters>),
    Look(Look),
}

enum ReadJob {
    Load(Vec<(LoadId, Wanted)>),
    Head { from: Seq, events_max: usize, bytes_max: usize },
    Sweep { from: Option<Forgettable>, keys_max: usize, old: Old },
}

/// A job, and how often the store had been reopened when it was asked.
struct Asked<J> {
    generation: u64,
    job: J,
}

/// How a thread is doing, for others to see.
#[derive(Debug)]
struct Pulse {
    started: Instant,
    /// Milliseconds from `started` to the begin of the call that is running, plus one; 0 while there is none.
    busy_since: AtomicU64,
    waiting: AtomicUsize,
}

struct Shared {
    generation: AtomicU64,
    report: Mutex<Box<dyn Fn(StoreReport) + Send>>,
    write: Pulse,
    read: Pulse,
    durable_reads: AtomicUsize,
    journal: Mutex<JournalUsage>,
}

/// The store on its threads. Every method returns at once.
pub struct StoreThread {
    shared: Arc<Shared>,
    write_jobs: SyncSender<Asked<WriteJob>>,
    read_jobs: SyncSender<Asked<ReadJob>>,
    threads: Vec<JoinHandle<()>>,
    data_dir: PathBuf,
}

impl StoreThread {
    /// Starts both threads. `report` is called on them, one call at a time, and must not block.
    ///
    /// # Errors
    /// The system makes no more threads.
    pub fn start(store: Store<SledDisk>, report: impl Fn(StoreReport) + Send + 'static) -> io::Result<StoreThread> {
        let data_dir = store.disk().data_dir().to_owned();
        let reader = store.reader();
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            report: Mutex::new(Box::new(report)),
            write: Pulse::new(),
            read: Pulse::new(),
            durable_reads: AtomicUsize::new(0),
            journal: Mutex::new(store.journal_usage()),
        });
        let (write_jobs, write_queue) = sync_channel(WRITE_JOBS_MAX);
        let (read_jobs, read_queue) = sync_channel(READ_JOBS_MAX);
        let writer = {
            let shared = Arc::clone(&shared);
            spawn("store", Arc::clone(&shared), move || write_loop(store, &write_queue, &shared))?
        };
        let reader = {
            let shared = Arc::clone(&shared);
            spawn("store-read", Arc::clone(&shared), move || read_loop(&reader, &read_queue, &shared))?
        };
        Ok(StoreThread { shared, write_jobs, read_jobs, threads: vec![writer, reader], data_dir })
    }

    /// Commits a batch; reported by [`StoreReport::Applied`].
    ///
    /// # Errors
    /// Not taken.
    pub fn apply(&self, commit: CommitId, batch: Vec<Change>) -> Result<(), NotTaken> {
        self.write(WriteJob::Apply(commit, batch))
    }

    /// Closes the store and opens it again; reported by [`StoreReport::Reopened`].
    ///
    /// # Errors
    /// Not taken.
    pub fn reopen(&self) -> Result<(), NotTaken> {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        self.write(WriteJob::Reopen)
    }

    /// Looks things up; reported by [`StoreReport::Loaded`]. One call with many look-ups is cheaper than many calls.
    ///
    /// # Errors
    /// Not taken.
    pub fn load(&self, wanted: Vec<(LoadId, Wanted)>) -> Result<(), NotTaken> {
        self.read(ReadJob::Load(wanted))
    }

    /// Reads the outbox from `from` on; reported by [`StoreReport::Head`].
    ///
    /// # Errors
    /// Not taken.
    pub fn read_head(&self, from: Seq, events_max: usize, bytes_max: usize) -> Result<(), NotTaken> {
        self.read(ReadJob::Head { from, events_max, bytes_max })
    }

    /// Looks for what expired; reported by [`StoreReport::Swept`].
    ///
    /// # Errors
    /// Not taken.
    pub fn sweep(&self, from: Option<Forgettable>, keys_max: usize, old: Old) -> Result<(), NotTaken> {
        self.read(ReadJob::Sweep { from, keys_max, old })
    }

    /// Looks an order or a session up as it is durable: for answers to people and to links. `reply` is called on the store's thread and
    /// must not block; it is dropped if that thread ends first.
    ///
    /// # Errors
    /// Not taken: too many such reads wait.
    pub fn find(&self, wanted: Wanted, reply: impl FnOnce(Result<Found, ReadError>) + Send + 'static) -> Result<(), NotTaken> {
        self.durable_read(WriteJob::Find(wanted, Box::new(reply)))
    }

    /// Reads at most `orders_max` open orders as they are durable. `reply` as for [`StoreThread::find`].
    ///
    /// # Errors
    /// As [`StoreThread::find`].
    pub fn open_orders(
        &self,
        orders_max: usize,
        reply: impl FnOnce(Result<Vec<Projection>, ReadError>) + Send + 'static,
    ) -> Result<(), NotTaken> {
        self.durable_read(WriteJob::OpenOrders(orders_max, Box::new(reply)))
    }

    /// Reads at most `letters_max` dead letters behind `after` as they are durable. `reply` as for [`StoreThread::find`].
    ///
    /// # Errors
    /// As [`StoreThread::find`].
    pub fn dead_letters(
        &self,
        after: Seq,
        letters_max: usize,
        reply: impl FnOnce(Result<DeadLetters, ReadError>) + Send + 'static,
    ) -> Result<(), NotTaken> {
        self.durable_read(WriteJob::DeadLetters(after, letters_max, Box::new(reply)))
    }

    /// Looks at the store as it is durable, soon: commits wait meanwhile. `look` is called on the store's thread, or dropped.
    ///
    /// # Errors
    /// As [`StoreThread::find`].
    pub fn look(&self, look: impl FnOnce(&Store<SledDisk>) + Send + 'static) -> Result<(), NotTaken> {
        self.durable_read(WriteJob::Look(Box::new(look)))
    }

    /// How full the journal was after the last commit.
    pub fn journal_usage(&self) -> JournalUsage {
        *self.shared.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long the longest call that is running has been running: the watchdog's measure. An SD card may take 30 s for a sync.
    pub fn busy_for(&self) -> Option<Duration> {
        self.shared.write.busy_for().max(self.shared.read.busy_for())
    }

    /// Jobs that wait for the committing and for the reading thread, of [`WRITE_JOBS_MAX`] and [`READ_JOBS_MAX`].
    pub fn waiting(&self) -> (usize, usize) {
        (self.shared.write.waiting.load(Ordering::Relaxed), self.shared.read.waiting.load(Ordering::Relaxed))
    }

    /// Bytes that may still be used on the store's file system.
    ///
    /// # Errors
    /// The system's.
    pub fn free_bytes(&self) -> io::Result<u64> {
        crate::folder::free_bytes(&self.data_dir)
    }

    /// Lets the threads finish what waits, and waits for them until `within` is over. Says whether they ended: then the data folder is
    /// free again.
    pub fn stop(self, within: Duration) -> bool {
        let StoreThread { write_jobs, read_jobs, threads, .. } = self;
        drop((write_jobs, read_jobs));
        let deadline = Instant::now() + within;
        while threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(STOP_POLL);
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
        true
    }

    fn write(&self, job: WriteJob) -> Result<(), NotTaken> {
        send(&self.write_jobs, self.asked(job), &self.shared.write)
    }

    fn read(&self, job: ReadJob) -> Result<(), NotTaken> {
        send(&self.read_jobs, self.asked(job), &self.shared.read)
    }

    fn durable_read(&self, job: WriteJob) -> Result<(), NotTaken> {
        if self.shared.durable_reads.load(Ordering::Relaxed) >= DURABLE_READS_MAX {
            return Err(NotTaken);
        }
        self.shared.durable_reads.fetch_add(1, Ordering::Relaxed);
        self.write(job).inspect_err(|NotTaken| {
            self.shared.durable_reads.fetch_sub(1, Ordering::Relaxed);
        })
    }

    fn asked<J>(&self, job: J) -> Asked<J> {
        Asked { generation: self.shared.generation.load(Ordering::SeqCst), job }
    }
}

impl std::fmt::Debug for StoreThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreThread").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

impl Pulse {
    fn new() -> Pulse {
        Pulse { started: Instant::now(), busy_since: AtomicU64::new(0), waiting: AtomicUsize::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn run<T>(&self, call: impl FnOnce() -> T) -> T {
        self.busy_since.store(self.now_ms() + 1, Ordering::Relaxed);
        let result = call();
        self.busy_since.store(0, Ordering::Relaxed);
        result
    }

    fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.now_ms().saturating_sub(since)))
    }
}

impl Shared {
    fn report(&self, report: StoreReport) {
        (self.report.lock().unwrap_or_else(PoisonError::into_inner))(report);
    }

    /// Reports what was asked of the store as it is now. The lock makes it come before the report of a reopening or not at all.
    fn report_unless_reopened(&self, generation: u64, report: StoreReport) {
        let call = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_current(generation) {
            call(report);
        }
    }

    fn is_current(&self, generation: u64) -> bool {
        generation == self.generation.load(Ordering::SeqCst)
    }
}

fn send<J>(jobs: &SyncSender<Asked<J>>, job: Asked<J>, pulse: &Pulse) -> Result<(), NotTaken> {
    pulse.waiting.fetch_add(1, Ordering::Relaxed);
    jobs.try_send(job).map_err(|_full_or_ended| {
        pulse.waiting.fetch_sub(1, Ordering::Relaxed);
        NotTaken
    })
}

fn spawn(name: &'static str, shared: Arc<Shared>, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            tracing::error!(thread = name, "a thread of the store panicked");
            shared.report(StoreReport::Died { thread: name });
        }
    })
}

fn write_loop(mut store: Store<SledDisk>, jobs: &Receiver<Asked<WriteJob>>, shared: &Shared) {
    while let Ok(Asked { generation, job }) = jobs.recv() {
        shared.write.waiting.fetch_sub(1, Ordering::Relaxed);
        shared.write.run(|| match job {
            WriteJob::Apply(commit, batch) => {
                // A batch from before a reopening would be the core's view of a store that is no more.
                if shared.is_current(generation) {
                    let result = store.apply(&batch).map(|()| store.disk().last_cost());
                    *shared.journal.lock().unwrap_or_else(PoisonError::into_inner) = store.journal_usage();
                    shared.report_unless_reopened(generation, StoreReport::Applied { commit, result });
                }
            }
            WriteJob::Reopen => {
                let result = store.reopen().map(Box::new);
                shared.report_unless_reopened(generation, StoreReport::Reopened(result));
            }
            WriteJob::Find(wanted, reply) => {
                shared.durable_reads.fetch_sub(1, Ordering::Relaxed);
                reply(store.load(&wanted));
            }
            WriteJob::OpenOrders(orders_max, reply) => {
                shared.durable_reads.fetch_sub(1, Ordering::Relaxed);
                reply(store.open_orders(orders_max));
            }
            WriteJob::DeadLetters(after, letters_max, reply) => {
                shared.durable_reads.fetch_sub(1, Ordering::Relaxed);
                reply(store.dead_letters(after, letters_max));
            }
            WriteJob::Look(look) => {
                shared.durable_reads.fetch_sub(1, Ordering::Relaxed);
                look(&store);
            }
        });
    }
}

fn read_loop(reader: &Reader, jobs: &Receiver<Asked<ReadJob>>, shared: &Shared) {
    let mut next = None;
    loop {
        let Some(Asked { generation, job }) = next.take().or_else(|| receive(jobs, shared)) else { return };
        if !shared.is_current(generation) {
            continue;
        }
        let report = shared.read.run(|| match job {
            ReadJob::Load(wanted) => {
                let mut loaded: Vec<_> = wanted.iter().map(|(load, wanted)| (*load, reader.load(wanted))).collect();
                next = load_more(reader, jobs, shared, generation, &mut loaded);
                StoreReport::Loaded(loaded)
            }
            ReadJob::Head { from, events_max, bytes_max } => StoreReport::Head(reader.read_head(from, events_max, bytes_max)),
            ReadJob::Sweep { from, keys_max, old } => StoreReport::Swept(reader.sweep(from.as_ref(), keys_max, old)),
        });
        shared.report_unless_reopened(generation, report);
    }
}

fn receive(jobs: &Receiver<Asked<ReadJob>>, shared: &Shared) -> Option<Asked<ReadJob>> {
    let asked = jobs.recv().ok()?;
    shared.read.waiting.fetch_sub(1, Ordering::Relaxed);
    Some(asked)
}

/// Answers look-ups that came in meanwhile in the same report. Gives the job that was taken from the queue and is none of them.
fn load_more(
    reader: &Reader,
    jobs: &Receiver<Asked<ReadJob>>,
    shared: &Shared,
    generation: u64,
    loaded: &mut Vec<(LoadId, Result<Found, ReadError>)>,
) -> Option<Asked<ReadJob>> {
    while loaded.len() < LOADS_PER_REPORT {
        let asked = jobs.try_recv().ok()?;
        shared.read.waiting.fetch_sub(1, Ordering::Relaxed);
        match asked {
            Asked { generation: same, job: ReadJob::Load(wanted) } if same == generation => {
                loaded.extend(wanted.iter().map(|(load, wanted)| (*load, reader.load(wanted))));
            }
            other => return Some(other),
        }
    }
    None
}
