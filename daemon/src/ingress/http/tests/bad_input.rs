//! Whatever bytes come: an answer in JSON, or a cut connection, and never a hang.

use super::house::{House, pizza, soon};
use crate::ingress::http::{HEAD_BYTES_MAX, HEADERS_MAX, Limits, OVERFLOW_BYTES_MAX, REFUSALS_MAX};
use axum::body::Bytes;
use axum::http::Request;
use gateway::request::REQUEST_BYTES_MAX;
use http_body_util::Full;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for an honest request on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

async fn status_of_body(house: &House, body: impl Into<Bytes>) -> u16 {
    let request = Request::post("/api/v1/orders").header("content-type", "application/json").header("idempotency-key", "k1");
    let reply = house.ask(request.body(Full::from(body.into())).unwrap()).await;
    assert_eq!(reply.header("idempotency-key"), Some("k1"));
    assert_eq!((&reply.json()["result"], &reply.json()["requestId"]), (&json!("rejected"), &json!("k1")));
    reply.status.as_u16()
}

/// The head of a post, with these headers more.
fn head(house: &House, more: &str) -> String {
    format!("POST /api/v1/orders HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{more}\r\n", house.address)
}

/// Sends bytes as they are; gives all that comes back until the server closes.
async fn raw(house: &House, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    drop(soon("the server closes the connection", stream.read_to_end(&mut answer)).await);
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_broken_body_is_told_what_is_wrong_with_it() {
    let house = House::open(Limits::default()).await;
    for body in [&b""[..], b"{", b"[]", b"\"order\"", b"{}{}", b"{\"userId\":\"\xff\xfe\"}", b"{\"a\":\"\\ud800\"}"] {
        assert_eq!(status_of_body(&house, body).await, 400, "{body:?}");
    }
    assert_eq!(status_of_body(&house, [vec![b'['; 8_000], vec![b']'; 8_000]].concat()).await, 400, "nested too deep");
    let no_orders = [r#"{}"#, r#"{"orderDetails":[]}"#, r#"{"orderDetails":[{"price":1}],"ticket":3}"#, r#"{"orderId":"a\u0000"}"#];
    for body in no_orders {
        assert_eq!(status_of_body(&house, body).await, 422, "{body}");
    }
    let event = house.post("/api/v1/orders/o1/events", "k1", &json!({"type": "order.eaten", "data": {}})).await;
    assert_eq!(event.status, 422);
    assert!(house.inside.seen.lock().unwrap().is_empty(), "none of them reached the event loop");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_announced_or_not() {
    let house = House::open(Limits::default()).await;
    for bytes in [REQUEST_BYTES_MAX + 1, OVERFLOW_BYTES_MAX] {
        assert_eq!(status_of_body(&house, vec![b' '; bytes]).await, 413, "{bytes}");
    }
    let endless = head(&house, "Transfer-Encoding: chunked\r\n") + "1000000\r\n" + &" ".repeat(OVERFLOW_BYTES_MAX + 1);
    assert!(raw(&house, endless.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    for more in ["Content-Length: 1000000000\r\n", "Content-Length: 20000\r\nExpect: 100-continue\r\n"] {
        assert!(raw(&house, head(&house, more).as_bytes()).await.starts_with("HTTP/1.1 413 "), "{more}: told before it is sent");
    }
    assert_eq!(house.usage.size_refused.get(), 5);
}

#[tokio::test]
async fn a_body_of_the_largest_size_is_taken() {
    let house = House::open(Limits::default()).await;
    let mut body = pizza().to_string();
    body.push_str(&" ".repeat(REQUEST_BYTES_MAX - body.len()));
    let request = Request::post("/api/v1/orders").header("content-type", "application/json");
    assert_eq!(house.ask(request.body(Full::from(body)).unwrap()).await.status, 201);
}

#[tokio::test]
async fn a_head_that_trickles_is_cut() {
    let house = House::open(Limits { head_time: SHORT, ..Limits::default() }).await;
    let stream = TcpStream::connect(house.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        // One byte at a time, each well before the time is over, and never an end.
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut answer = Vec::new();
    drop(soon("the connection is cut", reader.read_to_end(&mut answer)).await);
    assert_eq!(answer, b"", "nothing was asked");
    soon("the client notices", trickle).await.unwrap();
    assert_eq!(house.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_body_that_trickles_is_408_and_cut() {
    let house = House::open(Limits { body_time: SHORT, ..Limits::default() }).await;
    let stream = TcpStream::connect(house.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(head(&house, "Idempotency-Key: k1\r\nContent-Length: 9000\r\n").as_bytes()).await.unwrap();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut answer = Vec::new();
    drop(soon("the connection is cut", reader.read_to_end(&mut answer)).await);
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("idempotency-key: k1\r\n"), "{answer}");
    soon("the client notices", trickle).await.unwrap();
    assert_eq!(house.usage.bodies_late.get(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_asks_nothing_is_closed() {
    let house = House::open(Limits { head_time: SHORT, ..Limits::default() }).await;
    let request = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", house.address);
    let answers = raw(&house, request.repeat(2).as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "kept for the second, then closed: {answers}");
}

/// Status, method, path and headers.
type Case<'a> = (u16, &'a str, &'a str, &'a [(&'a str, &'a str)]);

#[tokio::test]
async fn every_wrong_head_has_an_answer_in_json() {
    let house = House::open(Limits::default()).await;
    let json_type = ("content-type", "application/json");
    let long = "x".repeat(HEAD_BYTES_MAX);
    let cases: &[Case<'_>] = &[
        (404, "GET", "/nothing", &[]),
        (404, "GET", "/api/v1/orders/", &[]),
        (404, "GET", "/api/v1/orders/a/b", &[]),
        (404, "GET", "/static/%2e%2e", &[]),
        (405, "DELETE", "/api/v1/orders", &[]),
        (405, "OPTIONS", "/api/v1/orders/a", &[]),
        (405, "TRACE", "/health", &[]),
        (405, "FROB", "/", &[]),
        (400, "GET", "/api/v1/orders/%ff", &[]),
        (400, "POST", "/api/v1/orders/%c3%28/events", &[json_type]),
        (422, "GET", "/api/v1/orders/%00", &[]),
        (422, "POST", "/api/v1/orders/%0a/events", &[json_type]),
        (422, "GET", "/api/v1/orders?status=EATEN", &[]),
        (422, "GET", "/api/v1/orders?status=READY&status=READY", &[]),
        (422, "GET", "/api/v1/orders?state=READY", &[]),
        (406, "GET", "/api/v1/orders", &[("accept", "text/html, application/json;q=0")]),
        (406, "GET", "/api/v1/stream", &[("accept", "application/json")]),
        (406, "POST", "/api/v1/orders", &[json_type, ("accept", "image/*")]),
        (415, "POST", "/api/v1/orders", &[]),
        (415, "POST", "/api/v1/orders", &[("content-type", "text/plain")]),
        (415, "POST", "/api/v1/orders", &[("content-type", "application/json; charset=latin1")]),
        (415, "POST", "/api/v1/orders", &[json_type, ("content-encoding", "gzip")]),
        (422, "POST", "/api/v1/orders", &[json_type, ("idempotency-key", "a b")]),
        (422, "POST", "/api/v1/orders", &[json_type, ("idempotency-key", "a"), ("idempotency-key", "b")]),
        (422, "POST", "/api/v1/orders", &[json_type, ("x-terminal", "till/1")]),
        (414, "GET", &format!("/{long}"), &[]),
        (431, "GET", "/health", &[("x-long", &long)]),
        (431, "GET", "/health", &[("x", "y"); HEADERS_MAX]),
        (403, "GET", "/health", &[("host", "evil.example")]),
        (403, "GET", "/", &[("host", "evil.example")]),
        (403, "POST", "/api/v1/orders", &[json_type, ("origin", "http://evil.example")]),
        (403, "GET", "/api/v1/stream", &[("origin", "null")]),
    ];
    for (status, method, path, headers) in cases {
        let mut request = Request::builder().method(*method).uri(*path);
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        let case = format!("{method} {path:.40} {headers:.80?}");
        let reply = house.ask(request.body(Full::default()).unwrap()).await;
        assert_eq!(reply.status, *status, "{case}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{case}");
        assert_eq!(reply.json()["result"], "rejected", "{case}");
        assert_eq!(reply.headers.contains_key("allow"), *status == 405, "{case}");
        let sent = headers.iter().find(|(name, _)| *name == "idempotency-key").map(|(_, key)| *key);
        assert_eq!(reply.header("idempotency-key").filter(|_| sent.is_some()), sent, "{case}");
    }
    assert!(house.inside.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn clients_that_are_less_than_polite_are_served_too() {
    let house = House::open(Limits::default()).await;
    for (name, value) in [("accept", "*/*"), ("accept", "text/html, application/*;q=0.5"), ("host", "BOARD.local"), ("host", "localhost:1")]
    {
        assert_eq!(house.ask(Request::get("/health").header(name, value).body(Full::default()).unwrap()).await.status, 200, "{value}");
    }
    let request = Request::post("/api/v1/orders").header("content-type", "Application/JSON; charset=\"UTF-8\"");
    assert_eq!(house.ask(request.body(Full::from(pizza().to_string())).unwrap()).await.status, 201);
    assert!(raw(&house, b"GET /health HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
    assert!(raw(&house, b"\x16\x03\x01\x02\x00 no HTTP at all\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let head = house.ask(Request::head("/api/v1/stream").body(Full::default()).unwrap()).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn connections_beyond_the_bound_hear_503_and_places_come_back() {
    let house = House::open(Limits { connections: 1, ..Limits::default() }).await;
    let first = TcpStream::connect(house.address).await.unwrap();
    soon("the first has its place", async {
        while house.usage.connections.used.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let refused = house.post("/api/v1/orders", "k1", &pizza()).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after"), refused.header("idempotency-key")), (503, Some("1"), Some("k1")));
    assert_eq!(refused.json()["code"], "busy");

    // Those who are being told so are bounded too: the next is closed without a word.
    let mut waiting = Vec::new();
    for _ in 0..REFUSALS_MAX {
        waiting.push(TcpStream::connect(house.address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(house.address).await.unwrap();
    assert_eq!(rest(&mut one_more).await, "");
    drop((first, waiting));
    soon("a place comes back", async {
        while house.usage.connections.used.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(house.get("/health").await.status, 200);
}
