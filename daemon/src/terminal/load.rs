//! A load: so many orders, from so many terminals, at such a rate; and what became of them.

use super::{EVENTS_QUEUED_MAX, Ends, Orders, Reply, Terminal, TerminalEvent, Told, http, mqtt, serial, serial_ends};
use crate::config::Framing;
use crate::ingress::mqtt::Access;
use anyhow::ensure;
use gateway::ids::{Name, RequestId};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Most terminals at once: each has a connection.
pub const TERMINALS_MAX: usize = 1_000;
/// Most orders of one run: each is remembered until its end, to see doubles.
pub const ORDERS_MAX: u64 = 10_000_000;
/// So few answers are shown one by one.
const SHOWN_MAX: u64 = 20;
/// Longest latency that the histogram tells apart, in microseconds.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// Where the orders go.
#[derive(Debug, Clone)]
pub enum Target {
    Mqtt { access: Access, gateway: Name },
    Http { authority: String },
    Serial { path: PathBuf, baud: u32, framing: Framing },
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    pub target: Target,
    /// The terminal's name; several are called `NAME-1` to `NAME-N`.
    pub name: Name,
    pub terminals: usize,
    /// Orders in all.
    pub count: u64,
    /// Orders a second over all terminals; `None` is as fast as answers come.
    pub rate: Option<f64>,
    /// Nothing heard for so long: what is unanswered then counts as lost.
    pub patience: Duration,
    /// Say nothing on the way.
    pub quiet: bool,
}

/// Runs the load until every order is answered, or patience or the user ends it.
///
/// # Errors
/// What is wrong with the options.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    let target = options.target.clone();
    let start = move |name: Name, ends: Ends| match &target {
        Target::Mqtt { access, gateway } => mqtt::start(access.clone(), gateway, name, ends),
        Target::Http { authority } => http::start(authority.clone(), name, ends),
        Target::Serial { path, baud, framing: Framing::Binary } => serial_ends::start(path, *baud, name, ends),
        Target::Serial { path, baud, framing: Framing::Json } => serial::json::start(path, *baud, name, ends),
    };
    drive(&options, start).await
}

/// As [`run`], with terminals of any kind: `start` starts one.
///
/// # Errors
/// What is wrong with the options.
pub async fn drive(options: &Options, mut start: impl FnMut(Name, Ends) -> Terminal) -> anyhow::Result<Report> {
    ensure!((1..=TERMINALS_MAX).contains(&options.terminals), "between 1 and {TERMINALS_MAX} terminals, not {}", options.terminals);
    ensure!((1..=ORDERS_MAX).contains(&options.count), "between 1 and {ORDERS_MAX} orders, not {}", options.count);
    ensure!(options.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "a rate above 0");
    let (events, mut told) = mpsc::channel(EVENTS_QUEUED_MAX);
    let feed = Arc::new(Feed { next: AtomicU64::new(0), count: options.count, rate: options.rate, since: Instant::now() });
    let (mut terminals, mut feeders) = (Vec::new(), JoinSet::new());
    for n in 1..=options.terminals {
        let name = if options.terminals == 1 { options.name.clone() } else { format!("{}-{n}", options.name).parse()? };
        // The next order is made while one is in flight, never further ahead.
        let (give, orders) = mpsc::channel(1);
        terminals.push(start(name, Ends { orders, events: events.clone() }));
        feeders.spawn(Arc::clone(&feed).run(Orders::new()?, give));
    }
    drop(events);
    let mut tally = Tally::new(options);
    let mut ended_early = false;
    while tally.answered() < options.count {
        tokio::select! {
            event = tokio::time::timeout(options.patience, told.recv()) => match event {
                Ok(Some(told)) => tally.take(told),
                Ok(None) | Err(_) => break,
            },
            Ok(()) = tokio::signal::ctrl_c(), if !ended_early => {
                // No more orders; what is in flight is waited for.
                feeders.abort_all();
                ended_early = true;
            }
        }
        if ended_early && tally.answered() == tally.submitted {
            break;
        }
    }
    Ok(tally.report())
}

/// Gives out the orders to all terminals in the order in which they ask.
struct Feed {
    next: AtomicU64,
    count: u64,
    rate: Option<f64>,
    since: Instant,
}

impl Feed {
    async fn run(self: Arc<Self>, mut orders: Orders, give: mpsc::Sender<super::Order>) {
        loop {
            let Ok(place) = give.reserve().await else { return };
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.count {
                return;
            }
            if let Some(rate) = self.rate {
                // Nobody waits for order 2^52 of a run.
                #[expect(clippy::cast_precision_loss, reason = "bounded by ORDERS_MAX")]
                let due = Duration::from_secs_f64(n as f64 / rate);
                sleep_until(self.since + due).await;
            }
            place.send(orders.make());
        }
    }
}

