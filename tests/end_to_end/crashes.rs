//! Kills, outages and restarts: what a terminal heard *stored* for is in Kafka, once.

use crate::house::{House, dumbwaiter, http, order, wait_for};
use crate::kafka::{Kafka, assert_once_and_in_order};
use serde_json::json;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[test]
fn a_stored_order_survives_a_kill_and_reaches_kafka_once() {
    let kafka = Kafka::start();
    let mut house = House::new(&kafka.section());
    kafka.cut();
    house.start();
    let first = house.post("/api/v1/orders", "req-1", &order("order-1"));
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(first.json()["ticket"], 1);
    house.kill();
    house.start();
    let again = house.post("/api/v1/orders", "req-1", &order("order-1"));
    assert_eq!((again.status, &again.json()["seq"]), (200, &first.json()["seq"]), "the first answer again");
    assert_eq!(again.json()["duplicate"], true);
    kafka.mend();
    let event =
        house.post("/api/v1/orders/order-1/events", "req-2", &json!({"type": "order.state_changed", "data": {"status": "PREPARING"}}));
    assert_eq!(event.status, 201, "{event:?}");
    let seen = kafka.read_until(|seen| seen.len() >= 2);
    assert_once_and_in_order(&seen);
    assert_eq!(seen[0].value["data"]["ticket"], 1);
    assert_eq!(seen[0].value["data"]["totalPrice"].to_string(), "25.5");
    assert_eq!(seen[0].partition, seen[1].partition);
    house.stop();
}

