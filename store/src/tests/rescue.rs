//! Damaged stores: moved aside, kept, and rescued as far as they can be read.

use super::samples;
use super::sled::options;
use crate::{CheckReport, OpenError, SledDisk, Store, aside, open_or_rescue};
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, Seq};
use gateway::io::{Change, Wanted};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const OLD: Epoch = Epoch(0xA);
const ORDERS: u64 = 300;
const DELIVERED: u64 = 100;

fn event(seq: u64) -> Arc<OrderEvent> {
    Arc::new(OrderEvent { epoch: OLD, ..samples::event(&format!("order-{seq}"), &format!("{{\"n\":\"{}\"}}", "x".repeat(600))) })
}

/// A store with 300 orders, of which Kafka has 100.
fn filled(dir: &Path) {
    let (mut store, _) = Store::open(SledDisk::open(options(dir)).unwrap(), samples::name("store-042")).unwrap();
    store.apply(&[Change::Epoch(OLD)]).unwrap();
    for seq in 1..=ORDERS {
        let request = samples::request("till-1", &format!("r{seq}"));
        let order = Arc::new(samples::projection(&format!("order-{seq}"), false));
        let counters = Change::Counters(samples::counters());
        store
            .apply(&[
                Change::Enqueue(Seq(seq), event(seq)),
                Change::Remember(request, samples::remembered(seq, 0)),
                Change::Project(order),
                counters,
            ])
            .unwrap();
        if seq == 150 {
            store.reopen().unwrap();
        }
    }
    store.apply(&[Change::Forget { from: Seq(1), upto: Seq(DELIVERED) }]).unwrap();
}

fn check(dir: &Path) -> CheckReport {
    let report = crate::check(dir).unwrap();
    assert_eq!(report.problems, [""; 0]);
    report
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Damages a filled store, opens it as the daemon does, and gives the seqs that wait and are missing.
fn rescued(damage: impl FnOnce(&Path)) -> (Vec<u64>, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let store = dir.path().join("store");
    damage(&store);
    let before = files(&store);
    let (mut store, opened) = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap();
    let moved = aside(dir.path()).unwrap();
    let kept = files(&moved[0].path);
    // sled itself may have tidied up while it tried; nothing of it is missing.
    assert!(moved.len() == 1 && before.iter().all(|(name, _)| name.contains("generating") || kept.iter().any(|(kept, _)| kept == name)));
    assert!(moved[0].account.starts_with("rescued "), "{}", moved[0].account);
    assert_eq!(opened.next_seq, Seq(ORDERS + 1), "no seq is given again");

    let (mut waiting, mut from) = (Vec::new(), opened.progress.next());
    loop {
        let events = store.read_head(from, 7, usize::MAX).unwrap();
        let Some((last, _)) = events.last() else { break };
        from = last.next();
        for (seq, found) in events {
            assert_eq!(found, event(seq.0), "it keeps its epoch");
            waiting.push(seq.0);
        }
    }
    let missing = (opened.progress.0 + 1..=ORDERS).filter(|seq| !waiting.contains(seq)).collect();
    // Life goes on behind the gap, and the gaps are no problem for anybody.
    let new = Epoch(0xB);
    store
        .apply(&[Change::Epoch(new), Change::Enqueue(opened.next_seq, Arc::new(OrderEvent { epoch: new, ..(*event(1)).clone() }))])
        .unwrap();
    let queued_bytes = store.reopen().unwrap().queued_bytes;
    assert_eq!(queued_bytes, waiting.iter().map(|seq| event(*seq).weight() as u64).sum::<u64>() + event(1).weight() as u64);
    assert_eq!(store.read_head(from, 10, usize::MAX).unwrap()[0].0, Seq(ORDERS + 1));
    drop(store);
    check(dir.path());
    let (mut store, _) = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap();
    assert_eq!(aside(dir.path()).unwrap(), moved, "once");
    store.apply(&[Change::Forget { from: Seq(1), upto: Seq(ORDERS + 1) }]).unwrap();
    (waiting, missing)
}

fn db(store: &Path) -> File {
    File::options().read(true).write(true).open(store.join("db")).unwrap()
}

fn all_that_wait() -> (Vec<u64>, Vec<u64>) {
    ((DELIVERED + 1..=ORDERS).collect(), vec![])
}

#[test]
fn a_zeroed_conf_costs_nothing() {
    assert_eq!(rescued(|store| fs::write(store.join("conf"), [0; 60]).unwrap()), all_that_wait());
}

#[test]
fn a_missing_conf_costs_nothing() {
    assert_eq!(rescued(|store| fs::remove_file(store.join("conf")).unwrap()), all_that_wait());
}

#[test]
fn a_broken_or_missing_snapshot_needs_no_rescue() {
    for contents in [Some("no snapshot, but long enough for one"), Some(""), None] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        for (name, _) in files(&dir.path().join("store")).iter().filter(|(name, _)| name.starts_with("snap.")) {
            let path = dir.path().join("store").join(name);
            contents.map_or_else(|| fs::remove_file(&path), |contents| fs::write(&path, contents)).unwrap();
        }
        let (_store, opened) = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap();
        assert_eq!((opened.next_seq, opened.progress), (Seq(ORDERS + 1), Seq(DELIVERED)));
        assert_eq!(aside(dir.path()).unwrap(), []);
    }
}

