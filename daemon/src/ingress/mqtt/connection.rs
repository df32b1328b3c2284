//! One connection to the broker, from CONNECT to its end.
//!
//! Each connection has an event loop of its own. rumqttc 0.25.1 offers to go on with the old one, but then it still yields what it had
//! read from the dead connection, whose packet ids mean other messages by now, and sends again what it had not sent, in front of
//! everything newer. A new one knows nothing: what must not be lost is taken over by name (answers), and everything else is driven
//! from the store.

use super::broker::PACKET_BYTES_MAX;
use super::figures::{Figures, count, set};
use super::house::{Ends, HOUSE_QUEUED_MAX, House, STATUSES_FOUND_MAX, overhead};
use super::intake::{Message, Submit};
use super::presence::Presence;
use super::refusals::Refusals;
use super::topics::{Channel, Topics};
use crate::terminals::Terminals;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, Filter, Packet, PubAck, PubAckReason, Publish, RetainForwardRule, SubAck,
    SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Request, StateError};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

/// Publishes, subscribes and unsubscribes that wait for rumqttc's event loop. Few: a new answer stands behind all of them.
const REQUESTS_QUEUED_MAX: usize = 16;

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// We said goodbye.
    Stopped,
    /// It broke, or never came up.
    Lost(Lost),
}

/// How a connection was lost.
#[derive(Debug)]
pub struct Lost {
    /// For people.
    pub reason: String,
    /// How long it served; `None` if it did not come to that.
    pub served: Option<Duration>,
    /// What the broker sent could not be read: a session would send it again.
    pub unreadable: bool,
    /// The broker closed it without a word.
    pub hung_up: bool,
}

/// What one connection does not do as usual.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// The broker shall not send what it retains.
    pub nothing_retained: bool,
    /// The log has said it often enough that connections come up and break.
    pub quiet: bool,
}

/// Publishes answers and what the house sees, answers first. It outlives connections: what waits, waits for the next.
#[derive(Debug)]
pub struct Publisher {
    answers: mpsc::Receiver<Message>,
    /// Answers that a broken connection did not get acknowledged.
    again: VecDeque<Message>,
    in_hand: Option<Message>,
    figures: Arc<Figures>,
}

impl Publisher {
    pub fn new(answers: mpsc::Receiver<Message>, figures: Arc<Figures>) -> Publisher {
        Publisher { answers, again: VecDeque::new(), in_hand: None, figures }
    }

    /// Publishes until the intake has ended and its last answer is out.
    async fn run(&mut self, client: &AsyncClient, house: &mut mpsc::Receiver<Message>, packet_bytes_max: usize) {
        loop {
            if let Some(answer) = self.in_hand.take().or_else(|| self.again.pop_front()) {
                // Kept here while it waits for room: the connection may end in that moment.
                self.in_hand = Some(answer.clone());
                self.publish(client, answer, packet_bytes_max).await;
                self.in_hand = None;
                continue;
            }
            tokio::select! {
                biased;
                answer = self.answers.recv() => match answer {
                    Some(answer) => {
                        set(&self.figures.answers_queued, self.answers.len());
                        self.in_hand = Some(answer);
                    }
                    None => return,
                },
                Some(message) = house.recv() => self.publish(client, message, packet_bytes_max).await,
            }
        }
    }

    async fn publish(&self, client: &AsyncClient, message: Message, packet_bytes_max: usize) {
        let Message { topic, payload, retain } = message;
        // rumqttc would end the connection over it.
        if overhead(&topic) + payload.len() > packet_bytes_max {
            count(&self.figures.publishes_too_large);
            return;
        }
        // It fails only when the event loop is gone, and then the connection is ending.
        let _ = client.publish_bytes(topic, QoS::AtLeastOnce, retain, payload).await;
    }

