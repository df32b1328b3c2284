//! Against a broker made by hand, which does what no good broker does.

use super::rig::{DEADLINE, Ingress, Mood, Rig, access, eventually, request};
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PingResp, PubAck, PubAckReason, Publish, PublishProperties, RetainForwardRule, SubAck, Subscribe,
    SubscribeReasonCode,
};
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SUBMIT: &str = "ord/v1/store-042/t/till-1/submit";
const ANSWER: &str = "ord/v1/store-042/t/till-1/answer";

struct Broker {
    listener: TcpListener,
}

/// One connection of the gateway.
struct Link {
    stream: TcpStream,
    buffer: BytesMut,
    clean_start: bool,
    /// The first subscription.
    subscribe: Subscribe,
}

fn bytes(packet: &Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).unwrap();
    bytes.to_vec()
}

fn submit(id: &str, pkid: u16) -> Publish {
    Publish { pkid, ..Publish::new(SUBMIT, QoS::AtLeastOnce, request(id), None) }
}

fn submit_bytes(id: &str, pkid: u16) -> Vec<u8> {
    bytes(&Packet::Publish(submit(id, pkid)))
}

impl Broker {
    async fn start() -> (Broker, Rig, Ingress) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("mqtt://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let rig = Rig::new(Mood::Prompt);
        let ingress = Ingress::start(&rig, access(&url));
        (Broker { listener }, rig, ingress)
    }

    /// Lets the gateway connect and subscribe.
    async fn serve(&self) -> Link {
        let accepted = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            let subscribe = Subscribe { pkid: 0, filters: Vec::new(), properties: None };
            let mut link = Link { stream, buffer: BytesMut::new(), clean_start: false, subscribe };
            let Packet::Connect(connect, ..) = link.next().await else { panic!("no CONNECT") };
            link.clean_start = connect.clean_start;
            let session_present = !connect.clean_start;
            link.send(&Packet::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success, properties: None })).await;
            let Packet::Subscribe(subscribe) = link.next().await else { panic!("no SUBSCRIBE") };
            link.grant(&subscribe).await;
            link.subscribe = subscribe;
            link
        };
        timeout(DEADLINE, accepted).await.expect("the gateway connects")
    }
}

impl Link {
    async fn next(&mut self) -> Packet {
        let read = async {
            loop {
                if let Ok(packet) = Packet::read(&mut self.buffer, None) {
                    return packet;
                }
                assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the gateway hung up");
            }
        };
        timeout(DEADLINE, read).await.expect("the gateway says something")
    }

    async fn send(&mut self, packet: &Packet) {
        self.stream.write_all(&bytes(packet)).await.unwrap();
    }

    async fn grant(&mut self, subscribe: &Subscribe) {
        let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
        self.send(&Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None })).await;
    }

    /// The next publish; whatever else comes before it is granted.
    async fn publish(&mut self) -> Publish {
        let search = async {
            loop {
                match self.next().await {
                    Packet::Publish(publish) => return publish,
                    Packet::Subscribe(subscribe) => self.grant(&subscribe).await,
                    Packet::PingReq(_) => self.send(&Packet::PingResp(PingResp)).await,
                    _ => {}
                }
            }
        };
        timeout(DEADLINE, search).await.expect("the gateway publishes something")
    }

    async fn acknowledge(&mut self, publish: &Publish, reason: PubAckReason) {
        self.send(&Packet::PubAck(PubAck { pkid: publish.pkid, reason, properties: None })).await;
    }

    /// The answer to a request; everything before it is acknowledged.
    async fn answer(&mut self, id: &str) -> serde_json::Value {
        loop {
            let publish = self.publish().await;
            self.acknowledge(&publish, PubAckReason::Success).await;
            if publish.topic == ANSWER.as_bytes() {
                let answer: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
                if answer["requestId"] == id {
                    return answer;
                }
            }
        }
    }

    fn nothing_retained(&self) -> bool {
        self.subscribe.filters.iter().all(|filter| filter.retain_forward_rule == RetainForwardRule::Never)
    }

    /// Says no more, and reads on, so that nothing of what was said is lost.
    async fn hang_up(mut self) {
        self.stream.shutdown().await.unwrap();
        let rest = async { while self.stream.read_buf(&mut self.buffer).await.is_ok_and(|n| n > 0) {} };
        timeout(DEADLINE, rest).await.expect("the gateway goes, too");
    }
}

