//! Runs many seeds: `simulation --seeds 100000 --from 7`.

use simulation::{Breakage, run};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut from, mut breakage) = (10_000_u64, 0_u64, None);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        let number = value.as_deref().and_then(|text| text.parse().ok());
        match (argument.as_str(), number) {
            ("--seeds", Some(number)) => seeds = number,
            ("--from", Some(number)) => from = number,
            ("--breakage", _) => breakage = value.as_deref().and_then(Breakage::from_name),
            _ => {
                eprintln!("usage: simulation [--seeds N] [--from SEED] [--breakage NAME]");
                return ExitCode::from(2);
            }
        }
    }
    let begun = Instant::now();
    let (next, steps, failed) = (AtomicU64::new(from), AtomicU64::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(seeds) {
                        return;
                    }
                    match run(seed, breakage) {
                        Ok(report) => drop(steps.fetch_add(report.steps, Ordering::Relaxed)),
                        Err(failure) => {
                            if !failed.swap(true, Ordering::Relaxed) {
                                println!("{failure}");
                            }
                        }
                    }
                }
            });
        }
    });
    if failed.load(Ordering::Relaxed) {
        return ExitCode::FAILURE;
    }
    let steps = steps.load(Ordering::Relaxed);
    println!("{seeds} seeds from {from}: nothing wrong in {steps} steps, {:.1} s", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
