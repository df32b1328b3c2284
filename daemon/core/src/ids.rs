//! Names and positions that cannot be wrong once they exist.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr, sync::Arc};

/// Longest gateway or terminal name, in bytes.
pub const NAME_LEN_MAX: usize = 48;
/// Longest request id, in bytes.
pub const REQUEST_ID_LEN_MAX: usize = 64;
/// Longest order id, in bytes.
pub const ORDER_ID_LEN_MAX: usize = 128;

/// Why a text is not the id that it was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, or longer than the bound.
    #[error("must be 1 to {max} bytes long, not {len}")]
    Length {
        /// The bound in bytes.
        max: usize,
        /// The length that was given.
        len: usize,
    },
    /// A character outside `[A-Za-z0-9._-]`.
    #[error("may hold only letters, digits, '.', '_' and '-'")]
    Character,
    /// A control or other unprintable character.
    #[error("may hold only printable characters")]
    Unprintable,
}

fn word(text: &str, max: usize) -> Result<(), IdError> {
    if text.is_empty() || text.len() > max {
        return Err(IdError::Length { max, len: text.len() });
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.bytes().all(plain) { Ok(()) } else { Err(IdError::Character) }
}

fn printable(text: &str, max: usize) -> Result<(), IdError> {
    if text.is_empty() || text.len() > max {
        return Err(IdError::Length { max, len: text.len() });
    }
    // Line and paragraph separators and bidi overrides are no controls by category, but they garble every log.
    let hidden =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if text.chars().any(hidden) { Err(IdError::Unprintable) } else { Ok(()) }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                $check(text, $max)?;
                Ok(Self(text.into()))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }
                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A gateway's or a terminal's name: `[A-Za-z0-9._-]{1,48}`, unique in the chain or in the house.
    Name, word, NAME_LEN_MAX
}
text_id! {
    /// A request's id: `[A-Za-z0-9._-]{1,64}`, unique per terminal and never reused.
    RequestId, word, REQUEST_ID_LEN_MAX
}
text_id! {
    /// An order's id: 1 to 128 bytes of printable UTF-8. Percent-encoded wherever it becomes part of a topic or a path.
    OrderId, printable, ORDER_ID_LEN_MAX
}

/// A request's name in the whole house: what is remembered, and what a repeat is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey {
    /// Who submitted it.
    pub terminal: Name,
    /// The id that the terminal gave it.
    pub request_id: RequestId,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
    };
}

number_id! {
    /// An event's position in the outbox. It only grows, across restarts and epochs; the first is 1.
    Seq(u64)
}
number_id! {
    /// A random id made at every start and stored with each event admitted under it.
    Epoch(u64)
}
number_id! {
    /// The short number that people call out.
    Ticket(u32)
}
number_id! {
    /// A serial session's id: random, durable before the terminal is told.
    SessionId(u64)
}
number_id! {
    /// Whom an answer is for; chosen by the shell, opaque to the core.
    ReplyTo(u64)
}
number_id! {
    /// One look-up in the store.
    LoadId(u64)
}
number_id! {
    /// One commit to the store.
    CommitId(u64)
}
number_id! {
    /// One producer handle: reports of an older one are dropped.
    ProducerId(u64)
}

impl Seq {
    /// The next position.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_only_word_characters_within_the_bound() {
        assert!("till-1".parse::<Name>().is_ok());
        assert_eq!("".parse::<Name>(), Err(IdError::Length { max: 48, len: 0 }));
        assert!("x".repeat(49).parse::<Name>().is_err());
        for bad in ["a/b", "a#", "a+", "ä", "a b", "a\0"] {
            assert_eq!(bad.parse::<Name>(), Err(IdError::Character), "{bad:?}");
        }
    }

    #[test]
    fn order_ids_may_hold_slashes_and_wildcards_but_nothing_unprintable() {
        assert!("a/b/#/+ ü".parse::<OrderId>().is_ok());
        for bad in ["a\nb", "a\u{7f}", "a\u{202e}b", "a\u{2028}"] {
            assert_eq!(bad.parse::<OrderId>(), Err(IdError::Unprintable), "{bad:?}");
        }
    }

    #[test]
    fn an_epoch_reads_back_what_it_prints() {
        let epoch = Epoch(0x00ab_0000_0000_0001);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
    }
}
