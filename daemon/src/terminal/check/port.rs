//! A serial port, or a pseudo-terminal in its place.

use anyhow::Context;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_serial::SerialPortBuilderExt;

/// In place of a device: a pseudo-terminal is made, and its name printed.
pub const PSEUDO: &str = "pty";
/// How soon it is noticed that somebody opened the other end.
const POLL: Duration = Duration::from_millis(10);
const QUEUED_MAX: usize = 64;

/// Bytes in, bytes out.
#[derive(Debug)]
pub struct Port {
    pub heard: mpsc::Receiver<Vec<u8>>,
    pub say: mpsc::Sender<Vec<u8>>,
    /// The device that the terminal has to open, where this made it.
    pub name: Option<String>,
}

/// Opens `path`, or makes a pseudo-terminal for `pty`.
///
/// # Errors
/// There is no such device, or it is not ours to open.
pub fn open(path: &Path, baud: u32) -> anyhow::Result<Port> {
    let (hear, heard) = mpsc::channel(QUEUED_MAX);
    let (say, mut said) = mpsc::channel::<Vec<u8>>(QUEUED_MAX);
    if path.as_os_str() == PSEUDO {
        let (mut side, name) = pseudo_terminal()?;
        let mut writer = side.try_clone()?;
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            loop {
                match side.read(&mut bytes) {
                    Ok(len) if len > 0 && hear.blocking_send(bytes[..len].to_vec()).is_err() => return,
                    Ok(len) if len > 0 => {}
                    // Nobody has the other side open.
                    Ok(_) | Err(_) => std::thread::sleep(POLL),
                }
                if hear.is_closed() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            while let Some(bytes) = said.blocking_recv() {
                // What nobody reads is lost, as on a cable.
                drop(writer.write_all(&bytes));
            }
        });
        return Ok(Port { heard, say, name: Some(name) });
    }
    let path = path.display().to_string();
    let port = tokio_serial::new(&path, baud).open_native_async().with_context(|| format!("cannot open {path}"))?;
    let (mut reader, mut writer) = tokio::io::split(port);
    tokio::spawn(async move {
        let mut bytes = [0; 1024];
        while let Ok(len) = reader.read(&mut bytes).await {
            if len == 0 || hear.send(bytes[..len].to_vec()).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(bytes) = said.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    Ok(Port { heard, say, name: None })
}

fn pseudo_terminal() -> anyhow::Result<(File, String)> {
    let side = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("no pseudo-terminal is to be had")?;
    grantpt(&side)?;
    unlockpt(&side)?;
    // Until somebody opens the other side, a cooked terminal would echo.
    let mut modes = tcgetattr(&side)?;
    modes.make_raw();
    tcsetattr(&side, OptionalActions::Now, &modes)?;
    let name = ptsname(&side, Vec::new())?.into_string().context("the pseudo-terminal's name is not UTF-8")?;
    Ok((File::from(side), name))
}
