//! The serial line between a terminal and a gateway: its wire format and the link state machines of both ends.
//!
//! [`GatewayLink`] and [`TerminalLink`] do no I/O, read no clock and allocate nothing: bytes and the time go in, frames and events come
//! out. Between them they promise, over a line that loses and garbles bytes and through restarts of either end at any moment:
//! - every submission that the terminal keeps is answered, and its number is handed to the gateway's core under one request id;
//! - the gateway hands the submissions of a session to its core in number order, one at a time, and none after a rejected one before
//!   the terminal has confirmed that it knows of the rejection. So a number at or below the session's durable mark that the terminal
//!   still waits for was stored, never rejected.
//!
//! They never promise that an answer is heard without the terminal asking again after its own restart: what a terminal must keep is
//! written in `docs/protocol.md`, which is also the wire format's description for people who do not read this crate.
//!
//! Nothing here panics, and nothing grows: each buffer is an array with a named bound.

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable
)]

mod frame;
mod gateway;
mod message;
mod terminal;

pub use frame::{Decoder, Frame, FrameError, TooLong, decode, encode};
pub use gateway::{Counters, GatewayEvent, GatewayLink, GatewaySettings, Lookup, PushBusy, SessionFound};
pub use message::{
    Answer, BoardPiece, Code, Column, Fragment, Hello, Payment, Position, Refusal, Refused, Resume, Status, StatusPush, ToGateway,
    ToTerminal, Wants, Welcome,
};
pub use terminal::{Kept, TerminalEvent, TerminalLink};

use core::fmt::Write;

/// Version of the protocol. Another one is refused.
pub const VERSION: u8 = 1;
/// What was added to [`VERSION`] without breaking it. Both ends say only what the lower of the two knows.
pub const MINOR: u8 = 0;

/// Longest terminal name, in bytes.
pub const NAME_LEN_MAX: usize = 48;
/// Largest request, in bytes of JSON.
pub const REQUEST_BYTES_MAX: usize = REQUEST_BYTES_MAX_TOLD as usize;
const REQUEST_BYTES_MAX_TOLD: u16 = 16 * 1024;
/// Largest message, in bytes: with its CRC it stays below 254 bytes, so that COBS adds one byte and never a second block.
pub const MESSAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX_TOLD as usize;
const MESSAGE_BYTES_MAX_TOLD: u16 = 248;
/// Bytes of the CRC after a message.
pub const CRC_BYTES: usize = 4;
/// Largest frame, in bytes: the COBS byte, a message, its CRC, the ending 0x00, and one 0x00 in front after a silence.
pub const FRAME_BYTES_MAX: usize = 1 + MESSAGE_BYTES_MAX + CRC_BYTES + 1 + 1;
/// Most bytes of a request in one fragment.
pub const FRAGMENT_BYTES_MAX: usize = 224;
/// Longest order id, in bytes.
pub const ORDER_ID_LEN_MAX: usize = 128;
/// Longest text of a rejection, in bytes; a longer one is cut.
pub const REASON_LEN_MAX: usize = 128;
/// Longest number that people call out, in bytes; a longer one is cut.
pub const DISPLAY_LEN_MAX: usize = 32;
/// Most bytes of numbers in one board piece.
pub const BOARD_BYTES_MAX: usize = 224;

/// Submissions without a confirmed answer that this gateway takes: one with the core, one behind it.
pub const WINDOW: u8 = 2;
/// Most fragments without a receipt that a terminal may be granted.
pub const FLIGHT_MAX: u8 = 16;

/// How often a terminal pings.
pub const PING_MS: u32 = 5_000;
/// A peer that was not heard for so long is gone.
pub const DEAD_MS: u32 = 15_000;
/// First wait before something unacknowledged is sent again; it doubles up to [`RESEND_MAX_MS`].
pub const RESEND_MS: u32 = 1_000;
/// Longest wait before something unacknowledged is sent again.
pub const RESEND_MAX_MS: u32 = 5_000;
/// Least time between two reports of the same gap, and between two calls for a hello.
pub const GAP_MS: u32 = 250;
/// After so long a silence a frame begins with an extra 0x00, which ends whatever noise the idle line put into the receiver.
pub const SILENCE_MS: u32 = 100;

/// Longest text of [`request_id`]: `s`, 16 hex digits, `-`, 20 decimal digits.
pub const REQUEST_ID_LEN_MAX: usize = 38;

/// The request id of a submission, the same at both ends: `s<session, 16 lower-case hex digits>-<number, decimal>`.
pub fn request_id(session: u64, number: u64) -> heapless::String<REQUEST_ID_LEN_MAX> {
    let mut id = heapless::String::new();
    // It cannot fail: the capacity is the longest text there is.
    let _ = write!(id, "s{session:016x}-{number}");
    id
}

/// What most messages carry of a session's id: its low 32 bits, the first four of its eight bytes on the line. After restarts that
/// cross hellos and welcomes, the two ends may believe in different sessions for a moment: nothing of one is taken for the other's.
pub const fn tag(session: u64) -> u32 {
    // The low half is what is wanted.
    #[allow(clippy::cast_possible_truncation)]
    let tag = session as u32;
    tag
}

/// `text` without the end that does not fit into `len_max` bytes.
fn cut(text: &str, len_max: usize) -> &str {
    let end = text.char_indices().map(|(at, c)| at.saturating_add(c.len_utf8())).take_while(|end| *end <= len_max).last();
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// The wait before the try after `tries` tries.
fn backoff_ms(tries: u8) -> u64 {
    u64::from(RESEND_MS).saturating_mul(1 << tries.min(8)).min(RESEND_MAX_MS.into())
}
