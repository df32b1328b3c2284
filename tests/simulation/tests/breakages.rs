//! The simulator's own test: each mistake that a gateway could make is seen.

use simulation::{Breakage, run};

/// A mistake that is not seen in so many seeds would be missed by the nightly run of an evening.
const SEEDS: u64 = 400;

#[test]
fn every_breakage_is_seen() {
    let mut missed = Vec::new();
    for breakage in Breakage::ALL {
        match (0..SEEDS).find_map(|seed| run(seed, Some(breakage)).err()) {
            Some(failure) => println!("{breakage:?}: seed {} at step {}: {}", failure.seed, failure.step, failure.violation),
            None => missed.push(breakage),
        }
    }
    assert_eq!(missed, [], "not seen in {SEEDS} seeds");
}
