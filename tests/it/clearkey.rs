//! Clear Key over HTTP: licenses, policies, repeats, origins.

use data_encoding::BASE64URL_NOPAD;
use license_ledger::domain::Event;
use license_ledger::domain::event::LicenseAcquired;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Answer, Client};
use crate::device::{PERSISTENT, kid, request, seed_key};
use crate::service::{Setup, TestService};

const PLAYER: &str = "https://player.example";

fn service() -> TestService {
    Setup::default().with("clearkey.enabled", true).with("clearkey.origins", PLAYER).start()
}

pub fn ask(kids: &[Uuid]) -> Value {
    let kids: Vec<_> = kids.iter().map(|kid| BASE64URL_NOPAD.encode(kid.as_bytes())).collect();
    json!({ "kids": kids, "type": "temporary" })
}

pub fn post(client: &Client, query: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    client.send("POST", &format!("/clearkey{query}"), headers, body.to_string().as_bytes())
}

/// The keys of a license, checked for its shape.
pub fn keys(answer: &Answer) -> Vec<(Uuid, [u8; 16])> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let license = answer.json();
    assert_eq!(license["type"], "temporary");
    let bytes = |text: &Value| -> [u8; 16] {
        BASE64URL_NOPAD.decode(text.as_str().unwrap().as_bytes()).unwrap().try_into().unwrap()
    };
    let keys = license["keys"].as_array().unwrap().iter();
    keys.map(|key| {
        assert_eq!(key["kty"], "oct");
        (Uuid::from_bytes(bytes(&key["kid"])), bytes(&key["k"]))
    })
    .collect()
}

fn acquired(service: &TestService) -> Vec<LicenseAcquired> {
    let facts = service.facts().into_iter();
    facts
        .filter_map(|fact| match fact.event {
            Event::LicenseAcquired(license) => Some(*license),
            _ => None,
        })
        .collect()
}

#[test]
fn a_browser_gets_the_keys_that_a_device_gets() {
    let service = service();
    service.import(&[(kid(1), [0xA1; 16])]);
    let device = service.device("tv");
    let on_device = device.acquire(&service.client, &request(&[kid(1), kid(2)]), "").unwrap();
    let in_browser = post(&service.client, "", &ask(&[kid(1), kid(2)]), &[]);
    assert_eq!(keys(&in_browser), on_device.keys());
    assert_eq!(keys(&in_browser), [(kid(1), [0xA1; 16]), (kid(2), seed_key(kid(2)))]);
}

#[test]
fn an_acquisition_is_recorded_as_non_persistent_and_never_counted() {
    let service = service();
    let from = service.event_count();
    let query = "?device=living-room&cfg=(persist:true)";
    let answer = post(&service.client, query, &ask(&[kid(1), kid(2)]), &[]);
    assert_eq!(keys(&answer).len(), 2);
    let kinds = ["device-enrolled.v1", "identity-linked.v1", "license-acquired.v1"];
    assert_eq!(service.kinds_from(from), [&kinds[..], &kinds[2..]].concat());
    for (ordinal, license) in (0..).zip(acquired(&service)) {
        assert_eq!(license.ordinal, ordinal);
        assert_eq!(license.drm_system, "clearkey");
        assert_eq!(license.authorized_by, "open");
        assert_eq!((license.persistent.requested, license.persistent.effective), (true, false));
        assert_eq!(license.security_level, 150);
        let policy: Value = serde_json::from_str(license.policy.get()).unwrap();
        assert_eq!(policy, json!({ "sl": 150 }));
    }
    let position = answer.position().unwrap();
    assert_eq!(position, service.event_count());
    let read = |path| {
        service.client.json(&format!("/v1/devices/living-room{path}?min_position={position}"))
    };
    assert_eq!(read("")["non_persistent_acquired"], 2);
    assert_eq!(read("")["persistent_acquired"], 0);
    assert_eq!(read("")["model"], "Clear Key");
    assert_eq!(read("/inventory")["live"], 0);
    assert_eq!(read("/inventory")["possible"], 0);
}

