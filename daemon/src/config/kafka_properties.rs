//! `[kafka.properties]`: any setting of librdkafka, except those that would break a promise.

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

/// Why a setting is not the config's to give.
enum Refusal {
    /// The gateway sets it: what for.
    Ours(&'static str),
    /// It has a key of its own in `[kafka]`.
    Key(&'static str),
    /// It holds a secret in clear; this key reads it from a file.
    Secret(&'static str),
    /// Only within these bounds: why.
    Bounds(i64, i64, &'static str),
}

use Refusal::{Bounds, Key, Ours, Secret};

const STORED_IS_DELIVERED: &str = "an event leaves the outbox only after every in-sync replica has it";
const NOTHING_EXPIRES: &str = "an outage expires nothing: the gateway decides when to try again";
const ORDER_IS_KEPT: &str = "events of one order keep their order through every failure";
const OFFSETS_ARE_STORED: &str = "offsets live in the store, with the changes that they caused";
const OWN_GROUP: &str = "the group is named after the gateway";
const WHOLE_ORDERS: &str = "an order of the largest size must fit";
const MEMORY: &str = "memory is bounded";

/// Every setting that is refused or bounded, with the reason. Names and aliases are those of librdkafka 2.12's CONFIGURATION.md.
const REFUSALS: &[(&str, Refusal)] = &[
    ("acks", Ours(STORED_IS_DELIVERED)),
    ("request.required.acks", Ours(STORED_IS_DELIVERED)),
    ("enable.idempotence", Ours("a retry inside librdkafka must neither double nor reorder")),
    ("enable.gapless.guarantee", Ours(ORDER_IS_KEPT)),
    ("max.in.flight", Bounds(1, 5, ORDER_IS_KEPT)),
    ("max.in.flight.requests.per.connection", Bounds(1, 5, ORDER_IS_KEPT)),
    ("queuing.strategy", Ours(ORDER_IS_KEPT)),
    ("message.timeout.ms", Ours(NOTHING_EXPIRES)),
    ("delivery.timeout.ms", Ours(NOTHING_EXPIRES)),
    ("retries", Ours(NOTHING_EXPIRES)),
    ("message.send.max.retries", Ours(NOTHING_EXPIRES)),
    ("delivery.report.only.error", Ours("without a report of success nothing could ever leave the outbox")),
    ("dr_cb", Ours("it is the gateway's own")),
    ("dr_msg_cb", Ours("it is the gateway's own")),
    ("transactional.id", Ours("uplink.delivery decides about transactions")),
    ("transaction.timeout.ms", Ours("uplink.delivery decides about transactions")),
    ("queue.buffering.max.kbytes", Bounds(8_192, 131_072, MEMORY)),
    ("queue.buffering.max.messages", Bounds(10_000, 200_000, MEMORY)),
    ("queued.max.messages.kbytes", Bounds(1_024, 65_536, MEMORY)),
    ("message.max.bytes", Bounds(65_536, 1_000_000_000, WHOLE_ORDERS)),
    ("batch.size", Bounds(65_536, 2_147_483_647, WHOLE_ORDERS)),
    ("isolation.level", Ours("only committed events are read")),
    ("enable.auto.commit", Ours(OFFSETS_ARE_STORED)),
    ("auto.commit.enable", Ours(OFFSETS_ARE_STORED)),
    ("enable.auto.offset.store", Ours(OFFSETS_ARE_STORED)),
    ("offset.store.method", Ours(OFFSETS_ARE_STORED)),
    ("offset.store.path", Ours(OFFSETS_ARE_STORED)),
    ("auto.offset.reset", Ours(OFFSETS_ARE_STORED)),
    ("group.id", Ours(OWN_GROUP)),
    ("group.instance.id", Ours(OWN_GROUP)),
    ("group.protocol", Ours(OWN_GROUP)),
    ("client.id", Ours("it is made of gateway.id, by which the centre's logs and quotas know the gateway")),
    ("bootstrap.servers", Key("kafka.brokers")),
    ("metadata.broker.list", Key("kafka.brokers")),
    ("partitioner", Key("kafka.partitioner")),
    ("compression.codec", Key("kafka.compression")),
    ("compression.type", Key("kafka.compression")),
    ("security.protocol", Key("kafka.security")),
    ("sasl.mechanism", Key("kafka.sasl_mechanism")),
    ("sasl.mechanisms", Key("kafka.sasl_mechanism")),
    ("sasl.username", Key("kafka.username")),
    ("ssl.ca.location", Key("kafka.ca_file")),
    ("ssl.certificate.location", Key("kafka.cert_file")),
    ("ssl.key.location", Key("kafka.key_file")),
    ("sasl.password", Secret("kafka.password_file")),
    ("ssl.key.password", Secret("kafka.key_password_file")),
    ("ssl.key.pem", Secret("kafka.key_file")),
    ("ssl.keystore.password", Secret("kafka.key_file")),
    ("sasl.oauthbearer.client.secret", Secret("kafka.password_file")),
    ("sasl.oauthbearer.config", Secret("kafka.password_file")),
    ("enable.ssl.certificate.verification", Ours("anyone could play the broker; give its authority in kafka.ca_file")),
    ("plugin.library.paths", Ours("it loads foreign code into the gateway")),
    ("test.mock.num.brokers", Ours("events would go to a Kafka that exists only in memory")),
];

/// Checks one setting: its name and its value by librdkafka itself, and that it breaks no promise.
///
/// # Errors
/// What is wrong and what to do.
pub(super) fn check(name: &str, value: &str) -> Result<(), String> {
    match REFUSALS.iter().find(|(refused, _)| *refused == name).map(|(_, refusal)| refusal) {
        Some(Ours(reason)) => return Err(format!("is not to be set: {reason}; remove it")),
        Some(Key(key)) => return Err(format!("has a key of its own; use {key}")),
        Some(Secret(key)) => return Err(format!("would be a secret in clear; use {key}")),
        Some(Bounds(least, most, reason)) if !value.parse().is_ok_and(|number| (*least..=*most).contains(&number)) => {
            return Err(format!("is {value}; give {least} to {most}: {reason}"));
        }
        Some(Bounds(..)) | None => {}
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, description, ..)) => Err(format!("is refused by librdkafka: {description}")),
        Err(e) => Err(format!("is refused by librdkafka: {e}")),
    }
}
