use super::rig::{DEADLINE, Ingress, Mood, Rig, Socket, order, until};
use crate::config::Framing;
use gateway::board::{Board, Entry};
use gateway::order::Status;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio_serial::SerialStream;

const ORDER: &str = r#""data":{"orderDetails":[{"price":1}]}"#;

/// A terminal that writes and reads lines.
struct Till(BufReader<SerialStream>);

impl Till {
    async fn say(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).await.unwrap();
    }

    async fn submit(&mut self, id: &str) {
        self.say(&format!("{{\"requestId\":\"{id}\",{ORDER}}}\n")).await;
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        tokio::time::timeout(DEADLINE, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

async fn start(rig: &Rig, socket: &Socket) -> (Ingress, Till) {
    let line = socket.plug();
    let ingress = Ingress::start(rig, vec![socket.config("till-1", Framing::Json)]);
    until(|| ingress.figures.ports_open.load(Ordering::Relaxed) == 1).await;
    (ingress, Till(BufReader::new(line)))
}

#[tokio::test]
async fn a_line_is_a_request_and_a_line_its_answer() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let (ingress, mut till) = start(&rig, &socket).await;
    till.submit("a-1").await;
    let stored = till.hear().await;
    assert_eq!((&stored["requestId"], &stored["result"], &stored["duplicate"]), (&json!("a-1"), &json!("stored"), &json!(false)));
    till.submit("a-1").await;
    assert_eq!(till.hear().await["duplicate"], true);
    assert_eq!(rig.seen().stored.len(), 1);
    assert_eq!(ingress.figures.terminals_online.load(Ordering::Relaxed), 1);
    ingress.stop().await;
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_the_next_line_is_read() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let (ingress, mut till) = start(&rig, &socket).await;
    let too_long = format!("{{\"requestId\":\"long\",\"data\":\"{}\"}}\n", "x".repeat(20_000));
    for (line, code) in [
        ("\u{1}\u{2}garbage\n", "invalid"),
        ("{\"requestId\":\"b\",\"data\":7}\n", "invalid"),
        ("{\"requestId\":\"b\",\"colour\":\"red\"}\n", "invalid"),
        (too_long.as_str(), "too_large"),
        // Half a line of a terminal that was reset, and what it glued itself to.
        ("{\"requestId\":\"half\",\"da{\"requestId\":\"c\"}\n", "invalid"),
    ] {
        till.say(line).await;
        let answer = till.hear().await;
        assert_eq!((&answer["result"], &answer["code"]), (&json!("rejected"), &json!(code)), "{line:?}");
    }
    till.say("\n\r\n").await;
    till.submit("d").await;
    assert_eq!(till.hear().await["requestId"], "d");
    assert_eq!(ingress.figures.garbled.load(Ordering::Relaxed), 2);
    assert_eq!(ingress.figures.oversized.load(Ordering::Relaxed), 1);
    ingress.stop().await;
}

#[tokio::test]
async fn a_flood_is_busy_and_takes_no_more_than_its_share() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let (ingress, mut till) = start(&rig, &socket).await;
    rig.mood.send_replace(Mood::Stuck);
    for n in 0..40 {
        till.submit(&format!("flood-{n}")).await;
    }
    for _ in 0..24 {
        let answer = till.hear().await;
        assert_eq!((&answer["code"], &answer["retryAfterMs"]), (&json!("busy"), &json!(2000)));
    }
    assert_eq!(rig.seen().submissions.len(), 16);
    rig.mood.send_replace(Mood::Prompt);
    for _ in 0..16 {
        assert_eq!(till.hear().await["result"], "stored");
    }
    ingress.stop().await;
}

#[tokio::test]
async fn a_display_is_shown_what_it_asked_for_and_no_other_terminal_is() {
    let (rig, socket) = (Rig::new(), Socket::new());
    rig.change(order("mine", "till-1", 41));
    rig.change(order("other", "till-2", 42));
    let (ingress, mut till) = start(&rig, &socket).await;
    // Before a hello nothing is shown: the next line is the answer to it.
    let entry = Entry { order_id: "mine".parse().unwrap(), number: "41".into(), status: Status::Created };
    rig.board.send_replace(Arc::new(Board { preparing: vec![entry], ready: vec![] }));
    till.say("{\"hello\":{\"display\":true}}\n").await;
    let hello = till.hear().await;
    assert_eq!(hello, json!({"hello": {"terminal": "till-1", "boot": "0000000000000007", "maxBytes": 16384}}));
    let (mut statuses, mut boards) = (vec![], vec![]);
    while statuses.is_empty() || boards.is_empty() {
        let line = till.hear().await;
        if line["status"].is_object() { statuses.push(line) } else { boards.push(line) }
    }
    assert_eq!((&statuses[0]["status"]["orderId"], &statuses[0]["status"]["ticket"]), (&json!("mine"), &json!(41)));
    assert_eq!(boards[0]["board"]["preparing"][0]["number"], "41");
    let mut ready = order("mine", "till-1", 41);
    ready.status = Status::Ready;
    rig.change(ready);
    assert_eq!(till.hear().await["status"]["status"], "READY");
    till.say("{\"hello\":{\"display\":false}}\n").await;
    assert!(till.hear().await["hello"].is_object());
    rig.change(order("mine", "till-1", 41));
    till.submit("after").await;
    assert_eq!(till.hear().await["requestId"], "after", "the display is off");
    ingress.stop().await;
}
