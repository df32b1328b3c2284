//! What people decide about dead letters: retried or discarded, and what is held behind them goes on.
//!
//! A retried event and those held behind it are appended to the outbox again, in their order, with new seqs. That begins once the
//! order's lane is free and every event up to then is accounted for and forgotten, durably: so nothing of the order is left in the
//! outbox that could be overtaken, and nothing that was kept can be read from it a second time. Many held events take many commits. The
//! lane stays taken until the last of them; a start in between finds held events without a dead letter, and goes on before anything
//! else.

use crate::admission::Work;
use crate::commit::Draft;
use crate::event::OrderEvent;
use crate::gateway::{Gateway, StoreState, Target};
use crate::ids::{OrderId, ReplyTo, Seq};
use crate::io::{Buried, Change, Decided, Decision, Notice, Opened, Output, Wanted};
use crate::journal::{Command, Deed};
use crate::time::Now;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a decision waits for the outbox to drain.
pub const DECISION_WAITS_MS: u64 = 5_000;
/// Decisions at work and waiting. Beyond it people are asked to wait.
pub const RELEASES_MAX: usize = 64;
/// Records that one held event takes: it is removed from two places and appended.
const HELD_RECORDS: usize = 3;

/// How far a release has come.
#[derive(Debug)]
enum Stage {
    /// It waits for its order's lane.
    Waiting,
    /// Everything up to there has to be accounted for and forgotten, and told to the dead letter topic.
    Settling { upto: Seq },
    /// What is kept is looked up.
    Loading,
    /// It is part of the next commit.
    Ready(Buried),
    /// It is part of the commit in flight.
    Committing,
}

/// A decision that is carried out.
#[derive(Debug)]
pub(crate) struct Release {
    order: OrderId,
    /// `None`: it was made before the start.
    asked: Option<(ReplyTo, Decision, String)>,
    give_up_at: u64,
    appended: u64,
    stage: Stage,
}

/// All of them, by dead letter.
pub(crate) type Releases = BTreeMap<Seq, Release>;

/// A release's part of a commit.
#[derive(Debug)]
pub(crate) struct Released {
    dead: Seq,
    /// What is not kept any more.
    letter: Option<OrderEvent>,
    appended: Vec<Arc<OrderEvent>>,
    more: bool,
}

impl Gateway {
    pub(crate) fn decide(&mut self, now: Now, reply_to: ReplyTo, dead: Seq, decision: Decision, by: String) {
        let outcome = match self.uplink.order_of(dead).cloned() {
            None => Decided::Unknown,
            Some(_) if self.releases.contains_key(&dead) => Decided::Busy,
            Some(_) if self.releases.len() >= RELEASES_MAX => {
                self.tally.decisions_refused += 1;
                Decided::Busy
            }
            Some(order) => {
                let give_up_at = now.mono_ms + DECISION_WAITS_MS;
                return self.begin_release(dead, order, Some((reply_to, decision, by)), give_up_at);
            }
        };
        self.outputs.push_back(Output::Decided { reply_to, outcome });
    }

    fn begin_release(&mut self, dead: Seq, order: OrderId, asked: Option<(ReplyTo, Decision, String)>, give_up_at: u64) {
        self.releases.insert(dead, Release { order: order.clone(), asked, give_up_at, appended: 0, stage: Stage::Waiting });
        self.enter(&order, Work::Release(dead));
    }

    /// What an earlier start left unfinished goes on.
    pub(crate) fn resume_releases(&mut self, opened: &Opened) {
        for (dead, order) in &opened.releasing {
            if !self.releases.contains_key(dead) {
                self.begin_release(*dead, order.clone(), None, u64::MAX);
            }
        }
    }

    /// The order's lane is free, or the store was opened again.
    pub(crate) fn release_begins(&mut self, dead: Seq) {
        let upto = Seq(self.next_seq.0 - 1);
        let undecided = self.uplink.order_of(dead).is_some();
        let Some(release) = self.releases.get_mut(&dead) else { return };
        if undecided {
            release.stage = Stage::Settling { upto };
        } else {
            self.load_release(dead);
        }
    }

    fn load_release(&mut self, dead: Seq) {
        if let Some(release) = self.releases.get_mut(&dead) {
            release.stage = Stage::Loading;
            self.load(Target::Release(dead), Wanted { request: None, order: None, session: None, dead_letter: Some(dead) });
        }
    }

    /// When the first of them gives up waiting for the outbox to drain.
    pub(crate) fn release_gives_up_at(&self) -> Option<u64> {
        self.settling().map(|(_, release)| release.give_up_at).min()
    }

    /// Forgetting is waited for.
    pub(crate) fn release_settles(&self) -> bool {
        self.settling().next().is_some()
    }

