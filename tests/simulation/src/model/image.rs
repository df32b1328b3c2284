//! What a store should hold, as plain maps.

use gateway::event::OrderEvent;
use gateway::ids::{Epoch, Name, OrderId, RequestKey, Seq, SessionId};
use gateway::io::{Change, Counters, DeadLetter, Forgettable, Kept, Old, Opened, PartitionName, Remembered, Wanted};
use gateway::order::Projection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::Store;
use store::disk::Disk;

/// The contents of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The next seq to give.
    pub next_seq: Seq,
    /// All at or below it is accounted for.
    pub progress: Seq,
    /// The outbox.
    pub queued: BTreeMap<Seq, Arc<OrderEvent>>,
    /// Remembered requests.
    pub requests: BTreeMap<RequestKey, Remembered>,
    /// Orders, open or closed.
    pub orders: BTreeMap<OrderId, Arc<Projection>>,
    /// The counters.
    pub counters: Counters,
    /// Next offsets.
    pub offsets: BTreeMap<PartitionName, i64>,
    /// Dead letters.
    pub dead: BTreeMap<Seq, DeadLetter>,
    /// What is held, by the dead letter and its own seq.
    pub held: BTreeMap<(Seq, Seq), Arc<OrderEvent>>,
    /// Serial sessions.
    pub sessions: BTreeMap<(Name, SessionId), u64>,
    /// Epochs, oldest first.
    pub epochs: Vec<Epoch>,
}

impl Default for Image {
    fn default() -> Image {
        Image {
            next_seq: Seq(1),
            progress: Seq(0),
            queued: BTreeMap::new(),
            requests: BTreeMap::new(),
            orders: BTreeMap::new(),
            counters: Counters::default(),
            offsets: BTreeMap::new(),
            dead: BTreeMap::new(),
            held: BTreeMap::new(),
            sessions: BTreeMap::new(),
            epochs: Vec::new(),
        }
    }
}

