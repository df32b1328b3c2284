//! What every request must pass before it is looked at: size of its head, and whose page it comes from.
//!
//! A page of any site that a browser in the house opens can send requests to this server: by the site's own name, once it resolves to
//! our address (DNS rebinding: `Host` is foreign), or across origins (`Origin` is foreign). Both are refused, on loopback too.

use super::App;
use super::connection::Peer;
use super::reply::{IDEMPOTENCY_KEY, Reply};
use super::{HEAD_BYTES_MAX, HEADERS_MAX};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use gateway::request::Code;
use std::net::IpAddr;
use std::sync::Arc;

/// Lets a request pass or answers it; whichever, the answer echoes `Idempotency-Key` and is never sniffed for another type.
pub async fn guard(State(app): State<Arc<App>>, Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response<Body> {
    let key = request.headers().get(IDEMPOTENCY_KEY).cloned();
    let checked = check_size(&request)
        .inspect_err(|_| app.settings.usage.size_refused.increment())
        .and_then(|()| check_origin(&request, peer.local, &app.settings.hosts));
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(reply) => {
            reply.count(&app.settings.usage);
            reply.into_response()
        }
    };
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    echo_key(key.as_ref(), &mut response);
    response
}

/// Gives the request's key back, unless the handler has set one already.
pub fn echo_key(key: Option<&HeaderValue>, response: &mut Response<Body>) {
    if let Some(key) = key {
        response.headers_mut().entry(IDEMPOTENCY_KEY).or_insert_with(|| key.clone());
    }
}

fn check_size(request: &Request) -> Result<(), Reply> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > HEAD_BYTES_MAX {
        let message = format!("the address has {target} bytes; at most {HEAD_BYTES_MAX} are taken");
        return Err(Reply::refused(StatusCode::URI_TOO_LONG, Code::TooLarge, message));
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() > HEADERS_MAX || bytes > HEAD_BYTES_MAX {
        let message = format!("at most {HEADERS_MAX} headers of {HEAD_BYTES_MAX} bytes are taken");
        return Err(Reply::refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::TooLarge, message));
    }
    Ok(())
}

fn check_origin(request: &Request, local: IpAddr, names: &[String]) -> Result<(), Reply> {
    let foreign = |what: &str| Reply::refused(StatusCode::FORBIDDEN, Code::Unauthorized, format!("{what} is not this server"));
    let headers = request.headers();
    let host = host(headers, request.version())?;
    let called = [host.as_ref(), request.uri().authority()];
    if called.into_iter().flatten().any(|authority| !is_ours(authority, local, names)) {
        return Err(foreign("Host"));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let same = |host: &Authority| origin_authority(origin).is_some_and(|origin| origin.as_str().eq_ignore_ascii_case(host.as_str()));
        if !host.as_ref().is_some_and(same) {
            return Err(foreign("Origin"));
        }
    }
    Ok(())
}

/// The one `Host` that HTTP/1.1 demands. Browsers send nothing older, so an HTTP/1.0 request without one is no page's.
fn host(headers: &HeaderMap, version: Version) -> Result<Option<Authority>, Reply> {
    let bad = |message: &str| Reply::refused(StatusCode::BAD_REQUEST, Code::Invalid, message);
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(None),
        (None, _) => Err(bad("Host is missing")),
        (Some(_), Some(_)) => Err(bad("Host stands twice")),
        (Some(host), None) => Authority::try_from(host.as_bytes()).map(Some).map_err(|_| bad("Host is no host")),
    }
}

/// `localhost`, the very address that was called, or a name of the config. The port is not compared: a forwarded one is as good.
fn is_ours(authority: &Authority, local: IpAddr, names: &[String]) -> bool {
    let host = authority.host();
    let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match literal.parse::<IpAddr>() {
        Ok(address) => address.to_canonical() == local,
        Err(_) => host.eq_ignore_ascii_case("localhost") || names.iter().any(|name| name.eq_ignore_ascii_case(host)),
    }
}

fn origin_authority(origin: &HeaderValue) -> Option<Authority> {
    let text = origin.to_str().ok()?;
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    authority.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 4, 1));

    fn status(version: Version, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().version(version).uri("/api/v1/orders");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let names = ["board.local".to_owned()];
        check_origin(&request.body(Body::empty()).unwrap(), LOCAL, &names).map_or_else(|reply| reply.status.as_u16(), |()| 200)
    }

    #[test]
    fn only_our_own_names_are_taken_for_host() {
        for ours in ["localhost", "LOCALHOST:8080", "10.0.4.1", "10.0.4.1:81", "[::ffff:10.0.4.1]:8080", "Board.Local:8080"] {
            assert_eq!(status(Version::HTTP_11, &[("host", ours)]), 200, "{ours}");
        }
        for foreign in ["evil.example", "10.0.4.2", "127.0.0.1", "[::1]:8080", "localhost.evil.example", "board.local.", "board.local@evil"]
        {
            assert_eq!(status(Version::HTTP_11, &[("host", foreign)]), 403, "{foreign}");
        }
        for broken in [&[][..], &[("host", "")], &[("host", "a b")], &[("host", "localhost"), ("host", "localhost")]] {
            assert_eq!(status(Version::HTTP_11, broken), 400, "{broken:?}");
        }
        assert_eq!(status(Version::HTTP_10, &[]), 200);
    }

    #[test]
    fn only_pages_of_this_very_server_may_ask() {
        let from = |origin| status(Version::HTTP_11, &[("host", "localhost:8080"), ("origin", origin)]);
        assert_eq!(from("http://localhost:8080"), 200);
        assert_eq!(from("https://localhost:8080"), 200);
        for foreign in ["http://localhost:3000", "http://evil.example", "null", "", "file://", "http://localhost"] {
            assert_eq!(from(foreign), 403, "{foreign:?}");
        }
        assert_eq!(status(Version::HTTP_10, &[("origin", "http://localhost")]), 403);
    }

    #[test]
    fn a_target_that_names_another_host_is_foreign() {
        let request = Request::builder().uri("http://evil.example/health").header("host", "localhost").body(Body::empty()).unwrap();
        assert_eq!(check_origin(&request, LOCAL, &[]).unwrap_err().status, StatusCode::FORBIDDEN);
    }
}
