//! When a gateway may dial its brokers while the line is down. Pure: time and chance are given.
//!
//! In a short outage the clients dial by themselves, about once a second, so that the house is back at once. An outage that lasts has most
//! often taken many gateways with it, and they all see its end in the same moment: so each drops its clients and dials once in
//! [`SPREAD_MS`], at its own time within it, whenever the brokers come back. It never waits for longer than that, and 10,000 gateways
//! that come back make about 42 a second.

/// An outage younger than this is short.
pub const SHORT_MS: u64 = 120_000;
/// Afterwards a gateway dials once within this time.
pub const SPREAD_MS: u64 = 240_000;
/// Linux repeats the first packet of a connection after 1 s. Where packets vanish, that would be a second dial: so an attempt waits for
/// the answer to the first packet a little less than that …
const PATIENCE_MS: u64 = 950;
/// … but for one in so many, …
const PATIENT_ONE_IN: u64 = 8;
/// … which lasts up to the second repeat, for lines that are slower than any should be.
const MORE_PATIENCE_MS: u64 = 2_900;

/// May a client dial?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// As it likes.
    Freely,
    /// Once, at this time or as soon after it as can be; [`Outage::tried`] tells that it was done.
    Once {
        /// In the milliseconds that the outage was begun with.
        at: u64,
    },
}

/// An outage that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    since: u64,
    /// When the next attempt is due, once it is no short outage any more.
    next: u64,
    /// Attempts are due at this time and whole multiples of [`SPREAD_MS`] after it.
    first: u64,
}

impl Outage {
    /// The line was lost just now. `chance` is any number, drawn evenly.
    pub fn begin(now: u64, chance: u64) -> Outage {
        let first = now + SHORT_MS + chance % SPREAD_MS;
        Outage { since: now, next: first, first }
    }

    /// Since when.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// What may be done now.
    pub fn dial(&self, now: u64) -> Dial {
        if now < self.since + SHORT_MS { Dial::Freely } else { Dial::Once { at: self.next } }
    }

    /// An attempt begins: if it fails, the next is due one [`SPREAD_MS`] after this one was. Gives for how many milliseconds a broker's
    /// answer to the first packet is to be waited for. `chance` is any number, drawn evenly.
    pub fn tried(&mut self, now: u64, chance: u64) -> u64 {
        let gone = now.saturating_sub(self.first) / SPREAD_MS;
        self.next = if now < self.first { self.first } else { self.first + (gone + 1) * SPREAD_MS };
        if chance.is_multiple_of(PATIENT_ONE_IN) { MORE_PATIENCE_MS } else { PATIENCE_MS }
    }

    /// A person wants an attempt at once.
    pub fn hurry(&mut self, now: u64) {
        self.next = self.next.min(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::random::Random;

    const GATEWAYS: usize = 10_000;
    /// The bound.
    const BACK_PER_SECOND_MAX: usize = 80;

    fn random(seed: u64) -> Random {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        Random::new(bytes)
    }

    /// When each gateway is back, in milliseconds. The line of each is lost at `lost(random)`; until `returns` packets vanish; from then
    /// on brokers take an attempt, but for `refused_percent` of them.
    fn come_back(seed: u64, returns: u64, refused_percent: u64, lost: impl Fn(&mut Random) -> u64) -> Vec<u64> {
        let mut random = random(seed);
        let mut back = Vec::with_capacity(GATEWAYS);
        for _ in 0..GATEWAYS {
            let mut now = lost(&mut random);
            let mut outage = Outage::begin(now, random.below(u64::MAX));
            now = now.max(returns.saturating_sub(3 * SPREAD_MS)).max(now + SHORT_MS);
            loop {
                let Dial::Once { at } = outage.dial(now) else { panic!("it is not short any more") };
                now = now.max(at);
                // Linux sends the first packet again after one second, and after three.
                let repeats = [0, 1_000, 3_000];
                let patience = outage.tried(now, random.below(u64::MAX));
                let arrives = repeats.iter().filter(|after| **after < patience).map(|after| now + after).find(|at| *at >= returns);
                if let Some(at) = arrives
                    && random.below(100) >= refused_percent
                {
                    back.push(at);
                    break;
                }
            }
        }
        back
    }

    /// The most that come back within any one second.
    fn peak(mut back: Vec<u64>) -> usize {
        back.sort_unstable();
        let mut first = 0;
        let count = |(last, at): (usize, &u64)| {
            while back[first] + 1000 <= *at {
                first += 1;
            }
            last + 1 - first
        };
        back.iter().enumerate().map(count).max().unwrap_or(0)
    }

    #[test]
    fn ten_thousand_gateways_come_back_at_no_more_than_eighty_a_second() {
        let hour = 3_600_000;
        let mut worst = 0;
        for seed in 0..40 {
            let returns = SHORT_MS + 1 + seed * 17_389;
            // They lost the same broker in the same moment; or within ten minutes; or over a day.
            worst = worst.max(peak(come_back(seed, returns, 0, |_| 0)));
            worst = worst.max(peak(come_back(seed, 600_000 + returns, 0, |random| random.below(600_000))));
            worst = worst.max(peak(come_back(seed, 25 * hour, 0, |random| random.below(24 * hour))));
            // The broker refuses a third of what comes.
            worst = worst.max(peak(come_back(seed, returns, 33, |_| 0)));
        }
        println!("at most {worst} of {GATEWAYS} within a second");
        assert!((42..=BACK_PER_SECOND_MAX).contains(&worst), "{worst}");
    }

    #[test]
    fn after_a_long_outage_nobody_waits_for_longer_than_the_spread() {
        for seed in 0..10 {
            let returns = SHORT_MS + seed * 31_013;
            let back = come_back(seed, returns, 0, |_| 0);
            let waited = back.iter().map(|at| at - returns).max().unwrap();
            assert!((SPREAD_MS * 9 / 10..SPREAD_MS).contains(&waited), "{waited}");
        }
    }

    #[test]
    fn in_a_short_outage_clients_dial_as_they_like() {
        let outage = Outage::begin(1_000, 5);
        assert_eq!(outage.dial(1_000), Dial::Freely);
        assert_eq!(outage.dial(1_000 + SHORT_MS - 1), Dial::Freely);
        assert_eq!(outage.dial(1_000 + SHORT_MS), Dial::Once { at: 1_000 + SHORT_MS + 5 });
    }

    #[test]
    fn an_attempt_that_a_person_wants_is_one_more() {
        let mut outage = Outage::begin(0, 100_000);
        let regular = SHORT_MS + 100_000;
        outage.hurry(SHORT_MS + 7);
        assert_eq!(outage.dial(SHORT_MS + 7), Dial::Once { at: SHORT_MS + 7 });
        outage.tried(SHORT_MS + 7, 1);
        assert_eq!(outage.dial(SHORT_MS + 8), Dial::Once { at: regular });
        outage.tried(regular + 3, 1);
        assert_eq!(outage.dial(regular + 4), Dial::Once { at: regular + SPREAD_MS });
    }

    #[test]
    fn attempts_that_were_missed_are_not_made_up_for() {
        let mut outage = Outage::begin(0, 0);
        outage.tried(SHORT_MS + 5 * SPREAD_MS + 1, 1);
        assert_eq!(outage.dial(SHORT_MS + 5 * SPREAD_MS + 2), Dial::Once { at: SHORT_MS + 6 * SPREAD_MS });
    }
}
