//! What the house knows of an order, and what events do to it.

use crate::ids::{Name, OrderId, Ticket};
use crate::json::Object;
use crate::money::{Decimal, count};
use crate::request::EventType;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most lines that an order may have.
pub const LINES_MAX: usize = 200;
/// Largest quantity of a line.
pub const QUANTITY_MAX: u32 = 9_999;
/// Bytes of text that a projection keeps of its lines; what is longer is cut, and the cut is marked.
pub const LINES_BYTES_MAX: usize = 3 * 1024;
/// Most status changes that a projection remembers; the oldest go first.
pub const HISTORY_MAX: usize = 16;
/// Longest `displayNumber`, in characters.
pub const DISPLAY_NUMBER_LEN_MAX: usize = 6;
/// Longest short text (name, channel, shipper, station …) that a projection keeps, in bytes.
const SHORT_TEXT_MAX: usize = 64;

/// Status of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Stored.
    Created,
    /// The centre took it.
    Confirmed,
    /// In work.
    Preparing,
    /// May be collected.
    Ready,
    /// On its way.
    OutForDelivery,
    /// Handed over. Final.
    Delivered,
    /// Called off. Final.
    Cancelled,
}

impl Status {
    /// Every status, in the usual order.
    pub const ALL: [Status; 7] = [
        Status::Created,
        Status::Confirmed,
        Status::Preparing,
        Status::Ready,
        Status::OutForDelivery,
        Status::Delivered,
        Status::Cancelled,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "CREATED",
            Status::Confirmed => "CONFIRMED",
            Status::Preparing => "PREPARING",
            Status::Ready => "READY",
            Status::OutForDelivery => "OUT_FOR_DELIVERY",
            Status::Delivered => "DELIVERED",
            Status::Cancelled => "CANCELLED",
        }
    }

    /// The status of that word.
    pub fn from_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.as_str() == name)
    }

    /// Nothing follows, except by `reopen`.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Delivered | Status::Cancelled)
    }
}

/// Payment of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Payment {
    /// Not yet.
    Pending,
    /// Paid.
    Paid,
    /// Tried and failed.
    Failed,
    /// All of it given back.
    Refunded,
    /// Some of it given back.
    PartlyRefunded,
}

impl Payment {
    /// Every state.
    pub const ALL: [Payment; 5] = [Payment::Pending, Payment::Paid, Payment::Failed, Payment::Refunded, Payment::PartlyRefunded];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Payment::Pending => "PENDING",
            Payment::Paid => "PAID",
            Payment::Failed => "FAILED",
            Payment::Refunded => "REFUNDED",
            Payment::PartlyRefunded => "PARTLY_REFUNDED",
        }
    }

    /// The state of that word.
    pub fn from_name(name: &str) -> Option<Payment> {
        Payment::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

/// One line of an order, as far as people in the house need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// `foodId`.
    pub food_id: String,
    /// `foodName`.
    pub food_name: String,
    /// How many.
    pub quantity: u32,
    /// `modifiers`, each as text.
    pub modifiers: Vec<String>,
    /// `notes`.
    pub notes: String,
    /// `allergens`, each as text.
    pub allergens: Vec<String>,
    /// `station`.
    pub station: String,
    /// Its own status.
    pub status: Status,
}

/// Why `data` does not fit its type: a sentence for the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectError(pub String);

/// What an event does to an order, read from its type and `data`.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A new order with these lines, and the sum of its lines if `totalPrice` is missing.
    Create {
        /// The lines, and how many were cut.
        lines: Vec<Line>,
        /// Lines beyond [`LINES_BYTES_MAX`].
        lines_omitted: u16,
        /// Σ price × quantity − discount, if no total was given.
        total_if_missing: Option<Value>,
    },
    /// A new status of the order, or of one line of it (counted from 1).
    Status(Status, Option<u16>),
    /// New lines instead of the old.
    Lines {
        /// The lines.
        lines: Vec<Line>,
        /// Lines beyond [`LINES_BYTES_MAX`].
        lines_omitted: u16,
        /// The total's text, as given or added up; `None` leaves the old one.
        total: Option<String>,
    },
    /// So much money given back.
    Refund(Decimal),
    /// A final order lives again.
    Reopen,
    /// A payment.
    Payment(Payment),
    /// Somebody carries it.
    Shipper(String),
}

