//! What the MQTT ingress counts and how full it is: written here, read by the metrics.

use super::house::STATUSES_FOUND_MAX;
use super::intake::{ANSWERS_QUEUED_MAX, SUBMITS_IN_FLIGHT_MAX, TERMINAL_IN_FLIGHT_MAX};
use super::statuses::{STATUSES_RETAINED_MAX, STATUSES_WAITING_MAX};
use crate::handle::Ingress;
use crate::metrics::Metrics;
use gateway::request::Code;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Counters since the start, and gauges. Each stands alone: nothing is decided by them, so relaxed order is enough.
#[derive(Debug, Default)]
pub struct Figures {
    /// Gauge: a broker connection serves.
    pub connected: AtomicBool,
    /// Connections that came to serve.
    pub connections: AtomicU64,
    /// Gauge: terminals whose state says that they are there. 0 while no connection serves.
    pub terminals_online: AtomicUsize,
    /// Gauge: terminals whose state, or will, says that they are not.
    pub terminals_offline: AtomicUsize,
    /// Gauge: requests between submission and answer; bound [`super::intake::SUBMITS_IN_FLIGHT_MAX`].
    pub submits_in_flight: AtomicUsize,
    /// The most requests of one terminal that were between submission and answer; bound [`super::intake::TERMINAL_IN_FLIGHT_MAX`].
    pub terminal_most: AtomicUsize,
    /// Requests beyond that bound.
    pub terminal_refused: AtomicU64,
    /// Gauge: orders whose status waits for its turn; bound [`super::statuses::STATUSES_WAITING_MAX`].
    pub statuses_waiting: AtomicUsize,
    /// Those that gave up their turn because too many waited.
    pub statuses_given_up: AtomicU64,
    /// Gauge: answers that wait to be published; bound [`super::intake::ANSWERS_QUEUED_MAX`].
    pub answers_queued: AtomicUsize,
    /// Refusals that were not even said, because too many answers waited: the terminal's time-out is its answer.
    pub answers_dropped: AtomicU64,
    /// Messages on topics that name no terminal, and states that say nothing.
    pub ignored: AtomicU64,
    /// Gauge: orders whose status the broker retains for us; bound [`super::statuses::STATUSES_RETAINED_MAX`].
    pub statuses_retained: AtomicUsize,
    /// The oldest statuses that were cleared, or never published, because there were too many.
    pub statuses_crowded_out: AtomicU64,
    /// Retained statuses that were cleared because the gateway did not know them.
    pub statuses_cleared: AtomicU64,
    /// Retained statuses at connect beyond [`super::house::STATUSES_FOUND_MAX`]: looked at after the next connect.
    pub statuses_unread: AtomicU64,
    /// Publishes that the broker refused, by its word or by hanging up: mostly for its access list.
    pub publishes_refused: AtomicU64,
    /// Gauge: the broker refused some, and no connection went well since.
    pub refusing: AtomicBool,
    /// Packets of the broker that could not be read.
    pub unreadable: AtomicU64,
    /// Messages that were not published because the broker takes only smaller ones.
    pub publishes_too_large: AtomicU64,
    refused: [AtomicU64; Code::ALL.len()],
}

impl Figures {
    /// Requests that were refused here, before the core saw them.
    pub fn refused(&self) -> impl Iterator<Item = (Code, u64)> {
        Code::ALL.into_iter().zip(self.refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Lets the metrics show these figures from now on.
    pub fn report_to(self: &Arc<Self>, metrics: &Metrics) {
        let figures = Arc::clone(self);
        let in_flight = metrics.bound("mqtt_requests_in_flight", SUBMITS_IN_FLIGHT_MAX as u64);
        let of_terminal = metrics.bound("mqtt_requests_of_terminal", TERMINAL_IN_FLIGHT_MAX as u64);
        let waiting = metrics.bound("mqtt_statuses_waiting", STATUSES_WAITING_MAX as u64);
        let answers = metrics.bound("mqtt_answers_queued", ANSWERS_QUEUED_MAX as u64);
        let statuses = metrics.bound("mqtt_statuses_retained", STATUSES_RETAINED_MAX as u64);
        let found = metrics.bound("mqtt_statuses_found", STATUSES_FOUND_MAX as u64);
        let up = metrics.gauge("mqtt_up", "1 while a connection to the MQTT broker serves");
        let refusing = metrics.gauge("mqtt_refusing", "1 since the MQTT broker refused a publish, until a connection goes well");
        let connections = metrics.total("mqtt_connections", "Connections to the MQTT broker that came to serve");
        let unpublished = metrics.by_reason("mqtt_publishes_dropped", "Messages that did not get to the MQTT broker");
        let unheard = metrics.by_reason("mqtt_messages_dropped", "Messages of the MQTT broker that nothing could be done with");
        let cleared = metrics.total("mqtt_statuses_cleared", "Retained statuses that the gateway did not know and cleared");
        let said = Code::ALL.map(|_| Cell::new(0));
        let counted = metrics.clone();
        metrics.before_encoding(move || {
            let used = |gauge: &AtomicUsize| gauge.load(Ordering::Relaxed) as u64;
            let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            counted.terminals_online(Ingress::Mqtt, figures.terminals_online.load(Ordering::Relaxed));
            in_flight.set(used(&figures.submits_in_flight));
            of_terminal.set(used(&figures.terminal_most));
            of_terminal.set_refused(total(&figures.terminal_refused));
            waiting.set(used(&figures.statuses_waiting));
            waiting.set_refused(total(&figures.statuses_given_up));
            answers.set(used(&figures.answers_queued));
            answers.set_refused(total(&figures.answers_dropped));
            statuses.set(used(&figures.statuses_retained));
            statuses.set_refused(total(&figures.statuses_crowded_out));
            found.set_refused(total(&figures.statuses_unread));
            up.set(figures.connected.load(Ordering::Relaxed).into());
            refusing.set(figures.refusing.load(Ordering::Relaxed).into());
            connections.set(total(&figures.connections));
            unpublished.set("refused", total(&figures.publishes_refused));
            unpublished.set("too_large", total(&figures.publishes_too_large));
            unheard.set("unreadable", total(&figures.unreadable));
            unheard.set("no_terminal", total(&figures.ignored));
            cleared.set(total(&figures.statuses_cleared));
            for ((code, now), said) in figures.refused().zip(&said) {
                let news = now - said.replace(now);
                if news > 0 {
                    counted.refused(Ingress::Mqtt, code, news);
                }
                if code == Code::Busy {
                    in_flight.set_refused(now - total(&figures.terminal_refused).min(now));
                }
            }
        });
    }

    /// For people: how the line to the broker is.
    pub fn word(&self) -> &'static str {
        if self.refusing.load(Ordering::Relaxed) {
            "refusing"
        } else if self.connected.load(Ordering::Relaxed) {
            "up"
        } else {
            "down"
        }
    }

    pub(super) fn count_refused(&self, code: Code) {
        if let Some(at) = Code::ALL.iter().position(|c| *c == code) {
            count(&self.refused[at]);
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn set(gauge: &AtomicUsize, value: usize) {
    gauge.store(value, Ordering::Relaxed);
}
