//! What stands on a ticket: a pure function from an order to the bytes for a printer.

use super::escpos::{BANNER, BOLD, Look, PLAIN, Page, Size, TALL};
use super::receipt::Bill;
use crate::config::CodePage;
use gateway::order::{Line, Projection};
use gateway::printed::Paper;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How a printer's paper is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style {
    pub columns: usize,
    pub code_page: CodePage,
    pub cut: bool,
    /// Pin of the drawer's socket that is pulled after a ticket, 0 or 1.
    pub pulse: Option<u8>,
    /// The house's.
    pub zone: TimeZone,
}

/// What a ticket is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'t> {
    /// The order.
    New,
    /// What became of what was printed before.
    Changed(&'t Paper),
    /// Nothing of it is wanted any more.
    Cancelled,
    /// It was cancelled, and is wanted after all.
    Again,
}

/// Why a ticket may be on paper already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Somebody wants it once more.
    Asked,
    /// Nobody knows how far the printer got with it.
    Interrupted,
    /// The config wants more than one.
    Further,
}

/// A ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket<'t> {
    pub kind: Kind<'t>,
    pub copy: Option<Copy>,
    pub order: &'t Projection,
    pub paper: &'t Paper,
    /// Prices, for a receipt.
    pub bill: Option<&'t Bill>,
}

/// The bytes for the printer.
pub fn lay_out(ticket: &Ticket<'_>, style: &Style) -> Vec<u8> {
    let mut page = Page::new(style.columns, style.code_page);
    if ticket.copy == Some(Copy::Interrupted) {
        // What came out of the try before is no part of this ticket.
        page.feed(1);
        if style.cut {
            page.cut();
        }
    }
    banners(&mut page, ticket);
    head(&mut page, ticket.order, &style.zone);
    page.rule();
    match ticket.kind {
        Kind::Changed(before) => changes(&mut page, before, ticket.paper),
        Kind::New | Kind::Cancelled | Kind::Again => {}
    }
    match ticket.bill {
        Some(bill) => bill.lay_out(&mut page, ticket.paper),
        None => lines(&mut page, &ticket.paper.lines),
    }
    if ticket.paper.lines_omitted > 0 {
        page.text(BOLD, "", &format!("and {} more lines: ask the till", ticket.paper.lines_omitted));
    }
    page.rule();
    page.text(PLAIN, "", ticket.order.order_id.as_str());
    if ticket.copy.is_some() {
        page.text(Look { centred: true, ..BOLD }, "", "COPY");
    }
    page.feed(3);
    if style.cut {
        page.cut();
    }
    if let Some(pin) = style.pulse {
        page.pulse(pin);
    }
    page.into_bytes()
}

fn banners(page: &mut Page, ticket: &Ticket<'_>) {
    let centred = Look { centred: true, ..PLAIN };
    if let Some(copy) = ticket.copy {
        page.text(BANNER, "", "* COPY *");
        let why = match copy {
            Copy::Asked => "printed again on request",
            Copy::Interrupted => "printing was interrupted: see whether you have it",
            Copy::Further => "one more of the ticket before",
        };
        page.text(centred, "", why);
    }
    match ticket.kind {
        Kind::New => {}
        Kind::Changed(_) => drop(page.text(BANNER, "", "CHANGED")),
        Kind::Cancelled => {
            page.text(BANNER, "", "CANCELLED");
            page.text(centred, "", "stop work");
        }
        Kind::Again => drop(page.text(BANNER, "", "WANTED AGAIN")),
    }
    if ticket.order.maybe_stored {
        page.text(BOLD, "", "perhaps doubled: ask the till");
    }
}

