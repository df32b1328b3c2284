//! The gateway's end of a link.

use crate::message::{
    Answer, BoardPiece, Code, Fragment, Hello, Position, Refusal, Refused, Resume, StatusPush, ToGateway, ToTerminal, Wants, Welcome,
};
use crate::{
    DEAD_MS, DISPLAY_LEN_MAX, Decoder, FLIGHT_MAX, Frame, GAP_MS, MESSAGE_BYTES_MAX, MINOR, NAME_LEN_MAX, PING_MS, REQUEST_BYTES_MAX,
    SILENCE_MS, TooLong, VERSION, WINDOW, backoff_ms, cut, decode, frame, tag,
};
use heapless::{Deque, String, Vec};

/// When a terminal whose hello is refused for good may try again: somebody may have changed the config meanwhile.
const REFUSED_RETRY_MS: u32 = 30_000;
/// When a terminal may try again while the store is not open.
const NOT_READY_RETRY_MS: u32 = 2_000;

/// What a link needs to know.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// The port's terminal.
    pub name: String<NAME_LEN_MAX>,
    /// The gateway's start: random, another one each time.
    pub boot: u64,
    /// Fragments under way, 1 to [`FLIGHT_MAX`]: so many that their time on the line is well below [`crate::RESEND_MS`].
    pub flight: u8,
}

/// What the shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum GatewayEvent<'a> {
    /// Look the session up or open one, then call [`GatewayLink::session_found`] or [`GatewayLink::session_opened`]. One at a time.
    Wanted(Lookup),
    /// The terminal has its session. What it wants may be pushed, all of it anew.
    Greeted {
        /// The session.
        session: u64,
        /// It is an older one.
        resumed: bool,
        /// What may be pushed.
        wants: Wants,
    },
    /// Hand this to the core, then call [`GatewayLink::answer`]. One at a time, in number order.
    Submission {
        /// The session.
        session: u64,
        /// The number: with the session it makes the request id.
        number: u64,
        /// An earlier try in a lost session may have been stored.
        maybe_stored: bool,
        /// The request's JSON.
        bytes: &'a [u8],
    },
}

/// A question to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Draw a random session id and make it durable.
    Open,
    /// Look a session up.
    Find(u64),
}

/// What the store knows of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionFound {
    /// The highest number stored in it, 0 if none is.
    Known {
        /// That number.
        mark: u64,
    },
    /// There is none.
    Unknown,
    /// The store is not open.
    Away,
}

/// The last push is still unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushBusy;

/// What came in, as it grew since the link was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages understood.
    pub messages: u64,
    /// Frames longer than any frame.
    pub oversized: u64,
    /// Frames whose COBS or CRC was wrong.
    pub garbled: u64,
    /// Messages of an unknown kind.
    pub unknown: u64,
    /// Messages that have no place where they came.
    pub out_of_place: u64,
}

/// The gateway's end of the link to one terminal.
///
/// Feed it with [`receive`](Self::receive); after that and after each call, drain [`poll_event`](Self::poll_event) and
/// [`poll_frame`](Self::poll_frame), then wait until [`wake_at`](Self::wake_at). Times are monotonic milliseconds.
#[derive(Debug)]
pub struct GatewayLink {
    settings: GatewaySettings,
    decoder: Decoder,
    counters: Counters,
    state: State,
    /// The question that the shell works on.
    asked: Option<Lookup>,
    /// Session and number of what the core works on; it outlives the session.
    in_core: Option<(u64, u64)>,
    assembly: Vec<u8, REQUEST_BYTES_MAX>,
    refused: Option<Refused>,
    pong: Option<u32>,
    push: Option<Push>,
    pushes: u32,
    who_are_you: Due,
    heard_at: Option<u64>,
    sent_at: Option<u64>,
}

/// Where a link stands. A hello leads from any state to `Looking`.
#[derive(Debug)]
enum State {
    /// No hello, or a refused one.
    Strange,
    /// A hello that waits for the store.
    Looking(Greeting),
    /// In a session.
    Open(Session),
}

