//! Orders over serial lines: one task's work per port, in binary frames or JSON lines (`docs/protocol.md`).
//!
//! It promises what every ingress promises, that a terminal hears *stored* only from the core, and besides:
//! - A port that is missing, taken or unplugged harms no other: it is said once and tried again for ever.
//! - Over binary frames, a submission is answered *rejected* only if nothing of it is or will be stored under its number. So a decision
//!   that is still open when a port is lost is waited for before the next submission of that port goes to the core.
//!
//! It never blocks the event loop and never queues without a bound: what a terminal does not take in time costs it its port, not memory.

mod binary;
mod display;
mod figures;
mod json;
mod port;
#[cfg(test)]
mod tests;

pub use figures::Figures;

use crate::config::{Framing, SerialPort};
use crate::handle::Handle;
use figures::Counted;
use gateway::ids::Epoch;
pub use port::open;
use port::{Backoff, End, Port};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// How long the last answers may take when the daemon stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// What a terminal has not taken in this time, it will not take: the port is opened anew.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes that are read at once: a few frames.
const READ_BYTES: usize = 1024;

/// What the config decides for serial lines, and where it is counted.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This start's epoch: terminals see a restart by it.
    pub boot: Epoch,
    /// The ports.
    pub ports: Vec<SerialPort>,
    /// For the metrics.
    pub figures: Arc<Figures>,
}

impl Settings {
    pub fn new(ports: Vec<SerialPort>, boot: Epoch) -> Settings {
        Settings { boot, ports, figures: Arc::default() }
    }
}

/// Serves all ports until `stop` is over: then requests in flight are still answered, for at most two seconds.
pub async fn run(settings: Settings, handle: Handle, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    let ports = settings.ports.into_iter().map(|config| {
        let port = Port::new(&config, settings.boot, handle.clone(), Arc::clone(&settings.figures));
        keep_open(config, port, stopped.clone())
    });
    let stop = async {
        stop.await;
        stopping.send_replace(true);
    };
    tokio::join!(futures_util::future::join_all(ports), stop);
}

async fn keep_open(config: SerialPort, mut port: Port, mut stop: watch::Receiver<bool>) {
    let (terminal, path) = (&config.terminal, config.path.display());
    let mut backoff = Backoff::default();
    let mut said: Option<String> = None;
    while !*stop.borrow() {
        let end = match port::open(config.clone()).await {
            Err(error) => End::Lost(error.to_string()),
            Ok(stream) => {
                info!(%terminal, %path, "serial port open");
                port.handle.terminals().port(terminal, path.to_string(), None);
                (backoff, said) = (Backoff::default(), None);
                let _open = Counted::new(&port.figures.ports_open);
                serve(config.framing, &mut port, stream, &mut stop).await
            }
        };
        let End::Lost(reason) = end else { return };
        let wait = backoff.next();
        port.handle.terminals().port(terminal, path.to_string(), Some(reason.clone()));
        // A port that is missing for a night is said once, not every five seconds.
        if said.as_ref() == Some(&reason) {
            debug!(%terminal, %path, %reason, retry_ms = wait.as_millis(), "serial port not open");
        } else {
            warn!(%terminal, %path, %reason, retry_ms = wait.as_millis(), "serial port not open: check the cable and the path");
            said = Some(reason);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

async fn serve<S>(framing: Framing, port: &mut Port, stream: S, stop: &mut watch::Receiver<bool>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match framing {
        Framing::Binary => binary::serve(port, stream, stop).await,
        Framing::Json => json::serve(port, stream, stop).await,
    }
}
