//! The line of a terminal that speaks JSON lines.

use super::port::Port;
use super::requests::{Line, REQUEST_BYTES_MAX, Say, read};
use super::rules::Kind;
use serde_json::Value;
use tokio::sync::mpsc;

const QUEUED_MAX: usize = 64;
/// A line without an end.
const LINE_BYTES_MAX: usize = 4 * REQUEST_BYTES_MAX;

/// Reads and writes lines on that port.
pub fn open(port: Port) -> Line {
    let (submit, heard) = mpsc::channel(QUEUED_MAX);
    let (say, said) = mpsc::channel(QUEUED_MAX);
    tokio::spawn(carry(port, submit, said));
    Line { kind: Kind::Lines, each: &["R1", "L1"], heard, say }
}

/// Until either end is gone.
async fn carry(mut port: Port, submit: mpsc::Sender<super::requests::Submit>, mut said: mpsc::Receiver<Say>) -> Option<()> {
    let mut line = Vec::new();
    // Of a port that this did not make nobody knows when the terminal was started.
    let mut began = port.name.is_none().then_some(true);
    let mut is_away = false;
    loop {
        tokio::select! {
            bytes = port.heard.recv() => for byte in bytes? {
                let began = *began.get_or_insert(byte == b'\n');
                if byte != b'\n' {
                    line.push(byte);
                    line.truncate(LINE_BYTES_MAX);
                    continue;
                }
                let whole = std::mem::take(&mut line);
                let text = whole.strip_suffix(b"\r").unwrap_or(&whole);
                if text.is_empty() {
                    continue;
                }
                if serde_json::from_slice::<Value>(text).is_ok_and(|json| json.get("hello").is_some()) {
                    let welcome = "{\"hello\":{\"terminal\":\"checked\",\"boot\":\"1122334455667788\",\"maxBytes\":16384}}\n";
                    if !is_away {
                        port.say.send(welcome.into()).await.ok()?;
                    }
                    continue;
                }
                let mut heard = read(text, None);
                if !began {
                    heard.faults.push(("L1", "its first byte was no line feed".to_owned()));
                }
                submit.send(heard).await.ok()?;
            },
            say = said.recv() => match say? {
                Say::Text(text) => port.say.send((text + "\n").into_bytes()).await.ok()?,
                Say::Online(is_online) => is_away = !is_online,
            },
        }
    }
}
