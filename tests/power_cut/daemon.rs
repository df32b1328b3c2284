//! The daemon under power cuts: the real binary is recorded from its first start on, while terminals store orders over HTTP. Each disk that
//! a cut could leave is opened by `store check`, and one in twenty by the daemon itself.
//!
//! More than a commit's share: `just power-cuts-daemon IMAGES SEED`.

#[allow(dead_code, reason = "this file uses the half of it that is about processes and HTTP")]
#[path = "../end_to_end/house.rs"]
mod house;

use anyhow::{Context, bail, ensure};
use house::{http, order, wait_for};
use power_cut::dice::Dice;
use power_cut::image::{self, Image, Syncs};
use power_cut::record::Record;
use power_cut::recorder::Recording;
use power_cut::session::{DATA_DIR, throw_cut};
use power_cut::trace::STARTING;
use power_cut::tree::Tree;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;

/// Images of a commit's share, and how many the daemon opens of them.
const IMAGES: usize = 120;
const DAEMON_OPENS_ONE_IN: usize = 20;
/// The binary's `store check` opens one in so many; the same check in this process opens the others, which is faster.
const BINARY_CHECKS_ONE_IN: usize = 10;
const BOOTS: usize = 2;
const TILLS: usize = 3;
const ORDERS_OF_A_TILL: usize = 15;

/// What a terminal heard: the answer to a request, by the request's id and its terminal.
type Heard = BTreeMap<String, Answered>;

#[derive(Debug, Clone)]
struct Answered {
    terminal: String,
    order: String,
    seq: u64,
}

