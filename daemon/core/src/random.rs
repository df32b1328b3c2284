//! Ids and jitter from a seed: the shell draws 16 random bytes once, at the start; all that follows is determined by them.

use crate::ids::OrderId;
use crate::request::uuid_text;

/// SplitMix64 (Steele, Lea, Flood 2014): one u64 of state, full period. Not for secrets: ids need only never meet.
#[derive(Debug)]
pub struct Random {
    state: u64,
    /// Mixed into every id, so that two gateways whose 64-bit states meet still make different ones.
    salt: u64,
}

impl Random {
    /// Begins at a seed.
    pub fn new(seed: [u8; 16]) -> Random {
        let half = |h: &[u8]| h.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        Random { state: half(&seed[..8]), salt: half(&seed[8..]) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// A UUID of version 7 (RFC 9562) for that time.
    pub fn uuid(&mut self, unix_ms: i64) -> [u8; 16] {
        let (high, low) = (self.next() ^ self.salt, self.next());
        let mut bits = [0; 10];
        bits[..8].copy_from_slice(&high.to_be_bytes());
        bits[8..].copy_from_slice(&low.to_be_bytes()[..2]);
        let millis = u64::try_from(unix_ms).unwrap_or(0);
        *uuid::Builder::from_unix_timestamp_millis(millis, &bits).into_uuid().as_bytes()
    }

    /// An id for a new order whose terminal gave none.
    pub fn order_id(&mut self, unix_ms: i64) -> OrderId {
        uuid_text(&self.uuid(unix_ms)).parse().expect("a UUID's text is 36 printable bytes")
    }
}
