//! Binary frames: a [`GatewayLink`] and the port, the store and the core that it talks to.

use super::display::{Display, Shown, Wants};
use super::figures::{Counted, count};
use super::port::{Decided, Decision, End, Port};
use super::{READ_BYTES, STOP_WITHIN, WRITE_WITHIN};
use crate::handle::{Handle, Ingress, StoreAway};
use futures_util::future::BoxFuture;
use gateway::board::{Board, Entry};
use gateway::ids::{Name, RequestId, SessionId};
use gateway::io::{SessionMark, Submission};
use gateway::order;
use gateway::request::{Answer, Code, Request};
use protocol::{
    BOARD_BYTES_MAX, BoardPiece, Column, Counters, Frame, GatewayEvent, GatewayLink, GatewaySettings, Lookup, SessionFound, StatusPush,
};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::info;

/// Serves an open port until it is lost or the daemon stops.
pub async fn serve<S>(port: &mut Port, stream: S, stop: &mut watch::Receiver<bool>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut link = Link::new(port);
    let end = link.serve(stream, stop).await;
    let core = link.core.take();
    if link.online.take().is_some() {
        info!(terminal = %port.terminal, "terminal offline");
    }
    port.undecided = core;
    end
}

/// What the store says of a session.
enum Found {
    Opened(Option<u64>),
    Session(u64, SessionFound),
}

struct Link<'p> {
    port: &'p mut Port,
    began: Instant,
    link: Box<GatewayLink>,
    counted: Counters,
    lookup: Option<BoxFuture<'static, Found>>,
    core: Option<Decision>,
    display: Display,
    /// Pieces of the board that is being shown, and how many it has.
    pieces: (VecDeque<(Column, String)>, u8),
    out: Out,
    online: Option<Counted>,
    in_flight: Option<Counted>,
    stop_at: Option<Instant>,
}

/// A frame that is being written.
#[derive(Default)]
struct Out {
    frame: Frame,
    written: usize,
    since: Option<Instant>,
}

impl Out {
    fn is_empty(&self) -> bool {
        self.written == self.frame.len()
    }
}

