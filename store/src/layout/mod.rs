//! Keys and values: what every byte on the disk means.
//!
//! One ordered map holds everything, because a batch is atomic only within one. A key begins with a letter for its kind; numbers in
//! keys are big-endian, so that their order is that of the numbers; names end in a zero byte, which no name contains, so that none is
//! the beginning of another's key.
//!
//! ```text
//! key                                        value (after its format byte)
//! A                                          identity: format u16, gateway name
//! B                                          nothing: written at each opening, to see that a sync is one
//! C                                          postcard Counters
//! D seq:8                                    postcard DeadLetter
//! E ordinal:8                                epoch:8 first:8: seqs from there on were given under it; 0: elsewhere
//! H dead:8 seq:8                             postcard OrderEvent: held behind that dead letter
//! I seq:8                                    dead:8: finds a held event by its own seq
//! J upto:8                                   postcard: where the events above the mark before and up to this one went; see `value`
//! K ordinal:8                                postcard Command: what a person did
//! L first:8                                  last:8: these seqs were lost with a damaged store; the outbox has a gap there
//! M epoch:8 first:8                          last:8: these seqs were imported
//! N printer 00 order                         postcard Printed: what a printer has of an order; without one: the printer is known
//! P                                          progress:8: all at or below it is accounted for
//! Q seq:8                                    sum:8 weight:4 postcard OrderEvent: the outbox; at or below the progress, the journal
//! R terminal 00 request                      postcard Remembered
//! S terminal 00 session:8                    number:8 opened:8
//! T partition:4 topic                        offset:8: the next one to read
//! W order                                    postcard Projection: on the board
//! Z order                                    postcard Projection: closed; of both, format 2: and then the text of what was refunded
//! ```
//!
//! A value's first byte is the format of its kind. A record grows by a new format byte: the new release goes on reading the old one,
//! and writes it until `store upgrade`, so that the release before can be installed again. A format byte from the future is an error,
//! never a guess.
//!
//! `sum` counts the weights of all events up to and with this one, so that the bytes that are queued are known from the first and the
//! last record, without a walk along the outbox:
//!
//! ```text
//!  0   1               9           13
//! +---+---------------+-----------+------------------------------+
//! | 1 | sum, u64 BE   | weight    | postcard OrderEvent          |   Q
//! +---+---------------+-----------+------------------------------+
//! ```
//!
//! Golden tests pin these bytes (src/tests/golden_bytes.rs). They are never edited: a new format gets new ones.

use crate::error::ReadError;

pub(crate) mod key;
pub(crate) mod value;

pub(crate) use key::{Kind, Range};
pub(crate) use value::{Identity, QueuedHead};

/// The newest format of a whole store that this release reads, and the one that it writes.
pub(crate) const FORMAT: u16 = 1;

/// The error for a record that this program did not write like this.
pub(crate) fn damaged(key: &[u8], reason: impl Into<String>) -> ReadError {
    ReadError::Damaged { key: key.escape_ascii().to_string(), reason: reason.into() }
}
