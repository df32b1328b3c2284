//! `POST /api/v1/orders` and `POST /api/v1/orders/{orderId}/events`: from bytes to a submission, and from its answer to bytes.

use super::access::{Caller, wait_ms};
use super::reply::{IDEMPOTENCY_KEY, Reply};
use super::{App, OVERFLOW_BYTES_MAX, reads, roles};
use crate::handle::Ingress;
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use gateway::ids::{Name, RequestId};
use gateway::io::Submission;
use gateway::request::{Answer, Code, REQUEST_BYTES_MAX, Request, RequestError, uuid_text};
use http_body_util::BodyExt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tokio::time::timeout;

/// Takes a new order.
pub async fn new_order(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    submit(&app, &caller, &headers, body, Request::parse_new_order).await
}

/// Takes an event of an order.
pub async fn event(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    match reads::order_id(path) {
        Ok(order_id) => submit(&app, &caller, &headers, body, |id, bytes| Request::parse_event(id, &order_id, bytes)).await,
        Err(reply) => match key(&headers) {
            Ok(id) => with_key(id.clone(), reply.to(id)),
            Err(bad_key) => bad_key.into_response(),
        },
    }
}

/// Every answer names the request and echoes its key, so that whatever it says, the request can be repeated safely.
async fn submit(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    parse: impl FnOnce(RequestId, &[u8]) -> Result<Request, RequestError>,
) -> Response<Body> {
    let id = match key(headers) {
        Ok(id) => id,
        Err(reply) => return reply.into_response(),
    };
    let reply = match admit(app, caller, headers, body, |bytes| parse(id.clone(), bytes)).await {
        Ok(submission) => decide(app, submission).await,
        Err(reply) => {
            reply.count(&app.settings.usage);
            reply
        }
    };
    if reply.status == StatusCode::PAYLOAD_TOO_LARGE {
        app.settings.usage.size_refused.increment();
    }
    with_key(id.clone(), reply.to(id))
}

fn with_key(id: RequestId, reply: Reply) -> Response<Body> {
    let mut response = reply.into_response();
    let value = HeaderValue::from_str(id.as_str()).expect("a request id holds only letters, digits, '.', '_' and '-'");
    response.headers_mut().insert(IDEMPOTENCY_KEY, value);
    response
}

/// The client's request id, or a new one.
fn key(headers: &HeaderMap) -> Result<RequestId, Reply> {
    let invalid = |why: String| Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, format!("Idempotency-Key {why}"));
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return new_key() };
    if values.next().is_some() {
        return Err(invalid("stands twice".into()));
    }
    let text = value.to_str().map_err(|_| invalid("may hold only letters, digits, '.', '_' and '-'".into()))?;
    text.parse().map_err(|e| invalid(format!("{e}")))
}

/// A random UUID (version 4, RFC 9562).
fn new_key() -> Result<RequestId, Reply> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Reply::unavailable("no random number for an Idempotency-Key: send one"))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(uuid_text(&bytes).parse().expect("a UUID's text is 36 letters, digits and dashes"))
}

async fn admit(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    parse: impl FnOnce(&[u8]) -> Result<Request, RequestError>,
) -> Result<Submission, Reply> {
    let terminal = caller.terminal(headers)?;
    reads::check_accept(headers, "application/json")?;
    take_token(app, &terminal)?;
    let bytes = self::body(app, headers, body).await?;
    match parse(&bytes) {
        Ok(mut request) => {
            roles::check_event(&request, caller)?;
            caller.sign(&mut request);
            Ok(Submission { terminal, request, session: None, maybe_stored: false })
        }
        Err(error) => {
            let status = match error {
                RequestError::NotJson(_) => StatusCode::BAD_REQUEST,
                RequestError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
                RequestError::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            };
            Err(Reply { status, answer: error.into_answer(None) })
        }
    }
}

/// A body of JSON, as long as it is none too large and comes in time.
pub async fn body(app: &App, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Reply> {
    check_content_type(headers)?;
    bytes(app, headers, body).await
}

/// A body of any kind, likewise.
pub async fn bytes(app: &App, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Reply> {
    match timeout(app.settings.limits.body_time, read(headers, body)).await {
        Ok(read) => read,
        Err(_) => {
            app.settings.usage.bodies_late.increment();
            Err(Reply::refused(StatusCode::REQUEST_TIMEOUT, Code::Invalid, "the request's body took too long to arrive"))
        }
    }
}

/// A form cannot send this type across origins without asking first.
fn check_content_type(headers: &HeaderMap) -> Result<(), Reply> {
    let wrong = |message: &str| Err(Reply::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Invalid, message));
    let value = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let mut parts = value.unwrap_or_default().split(';').map(str::trim);
    if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return wrong("Content-Type must be application/json");
    }
    let foreign_charset = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        name.trim().eq_ignore_ascii_case("charset") && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    if parts.any(foreign_charset) {
        return wrong("the body must be UTF-8");
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return wrong("the body must be sent without Content-Encoding");
    }
    Ok(())
}

fn take_token(app: &App, terminal: &Name) -> Result<(), Reply> {
    let mut rates = app.rates.lock().unwrap_or_else(PoisonError::into_inner);
    rates.take(terminal, Instant::now()).map_err(|wait| {
        app.settings.usage.rate_refused.increment();
        Reply::of(Answer::rejected(None, Code::Busy, "this terminal submits too fast", Some(wait_ms(wait))))
    })
}

/// Reads a body to its end, but keeps no more of it than a request may have.
async fn read(headers: &HeaderMap, mut body: Body) -> Result<Vec<u8>, Reply> {
    let too_large = |bytes: usize| Reply::of(RequestError::TooLarge(bytes).into_answer(None));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    // Who asks first is told first; who would send for long is not listened to.
    let asks = headers.contains_key(header::EXPECT);
    if announced > OVERFLOW_BYTES_MAX || (asks && announced > REQUEST_BYTES_MAX) {
        return Err(too_large(announced));
    }
    let (mut bytes, mut len) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, Code::Invalid, "the body broke off"))?;
        let Some(data) = frame.data_ref() else { continue };
        len += data.len();
        if len > OVERFLOW_BYTES_MAX {
            break;
        }
        if len <= REQUEST_BYTES_MAX {
            bytes.extend_from_slice(data);
        }
    }
    if len > REQUEST_BYTES_MAX { Err(too_large(len)) } else { Ok(bytes) }
}

/// Waits for the event loop, but not for ever. The request goes on without its client; a repeat waits for the same decision or gets
/// the first answer again.
async fn decide(app: &App, submission: Submission) -> Reply {
    match timeout(app.settings.limits.answer_time, app.handle.submit(Ingress::Http, submission)).await {
        // The client is not too fast, which 429 would say.
        Ok(Answer::Rejected(rejected)) if rejected.code == Code::Busy && app.handle.is_away() => {
            Reply { status: StatusCode::SERVICE_UNAVAILABLE, answer: Answer::Rejected(rejected) }
        }
        Ok(answer) => Reply::of(answer),
        Err(_) => {
            app.settings.usage.answers_late.increment();
            Reply::unavailable("no decision yet: it may still be stored; repeat it with the same Idempotency-Key")
        }
    }
}
