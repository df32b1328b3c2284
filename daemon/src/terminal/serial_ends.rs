//! The serial terminal behind the same two ends as the others: orders in, events out.

use super::{Ends, Order, Reply, Terminal, TerminalEvent, Told};
use crate::terminal::serial::{self, Answered, Heard, Outcome};
use gateway::ids::{Name, RequestId};
use gateway::request::uuid_text;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// Reports that were not passed on yet.
const HEARD_QUEUED_MAX: usize = 64;

/// Starts a terminal on that device. It opens it again and again for as long as it lives. It does not assert its name: the port's
/// config names it.
pub fn start(path: &Path, baud: u32, name: Name, ends: Ends) -> Terminal {
    let path = path.display().to_string();
    let (submit, mut submitted) = mpsc::channel(1);
    let (say, heard) = mpsc::channel(HEARD_QUEUED_MAX);
    let settings = serial::Settings { display: true, ..serial::Settings::default() };
    Terminal::spawn(async move {
        let line = async {
            let mut terminal = serial::Terminal::new(settings)?;
            terminal.run(&path, baud, &mut submitted, &say).await
        };
        let driver = Driver { name: name.clone(), ends, submit, in_flight: HashMap::new(), taken: 0 };
        tokio::select! {
            ended = line => {
                if let Err(error) = ended {
                    tracing::error!(%name, error = format!("{error:#}"), "the terminal ended");
                }
            }
            () = driver.run(heard) => {}
        }
    })
}

struct Driver {
    name: Name,
    ends: Ends,
    submit: mpsc::Sender<serial::Order>,
    /// By the terminal's token: the request ids that the driver knows. On the line a request has another one.
    in_flight: HashMap<u64, RequestId>,
    taken: u64,
}

impl Driver {
    /// Passes orders on one at a time, and reports; ends when nobody listens.
    async fn run(mut self, mut heard: mpsc::Receiver<Heard>) {
        loop {
            let event = tokio::select! {
                Some(order) = self.ends.orders.recv(), if self.in_flight.is_empty() => self.take(order).await,
                Some(heard) = heard.recv() => self.hear(heard),
                // No more orders, and the terminal that would report is gone.
                else => return,
            };
            let Some(event) = event else { continue };
            let told: Told = (self.name.clone(), event);
            if self.ends.events.send(told).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, order: Order) -> Option<TerminalEvent> {
        self.taken += 1;
        self.in_flight.insert(self.taken, order.request_id.clone());
        self.submit.send(serial::Order { token: self.taken, body: order.body() }).await.ok()?;
        Some(TerminalEvent::Submitted { request_id: order.request_id })
    }

    fn hear(&mut self, heard: Heard) -> Option<TerminalEvent> {
        match heard {
            Heard::Online { .. } | Heard::Board { .. } => None,
            Heard::Offline(reason) => Some(TerminalEvent::Trouble { reason }),
            Heard::Refused(refusal) => Some(TerminalEvent::Trouble { reason: format!("the gateway refused the hello: {refusal:?}") }),
            Heard::Status { order_id, status, .. } => Some(TerminalEvent::Status { order_id, status: status_name(status).to_owned() }),
            Heard::Answered(answered) => self.answered(answered),
        }
    }

    fn answered(&mut self, answered: Answered) -> Option<TerminalEvent> {
        let Answered { token, latency, outcome, .. } = answered;
        let reply = match outcome {
            Outcome::Again { .. } => return Some(TerminalEvent::Resubmitted { request_id: self.in_flight.get(&token)?.clone() }),
            Outcome::Stored { duplicate, order_id, event_id, ticket, seq } => {
                Reply::Stored { duplicate, order_id, event_id: uuid_text(&event_id), ticket: ticket.map(u64::from), seq }
            }
            Outcome::Rejected { code, reason } => {
                Reply::Rejected { code: code_word(code).to_owned(), message: reason, retry_after: None::<Duration> }
            }
        };
        Some(TerminalEvent::Answered { request_id: self.in_flight.remove(&token)?, reply, latency })
    }
}

fn code_word(code: protocol::Code) -> &'static str {
    match code {
        protocol::Code::Invalid => "invalid",
        protocol::Code::Conflict => "conflict",
        protocol::Code::Busy => "busy",
        protocol::Code::Full => "full",
        protocol::Code::TooLarge => "too_large",
        protocol::Code::Expired => "expired",
        protocol::Code::UnknownOrder => "unknown_order",
        protocol::Code::Final => "final",
        protocol::Code::Unauthorized => "unauthorized",
        protocol::Code::Unknown(_) => "unknown",
    }
}

fn status_name(status: protocol::Status) -> &'static str {
    match status {
        protocol::Status::Created => "CREATED",
        protocol::Status::Confirmed => "CONFIRMED",
        protocol::Status::Preparing => "PREPARING",
        protocol::Status::Ready => "READY",
        protocol::Status::OutForDelivery => "OUT_FOR_DELIVERY",
        protocol::Status::Delivered => "DELIVERED",
        protocol::Status::Cancelled => "CANCELLED",
        protocol::Status::Unknown(_) => "UNKNOWN",
    }
}
