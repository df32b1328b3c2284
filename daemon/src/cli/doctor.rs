//! `dumbwaiter doctor`: looks at everything that a house's gateway needs, and says of each what to do.
//!
//! It changes nothing, asks nothing of a running daemon but how it is, and opens a serial port only where it is told to.

mod bundle;
mod device;
mod disk;
mod serial;

use super::{AskArgs, DoctorArgs, EXIT_WRONG, ask, check, print};
use crate::config::Config;
use crate::kafka::Finding;
use anyhow::Context;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A name server that takes longer counts as not there.
const NAME_MAX: Duration = Duration::from_secs(5);

/// Looks, prints, and ends with 0, or with 2 if anything is wrong.
///
/// # Errors
/// The bundle cannot be written, or nobody takes what is printed.
pub async fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let config = check::load(&args.config.config).ok();
    let daemon = ask::get(&args.ask(), "/health").await;
    let runs = daemon.is_ok();

    report.section("Config", config_findings(args, config.as_ref()))?;
    report.section("Daemon", daemon_findings(daemon.map(|answer| answer.json)))?;
    let root = Path::new("/");
    report.section("Device", device::look(root))?;
    report.section("Disk", config.as_ref().map(|config| disk::look(root, &config.store)).unwrap_or_default())?;
    let ports = config.as_ref().map(|config| config.serial.as_slice()).unwrap_or_default();
    let mut serial = serial::ports(root, ports);
    match args.listen {
        Some(_) if runs => serial.push(Finding::Note("the daemon has the ports: nothing is listened to while it runs".into())),
        Some(seconds) => serial.extend(serial::listen(ports, Duration::from_secs(seconds)).await),
        None => {}
    }
    report.section("Serial ports", serial)?;
    if let Some(config) = &config {
        report.section("Names", names(config).await)?;
        report.section("Lines", check::online(config).await)?;
    }
    print(report.verdict())?;
    if let Some(file) = &args.bundle {
        let text = bundle::text(&report.text, args).await;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        print(&format!("{} is text: read it before you send it\n", file.display()))?;
    }
    Ok(if report.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WRONG) })
}

impl DoctorArgs {
    fn ask(&self) -> AskArgs {
        AskArgs { json: true, url: None, config: self.config.clone() }
    }
}

/// What was found so far.
#[derive(Default)]
struct Report {
    text: String,
    wrong: usize,
}

impl Report {
    fn section(&mut self, title: &str, findings: Vec<Finding>) -> anyhow::Result<()> {
        if findings.is_empty() {
            return Ok(());
        }
        let mut text = format!("{title}\n");
        for finding in findings {
            let (mark, what) = match finding {
                Finding::Right(what) => ("ok", what),
                Finding::Note(what) => ("--", what),
                Finding::Wrong(what) => {
                    self.wrong += 1;
                    ("!!", what)
                }
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {mark}  {what}");
        }
        self.text.push_str(&text);
        print(&text)
    }

    fn verdict(&self) -> &'static str {
        if self.wrong == 0 { "Nothing is wrong.\n" } else { "What is marked !! needs somebody.\n" }
    }
}

fn config_findings(args: &DoctorArgs, config: Option<&Config>) -> Vec<Finding> {
    let path = args.config.config.display();
    let Some(config) = config else {
        // What is wrong with it was said by whoever read it.
        return vec![Finding::Wrong(format!("{path}: cannot be used; without it only the device is looked at"))];
    };
    let mut findings = vec![Finding::Right(format!("{path}: the config of {} is right", config.gateway.id))];
    if config.kafka.is_none() {
        findings.push(Finding::Note("[kafka] is absent: orders are kept, and nothing leaves the house".into()));
    }
    findings.extend(check::certificates(config));
    findings
}

fn daemon_findings(health: anyhow::Result<Value>) -> Vec<Finding> {
    let health = match health {
        Ok(health) => health,
        Err(error) => return vec![Finding::Wrong(format!("{error:#}; systemctl status dumbwaiter says why it does not run"))],
    };
    let field = |name: &str| health[name].as_str().unwrap_or("unknown").to_owned();
    let waits = health["queued"].as_u64().unwrap_or_default();
    let mut findings = vec![Finding::Right(format!("version {} runs; {waits} events wait; Kafka: {}", field("version"), field("kafka")))];
    let told = health["attention"].as_array().into_iter().flatten().filter_map(Value::as_str);
    findings.extend(told.map(|sentence| Finding::Wrong(sentence.to_owned())));
    findings
}

/// Whether the names in the config mean something here.
async fn names(config: &Config) -> Vec<Finding> {
    let brokers = config.kafka.iter().flat_map(|kafka| &kafka.brokers).map(|broker| &broker.0.host);
    let hosts = brokers.chain(config.mqtt.iter().map(|mqtt| &mqtt.url.address.host));
    let hosts: BTreeSet<&String> = hosts.filter(|host| host.parse::<IpAddr>().is_err()).collect();
    let mut findings = vec![];
    for host in hosts {
        let asked_at = Instant::now();
        let found = timeout(NAME_MAX, tokio::net::lookup_host((host.as_str(), 0))).await;
        let ms = asked_at.elapsed().as_millis();
        findings.push(match found {
            Ok(Ok(addresses)) => {
                let addresses: BTreeSet<String> = addresses.map(|address| address.ip().to_string()).collect();
                Finding::Right(format!("{host} is {} ({ms} ms)", addresses.into_iter().collect::<Vec<_>>().join(", ")))
            }
            Ok(Err(error)) => Finding::Wrong(format!("{host}: {error}; is the name right? /etc/resolv.conf names who is asked")),
            Err(_) => Finding::Wrong(format!("{host}: no answer within {} s; /etc/resolv.conf names who is asked", NAME_MAX.as_secs())),
        });
    }
    findings
}

/// A small file's text, without the line feed at its end.
fn read(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim_end().to_owned())
}
