//! What is read: orders, boards, and how the gateway is.

use super::access::Caller;
use super::reply::{Reply, json};
use super::{App, ORDERS_BYTES_MAX, ORDERS_MAX};
use crate::config::Kitchen;
use crate::display::{self, BoardText, Streams};
use crate::handle::{State as GatewayState, StoreAway};
use crate::metrics;
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use gateway::ids::{Name, OrderId};
use gateway::order::{Projection, Status};
use gateway::request::Code;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// The API's description, written by hand.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The order id of a path: percent-decoded, so it may hold slashes.
pub fn order_id(path: Result<Path<String>, PathRejection>) -> Result<OrderId, Reply> {
    let Path(text) = path.map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, Code::Invalid, "the order id in the path is not UTF-8"))?;
    text.parse().map_err(|e| Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, format!("the order id in the path {e}")))
}

/// Refuses a client that cannot read what it would get.
///
/// # Errors
/// 406.
pub fn check_accept(headers: &HeaderMap, kind: &str) -> Result<(), Reply> {
    let mut ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).peekable();
    let group = kind.split('/').next().unwrap_or_default();
    let takes = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|p| p.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0));
        let fits =
            name == "*/*" || name.eq_ignore_ascii_case(kind) || name.strip_suffix("/*").is_some_and(|g| g.eq_ignore_ascii_case(group));
        fits && !refused
    };
    if ranges.peek().is_none() || ranges.any(takes) {
        return Ok(());
    }
    Err(Reply::refused(StatusCode::NOT_ACCEPTABLE, Code::Invalid, format!("the answer is {kind}, which Accept does not name")))
}

/// `GET /api/v1/orders[?status=]`: the open orders, oldest first, at most [`ORDERS_MAX`] and [`ORDERS_BYTES_MAX`].
pub async fn orders(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let status = status_of_query(uri.query().unwrap_or_default())?;
    let found = within(&app, app.handle.orders(status, ORDERS_MAX + 1)).await?;
    Ok(display::json_once(list(&found)))
}

/// The orders' JSON, and whether there are more than it holds.
pub fn list(found: &[Projection]) -> String {
    let mut text = String::from("{\"orders\":[");
    let mut listed = 0;
    for order in found.iter().take(ORDERS_MAX) {
        let order = gateway::json::text(&order.shown());
        if text.len() + order.len() > ORDERS_BYTES_MAX {
            break;
        }
        if listed > 0 {
            text.push(',');
        }
        text.push_str(&order);
        listed += 1;
    }
    text.push_str(if listed < found.len() { "],\"more\":true}" } else { "],\"more\":false}" });
    text
}

fn status_of_query(query: &str) -> Result<Option<Status>, Reply> {
    let invalid = |message: String| Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, message);
    let mut status = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        if decoded(name) != "status" {
            return Err(invalid(format!("the query {:?} is unknown: only status is", decoded(name))));
        }
        let word = decoded(value);
        let named = Status::from_name(&word).ok_or_else(|| {
            let known = Status::ALL.map(Status::as_str).join(", ");
            invalid(format!("status {word:?} is unknown: it is one of {known}"))
        })?;
        if status.replace(named).is_some() {
            return Err(invalid("status stands twice".into()));
        }
    }
    Ok(status)
}

/// `GET /api/v1/orders/{orderId}`.
pub async fn order(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let id = order_id(path)?;
    match within(&app, app.handle.order(id)).await? {
        Some(order) => Ok(json(StatusCode::OK, &order.shown())),
        None => Err(Reply::refused(StatusCode::NOT_FOUND, Code::UnknownOrder, "the house does not know this order")),
    }
}

/// Waits for the event loop, but not for ever.
pub async fn within<T>(app: &App, read: impl Future<Output = Result<T, StoreAway>>) -> Result<T, Reply> {
    match timeout(app.settings.limits.answer_time, read).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(away)) => Err(Reply::unavailable(away.to_string())),
        Err(_) => {
            app.settings.usage.answers_late.increment();
            Err(Reply::unavailable("the store took too long to answer"))
        }
    }
}

/// `GET /health`: always 200 while the process lives; `status` says how well.
pub async fn health(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let state = app.handle.state().borrow().clone();
    let mut body = json!({
        "status": health_word(&state), "service": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"),
        "kafka": kafka_word(&state), "queued": state.gauges.queued, "oldestQueuedMs": oldest_queued_ms(&state),
        "disk": state.disk.word(), "damagedStores": app.settings.damaged.len(),
    });
    if let Some(mqtt) = &app.settings.mqtt {
        body["mqtt"] = mqtt.word().into();
    }
    // Sentences name files, topics and brokers: nothing for the street.
    if caller != Caller::Stranger {
        body["attention"] = app.settings.attention.sentences().into();
    }
    Ok(json(StatusCode::OK, &body))
}

