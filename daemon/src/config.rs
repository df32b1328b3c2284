//! The config: one typed value out of a TOML file, `conf.d/*.toml` beside it and the environment.
//!
//! Promises: what [`Config::load`] returns needs no further check; what is wrong is told all at once, each with its place, its key
//! and what to do; a secret comes from a file or a systemd credential and is never printed.
//!
//! - `conf.d/*.toml` beside the file is merged over it in the order of names: keys replace keys, lists of sections (`[[serial]]`) are
//!   joined.
//! - `DUMBWAITER_SECTION__KEY` overrides a key: `DUMBWAITER_KAFKA__BROKERS=k1:9092,k2:9092`. Lists are written with commas; a
//!   section of a list is named by its place from 0, one past the last adds one: `DUMBWAITER_SERIAL__0__PATH=/dev/ttyUSB0`. In
//!   `DUMBWAITER_KAFKA__PROPERTIES__SOCKET_KEEPALIVE_ENABLE` underscores stand for dots.
//! - A `…_file` key that is absent takes the systemd credential of that name without `_file`, if there is one:
//!   `LoadCredential=kafka.password:/etc/dumbwaiter/kafka.password`. A relative path starts at the folder of the config file.

mod changes;
mod display;
mod files;
mod http;
mod kafka;
mod kafka_properties;
mod kitchen;
mod printer;
mod problem;
mod secret;
mod section;
#[cfg(test)]
mod tests;
mod tree;
mod values;

pub use changes::Changes;
pub use files::PemFile;
pub use http::{HTTP_SUBMITS_PER_SECOND, Http, HttpAllow, HttpTls, HttpToken, TokenHash};
pub use kafka::{Delivery, Downlink, DownlinkSource, Kafka};
pub use kitchen::Kitchen;
pub use printer::{CodePage, FlowControl, PRINTERS_MAX, Printer, PrinterKind, PrinterPort, Pulse};
pub use problem::Problems;
pub use secret::Secret;
pub use values::{BehindDead, ByteSize, Framing, HostPort, LogFormat, LogLevel, MqttUrl, NewCard};

use crate::display::Language;
use gateway::board::BoardRules;
use gateway::dialect::Dialect;
use gateway::ids::Name;
use gateway::settings::{self, Limits, Settings};
use jiff::{civil, tz::TimeZone};
use section::{At, Section};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use store::journal::Keep;

/// Where the config is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/dumbwaiter/dumbwaiter.toml";
/// Most serial ports.
pub const SERIAL_PORTS_MAX: usize = 64;
const MIB: ByteSize = ByteSize(1 << 20);
const GIB: ByteSize = ByteSize(1 << 30);
const TIB: ByteSize = ByteSize(1 << 40);
const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The whole config.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[gateway]`.
    pub gateway: GatewaySection,
    /// `[store]`.
    pub store: StoreSection,
    /// `[http]`.
    pub http: Http,
    /// `[mqtt]`, if it is on.
    pub mqtt: Option<Mqtt>,
    /// `[[serial]]`: at most [`SERIAL_PORTS_MAX`], no terminal and no path twice.
    pub serial: Vec<SerialPort>,
    /// `[kafka]`, if it is on. Without it events queue until it is.
    pub kafka: Option<Kafka>,
    /// `[uplink]`.
    pub delivery: Delivery,
    /// `uplink.dead_letters`.
    pub behind_dead: BehindDead,
    /// `[[downlink]]`: empty without [`Config::kafka`].
    pub downlinks: Vec<Downlink>,
    /// `[centre] dialect`.
    pub dialect: Dialect,
    /// `[board]`.
    pub board: BoardRules,
    /// `[kitchen]`.
    pub kitchen: Kitchen,
    /// `[display] language`: of every page; each in that of its browser without it.
    pub language: Option<Language>,
    /// `[[printer]]`: at most [`PRINTERS_MAX`], no name and no port twice.
    pub printers: Vec<Printer>,
    /// `[orders] strict`: events for unknown orders are refused.
    pub strict_orders: bool,
    /// `[log]`.
    pub log: Log,
}

/// `[gateway]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySection {
    /// The gateway's name in the chain.
    pub id: Name,
    /// The restaurants of this house; the first fills a missing `data.restaurantId`.
    pub restaurant_ids: Vec<String>,
    /// The house's time zone.
    pub time_zone: TimeZone,
    /// When tickets start over.
    pub business_day_starts: civil::Time,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSection {
    /// The data folder.
    pub data_dir: PathBuf,
    /// Most events in the outbox.
    pub max_queued: u64,
    /// Most bytes of events in the outbox.
    pub max_queued_bytes: u64,
    /// How long a request and an order are remembered, in days of running time.
    pub remember_days: u64,
    /// How long an order that is over keeps what was ordered and by whom, in hours of running time.
    pub forget_orders_hours: u64,
    /// How long what was delivered stays in the journal, in days of running time; 0: not at all.
    pub journal_days: u64,
    /// Most bytes of events in the journal.
    pub journal_bytes: u64,
    /// Free space of the disk below which new requests are refused, in bytes.
    pub min_free_bytes: u64,
    /// What a new store does about what this gateway stored before.
    pub new_card: NewCard,
    /// How long a new store waits for Kafka to be reached, in seconds.
    pub new_card_offline_seconds: u64,
    /// How long a new store waits until all is read back from Kafka, in minutes.
    pub new_card_minutes: u64,
    /// From how many hours ago a new store reads its events back.
    pub new_card_hours: u64,
}

/// `[mqtt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// The broker.
    pub url: MqttUrl,
    /// User name and password, if the broker wants them.
    pub login: Option<(String, Option<Secret>)>,
    /// Who signed the broker's certificate, in PEM; the system's authorities if `None`.
    pub ca_file: Option<PemFile>,
    /// The MQTT client id.
    pub client_id: String,
}

