//! What the core wants to commit.

use super::{Check, Flight, Model, Pending, Told, Violation, Work, ensure, rules};
use crate::deed::Deed;
use gateway::event::{Clock, OrderEvent};
use gateway::ids::{CommitId, Name, OrderId, RequestKey, Seq, SessionId, Ticket};
use gateway::io::{Change, Decision, Forgettable, Remembered};
use gateway::journal::{self, Mark};
use gateway::order::{Moment, Projection, Source};
use gateway::time::Now;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A batch as it is read, change by change.
#[derive(Default)]
struct Reading {
    next_seq: Option<Seq>,
    orders: BTreeMap<OrderId, Arc<Projection>>,
    /// Requests with an event and nothing else so far.
    half: BTreeSet<RequestKey>,
    /// Numbers of sessions that requests must bring.
    sessions: BTreeSet<(Name, SessionId, u64)>,
    /// Projections that requests must bring.
    due: BTreeMap<OrderId, Projection>,
    /// What is not kept any more, in order, and has to be appended again.
    released: VecDeque<Arc<OrderEvent>>,
    /// A dead letter that was just released, and whether somebody wanted it retried or discarded.
    letter: Option<(Arc<OrderEvent>, bool, bool)>,
    /// Seqs that are not kept any more.
    released_seqs: BTreeSet<Seq>,
    works: Vec<(OrderId, Work)>,
    new_tickets: bool,
    counters: bool,
    statuses: u64,
    closings: u64,
    /// Orders whose alarm somebody has seen.
    seen: BTreeSet<OrderId>,
    forgets: Option<(Seq, Seq)>,
}

impl Model {
    /// The core asks for a commit.
    ///
    /// # Errors
    /// The batch breaks a rule.
    pub fn committing(&mut self, now: Now, commit: CommitId, batch: &Arc<Vec<Change>>) -> Check {
        ensure!(self.life().pending.is_none(), "two commits at a time");
        ensure!(!batch.is_empty(), "an empty commit");
        let mut reading = Reading::default();
        for change in batch.iter() {
            if let Some((letter, retry, discard)) = reading.letter.take() {
                let again = matches!(change, Change::Enqueue(_, event) if event.id == letter.id);
                ensure!(if again { retry } else { discard }, "a dead letter is appended again: {again}, as nobody wanted: {letter:?}");
                reading.released.extend(again.then_some(letter));
            }
            self.read_change(now, change, &mut reading)?;
        }
        ensure!(reading.letter.is_none_or(|(.., discard)| discard), "a dead letter is given up, and nobody wanted that");
        reading.letter = None;
        ensure!(reading.half.is_empty(), "not in one batch with their events: requests {:?}", reading.half);
        ensure!(reading.sessions.is_empty(), "not in one batch with their events: session numbers {:?}", reading.sessions);
        ensure!(reading.released.is_empty(), "released and not appended again: {:?}", reading.released);
        ensure!(reading.due.is_empty(), "not in one batch with their events: orders {:?}", reading.due.keys());
        ensure!(reading.counters || !reading.new_tickets, "tickets were given, but not counted in the same batch");
        self.counts.statuses += reading.statuses;
        self.counts.closings += reading.closings;
        self.counts.seen += reading.seen.len() as u64;
        let works = reading.works;
        self.life_mut().pending = Some(Pending { commit, batch: Arc::clone(batch), works });
        Ok(())
    }

