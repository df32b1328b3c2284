//! Accepts connections, as many as are bounded, and serves each until it ends.

use super::guard;
use super::reply::Reply;
use super::steady::Steady;
use super::tls::{NoTls, Tls};
use super::usage::Usage;
use super::{BUFFER_BYTES_MAX, Limits, REFUSALS_MAX, Settings};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_native_tls::TlsStream;

/// Pause after a failed accept: it may fail again at once, as long as the process has no file handle left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for a connection that is being refused to say what it wanted.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);

/// The two ends of a connection. Mapped IPv4 addresses are written as IPv4.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Who calls.
    pub remote: IpAddr,
    /// Which of this computer's addresses was called.
    pub local: IpAddr,
}

/// Accepts until `shutdown` is ready; gives the connections that are still open.
pub async fn accept(
    listener: TcpListener,
    router: Router,
    settings: &Settings,
    stopped: watch::Receiver<bool>,
    shutdown: impl Future<Output = ()>,
) -> JoinSet<()> {
    let limits = &settings.limits;
    let places = Places::new(limits, settings.usage.clone());
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return connections,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(peer) = prepare(&stream, remote) else { continue };
        // Nothing but its address is known of it yet.
        let is_stranger = !peer.remote.is_loopback() && settings.keys.now().of_address(peer.remote).is_empty();
        if let Some(place) = places.take(peer.remote, is_stranger) {
            let (router, stopped) = (router.clone(), stopped.clone());
            let (stall_time, head_time, handshake_time) = (limits.stall_time, limits.head_time, limits.handshake_time);
            let (tls, usage) = (settings.tls.clone(), settings.usage.clone());
            connections.spawn(async move {
                let _place = place;
                let service = TowerToHyperService::new(router.layer(Extension(peer)));
                match tls {
                    None => serve(Steady::new(stream, stall_time), head_time, service, stopped).await,
                    Some(tls) => {
                        let Ok(ended) = timeout(handshake_time, shake_hands(&tls, stream, peer, &usage)).await else {
                            return usage.tls_late.increment();
                        };
                        if let Some(stream) = ended {
                            serve(Steady::new(stream, stall_time), head_time, service, stopped).await;
                        }
                    }
                }
            });
        } else {
            // A handshake would cost more than the refusal is worth.
            if settings.tls.is_some() {
                continue;
            }
            let Ok(place) = refusals.clone().try_acquire_owned() else { continue };
            let stopped = stopped.clone();
            connections.spawn(async move {
                let _place = place;
                let stream = Steady::new(stream, REFUSAL_TIME_MAX);
                let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                    Ok::<_, Infallible>(refuse(&request.map(Body::new)))
                });
                serve(stream, REFUSAL_TIME_MAX, service, stopped).await;
            });
        }
    }
}

/// An answer is one small packet: Nagle's algorithm would hold it back for 40 ms and more.
fn prepare(stream: &TcpStream, remote: SocketAddr) -> std::io::Result<Peer> {
    stream.set_nodelay(true)?;
    Ok(Peer { remote: remote.ip().to_canonical(), local: stream.local_addr()?.ip().to_canonical() })
}

async fn shake_hands(tls: &Tls, stream: TcpStream, peer: Peer, usage: &Usage) -> Option<TlsStream<TcpStream>> {
    match tls.accept(stream).await {
        Ok(stream) => return Some(stream),
        Err(NoTls::Plain) => {
            usage.tls_plain.increment();
            tracing::debug!(from = %peer.remote, "plain HTTP on the port of TLS");
        }
        Err(NoTls::Failed) => usage.tls_failed.increment(),
    }
    None
}

async fn serve<S, T>(stream: Steady<T>, head_time: Duration, service: S, mut stopped: watch::Receiver<bool>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<hyper::Request<hyper::body::Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What wait_for gives must not be kept across an await.
    let stopping = async { drop(stopped.wait_for(|stopped| *stopped).await) };
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "an HTTP connection broke");
    }
}

fn refuse(request: &Request) -> Response<Body> {
    let mut response = Reply::unavailable("too many connections").into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    guard::echo_key(request.headers().get(super::reply::IDEMPOTENCY_KEY), &mut response);
    response
}

