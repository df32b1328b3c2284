//! How the gateway speaks to one kind of centre. The outbox keeps the canonical event; a dialect encodes it when it is delivered and
//! decodes what comes back.

mod order_event;

use crate::event::OrderEvent;
use crate::ids::{Name, OrderId, Seq};
use crate::io::Record;
use crate::json::Object;
use crate::order::Effect;
use crate::request::EventType;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use uuid::Uuid;

/// A kind of centre.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// `OrderEvent` JSON on one topic, keyed by order id.
    #[default]
    OrderEvent,
}

/// How a key becomes a partition. The word is librdkafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// Java's.
    Murmur2Random,
    /// Sarama's.
    Fnv1aRandom,
    /// librdkafka's own.
    ConsistentRandom,
}

impl Partitioner {
    /// librdkafka's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Partitioner::Murmur2Random => "murmur2_random",
            Partitioner::Fnv1aRandom => "fnv1a_random",
            Partitioner::ConsistentRandom => "consistent_random",
        }
    }
}

/// An event as it goes to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The message key.
    pub key: &'a str,
    /// The message value.
    pub value: Vec<u8>,
    /// The message headers.
    pub headers: [(&'static str, Cow<'a, str>); 9],
}

/// An event that came from Kafka.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// Its type.
    pub event_type: EventType,
    /// The order.
    pub order_id: OrderId,
    /// The restaurant that it names.
    pub restaurant_id: Option<String>,
    /// The event's `data`.
    pub data: Object,
    /// What it does.
    pub effect: Effect,
}

impl Dialect {
    /// The partitioner of this kind of centre's own producers.
    pub fn partitioner(self) -> Partitioner {
        match self {
            Dialect::OrderEvent => Partitioner::Fnv1aRandom,
        }
    }

    /// Encodes an event for Kafka, with the headers by which any consumer drops a repeat and proves that no seq is missing.
    pub fn encode<'a>(self, gateway: &'a Name, seq: Seq, event: &'a OrderEvent) -> Outgoing<'a> {
        let key = match self {
            Dialect::OrderEvent => event.order_id.as_str(),
        };
        let headers = [
            ("gateway-id", gateway.as_str().into()),
            ("gateway-epoch", event.epoch.to_string().into()),
            ("gateway-seq", seq.to_string().into()),
            ("gateway-clock", event.clock.as_str().into()),
            ("terminal", event.request.terminal.as_str().into()),
            ("request-id", event.request.request_id.as_str().into()),
            ("event-type", event.event_type.as_str().into()),
            ("content-type", "application/json".into()),
            ("traceparent", traceparent(&event.id).into()),
        ];
        Outgoing { key, value: self.value(event), headers }
    }

    /// The message value alone.
    pub fn value(self, event: &OrderEvent) -> Vec<u8> {
        match self {
            Dialect::OrderEvent => order_event::encode(event),
        }
    }

    /// Decodes a record of a status topic.
    ///
    /// # Errors
    /// Why it is poison: a sentence fragment for the log, without any of the record's own text.
    pub fn decode(self, record: &Record) -> Result<Incoming, String> {
        match self {
            Dialect::OrderEvent => order_event::decode(record),
        }
    }
}

/// A W3C trace context made from the event's id, so that a retry carries the same one: <https://www.w3.org/TR/trace-context/>.
fn traceparent(event_id: &[u8; 16]) -> String {
    let mut buffer = Uuid::encode_buffer();
    let trace = &*Uuid::from_bytes(*event_id).simple().encode_lower(&mut buffer);
    // The span is the id's random half; the variant bits make it non-zero, as the specification asks.
    let span = &trace[16..];
    ["00-", trace, "-", span, "-01"].concat()
}
