//! `[http]`: where the server listens, and which terminals it lets in from other computers.

use super::Context;
use super::files::PemFile;
use super::problem::Origin;
use super::section::{At, Section};
use gateway::ids::Name;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// Requests a second that one terminal may submit over HTTP unless configured: more than a disk with 5 ms a sync lets one connection submit.
pub const HTTP_SUBMITS_PER_SECOND: u32 = 500;
/// Most addresses that HTTP admits by `[[http.allow]]`.
pub const HTTP_ALLOWED_MAX: usize = 256;
/// Most tokens, `[[http.token]]`.
pub const HTTP_TOKENS_MAX: usize = 256;
pub(super) const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where the server listens. Off loopback only with `tls` or `insecure`.
    pub listen: SocketAddr,
    /// The server's certificate and key: without them it is plain.
    pub tls: Option<HttpTls>,
    /// Who set the config knows that the listener is plain and off loopback.
    #[allow(dead_code, reason = "reading it is what it is for: without it a listener off loopback is refused")]
    pub insecure: bool,
    /// Names by which browsers may call the server, beside `localhost` and its addresses.
    pub hosts: Vec<String>,
    /// Requests a second that one terminal may submit.
    pub submits_per_second: u32,
    /// `[[http.allow]]`: at most [`HTTP_ALLOWED_MAX`].
    pub allow: Vec<HttpAllow>,
    /// `[[http.token]]`: at most [`HTTP_TOKENS_MAX`], no token twice.
    pub tokens: Vec<HttpToken>,
}

/// `tls_cert` and `tls_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTls {
    /// The certificate with those that lead to its authority, in PEM.
    pub cert: PemFile,
    /// Its key, in PEM.
    pub key: PemFile,
}

/// `[[http.allow]]`: an address from which a terminal may submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAllow {
    /// The address.
    pub from: IpAddr,
    /// The terminal that it may be.
    pub terminal: Name,
}

/// `[[http.token]]`: who shows the token is the terminal, wherever the call comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpToken {
    /// The terminal.
    pub terminal: Name,
    /// What is kept of its token.
    pub sha256: TokenHash,
}

/// The SHA-256 of a random text of 256 bits: nobody finds the text to it, so it may be read by anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl FromStr for TokenHash {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is no hash of a token; let `dumbwaiter terminal add NAME --http` write it";
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(TokenHash(bytes))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The section, and where it names terminals.
pub(super) fn read(mut section: Section<'_>, context: &Context<'_>) -> (Http, Vec<At<Name>>) {
    let listen = section.get::<SocketAddr>("listen");
    let insecure = section.or("insecure", false);
    let tls = read_tls(&mut section, context);
    if let Some(At { origin, value }) = &listen
        && !value.ip().is_loopback()
        && !insecure
        && !tls.is_asked
    {
        section.problem(
            origin,
            "listen",
            format!(
                "{value} can be reached from outside and is not encrypted; listen on 127.0.0.1, give tls_cert and tls_key, or accept it with \
                 insecure = true"
            ),
        );
    }
    let submits_per_second = section.within("submits_per_second", HTTP_SUBMITS_PER_SECOND, 1..=10_000);
    let hosts = section.get::<Vec<String>>("hosts");
    let is_name = |host: &String| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    if let Some(At { origin, value }) = &hosts
        && let Some(wrong) = value.iter().find(|host| !is_name(host))
    {
        section.problem(origin, "hosts", format!("'{wrong}' is no host name; write it without scheme and port, board.local"));
    }
    let mut terminals = vec![];
    let allow = read_allow(&mut section, &mut terminals);
    let tokens = read_tokens(&mut section, &mut terminals);
    section.finish();
    let listen = listen.map_or(DEFAULT_LISTEN, |at| at.value);
    let hosts = hosts.map(|at| at.value).unwrap_or_default();
    (Http { listen, tls: tls.files, insecure, hosts, submits_per_second, allow, tokens }, terminals)
}

struct ReadTls {
    /// One of the keys is there, right or wrong.
    is_asked: bool,
    files: Option<HttpTls>,
}

fn read_tls(section: &mut Section<'_>, context: &Context<'_>) -> ReadTls {
    let named = [section.has("tls_cert"), section.has("tls_key")];
    let cert = section.pem("tls_cert", "http.tls_cert", context);
    let key = section.pem("tls_key", "http.tls_key", context);
    match (&cert, &key) {
        (Some(At { origin, .. }), None) if !named[1] => section.problem(origin, "tls_key", "is missing; give the key of tls_cert"),
        (None, Some(At { origin, .. })) if !named[0] => section.problem(origin, "tls_cert", "is missing; give the certificate of tls_key"),
        _ => {}
    }
    let is_asked = named.contains(&true) || cert.is_some() || key.is_some();
    let files = cert.zip(key).map(|(cert, key)| HttpTls { cert: cert.value, key: key.value });
    ReadTls { is_asked, files }
}

fn read_allow(section: &mut Section<'_>, terminals: &mut Vec<At<Name>>) -> Vec<HttpAllow> {
    let mut allow = vec![];
    for mut entry in section.sections("allow") {
        let from = entry.required::<IpAddr>("from", "give the address, from = \"10.0.4.21\"");
        let terminal = entry.required::<Name>("terminal", "name the terminal at this address");
        let origin = entry.origin().clone();
        entry.finish();
        let (Some(from), Some(terminal)) = (from, terminal) else { continue };
        if allow.len() == HTTP_ALLOWED_MAX {
            section.problem(&origin, "allow", format!("stands more than {HTTP_ALLOWED_MAX} times; remove some"));
            break;
        }
        allow.push(HttpAllow { from: from.value, terminal: terminal.value.clone() });
        terminals.push(terminal);
    }
    allow
}

fn read_tokens(section: &mut Section<'_>, terminals: &mut Vec<At<Name>>) -> Vec<HttpToken> {
    let mut tokens: Vec<HttpToken> = vec![];
    let mut places: Vec<Origin> = vec![];
    for mut entry in section.sections("token") {
        let terminal = entry.required::<Name>("terminal", "name the terminal that has this token");
        let sha256 = entry.required::<TokenHash>("sha256", "let `dumbwaiter terminal add NAME --http` write this section");
        let origin = entry.origin().clone();
        let first = sha256.as_ref().and_then(|at| tokens.iter().position(|token| token.sha256 == at.value));
        if let (Some(at), Some(first)) = (&sha256, first) {
            entry.problem(&at.origin, "sha256", format!("stands at {} already; each terminal has a token of its own", places[first]));
        }
        entry.finish();
        let (Some(terminal), Some(sha256)) = (terminal, sha256) else { continue };
        if tokens.len() == HTTP_TOKENS_MAX {
            section.problem(&origin, "token", format!("stands more than {HTTP_TOKENS_MAX} times; remove some"));
            break;
        }
        tokens.push(HttpToken { terminal: terminal.value.clone(), sha256: sha256.value });
        places.push(origin);
        terminals.push(terminal);
    }
    tokens
}
