//! What all Kafka clients of the gateway share: how the brokers are reached, and what becomes of what librdkafka says.

use super::errors::{Refusal, reason};
use super::gate::Gate;
use crate::config::{Config, Kafka};
use gateway::ids::Name;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A dropped client that takes longer is left behind: librdkafka can hang there (rust-rdkafka #509).
pub(super) const DROP_LIMIT: Duration = Duration::from_secs(10);
/// The same message of librdkafka is logged once in this time: it may come with every try to connect.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Kinds of messages told apart for that; beyond it all others count as one kind.
const LOG_KINDS_MAX: usize = 32;

/// Why nothing is sent in an outage that lasts.
pub(super) const LINE_DOWN: &str = "the line has been down for minutes, and is tried now and then only";

/// How the brokers are reached, and by whom.
#[derive(Debug, Clone)]
pub struct Connection {
    /// `gateway.id`: `client.id` is `dumbwaiter-{gateway}`.
    pub gateway: Name,
    /// `[kafka]`.
    pub kafka: Kafka,
}

impl Connection {
    /// What a config says.
    pub fn new(config: &Config, kafka: &Kafka) -> Connection {
        Connection { gateway: config.gateway.id.clone(), kafka: kafka.clone() }
    }

    /// The settings of a client: those of every client, then `defaults`, then the user's properties, then `promises`, which nothing
    /// overrides.
    pub(super) fn config(&self, defaults: &[(&str, &str)], promises: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in SHARED.iter().chain(defaults) {
            config.set(*key, *value);
        }
        for (key, value) in &self.kafka.properties {
            config.set(key, value);
        }
        let brokers = self.kafka.brokers.iter().map(|broker| broker.0.to_string()).collect::<Vec<_>>();
        config.set("bootstrap.servers", brokers.join(","));
        config.set("client.id", format!("dumbwaiter-{}", self.gateway));
        self.secure(&mut config);
        for (key, value) in promises {
            config.set(*key, *value);
        }
        // Why a connection ended is said at this level only.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    fn secure(&self, config: &mut ClientConfig) {
        let kafka = &self.kafka;
        config.set("security.protocol", kafka.security.as_str());
        if kafka.security.tls() {
            // Without a file, the places where distributions keep their authorities are searched: OpenSSL is linked statically.
            let ca = kafka.ca_file.as_ref().map_or("probe".into(), |file| file.to_string_lossy());
            config.set("ssl.ca.location", ca);
        }
        if let Some(certificate) = &kafka.certificate {
            config.set("ssl.certificate.location", certificate.cert_file.to_string_lossy());
            config.set("ssl.key.location", certificate.key_file.to_string_lossy());
            if let Some(password) = &certificate.key_password {
                config.set("ssl.key.password", password.latest().expose());
            }
        }
        if let Some(sasl) = &kafka.sasl {
            // Always named: librdkafka's default is Kerberos, which is not built in.
            config.set("sasl.mechanisms", sasl.mechanism.as_str());
            config.set("sasl.username", &sasl.username);
            config.set("sasl.password", sasl.password.latest().expose());
        }
    }
}

/// Why a client must give way: a way to reach the brokers that shall take the place of the present one, put down by a reload and taken by
/// each client when it makes its next handle; or an outage that lasts. Clones share it.
#[derive(Debug, Clone)]
pub struct Renewal {
    connection: Arc<Mutex<Option<Connection>>>,
    gate: Gate,
}

impl Renewal {
    /// Nothing is put down yet. The gate is that of all clients.
    pub fn new(gate: &Gate) -> Renewal {
        Renewal { connection: Arc::default(), gate: gate.clone() }
    }

    /// Who may dial.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Puts one down; an older one that nobody took is of no use any more.
    pub fn put(&self, connection: Connection) {
        *self.get() = Some(connection);
    }

    pub(super) fn take(&self) -> Option<Connection> {
        self.get().take()
    }

    pub(super) fn is_there(&self) -> bool {
        self.get().is_some()
    }

    fn get(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings by name, for people and for comparisons. rdkafka hides the secrets.
pub(super) fn shown(config: &ClientConfig) -> BTreeMap<String, String> {
    config.config_map().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Settings of every client.
///
/// - `reconnect.backoff.max.ms` varies by −25 % to +50 %: so a client dials each 0.5 s to 1.1 s while the outage is short, which brings the
///   line back within 2 s. In a longer one there is no client (`super::outage`).
/// - `socket.connection.setup.timeout.ms`: a first packet that is lost is repeated after 1, 3 and 7 s; a new try then is quicker than
///   waiting for the next repeat. Far above what TLS and SASL take on a slow line with 600 ms round trips.
/// - `socket.timeout.ms`: a connection that answers nothing is made anew after this, instead of waiting for TCP to give up. Far above
///   what a full window takes at 64 kbit/s.
const SHARED: &[(&str, &str)] = &[
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
    ("socket.timeout.ms", "30000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "700"),
    ("retry.backoff.ms", "100"),
    ("retry.backoff.max.ms", "1000"),
    ("enable.metrics.push", "false"),
    ("log.connection.close", "true"),
];

/// How long brokers may refuse our password or certificate, or we theirs, before the client is given up …
const REFUSED_PATIENCE: Duration = Duration::from_secs(5);
/// … and how long nothing is tried then: librdkafka alone would try again every second, for months and from every gateway.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Whether the brokers refuse this gateway, or it them. A client keeps the password and the certificates with which it was made: after a
/// lasting refusal only a new one can succeed.
#[derive(Default)]
pub(super) struct Refused(Mutex<Option<Since>>);

struct Since {
    at: Instant,
    refusal: Refusal,
    why: String,
}

impl Refused {
    /// What a client says about its connections.
    pub(super) fn hear(&self, code: RDKafkaErrorCode, text: &str) {
        if let Some(refusal) = Refusal::of(code, text).filter(|refusal| refusal.lasts()) {
            let why = || explained(code, text);
            self.get().get_or_insert_with(|| Since { at: Instant::now(), refusal, why: why() });
        }
    }

    /// A broker answered, or the client is gone.
    pub(super) fn clear(&self) {
        *self.get() = None;
    }

    /// Why, if that lasts too long for the client to be kept.
    pub(super) fn lasting(&self) -> Option<(Refusal, String)> {
        self.get().as_ref().filter(|since| since.at.elapsed() >= REFUSED_PATIENCE).map(|since| (since.refusal, since.why.clone()))
    }

    fn get(&self) -> MutexGuard<'_, Option<Since>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client says about its connections, and what to do about it.
pub(super) fn explained(code: RDKafkaErrorCode, text: &str) -> String {
    Refusal::of(code, text).map_or_else(|| text.to_owned(), |refusal| format!("{text}; {}", refusal.advice()))
}

/// What a client says goes into the log at a low rate, and what it says about its connections to `on_error`.
pub(super) struct Voice {
    client: &'static str,
    on_error: OnError,
    said: Mutex<HashMap<String, Said>>,
}

type OnError = Box<dyn Fn(RDKafkaErrorCode, &str) + Send + Sync>;

struct Said {
    at: Instant,
    since: u64,
}

impl Voice {
    pub(super) fn new(client: &'static str, on_error: impl Fn(RDKafkaErrorCode, &str) + Send + Sync + 'static) -> Voice {
        Voice { client, on_error: Box::new(on_error), said: Mutex::default() }
    }

    /// Whether a message of this kind may be logged now, and how many were not since the last.
    fn may_say(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = if said.len() < LOG_KINDS_MAX || said.contains_key(kind) { kind } else { "" };
        match said.get_mut(kind) {
            Some(last) if now.duration_since(last.at) < LOG_EVERY => {
                last.since += 1;
                None
            }
            Some(last) => Some(std::mem::replace(last, Said { at: now, since: 0 }).since),
            None => {
                said.insert(kind.to_owned(), Said { at: now, since: 0 });
                Some(0)
            }
        }
    }

    fn say(&self, kind: &str, text: &str) {
        if let Some(repeats) = self.may_say(kind, Instant::now()) {
            tracing::warn!(client = self.client, kind, repeats, "kafka: {text}");
        }
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // CONFWARN: a property of `[kafka.properties]` is given to producers and consumers alike, and each complains of the other's.
        // FAIL comes as an error as well.
        let quiet = matches!(facility, "CONFWARN" | "FAIL") || (level as i32) > RDKafkaLogLevel::Warning as i32;
        if facility == "FAIL" {
            // A connection that just ends comes in no other way.
            (self.on_error)(RDKafkaErrorCode::BrokerTransportFailure, message);
        }
        if quiet {
            tracing::debug!(client = self.client, kind = facility, "kafka: {message}");
        } else {
            self.say(facility, message);
        }
    }

    fn error(&self, error: KafkaError, text: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            (self.on_error)(code, text);
            self.say(&format!("{code:?}"), text);
        } else {
            self.say("error", &reason(&error));
        }
    }
}

/// Drops a client, or whatever `drop_it` drops, on a thread of its own; `false` if that took longer than [`DROP_LIMIT`] and was left
/// behind.
pub(super) fn drop_within_limit(what: &'static str, drop_it: impl FnOnce() + Send + 'static) -> bool {
    let (done, dropped) = std::sync::mpsc::sync_channel(1);
    let spawned = std::thread::Builder::new().name("kafka-drop".into()).spawn(move || {
        drop_it();
        // Nobody listens any more once the limit has passed.
        let _ = done.send(());
    });
    let in_time = spawned.is_ok() && dropped.recv_timeout(DROP_LIMIT).is_ok();
    if !in_time {
        tracing::warn!(client = what, limit_s = DROP_LIMIT.as_secs(), "kafka client could not be dropped in time and is left behind");
    }
    in_time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(section: &str) -> Connection {
        let text = format!("[gateway]\nid = \"store-042\"\n[kafka]\nbrokers = \"k1:9092,k2\"\n{section}");
        super::super::tests::connection(&text)
    }

    #[test]
    fn properties_override_defaults_but_never_a_promise() {
        let connection = connection("[kafka.properties]\n\"linger.ms\" = 50\n\"socket.timeout.ms\" = 20000");
        let config = connection.config(&[("linger.ms", "5")], &[("socket.timeout.ms", "1000")]);
        assert_eq!(config.get("bootstrap.servers"), Some("k1:9092,k2:9092"));
        assert_eq!(config.get("linger.ms"), Some("50"));
        assert_eq!(config.get("socket.timeout.ms"), Some("1000"));
    }

    #[test]
    fn tls_and_a_password_are_configured_together_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        let (ca, cert) = (file("ca.pem", &pem("CERTIFICATE")), file("cert.pem", &pem("CERTIFICATE")));
        let (key, password) = (file("key.pem", &pem("PRIVATE KEY")), file("password", "my secret\n"));
        let connection = connection(&format!(
            "security = \"sasl_ssl\"\nsasl_mechanism = \"SCRAM-SHA-256\"\nusername = \"u\"\npassword_file = {password:?}\n\
             ca_file = {ca:?}\ncert_file = {cert:?}\nkey_file = {key:?}"
        ));
        let config = connection.config(&[], &[]);
        let expected = [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", &ca),
            ("ssl.certificate.location", &cert),
            ("ssl.key.location", &key),
            ("sasl.mechanisms", "SCRAM-SHA-256"),
            ("sasl.username", "u"),
            ("sasl.password", "my secret"),
        ];
        for (key, value) in expected {
            assert_eq!(config.get(key), Some(value), "{key}");
        }
        let shown = shown(&config);
        assert_eq!(shown["sasl.username"], "u");
        let printed = format!("{connection:?} {config:?} {shown:?}");
        assert!(!printed.contains("my secret"), "{printed}");
    }

    #[test]
    fn a_message_that_repeats_is_logged_once_a_minute_and_counted() {
        let (voice, start) = (Voice::new("test", |_, _| ()), Instant::now());
        assert_eq!(voice.may_say("FAIL", start), Some(0));
        assert_eq!(voice.may_say("FAIL", start + Duration::from_secs(1)), None);
        assert_eq!(voice.may_say("FAIL", start + Duration::from_secs(59)), None);
        assert_eq!(voice.may_say("FAIL", start + LOG_EVERY), Some(2));
    }

    #[test]
    fn kinds_of_messages_beyond_the_bound_share_one_place() {
        let (voice, now) = (Voice::new("test", |_, _| ()), Instant::now());
        let said = (0..10 * LOG_KINDS_MAX).filter(|n| voice.may_say(&n.to_string(), now).is_some()).count();
        assert_eq!(said, LOG_KINDS_MAX + 1);
    }
}
