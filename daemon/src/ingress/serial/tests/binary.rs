use super::rig::{DEADLINE, Ingress, Mood, Rig, Socket, order, until};
use crate::config::Framing;
use crate::ingress::serial::display::{CHANGES_GATHERED_MAX, Display};
use crate::ingress::serial::figures::Figures;
use crate::terminal::serial::{Answered, Ended, Heard, Order, Outcome, Settings, Terminal};
use gateway::board::{Board, Entry};
use gateway::order::Status;
use protocol::{Fragment, Hello, ToGateway, Wants};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_serial::SerialStream;

fn settings() -> Settings {
    Settings { name: "till-1".into(), ..Settings::default() }
}

/// An order whose `userId` names it.
fn body(token: u64, padding: usize) -> String {
    let notes = "x".repeat(padding);
    format!(r#"{{"userId":"{token}","data":{{"orderDetails":[{{"price":1,"notes":"{notes}"}}]}}}}"#)
}

/// A terminal, its orders and what it reported.
struct Till {
    terminal: Terminal,
    orders: mpsc::Receiver<Order>,
    give: Option<mpsc::Sender<Order>>,
    heard: mpsc::Sender<Heard>,
    reports: mpsc::Receiver<Heard>,
}

impl Till {
    fn new(settings: Settings) -> Till {
        let (give, orders) = mpsc::channel(256);
        let (heard, reports) = mpsc::channel(4096);
        Till { terminal: Terminal::new(settings).unwrap(), orders, give: Some(give), heard, reports }
    }

    async fn give(&self, tokens: impl Iterator<Item = u64>, padding: usize) {
        let give = self.give.as_ref().unwrap();
        for token in tokens {
            let padding = padding * usize::try_from(token % 7).unwrap();
            give.send(Order { token, body: body(token, padding) }).await.unwrap();
        }
    }

    fn no_more_orders(&mut self) {
        self.give = None;
    }

    /// Serves lines until all is answered. A pty whose other side is not open yet is a lost line.
    async fn finish<S: AsyncRead + AsyncWrite + Unpin>(&mut self, mut line: S) {
        let finished = async {
            loop {
                match self.terminal.serve(&mut line, &mut self.orders, &self.heard).await.unwrap() {
                    Ended::Finished => return,
                    Ended::Lost(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(DEADLINE, finished).await.expect("all orders are answered in time");
    }

    /// Serves a line for ever; for `select!`.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&mut self, line: &mut S) {
        loop {
            let _ = self.terminal.serve(&mut *line, &mut self.orders, &self.heard).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn answers(&mut self) -> Vec<Answered> {
        let reports = std::iter::from_fn(|| self.reports.try_recv().ok());
        reports.filter_map(|heard| if let Heard::Answered(answered) = heard { Some(answered) } else { None }).collect()
    }
}

/// Each of the orders was answered *stored* once, and is in the store once, under the id that was told.
#[track_caller]
fn assert_stored_once(rig: &Rig, till: &mut Till, tokens: std::ops::Range<u64>) {
    let stored: Vec<Answered> = till.answers().into_iter().filter(|answered| !matches!(answered.outcome, Outcome::Again { .. })).collect();
    let mut told = BTreeMap::new();
    for answered in &stored {
        assert!(matches!(answered.outcome, Outcome::Stored { .. }), "{answered:?}");
        assert_eq!(told.insert(answered.token, answered.request_id.clone()), None, "{answered:?} is the second answer");
    }
    let kept: BTreeMap<u64, String> = rig.seen().stored.iter().map(|((_, id), (user, _))| (user.parse().unwrap(), id.clone())).collect();
    assert_eq!(kept.len(), rig.seen().stored.len(), "an order is stored twice");
    assert_eq!(told, kept);
    assert!(told.keys().copied().eq(tokens));
}

#[tokio::test]
async fn orders_of_every_size_are_stored_in_their_order() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    let mut till = Till::new(settings());
    till.give(0..40, 2_000).await;
    till.no_more_orders();
    till.finish(line).await;
    assert_stored_once(&rig, &mut till, 0..40);
    let numbers: Vec<u64> = rig.seen().submissions.iter().map(|submission| submission.session.unwrap().number).collect();
    assert!(numbers.is_sorted());
    assert!(rig.seen().submissions.iter().all(|submission| !submission.maybe_stored && submission.terminal.as_str() == "till-1"));
    ingress.stop().await;
}

#[tokio::test]
async fn what_was_busy_is_stored_under_another_number() {
    let (rig, socket) = (Rig::new(), Socket::new());
    rig.seen().busy_each = 3;
    let line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    let mut till = Till::new(settings());
    till.give(0..20, 10).await;
    till.no_more_orders();
    till.finish(line).await;
    assert!(rig.seen().submissions.len() > 20);
    assert_stored_once(&rig, &mut till, 0..20);
    ingress.stop().await;
}

#[tokio::test]
async fn a_request_that_is_none_and_one_that_is_too_large_are_rejected() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    let mut till = Till::new(settings());
    let give = till.give.take().unwrap();
    for (token, body) in ["{", "{}", &body(2, 17_000), &body(3, 70_000), ""].into_iter().enumerate() {
        give.send(Order { token: token as u64, body: body.into() }).await.unwrap();
    }
    drop(give);
    till.finish(line).await;
    let codes: Vec<_> = till
        .answers()
        .into_iter()
        .map(|answered| match answered.outcome {
            Outcome::Rejected { code, .. } => code,
            other => panic!("{other:?}"),
        })
        .collect();
    use protocol::Code::{Invalid, TooLarge};
    assert_eq!(codes, [Invalid, Invalid, TooLarge, TooLarge, Invalid]);
    assert!(rig.seen().submissions.is_empty());
    ingress.stop().await;
}

#[tokio::test]
async fn a_cable_that_is_pulled_again_and_again_loses_and_doubles_nothing() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    let mut till = Till::new(settings());
    till.give(0..60, 300).await;
    for pulled_after in [1, 12, 25, 40] {
        let mut line = socket.plug();
        tokio::select! {
            () = till.serve(&mut line) => {}
            () = until(|| rig.seen().stored.len() >= pulled_after) => {}
        }
    }
    till.no_more_orders();
    till.finish(socket.plug()).await;
    assert_stored_once(&rig, &mut till, 0..60);
    assert_eq!(rig.seen().sessions.len(), 1, "the session was resumed each time");
    ingress.stop().await;
}

#[tokio::test]
async fn a_terminal_with_a_state_file_goes_on_after_its_own_restart() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { state_file: Some(folder.path().join("till.json")), ..settings() };
    let mut line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    rig.mood.send_replace(Mood::Stuck);
    let mut first = Till::new(settings.clone());
    first.give(0..5, 100).await;
    tokio::select! {
        () = first.serve(&mut line) => {}
        () = until(|| rig.seen().submissions.len() == 1) => {}
    }
    drop(first);
    rig.mood.send_replace(Mood::Prompt);
    let mut second = Till::new(settings);
    assert_eq!(second.terminal.unfinished(), 5);
    second.no_more_orders();
    second.finish(line).await;
    assert_stored_once(&rig, &mut second, 0..5);
    assert_eq!(rig.seen().sessions.len(), 1);
    ingress.stop().await;
}

#[tokio::test]
async fn an_undecided_submission_keeps_the_next_one_from_the_core_after_a_replug() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    rig.mood.send_replace(Mood::Stuck);
    let mut till = Till::new(settings());
    till.give(0..3, 10).await;
    let mut line = socket.plug();
    tokio::select! {
        () = till.serve(&mut line) => {}
        () = until(|| rig.seen().submissions.len() == 1) => {}
    }
    drop(line);
    let mut line = socket.plug();
    let sessions_found = || ingress.figures.terminals_online.load(Ordering::Relaxed) == 1;
    tokio::select! {
        () = till.serve(&mut line) => {}
        () = async {
            until(|| ingress.figures.ports_open.load(Ordering::Relaxed) == 1).await;
            until(sessions_found).await;
            // Long enough for the submission to come again, which it may not reach the core with.
            tokio::time::sleep(Duration::from_millis(300)).await;
        } => {}
    }
    assert_eq!(rig.seen().submissions.len(), 1, "the first is still undecided");
    rig.mood.send_replace(Mood::Prompt);
    till.no_more_orders();
    till.finish(line).await;
    assert_stored_once(&rig, &mut till, 0..3);
    ingress.stop().await;
}

#[tokio::test]
async fn a_gateway_that_ends_before_it_decides_says_nothing() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let mut line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    rig.mood.send_replace(Mood::Ending);
    let mut till = Till::new(settings());
    till.give(0..2, 10).await;
    tokio::select! {
        () = till.serve(&mut line) => {}
        () = async {
            until(|| rig.seen().submissions.len() == 1).await;
            ingress.stop().await;
        } => {}
    }
    assert_eq!(till.answers(), []);
    rig.mood.send_replace(Mood::Prompt);
    let next_start = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    till.no_more_orders();
    till.finish(line).await;
    assert_stored_once(&rig, &mut till, 0..2);
    next_start.stop().await;
}

