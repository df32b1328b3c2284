//! The one loop that orders events: inputs go into the core, its outputs are carried out. It never blocks: disk, Kafka and terminals
//! have threads and tasks of their own, with queues of known length.

use crate::attention::{Attention, Subject};
use crate::clock::Clock;
use crate::disk_state::{DiskState, DiskWatch};
use crate::handle::{CHANGES_MAX, Call, Handle, Ingress, MARKS_STEP, ReplayStep, State};
use crate::kafka::{Delivered, Replay, ReplaySteps, Replayed, SignOfLife, Uplink, UplinkReport, topic_of};
use crate::metrics::Metrics;
use crate::rebuilding::Rebuilding;
use crate::telling::Telling;
use crate::terminals::Terminals;
use crate::unheard::{self, Unheard};
use anyhow::bail;
use gateway::board::Board;
use gateway::event::OrderEvent;
use gateway::ids::{CommitId, Epoch, LoadId, ReplyTo, Seq};
use gateway::io::{Decided, Delivery, Input, Notice, Opened, Output, Record, Wanted};
use gateway::journal::Deed;
use gateway::order::Projection;
use gateway::rebuild::Recall;
use gateway::request::Answer;
use gateway::settings::Settings;
use gateway::time::Now;
use gateway::{Gateway, Gauges};
use sd_notify::NotifyState;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::journal::Page;
use store::{ApplyError, CommitCost, CommitError, KeptEvent, NotTaken, SledDisk, Store, StoreReport, StoreThread};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Reports and calls that are taken in one go, before outputs are carried out.
const BURST_MAX: usize = 256;
/// The gateway's state is published so often, and at each change of the line.
const STATE_EVERY: Duration = Duration::from_millis(500);
/// A store call may take so long before it counts as stuck and systemd is no longer told that all is well: an SD card can stall a sync
/// for 30 s.
const STORE_STUCK: Duration = Duration::from_secs(120);
/// How long the store's threads may take to end.
const STORE_END_MAX: Duration = Duration::from_secs(30);
/// How long the producer may take for what is on the line when the daemon ends.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// What the threads around the loop report. The channel is unbounded in type only: one commit, one read of the head and one sweep are
/// under way at a time, look-ups are bounded by the core's flights, delivery reports share one mailbox.
#[derive(Debug)]
pub enum Report {
    Store(StoreReport),
    Uplink(UplinkReport),
    /// What is kept beside the outbox was read, for the dead letter topic.
    Kept {
        upto: Seq,
        found: Result<Vec<(Seq, KeptEvent)>, String>,
    },
    /// The dead letter topic was told, or not.
    Told(Result<Seq, String>),
    /// Events that wait since before this start were read, for a new store.
    Outbox(Result<Vec<(Seq, Arc<OrderEvent>)>, String>),
}

/// Everything that the loop owns.
pub struct Parts {
    pub settings: Settings,
    pub opened: Opened,
    pub epoch: Epoch,
    pub seed: [u8; 16],
    pub clock: Clock,
    pub store: StoreThread,
    pub uplink: Option<Uplink>,
    pub reports: mpsc::UnboundedReceiver<Report>,
    pub statuses: mpsc::Receiver<Record>,
    pub recalls: mpsc::Receiver<Recall>,
    pub rebuilding: Option<Rebuilding>,
    pub metrics: Metrics,
    pub sign_of_life: Option<SignOfLife>,
    pub telling: Option<Telling>,
    pub attention: Attention,
    pub replay: Option<Replay>,
    /// So many dead letters are told of.
    pub dead_letter_alarm: u64,
    /// Whether statuses are to be expected.
    pub hears: bool,
}

struct Waiting {
    reply: oneshot::Sender<Answer>,
    ingress: Ingress,
    since: Instant,
}

