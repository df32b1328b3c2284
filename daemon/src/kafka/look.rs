//! What `dumbwaiter check --online` asks Kafka: everything that can be asked without writing.

use super::client::{Connection, explained};
use super::errors::{Refusal, reason};
use super::producer::{ENVELOPE_BYTES_MAX, UplinkSettings};
use super::topics::{self, Topic};
use crate::config::{self, DownlinkSource, HostPort};
use gateway::request::REQUEST_BYTES_MAX;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So long is tried to reach a broker with the settings as they are.
const REACH_LIMIT: Duration = Duration::from_secs(15);
/// So long is tried to reach a broker in an outage that lasts: TLS and a password on a line of 64 kbit/s with 600 ms take some 5 s.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);
/// One question may take so long.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// The largest record that an order can become: the request, what the gateway adds to it, and its headers.
const RECORD_BYTES_MAX: u64 = (REQUEST_BYTES_MAX + 2 * ENVELOPE_BYTES_MAX) as u64;
/// `batch.size`: a batch above the topic's limit fails whole, and its events go one by one.
const BATCH_BYTES: u64 = 65_536;

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Right(String),
    /// It works, but a person should know.
    Note(String),
    /// It does not work: what, and what to do.
    Wrong(String),
}

/// Asks Kafka, and blocks for it: at most about [`REACH_LIMIT`] and some [`ASK_LIMIT`]s a topic.
pub fn look(connection: &Connection, downlinks: &[config::Downlink]) -> Vec<Finding> {
    let config = connection.config(&[], &[]);
    let producer = match reach(&config, REACH_LIMIT, false) {
        Ok(producer) => producer,
        Err(why) => {
            let certificate = certificate_trouble(connection).map_or_else(String::new, |why| format!(" ({why})"));
            return vec![Finding::Wrong(format!("kafka: the brokers cannot be used: {why}{certificate}"))];
        }
    };
    let kafka = &connection.kafka;
    let mut findings = orders(&producer, &config, kafka.topic.as_str());
    if let Some(topic) = &kafka.dead_letter_topic {
        let topic = topic.as_str();
        findings.push(match Asked::of(&producer, topic) {
            Asked::There(count, found) if found.may_be_written() => {
                Finding::Right(format!("kafka.dead_letter_topic: {topic} has {}", parts(count)))
            }
            Asked::There(..) => {
                Finding::Note(format!("kafka.dead_letter_topic: {topic} may not be written: {}", grant(connection, "WRITE")))
            }
            Asked::Not(why) => Finding::Note(format!(
                "kafka.dead_letter_topic: {topic} {why}; dead letters wait for it, and \"\" keeps them in the gateway alone"
            )),
        });
    }
    if let Some(topic) = &kafka.status_topic {
        let topic = topic.as_str();
        findings.push(match Asked::of(&producer, topic) {
            Asked::There(count, found) if found.may_be_written() => {
                Finding::Right(format!("kafka.status_topic: {topic} has {}", parts(count)))
            }
            Asked::There(..) => Finding::Wrong(format!("kafka.status_topic: {topic} may not be written: {}", grant(connection, "WRITE"))),
            Asked::Not(why) => Finding::Wrong(format!("kafka.status_topic: {topic} {why}; \"\" turns the sign of life off")),
        });
    }
    findings.extend(downlinks.iter().map(|downlink| statuses(&producer, connection, downlink)));
    findings
}

/// Whether a broker answers an uplink with these settings; blocks for it, at most about [`REACH_LIMIT`].
///
/// # Errors
/// Why not, and what to do.
pub fn try_out(uplink: &UplinkSettings) -> Result<(), String> {
    let certificate = || certificate_trouble(&uplink.connection).map_or_else(String::new, |why| format!(" ({why})"));
    reach(&uplink.config(), REACH_LIMIT, false)
        .map(drop)
        .map_err(|why| format!("kafka: the brokers cannot be used: {why}{}", certificate()))
}

/// Whether a broker answers; each broker is dialed once, and it takes at most about [`ATTEMPT_LIMIT`].
///
/// # Errors
/// Why none does.
pub(super) fn try_once(connection: &Connection) -> Result<(), String> {
    let never = (2 * ATTEMPT_LIMIT).as_millis().to_string();
    let config = connection.config(&[], &[("reconnect.backoff.ms", &never), ("reconnect.backoff.max.ms", &never)]);
    reach(&config, ATTEMPT_LIMIT, true).map(drop)
}

