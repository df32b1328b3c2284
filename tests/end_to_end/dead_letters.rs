//! Dead letters: kept, listed, retried and given up by the commands that an operator has.

use crate::house::{House, dumbwaiter, order, wait_for};
use crate::kafka::{Kafka, Seen};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn ask(house: &House, arguments: &[&str]) -> Value {
    let url = format!("http://{}", house.http);
    let output = dumbwaiter(&[&["dead-letters"], arguments, &["--json", "--url", &url]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// The only dead letter, once so many events wait behind it.
fn letter(house: &House, held: u64) -> Value {
    wait_for("a dead letter", || {
        let letters = ask(house, &["list"]);
        letters.as_array().filter(|letters| letters.len() == 1 && letters[0]["held"] == held).map(|letters| letters[0].clone())
    })
}

/// Decides once that is possible: the dead letter topic has to have what is kept. Gives how many events were appended.
fn decide(house: &House, decision: &str, seq: &str) -> u64 {
    let body = json!({"decision": decision});
    let decided = wait_for("a decision", || {
        let answer = house.post(&format!("/api/v1/dead-letters/{seq}"), "", &body);
        assert!(matches!(answer.status, 200 | 503), "{}", answer.body);
        (answer.status == 200).then(|| answer.json())
    });
    decided["appended"].as_u64().expect("a count")
}

/// Stores an order that Kafka refuses, sent with others and alone, and two events behind it; gives the dead letter, once so many wait.
fn refused(house: &House, kafka: &Kafka, id: &str, held: u64) -> Value {
    kafka.refuse();
    assert_eq!(house.post("/api/v1/orders", &format!("{id}-1"), &order(id)).status, 201);
    letter(house, 0);
    kafka.take();
    for (n, status) in [(2, "PREPARING"), (3, "READY")] {
        let event = json!({"type": "order.state_changed", "data": {"status": status}});
        assert_eq!(house.post(&format!("/api/v1/orders/{id}/events"), &format!("{id}-{n}"), &event).status, 201);
    }
    letter(house, held)
}

fn seqs(seen: &[Seen]) -> BTreeSet<u64> {
    seen.iter().map(Seen::seq).collect()
}

fn requests<'a>(seen: &'a [Seen], order: &str) -> Vec<&'a str> {
    seen.iter().filter(|event| event.key == order).map(|event| event.header("request-id")).collect()
}

#[test]
fn a_dead_letter_holds_its_order_alone_until_somebody_decides() {
    let kafka = Kafka::start();
    let mut house = House::new(&kafka.section());
    house.start();

    let dead = refused(&house, &kafka, "o-1", 2);
    assert!(dead["reason"].as_str().is_some_and(|reason| reason.starts_with("MessageSizeTooLarge")), "{dead}");
    assert_eq!((&dead["orderId"], &dead["event"]["orderId"]), (&json!("o-1"), &json!("o-1")));
    assert_eq!(house.post("/api/v1/orders", "o-2-1", &order("o-2")).status, 201);
    let seen = kafka.read_until(|seen| !requests(seen, "o-2").is_empty());
    assert!(requests(&seen, "o-1").is_empty(), "{seen:?}");

    // What is kept survives a crash, and so does the decision.
    house.kill();
    house.start();
    let seq = letter(&house, 2)["seq"].to_string();
    assert_eq!(decide(&house, "retry", &seq), 3);
    house.kill();
    house.start();
    assert_eq!(ask(&house, &["list"]), json!([]));
    let seen = kafka.read_until(|seen| requests(seen, "o-1").len() >= 3);
    let mut order = requests(&seen, "o-1");
    order.dedup();
    assert!(order.starts_with(&["o-1-1", "o-1-2", "o-1-3"]), "{order:?}");
    let retried = seen.iter().find(|event| event.key == "o-1").expect("it was just counted");
    assert_eq!(retried.value["id"], dead["eventId"], "a retried event keeps its id");
    assert!(retried.seq() > dead["seq"].as_u64().expect("a seq"), "and has a new seq");

    let seq = refused(&house, &kafka, "o-3", 2)["seq"].to_string();
    assert_eq!(decide(&house, "discard", &seq), 2);
    let seen = kafka.read_until(|seen| requests(seen, "o-3").len() >= 2);
    assert_eq!(requests(&seen, "o-3")[..2], ["o-3-2", "o-3-3"]);
    house.stop();

    // Whoever reads both topics can account for every seq, whatever was decided, by the headers of each.
    let dead = kafka.read_dead_until(|dead| seqs(dead).len() >= 6);
    let accounted = |seen: &[Seen]| seqs(seen).union(&seqs(&dead)).copied().eq(1..=12);
    kafka.read_until(accounted);
    // A kill may come before it is written down that a batch was told: it is told again then.
    let mut known = BTreeSet::new();
    let dead: Vec<_> = dead.iter().filter(|event| known.insert(event.seq())).collect();
    let told: Vec<_> = dead.iter().map(|event| (event.header("request-id"), event.header("dead-letter-state"))).collect();
    let expected = [("o-1-1", "dead"), ("o-1-2", "held"), ("o-1-3", "held"), ("o-3-1", "dead"), ("o-3-2", "held"), ("o-3-3", "held")];
    assert_eq!(told, expected);
    assert!(dead[0].header("dead-letter-reason").starts_with("MessageSizeTooLarge"), "{dead:?}");
    assert_eq!((dead[0].header("dead-letter-topic"), dead[0].header("dead-letter-key")), ("order-events", "o-1"));
    assert_eq!(dead[1].header("dead-letter-behind"), dead[0].header("gateway-seq"));
}

#[test]
fn later_events_pass_a_dead_letter_where_the_config_lets_them() {
    let kafka = Kafka::start();
    let mut house = House::new(&format!("{}\n[uplink]\ndead_letters = \"pass\"\n", kafka.section()));
    house.start();

    let dead = refused(&house, &kafka, "o-1", 0);
    let seen = kafka.read_until(|seen| requests(seen, "o-1").len() >= 2);
    assert_eq!(requests(&seen, "o-1")[..2], ["o-1-2", "o-1-3"]);

    // It is kept all the same, over a crash, and what a person sends again comes last.
    house.kill();
    house.start();
    let seq = letter(&house, 0)["seq"].to_string();
    assert_eq!(seq, dead["seq"].to_string());
    assert_eq!(decide(&house, "retry", &seq), 1);
    let seen = kafka.read_until(|seen| requests(seen, "o-1").contains(&"o-1-1"));
    let mut known = BTreeSet::new();
    let mut order = requests(&seen, "o-1");
    order.retain(|request| known.insert(*request));
    assert_eq!(order, ["o-1-2", "o-1-3", "o-1-1"]);
    house.stop();
}
