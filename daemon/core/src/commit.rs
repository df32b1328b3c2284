//! Commits: one batch at a time, all that gathered while the last one was on its way to the disk.

use crate::admission::Flight;
use crate::event::OrderEvent;
use crate::gateway::{FULL_RETRY_MS, Gateway, StoreState};
use crate::ids::{CommitId, Epoch, OrderId, ReplyTo, RequestKey, Seq, Ticket};
use crate::io::{BODY_UNKNOWN, Change, CommitFailure, Decided, Forgettable, Output, PartitionName, Remembered, Submission};
use crate::json;
use crate::order::{Effect, Projection, Source};
use crate::rebuild::MAYBE_STORED;
use crate::release::Released;
use crate::request::{Answer, Code, EventType, Stored};
use crate::settings::Settings;
use crate::time::{Now, rfc3339};
use crate::uplink::Burial;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Forgetting waits so long for a commit to ride on.
pub(crate) const FORGET_AFTER_MS: u64 = 5_000;
/// Forgetting that found no room is tried again after so long.
const FORGET_RETRY_MS: u64 = 1_000;
/// Offsets that changed nothing wait so long.
pub(crate) const OFFSETS_AFTER_MS: u64 = 60_000;
/// Running time and the last known wall time are saved so often though nothing happens.
pub(crate) const COUNTERS_AFTER_MS: u64 = 3_600_000;
/// Records of one commit that the core fills; the store refuses more than 1,000.
const RECORDS_MAX: usize = 900;
/// Records that one request, one status or one session takes at most.
const REQUEST_RECORDS: usize = 6;
const STATUS_RECORDS: usize = 3;

/// The commit in flight: what follows from it once it is durable.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    id: CommitId,
    requests: Vec<(RequestKey, Stored)>,
    /// Orders whose lane is held by a status or by the board.
    lanes: Vec<OrderId>,
    projections: Vec<Arc<Projection>>,
    events: Vec<(Seq, Arc<OrderEvent>)>,
    offsets: Vec<(PartitionName, i64)>,
    burials: Vec<(Seq, Burial)>,
    pub releases: Vec<Released>,
    forget_upto: Option<Seq>,
    sessions: Vec<ReplyTo>,
    pub commands: Vec<ReplyTo>,
    epoch: bool,
    pub former_epochs: Vec<Epoch>,
    counters: bool,
    reserved: Vec<Ticket>,
    next_seq_before: Seq,
    tickets_before: (u32, i32),
}

impl Commit {
    /// The orders that it changes.
    pub fn orders(&self) -> impl Iterator<Item = &OrderId> {
        self.projections.iter().map(|order| &order.order_id)
    }
}

/// A batch as it grows.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    changes: Vec<Change>,
    records: usize,
    /// Bytes of the events: the outbox's bound counts them before they are stored.
    event_bytes: u64,
    pub commit: Commit,
}

impl Draft {
    pub fn room_for(&self, records: usize) -> bool {
        self.records + records <= RECORDS_MAX
    }

    pub fn add(&mut self, records: usize, change: Change) {
        self.records += records;
        self.changes.push(change);
    }

    pub fn enqueue(&mut self, seq: Seq, event: &Arc<OrderEvent>) {
        self.event_bytes += event.weight() as u64;
        self.add(1, Change::Enqueue(seq, Arc::clone(event)));
        self.commit.events.push((seq, Arc::clone(event)));
    }
}

