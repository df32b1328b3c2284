//! What a seed does to its gateway: every fault by its name, and how often.

use crate::dice::Dice;
use gateway::board::BoardRules;
use gateway::settings::{Limits, Settings};
use std::collections::BTreeSet;

/// Something that goes wrong outside of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process is killed; what it wrote and did not sync stays visible until the next power cut.
    Kill,
    /// The power goes.
    PowerCut,
    /// One crash follows another, soon after the start.
    CrashLoop,
    /// Crashes come in the middle of carrying out what the core asked for.
    CrashBetweenOutputs,
    /// Commits whose outcome only a reopened store knows.
    UnclearCommit,
    /// Look-ups and reads fail.
    ReadError,
    /// Opening the store fails a few times.
    ReopenFails,
    /// There is no room to admit.
    BelowFloor,
    /// There is no room at all.
    DiskFull,
    /// Syncs of many seconds.
    SlowDisk,
    /// Look-ups come back late and out of turn.
    SlowReads,
    /// Kafka is away.
    Outage,
    /// Batches fail, and all behind them in the handle.
    BatchFails,
    /// A batch is appended, and reported failed.
    AckLost,
    /// Events that Kafka can never take.
    Poison,
    /// Handles that cannot be made.
    NoProducer,
    /// What a dropped handle had on the wire arrives after all.
    LateAppend,
    /// A person is needed.
    NotAuthorized,
    /// Requests and answers are lost on the way.
    LossyHouse,
    /// Requests arrive twice.
    DuplicatingHouse,
    /// Terminals restart, and go on with what they remember.
    TerminalRestarts,
    /// Terminals use an id again for something else.
    MixedUpIds,
    /// Terminals ask again for what was answered long ago.
    LateRepeats,
    /// Requests that are valid for a moment only.
    ShortValidity,
    /// The wall clock is unknown for a while after each power cut.
    ClockUnknown,
    /// The wall clock jumps.
    ClockJumps,
    /// Records that are no events.
    PoisonStatus,
    /// Records of other houses.
    ForeignStatus,
    /// The centre says things again.
    RepeatedStatus,
    /// Bounds so small that they are reached.
    SmallBounds,
    /// The process is told to stop, and is given a moment.
    Stop,
    /// Nobody does anything for days or weeks, and whatever is broken stays so; the gateway runs on.
    LongPauses,
    /// What nobody read for so long is gone from Kafka.
    Retention,
    /// People retry and discard dead letters.
    Decisions,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 34] = [
        Fault::Kill,
        Fault::PowerCut,
        Fault::CrashLoop,
        Fault::CrashBetweenOutputs,
        Fault::UnclearCommit,
        Fault::ReadError,
        Fault::ReopenFails,
        Fault::BelowFloor,
        Fault::DiskFull,
        Fault::SlowDisk,
        Fault::SlowReads,
        Fault::Outage,
        Fault::BatchFails,
        Fault::AckLost,
        Fault::Poison,
        Fault::NoProducer,
        Fault::LateAppend,
        Fault::NotAuthorized,
        Fault::LossyHouse,
        Fault::DuplicatingHouse,
        Fault::TerminalRestarts,
        Fault::MixedUpIds,
        Fault::LateRepeats,
        Fault::ShortValidity,
        Fault::ClockUnknown,
        Fault::ClockJumps,
        Fault::PoisonStatus,
        Fault::ForeignStatus,
        Fault::RepeatedStatus,
        Fault::SmallBounds,
        Fault::Stop,
        Fault::LongPauses,
        Fault::Retention,
        Fault::Decisions,
    ];
}

/// How long things take and how often they go wrong in one run. Each seed draws its own: what goes wrong all the time in one run hides
/// what only goes wrong without it.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The faults of this run.
    pub faults: BTreeSet<Fault>,
    /// How long faults happen; then all heals.
    pub stormy_ms: u64,
    /// Terminals, and how many of them are serial.
    pub terminals: usize,
    /// The first so many terminals have sessions.
    pub serial_terminals: usize,
    /// Requests that a terminal without sessions has out at once.
    pub window: usize,
    /// About how long a terminal waits before it submits something new.
    pub pause_ms: u64,
    /// Submissions of all terminals together.
    pub submissions_max: u64,
    /// A timer may be late by so much.
    pub tick_late_ms: u64,
    /// How long a sync takes.
    pub sync_ms: (u64, u64),
    /// How long Kafka takes.
    pub kafka_ms: (u64, u64),
    /// About how long until the next crash.
    pub crash_every_ms: u64,
    /// Longest time without power.
    pub dark_ms: u64,
    /// Events of one batch to Kafka.
    pub kafka_batch: usize,
    /// The core's settings.
    pub settings: Settings,
}

