//! The status rules of DESIGN.md, written a second time.

use crate::deed::{Deed, Dish, total};
use gateway::ids::{Name, OrderId, Ticket};
use gateway::order::{Alarm, HISTORY_MAX, Line, Moment, Payment, Projection, Report, Source, Status};

fn lines(dishes: &[Dish]) -> Vec<Line> {
    let line = |dish: &Dish| Line {
        food_id: String::new(),
        food_name: dish.name.into(),
        quantity: dish.quantity,
        modifiers: vec![],
        notes: String::new(),
        allergens: vec![],
        station: String::new(),
        status: Status::Created,
    };
    dishes.iter().map(line).collect()
}

/// What a new order looks like, from the house (with its terminal) or from the centre.
pub fn born(order_id: OrderId, deed: &Deed, ticket: Option<Ticket>, terminal: Option<Name>, maybe_stored: bool, at: Moment) -> Projection {
    let Deed::Create { dishes, with_total, customer } = deed else { panic!("only Create makes an order") };
    // A total that is missing is added up for the house's own events; the centre's are taken as they come.
    let total = (*with_total || terminal.is_some()).then(|| total(dishes));
    Projection {
        order_id,
        status: Status::Created,
        payment: Payment::Pending,
        ticket,
        display_number: None,
        channel: None,
        customer_name: customer.map(str::to_owned),
        due_at: None,
        total,
        shipper: None,
        terminal,
        created_at_ms: at.wall_ms,
        updated_at_ms: at.wall_ms,
        changed_run_ms: at.run_ms,
        ready_run_ms: None,
        lines: lines(dishes),
        lines_omitted: 0,
        history: vec![],
        house_leads: false,
        alarm: None,
        maybe_stored,
        open: true,
        refunded: None,
    }
}

/// Whether the house may still do this to the order.
pub fn admits(order: &Projection, deed: &Deed) -> bool {
    let ended = matches!(order.status, Status::Delivered | Status::Cancelled);
    match deed {
        Deed::Create { .. } => false,
        Deed::Refund | Deed::Reopen | Deed::Pay(_) => true,
        Deed::Status(_) | Deed::LineStatus(..) | Deed::Lines(_) | Deed::Ship(_) | Deed::Cancel | Deed::Deliver => !ended,
    }
}

/// The order after the deed; the same if it changed nothing.
pub fn after(before: &Projection, deed: &Deed, source: Source, at: Moment) -> Projection {
    let mut order = before.clone();
    let changed = match deed {
        Deed::Create { .. } => false,
        Deed::Status(status) => report(&mut order, *status, source, at),
        Deed::Cancel => report(&mut order, Status::Cancelled, source, at),
        Deed::Deliver => report(&mut order, Status::Delivered, source, at),
        Deed::LineStatus(number, status) => match order.lines.get_mut(usize::from(*number) - 1) {
            Some(line) => std::mem::replace(&mut line.status, *status) != *status,
            None => false,
        },
        Deed::Lines(dishes) => {
            order.lines = lines(dishes);
            order.lines_omitted = 0;
            order.total = Some(total(dishes));
            true
        }
        Deed::Refund => refund(&mut order),
        Deed::Reopen => {
            let ended = matches!(order.status, Status::Delivered | Status::Cancelled);
            if ended {
                order.status = Status::Preparing;
                order.ready_run_ms = None;
                order.house_leads = true;
                order.open = true;
                remember(&mut order, Report { status: Status::Preparing, source: Source::House, at_ms: at.wall_ms });
            }
            ended
        }
        Deed::Pay(payment) => pay(&mut order, *payment),
        Deed::Ship(name) => order.shipper.replace((*name).to_owned()).as_deref() != Some(*name),
    };
    if changed {
        order.updated_at_ms = at.wall_ms;
        order.changed_run_ms = at.run_ms;
    }
    order
}

/// An alarm keeps an order that has ended where people see it.
pub fn stays(status: Status, alarm: Option<Alarm>) -> bool {
    alarm.is_some() || !matches!(status, Status::Delivered | Status::Cancelled)
}

fn in_work(order: &Projection) -> bool {
    match order.status {
        Status::Created | Status::Confirmed => order.lines.iter().any(|line| line.status != Status::Created),
        Status::Preparing | Status::Ready => true,
        Status::OutForDelivery | Status::Delivered | Status::Cancelled => false,
    }
}

fn remember(order: &mut Projection, report: Report) {
    order.history.push(report);
    let surplus = order.history.len().saturating_sub(HISTORY_MAX);
    order.history.drain(..surplus);
}

fn report(order: &mut Projection, status: Status, source: Source, at: Moment) -> bool {
    let again = order.history.last().is_some_and(|last| (last.status, last.source) == (status, source));
    if !again {
        remember(order, Report { status, source, at_ms: at.wall_ms });
    }
    let ended = matches!(order.status, Status::Delivered | Status::Cancelled);
    let goes_forward = status > order.status;
    let of_the_kitchen = status <= Status::Ready;
    let moves = match source {
        Source::House => !ended && status != order.status,
        Source::Centre => !ended && goes_forward && !(order.house_leads && of_the_kitchen),
    };
    if !moves {
        return false;
    }
    if status == Status::Cancelled && in_work(order) {
        order.alarm = Some(Alarm::Cancelled);
    }
    if source == Source::House && status >= Status::Preparing {
        order.house_leads = true;
    }
    order.ready_run_ms = if status == Status::Ready { Some(at.run_ms) } else { None };
    order.open = stays(status, order.alarm);
    order.status = status;
    true
}

fn pay(order: &mut Projection, payment: Payment) -> bool {
    if order.payment == payment {
        return false;
    }
    order.payment = payment;
    if payment == Payment::Failed && in_work(order) {
        order.alarm = Some(Alarm::PaymentFailed);
    }
    true
}

/// Every refund is of 1.50.
fn refund(order: &mut Projection) -> bool {
    let cents = |text: &str| text.replace('.', "").parse::<u64>().expect("amounts have two digits behind the point");
    let refunded = order.refunded.as_deref().map_or(0, cents) + 150;
    order.refunded = Some(format!("{}.{:02}", refunded / 100, refunded % 100));
    let all = order.total.as_deref().is_some_and(|total| cents(total) <= refunded);
    pay(order, if all { Payment::Refunded } else { Payment::PartlyRefunded });
    true
}

/// Where two orders differ, for people.
pub fn differences(expected: &Projection, actual: &Projection) -> String {
    let (expected_text, actual_text) = (format!("{expected:#?}"), format!("{actual:#?}"));
    let lines = |text: &str, other: &str| {
        let other: Vec<_> = other.lines().collect();
        text.lines().filter(|line| !other.contains(line)).map(str::trim).collect::<Vec<_>>().join(" ")
    };
    let (missing, surplus) = (lines(&expected_text, &actual_text), lines(&actual_text, &expected_text));
    format!("order {}: `{surplus}` instead of `{missing}`", actual.order_id)
}
