//! Dead letters: what they are, and what a person wants done with them.

use super::access::Caller;
use super::reads::{check_accept, within};
use super::reply::{Reply, json};
use super::{App, submit};
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use gateway::dialect::Dialect;
use gateway::ids::Seq;
use gateway::io::{DeadLetter, Decided, Decision};
use gateway::journal::BY_BYTES_MAX;
use gateway::request::{Code, uuid_text};
use gateway::time::rfc3339;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Letters in one answer.
const LETTERS_MAX: usize = 100;

/// `GET /api/v1/dead-letters[?after=SEQ]`, by seq, at most [`LETTERS_MAX`].
pub async fn list(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let after = after_of_query(uri.query().unwrap_or_default())?;
    let found = within(&app, app.handle.dead_letters(after, LETTERS_MAX + 1)).await?;
    let letters: Vec<Value> = found.iter().take(LETTERS_MAX).map(|(seq, letter, held)| to_json(*seq, letter, *held)).collect();
    Ok(json(StatusCode::OK, &json!({"deadLetters": letters, "more": found.len() > LETTERS_MAX})))
}

/// `GET /api/v1/dead-letters/{seq}`.
pub async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let seq = seq_of_path(path)?;
    let before = Seq(seq.0.saturating_sub(1));
    let found = within(&app, app.handle.dead_letters(before, 1)).await?;
    match found.iter().find(|(found, ..)| *found == seq) {
        Some((seq, letter, held)) => Ok(json(StatusCode::OK, &to_json(*seq, letter, *held))),
        None => Err(unknown()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    decision: Word,
    #[serde(default)]
    by: By,
}

/// Who gives a command, as they say: what is written down of it.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub struct By(pub String);

impl Default for By {
    fn default() -> By {
        By("somebody on this computer".into())
    }
}

impl TryFrom<String> for By {
    type Error = String;
    fn try_from(by: String) -> Result<By, String> {
        let fits = (1..=BY_BYTES_MAX).contains(&by.len()) && by.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if fits { Ok(By(by)) } else { Err(format!("by is a name of 1 to {BY_BYTES_MAX} printable ASCII characters")) }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Word {
    Retry,
    Discard,
}

/// `POST /api/v1/dead-letters/{seq}` with `{"decision":"retry"}` or `"discard"`.
pub async fn decide(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let seq = seq_of_path(path)?;
    let bytes = submit::body(&app, &headers, body).await?;
    let wish = serde_json::from_slice::<Wish>(&bytes).map_err(|error| {
        let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Reply::refused(status, Code::Invalid, format!("give {{\"decision\":\"retry\"}} or discard: {error}"))
    })?;
    let (word, decision) = match wish.decision {
        Word::Retry => ("retry", Decision::Retry),
        Word::Discard => ("discard", Decision::Discard),
    };
    match within(&app, app.handle.decide(seq, decision, caller.name_or(wish.by.0))).await? {
        Decided::Done { appended } => Ok(json(StatusCode::OK, &json!({"seq": seq.0, "decision": word, "appended": appended}))),
        Decided::Unknown => Err(unknown()),
        Decided::Busy => Err(Reply::unavailable(
            "Kafka does not have all yet that is queued or kept: decide again once the outbox has drained and the dead letter topic takes what it is told",
        )),
        Decided::Full => Err(Reply::unavailable("the disk is full")),
    }
}

fn unknown() -> Reply {
    Reply::refused(StatusCode::NOT_FOUND, Code::Invalid, "there is no dead letter of that seq")
}

fn seq_of_path(path: Result<Path<String>, PathRejection>) -> Result<Seq, Reply> {
    let Path(text) = path.map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, Code::Invalid, "the seq in the path is not UTF-8"))?;
    seq(&text)
}

fn seq(text: &str) -> Result<Seq, Reply> {
    let invalid = |_| Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, "a seq is a whole number");
    text.parse().map(Seq).map_err(invalid)
}

fn after_of_query(query: &str) -> Result<Seq, Reply> {
    match query.split_once('=') {
        None if query.is_empty() => Ok(Seq(0)),
        Some(("after", text)) => seq(text),
        Some(_) | None => {
            Err(Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, "the query is unknown: only one after=SEQ is"))
        }
    }
}

fn to_json(seq: Seq, letter: &DeadLetter, held: u64) -> Value {
    let event = &letter.event;
    let value = Dialect::OrderEvent.value(event);
    json!({
        "seq": seq.0, "epoch": event.epoch.to_string(), "orderId": event.order_id.as_str(), "type": event.event_type.as_str(),
        "terminal": event.request.terminal.as_str(), "requestId": event.request.request_id.as_str(), "eventId": uuid_text(&event.id),
        "reason": letter.reason, "since": rfc3339(letter.since_ms), "attempts": letter.attempts, "held": held,
        "event": serde_json::from_slice::<Value>(&value).unwrap_or(Value::Null),
    })
}