    fn settling(&self) -> impl Iterator<Item = (Seq, &Release)> {
        self.releases.iter().filter(|(_, release)| matches!(release.stage, Stage::Settling { .. })).map(|(dead, release)| (*dead, release))
    }

    /// Goes on with what has waited long enough, one way or the other.
    pub(crate) fn check_releases(&mut self, now: Now) {
        if self.store != StoreState::Open {
            return;
        }
        let settling: Vec<_> = self.settling().map(|(dead, release)| (dead, release.give_up_at)).collect();
        for (dead, give_up_at) in settling {
            let settled = |upto| upto <= self.forgotten && self.told.is_none_or(|told| upto <= told);
            let settled = self.releases.get(&dead).is_some_and(|r| matches!(r.stage, Stage::Settling { upto } if settled(upto)));
            if settled {
                self.load_release(dead);
            } else if give_up_at <= now.mono_ms {
                self.end_release(dead, Some(Decided::Busy));
            }
        }
    }

    pub(crate) fn release_loaded(&mut self, dead: Seq, buried: Option<Buried>) {
        match (self.releases.get_mut(&dead), buried) {
            (None, _) => {}
            (Some(release), Some(buried)) => release.stage = Stage::Ready(buried),
            // A commit that seemed to fail was the last one.
            (Some(_), None) => self.end_release(dead, None),
        }
    }

    pub(crate) fn draft_releases(&mut self, now: Now, draft: &mut Draft) {
        let held_max = self.settings.limits.batch_release_max;
        let moment = self.moment(now);
        for (dead, release) in &mut self.releases {
            if !draft.room_for(4 + HELD_RECORDS) {
                return;
            }
            let Stage::Ready(buried) = &mut release.stage else { continue };
            let Buried { letter, held, more } = std::mem::take(buried);
            release.stage = Stage::Committing;
            let mut released = Released { dead: *dead, letter: None, appended: vec![], more };
            let epoch = self.epoch;
            let mut append = |draft: &mut Draft, event: OrderEvent| {
                let event = Arc::new(OrderEvent { epoch, ..event });
                draft.enqueue(self.next_seq, &event);
                self.next_seq = self.next_seq.next();
                event
            };
            if let Some(letter) = letter {
                if let Some((_, decision, by)) = &release.asked {
                    let (dead, order) = (*dead, release.order.clone());
                    let deed = match decision {
                        Decision::Retry => Deed::Retry { dead, order },
                        Decision::Discard => Deed::Discard { dead, order },
                    };
                    draft.add(2, Change::Command(Command::new(moment, by, deed)));
                }
                draft.add(1, Change::Release(*dead));
                released.letter = Some(letter.event.clone());
                if matches!(release.asked, Some((_, Decision::Retry, _))) {
                    released.appended.push(append(draft, letter.event));
                }
            }
            for (n, (seq, event)) in held.into_iter().enumerate() {
                if n >= held_max || !draft.room_for(HELD_RECORDS) {
                    released.more = true;
                    break;
                }
                draft.add(HELD_RECORDS - 1, Change::Release(seq));
                released.appended.push(append(draft, event.as_ref().clone()));
            }
            draft.commit.releases.push(released);
        }
    }

    /// That part of the commit is durable.
    pub(crate) fn released(&mut self, released: Released) {
        let Released { dead, letter, appended, more } = released;
        let retried = letter.as_ref().filter(|letter| appended.first().is_some_and(|first| first.id == letter.id));
        // A discarded letter is kept no longer, though nothing of it is appended.
        letter.iter().filter(|_| retried.is_none()).for_each(|letter| self.kept.remove(letter));
        appended.iter().for_each(|event| self.kept.remove(event));
        let Some(release) = self.releases.get_mut(&dead) else { return };
        release.appended += appended.len() as u64;
        if letter.is_some() {
            self.uplink.released(dead);
        }
        if more { self.load_release(dead) } else { self.end_release(dead, None) }
    }

    /// That part of the commit found no room: a decision is refused, unless it is half done already.
    pub(crate) fn release_without_room(&mut self, released: &Released) {
        match released.letter {
            Some(_) => self.end_release(released.dead, Some(Decided::Full)),
            None => self.load_release(released.dead),
        }
    }

    fn end_release(&mut self, dead: Seq, refused: Option<Decided>) {
        let Some(release) = self.releases.remove(&dead) else { return };
        let appended = release.appended;
        if refused.is_none() {
            let decision = release.asked.as_ref().map(|(_, decision, _)| *decision);
            self.outputs.push_back(Output::Notice(Notice::Decided { dead, decision, appended }));
        }
        if let Some((reply_to, ..)) = release.asked {
            let outcome = refused.unwrap_or(Decided::Done { appended });
            self.outputs.push_back(Output::Decided { reply_to, outcome });
        }
        self.leave(&release.order);
    }
}
