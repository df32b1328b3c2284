//! What a terminal's display is shown: the changes of its own orders and the board, gathered, in rounds of at most one a second.
//!
//! A round is what changed last of each order. What a slow line cannot take in time is replaced by what is newer, never queued.

use super::figures::{Figures, count};
use crate::handle::{Handle, StoreAway};
use futures_util::future::BoxFuture;
use gateway::board::Board;
use gateway::ids::{Name, OrderId};
use gateway::order::Projection;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};

/// Changed orders of one terminal that wait for the next round. Beyond it the one that changed longest ago is passed over.
pub const CHANGES_GATHERED_MAX: usize = 256;
/// Open orders that are read for a display that was just switched on: as many as the core keeps open.
const ORDERS_READ_MAX: usize = 2_000;
/// A round begins at most so often.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// While the store is away, the reading of the open orders is tried again after this.
const STORE_AWAY_RETRY: Duration = Duration::from_secs(1);

/// One thing to show.
#[derive(Debug, Clone)]
pub enum Shown {
    Status(Arc<Projection>),
    Board(Arc<Board>),
}

/// What is shown at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    pub statuses: bool,
    pub board: bool,
}

/// One terminal's display.
pub struct Display {
    terminal: Name,
    handle: Handle,
    figures: Arc<Figures>,
    wants: Wants,
    board: watch::Receiver<Arc<Board>>,
    changes: broadcast::Receiver<Arc<Projection>>,
    gathered: BTreeMap<OrderId, Arc<Projection>>,
    board_due: bool,
    round: VecDeque<Shown>,
    round_at: Instant,
    reading: Option<BoxFuture<'static, Result<Vec<Projection>, StoreAway>>>,
    read_at: Option<Instant>,
}

impl Display {
    /// A display that is off.
    pub fn new(terminal: Name, handle: Handle, figures: Arc<Figures>) -> Display {
        Display {
            terminal,
            wants: Wants::default(),
            board: handle.board(),
            changes: handle.changes(),
            handle,
            figures,
            gathered: BTreeMap::new(),
            board_due: false,
            round: VecDeque::new(),
            round_at: Instant::now(),
            reading: None,
            read_at: None,
        }
    }

    /// Shows this from now on, all of it anew.
    pub fn switch(&mut self, wants: Wants) {
        self.wants = wants;
        self.gathered.clear();
        self.round.clear();
        self.board_due = wants.board;
        self.board.mark_unchanged();
        self.changes = self.handle.changes();
        (self.reading, self.read_at) = (None, wants.statuses.then(Instant::now));
    }

    /// What to show next, if its time has come.
    pub fn next(&mut self) -> Option<Shown> {
        if self.round.is_empty() && self.is_due() && Instant::now() >= self.round_at {
            self.round_at = Instant::now() + ROUND_EVERY;
            let mut statuses: Vec<_> = std::mem::take(&mut self.gathered).into_values().collect();
            self.figures.changes_gathered.store(0, Ordering::Relaxed);
            statuses.sort_by_key(|order| order.updated_at_ms);
            self.round.extend(statuses.into_iter().map(Shown::Status));
            if std::mem::take(&mut self.board_due) {
                self.round.push_back(Shown::Board(self.board.borrow_and_update().clone()));
            }
        }
        self.round.pop_front()
    }

    fn is_due(&self) -> bool {
        self.board_due || !self.gathered.is_empty()
    }

    /// Takes in what changes, and returns after each change and, if there is `room` for it, when [`next`](Self::next) has something new.
    /// Cancel-safe. With nothing to show it waits for ever.
    pub async fn gather(&mut self, room: bool) {
        if self.read_at.is_some_and(|at| at <= Instant::now()) {
            let handle = self.handle.clone();
            self.read_at = None;
            // What changes from here on is gathered besides: nothing falls between.
            self.reading = Some(Box::pin(async move { handle.orders(None, ORDERS_READ_MAX).await }));
        }
        let round_at = (room && self.round.is_empty() && self.is_due()).then_some(self.round_at);
        let read_at = self.read_at;
        tokio::select! {
            change = self.changes.recv(), if self.wants.statuses => match change {
                Ok(order) => self.take(order),
                Err(RecvError::Lagged(_)) => self.read_at = Some(Instant::now()),
                // The gateway ends, and this with it.
                Err(RecvError::Closed) => std::future::pending().await,
            },
            changed = self.board.changed(), if self.wants.board && !self.board_due => match changed {
                Ok(()) => self.board_due = true,
                Err(_) => std::future::pending().await,
            },
            read = optional(&mut self.reading), if self.reading.is_some() => {
                self.reading = None;
                match read {
                    Ok(orders) => orders.into_iter().for_each(|order| self.take_older(order)),
                    Err(StoreAway) => self.read_at = Some(Instant::now() + STORE_AWAY_RETRY),
                }
            }
            () = sleep_until(round_at.unwrap_or_else(Instant::now)), if round_at.is_some() => {}
            () = sleep_until(read_at.unwrap_or_else(Instant::now)), if read_at.is_some() => {}
            else => std::future::pending().await,
        }
    }

    pub(super) fn take(&mut self, order: Arc<Projection>) {
        if order.terminal.as_ref() != Some(&self.terminal) {
            return;
        }
        self.gathered.insert(order.order_id.clone(), order);
        if self.gathered.len() > CHANGES_GATHERED_MAX
            && let Some(oldest) = self.gathered.values().min_by_key(|order| order.updated_at_ms).map(|order| order.order_id.clone())
        {
            self.gathered.remove(&oldest);
            count(&self.figures.changes_dropped);
        }
        self.figures.changes_gathered.store(self.gathered.len(), Ordering::Relaxed);
    }

    /// What was read is older than what was gathered meanwhile.
    fn take_older(&mut self, order: Projection) {
        if !self.gathered.contains_key(&order.order_id) {
            self.take(Arc::new(order));
        }
    }
}

async fn optional<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
