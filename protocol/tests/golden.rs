//! The bytes on the line, message by message. They are a contract with devices in the field, and the test vectors of
//! `docs/protocol.md`: never edit them. What changes the bytes of a message is a new message.

#![allow(clippy::unwrap_used)]

use dumbwaiter_protocol::*;
use std::fmt::Debug;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The message has these bytes, the frame those, and both read back as the message.
#[track_caller]
fn pinned<'a, M: serde::Serialize + serde::Deserialize<'a> + Debug + PartialEq>(message: M, plain: &'a mut [u8; 256], golden: [&str; 2]) {
    let [golden_message, golden_frame] = golden;
    let len = postcard::to_slice(&message, plain).unwrap().len();
    let plain: &'a [u8] = &plain[..len];
    let frame = encode(&message).unwrap();
    assert_eq!((hex(plain).as_str(), hex(&frame).as_str()), (golden_message, golden_frame));
    let mut decoder = Decoder::default();
    assert_eq!(decoder.push(&mut frame.as_slice()).unwrap().unwrap(), *plain);
    assert_eq!(decode::<M>(plain).unwrap(), message);
}

const SESSION: u64 = 0x0123_4567_89ab_cdef;
const BOOT: u64 = 0x1122_3344_5566_7788;
const TAG: u32 = tag(SESSION);

fn hello(resume: Option<Resume>) -> ToGateway<'static> {
    ToGateway::Hello(Hello {
        version: 1,
        minor: 0,
        nonce: 300,
        name: "till-1",
        resume,
        message_bytes_max: 248,
        wants: Wants { statuses: true, board: false },
    })
}

#[test]
fn hello_for_a_new_session() {
    pinned(
        hello(None),
        &mut [0; 256],
        ["00 01 00 ac 02 06 74 69 6c 6c 2d 31 00 f8 01 01 00", "01 02 01 0a ac 02 06 74 69 6c 6c 2d 31 04 f8 01 01 05 75 56 59 e8 00"],
    );
}

#[test]
fn hello_for_a_session_to_resume() {
    pinned(
        hello(Some(Resume { session: SESSION, first: 7 })),
        &mut [0; 256],
        [
            "00 01 00 ac 02 06 74 69 6c 6c 2d 31 01 ef cd ab 89 67 45 23 01 07 f8 01 01 00",
            "01 02 01 17 ac 02 06 74 69 6c 6c 2d 31 01 ef cd ab 89 67 45 23 01 07 f8 01 01 05 f2 20 64 0e 00",
        ],
    );
}

#[test]
fn submit() {
    let bytes = br#"{"userId":"user-456","data":{}}"#;
    let total = u16::try_from(bytes.len()).unwrap();
    pinned(
        ToGateway::Submit(Fragment { tag: TAG, number: 7, total, offset: 0, maybe_stored: false, bytes }),
        &mut [0; 256],
        [
            "01 ef cd ab 89 07 1f 00 00 1f 7b 22 75 73 65 72 49 64 22 3a 22 75 73 65 72 2d 34 35 36 22 2c 22 64 61 74 61 22 3a 7b 7d 7d",
            "08 01 ef cd ab 89 07 1f 01 25 1f 7b 22 75 73 65 72 49 64 22 3a 22 75 73 65 72 2d 34 35 36 22 2c 22 64 61 74 61 22 3a 7b 7d 7d 67 bc 58 43 00",
        ],
    );
}

#[test]
fn submit_the_last_part_of_a_large_request_that_may_be_stored() {
    pinned(
        ToGateway::Submit(Fragment { tag: TAG, number: 300, total: 450, offset: 448, maybe_stored: true, bytes: b"}}" }),
        &mut [0; 256],
        ["01 ef cd ab 89 ac 02 c2 03 c0 03 01 02 7d 7d", "14 01 ef cd ab 89 ac 02 c2 03 c0 03 01 02 7d 7d a7 86 bd a5 00"],
    );
}

#[test]
fn confirm() {
    pinned(ToGateway::Confirm { tag: TAG, below: 8 }, &mut [0; 256], ["02 ef cd ab 89 08", "0b 02 ef cd ab 89 08 cc 7f 1e e3 00"]);
}

#[test]
fn ping() {
    pinned(ToGateway::Ping { token: 5 }, &mut [0; 256], ["03 05", "07 03 05 b3 b5 9e 1a 00"]);
}

#[test]
fn seen() {
    pinned(ToGateway::Seen { push: 0 }, &mut [0; 256], ["04 00", "02 04 05 fb d7 b5 25 00"]);
}

#[test]
fn who_are_you() {
    pinned(
        ToTerminal::WhoAreYou { boot: BOOT },
        &mut [0; 256],
        ["00 88 77 66 55 44 33 22 11", "01 0d 88 77 66 55 44 33 22 11 e9 3a 1f 9e 00"],
    );
}

