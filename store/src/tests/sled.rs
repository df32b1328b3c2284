//! The real disk: sled in a temporary folder.

use super::samples;
use crate::disk::{Disk, Op, Read, Space};
use crate::{CommitError, OpenError, ReadError, Room, SledDisk, SledOptions};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// Options for a folder that may be in memory, without a floor that would fail on a developer's full disk.
pub fn options(dir: &Path) -> SledOptions {
    let room = Room { floor_bytes: 0, reserve_bytes: 0, ballast_bytes: 0 };
    SledOptions { room, allow_volatile: true, ..SledOptions::new(dir) }
}

fn put(key: &[u8], value: &[u8]) -> Op {
    Op { key: key.to_vec(), value: Some(value.to_vec()) }
}

#[test]
fn what_was_committed_is_there_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    disk.commit(&[put(b"Qa", b"1"), put(b"Qb", b"2")], Space::Floor).unwrap();
    disk.commit(&[Op { key: b"Qa".to_vec(), value: None }, put(b"Qc", b"3")], Space::Floor).unwrap();
    for _ in 0..3 {
        disk.reopen().unwrap();
        assert_eq!(disk.get(b"Qa").unwrap(), None);
        assert_eq!(disk.get(b"Qb").unwrap(), Some(b"2".to_vec()));
        assert_eq!(disk.last(b"Q", b"R").unwrap(), Some((b"Qc".to_vec(), b"3".to_vec())));
        assert_eq!(disk.range(b"Q", b"R", 1, usize::MAX).unwrap(), [(b"Qb".to_vec(), b"2".to_vec())]);
    }
}

/// As sled left them; there is one.
fn snapshots(dir: &Path) -> Vec<std::path::PathBuf> {
    let listed = fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    listed.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap.")).collect()
}

#[test]
fn a_snapshot_that_the_disk_lost_is_made_anew_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    // So much comes and goes that sled uses its segments again.
    let record = |n: u64| Op { key: [b"Q", &n.to_be_bytes()[..]].concat(), value: Some(vec![n.to_be_bytes()[7]; 4_000]) };
    let (mut kept, written) = (0, 4_000);
    for n in (0..written).step_by(50) {
        let mut ops: Vec<_> = (n..n + 50).map(record).collect();
        if n >= 300 {
            ops.extend((n - 300..n - 250).map(|old| Op { value: None, ..record(old) }));
            kept = n - 250;
        }
        disk.commit(&ops, Space::Floor).unwrap();
        if n % 1_000 == 0 {
            disk.reopen().unwrap();
        }
    }
    assert!(fs::metadata(dir.path().join("store/db")).unwrap().len() < written * 4_000, "segments were used again");
    let whole = |disk: &SledDisk| {
        let found = disk.range(b"Q", b"R", usize::MAX, usize::MAX).unwrap();
        let wanted: Vec<_> = (kept..written)
            .map(|n| {
                let op = record(n);
                (op.key, op.value.unwrap())
            })
            .collect();
        assert!(found == wanted, "{} of {} records", found.len(), wanted.len());
    };
    disk.reopen().unwrap();
    whole(&disk);
    type Loss = fn(&Path);
    let zero_the_end: Loss = |path| {
        let mut bytes = fs::read(path).unwrap();
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        fs::write(path, bytes).unwrap();
    };
    let losses: [Loss; 5] = [
        zero_the_end,
        |path| fs::write(path, []).unwrap(),
        |path| fs::write(path, [0; 12]).unwrap(),
        |path| fs::write(path, fs::read(path).unwrap().split_last().unwrap().1).unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for lose in losses {
        drop(disk);
        let paths = snapshots(dir.path());
        assert_eq!(paths.len(), 1, "{paths:?}");
        lose(&paths[0]);
        disk = SledDisk::open(options(dir.path())).unwrap();
        whole(&disk);
        assert_eq!(snapshots(dir.path()).len(), 1);
    }
}

#[test]
fn every_commit_ends_in_one_disk_sync() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    for n in 0..5u8 {
        let before = disk.syncs();
        disk.commit(&[put(&[b'Q', n], b"x"), put(&[b'R', n], b"x")], Space::Floor).unwrap();
        assert_eq!(disk.syncs(), before + 1);
    }
    assert_eq!(disk.last_cost().bytes, 6);
}

#[test]
fn a_failed_sync_closes_the_disk_for_readers_too_until_it_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&broken);
    let sync_hook: crate::SyncHook =
        Arc::new(move || if hook.load(Ordering::SeqCst) { Err(io::Error::other("as the test asked")) } else { Ok(()) });
    let mut disk = SledDisk::open(SledOptions { sync_hook: Some(sync_hook), ..options(dir.path()) }).unwrap();
    let reader = disk.reader();
    disk.commit(&[put(b"Qa", b"1")], Space::Floor).unwrap();
    broken.store(true, Ordering::SeqCst);
    assert!(matches!(disk.commit(&[put(b"Qb", b"2")], Space::Floor), Err(CommitError::Unclear(_))));
    assert!(matches!(reader.get(b"Qa"), Err(ReadError::Closed)));
    assert!(matches!(disk.commit(&[put(b"Qb", b"2")], Space::Floor), Err(CommitError::Unclear(_))));
    assert!(disk.reopen().is_err(), "a disk whose syncs fail does not open");
    broken.store(false, Ordering::SeqCst);
    disk.reopen().unwrap();
    assert_eq!(reader.get(b"Qa").unwrap(), Some(b"1".to_vec()));
    disk.commit(&[put(b"Qc", b"3")], Space::Floor).unwrap();
}

