//! What the rim holds of the event loop: submit, look, listen. Cheap to clone.

use crate::disk_state::DiskState;
use crate::terminals::Terminals;
use gateway::Gauges;
use gateway::board::Board;
use gateway::ids::{Name, OrderId, Seq, SessionId};
use gateway::io::{Decided, Decision, Submission};
use gateway::journal::{Command, Deed};
use gateway::order::{Projection, Status};
use gateway::printed::{PrintKey, Printed};
use gateway::request::{Answer, Code};
use gateway::settings::Settings;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::day::{Cursor, OrdersStep, QueuedStep};
use store::journal::{self, Page};
use store::{DeadLetters, KeptEvent};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Calls that wait for the event loop. Beyond it a terminal hears `busy`.
pub const CALLS_MAX: usize = 1024;
/// Changed orders that a slow listener may lag behind before it has to read the store again.
pub const CHANGES_MAX: usize = 1024;

/// Marks of printed tickets that one step looks at for [`Handle::cancelled_since_printed`].
pub const MARKS_STEP: usize = 64;

/// By which way a request came in: a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ingress {
    Serial,
    Mqtt,
    Http,
}

impl Ingress {
    pub fn as_str(self) -> &'static str {
        match self {
            Ingress::Serial => "serial",
            Ingress::Mqtt => "mqtt",
            Ingress::Http => "http",
        }
    }
}

/// A call from the rim to the event loop.
#[derive(Debug)]
pub enum Call {
    Submit { ingress: Ingress, submission: Submission, reply: oneshot::Sender<Answer> },
    OpenSession { terminal: Name, session: SessionId, reply: oneshot::Sender<bool> },
    FindSession { terminal: Name, session: SessionId, reply: oneshot::Sender<Option<u64>> },
    ReadOrder { order: OrderId, reply: oneshot::Sender<Option<Projection>> },
    ListDeadLetters { after: Seq, letters_max: usize, reply: oneshot::Sender<DeadLetters> },
    ReadHistory { order: OrderId, span_ms: (i64, i64), from: Seq, reply: oneshot::Sender<Page> },
    Replay { wanted: journal::Wanted, from: Seq, reply: oneshot::Sender<ReplayStep> },
    Command { by: String, deed: Deed, reply: oneshot::Sender<Decided> },
    ListCommands { reply: oneshot::Sender<Vec<Command>> },
    Decide { dead: Seq, decision: Decision, by: String, reply: oneshot::Sender<Decided> },
    ReadPrinted { key: PrintKey, reply: oneshot::Sender<Option<Printed>> },
    CancelledSincePrinted { printer: Name, after: Option<OrderId>, reply: oneshot::Sender<(Vec<Projection>, Option<OrderId>)> },
    Print { marks: Vec<(PrintKey, Printed)>, reply: oneshot::Sender<Decided> },
    Configure { settings: Box<Settings>, renew_producer: bool, done: oneshot::Sender<()> },
    ReadOrdersOf { span_ms: Range<i64>, from: Option<Cursor>, reply: oneshot::Sender<OrdersStep> },
    CountQueuedOf { span_ms: Range<i64>, from: Option<Seq>, reply: oneshot::Sender<QueuedStep> },
    ReadKept { after: Seq, events_max: usize, reply: oneshot::Sender<Vec<(Seq, KeptEvent)>> },
    ListMaybeStored { orders_max: usize, reply: oneshot::Sender<Vec<Projection>> },
    ListOrders { status: Option<Status>, orders_max: usize, reply: oneshot::Sender<Vec<Projection>> },
}

/// A step of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayStep {
    /// Events that Kafka took again.
    pub sent: u64,
    /// Why not all of this step were.
    pub failed: Option<String>,
    /// Where the next step begins; `None` after the last.
    pub next: Option<Seq>,
    /// The first event that is kept.
    pub oldest: Option<Seq>,
    /// When that was delivered, in Unix milliseconds.
    pub begins_ms: Option<i64>,
}

