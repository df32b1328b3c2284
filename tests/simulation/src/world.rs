//! The world of one run: virtual time, what is to come, and one gateway in the middle.

use crate::breakage::Breakage;
use crate::centre::{self, Centre};
use crate::dice::Dice;
use crate::disk::Room;
use crate::faults::{Fault, Profile};
use crate::kafka::{Batch, Cluster};
use crate::model::{Check, Counts, Image, Model, Violation};
use crate::store_thread::{self, StoreThreads};
use crate::terminals::{self, Order, Terminal};
use crate::trace::{self, Trace};
use gateway::Gateway;
use gateway::ids::{Epoch, OrderId, ProducerId, ReplyTo, Seq, SessionId};
use gateway::io::{Decision, Delivery, Input};
use gateway::journal::Deed;
use gateway::time::{Now, Wall};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// Steps after which a run is stuck in a loop.
const STEPS_MAX: u64 = 400_000;
/// Everything has come to rest so long after the last fault, or something is stuck.
const REST_WITHIN_MS: u64 = 6 * 3_600_000;
/// A timer may be late by so much while nobody does anything: weeks would be too many ticks.
const LATE_IN_PAUSE_MS: u64 = 6 * 3_600_000;
/// 2024-01-01T12:00:00Z.
const EPOCH_UNIX_MS: i64 = 1_704_110_400_000;
const DAY_MS: i64 = 86_400_000;
/// Business days begin at 04:00 here, and it is always UTC.
const DAY_STARTS_MS: i64 = 4 * 3_600_000;

/// Something that is to come.
#[derive(Debug)]
pub enum Event {
    /// The core's timer.
    Tick { life: u32, number: u64 },
    /// The power is back, or the process is started again.
    Start,
    /// The process dies, with or without the power.
    Crash { power: bool, again: bool },
    /// The process is told to stop, and stops.
    Stop { now: bool },
    /// A terminal's own doing.
    Terminal(usize, terminals::Step),
    /// A request arrives at the gateway.
    Arrive(usize, Box<Order>),
    /// A thread of the store.
    Store { life: u32, generation: u32, step: store_thread::Step },
    /// A read's result reaches the core, unless the store was opened again.
    Read { generation: u32, input: Input },
    /// An input reaches the core, if the process still lives.
    Input { life: u32, input: Input },
    /// The producer sends.
    Send { producer: ProducerId, partition: usize },
    /// The producer reports.
    Report { life: u32, producer: ProducerId, seq: Seq, outcome: Delivery },
    /// The handle is made, or not.
    Make { life: u32, producer: ProducerId },
    /// What a dropped handle had on the wire arrives.
    LateAppend(usize, Batch),
    /// The consumer looks.
    Consume,
    /// The centre's own doing.
    Centre(centre::Step),
    /// Kafka goes away, or comes back.
    Outage(bool),
    /// The disk fills up, or somebody makes room.
    Disk(Room),
    /// The clock is set.
    Clock { known: bool, offset_ms: i64 },
    /// Somebody looks at the dead letters, and decides about one.
    Decide,
    /// Somebody looks at the alarms, and has seen one.
    See,
    /// Kafka takes from now on what it refused before.
    Mend,
    /// Nobody does anything for so long.
    Pause { ms: u64 },
    /// All faults are over.
    Calm,
}

#[derive(Debug)]
struct Scheduled {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.number == other.number
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

/// The world of one run.
#[derive(Debug)]
pub struct World {
    /// All chance.
    pub dice: Dice,
    /// What goes wrong in this run.
    pub profile: Profile,
    /// Virtual milliseconds since the run began.
    pub now_ms: u64,
    /// Faults still happen.
    pub stormy: bool,
    /// Kafka is away.
    pub outage: bool,
    /// Kafka takes every event.
    pub mended: bool,
    /// How long nobody did anything so far, and when the last pause ends.
    paused_ms: u64,
    pause_ends_ms: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    steps: u64,

    booted_ms: u64,
    clock_known: bool,
    clock_offset_ms: i64,

