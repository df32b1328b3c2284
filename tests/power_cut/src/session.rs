//! A life of a gateway: it boots, stores, is cut off, and boots again from one of the disks that the cut could leave.

use crate::dice::Dice;
use crate::image::{self, Image, Syncs};
use crate::judge;
use crate::record::{Event, Record};
use crate::recorder::Recording;
use crate::trace;
use crate::tree::Tree;
use crate::writer::{Boot, Stored};
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// Boots of one session.
const BOOTS: u64 = 4;
/// So often a boot finds a store with a spoilt file.
const DAMAGED_PER_MILLE: u64 = 250;
/// The data folder in the folder that is recorded, so that its own name is part of the record.
pub const DATA_DIR: &str = "data";

/// What a session is given.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rig's binary, which writes.
    pub writer: PathBuf,
    /// A folder on a disk, for the images.
    pub folder: PathBuf,
    /// Images to be built.
    pub images: usize,
    /// Which syncs count.
    pub syncs: Syncs,
}

/// What a session came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Images that were opened.
    pub images: usize,
    /// Of these, such in which something was left to luck.
    pub open: usize,
    /// Of these, such with a store that was rescued, whole or in the middle of it.
    pub rescued: usize,
    /// What went wrong, a paragraph each.
    pub failures: Vec<String>,
}

impl Report {
    /// Adds another's counts.
    pub fn add(&mut self, other: Report) {
        self.images += other.images;
        self.open += other.open;
        self.rescued += other.rescued;
        self.failures.extend(other.failures);
    }
}

/// Runs one session of the rig's own writer.
///
/// # Errors
/// The rig itself failed: the writer did not run, or its record is not complete.
pub fn run(seed: u64, settings: &Settings) -> anyhow::Result<Report> {
    let mut dice = Dice::for_part(seed, u64::MAX);
    let mut report = Report::default();
    let (mut boots, mut heard) = (Vec::new(), Vec::new());
    let mut damaged = false;
    let mut disk = Tree::default();
    for number in 0..BOOTS {
        let large_per_mille = dice.pick(&[0, 50, 600]);
        let boot = Boot { seed, number, batches: 10 + dice.below(50), orders_max: dice.pick(&[2, 20, 150]), large_per_mille };
        let record = record(&boot, &disk, settings).with_context(|| format!("seed {seed}, boot {number}"))?;
        boots.push(boot);
        let mut next = None;
        for n in 0..settings.images.div_ceil(usize::try_from(BOOTS)?) {
            let image = image::build(&record, throw_cut(&record, &mut dice), settings.syncs, &mut dice);
            let mut all: Vec<Stored> = heard.clone();
            all.extend(record.heard(image.cut).filter_map(Stored::parse));
            report.images += 1;
            report.open += usize::from(image.unsynced > 0);
            let judged = judge_image(&image, (&boots, &all), damaged, settings, &mut dice);
            report.rescued += usize::from(matches!(judged, Ok(true)));
            if let Err(error) = judged {
                let (cut, events) = (image.cut, record.events.len());
                report.failures.push(format!(
                    "seed {seed}, boot {number}, image {n}, cut before event {cut} of {events}: {error:#}\n  {}\n  next event: {}",
                    image.luck,
                    around(&record, cut)
                ));
            } else if next.is_none() || dice.chance(200) {
                next = Some((image.tree, all));
            }
        }
        let Some(next) = next else { break };
        (disk, heard) = next;
        // Once in a while more than the power fails, so that the rescue is cut off too.
        if dice.chance(DAMAGED_PER_MILLE) {
            damaged |= disk.spoil(Path::new(DATA_DIR).join("store/conf").as_path());
        }
    }
    Ok(report)
}

fn around(record: &Record, cut: usize) -> String {
    match record.events.get(cut) {
        Some(Event::Write { file, offset, bytes }) => format!("write of {} bytes at {offset} of file {file}", bytes.len()),
        Some(event) => format!("{event:?}"),
        None => "none, the process had ended".into(),
    }
}

fn record(boot: &Boot, disk: &Tree, settings: &Settings) -> anyhow::Result<Record> {
    let folder = tempfile::tempdir_in(&settings.folder)?;
    disk.write_to(folder.path())?;
    let command = boot.command(&settings.writer, &folder.path().join(DATA_DIR));
    Recording::start(command, folder.path())?.finish()
}

/// A moment to cut the power at: most often just behind a promise, else anywhere.
pub fn throw_cut(record: &Record, dice: &mut Dice) -> usize {
    let heard: Vec<usize> = (0..record.events.len()).filter(|n| matches!(record.events[*n], Event::Heard(_))).collect();
    if !heard.is_empty() && dice.chance(400) {
        return (dice.pick(&heard) + 1 + dice.index(4)).min(record.events.len());
    }
    dice.index(record.events.len() + 1)
}

fn judge_image(
    image: &Image,
    (boots, heard): (&[Boot], &[Stored]),
    damaged: bool,
    settings: &Settings,
    dice: &mut Dice,
) -> anyhow::Result<bool> {
    let folder = tempfile::tempdir_in(&settings.folder)?;
    image.tree.write_to(folder.path())?;
    let data_dir = folder.path().join(DATA_DIR);
    let _nobody_starts = trace::STARTING.read().unwrap_or_else(PoisonError::into_inner);
    // Whoever opens first also recovers: so each gets its share of the images as the cut left them.
    // A damaged one has to be opened as the daemon does before there is anything to check.
    let judged = if !damaged && dice.chance(500) {
        judge::check(&data_dir, heard).and_then(|()| judge::open(&data_dir, boots, heard, damaged))
    } else {
        judge::open(&data_dir, boots, heard, damaged).and_then(|rescued| judge::check(&data_dir, heard).map(|()| rescued))
    };
    if judged.is_err()
        && let Some(keep) = std::env::var_os("POWER_CUT_KEEP")
    {
        image.tree.write_to(&unused(Path::new(&keep)))?;
    }
    judged
}

/// A folder in `keep` that is not there yet.
fn unused(keep: &Path) -> PathBuf {
    let _ = fs::create_dir_all(keep);
    (0..).map(|n| keep.join(format!("image-{n}"))).find(|path| !path.exists()).unwrap_or_else(|| keep.to_owned())
}
