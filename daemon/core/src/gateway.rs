//! The gateway: one owner of the state, one order of events.

use crate::admission::{Flight, Flights, Lanes, Refusal, Work};
use crate::board::Board;
use crate::commit::Commit;
use crate::downlink::{Downlink, News, Stage};
use crate::event::Clock;
use crate::gauges::Tally;
use crate::ids::{CommitId, Epoch, LoadId, Name, OrderId, ReplyTo, RequestKey, Seq, SessionId, Ticket};
use crate::io::{Counters, Delivery, Found, Input, Kept, Notice, Old, Opened, Output, Record, Select, Submission, Wanted};
use crate::journal::{Journal, Sent};
use crate::open_orders::OpenOrders;
use crate::order::{Effect, Moment, Projection};
use crate::printed::Prints;
use crate::random::Random;
use crate::rebuild::Rebuild;
use crate::release::Releases;
use crate::request::{Answer, Code};
use crate::settings::Settings;
use crate::sweep::{self, Sweep};
use crate::time::Now;
use crate::uplink::Uplink;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How long a terminal is asked to wait when too much is in flight.
pub(crate) const BUSY_RETRY_MS: u64 = 1_000;
/// How long it is asked to wait when there is no room, and how often a full disk is tried.
pub(crate) const FULL_RETRY_MS: u64 = 5_000;
/// How long it is asked to wait while a new store is rebuilt.
const REBUILD_RETRY_MS: u64 = 2_000;
/// First and longest wait between two tries to open the store again.
const REOPEN_BACKOFF_MS: (u64, u64) = (500, 30_000);
/// How often orders are looked at whose time on the board is over.
const BOARD_CHECK_MS: u64 = 5_000;
/// Boards are shown at most so often.
const BOARD_SHOW_MS: u64 = 250;
/// Serial sessions that wait to become durable.
const SESSIONS_OPENING_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreState {
    Open,
    Reopening,
    /// It could not be opened; tried again then.
    Closed {
        retry_at: u64,
    },
}

#[derive(Debug)]
pub(crate) enum Target {
    Request(RequestKey),
    Status(u64),
    Release(Seq),
}

#[derive(Debug)]
pub(crate) struct Timers {
    board_check_at: u64,
    board_show_at: u64,
    pub counters_at: u64,
    /// Forgetting failed: not tried again before.
    pub forget_not_before: u64,
}

/// The state machine. Feed it with [`Gateway::handle`], then drain [`Gateway::poll_output`], then wait until [`Gateway::wake_at`] or
/// the next input.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) settings: Settings,
    pub(crate) epoch: Epoch,
    pub(crate) epoch_stored: bool,
    pub(crate) random: Random,
    started_mono_ms: u64,
    run_base_ms: u64,
    pub(crate) last_wall_ms: i64,

    pub(crate) store: StoreState,
    reopen_backoff_ms: u64,
    pub(crate) full_until: Option<u64>,
    pub(crate) commit: Option<Commit>,
    pub(crate) last_commit: CommitId,
    last_load: LoadId,
    loads: BTreeMap<LoadId, Target>,

    pub(crate) next_seq: Seq,
    pub(crate) queued_bytes: u64,
    /// The dead letter topic has what is kept up to there; `None` without such a topic.
    pub(crate) told: Option<Seq>,
    /// The progress that is on disk.
    pub(crate) forgotten: Seq,
    pub(crate) forget_since: Option<u64>,

    pub(crate) flights: Flights,
    pub(crate) lanes: Lanes,
    pub(crate) ready_requests: VecDeque<RequestKey>,
    pub(crate) ready_statuses: VecDeque<(u64, OrderId)>,
    pub(crate) tidying: VecDeque<OrderId>,
    pub(crate) sessions_opening: VecDeque<(ReplyTo, Name, SessionId)>,
    pub(crate) sweep: Sweep,
    pub(crate) releases: Releases,
    pub(crate) kept: Kept,
    pub(crate) journal: Journal,
    pub(crate) rebuild: Rebuild,
    pub(crate) prints: Prints,

    pub(crate) open: OpenOrders,
    pub(crate) downlink: Downlink,
    pub(crate) uplink: Uplink,
    pub(crate) epochs: BTreeSet<Epoch>,
    foreign: BTreeSet<Epoch>,
    board_changed: bool,
    shown: Arc<Board>,
    pub(crate) accepting: bool,
    pub(crate) timers: Timers,
    pub(crate) stopping: bool,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) tally: Tally,
}

