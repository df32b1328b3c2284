//! Mistakes that a gateway could make, one by one: the simulator must see each of them.
//!
//! They are made in the simulated shell and disk, so that no production code carries them: a wrong output of the core is rewritten on
//! its way out, a wrong belief on its way in.

use crate::dice::Dice;
use crate::model::Model;
use gateway::ids::Seq;
use gateway::io::{Change, CommitFailure, Found, Input, Opened, Output};
use gateway::order::Projection;
use gateway::request::{Answer, Stored};
use std::sync::Arc;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// A terminal hears *stored* when the commit begins.
    AnswersBeforeTheSync,
    /// A commit returns without a sync.
    SkipsASync,
    /// Opening the store trusts what an earlier process wrote and did not sync.
    OpensWithoutASync,
    /// A power cut tears a batch apart.
    TearsABatch,
    /// An event is stored without its request id.
    ForgetsARequestId,
    /// A remembered request is not found.
    FindsNoRequest,
    /// Two events of one order go to Kafka in the wrong order.
    ReordersAResend,
    /// An event goes to Kafka before it is durable.
    DeliversBeforeTheSync,
    /// Kafka's acknowledgement is believed though none came.
    AcknowledgesByItself,
    /// The outbox forgets one event too many.
    ForgetsOneTooMany,
    /// The end of a commit is not heard.
    LosesAnInput,
    /// An order gets a ticket that is on the board.
    DuplicatesATicket,
    /// An offset is stored without the projection that belongs to it.
    StoresAnOffsetAlone,
    /// An unclear commit counts as stored.
    TrustsAnUnclearCommit,
    /// An unclear commit counts as not written.
    DeniesAnUnclearCommit,
    /// A request is answered twice.
    AnswersTwice,
    /// A seq is given to a second event.
    ReusesASeq,
    /// A board shows what is not durable yet.
    ShowsBeforeTheSync,
    /// The producer goes on behind a batch that failed, as it does without the gapless guarantee.
    LeavesAGap,
    /// A repeat is told that it is the first.
    HidesADuplicate,
    /// The time as last known is saved with new tickets only.
    ForgetsTheTime,
    /// A session is told that was never stored.
    ForgetsASession,
    /// A session's number is used and not stored.
    ForgetsASessionNumber,
    /// A first answer is told as a copy.
    DeniesAFirst,
    /// What was held behind a dead letter goes on in the wrong order.
    ReordersARelease,
    /// A dead letter that is retried is given up.
    GivesUpARetried,
}

impl Breakage {
    /// All of them.
    pub const ALL: [Breakage; 26] = [
        Breakage::AnswersBeforeTheSync,
        Breakage::SkipsASync,
        Breakage::OpensWithoutASync,
        Breakage::TearsABatch,
        Breakage::ForgetsARequestId,
        Breakage::FindsNoRequest,
        Breakage::ReordersAResend,
        Breakage::DeliversBeforeTheSync,
        Breakage::AcknowledgesByItself,
        Breakage::ForgetsOneTooMany,
        Breakage::LosesAnInput,
        Breakage::DuplicatesATicket,
        Breakage::StoresAnOffsetAlone,
        Breakage::TrustsAnUnclearCommit,
        Breakage::DeniesAnUnclearCommit,
        Breakage::AnswersTwice,
        Breakage::ReusesASeq,
        Breakage::ShowsBeforeTheSync,
        Breakage::LeavesAGap,
        Breakage::HidesADuplicate,
        Breakage::ForgetsTheTime,
        Breakage::ForgetsASession,
        Breakage::ForgetsASessionNumber,
        Breakage::DeniesAFirst,
        Breakage::ReordersARelease,
        Breakage::GivesUpARetried,
    ];

    /// The breakage of that name.
    pub fn from_name(name: &str) -> Option<Breakage> {
        Breakage::ALL.into_iter().find(|breakage| format!("{breakage:?}") == name)
    }