/// Terminals go on under the same request ids while the gateway is killed and the line is cut.
#[test]
fn kills_and_outages_under_load_lose_and_double_nothing() {
    const KILLS: u32 = 5;
    let kafka = Kafka::start();
    let mut house = House::new(&kafka.section());
    house.start();
    let stored = Arc::new(Mutex::new(HashSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let terminals: Vec<_> = (0..4)
        .map(|terminal| {
            let (stored, stop, address) = (Arc::clone(&stored), Arc::clone(&stop), house.http);
            std::thread::spawn(move || terminal_until(terminal, address, &stored, &stop))
        })
        .collect();
    for kill in 0..KILLS {
        let goal = stored.lock().expect("no terminal panicked").len() + 25;
        wait_for("orders to be stored", || (stored.lock().expect("no terminal panicked").len() >= goal).then_some(()));
        if kill % 2 == 0 {
            kafka.cut();
        } else {
            kafka.mend();
        }
        house.kill();
        house.start();
    }
    stop.store(true, Ordering::Relaxed);
    for terminal in terminals {
        terminal.join().expect("no terminal panicked");
    }
    kafka.mend();
    let stored = stored.lock().expect("no terminal panicked").clone();
    let seen = kafka.read_until(|seen| {
        let keys: HashSet<&str> = seen.iter().map(|event| event.key.as_str()).collect();
        stored.iter().all(|order| keys.contains(order.as_str()))
    });
    assert_once_and_in_order(&seen);
    house.stop();
}

fn terminal_until(terminal: u32, address: std::net::SocketAddr, stored: &Mutex<HashSet<String>>, stop: &AtomicBool) {
    let name = format!("till-{terminal}");
    for number in 0.. {
        let (id, key) = (format!("order-{terminal}-{number}"), format!("r-{terminal}-{number}"));
        let body = order(&id).to_string();
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key.as_str()), ("X-Terminal", name.as_str())];
        wait_for("an answer", || {
            let answer = http(address, "POST", "/api/v1/orders", &headers, body.as_bytes()).ok()?;
            match answer.status {
                200 | 201 => Some(()),
                429 | 503 => None,
                other => panic!("{other}: {}", answer.body),
            }
        });
        stored.lock().expect("no terminal panicked").insert(id);
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn a_clean_stop_leaves_nothing_to_be_sent_twice() {
    let kafka = Kafka::start();
    let mut house = House::new(&kafka.section());
    house.start();
    for n in 0..20 {
        assert_eq!(house.post("/api/v1/orders", &format!("req-{n}"), &order(&format!("order-{n}"))).status, 201);
    }
    kafka.read_until(|seen| seen.len() >= 20);
    house.stop();
    house.start();
    let last = house.post("/api/v1/orders", "req-last", &order("order-last"));
    assert_eq!(last.status, 201);
    let seen = kafka.read_until(|seen| {
        let keys: HashSet<&str> = seen.iter().map(|event| event.key.as_str()).collect();
        keys.len() == 21
    });
    let seqs: Vec<u64> = seen.iter().map(crate::kafka::Seen::seq).collect();
    assert_eq!(seen.len(), 21, "something was sent twice: {seqs:?}");
    assert_once_and_in_order(&seen);
    house.stop();
}

/// A store that never opens again is moved aside and rescued; the house goes on and says so.
#[test]
fn a_damaged_store_is_rescued_and_the_daemon_says_so() {
    let mut house = House::new("");
    house.start();
    let first: Vec<_> = (0..30).map(|n| house.post("/api/v1/orders", &format!("req-{n}"), &order(&format!("order-{n}")))).collect();
    house.kill();
    let conf = house.data_dir().join("store/conf");
    std::fs::write(&conf, vec![0; 60]).expect("the store's own file");
    house.start();
    for (n, first) in first.iter().enumerate() {
        let again = house.post("/api/v1/orders", &format!("req-{n}"), &order(&format!("order-{n}")));
        assert_eq!((again.status, &again.json()["seq"]), (200, &first.json()["seq"]), "it is remembered: {again:?}");
    }
    let next = house.post("/api/v1/orders", "req-next", &order("order-next")).json();
    assert!(next["seq"].as_u64() > first[29].json()["seq"].as_u64(), "no seq is given twice: {next}");
    assert_eq!(house.get("/health").json()["damagedStores"], 1);
    assert!(house.get("/metrics").body.contains("dumbwaiter_damaged_stores 1"));
    let told = house.get("/api/v1/state").json()["damagedStores"][0].to_string();
    assert!(told.contains("store.damaged-1: rescued") && told.contains("30 waiting events"), "{told}");
    house.stop();
    assert!(house.data_dir().join("store.damaged-1/conf").exists(), "it is kept");
    let exported = dumbwaiter(&["store", "export", "--data-dir", house.data_dir().to_str().expect("a plain path")]);
    let lines: Vec<serde_json::Value> =
        exported.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let epochs: HashSet<_> = lines[..30].iter().map(|line| line["epoch"].to_string()).collect();
    assert_eq!((lines.len(), epochs.len()), (31, 1), "the rescued ones keep their epoch");
    assert!(!epochs.contains(&lines[30]["epoch"].to_string()), "nothing new is numbered in an old epoch");
}

/// An image of the card that is started a month later goes on under an epoch of its own: no new order is taken for an old one.
#[test]
fn an_old_image_of_the_card_loses_no_new_order() {
    let mut house = House::new("");
    house.start();
    assert_eq!(house.post("/api/v1/orders", "req-1", &order("order-1")).status, 201);
    house.stop();
    let (data, image) = (house.data_dir(), house.folder.path().join("image"));
    copy_folder(&data, &image);
    house.start();
    let lost = house.post("/api/v1/orders", "req-2", &order("order-2")).json();
    house.stop();
    let names = |house: &House| -> Vec<(String, String, u64)> {
        let exported = dumbwaiter(&["store", "export", "--data-dir", house.data_dir().to_str().expect("a plain path")]);
        let lines = exported.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
        lines.map(|line| (line["requestId"].to_string(), line["epoch"].to_string(), line["seq"].as_u64().unwrap_or(0))).collect()
    };
    let before = names(&house);
    std::fs::remove_dir_all(&data).expect("our own folder");
    copy_folder(&image, &data);
    house.start();
    let new = house.post("/api/v1/orders", "req-3", &order("order-3")).json();
    assert_eq!(new["seq"], lost["seq"], "the image knows nothing of what came after it");
    house.stop();
    let after = names(&house);
    let new = after.iter().find(|(request, ..)| request.contains("req-3")).expect("it was stored");
    assert!(before.iter().all(|(_, epoch, seq)| (epoch, seq) != (&new.1, &new.2)), "{before:?} and {after:?} have one name twice");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// What was lost with a damaged store leaves a gap in the outbox; all that was rescued on both sides of it reaches Kafka, in order.
#[test]
fn a_gap_in_a_rescued_outbox_holds_nothing_up() {
    let kafka = Kafka::start();
    let mut house = House::new(&kafka.section());
    kafka.cut();
    house.start();
    for n in 0..60 {
        assert_eq!(house.post("/api/v1/orders", &format!("req-{n}"), &order(&format!("order-{n:02}"))).status, 201);
    }
    house.kill();
    // Wherever an order in the middle is written, its message is spoilt.
    let db = house.data_dir().join("store/db");
    let mut bytes = std::fs::read(&db).expect("the store's own file");
    let name = b"order-30";
    for at in (0..bytes.len() - name.len()).rev() {
        if bytes[at..].starts_with(name) {
            bytes[at..at + name.len()].fill(0xA5);
        }
    }
    std::fs::write(&db, bytes).expect("the store's own file");
    std::fs::write(house.data_dir().join("store/conf"), b"").expect("the store's own file");
    house.start();
    let told = house.get("/api/v1/state").json()["damagedStores"][0].to_string();
    assert!(told.contains("are missing: seq"), "{told}");
    assert_eq!(house.post("/api/v1/orders", "req-new", &order("order-new")).status, 201);
    house.stop();
    let exported = dumbwaiter(&["store", "export", "--data-dir", house.data_dir().to_str().expect("a plain path")]);
    let lines = exported.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let waiting: Vec<String> = lines.filter_map(|line| Some(line["event"]["orderId"].as_str()?.to_owned())).collect();
    assert!(waiting.len() > 20 && !waiting.contains(&"order-30".to_owned()) && waiting.contains(&"order-new".to_owned()), "{waiting:?}");
    kafka.mend();
    house.start();
    let seen = kafka.read_until(|seen| waiting.iter().all(|order| seen.iter().any(|event| event.key == *order)));
    assert_once_and_in_order(&seen);
    house.stop();
}