#[test]
fn a_database_that_is_cut_off_loses_what_was_behind_and_keeps_the_rest() {
    let cut = |store: &Path| {
        let len = db(store).metadata().unwrap().len();
        db(store).set_len(len / 3).unwrap();
        fs::write(store.join("conf"), b"").unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    cut(&dir.path().join("store"));
    let (store, opened) = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap();
    let first = store.read_head(opened.progress.next(), 1, usize::MAX).unwrap();
    assert!(!first.is_empty() && opened.next_seq.0 > 1);
    drop(store);
    check(dir.path());
}

#[test]
fn an_empty_folder_in_place_of_a_store_is_moved_aside_too() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let store = dir.path().join("store");
    fs::remove_dir_all(&store).unwrap();
    fs::create_dir(&store).unwrap();
    let (_, opened) = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap();
    assert_eq!(opened.next_seq, Seq(1));
    assert_eq!(aside(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_garbage_page_is_found_when_it_is_read_and_costs_what_was_in_it() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    // In the middle of what was written last: the newest pages.
    let file = db(&dir.path().join("store"));
    let bytes = fs::read(dir.path().join("store/db")).unwrap();
    let needle = b"order-250";
    let at = bytes.windows(needle.len()).rposition(|window| window == needle).unwrap();
    file.write_all_at(&[0x5A; 64], at as u64).unwrap();

    let (mut store, _) = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap();
    if aside(dir.path()).unwrap().is_empty() {
        // The start did not need the page. Whoever reads it raises suspicion, and the next opening looks everywhere.
        let found = (1..=ORDERS).any(|seq| {
            let wanted = Wanted {
                request: Some(samples::request("till-1", &format!("r{seq}"))),
                order: Some(samples::order_id(&format!("order-{seq}"))),
                session: None,
                dead_letter: None,
            };
            store.load(&wanted).is_err() || store.read_head(Seq(seq), 1, usize::MAX).is_err()
        });
        if !found {
            return;
        }
        let error = store.reopen().unwrap_err();
        assert!(error.is_damage(), "{error}");
        drop(store);
        (store, _) = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap();
    }
    assert_eq!(aside(dir.path()).unwrap().len(), 1);
    assert!(!dir.path().join("store.suspect").exists());
    drop(store);
    let report = check(dir.path());
    assert!(report.requests > ORDERS / 2, "{report:?}");
}

#[test]
fn a_rescue_that_was_cut_off_is_finished_or_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let store = dir.path().join("store");
    // Cut off while the new store was being filled.
    fs::create_dir_all(dir.path().join("store.new/store")).unwrap();
    fs::create_dir_all(dir.path().join("store.rescued")).unwrap();
    fs::write(store.join("conf"), b"").unwrap();
    drop(open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap());
    assert_eq!(check(dir.path()).queued, ORDERS - DELIVERED);
    // Cut off between the two renamings.
    fs::rename(&store, dir.path().join("store.rescued")).unwrap();
    assert_eq!(check(dir.path()).queued, ORDERS - DELIVERED, "whoever looks first finishes it");
    fs::rename(&store, dir.path().join("store.rescued")).unwrap();
    drop(open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap());
    assert_eq!(check(dir.path()).queued, ORDERS - DELIVERED);
}

#[test]
fn records_of_a_newer_release_are_left_to_that_release() {
    use crate::disk::{Disk, Op, Space};
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    disk.commit(&[Op { key: crate::layout::key::counters(), value: Some(vec![2, 7, 7]) }], Space::Reserve).unwrap();
    drop(disk);
    let before = fs::read(dir.path().join("store/conf")).unwrap();
    let error = open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap_err();
    assert!(error.to_string().contains("newer release"), "{error}");
    assert_eq!(aside(dir.path()).unwrap(), []);
    assert_eq!(fs::read(dir.path().join("store/conf")).unwrap(), before, "it stays where it is");
}

#[test]
fn what_is_no_damage_is_never_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let error = open_or_rescue(options(dir.path()), samples::name("store-043")).unwrap_err();
    assert!(matches!(error, OpenError::OtherGateway { .. }), "{error}");
    let held = SledDisk::open(options(dir.path())).unwrap();
    assert!(matches!(open_or_rescue(options(dir.path()), samples::name("store-042")).unwrap_err(), OpenError::InUse { .. }));
    drop(held);
    assert_eq!(aside(dir.path()).unwrap(), []);
}
