//! What the gateway shows the house over one broker: its own state, the board, and the status of each order.
//!
//! All of it is driven from what is durable: after every connect, and after falling behind, the open orders are read anew and
//! published, so that nothing depends on a publish that a broken connection took with it. A status is retained while its order is
//! open. When the order ends, its last status is published once without the flag and the retained one is cleared after it: who
//! listens sees the end, and who comes later finds nothing.

use super::figures::{Figures, count, set};
use super::intake::Message;
use super::statuses::{Pace, Retained, STATUSES_RETAINED_MAX, Shown, Waiting};
use super::topics::{Channel, Topics};
use crate::handle::Handle;
use gateway::board::Board;
use gateway::ids::Epoch;
use gateway::order::Projection;
use gateway::request::REQUEST_BYTES_MAX;
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use serde_json::json;
use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

/// Retained statuses that are looked at after one connect.
pub const STATUSES_FOUND_MAX: usize = 4_096;
/// Messages of the house that wait for the publisher: few, because answers go first and must not stand behind them.
pub const HOUSE_QUEUED_MAX: usize = 16;
/// The board is published at most so often.
const BOARD_EVERY: Duration = Duration::from_secs(1);
/// Largest board, in bytes; the broker may take less.
const BOARD_BYTES_MAX: usize = 64 * 1024;
/// The look at what the broker retains ends when nothing came for so long.
const LOOK_QUIET: Duration = Duration::from_secs(2);
/// Falling behind leads to a fresh reading of the open orders, at most so often.
const RESYNC_EVERY: Duration = Duration::from_secs(5);
/// While the store is away, the reading is tried again after this.
const STORE_AWAY_RETRY: Duration = Duration::from_secs(1);

/// What the house is shown. It outlives connections, to know what it left retained.
#[derive(Debug)]
pub struct House {
    topics: Topics,
    handle: Handle,
    figures: Arc<Figures>,
    boot: Epoch,
    retained: Retained,
    waiting: Waiting,
}

/// One connection's ends.
#[derive(Debug)]
pub struct Ends {
    /// To subscribe and unsubscribe.
    pub client: AsyncClient,
    /// To the publisher.
    pub out: mpsc::Sender<Message>,
    /// Topics of statuses that the broker retains; `None` if it shall not be asked for them.
    pub found: Option<mpsc::Receiver<String>>,
    /// The largest packet that the broker takes.
    pub packet_bytes_max: usize,
}

/// The publisher is gone: so is the connection.
struct Gone;

impl House {
    pub fn new(topics: Topics, handle: Handle, figures: Arc<Figures>, boot: Epoch) -> House {
        House { topics, handle, figures, boot, retained: Retained::default(), waiting: Waiting::default() }
    }

    /// Shows what is and what changes, until the connection ends and the caller drops this.
    pub async fn run(&mut self, mut ends: Ends) -> Infallible {
        match self.show(&mut ends).await {
            Ok(never) => never,
            Err(Gone) => std::future::pending().await,
        }
    }

