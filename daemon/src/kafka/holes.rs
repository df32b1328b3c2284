//! A line that swallowed packets is used again as soon as it carries some.
//!
//! After a black hole the system sends what was not acknowledged ever more rarely: the connection moves again as long after the hole's
//! end as the hole lasted, until librdkafka ends it after `socket.timeout.ms`. A new connection would be answered at once. So a thread
//! looks at the system's own figures; where a connection to a broker is silent and the next repeat is far, it knocks at that address, and
//! if somebody answers, it ends the connections to it. librdkafka makes new ones within a moment and sends what was not acknowledged
//! again, as the same producer: nothing is doubled by that, and no order is lost.
//!
//! A slow line is not taken for a dead one: there the other end acknowledges packets, however late, and the system counts no repeats.

use super::knock::{Answer, knock_at};
use rustix::net::connect_unspec;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the connections are looked at …
const LOOK: Duration = Duration::from_secs(2);
/// … and while one of them repeats itself.
const LOOK_CLOSELY: Duration = Duration::from_millis(500);
/// A connection whose next repeat is closer than this is left to itself.
const NEXT_REPEAT_MIN: Duration = Duration::from_secs(1);
/// Repeats of a packet that say more than that one was lost.
const REPEATS_MIN: u32 = 2;
/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// The connections to an address are ended no more often than this: if a new one does not help, ending it does not either.
const END_EVERY: Duration = Duration::from_secs(5);
/// The system gives times in such ticks (`USER_HZ`, which is 100 on every architecture that the gateway is built for).
const TICK: Duration = Duration::from_millis(10);

/// The ports of brokers: those of the config, and those that brokers tell of each other. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(Arc<Mutex<BTreeSet<u16>>>);

impl Ports {
    pub(super) fn add(&self, ports: impl IntoIterator<Item = u16>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(ports);
    }

    fn has(&self, port: u16) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&port)
    }
}

/// The thread that looks. It ends when this is dropped.
pub(super) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(ports: Ports) -> io::Result<Watch> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("kafka-watch".into()).spawn(move || watch(&ports, &stopped))?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watch over kafka's connections panicked");
        }
    }
}

fn watch(ports: &Ports, stopped: &Receiver<()>) {
    let mut ended = BTreeMap::<SocketAddr, Instant>::new();
    let mut pause = LOOK;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
        // Where the system does not tell, `socket.timeout.ms` has to do.
        let before = connections(ports).unwrap_or_default();
        pause = if before.iter().any(Connection::repeats) { LOOK_CLOSELY } else { LOOK };
        ended.retain(|_, at| at.elapsed() < END_EVERY);
        let silent: BTreeSet<_> = before.iter().filter(|each| each.is_silent()).map(|each| each.remote).collect();
        for remote in silent.into_iter().filter(|remote| !ended.contains_key(remote)).collect::<Vec<_>>() {
            if matches!(knock_at(remote, PATIENCE), Answer::Nobody) {
                continue;
            }
            let to_it = |each: &Connection| each.remote == remote;
            let now = connections(ports).unwrap_or_default();
            if now.iter().filter(|each| to_it(each)).any(Connection::is_silent) {
                ended.insert(remote, Instant::now());
                let inodes = before.iter().filter(|each| to_it(each)).map(|each| each.inode).collect();
                let count = end(&inodes);
                tracing::info!(%remote, count, "the line carries packets again: connections that still wait were ended");
            }
        }
    }
}

/// A TCP connection as the system shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Connection {
    remote: SocketAddr,
    /// It is not established yet.
    is_new: bool,
    /// How often the first packet that was not acknowledged was sent again.
    repeats: u32,
    /// When it is sent again, if it is to be.
    next_repeat: Option<Duration>,
    inode: u64,
}

impl Connection {
    /// Reads a line of `/proc/self/net/tcp` or `tcp6` (proc_pid_net(5)); `None` if it is no connection that begins or is established.
    fn read(line: &str) -> Option<Connection> {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, _, remote, state, _, timer, repeats, _, _, inode, ..] = fields[..] else { return None };
        let is_new = match state {
            "01" => false,
            "02" => true,
            _ => return None,
        };
        let (kind, ticks) = timer.split_once(':')?;
        let ticks = u32::from_str_radix(ticks, 16).ok()?;
        let repeats = u32::from_str_radix(repeats, 16).ok()?;
        let next_repeat = (kind == "01").then_some(TICK * ticks);
        Some(Connection { remote: address(remote)?, is_new, repeats, next_repeat, inode: inode.parse().ok()? })
    }

    fn repeats(&self) -> bool {
        self.next_repeat.is_some() && self.repeats > 0
    }

    /// Nobody answers it, and the system lets it rest for a while.
    fn is_silent(&self) -> bool {
        let repeats_min = if self.is_new { 1 } else { REPEATS_MIN };
        self.repeats >= repeats_min && self.next_repeat.is_some_and(|next| next >= NEXT_REPEAT_MIN)
    }
}