/// Places for connections. Whoever floods us finds the end of its own: one address has some, all strangers together have some, and
/// the rest is the house's.
struct Places {
    taken: Arc<Mutex<Taken>>,
    in_all_max: usize,
    strangers_max: usize,
    per_address_max: usize,
    usage: Arc<Usage>,
}

#[derive(Default)]
struct Taken {
    in_all: usize,
    strangers: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// A place, until it is dropped.
struct Place {
    taken: Arc<Mutex<Taken>>,
    address: IpAddr,
    is_stranger: bool,
    usage: Arc<Usage>,
}

impl Places {
    fn new(limits: &Limits, usage: Arc<Usage>) -> Places {
        Places {
            taken: Arc::default(),
            in_all_max: limits.connections,
            strangers_max: limits.strangers,
            per_address_max: limits.connections_per_address,
            usage,
        }
    }

    /// `None`, and counted for the bound that is reached.
    fn take(&self, address: IpAddr, is_stranger: bool) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = taken.by_address.get(&address).copied().unwrap_or(0);
        let usage = &self.usage;
        let full = [
            (taken.in_all >= self.in_all_max, &usage.connections),
            (is_stranger && taken.strangers >= self.strangers_max, &usage.strangers),
            (of_address >= self.per_address_max && !address.is_loopback(), &usage.of_address),
        ];
        if let Some((_, bound)) = full.into_iter().find(|(is_full, _)| *is_full) {
            bound.refused.increment();
            return None;
        }
        taken.in_all += 1;
        taken.strangers += usize::from(is_stranger);
        taken.by_address.insert(address, of_address + 1);
        usage.connections.used.set(taken.in_all);
        usage.strangers.used.set(taken.strangers);
        usage.of_address.used.raise_to(of_address + 1);
        Some(Place { taken: self.taken.clone(), address, is_stranger, usage: self.usage.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.in_all -= 1;
        taken.strangers -= usize::from(self.is_stranger);
        self.usage.connections.used.set(taken.in_all);
        self.usage.strangers.used.set(taken.strangers);
        match taken.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ingress::http::Bounded;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn places(connections: usize, strangers: usize, connections_per_address: usize) -> Places {
        Places::new(&Limits { connections, strangers, connections_per_address, ..Limits::default() }, Arc::default())
    }

    #[test]
    fn one_address_cannot_take_every_place_and_a_place_comes_back() {
        let places = places(3, 3, 2);
        let first = places.take(ONE, true).unwrap();
        let _second = places.take(ONE, true).unwrap();
        assert!(places.take(ONE, true).is_none());
        let _third = places.take(OTHER, true).unwrap();
        assert!(places.take(OTHER, true).is_none(), "in all");
        let refused = |bound: &Bounded| bound.refused.get();
        let usage = &places.usage;
        assert_eq!((refused(&usage.of_address), refused(&usage.connections), refused(&usage.strangers)), (1, 1, 0));
        assert_eq!(usage.of_address.used.get(), 2);
        drop(first);
        assert!(places.take(ONE, true).is_some());
        assert_eq!(places.usage.connections.used.get(), 2);
    }

    #[test]
    fn strangers_leave_places_for_the_house() {
        let places = places(3, 1, 3);
        let _stranger = places.take(ONE, true).unwrap();
        assert!(places.take(OTHER, true).is_none());
        assert!(places.take(OTHER, false).is_some());
        assert_eq!((places.usage.strangers.used.get(), places.usage.strangers.refused.get()), (1, 1));
    }

    #[test]
    fn this_computer_may_take_every_place() {
        let places = places(3, 3, 1);
        let taken: Vec<_> = (0..4).map(|_| places.take([127, 0, 0, 1].into(), false)).collect();
        assert_eq!(taken.iter().filter(|place| place.is_some()).count(), 3);
    }

    #[tokio::test]
    async fn small_answers_are_not_held_back() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        assert!(!stream.nodelay().unwrap());
        prepare(&stream, remote).unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
