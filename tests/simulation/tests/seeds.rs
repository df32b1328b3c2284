//! Every promise, under every fault, for thousands of seeds.

use simulation::{Counts, run};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of one test run. `cargo run -p simulation -- --seeds N` runs more.
const SEEDS: u64 = 3_000;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs the seeds, or the one that `SIMULATION_SEED` names; gives what they did together.
fn run_all(seeds: std::ops::Range<u64>) -> Counts {
    let one = std::env::var("SIMULATION_SEED").ok().map(|seed| seed.parse().expect("SIMULATION_SEED is a number"));
    let seeds = one.map_or(seeds, |seed: u64| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let workers: Vec<_> = std::thread::scope(|scope| {
        let work = || {
            let mut sum = Counts::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return sum;
                }
                match run(seed, None) {
                    Ok(report) => sum = sum.plus(report.counts),
                    Err(failure) => panic!("{failure}"),
                }
            }
        };
        let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    workers.into_iter().fold(Counts::default(), Counts::plus)
}

#[test]
fn every_seed_keeps_every_promise() {
    let sum = run_all(0..SEEDS);
    if std::env::var("SIMULATION_SEED").is_ok() {
        return;
    }
    // A simulator that meets nothing finds nothing.
    let Counts { stored, duplicates, rejected, commits, statuses, closings, expired, buried, lives, unclear, repeats, released, seen } =
        sum;
    let met = [
        ("stored", stored, 20 * SEEDS),
        ("duplicates", duplicates, SEEDS),
        ("rejected", rejected, SEEDS),
        ("commits", commits, 20 * SEEDS),
        ("statuses", statuses, 2 * SEEDS),
        ("closings", closings, SEEDS),
        ("expired", expired, SEEDS / 2),
        ("buried", buried, SEEDS / 10),
        ("starts", lives, 2 * SEEDS),
        ("unclear commits", unclear, SEEDS / 2),
        ("repeats in Kafka", repeats, SEEDS / 2),
        ("events appended again", released, SEEDS / 10),
        ("alarms seen", seen, SEEDS / 10),
    ];
    for (what, times, least) in met {
        assert!(times >= least, "only {times} {what} in {SEEDS} seeds; there should be {least}");
    }
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in 0..40 {
        let [first, second] = [(), ()].map(|()| run(seed, None).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(first, second, "seed {seed}");
    }
}
