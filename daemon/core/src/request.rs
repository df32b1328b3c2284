//! Requests and answers: parsed once, into types that cannot be wrong.

use crate::card_number;
use crate::ids::{OrderId, RequestId, Seq, Ticket};
use crate::json::{self, Object};
use crate::money::count;
use crate::order::{Effect, EffectError};
use crate::rebuild::MAYBE_STORED;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Largest request, in bytes of JSON.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Longest `userId`, in bytes.
pub const USER_ID_LEN_MAX: usize = 256;

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// A new order.
    #[serde(rename = "order.created")]
    Created,
    /// A new status, new lines, a refund or a reopening.
    #[serde(rename = "order.state_changed")]
    StateChanged,
    /// A payment, or its failure.
    #[serde(rename = "order.payment_processed")]
    PaymentProcessed,
    /// Somebody carries it.
    #[serde(rename = "order.shipper_assigned")]
    ShipperAssigned,
    /// Called off.
    #[serde(rename = "order.cancelled")]
    Cancelled,
    /// Handed over.
    #[serde(rename = "order.delivered")]
    Delivered,
}

impl EventType {
    /// Every type, in the order of DESIGN.md.
    pub const ALL: [EventType; 6] = [
        EventType::Created,
        EventType::StateChanged,
        EventType::PaymentProcessed,
        EventType::ShipperAssigned,
        EventType::Cancelled,
        EventType::Delivered,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Created => "order.created",
            EventType::StateChanged => "order.state_changed",
            EventType::PaymentProcessed => "order.payment_processed",
            EventType::ShipperAssigned => "order.shipper_assigned",
            EventType::Cancelled => "order.cancelled",
            EventType::Delivered => "order.delivered",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<EventType> {
        EventType::ALL.into_iter().find(|t| t.as_str() == name)
    }
}

/// A request that can be admitted: whatever could be refused for its own shape has been.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// The event's type.
    pub event_type: EventType,
    /// The order; the gateway makes an id where a new order has none.
    pub order_id: Option<OrderId>,
    /// Passed on.
    pub user_id: Option<String>,
    /// Passed on, with the gateway's fields added.
    pub data: Object,
    /// What it does to the order.
    pub effect: Effect,
    /// Not to be stored later than this after it was read.
    pub valid_for_ms: Option<u64>,
    /// Hash of the parsed body: keys sorted, number text kept.
    pub body_hash: [u8; 16],
}

/// Why bytes are not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than [`REQUEST_BYTES_MAX`].
    #[error("the request has {0} bytes; at most {REQUEST_BYTES_MAX} are taken")]
    TooLarge(usize),
    /// No JSON object.
    #[error("not a JSON object: {0}")]
    NotJson(String),
    /// A field is missing, wrong or unknown.
    #[error("{message}")]
    Invalid {
        /// The request's id, where one could be read.
        id: Option<RequestId>,
        /// Which field, and what it should be.
        message: String,
    },
}

impl RequestError {
    /// The answer that says so.
    pub fn into_answer(self, known_id: Option<RequestId>) -> Answer {
        let message = self.to_string();
        let (id, code) = match self {
            RequestError::TooLarge(_) => (None, Code::TooLarge),
            RequestError::NotJson(_) => (None, Code::Invalid),
            RequestError::Invalid { id, .. } => (id, Code::Invalid),
        };
        Answer::rejected(known_id.or(id), code, message, None)
    }
}

fn invalid(id: Option<&RequestId>, message: impl Into<String>) -> RequestError {
    RequestError::Invalid { id: id.cloned(), message: message.into() }
}

/// The fields that the gateway adds to `data`; one that is there already makes a request `invalid`.
const OWN_FIELDS: [&str; 4] = ["terminalId", "gatewayId", "ticket", MAYBE_STORED];

impl Request {
    /// Reads a request as it comes over MQTT and over serial lines.
    ///
    /// # Errors
    /// What is wrong with the bytes; nothing else has happened.
    pub fn parse(bytes: &[u8]) -> Result<Request, RequestError> {
        let mut body = parse_object(bytes)?;
        let id = match body.remove("requestId") {
            Some(Value::String(text)) => text.parse::<RequestId>().map_err(|e| invalid(None, format!("requestId {e}")))?,
            Some(_) => return Err(invalid(None, "requestId must be a string")),
            None => return Err(invalid(None, "requestId is missing")),
        };
        Request::from_body(id, body)
    }

