//! Kills, outages and restarts: what a terminal heard *stored* for is in Kafka, once.

use crate::house::{House, http, order, wait_for};
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
