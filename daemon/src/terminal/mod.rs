//! Terminals to try things with: for the command line, for the demo, for tests.
//!
//! Each behaves as `docs/protocol.md` asks of a terminal: one order at a time, the same request id until it is answered, again after a
//! time-out, after `busy` and after `full`, and an order is done only with its answer. What happens is told as events, so that whoever
//! drives it can count. They survive whatever happens to the gateway and to what lies between.

pub mod check;
pub mod http;
pub mod load;
pub mod mqtt;
mod orders;
pub mod serial;
pub mod serial_ends;

pub use orders::{Order, Orders};

use crate::cli::{TerminalArgs, TerminalLine};
use crate::config::Secret;
use crate::ingress::mqtt::Access;
use gateway::ids::{Name, RequestId};
use load::{Options, Report, Target};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// An answer may take so long before the same request is submitted again. Longer than a slow disk sync, shorter than a guest's
/// patience.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// After `busy` or `full` without a time, and between tries to connect.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The gateway may ask for more patience than a terminal has.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Nothing heard for so long: what is unanswered then counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events that the driver has not taken yet. When it is slow, so are its terminals.
pub const EVENTS_QUEUED_MAX: usize = 256;

/// `dumbwaiter terminal`: submits what was asked for and says what became of it. The caller prints the report.
///
/// # Errors
/// What is asked for cannot be: nothing was submitted.
pub async fn run(args: &TerminalArgs) -> anyhow::Result<Report> {
    let target = match &args.line {
        TerminalLine::Mqtt { url, gateway, username, password_file, ca_file } => {
            let password = password_file.as_deref().map(Secret::read).transpose().map_err(|e| anyhow::anyhow!("--password-file: {e}"))?;
            let username = username.clone().or_else(|| password.is_some().then(|| args.name.to_string()));
            let access = Access { url: url.clone(), login: username.map(|name| (name, password)), ca_file: ca_file.clone() };
            access.host()?;
            Target::Mqtt { access, gateway: gateway.clone() }
        }
        TerminalLine::Http { url } => Target::Http { authority: url.authority.clone() },
        TerminalLine::Serial { path, baud, framing } => {
            anyhow::ensure!(args.terminals == 1, "--terminals: a serial line has one");
            Target::Serial { path: path.clone(), baud: *baud, framing: *framing }
        }
        TerminalLine::Check(_) | TerminalLine::Add(_) | TerminalLine::Remove(_) | TerminalLine::Rotate(_) => {
            anyhow::bail!("that is no line to try things on")
        }
    };
    let (name, terminals) = (args.name.clone(), args.terminals);
    load::run(Options { target, name, terminals, count: args.count, rate: args.rate, patience: PATIENCE, quiet: args.json }).await
}

/// What a terminal tells its driver, with the terminal's name.
pub type Told = (Name, TerminalEvent);

/// What happened at a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalEvent {
    /// It took an order and submits it from now on.
    Submitted { request_id: RequestId },
    /// It submitted the same request again.
    Resubmitted { request_id: RequestId },
    /// The request is done. `latency` counts from the first submission.
    Answered { request_id: RequestId, reply: Reply, latency: Duration },
    /// An answer to a request that is done already: the repeat of one that crossed its answer, or worse.
    AnsweredAgain { request_id: RequestId, reply: Reply },
    /// There is no connection, and it tries again.
    Trouble { reason: String },
    /// An order's status came by.
    Status { order_id: String, status: String },
}

/// An answer, as a terminal reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Stored { duplicate: bool, order_id: String, event_id: String, ticket: Option<u64>, seq: u64 },
    Rejected { code: String, message: String, retry_after: Option<Duration> },
}

impl Reply {
    /// The answer and the id of its request; `None` for anything that is no answer to one.
    pub fn read(json: &[u8]) -> Option<(RequestId, Reply)> {
        let json: Value = serde_json::from_slice(json).ok()?;
        let text = |field: &str| json.get(field).and_then(Value::as_str).map(str::to_owned);
        let number = |field: &str| json.get(field).and_then(Value::as_u64);
        let id = text("requestId")?.parse().ok()?;
        let reply = match text("result")?.as_str() {
            "stored" => Reply::Stored {
                duplicate: json.get("duplicate")?.as_bool()?,
                order_id: text("orderId")?,
                event_id: text("eventId")?,
                ticket: number("ticket"),
                seq: number("seq")?,
            },
            "rejected" => Reply::Rejected {
                code: text("code")?,
                message: text("message").unwrap_or_default(),
                retry_after: number("retryAfterMs").map(Duration::from_millis),
            },
            _ => return None,
        };
        Some((id, reply))
    }

    /// When to submit the same request again; `None` when it is done.
    pub fn submit_again_after(&self) -> Option<Duration> {
        match self {
            Reply::Rejected { code, retry_after, .. } if matches!(code.as_str(), "busy" | "full") => {
                Some(retry_after.unwrap_or(RETRY_AFTER).min(RETRY_AFTER_MAX))
            }
            Reply::Stored { .. } | Reply::Rejected { .. } => None,
        }
    }
}

/// A running terminal. It goes on until it is dropped: without more orders it still tells statuses.
#[derive(Debug)]
pub struct Terminal {
    task: JoinHandle<()>,
}

impl Terminal {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Terminal {
        Terminal { task: tokio::spawn(task) }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A terminal's two ends: orders in, events out.
#[derive(Debug)]
pub struct Ends {
    /// Taken one at a time, each when the one before it is done.
    pub orders: mpsc::Receiver<Order>,
    pub events: mpsc::Sender<Told>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_busy_and_full_are_submitted_again_and_not_before_their_time() {
        let reply = |code: &str, after: &str| {
            let json = format!(r#"{{"requestId":"r","result":"rejected","code":"{code}","message":"m"{after}}}"#);
            Reply::read(json.as_bytes()).unwrap().1.submit_again_after()
        };
        assert_eq!(reply("busy", r#","retryAfterMs":2000"#), Some(Duration::from_secs(2)));
        assert_eq!(reply("full", r#","retryAfterMs":86400000"#), Some(RETRY_AFTER_MAX));
        assert_eq!(reply("full", ""), Some(RETRY_AFTER));
        for done in ["invalid", "conflict", "too_large", "expired", "unknown_order", "final", "unauthorized"] {
            assert_eq!(reply(done, r#","retryAfterMs":2000"#), None, "{done}");
        }
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        for text in ["", "{}", r#"{"requestId":null,"result":"rejected","code":"invalid"}"#, r#"{"requestId":"r","result":"maybe"}"#] {
            assert_eq!(Reply::read(text.as_bytes()), None, "{text}");
        }
    }
}
