//! Bytes on a serial line, for both ends of the binary protocol: each takes them all, keeps within its bounds, and says nothing that the
//! other could not read.
//!
//! A frame has a checksum, which chance never meets: an input that begins with an odd byte is messages, each behind its length, to be put
//! into frames; others are the bytes as they are.

use protocol::{
    Answer, Code, Decoder, Frame, GatewayEvent, GatewayLink, GatewaySettings, Lookup, SessionFound, TerminalLink, ToGateway, ToTerminal,
    Wants, decode,
};

/// What a link says of itself in one go: beyond it, it would never end.
const SAYS_MAX: usize = 1_000;

pub fn run(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    if first % 2 == 0 {
        gateway(rest);
        terminal(rest);
    } else {
        gateway(&framed(rest, |message| decode::<ToGateway<'_>>(message).ok()?.to_frame().ok()));
        terminal(&framed(rest, |message| decode::<ToTerminal<'_>>(message).ok()?.to_frame().ok()));
    }
}

fn framed(mut messages: &[u8], frame: impl Fn(&[u8]) -> Option<Frame>) -> Vec<u8> {
    let mut line = Vec::new();
    while let Some((len, rest)) = messages.split_first() {
        let (message, behind) = rest.split_at(rest.len().min(usize::from(*len)));
        line.extend(frame(message).iter().flatten());
        messages = behind;
    }
    line
}

fn gateway(bytes: &[u8]) {
    let name = "till-1".try_into().expect("a short name");
    let mut link = GatewayLink::new(GatewaySettings { name, boot: 1, flight: 8 });
    take(bytes, |now_ms, rest| {
        link.receive(now_ms, rest);
        for turn in 0.. {
            assert!(turn < SAYS_MAX, "events end");
            match link.poll_event() {
                None => break,
                Some(GatewayEvent::Wanted(Lookup::Open)) => link.session_opened(Some(5)),
                Some(GatewayEvent::Wanted(Lookup::Find(session))) => {
                    let found = match session % 3 {
                        0 => SessionFound::Unknown,
                        1 => SessionFound::Away,
                        _ => SessionFound::Known { mark: session / 2 },
                    };
                    link.session_found(session, found);
                }
                Some(GatewayEvent::Greeted { .. }) => {}
                Some(GatewayEvent::Submission { session, number, bytes, .. }) => {
                    assert!(bytes.len() <= usize::from(u16::MAX), "{} bytes", bytes.len());
                    let answer = Answer::Rejected { code: Code::Busy, reason: "busy", retry_after_ms: Some(100) };
                    link.answer(now_ms, session, number, answer).expect("a short answer");
                }
            }
        }
        for turn in 0.. {
            assert!(turn < SAYS_MAX, "frames end");
            let Some(frame) = link.poll_frame(now_ms) else { break };
            let message = read(&frame);
            assert!(decode::<ToTerminal<'_>>(&message).is_ok(), "{message:?}");
        }
        let _ = (link.online(now_ms), link.wake_at(now_ms), link.takes_push());
    });
}

fn terminal(bytes: &[u8]) {
    let mut link = TerminalLink::new("till-1", Wants { statuses: true, board: true }, None, 1, 7, 0);
    take(bytes, |now_ms, rest| {
        let _ = link.receive(now_ms, rest);
        link.begin(1);
        if link.next().is_some_and(|next| next < 5) {
            link.submit();
        }
        for turn in 0.. {
            assert!(turn < SAYS_MAX, "frames end");
            let Some(frame) = link.poll_frame(now_ms, |_| None) else { break };
            let message = read(&frame);
            assert!(decode::<ToGateway<'_>>(&message).is_ok(), "{message:?}");
        }
        let _ = (link.online(now_ms), link.wake_at());
    });
}

/// Hands the bytes over, each time with a later time: they are chance enough for that as well.
fn take(bytes: &[u8], mut hand_over: impl FnMut(u64, &mut &[u8])) {
    let (mut rest, mut now_ms) = (bytes, 0);
    while let Some(first) = rest.first() {
        now_ms += u64::from(*first) * 10;
        let before = rest.len();
        hand_over(now_ms, &mut rest);
        assert!(rest.len() < before, "bytes are taken");
    }
}

fn read(frame: &Frame) -> Vec<u8> {
    // After a silence a frame begins with an empty one.
    let mut bytes = frame.as_slice();
    let mut decoder = Decoder::default();
    while !bytes.is_empty() {
        if let Some(message) = decoder.push(&mut bytes) {
            return message.expect("a link's own frame").to_vec();
        }
    }
    panic!("a frame holds a message");
}
