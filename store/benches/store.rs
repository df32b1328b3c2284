//! `cargo bench -p dumbwaiter-store [-- DIR]`: what a durable order costs, beside a bare append and `fdatasync` of the same bytes in
//! the same run. An order is what admission stores (event, request, projection, counters), looked up and committed over both threads.
//! DIR should be on the disk that is of interest; without it a folder beside the build is used.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on has nothing to print")]

use gateway::event::{Clock, OrderEvent};
use gateway::ids::{CommitId, Epoch, LoadId, Name, OrderId, RequestKey, Seq, Ticket};
use gateway::io::{Change, Counters, Remembered, Wanted};
use gateway::order::{Line, Moment, Projection, Status};
use gateway::request::EventType;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use store::{SledDisk, SledOptions, Store, StoreReport, StoreThread, SyncHook};

/// What an SD card adds to a sync.
const CARD_DELAY: Duration = Duration::from_millis(5);
const LONE_ORDERS: u64 = 300;
const WAITING: u64 = 64;
const BATCHES: u64 = 200;
const QUEUED: u64 = 100_000;

fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map_or_else(default_dir, PathBuf::from);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    memory(&dir.join("e"));
    println!("{:<44} {:>10} {:>10} {:>8}  target", "", "store", "bare", "ratio");
    let slow = lone(&dir.join("a"), CARD_DELAY);
    print_ms("lone order, +5 ms a sync, p50 ms", slow, "<= 1.3");
    let fast = lone(&dir.join("b"), Duration::ZERO);
    print_ms("lone order, p50 ms", fast, "<= 0.5 ms more");
    let slow = waiting(&dir.join("c"), CARD_DELAY);
    print_rate("64 waiting, +5 ms a sync, orders/s", &slow, ">= 0.6");
    let fast = waiting(&dir.join("d"), Duration::ZERO);
    print_rate("64 waiting, orders/s", &fast, "");
    println!("{:<44} {:>10.1} {:>10} {:>8}  <= 45", "CPU of an order, 64 waiting, us", fast.cpu_us, "", "");
    println!("{:<44} {:>10.0} {:>10.0}", "bytes written of an order, 64 waiting", fast.written, fast.bare_written);
    println!("{:<44} {:>10.0}", "bytes of keys and values of an order", fast.bytes);
    fs::remove_dir_all(&dir).unwrap();
}

fn default_dir() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().join("store-bench")
}

fn print_ms(what: &str, (store, bare): (Duration, Duration), target: &str) {
    let ms = |t: Duration| t.as_secs_f64() * 1e3;
    println!("{what:<44} {:>10.3} {:>10.3} {:>8.2}  {target}", ms(store), ms(bare), ms(store) / ms(bare));
}

fn print_rate(what: &str, rate: &Rate, target: &str) {
    println!("{what:<44} {:>10.0} {:>10.0} {:>8.2}  {target}", rate.store, rate.bare, rate.store / rate.bare);
}

struct Rig {
    thread: StoreThread,
    reports: Receiver<StoreReport>,
    next_seq: u64,
}

fn sync_hook(delay: Duration) -> SyncHook {
    Arc::new(move || {
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        Ok(())
    })
}

impl Rig {
    fn open(dir: &Path, delay: Duration) -> Rig {
        let options = SledOptions { sync_hook: Some(sync_hook(delay)), allow_volatile: true, ..SledOptions::new(dir) };
        let (store, opened) = Store::open(SledDisk::open(options).unwrap(), "store-042".parse().unwrap()).unwrap();
        let (send, reports) = channel();
        let thread = StoreThread::start(store, move |report| drop(send.send(report))).unwrap();
        Rig { thread, reports, next_seq: opened.next_seq.0 }
    }

    /// Stores orders as the core does: one job of look-ups, then one commit. Gives the bytes of its keys and values.
    fn store(&mut self, orders: u64) -> u64 {
        let seqs = self.next_seq..self.next_seq + orders;
        self.next_seq += orders;
        let wanted = |seq| Wanted { request: Some(request(seq)), order: Some(order_id(seq)), session: None, dead_letter: None };
        self.thread.load(seqs.clone().map(|seq| (LoadId(seq), wanted(seq))).collect()).unwrap();
        let mut answered = 0;
        while answered < orders {
            let StoreReport::Loaded(loaded) = self.reports.recv().unwrap() else { panic!("only look-ups were asked") };
            answered += loaded.len() as u64;
        }
        let mut batch: Vec<_> = seqs.clone().flat_map(order).collect();
        batch.push(Change::Counters(Counters { running_ms: seqs.end, ..Counters::default() }));
        self.thread.apply(CommitId(seqs.start), batch).unwrap();
        let StoreReport::Applied { result, .. } = self.reports.recv().unwrap() else { panic!("only a commit was asked") };
        result.unwrap().bytes
    }
}

/// The p50 of one order at a time: the store's and the bare append's. They take turns, so that both meet the same disk.
fn lone(dir: &Path, delay: Duration) -> (Duration, Duration) {
    let mut rig = Rig::open(&dir.join("store"), delay);
    let mut bare = Bare::open(&dir.join("bare"), delay);
    let record = vec![7; usize::try_from(rig.store(1)).unwrap()];
    let samples = (0..LONE_ORDERS).map(|_| {
        (
            time(|| {
                rig.store(1);
            }),
            time(|| bare.append(&record)),
        )
    });
    let (store, bare) = samples.unzip();
    (p50(store), p50(bare))
}