/// Kafka has no say in it: without it the house works on, which is what the gateway is for.
pub fn health_word(state: &GatewayState) -> &'static str {
    if state.accepting { "healthy" } else { "degraded" }
}

fn kafka_word(state: &GatewayState) -> &'static str {
    if state.kafka_up { "up" } else { "down" }
}

/// Age of the oldest queued event. A clock that went back makes it 0, never negative.
pub fn oldest_queued_ms(state: &GatewayState) -> Option<u64> {
    let admitted = u64::try_from(state.gauges.oldest_queued_ms?).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis();
    Some(u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(admitted))
}

/// `GET /ready`: 200 while new orders are taken, whatever Kafka does.
pub async fn ready(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let state = app.handle.state();
    let alive = state.has_changed().is_ok();
    if alive && state.borrow().accepting {
        return Ok(json(StatusCode::OK, &json!({"ready": true})));
    }
    Err(Reply::unavailable("no new orders are taken: the store is full, not open, or new and being rebuilt"))
}

/// `GET /api/v1/state`: the gateway's figures.
pub async fn state(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let state = app.handle.state().borrow().clone();
    let mut body = state_json(&state, &app.settings.damaged);
    body["attention"] = app.settings.attention.sentences().into();
    Ok(json(StatusCode::OK, &body))
}

fn state_json(state: &GatewayState, damaged: &[store::Aside]) -> Value {
    let gauges = &state.gauges;
    let damaged: Vec<_> = damaged.iter().map(|store| format!("{}: {}", store.path.display(), store.account)).collect();
    json!({
        "status": health_word(state), "version": env!("CARGO_PKG_VERSION"), "accepting": state.accepting, "kafka": kafka_word(state),
        "disk": state.disk.word(), "queued": gauges.queued, "queuedBytes": gauges.queued_bytes, "oldestQueuedMs": oldest_queued_ms(state),
        "deadLetters": gauges.dead_letters, "openOrders": gauges.open_orders, "requestsInFlight": gauges.requests_in_flight,
        "statusesInFlight": gauges.statuses_in_flight, "windowEvents": gauges.window_events, "retries": gauges.retries,
        "lastSeq": gauges.last_seq, "damagedStores": damaged,
    })
}

/// `GET /api/v1/kitchen`: what the kitchen's page goes by. `terminal` is null where the page may name itself.
pub async fn kitchen(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let Kitchen { warn_minutes, late_minutes } = app.settings.kitchen;
    let terminal = match &caller {
        Caller::Terminals(own) => own.first().cloned(),
        Caller::Page(page) => Some(page.terminal()),
        Caller::Local | Caller::Stranger => None,
    };
    let terminal = terminal.as_ref().map(Name::as_str);
    let printers = app.settings.printers.to_json();
    let body = json!({"warnMinutes": warn_minutes, "lateMinutes": late_minutes, "terminal": terminal, "printers": printers});
    Ok(json(StatusCode::OK, &body))
}

/// `GET /metrics`, in OpenMetrics.
pub async fn metrics_text(State(app): State<Arc<App>>) -> Response<Body> {
    let headers = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")];
    (headers, (app.metrics_text)()).into_response()
}

/// `GET /openapi.json`.
pub async fn openapi(headers: HeaderMap) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    Ok(([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response())
}

/// `GET /api/v1/stream`: the board with order ids.
pub async fn stream(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "text/event-stream")?;
    listen(&app, &app.house_streams, &app.house_board, app.settings.keys.until_gone(caller))
}

/// `GET /board/stream`: the board as anybody may see it.
pub async fn public_stream(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "text/event-stream")?;
    listen(&app, &app.public_streams, &app.public_board, std::future::pending())
}

fn listen(
    app: &App,
    streams: &Streams,
    text: &Arc<BoardText>,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<Response<Body>, Reply> {
    streams.listen(app.handle.board(), text.clone(), until).ok_or_else(|| Reply::unavailable("too many boards are listening"))
}

/// `GET /board.json`: the board as anybody may see it, for pages without server-sent events.
pub async fn public_board(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let board = app.handle.board().borrow().clone();
    Ok(display::json_once(app.public_board.json(&board)))
}

/// `GET /static/{file}`: what the pages are made of.
pub async fn static_file(headers: HeaderMap, path: Result<Path<String>, PathRejection>) -> Result<Response<Body>, Reply> {
    let name = path.map_or_else(|_| String::new(), |Path(name)| name);
    display::static_file(&headers, &name).ok_or_else(|| Reply::refused(StatusCode::NOT_FOUND, Code::Invalid, "there is no such file"))
}
