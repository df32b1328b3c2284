//! `dumbwaiter status|orders|order`: asks the running daemon over its own HTTP.

use super::{AskArgs, print};
use crate::config::{Environment, listen_of};
use anyhow::{Context, bail};
use gateway::ids::OrderId;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// From the connection to the last byte of the answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Largest answer that is read: 2,000 open orders of 4 KiB.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// `status`.
///
/// # Errors
/// Nothing listens, or what listens is no gateway; the message says which and what to do.
pub async fn status(args: &AskArgs) -> anyhow::Result<()> {
    let health = get(args, "/health").await?;
    show(args, &health, status_text)
}

/// `orders`.
///
/// # Errors
/// As [`status`].
pub async fn orders(args: &AskArgs) -> anyhow::Result<()> {
    let orders = get(args, "/api/v1/orders").await?;
    show(args, &orders, orders_text)
}

/// `order ID`.
///
/// # Errors
/// As [`status`], or the house does not know the order.
pub async fn order(args: &AskArgs, id: &OrderId) -> anyhow::Result<()> {
    let path = format!("/api/v1/orders/{}", utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC));
    let order = get(args, &path).await?;
    show(args, &order, order_text)
}

/// The daemon's answer.
pub(super) struct Answered {
    /// As it came.
    text: String,
    pub json: Value,
}

pub(super) fn show(args: &AskArgs, answer: &Answered, for_people: impl Fn(&Value) -> String) -> anyhow::Result<()> {
    let text = if args.json { format!("{}\n", answer.text) } else { for_people(&answer.json) };
    print(&text)
}

pub(super) async fn get(args: &AskArgs, path: &str) -> anyhow::Result<Answered> {
    ask(args, Request::get(path), String::new()).await
}

/// Asks for something to be done.
pub(super) async fn post(args: &AskArgs, path: &str, body: &Value) -> anyhow::Result<Answered> {
    ask(args, Request::post(path).header(header::CONTENT_TYPE, "application/json"), body.to_string()).await
}

/// Asks for something to be taken away.
pub(super) async fn delete(args: &AskArgs, path: &str) -> anyhow::Result<Answered> {
    ask(args, Request::delete(path), String::new()).await
}

async fn ask(args: &AskArgs, request: Builder, body: String) -> anyhow::Result<Answered> {
    let (authority, tls) = match &args.url {
        Some(url) => (url.authority.clone(), false),
        None => {
            let listen = listen_of(&args.config.config, &Environment::of_process());
            (reachable(listen.address).to_string(), listen.tls)
        }
    };
    timeout(ANSWER_MAX, call(&authority, tls, request, body))
        .await
        .with_context(|| format!("{authority} did not answer within {} s", ANSWER_MAX.as_secs()))?
}

/// Where a listener on this machine is reached: one on every address also listens on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn call(authority: &str, tls: bool, request: Builder, body: String) -> anyhow::Result<Answered> {
    let stream = TcpStream::connect(authority).await.with_context(|| {
        format!("no gateway listens on {authority}; is the daemon running? Give another address with --url or --config")
    })?;
    if !tls {
        return fetch(stream, authority, request, body).await;
    }
    // The config's own listener is on this computer: nobody is between, and its certificate names no loopback address.
    let any = native_tls::TlsConnector::builder().danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true).build()?;
    let stream = tokio_native_tls::TlsConnector::from(any).connect("localhost", stream).await;
    fetch(stream.with_context(|| format!("{authority} speaks no TLS, which the config has"))?, authority, request, body).await
}

