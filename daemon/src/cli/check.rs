//! `dumbwaiter check`: says what is wrong with a config, and with what it names.

use super::{CheckArgs, EXIT_WRONG};
use crate::certificates;
use crate::clock;
use crate::config::{Config, Environment, HostPort, PrinterPort, Problems};
use crate::ingress::http;
use crate::kafka::{self, Connection, Finding};
use gateway::ids::Epoch;
use serde_json::json;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The key of the brokers.
const BROKERS: &str = "kafka.brokers";
/// A broker that takes longer to take a connection counts as not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Checks and prints: problems to standard error, a line for a config that is right to standard output. Ends with 0 or 2.
pub async fn run(args: &CheckArgs) -> ExitCode {
    let path = &args.config.config;
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if args.librdkafka {
        println!("{:#}", librdkafka(&config));
        return ExitCode::SUCCESS;
    }
    println!("{}: the config of {} is right", path.display(), config.gateway.id);
    let mut findings = certificates(&config);
    if args.online {
        findings.extend(online(&config).await);
    }
    let mut is_well = true;
    for finding in findings {
        match finding {
            Finding::Right(what) => println!("{what}"),
            Finding::Note(what) => println!("note: {what}"),
            Finding::Wrong(what) => {
                is_well = false;
                eprintln!("{what}");
            }
        }
    }
    if !is_well {
        return ExitCode::from(EXIT_WRONG);
    }
    if args.online {
        println!("everything that it names answers");
    }
    ExitCode::SUCCESS
}

/// What is to be told of the certificates that the config names; nothing while the clock is unknown.
pub(super) fn certificates(config: &Config) -> Vec<Finding> {
    let standings = clock::wall_ms().map(|at_ms| certificates::standings(config, at_ms)).unwrap_or_default();
    let told = standings.iter().filter_map(|standing| Some((standing.is_wrong(), standing.sentence()?)));
    let told = told.map(|(is_wrong, what)| if is_wrong { Finding::Wrong(what) } else { Finding::Note(what) });
    let refused = config.http.tls.as_ref().and_then(|files| http::acceptor(files).err());
    told.chain(refused.map(|error| Finding::Wrong(format!("{error:#}")))).collect()
}

/// What answers of all that the config names, and what does not.
pub(super) async fn online(config: &Config) -> Vec<Finding> {
    let absent = absent(config).await;
    let kafka = ask_kafka(config, &absent).await;
    absent.into_iter().map(Finding::Wrong).chain(kafka).collect()
}

/// Reads the config for any command that needs it, and prints what is wrong with it.
///
/// # Errors
/// What to end with.
pub fn load(path: &Path) -> Result<Config, ExitCode> {
    Config::load(path, &Environment::of_process()).map_err(|problems| {
        let Problems(each) = &problems;
        let count = each.len();
        eprintln!("{problems}");
        eprintln!("{}: {count} {}", path.display(), if count == 1 { "problem" } else { "problems" });
        ExitCode::from(EXIT_WRONG)
    })
}

/// What librdkafka is given by each client of the daemon. Secrets are hidden.
fn librdkafka(config: &Config) -> serde_json::Value {
    let Some(section) = &config.kafka else { return json!({}) };
    let connection = Connection::new(config, section);
    let consumer = kafka::downlink_librdkafka(&connection);
    let once = kafka::ExactlyOnce::of(config, Epoch(0));
    let producer = kafka::UplinkSettings::new(connection, config.dialect, &config.settings().limits, once).librdkafka();
    json!({"producer": producer, "consumer": consumer})
}

/// What Kafka says of what the config asks of it, unless all brokers are among those that do not answer at all.
async fn ask_kafka(config: &Config, absent: &[String]) -> Vec<Finding> {
    let Some(section) = &config.kafka else { return vec![] };
    if absent.iter().filter(|line| line.starts_with(BROKERS)).count() == section.brokers.len() {
        return vec![];
    }
    let connection = Connection::new(config, section);
    let downlinks = config.downlinks.clone();
    let asked = tokio::task::spawn_blocking(move || kafka::look(&connection, &downlinks)).await;
    asked.unwrap_or_else(|error| vec![Finding::Wrong(format!("kafka could not be asked: {error}"))])
}

