//! Which events were seen: in a bounded memory, however long the centre runs.

use std::collections::{BTreeMap, HashMap};

/// Starts of gateways that are remembered; beyond it the one that was silent for longest is forgotten.
const EPOCHS_MAX: usize = 50_000;
/// Separate ranges of seqs per start; beyond it the two lowest become one, and what is missing between them counts as seen.
const RANGES_MAX: usize = 1_000;

/// The filter.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    epochs: HashMap<(String, String), Seqs>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Seqs {
    /// First and last seq of each range; neighbours are joined, so that a gateway without gaps takes one range.
    ranges: BTreeMap<u64, u64>,
    used: u64,
}

impl Repeats {
    /// Notes an event; `false` if it was seen before.
    pub(crate) fn first(&mut self, gateway: &str, epoch: &str, seq: u64) -> bool {
        self.clock += 1;
        let key = (gateway.to_owned(), epoch.to_owned());
        if self.epochs.len() >= EPOCHS_MAX && !self.epochs.contains_key(&key) {
            let silent = self.epochs.iter().min_by_key(|(_, seqs)| seqs.used).map(|(key, _)| key.clone());
            silent.map(|key| self.epochs.remove(&key));
        }
        let seqs = self.epochs.entry(key).or_default();
        seqs.used = self.clock;
        seqs.insert(seq)
    }
}

impl Seqs {
    fn insert(&mut self, seq: u64) -> bool {
        let before = self.ranges.range(..=seq).next_back().map(|(from, upto)| (*from, *upto));
        if before.is_some_and(|(_, upto)| seq <= upto) {
            return false;
        }
        let from = match before {
            Some((from, upto)) if upto + 1 == seq => from,
            Some(_) | None => seq,
        };
        let upto = self.ranges.remove(&(seq + 1)).unwrap_or(seq);
        self.ranges.insert(from, upto);
        if self.ranges.len() > RANGES_MAX {
            self.join_lowest();
        }
        true
    }

    fn join_lowest(&mut self) {
        if let (Some((lowest, _)), Some((_, upto))) = (self.ranges.pop_first(), self.ranges.pop_first()) {
            self.ranges.insert(lowest, upto);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_new_once_in_whatever_order_events_come() {
        let mut repeats = Repeats::default();
        for seq in [5, 3, 4, 1, 9, 2, 7, 8, 6] {
            assert!(repeats.first("g", "e", seq), "{seq}");
        }
        assert!((1..=9).all(|seq| !repeats.first("g", "e", seq)));
        assert_eq!(repeats.epochs.values().map(|seqs| seqs.ranges.len()).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn the_same_seq_of_another_start_or_gateway_is_another_event() {
        let mut repeats = Repeats::default();
        assert!(repeats.first("g", "e", 1) && repeats.first("g", "f", 1) && repeats.first("h", "e", 1));
    }

    #[test]
    fn gaps_take_a_bounded_memory() {
        let mut repeats = Repeats::default();
        for seq in (0..10 * RANGES_MAX as u64).step_by(2) {
            assert!(repeats.first("g", "e", seq));
        }
        assert_eq!(repeats.epochs.values().map(|seqs| seqs.ranges.len()).collect::<Vec<_>>(), [RANGES_MAX]);
        let newest_gap = 10 * RANGES_MAX as u64 - 3;
        assert!(repeats.first("g", "e", newest_gap), "the newest gaps are still known");
    }

    #[test]
    fn starts_take_a_bounded_memory() {
        let mut repeats = Repeats::default();
        for gateway in 0..EPOCHS_MAX + 10 {
            repeats.first(&gateway.to_string(), "e", 1);
        }
        assert_eq!(repeats.epochs.len(), EPOCHS_MAX);
        assert!(!repeats.first(&(EPOCHS_MAX + 9).to_string(), "e", 1), "the latest is remembered");
    }
}