    /// Reads a request whose id is known from elsewhere: binary framing makes it of session and number. The body has none.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn parse_with_id(id: RequestId, bytes: &[u8]) -> Result<Request, RequestError> {
        let body = parse_object(bytes)?;
        Request::from_body(id, body)
    }

    /// Reads the body of `POST /api/v1/orders`: the new order's fields at top level.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn parse_new_order(id: RequestId, bytes: &[u8]) -> Result<Request, RequestError> {
        let mut data = parse_object(bytes)?;
        let mut body = Object::new();
        for field in ["orderId", "userId", "validForMs"] {
            if let Some(value) = data.remove(field) {
                body.insert(field.into(), value);
            }
        }
        body.insert("data".into(), Value::Object(data));
        Request::from_body(id, body)
    }

    /// Reads the body of `POST /api/v1/orders/{orderId}/events`.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn parse_event(id: RequestId, order_id: &OrderId, bytes: &[u8]) -> Result<Request, RequestError> {
        let mut body = parse_object(bytes)?;
        if body.get("orderId").is_some_and(|v| v.as_str() != Some(order_id.as_str())) {
            return Err(invalid(Some(&id), "orderId is not the one in the path"));
        }
        if !body.contains_key("type") {
            return Err(invalid(Some(&id), "type is missing"));
        }
        body.insert("orderId".into(), Value::String(order_id.as_str().into()));
        Request::from_body(id, body)
    }

    fn from_body(id: RequestId, mut body: Object) -> Result<Request, RequestError> {
        let refuse = |message: String| invalid(Some(&id), message);
        let body_hash = hash(&body);
        let event_type = match body.remove("type") {
            None => EventType::Created,
            Some(Value::String(name)) => EventType::from_name(&name).ok_or_else(|| refuse(format!("type {name:?} is unknown")))?,
            Some(_) => return Err(refuse("type must be a string".into())),
        };
        let order_id = match body.remove("orderId") {
            Some(Value::String(text)) => Some(text.parse::<OrderId>().map_err(|e| refuse(format!("orderId {e}")))?),
            Some(_) => return Err(refuse("orderId must be a string".into())),
            None if event_type == EventType::Created => None,
            None => return Err(refuse("orderId is missing".into())),
        };
        let user_id = match body.remove("userId") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.len() <= USER_ID_LEN_MAX => Some(text),
            Some(_) => return Err(refuse(format!("userId must be a string of at most {USER_ID_LEN_MAX} bytes"))),
        };
        let valid_for_ms = match body.remove("validForMs") {
            None | Some(Value::Null) => None,
            Some(value) => Some(count(&value).ok_or_else(|| refuse("validForMs must be a whole number of milliseconds".into()))?),
        };
        let data = match body.remove("data") {
            Some(Value::Object(data)) => data,
            None if event_type != EventType::Created => Object::new(),
            None => return Err(refuse("data is missing".into())),
            Some(_) => return Err(refuse("data must be an object".into())),
        };
        if let Some(field) = body.keys().next() {
            return Err(refuse(format!("field {field:?} is unknown: fields of the order belong into data")));
        }
        if let Some(field) = OWN_FIELDS.into_iter().find(|f| data.contains_key(*f)) {
            return Err(refuse(format!("data.{field} is the gateway's to fill")));
        }
        if let Some(field) = card_number::find(&data) {
            return Err(refuse(format!("{field} looks like a payment card's number, which a gateway must never hold")));
        }
        let effect = Effect::read(event_type, &data).map_err(|EffectError(message)| refuse(message))?;
        Ok(Request { id, event_type, order_id, user_id, data, effect, valid_for_ms, body_hash })
    }
}

fn parse_object(bytes: &[u8]) -> Result<Object, RequestError> {
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(RequestError::TooLarge(bytes.len()));
    }
    json::object(bytes).map_err(RequestError::NotJson)
}

