//! The page /pair, and what operators do with codes and pages.

use super::App;
use super::access::{Caller, wait_ms};
use super::connection::Peer;
use super::pairing::{self, Refused};
use super::reads::check_accept;
use super::reply::{Reply, json};
use super::roles::Role;
use super::submit;
use crate::clock;
use crate::display::{self, Language};
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use gateway::request::{Answer, Code};
use gateway::time::rfc3339;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The cookie of a paired page.
const COOKIE: &str = "dumbwaiter-page";
/// A tablet on a wall is paired once: ten years.
const COOKIE_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;
/// Minutes that a code is valid unless asked otherwise, and at most.
const CODE_MINUTES: u64 = 10;
const CODE_MINUTES_MAX: u64 = 60;
/// Where a page may be sent on to.
const PAGES: [&str; 3] = ["/", "/kitchen", "/operations"];

/// The values of our cookie that a request brings.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(';'));
    all.filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Sends a person to /pair, and back to where they wanted to go.
pub fn invite(uri: &Uri) -> Response<Body> {
    let wanted = uri.path_and_query().map_or("/", |wanted| wanted.as_str());
    see_other(&format!("/pair?next={}", utf8_percent_encode(wanted, NON_ALPHANUMERIC)))
}

fn see_other(to: &str) -> Response<Body> {
    let location = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// `GET /pair`: a form that needs no script.
pub async fn page(language: Language, uri: Uri) -> Response<Body> {
    let next = fields(uri.query().unwrap_or_default()).find_map(|(name, value)| (name == "next").then_some(value));
    display::pair_page(language, None, &next.unwrap_or_default())
}

/// `POST /pair`, the form of the page: `code`, `name` and `next`.
pub async fn pair(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Extension(caller): Extension<Caller>,
    language: Language,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Reply> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Reply::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Invalid, "give the form of the page /pair"));
    }
    let bytes = submit::bytes(&app, &headers, body).await?;
    let text = String::from_utf8_lossy(&bytes);
    let field = |wanted: &str| fields(&text).find_map(|(name, value)| (name == wanted).then_some(value)).unwrap_or_default();
    let next = field("next");
    let again = |status: StatusCode, why| {
        let mut response = display::pair_page(language, Some(why), &next);
        *response.status_mut() = status;
        response
    };
    let Some(name) = pairing::page_name(field("name").trim()) else { return Ok(again(StatusCode::UNPROCESSABLE_ENTITY, "name")) };
    let before = match &caller {
        Caller::Page(page) => Some(page),
        Caller::Local | Caller::Terminals(_) | Caller::Stranger => None,
    };
    let paired = app.pairing.pair(&field("code"), name.clone(), before, peer.remote, (Instant::now(), clock::wall_ms())).await;
    let (cookie, role) = match paired {
        Ok(paired) => paired,
        Err(Refused::Wrong) => return Ok(again(StatusCode::FORBIDDEN, "wrong")),
        Err(Refused::Taken) => return Ok(again(StatusCode::CONFLICT, "taken")),
        Err(Refused::Full) => return Ok(again(StatusCode::SERVICE_UNAVAILABLE, "full")),
        Err(Refused::NotWritten(_)) => return Ok(again(StatusCode::SERVICE_UNAVAILABLE, "disk")),
        Err(Refused::TooOften(wait)) => {
            let mut response = again(StatusCode::TOO_MANY_REQUESTS, "wait");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait_ms(wait).div_ceil(1000)));
            return Ok(response);
        }
    };
    tracing::info!(%name, role = role.as_str(), from = %peer.remote, "a page was paired");
    let secure = if app.settings.tls.is_some() { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={cookie}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Strict{secure}");
    let mut response = see_other(&onward(&next, role));
    response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_str(&cookie).expect("a cookie of hexadecimal digits"));
    Ok(response)
}

/// Where a paired page goes: to a page of ours that it may see.
fn onward(next: &str, role: Role) -> String {
    let path = next.split('?').next().unwrap_or_default();
    let is_plain = next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/?=&%._-".contains(&byte));
    let may = match path {
        "/kitchen" => role >= Role::Kitchen,
        "/operations" => role >= Role::Operator,
        _ => PAGES.contains(&path),
    };
    match role {
        _ if is_plain && may => next.to_owned(),
        Role::Board => "/".to_owned(),
        Role::Kitchen | Role::Manager => "/kitchen".to_owned(),
        Role::Operator => "/operations".to_owned(),
    }
}

