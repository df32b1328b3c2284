//! Orders as they are: lines change, money comes and goes back, the centre has orders of its own. Each goes from the terminal to Kafka, from
//! Kafka to the house, and into the sums of the day.

use crate::house::{House, dumbwaiter, order, wait_for};
use crate::kafka::{Kafka, Seen};
use serde_json::{Value, json};

/// A house whose centre writes to `order-status`.
struct Trip {
    kafka: Kafka,
    house: House,
}

impl Trip {
    fn new(more: &str) -> Trip {
        let kafka = Kafka::start();
        // The mock waits for all of this time, also when a record is there.
        let downlink = "[kafka.properties]\n\"fetch.wait.max.ms\" = 100\n[[downlink]]\ntopic = \"order-status\"\nselect = \"all\"\n";
        let mut house = House::new(&format!("{}{downlink}{more}", kafka.section()));
        house.start();
        Trip { kafka, house }
    }

    /// A new order of 2 × 12.50.
    fn order(&self, id: &str) {
        let mut order = order(id);
        order["totalPrice"] = json!(25);
        let answer = self.house.post("/api/v1/orders", &format!("{id}-new"), &order);
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    fn event(&self, id: &str, key: &str, event: &Value) -> u16 {
        self.house.post(&format!("/api/v1/orders/{id}/events"), key, event).status
    }

    fn told(&self, id: &str, key: &str, event: &Value) {
        assert_eq!(self.event(id, key, event), 201, "{event}");
    }

    /// The centre says something of an order.
    fn centre(&self, id: &str, event_type: &str, data: &Value) {
        let event = json!({"id": "c", "type": event_type, "orderId": id, "data": data});
        self.kafka.put("order-status", "store-042", &event.to_string());
    }

    fn view(&self, id: &str) -> Value {
        self.house.get(&format!("/api/v1/orders/{id}")).json()
    }

    /// The order, once it is as wanted.
    fn becomes(&self, id: &str, wanted: &Value) -> Value {
        wait_for(&format!("{id} to be {wanted}"), || {
            let view = self.view(id);
            wanted.as_object()?.iter().all(|(field, value)| view[field] == *value).then_some(view)
        })
    }

    /// The open orders, as the kitchen gets them.
    fn kitchen(&self) -> Vec<Value> {
        self.house.get("/api/v1/orders").json()["orders"].as_array().expect("a list").clone()
    }

    fn stands_in_the_kitchen(&self, id: &str) -> bool {
        self.kitchen().iter().any(|order| order["orderId"] == id)
    }

    /// Whether customers see a number, and where.
    fn board(&self, ticket: &Value) -> Option<&'static str> {
        let (board, number) = (self.house.get("/board.json").json(), ticket.to_string());
        let stands_in =
            |column: &str| board[column].as_array().is_some_and(|entries| entries.iter().any(|e| e["number"].as_str() == Some(&number)));
        ["preparing", "ready"].into_iter().find(|column| stands_in(column))
    }

