//! `/openapi.json`: every route is in it, and it says of each what is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use license_ledger::access::Scope;
use serde_json::{Value, json};

use crate::contract::{self, DOCUMENT};
use crate::process::program;
use crate::service::{Setup, TestService};

/// A service with every route there can be.
fn service() -> TestService {
    Setup::default().with("clearkey.enabled", true).start()
}

/// Method, path and description of every operation.
fn operations() -> impl Iterator<Item = (String, String, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter();
        operations.map(move |(method, said)| (method.to_uppercase(), path.clone(), said))
    })
}

/// A path of this pattern.
fn example(pattern: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "x".to_owned() } else { part.to_owned() };
    pattern.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// What the sources register, as patterns of paths.
fn registered() -> BTreeSet<String> {
    const CALL: &str = "web::resource(";
    let mut paths = BTreeSet::new();
    let http = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    for file in [http.with_extension("rs"), http.join("routes.rs")] {
        let text = fs::read_to_string(&file).unwrap();
        let code: Vec<_> = text.lines().filter(|line| !line.starts_with("//!")).collect();
        let code = code.join("\n");
        let quoted = |text: &str| text.split('"').next().unwrap().to_owned();
        for call in code.split(CALL).skip(1) {
            let named = || {
                let name = call.split(')').next().unwrap();
                let value = code.split_once(&format!("const {name}: &str = \""));
                value.unwrap_or_else(|| panic!("{name} is no path")).1
            };
            paths.insert(quoted(call.strip_prefix('"').unwrap_or_else(named)));
        }
    }
    assert!(paths.remove("/playready/packaging.asmx"), "it has a listener of its own");
    paths
}

#[test]
fn every_registered_route_is_described_and_every_described_one_registered() {
    let service = service();
    let mut served = BTreeSet::new();
    for path in registered() {
        let refused = service.client.send("TRACE", &example(&path), &[], b"");
        assert_eq!(refused.status, 405, "{path}: {}", refused.text());
        for method in refused.header("allow").unwrap().split(',') {
            served.insert((method.trim().to_owned(), path.clone()));
        }
    }
    let described = operations().map(|(method, path, _)| (method, path)).collect::<BTreeSet<_>>();
    assert_eq!(served, described);
    assert!(described.contains(&("GET".to_owned(), "/v1/devices/{device}".to_owned())));
}

#[test]
fn an_operation_demands_the_scope_that_it_names() {
    let service = service();
    let mut secured = 0;
    for (method, path, said) in operations() {
        let ask = |client: &crate::client::Client| {
            let bearer = format!("Bearer {}", client.key());
            let headers = [("authorization", bearer.as_str())];
            client.send(&method, &example(&path), &headers, b"")
        };
        let scopes = said["security"].as_array().into_iter().flatten();
        let scopes: Vec<_> = scopes.map(|one| one["api_key"][0].as_str().unwrap()).collect();
        if scopes.is_empty() {
            let stranger = ask(&service.client.with_key(""));
            assert_ne!(stranger.status, 401, "{method} {path} demands a key and does not say so");
            continue;
        }
        secured += 1;
        let (needed, others): (Vec<_>, Vec<_>) = Scope::ALL
            .into_iter()
            .filter(|other| *other != Scope::Admin)
            .partition(|other| scopes.contains(&other.as_str()));
        let without = ask(&service.client_with(&others));
        assert_eq!(without.status_and_code(), (403, "missing-scope".to_owned()), "{method} {path}");
        for scope in needed {
            let with = ask(&service.client_with(&[scope])).status;
            assert!(![401, 403].contains(&with), "{method} {path} answers {with} to {scope}");
        }
        assert_eq!(ask(&service.client.with_key("")).status, 401, "{method} {path}");
    }
    assert!(secured >= 8, "{secured}");
}

#[test]
fn the_document_is_served_and_printed_alike_and_complete_in_itself() {
    let answer = service().client.get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json(), *DOCUMENT);
    let printed = program().arg("openapi").output().unwrap();
    assert!(printed.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).unwrap(), *DOCUMENT);
    assert!(DOCUMENT["openapi"].as_str().unwrap().starts_with("3.1."));

    let mut ids = BTreeSet::new();
    for (method, path, said) in operations() {
        assert!(
            ids.insert(said["operationId"].as_str().unwrap()),
            "{method} {path} has another's id"
        );
        assert!(!said["summary"].as_str().unwrap().is_empty(), "{method} {path} has no summary");
        for (status, response) in said["responses"].as_object().unwrap() {
            let words = response["description"].as_str().unwrap();
            assert!(!words.is_empty(), "{method} {path}, {status}: no description");
        }
    }
    walk(&DOCUMENT, &mut |node| {
        if let Some(reference) = node["$ref"].as_str() {
            let pointer = reference.strip_prefix('#').expect("everything is inside");
            assert!(DOCUMENT.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    });
}

/// Calls `see` with every object in `node`.
fn walk(node: &Value, see: &mut impl FnMut(&Value)) {
    match node {
        Value::Object(members) => {
            see(node);
            members.values().for_each(|member| walk(member, see));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, see)),
        _ => {}
    }
}

