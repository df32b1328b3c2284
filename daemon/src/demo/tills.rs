//! The demo's terminals: a till on a serial line, a kiosk over MQTT, a web shop over HTTP. They go on whatever happens to the gateway.

use crate::demo::child::House;
use crate::ingress::mqtt::Access;
use crate::terminal::{self, EVENTS_QUEUED_MAX, Ends, Order, Orders, Reply, Terminal, TerminalEvent, Told};
use gateway::ids::Name;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The serial line's speed: a pseudo-terminal has none, but wants one.
const SERIAL_BAUD: u32 = 115_200;
/// A terminal gets a new order this often, if it is done with the one before.
const ORDER_EVERY: Duration = Duration::from_millis(400);
/// What is still unanswered when no more orders are made may take so long.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// So many looks in a row must find nothing unanswered.
const QUIET_LOOKS: u32 = 10;
/// The same trouble is told once in so many times: terminals try again four times a second.
const TROUBLE_EVERY: u64 = 20;

/// What the terminals saw.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Requests that were submitted.
    pub submitted: u64,
    /// Requests that were answered *stored*.
    pub stored: u64,
    /// Requests that were answered otherwise, for good.
    pub rejected: u64,
    /// Statuses that a terminal's display showed.
    pub statuses_shown: u64,
    troubles: u64,
}

#[derive(Default)]
struct Seen {
    counts: Counts,
    stored_orders: HashSet<String>,
    news: Vec<String>,
    /// Statuses that a terminal's display showed since they were last told.
    shown: BTreeMap<(Name, String), u64>,
}

/// The terminals, and what they saw.
pub struct Tills {
    http: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    feeders: Vec<JoinHandle<()>>,
    terminals: Vec<Terminal>,
    listener: JoinHandle<()>,
}

impl Tills {
    /// Starts them.
    ///
    /// # Errors
    /// A line cannot be used.
    pub fn start(house: &House, serial: &Path) -> anyhow::Result<Tills> {
        let gateway: Name = super::child::GATEWAY.parse()?;
        let (events, told) = mpsc::channel(EVENTS_QUEUED_MAX);
        let mut feeders = Vec::new();
        let mut ends = || -> anyhow::Result<Ends> {
            let (sender, orders) = mpsc::channel(1);
            feeders.push(tokio::spawn(feed(Orders::new()?, sender)));
            Ok(Ends { orders, events: events.clone() })
        };
        let access = Access { url: format!("mqtt://{}", house.mqtt).parse().map_err(anyhow::Error::msg)?, login: None, ca_file: None };
        let terminals = vec![
            terminal::serial_ends::start(serial, SERIAL_BAUD, "till-1".parse()?, ends()?),
            terminal::mqtt::start(access, &gateway, "kiosk-2".parse()?, ends()?),
            terminal::http::start(house.http.to_string(), "web-3".parse()?, ends()?),
        ];
        let seen = Arc::<Mutex<Seen>>::default();
        let listener = tokio::spawn(listen(told, Arc::clone(&seen)));
        Ok(Tills { http: house.http, seen, feeders, terminals, listener })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they saw.
    pub fn counts(&self) -> Counts {
        self.seen().counts.clone()
    }

    /// The orders that they heard *stored* for.
    pub fn stored_orders(&self) -> HashSet<String> {
        self.seen().stored_orders.clone()
    }

    /// What happened since the last call.
    pub fn take_news(&self) -> Vec<String> {
        let mut seen = self.seen();
        let shown = std::mem::take(&mut seen.shown).into_iter().filter(|((_, status), _)| status != "CREATED");
        let shown: Vec<String> = shown.map(|((name, status), count)| format!("{name}: its display shows {status} for {count}")).collect();
        let mut news = std::mem::take(&mut seen.news);
        news.extend(shown);
        news
    }

    /// How many events wait in the gateway's outbox; `None` while it is away.
    pub async fn queued(&self) -> Option<u64> {
        let (_, body) = terminal::http::get(self.http, "/health").await.ok()?;
        serde_json::from_slice::<serde_json::Value>(&body).ok()?.get("queued")?.as_u64()
    }

    /// No more orders: waits until each is answered, or for a while.
    pub async fn finish(&mut self) {
        for feeder in self.feeders.drain(..) {
            feeder.abort();
        }
        let answered = async {
            // An order that was made last may still be on its way to its terminal.
            let mut quiet = 0;
            while quiet < QUIET_LOOKS {
                let Counts { submitted, stored, rejected, .. } = self.counts();
                quiet = if submitted == stored + rejected { quiet + 1 } else { 0 };
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(FINISH_MAX, answered).await;
    }

    /// Ends the terminals; what they saw stays.
    pub fn stop(&mut self) {
        self.terminals.clear();
        self.listener.abort();
    }
}

async fn feed(mut orders: Orders, sender: mpsc::Sender<Order>) {
    let mut every = tokio::time::interval(ORDER_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if sender.send(orders.make()).await.is_err() {
            return;
        }
    }
}

async fn listen(mut told: mpsc::Receiver<Told>, seen: Arc<Mutex<Seen>>) {
    while let Some((name, event)) = told.recv().await {
        seen.lock().unwrap_or_else(PoisonError::into_inner).take(&name, event);
    }
}

impl Seen {
    fn take(&mut self, name: &Name, event: TerminalEvent) {
        match event {
            TerminalEvent::Submitted { .. } => self.counts.submitted += 1,
            TerminalEvent::Resubmitted { .. } => {}
            TerminalEvent::Answered { reply: Reply::Stored { duplicate, order_id, ticket, seq, .. }, latency, .. } => {
                self.counts.stored += 1;
                let again = if duplicate { ", already the first time" } else { "" };
                let ticket = ticket.map_or(String::new(), |ticket| format!(", ticket {ticket}"));
                self.news.push(format!("{name}: stored{ticket}, seq {seq}, after {} ms{again}", latency.as_millis()));
                self.stored_orders.insert(order_id);
            }
            TerminalEvent::Answered { reply: Reply::Rejected { code, message, .. }, .. } => {
                self.counts.rejected += 1;
                self.news.push(format!("{name}: rejected as {code}: {message}"));
            }
            TerminalEvent::AnsweredAgain { .. } => {}
            TerminalEvent::Trouble { reason } => {
                if self.counts.troubles.is_multiple_of(TROUBLE_EVERY) {
                    self.news.push(format!("{name}: no answer ({reason}); submits the same request again"));
                }
                self.counts.troubles += 1;
            }
            TerminalEvent::Status { status, .. } => {
                self.counts.statuses_shown += 1;
                *self.shown.entry((name.clone(), status)).or_default() += 1;
            }
        }
    }
}
