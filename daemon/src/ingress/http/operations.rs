//! What the page /operations shows, in one answer: small, and made of what is at hand.

use super::App;
use super::reads::{check_accept, health_word, oldest_queued_ms, within};
use super::reply::{Reply, json};
use crate::clock;
use crate::metrics::Metrics;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use gateway::order::Projection;
use gateway::time::rfc3339;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Orders that may be stored twice that are listed: the oldest.
const MAYBE_STORED_MAX: usize = 50;
/// How long the file system may take to say how full it is. One that hangs is told of by the store.
const DISK_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What the config and the start say of the gateway.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// `gateway.id`.
    pub gateway: String,
    /// `store.data_dir`.
    pub data_dir: PathBuf,
    /// `store.min_free`, in bytes.
    pub floor_bytes: u64,
    /// There is a `[kafka]`.
    pub has_kafka: bool,
    /// When the daemon began.
    pub started: Option<Instant>,
    /// What the daemon counts.
    pub metrics: Option<Metrics>,
}

/// `GET /api/v1/operations`.
pub async fn operations(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let state = app.handle.state().borrow().clone();
    let maybe_stored = within(&app, app.handle.maybe_stored(MAYBE_STORED_MAX)).await?;
    let site = &app.settings.site;
    let disk = room(site.data_dir.clone()).await;
    let device = site.metrics.as_ref().map(Metrics::device).unwrap_or_default();
    let (gauges, now_ms) = (&state.gauges, clock::wall_ms());
    let kafka = match (site.has_kafka, state.kafka_up) {
        (false, _) => "off",
        (true, true) => "up",
        (true, false) => "down",
    };
    let damaged: Vec<_> = app.settings.damaged.iter().map(|store| format!("{}: {}", store.path.display(), store.account)).collect();
    let certificates = device.certificates.iter().map(|(certificate, days)| json!({"certificate": certificate, "days": days}));
    let since = |at: Option<Instant>| at.map(|at| millis(at.elapsed()));
    let body = json!({
        "gateway": site.gateway, "version": env!("CARGO_PKG_VERSION"), "status": health_word(&state), "accepting": state.accepting,
        "rebuilding": gauges.rebuilding, "upMs": since(site.started), "memoryBytes": device.memory_bytes,
        "line": {
            "kafka": kafka, "sinceMs": since(state.kafka_since), "queued": gauges.queued, "queuedBytes": gauges.queued_bytes,
            "oldestQueuedMs": oldest_queued_ms(&state), "windowEvents": gauges.window_events, "retries": gauges.retries,
            "mqtt": app.settings.mqtt.as_ref().map(|mqtt| mqtt.word()),
        },
        "openOrders": gauges.open_orders,
        "deadLetters": {"count": gauges.dead_letters, "kept": gauges.kept.events},
        "disk": {
            "state": state.disk.word(), "freeBytes": disk.map(|(free, _)| free), "sizeBytes": disk.map(|(_, size)| size),
            "floorBytes": site.floor_bytes, "writtenBytes": device.written_bytes,
            "syncMs": state.syncs.map(|(last, _)| millis(last)), "slowestSyncMs": state.syncs.map(|(_, slowest)| millis(slowest)),
        },
        "clock": {"known": now_ms.is_some(), "now": now_ms.map(rfc3339), "businessDay": now_ms.and_then(|now_ms| app.settings.days.day_of(now_ms)).map(|day| day.to_string())},
        "certificates": certificates.collect::<Vec<_>>(), "terminals": app.handle.terminals().to_json(),
        "maybeStored": maybe_stored.iter().map(maybe).collect::<Vec<_>>(), "damagedStores": damaged,
        "attention": app.settings.attention.sentences(), "printers": app.settings.printers.to_json(),
    });
    Ok(json(StatusCode::OK, &body))
}

/// What helps to find it, and no more: a customer's name is no operator's business.
fn maybe(order: &Projection) -> Value {
    json!({
        "orderId": order.order_id.as_str(), "ticket": order.ticket, "displayNumber": order.display_number, "status": order.status,
        "terminalId": order.terminal.as_ref().map(gateway::ids::Name::as_str),
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Free bytes and all bytes of a file system; `None` if it does not say so soon.
async fn room(data_dir: PathBuf) -> Option<(u64, u64)> {
    let asked = tokio::task::spawn_blocking(move || ask(&data_dir));
    tokio::time::timeout(DISK_ANSWERS_WITHIN, asked).await.ok()?.ok()?
}

fn ask(data_dir: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(data_dir).ok()?;
    Some((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}
