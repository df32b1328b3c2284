//! Where the broker is, who we are to it, and the client options that follow.

use crate::config::{self, MqttUrl, Secret};
use anyhow::Context;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest packet that we take and send, in bytes: announced to the broker, which drops larger ones for us.
///
/// rumqttc 0.25.1 fails the connection over a larger packet, and a session would bring the same packet again at every reconnect. Its
/// limit is on what follows the fixed header and so lies above a broker's that keeps to the announced one.
pub const PACKET_BYTES_MAX: u32 = 64 * 1024;
/// QoS 1 messages that the broker may send us before we acknowledged one of them.
pub const RECEIVE_WINDOW: u16 = 256;
/// QoS 1 messages that we send before the broker acknowledged one of them; the broker may allow fewer.
pub const PUBLISH_WINDOW: u16 = 100;
/// How often an idle connection is probed. A dead one is noticed within two of these.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a connection may take to come up, TLS and CONNACK included.
const CONNECT_TIMEOUT_S: u64 = 5;
/// The same and the goodbye, where the connection is only tried.
const TRY_OUT_MAX: Duration = Duration::from_secs(8);

/// Which broker, and who we are to it.
#[derive(Debug, Clone)]
pub struct Access {
    pub url: MqttUrl,
    /// User name and password, if the broker wants them.
    pub login: Option<(String, Option<Secret>)>,
    /// PEM certificates that alone may have signed the broker's. Without: those that the system trusts. Read at every connect, so
    /// that a renewed file needs no restart.
    pub ca_file: Option<PathBuf>,
}

/// What a connection is for, beyond where it goes.
#[derive(Debug, Clone)]
pub struct Session {
    pub client_id: String,
    /// Said by the broker, retained and at QoS 1, when the connection ends without a goodbye.
    pub will: Option<(String, String)>,
    /// How long the broker keeps subscriptions and messages for us after the connection ended; 0 keeps nothing.
    pub expiry_s: u32,
    /// Forget what the broker kept.
    pub clean_start: bool,
}

impl Access {
    /// What the config says.
    pub fn of(mqtt: &config::Mqtt) -> Access {
        Access { url: mqtt.url.clone(), login: mqtt.login.clone(), ca_file: mqtt.ca_file.as_deref().map(Path::to_owned) }
    }

    /// The host as rumqttc wants it.
    ///
    /// # Errors
    /// It is an IPv6 address and TLS is on.
    pub fn host(&self) -> anyhow::Result<String> {
        let MqttUrl { address, tls } = &self.url;
        let is_v6 = address.host.contains(':');
        // rumqttc joins host and port with a colon, and gives the same text to TLS as the name to check.
        anyhow::ensure!(!(*tls && is_v6), "mqtt.url: {}: TLS needs the broker's name or its IPv4 address", self.url);
        Ok(if is_v6 { format!("[{}]", address.host) } else { address.host.clone() })
    }

    /// The options of one connection.
    ///
    /// # Errors
    /// The CA file cannot be read or is no PEM, or as [`Access::host`].
    pub async fn options(&self, session: Session) -> anyhow::Result<MqttOptions> {
        let mut options = MqttOptions::new(session.client_id, self.host()?, self.url.address.port);
        if self.url.tls {
            options.set_transport(Transport::tls_with_config(tls_configuration(self.ca_file.as_deref()).await?));
        }
        if let Some((username, password)) = &self.login {
            options.set_credentials(username, password.as_ref().map_or("", Secret::expose));
        }
        // With Nagle's algorithm on either side an answer waits for a delayed acknowledgement: 44 to 88 ms.
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        if let Some((topic, payload)) = session.will {
            options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true, None));
        }
        options
            .set_network_options(network)
            .set_connection_timeout(CONNECT_TIMEOUT_S)
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_start(session.clean_start)
            .set_session_expiry_interval(Some(session.expiry_s))
            .set_max_packet_size(Some(PACKET_BYTES_MAX))
            .set_receive_maximum(Some(RECEIVE_WINDOW))
            .set_outgoing_inflight_upper_limit(PUBLISH_WINDOW);
        Ok(options)
    }

    /// Whether the broker lets us in, tried on a connection of its own beside the one that serves.
    ///
    /// # Errors
    /// Why not.
    pub async fn try_out(&self, client_id: &str) -> anyhow::Result<()> {
        let session = Session { client_id: format!("{client_id}-reload"), will: None, expiry_s: 0, clean_start: true };
        let (client, mut connection) = AsyncClient::new(self.options(session).await?, 1);
        let accepted = async {
            while !matches!(connection.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
            let _ = client.try_disconnect();
            // The goodbye goes out with the next step, whatever comes of it.
            let _ = connection.poll().await;
            anyhow::Ok(())
        };
        tokio::time::timeout(TRY_OUT_MAX, accepted).await.context("the broker does not answer")?
    }
}

async fn tls_configuration(ca_file: Option<&Path>) -> anyhow::Result<TlsConfiguration> {
    let mut builder = native_tls::TlsConnector::builder();
    if let Some(path) = ca_file {
        let pem = tokio::fs::read(path).await.with_context(|| format!("cannot read {}", path.display()))?;
        let bundle = native_tls::Certificate::stack_from_pem(&pem).with_context(|| format!("{} is no PEM file", path.display()))?;
        anyhow::ensure!(!bundle.is_empty(), "{} holds no certificate", path.display());
        builder.disable_built_in_roots(true);
        for certificate in bundle {
            builder.add_root_certificate(certificate);
        }
    }
    Ok(TlsConfiguration::NativeConnector(builder.build().context("TLS cannot be set up")?))
}
