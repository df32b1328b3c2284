//! What serves one printer: it hears of orders, knows what is missing on paper, and prints it, one ticket after the other.

use super::link::{Link, Trouble};
use super::plan::{self, Needed};
use super::receipt::Bill;
use super::status::State;
use super::ticket::{Copy, Kind, Style, Ticket, lay_out};
use super::{Desk, Printers};
use crate::attention::Attention;
use crate::config::{PrinterKind, Pulse};
use crate::handle::{Handle, StoreAway};
use gateway::ids::{OrderId, Seq};
use gateway::io::Decided;
use gateway::order::Projection;
use gateway::printed::{MARKS_MAX, Paper, PrintKey, Printed};
use gateway::settings::OPEN_ORDERS_MAX;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// A printer that has nothing to print is asked so often how it is.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// One that answers and does not print is asked so often.
const BLOCKED_RETRY: Duration = Duration::from_secs(2);
/// First and longest wait before one that cannot be reached, or hangs, is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// So many times a ticket is printed that is never said to be on paper: the last time it counts as printed.
const TRIES_MAX: u32 = 2;
/// What is on paper is written down with the next ticket, or after so long: until then a crash prints it again, as a copy.
const SAVE_AFTER: Duration = Duration::from_secs(10);
/// The store is tried again after so long.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// A ticket may take so long to its end when the daemon stops, and writing down what is on paper.
const STOP_MAX: Duration = Duration::from_millis(1_500);
const LAST_SAVE_MAX: Duration = Duration::from_secs(1);
/// Steps of a receipt's search for prices in the journal.
const BILL_STEPS_MAX: usize = 16;

/// Serves one printer.
pub struct Worker {
    desk: Arc<Desk>,
    told: (Printers, Attention),
    handle: Handle,
    style: Style,
    at_start: Arc<BTreeSet<OrderId>>,
    changes: broadcast::Receiver<Arc<Projection>>,
    asked_for: mpsc::Receiver<OrderId>,
    /// Copies that people want.
    asked: VecDeque<OrderId>,
    /// Orders that miss a ticket, oldest first: at most [`OPEN_ORDERS_MAX`].
    waiting: BTreeSet<(i64, OrderId)>,
    /// What the printer has of the orders that are open or wait. A copy of what is durable.
    marks: BTreeMap<OrderId, Printed>,
    /// What is on paper, and not written down yet.
    unsaved: BTreeMap<OrderId, Printed>,
    save_at: Option<Instant>,
    /// What is to be printed was found in the store, and changes are heard of since.
    is_up_to_date: bool,
    /// More wait than there is room for: they are found again once the others are printed.
    crowded: bool,
    link: Option<Link>,
    /// When the printer is looked at next; work does not wait for it unless there is trouble.
    look_at: Instant,
    trouble: bool,
    backoff: Duration,
    tries: Option<(OrderId, u32)>,
    /// It does not say that tickets are on paper, whatever its config says.
    deaf: bool,
}

/// A ticket to print.
struct Work {
    order: Projection,
    paper: Paper,
    printed: Printed,
    /// Somebody wants it once more.
    asked: bool,
}

/// Why printing stopped.
#[derive(Debug)]
enum Stopped {
    Printer(Trouble),
    Store,
}

impl From<Trouble> for Stopped {
    fn from(trouble: Trouble) -> Stopped {
        Stopped::Printer(trouble)
    }
}

impl From<StoreAway> for Stopped {
    fn from(_: StoreAway) -> Stopped {
        Stopped::Store
    }
}

impl Worker {
    pub fn new(
        desk: Arc<Desk>,
        asked_for: mpsc::Receiver<OrderId>,
        handle: Handle,
        zone: TimeZone,
        at_start: Arc<BTreeSet<OrderId>>,
        told: (Printers, Attention),
    ) -> Worker {
        let config = &desk.config;
        let pulse = match config.pulse {
            Pulse::None => None,
            Pulse::Pin2 => Some(0),
            Pulse::Pin5 => Some(1),
        };
        let style = Style { columns: config.columns, code_page: config.code_page, cut: config.cut, pulse, zone };
        Worker {
            changes: handle.changes(),
            desk,
            told,
            handle,
            style,
            at_start,
            asked_for,
            asked: VecDeque::new(),
            waiting: BTreeSet::new(),
            marks: BTreeMap::new(),
            unsaved: BTreeMap::new(),
            save_at: None,
            is_up_to_date: false,
            crowded: false,
            link: None,
            look_at: Instant::now(),
            trouble: false,
            backoff: RETRY.0,
            tries: None,
            deaf: false,
        }
    }

