//! The end of a day in figures: what each terminal took, and what of it is at the centre. Counted from what is on disk, one order after
//! the other, in memory that the number of terminals bounds.

use gateway::ids::Name;
use gateway::money::Decimal;
use gateway::order::{Payment, Projection, Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Terminals that are told apart; the orders of more are counted together.
const TERMINALS_MAX: usize = 256;

/// Who an order is from. The order of variants is that of the rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Terminal(Name),
    /// Terminals beyond [`TERMINALS_MAX`].
    Others,
    Centre,
}

/// So many orders, and their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    orders: u64,
    sum: Decimal,
}

impl Default for Part {
    fn default() -> Part {
        Part { orders: 0, sum: Decimal::ZERO }
    }
}

impl Part {
    fn add(&mut self, amount: Decimal) {
        self.orders += 1;
        // What does not fit into 38 digits is no money.
        self.sum = self.sum.plus(amount).unwrap_or(self.sum);
    }

    fn to_json(self) -> Value {
        json!({"orders": self.orders, "sum": self.sum.to_json()})
    }
}

/// What is counted of some orders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Row {
    /// All of them.
    all: Part,
    /// Called off.
    cancelled: Part,
    /// Of which money was given back, and how much.
    refunded: Part,
    /// Neither called off nor paid.
    unpaid: Part,
    /// Of which the sum is not known.
    without_total: u64,
    /// Not called off, less what was given back of them.
    net: Part,
}

impl Row {
    fn add(&mut self, order: &Projection) {
        let total = order.total();
        self.without_total += u64::from(total.is_none());
        let total = total.unwrap_or(Decimal::ZERO);
        self.all.add(total);
        let refunded = order.refunded().or((order.payment == Payment::Refunded).then_some(total));
        if let Some(refunded) = refunded {
            self.refunded.add(refunded);
        } else if order.payment == Payment::PartlyRefunded {
            // How much was not said.
            self.refunded.add(Decimal::ZERO);
        }
        if order.status == Status::Cancelled {
            return self.cancelled.add(total);
        }
        if matches!(order.payment, Payment::Pending | Payment::Failed) {
            self.unpaid.add(total);
        }
        self.net.add(total.minus(refunded.unwrap_or(Decimal::ZERO)).unwrap_or(total));
    }

    fn to_json(self) -> Value {
        json!({
            "orders": self.all.orders, "sum": self.all.sum.to_json(), "cancelled": self.cancelled.to_json(),
            "refunded": self.refunded.to_json(), "unpaid": self.unpaid.to_json(), "net": self.net.sum.to_json(),
            "withoutTotal": self.without_total,
        })
    }
}

/// The orders of a day, counted.
#[derive(Debug, Default)]
pub struct Sums {
    rows: BTreeMap<From, Row>,
    total: Row,
}

impl Sums {
    /// Counts an order.
    pub fn add(&mut self, order: &Projection) {
        let from = match &order.terminal {
            None => From::Centre,
            Some(terminal) => From::Terminal(terminal.clone()),
        };
        let known = self.rows.contains_key(&from) || from == From::Centre || self.rows.len() < TERMINALS_MAX;
        self.rows.entry(if known { from } else { From::Others }).or_default().add(order);
        self.total.add(order);
    }

