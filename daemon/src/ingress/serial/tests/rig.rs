//! A stand-in for the event loop behind a [`Handle`], a port that can be unplugged, and the ingress running against both.

use super::super::{Figures, Settings, run};
use crate::config::{Framing, SerialPort};
use crate::handle::{CALLS_MAX, CHANGES_MAX, Call, Handle, State};
use crate::terminals::Terminals;
use gateway::board::Board;
use gateway::ids::{Epoch, Name, OrderId, Seq, SessionId, Ticket};
use gateway::io::Submission;
use gateway::order::{Moment, Projection};
use gateway::request::{Answer, Code, Stored};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_serial::{SerialPort as _, SerialStream};

/// Nothing in these tests takes so long unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What the stand-in does with a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Decides at once.
    Prompt,
    /// Keeps it until the mood changes.
    Stuck,
    /// Ends without deciding.
    Ending,
}

#[derive(Debug, Default)]
pub struct Seen {
    /// Terminal, request id, and what was stored of it.
    pub stored: BTreeMap<(String, String), (String, Answer)>,
    /// Terminal, session, mark.
    pub sessions: HashMap<(Name, SessionId), u64>,
    pub orders: BTreeMap<OrderId, Projection>,
    pub submissions: Vec<Submission>,
    /// Each so many-th submission is rejected `busy`; 0 is none.
    pub busy_each: usize,
}

/// The gateway beyond the ingress, as far as the ingress can tell.
pub struct Rig {
    pub handle: Handle,
    pub mood: watch::Sender<Mood>,
    pub board: watch::Sender<Arc<Board>>,
    _state: watch::Sender<Arc<State>>,
    seen: Arc<Mutex<Seen>>,
}

impl Rig {
    pub fn new() -> Rig {
        let (calls, calls_rx) = mpsc::channel(CALLS_MAX);
        let (board, board_rx) = watch::channel(Arc::new(Board::default()));
        let (state, state_rx) = watch::channel(Arc::new(State::default()));
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let (mood, mood_rx) = watch::channel(Mood::Prompt);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let handle = Handle { calls, board: board_rx, changes, state: state_rx, terminals: Terminals::default() };
        tokio::spawn(answer_calls(calls_rx, mood_rx, Arc::clone(&seen)));
        Rig { handle, mood, board, _state: state, seen }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// An order changes durably.
    pub fn change(&self, order: Projection) {
        self.seen().orders.insert(order.order_id.clone(), order.clone());
        let _ = self.handle.changes.send(Arc::new(order));
    }
}

/// An order of a terminal.
pub fn order(order_id: &str, terminal: &str, ticket: u32) -> Projection {
    let at = Moment { wall_ms: 1_700_000_000_000, run_ms: 1 };
    let order = Projection::new(order_id.parse().unwrap(), |_| None, vec![], 0, at);
    Projection { terminal: Some(terminal.parse().unwrap()), ticket: Some(Ticket(ticket)), ..order }
}

async fn answer_calls(mut calls: mpsc::Receiver<Call>, mut mood: watch::Receiver<Mood>, seen: Arc<Mutex<Seen>>) {
    let mut waiting: Vec<(Submission, oneshot::Sender<Answer>)> = Vec::new();
    loop {
        tokio::select! {
            call = calls.recv() => match call {
                None => return,
                Some(Call::Submit { submission, reply, .. }) => {
                    seen.lock().unwrap().submissions.push(submission.clone());
                    waiting.push((submission, reply));
                }
                Some(Call::OpenSession { terminal, session, reply }) => {
                    seen.lock().unwrap().sessions.insert((terminal, session), 0);
                    let _ = reply.send(true);
                }
                Some(Call::FindSession { terminal, session, reply }) => {
                    let _ = reply.send(seen.lock().unwrap().sessions.get(&(terminal, session)).copied());
                }
                Some(Call::ListOrders { orders_max, reply, .. }) => {
                    drop(reply.send(seen.lock().unwrap().orders.values().filter(|o| o.open).take(orders_max).cloned().collect()));
                }
                Some(other) => panic!("the serial ingress has no use for {other:?}"),
            },
            _ = mood.changed() => {}
        }
        match *mood.borrow_and_update() {
            Mood::Prompt => {
                for (submission, reply) in waiting.drain(..) {
                    let answer = decide(&mut seen.lock().unwrap(), &submission);
                    let _ = reply.send(answer);
                }
            }
            Mood::Stuck => {}
            Mood::Ending => waiting.clear(),
        }
    }
}

/// The rules of the core, as far as an ingress can see them.
fn decide(seen: &mut Seen, submission: &Submission) -> Answer {
    let id = submission.request.id.clone();
    let key = (submission.terminal.to_string(), id.to_string());
    if let Some((_, Answer::Stored(stored))) = seen.stored.get(&key) {
        return Answer::Stored(Stored { duplicate: true, ..stored.clone() });
    }
    if seen.busy_each > 0 && seen.submissions.len().is_multiple_of(seen.busy_each) {
        return Answer::rejected(Some(id), Code::Busy, "busy", Some(20));
    }
    if let Some(mark) = submission.session {
        let stored = seen.sessions.get_mut(&(submission.terminal.clone(), mark.session)).expect("a session that was opened");
        assert!(mark.number > *stored, "{} comes after {stored} was stored, and is not remembered", mark.number);
        *stored = mark.number;
    }
    let seq = Seq(seen.stored.len() as u64 + 1);
    let order_id = submission.request.order_id.clone().unwrap_or_else(|| format!("order-{seq}").parse().unwrap());
    let ticket = Some(Ticket(u32::try_from(seq.0).unwrap()));
    let answer = Answer::Stored(Stored { request_id: id, duplicate: false, order_id, event_id: [7; 16], ticket, seq });
    seen.stored.insert(key, (submission.request.user_id.clone().unwrap_or_default(), answer.clone()));
    answer
}

/// A port with a stable path, as udev gives it, that can be unplugged and plugged in again.
pub struct Socket {
    folder: TempDir,
}

impl Socket {
    pub fn new() -> Socket {
        Socket { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("till")
    }

    /// Plugs a cable in; the terminal's end is returned. Dropping it unplugs.
    pub fn plug(&self) -> SerialStream {
        let (terminal, port) = SerialStream::pair().unwrap();
        let device = port.name().unwrap();
        drop(port);
        let _ = std::fs::remove_file(self.path());
        std::os::unix::fs::symlink(device, self.path()).unwrap();
        terminal
    }

    pub fn config(&self, terminal: &str, framing: Framing) -> SerialPort {
        SerialPort { terminal: terminal.parse().unwrap(), path: self.path(), baud: 115_200, framing }
    }
}

/// The ingress itself, running.
pub struct Ingress {
    pub figures: Arc<Figures>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Ingress {
    pub fn start(rig: &Rig, ports: Vec<SerialPort>) -> Ingress {
        let settings = Settings::new(ports, Epoch(7));
        let figures = Arc::clone(&settings.figures);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(run(settings, rig.handle.clone(), async {
            let _ = stopped.await;
        }));
        Ingress { figures, stop: Some(stop), task }
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(DEADLINE, self.task).await.expect("it stops").unwrap();
    }
}

/// Waits until it is so.
#[track_caller]
pub fn until(mut so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        while !so() {
            assert!(began.elapsed() < DEADLINE, "waited in vain at {caller}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
