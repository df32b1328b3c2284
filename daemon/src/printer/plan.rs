//! What a printer is to print of an order: what the order says now, held against what the printer has of it.
//!
//! There is no queue of jobs: whatever is missing on paper is found again from what is durable, after any crash and any outage.

use super::ticket::{Copy, Kind};
use gateway::order::{Line, Projection, Status};
use gateway::printed::{Paper, Printed};

/// What a ticket of these stations would say of the order now.
pub fn paper(order: &Projection, stations: Option<&[String]>) -> Paper {
    let names = |station: &str, line: &Line| station.trim().to_lowercase() == line.station.trim().to_lowercase();
    // A line that names no station is everybody's, as in the kitchen's page: better twice than never.
    let is_ours = |line: &&Line| line.station.trim().is_empty() || stations.is_none_or(|all| all.iter().any(|one| names(one, line)));
    let lines = order.lines.iter().filter(is_ours).map(|line| Line { status: Status::Created, ..line.clone() }).collect();
    Paper { cancelled: order.status == Status::Cancelled, lines, lines_omitted: order.lines_omitted }
}

/// What is to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed<'p> {
    pub kind: Kind<'p>,
    pub copy: Option<Copy>,
}

/// What is to be printed of an order that says `now`; `is_open` while the house works on it.
pub fn needed<'p>(now: &Paper, is_open: bool, printed: &'p Printed) -> Option<Needed<'p>> {
    let Printed { sure, perhaps } = printed;
    if now.cancelled {
        // A cancellation of what nobody has on paper would only puzzle.
        sure.as_ref().or(perhaps.as_ref())?;
        let known = perhaps.is_none() && sure.as_ref().is_some_and(|sure| sure.cancelled);
        let copy = perhaps.as_ref().filter(|perhaps| perhaps.cancelled).map(|_| Copy::Interrupted);
        return (!known).then_some(Needed { kind: Kind::Cancelled, copy });
    }
    if !is_open {
        return None;
    }
    let kind = match (sure, perhaps) {
        (None, None) => (!is_empty(now)).then_some(Kind::New)?,
        (Some(sure), None) if sure == now => return None,
        (Some(before), _) | (None, Some(before)) if before.cancelled => Kind::Again,
        (None, Some(perhaps)) if perhaps == now => Kind::New,
        (Some(sure), Some(perhaps)) if sure == now => Kind::Changed(perhaps),
        (Some(before), _) | (None, Some(before)) => Kind::Changed(before),
    };
    Some(Needed { kind, copy: perhaps.as_ref().map(|_| Copy::Interrupted) })
}

/// Nothing of it is this printer's.
pub fn is_empty(paper: &Paper) -> bool {
    paper.lines.is_empty() && paper.lines_omitted == 0
}

/// As a ticket is begun.
pub fn begun(printed: &Printed, now: Paper) -> Printed {
    Printed { sure: printed.sure.clone(), perhaps: Some(now) }
}

/// Once it is on paper.
pub fn done(now: Paper) -> Printed {
    Printed { sure: Some(now), perhaps: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper(dish: &str) -> Paper {
        let line = Line {
            food_id: String::new(),
            food_name: dish.into(),
            quantity: 1,
            modifiers: vec![],
            notes: String::new(),
            allergens: vec![],
            station: String::new(),
            status: Status::Created,
        };
        Paper { cancelled: false, lines: vec![line], lines_omitted: 0 }
    }

    fn cancelled(dish: &str) -> Paper {
        Paper { cancelled: true, ..paper(dish) }
    }

    fn printed(sure: Option<Paper>, perhaps: Option<Paper>) -> Printed {
        Printed { sure, perhaps }
    }

    const COPY: Option<Copy> = Some(Copy::Interrupted);

    #[track_caller]
    fn assert_needed(now: &Paper, has: &Printed, expected: Option<(Kind<'_>, Option<Copy>)>) {
        assert_eq!(needed(now, true, has), expected.map(|(kind, copy)| Needed { kind, copy }));
    }

    #[test]
    fn an_order_is_printed_once_and_its_change_once_more() {
        let (soup, pie) = (paper("soup"), paper("pie"));
        assert_needed(&soup, &Printed::default(), Some((Kind::New, None)));
        assert_needed(&soup, &printed(Some(soup.clone()), None), None);
        assert_needed(&pie, &printed(Some(soup.clone()), None), Some((Kind::Changed(&soup), None)));
        assert_eq!(needed(&pie, false, &printed(Some(soup.clone()), None)), None, "nobody works on it any more");
    }

    #[test]
    fn what_may_be_on_paper_comes_again_as_a_copy_only() {
        let (soup, pie) = (paper("soup"), paper("pie"));
        assert_needed(&soup, &printed(None, Some(soup.clone())), Some((Kind::New, COPY)));
        assert_needed(&pie, &printed(None, Some(soup.clone())), Some((Kind::Changed(&soup), COPY)));
        assert_needed(&pie, &printed(Some(soup.clone()), Some(pie.clone())), Some((Kind::Changed(&soup), COPY)));
        assert_needed(&soup, &printed(Some(soup.clone()), Some(pie.clone())), Some((Kind::Changed(&pie), COPY)));
    }

    #[test]
    fn a_cancellation_is_for_those_who_have_the_order_on_paper() {
        let (soup, gone) = (paper("soup"), cancelled("soup"));
        assert_needed(&gone, &Printed::default(), None);
        for has in [printed(Some(soup.clone()), None), printed(None, Some(soup.clone())), printed(Some(gone.clone()), Some(soup.clone()))] {
            assert_needed(&gone, &has, Some((Kind::Cancelled, None)));
            assert!(needed(&gone, false, &has).is_some(), "also when it left the board");
        }
        assert_needed(&gone, &printed(Some(soup.clone()), Some(gone.clone())), Some((Kind::Cancelled, COPY)));
        assert_needed(&gone, &printed(Some(gone.clone()), None), None);
        assert_needed(&soup, &printed(Some(gone), None), Some((Kind::Again, None)));
    }

    #[test]
    fn a_station_has_its_own_lines_and_none_is_no_ticket() {
        let mut order =
            Projection::new("o-1".parse().unwrap(), |_| None, paper("soup").lines, 0, gateway::order::Moment { wall_ms: 0, run_ms: 0 });
        order.lines[0].station = "hot".into();
        order.lines[0].status = Status::Ready;
        let hot = super::paper(&order, Some(&["hot".into()]));
        assert_eq!((hot.lines.len(), hot.lines[0].status), (1, Status::Created), "what the cook does to it changes no ticket");
        let cold = super::paper(&order, Some(&["cold".into()]));
        assert_needed(&cold, &Printed::default(), None);
        assert_needed(&cold, &printed(Some(hot.clone()), None), Some((Kind::Changed(&hot), None)));
    }
}
