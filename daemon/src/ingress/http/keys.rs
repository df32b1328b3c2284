//! Who may come in from another computer: one value, which a reload replaces. Only hashes are held, and compared in constant time.

use crate::config::{self, HttpAllow, HttpToken, TokenHash};
use gateway::ids::Name;
use openssl::memcmp;
use openssl::sha::sha256;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Every key that opens something.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Addresses that are a terminal's.
    pub allow: Vec<HttpAllow>,
    /// Terminals' tokens.
    pub tokens: Vec<HttpToken>,
}

impl Keys {
    /// The terminals of an address; none if it is not admitted.
    pub fn of_address(&self, remote: IpAddr) -> Vec<Name> {
        let admitted = self.allow.iter().filter(|entry| entry.from.to_canonical() == remote);
        admitted.map(|entry| entry.terminal.clone()).collect()
    }

    /// The terminal that has this token.
    pub fn of_token(&self, token: &[u8]) -> Option<&Name> {
        let shown = hash(token);
        self.tokens.iter().find(|known| memcmp::eq(&known.sha256.0, &shown.0)).map(|known| &known.terminal)
    }
}

/// What is kept of a token.
pub fn hash(token: &[u8]) -> TokenHash {
    TokenHash(sha256(token))
}

/// The keys as they are now. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct KeyRing(Arc<watch::Sender<Keys>>);

impl Default for KeyRing {
    fn default() -> KeyRing {
        KeyRing::new(Keys::default())
    }
}

impl KeyRing {
    pub fn new(keys: Keys) -> KeyRing {
        KeyRing(Arc::new(watch::Sender::new(keys)))
    }

    /// The keys. The guard must not be held across an await.
    pub fn now(&self) -> watch::Ref<'_, Keys> {
        self.0.borrow()
    }

    /// Takes over what `[http]` says now.
    pub fn configure(&self, section: &config::Http) {
        self.0.send_modify(|keys| {
            keys.allow.clone_from(&section.allow);
            keys.tokens.clone_from(&section.tokens);
        });
    }
}
