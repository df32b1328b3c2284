//! Orders over MQTT: a client of the house's broker.
//!
//! It promises what every ingress promises, that a terminal hears *stored* only from the core, and that every request that it reads
//! is answered as long as there is a connection to answer over. It depends on nothing that a broker promises: a PUBACK means that
//! the broker has a message, in memory, until its next crash. So submissions are acknowledged on arrival (see
//! `docs/decisions/0004-mqtt-acknowledged-on-arrival.md`), terminals submit again until they are answered, and whatever is shown is driven
//! from the store at every connect.
//!
//! It never blocks the event loop, never queues without a bound, and never gives up: a broker that is away is tried again for ever.
//!
//! ```text
//! broker -> Reader -> Intake -> Handle::submit … Answer -> Publisher -> broker
//!             |  statuses found at connect                   ^ answers go first
//!             +-----------------------> House ---------------+ state, board, statuses
//! ```

mod broker;
mod connection;
mod figures;
mod house;
mod intake;
mod presence;
mod refusals;
mod statuses;
#[cfg(test)]
mod tests;
mod topics;
mod unreadable;

pub use broker::{Access, Session};
pub use figures::Figures;
pub use topics::{Channel, Topics};

use crate::config;
use crate::handle::Handle;
use connection::{End, Lost, Manner, Parts, Publisher};
use gateway::ids::{Epoch, Name};
use house::{House, gateway_state};
use intake::Intake;
use refusals::Refusals;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use unreadable::{Remedy, Unreadable};

/// How long the broker keeps our subscriptions and the messages for us after a connection ended: enough to restart the gateway
/// without a terminal's time-out, and too short for an order to come out of nowhere when everybody has forgotten it.
const SESSION_EXPIRY_S: u32 = 60;
/// First and longest wait between two connects.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A connection that served for so long was a good one: after it the waiting begins anew. Two gateways that push each other out of
/// one session would otherwise do so five times a second.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// How long the last answers may take when the daemon stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What the config decides for MQTT, and where it is counted.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `gateway.id`.
    pub gateway: Name,
    /// This start's epoch: terminals see a restart by it.
    pub boot: Epoch,
    /// The broker, and who we are to it; a later one counts from the next connect.
    pub access: watch::Receiver<Access>,
    /// Names our session at the broker: no other client may have it.
    pub client_id: String,
    /// For the metrics.
    pub figures: Arc<Figures>,
}

impl Settings {
    /// The settings, and what renews how the broker is reached.
    ///
    /// # Errors
    /// The broker's address cannot be used with TLS.
    pub fn new(gateway: &Name, mqtt: &config::Mqtt, boot: Epoch) -> anyhow::Result<(Settings, watch::Sender<Access>)> {
        let access = Access::of(mqtt);
        access.host()?;
        let (renew, access) = watch::channel(access);
        let settings = Settings { gateway: gateway.clone(), boot, access, client_id: mqtt.client_id.clone(), figures: Arc::default() };
        Ok((settings, renew))
    }
}

/// Serves MQTT until `stop` is over: then requests in flight are still answered, for at most two seconds, and the broker hears a
/// goodbye.
pub async fn run(settings: Settings, handle: Handle, stop: impl Future<Output = ()>) {
    let figures = Arc::clone(&settings.figures);
    let topics = Topics::new(&settings.gateway);
    let (stopping, stopped) = watch::channel(false);
    let (submits, submits_rx) = mpsc::channel(intake::SUBMITS_QUEUED_MAX);
    let (answers, answers_rx) = mpsc::channel(intake::ANSWERS_QUEUED_MAX);
    let intake = Intake { topics: topics.clone(), handle: handle.clone(), figures: Arc::clone(&figures), answers };
    let parts = Parts {
        topics: topics.clone(),
        figures: Arc::clone(&figures),
        submits,
        terminals: handle.terminals().clone(),
        publisher: Publisher::new(answers_rx, Arc::clone(&figures)),
        house: House::new(topics.clone(), handle, Arc::clone(&figures), settings.boot),
        refusals: Refusals::new(&topics, Arc::clone(&figures)),
        goodbye: gateway_state(&topics, settings.boot, false, false),
    };
    let serve = async {
        tokio::join!(intake.run(submits_rx, stopped.clone()), connect_for_ever(&settings, parts, stopped.clone()));
    };
    let end = async {
        stop.await;
        stopping.send_replace(true);
        // Without a connection nobody can be told anything any more.
        if figures.connected.load(Ordering::Relaxed) {
            tokio::time::sleep(STOP_WITHIN).await;
        }
    };
    tokio::select! {
        () = serve => {}
        () = end => debug!("MQTT did not end in time"),
    }
}

async fn connect_for_ever(settings: &Settings, mut parts: Parts, mut stop: watch::Receiver<bool>) {
    let will = gateway_state(&parts.topics, settings.boot, false, false);
    let mut backoff = Backoff::default();
    let mut unreadable = Unreadable::default();
    let mut said: Option<String> = None;
    let mut quiet = false;
    while !*stop.borrow() {
        let remedy = unreadable.remedy();
        let session = Session {
            client_id: settings.client_id.clone(),
            will: Some((will.topic.clone(), String::from_utf8_lossy(&will.payload).into_owned())),
            expiry_s: SESSION_EXPIRY_S,
            clean_start: remedy != Remedy::Resume,
        };
        let manner = Manner { nothing_retained: remedy == Remedy::NothingRetained, quiet };
        let access = settings.access.borrow().clone();
        let end = match access.options(session).await {
            Ok(options) => parts.serve(options, manner).await,
            Err(error) => End::Lost(Lost { reason: format!("{error:#}"), served: None, unreadable: false, hung_up: false }),
        };
        let lost = match end {
            End::Stopped => return,
            End::Lost(lost) => lost,
        };
        let good = lost.served.is_some_and(|lived| lived >= GOOD_AFTER);
        if good {
            backoff = Backoff::default();
            said = None;
        }
        unreadable.ended(lost.unreadable, good);
        if unreadable.remedy() != remedy {
            say_remedy(unreadable.remedy());
        }
        let (reason, wait) = (lost.reason, backoff.next());
        // A broker that is away for a night, or hangs up at once, is said once, not every five seconds.
        let news = said.as_ref() != Some(&reason);
        quiet = lost.served.is_some() && !news;
        if news {
            warn!(broker = %access.url, %reason, retry_ms = wait.as_millis(), "no MQTT connection");
            said = Some(reason);
        } else {
            debug!(broker = %access.url, %reason, retry_ms = wait.as_millis(), "no MQTT connection");
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

fn say_remedy(remedy: Remedy) {
    match remedy {
        Remedy::Resume => {}
        Remedy::CleanStart => warn!("the MQTT broker sends again what cannot be read: its session is given up, terminals submit again"),
        Remedy::NothingRetained => {
            warn!("the MQTT broker retains what cannot be read: its retained messages are passed over until it is mended");
        }
    }
}

/// Waits that double, each shortened by chance by up to a half: terminals, gateway and a broker that just came back should not meet
/// at one moment.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: BACKOFF.0 }
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(BACKOFF.1);
        // Without a random number the wait is the full one: nothing depends on it but crowding.
        let chance = getrandom::u32().unwrap_or(0);
        full.mul_f64(1.0 - 0.5 * f64::from(chance) / f64::from(u32::MAX))
    }
}
