//! Starts everything, watches everything, ends everything: each task and thread of the daemon has its name, its owner and its end here.

use crate::attention::{Attention, Subject};
use crate::certificates;
use crate::clock::{BusinessDays, Clock};
use crate::config::Config;
use crate::event_loop::{EventLoop, Parts, Report};
use crate::handle::Handle;
use crate::ingress;
use crate::kafka;
use crate::logging;
use crate::metrics::Metrics;
use crate::printer;
use crate::rebuilding::Rebuilding;
use crate::reload::Reload;
use crate::telling::Telling;
use anyhow::{Context, bail};
use gateway::ids::Epoch;
use gateway::io::{Opened, Record};
use gateway::rebuild::Recall;
use gateway::settings::Settings;
use sd_notify::NotifyState;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Aside, Room, SledDisk, SledOptions, Store, StoreThread};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The ingresses may take so long to close their lines.
const INGRESS_END_MAX: Duration = Duration::from_secs(3);
/// The downlink's client may take so long to close; one that hangs is left behind.
const DOWNLINK_END_MAX: Duration = Duration::from_secs(1);
/// Kafka may take so long for what is still queued when the daemon is told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Statuses wait at least so long for a new store to be rebuilt.
const STATUSES_WAIT: Duration = Duration::from_secs(60);
const HOUR_MS: u64 = 60 * 60 * 1000;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What kept it from starting, or which part ended though nobody asked it to. Whatever was answered *stored* is on disk either way.
pub async fn run(config: Config, path: PathBuf, log_level: logging::Threshold) -> anyhow::Result<()> {
    crate::memory::keep_small();
    // From here on it ends nobody any more.
    let reload_signal = signal(SignalKind::hangup())?;
    let listener = tokio::net::TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("[http] listen: cannot listen on {}; is another daemon running?", config.http.listen))?;
    let (store, opened, damaged) = open_store(&config).await?;
    let epoch = Epoch(u64::from_le_bytes(random()?));
    let (report_sender, reports) = mpsc::unbounded_channel();
    let (status_sender, statuses) = mpsc::channel(kafka::RECORDS_MAX);
    let (recall_sender, recalls) = mpsc::channel(kafka::RECALLS_MAX);
    let clock = Clock::new(&config);
    let metrics = Metrics::new(&config);
    metrics.damaged_stores(damaged.len());
    let settings = config.settings();
    let store_reports = report_sender.clone();
    let store = StoreThread::start(store, move |report| drop(store_reports.send(Report::Store(report))))
        .context("the system gives no thread for the store")?;
    let attention = Attention::default();
    let gate = kafka::Gate::new(random()?);
    let senders = (report_sender, status_sender, recall_sender);
    let kafka = KafkaParts::start(&config, epoch, &settings, &opened, senders, (&attention, &gate, &clock))
        .context("the system gives no thread for Kafka")?;
    let KafkaParts { uplink, downlink, sign_of_life, replay, telling, rebuilding, renewals } = kafka;
    if let Some(downlink) = &downlink {
        show_lag(&metrics, downlink.lags());
    }
    let at_start = config.printers.first().map(|_| opened.open.iter().map(|order| order.order_id.clone()).collect());
    let queued = opened.next_seq.0.saturating_sub(opened.progress.0 + 1);
    let parts = Parts {
        settings,
        opened,
        epoch,
        seed: random()?,
        clock,
        store,
        uplink,
        reports,
        statuses,
        recalls,
        rebuilding,
        metrics: metrics.clone(),
        sign_of_life,
        telling,
        attention: attention.clone(),
        replay,
        dead_letter_alarm: config.kafka.as_ref().map_or(u64::MAX, |kafka| kafka.dead_letter_alarm),
        hears: downlink.is_some(),
    };
    let (event_loop, handle) = EventLoop::new(parts);

    let (stop_ingress, stop_loop) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = Tasks::default();
    let printers = printer::Settings {
        printers: config.printers.clone(),
        zone: config.gateway.time_zone.clone(),
        at_start: Arc::new(at_start.unwrap_or_default()),
        attention: attention.clone(),
    };
    let (printers, serve_printers) = printer::printers(printers, &handle, &metrics);
    if !printers.is_empty() {
        tasks.spawn("printers", serve_printers(stop_ingress.clone()));
    }
    let Renewable { mqtt, keys, tls } =
        tasks.spawn_ingress(&config, (listener, damaged, printers), &handle, (&metrics, &attention), epoch, &stop_ingress)?;
    crate::memory::give_back();
    let mut running_loop = tokio::spawn(event_loop.run(stop_loop.clone(), DRAIN_MAX));
    tracing::info!(gateway = %config.gateway.id, %epoch, queued, version = env!("CARGO_PKG_VERSION"), "running");
    let (running, config) = watch::channel(Arc::new(config));
    tasks.spawn("certificates", certificates::watch(config, metrics.clone(), attention.clone(), stop_ingress.clone().cancelled_owned()));
    let reload = Reload { path, running, handle, renewals, gate, mqtt, keys, tls, log_level, attention, metrics };
    tasks.spawn("reload", reload.run(reload_signal, stop_ingress.clone().cancelled_owned()));
    tell_systemd(&[NotifyState::Ready]);

    let mut end_signals = EndSignals::listen()?;
    let early = tokio::select! {
        () = end_signals.next() => None,
        Some(name) = tasks.next() => Some(name),
        ended = &mut running_loop => {
            ended.context("the event loop panicked")??;
            bail!("the event loop ended though nobody asked it to");
        }
    };
    tell_systemd(&[NotifyState::Stopping]);
    tracing::info!("stopping: no new requests are taken");
    stop_ingress.cancel();
    // Beside the rest: without a broker it takes as long as it may.
    let downlink_end = downlink.map(|downlink| tokio::task::spawn_blocking(move || downlink.stop(DOWNLINK_END_MAX)));
    let drained = async {
        if tokio::time::timeout(INGRESS_END_MAX, tasks.join()).await.is_err() {
            tracing::warn!("a line did not close in time");
        }
        stop_loop.cancel();
        running_loop.await
    };
    tokio::select! {
        ended = drained => ended.context("the event loop panicked")??,
        () = end_signals.next() => tracing::warn!("told to stop twice: ending at once"),
    }
    if let Some(downlink_end) = downlink_end {
        downlink_end.await?;
    }
    match early {
        None => Ok(()),
        Some(name) => bail!("{name} ended though nobody asked it to"),
    }
}