/// What the whole gateway looks like at a moment: for /health, /ready, metrics, `gateway-status` and the MQTT topic `gateway`.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The core's gauges.
    pub gauges: Gauges,
    /// The uplink has a broker connection.
    pub kafka_up: bool,
    /// The store is open and new orders are taken.
    pub accepting: bool,
    /// How the disk is.
    pub disk: DiskState,
    /// For how long orders are remembered, in milliseconds of running time.
    pub remember_ms: u64,
    /// Since when `kafka_up` is what it is.
    pub kafka_since: Option<Instant>,
    /// How long the last disk sync took, and the slowest since the start.
    pub syncs: Option<(Duration, Duration)>,
}

/// The rim's end of the event loop.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) board: watch::Receiver<Arc<Board>>,
    pub(crate) changes: broadcast::Sender<Arc<Projection>>,
    pub(crate) state: watch::Receiver<Arc<State>>,
    pub(crate) terminals: Terminals,
}

impl Handle {
    /// Submits a request and waits for its answer. Never waits for room: a full queue is `busy`. An ending gateway is `busy` too:
    /// nothing is known to be stored, and the same request id is welcome at the next start.
    pub async fn submit(&self, ingress: Ingress, submission: Submission) -> Answer {
        let id = submission.request.id.clone();
        let decision = self.decision(ingress, submission).await;
        decision.unwrap_or_else(|| Answer::rejected(Some(id), Code::Busy, "the gateway is stopping", Some(2_000)))
    }

    /// The event loop has ended, or the store is not open, or being rebuilt: nothing is taken, however slowly it comes.
    pub fn is_away(&self) -> bool {
        let state = self.state.borrow();
        let rebuilt_first = state.gauges.rebuilding && !state.gauges.accepting;
        self.calls.is_closed() || state.disk == DiskState::Failing || rebuilt_first
    }

    /// As [`Handle::submit`], for who must tell *not stored* from *not known*: `None` if the gateway ended before it decided.
    pub async fn decision(&self, ingress: Ingress, submission: Submission) -> Option<Answer> {
        let (id, terminal) = (submission.request.id.clone(), submission.terminal.clone());
        self.terminals.submitted(ingress, &terminal);
        let (reply, answer) = oneshot::channel();
        let answer = match self.calls.try_send(Call::Submit { ingress, submission, reply }) {
            Err(_) => Some(Answer::rejected(Some(id), Code::Busy, "too many requests at once", Some(2_000))),
            Ok(()) => answer.await.ok(),
        };
        if matches!(answer, Some(Answer::Rejected(_))) {
            self.terminals.refused(ingress, &terminal);
        }
        answer
    }

    /// Makes a new serial session durable; `false` if it could not be.
    pub async fn open_session(&self, terminal: Name, session: SessionId) -> bool {
        let (reply, opened) = oneshot::channel();
        if self.calls.try_send(Call::OpenSession { terminal, session, reply }).is_err() {
            return false;
        }
        opened.await.unwrap_or(false)
    }