/// The loop.
pub struct EventLoop {
    gateway: Gateway,
    rim: Rim,
    boot: Boot,
    calls: mpsc::Receiver<Call>,
    answers: HashMap<ReplyTo, Waiting>,
    sessions: HashMap<ReplyTo, oneshot::Sender<bool>>,
    decisions: HashMap<ReplyTo, oneshot::Sender<Decided>>,
    last_reply: u64,
    loads: Vec<(LoadId, Wanted)>,
    board: watch::Sender<Arc<Board>>,
    changes: broadcast::Sender<Arc<Projection>>,
    state: watch::Sender<Arc<State>>,
    retries: u64,
    disk: DiskWatch,
    remember_ms: u64,
    syncs: Option<(Duration, Duration)>,
    delivered: u64,
    unheard: Unheard,
    /// What the sign of life said last.
    told: String,
    /// The store's threads are gone: only a new process has new ones.
    store_lost: bool,
    /// What is on disk will never open again: the next start moves it aside and rescues it.
    store_damaged: bool,
}

/// What names this start.
struct Boot {
    gateway: String,
    epoch: Epoch,
}

/// The parts that outputs are carried out with.
struct Rim {
    clock: Clock,
    store: StoreThread,
    uplink: Option<Uplink>,
    reports: mpsc::UnboundedReceiver<Report>,
    statuses: mpsc::Receiver<Record>,
    recalls: mpsc::Receiver<Recall>,
    rebuilding: Option<Rebuilding>,
    metrics: Metrics,
    sign_of_life: Option<SignOfLife>,
    replay: Option<Replay>,
    telling: Option<Telling>,
    attention: Attention,
    dead_letter_alarm: u64,
    hears: bool,
}

impl EventLoop {
    /// A loop over a freshly opened store, and the rim's end of it.
    pub fn new(parts: Parts) -> (EventLoop, Handle) {
        let Parts { settings, opened, epoch, seed, clock, store, uplink, reports, statuses, metrics, sign_of_life, .. } = parts;
        let Parts { telling, attention, replay, dead_letter_alarm, hears, recalls, rebuilding, .. } = parts;
        let boot = Boot { gateway: settings.gateway.to_string(), epoch };
        let remember_ms = settings.remember_ms;
        let mut gateway = Gateway::new(settings, opened, epoch, seed, clock.now());
        if let Some(telling) = &telling {
            gateway.handle(clock.now(), telling.begin());
        }
        let disk = DiskWatch::new(attention.clone());
        let (call_sender, calls) = mpsc::channel(crate::handle::CALLS_MAX);
        let (board, board_seen) = watch::channel(Arc::default());
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let (state, state_seen) = watch::channel(Arc::new(State { gauges: gateway.gauges(), remember_ms, ..State::default() }));
        let handle =
            Handle { calls: call_sender, board: board_seen, changes: changes.clone(), state: state_seen, terminals: Terminals::default() };
        let event_loop = EventLoop {
            gateway,
            rim: Rim {
                clock,
                store,
                uplink,
                reports,
                statuses,
                recalls,
                rebuilding,
                metrics,
                sign_of_life,
                replay,
                telling,
                attention,
                dead_letter_alarm,
                hears,
            },
            boot,
            calls,
            answers: HashMap::new(),
            sessions: HashMap::new(),
            decisions: HashMap::new(),
            last_reply: 0,
            loads: Vec::new(),
            board,
            changes,
            state,
            retries: 0,
            disk,
            remember_ms,
            syncs: None,
            delivered: 0,
            unheard: Unheard::default(),
            told: String::new(),
            store_lost: false,
            store_damaged: false,
        };
        (event_loop, handle)
    }

