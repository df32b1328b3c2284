//! The messages, in postcard's encoding. Their bytes are pinned by `tests/golden.rs`.
//!
//! A message is never changed once it is released. A need that comes later gets a message of its own at the end of its enum, or fields
//! at the end of a message; a receiver ignores a message that it does not know, and bytes after the fields that it knows.

use crate::Frame;
use serde::{Deserialize, Serialize};

/// A place in the stream of a session's submissions: everything before it is meant. Ordered as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The submission, from 1.
    pub number: u64,
    /// The byte in it.
    pub offset: u16,
}

impl Position {
    /// Where a submission begins.
    pub const fn start_of(number: u64) -> Position {
        Position { number, offset: 0 }
    }
}

/// What a terminal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGateway<'a> {
    /// 0. I am here: first of all, and after each silence or restart.
    #[serde(borrow)]
    Hello(Hello<'a>),
    /// 1. A part of a submission.
    Submit(Fragment<'a>),
    /// 2. Every submission below this number is finished here, and will never be sent again.
    Confirm {
        /// [`crate::tag`] of the session.
        #[serde(with = "postcard::fixint::le")]
        tag: u32,
        /// The lowest number that is not finished.
        below: u64,
    },
    /// 3. Are you there?
    Ping {
        /// Given back.
        token: u32,
    },
    /// 4. A push arrived.
    Seen {
        /// Its number.
        push: u32,
    },
}

/// What a gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToTerminal<'a> {
    /// 0. I have not heard your hello, or another one since: say it again.
    WhoAreYou {
        /// The gateway's start.
        #[serde(with = "postcard::fixint::le")]
        boot: u64,
    },
    /// 1. The session.
    Welcome(Welcome),
    /// 2. No session.
    Refused(Refused),
    /// 3. Everything before this position is here. It is not stored yet.
    Received {
        /// [`crate::tag`] of the session.
        #[serde(with = "postcard::fixint::le")]
        tag: u32,
        /// Where the next fragment has to begin.
        next: Position,
    },
    /// 4. Something is missing: go on from here.
    Missing {
        /// [`crate::tag`] of the session.
        #[serde(with = "postcard::fixint::le")]
        tag: u32,
        /// Where the next fragment has to begin.
        next: Position,
    },
    /// 5. The submission is on disk.
    Stored {
        /// [`crate::tag`] of the session.
        #[serde(with = "postcard::fixint::le")]
        tag: u32,
        /// Which submission.
        number: u64,
        /// It was stored before.
        duplicate: bool,
        /// The order.
        #[serde(borrow)]
        order_id: &'a str,
        /// The event's UUID.
        event_id: [u8; 16],
        /// The ticket, where there is one.
        ticket: Option<u32>,
        /// The event's position in the outbox.
        seq: u64,
    },
    /// 6. Nothing of the submission is on disk.
    Rejected {
        /// [`crate::tag`] of the session.
        #[serde(with = "postcard::fixint::le")]
        tag: u32,
        /// Which submission.
        number: u64,
        /// Why.
        code: Code,
        /// For people, at most [`crate::REASON_LEN_MAX`] bytes.
        reason: &'a str,
        /// When the same content is welcome again, under a new number.
        retry_after_ms: Option<u32>,
    },
    /// 7. Answer to a ping.
    Pong {
        /// The ping's.
        token: u32,
    },
    /// 8. An order of this terminal changed.
    Status {
        /// The push's number.
        push: u32,
        /// What changed.
        status: StatusPush<'a>,
    },
    /// 9. A piece of the board.
    Board {
        /// The push's number.
        push: u32,
        /// The piece.
        piece: BoardPiece<'a>,
    },
}

