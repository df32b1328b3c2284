//! Pages that are paired: how they come in, what they may do, in whose name, and how they are out.

use super::house::{Loop, Reply, soon};
use super::reach::{from, server};
use crate::ingress::http::{Settings, Usage};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::sync::Arc;

/// A house as its own computer meets it, and as a tablet does.
struct House {
    inside: Loop,
    local: Router,
    tablet: Router,
    usage: Arc<Usage>,
    _folder: tempfile::TempDir,
}

impl House {
    fn open() -> House {
        let folder = tempfile::tempdir().unwrap();
        let (inside, usage) = (Loop::start(), Arc::new(Usage::default()));
        let settings = Settings { pages_file: Some(folder.path().join("pages.json")), usage: usage.clone(), ..Settings::default() };
        let server = server(settings, &inside);
        House { inside, local: from(&server, "127.0.0.1"), tablet: from(&server, "10.0.4.30"), usage, _folder: folder }
    }

    async fn code(&self, role: &str) -> String {
        let asked = ask(&self.local, json_request("POST", "/api/v1/pairing-codes", &json!({"role": role}))).await;
        assert_eq!((asked.status.as_u16(), &asked.json()["validSeconds"]), (200, &json!(600)));
        asked.json()["code"].as_str().unwrap().to_owned()
    }

    /// Pairs the tablet, and gives its key.
    async fn pair(&self, role: &str, name: &str) -> String {
        let code = self.code(role).await;
        let paired = fill_in(&self.tablet, &format!("code={code}&name={name}&next=")).await;
        assert_eq!(paired.status, 303, "{paired:?}");
        let set = paired.header("set-cookie").unwrap();
        set.strip_prefix("dumbwaiter-page=").unwrap().split(';').next().unwrap().to_owned()
    }

    async fn pages(&self) -> Value {
        ask(&self.local, json_request("GET", "/api/v1/pages", &Value::Null)).await.json()["pages"].clone()
    }
}

