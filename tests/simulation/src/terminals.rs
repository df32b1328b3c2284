//! The terminals: they submit, wait, ask again, restart, and mix things up.

use crate::deed::Deed;
use crate::faults::Fault;
use crate::model::{Check, Violation};
use crate::world::{Event, World};
use gateway::ids::{Name, OrderId, ReplyTo, RequestId, SessionId};
use gateway::io::{Input, SessionMark, Submission};
use gateway::request::{Answer, Code, Request};

/// A terminal waits so long for an answer, the first and the last time.
const PATIENCE_MS: (u64, u64) = (4_000, 30 * 60_000);
/// It stops asking so long before the gateway may forget.
const FORGETS_BEFORE_MS: u64 = 20 * 60_000;
/// How often in a run a terminal that is busy looks whether it may submit something new.
const LOOKS_MAX: u64 = 300;
/// Sessions that one terminal opens in its life: the store keeps 64.
const SESSIONS_MAX: u32 = 50;

/// Something submitted that waits for an answer.
#[derive(Debug, Clone)]
pub struct Order {
    /// The simulator's own number: answers find back by it even where ids are mixed up.
    pub number: u64,
    id: RequestId,
    body: String,
    deed: Deed,
    mark: Option<SessionMark>,
    maybe_stored: bool,
    tries: u32,
    first_ms: u64,
}

/// What a terminal does next.
#[derive(Debug, Clone)]
pub enum Step {
    /// It submits something new.
    New,
    /// Its patience with that one is over.
    Again {
        /// The submission.
        number: u64,
        /// The try that was not answered.
        tries: u32,
    },
    /// An answer arrives.
    Answer(u64, Answer),
    /// A session may be used, or not.
    Session(SessionId, bool),
    /// The session that it asked for never came.
    NoSession(SessionId),
    /// It restarts.
    Restart,
    /// It asks for something again that was answered long ago.
    LateRepeat,
}

impl Step {
    /// The terminal, or whoever stands there, begins it.
    pub fn is_by_itself(&self) -> bool {
        match self {
            Step::New | Step::Again { .. } | Step::Restart | Step::LateRepeat => true,
            Step::Answer(..) | Step::Session(..) | Step::NoSession(_) => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// No sessions: several requests at once.
    Plain,
    /// No session yet.
    Closed,
    /// Asked for one.
    Opening(SessionId),
    /// One submission at a time, each with the next number.
    Open(SessionId, u64),
}

/// A terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Its name.
    pub name: Name,
    link: Link,
    sessions: u32,
    waiting: Vec<Order>,
    /// What was answered, for late repeats and mixed up ids.
    answered: Vec<Order>,
}

impl Terminal {
    /// A terminal; serial ones have sessions.
    pub fn new(index: usize, serial: bool) -> Terminal {
        let name = format!("till-{index}").parse().expect("a name");
        Terminal { name, link: if serial { Link::Closed } else { Link::Plain }, sessions: 0, waiting: vec![], answered: vec![] }
    }

    /// Whether it waits for nothing.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !matches!(self.link, Link::Opening(_))
    }
}

impl World {
    /// An order that was heard of, lately more likely, or one that nobody knows.
    pub fn some_order(&mut self) -> OrderId {
        let ghost = |n: u64| format!("ghost-{n}").parse().expect("an order id");
        if self.orders.is_empty() || self.dice.chance(50) {
            return ghost(self.dice.below(3));
        }
        let len = self.orders.len();
        let index = if self.dice.chance(700) { len - 1 - self.dice.index(len.min(4)) } else { self.dice.index(len) };
        self.orders[index].clone()
    }

    /// A terminal does what was due.
    ///
    /// # Errors
    /// What the gateway did wrong meanwhile.
    pub fn terminal_step(&mut self, who: usize, step: Step) -> Check {
        match step {
            Step::New => self.submit_new(who),
            Step::Again { number, tries } => {
                let waits = |order: &&Order| order.number == number && order.tries == tries;
                if self.terminals[who].waiting.iter().any(|order| waits(&order)) {
                    self.send_again(who, number);
                }
                Ok(())
            }
            Step::Answer(number, answer) => self.hear(who, number, &answer),
            Step::Session(session, durable) => {
                let terminal = &mut self.terminals[who];
                if terminal.link == Link::Opening(session) {
                    terminal.link = if durable { Link::Open(session, 0) } else { Link::Closed };
                    if durable {
                        self.resubmit(who);
                    }
                }
                Ok(())
            }
            Step::NoSession(session) => {
                if self.terminals[who].link == Link::Opening(session) {
                    self.terminals[who].link = Link::Closed;
                    if !self.terminals[who].waiting.is_empty() {
                        return self.open_session(who);
                    }
                }
                Ok(())
            }
            Step::Restart => self.restart(who),
            Step::LateRepeat => {
                self.repeat_late(who);
                Ok(())
            }
        }
    }

