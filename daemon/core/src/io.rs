//! What goes into the core and what comes out of it: closed sets, matched without `_`.

use crate::board::Board;
use crate::event::OrderEvent;
use crate::ids::{CommitId, Epoch, LoadId, Name, OrderId, ProducerId, ReplyTo, RequestKey, Seq, SessionId};
use crate::journal::{Command, Deed, Mark};
use crate::order::Projection;
use crate::printed::{PrintKey, Printed};
use crate::rebuild::Recall;
use crate::request::{Answer, Request};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A request as it came in, with who submitted it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The terminal, as the ingress knows it: from the topic, the port or the token, never from the payload.
    pub terminal: Name,
    /// The parsed request.
    pub request: Request,
    /// Set by serial links in binary framing.
    pub session: Option<SessionMark>,
    /// The terminal cannot know whether an earlier try was stored: stored all the same, and shown to people.
    pub maybe_stored: bool,
}

/// A submission's place in its serial session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionMark {
    /// The session.
    pub session: SessionId,
    /// The submission's number in it, from 1.
    pub number: u64,
}

/// What happened outside.
#[derive(Debug)]
pub enum Input {
    /// A terminal submitted a request. Exactly one [`Output::Answer`] with the same `reply_to` follows, sooner or later.
    Submit {
        /// Whom to answer.
        reply_to: ReplyTo,
        /// The request.
        submission: Submission,
    },
    /// A look-up was answered.
    Loaded {
        /// Which look-up.
        load: LoadId,
        /// What the store holds.
        found: Found,
    },
    /// A look-up failed: nothing is known. The core asks for a reopen.
    LoadFailed {
        /// Which look-up.
        load: LoadId,
    },
    /// A commit is durable: its disk sync returned.
    Stored {
        /// Which commit.
        commit: CommitId,
    },
    /// A commit failed.
    StoreFailed {
        /// Which commit.
        commit: CommitId,
        /// What is known about it.
        failure: CommitFailure,
    },
    /// The store was opened again after [`Output::Reopen`]; look-ups and commits from before it are never answered any more.
    Reopened(Box<Opened>),
    /// The store could not be opened again; the core asks anew after a backoff.
    ReopenFailed,
    /// The queue's head was read.
    Head {
        /// Events in seq order, without gaps, beginning at the seq that was asked for.
        events: Vec<(Seq, Arc<OrderEvent>)>,
    },
    /// Reading the queue's head failed. The core asks for a reopen.
    HeadFailed,
    /// The producer reports on an event.
    Delivered {
        /// Which handle reports.
        producer: ProducerId,
        /// Which event.
        seq: Seq,
        /// What became of it.
        outcome: Delivery,
    },
    /// The handle that [`Output::NewProducer`] asked for is there; the older one is gone with all that it held.
    ProducerReady {
        /// The new handle.
        producer: ProducerId,
        /// Kafka has all up to it; `None` if Kafka was not asked.
        delivered: Option<Seq>,
    },
    /// The handle could not be made; the core asks anew after a backoff.
    ProducerFailed {
        /// The handle that was asked for.
        producer: ProducerId,
        /// What kind of failure.
        class: FailureClass,
        /// For people.
        reason: String,
    },
    /// A record arrived on a status topic.
    Status(Record),
    /// A new store's own events are read back from Kafka; only after [`Opened::to_rebuild`].
    Recall(Recall),
    /// Answer to [`Output::Sweep`].
    Swept {
        /// What is to be forgotten of remembered requests and closed orders.
        expired: Vec<Forgettable>,
        /// Where the next sweep begins; `None` begins anew.
        next: Option<Forgettable>,
    },
    /// A serial terminal asks for a new session; answered by [`Output::SessionOpened`] once it is durable.
    OpenSession {
        /// Whom to answer.
        reply_to: ReplyTo,
        /// The terminal.
        terminal: Name,
        /// The random id that the shell drew for it.
        session: SessionId,
    },
    /// A person decided about a dead letter; answered by [`Output::Decided`] once it is durable or refused.
    Decide {
        /// Whom to answer.
        reply_to: ReplyTo,
        /// The dead letter.
        dead: Seq,
        /// What to do with it.
        decision: Decision,
        /// Who wants it.
        by: String,
    },
    /// A person gave a command that has to be written down before it is carried out; answered by [`Output::Decided`].
    Command {
        /// Whom to answer.
        reply_to: ReplyTo,
        /// Who gave it.
        by: String,
        /// What it is.
        deed: Deed,
    },
    /// What printers have of orders is to be written down; answered by [`Output::Decided`].
    Print {
        /// Whom to answer.
        reply_to: ReplyTo,
        /// At most [`crate::printed::MARKS_MAX`].
        marks: Vec<(PrintKey, Printed)>,
    },
    /// The dead letter topic has all that is kept up to there. Told once at the start if there is such a topic: what it does not have is
    /// not decided about.
    Told {
        /// All at or below it.
        upto: Seq,
        /// Under which name to remember it, if it is to be.
        at: Option<PartitionName>,
    },
    /// The gateway is about to end: what is due some time is due now. [`crate::Gateway::is_settled`] says when nothing is left to write.
    Stopping,
    /// Nothing but time passed.
    Tick,
}