impl Gateway {
    /// A gateway over a freshly opened store. Its first outputs store the epoch; `seed` is 16 random bytes of the shell's.
    pub fn new(settings: Settings, opened: Opened, epoch: Epoch, seed: [u8; 16], now: Now) -> Gateway {
        let uplink = Uplink::new(&opened, settings.hold_behind_dead);
        let open = OpenOrders::new(settings.limits.open_orders_max, 0, 0);
        let timers = Timers {
            board_check_at: now.mono_ms + BOARD_CHECK_MS,
            board_show_at: now.mono_ms,
            counters_at: now.mono_ms + crate::commit::COUNTERS_AFTER_MS,
            forget_not_before: 0,
        };
        let rebuild = Rebuild::new(&settings, &opened, now);
        // Then what was before this store has an age.
        let older_ms = if rebuild.is_under_way() { settings.remember_ms } else { 0 };
        let mut gateway = Gateway {
            settings,
            epoch,
            epoch_stored: false,
            random: Random::new(seed),
            started_mono_ms: now.mono_ms,
            run_base_ms: opened.counters.running_ms.max(older_ms),
            last_wall_ms: opened.counters.last_wall_ms,
            store: StoreState::Open,
            reopen_backoff_ms: REOPEN_BACKOFF_MS.0,
            full_until: None,
            commit: None,
            last_commit: CommitId(0),
            last_load: LoadId(0),
            loads: BTreeMap::new(),
            next_seq: opened.next_seq,
            queued_bytes: opened.queued_bytes,
            told: None,
            forgotten: opened.progress,
            forget_since: None,
            flights: Flights::default(),
            lanes: Lanes::default(),
            ready_requests: VecDeque::new(),
            ready_statuses: VecDeque::new(),
            tidying: VecDeque::new(),
            sessions_opening: VecDeque::new(),
            sweep: Sweep::new(now.mono_ms),
            releases: Releases::new(),
            kept: Kept::default(),
            journal: Journal::default(),
            rebuild,
            prints: Prints::new(),
            open,
            downlink: Downlink::default(),
            uplink,
            epochs: BTreeSet::new(),
            foreign: BTreeSet::new(),
            board_changed: true,
            shown: Arc::new(Board::default()),
            accepting: true,
            timers,
            stopping: false,
            outputs: VecDeque::new(),
            tally: Tally::default(),
        };
        gateway.take_open_state(&opened);
        gateway.resume_releases(&opened);
        gateway.advance(now);
        gateway
    }

    fn take_open_state(&mut self, opened: &Opened) {
        self.next_seq = opened.next_seq.max(Seq(1));
        self.forgotten = opened.progress;
        self.journal.forget(opened.progress);
        self.forget_since = None;
        self.kept = opened.kept;
        self.epochs = opened.epochs.iter().copied().collect();
        self.epoch_stored = self.epochs.contains(&self.epoch);
        self.open = OpenOrders::new(self.settings.limits.open_orders_max, opened.counters.last_ticket, opened.counters.business_day);
        for order in &opened.open {
            self.open.put(&Arc::new(order.clone()));
        }
        self.board_changed = true;
    }

