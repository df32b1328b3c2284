//! A serial port: how it is opened, and what outlives its closing.

use super::figures::Figures;
use crate::config::SerialPort;
use crate::handle::{Handle, Ingress};
use futures_util::future::BoxFuture;
use gateway::ids::{Epoch, Name};
use gateway::request::Answer;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_serial::{DataBits, FlowControl, Parity, SerialPortBuilderExt, SerialStream, StopBits};

/// First and longest wait before a port is opened again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What a port's work needs, and what it leaves for the next opening.
pub struct Port {
    /// The terminal at the port.
    pub terminal: Name,
    /// This start's epoch.
    pub boot: Epoch,
    /// Fragments that the terminal may have under way.
    pub flight: u8,
    pub handle: Handle,
    pub figures: Arc<Figures>,
    /// What the core had not decided when the port was lost.
    pub undecided: Option<Decision>,
}

/// A submission on its way through the core.
pub type Decision = BoxFuture<'static, Decided>;

/// What the core decided.
#[derive(Debug)]
pub struct Decided {
    pub session: u64,
    pub number: u64,
    /// `None` if the gateway ended before: nothing is known.
    pub answer: Option<Answer>,
}

/// Why the work at an open port ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The daemon stops.
    Stopped,
    /// The port is gone.
    Lost(String),
}

impl Port {
    pub fn new(config: &SerialPort, boot: Epoch, handle: Handle, figures: Arc<Figures>) -> Port {
        Port { terminal: config.terminal.clone(), boot, flight: flight(config.baud), handle, figures, undecided: None }
    }

    /// The terminal was heard, or not for a while.
    pub fn tell_online(&self, online: bool) {
        self.handle.terminals().online(Ingress::Serial, &self.terminal, Some(online));
    }

    /// Something came that made no sense.
    pub fn tell_garbled(&self) {
        self.handle.terminals().garbled(Ingress::Serial, &self.terminal, 1);
    }
}

/// So many fragments that the slowest of them is on the line for well under the second after which a terminal sends again: eight
/// from 115200 baud on, two at 9600.
fn flight(baud: u32) -> u8 {
    u8::try_from(baud / 14_400).unwrap_or(u8::MAX).clamp(2, 8)
}

/// Opens a port for raw bytes, for us alone: with TIOCEXCL and a lock, so that neither a second daemon nor a terminal program eats
/// half of what a till says.
///
/// # Errors
/// It is missing, taken, no serial port, or not ours to use.
pub async fn open(config: SerialPort) -> io::Result<SerialStream> {
    // A USB adapter that is being unplugged can hold an open for a while.
    let opened = tokio::task::spawn_blocking(move || {
        let path = config.path.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8"))?;
        let builder = tokio_serial::new(path, config.baud).data_bits(DataBits::Eight).parity(Parity::None).stop_bits(StopBits::One);
        Ok(builder.flow_control(FlowControl::None).exclusive(true).open_native_async()?)
    });
    opened.await.map_err(io::Error::other)?
}

/// Waits that double.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(BACKOFF.0)
    }
}

impl Backoff {
    pub fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(BACKOFF.1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::flight;

    #[test]
    fn what_is_under_way_is_on_the_line_for_well_under_a_second() {
        for baud in [9_600, 19_200, 38_400, 57_600, 115_200, 921_600] {
            let bits = u32::from(flight(baud)) * 254 * 10;
            assert!(bits * 1_000 / baud <= 600, "{baud}");
        }
        assert_eq!((flight(9_600), flight(115_200), flight(4_000_000)), (2, 8, 8));
    }
}