/// What to do outside.
#[derive(Debug)]
pub enum Output {
    /// Look a request, its order and its session up; answered by [`Input::Loaded`] or [`Input::LoadFailed`].
    Load {
        /// Name of the look-up.
        load: LoadId,
        /// What to look up.
        wanted: Wanted,
    },
    /// Commit a batch, all or nothing, and sync; answered by [`Input::Stored`] or [`Input::StoreFailed`]. One at a time.
    Store {
        /// Name of the commit.
        commit: CommitId,
        /// What changes, in order.
        batch: Vec<Change>,
    },
    /// Drop the store and open it again; answered by [`Input::Reopened`] or [`Input::ReopenFailed`].
    Reopen,
    /// Answer a request.
    Answer {
        /// Who waits for it.
        reply_to: ReplyTo,
        /// The answer.
        answer: Answer,
    },
    /// A session is durable and may be told to the terminal, or could not be stored.
    SessionOpened {
        /// Who waits for it.
        reply_to: ReplyTo,
        /// Whether it is durable.
        durable: bool,
    },
    /// What became of a person's decision about a dead letter, or of another command.
    Decided {
        /// Who waits for it.
        reply_to: ReplyTo,
        /// What became of it.
        outcome: Decided,
    },
    /// Read the queue from `from` on; answered by [`Input::Head`] or [`Input::HeadFailed`]. One at a time.
    Read {
        /// The first seq wanted.
        from: Seq,
        /// At most so many events.
        events_max: usize,
        /// At most about so many bytes, but at least one event.
        bytes_max: usize,
    },
    /// Hand an event to the producer; answered by [`Input::Delivered`] unless the handle is replaced first.
    Deliver {
        /// The handle that it is for.
        producer: ProducerId,
        /// Its position.
        seq: Seq,
        /// The event.
        event: Arc<OrderEvent>,
    },
    /// Drop the producer with all that it holds and make a new one; answered by [`Input::ProducerReady`] or [`Input::ProducerFailed`].
    NewProducer {
        /// The new handle's name.
        producer: ProducerId,
    },
    /// Orders changed, durably: show them.
    Show(Vec<Arc<Projection>>),
    /// The board changed, durably.
    ShowBoard(Arc<Board>),
    /// Look for what is older than it must be remembered; answered by [`Input::Swept`].
    Sweep {
        /// Where to begin.
        from: Option<Forgettable>,
        /// How many keys to look at.
        keys_max: usize,
        /// What is old enough.
        old: Old,
    },
    /// Something that an operator wants to know.
    Notice(Notice),
}

/// What a person wants done with a dead letter. What is held behind it goes on either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is appended again, with a new seq.
    Retry,
    /// It is given up.
    Discard,
}

/// What became of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// It is durable.
    Done {
        /// Events that were appended again: a retried one, and what was held.
        appended: u64,
    },
    /// There is no such dead letter.
    Unknown,
    /// Too much is to be decided, or the outbox did not drain within [`crate::DECISION_WAITS_MS`]: to be tried again.
    Busy,
    /// The disk has no room.
    Full,
}

/// What one look-up asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// A remembered request.
    pub request: Option<RequestKey>,
    /// An order.
    pub order: Option<OrderId>,
    /// A serial session.
    pub session: Option<(Name, SessionId)>,
    /// A dead letter, with the first of what is held behind it.
    pub dead_letter: Option<Seq>,
}

/// Events held behind a dead letter that one look-up gives.
pub const HELD_READ_MAX: usize = 128;

