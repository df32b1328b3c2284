//! What people decide: about dead letters and alarms, and what they hear of it.

use super::{Check, Model, Violation, ensure};
use gateway::ids::{OrderId, ReplyTo, Seq};
use gateway::io::{Decided, Decision};

impl Model {
    /// A person is about to decide about a dead letter.
    pub fn deciding(&mut self, reply_to: ReplyTo, dead: Seq, decision: Decision) {
        self.wishes.push((dead, decision));
        self.life_mut().deciding.insert(reply_to, dead);
    }

    /// A person has seen an order's alarm.
    pub fn seeing(&mut self, reply_to: ReplyTo, order: OrderId) {
        self.life_mut().seeing.insert(reply_to, order);
    }

    /// A person hears what became of it.
    ///
    /// # Errors
    /// It is not true, or nobody asked.
    pub fn decided(&mut self, reply_to: ReplyTo, outcome: Decided) -> Check {
        if let Some(order) = self.life_mut().seeing.remove(&reply_to) {
            let alarm = self.image.orders.get(&order).is_some_and(|order| order.open && order.alarm.is_some());
            let done = matches!(outcome, Decided::Done { .. });
            ensure!(!(done && alarm), "the alarm of {order} is said to be acknowledged, and is there");
            return Ok(());
        }
        let Some(dead) = self.life_mut().deciding.remove(&reply_to) else {
            return Err(Violation(format!("{outcome:?} is said to nobody")));
        };
        let there = self.image.dead.contains_key(&dead);
        let waits = self.image.held.range((dead, Seq(0))..(dead.next(), Seq(0))).next().is_some();
        match outcome {
            Decided::Done { .. } => ensure!(!there && !waits, "{dead} is said to be done, and is there"),
            Decided::Unknown => ensure!(!there, "{dead} is said to be unknown, and is there"),
            Decided::Busy | Decided::Full => ensure!(there, "{dead} is refused as {outcome:?}, and is done"),
        }
        Ok(())
    }
}