#[test]
fn browsers_are_told_apart_by_the_device_they_name() {
    let service = service();
    for query in ["?device=phone", "?device=tablet", "?device=phone", "", "?device=anonymous"] {
        keys(&post(&service.client, query, &ask(&[kid(1)]), &[]));
    }
    let identities: Vec<_> = acquired(&service).iter().map(|l| l.identity).collect();
    assert_eq!(identities[0], identities[2]);
    assert_eq!(identities[3], identities[4], "who names no device is `anonymous`");
    let mut distinct = identities.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 3);
    let hex = "ab".repeat(32);
    for wrong in ["", "a/b", "a%20b", hex.as_str()] {
        let answer = post(&service.client, &format!("?device={wrong}"), &ask(&[kid(1)]), &[]);
        assert_eq!(answer.problem()["errors"][0]["field"], "device", "{wrong}");
    }
}

#[test]
fn what_clear_key_cannot_keep_is_refused_and_not_recorded() {
    let service = service();
    let before = service.event_count();
    let refused = |query: &str, body: &Value, status: u16, code: &str, part: &str| {
        let answer = post(&service.client, query, body, &[]);
        assert_eq!(answer.status_and_code(), (status, code.to_owned()));
        let problem = answer.problem();
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    };
    let one = ask(&[kid(1)]);
    refused("?cfg=(sl:3000)", &one, 403, "not-licensed", r#""required":3000,"device":150"#);
    refused("?cfg=(firstexp:60)", &one, 403, "not-licensed", "first_play_seconds");
    refused("?cfg=(enddate:20200101)", &one, 403, "not-licensed", "ended");
    let root = format!("?cfg=(isroot:true,kid:{})", kid(1));
    refused(&root, &one, 403, "not-licensed", "stand alone");
    refused("?cfg=(nonsense:1)", &one, 400, "invalid-request", "nonsense");
    refused("?cfg=(errorcode:8004c605)", &one, 403, "not-licensed", "0x8004c605");
    refused("?cfg=(errorcode:8004c600)", &one, 403, "not-licensed", "0x8004c600");
    let stored = json!({ "kids": one["kids"], "type": "persistent-license" });
    refused("", &stored, 400, "invalid-request", "type: only temporary sessions");
    refused("", &json!({ "kids": ["x"] }), 400, "invalid-request", "kids[0]");
    refused("", &json!([]), 400, "invalid-request", "body");
    assert_eq!(service.event_count(), before);
    let metrics = service.client.get("/metrics").text();
    assert!(metrics.contains("license_ledger_challenges_rejected_total 3"), "{metrics}");
}

#[test]
fn more_licenses_than_one_request_is_granted_are_refused_with_the_limit_named() {
    let service = service();
    let before = service.event_count();
    let kids: Vec<_> = (1..=64).map(kid).collect();
    let answer = post(&service.client, "?cfg=(),(),(),()", &ask(&kids), &[]);
    assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()));
    let error = &answer.problem()["errors"][0];
    assert_eq!(error["field"], "kid");
    assert!(error["detail"].as_str().unwrap().contains("at most 250"), "{error}");
    assert_eq!(service.event_count(), before);
    assert_eq!(keys(&post(&service.client, "?cfg=(),(),()", &ask(&kids), &[])).len(), 192);
}

#[test]
fn each_request_counts_unless_it_repeats_an_idempotency_key() {
    let service = service();
    let client = &service.client;
    let send = |key: Option<&str>, body: &Value| {
        let headers: Vec<_> = key.iter().map(|key| ("idempotency-key", *key)).collect();
        post(client, "?device=phone", body, &headers)
    };
    let (one, two) = (ask(&[kid(1)]), ask(&[kid(1), kid(2)]));
    assert_eq!(keys(&send(None, &one)), keys(&send(None, &one)));
    assert_eq!(acquired(&service).len(), 2);

    let first = send(Some("key-1"), &one);
    let events = service.event_count();
    let again = send(Some("key-1"), &one);
    assert_eq!((first.body, again.header("ledger-position")), (again.body.clone(), None));
    let other = send(Some("key-1"), &two);
    assert_eq!(other.status_and_code(), (422, "idempotency-key-reused".to_owned()));
    assert_eq!(service.event_count(), events);
    // Of another device it is another key.
    let headers = [("idempotency-key", "key-1")];
    assert_eq!(keys(&post(client, "?device=tablet", &two, &headers)).len(), 2);

    service.advance_s(24 * 60 * 60 + 1);
    let late = send(Some("key-1"), &one);
    assert_eq!(late.status_and_code(), (403, "not-licensed".to_owned()));
    let long = "x".repeat(256);
    for wrong in ["", &long] {
        assert_eq!(send(Some(wrong), &one).problem()["errors"][0]["field"], "Idempotency-Key");
    }
}