fn json_request(method: &str, path: &str, body: &Value) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "10.0.4.1:8080").header("content-type", "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

fn as_page(key: &str, method: &str, path: &str, body: &Value) -> Request<Body> {
    let mut request = json_request(method, path, body);
    request.headers_mut().insert("cookie", format!("theme=dark; dumbwaiter-page={key}").parse().unwrap());
    request
}

async fn call(router: &Router, request: Request<Body>) -> Response<Body> {
    TowerToHyperService::new(router.clone()).call(request).await.unwrap()
}

async fn ask(router: &Router, request: Request<Body>) -> Reply {
    Reply::of(call(router, request).await).await
}

async fn fill_in(router: &Router, form: &str) -> Reply {
    let request = Request::post("/pair").header("host", "10.0.4.1:8080").header("origin", "http://10.0.4.1:8080");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    ask(router, request.body(Body::from(form.to_owned())).unwrap()).await
}

fn status(data: &Value) -> Value {
    json!({"type": "order.state_changed", "data": data})
}

#[tokio::test]
async fn a_person_without_a_key_is_led_to_the_form_and_by_a_code_to_the_page_they_wanted() {
    let house = House::open();
    let sent = ask(&house.tablet, json_request("GET", "/kitchen?station=grill", &Value::Null)).await;
    let form = sent.header("location").unwrap().to_owned();
    assert_eq!((sent.status.as_u16(), form.as_str()), (303, "/pair?next=%2Fkitchen%3Fstation%3Dgrill"));
    let page = ask(&house.tablet, json_request("GET", &form, &Value::Null)).await;
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(text.contains("name=\"next\" value=\"/kitchen?station=grill\"") && !text.contains("role=\"alert\"") && !text.contains("{{"));
    assert!(page.header("content-security-policy").unwrap().contains("form-action 'self'"));
    assert_eq!(page.header("cache-control"), Some("no-store"));

    let code = house.code("kitchen").await;
    let wrong = fill_in(&house.tablet, "code=x&name=grill&next=%2Fkitchen%3Fstation%3Dgrill%22").await;
    let text = String::from_utf8(wrong.body.to_vec()).unwrap();
    assert!(wrong.status == 403 && text.contains("id=\"why-wrong\" role=\"alert\"") && text.contains("station=grill&quot;\""), "{text}");
    assert_eq!(fill_in(&house.tablet, &format!("code={code}&name=Gr%C3%BCn")).await.status, 422);
    let paired = fill_in(&house.tablet, &format!("code={}+{}&name=grill&next=%2Fkitchen%3Fstation%3Dgrill", &code[..3], &code[3..])).await;
    assert_eq!((paired.status.as_u16(), paired.header("location")), (303, Some("/kitchen?station=grill")));
    let cookie = paired.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; Path=/; Max-Age=315360000; HttpOnly; SameSite=Strict"), "{cookie}");
    let key = cookie.strip_prefix("dumbwaiter-page=").unwrap().split(';').next().unwrap();
    assert_eq!(ask(&house.tablet, as_page(key, "GET", "/kitchen", &Value::Null)).await.status, 200);
    let pages = house.pages().await;
    assert_eq!((pages.as_array().unwrap().len(), &pages[0]["name"], &pages[0]["role"]), (1, &json!("grill"), &json!("kitchen")));
    assert!(!pages.to_string().contains(key));
    assert_eq!((house.usage.pages.used.get(), house.usage.pairing_wrong.get()), (1, 1));
}

#[tokio::test]
async fn what_a_page_does_bears_its_name_whatever_it_says() {
    let house = House::open();
    let key = house.pair("manager", "anna").await;
    let events = "/api/v1/orders/o-1/events";
    for data in [json!({"status": "READY"}), json!({"status": "READY", "actor": "somebody else"})] {
        let mut request = as_page(&key, "POST", events, &status(&data));
        request.headers_mut().insert("x-terminal", "till-1".parse().unwrap());
        assert_eq!(ask(&house.tablet, request).await.status, 201);
    }
    assert_eq!(ask(&house.tablet, as_page(&key, "POST", events, &json!({"type": "order.cancelled", "data": {}}))).await.status, 201);
    {
        let seen = house.inside.seen.lock().unwrap();
        assert_eq!(seen.len(), 3);
        for submission in seen.iter() {
            assert_eq!((submission.terminal.as_str(), &submission.request.data["actor"]), ("page.anna", &json!("anna")));
        }
    }
    let path = "/api/v1/orders/o-1/acknowledge";
    assert_eq!(ask(&house.tablet, as_page(&key, "POST", path, &json!({"by": "somebody else"}))).await.status, 200);
    let history = ask(&house.tablet, as_page(&key, "GET", "/api/v1/orders/o-1/history", &Value::Null)).await.json();
    let by: Vec<_> = history["history"].as_array().unwrap().iter().filter(|entry| entry["what"] == "command").map(|e| &e["by"]).collect();
    assert_eq!(by, [&json!("anna")]);
    let own = ask(&house.tablet, as_page(&key, "GET", "/api/v1/kitchen", &Value::Null)).await.json();
    assert_eq!(own["terminal"], "page.anna");

    // Whoever is no page is believed as before.
    let said = status(&json!({"status": "READY", "actor": "bert"}));
    assert_eq!(ask(&house.local, json_request("POST", events, &said)).await.status, 201);
    assert_eq!(house.inside.seen.lock().unwrap().last().unwrap().request.data["actor"], "bert");
}

#[tokio::test]
async fn a_page_is_told_what_its_role_lacks() {
    let house = House::open();
    let (board, kitchen) = (house.pair("board", "wall").await, house.pair("kitchen", "grill").await);
    let refused = |key: &str, method: &str, path: &str, body: Value| {
        let (tablet, request) = (house.tablet.clone(), as_page(key, method, path, &body));
        async move {
            let reply = ask(&tablet, request).await;
            (reply.status.as_u16(), reply.json()["message"].as_str().unwrap_or_default().to_owned())
        }
    };
    let said = |role: &str, takes: &str| (403, format!("this page is paired as {role}; it takes {takes}"));
    assert_eq!(refused(&board, "GET", "/kitchen", Value::Null).await, said("board", "kitchen"));
    assert_eq!(refused(&kitchen, "GET", "/operations", Value::Null).await, said("kitchen", "operator"));
    assert_eq!(refused(&kitchen, "POST", "/api/v1/dead-letters/2", json!({"decision": "retry"})).await, said("kitchen", "operator"));
    let void = json!({"type": "order.cancelled", "data": {}});
    assert_eq!(refused(&kitchen, "POST", "/api/v1/orders/o-1/events", void).await, said("kitchen", "manager"));
    assert_eq!(refused(&kitchen, "POST", "/api/v1/pairing-codes", json!({"role": "operator"})).await, said("kitchen", "operator"));
    assert!(house.inside.seen.lock().unwrap().is_empty());
    let operator = house.pair("operator", "desk").await;
    assert_eq!(refused(&operator, "POST", "/api/v1/dead-letters/2", json!({"decision": "retry"})).await.0, 200);
}

#[tokio::test]
async fn a_revoked_page_is_out_at_once_with_its_streams_and_the_others_stay() {
    let house = House::open();
    let (lost, kept) = (house.pair("kitchen", "lost").await, house.pair("kitchen", "kept").await);
    let listen = |key: &str| {
        let (tablet, request) = (house.tablet.clone(), as_page(key, "GET", "/api/v1/stream", &Value::Null));
        async move { call(&tablet, request).await.into_body() }
    };
    let (mut lost_stream, mut kept_stream) = (listen(&lost).await, listen(&kept).await);
    for stream in [&mut lost_stream, &mut kept_stream] {
        soon("the first board", stream.frame()).await.unwrap().unwrap();
    }
    let pages = house.pages().await;
    let id = pages.as_array().unwrap().iter().find(|page| page["name"] == "lost").unwrap()["id"].as_str().unwrap();
    let path = format!("/api/v1/pages/{id}");
    assert_eq!(ask(&house.tablet, as_page(&kept, "DELETE", &path, &Value::Null)).await.status, 403);
    assert_eq!(ask(&house.local, json_request("DELETE", &path, &Value::Null)).await.status, 200);
    assert!(soon("the stream ends", lost_stream.frame()).await.is_none());
    let stolen = ask(&house.tablet, as_page(&lost, "GET", "/api/v1/orders", &Value::Null)).await;
    assert_eq!((stolen.status.as_u16(), &stolen.json()["code"]), (401, &json!("unauthorized")));
    assert_eq!(ask(&house.tablet, as_page(&lost, "GET", "/kitchen", &Value::Null)).await.status, 303);
    assert_eq!(ask(&house.local, json_request("DELETE", &path, &Value::Null)).await.status, 404);

    house.inside.show(&["41"], &[]);
    let next = soon("the other's next board", kept_stream.frame()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(next.data_ref().unwrap()).contains("41"));
    assert_eq!(ask(&house.tablet, as_page(&kept, "GET", "/api/v1/orders", &Value::Null)).await.status, 200);
}

#[tokio::test]
async fn a_page_of_another_site_gains_nothing_by_the_cookie() {
    let house = House::open();
    let key = house.pair("operator", "desk").await;
    let code = house.code("operator").await;
    let ready = status(&json!({"status": "READY"}));
    for (header, value) in [("origin", "http://evil.example"), ("origin", "null"), ("host", "evil.example")] {
        let with = |mut request: Request<Body>| {
            request.headers_mut().insert(header, value.parse().unwrap());
            request
        };
        let event = with(as_page(&key, "POST", "/api/v1/orders/o-1/events", &ready));
        assert_eq!(ask(&house.tablet, event).await.status, 403, "{header} {value}");
        assert_eq!(ask(&house.tablet, with(as_page(&key, "GET", "/api/v1/orders", &Value::Null))).await.status, 403, "{header} {value}");
        let form = Request::post("/pair").header("host", "10.0.4.1").header("content-type", "application/x-www-form-urlencoded");
        let form = with(form.body(Body::from(format!("code={code}&name=thief"))).unwrap());
        assert_eq!(ask(&house.tablet, form).await.status, 403, "{header} {value}");
    }
    assert!(house.inside.seen.lock().unwrap().is_empty());
    assert_eq!(house.pages().await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn codes_cannot_be_guessed_and_what_is_no_wish_is_refused() {
    let house = House::open();
    for _ in 0..5 {
        assert_eq!(fill_in(&house.tablet, "code=000000&name=grill").await.status, 403);
    }
    let code = house.code("kitchen").await;
    let refused = fill_in(&house.tablet, &format!("code={code}&name=grill")).await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() <= 61);
    for (wish, wanted) in [
        (json!({}), 422),
        (json!([]), 422),
        (json!({"role": "cook"}), 422),
        (json!({"role": "board", "minutes": 0}), 422),
        (json!({"role": "board", "minutes": 61}), 422),
        (json!({"role": "board", "minutes": 1.5}), 422),
        (json!({"role": "board", "minutes": 1}), 200),
    ] {
        assert_eq!(ask(&house.local, json_request("POST", "/api/v1/pairing-codes", &wish)).await.status, wanted, "{wish}");
    }
    for _ in 0..2 {
        house.code("board").await;
    }
    let full = ask(&house.local, json_request("POST", "/api/v1/pairing-codes", &json!({"role": "board"}))).await;
    assert_eq!((full.status.as_u16(), full.header("retry-after")), (429, Some("61")));
}