    /// The process: its number, and the core while it lives.
    pub life: u32,
    /// The core.
    pub gateway: Option<Gateway>,
    tick: Option<(u64, u64)>,
    /// The process was killed while it carried out what the core asked for.
    pub killed: bool,
    stopping: bool,

    /// The store's threads and disk.
    pub store: StoreThreads,
    /// Kafka.
    pub kafka: Cluster,
    /// The centre.
    pub centre: Centre,
    /// The terminals.
    pub terminals: Vec<Terminal>,
    /// Orders that terminals have heard of.
    pub orders: Vec<OrderId>,
    /// Submissions so far, and numbers given to them.
    pub submissions: u64,
    /// Numbers given to submissions.
    pub numbers: u64,
    replies_given: u64,
    /// Who waits for an answer.
    pub replies: BTreeMap<ReplyTo, (usize, u64)>,
    /// Who waits for a session.
    pub sessions_asked: BTreeMap<ReplyTo, (usize, SessionId)>,

    /// The reference model.
    pub model: Model,
    /// The mistake that this run makes on purpose.
    pub breakage: Option<Breakage>,
    /// What happened last.
    pub trace: Trace,
    /// Folded from everything that happened: the same in every run of a seed.
    pub fingerprint: u64,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Steps that were taken.
    pub steps: u64,
    /// Folded from everything that happened.
    pub fingerprint: u64,
    /// What was checked.
    pub counts: Counts,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, breakage: Option<Breakage>, traced: bool) -> World {
        let mut dice = Dice::new(seed);
        let profile = Profile::draw(&mut dice);
        let topics: Vec<&str> = centre::TOPICS.iter().map(|(topic, _)| *topic).collect();
        let mut world = World {
            now_ms: 0,
            stormy: true,
            outage: false,
            mended: false,
            paused_ms: 0,
            pause_ends_ms: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            steps: 0,
            booted_ms: 0,
            clock_known: true,
            clock_offset_ms: 0,
            life: 0,
            gateway: None,
            tick: None,
            killed: false,
            stopping: false,
            store: StoreThreads::new(),
            kafka: Cluster::new(&topics),
            centre: Centre::default(),
            terminals: (0..profile.terminals).map(|index| Terminal::new(index, index < profile.serial_terminals)).collect(),
            orders: Vec::new(),
            submissions: 0,
            numbers: 0,
            replies_given: 0,
            replies: BTreeMap::new(),
            sessions_asked: BTreeMap::new(),
            model: Model::new(profile.settings.clone()),
            breakage,
            trace: Trace::new(traced),
            fingerprint: 0,
            dice,
            profile,
        };
        world.store.disk.platter().sync_on_open = breakage != Some(Breakage::OpensWithoutASync);
        world.store.disk.platter().tears = breakage == Some(Breakage::TearsABatch);
        world.prepare();
        world
    }

