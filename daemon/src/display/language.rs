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

pub(super) static TEXTS: LazyLock<[Texts; LANGUAGES.len()]> =
    LazyLock::new(|| LANGUAGES.each_ref().map(|file| serde_json::from_str(file.json).expect("a test reads each file")));

/// A language that there are texts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language(pub(super) usize);

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