/// Opens the store, a rescued one if it was damaged, and gives the damaged ones that are kept.
async fn open_store(config: &Config) -> anyhow::Result<(Store<SledDisk>, Opened, Vec<Aside>)> {
    let section = config.store.clone();
    let gateway = config.gateway.id.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let room = Room { floor_bytes: section.min_free_bytes, ..Room::default() };
        let (store, opened) = store::open_or_rescue(SledOptions { room, ..SledOptions::new(&section.data_dir) }, gateway)?;
        let store = store.keeping(section.keep());
        let damaged = store::aside(&section.data_dir)?;
        for Aside { path, account } in &damaged {
            tracing::warn!(path = %path.display(), account, "a damaged store was moved aside and is kept; remove it once you have looked");
        }
        anyhow::Ok((store, opened, damaged))
    });
    opened
        .await
        .context("opening the store panicked")?
        .with_context(|| format!("[store] data_dir: cannot use {}", config.store.data_dir.display()))
}

/// Kafka's clients; none of them without `[kafka]`.
#[derive(Default)]
struct KafkaParts {
    /// How each of them is told of another way to reach the brokers.
    renewals: Vec<kafka::Renewal>,
    uplink: Option<kafka::Uplink>,
    downlink: Option<kafka::Downlink>,
    sign_of_life: Option<kafka::SignOfLife>,
    replay: Option<kafka::Replay>,
    telling: Option<Telling>,
    rebuilding: Option<Rebuilding>,
}

