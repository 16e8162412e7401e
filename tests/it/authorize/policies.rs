//! Policies and headers that get no license, whoever states them.

use license_ledger::playready::header::{AlgId, HeaderVersion};
use serde_json::json;

use super::*;
use crate::clearkey;
use crate::device::{fresh_nonce, header, refused, words};
use crate::key_types::detail;
use crate::service::NOW_S;

/// Policies that no license has, and how a refusal begins.
fn wrong() -> Vec<(Value, &'static str)> {
    let restriction = |kind: u32| json!([{"type": kind, "must_understand": true, "best_effort": false, "data": ""}]);
    let too_large = data_encoding::BASE64.encode(&[7; 4_097]);
    let domain = json!({"account_id": "AAECAwQFBgcICQoLDA0ODw==", "revision": 0});
    vec![
        (json!({"sl": 150, "extended_restrictions": restriction(5)}), "extended_restrictions: "),
        (
            json!({"sl": 150, "extended_restrictions": restriction(65533)}),
            "extended_restrictions: ",
        ),
        (json!({"sl": 150, "ucvopl": 1000}), "ucvopl: "),
        (json!({"sl": 150, "end": u32::MAX}), "end: "),
        (json!({"sl": 150, "begin": 0}), "begin: "),
        (json!({"sl": 150, "first_play_seconds": 0}), "first_play_seconds: "),
        (json!({"sl": 150, "domain": domain}), "domain: "),
        (json!({"sl": 150, "dvop": [{"id": kid(1), "data": too_large}]}), "dvop: "),
    ]
}

/// Policies of licenses that nobody could use any more, and how a refusal names that.
fn over() -> [(Value, &'static str); 3] {
    [
        (json!({"sl": 150, "persist": true, "begin": 5, "end": 100}), "end_passed"),
        (json!({"sl": 150, "begin": 5, "end": NOW_S - 5, "grace_seconds": 5}), "end_passed"),
        (json!({"sl": 150, "persist": true, "removal": 0}), "removal_passed"),
    ]
}

fn with_policy(policy: &Value) -> Value {
    json!({"keys": [{"kid": kid(1), "policy": policy}]})
}

#[test]
fn a_token_with_a_policy_that_no_license_has_is_refused_with_the_member_named() {
    let issuer = Issuer::new("HS256", "k");
    let setup = Setup::default().with("clearkey.enabled", true);
    let tokens = TokenService::with(&[&issuer], setup);
    let (service, device) = (&tokens.service, tokens.service.device("tv"));
    let events = service.event_count();
    for (number, (policy, named)) in wrong().into_iter().enumerate() {
        let token = issuer.token(&claims(&number.to_string(), with_policy(&policy)));
        let asked = with_token(&[kid(1)], &token);
        let fault = device.acquire(&service.client, &asked, "").err().unwrap();
        let (word, text) = detail(&fault);
        assert!(word == "invalid_policy" && text.starts_with(named), "{policy}: {word} {text}");
        // Where keys arrive in the clear as well.
        let mut license = with_policy(&policy);
        license["device"] = json!("browser");
        let token = issuer.token(&claims(&format!("b{number}"), license));
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let answer = clearkey::post(&service.client, "", &clearkey::ask(&[kid(1)]), &headers);
        assert_eq!(answer.status, 400, "{}", answer.text());
        let field = answer.problem()["errors"][0]["field"].as_str().unwrap().to_owned();
        assert_eq!(format!("{field}: "), named);
    }
    for (policy, named) in over() {
        let token = issuer.token(&claims(named, with_policy(&policy)));
        let fault = device.acquire(&service.client, &with_token(&[kid(1)], &token), "");
        let expected = ("invalid_policy".to_owned(), named.to_owned());
        assert_eq!(detail(&fault.err().unwrap()), expected, "{policy}");
    }
    assert_eq!(service.event_count(), events, "a refused policy left an event");
}

#[test]
fn a_callback_with_a_policy_that_no_license_has_is_refused_with_the_member_named() {
    let all = || wrong().into_iter().chain(over());
    let server = Server::start(move |n, _| {
        let (policy, _) = all().nth(n).unwrap();
        Answer::json(&json!({"decision": "allow", "license": with_policy(&policy)}))
    });
    let asking = ask_at(&server.url, Setup::default());
    let (service, device) = (&asking.service, asking.service.device("tv"));
    let events = service.event_count();
    for (policy, named) in all() {
        let fault = device.acquire(&service.client, &request(&[kid(1)]), "").err().unwrap();
        let (word, text) = detail(&fault);
        assert!(word == "invalid_policy" && text.starts_with(named), "{policy}: {word} {text}");
    }
    assert_eq!(service.event_count(), events, "a refused policy left an event");
}

#[test]
fn a_header_with_another_cipher_gets_no_license_whoever_authorizes() {
    let cocktail = |custom_data: Option<String>| AcquireRequest {
        custom_data,
        ..AcquireRequest::new(
            header(HeaderVersion::V4_3, &[kid(1)], Some(AlgId::Cocktail)),
            fresh_nonce(),
        )
    };
    let unsupported = refused("unsupported_key_type");
    let issuer = Issuer::new("HS256", "k");
    let tokens = TokenService::new(&[&issuer]);
    let device = tokens.service.device("tv");
    let token = issuer.token(&claims("cocktail", license(&[kid(1)])));
    let asked = cocktail(Some(token.clone()));
    let fault = device.acquire(&tokens.service.client, &asked, "").err().unwrap();
    assert_eq!(words(&fault), unsupported);
    assert!(try_token(&tokens.service, &device, &token).is_ok(), "the token was spent for nothing");

    let server = Server::start(|_, _| {
        Answer::json(&json!({"decision": "allow", "license": license(&[kid(1)])}))
    });
    let asking = ask_at(&server.url, Setup::default());
    let device = asking.service.device("tv");
    let fault = device.acquire(&asking.service.client, &cocktail(None), "").err().unwrap();
    assert_eq!(words(&fault), unsupported);
    assert_eq!(count(&asking.service, "license-acquired.v1"), 0);
}
