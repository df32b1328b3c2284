//! Towards Kafka: what is delivered next, what is still out, and when a failure is tried again.
//!
//! The window holds the events between the progress and the newest that the producer was given, in seq order. An event leaves it only
//! when Kafka acknowledged it or when it is durably a dead letter or held behind one, so all at or below [`Uplink::progress`] is
//! accounted for. After any failure nothing more is sent until a new producer is there, and then everything unacknowledged is sent
//! again from the first: that keeps the order of every key (the producer's gapless guarantee turns a lost batch into a failure of all
//! that follows it).

use crate::event::OrderEvent;
use crate::ids::{OrderId, ProducerId, Seq};
use crate::io::{DeadLetter, Delivery, FailureClass, Notice, Opened, Output};
use crate::random::Random;
use crate::settings::Limits;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// First and longest wait after a failure that heals by itself.
const BACKOFF_MS: (u64, u64) = (100, 30_000);
/// Wait while a person is needed.
const PERSON_BACKOFF_MS: u64 = 30_000;
/// Events asked for by one read of the queue's head, and about how many bytes.
const READ_EVENTS_MAX: usize = 1_000;
const READ_BYTES_MAX: usize = 512 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the window, not with the producer.
    Waiting,
    /// With the producer.
    Sent,
    /// On its way to the dead letters, or behind one.
    Burying,
    /// Accounted for.
    Done,
}

#[derive(Debug)]
struct Slot {
    event: Arc<OrderEvent>,
    stage: Stage,
    attempts: u32,
    /// It was sent with nothing else out: a failure is its own.
    alone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// A new producer is asked for at this time.
    Down { retry_at: u64 },
    /// A new producer is being made.
    Making,
    /// The producer takes events.
    Up,
}

/// What a commit has to do for events that Kafka will not get now.
#[derive(Debug, Clone)]
pub enum Burial {
    /// Kafka can never take it.
    Dead(DeadLetter),
    /// It waits behind its order's dead letter.
    Held(Seq, Arc<OrderEvent>),
}

/// The uplink's state machine.
#[derive(Debug)]
pub struct Uplink {
    line: Line,
    producer: ProducerId,
    backoff_ms: u64,
    progress: Seq,
    /// Kafka has all up to it, as it said when the producer was made.
    delivered: Seq,
    window: VecDeque<Slot>,
    window_bytes: usize,
    /// Bytes of events that were accounted for since they were last asked for.
    accounted_bytes: u64,
    /// Slots before it are sent, buried or done; an index into the window.
    cursor: usize,
    /// First seq that is not durable yet.
    durable_end: Seq,
    reading: bool,
    /// These events, first to last, go one by one: among them is one that Kafka can never take.
    solo: Option<(Seq, Seq)>,
    /// What follows a dead letter of its order is held.
    holds: bool,
    /// Dead letters, and their orders.
    dead: BTreeMap<Seq, OrderId>,
    /// Orders of which what follows is held, and their dead letters, of which it is held behind the last.
    holding: BTreeMap<OrderId, Vec<Seq>>,
    /// Events above the progress that were held before the gateway was started or the store opened again.
    held: BTreeSet<Seq>,
    burials: Vec<(Seq, Burial)>,
    failed_since: Option<u64>,
    retries: u64,
    notices: Vec<Notice>,
}

impl Uplink {
    /// An uplink that goes on above the store's progress; a producer is asked for at once. Behind a dead letter it holds the later events
    /// of the order, or lets them pass unless some are held already.
    pub fn new(opened: &Opened, holds: bool) -> Uplink {
        let mut uplink = Uplink {
            holds,
            line: Line::Down { retry_at: 0 },
            producer: ProducerId(0),
            backoff_ms: BACKOFF_MS.0,
            progress: opened.progress,
            delivered: Seq(0),
            window: VecDeque::new(),
            window_bytes: 0,
            accounted_bytes: 0,
            cursor: 0,
            durable_end: opened.next_seq,
            reading: false,
            solo: None,
            dead: BTreeMap::new(),
            holding: BTreeMap::new(),
            held: BTreeSet::new(),
            burials: Vec::new(),
            failed_since: None,
            retries: 0,
            notices: Vec::new(),
        };
        uplink.keep(opened);
        uplink
    }

    /// What the store says of dead letters and held events.
    fn keep(&mut self, opened: &Opened) {
        self.dead = opened.dead.iter().cloned().collect();
        self.held = opened.held.iter().copied().collect();
        self.holding.clear();
        for (seq, order) in &opened.dead {
            if self.holds || opened.holding.contains(seq) {
                self.holding.entry(order.clone()).or_default().push(*seq);
            }
        }
    }

