//! Values of each kind, to bytes and back. `key` names the record in errors.

use super::{damaged, key};
use crate::error::ReadError;
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, Name, Seq, Ticket};
use gateway::io::{Counters, DeadLetter, Remembered};
use gateway::journal::{Command, Mark, Sent};
use gateway::order::{Payment, Projection, Status};
use gateway::printed::Printed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format byte that every kind of record is at.
pub(crate) const RECORD_FORMAT: u8 = 1;
/// The format byte of an order of which money was given back: as the others, and behind it the text of how much.
const REFUNDED_FORMAT: u8 = 2;

/// Whose store it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub format: u16,
    pub gateway: Name,
}

impl Identity {
    pub fn encode(&self) -> Vec<u8> {
        let mut value = vec![RECORD_FORMAT];
        value.extend_from_slice(&self.format.to_be_bytes());
        value.extend_from_slice(self.gateway.as_str().as_bytes());
        value
    }

    /// The store's format alone: all that a release must understand of a newer one.
    pub fn format(value: &[u8]) -> Result<u16, ReadError> {
        match value {
            [_, high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
            _ => Err(damaged(&key::identity(), "it is too short")),
        }
    }

    pub fn decode(value: &[u8]) -> Result<Identity, ReadError> {
        let format = Identity::format(value)?;
        let name = body(&key::identity(), value)?.get(2..).and_then(|name| std::str::from_utf8(name).ok()?.parse().ok());
        Ok(Identity { format, gateway: name.ok_or_else(|| damaged(&key::identity(), "it holds no gateway name"))? })
    }
}

/// What leads an event in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuedHead {
    /// Weights of all events up to and with this one.
    pub sum: u64,
    /// This event's weight.
    pub weight: u32,
}

const QUEUED_HEAD_LEN: usize = 12;

impl QueuedHead {
    pub fn decode(key: &[u8], value: &[u8]) -> Result<QueuedHead, ReadError> {
        Ok(split_queued(key, value)?.0)
    }
}

fn split_queued<'v>(key: &[u8], value: &'v [u8]) -> Result<(QueuedHead, &'v [u8]), ReadError> {
    let body = body(key, value)?;
    let Some((head, event)) = body.split_first_chunk::<QUEUED_HEAD_LEN>() else { return Err(damaged(key, "it is too short")) };
    let (mut sum, mut weight) = ([0; 8], [0; 4]);
    sum.copy_from_slice(&head[..8]);
    weight.copy_from_slice(&head[8..]);
    Ok((QueuedHead { sum: u64::from_be_bytes(sum), weight: u32::from_be_bytes(weight) }, event))
}

