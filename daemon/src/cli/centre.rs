//! `centre`: the reference centre on a real Kafka.

use super::CentreArgs;
use centre::{Centre, Settings};
use std::time::Duration;

/// How often the centre says what it saw, and looks whether it still runs.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Runs until Ctrl-C or SIGTERM, then says what it saw.
///
/// # Errors
/// A setting that librdkafka refuses, or an answer that Kafka refuses for good.
pub async fn run(args: &CentreArgs) -> anyhow::Result<()> {
    let settings = Settings {
        events_topic: args.topic.clone(),
        status_topic: args.status_topic.clone(),
        group: args.group.clone(),
        seed: args.seed,
        ..Settings::new(&args.brokers)
    };
    let centre = Centre::start(settings)?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut tell = tokio::time::interval(TELL_EVERY);
    let mut told = 0;
    while centre.is_running() {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            _ = tell.tick() => {
                let delivered = centre.ledger(|seen| seen.delivered);
                if delivered != told {
                    println!("{delivered} events");
                    told = delivered;
                }
            }
        }
    }
    let ledger = tokio::task::spawn_blocking(move || centre.stop()).await??;
    println!("{} events, {} repeats, {} doubled, {} out of order", ledger.delivered, ledger.repeats, ledger.doubled, ledger.out_of_order);
    Ok(())
}
