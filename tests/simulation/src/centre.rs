//! The chain's centre: it reads the gateway's topic and tells the house, in every way a topic may be shared.

use crate::deed::Deed;
use crate::faults::Fault;
use crate::kafka::{EVENTS, LogRecord, PARTITIONS, partition_of};
use crate::model::{Check, Told};
use crate::world::{Event, World};
use gateway::event::OrderEvent;
use gateway::ids::{Epoch, OrderId};
use gateway::io::{Input, PartitionName, Record, Select};
use gateway::order::{Payment, Status};
use std::collections::BTreeMap;

/// The topic that is keyed by gateway id.
pub const STATUS: &str = "order-status";
/// This gateway's own topic.
pub const OWN: &str = "order-status.store-042";
/// Every topic.
pub const TOPICS: [(&str, Select); 3] = [(STATUS, Select::Partition), (OWN, Select::Topic), (EVENTS, Select::All)];
/// Longest time that the centre takes over an order.
const THINKS_MS: u64 = 60_000;

/// What a record means to this house.
#[derive(Debug, Clone)]
pub enum Meaning {
    /// Nothing: it is foreign, poison, or our own.
    Nothing,
    /// Something happened to an order.
    Told(Told),
}

/// What the centre does next.
#[derive(Debug, Clone)]
pub enum Step {
    /// It says something about an order.
    Say(OrderId, Deed),
    /// It sells an order itself.
    Sell,
    /// It says what it always says.
    Chatter,
}

/// The centre.
#[derive(Debug, Default)]
pub struct Centre {
    /// Orders that were born here.
    sold: u64,
    /// Next offset of each partition, as the gateway's consumer reads on.
    pub positions: BTreeMap<PartitionName, i64>,
    /// Steps that are to come.
    pub due: u64,
}

impl World {
    /// The centre reads an event of this house for the first time.
    pub fn centre_reads(&mut self, event: &OrderEvent) {
        if event.event_type != gateway::request::EventType::Created {
            return;
        }
        let steps = self.dice.between(0, 3);
        for _ in 0..steps {
            let usual = [
                Deed::Status(Status::Confirmed),
                Deed::Status(Status::Preparing),
                Deed::Pay(Payment::Paid),
                Deed::Pay(Payment::Failed),
                Deed::Status(Status::OutForDelivery),
            ];
            let deed = if self.dice.chance(700) { usual[self.dice.index(usual.len())].clone() } else { Deed::any_change(&mut self.dice) };
            self.centre_will(Step::Say(event.order_id.clone(), deed));
        }
    }

    /// The centre does something in a while.
    pub fn centre_will(&mut self, step: Step) {
        let after = if self.dice.chance(500) { self.dice.between(1, 500) } else { self.dice.between(1, THINKS_MS) };
        self.centre.due += 1;
        self.at(after, Event::Centre(step));
    }

    /// The centre does what was due.
    pub fn centre_step(&mut self, step: Step) {
        self.centre.due -= 1;
        match step {
            Step::Say(order, deed) => self.publish(&order, &deed),
            Step::Sell => {
                self.centre.sold += 1;
                let order: OrderId = format!("web-{}", self.centre.sold).parse().expect("an order id");
                self.orders.push(order.clone());
                let deed = Deed::new_order(&mut self.dice);
                self.publish(&order, &deed);
            }
            Step::Chatter => self.chatter(),
        }
    }

    fn publish(&mut self, order: &OrderId, deed: &Deed) {
        let (topic, select) = self.dice.pick(&TOPICS);
        let ours = select != Select::All || self.dice.chance(700);
        let restaurant = if ours { "restaurant-789" } else { "restaurant-1" };
        let value = value(order, deed, restaurant);
        let (key, partition) = match select {
            Select::Partition => ("store-042".to_owned(), partition_of("store-042")),
            Select::All | Select::Topic => (order.as_str().to_owned(), partition_of(order.as_str())),
        };
        let meaning = Meaning::Told(Told { order: order.clone(), deed: deed.clone(), ours });
        let record = LogRecord { key: Some(key.into_bytes()), value: Some(value.into_bytes()), gateway_id: None, epoch: None, meaning };
        let copies = if self.storm(Fault::RepeatedStatus) && self.dice.chance(200) { 2 } else { 1 };
        for _ in 0..copies {
            self.append(topic, partition, record.clone());
        }
    }