    fn read_change(&mut self, now: Now, change: &Change, reading: &mut Reading) -> Check {
        match change {
            Change::Enqueue(seq, event) => self.read_event(now, *seq, event, reading),
            Change::Remember(key, remembered) => self.read_remembered(now, key, remembered, reading),
            Change::Project(order) => self.read_order(now, order, reading),
            Change::Counters(counters) => {
                reading.counters = true;
                let position = self.life().tickets.position();
                ensure!((counters.last_ticket, counters.business_day) == position, "{counters:?}, but tickets are at {position:?}");
                ensure!(counters.running_ms == self.run_ms(now), "{counters:?} after {} ms", self.run_ms(now));
                ensure!(counters.last_wall_ms == self.life().last_wall_ms, "{counters:?}, not {}", self.life().last_wall_ms);
                Ok(())
            }
            Change::Offset(at, next) => {
                let read = self.life().read_upto.get(at).map_or(0, |offset| offset + 1);
                ensure!(*next <= read, "offset {next} of {at:?} is stored, and only {read} was read");
                ensure!(self.image.offsets.get(at).is_none_or(|before| before <= next), "{at:?} goes back to {next}");
                let covered: Vec<_> = self.life().told.keys().filter(|(p, offset)| p == at && offset < next).cloned().collect();
                for (at, offset) in covered {
                    self.finish_work(now, Work::Status(at, offset), reading)?;
                }
                Ok(())
            }
            Change::Forget { from, upto } => {
                reading.forgets = Some((*from, *upto));
                self.may_forget(*from, *upto)
            }
            Change::Journal(mark) => self.read_mark(now, mark, reading),
            Change::Command(command) => {
                let gave = match &command.deed {
                    journal::Deed::Retry { dead, .. } | journal::Deed::Discard { dead, .. } => self.image.dead.contains_key(dead),
                    journal::Deed::Acknowledge { order } => {
                        reading.seen.insert(order.clone());
                        self.life().seeing.values().any(|seen| seen == order)
                    }
                    journal::Deed::Replay { .. } => false,
                };
                ensure!(gave && command.by == "somebody", "{command:?} is journalled, and nobody gave it");
                Ok(())
            }
            Change::Print(key, _) => Err(Violation(format!("{key:?} is written down, and nobody printed"))),
            Change::DeadLetter(seq, letter) => {
                ensure!(self.is_stored(*seq, &letter.event), "dead letter {seq} was never stored");
                Ok(())
            }
            Change::Hold(seq, behind, event) => {
                ensure!(self.is_stored(*seq, event), "held {seq} was never stored");
                ensure!(seq > behind, "{seq} is held behind {behind}, which came later");
                ensure!(self.settings.hold_behind_dead, "{seq} is held behind {behind}, though it may pass");
                Ok(())
            }
            // It leads the event of its request.
            Change::Session(terminal, session, number) => {
                let stored = self.image.sessions.get(&(terminal.clone(), *session)).copied();
                ensure!(*number == 0 || stored.is_some(), "session {session:?} of {terminal} is used, and was never stored");
                if *number > 0 {
                    reading.sessions.insert((terminal.clone(), *session, *number));
                }
                Ok(())
            }
            Change::Epoch(epoch) => {
                ensure!(*epoch == self.life().epoch, "{epoch} is not our epoch");
                Ok(())
            }
            Change::FormerEpoch(epoch) => Err(Violation(format!("there was no store before this one, and {epoch} is of it"))),
            Change::Expire(what) => self.may_expire(now, what, reading),
            Change::Release(seq) => self.read_release(*seq, reading),
        }
    }

    /// What is journalled of deliveries is true, and of the events that this batch forgets.
    fn read_mark(&self, now: Now, mark: &Mark, reading: &Reading) -> Check {
        let Some((from, upto)) = reading.forgets else { return Err(Violation(format!("{mark:?} comes without forgetting"))) };
        ensure!(mark.upto == upto && mark.run_ms == self.run_ms(now), "{mark:?} of {from} to {upto} after {} ms", self.run_ms(now));
        for sent in &mark.sent {
            let here = (from..=upto).contains(&sent.seq) && self.kafka.is_at(sent.seq, (sent.partition, sent.offset));
            ensure!(here, "{sent:?} is journalled in {from} to {upto}, and was not acknowledged there");
        }
        let rising = mark.sent.is_sorted_by(|a, b| a.seq < b.seq);
        ensure!(rising, "journalled twice or out of order: {mark:?}");
        Ok(())
    }

    fn may_expire(&self, now: Now, what: &Forgettable, reading: &Reading) -> Check {
        let changed = match what {
            Forgettable::Request(key) => self.image.requests.get(key).map(|request| request.stored_run_ms),
            Forgettable::Order(id) | Forgettable::Details(id) => {
                let in_batch = reading.orders.contains_key(id);
                let order = self.image.orders.get(id);
                ensure!(!in_batch && !order.is_some_and(|o| o.open), "{id} is forgotten though it is in use");
                order.map(|order| order.changed_run_ms)
            }
            Forgettable::Print(_) => None,
        };
        let after_ms = match what {
            Forgettable::Request(_) | Forgettable::Order(_) => self.settings.remember_ms,
            Forgettable::Details(_) => self.settings.forget_details_ms,
            Forgettable::Print(_) => 0,
        };
        let old = changed.is_none_or(|changed| changed + after_ms <= self.run_ms(now));
        ensure!(old, "{what:?} is forgotten too early");
        Ok(())
    }

    fn event_time(&self, now: Now) -> (i64, Clock) {
        now.wall.map_or((self.life().last_wall_ms, Clock::Unset), |wall| (wall.unix_ms, Clock::Synced))
    }

