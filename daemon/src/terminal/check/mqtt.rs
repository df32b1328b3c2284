//! The line of a terminal that speaks MQTT: this is the gateway at the house's broker.

use super::requests::{Line, Say, Submit, read};
use super::rules::Kind;
use crate::ingress::mqtt::{Access, Channel, Session, Topics};
use anyhow::Context;
use gateway::ids::Name;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, RetainForwardRule};
use rumqttc::v5::{AsyncClient, Event};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const QUEUED_MAX: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Connects as the gateway of that id. The connection is not made anew: a broker that ends it ends the check.
///
/// # Errors
/// The broker is not there, or takes no gateway of this login.
pub async fn open(access: &Access, gateway: &Name) -> anyhow::Result<Line> {
    let topics = Topics::new(gateway);
    let offline = Some((topics.gateway(), "{\"online\":false}".to_owned()));
    let session = Session { client_id: format!("check-{gateway}"), will: offline, expiry_s: 0, clean_start: true };
    let (client, mut events) = AsyncClient::new(access.options(session).await?, QUEUED_MAX);
    // A live message then says whether it was sent to be retained.
    let filter =
        Filter { preserve_retain: true, retain_forward_rule: RetainForwardRule::Never, ..Filter::new(topics.submits(), QoS::AtLeastOnce) };
    client.try_subscribe_many([filter])?;
    let connected = async {
        loop {
            if let Event::Incoming(Packet::SubAck(_)) = events.poll().await? {
                return Ok::<_, rumqttc::v5::ConnectionError>(());
            }
        }
    };
    timeout(CONNECT_WITHIN, connected).await.context("the broker does not answer")?.context("the broker refused")?;
    let (submit, heard) = mpsc::channel(QUEUED_MAX);
    let (say, mut said) = mpsc::channel::<Say>(QUEUED_MAX);
    tokio::spawn(async move {
        let mut starts = 0;
        let mut to: Option<Name> = None;
        drop(online(&client, &topics, starts));
        loop {
            let done = tokio::select! {
                event = events.poll() => match event {
                    Ok(Event::Incoming(Packet::Publish(publish))) => pass_on(&topics, &publish, &mut to, &submit).await,
                    Ok(_) => Some(()),
                    Err(error) => {
                        tracing::error!(%error, "the broker hung up");
                        return;
                    }
                },
                say = said.recv() => match say {
                    None => return,
                    Some(Say::Text(text)) => {
                        if let Some(to) = &to {
                            drop(client.try_publish(topics.answer(to), QoS::AtLeastOnce, false, text));
                        }
                        Some(())
                    }
                    Some(Say::Online(true)) => {
                        starts += 1;
                        drop(online(&client, &topics, starts));
                        Some(())
                    }
                    Some(Say::Online(false)) => {
                        drop(client.try_publish(topics.gateway(), QoS::AtLeastOnce, true, "{\"online\":false}"));
                        Some(())
                    }
                },
            };
            if done.is_none() {
                return;
            }
        }
    });
    Ok(Line { kind: Kind::Mqtt, each: &["R1", "M1", "M2"], heard, say })
}

fn online(client: &AsyncClient, topics: &Topics, starts: u64) -> Result<(), Box<rumqttc::v5::ClientError>> {
    let text = format!("{{\"online\":true,\"accepting\":true,\"maxBytes\":16384,\"boot\":\"check-{}-{starts}\"}}", std::process::id());
    Ok(client.try_publish(topics.gateway(), QoS::AtLeastOnce, true, text)?)
}

async fn pass_on(topics: &Topics, publish: &Publish, to: &mut Option<Name>, submit: &mpsc::Sender<Submit>) -> Option<()> {
    let Channel::Submit(name) = topics.read(&publish.topic) else { return Some(()) };
    *to = Some(name);
    let mut heard = read(&publish.payload, None);
    if publish.retain {
        heard.faults.push(("M1", format!("{} was sent with the retain flag", heard.id)));
    }
    if publish.qos != QoS::AtLeastOnce {
        heard.faults.push(("M2", format!("{} was sent with {:?}", heard.id, publish.qos)));
    }
    submit.send(heard).await.ok()
}
