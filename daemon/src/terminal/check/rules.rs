//! The rules of docs/protocol.md, by its chapter 6, and what became of each.

use serde_json::{Value, json};
use std::fmt;

/// How the terminal under test is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON lines.
    Lines,
    Mqtt,
    Http,
    /// Binary frames.
    Frames,
}

/// A rule of the page.
#[derive(Debug)]
pub struct Rule {
    /// As the page numbers it.
    pub id: &'static str,
    /// Where the page explains it.
    pub chapter: &'static str,
    pub text: &'static str,
    on: &'static [Kind],
}

const REQUESTS: &[Kind] = &[Kind::Lines, Kind::Mqtt, Kind::Http];
const ANSWERS_BY_THEMSELVES: &[Kind] = &[Kind::Lines, Kind::Mqtt];

const fn rule(id: &'static str, chapter: &'static str, on: &'static [Kind], text: &'static str) -> Rule {
    Rule { id, chapter, text, on }
}

/// Every rule that can be seen from the gateway's end. A test holds docs/protocol.md to it.
pub const RULES: [Rule; 38] = [
    rule("R1", "1.1", REQUESTS, "a request is a JSON object of at most 16,384 bytes with a request id of its own"),
    rule("R2", "1.3", REQUESTS, "without an answer, the same request is submitted again under the same id"),
    rule("R3", "1.3", REQUESTS, "after `busy` the same again, not before `retryAfterMs`"),
    rule("R4", "1.3", REQUESTS, "after `full` the same again, not before `retryAfterMs`"),
    rule("R5", "1.3", REQUESTS, "after any other code, an unknown one too, never again"),
    rule("R6", "1.2", REQUESTS, "what is stored, also as a duplicate, is never submitted again"),
    rule("R7", "1.2", REQUESTS, "unknown fields of an answer are ignored"),
    rule("R8", "1.1", REQUESTS, "a request id always has the same content"),
    rule("R9", "1.3", ANSWERS_BY_THEMSELVES, "an answer is for its own request alone; a repeated one changes nothing"),
    rule("R10", "1.2", ANSWERS_BY_THEMSELVES, "what is no answer is ignored"),
    rule("R11", "1.3", REQUESTS, "what was unanswered while the gateway was away is submitted again when it is back"),
    rule("L1", "3", &[Kind::Lines], "a line feed comes first after a start"),
    rule("M1", "4", &[Kind::Mqtt], "a submit is never retained"),
    rule("M2", "4", &[Kind::Mqtt], "a submit has QoS 1"),
    rule("M3", "4", &[Kind::Mqtt], "what is unanswered is submitted again when `…/gateway` says anew that it is online"),
    rule("H1", "5", &[Kind::Http], "each request has its `Idempotency-Key`"),
    rule("H2", "5", &[Kind::Http], "each request has `Content-Type: application/json`"),
    rule("H3", "5", &[Kind::Http], "after 503 without JSON the same again, under the same key, not before `Retry-After`"),
    rule("B1", "2.5", &[Kind::Frames], "Hello comes first, and again with the same nonce, 1 s later at the earliest, until it is answered"),
    rule("B2", "2.5", &[Kind::Frames], "a Welcome of another nonce is ignored"),
    rule("B3", "2.3", &[Kind::Frames], "a request comes in order, in parts of 1 to 224 bytes, and is JSON of at most 16,384 bytes"),
    rule("B4", "2.5", &[Kind::Frames], "no number is sent at or above first + `window`, nor more parts than `flight` without a receipt"),
    rule("B5", "2.5", &[Kind::Frames], "without a receipt the same part comes again, 1 s later at the earliest"),
    rule("B6", "2.5", &[Kind::Frames], "after Missing the parts come again from there"),
    rule("B7", "2.5", &[Kind::Frames], "while the answer is awaited nothing of the request is sent again"),
    rule("B8", "2.5", &[Kind::Frames], "an answer is confirmed, and a repeated one is confirmed again"),
    rule("B9", "2.5", &[Kind::Frames], "an answered number is never sent again"),
    rule("B10", "2.5", &[Kind::Frames], "an answer to a higher number, or with another session's tag, is ignored"),
    rule("B11", "2.6", &[Kind::Frames], "after `busy` and `full` the same content comes under a new number, not before `retry_after_ms`"),
    rule("B12", "2.6", &[Kind::Frames], "after any other code the content never comes again"),
    rule("B13", "2.1", &[Kind::Frames], "noise, half a frame and unknown kinds of messages are ignored"),
    rule("B14", "2.9", &[Kind::Frames], "a Ping comes each `ping_ms`"),
    rule("B15", "2.9", &[Kind::Frames], "after `dead_ms` of silence comes Hello, naming the session"),
    rule("B16", "2.5", &[Kind::Frames], "in a session that goes on, what is unfinished comes again under its number with its content"),
    rule("B17", "2.5", &[Kind::Frames], "WhoAreYou is answered by Hello at once"),
    rule("B18", "2.5", &[Kind::Frames], "after a refusal the next Hello waits for `retry_after_ms`"),
    rule("B19", "2.7", &[Kind::Frames], "after `unknown_session` what was unanswered goes into a new session with maybe_stored"),
    rule("B20", "2.5", &[Kind::Frames], "each push is answered by Seen, a repeated one too"),
];

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing happened that would show it.
    NotSeen,
    Pass,
    /// With what was seen.
    Fail(String),
}

