//! A house for tests: the server on a free port, and in place of the event loop a task that remembers what was submitted.

use crate::handle::{CHANGES_MAX, Call, Handle, ReplayStep, State};
use crate::ingress::http::{Limits, Settings, Usage, serve};
use crate::terminals::Terminals;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use gateway::board::{Board, Entry};
use gateway::event::{Clock, OrderEvent};
use gateway::ids::Epoch;
use gateway::ids::{OrderId, RequestKey, Seq, Ticket};
use gateway::io::{DeadLetter, Decided, Decision, Submission};
use gateway::journal::{Command, Sent};
use gateway::order::{Payment, Projection, Status};
use gateway::request::{Answer, Code, EventType, Stored};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::day::{OrdersStep, QueuedStep};
use store::journal::{self, Fate, Page};
use store::{DeadLetters, KeptEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Nothing in these tests takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// What the event loop was handed, as long as the test looks.
pub type Seen = Arc<Mutex<Vec<Submission>>>;

/// The rim's end of a house without a server.
pub struct Loop {
    pub handle: Handle,
    board: Option<watch::Sender<Arc<Board>>>,
    pub state: watch::Sender<Arc<State>>,
    /// While `true`, submitted requests wait.
    pub hold: watch::Sender<bool>,
    pub seen: Seen,
    task: JoinHandle<()>,
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Loop {
    pub fn start() -> Loop {
        let (calls, mut inbox) = mpsc::channel(crate::handle::CALLS_MAX);
        let (board, board_seen) = watch::channel(Arc::new(Board::default()));
        let (state, state_seen) = watch::channel(Arc::new(State { accepting: true, kafka_up: true, ..State::default() }));
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let (hold, mut held) = watch::channel(false);
        let seen = Seen::default();
        let mut memory = Memory { seen: seen.clone(), dead: vec![letter(2, 5), letter(3, 0)], ..Memory::default() };
        let task = tokio::spawn(async move {
            while let Some(call) = inbox.recv().await {
                if held.wait_for(|held| !*held).await.is_err() {
                    return;
                }
                memory.carry_out(call);
            }
        });
        let handle = Handle { calls, board: board_seen, changes, state: state_seen, terminals: Terminals::default() };
        Loop { handle, board: Some(board), state, hold, seen, task }
    }

    /// Shows these numbers.
    pub fn show(&self, preparing: &[&str], ready: &[&str]) {
        let entries = |numbers: &[&str], status| {
            let entry = |number: &&str| Entry { order_id: format!("order/{number}").parse().unwrap(), number: (*number).into(), status };
            numbers.iter().map(entry).collect()
        };
        let board = Board { preparing: entries(preparing, Status::Preparing), ready: entries(ready, Status::Ready) };
        self.board.as_ref().expect("the board has not ended").send_replace(Arc::new(board));
    }

    /// As an event loop that has ended: nothing is taken any more.
    pub async fn end(&self) {
        self.task.abort();
        soon("the event loop ends", async {
            while !self.handle.is_away() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// What a stopping event loop does to those who listen.
    pub fn end_board(&mut self) {
        self.board = None;
    }
}

#[derive(Default)]
struct Memory {
    seen: Seen,
    requests: BTreeMap<RequestKey, ([u8; 16], Stored)>,
    orders: BTreeMap<OrderId, Projection>,
    dead: DeadLetters,
    commands: Vec<Command>,
}

impl Memory {
    fn carry_out(&mut self, call: Call) {
        // Whoever asked may have gone.
        match call {
            Call::Submit { submission, reply, .. } => drop(reply.send(self.decide(submission))),
            Call::ReadOrder { order, reply } => drop(reply.send(self.orders.get(&order).cloned())),
            Call::ListOrders { status, orders_max, reply } => {
                let wanted = |order: &&Projection| order.open && status.is_none_or(|status| order.status == status);
                drop(reply.send(self.orders.values().filter(wanted).take(orders_max).cloned().collect()));
            }
            Call::ListDeadLetters { after, letters_max, reply } => {
                drop(reply.send(self.dead.iter().filter(|(seq, ..)| *seq > after).take(letters_max).cloned().collect()));
            }
            Call::ReadHistory { order, from, reply, .. } => drop(reply.send(self.history(&order, from))),
            Call::Replay { wanted, from, reply } => drop(reply.send(ReplayStep {
                sent: 2,
                failed: (wanted.from_ms == 13).then(|| "as the test asked".into()),
                next: (from == Seq(0)).then_some(Seq(3)),
                oldest: Some(Seq(2)),
                begins_ms: Some(1_000),
            })),
            Call::Command { by, deed, reply } => {
                self.commands.push(Command { at_ms: 0, run_ms: 0, by, deed });
                let _ = reply.send(Decided::Done { appended: 0 });
            }
            Call::ListCommands { reply } => drop(reply.send(self.commands.clone())),
            Call::Decide { dead, decision, reply, by: _ } => drop(reply.send(self.bury(dead, decision))),
            Call::ListMaybeStored { orders_max, reply } => {
                let wanted = self.orders.values().filter(|order| order.maybe_stored).take(orders_max);
                let _ = reply.send(wanted.cloned().collect());
            }
            Call::ReadOrdersOf { span_ms, reply, .. } => {
                let orders = self.orders.values().filter(|order| span_ms.contains(&order.created_at_ms)).cloned().collect();
                let _ = reply.send(OrdersStep { orders, next: None });
            }
            Call::CountQueuedOf { reply, .. } => drop(reply.send(QueuedStep::default())),
            Call::ReadKept { after, reply, .. } => {
                let letters = self.dead.iter().filter(|(seq, ..)| *seq > after);
                let _ = reply.send(letters.map(|(seq, letter, _)| (*seq, KeptEvent::Letter(letter.clone()))).collect());
            }
            Call::OpenSession { .. } | Call::FindSession { .. } | Call::Configure { .. } => panic!("HTTP has no use for it"),
            Call::ReadPrinted { .. } | Call::CancelledSincePrinted { .. } | Call::Print { .. } => panic!("only a printer has use for it"),
        }
    }

    /// The journal of order-1 in two steps: one event was delivered, the other waits.
    fn history(&self, order: &OrderId, from: Seq) -> Page {
        let (_, DeadLetter { event, .. }, _) = letter(9, 0);
        let event = OrderEvent { order_id: order.clone(), ..event };
        let sent = Sent { seq: Seq(9), partition: 2, offset: 17, at_ms: event.occurred_at_ms + 100 };
        let (seq, fate, next) = if from == Seq(0) { (9, Fate::Delivered(sent), Some(Seq(10))) } else { (10, Fate::Queued, None) };
        Page { entries: vec![journal::Entry { seq: Seq(seq), event, fate }], next, oldest: Some((Seq(1), 0)), begins_ms: None }
    }

    /// Decides at once, but a dead letter on an odd seq is never settled.
    fn bury(&mut self, dead: Seq, decision: Decision) -> Decided {
        let Some(place) = self.dead.iter().position(|(seq, ..)| *seq == dead) else { return Decided::Unknown };
        if dead.0 % 2 == 1 {
            return Decided::Busy;
        }
        let (.., held) = self.dead.remove(place);
        Decided::Done { appended: held + u64::from(decision == Decision::Retry) }
    }

    /// Stores whatever it is asked to, but a user named like a code is refused with it.
    fn decide(&mut self, submission: Submission) -> Answer {
        self.seen.lock().unwrap().push(submission.clone());
        let Submission { terminal, request, .. } = submission;
        let id = request.id.clone();
        if let Some(code) = Code::ALL.into_iter().find(|code| request.user_id.as_deref() == Some(code.as_str())) {
            let retry_after_ms = matches!(code, Code::Busy | Code::Full).then_some(2_500);
            return Answer::rejected(Some(id), code, "as the test asked", retry_after_ms);
        }
        let key = RequestKey { terminal: terminal.clone(), request_id: id.clone() };
        if let Some((body_hash, stored)) = self.requests.get(&key) {
            return match *body_hash == request.body_hash {
                true => Answer::Stored(Stored { duplicate: true, ..stored.clone() }),
                false => Answer::rejected(Some(id), Code::Conflict, "the same id with another body", None),
            };
        }
        let seq = self.requests.len() as u64 + 1;
        let order_id = request.order_id.clone().unwrap_or_else(|| format!("order-{seq}").parse().unwrap());
        let ticket = Ticket(u32::try_from(seq).unwrap());
        self.orders.entry(order_id.clone()).or_insert_with(|| order(order_id.as_str(), ticket.0));
        let stored = Stored { request_id: id, duplicate: false, order_id, event_id: [7; 16], ticket: Some(ticket), seq: Seq(seq) };
        self.requests.insert(key, (request.body_hash, stored.clone()));
        Answer::Stored(stored)
    }
}

/// An order with nothing but a ticket.
pub fn order(id: &str, ticket: u32) -> Projection {
    serde_json::from_value(json!({
        "order_id": id, "status": Status::Created, "payment": Payment::Pending, "ticket": ticket, "display_number": null, "channel": null,
        "customer_name": null, "due_at": null, "total": "25.50", "shipper": null, "terminal": "http", "created_at_ms": 1_704_110_400_000_i64,
        "updated_at_ms": 1_704_110_400_000_i64, "changed_run_ms": 0, "ready_run_ms": null, "lines": [], "lines_omitted": 0, "history": [],
        "house_leads": false, "open": true, "alarm": null, "maybe_stored": false,
    }))
    .unwrap()
}

/// A house with a server.
pub struct House {
    pub address: SocketAddr,
    pub inside: Loop,
    pub usage: Arc<Usage>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<anyhow::Result<()>>,
}

impl House {
    pub async fn open(limits: Limits) -> House {
        House::open_with(Settings { limits, ..Settings::default() }).await
    }

    pub async fn open_with(settings: Settings) -> House {
        let inside = Loop::start();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = Settings { hosts: vec!["board.local".into()], ..settings };
        let usage = settings.usage.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let metrics = Arc::new(|| "dumbwaiter_outbox_events 3\n# EOF\n".to_owned());
        let shutdown = async { drop(stopped.await) };
        let server = tokio::spawn(serve(listener, settings, inside.handle.clone(), metrics, shutdown));
        House { address, inside, usage, stop: Some(stop), server }
    }

    /// Asks the server to stop and waits until it has.
    pub async fn close(&mut self) {
        self.stop.take();
        soon("the server stops", &mut self.server).await.unwrap().unwrap();
    }

    /// One request on a connection of its own. `Host` is there unless the request brings one.
    pub async fn ask(&self, mut request: Request<Full<Bytes>>) -> Reply {
        request.headers_mut().entry("host").or_insert_with(|| self.address.to_string().parse().unwrap());
        let response = self.send(request).await;
        let (head, body) = response.into_parts();
        let body = soon("the answer's body", body.collect()).await.unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> hyper::Response<hyper::body::Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        soon("an answer", sender.send_request(request)).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask(Request::get(path).body(Full::default()).unwrap()).await
    }

    /// Posts JSON under this key.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        let request = Request::post(path).header("content-type", "application/json").header("idempotency-key", key);
        self.ask(request.body(Full::from(body.to_string())).unwrap()).await
    }

    /// Opens a stream of server-sent events.
    pub async fn listen(&self, path: &str) -> Events {
        let request = Request::get(path).header("host", self.address.to_string()).body(Full::default()).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), text: String::new() }
    }
}

/// An answer with its whole body.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub async fn of(response: axum::http::Response<Body>) -> Reply {
        let (head, body) = response.into_parts();
        Reply { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }
}

/// What a page hears.
pub struct Events {
    body: hyper::body::Incoming,
    text: String,
}

impl Events {
    /// The next board; `None` once the stream has ended.
    pub async fn board(&mut self) -> Option<Value> {
        loop {
            match self.next().await? {
                (name, board) if name == "board" => return Some(board),
                (name, _) => assert_eq!(name, "alive"),
            }
        }
    }

    /// The next event's name and data; `None` once the stream has ended.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let event = field("event: ").map(|name| (name, serde_json::from_str(&field("data: ").unwrap()).unwrap()));
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let frame = soon("an event", self.body.frame()).await?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

/// An order of one pizza.
pub fn pizza() -> Value {
    json!({"userId": "user-456", "orderDetails": [{"foodId": "food-001", "foodName": "Pizza", "price": 12.50, "quantity": 2}]})
}

fn letter(seq: u64, held: u64) -> (Seq, DeadLetter, u64) {
    let event = OrderEvent {
        epoch: Epoch(7),
        request: RequestKey { terminal: "till-1".parse().unwrap(), request_id: format!("r-{seq}").parse().unwrap() },
        id: [7; 16],
        event_type: EventType::Created,
        order_id: format!("order/{seq}").parse().unwrap(),
        user_id: None,
        occurred_at_ms: 1_704_110_400_000,
        clock: Clock::Synced,
        data: r#"{"totalPrice":12.50}"#.into(),
    };
    (Seq(seq), DeadLetter { event, reason: "too large".into(), since_ms: 1_704_110_400_000, attempts: 2 }, held)
}
