//! The local HTTP server: orders in, answers and boards out.
//!
//! Promises:
//! - An order is answered with what the event loop decided, never earlier and never with anything else. Without a decision within
//!   [`ANSWER_TIME_MAX`] the answer is 503: the request goes on, and a repeat with the same `Idempotency-Key` gets its answer.
//! - Every answer of the API is JSON and echoes `Idempotency-Key`.
//! - No client holds more than its share: connections, streams, bytes, time and requests per second are bounded below by name, and
//!   each refusal is counted in [`Usage`].
//! - A web page of another origin can neither read nor submit anything (`guard.rs`).
//!
//! It knows nothing of the store and of Kafka: all that it shows comes through the [`Handle`].

mod access;
mod alarms;
mod connection;
mod day;
mod dead_letters;
mod guard;
mod journal;
mod keys;
mod language;
mod operations;
mod pair;
mod pairing;
mod print;
mod rate;
mod reads;
mod reply;
mod roles;
mod routes;
mod steady;
mod submit;
#[cfg(test)]
mod tests;
mod tls;
mod usage;

pub use keys::{KeyRing, hash};
pub use operations::Site;
pub use pairing::load as load_pages;
pub use roles::Role;
pub use tls::{Tls, acceptor};
pub use usage::{Bounded, Usage};

use crate::attention::Attention;
use crate::clock::BusinessDays;
use crate::config;
use crate::display::{BoardText, Language, Streams};
use crate::handle::Handle;
use crate::ingress::mqtt;
use crate::printer::Printers;
use anyhow::Context;
use gateway::ids::Name;
use pairing::Pairing;
use rate::Rates;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Connections that are served at once; beyond it a connection hears 503.
pub const CONNECTIONS_MAX: usize = 256;
/// Connections of strangers, all together: the others are left for the house.
pub const STRANGERS_MAX: usize = 128;
/// Connections of one address, unless it is this computer.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 48;
/// Connections that are being told 503; beyond it they are closed without a word.
pub const REFUSALS_MAX: usize = 32;
/// Bytes of a request's target and headers, by which they are answered; hyper's own buffer ends at [`BUFFER_BYTES_MAX`].
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Bytes that a connection buffers in each direction.
pub const BUFFER_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a body that is too large which are still read, so that its sender gets to see the answer.
pub const OVERFLOW_BYTES_MAX: usize = 256 * 1024;
/// Time for a request's head to arrive, and for the next request on a kept connection to begin.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for a request's body to arrive.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for the event loop's decision.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Time in which a reader that cannot keep up must take [`steady::PROGRESS_BYTES_MIN`].
pub const STALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for requests in flight to end once the gateway stops: a second less than the whole ingress has.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);
/// Pages that listen to the customers' board at once, and as many again to the house's; beyond it a page is told 503, and asks again.
pub const STREAMS_MAX: usize = 64;
/// So many seconds' requests a terminal may submit at once after a pause.
pub const SUBMITS_BURST_SECONDS: u32 = 2;
/// Terminals whose rate is watched at once.
pub const TERMINALS_MAX: usize = 512;
/// So many wrong tokens an address may show at once, one more after each [`WRONG_TOKEN_INTERVAL`].
pub const WRONG_TOKENS_BURST: u32 = 20;
/// After so long an address may show one more wrong token.
pub const WRONG_TOKEN_INTERVAL: Duration = Duration::from_secs(3);
/// Addresses whose wrong tokens are counted at once; beyond it a wrong token of any other is refused as one too many.
pub const WRONG_ADDRESSES_MAX: usize = 256;
/// Orders in one list.
pub const ORDERS_MAX: usize = 500;
/// Bytes of JSON of the orders in one list.
pub const ORDERS_BYTES_MAX: usize = 256 * 1024;
const SECOND: Duration = Duration::from_secs(1);

/// The bounds that tests make smaller. Each is explained at its constant.
#[derive(Debug, Clone)]
pub struct Limits {
    pub connections: usize,
    pub strangers: usize,
    pub connections_per_address: usize,
    pub handshake_time: Duration,
    pub head_time: Duration,
    pub body_time: Duration,
    pub answer_time: Duration,
    pub stall_time: Duration,
    pub drain_time: Duration,
    pub streams: usize,
    pub submits_per_second: u32,
    pub submits_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: CONNECTIONS_MAX,
            strangers: STRANGERS_MAX,
            connections_per_address: CONNECTIONS_PER_ADDRESS_MAX,
            handshake_time: HANDSHAKE_TIME_MAX,
            head_time: HEAD_TIME_MAX,
            body_time: BODY_TIME_MAX,
            answer_time: ANSWER_TIME_MAX,
            stall_time: STALL_TIME_MAX,
            drain_time: DRAIN_TIME_MAX,
            streams: STREAMS_MAX,
            submits_per_second: config::HTTP_SUBMITS_PER_SECOND,
            submits_burst: config::HTTP_SUBMITS_PER_SECOND * SUBMITS_BURST_SECONDS,
        }
    }
}

