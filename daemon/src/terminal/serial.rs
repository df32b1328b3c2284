//! A serial terminal in binary frames: submits orders, keeps what is unanswered, and reports what it hears.
//!
//! It promises its caller what a till promises its cashier: each order that it took is answered in the end, through restarts of the
//! gateway, an unplugged line and, with a state file, its own restarts; and is stored at most once unless the answer says
//! `maybe_stored`. It keeps at most [`KEPT_MAX`] orders; further ones wait in the caller's channel.

pub mod json;
mod memory;

use anyhow::Context;
use memory::{KeptOrder, Memory};
use protocol::{Answer, Code, Column, Frame, Kept, Payment, Refusal, Status, TerminalEvent, TerminalLink, Wants};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_serial::SerialPortBuilderExt;

/// Orders that the terminal keeps: unanswered ones, and rejected ones that are welcome again later.
pub const KEPT_MAX: usize = 32;
/// When a `busy` or `full` order is submitted again if the answer does not say it.
const RETRY_AFTER_MS: u32 = 2_000;
/// Between two tries to open a port.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// How a terminal is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Its name, to be compared with the port's; or empty.
    pub name: String,
    /// It wants statuses and the board.
    pub display: bool,
    /// Where it keeps what it must not forget. Without it a restart forgets what is unanswered.
    pub state_file: Option<PathBuf>,
}

/// An order to submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The caller's name for it: given back with the answer.
    pub token: u64,
    /// The request's JSON, without `requestId`.
    pub body: String,
}

/// What a terminal reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It is in a session.
    Online {
        /// The session.
        session: u64,
        /// It is an older one.
        resumed: bool,
    },
    /// There is no line, and why; it tries again by itself.
    Offline(String),
    /// Its hello was refused; it tries again by itself.
    Refused(Refusal),
    /// An order was answered.
    Answered(Answered),
    /// One of its orders changed.
    Status {
        /// The order.
        order_id: String,
        /// What people call out.
        number: String,
        /// Its status.
        status: Status,
        /// Its payment.
        payment: Payment,
    },
    /// The board, oldest first.
    Board {
        /// Numbers in preparation.
        preparing: Vec<String>,
        /// Numbers that may be collected.
        ready: Vec<String>,
    },
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The order's.
    pub token: u64,
    /// The id under which it was decided.
    pub request_id: String,
    /// It may have been stored under another id in a lost session.
    pub maybe_stored: bool,
    /// Since the terminal took it, or was started with it.
    pub latency: Duration,
    /// The decision.
    pub outcome: Outcome,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is on the gateway's disk.
    Stored {
        /// It was stored before.
        duplicate: bool,
        /// The order.
        order_id: String,
        /// The event's UUID.
        event_id: [u8; 16],
        /// The number to call out.
        ticket: Option<u32>,
        /// The event's position in the outbox.
        seq: u64,
    },
    /// It is not, and the terminal will not submit it again.
    Rejected {
        /// Why.
        code: Code,
        /// For people.
        reason: String,
    },
    /// It is not yet: the terminal submits it again by itself, under a new id.
    Again {
        /// Why.
        code: Code,
        /// After so long.
        after: Duration,
    },
}

/// Why [`Terminal::serve`] ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The caller has no more orders, and all are answered.
    Finished,
    /// The line is gone: serve another one, and it goes on.
    Lost(String),
}

/// A terminal. It outlives its lines.
#[derive(Debug)]
pub struct Terminal {
    settings: Settings,
    memory: Memory,
    /// Rejected for now, and when they are welcome again.
    waiting: Vec<(Instant, KeptOrder)>,
}

impl Terminal {
    /// A terminal with what its state file says, if there is one.
    ///
    /// # Errors
    /// The state file cannot be read, or is none. It is left as it is.
    pub fn new(settings: Settings) -> anyhow::Result<Terminal> {
        let memory = settings.state_file.as_deref().map_or_else(|| Ok(Memory::default()), Memory::read)?;
        Ok(Terminal { settings, memory, waiting: Vec::new() })
    }

