//! A gateway of requests and answers in JSON, over whichever line, that misbehaves by plan.
//!
//! Each step takes the next request that was not seen before, does to it what it is about, and sees what comes. All other requests are
//! stored at once, so that a terminal with several under way is not held up.

use super::rules::{Kind, Verdicts};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// Largest request.
pub const REQUEST_BYTES_MAX: usize = 16_384;
/// A request without an answer comes again after 5 s: within this it must.
const AGAIN_WITHIN: Duration = Duration::from_secs(12);
/// After an absence it may have waited its longest, 30 s.
const BACK_WITHIN: Duration = Duration::from_secs(35);
/// Sooner than the 5 s without an answer: `…/gateway` was heard.
const NEWS_WITHIN: Duration = Duration::from_millis(3_500);
/// What crosses its own answer.
const CROSSING: Duration = Duration::from_millis(500);
const BUSY: Duration = Duration::from_secs(1);
const FULL: Duration = Duration::from_secs(2);
/// Clocks of two computers, and what lies between.
const EARLY: Duration = Duration::from_millis(50);

/// What a terminal submitted.
#[derive(Debug)]
pub struct Submit {
    pub at: Instant,
    /// The request id, as far as there is one.
    pub id: String,
    /// All but the id.
    pub content: Value,
    /// Rules that it breaks by itself, and how.
    pub faults: Vec<(&'static str, String)>,
    /// Where its answer goes, if it is not for the line.
    pub reply: Option<oneshot::Sender<Reaction>>,
}

/// What becomes of a request over HTTP.
#[derive(Debug)]
pub enum Reaction {
    Answer { status: u16, retry_after_s: Option<u64>, body: String },
    Break,
}

/// What a line is told.
#[derive(Debug)]
pub enum Say {
    /// To the terminal that submitted last.
    Text(String),
    /// The gateway goes, or comes, with another boot.
    Online(bool),
}

/// A line to the terminal under test.
#[derive(Debug)]
pub struct Line {
    pub kind: Kind,
    /// Rules that each request is held to: those that are none of its faults are kept.
    pub each: &'static [&'static str],
    pub heard: mpsc::Receiver<Submit>,
    pub say: mpsc::Sender<Say>,
}

/// Plays the gateway until every step was played, or the terminal submits no more.
pub async fn play(line: Line, away: Duration, patience: Duration, tell: impl Fn(&str)) -> Verdicts {
    let verdicts = Verdicts::new(line.kind);
    let mut player =
        Player { line, verdicts, patience, seen: HashMap::new(), finished: HashMap::new(), pending: vec![], last: String::new() };
    tell("Let the terminal submit one order after the other, by itself or by hand.");
    let over = player.steps(away, tell).await;
    if over.is_none() {
        for rule in std::mem::take(&mut player.pending) {
            player.verdicts.fail(rule, format!("no other request came within {} s after it", patience.as_secs()));
        }
    }
    player.verdicts
}

struct Player {
    line: Line,
    verdicts: Verdicts,
    patience: Duration,
    seen: HashMap<String, Value>,
    /// When each was answered for good, and the rule that is broken if it comes again.
    finished: HashMap<String, (Instant, &'static str)>,
    /// Kept as soon as the terminal goes on with another request.
    pending: Vec<&'static str>,
    /// What was finished last.
    last: String,
}

impl Player {
    /// `None`: no more requests come.
    async fn steps(&mut self, away: Duration, tell: impl Fn(&str)) -> Option<()> {
        let is_http = self.line.kind == Kind::Http;
        tell("stored");
        let subject = self.fresh().await?;
        let is_known = !self.verdicts.has_failed("H1");
        self.store(subject, "R6", false).await;
        if !is_known {
            // Without a key no request can be told from another.
            return Some(());
        }
        self.pending.push("R6");
        tell("stored, with fields of a later version");
        let subject = self.fresh().await?;
        let body = json!({"requestId": subject.id, "result": "stored", "duplicate": false, "orderId": "o-1", "eventId": EVENT,
            "ticket": 42, "seq": 7, "later": {"than": ["this"]}});
        self.finish(subject, "R7", 201, body).await;
        self.pending.push("R7");
        tell("the answer is lost");
        let subject = self.fresh().await?;
        self.lose("R2", subject, AGAIN_WITHIN).await;
        for (rule, code, status, after) in [("R3", "busy", 429, BUSY), ("R4", "full", 503, FULL)] {
            tell(code);
            let subject = self.fresh().await?;
            let body = json!({"requestId": subject.id, "result": "rejected", "code": code, "message": "by the check",
                "retryAfterMs": u64::try_from(after.as_millis()).unwrap_or(u64::MAX)});
            self.later(rule, subject, status, after, body.to_string()).await;
        }
        if is_http {
            tell("503 without JSON");
            let subject = self.fresh().await?;
            self.later("H3", subject, 503, FULL, "try later".to_owned()).await;
        }
        for code in ["invalid", "conflict", "not_yet_invented"] {
            tell(code);
            let subject = self.fresh().await?;
            let body = json!({"requestId": subject.id, "result": "rejected", "code": code, "message": "by the check"});
            self.finish(subject, "R5", 422, body).await;
            self.pending.push("R5");
        }
        if !is_http {
            tell("answers to other requests");
            let subject = self.fresh().await?;
            for id in [self.last.as_str(), self.last.as_str(), "nobody-submitted-this"] {
                self.line.say.send(Say::Text(stored(id, true).to_string())).await.ok()?;
            }
            self.lose("R9", subject, AGAIN_WITHIN).await;
            tell("what is no answer");
            let subject = self.fresh().await?;
            for noise in ["{\"requestId\":", "[1,2]", "{}", "null", "\u{1}\u{7f}~ noise", "{\"status\":3,\"board\":null}"] {
                self.line.say.send(Say::Text(noise.to_owned())).await.ok()?;
            }
            self.store(subject, "R10", false).await;
            self.pending.push("R10");
        }
        if self.line.kind == Kind::Mqtt {
            tell("the gateway is started anew");
            let subject = self.fresh().await?;
            self.line.say.send(Say::Online(false)).await.ok()?;
            self.line.say.send(Say::Online(true)).await.ok()?;
            self.lose("M3", subject, NEWS_WITHIN).await;
        }
        tell(&format!("the gateway is away for {} s", away.as_secs_f32()));
        let subject = self.fresh().await?;
        self.away(subject, away).await?;
        // What is pending is kept by going on.
        let subject = self.fresh().await?;
        self.store(subject, "R6", false).await;
        Some(())
    }

