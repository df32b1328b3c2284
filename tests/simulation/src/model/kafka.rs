//! What Kafka has taken, and what the core may hand to it.

use super::{Check, Model, ensure};
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, ProducerId, Seq};
use gateway::io::Delivery;
use std::collections::{BTreeSet, HashMap};

/// What Kafka has taken, whatever the gateway knows of it.
#[derive(Debug, Default)]
pub struct KafkaFacts {
    taken: BTreeSet<Seq>,
    origins: BTreeSet<Seq>,
    last_first: HashMap<String, Seq>,
    /// Where each event was acknowledged.
    places: HashMap<Seq, BTreeSet<(i32, i64)>>,
}

impl KafkaFacts {
    /// Whether the event is in Kafka, under its first seq or under a later one.
    pub fn has_origin(&self, first: Seq) -> bool {
        self.origins.contains(&first)
    }

    /// Whether the event was acknowledged there.
    pub fn is_at(&self, seq: Seq, place: (i32, i64)) -> bool {
        self.places.get(&seq).is_some_and(|places| places.contains(&place))
    }

    /// Whether the event is in Kafka.
    pub fn has(&self, seq: Seq) -> bool {
        self.taken.contains(&seq)
    }
}

impl Model {
    /// The core hands an event to the producer.
    ///
    /// # Errors
    /// It is not durable, or there twice, or the handle takes nothing.
    pub fn delivering(&mut self, producer: ProducerId, seq: Seq, event: &OrderEvent) -> Check {
        ensure!(self.image.queued.get(&seq).is_some_and(|e| e.as_ref() == event), "{seq} goes to Kafka, but is not on disk");
        let life = self.life_mut();
        ensure!(producer == life.producer && life.producer_up, "{seq} goes to {producer:?}, which takes nothing");
        ensure!(life.with_producer.insert(seq), "{seq} goes to {producer:?} a second time");
        Ok(())
    }

    /// The core asks for a new handle.
    ///
    /// # Errors
    /// It has an old one's name.
    pub fn producer_wanted(&mut self, producer: ProducerId) -> Check {
        let life = self.life_mut();
        ensure!(producer > life.producer, "{producer:?} is not new");
        (life.producer, life.producer_up) = (producer, false);
        life.with_producer.clear();
        Ok(())
    }

    /// The new handle is there.
    pub fn producer_ready(&mut self, producer: ProducerId) {
        let life = self.life_mut();
        life.producer_up |= producer == life.producer;
    }

    /// The producer is about to report.
    ///
    /// # Errors
    /// It reports what is not so: the simulated Kafka is at fault.
    pub fn reported(&mut self, seq: Seq, outcome: &Delivery) -> Check {
        if let Delivery::Acknowledged { partition, offset } = *outcome {
            ensure!(self.kafka.has(seq), "lost: {seq} was acknowledged and is not in Kafka");
            self.kafka.places.entry(seq).or_default().insert((partition, offset));
            let image = &self.image;
            if let Some(life) = &mut self.life {
                life.acknowledged.insert(seq);
                life.account(image);
            }
        }
        Ok(())
    }

    /// Kafka took a record.
    ///
    /// # Errors
    /// It was never stored, doubles a request, or comes before an earlier one of its key.
    pub fn appended(&mut self, key: &str, epoch: Epoch, seq: Seq, event: &OrderEvent) -> Check {
        ensure!(self.is_stored(seq, event), "{seq} is in Kafka, but was never durable");
        ensure!(epoch == event.epoch, "{seq} has epoch {epoch} in Kafka, not {}", event.epoch);
        // A dead letter that Kafka had taken though it said otherwise is retried as a copy.
        let first = self.origin(seq);
        let new = self.kafka.taken.insert(seq);
        if !self.kafka.origins.insert(first) || !new {
            self.counts.repeats += 1;
            return Ok(());
        }
        ensure!(!self.discarded.contains(&first), "{seq} was given up, and is in Kafka");
        let last = self.kafka.last_first.entry(key.to_owned()).or_default();
        // Nobody waits for a dead letter where later events pass it: a person's retry comes after them.
        let passed = !self.settings.hold_behind_dead && first != seq;
        ensure!(*last < first || passed, "out of order: {seq} of order {key}, first {first}, first appears after {last}");
        *last = (*last).max(first);
        Ok(())
    }

    /// What a batch may forget: everything up to there is in Kafka, a dead letter or held, durably.
    pub(super) fn may_forget(&self, from: Seq, upto: Seq) -> Check {
        let held: BTreeSet<Seq> = self.image.held.keys().map(|(_, held)| *held).collect();
        ensure!(from == self.image.progress.next(), "forgets from {from}, though the progress is {}", self.image.progress);
        let mut seq = from;
        while seq <= upto {
            let buried = self.image.dead.contains_key(&seq) || held.contains(&seq);
            ensure!(buried || self.life().acknowledged.contains(&seq), "{seq} is forgotten, and nobody has it");
            seq = seq.next();
        }
        Ok(())
    }
}
