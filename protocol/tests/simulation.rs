//! Both ends over a line that loses, garbles and invents bytes, with restarts of either end at any moment, from one seed.
//!
//! The world below is what the two shells have to do: a gateway whose store is durable and whose link is not, and a terminal that keeps
//! what `docs/protocol.md` says it must. After each run: every order was answered *stored* exactly once and is in the store exactly
//! once, and no number that was answered *rejected* is in the store.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use dumbwaiter_protocol::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const ORDERS: usize = 12;
/// Restarts end here: some seeds restart so often that no large order ever gets through in between.
const RESTARTS_END_MS: u64 = 600_000;
const END_MS: u64 = 3 * 3_600_000;

/// SplitMix64: small, seeded, good enough to choose faults.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn once_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }
}

/// What goes wrong, each once in so many; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    frame_lost: u64,
    byte_garbled: u64,
    noise: u64,
    gateway_restart: u64,
    terminal_restart: u64,
    store_replaced: u64,
    busy: u64,
    slow_core_ms: u64,
}

#[derive(Default)]
struct Line {
    under_way: VecDeque<(u64, Vec<u8>)>,
    free_at: u64,
}

impl Line {
    fn send(&mut self, now: u64, frame: &[u8], faults: &Faults, random: &mut Random) {
        // 115200 baud: 11.5 bytes a millisecond.
        self.free_at = self.free_at.max(now) + 1 + frame.len() as u64 / 11;
        if random.once_in(faults.frame_lost) {
            return;
        }
        let mut bytes = Vec::new();
        for byte in frame {
            match random.once_in(faults.byte_garbled).then(|| random.below(3)) {
                None => bytes.push(*byte),
                Some(0) => bytes.push(byte ^ (1 << random.below(8))),
                Some(1) => {}
                Some(_) => bytes.extend([random.next() as u8, *byte]),
            }
        }
        if random.once_in(faults.noise) {
            let len = random.below(400);
            bytes.extend((0..len).map(|_| random.next() as u8));
        }
        self.under_way.push_back((self.free_at + 2, bytes));
    }

    fn arrived(&mut self, now: u64) -> Option<Vec<u8>> {
        self.under_way.pop_front_if(|(at, _)| *at <= now).map(|(_, bytes)| bytes)
    }

    fn wake_at(&self) -> u64 {
        self.under_way.front().map_or(u64::MAX, |(at, _)| *at)
    }
}

#[derive(Default)]
struct Store {
    /// It is not the first: what was stored in an earlier one is not here.
    replaced: bool,
    sessions: BTreeMap<u64, u64>,
    remembered: BTreeMap<(u64, u64), usize>,
    stored: Vec<(usize, bool)>,
}

enum CoreWork {
    Commit { at: u64, session: u64, number: u64, order: usize, maybe_stored: bool },
    Answer { at: u64, session: u64, number: u64, verdict: Verdict },
}