    /// The next submit before `until`, held to what holds of each.
    async fn hear(&mut self, until: Instant) -> Option<Submit> {
        let submit = timeout_at(until, self.line.heard.recv()).await.ok().flatten()?;
        for rule in self.line.each {
            match submit.faults.iter().find(|(broken, _)| broken == rule) {
                Some((_, how)) => self.verdicts.fail(rule, how.clone()),
                None => self.verdicts.pass(rule),
            }
        }
        match self.seen.get(&submit.id) {
            Some(before) if *before != submit.content => {
                let why = format!("{} came with {}, before that with {before}", submit.id, submit.content);
                self.verdicts.fail("R8", why);
            }
            Some(_) => self.verdicts.pass("R8"),
            None => {}
        }
        // Who repeats everything is told so once.
        if let Some((at, rule)) = self.finished.get(&submit.id)
            && submit.at > *at + CROSSING
            && !self.verdicts.has_failed("R6")
        {
            let after = submit.at.duration_since(*at).as_millis();
            self.verdicts.fail(rule, format!("{} came again {after} ms after its answer", submit.id));
        }
        Some(submit)
    }

    /// The next request that was not seen before.
    async fn fresh(&mut self) -> Option<Submit> {
        let until = Instant::now() + self.patience;
        loop {
            let submit = self.hear(until).await?;
            if !self.seen.contains_key(&submit.id) {
                self.seen.insert(submit.id.clone(), submit.content.clone());
                for rule in std::mem::take(&mut self.pending) {
                    self.verdicts.pass(rule);
                }
                return Some(submit);
            }
            self.store(submit, "R6", true).await;
        }
    }

    /// The same request once more, submitted after `since`. Others are stored meanwhile.
    async fn again(&mut self, id: &str, since: Instant, within: Duration) -> Option<Submit> {
        let until = Instant::now() + within.min(self.patience);
        loop {
            let submit = self.hear(until).await?;
            if submit.id == id && submit.at >= since {
                return Some(submit);
            }
            if submit.id == id {
                // It crossed what was said to the one before.
                continue;
            }
            let is_known = self.seen.insert(submit.id.clone(), submit.content.clone()).is_some();
            self.store(submit, "R6", is_known).await;
        }
    }

    /// It never submits again, or takes what is not its own for an answer: then nothing more is seen of how it repeats itself.
    fn gives_up(&self) -> bool {
        self.verdicts.has_failed("R2") || self.verdicts.has_failed("R9")
    }

    /// No answer: it must come again, and is stored then.
    async fn lose(&mut self, rule: &'static str, subject: Submit, within: Duration) {
        if self.gives_up() {
            return self.store(subject, "R6", false).await;
        }
        let (id, since) = (subject.id.clone(), subject.at);
        if let Some(reply) = subject.reply {
            drop(reply.send(Reaction::Break));
        }
        match self.again(&id, since, within).await {
            Some(submit) => {
                self.verdicts.pass(rule);
                self.store(submit, "R6", true).await;
            }
            None => {
                self.verdicts
                    .fail(rule, format!("{id} had no answer of its own, and did not come again within {} s", within.as_secs_f32()));
            }
        }
    }

