//! A stand-in for the event loop behind a [`Handle`], and the ingress running against it.

use super::super::{Access, Figures, Settings, run};
use crate::handle::{CALLS_MAX, CHANGES_MAX, Call, Handle, State};
use crate::terminals::Terminals;
use gateway::board::Board;
use gateway::ids::{Epoch, Name, OrderId, Seq, Ticket};
use gateway::io::Submission;
use gateway::order::{Payment, Projection, Status};
use gateway::request::{Answer, Code, Stored};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Nothing in these tests takes so long unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What the stand-in does with a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Stores it at once.
    Prompt,
    /// Keeps it until the mood changes.
    Stuck,
    /// Says `busy` to each request once, then stores it at once.
    BusyFirst,
    /// Gathers for so long, then answers all at once, as a disk sync does.
    Syncing(Duration),
}

#[derive(Debug, Default)]
pub struct Seen {
    pub stored: HashMap<(String, String), Seq>,
    pub orders: HashMap<OrderId, Projection>,
    pub submissions: usize,
    turned_away: HashSet<(String, String)>,
}

/// The gateway beyond the ingress, as far as the ingress can tell.
pub struct Rig {
    pub handle: Handle,
    pub seen: Arc<Mutex<Seen>>,
    pub mood: watch::Sender<Mood>,
    pub board: watch::Sender<Arc<Board>>,
    pub state: watch::Sender<Arc<State>>,
}

impl Rig {
    pub fn new(mood: Mood) -> Rig {
        let (calls, calls_rx) = mpsc::channel(CALLS_MAX);
        let (board, board_rx) = watch::channel(Arc::new(Board::default()));
        let (state, state_rx) = watch::channel(Arc::new(State { accepting: true, ..State::default() }));
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let (mood, mood_rx) = watch::channel(mood);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let handle = Handle { calls, board: board_rx, changes, state: state_rx, terminals: Terminals::default() };
        tokio::spawn(answer_calls(calls_rx, mood_rx, Arc::clone(&seen), handle.changes.clone()));
        Rig { handle, seen, mood, board, state }
    }

    /// An order changes durably.
    pub fn change(&self, order: Projection) {
        self.seen.lock().unwrap().orders.insert(order.order_id.clone(), order.clone());
        let _ = self.handle.changes.send(Arc::new(order));
    }

    pub fn submissions(&self) -> usize {
        self.seen.lock().unwrap().submissions
    }
}

async fn answer_calls(
    mut calls: mpsc::Receiver<Call>,
    mut mood: watch::Receiver<Mood>,
    seen: Arc<Mutex<Seen>>,
    changes: broadcast::Sender<Arc<Projection>>,
) {
    let mut waiting: Vec<(Submission, oneshot::Sender<Answer>)> = Vec::new();
    loop {
        let now = *mood.borrow_and_update();
        tokio::select! {
            call = calls.recv() => match call {
                None => return,
                Some(Call::Submit { submission, reply, .. }) => {
                    let is_first = {
                        let mut seen = seen.lock().unwrap();
                        seen.submissions += 1;
                        seen.turned_away.insert(key(&submission))
                    };
                    if now == Mood::BusyFirst && is_first {
                        let _ = reply.send(Answer::rejected(Some(submission.request.id), Code::Busy, "later", Some(20)));
                        continue;
                    }
                    waiting.push((submission, reply));
                    if matches!(now, Mood::Prompt | Mood::BusyFirst) {
                        answer_all(&mut waiting, &seen, &changes);
                    }
                }
                Some(Call::ReadOrder { order, reply }) => drop(reply.send(seen.lock().unwrap().orders.get(&order).cloned())),
                Some(Call::ListOrders { orders_max, reply, .. }) => {
                    let open = seen.lock().unwrap().orders.values().filter(|o| o.open).take(orders_max).cloned().collect();
                    drop(reply.send(open));
                }
                Some(other) => panic!("the MQTT ingress has no use for {other:?}"),
            },
            _ = mood.changed() => {}
            () = gathered(now), if !waiting.is_empty() => answer_all(&mut waiting, &seen, &changes),
        }
    }
}

async fn gathered(mood: Mood) {
    match mood {
        Mood::Syncing(time) => tokio::time::sleep(time).await,
        // What came while the mood was changing.
        Mood::Prompt | Mood::BusyFirst => {}
        Mood::Stuck => std::future::pending().await,
    }
}