/// `[[serial]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialPort {
    /// The terminal at the port.
    pub terminal: Name,
    /// The device.
    pub path: PathBuf,
    /// Bits per second.
    pub baud: u32,
    /// How bytes become requests.
    pub framing: Framing,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least important lines that are written.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
}

/// What a config may be taken from beside its files.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The folder of systemd's credentials.
    pub credentials: Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Environment {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Environment {
            variables: std::env::vars_os().filter_map(text).collect(),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }
}

/// What reading needs beside the section.
struct Context<'e> {
    folder: PathBuf,
    environment: &'e Environment,
}

impl Config {
    /// Reads the file, `conf.d/*.toml` beside it and the environment.
    ///
    /// # Errors
    /// All that is wrong, not only the first.
    pub fn load(path: &Path, environment: &Environment) -> Result<Config, Problems> {
        let mut problems = vec![];
        let tree = tree::gather(path, &environment.variables, &mut problems);
        if !problems.is_empty() {
            // What was not read cannot be told from what is missing.
            return Err(Problems(problems));
        }
        let sink = section::Sink::default();
        let context = Context { folder: path.parent().unwrap_or(Path::new("")).to_owned(), environment };
        let config = read(Section::root(tree, &sink), &context);
        let mut problems = sink.into_inner();
        problems.sort();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            Some(_) | None => Err(Problems(problems)),
        }
    }

    /// What the config decides for the core.
    pub fn settings(&self) -> Settings {
        Settings {
            gateway: self.gateway.id.clone(),
            restaurant_ids: self.gateway.restaurant_ids.clone(),
            strict_orders: self.strict_orders,
            hold_behind_dead: self.behind_dead == BehindDead::Hold,
            remember_ms: self.store.remember_days * DAY_MS,
            forget_details_ms: self.store.forget_orders_hours * HOUR_MS,
            journal: self.store.journal_days > 0,
            new_card: self.kafka.as_ref().map(|_| self.store.new_card_waits()),
            board: self.board,
            dialect: self.dialect,
            limits: Limits { queued_events_max: self.store.max_queued, queued_bytes_max: self.store.max_queued_bytes, ..Limits::default() },
        }
    }
}

impl StoreSection {
    /// How long a new store refuses requests.
    fn new_card_waits(&self) -> settings::NewCard {
        match self.new_card {
            NewCard::Accept => settings::NewCard { reach_max_ms: 0, read_max_ms: 0 },
            NewCard::Rebuild => {
                settings::NewCard { reach_max_ms: self.new_card_offline_seconds * 1_000, read_max_ms: self.new_card_minutes * 60_000 }
            }
        }
    }

    /// How much of what was delivered stays.
    pub fn keep(&self) -> Keep {
        Keep { keep_ms: self.journal_days * DAY_MS, bytes_max: self.journal_bytes }
    }
}

/// Where the config says that HTTP listens, whatever else is wrong with it; the default where it says nothing that can be read. For
/// commands that only ask the daemon: who may do so need not be able to read its secrets.
pub fn listen_of(path: &Path, environment: &Environment) -> Listen {
    let tree = tree::gather(path, &environment.variables, &mut vec![]);
    let sink = section::Sink::default();
    let mut section = Section::root(tree, &sink).section_or_empty("http");
    let credential = environment.credentials.as_ref().is_some_and(|folder| folder.join("http.tls_cert").exists());
    Listen { tls: section.has("tls_cert") || credential, address: section.or("listen", http::DEFAULT_LISTEN) }
}