    /// What concerns nobody here.
    fn chatter(&mut self) {
        let (topic, _) = self.dice.pick(&TOPICS);
        let partition = self.dice.index(PARTITIONS);
        let nothing = |key: Option<&str>, value: Option<&[u8]>| LogRecord {
            key: key.map(|key| key.as_bytes().to_vec()),
            value: value.map(<[u8]>::to_vec),
            gateway_id: None,
            epoch: None,
            meaning: Meaning::Nothing,
        };
        if self.storm(Fault::PoisonStatus) {
            const POISON: [&[u8]; 8] = [
                b"",
                b"\xff\x00",
                b"[]",
                br#"{"type":"order.eaten","orderId":"o-1","data":{}}"#,
                br#"{"type":"order.state_changed","orderId":"o-1","data":{"status":"COOKED"}}"#,
                br#"{"type":"order.state_changed","orderId":"","data":{"status":"READY"}}"#,
                br#"{"type":"order.delivered","orderId":7}"#,
                br#"{"type":"order.delivered","orderId":"o-1","version":"2.0"}"#,
            ];
            let bytes = POISON[self.dice.index(POISON.len())];
            let value = self.dice.chance(900).then_some(bytes);
            self.append(topic, partition, nothing(Some("store-042"), value));
        }
        if self.storm(Fault::ForeignStatus) {
            let order = self.some_order();
            let value = value(&order, &Deed::Cancel, "restaurant-1");
            self.append(STATUS, partition, nothing(Some("store-7"), Some(value.as_bytes())));
            let mut other = nothing(Some("x"), Some(value.as_bytes()));
            other.gateway_id = Some("store-042".into());
            other.epoch = Some(Epoch(self.dice.next()));
            self.append(topic, partition, other);
        }
    }

    /// Appends a record to a topic that the house reads.
    pub fn append(&mut self, topic: &str, partition: usize, record: LogRecord) {
        self.kafka.append(topic, partition, record);
        let after = self.dice.between(1, 20);
        self.at(after, Event::Consume);
    }

    /// The gateway's consumer hands on what it has, as long as the core takes it.
    pub fn consume(&mut self) -> Check {
        if self.outage {
            return Ok(());
        }
        for (topic, select) in TOPICS {
            for partition in 0..PARTITIONS {
                while self.gateway.as_ref().is_some_and(|gateway| gateway.takes_status()) {
                    let at = PartitionName { topic: topic.into(), partition: i32::try_from(partition).expect("small") };
                    let offset = self.kafka.next_offset(topic, partition, self.centre.positions.get(&at).copied());
                    let Some(record) = self.kafka.logs[topic][partition].get(usize::try_from(offset).expect("no negative offset")) else {
                        break;
                    };
                    self.centre.positions.insert(at.clone(), offset + 1);
                    let input = Input::Status(Record {
                        at: at.clone(),
                        offset,
                        key: record.key.clone(),
                        value: record.value.clone(),
                        gateway_id: record.gateway_id.clone(),
                        gateway_epoch: record.epoch,
                        select,
                    });
                    let told = match &record.meaning {
                        Meaning::Nothing => None,
                        Meaning::Told(told) => Some(told.clone()),
                    };
                    self.model.status_read(&at, offset, told);
                    self.feed(input)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the consumer has read everything.
    pub fn all_consumed(&self) -> bool {
        TOPICS.iter().all(|(topic, _)| {
            self.kafka.logs[*topic].iter().enumerate().all(|(partition, log)| {
                let at = PartitionName { topic: (*topic).into(), partition: i32::try_from(partition).expect("small") };
                let end = i64::try_from(log.len()).expect("small");
                self.kafka.next_offset(topic, partition, self.centre.positions.get(&at).copied()) == end
            })
        })
    }
}

fn value(order: &OrderId, deed: &Deed, restaurant: &str) -> String {
    format!(
        r#"{{"id":"e","type":"{}","orderId":"{order}","data":{},"occurredAt":"2024-01-01T12:00:00Z","version":"1.0"}}"#,
        deed.event_type(),
        deed.data(&format!(r#""restaurantId":"{restaurant}""#)),
    )
}