fn time(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

struct Rate {
    store: f64,
    bare: f64,
    cpu_us: f64,
    bytes: f64,
    written: f64,
    bare_written: f64,
}

/// Orders per second while 64 terminals each have one in flight, so that 64 are in each commit; the bare append takes turns with it.
fn waiting(dir: &Path, delay: Duration) -> Rate {
    let mut rig = Rig::open(&dir.join("store"), delay);
    let mut bare = Bare::open(&dir.join("bare"), delay);
    let record = vec![7; usize::try_from(rig.store(WAITING)).unwrap()];
    let [mut store, mut append] = [Used::default(); 2];
    for _ in 0..BATCHES {
        store.add(|| {
            rig.store(WAITING);
        });
        append.add(|| bare.append(&record));
    }
    let orders = (BATCHES * WAITING) as f64;
    Rate {
        store: orders / store.time.as_secs_f64(),
        bare: orders / append.time.as_secs_f64(),
        cpu_us: store.cpu_ns as f64 / 1e3 / orders,
        bytes: record.len() as f64 / WAITING as f64,
        written: store.written as f64 / orders,
        bare_written: append.written as f64 / orders,
    }
}

/// What the runs of one side took together.
#[derive(Clone, Copy, Default)]
struct Used {
    time: Duration,
    cpu_ns: u64,
    written: u64,
}

impl Used {
    fn add(&mut self, run: impl FnOnce()) {
        let (cpu, written) = (cpu_ns(), written_bytes());
        self.time += time(run);
        self.cpu_ns += cpu_ns() - cpu;
        self.written += written_bytes() - written;
    }
}

/// Memory and time to open with a long queue. Runs first, while the process has used no memory yet.
fn memory(dir: &Path) {
    let before = memory_kib();
    let say = |what: &str| println!("{what:<44} {:>10.1}", mib(memory_kib().saturating_sub(before)));
    let mut rig = Rig::open(dir, Duration::ZERO);
    say("memory with an empty store, MiB");
    while rig.next_seq <= QUEUED {
        rig.store(WAITING);
    }
    say("memory once 100,000 were queued, MiB");
    assert!(rig.thread.stop(Duration::from_secs(60)));
    for time in ["first", "second"] {
        let begun = Instant::now();
        let rig = Rig::open(dir, Duration::ZERO);
        println!("{:<44} {:>10.3}", format!("opened with 100,000 queued, {time} time, s"), begun.elapsed().as_secs_f64());
        say("  memory then, MiB");
        assert!(rig.thread.stop(Duration::from_secs(60)));
    }
    let files = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>();
    println!("{:<44} {:>10.1}", "files of 100,000 orders, MiB", mib(files / 1024));
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// What the store is measured against.
struct Bare {
    file: File,
    delay: Duration,
}

impl Bare {
    fn open(path: &Path, delay: Duration) -> Bare {
        Bare { file: File::create(path).unwrap(), delay }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).unwrap();
        self.file.sync_data().unwrap();
        if !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
    }
}

fn request(seq: u64) -> RequestKey {
    let terminal: Name = format!("till-{}", seq % WAITING).parse().unwrap();
    RequestKey { terminal, request_id: format!("01JC{seq:022}").parse().unwrap() }
}

fn order_id(seq: u64) -> OrderId {
    format!("0192{seq:028x}").parse().unwrap()
}

/// An order of three lines, but for the counters.
fn order(seq: u64) -> [Change; 3] {
    let line = |n: u32| Line {
        food_id: format!("food-00{n}"),
        food_name: "Pizza Margherita".into(),
        quantity: n,
        modifiers: vec![],
        notes: String::new(),
        allergens: vec![],
        station: "oven".into(),
        status: Status::Created,
    };
    let mut projection = Projection::new(order_id(seq), |_| None, (1..4).map(line).collect(), 0, Moment { wall_ms: 0, run_ms: seq });
    projection.ticket = Some(Ticket(42));
    // Most orders of a long queue are long off the board.
    projection.open = seq.is_multiple_of(50);
    let event = OrderEvent {
        epoch: Epoch(0x1122_3344_5566_7788),
        request: request(seq),
        id: [0xAB; 16],
        event_type: EventType::Created,
        order_id: order_id(seq),
        user_id: Some("user-456".into()),
        occurred_at_ms: 1_704_110_400_000,
        clock: Clock::Synced,
        data: "x".repeat(400),
    };
    let remembered = Remembered {
        body_hash: [0xCD; 16],
        order_id: order_id(seq),
        event_id: [0xAB; 16],
        ticket: Some(42),
        seq: Seq(seq),
        stored_run_ms: seq,
    };
    [Change::Enqueue(Seq(seq), Arc::new(event)), Change::Remember(request(seq), remembered), Change::Project(Arc::new(projection))]
}

/// CPU time of all threads: proc(5), the first field of schedstat.
fn cpu_ns() -> u64 {
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).unwrap();
    let first = |stat: String| stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    fs::read_dir("/proc/self/task").unwrap().map(|task| first(of(task.unwrap()))).sum()
}

fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes: ")
}

fn memory_kib() -> u64 {
    field("/proc/self/status", "VmRSS:")
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}
