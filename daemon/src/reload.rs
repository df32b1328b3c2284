//! A config that changes while the daemon runs: read anew on SIGHUP, which `systemctl reload` sends.
//!
//! All or nothing: only when every file can be read, and the Kafka brokers and the MQTT broker take what changed for them, is anything
//! taken over. What can be taken over at a start only stays as it was, and is told. No terminal is dropped for it: the MQTT connection
//! stays and uses what is new at its next connect, Kafka's clients are made anew behind the outbox. A reload that changes nothing has an
//! effect as well: a line to Kafka that has been down for long is tried at once.

use crate::attention::{Attention, Subject};
use crate::config::{Changes, Config, Environment};
use crate::handle::Handle;
use crate::ingress::{http, mqtt};
use crate::kafka;
use crate::logging;
use crate::metrics::{ByReason, Metrics};
use crate::supervise::tell_systemd;
use anyhow::Context;
use sd_notify::NotifyState;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

/// What a reload works on.
pub struct Reload {
    /// The config file.
    pub path: PathBuf,
    /// The config that runs, for whoever goes by it.
    pub running: watch::Sender<Arc<Config>>,
    /// To the event loop.
    pub handle: Handle,
    /// One for each of Kafka's clients.
    pub renewals: Vec<kafka::Renewal>,
    /// Whether the line to Kafka is down, for all of them.
    pub gate: kafka::Gate,
    /// How the MQTT broker is reached, if there is one.
    pub mqtt: Option<watch::Sender<mqtt::Access>>,
    /// Who may come in by HTTP.
    pub keys: http::KeyRing,
    /// What the HTTP listener shows who connects, if it speaks TLS.
    pub tls: Option<http::Tls>,
    /// The level of the log.
    pub log_level: logging::Threshold,
    /// Where the outcome is told.
    pub attention: Attention,
    /// And counted.
    pub metrics: Metrics,
}

/// How often each came out, by the words of the metric.
#[derive(Default)]
struct Outcomes {
    applied: u64,
    refused: u64,
}

impl Outcomes {
    fn show(&self, metric: &ByReason) {
        metric.set("applied", self.applied);
        metric.set("refused", self.refused);
    }
}

impl Reload {
    /// Reloads at each signal until `stop` is over.
    pub async fn run(self, mut signal: Signal, stop: impl Future<Output = ()>) {
        let metric = self.metrics.by_reason("config_reloads", "Reloads of the config, by how they came out");
        let mut outcomes = Outcomes::default();
        outcomes.show(&metric);
        let serve = async {
            while signal.recv().await.is_some() {
                tell_reloading();
                let outcome = self.reload().await;
                *if outcome.is_ok() { &mut outcomes.applied } else { &mut outcomes.refused } += 1;
                outcomes.show(&metric);
                match outcome {
                    Ok(changes) => self.applied(&changes),
                    Err(error) => self.refused(&error),
                }
                tell_systemd(&[NotifyState::Ready]);
            }
        };
        tokio::select! {
            () = serve => {}
            () = stop => {}
        }
    }

    async fn reload(&self) -> anyhow::Result<Changes> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || Config::load(&path, &Environment::of_process()));
        let newer = read.await.context("reading the config panicked")?.map_err(|problems| {
            let each: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", each.join("; "))
        })?;
        let running = self.running.borrow().clone();
        let (merged, changes) = Changes::between(&running, &newer);

        // All that can fail comes before the first thing that changes.
        if changes.mqtt
            && let Some(section) = &merged.mqtt
        {
            let access = mqtt::Access::of(section);
            access.try_out(&section.client_id).await.with_context(|| format!("the MQTT broker {}", section.url))?;
        }
        let connection = merged.kafka.as_ref().filter(|_| changes.kafka).map(|section| kafka::Connection::new(&merged, section));
        if let Some(connection) = connection.clone() {
            let uplink = kafka::UplinkSettings::new(connection, merged.dialect, &merged.settings().limits, None);
            let tried = tokio::task::spawn_blocking(move || kafka::try_out(&uplink));
            tried.await.context("trying the brokers panicked")?.map_err(anyhow::Error::msg)?;
        }
        let acceptor = merged.http.tls.as_ref().map(http::acceptor).transpose()?;
        if running.log.level != merged.log.level {
            self.log_level.set(merged.log.level)?;
        }

        if let (Some(mqtt), Some(section)) = (&self.mqtt, &merged.mqtt) {
            mqtt.send_replace(mqtt::Access::of(section));
        }
        if let Some(connection) = &connection {
            self.renewals.iter().for_each(|renewal| renewal.put(connection.clone()));
        }
        self.keys.configure(&merged.http);
        if let (Some(tls), Some(acceptor)) = (&self.tls, acceptor) {
            tls.replace(acceptor);
        }
        // In an outage that lasts, whoever reloads wants the line to be tried.
        self.gate.hurry();
        self.handle.configure(merged.settings(), connection.is_some() || self.gate.is_shut()).await;
        self.running.send_replace(Arc::new(merged));
        Ok(changes)
    }

    fn applied(&self, changes: &Changes) {
        let restart = changes.restart.join(", ");
        tracing::info!(applied = changes.live.join(", "), needs_restart = restart, "the config was reloaded");
        let sentence = || format!("changed in the config, but taken over by a restart only: {restart}; systemctl restart dumbwaiter");
        self.attention.say(Subject::Config, (!restart.is_empty()).then(sentence));
    }

    fn refused(&self, error: &anyhow::Error) {
        let why = format!("{error:#}");
        tracing::error!(why, "the config was not reloaded: all stays as it was");
        let sentence = format!("the config could not be reloaded, and all stays as it was: {why}; correct it and reload again");
        self.attention.say(Subject::Config, Some(sentence));
    }
}

fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell_systemd(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the monotonic clock cannot be read"),
    }
}
