//! What `tests/real/bench.py` measures the gateway against: mosquitto alone and rdkafka alone, with the same messages and the same
//! settings, and nothing stored. Further a reader that says what a topic holds, and when the broker got it.

mod echo;
mod topic;

use clap::{Parser, Subcommand};
use std::collections::HashMap;
use std::io;

#[derive(Debug, Parser)]
#[command(about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer what terminals submit as the gateway would, at once and from nothing; says "ready" and runs until it is killed
    Echo {
        /// The broker's port on loopback
        #[arg(long)]
        port: u16,
        /// The gateway's id, which is part of the topics
        #[arg(long)]
        gateway: String,
    },
    /// Read the records of a topic into memory, then produce them to another; the settings of both clients come on standard input, as
    /// `dumbwaiter check --librdkafka` prints them
    Copy {
        #[arg(long)]
        from: String,
        #[arg(long)]
        to: String,
    },
    /// Say what a topic holds, as a line of JSON; the settings of the consumer come on standard input, likewise
    Count {
        #[arg(long)]
        topic: String,
        /// Only what the broker got at this time or later, in Unix milliseconds
        #[arg(long, default_value_t = 0)]
        since_ms: i64,
    },
}

/// What librdkafka is given, by client.
type Settings = HashMap<String, HashMap<String, String>>;

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Echo { port, gateway } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(echo::run(port, &gateway))
        }
        Command::Copy { from, to } => {
            let settings = settings()?;
            topic::produce(&settings, &to, &topic::read(&settings, &from)?)
        }
        Command::Count { topic, since_ms } => {
            println!("{}", topic::summary(&topic::read(&settings()?, &topic)?, since_ms));
            Ok(())
        }
    }
}

fn settings() -> anyhow::Result<Settings> {
    Ok(serde_json::from_reader(io::stdin())?)
}