    /// Rejected for now: it must come again, not before its time.
    async fn later(&mut self, rule: &'static str, subject: Submit, status: u16, after: Duration, body: String) {
        let id = subject.id.clone();
        let told = Instant::now();
        self.answer(subject, status, Some(after), body).await;
        match self.again(&id, told, after + AGAIN_WITHIN).await {
            Some(submit) => {
                let waited = submit.at.duration_since(told);
                self.verdicts.judge(rule, waited + EARLY >= after, || {
                    format!("{id} came again after {} ms, told to wait {} ms", waited.as_millis(), after.as_millis())
                });
                self.store(submit, "R6", false).await;
            }
            None => self.verdicts.fail(rule, format!("{id} did not come again within {} s", (after + AGAIN_WITHIN).as_secs())),
        }
    }

    /// Nothing is answered for a while; whatever came then must come again after it.
    async fn away(&mut self, subject: Submit, away: Duration) -> Option<()> {
        if self.gives_up() {
            self.store(subject, "R6", false).await;
            return Some(());
        }
        let until = Instant::now() + away;
        let mut open = vec![subject.id.clone()];
        self.line.say.send(Say::Online(false)).await.ok()?;
        if let Some(reply) = subject.reply {
            drop(reply.send(Reaction::Break));
        }
        while let Some(submit) = self.hear(until).await {
            if !open.contains(&submit.id) && !self.finished.contains_key(&submit.id) {
                self.seen.insert(submit.id.clone(), submit.content.clone());
                open.push(submit.id.clone());
            }
            if let Some(reply) = submit.reply {
                drop(reply.send(Reaction::Break));
            }
        }
        self.line.say.send(Say::Online(true)).await.ok()?;
        let within = BACK_WITHIN.min(self.patience);
        let until = Instant::now() + within;
        while !open.is_empty() {
            let Some(submit) = self.hear(until).await else {
                self.verdicts.fail("R11", format!("{} did not come again within {} s", open.join(", "), within.as_secs()));
                return Some(());
            };
            open.retain(|id| *id != submit.id);
            self.seen.insert(submit.id.clone(), submit.content.clone());
            self.store(submit, "R6", false).await;
        }
        self.verdicts.pass("R11");
        Some(())
    }

    async fn store(&mut self, submit: Submit, rule: &'static str, duplicate: bool) {
        let body = stored(&submit.id, duplicate);
        self.finish(submit, rule, if duplicate { 200 } else { 201 }, body).await;
    }

    /// Answers for good.
    async fn finish(&mut self, submit: Submit, rule: &'static str, status: u16, body: Value) {
        self.last.clone_from(&submit.id);
        let id = submit.id.clone();
        self.answer(submit, status, None, body.to_string()).await;
        self.finished.entry(id).or_insert((Instant::now(), rule));
    }

    async fn answer(&self, submit: Submit, status: u16, after: Option<Duration>, body: String) {
        let sent = match submit.reply {
            Some(reply) => reply.send(Reaction::Answer { status, retry_after_s: after.map(|after| after.as_secs()), body }).is_ok(),
            None => self.line.say.send(Say::Text(body)).await.is_ok(),
        };
        if !sent {
            tracing::debug!("the terminal hung up before its answer");
        }
    }
}

const EVENT: &str = "01920e5c-7a00-7000-8000-00000000002a";

fn stored(id: &str, duplicate: bool) -> Value {
    json!({"requestId": id, "result": "stored", "duplicate": duplicate, "orderId": format!("order-of-{id}"), "eventId": EVENT,
        "ticket": 42, "seq": 7})
}

/// Reads a request, its id from `id` or its own field.
pub fn read(bytes: &[u8], key: Option<&str>) -> Submit {
    let mut faults = vec![];
    let mut content = serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
    if bytes.len() > REQUEST_BYTES_MAX {
        faults.push(("R1", format!("a request has {} bytes", bytes.len())));
    }
    let own = match &mut content {
        Value::Object(fields) => fields.remove("requestId").and_then(|id| id.as_str().map(str::to_owned)),
        _ => {
            faults.push(("R1", format!("no JSON object: {}", String::from_utf8_lossy(bytes).chars().take(80).collect::<String>())));
            None
        }
    };
    let id = key.map(str::to_owned).or(own).unwrap_or_default();
    if id.parse::<gateway::ids::RequestId>().is_err() {
        faults.push(("R1", format!("{id:?} is no request id: 1 to 64 of A–Z a–z 0–9 . _ -")));
    }
    Submit { at: Instant::now(), id, content, faults, reply: None }
}