#[derive(Debug, Clone, Copy)]
struct Greeting {
    nonce: u32,
    resume: Option<Resume>,
    wants: Wants,
}

/// Something to say once, and not again before a time.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    due: bool,
    not_before: u64,
}

impl Due {
    fn take(&mut self, now_ms: u64) -> bool {
        let take = self.due && now_ms >= self.not_before;
        if take {
            *self = Due { due: false, not_before: now_ms.saturating_add(GAP_MS.into()) };
        }
        take
    }

    fn at(self) -> Option<u64> {
        self.due.then_some(self.not_before)
    }
}

/// A message that is said until it is acknowledged.
#[derive(Debug)]
struct Repeated {
    message: Vec<u8, MESSAGE_BYTES_MAX>,
    tries: u8,
    due_at: u64,
}

impl Repeated {
    fn new(message: &ToTerminal<'_>, now_ms: u64) -> Result<Repeated, TooLong> {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let bytes = postcard::to_slice(message, &mut bytes).map_err(|_| TooLong)?;
        Ok(Repeated { message: Vec::from_slice(bytes).map_err(|_| TooLong)?, tries: 0, due_at: now_ms })
    }

    fn take(&mut self, now_ms: u64) -> Option<Frame> {
        if now_ms < self.due_at {
            return None;
        }
        self.due_at = now_ms.saturating_add(backoff_ms(self.tries));
        self.tries = self.tries.saturating_add(1);
        frame::frame(&self.message).ok()
    }
}

#[derive(Debug)]
struct Push {
    number: u32,
    said: Repeated,
}

#[derive(Debug)]
struct KeptAnswer {
    number: u64,
    stored: bool,
    said: Repeated,
}

#[derive(Debug)]
struct Session {
    greeting: Greeting,
    id: u64,
    mark: u64,
    welcome_due: bool,
    greeted_due: bool,
    /// No submission has come in it yet.
    pristine: bool,
    /// Every number below it is finished at the terminal.
    below: u64,
    /// What has to come next.
    expected: Position,
    total: u16,
    maybe_stored: bool,
    /// This number is here; nothing else is taken in before it went to the core.
    complete: Option<(u64, Held)>,
    /// Unconfirmed answers, by number.
    answers: Deque<KeptAnswer, { WINDOW as usize }>,
    receipt_due: bool,
    missing: Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Whole,
    TooLarge,
}

impl Session {
    fn new(greeting: Greeting, id: u64, mark: u64) -> Session {
        let first = greeting.resume.map_or(1, |resume| resume.first.max(1));
        Session {
            greeting,
            id,
            mark,
            welcome_due: true,
            greeted_due: true,
            pristine: true,
            below: first,
            expected: Position::start_of(first),
            total: 0,
            maybe_stored: false,
            complete: None,
            answers: Deque::new(),
            receipt_due: false,
            missing: Due::default(),
        }
    }

    fn tag(&self) -> u32 {
        tag(self.id)
    }

    fn in_window(&self, number: u64) -> bool {
        number >= self.below && number < self.below.saturating_add(WINDOW.into())
    }

    fn is_answered(&self, number: u64) -> bool {
        self.answers.iter().any(|answer| answer.number == number)
    }

    /// The terminal has finished everything below `number`.
    fn confirm(&mut self, now_ms: u64, number: u64) {
        if number <= self.below {
            return;
        }
        self.below = number;
        while self.answers.front().is_some_and(|answer| answer.number < number) {
            self.answers.pop_front();
        }
        // The terminal takes answers in number order: what it passed over before, it takes now.
        for answer in self.answers.iter_mut() {
            answer.said.due_at = answer.said.due_at.min(now_ms.saturating_add(GAP_MS.into()));
        }
        if self.complete.is_some_and(|(held, _)| held < number) {
            self.complete = None;
        }
        if self.expected.number < number {
            self.expect(Position::start_of(number));
        }
    }

