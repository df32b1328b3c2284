//! Against a real mosquitto. `tests/real/mqtt.py` runs these: they need Debian's packages mosquitto and openssl.

use super::probe::{Probe, free_port};
use super::rig::{DEADLINE, Ingress, Mood, Rig, access, eventually, order, request};
use crate::ingress::mqtt::Access;
use crate::terminal::load::{Options, Target, run};
use gateway::board::Board;
use gateway::order::Status;
use std::fmt::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Where Debian puts it; it is on no ordinary user's path.
const PROGRAM: &str = "/usr/sbin/mosquitto";
const GATEWAY: &str = "ord/v1/store-042/gateway";

/// A broker of a test's own.
struct Mosquitto {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Mosquitto {
    /// With the settings that the project ships (`systemd/`), and these besides.
    fn start(more: &str) -> Mosquitto {
        Mosquitto::start_in(tempfile::tempdir().unwrap(), free_port(), more)
    }

    fn start_in(folder: tempfile::TempDir, port: u16, more: &str) -> Mosquitto {
        let mut config = format!(
            "listener {port} 127.0.0.1\nset_tcp_nodelay true\nmax_queued_bytes 67108864\nuser {}\nlog_type error\nlog_type warning\n",
            std::env::var("USER").unwrap_or("root".into()),
        );
        if !more.contains("allow_anonymous") {
            config += "allow_anonymous true\n";
        }
        if !more.contains("max_queued_messages") {
            config += "max_queued_messages 1000000\n";
        }
        config += more;
        std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
        let child = Mosquitto::spawn(folder.path());
        Mosquitto { folder, port, child }
    }