    /// Orders that are not finished.
    pub fn unfinished(&self) -> usize {
        self.memory.kept.len() + self.memory.queue.len() + self.waiting.len()
    }

    /// Opens the port again and again until all orders are answered. Reports go to `heard`, which the caller must read.
    ///
    /// # Errors
    /// The state file cannot be written: nothing can be promised any more.
    pub async fn run(
        &mut self,
        path: &str,
        baud: u32,
        orders: &mut mpsc::Receiver<Order>,
        heard: &mpsc::Sender<Heard>,
    ) -> anyhow::Result<()> {
        loop {
            let reason = match tokio_serial::new(path, baud).open_native_async() {
                Ok(line) => match self.serve(line, orders, heard).await? {
                    Ended::Finished => return Ok(()),
                    Ended::Lost(reason) => reason,
                },
                Err(error) => error.to_string(),
            };
            // Nobody who listens is no reason to stop: the orders count.
            let _ = heard.send(Heard::Offline(reason)).await;
            sleep(REOPEN_AFTER).await;
        }
    }

    /// Serves a line until it is lost or all orders are answered. The caller's end of `orders` tells that there are no more.
    ///
    /// # Errors
    /// As [`Terminal::run`].
    pub async fn serve<S>(&mut self, line: S, orders: &mut mpsc::Receiver<Order>, heard: &mpsc::Sender<Heard>) -> anyhow::Result<Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(line);
        let wants = Wants { statuses: self.settings.display, board: self.settings.display };
        let nonce = getrandom::u32().context("no random number for the hello")?;
        let mut at = AtLine {
            began: Instant::now(),
            link: TerminalLink::new(&self.settings.name, wants, self.memory.resume(), self.memory.next(), nonce, 0),
            frame: Frame::new(),
            written: 0,
            board: (Vec::new(), Vec::new()),
        };
        let (mut bytes, mut open) = ([0; 1024], true);
        loop {
            self.number(&mut at.link).await?;
            if at.frame.len() == at.written {
                let first = self.memory.first;
                let kept = &self.memory.kept;
                let next = at.link.poll_frame(at.now_ms(), |number| {
                    let kept = kept.get(usize::try_from(number.checked_sub(first)?).ok()?)?;
                    Some(Kept { bytes: kept.body.as_bytes(), maybe_stored: kept.maybe_stored })
                });
                (at.frame, at.written) = (next.unwrap_or_default(), 0);
            }
            let idle = at.frame.len() == at.written;
            if !open && idle && self.unfinished() == 0 {
                return Ok(Ended::Finished);
            }
            let wake = at.wake_at(idle).min(self.waiting.iter().map(|(at, _)| *at).min().unwrap_or(at.never()));
            tokio::select! {
                read = reader.read(&mut bytes) => match read {
                    Ok(0) => return Ok(Ended::Lost("hung up".into())),
                    Err(error) => return Ok(Ended::Lost(error.to_string())),
                    Ok(len) => self.receive(&mut at, &bytes[..len], heard).await?,
                },
                written = writer.write(&at.frame[at.written..]), if !idle => match written {
                    Ok(0) => return Ok(Ended::Lost("it takes nothing".into())),
                    Err(error) => return Ok(Ended::Lost(error.to_string())),
                    Ok(len) => at.written += len,
                },
                order = orders.recv(), if open && self.unfinished() < KEPT_MAX => match order {
                    Some(Order { token, body }) => self.memory.queue.push_back(KeptOrder::new(token, body)),
                    None => open = false,
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Gives numbers to what has none, once there is a session. Kept first, sent later.
    async fn number(&mut self, link: &mut TerminalLink) -> anyhow::Result<()> {
        let now = Instant::now();
        let due = self.waiting.extract_if(.., |(at, _)| *at <= now).map(|(_, order)| order);
        self.memory.queue.extend(due);
        if link.next().is_none() || self.memory.queue.is_empty() {
            return Ok(());
        }
        let new = self.memory.queue.len();
        self.memory.kept.append(&mut self.memory.queue);
        self.save().await?;
        (0..new).for_each(|_| link.submit());
        Ok(())
    }

    async fn receive(&mut self, at: &mut AtLine, mut bytes: &[u8], heard: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let now_ms = at.now_ms();
            match at.link.receive(now_ms, &mut bytes) {
                None => {}
                Some(TerminalEvent::Opened { session, maybe_stored }) => {
                    self.memory.open(session, maybe_stored);
                    self.save().await?;
                    at.link.begin(self.memory.kept.len() as u64);
                    let _ = heard.send(Heard::Online { session, resumed: false }).await;
                }
                Some(TerminalEvent::Resumed { .. }) => {
                    let session = self.memory.session.unwrap_or_default();
                    let _ = heard.send(Heard::Online { session, resumed: true }).await;
                }
                Some(TerminalEvent::Refused(refused)) => drop(heard.send(Heard::Refused(refused.refusal)).await),
                Some(TerminalEvent::Answered { number, answer }) => {
                    if let Some(answered) = self.take_answer(number, answer) {
                        self.save().await?;
                        at.link.finish(number);
                        let _ = heard.send(Heard::Answered(answered)).await;
                    }
                }
                Some(TerminalEvent::Status(push)) => {
                    let (order_id, number) = (push.order_id.into(), push.display.into());
                    let _ = heard.send(Heard::Status { order_id, number, status: push.status, payment: push.payment }).await;
                }
                Some(TerminalEvent::Board(piece)) => {
                    if piece.piece == 0 {
                        at.board = (Vec::new(), Vec::new());
                    }
                    let numbers = piece.numbers.lines().map(String::from);
                    match piece.column {
                        Column::Preparing => at.board.0.extend(numbers),
                        Column::Ready => at.board.1.extend(numbers),
                        Column::Unknown(_) => {}
                    }
                    if piece.piece.checked_add(1) == Some(piece.pieces) {
                        let (preparing, ready) = std::mem::take(&mut at.board);
                        let _ = heard.send(Heard::Board { preparing, ready }).await;
                    }
                }
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, number: u64, answer: Answer<'_>) -> Option<Answered> {
        let session = self.memory.session?;
        let order = self.memory.finish(number)?;
        let outcome = match answer {
            Answer::Stored { duplicate, order_id, event_id, ticket, seq } => {
                Outcome::Stored { duplicate, order_id: order_id.into(), event_id, ticket, seq }
            }
            Answer::Rejected { code: code @ (Code::Busy | Code::Full), retry_after_ms, .. } => {
                Outcome::Again { code, after: Duration::from_millis(retry_after_ms.unwrap_or(RETRY_AFTER_MS).into()) }
            }
            Answer::Rejected { code, reason, .. } => Outcome::Rejected { code, reason: reason.into() },
        };
        let answered = Answered {
            token: order.token,
            request_id: protocol::request_id(session, number).as_str().into(),
            maybe_stored: order.maybe_stored,
            latency: order.since.elapsed(),
            outcome,
        };
        if let Outcome::Again { after, .. } = answered.outcome {
            self.waiting.push((Instant::now() + after, order));
        }
        Some(answered)
    }

    async fn save(&self) -> anyhow::Result<()> {
        match &self.settings.state_file {
            None => Ok(()),
            Some(path) => self.memory.write(path, self.waiting.iter().map(|(_, order)| order)).await,
        }
    }
}

/// What belongs to one line.
struct AtLine {
    began: Instant,
    link: TerminalLink,
    frame: Frame,
    written: usize,
    board: (Vec<String>, Vec<String>),
}

impl AtLine {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the link has something to say, unless a frame is under way.
    fn wake_at(&self, idle: bool) -> Instant {
        if !idle {
            return self.never();
        }
        let in_ms = self.link.wake_at().saturating_sub(self.now_ms()).max(1);
        Instant::now() + Duration::from_millis(in_ms.min(3_600_000))
    }

    /// Nothing depends on the hour: it stands for never.
    fn never(&self) -> Instant {
        Instant::now() + Duration::from_secs(3_600)
    }
}
