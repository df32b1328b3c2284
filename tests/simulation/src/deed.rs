//! What an event does, in the simulator's own words: it is written down as JSON for the gateway, and applied by the reference model.

use crate::dice::Dice;
use gateway::order::{Payment, Status};

/// A line of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dish {
    /// `foodName`.
    pub name: &'static str,
    /// How many.
    pub quantity: u32,
    /// Price of one, in cents.
    pub cents: u64,
}

/// What an event does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A new order.
    Create {
        /// Its lines.
        dishes: Vec<Dish>,
        /// Whether the total is given.
        with_total: bool,
        /// The customer's name, if it is given.
        customer: Option<&'static str>,
    },
    /// A status of the order.
    Status(Status),
    /// A status of one line, from 1.
    LineStatus(u16, Status),
    /// New lines.
    Lines(Vec<Dish>),
    /// Some money back.
    Refund,
    /// A final order lives again.
    Reopen,
    /// A payment.
    Pay(Payment),
    /// Somebody carries it.
    Ship(&'static str),
    /// Called off, by its own type of event.
    Cancel,
    /// Handed over, by its own type of event.
    Deliver,
}

fn dishes(dice: &mut Dice) -> Vec<Dish> {
    const NAMES: [&str; 4] = ["Pizza Margherita", "Soup", "Crêpe", "Tea"];
    (0..dice.between(1, 4))
        .map(|_| Dish {
            name: dice.pick(&NAMES),
            quantity: u32::try_from(dice.between(1, 9)).expect("small"),
            cents: dice.between(50, 2_000),
        })
        .collect()
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// Σ price × quantity, as text.
pub fn total(dishes: &[Dish]) -> String {
    money(dishes.iter().map(|dish| dish.cents * u64::from(dish.quantity)).sum())
}

impl Deed {
    /// A new order.
    pub fn new_order(dice: &mut Dice) -> Deed {
        Deed::Create { dishes: dishes(dice), with_total: dice.chance(500), customer: dice.chance(300).then_some("Ada") }
    }

    /// Something that may happen to an order.
    pub fn any_change(dice: &mut Dice) -> Deed {
        match dice.below(20) {
            0..8 => Deed::Status(dice.pick(&Status::ALL)),
            8 => Deed::LineStatus(u16::try_from(dice.between(1, 5)).expect("small"), dice.pick(&Status::ALL)),
            9 => Deed::Lines(dishes(dice)),
            10 => Deed::Refund,
            11 => Deed::Reopen,
            12..15 => Deed::Pay(dice.pick(&Payment::ALL)),
            15 => Deed::Ship(dice.pick(&["bike 7", "bike 8"])),
            16..18 => Deed::Cancel,
            _ => Deed::Deliver,
        }
    }

    /// The event's type.
    pub fn event_type(&self) -> &'static str {
        match self {
            Deed::Create { .. } => "order.created",
            Deed::Status(_) | Deed::LineStatus(..) | Deed::Lines(_) | Deed::Refund | Deed::Reopen => "order.state_changed",
            Deed::Pay(_) => "order.payment_processed",
            Deed::Ship(_) => "order.shipper_assigned",
            Deed::Cancel => "order.cancelled",
            Deed::Deliver => "order.delivered",
        }
    }

    /// The event's `data`, and a further field of it.
    pub fn data(&self, more: &str) -> String {
        let lines = |dishes: &[Dish]| {
            let line =
                |dish: &Dish| format!(r#"{{"foodName":"{}","quantity":{},"price":{}}}"#, dish.name, dish.quantity, money(dish.cents));
            format!(r#""orderDetails":[{}]"#, dishes.iter().map(line).collect::<Vec<_>>().join(","))
        };
        let fields = match self {
            Deed::Create { dishes, with_total, customer } => {
                let mut fields = vec![lines(dishes)];
                fields.extend(with_total.then(|| format!(r#""totalPrice":{}"#, total(dishes))));
                fields.extend(customer.map(|name| format!(r#""customerName":"{name}""#)));
                fields.join(",")
            }
            Deed::Status(status) => format!(r#""status":"{}""#, status.as_str()),
            Deed::LineStatus(line, status) => format!(r#""line":{line},"status":"{}""#, status.as_str()),
            Deed::Lines(dishes) => format!(r#""change":"lines",{}"#, lines(dishes)),
            Deed::Refund => r#""change":"refund","amount":1.50,"reason":"cold""#.into(),
            Deed::Reopen => r#""change":"reopen""#.into(),
            Deed::Pay(payment) => format!(r#""status":"{}""#, payment.as_str()),
            Deed::Ship(name) => format!(r#""shipperName":"{name}""#),
            Deed::Cancel | Deed::Deliver => String::new(),
        };
        let fields: Vec<&str> = [fields.as_str(), more].into_iter().filter(|f| !f.is_empty()).collect();
        format!("{{{}}}", fields.join(","))
    }
}