impl Effect {
    /// Reads what an event of this type does.
    ///
    /// # Errors
    /// Which field of `data` is missing or wrong.
    pub fn read(event_type: EventType, data: &Object) -> Result<Effect, EffectError> {
        match event_type {
            EventType::Created => {
                let total_if_missing = match data.get("totalPrice") {
                    None => Some(sum_of_lines(data)?.to_json()),
                    Some(Value::Number(_)) => None,
                    Some(_) => return Err(EffectError("data.totalPrice must be a number".into())),
                };
                if let Some(number) = data.get("displayNumber") {
                    let fits = number.as_str().is_some_and(|n| (1..=DISPLAY_NUMBER_LEN_MAX).contains(&n.chars().count()));
                    if !fits {
                        return Err(EffectError(format!(
                            "data.displayNumber must be a string of 1 to {DISPLAY_NUMBER_LEN_MAX} characters"
                        )));
                    }
                }
                let (lines, lines_omitted) = read_lines(data)?;
                Ok(Effect::Create { lines, lines_omitted, total_if_missing })
            }
            EventType::StateChanged => read_state_change(data),
            EventType::PaymentProcessed => {
                let word = ["status", "paymentStatus"].iter().find_map(|f| data.get(*f));
                match word {
                    None => Ok(Effect::Payment(Payment::Paid)),
                    Some(value) => (value.as_str().and_then(Payment::from_name).map(Effect::Payment))
                        .ok_or_else(|| EffectError("data.status must be PENDING, PAID, FAILED, REFUNDED or PARTLY_REFUNDED".into())),
                }
            }
            EventType::ShipperAssigned => {
                let name = ["shipperName", "shipperId", "shipper"].iter().find_map(|f| data.get(*f)?.as_str());
                name.map(|n| Effect::Shipper(cut(n, SHORT_TEXT_MAX))).ok_or_else(|| EffectError("data.shipperId is missing".into()))
            }
            EventType::Cancelled => Ok(Effect::Status(Status::Cancelled, None)),
            EventType::Delivered => Ok(Effect::Status(Status::Delivered, None)),
        }
    }
}

fn read_state_change(data: &Object) -> Result<Effect, EffectError> {
    match data.get("change").map(Value::as_str) {
        None => {}
        Some(Some("lines")) => {
            let (lines, lines_omitted) = read_lines(data)?;
            // Without prices there is nothing to add up.
            let priced = details(data)?.iter().all(|line| line.get("price").is_some());
            let added_up = || sum_of_lines(data).ok().filter(|_| priced).map(Decimal::to_json);
            let total = data.get("totalPrice").filter(|total| total.is_number()).cloned().or_else(added_up);
            return Ok(Effect::Lines { lines, lines_omitted, total: total.as_ref().and_then(total_text) });
        }
        Some(Some("refund")) => {
            let amount = data.get("amount").and_then(Decimal::read).filter(|a| !a.is_negative());
            let reason = data.get("reason").and_then(Value::as_str);
            return match (amount, reason) {
                (Some(amount), Some(_)) => Ok(Effect::Refund(amount)),
                _ => Err(EffectError("a refund needs data.amount, a number, and data.reason, a string".into())),
            };
        }
        Some(Some("reopen")) => return Ok(Effect::Reopen),
        Some(_) => return Err(EffectError("data.change must be lines, refund or reopen".into())),
    }
    let status = (data.get("status").and_then(Value::as_str).and_then(Status::from_name)).ok_or_else(|| {
        EffectError("data.status must be one of CREATED, CONFIRMED, PREPARING, READY, OUT_FOR_DELIVERY, DELIVERED, CANCELLED".into())
    })?;
    let line = match data.get("line") {
        None => None,
        Some(n) => {
            let number = count(n).and_then(|n| u16::try_from(n).ok()).filter(|n| *n >= 1);
            Some(number.ok_or_else(|| EffectError("data.line must be the number of a line, from 1".into()))?)
        }
    };
    Ok(Effect::Status(status, line))
}

fn details(data: &Object) -> Result<&Vec<Value>, EffectError> {
    match data.get("orderDetails") {
        Some(Value::Array(lines)) if (1..=LINES_MAX).contains(&lines.len()) => Ok(lines),
        Some(Value::Array(_)) => Err(EffectError(format!("data.orderDetails must have 1 to {LINES_MAX} lines"))),
        Some(_) => Err(EffectError("data.orderDetails must be an array".into())),
        None => Err(EffectError("data.orderDetails is missing".into())),
    }
}

