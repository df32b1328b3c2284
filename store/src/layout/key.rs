//! Keys, and ranges of keys.

use super::damaged;
use crate::error::ReadError;
use gateway::ids::{Epoch, Name, OrderId, RequestId, RequestKey, Seq, SessionId};
use gateway::io::{Forgettable, PartitionName};
use gateway::printed::PrintKey;

const IDENTITY: u8 = b'A';
const PROBE: u8 = b'B';
const COUNTERS: u8 = b'C';
const DEAD: u8 = b'D';
const EPOCH: u8 = b'E';
const HELD: u8 = b'H';
const HELD_BY_SEQ: u8 = b'I';
const DELIVERED: u8 = b'J';
const COMMAND: u8 = b'K';
const LOST: u8 = b'L';
const IMPORTED: u8 = b'M';
const PRINTED: u8 = b'N';
const PROGRESS: u8 = b'P';
const QUEUE: u8 = b'Q';
const REQUEST: u8 = b'R';
const SESSION: u8 = b'S';
const OFFSET: u8 = b'T';
const OPEN_ORDER: u8 = b'W';
const CLOSED_ORDER: u8 = b'Z';

/// Half-open ranges of keys of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
}

impl Range {
    fn of(kind: u8) -> Range {
        Range { from: vec![kind], to: vec![kind + 1] }
    }

    fn under(prefix: Vec<u8>) -> Range {
        let mut to = prefix.clone();
        // A byte that cannot be counted up carries into the one before it; the kind's letter always can.
        while let Some(last) = to.pop() {
            if last < u8::MAX {
                to.push(last + 1);
                break;
            }
        }
        Range { from: prefix, to }
    }

    /// The same range, begun later.
    pub fn from(mut self, key: Vec<u8>) -> Range {
        self.from = key;
        self
    }

    /// The same range behind a key of it.
    pub fn after(mut self, mut key: Vec<u8>) -> Range {
        key.push(0);
        self.from = key;
        self
    }
}

fn numbered(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 8 * numbers.len());
    key.push(kind);
    numbers.iter().for_each(|n| key.extend_from_slice(&n.to_be_bytes()));
    key
}

fn named(kind: u8, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name.as_bytes());
    key
}

fn of_terminal(kind: u8, terminal: &Name, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + terminal.as_str().len() + rest.len());
    key.push(kind);
    key.extend_from_slice(terminal.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(rest);
    key
}

pub(crate) fn identity() -> Vec<u8> {
    vec![IDENTITY]
}
pub(crate) fn probe() -> Vec<u8> {
    vec![PROBE]
}
pub(crate) fn counters() -> Vec<u8> {
    vec![COUNTERS]
}
pub(crate) fn progress() -> Vec<u8> {
    vec![PROGRESS]
}
pub(crate) fn queued(seq: Seq) -> Vec<u8> {
    numbered(QUEUE, &[seq.0])
}
pub(crate) fn dead(seq: Seq) -> Vec<u8> {
    numbered(DEAD, &[seq.0])
}
pub(crate) fn held(dead: Seq, seq: Seq) -> Vec<u8> {
    numbered(HELD, &[dead.0, seq.0])
}
pub(crate) fn held_by_seq(seq: Seq) -> Vec<u8> {
    numbered(HELD_BY_SEQ, &[seq.0])
}
pub(crate) fn epoch(ordinal: u64) -> Vec<u8> {
    numbered(EPOCH, &[ordinal])
}
pub(crate) fn imported(epoch: Epoch, first: Seq) -> Vec<u8> {
    numbered(IMPORTED, &[epoch.0, first.0])
}
pub(crate) fn delivered(upto: Seq) -> Vec<u8> {
    numbered(DELIVERED, &[upto.0])
}
pub(crate) fn command(ordinal: u64) -> Vec<u8> {
    numbered(COMMAND, &[ordinal])
}
pub(crate) fn lost(first: Seq) -> Vec<u8> {
    numbered(LOST, &[first.0])
}
pub(crate) fn request(request: &RequestKey) -> Vec<u8> {
    of_terminal(REQUEST, &request.terminal, request.request_id.as_str().as_bytes())
}
pub(crate) fn session(terminal: &Name, session: SessionId) -> Vec<u8> {
    of_terminal(SESSION, terminal, &session.0.to_be_bytes())
}
pub(crate) fn offset(at: &PartitionName) -> Vec<u8> {
    let mut key = vec![OFFSET];
    key.extend_from_slice(&at.partition.to_be_bytes());
    key.extend_from_slice(at.topic.as_bytes());
    key
}
pub(crate) fn open_order(order: &OrderId) -> Vec<u8> {
    named(OPEN_ORDER, order.as_str())
}
pub(crate) fn closed_order(order: &OrderId) -> Vec<u8> {
    named(CLOSED_ORDER, order.as_str())
}
pub(crate) fn printed(key: &PrintKey) -> Vec<u8> {
    of_terminal(PRINTED, &key.printer, key.order.as_ref().map_or(&[], |order| order.as_str().as_bytes()))
}
pub(crate) fn forgettable(what: &Forgettable) -> Vec<u8> {
    match what {
        Forgettable::Request(request) => self::request(request),
        Forgettable::Order(order) | Forgettable::Details(order) => closed_order(order),
        Forgettable::Print(key) => printed(key),
    }
}

