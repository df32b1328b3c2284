//! Where to go on when transactions begin anew: the one decision that could lose events or double them, so it is pure.
//!
//! Kafka keeps the progress, committed with the events; the gateway keeps its outbox, and what it was about to commit last
//! ([`store::Intent`]). The progress counts only if it is of this very outbox: the event that waits at its seq bears its epoch, or it is
//! what the intent says it was before or would be after. A seq alone is no proof: a new card gives seqs anew, and so does a copy of this
//! one, and whoever believed the higher number would lose what has the lower ones.

use gateway::ids::Seq;
use store::{Intent, Place, Progress};

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resume {
    /// All up to it is accounted for.
    pub after: Seq,
    /// All up to it may be in Kafka already.
    pub repeats_upto: Seq,
    /// The progress that Kafka has is what the intent says: nothing has to be written before the first event.
    pub settled: bool,
    /// The progress that Kafka has is of another gateway with this one's id.
    pub stranger: bool,
}

/// What Kafka keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub progress: Progress,
    /// All up to it may have been in Kafka before: a copy of the card may know less than Kafka about that.
    pub repeats_upto: Seq,
}

/// Decides by what the outbox knows of the progress that Kafka has, by that progress, and by an intent of this store.
pub(super) fn resume(place: &Place, found: Option<Kept>, intent: Option<&Intent>) -> Resume {
    let begun = intent.map_or(Seq(0), |intent| Seq(intent.from.0.saturating_sub(1)));
    let after = place.progress.max(begun);
    let repeats_upto = intent.map_or(Seq(0), |intent| intent.repeats_upto);
    match (found, intent) {
        (Some(found), intent)
            if place.epoch == Some(found.progress.epoch) || intent.is_some_and(|intent| is_of(intent, found.progress)) =>
        {
            let repeats_upto = repeats_upto.max(found.repeats_upto);
            // What the intent does not say is written down before Kafka can forget it.
            let settled = intent.is_some_and(|intent| is_of(intent, found.progress) && intent.repeats_upto >= repeats_upto);
            Resume { after: after.max(found.progress.seq), repeats_upto, settled, stranger: false }
        }
        // The other one may have sent whatever waits here, if it is a copy of this one.
        (Some(_), Some(_)) => Resume { after, repeats_upto: place.last, settled: false, stranger: true },
        // It expired or never was: nobody knows whether the last transaction was committed.
        (None, Some(intent)) => Resume { after, repeats_upto: repeats_upto.max(intent.after.seq), settled: false, stranger: false },
        // Nothing of this store was ever in a transaction.
        (Some(_) | None, None) => Resume { after, repeats_upto, settled: false, stranger: false },
    }
}