/// A terminal's hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// [`crate::VERSION`].
    pub version: u8,
    /// [`crate::MINOR`].
    pub minor: u8,
    /// Another one for each series of hellos: the answer has it too.
    pub nonce: u32,
    /// The terminal's name, to be compared with the port's; or empty.
    #[serde(borrow)]
    pub name: &'a str,
    /// The session to go on with; none opens a new one.
    pub resume: Option<Resume>,
    /// The largest message that the terminal takes: at least [`crate::MESSAGE_BYTES_MAX`].
    pub message_bytes_max: u16,
    /// What it wants pushed.
    pub wants: Wants,
}

/// The session that a terminal goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The session.
    #[serde(with = "postcard::fixint::le")]
    pub session: u64,
    /// The lowest number that is not finished: where the terminal will begin to send.
    pub first: u64,
}

/// What a terminal wants pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wants {
    /// The statuses of its own orders.
    pub statuses: bool,
    /// The board.
    pub board: bool,
}

/// A part of a submission. They are sent in order, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment<'a> {
    /// [`crate::tag`] of the session.
    #[serde(with = "postcard::fixint::le")]
    pub tag: u32,
    /// The submission, from 1, without gaps.
    pub number: u64,
    /// Bytes of the whole request.
    pub total: u16,
    /// Where this part begins.
    pub offset: u16,
    /// An earlier try in a lost session may have been stored.
    pub maybe_stored: bool,
    /// The part: 1 to [`crate::FRAGMENT_BYTES_MAX`] bytes, none only if `total` is 0.
    pub bytes: &'a [u8],
}

/// The gateway's answer to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`crate::VERSION`].
    pub version: u8,
    /// [`crate::MINOR`].
    pub minor: u8,
    /// The hello's.
    pub nonce: u32,
    /// The gateway's start: another one than last time means that it restarted.
    #[serde(with = "postcard::fixint::le")]
    pub boot: u64,
    /// The session.
    #[serde(with = "postcard::fixint::le")]
    pub session: u64,
    /// It is the one that the hello named.
    pub resumed: bool,
    /// The highest number stored in it, 0 if none is: a terminal that has not given this number yet has lost its memory.
    pub mark: u64,
    /// The largest message that the gateway takes.
    pub message_bytes_max: u16,
    /// The largest request.
    pub request_bytes_max: u16,
    /// A number may be sent while it is below the lowest unfinished one plus this.
    pub window: u8,
    /// So many fragments may be under way without a receipt.
    pub flight: u8,
    /// How often the terminal pings.
    pub ping_ms: u32,
    /// After so long a silence the other end is gone.
    pub dead_ms: u32,
}

/// The gateway's refusal of a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The hello's.
    pub nonce: u32,
    /// Why.
    pub refusal: Refusal,
    /// The gateway's [`crate::VERSION`].
    pub version: u8,
    /// When another hello is welcome.
    pub retry_after_ms: u32,
}

/// A change of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusPush<'a> {
    /// The order.
    pub order_id: &'a str,
    /// What people call out; may be empty.
    pub display: &'a str,
    /// Its status.
    pub status: Status,
    /// Its payment.
    pub payment: Payment,
}

/// A piece of the board. Piece 0 begins a new board, the last one completes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardPiece<'a> {
    /// Which piece, from 0.
    pub piece: u8,
    /// How many pieces this board has.
    pub pieces: u8,
    /// The column that it adds to.
    pub column: Column,
    /// Numbers, oldest first, each followed by a line feed.
    pub numbers: &'a str,
}

macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "u8", into = "u8")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A number that was given a meaning later than this version.
            Unknown(u8),
        }
        impl From<u8> for $name {
            fn from(number: u8) -> Self {
                match number {
                    $($number => $name::$variant,)+
                    other => $name::Unknown(other),
                }
            }
        }
        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                match value {
                    $($name::$variant => $number,)+
                    $name::Unknown(other) => other,
                }
            }
        }
    };
}

