//! A disk that is really full: a small file system of its own.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests")]

use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Epoch, RequestKey, Seq};
use gateway::io::{Change, CommitFailure};
use gateway::request::EventType;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use store::{Room, SledDisk, SledOptions, Store};

const MIB: u64 = 1 << 20;

/// The floor is lower than the product's, so that the disk may be small. How far the database's file grows while it drains differs from run to
/// run, beyond 4 MiB now and then: reserve and ballast are the product's.
fn room() -> Room {
    Room { floor_bytes: 18 * MIB, ..Room::default() }
}

/// A file system in memory, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size_mib: u64) -> Small {
        let size = format!("size={size_mib}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status().unwrap();
        assert!(status.success(), "mounting needs root");
        Small(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn open(dir: &Path) -> (Store<SledDisk>, gateway::io::Opened) {
    let disk = SledDisk::open(SledOptions { room: room(), allow_volatile: true, ..SledOptions::new(dir) }).unwrap();
    Store::open(disk, "store-042".parse().unwrap()).unwrap()
}

fn enqueue(seq: u64) -> Change {
    let event = OrderEvent {
        epoch: Epoch(7),
        request: RequestKey { terminal: "till-1".parse().unwrap(), request_id: format!("r{seq}").parse().unwrap() },
        id: [1; 16],
        event_type: EventType::Created,
        order_id: format!("order-{seq}").parse().unwrap(),
        user_id: None,
        occurred_at_ms: 0,
        clock: Clock::Unset,
        data: "x".repeat(4_000),
    };
    Change::Enqueue(Seq(seq), Arc::new(event))
}

/// Stores until the disk has no room; gives the next seq.
fn fill(store: &mut Store<SledDisk>, mut next: u64) -> u64 {
    loop {
        let batch: Vec<_> = (next..next + 20).map(enqueue).collect();
        match store.apply(&batch) {
            Ok(()) => next += 20,
            Err(e) => {
                assert_eq!(e.failure(), CommitFailure::NoSpace, "sled itself never meets a full disk: {e}");
                return next;
            }
        }
    }
}

fn drain(store: &mut Store<SledDisk>, opened: &gateway::io::Opened) {
    let mut from = opened.progress.0 + 1;
    while from < opened.next_seq.0 {
        let upto = (from + 399).min(opened.next_seq.0 - 1);
        store.apply(&[Change::Forget { from: Seq(from), upto: Seq(upto) }]).unwrap();
        from = upto + 1;
    }
}

#[test]
#[ignore = "mounts a file system, which needs root: cargo test -p dumbwaiter-store -- --ignored"]
fn a_full_disk_refuses_orders_opens_drains_and_takes_orders_again() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::mount(dir.path(), 102);
    let (mut store, _) = open(dir.path());
    let next = fill(&mut store, 1);
    assert!(next > 1_000, "{next}");
    let opened = store.reopen().unwrap();
    assert_eq!(opened.next_seq, Seq(next), "what was refused is not there, what was stored is");
    drop(store);

    // Somebody else fills what was left, to the last byte.
    let others = dir.path().join("others");
    fs::write(&others, vec![0; 64 << 20]).unwrap_err();
    let (mut store, opened) = open(dir.path());
    assert_eq!(opened.next_seq, Seq(next));
    assert!(!dir.path().join("ballast").exists(), "it was given up so that the store could open");
    assert_eq!(store.apply(&[enqueue(next)]).unwrap_err().failure(), CommitFailure::NoSpace);
    drain(&mut store, &opened);
    let opened = store.reopen().unwrap();
    assert_eq!((opened.progress, opened.queued_bytes), (Seq(next - 1), 0));

    fs::remove_file(&others).unwrap();
    let next = fill(&mut store, next);
    assert!(next > opened.next_seq.0 + 500, "the room of what was delivered is used again: {next}");
    drop(store);
    drop(small);
}
