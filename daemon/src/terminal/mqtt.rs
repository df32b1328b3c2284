//! A terminal over MQTT.

use super::{ANSWER_TIMEOUT, Ends, Order, RETRY_AFTER, Reply, Terminal, TerminalEvent};
use crate::ingress::mqtt::{Access, Channel, Session, Topics};
use gateway::ids::{Name, RequestId};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Publishes that wait for the connection: one order and the terminal's state.
const REQUESTS_QUEUED_MAX: usize = 8;
/// Messages between the connection and the terminal's logic.
const HEARD_QUEUED_MAX: usize = 64;

/// What came over the connection.
enum Heard {
    /// There is one, and what the terminal subscribes to is subscribed.
    Connected(AsyncClient),
    /// There is none, and why.
    Lost(String),
    Message(Publish),
}

/// Starts a terminal of that name. It connects, and connects again, for as long as it lives.
pub fn start(access: Access, gateway: &Name, name: Name, ends: Ends) -> Terminal {
    let topics = Topics::new(gateway);
    let client_id = format!("terminal-{gateway}-{name}");
    let (say, heard) = mpsc::channel(HEARD_QUEUED_MAX);
    let line = Line { access, topics: topics.clone(), name: name.clone(), client_id, say };
    let till = Till { topics, name, client: None, ends, in_flight: None, boot: None };
    Terminal::spawn(async move {
        // One task: the two only ever wait for each other's queues, never for a publish.
        tokio::select! {
            () = line.keep_up() => {}
            () = till.run(heard) => {}
        }
    })
}

/// The connection's side.
struct Line {
    access: Access,
    topics: Topics,
    name: Name,
    client_id: String,
    say: mpsc::Sender<Heard>,
}