fn orders(producer: &BaseProducer<Ear>, config: &ClientConfig, topic: &str) -> Vec<Finding> {
    let (count, found) = match Asked::of(producer, topic) {
        Asked::There(count, found) => (count, found),
        Asked::Not(why) => return vec![Finding::Wrong(format!("kafka.topic: {topic} {why}"))],
    };
    let written = match found.may_be_written() {
        true => Finding::Right(format!("kafka.topic: {topic} has {}, and may be written", parts(count))),
        false => Finding::Wrong(format!("kafka.topic: {topic} may not be written; grant WRITE on it")),
    };
    let size = match bytes_max(config, topic) {
        Ok(most) if most < RECORD_BYTES_MAX => Finding::Wrong(format!(
            "kafka.topic: {topic} takes {most} bytes at most, an order may have {RECORD_BYTES_MAX}: larger ones become dead letters; raise \
             its max.message.bytes"
        )),
        Ok(most) if most < BATCH_BYTES => Finding::Note(format!(
            "kafka.topic: {topic} takes {most} bytes at most, a batch may have {BATCH_BYTES}: after an outage events go one by one; raise \
             its max.message.bytes"
        )),
        Ok(most) => Finding::Right(format!("kafka.topic: {topic} takes records and batches of {most} bytes")),
        Err(why) => Finding::Note(format!(
            "kafka.topic: how large a record of {topic} may be cannot be asked ({why}); it needs DESCRIBE_CONFIGS, and {RECORD_BYTES_MAX} \
             must fit"
        )),
    };
    vec![written, size]
}

fn statuses(producer: &BaseProducer<Ear>, connection: &Connection, downlink: &config::Downlink) -> Finding {
    let topic = downlink.topic.as_str();
    match (Asked::of(producer, topic), downlink.source) {
        (Asked::Not(why), _) => Finding::Wrong(format!("downlink.topic: {topic} {why}")),
        (Asked::There(_, found), _) if !found.may_be_read() => {
            Finding::Wrong(format!("downlink.topic: {topic} may not be read: {}", grant(connection, "READ")))
        }
        (Asked::There(count, _), DownlinkSource::Partition(partition))
            if usize::try_from(partition).is_ok_and(|number| number >= count) =>
        {
            Finding::Wrong(format!("downlink.partition: {topic} has {}, and none is number {partition}", parts(count)))
        }
        (Asked::There(count, _), _) => Finding::Right(format!("downlink.topic: {topic} has {}, and may be read", parts(count))),
    }
}

fn parts(count: usize) -> String {
    format!("{count} partition{}", if count == 1 { "" } else { "s" })
}

fn grant(connection: &Connection, right: &str) -> String {
    let user = connection.kafka.sasl.as_ref().map_or("this gateway", |sasl| &sasl.username);
    format!("grant {right} on it to {user}")
}

/// A topic that is there, with how many partitions it has, or why it cannot be used.
enum Asked {
    There(usize, Topic),
    Not(String),
}

impl Asked {
    fn of(producer: &BaseProducer<Ear>, name: &str) -> Asked {
        let metadata = match producer.client().fetch_metadata(Some(name), ASK_LIMIT) {
            Ok(metadata) => metadata,
            Err(error) => return Asked::Not(format!("cannot be asked about: {}", reason(&error))),
        };
        let Some(found) = metadata.topics().first() else { return Asked::Not("is not known".to_owned()) };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Asked::Not("is not there: let it be made".to_owned());
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Asked::Not("is denied, or is not there: grant the right, or let it be made".to_owned());
            }
            Some(code) => return Asked::Not(format!("is of no use: {code:?} ({}): {code}", code as i32)),
        }
        if let Some(headless) = found.partitions().iter().find(|partition| partition.leader() < 0) {
            return Asked::Not(format!("has no leader for partition {}: see the brokers", headless.id()));
        }
        match topics::describe(producer.client(), name, ASK_LIMIT) {
            Ok(topic) => Asked::There(found.partitions().len(), topic),
            Err(code) => Asked::Not(format!("cannot be described: {code:?} ({}): {code}", code as i32)),
        }
    }
}