/// A dead letter, and what is held behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Buried {
    /// The dead letter; `None` once it is decided about and what was held goes on.
    pub letter: Option<DeadLetter>,
    /// The first events that are held behind it, in their order: at most [`HELD_READ_MAX`].
    pub held: Vec<(Seq, Arc<OrderEvent>)>,
    /// There are more of them.
    pub more: bool,
}

/// What a look-up found: each part is `None` where nothing was asked or nothing is there.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The remembered request.
    pub request: Option<Remembered>,
    /// The order.
    pub order: Option<Projection>,
    /// The session's highest stored number.
    pub session: Option<u64>,
    /// The dead letter and what is held behind it.
    pub dead_letter: Option<Buried>,
}

/// In place of a hash, of a request that was read back from Kafka: whatever comes under its id counts as its repeat.
pub const BODY_UNKNOWN: [u8; 16] = [0; 16];

/// What is kept of a request: enough to give the first answer again and to see a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Hash of the parsed request, or [`BODY_UNKNOWN`].
    pub body_hash: [u8; 16],
    /// The order that it was about.
    pub order_id: OrderId,
    /// The event's id, a UUID.
    pub event_id: [u8; 16],
    /// The ticket that was given, if one was.
    pub ticket: Option<u32>,
    /// The event's first position.
    pub seq: Seq,
    /// Running time at admission, for expiry.
    pub stored_run_ms: u64,
}

/// What a failed commit left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFailure {
    /// Nothing was written, the store is as it was: the disk has no room.
    NoSpace,
    /// It may or may not have happened, and only a reopened store knows.
    Unclear,
}

/// One change of a batch. Later ones of the same key win.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Append an event. Seqs are contiguous from batch to batch.
    Enqueue(Seq, Arc<OrderEvent>),
    /// Remember a request.
    Remember(RequestKey, Remembered),
    /// Write an order; `open` ones are loaded at start and stand on the board.
    Project(Arc<Projection>),
    /// Write the counters.
    Counters(Counters),
    /// The next offset to read of a status topic.
    Offset(PartitionName, i64),
    /// Remove the events `from..=upto` and remember that all up to `upto` is accounted for.
    Forget {
        /// The first event to remove.
        from: Seq,
        /// The last, and the progress.
        upto: Seq,
    },
    /// Journal where the events went that this batch forgets.
    Journal(Mark),
    /// Journal what a person did.
    Command(Command),
    /// What a printer has of an order.
    Print(PrintKey, Printed),
    /// Keep an event that Kafka can never take.
    DeadLetter(Seq, DeadLetter),
    /// Keep an event behind its key's dead letter.
    Hold(Seq, HeldBehind, Arc<OrderEvent>),
    /// Remove a dead letter or a held event.
    Release(Seq),
    /// A serial session's highest stored number.
    Session(Name, SessionId, u64),
    /// An epoch of this store.
    Epoch(Epoch),
    /// An epoch of the store that this one takes the place of.
    FormerEpoch(Epoch),
    /// Remove what has expired.
    Expire(Forgettable),
}

/// The seq of the dead letter that an event is held behind.
pub type HeldBehind = Seq;

/// A thing that is forgotten after a running time. The order of variants is the order of sweeping.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forgettable {
    /// A remembered request, after `store.remember_days`.
    Request(RequestKey),
    /// An order that left the board, after `store.remember_days`.
    Order(OrderId),
    /// What a customer ordered and who that was, of an order that left the board, after `store.forget_orders_hours`.
    Details(OrderId),
    /// What a printer has of an order whose details are forgotten.
    Print(PrintKey),
}

/// The running times at or before which something was last changed that is to be forgotten now. `None`: nothing is so old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Old {
    /// Of requests and orders, after `store.remember_days`.
    pub expired_ms: Option<u64>,
    /// Of an order's details, after `store.forget_orders_hours`.
    pub details_ms: Option<u64>,
}

/// A topic's partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionName {
    /// The topic.
    pub topic: String,
    /// The partition, from 0.
    pub partition: i32,
}

/// Small state that changes with nearly every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// The last ticket given, 0 before the first.
    pub last_ticket: u32,
    /// The business day that it was given on.
    pub business_day: i32,
    /// Milliseconds that this store has been running for, over all starts.
    pub running_ms: u64,
    /// The wall time as it was last known: what happens while the clock is unknown is dated so.
    pub last_wall_ms: i64,
}

/// An event that Kafka can never take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The event.
    pub event: OrderEvent,
    /// Why.
    pub reason: String,
    /// When, in Unix milliseconds.
    pub since_ms: i64,
    /// How often it was tried.
    pub attempts: u32,
}