/// A folder with a config and, apart from it, the disk that is cut off.
struct Gateway {
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Gateway {
    fn new(disk: &Tree) -> anyhow::Result<Gateway> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let gateway = Gateway { folder, address: house::free_address() };
        disk.write_to(&gateway.disk())?;
        let data = gateway.data_dir();
        let text = format!(
            "[gateway]\nid = \"store-042\"\n[store]\ndata_dir = {data:?}\nmin_free = \"16 MiB\"\n[http]\nlisten = \"{}\"\n",
            gateway.address
        );
        std::fs::write(gateway.folder.path().join("dumbwaiter.toml"), text)?;
        Ok(gateway)
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn data_dir(&self) -> PathBuf {
        self.disk().join(DATA_DIR)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dumbwaiter"));
        command.args(["run", "--config"]).arg(self.folder.path().join("dumbwaiter.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(self.folder.path().join("log"))?);
        Ok(command)
    }

    fn wait_until_ready(&self, mut ended: impl FnMut() -> bool) -> anyhow::Result<()> {
        wait_for("the daemon to be ready or to end", || {
            let ready = http(self.address, "GET", "/ready", &[], b"").is_ok_and(|answer| answer.status == 200);
            if ready { Some(Ok(())) } else { ended().then(|| Err(anyhow::anyhow!("the daemon ended: {}", self.log()))) }
        })
    }

    /// Submits an order; gives the status and the answer.
    fn submit(&self, terminal: &str, request: &str, order_id: &str) -> anyhow::Result<(u16, Value)> {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", request), ("X-Terminal", terminal)];
        let answer = http(self.address, "POST", "/api/v1/orders", &headers, order(order_id).to_string().as_bytes())?;
        Ok((answer.status, serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?))
    }
}

/// A boot: the tills store their orders while all that the daemon does to its disk is recorded.
fn boot(disk: &Tree, number: usize) -> anyhow::Result<Record> {
    let gateway = Gateway::new(disk)?;
    let recording = Recording::start(gateway.command()?, &gateway.disk())?;
    gateway.wait_until_ready(|| recording.is_over())?;
    let sold = std::thread::scope(|scope| {
        let tills: Vec<_> = (0..TILLS)
            .map(|till| {
                scope.spawn({
                    let (gateway, recording) = (&gateway, &recording);
                    move || sell(gateway, recording, number, till)
                })
            })
            .collect();
        tills.into_iter().try_for_each(|till| till.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a till panicked"))))
    });
    let process = i32::try_from(recording.process()).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
    rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    let record = recording.finish().with_context(|| gateway.log())?;
    sold?;
    Ok(record)
}

fn sell(gateway: &Gateway, recording: &Recording, boot: usize, till: usize) -> anyhow::Result<()> {
    let terminal = format!("till-{till}");
    for n in 0..ORDERS_OF_A_TILL {
        let (request, order) = (format!("r-{boot}-{till}-{n}"), format!("order-{boot}-{till}-{n}"));
        let (status, answer) = gateway.submit(&terminal, &request, &order)?;
        ensure!(status == 201, "{status}: {answer}");
        // The answer has arrived: whatever the disk loses from here on was promised.
        recording.heard(json!({"request": request, "terminal": terminal, "order": order, "seq": answer["seq"]}).to_string());
    }
    Ok(())
}

fn heard_before(record: &Record, cut: usize) -> anyhow::Result<Heard> {
    let text = |line: &Value, field: &str| line[field].as_str().map(str::to_owned).context("a mark has changed");
    let mut heard = Heard::new();
    for line in record.heard(cut) {
        let line: Value = serde_json::from_str(line)?;
        let seq = line["seq"].as_u64().context("an answer without a seq")?;
        heard.insert(text(&line, "request")?, Answered { terminal: text(&line, "terminal")?, order: text(&line, "order")?, seq });
    }
    Ok(heard)
}

/// Opens the store of a disk by `store check`, and looks for every order by `store export`: without a Kafka all of them wait.
fn check(data_dir: &Path, heard: &Heard, by_binary: bool) -> anyhow::Result<()> {
    if !data_dir.join("store").is_dir() {
        ensure!(heard.is_empty(), "there is no store any more");
        return Ok(());
    }
    let _nobody_starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    if by_binary {
        let output = Command::new(env!("CARGO_BIN_EXE_dumbwaiter")).args(["store", "check", "--data-dir"]).arg(data_dir).output()?;
        ensure!(output.status.success(), "store check: {output:?}");
    } else {
        let report = store::check(data_dir)?;
        ensure!(report.problems_count == 0, "store check: {:?}", report.problems);
    }
    let mut lines = Vec::new();
    store::export(data_dir, &mut lines)?;
    let (mut orders, mut seqs) = (BTreeMap::new(), BTreeSet::new());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line)?;
        let (request, order) = (line["requestId"].as_str().unwrap_or_default().to_owned(), line["event"]["orderId"].clone());
        ensure!(seqs.insert(line["seq"].as_u64()), "a seq is there twice: {line}");
        ensure!(orders.insert(request, (order, line["seq"].clone())).is_none(), "a request is there twice: {line}");
    }
    for (request, answered) in heard {
        let found = orders.get(request).with_context(|| format!("{request} is lost though {answered:?} was heard"))?;
        ensure!(*found == (json!(answered.order), json!(answered.seq)), "{request}: {answered:?} was heard, {found:?} is there");
    }
    Ok(())
}

/// Stops the daemon that it holds.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the daemon on a disk; whoever heard *stored* asks again and has to hear the same.
fn reopen(gateway: &Gateway, heard: &Heard) -> anyhow::Result<()> {
    let mut running = {
        let _alone = STARTING.write().unwrap_or_else(PoisonError::into_inner);
        Running(gateway.command()?.spawn()?)
    };
    gateway.wait_until_ready(|| running.0.try_wait().is_ok_and(|status| status.is_some()))?;
    for (request, answered) in heard {
        let (status, answer) = gateway.submit(&answered.terminal, request, &answered.order)?;
        ensure!(status == 200 && answer["duplicate"] == json!(true), "{request} is new to the daemon: {status} {answer}");
        ensure!(answer["seq"] == json!(answered.seq), "{request}: {answered:?} was heard, now {answer}");
    }
    let (status, answer) = gateway.submit("till-9", "r-new", "order-new")?;
    ensure!(status == 201, "nothing new is taken: {status} {answer}");
    let highest = heard.values().map(|answered| answered.seq).max().unwrap_or(0);
    ensure!(answer["seq"].as_u64() > Some(highest), "a seq is given again: {answer}");
    Ok(())
}

fn judge(image: &Image, heard: &Heard, number: usize) -> anyhow::Result<()> {
    let gateway = Gateway::new(&image.tree)?;
    if number.is_multiple_of(DAEMON_OPENS_ONE_IN) {
        reopen(&gateway, heard)?;
    }
    check(&gateway.data_dir(), heard, number % BINARY_CHECKS_ONE_IN == 1)
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_order_that_a_terminal_heard_survives_a_cut_at_any_moment() {
    let (images, seed) = (number("POWER_CUT_IMAGES", IMAGES), number("POWER_CUT_SEED", 1));
    let mut done = 0;
    for session in 0.. {
        if done >= images {
            break;
        }
        let part = u64::try_from(seed + session).expect("a small number");
        done += live(part, images.min(IMAGES)).unwrap_or_else(|error| panic!("seed {part}: {error:?}"));
    }
}

/// One life of a gateway, cut off after each boot. Gives the images that were opened.
fn live(seed: u64, images: usize) -> anyhow::Result<usize> {
    let mut dice = Dice::for_part(seed, 0xdae);
    let (mut disk, mut known, mut opened) = (Tree::default(), Heard::new(), 0);
    for number in 0..BOOTS {
        let record = boot(&disk, number).with_context(|| format!("boot {number}"))?;
        let mut next = None;
        for n in 0..images / BOOTS {
            let image = image::build(&record, throw_cut(&record, &mut dice), Syncs::Count, &mut dice);
            let mut heard = known.clone();
            heard.extend(heard_before(&record, image.cut)?);
            if let Err(error) = judge(&image, &heard, n) {
                bail!("boot {number}, image {n}, cut before event {} of {}: {error:#}\n  {}", image.cut, record.events.len(), image.luck);
            }
            opened += 1;
            if next.is_none() || dice.chance(200) {
                next = Some((image.tree, heard));
            }
        }
        (disk, known) = next.context("no image was built")?;
    }
    Ok(opened)
}
