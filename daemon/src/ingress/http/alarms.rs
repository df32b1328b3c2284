//! Alarms: an order that was cancelled or whose payment failed while in work is shown in the kitchen until somebody has seen it.

use super::access::Caller;
use super::dead_letters::By;
use super::reads::{check_accept, order_id, within};
use super::reply::{Reply, json};
use super::{App, submit};
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use gateway::io::Decided;
use gateway::journal::Deed;
use gateway::request::Code;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    /// The terminal, unless it says who.
    #[serde(default, deserialize_with = "given")]
    by: Option<By>,
}

/// `null` is no name.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<By>, D::Error> {
    By::deserialize(deserializer).map(Some)
}

/// `POST /api/v1/orders/{orderId}/acknowledge` with `{}` or `{"by":"anna"}`: it may be repeated, and two may do it at once.
pub async fn acknowledge(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let terminal = caller.terminal(&headers)?;
    let order = order_id(path)?;
    let bytes = submit::body(&app, &headers, body).await?;
    // An object: serde would take an empty array as well.
    let body = serde_json::from_slice::<Map<String, Value>>(&bytes);
    let seen = body.and_then(|body| serde_json::from_value::<Seen>(body.into())).map_err(|error| {
        let status = if error.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Reply::refused(status, Code::Invalid, format!("give {{}} or {{\"by\":\"…\"}}: {error}"))
    })?;
    if within(&app, app.handle.order(order.clone())).await?.is_none() {
        return Err(Reply::refused(StatusCode::NOT_FOUND, Code::UnknownOrder, "the house does not know this order"));
    }
    let by = caller.name_or(seen.by.map_or_else(|| terminal.to_string(), |By(by)| by));
    let acknowledged = match within(&app, app.handle.command(by, Deed::Acknowledge { order: order.clone() })).await? {
        Decided::Done { .. } => true,
        // It was acknowledged before, or there never was one.
        Decided::Unknown => false,
        Decided::Busy => return Err(Reply::unavailable("too much is to be written down")),
        Decided::Full => return Err(Reply::unavailable("the disk is full")),
    };
    Ok(json(StatusCode::OK, &json!({"orderId": order.as_str(), "acknowledged": acknowledged})))
}
