//! The journal: what Kafka has got, where and when, and what people did, and who.
//!
//! The store keeps delivered events where they are; what is written down of a delivery rides on the commit that forgets it. A delivery
//! that could not be kept in memory until then is journalled without its place: the journal never holds delivery up.

use crate::admission::Work;
use crate::commit::Draft;
use crate::gateway::Gateway;
use crate::ids::{OrderId, ReplyTo, Seq};
use crate::io::{Change, Decided, Output};
use crate::order::Moment;
use crate::time::Now;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Deliveries that wait for the commit that forgets them. Beyond it the journal does not say where an event went.
pub const SENT_MAX: usize = 8_192;
/// Commands that wait for a commit. Beyond it people are asked to wait.
pub const COMMANDS_MAX: usize = 16;
/// Longest name of who gave a command, in bytes; more is cut off.
pub const BY_BYTES_MAX: usize = 64;

/// Where and when Kafka took an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Which event.
    pub seq: Seq,
    /// The partition, from 0.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// When its acknowledgement came, in Unix milliseconds.
    pub at_ms: i64,
}

/// What is written down of the events that one commit forgets: those above the mark before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The last of them.
    pub upto: Seq,
    /// Running time then, for expiry.
    pub run_ms: u64,
    /// Those of them that Kafka took, by seq.
    pub sent: Vec<Sent>,
}

/// A command that changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Running time then, for expiry.
    pub run_ms: u64,
    /// Who gave it, at most [`BY_BYTES_MAX`].
    pub by: String,
    /// What it was.
    pub deed: Deed,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A dead letter was sent again.
    Retry {
        /// Its seq.
        dead: Seq,
        /// Its order.
        order: OrderId,
    },
    /// A dead letter was given up.
    Discard {
        /// Its seq.
        dead: Seq,
        /// Its order.
        order: OrderId,
    },
    /// Delivered events are sent once more.
    Replay {
        /// Those delivered at this time or later, in Unix milliseconds.
        from_ms: i64,
        /// And before this.
        to_ms: i64,
        /// Only those of this order.
        order: Option<OrderId>,
    },
    /// Somebody has seen an order's alarm.
    Acknowledge {
        /// The order.
        order: OrderId,
    },
}

impl Command {
    pub(crate) fn new(moment: Moment, by: &str, deed: Deed) -> Command {
        let by = by[..by.floor_char_boundary(BY_BYTES_MAX)].to_owned();
        Command { at_ms: moment.wall_ms, run_ms: moment.run_ms, by, deed }
    }
}

impl Deed {
    /// Whether it concerns an order.
    pub fn concerns(&self, id: &OrderId) -> bool {
        match self {
            Deed::Retry { order, .. } | Deed::Discard { order, .. } | Deed::Acknowledge { order } => order == id,
            Deed::Replay { order, .. } => order.as_ref() == Some(id),
        }
    }
}

/// What waits to be written down.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    sent: Vec<Sent>,
    commands: VecDeque<(ReplyTo, Command)>,
}

impl Journal {
    /// Commands and deliveries that are not written down yet.
    pub fn waiting(&self) -> (usize, usize) {
        (self.commands.len(), self.sent.len())
    }

    /// Kafka took an event; gives whether that will be written down.
    #[must_use]
    pub fn sent(&mut self, sent: Sent) -> bool {
        let has_room = self.sent.len() < SENT_MAX;
        if has_room {
            self.sent.push(sent);
        }
        has_room
    }

    /// What is known of the events up to `upto`. Of one that was sent twice, the later delivery.
    pub fn mark(&self, upto: Seq, run_ms: u64) -> Mark {
        let mut sent: Vec<_> = self.sent.iter().rev().filter(|sent| sent.seq <= upto).copied().collect();
        sent.sort_by_key(|sent| sent.seq);
        sent.dedup_by_key(|sent| sent.seq);
        Mark { upto, run_ms, sent }
    }

    /// That is durable.
    pub fn forget(&mut self, upto: Seq) {
        self.sent.retain(|sent| sent.seq > upto);
    }
}

impl Gateway {
    pub(crate) fn command(&mut self, now: Now, reply_to: ReplyTo, by: &str, deed: Deed) {
        if self.journal.commands.len() >= COMMANDS_MAX {
            self.tally.commands_refused += 1;
            return self.outputs.push_back(Output::Decided { reply_to, outcome: Decided::Busy });
        }
        let seen = match &deed {
            Deed::Acknowledge { order } => Some(order.clone()),
            Deed::Retry { .. } | Deed::Discard { .. } | Deed::Replay { .. } => None,
        };
        if seen.as_ref().is_some_and(|order| self.open.get(order).is_none_or(|open| open.alarm.is_none())) {
            return self.outputs.push_back(Output::Decided { reply_to, outcome: Decided::Unknown });
        }
        let command = Command::new(self.moment(now), by, deed);
        self.journal.commands.push_back((reply_to, command));
        if let Some(order) = seen {
            self.enter(&order, Work::Tidy);
        }
    }

    /// Commands, but for those that wait for their order's lane.
    pub(crate) fn draft_commands(&mut self, draft: &mut Draft) {
        self.draft_commands_of(draft, |deed| !matches!(deed, Deed::Acknowledge { .. }));
    }

    /// That the order's alarm was seen; gives whether it was.
    pub(crate) fn draft_acknowledgements(&mut self, order: &OrderId, draft: &mut Draft) -> bool {
        self.draft_commands_of(draft, |deed| matches!(deed, Deed::Acknowledge { order: seen } if seen == order))
    }

    fn draft_commands_of(&mut self, draft: &mut Draft, wanted: impl Fn(&Deed) -> bool) -> bool {
        let before = draft.commit.commands.len();
        for (reply_to, command) in std::mem::take(&mut self.journal.commands) {
            if wanted(&command.deed) {
                draft.add(2, Change::Command(command));
                draft.commit.commands.push(reply_to);
            } else {
                self.journal.commands.push_back((reply_to, command));
            }
        }
        draft.commit.commands.len() > before
    }
}