/// The fields of a form or of a query.
fn fields(text: &str) -> impl Iterator<Item = (String, String)> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    text.split('&').map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    role: Role,
    #[serde(default = "code_minutes")]
    minutes: f64,
}

fn code_minutes() -> f64 {
    CODE_MINUTES as f64
}

/// `POST /api/v1/pairing-codes` with `{"role":"kitchen","minutes":10}`.
pub async fn new_code(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let bytes = submit::body(&app, &headers, body).await?;
    let invalid = |what: String| Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, what);
    let wish = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes)
        .and_then(|body| serde_json::from_value::<Wish>(body.into()))
        .map_err(|error| match error.is_data() {
            true => invalid(format!("give {{\"role\":\"kitchen\",\"minutes\":10}}: {error}")),
            false => Reply::refused(StatusCode::BAD_REQUEST, Code::Invalid, format!("not JSON: {error}")),
        })?;
    if wish.minutes.fract() != 0.0 || !(1.0..=CODE_MINUTES_MAX as f64).contains(&wish.minutes) {
        return Err(invalid(format!("minutes is a whole number from 1 to {CODE_MINUTES_MAX}")));
    }
    let valid = Duration::from_secs_f64(wish.minutes * 60.0);
    match app.pairing.new_code(wish.role, valid, Instant::now()) {
        Ok(code) => {
            tracing::info!(role = wish.role.as_str(), valid_s = valid.as_secs(), "a pairing code was asked for");
            Ok(json(StatusCode::OK, &json!({"code": code, "role": wish.role.as_str(), "validSeconds": valid.as_secs()})))
        }
        Err(Refused::Full) => {
            let message = format!("{} codes are valid already: use them, or wait until they are not", pairing::CODES_MAX);
            Err(Reply::of(Answer::rejected(None, Code::Busy, message, Some(wait_ms(Duration::from_secs(60))))))
        }
        Err(refused) => Err(Reply::unavailable(format!("no code could be made: {refused}"))),
    }
}

/// `GET /api/v1/pages`: who is paired.
pub async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let keys = app.settings.keys.now();
    let pages: Vec<Value> = keys
        .pages
        .iter()
        .map(|page| json!({"id": page.id, "name": page.name.as_str(), "role": page.role.as_str(), "pairedAt": page.paired_at_ms.map(rfc3339)}))
        .collect();
    Ok(json(StatusCode::OK, &json!({"pages": pages})))
}

/// `DELETE /api/v1/pages/{id}`: the page is out at once, and its streams end.
pub async fn revoke(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let Path(id) = path.map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, Code::Invalid, "the id in the path is not UTF-8"))?;
    match app.pairing.revoke(&id).await {
        Ok(true) => {
            tracing::info!(id, "a page was revoked");
            Ok(json(StatusCode::OK, &json!({"id": id, "revoked": true})))
        }
        Ok(false) => Err(Reply::refused(StatusCode::NOT_FOUND, Code::Invalid, "no page of this id is paired")),
        Err(refused) => Err(Reply::unavailable(format!("the page is out, but would be back after a restart: {refused}; revoke it again"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_sent_on_to_our_own_pages_only() {
        assert_eq!(onward("/kitchen?station=grill&lang=de", Role::Kitchen), "/kitchen?station=grill&lang=de");
        assert_eq!(onward("/kitchen", Role::Board), "/", "not to one that it may not see");
        assert_eq!(onward("/operations", Role::Manager), "/kitchen");
        assert_eq!(onward("", Role::Operator), "/operations");
        for foreign in
            ["//evil.example", "https://evil.example", "/\\evil.example", "/kitchen?a=\r\nSet-Cookie:x", "/metrics", "/kitchen\"><b>"]
        {
            assert_eq!(onward(foreign, Role::Kitchen), "/kitchen", "{foreign:?}");
        }
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let headers =
            HeaderMap::from_iter([(header::COOKIE, "a=b; dumbwaiter-page=one;dumbwaiter-page2=x; dumbwaiter-page=two".parse().unwrap())]);
        assert_eq!(cookies(&headers).collect::<Vec<_>>(), ["one", "two"]);
    }
}
