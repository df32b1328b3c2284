//! A process that stores as the daemon's core does, only faster and without terminals: the rig's own binary, started anew for each boot.
//!
//! It says each batch once it is durable. What is in a batch follows from the seed, the boot and the seqs, so that a judge can tell
//! whether what is there is what was stored.

use crate::dice::Dice;
use anyhow::{Context, bail};
use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Epoch, Name, OrderId, RequestKey, Seq};
use gateway::io::{Change, Counters, DeadLetter, Forgettable, PartitionName, Remembered};
use gateway::order::{Moment, Projection};
use gateway::request::EventType;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use store::{Room, SledOptions};

/// The batches of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The run's seed.
    pub seed: u64,
    /// The boot's number, from 0.
    pub number: u64,
    /// Batches that it stores before it ends.
    pub batches: u64,
    /// Most orders in one batch.
    pub orders_max: u64,
    /// Of a thousand orders, so many have an event of up to 20 KB.
    pub large_per_mille: u64,
}

/// What a batch stored, as its writer says it in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The boot's number.
    pub boot: u64,
    /// The first seq of its orders.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// The progress since.
    pub progress: u64,
}

/// Room that a disk of any size has; a ballast that is made, and small.
pub const ROOM: Room = Room { floor_bytes: 0, reserve_bytes: 0, ballast_bytes: 64 << 10 };

/// How the writer opens a store, and whoever looks at what it left.
pub fn options(data_dir: &Path) -> SledOptions {
    SledOptions { room: ROOM, allow_volatile: true, ..SledOptions::new(data_dir) }
}

/// The gateway whose store it is.
pub fn gateway() -> Name {
    "store-042".parse().expect("a name")
}

impl Stored {
    fn line(self) -> String {
        format!("stored {} {} {} {}\n", self.boot, self.first, self.last, self.progress)
    }

    /// Reads back what a writer said; `None` if it was something else.
    pub fn parse(line: &str) -> Option<Stored> {
        let mut words = line.strip_prefix("stored ")?.split(' ').map(str::parse);
        let mut next = || words.next()?.ok();
        Some(Stored { boot: next()?, first: next()?, last: next()?, progress: next()? })
    }
}

impl Boot {
    /// The command that stores these batches: `binary` is the rig's own.
    pub fn command(&self, binary: &Path, data_dir: &Path) -> Command {
        let mut command = Command::new(binary);
        let numbers = [self.seed, self.number, self.batches, self.orders_max, self.large_per_mille];
        command.arg("write").arg(data_dir).args(numbers.map(|n| n.to_string()));
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command
    }

    /// Reads the arguments that [`Boot::command`] makes, without the first.
    pub fn from_arguments(arguments: &[String]) -> anyhow::Result<(PathBuf, Boot)> {
        let [dir, numbers @ ..] = arguments else { bail!("no folder is named") };
        let numbers: Vec<u64> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
        let [seed, number, batches, orders_max, large_per_mille] = numbers[..] else { bail!("not five numbers") };
        Ok((PathBuf::from(dir), Boot { seed, number, batches, orders_max, large_per_mille }))
    }