fn quantity(line: &Value) -> Option<u32> {
    match line.get("quantity") {
        None => Some(1),
        Some(value) => count(value).and_then(|q| u32::try_from(q).ok()).filter(|q| (1..=QUANTITY_MAX).contains(q)),
    }
}

fn amount(line: &Value, field: &str) -> Option<Decimal> {
    match line.get(field) {
        None | Some(Value::Null) => Some(Decimal::ZERO),
        Some(value) => Decimal::read(value),
    }
}

fn sum_of_lines(data: &Object) -> Result<Decimal, EffectError> {
    let wrong = |n: usize| {
        EffectError(format!(
            "data.orderDetails[{n}] needs a decimal price, a whole quantity and a decimal discount to add up a missing totalPrice"
        ))
    };
    details(data)?.iter().enumerate().try_fold(Decimal::ZERO, |sum, (n, line)| {
        let line_sum = (|| amount(line, "price")?.times(quantity(line)?)?.minus(amount(line, "discount")?))();
        line_sum.and_then(|l| sum.plus(l)).ok_or_else(|| wrong(n))
    })
}

fn total_text(total: &Value) -> Option<String> {
    Some(total).filter(|total| total.is_number()).map(Value::to_string).filter(|text| text.len() <= SHORT_TEXT_MAX)
}

fn cut(text: &str, len_max: usize) -> String {
    if text.len() <= len_max {
        return text.into();
    }
    let end = (0..=len_max - '…'.len_utf8()).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", &text[..end])
}

fn text(line: &Value, field: &str, len_max: usize) -> String {
    line.get(field).and_then(Value::as_str).map(|t| cut(t, len_max)).unwrap_or_default()
}

fn texts(line: &Value, field: &str) -> Vec<String> {
    let word = |v: &Value| v.as_str().or_else(|| v.get("name")?.as_str()).map(|t| cut(t, SHORT_TEXT_MAX));
    match line.get(field) {
        Some(Value::Array(values)) => values.iter().filter_map(word).take(16).collect(),
        Some(value) => word(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The lines that fit into [`LINES_BYTES_MAX`], and how many do not.
fn read_lines(data: &Object) -> Result<(Vec<Line>, u16), EffectError> {
    let all = details(data)?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for (n, value) in all.iter().enumerate() {
        if !value.is_object() {
            return Err(EffectError(format!("data.orderDetails[{n}] must be an object")));
        }
        let quantity = quantity(value)
            .ok_or_else(|| EffectError(format!("data.orderDetails[{n}].quantity must be a whole number from 1 to {QUANTITY_MAX}")))?;
        if amount(value, "price").is_none() {
            return Err(EffectError(format!("data.orderDetails[{n}].price must be a decimal number")));
        }
        let line = Line {
            food_id: text(value, "foodId", SHORT_TEXT_MAX),
            food_name: text(value, "foodName", SHORT_TEXT_MAX),
            quantity,
            modifiers: texts(value, "modifiers"),
            notes: text(value, "notes", 256),
            allergens: texts(value, "allergens"),
            station: text(value, "station", SHORT_TEXT_MAX),
            status: Status::Created,
        };
        bytes += line.weight();
        if bytes <= LINES_BYTES_MAX {
            lines.push(line);
        }
    }
    // At most LINES_MAX lines came in, which is far below u16::MAX.
    let omitted = u16::try_from(all.len() - lines.len()).unwrap_or(u16::MAX);
    Ok((lines, omitted))
}

impl Line {
    fn weight(&self) -> usize {
        let list = |l: &[String]| l.iter().map(|t| t.len() + 2).sum::<usize>();
        16 + self.food_id.len()
            + self.food_name.len()
            + self.notes.len()
            + self.station.len()
            + list(&self.modifiers)
            + list(&self.allergens)
    }
}

/// Who caused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A terminal or a page in the house.
    House,
    /// The chain's centre.
    Centre,
}

/// What people in the kitchen must see until one of them says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alarm {
    /// Cancelled while in work.
    Cancelled,
    /// The payment failed while in work.
    PaymentFailed,
}

/// A status that was reported, also where it moved nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was reported.
    pub status: Status,
    /// By whom.
    pub source: Source,
    /// When the gateway read it, Unix milliseconds.
    pub at_ms: i64,
}