/// What the config names and is not there, each with what to do.
async fn absent(config: &Config) -> Vec<String> {
    let mut targets: Vec<(&str, HostPort)> = vec![];
    if let Some(kafka) = &config.kafka {
        targets.extend(kafka.brokers.iter().map(|broker| (BROKERS, broker.0.clone())));
    }
    if let Some(mqtt) = &config.mqtt {
        targets.push(("mqtt.url", mqtt.url.address.clone()));
    }
    for printer in &config.printers {
        if let PrinterPort::Address(address) = &printer.port {
            targets.push(("printer.address", address.clone()));
        }
    }
    let mut absent = vec![];
    for (key, address) in targets {
        if let Err(why) = connect(&address).await {
            absent.push(format!("{key}: {address} does not answer: {why}; see that it runs and that the name and the port are right"));
        }
    }
    for port in &config.serial {
        if let Err(why) = look_for(&port.path) {
            absent.push(format!("serial.path: {} of {}: {why}", port.path.display(), port.terminal));
        }
    }
    for printer in &config.printers {
        if let PrinterPort::Serial { path, .. } = &printer.port
            && let Err(why) = look_for(path)
        {
            absent.push(format!("printer.path: {} of {}: {why}", path.display(), printer.name));
        }
    }
    absent
}

async fn connect(address: &HostPort) -> Result<(), String> {
    match timeout(CONNECT_MAX, TcpStream::connect((address.host.as_str(), address.port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no connection within {} s", CONNECT_MAX.as_secs())),
    }
}

/// Looks only: opening a port moves its control lines, which resets some terminals.
fn look_for(path: &Path) -> Result<(), String> {
    use rustix::fs::{Access, access};
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "is not there; is the adapter plugged in? /dev/serial/by-path lists what is".to_owned(),
        _ => format!("cannot be looked at: {e}"),
    })?;
    if !metadata.file_type().is_char_device() {
        return Err("is no serial port".into());
    }
    access(path, Access::READ_OK | Access::WRITE_OK)
        .map_err(|e| format!("may not be opened: {e}; add the user to the group of the port, often dialout"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ConfigArgs;

    fn check(folder: &Path, config: &str) -> (Config, CheckArgs) {
        let path = folder.join("dumbwaiter.toml");
        std::fs::write(&path, config).unwrap();
        let config = Config::load(&path, &Environment::default()).unwrap();
        (config, CheckArgs { config: ConfigArgs { config: path }, online: true, librdkafka: false })
    }

    #[test]
    fn what_librdkafka_is_given_is_shown_for_both_clients() {
        let folder = tempfile::tempdir().unwrap();
        let (config, _) = check(folder.path(), "gateway.id = 'g'\nkafka.brokers = 'k1'\nkafka.compression = 'lz4'");
        let shown = librdkafka(&config);
        assert_eq!((&shown["producer"]["acks"], &shown["producer"]["compression.type"]), (&json!("all"), &json!("lz4")));
        assert_eq!((&shown["consumer"]["group.id"], &shown["consumer"]["bootstrap.servers"]), (&json!("dumbwaiter-g"), &json!("k1:9092")));
    }

    #[tokio::test]
    async fn what_answers_is_right_and_what_does_not_is_told_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (there_at, gone_at) = (there.local_addr().unwrap(), gone.local_addr().unwrap());
        drop(gone);
        let (config, args) = check(folder.path(), &format!("gateway.id = 'g'\nmqtt.url = 'mqtt://{there_at}'"));
        assert_eq!(absent(&config).await, Vec::<String>::new());
        assert_eq!(run(&args).await, ExitCode::SUCCESS);
        let lines = format!(
            "gateway.id = 'g'\nkafka.brokers = '{there_at},{gone_at}'\nmqtt.url = 'mqtt://{gone_at}'\n[[serial]]\nterminal = 'a'\npath = '/dev/none'\n[[serial]]\nterminal = 'b'\npath = '{}'",
            folder.path().display()
        );
        let (config, _) = check(folder.path(), &lines);
        let absent = absent(&config).await;
        let keys: Vec<&str> = absent.iter().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(keys, ["kafka.brokers", "mqtt.url", "serial.path", "serial.path"], "{absent:#?}");
        assert!(absent[0].contains(&gone_at.to_string()), "{absent:#?}");
        assert!(absent[2].contains("is not there") && absent[3].contains("is no serial port"), "{absent:#?}");
        let (_, args) = check(folder.path(), &format!("gateway.id = 'g'\nkafka.brokers = '{gone_at}'"));
        assert_eq!(run(&args).await, ExitCode::from(EXIT_WRONG));
    }

    #[tokio::test]
    async fn a_wrong_config_ends_with_2() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dumbwaiter.toml");
        std::fs::write(&path, "[gateway]\nid = 'a b'").unwrap();
        let args = CheckArgs { config: ConfigArgs { config: path }, online: false, librdkafka: false };
        assert_eq!(run(&args).await, ExitCode::from(EXIT_WRONG));
    }

    #[test]
    fn a_port_is_a_character_device() {
        assert_eq!(look_for(Path::new("/dev/null")), Ok(()));
    }
}