impl Gateway {
    /// What a look-up settles without a commit: a repeat, a conflict, an order that does not admit the event.
    pub(crate) fn settled_by_look_up(&self, now: Now, key: &RequestKey) -> Option<Answer> {
        let flight = self.flights.get(key)?;
        let found = flight.found.as_ref()?;
        let request = &flight.submission.request;
        let reject = |code, message: &str| Some(Answer::rejected(Some(request.id.clone()), code, message, None));
        if let Some(first) = &found.request {
            if ![request.body_hash, BODY_UNKNOWN].contains(&first.body_hash) {
                return reject(Code::Conflict, "this request id was used for another request");
            }
            return Some(Answer::Stored(Stored {
                request_id: request.id.clone(),
                // What an unclear commit left behind is this very try, and this is its first answer.
                duplicate: !flight.attempted,
                order_id: first.order_id.clone(),
                event_id: first.event_id,
                ticket: first.ticket.map(Ticket),
                seq: first.seq,
            }));
        }
        if let Some(mark) = flight.submission.session
            && found.session.is_some_and(|stored| mark.number <= stored)
        {
            return reject(Code::Expired, "this number was answered so long ago that the answer is forgotten");
        }
        self.refused_by_order(flight).or_else(|| self.refused_by_time(now, flight))
    }

    fn refused_by_order(&self, flight: &Flight) -> Option<Answer> {
        let request = &flight.submission.request;
        let found = flight.found.as_ref().and_then(|found| found.order.as_ref());
        let known = self.open.get(&flight.order_id).map(Arc::as_ref).or(found);
        let (code, message) = match (known, &request.effect) {
            (Some(_), Effect::Create { .. }) => (Code::Conflict, "the order exists already"),
            (Some(order), effect) if !order.admits(effect) => (Code::Final, "the order has ended"),
            (None, effect) if self.settings.strict_orders && !matches!(effect, Effect::Create { .. }) => {
                (Code::UnknownOrder, "the order is not known in this house")
            }
            (Some(_) | None, _) => return None,
        };
        Some(Answer::rejected(Some(request.id.clone()), code, message, None))
    }

    fn refused_by_time(&self, now: Now, flight: &Flight) -> Option<Answer> {
        let over = flight.deadline.is_some_and(|deadline| now.mono_ms > deadline);
        let id = flight.submission.request.id.clone();
        over.then(|| Answer::rejected(Some(id), Code::Expired, "its time was over before it could be stored", None))
    }

    fn refused_by_room(&self, now: Now, flight: &Flight, drafted_bytes: u64) -> Option<Answer> {
        let found = flight.found.as_ref().and_then(|found| found.order.as_ref());
        let known = found.is_some() || self.open.get(&flight.order_id).is_some();
        let room = if known { self.room_for_known_orders(drafted_bytes) } else { self.room_for_new_orders(drafted_bytes) };
        let disk_full = self.full_until.is_some_and(|until| now.mono_ms < until);
        let message = match (disk_full, room) {
            (true, _) => "the disk is full",
            (false, false) => "the outbox is full",
            (false, true) => return None,
        };
        let id = flight.submission.request.id.clone();
        Some(Answer::rejected(Some(id), Code::Full, message, Some(FULL_RETRY_MS)))
    }

    /// Builds and asks for the next commit, if the store is free and there is something to write.
    pub(crate) fn build_commit(&mut self, now: Now) {
        while self.store == StoreState::Open && self.commit.is_none() {
            if !self.build_one_commit(now) {
                return;
            }
        }
    }

    /// Gives whether to look again: work that needed no commit has made room for other work.
    fn build_one_commit(&mut self, now: Now) -> bool {
        let mut draft = Draft::default();
        draft.commit.next_seq_before = self.next_seq;
        draft.commit.tickets_before = self.open.ticket_position();
        let disk_full = self.full_until.is_some_and(|until| now.mono_ms < until);
        self.draft_requests(now, &mut draft);
        if !disk_full {
            self.full_until = None;
            self.draft_epoch(&mut draft);
            self.draft_statuses(now, &mut draft);
            self.draft_tidying(now, &mut draft);
            self.draft_sessions(&mut draft);
            self.draft_burials(&mut draft);
            self.draft_releases(now, &mut draft);
            self.draft_commands(&mut draft);
            self.draft_prints(&mut draft);
            self.draft_offsets(now, &mut draft);
            self.draft_counters(now, &mut draft);
        }
        self.draft_forgetting(now, &mut draft);
        if draft.changes.is_empty() {
            let again = !draft.commit.lanes.is_empty();
            self.end_empty_commit(now, draft);
            return again;
        }
        self.last_commit = CommitId(self.last_commit.0 + 1);
        draft.commit.id = self.last_commit;
        self.commit = Some(draft.commit);
        self.outputs.push_back(Output::Store { commit: self.last_commit, batch: draft.changes });
        false
    }

