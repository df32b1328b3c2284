//! A gateway of binary frames that misbehaves by plan: step by step, each about one rule or two, on a line that it believes to be clean.

use super::port::Port;
use super::rules::{Kind, Verdicts};
use protocol::{
    Code, Decoder, MESSAGE_BYTES_MAX, Payment, Position, REQUEST_BYTES_MAX, Refusal, Refused, Status, StatusPush, ToGateway, ToTerminal,
    VERSION, Welcome, decode, tag,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Told in each Welcome: short, so that a check takes less than a minute.
const PING: Duration = Duration::from_millis(400);
const DEAD: Duration = Duration::from_secs(2);
/// At most so long for what is due at once.
const AT_ONCE: Duration = Duration::from_millis(800);
/// Least time before a repeat.
const REPEAT: Duration = Duration::from_secs(1);
/// What came first may have been read late: a repeat that seems to come after half its time is not held against anybody.
const REPEAT_SEEN: Duration = Duration::from_millis(500);
/// A repeat comes within this: its longest wait is 5 s.
const REPEAT_WITHIN: Duration = Duration::from_secs(7);
const LATER: Duration = Duration::from_millis(1_500);
/// Clocks of two computers, and what lies between.
const EARLY: Duration = Duration::from_millis(80);
/// Watched for what must not come.
const QUIET: Duration = Duration::from_millis(2_500);
const PART_BYTES_MAX: usize = 224;

/// What came, owned.
#[derive(Debug)]
enum Heard {
    Hello {
        nonce: u32,
        resume: Option<(u64, u64)>,
    },
    /// A part that begins there.
    Part(Position),
    Confirm {
        below: u64,
    },
    Ping,
    Seen {
        push: u32,
    },
}

/// Whether parts get their receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receipts {
    Said,
    Lost,
    /// The next part is said to be missing, once.
    Missing,
}

struct Player {
    port: Port,
    verdicts: Verdicts,
    patience: Duration,
    decoder: Decoder,
    /// Bytes that are not decoded yet.
    bytes: Vec<u8>,
    is_silent: bool,
    receipts: Receipts,
    boot: u64,
    session: u64,
    /// Nonce of the hello that was heard last, and what it would resume.
    hello: Option<(u32, Option<(u64, u64)>)>,
    window: u64,
    flight: usize,
    /// The lowest number that is not confirmed.
    first: u64,
    /// The highest number stored.
    mark: u64,
    receipt: Position,
    /// Ends of parts without a receipt that was said.
    flying: BTreeSet<Position>,
    /// What was said to be missing, and when.
    missed: Option<(Position, Instant)>,
    assembling: Vec<u8>,
    /// Whole requests from `first` on, with maybe_stored.
    whole: BTreeMap<u64, (Vec<u8>, bool)>,
    /// Contents that were rejected for good.
    refused: Vec<Vec<u8>>,
    pings: u32,
}

/// Plays the gateway until every step was played, or nothing more comes.
pub async fn play(port: Port, away: Duration, patience: Duration, tell: impl Fn(&str)) -> Verdicts {
    let mut player = Player {
        port,
        verdicts: Verdicts::new(Kind::Frames),
        patience,
        decoder: Decoder::default(),
        bytes: vec![],
        is_silent: false,
        receipts: Receipts::Said,
        boot: 1,
        session: 0x1122_3344_5566_7700 | u64::from(std::process::id()) << 16,
        hello: None,
        window: 1,
        flight: 1,
        first: 1,
        mark: 0,
        receipt: Position::start_of(1),
        flying: BTreeSet::new(),
        missed: None,
        assembling: vec![],
        whole: BTreeMap::new(),
        refused: vec![],
        pings: 0,
    };
    tell("Start the terminal; let it submit one order after the other, by itself or by hand.");
    player.steps(away, tell).await;
    player.verdicts
}