open_enum! {
    /// Why a submission was rejected. An unknown one is a rejection all the same.
    Code {
        /// `invalid`: its shape is wrong.
        Invalid = 0,
        /// `conflict`: the number has another content, or the order exists already.
        Conflict = 1,
        /// `busy`: too much at once.
        Busy = 2,
        /// `full`: no room.
        Full = 3,
        /// `too_large`: more bytes than are taken.
        TooLarge = 4,
        /// `expired`: its time was over; or it was stored, and so long ago that its answer is forgotten.
        Expired = 5,
        /// `unknown_order`: the house does not know the order.
        UnknownOrder = 6,
        /// `final`: the order has ended.
        Final = 7,
        /// `unauthorized`: the terminal may not.
        Unauthorized = 8,
    }
}

open_enum! {
    /// Why a hello was refused. An unknown one is as `NotReady`.
    Refusal {
        /// `unknown_session`: open a new one, and send what is unanswered again with `maybe_stored`.
        UnknownSession = 0,
        /// The name is not the port's.
        WrongName = 1,
        /// The gateway does not speak this version.
        WrongVersion = 2,
        /// The store is not open: try again later.
        NotReady = 3,
        /// The terminal takes too small messages.
        TooSmall = 4,
    }
}

open_enum! {
    /// Status of an order.
    Status {
        /// `CREATED`.
        Created = 0,
        /// `CONFIRMED`.
        Confirmed = 1,
        /// `PREPARING`.
        Preparing = 2,
        /// `READY`.
        Ready = 3,
        /// `OUT_FOR_DELIVERY`.
        OutForDelivery = 4,
        /// `DELIVERED`.
        Delivered = 5,
        /// `CANCELLED`.
        Cancelled = 6,
    }
}

open_enum! {
    /// Payment of an order.
    Payment {
        /// `PENDING`.
        Pending = 0,
        /// `PAID`.
        Paid = 1,
        /// `FAILED`.
        Failed = 2,
        /// `REFUNDED`.
        Refunded = 3,
        /// `PARTLY_REFUNDED`.
        PartlyRefunded = 4,
    }
}

open_enum! {
    /// A column of the board.
    Column {
        /// In preparation.
        Preparing = 0,
        /// May be collected.
        Ready = 1,
    }
}

/// The decision about a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It is on disk.
    Stored {
        /// It was stored before.
        duplicate: bool,
        /// The order, at most [`crate::ORDER_ID_LEN_MAX`] bytes.
        order_id: &'a str,
        /// The event's UUID.
        event_id: [u8; 16],
        /// The ticket, where there is one.
        ticket: Option<u32>,
        /// The event's position in the outbox.
        seq: u64,
    },
    /// It is not, and nothing of it is.
    Rejected {
        /// Why.
        code: Code,
        /// For people.
        reason: &'a str,
        /// When the same content is welcome again, under a new number.
        retry_after_ms: Option<u32>,
    },
}

impl<'a> Answer<'a> {
    /// The message that says so of a submission.
    pub(crate) fn about(self, tag: u32, number: u64) -> ToTerminal<'a> {
        match self {
            Answer::Stored { duplicate, order_id, event_id, ticket, seq } => {
                ToTerminal::Stored { tag, number, duplicate, order_id, event_id, ticket, seq }
            }
            Answer::Rejected { code, reason, retry_after_ms } => {
                ToTerminal::Rejected { tag, number, code, reason: crate::cut(reason, crate::REASON_LEN_MAX), retry_after_ms }
            }
        }
    }
}

impl ToGateway<'_> {
    /// The message as a frame.
    ///
    /// # Errors
    /// It is longer than [`crate::MESSAGE_BYTES_MAX`].
    pub fn to_frame(&self) -> Result<Frame, crate::TooLong> {
        crate::encode(self)
    }
}

impl ToTerminal<'_> {
    /// The message as a frame.
    ///
    /// # Errors
    /// It is longer than [`crate::MESSAGE_BYTES_MAX`].
    pub fn to_frame(&self) -> Result<Frame, crate::TooLong> {
        crate::encode(self)
    }
}
