//! The files of a store, as a bad card may give them back: the store is opened, or rescued, or refused; and what comes out of it went in.
//!
//! An input is a list of damages to a good store's files, six bytes each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Once, OnceLock};
use store::{Room, SledOptions};

/// Orders in the good store.
const ORDERS: usize = 40;
/// Damages that are done at most.
const DAMAGES_MAX: usize = 64;

struct Good {
    /// Name and bytes of each file.
    files: Vec<(String, Vec<u8>)>,
    /// Each line of its export.
    lines: BTreeSet<String>,
}

pub fn run(bytes: &[u8]) {
    static QUIET: Once = Once::new();
    QUIET.call_once(quiet);
    let good = good();
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), good, bytes);
    let gateway = "store-042".parse().expect("a name");
    let Ok((opened, _)) = store::open_or_rescue(options(folder.path()), gateway) else { return };
    drop(opened);
    let mut out = vec![];
    if store::export(folder.path(), &mut out).is_ok() {
        let found = lines(&out);
        let foreign: Vec<_> = found.difference(&good.lines).collect();
        assert!(foreign.is_empty(), "nobody put these in: {foreign:?}");
    }
}

fn write(folder: &Path, good: &Good, damages: &[u8]) {
    let store = folder.join("store");
    fs::create_dir_all(store.join("blobs")).expect("a temporary folder");
    let mut files = good.files.clone();
    for damage in damages.chunks_exact(6).take(DAMAGES_MAX) {
        let [file, what, a, b, c, value] = *damage else { continue };
        let count = files.len();
        let bytes = &mut files[usize::from(file) % count].1;
        let len = bytes.len().max(1);
        let at = (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)) % len;
        match what % 4 {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value),
            1 => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
            2 => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte ^= value),
            _ => bytes.truncate(at),
        }
    }
    for (name, bytes) in &files {
        fs::write(store.join(name), bytes).expect("a temporary file is written");
    }
}

fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let event = |n: usize| {
            let data = serde_json::json!({"note": "x".repeat(n * 20)});
            serde_json::json!({
                "gateway": "store-042", "epoch": "00000000000000aa", "seq": n, "terminal": "till-1", "requestId": format!("r-{n}"),
                "event": {
                    "id": format!("01920e5c-7a00-7000-8000-{n:012x}"), "type": "order.created", "orderId": format!("order-{n}"),
                    "occurredAt": "2024-01-01T12:00:00.000Z", "version": "1.0", "data": data,
                },
            })
        };
        let text: Vec<_> = (1..=ORDERS).map(|n| event(n).to_string() + "\n").collect();
        store::import(options(folder.path()), text.concat().as_bytes()).expect("a good export is imported");
        let mut out = vec![];
        store::export(folder.path(), &mut out).expect("a good store is exported");
        let listed = fs::read_dir(folder.path().join("store")).expect("the store's folder").map(|entry| entry.expect("an entry"));
        let mut files: Vec<_> = listed
            .filter(|entry| entry.path().is_file())
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file of the store")))
            .collect();
        files.sort();
        let lines = lines(&out);
        assert_eq!(lines.len(), ORDERS);
        Good { files, lines }
    })
}

fn lines(export: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(export).lines().map(str::to_owned).collect()
}

fn options(folder: &Path) -> SledOptions {
    let room = Room { floor_bytes: 0, reserve_bytes: 0, ballast_bytes: 0 };
    SledOptions { room, allow_volatile: true, ..SledOptions::new(folder) }
}

/// sled panics on damage that it does not expect; the store makes errors of that. Only what nobody catches is of interest here.
fn quiet() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("sled-")) {
            others(info);
        }
    }));
}