    /// What happens by itself.
    fn prepare(&mut self) {
        self.at(0, Event::Start);
        for who in 0..self.terminals.len() {
            let after = self.dice.between(1, 2_000);
            self.at(after, Event::Terminal(who, terminals::Step::New));
            if self.profile.has(Fault::TerminalRestarts) {
                let after = self.dice.between(1_000, self.profile.stormy_ms);
                self.at(after, Event::Terminal(who, terminals::Step::Restart));
            }
        }
        for _ in 0..self.dice.below(12) {
            let after = self.dice.below(self.profile.stormy_ms);
            let step = if self.dice.chance(500) { centre::Step::Sell } else { centre::Step::Chatter };
            self.centre.due += 1;
            self.at(after, Event::Centre(step));
        }
        let (stormy_ms, every) = (self.profile.stormy_ms, self.profile.crash_every_ms);
        for (fault, power) in [(Fault::Kill, false), (Fault::PowerCut, true)] {
            if self.profile.has(fault) {
                let after = self.dice.below(2 * every);
                self.at(after, Event::Crash { power, again: true });
            }
        }
        if self.profile.has(Fault::Stop) {
            let after = self.dice.below(stormy_ms);
            self.at(after, Event::Stop { now: false });
        }
        for (fault, room) in [(Fault::BelowFloor, Room::BelowFloor), (Fault::DiskFull, Room::Nothing)] {
            if self.profile.has(fault) {
                let after = self.dice.below(stormy_ms);
                self.at(after, Event::Disk(room));
            }
        }
        if self.profile.has(Fault::Outage) {
            for _ in 0..self.dice.between(1, 3) {
                let begin = self.dice.below(stormy_ms);
                let lasts = self.dice.between(100, stormy_ms);
                self.at(begin, Event::Outage(true));
                self.at(begin + lasts, Event::Outage(false));
            }
        }
        if self.profile.has(Fault::ClockJumps) {
            for _ in 0..self.dice.between(1, 3) {
                let after = self.dice.below(stormy_ms);
                let jump = i64::try_from(self.dice.below(5 * 86_400_000)).expect("small") - 2 * DAY_MS;
                self.at(after, Event::Clock { known: true, offset_ms: jump });
            }
        }
        if self.profile.has(Fault::Decisions) {
            for _ in 0..self.dice.between(1, 30) {
                let after = self.dice.below(stormy_ms);
                self.at(after, Event::Decide);
                let after = self.dice.below(stormy_ms);
                self.at(after, Event::See);
            }
            let after = self.dice.below(2 * stormy_ms);
            self.at(after, Event::Mend);
        }
        if self.profile.has(Fault::LongPauses) {
            for _ in 0..self.dice.between(1, 3) {
                let after = self.dice.below(stormy_ms);
                let ms = self.dice.between(1, 30 * 24) * 3_600_000;
                self.at(after, Event::Pause { ms });
            }
        }
        self.at(stormy_ms, Event::Calm);
    }

    /// Nobody does anything for a while: what somebody would have done comes so much later. What is on its way arrives, and the gateway
    /// goes on.
    fn pause(&mut self, ms: u64) {
        self.note(|| format!("a pause of {} hours", ms / 3_600_000));
        self.paused_ms += ms;
        self.pause_ends_ms = self.now_ms + ms;
        if self.storm(Fault::Retention) {
            self.kafka.forget();
        }
        let somebodys = |event: &Event| match event {
            Event::Terminal(_, step) => step.is_by_itself(),
            Event::Crash { .. } | Event::Stop { .. } | Event::Outage(_) | Event::Disk(_) | Event::Clock { .. } => true,
            Event::Centre(_) | Event::Pause { .. } | Event::Calm | Event::Decide | Event::See | Event::Mend => true,
            Event::Tick { .. } | Event::Start | Event::Arrive(..) | Event::Store { .. } | Event::Read { .. } | Event::Input { .. } => false,
            Event::Send { .. } | Event::Report { .. } | Event::Make { .. } | Event::LateAppend(..) | Event::Consume => false,
        };
        let events = std::mem::take(&mut self.events).into_iter();
        self.events = events
            .map(|Reverse(mut next)| {
                next.at_ms += if somebodys(&next.event) { ms } else { 0 };
                Reverse(next)
            })
            .collect();
    }

    /// What is left of a pause, as far as something may be late for it.
    pub fn pause_left_ms(&self) -> u64 {
        self.pause_ends_ms.saturating_sub(self.now_ms).min(LATE_IN_PAUSE_MS)
    }

    /// Whether a fault of this run may happen now.
    pub fn storm(&self, fault: Fault) -> bool {
        self.stormy && self.profile.has(fault)
    }