/// First half of the SHA-256 of the body's compact JSON. The map sorts its keys and keeps each number's text.
fn hash(body: &Object) -> [u8; 16] {
    let digest = Sha256::digest(json::text(body).as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// Why a request was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Its shape is wrong.
    Invalid,
    /// The id is taken by another body, or the order exists already.
    Conflict,
    /// Too much at once: try again.
    Busy,
    /// No room: try again later.
    Full,
    /// More bytes than are taken.
    TooLarge,
    /// Its time was over before it was stored.
    Expired,
    /// The house does not know the order.
    UnknownOrder,
    /// The order has ended.
    Final,
    /// The terminal may not.
    Unauthorized,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 9] = [
        Code::Invalid,
        Code::Conflict,
        Code::Busy,
        Code::Full,
        Code::TooLarge,
        Code::Expired,
        Code::UnknownOrder,
        Code::Final,
        Code::Unauthorized,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Invalid => "invalid",
            Code::Conflict => "conflict",
            Code::Busy => "busy",
            Code::Full => "full",
            Code::TooLarge => "too_large",
            Code::Expired => "expired",
            Code::UnknownOrder => "unknown_order",
            Code::Final => "final",
            Code::Unauthorized => "unauthorized",
        }
    }
}

/// The decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is on disk.
    Stored(Stored),
    /// It is not, and nothing of it is.
    Rejected(Rejected),
}

/// What a terminal hears once its request is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The request.
    pub request_id: RequestId,
    /// It was stored before; this is the first answer again.
    pub duplicate: bool,
    /// The order.
    pub order_id: OrderId,
    /// The event's id.
    pub event_id: [u8; 16],
    /// The ticket, where one was given.
    pub ticket: Option<Ticket>,
    /// The event's position in the outbox.
    pub seq: Seq,
}

/// Why nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The request, where its id could be read.
    pub request_id: Option<RequestId>,
    /// Why.
    pub code: Code,
    /// For people.
    pub message: String,
    /// When the same request is welcome again.
    pub retry_after_ms: Option<u64>,
}

impl Answer {
    /// A rejection.
    pub fn rejected(request_id: Option<RequestId>, code: Code, message: impl Into<String>, retry_after_ms: Option<u64>) -> Answer {
        Answer::Rejected(Rejected { request_id, code, message: message.into(), retry_after_ms })
    }
}

/// The answer as terminals read it.
impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answer = serializer.serialize_map(None)?;
        match self {
            Answer::Stored(stored) => {
                answer.serialize_entry("requestId", &stored.request_id)?;
                answer.serialize_entry("result", "stored")?;
                answer.serialize_entry("duplicate", &stored.duplicate)?;
                answer.serialize_entry("orderId", &stored.order_id)?;
                answer.serialize_entry("eventId", &uuid_text(&stored.event_id))?;
                if let Some(ticket) = stored.ticket {
                    answer.serialize_entry("ticket", &ticket)?;
                }
                answer.serialize_entry("seq", &stored.seq)?;
            }
            Answer::Rejected(rejected) => {
                answer.serialize_entry("requestId", &rejected.request_id)?;
                answer.serialize_entry("result", "rejected")?;
                answer.serialize_entry("code", &rejected.code)?;
                answer.serialize_entry("message", &rejected.message)?;
                if let Some(ms) = rejected.retry_after_ms {
                    answer.serialize_entry("retryAfterMs", &ms)?;
                }
            }
        }
        answer.end()
    }
}

/// A UUID's usual text.
pub fn uuid_text(id: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*id).hyphenated().to_string()
}

/// Reads a UUID's text back.
pub fn uuid_of(text: &str) -> Option<[u8; 16]> {
    uuid::Uuid::parse_str(text).ok().map(uuid::Uuid::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gives_no_field_that_is_the_gateways() {
        for field in OWN_FIELDS {
            let body = format!(r#"{{"requestId":"r-1","data":{{"orderDetails":[{{"foodId":"f","price":1}}],"{field}":false}}}}"#);
            let refused = Request::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(field), "{refused}");
        }
        assert!(Request::parse(br#"{"requestId":"r-1","data":{"orderDetails":[{"foodId":"f","price":1}]}}"#).is_ok());
    }
}
