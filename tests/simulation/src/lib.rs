//! The whole gateway under a seeded simulator on virtual time.
//!
//! Everything around the core is simulated: terminals, the disk, Kafka and the centre, with every fault of [`Fault`]; the core itself
//! and the store above the disk are the real ones. A reference model sees every input and output and checks the invariants of DESIGN.md
//! after every step. One seed decides everything: the same seed always does the same, and a failing one prints how to run it again.
//!
//! It never reads a clock, starts a thread for the gateway, or touches a file. What lies below the disk's map of bytes (syncs, torn
//! pages, sled's own files) is not simulated.

mod breakage;
mod centre;
mod deed;
mod dice;
mod disk;
mod faults;
mod kafka;
mod model;
mod shell;
mod store_thread;
mod terminals;
mod trace;
mod world;

pub use breakage::Breakage;
pub use disk::{Fate, MemDisk, Platter, Room};
pub use faults::{Fault, Profile};
pub use model::Counts;
pub use world::Report;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// A run in which the gateway did something wrong.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The step that did it: no shorter prefix of the run fails.
    pub step: u64,
    /// What was wrong.
    pub violation: String,
    /// The faults of this run.
    pub faults: Vec<Fault>,
    /// The last inputs and outputs.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.trace)?;
        writeln!(f, "seed {} fails at step {}: {}", self.seed, self.step, self.violation)?;
        writeln!(f, "faults of this run: {:?}", self.faults)?;
        write!(f, "again: SIMULATION_SEED={} cargo test -p simulation", self.seed)
    }
}

/// Runs a seed to its end.
///
/// # Errors
/// What the gateway did wrong, with the trace of its last steps.
pub fn run(seed: u64, breakage: Option<Breakage>) -> Result<Report, Box<Failure>> {
    match attempt(seed, breakage, false).1 {
        Ok(report) => Ok(report),
        // Only a failing run is worth a trace; the same seed does the same again.
        Err(_) => {
            let (world, again) = attempt(seed, breakage, true);
            let violation = again.err().unwrap_or_else(|| "it did not happen again: the run is not deterministic".into());
            let faults = world.profile.faults.iter().copied().collect();
            Err(Box::new(Failure { seed, step: world.steps(), violation, faults, trace: world.trace.text() }))
        }
    }
}

fn attempt(seed: u64, breakage: Option<Breakage>, traced: bool) -> (World, Result<Report, String>) {
    let mut world = World::new(seed, breakage, traced);
    let outcome = match catch_unwind(AssertUnwindSafe(|| world.run(None))) {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(violation)) => Err(violation.0),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("without a message")))
        }
    };
    (world, outcome)
}
