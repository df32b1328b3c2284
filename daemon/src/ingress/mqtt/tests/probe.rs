//! A terminal or a bystander at the broker, and a line to the broker that can be cut.

use super::rig::DEADLINE;
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A client of the broker.
pub struct Probe {
    pub client: AsyncClient,
    heard: mpsc::UnboundedReceiver<Packet>,
    /// Heard while waiting for something else.
    kept: VecDeque<Packet>,
    task: JoinHandle<()>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probe {
    /// Connects, however long the broker takes to start, and subscribes.
    pub async fn connect(port: u16, id: &str, filters: &[&str]) -> Probe {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network).set_max_packet_size(Some(1 << 20));
        let (client, mut eventloop) = AsyncClient::new(options, 1_000);
        let (say, heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(packet)) => {
                        if say.send(packet).is_err() {
                            return;
                        }
                    }
                    Ok(Event::Outgoing(_)) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let mut probe = Probe { client, heard, kept: VecDeque::new(), task };
        probe.packet("a connection", |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
        for filter in filters {
            probe.subscribe(filter).await;
        }
        probe
    }

    pub async fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        // Retained messages may come before the acknowledgement.
        let mut early = VecDeque::new();
        loop {
            match self.next().await {
                Packet::SubAck(_) => break,
                other => early.push_back(other),
            }
        }
        self.kept.extend(early);
    }

    async fn next(&mut self) -> Packet {
        match self.kept.pop_front() {
            Some(packet) => packet,
            None => self.heard.recv().await.expect("the client lives"),
        }
    }

    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>, retain: bool) {
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload.into()).await.unwrap();
    }

    async fn packet<T>(&mut self, what: &str, mut wanted: impl FnMut(&Packet) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(&self.next().await) {
                    return found;
                }
            }
        };
        tokio::time::timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    /// The next message on a topic; others before it are passed over.
    pub async fn message(&mut self, topic: &str) -> Publish {
        let on_topic = |packet: &Packet| match packet {
            Packet::Publish(publish) if publish.topic == topic.as_bytes() => Some(publish.clone()),
            _ => None,
        };
        self.packet(&format!("a message on {topic}"), on_topic).await
    }

    /// The next JSON on a topic.
    pub async fn json(&mut self, topic: &str) -> Value {
        let message = self.message(topic).await;
        serde_json::from_slice(&message.payload).unwrap_or_else(|e| panic!("{topic}: {e}: {:?}", message.payload))
    }

    /// Skips to the first message on a topic whose JSON fits.
    pub async fn json_with(&mut self, topic: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.message(topic).await;
            if let Ok(json) = serde_json::from_slice(&message.payload)
                && fits(&json)
            {
                return json;
            }
        }
    }

    /// The next answer to any terminal.
    pub async fn any_answer(&mut self) -> Value {
        let answer = |packet: &Packet| match packet {
            Packet::Publish(publish) if publish.topic.ends_with(b"/answer") => serde_json::from_slice(&publish.payload).ok(),
            _ => None,
        };
        self.packet("an answer", answer).await
    }

    /// The answer to one request, however many others come first.
    pub async fn answer(&mut self, terminal: &str, request: &str) -> Value {
        self.json_with(&format!("ord/v1/store-042/t/{terminal}/answer"), |answer| answer["requestId"] == request).await
    }
}

/// A TCP relay in front of the broker: it can cut every connection, refuse new ones, and lead to another broker.
pub struct Line {
    pub port: u16,
    upstream: watch::Sender<Option<u16>>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    pub async fn to(upstream: u16) -> Line {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (upstream, watched) = watch::channel(Some(upstream));
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(relay(near, watched.clone()));
            }
        });
        Line { port, upstream, task }
    }

    /// Ends every connection and takes no new one.
    pub fn cut(&self) {
        self.upstream.send_replace(None);
    }

    pub fn lead_to(&self, upstream: u16) {
        self.upstream.send_replace(Some(upstream));
    }
}

async fn relay(mut near: TcpStream, mut upstream: watch::Receiver<Option<u16>>) {
    let Some(port) = *upstream.borrow_and_update() else { return };
    let Ok(mut far) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await else { return };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = upstream.changed() => {}
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
