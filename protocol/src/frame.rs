//! Frames: `COBS(message ‖ CRC-32 of it, little-endian) 0x00`.
//!
//! COBS leaves no 0x00 inside a frame, so a receiver finds the next frame after any noise. The CRC is CRC-32/ISO-HDLC (that of zlib,
//! Ethernet and PNG). Empty frames mean nothing: a sender may put a 0x00 wherever no frame is under way.

use crate::{CRC_BYTES, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// A frame as it goes over the line, with its ending 0x00.
pub type Frame = Vec<u8, FRAME_BYTES_MAX>;

/// Most bytes between two 0x00 that can be a frame.
const BODY_BYTES_MAX: usize = 1 + MESSAGE_BYTES_MAX + CRC_BYTES;

const CRC: crc::Crc<u32, crc::Table<1>> = crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISO_HDLC);

/// A message does not fit into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl core::fmt::Display for TooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "the message is longer than {MESSAGE_BYTES_MAX} bytes")
    }
}

impl core::error::Error for TooLong {}

/// Why bytes between two 0x00 are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// More bytes than a frame can have.
    Oversized,
    /// COBS or CRC does not fit.
    Garbled,
}

/// A message as a frame.
///
/// # Errors
/// It is longer than [`MESSAGE_BYTES_MAX`].
pub fn encode<M: Serialize>(message: &M) -> Result<Frame, TooLong> {
    let mut plain = [0; MESSAGE_BYTES_MAX];
    let message = postcard::to_slice(message, &mut plain).map_err(|_| TooLong)?;
    frame(message)
}

/// The frame around a message's bytes.
pub(crate) fn frame(message: &[u8]) -> Result<Frame, TooLong> {
    let mut plain: Vec<u8, { MESSAGE_BYTES_MAX + CRC_BYTES }> = Vec::new();
    plain.extend_from_slice(message).map_err(|_| TooLong)?;
    plain.extend_from_slice(&CRC.checksum(message).to_le_bytes()).map_err(|_| TooLong)?;
    let mut coded = [0; BODY_BYTES_MAX];
    let len = cobs::try_encode(&plain, &mut coded).map_err(|_| TooLong)?;
    let mut frame = Frame::new();
    frame.extend_from_slice(coded.get(..len).ok_or(TooLong)?).map_err(|_| TooLong)?;
    frame.push(0).map_err(|_| TooLong)?;
    Ok(frame)
}

/// The frame with a 0x00 in front, which ends whatever noise the idle line put into the receiver.
pub(crate) fn after_silence(frame: &Frame) -> Option<Frame> {
    let mut longer = Frame::new();
    longer.push(0).ok()?;
    longer.extend_from_slice(frame).ok()?;
    Some(longer)
}

/// Reads a message. Bytes after the fields that this version knows are ignored: a later one may have put them there.
///
/// # Errors
/// It is none of `M`: unknown, or cut.
pub fn decode<'a, M: Deserialize<'a>>(message: &'a [u8]) -> Result<M, postcard::Error> {
    postcard::from_bytes(message)
}

/// Finds frames in a stream of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    body: Vec<u8, BODY_BYTES_MAX>,
    oversized: bool,
}

impl Decoder {
    /// Takes bytes up to and including the next 0x00 from the front of `bytes`, and reports what ended there: a message's bytes, or why
    /// there is none. `None` means that all bytes are taken and the frame, if any, goes on; or that it was empty.
    pub fn push(&mut self, bytes: &mut &[u8]) -> Option<Result<Vec<u8, MESSAGE_BYTES_MAX>, FrameError>> {
        let mut parts = bytes.splitn(2, |byte| *byte == 0);
        let part = parts.next().unwrap_or_default();
        let rest = parts.next();
        self.oversized |= self.body.extend_from_slice(part).is_err();
        *bytes = rest.unwrap_or_default();
        rest?;
        let ended = match (self.oversized, self.body.is_empty()) {
            (true, _) => Some(Err(FrameError::Oversized)),
            (false, true) => None,
            (false, false) => Some(unframe(&self.body).ok_or(FrameError::Garbled)),
        };
        self.body.clear();
        self.oversized = false;
        ended
    }
}

fn unframe(body: &[u8]) -> Option<Vec<u8, MESSAGE_BYTES_MAX>> {
    let mut plain = [0; BODY_BYTES_MAX];
    let len = cobs::decode(body, &mut plain).ok()?.frame_size();
    let (message, crc) = plain.get(..len)?.split_last_chunk::<CRC_BYTES>()?;
    if message.is_empty() || CRC.checksum(message).to_le_bytes() != *crc {
        return None;
    }
    Vec::from_slice(message).ok()
}