    /// Runs until `stop` is cancelled, then writes down what is due, lets Kafka take what it can within `drain_max`, and ends the
    /// threads. Whatever is still queued then is queued at the next start.
    ///
    /// # Errors
    /// The store's threads are gone. Nothing was answered that is not on disk; only a new process can go on.
    pub async fn run(mut self, stop: CancellationToken, drain_max: Duration) -> anyhow::Result<()> {
        let mut state_timer = tokio::time::interval(STATE_EVERY);
        state_timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut reports, mut calls) = (Vec::new(), Vec::new());
        let mut give_up_at: Option<tokio::time::Instant> = None;
        self.carry_out();
        loop {
            let wake = self.wake_after();
            tokio::select! {
                biased;
                () = stop.cancelled(), if give_up_at.is_none() => {
                    give_up_at = Some(tokio::time::Instant::now() + drain_max);
                    self.gateway.handle(self.rim.clock.now(), Input::Stopping);
                }
                count = self.rim.reports.recv_many(&mut reports, BURST_MAX) => {
                    if count == 0 {
                        break;
                    }
                    reports.drain(..).for_each(|report| self.report(report));
                }
                _ = self.calls.recv_many(&mut calls, BURST_MAX), if !self.calls.is_closed() || !self.calls.is_empty() => {
                    let inputs: Vec<_> = calls.drain(..).filter_map(|call| self.call(call)).collect();
                    self.gateway.handle_all(self.rim.clock.now(), inputs);
                }
                Some(recall) = self.rim.recalls.recv(), if self.gateway.takes_status() => {
                    let recall = self.rim.rebuilding.as_mut().and_then(|rebuilding| rebuilding.take(recall));
                    recall.into_iter().for_each(|recall| self.gateway.handle(self.rim.clock.now(), Input::Recall(recall)));
                }
                Some(record) = self.rim.statuses.recv(), if self.gateway.takes_status() && !self.holds_statuses() => {
                    self.gateway.handle(self.rim.clock.now(), Input::Status(record));
                }
                () = tokio::time::sleep(wake) => self.gateway.handle(self.rim.clock.now(), Input::Tick),
                _ = state_timer.tick() => self.publish_state(),
            }
            self.rebuild_on();
            self.carry_out();
            if self.store_lost {
                bail!("the store's threads are gone");
            }
            if self.store_damaged {
                bail!("the store is damaged; the next start moves it aside and rescues what can be read");
            }
            if give_up_at.is_some_and(|at| self.drained() || at <= tokio::time::Instant::now()) {
                break;
            }
        }
        self.end().await;
        Ok(())
    }

    /// An order must be there before its statuses come.
    fn holds_statuses(&self) -> bool {
        self.gateway.is_rebuilding() && self.rim.rebuilding.as_ref().is_some_and(Rebuilding::holds_statuses)
    }

    fn rebuild_on(&mut self) {
        if self.gateway.is_rebuilding()
            && let Some(rebuilding) = &mut self.rim.rebuilding
            && let Some(ended) = rebuilding.poll(self.gateway.gauges().statuses_in_flight, &self.rim.store)
        {
            self.gateway.handle(self.rim.clock.now(), Input::Recall(ended));
        }
    }

    fn drained(&self) -> bool {
        let gauges = self.gateway.gauges();
        self.gateway.is_settled() && (gauges.queued == 0 || !self.kafka_up())
    }

    async fn end(self) {
        let (queued, settled) = (self.gateway.gauges().queued, self.gateway.is_settled());
        // What is in flight on a dead line goes nowhere, and the terminals wait for the next start.
        let flush = if self.kafka_up() { FLUSH_MAX } else { Duration::ZERO };
        let Rim { store, uplink, sign_of_life, replay, telling, rebuilding, .. } = self.rim;
        rebuilding.inspect(Rebuilding::stop);
        // They wait for threads: not on a worker of the runtime.
        let ended = tokio::task::spawn_blocking(move || {
            if let Some(uplink) = uplink {
                uplink.stop(flush);
            }
            if let Some(sign_of_life) = sign_of_life {
                sign_of_life.stop();
            }
            if let Some(replay) = replay {
                replay.stop();
            }
            if let Some(telling) = telling {
                telling.stop();
            }
            store.stop(STORE_END_MAX)
        });
        match ended.await {
            Ok(true) => tracing::info!(queued, settled, "ended"),
            Ok(false) => tracing::error!(queued, "the store did not end in time: the disk hangs"),
            Err(error) => tracing::error!(%error, "ending the threads failed"),
        }
    }

    /// Kafka has all up to there, but for what is kept beside the outbox.
    fn progress(&self) -> Seq {
        let gauges = self.gateway.gauges();
        Seq(gauges.last_seq.saturating_sub(gauges.queued))
    }

    fn kafka_up(&self) -> bool {
        self.rim.uplink.as_ref().is_some_and(Uplink::is_up)
    }

    fn wake_after(&self) -> Duration {
        let now = self.rim.clock.now().mono_ms;
        let wait = self.gateway.wake_at().map_or(60_000, |at| at.saturating_sub(now));
        Duration::from_millis(wait.min(60_000))
    }

    fn reply_to(&mut self) -> ReplyTo {
        self.last_reply += 1;
        ReplyTo(self.last_reply)
    }

    /// What the core is to hear of a call.
    fn call(&mut self, call: Call) -> Option<Input> {
        match call {
            Call::Submit { ingress, submission, reply } => {
                let reply_to = self.reply_to();
                self.answers.insert(reply_to, Waiting { reply, ingress, since: Instant::now() });
                return Some(Input::Submit { reply_to, submission });
            }
            Call::OpenSession { terminal, session, reply } => {
                let reply_to = self.reply_to();
                self.sessions.insert(reply_to, reply);
                return Some(Input::OpenSession { reply_to, terminal, session });
            }
            // Whoever asked sees from a closed channel that the store is away.
            Call::FindSession { terminal, session, reply } => {
                let wanted = Wanted { request: None, order: None, session: Some((terminal, session)), dead_letter: None };
                let _ = self.rim.store.find(wanted, move |found| {
                    let _ = found.map(|found| reply.send(found.session).is_ok());
                });
            }
            Call::ReadOrder { order, reply } => {
                let wanted = Wanted { request: None, order: Some(order), session: None, dead_letter: None };
                let _ = self.rim.store.find(wanted, move |found| {
                    let _ = found.map(|found| reply.send(found.order).is_ok());
                });
            }
            Call::ListDeadLetters { after, letters_max, reply } => {
                let _ = self.rim.store.dead_letters(after, letters_max, move |found| {
                    let _ = found.map(|found| reply.send(found).is_ok());
                });
            }
            Call::ReadHistory { order, span_ms, from, reply } => {
                let look = move |store: &Store<SledDisk>| drop(store.history(&order, span_ms, from).map(|page| reply.send(page).is_ok()));
                let _ = self.rim.store.look(look);
            }
            Call::ReadOrdersOf { span_ms, from, reply } => {
                let _ = self.rim.store.look(move |store| drop(store.orders_of(&span_ms, from).map(|step| reply.send(step).is_ok())));
            }
            Call::CountQueuedOf { span_ms, from, reply } => {
                let from = from.unwrap_or_else(|| self.progress().next());
                let _ = self.rim.store.look(move |store| drop(store.queued_of(&span_ms, from).map(|step| reply.send(step).is_ok())));
            }
            Call::ReadKept { after, events_max, reply } => {
                let upto = self.progress();
                let look = move |store: &Store<SledDisk>| {
                    drop(store.kept_events(after, upto, events_max).map(|kept| reply.send(kept).is_ok()));
                };
                let _ = self.rim.store.look(look);
            }
            // Without Kafka whoever asked has heard so when the command was to be written down.
            Call::Replay { wanted, from, reply } => {
                let steps = self.rim.replay.as_ref()?.steps();
                let _ = self.rim.store.look(move |store| drop(store.delivered(&wanted, from).map(|page| replay(page, &steps, reply))));
            }
            Call::Command { deed: Deed::Replay { .. }, reply, .. } if self.rim.replay.is_none() => drop(reply.send(Decided::Unknown)),
            Call::Command { by, deed, reply } => {
                let reply_to = self.reply_to();
                self.decisions.insert(reply_to, reply);
                self.gateway.handle(self.rim.clock.now(), Input::Command { reply_to, by, deed });
            }
            Call::ListCommands { reply } => {
                let _ = self.rim.store.look(move |store| drop(store.commands().map(|commands| reply.send(commands).is_ok())));
            }
            Call::Decide { dead, decision, by, reply } => {
                let reply_to = self.reply_to();
                self.decisions.insert(reply_to, reply);
                self.gateway.handle(self.rim.clock.now(), Input::Decide { reply_to, dead, decision, by });
            }
            Call::ReadPrinted { key, reply } => {
                let _ = self.rim.store.look(move |store| drop(store.printed(&key).map(|found| reply.send(found).is_ok())));
            }
            Call::CancelledSincePrinted { printer, after, reply } => {
                let look = move |store: &Store<SledDisk>| store.cancelled_since_printed(&printer, after.as_ref(), MARKS_STEP);
                let _ = self.rim.store.look(move |store| drop(look(store).map(|found| reply.send(found).is_ok())));
            }
            Call::Print { marks, reply } => {
                let reply_to = self.reply_to();
                self.decisions.insert(reply_to, reply);
                return Some(Input::Print { reply_to, marks });
            }
            Call::Configure { settings, renew_producer, done } => {
                self.rim.metrics.limits(&settings.limits);
                self.remember_ms = settings.remember_ms;
                self.gateway.configure(*settings);
                if renew_producer {
                    self.gateway.renew_producer(self.rim.clock.now());
                }
                let _ = done.send(());
            }
            Call::ListMaybeStored { orders_max, reply } => {
                let wanted = self.gateway.open_orders().filter(|order| order.maybe_stored);
                let _ = reply.send(wanted.take(orders_max).map(|order| order.as_ref().clone()).collect());
            }
            Call::ListOrders { status, orders_max, reply } => {
                let wanted = self.gateway.open_orders().filter(|order| status.is_none_or(|status| order.status == status));
                let _ = reply.send(wanted.take(orders_max).map(|order| order.as_ref().clone()).collect());
            }
        }
        None
    }

    fn report(&mut self, report: Report) {
        let now = self.rim.clock.now();
        match report {
            Report::Store(report) => self.store_report(report),
            Report::Kept { upto, found } => {
                let input = self.rim.telling.as_mut().and_then(|telling| telling.read(upto, found));
                input.into_iter().for_each(|input| self.gateway.handle(now, input));
            }
            Report::Outbox(found) => {
                let recalls = self.rim.rebuilding.as_mut().map(|rebuilding| rebuilding.read(found, &self.rim.clock));
                self.gateway.handle_all(now, recalls.into_iter().flatten().map(Input::Recall));
            }
            Report::Told(told) => {
                let input = self.rim.telling.as_mut().and_then(|telling| telling.told(told));
                input.into_iter().for_each(|input| self.gateway.handle(now, input));
            }
            Report::Uplink(UplinkReport::Delivered(mailbox)) => {
                let producer = mailbox.producer();
                let mut reports = mailbox.take().into_iter();
                while reports.len() > 0 {
                    let mut failed = false;
                    let up_to_a_failure = std::iter::from_fn(|| {
                        // What follows from it decides about the reports behind it.
                        let Delivered { seq, event_type, took, outcome } = if failed { None } else { reports.next() }?;
                        self.rim.metrics.delivered(event_type, &outcome, took);
                        failed = matches!(outcome, Delivery::Failed { .. });
                        self.delivered += u64::from(!failed);
                        Some(Input::Delivered { producer, seq, outcome })
                    });
                    self.gateway.handle_all(now, up_to_a_failure);
                }
            }
            Report::Uplink(UplinkReport::Ready { producer, delivered }) => {
                self.gateway.handle(now, Input::ProducerReady { producer, delivered });
            }
            Report::Uplink(UplinkReport::Failed { producer, class, reason }) => {
                self.gateway.handle(now, Input::ProducerFailed { producer, class, reason });
            }
            // Whoever asked sees from a closed channel that the store is away.
            Report::Uplink(UplinkReport::Place { seq, epoch, reply }) => {
                let _ = self.rim.store.look(move |store| {
                    let found = store.place(seq).and_then(|place| Ok((place, store.knows(epoch)?)));
                    let _ = found.map(|found| reply.send(found).is_ok());
                });
            }
            Report::Uplink(UplinkReport::RepeatsPossible(count)) => self.rim.metrics.repeats_possible(count),
            Report::Uplink(UplinkReport::Line { up }) => {
                tracing::info!(up, queued = self.gateway.gauges().queued, "the line to Kafka changed");
                self.publish_state();
            }
        }
    }

    fn store_report(&mut self, report: StoreReport) {
        let now = self.rim.clock.now();
        match report {
            StoreReport::Applied { commit, result } => self.applied(commit, result),
            StoreReport::Reopened(Ok(opened)) => {
                self.disk.opened();
                self.gateway.handle(now, Input::Reopened(opened));
            }
            StoreReport::Reopened(Err(error)) => {
                self.disk.failed(&error, &chain(&error));
                self.store_damaged |= error.is_damage();
                self.gateway.handle(now, Input::ReopenFailed);
            }
            StoreReport::Loaded(loads) => {
                let inputs = loads.into_iter().map(|(load, result)| match result {
                    Ok(found) => Input::Loaded { load, found },
                    Err(error) => {
                        tracing::error!(error = chain(&error), "reading from the store failed");
                        Input::LoadFailed { load }
                    }
                });
                self.gateway.handle_all(now, inputs);
            }
            StoreReport::Head(Ok(events)) => self.gateway.handle(now, Input::Head { events }),
            StoreReport::Head(Err(error)) => {
                tracing::error!(error = chain(&error), "reading the outbox failed");
                self.gateway.handle(now, Input::HeadFailed);
            }
            StoreReport::Swept(result) => {
                // What cannot be read now expires later: a broken store shows at the next request.
                let (expired, next) = result.unwrap_or_default();
                self.gateway.handle(now, Input::Swept { expired, next });
            }
            StoreReport::Died { thread } => {
                tracing::error!(thread, "a thread of the store panicked");
                self.store_lost = true;
            }
        }
    }

    fn applied(&mut self, commit: CommitId, result: Result<CommitCost, ApplyError>) {
        let input = match result {
            Ok(cost) => {
                self.rim.metrics.synced(cost.sync);
                self.syncs = Some((cost.sync, self.syncs.map_or(cost.sync, |(_, slowest)| slowest.max(cost.sync))));
                Input::Stored { commit }
            }
            Err(error) => {
                match &error {
                    ApplyError::Refused(why) => tracing::error!(
                        why,
                        "the store refuses what the gateway would write: nothing was written; report it with this line"
                    ),
                    ApplyError::Commit(CommitError::NoSpace(reason)) => self.disk.no_room(reason),
                    ApplyError::Commit(CommitError::Unclear(_)) => tracing::error!(error = chain(&error), "a commit failed"),
                }
                Input::StoreFailed { commit, failure: error.failure() }
            }
        };
        self.gateway.handle(self.rim.clock.now(), input);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            self.output(output);
        }
        if !self.loads.is_empty() {
            let loads = std::mem::take(&mut self.loads);
            self.asked(self.rim.store.load(loads));
        }
    }

    /// The core asks for no more than the store's queues hold, so a refusal means that the threads are gone.
    fn asked(&mut self, taken: Result<(), NotTaken>) {
        self.store_lost |= taken.is_err();
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Load { load, wanted } => self.loads.push((load, wanted)),
            Output::Store { commit, batch } => self.asked(self.rim.store.apply(commit, batch)),
            Output::Reopen => self.asked(self.rim.store.reopen()),
            Output::Answer { reply_to, answer } => {
                if let Some(waiting) = self.answers.remove(&reply_to) {
                    self.rim.metrics.answered(waiting.ingress, &answer, waiting.since.elapsed());
                    // Who hung up meanwhile asks again under the same request id.
                    let _ = waiting.reply.send(answer);
                }
            }
            Output::SessionOpened { reply_to, durable } => {
                if let Some(reply) = self.sessions.remove(&reply_to) {
                    let _ = reply.send(durable);
                }
            }
            Output::Decided { reply_to, outcome } => {
                if let Some(reply) = self.decisions.remove(&reply_to) {
                    let _ = reply.send(outcome);
                }
            }
            Output::Read { from, events_max, bytes_max } => self.asked(self.rim.store.read_head(from, events_max, bytes_max)),
            Output::Deliver { producer, seq, event } => {
                if let Some(uplink) = &self.rim.uplink {
                    uplink.deliver(producer, seq, &event);
                }
            }
            Output::NewProducer { producer } => {
                if let Some(uplink) = &mut self.rim.uplink {
                    uplink.new_producer(producer);
                }
            }
            Output::Show(orders) => {
                for order in orders {
                    // Nobody listening is no error.
                    let _ = self.changes.send(order);
                }
            }
            Output::ShowBoard(board) => drop(self.board.send_replace(board)),
            Output::Sweep { from, keys_max, old } => self.asked(self.rim.store.sweep(from, keys_max, old)),
            Output::Notice(notice) => {
                self.attend(&notice);
                log(&notice);
            }
        }
    }

    /// What lasts is shown for as long as it lasts.
    fn attend(&self, notice: &Notice) {
        let sentence = match notice {
            Notice::UplinkHeld { reason, .. } => Some(format!("Kafka does not take events; they wait in the outbox: {reason}")),
            Notice::UplinkBack => None,
            _ => return,
        };
        self.rim.attention.say(Subject::Kafka, sentence);
    }

    fn publish_state(&mut self) {
        let gauges = self.gateway.gauges();
        let metrics = &self.rim.metrics;
        metrics.retried(gauges.retries - self.retries);
        self.retries = gauges.retries;
        metrics.gauges(&gauges);
        metrics.journal(self.rim.store.journal_usage());
        let kafka_up = self.kafka_up();
        metrics.kafka_up(kafka_up);
        let busy = self.rim.store.busy_for();
        let disk = self.disk.look(busy);
        let accepting = gauges.accepting && disk == DiskState::Well;
        metrics.disk(disk == DiskState::Well, busy.unwrap_or_default(), accepting);
        self.tell_people(&gauges);
        let before = self.state.borrow().clone();
        let kafka_since = before.kafka_since.filter(|_| before.kafka_up == kafka_up).or_else(|| Some(Instant::now()));
        let state = State { accepting, gauges, kafka_up, disk, remember_ms: self.remember_ms, kafka_since, syncs: self.syncs };
        self.tell_centre(&state);
        self.state.send_replace(Arc::new(state));
        self.tell_systemd();
    }

    /// Dead letters and silence are a person's business; dead letters also that of their topic.
    fn tell_people(&mut self, gauges: &Gauges) {
        let Rim { metrics, attention, dead_letter_alarm, hears, rebuilding, sign_of_life, .. } = &self.rim;
        attention.say(Subject::NewCard, rebuilding.as_ref().and_then(|rebuilding| rebuilding.sentence(gauges)));
        let dead = gauges.dead_letters as u64;
        let sentence = || format!("{dead} dead letters wait for a decision: see /operations, or dumbwaiter dead-letters list");
        attention.say(Subject::DeadLetters, (dead >= *dead_letter_alarm).then(sentence));
        if gauges.queued == 0 {
            attention.say(Subject::Kafka, None);
        }
        attention.say(Subject::Line, self.rim.uplink.as_ref().and_then(|uplink| uplink.outage(crate::clock::wall_ms())));
        let stranger = sign_of_life.as_ref().and_then(SignOfLife::stranger);
        let heard = stranger.is_some() || gauges.tally.strangers > 0;
        metrics.another_gateway(heard);
        let sentence = heard.then(|| {
            let id = &self.boot.gateway;
            format!("another gateway is at work under the id {id}: stop one of the two, or give it an id of its own")
        });
        if attention.say(Subject::Stranger, sentence)
            && let Some(boot) = stranger
        {
            tracing::error!(
                boot,
                "another gateway says under this gateway's id that it lives: stop one of the two, or give it an id of its own"
            );
        }
        if *hears {
            let unheard = self.unheard.look(self.delivered, gauges.tally.statuses_applied, Instant::now());
            metrics.unheard(unheard);
            let sentence = unheard::sentence(unheard);
            if attention.say(Subject::Statuses, sentence.clone())
                && let Some(why) = sentence
            {
                tracing::warn!(why, "no status of an order comes back");
            }
        }
        let progress = self.progress();
        if let Some(telling) = &mut self.rim.telling
            && let Some(input) = telling.poll(progress, gauges.kept.events, &self.rim.store)
        {
            self.gateway.handle(self.rim.clock.now(), input);
        }
    }

    /// The sign of life is told anew when something in it changed that a person would act on; the sender itself repeats it each minute.
    fn tell_centre(&mut self, state: &State) {
        let Some(sign_of_life) = &self.rim.sign_of_life else { return };
        let gauges = &state.gauges;
        let text = serde_json::json!({
            "gateway": self.boot.gateway, "version": env!("CARGO_PKG_VERSION"), "boot": self.boot.epoch.to_string(),
            "epoch": self.boot.epoch.to_string(), "seq": gauges.last_seq, "queued": gauges.queued,
            "oldestQueuedMs": oldest_queued_ms(gauges, self.rim.clock.now()), "accepting": state.accepting,
            "deadLetters": gauges.dead_letters, "diskFree": self.rim.store.free_bytes().ok(),
            "clock": if self.rim.clock.now().wall.is_some() { "synced" } else { "unset" },
        });
        let key = format!("{} {} {}", state.accepting, gauges.dead_letters, gauges.queued > 0);
        let minute = self.rim.clock.now().mono_ms / 60_000;
        let told = format!("{key} {minute}");
        if told != self.told {
            self.told = told;
            sign_of_life.tell(text.to_string());
        }
    }

    /// A loop that turns and a store that is not stuck are what the watchdog watches. Outside systemd this does nothing.
    fn tell_systemd(&self) {
        let stuck = self.rim.store.busy_for().is_some_and(|busy| busy > STORE_STUCK);
        if !stuck && let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            tracing::debug!(%error, "systemd does not listen");
        }
    }
}

