//! Who may come in from another computer: one value, which a reload and a pairing replace. Only hashes are held, and compared in constant time.

use super::access::Caller;
use super::roles::Role;
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
    /// Paired pages.
    pub pages: Vec<Page>,
}

/// A page that somebody paired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What it is revoked by: hexadecimal.
    pub id: String,
    /// Who acts on it: the `actor` of all that comes from it. No two pages have one name.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// What is kept of its cookie.
    pub sha256: TokenHash,
    /// When it was paired, in Unix milliseconds, where that was known.
    pub paired_at_ms: Option<i64>,
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

    /// The page that has this cookie.
    pub fn of_cookie(&self, cookie: &[u8]) -> Option<&Page> {
        let shown = hash(cookie);
        self.pages.iter().find(|known| memcmp::eq(&known.sha256.0, &shown.0))
    }

    /// Whether what once let this caller in still would.
    fn still_lets_in(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Page(page) => self.pages.iter().any(|known| known.sha256 == page.sha256),
            Caller::Terminals(own) => {
                let known = self.allow.iter().map(|entry| &entry.terminal).chain(self.tokens.iter().map(|token| &token.terminal));
                known.into_iter().any(|terminal| own.contains(terminal))
            }
            Caller::Local | Caller::Stranger => true,
        }
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

    /// Takes over who is paired now.
    pub fn pair(&self, pages: Vec<Page>) {
        self.0.send_modify(|keys| keys.pages = pages);
    }

    /// Ends when what let this caller in is taken away.
    pub fn until_gone(&self, caller: Caller) -> impl Future<Output = ()> + Send + 'static {
        let mut keys = self.0.subscribe();
        async move {
            let gone = keys.wait_for(|keys| !keys.still_lets_in(&caller)).await.is_ok();
            if !gone {
                std::future::pending::<()>().await;
            }
        }
    }
}
