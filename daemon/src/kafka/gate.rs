//! What all of Kafka's clients share about the line: whether it is down, since when, and who may dial.
//!
//! The uplink's keeper finds out and tries; the other clients only look. While the gate is shut there is no client but the keeper's.

use super::outage::{Dial, Outage};
use gateway::random::Random;
use gateway::time::rfc3339;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Cheap to clone; clones share it. The line counts as lost until it is known to be up.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    outage: Option<Outage>,
    random: Random,
}

impl Gate {
    /// `seed` is drawn at random: it must differ from gateway to gateway.
    pub fn new(seed: [u8; 16]) -> Gate {
        Gate::since(Instant::now(), seed)
    }

    /// One whose line was lost at that time.
    pub(super) fn since(began: Instant, seed: [u8; 16]) -> Gate {
        let mut random = Random::new(seed);
        let outage = Some(Outage::begin(0, random.below(u64::MAX)));
        Gate(Arc::new(Shared { began, inner: Mutex::new(Inner { outage, random }) }))
    }

    /// The line is down. Only the first time counts.
    pub(super) fn lost(&self) {
        let (now, mut inner) = (self.now(), self.inner());
        let Inner { outage, random } = &mut *inner;
        outage.get_or_insert_with(|| Outage::begin(now, random.below(u64::MAX)));
    }

    /// A broker answered.
    pub(super) fn is_back(&self) {
        self.inner().outage = None;
    }

    /// When the line may be tried, if it may not be tried freely.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.inner().outage?.dial(self.now()) {
            Dial::Freely => None,
            Dial::Once { at } => Some(self.0.began + Duration::from_millis(at)),
        }
    }

    /// Whether nobody but the keeper may dial.
    pub fn is_shut(&self) -> bool {
        self.next().is_some()
    }

    /// The keeper tries. Gives how long a broker's answer to the first packet is to be waited for.
    pub(super) fn tried(&self) -> Duration {
        let (now, mut inner) = (self.now(), self.inner());
        let Inner { outage, random } = &mut *inner;
        let patience_ms = outage.as_mut().map_or(0, |outage| outage.tried(now, random.below(u64::MAX)));
        Duration::from_millis(patience_ms)
    }

    /// A person wants the line to be tried at once.
    pub fn hurry(&self) {
        let now = self.now();
        if let Some(outage) = &mut self.inner().outage {
            outage.hurry(now);
        }
    }

    /// The outage is no short one any more.
    #[cfg(test)]
    pub(super) fn lasts(&self) {
        let now = self.now();
        self.inner().outage = Some(Outage::begin(now.saturating_sub(super::outage::SHORT_MS), 0));
    }

    /// What a person wants to know while the line is down. `wall_ms` is the wall time, if it is known.
    pub fn sentence(&self, wall_ms: Option<i64>) -> Option<String> {
        let (now, outage) = (self.now(), self.inner().outage?);
        let moment = |at: u64| match wall_ms {
            Some(wall_ms) => {
                // To the second, so that the sentence stays the same.
                let at_ms = wall_ms.saturating_sub_unsigned(now).saturating_add_unsigned(at);
                rfc3339(at_ms.div_euclid(1000) * 1000)
            }
            None => format!("{} s after the start", at / 1000),
        };
        let next = match outage.dial(now) {
            Dial::Freely => "it is tried every second".to_owned(),
            Dial::Once { at } => format!("the next try is at {}, or at once by systemctl reload dumbwaiter", moment(at.max(now))),
        };
        Some(format!("the line to Kafka is down since {}; {next}", moment(outage.since())))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// No one panics while holding it.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::outage::{SHORT_MS, SPREAD_MS};

    #[test]
    fn a_person_reads_since_when_the_line_is_down_and_when_it_is_tried() {
        let hour_ms = 3_600_000;
        let gate = Gate::new([1; 16]);
        assert_eq!(
            gate.sentence(Some(hour_ms)).unwrap(),
            "the line to Kafka is down since 1970-01-01T01:00:00.000Z; it is tried every second"
        );
        let gate = Gate::since(Instant::now().checked_sub(Duration::from_millis(SHORT_MS)).unwrap(), [1; 16]);
        let sentence = gate.sentence(Some(hour_ms)).unwrap();
        let rest = sentence.strip_prefix("the line to Kafka is down since 1970-01-01T00:58:00.000Z; the next try is at 1970-01-01T01:0");
        assert!(rest.is_some_and(|rest| rest.ends_with("Z, or at once by systemctl reload dumbwaiter")), "{sentence}");
        assert!(gate.sentence(None).unwrap().starts_with("the line to Kafka is down since 0 s after the start; the next try is at "));
        gate.is_back();
        assert_eq!(gate.sentence(None), None);
    }

    #[test]
    fn after_an_attempt_the_next_is_a_spread_away_at_most() {
        let gate = Gate::since(Instant::now().checked_sub(Duration::from_millis(SHORT_MS)).unwrap(), [1; 16]);
        gate.hurry();
        assert!(gate.next().unwrap() <= Instant::now());
        gate.tried();
        let wait = gate.next().unwrap().saturating_duration_since(Instant::now());
        assert!(wait <= Duration::from_millis(SPREAD_MS) && gate.is_shut(), "{wait:?}");
    }
}