    /// Takes over the answers that an ended connection holds unacknowledged. Some may have arrived: a terminal passes over an answer
    /// that it does not wait for. `without` is given up: the broker refuses it, and the terminal will submit again.
    fn salvage(&mut self, eventloop: &mut EventLoop, topics: &Topics, mut without: Option<Publish>) {
        for request in eventloop.pending.drain(..) {
            if let Request::Publish(publish) = request
                && let Channel::Answer(terminal) = topics.read(&publish.topic)
                && without.take_if(|refused| *refused == publish).is_none()
            {
                self.again.push_back(Message { topic: topics.answer(&terminal), payload: publish.payload, retain: false });
            }
        }
    }
}

/// The first publish that was sent and that the broker did not acknowledge. Packet ids start over at 100, so this is exact only for
/// short connections.
fn first_unanswered(eventloop: &EventLoop) -> Option<&Publish> {
    eventloop.pending.iter().find_map(|request| match request {
        Request::Publish(publish) if publish.pkid != 0 => Some(publish),
        _ => None,
    })
}

/// What a connection works with; all of it outlives it.
#[derive(Debug)]
pub struct Parts {
    pub topics: Topics,
    pub figures: Arc<Figures>,
    pub submits: mpsc::Sender<Submit>,
    pub terminals: Terminals,
    pub publisher: Publisher,
    pub house: House,
    pub refusals: Refusals,
    /// What to say last.
    pub goodbye: Message,
}

impl Parts {
    /// Connects, serves, and returns when the connection has ended: by an error, or by our goodbye after the intake has ended.
    pub async fn serve(&mut self, options: MqttOptions, manner: Manner) -> End {
        let (client, mut eventloop) = AsyncClient::new(options, REQUESTS_QUEUED_MAX);
        let (found, found_rx) = mpsc::channel(STATUSES_FOUND_MAX);
        let (serving, served) = oneshot::channel();
        let leaving = AtomicBool::new(false);
        self.refusals.connecting();
        let mut reader = Reader {
            topics: self.topics.clone(),
            presence: Presence::new(Arc::clone(&self.figures), self.terminals.clone()),
            figures: Arc::clone(&self.figures),
            refusals: &mut self.refusals,
            submits: self.submits.clone(),
            found,
            manner,
            accepted: false,
            session_present: false,
            packet_bytes_max: PACKET_BYTES_MAX as usize,
            serving: Some(serving),
            served_since: None,
            leaving: &leaving,
        };
        let (publisher, house, goodbye) = (&mut self.publisher, &mut self.house, &self.goodbye);
        let write = async {
            let Ok(packet_bytes_max) = served.await else { return std::future::pending().await };
            let (out, mut house_rx) = mpsc::channel(HOUSE_QUEUED_MAX);
            let found = (!manner.nothing_retained).then_some(found_rx);
            let ends = Ends { client: client.clone(), out, found, packet_bytes_max };
            tokio::select! {
                () = publisher.run(&client, &mut house_rx, packet_bytes_max) => {}
                never = house.run(ends) => return never,
            }
            publisher.publish(&client, goodbye.clone(), packet_bytes_max).await;
            leaving.store(true, Ordering::Relaxed);
            let _ = client.disconnect().await;
            // The reader ends the connection when it sees this on its way.
            std::future::pending::<Infallible>().await
        };
        let end = tokio::select! {
            end = reader.run(&client, &mut eventloop) => end,
            never = write => match never {},
        };
        drop(reader);
        self.figures.connected.store(false, Ordering::Relaxed);
        self.clear_up(&mut eventloop, &end);
        end
    }

    fn clear_up(&mut self, eventloop: &mut EventLoop, end: &End) {
        // It has done so itself unless we ended the connection.
        eventloop.clean();
        let unanswered = first_unanswered(eventloop).cloned();
        let refused = match end {
            End::Lost(Lost { hung_up: true, served: Some(lived), .. }) => {
                let topic = unanswered.as_ref().map(|publish| String::from_utf8_lossy(&publish.topic));
                self.refusals.by_hanging_up(topic.as_deref(), *lived)
            }
            End::Lost(_) | End::Stopped => false,
        };
        self.publisher.salvage(eventloop, &self.topics, unanswered.filter(|_| refused));
    }
}

