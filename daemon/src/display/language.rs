//! The languages of the pages: one file of texts each, and which of them a page is in.
//!
//! A language more is a file under `texts/` and its line in [`LANGUAGES`]. The tests hold every file to the keys and placeholders of the
//! English one, and keep visible words out of the pages and scripts.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;
use std::collections::BTreeMap;
use std::sync::LazyLock;

struct File {
    /// The primary subtag of BCP 47, in lower case.
    code: &'static str,
    json: &'static str,
}

/// The first is taken where nobody asks for one of them.
const LANGUAGES: [File; 4] = [
    File { code: "en", json: include_str!("texts/en.json") },
    File { code: "de", json: include_str!("texts/de.json") },
    File { code: "es", json: include_str!("texts/es.json") },
    File { code: "fr", json: include_str!("texts/fr.json") },
];

type Texts = BTreeMap<&'static str, &'static str>;

static TEXTS: LazyLock<[Texts; LANGUAGES.len()]> =
    LazyLock::new(|| LANGUAGES.each_ref().map(|file| serde_json::from_str(file.json).expect("a test reads each file")));

/// A language that there are texts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language(usize);

impl Language {
    /// Every language, the default first.
    pub fn all() -> impl Iterator<Item = Language> {
        (0..LANGUAGES.len()).map(Language)
    }

    /// The language of this code, `de`.
    pub fn of_code(code: &str) -> Option<Language> {
        Language::all().find(|language| language.code() == code)
    }

    /// What a page is in: what its address asks for by `?lang=`, else what the house has set, else what the browser likes best.
    pub fn choose(query: Option<&str>, house: Option<Language>, headers: &HeaderMap) -> Language {
        let asked = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("lang="));
        asked.and_then(Language::of_code).or(house).or_else(|| accepted(headers)).unwrap_or(Language(0))
    }

    /// Its code, as in `<html lang>`.
    pub fn code(self) -> &'static str {
        LANGUAGES[self.0].code
    }

    /// The script that gives a page its texts.
    pub fn script(self) -> String {
        format!("var TEXTS = {};\n", LANGUAGES[self.0].json.trim_end())
    }

    /// A page with each `{{key}}` replaced by its text.
    pub fn fill(self, page: &str) -> String {
        let mut parts = page.split("{{");
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (key, rest) = part.split_once("}}").unwrap_or((part, ""));
            let text = if key == "lang" { self.code() } else { TEXTS[self.0].get(key).copied().unwrap_or(key) };
            filled.push_str(&text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;"));
            filled.push_str(rest);
        }
        filled
    }
}

/// Everything that is said in any language.
pub fn all_texts() -> impl Iterator<Item = &'static str> {
    LANGUAGES.iter().map(|file| file.json)
}

/// The best of `Accept-Language` that there is, without regard to countries.
fn accepted(headers: &HeaderMap) -> Option<Language> {
    let wanted = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let mut best = None;
    for range in wanted {
        let (tag, quality) = range.split_once(";q=").map_or((range, 1.0), |(tag, quality)| (tag, quality.trim().parse().unwrap_or(0.0)));
        let primary = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
        let is_better = quality > best.map_or(0.0, |(_, found): (Language, f32)| found);
        if let Some(language) = Language::of_code(&primary).filter(|_| is_better) {
            best = Some((language, quality));
        }
    }
    best.map(|(language, _)| language)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::pages::{FILES, PAGES};
    use std::collections::BTreeSet;

    /// Pages for operators alone may speak English: what they show are the gateway's own sentences.
    const ENGLISH_ONLY: [&str; 2] = ["operations.html", "operations.js"];

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
        FILES.iter().filter(|file| file.name.ends_with(".js") && !ENGLISH_ONLY.contains(&file.name)).map(|file| (file.name, file.text))
    }

    fn pages() -> impl Iterator<Item = (&'static str, &'static str)> {
        PAGES.into_iter().filter(|(name, _)| !ENGLISH_ONLY.contains(name))
    }

    #[test]
    fn every_language_says_the_same() {
        let english = keys(Language(0));
        assert!(english.len() > 80, "only {} texts", english.len());
        for language in Language::all() {
            assert_eq!(keys(language), english, "{}: keys and placeholders are those of English", language.code());
            for (key, text) in &TEXTS[language.0] {
                assert!(
                    (has_letter(text) || !placeholders(text).is_empty()) && text.trim() == *text,
                    "{}: {key} is {text:?}",
                    language.code()
                );
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
}
