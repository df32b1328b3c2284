//! From submissions to answers: reads requests, hands them to the event loop, and answers what is refused at the door.
//!
//! Nothing in here ever waits for a publish: so the task that polls the connection may wait for room in the intake's queue, and a
//! flood is felt by the broker as backpressure and by the terminal as `busy`.

use super::figures::{Figures, count, set};
use super::topics::Topics;
use crate::handle::{Handle, Ingress};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gateway::ids::{Name, RequestId};
use gateway::io::Submission;
use gateway::request::{Answer, Code, REQUEST_BYTES_MAX, Request, RequestError};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, watch};

/// Submissions that were read from the connection and not yet looked at.
pub const SUBMITS_QUEUED_MAX: usize = 64;
/// Requests between submission and answer; half of what the event loop takes, so that MQTT never shuts serial and HTTP out.
pub const SUBMITS_IN_FLIGHT_MAX: usize = 512;
/// Of these, one terminal's: a terminal gone mad hears `busy` and the others hear nothing of it.
pub const TERMINAL_IN_FLIGHT_MAX: usize = 32;
/// Answers that wait to be published. Each request in flight has its place here reserved; refusals take what is left.
pub const ANSWERS_QUEUED_MAX: usize = 2 * SUBMITS_IN_FLIGHT_MAX;
/// When a request that met a full queue is welcome again.
const BUSY_RETRY_AFTER_MS: u64 = 2_000;

/// A message on a terminal's topic `submit`.
#[derive(Debug)]
pub struct Submit {
    pub terminal: Name,
    /// `Err` with its length when there is more than a request may have: so much is not even queued.
    pub body: Result<Bytes, usize>,
    /// The broker would give it to every later subscriber too.
    pub retained: bool,
}

impl Submit {
    pub fn new(terminal: Name, payload: Bytes, retained: bool) -> Submit {
        let body = if payload.len() > REQUEST_BYTES_MAX { Err(payload.len()) } else { Ok(payload) };
        Submit { terminal, body, retained }
    }
}

/// A message to publish at QoS 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    pub retain: bool,
}

impl Message {
    /// Takes what is retained on `topic` away.
    pub fn clear(topic: String) -> Message {
        Message { topic, payload: Bytes::new(), retain: true }
    }
}

/// The intake. It outlives connections: what was submitted over one is answered over the next.
#[derive(Debug)]
pub struct Intake {
    pub topics: Topics,
    pub handle: Handle,
    pub figures: Arc<Figures>,
    pub answers: mpsc::Sender<Message>,
}

impl Intake {
    /// Serves until `stop` says so or all senders are gone, then until the last request in flight is answered; drops `answers` at
    /// its end.
    pub async fn run(self, mut submits: mpsc::Receiver<Submit>, mut stop: watch::Receiver<bool>) {
        let mut in_flight = FuturesUnordered::new();
        let mut by_terminal: HashMap<Name, usize> = HashMap::new();
        let mut open = true;
        while open || !in_flight.is_empty() {
            tokio::select! {
                biased;
                Some((terminal, answer)) = in_flight.next() => {
                    if let Some(n) = by_terminal.get_mut(&terminal) {
                        *n -= 1;
                        if *n == 0 {
                            by_terminal.remove(&terminal);
                        }
                    }
                    self.say(&terminal, &answer);
                }
                _ = stop.wait_for(|stop| *stop), if open => open = false,
                submit = submits.recv(), if open => match submit {
                    None => open = false,
                    Some(submit) => {
                        // Two messages are the most that one submission makes.
                        if self.answers.capacity() < in_flight.len() + 2 {
                            count(&self.figures.answers_dropped);
                        } else if let Some(submission) = self.read(submit, in_flight.len(), &by_terminal) {
                            let of_terminal = by_terminal.entry(submission.terminal.clone()).or_default();
                            *of_terminal += 1;
                            self.figures.terminal_most.fetch_max(*of_terminal, Ordering::Relaxed);
                            in_flight.push(answered(&self.handle, submission));
                        }
                    }
                },
            }
            set(&self.figures.submits_in_flight, in_flight.len());
            set(&self.figures.answers_queued, ANSWERS_QUEUED_MAX - self.answers.capacity());
        }
    }

    /// The submission, or `None` once its refusal is said.
    fn read(&self, submit: Submit, in_flight: usize, by_terminal: &HashMap<Name, usize>) -> Option<Submission> {
        let terminal = submit.terminal;
        if submit.retained {
            // Kept by the broker, it would be submitted again at every subscription, by whoever subscribes.
            self.send(Message::clear(self.topics.submit(&terminal)));
        }
        let parsed = submit.body.map_err(RequestError::TooLarge).and_then(|bytes| Request::parse(&bytes));
        let refusal = match parsed {
            Err(error) => error.into_answer(None),
            Ok(request) if submit.retained => {
                Answer::rejected(Some(request.id), Code::Invalid, "a submit must not have the retain flag", None)
            }
            Ok(request) if in_flight >= SUBMITS_IN_FLIGHT_MAX => busy(request.id, "too many requests at once"),
            Ok(request) if by_terminal.get(&terminal).is_some_and(|n| *n >= TERMINAL_IN_FLIGHT_MAX) => {
                count(&self.figures.terminal_refused);
                busy(request.id, "too many requests of this terminal at once")
            }
            Ok(request) => return Some(Submission { terminal, request, session: None, maybe_stored: false }),
        };
        if let Answer::Rejected(rejected) = &refusal {
            self.figures.count_refused(rejected.code);
        }
        self.say(&terminal, &refusal);
        None
    }

    fn say(&self, terminal: &Name, answer: &Answer) {
        self.send(Message { topic: self.topics.answer(terminal), payload: gateway::json::text(answer).into(), retain: false });
    }

    fn send(&self, message: Message) {
        // Full it cannot be: each sender saw its place. Closed it is when the daemon stops, and then nobody waits for an answer.
        let _ = self.answers.try_send(message);
    }
}

async fn answered(handle: &Handle, submission: Submission) -> (Name, Answer) {
    let terminal = submission.terminal.clone();
    (terminal, handle.submit(Ingress::Mqtt, submission).await)
}

fn busy(id: RequestId, message: &str) -> Answer {
    Answer::rejected(Some(id), Code::Busy, message, Some(BUSY_RETRY_AFTER_MS))
}