/// Where HTTP listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// By TLS.
    pub tls: bool,
}

/// `None` only after a problem was noted.
fn read(mut root: Section<'_>, context: &Context<'_>) -> Option<Config> {
    let gateway = read_gateway(root.section_or_empty("gateway"));
    let store = read_store(root.section_or_empty("store"), context);
    let (http, http_terminals) = http::read(root.section_or_empty("http"), context);
    let (dialect, board, strict_orders) = read_rules(&mut root);
    let kitchen = kitchen::read(root.section_or_empty("kitchen"));
    let language = display::read(root.section_or_empty("display"));
    let log = read_log(root.section_or_empty("log"));
    let serial = read_serial(&mut root, &http_terminals);
    let ports: Vec<PathBuf> = serial.iter().map(|port| port.path.clone()).collect();
    let printers = printer::read(&mut root, &ports);
    // The rest needs the id only for names; a stand-in lets its own problems be found.
    let id = gateway.as_ref().map_or_else(|| "gateway".parse().expect("a valid name"), |gateway| gateway.id.clone());
    let mqtt = root.section("mqtt").map(|section| read_mqtt(section, &id, context));
    let kafka = root.section("kafka").map(|section| kafka::read(section, dialect, context));
    let (delivery, behind_dead) = kafka::read_uplink(root.section("uplink"), kafka.is_some());
    let partitioner = kafka.as_ref().map(|kafka| kafka.as_ref().map_or(dialect.partitioner(), |kafka| kafka.partitioner));
    let downlinks = kafka::read_downlinks(root.sections("downlink"), &id, partitioner);
    root.finish();
    Some(Config {
        gateway: gateway?,
        store,
        http,
        mqtt: mqtt.map_or(Some(None), |mqtt| mqtt.map(Some))?,
        serial,
        kafka: kafka.map_or(Some(None), |kafka| kafka.map(Some))?,
        delivery,
        behind_dead,
        downlinks,
        dialect,
        board,
        kitchen,
        language,
        printers,
        strict_orders,
        log,
    })
}

fn read_gateway(mut section: Section<'_>) -> Option<GatewaySection> {
    let id = section.required("id", "name this gateway, id = \"store-042\"");
    let restaurants = section.get::<Vec<String>>("restaurant_ids");
    let time_zone = section.or("time_zone", TimeZone::UTC);
    let business_day_starts = section.or("business_day_starts", civil::time(4, 0, 0, 0));
    if let Some(At { origin, .. }) = restaurants.as_ref().filter(|at| at.value.iter().any(String::is_empty)) {
        section.problem(origin, "restaurant_ids", "holds an empty text; remove it");
    }
    section.finish();
    Some(GatewaySection {
        id: id?.value,
        restaurant_ids: restaurants.map(|at| at.value).unwrap_or_default(),
        time_zone,
        business_day_starts,
    })
}

fn read_store(mut section: Section<'_>, context: &Context<'_>) -> StoreSection {
    let data_dir = section.path("data_dir", context).map_or_else(|| PathBuf::from("/var/lib/dumbwaiter"), |at| at.value);
    let max_queued = section.within("max_queued", 200_000_u64, 100..=10_000_000);
    let max_queued_bytes = section.within("max_queued_bytes", GIB, MIB..=TIB).0;
    let remember_days = section.within("remember_days", 7_u64, 1..=365);
    let forget_orders_hours = section.within("forget_orders_hours", 24_u64, 0..=8_760);
    let journal_days = section.within("journal_days", 7_u64, 0..=365);
    let journal_bytes = section.within("journal_bytes", ByteSize(32 << 20), MIB..=TIB).0;
    let min_free_bytes = section.within("min_free", ByteSize(256 << 20), ByteSize(16 << 20)..=TIB).0;
    let new_card = section.or("new_card", NewCard::Rebuild);
    let new_card_offline_seconds = section.within("new_card_offline_seconds", 10_u64, 0..=86_400);
    let new_card_minutes = section.within("new_card_minutes", 5_u64, 0..=1_440);
    let new_card_hours = section.within("new_card_hours", remember_days * 24, 1..=8_760);
    section.finish();
    StoreSection {
        data_dir,
        max_queued,
        max_queued_bytes,
        remember_days,
        forget_orders_hours,
        journal_days,
        journal_bytes,
        min_free_bytes,
        new_card,
        new_card_offline_seconds,
        new_card_minutes,
        new_card_hours,
    }
}

