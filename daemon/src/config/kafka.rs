//! `[kafka]`, `[uplink]` and `[[downlink]]`.

use super::Context;
use super::files::PemFile;
use super::kafka_properties;
use super::secret::Secret;
use super::section::{At, Section};
use super::values::{BehindDead, Broker, Compression, DeliveryMode, SaslMechanism, Security, TopicName};
use gateway::dialect::{Dialect, Partitioner};
use gateway::ids::Name;
use gateway::io::Select;
use std::ops::RangeInclusive;

/// Most status topics.
pub const DOWNLINKS_MAX: usize = 16;
/// Dead letters at which new orders are refused: an alarm comes before.
const DEAD_LETTER_ALARM_MAX: u64 = 10_000;
/// In a downlink's topic it stands for the gateway's id.
const GATEWAY_PATTERN: &str = "{gateway}";

/// Bounds of `uplink.transaction_seconds`: a batch must get through a slow line, and readers must not wait for long for one that was cut off.
const TRANSACTION_S: RangeInclusive<u64> = 15..=30;

/// `[uplink]`: what Kafka may see of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Once, or again with the same (gateway, epoch, seq).
    AtLeastOnce,
    /// Once, for who reads committed events only.
    ExactlyOnce {
        /// Brokers end a transaction that is open for longer, in seconds.
        transaction_s: u64,
    },
}

/// `[kafka]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Brokers to begin with, at least one.
    pub brokers: Vec<Broker>,
    /// Where events go.
    pub topic: TopicName,
    /// Where dead letters and what is held behind them go as well; `None` if they stay here alone.
    pub dead_letter_topic: Option<TopicName>,
    /// So many dead letters are a person's business.
    pub dead_letter_alarm: u64,
    /// Where the sign of life goes; `None` if it is off.
    pub status_topic: Option<TopicName>,
    /// How a key becomes a partition.
    pub partitioner: Partitioner,
    /// How records are packed.
    pub compression: Compression,
    /// How brokers are spoken to.
    pub security: Security,
    /// Present if and only if `security` wants it.
    pub sasl: Option<Sasl>,
    /// Who signed the brokers' certificates, in PEM; the system's authorities if `None`.
    pub ca_file: Option<PemFile>,
    /// Our own certificate and its key, in PEM.
    pub certificate: Option<ClientCertificate>,
    /// `[kafka.properties]`: each known to librdkafka, none that would break a promise. Apply them before anything else.
    pub properties: Vec<(String, String)>,
}

/// How the gateway shows who it is by a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How the password is shown.
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// How the gateway shows who it is by TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, in PEM.
    pub cert_file: PemFile,
    /// Its key, in PEM.
    pub key_file: PemFile,
    /// The key's password, if it has one.
    pub key_password: Option<Secret>,
}

/// `[[downlink]]`: a topic from which events for the house are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downlink {
    /// The topic, with the gateway's id in place of `{gateway}`.
    pub topic: TopicName,
    /// How the house's own events are found in it.
    pub source: DownlinkSource,
}

/// How the house's own events are found in a topic, and which partitions are read for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownlinkSource {
    /// Every partition; what concerns this house counts.
    All,
    /// The one partition that the partitioner gives for the gateway's id; records with that key count.
    Keyed(Partitioner),
    /// This partition; records with the gateway's id as key count.
    Partition(i32),
    /// Every partition: the topic is this gateway's own.
    Topic,
}

impl DownlinkSource {
    /// The core's word for it.
    pub fn select(self) -> Select {
        match self {
            DownlinkSource::All => Select::All,
            DownlinkSource::Keyed(_) | DownlinkSource::Partition(_) => Select::Partition,
            DownlinkSource::Topic => Select::Topic,
        }
    }
}

/// `None` only after a problem was noted.
pub(super) fn read(mut section: Section<'_>, dialect: Dialect, context: &Context<'_>) -> Option<Kafka> {
    let brokers = section.required::<Vec<Broker>>("brokers", "give at least one, brokers = \"k1:9092,k2:9092\"");
    if let Some(At { origin, .. }) = brokers.as_ref().filter(|at| at.value.is_empty()) {
        section.problem(origin, "brokers", "is empty; give at least one, brokers = \"k1:9092,k2:9092\"");
    }
    let topic = section.or("topic", known_topic("order-events"));
    let dead_letter_topic = read_optional_topic(&mut section, "dead_letter_topic", "order-events-dlq");
    let dead_letter_alarm = section.within("dead_letter_alarm", 1, 1..=DEAD_LETTER_ALARM_MAX);
    let status_topic = read_optional_topic(&mut section, "status_topic", "gateway-status");
    let partitioner = section.or("partitioner", dialect.partitioner());
    // The centre's own producers write it, so all that read them can read it; zstd is smaller, and refused by Kafka before 2.1.
    let compression = section.or("compression", Compression::Snappy);
    let security = section.or("security", Security::Plaintext);
    let sasl = read_sasl(&mut section, security, context);
    let ca_named = section.has("ca_file");
    let ca_file = section.pem("ca_file", "kafka.ca", context);
    let certificate = read_certificate(&mut section, security, context);
    if let Some(At { origin, .. }) = ca_file.as_ref().filter(|_| ca_named && !security.tls()) {
        section.problem(origin, "ca_file", format!("is of no use with security = \"{}\"; give ssl or sasl_ssl", security.as_str()));
    }
    let properties = section.section("properties").map(read_properties).unwrap_or_default();
    section.finish();
    Some(Kafka {
        brokers: brokers?.value,
        topic,
        dead_letter_topic,
        dead_letter_alarm,
        status_topic,
        partitioner,
        compression,
        security,
        sasl,
        ca_file: ca_file.map(|at| at.value),
        certificate,
        properties,
    })
}