    /// Stores the batches, and says each.
    ///
    /// # Errors
    /// The store cannot be opened or written.
    pub fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let (mut store, opened) = store::open_or_rescue(options(data_dir), gateway())?;
        let mut dice = Dice::for_part(self.seed, self.number);
        store.apply(&[Change::Epoch(self.epoch())])?;
        let (mut next, mut progress) = (opened.next_seq.0, opened.progress.0);
        for batch in 0..self.batches {
            let orders = 1 + if dice.chance(700) { 0 } else { dice.below(self.orders_max) };
            let last = next + orders - 1;
            if dice.chance(300) {
                progress += dice.below(next - progress);
            }
            store.apply(&self.batch(next, last, progress, batch)).with_context(|| format!("batch {batch}"))?;
            let stored = Stored { boot: self.number, first: next, last, progress };
            // One write, so that the line is heard at one moment.
            std::io::stdout().write_all(stored.line().as_bytes())?;
            next = last + 1;
            if dice.chance(20) {
                store.reopen()?;
            }
        }
        Ok(())
    }

    fn batch(&self, first: u64, last: u64, progress: u64, batch: u64) -> Vec<Change> {
        let mut changes: Vec<_> = (first..=last).flat_map(|seq| self.order(seq)).collect();
        changes.push(Change::Counters(Counters { running_ms: last, ..Counters::default() }));
        changes.push(Change::Offset(partition(self.number), i64::try_from(last + 1).unwrap_or(i64::MAX)));
        changes.push(Change::Forget { from: Seq(1), upto: Seq(progress) });
        // Things that come and go, so that pages of the database empty and its segments are used again.
        let passing = |n: u64| RequestKey { terminal: gateway(), request_id: format!("p-{}-{n}", self.number).parse().expect("an id") };
        changes.push(Change::Remember(passing(batch), remembered(first, order_id(self.number, first))));
        if batch >= 5 {
            changes.push(Change::Expire(Forgettable::Request(passing(batch - 5))));
        }
        if batch % 7 == 6 {
            let event = self.event(first);
            changes.push(Change::DeadLetter(Seq(0), DeadLetter { event, reason: "tried".into(), since_ms: 0, attempts: 1 }));
        } else if batch.is_multiple_of(7) {
            changes.push(Change::Release(Seq(0)));
        }
        changes
    }

    fn epoch(&self) -> Epoch {
        Epoch(Dice::for_part(self.seed, self.number ^ 0x00e0_0000).word())
    }

    /// All that one order stores.
    pub fn order(&self, seq: u64) -> [Change; 3] {
        let order = order_id(self.number, seq);
        let at = Moment { wall_ms: 0, run_ms: seq };
        let mut projection = Projection::new(order.clone(), |_| None, vec![], 0, at);
        projection.open = seq.is_multiple_of(20);
        [
            Change::Enqueue(Seq(seq), Arc::new(self.event(seq))),
            Change::Remember(request(self.number, seq), remembered(seq, order)),
            Change::Project(Arc::new(projection)),
        ]
    }

    /// The event that has this seq.
    pub fn event(&self, seq: u64) -> OrderEvent {
        let mut dice = Dice::for_part(self.seed ^ self.number.rotate_left(32), seq);
        let len = if dice.chance(self.large_per_mille) { 2_000 + dice.index(18_000) } else { 300 + dice.index(200) };
        OrderEvent {
            epoch: self.epoch(),
            request: request(self.number, seq),
            id: dice.word().to_le_bytes().repeat(2).try_into().expect("16 bytes"),
            event_type: EventType::Created,
            order_id: order_id(self.number, seq),
            user_id: None,
            occurred_at_ms: 1_704_110_400_000,
            clock: Clock::Synced,
            data: format!("{{\"n\":\"{}\"}}", (0..len).map(|_| char::from(b'a' + (dice.below(26) & 0x1f) as u8)).collect::<String>()),
        }
    }
}

/// Where a boot notes the seq behind its last: in the same batch as the orders, so that it tells which batch was the last.
pub fn partition(boot: u64) -> PartitionName {
    PartitionName { topic: format!("boot-{boot}"), partition: 0 }
}

/// The order with a seq of a boot.
pub fn order_id(boot: u64, seq: u64) -> OrderId {
    format!("order-{boot}-{seq}").parse().expect("an id")
}

/// The request that it came with.
pub fn request(boot: u64, seq: u64) -> RequestKey {
    let terminal = format!("till-{}", seq % 4).parse().expect("a name");
    RequestKey { terminal, request_id: format!("r-{boot}-{seq}").parse().expect("an id") }
}

fn remembered(seq: u64, order_id: OrderId) -> Remembered {
    Remembered { body_hash: [0xCD; 16], order_id, event_id: [0xAB; 16], ticket: None, seq: Seq(seq), stored_run_ms: seq }
}