    /// Something happens in so many milliseconds.
    pub fn at(&mut self, after_ms: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse(Scheduled { at_ms: self.now_ms + after_ms, number: self.scheduled, event }));
    }

    /// Somebody decides about a dead letter: one that there is, or was.
    fn decide(&mut self) -> Check {
        if !self.stormy {
            // What is kept counts as queued: a house that is full of it waits for somebody to decide.
            self.at(10 * 60_000, Event::Decide);
        }
        let last = self.model.image.next_seq.0;
        let letters: Vec<Seq> = self.model.image.dead.keys().copied().collect();
        if self.gateway.is_none() {
            return Ok(());
        }
        let dead = if letters.is_empty() || self.dice.chance(20) { Seq(self.dice.below(last)) } else { self.dice.pick(&letters) };
        let decision = if self.dice.chance(700) { Decision::Retry } else { Decision::Discard };
        let reply_to = self.reply_to();
        self.model.deciding(reply_to, dead, decision);
        self.feed(Input::Decide { reply_to, dead, decision, by: "somebody".into() })
    }

    /// Somebody has seen an order's alarm: one that there is, or none.
    fn see(&mut self) -> Check {
        let anyone = self.dice.chance(50);
        let orders = self.model.image.orders.values().filter(|order| anyone || order.open && order.alarm.is_some());
        let orders: Vec<_> = orders.map(|order| order.order_id.clone()).collect();
        if self.gateway.is_none() || orders.is_empty() {
            return Ok(());
        }
        let order = orders[self.dice.index(orders.len())].clone();
        let reply_to = self.reply_to();
        self.model.seeing(reply_to, order.clone());
        self.feed(Input::Command { reply_to, by: "somebody".into(), deed: Deed::Acknowledge { order } })
    }

    /// What the core's clocks show.
    pub fn clock(&self) -> Now {
        let unix_ms = EPOCH_UNIX_MS + i64::try_from(self.now_ms).expect("virtual time is short") + self.clock_offset_ms;
        let business_day = i32::try_from((unix_ms - DAY_STARTS_MS).div_euclid(DAY_MS)).expect("days are few");
        let wall = self.clock_known.then_some(Wall { unix_ms, business_day });
        Now { mono_ms: self.now_ms - self.booted_ms, wall }
    }

    /// A new name for whoever waits for an answer.
    pub fn reply_to(&mut self) -> ReplyTo {
        self.replies_given += 1;
        ReplyTo(self.replies_given)
    }

    /// Runs until everything has come to rest, or for so many steps.
    ///
    /// # Errors
    /// What the gateway did wrong.
    pub fn run(&mut self, steps_max: Option<u64>) -> Result<Report, Violation> {
        while let Some(Reverse(next)) = self.events.pop() {
            if steps_max == Some(self.steps) {
                break;
            }
            self.steps += 1;
            self.now_ms = next.at_ms;
            self.happen(next.event)?;
            if self.killed {
                self.killed = false;
                self.crash(false);
            }
            if self.is_at_rest() {
                self.model.at_rest()?;
                break;
            }
            if self.steps > STEPS_MAX {
                return Err(Violation("it never comes to rest".into()));
            }
            if !self.stormy && self.now_ms > self.profile.stormy_ms + self.paused_ms + REST_WITHIN_MS + self.profile.dark_ms {
                return Err(Violation(self.why_not_at_rest()));
            }
        }
        Ok(Report { steps: self.steps, fingerprint: self.fingerprint, counts: self.model.counts })
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Writes a line into the trace.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.line(self.now_ms, self.steps, text);
    }

    fn happen(&mut self, event: Event) -> Check {
        match event {
            Event::Tick { life, number } => {
                if life == self.life && self.tick.is_some_and(|(_, current)| current == number) {
                    self.tick = None;
                    return self.feed(Input::Tick);
                }
                Ok(())
            }
            Event::Start => self.start(),
            Event::Crash { power, again } => {
                if self.stormy {
                    if again {
                        let after = self.dice.below(2 * self.profile.crash_every_ms) + 1;
                        self.at(after, Event::Crash { power, again });
                    }
                    self.crash(power);
                }
                Ok(())
            }
            Event::Stop { now } => self.stop(now),
            Event::Terminal(who, step) => self.terminal_step(who, step),
            Event::Arrive(who, order) => self.arrive(who, &order),
            Event::Store { life, generation, step } => {
                if life == self.life && self.gateway.is_some() && generation == self.store.generation {
                    return self.store_step(step);
                }
                Ok(())
            }
            Event::Read { generation, input } => {
                if self.gateway.is_some() && generation == self.store.generation {
                    return self.feed(input);
                }
                Ok(())
            }
            Event::Input { life, input } => {
                if life == self.life && self.gateway.is_some() {
                    return self.feed(input);
                }
                Ok(())
            }
            Event::Send { producer, partition } => self.send(producer, partition),
            Event::Report { life, producer, seq, outcome } => self.report(life, producer, seq, outcome),
            Event::Make { life, producer } => self.make(life, producer),
            Event::LateAppend(partition, batch) => self.append_events(partition, &batch),
            Event::Consume => self.consume(),
            Event::Centre(step) => {
                self.centre_step(step);
                Ok(())
            }
            Event::Outage(begins) => {
                self.note(|| format!("Kafka is {}", if begins { "away" } else { "back" }));
                self.outage = begins && self.stormy;
                self.kafka_is_back();
                Ok(())
            }
            Event::Disk(room) => {
                self.note(|| format!("the disk has room: {room:?}"));
                self.store.disk.platter().room = if self.stormy { room } else { Room::Plenty };
                if self.stormy {
                    let lasts = if room == Room::Plenty { self.profile.stormy_ms / 2 } else { 60_000 };
                    let after = self.dice.between(1, lasts);
                    let next = match room {
                        Room::Plenty if self.profile.has(Fault::DiskFull) && self.dice.chance(500) => Room::Nothing,
                        Room::Plenty => Room::BelowFloor,
                        Room::BelowFloor | Room::Nothing => Room::Plenty,
                    };
                    self.at(after, Event::Disk(next));
                }
                Ok(())
            }
            Event::Clock { known, offset_ms } => {
                self.note(|| format!("the clock is set: known {known}, {offset_ms} ms off"));
                (self.clock_known, self.clock_offset_ms) = (known, offset_ms);
                Ok(())
            }
            Event::Decide => self.decide(),
            Event::See => self.see(),
            Event::Mend => {
                self.mended = true;
                Ok(())
            }
            Event::Pause { ms } => {
                self.pause(ms);
                Ok(())
            }
            Event::Calm => {
                self.calm();
                Ok(())
            }
        }
    }

    /// A gateway process starts.
    fn start(&mut self) -> Check {
        let dark = self.now_ms < self.booted_ms;
        if self.gateway.is_some() || dark {
            return Ok(());
        }
        let now = self.clock();
        let settings = self.profile.settings.clone();
        let opened = match self.store.open(settings.gateway.clone()) {
            Ok(opened) => opened,
            Err(e) => {
                self.note(|| format!("the store cannot be opened: {e}"));
                let after = self.pause_left_ms().max(5_000);
                self.at(after, Event::Start);
                return Ok(());
            }
        };
        let epoch = Epoch(self.dice.next());
        let found = self.found_on_disk(&opened)?;
        self.note(|| format!("start in epoch {epoch}, next {}, progress {}", opened.next_seq, opened.progress));
        self.model.started(now, epoch, &opened, &found)?;
        self.centre.positions = opened.offsets.iter().cloned().collect();
        let seed = self.dice.seed();
        self.life += 1;
        self.stopping = false;
        self.gateway = Some(Gateway::new(settings, opened, epoch, seed, now));
        self.at(1, Event::Consume);
        if self.storm(Fault::CrashLoop) && self.dice.chance(500) {
            let soon = self.dice.pick(&[3, 30, 1_000]);
            let (after, power) = (self.dice.below(soon), self.dice.chance(500));
            self.at(after, Event::Crash { power, again: false });
        }
        self.settle()
    }

    /// All that the store holds, as the store itself tells.
    pub fn found_on_disk(&self, opened: &gateway::io::Opened) -> Result<Image, Violation> {
        Image::read(self.store.store(), opened, self.model.sessions()).map_err(|e| Violation(format!("the store cannot be read: {e}")))
    }

    /// The process dies; with the power, so does what was not synced.
    pub fn crash(&mut self, power: bool) {
        let dark = self.now_ms < self.booted_ms;
        if dark || (self.gateway.is_none() && !power) {
            return;
        }
        self.note(|| format!("the {} dies", if power { "power" } else { "process" }));
        let last_write = self.dice.chance(500);
        if self.gateway.take().is_some() {
            self.model.died();
            self.store.die(last_write);
            self.drop_handle();
            self.replies.clear();
            self.sessions_asked.clear();
            self.tick = None;
        }
        let mut away = self.dice.between(10, 3_000);
        if power {
            let arrived = self.dice.chance(500);
            self.store.disk.platter().cut_power(arrived);
            away = self.dice.between(500, self.profile.dark_ms);
            self.booted_ms = self.now_ms + away - 1;
            if self.storm(Fault::ClockUnknown) {
                self.clock_known = false;
                let offset_ms = self.clock_offset_ms;
                let after = away + self.dice.below(self.profile.stormy_ms);
                self.at(after, Event::Clock { known: true, offset_ms });
            }
        }
        self.at(away, Event::Start);
    }

    /// The process is told to stop: it writes down what it can, then it ends.
    fn stop(&mut self, now: bool) -> Check {
        if self.gateway.is_none() || !self.stormy {
            return Ok(());
        }
        if !now {
            self.note(|| "told to stop".into());
            self.stopping = true;
            self.at(2_000, Event::Stop { now: true });
            return self.feed(Input::Stopping);
        }
        if self.stopping {
            self.crash(false);
        }
        Ok(())
    }

    /// Hands an input to the core and does what it asks for.
    ///
    /// # Errors
    /// What it does wrong.
    pub fn feed(&mut self, input: Input) -> Check {
        let now = self.clock();
        // What a breakage makes of it is the core's mistaken belief: the model knows better.
        let Some(heard) = self.mishear(&input) else { return Ok(()) };
        self.note(|| trace::input(&input));
        self.model.sees(now);
        let settles = self.before_input(now, &input)?;
        let input = heard.unwrap_or(input);
        self.gateway.as_mut().expect("only a living gateway has inputs").handle(now, input);
        self.settle()?;
        if settles
            && !self.killed
            && let Some(gateway) = &self.gateway
        {
            self.model.memory_is_disk(gateway)?;
        }
        Ok(())
    }

    /// What a breakage makes of an input: nothing, another one, or (outermost `None`) it is lost.
    fn mishear(&mut self, input: &Input) -> Option<Option<Input>> {
        match self.breakage {
            None => Some(None),
            Some(breakage) => breakage.rewrite_input(&mut self.dice, input),
        }
    }

    /// Tells the model what the core is about to hear. Gives whether the core's memory and the disk agree after it.
    fn before_input(&mut self, now: Now, input: &Input) -> Result<bool, Violation> {
        match input {
            Input::Stored { commit } => self.model.commit_stored(*commit)?,
            Input::StoreFailed { commit, failure: gateway::io::CommitFailure::NoSpace } => self.model.commit_without_room(now, *commit),
            Input::Reopened(opened) => {
                let found = self.found_on_disk(opened)?;
                self.model.reopened(opened, &found)?;
            }
            Input::ReopenFailed => {
                self.model.reopen_failed();
                return Ok(false);
            }
            Input::Delivered { seq, outcome, .. } => {
                self.model.reported(*seq, outcome)?;
                return Ok(false);
            }
            Input::ProducerReady { producer, .. } => {
                self.model.producer_ready(*producer);
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Carries out what the core asks for, checks what must always hold, and sets the timer.
    fn settle(&mut self) -> Check {
        let now = self.clock();
        let mut outputs = Vec::new();
        if let Some(gateway) = &mut self.gateway {
            while let Some(output) = gateway.poll_output() {
                outputs.push(output);
            }
        }
        if let Some(breakage) = self.breakage {
            breakage.rewrite_step(&mut outputs);
        }
        for output in outputs {
            let outputs = match self.breakage {
                None => vec![output],
                Some(breakage) => breakage.rewrite_output(&mut self.dice, &self.model, output),
            };
            for output in outputs {
                self.note(|| trace::output(&output));
                self.fingerprint = fold(self.fingerprint, self.now_ms, &output);
                self.check_output(now, &output)?;
                self.carry_out(output)?;
            }
            if self.storm(Fault::CrashBetweenOutputs) && self.dice.chance(3) {
                self.killed = true;
                return Ok(());
            }
        }
        let Some(gateway) = &self.gateway else { return Ok(()) };
        self.model.after_step(now, gateway)?;
        let Some(wake) = gateway.wake_at() else { return Ok(()) };
        if self.tick.is_none_or(|(at, _)| wake < at) {
            let late_max = self.profile.tick_late_ms.max(self.pause_left_ms());
            let late = if self.stormy { self.dice.below(late_max + 1) } else { 0 };
            let after = wake.saturating_sub(now.mono_ms).saturating_add(late);
            self.at(after, Event::Tick { life: self.life, number: self.scheduled });
            self.tick = Some((wake, self.scheduled - 1));
        }
        let waits = !self.all_consumed();
        if waits && self.gateway.as_ref().is_some_and(|gateway| gateway.takes_status()) {
            self.at(1, Event::Consume);
        }
        Ok(())
    }

    /// All faults are over: what is broken is mended.
    fn calm(&mut self) {
        self.note(|| "all faults are over".into());
        self.stormy = false;
        self.outage = false;
        self.clock_known = true;
        let mut platter = self.store.disk.platter();
        platter.room = Room::Plenty;
        (platter.reopen_fails, platter.read_fails) = (false, false);
        platter.fate = crate::disk::Fate::Fine;
        drop(platter);
        self.kafka_is_back();
        self.at(60_000, Event::Decide);
    }

    fn is_at_rest(&self) -> bool {
        let Some(gateway) = &self.gateway else { return false };
        !self.stormy
            && self.terminals.iter().all(Terminal::is_idle)
            && self.centre.due == 0
            && self.store.is_idle()
            && gateway.is_settled()
            && gateway.gauges().queued == 0
            && self.all_consumed()
            && gateway.gauges().statuses_in_flight == 0
            && self.kafka.handle.as_ref().is_none_or(crate::kafka::Handle::is_empty)
    }

    fn why_not_at_rest(&self) -> String {
        let Some(gateway) = &self.gateway else { return "the gateway never came back".into() };
        let gauges = gateway.gauges();
        let busy: Vec<_> = self.terminals.iter().filter(|terminal| !terminal.is_idle()).collect();
        format!("it hangs: {gauges:?}, settled {}, {} centre steps due, busy {busy:?}", gateway.is_settled(), self.centre.due)
    }
}

/// Folds an output into a run's fingerprint (FNV-1a over its debug text's bytes would be slow: its kind and place are enough).
fn fold(fingerprint: u64, now_ms: u64, output: &gateway::io::Output) -> u64 {
    use gateway::io::Output;
    let word = match output {
        Output::Load { load, .. } => load.0,
        Output::Store { commit, batch } => commit.0 << 16 | batch.len() as u64,
        Output::Reopen => 3,
        Output::Answer { reply_to, .. } => reply_to.0 << 8 | 4,
        Output::SessionOpened { reply_to, .. } => reply_to.0 << 8 | 5,
        Output::Decided { reply_to, .. } => reply_to.0 << 8 | 13,
        Output::Read { from, .. } => from.0 << 8 | 6,
        Output::Deliver { seq, .. } => seq.0 << 8 | 7,
        Output::NewProducer { producer } => producer.0 << 8 | 8,
        Output::Show(orders) => (orders.len() as u64) << 8 | 9,
        Output::ShowBoard(board) => (board.preparing.len() as u64) << 8 | 10,
        Output::Sweep { old, .. } => old.expired_ms.unwrap_or(0) << 8 | 11,
        Output::Notice(_) => 12,
    };
    (fingerprint ^ now_ms ^ word.rotate_left(32)).wrapping_mul(0x0100_0000_01b3).rotate_left(7)
}