    async fn show(&mut self, ends: &mut Ends) -> Result<Infallible, Gone> {
        // Listening begins before the reading, so that what changes in between is told twice rather than never.
        let mut changes = self.handle.changes();
        let mut state = self.handle.state();
        let mut board = self.handle.board();
        let mut accepting = state.borrow_and_update().accepting;
        send(ends, gateway_state(&self.topics, self.boot, true, accepting)).await?;
        board.mark_changed();
        let mut board_due = Instant::now();
        // What the broker still retains of what we published before is not known: the look and the reading tell.
        self.retained.forget_payloads();
        let mut resync_due = Some(Instant::now());
        let mut resync_next = Instant::now();
        let mut settle_due = None;
        let mut look_until = None;
        if ends.found.is_some() {
            ends.client.subscribe(self.topics.all_statuses(), QoS::AtLeastOnce).await.map_err(|_| Gone)?;
            look_until = Some(Instant::now() + LOOK_QUIET);
        }
        let mut unclear: VecDeque<Shown> = VecDeque::new();
        let mut pace = Pace::new(Instant::now());
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Ok(order) => self.let_wait(ends, order).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => resync_due = Some(resync_next),
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
                () = sleep_until(pace.next_at()), if !self.waiting.is_empty() => {
                    pace.passed(Instant::now());
                    if let Some(order) = self.waiting.take() {
                        set(&self.figures.statuses_waiting, self.waiting.len());
                        self.show_order(ends, &order).await?;
                    }
                }
                Ok(()) = state.changed() => {
                    let now = state.borrow_and_update().accepting;
                    if now != accepting {
                        accepting = now;
                        send(ends, gateway_state(&self.topics, self.boot, true, accepting)).await?;
                    }
                }
                Ok(()) = async { sleep_until(board_due).await; board.changed().await } => {
                    let shown = board.borrow_and_update().clone();
                    board_due = Instant::now() + BOARD_EVERY;
                    send(ends, self.board(&shown, ends.packet_bytes_max)).await?;
                }
                Some(topic) = next(&mut ends.found), if unclear.len() < STATUSES_FOUND_MAX => {
                    look_until = look_until.map(|_| Instant::now() + LOOK_QUIET);
                    match self.topics.read(topic.as_bytes()) {
                        Channel::Status(Some(shown)) if self.retained.holds(&shown) => {}
                        Channel::Status(Some(shown)) => {
                            unclear.push_back(shown);
                            settle_due = settle_due.or(Some(Instant::now()));
                        }
                        Channel::Status(None) => self.clear(ends, topic).await?,
                        Channel::Submit(_) | Channel::Answer(_) | Channel::State(_) | Channel::Gateway | Channel::Unknown => {}
                    }
                }
                () = due(look_until) => {
                    look_until = None;
                    ends.client.unsubscribe(self.topics.all_statuses()).await.map_err(|_| Gone)?;
                }
                () = due(resync_due) => {
                    resync_next = Instant::now() + RESYNC_EVERY;
                    match self.resync(ends).await? {
                        Some(gone) => {
                            unclear.extend(gone);
                            (resync_due, settle_due) = (None, Some(Instant::now()));
                        }
                        None => resync_due = Some(Instant::now() + STORE_AWAY_RETRY),
                    }
                }
                () = due(settle_due) => {
                    let settled = self.settle(ends, &mut unclear).await?;
                    settle_due = (!settled).then(|| Instant::now() + STORE_AWAY_RETRY);
                }
            }
        }
    }

    /// Lets an order wait for its turn. One that has to make room is crowded out: its status is not shown any more.
    async fn let_wait(&mut self, ends: &Ends, order: Arc<Projection>) -> Result<(), Gone> {
        let given_up = self.waiting.put(order);
        set(&self.figures.statuses_waiting, self.waiting.len());
        let Some(given_up) = given_up else { return Ok(()) };
        count(&self.figures.statuses_given_up);
        let Some(terminal) = &given_up.terminal else { return Ok(()) };
        count(&self.figures.statuses_crowded_out);
        let shown = (terminal.clone(), given_up.order_id.clone());
        if self.retained.remove(&shown) {
            send(ends, Message::clear(self.topics.status(terminal, &given_up.order_id))).await?;
        }
        Ok(())
    }

    /// Lets the open orders wait to be published. Gives those that were shown and are not among them; `None` while the store is away.
    ///
    /// A change that was queued before the reading comes after it: a status may step back for the moment until the change that
    /// brought it forward comes by, too.
    async fn resync(&mut self, ends: &Ends) -> Result<Option<HashSet<Shown>>, Gone> {
        let Ok(open) = self.handle.orders(None, STATUSES_RETAINED_MAX).await else { return Ok(None) };
        let mut gone = self.retained.orders();
        for order in open {
            if let Some(terminal) = &order.terminal {
                gone.remove(&(terminal.clone(), order.order_id.clone()));
            }
            self.let_wait(ends, Arc::new(order)).await?;
        }
        Ok(Some(gone))
    }

    /// Looks each order up whose retained status may be out of date, and clears or corrects it; `false` while the store is away.
    async fn settle(&mut self, ends: &Ends, unclear: &mut VecDeque<Shown>) -> Result<bool, Gone> {
        while let Some(shown) = unclear.front() {
            let (terminal, id) = shown;
            let Ok(order) = self.handle.order(id.clone()).await else { return Ok(false) };
            match order.filter(|order| order.terminal.as_ref() == Some(terminal)) {
                Some(order) if is_open(&order) => {}
                Some(order) => self.show_order(ends, &order).await?,
                None => {
                    self.retained.remove(shown);
                    self.clear(ends, self.topics.status(terminal, id)).await?;
                }
            }
            unclear.pop_front();
        }
        Ok(true)
    }

    /// Publishes an order's status where it differs from what was published last.
    async fn show_order(&mut self, ends: &Ends, order: &Projection) -> Result<(), Gone> {
        // An order of the centre's stands on the board; no terminal waits for it.
        let Some(terminal) = &order.terminal else { return Ok(()) };
        let shown = (terminal.clone(), order.order_id.clone());
        let topic = self.topics.status(terminal, &order.order_id);
        let payload = gateway::json::text(&order.shown());
        if !is_open(order) {
            self.retained.remove(&shown);
            send(ends, Message { topic: topic.clone(), payload: payload.into(), retain: false }).await?;
            send(ends, Message::clear(topic)).await?;
        } else if self.retained.put(shown, &payload) {
            send(ends, Message { topic, payload: payload.into(), retain: true }).await?;
            if let Some((terminal, id)) = self.retained.take_surplus() {
                count(&self.figures.statuses_crowded_out);
                send(ends, Message::clear(self.topics.status(&terminal, &id))).await?;
            }
        }
        set(&self.figures.statuses_retained, self.retained.len());
        Ok(())
    }

    async fn clear(&self, ends: &Ends, topic: String) -> Result<(), Gone> {
        count(&self.figures.statuses_cleared);
        send(ends, Message::clear(topic)).await
    }

    fn board(&self, board: &Board, packet_bytes_max: usize) -> Message {
        let topic = self.topics.board();
        let bytes_max = BOARD_BYTES_MAX.min(packet_bytes_max.saturating_sub(overhead(&topic)));
        Message { topic, payload: fitting(board, bytes_max).into(), retain: true }
    }
}

