//! JSON lines: one request or answer per line, for lines that check their own bytes.

use super::display::{Display, Shown, Wants};
use super::figures::{Counted, count};
use super::port::{End, Port};
use super::{READ_BYTES, STOP_WITHIN, WRITE_WITHIN};
use crate::handle::Ingress;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use gateway::board::Board;
use gateway::io::Submission;
use gateway::json;
use gateway::request::{Answer, Code, REQUEST_BYTES_MAX, Request, RequestError};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::info;

/// Requests of one port between submission and answer.
pub const IN_FLIGHT_MAX: usize = 16;
/// Lines that wait to be written. Beyond it nothing is read: what was read at once may add [`READ_BYTES`] / 3 refusals.
const OUT_LINES_MAX: usize = 32;
/// Half a line is dropped when nothing follows for so long.
const LINE_WITHIN: Duration = Duration::from_secs(10);
/// A terminal that said something counts as there for so long.
const ONLINE_FOR: Duration = Duration::from_secs(60);
/// When a request that met a full port is welcome again.
const BUSY_RETRY_AFTER_MS: u64 = 2_000;

/// Serves an open port until it is lost or the daemon stops.
pub async fn serve<S>(port: &mut Port, stream: S, stop: &mut watch::Receiver<bool>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut lines = Lines::new(port);
    let end = lines.serve(stream, stop).await;
    lines.miss();
    end
}

struct Lines<'p> {
    port: &'p mut Port,
    partial: Partial,
    heard_at: Instant,
    in_flight: FuturesUnordered<BoxFuture<'static, (Answer, Counted)>>,
    display: Display,
    lines: VecDeque<String>,
    /// What is being written, how much of it is, and since when.
    out: (String, usize, Instant),
    online: Option<Counted>,
    stop_at: Option<Instant>,
}

/// A line, as far as it has come.
#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    too_long: bool,
}

/// A whole line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Text(Vec<u8>),
    TooLong,
}

impl Partial {
    /// Takes bytes in, and gives the lines that they complete.
    fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (part, false),
            };
            // One more for a carriage return.
            self.too_long |= self.bytes.len() + text.len() > REQUEST_BYTES_MAX + 1;
            if !self.too_long {
                self.bytes.extend_from_slice(text);
            }
            if ended {
                lines.extend(self.end());
            }
        }
        lines
    }

    fn end(&mut self) -> Option<Line> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let too_long = std::mem::take(&mut self.too_long);
        bytes.pop_if(|byte| *byte == b'\r');
        if too_long || bytes.len() > REQUEST_BYTES_MAX {
            return Some(Line::TooLong);
        }
        let blank = bytes.iter().all(u8::is_ascii_whitespace);
        (!blank).then_some(Line::Text(bytes))
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.too_long
    }
}