/// Where an order went, as its first *stored* answer said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    event_id: String,
    seq: u64,
}

#[derive(Debug)]
struct Tally {
    since: Instant,
    last: Instant,
    quiet: bool,
    shown: bool,
    /// What was last complained of.
    trouble: Option<String>,
    submitted: u64,
    resubmitted: u64,
    stored: u64,
    duplicates: u64,
    doubled: u64,
    rejected: BTreeMap<String, u64>,
    /// `None` while it is not answered, or rejected.
    requests: HashMap<(Name, RequestId), Option<Place>>,
    seqs: HashMap<u64, (Name, RequestId)>,
    latency_us: Histogram<u64>,
}

impl Tally {
    fn new(options: &Options) -> Tally {
        Tally {
            since: Instant::now(),
            last: Instant::now(),
            quiet: options.quiet,
            trouble: None,
            shown: !options.quiet && options.count <= SHOWN_MAX,
            submitted: 0,
            resubmitted: 0,
            stored: 0,
            duplicates: 0,
            doubled: 0,
            rejected: BTreeMap::new(),
            requests: HashMap::new(),
            seqs: HashMap::new(),
            latency_us: Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds in order and three digits"),
        }
    }

    fn answered(&self) -> u64 {
        self.stored + self.rejected.values().sum::<u64>()
    }

    fn take(&mut self, (terminal, event): Told) {
        match event {
            TerminalEvent::Submitted { request_id } => {
                self.submitted += 1;
                self.requests.insert((terminal, request_id), None);
            }
            TerminalEvent::Resubmitted { .. } => self.resubmitted += 1,
            TerminalEvent::Answered { request_id, reply, latency } => {
                self.last = Instant::now();
                if self.shown {
                    println!("{terminal}  {request_id}  {}  {:.1} ms", Shown(&reply), latency.as_secs_f64() * 1e3);
                }
                match reply {
                    Reply::Stored { duplicate, event_id, seq, .. } => {
                        self.stored += 1;
                        self.duplicates += u64::from(duplicate);
                        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                        self.latency_us.saturating_record(us.clamp(1, LATENCY_MAX_US));
                        self.place((terminal, request_id), Place { event_id, seq });
                    }
                    Reply::Rejected { code, .. } => *self.rejected.entry(code).or_default() += 1,
                }
            }
            TerminalEvent::AnsweredAgain { request_id, reply: Reply::Stored { event_id, seq, .. } } => {
                self.place((terminal, request_id), Place { event_id, seq });
            }
            TerminalEvent::AnsweredAgain { .. } => {}
            TerminalEvent::Trouble { reason } => {
                if !self.quiet && self.trouble.as_ref() != Some(&reason) {
                    eprintln!("{terminal}: {reason}; trying again");
                    self.trouble = Some(reason);
                }
            }
            TerminalEvent::Status { order_id, status } => {
                if self.shown {
                    println!("{terminal}  {order_id}  {status}");
                }
            }
        }
    }

    /// Two places for one request, or two requests in one place: neither may be.
    fn place(&mut self, request: (Name, RequestId), place: Place) {
        // An answer to a request of an earlier run under the same name is none of ours.
        let Some(known) = self.requests.get_mut(&request) else { return };
        let moved = known.as_ref().is_some_and(|known| *known != place);
        let shared = self.seqs.get(&place.seq).is_some_and(|owner| *owner != request);
        self.doubled += u64::from(moved || shared);
        self.seqs.insert(place.seq, request);
        *known = Some(place);
    }

    fn report(self) -> Report {
        let seconds = (self.last - self.since).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "bounded by ORDERS_MAX")]
        let (stored, us) = (self.stored as f64, |us: u64| us as f64 / 1e3);
        let quantile = |q: f64| us(self.latency_us.value_at_quantile(q));
        Report {
            lost: self.submitted - self.answered(),
            submitted: self.submitted,
            stored: self.stored,
            duplicates: self.duplicates,
            resubmitted: self.resubmitted,
            doubled: self.doubled,
            seconds,
            orders_per_second: if seconds > 0.0 { stored / seconds } else { 0.0 },
            answer_ms: AnswerMs { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), max: us(self.latency_us.max()) },
            rejected: self.rejected,
        }
    }
}

