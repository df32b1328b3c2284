//! Printers: each order is on paper once, whatever happens to the printer or to the daemon, and comes again only as a marked copy.

use crate::emulated_printer::{Mood, Printer, Voice};
use crate::house::{House, wait_for};
use serde_json::{Value, json};
use std::net::SocketAddr;

fn section(name: &str, address: SocketAddr) -> String {
    format!("[[printer]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

/// A house with one printer.
fn house(voice: Voice, more: &str) -> (House, Printer) {
    let mut printer = Printer::new(voice);
    let address = printer.listen();
    (House::new(&(section("kitchen", address) + more)), printer)
}

fn order(house: &House, id: &str, dish: &str) {
    let body = json!({"orderId": id, "orderDetails": [{"foodId": "f", "foodName": dish, "price": 12.50, "quantity": 2}]});
    assert_eq!(house.post("/api/v1/orders", &format!("create-{id}"), &body).status, 201);
}

fn event(house: &House, id: &str, key: &str, body: &Value) {
    let answer = house.post(&format!("/api/v1/orders/{id}/events"), key, body);
    assert_eq!(answer.status, 201, "{answer:?}");
}

fn cancel(house: &House, id: &str) {
    event(house, id, &format!("cancel-{id}"), &json!({"type": "order.cancelled", "data": {}}));
}

/// Waits until so many tickets came out.
fn tickets(printer: &Printer, count: usize) -> Vec<String> {
    wait_for(&format!("{count} tickets"), || Some(printer.tickets()).filter(|tickets| tickets.len() >= count))
}

fn state(house: &House) -> Value {
    house.get("/api/v1/kitchen").json()["printers"][0].clone()
}

fn wait_for_state(house: &House, wanted: &str) -> Value {
    wait_for(&format!("the printer to be {wanted}"), || Some(state(house)).filter(|state| state["state"] == wanted))
}

fn wait_for_mood(printer: &Printer, mood: Mood) {
    wait_for("the middle of a ticket", || (printer.mood() == mood).then_some(()));
}

fn is_copy(ticket: &str) -> bool {
    ticket.contains("COPY")
}

/// An order after which nothing older can still come out.
fn assert_nothing_more(house: &House, printer: &Printer, before: usize) {
    order(house, "last", "Last");
    let all = tickets(printer, before + 1);
    assert!(all.len() == before + 1 && all[before].contains("Last") && !is_copy(&all[before]), "{:#?}", &all[before..]);
}

#[test]
fn an_order_its_change_and_its_end_are_printed_once_each_and_a_copy_is_marked() {
    let (mut house, printer) = house(Voice::All, "");
    house.start();
    order(&house, "o-1", "Ramen");
    let first = tickets(&printer, 1).remove(0);
    assert!(first.contains("2 x Ramen") && first.contains("o-1") && first.starts_with("1\n") && !is_copy(&first), "{first}");
    let lines = json!([{"foodId": "f", "foodName": "Ramen", "quantity": 1}, {"foodId": "g", "foodName": "Tea", "notes": "hot"}]);
    event(&house, "o-1", "change", &json!({"type": "order.state_changed", "data": {"change": "lines", "orderDetails": lines}}));
    let changed = tickets(&printer, 2).remove(1);
    let section = |from: &str, to: &str| changed.split(from).nth(1).and_then(|rest| rest.split(to).next()).unwrap_or_default().to_owned();
    assert!(changed.starts_with("CHANGED\n"), "{changed}");
    assert!(section("NOT ANY MORE:", "NEW:").contains("1 x Ramen") && section("NEW:", "----").contains("1 x Tea\n    ! hot"), "{changed}");
    assert!(section("The whole order now:", "---").contains("1 x Ramen\n1 x Tea"), "{changed}");
    event(&house, "o-1", "bump", &json!({"type": "order.state_changed", "data": {"status": "PREPARING"}}));
    let asked = house.post("/api/v1/orders/o-1/print", "any", &json!({}));
    assert_eq!((asked.status, asked.json()), (202, json!({"orderId": "o-1", "printers": ["kitchen"]})));
    let copy = tickets(&printer, 3).remove(2);
    assert!(copy.starts_with("* COPY *\nprinted again on request") && copy.contains("1 x Ramen") && !copy.contains("CHANGED"), "{copy}");
    cancel(&house, "o-1");
    assert!(tickets(&printer, 4)[3].starts_with("CANCELLED\n"));
    assert_nothing_more(&house, &printer, 4);
    assert_eq!(house.post("/api/v1/orders/nobody/print", "any", &json!({})).status, 404);
    assert_eq!(house.post("/api/v1/orders/o-1/print", "any", &json!({"printer": "bar"})).status, 409);
    house.stop();
    house.start();
    order(&house, "after", "After");
    let all = tickets(&printer, 6);
    assert!(all.len() == 6 && all[5].contains("After"), "a clean stop leaves nothing to print: {:#?}", &all[5..]);
    assert!(house.get("/metrics").body.contains("dumbwaiter_printer_up{printer=\"kitchen\"} 1"));
    house.stop();
}

#[test]
fn what_waited_for_paper_is_printed_once_and_holds_nobody_up() {
    let (mut out, mut bar) = (Printer::new(Voice::All), Printer::new(Voice::All));
    out.set(Mood::NoPaper);
    let sections = [section("kitchen", out.listen()), section("bar", bar.listen())].concat();
    let mut house = House::new(&sections);
    house.start();
    wait_for_state(&house, "paper_out");
    for n in 0..3 {
        order(&house, &format!("o-{n}"), "Ramen");
    }
    tickets(&bar, 3);
    let waits = wait_for("three to wait", || Some(state(&house)).filter(|state| state["waiting"] == 3));
    assert_eq!(waits["needsPerson"], true);
    let told = house.get("/health").json()["attention"].to_string();
    assert!(told.contains("the printer kitchen has no paper"), "{told}");
    cancel(&house, "o-1");
    wait_for("a cancelled order to wait no longer", || Some(state(&house)).filter(|state| state["waiting"] == 2));
    house.stop();
    house.start();
    wait_for_state(&house, "paper_out");
    out.set(Mood::Well);
    let all = tickets(&out, 2);
    assert!(all[0].contains("o-0") && all[1].contains("o-2") && !all.iter().any(|ticket| is_copy(ticket)), "{all:#?}");
    wait_for_state(&house, "ok");
    assert_eq!(house.get("/health").json()["attention"], json!([]));
    assert_nothing_more(&house, &out, 2);
    assert_eq!(bar.tickets().iter().filter(|ticket| ticket.contains("CANCELLED")).count(), 1);
    house.stop();
}

#[test]
fn a_ticket_that_was_interrupted_comes_again_as_a_copy() {
    let (mut house, printer) = house(Voice::All, "");
    house.start();
    for (n, (mood, word)) in
        [(Mood::NoPaper, "paper_out"), (Mood::CoverOpen, "cover_open"), (Mood::Off, "offline"), (Mood::Hangs, "hanging")]
            .into_iter()
            .enumerate()
    {
        let before = printer.tickets().len();
        printer.then(mood);
        order(&house, &format!("o-{n}"), "Ramen");
        wait_for_state(&house, word);
        printer.set(if mood == Mood::Hangs { Mood::Off } else { Mood::Well });
        printer.set(Mood::Well);
        wait_for_state(&house, "ok");
        let came = wait_for("the copy", || {
            let came = printer.tickets().split_off(before);
            came.iter().any(|ticket| is_copy(ticket)).then_some(came)
        });
        let (copies, torn): (Vec<_>, Vec<_>) = came.iter().partition(|ticket| is_copy(ticket));
        assert!(copies.len() == 1 && torn.len() <= 1, "{mood:?}: {came:#?}");
        assert!(copies[0].contains("printing was interrupted") && copies[0].contains("2 x Ramen"), "{mood:?}: {came:#?}");
    }
    let before = printer.tickets().len();
    assert_nothing_more(&house, &printer, before);
    house.stop();
}

#[test]
fn a_kill_in_the_middle_of_a_ticket_loses_none_and_doubles_none_without_saying_so() {
    let (mut house, printer) = house(Voice::All, "");
    house.start();
    order(&house, "o-1", "Ramen");
    tickets(&printer, 1);
    printer.then(Mood::Hangs);
    order(&house, "o-2", "Udon");
    wait_for_mood(&printer, Mood::Hangs);
    order(&house, "o-3", "Soba");
    house.kill();
    printer.set(Mood::Off);
    printer.set(Mood::Well);
    house.start();
    order(&house, "o-4", "Miso");
    wait_for("the last of them", || printer.tickets().iter().any(|ticket| ticket.contains("Miso")).then_some(()));
    let all = printer.tickets();
    let of = |dish: &str| all.iter().filter(|ticket| ticket.contains(dish) && ticket.contains("o-")).collect::<Vec<_>>();
    assert_eq!((of("Udon").len(), of("Soba").len(), of("Miso").len()), (1, 1, 1), "{all:#?}");
    assert!(is_copy(of("Udon")[0]) && !is_copy(of("Soba")[0]) && !is_copy(of("Miso")[0]), "{all:#?}");
    assert!(of("Ramen")[1..].iter().all(|ticket| is_copy(ticket)), "what was on paper comes again as a copy at most: {all:#?}");
    house.stop();
}

#[test]
fn a_cancellation_that_was_not_printed_is_printed_after_a_kill() {
    let (mut house, printer) = house(Voice::All, "");
    house.start();
    order(&house, "o-1", "Ramen");
    tickets(&printer, 1);
    // Durable that it is on paper: a second ticket brings it along.
    order(&house, "o-2", "Udon");
    tickets(&printer, 2);
    printer.set(Mood::Off);
    cancel(&house, "o-1");
    house.kill();
    printer.set(Mood::Well);
    house.start();
    let all = wait_for("the cancellation", || Some(printer.tickets()).filter(|all| all.iter().any(|ticket| ticket.contains("CANCELLED"))));
    let cancelled: Vec<_> = all.iter().filter(|ticket| ticket.contains("CANCELLED")).collect();
    assert!(cancelled.len() == 1 && cancelled[0].contains("o-1"), "{all:#?}");
    house.stop();
}

#[test]
fn a_printer_at_a_serial_port_may_be_unplugged() {
    let mut printer = Printer::new(Voice::All);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("printer");
    let mut house = House::new(&format!("[[printer]]\nname = \"kitchen\"\npath = {path:?}\n"));
    house.start();
    wait_for_state(&house, "offline");
    order(&house, "o-1", "Ramen");
    printer.plug(&path);
    assert!(tickets(&printer, 1)[0].contains("2 x Ramen"));
    printer.then(Mood::NoPaper);
    order(&house, "o-2", "Udon");
    wait_for_state(&house, "paper_out");
    printer.unplug();
    wait_for_state(&house, "offline");
    order(&house, "o-3", "Soba");
    printer.set(Mood::Off);
    printer.set(Mood::Well);
    let before = printer.tickets().len();
    printer.plug(&path);
    let came = tickets(&printer, before + 2).split_off(before);
    assert!(came.len() == 2 && is_copy(&came[0]) && came[0].contains("Udon"), "{came:#?}");
    assert!(came[1].contains("Soba") && !is_copy(&came[1]), "{came:#?}");
    house.stop();
}

#[test]
fn an_order_puts_no_command_into_the_stream() {
    let (mut house, printer) = house(Voice::All, "");
    house.start();
    let evil = "a\u{1b}@b\u{10}\u{4}\u{1}c\u{1d}V\u{0}d\u{1b}p\u{0}\u{19}\u{fa}\u{9b}e\u{7f}f";
    let line = json!({"foodName": evil, "notes": evil, "modifiers": [evil], "allergens": [evil], "station": evil});
    let body = json!({"orderId": "o-1", "orderDetails": [line], "customerName": evil, "channel": evil, "dueAt": evil,
        "displayNumber": "\u{1b}@9"});
    assert_eq!(house.post("/api/v1/orders", "create", &body).status, 201);
    let ticket = tickets(&printer, 1).remove(0);
    assert!(ticket.contains("a@bcVdp") && ticket.starts_with("@9\n"), "{ticket:?}");
    assert_nothing_more(&house, &printer, 1);
    house.stop();
}

#[test]
fn a_printer_that_says_nothing_prints_when_the_config_knows_it_and_hangs_when_not() {
    let (mut house, mut printer) = house(Voice::Silent, "status = false\n");
    house.start();
    order(&house, "o-1", "Ramen");
    assert!(!is_copy(&tickets(&printer, 1)[0]));
    assert_nothing_more(&house, &printer, 1);
    house.stop();
    house.configure(&section("kitchen", printer.listen()));
    house.start();
    wait_for_state(&house, "hanging");
    let told = house.get("/health").json()["attention"].to_string();
    assert!(told.contains("status = false"), "{told}");
    order(&house, "o-3", "Udon");
    house.stop();
    assert_eq!(printer.tickets().len(), 2, "nothing is printed by a printer that may have no paper");
}

#[test]
fn a_printer_that_never_confirms_prints_a_copy_once_and_then_each_ticket_once() {
    let (mut house, printer) = house(Voice::StateOnly, "confirm_seconds = 2\n");
    house.start();
    order(&house, "o-1", "Ramen");
    let first = tickets(&printer, 2);
    assert!(!is_copy(&first[0]) && is_copy(&first[1]), "{first:#?}");
    wait_for("the printer to be told of", || {
        house.get("/health").json()["attention"].to_string().contains("confirms = false").then_some(())
    });
    assert_nothing_more(&house, &printer, 2);
    house.stop();
}
