//! The gateway under trial: a process of its own, with a data folder of its own, that is really killed.

use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// A start may take so long before it counts as failed.
const START_MAX: Duration = Duration::from_secs(20);
/// A clean stop may take so long.
const STOP_MAX: Duration = Duration::from_secs(15);

/// The gateway's id.
pub const GATEWAY: &str = "demo-store";

/// Where the gateway finds the rest of the house.
pub struct House {
    /// Its HTTP address.
    pub http: SocketAddr,
    /// The MQTT broker, as HOST:PORT.
    pub mqtt: String,
    /// The serial port.
    pub serial: PathBuf,
    /// Kafka's brokers.
    pub brokers: String,
}

/// The gateway's process.
pub struct Gateway {
    folder: tempfile::TempDir,
    http: SocketAddr,
    child: Option<Child>,
    /// How often it was killed.
    pub kills: u32,
}

impl Gateway {
    /// Writes its config into a temporary folder. [`Gateway::start`] starts it.
    pub fn prepare(house: &House) -> anyhow::Result<Gateway> {
        // On a real disk: /tmp may be memory, where no sync means anything, and the gateway would refuse to start.
        let folder = tempfile::Builder::new().prefix("dumbwaiter-demo-").tempdir_in("/var/tmp")?;
        std::fs::write(folder.path().join("dumbwaiter.toml"), config_text(house, folder.path()))?;
        Ok(Gateway { folder, http: house.http, child: None, kills: 0 })
    }

    /// What it logs.
    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ended, or was not ready in time; its last lines are in the error.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg("--config").arg(self.folder.path().join("dumbwaiter.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let began = Instant::now();
        let child = self.child.insert(command.spawn().context("the gateway does not start")?);
        while began.elapsed() < START_MAX {
            if let Some(status) = child.try_wait()? {
                bail!("the gateway ended at its start ({status}):\n{}", self.last_lines());
            }
            if is_ready(self.http).await {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the gateway was not ready within {START_MAX:?}:\n{}", self.last_lines());
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("the gateway cannot be killed")?;
            self.kills += 1;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("the gateway has ended already")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        match tokio::time::timeout(STOP_MAX, child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
            Ok(status) => bail!("the gateway ended with {status:?}:\n{}", self.last_lines()),
            Err(_) => {
                child.kill().await?;
                bail!("the gateway did not stop within {STOP_MAX:?}:\n{}", self.last_lines());
            }
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

async fn is_ready(http: SocketAddr) -> bool {
    crate::terminal::http::get(http, "/ready").await.is_ok_and(|(status, _)| status == 200)
}

fn config_text(house: &House, folder: &Path) -> String {
    format!(
        r#"[gateway]
id = "{GATEWAY}"
restaurant_ids = ["restaurant-789"]

[store]
data_dir = "{data}"

[http]
listen = "{http}"

[mqtt]
url = "mqtt://{mqtt}"

[[serial]]
terminal = "till-1"
path = "{serial}"
framing = "binary"

[kafka]
brokers = "{brokers}"

[[downlink]]
topic = "order-status"
select = "partition"
"#,
        data = folder.join("data").display(),
        http = house.http,
        mqtt = house.mqtt,
        serial = house.serial.display(),
        brokers = house.brokers,
    )
}
