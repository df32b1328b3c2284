//! A new store with a known gateway id: a card was replaced, or a gateway was. What Kafka has of this gateway's own events is read back,
//! and makes the remembered requests, the tickets and the board what they were. Until then requests are refused, for a bounded time.
//!
//! An event that is read back twice, or that this store admitted itself, changes nothing: nothing is forgotten for it, nothing is stored
//! under a second seq, and nothing is sent. What the events do not say is in docs/decisions/0009-new-card.md.

use crate::admission::Work;
use crate::commit::{Draft, draft_projection};
use crate::downlink::{News, Stage};
use crate::event::OrderEvent;
use crate::gateway::Gateway;
use crate::ids::{Epoch, OrderId, RequestKey, Seq, Ticket};
use crate::io::{BODY_UNKNOWN, Change, Notice, Opened, Output, PartitionName, Remembered};
use crate::json::{self, Object};
use crate::money::count;
use crate::order::{Effect, EffectError, Moment, Projection, Source};
use crate::settings::Settings;
use crate::time::{Now, Wall};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// The field that marks an event's `data` when a new store admitted it before it was rebuilt: it may have been stored before.
pub(crate) const MAYBE_STORED: &str = "maybeStored";
/// At [`place`]: it is to be rebuilt at the next start.
pub const TO_DO: i64 = 0;
/// At [`place`]: as [`TO_DO`], and requests are taken already. A restart does not refuse them again.
const LATE: i64 = 1;
/// Above the others: an offset that is stored covers those below it.
const DONE: i64 = 2;
/// No topic has this name.
const PLACE: &str = "#rebuild";

/// An own event, read back from Kafka.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    /// The request that it was admitted for.
    pub request: RequestKey,
    /// The epoch that it was admitted under.
    pub epoch: Epoch,
    /// Its seq.
    pub seq: Seq,
    /// Its id, a UUID.
    pub event_id: [u8; 16],
    /// When it was admitted.
    pub at: Wall,
    /// Its order.
    pub order_id: OrderId,
    /// Its `data`.
    pub data: Object,
    /// What it did; `None` where that cannot be told any more.
    pub effect: Option<Effect>,
}

/// What comes of reading back.
#[derive(Debug, Clone)]
pub enum Recall {
    /// Kafka was reached.
    Reached,
    /// An event. Those of an order come in the order of their seqs; beyond [`Gateway::takes_status`] they wait outside.
    Event(Box<Recalled>),
    /// That was all.
    Ended,
}

impl Opened {
    /// What is at [`place`].
    fn rebuilt(&self) -> Option<i64> {
        self.offsets.iter().find(|(at, _)| *at == place()).map(|(_, state)| *state)
    }

    /// Whether Kafka's own events are still to be read back.
    pub fn to_rebuild(&self) -> bool {
        self.is_new || self.rebuilt().is_some_and(|state| state != DONE)
    }
}

/// Where the offsets say whether the store is rebuilt, which is no topic: [`TO_DO`], or what only this module knows.
pub fn place() -> PartitionName {
    PartitionName { topic: PLACE.into(), partition: -1 }
}

/// How far rebuilding has come.
#[derive(Debug)]
pub(crate) struct Rebuild {
    /// `None` once it is done, or where there is nothing to do.
    phase: Option<Phase>,
    read_max_ms: u64,
    /// When the newest order with a ticket was admitted.
    newest_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct Phase {
    /// Requests are refused until then; `None` once they are not any more.
    refuses_until: Option<u64>,
    reached: bool,
    ended: bool,
}

impl Rebuild {
    pub fn new(settings: &Settings, opened: &Opened, now: Now) -> Rebuild {
        let new_card = settings.new_card.filter(|_| opened.to_rebuild());
        let refuses = opened.rebuilt() != Some(LATE);
        let begin = |until| Phase { refuses_until: refuses.then_some(until), reached: false, ended: false };
        Rebuild {
            phase: new_card.map(|new_card| begin(now.mono_ms + new_card.reach_max_ms)),
            read_max_ms: new_card.map_or(0, |new_card| new_card.read_max_ms),
            newest_ms: i64::MIN,
        }
    }

    /// Whether own events are still to be read back.
    pub fn is_under_way(&self) -> bool {
        self.phase.is_some()
    }

    /// Requests are refused until then.
    pub fn refuses_until(&self) -> Option<u64> {
        self.phase?.refuses_until
    }

    /// An order with a ticket was admitted, or recalled; says whether none is newer.
    pub fn ticket_given(&mut self, at_ms: i64) -> bool {
        let newest = at_ms >= self.newest_ms;
        self.newest_ms = self.newest_ms.max(at_ms);
        newest
    }
}

impl Gateway {
    pub(crate) fn recall(&mut self, now: Now, recall: Recall) {
        let Some(phase) = &mut self.rebuild.phase else { return };
        match recall {
            Recall::Reached => {
                if !std::mem::replace(&mut phase.reached, true) {
                    let until = now.mono_ms + self.rebuild.read_max_ms;
                    phase.refuses_until = phase.refuses_until.map(|before| before.max(until));
                }
            }
            Recall::Event(recalled) => {
                let order = recalled.order_id.clone();
                let number = self.downlink.push(now.mono_ms, None, News::Recalled(Arc::from(recalled)), true);
                self.enter(&order, Work::Status(number));
            }
            Recall::Ended => phase.ended = true,
        }
    }