fn read_serial(root: &mut Section<'_>, http_terminals: &[At<Name>]) -> Vec<SerialPort> {
    let mut ports: Vec<SerialPort> = vec![];
    let mut terminals: Vec<At<Name>> = http_terminals.to_vec();
    let mut paths: Vec<At<PathBuf>> = vec![];
    for mut section in root.sections("serial") {
        let terminal = section.required::<Name>("terminal", "name the terminal at this port, terminal = \"till-1\"");
        let path = section.required::<String>("path", "give the port, path = \"/dev/serial/by-path/…\"");
        let baud = section.within("baud", 115_200_u32, 300..=4_000_000);
        let framing = section.or("framing", Framing::Binary);
        let origin = section.origin().clone();
        if let Some(At { origin, value }) = &terminal
            && let Some(first) = terminals.iter().find(|first| first.value == *value)
        {
            section.problem(origin, "terminal", format!("{value} is already at {}; each terminal has a name of its own", first.origin));
        }
        let path = path.map(|At { origin, value }| At { origin, value: PathBuf::from(value) });
        if let Some(At { origin, value }) = &path
            && let Some(first) = paths.iter().find(|first| same_device(&first.value, value))
        {
            section.problem(origin, "path", format!("{} is already opened by {}; give each port once", value.display(), first.origin));
        }
        if let Some(At { origin, value }) = path.as_ref().filter(|at| !at.value.is_absolute()) {
            section.problem(origin, "path", format!("'{}' is no device; write its whole path, /dev/ttyUSB0", value.display()));
        }
        section.finish();
        if let (Some(terminal), Some(path)) = (terminal, path) {
            ports.push(SerialPort { terminal: terminal.value.clone(), path: path.value.clone(), baud, framing });
            terminals.push(terminal);
            paths.push(path);
        }
        if ports.len() > SERIAL_PORTS_MAX {
            root.problem(&origin, "serial", format!("stands more than {SERIAL_PORTS_MAX} times; remove some"));
            break;
        }
    }
    ports
}

/// `/dev/serial/by-id/…` and `/dev/ttyUSB0` may be one device.
fn same_device(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn read_mqtt(mut section: Section<'_>, id: &Name, context: &Context<'_>) -> Option<Mqtt> {
    let url = section.required::<MqttUrl>("url", "give the broker, url = \"mqtt://127.0.0.1:1883\"");
    let username = section.get::<String>("username");
    let password = section.secret("password_file", "mqtt.password", context);
    let ca_file = section.pem("ca_file", "mqtt.ca", context);
    let client_id = section.get::<String>("client_id");
    if let Some(At { origin, .. }) = &password
        && username.is_none()
    {
        section.problem(origin, "password_file", "is of no use without mqtt.username; give both");
    }
    if let (Some(url), Some(ca_file)) = (&url, &ca_file)
        && !url.value.tls
    {
        section.problem(&ca_file.origin, "ca_file", format!("is of no use with {}; write mqtts://", url.value));
    }
    if let Some(At { origin, value }) = client_id.as_ref().filter(|at| at.value.is_empty() || at.value.len() > 128) {
        section.problem(origin, "client_id", format!("is {} bytes long; give 1 to 128", value.len()));
    }
    section.finish();
    Some(Mqtt {
        url: url?.value,
        login: username.map(|at| (at.value, password.map(|at| at.value))),
        ca_file: ca_file.map(|at| at.value),
        client_id: client_id.map_or_else(|| format!("dumbwaiter-{id}"), |at| at.value),
    })
}

fn read_rules(root: &mut Section<'_>) -> (Dialect, BoardRules, bool) {
    let mut centre = root.section_or_empty("centre");
    let dialect = centre.or("dialect", Dialect::default());
    centre.finish();
    let mut board = root.section_or_empty("board");
    let ready_ms = board.within("ready_minutes", 20, 1..=1_440) * 60_000;
    let unchanged_ms = board.within("hours", 12, 1..=168) * 3_600_000;
    board.finish();
    let mut orders = root.section_or_empty("orders");
    let strict = orders.or("strict", false);
    orders.finish();
    (dialect, BoardRules { ready_ms, unchanged_ms }, strict)
}

fn read_log(mut section: Section<'_>) -> Log {
    let log = Log { level: section.or("level", LogLevel::Info), format: section.or("format", LogFormat::Auto) };
    section.finish();
    log
}