    /// Moves on, over what is answered already.
    fn expect(&mut self, position: Position) {
        self.expected = position;
        while self.expected.offset == 0 && self.is_answered(self.expected.number) {
            self.expected.number = self.expected.number.saturating_add(1);
        }
    }

    /// Takes a fragment in. Reports whether it had its place here.
    fn fragment(&mut self, now_ms: u64, fragment: &Fragment<'_>, assembly: &mut Vec<u8, REQUEST_BYTES_MAX>) -> bool {
        self.pristine = false;
        self.confirm_by_window(now_ms, fragment.number);
        let position = Position { number: fragment.number, offset: fragment.offset };
        if position < self.expected {
            self.receipt_due = true;
            return true;
        }
        // The buffer is still taken, or something is missing in between: the fragment comes again.
        if position > self.expected || self.complete.is_some() || !self.in_window(fragment.number) {
            self.missing.due = true;
            return false;
        }
        self.missing.due = false;
        if fragment.offset == 0 {
            assembly.clear();
            self.total = fragment.total;
            self.maybe_stored = fragment.maybe_stored;
        }
        if usize::from(fragment.total) > REQUEST_BYTES_MAX {
            self.completed(fragment.number, Held::TooLarge);
            return true;
        }
        let end = usize::from(fragment.offset).saturating_add(fragment.bytes.len());
        let fits = fragment.total == self.total && end <= usize::from(self.total) && (!fragment.bytes.is_empty() || self.total == 0);
        if !fits || assembly.extend_from_slice(fragment.bytes).is_err() {
            self.expected.offset = 0;
            self.missing.due = true;
            return false;
        }
        if end == usize::from(self.total) {
            self.completed(fragment.number, Held::Whole);
            return true;
        }
        self.expected.offset = u16::try_from(end).unwrap_or(u16::MAX);
        self.receipt_due = true;
        true
    }

    fn completed(&mut self, number: u64, held: Held) {
        self.complete = Some((number, held));
        self.receipt_due = true;
        self.expect(Position::start_of(number.saturating_add(1)));
    }

    /// A terminal sends only within the window: a number beyond it tells that earlier answers were confirmed, and the word was lost.
    fn confirm_by_window(&mut self, now_ms: u64, number: u64) {
        let implied = number.saturating_add(1).saturating_sub(WINDOW.into());
        let answered = self.answers.iter().take_while(|answer| answer.number < implied).last();
        if let Some(number) = answered.map(|answer| answer.number) {
            self.confirm(now_ms, number.saturating_add(1));
        }
    }

    /// The submission that may go to the core: none behind a rejection that the terminal may not know of.
    fn ready(&self) -> Option<(u64, Held)> {
        let (number, _) = self.complete?;
        let clear = self.answers.iter().all(|answer| answer.stored || answer.number > number);
        self.complete.filter(|_| clear)
    }

    fn keep(&mut self, now_ms: u64, number: u64, answer: Answer<'_>) -> Result<(), TooLong> {
        if !self.in_window(number) || self.is_answered(number) {
            return Ok(());
        }
        let stored = matches!(answer, Answer::Stored { .. });
        let kept = KeptAnswer { number, stored, said: Repeated::new(&answer.about(self.tag(), number), now_ms)? };
        // It has room: one answer for each number in the window. After a resumed hello an older number may follow a newer one.
        let _ = match self.answers.front() {
            Some(first) if first.number > number => self.answers.push_front(kept),
            Some(_) | None => self.answers.push_back(kept),
        };
        if self.complete.is_some_and(|(held, _)| held == number) {
            self.complete = None;
        }
        if self.expected.number == number {
            self.receipt_due = true;
            self.expect(Position::start_of(number.saturating_add(1)));
        }
        Ok(())
    }

    fn welcome(&self, settings: &GatewaySettings) -> Welcome {
        Welcome {
            version: VERSION,
            minor: MINOR,
            nonce: self.greeting.nonce,
            boot: settings.boot,
            session: self.id,
            resumed: self.greeting.resume.is_some(),
            mark: self.mark,
            message_bytes_max: crate::MESSAGE_BYTES_MAX_TOLD,
            request_bytes_max: crate::REQUEST_BYTES_MAX_TOLD,
            window: WINDOW,
            flight: settings.flight.clamp(1, FLIGHT_MAX),
            ping_ms: PING_MS,
            dead_ms: DEAD_MS,
        }
    }