    /// Ends the refusing when its time is over, and the rebuilding when all is recalled.
    pub(crate) fn check_rebuild(&mut self, now: Now) {
        let Some(phase) = &mut self.rebuild.phase else { return };
        if phase.ended && !self.downlink.is_recalling() {
            self.rebuild.phase = None;
            self.downlink.place(place(), DONE, now.mono_ms);
            self.board_changed();
            return self.outputs.push_back(Output::Notice(Notice::Rebuilt { recalled: self.tally.recalled }));
        }
        if phase.refuses_until.is_some_and(|until| until <= now.mono_ms) {
            phase.refuses_until = None;
            self.downlink.place(place(), LATE, now.mono_ms);
            self.outputs.push_back(Output::Notice(Notice::NotRebuilt));
        }
    }

    /// What a store begins with that is to be rebuilt: a crash before the end begins anew.
    pub(crate) fn draft_rebuild(&self, draft: &mut Draft) {
        if let Some(phase) = self.rebuild.phase {
            let state = if phase.refuses_until.is_some() { TO_DO } else { LATE };
            draft.add(1, Change::Offset(place(), state));
        }
    }

    /// What an own event makes of the store; `false` if the record is none.
    pub(crate) fn draft_recalled(&mut self, now: Now, number: u64, draft: &mut Draft) -> bool {
        let Some(recalled) = self.downlink.recalled(number).map(Arc::clone) else { return false };
        let Some(entry) = self.downlink.get_mut(number) else { return false };
        let Stage::Ready(found) = std::mem::replace(&mut entry.stage, Stage::Committing) else { return true };
        let Recalled { request, epoch, seq, event_id, .. } = &*recalled;
        if *epoch != self.epoch && !self.epochs.contains(epoch) && !draft.commit.former_epochs.contains(epoch) {
            draft.add(1, Change::FormerEpoch(*epoch));
            draft.commit.former_epochs.push(*epoch);
        }
        let moment = self.moment_of(now, recalled.at);
        match found.request {
            None => {
                draft.add(1, Change::Remember(request.clone(), recalled.remembered(moment)));
                self.tally.recalled += 1;
            }
            // Where a person had a dead letter sent again, the first seq is the one that was told.
            Some(first) if first.event_id == *event_id && *seq < first.seq => {
                draft.add(1, Change::Remember(request.clone(), Remembered { seq: *seq, ..first }));
                return true;
            }
            Some(first) if first.event_id == *event_id => return true,
            Some(_) => {
                self.tally.stored_twice += 1;
                self.outputs.push_back(Output::Notice(Notice::StoredTwice(request.clone())));
            }
        }
        if let Some(ticket) = recalled.ticket()
            && self.rebuild.ticket_given(recalled.at.unix_ms)
        {
            self.open.rewind_tickets((ticket.0, recalled.at.business_day));
        }
        if now.wall.is_none() {
            self.last_wall_ms = self.last_wall_ms.max(recalled.at.unix_ms);
        }
        let known = self.open.get(&recalled.order_id).map(|open| open.as_ref().clone()).or(found.order);
        if let Some(mut order) = recalled.applied(known, moment) {
            order.open = order.is_wanted() && self.settings.board.leaves_at(&order) > self.run_ms(now);
            draft_projection(draft, order);
        }
        true
    }

    /// When something was that another device dated: its age is counted back from now.
    fn moment_of(&self, now: Now, at: Wall) -> Moment {
        let age_ms = now.wall.map_or(0, |wall| u64::try_from(wall.unix_ms - at.unix_ms).unwrap_or(0));
        Moment { wall_ms: at.unix_ms, run_ms: self.run_ms(now).saturating_sub(age_ms) }
    }
}

impl Recalled {
    /// The event that waits in the outbox at `seq`: one that was imported.
    ///
    /// # Errors
    /// Its data is not what this release admits: a sentence fragment for the log.
    pub fn of(event: &OrderEvent, seq: Seq, business_day: i32) -> Result<Recalled, String> {
        let data = json::object(event.data.as_bytes())?;
        let effect = Effect::read(event.event_type, &data).map_err(|EffectError(message)| message)?;
        Ok(Recalled {
            request: event.request.clone(),
            epoch: event.epoch,
            seq,
            event_id: event.id,
            at: Wall { unix_ms: event.occurred_at_ms, business_day },
            order_id: event.order_id.clone(),
            data,
            effect: Some(effect),
        })
    }

    /// The number that a new order was given.
    fn ticket(&self) -> Option<Ticket> {
        let number = self.data.get("ticket").filter(|_| matches!(self.effect, Some(Effect::Create { .. })));
        number.and_then(count).and_then(|number| u32::try_from(number).ok()).map(Ticket)
    }

    fn remembered(&self, moment: Moment) -> Remembered {
        Remembered {
            body_hash: BODY_UNKNOWN,
            order_id: self.order_id.clone(),
            event_id: self.event_id,
            ticket: self.ticket().map(|ticket| ticket.0),
            seq: self.seq,
            stored_run_ms: moment.run_ms,
        }
    }

    /// What it makes of its order; `None` if it changes nothing, or something later already did.
    fn applied(&self, known: Option<Projection>, moment: Moment) -> Option<Projection> {
        let data = &self.data;
        match (known, self.effect.as_ref()?) {
            (None, Effect::Create { lines, lines_omitted, .. }) => {
                let mut order = Projection::new(self.order_id.clone(), |field| data.get(field), lines.clone(), *lines_omitted, moment);
                order.ticket = self.ticket();
                order.terminal = Some(self.request.terminal.clone());
                order.maybe_stored = data.contains_key(MAYBE_STORED);
                Some(order)
            }
            (Some(mut order), effect) if moment.wall_ms >= order.updated_at_ms => {
                let reports = order.history.len();
                (order.apply(effect, Source::House, moment) || order.history.len() != reports).then_some(order)
            }
            (None | Some(_), _) => None,
        }
    }
}
