//! ESC/POS: the commands that are used, by their names in Epson's command reference, and a page that is filled with them.

use crate::config::CodePage;

/// `ESC @`: initialize the printer. What it held of an unfinished line is gone.
const INITIALIZE: &[u8] = b"\x1b@";
/// `GS a 0`: no automatic status back; it would look like answers.
const NO_AUTOMATIC_STATUS: &[u8] = b"\x1da\0";
/// `ESC t n`: select the character code table.
const CODE_TABLE: &[u8] = b"\x1bt";
/// `ESC a n`: justification, 0 left and 1 centred.
const JUSTIFY: &[u8] = b"\x1ba";
/// `ESC E n`: emphasized.
const EMPHASIZED: &[u8] = b"\x1bE";
/// `GS B n`: white on black.
const REVERSE: &[u8] = b"\x1dB";
/// `GS ! n`: character size, width less one in the high half and height less one in the low half.
const SIZE: &[u8] = b"\x1d!";
/// `ESC d n`: print and feed n lines.
const FEED: &[u8] = b"\x1bd";
/// `GS V 66 0`: feed to the cutter and cut, all but a point.
const CUT: &[u8] = b"\x1dV\x42\0";
/// `ESC p m t1 t2`: a pulse of t1 × 2 ms at pin m of the drawer's socket.
const PULSE: &[u8] = b"\x1bp";
/// On 100 ms, off 500 ms.
const PULSE_TIMES: [u8; 2] = [50, 250];
/// `GS r 1`: transmit the paper sensor's status. It is answered when all before it is printed.
pub const TRANSMIT_STATUS: &[u8] = b"\x1dr\x01";

/// `DLE EOT n`: transmit real-time status. It is answered at once, also by a printer that is offline.
pub fn real_time_status(n: u8) -> [u8; 3] {
    [0x10, 0x04, n]
}

/// How large letters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// As they are.
    Plain,
    /// Twice as high.
    Tall,
    /// Twice as wide and high.
    Large,
    /// Thrice as wide and high.
    Huge,
}

impl Size {
    fn code(self) -> u8 {
        match self {
            Size::Plain => 0x00,
            Size::Tall => 0x01,
            Size::Large => 0x11,
            Size::Huge => 0x22,
        }
    }

    fn width(self) -> usize {
        match self {
            Size::Plain | Size::Tall => 1,
            Size::Large => 2,
            Size::Huge => 3,
        }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub size: Size,
    pub bold: bool,
    pub reverse: bool,
    pub centred: bool,
}

/// As a printer starts.
pub const PLAIN: Look = Look { size: Size::Plain, bold: false, reverse: false, centred: false };
/// To stand out in a list.
pub const BOLD: Look = Look { bold: true, ..PLAIN };
/// To be read from two metres.
pub const TALL: Look = Look { size: Size::Tall, bold: true, ..PLAIN };
/// A banner.
pub const BANNER: Look = Look { size: Size::Large, bold: true, reverse: true, centred: true };

/// A roll of paper of so many columns, as it is written.
#[derive(Debug)]
pub struct Page {
    columns: usize,
    code_page: CodePage,
    look: Look,
    bytes: Vec<u8>,
}

impl Page {
    /// A page that begins with a printer in a known state.
    pub fn new(columns: usize, code_page: CodePage) -> Page {
        let bytes = [INITIALIZE, NO_AUTOMATIC_STATUS, CODE_TABLE, &[code_page.number()]].concat();
        Page { columns, code_page, look: PLAIN, bytes }
    }

    fn command(&mut self, command: &[u8], arguments: &[u8]) {
        self.bytes.extend_from_slice(command);
        self.bytes.extend_from_slice(arguments);
    }

    fn look(&mut self, look: Look) {
        let before = std::mem::replace(&mut self.look, look);
        let switches = [
            (JUSTIFY, u8::from(before.centred), u8::from(look.centred)),
            (EMPHASIZED, u8::from(before.bold), u8::from(look.bold)),
            (REVERSE, u8::from(before.reverse), u8::from(look.reverse)),
            (SIZE, before.size.code(), look.size.code()),
        ];
        for (command, before, now) in switches {
            if before != now {
                self.command(command, &[now]);
            }
        }
    }

