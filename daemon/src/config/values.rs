//! Values that cannot be wrong once they exist.

use super::http::TokenHash;
use super::section::{FromNode, from_text};
use super::tree::{Node, Value};
use gateway::dialect::{Dialect, Partitioner};
use gateway::ids::Name;
use gateway::io::Select;
use std::fmt;
use std::str::FromStr;

/// Bytes: a number, or text like `1 GiB` or `512 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is no size; write it like 512 MiB or 1 GiB";
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = text[..digits].parse().map_err(|_| WRONG)?;
        let unit: u64 = match text[digits..].trim_start() {
            "" | "B" => 1,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(WRONG),
        };
        number.checked_mul(unit).map(ByteSize).ok_or("is more than any disk holds")
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromNode for ByteSize {
    fn from_node(node: Node) -> Result<Self, String> {
        match node.value {
            Value::Integer(_) => u64::from_node(node).map(ByteSize),
            _ => from_text(node),
        }
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Reads `host`, `host:port` or `[::1]:port`.
    fn parse(text: &str, default_port: u16) -> Result<HostPort, &'static str> {
        const WRONG: &str = "is no address; write it like k1.example.net:9092";
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, rest))) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
            Some(None) => return Err(WRONG),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, Some("")),
            },
        };
        let port = match port.ok_or(WRONG)? {
            "" if !text.ends_with(':') => default_port,
            port => port.parse().ok().filter(|port| *port != 0).ok_or("has no port between 1 and 65535")?,
        };
        let bracketed = text.starts_with('[');
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let good = if bracketed { host.parse::<std::net::Ipv6Addr>().is_ok() } else { !host.is_empty() && host.bytes().all(plain) };
        if good { Ok(HostPort { host: host.to_owned(), port }) } else { Err(WRONG) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A Kafka broker to begin with: the port is 9092 unless given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker(pub HostPort);

impl FromStr for Broker {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        HostPort::parse(text, 9092).map(Broker)
    }
}

/// A printer on the network: the port is 9100 unless given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrinterAddress(pub HostPort);

impl FromStr for PrinterAddress {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        HostPort::parse(text, 9100).map(PrinterAddress)
    }
}

/// Where the MQTT broker is: `mqtt://host[:1883]` or `mqtts://host[:8883]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttUrl {
    /// The broker.
    pub address: HostPort,
    /// `mqtts`.
    pub tls: bool,
}

impl FromStr for MqttUrl {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err("is no MQTT address; write it like mqtt://127.0.0.1:1883 or mqtts://broker.local"),
        };
        if rest.contains('@') {
            return Err("has a user in it; use mqtt.username and mqtt.password_file, for addresses are logged");
        }
        let address = HostPort::parse(rest.strip_suffix('/').unwrap_or(rest), if tls { 8883 } else { 1883 })?;
        Ok(MqttUrl { address, tls })
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "mqtts" } else { "mqtt" }, self.address)
    }
}

/// A Kafka topic's name: `[A-Za-z0-9._-]{1,249}`, as Kafka itself checks it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Box<str>);

impl TopicName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        match text {
            "" | "." | ".." => Err("is no topic name"),
            _ if text.len() > 249 => Err("is longer than the 249 characters of a topic name"),
            _ if !text.bytes().all(plain) => Err("is no topic name; it may hold only letters, digits, '.', '_' and '-'"),
            _ => Ok(TopicName(text.into())),
        }
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A closed set of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$word_doc])* $variant,)+ }

        impl $name {
            /// The word in the config.
            #[allow(dead_code, reason = "some words are only ever read")]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }
        impl FromNode for $name {
            fn from_node(node: Node) -> Result<Self, String> {
                word(node, &[$(($word, $name::$variant),)+])
            }
        }
    };
}

fn word<T: Copy>(node: Node, words: &[(&str, T)]) -> Result<T, String> {
    let text = String::from_node(node)?;
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(format!("is '{text}'; give one of {}", all.join(", ")))
        }
    }
}