fn head(page: &mut Page, order: &Projection, zone: &TimeZone) {
    let number = order.number().unwrap_or_else(|| "-".into());
    page.text(Look { size: Size::Huge, bold: true, reverse: false, centred: true }, "", &number);
    let texts = [order.channel.as_deref(), order.customer_name.as_deref()].map(|text| text.filter(|text| !text.trim().is_empty()));
    for text in texts.into_iter().flatten() {
        page.text(TALL, "", text);
    }
    if let Some(due_at) = &order.due_at {
        let due = due_at.parse::<Timestamp>().map_or_else(|_| due_at.clone(), |due| day_and_time(due, order.created_at_ms, zone));
        page.text(TALL, "", &format!("due {due}"));
    }
    let stamp = Timestamp::from_millisecond(order.created_at_ms).map(|at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string());
    let from = order.terminal.as_ref().map_or("centre", |terminal| terminal.as_str());
    page.text(PLAIN, "", &format!("{}  {from}", stamp.unwrap_or_default()));
}

/// The time of day, with the date if it is not the order's own.
fn day_and_time(at: Timestamp, created_at_ms: i64, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    let same_day = Timestamp::from_millisecond(created_at_ms).is_ok_and(|created| created.to_zoned(zone.clone()).date() == at.date());
    at.strftime(if same_day { "%H:%M" } else { "%Y-%m-%d %H:%M" }).to_string()
}

fn lines(page: &mut Page, lines: &[Line]) {
    let mut station = "";
    for line in lines {
        if line.station != station && !line.station.trim().is_empty() {
            page.text(BOLD, "", &format!("[{}]", line.station));
            station = &line.station;
        }
        self::line(page, line.quantity, line);
    }
}

fn line(page: &mut Page, quantity: u32, line: &Line) {
    page.text(TALL, &format!("{quantity} x "), dish(line));
    for modifier in &line.modifiers {
        page.text(PLAIN, "    + ", modifier);
    }
    if !line.notes.trim().is_empty() {
        page.text(BOLD, "    ! ", &line.notes);
    }
    if !line.allergens.is_empty() {
        page.text(Look { reverse: true, ..BOLD }, "", &format!("ALLERGENS: {}", line.allergens.join(", ")));
    }
}

/// What a line is called.
pub fn dish(line: &Line) -> &str {
    [line.food_name.as_str(), line.food_id.as_str()].into_iter().find(|name| !name.trim().is_empty()).unwrap_or("?")
}

fn changes(page: &mut Page, before: &Paper, now: &Paper) {
    let (gone, come) = (missing(&before.lines, &now.lines), missing(&now.lines, &before.lines));
    for (heading, changed) in [("NOT ANY MORE:", gone), ("NEW:", come)] {
        if !changed.is_empty() {
            page.text(Look { reverse: true, ..BOLD }, "", heading);
            changed.into_iter().for_each(|(quantity, line)| self::line(page, quantity, line));
        }
    }
    page.rule();
    page.text(BOLD, "", "The whole order now:");
    if now.lines.is_empty() {
        page.text(TALL, "", "nothing");
    }
}

