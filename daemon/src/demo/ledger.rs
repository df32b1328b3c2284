//! The ledger: what the terminals heard against what the centre got.

use crate::demo::child::GATEWAY;
use crate::demo::tills::{Counts, Tills};
use centre::{Centre, Kitchen, Settings};
use serde_json::json;
use std::fmt;
use std::time::Duration;

/// A centre that takes its time, and a kitchen behind it, so that a board shows orders come and go within the demo.
pub fn centre_settings(brokers: &str) -> Settings {
    let step = Duration::from_secs(3);
    let kitchen = Kitchen { preparing: step, ready: step, delivered: 2 * step };
    Settings { delay: Duration::from_millis(300), kitchen: Some(kitchen), ..Settings::new(brokers) }
}

/// The trial's end in numbers.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    counts: Counts,
    delivered: u64,
    repeats: u64,
    lost: u64,
    doubled: u64,
    out_of_order: u64,
    outages: u32,
    kills: u32,
}

impl Ledger {
    /// Compares what the terminals saw with what the centre saw, as of now.
    pub fn draw_up(tills: &Tills, centre: &Centre, outages: u32, kills: u32) -> Ledger {
        let stored = tills.stored_orders();
        let counts = tills.counts();
        centre.ledger(|seen| Ledger {
            counts,
            delivered: seen.delivered,
            repeats: seen.repeats,
            lost: stored.iter().filter(|order| seen.order(GATEWAY, order).is_empty()).count() as u64,
            doubled: seen.doubled,
            out_of_order: seen.out_of_order,
            outages,
            kills,
        })
    }

    /// Every order that a terminal heard *stored* for is at the centre.
    pub fn has_arrived(&self) -> bool {
        self.lost == 0
    }

    /// Nothing was lost, doubled or out of order, and something was tried at all.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.delivered > 0
    }

    /// One line, for programs.
    pub fn to_json(&self) -> String {
        json!({
            "submitted": self.counts.submitted, "stored": self.counts.stored, "rejected": self.counts.rejected,
            "delivered": self.delivered, "repeats": self.repeats, "lost": self.lost, "doubled": self.doubled,
            "outOfOrder": self.out_of_order, "statusesShown": self.counts.statuses_shown, "outages": self.outages, "kills": self.kills,
        })
        .to_string()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("submitted by the terminals", self.counts.submitted),
            ("answered stored", self.counts.stored),
            ("answered rejected", self.counts.rejected),
            ("delivered to the centre", self.delivered),
            ("repeats, marked as such", self.repeats),
            ("statuses shown in the house", self.counts.statuses_shown),
            ("times the line was cut", self.outages.into()),
            ("times the gateway was killed", self.kills.into()),
            ("LOST", self.lost),
            ("DOUBLED", self.doubled),
            ("OUT OF ORDER", self.out_of_order),
        ];
        writeln!(f, "\nThe ledger")?;
        for (what, number) in rows {
            writeln!(f, "  {what:<30}{number:>8}")?;
        }
        Ok(())
    }
}