/// Bytes that no reader of MQTT 5 takes, behind a good header; and one that is just too large.
fn poisons() -> Vec<(&'static str, Vec<u8>)> {
    let mut property = submit_bytes("r-poison", 2);
    let topic = property.windows(SUBMIT.len()).position(|part| part == SUBMIT.as_bytes()).unwrap();
    // Behind the topic and the packet id: a property, of one byte, that there is none.
    property[topic + SUBMIT.len() + 2..][..2].copy_from_slice(&[1, 0x7f]);
    let alias = PublishProperties { topic_alias: Some(9), ..PublishProperties::default() };
    let alias = Publish { pkid: 2, ..Publish::new("", QoS::AtLeastOnce, request("r-poison"), Some(alias)) };
    vec![
        ("a packet that is too large", vec![0x32, 0xff, 0xff, 0x7f]),
        ("an unknown property", property),
        ("an unknown kind of packet", vec![0xf0, 0x02, 0, 0]),
        ("packet id 0", vec![0x32, 0x06, 0, 1, b'a', 0, 0, 0]),
        ("an unknown topic alias", bytes(&Packet::Publish(alias))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_cannot_be_read_is_got_past_and_what_is_around_it_is_served() {
    for (what, poison) in poisons() {
        let (broker, rig, ingress) = Broker::start().await;
        // A session that brings it at each connect, behind a good message.
        let session = [submit_bytes("r-before", 1), poison].concat();
        for sight in 1..=2 {
            let mut link = broker.serve().await;
            assert!(!link.clean_start, "{what}: the session goes on at sight {sight}");
            link.stream.write_all(&session).await.unwrap();
            link.hang_up().await;
        }
        let mut link = broker.serve().await;
        assert!(link.clean_start && !link.nothing_retained(), "{what}");
        link.send(&Packet::Publish(submit("r-behind", 1))).await;
        assert_eq!(link.answer("r-behind").await["result"], "stored", "{what}");
        assert_eq!(ingress.figures.unreadable.load(Relaxed), 2, "{what}");
        assert!(rig.seen.lock().unwrap().stored.contains_key(&("till-1".into(), "r-before".into())), "{what}: it came in the same read");
        ingress.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_that_cannot_be_read_is_got_past() {
    let (broker, _rig, ingress) = Broker::start().await;
    let too_large = [0x33, 0xff, 0xff, 0x7f];
    let mut link = loop {
        let mut link = broker.serve().await;
        if link.nothing_retained() {
            break link;
        }
        link.stream.write_all(&too_large).await.unwrap();
        link.hang_up().await;
    };
    assert!(link.clean_start);
    assert_eq!(ingress.figures.unreadable.load(Relaxed), 3);
    link.send(&Packet::Publish(submit("r-1", 1))).await;
    assert_eq!(link.answer("r-1").await["result"], "stored");
    ingress.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_in_any_way_keeps_the_session() {
    let (broker, _rig, ingress) = Broker::start().await;
    for reset in [true, false, true, true, true] {
        let mut link = broker.serve().await;
        assert!(!link.clean_start);
        link.publish().await;
        if reset {
            link.stream.set_zero_linger().unwrap();
        }
    }
    assert!(!broker.serve().await.clean_start);
    assert_eq!(ingress.figures.unreadable.load(Relaxed), 0);
    ingress.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_comes_with_the_hang_up_is_counted() {
    let (broker, _rig, ingress) = Broker::start().await;
    for refusals in 1..=2 {
        let mut link = broker.serve().await;
        let publish = link.publish().await;
        link.acknowledge(&publish, PubAckReason::NotAuthorized).await;
        link.hang_up().await;
        eventually("it is counted", || ingress.figures.publishes_refused.load(Relaxed) == refusals).await;
    }
    let mut link = broker.serve().await;
    link.publish().await;
    // DISCONNECT, not authorized. rumqttc 0.25.1 reads it only with the length of its properties.
    link.stream.write_all(&[0xe0, 2, 0x87, 0]).await.unwrap();
    link.hang_up().await;
    eventually("it is counted", || ingress.figures.publishes_refused.load(Relaxed) == 3).await;
    assert!(ingress.figures.refusing.load(Relaxed));
    ingress.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_up_on_every_publish_is_counted_and_not_hammered() {
    let (broker, _rig, ingress) = Broker::start().await;
    let since = Instant::now();
    for hang_ups in 1..=5 {
        let mut link = broker.serve().await;
        assert_eq!(ingress.figures.publishes_refused.load(Relaxed), u64::saturating_sub(hang_ups, 3));
        link.publish().await;
        link.hang_up().await;
    }
    // 0.2, 0.4, 0.8, 1.6 s, each shortened by up to a half.
    assert!(since.elapsed() > Duration::from_millis(1_500), "{:?}", since.elapsed());
    ingress.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_broker_hangs_up_on_does_not_hold_the_others_back() {
    let (broker, rig, ingress) = Broker::start().await;
    rig.mood.send_replace(Mood::Stuck);
    let mut link = broker.serve().await;
    link.send(&Packet::Publish(Publish { topic: "ord/v1/store-042/t/bad/submit".into(), ..submit("r-bad", 1) })).await;
    link.send(&Packet::Publish(submit("r-good", 2))).await;
    eventually("both are in flight", || rig.submissions() == 2).await;
    rig.mood.send_replace(Mood::Prompt);
    let mut hung_up = 0;
    let answer = loop {
        let publish = link.publish().await;
        if publish.topic == "ord/v1/store-042/t/bad/answer".as_bytes() {
            hung_up += 1;
            assert!(hung_up < 10, "the refused answer is still tried first");
            link.hang_up().await;
            link = broker.serve().await;
        } else {
            link.acknowledge(&publish, PubAckReason::Success).await;
            if publish.topic == ANSWER.as_bytes() {
                break publish;
            }
        }
    };
    assert!(answer.payload.windows(6).any(|part| part == b"r-good"));
    assert_eq!(ingress.figures.publishes_refused.load(Relaxed), 1);
    ingress.kill();
}

#[tokio::test]
async fn a_broker_that_goes_on_refusing_is_said_once() {
    let lines = super::rig::Lines::default();
    let _guard = lines.capture();
    let (broker, _rig, ingress) = Broker::start().await;
    for _ in 0..4 {
        let mut link = broker.serve().await;
        let publish = link.publish().await;
        link.acknowledge(&publish, PubAckReason::NotAuthorized).await;
        link.hang_up().await;
    }
    broker.serve().await;
    let said = lines.text();
    let times = |what: &str| said.matches(what).count();
    assert_eq!(times("the MQTT broker refuses what the gateway publishes"), 1, "{said}");
    assert_eq!(times("ord/v1/store-042/#"), 1, "{said}");
    assert_eq!(times("no MQTT connection"), 1, "{said}");
    assert!(times("MQTT broker serves") <= 2, "{said}");
    ingress.kill();
}