impl<'p> Lines<'p> {
    fn new(port: &'p mut Port) -> Lines<'p> {
        let display = Display::new(port.terminal.clone(), port.handle.clone(), port.figures.clone());
        Lines {
            port,
            partial: Partial::default(),
            heard_at: Instant::now(),
            in_flight: FuturesUnordered::new(),
            display,
            lines: VecDeque::new(),
            out: (String::new(), 0, Instant::now()),
            online: None,
            stop_at: None,
        }
    }

    async fn serve<S>(&mut self, stream: S, stop: &mut watch::Receiver<bool>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut bytes = [0; READ_BYTES];
        loop {
            self.fill_out();
            if self.stop_at.is_some_and(|at| at <= Instant::now() || (self.in_flight.is_empty() && self.is_written())) {
                return End::Stopped;
            }
            let (room, wake) = (self.lines.is_empty() && self.is_written(), self.wake_at());
            tokio::select! {
                read = reader.read(&mut bytes), if self.lines.len() < OUT_LINES_MAX => match read {
                    Ok(0) => return End::Lost("the line was hung up".into()),
                    Ok(len) => self.receive(&bytes[..len]),
                    Err(error) => return End::Lost(error.to_string()),
                },
                written = writer.write(&self.out.0.as_bytes()[self.out.1..]), if !self.is_written() => match written {
                    Ok(0) => return End::Lost("the line takes nothing".into()),
                    Ok(len) => (self.out.1, self.out.2) = (self.out.1 + len, Instant::now()),
                    Err(error) => return End::Lost(error.to_string()),
                },
                Some((answer, _)) = self.in_flight.next(), if !self.in_flight.is_empty() => self.say(&answer),
                () = self.display.gather(room) => {}
                () = sleep_until(wake) => {
                    if !self.is_written() && self.out.2.elapsed() >= WRITE_WITHIN {
                        count(&self.port.figures.stuck);
                        return End::Lost("nothing is taken from the line".into());
                    }
                    self.pass_time();
                }
                _ = stop.wait_for(|stop| *stop), if self.stop_at.is_none() => self.stop_at = Some(Instant::now() + STOP_WITHIN),
            }
        }
    }

    fn is_written(&self) -> bool {
        self.out.1 == self.out.0.len()
    }

    /// Answers go first, then what the display is shown.
    fn fill_out(&mut self) {
        if !self.is_written() {
            return;
        }
        let line = self.lines.pop_front().or_else(|| {
            Some(match self.display.next()? {
                Shown::Status(order) => json!({"status": order.shown()}).to_string(),
                Shown::Board(board) => board_line(&board),
            })
        });
        self.out = (line.map(|line| line + "\n").unwrap_or_default(), 0, Instant::now());
    }

    fn wake_at(&self) -> Instant {
        let written = (!self.is_written()).then(|| self.out.2 + WRITE_WITHIN);
        let half = (!self.partial.is_empty()).then(|| self.heard_at + LINE_WITHIN);
        let gone = self.online.as_ref().map(|_| self.heard_at + ONLINE_FOR);
        // Nothing depends on the hour: it stands for never.
        let never = Instant::now() + Duration::from_secs(3_600);
        [written, half, gone, self.stop_at].into_iter().flatten().min().unwrap_or(never)
    }

    fn pass_time(&mut self) {
        let silent = self.heard_at.elapsed();
        if !self.partial.is_empty() && silent >= LINE_WITHIN {
            self.partial = Partial::default();
            count(&self.port.figures.abandoned);
        }
        if silent >= ONLINE_FOR {
            self.miss();
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.heard_at = Instant::now();
        for line in self.partial.push(bytes) {
            // A daemon that stops takes nothing up any more.
            if self.stop_at.is_none() {
                self.take(&line);
            }
        }
    }

    fn take(&mut self, line: &Line) {
        let bytes = match line {
            Line::Text(bytes) => bytes,
            Line::TooLong => {
                count(&self.port.figures.oversized);
                self.port.tell_garbled();
                return self.refuse(&RequestError::TooLarge(REQUEST_BYTES_MAX + 1).into_answer(None));
            }
        };
        if let Some(display) = read_hello(bytes) {
            self.hear();
            self.display.switch(Wants { statuses: display, board: display });
            let (terminal, boot) = (self.port.terminal.as_str(), self.port.boot.to_string());
            let hello = json!({"terminal": terminal, "boot": boot, "maxBytes": REQUEST_BYTES_MAX});
            self.lines.push_back(json!({"hello": hello}).to_string());
            return;
        }
        match Request::parse(bytes) {
            Err(error) => {
                if matches!(error, RequestError::NotJson(_)) {
                    count(&self.port.figures.garbled);
                    self.port.tell_garbled();
                }
                self.refuse(&error.into_answer(None));
            }
            Ok(request) if self.in_flight.len() >= IN_FLIGHT_MAX => {
                let message = "too many requests of this terminal at once";
                self.refuse(&Answer::rejected(Some(request.id), Code::Busy, message, Some(BUSY_RETRY_AFTER_MS)));
            }
            Ok(request) => {
                self.hear();
                let submission = Submission { terminal: self.port.terminal.clone(), request, session: None, maybe_stored: false };
                let handle = self.port.handle.clone();
                let flying = Counted::new(&self.port.figures.submits_in_flight);
                self.in_flight.push(Box::pin(async move { (handle.submit(Ingress::Serial, submission).await, flying) }));
            }
        }
    }

    fn hear(&mut self) {
        if self.online.is_none() {
            info!(terminal = %self.port.terminal, "terminal online");
            self.online = Some(Counted::new(&self.port.figures.terminals_online));
            self.port.tell_online(true);
        }
    }

    fn miss(&mut self) {
        if self.online.take().is_some() {
            info!(terminal = %self.port.terminal, "terminal offline");
            self.port.tell_online(false);
        }
    }

    fn refuse(&mut self, answer: &Answer) {
        if let Answer::Rejected(rejected) = answer {
            self.port.figures.count_refused(rejected.code);
        }
        self.say(answer);
    }

    fn say(&mut self, answer: &Answer) {
        self.lines.push_back(gateway::json::text(&answer));
    }
}

/// Whether a line is a hello, and then whether there is a display.
fn read_hello(bytes: &[u8]) -> Option<bool> {
    /// No hello is longer: a request is not parsed twice for it.
    const HELLO_BYTES_MAX: usize = 256;
    if bytes.len() > HELLO_BYTES_MAX {
        return None;
    }
    let line = json::object(bytes).ok()?;
    let hello = line.get("hello").filter(|_| line.len() == 1)?;
    Some(hello.get("display").and_then(Value::as_bool).unwrap_or(false))
}

/// The board as a line that is no longer than a request may be: the newest orders that fit.
fn board_line(board: &Board) -> String {
    let line = |board: &Board| json!({"board": board.to_json()}).to_string();
    let whole = line(board);
    if whole.len() <= REQUEST_BYTES_MAX {
        return whole;
    }
    let mut board = board.clone();
    loop {
        // An eighth of the older ones at a time: a few tries at most. Both columns begin with the oldest.
        let column = if board.preparing.len() >= board.ready.len() { &mut board.preparing } else { &mut board.ready };
        let oldest = column.len().div_ceil(8);
        column.drain(..oldest);
        let shorter = line(&board);
        if shorter.len() <= REQUEST_BYTES_MAX || (board.preparing.is_empty() && board.ready.is_empty()) {
            return shorter;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::board::Entry;
    use gateway::order::Status;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"{\"a\":1}\n\n\r\n{\"b\":2}\r\nhalf";
        for cut in 0..text.len() {
            let mut partial = Partial::default();
            let mut lines = partial.push(&text[..cut]);
            lines.extend(partial.push(&text[cut..]));
            assert_eq!(lines, [Line::Text(b"{\"a\":1}".to_vec()), Line::Text(b"{\"b\":2}".to_vec())]);
            assert!(!partial.is_empty());
        }
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_a_request() {
        let mut partial = Partial::default();
        for _ in 0..100 {
            assert!(partial.push(&[b'x'; READ_BYTES]).is_empty());
            assert!(partial.bytes.len() <= REQUEST_BYTES_MAX + 1);
        }
        let mut longest = vec![b'y'; REQUEST_BYTES_MAX];
        longest.extend(b"\r\n");
        assert_eq!(partial.push(b"\n"), [Line::TooLong]);
        assert_eq!(partial.push(&longest), [Line::Text(vec![b'y'; REQUEST_BYTES_MAX])]);
        longest.insert(0, b'y');
        assert_eq!(partial.push(&longest), [Line::TooLong]);
    }

    #[test]
    fn a_hello_is_told_from_a_request() {
        assert_eq!(read_hello(br#"{"hello":{"display":true}}"#), Some(true));
        assert_eq!(read_hello(br#"{"hello":{}}"#), Some(false));
        assert_eq!(read_hello(br#"{"requestId":"a","hello":{}}"#), None);
        assert_eq!(read_hello(b"hello"), None);
    }

    #[test]
    fn a_board_that_does_not_fit_into_a_line_shows_the_newest() {
        let entry = |n: usize| Entry { order_id: "x".repeat(128).parse().unwrap(), number: n.to_string(), status: Status::Created };
        let board = Board { preparing: (0..200).map(entry).collect(), ready: vec![] };
        let line = board_line(&board);
        assert!(line.len() <= REQUEST_BYTES_MAX);
        let shown: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(shown["board"]["preparing"].as_array().unwrap().last().unwrap()["number"], "199");
        assert_eq!(board_line(&Board::default()), r#"{"board":{"preparing":[],"ready":[]}}"#);
    }
}