pub(crate) fn all() -> Range {
    Range { from: vec![], to: vec![u8::MAX] }
}
pub(crate) fn all_queued() -> Range {
    Range::of(QUEUE)
}
pub(crate) fn all_dead() -> Range {
    Range::of(DEAD)
}
pub(crate) fn all_held() -> Range {
    Range::of(HELD)
}
pub(crate) fn held_behind(dead: Seq) -> Range {
    Range::under(numbered(HELD, &[dead.0]))
}
pub(crate) fn all_imported() -> Range {
    Range::of(IMPORTED)
}
pub(crate) fn all_delivered() -> Range {
    Range::of(DELIVERED)
}
pub(crate) fn all_commands() -> Range {
    Range::of(COMMAND)
}
pub(crate) fn all_lost() -> Range {
    Range::of(LOST)
}
pub(crate) fn all_epochs() -> Range {
    Range::of(EPOCH)
}
pub(crate) fn all_requests() -> Range {
    Range::of(REQUEST)
}
pub(crate) fn sessions_of(terminal: &Name) -> Range {
    Range::under(of_terminal(SESSION, terminal, &[]))
}
pub(crate) fn all_printed() -> Range {
    Range::of(PRINTED)
}
pub(crate) fn printed_by(printer: &Name) -> Range {
    Range::under(of_terminal(PRINTED, printer, &[]))
}
pub(crate) fn all_offsets() -> Range {
    Range::of(OFFSET)
}
pub(crate) fn all_open_orders() -> Range {
    Range::of(OPEN_ORDER)
}
pub(crate) fn all_closed_orders() -> Range {
    Range::of(CLOSED_ORDER)
}

/// What a key stands for, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Identity,
    Probe,
    Counters,
    Dead(Seq),
    Epoch(u64),
    Held(Seq, Seq),
    HeldBySeq(Seq),
    Delivered(Seq),
    Command(u64),
    Lost(Seq),
    Imported(Epoch, Seq),
    Printed(PrintKey),
    Progress,
    Queued(Seq),
    Request(RequestKey),
    Session(Name, SessionId),
    Offset(PartitionName),
    OpenOrder(OrderId),
    ClosedOrder(OrderId),
}

impl Kind {
    /// What `key` stands for.
    pub fn read(key: &[u8]) -> Result<Kind, ReadError> {
        Kind::try_read(key).ok_or_else(|| damaged(key, "no record has such a key"))
    }

    fn try_read(key: &[u8]) -> Option<Kind> {
        let (&kind, rest) = key.split_first()?;
        Some(match kind {
            IDENTITY if rest.is_empty() => Kind::Identity,
            PROBE if rest.is_empty() => Kind::Probe,
            COUNTERS if rest.is_empty() => Kind::Counters,
            PROGRESS if rest.is_empty() => Kind::Progress,
            DEAD => Kind::Dead(Seq(number(rest)?)),
            EPOCH => Kind::Epoch(number(rest)?),
            HELD => {
                let (dead, seq) = two_numbers(rest)?;
                Kind::Held(Seq(dead), Seq(seq))
            }
            HELD_BY_SEQ => Kind::HeldBySeq(Seq(number(rest)?)),
            DELIVERED => Kind::Delivered(Seq(number(rest)?)),
            COMMAND => Kind::Command(number(rest)?),
            LOST => Kind::Lost(Seq(number(rest)?)),
            IMPORTED => {
                let (epoch, first) = two_numbers(rest)?;
                Kind::Imported(Epoch(epoch), Seq(first))
            }
            PRINTED => {
                let (printer, order) = terminal_and_rest(rest)?;
                let order = if order.is_empty() { None } else { Some(text(order)?.parse().ok()?) };
                Kind::Printed(PrintKey { printer, order })
            }
            QUEUE => Kind::Queued(Seq(number(rest)?)),
            REQUEST => {
                let (terminal, id) = terminal_and_rest(rest)?;
                let request_id: RequestId = std::str::from_utf8(id).ok()?.parse().ok()?;
                Kind::Request(RequestKey { terminal, request_id })
            }
            SESSION => {
                let (terminal, id) = terminal_and_rest(rest)?;
                Kind::Session(terminal, SessionId(number(id)?))
            }
            OFFSET => {
                let (partition, topic) = rest.split_first_chunk::<4>()?;
                Kind::Offset(PartitionName { topic: text(topic)?, partition: i32::from_be_bytes(*partition) })
            }
            OPEN_ORDER => Kind::OpenOrder(text(rest)?.parse().ok()?),
            CLOSED_ORDER => Kind::ClosedOrder(text(rest)?.parse().ok()?),
            _ => return None,
        })
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn two_numbers(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = bytes.split_at_checked(8)?;
    Some((number(first)?, number(second)?))
}

fn terminal_and_rest(bytes: &[u8]) -> Option<(Name, &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    Some((text(&bytes[..end])?.parse().ok()?, &bytes[end + 1..]))
}