#[test]
fn welcome() {
    let welcome = Welcome {
        version: 1,
        minor: 0,
        nonce: 300,
        boot: BOOT,
        session: SESSION,
        resumed: true,
        mark: 6,
        message_bytes_max: 248,
        request_bytes_max: 16384,
        window: 2,
        flight: 8,
        ping_ms: 5000,
        dead_ms: 15000,
    };
    pinned(
        ToTerminal::Welcome(welcome),
        &mut [0; 256],
        [
            "01 01 00 ac 02 88 77 66 55 44 33 22 11 ef cd ab 89 67 45 23 01 01 06 f8 01 80 80 01 02 08 88 27 98 75",
            "03 01 01 24 ac 02 88 77 66 55 44 33 22 11 ef cd ab 89 67 45 23 01 01 06 f8 01 80 80 01 02 08 88 27 98 75 c8 65 93 8a 00",
        ],
    );
}

#[test]
fn refused() {
    let refused = Refused { nonce: 300, refusal: Refusal::UnknownSession, version: 1, retry_after_ms: 0 };
    pinned(ToTerminal::Refused(refused), &mut [0; 256], ["02 ac 02 00 01 00", "04 02 ac 02 02 01 05 f5 8b cf fa 00"]);
}

#[test]
fn received() {
    pinned(
        ToTerminal::Received { tag: TAG, next: Position { number: 8, offset: 0 } },
        &mut [0; 256],
        ["03 ef cd ab 89 08 00", "07 03 ef cd ab 89 08 05 dd 74 44 e6 00"],
    );
}

#[test]
fn missing() {
    pinned(
        ToTerminal::Missing { tag: TAG, next: Position { number: 7, offset: 448 } },
        &mut [0; 256],
        ["04 ef cd ab 89 07 c0 03", "0d 04 ef cd ab 89 07 c0 03 40 cd ec 79 00"],
    );
}

#[test]
fn stored() {
    let event_id = [0x01, 0x92, 0x0e, 0x5c, 0x7a, 0x00, 0x70, 0x00, 0x80, 0, 0, 0, 0, 0, 0, 0x2a];
    pinned(
        ToTerminal::Stored { tag: TAG, number: 7, duplicate: false, order_id: "order-123", event_id, ticket: Some(42), seq: 90211 },
        &mut [0; 256],
        [
            "05 ef cd ab 89 07 00 09 6f 72 64 65 72 2d 31 32 33 01 92 0e 5c 7a 00 70 00 80 00 00 00 00 00 00 2a 01 2a e3 c0 05",
            "07 05 ef cd ab 89 07 10 09 6f 72 64 65 72 2d 31 32 33 01 92 0e 5c 7a 02 70 02 80 01 01 01 01 01 0b 2a 01 2a e3 c0 05 c9 b1 0e 69 00",
        ],
    );
}

#[test]
fn stored_without_a_ticket() {
    pinned(
        ToTerminal::Stored { tag: TAG, number: 7, duplicate: true, order_id: "o", event_id: [0xff; 16], ticket: None, seq: 1 },
        &mut [0; 256],
        [
            "05 ef cd ab 89 07 01 01 6f ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff 00 01",
            "1a 05 ef cd ab 89 07 01 01 6f ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff ff 06 01 07 48 17 68 00",
        ],
    );
}

#[test]
fn rejected() {
    pinned(
        ToTerminal::Rejected { tag: TAG, number: 7, code: Code::Busy, reason: "too many at once", retry_after_ms: Some(2000) },
        &mut [0; 256],
        [
            "06 ef cd ab 89 07 02 10 74 6f 6f 20 6d 61 6e 79 20 61 74 20 6f 6e 63 65 01 d0 0f",
            "20 06 ef cd ab 89 07 02 10 74 6f 6f 20 6d 61 6e 79 20 61 74 20 6f 6e 63 65 01 d0 0f 2b 25 31 3f 00",
        ],
    );
}

#[test]
fn pong() {
    pinned(ToTerminal::Pong { token: 5 }, &mut [0; 256], ["07 05", "07 07 05 b7 70 f2 7e 00"]);
}

#[test]
fn status() {
    let status = StatusPush { order_id: "order-123", display: "42", status: Status::Ready, payment: Payment::Paid };
    pinned(
        ToTerminal::Status { push: 9, status },
        &mut [0; 256],
        ["08 09 09 6f 72 64 65 72 2d 31 32 33 02 34 32 03 01", "16 08 09 09 6f 72 64 65 72 2d 31 32 33 02 34 32 03 01 78 f4 fb 85 00"],
    );
}

#[test]
fn board() {
    let piece = BoardPiece { piece: 1, pieces: 2, column: Column::Ready, numbers: "41\nA7\n" };
    pinned(
        ToTerminal::Board { push: 10, piece },
        &mut [0; 256],
        ["09 0a 01 02 01 06 34 31 0a 41 37 0a", "0f 09 0a 01 02 01 06 34 31 0a 41 37 0a 52 48 02 07 00"],
    );
}