/// What the house knows of an order. At most 4 KiB as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projection {
    /// The order.
    pub order_id: OrderId,
    /// Its status.
    pub status: Status,
    /// Its payment.
    pub payment: Payment,
    /// Its number, if it has one.
    pub ticket: Option<Ticket>,
    /// Shown in place of the ticket.
    pub display_number: Option<String>,
    /// Eat in, takeaway, delivery.
    pub channel: Option<String>,
    /// The customer's name.
    pub customer_name: Option<String>,
    /// When it is due, as it was given.
    pub due_at: Option<String>,
    /// The total's text, as given or added up.
    pub total: Option<String>,
    /// Who carries it.
    pub shipper: Option<String>,
    /// Who submitted it; `None` for an order that was born at the centre.
    pub terminal: Option<Name>,
    /// Admission, Unix milliseconds.
    pub created_at_ms: i64,
    /// Last change, Unix milliseconds.
    pub updated_at_ms: i64,
    /// Running time of the last change.
    pub changed_run_ms: u64,
    /// Running time at which it became READY, while it is.
    pub ready_run_ms: Option<u64>,
    /// Its lines.
    pub lines: Vec<Line>,
    /// Lines that did not fit, or are forgotten.
    pub lines_omitted: u16,
    /// The last reports.
    pub history: Vec<Report>,
    /// The house has set PREPARING or later.
    pub house_leads: bool,
    /// Shown until acknowledged.
    pub alarm: Option<Alarm>,
    /// It may be a repeat of an order from a lost session.
    pub maybe_stored: bool,
    /// It stands on the board, or in the kitchen with its alarm.
    pub open: bool,
    /// The text of what was given back, where an amount was told. Stored apart from the rest: most orders have none.
    #[serde(skip)]
    pub refunded: Option<String>,
}

/// When a change happens: the wall time written down, and the running time that ages are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Unix milliseconds.
    pub wall_ms: i64,
    /// Milliseconds that the store has been running for.
    pub run_ms: u64,
}

