//! Orders that go out while no status comes back: most often the centre chooses another partition for this gateway than it reads.

use std::time::{Duration, Instant};

/// From here on it is told.
const TOLD_AFTER: Duration = Duration::from_secs(600);

/// Since when nothing was heard. It counts from the first event that was delivered after the last status.
#[derive(Debug, Default)]
pub struct Unheard {
    delivered: u64,
    applied: u64,
    since: Option<Instant>,
}

impl Unheard {
    /// Takes the counts of events delivered and of statuses applied since the start; gives for how long nothing was heard.
    pub fn look(&mut self, delivered: u64, applied: u64, now: Instant) -> Duration {
        if applied != self.applied {
            self.since = None;
        }
        if delivered != self.delivered {
            self.since.get_or_insert(now);
        }
        (self.delivered, self.applied) = (delivered, applied);
        self.since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

/// What to tell after so long.
pub fn sentence(unheard: Duration) -> Option<String> {
    (unheard >= TOLD_AFTER).then(|| {
        "events have been delivered for ten minutes and no status of an order came back: the centre may choose partitions otherwise than \
         downlink.partitioner, or key its statuses otherwise than by gateway.id, or not answer at all"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_first_delivery_after_a_status() {
        let (mut unheard, start) = (Unheard::default(), Instant::now());
        let after = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(unheard.look(0, 0, after(20)), Duration::ZERO, "a quiet house misses nothing");
        unheard.look(1, 0, after(21));
        assert_eq!(sentence(unheard.look(5, 0, after(30))), None);
        assert!(sentence(unheard.look(5, 0, after(31))).is_some());
        assert_eq!(unheard.look(5, 1, after(32)), Duration::ZERO);
        assert_eq!(unheard.look(5, 1, after(50)), Duration::ZERO, "what was delivered before was heard of");
        unheard.look(6, 1, after(51));
        assert!(sentence(unheard.look(6, 1, after(61))).is_some());
    }
}
