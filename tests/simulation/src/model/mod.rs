//! The reference model: what a correct gateway may say and do, checked at every input and output.
//!
//! It knows what only a simulator can know: what every terminal meant, what Kafka has taken, which commit reached the disk. It shares
//! the core's types, never its rules.

mod batch;
mod counts;
mod decisions;
mod image;
mod kafka;
mod rules;
mod tickets;

pub use counts::Counts;
pub use image::Image;
pub use kafka::KafkaFacts;

use crate::deed::Deed;
use gateway::board::Board;
use gateway::event::OrderEvent;
use gateway::ids::{CommitId, Epoch, Name, OrderId, ProducerId, ReplyTo, RequestKey, Seq, SessionId};
use gateway::io::{Change, Decision, Forgettable, Notice, Opened, PartitionName, Remembered, Submission};
use gateway::order::{Moment, Projection, Status};
use gateway::request::{Answer, Code, Stored};
use gateway::settings::Settings;
use gateway::time::Now;
use gateway::{Gateway, Gauges};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// More than any event has.
const EVENT_BYTES_MAX: u64 = 20 * 1024;

/// What a gateway must not do, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// The outcome of a check.
pub type Check = Result<(), Violation>;

macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err($crate::model::Violation(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

/// A request that was submitted and has no answer yet.
#[derive(Debug, Clone)]
struct Flight {
    submission: Submission,
    deed: Deed,
    reply_to: ReplyTo,
    waiters: VecDeque<ReplyTo>,
    since_mono_ms: u64,
}

/// What is due on an order, in the order in which it came.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Work {
    /// A request, and the first who waits for its answer: a later flight may have the same key.
    Request(RequestKey, ReplyTo),
    Status(PartitionName, i64),
}

/// What a status record means.
#[derive(Debug, Clone)]
pub struct Told {
    /// The order.
    pub order: OrderId,
    /// What happened to it.
    pub deed: Deed,
    /// A new order is this house's.
    pub ours: bool,
}

/// A commit that the core asked for and that has not ended.
#[derive(Debug)]
struct Pending {
    commit: CommitId,
    batch: Arc<Vec<Change>>,
    /// Work that ends with it.
    works: Vec<(OrderId, Work)>,
}

/// What dies with a gateway process.
#[derive(Debug)]
struct Life {
    epoch: Epoch,
    started_mono_ms: u64,
    run_base_ms: u64,
    last_wall_ms: i64,
    flights: BTreeMap<RequestKey, Flight>,
    /// Answers that must come at once.
    refused: BTreeMap<ReplyTo, Code>,
    /// Who waits for which flight.
    waiting: BTreeMap<ReplyTo, RequestKey>,
    lanes: BTreeMap<OrderId, VecDeque<Work>>,
    told: BTreeMap<(PartitionName, i64), Told>,
    read_upto: BTreeMap<PartitionName, i64>,
    sessions_opening: BTreeSet<ReplyTo>,
    deciding: BTreeMap<ReplyTo, Seq>,
    seeing: BTreeMap<ReplyTo, OrderId>,
    /// Acknowledged to this process.
    acknowledged: BTreeSet<Seq>,
    /// Buried by this process.
    buried: BTreeSet<Seq>,
    accounted: Seq,
    producer: ProducerId,
    producer_up: bool,
    with_producer: BTreeSet<Seq>,
    no_space_at: Option<u64>,
    /// It was tried to open the store again, in vain.
    closed: bool,
    pending: Option<Pending>,
    tickets: tickets::Tickets,
}

/// The reference model.
#[derive(Debug)]
pub struct Model {
    settings: Settings,
    /// What is surely on disk.
    pub image: Image,
    life: Option<Life>,
    /// A commit of a dead process that may have reached the disk.
    leftover: Option<Arc<Vec<Change>>>,
    /// Every event that ever was durable.
    stored: BTreeMap<Seq, Arc<OrderEvent>>,
    seq_of: HashMap<RequestKey, Seq>,
    /// The first seq of what was appended again.
    origin: HashMap<Seq, Seq>,
    /// What a person gave up, by its first seq.
    discarded: HashSet<Seq>,
    /// What people want done with dead letters, as long as it may happen.
    wishes: Vec<(Seq, Decision)>,
    /// Whose request was last part of a batch: what became durable of it is that one's first answer, and everybody else's copy.
    last_try: HashMap<RequestKey, ReplyTo>,
    /// Requests whose first, not duplicate answer went out.
    first_told: HashSet<RequestKey>,
    forgotten_orders: HashSet<OrderId>,
    /// A look-up may have found them just before.
    forgotten_requests: HashMap<RequestKey, Remembered>,
    /// The latest wall time that any process saw, and whether the clock was ever set back.
    wall_seen_ms: i64,
    clock_went_back: bool,
    /// The date of the last new event.
    last_dated_ms: i64,
    /// What Kafka has taken.
    pub kafka: KafkaFacts,
    /// How much was checked.
    pub counts: Counts,
}

impl Model {
    /// A house that has stored nothing yet.
    pub fn new(settings: Settings) -> Model {
        Model {
            settings,
            image: Image::default(),
            life: None,
            leftover: None,
            stored: BTreeMap::new(),
            seq_of: HashMap::new(),
            origin: HashMap::new(),
            discarded: HashSet::new(),
            wishes: Vec::new(),
            last_try: HashMap::new(),
            first_told: HashSet::new(),
            forgotten_orders: HashSet::new(),
            forgotten_requests: HashMap::new(),
            wall_seen_ms: 0,
            clock_went_back: false,
            last_dated_ms: 0,
            kafka: KafkaFacts::default(),
            counts: Counts::default(),
        }
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("only a living gateway has inputs and outputs")
    }

    fn life_mut(&mut self) -> &mut Life {
        self.life.as_mut().expect("only a living gateway has inputs and outputs")
    }

    /// Every event that ever was durable.
    pub fn stored(&self) -> &BTreeMap<Seq, Arc<OrderEvent>> {
        &self.stored
    }

    /// The seq that an event had first.
    pub fn origin(&self, seq: Seq) -> Seq {
        self.origin.get(&seq).copied().unwrap_or(seq)
    }

    /// Whether an event of that name was ever durable.
    pub fn is_stored(&self, seq: Seq, event: &OrderEvent) -> bool {
        self.stored.get(&seq).is_some_and(|stored| stored.as_ref() == event)
    }

    fn run_ms(&self, now: Now) -> u64 {
        self.life().run_base_ms + (now.mono_ms - self.life().started_mono_ms)
    }

    fn moment(&self, now: Now) -> Moment {
        Moment { wall_ms: now.wall.map_or(self.life().last_wall_ms, |wall| wall.unix_ms), run_ms: self.run_ms(now) }
    }

    /// Every session that may be on disk.
    pub fn sessions(&self) -> BTreeSet<(Name, SessionId)> {
        let unclear = self.leftover.iter().chain(self.life.iter().flat_map(|life| &life.pending).map(|pending| &pending.batch));
        let opening = unclear.flat_map(|batch| batch.iter()).filter_map(|change| match change {
            Change::Session(terminal, session, _) => Some((terminal.clone(), *session)),
            _ => None,
        });
        self.image.sessions.keys().cloned().chain(opening).collect()
    }

    /// A process opened the store and is about to make a gateway. `found` is all that the store holds.
    ///
    /// # Errors
    /// The store lost or invented something.
    pub fn started(&mut self, now: Now, epoch: Epoch, opened: &Opened, found: &Image) -> Check {
        let leftover = self.leftover.take();
        self.resolve(opened, found, leftover)?;
        self.counts.lives += 1;
        self.life = Some(Life {
            epoch,
            started_mono_ms: now.mono_ms,
            run_base_ms: opened.counters.running_ms,
            last_wall_ms: opened.counters.last_wall_ms,
            flights: BTreeMap::new(),
            refused: BTreeMap::new(),
            waiting: BTreeMap::new(),
            lanes: BTreeMap::new(),
            told: BTreeMap::new(),
            read_upto: BTreeMap::new(),
            sessions_opening: BTreeSet::new(),
            deciding: BTreeMap::new(),
            seeing: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            buried: BTreeSet::new(),
            accounted: opened.progress,
            producer: ProducerId(0),
            producer_up: false,
            with_producer: BTreeSet::new(),
            no_space_at: None,
            closed: false,
            pending: None,
            tickets: tickets::Tickets::at(&self.image),
        });
        Ok(())
    }

    /// Decides between what is surely durable and that with the commit whose outcome is unclear.
    fn resolve(&mut self, opened: &Opened, found: &Image, unclear: Option<Arc<Vec<Change>>>) -> Check {
        self.counts.unclear += u64::from(unclear.is_some());
        let without = found == &self.image;
        let mut with = self.image.clone();
        unclear.iter().flat_map(|batch| batch.iter()).for_each(|change| with.apply(change));
        if found == &with {
            if let Some(batch) = unclear {
                self.became_durable(&batch)?;
            }
        } else {
            let lost = self.image.differences(found);
            let half = if unclear.is_some() { with.differences(found) } else { String::new() };
            ensure!(without, "the store lost or invented something: {lost}; or kept half a batch: {half}");
        }
        let mut expected = self.image.opened();
        let mut opened = opened.clone();
        for side in [&mut expected, &mut opened] {
            side.open.sort_by(|a, b| a.order_id.cmp(&b.order_id));
            side.offsets.sort();
            side.dead.sort();
            side.held.sort();
        }
        ensure!(opened == expected, "the store opened as {opened:?} and holds {expected:?}");
        Ok(())
    }

    fn became_durable(&mut self, batch: &[Change]) -> Check {
        self.counts.commits += 1;
        let mut appended = HashSet::new();
        for change in batch {
            match change {
                Change::Enqueue(seq, event) if self.seq_of.get(&event.request).is_some_and(|first| self.stored[first].id == event.id) => {
                    let first = self.seq_of[&event.request];
                    ensure!(self.stored.insert(*seq, Arc::clone(event)).is_none(), "seq {seq} was given twice");
                    self.origin.insert(*seq, first);
                    appended.insert(first);
                    self.counts.released += 1;
                }
                Change::Enqueue(seq, event) => {
                    let earlier = std::mem::replace(&mut self.last_dated_ms, event.occurred_at_ms);
                    let in_order = self.clock_went_back || earlier <= event.occurred_at_ms;
                    ensure!(in_order, "{seq} is dated {} ({:?}), and the event before it {earlier}", event.occurred_at_ms, event.clock);
                    let other = self.stored.insert(*seq, Arc::clone(event));
                    ensure!(other.is_none(), "seq {seq} was given twice");
                    let first = self.seq_of.insert(event.request.clone(), *seq);
                    ensure!(first.is_none(), "doubled: request {:?} has seqs {first:?} and {seq}", event.request);
                }
                Change::Expire(what) => {
                    self.counts.expired += 1;
                    match what {
                        Forgettable::Order(order) => drop(self.forgotten_orders.insert(order.clone())),
                        Forgettable::Details(_) => {}
                        Forgettable::Request(key) => {
                            self.forgotten_requests.extend(self.image.requests.get(key).map(|first| (key.clone(), first.clone())));
                        }
                        Forgettable::Print(_) => {}
                    }
                }
                Change::DeadLetter(..) | Change::Hold(..) => self.counts.buried += 1,
                Change::Release(seq) if self.image.dead.contains_key(seq) => drop(self.discarded.insert(self.origin(*seq))),
                _ => {}
            }
            self.image.apply(change);
        }
        self.discarded.retain(|first| !appended.contains(first));
        Ok(())
    }

    /// The process died.
    pub fn died(&mut self) {
        let life = self.life.take();
        if let Some(pending) = life.and_then(|life| life.pending) {
            self.leftover = Some(pending.batch);
        }
    }

    /// Called before every input: the clock is seen by it.
    pub fn sees(&mut self, now: Now) {
        if let Some(wall) = now.wall {
            self.clock_went_back |= wall.unix_ms < self.wall_seen_ms;
            self.wall_seen_ms = wall.unix_ms;
            self.life_mut().last_wall_ms = wall.unix_ms;
        }
    }

    /// A request is about to be submitted.
    pub fn submitted(&mut self, now: Now, reply_to: ReplyTo, submission: &Submission, deed: &Deed) {
        let limits = self.settings.limits.clone();
        let key = RequestKey { terminal: submission.terminal.clone(), request_id: submission.request.id.clone() };
        let life = self.life_mut();
        if life.closed {
            life.refused.insert(reply_to, Code::Busy);
        } else if let Some(flight) = life.flights.get_mut(&key) {
            if flight.submission.request.body_hash != submission.request.body_hash {
                life.refused.insert(reply_to, Code::Conflict);
            } else if flight.waiters.len() >= limits.waiters_max {
                life.refused.insert(reply_to, Code::Busy);
            } else {
                flight.waiters.push_back(reply_to);
                life.waiting.insert(reply_to, key);
            }
        } else if life.flights.len() >= limits.requests_in_flight_max {
            life.refused.insert(reply_to, Code::Busy);
        } else {
            if let Some(order) = &submission.request.order_id {
                life.lanes.entry(order.clone()).or_default().push_back(Work::Request(key.clone(), reply_to));
            }
            life.waiting.insert(reply_to, key.clone());
            let (submission, deed) = (submission.clone(), deed.clone());
            life.flights.insert(key, Flight { submission, deed, reply_to, waiters: VecDeque::new(), since_mono_ms: now.mono_ms });
        }
    }

    /// The terminal that waits for a request's answer.
    pub fn waits_for(&self, key: &RequestKey) -> Option<ReplyTo> {
        self.life().flights.get(key).map(|flight| flight.reply_to)
    }

    /// The handle that the core uses.
    pub fn producer(&self) -> ProducerId {
        self.life().producer
    }

    /// A serial session is about to be opened.
    pub fn session_opening(&mut self, reply_to: ReplyTo) {
        self.life_mut().sessions_opening.insert(reply_to);
    }

    /// A serial session was opened or not.
    ///
    /// # Errors
    /// Nobody asked, or it is not durable.
    pub fn session_opened(&mut self, reply_to: ReplyTo, durable: Option<bool>) -> Check {
        ensure!(self.life_mut().sessions_opening.remove(&reply_to), "a session was opened that nobody waits for");
        ensure!(durable != Some(false), "a session was told before it was durable");
        Ok(())
    }

    /// The core answers.
    ///
    /// # Errors
    /// The answer is not true, not due, or given twice.
    pub fn answered(&mut self, now: Now, reply_to: ReplyTo, answer: &Answer) -> Check {
        if let Answer::Rejected(rejected) = answer {
            let timed = matches!(rejected.code, Code::Busy | Code::Full);
            ensure!(timed == rejected.retry_after_ms.is_some(), "{:?} with retry_after_ms {:?}", rejected.code, rejected.retry_after_ms);
        }
        if let Some(code) = self.life_mut().refused.remove(&reply_to) {
            let refused = matches!(answer, Answer::Rejected(r) if r.code == code);
            ensure!(refused, "{answer:?} where {code:?} was due");
            self.counts.rejected += 1;
            return Ok(());
        }
        let Some(key) = self.life_mut().waiting.remove(&reply_to) else {
            return Err(Violation(format!("an answer that nobody waits for, or a second one: {answer:?}")));
        };
        let life = self.life_mut();
        let Some(flight) = life.flights.get_mut(&key) else {
            return Err(Violation(format!("{key:?} was answered before the one whose answer it waits for")));
        };
        let leads = flight.reply_to == reply_to;
        if !leads {
            flight.waiters.retain(|waiter| *waiter != reply_to);
        }
        let flight = flight.clone();
        match answer {
            Answer::Stored(stored) => self.check_stored(&key, &flight, stored, leads)?,
            Answer::Rejected(rejected) => {
                self.counts.rejected += 1;
                self.check_rejected(now, &key, &flight, rejected.code)?;
            }
        }
        let life = self.life_mut();
        // The leader is answered first; the flight ends with the last of those who wait for the same answer.
        if flight.waiters.is_empty() {
            life.flights.remove(&key);
        }
        Ok(())
    }

    fn check_stored(&mut self, key: &RequestKey, flight: &Flight, stored: &Stored, leads: bool) -> Check {
        let forgotten = self.forgotten_requests.get(key).filter(|_| stored.duplicate);
        let Some(remembered) = self.image.requests.get(key).or(forgotten) else {
            return Err(Violation(format!("{key:?} was told stored, but it is not on disk")));
        };
        ensure!(remembered.body_hash == flight.submission.request.body_hash, "{key:?}: a conflict was told stored");
        let first = Stored {
            request_id: key.request_id.clone(),
            duplicate: stored.duplicate,
            order_id: remembered.order_id.clone(),
            event_id: remembered.event_id,
            ticket: remembered.ticket.map(gateway::ids::Ticket),
            seq: remembered.seq,
        };
        ensure!(*stored == first, "{key:?} was told {stored:?}, and {first:?} is on disk");
        if let Some(mark) = flight.submission.session {
            let number = self.image.sessions.get(&(key.terminal.clone(), mark.session));
            ensure!(number.is_some_and(|number| mark.number <= *number), "{key:?} was told stored; its session is at {number:?}");
        }
        let own = self.last_try.get(key) == Some(&flight.reply_to);
        if stored.duplicate {
            ensure!(!leads || !own, "{key:?} was stored for this very request, and is told that it is a copy");
            self.counts.duplicates += 1;
        } else {
            ensure!(leads, "{key:?}: a copy was told that it is the first");
            ensure!(own, "{key:?} was stored before, and is told that it is the first");
            ensure!(self.first_told.insert(key.clone()), "{key:?} was told twice that it is the first");
            self.counts.stored += 1;
        }
        Ok(())
    }

    fn check_rejected(&self, now: Now, key: &RequestKey, flight: &Flight, code: Code) -> Check {
        let request = &flight.submission.request;
        let remembered = self.image.requests.get(key);
        let order = request.order_id.as_ref().and_then(|id| self.image.orders.get(id));
        let creates = matches!(flight.deed, Deed::Create { .. });
        let mut pending = self.life().pending.iter().flat_map(|pending| pending.batch.iter());
        let goes = pending.any(|change| matches!(change, Change::Expire(Forgettable::Order(id)) if request.order_id.as_ref() == Some(id)));
        let forgotten = request.order_id.as_ref().is_some_and(|id| self.forgotten_orders.contains(id));
        let just = match code {
            Code::Conflict => {
                remembered.is_some_and(|first| first.body_hash != request.body_hash) || (creates && (order.is_some() || forgotten))
            }
            Code::Final => order.is_some_and(|order| !rules::admits(order, &flight.deed)) || forgotten,
            Code::UnknownOrder => self.settings.strict_orders && !creates && (order.is_none() || goes),
            Code::Expired => self.is_expired(now, flight),
            Code::Full => self.is_full(now),
            Code::Busy | Code::Invalid | Code::TooLarge | Code::Unauthorized => false,
        };
        ensure!(just, "{key:?} was rejected as {code:?} without reason; the order is {order:?}");
        // A repeat of what is stored hears so, unless the ids were mixed up or the commit in flight forgets it.
        let mut pending = self.life().pending.iter().flat_map(|pending| pending.batch.iter());
        let expires = |change: &Change| matches!(change, Change::Expire(Forgettable::Request(expired)) if expired == key);
        let repeat = remembered.is_some_and(|first| first.body_hash == request.body_hash) && !pending.any(expires);
        ensure!(!repeat, "{key:?} is stored and was rejected as {code:?}");
        Ok(())
    }

    fn is_expired(&self, now: Now, flight: &Flight) -> bool {
        let late = flight.submission.request.valid_for_ms.is_some_and(|valid| now.mono_ms > flight.since_mono_ms.saturating_add(valid));
        let old = flight.submission.session.is_some_and(|mark| {
            let session = (flight.submission.terminal.clone(), mark.session);
            let stored = self.image.sessions.get(&session).copied();
            // A look-up may see the commit in flight.
            let batch = self.life().pending.iter().flat_map(|pending| pending.batch.iter());
            let seen = batch.filter_map(|change| match change {
                Change::Session(terminal, id, number) if (terminal, id) == (&session.0, &session.1) => Some(*number),
                _ => None,
            });
            stored.into_iter().chain(seen).any(|highest| mark.number <= highest)
        });
        late || old
    }

    fn is_full(&self, now: Now) -> bool {
        let limits = &self.settings.limits;
        let disk = self.life().no_space_at.is_some_and(|at| now.mono_ms <= at + 5_000);
        let waiting = self.image.queued.range(self.life().accounted.next()..);
        let (events, bytes) = waiting.fold((0, 0), |(n, bytes), (_, event)| (n + 1, bytes + event.weight() as u64));
        let kept = self.image.kept();
        let (events, bytes) = (events + kept.events, bytes + kept.bytes);
        // What the commit in flight or in the making holds counts too; a batch's worth is the tolerance.
        let batch = limits.batch_requests_max as u64;
        let events_full = events + batch >= limits.queued_events_max / 10 * 9;
        let bytes_full = bytes + batch * 2_048 >= limits.queued_bytes_max / 10 * 9;
        let letters_full = self.image.dead.len() >= limits.dead_letters_max;
        let open_full = self.image.open_orders().count() + limits.batch_requests_max >= limits.open_orders_max;
        disk || events_full || bytes_full || open_full || letters_full
    }

    /// The commit is durable, and the core is about to hear it.
    ///
    /// # Errors
    /// It doubles something.
    pub fn commit_stored(&mut self, commit: CommitId) -> Check {
        let Some(pending) = self.life_mut().pending.take_if(|pending| pending.commit == commit) else { return Ok(()) };
        self.became_durable(&pending.batch)?;
        let image = &self.image;
        let life = self.life.as_mut().expect("only a living gateway has inputs");
        life.finish(pending.works);
        for change in pending.batch.iter() {
            if let Change::DeadLetter(seq, _) | Change::Hold(seq, ..) = change {
                life.buried.insert(*seq);
            }
        }
        life.account(image);
        life.tickets = tickets::Tickets::at(image);
        Ok(())
    }

    /// The commit found no room, and the core is about to hear it.
    pub fn commit_without_room(&mut self, now: Now, commit: CommitId) {
        let image = &self.image;
        let life = self.life.as_mut().expect("only a living gateway has inputs");
        if let Some(pending) = life.pending.take_if(|pending| pending.commit == commit) {
            life.no_space_at = Some(now.mono_ms);
            life.put_back(pending.works);
            life.tickets = tickets::Tickets::at(image);
        }
    }

    /// The store was opened again, and the core is about to hear it.
    ///
    /// # Errors
    /// The store lost or invented something.
    pub fn reopened(&mut self, opened: &Opened, found: &Image) -> Check {
        let pending = self.life_mut().pending.take();
        let works = pending.as_ref().map(|pending| pending.works.clone()).unwrap_or_default();
        self.resolve(opened, found, pending.map(|pending| pending.batch))?;
        let image = &self.image;
        let life = self.life.as_mut().expect("only a living gateway has inputs");
        // A record below the stored offset was applied by the very commit that seemed to fail.
        let (done, again): (Vec<_>, Vec<_>) = works.into_iter().partition(|(_, work)| match work {
            Work::Request(..) => false,
            Work::Status(at, offset) => image.offsets.get(at).is_some_and(|next| offset < next),
        });
        life.closed = false;
        life.finish(done);
        life.put_back(again);
        life.account(image);
        life.tickets = tickets::Tickets::at(image);
        Ok(())
    }

    /// The store could not be opened again.
    pub fn reopen_failed(&mut self) {
        self.life_mut().closed = true;
    }

    /// A record of a status topic is about to be handed in. `told` is `None` for one that must change nothing.
    pub fn status_read(&mut self, at: &PartitionName, offset: i64, told: Option<Told>) {
        let life = self.life_mut();
        life.read_upto.insert(at.clone(), offset);
        if let Some(told) = told {
            life.lanes.entry(told.order.clone()).or_default().push_back(Work::Status(at.clone(), offset));
            life.told.insert((at.clone(), offset), told);
        }
    }

    /// The core shows orders.
    ///
    /// # Errors
    /// One is not as it is on disk.
    pub fn shown(&self, orders: &[Arc<Projection>]) -> Check {
        for order in orders {
            let durable = self.image.orders.get(&order.order_id);
            ensure!(durable == Some(order), "shown {order:?}, but {durable:?} is on disk");
        }
        Ok(())
    }

    /// The core shows the board.
    ///
    /// # Errors
    /// It is not what is on disk.
    pub fn board_shown(&self, board: &Board) -> Check {
        let stands = |order: &&Arc<Projection>| order.number().is_some() && rules::stays(order.status, None);
        let mut orders: Vec<_> = self.image.open_orders().filter(stands).collect();
        orders.sort_by(|a, b| (a.created_at_ms, &a.order_id).cmp(&(b.created_at_ms, &b.order_id)));
        let newest = orders.split_off(orders.len().saturating_sub(200));
        let entry = |order: &Arc<Projection>| (order.order_id.clone(), order.number().unwrap_or_default(), order.status);
        let is_ready = |order: &&Arc<Projection>| matches!(order.status, Status::Ready | Status::OutForDelivery);
        let (ready, preparing): (Vec<_>, Vec<_>) = newest.into_iter().partition(is_ready);
        for (shown, expected) in [(&board.preparing, preparing), (&board.ready, ready)] {
            let shown: Vec<_> = shown.iter().map(|e| (e.order_id.clone(), e.number.clone(), e.status)).collect();
            let expected: Vec<_> = expected.into_iter().map(entry).collect();
            ensure!(shown == expected, "the board shows {shown:?}, and {expected:?} is on disk");
        }
        Ok(())
    }

    /// The core has something to say.
    ///
    /// # Errors
    /// It is not true.
    pub fn noticed(&self, notice: &Notice) -> Check {
        if let Notice::ForeignEpoch(epoch) = notice {
            ensure!(!self.image.epochs.contains(epoch), "{epoch} is our own epoch");
        }
        Ok(())
    }

    /// Checks what must hold after every step.
    ///
    /// # Errors
    /// What does not.
    pub fn after_step(&self, now: Now, gateway: &Gateway) -> Check {
        let gauges = gateway.gauges();
        let limits = &self.settings.limits;
        let life = self.life();
        ensure!(life.refused.is_empty(), "{:?} was not said at once", life.refused);
        ensure!(gauges.requests_in_flight == life.flights.len(), "{} flights, not {}", gauges.requests_in_flight, life.flights.len());
        ensure!(gauges.requests_in_flight <= limits.requests_in_flight_max, "{} requests in flight", gauges.requests_in_flight);
        ensure!(gauges.statuses_in_flight <= limits.statuses_in_flight_max, "{} statuses in flight", gauges.statuses_in_flight);
        ensure!(gauges.window_events <= limits.window_events_max, "{} events in the window", gauges.window_events);
        ensure!(gauges.open_orders <= limits.open_orders_max, "{} open orders in memory", gauges.open_orders);
        ensure!(gauges.queued <= limits.queued_events_max, "{} events queued", gauges.queued);
        ensure!(gauges.queued_bytes <= limits.queued_bytes_max + EVENT_BYTES_MAX, "{} bytes queued", gauges.queued_bytes);
        ensure!(
            gauges.window_bytes as u64 <= limits.window_bytes_max as u64 + EVENT_BYTES_MAX,
            "{} bytes in the window",
            gauges.window_bytes
        );
        let wake = gateway.wake_at();
        ensure!(wake.is_none_or(|at| at > now.mono_ms), "it would be woken for {wake:?} at {} again and again", now.mono_ms);
        Ok(())
    }

    /// Checks that what the core keeps in memory is what is on disk: after a commit or a reopening.
    ///
    /// # Errors
    /// Where they differ.
    pub fn memory_is_disk(&self, gateway: &Gateway) -> Check {
        let gauges = gateway.gauges();
        self.gauges_are_true(&gauges)?;
        if gauges.open_orders_crowded_out > 0 {
            return Ok(());
        }
        let mut in_memory = 0;
        for order in gateway.open_orders() {
            in_memory += 1;
            let durable = self.image.orders.get(&order.order_id);
            ensure!(durable == Some(order), "in memory {order:?}, on disk {durable:?}");
        }
        let open = self.image.open_orders().count();
        ensure!(in_memory == open, "{in_memory} open orders in memory, {open} on disk");
        Ok(())
    }

    fn gauges_are_true(&self, gauges: &Gauges) -> Check {
        let life = self.life();
        let pending = life.pending.iter().flat_map(|pending| pending.batch.iter());
        let pending = pending.filter(|change| matches!(change, Change::Enqueue(..))).count() as u64;
        let buried_before = life.buried_before(&self.image);
        let waiting = self.image.queued.range(life.accounted.next()..);
        let (events, bytes) = waiting.fold((pending, 0), |(n, bytes), (_, event)| (n + 1, bytes + event.weight() as u64));
        // What an earlier process buried is accounted for once this one comes across it.
        let (gauge, gauge_bytes) = (gauges.queued, gauges.queued_bytes);
        ensure!(gauge <= events && gauge + buried_before >= events, "the gauge says {gauge} events queued, and it is {events}");
        let exact = buried_before > 0 || gauge_bytes == bytes;
        ensure!(exact, "the gauge says {gauge_bytes} bytes queued, and it is {bytes}");
        ensure!(gauges.last_seq == self.image.next_seq.0 - 1 + pending, "the gauge says {} is the last seq", gauges.last_seq);
        ensure!(gauges.dead_letters == self.image.dead.len(), "the gauge says {} dead letters", gauges.dead_letters);
        ensure!(gauges.kept == self.image.kept(), "the gauge says {:?} is kept, and it is {:?}", gauges.kept, self.image.kept());
        Ok(())
    }

    /// Checks what must hold once all faults are over and everything came to rest.
    ///
    /// # Errors
    /// What was lost.
    pub fn at_rest(&self) -> Check {
        let life = self.life();
        ensure!(life.flights.is_empty(), "never answered: {:?}", life.flights.keys().collect::<Vec<_>>());
        ensure!(life.sessions_opening.is_empty(), "sessions never answered: {:?}", life.sessions_opening);
        ensure!(life.deciding.is_empty(), "decisions never answered: {:?}", life.deciding);
        ensure!(life.seeing.is_empty(), "acknowledgements never answered: {:?}", life.seeing);
        ensure!(self.image.releasing().is_empty(), "never released: {:?}", self.image.releasing());
        let kept: HashSet<Seq> =
            self.image.dead.keys().copied().chain(self.image.held.keys().map(|(_, held)| *held)).map(|seq| self.origin(seq)).collect();
        for (seq, event) in &self.stored {
            let first = self.origin(*seq);
            let accounted = self.kafka.has_origin(first) || kept.contains(&first) || self.discarded.contains(&first);
            ensure!(accounted, "lost: {seq} {event:?}");
        }
        ensure!(self.image.queued.is_empty(), "still in the outbox: {:?}", self.image.queued.keys().collect::<Vec<_>>());
        Ok(())
    }
}

impl Life {
    /// Whether that very request still waits for its answer.
    fn flies(&self, key: &RequestKey, reply_to: ReplyTo) -> bool {
        self.flights.get(key).is_some_and(|flight| flight.reply_to == reply_to)
    }

    /// Work that a commit held is done.
    fn finish(&mut self, works: Vec<(OrderId, Work)>) {
        for (_, work) in works {
            if let Work::Status(at, offset) = work {
                self.told.remove(&(at, offset));
            }
        }
    }

    /// Work that a commit held is due again, before what came later.
    fn put_back(&mut self, works: Vec<(OrderId, Work)>) {
        for (order, work) in works.into_iter().rev() {
            self.lanes.entry(order).or_default().push_front(work);
        }
    }

    /// Moves on over what Kafka acknowledged and what is durably dead or held.
    fn account(&mut self, image: &Image) {
        self.accounted = self.accounted.max(image.progress);
        loop {
            let next = self.accounted.next();
            if !(self.acknowledged.contains(&next) || self.buried.contains(&next)) {
                return;
            }
            self.accounted = next;
        }
    }

    /// How many events above the progress an earlier process buried, with what is behind them and was acknowledged meanwhile.
    fn buried_before(&self, image: &Image) -> u64 {
        let buried = |seq: &Seq| image.dead.contains_key(seq) || image.held.keys().any(|(_, held)| held == seq);
        let first = image.queued.range(self.accounted.next()..).map(|(seq, _)| seq).find(|seq| buried(seq) && !self.buried.contains(seq));
        first.map_or(0, |first| image.next_seq.0 - first.0)
    }
}
