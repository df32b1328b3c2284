//! What the house's printers have of its orders. Printing is the shell's; the core makes what is known of it durable.

use crate::commit::Draft;
use crate::gateway::Gateway;
use crate::ids::{Name, OrderId, ReplyTo};
use crate::io::{Change, Decided, Output};
use crate::order::Line;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Writes that wait for a commit, each of at most [`MARKS_MAX`]. Beyond it the printer is asked to wait.
const WRITES_MAX: usize = 64;
/// Marks of one write.
pub const MARKS_MAX: usize = 16;

/// Which mark: what a printer has of an order, or, without one, that the printer is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrintKey {
    /// The printer.
    pub printer: Name,
    /// The order.
    pub order: Option<OrderId>,
}

/// What a ticket says of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paper {
    /// That it is cancelled.
    pub cancelled: bool,
    /// Its lines, as far as they are this printer's. Each status is [`crate::order::Status::Created`].
    pub lines: Vec<Line>,
    /// Lines that did not fit.
    pub lines_omitted: u16,
}

/// What a printer has of an order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Printed {
    /// The last ticket that certainly is on paper.
    pub sure: Option<Paper>,
    /// A later one that was begun: it may be on paper, wholly, in part, or not.
    pub perhaps: Option<Paper>,
}

pub(crate) type Prints = VecDeque<(ReplyTo, Vec<(PrintKey, Printed)>)>;

impl Gateway {
    pub(crate) fn print(&mut self, reply_to: ReplyTo, marks: Vec<(PrintKey, Printed)>) {
        if self.prints.len() >= WRITES_MAX || marks.len() > MARKS_MAX {
            return self.outputs.push_back(Output::Decided { reply_to, outcome: Decided::Busy });
        }
        self.prints.push_back((reply_to, marks));
    }

    pub(crate) fn draft_prints(&mut self, draft: &mut Draft) {
        while draft.room_for(MARKS_MAX) {
            let Some((reply_to, marks)) = self.prints.pop_front() else { return };
            for (key, printed) in marks {
                key.order.iter().for_each(|order| self.sweep.order_changes(order));
                draft.add(1, Change::Print(key, printed));
            }
            draft.commit.commands.push(reply_to);
        }
    }
}
