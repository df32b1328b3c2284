//! Every language says the same, all that is said is in each, and no word stands elsewhere.

use super::language::{Language, TEXTS};
use super::pages::{FILES, PAGES};
use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;
use std::collections::{BTreeMap, BTreeSet};

fn placeholders(text: &str) -> BTreeSet<&str> {
    text.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect()
}

fn keys(language: Language) -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    TEXTS[language.0].iter().map(|(key, text)| (*key, placeholders(text))).collect()
}

/// The texts in double quotes of a script, with the code before each on its line. Comments are left out.
fn literals(script: &str) -> Vec<(String, String)> {
    let mut found = vec![];
    for line in script.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let mut parts = line.split('"');
        let mut before = parts.next().unwrap_or_default().to_owned();
        while let (Some(literal), Some(between)) = (parts.next(), parts.next()) {
            found.push((before.clone(), literal.to_owned()));
            before.push_str(literal);
            before.push_str(between);
        }
    }
    found
}

fn has_letter(text: &str) -> bool {
    text.chars().any(char::is_alphabetic)
}

fn scripts() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES.iter().filter(|file| file.name.ends_with(".js")).map(|file| (file.name, file.text))
}

fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGES.into_iter()
}

#[test]
fn every_language_says_the_same() {
    let english = keys(Language(0));
    assert!(english.len() > 80, "only {} texts", english.len());
    for language in Language::all() {
        assert_eq!(keys(language), english, "{}: keys and placeholders are those of English", language.code());
        for (key, text) in &TEXTS[language.0] {
            assert!((has_letter(text) || !placeholders(text).is_empty()) && text.trim() == *text, "{}: {key} is {text:?}", language.code());
            assert!(!text.contains(['<', '\u{2028}', '\u{2029}']), "{}: {key} is text, not markup", language.code());
        }
    }
}

#[test]
fn every_text_is_used_and_every_one_used_is_there() {
    let mut whole = BTreeSet::new();
    let mut groups = BTreeSet::new();
    for (_, page) in pages() {
        let names = page.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        whole.extend(names.filter(|key| !matches!(*key, "build" | "lang")).map(str::to_owned));
    }
    for (_, script) in scripts() {
        for (before, literal) in literals(script) {
            if before.ends_with("texts.word(") {
                groups.insert(format!("{literal}."));
            } else if before.ends_with("texts.say(") || TEXTS[0].contains_key(literal.as_str()) {
                whole.insert(literal);
            }
        }
    }
    let texts = &TEXTS[0];
    let missing: Vec<_> = whole.iter().filter(|key| !texts.contains_key(key.as_str())).collect();
    assert!(missing.is_empty(), "no text for {missing:?}");
    let is_used = |key: &str| whole.contains(key) || groups.iter().any(|group| key.starts_with(group.as_str()));
    let unused: Vec<_> = texts.keys().filter(|key| !is_used(key)).collect();
    assert!(unused.is_empty(), "nobody says {unused:?}");
}

#[test]
fn no_visible_word_stands_outside_the_texts() {
    for (name, page) in pages() {
        let mut rest = page;
        let mut shown = String::new();
        while let Some((text, tag)) = rest.split_once('<') {
            shown.push_str(text);
            let (tag, after) = tag.split_once('>').expect("a tag ends");
            for attribute in ["aria-label=\"", "title=\"", "alt=\"", "placeholder=\"", "data-empty=\""] {
                for value in tag.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                    assert!(value.starts_with("{{") && value.ends_with("}}"), "{name}: {attribute}{value}");
                }
            }
            // A key of the keyboard, which is the same everywhere.
            let is_key = tag == "kbd" && after.chars().nth(1) == Some('<');
            rest = if is_key { &after[after.chars().next().map_or(0, char::len_utf8)..] } else { after };
        }
        let texts = shown.split("{{").map(|part| part.split_once("}}").map_or(part, |(_, after)| after));
        let words: Vec<&str> = texts.flat_map(str::split_whitespace).filter(|word| has_letter(word)).collect();
        assert!(words.is_empty(), "{name}: {words:?}");
    }
    for (name, script) in scripts() {
        for (before, literal) in literals(script) {
            let sinks = ["textContent = ", "title = ", "createTextNode(", "aria-label\", ", "confirm(", "alert(", "say("];
            let is_shown = sinks.iter().any(|sink| before.contains(sink));
            let is_written_like_a_text = literal.split(' ').filter(|word| word.len() > 1).count() > 2
                || literal.starts_with(char::is_uppercase) && literal.contains(char::is_lowercase)
                || literal.contains(|letter: char| letter.is_alphabetic() && !letter.is_ascii());
            let is_none = TEXTS[0].contains_key(literal.as_str())
                || before.contains("texts.")
                || before.contains("RequestHeader(")
                || before.contains("ResponseHeader(");
            assert!(is_none || !has_letter(&literal) || !is_shown && !is_written_like_a_text, "{name}: {literal:?}");
        }
    }
    for file in FILES.iter().filter(|file| file.name.ends_with(".css")) {
        let contents = file.text.split("content: \"").skip(1).filter_map(|rest| rest.split('"').next());
        assert!(contents.clone().all(|content| !has_letter(content)), "{}: {:?}", file.name, contents.collect::<Vec<_>>());
    }
}

#[test]
fn a_page_is_in_the_language_of_its_address_then_of_the_house_then_of_the_browser() {
    let choose = |query: Option<&str>, house: Option<&str>, accept: &str| {
        let headers = HeaderMap::from_iter([(ACCEPT_LANGUAGE, accept.parse().unwrap())]);
        Language::choose(query, house.and_then(Language::of_code), &headers).code()
    };
    assert_eq!(choose(Some("station=x&lang=fr"), Some("de"), "es"), "fr");
    assert_eq!(choose(Some("lang=xx"), Some("de"), "es"), "de");
    assert_eq!(choose(None, None, "nl, es-MX;q=0.7, de-CH;q=0.9, en;q=0.1"), "de");
    assert_eq!(choose(None, None, "FR-fr"), "fr");
    assert_eq!(choose(None, None, "nl, *;q=0.5"), "en");
    assert_eq!(choose(None, None, "de;q=0, ;;q=x"), "en");
    assert_eq!(Language::choose(None, None, &HeaderMap::new()).code(), "en");
}

#[test]
fn a_text_cannot_break_the_page() {
    let page = Language(0).fill("<p title=\"{{a\"<&b}}\">{{board.title}}</p>{{lang}}");
    assert_eq!(page, "<p title=\"a&quot;&lt;&amp;b\">Orders</p>en");
}
