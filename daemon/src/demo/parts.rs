//! What a house and a chain have around a gateway, inside this process: an MQTT broker, a Kafka, a serial line.

use anyhow::Context;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

/// Partitions of `order-events`, as the default kind of centre has them.
const EVENT_PARTITIONS: i32 = 3;

/// How soon a serial line notices that somebody opened its other end.
const LINE_POLL: Duration = Duration::from_millis(20);

/// A port that was free a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// librdkafka's mock cluster: one broker that can be cut off.
pub struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Kafka {
    /// Starts it, with the demo's topics.
    pub fn start() -> anyhow::Result<Kafka> {
        let cluster = MockCluster::new(1).context("the mock cluster does not start")?;
        for (topic, partitions) in [("order-events", EVENT_PARTITIONS), ("order-events-dlq", 1), ("order-status", 2), ("gateway-status", 1)]
        {
            cluster.create_topic(topic, partitions, 1)?;
        }
        Ok(Kafka { cluster })
    }

    /// Where it listens.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Cuts the line: connections break, new ones are refused.
    pub fn cut(&self) -> anyhow::Result<()> {
        self.cluster.broker_down(1).context("the mock broker does not go down")
    }

    /// Mends the line.
    pub fn mend(&self) -> anyhow::Result<()> {
        self.cluster.broker_up(1).context("the mock broker does not come up")
    }
}

/// Starts rumqttd on a free port of loopback. It ends with the process.
pub fn start_mqtt_broker() -> anyhow::Result<SocketAddr> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 64 * 1024,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings { name: "demo-mqtt".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    let router = RouterConfig {
        max_connections: 64,
        max_outgoing_packet_count: 200,
        max_segment_size: 1024 * 1024,
        max_segment_count: 8,
        custom_segment: None,
        initialized_filters: None,
        shared_subscriptions_strategy: rumqttd::Strategy::default(),
    };
    let config = Config {
        id: 0,
        router,
        v4: None,
        v5: Some(HashMap::from([("demo".to_owned(), server)])),
        ws: None,
        cluster: None,
        console: None,
        bridge: None,
        prometheus: None,
        metrics: None,
    };
    let mut broker = Broker::new(config);
    std::thread::Builder::new().name("demo-mqtt-broker".into()).spawn(move || {
        if let Err(error) = broker.start() {
            tracing::error!(%error, "the demo's MQTT broker ended");
        }
    })?;
    Ok(listen)
}

/// The two ends of a serial line, as devices to open.
pub struct SerialLine {
    /// The till's end.
    pub till: PathBuf,
    /// The gateway's end.
    pub gateway: PathBuf,
}

/// Makes a serial line out of two pseudo-terminals and two threads that carry bytes between them. Nobody holds a device open but who
/// uses it: a gateway that is killed leaves a free port behind.
pub fn serial_line() -> anyhow::Result<SerialLine> {
    let ((till_side, till), (gateway_side, gateway)) = (pseudo_terminal()?, pseudo_terminal()?);
    for (name, from, to) in [("demo-serial-up", &till_side, &gateway_side), ("demo-serial-down", &gateway_side, &till_side)] {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        std::thread::Builder::new().name(name.into()).spawn(move || carry(from, to))?;
    }
    Ok(SerialLine { till, gateway })
}

fn pseudo_terminal() -> anyhow::Result<(File, PathBuf)> {
    let side = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("no pseudo-terminal is to be had")?;
    grantpt(&side)?;
    unlockpt(&side)?;
    // Until somebody opens the other side, a cooked terminal would echo what the till says back to it.
    let mut modes = tcgetattr(&side)?;
    modes.make_raw();
    tcsetattr(&side, OptionalActions::Now, &modes)?;
    let name = ptsname(&side, Vec::new())?.into_string().context("the pseudo-terminal's name is not UTF-8")?;
    Ok((File::from(side), PathBuf::from(name)))
}

/// Carries bytes until the process ends. A side that nobody has open gives an error, and works again later.
fn carry(mut from: File, mut to: File) {
    let mut bytes = [0; 512];
    loop {
        match from.read(&mut bytes) {
            Ok(len) if len > 0 => drop(to.write_all(&bytes[..len])),
            Ok(_) | Err(_) => std::thread::sleep(LINE_POLL),
        }
    }
}
