//! Asking whether anybody is there, by the first packet of a connection; and one attempt to reach the brokers in an outage that lasts, on
//! a thread of its own, for names, packets and brokers may each keep it waiting.
//!
//! An attempt sends one packet to each broker before anything else. A line that is dead costs no more than that, and no gateway dials
//! twice.

use super::client::Connection;
use super::look::try_once;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// Addresses that are knocked at: brokers may have several each.
const ADDRESSES_MAX: usize = 16;

/// Begins an attempt. The receiver gets the outcome: nothing, or why no broker was reached. Each broker has `patience` for its answer to
/// the first packet.
///
/// # Errors
/// The system gives no thread.
pub(super) fn attempt(connection: Connection, patience: Duration) -> io::Result<Receiver<Result<(), String>>> {
    let (outcome, told) = sync_channel(1);
    std::thread::Builder::new().name("kafka-knock".into()).spawn(move || {
        let tried = addresses(&connection).and_then(|found| knock(&found, patience)).and_then(|()| try_once(&connection));
        // A keeper that has ended wants to know nothing.
        let _ = outcome.send(tried);
    })?;
    Ok(told)
}

fn addresses(connection: &Connection) -> Result<Vec<SocketAddr>, String> {
    let (mut found, mut trouble) = (vec![], String::from("kafka.brokers names nobody"));
    for broker in &connection.kafka.brokers {
        match broker.0.to_string().to_socket_addrs() {
            Ok(addresses) => found.extend(addresses),
            Err(error) => trouble = format!("{}: {error}", broker.0),
        }
    }
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() { Err(trouble) } else { Ok(found) }
}

/// Whether anybody takes a connection, all asked in the same moment.
fn knock(addresses: &[SocketAddr], patience: Duration) -> Result<(), String> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = addresses.iter().map(|address| (address, scope.spawn(move || knock_at(*address, patience)))).collect();
        let answers = asked.into_iter().map(|(address, thread)| match thread.join() {
            Ok(Answer::Taken) => Ok(()),
            Ok(Answer::Refused) => Err(format!("{address} refuses connections")),
            Ok(Answer::Nobody) | Err(_) => Err(format!("{address} does not answer")),
        });
        answers.reduce(Result::or).unwrap_or_else(|| Err("there is no address".into()))
    })
}

/// What became of the first packet of a connection.
pub(super) enum Answer {
    /// Somebody took the connection, which was ended.
    Taken,
    /// Somebody is there, and takes none.
    Refused,
    /// Nobody answered in time, or the system knows no way.
    Nobody,
}

/// Waits for the answer at most so long.
pub(super) fn knock_at(address: SocketAddr, patience: Duration) -> Answer {
    match TcpStream::connect_timeout(&address, patience) {
        Ok(_) => Answer::Taken,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Refused,
        Err(_) => Answer::Nobody,
    }
}