    /// A dead letter or a held event goes on, or is given up.
    fn read_release(&self, seq: Seq, reading: &mut Reading) -> Check {
        let Some((event, behind)) = self.image.buried(seq) else {
            return Err(Violation(format!("{seq} is released, and was not kept")));
        };
        ensure!(seq <= self.image.progress, "{seq} is released, and could be read from the outbox again");
        let order = &event.order_id;
        let left = self.image.queued.iter().find(|(_, queued)| queued.order_id == *order && !self.seq_is_again(queued));
        ensure!(left.is_none(), "{seq} is released, and an event of its order is still in the outbox: {left:?}");
        match behind {
            Some(dead) => {
                let before =
                    self.image.held.range((dead, Seq(0))..(dead, seq)).find(|((_, held), _)| !reading.released_seqs.contains(held));
                ensure!(before.is_none(), "{seq} is released before {before:?}");
                let decided = !self.image.dead.contains_key(&dead) || reading.released_seqs.contains(&dead);
                ensure!(decided, "{seq} is released from behind {dead}, about which nobody decided");
                reading.released.push_back(Arc::new(event.clone()));
            }
            None => {
                let wished = |decision| self.wishes.contains(&(seq, decision));
                ensure!(wished(Decision::Retry) || wished(Decision::Discard), "nobody decided about {seq}");
                // Whether it is appended again shows at the next change.
                reading.letter = Some((Arc::new(event.clone()), wished(Decision::Retry), wished(Decision::Discard)));
            }
        }
        reading.released_seqs.insert(seq);
        Ok(())
    }

    /// Whether it was appended again: it has another seq than at first.
    fn seq_is_again(&self, event: &OrderEvent) -> bool {
        self.seq_of
            .get(&event.request)
            .is_some_and(|first| self.stored[first].epoch != event.epoch || self.origin.values().any(|o| o == first))
    }

    /// An event is appended again, as it was.
    fn read_again(&self, event: &OrderEvent, reading: &mut Reading) -> Check {
        let Some(expected) = reading.released.pop_front() else {
            return Err(Violation(format!("{:?} is appended again, and nobody asked for it", event.request)));
        };
        let expected = OrderEvent { epoch: self.life().epoch, ..expected.as_ref().clone() };
        ensure!(*event == expected, "{event:?} is appended again instead of {expected:?}");
        Ok(())
    }

    fn read_event(&mut self, now: Now, seq: Seq, event: &Arc<OrderEvent>, reading: &mut Reading) -> Check {
        let key = &event.request;
        let expected = reading.next_seq.unwrap_or(self.image.next_seq);
        ensure!(seq == expected, "{seq} does not follow {expected}");
        reading.next_seq = Some(seq.next());
        if self.seq_of.get(key).is_some_and(|first| self.stored[first].id == event.id) {
            return self.read_again(event, reading);
        }
        let Some(flight) = self.life().flights.get(key).cloned() else {
            return Err(Violation(format!("{key:?} is stored, and nobody waits for it")));
        };
        let request = &flight.submission.request;
        ensure!(!self.image.requests.contains_key(key), "{key:?} is stored a second time");
        ensure!(!self.seq_of.contains_key(key), "doubled: {key:?} is stored again after it was forgotten");
        let in_time = request.valid_for_ms.is_none_or(|valid| now.mono_ms <= flight.since_mono_ms.saturating_add(valid));
        ensure!(in_time, "{key:?} is stored after its time was over");
        ensure!(event.epoch == self.life().epoch, "{key:?} has epoch {}", event.epoch);
        ensure!(event.event_type.as_str() == flight.deed.event_type(), "{key:?} is stored as {:?}", event.event_type);
        ensure!(request.order_id.as_ref().is_none_or(|id| *id == event.order_id), "{key:?} is stored for {}", event.order_id);
        ensure!((event.occurred_at_ms, event.clock) == self.event_time(now), "{key:?} is dated {}", event.occurred_at_ms);
        ensure!(request.user_id == event.user_id, "{key:?} has user {:?}", event.user_id);
        if let Some(mark) = flight.submission.session {
            let number = (key.terminal.clone(), mark.session, mark.number);
            ensure!(reading.sessions.remove(&number), "{key:?} is stored without the number of its session");
        }
        self.last_try.insert(key.clone(), flight.reply_to);
        reading.half.insert(key.clone());
        self.finish_work(now, Work::Request(key.clone(), flight.reply_to), reading)?;
        self.expect_order(now, &flight, event, reading)
    }

