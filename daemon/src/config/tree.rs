//! The config before it has types: one tree out of the file, `conf.d` and the environment, in which every value knows where it comes from.

use super::problem::{Origin, Problem};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// Largest config file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most files in `conf.d`.
const FILES_MAX: usize = 100;
/// Every variable that overrides a key begins with it.
const VARIABLE_PREFIX: &str = "DUMBWAITER_";

/// A value and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub origin: Origin,
    pub value: Value,
}

/// A value of TOML, or a variable's text, which takes the type that its key asks for.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Date,
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    Variable(String),
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) | Value::Variable(_) => "a text",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a decimal number",
            Value::Boolean(_) => "true or false",
            Value::Date => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a section",
        }
    }
}

/// Reads the file, `conf.d/*.toml` beside it in name order, and the variables. What cannot be read becomes a problem.
pub(super) fn gather(path: &Path, variables: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Node {
    let origin = Origin::File(path.into(), 1);
    let mut root = Node { origin: origin.clone(), value: Value::Table(BTreeMap::new()) };
    let mut files = vec![path.to_owned()];
    match drop_ins(path) {
        Ok(more) => files.extend(more),
        Err(what) => problems.push(Problem { origin, key: String::new(), what }),
    }
    for file in files {
        match read(&file) {
            Ok(text) => merge(&mut root, parse(&file, &text, problems)),
            Err(what) => problems.push(Problem { origin: Origin::File(file.as_path().into(), 1), key: String::new(), what }),
        }
    }
    for (name, text) in variables {
        let Some(key) = name.strip_prefix(VARIABLE_PREFIX).filter(|key| key.contains("__")) else { continue };
        let origin = Origin::Variable(name.as_str().into());
        let path: Vec<String> = variable_path(key);
        if let Err(what) = set(&mut root, &path, &origin, text) {
            problems.push(Problem { origin, key: path.join("."), what });
        }
    }
    root
}

fn read(file: &Path) -> Result<String, String> {
    let cannot = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file; give another with --config".to_owned(),
        _ => format!("cannot be read: {e}"),
    };
    let length = std::fs::metadata(file).map_err(cannot)?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("is {length} bytes long; a config has at most {FILE_BYTES_MAX}"));
    }
    std::fs::read_to_string(file).map_err(cannot)
}

fn drop_ins(path: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    let folder = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let cannot = |e: std::io::Error| format!("{} cannot be read: {e}", folder.display());
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(cannot(e)),
    };
    let mut files = vec![];
    for entry in entries {
        let file = entry.map_err(cannot)?.path();
        let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    if files.len() > FILES_MAX {
        return Err(format!("{} holds {} files; at most {FILES_MAX} are read", folder.display(), files.len()));
    }
    files.sort();
    Ok(files)
}

fn parse(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Node {
    let places = Places { file: file.into(), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let origin = places.at(error.span().unwrap_or(0..0));
        problems.push(Problem { origin, key: String::new(), what: format!("is not TOML: {}", error.message()) });
    }
    let origin = places.at(0..0);
    Node { origin, value: Value::Table(places.table(table.get_ref())) }
}

struct Places<'a> {
    file: Arc<Path>,
    text: &'a str,
}

impl Places<'_> {
    fn at(&self, span: Range<usize>) -> Origin {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        Origin::File(self.file.clone(), 1 + before.iter().filter(|b| **b == b'\n').count())
    }

    fn table(&self, table: &DeTable<'_>) -> BTreeMap<String, Node> {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            // A section and a list of sections begin at a line of their own, a plain value at its key.
            let span = if has_header(value.get_ref()) { value.span() } else { key.span() };
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.to_string(), Node { origin: self.at(span), value: self.value(value.get_ref()) })
        };
        table.iter().map(entry).collect()
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| Value::Text(number.to_string()), Value::Integer)
            }
            DeValue::Float(number) => number.as_str().parse().map_or_else(|_| Value::Text(number.to_string()), Value::Float),
            DeValue::Boolean(is) => Value::Boolean(*is),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(items) => {
                let item = |item: &toml::Spanned<DeValue<'_>>| Node { origin: self.at(item.span()), value: self.value(item.get_ref()) };
                Value::List(items.iter().map(item).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }
}

fn has_header(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
        _ => false,
    }
}

/// Sections are merged key by key and lists of sections are joined, so that a drop-in adds a port; anything else is replaced.
fn merge(under: &mut Node, over: Node) {
    match (&mut under.value, over.value) {
        (Value::Table(under), Value::Table(over)) => {
            for (key, node) in over {
                match under.get_mut(&key) {
                    Some(present) => merge(present, node),
                    None => _ = under.insert(key, node),
                }
            }
        }
        (Value::List(under), Value::List(over)) if over.iter().any(|item| matches!(item.value, Value::Table(_))) => under.extend(over),
        (_, value) => *under = Node { origin: over.origin, value },
    }
}

/// `KAFKA__PROPERTIES__SOCKET_KEEPALIVE_ENABLE` is `kafka.properties."socket.keepalive.enable"`: librdkafka's names have dots where
/// the environment can only have underscores.
fn variable_path(key: &str) -> Vec<String> {
    let mut path: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
    if let [section, table, rest] = path.as_mut_slice()
        && section == "kafka"
        && table == "properties"
    {
        *rest = rest.replace('_', ".");
    }
    path
}

/// Sets one value. A number in the path is a place in a list of sections: 0 is the first, and one past the last adds one.
fn set(node: &mut Node, path: &[String], origin: &Origin, text: &str) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        *node = Node { origin: origin.clone(), value: Value::Variable(text.to_owned()) };
        return Ok(());
    };
    if key.is_empty() {
        return Err("the variable's name has an empty part; two underscores stand between a section and its key".into());
    }
    let empty = || match rest.first() {
        Some(next) if next.bytes().all(|b| b.is_ascii_digit()) => Value::List(vec![]),
        _ => Value::Table(BTreeMap::new()),
    };
    match &mut node.value {
        Value::Table(entries) => {
            let entry = entries.entry(key.clone()).or_insert_with(|| Node { origin: origin.clone(), value: empty() });
            set(entry, rest, origin, text)
        }
        Value::List(items) => {
            let place: usize = key.parse().map_err(|_| format!("is a list; a number must stand in place of '{key}'"))?;
            if place == items.len() {
                items.push(Node { origin: origin.clone(), value: Value::Table(BTreeMap::new()) });
            }
            let count = items.len();
            let item = items.get_mut(place).ok_or_else(|| format!("there is no number {place}; the next one is {count}"))?;
            set(item, rest, origin, text)
        }
        _ => Err("the part before it is a value, not a section".into()),
    }
}
