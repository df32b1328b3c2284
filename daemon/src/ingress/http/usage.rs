//! How full the server's bounds are, and what it refused.

use super::pairing::{CODES_MAX, PAGES_MAX, TRYING_ADDRESSES_MAX};
use super::{Limits, WRONG_ADDRESSES_MAX};
use crate::handle::Ingress;
use crate::metrics::Metrics;
use gateway::request::{Code, REQUEST_BYTES_MAX};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// A value that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Gauge {
    /// Now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Relaxed);
    }

    pub(crate) fn raise_to(&self, value: usize) {
        self.0.fetch_max(value as u64, Relaxed);
    }
}

impl Counter {
    /// Since the start.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// How full a bounded thing is, and what was refused because it was full.
#[derive(Debug, Default)]
pub struct Bounded {
    /// How many there are.
    pub used: Gauge,
    /// How many were refused.
    pub refused: Counter,
}

/// A gauge and a counter for every bound of the HTTP server, and what it refused before the core saw it.
#[derive(Debug, Default)]
pub struct Usage {
    /// Connections. Refused ones were told 503 or closed.
    pub connections: Bounded,
    /// Connections of strangers, all together.
    pub strangers: Bounded,
    /// Connections of one address: the most that any had since the start.
    pub of_address: Bounded,
    /// Streams of the customers' board.
    pub public_streams: Bounded,
    /// Streams of the house's board.
    pub house_streams: Bounded,
    /// Addresses that showed a wrong token lately; refused are those that showed too many.
    pub wrong_tokens: Bounded,
    /// Paired pages; refused are those for which there was no room.
    pub pages: Bounded,
    /// Codes that are valid; refused are those for which there was no room.
    pub pairing_codes: Bounded,
    /// Addresses that tried a code lately; refused are tries beyond what an address has.
    pub pairing_addresses: Bounded,
    /// Connections that spoke no TLS where it is spoken.
    pub tls_plain: Counter,
    /// Handshakes that failed.
    pub tls_failed: Counter,
    /// Handshakes that took too long.
    pub tls_late: Counter,
    /// Wrong codes.
    pub pairing_wrong: Counter,
    /// Requests that were refused because their terminal sends too many (429).
    pub rate_refused: Counter,
    /// Requests whose head or body was too large (413, 414, 431).
    pub size_refused: Counter,
    /// Requests whose body took too long to arrive (408).
    pub bodies_late: Counter,
    /// Requests that heard 503 because the decision took too long.
    pub answers_late: Counter,
    refused: [Counter; Code::ALL.len()],
}

impl Usage {
    /// Requests with this code that were refused before the core saw them.
    pub fn refused(&self, code: Code) -> u64 {
        Code::ALL.into_iter().zip(&self.refused).find(|(of, _)| *of == code).map_or(0, |(_, count)| count.get())
    }

    pub(super) fn count_refused(&self, code: Code) {
        if let Some((_, count)) = Code::ALL.into_iter().zip(&self.refused).find(|(of, _)| *of == code) {
            count.increment();
        }
    }

    /// Shows all of it among the metrics.
    pub fn show(self: &Arc<Usage>, metrics: &Metrics, limits: &Limits) {
        let connections = metrics.bound("http_connections", limits.connections as u64);
        let strangers = metrics.bound("http_strangers", limits.strangers as u64);
        let of_address = metrics.bound("http_connections_of_address", limits.connections_per_address as u64);
        let public_streams = metrics.bound("http_public_streams", limits.streams as u64);
        let house_streams = metrics.bound("http_house_streams", limits.streams as u64);
        let wrong_tokens = metrics.bound("http_wrong_token_addresses", WRONG_ADDRESSES_MAX as u64);
        let pages = metrics.bound("http_pages", PAGES_MAX as u64);
        let pairing_codes = metrics.bound("http_pairing_codes", CODES_MAX as u64);
        let pairing_addresses = metrics.bound("http_pairing_addresses", TRYING_ADDRESSES_MAX as u64);
        let handshake_time = metrics.bound("http_handshake_seconds", limits.handshake_time.as_secs());
        let no_tls = metrics.by_reason("http_tls_refused", "Connections that came to no TLS, by why");
        let pairing_wrong = metrics.total("pairing_codes_wrong", "Pairing codes that were wrong");
        let rate = metrics.bound("http_requests_per_second", limits.submits_per_second.into());
        let bytes = metrics.bound("http_request_bytes", REQUEST_BYTES_MAX as u64);
        let body_time = metrics.bound("http_body_seconds", limits.body_time.as_secs());
        let answer_time = metrics.bound("http_answer_seconds", limits.answer_time.as_secs());
        let (usage, counted) = (self.clone(), metrics.clone());
        let told: [AtomicU64; Code::ALL.len()] = Default::default();
        metrics.before_encoding(move || {
            let bounded = [
                (&connections, &usage.connections),
                (&strangers, &usage.strangers),
                (&of_address, &usage.of_address),
                (&public_streams, &usage.public_streams),
                (&house_streams, &usage.house_streams),
                (&wrong_tokens, &usage.wrong_tokens),
                (&pages, &usage.pages),
                (&pairing_codes, &usage.pairing_codes),
                (&pairing_addresses, &usage.pairing_addresses),
            ];
            for (shown, counted) in bounded {
                shown.set(counted.used.get());
                shown.set_refused(counted.refused.get());
            }
            handshake_time.set_refused(usage.tls_late.get());
            no_tls.set("plain", usage.tls_plain.get());
            no_tls.set("failed", usage.tls_failed.get());
            pairing_wrong.set(usage.pairing_wrong.get());
            rate.set_refused(usage.rate_refused.get());
            bytes.set_refused(usage.size_refused.get());
            body_time.set_refused(usage.bodies_late.get());
            answer_time.set_refused(usage.answers_late.get());
            for (code, told) in Code::ALL.into_iter().zip(&told) {
                let now = usage.refused(code);
                counted.refused(Ingress::Http, code, now - told.swap(now, Relaxed));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn every_refusal_is_among_the_metrics_and_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dumbwaiter.toml");
        std::fs::write(&file, "[gateway]\nid = \"store-042\"\n").unwrap();
        let metrics = Metrics::new(&Config::load(&file, &Environment::default()).unwrap());
        let usage = Arc::new(Usage::default());
        usage.show(&metrics, &Limits::default());
        usage.connections.used.set(3);
        usage.house_streams.refused.increment();
        usage.count_refused(Code::Unauthorized);
        metrics.encode();
        usage.count_refused(Code::Unauthorized);
        let text = metrics.encode();
        for line in [
            "dumbwaiter_bound_used{bound=\"http_connections\"} 3",
            "dumbwaiter_bound_max{bound=\"http_connections\"} 256",
            "dumbwaiter_bound_refused_total{bound=\"http_house_streams\"} 1",
            "dumbwaiter_requests_total{ingress=\"http\",result=\"rejected\",code=\"unauthorized\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