#[test]
fn the_numbers_of_open_enums() {
    for (code, number) in [
        (Code::Invalid, 0),
        (Code::Conflict, 1),
        (Code::Busy, 2),
        (Code::Full, 3),
        (Code::TooLarge, 4),
        (Code::Expired, 5),
        (Code::UnknownOrder, 6),
        (Code::Final, 7),
        (Code::Unauthorized, 8),
        (Code::Unknown(200), 200),
    ] {
        assert_eq!((u8::from(code), Code::from(number)), (number, code));
    }
    for (refusal, number) in [
        (Refusal::UnknownSession, 0),
        (Refusal::WrongName, 1),
        (Refusal::WrongVersion, 2),
        (Refusal::NotReady, 3),
        (Refusal::TooSmall, 4),
        (Refusal::Unknown(5), 5),
    ] {
        assert_eq!((u8::from(refusal), Refusal::from(number)), (number, refusal));
    }
    for (status, number) in [
        (Status::Created, 0),
        (Status::Confirmed, 1),
        (Status::Preparing, 2),
        (Status::Ready, 3),
        (Status::OutForDelivery, 4),
        (Status::Delivered, 5),
        (Status::Cancelled, 6),
        (Status::Unknown(7), 7),
    ] {
        assert_eq!((u8::from(status), Status::from(number)), (number, status));
    }
    for (payment, number) in
        [(Payment::Pending, 0), (Payment::Paid, 1), (Payment::Failed, 2), (Payment::Refunded, 3), (Payment::PartlyRefunded, 4)]
    {
        assert_eq!((u8::from(payment), Payment::from(number)), (number, payment));
    }
    for (column, number) in [(Column::Preparing, 0), (Column::Ready, 1)] {
        assert_eq!((u8::from(column), Column::from(number)), (number, column));
    }
}

#[test]
fn the_request_id_of_a_submission() {
    assert_eq!(request_id(SESSION, 7), "s0123456789abcdef-7");
    assert_eq!(request_id(0xa, u64::MAX), "s000000000000000a-18446744073709551615");
    assert_eq!(request_id(u64::MAX, u64::MAX).len(), REQUEST_ID_LEN_MAX);
}

#[test]
fn bytes_after_the_known_fields_are_ignored() {
    assert_eq!(decode::<ToGateway<'_>>(&[3, 5, 9, 9]).unwrap(), ToGateway::Ping { token: 5 });
}

#[test]
fn the_largest_of_each_message_fits_into_a_frame() {
    let largest = u64::MAX;
    let order_id = "x".repeat(ORDER_ID_LEN_MAX);
    let (reason, display) = ("x".repeat(REASON_LEN_MAX), "x".repeat(DISPLAY_LEN_MAX));
    let (numbers, name, bytes) = ("x".repeat(BOARD_BYTES_MAX), "x".repeat(NAME_LEN_MAX), [1; FRAGMENT_BYTES_MAX]);
    let status = StatusPush { order_id: &order_id, display: &display, status: Status::Ready, payment: Payment::Paid };
    let piece = BoardPiece { piece: 255, pieces: 255, column: Column::Ready, numbers: &numbers };
    let next = Position { number: largest, offset: u16::MAX };
    let resume = Some(Resume { session: largest, first: largest });
    let wants = Wants::default();
    let hello = Hello { version: 255, minor: 255, nonce: u32::MAX, name: &name, resume, message_bytes_max: u16::MAX, wants };
    let fragment = Fragment { tag: u32::MAX, number: largest, total: u16::MAX, offset: u16::MAX, maybe_stored: true, bytes: &bytes };
    for message in [ToGateway::Hello(hello), ToGateway::Submit(fragment)] {
        assert!(message.to_frame().is_ok(), "{message:?}");
    }
    let (tag, number) = (u32::MAX, largest);
    for message in [
        ToTerminal::Stored { tag, number, duplicate: true, order_id: &order_id, event_id: [1; 16], ticket: Some(u32::MAX), seq: largest },
        ToTerminal::Rejected { tag, number, code: Code::Unknown(255), reason: &reason, retry_after_ms: Some(u32::MAX) },
        ToTerminal::Status { push: u32::MAX, status },
        ToTerminal::Board { push: u32::MAX, piece },
        ToTerminal::Missing { tag, next },
    ] {
        assert!(message.to_frame().is_ok(), "{message:?}");
    }
}

#[test]
fn the_page_for_firmware_authors_has_these_bytes() {
    let page = include_str!("../../docs/protocol.md");
    let frames: Vec<&str> = include_str!("golden.rs").split('"').filter(|text| text.len() > 14 && text.ends_with(" 00")).collect();
    assert!(frames.len() >= 18);
    for frame in frames {
        assert!(page.contains(&format!("  {frame}\n")), "{frame}");
    }
    let vectors = page.split("### 2.11").nth(1).unwrap().split("```").nth(1).unwrap();
    let bytes = |line: &str| -> Vec<u8> { line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect() };
    let lines: Vec<&str> = vectors.lines().filter(|line| line.starts_with("  ")).collect();
    for pair in lines.chunks(2) {
        let message = Decoder::default().push(&mut bytes(pair[1]).as_slice()).unwrap().unwrap();
        assert_eq!(message.as_slice(), bytes(pair[0]), "{}", pair[0]);
    }
}