impl Line {
    async fn keep_up(self) {
        loop {
            let session = Session {
                client_id: self.client_id.clone(),
                will: Some((self.topics.state(&self.name), r#"{"online":false}"#.into())),
                expiry_s: 0,
                clean_start: true,
            };
            let reason = match self.access.options(session).await {
                Ok(options) => self.connect(options).await,
                Err(error) => format!("{error:#}"),
            };
            if self.say.send(Heard::Lost(reason)).await.is_err() {
                return;
            }
            sleep(RETRY_AFTER / 4).await;
        }
    }

    /// One connection, until it ends; gives the reason.
    async fn connect(&self, options: MqttOptions) -> String {
        // A new event loop each time: an old one carries packets of the dead connection over.
        let (client, mut eventloop) = AsyncClient::new(options, REQUESTS_QUEUED_MAX);
        let wanted = [self.topics.answer(&self.name), self.topics.statuses(&self.name), self.topics.gateway()];
        let filters = wanted.into_iter().map(|topic| Filter::new(topic, QoS::AtLeastOnce));
        let state = client.try_publish(self.topics.state(&self.name), QoS::AtLeastOnce, true, r#"{"online":true}"#);
        if client.try_subscribe_many(filters).is_err() || state.is_err() {
            return "the subscription was not taken".into();
        }
        loop {
            let said = match eventloop.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => self.say.send(Heard::Connected(client.clone())).await,
                Ok(Event::Incoming(Packet::Publish(publish))) => self.say.send(Heard::Message(publish)).await,
                Ok(Event::Incoming(_) | Event::Outgoing(_)) => Ok(()),
                Err(error) => return error.to_string(),
            };
            if said.is_err() {
                return "the terminal ended".into();
            }
        }
    }
}

/// The logic's side.
struct Till {
    topics: Topics,
    name: Name,
    client: Option<AsyncClient>,
    ends: Ends,
    in_flight: Option<InFlight>,
    /// The gateway's start that was heard of last.
    boot: Option<String>,
}

struct InFlight {
    order: Order,
    /// It was on its way at least once.
    sent: bool,
    since: Instant,
    submit_at: Instant,
}

/// Nobody listens to this terminal any more.
struct Unheard;

impl Till {
    async fn run(mut self, mut heard: mpsc::Receiver<Heard>) {
        let mut more = true;
        loop {
            let done = tokio::select! {
                order = self.ends.orders.recv(), if more && self.in_flight.is_none() => match order {
                    Some(order) => self.take(order).await,
                    None => {
                        more = false;
                        Ok(())
                    }
                },
                heard = heard.recv() => match heard {
                    Some(Heard::Connected(client)) => {
                        self.client = Some(client);
                        self.submit_again().await
                    }
                    Some(Heard::Lost(reason)) => {
                        self.client = None;
                        self.tell(TerminalEvent::Trouble { reason }).await
                    }
                    Some(Heard::Message(publish)) => self.hear(&publish).await,
                    None => return,
                },
                () = due(self.in_flight.as_ref()) => self.submit_again().await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, order: Order) -> Result<(), Unheard> {
        let now = Instant::now();
        let request_id = order.request_id.clone();
        let sent = self.publish(&order);
        self.in_flight = Some(InFlight { order, sent, since: now, submit_at: now + ANSWER_TIMEOUT });
        self.tell(TerminalEvent::Submitted { request_id }).await
    }

    async fn submit_again(&mut self) -> Result<(), Unheard> {
        let Some(mut in_flight) = self.in_flight.take() else { return Ok(()) };
        let request_id = in_flight.order.request_id.clone();
        let is_repeat = in_flight.sent;
        in_flight.sent |= self.publish(&in_flight.order);
        in_flight.submit_at = Instant::now() + ANSWER_TIMEOUT;
        self.in_flight = Some(in_flight);
        if is_repeat { self.tell(TerminalEvent::Resubmitted { request_id }).await } else { Ok(()) }
    }

    /// What is not taken now is submitted after the next connect, or at the time-out.
    fn publish(&self, order: &Order) -> bool {
        let topic = self.topics.submit(&self.name);
        self.client.as_ref().is_some_and(|client| client.try_publish(topic, QoS::AtLeastOnce, false, order.request()).is_ok())
    }

    async fn hear(&mut self, publish: &Publish) -> Result<(), Unheard> {
        match self.topics.read(&publish.topic) {
            Channel::Answer(_) => match Reply::read(&publish.payload) {
                Some((request_id, reply)) => self.hear_answer(request_id, reply).await,
                None => Ok(()),
            },
            Channel::Status(Some((_, order))) => {
                let status = serde_json::from_slice::<Value>(&publish.payload).ok();
                match status.as_ref().and_then(|s| s.get("status")?.as_str()) {
                    Some(status) => self.tell(TerminalEvent::Status { order_id: order.to_string(), status: status.into() }).await,
                    // Empty: the order has ended, and its last status came before.
                    None => Ok(()),
                }
            }
            Channel::Gateway => self.hear_gateway(publish).await,
            Channel::Status(None) | Channel::Submit(_) | Channel::State(_) | Channel::Unknown => Ok(()),
        }
    }

    async fn hear_answer(&mut self, request_id: RequestId, reply: Reply) -> Result<(), Unheard> {
        let Some(mut in_flight) = self.in_flight.take_if(|f| f.order.request_id == request_id) else {
            return self.tell(TerminalEvent::AnsweredAgain { request_id, reply }).await;
        };
        if let Some(after) = reply.submit_again_after() {
            in_flight.submit_at = Instant::now() + after;
            self.in_flight = Some(in_flight);
            return Ok(());
        }
        self.tell(TerminalEvent::Answered { request_id, reply, latency: in_flight.since.elapsed() }).await
    }

    /// What a gateway had read and not stored is gone after its new start, and what came before it was back at the broker nobody
    /// heard: so the order goes out again as soon as it says that it is there.
    async fn hear_gateway(&mut self, publish: &Publish) -> Result<(), Unheard> {
        let Ok(state) = serde_json::from_slice::<Value>(&publish.payload) else { return Ok(()) };
        if state.get("online").and_then(Value::as_bool) != Some(true) {
            return Ok(());
        }
        let boot = state.get("boot").and_then(Value::as_str).map(str::to_owned);
        let is_news = !publish.retain || (self.boot.is_some() && self.boot != boot);
        self.boot = boot;
        if is_news { self.submit_again().await } else { Ok(()) }
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
