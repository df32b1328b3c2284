//! Records to store.

use gateway::event::{Clock, OrderEvent};
use gateway::ids::{Epoch, Name, OrderId, RequestKey, Seq, Ticket};
use gateway::io::{Counters, DeadLetter, PartitionName, Remembered};
use gateway::order::{Line, Moment, Projection, Source, Status};
use gateway::request::EventType;

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn order_id(text: &str) -> OrderId {
    text.parse().unwrap()
}

pub fn request(terminal: &str, id: &str) -> RequestKey {
    RequestKey { terminal: name(terminal), request_id: id.parse().unwrap() }
}

pub fn event(order: &str, data: &str) -> OrderEvent {
    OrderEvent {
        epoch: Epoch(0x1122_3344_5566_7788),
        request: request("till-1", "01JC-7"),
        id: [0xAB; 16],
        event_type: EventType::Created,
        order_id: order_id(order),
        user_id: Some("user-456".into()),
        occurred_at_ms: 1_704_110_400_000,
        clock: Clock::Synced,
        data: data.into(),
    }
}

pub fn remembered(seq: u64, stored_run_ms: u64) -> Remembered {
    Remembered {
        body_hash: [0xCD; 16],
        order_id: order_id("order-123"),
        event_id: [0xAB; 16],
        ticket: Some(42),
        seq: Seq(seq),
        stored_run_ms,
    }
}

pub fn projection(order: &str, open: bool) -> Projection {
    let line = Line {
        food_id: "food-001".into(),
        food_name: "Pizza Margherita".into(),
        quantity: 2,
        modifiers: vec!["extra cheese".into()],
        notes: "well done".into(),
        allergens: vec!["milk".into()],
        station: "oven".into(),
        status: Status::Created,
    };
    let at = Moment { wall_ms: 1_704_110_400_000, run_ms: 5_000 };
    let mut projection = Projection::new(order_id(order), |_| None, vec![line], 0, at);
    projection.ticket = Some(Ticket(42));
    projection.terminal = Some(name("till-1"));
    projection.history.push(gateway::order::Report { status: Status::Confirmed, source: Source::Centre, at_ms: 1_704_110_401_000 });
    projection.open = open;
    projection
}

pub fn dead_letter(order: &str) -> DeadLetter {
    DeadLetter { event: event(order, "{}"), reason: "MessageSizeTooLarge".into(), since_ms: 1_704_110_400_000, attempts: 2 }
}

pub fn counters() -> Counters {
    Counters { last_ticket: 42, business_day: 19_723, running_ms: 86_400_000, last_wall_ms: 1_704_110_400_000 }
}

pub fn partition(topic: &str, partition: i32) -> PartitionName {
    PartitionName { topic: topic.into(), partition }
}