async fn fetch<S>(stream: S, authority: &str, request: Builder, body: String) -> anyhow::Result<Answered>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let talks = || format!("{authority} is no gateway; give another address with --url or --config");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(talks)?;
    let request = request.header(header::HOST, authority).header(header::ACCEPT, "application/json");
    let request = request.body(Full::<Bytes>::from(body))?;
    // The connection ends with the sender, which is dropped at the end of this function.
    let (answer, _) = tokio::join!(
        async move {
            let answer = sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| anyhow::anyhow!(e))?;
            anyhow::Ok((head.status, body.to_bytes()))
        },
        connection
    );
    let (status, body) = answer.with_context(talks)?;
    let text = String::from_utf8_lossy(&body).trim_end().to_owned();
    let json: Option<Value> = serde_json::from_str(&text).ok();
    match (status, json) {
        (StatusCode::OK, Some(json)) => Ok(Answered { text, json }),
        (StatusCode::OK, None) => bail!(talks()),
        (status, json) => {
            let message = json.as_ref().and_then(|json| json.get("message")).and_then(Value::as_str).unwrap_or("no reason was given");
            bail!("{authority} answered {status}: {}", plain(message))
        }
    }
}

fn status_text(health: &Value) -> String {
    let word = |key| field(health, key);
    let mut text = format!("{} {}: {}\n", word("service"), word("version"), word("status"));
    let oldest = match health.get("oldestQueuedMs").and_then(Value::as_u64) {
        Some(ms) if ms > 0 => format!(", the oldest for {}", span(ms)),
        _ => String::new(),
    };
    let _ = writeln!(text, "Kafka   {}\nqueued  {}{oldest}", word("kafka"), word("queued"));
    if let Some(mqtt) = health.get("mqtt").and_then(Value::as_str) {
        let _ = writeln!(text, "MQTT    {}", plain(mqtt));
    }
    if health.get("damagedStores").and_then(Value::as_u64).is_some_and(|count| count > 0) {
        text.push_str("a damaged store was moved aside and is kept: see /operations\n");
    }
    for sentence in health.get("attention").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(text, "{}", plain(sentence));
    }
    text
}

fn orders_text(answer: &Value) -> String {
    let orders = answer.get("orders").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut rows = vec![["NUMBER", "STATUS", "PAYMENT", "ORDER", "CREATED"].map(str::to_owned)];
    let row = |order: &Value| {
        [number(order), field(order, "status"), field(order, "payment"), field(order, "orderId"), field(order, "createdAt")]
    };
    rows.extend(orders.iter().map(row));
    let mut text = table(&rows);
    let count = orders.len();
    let more = if answer.get("more").and_then(Value::as_bool) == Some(true) { ", and more" } else { "" };
    let _ = writeln!(text, "{count} open {}{more}", if count == 1 { "order" } else { "orders" });
    text
}

/// Columns as wide as their widest cell.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

fn order_text(order: &Value) -> String {
    let mut text = format!("order {}  number {}\n", field(order, "orderId"), number(order));
    let shown =
        ["status", "payment", "totalPrice", "channel", "customerName", "dueAt", "shipper", "terminalId", "createdAt", "updatedAt", "alarm"];
    for key in shown.into_iter().filter(|key| order.get(key).is_some()) {
        let _ = writeln!(text, "{key:14}{}", field(order, key));
    }
    for line in order.get("lines").and_then(Value::as_array).into_iter().flatten() {
        let name = if line.get("foodName").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) { "foodName" } else { "foodId" };
        let _ = writeln!(text, "{:>5} × {}  {}", field(line, "quantity"), field(line, name), field(line, "status"));
    }
    text
}

fn number(order: &Value) -> String {
    let key = if order.get("displayNumber").is_some() { "displayNumber" } else { "ticket" };
    field(order, key)
}

pub(super) fn field(object: &Value, key: &str) -> String {
    match object.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => plain(text),
        Some(other) => other.to_string(),
    }
}

