//! `[display]`: in which language the pages are.

use super::section::{FromNode, Section};
use super::tree::Node;
use crate::display::Language;

impl FromNode for Language {
    fn from_node(node: Node) -> Result<Self, String> {
        let text = String::from_node(node)?;
        let all: Vec<&str> = Language::all().map(Language::code).collect();
        Language::of_code(&text).ok_or_else(|| format!("is '{text}'; give one of {}", all.join(", ")))
    }
}

/// The language of every page; `None`: each in that of its browser.
pub(super) fn read(mut section: Section<'_>) -> Option<Language> {
    let language = section.get("language").map(|at| at.value);
    section.finish();
    language
}
