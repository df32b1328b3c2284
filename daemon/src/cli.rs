//! The command line: what may be asked for, and the commands that need no module of their own.

pub mod ask;
#[cfg(feature = "demo")]
pub mod centre;
pub mod check;
pub mod day;
pub mod dead_letters;
pub mod doctor;
pub mod journal;
#[cfg(feature = "packaging")]
pub mod packaging;
pub mod pair;
pub mod store;
pub mod terminal;

use crate::config::{DEFAULT_PATH, Framing, MqttUrl};
use crate::ingress::http::Role;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use gateway::ids::{Name, OrderId};
use jiff::Timestamp;
use jiff::civil::Date;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What `check` and a config that is wrong end with; clap's own for a command line that is wrong.
pub const EXIT_WRONG: u8 = 2;
/// Where systemd/mosquitto/dumbwaiter.conf has the password file.
const MOSQUITTO_PASSWORDS: &str = "/etc/mosquitto/dumbwaiter.passwd";

/// Carries orders from a restaurant's terminals to Kafka and back, across power cuts and outages.
#[derive(Debug, Parser)]
#[command(name = "dumbwaiter", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Run(ConfigArgs),
    /// Say what is wrong with a config; ends with 0, or with 2 if anything is
    Check(CheckArgs),
    /// Look at everything that a house's gateway needs, from the power supply to the rights on a topic; ends with 0, or with 2 if anything is wrong
    Doctor(DoctorArgs),
    /// The whole trip with nothing else installed: terminals, broker, Kafka, centre and outages; ends with a ledger
    #[cfg(feature = "demo")]
    #[command(hide = cfg!(feature = "packaging"))]
    Demo(DemoArgs),
    /// The reference centre on a real Kafka: confirms orders, takes payments, tells the houses
    #[cfg(feature = "demo")]
    #[command(hide = cfg!(feature = "packaging"))]
    Centre(CentreArgs),
    /// Ask the running daemon how it is
    Status(AskArgs),
    /// Ask the running daemon for its open orders
    Orders(AskArgs),
    /// Ask the running daemon for one order
    Order {
        /// The order's id
        id: OrderId,
        /// What happened to it
        #[arg(long)]
        history: bool,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// What was taken on a business day, by terminal, and what of it the centre does not have
    Day(DayArgs),
    /// Events that Kafka can never take: what the running daemon keeps of them, and what is to be done
    #[command(subcommand, visible_alias = "dead")]
    DeadLetters(DeadLettersCommand),
    /// Send delivered events to Kafka again, each with its id and seq, marked gateway-repeat: replay
    Replay(ReplayArgs),
    /// Let a page in by a code of six digits, list the pages that are paired, or put one out
    Pair(PairArgs),
    /// Look into the store of a daemon that does not run
    #[command(subcommand)]
    Store(StoreCommand),
    /// Let terminals in, or be one to try things with
    Terminal(TerminalArgs),
    /// Write the man pages and the shells' completions of a package
    #[cfg(feature = "packaging")]
    #[command(hide = true)]
    Packaging {
        /// The folder that they are written to
        folder: PathBuf,
    },
}

/// Where the config is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The config; conf.d/*.toml beside it is merged over it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

/// `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also connect to Kafka and to the MQTT broker, and look for the serial ports
    #[arg(long)]
    pub online: bool,
    /// Print what librdkafka is given, as JSON, secrets hidden
    #[arg(long, conflicts_with = "online")]
    pub librdkafka: bool,
}

/// `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Open each serial port for so many seconds and say what is heard, at other rates too if it makes no sense; some terminals restart when
    /// their port is opened. Not while the daemon runs
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub listen: Option<u64>,
    /// Also write a text file for whoever helps, without secrets and without customers' data
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// `demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// End after this time: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// End with the ledger as a line of JSON
    #[arg(long)]
    pub json: bool,
    /// Use this Kafka instead of the built-in one
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Use this MQTT broker instead of the built-in one
    #[arg(long, value_name = "HOST:PORT")]
    pub mqtt: Option<String>,
}