/// What a freshly opened store holds, as far as the core keeps it in memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Opened {
    /// The next seq to give: above every seq ever given.
    pub next_seq: Seq,
    /// All at or below it is accounted for.
    pub progress: Seq,
    /// Bytes of the queued events, as stored.
    pub queued_bytes: u64,
    /// The counters.
    pub counters: Counters,
    /// The open orders.
    pub open: Vec<Projection>,
    /// No event was ever admitted into it.
    pub is_new: bool,
    /// Every epoch of this store, and of those before it that it knows.
    pub epochs: Vec<Epoch>,
    /// Next offsets of the status topics.
    pub offsets: Vec<(PartitionName, i64)>,
    /// Seq and order of each dead letter.
    pub dead: Vec<(Seq, OrderId)>,
    /// Dead letters that are decided about, with their orders, and behind which there still are held events.
    pub releasing: Vec<(Seq, OrderId)>,
    /// Dead letters behind which there are held events.
    pub holding: Vec<Seq>,
    /// Held events above the progress.
    pub held: Vec<Seq>,
    /// All dead letters and held events.
    pub kept: Kept,
}

/// How much is kept beside the outbox: dead letters and held events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Events.
    pub events: u64,
    /// Their weight.
    pub bytes: u64,
}

impl Kept {
    /// One more.
    pub fn add(&mut self, event: &OrderEvent) {
        self.events += 1;
        self.bytes += event.weight() as u64;
    }

    /// One less.
    pub fn remove(&mut self, event: &OrderEvent) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(event.weight() as u64);
    }
}

/// A record from a status topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it was read.
    pub at: PartitionName,
    /// Its offset.
    pub offset: i64,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The header `gateway-id`.
    pub gateway_id: Option<String>,
    /// The header `gateway-epoch`.
    pub gateway_epoch: Option<Epoch>,
    /// How this topic's records are told apart from those of other houses.
    pub select: Select,
}

/// How a gateway finds its own events in a status topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// Every partition is read; what concerns this house counts.
    All,
    /// The topic is keyed by gateway id; records with another key do not count.
    Partition,
    /// The topic is this gateway's own.
    Topic,
}

/// What became of an event at the producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Kafka acknowledged it.
    Acknowledged {
        /// The partition that it is in.
        partition: i32,
        /// Its offset there.
        offset: i64,
    },
    /// It came back. What to do is the class's.
    Failed {
        /// What kind of failure.
        class: FailureClass,
        /// For people.
        reason: String,
    },
}

/// What a Kafka error means for the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// Back off, keep the order, try again from the first unacknowledged event with a new producer.
    Hold,
    /// This event or one of its batch can never be taken: tried alone, and a dead letter if it fails alone.
    ThisEvent,
    /// The handle is of no use any more: a new one at once.
    Recreate,
    /// A person is needed: tried again rarely, and said loudly.
    Person,
}

/// Something that an operator wants to know. Also counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A commit's outcome is unclear; the store is being opened again.
    StoreUnclear,
    /// The store works again.
    StoreBack,
    /// Requests are refused: the outbox or the disk is full.
    Full,
    /// Requests are taken again.
    Accepting,
    /// The uplink failed and waits.
    UplinkHeld {
        /// For how long.
        backoff_ms: u64,
        /// The first failure's reason.
        reason: String,
    },
    /// The uplink delivers again.
    UplinkBack,
    /// An event became a dead letter.
    DeadLettered {
        /// Which.
        seq: Seq,
        /// Why.
        reason: String,
    },
    /// A person's decision about a dead letter is durable.
    Decided {
        /// Which.
        dead: Seq,
        /// What; `None` if it was made before the last start.
        decision: Option<Decision>,
        /// Events that were appended again.
        appended: u64,
    },
    /// A record could not be read and was passed over.
    PoisonStatus {
        /// Where.
        at: PartitionName,
        /// Its offset.
        offset: i64,
        /// Why.
        reason: String,
    },
    /// A record with our gateway id and an epoch that this store does not know: another gateway has our identity.
    ForeignEpoch(Epoch),
    /// A new store is what its own events in Kafka say.
    Rebuilt {
        /// Requests that it remembers again.
        recalled: u64,
    },
    /// A new store takes requests before its own events were read back: what it admits is marked.
    NotRebuilt,
    /// A request was stored before the store was new, and once more before that was read back.
    StoredTwice(RequestKey),
}