    /// What becomes of an output.
    pub fn rewrite_output(self, dice: &mut Dice, model: &Model, output: Output) -> Vec<Output> {
        match (self, output) {
            (Breakage::AnswersBeforeTheSync, Output::Store { commit, batch }) => {
                let mut outputs = Vec::new();
                for change in &batch {
                    let Change::Remember(key, first) = change else { continue };
                    let Some(reply_to) = model.waits_for(key) else { continue };
                    let (order_id, ticket) = (first.order_id.clone(), first.ticket.map(gateway::ids::Ticket));
                    let request_id = key.request_id.clone();
                    let stored = Stored { request_id, duplicate: false, order_id, event_id: first.event_id, ticket, seq: first.seq };
                    outputs.push(Output::Answer { reply_to, answer: Answer::Stored(stored) });
                }
                outputs.push(Output::Store { commit, batch });
                outputs
            }
            (Breakage::ForgetsARequestId, Output::Store { commit, mut batch }) if dice.chance(200) => {
                batch.retain(|change| !matches!(change, Change::Remember(..)));
                vec![Output::Store { commit, batch }]
            }
            (Breakage::DeliversBeforeTheSync, Output::Store { commit, batch }) => {
                let producer = model.producer();
                let events = batch.iter().filter_map(|change| match change {
                    Change::Enqueue(seq, event) if dice.chance(300) => {
                        Some(Output::Deliver { producer, seq: *seq, event: Arc::clone(event) })
                    }
                    _ => None,
                });
                let mut outputs: Vec<_> = events.collect();
                outputs.push(Output::Store { commit, batch });
                outputs
            }
            (Breakage::ForgetsOneTooMany, Output::Store { commit, mut batch }) => {
                for change in &mut batch {
                    if let Change::Forget { upto, .. } = change
                        && upto.next() < model.image.next_seq
                    {
                        *upto = upto.next();
                    }
                }
                vec![Output::Store { commit, batch }]
            }
            (Breakage::DuplicatesATicket, Output::Store { commit, mut batch }) => {
                let taken = model.image.open_orders().find_map(|order| order.ticket);
                for change in &mut batch {
                    match (change, taken) {
                        (Change::Project(order), Some(ticket)) if !model.image.orders.contains_key(&order.order_id) => {
                            *order = Arc::new(Projection { ticket: Some(ticket), ..order.as_ref().clone() });
                        }
                        (Change::Remember(_, first), Some(ticket)) if first.ticket.is_some() => first.ticket = Some(ticket.0),
                        _ => {}
                    }
                }
                vec![Output::Store { commit, batch }]
            }
            (Breakage::StoresAnOffsetAlone, Output::Store { commit, mut batch }) => {
                if batch.iter().any(|change| matches!(change, Change::Offset(..)))
                    && !batch.iter().any(|c| matches!(c, Change::Enqueue(..)))
                {
                    batch.retain(|change| !matches!(change, Change::Project(_)));
                }
                vec![Output::Store { commit, batch }]
            }
            (Breakage::ShowsBeforeTheSync, Output::Store { commit, batch }) => {
                let orders = batch.iter().filter_map(|change| match change {
                    Change::Project(order) => Some(Arc::clone(order)),
                    _ => None,
                });
                let shown = Output::Show(orders.collect());
                vec![shown, Output::Store { commit, batch }]
            }
            (Breakage::ForgetsTheTime, Output::Store { commit, mut batch }) => {
                let position = (model.image.counters.last_ticket, model.image.counters.business_day);
                if batch.iter().any(|change| matches!(change, Change::Enqueue(..))) {
                    batch.retain(|change| !matches!(change, Change::Counters(c) if (c.last_ticket, c.business_day) == position));
                }
                vec![Output::Store { commit, batch }]
            }
            (Breakage::ForgetsASession, Output::Store { commit, mut batch }) if batch.len() > 1 => {
                batch.retain(|change| !matches!(change, Change::Session(_, _, 0)));
                vec![Output::Store { commit, batch }]
            }
            (Breakage::ForgetsASessionNumber, Output::Store { commit, mut batch }) => {
                batch.retain(|change| !matches!(change, Change::Session(_, _, 1..)));
                vec![Output::Store { commit, batch }]
            }
            (Breakage::DeniesAFirst, Output::Answer { reply_to, answer: Answer::Stored(stored) }) if dice.chance(100) => {
                vec![Output::Answer { reply_to, answer: Answer::Stored(Stored { duplicate: true, ..stored }) }]
            }
            (Breakage::ReordersARelease, Output::Store { commit, mut batch }) => {
                let again: Vec<usize> =
                    (1..batch.len()).filter(|i| matches!((&batch[i - 1], &batch[*i]), (Change::Release(_), Change::Enqueue(..)))).collect();
                if let [.., first, second] = again[..]
                    && let (Change::Enqueue(_, a), Change::Enqueue(_, b)) = (batch[first].clone(), batch[second].clone())
                    && a.order_id == b.order_id
                {
                    let swap = |change: &mut Change, event| {
                        if let Change::Enqueue(_, place) = change {
                            *place = event;
                        }
                    };
                    swap(&mut batch[first], b);
                    swap(&mut batch[second], a);
                }
                vec![Output::Store { commit, batch }]
            }
            (Breakage::GivesUpARetried, Output::Store { commit, mut batch }) => {
                // Only where it is the last one: seqs stay contiguous.
                let last = batch.iter().rposition(|change| matches!(change, Change::Enqueue(..)));
                if let Some(last) = last.filter(|last| *last > 0)
                    && let Change::Release(dead) = &batch[last - 1]
                    && model.image.dead.contains_key(dead)
                {
                    batch.remove(last);
                }
                vec![Output::Store { commit, batch }]
            }
            (Breakage::AnswersTwice, Output::Answer { reply_to, answer }) if dice.chance(100) => {
                vec![Output::Answer { reply_to, answer: answer.clone() }, Output::Answer { reply_to, answer }]
            }
            (Breakage::HidesADuplicate, Output::Answer { reply_to, answer: Answer::Stored(stored) }) => {
                vec![Output::Answer { reply_to, answer: Answer::Stored(Stored { duplicate: false, ..stored }) }]
            }
            (_, output) => vec![output],
        }
    }

