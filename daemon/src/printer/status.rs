//! What a printer says of itself, by Epson's command reference: four bytes of real-time status, and one when all before is printed.

use std::fmt;

/// How a printer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing was heard of it yet.
    Unknown,
    /// It prints.
    Ok,
    /// It prints, and its paper is nearly at an end.
    PaperLow,
    /// It has no paper.
    PaperOut,
    /// Its cover is open.
    CoverOpen,
    /// It reports an error, mostly of its cutter.
    Error,
    /// It answers and does not print, or it cannot be reached.
    Offline,
    /// It is reached and does not answer.
    Hanging,
}

impl State {
    /// The word in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Ok => "ok",
            State::PaperLow => "paper_low",
            State::PaperOut => "paper_out",
            State::CoverOpen => "cover_open",
            State::Error => "error",
            State::Offline => "offline",
            State::Hanging => "hanging",
        }
    }

    /// Whether it takes a ticket.
    pub fn prints(self) -> bool {
        matches!(self, State::Ok | State::PaperLow)
    }

    /// Whether a person has to go there.
    pub fn needs_a_person(self) -> bool {
        !matches!(self, State::Unknown | State::Ok | State::PaperLow)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a byte from a printer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer to `DLE EOT n`.
    RealTime(u8),
    /// The answer to `GS r`: all before it is printed.
    Printed,
    /// The first of four bytes of automatic status.
    Automatic,
    /// Flow control, or noise.
    Other,
}

/// Tells bytes apart by the bits that are fixed in each.
pub fn heard(byte: u8) -> Heard {
    match byte {
        _ if byte & 0x93 == 0x12 => Heard::RealTime(byte),
        _ if byte & 0x93 == 0x10 => Heard::Automatic,
        _ if byte & 0x90 == 0x00 => Heard::Printed,
        _ => Heard::Other,
    }
}

/// The state that the answers to `DLE EOT 1` (printer), 2 (why offline), 3 (errors) and 4 (paper) say.
pub fn state([printer, offline, errors, paper]: [u8; 4]) -> State {
    let (is_offline, cover_open, stopped_for_paper) = (printer & 0x08 != 0, offline & 0x04 != 0, offline & 0x20 != 0);
    let (paper_end, paper_near_end) = (paper & 0x60 != 0, paper & 0x0c != 0);
    // A cutter, something beyond repair, or something that heals by itself.
    let failed = errors & 0x68 != 0 || offline & 0x40 != 0;
    match () {
        () if cover_open => State::CoverOpen,
        () if paper_end || stopped_for_paper => State::PaperOut,
        () if failed => State::Error,
        () if is_offline => State::Offline,
        () if paper_near_end => State::PaperLow,
        () => State::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_the_command_reference() {
        let cases = [
            ([0x12, 0x12, 0x12, 0x12], State::Ok),
            ([0x12, 0x12, 0x12, 0x1e], State::PaperLow),
            ([0x1a, 0x32, 0x12, 0x7e], State::PaperOut),
            ([0x1a, 0x16, 0x12, 0x12], State::CoverOpen),
            ([0x1a, 0x36, 0x12, 0x72], State::CoverOpen),
            ([0x1a, 0x52, 0x1a, 0x12], State::Error),
            ([0x1a, 0x12, 0x12, 0x12], State::Offline),
        ];
        for (answers, expected) in cases {
            assert_eq!(state(answers), expected, "{answers:02x?}");
            assert!(answers.iter().all(|byte| heard(*byte) == Heard::RealTime(*byte)), "{answers:02x?}");
        }
    }

    #[test]
    fn answers_are_told_from_what_comes_by_itself() {
        assert_eq!([0x00, 0x03, 0x0c, 0x0f].map(heard), [Heard::Printed; 4], "GS r 1: paper, nearly at its end, at its end");
        assert_eq!([0x10, 0x14, 0x18, 0x1c].map(heard), [Heard::Automatic; 4]);
        assert_eq!([0x11, 0x13, 0xff].map(heard), [Heard::Other; 3], "XON, XOFF, noise");
    }
}
