//! A config file: read whole, or each mistake told with its place.

use daemon::config::{Config, Environment};
use std::cell::OnceCell;
use std::fs;
use tempfile::TempDir;

/// The daemon is a binary, and no library that could be asked.
#[allow(dead_code, unused_imports, unreachable_pub, reason = "the daemon uses the rest")]
#[path = "../../../daemon/src"]
mod daemon {
    pub mod config;
}

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

pub fn run(bytes: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
        let path = folder.path().join("dumbwaiter.toml");
        fs::write(&path, bytes).expect("a temporary file is written");
        match Config::load(&path, &Environment::default()) {
            Ok(config) => drop(config.settings()),
            Err(problems) => {
                assert!(!problems.0.is_empty(), "what is wrong is told");
                let told: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
                assert!(told.iter().all(|each| !each.is_empty()), "{told:?}");
            }
        }
    });
}
