//! What the broker refuses of what the gateway publishes: by its word, or by hanging up.
//!
//! mosquitto 2.0.11 does both at once where `max_queued_messages` is 0: it answers a publish that its access list denies with a PUBACK
//! that says so, and then ends the connection (with any other limit it goes on). Other brokers hang up without a word. One hang-up tells
//! nothing, for a broker that is killed does the same; the same topic unanswered again and again does.

use super::GOOD_AFTER;
use super::figures::{Figures, count};
use super::topics::Topics;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::warn;

/// Connections in a row that end while the same topic's publish is unanswered, before that is a refusal.
const HANG_UPS_MIN: u32 = 3;

/// It outlives connections.
#[derive(Debug)]
pub struct Refusals {
    figures: Arc<Figures>,
    /// What the broker's access list has to allow.
    allow: String,
    said: bool,
    refused_in_connection: bool,
    /// The topic that the last connections ended over, and how many they were.
    suspect: Option<(String, u32)>,
}

impl Refusals {
    pub fn new(topics: &Topics, figures: Arc<Figures>) -> Refusals {
        Refusals { figures, allow: topics.all(), said: false, refused_in_connection: false, suspect: None }
    }

    /// A connection begins.
    pub fn connecting(&mut self) {
        self.refused_in_connection = false;
    }

    /// The broker said that it does not take a publish.
    pub fn by_word(&mut self, reason: &dyn Debug) {
        self.refused(None, reason);
    }

    /// The broker ended the connection after `lived`, and `unanswered` is the topic of the first publish that it had not acknowledged.
    /// `true` if that publish is to be taken for refused.
    pub fn by_hanging_up(&mut self, unanswered: Option<&str>, lived: Duration) -> bool {
        let Some(topic) = unanswered.filter(|_| !self.refused_in_connection) else { return false };
        let before = match self.suspect.take() {
            Some((suspect, hang_ups)) if suspect == topic && lived < GOOD_AFTER => hang_ups,
            _ => 0,
        };
        let hang_ups = before.saturating_add(1);
        self.suspect = Some((topic.to_owned(), hang_ups));
        if hang_ups < HANG_UPS_MIN {
            return false;
        }
        self.refused(Some(topic), &"the broker hangs up on it");
        true
    }

    /// The connection has served for so long.
    pub fn served(&mut self, lived: Duration) {
        if lived >= GOOD_AFTER && !self.refused_in_connection {
            self.said = false;
            self.suspect = None;
            self.figures.refusing.store(false, Ordering::Relaxed);
        }
    }

    fn refused(&mut self, topic: Option<&str>, reason: &dyn Debug) {
        count(&self.figures.publishes_refused);
        self.figures.refusing.store(true, Ordering::Relaxed);
        self.refused_in_connection = true;
        if !std::mem::replace(&mut self.said, true) {
            let allow = &self.allow;
            warn!(topic, ?reason, %allow, "the MQTT broker refuses what the gateway publishes; let its access list allow the gateway to write there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    fn refusals() -> Refusals {
        Refusals::new(&Topics::new(&"store-042".parse().unwrap()), Arc::default())
    }

    fn seen(refusals: &Refusals) -> (u64, bool) {
        (refusals.figures.publishes_refused.load(Ordering::Relaxed), refusals.figures.refusing.load(Ordering::Relaxed))
    }

    /// Connections that live so long and end with this topic's publish unanswered.
    fn hang_ups(refusals: &mut Refusals, topic: &str, lived: Duration, n: usize) -> Vec<bool> {
        let mut end = || {
            refusals.connecting();
            refusals.by_hanging_up(Some(topic), lived)
        };
        (0..n).map(|_| end()).collect()
    }

    #[test]
    fn the_same_topic_unanswered_at_three_ends_in_a_row_is_refused() {
        let mut refusals = refusals();
        assert_eq!(hang_ups(&mut refusals, "a", SHORT, 4), [false, false, true, true]);
        assert_eq!(seen(&refusals), (2, true));
        assert_eq!(hang_ups(&mut refusals, "b", SHORT, 3), [false, false, true]);
    }

    #[test]
    fn a_broker_that_is_killed_refuses_nothing() {
        let mut refusals = refusals();
        for topic in ["a", "b", "a", "b"] {
            assert_eq!(hang_ups(&mut refusals, topic, SHORT, 2), [false, false]);
        }
        assert_eq!(hang_ups(&mut refusals, "a", GOOD_AFTER, 5), [false; 5]);
        assert!(!refusals.by_hanging_up(None, SHORT));
        assert_eq!(seen(&refusals), (0, false));
    }

    #[test]
    fn a_refusal_by_word_is_not_counted_again_for_the_hang_up_behind_it() {
        let mut refusals = refusals();
        for _ in 0..5 {
            refusals.connecting();
            refusals.by_word(&"not authorized");
            assert!(!refusals.by_hanging_up(Some("a"), SHORT));
        }
        assert_eq!(seen(&refusals), (5, true));
    }

    #[test]
    fn a_connection_that_goes_well_ends_the_refusing_and_only_that() {
        let mut refusals = refusals();
        refusals.by_word(&"not authorized");
        refusals.served(GOOD_AFTER);
        assert!(refusals.said && seen(&refusals).1, "it was refused in this very connection");
        refusals.connecting();
        refusals.served(SHORT);
        assert!(refusals.said && seen(&refusals).1, "it is too short to tell");
        refusals.served(GOOD_AFTER);
        assert!(!refusals.said && !seen(&refusals).1);
    }
}