/// What of `these` is not among `others`, and how many of it.
fn missing<'l>(these: &'l [Line], others: &[Line]) -> Vec<(u32, &'l Line)> {
    let same = |a: &Line, b: &Line| Line { quantity: 0, ..a.clone() } == Line { quantity: 0, ..b.clone() };
    let count = |lines: &[Line], of: &Line| lines.iter().filter(|line| same(line, of)).map(|line| line.quantity).sum::<u32>();
    let first = |n: usize| !these[..n].iter().any(|line| same(line, &these[n]));
    let left = |line: &Line| count(these, line).saturating_sub(count(others, line));
    these.iter().enumerate().filter(|(n, _)| first(*n)).map(|(_, line)| (left(line), line)).filter(|(left, _)| *left > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printer::plan;
    use gateway::ids::Ticket as Number;
    use gateway::order::{Moment, Status};
    use serde_json::{Value, json};

    fn line(dish: &str, quantity: u32) -> Line {
        Line {
            food_id: "food-1".into(),
            food_name: dish.into(),
            quantity,
            modifiers: vec![],
            notes: String::new(),
            allergens: vec![],
            station: String::new(),
            status: Status::Created,
        }
    }

    fn order(data: &Value, lines: Vec<Line>) -> Projection {
        let at = Moment { wall_ms: 1_704_110_400_000, run_ms: 0 };
        let order = Projection::new("order-123".parse().unwrap(), |field| data.get(field), lines, 0, at);
        Projection { ticket: Some(Number(42)), terminal: Some("till-1".parse().unwrap()), ..order }
    }

    fn style(columns: usize) -> Style {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        Style { columns, code_page: CodePage::Pc858, cut: true, pulse: None, zone }
    }

    /// What is pinned: the bytes, a line of them each.
    fn bytes(kind: Kind<'_>, copy: Option<Copy>, order: &Projection, style: &Style) -> String {
        let paper = plan::paper(order, None);
        let bytes = lay_out(&Ticket { kind, copy, order, paper: &paper, bill: None }, style);
        bytes.escape_ascii().to_string().replace("\\n", "\\n\n")
    }

    #[test]
    fn a_whole_ticket() {
        let mut ramen = line("Ramen mit extra vielen Nudeln und einem Ei", 2);
        ramen.modifiers = vec!["ohne Zwiebeln".into()];
        ramen.notes = "bitte sehr scharf, und die Schüssel heiß".into();
        ramen.allergens = vec!["Gluten".into(), "Ei".into()];
        ramen.station = "hot".into();
        let data = json!({"channel": "takeaway", "customerName": "Zoë", "dueAt": "2024-01-01T13:30:00Z"});
        let order = order(&data, vec![ramen, line("Tee", 1)]);
        let pinned = [
            r#"\x1b@\x1da\x00\x1bt\x13\x1ba\x01\x1bE\x01\x1d!\"42\n"#,
            r#"\x1ba\x00\x1d!\x01takeaway\n"#,
            r#"Zo\x89\n"#,
            r#"due 14:30\n"#,
            r#"\x1bE\x00\x1d!\x002024-01-01 13:00  till-1\n"#,
            r#"--------------------------------\n"#,
            r#"\x1bE\x01[hot]\n"#,
            r#"\x1d!\x012 x Ramen mit extra vielen\n"#,
            r#"    Nudeln und einem Ei\n"#,
            r#"\x1bE\x00\x1d!\x00    + ohne Zwiebeln\n"#,
            r#"\x1bE\x01    ! bitte sehr scharf, und die\n"#,
            r#"      Sch\x81ssel hei\xe1\n"#,
            r#"\x1dB\x01ALLERGENS: Gluten, Ei\n"#,
            r#"\x1dB\x00\x1d!\x011 x Tee\n"#,
            r#"\x1bE\x00\x1d!\x00--------------------------------\n"#,
            r#"order-123\n"#,
            r#"\x1bd\x03\x1dVB\x00"#,
        ];
        assert_eq!(bytes(Kind::New, None, &order, &style(32)), pinned.join("\n"));
    }

    #[test]
    fn a_change_says_what_is_gone_what_came_and_what_is_to_do() {
        let before = plan::paper(&order(&json!({}), vec![line("Soup", 2), line("Pie", 1)]), None);
        let now = order(&json!({}), vec![line("Soup", 1), line("Soup", 2), line("Tea", 1)]);
        let pinned = [
            r#"\x1b@\x1da\x00\x1bt\x13\x1bd\x01\x1dVB\x00\x1ba\x01\x1bE\x01\x1dB\x01\x1d!\x11* COPY *\n"#,
            r#"\x1bE\x00\x1dB\x00\x1d!\x00printing was interrupted: see whether you\n"#,
            r#"have it\n"#,
            r#"\x1bE\x01\x1dB\x01\x1d!\x11CHANGED\n"#,
            r#"\x1dB\x00\x1d!\"42\n"#,
            r#"\x1ba\x00\x1bE\x00\x1d!\x002024-01-01 13:00  till-1\n"#,
            r#"------------------------------------------\n"#,
            r#"\x1bE\x01\x1dB\x01NOT ANY MORE:\n"#,
            r#"\x1dB\x00\x1d!\x011 x Pie\n"#,
            r#"\x1dB\x01\x1d!\x00NEW:\n"#,
            r#"\x1dB\x00\x1d!\x011 x Soup\n"#,
            r#"1 x Tea\n"#,
            r#"\x1bE\x00\x1d!\x00------------------------------------------\n"#,
            r#"\x1bE\x01The whole order now:\n"#,
            r#"\x1d!\x011 x Soup\n"#,
            r#"2 x Soup\n"#,
            r#"1 x Tea\n"#,
            r#"\x1bE\x00\x1d!\x00------------------------------------------\n"#,
            r#"order-123\n"#,
            r#"\x1ba\x01\x1bE\x01COPY\n"#,
            r#"\x1ba\x00\x1bE\x00\x1bd\x03\x1dVB\x00"#,
        ];
        assert_eq!(bytes(Kind::Changed(&before), Some(Copy::Interrupted), &now, &style(42)), pinned.join("\n"));
    }

    #[test]
    fn a_cancellation() {
        let order = Projection { status: Status::Cancelled, ..order(&json!({"displayNumber": "A7"}), vec![line("", 1)]) };
        let style = Style { cut: false, pulse: Some(1), ..style(48) };
        let pinned = [
            r#"\x1b@\x1da\x00\x1bt\x13\x1ba\x01\x1bE\x01\x1dB\x01\x1d!\x11CANCELLED\n"#,
            r#"\x1bE\x00\x1dB\x00\x1d!\x00stop work\n"#,
            r#"\x1bE\x01\x1d!\"A7\n"#,
            r#"\x1ba\x00\x1bE\x00\x1d!\x002024-01-01 13:00  till-1\n"#,
            r#"------------------------------------------------\n"#,
            r#"\x1bE\x01\x1d!\x011 x food-1\n"#,
            r#"\x1bE\x00\x1d!\x00------------------------------------------------\n"#,
            r#"order-123\n"#,
            r#"\x1bd\x03\x1bp\x012\xfa"#,
        ];
        assert_eq!(bytes(Kind::Cancelled, None, &order, &style), pinned.join("\n"));
    }

    /// Any text anywhere: between the commands of a page there is no control byte but line ends.
    #[test]
    fn a_ticket_of_hostile_texts_has_the_commands_of_a_harmless_one() {
        let evil: String = (0..=0x9f).filter_map(char::from_u32).collect();
        let commands = |text: &str| {
            let data = json!({"channel": text, "customerName": text, "dueAt": text, "displayNumber": "7"});
            let full = Line { notes: text.into(), modifiers: vec![text.into()], allergens: vec![text.into()], ..line(text, 1) };
            let order = order(&data, vec![full]);
            let bytes =
                lay_out(&Ticket { kind: Kind::New, copy: None, order: &order, paper: &plan::paper(&order, None), bill: None }, &style(64));
            bytes.into_iter().filter(|byte| *byte < b' ' && *byte != b'\n').collect::<Vec<_>>()
        };
        assert_eq!(commands(&evil), commands("harmless"));
    }

    #[test]
    fn a_due_time_is_the_houses_time_of_day_and_what_is_no_time_is_told_as_it_came() {
        let due = |due_at: &str| {
            let order = order(&json!({"dueAt": due_at}), vec![line("Tea", 1)]);
            bytes(Kind::New, None, &order, &style(42))
        };
        assert!(due("2024-01-01T18:30:00+01:00").contains("due 18:30\\n"));
        assert!(due("2024-01-02T00:15:00Z").contains("due 2024-01-02 01:15\\n"));
        assert!(due("at noon").contains("due at noon\\n"));
    }
}
