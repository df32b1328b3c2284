//! What any bytes do to a receiver: nothing worse than being counted, and the next frame after a 0x00 is read.

#![allow(clippy::unwrap_used)]

use dumbwaiter_protocol::*;
use proptest::prelude::*;

fn gateway() -> GatewayLink {
    GatewayLink::new(GatewaySettings { name: "till-1".try_into().unwrap(), boot: 1, flight: 8 })
}

fn hello(resume: Option<Resume>) -> Frame {
    let hello =
        Hello { version: 1, minor: 0, nonce: 1, name: "", resume, message_bytes_max: 248, wants: Wants { statuses: true, board: true } };
    ToGateway::Hello(hello).to_frame().unwrap()
}

fn feed_gateway(link: &mut GatewayLink, now: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let before = bytes.len();
        link.receive(now, &mut bytes);
        assert!(bytes.len() < before, "bytes are taken");
    }
}

fn to_gateway() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..6u64, any::<u64>()];
    let tag_of_session = prop_oneof![Just(tag(5)), any::<u32>()];
    prop_oneof![
        (tag_of_session.clone(), number.clone(), any::<u16>(), any::<u16>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..224))
            .prop_map(|(tag, number, total, offset, maybe_stored, bytes)| {
                let fragment = Fragment { tag, number, total, offset, maybe_stored, bytes: &bytes };
                ToGateway::Submit(fragment).to_frame().unwrap().to_vec()
            }),
        (tag_of_session, number.clone()).prop_map(|(tag, below)| ToGateway::Confirm { tag, below }.to_frame().unwrap().to_vec()),
        any::<u32>().prop_map(|push| ToGateway::Seen { push }.to_frame().unwrap().to_vec()),
        any::<u32>().prop_map(|token| ToGateway::Ping { token }.to_frame().unwrap().to_vec()),
        (number.clone(), number).prop_map(|(session, first)| hello(Some(Resume { session, first })).to_vec()),
        Just(hello(None).to_vec()),
        prop::collection::vec(any::<u8>(), 0..600),
    ]
}

fn to_terminal() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..6u64, any::<u64>()];
    let tag_of_session = prop_oneof![Just(tag(5)), any::<u32>()];
    prop_oneof![
        (tag_of_session.clone(), number.clone(), any::<u16>(), any::<bool>()).prop_map(|(tag, number, offset, missing)| {
            let next = Position { number, offset };
            let message = if missing { ToTerminal::Missing { tag, next } } else { ToTerminal::Received { tag, next } };
            message.to_frame().unwrap().to_vec()
        }),
        (tag_of_session, number.clone(), any::<u8>()).prop_map(|(tag, number, code)| {
            let message = ToTerminal::Rejected { tag, number, code: code.into(), reason: "", retry_after_ms: None };
            message.to_frame().unwrap().to_vec()
        }),
        (0..3u32, any::<u64>(), number, any::<(bool, u8, u8, u32)>()).prop_map(|(nonce, session, mark, (resumed, window, flight, ms))| {
            let session = if resumed { 5 } else { session };
            let (message_bytes_max, request_bytes_max) = (248, 16384);
            let (ping_ms, dead_ms, boot) = (ms, ms, 1);
            let welcome = Welcome {
                version: 1,
                minor: 0,
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
            };
            ToTerminal::Welcome(welcome).to_frame().unwrap().to_vec()
        }),
        (0..3u32, any::<u8>(), any::<u32>()).prop_map(|(nonce, refusal, retry_after_ms)| {
            let refused = Refused { nonce, refusal: refusal.into(), version: 1, retry_after_ms };
            ToTerminal::Refused(refused).to_frame().unwrap().to_vec()
        }),
        Just(ToTerminal::WhoAreYou { boot: 1 }.to_frame().unwrap().to_vec()),
        prop::collection::vec(any::<u8>(), 0..600),
    ]
}