/// A customer's name must not move the cursor of who reads it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{ConfigArgs, HttpUrl};
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn at(authority: &str) -> AskArgs {
        let url = Some(HttpUrl { authority: authority.to_owned() });
        AskArgs { json: false, url, config: ConfigArgs { config: "/nonexistent/x.toml".into() } }
    }

    /// A listener that answers one request with these bytes, and gives the request's head.
    async fn answering(answer: &str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let answer = answer.to_owned();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (authority, task)
    }

    fn response(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn an_order_is_asked_for_by_its_encoded_id() {
        let (authority, request) = answering(&response("200 OK", r#"{"orderId":"a/b ü"}"#)).await;
        order(&at(&authority), &"a/b ü".parse().unwrap()).await.unwrap();
        let head = request.await.unwrap();
        assert!(head.starts_with("GET /api/v1/orders/a%2Fb%20%C3%BC HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {authority}\r\n")), "{head}");
    }

    #[tokio::test]
    async fn nothing_listening_is_said_with_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = status(&at(&authority)).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("no gateway listens on {authority}")), "{error}");
    }

    #[tokio::test]
    async fn something_else_listening_is_said() {
        for wrong in ["SSH-2.0-OpenSSH\r\n".to_owned(), response("200 OK", "<html>")] {
            let (authority, _request) = answering(&wrong).await;
            let error = status(&at(&authority)).await.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{authority} is no gateway")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_given_with_its_reason() {
        let (authority, _request) =
            answering(&response("404 Not Found", r#"{"code":"unknown_order","message":"no such\u001b[2J order"}"#)).await;
        let error = order(&at(&authority), &"o".parse().unwrap()).await.unwrap_err().to_string();
        assert_eq!(error, format!("{authority} answered 404 Not Found: no such\u{fffd}[2J order"));
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        let of = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:81"), "127.0.0.1:81");
        assert_eq!(of("[::]:81"), "[::1]:81");
        assert_eq!(of("10.0.0.1:81"), "10.0.0.1:81");
    }

    #[test]
    fn what_a_person_should_see_to_is_said_with_the_status() {
        let health =
            json!({"service": "dumbwaiter", "version": "1", "status": "healthy", "kafka": "down", "queued": 2, "attention": ["a\nb"]});
        assert_eq!(status_text(&health), "dumbwaiter 1: healthy\nKafka   down\nqueued  2\na\u{fffd}b\n");
    }

    #[test]
    fn orders_are_a_table() {
        let mut orders = json!({"more": false, "orders": [
            {"orderId": "order-1", "status": "PREPARING", "payment": "PAID", "ticket": 42, "createdAt": "2024-01-01T12:00:00.000Z"},
            {"orderId": "o", "status": "READY", "payment": "PENDING", "ticket": 7, "displayNumber": "A7", "createdAt": "x"},
        ]});
        let table = "NUMBER  STATUS     PAYMENT  ORDER    CREATED\n\
                     42      PREPARING  PAID     order-1  2024-01-01T12:00:00.000Z\n\
                     A7      READY      PENDING  o        x\n\
                     2 open orders\n";
        assert_eq!(orders_text(&orders), table);
        orders["more"] = json!(true);
        assert!(orders_text(&orders).ends_with("\n2 open orders, and more\n"));
    }

    #[test]
    fn one_order_is_shown_with_its_lines() {
        let order = json!({"orderId": "o", "status": "READY", "ticket": 3, "totalPrice": 25.50, "lines": [
            {"foodId": "f", "foodName": "Pizza", "quantity": 2, "status": "READY"}, {"foodId": "f-2", "foodName": "", "quantity": 1, "status": "CREATED"}]});
        let text = order_text(&order);
        assert!(text.starts_with("order o  number 3\nstatus        READY\n"), "{text}");
        assert!(text.contains("    2 × Pizza  READY\n    1 × f-2  CREATED\n"), "{text}");
    }

    #[test]
    fn the_state_is_shown_in_words() {
        let health = json!({"status": "healthy", "service": "dumbwaiter", "version": "0.1.0", "kafka": "down", "queued": 12, "oldestQueuedMs": 7_500_000});
        let text = "dumbwaiter 0.1.0: healthy\nKafka   down\nqueued  12, the oldest for 2 h\n";
        assert_eq!(status_text(&health), text);
        let mut with_mqtt = health;
        with_mqtt["mqtt"] = "refusing".into();
        assert_eq!(status_text(&with_mqtt), format!("{text}MQTT    refusing\n"));
    }
}