/// Words of 32 bits in the machine's own order, then the port: `0100007F:1F90`.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match words.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Connections to brokers, this process's and others'.
fn connections(ports: &Ports) -> io::Result<Vec<Connection>> {
    let mut found = vec![];
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => found.extend(text.lines().filter_map(Connection::read).filter(|each| ports.has(each.remote.port()))),
            // A system without IPv6 has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Ends those of this process's connections; gives how many. Whoever waits on one hears that it was reset.
fn end(inodes: &BTreeSet<u64>) -> usize {
    let Ok(listed) = fs::read_dir("/proc/self/fd") else { return 0 };
    let found = listed.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, inode_of(&entry.path())?)));
    let wanted: Vec<(RawFd, u64)> = found.filter(|(_, inode)| inodes.contains(inode)).collect();
    wanted.into_iter().filter(|(fd, inode)| end_one(*fd, *inode).is_ok_and(|ended| ended)).count()
}

fn inode_of(path: &std::path::Path) -> Option<u64> {
    fs::read_link(path).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn end_one(fd: RawFd, inode: u64) -> io::Result<bool> {
    let own = duplicate(fd)?;
    // Its owner may have closed it meanwhile, and the number may be another file's by now.
    let is_it = inode_of(format!("/proc/self/fd/{}", own.as_raw_fd()).as_ref()) == Some(inode);
    if is_it {
        connect_unspec(&own)?;
    }
    Ok(is_it)
}

#[allow(unsafe_code, reason = "librdkafka owns the descriptor, and gives no other way to its sockets")]
fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes any number, and fails for one that is no open file's.
    let duplicate = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    const SILENT: &str =
        "   3: 0207D50A:B4C2 0107D50A:2384 01 00000A5F:00000000 01:00000133 00000004     0        0 901241 2 0000000 201 4 30 10 7";

    fn read(line: &str) -> Connection {
        Connection::read(line).unwrap()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_systems_table_is_read() {
        let remote = "10.213.7.1:9092".parse().unwrap();
        let next_repeat = Some(Duration::from_millis(3070));
        assert_eq!(read(SILENT), Connection { remote, is_new: false, repeats: 4, next_repeat, inode: 901_241 });
        let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        let listener = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 84";
        for other in [header, listener, "", "1: x 0107D50A:2384 01 0:0 01:zz 0 0 0 1"] {
            assert_eq!(Connection::read(other), None, "{other}");
        }
        let mapped = "0000000000000000FFFF00000107D50A:2384";
        assert_eq!(address(mapped), Some(remote));
        assert_eq!(address("B80D0120000000000000000001000000:2384"), Some("[2001:db8::1]:9092".parse().unwrap()));
    }

    #[test]
    fn only_a_connection_that_nobody_answers_is_silent() {
        assert!(read(SILENT).is_silent());
        let one_packet_lost = SILENT.replace("00000004 ", "00000001 ");
        let soon_repeated = SILENT.replace("01:00000133", "01:00000063");
        let nothing_to_send = SILENT.replace("01:00000133", "02:00000133");
        for line in [one_packet_lost, soon_repeated, nothing_to_send] {
            assert!(!read(&line).is_silent(), "{line}");
        }
        let begins = SILENT.replace(" 01 00000A5F", " 02 00000001").replace("00000004 ", "00000001 ");
        assert!(read(&begins).is_silent());
    }

    #[test]
    fn a_connection_that_is_ended_is_reset_for_both() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut near = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let ports = Ports::default();
        assert_eq!(connections(&ports).unwrap(), []);
        ports.add([port]);
        let found = connections(&ports).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(end(&found.iter().map(|each| each.inode).collect()), 1);
        for stream in [&mut near, &mut far] {
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(connections(&ports).unwrap(), []);
    }
}
