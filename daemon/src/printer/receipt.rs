//! Prices: what a receipt shows of an order beside what the house knows of it, from the events that the journal keeps.

use super::escpos::{BOLD, PLAIN, Page, TALL};
use super::ticket::dish;
use gateway::event::OrderEvent;
use gateway::money::Decimal;
use gateway::order::LINES_MAX;
use gateway::printed::Paper;
use gateway::request::EventType;
use serde_json::Value;

/// The prices of an order's lines, as its last event that had lines gave them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bill {
    /// A line each, in the order of the order's lines. Empty if no event is kept.
    sums: Vec<Option<Decimal>>,
    /// Its digits as given.
    pub total: Option<String>,
}

impl Bill {
    /// Of these events, oldest first.
    pub fn of<'e>(events: impl Iterator<Item = &'e OrderEvent>, total: Option<&str>) -> Bill {
        let mut bill = Bill { sums: vec![], total: total.map(str::to_owned) };
        for event in events.filter(|event| matches!(event.event_type, EventType::Created | EventType::StateChanged)) {
            let data = serde_json::from_str::<Value>(&event.data).unwrap_or(Value::Null);
            if let Some(details) = data.get("orderDetails").and_then(Value::as_array) {
                bill.sums = details.iter().take(LINES_MAX).map(sum).collect();
                if event.event_type == EventType::StateChanged {
                    // What was told of the whole at first is not what it costs now.
                    let added_up = || bill.sums.iter().try_fold(Decimal::ZERO, |total, sum| total.plus((*sum)?));
                    let given = data.get("totalPrice").and_then(Decimal::read);
                    bill.total = given.or_else(added_up).map(|total| total.to_json().to_string());
                }
            }
        }
        bill
    }

    /// Its lines and the total.
    pub fn lay_out(&self, page: &mut Page, paper: &Paper) {
        for (n, line) in paper.lines.iter().enumerate() {
            let lead = format!("{} x ", line.quantity);
            match self.sums.get(n).and_then(Option::as_ref) {
                Some(sum) => page.amount(PLAIN, &lead, dish(line), &sum.to_json().to_string()),
                None => drop(page.text(PLAIN, &lead, dish(line))),
            }
            for modifier in &line.modifiers {
                page.text(PLAIN, "    + ", modifier);
            }
        }
        if let Some(total) = &self.total {
            page.rule();
            page.amount(TALL, "", "TOTAL", total);
        } else {
            page.text(BOLD, "", "no total is known");
        }
    }
}

/// Price × quantity − discount, with all its digits.
fn sum(line: &Value) -> Option<Decimal> {
    let amount = |field: &str| line.get(field).filter(|value| !value.is_null()).map_or(Some(Decimal::ZERO), Decimal::read);
    let quantity = match line.get("quantity") {
        None => 1,
        Some(quantity) => u32::try_from(gateway::money::count(quantity)?).ok()?,
    };
    line.get("price")?;
    amount("price")?.times(quantity)?.minus(amount("discount")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CodePage;
    use gateway::event::Clock;
    use gateway::ids::{Epoch, RequestKey};
    use gateway::order::{Line, Status};
    use serde_json::json;

    fn event(event_type: EventType, data: &Value) -> OrderEvent {
        OrderEvent {
            epoch: Epoch(1),
            request: RequestKey { terminal: "till-1".parse().unwrap(), request_id: "r".parse().unwrap() },
            id: [0; 16],
            event_type,
            order_id: "o-1".parse().unwrap(),
            user_id: None,
            occurred_at_ms: 0,
            clock: Clock::Synced,
            data: data.to_string(),
        }
    }

    fn shown(bill: &Bill, dishes: &[(u32, &str)]) -> String {
        let line = |(quantity, dish): &(u32, &str)| Line {
            food_id: String::new(),
            food_name: (*dish).into(),
            quantity: *quantity,
            modifiers: vec![],
            notes: String::new(),
            allergens: vec![],
            station: String::new(),
            status: Status::Created,
        };
        let paper = Paper { cancelled: false, lines: dishes.iter().map(line).collect(), lines_omitted: 0 };
        let mut page = Page::new(24, CodePage::Pc858);
        bill.lay_out(&mut page, &paper);
        let text: String = page.into_bytes().into_iter().skip(8).map(char::from).filter(|c| !c.is_control() || *c == '\n').collect();
        text
    }

    #[test]
    fn prices_keep_their_digits_and_the_discount_is_taken_off() {
        let created = json!({"orderDetails": [{"price": 0.10, "quantity": 3, "discount": 0.05}, {"price": 12.50}]});
        let created = serde_json::from_str(&created.to_string().replace("0.1,", "0.10,").replace("12.5}", "12.50}")).unwrap();
        let bill = Bill::of([event(EventType::Created, &created)].iter(), Some("12.75"));
        let text = shown(&bill, &[(3, "Tea"), (1, "Pizza")]);
        assert!(text.contains("3 x Tea             0.25\n1 x Pizza          12.50\n"), "{text}");
        assert!(text.contains("TOTAL              12.75\n"), "{text}");
    }

    #[test]
    fn what_was_ordered_anew_costs_what_it_costs_now() {
        let created = json!({"orderDetails": [{"price": 5}]});
        let changed = json!({"change": "lines", "orderDetails": [{"price": 2.5, "quantity": 2}, {"price": 1}]});
        let events = [event(EventType::Created, &created), event(EventType::StateChanged, &changed)];
        let text = shown(&Bill::of(events.iter(), Some("5")), &[(2, "Tea"), (1, "Bun")]);
        assert!(
            text.contains("2 x Tea              5.0\n1 x Bun                1\n") && text.contains("TOTAL                6.0\n"),
            "{text}"
        );
        let unknown = shown(&Bill::of([].iter(), None), &[(2, "Tea")]);
        assert!(unknown.starts_with("2 x Tea\n") && unknown.ends_with("no total is known\n"), "{unknown}");
    }
}