    fn spawn(folder: &Path) -> Child {
        let mut command = Command::new(PROGRAM);
        command.arg("-c").arg(folder.join("mosquitto.conf")).stdin(Stdio::null());
        command.spawn().unwrap_or_else(|e| panic!("{PROGRAM}: {e}: install Debian's package mosquitto"))
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// As after a power cut: a new process at the same port that knows nothing of before.
    fn start_anew(&mut self) {
        self.child = Mosquitto::spawn(self.folder.path());
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

fn load(access: Access, terminals: usize, count: u64) -> Options {
    let target = Target::Mqtt { access, gateway: "store-042".parse().unwrap() };
    Options { target, name: "till".parse().unwrap(), terminals, count, rate: None, patience: DEADLINE, quiet: true }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn answers_come_within_a_sync_and_a_little_more() {
    const SYNC: Duration = Duration::from_millis(1);
    let (broker, rig) = (Mosquitto::start(""), Rig::new(Mood::Syncing(SYNC)));
    let ingress = Ingress::start(&rig, access(&broker.url()));
    eventually("it serves", || ingress.figures.connected.load(Relaxed)).await;
    let one = run(load(access(&broker.url()), 1, 500)).await.unwrap();
    println!("1 terminal, {SYNC:?} a sync:\n{one}");
    assert!(one.is_clean(), "{one}");
    // 44 ms are what one side's Nagle costs; the noise of a shared machine is less.
    assert!(one.answer_ms.p50 < 20.0, "{one}");
    let many = run(load(access(&broker.url()), 64, 20_000)).await.unwrap();
    println!("64 terminals, {SYNC:?} a sync:\n{many}");
    assert!(many.is_clean(), "{many}");
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn a_message_larger_than_any_request_passes_by_and_what_is_behind_it_is_answered() {
    let (broker, rig) = (Mosquitto::start(""), Rig::new(Mood::Prompt));
    let mut till = Probe::connect(broker.port, "till-1", &["ord/v1/store-042/t/till-1/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&broker.url()));
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    for bytes in [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 500_000] {
        till.publish("ord/v1/store-042/t/till-1/submit", vec![b'x'; bytes], false).await;
    }
    till.publish("ord/v1/store-042/t/till-1/submit", vec![b'x'; 60_000], false).await;
    assert_eq!(till.json("ord/v1/store-042/t/till-1/answer").await["code"], "too_large");
    till.publish("ord/v1/store-042/t/till-1/submit", request("r-1"), false).await;
    assert_eq!(till.answer("till-1", "r-1").await["result"], "stored");
    assert_eq!(ingress.figures.connections.load(Relaxed), 1, "the connection was never lost");
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn a_retained_submit_is_refused_while_the_gateway_listens_and_cleared() {
    let (broker, rig) = (Mosquitto::start(""), Rig::new(Mood::Prompt));
    let submit = "ord/v1/store-042/t/till-1/submit";
    let mut till = Probe::connect(broker.port, "till-1", &["ord/v1/store-042/t/till-1/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&broker.url()));
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    let mut witness = Probe::connect(broker.port, "witness", &[submit]).await;
    till.publish(submit, request("r-1"), true).await;
    assert_eq!(till.answer("till-1", "r-1").await["code"], "invalid");
    assert!(!witness.message(submit).await.payload.is_empty());
    assert!(witness.message(submit).await.payload.is_empty(), "it is cleared");
    assert_eq!(rig.submissions(), 0);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn what_was_submitted_while_the_gateway_was_away_is_answered_when_it_is_back() {
    let (broker, rig) = (Mosquitto::start(""), Rig::new(Mood::Prompt));
    let mut till = Probe::connect(broker.port, "till-1", &["ord/v1/store-042/t/till-1/answer", GATEWAY]).await;
    let ingress = Ingress::start(&rig, access(&broker.url()));
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    ingress.kill();
    till.json_with(GATEWAY, |state| state["online"] == false).await;
    till.publish("ord/v1/store-042/t/till-1/submit", request("r-1"), false).await;
    let ingress = Ingress::start(&rig, access(&broker.url()));
    assert_eq!(till.answer("till-1", "r-1").await["result"], "stored");
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn a_killed_broker_costs_time_and_nothing_else() {
    let (mut broker, rig) = (Mosquitto::start(""), Rig::new(Mood::Syncing(Duration::from_millis(1))));
    let ingress = Ingress::start(&rig, access(&broker.url()));
    eventually("it serves", || ingress.figures.connected.load(Relaxed)).await;
    let driving = tokio::spawn(run(load(access(&broker.url()), 16, 20_000)));
    for kills in 1..=3 {
        let before = rig.submissions();
        eventually("orders flow", || rig.submissions() > before + 500).await;
        broker.kill();
        eventually("the ingress notices", || !ingress.figures.connected.load(Relaxed)).await;
        broker.start_anew();
        eventually("it serves again", || ingress.figures.connections.load(Relaxed) > kills).await;
    }
    let report = driving.await.unwrap().unwrap();
    println!("16 terminals, the broker killed three times:\n{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(rig.seen.lock().unwrap().stored.len(), 20_000);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn a_flood_is_answered_busy_and_nothing_is_lost() {
    let (broker, rig) = (Mosquitto::start(""), Rig::new(Mood::Stuck));
    let ingress = Ingress::start(&rig, access(&broker.url()));
    let mut till = Probe::connect(broker.port, "flood", &["ord/v1/store-042/t/+/answer", GATEWAY]).await;
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    // 100 terminals, 40 requests each: more than one terminal's and more than all terminals' share.
    for n in 0..4_000 {
        till.publish(&format!("ord/v1/store-042/t/till-{}/submit", n % 100), request(&format!("r-{n}")), false).await;
    }
    let (mut busy, mut stored) = (0, 0);
    eventually("the flood has come in", || rig.submissions() == super::super::intake::SUBMITS_IN_FLIGHT_MAX).await;
    rig.mood.send_replace(Mood::Prompt);
    while busy + stored + ingress.figures.answers_dropped.load(Relaxed) < 4_000 {
        match till.any_answer().await["result"].as_str().unwrap() {
            "stored" => stored += 1,
            _ => busy += 1,
        }
    }
    println!("of 4,000: {stored} stored, {busy} busy, {} unanswered", ingress.figures.answers_dropped.load(Relaxed));
    assert!(stored >= 512 && busy > 0, "{stored} stored, {busy} busy");
    assert_eq!(rig.seen.lock().unwrap().stored.len() as u64, stored);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn a_broker_that_takes_only_small_messages_gets_a_shorter_board() {
    let (broker, rig) = (Mosquitto::start("max_packet_size 4096\n"), Rig::new(Mood::Prompt));
    let orders: Vec<_> = (0..200).map(|n| order(&format!("order-{n:03}-{}", "x".repeat(60)), None, Status::Preparing)).collect();
    rig.board.send_replace(Arc::new(Board::of(orders.iter())));
    let mut display = Probe::connect(broker.port, "display", &["ord/v1/store-042/board"]).await;
    let ingress = Ingress::start(&rig, access(&broker.url()));
    let board = display.json("ord/v1/store-042/board").await;
    let shown = board["preparing"].as_array().unwrap();
    assert!((10..60).contains(&shown.len()), "{} orders", shown.len());
    assert!(shown.last().unwrap()["orderId"].as_str().unwrap().starts_with("order-199"), "the newest are kept");
    assert_eq!(ingress.figures.connections.load(Relaxed), 1);
    ingress.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn a_wrong_password_is_refused_and_the_right_one_over_tls_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (ca, key) in [("ca.pem", "key.pem"), ("other.pem", "other-key.pem")] {
        let status = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", &path(key), "-out", &path(ca)])
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }
    let mut users = String::new();
    writeln!(users, "gateway:hunter2").unwrap();
    std::fs::write(folder.path().join("users"), users).unwrap();
    let hashed = Command::new("mosquitto_passwd").args(["-U", &path("users")]).status().expect("Debian's package mosquitto");
    assert!(hashed.success());
    let config =
        format!("allow_anonymous false\npassword_file {}\ncertfile {}\nkeyfile {}\n", path("users"), path("ca.pem"), path("key.pem"));
    let broker = Mosquitto::start(&config);
    let secret = |text: &str| {
        let file = folder.path().join("password");
        std::fs::write(&file, text).unwrap();
        Some(("gateway".to_owned(), Some(crate::config::Secret::read(&file).unwrap())))
    };
    let with = |password: &str, ca: &str| Access {
        url: format!("mqtts://localhost:{}", broker.port).parse().unwrap(),
        login: secret(password),
        ca_file: Some(folder.path().join(ca)),
    };
    let rig = Rig::new(Mood::Prompt);
    let wrong_password = Ingress::start(&rig, with("hunter1", "ca.pem"));
    let wrong_authority = Ingress::start(&rig, with("hunter2", "other.pem"));
    let right = Ingress::start(&rig, with("hunter2", "ca.pem"));
    eventually("the right one serves", || right.figures.connected.load(Relaxed)).await;
    let report = run(load(with("hunter2", "ca.pem"), 4, 200)).await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(wrong_password.figures.connections.load(Relaxed), 0);
    assert_eq!(wrong_authority.figures.connections.load(Relaxed), 0);
    for ingress in [wrong_password, wrong_authority, right] {
        ingress.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn an_access_list_that_shuts_the_gateway_out_is_counted() {
    // Without a limit on messages mosquitto 2.0.11 hangs up behind the PUBACK that says no, which may get lost then.
    for limit in ["max_queued_messages 0\n", "max_queued_messages 1000000\n"] {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("acl");
        std::fs::write(&list, "topic readwrite ord/v1/another/#\n").unwrap();
        let (broker, rig) = (Mosquitto::start(&format!("acl_file {}\n{limit}", list.display())), Rig::new(Mood::Prompt));
        let ingress = Ingress::start(&rig, access(&broker.url()));
        // mosquitto 2.0 grants a subscription that the list denies, and delivers nothing: only what it refuses of ours shows it.
        eventually("the refusal shows", || ingress.figures.publishes_refused.load(Relaxed) > 0).await;
        assert!(ingress.figures.refusing.load(Relaxed));
        ingress.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs mosquitto: run by tests/real/mqtt.py"]
async fn a_refused_answer_costs_the_others_nothing_and_is_given_once_the_access_list_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("acl");
    let house =
        "topic readwrite ord/v1/store-042/gateway\ntopic readwrite ord/v1/store-042/board\ntopic readwrite ord/v1/store-042/t/+/submit\n";
    let statuses = "topic readwrite ord/v1/store-042/t/+/status/#\n";
    let good = "topic readwrite ord/v1/store-042/t/good/answer\n";
    std::fs::write(&list, format!("{house}{statuses}{good}")).unwrap();
    let mut broker = Mosquitto::start(&format!("acl_file {}\nmax_queued_messages 0\n", list.display()));
    let rig = Rig::new(Mood::Prompt);
    let ingress = Ingress::start(&rig, access(&broker.url()));
    let mut till = Probe::connect(broker.port, "good", &["ord/v1/store-042/t/+/answer", GATEWAY]).await;
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    till.publish("ord/v1/store-042/t/bad/submit", request("r-bad"), false).await;
    eventually("the refusal shows", || ingress.figures.publishes_refused.load(Relaxed) > 0).await;
    till.publish("ord/v1/store-042/t/good/submit", request("r-good"), false).await;
    assert_eq!(till.answer("good", "r-good").await["result"], "stored");

    std::fs::write(&list, "topic readwrite #\n").unwrap();
    broker.kill();
    broker.start_anew();
    let mut till = Probe::connect(broker.port, "bad", &["ord/v1/store-042/t/+/answer", GATEWAY]).await;
    till.json_with(GATEWAY, |state| state["online"] == true).await;
    till.publish("ord/v1/store-042/t/bad/submit", request("r-bad"), false).await;
    let answer = till.answer("bad", "r-bad").await;
    assert!(answer["result"] == "stored" && answer["duplicate"] == true, "{answer}");
    ingress.stop().await;
}