#[test]
fn only_pages_of_allowed_origins_may_ask() {
    let service = service();
    let send = |origin: &str, method: &str, headers: &[(&str, &str)]| {
        let body = ask(&[kid(1)]).to_string();
        let headers = [&[("origin", origin)], headers].concat();
        let body = if method == "POST" { body.as_bytes() } else { b"" };
        service.client.send(method, "/clearkey", &headers, body)
    };
    let preflight = |origin| send(origin, "OPTIONS", &[("access-control-request-method", "POST")]);
    let asked = preflight(PLAYER);
    assert_eq!((asked.status, asked.header("access-control-allow-origin")), (204, Some(PLAYER)));
    assert_eq!(asked.header("access-control-allow-methods"), Some("POST"));
    let allowed = asked.header("access-control-allow-headers").unwrap();
    assert!(
        ["authorization", "content-type", "idempotency-key"].iter().all(|h| allowed.contains(h))
    );

    let answer = send(PLAYER, "POST", &[]);
    assert_eq!(keys(&answer).len(), 1);
    assert_eq!(answer.header("access-control-allow-origin"), Some(PLAYER));
    assert_eq!(answer.header("vary"), Some("origin"));
    // A page can read why it is refused.
    let body = json!({ "kids": [] }).to_string();
    let refused = service.client.send("POST", "/clearkey", &[("origin", PLAYER)], body.as_bytes());
    assert_eq!(refused.status_and_code(), (400, "invalid-request".to_owned()));
    assert_eq!(refused.header("access-control-allow-origin"), Some(PLAYER));

    let events = service.event_count();
    for stranger in ["https://evil.example", "https://player.example.evil", "null", "https://"] {
        for answer in [preflight(stranger), send(stranger, "POST", &[])] {
            assert_eq!(answer.status_and_code(), (403, "origin-not-allowed".to_owned()));
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert_eq!(service.event_count(), events);
    // A page of the service itself is no stranger.
    assert_eq!(send(service.client.url(), "POST", &[]).status, 200);
}

#[test]
fn any_origin_may_ask_where_the_configuration_says_so() {
    let service =
        Setup::default().with("clearkey.enabled", true).with("clearkey.origins", "*").start();
    for origin in ["https://anything.example", "null"] {
        let answer = post(&service.client, "", &ask(&[kid(1)]), &[("origin", origin)]);
        assert_eq!(keys(&answer).len(), 1);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    }
}

#[test]
fn it_is_off_by_default_and_serves_nothing_but_post() {
    let off = TestService::new();
    let answer = post(&off.client, "", &ask(&[kid(1)]), &[]);
    assert_eq!(answer.status_and_code(), (404, "not-found".to_owned()));
    let on = service();
    let answer = on.client.get("/clearkey");
    assert_eq!(answer.status_and_code(), (405, "method-not-allowed".to_owned()));
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[test]
fn a_browser_that_asks_too_often_is_slowed_down() {
    let service = Setup { settings: Vec::new(), ..Setup::default() }
        .with("clearkey.enabled", true)
        .with("rate.burst", 2)
        .with("rate.per_identity_per_minute", 1)
        .start();
    let send = |query| post(&service.client, query, &ask(&[kid(1)]), &[]);
    assert_eq!([send("").status, send("").status], [200, 200]);
    let answer = send("");
    assert_eq!(answer.status_and_code(), (429, "rate-limited".to_owned()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(send("?device=other").status, 200);
}

/// A device that plays over both protocols is one device.
#[test]
fn a_slot_is_neither_taken_nor_freed_by_a_browser() {
    let service = service();
    let device = service.device("tv");
    device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    keys(&post(&service.client, "?device=tv&cfg=(persist:true)", &ask(&[kid(1)]), &[]));
    assert_eq!(service.live(&device), 1);
}

#[test]
fn a_repeat_never_gets_another_key_than_the_first_answer_had() {
    let service = service();
    let send = |key: &str| {
        let query = format!("?device=tv&cfg=(ck:{key})");
        post(&service.client, &query, &ask(&[kid(1)]), &[("idempotency-key", "a")])
    };
    let first = keys(&send("AAAAAAAAAAAAAAAAAAAAAQ=="));
    assert_eq!(keys(&send("AAAAAAAAAAAAAAAAAAAAAQ==")), first);
    let other = send("AAAAAAAAAAAAAAAAAAAAAg==");
    assert_eq!(other.status_and_code(), (403, "not-licensed".to_owned()));
    assert!(other.text().contains("challenge_spent"), "{}", other.text());
}