impl KafkaParts {
    fn start(
        config: &Config,
        epoch: Epoch,
        settings: &Settings,
        opened: &Opened,
        (reports, statuses, recalls): (mpsc::UnboundedSender<Report>, mpsc::Sender<Record>, mpsc::Sender<Recall>),
        (attention, gate, clock): (&Attention, &kafka::Gate, &Clock),
    ) -> std::io::Result<KafkaParts> {
        let Some(section) = &config.kafka else { return Ok(KafkaParts::default()) };
        let connection = kafka::Connection::new(config, section);
        let renewals: [kafka::Renewal; 6] = std::array::from_fn(|_| kafka::Renewal::new(gate));
        let [of_uplink, of_life, of_downlink, of_replay, of_rebuild, renewal] = renewals.clone();
        let telling = match &section.dead_letter_topic {
            None => None,
            Some(topic) => {
                let (name, told) = (topic.to_string(), reports.clone());
                let settings =
                    kafka::DeadLetterSettings { connection: connection.clone(), renewal, dialect: config.dialect, topic: name.clone() };
                let topic = kafka::DeadLetterTopic::start(settings, move |outcome| drop(told.send(Report::Told(outcome))))?;
                Some(Telling::new(topic, &name, &opened.offsets, reports.clone(), attention.clone()))
            }
        };
        let rebuilding = match settings.new_card.filter(|_| opened.to_rebuild()) {
            None => None,
            Some(new_card) => {
                let since_ms = config.store.new_card_hours * HOUR_MS;
                let (connection, clock) = (connection.clone(), clock.clone());
                let (renewal, dialect, wall_ms) = (of_rebuild, config.dialect, crate::clock::wall_ms);
                let settings = kafka::RebuildSettings { connection, renewal, dialect, since_ms, wall_ms, clock };
                let thread = kafka::Rebuild::start(settings, recalls)?;
                // Also where requests are taken at once: reading mostly takes seconds.
                let statuses_wait = Duration::from_millis(new_card.read_max_ms).max(STATUSES_WAIT);
                Some(Rebuilding::new(thread, opened, statuses_wait, reports.clone()))
            }
        };
        let uplink = kafka::UplinkSettings::new(connection.clone(), config.dialect, &settings.limits, None);
        // A replay is no part of a transaction: it is marked, and no event of it is new.
        let replay = kafka::Replay::start(uplink.clone(), of_replay)?;
        let uplink = kafka::UplinkSettings { once: kafka::ExactlyOnce::of(config, epoch), ..uplink };
        let uplink = kafka::Uplink::start(uplink, of_uplink, Arc::new(move |report| drop(reports.send(Report::Uplink(report)))))?;
        let sign_of_life = match &section.status_topic {
            None => None,
            Some(topic) => Some(kafka::SignOfLife::start(connection.clone(), of_life, topic.as_str().to_owned(), epoch)?),
        };
        let downlink = if config.downlinks.is_empty() {
            None
        } else {
            let settings = kafka::DownlinkSettings {
                connection,
                renewal: of_downlink,
                topics: config.downlinks.clone(),
                // What is older than what a new store is rebuilt from is none of its orders', and may bear epochs that it was not told of.
                first_read_ms: match &rebuilding {
                    Some(_) => config.board.unchanged_ms.min(config.store.new_card_hours * HOUR_MS),
                    None => config.board.unchanged_ms,
                },
                wall_ms: crate::clock::wall_ms,
            };
            Some(kafka::Downlink::start(settings, opened.offsets.clone(), statuses)?)
        };
        let (uplink, replay, renewals) = (Some(uplink), Some(replay), renewals.into());
        Ok(KafkaParts { uplink, downlink, sign_of_life, replay, telling, rebuilding, renewals })
    }
}

fn show_lag(metrics: &Metrics, lags: impl Fn() -> kafka::Lags + Send + 'static) {
    let shown = metrics.clone();
    metrics.before_encoding(move || {
        for (at, records) in lags() {
            shown.consumer_lag(&at.topic, at.partition, records);
        }
    });
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the system gives no random bytes: {e}"))?;
    Ok(bytes)
}

