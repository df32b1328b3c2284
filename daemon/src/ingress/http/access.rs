//! Who is calling, and in whose name it may speak.

use super::App;
use super::connection::Peer;
use super::keys::{Keys, Page};
use super::pair::{self, cookies};
use super::reply::Reply;
use super::roles::{self, Refused, Who};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::middleware::Next;
use axum::response::IntoResponse;
use gateway::ids::Name;
use gateway::request::{Answer, Code};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The header by which a client names its terminal.
pub const X_TERMINAL: &str = "x-terminal";
/// The terminal of a client on this computer that names none.
const DEFAULT_TERMINAL: &str = "http";
const BEARER: &[u8] = b"Bearer ";

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this computer: it may name any terminal.
    Local,
    /// A token, or an address of `[[http.allow]]`. It speaks for these terminals and no other; for the first unless it says which.
    Terminals(Vec<Name>),
    /// A paired page. It speaks for itself.
    Page(Page),
    /// Anybody else: sees the customers' board and /health.
    Stranger,
}

/// An `Authorization` that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongToken;

impl Caller {
    /// Who shows a token is whose it is, and who shows a page's cookie is that page. Then the config's word on an address goes before its
    /// being this computer. A cookie that is no page's any more is none.
    pub fn of(peer: Peer, headers: &HeaderMap, keys: &Keys) -> Result<Caller, WrongToken> {
        if headers.contains_key(AUTHORIZATION) {
            let terminal = bearer(headers).and_then(|token| keys.of_token(token)).ok_or(WrongToken)?;
            return Ok(Caller::Terminals(vec![terminal.clone()]));
        }
        if let Some(page) = cookies(headers).find_map(|cookie| keys.of_cookie(cookie.as_bytes())) {
            return Ok(Caller::Page(page.clone()));
        }
        let terminals = keys.of_address(peer.remote);
        Ok(match terminals.is_empty() {
            false => Caller::Terminals(terminals),
            true if peer.remote.is_loopback() => Caller::Local,
            true => Caller::Stranger,
        })
    }

    /// The terminal that a request is from.
    ///
    /// # Errors
    /// 422 for a name that is none, 403 for another terminal's, 401 for a stranger.
    pub fn terminal(&self, headers: &HeaderMap) -> Result<Name, Reply> {
        let claimed = claimed_terminal(headers)?;
        match self {
            Caller::Stranger => Err(stranger()),
            // Whatever the page calls itself: two pages never share the ids of their requests, and none has a till's.
            Caller::Page(page) => Ok(page.terminal()),
            Caller::Local => Ok(claimed.unwrap_or_else(|| DEFAULT_TERMINAL.parse().expect("a word of four letters is a name"))),
            Caller::Terminals(own) => match claimed.or_else(|| own.first().cloned()) {
                Some(name) if own.contains(&name) => Ok(name),
                Some(name) => {
                    let whose = own.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
                    Err(forbidden(format!("who calls may speak for {whose}, and not for the terminal {name}")))
                }
                None => Err(stranger()),
            },
        }
    }
}

/// The one token of `Authorization: Bearer …` (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, more) = (values.next()?.as_bytes(), values.next());
    let (scheme, token) = value.split_at_checked(BEARER.len())?;
    (more.is_none() && scheme.eq_ignore_ascii_case(BEARER)).then(|| token.trim_ascii())
}

impl Caller {
    /// Who gives a command: a page's own name, or else what the caller says.
    pub fn name_or(&self, said: String) -> String {
        match self {
            Caller::Page(page) => page.name.to_string(),
            Caller::Local | Caller::Terminals(_) | Caller::Stranger => said,
        }
    }

    /// Notes who acts where that is known for certain, whatever the request says.
    pub fn sign(&self, request: &mut gateway::request::Request) {
        if let Caller::Page(page) = self {
            request.data.insert("actor".into(), page.name.as_str().into());
        }
    }
}

impl Page {
    /// The terminal that its requests are from.
    pub fn terminal(&self) -> Name {
        format!("page.{}", self.name).parse().expect("a page's name is short enough for a terminal's name")
    }
}