impl Image {
    /// Does what a change says.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Enqueue(seq, event) => {
                self.queued.insert(*seq, Arc::clone(event));
                self.next_seq = seq.next();
            }
            Change::Remember(key, remembered) => drop(self.requests.insert(key.clone(), remembered.clone())),
            Change::Project(order) => drop(self.orders.insert(order.order_id.clone(), Arc::clone(order))),
            Change::Counters(counters) => self.counters = *counters,
            Change::Offset(at, offset) => drop(self.offsets.insert(at.clone(), *offset)),
            Change::Forget { from: _, upto } => {
                self.progress = self.progress.max(*upto);
                self.queued.retain(|seq, _| seq > upto);
            }
            Change::Journal(_) | Change::Command(_) | Change::Print(..) | Change::Expire(Forgettable::Print(_)) => {}
            Change::DeadLetter(seq, letter) => drop(self.dead.insert(*seq, letter.clone())),
            Change::Hold(seq, dead, event) => drop(self.held.insert((*dead, *seq), Arc::clone(event))),
            Change::Release(seq) => {
                self.dead.remove(seq);
                self.held.retain(|(_, held), _| held != seq);
            }
            Change::Session(terminal, session, number) => {
                let highest = self.sessions.entry((terminal.clone(), *session)).or_default();
                *highest = (*highest).max(*number);
            }
            Change::Epoch(epoch) | Change::FormerEpoch(epoch) => {
                if !self.epochs.contains(epoch) {
                    self.epochs.push(*epoch);
                }
            }
            Change::Expire(Forgettable::Request(key)) => drop(self.requests.remove(key)),
            Change::Expire(Forgettable::Order(order)) => drop(self.orders.remove(order)),
            Change::Expire(Forgettable::Details(id)) => {
                self.orders.entry(id.clone()).and_modify(|order| *order = Arc::new(order.without_details()));
            }
        }
    }

    /// The open orders, by id.
    pub fn open_orders(&self) -> impl Iterator<Item = &Arc<Projection>> {
        self.orders.values().filter(|order| order.open)
    }

    /// Dead letters that were decided about, and behind which there still is something.
    pub fn releasing(&self) -> Vec<(Seq, OrderId)> {
        let alone = self.held.iter().filter(|((dead, _), _)| !self.dead.contains_key(dead));
        let mut groups: Vec<_> = alone.map(|((dead, _), event)| (*dead, event.order_id.clone())).collect();
        groups.dedup_by_key(|(dead, _)| *dead);
        groups
    }

    /// Dead letters that are not decided about, and behind which there is something.
    fn holding(&self) -> Vec<Seq> {
        let mut holding: Vec<_> = self.held.keys().map(|(dead, _)| *dead).filter(|dead| self.dead.contains_key(dead)).collect();
        holding.dedup();
        holding
    }

    /// All dead letters and held events.
    pub fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        self.dead.values().for_each(|letter| kept.add(&letter.event));
        self.held.values().for_each(|event| kept.add(event));
        kept
    }

    /// A dead letter or a held event by its seq; a held one also says behind which dead letter.
    pub fn buried(&self, seq: Seq) -> Option<(&OrderEvent, Option<Seq>)> {
        let dead = self.dead.get(&seq).map(|letter| (&letter.event, None));
        dead.or_else(|| self.held.iter().find(|((_, held), _)| *held == seq).map(|((dead, _), event)| (event.as_ref(), Some(*dead))))
    }

    /// What opening a store with these contents should tell the core.
    pub fn opened(&self) -> Opened {
        Opened {
            next_seq: self.next_seq,
            progress: self.progress,
            queued_bytes: self.queued.values().map(|event| event.weight() as u64).sum(),
            counters: self.counters,
            open: self.open_orders().map(|order| order.as_ref().clone()).collect(),
            is_new: self.epochs.is_empty(),
            epochs: self.epochs.clone(),
            offsets: self.offsets.iter().map(|(at, offset)| (at.clone(), *offset)).collect(),
            dead: self.dead.iter().map(|(seq, letter)| (*seq, letter.event.order_id.clone())).collect(),
            releasing: self.releasing(),
            holding: self.holding(),
            held: self.held.keys().map(|(_, seq)| *seq).filter(|seq| *seq > self.progress).collect(),
            kept: self.kept(),
        }
    }

    /// Reads all of a store by its own calls. Sessions cannot be listed: these are looked up.
    ///
    /// # Errors
    /// What the store says.
    pub fn read<D: Disk>(store: &Store<D>, opened: &Opened, sessions: BTreeSet<(Name, SessionId)>) -> Result<Image, store::ReadError> {
        let look_up = |wanted: Wanted| store.load(&wanted);
        let nothing = Wanted { request: None, order: None, session: None, dead_letter: None };
        let mut image = Image { next_seq: opened.next_seq, progress: opened.progress, counters: opened.counters, ..Image::default() };
        image.epochs.clone_from(&opened.epochs);
        image.offsets = opened.offsets.iter().cloned().collect();
        image.queued = store.read_head(opened.progress.next(), usize::MAX, usize::MAX)?.into_iter().collect();
        image.orders = opened.open.iter().map(|order| (order.order_id.clone(), Arc::new(order.clone()))).collect();
        // Everything is older than the end of time.
        let (all, _) = store.sweep(None, usize::MAX - 1, Old { expired_ms: Some(u64::MAX), details_ms: None })?;
        for what in all {
            match what {
                Forgettable::Request(key) => {
                    if let Some(found) = look_up(Wanted { request: Some(key.clone()), ..nothing.clone() })?.request {
                        image.requests.insert(key, found);
                    }
                }
                Forgettable::Order(id) | Forgettable::Details(id) => {
                    if let Some(found) = look_up(Wanted { order: Some(id.clone()), ..nothing.clone() })?.order {
                        image.orders.insert(id, Arc::new(found));
                    }
                }
                Forgettable::Print(_) => {}
            }
        }
        for (seq, _) in opened.dead.iter().chain(&opened.releasing) {
            if let Some(buried) = look_up(Wanted { dead_letter: Some(*seq), ..nothing.clone() })?.dead_letter {
                image.dead.extend(buried.letter.map(|letter| (*seq, letter)));
                image.held.extend(buried.held.into_iter().map(|(held, event)| ((*seq, held), event)));
            }
        }
        for session in sessions {
            if let Some(number) = look_up(Wanted { session: Some(session.clone()), ..nothing.clone() })?.session {
                image.sessions.insert(session, number);
            }
        }
        Ok(image)
    }

    /// Where two images differ, for people.
    pub fn differences(&self, other: &Image) -> String {
        fn maps<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
            name: &str,
            a: &BTreeMap<K, V>,
            b: &BTreeMap<K, V>,
        ) -> Vec<String> {
            let changed = a.iter().filter(|(key, value)| b.get(key) != Some(value));
            let missing = changed.map(|(key, value)| format!("{name} {key:?}: {value:?} is {:?}", b.get(key)));
            missing.chain(b.keys().filter(|key| !a.contains_key(key)).map(|key| format!("{name} {key:?} is new"))).take(3).collect()
        }
        let mut all = Vec::new();
        if (self.next_seq, self.progress) != (other.next_seq, other.progress) {
            all.push(format!("next seq {} is {}, progress {} is {}", self.next_seq, other.next_seq, self.progress, other.progress));
        }
        if self.counters != other.counters {
            all.push(format!("{:?} is {:?}", self.counters, other.counters));
        }
        if self.epochs != other.epochs {
            all.push(format!("epochs {:?} is {:?}", self.epochs, other.epochs));
        }
        all.extend(maps("event", &self.queued, &other.queued));
        all.extend(maps("request", &self.requests, &other.requests));
        all.extend(maps("order", &self.orders, &other.orders));
        all.extend(maps("offset", &self.offsets, &other.offsets));
        all.extend(maps("dead letter", &self.dead, &other.dead));
        all.extend(maps("held event", &self.held, &other.held));
        all.extend(maps("session", &self.sessions, &other.sessions));
        all.join("; ")
    }
}