    /// A row for each who sent some, and one for all.
    pub fn to_json(&self) -> (Value, Value) {
        let row = |(from, row): (&From, &Row)| {
            let mut row = row.to_json();
            (row["from"], row["terminal"]) = match from {
                From::Terminal(name) => ("terminal".into(), name.as_str().into()),
                From::Others => ("others".into(), Value::Null),
                From::Centre => ("centre".into(), Value::Null),
            };
            row
        };
        (self.rows.iter().map(row).collect(), self.total.to_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::order::{Effect, Moment, Source};
    use gateway::request::EventType;

    const AT: Moment = Moment { wall_ms: 1_704_110_400_000, run_ms: 0 };

    fn order(terminal: Option<&str>, total: &str, then: &[(EventType, Value)]) -> Projection {
        let total: Value = serde_json::from_str(total).unwrap();
        let data = json!({"totalPrice": total});
        let mut order = Projection::new("o-1".parse().unwrap(), |field| data.get(field), vec![], 0, AT);
        order.terminal = terminal.map(|name| name.parse().unwrap());
        for (event_type, data) in then {
            order.apply(&Effect::read(*event_type, data.as_object().unwrap()).unwrap(), Source::House, AT);
        }
        order
    }

    fn counted(orders: &[Projection]) -> (Value, Value) {
        let mut sums = Sums::default();
        orders.iter().for_each(|order| sums.add(order));
        sums.to_json()
    }

    fn refund(amount: &str) -> (EventType, Value) {
        let data = format!(r#"{{"change":"refund","amount":{amount},"reason":"cold"}}"#);
        (EventType::StateChanged, serde_json::from_str(&data).unwrap())
    }

    fn paid() -> (EventType, Value) {
        (EventType::PaymentProcessed, json!({}))
    }

    #[test]
    fn sums_are_exact_and_each_terminal_has_its_own() {
        let (rows, total) = counted(&[
            order(Some("till-1"), "0.10", &[paid()]),
            order(Some("till-1"), "0.20", &[paid(), refund("0.05")]),
            order(Some("till-2"), "12.50", &[(EventType::Cancelled, json!({}))]),
            order(None, "7", &[]),
        ]);
        assert_eq!(rows.as_array().map(Vec::len), Some(3));
        let text = |value: &Value| value.to_string();
        assert_eq!(
            (text(&rows[0]["terminal"]), text(&rows[0]["sum"]), text(&rows[0]["net"])),
            ("\"till-1\"".into(), "0.30".into(), "0.25".into())
        );
        assert_eq!(text(&rows[0]["refunded"]), r#"{"orders":1,"sum":0.05}"#);
        assert_eq!((text(&rows[1]["cancelled"]), text(&rows[1]["net"])), (r#"{"orders":1,"sum":12.50}"#.into(), "0".into()));
        assert_eq!((text(&rows[2]["from"]), text(&rows[2]["unpaid"])), ("\"centre\"".into(), r#"{"orders":1,"sum":7}"#.into()));
        assert_eq!((total["orders"].as_u64(), text(&total["sum"]), text(&total["net"])), (Some(4), "19.80".into(), "7.25".into()));
    }

    #[test]
    fn refunds_add_up_and_a_cancelled_order_owes_nothing() {
        let (_, total) = counted(&[
            order(Some("t"), "10.00", &[paid(), refund("2.50"), refund("7.50")]),
            order(Some("t"), "4.00", &[paid(), refund("4.00"), (EventType::Cancelled, json!({}))]),
            order(Some("t"), "3.00", &[(EventType::PaymentProcessed, json!({"status": "REFUNDED"}))]),
        ]);
        assert_eq!(total["refunded"].to_string(), r#"{"orders":3,"sum":17.00}"#);
        assert_eq!((total["net"].to_string(), total["cancelled"]["orders"].as_u64()), ("0.00".into(), Some(1)));
    }

    #[test]
    fn a_sum_that_is_not_known_is_said_to_be_missing() {
        let (_, total) = counted(&[order(Some("t"), "1e3", &[])]);
        assert_eq!((&total["withoutTotal"], total["sum"].to_string()), (&json!(1), "0".into()));
    }

    #[test]
    fn more_terminals_than_are_told_apart_are_counted_together() {
        let many: Vec<_> = (0..TERMINALS_MAX + 5).map(|n| order(Some(&format!("t-{n}")), "1", &[])).collect();
        let (rows, total) = counted(&many);
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), TERMINALS_MAX + 1);
        assert_eq!((&rows[TERMINALS_MAX]["from"], &rows[TERMINALS_MAX]["orders"]), (&json!("others"), &json!(5)));
        assert_eq!(total["orders"], TERMINALS_MAX + 5);
    }
}
