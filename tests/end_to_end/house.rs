//! A house for tests: a folder, a config, a daemon that can be killed, and a small HTTP client.

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything: far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("loopback has free ports")
}

/// An answer to an HTTP request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// One request on a connection of its own.
pub fn http(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Err(std::io::ErrorKind::UnexpectedEof.into()) };
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let headers: Vec<_> = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let chunked = headers.iter().any(|(n, v)| n.eq_ignore_ascii_case("transfer-encoding") && v == "chunked");
    let body = if chunked { dechunk(body) } else { body.to_owned() };
    Ok(Answer { status, headers, body })
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        body.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    body
}

/// An order of the default kind.
pub fn order(id: &str) -> Value {
    json!({
        "orderId": id, "userId": "user-456", "restaurantId": "restaurant-789",
        "orderDetails": [{"foodId": "food-001", "foodName": "Pizza Margherita", "price": 12.5, "quantity": 2, "discount": 0}],
        "totalPrice": 25.5
    })
}

/// A folder with a config, and the daemon that runs on it.
pub struct House {
    pub folder: tempfile::TempDir,
    pub http: SocketAddr,
    child: Option<Child>,
}

impl House {
    /// Writes the config: `more` follows the sections that every house has.
    pub fn new(more: &str) -> House {
        // On the disk that the build is on: /tmp may be memory, where no sync means anything and the daemon does not start.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        let http = free_address();
        let house = House { folder, http, child: None };
        house.configure(more);
        house
    }

    pub fn configure(&self, more: &str) {
        let data = self.data_dir();
        let text = format!(
            "[gateway]\nid = \"store-042\"\n[store]\ndata_dir = {data:?}\nmin_free = \"16 MiB\"\n[http]\nlisten = \"{}\"\n{more}",
            self.http
        );
        std::fs::write(self.config(), text).expect("the temporary folder is writable");
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("dumbwaiter.toml")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn();
        wait_for("the daemon to be ready", || {
            let ended = self.child.as_mut().and_then(|c| c.try_wait().expect("a child can be asked"));
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log());
            http(self.http, "GET", "/ready", &[], b"").ok().filter(|a| a.status == 200)
        });
    }

    /// Starts the daemon.
    pub fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_dumbwaiter"))
            .args(["run", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle"))
            .stderr(log)
            .spawn()
            .expect("the daemon's binary starts");
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// SIGTERM; it has to end well.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
        let status = wait_for("the daemon to end", || child.try_wait().expect("our own child"));
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// SIGHUP, as `systemctl reload` sends it.
    pub fn reload(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("our own child");
    }

    pub fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key), ("X-Terminal", "till-1")];
        http(self.http, "POST", path, &headers, body.to_string().as_bytes()).expect("the daemon answers")
    }

    pub fn get(&self, path: &str) -> Answer {
        http(self.http, "GET", path, &[], b"").expect("the daemon answers")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}

/// Runs a command of the binary to its end.
pub fn dumbwaiter(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dumbwaiter")).args(arguments).stdin(Stdio::null()).output().expect("the binary starts")
}

/// Runs `run` on a config that must not start, and gives what it says.
pub fn refused(config: &Path) -> String {
    let output = dumbwaiter(&["run", "--config", config.to_str().expect("a plain path")]);
    assert!(!output.status.success(), "it started");
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}
