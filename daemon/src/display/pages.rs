//! The pages and their files, built in.
//!
//! No build step, no script from elsewhere, nothing inline: the browser is told to run only what this server serves.

use super::language::{Language, all_texts};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

/// A file under `/static/`.
pub(super) struct File {
    pub name: &'static str,
    kind: &'static str,
    pub text: &'static str,
}

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

pub(super) const FILES: [File; 21] = [
    File { name: "acts.js", kind: JS, text: include_str!("files/acts.js") },
    File { name: "board.css", kind: CSS, text: include_str!("files/board.css") },
    File { name: "board.js", kind: JS, text: include_str!("files/board.js") },
    File { name: "bump.js", kind: JS, text: include_str!("files/bump.js") },
    File { name: "cards.js", kind: JS, text: include_str!("files/cards.js") },
    File { name: "day.js", kind: JS, text: include_str!("files/day.js") },
    File { name: "icon.svg", kind: "image/svg+xml", text: include_str!("files/icon.svg") },
    File { name: "kitchen.css", kind: CSS, text: include_str!("files/kitchen.css") },
    File { name: "kitchen.js", kind: JS, text: include_str!("files/kitchen.js") },
    File { name: "letters.js", kind: JS, text: include_str!("files/letters.js") },
    File { name: "live.js", kind: JS, text: include_str!("files/live.js") },
    File { name: "operations.css", kind: CSS, text: include_str!("files/operations.css") },
    File { name: "operations.js", kind: JS, text: include_str!("files/operations.js") },
    File { name: "overview.js", kind: JS, text: include_str!("files/overview.js") },
    File { name: "pair.css", kind: CSS, text: include_str!("files/pair.css") },
    File { name: "parts.js", kind: JS, text: include_str!("files/parts.js") },
    File { name: "printers.js", kind: JS, text: include_str!("files/printers.js") },
    File { name: "settle.js", kind: JS, text: include_str!("files/settle.js") },
    File { name: "sound.js", kind: JS, text: include_str!("files/sound.js") },
    File { name: "staff.css", kind: CSS, text: include_str!("files/staff.css") },
    File { name: "texts.js", kind: JS, text: include_str!("files/texts.js") },
];

const BOARD: &str = include_str!("files/board.html");
const KITCHEN: &str = include_str!("files/kitchen.html");
const OPERATIONS: &str = include_str!("files/operations.html");
const PAIR: &str = include_str!("files/pair.html");

/// Every page, with `{{key}}` where a text of its language stands.
pub(super) const PAGES: [(&str, &str); 4] =
    [("board.html", BOARD), ("kitchen.html", KITCHEN), ("operations.html", OPERATIONS), ("pair.html", PAIR)];

/// Scripts, styles, pictures and connections of this server alone; no frames, no forms, no plug-ins.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A short name for the pages of this build. A page that hears another one from its stream is out of date and loads itself anew: a
/// tablet on a wall is never reloaded by a person.
pub static BUILD: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    for text in FILES.iter().map(|file| file.text).chain(PAGES.map(|(_, text)| text)).chain(all_texts()) {
        text.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
});

/// `/`: the customers' board.
pub async fn board_page(language: Language, headers: HeaderMap) -> Response<Body> {
    page(&headers, language, BOARD)
}

/// `/kitchen`: the open orders with their lines.
pub async fn kitchen_page(language: Language, headers: HeaderMap) -> Response<Body> {
    page(&headers, language, KITCHEN)
}

/// `/operations`: how the gateway is.
pub async fn operations_page(language: Language, headers: HeaderMap) -> Response<Body> {
    page(&headers, language, OPERATIONS)
}

/// `/pair`: a form that pairs this page, with the reason why it was not by the words of its `why-…`. `next` comes back with the form.
pub fn pair_page(language: Language, why: Option<&str>, next: &str) -> Response<Body> {
    let escaped = next.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let mut text = language.fill(PAIR).replace("name=\"next\" value=\"\"", &format!("name=\"next\" value=\"{escaped}\""));
    if let Some(why) = why {
        text = text.replace(&format!("id=\"why-{why}\" hidden"), &format!("id=\"why-{why}\" role=\"alert\""));
    }
    let policy = CONTENT_SECURITY_POLICY.replace("form-action 'none'", "form-action 'self'");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::VARY, HeaderValue::from_static("accept-language")),
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).expect("the policy is plain text")),
    ];
    (headers, text).into_response()
}

