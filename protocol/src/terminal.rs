//! The terminal's end of a link.

use crate::frame::{self, FrameError};
use crate::message::{
    Answer, BoardPiece, Fragment, Hello, Position, Refusal, Refused, Resume, StatusPush, ToGateway, ToTerminal, Wants, Welcome,
};
use crate::{
    Counters, DEAD_MS, Decoder, FLIGHT_MAX, FRAGMENT_BYTES_MAX, Frame, MESSAGE_BYTES_MAX, MINOR, NAME_LEN_MAX, PING_MS, SILENCE_MS,
    VERSION, backoff_ms, decode, tag,
};
use heapless::{Deque, String, Vec};

/// A submission that the terminal keeps until it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept<'a> {
    /// The request's JSON.
    pub bytes: &'a [u8],
    /// An earlier try in a lost session may have been stored.
    pub maybe_stored: bool,
}

/// What the terminal has to know.
#[derive(Debug, PartialEq, Eq)]
pub enum TerminalEvent<'a> {
    /// A new session. Number what is kept from 1 on in its order, keep session and numbers durably, then call [`TerminalLink::begin`].
    /// What is answered and not yet [finished](TerminalLink::finish) is kept still, and goes again.
    Opened {
        /// The session.
        session: u64,
        /// How many of the kept submissions, from the first, may have been sent in a lost session: they go with `maybe_stored`.
        maybe_stored: u64,
    },
    /// The session goes on, and what is unfinished is sent again.
    Resumed {
        /// The gateway was started anew since it was last heard.
        restarted: bool,
    },
    /// The hello was refused. Another one follows by itself, after `retry_after_ms`.
    Refused(Refused),
    /// The answer to the lowest unfinished submission. Note it durably, then call [`TerminalLink::finish`].
    Answered {
        /// The submission.
        number: u64,
        /// The answer.
        answer: Answer<'a>,
    },
    /// An order of this terminal changed.
    Status(StatusPush<'a>),
    /// A piece of the board.
    Board(BoardPiece<'a>),
}

/// The terminal's end of the link to its gateway.
///
/// The terminal keeps its submissions itself, in number order, and shows them to [`poll_frame`](Self::poll_frame). Times are monotonic
/// milliseconds.
#[derive(Debug)]
pub struct TerminalLink {
    decoder: Decoder,
    message: Vec<u8, MESSAGE_BYTES_MAX>,
    counters: Counters,
    machine: Machine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Saying hello until somebody answers.
    Hello,
    /// In a new session that the terminal has not noted yet.
    Opened,
    /// In a session.
    Open,
}

#[derive(Debug)]
struct Machine {
    name: String<NAME_LEN_MAX>,
    wants: Wants,
    nonce: u32,
    phase: Phase,
    session: Option<u64>,
    /// The lowest unfinished number.
    first: u64,
    /// The next number to give.
    next: u64,
    /// Every number below it may have been sent.
    sent: u64,
    /// What may have been sent in a lost session, counted from the first that is kept.
    lost: u64,
    /// The answer to `first` was reported and waits for [`TerminalLink::finish`].
    answered: bool,
    boot: Option<u64>,
    window: u8,
    flight_max: u8,
    ping_ms: u64,
    dead_ms: u64,
    /// What is sent next.
    cursor: Position,
    /// What the gateway has received.
    receipted: Position,
    /// Where each fragment under way ends.
    flight: Deque<Position, { FLIGHT_MAX as usize }>,
    resend_at: u64,
    resends: u8,
    hello_at: u64,
    hellos: u8,
    ping_at: u64,
    pings: u32,
    confirm_due: bool,
    seen: Option<u32>,
    last_push: Option<u32>,
    heard_at: u64,
    sent_at: Option<u64>,
}

impl TerminalLink {
    /// A link of a terminal that was just started, or whose port was just opened.
    ///
    /// `resume` is the session that the terminal noted, with its lowest unfinished number and, in `next`, the one after the last that
    /// it keeps. Without one it will open a session. `nonce` should differ from start to start: a timer or noise will do.
    /// A name that is longer than a name can be is left out.
    pub fn new(name: &str, wants: Wants, resume: Option<Resume>, next: u64, nonce: u32, now_ms: u64) -> TerminalLink {
        let first = resume.map_or(1, |resume| resume.first);
        let next = next.max(first);
        let machine = Machine {
            name: String::try_from(name).unwrap_or_default(),
            wants,
            nonce,
            phase: Phase::Hello,
            session: resume.map(|resume| resume.session),
            first,
            next,
            sent: next,
            lost: 0,
            answered: false,
            boot: None,
            window: 1,
            flight_max: 1,
            ping_ms: PING_MS.into(),
            dead_ms: DEAD_MS.into(),
            cursor: Position::start_of(first),
            receipted: Position::start_of(first),
            flight: Deque::new(),
            resend_at: 0,
            resends: 0,
            hello_at: now_ms,
            hellos: 0,
            ping_at: 0,
            pings: 0,
            confirm_due: false,
            seen: None,
            last_push: None,
            heard_at: now_ms,
            sent_at: None,
        };
        TerminalLink { decoder: Decoder::default(), message: Vec::new(), counters: Counters::default(), machine }
    }

    /// Takes bytes in, at most up to the end of one frame, and leaves the rest in `bytes`.
    pub fn receive(&mut self, now_ms: u64, bytes: &mut &[u8]) -> Option<TerminalEvent<'_>> {
        match self.decoder.push(bytes)? {
            Err(FrameError::Oversized) => {
                bump(&mut self.counters.oversized);
                return None;
            }
            Err(FrameError::Garbled) => {
                bump(&mut self.counters.garbled);
                return None;
            }
            Ok(message) => self.message = message,
        }
        let Ok(message) = decode::<ToTerminal<'_>>(&self.message) else {
            bump(&mut self.counters.unknown);
            return None;
        };
        bump(&mut self.counters.messages);
        self.machine.heard_at = now_ms;
        self.machine.take(now_ms, message)
    }

    /// The next frame to send, if one is due. `kept` shows the unfinished submission of a number. Ask only once the frame before it is
    /// written.
    pub fn poll_frame<'k>(&mut self, now_ms: u64, kept: impl FnMut(u64) -> Option<Kept<'k>>) -> Option<Frame> {
        let frame = self.machine.frame(now_ms, kept)?;
        let silent = self.machine.sent_at.is_none_or(|at| now_ms.saturating_sub(at) >= SILENCE_MS.into());
        self.machine.sent_at = Some(now_ms);
        if silent { frame::after_silence(&frame) } else { Some(frame) }
    }

    /// When [`poll_frame`](Self::poll_frame) has something to send again without anything else happening. It may be in the past: then now.
    pub fn wake_at(&self) -> u64 {
        self.machine.wake_at()
    }

    /// The new session and the numbers `1..=kept` in it are noted: sending begins.
    pub fn begin(&mut self, kept: u64) {
        let machine = &mut self.machine;
        if machine.phase == Phase::Opened {
            machine.next = kept.saturating_add(1);
            machine.sent = 1;
            machine.lost = 0;
            machine.phase = Phase::Open;
        }
    }

    /// The number that the next submission will have, or `None` without a session. Keep the submission durably under it first.
    pub fn next(&self) -> Option<u64> {
        (self.machine.session.is_some() && self.machine.phase != Phase::Opened).then_some(self.machine.next)
    }

    /// A submission is kept under [`next`](Self::next): it may be sent.
    pub fn submit(&mut self) {
        if self.next().is_some() {
            self.machine.next = self.machine.next.saturating_add(1);
        }
    }

    /// The answer to `number` is noted: the submission need not be kept any longer, and its number is never used again.
    pub fn finish(&mut self, number: u64) {
        let machine = &mut self.machine;
        if machine.answered && machine.first == number {
            machine.first = number.saturating_add(1);
            machine.answered = false;
            machine.confirm_due = true;
            machine.pass_finished();
        }
    }

    /// Whether the gateway is there and the session open.
    pub fn online(&self, now_ms: u64) -> bool {
        self.machine.phase == Phase::Open && !self.machine.is_dead(now_ms)
    }

    /// What came in so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl Machine {
    fn take<'a>(&mut self, now_ms: u64, message: ToTerminal<'a>) -> Option<TerminalEvent<'a>> {
        match (self.phase, message) {
            (_, ToTerminal::WhoAreYou { .. }) => {
                self.say_hello(now_ms);
                None
            }
            (Phase::Hello, ToTerminal::Welcome(welcome)) if welcome.nonce == self.nonce => self.welcome(now_ms, &welcome),
            (Phase::Hello, ToTerminal::Refused(refused)) if refused.nonce == self.nonce => self.refused(now_ms, refused),
            (
                Phase::Open,
                ToTerminal::Received { tag, .. }
                | ToTerminal::Missing { tag, .. }
                | ToTerminal::Stored { tag, .. }
                | ToTerminal::Rejected { tag, .. },
            ) if tag != self.tag() => None,
            (Phase::Hello | Phase::Opened, _) | (_, ToTerminal::Welcome(_) | ToTerminal::Refused(_) | ToTerminal::Pong { .. }) => None,
            (Phase::Open, ToTerminal::Received { next, .. }) => {
                self.receipt(now_ms, next);
                None
            }
            (Phase::Open, ToTerminal::Missing { next, .. }) => {
                self.receipt(now_ms, next);
                self.go_back();
                None
            }
            (Phase::Open, ToTerminal::Stored { number, duplicate, order_id, event_id, ticket, seq, .. }) => {
                self.answer(now_ms, number, Answer::Stored { duplicate, order_id, event_id, ticket, seq })
            }
            (Phase::Open, ToTerminal::Rejected { number, code, reason, retry_after_ms, .. }) => {
                self.answer(now_ms, number, Answer::Rejected { code, reason, retry_after_ms })
            }
            (Phase::Open, ToTerminal::Status { push, status }) => self.push(push).then_some(TerminalEvent::Status(status)),
            (Phase::Open, ToTerminal::Board { push, piece }) => self.push(push).then_some(TerminalEvent::Board(piece)),
        }
    }

    fn tag(&self) -> u32 {
        self.session.map_or(0, tag)
    }

    fn say_hello(&mut self, now_ms: u64) {
        if self.phase == Phase::Opened {
            // Not noted yet, so not used yet: what was kept before is still what is lost.
            self.session = None;
        }
        if self.phase != Phase::Hello {
            self.nonce = self.nonce.wrapping_add(1);
        }
        (self.phase, self.hellos, self.hello_at) = (Phase::Hello, 0, now_ms);
    }

    fn welcome<'a>(&mut self, now_ms: u64, welcome: &Welcome) -> Option<TerminalEvent<'a>> {
        if welcome.version != VERSION || welcome.resumed != self.session.is_some() {
            return None;
        }
        if self.session.is_some_and(|session| session != welcome.session) {
            return None;
        }
        if welcome.resumed && welcome.mark >= self.next {
            // The gateway stored a number that this terminal believes it never gave: its memory is older than the session.
            self.lose_session(now_ms);
            return None;
        }
        let restarted = self.boot.is_some_and(|boot| boot != welcome.boot);
        self.boot = Some(welcome.boot);
        self.window = welcome.window.max(1);
        self.flight_max = welcome.flight.clamp(1, FLIGHT_MAX);
        (self.ping_ms, self.dead_ms) = (welcome.ping_ms.max(1).into(), welcome.dead_ms.max(1).into());
        self.ping_at = now_ms.saturating_add(self.ping_ms);
        (self.confirm_due, self.seen, self.last_push) = (false, None, None);
        if welcome.resumed {
            self.phase = Phase::Open;
            self.restart_at(self.first);
            // What is answered must not be sent again while the terminal notes it: a rejected number might be stored after all.
            self.pass_finished();
            return Some(TerminalEvent::Resumed { restarted });
        }
        self.phase = Phase::Opened;
        self.session = Some(welcome.session);
        (self.first, self.next, self.sent, self.answered) = (1, 1, 1, false);
        self.restart_at(1);
        Some(TerminalEvent::Opened { session: welcome.session, maybe_stored: self.lost })
    }

    fn refused<'a>(&mut self, now_ms: u64, refused: Refused) -> Option<TerminalEvent<'a>> {
        if refused.refusal == Refusal::UnknownSession && self.session.is_some() {
            self.lose_session(now_ms);
        } else {
            self.hello_at = now_ms.saturating_add(u64::from(refused.retry_after_ms).max(backoff_ms(0)));
        }
        Some(TerminalEvent::Refused(refused))
    }

    fn lose_session(&mut self, now_ms: u64) {
        self.session = None;
        self.lost = self.sent.saturating_sub(self.first);
        self.nonce = self.nonce.wrapping_add(1);
        (self.phase, self.hellos, self.hello_at) = (Phase::Hello, 0, now_ms);
    }

    fn restart_at(&mut self, number: u64) {
        self.cursor = Position::start_of(number);
        self.receipted = self.cursor;
        self.flight.clear();
        self.resends = 0;
    }

    /// Finished and answered submissions are not sent any more.
    fn pass_finished(&mut self) {
        let start = Position::start_of(self.first.saturating_add(self.answered.into()));
        self.cursor = self.cursor.max(start);
        self.receipted = self.receipted.max(start);
        while self.flight.front().is_some_and(|end| *end <= self.receipted) {
            self.flight.pop_front();
        }
    }

    fn receipt(&mut self, now_ms: u64, position: Position) {
        if position.number < self.first {
            self.confirm_due = true;
        }
        // It may be ahead of the cursor: after a restart of this terminal the gateway may know what is sent again.
        if position > self.receipted && position <= Position::start_of(self.next) {
            self.receipted = position;
            self.cursor = self.cursor.max(position);
            self.resends = 0;
            self.resend_at = now_ms.saturating_add(backoff_ms(0));
        }
        self.pass_finished();
    }

    /// Sends again from what the gateway has received.
    fn go_back(&mut self) {
        self.cursor = self.receipted;
        self.flight.clear();
    }

    fn answer<'a>(&mut self, now_ms: u64, number: u64, answer: Answer<'a>) -> Option<TerminalEvent<'a>> {
        if number < self.first {
            self.confirm_due = true;
            return None;
        }
        // A later one comes again once this terminal has confirmed all before it.
        if number != self.first || number >= self.next || self.answered {
            return None;
        }
        self.answered = true;
        (self.resends, self.resend_at) = (0, now_ms.saturating_add(backoff_ms(0)));
        self.pass_finished();
        Some(TerminalEvent::Answered { number, answer })
    }

    /// Whether a push is new; a repeated one is only acknowledged again.
    fn push(&mut self, push: u32) -> bool {
        self.seen = Some(push);
        self.last_push.replace(push) != Some(push)
    }

    fn is_dead(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_at) >= self.dead_ms
    }

    fn frame<'k>(&mut self, now_ms: u64, kept: impl FnMut(u64) -> Option<Kept<'k>>) -> Option<Frame> {
        if self.phase != Phase::Hello && self.is_dead(now_ms) {
            self.say_hello(now_ms);
        }
        match self.phase {
            Phase::Hello => self.hello(now_ms),
            Phase::Opened => self.ping(now_ms),
            Phase::Open => self.acknowledgement().or_else(|| self.ping(now_ms)).or_else(|| self.fragment(now_ms, kept)),
        }
    }

    fn hello(&mut self, now_ms: u64) -> Option<Frame> {
        if now_ms < self.hello_at {
            return None;
        }
        self.hello_at = now_ms.saturating_add(backoff_ms(self.hellos));
        self.hellos = self.hellos.saturating_add(1);
        let hello = Hello {
            version: VERSION,
            minor: MINOR,
            nonce: self.nonce,
            name: &self.name,
            resume: self.session.map(|session| Resume { session, first: self.first }),
            message_bytes_max: crate::MESSAGE_BYTES_MAX_TOLD,
            wants: self.wants,
        };
        ToGateway::Hello(hello).to_frame().ok()
    }

    fn acknowledgement(&mut self) -> Option<Frame> {
        if core::mem::take(&mut self.confirm_due) {
            return ToGateway::Confirm { tag: self.tag(), below: self.first }.to_frame().ok();
        }
        let push = self.seen.take()?;
        ToGateway::Seen { push }.to_frame().ok()
    }

    fn ping(&mut self, now_ms: u64) -> Option<Frame> {
        if now_ms < self.ping_at {
            return None;
        }
        self.ping_at = now_ms.saturating_add(self.ping_ms);
        self.pings = self.pings.wrapping_add(1);
        ToGateway::Ping { token: self.pings }.to_frame().ok()
    }

    fn fragment<'k>(&mut self, now_ms: u64, mut kept: impl FnMut(u64) -> Option<Kept<'k>>) -> Option<Frame> {
        if !self.flight.is_empty() && now_ms >= self.resend_at {
            self.go_back();
        }
        let Position { number, offset } = self.cursor;
        let windowed = number < self.next && number < self.first.saturating_add(self.window.into());
        if !windowed || self.flight.len() >= self.flight_max.into() {
            return None;
        }
        let Kept { bytes, maybe_stored } = kept(number)?;
        // Longer ones cannot be said; the gateway refuses everything above 16 KiB by its announced length.
        let total = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let rest = bytes.get(offset.into()..total.into())?;
        let part = rest.get(..rest.len().min(FRAGMENT_BYTES_MAX))?;
        let end = usize::from(offset).saturating_add(part.len());
        let fragment = Fragment { tag: self.tag(), number, total, offset, maybe_stored, bytes: part };
        if self.flight.is_empty() {
            self.resend_at = now_ms.saturating_add(backoff_ms(self.resends));
            self.resends = self.resends.saturating_add(1);
        }
        self.cursor = match u16::try_from(end) {
            Ok(end) if end < total => Position { number, offset: end },
            Ok(_) | Err(_) => Position::start_of(number.saturating_add(1)),
        };
        self.sent = self.sent.max(number.saturating_add(1));
        // There is room: `flight_max` is at most its capacity.
        let _ = self.flight.push_back(self.cursor);
        ToGateway::Submit(fragment).to_frame().ok()
    }

    fn wake_at(&self) -> u64 {
        match self.phase {
            Phase::Hello => self.hello_at,
            Phase::Opened => self.ping_at.min(self.heard_at.saturating_add(self.dead_ms)),
            Phase::Open => {
                let resend = if self.flight.is_empty() { u64::MAX } else { self.resend_at };
                self.ping_at.min(self.heard_at.saturating_add(self.dead_ms)).min(resend)
            }
        }
    }
}

fn bump(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