    /// Takes an input in.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.handle_all(now, [input]);
    }

    /// Takes inputs in that came at once. What follows from them is decided once, after the last: so requests that were looked up
    /// together are also committed together, instead of the first alone and the others after it.
    pub fn handle_all(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            self.take(now, input);
        }
        self.advance(now);
    }

    fn take(&mut self, now: Now, input: Input) {
        if let Some(wall) = now.wall {
            self.last_wall_ms = wall.unix_ms;
        }
        match input {
            Input::Submit { reply_to, submission } => self.submit(now, reply_to, submission),
            Input::Loaded { load, found } => self.loaded(now, load, found),
            Input::LoadFailed { load } => {
                if self.loads.remove(&load).is_some() {
                    self.reopen();
                }
            }
            Input::Stored { commit } => self.stored(now, commit),
            Input::StoreFailed { commit, failure } => self.store_failed(now, commit, failure),
            Input::Reopened(opened) => self.reopened(now, &opened),
            Input::ReopenFailed => self.reopen_failed(now),
            Input::Head { events } => self.uplink.head(events),
            Input::HeadFailed => {
                self.uplink.head_failed();
                self.reopen();
            }
            Input::Delivered { producer, seq, outcome } => {
                let wall_ms = self.event_time(now).0;
                if let Delivery::Acknowledged { partition, offset } = outcome
                    && self.settings.journal
                {
                    let is_kept = self.journal.sent(Sent { seq, partition, offset, at_ms: wall_ms });
                    self.tally.deliveries_unwritten += u64::from(!is_kept);
                }
                self.uplink.delivered(now.mono_ms, wall_ms, producer, seq, outcome, &mut self.random);
            }
            Input::ProducerReady { producer, delivered } => self.uplink.producer_ready(producer, delivered),
            Input::ProducerFailed { producer, class, reason } => {
                self.uplink.producer_failed(now.mono_ms, producer, class, &reason, &mut self.random);
            }
            Input::Status(record) => self.status(now, record),
            Input::Recall(recall) => self.recall(now, recall),
            Input::Swept { expired, next } => self.sweep.swept(expired, next),
            Input::OpenSession { reply_to, terminal, session } => {
                if self.sessions_opening.len() >= SESSIONS_OPENING_MAX {
                    self.outputs.push_back(Output::SessionOpened { reply_to, durable: false });
                } else {
                    self.sessions_opening.push_back((reply_to, terminal, session));
                }
            }
            Input::Decide { reply_to, dead, decision, by } => self.decide(now, reply_to, dead, decision, by),
            Input::Command { reply_to, by, deed } => self.command(now, reply_to, &by, deed),
            Input::Print { reply_to, marks } => self.print(reply_to, marks),
            Input::Told { upto, at } => {
                self.told = Some(upto);
                if let (Some(at), Ok(place)) = (at, i64::try_from(upto.0)) {
                    self.downlink.place(at, place, now.mono_ms);
                }
            }
            Input::Stopping => self.stopping = true,
            Input::Tick => {}
        }
    }

    /// Takes over a newer config. What only a start can take over must be what it was: the gateway's id, the dialect, and the bounds
    /// beside those of the outbox.
    pub fn configure(&mut self, newer: Settings) {
        self.settings = newer;
        self.board_changed = true;
    }

    /// Asks for a new producer: Kafka is reached in another way from now on.
    pub fn renew_producer(&mut self, now: Now) {
        self.uplink.renew(now.mono_ms);
        self.advance(now);
    }

    /// The next thing to do outside.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The monotonic time at which [`Input::Tick`] is due.
    pub fn wake_at(&self) -> Option<u64> {
        let store_at = match self.store {
            StoreState::Open | StoreState::Reopening => None,
            StoreState::Closed { retry_at } => Some(retry_at),
        };
        let board_at = self.board_changed.then_some(self.timers.board_show_at);
        let always = [self.uplink.wake_at(), store_at, board_at, Some(self.timers.board_check_at), self.rebuild.refuses_until()];
        // A time that passes while nothing can be done about it is no reason to wake.
        let free = self.store == StoreState::Open && self.commit.is_none();
        let forget_after_ms = if self.release_settles() { 0 } else { crate::commit::FORGET_AFTER_MS };
        let not_full = |at: u64| at.max(self.full_until.unwrap_or(0));
        let with_store = [
            self.forget_since.map(|since| (since + forget_after_ms).max(self.timers.forget_not_before)),
            self.downlink.due_since().map(|since| not_full(since + crate::commit::OFFSETS_AFTER_MS)),
            Some(not_full(self.timers.counters_at)),
            self.full_until,
            self.sweep.due_at(),
            self.sweep.has_expired().then_some(self.timers.forget_not_before),
            self.release_gives_up_at(),
        ];
        always.into_iter().chain(with_store.map(|at| at.filter(|_| free))).flatten().min()
    }

    /// Whether another status record may be handed in; when not, the consumer's queue waits.
    pub fn takes_status(&self) -> bool {
        self.downlink.len() < self.settings.limits.statuses_in_flight_max
    }

    /// Whether a new store's own events are still to be read back.
    pub fn is_rebuilding(&self) -> bool {
        self.rebuild.is_under_way()
    }

    /// The open orders as last made durable, oldest first.
    pub fn open_orders(&self) -> impl Iterator<Item = &Arc<Projection>> {
        self.open.by_age()
    }

    /// Nothing is in flight, and nothing that was delivered or read is still to be written down. While the store is not open this is
    /// never so.
    pub fn is_settled(&self) -> bool {
        let written = self.forgotten == self.uplink.progress() && self.downlink.due_since().is_none();
        let decided = self.releases.is_empty() && self.journal.waiting().0 == 0;
        let answered = self.flights.len() == 0 && self.sessions_opening.is_empty() && decided;
        self.store == StoreState::Open && self.commit.is_none() && answered && written
    }

    pub(crate) fn queued(&self) -> u64 {
        (self.next_seq.0 - 1).saturating_sub(self.uplink.progress().0)
    }

    /// Milliseconds that this store has been running for.
    pub(crate) fn run_ms(&self, now: Now) -> u64 {
        self.run_base_ms + now.mono_ms.saturating_sub(self.started_mono_ms)
    }

    /// What an event that happens now is dated, and whether the clock is known.
    pub(crate) fn event_time(&self, now: Now) -> (i64, Clock) {
        match now.wall {
            Some(wall) => (wall.unix_ms, Clock::Synced),
            None => (self.last_wall_ms, Clock::Unset),
        }
    }

    pub(crate) fn moment(&self, now: Now) -> Moment {
        Moment { wall_ms: self.event_time(now).0, run_ms: self.run_ms(now) }
    }

    pub(crate) fn counters(&self, now: Now) -> Counters {
        let (last_ticket, business_day) = self.open.ticket_position();
        Counters { last_ticket, business_day, running_ms: self.run_ms(now), last_wall_ms: self.last_wall_ms }
    }

    pub(crate) fn answer(&mut self, reply_to: ReplyTo, answer: Answer) {
        self.outputs.push_back(Output::Answer { reply_to, answer });
    }

    fn submit(&mut self, now: Now, reply_to: ReplyTo, submission: Submission) {
        let request = &submission.request;
        let key = RequestKey { terminal: submission.terminal.clone(), request_id: request.id.clone() };
        if self.store != StoreState::Open && self.reopen_backoff_ms > REOPEN_BACKOFF_MS.0 {
            // What is in flight waits for the disk's word; whoever comes now need not.
            let answer =
                Answer::rejected(Some(request.id.clone()), Code::Busy, "the disk fails; the store is not open", Some(FULL_RETRY_MS));
            return self.answer(reply_to, answer);
        }
        if self.rebuild.refuses_until().is_some() {
            let message = "the store is new: what this gateway stored before is being read back from Kafka";
            let answer = Answer::rejected(Some(request.id.clone()), Code::Busy, message, Some(REBUILD_RETRY_MS));
            return self.answer(reply_to, answer);
        }
        let limits = &self.settings.limits;
        let refusal = match self.flights.join(&key, request.body_hash, reply_to, limits.waiters_max) {
            Some(Ok(())) => return,
            Some(Err(refusal)) => Some(refusal),
            None if self.flights.len() >= limits.requests_in_flight_max => Some(Refusal::Busy),
            None => None,
        };
        if let Some(refusal) = refusal {
            let id = Some(request.id.clone());
            match refusal {
                Refusal::Conflict => {}
                Refusal::Busy => self.tally.requests_refused += 1,
                Refusal::Copies => self.tally.copies_refused += 1,
            }
            let answer = match refusal {
                Refusal::Conflict => Answer::rejected(id, Code::Conflict, "this request id was used for another request", None),
                Refusal::Busy => Answer::rejected(id, Code::Busy, "too many requests at once", Some(BUSY_RETRY_MS)),
                Refusal::Copies => Answer::rejected(id, Code::Busy, "this request waits already, too many times", Some(BUSY_RETRY_MS)),
            };
            return self.answer(reply_to, answer);
        }
        let order_id = request.order_id.clone().unwrap_or_else(|| {
            let wall_ms = now.wall.map_or(self.last_wall_ms, |w| w.unix_ms);
            self.random.order_id(wall_ms)
        });
        let deadline = request.valid_for_ms.map(|ms| now.mono_ms.saturating_add(ms));
        let flight = Flight { submission, order_id: order_id.clone(), reply_to, waiters: vec![], deadline, attempted: false, found: None };
        self.flights.insert(key.clone(), flight);
        self.enter(&order_id, Work::Request(key));
    }

    pub(crate) fn enter(&mut self, order: &OrderId, work: Work) {
        if self.lanes.enter(order, work.clone()) {
            self.begin(order, work);
        }
    }

    /// Begins work whose turn has come. While the store is not open nothing begins: all of it does when the store is back.
    fn begin(&mut self, order: &OrderId, work: Work) {
        if self.store != StoreState::Open {
            return;
        }
        let in_memory = self.open.get(order).is_some();
        match work {
            Work::Request(key) => {
                let Some(flight) = self.flights.get(&key) else { return };
                let made_up = flight.submission.request.order_id.is_none();
                let session = flight.submission.session.map(|mark| (key.terminal.clone(), mark.session));
                let order = (!made_up && !in_memory).then(|| order.clone());
                let wanted = Wanted { request: Some(key.clone()), order, session, dead_letter: None };
                self.load(Target::Request(key), wanted);
            }
            // It was part of a commit that seemed to fail, and happened.
            Work::Status(number) if !self.downlink.is_unfinished(number) => self.leave(order),
            Work::Status(number) if in_memory && self.downlink.recalled(number).is_none() => self.status_loaded(number, Found::default()),
            Work::Status(number) => {
                let request = self.downlink.recalled(number).map(|recalled| recalled.request.clone());
                let wanted = Wanted { request, order: Some(order.clone()), session: None, dead_letter: None };
                self.load(Target::Status(number), wanted);
            }
            Work::Tidy => self.tidying.push_back(order.clone()),
            Work::Release(dead) => self.release_begins(dead),
        }
    }

    pub(crate) fn load(&mut self, target: Target, wanted: Wanted) {
        self.last_load = LoadId(self.last_load.0 + 1);
        self.loads.insert(self.last_load, target);
        self.outputs.push_back(Output::Load { load: self.last_load, wanted });
    }

    fn loaded(&mut self, now: Now, load: LoadId, found: Found) {
        match self.loads.remove(&load) {
            None => {}
            Some(Target::Request(key)) => {
                let Some(flight) = self.flights.get_mut(&key) else { return };
                flight.found = Some(found);
                match self.settled_by_look_up(now, &key) {
                    Some(answer) => self.finish_request(&key, answer),
                    None => self.ready_requests.push_back(key),
                }
            }
            Some(Target::Status(number)) => self.status_loaded(number, found),
            Some(Target::Release(dead)) => self.release_loaded(dead, found.dead_letter),
        }
    }

    fn status_loaded(&mut self, number: u64, found: Found) {
        let Some(entry) = self.downlink.get_mut(number) else { return };
        let order = match &entry.news {
            News::None => return,
            News::Status(incoming) => incoming.order_id.clone(),
            News::Recalled(recalled) => recalled.order_id.clone(),
        };
        self.ready_statuses.push_back((number, order));
        entry.stage = Stage::Ready(Box::new(found));
    }

    /// Answers a request and whoever waits for the same answer, and lets the next work on its order begin.
    pub(crate) fn finish_request(&mut self, key: &RequestKey, answer: Answer) {
        let Some(flight) = self.flights.remove(key) else { return };
        let mut again = answer.clone();
        if let Answer::Stored(stored) = &mut again {
            stored.duplicate = true;
        }
        self.answer(flight.reply_to, answer);
        for waiter in flight.waiters {
            self.answer(waiter, again.clone());
        }
        self.leave(&flight.order_id);
    }

    /// Ends the work on an order and begins what waited behind it.
    pub(crate) fn leave(&mut self, order: &OrderId) {
        if let Some(next) = self.lanes.leave(order) {
            self.begin(order, next);
        }
    }

    fn status(&mut self, now: Now, record: Record) {
        let own = record.gateway_id.as_deref() == Some(self.settings.gateway.as_str());
        if own && let Some(epoch) = record.gateway_epoch {
            self.tally.statuses_own += 1;
            let known = epoch == self.epoch || self.epochs.contains(&epoch) || self.rebuild.is_under_way();
            if !known && self.foreign.len() < 64 && self.foreign.insert(epoch) {
                self.tally.strangers += 1;
                self.outputs.push_back(Output::Notice(Notice::ForeignEpoch(epoch)));
            }
            return self.pass_over(now, record);
        }
        let keyed_to_us = record.key.as_deref() == Some(self.settings.gateway.as_str().as_bytes());
        if record.select == Select::Partition && !keyed_to_us {
            self.tally.statuses_foreign += 1;
            return self.pass_over(now, record);
        }
        if record.value.is_none() {
            // A compacted topic's way to forget a key. The house forgets by itself.
            return self.pass_over(now, record);
        }
        match self.settings.dialect.decode(&record) {
            Ok(incoming) => {
                let named = incoming.restaurant_id.as_ref().is_some_and(|id| self.settings.restaurant_ids.contains(id));
                let ours = keyed_to_us || named || record.select == Select::Topic;
                let order = incoming.order_id.clone();
                let number = self.downlink.push(now.mono_ms, Some((record.at, record.offset)), News::Status(incoming), ours);
                self.enter(&order, Work::Status(number));
            }
            Err(reason) => {
                self.tally.statuses_poison += 1;
                self.outputs.push_back(Output::Notice(Notice::PoisonStatus { at: record.at.clone(), offset: record.offset, reason }));
                self.pass_over(now, record);
            }
        }
    }

    fn pass_over(&mut self, now: Now, record: Record) {
        self.downlink.push(now.mono_ms, Some((record.at, record.offset)), News::None, false);
    }

    /// What a status record makes of its order; `None` if it changes nothing.
    pub(crate) fn applied(&mut self, now: Now, number: u64, ticket: &mut Option<Ticket>) -> Option<Projection> {
        let moment = self.moment(now);
        let entry = self.downlink.get_mut(number)?;
        let stage = std::mem::replace(&mut entry.stage, Stage::Committing);
        let (Stage::Ready(found), News::Status(incoming)) = (stage, &entry.news) else { return None };
        let known = self.open.get(&incoming.order_id).map(|open| open.as_ref().clone()).or(found.order);
        match (known, &incoming.effect) {
            (Some(mut order), effect) => {
                let before = order.history.len();
                let changed = order.apply(effect, crate::order::Source::Centre, moment);
                let told = changed || order.history.len() != before;
                self.tally.statuses_applied += u64::from(told);
                told.then_some(order)
            }
            (None, Effect::Create { lines, lines_omitted, .. }) if entry.ours => {
                let mut order =
                    Projection::new(incoming.order_id.clone(), |field| incoming.data.get(field), lines.clone(), *lines_omitted, moment);
                let number = self.open.reserve_ticket(now.wall);
                order.ticket = Some(number);
                *ticket = Some(number);
                self.tally.statuses_applied += 1;
                Some(order)
            }
            (None, _) => {
                self.tally.statuses_unknown += 1;
                None
            }
        }
    }

    /// Asks for the store to be opened again: nothing is answered until the disk has said what is true.
    pub(crate) fn reopen(&mut self) {
        if self.store != StoreState::Open {
            return;
        }
        self.store = StoreState::Reopening;
        // What was read from it may hold what never became durable.
        self.loads.clear();
        self.outputs.push_back(Output::Notice(Notice::StoreUnclear));
        self.outputs.push_back(Output::Reopen);
    }

    fn reopened(&mut self, now: Now, opened: &Opened) {
        self.store = StoreState::Open;
        self.reopen_backoff_ms = REOPEN_BACKOFF_MS.0;
        self.outputs.push_back(Output::Notice(Notice::StoreBack));
        self.abandon_commit(opened.next_seq);
        self.take_open_state(opened);
        self.uplink.store_reopened(opened);
        self.ready_requests.clear();
        self.ready_statuses.clear();
        self.tidying.clear();
        self.downlink.restart(now.mono_ms, &opened.offsets);
        self.sweep.restart();
        for (order, work) in self.lanes.at_work() {
            self.begin(&order, work);
        }
        self.resume_releases(opened);
    }

    /// Begins the work anew that is at the front of these orders' lanes.
    pub(crate) fn begin_again(&mut self, orders: &[OrderId]) {
        for (order, work) in self.lanes.at_work() {
            if orders.contains(&order) {
                self.begin(&order, work);
            }
        }
    }

    fn reopen_failed(&mut self, now: Now) {
        self.store = StoreState::Closed { retry_at: now.mono_ms + self.reopen_backoff_ms };
        self.reopen_backoff_ms = (self.reopen_backoff_ms * 2).min(REOPEN_BACKOFF_MS.1);
    }

    /// Does all that is due now.
    fn advance(&mut self, now: Now) {
        if let StoreState::Closed { retry_at } = self.store
            && retry_at <= now.mono_ms
        {
            self.store = StoreState::Reopening;
            self.outputs.push_back(Output::Reopen);
        }
        self.check_board(now);
        self.check_rebuild(now);
        self.uplink.poll(now.mono_ms, &self.settings.limits, &mut self.outputs);
        self.queued_bytes = self.queued_bytes.saturating_sub(self.uplink.take_accounted_bytes());
        if self.uplink.progress() > self.forgotten {
            self.forget_since.get_or_insert(now.mono_ms);
        }
        self.check_releases(now);
        self.build_commit(now);
        // Work that ended without a commit may have let a decision begin whose time is over.
        while self.store == StoreState::Open && self.release_gives_up_at().is_some_and(|at| at <= now.mono_ms) {
            self.check_releases(now);
            self.build_commit(now);
        }
        self.sweep(now);
        self.show_board(now);
        self.tell_accepting(now);
    }

    fn check_board(&mut self, now: Now) {
        if now.mono_ms < self.timers.board_check_at {
            return;
        }
        self.timers.board_check_at = now.mono_ms + BOARD_CHECK_MS;
        for order in self.open.overdue(&self.settings.board, self.run_ms(now)) {
            if !self.lanes.is_busy(&order.order_id) {
                self.enter(&order.order_id, Work::Tidy);
            }
        }
    }

    fn sweep(&mut self, now: Now) {
        if self.store != StoreState::Open || self.sweep.due_at().is_none_or(|at| now.mono_ms < at) {
            return;
        }
        let before = |after_ms| self.run_ms(now).checked_sub(after_ms);
        let old = Old { expired_ms: before(self.settings.remember_ms), details_ms: before(self.settings.forget_details_ms) };
        if old.expired_ms.or(old.details_ms).is_none() {
            return self.sweep.skip(now.mono_ms);
        }
        let committing = self.commit.iter().flat_map(Commit::orders).cloned();
        let from = self.sweep.begin(now.mono_ms, committing);
        self.outputs.push_back(Output::Sweep { from, keys_max: sweep::KEYS_MAX, old });
    }

    pub(crate) fn board_changed(&mut self) {
        self.board_changed = true;
    }

    fn show_board(&mut self, now: Now) {
        if !self.board_changed || now.mono_ms < self.timers.board_show_at {
            return;
        }
        self.board_changed = false;
        self.timers.board_show_at = now.mono_ms + BOARD_SHOW_MS;
        let board = self.open.board();
        if board != *self.shown {
            self.shown = Arc::new(board);
            self.outputs.push_back(Output::ShowBoard(Arc::clone(&self.shown)));
        }
    }

    fn tell_accepting(&mut self, now: Now) {
        let accepting = self.full_until.is_none_or(|until| until <= now.mono_ms) && self.room_for_new_orders(0);
        if accepting != self.accepting {
            self.accepting = accepting;
            self.outputs.push_back(Output::Notice(if accepting { Notice::Accepting } else { Notice::Full }));
        }
    }

    /// The last tenth of the outbox is for events of orders already stored. The bytes may be passed by one event.
    pub(crate) fn room_for_new_orders(&self, drafted_bytes: u64) -> bool {
        let limits = &self.settings.limits;
        self.uplink.dead_letters() < limits.dead_letters_max
            && self.queued() + self.kept.events < limits.queued_events_max / 10 * 9
            && self.queued_bytes + self.kept.bytes + drafted_bytes < limits.queued_bytes_max / 10 * 9
    }

    pub(crate) fn room_for_known_orders(&self, drafted_bytes: u64) -> bool {
        let limits = &self.settings.limits;
        self.queued() + self.kept.events < limits.queued_events_max
            && self.queued_bytes + self.kept.bytes + drafted_bytes < limits.queued_bytes_max
    }
}
