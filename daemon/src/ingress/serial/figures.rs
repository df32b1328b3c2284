//! What the serial ingress counts and how full it is: written here, read by the metrics.

use super::display::CHANGES_GATHERED_MAX;
use super::json;
use crate::config::{Framing, SERIAL_PORTS_MAX, SerialPort};
use crate::handle::Ingress;
use crate::metrics::Metrics;
use gateway::request::Code;
use protocol::Counters;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counters since the start, and gauges. Each stands alone: nothing is decided by them, so relaxed order is enough.
#[derive(Debug, Default)]
pub struct Figures {
    /// Gauge: ports that are open; bound [`crate::config::SERIAL_PORTS_MAX`].
    pub ports_open: Arc<AtomicUsize>,
    /// Gauge: terminals that were heard lately.
    pub terminals_online: Arc<AtomicUsize>,
    /// Gauge: requests between submission and answer; bound one a port in binary framing, [`super::json::IN_FLIGHT_MAX`] in JSON lines.
    pub submits_in_flight: Arc<AtomicUsize>,
    /// Frames whose COBS or CRC was wrong, and lines that are no request.
    pub garbled: AtomicU64,
    /// Frames and lines that were longer than any may be.
    pub oversized: AtomicU64,
    /// Messages of an unknown kind.
    pub unknown: AtomicU64,
    /// Messages that had no place where they came: repeats after a loss, mostly.
    pub out_of_place: AtomicU64,
    /// Half lines that were never ended.
    pub abandoned: AtomicU64,
    /// Ports that were opened anew because nothing was taken from them.
    pub stuck: AtomicU64,
    /// Gauge: changes that the display which changed last has to show; bound [`super::display::CHANGES_GATHERED_MAX`].
    pub changes_gathered: AtomicUsize,
    /// Changes that a display was not shown because too many came at once; bound [`super::display::CHANGES_GATHERED_MAX`].
    pub changes_dropped: AtomicU64,
    refused: [AtomicU64; Code::ALL.len()],
}

impl Figures {
    /// Requests that were refused here, before the core saw them.
    pub fn refused(&self) -> impl Iterator<Item = (Code, u64)> {
        Code::ALL.into_iter().zip(self.refused.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Lets the metrics show these figures of these ports from now on.
    pub fn report_to(self: &Arc<Self>, metrics: &Metrics, ports: &[SerialPort]) {
        let figures = Arc::clone(self);
        let most = ports.iter().map(|port| match port.framing {
            Framing::Binary => 1,
            Framing::Json => json::IN_FLIGHT_MAX as u64,
        });
        let open = metrics.bound("serial_ports_open", SERIAL_PORTS_MAX as u64);
        let in_flight = metrics.bound("serial_requests_in_flight", most.sum());
        let changes = metrics.bound("serial_changes_gathered", CHANGES_GATHERED_MAX as u64);
        let dropped = metrics.by_reason("serial_dropped", "Frames, lines and messages of serial terminals that were dropped");
        let reopened = metrics.total("serial_ports_reopened", "Serial ports that were opened anew because nothing was taken from them");
        let said = Code::ALL.map(|_| Cell::new(0));
        let counted = metrics.clone();
        metrics.before_encoding(move || {
            let used = |gauge: &AtomicUsize| gauge.load(Ordering::Relaxed);
            counted.terminals_online(Ingress::Serial, used(&figures.terminals_online));
            open.set(used(&figures.ports_open) as u64);
            in_flight.set(used(&figures.submits_in_flight) as u64);
            changes.set(used(&figures.changes_gathered) as u64);
            changes.set_refused(figures.changes_dropped.load(Ordering::Relaxed));
            let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            dropped.set("garbled", total(&figures.garbled));
            dropped.set("oversized", total(&figures.oversized));
            dropped.set("unknown", total(&figures.unknown));
            dropped.set("out_of_place", total(&figures.out_of_place));
            dropped.set("abandoned", total(&figures.abandoned));
            reopened.set(total(&figures.stuck));
            for ((code, now), said) in figures.refused().zip(&said) {
                counted.refused(Ingress::Serial, code, now - said.replace(now));
                if code == Code::Busy {
                    in_flight.set_refused(now);
                }
            }
        });
    }

    pub(super) fn count_refused(&self, code: Code) {
        if let Some(at) = Code::ALL.iter().position(|c| *c == code) {
            count(&self.refused[at]);
        }
    }

    /// Adds what a link counted since `before`. Gives how much of it made no sense.
    pub(super) fn count_link(&self, before: &mut Counters, now: Counters) -> u64 {
        let add = |counter: &AtomicU64, before: u64, now: u64| counter.fetch_add(now - before, Ordering::Relaxed);
        add(&self.garbled, before.garbled, now.garbled);
        add(&self.oversized, before.oversized, now.oversized);
        add(&self.unknown, before.unknown, now.unknown);
        add(&self.out_of_place, before.out_of_place, now.out_of_place);
        let garbled = now.garbled - before.garbled + now.oversized - before.oversized;
        *before = now;
        garbled
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts one in a gauge while it lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(gauge: &Arc<AtomicUsize>) -> Counted {
        gauge.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(gauge))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn what_was_dropped_is_among_the_metrics_by_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dumbwaiter.toml");
        std::fs::write(&file, "gateway.id = 'store-042'").unwrap();
        let metrics = Metrics::new(&Config::load(&file, &Environment::default()).unwrap());
        let figures = Arc::new(Figures::default());
        figures.report_to(&metrics, &[]);
        let mut before = Counters::default();
        figures.count_link(&mut before, Counters { garbled: 1, oversized: 2, unknown: 3, out_of_place: 4, ..Counters::default() });
        count(&figures.abandoned);
        count(&figures.stuck);
        metrics.encode();
        let text = metrics.encode();
        for line in [
            r#"dumbwaiter_serial_dropped_total{reason="garbled"} 1"#,
            r#"dumbwaiter_serial_dropped_total{reason="oversized"} 2"#,
            r#"dumbwaiter_serial_dropped_total{reason="unknown"} 3"#,
            r#"dumbwaiter_serial_dropped_total{reason="out_of_place"} 4"#,
            r#"dumbwaiter_serial_dropped_total{reason="abandoned"} 1"#,
            "dumbwaiter_serial_ports_reopened_total 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
