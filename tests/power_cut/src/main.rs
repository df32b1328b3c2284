//! `power_cut [--images N] [--seed SEED] [--folder FOLDER]`: many images of the store, from a seed on. The images are made in FOLDER, which
//! may be in memory: what a sync covers is computed, never tried. Without it they are made beside the binary.

use anyhow::{Context, bail};
use power_cut::image::Syncs;
use power_cut::session::{self, Report, Settings};
use power_cut::writer::Boot;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Images of one session.
const IMAGES_PER_SESSION: usize = 80;
/// A run that has failed so often stops.
const FAILURES_MAX: usize = 10;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "write") {
        let (data_dir, boot) = Boot::from_arguments(&arguments[1..])?;
        boot.write(&data_dir)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut images, mut seed, mut folder) = (1_000_usize, 0_u64, None);
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--images" => images = value.parse().context("--images")?,
            [name, value] if name == "--seed" => seed = value.parse().context("--seed")?,
            [name, value] if name == "--folder" => folder = Some(PathBuf::from(value)),
            _ => bail!("usage: power_cut [--images N] [--seed SEED] [--folder FOLDER]"),
        }
    }
    let binary = std::env::current_exe()?;
    let folder = folder.as_deref().or(binary.parent()).context("a binary lies in a folder")?;
    let folder = tempfile::tempdir_in(folder)?;
    let settings = Settings { writer: binary, folder: folder.path().to_owned(), images: IMAGES_PER_SESSION, syncs: Syncs::Count };
    let report = run_many(images, seed, &settings)?;
    report.failures.iter().for_each(|failure| println!("{failure}\n"));
    let Report { images, open, rescued, failures } = &report;
    println!("{images} images, {open} with something unsynced, {rescued} of a rescued store; {} failed", failures.len());
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_many(images: usize, seed: u64, settings: &Settings) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let (next, done) = (AtomicU64::new(seed), AtomicUsize::new(0));
    let report = Mutex::new(Report::default());
    let run = || -> anyhow::Result<()> {
        while done.load(Ordering::Relaxed) < images {
            let ran = session::run(next.fetch_add(1, Ordering::Relaxed), settings)?;
            done.fetch_add(ran.images, Ordering::Relaxed);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(ran);
            if report.failures.len() >= FAILURES_MAX {
                break;
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let ended: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a session panicked")))).collect()
    });
    ended.into_iter().collect::<anyhow::Result<()>>()?;
    println!("{} sessions from seed {seed} in {:.1} s", next.into_inner() - seed, begun.elapsed().as_secs_f64());
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}
