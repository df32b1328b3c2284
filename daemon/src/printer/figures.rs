//! What is counted of printers.

use super::status::State;
use super::{ASKED_MAX, Printers};
use crate::config::PRINTERS_MAX;
use crate::metrics::{Bound, Metrics};
use gateway::ids::Name;
use gateway::settings::OPEN_ORDERS_MAX;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPrinter {
    printer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    printer: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTicket {
    printer: String,
    what: &'static str,
}

/// The metrics of all printers.
pub struct Families {
    up: Family<OfPrinter, Gauge>,
    waiting: Family<OfPrinter, Gauge>,
    missed: Family<OfPrinter, Counter>,
    unconfirmed: Family<OfPrinter, Counter>,
    crowded: Family<OfPrinter, Counter>,
    asked_refused: Family<OfPrinter, Counter>,
    states: Family<OfState, Counter>,
    tickets: Family<OfTicket, Counter>,
    bounds: Option<[Bound; 3]>,
}

/// Those of one printer.
#[derive(Debug)]
pub struct Figures {
    printer: String,
    up: Gauge,
    pub waiting: Gauge,
    /// Orders that left the board before their ticket could be printed.
    pub missed: Counter,
    /// Tickets that count as printed though the printer never said so.
    pub unconfirmed: Counter,
    /// Orders that were left out of memory; they are found again.
    pub crowded: Counter,
    /// Copies that were not taken.
    pub asked_refused: Counter,
    states: Family<OfState, Counter>,
    tickets: Family<OfTicket, Counter>,
}

impl Families {
    /// Registers them, if there is a printer.
    pub fn of(metrics: &Metrics, count: usize) -> Families {
        let families = Families {
            up: Family::default(),
            waiting: Family::default(),
            missed: Family::default(),
            unconfirmed: Family::default(),
            crowded: Family::default(),
            asked_refused: Family::default(),
            states: Family::default(),
            tickets: Family::default(),
            bounds: (count > 0).then(|| {
                [
                    metrics.bound("printers", PRINTERS_MAX as u64),
                    metrics.bound("printer_waiting", OPEN_ORDERS_MAX as u64),
                    metrics.bound("printer_copies_asked", ASKED_MAX as u64),
                ]
            }),
        };
        if count > 0 {
            let Families { up, waiting, missed, unconfirmed, states, tickets, .. } = &families;
            metrics.register("printer_up", "1 while the printer takes tickets", up.clone());
            metrics.register("printer_waiting", "Orders whose ticket waits for the printer", waiting.clone());
            metrics.register("printer_missed", "Orders that left the board before their ticket could be printed", missed.clone());
            metrics.register("printer_unconfirmed", "Tickets that count as printed though the printer never said so", unconfirmed.clone());
            metrics.register("printer_states", "How often the printer came into a state", states.clone());
            metrics.register("printer_tickets", "Tickets that were printed", tickets.clone());
        }
        families
    }

    /// Those of one printer.
    pub fn of_printer(&self, name: &Name) -> Figures {
        let printer = name.to_string();
        let label = OfPrinter { printer: printer.clone() };
        Figures {
            up: self.up.get_or_create(&label).clone(),
            waiting: self.waiting.get_or_create(&label).clone(),
            missed: self.missed.get_or_create(&label).clone(),
            unconfirmed: self.unconfirmed.get_or_create(&label).clone(),
            crowded: self.crowded.get_or_create(&label).clone(),
            asked_refused: self.asked_refused.get_or_create(&label).clone(),
            states: self.states.clone(),
            tickets: self.tickets.clone(),
            printer,
        }
    }

    /// Has the bounds read from the printers.
    pub fn watch(self, metrics: &Metrics, printers: &Printers) {
        let Some([count, waiting, asked]) = self.bounds else { return };
        let desks = printers.clone();
        metrics.before_encoding(move || {
            let most = |of: &dyn Fn(&super::Desk) -> usize| desks.0.iter().map(|desk| of(desk)).max().unwrap_or(0) as u64;
            let total = |of: &dyn Fn(&Figures) -> u64| desks.0.iter().map(|desk| of(&desk.figures)).sum::<u64>();
            count.set(desks.0.len() as u64);
            waiting.set(most(&|desk| desk.view().waiting));
            waiting.set_refused(total(&|figures| figures.crowded.get()));
            asked.set(most(&|desk| ASKED_MAX - desk.asked.capacity()));
            asked.set_refused(total(&|figures| figures.asked_refused.get()));
        });
    }
}

impl Figures {
    /// It came into a state.
    pub fn changed(&self, state: State) {
        self.up.set(i64::from(state.prints()));
        self.states.get_or_create(&OfState { printer: self.printer.clone(), state: state.as_str() }).inc();
    }

    /// A ticket was printed.
    pub fn printed(&self, what: &'static str) {
        self.tickets.get_or_create(&OfTicket { printer: self.printer.clone(), what }).inc();
    }
}
