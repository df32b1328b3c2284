//! Which terminals there are, as far as anybody heard of them since the start: for people who look, nothing is decided by it.

use crate::handle::Ingress;
use gateway::ids::Name;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Terminals that are remembered. A house with more of them has a program that makes names up; the rest is not shown.
const TERMINALS_MAX: usize = 256;

/// What is known of one.
#[derive(Debug, Default)]
struct Known {
    ingress: &'static str,
    /// The serial port's path.
    port: Option<String>,
    /// What its line or its own word says; `None` where nothing does, as over HTTP.
    online: Option<bool>,
    /// Its last request.
    heard_at: Option<Instant>,
    requests: u64,
    refused: u64,
    /// What came from it and made no sense.
    garbled: u64,
    /// Why its port is not open.
    trouble: Option<String>,
}

/// All of them, by name. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Terminals(Arc<Mutex<BTreeMap<Name, Known>>>);

impl Terminals {
    /// It submitted a request.
    pub fn submitted(&self, ingress: Ingress, terminal: &Name) {
        self.change(ingress, terminal, |known| {
            known.heard_at = Some(Instant::now());
            known.requests += 1;
        });
    }

    /// One of its requests was refused.
    pub fn refused(&self, ingress: Ingress, terminal: &Name) {
        self.change(ingress, terminal, |known| known.refused += 1);
    }

    /// Whether it is there; `None` once nobody knows.
    pub fn online(&self, ingress: Ingress, terminal: &Name, online: Option<bool>) {
        self.change(ingress, terminal, |known| known.online = online);
    }

    /// So much came from it that made no sense.
    pub fn garbled(&self, ingress: Ingress, terminal: &Name, count: u64) {
        if count > 0 {
            self.change(ingress, terminal, |known| known.garbled += count);
        }
    }

    /// Its serial port is open, or why it is not.
    pub fn port(&self, terminal: &Name, path: String, trouble: Option<String>) {
        self.change(Ingress::Serial, terminal, |known| {
            known.port = Some(path);
            if trouble.is_some() {
                known.online = Some(false);
            }
            known.trouble = trouble;
        });
    }

    fn change(&self, ingress: Ingress, terminal: &Name, change: impl FnOnce(&mut Known)) {
        let mut all = self.get();
        if let Some(known) = all.get_mut(terminal) {
            known.ingress = ingress.as_str();
            change(known);
        } else if all.len() < TERMINALS_MAX {
            let mut known = Known { ingress: ingress.as_str(), ..Known::default() };
            change(&mut known);
            all.insert(terminal.clone(), known);
        }
    }

    /// For the page /operations.
    pub fn to_json(&self) -> Value {
        let one = |(name, known): (&Name, &Known)| {
            let heard_ms = known.heard_at.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
            json!({
                "terminal": name.as_str(), "ingress": known.ingress, "port": known.port, "online": known.online, "heardMs": heard_ms,
                "requests": known.requests, "refused": known.refused, "garbled": known.garbled, "trouble": known.trouble,
            })
        };
        self.get().iter().map(one).collect()
    }

    fn get(&self) -> MutexGuard<'_, BTreeMap<Name, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_known_by_its_port_its_word_and_its_requests() {
        let (terminals, name) = (Terminals::default(), |n: usize| format!("till-{n}").parse::<Name>().unwrap());
        terminals.port(&name(1), "/dev/ttyUSB0".into(), Some("no such file".into()));
        assert_eq!((&terminals.to_json()[0]["online"], &terminals.to_json()[0]["trouble"]), (&json!(false), &json!("no such file")));
        terminals.port(&name(1), "/dev/ttyUSB0".into(), None);
        terminals.online(Ingress::Serial, &name(1), Some(true));
        terminals.submitted(Ingress::Serial, &name(1));
        terminals.refused(Ingress::Serial, &name(1));
        terminals.garbled(Ingress::Serial, &name(1), 3);
        terminals.submitted(Ingress::Http, &name(2));
        let known = terminals.to_json();
        let first = &known[0];
        assert_eq!(
            (&first["online"], &first["requests"], &first["refused"], &first["garbled"]),
            (&json!(true), &json!(1), &json!(1), &json!(3))
        );
        assert!(first["heardMs"].is_number() && first["trouble"].is_null() && known[1]["online"].is_null(), "{known}");
        for n in 0..2 * TERMINALS_MAX {
            terminals.submitted(Ingress::Http, &name(n));
        }
        assert_eq!(terminals.to_json().as_array().map(Vec::len), Some(TERMINALS_MAX));
    }
}