const MINUTE: u64 = 60_000;

impl Profile {
    /// Draws a run.
    pub fn draw(dice: &mut Dice) -> Profile {
        // Some runs meet nearly everything, some nearly nothing.
        let density = dice.pick(&[100, 300, 300, 500, 700]);
        let faults: BTreeSet<Fault> = Fault::ALL.into_iter().filter(|_| dice.chance(density)).collect();
        let long = dice.chance(60);
        let minutes = if long { dice.between(600, 3_000) } else { dice.between(2, 90) };
        let terminals = usize::try_from(dice.between(1, 5)).expect("small");
        let submissions_max = dice.between(20, 120);
        let stormy_ms = minutes * MINUTE;
        let pause_ms = stormy_ms * terminals as u64 / submissions_max;
        let limits = if faults.contains(&Fault::SmallBounds) { small_bounds(dice) } else { Limits::default() };
        Profile {
            stormy_ms,
            terminals,
            serial_terminals: dice.index(terminals + 1),
            window: usize::try_from(dice.between(1, 6)).expect("small"),
            // Bursts: what is close together in time is what meets.
            pause_ms: if dice.chance(500) { pause_ms } else { dice.between(1, 200) },
            submissions_max,
            tick_late_ms: if long { 10 * MINUTE } else { dice.pick(&[0, 100, 5_000]) },
            sync_ms: dice.pick(&[(1, 5), (5, 30), (50, 400)]),
            kafka_ms: dice.pick(&[(1, 10), (20, 100), (300, 1_500)]),
            crash_every_ms: (stormy_ms / dice.between(1, 8)).max(1_000),
            dark_ms: dice.pick(&[2_000, 2_000, 10 * MINUTE, 3 * 24 * 60 * MINUTE, 40 * 24 * 60 * MINUTE]),
            kafka_batch: usize::try_from(dice.between(1, 20)).expect("small"),
            settings: Settings {
                gateway: "store-042".parse().expect("a name"),
                restaurant_ids: vec!["restaurant-789".into()],
                strict_orders: dice.chance(200),
                hold_behind_dead: dice.chance(600),
                remember_ms: dice.pick(&[40 * MINUTE, 120 * MINUTE, 7 * 24 * 60 * MINUTE]),
                forget_details_ms: 10 * MINUTE,
                new_card: None,
                journal: true,
                board: dice.pick(&[BoardRules::default(), BoardRules { ready_ms: MINUTE, unchanged_ms: 10 * MINUTE }]),
                dialect: gateway::dialect::Dialect::OrderEvent,
                limits,
            },
            faults,
        }
    }

    /// Whether a fault happens in this run.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

fn small_bounds(dice: &mut Dice) -> Limits {
    let normal = Limits::default();
    let small = |dice: &mut Dice, low, high| usize::try_from(dice.between(low, high)).expect("small");
    Limits {
        queued_events_max: dice.pick(&[20, 40, normal.queued_events_max]),
        queued_bytes_max: dice.pick(&[10_000, 30_000, normal.queued_bytes_max]),
        requests_in_flight_max: small(dice, 1, 8),
        waiters_max: small(dice, 0, 2),
        batch_requests_max: small(dice, 1, 4),
        batch_forget_max: dice.pick(&[1, 3, 800]),
        batch_release_max: dice.pick(&[1, 2, normal.batch_release_max]),
        statuses_in_flight_max: small(dice, 1, 6),
        open_orders_max: normal.open_orders_max,
        window_events_max: small(dice, 1, 8),
        window_bytes_max: dice.pick(&[1, 2_000, normal.window_bytes_max]),
        dead_letters_max: normal.dead_letters_max,
    }
}