pub(crate) fn encode_queued(head: QueuedHead, event: &OrderEvent) -> Vec<u8> {
    let mut bytes = [0; QUEUED_HEAD_LEN];
    bytes[..8].copy_from_slice(&head.sum.to_be_bytes());
    bytes[8..].copy_from_slice(&head.weight.to_be_bytes());
    encode(&bytes, event)
}
pub(crate) fn queued(key: &[u8], value: &[u8]) -> Result<OrderEvent, ReadError> {
    decode(key, split_queued(key, value)?.1)
}
pub(crate) fn encode_event(event: &OrderEvent) -> Vec<u8> {
    encode(&[], event)
}
pub(crate) fn event(key: &[u8], value: &[u8]) -> Result<OrderEvent, ReadError> {
    decode(key, body(key, value)?)
}
pub(crate) fn encode_dead_letter(letter: &DeadLetter) -> Vec<u8> {
    encode(&[], letter)
}
pub(crate) fn dead_letter(key: &[u8], value: &[u8]) -> Result<DeadLetter, ReadError> {
    decode(key, body(key, value)?)
}
pub(crate) fn encode_remembered(remembered: &Remembered) -> Vec<u8> {
    encode(&[], remembered)
}
pub(crate) fn remembered(key: &[u8], value: &[u8]) -> Result<Remembered, ReadError> {
    decode(key, body(key, value)?)
}
pub(crate) fn encode_projection(projection: &Projection) -> Vec<u8> {
    let mut value = encode(&[], projection);
    match &projection.refunded {
        None => value,
        Some(refunded) => {
            value[0] = REFUNDED_FORMAT;
            postcard::to_extend(refunded, value).expect("a text always serialises")
        }
    }
}
pub(crate) fn projection(key: &[u8], value: &[u8]) -> Result<Projection, ReadError> {
    match value.split_first() {
        Some((&REFUNDED_FORMAT, body)) => {
            let (projection, refunded) = decode::<(Projection, String)>(key, body)?;
            Ok(Projection { refunded: Some(refunded), ..projection })
        }
        Some(_) | None => decode(key, body(key, value)?),
    }
}
/// When an order was created, without reading the rest of it: `created_at_ms` and the fields before it, in their order.
pub(crate) fn created_at_ms(key: &[u8], value: &[u8]) -> Result<i64, ReadError> {
    type Text<'v> = Option<&'v str>;
    type Before<'v> = (&'v str, Status, Payment, Option<Ticket>, [Text<'v>; 7]);
    let body = value.strip_prefix(&[REFUNDED_FORMAT]).map_or_else(|| body(key, value), Ok)?;
    let (_, created_at_ms) = postcard::take_from_bytes::<(Before<'_>, i64)>(body).map_err(|e| damaged(key, e.to_string()))?.0;
    Ok(created_at_ms)
}
pub(crate) fn encode_printed(printed: &Printed) -> Vec<u8> {
    encode(&[], printed)
}
pub(crate) fn printed(key: &[u8], value: &[u8]) -> Result<Printed, ReadError> {
    decode(key, body(key, value)?)
}
pub(crate) fn encode_counters(counters: &Counters) -> Vec<u8> {
    encode(&[], counters)
}
pub(crate) fn counters(key: &[u8], value: &[u8]) -> Result<Counters, ReadError> {
    decode(key, body(key, value)?)
}
/// A mark as it is stored: what lies close together is told apart by small numbers.
#[derive(Serialize, Deserialize)]
struct MarkRecord {
    run_ms: u64,
    /// The first delivery's time.
    at_ms: i64,
    /// Seqs back from the mark, partition, offset, milliseconds after `at_ms`.
    sent: Vec<(u64, i32, i64, i64)>,
}

pub(crate) fn encode_mark(mark: &Mark) -> Vec<u8> {
    let at_ms = mark.sent.first().map_or(0, |first| first.at_ms);
    let near = |sent: &Sent| (mark.upto.0.saturating_sub(sent.seq.0), sent.partition, sent.offset, sent.at_ms.wrapping_sub(at_ms));
    encode(&[], &MarkRecord { run_ms: mark.run_ms, at_ms, sent: mark.sent.iter().map(near).collect() })
}
pub(crate) fn mark(key: &[u8], upto: Seq, value: &[u8]) -> Result<Mark, ReadError> {
    let MarkRecord { run_ms, at_ms, sent } = decode(key, body(key, value)?)?;
    let far = |(back, partition, offset, after_ms): (u64, i32, i64, i64)| Sent {
        seq: Seq(upto.0.saturating_sub(back)),
        partition,
        offset,
        at_ms: at_ms.wrapping_add(after_ms),
    };
    Ok(Mark { upto, run_ms, sent: sent.into_iter().map(far).collect() })
}
pub(crate) fn encode_command(command: &Command) -> Vec<u8> {
    encode(&[], command)
}
pub(crate) fn command(key: &[u8], value: &[u8]) -> Result<Command, ReadError> {
    decode(key, body(key, value)?)
}
pub(crate) fn encode_probe() -> Vec<u8> {
    vec![RECORD_FORMAT]
}
pub(crate) fn encode_seq(seq: Seq) -> Vec<u8> {
    encode_numbers(&[seq.0])
}
pub(crate) fn seq(key: &[u8], value: &[u8]) -> Result<Seq, ReadError> {
    numbers(key, value).map(|[seq]| Seq(seq))
}
pub(crate) fn encode_epoch(epoch: Epoch, first: Seq) -> Vec<u8> {
    encode_numbers(&[epoch.0, first.0])
}
/// An epoch and the first seq that could be given under it.
pub(crate) fn epoch(key: &[u8], value: &[u8]) -> Result<(Epoch, Seq), ReadError> {
    numbers(key, value).map(|[epoch, first]| (Epoch(epoch), Seq(first)))
}
pub(crate) fn encode_offset(offset: i64) -> Vec<u8> {
    encode_numbers(&[offset.cast_unsigned()])
}
pub(crate) fn offset(key: &[u8], value: &[u8]) -> Result<i64, ReadError> {
    numbers(key, value).map(|[offset]| offset.cast_signed())
}
pub(crate) fn encode_session(number: u64, opened: u64) -> Vec<u8> {
    encode_numbers(&[number, opened])
}
/// The highest stored number, and the session's place among its terminal's.
pub(crate) fn session(key: &[u8], value: &[u8]) -> Result<(u64, u64), ReadError> {
    numbers(key, value).map(|[number, opened]| (number, opened))
}

fn encode<T: Serialize>(head: &[u8], record: &T) -> Vec<u8> {
    let mut value = Vec::with_capacity(256 + head.len());
    value.push(RECORD_FORMAT);
    value.extend_from_slice(head);
    // The record's types have no map without a length, no float and no foreign `Serialize`, and memory grows as needed.
    postcard::to_extend(record, value).expect("plain structs always serialise")
}

/// The bytes behind the format byte.
fn body<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], ReadError> {
    match value.split_first() {
        Some((&RECORD_FORMAT, body)) => Ok(body),
        Some((format, _)) => Err(damaged(key, format!("its format {format} is not known"))),
        None => Err(damaged(key, "it is empty")),
    }
}

fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, ReadError> {
    match postcard::take_from_bytes(bytes) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(damaged(key, format!("{} bytes too many", rest.len()))),
        Err(e) => Err(damaged(key, e.to_string())),
    }
}

fn numbers<const N: usize>(key: &[u8], value: &[u8]) -> Result<[u64; N], ReadError> {
    let body = body(key, value)?;
    if body.len() != 8 * N {
        return Err(damaged(key, format!("{} bytes instead of {}", body.len() + 1, 8 * N + 1)));
    }
    Ok(std::array::from_fn(|i| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&body[8 * i..8 * i + 8]);
        u64::from_be_bytes(bytes)
    }))
}

fn encode_numbers(numbers: &[u64]) -> Vec<u8> {
    let mut value = vec![RECORD_FORMAT];
    numbers.iter().for_each(|n| value.extend_from_slice(&n.to_be_bytes()));
    value
}