#[test]
fn every_example_is_of_the_shape_that_it_shows() {
    let mut seen = 0;
    walk(&DOCUMENT, &mut |node| {
        let lone = node.get("example").into_iter();
        let several = node["examples"].as_array().into_iter().flatten();
        let schema = node.get("schema").unwrap_or(node);
        for example in lone.chain(several) {
            contract::validate(schema, example)
                .unwrap_or_else(|wrong| panic!("{example}: {wrong}"));
            seen += 1;
        }
    });
    assert!(seen >= 20, "{seen}");
}

#[test]
fn bodies_of_policies_decisions_and_reports_have_an_example_as_a_whole() {
    for (method, path) in [
        ("put", "/v1/quota/policy"),
        ("post", "/v1/quota/decisions"),
        ("post", "/v1/acquisitions"),
        ("post", "/v1/acknowledgements"),
        ("post", "/v1/deletions"),
    ] {
        let body = &DOCUMENT["paths"][path][method]["requestBody"];
        let schema = &body["content"]["application/json"]["schema"];
        let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let example = &DOCUMENT["components"]["schemas"][name]["example"];
        assert!(example.is_object(), "{path}: {name}");
    }
}

#[test]
fn answers_of_commands_and_of_the_busiest_reads_have_an_example_as_a_whole() {
    for (method, path, said) in operations() {
        let is_command = ["POST", "PUT"].contains(&method.as_str());
        let is_ours = path.starts_with("/v1/") && !path.contains("webhooks");
        let schema = &said["responses"]["200"]["content"]["application/json"]["schema"];
        let Some(reference) = schema["$ref"].as_str().filter(|_| is_ours && is_command) else {
            continue;
        };
        let example = &DOCUMENT.pointer(&reference[1..]).unwrap()["example"];
        assert!(example.is_object(), "{method} {path}: {reference}");
    }
    for name in ["Decision", "DeviceInventory", "DeviceSummary", "License", "PolicyVersion"] {
        assert!(DOCUMENT["components"]["schemas"][name]["example"].is_object(), "{name}");
    }
}

#[test]
fn answers_that_ask_for_patience_are_described_with_the_header_that_says_how_much() {
    let mut conflicts = 0;
    for (method, path, said) in operations() {
        for (status, response) in said["responses"].as_object().unwrap() {
            let asks = response["headers"]["retry-after"].is_object();
            assert_eq!(
                asks,
                ["409", "429", "503"].contains(&&**status),
                "{method} {path} {status}"
            );
            conflicts += usize::from(status == "409");
        }
    }
    assert!(conflicts >= 10, "{conflicts}");
}

#[test]
fn an_answer_that_is_not_as_described_is_caught() {
    let service = service();
    let client = &service.client;
    let caught = |method: &str, path: &str, answer: &crate::client::Answer| {
        std::panic::catch_unwind(|| contract::check(method, path, answer)).is_err()
    };
    let good = client.get("/v1/devices");
    assert!(!caught("GET", "/v1/devices", &good));
    let altered = |alter: &dyn Fn(&mut Value)| {
        let mut body = good.json();
        alter(&mut body);
        crate::client::Answer { body: body.to_string().into_bytes(), ..good.clone() }
    };
    let wrong = [
        altered(&|body| body["items"] = json!({})),
        altered(&|body| body["items"] = json!([{"device": "x"}])),
        altered(&|body| body["position"] = json!("soon")),
        altered(&|body| body["position"] = json!(7)),
        altered(&|body| drop(body.as_object_mut().unwrap().remove("next_cursor"))),
        crate::client::Answer { status: 201, ..good.clone() },
        crate::client::Answer { body: b"{".to_vec(), ..good.clone() },
    ];
    for answer in wrong {
        assert!(caught("GET", "/v1/devices", &answer), "{}", answer.text());
    }
    assert!(caught("GET", "/v1/nothing", &good), "a path that is not described");
    assert!(caught("DELETE", "/v1/devices", &good), "a method that is not described");
    let missing = client.get("/v1/devices/nobody");
    assert!(caught("GET", "/v1/devices", &missing), "a status that is not described");
    let html = ureq::http::HeaderValue::from_static("text/html");
    let mut other_type = good.clone();
    other_type.headers.insert("content-type", html);
    assert!(caught("GET", "/v1/devices", &other_type), "a content type that is not described");
}
