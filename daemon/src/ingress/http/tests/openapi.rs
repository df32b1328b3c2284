//! `openapi.json` says what the server does, no less and no more.

use crate::ingress::http::reads::OPENAPI;
use crate::ingress::http::roles::{Who, who};
use crate::ingress::http::routes::routes;
use serde_json::Value;
use std::collections::BTreeSet;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// The object behind a `$ref`, or the object itself.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(path) => document.pointer(path.trim_start_matches('#')).unwrap_or_else(|| panic!("{path} leads nowhere")),
        None => value,
    }
}

#[test]
fn it_names_every_path_and_method_of_the_router() {
    let document = document();
    let served: BTreeSet<(String, String)> =
        routes().iter().flat_map(|route| route.methods.iter().map(|method| (route.path.to_owned(), (*method).to_owned()))).collect();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            described.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(described, served);
}

#[test]
fn every_answer_has_a_description_and_a_schema() {
    let document = document();
    for route in routes() {
        for method in route.methods {
            let operation = &document["paths"][route.path][method];
            let name = format!("{method} {}", route.path);
            assert!(operation["operationId"].is_string(), "{name}");
            let answers = operation["responses"].as_object().unwrap();
            let mut expected: BTreeSet<&str> = ["403", "405", "414", "431", "503"].into();
            expected.extend((who(method, route.path) != Who::Anybody).then_some(["401", "429"]).into_iter().flatten());
            expected.extend((*method == "post").then_some(["400", "408", "413", "415", "422"]).into_iter().flatten());
            let submits = *method == "post"
                && route.path.starts_with("/api/v1/orders")
                && !["/acknowledge", "/print"].iter().any(|end| route.path.ends_with(end));
            expected.extend(submits.then_some(["409", "410"]).into_iter().flatten());
            for status in expected {
                assert!(answers.contains_key(status), "{name} may answer {status}");
            }
            for (status, answer) in answers {
                let answer = resolve(&document, answer);
                assert!(answer["description"].is_string(), "{name} {status}");
                let Some(content) = answer["content"].as_object() else {
                    assert!(
                        matches!(status.as_str(), "303" | "304"),
                        "{name} {status}: only what is elsewhere, or there already, has no body"
                    );
                    continue;
                };
                for (kind, media) in content {
                    assert!(resolve(&document, &media["schema"]).is_object(), "{name} {status} {kind}");
                }
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        resolve(document, value);
        match value {
            Value::Object(fields) => fields.values().for_each(|field| walk(document, field)),
            Value::Array(items) => items.iter().for_each(|item| walk(document, item)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
    assert_eq!(document["openapi"], "3.1.0");
}