    /// Statuses that changed nothing need no commit of their own.
    fn end_empty_commit(&mut self, now: Now, draft: Draft) {
        self.downlink.end_commit(now.mono_ms, true);
        for order in draft.commit.lanes {
            self.leave(&order);
        }
    }

    fn draft_epoch(&self, draft: &mut Draft) {
        if !self.epoch_stored {
            draft.add(1, Change::Epoch(self.epoch));
            draft.commit.epoch = true;
            self.draft_rebuild(draft);
        }
    }

    fn draft_requests(&mut self, now: Now, draft: &mut Draft) {
        let mut admitted = 0;
        while admitted < self.settings.limits.batch_requests_max && draft.room_for(REQUEST_RECORDS) {
            let Some(key) = self.ready_requests.pop_front() else { break };
            let Some(flight) = self.flights.get(&key) else { continue };
            // A wait for the last commit may have outlasted the request's time, or the room.
            let refusal = self.refused_by_time(now, flight).or_else(|| self.refused_by_room(now, flight, draft.event_bytes));
            if let Some(refusal) = refusal {
                self.finish_request(&key, refusal);
                continue;
            }
            self.admit(now, key, draft);
            admitted += 1;
        }
        self.tally.batch_requests_most = self.tally.batch_requests_most.max(admitted);
        self.tally.batches_full += u64::from(!self.ready_requests.is_empty());
    }

    fn admit(&mut self, now: Now, key: RequestKey, draft: &mut Draft) {
        let (occurred_at_ms, clock) = self.event_time(now);
        let moment = self.moment(now);
        let id = self.random.uuid(occurred_at_ms);
        let creates = matches!(self.flights.get(&key).map(|f| &f.submission.request.effect), Some(Effect::Create { .. }));
        let ticket = creates.then(|| self.open.reserve_ticket(now.wall));
        draft.commit.reserved.extend(ticket);
        ticket.map(|_| self.rebuild.ticket_given(occurred_at_ms));
        let Some(flight) = self.flights.get_mut(&key) else { return };
        flight.attempted = true;
        let (submission, order_id) = (&flight.submission, flight.order_id.clone());
        let request = &submission.request;
        let unsure = self.rebuild.is_under_way();
        let mut own = own_fields(&self.settings, submission, ticket, occurred_at_ms);
        own.extend(unsure.then_some((MAYBE_STORED, Value::Bool(true))));
        // What the terminal gave stands; it cannot give what only the gateway knows.
        let mut data: BTreeMap<&str, &Value> = own.iter().map(|(field, value)| (*field, value)).collect();
        data.extend(request.data.iter().map(|(field, value)| (field.as_str(), value)));

        let projection = match &request.effect {
            Effect::Create { lines, lines_omitted, .. } => {
                let mut order = Projection::new(order_id.clone(), |field| data.get(field).copied(), lines.clone(), *lines_omitted, moment);
                order.ticket = ticket;
                order.terminal = Some(submission.terminal.clone());
                order.maybe_stored = submission.maybe_stored || unsure;
                Some(order)
            }
            effect => {
                let found = flight.found.take().and_then(|found| found.order);
                let known = self.open.get(&order_id).map(|open| open.as_ref().clone()).or(found);
                known.map(|mut order| {
                    order.apply(effect, Source::House, moment);
                    order.maybe_stored |= submission.maybe_stored || unsure;
                    order
                })
            }
        };
        let seq = self.next_seq;
        self.next_seq = seq.next();
        let event = Arc::new(OrderEvent {
            epoch: self.epoch,
            request: key.clone(),
            id,
            event_type: request.event_type,
            order_id: order_id.clone(),
            user_id: request.user_id.clone(),
            occurred_at_ms,
            clock,
            data: json::text(&data),
        });
        let remembered = Remembered {
            body_hash: request.body_hash,
            order_id: order_id.clone(),
            event_id: id,
            ticket: ticket.map(|t| t.0),
            seq,
            stored_run_ms: moment.run_ms,
        };
        if let Some(mark) = submission.session {
            draft.add(1, Change::Session(submission.terminal.clone(), mark.session, mark.number));
        }
        let stored = Stored { request_id: request.id.clone(), duplicate: false, order_id, event_id: id, ticket, seq };
        draft.enqueue(seq, &event);
        draft.add(1, Change::Remember(key.clone(), remembered));
        if let Some(order) = projection {
            draft_projection(draft, order);
        }
        draft.commit.requests.push((key, stored));
    }

