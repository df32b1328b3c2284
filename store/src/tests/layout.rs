//! Keys and values are read back as they were written, and keys sort like what they stand for.

use super::samples;
use crate::layout::{Kind, QueuedHead, key, value};
use gateway::ids::{Epoch, Name, OrderId, RequestKey, Seq, SessionId};
use gateway::io::PartitionName;
use gateway::order::Projection;
use gateway::printed::PrintKey;
use proptest::prelude::*;

fn names() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9._-]{1,48}".prop_map(|text| text.parse().unwrap())
}

fn requests() -> impl Strategy<Value = RequestKey> {
    (names(), "[A-Za-z0-9._-]{1,64}").prop_map(|(terminal, id)| RequestKey { terminal, request_id: id.parse().unwrap() })
}

fn orders() -> impl Strategy<Value = OrderId> {
    "[ -~äöü/#+]{1,40}".prop_map(|text| text.parse().unwrap())
}

fn kinds() -> impl Strategy<Value = (Vec<u8>, Kind)> {
    let partitions = ("[a-z.-]{0,20}", any::<i32>()).prop_map(|(topic, partition)| PartitionName { topic, partition });
    prop_oneof![
        Just((key::identity(), Kind::Identity)),
        Just((key::probe(), Kind::Probe)),
        Just((key::counters(), Kind::Counters)),
        Just((key::progress(), Kind::Progress)),
        any::<u64>().prop_map(|n| (key::queued(Seq(n)), Kind::Queued(Seq(n)))),
        any::<u64>().prop_map(|n| (key::dead(Seq(n)), Kind::Dead(Seq(n)))),
        any::<u64>().prop_map(|n| (key::held_by_seq(Seq(n)), Kind::HeldBySeq(Seq(n)))),
        any::<[u64; 2]>().prop_map(|[a, b]| (key::held(Seq(a), Seq(b)), Kind::Held(Seq(a), Seq(b)))),
        any::<u64>().prop_map(|n| (key::epoch(n), Kind::Epoch(n))),
        any::<u64>().prop_map(|n| (key::lost(Seq(n)), Kind::Lost(Seq(n)))),
        any::<[u64; 2]>().prop_map(|[a, b]| (key::imported(Epoch(a), Seq(b)), Kind::Imported(Epoch(a), Seq(b)))),
        requests().prop_map(|r| (key::request(&r), Kind::Request(r))),
        (names(), any::<u64>()).prop_map(|(t, s)| (key::session(&t, SessionId(s)), Kind::Session(t, SessionId(s)))),
        partitions.prop_map(|p| (key::offset(&p), Kind::Offset(p))),
        orders().prop_map(|o| (key::open_order(&o), Kind::OpenOrder(o))),
        (names(), prop::option::of(orders())).prop_map(|(printer, order)| {
            let key = PrintKey { printer, order };
            (key::printed(&key), Kind::Printed(key))
        }),
        orders().prop_map(|o| (key::closed_order(&o), Kind::ClosedOrder(o))),
    ]
}

proptest! {
    #[test]
    fn a_key_is_read_back((key, kind) in kinds()) {
        prop_assert_eq!(Kind::read(&key).unwrap(), kind);
    }

    #[test]
    fn different_things_have_different_keys((a_key, a) in kinds(), (b_key, b) in kinds()) {
        prop_assert_eq!(a == b, a_key == b_key);
    }

    #[test]
    fn reading_noise_as_a_key_never_panics(noise in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Kind::read(&noise);
    }

    #[test]
    fn reading_noise_as_a_value_never_panics(noise in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = value::queued(b"Q", &noise);
        let _ = value::projection(b"W", &noise);
        let _ = value::created_at_ms(b"W", &noise);
        let _ = value::dead_letter(b"D", &noise);
        let _ = value::remembered(b"R", &noise);
        let _ = value::counters(b"C", &noise);
        let _ = value::session(b"S", &noise);
    }

    #[test]
    fn the_outbox_sorts_by_seq(a: u64, b: u64) {
        prop_assert_eq!(key::queued(Seq(a)).cmp(&key::queued(Seq(b))), a.cmp(&b));
    }

    #[test]
    fn a_terminals_sessions_are_a_range_of_their_own(a in names(), b in names(), session: u64) {
        let range = key::sessions_of(&a);
        let within = |key: &Vec<u8>| range.from <= *key && *key < range.to;
        prop_assert!(within(&key::session(&a, SessionId(session))));
        prop_assert_eq!(within(&key::session(&b, SessionId(session))), a == b);
    }

    #[test]
    fn the_events_behind_a_dead_letter_are_a_range_of_their_own(dead: u64, other: u64, seq: u64) {
        let range = key::held_behind(Seq(dead));
        let within = |key: &Vec<u8>| range.from <= *key && *key < range.to;
        prop_assert!(within(&key::held(Seq(dead), Seq(seq))));
        prop_assert_eq!(within(&key::held(Seq(other), Seq(seq))), dead == other);
    }

    #[test]
    fn values_of_numbers_are_read_back(a: u64, b: u64, offset: i64) {
        prop_assert_eq!(value::seq(b"P", &value::encode_seq(Seq(a))).unwrap(), Seq(a));
        prop_assert_eq!(value::epoch(b"E", &value::encode_epoch(Epoch(a), Seq(b))).unwrap(), (Epoch(a), Seq(b)));
        prop_assert_eq!(value::offset(b"T", &value::encode_offset(offset)).unwrap(), offset);
        prop_assert_eq!(value::session(b"S", &value::encode_session(a, b)).unwrap(), (a, b));
    }

    #[test]
    fn events_are_read_back(order in orders(), data in "[ -~äöü]{0,200}", sum: u64, weight: u32) {
        let event = samples::event(order.as_str(), &data);
        let bytes = value::encode_queued(QueuedHead { sum, weight }, &event);
        prop_assert_eq!(value::queued(b"Q", &bytes).unwrap(), event);
        prop_assert_eq!(QueuedHead::decode(b"Q", &bytes).unwrap(), QueuedHead { sum, weight });
    }
}

#[test]
fn the_creation_of_an_order_is_read_without_the_rest() {
    let mut full = samples::projection("order-123", true);
    let bare = Projection { ticket: None, terminal: None, lines: vec![], created_at_ms: -1, ..full.clone() };
    let texts =
        [&mut full.display_number, &mut full.channel, &mut full.customer_name, &mut full.due_at, &mut full.total, &mut full.shipper];
    texts.into_iter().for_each(|text| *text = Some("text".into()));
    for order in [full, bare] {
        assert_eq!(value::created_at_ms(b"", &value::encode_projection(&order)).unwrap(), order.created_at_ms);
    }
}

#[test]
fn a_record_of_a_later_format_is_an_error_not_a_guess() {
    let mut bytes = value::encode_counters(&samples::counters());
    bytes[0] = 2;
    let error = value::counters(b"C", &bytes).unwrap_err().to_string();
    assert_eq!(error, "the record C is damaged: its format 2 is not known");
}

#[test]
fn a_record_with_bytes_left_over_is_an_error() {
    let mut bytes = value::encode_counters(&samples::counters());
    bytes.push(0);
    assert!(value::counters(b"C", &bytes).is_err());
}
