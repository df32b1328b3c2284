//! Rules of the two links, one by one, over a line that loses what a test says.

#![allow(clippy::unwrap_used)]

use dumbwaiter_protocol::*;

fn gateway() -> GatewayLink {
    GatewayLink::new(GatewaySettings { name: "till-1".try_into().unwrap(), boot: 1, flight: 8 })
}

fn terminal(resume: Option<Resume>, next: u64) -> TerminalLink {
    TerminalLink::new("till-1", Wants { statuses: true, board: true }, resume, next, 1, 0)
}

fn to_gateway(link: &mut GatewayLink, now: u64, message: ToGateway<'_>) {
    link.receive(now, &mut message.to_frame().unwrap().as_slice());
}

fn to_terminal(link: &mut TerminalLink, now: u64, message: ToTerminal<'_>) {
    assert_eq!(link.receive(now, &mut message.to_frame().unwrap().as_slice()), None);
}

/// Everything that the gateway wants to say now, each message as its `Debug` text.
fn said_by_gateway(link: &mut GatewayLink, now: u64) -> Vec<String> {
    let frames = std::iter::from_fn(|| link.poll_frame(now));
    frames.map(|frame| format!("{:?}", decode::<ToTerminal<'_>>(&plain(&frame)).unwrap())).collect()
}

fn said_by_terminal(link: &mut TerminalLink, now: u64, bytes: &[u8]) -> Vec<String> {
    let kept = |_| Some(Kept { bytes, maybe_stored: false });
    let frames = std::iter::from_fn(|| link.poll_frame(now, kept));
    frames.map(|frame| format!("{:?}", decode::<ToGateway<'_>>(&plain(&frame)).unwrap())).collect()
}

fn plain(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.strip_prefix(&[0]).unwrap_or(frame);
    Decoder::default().push(&mut frame).unwrap().unwrap().to_vec()
}

fn hello(name: &str, resume: Option<Resume>) -> ToGateway<'_> {
    let wants = Wants { statuses: true, board: true };
    ToGateway::Hello(Hello { version: 1, minor: 0, nonce: 1, name, resume, message_bytes_max: 248, wants })
}

fn submit(number: u64) -> ToGateway<'static> {
    ToGateway::Submit(Fragment { tag: 5, number, total: 2, offset: 0, maybe_stored: false, bytes: b"{}" })
}

const STORED: Answer<'static> = Answer::Stored { duplicate: false, order_id: "o", event_id: [0; 16], ticket: None, seq: 1 };
const BUSY: Answer<'static> = Answer::Rejected { code: Code::Busy, reason: "", retry_after_ms: None };

/// A gateway in session 5, which resumed at `first`.
fn greeted(first: u64) -> GatewayLink {
    let mut link = gateway();
    to_gateway(&mut link, 0, hello("", Some(Resume { session: 5, first })));
    assert_eq!(link.poll_event(), Some(GatewayEvent::Wanted(Lookup::Find(5))));
    link.session_found(5, SessionFound::Known { mark: 0 });
    assert!(matches!(link.poll_event(), Some(GatewayEvent::Greeted { session: 5, resumed: true, .. })));
    said_by_gateway(&mut link, 0);
    link
}

fn submission(link: &mut GatewayLink) -> Option<u64> {
    match link.poll_event() {
        Some(GatewayEvent::Submission { number, .. }) => Some(number),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[test]
fn a_gateway_asks_who_is_there_at_its_start_and_whenever_it_hears_a_stranger() {
    let mut link = gateway();
    assert_eq!(said_by_gateway(&mut link, 0), ["WhoAreYou { boot: 1 }"]);
    to_gateway(&mut link, 1_000, submit(1));
    to_gateway(&mut link, 1_000, ToGateway::Ping { token: 1 });
    assert_eq!(said_by_gateway(&mut link, 1_000), ["WhoAreYou { boot: 1 }"]);
    to_gateway(&mut link, 1_100, ToGateway::Ping { token: 1 });
    assert!(said_by_gateway(&mut link, 1_100).is_empty(), "not more often than each {GAP_MS} ms");
}

#[test]
fn another_name_another_version_and_an_unknown_session_are_refused() {
    let mut link = gateway();
    for (message, refusal) in [
        (hello("till-2", None), "WrongName"),
        (
            ToGateway::Hello(Hello {
                version: 2,
                minor: 0,
                nonce: 1,
                name: "",
                resume: None,
                message_bytes_max: 248,
                wants: Wants::default(),
            }),
            "WrongVersion",
        ),
        (
            ToGateway::Hello(Hello {
                version: 1,
                minor: 0,
                nonce: 1,
                name: "",
                resume: None,
                message_bytes_max: 100,
                wants: Wants::default(),
            }),
            "TooSmall",
        ),
    ] {
        to_gateway(&mut link, 0, message);
        assert_eq!(link.poll_event(), None);
        let said = said_by_gateway(&mut link, 0);
        assert!(said.len() == 1 && said[0].contains(refusal), "{said:?}");
    }
    to_gateway(&mut link, 0, hello("till-1", Some(Resume { session: 5, first: 1 })));
    assert_eq!(link.poll_event(), Some(GatewayEvent::Wanted(Lookup::Find(5))));
    link.session_found(5, SessionFound::Unknown);
    assert!(said_by_gateway(&mut link, 0)[0].contains("UnknownSession"));
    assert!(!link.online(0));
}

#[test]
fn a_repeated_hello_opens_one_session() {
    let mut link = gateway();
    to_gateway(&mut link, 0, hello("", None));
    to_gateway(&mut link, 0, hello("", None));
    assert_eq!(link.poll_event(), Some(GatewayEvent::Wanted(Lookup::Open)));
    to_gateway(&mut link, 0, hello("", None));
    assert_eq!(link.poll_event(), None);
    link.session_opened(Some(5));
    to_gateway(&mut link, 0, hello("", None));
    assert!(matches!(link.poll_event(), Some(GatewayEvent::Greeted { session: 5, resumed: false, .. })));
    assert_eq!(link.poll_event(), None);
    to_gateway(&mut link, 0, submit(1));
    assert_eq!(submission(&mut link), Some(1));
    to_gateway(&mut link, 0, hello("", None));
    assert_eq!(link.poll_event(), Some(GatewayEvent::Wanted(Lookup::Open)), "a session that was used is never given to a new hello");
}

#[test]
fn submissions_reach_the_core_one_at_a_time_in_number_order() {
    let mut link = greeted(1);
    to_gateway(&mut link, 0, submit(2));
    assert_eq!(submission(&mut link), None);
    assert!(said_by_gateway(&mut link, 0)[0].contains("Missing"));
    to_gateway(&mut link, 0, submit(1));
    assert_eq!(submission(&mut link), Some(1));
    to_gateway(&mut link, 0, submit(2));
    assert_eq!(submission(&mut link), None, "1 is with the core");
    to_gateway(&mut link, 0, submit(3));
    link.answer(0, 5, 1, STORED).unwrap();
    assert_eq!(submission(&mut link), Some(2));
    assert_eq!(submission(&mut link), None, "3 was beyond the window");
}

#[test]
fn nothing_is_stored_behind_a_rejection_that_the_terminal_may_not_know() {
    let mut link = greeted(1);
    to_gateway(&mut link, 0, submit(1));
    assert_eq!(submission(&mut link), Some(1));
    to_gateway(&mut link, 0, submit(2));
    link.answer(0, 5, 1, BUSY).unwrap();
    assert_eq!(submission(&mut link), None);
    to_gateway(&mut link, 0, ToGateway::Confirm { tag: 5, below: 2 });
    assert_eq!(submission(&mut link), Some(2));
}

#[test]
fn an_answer_is_said_until_it_is_confirmed_and_not_to_an_empty_line() {
    let mut link = greeted(1);
    to_gateway(&mut link, 0, submit(1));
    assert_eq!(submission(&mut link), Some(1));
    link.answer(0, 5, 1, STORED).unwrap();
    let stored = |said: &[String]| said.iter().filter(|said| said.starts_with("Stored")).count();
    assert_eq!(stored(&said_by_gateway(&mut link, 0)), 1);
    assert_eq!(stored(&said_by_gateway(&mut link, 999)), 0);
    assert_eq!(stored(&said_by_gateway(&mut link, 1_000)), 1);
    assert_eq!(stored(&said_by_gateway(&mut link, 20_000)), 0, "nobody was heard for 15 s");
    to_gateway(&mut link, 21_000, ToGateway::Ping { token: 1 });
    assert_eq!(stored(&said_by_gateway(&mut link, 21_000)), 1);
    to_gateway(&mut link, 21_001, ToGateway::Confirm { tag: 5, below: 2 });
    assert_eq!(stored(&said_by_gateway(&mut link, 35_000)), 0);
}

#[test]
fn a_request_of_more_than_16_kib_is_rejected_by_its_announced_length() {
    let mut link = greeted(1);
    let fragment = Fragment { tag: 5, number: 1, total: 16_385, offset: 0, maybe_stored: false, bytes: &[b' '; 224] };
    to_gateway(&mut link, 0, ToGateway::Submit(fragment));
    assert_eq!(submission(&mut link), None);
    let said = said_by_gateway(&mut link, 0);
    assert!(said.iter().any(|said| said.contains("TooLarge")), "{said:?}");
}

#[test]
fn what_is_said_in_another_session_is_not_taken() {
    let mut link = greeted(1);
    let fragment = Fragment { tag: 6, number: 1, total: 2, offset: 0, maybe_stored: false, bytes: b"{}" };
    to_gateway(&mut link, 0, ToGateway::Submit(fragment));
    assert_eq!(submission(&mut link), None);
    assert_eq!(said_by_gateway(&mut link, 0), ["WhoAreYou { boot: 1 }"]);
}

fn welcome(resumed: bool, mark: u64) -> ToTerminal<'static> {
    let (message_bytes_max, request_bytes_max) = (248, 16384);
    let (version, minor, nonce, boot, session, window, flight) = (1, 0, 1, 1, 5, 2, 4);
    let (ping_ms, dead_ms) = (5_000, 15_000);
    ToTerminal::Welcome(Welcome {
        version,
        minor,
        nonce,
        boot,
        session,
        resumed,
        mark,
        message_bytes_max,
        request_bytes_max,
        window,
        flight,
        ping_ms,
        dead_ms,
    })
}

fn resumed(next: u64, window_bytes: &[u8]) -> TerminalLink {
    let mut link = terminal(Some(Resume { session: 5, first: 1 }), next);
    assert!(said_by_terminal(&mut link, 0, window_bytes)[0].starts_with("Hello"));
    let event = link.receive(0, &mut welcome(true, 0).to_frame().unwrap().as_slice());
    assert_eq!(event, Some(TerminalEvent::Resumed { restarted: false }));
    link
}

#[test]
fn a_terminal_sends_within_window_and_flight() {
    let mut link = resumed(9, b"{}");
    assert_eq!(said_by_terminal(&mut link, 0, b"{}").len(), 2, "window 2");
    let large = [b' '; 2_000];
    let mut link = resumed(9, &large);
    assert_eq!(said_by_terminal(&mut link, 0, &large).len(), 4, "flight 4");
    to_terminal(&mut link, 0, ToTerminal::Received { tag: 5, next: Position { number: 1, offset: 448 } });
    assert_eq!(said_by_terminal(&mut link, 0, &large).len(), 2);
}

#[test]
fn a_terminal_goes_back_to_what_is_missing_and_to_what_nobody_receipts() {
    let large = [b' '; 2_000];
    let mut link = resumed(9, &large);
    said_by_terminal(&mut link, 0, &large);
    to_terminal(&mut link, 0, ToTerminal::Missing { tag: 5, next: Position { number: 1, offset: 224 } });
    let said = said_by_terminal(&mut link, 0, &large);
    assert!(said.len() == 4 && said[0].contains("offset: 224"), "{said:?}");
    assert!(said_by_terminal(&mut link, 999, &large).is_empty());
    let said = said_by_terminal(&mut link, 1_000, &large);
    assert!(said.len() == 4 && said[0].contains("offset: 224"), "{said:?}");
}

#[test]
fn a_terminal_says_hello_when_asked_and_when_nobody_answers() {
    let mut link = resumed(1, b"");
    to_terminal(&mut link, 0, ToTerminal::WhoAreYou { boot: 2 });
    assert!(said_by_terminal(&mut link, 0, b"")[0].starts_with("Hello"));

    let mut link = resumed(1, b"");
    assert_eq!(said_by_terminal(&mut link, 5_000, b""), ["Ping { token: 1 }"]);
    to_terminal(&mut link, 5_001, ToTerminal::Pong { token: 1 });
    assert!(link.online(20_000));
    assert!(!link.online(20_001));
    assert!(said_by_terminal(&mut link, 20_001, b"")[0].starts_with("Hello"));
}

#[test]
fn a_terminal_whose_memory_is_older_than_its_session_opens_another() {
    let mut link = terminal(Some(Resume { session: 5, first: 1 }), 3);
    said_by_terminal(&mut link, 0, b"{}");
    to_terminal(&mut link, 0, welcome(true, 3));
    let said = said_by_terminal(&mut link, 0, b"{}");
    assert!(said[0].starts_with("Hello") && said[0].contains("resume: None"), "{said:?}");
}

#[test]
fn a_terminal_takes_only_the_welcome_to_its_own_hello() {
    let mut link = TerminalLink::new("till-1", Wants::default(), Some(Resume { session: 5, first: 1 }), 3, 77, 0);
    said_by_terminal(&mut link, 0, b"{}");
    to_terminal(&mut link, 0, welcome(true, 0));
    assert!(!link.online(0), "the welcome was to a hello before its restart: what follows it may be stale too");
}

#[test]
fn after_unknown_session_what_may_have_been_sent_is_told() {
    let mut link = terminal(Some(Resume { session: 5, first: 4 }), 6);
    said_by_terminal(&mut link, 0, b"{}");
    let refused = ToTerminal::Refused(Refused { nonce: 1, refusal: Refusal::UnknownSession, version: 1, retry_after_ms: 0 });
    assert!(matches!(link.receive(0, &mut refused.to_frame().unwrap().as_slice()), Some(TerminalEvent::Refused(_))));
    assert_eq!(link.next(), None);
    assert!(said_by_terminal(&mut link, 0, b"{}")[0].contains("nonce: 2"));
    let ToTerminal::Welcome(welcome) = welcome(false, 0) else { unreachable!() };
    let welcome = ToTerminal::Welcome(Welcome { nonce: 2, ..welcome });
    let event = link.receive(0, &mut welcome.to_frame().unwrap().as_slice());
    assert_eq!(event, Some(TerminalEvent::Opened { session: 5, maybe_stored: 2 }));
    assert!(said_by_terminal(&mut link, 0, b"{}").is_empty(), "nothing is sent before the session is noted");
    link.begin(2);
    assert_eq!(link.next(), Some(3));
    assert_eq!(said_by_terminal(&mut link, 0, b"{}").len(), 2);
}

#[test]
fn pushes_arrive_once_in_order_over_a_line_that_loses_every_third_frame() {
    let (mut gateway, mut terminal) = (gateway(), terminal(None, 1));
    let (mut now, mut frames, mut pushed, mut shown) = (0, 0, 0u8, Vec::new());
    let mut lost = || {
        frames += 1;
        frames % 3 == 0
    };
    while shown.len() < 40 {
        now += 50;
        assert!(now < 400_000, "{shown:?}");
        while let Some(frame) = terminal.poll_frame(now, |_| None) {
            let mut bytes = if lost() { &[] } else { frame.as_slice() };
            while !bytes.is_empty() {
                gateway.receive(now, &mut bytes);
            }
        }
        while let Some(event) = gateway.poll_event() {
            if event == GatewayEvent::Wanted(Lookup::Open) {
                gateway.session_opened(Some(5));
            }
        }
        if gateway.takes_push() && pushed < 40 {
            let piece = BoardPiece { piece: pushed, pieces: 40, column: Column::Ready, numbers: "1\n" };
            gateway.push_board(now, piece).unwrap();
            assert_eq!(gateway.push_board(now, piece), Err(PushBusy));
            pushed += 1;
        }
        while let Some(frame) = gateway.poll_frame(now) {
            if lost() {
                continue;
            }
            let mut bytes = frame.as_slice();
            while !bytes.is_empty() {
                match terminal.receive(now, &mut bytes) {
                    Some(TerminalEvent::Opened { .. }) => terminal.begin(0),
                    Some(TerminalEvent::Board(piece)) => shown.push(piece.piece),
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
            }
        }
    }
    assert_eq!(shown, (0..40).collect::<Vec<_>>());
}
