//! What is kept of printing: it goes when its order goes, and a cancellation that no printer knows of is found again.

use super::memory::Memory;
use super::samples::{name, order_id, projection};
use crate::Store;
use gateway::io::{Change, Forgettable, Old};
use gateway::order::{Projection, Status};
use gateway::printed::{Paper, PrintKey, Printed};
use std::sync::Arc;

fn key(order: Option<&str>) -> PrintKey {
    PrintKey { printer: name("bar"), order: order.map(order_id) }
}

fn paper(cancelled: bool) -> Option<Paper> {
    Some(Paper { cancelled, lines: vec![], lines_omitted: 0 })
}

fn order(id: &str, status: Status) -> Change {
    Change::Project(Arc::new(Projection { status, ..projection(id, false) }))
}

#[test]
fn a_mark_is_forgotten_when_its_order_is_gone_and_the_printer_stays_known() {
    let (mut store, _) = Store::open(Memory::default(), name("store-042")).unwrap();
    let printed = Printed { sure: paper(false), perhaps: None };
    let marks = [None, Some("there"), Some("gone")].map(|order| Change::Print(key(order), printed.clone()));
    store.apply(&marks).unwrap();
    store.apply(&[order("there", Status::Delivered)]).unwrap();
    let (expired, next) = store.sweep(None, 100, Old { expired_ms: None, details_ms: Some(4_999) }).unwrap();
    assert_eq!((expired.clone(), next), (vec![Forgettable::Print(key(Some("gone")))], None));
    store.apply(&[Change::Expire(expired[0].clone())]).unwrap();
    assert_eq!(store.printed(&key(Some("gone"))).unwrap(), None);
    assert_eq!(store.printed(&key(Some("there"))).unwrap(), Some(printed.clone()));
    assert_eq!(store.printed(&key(None)).unwrap(), Some(printed));
    let (expired, _) = store.sweep(None, 100, Old { expired_ms: None, details_ms: Some(5_000) }).unwrap();
    assert!(expired.contains(&Forgettable::Print(key(Some("there")))), "it says what was ordered: {expired:?}");
}

#[test]
fn a_cancellation_that_the_printer_does_not_have_is_found_a_step_at_a_time() {
    let (mut store, _) = Store::open(Memory::default(), name("store-042")).unwrap();
    store.apply(&[Change::Print(key(None), Printed::default())]).unwrap();
    let orders = [
        ("o-1", Status::Cancelled, Printed { sure: paper(false), perhaps: None }),
        ("o-2", Status::Cancelled, Printed { sure: paper(true), perhaps: None }),
        ("o-3", Status::Cancelled, Printed { sure: paper(false), perhaps: paper(true) }),
        ("o-4", Status::Delivered, Printed { sure: paper(false), perhaps: None }),
    ];
    for (id, status, printed) in orders {
        store.apply(&[order(id, status), Change::Print(key(Some(id)), printed)]).unwrap();
    }
    let (mut found, mut after) = (vec![], None);
    loop {
        let (step, next) = store.cancelled_since_printed(&name("bar"), after.as_ref(), 2).unwrap();
        found.extend(step.into_iter().map(|order| order.order_id.to_string()));
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, ["o-1", "o-3"]);
    assert_eq!(store.cancelled_since_printed(&name("ba"), None, 2).unwrap(), (vec![], None), "another printer's are not among them");
}