impl<'p> Link<'p> {
    fn new(port: &'p mut Port) -> Link<'p> {
        let core = port.undecided.take();
        // A name has at most as many bytes as the link's.
        let name = port.terminal.as_str().try_into().unwrap_or_default();
        let settings = GatewaySettings { name, boot: port.boot.0, flight: port.flight };
        Link {
            display: Display::new(port.terminal.clone(), port.handle.clone(), port.figures.clone()),
            port,
            began: Instant::now(),
            link: Box::new(GatewayLink::new(settings)),
            counted: Counters::default(),
            lookup: None,
            core,
            pieces: (VecDeque::new(), 0),
            out: Out::default(),
            online: None,
            in_flight: None,
            stop_at: None,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn serve<S>(&mut self, stream: S, stop: &mut watch::Receiver<bool>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut bytes = [0; READ_BYTES];
        loop {
            self.act();
            if self.stop_at.is_some_and(|at| at <= Instant::now() || (self.core.is_none() && self.out.is_empty())) {
                return End::Stopped;
            }
            let (room, wake) = (self.link.takes_push(), self.wake_at());
            tokio::select! {
                read = reader.read(&mut bytes) => match read {
                    Ok(0) => return End::Lost("the line was hung up".into()),
                    Ok(len) => self.receive(&bytes[..len]),
                    Err(error) => return End::Lost(error.to_string()),
                },
                written = writer.write(&self.out.frame[self.out.written..]), if !self.out.is_empty() => match written {
                    Ok(0) => return End::Lost("the line takes nothing".into()),
                    Ok(len) => self.out.written += len,
                    Err(error) => return End::Lost(error.to_string()),
                },
                decided = optional(&mut self.core), if self.core.is_some() => {
                    self.core = None;
                    self.answer(&decided);
                }
                found = optional(&mut self.lookup), if self.lookup.is_some() => {
                    self.lookup = None;
                    match found {
                        Found::Opened(session) => self.link.session_opened(session),
                        Found::Session(session, found) => self.link.session_found(session, found),
                    }
                }
                () = self.display.gather(room) => {}
                () = sleep_until(wake) => if self.is_stuck() {
                    count(&self.port.figures.stuck);
                    return End::Lost("nothing is taken from the line".into());
                },
                _ = stop.wait_for(|stop| *stop), if self.stop_at.is_none() => self.stop_at = Some(Instant::now() + STOP_WITHIN),
            }
        }
    }

    fn is_stuck(&self) -> bool {
        !self.out.is_empty() && self.out.since.is_some_and(|since| since.elapsed() >= WRITE_WITHIN)
    }

    fn wake_at(&self) -> Instant {
        let now_ms = self.now_ms();
        let wake = if self.out.is_empty() {
            let in_ms = self.link.wake_at(now_ms).map(|at| at.saturating_sub(now_ms).max(1));
            in_ms.map(|ms| Instant::now() + Duration::from_millis(ms))
        } else {
            self.out.since.map(|since| since + WRITE_WITHIN)
        };
        // Nothing depends on the hour: it stands for never.
        let never = Instant::now() + Duration::from_secs(3_600);
        [wake, self.stop_at].into_iter().flatten().min().unwrap_or(never)
    }

    fn receive(&mut self, mut bytes: &[u8]) {
        let now_ms = self.now_ms();
        while !bytes.is_empty() {
            self.link.receive(now_ms, &mut bytes);
            // At once: a submission that is not taken before the next frame is read would have to come again.
            self.take_events();
        }
        let garbled = self.port.figures.count_link(&mut self.counted, self.link.counters());
        self.port.handle.terminals().garbled(Ingress::Serial, &self.port.terminal, garbled);
    }

    /// Does all that can be done without waiting.
    fn act(&mut self) {
        self.take_events();
        if self.link.takes_push() {
            self.push();
        }
        if self.out.is_empty()
            && let Some(frame) = self.link.poll_frame(self.now_ms())
        {
            self.out = Out { frame, written: 0, since: Some(Instant::now()) };
        }
        let online = self.link.online(self.now_ms());
        if online != self.online.is_some() {
            info!(terminal = %self.port.terminal, "terminal {}", if online { "online" } else { "offline" });
            self.online = online.then(|| Counted::new(&self.port.figures.terminals_online));
            self.port.tell_online(online);
        }
        if self.core.is_some() != self.in_flight.is_some() {
            self.in_flight = self.core.is_some().then(|| Counted::new(&self.port.figures.submits_in_flight));
        }
    }

    fn take_events(&mut self) {
        // A daemon that stops takes nothing up any more.
        while self.stop_at.is_none() {
            match self.link.poll_event() {
                None => return,
                Some(GatewayEvent::Wanted(lookup)) => {
                    let (handle, terminal) = (self.port.handle.clone(), self.port.terminal.clone());
                    self.lookup = Some(Box::pin(look_up(handle, terminal, lookup)));
                }
                Some(GatewayEvent::Greeted { wants, .. }) => {
                    self.pieces = (VecDeque::new(), 0);
                    self.display.switch(Wants { statuses: wants.statuses, board: wants.board });
                }
                Some(GatewayEvent::Submission { session, number, maybe_stored, bytes }) => {
                    let request = parse(session, number, bytes);
                    self.submit(session, number, maybe_stored, request);
                }
            }
        }
    }

    fn submit(&mut self, session: u64, number: u64, maybe_stored: bool, request: Result<Request, Answer>) {
        let request = match request {
            Ok(request) => request,
            Err(refusal) => {
                if let Answer::Rejected(rejected) = &refusal {
                    self.port.figures.count_refused(rejected.code);
                }
                return self.answer(&Decided { session, number, answer: Some(refusal) });
            }
        };
        let session_mark = SessionMark { session: SessionId(session), number };
        let submission = Submission { terminal: self.port.terminal.clone(), request, session: Some(session_mark), maybe_stored };
        // Only after a port was lost there is one: its number may be stored yet, so nothing may be said of it or after it before that.
        let before = self.core.take();
        let handle = self.port.handle.clone();
        self.core = Some(Box::pin(async move {
            if let Some(before) = before {
                before.await;
            }
            let answer = handle.decision(Ingress::Serial, submission).await;
            Decided { session, number, answer }
        }));
    }

    fn answer(&mut self, decided: &Decided) {
        // Without an answer the gateway is ending: the number stays open, and is submitted again to the next start.
        let Some(answer) = &decided.answer else { return };
        let now_ms = self.now_ms();
        let said = self.link.answer(now_ms, decided.session, decided.number, wire_answer(answer));
        // The core's ids and messages are no longer than the link's.
        debug_assert!(said.is_ok(), "{answer:?} does not fit into a frame");
    }

    fn push(&mut self) {
        let now_ms = self.now_ms();
        if self.pieces.0.is_empty() {
            match self.display.next() {
                None => return,
                Some(Shown::Board(board)) => {
                    let pieces = board_pieces(&board);
                    self.pieces = (pieces.clone().into(), u8::try_from(pieces.len()).unwrap_or(u8::MAX));
                }
                Some(Shown::Status(order)) => {
                    let display = order.number().unwrap_or_default();
                    let (status, payment) = (wire_status(order.status), wire_payment(order.payment));
                    let status = StatusPush { order_id: order.order_id.as_str(), display: &display, status, payment };
                    let said = self.link.push_status(now_ms, status);
                    debug_assert!(said.is_ok(), "it takes a push, and a status fits into a frame");
                    return;
                }
            }
        }
        if let Some((column, numbers)) = self.pieces.0.pop_front() {
            let pieces = self.pieces.1;
            let left = u8::try_from(self.pieces.0.len()).unwrap_or(u8::MAX);
            let piece = BoardPiece { piece: pieces.saturating_sub(left).saturating_sub(1), pieces, column, numbers: &numbers };
            let said = self.link.push_board(now_ms, piece);
            debug_assert!(said.is_ok(), "it takes a push, and a piece fits into a frame");
        }
    }
}

async fn optional<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn look_up(handle: Handle, terminal: Name, lookup: Lookup) -> Found {
    match lookup {
        Lookup::Open => {
            // Without a random number there is no session: two terminals' requests would be taken for one.
            let Ok(session) = getrandom::u64() else { return Found::Opened(None) };
            let durable = handle.open_session(terminal, SessionId(session)).await;
            Found::Opened(durable.then_some(session))
        }
        Lookup::Find(session) => {
            let found = match handle.session(terminal, SessionId(session)).await {
                Ok(Some(mark)) => SessionFound::Known { mark },
                Ok(None) => SessionFound::Unknown,
                Err(StoreAway) => SessionFound::Away,
            };
            Found::Session(session, found)
        }
    }
}

fn parse(session: u64, number: u64, bytes: &[u8]) -> Result<Request, Answer> {
    let id: RequestId = protocol::request_id(session, number).parse().expect("a letter, digits and a dash, at most 38");
    Request::parse_with_id(id.clone(), bytes).map_err(|error| error.into_answer(Some(id)))
}

fn wire_answer(answer: &Answer) -> protocol::Answer<'_> {
    let ms = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
    match answer {
        Answer::Stored(stored) => protocol::Answer::Stored {
            duplicate: stored.duplicate,
            order_id: stored.order_id.as_str(),
            event_id: stored.event_id,
            ticket: stored.ticket.map(|ticket| ticket.0),
            seq: stored.seq.0,
        },
        Answer::Rejected(rejected) => protocol::Answer::Rejected {
            code: wire_code(rejected.code),
            reason: &rejected.message,
            retry_after_ms: rejected.retry_after_ms.map(ms),
        },
    }
}

fn wire_code(code: Code) -> protocol::Code {
    match code {
        Code::Invalid => protocol::Code::Invalid,
        Code::Conflict => protocol::Code::Conflict,
        Code::Busy => protocol::Code::Busy,
        Code::Full => protocol::Code::Full,
        Code::TooLarge => protocol::Code::TooLarge,
        Code::Expired => protocol::Code::Expired,
        Code::UnknownOrder => protocol::Code::UnknownOrder,
        Code::Final => protocol::Code::Final,
        Code::Unauthorized => protocol::Code::Unauthorized,
    }
}

fn wire_status(status: order::Status) -> protocol::Status {
    match status {
        order::Status::Created => protocol::Status::Created,
        order::Status::Confirmed => protocol::Status::Confirmed,
        order::Status::Preparing => protocol::Status::Preparing,
        order::Status::Ready => protocol::Status::Ready,
        order::Status::OutForDelivery => protocol::Status::OutForDelivery,
        order::Status::Delivered => protocol::Status::Delivered,
        order::Status::Cancelled => protocol::Status::Cancelled,
    }
}

fn wire_payment(payment: order::Payment) -> protocol::Payment {
    match payment {
        order::Payment::Pending => protocol::Payment::Pending,
        order::Payment::Paid => protocol::Payment::Paid,
        order::Payment::Failed => protocol::Payment::Failed,
        order::Payment::Refunded => protocol::Payment::Refunded,
        order::Payment::PartlyRefunded => protocol::Payment::PartlyRefunded,
    }
}

/// A board in pieces: at least one, so that an empty board clears the display.
fn board_pieces(board: &Board) -> Vec<(Column, String)> {
    let mut pieces = column_pieces(Column::Preparing, &board.preparing);
    pieces.extend(column_pieces(Column::Ready, &board.ready));
    if pieces.is_empty() {
        pieces.push((Column::Preparing, String::new()));
    }
    pieces
}

fn column_pieces(column: Column, entries: &[Entry]) -> Vec<(Column, String)> {
    let mut pieces: Vec<(Column, String)> = Vec::new();
    for entry in entries {
        // A line feed ends a number; a terminal's display has no use for other control characters either.
        let mut number: String = entry.number.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        number.push('\n');
        match pieces.last_mut() {
            Some((_, last)) if last.len() + number.len() <= BOARD_BYTES_MAX => last.push_str(&number),
            Some(_) | None => pieces.push((column, number)),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_board_goes_in_pieces_that_fit_into_frames() {
        let entry = |n: usize| Entry {
            order_id: format!("order-{n}").parse().unwrap(),
            number: "\u{1f354}".repeat(6),
            status: order::Status::Ready,
        };
        let board = Board { preparing: (0..150).map(entry).collect(), ready: (0..50).map(entry).collect() };
        let pieces = board_pieces(&board);
        assert!(pieces.len() <= 255 && pieces.iter().all(|(_, numbers)| numbers.len() <= BOARD_BYTES_MAX));
        let count = |column| pieces.iter().filter(|(c, _)| *c == column).map(|(_, numbers)| numbers.lines().count()).sum::<usize>();
        assert_eq!((count(Column::Preparing), count(Column::Ready)), (150, 50));
        assert_eq!(board_pieces(&Board::default()), [(Column::Preparing, String::new())]);
    }
}