    fn draft_statuses(&mut self, now: Now, draft: &mut Draft) {
        while draft.room_for(STATUS_RECORDS) {
            let Some((number, order)) = self.ready_statuses.pop_front() else { return };
            let mut ticket = None;
            if self.draft_recalled(now, number, draft) {
                // It is drafted.
            } else if let Some(order) = self.applied(now, number, &mut ticket) {
                draft_projection(draft, order);
            }
            draft.commit.reserved.extend(ticket);
            draft.commit.lanes.push(order);
        }
    }

    fn draft_tidying(&mut self, now: Now, draft: &mut Draft) {
        while draft.room_for(STATUS_RECORDS) {
            let Some(order) = self.tidying.pop_front() else { return };
            let seen = self.draft_acknowledgements(&order, draft);
            if let Some(open) = self.open.get(&order) {
                let mut tidied = open.as_ref().clone();
                tidied.alarm = tidied.alarm.filter(|_| !seen);
                tidied.open = tidied.is_wanted() && self.settings.board.leaves_at(open) > self.run_ms(now);
                if tidied != **open {
                    draft_projection(draft, tidied);
                }
            }
            draft.commit.lanes.push(order);
        }
    }

    fn draft_sessions(&mut self, draft: &mut Draft) {
        while draft.room_for(STATUS_RECORDS) {
            let Some((reply_to, terminal, session)) = self.sessions_opening.pop_front() else { return };
            draft.add(2, Change::Session(terminal, session, 0));
            draft.commit.sessions.push(reply_to);
        }
    }

    fn draft_burials(&self, draft: &mut Draft) {
        for (seq, burial) in self.uplink.burials() {
            if !draft.room_for(2) {
                return;
            }
            draft.add(
                2,
                match burial {
                    Burial::Dead(letter) => Change::DeadLetter(*seq, letter.clone()),
                    Burial::Held(behind, event) => Change::Hold(*seq, *behind, Arc::clone(event)),
                },
            );
            draft.commit.burials.push((*seq, burial.clone()));
        }
    }

    /// Offsets ride on a commit that is made anyway, or are due after a minute.
    fn draft_offsets(&self, now: Now, draft: &mut Draft) {
        let due = self
            .downlink
            .due_since()
            .is_some_and(|since| self.stopping || self.downlink.is_urgent() || now.mono_ms >= since + OFFSETS_AFTER_MS);
        if draft.changes.is_empty() && !due {
            return;
        }
        for (at, offset) in self.downlink.offsets_with_commit() {
            draft.add(1, Change::Offset(at.clone(), offset));
            draft.commit.offsets.push((at, offset));
        }
    }

