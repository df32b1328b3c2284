//! A new store's rebuilding, as the event loop sees it: what Kafka has of this gateway's events, then those that wait in the outbox
//! because they were imported. And the sentence about it.

use crate::clock::Clock;
use crate::event_loop::Report;
use crate::kafka::Rebuild;
use gateway::Gauges;
use gateway::event::OrderEvent;
use gateway::ids::Seq;
use gateway::io::Opened;
use gateway::rebuild::{Recall, Recalled};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use store::StoreThread;
use tokio::sync::mpsc::UnboundedSender;

/// Events that are read from the outbox at once, and about how many bytes.
const READ_MAX: (usize, usize) = (128, 1 << 20);

/// Where rebuilding is.
pub struct Rebuilding {
    thread: Rebuild,
    stage: Stage,
    /// What waits in the outbox since before this start: the next to read, and the last.
    outbox: (Seq, Seq),
    /// Statuses wait so long for the orders that they are about.
    statuses_wait: Duration,
    reached_at: Option<Instant>,
    reports: UnboundedSender<Report>,
}

#[derive(PartialEq)]
enum Stage {
    Kafka,
    Outbox { asked: bool },
    Ended,
}

impl Rebuilding {
    /// It has just been started.
    pub fn new(thread: Rebuild, opened: &Opened, statuses_wait: Duration, reports: UnboundedSender<Report>) -> Rebuilding {
        let outbox = (opened.progress.next(), Seq(opened.next_seq.0 - 1));
        Rebuilding { thread, stage: Stage::Kafka, outbox, statuses_wait, reached_at: None, reports }
    }

    /// Whether statuses wait, lest they come before their orders: not for long, and not for what a person has to mend.
    pub fn holds_statuses(&self) -> bool {
        let in_time = self.reached_at.is_none_or(|at| at.elapsed() < self.statuses_wait);
        in_time && !self.thread.progress().trouble().is_some_and(|(_, needs_person)| needs_person)
    }

    /// Takes what comes of Kafka; gives what the core is to hear of it now.
    pub fn take(&mut self, recall: Recall) -> Option<Recall> {
        match recall {
            Recall::Reached => drop(self.reached_at.get_or_insert_with(Instant::now)),
            Recall::Event(_) => {}
            Recall::Ended => {
                self.stage = Stage::Outbox { asked: false };
                return None;
            }
        }
        Some(recall)
    }

    /// Asks for the next events of the outbox once those before them are recalled; gives the end, once it has come.
    pub fn poll(&mut self, in_flight: usize, store: &StoreThread) -> Option<Recall> {
        if self.stage != (Stage::Outbox { asked: false }) || in_flight > 0 {
            return None;
        }
        let (from, last) = self.outbox;
        if from > last {
            self.stage = Stage::Ended;
            return Some(Recall::Ended);
        }
        let reports = self.reports.clone();
        let asked = store.look(move |store| {
            let found = store.read_head(from, READ_MAX.0, READ_MAX.1).map_err(|error| error.to_string());
            // The event loop may have ended.
            let _ = reports.send(Report::Outbox(found));
        });
        self.stage = Stage::Outbox { asked: asked.is_ok() };
        None
    }

    /// Takes the next events of the outbox; gives what the core is to hear.
    pub fn read(&mut self, found: Result<Vec<(Seq, Arc<OrderEvent>)>, String>, clock: &Clock) -> Vec<Recall> {
        self.stage = Stage::Outbox { asked: false };
        // A store that cannot be read says so itself, louder, and is asked again.
        let Ok(found) = found else { return vec![] };
        self.outbox.0 = found.last().map_or(self.outbox.1.next(), |(seq, _)| seq.next());
        let last = self.outbox.1;
        let recalled = found.into_iter().filter(|(seq, _)| *seq <= last).filter_map(|(seq, event)| {
            let recalled = Recalled::of(&event, seq, clock.day_of(event.occurred_at_ms));
            recalled.inspect_err(|why| tracing::warn!(seq = seq.0, why, "an event of the outbox cannot be recalled")).ok()
        });
        recalled.map(|recalled| Recall::Event(Box::new(recalled))).collect()
    }

    /// What there is to say about it.
    pub fn sentence(&self, gauges: &Gauges) -> Option<String> {
        let progress = self.thread.progress();
        let [read, of, own] = [&progress.read, &progress.of, &progress.own].map(|count| count.load(Ordering::Relaxed));
        let state = match (progress.trouble(), self.reached_at) {
            (Some((why, _)), _) => format!("which fails: {why}"),
            (None, None) => "and Kafka is not reached yet".to_owned(),
            (None, Some(_)) => format!("{read} of up to {of} records so far, {own} of them its own"),
        };
        let twice = gauges.tally.stored_twice;
        match (gauges.rebuilding, gauges.accepting) {
            (true, false) => Some(format!(
                "the store is new; requests are refused while what this gateway stored before is read back from Kafka, {state}"
            )),
            (true, true) => Some(format!(
                "the store is new, and what this gateway stored before is still to be read back from Kafka, {state}; what is stored meanwhile may \
                 have been stored before and is marked data.maybeStored"
            )),
            (false, _) => (twice > 0).then(|| {
                format!("{twice} requests were stored before the card was replaced and again before that was known: see the log for which")
            }),
        }
    }

    /// Ends reading soon.
    pub fn stop(&self) {
        self.thread.stop();
    }
}
