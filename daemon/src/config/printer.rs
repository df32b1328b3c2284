//! `[[printer]]`: where a printer is, what it prints, and what it can do.

use super::same_device;
use super::section::{At, FromNode, Section, from_text};
use super::tree::Node;
use super::values::{HostPort, PrinterAddress};
use gateway::ids::Name;
use std::path::PathBuf;
use std::str::FromStr;

/// Most printers.
pub const PRINTERS_MAX: usize = 16;

/// `[[printer]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printer {
    /// Its name, unique in the house.
    pub name: Name,
    /// How it is reached.
    pub port: PrinterPort,
    /// What it prints.
    pub kind: PrinterKind,
    /// The stations whose lines it prints; all lines without.
    pub stations: Option<Vec<String>>,
    /// Columns of its paper in plain letters.
    pub columns: usize,
    /// The characters that it has.
    pub code_page: CodePage,
    /// How often each ticket is printed: all but the first are marked.
    pub copies: u32,
    /// It has a cutter.
    pub cut: bool,
    /// Which pin of the drawer's socket is pulled after each ticket.
    pub pulse: Pulse,
    /// It answers what state it is in.
    pub status: bool,
    /// It says when a ticket is on paper.
    pub confirms: bool,
    /// How long it may take to say so, in seconds.
    pub confirm_seconds: u32,
}

/// How a printer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrinterPort {
    /// By TCP.
    Address(HostPort),
    /// At a serial port.
    Serial {
        /// The device.
        path: PathBuf,
        /// Bits per second.
        baud: u32,
        /// How it makes us wait.
        flow_control: FlowControl,
    },
}

/// What a printer prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrinterKind {
    /// Large letters and no prices.
    Kitchen,
    /// Prices and the total.
    Receipt,
}

impl PrinterKind {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            PrinterKind::Kitchen => "kitchen",
            PrinterKind::Receipt => "receipt",
        }
    }
}

impl FromStr for PrinterKind {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "kitchen" => Ok(PrinterKind::Kitchen),
            "receipt" => Ok(PrinterKind::Receipt),
            _ => Err("is no kind of printer; give kitchen or receipt"),
        }
    }
}

/// How a printer at a serial port makes us wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowControl {
    /// It does not: its buffer holds a ticket.
    None,
    /// By the wires RTS and CTS.
    Hardware,
    /// By XON and XOFF.
    Software,
}

impl FromStr for FlowControl {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(FlowControl::None),
            "hardware" => Ok(FlowControl::Hardware),
            "software" => Ok(FlowControl::Software),
            _ => Err("is no flow control; give none, hardware or software"),
        }
    }
}

/// Which pin of the drawer's socket is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// None.
    None,
    /// Pin 2, mostly a drawer.
    Pin2,
    /// Pin 5, mostly a bell.
    Pin5,
}

impl FromStr for Pulse {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Pulse::None),
            "pin2" => Ok(Pulse::Pin2),
            "pin5" => Ok(Pulse::Pin5),
            _ => Err("is no pin of the drawer's socket; give none, pin2 or pin5"),
        }
    }
}

/// A table of characters that a printer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodePage {
    /// PC437: USA.
    Pc437,
    /// PC858: Western Europe with the euro sign.
    Pc858,
    /// WPC1252: Windows Latin 1.
    Wpc1252,
}

impl FromStr for CodePage {
    type Err = &'static str;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "pc437" => Ok(CodePage::Pc437),
            "pc858" => Ok(CodePage::Pc858),
            "wpc1252" => Ok(CodePage::Wpc1252),
            _ => Err("is no code page here; give pc437, pc858 or wpc1252"),
        }
    }
}

macro_rules! from_text {
    ($($kind:ty),+) => {
        $(impl FromNode for $kind {
            fn from_node(node: Node) -> Result<Self, String> {
                from_text(node)
            }
        })+
    };
}
from_text!(PrinterKind, FlowControl, Pulse, CodePage);

