//! Tells the dead letter topic of what is kept beside the outbox, in seq order, and keeps how far that has come: beside the offsets of
//! the status topics, for it is a place in a log as well.
//!
//! All at or below the progress is delivered, dead or held, and none of it can become dead any more: so one number says what is told.

use crate::attention::{Attention, Subject};
use crate::event_loop::Report;
use crate::kafka::{DeadLetterTopic, Tell};
use gateway::ids::Seq;
use gateway::io::{Input, PartitionName};
use std::time::{Duration, Instant};
use store::{KeptEvent, StoreThread};
use tokio::sync::mpsc::UnboundedSender;

/// Events that are told at once.
pub const TELL_MAX: usize = 64;
/// What the topic did not take is told again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// No topic has a partition of this number.
const PLACE: i32 = -1;

/// How far telling has come.
pub struct Telling {
    topic: DeadLetterTopic,
    at: PartitionName,
    told: Seq,
    /// A batch is being read or told.
    busy: bool,
    not_before: Instant,
    reports: UnboundedSender<Report>,
    attention: Attention,
}

impl Telling {
    /// Goes on where the offsets say that an earlier start left off.
    pub fn new(
        topic: DeadLetterTopic,
        name: &str,
        offsets: &[(PartitionName, i64)],
        reports: UnboundedSender<Report>,
        attention: Attention,
    ) -> Telling {
        let at = PartitionName { topic: name.to_owned(), partition: PLACE };
        let told = offsets.iter().find(|(stored, _)| *stored == at).map_or(0, |(_, told)| u64::try_from(*told).unwrap_or(0));
        Telling { topic, at, told: Seq(told), busy: false, not_before: Instant::now(), reports, attention }
    }

    /// What the core hears before anything is told.
    pub fn begin(&self) -> Input {
        Input::Told { upto: self.told, at: None }
    }

    /// Does what can be done now; `progress` is the uplink's, and `kept` how many events are kept. Gives what the core is to hear.
    pub fn poll(&mut self, progress: Seq, kept: u64, store: &StoreThread) -> Option<Input> {
        if self.busy || progress <= self.told || Instant::now() < self.not_before {
            return None;
        }
        if kept == 0 {
            // Nothing to tell, and nothing to remember: a start that reads from further back finds nothing there either.
            self.told = progress;
            return Some(self.begin());
        }
        let reports = self.reports.clone();
        let after = self.told;
        let asked = store.look(move |store| {
            let found = store.kept_events(after, progress, TELL_MAX).map_err(|error| error.to_string());
            // The event loop may have ended.
            let _ = reports.send(Report::Kept { upto: progress, found });
        });
        self.busy = asked.is_ok();
        None
    }

    /// What is kept was read.
    pub fn read(&mut self, upto: Seq, found: Result<Vec<(Seq, KeptEvent)>, String>) -> Option<Input> {
        match found {
            Ok(events) if events.is_empty() => self.told(Ok(upto)),
            Ok(events) => {
                let upto = if events.len() < TELL_MAX { upto } else { events.last().map_or(upto, |(seq, _)| *seq) };
                self.topic.tell(Tell { events, upto });
                None
            }
            // The store says so itself, louder.
            Err(_) => self.wait(),
        }
    }

    /// A batch was told, or not.
    pub fn told(&mut self, told: Result<Seq, String>) -> Option<Input> {
        let (upto, why) = match told {
            Ok(upto) => (Some(upto), None),
            Err(why) => (None, Some(why)),
        };
        let topic = &self.at.topic;
        let sentence = why.map(|why| {
            format!("the dead letter topic {topic} does not take what is kept: {why}; let it be made, or allow WRITE on it, or empty kafka.dead_letter_topic")
        });
        if self.attention.say(Subject::DeadLetterTopic, sentence.clone())
            && let Some(why) = sentence
        {
            tracing::warn!(why, again_s = AGAIN.as_secs(), "dead letters wait for their topic");
        }
        let Some(upto) = upto else { return self.wait() };
        (self.told, self.busy) = (upto, false);
        Some(Input::Told { upto, at: Some(self.at.clone()) })
    }

    fn wait(&mut self) -> Option<Input> {
        (self.busy, self.not_before) = (false, Instant::now() + AGAIN);
        None
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.topic.stop();
    }
}