fn is_of(intent: &Intent, found: Progress) -> bool {
    intent.before == Some(found) || intent.after == found
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::ids::Epoch;
    use std::collections::BTreeMap;

    fn progress(epoch: u64, seq: u64) -> Progress {
        Progress { epoch: Epoch(epoch), seq: Seq(seq) }
    }

    fn kept(epoch: u64, seq: u64) -> Kept {
        Kept { progress: progress(epoch, seq), repeats_upto: Seq(0) }
    }

    fn place(progress: u64, last: u64, epoch: Option<u64>) -> Place {
        Place { progress: Seq(progress), last: Seq(last), epoch: epoch.map(Epoch) }
    }

    fn intent(before: Progress, from: u64, after: Progress) -> Intent {
        Intent { topic: "t".into(), before: Some(before), after, from: Seq(from), repeats_upto: Seq(0) }
    }

    #[test]
    fn a_new_card_does_not_believe_the_old_ones_higher_seq() {
        let found = resume(&place(0, 7_000, Some(2)), Some(kept(1, 5_000)), None);
        assert_eq!(found, Resume { after: Seq(0), repeats_upto: Seq(0), settled: false, stranger: false });
    }

    #[test]
    fn imported_events_that_kafka_has_are_passed_over() {
        let found = resume(&place(0, 110, Some(1)), Some(kept(1, 105)), None);
        assert_eq!(found, Resume { after: Seq(105), repeats_upto: Seq(0), settled: false, stranger: false });
    }

    #[test]
    fn a_copy_of_the_card_loses_nothing_and_marks_what_the_other_may_have_sent() {
        let found = resume(&place(90, 120, None), Some(kept(9, 5_000)), Some(&intent(progress(1, 80), 81, progress(1, 90))));
        assert_eq!(found, Resume { after: Seq(90), repeats_upto: Seq(120), settled: false, stranger: true });
    }

    #[test]
    fn only_the_last_batch_is_unclear_once_the_progress_has_expired() {
        let last = intent(progress(1, 100), 101, progress(1, 110));
        let found = resume(&place(95, 300, None), None, Some(&last));
        assert_eq!(found, Resume { after: Seq(100), repeats_upto: Seq(110), settled: false, stranger: false });
        let decided = resume(&place(110, 300, None), None, Some(&last));
        assert!(decided.repeats_upto <= decided.after);
    }

    /// A gateway with its outbox and its Kafka, as far as they decide about repeats.
    #[derive(Clone, Default)]
    struct Card {
        /// The epoch of each event, from seq 1.
        events: Vec<u64>,
        /// Of each start.
        epochs: Vec<u64>,
        /// What is durable of the progress.
        progress: u64,
        intent: Option<Intent>,
    }

    #[derive(Default)]
    struct World {
        dice: u64,
        /// No more accidents, and nothing new.
        calm: bool,
        card: Card,
        copy: Option<Card>,
        /// No transaction could tell the copy from the original: Kafka forgot the progress since it was taken.
        copy_is_hopeless: bool,
        /// It took the card's place and has not reached Kafka yet.
        copy_is_new: bool,
        epoch: u64,
        kept: Option<Kept>,
        /// How often each event came unmarked, and whether it was ever sent at least once.
        came: BTreeMap<(u64, u64), (u32, u32, bool)>,
    }

    impl World {
        fn below(&mut self, n: u64) -> u64 {
            if self.calm {
                return n - 1;
            }
            self.dice ^= self.dice << 13;
            self.dice ^= self.dice >> 7;
            self.dice ^= self.dice << 17;
            self.dice % n
        }

        fn place(&self, seq: u64) -> Place {
            let waits = (seq > self.card.progress).then(|| self.card.events.get(usize::try_from(seq - 1).unwrap()).copied()).flatten();
            place(self.card.progress, self.card.events.len() as u64, waits)
        }

        fn event(&self, seq: u64) -> (u64, u64) {
            (self.card.events[usize::try_from(seq - 1).unwrap()], seq)
        }

        fn arrives(&mut self, seq: u64, repeats_upto: u64, at_least_once: bool) {
            let event = self.event(seq);
            let came = self.came.entry(event).or_default();
            came.0 += 1;
            came.1 += u32::from(seq <= repeats_upto && !at_least_once);
            came.2 |= at_least_once;
        }

        /// Runs the gateway for a while; it ends as if the plug were pulled, at any step.
        fn run(&mut self) {
            self.epoch += 1;
            self.card.epochs.push(self.epoch);
            let intent = self.card.intent.clone().filter(|intent| self.card.epochs.contains(&intent.after.epoch.0));
            let resumed = resume(&self.place(self.kept.map_or(0, |kept| kept.progress.seq.0)), self.kept, intent.as_ref());
            let (mut after, repeats_upto) = (resumed.after.0, resumed.repeats_upto);
            let mut kept = self.kept.map(|kept| kept.progress).filter(|_| resumed.settled);
            if !resumed.settled {
                let base = progress(self.epoch, after);
                let (topic, from) = ("t".to_owned(), Seq(after + 1));
                self.card.intent = Some(Intent { topic, before: kept, after: base, from, repeats_upto });
                if self.below(4) == 0 {
                    return;
                }
                (self.kept, kept) = (Some(Kept { progress: base, repeats_upto }), Some(base));
            }
            self.copy_is_new = false;
            for _ in 0..self.below(6) {
                let new = if self.calm { 0 } else { self.below(5) };
                (0..new).for_each(|_| self.card.events.push(self.epoch));
                let upto = (after + self.below(4)).min(self.card.events.len() as u64);
                if upto == after {
                    continue;
                }
                let goal = Progress { epoch: Epoch(self.event(upto).0), seq: Seq(upto) };
                let (topic, from) = ("t".to_owned(), Seq(after + 1));
                self.card.intent = Some(Intent { topic, before: kept, after: goal, from, repeats_upto });
                match self.below(5) {
                    0 => return,
                    fate => {
                        (after + 1..=upto).for_each(|seq| self.arrives(seq, repeats_upto.0, false));
                        (self.kept, kept) = (Some(Kept { progress: goal, repeats_upto }), Some(goal));
                        if fate == 1 {
                            return;
                        }
                    }
                }
                after = upto;
                if self.calm || self.below(3) == 0 {
                    self.card.progress = after;
                }
            }
        }

        /// The same in the other mode.
        fn run_at_least_once(&mut self) {
            self.epoch += 1;
            self.card.epochs.push(self.epoch);
            (0..self.below(5)).for_each(|_| self.card.events.push(self.epoch));
            let upto = (self.card.progress + self.below(6)).min(self.card.events.len() as u64);
            (self.card.progress + 1..=upto).for_each(|seq| self.arrives(seq, 0, true));
            self.card.progress += self.below(upto - self.card.progress + 1);
        }

        fn step(&mut self) {
            match self.below(40) {
                // A copy whose Kafka forgot the progress before it was asked cannot be told from the card.
                0 if !self.copy_is_new => {
                    self.kept = None;
                    self.copy_is_hopeless = true;
                }
                1 => self.card = Card::default(),
                // One that never was in a transaction knows nothing of another one's.
                2 if self.card.intent.is_some() => (self.copy, self.copy_is_hopeless) = (Some(self.card.clone()), false),
                3 if !self.copy_is_hopeless => {
                    // What only the card knew that was lost is lost with it.
                    if let Some(copy) = self.copy.take() {
                        (self.card, self.copy_is_new) = (copy, true);
                    }
                }
                4..=6 => self.run_at_least_once(),
                _ => self.run(),
            }
        }
    }

    #[test]
    fn whatever_happens_nothing_is_lost_and_every_repeat_is_marked() {
        let mut repeats = 0;
        for seed in 1..=500_u64 {
            let mut world = World { dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), ..World::default() };
            (0..200).for_each(|_| world.step());
            world.calm = true;
            (0..200).for_each(|_| world.run());
            for seq in 1..=world.card.events.len() as u64 {
                assert!(world.came.contains_key(&world.event(seq)), "seed {seed}: {seq} is lost");
            }
            for (event, (came, marked, at_least_once)) in &world.came {
                assert!(came - marked <= 1 || *at_least_once, "seed {seed}: {event:?} came {came} times, {marked} of them marked");
                repeats += u32::from(*marked > 0);
            }
        }
        assert!(repeats > 0, "nothing was ever unclear");
    }
}
