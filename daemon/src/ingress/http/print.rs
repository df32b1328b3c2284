//! An order on paper once more.

use super::reads::{check_accept, order_id, within};
use super::reply::{Reply, json};
use super::{App, submit};
use crate::printer::NotAsked;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use gateway::ids::Name;
use gateway::request::Code;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// `POST /api/v1/orders/{orderId}/print` with `{}` or `{"printer":"bar"}`: a copy, marked as one, by each printer that has lines of the
/// order, or by that one.
pub async fn print(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let id = order_id(path)?;
    let printer = printer(&submit::body(&app, &headers, body).await?)?;
    let Some(order) = within(&app, app.handle.order(id)).await? else {
        return Err(Reply::refused(StatusCode::NOT_FOUND, Code::UnknownOrder, "the house does not know this order"));
    };
    match app.settings.printers.print_again(&order, printer.as_ref()) {
        Ok(printers) => {
            let printers: Vec<&str> = printers.iter().map(Name::as_str).collect();
            Ok(json(StatusCode::ACCEPTED, &json!({"orderId": order.order_id.as_str(), "printers": printers})))
        }
        Err(NotAsked::NoPrinter) => {
            let message = "no printer has lines of this order";
            Err(Reply::refused(StatusCode::CONFLICT, Code::Conflict, message))
        }
        Err(NotAsked::Full) => Err(Reply::unavailable("too many copies wait for this printer")),
    }
}

fn printer(bytes: &[u8]) -> Result<Option<Name>, Reply> {
    let wrong = |status, why: String| Reply::refused(status, Code::Invalid, format!("give {{}} or {{\"printer\":\"…\"}}: {why}"));
    let mut fields: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| wrong(StatusCode::BAD_REQUEST, error.to_string()))?;
    let printer = fields.remove("printer");
    if let Some(unknown) = fields.keys().next() {
        return Err(wrong(StatusCode::UNPROCESSABLE_ENTITY, format!("there is no {unknown:?}")));
    }
    let name = |value: Value| value.as_str().and_then(|name| name.parse().ok());
    match printer {
        None => Ok(None),
        Some(value) => {
            name(value).map(Some).ok_or_else(|| wrong(StatusCode::UNPROCESSABLE_ENTITY, "printer is no name of a printer".into()))
        }
    }
}