    fn day(&self) -> Value {
        let url = format!("http://{}", self.house.http);
        let output = dumbwaiter(&["day", "--json", "--url", &url]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What of Kafka concerns an order, once there is so much.
    fn events(&self, id: &str, count: usize) -> Vec<Seen> {
        let of = |seen: &[Seen]| seen.iter().filter(|event| event.key == id).cloned().collect::<Vec<_>>();
        of(&self.kafka.read_until(|seen| of(seen).len() >= count))
    }
}

/// A sum as its text says it.
fn sum(value: &Value) -> String {
    value.to_string()
}

#[test]
fn lines_money_and_ends_of_orders_reach_kafka_the_displays_and_the_day() {
    let trip = Trip::new("");

    // One line is voided, another added: the house sees the new ones and their sum.
    trip.order("lines");
    let line = |name: &str, price: f64| json!({"foodId": name, "foodName": name, "price": price, "quantity": 1});
    let lines = json!({"change": "lines", "orderDetails": [line("Soup", 4.2), line("Tea", 2.1)]});
    trip.told("lines", "l-1", &json!({"type": "order.state_changed", "data": lines}));
    let view = trip.becomes("lines", &json!({"totalPrice": 6.3, "status": "CREATED"}));
    assert_eq!(
        view["lines"].as_array().map(|lines| lines.iter().map(|l| l["foodName"].clone()).collect()),
        Some(vec![json!("Soup"), json!("Tea")])
    );
    assert!(trip.kitchen().iter().any(|order| order["lines"][0]["foodName"] == "Soup"), "the kitchen has them too");
    let sent = trip.events("lines", 2);
    assert_eq!((&sent[1].value["data"]["change"], &sent[1].value["data"]["orderDetails"][1]["price"]), (&json!("lines"), &json!(2.1)));

    // Paid at the till; some is given back there, the rest by the centre.
    trip.order("refund");
    trip.told("refund", "r-1", &json!({"type": "order.payment_processed", "data": {}}));
    let refund = |amount: f64| json!({"change": "refund", "amount": amount, "reason": "cold"});
    trip.told("refund", "r-2", &json!({"type": "order.state_changed", "data": refund(2.5)}));
    trip.becomes("refund", &json!({"payment": "PARTLY_REFUNDED", "refunded": 2.5}));
    trip.centre("refund", "order.state_changed", &refund(22.5));
    trip.becomes("refund", &json!({"payment": "REFUNDED", "refunded": 25.0}));
    assert_eq!(trip.events("refund", 3)[2].value["data"]["amount"], json!(2.5));

    // Called off before anybody began, and while somebody works: the kitchen has to see the second.
    trip.order("void");
    trip.told("void", "v-1", &json!({"type": "order.cancelled", "data": {"reason": "mistyped"}}));
    assert!(!trip.stands_in_the_kitchen("void"));
    assert_eq!(trip.event("void", "v-2", &json!({"type": "order.state_changed", "data": {"status": "READY"}})), 409);
    trip.order("stopped");
    trip.told("stopped", "s-1", &json!({"type": "order.state_changed", "data": {"status": "PREPARING"}}));
    let ticket = trip.view("stopped")["ticket"].clone();
    wait_for("the board", || (trip.board(&ticket) == Some("preparing")).then_some(()));
    trip.centre("stopped", "order.cancelled", &json!({}));
    trip.becomes("stopped", &json!({"status": "CANCELLED", "alarm": "CANCELLED"}));
    assert!(trip.stands_in_the_kitchen("stopped"));
    wait_for("customers not to see it", || trip.board(&ticket).is_none().then_some(()));
    trip.told("stopped", "s-2", &json!({"type": "order.state_changed", "data": {"change": "reopen"}}));
    trip.becomes("stopped", &json!({"status": "PREPARING"}));
    wait_for("it to stand on the board again", || (trip.board(&ticket) == Some("preparing")).then_some(()));

    // Each state of a payment, from the centre. One that fails in work is an alarm.
    trip.order("paid");
    for payment in ["FAILED", "PENDING", "PAID"] {
        trip.centre("paid", "order.payment_processed", &json!({"status": payment}));
        let view = trip.becomes("paid", &json!({"payment": payment}));
        assert!(view.get("alarm").is_none(), "nobody works on it: {view}");
    }
    trip.centre("stopped", "order.payment_processed", &json!({"status": "FAILED"}));
    trip.becomes("stopped", &json!({"payment": "FAILED", "alarm": "PAYMENT_FAILED"}));

    // Once the kitchen is ahead the centre's word moves nothing back; what the driver says does.
    trip.told("paid", "p-1", &json!({"type": "order.state_changed", "data": {"status": "READY"}}));
    trip.centre("paid", "order.state_changed", &json!({"status": "CONFIRMED"}));
    trip.centre("paid", "order.shipper_assigned", &json!({"shipperName": "bike 7"}));
    trip.becomes("paid", &json!({"status": "READY", "shipper": "bike 7"}));
    trip.centre("paid", "order.state_changed", &json!({"status": "OUT_FOR_DELIVERY"}));
    trip.centre("paid", "order.delivered", &json!({}));
    trip.becomes("paid", &json!({"status": "DELIVERED"}));
    assert!(!trip.stands_in_the_kitchen("paid"));

    let day = trip.day();
    assert_eq!((day["remembered"].as_bool(), day["over"].as_bool()), (Some(true), Some(false)), "{day}");
    let total = &day["total"];
    assert_eq!((total["orders"].as_u64(), sum(&total["sum"])), (Some(5), "106.3".into()), "{day}");
    assert_eq!((total["cancelled"]["orders"].as_u64(), sum(&total["cancelled"]["sum"])), (Some(1), "25".into()), "{day}");
    assert_eq!((total["refunded"]["orders"].as_u64(), sum(&total["refunded"]["sum"])), (Some(1), "25.0".into()), "{day}");
    // The changed one, and the one whose payment failed.
    assert_eq!((total["unpaid"]["orders"].as_u64(), sum(&total["unpaid"]["sum"])), (Some(2), "31.3".into()), "{day}");
    assert_eq!(sum(&total["net"]), "56.3", "{day}");
    assert_eq!((&day["terminals"][0]["terminal"], day["terminals"].as_array().map(Vec::len)), (&json!("till-1"), Some(1)));
    wait_for("the centre to have all of the day", || (trip.day()["centre"]["everything"] == true).then_some(()));
}

#[test]
fn orders_of_the_centre_of_nobody_and_too_late_are_told_apart() {
    let mut trip = Trip::new("");

    // Born at the centre: it has a ticket and stands in the kitchen like one of the house's, and nothing of it goes back.
    let data =
        json!({"restaurantId": "elsewhere", "totalPrice": 9.9, "orderDetails": [{"foodName": "Ramen", "price": 9.9, "quantity": 1}]});
    trip.centre("app-1", "order.created", &data);
    let view = wait_for("the centre's order", || Some(trip.view("app-1")).filter(|view| view["ticket"].is_number()));
    assert!(trip.stands_in_the_kitchen("app-1") && view.get("terminalId").is_none(), "{view}");
    wait_for("the board", || (trip.board(&view["ticket"]) == Some("preparing")).then_some(()));
    trip.told("app-1", "a-1", &json!({"type": "order.state_changed", "data": {"status": "READY"}}));
    wait_for("the board", || (trip.board(&view["ticket"]) == Some("ready")).then_some(()));
    assert_eq!(trip.events("app-1", 1)[0].value["data"]["status"], "READY");
    // Of somebody else's order the house knows nothing.
    trip.kafka.put(
        "order-status",
        "store-007",
        &json!({"id": "c", "type": "order.created", "orderId": "theirs", "data": data}).to_string(),
    );
    trip.centre("nobody", "order.state_changed", &json!({"status": "CONFIRMED"}));

    // What the house does to an order that it does not know goes to the centre, and nowhere else.
    trip.told("unknown", "u-1", &json!({"type": "order.cancelled", "data": {}}));
    assert_eq!(trip.events("unknown", 1)[0].value["type"], "order.cancelled");
    for id in ["unknown", "nobody", "theirs"] {
        assert_eq!(trip.house.get(&format!("/api/v1/orders/{id}")).status, 404, "{id}");
    }

    // In time, and too late: that it was in time is not passed on, and what was too late was never stored.
    let mut late = order("in-time");
    late["validForMs"] = json!(60_000);
    assert_eq!(trip.house.post("/api/v1/orders", "in-time", &late).status, 201);
    assert!(trip.events("in-time", 1)[0].value.to_string().find("validForMs").is_none());
    let (mut stored, mut n) = (0, 0);
    let too_late = wait_for("a request to be too late", || {
        n += 1;
        let id = format!("late-{n}");
        let mut late = order(&id);
        late["validForMs"] = json!(0);
        match trip.house.post("/api/v1/orders", &id, &late).status {
            201 => stored += 1,
            410 => return Some(id),
            other => panic!("{other}"),
        }
        None
    });
    assert_eq!(trip.house.get(&format!("/api/v1/orders/{too_late}")).status, 404);

    let day = trip.day();
    let rows = day["terminals"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| row["from"].clone()).collect::<Vec<_>>(), ["terminal", "centre"], "{day}");
    assert_eq!((rows[0]["orders"].as_u64(), rows[1]["orders"].as_u64()), (Some(stored + 1), Some(1)), "{day}");
    assert_eq!((sum(&rows[1]["sum"]), rows[1]["unpaid"]["orders"].as_u64()), ("9.9".into(), Some(1)), "{day}");

    // The line is cut: the day says what waits, since when, also for the next start and for people.
    wait_for("the centre to have all of the day", || (trip.day()["centre"]["everything"] == true).then_some(()));
    trip.kafka.cut();
    trip.order("waits");
    trip.told("waits", "w-1", &json!({"type": "order.payment_processed", "data": {}}));
    trip.house.kill();
    trip.house.start();
    let centre = trip.day()["centre"].clone();
    assert_eq!(
        (centre["everything"].as_bool(), centre["waiting"].as_u64(), centre["deadLetters"].as_u64()),
        (Some(false), Some(2), Some(0)),
        "{centre}"
    );
    assert!(centre["since"].is_string(), "{centre}");
    let said = dumbwaiter(&["day", "--url", &format!("http://{}", trip.house.http)]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("2 events of this day not at the centre, the oldest from ") && said.contains("till-1"), "{said}");
    trip.kafka.mend();
    wait_for("the centre to have all of the day", || (trip.day()["centre"]["everything"] == true).then_some(()));

    // An event that Kafka can never take is named.
    trip.kafka.refuse();
    trip.order("dead");
    let dead = wait_for("a dead letter", || trip.day()["centre"]["dead"][0]["seq"].as_u64());
    trip.kafka.take();
    assert_eq!(trip.house.get("/api/v1/dead-letters").json()["deadLetters"][0]["seq"], dead);

    // Other days.
    assert_eq!(trip.house.get("/api/v1/day?date=2999-01-01").status, 404);
    assert_eq!(trip.house.get("/api/v1/day?date=31.1.2024").status, 422);
    let long_ago = trip.house.get("/api/v1/day?date=2024-01-31").json();
    assert_eq!(
        (long_ago["remembered"].as_bool(), long_ago["total"]["orders"].as_u64(), long_ago["over"].as_bool()),
        (Some(false), Some(0), Some(true))
    );

    // A strict house refuses what it does not know.
    trip.house.stop();
    let config = std::fs::read_to_string(trip.house.config()).expect("the config");
    std::fs::write(trip.house.config(), format!("{config}[orders]\nstrict = true\n")).expect("the config");
    trip.house.start();
    assert_eq!(trip.event("unknown-2", "u-2", &json!({"type": "order.cancelled", "data": {}})), 404);
}
