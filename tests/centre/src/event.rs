//! Events as a stranger reads and writes them: the gateway's headers, and `OrderEvent` JSON.

use crate::ledger::{EventName, RequestName};
use crate::payment::draw;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// An order, as far as answering it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub gateway: String,
    pub order_id: String,
    pub user_id: Option<String>,
    pub restaurant_id: Option<String>,
    /// The event that made it: answers get their ids from it.
    pub event_id: String,
}

impl Order {
    pub(crate) fn key(&self) -> (String, String) {
        (self.gateway.clone(), self.order_id.clone())
    }
}

/// What a record of the events topic is.
#[derive(Debug)]
pub(crate) enum Read {
    /// A gateway's event.
    Event(Box<Event>),
    /// It has no gateway's headers.
    Foreign,
    /// It cannot be read: why.
    Poison(String),
}

/// A gateway's event.
#[derive(Debug)]
pub(crate) struct Event {
    pub name: EventName,
    pub request: RequestName,
    pub event_type: String,
    pub order: Order,
    pub data: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: String,
    r#type: String,
    order_id: String,
    user_id: Option<String>,
    data: Map<String, Value>,
}

/// Reads a record.
pub(crate) fn read(message: &BorrowedMessage<'_>) -> Read {
    let header = |name: &str| {
        let header = message.headers()?.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(header.value?).into_owned())
    };
    let (Some(gateway), Some(epoch), Some(seq)) = (header("gateway-id"), header("gateway-epoch"), header("gateway-seq")) else {
        return Read::Foreign;
    };
    let Ok(seq) = seq.parse() else {
        return Read::Poison(format!("gateway-seq {seq:?} is no number"));
    };
    let wire = match serde_json::from_slice::<Wire>(message.payload().unwrap_or_default()) {
        Ok(wire) => wire,
        Err(error) => return Read::Poison(error.to_string()),
    };
    if message.key() != Some(wire.order_id.as_bytes()) {
        return Read::Poison("its key is not the order's id".into());
    }
    let order = Order {
        gateway: gateway.clone(),
        order_id: wire.order_id,
        user_id: wire.user_id,
        restaurant_id: wire.data.get("restaurantId").and_then(Value::as_str).map(str::to_owned),
        event_id: wire.id,
    };
    let request = RequestName {
        gateway: gateway.clone(),
        terminal: header("terminal").unwrap_or_default(),
        request_id: header("request-id").unwrap_or_default(),
    };
    Read::Event(Box::new(Event { name: EventName { gateway, epoch, seq }, request, event_type: wire.r#type, order, data: wire.data }))
}

/// An event of the centre's, for the house of a gateway.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub gateway: String,
    pub event_type: &'static str,
    value: Value,
}

impl Answer {
    /// The order has a new status.
    pub(crate) fn status(order: &Order, status: &str) -> Answer {
        Answer::new(order, "order.state_changed", json!({"status": status}))
    }

    /// The payment succeeded or failed. The amount keeps its digits.
    pub(crate) fn payment(order: &Order, amount: Option<&Value>, paid: bool) -> Answer {
        let status = if paid { "PAID" } else { "FAILED" };
        Answer::new(order, "order.payment_processed", json!({"status": status, "amount": amount}))
    }

    fn new(order: &Order, event_type: &'static str, mut data: Value) -> Answer {
        let id = answer_id(&order.event_id, event_type, data["status"].as_str().unwrap_or_default());
        if let Some(restaurant) = &order.restaurant_id {
            data["restaurantId"] = json!(restaurant);
        }
        let mut value = json!({"id": id, "type": event_type, "orderId": order.order_id, "data": data, "version": "1.0"});
        if let Some(user) = &order.user_id {
            value["userId"] = json!(user);
        }
        Answer { gateway: order.gateway.clone(), event_type, value }
    }

    /// The record's value, as of now.
    pub(crate) fn encode(mut self) -> Vec<u8> {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
        self.value["occurredAt"] = json!(now);
        self.value.to_string().into_bytes()
    }
}

/// A UUID (version 8, RFC 9562) that is the same each time the same event is answered in the same way.
fn answer_id(event_id: &str, event_type: &str, status: &str) -> String {
    let text = format!("{event_id}/{event_type}/{status}");
    let bits = (u128::from(draw(1, &text)) << 64) | u128::from(draw(2, &text));
    let hex = format!("{:032x}", (bits & !(0xf << 76) & !(0x3 << 62)) | (0x8 << 76) | (0x2 << 62));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            gateway: "store-042".into(),
            order_id: "order-1".into(),
            user_id: Some("user-1".into()),
            restaurant_id: Some("restaurant-789".into()),
            event_id: "0192aabb-ccdd-7eef-8000-000000000001".into(),
        }
    }

    #[test]
    fn an_answer_is_an_order_event() {
        let amount = serde_json::from_str("25.50").unwrap();
        let value: Value = serde_json::from_slice(&Answer::payment(&order(), Some(&amount), true).encode()).unwrap();
        assert_eq!(value["type"], "order.payment_processed");
        assert_eq!(value["orderId"], "order-1");
        assert_eq!(value["userId"], "user-1");
        assert_eq!(value["data"]["status"], "PAID");
        assert_eq!(value["data"]["amount"].to_string(), "25.50");
        assert_eq!(value["data"]["restaurantId"], "restaurant-789");
        assert_eq!(value["version"], "1.0");
        let occurred_at = value["occurredAt"].as_str().unwrap();
        assert!(occurred_at.parse::<jiff::Timestamp>().is_ok() && occurred_at.len() == 24, "{occurred_at}");
    }

    #[test]
    fn the_same_answer_has_the_same_id_and_no_other_has_it() {
        let id = |answer: Answer| answer.value["id"].as_str().unwrap().to_owned();
        let (confirmed, ready) = (id(Answer::status(&order(), "CONFIRMED")), id(Answer::status(&order(), "READY")));
        assert_eq!(confirmed, id(Answer::status(&order(), "CONFIRMED")));
        assert_ne!(confirmed, ready);
        assert_eq!((confirmed.len(), &confirmed[14..15]), (36, "8"));
        assert!("89ab".contains(&confirmed[19..20]), "{confirmed}");
    }
}