    /// What the event must make of its order, in the same batch.
    fn expect_order(&mut self, now: Now, flight: &Flight, event: &OrderEvent, reading: &mut Reading) -> Check {
        let (id, key, at) = (&event.order_id, &event.request, self.moment(now));
        let before = reading.orders.get(id).or_else(|| self.image.orders.get(id)).cloned();
        let (deed, maybe_stored) = (&flight.deed, flight.submission.maybe_stored);
        let expected = match before {
            Some(before) => {
                ensure!(rules::admits(&before, deed), "{key:?} is stored, but the order does not admit it: {before:?}");
                let mut after = rules::after(&before, deed, Source::House, at);
                after.maybe_stored |= maybe_stored;
                Some(after)
            }
            None if matches!(deed, Deed::Create { .. }) => {
                reading.new_tickets = true;
                let ticket = Ticket(self.life_mut().tickets.give(now));
                Some(rules::born(id.clone(), deed, Some(ticket), Some(key.terminal.clone()), maybe_stored, at))
            }
            None => {
                ensure!(!self.settings.strict_orders, "{key:?} is stored, but its order is unknown");
                None
            }
        };
        let data: serde_json::Value = serde_json::from_str(&event.data).map_err(|e| Violation(format!("{key:?}: {e}")))?;
        ensure!(data["terminalId"] == key.terminal.as_str(), "{key:?} names another terminal: {data}");
        ensure!(data["gatewayId"] == self.settings.gateway.as_str(), "{key:?} names another gateway: {data}");
        for (field, value) in &flight.submission.request.data {
            ensure!(data.get(field) == Some(value), "{key:?}: field {field} was {value} and is {data}");
        }
        if let Some(order) = expected {
            if matches!(deed, Deed::Create { .. }) {
                let ticket = order.ticket.map(|ticket| u64::from(ticket.0));
                ensure!(data["ticket"].as_u64() == ticket, "{key:?} should have ticket {ticket:?}: {data}");
                let total = data["totalPrice"].to_string();
                ensure!(Some(&total) == order.total.as_ref(), "{key:?} has total {total}, not {:?}", order.total);
                ensure!(data["createdAt"].is_string() && data["restaurantId"].is_string(), "{key:?} is not filled: {data}");
            }
            ensure!(reading.due.insert(id.clone(), order).is_none(), "two steps of order {id} in one batch");
        }
        Ok(())
    }

    fn read_remembered(&self, now: Now, key: &RequestKey, remembered: &Remembered, reading: &mut Reading) -> Check {
        ensure!(reading.half.remove(key), "{key:?} is remembered without its event in the batch");
        let request = &self.life().flights[key].submission.request;
        let ticket = reading.due.get(&remembered.order_id).and_then(|order| order.ticket).map(|ticket| ticket.0);
        let gives_ticket = matches!(self.life().flights[key].deed, Deed::Create { .. });
        ensure!(remembered.body_hash == request.body_hash, "{key:?} is remembered as another body");
        ensure!(remembered.ticket == ticket.filter(|_| gives_ticket), "{key:?} is remembered with ticket {:?}", remembered.ticket);
        ensure!(remembered.stored_run_ms == self.run_ms(now), "{key:?} is remembered since {}", remembered.stored_run_ms);
        ensure!(reading.next_seq == Some(remembered.seq.next()), "{key:?} is remembered as {}", remembered.seq);
        Ok(())
    }

    fn read_order(&mut self, now: Now, order: &Arc<Projection>, reading: &mut Reading) -> Check {
        let id = &order.order_id;
        if let Some(expected) = reading.due.remove(id) {
            ensure!(expected == **order, "the house's event makes {}", rules::differences(&expected, order));
        } else if !self.is_tidied(now, order, reading)? {
            self.read_status(now, order, reading)?;
        }
        let before = reading.orders.insert(id.clone(), Arc::clone(order));
        ensure!(before.is_none(), "order {id} is written twice in one batch");
        Ok(())
    }

