//! The share of power cuts that every commit has to survive; `just power-cuts` runs more.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests")]

use power_cut::dice::Dice;
use power_cut::image::{self, Syncs};
use power_cut::record::{Event, Record};
use power_cut::recorder::Recording;
use power_cut::session::{self, Report, Settings};
use power_cut::tree::{Node, Place, ROOT, Tree};
use std::path::Path;
use std::process::Command;

/// Images of one session: some hundred in all.
const IMAGES: usize = 100;

fn run(seeds: std::ops::Range<u64>, syncs: Syncs) -> Report {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let writer = env!("CARGO_BIN_EXE_power_cut").into();
    let settings = Settings { writer, folder: folder.path().to_owned(), images: IMAGES, syncs };
    let mut report = Report::default();
    seeds.for_each(|seed| report.add(session::run(seed, &settings).unwrap()));
    report
}

fn assert_survived(report: &Report) {
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n\n"));
    assert!(report.images >= IMAGES && report.open > report.images / 2, "{} images, {} with a choice", report.images, report.open);
}

#[test]
fn every_order_that_was_heard_survives_a_cut_at_any_moment() {
    assert_survived(&run(0..2, Syncs::Count));
}

#[test]
fn so_it_does_with_another_seed() {
    assert_survived(&run(2..4, Syncs::Count));
}

/// The rig can fail: without the store's own sync, `sync_file_range` alone keeps nothing.
#[test]
fn without_the_stores_own_sync_orders_that_were_heard_are_lost() {
    let report = run(0..1, Syncs::WithoutData);
    let lost = report.failures.iter().filter(|failure| failure.contains("lost though it was heard")).count();
    assert!(lost > 0, "{} images and nothing lost", report.images);
}

fn shell(script: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(folder);
    command
}

fn record(script: &str) -> anyhow::Result<Record> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    std::fs::write(folder.path().join("old"), "as it was\n")?;
    Recording::start(shell(script, folder.path()), folder.path())?.finish()
}

#[test]
fn a_record_of_a_foreign_process_is_complete() {
    let script =
        "mkdir a; echo one >a/x; echo two >>a/x; mv a/x a/y; : >old; rm old; mv a b; rm b/y; rmdir b; echo 3 >c; sync c; truncate -s 9 c";
    let record = record(script).unwrap();
    let count = |wanted: &dyn Fn(&Event) -> bool| record.events.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(&|event| matches!(event, Event::Create { .. })), 3, "{:?}", record.events);
    assert_eq!(count(&|event| matches!(event, Event::Sync { .. })), 1);
    assert_eq!(count(&|event| matches!(event, Event::Remove { .. })), 3);
}

#[test]
fn what_cannot_be_recorded_breaks_the_record() {
    let error = record("ln old new").unwrap_err();
    assert!(format!("{error:#}").contains("not modelled"), "{error:#}");
    assert!(record("exit 3").is_err());
}

#[test]
fn a_record_with_a_hole_is_not_believed() {
    let mut record = record("echo one >a; echo two >>a").unwrap();
    let mut after = Tree::default();
    after.add(1, Node::File(b"as it was\n".to_vec()));
    after.add(2, Node::File(b"one\ntwo\n".to_vec()));
    for (name, file) in [("old", 1), ("a", 2)] {
        after.name(&Place { folder: ROOT, name: name.into() }, file);
    }
    record.prove(&after).unwrap();
    let write = record.events.iter().rposition(|event| matches!(event, Event::Write { .. })).unwrap();
    record.events.remove(write);
    assert!(record.prove(&after).is_err());
}

/// Which disks a script that ends in these syncs can leave: whether each has the name, and the bytes under it.
fn disks(events: Vec<Event>) -> Vec<(bool, Vec<u8>)> {
    let record = Record { before: Tree::default(), events };
    let mut dice = Dice::new(7);
    let images = (0..400).map(|_| image::build(&record, record.events.len(), Syncs::Count, &mut dice).tree);
    let seen = images.map(|tree| match tree.contents().get(Path::new("a")) {
        Some(Node::File(bytes)) => (true, bytes.clone()),
        Some(Node::Folder(_)) | None => (false, Vec::new()),
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort();
    seen.dedup();
    seen
}

fn made(mut more: Vec<Event>) -> Vec<Event> {
    let at = Place { folder: ROOT, name: "a".into() };
    let mut events = vec![Event::Create { at, file: 1, node: Node::File(vec![]) }];
    events.push(Event::Write { file: 1, offset: 0, bytes: [vec![1; 512], vec![2; 512]].concat() });
    events.append(&mut more);
    events
}

#[test]
fn a_disk_keeps_what_was_synced_and_nothing_else_for_sure() {
    let whole = [vec![1; 512], vec![2; 512]].concat();
    let sync = |file| Event::Sync { file, begun: 2, data_only: false };
    assert_eq!(disks(made(vec![sync(1), sync(ROOT)])), [(true, whole.clone())]);
    assert_eq!(disks(made(vec![sync(1)])), [(false, vec![]), (true, whole.clone())], "the name is its folder's");
    let torn = disks(made(vec![sync(ROOT)]));
    let second_alone = [vec![0; 512], vec![2; 512]].concat();
    for bytes in [vec![], vec![0; 1024], vec![1; 512], second_alone, whole] {
        assert!(torn.contains(&(true, bytes.clone())), "{} bytes", bytes.len());
    }
    let late = vec![Event::Sync { file: 1, begun: 1, data_only: false }, sync(ROOT)];
    assert!(disks(made(late)).contains(&(true, vec![])), "a sync that began before the write does not cover it");
}