/// The only task of a connection that polls it. It never waits for a publish, because it is what carries publishes out.
struct Reader<'a> {
    topics: Topics,
    presence: Presence,
    figures: Arc<Figures>,
    refusals: &'a mut Refusals,
    submits: mpsc::Sender<Submit>,
    found: mpsc::Sender<String>,
    manner: Manner,
    /// The broker accepted the connection.
    accepted: bool,
    session_present: bool,
    packet_bytes_max: usize,
    serving: Option<oneshot::Sender<usize>>,
    served_since: Option<Instant>,
    /// We are about to say goodbye.
    leaving: &'a AtomicBool,
}

impl Reader<'_> {
    async fn run(&mut self, client: &AsyncClient, eventloop: &mut EventLoop) -> End {
        let retain_forward_rule = if self.manner.nothing_retained { RetainForwardRule::Never } else { RetainForwardRule::OnEverySubscribe };
        // The retain flag as published: a submit that the broker keeps is known by it at once, not only after the next connect.
        let submits = Filter {
            preserve_retain: true,
            retain_forward_rule: retain_forward_rule.clone(),
            ..Filter::new(self.topics.submits(), QoS::AtLeastOnce)
        };
        let states = Filter { retain_forward_rule, ..Filter::new(self.topics.states(), QoS::AtLeastOnce) };
        if client.try_subscribe_many([submits, states]).is_err() {
            return self.lost("the subscription was not taken".into());
        }
        loop {
            let polled = eventloop.poll().await;
            let error = match polled {
                Ok(event) => match self.happened(event).await {
                    ControlFlow::Continue(()) => continue,
                    ControlFlow::Break(end) => return end,
                },
                Err(error) => error,
            };
            // rumqttc 0.25.1 keeps back what it read together with the error: the broker's reason for hanging up, or submissions
            // that a session given up for what is behind them would take along.
            while let Some(event) = eventloop.state.events.pop_front() {
                if let ControlFlow::Break(end) = self.happened(event).await {
                    return end;
                }
            }
            return self.broken(&error);
        }
    }

    async fn happened(&mut self, event: Event) -> ControlFlow<End> {
        match event {
            Event::Incoming(Packet::ConnAck(ack)) => self.connected(&ack),
            Event::Incoming(Packet::SubAck(ack)) => {
                if let Err(reason) = self.subscribed(&ack) {
                    return ControlFlow::Break(self.lost(reason));
                }
            }
            Event::Incoming(Packet::Publish(publish)) => self.received(publish).await,
            Event::Incoming(Packet::PubAck(ack)) => self.acknowledged(&ack),
            // One comes each keep-alive interval.
            Event::Incoming(Packet::PingResp(_)) => {
                if let Some(since) = self.served_since {
                    self.refusals.served(since.elapsed());
                }
            }
            Event::Outgoing(Outgoing::Disconnect) if self.leaving.load(Ordering::Relaxed) => return ControlFlow::Break(End::Stopped),
            // rumqttc 0.25.1 notes that it should leave over an unknown topic alias, and then does not.
            Event::Outgoing(Outgoing::Disconnect) => {
                return ControlFlow::Break(self.unreadable("the broker used a topic alias that it had not made known".into()));
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
        ControlFlow::Continue(())
    }

    fn lost(&self, reason: String) -> End {
        End::Lost(Lost { reason, served: self.served_since.map(|since| since.elapsed()), unreadable: false, hung_up: false })
    }

    fn unreadable(&self, reason: String) -> End {
        count(&self.figures.unreadable);
        End::Lost(Lost { reason, served: self.served_since.map(|since| since.elapsed()), unreadable: true, hung_up: false })
    }

    fn broken(&mut self, error: &ConnectionError) -> End {
        if is_unreadable(error) && self.accepted {
            return self.unreadable(format!("what the broker sent cannot be read: {error}"));
        }
        if let ConnectionError::MqttState(StateError::ServerDisconnect { reason_code: DisconnectReasonCode::NotAuthorized, .. }) = error {
            self.refusals.by_word(&DisconnectReasonCode::NotAuthorized);
        }
        let hung_up = self.accepted && is_hang_up(error);
        let reason = if hung_up { "the broker hung up".into() } else { reason(error) };
        End::Lost(Lost { reason, served: self.served_since.map(|since| since.elapsed()), unreadable: false, hung_up })
    }

    fn connected(&mut self, ack: &ConnAck) {
        self.accepted = true;
        self.session_present = ack.session_present;
        let offered = ack.properties.as_ref().and_then(|p| p.max_packet_size);
        self.packet_bytes_max = offered.map_or(PACKET_BYTES_MAX, |bytes| bytes.min(PACKET_BYTES_MAX)) as usize;
    }

    /// The first acknowledged subscription begins the service: who hears that the gateway is online may submit at once.
    fn subscribed(&mut self, ack: &SubAck) -> Result<(), String> {
        let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
        let Some(serving) = self.serving.take() else {
            if let Some(code) = refused {
                warn!(reason = ?code, "the MQTT broker refuses to show retained statuses: old ones stay");
            }
            return Ok(());
        };
        if let Some(code) = refused {
            self.serving = Some(serving);
            return Err(format!("the broker refuses the subscription to {}: {code:?}; see its access list", self.topics.submits()));
        }
        count(&self.figures.connections);
        self.figures.connected.store(true, Ordering::Relaxed);
        self.served_since = Some(Instant::now());
        let (session_present, packet_bytes_max) = (self.session_present, self.packet_bytes_max);
        if self.manner.quiet {
            debug!(session_present, packet_bytes_max, "MQTT broker serves");
        } else {
            info!(session_present, packet_bytes_max, "MQTT broker serves");
        }
        let _ = serving.send(self.packet_bytes_max);
        Ok(())
    }

    async fn received(&mut self, publish: Publish) {
        match self.topics.read(&publish.topic) {
            // Our own clearing of a retained submit comes back like this.
            Channel::Submit(_) if publish.retain && publish.payload.is_empty() => {}
            Channel::Submit(terminal) => {
                // Closed it is when the daemon stops: the terminal submits again.
                let _ = self.submits.send(Submit::new(terminal, publish.payload, publish.retain)).await;
            }
            Channel::State(terminal) => self.presence.heard(terminal, &publish.payload),
            Channel::Status(_) if publish.retain && !publish.payload.is_empty() => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                if self.found.try_send(topic).is_err() {
                    count(&self.figures.statuses_unread);
                }
            }
            // Our own publishes while we look at what is retained.
            Channel::Status(_) => {}
            Channel::Answer(_) | Channel::Gateway | Channel::Unknown => count(&self.figures.ignored),
        }
    }

    fn acknowledged(&mut self, ack: &PubAck) {
        if !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
            self.refusals.by_word(&ack.reason);
        }
    }
}

fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized) => {
            "the broker refuses the user name or password: see mqtt.username and mqtt.password_file".into()
        }
        // Its own words name the source already.
        other => other.to_string(),
    }
}

/// Whether the bytes themselves are at fault: rumqttc 0.25.1 gives a broken line by the same name.
fn is_unreadable(error: &ConnectionError) -> bool {
    use mqttbytes::Error::{Io, OutgoingPacketTooLarge};
    matches!(error, ConnectionError::MqttState(StateError::Deserialization(bytes)) if !matches!(bytes, Io(_) | OutgoingPacketTooLarge { .. }))
}

fn is_hang_up(error: &ConnectionError) -> bool {
    let broken = match error {
        ConnectionError::MqttState(StateError::ConnectionAborted) => return true,
        ConnectionError::MqttState(StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)))
        | ConnectionError::Io(error) => error.kind(),
        _ => return false,
    };
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(broken, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
