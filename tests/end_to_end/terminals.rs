//! Terminals that are let in by their tokens, and pages that are paired.

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

/// `dumbwaiter pair …`: what it says to programs.
fn pair(house: &House, arguments: &[&str]) -> Value {
    let config = house.config();
    let output = dumbwaiter(&[&["pair"], arguments, &["--json", "--config", config.to_str().expect("a plain path")]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a line of JSON")
}

fn as_page(house: &House, cookie: &str, method: &str, path: &str, body: &Value) -> Answer {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "p-1"), ("Cookie", cookie)];
    http(house.http, method, path, &headers, body.to_string().as_bytes()).expect("the daemon answers")
}

#[test]
fn a_page_is_paired_by_a_code_outlives_a_kill_and_is_revoked_by_its_id() {
    let mut house = House::new("");
    house.start();
    house.post("/api/v1/orders", "r-1", &order("o-1"));
    let code = pair(&house, &["--role", "kitchen", "--minutes", "5"]);
    assert_eq!((&code["role"], &code["validSeconds"]), (&Value::from("kitchen"), &Value::from(300)));
    let form = format!("code={}&name=grill&next=", code["code"].as_str().expect("a code"));
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    let paired = http(house.http, "POST", "/pair", &kind, form.as_bytes()).expect("the daemon answers");
    assert_eq!((paired.status, paired.header("Location")), (303, Some("/kitchen")));
    let cookie = paired.header("Set-Cookie").and_then(|set| set.split(';').next()).expect("a cookie").to_owned();
    let key = cookie.split('=').nth(1).expect("a key");

    house.kill();
    house.start();
    let ready = serde_json::json!({"type": "order.state_changed", "data": {"status": "READY", "actor": "nobody"}});
    assert_eq!(as_page(&house, &cookie, "POST", "/api/v1/orders/o-1/events", &ready).status, 201);
    let history = house.get("/api/v1/orders/o-1/history").json();
    let bump =
        history["history"].as_array().expect("a history").iter().find(|entry| entry["status"] == "READY" && entry["what"] == "event");
    assert_eq!(bump.map(|entry| (&entry["actor"], &entry["terminal"])), Some((&Value::from("grill"), &Value::from("page.grill"))));
    assert_eq!(as_page(&house, &cookie, "GET", "/operations", &Value::Null).status, 403);
    let kept = std::fs::read_to_string(house.data_dir().join("pages.json")).expect("the file of pages");
    assert!(!kept.contains(key) && !house.log().contains(key), "a page's key is nowhere but in the page");

    let pages = pair(&house, &["--list"]);
    assert_eq!((&pages["pages"][0]["name"], pages["pages"].as_array().map(Vec::len)), (&Value::from("grill"), Some(1)));
    pair(&house, &["--revoke", pages["pages"][0]["id"].as_str().expect("an id")]);
    // On this computer the cookie is worth nothing, and needs nothing.
    let event = as_page(&house, &cookie, "GET", "/api/v1/kitchen", &Value::Null);
    assert_eq!((event.status, &event.json()["terminal"]), (200, &Value::Null));
    assert_eq!(pair(&house, &["--list"])["pages"], serde_json::json!([]));
    house.stop();
}
