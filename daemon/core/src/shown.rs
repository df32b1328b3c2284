//! Orders as terminals and pages see them.

use crate::ids::{Name, OrderId, Ticket};
use crate::order::{Alarm, Line, Payment, Projection, Status};
use crate::time::rfc3339;
use serde::Serialize;
use serde_json::value::RawValue;

impl Projection {
    /// The order as terminals and pages see it.
    pub fn shown(&self) -> impl Serialize + '_ {
        Shown {
            order_id: &self.order_id,
            status: self.status,
            payment: self.payment,
            created_at: rfc3339(self.created_at_ms),
            updated_at: rfc3339(self.updated_at_ms),
            lines: self.lines.iter().map(Line::shown).collect(),
            ticket: self.ticket,
            total_price: self.total.as_deref().and_then(|total| serde_json::from_str(total).ok()),
            refunded: self.refunded.as_deref().and_then(|refunded| serde_json::from_str(refunded).ok()),
            terminal_id: self.terminal.as_ref(),
            display_number: self.display_number.as_deref(),
            channel: self.channel.as_deref(),
            customer_name: self.customer_name.as_deref(),
            due_at: self.due_at.as_deref(),
            shipper: self.shipper.as_deref(),
            lines_omitted: (self.lines_omitted > 0).then_some(self.lines_omitted),
            alarm: self.alarm.map(|alarm| match alarm {
                Alarm::Cancelled => "CANCELLED",
                Alarm::PaymentFailed => "PAYMENT_FAILED",
            }),
            maybe_stored: self.maybe_stored.then_some(true),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    order_id: &'a OrderId,
    status: Status,
    payment: Payment,
    created_at: String,
    updated_at: String,
    lines: Vec<ShownLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<Ticket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_price: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refunded: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    terminal_id: Option<&'a Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shipper: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines_omitted: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alarm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maybe_stored: Option<bool>,
}

impl Line {
    fn shown(&self) -> ShownLine<'_> {
        ShownLine {
            food_id: &self.food_id,
            food_name: &self.food_name,
            quantity: self.quantity,
            status: self.status,
            modifiers: &self.modifiers,
            allergens: &self.allergens,
            notes: &self.notes,
            station: &self.station,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownLine<'a> {
    food_id: &'a str,
    food_name: &'a str,
    quantity: u32,
    status: Status,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    modifiers: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    allergens: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    notes: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    station: &'a str,
}