/// Hands what was found to Kafka, and tells what became of it.
fn replay(page: Page, steps: &ReplaySteps, reply: oneshot::Sender<ReplayStep>) {
    let Page { entries, next, oldest, begins_ms } = page;
    let told = move |Replayed { sent, failed }| {
        let oldest = oldest.map(|(seq, _)| seq);
        // Who asked may have gone.
        let _ = reply.send(ReplayStep { sent, failed, next, oldest, begins_ms });
    };
    let events: Vec<_> = entries.into_iter().map(|entry| (entry.seq, entry.event)).collect();
    if events.is_empty() { told(Replayed { sent: 0, failed: None }) } else { steps.send(events, told) }
}

/// How long the oldest queued event has waited; `None` while the wall clock is unknown or nothing waits.
pub fn oldest_queued_ms(gauges: &Gauges, now: Now) -> Option<i64> {
    Some((now.wall?.unix_ms - gauges.oldest_queued_ms?).max(0))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn log(notice: &Notice) {
    match notice {
        Notice::StoreUnclear => tracing::error!("a disk operation failed; opening the store again before anything else is answered"),
        Notice::StoreBack => tracing::info!("the store is open again"),
        Notice::Full => tracing::warn!("full: new orders are refused until there is room"),
        Notice::Accepting => tracing::info!("new orders are taken again"),
        Notice::UplinkHeld { backoff_ms, reason } => {
            tracing::warn!(backoff_ms, reason, "Kafka does not take events; they wait in the outbox");
        }
        Notice::UplinkBack => tracing::info!("Kafka takes events again"),
        Notice::DeadLettered { seq, reason } => {
            tracing::error!(seq = seq.0, reason, "Kafka can never take this event; kept as a dead letter");
        }
        Notice::Decided { dead, decision, appended } => {
            tracing::info!(seq = dead.0, ?decision, appended, "somebody decided about a dead letter; what it held goes on");
        }
        Notice::PoisonStatus { at, offset, reason } => {
            tracing::warn!(topic = topic_of(at), partition = at.partition, offset, reason, "passed over an unreadable status record");
        }
        Notice::Rebuilt { recalled } => tracing::info!(recalled, "the new store is rebuilt from this gateway's own events in Kafka"),
        Notice::NotRebuilt => {
            tracing::warn!("the store is new and not rebuilt yet; requests are taken, and their events marked data.maybeStored");
        }
        Notice::StoredTwice(request) => tracing::warn!(
            %request.terminal,
            %request.request_id,
            "a request was stored before the card was replaced, and once more before that was known: see what came of it twice"
        ),
        Notice::ForeignEpoch(epoch) => {
            tracing::error!(%epoch, "another gateway writes to Kafka under this gateway's id: give each its own, or stop the copy");
        }
    }
}
