//! Which terminals are there, as their retained states and their wills say.

use super::figures::{Figures, count, set};
use crate::handle::Ingress;
use crate::terminals::Terminals;
use gateway::ids::Name;
use std::collections::HashMap;
use std::sync::Arc;

/// Terminals whose state is kept. A house with more of them has a program that makes names up; the rest is not counted.
pub const TERMINALS_MAX: usize = 1024;

/// The terminals' states during one connection: the broker tells them all again after the next.
#[derive(Debug)]
pub struct Presence {
    online: HashMap<Name, bool>,
    figures: Arc<Figures>,
    terminals: Terminals,
}

impl Presence {
    pub fn new(figures: Arc<Figures>, terminals: Terminals) -> Presence {
        Presence { online: HashMap::new(), figures, terminals }
    }

    /// A message on a terminal's topic `state`. An empty one takes the terminal off the list.
    pub fn heard(&mut self, terminal: Name, payload: &[u8]) {
        if payload.is_empty() {
            self.online.remove(&terminal);
            self.terminals.online(Ingress::Mqtt, &terminal, None);
        } else if let Some(online) = read(payload)
            && (self.online.len() < TERMINALS_MAX || self.online.contains_key(&terminal))
        {
            self.terminals.online(Ingress::Mqtt, &terminal, Some(online));
            self.online.insert(terminal, online);
        } else {
            count(&self.figures.ignored);
        }
        self.show();
    }

    fn show(&self) {
        let online = self.online.values().filter(|online| **online).count();
        set(&self.figures.terminals_online, online);
        set(&self.figures.terminals_offline, self.online.len() - online);
    }
}

impl Drop for Presence {
    /// Without a connection nobody knows who is there.
    fn drop(&mut self) {
        self.online.drain().for_each(|(terminal, _)| self.terminals.online(Ingress::Mqtt, &terminal, None));
        self.show();
    }
}

fn read(payload: &[u8]) -> Option<bool> {
    serde_json::from_slice::<serde_json::Value>(payload).ok()?.get("online")?.as_bool()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn seen(figures: &Figures) -> (usize, usize, u64) {
        let load = |gauge: &std::sync::atomic::AtomicUsize| gauge.load(Ordering::Relaxed);
        (load(&figures.terminals_online), load(&figures.terminals_offline), figures.ignored.load(Ordering::Relaxed))
    }

    #[test]
    fn terminals_are_counted_by_their_last_state_until_the_connection_ends() {
        let figures = Arc::new(Figures::default());
        let mut presence = Presence::new(Arc::clone(&figures), Terminals::default());
        let name = |n: usize| format!("till-{n}").parse::<Name>().unwrap();
        presence.heard(name(1), br#"{"online":true,"battery":80}"#);
        presence.heard(name(2), br#"{"online":true}"#);
        presence.heard(name(2), br#"{"online":false}"#);
        assert_eq!(seen(&figures), (1, 1, 0));
        for nonsense in [b"x".as_slice(), b"{}", b"{\"online\":1}", b"\xff"] {
            presence.heard(name(1), nonsense);
        }
        assert_eq!(seen(&figures), (1, 1, 4));
        presence.heard(name(2), b"");
        assert_eq!(seen(&figures), (1, 0, 4));
        drop(presence);
        assert_eq!(seen(&figures), (0, 0, 4));
    }

    #[test]
    fn made_up_names_are_counted_only_up_to_the_bound() {
        let figures = Arc::new(Figures::default());
        let mut presence = Presence::new(Arc::clone(&figures), Terminals::default());
        for n in 0..TERMINALS_MAX + 5 {
            presence.heard(format!("t{n}").parse().unwrap(), br#"{"online":true}"#);
        }
        presence.heard("t0".parse().unwrap(), br#"{"online":false}"#);
        assert_eq!(seen(&figures), (TERMINALS_MAX - 1, 1, 5));
    }
}