fn claimed_terminal(headers: &HeaderMap) -> Result<Option<Name>, Reply> {
    let invalid = |why: String| Reply::refused(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, format!("X-Terminal {why}"));
    let mut values = headers.get_all(X_TERMINAL).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("stands twice".into()));
    }
    let text = value.to_str().map_err(|_| invalid("may hold only letters, digits, '.', '_' and '-'".into()))?;
    text.parse().map(Some).map_err(|e| invalid(format!("{e}")))
}

fn forbidden(message: String) -> Reply {
    Reply::refused(StatusCode::FORBIDDEN, Code::Unauthorized, message)
}

fn stranger() -> Reply {
    let message = "send a terminal's token (dumbwaiter terminal add), pair this page at /pair (dumbwaiter pair), or have this address admitted ([[http.allow]])";
    Reply::refused(StatusCode::UNAUTHORIZED, Code::Unauthorized, message)
}

/// Finds out who calls; handlers find the [`Caller`] among the request's extensions.
///
/// # Errors
/// 401 for a token that nobody has, and 429 for an address that shows too many of them.
fn identify(app: &App, peer: Peer, headers: &HeaderMap) -> Result<Caller, Reply> {
    Caller::of(peer, headers, &app.settings.keys.now()).map_err(|WrongToken| {
        let mut strikes = app.strikes.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = strikes.take(&peer.remote, Instant::now());
        app.settings.usage.wrong_tokens.used.set(strikes.len());
        match taken {
            Ok(()) => Reply::refused(
                StatusCode::UNAUTHORIZED,
                Code::Unauthorized,
                "no terminal has this token: dumbwaiter terminal rotate gives a new one",
            ),
            Err(wait) => {
                app.settings.usage.wrong_tokens.refused.increment();
                let message = "too many wrong tokens from this address";
                Reply::of(Answer::rejected(None, Code::Busy, message, Some(wait_ms(wait))))
            }
        }
    })
}

/// Rounded up: a fraction of a millisecond still is one.
pub fn wait_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// What is at a path, for the table of [`roles`](super::roles).
#[derive(Clone)]
pub struct Guarded {
    pub app: Arc<App>,
    pub path: &'static str,
}

/// Lets in who may make this call, and tells the handler who it is. A person without a key is sent to where pages are paired.
pub async fn admit(
    State(Guarded { app, path }): State<Guarded>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let who = roles::who(request.method().as_str(), path);
    let identified = match who {
        // A key that opens nothing is as good as none where none is needed.
        Who::Anybody => Ok(Caller::of(peer, request.headers(), &app.settings.keys.now()).unwrap_or(Caller::Stranger)),
        Who::House(_) | Who::Pages(_) => identify(&app, peer, request.headers()),
    };
    let admitted = identified.and_then(|caller| match roles::check(who, &caller) {
        Ok(()) => Ok(caller),
        Err(refused) => Err(refused.into()),
    });
    match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(reply) => {
            reply.count(&app.settings.usage);
            let is_persons = matches!(path, "/kitchen" | "/operations") && reply.status == StatusCode::UNAUTHORIZED;
            if is_persons { pair::invite(request.uri()) } else { reply.into_response() }
        }
    }
}