impl Player {
    /// `None`: nothing more comes.
    async fn steps(&mut self, away: Duration, tell: impl Fn(&str)) -> Option<()> {
        tell("hello");
        self.greet().await?;
        tell("a receipt is lost");
        self.receipt_lost().await?;
        tell("the answer takes its time");
        self.wait_for_answer().await?;
        tell("answers to others, noise, then the answer, twice");
        self.answers().await?;
        tell("pushes");
        self.pushes().await?;
        for (code, name) in [(Code::Busy, "busy"), (Code::Full, "full")] {
            tell(name);
            self.later(code, name).await?;
        }
        tell("invalid");
        let (number, content) = self.request().await?;
        self.refused.push(content);
        self.reject(number, Code::Invalid, None).await?;
        // The content would come under one of the next numbers.
        for _ in 0..2 {
            let (number, _) = self.request().await?;
            self.store(number).await?;
        }
        self.verdicts.pass("B12");
        tell("who are you?");
        self.asked_who().await?;
        tell(&format!("the gateway is away for {} s, and starts anew", away.as_secs_f32()));
        self.away(away).await?;
        tell("the session is lost");
        self.session_lost().await?;
        if self.mark > 0 {
            self.verdicts.pass("B9");
        }
        Some(())
    }

    // ---- the line

    async fn say(&self, message: ToTerminal<'_>) {
        if !self.is_silent
            && let Ok(frame) = message.to_frame()
        {
            self.send(&frame).await;
        }
    }

    async fn send(&self, bytes: &[u8]) {
        // A port that is gone shows when nothing more is heard.
        drop(self.port.say.send([&[0], bytes].concat()).await);
    }

    /// The next message before `until`, held to what holds of each, with its receipt or pong said.
    async fn next(&mut self, until: Instant) -> Option<Heard> {
        loop {
            let mut rest = self.bytes.as_slice();
            let message = self.decoder.push(&mut rest);
            self.bytes = rest.to_vec();
            if let Some(Ok(message)) = message
                && let Ok(message) = decode::<ToGateway<'_>>(&message)
            {
                if let Some(heard) = self.take(message).await {
                    return Some(heard);
                }
                continue;
            }
            if self.bytes.is_empty() {
                self.bytes = timeout_at(until, self.port.heard.recv()).await.ok().flatten()?;
            }
        }
    }

    async fn take(&mut self, message: ToGateway<'_>) -> Option<Heard> {
        match message {
            ToGateway::Hello(hello) => {
                let resume = hello.resume.map(|resume| (resume.session, resume.first));
                self.hello = Some((hello.nonce, resume));
                Some(Heard::Hello { nonce: hello.nonce, resume })
            }
            ToGateway::Submit(part) if part.tag == tag(self.session) => {
                self.judge_part(part.number, part.total, part.offset, part.bytes);
                let at = Position { number: part.number, offset: part.offset };
                let end = usize::from(part.offset) + part.bytes.len();
                let is_last = end >= usize::from(part.total);
                let end = if is_last {
                    Position::start_of(part.number + 1)
                } else {
                    Position { number: part.number, offset: u16::try_from(end).unwrap_or(u16::MAX) }
                };
                if end > self.receipt {
                    self.flying.insert(end);
                    let flying = self.flying.len();
                    self.verdicts.judge("B4", flying <= self.flight && part.number < self.first + self.window, || {
                        format!(
                            "number {} came, and {flying} parts without a receipt; first is {}, window {}, flight {}",
                            part.number, self.first, self.window, self.flight
                        )
                    });
                }
                if let Some((_, when)) = self.missed.take_if(|(missed, _)| *missed == at) {
                    let waited = when.elapsed();
                    self.verdicts
                        .judge("B6", waited < AT_ONCE, || format!("number {} came again only after {} ms", at.number, waited.as_millis()));
                }
                self.receipt_for(at, end, is_last, part.maybe_stored, part.bytes).await;
                Some(Heard::Part(at))
            }
            // Of another session: late, or never opened.
            ToGateway::Submit(part) => Some(Heard::Part(Position { number: part.number, offset: part.offset })),
            ToGateway::Confirm { tag: of, below } => (of == tag(self.session)).then(|| {
                self.first = self.first.max(below);
                self.whole = self.whole.split_off(&self.first);
                let open = Position::start_of(self.first);
                if self.receipt < open {
                    self.receipt = open;
                    self.assembling.clear();
                }
                self.flying.retain(|end| *end > open);
                Heard::Confirm { below }
            }),
            ToGateway::Ping { token } => {
                self.pings += 1;
                self.say(ToTerminal::Pong { token }).await;
                Some(Heard::Ping)
            }
            ToGateway::Seen { push } => Some(Heard::Seen { push }),
        }
    }

