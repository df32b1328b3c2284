//! The line of a terminal that speaks HTTP: a listener that can break a connection in the middle of a request.

use super::requests::{Line, Reaction, Say, read};
use super::rules::Kind;
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// Longest head, and longest body that is looked at.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;
const QUEUED_MAX: usize = 64;

/// Listens; gives the line and where.
///
/// # Errors
/// The address cannot be listened on.
pub async fn open(listen: SocketAddr) -> anyhow::Result<(Line, SocketAddr)> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let (submit, heard) = mpsc::channel(QUEUED_MAX);
    let (say, mut said) = mpsc::channel(QUEUED_MAX);
    let is_away = Arc::new(AtomicBool::new(false));
    let away = is_away.clone();
    tokio::spawn(async move {
        while let Some(say) = said.recv().await {
            if let Say::Online(is_online) = say {
                away.store(!is_online, Ordering::SeqCst);
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A gateway that is away has no listener: whoever comes is hung up on.
            if !is_away.load(Ordering::SeqCst) {
                tokio::spawn(serve(stream, submit.clone()));
            }
        }
    });
    Ok((Line { kind: Kind::Http, each: &["R1", "H1", "H2"], heard, say }, address))
}

/// One connection, until it ends or is broken.
async fn serve(stream: TcpStream, submit: mpsc::Sender<super::requests::Submit>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let head = head(&mut stream).await?;
        let header = |name: &str| {
            let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let len: usize = header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        if header("expect").is_some() {
            stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        let mut body = vec![0; len.min(BODY_BYTES_MAX)];
        stream.read_exact(&mut body).await.ok()?;
        if !head.starts_with("POST /api/v1/orders") {
            write(&mut stream, 404, None, None, "{}").await?;
            continue;
        }
        let key = header("idempotency-key");
        let mut heard = read(&body, Some(key.unwrap_or_default()));
        // Of the path an event's order is read: the same body for another order is another content.
        heard.content = serde_json::json!([head.split(' ').nth(1), heard.content]);
        if key.is_none() {
            heard.faults = vec![("H1", "a request has no Idempotency-Key".to_owned())];
        }
        if !header("content-type").is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json")) {
            heard.faults.push(("H2", format!("Content-Type is {:?}", header("content-type").unwrap_or_default())));
        }
        let (reply, reaction) = oneshot::channel();
        let id = heard.id.clone();
        heard.reply = Some(reply);
        submit.send(heard).await.ok()?;
        match reaction.await.ok()? {
            Reaction::Break => return None,
            Reaction::Answer { status, retry_after_s, body } => write(&mut stream, status, retry_after_s, Some(&id), &body).await?,
        }
    }
}

async fn head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        let read = stream.read_line(&mut head).await.ok()?;
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return None;
        }
        if head[before..].trim().is_empty() {
            return Some(head);
        }
    }
}

async fn write(stream: &mut BufReader<TcpStream>, status: u16, retry_after_s: Option<u64>, key: Option<&str>, body: &str) -> Option<()> {
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain" };
    let retry = retry_after_s.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let text = format!("HTTP/1.1 {status} {status}\r\nContent-Type: {kind}\r\n{key}{retry}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.get_mut().write_all(text.as_bytes()).await.ok()
}
