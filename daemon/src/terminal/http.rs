//! A terminal over HTTP, and the small client that it is made of.

use super::{ANSWER_TIMEOUT, Ends, Order, RETRY_AFTER, Reply, Terminal, TerminalEvent};
use anyhow::Context;
use bytes::Bytes;
use gateway::ids::Name;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER as RETRY_AFTER_HEADER};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// One connection to a server, used for one call after another.
#[derive(Debug)]
pub struct Connection {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// Nothing listens there.
    pub async fn open(authority: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(authority).await.with_context(|| format!("cannot reach {authority}"))?;
        // With Nagle's algorithm a small request may wait for a delayed acknowledgement.
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { authority: authority.to_owned(), sender, driver })
    }

    /// Calls, and reads the whole answer.
    ///
    /// # Errors
    /// The connection broke or what came is no HTTP: it is of no use any more.
    pub async fn call(&mut self, mut request: Request<Full<Bytes>>) -> anyhow::Result<Response> {
        request.headers_mut().insert(HOST, self.authority.parse()?);
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| anyhow::anyhow!(e))?.to_bytes();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// `GET path` over a connection of its own: status and body.
///
/// # Errors
/// The server cannot be reached or breaks off; any status is an answer.
#[cfg(feature = "demo")]
pub async fn get(authority: impl ToString, path: &str) -> anyhow::Result<(u16, Bytes)> {
    let mut connection = Connection::open(&authority.to_string()).await?;
    let response = connection.call(Request::get(path).body(Full::default())?).await?;
    Ok((response.status, response.body))
}

/// Starts a terminal of that name, towards the gateway at `host:port`, which must admit it.
pub fn start(authority: String, name: Name, mut ends: Ends) -> Terminal {
    Terminal::spawn(async move {
        let mut connection = None;
        while let Some(order) = ends.orders.recv().await {
            if submit(&authority, &name, &order, &mut connection, &ends).await.is_none() {
                return;
            }
        }
        // Terminals live until they are dropped.
        std::future::pending::<()>().await;
    })
}

/// Submits an order until it is done; `None` if nobody listens to this terminal any more.
async fn submit(authority: &str, name: &Name, order: &Order, connection: &mut Option<Connection>, ends: &Ends) -> Option<()> {
    let since = Instant::now();
    let request_id = order.request_id.clone();
    ends.events.send((name.clone(), TerminalEvent::Submitted { request_id: request_id.clone() })).await.ok()?;
    loop {
        let wait = match timeout(ANSWER_TIMEOUT, post(authority, name, order, connection)).await {
            Ok(Ok((reply, retry_after))) => match reply.submit_again_after() {
                Some(wait) => retry_after.unwrap_or(wait),
                None => {
                    let answered = TerminalEvent::Answered { request_id, reply, latency: since.elapsed() };
                    return ends.events.send((name.clone(), answered)).await.ok();
                }
            },
            // Whether the gateway has it is not known, and need not be: the same key is safe.
            Ok(Err(Failure::Line(error))) => {
                let trouble = TerminalEvent::Trouble { reason: format!("{error:#}") };
                ends.events.send((name.clone(), trouble)).await.ok()?;
                *connection = None;
                RETRY_AFTER / 4
            }
            Ok(Err(Failure::Later(wait))) => wait,
            Err(_) => {
                *connection = None;
                Duration::ZERO
            }
        };
        sleep(wait).await;
        ends.events.send((name.clone(), TerminalEvent::Resubmitted { request_id: request_id.clone() })).await.ok()?;
    }
}

/// Why there is no answer.
enum Failure {
    /// The connection broke, or something else than a gateway answers.
    Line(anyhow::Error),
    /// The gateway could not answer in time.
    Later(Duration),
}

async fn post(
    authority: &str,
    name: &Name,
    order: &Order,
    connection: &mut Option<Connection>,
) -> Result<(Reply, Option<Duration>), Failure> {
    let response = exchange(authority, name, order, connection).await.map_err(Failure::Line)?;
    let seconds = response.headers.get(RETRY_AFTER_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry_after = seconds.map(Duration::from_secs);
    match Reply::read(&response.body) {
        Some((request_id, reply)) if request_id == order.request_id => Ok((reply, retry_after)),
        _ if matches!(response.status, 429 | 503) => Err(Failure::Later(retry_after.unwrap_or(RETRY_AFTER))),
        _ => Err(Failure::Line(anyhow::anyhow!("status {} without an answer to {}", response.status, order.request_id))),
    }
}

async fn exchange(authority: &str, name: &Name, order: &Order, connection: &mut Option<Connection>) -> anyhow::Result<Response> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(authority).await?),
    };
    let request = Request::post("/api/v1/orders")
        .header(CONTENT_TYPE, "application/json")
        .header("idempotency-key", order.request_id.as_str())
        .header("x-terminal", name.as_str())
        .body(Full::from(order.http_body()))?;
    connection.call(request).await
}

#[cfg(test)]
mod tests {
    use super::super::{EVENTS_QUEUED_MAX, Orders};
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    /// Reads one request with its body.
    async fn request(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).await.unwrap();
            text += std::str::from_utf8(&buffer[..n]).unwrap();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if let (Some((_, body)), Some(length)) = (text.split_once("\r\n\r\n"), length)
                && body.len() >= length
            {
                return text;
            }
            assert!(n > 0, "the request ends in its middle: {text}");
        }
    }

    async fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn the_same_key_is_used_after_a_broken_connection_after_503_and_after_429() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (give, orders) = mpsc::channel(1);
        let (events, mut told) = mpsc::channel(EVENTS_QUEUED_MAX);
        let _terminal = start(authority, "kiosk-3".parse().unwrap(), Ends { orders, events });
        let order = Orders::new().unwrap().make();
        let id = order.request_id.clone();
        give.send(order).await.unwrap();

        let (mut broken, _) = listener.accept().await.unwrap();
        let mut requests = vec![request(&mut broken).await];
        drop(broken);
        let (mut stream, _) = listener.accept().await.unwrap();
        requests.push(request(&mut stream).await);
        answer(&mut stream, "503 Service Unavailable", "retry-after: 0\r\n", "no JSON").await;
        requests.push(request(&mut stream).await);
        let busy = format!(r#"{{"requestId":"{id}","result":"rejected","code":"busy","message":"m","retryAfterMs":1}}"#);
        answer(&mut stream, "429 Too Many Requests", "retry-after: 0\r\n", &busy).await;
        requests.push(request(&mut stream).await);
        let stored =
            format!(r#"{{"requestId":"{id}","result":"stored","duplicate":false,"orderId":"o-1","eventId":"e","ticket":42,"seq":7}}"#);
        answer(&mut stream, "201 Created", "", &stored).await;

        let reply = loop {
            if let TerminalEvent::Answered { request_id, reply, .. } = told.recv().await.unwrap().1 {
                assert_eq!(request_id, id);
                break reply;
            }
        };
        assert!(matches!(reply, Reply::Stored { seq: 7, ticket: Some(42), .. }), "{reply:?}");
        for request in &requests {
            assert!(request.starts_with("POST /api/v1/orders HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("idempotency-key: {id}\r\n")) && request.contains("x-terminal: kiosk-3\r\n"), "{request}");
        }
        let body = |request: &str| request.split_once("\r\n\r\n").unwrap().1.to_owned();
        assert!(requests.iter().all(|r| body(r) == body(&requests[0])), "the same body each time");
    }
}