    /// The highest number stored in a serial session, 0 if none is; `None` if there is no such session.
    ///
    /// # Errors
    /// The store is not open: whether there is such a session is not known.
    pub async fn session(&self, terminal: Name, session: SessionId) -> Result<Option<u64>, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::FindSession { terminal, session, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// Reads an order from the store; `Err` while the store is not open.
    pub async fn order(&self, order: OrderId) -> Result<Option<Projection>, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ReadOrder { order, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// Reads at most `orders_max` open orders that may be stored twice, oldest first.
    pub async fn maybe_stored(&self, orders_max: usize) -> Result<Vec<Projection>, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ListMaybeStored { orders_max, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// What was heard of terminals.
    pub fn terminals(&self) -> &Terminals {
        &self.terminals
    }

    /// Reads at most `orders_max` open orders, oldest first.
    pub async fn orders(&self, status: Option<Status>, orders_max: usize) -> Result<Vec<Projection>, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ListOrders { status, orders_max, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// Reads at most `letters_max` dead letters behind `after`.
    pub async fn dead_letters(&self, after: Seq, letters_max: usize) -> Result<DeadLetters, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ListDeadLetters { after, letters_max, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// A step through the orders that were made in a span of time in Unix milliseconds.
    pub async fn orders_of(&self, span_ms: Range<i64>, from: Option<Cursor>) -> Result<OrdersStep, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ReadOrdersOf { span_ms, from, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// A step through the events that wait, of such a span; `None` begins with the first that Kafka does not have.
    pub async fn queued_of(&self, span_ms: Range<i64>, from: Option<Seq>) -> Result<QueuedStep, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::CountQueuedOf { span_ms, from, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// At most `events_max` dead letters and events that are held behind them, behind `after`.
    pub async fn kept(&self, after: Seq, events_max: usize) -> Result<Vec<(Seq, KeptEvent)>, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ReadKept { after, events_max, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// A step of an order's history: its events of a span of time in Unix milliseconds, from `from` on.
    pub async fn history(&self, order: OrderId, span_ms: (i64, i64), from: Seq) -> Result<Page, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ReadHistory { order, span_ms, from, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// Sends the first delivered events again that are wanted, from `from` on, and waits for Kafka.
    pub async fn replay(&self, wanted: journal::Wanted, from: Seq) -> Result<ReplayStep, StoreAway> {
        let (reply, done) = oneshot::channel();
        self.calls.send(Call::Replay { wanted, from, reply }).await.map_err(|_| StoreAway)?;
        done.await.map_err(|_| StoreAway)
    }

    /// Writes a command down, and waits until that is durable or refused. [`Decided::Unknown`]: it cannot be carried out here.
    pub async fn command(&self, by: String, deed: Deed) -> Result<Decided, StoreAway> {
        let (reply, decided) = oneshot::channel();
        self.calls.send(Call::Command { by, deed, reply }).await.map_err(|_| StoreAway)?;
        decided.await.map_err(|_| StoreAway)
    }

    /// The commands that are journalled.
    pub async fn commands(&self) -> Result<Vec<Command>, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ListCommands { reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// What a printer has of an order, as it is durable; without an order, something if the printer is known.
    pub async fn printed(&self, key: PrintKey) -> Result<Option<Printed>, StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::ReadPrinted { key, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// A step of a search for orders that ended by being cancelled after the printer had a ticket of them; gives where the next begins.
    pub async fn cancelled_since_printed(
        &self,
        printer: Name,
        after: Option<OrderId>,
    ) -> Result<(Vec<Projection>, Option<OrderId>), StoreAway> {
        let (reply, found) = oneshot::channel();
        self.calls.send(Call::CancelledSincePrinted { printer, after, reply }).await.map_err(|_| StoreAway)?;
        found.await.map_err(|_| StoreAway)
    }

    /// Writes down what printers have of orders, and waits until that is durable or refused.
    pub async fn print(&self, marks: Vec<(PrintKey, Printed)>) -> Result<Decided, StoreAway> {
        let (reply, decided) = oneshot::channel();
        self.calls.send(Call::Print { marks, reply }).await.map_err(|_| StoreAway)?;
        decided.await.map_err(|_| StoreAway)
    }

    /// Decides about a dead letter, and waits until that is durable or refused.
    pub async fn decide(&self, dead: Seq, decision: Decision, by: String) -> Result<Decided, StoreAway> {
        let (reply, decided) = oneshot::channel();
        self.calls.send(Call::Decide { dead, decision, by, reply }).await.map_err(|_| StoreAway)?;
        decided.await.map_err(|_| StoreAway)
    }

    /// Takes over a newer config, and has Kafka's producer made anew if how Kafka is reached changed.
    pub async fn configure(&self, settings: Settings, renew_producer: bool) {
        let (done, was_done) = oneshot::channel();
        if self.calls.send(Call::Configure { settings: Box::new(settings), renew_producer, done }).await.is_ok() {
            // A gateway that ends takes nothing over any more.
            let _ = was_done.await;
        }
    }

    /// The board as last made durable, and a wake-up at each change.
    pub fn board(&self) -> watch::Receiver<Arc<Board>> {
        self.board.clone()
    }

    /// Every order that changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Arc<Projection>> {
        self.changes.subscribe()
    }

    /// The gateway's state, refreshed at least once a second.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }
}

/// The store is not open, or the gateway is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is not open")]
pub struct StoreAway;