/// A client to which a broker has answered; `once` gives up when all brokers were dialed.
fn reach(config: &ClientConfig, limit: Duration, once: bool) -> Result<BaseProducer<Ear>, String> {
    let made = BaseProducer::<Ear, NoCustomPartitioner>::from_config_and_context(config, Ear::default());
    let producer = made.map_err(|error| reason(&error))?;
    let until = Instant::now() + limit;
    loop {
        let answer = producer.client().fetch_metadata(None, Duration::from_secs(1));
        producer.poll(Duration::ZERO);
        let heard = producer.context().heard();
        match (answer, heard) {
            (Ok(_), _) => return Ok(producer),
            (Err(_), Some((true, why))) => return Err(why),
            (Err(_), Some((false, why))) if once && producer.context().is_alone() => return Err(why),
            (Err(_), Some((false, why))) if Instant::now() > until => return Err(why),
            (Err(error), None) if Instant::now() > until => return Err(reason(&error)),
            (Err(_), Some(_) | None) => {}
        }
    }
}

/// Listens to what the client says about its connections.
#[derive(Default)]
struct Ear {
    why: Mutex<Option<(bool, String)>>,
    alone: AtomicBool,
}

impl Ear {
    /// Whether each broker was dialed and none was reached.
    fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Why it failed, and whether waiting is of no use.
    fn heard(&self) -> Option<(bool, String)> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hear(&self, code: RDKafkaErrorCode, text: &str) {
        let lasts = Refusal::of(code, text).is_some_and(Refusal::lasts);
        let mut heard = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if code == RDKafkaErrorCode::AllBrokersDown {
            self.alone.store(true, Ordering::Relaxed);
        } else if !heard.as_ref().is_some_and(|(before, _)| *before) {
            *heard = Some((lasts, explained(code, text)));
        }
    }
}

impl ClientContext for Ear {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            self.hear(RDKafkaErrorCode::BrokerTransportFailure, message);
        }
    }

    fn error(&self, error: KafkaError, text: &str) {
        self.hear(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown), text);
    }
}

impl ProducerContext for Ear {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

/// The topic's `max.message.bytes`.
fn bytes_max(config: &ClientConfig, topic: &str) -> Result<u64, String> {
    let client = AdminClient::from_config_and_context(config, Ear::default()).map_err(|error| reason(&error))?;
    let options = AdminOptions::new().request_timeout(Some(ASK_LIMIT));
    let wanted = [ResourceSpecifier::Topic(topic)];
    let asked = client.describe_configs(&wanted, &options);
    let answers = tokio::runtime::Handle::current().block_on(asked).map_err(|error| reason(&error))?;
    let answer = answers.into_iter().next().ok_or("no answer")?.map_err(|code| format!("{code:?} ({})", code as i32))?;
    let value = answer.entry_map().get("max.message.bytes").and_then(|entry| entry.value.clone()).ok_or("it is not told")?;
    value.parse().map_err(|_| format!("it is {value}"))
}

/// What OpenSSL says of the first broker's certificate that it does not believe: librdkafka keeps that to itself.
fn certificate_trouble(connection: &Connection) -> Option<String> {
    let kafka = &connection.kafka;
    let HostPort { host, port } = &kafka.brokers.first().filter(|_| kafka.security.tls())?.0;
    let mut connector = native_tls::TlsConnector::builder();
    if let Some(file) = &kafka.ca_file {
        connector.disable_built_in_roots(true);
        for authority in authorities(file)? {
            connector.add_root_certificate(authority);
        }
    }
    let connector = connector.build().ok()?;
    let line = std::net::TcpStream::connect((host.as_str(), *port)).ok()?;
    line.set_read_timeout(Some(ASK_LIMIT)).ok()?;
    let error = connector.connect(host, line).err()?.to_string();
    // "…:certificate verify failed:ssl/statem/statem_clnt.c:2092: (certificate has expired)"
    let (_, why) = error.split_once("certificate verify failed").and_then(|(_, rest)| rest.rsplit_once('('))?;
    Some(why.trim_end_matches(')').to_owned())
}

fn authorities(file: &Path) -> Option<Vec<native_tls::Certificate>> {
    native_tls::Certificate::stack_from_pem(&std::fs::read(file).ok()?).ok()
}