#[test]
fn a_reader_works_while_a_commit_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let (in_sync, sync_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let slow = Arc::new(AtomicBool::new(false));
    let (hook_slow, may_go_on) = (Arc::clone(&slow), std::sync::Mutex::new(may_go_on));
    let sync_hook: crate::SyncHook = Arc::new(move || {
        if hook_slow.load(Ordering::SeqCst) {
            in_sync.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let mut disk = SledDisk::open(SledOptions { sync_hook: Some(sync_hook), ..options(dir.path()) }).unwrap();
    disk.commit(&[put(b"Qa", b"1")], Space::Floor).unwrap();
    let reader = disk.reader();
    slow.store(true, Ordering::SeqCst);
    let writer = std::thread::spawn(move || disk.commit(&[put(b"Qb", b"2")], Space::Floor));
    sync_begun.recv().unwrap();
    assert_eq!(reader.get(b"Qa").unwrap(), Some(b"1".to_vec()));
    go_on.send(()).unwrap();
    writer.join().unwrap().unwrap();
}

#[test]
fn below_the_floor_nothing_new_is_written_but_the_store_drains() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room { floor_bytes: u64::MAX, reserve_bytes: 0, ballast_bytes: 0 };
    let mut disk = SledDisk::open(SledOptions { room, ..options(dir.path()) }).unwrap();
    assert!(matches!(disk.commit(&[put(b"Qa", b"1")], Space::Floor), Err(CommitError::NoSpace(_))));
    assert_eq!(disk.get(b"Qa").unwrap(), None);
    disk.commit(&[put(b"Qb", b"1")], Space::Reserve).unwrap();
    assert_eq!(disk.get(b"Qb").unwrap(), Some(b"1".to_vec()));
}

#[test]
fn below_the_reserve_sled_is_not_even_opened() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room { floor_bytes: u64::MAX, reserve_bytes: u64::MAX, ballast_bytes: 0 };
    let error = SledDisk::open(SledOptions { room, ..options(dir.path()) }).unwrap_err();
    assert!(matches!(error, OpenError::NoSpace(_)), "{error}");
    assert!(!dir.path().join("store").exists());
}

#[test]
fn a_second_owner_is_refused_and_told_who_the_first_is() {
    let dir = tempfile::tempdir().unwrap();
    let first = SledDisk::open(options(dir.path())).unwrap();
    let error = SledDisk::open(options(dir.path())).unwrap_err();
    assert!(matches!(&error, OpenError::InUse { holder, .. } if *holder == std::process::id().to_string()), "{error}");
    drop(first);
    SledDisk::open(options(dir.path())).unwrap();
}

#[test]
fn a_half_written_snapshot_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    disk.commit(&[put(b"Qa", b"1")], Space::Floor).unwrap();
    drop(disk);
    let half = dir.path().join("store/snap.00000000000FFFFF.generating");
    fs::write(&half, b"half a snap").unwrap();
    let disk = SledDisk::open(options(dir.path())).unwrap();
    assert_eq!(disk.get(b"Qa").unwrap(), Some(b"1".to_vec()));
    assert!(!half.exists());
}

#[test]
fn a_store_whose_making_was_cut_off_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("store.new/blobs")).unwrap();
    fs::write(dir.path().join("store.new/conf"), b"segment_siz").unwrap();
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    disk.commit(&[put(b"Qa", b"1")], Space::Floor).unwrap();
    assert!(!dir.path().join("store.new").exists());
}

#[test]
fn a_damaged_store_is_reported_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(SledDisk::open(options(dir.path())).unwrap());
    let conf = dir.path().join("store/conf");
    let mut bytes = fs::read(&conf).unwrap();
    bytes[14] ^= 1;
    fs::write(&conf, &bytes).unwrap();
    let error = SledDisk::open(options(dir.path())).unwrap_err();
    assert!(matches!(&error, OpenError::Damaged { reason, .. } if reason.contains("checksum")), "{error}");
    assert_eq!(fs::read(&conf).unwrap(), bytes);
}

#[test]
fn a_folder_that_is_a_file_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    fs::write(&file, b"").unwrap();
    let error = SledDisk::open(options(&file)).unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }), "{error}");
}

#[test]
fn a_database_file_that_is_not_the_one_that_is_synced_is_found_out() {
    // A hook that swaps the file during the probe's sync stands for whatever might: from then on sled writes elsewhere than we sync.
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store/db");
    let swap = db.clone();
    let sync_hook: crate::SyncHook = Arc::new(move || {
        fs::rename(&swap, swap.with_extension("old"))?;
        fs::write(&swap, b"")
    });
    let error = SledDisk::open(SledOptions { sync_hook: Some(sync_hook), ..options(dir.path()) }).unwrap_err();
    assert!(matches!(&error, OpenError::NotDurable { reason, .. } if reason.contains("replaced")), "{error}");
}

#[test]
fn a_whole_store_survives_reopenings_on_the_real_disk() {
    use gateway::ids::Seq;
    use gateway::io::Change;
    let dir = tempfile::tempdir().unwrap();
    let disk = SledDisk::open(options(dir.path())).unwrap();
    let (mut store, _) = crate::Store::open(disk, samples::name("store-042")).unwrap();
    for seq in 1..=200 {
        let event = Arc::new(samples::event(&format!("order-{seq}"), &"x".repeat(400)));
        let order = Arc::new(samples::projection(&format!("order-{seq}"), seq % 3 != 0));
        store.apply(&[Change::Enqueue(Seq(seq), event), Change::Project(order), Change::Counters(samples::counters())]).unwrap();
    }
    store.apply(&[Change::Forget { from: Seq(1), upto: Seq(150) }]).unwrap();
    let opened = store.reopen().unwrap();
    assert_eq!((opened.next_seq, opened.progress, opened.open.len()), (Seq(201), Seq(150), 134));
    assert_eq!(store.read_head(Seq(151), 1000, usize::MAX).unwrap().len(), 50);
}