/// What became of the orders.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub submitted: u64,
    pub stored: u64,
    /// Of these, such whose first answer was lost: they were marked as duplicates.
    pub duplicates: u64,
    /// By code; `busy` and `full` are not among them, for such an order is submitted again.
    pub rejected: BTreeMap<String, u64>,
    /// Submissions beside the first of each order.
    pub resubmitted: u64,
    /// Never answered.
    pub lost: u64,
    /// Answered with two places, or sharing one.
    pub doubled: u64,
    /// From the start to the last answer.
    pub seconds: f64,
    pub orders_per_second: f64,
    /// From first submission to *stored*.
    pub answer_ms: AnswerMs,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerMs {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Report {
    /// Nothing was lost, doubled or refused.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.rejected.is_empty()
    }

    pub fn to_json(&self) -> Value {
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let AnswerMs { p50, p90, p99, max } = self.answer_ms;
        json!({
            "submitted": self.submitted, "stored": self.stored, "duplicates": self.duplicates, "rejected": self.rejected,
            "resubmitted": self.resubmitted, "lost": self.lost, "doubled": self.doubled, "seconds": round(self.seconds),
            "ordersPerSecond": round(self.orders_per_second),
            "answerMs": {"p50": round(p50), "p90": round(p90), "p99": round(p99), "max": round(max)},
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AnswerMs { p50, p90, p99, max } = self.answer_ms;
        writeln!(f, "submitted    {:>9}   again {}", self.submitted, self.resubmitted)?;
        writeln!(f, "stored       {:>9}   of these answered as duplicate {}", self.stored, self.duplicates)?;
        for (code, count) in &self.rejected {
            writeln!(f, "rejected     {count:>9}   {code}")?;
        }
        if self.submitted > 0 && self.submitted == self.lost {
            writeln!(f, "nothing was answered: are the address, the gateway's id and the terminal's name right?")?;
        }
        writeln!(f, "lost         {:>9}", self.lost)?;
        writeln!(f, "doubled      {:>9}", self.doubled)?;
        writeln!(f, "took         {:>9.1} s   {:.0} orders a second", self.seconds, self.orders_per_second)?;
        writeln!(f, "answer time       p50 {p50:.1} ms   p90 {p90:.1} ms   p99 {p99:.1} ms   max {max:.1} ms")
    }
}

struct Shown<'a>(&'a Reply);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reply::Stored { duplicate, order_id, ticket, seq, .. } => {
                let ticket = ticket.map_or_else(String::new, |ticket| format!("  ticket {ticket}"));
                let mark = if *duplicate { " before" } else { "" };
                write!(f, "stored{mark}  order {order_id}{ticket}  seq {seq}")
            }
            Reply::Rejected { code, message, .. } => write!(f, "rejected  {code}: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let target = Target::Http { authority: "h:1".into() };
        let (name, patience) = ("t".parse().unwrap(), Duration::from_secs(1));
        Tally::new(&Options { target, name, terminals: 1, count: 100, rate: None, patience, quiet: true })
    }

    fn id(text: &str) -> RequestId {
        text.parse().unwrap()
    }

    fn stored(event_id: &str, seq: u64) -> Reply {
        Reply::Stored { duplicate: false, order_id: "o".into(), event_id: event_id.into(), ticket: None, seq }
    }

    fn hear(tally: &mut Tally, event: TerminalEvent) {
        tally.take(("t".parse().unwrap(), event));
    }

    fn answer(tally: &mut Tally, request: &str, reply: Reply) {
        hear(tally, TerminalEvent::Submitted { request_id: id(request) });
        hear(tally, TerminalEvent::Answered { request_id: id(request), reply, latency: Duration::from_millis(2) });
    }

    #[test]
    fn a_repeat_of_the_same_answer_is_no_double_and_another_place_is() {
        let mut tally = tally();
        answer(&mut tally, "a", stored("e-1", 1));
        hear(&mut tally, TerminalEvent::AnsweredAgain { request_id: id("a"), reply: stored("e-1", 1) });
        hear(&mut tally, TerminalEvent::AnsweredAgain { request_id: id("of-another-run"), reply: stored("e-9", 9) });
        assert_eq!(tally.doubled, 0);
        hear(&mut tally, TerminalEvent::AnsweredAgain { request_id: id("a"), reply: stored("e-2", 2) });
        assert_eq!(tally.doubled, 1);
        assert!(!tally.report().is_clean());
    }

    #[test]
    fn two_requests_in_one_place_are_a_double() {
        let mut tally = tally();
        answer(&mut tally, "a", stored("e-1", 1));
        answer(&mut tally, "b", stored("e-1", 1));
        assert_eq!(tally.report().doubled, 1);
    }

    #[test]
    fn what_is_never_answered_is_lost_and_a_rejection_is_not() {
        let mut tally = tally();
        answer(&mut tally, "a", stored("e-1", 1));
        answer(&mut tally, "b", Reply::Rejected { code: "invalid".into(), message: "m".into(), retry_after: None });
        hear(&mut tally, TerminalEvent::Submitted { request_id: id("c") });
        let report = tally.report();
        assert_eq!((report.submitted, report.stored, report.lost, report.rejected["invalid"]), (3, 1, 1, 1));
        assert!((1.9..2.1).contains(&report.answer_ms.p50), "{report}");
    }
}
