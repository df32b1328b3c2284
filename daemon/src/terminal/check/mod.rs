//! `dumbwaiter terminal check`: a gateway that loses answers, says busy and full, repeats itself and goes away, for people who write
//! terminals. It gives a verdict for each rule of docs/protocol.md, chapter 6, and never speaks to a store or to Kafka.

mod frames;
mod http;
mod lines;
mod mqtt;
mod port;
mod requests;
mod rules;

use crate::cli::{CheckLine, TerminalCheckArgs};
use crate::config::{Framing, Secret};
use crate::ingress::mqtt::Access;
use rules::Verdicts;
use std::process::ExitCode;

/// Plays the gateway and prints the verdicts; fails if any rule was broken or none was seen.
///
/// # Errors
/// There is no line to the terminal.
pub async fn run(args: &TerminalCheckArgs, json: bool) -> anyhow::Result<ExitCode> {
    // What to do goes where it does not mix with the verdicts.
    let tell = |text: &str| eprintln!("… {text}");
    let line = match &args.line {
        CheckLine::Serial { path, baud, framing } => {
            let port = port::open(path, *baud)?;
            if let Some(name) = &port.name {
                println!("{name}");
            }
            match framing {
                Framing::Json => lines::open(port),
                Framing::Binary => return Ok(show(&frames::play(port, args.away, args.patience, tell).await, json)),
            }
        }
        CheckLine::Mqtt { url, gateway, username, password_file, ca_file } => {
            let password = password_file.as_deref().map(Secret::read).transpose().map_err(|e| anyhow::anyhow!("--password-file: {e}"))?;
            let login = username.clone().map(|name| (name, password));
            let access = Access { url: url.clone(), login, ca_file: ca_file.clone() };
            access.host()?;
            mqtt::open(&access, gateway).await?
        }
        CheckLine::Http { listen } => {
            let (line, address) = http::open(*listen).await?;
            println!("http://{address}");
            line
        }
    };
    Ok(show(&requests::play(line, args.away, args.patience, tell).await, json))
}

fn show(verdicts: &Verdicts, json: bool) -> ExitCode {
    if json {
        println!("{}", verdicts.to_json());
    } else {
        print!("{verdicts}");
    }
    if verdicts.are_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