impl From<Refused> for Reply {
    fn from(refused: Refused) -> Reply {
        match refused {
            Refused::Unknown => stranger(),
            Refused::Forbidden(message) => forbidden(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::hash;
    use super::*;
    use crate::config::{HttpAllow, HttpToken};

    fn keys(allow: &[HttpAllow]) -> Keys {
        let token = |terminal: &str, token: &[u8]| HttpToken { terminal: terminal.parse().unwrap(), sha256: hash(token) };
        Keys { allow: allow.to_vec(), tokens: vec![token("till-1", b"one"), token("till-2", b"two")], pages: vec![] }
    }

    fn caller(remote: &str, allow: &[HttpAllow]) -> Caller {
        Caller::of(peer(remote), &HeaderMap::new(), &keys(allow)).unwrap()
    }

    fn peer(remote: &str) -> Peer {
        Peer { remote: remote.parse().unwrap(), local: [10, 0, 4, 1].into() }
    }

    fn allow(from: &str, terminal: &str) -> HttpAllow {
        HttpAllow { from: from.parse().unwrap(), terminal: terminal.parse().unwrap() }
    }

    fn says(terminal: &str) -> HeaderMap {
        HeaderMap::from_iter([(X_TERMINAL.parse().unwrap(), terminal.parse().unwrap())])
    }

    fn status(terminal: Result<Name, Reply>) -> u16 {
        terminal.map_or_else(|reply| reply.status.as_u16(), |name| panic!("{name} was taken"))
    }

    #[test]
    fn only_this_computer_and_admitted_addresses_belong_to_the_house() {
        let allow = [allow("10.0.4.21", "kiosk-3")];
        assert_eq!(caller("127.0.0.1", &allow), Caller::Local);
        assert_eq!(caller("::1", &allow), Caller::Local);
        assert_eq!(caller("10.0.4.22", &allow), Caller::Stranger);
        assert_eq!(caller("10.0.4.21", &allow), Caller::Terminals(vec!["kiosk-3".parse().unwrap()]));
        assert_eq!(status(Caller::Stranger.terminal(&HeaderMap::new())), 401);
    }

    #[test]
    fn a_process_on_this_computer_may_name_any_terminal() {
        assert_eq!(Caller::Local.terminal(&HeaderMap::new()).unwrap().as_str(), "http");
        assert_eq!(Caller::Local.terminal(&says("till-9")).unwrap().as_str(), "till-9");
        for bad in ["", "a/b", "a b", "x".repeat(49).as_str()] {
            assert_eq!(status(Caller::Local.terminal(&says(bad))), 422, "{bad:?}");
        }
        let mut twice = says("till-1");
        twice.append(X_TERMINAL, "till-2".parse().unwrap());
        assert_eq!(status(Caller::Local.terminal(&twice)), 422);
    }

    #[test]
    fn an_admitted_address_speaks_for_its_own_terminals_only() {
        let allow = [allow("10.0.4.21", "kiosk-3"), allow("10.0.4.21", "kiosk-4"), allow("127.0.0.1", "till-1")];
        let kiosk = caller("10.0.4.21", &allow);
        assert_eq!(kiosk.terminal(&HeaderMap::new()).unwrap().as_str(), "kiosk-3");
        assert_eq!(kiosk.terminal(&says("kiosk-4")).unwrap().as_str(), "kiosk-4");
        assert_eq!(status(kiosk.terminal(&says("till-1"))), 403);
        assert_eq!(status(caller("127.0.0.1", &allow).terminal(&says("kiosk-3"))), 403, "the config's word goes first");
    }

    #[test]
    fn a_token_is_its_terminal_wherever_it_comes_from_and_a_wrong_one_is_nobody() {
        let allow = [allow("10.0.4.21", "kiosk-3")];
        let shown = |remote: &str, values: &[&str]| {
            let headers = values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect();
            Caller::of(peer(remote), &headers, &keys(&allow))
        };
        for remote in ["127.0.0.1", "10.0.4.21", "10.0.4.22"] {
            assert_eq!(shown(remote, &["Bearer two"]), Ok(Caller::Terminals(vec!["till-2".parse().unwrap()])), "{remote}");
            assert_eq!(shown(remote, &["bearer  one "]), Ok(Caller::Terminals(vec!["till-1".parse().unwrap()])), "{remote}");
            for wrong in [&["Bearer three"][..], &["Bearer "], &["Bearer"], &["one"], &["Basic b25l"], &["Bearer one", "Bearer two"]] {
                assert_eq!(shown(remote, wrong), Err(WrongToken), "{remote} {wrong:?}");
            }
        }
        let till = shown("10.0.4.22", &["Bearer one"]).unwrap();
        assert_eq!(till.terminal(&HeaderMap::new()).unwrap().as_str(), "till-1");
        assert_eq!(status(till.terminal(&says("till-2"))), 403);
    }
}
