//! TLS for the listener: the certificate and the key, which a reload replaces.

use crate::config::HttpTls;
use anyhow::{Context, ensure};
use axum::http::StatusCode;
use native_tls::{Identity, Protocol};
use openssl::pkey::PKey;
use openssl::x509::X509;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_native_tls::{TlsAcceptor, TlsStream};

/// The first byte of a TLS connection: a record of the handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// What the listener shows who connects. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Tls(Arc<watch::Sender<TlsAcceptor>>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Why a connection came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTls {
    /// It spoke something else, plain HTTP most likely, and was told so.
    Plain,
    /// It left, or does not take what we show.
    Failed,
}

impl Tls {
    /// From these files.
    ///
    /// # Errors
    /// As [`acceptor`].
    pub fn new(files: &HttpTls) -> anyhow::Result<Tls> {
        Ok(Tls(Arc::new(watch::Sender::new(acceptor(files)?))))
    }

    /// From now on whoever connects is shown this.
    pub fn replace(&self, acceptor: TlsAcceptor) {
        self.0.send_replace(acceptor);
    }

    /// Makes a connection one of TLS. It takes as long as the client likes: the caller bounds it.
    pub async fn accept(&self, mut stream: TcpStream) -> Result<TlsStream<TcpStream>, NoTls> {
        let mut first = [0];
        if stream.peek(&mut first).await.map_err(|_| NoTls::Failed)? == 1 && first[0] != HANDSHAKE {
            let text = "this port speaks TLS: write https instead of http\n";
            let status = StatusCode::BAD_REQUEST;
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
            // Best effort, for a person who looks at it.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            return Err(NoTls::Plain);
        }
        let acceptor = self.0.borrow().clone();
        acceptor.accept(stream).await.map_err(|_| NoTls::Failed)
    }
}

/// Reads the files.
///
/// # Errors
/// They hold no certificate or no key, the key has a password, or the two do not belong together.
pub fn acceptor(files: &HttpTls) -> anyhow::Result<TlsAcceptor> {
    let HttpTls { cert, key } = files;
    let (cert_path, key_path) = (cert.display(), key.display());
    let cert = std::fs::read(&**cert).with_context(|| format!("http.tls_cert: {cert_path} cannot be read"))?;
    let key = std::fs::read(&**key).with_context(|| format!("http.tls_key: {key_path} cannot be read"))?;
    let certificates = X509::stack_from_pem(&cert).with_context(|| format!("http.tls_cert: {cert_path} is no certificate"))?;
    let first = certificates.first().with_context(|| format!("http.tls_cert: {cert_path} holds no certificate"))?;
    // Nobody is there to type a password.
    let key = PKey::private_key_from_pem_callback(&key, |_| Ok(0))
        .with_context(|| format!("http.tls_key: {key_path} is no key, or has a password"))?;
    ensure!(first.public_key()?.public_eq(&key), "http.tls_key: {key_path} is not the key of {cert_path}");
    let identity = Identity::from_pkcs8(&cert, &key.private_key_to_pem_pkcs8()?)?;
    // Tablets of ten years ago speak 1.2.
    let acceptor = native_tls::TlsAcceptor::builder(identity).min_protocol_version(Some(Protocol::Tlsv12)).build()?;
    Ok(acceptor.into())
}