    /// Text from outside, over as many lines as it needs: the first begins with `lead`, the others are indented as far. Gives how many
    /// columns the last one takes.
    pub fn text(&mut self, look: Look, lead: &str, text: &str) -> usize {
        self.look(look);
        let (lead, text) = (self.code_page.encode(lead), self.code_page.encode(text));
        let columns = self.columns / look.size.width();
        let indent = lead.len().min(columns - 1);
        let mut last = 0;
        for (n, line) in wrap(&text, columns - indent).into_iter().enumerate() {
            match n {
                0 => self.bytes.extend_from_slice(&lead[..indent]),
                _ => self.bytes.resize(self.bytes.len() + indent, b' '),
            }
            self.bytes.extend_from_slice(line);
            self.bytes.push(b'\n');
            last = indent + line.len();
        }
        last
    }

    /// Text on the left and an amount on the right of the last line.
    pub fn amount(&mut self, look: Look, lead: &str, text: &str, amount: &str) {
        let amount = self.code_page.encode(amount);
        let columns = self.columns / look.size.width();
        let free = columns.saturating_sub(self.text(look, lead, text));
        if free > amount.len() {
            self.bytes.pop();
            self.bytes.resize(self.bytes.len() + free - amount.len(), b' ');
        } else {
            self.bytes.resize(self.bytes.len() + columns.saturating_sub(amount.len()), b' ');
        }
        self.bytes.extend_from_slice(&amount);
        self.bytes.push(b'\n');
    }

    /// A line across.
    pub fn rule(&mut self) {
        self.look(PLAIN);
        self.bytes.resize(self.bytes.len() + self.columns, b'-');
        self.bytes.push(b'\n');
    }

    /// Feeds so many empty lines.
    pub fn feed(&mut self, lines: u8) {
        self.look(PLAIN);
        self.command(FEED, &[lines]);
    }

    /// Cuts what is above off.
    pub fn cut(&mut self) {
        self.look(PLAIN);
        self.command(CUT, &[]);
    }

    /// Pulls at pin 2 (0) or 5 (1) of the drawer's socket, where a drawer or a bell is.
    pub fn pulse(&mut self, pin: u8) {
        self.command(PULSE, &[pin]);
        self.command(&PULSE_TIMES, &[]);
    }

    /// The bytes for the printer.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Lines of at most `columns` bytes, broken at spaces where there are any. Never none.
fn wrap(text: &[u8], columns: usize) -> Vec<&[u8]> {
    let mut lines = vec![];
    let mut rest = text.trim_ascii();
    while rest.len() > columns {
        let at_space = rest[..=columns].iter().rposition(|byte| *byte == b' ').filter(|at| *at > 0);
        let (line, behind) = rest.split_at(at_space.unwrap_or(columns));
        lines.push(line.trim_ascii_end());
        rest = behind.trim_ascii_start();
    }
    lines.push(rest);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, columns: usize) -> Vec<String> {
        wrap(text.as_bytes(), columns).into_iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect()
    }

    #[test]
    fn words_are_kept_whole_where_they_fit() {
        assert_eq!(wrapped("extra cheese, no onions", 12), ["extra", "cheese, no", "onions"]);
        assert_eq!(wrapped("exactly ten", 7), ["exactly", "ten"]);
        assert_eq!(wrapped("Donaudampfschiff", 6), ["Donaud", "ampfsc", "hiff"]);
        assert_eq!(wrapped("  a   b  ", 3), ["a", "b"]);
        assert_eq!(wrapped("", 3), [""]);
    }

    #[test]
    fn an_amount_stands_at_the_right_edge_also_below_a_text_that_leaves_no_room() {
        let mut page = Page::new(12, CodePage::Pc437);
        page.amount(PLAIN, "1 ", "Tea", "2.50");
        page.amount(PLAIN, "1 ", "Lemonade x", "12.50");
        page.amount(BOLD, "", "Total", "15.00");
        let text = String::from_utf8_lossy(&page.into_bytes()).into_owned();
        assert!(text.ends_with("1 Tea   2.50\n1 Lemonade x\n       12.50\n\u{1b}E\u{1}Total  15.00\n"), "{text:?}");
    }

    #[test]
    fn only_what_changes_of_the_look_is_sent() {
        let mut page = Page::new(12, CodePage::Pc858);
        page.text(BANNER, "", "COPY");
        page.text(PLAIN, "", "x");
        let expected = b"\x1b@\x1da\0\x1bt\x13\x1ba\x01\x1bE\x01\x1dB\x01\x1d!\x11COPY\n\x1ba\0\x1bE\0\x1dB\0\x1d!\0x\n";
        assert_eq!(page.into_bytes().escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}
