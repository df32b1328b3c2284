//! Serial ports: which there are, under which name that stays, and what is heard on them.

use super::device::folders;
use crate::config::{Framing, SerialPort};
use crate::ingress::serial::open;
use crate::kafka::Finding;
use protocol::Decoder;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

/// Names that stay: by the socket that the cable is in, best first.
const STABLE: [&str; 2] = ["dev/dumbwaiter", "dev/serial/by-path"];
/// Adapters, and the UART of a Pi. Not ttyS: a PC shows many that are not there.
const PREFIXES: [&str; 3] = ["ttyUSB", "ttyACM", "ttyAMA"];
/// What tills are set to.
const RATES: [u32; 6] = [9_600, 19_200, 38_400, 57_600, 115_200, 230_400];
const HEARD_MAX: usize = 64 * 1024;

/// The ports that there are, and what the config makes of them.
pub fn ports(root: &Path, configured: &[SerialPort]) -> Vec<Finding> {
    let mut stable: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for link in STABLE.into_iter().rev().flat_map(|folder| folders(root, folder)) {
        if let Ok(device) = link.canonicalize() {
            stable.insert(device, link);
        }
    }
    let devices = folders(root, "dev").filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
    });
    let used: BTreeMap<PathBuf, &SerialPort> =
        configured.iter().map(|port| (port.path.canonicalize().unwrap_or_else(|_| port.path.clone()), port)).collect();
    let mut findings = vec![];
    for device in devices {
        let device = device.canonicalize().unwrap_or(device);
        let name = stable.get(&device);
        let shown = device.display();
        findings.push(match (used.get(&device), name) {
            (Some(port), _) if fs::symlink_metadata(&port.path).is_ok_and(|path| path.is_symlink()) => {
                Finding::Right(format!("{shown} is {}'s", port.terminal))
            }
            (Some(port), Some(name)) => {
                let text = format!("{shown} is {}'s by a name that may be another adapter's tomorrow", port.terminal);
                Finding::Note(format!("{text}: let serial.path be {}", name.display()))
            }
            (Some(port), None) => Finding::Right(format!("{shown} is {}'s", port.terminal)),
            (None, Some(name)) => Finding::Note(format!("{shown} is nobody's; serial.path for it is {}", name.display())),
            (None, None) => Finding::Note(format!("{shown} is nobody's")),
        });
    }
    findings
}

/// Listens to each port, and to one that makes no sense at other rates too.
pub async fn listen(configured: &[SerialPort], time: Duration) -> Vec<Finding> {
    let mut findings = vec![];
    for port in configured {
        let what = format!("{} at {} baud", port.path.display(), port.baud);
        findings.push(match hear(port.clone(), time).await {
            Err(error) => Finding::Wrong(format!("{what}: {error}")),
            Ok(heard) if heard.is_empty() => Finding::Note(format!("{what}: nothing in {} s; press a key on the till", time.as_secs())),
            Ok(heard) if makes_sense(port.framing, &heard) => Finding::Right(format!("{what}: {} bytes that make sense", heard.len())),
            Ok(heard) => {
                let text = format!("{what}: {} bytes that make no sense", heard.len());
                Finding::Wrong(match other_rate(port, time).await {
                    Some(baud) => format!("{text}; at {baud} they do: set serial.baud = {baud}"),
                    None => format!("{text}, at no other rate either: see serial.framing, the cable and its ground"),
                })
            }
        });
    }
    findings
}

async fn other_rate(port: &SerialPort, time: Duration) -> Option<u32> {
    for baud in RATES.into_iter().filter(|baud| *baud != port.baud) {
        let heard = hear(SerialPort { baud, ..port.clone() }, time).await.unwrap_or_default();
        if makes_sense(port.framing, &heard) {
            return Some(baud);
        }
    }
    None
}

async fn hear(port: SerialPort, time: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = open(port).await?;
    let until = Instant::now() + time;
    let mut heard = vec![];
    let mut buffer = [0; 1024];
    while heard.len() < HEARD_MAX
        && let Ok(read) = timeout_at(until, stream.read(&mut buffer)).await
    {
        match read? {
            0 => break,
            count => heard.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(heard)
}

/// A frame whose checksum is right, or text.
fn makes_sense(framing: Framing, heard: &[u8]) -> bool {
    match framing {
        Framing::Binary => {
            let (mut decoder, mut rest) = (Decoder::default(), heard);
            std::iter::from_fn(|| decoder.push(&mut rest)).any(|frame| frame.is_ok())
        }
        Framing::Json => {
            let is_text = |byte: &&u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
            !heard.is_empty() && heard.iter().filter(is_text).count() * 10 >= heard.len() * 9
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn port(path: &Path) -> SerialPort {
        SerialPort { terminal: "till-1".parse().unwrap(), path: path.into(), baud: 115_200, framing: Framing::Json }
    }

    fn text(finding: &Finding) -> &str {
        match finding {
            Finding::Right(what) | Finding::Note(what) | Finding::Wrong(what) => what,
        }
    }

    #[test]
    fn a_port_is_shown_with_the_name_that_stays() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("dev/serial/by-path")).unwrap();
        for name in ["ttyUSB0", "ttyUSB1", "ttyAMA0", "null"] {
            fs::write(root.join("dev").join(name), "").unwrap();
        }
        for (name, device) in [("usb-0:1", "ttyUSB0"), ("usb-0:2", "ttyUSB1")] {
            symlink(root.join("dev").join(device), root.join("dev/serial/by-path").join(name)).unwrap();
        }
        let by_number = ports(&root, &[port(&root.join("dev/ttyUSB0"))]);
        let said: Vec<&str> = by_number.iter().map(text).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].contains("ttyAMA0 is nobody's"), "{said:?}");
        assert!(said[1].contains("is till-1's by a name that may be") && said[1].ends_with("dev/serial/by-path/usb-0:1"), "{said:?}");
        assert!(said[2].contains("is nobody's; serial.path for it is"), "{said:?}");
        let by_path = ports(&root, &[port(&root.join("dev/serial/by-path/usb-0:1"))]);
        assert!(matches!(&by_path[1], Finding::Right(what) if what.ends_with("ttyUSB0 is till-1's")));
    }

    #[test]
    fn sense_is_told_from_noise() {
        let request = br#"{"requestId":"r-1"}"#;
        let noise: Vec<u8> = (0..200_u8).map(|n| n.wrapping_mul(73) | 0x80).collect();
        assert!(makes_sense(Framing::Json, request) && !makes_sense(Framing::Json, &noise) && !makes_sense(Framing::Json, b""));
        let frame = protocol::ToGateway::Ping { token: 7 }.to_frame().unwrap();
        assert!(makes_sense(Framing::Binary, &frame) && !makes_sense(Framing::Binary, &noise));
    }
}