#[tokio::test]
async fn noise_half_frames_and_a_reset_in_the_middle_of_a_frame_cost_only_a_resend() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let mut line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    until(|| ingress.figures.ports_open.load(Ordering::Relaxed) == 1).await;
    let wants = Wants::default();
    let hello = Hello { version: 1, minor: 0, nonce: 9, name: "", resume: None, message_bytes_max: 248, wants };
    let hello = ToGateway::Hello(hello).to_frame().unwrap();
    let submit = Fragment { tag: 0, number: 1, total: 100, offset: 0, maybe_stored: false, bytes: &[b'x'; 100] };
    let submit = ToGateway::Submit(submit).to_frame().unwrap();
    let noise: Vec<u8> = (0..3_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for bytes in [noise.as_slice(), &[0], &hello, &submit[..50]] {
        line.write_all(bytes).await.unwrap();
    }
    let mut till = Till::new(settings());
    till.give(0..10, 200).await;
    till.no_more_orders();
    till.finish(line).await;
    assert_stored_once(&rig, &mut till, 0..10);
    assert!(ingress.figures.garbled.load(Ordering::Relaxed) > 0);
    ingress.stop().await;
}

/// Carries bytes between a terminal and its line, and garbles one in `one_in`.
async fn bad_cable(terminal: DuplexStream, line: SerialStream, one_in: u64) {
    let (mut from_terminal, mut to_terminal) = tokio::io::split(terminal);
    let (mut from_line, mut to_line) = tokio::io::split(line);
    let mut random = 1u64;
    let mut garble = |bytes: &mut [u8]| {
        for byte in bytes {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (random >> 33).is_multiple_of(one_in) {
                *byte ^= 0x10;
            }
        }
    };
    let (mut up, mut down) = ([0; 64], [0; 64]);
    loop {
        tokio::select! {
            len = from_terminal.read(&mut up) => {
                let Ok(len @ 1..) = len else { return };
                garble(&mut up[..len]);
                to_line.write_all(&up[..len]).await.unwrap();
            }
            len = from_line.read(&mut down) => match len {
                Ok(len) => {
                    garble(&mut down[..len]);
                    to_terminal.write_all(&down[..len]).await.unwrap();
                }
                // Nobody has opened the other side yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            },
        }
    }
}

#[tokio::test]
async fn a_bad_cable_costs_time_and_no_orders() {
    let (rig, socket) = (Rig::new(), Socket::new());
    rig.seen().busy_each = 5;
    let line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    let (near, far) = tokio::io::duplex(256);
    let cable = tokio::spawn(bad_cable(far, line, 1_500));
    let mut till = Till::new(settings());
    till.give(0..40, 50).await;
    till.no_more_orders();
    till.finish(near).await;
    cable.await.unwrap();
    assert_stored_once(&rig, &mut till, 0..40);
    assert!(ingress.figures.garbled.load(Ordering::Relaxed) > 0, "the cable was not bad");
    ingress.stop().await;
}

#[tokio::test]
async fn a_port_that_is_missing_is_no_matter_for_the_others_and_opened_when_it_comes() {
    let (rig, here, missing) = (Rig::new(), Socket::new(), Socket::new());
    let line = here.plug();
    let ports = vec![missing.config("till-2", Framing::Binary), here.config("till-1", Framing::Binary)];
    let ingress = Ingress::start(&rig, ports);
    let mut till = Till::new(settings());
    till.give(0..3, 10).await;
    till.no_more_orders();
    till.finish(line).await;
    assert_stored_once(&rig, &mut till, 0..3);
    let late = missing.plug();
    let mut till = Till::new(Settings { name: "till-2".into(), ..settings() });
    till.give(3..6, 10).await;
    till.no_more_orders();
    till.finish(late).await;
    assert_eq!(till.answers().len(), 3);
    assert_eq!(rig.seen().submissions.last().unwrap().terminal.as_str(), "till-2");
    ingress.stop().await;
}

#[tokio::test]
async fn another_terminal_at_the_port_is_refused() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let mut line = socket.plug();
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    let mut till = Till::new(Settings { name: "till-9".into(), ..settings() });
    let (heard, mut reports) = mpsc::channel(16);
    till.heard = heard;
    let refused = async {
        loop {
            if let Some(Heard::Refused(refusal)) = reports.recv().await {
                return refusal;
            }
        }
    };
    tokio::select! {
        () = till.serve(&mut line) => {}
        refusal = tokio::time::timeout(DEADLINE, refused) => assert_eq!(refusal.unwrap(), protocol::Refusal::WrongName),
    }
    assert!(rig.seen().sessions.is_empty());
    ingress.stop().await;
}

