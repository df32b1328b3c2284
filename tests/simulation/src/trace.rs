//! The last things that happened in a run, for people.

use gateway::io::{Change, Input, Output};
use std::collections::VecDeque;
use std::fmt::Write;

/// How many lines are kept.
const LINES_MAX: usize = 60;
/// Longest line.
const LINE_LEN_MAX: usize = 400;

/// A ring of lines; off, it costs nothing.
#[derive(Debug)]
pub struct Trace {
    lines: Option<VecDeque<String>>,
}

impl Trace {
    /// A trace that is on or off.
    pub fn new(on: bool) -> Trace {
        Trace { lines: on.then(VecDeque::new) }
    }

    /// Adds a line.
    pub fn line(&mut self, now_ms: u64, step: u64, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            let text: String = text().chars().take(LINE_LEN_MAX).collect();
            lines.push_back(format!("{step:>6} {:>12} s  {text}", Seconds(now_ms)));
        }
    }

    /// All lines.
    pub fn text(&self) -> String {
        let mut all = String::new();
        for line in self.lines.iter().flatten() {
            writeln!(all, "{line}").expect("a string takes everything");
        }
        all
    }
}

struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}.{:03}", self.0 / 1_000, self.0 % 1_000))
    }
}

/// An input in a line.
pub fn input(input: &Input) -> String {
    match input {
        Input::Submit { reply_to, submission } => {
            let r = &submission.request;
            let order = r.order_id.as_ref().map_or("(new id)", |id| id.as_str());
            format!("-> Submit {} {}/{} {} {order} {:?}", reply_to.0, submission.terminal, r.id, r.event_type.as_str(), submission.session)
        }
        Input::Loaded { load, found } => {
            let order = found.order.as_ref().map(|o| (o.status, o.open, o.ticket));
            format!("-> Loaded {} request {:?} order {order:?}", load.0, found.request.as_ref().map(|r| r.seq))
        }
        Input::Reopened(opened) => format!("-> Reopened next {} progress {}", opened.next_seq, opened.progress),
        Input::Head { events } => {
            format!("-> Head {:?}..={:?}", events.first().map(|(seq, _)| seq.0), events.last().map(|(seq, _)| seq.0))
        }
        Input::Status(record) => {
            let value = record.value.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            format!("-> Status {}/{} {} {value:?}", record.at.topic, record.at.partition, record.offset)
        }
        Input::Swept { expired, next } => format!("-> Swept {} expired, next {}", expired.len(), next.is_some()),
        other => format!("-> {other:?}"),
    }
}

/// An output in a line.
pub fn output(output: &Output) -> String {
    match output {
        Output::Store { commit, batch } => {
            let changes: Vec<_> = batch.iter().map(change).collect();
            format!("<- Store {} [{}]", commit.0, changes.join(", "))
        }
        Output::Answer { reply_to, answer } => format!("<- Answer {} {}", reply_to.0, gateway::json::text(answer)),
        Output::Deliver { producer, seq, event } => format!("<- Deliver {seq} of {} to {}", event.order_id, producer.0),
        Output::Show(orders) => {
            let orders: Vec<_> = orders.iter().map(|o| format!("{} {}", o.order_id, o.status.as_str())).collect();
            format!("<- Show {}", orders.join(", "))
        }
        Output::ShowBoard(board) => format!("<- ShowBoard {} and {}", board.preparing.len(), board.ready.len()),
        Output::Load { load, wanted } => {
            let request = wanted.request.as_ref().map(|r| r.request_id.as_str());
            format!("<- Load {} request {request:?} order {:?}", load.0, wanted.order.as_ref().map(|o| o.as_str()))
        }
        other => format!("<- {other:?}"),
    }
}

fn change(change: &Change) -> String {
    match change {
        Change::Enqueue(seq, event) => format!("Enqueue {seq} {}/{}", event.request.terminal, event.request.request_id),
        Change::Remember(key, _) => format!("Remember {}", key.request_id),
        Change::Project(order) => {
            let open = if order.open { "open" } else { "closed" };
            format!("Project {} {} {open} ticket {:?}", order.order_id, order.status.as_str(), order.ticket.map(|t| t.0))
        }
        Change::DeadLetter(seq, _) => format!("DeadLetter {seq}"),
        Change::Hold(seq, behind, _) => format!("Hold {seq} behind {behind}"),
        other => format!("{other:?}"),
    }
}