    fn frame(&mut self, now_ms: u64, settings: &GatewaySettings) -> Option<Frame> {
        if core::mem::take(&mut self.welcome_due) {
            return ToTerminal::Welcome(self.welcome(settings)).to_frame().ok();
        }
        if self.missing.take(now_ms) {
            self.receipt_due = false;
            return ToTerminal::Missing { tag: self.tag(), next: self.expected }.to_frame().ok();
        }
        if core::mem::take(&mut self.receipt_due) {
            return ToTerminal::Received { tag: self.tag(), next: self.expected }.to_frame().ok();
        }
        self.answers.iter_mut().find_map(|answer| answer.said.take(now_ms))
    }

    fn wake_at(&self) -> Option<u64> {
        let now = (self.welcome_due || self.receipt_due).then_some(0);
        let answers = self.answers.iter().map(|answer| answer.said.due_at).min();
        [now, self.missing.at(), answers].into_iter().flatten().min()
    }
}

impl GatewayLink {
    /// The link over a port that was just opened. It begins by asking who is there.
    pub fn new(settings: GatewaySettings) -> GatewayLink {
        GatewayLink {
            settings,
            decoder: Decoder::default(),
            counters: Counters::default(),
            state: State::Strange,
            asked: None,
            in_core: None,
            assembly: Vec::new(),
            refused: None,
            pong: None,
            push: None,
            pushes: 0,
            who_are_you: Due { due: true, not_before: 0 },
            heard_at: None,
            sent_at: None,
        }
    }