#[tokio::test]
async fn a_display_shows_the_orders_of_its_terminal_and_the_board() {
    let (rig, socket) = (Rig::new(), Socket::new());
    let mut line = socket.plug();
    rig.change(order("mine", "till-1", 41));
    rig.change(order("other", "till-2", 42));
    let entry = |number: &str| Entry { order_id: "mine".parse().unwrap(), number: number.into(), status: Status::Created };
    rig.board.send_replace(Arc::new(Board { preparing: vec![entry("41"), entry("A7")], ready: vec![] }));
    let ingress = Ingress::start(&rig, vec![socket.config("till-1", Framing::Binary)]);
    let mut till = Till::new(Settings { display: true, ..settings() });
    let (heard, mut reports) = mpsc::channel(16);
    till.heard = heard;
    let mut statuses = Vec::new();
    let mut boards = Vec::new();
    let watch = async {
        while let Some(report) = reports.recv().await {
            match report {
                Heard::Status { order_id, number, status, .. } => statuses.push((order_id, number, status)),
                Heard::Board { preparing, ready } => {
                    boards.push((preparing, ready));
                    if boards.len() == 2 {
                        return;
                    }
                    let mut ready = order("mine", "till-1", 41);
                    ready.status = Status::Ready;
                    rig.change(ready);
                    rig.board.send_replace(Arc::new(Board { preparing: vec![entry("A7")], ready: vec![entry("41")] }));
                }
                Heard::Online { .. } | Heard::Offline(_) | Heard::Refused(_) | Heard::Answered(_) => {}
            }
        }
    };
    tokio::select! {
        () = till.serve(&mut line) => {}
        watched = tokio::time::timeout(DEADLINE, watch) => watched.unwrap(),
    }
    // The first board may be shown before the open orders are read: then they are read with the change.
    assert!(statuses.iter().all(|(order_id, number, _)| (order_id.as_str(), number.as_str()) == ("mine", "41")), "{statuses:?}");
    assert_eq!(statuses.last().unwrap().2, protocol::Status::Ready);
    assert!(statuses.len() <= 2, "{statuses:?}");
    let texts = |texts: &[&str]| texts.iter().map(|text| String::from(*text)).collect::<Vec<_>>();
    assert_eq!(boards[0], (texts(&["41", "A7"]), vec![]));
    assert_eq!(boards[1], (texts(&["A7"]), texts(&["41"])));
    ingress.stop().await;
}

#[tokio::test]
async fn a_display_that_has_too_much_to_show_passes_the_oldest_change_over() {
    let (rig, figures) = (Rig::new(), Arc::new(Figures::default()));
    let mut display = Display::new("till-1".parse().unwrap(), rig.handle.clone(), Arc::clone(&figures));
    for n in 0..=CHANGES_GATHERED_MAX {
        let mut changed = order(&format!("o-{n}"), "till-1", 41);
        changed.updated_at_ms = i64::try_from(n).unwrap();
        display.take(Arc::new(changed));
    }
    assert_eq!(figures.changes_gathered.load(Ordering::Relaxed), CHANGES_GATHERED_MAX);
    assert_eq!(figures.changes_dropped.load(Ordering::Relaxed), 1);
}
