//! Who is calling, and for which terminal it may speak.

use super::App;
use super::connection::Peer;
use super::reply::Reply;
use crate::config::HttpAllow;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::middleware::Next;
use axum::response::IntoResponse;
use gateway::ids::Name;
use gateway::request::Code;
use std::sync::Arc;

/// The header by which a client names its terminal.
pub const X_TERMINAL: &str = "x-terminal";
/// The terminal of a client on this computer that names none.
const DEFAULT_TERMINAL: &str = "http";

/// Who is calling, as far as the connection tells. Whatever else proves who somebody is (a token, a paired page) becomes one of
/// these, and nothing below asks for more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this computer: it may name any terminal.
    Local,
    /// An address of `[[http.allow]]`, which speaks for these terminals and no other; for the first unless it says which.
    Terminals(Vec<Name>),
    /// Anybody else: sees the customers' board and /health.
    Stranger,
}

impl Caller {
    /// The config's word on an address goes before its being this computer.
    pub fn of(peer: Peer, allow: &[HttpAllow]) -> Caller {
        let admitted = allow.iter().filter(|entry| entry.from.to_canonical() == peer.remote);
        let terminals: Vec<Name> = admitted.map(|entry| entry.terminal.clone()).collect();
        match terminals.is_empty() {
            false => Caller::Terminals(terminals),
            true if peer.remote.is_loopback() => Caller::Local,
            true => Caller::Stranger,
        }
    }

    /// The terminal that a request is from.
    ///
    /// # Errors
    /// 422 for a name that is none, 403 for another terminal's, 401 for a stranger.
    pub fn terminal(&self, headers: &HeaderMap) -> Result<Name, Reply> {
        let claimed = claimed_terminal(headers)?;
        match self {
            Caller::Stranger => Err(stranger()),
            Caller::Local => Ok(claimed.unwrap_or_else(|| DEFAULT_TERMINAL.parse().expect("a word of four letters is a name"))),
            Caller::Terminals(own) => match claimed.or_else(|| own.first().cloned()) {
                Some(name) if own.contains(&name) => Ok(name),
                Some(name) => Err(forbidden(format!("this address may not speak for the terminal {name}"))),
                None => Err(stranger()),
            },
        }
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
    let message = "this address is not admitted: see [[http.allow]] in the gateway's config";
    Reply::refused(StatusCode::UNAUTHORIZED, Code::Unauthorized, message)
}

/// Lets only those in who belong to the house; handlers find the [`Caller`] among the request's extensions.
pub async fn house_only(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response<axum::body::Body> {
    let caller = Caller::of(peer, &app.settings.allow);
    if caller == Caller::Stranger {
        let reply = stranger();
        reply.count(&app.settings.usage);
        return reply.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(Caller::of(peer("127.0.0.1"), &allow), Caller::Local);
        assert_eq!(Caller::of(peer("::1"), &allow), Caller::Local);
        assert_eq!(Caller::of(peer("10.0.4.22"), &allow), Caller::Stranger);
        assert_eq!(Caller::of(peer("10.0.4.21"), &allow), Caller::Terminals(vec!["kiosk-3".parse().unwrap()]));
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
        let kiosk = Caller::of(peer("10.0.4.21"), &allow);
        assert_eq!(kiosk.terminal(&HeaderMap::new()).unwrap().as_str(), "kiosk-3");
        assert_eq!(kiosk.terminal(&says("kiosk-4")).unwrap().as_str(), "kiosk-4");
        assert_eq!(status(kiosk.terminal(&says("till-1"))), 403);
        assert_eq!(status(Caller::of(peer("127.0.0.1"), &allow).terminal(&says("kiosk-3"))), 403, "the config's word goes first");
    }
}