    /// All at or below it is accounted for.
    pub fn progress(&self) -> Seq {
        self.progress
    }

    /// Bytes of the events that were accounted for since the last call.
    pub fn take_accounted_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.accounted_bytes)
    }

    /// Events and bytes in the window, and events that had to be sent again since the start.
    pub fn usage(&self) -> (usize, usize, u64) {
        (self.window.len(), self.window_bytes, self.retries)
    }

    /// The oldest event that is not accounted for, if it is in the window.
    pub fn oldest(&self) -> Option<&OrderEvent> {
        self.window.front().map(|slot| slot.event.as_ref())
    }

    /// Dead letters.
    pub fn dead_letters(&self) -> usize {
        self.dead.len()
    }

    /// The order of a dead letter.
    pub fn order_of(&self, dead: Seq) -> Option<&OrderId> {
        self.dead.get(&dead)
    }

    /// A dead letter was decided about, durably: it holds back nothing any more.
    pub fn released(&mut self, dead: Seq) {
        let Some(order) = self.dead.remove(&dead) else { return };
        if let Some(behind) = self.holding.get_mut(&order) {
            behind.retain(|seq| *seq != dead);
            if behind.is_empty() {
                self.holding.remove(&order);
            }
        }
    }

    /// Since when the uplink has been failing.
    pub fn failed_since(&self) -> Option<u64> {
        self.failed_since
    }

    /// When something is to be done though nothing comes in.
    pub fn wake_at(&self) -> Option<u64> {
        match self.line {
            Line::Down { retry_at } => Some(retry_at),
            Line::Making | Line::Up => None,
        }
    }

    fn end(&self) -> Seq {
        Seq(self.progress.0 + self.window.len() as u64 + 1)
    }

    fn slot(&mut self, seq: Seq) -> Option<&mut Slot> {
        let index = seq.0.checked_sub(self.progress.0 + 1)?;
        self.window.get_mut(usize::try_from(index).ok()?)
    }

    /// Whether the window takes one more event: always one, so that a large event cannot stop the line.
    fn has_room(&self, limits: &Limits) -> bool {
        self.window.is_empty() || (self.window.len() < limits.window_events_max && self.window_bytes < limits.window_bytes_max)
    }

    fn push(&mut self, event: Arc<OrderEvent>) {
        let stage = if self.end() <= self.delivered { Stage::Done } else { Stage::Waiting };
        self.window_bytes += event.weight();
        self.window.push_back(Slot { event, stage, attempts: 0, alone: false });
    }

    /// Events became durable: those that fit go into the window without a detour over the disk.
    pub fn stored(&mut self, events: &[(Seq, Arc<OrderEvent>)], limits: &Limits) {
        for (seq, event) in events {
            self.durable_end = seq.next();
            if !self.reading && *seq == self.end() && self.has_room(limits) {
                self.push(Arc::clone(event));
            }
        }
    }

    /// The store was opened again: what was asked of the old one is not coming, the end may have moved, and burials may have happened.
    pub fn store_reopened(&mut self, opened: &Opened) {
        self.durable_end = opened.next_seq.max(Seq(1));
        self.keep(opened);
        self.reading = false;
        for slot in self.window.iter_mut().filter(|slot| slot.stage == Stage::Burying) {
            slot.stage = Stage::Waiting;
        }
        self.burials.clear();
        self.cursor = self.first_waiting();
    }

    /// The queue's head was read.
    pub fn head(&mut self, events: Vec<(Seq, Arc<OrderEvent>)>) {
        self.reading = false;
        if events.is_empty() {
            // The end of a rescued outbox is a gap: it is read again with the next event behind it.
            self.durable_end = self.end();
        }
        for (seq, event) in events {
            if self.window.is_empty() && seq > self.end() && seq < self.durable_end {
                // The store vouches for the gap: these events were lost with a damaged store, and nothing waits for them.
                self.progress = Seq(seq.0 - 1);
            }
            // What lies beyond the durable end may be of a commit that is still on its way to the disk.
            if seq == self.end() && seq < self.durable_end {
                self.push(event);
            }
        }
    }

    /// Reading the queue's head failed; the store is being reopened.
    pub fn head_failed(&mut self) {
        self.reading = false;
    }

    /// A new producer is to take the place of whichever there is, or is being made.
    pub fn renew(&mut self, now: u64) {
        self.line = Line::Down { retry_at: now };
    }

    /// The new producer is there.
    pub fn producer_ready(&mut self, producer: ProducerId, delivered: Option<Seq>) {
        if producer != self.producer || self.line != Line::Making {
            return;
        }
        self.line = Line::Up;
        self.delivered = self.delivered.max(delivered.unwrap_or_default());
        for (seq, slot) in (self.progress.0 + 1..).zip(&mut self.window) {
            if matches!(slot.stage, Stage::Sent | Stage::Waiting) {
                slot.stage = if seq <= self.delivered.0 { Stage::Done } else { Stage::Waiting };
            }
        }
        self.cursor = self.first_waiting();
        self.advance();
        if delivered.is_some() && self.window.is_empty() {
            self.is_back();
        }
    }

    fn first_waiting(&self) -> usize {
        self.window.iter().position(|slot| slot.stage == Stage::Waiting).unwrap_or(self.window.len())
    }

    /// The new producer could not be made.
    pub fn producer_failed(&mut self, now: u64, producer: ProducerId, class: FailureClass, reason: &str, random: &mut Random) {
        if producer == self.producer && self.line == Line::Making {
            self.go_down(now, class, reason, random);
        }
    }

    fn go_down(&mut self, now: u64, class: FailureClass, reason: &str, random: &mut Random) {
        let wait = match class {
            FailureClass::ThisEvent => 0,
            FailureClass::Person => PERSON_BACKOFF_MS,
            FailureClass::Hold | FailureClass::Recreate => {
                let wait = self.backoff_ms;
                self.backoff_ms = (wait * 2).min(BACKOFF_MS.1);
                wait + random.below(wait / 2)
            }
        };
        self.line = Line::Down { retry_at: now + wait };
        self.failed_since.get_or_insert(now);
        self.notices.push(Notice::UplinkHeld { backoff_ms: wait, reason: reason.to_owned() });
    }

    /// The producer's report on one event.
    pub fn delivered(&mut self, now: u64, wall_ms: i64, producer: ProducerId, seq: Seq, outcome: Delivery, random: &mut Random) {
        match outcome {
            // True whichever handle says so: an older one may report until it is gone.
            Delivery::Acknowledged { .. } => self.acknowledged(seq),
            Delivery::Failed { .. } if producer != self.producer && !self.is_being_replaced(producer) => {}
            Delivery::Failed { class, reason } => self.failed(now, wall_ms, seq, class, &reason, random),
        }
    }

    /// The first of a batch's failures asks for a new producer; those of the rest, which come right behind it, say as much about their
    /// events.
    fn is_being_replaced(&self, producer: ProducerId) -> bool {
        self.line == Line::Making && producer.0 + 1 == self.producer.0
    }

    fn acknowledged(&mut self, seq: Seq) {
        let Some(slot) = self.slot(seq) else { return };
        if matches!(slot.stage, Stage::Sent | Stage::Waiting) {
            slot.stage = Stage::Done;
            self.backoff_ms = BACKOFF_MS.0;
            self.is_back();
            self.advance();
        }
    }

    fn is_back(&mut self) {
        if self.failed_since.take().is_some() {
            self.notices.push(Notice::UplinkBack);
        }
    }

    fn advance(&mut self) {
        while self.window.front().is_some_and(|slot| slot.stage == Stage::Done) {
            if let Some(slot) = self.window.pop_front() {
                let weight = slot.event.weight();
                self.window_bytes -= weight;
                self.accounted_bytes += weight as u64;
            }
            self.progress = self.progress.next();
            self.held.remove(&self.progress);
            self.solo = self.solo.filter(|(_, last)| *last > self.progress);
            self.cursor = self.cursor.saturating_sub(1);
        }
    }

    fn failed(&mut self, now: u64, wall_ms: i64, seq: Seq, class: FailureClass, reason: &str, random: &mut Random) {
        let Some(slot) = self.slot(seq) else { return };
        if slot.stage != Stage::Sent {
            return;
        }
        slot.attempts += 1;
        if class == FailureClass::ThisEvent && slot.alone {
            slot.stage = Stage::Burying;
            let event = slot.event.as_ref().clone();
            let letter = DeadLetter { event, reason: reason.to_owned(), since_ms: wall_ms, attempts: slot.attempts };
            self.notices.push(Notice::DeadLettered { seq, reason: reason.to_owned() });
            self.burials.push((seq, Burial::Dead(letter)));
        } else if class == FailureClass::ThisEvent {
            let (first, last) = self.solo.unwrap_or((seq, seq));
            self.solo = Some((first.min(seq), last.max(seq)));
        }
        self.retries += 1;
        if self.line == Line::Up {
            self.go_down(now, class, reason, random);
        }
    }

    fn goes_alone(&self, seq: Seq) -> bool {
        self.solo.is_some_and(|(first, last)| first <= seq && seq <= last)
    }

    /// What the next commit has to write for events that Kafka will not get now.
    pub fn burials(&self) -> &[(Seq, Burial)] {
        &self.burials
    }

    /// Those burials are durable.
    pub fn buried(&mut self, done: &[(Seq, Burial)]) {
        for (seq, burial) in done {
            self.burials.retain(|(waiting, _)| waiting != seq);
            if let Burial::Dead(letter) = burial {
                let order = &letter.event.order_id;
                self.dead.insert(*seq, order.clone());
                if self.holds {
                    self.holding.entry(order.clone()).or_default().push(*seq);
                }
            }
            if let Some(slot) = self.slot(*seq) {
                slot.stage = Stage::Done;
            }
        }
        self.advance();
    }

    /// Does what can be done now.
    pub fn poll(&mut self, now: u64, limits: &Limits, outputs: &mut VecDeque<Output>) {
        outputs.extend(self.notices.drain(..).map(Output::Notice));
        if let Line::Down { retry_at } = self.line
            && retry_at <= now
        {
            self.producer = ProducerId(self.producer.0 + 1);
            self.line = Line::Making;
            outputs.push_back(Output::NewProducer { producer: self.producer });
        }
        if self.line == Line::Up {
            self.send(outputs);
        }
        self.read_ahead(limits, outputs);
    }

    fn send(&mut self, outputs: &mut VecDeque<Output>) {
        while let Some(slot) = self.window.get(self.cursor) {
            let seq = Seq(self.progress.0 + 1 + self.cursor as u64);
            match slot.stage {
                Stage::Waiting => {}
                Stage::Sent | Stage::Burying | Stage::Done => {
                    self.cursor += 1;
                    continue;
                }
            }
            // Alone means alone: all before it must be accounted for first, and nothing follows until it is.
            let alone = self.goes_alone(seq);
            if self.cursor > 0 && (alone || self.goes_alone(self.progress.next())) {
                return;
            }
            let behind = self.held_behind(&slot.event.order_id);
            if self.dead.contains_key(&seq) || self.held.contains(&seq) {
                // It became a dead letter or was held before the gateway was started or the store opened again.
                self.window[self.cursor].stage = Stage::Done;
            } else if let Some(dead) = behind.filter(|dead| *dead < seq) {
                let burial = Burial::Held(dead, Arc::clone(&slot.event));
                self.burials.push((seq, burial));
                self.window[self.cursor].stage = Stage::Burying;
            } else if !self.burials.is_empty() {
                // Kafka may keep the progress: it must never stand behind what is neither there nor durably held.
                return;
            } else {
                outputs.push_back(Output::Deliver { producer: self.producer, seq, event: Arc::clone(&slot.event) });
                let slot = &mut self.window[self.cursor];
                (slot.stage, slot.alone) = (Stage::Sent, alone);
            }
            self.cursor += 1;
        }
        self.advance();
    }

    /// The dead letter that an order's later events wait behind, durable already or about to be.
    fn held_behind(&self, order: &OrderId) -> Option<Seq> {
        let about_to_be = self.burials.iter().find_map(|(seq, burial)| match burial {
            Burial::Dead(letter) if self.holds && letter.event.order_id == *order => Some(*seq),
            Burial::Dead(_) | Burial::Held(..) => None,
        });
        self.holding.get(order).and_then(|behind| behind.last().copied()).or(about_to_be)
    }

    fn read_ahead(&mut self, limits: &Limits, outputs: &mut VecDeque<Output>) {
        let low = self.window.len() - self.cursor.min(self.window.len()) < READ_EVENTS_MAX;
        // A read costs as much as some dozen events: it is worth a quarter of the window.
        let room = self.window.len() <= limits.window_events_max / 4 * 3 && self.window_bytes <= limits.window_bytes_max / 4 * 3;
        if self.reading || !low || self.end() >= self.durable_end || !room {
            return;
        }
        self.reading = true;
        let events_max = (limits.window_events_max - self.window.len().min(limits.window_events_max)).clamp(1, READ_EVENTS_MAX);
        let bytes_max = limits.window_bytes_max.saturating_sub(self.window_bytes).clamp(1, READ_BYTES_MAX);
        outputs.push_back(Output::Read { from: self.end(), events_max, bytes_max });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Clock;
    use crate::ids::{Epoch, RequestKey};
    use crate::request::EventType;

    fn event(order: &str) -> Arc<OrderEvent> {
        Arc::new(OrderEvent {
            epoch: Epoch(1),
            request: RequestKey { terminal: "till-1".parse().unwrap(), request_id: order.parse().unwrap() },
            id: [0; 16],
            event_type: EventType::Created,
            order_id: order.parse().unwrap(),
            user_id: None,
            occurred_at_ms: 0,
            clock: Clock::Synced,
            data: "{}".into(),
        })
    }

    /// What is handed over when the time comes, by the producer that is asked for where one is.
    fn delivered(uplink: &mut Uplink, now: u64, known: Option<Seq>) -> Vec<u64> {
        let mut outputs = VecDeque::new();
        uplink.poll(now, &Limits::default(), &mut outputs);
        if uplink.line == Line::Making {
            uplink.producer_ready(uplink.producer, known);
            uplink.poll(now, &Limits::default(), &mut outputs);
        }
        let seq = |output| if let Output::Deliver { seq, .. } = output { Some(seq.0) } else { None };
        outputs.into_iter().filter_map(seq).collect()
    }

    #[test]
    fn nothing_goes_behind_an_event_that_is_not_durably_held_yet() {
        let opened = Opened { next_seq: Seq(2), progress: Seq(1), dead: vec![(Seq(1), "a".parse().unwrap())], ..Opened::default() };
        let mut uplink = Uplink::new(&opened, true);
        uplink.stored(&[(Seq(2), event("a")), (Seq(3), event("b"))], &Limits::default());
        assert_eq!(delivered(&mut uplink, 0, None), [0_u64; 0], "that 2 is held is on its way to the disk");
        let burials = uplink.burials().to_vec();
        assert!(matches!(burials[..], [(Seq(2), Burial::Held(Seq(1), _))]), "{burials:?}");
        uplink.buried(&burials);
        assert_eq!(delivered(&mut uplink, 1, None), [3]);
    }

    #[test]
    fn later_events_pass_a_dead_letter_where_they_may_but_never_one_that_is_held() {
        let (first, second) = (Seq(1), Seq(2));
        let dead = vec![(first, "a".parse().unwrap()), (second, "b".parse().unwrap())];
        let opened = Opened { next_seq: Seq(4), progress: Seq(3), dead, holding: vec![first], ..Opened::default() };
        let mut uplink = Uplink::new(&opened, false);
        uplink.stored(&[(Seq(4), event("a")), (Seq(5), event("b"))], &Limits::default());
        assert_eq!(delivered(&mut uplink, 0, None), [0_u64; 0], "that 4 is held is on its way to the disk");
        let burials = uplink.burials().to_vec();
        assert!(matches!(burials[..], [(Seq(4), Burial::Held(Seq(1), _))]), "{burials:?}");
        uplink.buried(&burials);
        assert_eq!(delivered(&mut uplink, 1, None), [5]);
        uplink.released(first);
        uplink.stored(&[(Seq(6), event("a"))], &Limits::default());
        assert_eq!(delivered(&mut uplink, 2, None), [6], "what was held behind it is on its way before it");
        assert_eq!(uplink.order_of(second), Some(&"b".parse().unwrap()));
    }

    #[test]
    fn of_two_dead_letters_of_an_order_the_one_left_still_holds() {
        let dead = vec![(Seq(1), "a".parse().unwrap()), (Seq(2), "a".parse().unwrap())];
        let mut uplink = Uplink::new(&Opened { next_seq: Seq(3), progress: Seq(2), dead, ..Opened::default() }, true);
        uplink.released(Seq(2));
        uplink.stored(&[(Seq(3), event("a"))], &Limits::default());
        assert_eq!(delivered(&mut uplink, 0, None), [0_u64; 0]);
        assert!(matches!(uplink.burials(), [(Seq(3), Burial::Held(Seq(1), _))]));
    }

    #[test]
    fn what_kafka_says_that_it_has_is_not_sent_again() {
        let mut uplink = Uplink::new(&Opened { next_seq: Seq(1), ..Opened::default() }, true);
        uplink.stored(&[(Seq(1), event("a")), (Seq(2), event("b"))], &Limits::default());
        assert_eq!(delivered(&mut uplink, 0, Some(Seq(1))), [2]);
        assert_eq!(uplink.progress(), Seq(1));
    }
}