/// Every rule of one kind of line, with its verdict.
#[derive(Debug)]
pub struct Verdicts(Vec<(&'static Rule, Verdict)>);

impl Verdicts {
    pub fn new(kind: Kind) -> Verdicts {
        Verdicts(RULES.iter().filter(|rule| rule.on.contains(&kind)).map(|rule| (rule, Verdict::NotSeen)).collect())
    }

    /// The rule was kept once. A failure stays one.
    pub fn pass(&mut self, id: &str) {
        self.set(id, Verdict::Pass);
    }

    /// The rule was broken; the first time is told.
    pub fn fail(&mut self, id: &str, why: impl Into<String>) {
        self.set(id, Verdict::Fail(why.into()));
    }

    /// Kept or broken.
    pub fn judge(&mut self, id: &str, is_kept: bool, why: impl FnOnce() -> String) {
        if is_kept { self.pass(id) } else { self.fail(id, why()) }
    }

    pub fn has_failed(&self, id: &str) -> bool {
        self.0.iter().any(|(rule, verdict)| rule.id == id && matches!(verdict, Verdict::Fail(_)))
    }

    fn set(&mut self, id: &str, new: Verdict) {
        if let Some((_, verdict)) = self.0.iter_mut().find(|(rule, _)| rule.id == id)
            && !matches!(verdict, Verdict::Fail(_))
        {
            *verdict = new;
        }
    }

    /// Nothing failed, and something passed.
    pub fn are_good(&self) -> bool {
        let is = |wanted: fn(&Verdict) -> bool| self.0.iter().any(|(_, verdict)| wanted(verdict));
        !is(|verdict| matches!(verdict, Verdict::Fail(_))) && is(|verdict| *verdict == Verdict::Pass)
    }

    pub fn to_json(&self) -> Value {
        let rules = self.0.iter().map(|(rule, verdict)| {
            let (word, why) = words(verdict);
            json!({"rule": rule.id, "chapter": rule.chapter, "text": rule.text, "verdict": word, "why": why})
        });
        json!({"good": self.are_good(), "rules": rules.collect::<Vec<_>>()})
    }
}

fn words(verdict: &Verdict) -> (&'static str, Option<&str>) {
    match verdict {
        Verdict::NotSeen => ("NOT SEEN", None),
        Verdict::Pass => ("PASS", None),
        Verdict::Fail(why) => ("FAIL", Some(why)),
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rule, verdict) in &self.0 {
            let (word, why) = words(verdict);
            writeln!(f, "{word:8}  {:4} {} (docs/protocol.md, {})", rule.id, rule.text, rule.chapter)?;
            if let Some(why) = why {
                writeln!(f, "               {why}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_for_those_who_write_terminals_has_each_rule_in_these_words() {
        let page = include_str!("../../../../docs/protocol.md");
        for rule in &RULES {
            let row = format!("| {} | {} | {} |", rule.id, rule.chapter, rule.text);
            assert!(page.contains(&row), "docs/protocol.md lacks: {row}");
            assert!(page.contains(&format!("## {}", rule.chapter)), "{} is no chapter of the page", rule.chapter);
        }
    }

    #[test]
    fn a_rule_that_was_broken_once_stays_broken() {
        let mut verdicts = Verdicts::new(Kind::Http);
        assert!(!verdicts.are_good(), "nothing was seen");
        verdicts.pass("R1");
        assert!(verdicts.are_good());
        verdicts.fail("R1", "one");
        verdicts.pass("R1");
        verdicts.fail("R1", "two");
        assert!(!verdicts.are_good() && verdicts.to_string().contains("one") && !verdicts.to_string().contains("two"));
    }
}