/// What the config decides.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who may come in from another computer.
    pub keys: KeyRing,
    /// What the listener shows who connects; plain without.
    pub tls: Option<Tls>,
    /// Where paired pages are kept; nobody can be paired without. What is in it has been [`load_pages`]ed into the keys.
    pub pages_file: Option<PathBuf>,
    /// Names by which clients may call this server, beside `localhost` and the address that they reached.
    pub hosts: Vec<String>,
    /// How the line to the MQTT broker is; `None` without one.
    pub mqtt: Option<Arc<mqtt::Figures>>,
    /// `[kitchen]`.
    pub kitchen: config::Kitchen,
    /// `[display] language`.
    pub language: Option<Language>,
    /// Damaged stores that were moved aside: /health counts them, /operations names them.
    pub damaged: Vec<store::Aside>,
    /// What /operations says of this gateway.
    pub site: Site,
    /// The house's business days.
    pub days: BusinessDays,
    /// The house's printers.
    pub printers: Printers,
    /// What a person should see to.
    pub attention: Attention,
    /// The bounds.
    pub limits: Limits,
    /// Where the server counts.
    pub usage: Arc<Usage>,
}

impl Settings {
    /// What `[http]` and `[kitchen]` say; all bounds but the rate are the usual ones.
    pub fn new(section: &config::Http, kitchen: config::Kitchen, mqtt: Option<Arc<mqtt::Figures>>) -> Settings {
        let submits_per_second = section.submits_per_second;
        let limits = Limits { submits_per_second, submits_burst: submits_per_second * SUBMITS_BURST_SECONDS, ..Limits::default() };
        let settings = Settings { hosts: section.hosts.clone(), kitchen, mqtt, limits, ..Settings::default() };
        settings.keys.configure(section);
        settings
    }
}

/// Gives the text of `GET /metrics`, in the format of OpenMetrics.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What every handler may use.
struct App {
    handle: Handle,
    settings: Settings,
    metrics_text: MetricsText,
    rates: Mutex<Rates<Name>>,
    strikes: Mutex<Rates<IpAddr>>,
    pairing: Pairing,
    /// The customers' board: numbers and statuses only.
    public_board: Arc<BoardText>,
    /// The board with order ids.
    house_board: Arc<BoardText>,
    /// Held by who counts a day.
    counting: tokio::sync::Mutex<()>,
    public_streams: Streams,
    house_streams: Streams,
}

/// Serves until `shutdown` is ready, then lets requests in flight end within [`DRAIN_TIME_MAX`].
///
/// # Errors
/// The listener is of no use. A client's errors end that client's connection and nothing else.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    handle: Handle,
    metrics_text: MetricsText,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the HTTP listener has no address")?;
    let (stop, stopped) = watch::channel(false);
    let app = Arc::new(App {
        rates: Mutex::new(Rates::new(SECOND / settings.limits.submits_per_second.max(1), settings.limits.submits_burst, TERMINALS_MAX)),
        pairing: Pairing::new(settings.keys.clone(), settings.pages_file.clone(), settings.usage.clone()),
        strikes: Mutex::new(Rates::new(WRONG_TOKEN_INTERVAL, WRONG_TOKENS_BURST, WRONG_ADDRESSES_MAX)),
        counting: tokio::sync::Mutex::default(),
        public_board: Arc::new(BoardText::public()),
        house_board: Arc::new(BoardText::house()),
        public_streams: Streams::new(settings.limits.streams, settings.usage.clone(), |usage| &usage.public_streams, stopped.clone()),
        house_streams: Streams::new(settings.limits.streams, settings.usage.clone(), |usage| &usage.house_streams, stopped.clone()),
        settings,
        handle,
        metrics_text,
    });
    tracing::info!(%address, "HTTP listens");
    let router = routes::router(&app);
    let mut connections = connection::accept(listener, router, &app.settings, stopped, shutdown).await;
    // Nobody listens only if no connection is left.
    let _ = stop.send(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(app.settings.limits.drain_time, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "HTTP connections were cut");
        connections.shutdown().await;
    }
    Ok(())
}