    fn judge_part(&mut self, number: u64, total: u16, offset: u16, bytes: &[u8]) {
        let is_sound = (1..=PART_BYTES_MAX).contains(&bytes.len())
            && usize::from(total) <= REQUEST_BYTES_MAX
            && usize::from(offset) + bytes.len() <= usize::from(total);
        if !is_sound {
            self.verdicts.fail("B3", format!("number {number}: {} bytes at {offset} of {total}", bytes.len()));
        }
        if number < self.first {
            self.verdicts.fail("B9", format!("number {number} came, which was answered; the lowest open one is {}", self.first));
        }
    }

    async fn receipt_for(&mut self, at: Position, end: Position, is_last: bool, maybe_stored: bool, bytes: &[u8]) {
        let of = tag(self.session);
        match self.receipts {
            Receipts::Lost => return,
            Receipts::Missing => {
                self.receipts = Receipts::Said;
                self.missed = Some((self.receipt, Instant::now()));
                return self.say(ToTerminal::Missing { tag: of, next: self.receipt }).await;
            }
            Receipts::Said => {}
        }
        if at == self.receipt {
            self.assembling.extend_from_slice(bytes);
            self.receipt = end;
            self.flying = self.flying.split_off(&end);
            self.flying.remove(&end);
            if is_last {
                let whole = std::mem::take(&mut self.assembling);
                let is_json = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&whole).is_ok();
                self.verdicts.judge("B3", is_json, || format!("number {} is no JSON object", at.number));
                if self.refused.contains(&whole) {
                    self.verdicts.fail("B12", format!("what was rejected for good came again as number {}", at.number));
                }
                self.whole.insert(at.number, (whole, maybe_stored));
            }
            self.say(ToTerminal::Received { tag: of, next: end }).await;
        } else if at > self.receipt {
            self.say(ToTerminal::Missing { tag: of, next: self.receipt }).await;
        } else {
            self.say(ToTerminal::Received { tag: of, next: self.receipt }).await;
        }
    }

    /// Waits for what `is_it` takes; other messages are handled as usual.
    async fn wait<T>(&mut self, within: Duration, mut is_it: impl FnMut(Heard) -> Option<T>) -> Option<T> {
        let until = Instant::now() + within;
        loop {
            let heard = self.next(until).await?;
            if let Some(it) = is_it(heard) {
                return Some(it);
            }
        }
    }

    /// Lets time pass.
    async fn watch(&mut self, time: Duration, mut see: impl FnMut(Heard)) {
        self.wait(time, |heard| {
            see(heard);
            None::<()>
        })
        .await;
    }

    /// The lowest request without an answer, whole.
    async fn request(&mut self) -> Option<(u64, Vec<u8>)> {
        let until = Instant::now() + self.patience;
        loop {
            if let Some((content, _)) = self.whole.get(&self.first) {
                return Some((self.first, content.clone()));
            }
            if let Heard::Hello { .. } = self.next(until).await? {
                self.welcome(None).await;
            }
        }
    }

    // ---- answers

    fn stored(&self, number: u64) -> ToTerminal<'static> {
        ToTerminal::Stored {
            tag: tag(self.session),
            number,
            duplicate: false,
            order_id: "order-123",
            event_id: [7; 16],
            ticket: Some(42),
            seq: 7,
        }
    }

    /// Says the answer until it is confirmed.
    async fn settle(&mut self, number: u64, answer: ToTerminal<'_>) -> Option<()> {
        let until = Instant::now() + self.patience;
        while Instant::now() < until {
            self.say(answer).await;
            let confirmed = self.wait(REPEAT, |heard| match heard {
                Heard::Confirm { below } if below == number + 1 => Some(true),
                Heard::Hello { .. } => Some(false),
                _ => None,
            });
            match confirmed.await {
                Some(true) => {
                    self.verdicts.pass("B8");
                    return Some(());
                }
                // It had heard nothing for too long.
                Some(false) => drop(self.welcome(None).await),
                None => {}
            }
        }
        self.verdicts.fail("B8", format!("the answer to number {number} was not confirmed"));
        None
    }

    async fn store(&mut self, number: u64) -> Option<()> {
        self.mark = number;
        self.settle(number, self.stored(number)).await
    }

    async fn reject(&mut self, number: u64, code: Code, after: Option<Duration>) -> Option<()> {
        let retry_after_ms = after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX));
        self.settle(number, ToTerminal::Rejected { tag: tag(self.session), number, code, reason: "by the check", retry_after_ms }).await
    }

    // ---- sessions

    async fn refuse(&self, refusal: Refusal, after: Duration) {
        let (nonce, _) = self.hello.unwrap_or_default();
        let retry_after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        self.say(ToTerminal::Refused(Refused { nonce, refusal, version: VERSION, retry_after_ms })).await;
    }

    /// Answers the last hello: with the session that it names, if that is ours, else with a new one. `nonce` other than its own is a lie.
    async fn welcome(&mut self, lie: Option<u32>) -> bool {
        let (nonce, resume) = self.hello.unwrap_or_default();
        let resumed = resume.is_some_and(|(session, _)| session == self.session);
        if resume.is_some() && !resumed && lie.is_none() {
            self.refuse(Refusal::UnknownSession, Duration::ZERO).await;
            return false;
        }
        if lie.is_none() {
            if !resumed {
                self.session += 1;
                (self.first, self.mark) = (1, 0);
            }
            self.receipt = Position::start_of(self.first);
            self.flying.clear();
            self.missed = None;
            self.assembling.clear();
            self.whole.clear();
        }
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.say(ToTerminal::Welcome(Welcome {
            version: VERSION,
            minor: 0,
            nonce: lie.unwrap_or(nonce),
            boot: self.boot,
            session: self.session,
            resumed,
            mark: self.mark,
            message_bytes_max: u16::try_from(MESSAGE_BYTES_MAX).unwrap_or(u16::MAX),
            request_bytes_max: u16::try_from(REQUEST_BYTES_MAX).unwrap_or(u16::MAX),
            window: u8::try_from(self.window).unwrap_or(u8::MAX),
            flight: u8::try_from(self.flight).unwrap_or(u8::MAX),
            ping_ms: ms(PING),
            dead_ms: ms(DEAD),
        }))
        .await;
        true
    }

    /// The next hello, and when.
    async fn hear_hello(&mut self, within: Duration) -> Option<(Instant, u32, Option<(u64, u64)>)> {
        self.wait(within, |heard| match heard {
            Heard::Hello { nonce, resume } => Some((Instant::now(), nonce, resume)),
            _ => None,
        })
        .await
    }

    // ---- steps

    async fn greet(&mut self) -> Option<()> {
        let (mut at, mut nonce, mut resume) = if self.port.name.is_some() {
            self.hear_hello(self.patience).await?
        } else {
            // It may have been running for long; and if it was started just now, it says hello twice.
            self.say(ToTerminal::WhoAreYou { boot: self.boot }).await;
            let first = self.hear_hello(self.patience).await?;
            self.hear_hello(AT_ONCE).await.unwrap_or(first)
        };
        if resume.is_some() {
            // What it keeps of another gateway goes first.
            self.refuse(Refusal::UnknownSession, Duration::ZERO).await;
            (at, nonce, resume) = self.hear_hello(REPEAT_WITHIN).await?;
        }
        let Some((again_at, again, _)) = self.hear_hello(REPEAT_WITHIN).await else {
            self.verdicts.fail("B1", "Hello came once, and not again without an answer");
            return None;
        };
        let waited = again_at.duration_since(at);
        self.verdicts.judge("B1", again == nonce && waited >= REPEAT_SEEN && resume.is_none(), || {
            format!("nonce {nonce}, then {again} after {} ms", waited.as_millis())
        });
        self.refuse(Refusal::NotReady, LATER).await;
        let told = Instant::now();
        let (at, nonce, _) = self.hear_hello(LATER + REPEAT_WITHIN).await?;
        let waited = at.duration_since(told);
        self.verdicts.judge("B18", waited + EARLY >= LATER, || {
            format!("Hello came after {} ms, told to wait {} ms", waited.as_millis(), LATER.as_millis())
        });
        self.welcome(Some(nonce ^ 0x55)).await;
        let is_deceived = self.wait(REPEAT_WITHIN, |heard| match heard {
            Heard::Hello { .. } => Some(false),
            Heard::Ping | Heard::Part(_) => Some(true),
            Heard::Confirm { .. } | Heard::Seen { .. } => None,
        });
        let is_deceived = is_deceived.await?;
        self.verdicts.judge("B2", !is_deceived, || "it took a session from a Welcome of another nonce".to_owned());
        if is_deceived {
            self.say(ToTerminal::WhoAreYou { boot: self.boot }).await;
            self.hear_hello(REPEAT_WITHIN).await?;
        }
        if !self.welcome(None).await {
            self.hear_hello(REPEAT_WITHIN).await?;
            self.welcome(None).await;
        }
        Some(())
    }

    async fn receipt_lost(&mut self) -> Option<()> {
        self.receipts = Receipts::Lost;
        let part = |heard| match heard {
            Heard::Part(at) => Some((Instant::now(), at)),
            _ => None,
        };
        let (at, first) = self.wait(self.patience, part).await?;
        let mut last = at;
        let again = loop {
            let Some((at, part)) = self.wait(REPEAT_WITHIN, part).await else { break None };
            if part == first {
                break Some(at);
            }
            last = at;
        };
        self.receipts = Receipts::Said;
        match again {
            Some(again) => {
                let waited = again.duration_since(at);
                self.verdicts
                    .judge("B5", waited >= REPEAT_SEEN, || format!("number {} came again after {} ms", first.number, waited.as_millis()));
            }
            None => self
                .verdicts
                .fail("B5", format!("number {} did not come again, {} s after its last part", first.number, last.elapsed().as_secs())),
        }
        Some(())
    }

    async fn wait_for_answer(&mut self) -> Option<()> {
        let (number, _) = self.request().await?;
        // A repeat that crossed its late receipt.
        self.watch(REPEAT, |_| ()).await;
        let (pings, began) = (self.pings, Instant::now());
        let mut repeats = 0;
        self.watch(QUIET, |heard| repeats += u32::from(matches!(heard, Heard::Part(at) if at.number == number))).await;
        self.verdicts.judge("B7", repeats == 0, || format!("{repeats} parts of number {number} came again while its answer was awaited"));
        let pings = self.pings - pings;
        self.verdicts.judge("B14", (3..=10).contains(&pings), || {
            format!("{pings} pings in {} ms, one each {} ms was asked for", began.elapsed().as_millis(), PING.as_millis())
        });
        Some(())
    }

    async fn answers(&mut self) -> Option<()> {
        let (number, _) = self.request().await?;
        let confirms = |heard| matches!(heard, Heard::Confirm { below } if below > number).then_some(());
        self.say(self.stored(number + 1)).await;
        let ToTerminal::Stored { duplicate, order_id, event_id, ticket, seq, .. } = self.stored(number) else { return None };
        self.say(ToTerminal::Stored { tag: tag(self.session) ^ 0x0101, number, duplicate, order_id, event_id, ticket, seq }).await;
        let took = self.wait(AT_ONCE, confirms).await.is_some();
        self.verdicts.judge("B10", !took, || format!("number {number} was confirmed, though the answer was not its own"));
        if took {
            // Nobody knows any more what it takes for answered.
            return None;
        }
        let frame = self.stored(number).to_frame().ok()?;
        let mut garbled = frame.to_vec();
        // In its CRC, which is the last of it.
        let last = garbled.len() - 3;
        garbled[last] ^= 0x40;
        self.send(&garbled).await;
        self.send(&frame[..frame.len() / 2]).await;
        self.send(b"\x07noise\x01\x02\0\xff\xff\xff\0").await;
        // A message of a kind that is not known, whole.
        if let Ok(unknown) = protocol::encode(&(0x40_u8, 1_u8, 2_u8)) {
            self.send(&unknown).await;
        }
        let took = self.wait(AT_ONCE, confirms).await.is_some();
        self.verdicts.judge("B13", !took, || format!("number {number} was confirmed after a frame with a wrong CRC"));
        if took {
            return None;
        }
        self.receipts = Receipts::Missing;
        self.store(number).await?;
        self.say(self.stored(number)).await;
        let again = self.wait(AT_ONCE, confirms).await.is_some();
        self.verdicts.judge("B8", again, || format!("the answer to number {number} came again and was not confirmed again"));
        Some(())
    }

    async fn pushes(&mut self) -> Option<()> {
        let status = StatusPush { order_id: "order-123", display: "42", status: Status::Ready, payment: Payment::Paid };
        for push in [9, 9, 10] {
            self.say(ToTerminal::Status { push, status }).await;
            let seen =
                self.wait(AT_ONCE, |heard| matches!(heard, Heard::Seen { push: seen } if seen == push).then_some(())).await.is_some();
            self.verdicts.judge("B20", seen, || format!("push {push} was not answered by Seen"));
        }
        Some(())
    }

    async fn later(&mut self, code: Code, name: &str) -> Option<()> {
        let (number, content) = self.request().await?;
        let told = Instant::now();
        self.reject(number, code, Some(LATER)).await?;
        let until = told + LATER + REPEAT_WITHIN;
        loop {
            if let Some((new, came)) = self.whole.iter().find(|(_, (whole, _))| *whole == content).map(|(new, _)| (*new, Instant::now())) {
                let waited = came.duration_since(told);
                self.verdicts.judge("B11", waited + EARLY >= LATER, || {
                    format!(
                        "after {name} number {number} came as {new} after {} ms, told to wait {} ms",
                        waited.as_millis(),
                        LATER.as_millis()
                    )
                });
                return Some(());
            }
            if Instant::now() >= until {
                self.verdicts.fail("B11", format!("after {name} what was number {number} did not come again"));
                return Some(());
            }
            if self.whole.contains_key(&self.first) {
                self.store(self.first).await?;
            } else {
                self.next(until.min(Instant::now() + PING)).await;
            }
        }
    }

    /// Welcomes the hello, and sees what was unanswered come again.
    async fn resume(&mut self, number: u64, content: &[u8]) -> Option<()> {
        let (_, resume) = self.hello.unwrap_or_default();
        if resume != Some((self.session, self.first)) {
            self.verdicts
                .fail("B16", format!("Hello names {resume:x?}, the session is {:x}, its lowest open number {}", self.session, self.first));
        }
        self.welcome(None).await;
        let Some((again, came)) = self.request().await else {
            self.verdicts.fail("B16", format!("number {number} did not come again"));
            return None;
        };
        self.verdicts
            .judge("B16", again == number && came == content, || format!("number {number} came again as {again} with other content"));
        Some(())
    }

    async fn asked_who(&mut self) -> Option<()> {
        (self.window, self.flight) = (2, 8);
        let (number, content) = self.request().await?;
        self.say(ToTerminal::WhoAreYou { boot: self.boot }).await;
        let at_once = self.hear_hello(AT_ONCE).await.is_some();
        self.verdicts.judge("B17", at_once, || format!("no Hello within {} ms", AT_ONCE.as_millis()));
        if !at_once {
            self.is_silent = true;
            self.hear_hello(DEAD + REPEAT_WITHIN).await?;
            self.is_silent = false;
        }
        self.resume(number, &content).await
    }

    async fn away(&mut self, away: Duration) -> Option<()> {
        let (number, content) = self.request().await?;
        let began = Instant::now();
        self.is_silent = true;
        let within = DEAD + DEAD;
        match self.hear_hello(within).await {
            Some((at, _, resume)) => {
                let waited = at.duration_since(began);
                let is_kept = waited + EARLY + PING >= DEAD && resume.is_some_and(|(session, _)| session == self.session);
                self.verdicts.judge("B15", is_kept, || format!("Hello came after {} ms and names {resume:x?}", waited.as_millis()));
            }
            None => {
                self.verdicts.fail("B15", format!("no Hello within {} ms of silence, dead_ms is {}", within.as_millis(), DEAD.as_millis()));
            }
        }
        sleep(away.saturating_sub(began.elapsed())).await;
        // What was said to nobody is gone.
        while self.port.heard.try_recv().is_ok() {}
        self.bytes.clear();
        self.is_silent = false;
        self.boot += 1;
        self.say(ToTerminal::WhoAreYou { boot: self.boot }).await;
        self.hear_hello(REPEAT_WITHIN).await?;
        self.resume(number, &content).await
    }

    async fn session_lost(&mut self) -> Option<()> {
        let (_, content) = self.request().await?;
        self.say(ToTerminal::WhoAreYou { boot: self.boot }).await;
        self.hear_hello(REPEAT_WITHIN).await?;
        self.refuse(Refusal::UnknownSession, Duration::ZERO).await;
        let lost = self.session;
        let opens = self.wait(REPEAT_WITHIN, |heard| match heard {
            // One that crossed the refusal still names it.
            Heard::Hello { resume, .. } => resume.is_none().then_some(()),
            _ => None,
        });
        if opens.await.is_none() {
            self.verdicts.fail("B19", format!("no Hello without the session {lost:x}, which is not known any more"));
            return None;
        }
        self.welcome(None).await;
        let (number, came) = self.request().await?;
        let maybe_stored = self.whole.get(&number).is_some_and(|(_, maybe_stored)| *maybe_stored);
        self.verdicts.judge("B19", came == content && maybe_stored, || {
            let what = if came == content { "the same content, unmarked" } else { "another content" };
            format!("number {number} of the new session has {what}")
        });
        self.store(number).await
    }
}