fn known_topic(name: &str) -> TopicName {
    name.parse().expect("the callers give valid names")
}

fn read_optional_topic(section: &mut Section<'_>, key: &'static str, default: &str) -> Option<TopicName> {
    let Some(At { origin, value }) = section.get::<String>(key) else { return Some(known_topic(default)) };
    if value.is_empty() {
        return None;
    }
    value.parse().map_err(|e| section.problem(&origin, key, format!("'{value}' {e}; empty turns it off"))).ok()
}

fn read_sasl(section: &mut Section<'_>, security: Security, context: &Context<'_>) -> Option<Sasl> {
    let of_no_use = format!("is of no use with security = \"{}\"; give sasl_ssl or sasl_plaintext", security.as_str());
    let named = [section.has("username"), section.has("password_file")];
    let mechanism = section.get::<SaslMechanism>("sasl_mechanism");
    let username = section.get::<String>("username");
    let password = section.secret("password_file", "kafka.password", context);
    if !security.sasl() {
        let given = [
            mechanism.map(|at| ("sasl_mechanism", at.origin)),
            username.map(|at| ("username", at.origin)),
            password.filter(|_| named[1]).map(|at| ("password_file", at.origin)),
        ];
        for (key, origin) in given.into_iter().flatten() {
            section.problem(&origin, key, of_no_use.as_str());
        }
        return None;
    }
    let missing =
        |key, what| section.problem(section.origin(), key, format!("is missing for security = \"{}\"; {what}", security.as_str()));
    if username.is_none() && !named[0] {
        missing("username", "name the user");
    }
    if password.is_none() && !named[1] {
        missing("password_file", "name the file that holds the password, or give the systemd credential kafka.password");
    }
    let mechanism = mechanism.map_or(SaslMechanism::Plain, |at| at.value);
    Some(Sasl { mechanism, username: username?.value, password: password?.value })
}

fn read_certificate(section: &mut Section<'_>, security: Security, context: &Context<'_>) -> Option<ClientCertificate> {
    let named = [section.has("cert_file"), section.has("key_file")];
    let cert_file = section.pem("cert_file", "kafka.cert", context);
    let key_file = section.pem("key_file", "kafka.key", context);
    let key_password = section.secret("key_password_file", "kafka.key_password", context);
    let alone = [
        (&cert_file, "cert_file", named[1] || key_file.is_some(), "key_file"),
        (&key_file, "key_file", named[0] || cert_file.is_some(), "cert_file"),
    ];
    for (at, key, has_other, other) in alone {
        if let Some(At { origin, .. }) = at.as_ref().filter(|_| !has_other) {
            section.problem(origin, key, format!("is of no use without kafka.{other}; give both"));
        }
        if let Some(At { origin, .. }) = at.as_ref().filter(|_| !security.tls()) {
            section.problem(origin, key, format!("is of no use with security = \"{}\"; give ssl or sasl_ssl", security.as_str()));
        }
    }
    Some(ClientCertificate { cert_file: cert_file?.value, key_file: key_file?.value, key_password: key_password.map(|at| at.value) })
}

fn read_properties(section: Section<'_>) -> Vec<(String, String)> {
    let mut properties = vec![];
    for (name, At { origin, value }) in section.texts() {
        match value.and_then(|value| kafka_properties::check(&name, &value).map(|()| value)) {
            Ok(value) => properties.push((name, value)),
            Err(what) => section.problem(&origin, &format!("\"{name}\""), what),
        }
    }
    properties
}