    /// Whatever is dated brings the time along: after a restart with an unset clock nothing may be dated earlier.
    fn draft_counters(&self, now: Now, draft: &mut Draft) {
        let commit = &mut draft.commit;
        let dated = !commit.events.is_empty() || !commit.projections.is_empty() || !commit.burials.is_empty();
        if dated || now.mono_ms >= self.timers.counters_at {
            commit.counters = true;
            draft.add(1, Change::Counters(self.counters(now)));
        }
    }

    /// Forgetting rides on a commit that is made anyway, or is due: after a while, or because much has gathered.
    fn draft_forgetting(&mut self, now: Now, draft: &mut Draft) {
        if now.mono_ms < self.timers.forget_not_before {
            return;
        }
        let room = RECORDS_MAX.saturating_sub(draft.records + 1);
        draft.commit.orders().for_each(|order| self.sweep.order_changes(order));
        // A request that waited for the store longer than requests are remembered must still find what its own first try left behind.
        let in_use = |what: &Forgettable| match what {
            Forgettable::Request(key) => self.flights.get(key).is_some(),
            Forgettable::Order(order) | Forgettable::Details(order) => self.lanes.is_busy(order),
            Forgettable::Print(_) => false,
        };
        for key in self.sweep.take(room / 2, in_use) {
            draft.add(1, Change::Expire(key));
        }
        let progress = self.uplink.progress();
        let behind = progress.0.saturating_sub(self.forgotten.0);
        let waited_for = self.stopping || self.release_settles();
        let due = self.forget_since.is_some_and(|since| waited_for || now.mono_ms >= since + FORGET_AFTER_MS);
        let batch_max = self.settings.limits.batch_forget_max.min(RECORDS_MAX.saturating_sub(draft.records + 2) as u64);
        if behind == 0 || batch_max == 0 || (draft.changes.is_empty() && !due && behind < batch_max) {
            return;
        }
        let upto = Seq(self.forgotten.0 + behind.min(batch_max));
        let records = usize::try_from(upto.0 - self.forgotten.0).unwrap_or(RECORDS_MAX) + 1;
        draft.add(records, Change::Forget { from: self.forgotten.next(), upto });
        draft.commit.forget_upto = Some(upto);
        if self.settings.journal {
            draft.add(1, Change::Journal(self.journal.mark(upto, self.run_ms(now))));
        }
    }

    /// A commit is durable: now, and not before, everybody hears of it.
    pub(crate) fn stored(&mut self, now: Now, id: CommitId) {
        let Some(commit) = self.commit.take_if(|commit| commit.id == id) else { return };
        self.epoch_stored |= commit.epoch;
        self.epochs.extend(commit.former_epochs);
        for ticket in &commit.reserved {
            self.open.unreserve(*ticket);
        }
        for order in &commit.projections {
            self.open.put(order);
        }
        self.queued_bytes += commit.events.iter().map(|(_, event)| event.weight() as u64).sum::<u64>();
        self.uplink.stored(&commit.events, &self.settings.limits);
        self.tally.dead_lettered += commit.burials.iter().filter(|(_, burial)| matches!(burial, Burial::Dead(_))).count() as u64;
        for (_, burial) in &commit.burials {
            match burial {
                Burial::Dead(letter) => self.kept.add(&letter.event),
                Burial::Held(_, event) => self.kept.add(event),
            }
        }
        self.uplink.buried(&commit.burials);
        if let Some(upto) = commit.forget_upto {
            self.forgotten = upto;
            self.journal.forget(upto);
            self.forget_since = None;
        }
        if commit.counters {
            self.timers.counters_at = now.mono_ms + COUNTERS_AFTER_MS;
        }
        for (key, stored) in commit.requests {
            self.finish_request(&key, Answer::Stored(stored));
        }
        for released in commit.releases {
            self.released(released);
        }
        for reply_to in commit.sessions {
            self.outputs.push_back(Output::SessionOpened { reply_to, durable: true });
        }
        self.end_commands(commit.commands, Decided::Done { appended: 0 });
        self.downlink.end_commit(now.mono_ms, true);
        self.downlink.offsets_stored(&commit.offsets, now.mono_ms);
        for order in commit.lanes {
            self.leave(&order);
        }
        if !commit.projections.is_empty() {
            self.board_changed();
            self.outputs.push_back(Output::Show(commit.projections));
        }
    }

