//! What the demo prints: a line for each thing that happens, and on a terminal a last line that lives.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// The numbers of the living line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Orders that terminals submitted.
    pub submitted: u64,
    /// Orders that they heard *stored* for.
    pub stored: u64,
    /// Orders that the centre got.
    pub delivered: u64,
    /// Events that wait in the outbox; `None` while the gateway is away.
    pub queued: Option<u64>,
    /// The line to Kafka is up.
    pub line_up: bool,
}

/// Where it is printed: standard error with `--json`, so that standard output holds the ledger alone.
pub struct View {
    began: Instant,
    live: bool,
    to_stderr: bool,
    last: Figures,
}

impl View {
    /// A view that begins its clock now.
    pub fn new(json: bool) -> View {
        let live = if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        View { began: Instant::now(), live, to_stderr: json, last: Figures::default() }
    }

    /// Says what happened.
    pub fn say(&mut self, what: &str) {
        let at = self.began.elapsed().as_secs_f64();
        let clear = if self.live { "\r\x1b[2K" } else { "" };
        self.write(&format!("{clear}{at:6.1} s  {what}\n"));
        self.draw();
    }

    /// Renews the living line; without a terminal this prints nothing.
    pub fn figures(&mut self, figures: Figures) {
        self.last = figures;
        self.draw();
    }

    /// Ends the living line.
    pub fn end(&mut self) {
        if self.live {
            self.write("\r\x1b[2K");
            self.live = false;
        }
    }

    fn draw(&self) {
        if !self.live {
            return;
        }
        let Figures { submitted, stored, delivered, queued, line_up } = self.last;
        let line = if line_up { "line up" } else { "LINE DOWN" };
        let depth = match queued {
            None => "gateway away".to_owned(),
            Some(queued) => format!("queue {queued:>5} {}", bar(queued)),
        };
        self.write(&format!("\r\x1b[2K  submitted {submitted}  stored {stored}  at the centre {delivered}  | {depth} | {line}"));
    }

    fn write(&self, text: &str) {
        // A closed pipe is no reason to stop the trial: its end still says by the exit code how it went.
        let _ = if self.to_stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            let mut out = std::io::stdout();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }
}

/// A bar of up to 20 characters that grows with the logarithm of the depth.
fn bar(queued: u64) -> String {
    let length = usize::try_from(queued.checked_ilog2().map_or(0, |n| 2 * n + 2)).unwrap_or(20).min(20);
    format!("{:<20}", "#".repeat(length))
}
