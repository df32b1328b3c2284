//! `dumbwaiter day`: asks the running daemon over its own HTTP.

use super::DayArgs;
use super::ask::{field, get, show, table};
use super::dead_letters::events;
use serde_json::Value;
use std::fmt::Write;

/// `day [DATE]`.
///
/// # Errors
/// Nothing listens, or the day has not begun.
pub async fn run(args: &DayArgs) -> anyhow::Result<()> {
    let path = match &args.date {
        Some(date) => format!("/api/v1/day?date={date}"),
        None => "/api/v1/day".into(),
    };
    show(&args.ask, &get(&args.ask, &path).await?, text)
}

fn text(day: &Value) -> String {
    let so_far = if day["over"].as_bool() == Some(true) { "" } else { ", so far" };
    let mut text = format!("business day {}{so_far}: {} to {}\n", field(day, "date"), field(day, "begins"), field(day, "ends"));
    let mut rows = vec![["TERMINAL", "ORDERS", "SUM", "CANCELLED", "REFUNDED", "UNPAID", "NET"].map(str::to_owned)];
    let name = |row: &Value| field(row, if row["from"] == "terminal" { "terminal" } else { "from" });
    rows.extend(day["terminals"].as_array().into_iter().flatten().map(|each| row(name(each), each)));
    rows.push(row("all".into(), &day["total"]));
    text.push_str(&table(&rows));
    let unknown = day["total"]["withoutTotal"].as_u64().unwrap_or(0);
    if unknown > 0 {
        let _ = writeln!(text, "of {unknown} orders no sum is known: they count with 0");
    }
    if day["remembered"].as_bool() != Some(true) {
        let _ = match day["total"]["orders"].as_u64() {
            Some(0) | None => {
                writeln!(text, "this day is beyond what the gateway remembers: orders stay for {} days", field(day, "rememberDays"))
            }
            Some(_) => writeln!(text, "some of this day may be forgotten already: orders stay for {} days", field(day, "rememberDays")),
        };
    }
    text.push_str(&centre_text(&day["centre"]));
    text
}

fn row(name: String, row: &Value) -> [String; 7] {
    let part = |key: &str| match row[key]["orders"].as_u64() {
        Some(0) | None => "-".to_owned(),
        Some(orders) => format!("{orders}: {}", field(&row[key], "sum")),
    };
    [name, field(row, "orders"), field(row, "sum"), part("cancelled"), part("refunded"), part("unpaid"), field(row, "net")]
}

/// One line: whether the centre has all of it.
fn centre_text(centre: &Value) -> String {
    let waiting = centre["waiting"].as_u64().unwrap_or(0);
    if centre["everything"].as_bool() == Some(true) {
        return "everything of this day is at the centre\n".into();
    }
    let least = if centre["more"].as_bool() == Some(true) { "at least " } else { "" };
    let mut text = format!("{least}{} of this day not at the centre", events(waiting));
    if centre["since"].is_string() {
        let _ = write!(text, ", the oldest from {}", field(centre, "since"));
    }
    let dead = centre["deadLetters"].as_u64().unwrap_or(0);
    if dead > 0 {
        let named: Vec<String> = centre["dead"].as_array().into_iter().flatten().map(|letter| field(letter, "seq")).collect();
        let more = if dead > named.len() as u64 { " …" } else { "" };
        let _ = write!(text, "; dead letters that wait for a decision: seq {}{more}", named.join(", "));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_day_is_a_table_and_a_line_about_the_centre() {
        let row = |more: Value| {
            let none = json!({"orders": 0, "sum": 0});
            let mut row = json!({"orders": 2, "sum": 20.5, "cancelled": none, "refunded": {"orders": 1, "sum": 0.5}, "unpaid": none,
                "net": 20, "withoutTotal": 0});
            more.as_object().unwrap().iter().for_each(|(key, value)| row[key] = value.clone());
            row
        };
        let mut day = json!({"date": "2024-01-31", "begins": "B", "ends": "E", "over": true, "remembered": true, "rememberDays": 7,
            "terminals": [row(json!({"from": "terminal", "terminal": "till-1"})), row(json!({"from": "centre", "terminal": null}))],
            "total": row(json!({})), "centre": {"everything": true, "waiting": 0, "more": false, "since": null, "deadLetters": 0, "dead": []}});
        let expected = "business day 2024-01-31: B to E\n\
                        TERMINAL  ORDERS  SUM   CANCELLED  REFUNDED  UNPAID  NET\n\
                        till-1    2       20.5  -          1: 0.5    -       20\n\
                        centre    2       20.5  -          1: 0.5    -       20\n\
                        all       2       20.5  -          1: 0.5    -       20\n\
                        everything of this day is at the centre\n";
        assert_eq!(text(&day), expected);
        day["centre"] = json!({"everything": false, "waiting": 3, "more": false, "since": "S", "deadLetters": 1, "dead": [{"seq": 7}]});
        day["remembered"] = json!(false);
        let last: Vec<String> = text(&day).lines().skip(5).map(str::to_owned).collect();
        assert_eq!(
            last,
            [
                "some of this day may be forgotten already: orders stay for 7 days",
                "3 events of this day not at the centre, the oldest from S; dead letters that wait for a decision: seq 7"
            ]
        );
    }
}