pub(super) fn read_uplink(section: Option<Section<'_>>, has_kafka: bool) -> (Delivery, BehindDead) {
    let Some(mut section) = section else { return (Delivery::AtLeastOnce, BehindDead::Hold) };
    if !has_kafka {
        section.problem(section.origin(), "", "is of no use without [kafka]; add kafka.brokers");
    }
    let mode = section.or("delivery", DeliveryMode::AtLeastOnce);
    let named = section.has("transaction_seconds");
    let transaction_s = section.within("transaction_seconds", 20_u64, TRANSACTION_S);
    if named && mode == DeliveryMode::AtLeastOnce {
        section.problem(section.origin(), "transaction_seconds", "is of no use without delivery = \"exactly-once\"; remove it");
    }
    let behind_dead = section.or("dead_letters", BehindDead::Hold);
    section.finish();
    let delivery = match mode {
        DeliveryMode::AtLeastOnce => Delivery::AtLeastOnce,
        DeliveryMode::ExactlyOnce => Delivery::ExactlyOnce { transaction_s },
    };
    (delivery, behind_dead)
}

/// `kafka` is the partitioner of `[kafka]`, or `None` without such a section.
pub(super) fn read_downlinks(sections: Vec<Section<'_>>, id: &Name, kafka: Option<Partitioner>) -> Vec<Downlink> {
    let mut downlinks: Vec<Downlink> = vec![];
    let mut topics: Vec<At<TopicName>> = vec![];
    for mut section in sections {
        let origin = section.origin().clone();
        if kafka.is_none() {
            section.problem(&origin, "", "is of no use without [kafka]; add kafka.brokers");
        }
        if downlinks.len() == DOWNLINKS_MAX {
            section.problem(&origin, "", format!("stands more than {DOWNLINKS_MAX} times; remove some"));
        }
        let topic = section.required::<String>("topic", "name the topic, topic = \"order-status\"");
        let select = section.get::<Select>("select");
        let partition = section.get::<u64>("partition");
        let partitioner = section.get::<Partitioner>("partitioner");
        if let Some(topic) = topic
            && let Some(source) = read_source(&section, &topic, select, partition, partitioner, kafka)
            && let Some(topic) = read_topic(&section, topic, id, &topics)
        {
            downlinks.push(Downlink { topic: topic.value.clone(), source });
            topics.push(topic);
        }
        section.finish();
    }
    downlinks
}

fn read_topic(section: &Section<'_>, topic: At<String>, id: &Name, earlier: &[At<TopicName>]) -> Option<At<TopicName>> {
    let At { origin, value } = topic;
    let name: Result<TopicName, _> = value.replace(GATEWAY_PATTERN, id.as_str()).parse();
    match name {
        Ok(name) => {
            if let Some(first) = earlier.iter().find(|first| first.value == name) {
                section.problem(&origin, "topic", format!("{name} is already read by {}; give each topic once", first.origin));
            }
            Some(At { origin, value: name })
        }
        Err(e) => {
            section.problem(&origin, "topic", format!("'{value}' {e}"));
            None
        }
    }
}

fn read_source(
    section: &Section<'_>,
    topic: &At<String>,
    select: Option<At<Select>>,
    partition: Option<At<u64>>,
    partitioner: Option<At<Partitioner>>,
    kafka: Option<Partitioner>,
) -> Option<DownlinkSource> {
    let own = topic.value.contains(GATEWAY_PATTERN);
    let select = match select {
        Some(at) => at,
        None if own => At { origin: topic.origin.clone(), value: Select::Topic },
        None if topic.value == "order-status" => At { origin: topic.origin.clone(), value: Select::Partition },
        None => {
            section.problem(&topic.origin, "select", "is missing; say how the house's own events are found: all, partition or topic");
            return None;
        }
    };
    if own != (select.value == Select::Topic) {
        let what = "goes with a topic of the gateway's own and no other; write topic = \"…{gateway}…\" and select = \"topic\"";
        section.problem(&select.origin, "select", what);
    }
    if select.value != Select::Partition {
        for (key, origin) in
            [partition.as_ref().map(|at| ("partition", &at.origin)), partitioner.as_ref().map(|at| ("partitioner", &at.origin))]
                .into_iter()
                .flatten()
        {
            section.problem(origin, key, "is of no use unless select = \"partition\"; remove it");
        }
    }
    if let (Some(_), Some(At { origin, .. })) = (&partition, &partitioner) {
        section.problem(origin, "partitioner", "is of no use beside partition; remove one of the two");
    }
    Some(match (select.value, partition) {
        (Select::All, _) => DownlinkSource::All,
        (Select::Topic, _) => DownlinkSource::Topic,
        (Select::Partition, Some(At { origin, value })) => match i32::try_from(value) {
            Ok(number) => DownlinkSource::Partition(number),
            Err(_) => {
                section.problem(&origin, "partition", format!("is {value}; Kafka counts partitions from 0 to {}", i32::MAX));
                return None;
            }
        },
        (Select::Partition, None) => DownlinkSource::Keyed(partitioner.map(|at| at.value).or(kafka)?),
    })
}