/// A file under `/static/`, if there is one of this name.
pub fn static_file(headers: &HeaderMap, name: &str) -> Option<Response<Body>> {
    if let Some(file) = FILES.iter().find(|file| file.name == name) {
        return Some(unless_known(headers, "", file.kind, file.text.to_owned()));
    }
    let language = name.strip_prefix("texts-")?.strip_suffix(".js").and_then(Language::of_code)?;
    Some(unless_known(headers, "", JS, language.script()))
}

/// JSON that is the same for all who ask, and of no use a moment later.
pub fn json_once(text: String) -> Response<Body> {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

fn page(headers: &HeaderMap, language: Language, text: &str) -> Response<Body> {
    let text = language.fill(&text.replace("{{build}}", &BUILD));
    let mut response = unless_known(headers, language.code(), "text/html; charset=utf-8", text);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::VARY, HeaderValue::from_static("accept-language"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Browsers ask each time, and hear 304 until another build runs, or until `variant` is another.
fn unless_known(headers: &HeaderMap, variant: &str, kind: &'static str, text: String) -> Response<Body> {
    let tag = format!("\"{}{variant}\"", *BUILD);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known.flat_map(|list| list.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
    let fresh = [(header::CACHE_CONTROL, "no-cache".to_owned()), (header::ETAG, tag)];
    if is_known {
        return (StatusCode::NOT_MODIFIED, fresh).into_response();
    }
    (fresh, [(header::CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fetch_nothing_from_elsewhere_and_hold_nothing_inline() {
        let texts = FILES.iter().map(|file| (file.name, file.text));
        for (name, text) in texts.chain(PAGES) {
            let elsewhere = text.replace("http://www.w3.org/", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://") && !text.contains("@import"), "{name}");
            if name.ends_with(".html") {
                assert!(!text.contains("<style") && !text.contains(" style=") && !text.contains(" on"), "{name} is refused by the policy");
                let mut scripts = text.split("<script").skip(1);
                assert!(scripts.all(|script| script.starts_with(" src=\"/static/")), "{name}");
            }
        }
    }

    #[test]
    fn every_file_that_a_page_names_is_there() {
        for (page, language) in PAGES.iter().flat_map(|(_, page)| Language::all().map(move |language| (page, language))) {
            let page = language.fill(page);
            let named: Vec<&str> = page.split("/static/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            assert!(named.len() >= 2, "a page has a style and an icon");
            for name in named {
                assert!(static_file(&HeaderMap::new(), name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn scripts_are_in_the_language_of_a_ten_year_old_tablet() {
        for file in FILES.iter().filter(|file| file.kind == JS) {
            let code: String = file.text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            for newer in
                ["=>", "`", "const ", "let ", "class ", "async ", "fetch(", "...", "?.", "??", ".includes(", "Object.assign", "Promise"]
            {
                assert!(!code.contains(newer), "{}: {newer}", file.name);
            }
        }
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = static_file(&HeaderMap::new(), "board.js").unwrap();
        assert_eq!(first.status(), StatusCode::OK);
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, format!("\"x\", W/{}", first.headers()[header::ETAG].to_str().unwrap()).parse().unwrap());
        assert_eq!(static_file(&headers, "board.js").unwrap().status(), StatusCode::NOT_MODIFIED);
        for absent in ["../board.js", "texts-xx.js", "texts-.js"] {
            assert!(static_file(&HeaderMap::new(), absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn a_page_that_the_browser_has_in_another_language_is_sent() {
        let tag_of = |language| page(&HeaderMap::new(), language, BOARD).headers()[header::ETAG].clone();
        let [english, german] = ["en", "de"].map(|code| Language::of_code(code).unwrap());
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag_of(english))]);
        assert_eq!(page(&headers, english, BOARD).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(page(&headers, german, BOARD).status(), StatusCode::OK);
    }
}