    /// Serves until `stop`; a ticket that is being printed then has a moment to end.
    pub async fn run(mut self, stop: CancellationToken) {
        let ended = async {
            stop.cancelled().await;
            sleep(STOP_MAX).await;
        };
        let serve = async {
            while !stop.is_cancelled() {
                self.step(&stop).await;
            }
        };
        tokio::select! {
            () = serve => {}
            () = ended => {}
        }
        let saved = async { while !self.unsaved.is_empty() && self.save(vec![]).await.is_ok() {} };
        if timeout(LAST_SAVE_MAX, saved).await.is_err() {
            tracing::debug!(printer = %self.desk.config.name, "what is on paper could not be written down: it is printed again, as a copy");
        }
    }

    /// Waits for something to do, and does it.
    async fn step(&mut self, stop: &CancellationToken) {
        if self.crowded && self.waiting.is_empty() {
            (self.crowded, self.is_up_to_date) = (false, false);
        }
        if !self.is_up_to_date && self.catch_up().await.is_err() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(STORE_RETRY) => {}
            }
            return;
        }
        let has_work = !self.waiting.is_empty() || !self.asked.is_empty();
        let work_at = if has_work && !self.trouble { Instant::now() } else { self.look_at };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep_until(work_at.min(self.save_at.unwrap_or(work_at))) => {}
            change = self.changes.recv() => match change {
                Ok(order) => self.is_up_to_date = self.consider(&order).await.is_ok(),
                Err(RecvError::Lagged(_) | RecvError::Closed) => self.is_up_to_date = false,
            },
            Some(order) = self.asked_for.recv() => self.asked.push_back(order),
        }
        let now = Instant::now();
        if self.save_at.is_some_and(|at| at <= now) && self.save(vec![]).await.is_err() {
            self.save_at = Some(now + STORE_RETRY);
        }
        if work_at <= now && self.is_up_to_date {
            let ended = self.serve(stop).await;
            self.ended(ended);
        }
    }

    /// Decides when to look at the printer again.
    fn ended(&mut self, ended: Result<(), Stopped>) {
        self.trouble = ended.is_err();
        let wait = match ended {
            Ok(()) => {
                self.backoff = RETRY.0;
                LOOK_EVERY
            }
            Err(Stopped::Store) => STORE_RETRY,
            Err(Stopped::Printer(Trouble { state, why })) => {
                self.show(state, &why);
                if matches!(state, State::Offline | State::Hanging) {
                    let wait = self.backoff;
                    self.backoff = (wait * 2).min(RETRY.1);
                    wait
                } else {
                    BLOCKED_RETRY
                }
            }
        };
        self.look_at = Instant::now() + wait;
    }

    fn show(&self, state: State, why: &str) {
        if self.desk.show(state, why) {
            let (name, waiting) = (&self.desk.config.name, self.waiting.len());
            if state.needs_a_person() {
                tracing::warn!(printer = %name, %state, why, waiting, "the printer does not print");
            } else {
                tracing::info!(printer = %name, %state, waiting, "the printer prints");
            }
            self.told.0.tell(&self.told.1);
        }
    }

    // ---- what is missing on paper

    fn key(&self, order: Option<&OrderId>) -> PrintKey {
        PrintKey { printer: self.desk.config.name.clone(), order: order.cloned() }
    }

    fn paper(&self, order: &Projection) -> Paper {
        plan::paper(order, self.desk.config.stations.as_deref())
    }

    /// Finds in the store what misses a ticket.
    async fn catch_up(&mut self) -> Result<(), StoreAway> {
        self.changes = self.handle.changes();
        self.waiting.clear();
        self.marks.clear();
        let orders = self.handle.orders(None, OPEN_ORDERS_MAX).await?;
        if self.handle.printed(self.key(None)).await?.is_none() {
            self.begin_with(&orders).await?;
        }
        for order in &orders {
            self.consider(order).await?;
        }
        let mut after = None;
        loop {
            let (cancelled, next) = self.handle.cancelled_since_printed(self.desk.config.name.clone(), after).await?;
            for order in &cancelled {
                self.consider(order).await?;
            }
            match next {
                Some(_) => after = next,
                None => break,
            }
        }
        self.is_up_to_date = true;
        Ok(())
    }

    /// A printer that is new in a house does not begin with what was there before it.
    async fn begin_with(&mut self, orders: &[Projection]) -> Result<(), StoreAway> {
        let before = orders.iter().filter(|order| self.at_start.contains(&order.order_id));
        let marks: Vec<_> = before.map(|order| (self.key(Some(&order.order_id)), plan::done(self.paper(order)))).collect();
        for marks in marks.chunks(MARKS_MAX) {
            self.save(marks.to_vec()).await?;
        }
        self.save(vec![(self.key(None), Printed::default())]).await
    }

    /// Holds an order against what the printer has of it.
    async fn consider(&mut self, order: &Projection) -> Result<(), StoreAway> {
        let id = &order.order_id;
        let printed = match self.unsaved.get(id).or_else(|| self.marks.get(id)) {
            Some(printed) => printed.clone(),
            None => self.handle.printed(self.key(Some(id))).await?.unwrap_or_default(),
        };
        let paper = self.paper(order);
        let place = (order.created_at_ms, id.clone());
        let unprinted = printed == Printed::default();
        if unprinted && self.was_printed_before_this_card(order) {
            self.waiting.remove(&place);
            self.on_paper(id, paper);
        } else if plan::needed(&paper, order.open, &printed).is_none() {
            if self.waiting.remove(&place) && unprinted && !paper.cancelled && !plan::is_empty(&paper) {
                self.desk.figures.missed.inc();
                self.desk.view().missed += 1;
                tracing::warn!(printer = %self.desk.config.name, order = %id, "an order left the board before its ticket could be printed");
            }
            self.remember(order, printed);
        } else if self.waiting.len() < OPEN_ORDERS_MAX || self.waiting.contains(&place) {
            self.waiting.insert(place);
            self.remember(order, printed);
        } else {
            self.crowded = true;
            self.desk.figures.crowded.inc();
        }
        self.desk.view().waiting = self.waiting.len();
        self.desk.figures.waiting.set(i64::try_from(self.waiting.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// What a new store is told of the time before it was printed then. What is admitted meanwhile is marked, and the centre's orders
    /// have no terminal.
    fn was_printed_before_this_card(&self, order: &Projection) -> bool {
        self.handle.state().borrow().gauges.rebuilding && order.terminal.is_some() && !order.maybe_stored
    }

    fn remember(&mut self, order: &Projection, printed: Printed) {
        if self.marks.len() >= 2 * OPEN_ORDERS_MAX {
            // They are read again.
            self.marks.clear();
        }
        if order.open || self.waiting.contains(&(order.created_at_ms, order.order_id.clone())) {
            self.marks.insert(order.order_id.clone(), printed);
        } else {
            self.marks.remove(&order.order_id);
        }
    }

    fn on_paper(&mut self, order: &OrderId, paper: Paper) {
        self.marks.insert(order.clone(), plan::done(paper.clone()));
        self.unsaved.insert(order.clone(), plan::done(paper));
        self.save_at.get_or_insert(Instant::now() + SAVE_AFTER);
    }

    /// Makes these marks durable, and of those that wait for it as many as there is room for.
    async fn save(&mut self, mut marks: Vec<(PrintKey, Printed)>) -> Result<(), StoreAway> {
        let due: Vec<OrderId> = self.unsaved.keys().take(MARKS_MAX - marks.len()).cloned().collect();
        let others = due.iter().filter(|order| !marks.iter().any(|(key, _)| key.order.as_ref() == Some(order)));
        let others: Vec<_> = others.filter_map(|order| Some((self.key(Some(order)), self.unsaved.get(order)?.clone()))).collect();
        marks.extend(others);
        if marks.is_empty() {
            self.save_at = None;
            return Ok(());
        }
        let saved: Vec<OrderId> = marks.iter().filter_map(|(key, _)| key.order.clone()).collect();
        match self.handle.print(marks).await? {
            Decided::Done { .. } => {}
            Decided::Unknown | Decided::Busy | Decided::Full => return Err(StoreAway),
        }
        for order in &saved {
            self.unsaved.remove(order);
        }
        self.save_at = (!self.unsaved.is_empty()).then(|| Instant::now() + SAVE_AFTER);
        Ok(())
    }

    // ---- printing

    /// Looks at the printer, and prints all that waits.
    async fn serve(&mut self, stop: &CancellationToken) -> Result<(), Stopped> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => Link::open(&self.desk.config.port).await?,
        };
        let ended = self.serve_over(&mut link, stop).await;
        let is_gone = matches!(&ended, Err(Stopped::Printer(Trouble { state: State::Offline | State::Hanging, .. })));
        if is_gone {
            drop(link);
        } else if link.stays {
            self.link = Some(link);
        } else {
            link.close().await;
        }
        ended
    }

    async fn serve_over(&mut self, link: &mut Link, stop: &CancellationToken) -> Result<(), Stopped> {
        loop {
            self.look(link).await?;
            self.follow().await?;
            if stop.is_cancelled() {
                return Ok(());
            }
            let Some(work) = self.next().await? else { return Ok(()) };
            self.print(link, work).await?;
        }
    }

    async fn look(&mut self, link: &mut Link) -> Result<(), Trouble> {
        let state = if self.desk.config.status {
            link.state().await?
        } else {
            link.listen().await?;
            State::Ok
        };
        self.show(state, "");
        if state.prints() { Ok(()) } else { Err(Trouble::new(state, "")) }
    }

    /// Takes in what changed while a ticket was being printed.
    async fn follow(&mut self) -> Result<(), StoreAway> {
        loop {
            match self.changes.try_recv() {
                Ok(order) => {
                    // What could not be looked at is found again.
                    self.is_up_to_date = false;
                    self.consider(&order).await?;
                    self.is_up_to_date = true;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => self.catch_up().await?,
            }
        }
        while let Ok(order) = self.asked_for.try_recv() {
            self.asked.push_back(order);
        }
        Ok(())
    }

    /// The next ticket, of the order as it is now.
    async fn next(&mut self) -> Result<Option<Work>, StoreAway> {
        while let Some(place) = self.waiting.first().cloned() {
            let Some(order) = self.handle.order(place.1.clone()).await? else {
                self.waiting.remove(&place);
                continue;
            };
            self.consider(&order).await?;
            if self.waiting.contains(&place) {
                let (paper, printed) = (self.paper(&order), self.marks.get(&place.1).cloned().unwrap_or_default());
                return Ok(Some(Work { order, paper, printed, asked: false }));
            }
        }
        while let Some(id) = self.asked.front().cloned() {
            match self.handle.order(id).await? {
                Some(order) => {
                    let paper = self.paper(&order);
                    return Ok(Some(Work { order, paper, printed: Printed::default(), asked: true }));
                }
                None => drop(self.asked.pop_front()),
            }
        }
        Ok(None)
    }

    async fn print(&mut self, link: &mut Link, work: Work) -> Result<(), Stopped> {
        let Work { order, paper, printed, asked } = work;
        let needed = if asked {
            let kind = if paper.cancelled { Kind::Cancelled } else { Kind::New };
            Some(Needed { kind, copy: Some(Copy::Asked) })
        } else {
            plan::needed(&paper, order.open, &printed)
        };
        let Some(Needed { kind, copy }) = needed else { return Ok(()) };
        let bill = self.bill(&order).await?;
        let mut ticket = Ticket { kind, copy, order: &order, paper: &paper, bill: bill.as_ref() };
        let mut bytes = lay_out(&ticket, &self.style);
        ticket.copy = Some(Copy::Further);
        for _ in 1..self.desk.config.copies {
            bytes.extend(lay_out(&ticket, &self.style));
        }
        let confirms = self.desk.config.confirms && !self.deaf;
        let within = Duration::from_secs(self.desk.config.confirm_seconds.into());
        if copy == Some(Copy::Interrupted) && confirms {
            // What is left of the try before comes out first, and its answer must not be taken for ours.
            link.is_on_paper(within).await?;
        }
        if !asked && printed.perhaps.as_ref() != Some(&paper) {
            let begun = plan::begun(&printed, paper.clone());
            self.save(vec![(self.key(Some(&order.order_id)), begun.clone())]).await?;
            self.marks.insert(order.order_id.clone(), begun);
        }
        link.write(&bytes).await?;
        if confirms && !link.is_on_paper(within).await? {
            self.count_try(&order.order_id)?;
        }
        self.tries = None;
        self.desk.figures.printed(if copy.is_some() { "copy" } else { word(kind) });
        tracing::debug!(printer = %self.desk.config.name, order = %order.order_id, ?copy, "printed");
        if asked {
            self.asked.pop_front();
        } else {
            self.on_paper(&order.order_id, paper);
        }
        Ok(())
    }

    /// All was taken and nothing was said of it.
    fn count_try(&mut self, order: &OrderId) -> Result<(), Trouble> {
        let before = self.tries.take().filter(|(tried, _)| tried == order).map_or(0, |(_, tries)| tries);
        if before + 1 < TRIES_MAX {
            self.tries = Some((order.clone(), before + 1));
            return Err(Trouble::new(State::Hanging, "it does not say that the ticket is on paper"));
        }
        self.deaf = true;
        self.desk.view().deaf = true;
        self.desk.figures.unconfirmed.inc();
        self.told.0.tell(&self.told.1);
        Ok(())
    }

    /// The prices, for a receipt.
    async fn bill(&self, order: &Projection) -> Result<Option<Bill>, StoreAway> {
        if self.desk.config.kind != PrinterKind::Receipt {
            return Ok(None);
        }
        let (mut events, mut from) = (vec![], Seq(0));
        for _ in 0..BILL_STEPS_MAX {
            let page = self.handle.history(order.order_id.clone(), (order.created_at_ms, order.updated_at_ms), from).await?;
            events.extend(page.entries);
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(Some(Bill::of(events.iter().map(|entry| &entry.event), order.total.as_deref())))
    }
}

fn word(kind: Kind<'_>) -> &'static str {
    match kind {
        Kind::New => "new",
        Kind::Changed(_) => "changed",
        Kind::Cancelled => "cancelled",
        Kind::Again => "again",
    }
}
