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
use super::topics::{Channel, Topics};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Filter, Packet, PubAck, PubAckReason, Publish, SubAck, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Request, StateError};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

/// Publishes, subscribes and unsubscribes that wait for rumqttc's event loop. Few: a new answer stands behind all of them.
const REQUESTS_QUEUED_MAX: usize = 16;

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// We said goodbye.
    Stopped,
    /// It broke, or never came up.
    Lost {
        /// For people.
        reason: String,
        /// It came to serve before.
        served: bool,
        /// What the broker sent could not be read: a session would send it again.
        poisoned: bool,
    },
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
    /// that it does not wait for.
    fn salvage(&mut self, eventloop: &mut EventLoop, topics: &Topics) {
        for request in eventloop.pending.drain(..) {
            if let Request::Publish(publish) = request
                && let Channel::Answer(terminal) = topics.read(&publish.topic)
            {
                self.again.push_back(Message { topic: topics.answer(&terminal), payload: publish.payload, retain: false });
            }
        }
    }
}

/// What a connection works with; all of it outlives it.
#[derive(Debug)]
pub struct Parts {
    pub topics: Topics,
    pub figures: Arc<Figures>,
    pub submits: mpsc::Sender<Submit>,
    pub publisher: Publisher,
    pub house: House,
    /// What to say last.
    pub goodbye: Message,
}

impl Parts {
    /// Connects, serves, and returns when the connection has ended: by an error, or by our goodbye after the intake has ended.
    pub async fn serve(&mut self, options: MqttOptions) -> End {
        let (client, mut eventloop) = AsyncClient::new(options, REQUESTS_QUEUED_MAX);
        let (found, found_rx) = mpsc::channel(STATUSES_FOUND_MAX);
        let (serving, served) = oneshot::channel();
        let mut reader = Reader {
            topics: self.topics.clone(),
            presence: Presence::new(Arc::clone(&self.figures)),
            figures: Arc::clone(&self.figures),
            submits: self.submits.clone(),
            found,
            session_present: false,
            packet_bytes_max: PACKET_BYTES_MAX as usize,
            serving: Some(serving),
            warned: false,
        };
        let (publisher, house, goodbye) = (&mut self.publisher, &mut self.house, &self.goodbye);
        let write = async {
            let Ok(packet_bytes_max) = served.await else { return std::future::pending().await };
            let (out, mut house_rx) = mpsc::channel(HOUSE_QUEUED_MAX);
            let ends = Ends { client: client.clone(), out, found: found_rx, packet_bytes_max };
            tokio::select! {
                () = publisher.run(&client, &mut house_rx, packet_bytes_max) => {}
                never = house.run(ends) => return never,
            }
            publisher.publish(&client, goodbye.clone(), packet_bytes_max).await;
            let _ = client.disconnect().await;
            // The reader ends the connection when it sees this on its way.
            std::future::pending::<Infallible>().await
        };
        let end = tokio::select! {
            end = reader.run(&client, &mut eventloop) => end,
            never = write => match never {},
        };
        self.figures.connected.store(false, Ordering::Relaxed);
        self.publisher.salvage(&mut eventloop, &self.topics);
        end
    }
}

/// The only task of a connection that polls it. It never waits for a publish, because it is what carries publishes out.
struct Reader {
    topics: Topics,
    presence: Presence,
    figures: Arc<Figures>,
    submits: mpsc::Sender<Submit>,
    found: mpsc::Sender<String>,
    session_present: bool,
    packet_bytes_max: usize,
    serving: Option<oneshot::Sender<usize>>,
    warned: bool,
}

impl Reader {
    async fn run(&mut self, client: &AsyncClient, eventloop: &mut EventLoop) -> End {
        // The retain flag as published: a submit that the broker keeps is known by it at once, not only after the next connect.
        let submits = Filter { preserve_retain: true, ..Filter::new(self.topics.submits(), QoS::AtLeastOnce) };
        let states = Filter::new(self.topics.states(), QoS::AtLeastOnce);
        if client.try_subscribe_many([submits, states]).is_err() {
            return self.lost("the subscription was not taken".into(), false);
        }
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => self.connected(&ack),
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    if let Err(reason) = self.subscribed(&ack) {
                        return self.lost(reason, false);
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => self.received(publish).await,
                Ok(Event::Incoming(Packet::PubAck(ack))) => self.acknowledged(&ack),
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return End::Stopped,
                Ok(Event::Incoming(_) | Event::Outgoing(_)) => {}
                Err(error) => {
                    let poisoned = matches!(error, ConnectionError::MqttState(StateError::Deserialization(_)));
                    return self.lost(reason(&error), poisoned);
                }
            }
        }
    }

    fn lost(&self, reason: String, poisoned: bool) -> End {
        End::Lost { reason, served: self.serving.is_none(), poisoned }
    }

    fn connected(&mut self, ack: &ConnAck) {
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
        info!(session_present = self.session_present, packet_bytes_max = self.packet_bytes_max, "MQTT broker serves");
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
            count(&self.figures.publishes_refused);
            if !std::mem::replace(&mut self.warned, true) {
                warn!(reason = ?ack.reason, "the MQTT broker refuses what the gateway publishes; see its access list");
            }
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
