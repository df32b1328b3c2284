//! The bytes on the disk, pinned. These tests are never edited: a new format gets new ones.

use super::samples::{counters, dead_letter, event, name, order_id, partition, projection, remembered, request};
use crate::layout::{Identity, QueuedHead, key, value};
use gateway::event::Clock;
use gateway::ids::{Epoch, Seq, SessionId};
use gateway::journal::{Command, Deed, Mark, Sent};
use gateway::order::{Alarm, Payment, Source, Status};
use gateway::printed::{Paper, PrintKey, Printed};
use gateway::request::EventType;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn keys() {
    assert_eq!(key::identity(), b"A");
    assert_eq!(key::probe(), b"B");
    assert_eq!(key::counters(), b"C");
    assert_eq!(key::dead(Seq(258)), b"D\0\0\0\0\0\0\x01\x02");
    assert_eq!(key::epoch(1), b"E\0\0\0\0\0\0\0\x01");
    assert_eq!(key::held(Seq(1), Seq(2)), b"H\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
    assert_eq!(key::held_by_seq(Seq(2)), b"I\0\0\0\0\0\0\0\x02");
    assert_eq!(key::imported(Epoch(1), Seq(2)), b"M\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
    assert_eq!(key::progress(), b"P");
    assert_eq!(key::queued(Seq(258)), b"Q\0\0\0\0\0\0\x01\x02");
    assert_eq!(key::request(&request("till-1", "01JC")), b"Rtill-1\x0001JC");
    assert_eq!(key::session(&name("till-1"), SessionId(3)), b"Still-1\0\0\0\0\0\0\0\0\x03");
    assert_eq!(key::offset(&partition("order-status", 7)), b"T\0\0\0\x07order-status");
    assert_eq!(key::open_order(&order_id("order-123")), b"Worder-123");
    assert_eq!(key::closed_order(&order_id("order-123")), b"Zorder-123");
}

#[test]
fn identity() {
    assert_eq!(Identity { format: 1, gateway: name("store-042") }.encode(), b"\x01\x00\x01store-042");
}

#[test]
fn numbers() {
    assert_eq!(value::encode_probe(), [1]);
    assert_eq!(hex(&value::encode_seq(Seq(258))), "010000000000000102");
    assert_eq!(hex(&value::encode_epoch(Epoch(0xFF00), Seq(3))), "01000000000000ff000000000000000003");
    assert_eq!(hex(&value::encode_offset(-1)), "01ffffffffffffffff");
    assert_eq!(hex(&value::encode_session(5, 9)), "0100000000000000050000000000000009");
}

#[test]
fn queued_event() {
    let bytes = value::encode_queued(QueuedHead { sum: 1000, weight: 200 }, &event("order-123", r#"{"a":1}"#));
    assert_eq!(
        hex(&bytes),
        "0100000000000003e8000000c888ef99abc5e88c91110674696c6c2d310630314a432d37abababababababababababababababab00096f726465722d\
         3132330108757365722d3435368088a9ce986300077b2261223a317d"
    );
}

#[test]
fn held_event() {
    assert_eq!(
        hex(&value::encode_event(&event("order-123", r#"{"a":1}"#))),
        "0188ef99abc5e88c91110674696c6c2d310630314a432d37abababababababababababababababab00096f726465722d3132330108757365722d3435\
         368088a9ce986300077b2261223a317d"
    );
}

#[test]
fn dead_letter_record() {
    assert_eq!(
        hex(&value::encode_dead_letter(&dead_letter("order-123"))),
        "0188ef99abc5e88c91110674696c6c2d310630314a432d37abababababababababababababababab00096f726465722d3132330108757365722d3435\
         368088a9ce986300027b7d134d65737361676553697a65546f6f4c617267658088a9ce986302"
    );
}

#[test]
fn remembered_request() {
    assert_eq!(
        hex(&value::encode_remembered(&remembered(258, 5_000))),
        "01cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd096f726465722d313233abababababababababababababababab012a82028827"
    );
}

#[test]
fn order() {
    assert_eq!(
        hex(&value::encode_projection(&projection("order-123", true))),
        "01096f726465722d3132330000012a000000000000010674696c6c2d318088a9ce98638088a9ce98638827000108666f6f642d3030311050697a7a61\
         204d61726768657269746102010c6578747261206368656573650977656c6c20646f6e6501046d696c6b046f76656e0000010101d097a9ce98630000\
         0001"
    );
}

#[test]
fn refunded_order() {
    let refunded = gateway::order::Projection { refunded: Some("2.50".into()), ..projection("order-123", true) };
    let bytes = value::encode_projection(&refunded);
    assert_eq!(
        hex(&bytes),
        "02096f726465722d3132330000012a000000000000010674696c6c2d318088a9ce98638088a9ce98638827000108666f6f642d3030311050697a7a61\
         204d61726768657269746102010c6578747261206368656573650977656c6c20646f6e6501046d696c6b046f76656e0000010101d097a9ce98630000\
         000104322e3530"
    );
    let key = key::open_order(&order_id("order-123"));
    assert_eq!(value::projection(&key, &bytes).unwrap(), refunded);
    assert_eq!(value::created_at_ms(&key, &bytes).unwrap(), refunded.created_at_ms);
}

#[test]
fn counters_record() {
    assert_eq!(hex(&value::encode_counters(&counters())), "012a96b40280b899298088a9ce9863");
}

#[test]
fn variants_are_stored_by_their_place() {
    fn places<T: serde::Serialize>(variants: &[T]) -> Vec<u8> {
        variants.iter().flat_map(|variant| postcard::to_stdvec(variant).unwrap()).collect()
    }
    assert_eq!(places(&EventType::ALL), [0, 1, 2, 3, 4, 5]);
    assert_eq!(EventType::ALL.map(EventType::as_str)[3..], ["order.shipper_assigned", "order.cancelled", "order.delivered"]);
    assert_eq!(places(&Status::ALL), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(places(&Payment::ALL), [0, 1, 2, 3, 4]);
    assert_eq!(places(&[Source::House, Source::Centre]), [0, 1]);
    assert_eq!(places(&[Alarm::Cancelled, Alarm::PaymentFailed]), [0, 1]);
    assert_eq!(places(&[Clock::Synced, Clock::Unset]), [0, 1]);
}

#[test]
fn journal_keys() {
    assert_eq!(key::delivered(Seq(258)), b"J\0\0\0\0\0\0\x01\x02");
    assert_eq!(key::command(258), b"K\0\0\0\0\0\0\x01\x02");
}

#[test]
fn deliveries() {
    let sent = |seq, partition, offset, at_ms| Sent { seq: Seq(seq), partition, offset, at_ms };
    let mark =
        Mark { upto: Seq(258), run_ms: 5_000, sent: vec![sent(256, 2, 1_000, 1_704_110_400_000), sent(258, 0, 7, 1_704_110_400_010)] };
    let bytes = value::encode_mark(&mark);
    assert_eq!(hex(&bytes), "0188278088a9ce9863020204d00f0000000e14");
    assert_eq!(value::mark(&key::delivered(Seq(258)), Seq(258), &bytes).unwrap(), mark);
}

#[test]
fn commands() {
    let command = |deed| Command { at_ms: 1_704_110_400_000, run_ms: 5_000, by: "anna".into(), deed };
    let pinned = [
        (Deed::Retry { dead: Seq(7), order: order_id("o-1") }, "018088a9ce9863882704616e6e610007036f2d31"),
        (Deed::Discard { dead: Seq(7), order: order_id("o-1") }, "018088a9ce9863882704616e6e610107036f2d31"),
        (
            Deed::Replay { from_ms: 1_704_110_400_000, to_ms: 1_704_110_401_000, order: None },
            "018088a9ce9863882704616e6e61028088a9ce9863d097a9ce986300",
        ),
        (Deed::Replay { from_ms: 0, to_ms: 1, order: Some(order_id("o-1")) }, "018088a9ce9863882704616e6e6102000201036f2d31"),
    ];
    for (deed, bytes) in pinned {
        assert_eq!(hex(&value::encode_command(&command(deed))), bytes);
    }
}

#[test]
fn acknowledgements() {
    let deed = Deed::Acknowledge { order: order_id("o-1") };
    let bytes = value::encode_command(&Command { at_ms: 1_704_110_400_000, run_ms: 5_000, by: "anna".into(), deed });
    assert_eq!(hex(&bytes), "018088a9ce9863882704616e6e6103036f2d31");
}

#[test]
fn what_a_printer_has() {
    let of = |order: Option<&str>| PrintKey { printer: "bar".parse().unwrap(), order: order.map(order_id) };
    assert_eq!(key::printed(&of(Some("o-1"))), b"Nbar\0o-1");
    assert_eq!(key::printed(&of(None)), b"Nbar\0");
    let lines = projection("o-1", true).lines;
    let printed = Printed {
        sure: Some(Paper { cancelled: false, lines: lines.clone(), lines_omitted: 3 }),
        perhaps: Some(Paper { cancelled: true, lines: vec![], lines_omitted: 0 }),
    };
    let bytes = value::encode_printed(&printed);
    let pinned = "0101000108666f6f642d3030311050697a7a61204d61726768657269746102010c6578747261206368656573650977656c6c20646f6e6501046d696c6b046f76656e000301010000";
    assert_eq!(hex(&bytes), pinned);
    assert_eq!(value::printed(&key::printed(&of(Some("o-1"))), &bytes).unwrap(), printed);
    assert_eq!(hex(&value::encode_printed(&Printed::default())), "010000");
}
