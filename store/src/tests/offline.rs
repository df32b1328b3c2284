//! Check, export and import.

use super::memory::{Fault, Memory};
use super::samples;
use super::sled::options;
use crate::layout::{Identity, key};
use crate::{ExportReport, ImportError, ImportReport, OfflineError, OpenError, SledDisk, Store};
use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Epoch, Seq};
use gateway::io::{Change, DeadLetter, Wanted};
use std::sync::Arc;

const OLD: Epoch = Epoch(0xA);
const NEW: Epoch = Epoch(0xB);

fn open(gateway: &str) -> Store<Memory> {
    Store::open(Memory::default(), samples::name(gateway)).unwrap().0
}

fn event(epoch: Epoch, seq: u64) -> Arc<OrderEvent> {
    let clock = if seq.is_multiple_of(2) { Clock::Unset } else { Clock::Synced };
    let user_id = seq.is_multiple_of(3).then(|| "user \"7\"".to_owned());
    let data = r#"{"n":0.10,"notes":"ü \\ \"x\"","orderDetails":[],"total":12345678901234567890.5}"#;
    let id = [seq.to_le_bytes()[0]; 16];
    Arc::new(OrderEvent { epoch, clock, user_id, id, ..samples::event(&format!("order/{seq}"), data) })
}

fn enqueue(epoch: Epoch, seq: u64) -> Change {
    Change::Enqueue(Seq(seq), event(epoch, seq))
}

/// A store that gave the seqs 1 to 9: 1 to 4 are accounted for, 2 as a dead letter, 4 held behind it.
fn exported() -> (Store<Memory>, String) {
    let mut store = open("store-042");
    let mut batch = vec![Change::Epoch(OLD)];
    batch.extend((1..=9).map(|seq| enqueue(OLD, seq)));
    let letter = DeadLetter { event: event(OLD, 2).as_ref().clone(), ..samples::dead_letter("order") };
    batch.extend([Change::DeadLetter(Seq(2), letter), Change::Hold(Seq(4), Seq(2), event(OLD, 4))]);
    batch.push(Change::Forget { from: Seq(1), upto: Seq(4) });
    store.apply(&batch).unwrap();
    let mut out = Vec::new();
    assert_eq!(store.export(&mut out).unwrap(), ExportReport { queued: 5, dead: 1, held: 1 });
    (store, String::from_utf8(out).unwrap())
}

type Events = Vec<(Seq, Arc<OrderEvent>)>;

/// Everything that Kafka has not got, with its identity.
fn contents(store: &mut Store<Memory>) -> (Events, Vec<(DeadLetter, Events)>) {
    let opened = store.reopen().unwrap();
    let queued = store.read_head(opened.progress.next(), usize::MAX, usize::MAX).unwrap();
    let wanted = |seq| Wanted { request: None, order: None, session: None, dead_letter: Some(seq) };
    let dead = opened.dead.iter().map(|(seq, _)| {
        let buried = store.load(&wanted(*seq)).unwrap().dead_letter.unwrap();
        (buried.letter.unwrap(), buried.held)
    });
    let dead = dead.collect();
    (queued, dead)
}

fn import(store: &mut Store<Memory>, lines: &str) -> Result<ImportReport, ImportError> {
    store.import(lines.as_bytes())
}

fn refusal(store: &mut Store<Memory>, lines: &str) -> String {
    let before = store.disk().map.clone();
    let error = import(store, lines).unwrap_err().to_string();
    assert_eq!(store.disk().map, before, "a refused batch leaves nothing behind");
    error
}

