//! Fuzz targets: what the gateway does with bytes from outside, for any bytes.
//!
//! A target is a plain function that panics where a promise is broken. Two drive it: `tests/corpora.rs`, with the stable compiler and chance
//! from a seed, in every check of a commit; and libFuzzer, which is led by what the code does with its bytes (`just fuzz TARGET SECONDS`).
//! Both begin at the corpus of the target, `corpora/NAME/`; bytes that once broke something stay there.

#[cfg(feature = "config")]
mod config;
#[cfg(feature = "config")]
#[allow(dead_code, unreachable_pub, reason = "the daemon uses the rest")]
#[path = "../../../daemon/src/display/language.rs"]
mod language;
/// What the daemon's config knows of its pages.
#[cfg(feature = "config")]
mod display {
    pub(crate) use crate::language::Language;
}
mod serial;
mod status;
mod store_files;
mod submit;

use std::path::PathBuf;

/// A target, by the name of its corpus.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also that of its binary for libFuzzer.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub body: fn(&[u8]),
    /// Inputs that are made of the corpus by chance in a check of a commit: fewer where each takes long.
    pub rounds: u64,
}

impl Target {
    /// The folder with the inputs to begin at.
    pub fn corpus(&self) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "corpora", self.name].iter().collect()
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "serial", body: serial::run, rounds: 100_000 },
    Target { name: "submit", body: submit::run, rounds: 100_000 },
    Target { name: "status", body: status::run, rounds: 100_000 },
    #[cfg(feature = "config")]
    Target { name: "config", body: config::run, rounds: 3_000 },
    Target { name: "store", body: store_files::run, rounds: 100 },
];

/// Runs a target by name, for libFuzzer.
///
/// # Panics
/// There is none of that name, or a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target is named {name}"));
    (target.body)(bytes);
}