    fn submit_new(&mut self, who: usize) -> Check {
        if self.submissions >= self.profile.submissions_max || !self.stormy {
            return Ok(());
        }
        let pause = self.dice.below(2 * self.profile.pause_ms + 1);
        let terminal = &self.terminals[who];
        let waits = match terminal.link {
            Link::Plain => terminal.waiting.len() >= self.profile.window,
            Link::Closed | Link::Opening(_) => true,
            Link::Open(..) => !terminal.waiting.is_empty(),
        };
        let looks_again = (self.profile.stormy_ms / LOOKS_MAX).max(300);
        self.at(if waits { pause.max(looks_again) } else { pause }, Event::Terminal(who, Step::New));
        if waits {
            return if self.terminals[who].link == Link::Closed { self.open_session(who) } else { Ok(()) };
        }
        self.submissions += 1;
        let (deed, order) = self.invent();
        let mut fields = vec![format!(r#""type":"{}""#, deed.event_type()), format!(r#""data":{}"#, deed.data(""))];
        fields.extend(order.map(|order| format!(r#""orderId":"{order}""#)));
        if self.storm(Fault::Poison) && self.dice.chance(60) {
            fields.push(r#""userId":"poison""#.into());
        }
        if self.storm(Fault::ShortValidity) && self.dice.chance(300) {
            fields.push(format!(r#""validForMs":{}"#, self.dice.below(200)));
        }
        let body = fields.join(",");
        let plain = self.terminals[who].link == Link::Plain;
        let mix_up = plain && self.storm(Fault::MixedUpIds) && self.dice.chance(100);
        self.numbers += 1;
        let number = self.numbers;
        let mut order = Order {
            number,
            id: format!("r-{number}-{:08x}", self.dice.below(1 << 32)).parse().expect("a request id"),
            body,
            deed,
            mark: None,
            maybe_stored: false,
            tries: 0,
            first_ms: self.now_ms,
        };
        let terminal = &self.terminals[who];
        let fresh = |other: &&Order| self.now_ms - other.first_ms < self.asks_for_ms();
        let others: Vec<_> = terminal.waiting.iter().chain(&terminal.answered).filter(fresh).map(|o| (o.id.clone(), o.first_ms)).collect();
        if mix_up && !others.is_empty() {
            (order.id, order.first_ms) = others[self.dice.index(others.len())].clone();
        }
        self.number(who, &mut order);
        self.terminals[who].waiting.push(order);
        self.send_again(who, number);
        Ok(())
    }

    fn invent(&mut self) -> (Deed, Option<OrderId>) {
        if self.dice.chance(450) {
            let deed = Deed::new_order(&mut self.dice);
            let order = match self.dice.below(10) {
                0..4 => None,
                4..9 => {
                    let order: OrderId = format!("o-{}", self.orders.len() + 1).parse().expect("an order id");
                    self.orders.push(order.clone());
                    Some(order)
                }
                _ => Some(self.some_order()),
            };
            (deed, order)
        } else {
            (Deed::any_change(&mut self.dice), Some(self.some_order()))
        }
    }

    /// In a session a submission is named by its number.
    fn number(&mut self, who: usize, order: &mut Order) {
        if let Link::Open(session, last) = &mut self.terminals[who].link {
            *last += 1;
            order.id = format!("{:016x}-{last}", session.0).parse().expect("a request id");
            order.mark = Some(SessionMark { session: *session, number: *last });
        }
    }

    fn open_session(&mut self, who: usize) -> Check {
        let terminal = &mut self.terminals[who];
        if terminal.sessions >= SESSIONS_MAX {
            return Ok(());
        }
        terminal.sessions += 1;
        let session = SessionId(self.dice.next());
        terminal.link = Link::Opening(session);
        let name = terminal.name.clone();
        self.at(5_000, Event::Terminal(who, Step::NoSession(session)));
        if self.gateway.is_none() {
            return Ok(());
        }
        let reply_to = self.reply_to();
        self.sessions_asked.insert(reply_to, (who, session));
        self.model.session_opening(reply_to);
        self.feed(Input::OpenSession { reply_to, terminal: name, session })
    }

    /// The session is new: what was not answered goes with new numbers, and may have been stored before.
    fn resubmit(&mut self, who: usize) {
        let waiting = std::mem::take(&mut self.terminals[who].waiting);
        for mut order in waiting {
            order.maybe_stored = true;
            order.first_ms = self.now_ms;
            self.numbers += 1;
            order.number = self.numbers;
            self.number(who, &mut order);
            let number = order.number;
            self.terminals[who].waiting.push(order);
            self.send_again(who, number);
        }
    }

    /// How long after the first time a terminal may ask again.
    fn asks_for_ms(&self) -> u64 {
        self.profile.settings.remember_ms - FORGETS_BEFORE_MS
    }

    fn send_again(&mut self, who: usize, number: u64) {
        let too_old = self.asks_for_ms();
        let now_ms = self.now_ms;
        let waiting = &mut self.terminals[who].waiting;
        let Some(place) = waiting.iter().position(|order| order.number == number) else { return };
        if now_ms - waiting[place].first_ms > too_old {
            // Its answer may be forgotten soon; asking on would store it again.
            waiting.remove(place);
            return;
        }
        let order = &mut waiting[place];
        order.tries += 1;
        let (tries, order) = (order.tries, order.clone());
        let patience = (PATIENCE_MS.0 << tries.min(20)).min(PATIENCE_MS.1);
        self.at(patience, Event::Terminal(who, Step::Again { number, tries }));
        self.transmit(who, &order);
    }

    fn transmit(&mut self, who: usize, order: &Order) {
        let copies = match () {
            () if self.storm(Fault::LossyHouse) && self.dice.chance(200) => 0,
            () if self.storm(Fault::DuplicatingHouse) && self.dice.chance(200) => 2,
            () => 1,
        };
        for _ in 0..copies {
            let after = self.dice.between(0, 40);
            self.at(after, Event::Arrive(who, Box::new(order.clone())));
        }
    }

    /// A request arrives at the gateway, if there is one.
    ///
    /// # Errors
    /// What the gateway does wrong.
    pub fn arrive(&mut self, who: usize, order: &Order) -> Check {
        if self.gateway.is_none() {
            return Ok(());
        }
        let body = format!(r#"{{"requestId":"{}",{}}}"#, order.id, order.body);
        let request = Request::parse(body.as_bytes()).map_err(|e| Violation(format!("{e}: {body}")))?;
        let terminal = self.terminals[who].name.clone();
        let submission = Submission { terminal, request, session: order.mark, maybe_stored: order.maybe_stored };
        let reply_to = self.reply_to();
        self.replies.insert(reply_to, (who, order.number));
        let now = self.clock();
        self.model.submitted(now, reply_to, &submission, &order.deed);
        self.feed(Input::Submit { reply_to, submission })
    }

    /// The ingress carries an answer to its terminal.
    pub fn answer(&mut self, reply_to: ReplyTo, answer: Answer) {
        let Some((who, number)) = self.replies.remove(&reply_to) else { return };
        if self.storm(Fault::LossyHouse) && self.dice.chance(200) {
            return;
        }
        let after = self.dice.between(0, 40);
        self.at(after, Event::Terminal(who, Step::Answer(number, answer)));
    }

    fn hear(&mut self, who: usize, number: u64, answer: &Answer) -> Check {
        let Some(place) = self.terminals[who].waiting.iter().position(|order| order.number == number) else { return Ok(()) };
        match answer {
            Answer::Rejected(rejected) if matches!(rejected.code, Code::Busy | Code::Full) => {
                let tries = self.terminals[who].waiting[place].tries;
                // It tires of asking: an outage of weeks is long.
                let tired = (PATIENCE_MS.0 << tries.saturating_sub(10).min(20)).min(PATIENCE_MS.1);
                let after = rejected.retry_after_ms.unwrap_or(1_000).max(tired) + self.dice.below(500) + self.pause_left_ms();
                self.at(after, Event::Terminal(who, Step::Again { number, tries }));
                return Ok(());
            }
            Answer::Rejected(_) => {}
            Answer::Stored(stored) => {
                if !self.orders.contains(&stored.order_id) {
                    self.orders.push(stored.order_id.clone());
                }
            }
        }
        let order = self.terminals[who].waiting.remove(place);
        let repeats = self.storm(Fault::LateRepeats) && self.dice.chance(300);
        self.terminals[who].answered.push(order);
        if repeats {
            let after = self.dice.below(self.profile.settings.remember_ms);
            self.at(after, Event::Terminal(who, Step::LateRepeat));
        }
        Ok(())
    }

    fn restart(&mut self, who: usize) -> Check {
        if self.stormy {
            let after = self.dice.between(1_000, self.profile.stormy_ms);
            self.at(after, Event::Terminal(who, Step::Restart));
        }
        let forgets = self.dice.chance(400);
        match self.terminals[who].link {
            // It forgot what it was waiting for; whoever stands there orders again, under another id.
            Link::Plain if forgets => self.terminals[who].waiting.clear(),
            Link::Open(..) if forgets => {
                self.terminals[who].link = Link::Closed;
                return self.open_session(who);
            }
            Link::Plain | Link::Closed | Link::Opening(_) | Link::Open(..) => {
                let numbers: Vec<u64> = self.terminals[who].waiting.iter().map(|order| order.number).collect();
                for number in numbers {
                    if !matches!(self.terminals[who].link, Link::Closed | Link::Opening(_)) {
                        self.send_again(who, number);
                    }
                }
            }
        }
        Ok(())
    }

    fn repeat_late(&mut self, who: usize) {
        let limit = self.asks_for_ms();
        let now_ms = self.now_ms;
        // A session's numbers never expire.
        let safe = |order: &&Order| order.mark.is_some() || now_ms - order.first_ms < limit;
        let fresh: Vec<Order> = self.terminals[who].answered.iter().filter(safe).cloned().collect();
        if !fresh.is_empty() {
            let order = fresh[self.dice.index(fresh.len())].clone();
            self.transmit(who, &order);
        }
    }
}
