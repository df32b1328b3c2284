//! The default dialect: `OrderEvent` JSON, as in docs/protocol.md.

use super::Incoming;
use crate::event::OrderEvent;
use crate::ids::OrderId;
use crate::io::Record;
use crate::json;
use crate::order::{Effect, EffectError};
use crate::request::{EventType, uuid_text};
use crate::time::rfc3339;
use serde_json::Value;

/// Largest record that is looked at, in bytes.
const RECORD_BYTES_MAX: usize = 256 * 1024;

/// What a usual event takes beside its `data`, in bytes.
const ENVELOPE_BYTES: usize = 256;

/// What comes before `data`.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    id: String,
    r#type: &'static str,
    order_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

/// `data` is JSON text since admission, and goes as it is: the text of it that Kafka gets is the one that the store keeps.
pub(super) fn encode(event: &OrderEvent) -> Vec<u8> {
    let head = Head {
        id: uuid_text(&event.id),
        r#type: event.event_type.as_str(),
        order_id: event.order_id.as_str(),
        user_id: event.user_id.as_deref(),
    };
    let mut value = Vec::with_capacity(event.data.len() + ENVELOPE_BYTES);
    serde_json::to_writer(&mut value, &head).expect("a struct of strings always serialises");
    // The object goes on where its head ends.
    value.pop();
    for part in [r#","data":"#, &event.data, r#","occurredAt":""#, &rfc3339(event.occurred_at_ms), r#"","version":"1.0"}"#] {
        value.extend_from_slice(part.as_bytes());
    }
    value
}

pub(super) fn decode(record: &Record) -> Result<Incoming, String> {
    let bytes = record.value.as_deref().ok_or("a tombstone")?;
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(format!("{} bytes are more than the {RECORD_BYTES_MAX} that are read", bytes.len()));
    }
    let mut event = json::object(bytes).map_err(|e| format!("no JSON object: {e}"))?;
    let word = |field: &str| event.get(field).and_then(Value::as_str).ok_or_else(|| format!("field {field} is not a string"));
    let event_type = EventType::from_name(word("type")?).ok_or("its type is unknown")?;
    let order_id: OrderId = word("orderId")?.parse().map_err(|e| format!("orderId {e}"))?;
    let version = word("version").unwrap_or("1.0");
    if !version.starts_with("1.") {
        return Err("its version is not 1.x".into());
    }
    let data = match event.remove("data") {
        Some(Value::Object(data)) => data,
        None => json::Object::new(),
        Some(_) => return Err("data is not an object".into()),
    };
    let effect = Effect::read(event_type, &data).map_err(|EffectError(message)| message)?;
    let restaurant_id = data.get("restaurantId").and_then(Value::as_str).map(str::to_owned);
    Ok(Incoming { event_type, order_id, restaurant_id, data, effect })
}
