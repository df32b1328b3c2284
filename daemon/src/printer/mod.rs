//! The house's printers: a ticket of each order for each printer whose lines it has, in ESC/POS.
//!
//! Promises (docs/decisions/0012-printers.md):
//! - A printer waits for nobody and nobody for it: each has a worker of its own, which hears of orders once they are durable.
//! - What is to be printed is what durable state says and the printer's mark of the order does not: there are no jobs that could get lost.
//! - Before the first byte of a ticket leaves, it is durable that it may be on paper. Whatever may be there comes again only as a copy.
//! - Nothing of an order reaches a printer but the characters of its code page.

mod code_page;
mod escpos;
mod figures;
mod link;
mod plan;
mod receipt;
mod status;
mod ticket;
mod worker;

use crate::attention::{Attention, Subject};
use crate::clock;
use crate::config::Printer;
use crate::handle::Handle;
use crate::metrics::Metrics;
use figures::Figures;
use gateway::ids::{Name, OrderId};
use gateway::order::Projection;
use gateway::time::rfc3339;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use status::State;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use worker::Worker;

/// Copies that people asked for and that wait at one printer.
pub const ASKED_MAX: usize = 16;

/// What there is to see of the printers, and the way to ask them for a copy. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Printers(Arc<Vec<Arc<Desk>>>);

/// What a worker shows of its printer.
#[derive(Debug)]
struct Desk {
    config: Printer,
    asked: mpsc::Sender<OrderId>,
    view: Mutex<View>,
    figures: Figures,
}

#[derive(Debug)]
struct View {
    state: State,
    since_ms: Option<i64>,
    why: String,
    waiting: usize,
    missed: u64,
    /// It never says that a ticket is on paper, though its config says that it does.
    deaf: bool,
}

/// Why a copy is not printed.
#[derive(Debug, PartialEq, Eq)]
pub enum NotAsked {
    /// No printer of that name has lines of this order.
    NoPrinter,
    /// Too many copies wait.
    Full,
}

/// What the workers need.
pub struct Settings {
    pub printers: Vec<Printer>,
    /// The house's.
    pub zone: TimeZone,
    /// The orders that were open before anything came in: a printer that is new does not begin with them.
    pub at_start: Arc<BTreeSet<OrderId>>,
    pub attention: Attention,
}

/// The printers, and what serves them until `stop`.
pub fn printers(settings: Settings, handle: &Handle, metrics: &Metrics) -> (Printers, impl FnOnce(CancellationToken) -> Serving + use<>) {
    let count = settings.printers.len();
    let figures = figures::Families::of(metrics, count);
    let (desks, asked): (Vec<_>, Vec<_>) = settings
        .printers
        .into_iter()
        .map(|config| {
            let (asked, asked_for) = mpsc::channel(ASKED_MAX);
            let view = View { state: State::Unknown, since_ms: None, why: String::new(), waiting: 0, missed: 0, deaf: false };
            let figures = figures.of_printer(&config.name);
            (Arc::new(Desk { config, asked, view: Mutex::new(view), figures }), asked_for)
        })
        .unzip();
    let printers = Printers(Arc::new(desks));
    figures.watch(metrics, &printers);
    let workers: Vec<_> = printers
        .0
        .iter()
        .zip(asked)
        .map(|(desk, asked)| {
            let zone = settings.zone.clone();
            let told = (printers.clone(), settings.attention.clone());
            Worker::new(Arc::clone(desk), asked, handle.clone(), zone, Arc::clone(&settings.at_start), told)
        })
        .collect();
    (printers, move |stop| {
        Box::pin(async move {
            futures_util::future::join_all(workers.into_iter().map(|worker| worker.run(stop.clone()))).await;
        })
    })
}

/// All workers, until they end.
pub type Serving = futures_util::future::BoxFuture<'static, ()>;

impl Printers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How each is, for the pages.
    pub fn to_json(&self) -> Value {
        let one = |desk: &Arc<Desk>| {
            let view = desk.view();
            json!({
                "name": desk.config.name.as_str(), "kind": desk.config.kind.as_str(), "stations": desk.config.stations,
                "state": view.state.as_str(), "since": view.since_ms.map(rfc3339), "waiting": view.waiting, "missed": view.missed,
                "needsPerson": view.state.needs_a_person(),
            })
        };
        self.0.iter().map(one).collect()
    }

    /// Has an order printed once more, marked as a copy, by each printer that has lines of it, or by one of them. Gives which.
    ///
    /// # Errors
    /// None will print it, or the first that should is asked for too much.
    pub fn print_again(&self, order: &Projection, printer: Option<&Name>) -> Result<Vec<Name>, NotAsked> {
        let has_lines = |desk: &&Arc<Desk>| !plan::is_empty(&plan::paper(order, desk.config.stations.as_deref()));
        let named = |desk: &&Arc<Desk>| printer.is_none_or(|name| desk.config.name == *name);
        let mut asked = vec![];
        for desk in self.0.iter().filter(named).filter(has_lines) {
            match desk.asked.try_send(order.order_id.clone()) {
                Ok(()) => asked.push(desk.config.name.clone()),
                Err(_) if asked.is_empty() => {
                    desk.figures.asked_refused.inc();
                    return Err(NotAsked::Full);
                }
                Err(_) => drop(desk.figures.asked_refused.inc()),
            }
        }
        if asked.is_empty() { Err(NotAsked::NoPrinter) } else { Ok(asked) }
    }

    /// Says what a person has to do, or that nothing is left to do.
    fn tell(&self, attention: &Attention) {
        let sentences: Vec<String> = self.0.iter().filter_map(|desk| sentence(&desk.config.name, &desk.view())).collect();
        attention.say(Subject::Printers, (!sentences.is_empty()).then(|| sentences.join("; ")));
    }
}

impl Desk {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows how it is; `true` if that is news.
    fn show(&self, state: State, why: &str) -> bool {
        let mut view = self.view();
        let is_news = view.state != state || view.why != why;
        if view.state != state {
            view.since_ms = clock::wall_ms();
            self.figures.changed(state);
        }
        (view.state, view.why) = (state, why.to_owned());
        is_news
    }
}

fn sentence(name: &Name, view: &View) -> Option<String> {
    let what = match view.state {
        State::Unknown | State::Ok | State::PaperLow if view.deaf => {
            "never says that a ticket is on paper; set confirms = false in its [[printer]] and restart".into()
        }
        State::Unknown | State::Ok => return None,
        State::PaperLow => "is nearly out of paper: have a new roll ready".into(),
        State::PaperOut => "has no paper: put a new roll in; what waits is printed then".into(),
        State::CoverOpen => "has its cover open: close it; what waits is printed then".into(),
        State::Error => "reports an error: look at its cutter and for jammed paper, then switch it off and on".into(),
        State::Offline => format!("cannot be reached or is switched to offline ({}): see that it is on and its cable is in", view.why),
        State::Hanging => {
            format!("hangs ({}): switch it off and on; one that never tells its state needs status = false in its [[printer]]", view.why)
        }
    };
    Some(format!("the printer {name} {what}"))
}