fn key(submission: &Submission) -> (String, String) {
    (submission.terminal.to_string(), submission.request.id.to_string())
}

fn answer_all(waiting: &mut Vec<(Submission, oneshot::Sender<Answer>)>, seen: &Mutex<Seen>, changes: &broadcast::Sender<Arc<Projection>>) {
    let mut seen = seen.lock().unwrap();
    let Seen { stored, orders, .. } = &mut *seen;
    for (submission, reply) in waiting.drain(..) {
        let next = Seq(stored.len() as u64 + 1);
        let key = key(&submission);
        let duplicate = stored.contains_key(&key);
        let seq = *stored.entry(key).or_insert(next);
        let order_id = submission.request.order_id.unwrap_or_else(|| format!("order-{}", seq.0).parse().unwrap());
        let mut event_id = [0; 16];
        event_id[8..].copy_from_slice(&seq.0.to_be_bytes());
        let ticket = Some(Ticket(u32::try_from(seq.0).unwrap()));
        if !duplicate {
            let order = order(order_id.as_str(), Some(submission.terminal.as_str()), Status::Created);
            orders.insert(order_id.clone(), order.clone());
            let _ = changes.send(Arc::new(order));
        }
        let _ = reply.send(Answer::Stored(Stored { request_id: submission.request.id, duplicate, order_id, event_id, ticket, seq }));
    }
}

/// The ingress itself, running.
pub struct Ingress {
    pub figures: Arc<Figures>,
    /// It has heard that it shall stop.
    pub stopping: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Ingress {
    pub fn start(rig: &Rig, access: Access) -> Ingress {
        Ingress::start_as(rig, access, Epoch(7))
    }

    pub fn start_as(rig: &Rig, access: Access, boot: Epoch) -> Ingress {
        let figures = Arc::new(Figures::default());
        let settings = Settings {
            gateway: "store-042".parse().unwrap(),
            boot,
            access: tokio::sync::watch::channel(access).1,
            client_id: "dumbwaiter-store-042".into(),
            figures: Arc::clone(&figures),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let stopping = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&stopping);
        let until_stopped = async move {
            drop(stopped.await);
            heard.store(true, Ordering::Relaxed);
        };
        let task = tokio::spawn(run(settings, rig.handle.clone(), until_stopped));
        Ingress { figures, stopping, stop: Some(stop), task }
    }

    /// Stops it in order.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(DEADLINE, &mut self.task).await.expect("it ends in time").expect("it does not panic");
    }

    /// As a power cut would.
    pub fn kill(self) {
        self.task.abort();
    }
}

/// What is logged on this thread at INFO and above.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Until both are dropped. With one subscriber in the process, tracing asks the thread that logs first whether anybody wants to
    /// hear it, and remembers its answer; with a second one it asks all of them.
    pub fn capture(&self) -> (tracing::subscriber::DefaultGuard, tracing::Dispatch) {
        let lines = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone()).finish();
        (tracing::subscriber::set_default(subscriber), tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

pub fn access(url: &str) -> Access {
    Access { url: url.parse().unwrap(), login: None, ca_file: None }
}

/// Waits until something becomes true.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn request(id: &str) -> String {
    format!(
        r#"{{"requestId":"{id}","userId":"user-1","data":{{"restaurantId":"restaurant-789","totalPrice":12.50,"orderDetails":[{{"foodId":"food-001","foodName":"Pizza Margherita","price":12.50,"quantity":1}}]}}}}"#
    )
}

/// An order as [`Projection`] has it.
pub fn order(id: &str, terminal: Option<&str>, status: Status) -> Projection {
    Projection {
        order_id: id.parse().unwrap(),
        ticket: Some(Ticket(42)),
        display_number: None,
        terminal: terminal.map(|name| name.parse::<Name>().unwrap()),
        status,
        payment: Payment::Pending,
        lines: Vec::new(),
        lines_omitted: 0,
        total: Some("12.50".into()),
        channel: None,
        customer_name: None,
        due_at: None,
        shipper: None,
        created_at_ms: 1_704_110_400_000,
        updated_at_ms: 1_704_110_400_000,
        changed_run_ms: 0,
        ready_run_ms: None,
        house_leads: false,
        open: !status.is_final(),
        history: Vec::new(),
        alarm: None,
        maybe_stored: false,
        refunded: None,
    }
}