    /// A commit failed. Without room nothing of it was written, and what it held is refused; else only a reopened store knows.
    pub(crate) fn store_failed(&mut self, now: Now, id: CommitId, failure: CommitFailure) {
        if self.commit.as_ref().is_none_or(|commit| commit.id != id) {
            return;
        }
        match failure {
            CommitFailure::Unclear => self.reopen(),
            CommitFailure::NoSpace => self.refuse_commit(now),
        }
    }

    fn refuse_commit(&mut self, now: Now) {
        let Some(commit) = self.commit.take() else { return };
        self.full_until = Some(now.mono_ms + FULL_RETRY_MS);
        self.timers.forget_not_before = now.mono_ms + FORGET_RETRY_MS;
        self.next_seq = commit.next_seq_before;
        self.open.rewind_tickets(commit.tickets_before);
        for ticket in commit.reserved {
            self.open.unreserve(ticket);
        }
        for reply_to in commit.sessions {
            self.outputs.push_back(Output::SessionOpened { reply_to, durable: false });
        }
        self.end_commands(commit.commands, Decided::Full);
        for (key, stored) in commit.requests {
            let answer = Answer::rejected(Some(stored.request_id), Code::Full, "the disk is full", Some(FULL_RETRY_MS));
            self.finish_request(&key, answer);
        }
        for released in &commit.releases {
            self.release_without_room(released);
        }
        // Statuses are never refused: they are looked up again and wait for room.
        self.downlink.end_commit(now.mono_ms, false);
        self.begin_again(&commit.lanes);
    }

    /// The store was opened again, up to `end`: what the commit in flight would have caused is decided anew.
    pub(crate) fn abandon_commit(&mut self, end: Seq) {
        let Some(commit) = self.commit.take() else { return };
        // The store counts from the progress that it knows, and the uplink may be further: so the sum is carried on, not taken over.
        let happened = commit.events.iter().filter(|(seq, _)| *seq < end);
        self.queued_bytes += happened.map(|(_, event)| event.weight() as u64).sum::<u64>();
        for reply_to in commit.sessions {
            self.outputs.push_back(Output::SessionOpened { reply_to, durable: false });
        }
        self.end_commands(commit.commands, Decided::Busy);
    }

    fn end_commands(&mut self, commands: Vec<ReplyTo>, outcome: Decided) {
        self.outputs.extend(commands.into_iter().map(|reply_to| Output::Decided { reply_to, outcome }));
    }
}

pub(crate) fn draft_projection(draft: &mut Draft, order: Projection) {
    let order = Arc::new(order);
    draft.add(2, Change::Project(Arc::clone(&order)));
    draft.commit.projections.push(order);
}

/// The fields of the event's `data` that are the gateway's to fill.
fn own_fields(settings: &Settings, submission: &Submission, ticket: Option<Ticket>, at_ms: i64) -> Vec<(&'static str, Value)> {
    let mut fields = Vec::with_capacity(6);
    if submission.request.event_type == EventType::Created {
        fields.push(("createdAt", Value::String(rfc3339(at_ms))));
        fields.extend(settings.restaurant_ids.first().map(|id| ("restaurantId", Value::String(id.clone()))));
        if let Effect::Create { total_if_missing: Some(total), .. } = &submission.request.effect {
            fields.push(("totalPrice", total.clone()));
        }
    }
    fields.push(("terminalId", json!(submission.terminal.as_str())));
    fields.push(("gatewayId", json!(settings.gateway.as_str())));
    fields.extend(ticket.map(|ticket| ("ticket", json!(ticket.0))));
    fields
}