impl Projection {
    /// A new order. `data` gives a field of the event's `data`.
    pub fn new<'a>(
        order_id: OrderId,
        data: impl Fn(&str) -> Option<&'a Value>,
        lines: Vec<Line>,
        lines_omitted: u16,
        at: Moment,
    ) -> Projection {
        let short = |field: &str| data(field).and_then(Value::as_str).map(|t| cut(t, SHORT_TEXT_MAX));
        Projection {
            order_id,
            status: Status::Created,
            payment: Payment::Pending,
            ticket: None,
            display_number: short("displayNumber"),
            channel: short("channel"),
            customer_name: short("customerName"),
            due_at: short("dueAt"),
            total: data("totalPrice").and_then(total_text),
            shipper: None,
            terminal: None,
            created_at_ms: at.wall_ms,
            updated_at_ms: at.wall_ms,
            changed_run_ms: at.run_ms,
            ready_run_ms: None,
            lines,
            lines_omitted,
            history: vec![],
            house_leads: false,
            alarm: None,
            maybe_stored: false,
            open: true,
            refunded: None,
        }
    }

    /// The total, if it is a sum that can be counted with.
    pub fn total(&self) -> Option<Decimal> {
        Decimal::parse(self.total.as_deref()?)
    }

    /// What was given back, where an amount was told.
    pub fn refunded(&self) -> Option<Decimal> {
        Decimal::parse(self.refunded.as_deref()?)
    }

    /// Whether an effect of the house may be applied; a final order takes only what leaves its status alone, or `reopen`.
    pub fn admits(&self, effect: &Effect) -> bool {
        match effect {
            Effect::Create { .. } => false,
            Effect::Refund(_) | Effect::Reopen | Effect::Payment(_) => true,
            Effect::Status(..) | Effect::Lines { .. } | Effect::Shipper(_) => !self.status.is_final(),
        }
    }

    /// Applies an effect. Reports whether anything that is shown changed; a centre's status that the house is past goes into the history only.
    pub fn apply(&mut self, effect: &Effect, source: Source, at: Moment) -> bool {
        let changed = match effect {
            Effect::Create { .. } => false,
            Effect::Status(status, Some(line)) => self.set_line(*line, *status),
            Effect::Status(status, None) => self.set_status(*status, source, at),
            Effect::Lines { lines, lines_omitted, total } => {
                self.lines.clone_from(lines);
                self.total = total.clone().or(self.total.take());
                self.lines_omitted = *lines_omitted;
                true
            }
            Effect::Refund(amount) => self.refund(*amount),
            Effect::Reopen => self.reopen(at),
            Effect::Payment(payment) => self.set_payment(*payment),
            Effect::Shipper(name) => self.shipper.replace(name.clone()).as_ref() != Some(name),
        };
        if changed {
            self.updated_at_ms = at.wall_ms;
            self.changed_run_ms = at.run_ms;
        }
        changed
    }

    fn set_line(&mut self, line: u16, status: Status) -> bool {
        match self.lines.get_mut(usize::from(line) - 1) {
            Some(line) if line.status != status => {
                line.status = status;
                true
            }
            Some(_) | None => false,
        }
    }

    fn set_status(&mut self, status: Status, source: Source, at: Moment) -> bool {
        let report = Report { status, source, at_ms: at.wall_ms };
        let repeated = self.history.last().is_some_and(|last| last.status == status && last.source == source);
        if !repeated {
            if self.history.len() == HISTORY_MAX {
                self.history.remove(0);
            }
            self.history.push(report);
        }
        if self.status == status || !self.moves(status, source) {
            return false;
        }
        if status == Status::Cancelled && self.in_work() {
            self.alarm = Some(Alarm::Cancelled);
        }
        self.house_leads |= source == Source::House && status >= Status::Preparing;
        self.ready_run_ms = (status == Status::Ready).then_some(at.run_ms);
        self.status = status;
        self.open = self.is_wanted();
        true
    }

    /// Somebody works on it: the kitchen need not say so of the whole order, a line is enough.
    fn in_work(&self) -> bool {
        let begun = self.lines.iter().any(|line| line.status != Status::Created);
        matches!(self.status, Status::Preparing | Status::Ready) || begun && self.status < Status::Ready
    }

    /// Whether it stands on the board, or in the kitchen, for as long as its time there is not over.
    pub fn is_wanted(&self) -> bool {
        !self.status.is_final() || self.alarm.is_some()
    }

    /// Only the house moves an order backwards, and once it leads, the centre's kitchen statuses move nothing.
    fn moves(&self, status: Status, source: Source) -> bool {
        let kitchen = matches!(status, Status::Created | Status::Confirmed | Status::Preparing | Status::Ready);
        match source {
            _ if self.status.is_final() => false,
            Source::House => true,
            Source::Centre => status > self.status && !(self.house_leads && kitchen),
        }
    }

    fn set_payment(&mut self, payment: Payment) -> bool {
        if self.payment == payment {
            return false;
        }
        if payment == Payment::Failed && self.in_work() {
            self.alarm = Some(Alarm::PaymentFailed);
        }
        self.payment = payment;
        true
    }

    /// Refunds add up; once they reach the total all of it is given back.
    fn refund(&mut self, amount: Decimal) -> bool {
        // What does not fit into 38 digits is no money.
        let Some(refunded) = self.refunded().unwrap_or(Decimal::ZERO).plus(amount) else { return false };
        let left = self.total().and_then(|total| refunded.minus(total));
        let all = left.is_some_and(|left| !left.is_negative());
        self.refunded = Some(refunded.to_json().to_string());
        self.set_payment(if all { Payment::Refunded } else { Payment::PartlyRefunded });
        true
    }

    fn reopen(&mut self, at: Moment) -> bool {
        if !self.status.is_final() {
            return false;
        }
        self.status = Status::Preparing;
        self.ready_run_ms = None;
        self.house_leads = true;
        self.open = true;
        self.history.push(Report { status: Status::Preparing, source: Source::House, at_ms: at.wall_ms });
        if self.history.len() > HISTORY_MAX {
            self.history.remove(0);
        }
        true
    }

    /// The order without what was ordered and by whom: what a house counts by stays.
    #[must_use]
    pub fn without_details(&self) -> Projection {
        let lines = u16::try_from(self.lines.len()).unwrap_or(u16::MAX);
        Projection {
            display_number: None,
            customer_name: None,
            due_at: None,
            shipper: None,
            lines: vec![],
            lines_omitted: self.lines_omitted.saturating_add(lines),
            ..self.clone()
        }
    }

    /// What people call out: the display number, else the ticket.
    pub fn number(&self) -> Option<String> {
        self.display_number.clone().or_else(|| self.ticket.map(|t| t.0.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{Board, BoardRules};

    const AT: Moment = Moment { wall_ms: 1_704_110_400_000, run_ms: 0 };
    const CANCEL: Effect = Effect::Status(Status::Cancelled, None);

    /// An order of two lines, with a ticket.
    fn order() -> Projection {
        let data = serde_json::json!({"orderDetails": [{"foodName": "Ramen"}, {"foodName": "Pizza"}]});
        let (lines, omitted) = read_lines(data.as_object().unwrap()).unwrap();
        Projection { ticket: Some(Ticket(7)), ..Projection::new("o-1".parse().unwrap(), |_| None, lines, omitted, AT) }
    }

    fn after(effects: &[(Effect, Source)]) -> Projection {
        let mut order = order();
        for (effect, source) in effects {
            order.apply(effect, *source, AT);
        }
        order
    }

    #[test]
    fn an_order_that_is_cancelled_in_work_stands_in_the_kitchen_and_not_on_the_board() {
        let begun = [Effect::Status(Status::Preparing, None), Effect::Status(Status::Ready, None), Effect::Status(Status::Ready, Some(2))];
        for (begun, source) in begun.into_iter().flat_map(|begun| [Source::House, Source::Centre].map(|source| (begun.clone(), source))) {
            let cancelled = after(&[(begun.clone(), Source::House), (CANCEL, source)]);
            assert_eq!((cancelled.open, cancelled.alarm), (true, Some(Alarm::Cancelled)), "{begun:?}");
            assert_eq!(Board::of([&cancelled].into_iter()), Board::default());
        }
    }

    #[test]
    fn an_order_that_nobody_has_begun_is_cancelled_without_an_alarm() {
        for before in [Status::Created, Status::Confirmed, Status::OutForDelivery] {
            let cancelled = after(&[(Effect::Status(before, None), Source::House), (CANCEL, Source::Centre)]);
            assert_eq!((cancelled.open, cancelled.alarm), (false, None), "{before:?}");
        }
    }

    #[test]
    fn refunds_add_up_to_all_of_it() {
        let read = |data: serde_json::Value| Effect::read(EventType::StateChanged, data.as_object().unwrap()).unwrap();
        let refund = |amount: f64| read(serde_json::json!({"change": "refund", "amount": amount, "reason": "cold"}));
        let lines = read(serde_json::json!({"change": "lines", "orderDetails": [{"price": 4.5, "quantity": 2, "discount": 1}]}));
        let mut order = after(&[(lines, Source::House), (refund(2.5), Source::Centre)]);
        assert_eq!((order.total.as_deref(), order.refunded.as_deref(), order.payment), (Some("8.0"), Some("2.5"), Payment::PartlyRefunded));
        order.apply(&refund(5.5), Source::House, AT);
        assert_eq!((order.refunded.as_deref(), order.payment), (Some("8.0"), Payment::Refunded));
        let unpriced = read(serde_json::json!({"change": "lines", "orderDetails": [{"foodName": "Ramen"}]}));
        order.apply(&unpriced, Source::House, AT);
        assert_eq!(order.total.as_deref(), Some("8.0"), "lines without prices leave the total");
    }

    #[test]
    fn an_alarm_outlives_the_end_of_its_order_and_the_time_of_what_is_ready() {
        let rules = BoardRules::default();
        let failed = (Effect::Payment(Payment::Failed), Source::Centre);
        let ready = after(&[(Effect::Status(Status::Ready, None), Source::House), failed.clone()]);
        assert_eq!(ready.alarm, Some(Alarm::PaymentFailed));
        assert_eq!(rules.leaves_at(&ready), rules.unchanged_ms);
        let handed_over = after(&[
            (Effect::Status(Status::Preparing, None), Source::House),
            failed,
            (Effect::Status(Status::Delivered, None), Source::House),
        ]);
        assert!(handed_over.open && handed_over.status.is_final());
        assert_eq!(rules.leaves_at(&Projection { alarm: None, ..ready }), rules.ready_ms);
    }
}
