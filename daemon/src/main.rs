//! The daemon's shell around the pure core: bytes and threads out here, decisions in `gateway`.

mod attention;
mod certificates;
mod cli;
mod clock;
mod config;
mod day;
#[cfg(feature = "demo")]
mod demo;
mod disk_state;
mod display;
mod event_loop;
mod handle;
mod ingress;
mod kafka;
mod logging;
mod memory;
mod metrics;
mod printer;
mod rebuilding;
mod reload;
mod supervise;
mod telling;
mod terminal;
mod terminals;
mod unheard;
mod whole_file;

use clap::Parser;
use cli::{Cli, Command, TerminalLine};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // One worker: nothing on it blocks, and an order that passes from task to task wakes no other thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let ended = runtime.block_on(carry_out(command));
        // A thread that hangs in a system call must not keep a process alive that has nothing left to do.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        ended
    });
    ended.unwrap_or_else(|error| {
        eprintln!("dumbwaiter: {error:#}");
        ExitCode::FAILURE
    })
}

async fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            let config = match cli::check::load(&args.config) {
                Ok(config) => config,
                Err(code) => return Ok(code),
            };
            let log_level = logging::start(config.log)?;
            supervise::run(config, args.config, log_level).await?;
        }
        Command::Check(args) => return Ok(cli::check::run(&args).await),
        Command::Doctor(args) => return cli::doctor::run(&args).await,
        Command::Status(args) => cli::ask::status(&args).await?,
        Command::Orders(args) => cli::ask::orders(&args).await?,
        Command::Day(args) => cli::day::run(&args).await?,
        Command::Replay(args) => cli::journal::replay(&args).await?,
        Command::Pair(args) => cli::pair::run(&args).await?,
        Command::DeadLetters(command) => cli::dead_letters::run(&command).await?,
        Command::Order { id, history: true, ask } => cli::journal::history(&ask, &id).await?,
        Command::Order { id, history: false, ask } => cli::ask::order(&ask, &id).await?,
        #[cfg(feature = "demo")]
        Command::Demo(args) => {
            let options = demo::Options { duration: args.duration, json: args.json, kafka: args.kafka, mqtt: args.mqtt };
            return Ok(if demo::run(options).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        #[cfg(feature = "demo")]
        Command::Centre(args) => cli::centre::run(&args).await?,
        Command::Terminal(args) => {
            match &args.line {
                TerminalLine::Check(check) => return terminal::check::run(check, args.json).await,
                TerminalLine::Add(add) => return cli::terminal::add(add, args.json),
                TerminalLine::Remove(change) => return cli::terminal::remove(change, args.json),
                TerminalLine::Rotate(change) => return cli::terminal::rotate(change, args.json),
                TerminalLine::Serial { .. } | TerminalLine::Mqtt { .. } | TerminalLine::Http { .. } => {}
            }
            let report = terminal::run(&args).await?;
            if args.json {
                println!("{}", report.to_json());
            } else {
                print!("{report}");
            }
            return Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Store(command) => return cli::store::run(&command),
        #[cfg(feature = "packaging")]
        Command::Packaging { folder } => cli::packaging::write(&folder)?,
    }
    Ok(ExitCode::SUCCESS)
}
