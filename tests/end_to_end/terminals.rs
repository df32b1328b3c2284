//! Terminals that are let in by their tokens.

use crate::house::{Answer, House, dumbwaiter, http, order, wait_for};
use serde_json::Value;

/// `dumbwaiter terminal …` on the house's config: what it says to programs.
fn terminal(house: &House, arguments: &[&str]) -> Result<Value, String> {
    let (config, passwords) = (house.config(), house.folder.path().join("passwords"));
    let (config, passwords) = (config.to_str().expect("a plain path"), passwords.to_str().expect("a plain path"));
    let all = [&["terminal"], arguments, &["--json", "--config", config, "--passwords", passwords]].concat();
    let output = dumbwaiter(&all);
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("a line of JSON")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn token(told: &Value) -> String {
    told["http"]["token"].as_str().expect("a token").to_owned()
}

/// An order under a token, and in whose name.
fn submit(house: &House, id: &str, token: &str, terminal: Option<&str>) -> Answer {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("Content-Type", "application/json"), ("Idempotency-Key", id), ("Authorization", bearer.as_str())];
    headers.extend(terminal.map(|name| ("X-Terminal", name)));
    http(house.http, "POST", "/api/v1/orders", &headers, order(id).to_string().as_bytes()).expect("the daemon answers")
}

fn status(house: &House, id: &str, token: &str) -> u16 {
    submit(house, id, token, None).status
}

#[test]
fn a_token_is_one_terminals_counts_from_a_reload_on_and_can_be_taken_away() {
    let mut house = House::new("");
    house.start();
    let (kiosk, till) = (terminal(&house, &["add", "kiosk-3", "--http"]).unwrap(), terminal(&house, &["add", "till-1", "--http"]).unwrap());
    assert_eq!(kiosk["then"], serde_json::json!(["systemctl reload dumbwaiter"]));
    let (kiosk, till) = (token(&kiosk), token(&till));
    assert!(kiosk.len() == 52 && kiosk != till);
    assert_eq!(status(&house, "o-1", &kiosk), 401, "nothing was reloaded yet");
    house.reload();
    wait_for("the token to be taken", || (status(&house, "o-1", &kiosk) != 401).then_some(()));
    let stored = submit(&house, "o-2", &kiosk, Some("kiosk-3"));
    assert_eq!(stored.status, 201);
    let history = house.get("/api/v1/orders/o-2/history").json();
    assert_eq!(history["history"][0]["terminal"], "kiosk-3");
    assert_eq!(submit(&house, "o-3", &kiosk, Some("till-1")).status, 403);
    let folder = std::fs::read_to_string(house.folder.path().join("conf.d/terminal-kiosk-3.toml")).expect("the fragment");
    assert!(!folder.contains(&kiosk) && !house.log().contains(&kiosk), "a token is nowhere but in its terminal");

    let again = terminal(&house, &["add", "kiosk-3", "--http"]).unwrap_err();
    assert!(again.contains("terminal rotate kiosk-3"), "{again}");
    let renewed = token(&terminal(&house, &["rotate", "kiosk-3"]).unwrap());
    assert_eq!(status(&house, "o-4", &kiosk), 201, "the old one is good until the reload");
    house.reload();
    wait_for("the old token to be refused", || (status(&house, "o-4", &kiosk) == 401).then_some(()));
    assert_eq!((status(&house, "o-5", &renewed), status(&house, "o-6", &till)), (201, 201));

    terminal(&house, &["remove", "kiosk-3"]).unwrap();
    let unknown = terminal(&house, &["remove", "kiosk-3"]).unwrap_err();
    assert!(unknown.contains("says anything of kiosk-3"), "{unknown}");
    house.reload();
    wait_for("the removed terminal to be refused", || (status(&house, "o-7", &renewed) == 401).then_some(()));
    assert_eq!(status(&house, "o-8", &till), 201, "the others stay");
    house.stop();
}

#[test]
fn who_guesses_tokens_is_slowed_down_and_who_has_one_is_not() {
    let mut house = House::new("");
    let till = token(&terminal(&house, &["add", "till-1", "--http"]).unwrap());
    house.start();
    let refused = wait_for("too many wrong tokens", || Some(submit(&house, "o-1", "guessed", None)).filter(|answer| answer.status != 401));
    assert_eq!((refused.status, &refused.json()["code"]), (429, &serde_json::json!("busy")));
    let seconds: u64 = refused.header("Retry-After").and_then(|text| text.parse().ok()).expect("a time");
    assert!((1..=4).contains(&seconds), "{seconds}");
    assert_eq!(status(&house, "o-1", &till), 201);
    let metrics = house.get("/metrics").body;
    assert!(metrics.contains("dumbwaiter_bound_refused_total{bound=\"http_wrong_token_addresses\"} "), "{metrics}");
    assert!(!metrics.contains("dumbwaiter_bound_refused_total{bound=\"http_wrong_token_addresses\"} 0\n"), "{metrics}");
    house.stop();
}

#[test]
fn what_would_contradict_the_config_is_not_written() {
    let house = House::new("[[serial]]\nterminal = \"till-1\"\npath = \"/dev/ttyS9\"\n");
    let refused = terminal(&house, &["add", "till-1", "--http"]).unwrap_err();
    assert!(refused.contains("till-1 is already at") && refused.contains("nothing was changed"), "{refused}");
    assert!(!house.folder.path().join("conf.d/terminal-till-1.toml").exists());
    let added = terminal(&house, &["add", "till-2", "--serial", "/dev/ttyS8", "--mqtt"]).unwrap();
    assert_eq!(added["mqtt"]["topics"]["submit"], "ord/v1/store-042/t/till-2/submit");
    assert_eq!(added["then"], serde_json::json!(["systemctl restart dumbwaiter", "systemctl reload mosquitto"]));
    let passwords = std::fs::read_to_string(house.folder.path().join("passwords")).expect("mosquitto's file");
    assert!(passwords.starts_with("till-2:$7$") && !passwords.contains(added["mqtt"]["password"].as_str().expect("a password")));
}
