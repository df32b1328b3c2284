//! mosquitto alone: answers of the gateway's shape to whatever is submitted.

use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

/// Submissions that wait for their answer, and packets that wait for the connection.
const QUEUED_MAX: usize = 1024;
/// Larger than the broker's limit, which is 80 KiB.
const PACKET_BYTES_MAX: u32 = 128 * 1024;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(rename = "requestId")]
    id: &'a str,
}

/// Answers for ever.
pub async fn run(port: u16, gateway: &str) -> anyhow::Result<()> {
    let mut options = MqttOptions::new(format!("echo-{gateway}"), "127.0.0.1", port);
    options.set_max_packet_size(Some(PACKET_BYTES_MAX)).set_network_options({
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network
    });
    let (client, mut connection) = AsyncClient::new(options, QUEUED_MAX);
    client.subscribe_many([Filter::new(format!("ord/v1/{gateway}/t/+/submit"), QoS::AtLeastOnce)]).await?;
    let (submits, mut submitted) = mpsc::channel(QUEUED_MAX);
    let answer = async {
        let mut seq = 0_u64;
        while let Some((topic, payload)) = submitted.recv().await {
            seq += 1;
            client.publish(answer_topic(topic)?, QoS::AtLeastOnce, false, answer(payload, seq)?).await?;
        }
        anyhow::Ok(())
    };
    let listen = async {
        loop {
            match connection.poll().await? {
                Event::Incoming(Packet::SubAck(_)) => println!("ready"),
                Event::Incoming(Packet::Publish(publish)) => submits.send((publish.topic, publish.payload)).await?,
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    };
    tokio::select! {
        ended = answer => ended,
        ended = listen => ended,
    }
}

fn answer_topic(submit: impl AsRef<[u8]>) -> anyhow::Result<String> {
    let topic = std::str::from_utf8(submit.as_ref())?;
    Ok(format!("{}answer", topic.strip_suffix("submit").unwrap_or(topic)))
}

fn answer(request: impl AsRef<[u8]>, seq: u64) -> anyhow::Result<String> {
    let Request { id } = serde_json::from_slice(request.as_ref())?;
    let uuid = format!("0192a1b2-0000-7000-8000-{seq:012}");
    Ok(json!({
        "requestId": id, "result": "stored", "duplicate": false, "orderId": uuid, "eventId": uuid, "ticket": seq % 999 + 1, "seq": seq,
    })
    .to_string())
}
