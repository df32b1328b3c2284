//! The journal: what happened to an order, and replays.

use super::access::Caller;
use super::dead_letters::By;
use super::reads::{check_accept, order_id, within};
use super::reply::{Reply, json};
use super::{App, submit};
use crate::handle::StoreAway;
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use gateway::ids::{OrderId, Seq};
use gateway::io::Decided;
use gateway::journal::{Command, Deed};
use gateway::order::{Projection, Source};
use gateway::request::{Code, uuid_text};
use gateway::time::rfc3339;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use store::journal::{Entry, Fate, Wanted};

/// Steps of one history: beyond it the rest is left out.
const HISTORY_STEPS_MAX: usize = 64;
/// Entries of one history.
const HISTORY_ENTRIES_MAX: usize = 1_000;

/// `GET /api/v1/orders/{orderId}/history`: what is known, in the order of time.
pub async fn history(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let id = order_id(path)?;
    let Some(order) = within(&app, app.handle.order(id)).await? else {
        return Err(Reply::refused(StatusCode::NOT_FOUND, Code::UnknownOrder, "the house does not know this order"));
    };
    let (entries, complete) = within(&app, events(&app, &order)).await?;
    let commands = within(&app, app.handle.commands()).await?;
    let mut happened: Vec<(i64, Value)> = entries.iter().map(event).collect();
    let centres = order.history.iter().filter(|report| report.source == Source::Centre);
    happened.extend(centres.map(|report| (report.at_ms, json!({"what": "status", "by": "centre", "status": report.status.as_str()}))));
    happened.extend(commands.iter().filter(|command| command.deed.concerns(&order.order_id)).map(command_json));
    happened.sort_by_key(|(at_ms, _)| *at_ms);
    let history: Vec<Value> = happened.into_iter().map(|(at_ms, what)| dated(at_ms, what)).collect();
    Ok(json(StatusCode::OK, &json!({"orderId": order.order_id.as_str(), "complete": complete, "history": history})))
}

fn dated(at_ms: i64, mut what: Value) -> Value {
    what["at"] = rfc3339(at_ms).into();
    what
}

/// The order's events, and whether they are all that there were.
async fn events(app: &App, order: &Projection) -> Result<(Vec<Entry>, bool), StoreAway> {
    let span_ms = (order.created_at_ms, order.updated_at_ms);
    let (mut entries, mut from) = (Vec::new(), Seq(0));
    for _ in 0..HISTORY_STEPS_MAX {
        let page = app.handle.history(order.order_id.clone(), span_ms, from).await?;
        let whole = page.oldest.is_some_and(|(seq, at_ms)| seq == Seq(1) || at_ms < span_ms.0);
        entries.extend(page.entries);
        match page.next {
            Some(next) if entries.len() < HISTORY_ENTRIES_MAX => from = next,
            Some(_) => break,
            None => return Ok((entries, whole)),
        }
    }
    Ok((entries, false))
}

fn event(entry: &Entry) -> (i64, Value) {
    let event = &entry.event;
    let data = serde_json::from_str::<Value>(&event.data).unwrap_or(Value::Null);
    let mut told = json!({
        "what": "event", "type": event.event_type.as_str(), "seq": entry.seq.0, "epoch": event.epoch.to_string(),
        "eventId": uuid_text(&event.id), "terminal": event.request.terminal.as_str(), "requestId": event.request.request_id.as_str(),
    });
    for field in ["status", "change", "actor"] {
        if let Some(text) = data[field].as_str() {
            told[field] = text.into();
        }
    }
    match entry.fate {
        Fate::Delivered(sent) => {
            told["delivery"] = "delivered".into();
            told["partition"] = sent.partition.into();
            // Of a batch that was sent twice Kafka says only that it has it.
            if sent.offset >= 0 {
                told["offset"] = sent.offset.into();
            }
            told["deliveredAt"] = rfc3339(sent.at_ms).into();
        }
        Fate::DeliveredSomewhere => told["delivery"] = "delivered".into(),
        Fate::Queued => told["delivery"] = "queued".into(),
        Fate::Buried => told["delivery"] = "dead".into(),
    }
    (event.occurred_at_ms, told)
}

fn command_json(command: &Command) -> (i64, Value) {
    let told = match &command.deed {
        Deed::Retry { dead, .. } => json!({"what": "command", "command": "retry", "by": command.by, "seq": dead.0}),
        Deed::Discard { dead, .. } => json!({"what": "command", "command": "discard", "by": command.by, "seq": dead.0}),
        Deed::Acknowledge { .. } => json!({"what": "command", "command": "acknowledge", "by": command.by}),
        Deed::Replay { from_ms, to_ms, .. } => {
            json!({"what": "command", "command": "replay", "by": command.by, "from": rfc3339(*from_ms), "to": rfc3339(*to_ms)})
        }
    };
    (command.at_ms, told)
}

/// What is to be sent again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Span {
    from_ms: Whole,
    to_ms: Whole,
    #[serde(default)]
    order_id: Option<OrderId>,
    /// The `next` of the step before.
    #[serde(default)]
    next: Option<Whole>,
    #[serde(default)]
    by: By,
}

/// A whole number up to 2^53, above which JSON is not exact. `1.0` is one too.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "f64")]
struct Whole(u64);

impl TryFrom<f64> for Whole {
    type Error = &'static str;
    fn try_from(number: f64) -> Result<Whole, &'static str> {
        const WRONG: &str = "a whole number from 0 to 9007199254740991 is expected";
        let whole = number.fract() == 0.0 && (0.0..=9_007_199_254_740_991.0).contains(&number);
        if whole { format!("{number:.0}").parse().map(Whole).map_err(|_| WRONG) } else { Err(WRONG) }
    }
}

/// `POST /api/v1/replay`: sends the first events again that were delivered in a span of time; the first step is written down.
pub async fn replay(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let bytes = submit::body(&app, &headers, body).await?;
    let span = serde_json::from_slice::<Span>(&bytes).map_err(|error| {
        let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Reply::refused(status, Code::Invalid, format!("give {{\"fromMs\":…,\"toMs\":…}} in Unix milliseconds: {error}"))
    })?;
    let ms = |Whole(ms): Whole| i64::try_from(ms).unwrap_or(i64::MAX);
    let wanted = Wanted { from_ms: ms(span.from_ms), to_ms: ms(span.to_ms), order: span.order_id };
    if span.next.is_none() {
        let deed = Deed::Replay { from_ms: wanted.from_ms, to_ms: wanted.to_ms, order: wanted.order.clone() };
        match within(&app, app.handle.command(caller.name_or(span.by.0), deed)).await? {
            Decided::Done { .. } => {}
            Decided::Unknown => return Err(Reply::unavailable("no [kafka] is configured")),
            Decided::Busy => return Err(Reply::unavailable("too much is to be written down")),
            Decided::Full => return Err(Reply::unavailable("the disk is full")),
        }
    }
    let step = within(&app, app.handle.replay(wanted.clone(), Seq(span.next.map_or(0, |Whole(next)| next)))).await?;
    if let Some(reason) = step.failed {
        return Err(Reply::unavailable(format!("sent {} events of this step, then: {reason}", step.sent)));
    }
    let gone = step.begins_ms.is_none_or(|begins_ms| wanted.from_ms < begins_ms && step.oldest != Some(Seq(1)));
    let answer = json!({
        "sent": step.sent, "next": step.next.map(|seq| seq.0), "incomplete": gone, "journalBegins": step.begins_ms.map(rfc3339),
    });
    Ok(json(StatusCode::OK, &answer))
}