impl CoreWork {
    fn at(&self) -> u64 {
        match self {
            CoreWork::Commit { at, .. } | CoreWork::Answer { at, .. } => *at,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Verdict {
    Stored { duplicate: bool },
    Rejected(Code),
}

struct GatewayEnd {
    link: GatewayLink,
    store: Store,
    lookup: Option<(u64, Lookup)>,
    core: Option<CoreWork>,
    boots: u64,
}

fn gateway_link(boot: u64) -> GatewayLink {
    GatewayLink::new(GatewaySettings { name: "till-1".try_into().unwrap(), boot, flight: 8 })
}

impl GatewayEnd {
    fn work(&mut self, now: u64, faults: &Faults, random: &mut Random) {
        if let Some((_, lookup)) = self.lookup.take_if(|(at, _)| *at <= now) {
            match lookup {
                Lookup::Open => {
                    let session = random.next();
                    self.store.sessions.insert(session, 0);
                    self.link.session_opened(Some(session));
                }
                Lookup::Find(session) => {
                    let mark = self.store.sessions.get(&session).copied();
                    self.link.session_found(session, mark.map_or(SessionFound::Unknown, |mark| SessionFound::Known { mark }));
                }
            }
        }
        match self.core.take_if(|work| work.at() <= now) {
            Some(CoreWork::Commit { session, number, order, maybe_stored, .. }) => {
                let verdict = self.admit(session, number, order, maybe_stored, random.once_in(faults.busy));
                let at = now + random.below(faults.slow_core_ms + 1);
                self.core = Some(CoreWork::Answer { at, session, number, verdict });
            }
            Some(CoreWork::Answer { session, number, verdict, .. }) => {
                let answer = match verdict {
                    Verdict::Stored { duplicate } => {
                        Answer::Stored { duplicate, order_id: "order", event_id: [7; 16], ticket: Some(1), seq: number }
                    }
                    Verdict::Rejected(code) => Answer::Rejected { code, reason: "no", retry_after_ms: Some(100) },
                };
                self.link.answer(now, session, number, answer).unwrap();
            }
            None => {}
        }
        while let Some(event) = self.link.poll_event() {
            let at = now + random.below(faults.slow_core_ms + 1);
            match event {
                GatewayEvent::Wanted(lookup) => self.lookup = Some((at, lookup)),
                GatewayEvent::Greeted { .. } => {}
                GatewayEvent::Submission { session, number, maybe_stored, bytes } => {
                    assert!(self.core.is_none(), "one submission at a time");
                    self.core = Some(CoreWork::Commit { at, session, number, order: order_of(bytes), maybe_stored });
                }
            }
        }
    }

    /// The rules of the core, as far as they concern sessions.
    fn admit(&mut self, session: u64, number: u64, order: usize, maybe_stored: bool, busy: bool) -> Verdict {
        if let Some(first) = self.store.remembered.get(&(session, number)) {
            return if *first == order { Verdict::Stored { duplicate: true } } else { Verdict::Rejected(Code::Conflict) };
        }
        let Some(mark) = self.store.sessions.get_mut(&session) else {
            return Verdict::Rejected(Code::Busy);
        };
        if number <= *mark {
            return Verdict::Rejected(Code::Expired);
        }
        if busy {
            return Verdict::Rejected(Code::Busy);
        }
        *mark = number;
        self.store.remembered.insert((session, number), order);
        self.store.stored.push((order, maybe_stored));
        Verdict::Stored { duplicate: false }
    }

    fn wake_at(&self, now: u64) -> u64 {
        let lookup = self.lookup.as_ref().map(|(at, _)| *at);
        let core = self.core.as_ref().map(CoreWork::at);
        [lookup, core, self.link.wake_at(now)].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    fn restart(&mut self) {
        self.boots += 1;
        self.link = gateway_link(self.boots);
        (self.lookup, self.core) = (None, None);
    }
}

#[derive(Clone)]
struct KeptOrder {
    order: usize,
    maybe_stored: bool,
    bytes: Vec<u8>,
}

/// What the terminal keeps across its own restart.
#[derive(Default)]
struct Flash {
    session: Option<u64>,
    first: u64,
    kept: VecDeque<KeptOrder>,
    to_submit: VecDeque<KeptOrder>,
}

struct TerminalEnd {
    link: TerminalLink,
    flash: Flash,
    /// An answer that is not noted yet.
    noting: Option<(u64, u64, Verdict)>,
    starts: u32,
    done: BTreeSet<usize>,
}

fn terminal_link(flash: &Flash, nonce: u32, now: u64) -> TerminalLink {
    let resume = flash.session.map(|session| Resume { session, first: flash.first });
    TerminalLink::new("till-1", Wants::default(), resume, flash.first + flash.kept.len() as u64, nonce, now)
}

impl TerminalEnd {
    fn receive(&mut self, now: u64, mut bytes: &[u8], random: &mut Random) {
        while !bytes.is_empty() {
            match self.link.receive(now, &mut bytes) {
                Some(TerminalEvent::Opened { session, maybe_stored }) => {
                    // Cut here, nothing is noted: the next start opens yet another session.
                    for kept in self.flash.kept.iter_mut().take(maybe_stored as usize) {
                        kept.maybe_stored = true;
                    }
                    (self.flash.session, self.flash.first) = (Some(session), 1);
                    self.noting = None;
                    self.link.begin(self.flash.kept.len() as u64);
                }
                Some(TerminalEvent::Answered { number, answer }) => {
                    let verdict = match answer {
                        Answer::Stored { duplicate, .. } => Verdict::Stored { duplicate },
                        Answer::Rejected { code, .. } => Verdict::Rejected(code),
                    };
                    self.noting = Some((now + random.below(50), number, verdict));
                }
                Some(TerminalEvent::Resumed { .. } | TerminalEvent::Refused(_)) | None => {}
                Some(TerminalEvent::Status(_) | TerminalEvent::Board(_)) => panic!("nobody asked for pushes"),
            }
        }
    }

    fn work(&mut self, now: u64, store: &Store) {
        if let Some((_, number, verdict)) = self.noting.take_if(|(at, ..)| *at <= now) {
            assert_eq!(number, self.flash.first, "answers are taken in number order");
            let session = self.flash.session.unwrap();
            let kept = self.flash.kept.pop_front().unwrap();
            let in_store = store.remembered.get(&(session, number));
            match verdict {
                Verdict::Stored { .. } => {
                    assert!(in_store == Some(&kept.order) || store.replaced, "stored was said of what is not stored");
                    assert!(self.done.insert(kept.order), "an order was finished twice");
                }
                Verdict::Rejected(Code::Busy) => {
                    assert_eq!(in_store, None, "rejected was said of what is stored");
                    self.flash.to_submit.push_back(kept);
                }
                Verdict::Rejected(Code::TooLarge) => {
                    assert!(kept.bytes.len() > REQUEST_BYTES_MAX);
                    self.done.insert(kept.order);
                }
                Verdict::Rejected(code) => panic!("number {number} was rejected as {code:?}"),
            }
            self.flash.first = number + 1;
            self.link.finish(number);
        }
        while self.link.next().is_some() {
            let Some(order) = self.flash.to_submit.pop_front() else { break };
            self.flash.kept.push_back(order);
            self.link.submit();
        }
    }

    fn restart(&mut self, now: u64, random: &mut Random) {
        self.starts += 1;
        let nonce = random.next() as u32;
        self.link = terminal_link(&self.flash, nonce, now);
        self.noting = None;
    }
}

fn request_of(order: usize, random: &mut Random) -> Vec<u8> {
    let len = match random.below(20) {
        0 => REQUEST_BYTES_MAX,
        1 => REQUEST_BYTES_MAX + 1 + random.below(60_000) as usize,
        2..8 => 100 + random.below(3_000) as usize,
        _ => 8 + random.below(400) as usize,
    };
    let mut bytes = vec![b' '; len];
    bytes[..8].copy_from_slice(&(order as u64).to_le_bytes());
    bytes
}

fn order_of(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

fn simulate(seed: u64, faults: Faults) -> (GatewayEnd, TerminalEnd, Vec<(usize, bool)>) {
    let mut random = Random(seed);
    let mut gateway = GatewayEnd { link: gateway_link(0), store: Store::default(), lookup: None, core: None, boots: 0 };
    let mut flash = Flash { first: 1, ..Flash::default() };
    let mut to_come: VecDeque<KeptOrder> =
        (0..ORDERS).map(|order| KeptOrder { order, maybe_stored: false, bytes: request_of(order, &mut random) }).collect();
    flash.to_submit.extend(to_come.drain(..ORDERS / 2));
    let link = terminal_link(&flash, 0, 0);
    let mut terminal = TerminalEnd { link, flash, noting: None, starts: 0, done: BTreeSet::new() };
    let (mut up, mut down) = (Line::default(), Line::default());
    let mut earlier_stores = Vec::new();
    let mut now = 0;
    while terminal.done.len() < ORDERS || !to_come.is_empty() {
        assert!(now < END_MS, "seed {seed}, {faults:?}: not finished; {} of {ORDERS} done", terminal.done.len());
        if terminal.done.len() * 2 >= ORDERS {
            terminal.flash.to_submit.extend(to_come.pop_front());
        }
        while let Some(bytes) = up.arrived(now) {
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                gateway.link.receive(now, &mut bytes);
                gateway.work(now, &faults, &mut random);
            }
        }
        while let Some(bytes) = down.arrived(now) {
            terminal.receive(now, &bytes, &mut random);
        }
        gateway.work(now, &faults, &mut random);
        terminal.work(now, &gateway.store);
        if up.free_at <= now {
            let (link, flash) = (&mut terminal.link, &terminal.flash);
            let kept = |number: u64| {
                let kept = flash.kept.get(usize::try_from(number.checked_sub(flash.first)?).ok()?)?;
                Some(Kept { bytes: &kept.bytes, maybe_stored: kept.maybe_stored })
            };
            if let Some(frame) = link.poll_frame(now, kept) {
                up.send(now, &frame, &faults, &mut random);
            }
        }
        if down.free_at <= now
            && let Some(frame) = gateway.link.poll_frame(now)
        {
            down.send(now, &frame, &faults, &mut random);
        }
        let restarts = now < RESTARTS_END_MS;
        if restarts && random.once_in(faults.gateway_restart) {
            gateway.restart();
        }
        if restarts && random.once_in(faults.terminal_restart) {
            terminal.restart(now, &mut random);
        }
        if restarts && random.once_in(faults.store_replaced) {
            earlier_stores.append(&mut gateway.store.stored);
            gateway.store = Store { replaced: true, ..Store::default() };
            gateway.restart();
        }
        let noting = terminal.noting.as_ref().map_or(u64::MAX, |(at, ..)| *at);
        let ends = terminal.link.wake_at().min(gateway.wake_at(now)).min(noting);
        let lines = up.wake_at().min(down.wake_at());
        let free = [up.free_at, down.free_at].into_iter().filter(|at| *at > now).min().unwrap_or(u64::MAX);
        now = ends.min(lines).min(free).max(now + 1);
    }
    (gateway, terminal, earlier_stores)
}

fn assert_each_order_is_stored_once(seed: u64, faults: Faults) {
    let (gateway, terminal, _) = simulate(seed, faults);
    let mut times = BTreeMap::<usize, usize>::new();
    for (order, maybe_stored) in &gateway.store.stored {
        *times.entry(*order).or_default() += 1;
        assert!(!maybe_stored, "seed {seed}: no session was lost");
    }
    assert!(times.values().all(|n| *n == 1), "seed {seed}, {faults:?}: {times:?}");
    assert_eq!(terminal.done.len(), ORDERS);
    assert_eq!(terminal.flash.kept.len(), 0);
}

#[test]
fn a_clean_line_stores_each_order_once_and_resends_nothing() {
    for seed in 0..50 {
        let (gateway, terminal, _) = simulate(seed, Faults::default());
        let counters = gateway.link.counters();
        assert_eq!(gateway.store.sessions.len(), 1);
        assert_eq!((counters.garbled, counters.oversized, counters.unknown, counters.out_of_place), (0, 0, 0, 0), "seed {seed}");
        assert_eq!(terminal.link.counters().garbled, 0);
    }
}

#[test]
fn a_lossy_line_stores_each_order_once() {
    for seed in 0..150 {
        let faults = Faults { frame_lost: 3 + seed % 20, slow_core_ms: seed % 300, busy: 4, ..Faults::default() };
        assert_each_order_is_stored_once(seed, faults);
    }
}

#[test]
fn a_noisy_line_stores_each_order_once() {
    for seed in 0..150 {
        let faults = Faults { byte_garbled: 200 + 40 * (seed % 50), noise: 5 + seed % 30, slow_core_ms: 20, busy: 4, ..Faults::default() };
        assert_each_order_is_stored_once(seed, faults);
    }
}

#[test]
fn restarts_of_either_end_at_any_moment_store_each_order_once() {
    for seed in 0..300 {
        let faults = Faults {
            frame_lost: 20,
            byte_garbled: 3000,
            noise: 60,
            gateway_restart: 40 + seed % 400,
            terminal_restart: 40 + seed * 7 % 400,
            busy: 3,
            slow_core_ms: seed % 200,
            ..Faults::default()
        };
        assert_each_order_is_stored_once(seed, faults);
    }
}

#[test]
fn a_lost_session_doubles_only_what_says_so() {
    for seed in 0..200 {
        let faults = Faults {
            frame_lost: 20,
            noise: 60,
            gateway_restart: 300,
            terminal_restart: 300,
            store_replaced: 100 + seed % 300,
            slow_core_ms: seed % 100,
            ..Faults::default()
        };
        let (gateway, terminal, mut stored) = simulate(seed, faults);
        stored.extend(&gateway.store.stored);
        let mut seen = BTreeSet::new();
        for (order, maybe_stored) in stored {
            assert!(seen.insert(order) || maybe_stored, "seed {seed}: order {order} is doubled and does not say so");
        }
        assert_eq!(terminal.done.len(), ORDERS);
    }
}
