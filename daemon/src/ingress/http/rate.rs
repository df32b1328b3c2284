//! How often a terminal may submit, and an address be wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A token bucket for each key, kept as the one instant at which it will be full again (the generic cell rate algorithm of
/// ITU-T I.371). One whose bucket is full again needs no entry.
#[derive(Debug)]
pub struct Rates<K> {
    /// Time in which one token returns.
    interval: Duration,
    /// How far ahead of now a bucket's instant may lie before a token is taken.
    slack: Duration,
    keys_max: usize,
    full_at: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Rates<K> {
    /// Buckets of `burst` tokens, of which one returns in each `interval`. No burst counts as one.
    pub fn new(interval: Duration, burst: u32, keys_max: usize) -> Rates<K> {
        Rates { interval, slack: interval * (burst.max(1) - 1), keys_max, full_at: BTreeMap::new() }
    }

    /// Keys that are watched now, or were lately.
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The time after which there is one.
    pub fn take(&mut self, key: &K, now: Instant) -> Result<(), Duration> {
        if !self.full_at.contains_key(key) && self.full_at.len() >= self.keys_max {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= self.keys_max {
                return Err(self.interval);
            }
        }
        let full_at = self.full_at.get(key).map_or(now, |at| now.max(*at));
        let ahead = full_at - now;
        if ahead > self.slack {
            return Err(ahead - self.slack);
        }
        self.full_at.insert(key.clone(), full_at + self.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::ids::Name;

    const INTERVAL: Duration = Duration::from_millis(100);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let (mut rates, start) = (Rates::new(INTERVAL, 3, 8), Instant::now());
        let taken = |rates: &mut Rates<Name>, at: u64| rates.take(&name("till-1"), start + Duration::from_millis(at));
        for _ in 0..3 {
            assert_eq!(taken(&mut rates, 0), Ok(()));
        }
        assert_eq!(taken(&mut rates, 0), Err(Duration::from_millis(100)));
        assert_eq!(taken(&mut rates, 100), Ok(()));
        assert_eq!(taken(&mut rates, 150), Err(Duration::from_millis(50)));
        assert_eq!(rates.take(&name("till-2"), start), Ok(()), "another terminal has a bucket of its own");
    }

    #[test]
    fn terminals_beyond_the_bound_wait_until_another_has_paused() {
        let (mut rates, start) = (Rates::new(INTERVAL, 3, 2), Instant::now());
        assert_eq!(rates.take(&name("a"), start), Ok(()));
        assert_eq!(rates.take(&name("b"), start), Ok(()));
        assert_eq!(rates.take(&name("c"), start), Err(Duration::from_millis(100)));
        assert_eq!(rates.take(&name("c"), start + Duration::from_millis(100)), Ok(()));
        assert_eq!(rates.full_at.len(), 1, "full buckets need no entry");
    }
}
