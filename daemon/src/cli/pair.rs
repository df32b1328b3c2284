//! `dumbwaiter pair`: lets pages in, lists them, and puts them out.

use super::ask::{self, field, show, table};
use super::terminal::reached_at;
use super::{PairArgs, print};
use crate::config::{Environment, listen_of};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// Asks for a code, or lists or revokes pages.
///
/// # Errors
/// The daemon does not answer, or refuses; the message says why.
pub async fn run(args: &PairArgs) -> anyhow::Result<()> {
    if args.list {
        let pages = ask::get(&args.ask, "/api/v1/pages").await?;
        return show(&args.ask, &pages, pages_text);
    }
    if let Some(id) = &args.revoke {
        let path = format!("/api/v1/pages/{}", utf8_percent_encode(id, NON_ALPHANUMERIC));
        let revoked = ask::delete(&args.ask, &path).await?;
        return show(&args.ask, &revoked, |page| format!("{} is out, and whatever it showed has ended\n", field(page, "id")));
    }
    let body = json!({"role": args.role.as_str(), "minutes": args.minutes});
    let code = ask::post(&args.ask, "/api/v1/pairing-codes", &body).await?;
    let listen = listen_of(&args.ask.config.config, &Environment::of_process());
    show(&args.ask, &code, |code| {
        code_text(code, &format!("{}://{}", if listen.tls { "https" } else { "http" }, reached_at(listen.address)))
    })?;
    if !args.ask.json && args.ask.url.is_none() && listen.address.ip().is_loopback() {
        print(&format!("note: the gateway listens on {}, which no other computer reaches: see listen under [http]\n", listen.address))?;
    }
    Ok(())
}

fn code_text(code: &Value, address: &str) -> String {
    let digits = field(code, "code");
    let (first, second) = digits.split_at_checked(3).unwrap_or((&digits, ""));
    let minutes = code.get("validSeconds").and_then(Value::as_u64).unwrap_or(0) / 60;
    format!(
        "{first} {second}\n\nfor one page as {}, within {minutes} minutes. On its device open\n  {address}/pair\nand give the code and a name \
         for who works there.\n",
        field(code, "role")
    )
}

fn pages_text(answer: &Value) -> String {
    let pages = answer.get("pages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut rows = vec![["ID", "NAME", "ROLE", "PAIRED"].map(str::to_owned)];
    rows.extend(pages.iter().map(|page| ["id", "name", "role", "pairedAt"].map(|key| field(page, key))));
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_shown_with_where_to_type_it_in() {
        let text = code_text(&json!({"code": "012345", "role": "kitchen", "validSeconds": 600}), "https://10.0.4.1:8080");
        assert!(
            text.starts_with("012 345\n\nfor one page as kitchen, within 10 minutes.") && text.contains("https://10.0.4.1:8080/pair"),
            "{text}"
        );
    }

    #[test]
    fn pages_are_a_table() {
        let pages = json!({"pages": [{"id": "0a1b2c3d", "name": "grill", "role": "kitchen", "pairedAt": null}]});
        assert_eq!(pages_text(&pages), "ID        NAME   ROLE     PAIRED\n0a1b2c3d  grill  kitchen  -\n");
    }
}