/// `centre`.
#[cfg(feature = "demo")]
#[derive(Debug, Clone, Args)]
pub struct CentreArgs {
    /// Kafka's brokers, k1:9092,k2:9092
    #[arg(long, value_name = "LIST")]
    pub brokers: String,
    /// The topic that orders come from
    #[arg(long, value_name = "TOPIC", default_value = "order-events")]
    pub topic: String,
    /// The topic that the houses read
    #[arg(long, value_name = "TOPIC", default_value = "order-status")]
    pub status_topic: String,
    /// The consumer group
    #[arg(long, value_name = "NAME", default_value = "order-service")]
    pub group: String,
    /// Payments are drawn from this number: 85 of 100 succeed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// How to ask the running daemon.
#[derive(Debug, Clone, Args)]
pub struct AskArgs {
    /// Print the daemon's JSON as it is
    #[arg(long)]
    pub json: bool,
    /// The daemon's address; otherwise the config's http.listen
    #[arg(long, value_name = "URL")]
    pub url: Option<HttpUrl>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `day`.
#[derive(Debug, Clone, Args)]
pub struct DayArgs {
    /// The day, 2024-01-31; otherwise the one that it is
    #[arg(value_name = "DATE")]
    pub date: Option<Date>,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `dead-letters`.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersCommand {
    /// All of them, by seq
    List(AskArgs),
    /// One of them, with its event
    Show {
        /// Its seq
        seq: u64,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Send them once more, and what waits behind them
    Retry(DecideArgs),
    /// Give them up; what waits behind them is sent
    Discard(DecideArgs),
    /// Print each as a line of JSON
    Export(AskArgs),
}

/// `replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// What was delivered at this time or later: 2024-01-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub from: Timestamp,
    /// And before this
    #[arg(long, value_name = "TIME")]
    pub to: Timestamp,
    /// Only the events of this order
    #[arg(long, value_name = "ID")]
    pub order: Option<OrderId>,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `pair`.
#[derive(Debug, Clone, Args)]
pub struct PairArgs {
    /// What the page is for: board, kitchen, manager or operator
    #[arg(long, default_value = "kitchen", value_parser = role)]
    pub role: Role,
    /// For how long the code is valid, 1 to 60
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub minutes: u64,
    /// List the pages that are paired
    #[arg(long, conflicts_with = "revoke")]
    pub list: bool,
    /// Put the page of this id out
    #[arg(long, value_name = "ID")]
    pub revoke: Option<String>,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// About which dead letters to decide.
#[derive(Debug, Clone, Args)]
pub struct DecideArgs {
    /// Their seqs
    #[arg(required_unless_present = "all")]
    pub seqs: Vec<u64>,
    /// All that there are now
    #[arg(long, conflicts_with = "seqs")]
    pub all: bool,
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `store`.
#[derive(Debug, Clone, Subcommand)]
pub enum StoreCommand {
    /// Open the store and read all of it; ends with 0, or with 2 if anything is wrong
    Check(DataDirArgs),
    /// Print each queued event as a line of JSON
    Export(DataDirArgs),
    /// Queue the events of an export, from standard input; safe to repeat
    Import(DataDirArgs),
}

/// Where the store is.
#[derive(Debug, Clone, Args)]
pub struct DataDirArgs {
    /// The data folder, store.data_dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// `terminal`.
#[derive(Debug, Clone, Args)]
pub struct TerminalArgs {
    /// How it is connected.
    #[command(subcommand)]
    pub line: TerminalLine,
    /// The terminal's name
    #[arg(long, global = true, default_value = "terminal-1")]
    pub name: Name,
    /// Submit so many orders
    #[arg(long, global = true, value_name = "N", default_value_t = 1)]
    pub count: u64,
    /// From so many terminals, each with one order at a time: NAME-1 to NAME-N
    #[arg(long, global = true, value_name = "N", default_value_t = 1)]
    pub terminals: usize,
    /// At most so many a second; without it, each as soon as the one before is answered
    #[arg(long, global = true, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// End with the report as a line of JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// How a terminal is connected.
#[derive(Debug, Clone, Subcommand)]
pub enum TerminalLine {
    /// On a serial line
    Serial {
        /// The device
        path: PathBuf,
        /// Bits per second
        #[arg(long, default_value_t = 115_200)]
        baud: u32,
        /// binary or json
        #[arg(long, default_value = "binary", value_parser = framing)]
        framing: Framing,
    },
    /// Through an MQTT broker
    Mqtt {
        /// mqtt://host:1883 or mqtts://host:8883
        url: MqttUrl,
        /// The gateway's id, which is part of the topics
        #[arg(long)]
        gateway: Name,
        /// The user; the terminal's name by default, if a password is given
        #[arg(long)]
        username: Option<String>,
        /// The file that holds the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Who signed the broker's certificate, in PEM
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
    },
    /// By HTTP
    Http {
        /// http://127.0.0.1:8080
        url: HttpUrl,
    },
    /// Play a gateway that misbehaves, and judge a terminal by the rules of docs/protocol.md
    Check(TerminalCheckArgs),
    /// Give a terminal of the house its token, its password and its port, and print what to type into it
    Add(AddArgs),
    /// Take from a terminal of the house what add gave it
    Remove(ChangeArgs),
    /// Give a terminal of the house another token and another password
    Rotate(ChangeArgs),
}

/// `terminal check`.
#[derive(Debug, Clone, Args)]
pub struct TerminalCheckArgs {
    /// How the terminal is connected.
    #[command(subcommand)]
    pub line: CheckLine,
    /// How long the gateway is away
    #[arg(long, global = true, value_name = "TIME", default_value = "8s", value_parser = duration)]
    pub away: Duration,
    /// How long to wait for the terminal at most: for its next order, and for one that must come again
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub patience: Duration,
}

/// How the terminal under test is connected.
#[derive(Debug, Clone, Subcommand)]
pub enum CheckLine {
    /// On a serial line
    Serial {
        /// The device, or pty: then one is made, and its name printed
        path: PathBuf,
        /// Bits per second
        #[arg(long, default_value_t = 115_200)]
        baud: u32,
        /// binary or json
        #[arg(long, default_value = "binary", value_parser = framing)]
        framing: Framing,
    },
    /// Through an MQTT broker, as its gateway: stop the real one
    Mqtt {
        /// mqtt://host:1883 or mqtts://host:8883
        url: MqttUrl,
        /// The gateway's id, which is part of the topics
        #[arg(long)]
        gateway: Name,
        /// The gateway's user
        #[arg(long)]
        username: Option<String>,
        /// The file that holds the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Who signed the broker's certificate, in PEM
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
    },
    /// By HTTP
    Http {
        /// Where to listen, 127.0.0.1:8080
        listen: SocketAddr,
    },
}

/// `terminal add`.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// Its name in the house
    #[arg(value_name = "NAME")]
    pub terminal: Name,
    /// A token for HTTP
    #[arg(long)]
    pub http: bool,
    /// A user of the MQTT broker, by mosquitto's password file
    #[arg(long)]
    pub mqtt: bool,
    /// A serial port: the device by its stable name, /dev/serial/by-path/…
    #[arg(long, value_name = "PATH")]
    pub serial: Option<PathBuf>,
    /// Bits per second of the port
    #[arg(long, default_value_t = 115_200, requires = "serial")]
    pub baud: u32,
    /// binary or json, on the port
    #[arg(long, default_value = "binary", value_parser = framing, requires = "serial")]
    pub framing: Framing,
    /// mosquitto's password file
    #[arg(long, value_name = "FILE", default_value = MOSQUITTO_PASSWORDS)]
    pub passwords: PathBuf,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `terminal remove` and `terminal rotate`.
#[derive(Debug, Clone, Args)]
pub struct ChangeArgs {
    /// Its name in the house
    #[arg(value_name = "NAME")]
    pub terminal: Name,
    /// mosquitto's password file
    #[arg(long, value_name = "FILE", default_value = MOSQUITTO_PASSWORDS)]
    pub passwords: PathBuf,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `http://host[:port]`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// `host:port`, as it stands in the `Host` header and as it is connected to.
    pub authority: String,
}

impl std::str::FromStr for HttpUrl {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "write it like http://127.0.0.1:8080";
        let uri: hyper::Uri = text.parse().map_err(|_| WRONG)?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or(WRONG)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(WRONG);
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(HttpUrl { authority: format!("{}:{port}", authority.host()) })
    }
}

/// Prints what a command was asked for.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Who reads only the first lines, as `head` does, has what they wanted.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("standard output takes nothing"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads `500ms`, `30s`, `5m` or `1h`.
fn duration(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "write it like 30s, 5m or 1h";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| WRONG)?;
    let unit_ms: u64 = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(WRONG),
    };
    number.checked_mul(unit_ms).filter(|ms| *ms > 0).map(Duration::from_millis).ok_or(WRONG)
}

fn rate(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or("give a number above 0")
}

fn framing(text: &str) -> Result<Framing, &'static str> {
    [Framing::Binary, Framing::Json].into_iter().find(|framing| framing.as_str() == text).ok_or("give binary or json")
}

fn role(text: &str) -> Result<Role, &'static str> {
    Role::from_name(text).ok_or("give board, kitchen, manager or operator")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(std::iter::once("dumbwaiter").chain(line.split_whitespace())).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_is_taken() {
        for line in [
            "run",
            "run --config x.toml",
            "check --config x.toml --online",
            "check --config x.toml --librdkafka",
            "status --json",
            "orders --url http://127.0.0.1:1",
            "order order-123 --json",
            "order order-123 --history",
            "replay --from 2024-01-01T12:00:00Z --to 2024-01-01T15:00:00+01:00 --order order-123",
            "dead-letters list --json",
            "dead-letters show 7",
            "dead-letters retry 7 9 --url http://127.0.0.1:1",
            "dead-letters retry --all",
            "dead-letters discard 7",
            "dead export",
            "pair --role manager --minutes 5",
            "pair --list --json",
            "pair --revoke 0a1b2c3d",
            "store check --data-dir /tmp/x",
            "store export --data-dir /tmp/x",
            "store import --data-dir /tmp/x",
            "terminal serial /dev/ttyUSB0 --count 5 --framing json",
            "terminal mqtt mqtt://127.0.0.1 --gateway store-042 --count 5 --rate 2.5 --name till-1 --terminals 64",
            "terminal add kiosk-3 --http --mqtt --passwords /tmp/p --config x.toml",
            "terminal add till-1 --serial /dev/ttyUSB0 --baud 9600 --framing json",
            "terminal rotate kiosk-3",
            "terminal remove kiosk-3 --json",
            "terminal --name till-1 http http://127.0.0.1:8080 --count 5",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        #[cfg(feature = "demo")]
        for line in ["demo", "demo --duration 30s --json --kafka k:9092 --mqtt m:1883", "centre --brokers k1:9092,k2:9092"] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "order",
            "pair --role cook",
            "pair --minutes 0",
            "dead-letters discard",
            "dead-letters retry 7 --all",
            "store check",
            "terminal http 127.0.0.1:8080",
            "terminal http https://h",
            "terminal mqtt mqtt://h",
            "terminal http http://h --rate 0",
            "terminal http http://h --name a/b",
            "terminal add",
            "terminal add a/b --http",
            "terminal add till-1 --http --baud 9600",
            "status --url http://h/path",
            "status --url http://user:hush@h",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_address_has_a_port_in_the_end() {
        let authority = |url: &str| url.parse::<HttpUrl>().unwrap().authority;
        assert_eq!(authority("http://gateway.local"), "gateway.local:80");
        assert_eq!(authority("http://[::1]:8080/"), "[::1]:8080");
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "5", "s", "-1s", "0s", "1d", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
