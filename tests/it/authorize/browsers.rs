//! Clear Key under the service's authorization.

use serde_json::json;

use super::callback::ask_at;
use super::*;
use crate::clearkey::{ask, keys, post};
use crate::client;

fn setup() -> Setup {
    Setup::default().with("clearkey.enabled", true)
}

/// A statement that allows these KIDs on the browser `alice-web`.
fn on_the_web(kids: &[Uuid]) -> Value {
    let mut license = license(kids);
    license["device"] = "alice-web".into();
    license
}

/// Asks for KIDs with a token in the header.
fn send(service: &TestService, token: &str, kids: &[Uuid]) -> client::Answer {
    let bearer = format!("Bearer {token}");
    post(&service.client, "", &ask(kids), &[("authorization", &bearer)])
}

/// Checks that there is no license, and that the reason has these words.
fn is_refused(answer: &client::Answer, words: &str) {
    assert_eq!(answer.status_and_code(), (403, "not-licensed".to_owned()));
    let problem = answer.problem();
    assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
}

#[test]
fn a_token_gives_a_browser_its_keys_once_and_the_same_request_the_same_again() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::with(&[&issuer], setup());
    let service = &token_service.service;
    let token = issuer.token(&claims("1", on_the_web(&[kid(1), kid(2)])));
    let answer = send(service, &token, &[kid(1)]);
    assert_eq!(keys(&answer), [(kid(1), content_key(1))]);
    let [license] = acquired(service).try_into().unwrap_or_else(|_| panic!("not one license"));
    assert_eq!(
        (license.drm_system.as_str(), license.authorized_by.as_str()),
        ("clearkey", "token")
    );
    assert_eq!((license.persistent.requested, license.persistent.effective), (true, false));
    assert_eq!(count(service, "token-spent.v1"), 1);

    let events = service.event_count();
    assert_eq!(send(service, &token, &[kid(1)]).body, answer.body);
    is_refused(&send(service, &token, &[kid(2)]), "token_spent");
    assert_eq!(service.event_count(), events);
    service.advance_s(2 * 3600);
    is_refused(&send(service, &token, &[kid(1)]), "token_expired");
}

#[test]
fn a_browser_and_a_certificate_can_be_of_one_device() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::with(&[&issuer], setup());
    let service = &token_service.service;
    let token = |jti| issuer.token(&claims(jti, on_the_web(&[kid(1)])));
    assert!(try_token(service, &service.device("desktop"), &token("1")).is_ok());
    let in_query = format!("?token={}", token("2"));
    assert_eq!(keys(&post(&service.client, &in_query, &ask(&[kid(1)]), &[])).len(), 1);
    let path = format!("/v1/devices/alice-web?min_position={}", service.event_count());
    let device = service.client.json(&path);
    assert_eq!(device["identities"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&device["persistent_acquired"], &device["non_persistent_acquired"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn what_no_token_entitles_to_is_refused_and_spends_nothing() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::with(&[&issuer], setup());
    let service = &token_service.service;
    let events = service.event_count();
    let mut strict = on_the_web(&[kid(1)]);
    strict["policy"] = json!({ "sl": 2000 });
    for (license, kid, words) in [
        (license(&[kid(1)]), kid(1), "names no device"),
        (strict, kid(1), r#""security_level","required":2000,"device":150"#),
        (on_the_web(&[kid(2)]), kid(1), "not_entitled"),
        (on_the_web(&[kid(99)]), kid(99), "key_unknown"),
    ] {
        is_refused(&send(service, &issuer.token(&claims("1", license)), &[kid]), words);
    }
    is_refused(&post(&service.client, "", &ask(&[kid(1)]), &[]), "token_missing");
    is_refused(&send(service, "a.b.c", &[kid(1)]), "token_invalid");
    assert_eq!(service.event_count(), events);
}

#[test]
fn a_callback_is_spared_what_comes_too_often() {
    let server = Server::start(|_, asked| {
        let mut license = on_the_web(&[kid(1)]);
        license["device"] = asked.json()["data"]["custom_data"].as_str().unwrap_or("none").into();
        Answer::json(&json!({ "decision": "allow", "license": license }))
    });
    let setup = setup().with("rate.burst", 2).with("rate.per_identity_per_minute", 1);
    let asking = ask_at(&server.url, setup);
    let service = &asking.service;
    let nobody = || post(&service.client, "", &ask(&[kid(1)]), &[]);
    let two = || {
        let named = |name: &'static str| move || send(service, name, &[kid(1)]);
        [Box::new(named("one")) as Box<dyn Fn() -> _>, Box::new(named("two")), Box::new(nobody)]
    };
    for (number, ask) in (1..).zip(two()) {
        assert_eq!([ask().status, ask().status], [200, 200]);
        assert_eq!(ask().status_and_code(), (429, "rate-limited".to_owned()));
        assert_eq!(server.asked().len(), 2 * number);
    }
}

#[test]
fn a_callback_is_told_what_the_page_sends_and_decides() {
    let server = Server::start(|number, _| match number {
        0 => Answer::json(&json!({ "decision": "allow", "license": on_the_web(&[kid(1)]) })),
        1 => Answer::json(&json!({ "decision": "deny", "reason": "too_many_streams" })),
        _ => Answer::Body(404, Vec::new()),
    });
    let asking = ask_at(&server.url, setup());
    let service = &asking.service;
    assert_eq!(keys(&send(service, "web-session-7", &[kid(1)])), [(kid(1), content_key(1))]);
    assert_eq!(acquired(service)[0].authorized_by, "callback");
    let asked = server.asked()[0].json();
    let told = &asked["data"];
    assert_eq!(told["drm_system"], "clearkey");
    assert_eq!(told["custom_data"], "web-session-7");
    assert_eq!(told["kids"], json!([kid(1)]));

    is_refused(&send(service, "web-session-7", &[kid(1)]), "too_many_streams");
    let unknown = send(service, "web-session-7", &[kid(1)]);
    assert_eq!(unknown.status_and_code(), (503, "overloaded".to_owned()));
    assert_eq!(unknown.header("retry-after"), Some("1"));
}

/// What is ours to mend is not told as if there were no license.
#[test]
fn a_failure_of_the_service_is_no_refusal() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::with(&[&issuer], setup());
    let service = &token_service.service;
    let mut license = on_the_web(&[kid(9)]);
    license["keys"][0]["seed"] = "nowhere".into();
    let (seed_id, seed) = ("default".to_owned(), zeroize::Zeroizing::new(vec![5; 30]));
    service.command(&license_ledger::cli::admin::Command::AddSeed { seed_id, seed }).unwrap();
    let events = service.event_count();
    let token = issuer.token(&claims("1", license));
    let answer = send(service, &token, &[kid(9)]);
    assert_eq!(answer.status_and_code(), (500, "internal".to_owned()));
    assert!(!answer.text().contains("nowhere"), "{}", answer.text());
    let asked = with_token(&[kid(9)], &token);
    let fault = service.device("tv").acquire(&service.client, &asked, "").err().unwrap();
    assert_eq!((fault.code.number(), fault.custom_data), (0x8004_C600, None));
    assert_eq!(service.event_count(), events);
}