    /// The order leaves the board because its time is over, or somebody has seen its alarm.
    fn is_tidied(&self, now: Now, order: &Projection, reading: &mut Reading) -> Result<bool, Violation> {
        let Some(before) = self.image.orders.get(&order.order_id) else { return Ok(false) };
        let seen = reading.seen.contains(&order.order_id);
        let closed = Projection { open: false, ..before.as_ref().clone() };
        if !seen && (!before.open || closed != *order) {
            return Ok(false);
        }
        let board = &self.settings.board;
        let run = self.run_ms(now);
        let ready = before.alarm.is_none() && before.ready_run_ms.is_some_and(|at| at + board.ready_ms <= run);
        let unchanged = before.changed_run_ms + board.unchanged_ms <= run;
        let alarm = before.alarm.filter(|_| !seen);
        let open = before.open && rules::stays(before.status, alarm) && !(ready || unchanged);
        let expected = Projection { alarm, open, ..before.as_ref().clone() };
        ensure!(expected == *order, "its time, or who has seen its alarm, makes {}", rules::differences(&expected, order));
        reading.closings += u64::from(!open);
        Ok(true)
    }

    fn read_status(&mut self, now: Now, order: &Projection, reading: &mut Reading) -> Check {
        let at = self.moment(now);
        loop {
            let work = self.life().lanes.get(&order.order_id).and_then(|lane| lane.front()).cloned();
            match work {
                None => return Err(Violation(format!("nothing was to change order {order:?}"))),
                Some(Work::Request(key, reply_to)) => {
                    ensure!(!self.life().flies(&key, reply_to), "order {} changes before {key:?} is answered", order.order_id);
                    self.pop(&order.order_id);
                }
                Some(Work::Status(partition, offset)) => {
                    let told = self.life().told[&(partition.clone(), offset)].clone();
                    let after = self.effect_of(now, &told, at, reading)?;
                    self.pop(&order.order_id);
                    if let Some(after) = after {
                        reading.works.push((order.order_id.clone(), Work::Status(partition, offset)));
                        ensure!(after == *order, "{:?} makes {}", told.deed, rules::differences(&after, order));
                        reading.statuses += 1;
                        return Ok(());
                    }
                    self.life_mut().told.remove(&(partition, offset));
                }
            }
        }
    }

    fn pop(&mut self, order: &OrderId) {
        let lanes = &mut self.life_mut().lanes;
        if let Some(lane) = lanes.get_mut(order) {
            lane.pop_front();
            if lane.is_empty() {
                lanes.remove(order);
            }
        }
    }

    /// What a status record makes of its order; `None` if it changes nothing.
    fn effect_of(&mut self, now: Now, told: &Told, at: Moment, reading: &mut Reading) -> Result<Option<Projection>, Violation> {
        match reading.orders.get(&told.order).or_else(|| self.image.orders.get(&told.order)) {
            Some(before) => {
                let after = rules::after(before, &told.deed, Source::Centre, at);
                Ok(Some(after).filter(|after| after != before.as_ref()))
            }
            None if told.ours && matches!(told.deed, Deed::Create { .. }) => {
                reading.new_tickets = true;
                let ticket = Ticket(self.life_mut().tickets.give(now));
                Ok(Some(rules::born(told.order.clone(), &told.deed, Some(ticket), None, false, at)))
            }
            None => Ok(None),
        }
    }

    /// The work is done with this batch, and all that came before it on the same order was done already or changes nothing.
    fn finish_work(&mut self, now: Now, work: Work, reading: &mut Reading) -> Check {
        let order = match &work {
            Work::Request(key, _) => match &self.life().flights[key].submission.request.order_id {
                Some(order) => order.clone(),
                None => return Ok(()),
            },
            Work::Status(at, offset) => self.life().told[&(at.clone(), *offset)].order.clone(),
        };
        if !self.life().lanes.get(&order).is_some_and(|lane| lane.contains(&work)) {
            return Ok(());
        }
        loop {
            let Some(first) = self.life().lanes.get(&order).and_then(|lane| lane.front()).cloned() else { return Ok(()) };
            match &first {
                Work::Request(key, reply_to) if first != work => {
                    ensure!(!self.life().flies(key, *reply_to), "{work:?} overtakes {key:?} on order {order}");
                }
                Work::Request(..) => {}
                Work::Status(at, offset) => {
                    let told = self.life().told[&(at.clone(), *offset)].clone();
                    let moment = self.moment(now);
                    let after = self.effect_of(now, &told, moment, reading)?;
                    ensure!(after.is_none(), "{at:?} {offset} was passed over: {told:?} should have made {after:?}");
                }
            }
            self.pop(&order);
            match &first {
                Work::Request(..) if first == work => reading.works.push((order.clone(), first.clone())),
                Work::Request(..) => {}
                Work::Status(at, offset) => drop(self.life_mut().told.remove(&(at.clone(), *offset))),
            }
            if first == work {
                return Ok(());
            }
        }
    }
}
