//! The line to a printer: bytes there, answers back, each within its time.

use super::escpos::{TRANSMIT_STATUS, real_time_status};
use super::status::{Heard, State, heard, state};
use crate::config::{FlowControl, PrinterPort};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_serial::{DataBits, Parity, SerialPortBuilderExt, StopBits};

/// A printer takes a connection, and closes one, within this time.
const CONNECT_MAX: Duration = Duration::from_secs(3);
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// It takes [`CHUNK`] bytes within this time: at 9600 baud they are a quarter of a second.
const WRITE_MAX: Duration = Duration::from_secs(10);
const CHUNK: usize = 256;
/// It answers a question that is answered at once.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// While a ticket is on its way to paper it is asked how it is so often.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Why a printer does not print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub state: State,
    /// A sentence fragment for people.
    pub why: String,
}

impl Trouble {
    pub fn new(state: State, why: impl Into<String>) -> Trouble {
        Trouble { state, why: why.into() }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// An open line.
pub struct Link {
    stream: Box<dyn Stream>,
    /// Opened once and for all; a network printer is left to others in between.
    pub stays: bool,
    /// Bytes of automatic status that are still to come.
    automatic: u8,
    printed: bool,
}

impl Link {
    pub async fn open(port: &PrinterPort) -> Result<Link, Trouble> {
        let offline = |why: &dyn std::fmt::Display| Trouble::new(State::Offline, why.to_string());
        let (stream, stays): (Box<dyn Stream>, bool) = match port {
            PrinterPort::Address(address) => {
                let connect = TcpStream::connect((address.host.as_str(), address.port));
                let stream =
                    timeout(CONNECT_MAX, connect).await.map_err(|_| offline(&"it takes no connection"))?.map_err(|e| offline(&e))?;
                stream.set_nodelay(true).map_err(|e| offline(&e))?;
                (Box::new(stream), false)
            }
            PrinterPort::Serial { path, baud, flow_control } => {
                let (path, baud, flow_control) = (path.clone(), *baud, *flow_control);
                // A USB adapter that is being unplugged can hold an open for a while.
                let opened = tokio::task::spawn_blocking(move || open_tty(&path, baud, flow_control));
                (Box::new(opened.await.map_err(|e| offline(&e))?.map_err(|e| offline(&e))?), true)
            }
        };
        Ok(Link { stream, stays, automatic: 0, printed: false })
    }

    /// Asks how it is.
    pub async fn state(&mut self) -> Result<State, Trouble> {
        let mut answers = [0; 4];
        for (n, answer) in (1..).zip(&mut answers) {
            self.write(&real_time_status(n)).await?;
            let deadline = Instant::now() + ANSWER_MAX;
            *answer = loop {
                match self.hear(deadline).await? {
                    Some(Heard::RealTime(byte)) => break byte,
                    Some(Heard::Printed | Heard::Automatic | Heard::Other) => {}
                    None => return Err(Trouble::new(State::Hanging, "it does not answer")),
                }
            };
        }
        Ok(state(answers))
    }

    /// Notices that the line is gone, without asking for anything.
    pub async fn listen(&mut self) -> Result<(), Trouble> {
        while self.hear(Instant::now()).await?.is_some() {}
        Ok(())
    }

    /// Hands bytes over.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        for chunk in bytes.chunks(CHUNK) {
            let written = async {
                self.stream.write_all(chunk).await?;
                self.stream.flush().await
            };
            match timeout(WRITE_MAX, written).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(lost(&error)),
                Err(_) => return Err(Trouble::new(State::Hanging, "it takes no bytes")),
            }
        }
        Ok(())
    }

    /// Waits until all that was written is on paper; `false` if it says that it is well and for so long does not say that.
    pub async fn is_on_paper(&mut self, within: Duration) -> Result<bool, Trouble> {
        self.printed = false;
        self.write(TRANSMIT_STATUS).await?;
        let give_up_at = Instant::now() + within;
        while !self.printed && Instant::now() < give_up_at {
            let heard = self.hear(Instant::now() + ASK_EVERY).await?;
            if heard.is_none() {
                let state = self.state().await?;
                if !state.prints() && !self.printed {
                    return Err(Trouble::new(state, "it stopped in the middle of a ticket"));
                }
            }
        }
        Ok(self.printed)
    }

    /// Lets it take what is on its way before the line is closed.
    pub async fn close(mut self) {
        let closed = async {
            self.stream.shutdown().await?;
            let mut rest = [0; 64];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(CLOSE_MAX, closed).await;
    }

    /// What comes next; `None` if nothing does in time.
    async fn hear(&mut self, deadline: Instant) -> Result<Option<Heard>, Trouble> {
        let mut byte = [0];
        loop {
            match tokio::time::timeout_at(deadline, self.stream.read(&mut byte)).await {
                Err(_) => return Ok(None),
                Ok(Ok(0)) => return Err(Trouble::new(State::Offline, "it closed the line")),
                Ok(Err(error)) => return Err(lost(&error)),
                Ok(Ok(_)) if self.automatic > 0 => self.automatic -= 1,
                Ok(Ok(_)) => {
                    let heard = heard(byte[0]);
                    self.automatic = if heard == Heard::Automatic { 3 } else { 0 };
                    self.printed |= heard == Heard::Printed;
                    return Ok(Some(heard));
                }
            }
        }
    }
}

fn lost(error: &io::Error) -> Trouble {
    Trouble::new(State::Offline, error.to_string())
}

fn open_tty(path: &Path, baud: u32, flow_control: FlowControl) -> io::Result<tokio_serial::SerialStream> {
    let path = path.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8"))?;
    let flow_control = match flow_control {
        FlowControl::None => tokio_serial::FlowControl::None,
        FlowControl::Hardware => tokio_serial::FlowControl::Hardware,
        FlowControl::Software => tokio_serial::FlowControl::Software,
    };
    let builder = tokio_serial::new(path, baud).data_bits(DataBits::Eight).parity(Parity::None).stop_bits(StopBits::One);
    Ok(builder.flow_control(flow_control).exclusive(true).open_native_async()?)
}