words! {
    /// How bytes on a serial line become requests.
    Framing {
        /// COBS frames around postcard messages.
        Binary = "binary",
        /// A request or an answer per line.
        Json = "json",
    }
}
words! {
    /// How a broker is spoken to. The words are librdkafka's.
    Security {
        /// Neither encrypted nor authenticated.
        Plaintext = "plaintext",
        /// TLS, with a client certificate if one is given.
        Ssl = "ssl",
        /// A password in clear: only on a line that nobody else can read.
        SaslPlaintext = "sasl_plaintext",
        /// A password over TLS, with a client certificate as well if one is given.
        SaslSsl = "sasl_ssl",
    }
}
words! {
    /// How a password is shown to a broker.
    SaslMechanism {
        /// As it is.
        Plain = "PLAIN",
        /// By a challenge.
        ScramSha256 = "SCRAM-SHA-256",
        /// By a challenge.
        ScramSha512 = "SCRAM-SHA-512",
    }
}
words! {
    /// How records are packed.
    Compression {
        /// Not at all.
        None = "none",
        /// gzip.
        Gzip = "gzip",
        /// Snappy: every Kafka and every client can read it.
        Snappy = "snappy",
        /// LZ4.
        Lz4 = "lz4",
        /// Zstandard: the smallest; from Kafka 2.1 on.
        Zstd = "zstd",
    }
}
words! {
    /// What Kafka may see of an event.
    DeliveryMode {
        /// Once, or again with the same (gateway, epoch, seq).
        AtLeastOnce = "at-least-once",
        /// Once, for who reads committed events only.
        ExactlyOnce = "exactly-once",
    }
}
words! {
    /// What becomes of an order's events behind its dead letter.
    BehindDead {
        /// They wait until a person decided about it.
        Hold = "hold",
        /// They go on; what a person sends again comes after them.
        Pass = "pass",
    }
}
words! {
    /// What a new store does about what this gateway stored before.
    NewCard {
        /// It is read back from Kafka before requests are taken.
        Rebuild = "rebuild",
        /// Requests are taken at once, and marked until it is read back.
        Accept = "accept",
    }
}
words! {
    /// How log lines look.
    LogFormat {
        /// For people on a terminal, with priorities under the journal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// A JSON object a line.
        Json = "json",
        /// With the priority prefixes of sd-daemon(3).
        Journal = "journal",
    }
}
words! {
    /// The least important lines that are written.
    LogLevel {
        /// What needs a person.
        Error = "error",
        /// What may need one.
        Warn = "warn",
        /// Changes that an operator wants to know.
        Info = "info",
        /// Detail.
        Debug = "debug",
        /// Everything, down to single orders: wears out SD cards.
        Trace = "trace",
    }
}

impl Security {
    /// TLS is used.
    pub fn tls(self) -> bool {
        matches!(self, Security::Ssl | Security::SaslSsl)
    }

    /// A user name and a password are used.
    pub fn sasl(self) -> bool {
        matches!(self, Security::SaslPlaintext | Security::SaslSsl)
    }
}

impl FromNode for Partitioner {
    fn from_node(node: Node) -> Result<Self, String> {
        let all = [Partitioner::Fnv1aRandom, Partitioner::Murmur2Random, Partitioner::ConsistentRandom];
        word(node, &all.map(|partitioner| (partitioner.as_str(), partitioner)))
    }
}

impl FromNode for Dialect {
    fn from_node(node: Node) -> Result<Self, String> {
        word(node, &[("order-event", Dialect::OrderEvent)])
    }
}

impl FromNode for Select {
    fn from_node(node: Node) -> Result<Self, String> {
        word(node, &[("all", Select::All), ("partition", Select::Partition), ("topic", Select::Topic)])
    }
}

macro_rules! from_text {
    ($($name:ty),+) => {
        $(impl FromNode for $name {
            fn from_node(node: Node) -> Result<Self, String> {
                from_text(node)
            }
        })+
    };
}
from_text!(Name, Broker, PrinterAddress, MqttUrl, TopicName, TokenHash);

impl FromNode for std::net::SocketAddr {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        text.parse().map_err(|_| format!("'{text}' is no address to listen on; write it like 127.0.0.1:8080 or [::1]:8080"))
    }
}

impl FromNode for std::net::IpAddr {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        text.parse().map_err(|_| format!("'{text}' is no IP address; write it like 10.0.4.21"))
    }
}

impl FromNode for jiff::tz::TimeZone {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        let unknown =
            |_| format!("'{text}' is no time zone that this device knows; write it like Europe/Berlin, and see that tzdata is installed");
        if text == "UTC" { Ok(jiff::tz::TimeZone::UTC) } else { jiff::tz::TimeZone::get(&text).map_err(unknown) }
    }
}

impl FromNode for jiff::civil::Time {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        jiff::civil::Time::strptime("%H:%M", &text).map_err(|_| format!("'{text}' is no time of day; write it like 04:00"))
    }
}