/// Outside systemd this does nothing.
pub fn tell_systemd(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd does not listen");
    }
}

struct EndSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl EndSignals {
    fn listen() -> anyhow::Result<EndSignals> {
        Ok(EndSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What of the ingresses a reload may replace.
struct Renewable {
    mqtt: Option<watch::Sender<ingress::mqtt::Access>>,
    keys: ingress::http::KeyRing,
    tls: Option<ingress::http::Tls>,
}

/// The tasks beside the event loop, each with its name.
#[derive(Default)]
struct Tasks {
    running: JoinSet<String>,
}

impl Tasks {
    fn spawn_ingress(
        &mut self,
        config: &Config,
        (listener, damaged, printers): (tokio::net::TcpListener, Vec<Aside>, printer::Printers),
        handle: &Handle,
        (metrics, attention): (&Metrics, &Attention),
        epoch: Epoch,
        stop: &CancellationToken,
    ) -> anyhow::Result<Renewable> {
        let metrics_text = {
            let metrics = metrics.clone();
            Arc::new(move || metrics.encode())
        };
        let mqtt = config.mqtt.as_ref().map(|mqtt| ingress::mqtt::Settings::new(&config.gateway.id, mqtt, epoch)).transpose()?;
        let (mqtt, renew_mqtt) = mqtt.unzip();
        let settings = ingress::http::Settings::new(&config.http, config.kitchen, mqtt.as_ref().map(|mqtt| mqtt.figures.clone()));
        let pages_file = config.store.data_dir.join("pages.json");
        let settings = ingress::http::Settings {
            pages_file: Some(pages_file.clone()),
            tls: config.http.tls.as_ref().map(ingress::http::Tls::new).transpose()?,
            damaged,
            printers,
            attention: attention.clone(),
            language: config.language,
            days: BusinessDays::new(config),
            site: ingress::http::Site {
                gateway: config.gateway.id.to_string(),
                data_dir: config.store.data_dir.clone(),
                floor_bytes: config.store.min_free_bytes,
                has_kafka: config.kafka.is_some(),
                started: Some(Instant::now()),
                metrics: Some(metrics.clone()),
            },
            ..settings
        };
        settings.usage.show(metrics, &settings.limits);
        let pages = ingress::http::load_pages(&pages_file).unwrap_or_else(|why| {
            tracing::warn!(why, "the paired pages are gone");
            attention.say(Subject::Pages, Some(why));
            vec![]
        });
        settings.keys.pair(pages);
        let (keys, tls) = (settings.keys.clone(), settings.tls.clone());
        let http = ingress::http::serve(listener, settings, handle.clone(), metrics_text, stop.clone().cancelled_owned());
        self.spawn("http", async move {
            if let Err(error) = http.await {
                tracing::error!(error = format!("{error:#}"), "http ended");
            }
        });
        if let Some(settings) = mqtt {
            settings.figures.report_to(metrics);
            self.spawn("mqtt", ingress::mqtt::run(settings, handle.clone(), stop.clone().cancelled_owned()));
        }
        if !config.serial.is_empty() {
            let settings = ingress::serial::Settings::new(config.serial.clone(), epoch);
            settings.figures.report_to(metrics, &config.serial);
            self.spawn("serial", ingress::serial::run(settings, handle.clone(), stop.clone().cancelled_owned()));
        }
        Ok(Renewable { mqtt: renew_mqtt, keys, tls })
    }

    fn spawn(&mut self, name: &str, task: impl Future<Output = ()> + Send + 'static) {
        let name = name.to_owned();
        self.running.spawn(async move {
            task.await;
            name
        });
    }

    /// The name of the next task that ends; one that panicked has none left.
    async fn next(&mut self) -> Option<String> {
        let ended = self.running.join_next().await?;
        Some(ended.unwrap_or_else(|error| format!("a task ({error})")))
    }

    async fn join(&mut self) {
        while self.running.join_next().await.is_some() {}
    }
}