#[test]
fn a_line_is_what_the_contract_says() {
    let (_, lines) = exported();
    let queued = lines.lines().find(|line| line.contains(r#""seq":5"#)).unwrap();
    let expected = r#"{"gateway":"store-042","epoch":"000000000000000a","seq":5,"terminal":"till-1","requestId":"01JC-7","event":{"id":"05050505-0505-0505-0505-050505050505","type":"order.created","orderId":"order/5","data":{"n":0.10,"notes":"ü \\ \"x\"","orderDetails":[],"total":12345678901234567890.5},"occurredAt":"2024-01-01T12:00:00.000Z","version":"1.0"}}"#;
    assert_eq!(queued, expected);
    let dead = lines.lines().next().unwrap();
    assert!(dead.ends_with(r#""clock":"unset","dead":{"reason":"MessageSizeTooLarge","sinceMs":1704110400000,"attempts":2}}"#), "{dead}");
    let held = lines.lines().nth(1).unwrap();
    assert!(held.ends_with(r#""clock":"unset","heldBehind":2}"#), "{held}");
}

#[test]
fn a_new_store_gets_everything_with_its_epoch_and_seq() {
    let (mut from, lines) = exported();
    let mut to = open("store-042");
    assert_eq!(import(&mut to, &lines).unwrap(), ImportReport { queued: 5, dead: 1, held: 1, known: 0 });
    assert_eq!(contents(&mut to), contents(&mut from));
    let opened = to.reopen().unwrap();
    assert_eq!(opened.epochs, [OLD], "its own events are recognised when they come back");
    assert!(opened.is_new && opened.to_rebuild() && to.knows(OLD).unwrap());
    to.apply(&[Change::Epoch(NEW), enqueue(NEW, 10)]).unwrap();
    assert_eq!(to.check().unwrap().problems, [""; 0]);
}

#[test]
fn importing_twice_changes_nothing_the_second_time_not_even_after_delivery() {
    let (_, lines) = exported();
    let mut to = open("store-042");
    import(&mut to, &lines).unwrap();
    let before = to.disk().map.clone();
    assert_eq!(import(&mut to, &lines).unwrap(), ImportReport { known: 7, ..ImportReport::default() });
    assert_eq!(to.disk().map, before);
    to.apply(&[Change::Epoch(NEW), Change::Forget { from: Seq(5), upto: Seq(9) }, Change::Release(Seq(2)), Change::Release(Seq(4))])
        .unwrap();
    assert_eq!(import(&mut to, &lines).unwrap(), ImportReport { known: 7, ..ImportReport::default() });
    assert_eq!(contents(&mut to), (vec![], vec![]));
}

#[test]
fn a_store_knows_its_own_events() {
    let (mut store, lines) = exported();
    assert_eq!(import(&mut store, &lines).unwrap(), ImportReport { known: 7, ..ImportReport::default() });
    store.apply(&[Change::Forget { from: Seq(5), upto: Seq(9) }, Change::Epoch(NEW), enqueue(NEW, 10)]).unwrap();
    assert_eq!(import(&mut store, &lines).unwrap(), ImportReport { known: 7, ..ImportReport::default() });
}

#[test]
fn a_store_that_is_older_than_the_export_gets_only_what_is_newer() {
    let (_, lines) = exported();
    // A backup from when seq 6 was the last, and everything up to it has been delivered since.
    let mut backup = open("store-042");
    let mut batch = vec![Change::Epoch(OLD)];
    batch.extend((1..=6).map(|seq| enqueue(OLD, seq)));
    batch.push(Change::Forget { from: Seq(1), upto: Seq(6) });
    backup.apply(&batch).unwrap();
    assert_eq!(import(&mut backup, &lines).unwrap(), ImportReport { queued: 3, known: 4, ..ImportReport::default() });
    assert_eq!(contents(&mut backup).0.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), [7, 8, 9]);
    assert_eq!(import(&mut backup, &lines).unwrap(), ImportReport { known: 7, ..ImportReport::default() });
    backup.apply(&[Change::Epoch(NEW), enqueue(NEW, 10)]).unwrap();
    assert_eq!(import(&mut backup, &lines).unwrap(), ImportReport { known: 7, ..ImportReport::default() });
}

#[test]
fn an_interrupted_import_goes_on_where_it_was() {
    let mut from = open("store-042");
    for first in [1, 301] {
        let batch: Vec<_> = (first..first + 300).map(|seq| enqueue(OLD, seq)).collect();
        from.apply(&batch).unwrap();
    }
    let mut lines = Vec::new();
    from.export(&mut lines).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    let part: String = lines.lines().take(200).map(|line| format!("{line}\n")).collect();
    let mut to = open("store-042");
    assert!(import(&mut to, &(part + "{\"gateway\"")).is_err());
    let taken = to.reopen().unwrap().next_seq.0 - 1;
    assert!(taken > 0 && taken < 200, "{taken}");
    to.disk_mut().fault = Some(Fault::UnclearKept);
    assert!(import(&mut to, &lines).is_err());
    let taken = to.reopen().unwrap().next_seq.0 - 1;
    assert_eq!(import(&mut to, &lines).unwrap(), ImportReport { queued: 600 - taken, known: taken, ..ImportReport::default() });
    assert_eq!(contents(&mut to), contents(&mut from));
    let ranges: Vec<_> = to.disk().map.keys().filter(|key| key[0] == b'M').collect();
    assert_eq!(ranges, [&key::imported(OLD, Seq(1))], "one range for what is contiguous");
}

#[test]
fn what_cannot_keep_its_place_is_refused_with_the_reason() {
    let (_, lines) = exported();
    let mut busy = open("store-042");
    busy.apply(&[Change::Epoch(NEW), enqueue(NEW, 1)]).unwrap();
    assert!(refusal(&mut busy, &lines).contains("this store's outbox is not empty"));

    let queued: String = lines.lines().skip(2).map(|line| format!("{line}\n")).collect();
    assert!(refusal(&mut busy, &queued).contains("the seq 2 should come before 5"));
    let mut ahead = open("store-042");
    let mut batch = vec![Change::Epoch(NEW)];
    batch.extend((1..=6).map(|seq| enqueue(NEW, seq)));
    ahead.apply(&batch).unwrap();
    assert!(refusal(&mut ahead, &queued).contains("this store has given the seq 5 itself; import into a new data folder"));

    let gap: String = queued.lines().filter(|line| !line.contains(r#""seq":7"#)).map(|line| format!("{line}\n")).collect();
    assert!(refusal(&mut open("store-042"), &gap).contains("the seq 7 should come before 8"));
    assert!(refusal(&mut open("store-043"), &queued).contains("line 1: it is gateway store-042's, and the store is store-043's"));
}

#[test]
fn a_drained_store_takes_an_export_with_later_seqs() {
    let (_, lines) = exported();
    let queued: String = lines.lines().skip(2).map(|line| format!("{line}\n")).collect();
    let mut drained = open("store-042");
    drained.apply(&[Change::Epoch(NEW), enqueue(NEW, 1), enqueue(NEW, 2)]).unwrap();
    drained.apply(&[Change::Forget { from: Seq(1), upto: Seq(2) }]).unwrap();
    assert_eq!(import(&mut drained, &queued).unwrap().queued, 5);
    let opened = drained.reopen().unwrap();
    assert_eq!((opened.progress, opened.next_seq), (Seq(4), Seq(10)));
    assert_eq!(opened.queued_bytes, (5..=9).map(|seq| event(OLD, seq).weight() as u64).sum::<u64>());
    assert_eq!(drained.check().unwrap().problems, [""; 0]);
}

#[test]
fn a_broken_line_is_named() {
    let (_, lines) = exported();
    let good = lines.lines().nth(2).unwrap();
    for (bad, reason) in [
        ("{}", "missing field"),
        (&good.replace(r#""seq":5"#, r#""seq":0"#), "seq 0 is none"),
        (&good.replace("order.created", "order.eaten"), r#"event.type "order.eaten" is unknown"#),
        (&good.replace("12:00:00", "25:00:00"), "event.occurredAt"),
        (&good.replace(r#""terminal":"till-1""#, r#""terminal":"till/1""#), "letters"),
        (&good.replace(r#""version""#, r#""surprise":1,"version""#), "unknown field"),
    ] {
        let error = refusal(&mut open("store-042"), &format!("\n{bad}\n"));
        assert!(error.starts_with("line 2: ") && error.contains(reason), "{error}");
    }
}

#[test]
fn a_line_without_an_end_is_not_read_for_ever() {
    let error = refusal(&mut open("store-042"), &"x".repeat(1 << 20));
    assert!(error.starts_with("line 1: it is longer than"), "{error}");
}

#[test]
fn a_healthy_store_has_no_problems() {
    let (store, _) = exported();
    let report = store.check().unwrap();
    assert_eq!((report.next_seq, report.progress, report.queued, report.dead, report.held), (Seq(10), Seq(4), 5, 1, 1));
    assert_eq!(report.problems, [""; 0]);
}

#[test]
fn each_damage_is_found() {
    type Damage = fn(&mut Memory);
    let damages: [(Damage, &str); 8] = [
        (|disk| drop(disk.map.remove(&key::queued(Seq(6)))), "events between 5 and 7 are missing"),
        (|disk| drop(disk.map.remove(&key::queued(Seq(5)))), "events between the progress 4 and 6 are missing"),
        (|disk| drop(disk.map.insert(key::queued(Seq(7)), vec![1; 40])), "the record Q\\x00"),
        (|disk| drop(disk.map.remove(&key::held_by_seq(Seq(4)))), "the held event 4 cannot be found by its seq"),
        (|disk| drop(disk.map.remove(&key::held(Seq(2), Seq(4)))), "event 4 should be held behind 2 and is not"),
        (|disk| drop(disk.map.remove(&key::identity())), "the store's identity is missing"),
        (|disk| drop(disk.map.insert(b"?".to_vec(), vec![])), "the record ? is damaged: no record has such a key"),
        (|disk| drop(disk.map.remove(&key::progress())), "events between the progress 0 and 5 are missing"),
    ];
    for (damage, problem) in damages {
        let (mut store, _) = exported();
        damage(store.disk_mut());
        let report = store.check().unwrap();
        assert!(report.problems.iter().any(|found| found.contains(problem)), "{problem}: {:?}", report.problems);
        assert!(report.problems_count >= report.problems.len() as u64);
    }
}

#[test]
fn a_data_folder_is_checked_exported_and_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    assert!(matches!(crate::check(&old), Err(OfflineError::Open(OpenError::Missing { .. }))));
    assert!(!old.exists());
    let disk = SledDisk::open(options(&old)).unwrap();
    let (mut store, _) = Store::open(disk, samples::name("store-042")).unwrap();
    store.apply(&[Change::Epoch(OLD), enqueue(OLD, 1), enqueue(OLD, 2)]).unwrap();
    assert!(matches!(crate::check(&old), Err(OfflineError::Open(OpenError::InUse { .. }))));
    drop(store);
    let mut lines = Vec::new();
    assert_eq!(crate::export(&old, &mut lines).unwrap().queued, 2);
    for expected in [ImportReport { queued: 2, ..ImportReport::default() }, ImportReport { known: 2, ..ImportReport::default() }] {
        assert_eq!(crate::import(options(&new), lines.as_slice()).unwrap(), expected);
    }
    let report = crate::check(&new).unwrap();
    assert_eq!((report.queued, report.problems_count), (2, 0));
    assert_eq!(report.gateway, Some(samples::name("store-042")));
    assert_eq!(crate::import(options(&new), &b""[..]).unwrap(), ImportReport::default());
}

#[test]
fn another_gateways_empty_store_is_not_taken_over_by_an_import() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(SledDisk::open(options(dir.path())).unwrap(), samples::name("store-043")).unwrap());
    let (_, lines) = exported();
    assert!(crate::import(options(dir.path()), lines.as_bytes()).is_err());
    assert_eq!(crate::check(dir.path()).unwrap().gateway, Some(samples::name("store-043")));
}

#[test]
fn a_store_whose_first_start_was_cut_off_has_no_owner_and_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    drop(SledDisk::open(options(dir.path())).unwrap());
    let report = crate::check(dir.path()).unwrap();
    assert_eq!((report.gateway, report.problems), (None, vec![]));
    // With anything in it, it is a store that lost its owner.
    use crate::disk::{Disk, Op, Space};
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    let (key, value) = (key::progress(), crate::layout::value::encode_seq(Seq(0)));
    disk.commit(&[Op { key, value: Some(value) }], Space::Reserve).unwrap();
    drop(disk);
    assert_eq!(crate::check(dir.path()).unwrap().problems, ["the store's identity is missing"]);
}

#[test]
fn a_newer_store_is_neither_opened_nor_checked_nor_exported() {
    use crate::disk::{Disk, Op, Read, Space};
    let dir = tempfile::tempdir().unwrap();
    let mut disk = SledDisk::open(options(dir.path())).unwrap();
    let identity = Identity { format: 2, gateway: samples::name("store-042") };
    disk.commit(&[Op { key: key::identity(), value: Some(identity.encode()) }], Space::Reserve).unwrap();
    disk.commit(&[Op { key: key::probe(), value: Some(vec![2, 9]) }], Space::Reserve).unwrap();
    drop(disk);
    assert!(matches!(SledDisk::open(options(dir.path())), Err(OpenError::Newer { found: 2, known: 1 })));
    let disk = SledDisk::open_as_it_is(dir.path()).unwrap();
    assert_eq!(disk.get(&key::probe()).unwrap(), Some(vec![2, 9]), "not even the probe was written");
    drop(disk);
    assert!(matches!(crate::check(dir.path()), Err(OfflineError::Open(OpenError::Newer { found: 2, .. }))));
    assert!(matches!(crate::export(dir.path(), Vec::new()), Err(OfflineError::Open(OpenError::Newer { .. }))));
}
