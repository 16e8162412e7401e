//! Keys that change while the service runs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;

fn token(issuer: &Issuer, jti: &str) -> String {
    issuer.token(&claims(jti, license(&[kid(1)])))
}

const INVALID: &str = "not_entitled: token_invalid";

#[test]
fn a_file_is_read_again_without_a_restart() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("EdDSA", "new"));
    let token_service = TokenService::new(&[&old]);
    let service = &token_service.service;
    let device = service.device("phone");
    let ask = |issuer: &Issuer, jti: &str| try_token(service, &device, &token(issuer, jti)).err();
    assert_eq!(ask(&old, "1"), None);
    assert_eq!(ask(&new, "2").as_deref(), Some(INVALID));
    fs::write(&token_service.keys, key_set(&[&old, &new])).unwrap();
    assert_eq!(ask(&new, "2"), None, "a key that is missing is looked for at once");
    assert_eq!(ask(&old, "3"), None);
    fs::write(&token_service.keys, key_set(&[&new])).unwrap();
    service.advance_s(1);
    assert_eq!(ask(&old, "4").as_deref(), Some(INVALID), "a key taken out is gone in a second");
    // What cannot be used is passed over.
    for broken in
        ["{", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "EC"}]}"#, &" ".repeat(1 << 19)]
    {
        fs::write(&token_service.keys, broken).unwrap();
        service.advance_s(1);
        assert_eq!(ask(&new, &format!("with {} bytes", broken.len())), None);
    }
    fs::remove_file(&token_service.keys).unwrap();
    service.advance_s(1);
    assert_eq!(ask(&new, "5"), None);
}

#[test]
fn a_key_for_other_operations_verifies_nothing() {
    let (verifies, signs) = (Issuer::new("ES256", "verifies"), Issuer::new("ES256", "signs"));
    let token_service = TokenService::new(&[&verifies]);
    let service = &token_service.service;
    let device = service.device("phone");
    let with = |issuer: &Issuer, operation: &str| {
        let mut jwk = issuer.jwk();
        jwk["key_ops"] = json!([operation]);
        jwk
    };
    let set = json!({ "keys": [with(&verifies, "verify"), with(&signs, "sign")] });
    fs::write(&token_service.keys, set.to_string()).unwrap();
    service.advance_s(1);
    let ask = |issuer: &Issuer| try_token(service, &device, &token(issuer, "1")).err();
    assert_eq!(ask(&signs).as_deref(), Some(INVALID));
    assert_eq!(ask(&verifies), None);
}

/// A key server whose set can be changed; `None` fails.
struct KeyServer {
    server: Server,
    answer: Arc<Mutex<Answer>>,
}

impl KeyServer {
    fn start(issuers: &[&Issuer]) -> Self {
        let answer = Arc::new(Mutex::new(Answer::Body(200, key_set(issuers).into_bytes())));
        let answers = Arc::clone(&answer);
        let server = Server::start(move |_, _| answers.lock().unwrap().clone());
        Self { server, answer }
    }

    fn serve(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn service(&self) -> TestService {
        let setup = token_setup(Setup::default()).with("token.keys_url", &self.server.url);
        let service = setup.with("token.refresh_seconds", 300).start();
        import_keys(&service);
        service
    }

    fn fetched(&self) -> usize {
        self.server.asked().len()
    }
}

#[test]
fn an_unknown_kid_has_the_url_fetched_but_not_by_every_request() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("ES256", "new"));
    let other = Issuer::new("ES256", "other");
    let keys = KeyServer::start(&[&old]);
    let service = keys.service();
    let device = service.device("phone");
    let ask = |issuer: &Issuer, jti: &str| try_token(&service, &device, &token(issuer, jti)).err();
    assert_eq!(keys.fetched(), 1, "at the start");
    assert_eq!(ask(&old, "1"), None);
    keys.serve(Answer::Body(200, key_set(&[&old, &new]).into_bytes()));
    assert_eq!(ask(&new, "2"), None);
    assert_eq!(keys.fetched(), 2);
    for jti in ["3", "4", "5"] {
        assert_eq!(ask(&other, jti).as_deref(), Some(INVALID));
    }
    assert_eq!(keys.fetched(), 2, "tokens that anybody can make do not cause more");
    service.advance_s(10);
    for jti in ["6", "7"] {
        assert_eq!(ask(&other, jti).as_deref(), Some(INVALID));
    }
    assert_eq!(keys.fetched(), 3);
    // Answers that are no key set change nothing, and a redirect is not followed.
    let elsewhere = KeyServer::start(&[&other]);
    let endless = Answer::Body(200, vec![b' '; 1 << 20]);
    let redirect = Answer::Redirect(elsewhere.server.url.clone());
    let wrong = Answer::Body(200, b"<html>".to_vec());
    for (n, answer) in [Answer::Body(500, Vec::new()), endless, redirect, wrong, Answer::Nothing]
        .into_iter()
        .enumerate()
    {
        keys.serve(answer);
        service.advance_s(10);
        assert_eq!(ask(&other, &format!("wrong-{n}")).as_deref(), Some(INVALID));
        assert_eq!(ask(&old, &format!("still-{n}")), None);
    }
    assert_eq!(elsewhere.fetched(), 0);
    assert_eq!(keys.fetched(), 8);
}

#[test]
fn a_url_is_fetched_again_in_the_background_when_it_is_due() {
    let (old, new) = (Issuer::new("ES256", "old"), Issuer::new("ES256", "new"));
    let keys = KeyServer::start(&[&old]);
    let service = keys.service();
    let device = service.device("phone");
    keys.serve(Answer::Body(200, key_set(&[&new]).into_bytes()));
    assert_eq!(try_token(&service, &device, &token(&old, "1")).err(), None);
    service.advance_s(300);
    let started = Instant::now();
    let mut attempt = 0;
    // Who finds it due is served by what is known.
    while try_token(&service, &device, &token(&old, &format!("due-{attempt}"))).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(30), "the old key stays");
        attempt += 1;
    }
    assert_eq!(try_token(&service, &device, &token(&new, "2")).err(), None);
}

#[test]
fn a_service_whose_key_server_is_away_starts_and_says_that_it_is_not_ready() {
    let issuer = Issuer::new("ES256", "k");
    let keys = KeyServer::start(&[&issuer]);
    keys.serve(Answer::Nothing);
    let service = keys.service();
    let device = service.device("phone");
    assert_eq!(service.client.get("/readyz").status, 503);
    assert_eq!(try_token(&service, &device, &token(&issuer, "1")).err().as_deref(), Some(INVALID));
    keys.serve(Answer::Body(200, key_set(&[&issuer]).into_bytes()));
    service.advance_s(10);
    assert_eq!(try_token(&service, &device, &token(&issuer, "1")).err(), None);
    assert_eq!(service.client.get("/readyz").status, 200);
}
