//! A config that changes while the daemon runs.

use crate::house::{House, PATIENCE, free_address, order, wait_for};
use crate::kafka::{Kafka, Seen};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// What the house says that a person should see to, once it is about this.
fn attention(house: &House, about: &str) -> String {
    wait_for(about, || {
        let health = house.get("/health").json();
        let sentences = health["attention"].as_array().expect("it is told to this computer").clone();
        sentences.iter().filter_map(Value::as_str).find(|sentence| sentence.contains(about)).map(str::to_owned)
    })
}

fn reloads(house: &House, outcome: &str) -> u64 {
    let text = house.get("/metrics").body;
    let line = text.lines().find(|line| line.contains("config_reloads_total") && line.contains(outcome));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no count of {outcome}: {text}"))
}

fn orders(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|event| event.key.as_str()).collect()
}

/// A terminal that keeps its connection.
struct Terminal(BufReader<TcpStream>);

impl Terminal {
    fn new(house: &House) -> Terminal {
        let stream = TcpStream::connect(house.http).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        Terminal(BufReader::new(stream))
    }

    fn order(&mut self, id: &str) -> u16 {
        let body = order(id).to_string();
        let head = format!(
            "POST /api/v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: {id}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all((head + &body).as_bytes()).expect("the connection is still there");
        let mut line = || {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("an answer");
            line.trim_end().to_owned()
        };
        let status = line().split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let mut length = 0;
        loop {
            let header = line().to_ascii_lowercase();
            match header.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().expect("a length"),
                Some(_) => {}
                None => break,
            }
        }
        self.0.read_exact(&mut vec![0; length]).expect("the body");
        status
    }
}

#[test]
fn a_reload_takes_over_what_it_can_and_says_what_needs_a_restart() {
    let (before, after) = (Kafka::start(), Kafka::start());
    let mut house = House::new(&before.section());
    house.start();
    let mut terminal = Terminal::new(&house);
    assert_eq!(terminal.order("o-1"), 201);
    before.read_until(|seen| orders(seen) == ["o-1"]);

    house.configure(&format!("hosts = [\"board.local\"]\n{}topic = \"other\"\n[orders]\nstrict = true\n", after.section()));
    house.reload();
    let sentence = attention(&house, "restart");
    assert!(sentence.contains("http.hosts, kafka.topic;"), "{sentence}");
    assert_eq!((reloads(&house, "applied"), reloads(&house, "refused")), (1, 0));
    assert_eq!(terminal.order("o-2"), 201);
    after.read_until(|seen| orders(seen) == ["o-2"]);
    let event = json!({"type": "order.cancelled", "data": {"reason": "none"}});
    assert_eq!(house.post("/api/v1/orders/o-9/events", "e-1", &event).status, 404, "orders.strict counts from now on");

    // What was in the config at the start is what the next reload compares with.
    house.configure(&format!("{}[orders]\nstrict = true\n", after.section()));
    house.reload();
    wait_for("nothing to see to", || (house.get("/health").json()["attention"] == json!([])).then_some(()));
    house.stop();
}

#[test]
fn what_cannot_be_taken_over_changes_nothing() {
    let kafka = Kafka::start();
    let mut house = House::new(&kafka.section());
    house.start();
    let mut terminal = Terminal::new(&house);

    house.configure(&format!("{}sasl = \"none\"\n[orders]\nstrict = true\n", kafka.section()));
    house.reload();
    let sentence = attention(&house, "could not be reloaded");
    assert!(sentence.contains("kafka.sasl") && sentence.contains("dumbwaiter.toml:"), "{sentence}");
    assert_eq!(terminal.order("o-1"), 201);

    house.configure(&format!("[kafka]\nbrokers = \"{}\"\n[orders]\nstrict = true\n", free_address()));
    house.reload();
    let sentence = attention(&house, "the brokers cannot be used");
    assert!(sentence.contains("Connection refused"), "{sentence}");
    assert_eq!(reloads(&house, "refused"), 2);
    // By a connection of its own: an idle one does not last as long as the brokers were waited for.
    assert_eq!(Terminal::new(&house).order("o-2"), 201);
    let event = json!({"type": "order.cancelled", "data": {"reason": "none"}});
    assert_eq!(house.post("/api/v1/orders/o-9/events", "e-1", &event).status, 201, "orders.strict is as it was");
    kafka.read_until(|seen| seen.len() == 3);
    house.stop();
}
