//! The end of a day, for `dumbwaiter day` and /operations: what was taken, and what of it is at the centre.

use super::App;
use super::reads::{check_accept, within};
use super::reply::{Reply, json};
use crate::clock;
use crate::day::Sums;
use crate::handle::{Handle, StoreAway};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use gateway::event::OrderEvent;
use gateway::ids::Seq;
use gateway::request::Code;
use gateway::time::rfc3339;
use jiff::civil::Date;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use store::KeptEvent;

/// Steps through the orders, of up to 256 each: beyond it the day is not counted to its end.
const ORDER_STEPS_MAX: usize = 4_096;
/// Open orders of the day that are remembered while it is counted: one that leaves the board meanwhile would be met twice.
const OPEN_MAX: usize = 8_192;
/// Steps through the outbox, of up to 256 events each: beyond it, there is more.
const QUEUE_STEPS_MAX: usize = 128;
/// Steps through what is kept beside it, and events of one.
const KEPT_STEPS_MAX: usize = 128;
const KEPT_STEP: usize = 64;
/// Dead letters that are named.
const NAMED_MAX: usize = 20;

/// `GET /api/v1/day[?date=YYYY-MM-DD]`: the business day that it is, or one before.
pub async fn day(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Result<Response<Body>, Reply> {
    check_accept(&headers, "application/json")?;
    let invalid = |message: &str| Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, message);
    let no_day = |message: &str| Reply::refused(StatusCode::NOT_FOUND, Code::Invalid, message);
    let asked = date_of_query(uri.query().unwrap_or_default()).map_err(invalid)?;
    let state = app.handle.state().borrow().clone();
    let now_ms = clock::wall_ms().unwrap_or(state.gauges.last_wall_ms);
    let days = &app.settings.days;
    let date = asked.or_else(|| days.day_of(now_ms)).ok_or_else(|| no_day("the clock shows no day"))?;
    let span_ms = days.span_ms(date).ok_or_else(|| no_day("the calendar ends there"))?;
    if span_ms.start > now_ms {
        return Err(no_day("this day has not begun"));
    }
    let (sums, all_counted) = within(&app, async {
        // Whoever else counts waits: one at a time goes through the store.
        let _turn = app.counting.lock().await;
        count(&app.handle, &span_ms).await
    })
    .await?;
    let centre = within(&app, waiting(&app.handle, &span_ms)).await?;
    // Running time is never more than what the wall clock shows.
    let remember_ms = i64::try_from(state.remember_ms).unwrap_or(i64::MAX);
    let remembered = all_counted && span_ms.start >= now_ms.saturating_sub(remember_ms);
    let (terminals, total) = sums.to_json();
    let body = json!({
        "date": date.to_string(), "begins": rfc3339(span_ms.start), "ends": rfc3339(span_ms.end), "over": span_ms.end <= now_ms,
        "remembered": remembered, "rememberDays": remember_ms / 86_400_000, "terminals": terminals, "total": total, "centre": centre,
    });
    Ok(json(StatusCode::OK, &body))
}

fn date_of_query(query: &str) -> Result<Option<Date>, &'static str> {
    const WRONG: &str = "date is a day, 2024-01-31";
    match query.split_once('=') {
        None if query.is_empty() => Ok(None),
        Some(("date", text)) if text.len() == 10 => text.parse().map(Some).map_err(|_| WRONG),
        Some(("date", _)) => Err(WRONG),
        Some(_) | None => Err("the query is unknown: only one date=YYYY-MM-DD is"),
    }
}

/// The orders that were made in the span, and whether these are all.
async fn count(handle: &Handle, span_ms: &Range<i64>) -> Result<(Sums, bool), StoreAway> {
    let (mut sums, mut open, mut from) = (Sums::default(), BTreeSet::new(), None);
    for _ in 0..ORDER_STEPS_MAX {
        let step = handle.orders_of(span_ms.clone(), from).await?;
        for order in step.orders {
            if open.contains(&order.order_id) {
                continue;
            }
            sums.add(&order);
            if order.open && open.len() < OPEN_MAX {
                open.insert(order.order_id);
            }
        }
        from = step.next;
        if from.is_none() {
            return Ok((sums, true));
        }
    }
    Ok((sums, false))
}

/// What of the span the centre does not have.
async fn waiting(handle: &Handle, span_ms: &Range<i64>) -> Result<Value, StoreAway> {
    let mut waiting = Waiting::default();
    let mut from = None;
    waiting.more = true;
    for _ in 0..QUEUE_STEPS_MAX {
        let step = handle.queued_of(span_ms.clone(), from).await?;
        waiting.events += step.events;
        step.oldest_ms.into_iter().for_each(|at_ms| waiting.since(at_ms));
        from = step.next;
        if from.is_none() {
            waiting.more = false;
            break;
        }
    }
    let mut after = Seq(0);
    for step in 0..=KEPT_STEPS_MAX {
        let kept = handle.kept(after, KEPT_STEP).await?;
        let Some((last, _)) = kept.last() else { break };
        if step == KEPT_STEPS_MAX {
            waiting.more = true;
            break;
        }
        after = *last;
        kept.iter().for_each(|(seq, event)| waiting.keep(*seq, event, span_ms));
    }
    Ok(waiting.into_json())
}

/// What was found to wait.
#[derive(Default)]
struct Waiting {
    events: u64,
    oldest_ms: Option<i64>,
    dead: u64,
    named: Vec<Value>,
    more: bool,
}

impl Waiting {
    fn since(&mut self, at_ms: i64) {
        self.oldest_ms = Some(self.oldest_ms.map_or(at_ms, |oldest| oldest.min(at_ms)));
    }

    fn keep(&mut self, seq: Seq, kept: &KeptEvent, span_ms: &Range<i64>) {
        let event: &OrderEvent = match kept {
            KeptEvent::Letter(letter) => &letter.event,
            KeptEvent::Held { event, .. } => event,
        };
        if !span_ms.contains(&event.occurred_at_ms) {
            return;
        }
        self.events += 1;
        self.since(event.occurred_at_ms);
        if let KeptEvent::Letter(letter) = kept {
            self.dead += 1;
            if self.named.len() < NAMED_MAX {
                self.named.push(json!({"seq": seq.0, "orderId": event.order_id.as_str(), "reason": letter.reason}));
            }
        }
    }

    fn into_json(self) -> Value {
        json!({
            "everything": self.events == 0 && !self.more, "waiting": self.events, "more": self.more, "since": self.oldest_ms.map(rfc3339),
            "deadLetters": self.dead, "dead": self.named,
        })
    }
}