/// What `…/gateway` says; also the will.
pub fn gateway_state(topics: &Topics, boot: Epoch, online: bool, accepting: bool) -> Message {
    let state = json!({"online": online, "accepting": accepting, "maxBytes": REQUEST_BYTES_MAX, "boot": boot.to_string()});
    Message { topic: topics.gateway(), payload: state.to_string().into(), retain: true }
}

/// Bytes of a PUBLISH beside its payload: fixed header of at most 5, topic with its length, packet id, no properties.
pub fn overhead(topic: &str) -> usize {
    5 + 2 + topic.len() + 2 + 1
}

fn is_open(order: &Projection) -> bool {
    order.open && !order.status.is_final()
}

async fn send(ends: &Ends, message: Message) -> Result<(), Gone> {
    ends.out.send(message).await.map_err(|_| Gone)
}

async fn next(found: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    found.as_mut()?.recv().await
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The board's JSON, the oldest of the longer column left out until it fits. Only order ids that are all escapes need that.
fn fitting(board: &Board, bytes_max: usize) -> String {
    let mut board = board.clone();
    loop {
        let json = board.to_json().to_string();
        let longer = if board.preparing.len() > board.ready.len() { &mut board.preparing } else { &mut board.ready };
        if json.len() <= bytes_max || longer.is_empty() {
            return json;
        }
        longer.drain(..longer.len().div_ceil(8));
    }
}