    /// What becomes of all outputs of one step together.
    pub fn rewrite_step(self, outputs: &mut [Output]) {
        if self == Breakage::ReordersAResend {
            let key = |output: &Output| match output {
                Output::Deliver { event, .. } => Some(event.order_id.clone()),
                _ => None,
            };
            for later in 1..outputs.len() {
                let Some(order) = key(&outputs[later]) else { continue };
                if let Some(earlier) = (0..later).find(|i| key(&outputs[*i]).as_ref() == Some(&order)) {
                    outputs.swap(earlier, later);
                    return;
                }
            }
        }
    }

    /// What the core hears instead of an input; the outermost `None` is nothing at all.
    pub fn rewrite_input(self, dice: &mut Dice, input: &Input) -> Option<Option<Input>> {
        match (self, input) {
            (Breakage::LosesAnInput, Input::Stored { .. }) if dice.chance(50) => None,
            (Breakage::FindsNoRequest, Input::Loaded { load, found }) => {
                Some(Some(Input::Loaded { load: *load, found: Found { request: None, ..found.clone() } }))
            }
            (Breakage::TrustsAnUnclearCommit, Input::StoreFailed { commit, failure: CommitFailure::Unclear }) => {
                Some(Some(Input::Stored { commit: *commit }))
            }
            (Breakage::DeniesAnUnclearCommit, Input::StoreFailed { commit, failure: CommitFailure::Unclear }) => {
                Some(Some(Input::StoreFailed { commit: *commit, failure: CommitFailure::NoSpace }))
            }
            (Breakage::ReusesASeq, Input::Reopened(opened)) => {
                let next_seq = Seq(opened.next_seq.0.saturating_sub(1).max(1));
                Some(Some(Input::Reopened(Box::new(Opened { next_seq, ..opened.as_ref().clone() }))))
            }
            _ => Some(None),
        }
    }
}