    /// Takes bytes in, at most up to the end of one frame, and leaves the rest in `bytes`.
    pub fn receive(&mut self, now_ms: u64, bytes: &mut &[u8]) {
        let message = match self.decoder.push(bytes) {
            None => return,
            Some(Err(frame::FrameError::Oversized)) => return bump(&mut self.counters.oversized),
            Some(Err(frame::FrameError::Garbled)) => return bump(&mut self.counters.garbled),
            Some(Ok(message)) => message,
        };
        let Ok(message) = decode::<ToGateway<'_>>(&message) else {
            return bump(&mut self.counters.unknown);
        };
        bump(&mut self.counters.messages);
        self.heard_at = Some(now_ms);
        if let ToGateway::Hello(hello) = message {
            return self.hello(&hello);
        }
        match (&mut self.state, message) {
            (State::Strange, _) => self.who_are_you.due = true,
            (_, ToGateway::Ping { token }) => self.pong = Some(token),
            (State::Open(session), ToGateway::Submit(Fragment { tag, .. }) | ToGateway::Confirm { tag, .. }) if tag != session.tag() => {
                self.who_are_you.due = true;
            }
            (State::Open(session), ToGateway::Submit(fragment)) => {
                if !session.fragment(now_ms, &fragment, &mut self.assembly) {
                    bump(&mut self.counters.out_of_place);
                }
            }
            (State::Open(session), ToGateway::Confirm { below, .. }) => session.confirm(now_ms, below),
            (State::Open(_), ToGateway::Seen { push }) => {
                self.push.take_if(|last| last.number == push);
            }
            (State::Looking(_) | State::Open(_), _) => bump(&mut self.counters.out_of_place),
        }
    }

    fn hello(&mut self, hello: &Hello<'_>) {
        let greeting = Greeting { nonce: hello.nonce, resume: hello.resume, wants: hello.wants };
        if let Some(refusal) = self.objection(hello) {
            return self.refuse(greeting, refusal, REFUSED_RETRY_MS);
        }
        match &mut self.state {
            State::Looking(waiting) if waiting.nonce == hello.nonce && waiting.resume == hello.resume => return,
            // A repeat of the hello that opened this session, or of one whose terminal restarted before it used it.
            State::Open(session) if hello.resume.is_none() && session.greeting.resume.is_none() && session.pristine => {
                *session = Session::new(greeting, session.id, 0);
            }
            State::Strange | State::Looking(_) | State::Open(_) => self.state = State::Looking(greeting),
        }
        (self.refused, self.pong, self.push) = (None, None, None);
        self.who_are_you.due = false;
    }

    fn objection(&self, hello: &Hello<'_>) -> Option<Refusal> {
        if hello.version != VERSION {
            return Some(Refusal::WrongVersion);
        }
        if !hello.name.is_empty() && hello.name != self.settings.name.as_str() {
            return Some(Refusal::WrongName);
        }
        (usize::from(hello.message_bytes_max) < MESSAGE_BYTES_MAX).then_some(Refusal::TooSmall)
    }

    fn refuse(&mut self, greeting: Greeting, refusal: Refusal, retry_after_ms: u32) {
        self.state = State::Strange;
        (self.pong, self.push) = (None, None);
        self.who_are_you.due = false;
        self.refused = Some(Refused { nonce: greeting.nonce, refusal, version: VERSION, retry_after_ms });
    }

    /// Answer to [`Lookup::Open`]: the session that is durable now, or `None` if the store could not.
    pub fn session_opened(&mut self, session: Option<u64>) {
        self.asked = None;
        let State::Looking(greeting) = self.state else { return };
        match session {
            _ if greeting.resume.is_some() => {}
            Some(id) => self.state = State::Open(Session::new(greeting, id, 0)),
            None => self.refuse(greeting, Refusal::NotReady, NOT_READY_RETRY_MS),
        }
    }

    /// Answer to [`Lookup::Find`].
    pub fn session_found(&mut self, session: u64, found: SessionFound) {
        self.asked = None;
        let State::Looking(greeting) = self.state else { return };
        if greeting.resume.is_none_or(|resume| resume.session != session) {
            return;
        }
        match found {
            SessionFound::Known { mark } => self.state = State::Open(Session::new(greeting, session, mark)),
            SessionFound::Unknown => self.refuse(greeting, Refusal::UnknownSession, 0),
            SessionFound::Away => self.refuse(greeting, Refusal::NotReady, NOT_READY_RETRY_MS),
        }
    }

    /// What the core decided about [`GatewayEvent::Submission`]. Without effect if the session has ended meanwhile.
    ///
    /// # Errors
    /// The answer is longer than a message can be: nothing is kept, and the terminal goes on waiting.
    pub fn answer(&mut self, now_ms: u64, session: u64, number: u64, answer: Answer<'_>) -> Result<(), TooLong> {
        self.in_core.take_if(|at| *at == (session, number));
        match &mut self.state {
            State::Open(open) if open.id == session => open.keep(now_ms, number, answer),
            State::Strange | State::Looking(_) | State::Open(_) => Ok(()),
        }
    }

    /// Pushes a change of an order.
    ///
    /// # Errors
    /// The last push is not acknowledged yet, or nobody is there. Whether a push is wanted is the caller's to know.
    pub fn push_status(&mut self, now_ms: u64, status: StatusPush<'_>) -> Result<(), PushBusy> {
        let push = self.next_push()?;
        let status = StatusPush { display: cut(status.display, DISPLAY_LEN_MAX), ..status };
        self.say_push(push, &ToTerminal::Status { push, status }, now_ms)
    }

    /// Pushes a piece of the board; `numbers` has at most [`crate::BOARD_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// As [`GatewayLink::push_status`].
    pub fn push_board(&mut self, now_ms: u64, piece: BoardPiece<'_>) -> Result<(), PushBusy> {
        let push = self.next_push()?;
        self.say_push(push, &ToTerminal::Board { push, piece }, now_ms)
    }

    /// Whether a push would be taken now.
    pub fn takes_push(&self) -> bool {
        matches!(self.state, State::Open(_)) && self.push.is_none()
    }

    fn next_push(&self) -> Result<u32, PushBusy> {
        if self.takes_push() { Ok(self.pushes.wrapping_add(1)) } else { Err(PushBusy) }
    }

    fn say_push(&mut self, number: u32, message: &ToTerminal<'_>, now_ms: u64) -> Result<(), PushBusy> {
        let said = Repeated::new(message, now_ms).map_err(|TooLong| PushBusy)?;
        self.pushes = number;
        self.push = Some(Push { number, said });
        Ok(())
    }

    /// What the shell has to do next.
    pub fn poll_event(&mut self) -> Option<GatewayEvent<'_>> {
        if let (State::Looking(greeting), None) = (&self.state, self.asked) {
            let lookup = greeting.resume.map_or(Lookup::Open, |resume| Lookup::Find(resume.session));
            self.asked = Some(lookup);
            return Some(GatewayEvent::Wanted(lookup));
        }
        let State::Open(open) = &mut self.state else { return None };
        if core::mem::take(&mut open.greeted_due) {
            return Some(GatewayEvent::Greeted { session: open.id, resumed: open.greeting.resume.is_some(), wants: open.greeting.wants });
        }
        if self.in_core.is_some() {
            return None;
        }
        let (number, held) = open.ready()?;
        open.complete = None;
        match held {
            Held::Whole => {
                self.in_core = Some((open.id, number));
                let maybe_stored = open.maybe_stored;
                Some(GatewayEvent::Submission { session: open.id, number, maybe_stored, bytes: &self.assembly })
            }
            Held::TooLarge => {
                let reason = "the request has more bytes than are taken";
                // Its reason is short: the message fits.
                let _ = open.keep(0, number, Answer::Rejected { code: Code::TooLarge, reason, retry_after_ms: None });
                None
            }
        }
    }

    /// The next frame to send, if one is due. Ask for it only once the frame before it is written.
    pub fn poll_frame(&mut self, now_ms: u64) -> Option<Frame> {
        let frame = self.next_frame(now_ms)?;
        let silent = self.sent_at.is_none_or(|at| now_ms.saturating_sub(at) >= SILENCE_MS.into());
        self.sent_at = Some(now_ms);
        if silent { frame::after_silence(&frame) } else { Some(frame) }
    }

    fn next_frame(&mut self, now_ms: u64) -> Option<Frame> {
        if let Some(refused) = self.refused.take() {
            return ToTerminal::Refused(refused).to_frame().ok();
        }
        if self.who_are_you.take(now_ms) {
            return ToTerminal::WhoAreYou { boot: self.settings.boot }.to_frame().ok();
        }
        if let Some(token) = self.pong.take() {
            return ToTerminal::Pong { token }.to_frame().ok();
        }
        let hears = self.hears(now_ms);
        let State::Open(open) = &mut self.state else { return None };
        if !hears {
            return None;
        }
        open.frame(now_ms, &self.settings).or_else(|| self.push.as_mut()?.said.take(now_ms))
    }

    fn hears(&self, now_ms: u64) -> bool {
        self.heard_at.is_some_and(|at| now_ms.saturating_sub(at) < DEAD_MS.into())
    }

    /// Whether a terminal is there and in a session.
    pub fn online(&self, now_ms: u64) -> bool {
        matches!(self.state, State::Open(_)) && self.hears(now_ms)
    }

    /// When [`poll_frame`](Self::poll_frame) has something to send again, or the terminal counts as gone. It may be in the past: then now.
    pub fn wake_at(&self, now_ms: u64) -> Option<u64> {
        let now = (self.refused.is_some() || self.pong.is_some()).then_some(0);
        let open = match &self.state {
            State::Open(open) if self.hears(now_ms) => {
                let gone = self.heard_at.map(|at| at.saturating_add(DEAD_MS.into()));
                let push = self.push.as_ref().map(|push| push.said.due_at);
                [open.wake_at(), push, gone].into_iter().flatten().min()
            }
            State::Strange | State::Looking(_) | State::Open(_) => None,
        };
        [now, self.who_are_you.at(), open].into_iter().flatten().min()
    }

    /// What came in so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

fn bump(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