/// `serial` are the ports that terminals have.
pub(super) fn read(root: &mut Section<'_>, serial: &[PathBuf]) -> Vec<Printer> {
    let mut printers: Vec<Printer> = vec![];
    for mut section in root.sections("printer") {
        let origin = section.origin().clone();
        let name = section.required::<Name>("name", "name this printer, name = \"kitchen\"");
        if let Some(At { origin, value }) = &name
            && printers.iter().any(|printer| printer.name == *value)
        {
            section.problem(origin, "name", format!("{value} is another printer already; each has a name of its own"));
        }
        let port = read_port(&mut section, serial, &printers);
        let kind = section.or("kind", PrinterKind::Kitchen);
        let stations = section.get::<Vec<String>>("stations");
        if let Some(At { origin, value }) = &stations
            && (value.is_empty() || value.iter().any(|station| station.trim().is_empty()))
        {
            section.problem(origin, "stations", "names no station; leave it out for all lines");
        }
        if let Some(At { origin, .. }) = stations.as_ref().filter(|_| kind == PrinterKind::Receipt) {
            section.problem(origin, "stations", "is of no use for a receipt, which has all lines; leave it out");
        }
        let columns = section.within("columns", 42_u32, 24..=64);
        let code_page = section.or("code_page", CodePage::Pc858);
        let copies = section.within("copies", 1_u32, 1..=5);
        let cut = section.or("cut", true);
        let pulse = section.or("pulse", Pulse::None);
        let status = section.or("status", true);
        let confirms = section.get::<bool>("confirms");
        if let Some(At { origin, .. }) = confirms.as_ref().filter(|at| at.value && !status) {
            section.problem(origin, "confirms", "needs status = true: what says nothing cannot confirm either");
        }
        let confirms = confirms.map_or(status, |at| at.value);
        let confirm_seconds = section.within("confirm_seconds", 20_u32, 2..=300);
        section.finish();
        let (Some(name), Some(port)) = (name, port) else { continue };
        if printers.len() == PRINTERS_MAX {
            root.problem(&origin, "printer", format!("stands more than {PRINTERS_MAX} times; remove some"));
            break;
        }
        let stations = stations.map(|at| at.value);
        let columns = usize::try_from(columns).unwrap_or(42);
        printers.push(Printer {
            name: name.value,
            port,
            kind,
            stations,
            columns,
            code_page,
            copies,
            cut,
            pulse,
            status,
            confirms,
            confirm_seconds,
        });
    }
    printers
}

fn read_port(section: &mut Section<'_>, serial: &[PathBuf], printers: &[Printer]) -> Option<PrinterPort> {
    let at = section.origin().clone();
    let (has_baud, has_flow) = (section.has("baud"), section.has("flow_control"));
    let (has_path, has_address) = (section.has("path"), section.has("address"));
    let (path, address) = (section.get::<String>("path"), section.get::<PrinterAddress>("address"));
    let baud = section.within("baud", 9_600_u32, 300..=4_000_000);
    let flow_control = section.or("flow_control", FlowControl::None);
    match (path, address) {
        _ if has_path == has_address => {
            section.problem(
                &at,
                "path",
                "or address is needed, one of them: path = \"/dev/serial/by-path/…\" or address = \"10.0.4.30:9100\"",
            );
            None
        }
        (_, Some(At { value, .. })) => {
            if has_baud || has_flow {
                section.problem(&at, "baud", "and flow_control are of no use with address; leave them out");
            }
            Some(PrinterPort::Address(value.0))
        }
        (Some(At { origin, value }), None) => {
            let path = PathBuf::from(value);
            if !path.is_absolute() {
                section.problem(&origin, "path", format!("'{}' is no device; write its whole path, /dev/ttyUSB0", path.display()));
            }
            let mut others = printers.iter().filter_map(|printer| match &printer.port {
                PrinterPort::Serial { path, .. } => Some(path),
                PrinterPort::Address(_) => None,
            });
            if others.any(|other| same_device(other, &path)) || serial.iter().any(|other| same_device(other, &path)) {
                section.problem(&origin, "path", format!("{} is opened already, by another printer or terminal", path.display()));
            }
            Some(PrinterPort::Serial { path, baud, flow_control })
        }
        (None, None) => None,
    }
}
