//! Reads a section key by key: each into its type, problems collected, and what nobody asked for is an unknown key.

use super::problem::{Origin, Problem};
use super::tree::{Node, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Letters in which a misspelt key differs from the meant one at most.
const TYPO_EDITS_MAX: usize = 3;

/// Where problems gather.
pub(super) type Sink = RefCell<Vec<Problem>>;

/// A section that is being read. [`Section::finish`] must be its end.
#[derive(Debug)]
pub(super) struct Section<'s> {
    path: String,
    origin: Origin,
    entries: BTreeMap<String, Node>,
    asked: Vec<&'static str>,
    sink: &'s Sink,
}

/// A value that was read, with its place for problems that show later.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub origin: Origin,
    pub value: T,
}

impl<'s> Section<'s> {
    pub(super) fn root(node: Node, sink: &'s Sink) -> Section<'s> {
        Section::new(String::new(), node, sink)
    }

    fn new(path: String, node: Node, sink: &'s Sink) -> Section<'s> {
        let entries = match node.value {
            Value::Table(entries) => entries,
            other => {
                let what = format!("is {}, but a section is expected; write [{path}]", other.kind());
                sink.borrow_mut().push(Problem { origin: node.origin.clone(), key: path.clone(), what });
                BTreeMap::new()
            }
        };
        Section { path, origin: node.origin, entries, asked: vec![], sink }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Notes a problem of one of this section's keys.
    pub(super) fn problem(&self, origin: &Origin, key: &str, what: impl Into<String>) {
        self.sink.borrow_mut().push(Problem { origin: origin.clone(), key: self.key(key), what: what.into() });
    }

    fn key(&self, key: &str) -> String {
        let parts = [self.path.as_str(), key];
        parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".")
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    /// A section in this one; `None` if it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'s>> {
        let path = self.key(key);
        self.take(key).map(|node| Section::new(path, node, self.sink))
    }

    /// A section that is always on.
    pub(super) fn section_or_empty(&mut self, key: &'static str) -> Section<'s> {
        let empty = Node { origin: self.origin.clone(), value: Value::Table(BTreeMap::new()) };
        let path = self.key(key);
        let node = self.take(key).unwrap_or(empty);
        Section::new(path, node, self.sink)
    }

    /// The sections of a list, `[[serial]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'s>> {
        let path = self.key(key);
        match self.take(key) {
            None => vec![],
            Some(Node { value: Value::List(items), .. }) => {
                items.into_iter().map(|item| Section::new(path.clone(), item, self.sink)).collect()
            }
            Some(node) => {
                self.problem(&node.origin, key, format!("is {}, but may stand several times; write [[{path}]]", node.value.kind()));
                vec![]
            }
        }
    }

    /// Every key with its value as text: for a section whose keys are another program's.
    pub(super) fn texts(&self) -> Vec<(String, At<Result<String, String>>)> {
        let text = |(key, node): (&String, &Node)| (key.clone(), At { origin: node.origin.clone(), value: plain_text(&node.value) });
        self.entries.iter().map(text).collect()
    }

    /// Whether a key is there, right or wrong. Asked before it is read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A value; `None` if it is absent or wrong.
    pub(super) fn get<T: FromNode>(&mut self, key: &'static str) -> Option<At<T>> {
        let node = self.take(key)?;
        let origin = node.origin.clone();
        match T::from_node(node) {
            Ok(value) => Some(At { origin, value }),
            Err(what) => {
                self.problem(&origin, key, what);
                None
            }
        }
    }

    /// A value, or its default.
    pub(super) fn or<T: FromNode>(&mut self, key: &'static str, default: T) -> T {
        self.get(key).map_or(default, |at| at.value)
    }

    /// A value that must be there; a problem and `None` if it is not.
    pub(super) fn required<T: FromNode>(&mut self, key: &'static str, what: &str) -> Option<At<T>> {
        if !self.has(key) {
            self.problem(&self.origin, key, format!("is missing; {what}"));
        }
        self.get(key)
    }

    /// A whole number within bounds, or its default.
    pub(super) fn within<N>(&mut self, key: &'static str, default: N, bounds: RangeInclusive<N>) -> N
    where
        N: FromNode + Copy + PartialOrd + Display,
    {
        match self.get::<N>(key) {
            Some(At { value, .. }) if bounds.contains(&value) => value,
            Some(At { origin, value }) => {
                self.problem(&origin, key, format!("is {value}; give {} to {}", bounds.start(), bounds.end()));
                default
            }
            None => default,
        }
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, node) in &self.entries {
            let what = match suggestion(key, &self.asked) {
                Some(meant) => format!("is no key; did you mean {}?", self.key(meant)),
                None => format!("is no key; the keys here are {}", self.asked.join(", ")),
            };
            self.problem(&node.origin, key, what);
        }
    }
}

fn suggestion<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    if matches!(key, "password" | "token" | "secret") {
        return known.iter().copied().find(|known| *known == "password_file");
    }
    let key = key.to_lowercase().replace('-', "_");
    let (distance, nearest) = known.iter().map(|known| (edits(&key, known), *known)).min()?;
    // A short word is near to everything: two thirds of it must be right.
    (distance <= TYPO_EDITS_MAX.min(key.len().div_ceil(3))).then_some(nearest)
}

/// Levenshtein's distance: letters to insert, remove or replace.
fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// A value that a key can have.
pub(super) trait FromNode: Sized {
    /// # Errors
    /// What is wrong and what to do.
    fn from_node(node: Node) -> Result<Self, String>;
}

impl FromNode for String {
    fn from_node(node: Node) -> Result<Self, String> {
        match node.value {
            Value::Text(text) | Value::Variable(text) => Ok(text),
            other => Err(format!("is {}, but a text is expected; write it in quotes", other.kind())),
        }
    }
}

impl FromNode for bool {
    fn from_node(node: Node) -> Result<Self, String> {
        match node.value {
            Value::Boolean(is) => Ok(is),
            Value::Variable(text) => text.parse().map_err(|_| format!("is '{text}'; give true or false")),
            other => Err(format!("is {}; give true or false, without quotes", other.kind())),
        }
    }
}

impl FromNode for u64 {
    fn from_node(node: Node) -> Result<Self, String> {
        match node.value {
            Value::Integer(number) => u64::try_from(number).map_err(|_| format!("is {number}; it cannot be below 0")),
            Value::Variable(text) => text.parse().map_err(|_| format!("is '{text}'; give a whole number")),
            other => Err(format!("is {}; give a whole number, without quotes", other.kind())),
        }
    }
}

impl FromNode for u32 {
    fn from_node(node: Node) -> Result<Self, String> {
        let number = u64::from_node(node)?;
        u32::try_from(number).map_err(|_| format!("is {number}; that is too much"))
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: Node) -> Result<Self, String> {
        match node.value {
            Value::List(items) => items.into_iter().map(T::from_node).collect(),
            // A comma list: the environment has no brackets, and nobody should have to think of them in a file.
            Value::Text(text) | Value::Variable(text) => {
                let item = |part: &str| T::from_node(Node { origin: node.origin.clone(), value: Value::Variable(part.trim().to_owned()) });
                text.split(',').filter(|part| !part.trim().is_empty()).map(item).collect()
            }
            other => Err(format!("is {}, but a list is expected", other.kind())),
        }
    }
}

/// Reads a value from its text: for every type of which `FromStr` says what is wrong.
pub(super) fn from_text<T: FromStr<Err: Display>>(node: Node) -> Result<T, String> {
    let text = String::from_node(node)?;
    text.parse().map_err(|e| format!("'{text}' {e}"))
}

fn plain_text(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) | Value::Variable(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(is) => Ok(is.to_string()),
        Value::Table(_) => Err("is a section; write the whole name in quotes, \"socket.keepalive.enable\" = true".into()),
        Value::Date | Value::List(_) => Err(format!("is {}; write it as a text in quotes", value.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::edits;

    #[test]
    fn edits_are_counted_as_levenshtein_did() {
        for (one, other, count) in [("", "", 0), ("kitten", "sitting", 3), ("", "abc", 3), ("buad", "baud", 2), ("broker", "brokers", 1)] {
            assert_eq!(edits(one, other), count, "{one} {other}");
            assert_eq!(edits(other, one), count, "{other} {one}");
        }
    }
}
