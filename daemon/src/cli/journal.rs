//! `dumbwaiter order ID --history` and `dumbwaiter replay`: ask the running daemon over its own HTTP.

use super::ask::{field, get, post, show};
use super::dead_letters::{by, events};
use super::{AskArgs, ReplayArgs, print};
use anyhow::ensure;
use gateway::ids::OrderId;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::fmt::Write;

/// `order ID --history`.
///
/// # Errors
/// Nothing listens, or the house does not know the order.
pub async fn history(args: &AskArgs, id: &OrderId) -> anyhow::Result<()> {
    let path = format!("/api/v1/orders/{}/history", utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC));
    show(args, &get(args, &path).await?, history_text)
}

/// `replay`: step by step, until all that the journal holds of it was sent.
///
/// # Errors
/// Nothing listens, or Kafka did not take a step; the message says how many events were sent before.
pub async fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let (from_ms, to_ms) = (args.from.as_millisecond(), args.to.as_millisecond());
    ensure!(0 <= from_ms && from_ms < to_ms, "--from must be before --to, and not before 1970");
    let mut wish = json!({"fromMs": from_ms, "toMs": to_ms, "by": by()});
    if let Some(order) = &args.order {
        wish["orderId"] = order.as_str().into();
    }
    let mut sent = 0;
    loop {
        let step = post(&args.ask, "/api/v1/replay", &wish).await;
        let mut step = step.map_err(|error| error.context(format!("{} were sent before", events(sent))))?.json;
        sent += step["sent"].as_u64().unwrap_or(0);
        if step["next"].is_null() {
            step["sent"] = sent.into();
            return print(&if args.ask.json { format!("{step}\n") } else { replay_text(&step) });
        }
        wish["next"] = step["next"].take();
    }
}

fn replay_text(answer: &Value) -> String {
    let mut text = format!("{} sent again\n", events(answer["sent"].as_u64().unwrap_or(0)));
    if answer["incomplete"].as_bool() == Some(true) {
        let _ = match answer["journalBegins"].as_str() {
            Some(_) => writeln!(text, "what was delivered before {} is not in the journal any more", field(answer, "journalBegins")),
            None => writeln!(text, "the journal is empty"),
        };
    }
    text
}

fn history_text(answer: &Value) -> String {
    let mut text = format!("order {}\n", field(answer, "orderId"));
    for entry in answer["history"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "{}  {}", field(entry, "at"), what(entry));
    }
    if answer["complete"].as_bool() != Some(true) {
        text.push_str("what happened before is not in the journal any more, or the clock went back\n");
    }
    text
}

fn what(entry: &Value) -> String {
    let word = |key| field(entry, key);
    let more = |key: &str, before: &str| entry.get(key).map_or(String::new(), |_| format!("{before}{}", field(entry, key)));
    match entry["what"].as_str() {
        Some("event") => {
            let place = match entry.get("partition") {
                Some(_) => format!(" {}, partition {}, offset {}", word("deliveredAt"), word("partition"), word("offset")),
                None => String::new(),
            };
            let (status, change) = (more("status", " "), more("change", " "));
            format!("{}{status}{change}  by {}  seq {}  {}{place}", word("type"), word("terminal"), word("seq"), word("delivery"))
        }
        Some("status") => format!("{}  by the {}", word("status"), word("by")),
        Some("command") => {
            format!("{}{}{}{}  by {}", word("command"), more("seq", " seq "), more("from", " "), more("to", " to "), word("by"))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replay_says_what_is_not_there_any_more() {
        let answer = |incomplete: bool| json!({"sent": 2, "incomplete": incomplete, "journalBegins": "T"});
        assert_eq!(replay_text(&answer(false)), "2 events sent again\n");
        assert_eq!(replay_text(&answer(true)), "2 events sent again\nwhat was delivered before T is not in the journal any more\n");
    }

    #[test]
    fn a_history_is_a_line_for_each_thing_that_happened() {
        let mut answer = json!({"orderId": "o-1", "complete": true, "history": [
            {"at": "10:00", "what": "event", "type": "order.created", "terminal": "till-1", "seq": 7, "delivery": "delivered",
             "partition": 2, "offset": 17, "deliveredAt": "10:01"},
            {"at": "10:02", "what": "status", "status": "CONFIRMED", "by": "centre"},
            {"at": "10:03", "what": "event", "type": "order.state_changed", "status": "READY", "terminal": "k\u{1b}", "seq": 9, "delivery": "queued"},
            {"at": "10:04", "what": "command", "command": "retry", "by": "anna", "seq": 7},
            {"at": "10:05", "what": "command", "command": "replay", "by": "anna", "from": "A", "to": "B"},
        ]});
        let text = "order o-1\n\
                    10:00  order.created  by till-1  seq 7  delivered 10:01, partition 2, offset 17\n\
                    10:02  CONFIRMED  by the centre\n\
                    10:03  order.state_changed READY  by k\u{fffd}  seq 9  queued\n\
                    10:04  retry seq 7  by anna\n\
                    10:05  replay A to B  by anna\n";
        assert_eq!(history_text(&answer), text);
        answer["complete"] = false.into();
        assert!(history_text(&answer).ends_with("\nwhat happened before is not in the journal any more, or the clock went back\n"));
    }
}