proptest! {
    #[test]
    fn a_frame_after_any_noise_and_a_zero_is_read(noise in prop::collection::vec(any::<u8>(), 0..2000), token: u32) {
        let mut decoder = Decoder::default();
        let mut bytes = noise.as_slice();
        while !bytes.is_empty() {
            let _ = decoder.push(&mut bytes);
        }
        let _ = decoder.push(&mut [0].as_slice());
        let frame = ToGateway::Ping { token }.to_frame().unwrap();
        let message = decoder.push(&mut frame.as_slice()).unwrap().unwrap();
        prop_assert_eq!(decode::<ToGateway<'_>>(&message).unwrap(), ToGateway::Ping { token });
    }

    #[test]
    fn a_changed_bit_is_noticed(bytes in prop::collection::vec(any::<u8>(), 0..=224), at: prop::sample::Index, bit in 0..8) {
        let fragment = Fragment { tag: 1, number: 1, total: 224, offset: 0, maybe_stored: false, bytes: &bytes };
        let mut frame = ToGateway::Submit(fragment).to_frame().unwrap();
        let at = at.index(frame.len() - 1);
        frame[at] ^= 1u8 << bit;
        let mut decoder = Decoder::default();
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            prop_assert!(!matches!(decoder.push(&mut rest), Some(Ok(_))));
        }
    }

    #[test]
    fn frames_hold_no_zero_but_their_last_byte_and_no_full_block(bytes in prop::collection::vec(1..=255u8, 0..=224)) {
        let fragment = Fragment { tag: !0, number: 1, total: 224, offset: 1, maybe_stored: true, bytes: &bytes };
        let frame = ToGateway::Submit(fragment).to_frame().unwrap();
        prop_assert!(frame.len() < FRAME_BYTES_MAX);
        prop_assert_eq!(frame.iter().position(|byte| *byte == 0), Some(frame.len() - 1));
        prop_assert_ne!(frame[0], 255);
    }

    #[test]
    fn the_gateway_survives_any_messages_and_goes_on(messages in prop::collection::vec((to_gateway(), any::<bool>(), 0..2000u64), 0..60)) {
        let mut link = gateway();
        let mut now = 0;
        for (bytes, works, pause) in messages {
            now += pause;
            feed_gateway(&mut link, now, &bytes);
            while let Some(event) = works.then(|| link.poll_event()).flatten() {
                match event {
                    GatewayEvent::Wanted(Lookup::Open) => link.session_opened(Some(5)),
                    GatewayEvent::Wanted(Lookup::Find(5)) => link.session_found(5, SessionFound::Known { mark: 3 }),
                    GatewayEvent::Wanted(Lookup::Find(session)) => link.session_found(session, SessionFound::Unknown),
                    GatewayEvent::Greeted { .. } => {}
                    GatewayEvent::Submission { session, number, .. } => {
                        let answer = Answer::Rejected { code: Code::Invalid, reason: "", retry_after_ms: None };
                        link.answer(now, session, number, answer).unwrap();
                    }
                }
            }
            let mut frames = 0;
            while link.poll_frame(now).is_some() {
                frames += 1;
                prop_assert!(frames < 10, "it talks for ever");
            }
            prop_assert!(link.wake_at(now).is_none_or(|at| at > now), "it has more to say, and does not say it");
        }
        // Whatever came before: a hello after a 0x00 is heard.
        feed_gateway(&mut link, now, &[0]);
        feed_gateway(&mut link, now, &hello(Some(Resume { session: 77, first: 1 })));
        let found = |link: &mut GatewayLink| {
            while let Some(event) = link.poll_event() {
                match event {
                    GatewayEvent::Wanted(Lookup::Find(77)) => return true,
                    GatewayEvent::Wanted(_) | GatewayEvent::Greeted { .. } | GatewayEvent::Submission { .. } => {}
                }
            }
            // A question from before is still with the shell: once it is answered, the newest is asked.
            link.session_opened(None);
            link.poll_event() == Some(GatewayEvent::Wanted(Lookup::Find(77)))
        };
        prop_assert!(found(&mut link));
    }

    #[test]
    fn the_terminal_survives_any_messages_and_goes_on(
        messages in prop::collection::vec((to_terminal(), any::<bool>(), 0..2000u64), 0..60),
        resumes: bool,
    ) {
        let resume = resumes.then_some(Resume { session: 5, first: 2 });
        let mut link = TerminalLink::new("till-1", Wants { statuses: true, board: true }, resume, 4, 0, 0);
        let mut now = 0;
        for (bytes, works, pause) in messages {
            now += pause;
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                match link.receive(now, &mut bytes) {
                    Some(TerminalEvent::Opened { .. }) if works => link.begin(3),
                    Some(TerminalEvent::Answered { number, .. }) if works => link.finish(number),
                    Some(_) | None => {}
                }
            }
            if works {
                link.submit();
            }
            let mut frames = 0;
            while link.poll_frame(now, |_| Some(Kept { bytes: &[b' '; 700], maybe_stored: false })).is_some() {
                frames += 1;
                prop_assert!(frames < 1200, "it talks for ever");
            }
            prop_assert!(link.wake_at() > now, "it has more to say, and does not say it");
        }
        // Whatever came before: asked who it is, it says hello.
        for bytes in [[0].as_slice(), &ToTerminal::WhoAreYou { boot: 2 }.to_frame().unwrap()] {
            let _ = link.receive(now, &mut &*bytes);
        }
        let frame = link.poll_frame(now, |_| None).unwrap();
        let message = Decoder::default().push(&mut frame.as_slice().strip_prefix(&[0]).unwrap_or(&frame)).unwrap().unwrap();
        prop_assert!(matches!(decode::<ToGateway<'_>>(&message).unwrap(), ToGateway::Hello(_)));
    }
}
