//! A serial terminal in JSON lines.

use super::REOPEN_AFTER;
use crate::terminal::{ANSWER_TIMEOUT, Ends, Order, Reply, Terminal, TerminalEvent};
use gateway::ids::Name;
use serde_json::Value;
use std::convert::Infallible;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::{Duration, Instant, sleep, sleep_until};
use tokio_serial::SerialPortBuilderExt;

/// A display says hello so often: a gateway that was started anew has forgotten it.
const HELLO_EVERY: Duration = Duration::from_secs(30);
/// Longest line that is read.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Starts a terminal on that device. It opens it again and again for as long as it lives.
pub fn start(path: &Path, baud: u32, name: Name, ends: Ends) -> Terminal {
    let path = path.display().to_string();
    let till = Till { name, ends, more: true, in_flight: None };
    Terminal::spawn(async move {
        // It ends when nobody listens any more.
        let Err(Unheard) = till.keep_open(&path, baud).await;
    })
}

/// Nobody listens to this terminal any more.
struct Unheard;

struct Till {
    name: Name,
    ends: Ends,
    more: bool,
    in_flight: Option<InFlight>,
}

struct InFlight {
    order: Order,
    since: Instant,
    submit_at: Instant,
}

impl Till {
    async fn keep_open(mut self, path: &str, baud: u32) -> Result<Infallible, Unheard> {
        loop {
            let reason = match tokio_serial::new(path, baud).open_native_async() {
                Ok(port) => self.serve(port).await?,
                Err(error) => error.to_string(),
            };
            self.tell(TerminalEvent::Trouble { reason }).await?;
            sleep(REOPEN_AFTER).await;
        }
    }

    /// Serves a port until it is lost; gives the reason.
    async fn serve<S: AsyncRead + AsyncWrite>(&mut self, port: S) -> Result<String, Unheard> {
        let (reader, mut writer) = tokio::io::split(port);
        let mut reader = BufReader::new(reader);
        let (mut line, mut hello_at) = (Vec::new(), Instant::now());
        // It ends what this terminal said before it was reset.
        let mut out = String::from("\n");
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.submit_at = Instant::now();
        }
        loop {
            if !out.is_empty()
                && let Err(error) = writer.write_all(std::mem::take(&mut out).as_bytes()).await
            {
                return Ok(error.to_string());
            }
            tokio::select! {
                read = reader.read_until(b'\n', &mut line) => match read {
                    Ok(0) => return Ok("hung up".into()),
                    Err(error) => return Ok(error.to_string()),
                    Ok(_) if line.last() == Some(&b'\n') => {
                        self.hear(&line).await?;
                        line.clear();
                    }
                    Ok(_) if line.len() > LINE_BYTES_MAX => return Ok("a line without an end".into()),
                    Ok(_) => {}
                },
                order = self.ends.orders.recv(), if self.more && self.in_flight.is_none() => match order {
                    None => self.more = false,
                    Some(order) => {
                        out = order.request() + "\n";
                        let (request_id, now) = (order.request_id.clone(), Instant::now());
                        self.in_flight = Some(InFlight { order, since: now, submit_at: now + ANSWER_TIMEOUT });
                        self.tell(TerminalEvent::Submitted { request_id }).await?;
                    }
                },
                () = due(self.in_flight.as_ref()) => if let Some(in_flight) = &mut self.in_flight {
                    out = in_flight.order.request() + "\n";
                    in_flight.submit_at = Instant::now() + ANSWER_TIMEOUT;
                    let request_id = in_flight.order.request_id.clone();
                    self.tell(TerminalEvent::Resubmitted { request_id }).await?;
                },
                () = sleep_until(hello_at) => {
                    out = "{\"hello\":{\"display\":true}}\n".into();
                    hello_at = Instant::now() + HELLO_EVERY;
                }
            }
        }
    }

    async fn hear(&mut self, line: &[u8]) -> Result<(), Unheard> {
        if let Some((request_id, reply)) = Reply::read(line) {
            let Some(mut in_flight) = self.in_flight.take_if(|in_flight| in_flight.order.request_id == request_id) else {
                return self.tell(TerminalEvent::AnsweredAgain { request_id, reply }).await;
            };
            if let Some(after) = reply.submit_again_after() {
                in_flight.submit_at = Instant::now() + after;
                self.in_flight = Some(in_flight);
                return Ok(());
            }
            return self.tell(TerminalEvent::Answered { request_id, reply, latency: in_flight.since.elapsed() }).await;
        }
        let status = serde_json::from_slice::<Value>(line).ok();
        let word = |field: &str| status.as_ref()?.get("status")?.get(field)?.as_str().map(str::to_owned);
        match (word("orderId"), word("status")) {
            (Some(order_id), Some(status)) => self.tell(TerminalEvent::Status { order_id, status }).await,
            (Some(_) | None, _) => Ok(()),
        }
    }

    async fn tell(&self, event: TerminalEvent) -> Result<(), Unheard> {
        self.ends.events.send((self.name.clone(), event)).await.map_err(|_| Unheard)
    }
}

async fn due(in_flight: Option<&InFlight>) {
    match in_flight {
        Some(in_flight) => sleep_until(in_flight.submit_at).await,
        None => std::future::pending().await,
    }
}
