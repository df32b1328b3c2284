//! `dumbwaiter dead-letters`: asks the running daemon over its own HTTP.

use super::ask::{field, get, post, show, table};
use super::{AskArgs, DeadLettersCommand, DecideArgs, print};
use anyhow::bail;
use gateway::journal::BY_BYTES_MAX;
use serde_json::{Value, json};
use std::fmt::Write;

/// `dead-letters`.
///
/// # Errors
/// Nothing listens, there is no such dead letter, or it cannot be decided about now; the message says which.
pub async fn run(command: &DeadLettersCommand) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List(ask) => {
            let letters = all(ask).await?;
            print(&if ask.json { format!("{}\n", Value::from(letters)) } else { list_text(&letters) })
        }
        DeadLettersCommand::Show { seq, ask } => show(ask, &get(ask, &format!("/api/v1/dead-letters/{seq}")).await?, letter_text),
        DeadLettersCommand::Retry(args) => decide(args, "retry").await,
        DeadLettersCommand::Discard(args) => decide(args, "discard").await,
        DeadLettersCommand::Export(ask) => {
            let lines: String = all(ask).await?.iter().map(|letter| format!("{letter}\n")).collect();
            print(&lines)
        }
    }
}

/// All dead letters, page by page.
async fn all(ask: &AskArgs) -> anyhow::Result<Vec<Value>> {
    let mut letters: Vec<Value> = Vec::new();
    loop {
        let after = letters.last().and_then(|letter| letter["seq"].as_u64()).unwrap_or(0);
        let page = get(ask, &format!("/api/v1/dead-letters?after={after}")).await?.json;
        let more = page["more"].as_bool() == Some(true);
        let Value::Array(found) = page["deadLetters"].clone() else { bail!("what answered is no gateway") };
        let ends = found.is_empty() || !more;
        letters.extend(found);
        if ends {
            return Ok(letters);
        }
    }
}

async fn decide(args: &DecideArgs, decision: &str) -> anyhow::Result<()> {
    let seqs = match args.all {
        true => all(&args.ask).await?.iter().filter_map(|letter| letter["seq"].as_u64()).collect(),
        false => args.seqs.clone(),
    };
    for seq in seqs {
        let done = post(&args.ask, &format!("/api/v1/dead-letters/{seq}"), &json!({"decision": decision, "by": by()})).await?;
        show(&args.ask, &done, |done| format!("{decision} {seq}: {} queued\n", events(done["appended"].as_u64().unwrap_or(0))))?;
    }
    Ok(())
}

/// Whom the gateway writes down as who gave a command.
pub(super) fn by() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name: String = named.unwrap_or_default().chars().filter(char::is_ascii_graphic).take(BY_BYTES_MAX).collect();
    if name.is_empty() { "somebody".into() } else { name }
}

pub(super) fn events(count: u64) -> String {
    format!("{count} {}", if count == 1 { "event" } else { "events" })
}

fn list_text(letters: &[Value]) -> String {
    let mut rows = vec![["SEQ", "ORDER", "TYPE", "SINCE", "HELD", "REASON"].map(str::to_owned)];
    rows.extend(letters.iter().map(|letter| ["seq", "orderId", "type", "since", "held", "reason"].map(|key| field(letter, key))));
    let count = letters.len();
    format!("{}{count} dead {}\n", table(&rows), if count == 1 { "letter" } else { "letters" })
}

fn letter_text(letter: &Value) -> String {
    let mut text = String::new();
    for key in ["seq", "epoch", "orderId", "type", "terminal", "requestId", "eventId", "reason", "since", "attempts", "held"] {
        let _ = writeln!(text, "{key:14}{}", field(letter, key));
    }
    let _ = writeln!(text, "{:#}", letter["event"]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_are_a_table() {
        let letters =
            [json!({"seq": 7, "orderId": "o-1", "type": "order.created", "since": "2024", "held": 2, "reason": "too\u{1b} large"})];
        let table = "SEQ  ORDER  TYPE           SINCE  HELD  REASON\n\
                     7    o-1    order.created  2024   2     too\u{fffd} large\n\
                     1 dead letter\n";
        assert_eq!(list_text(&letters), table);
    }
}
