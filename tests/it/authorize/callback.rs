use aws_lc_rs::hmac;
use data_encoding::BASE64;
use serde_json::json;

use super::*;
use crate::service::NOW_S;

const SECRET: [u8; 32] = [0x6b; 32];

/// A service that asks `server`.
pub struct CallbackService {
    pub service: TestService,
    _dir: TempDir,
}

pub fn ask_at(url: &str, setup: Setup) -> CallbackService {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, format!("whsec_{}\n", BASE64.encode(&SECRET))).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let setup = setup.with("authorize", "callback").with("callback.url", url);
    let service = setup.with("callback.secret_file", secret.display()).start();
    import_keys(&service);
    CallbackService { service, _dir: dir }
}

fn allow(kids: &[Uuid]) -> Answer {
    Answer::json(&json!({ "decision": "allow", "license": license(kids) }))
}

/// Asks for the first KID; the refusal's word and reason.
fn ask(service: &TestService, device: &Device) -> Result<(), String> {
    let got = device.acquire(&service.client, &request(&[kid(1)]), "");
    got.map(drop).map_err(|fault| reason(&fault))
}

/// Checks a signature as Standard Webhooks says, with other code than what made it.
fn check_signature(asked: &Asked) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
    let start = format!("{}.{}.", asked.header("webhook-id"), asked.header("webhook-timestamp"));
    let signed = [start.as_bytes(), &asked.body].concat();
    let signature = asked.header("webhook-signature").strip_prefix("v1,").unwrap();
    hmac::verify(&key, &signed, &BASE64.decode(signature.as_bytes()).unwrap()).unwrap();
    assert_eq!(asked.header("webhook-timestamp"), NOW_S.to_string());
}

#[test]
fn the_service_is_told_the_facts_under_its_signature_and_its_answer_decides() {
    let server = Server::start(|_, _| {
        Answer::json(&json!({"decision": "allow", "license": {
            "account": "alice", "device": "alice-tv",
            "keys": [{"kid": kid(2), "title": "movie", "policy": {"sl": 2000, "persist": true}}],
        }}))
    });
    let asking = ask_at(&server.url, Setup::default());
    let (service, device) = (&asking.service, asking.service.device("tv"));
    let custom_data = json!({"session": "web", "persistent": true}).to_string();
    let asked = AcquireRequest {
        custom_data: Some(custom_data.clone()),
        client_version: Some("10.0.1".to_owned()),
        ..request(&[kid(1), kid(2), kid(9)])
    };
    let challenge = device.ask(&asked);
    let answer = service.client.challenge(&challenge, "");
    let got = device.accept(&answer.body, &asked.nonce).unwrap();
    assert_eq!(got.licenses.len(), 1, "what the answer covers, and no more");
    assert_eq!(got.licenses[0].content_key.expose(), &content_key(2));

    let told = server.asked().remove(0);
    check_signature(&told);
    assert_eq!((told.method.as_str(), told.header("content-type")), ("POST", "application/json"));
    let told = (told.header("webhook-id").to_owned(), told.json());
    let license = &acquired(service)[0];
    assert_eq!(
        told.1,
        json!({
            "type": "license.requested", "timestamp": "2023-11-14T22:13:20.000Z",
            "data": {
                "id": told.0, "drm_system": "playready", "persistent": true,
                "request_sha256": license.signed_sha256.to_string(),
                "kids": [kid(1), kid(2), kid(9)], "identity": device.identity(), "device": null,
                "security_level": 2000, "model": license.model, "client_version": "10.0.1",
                "custom_data": custom_data, "ip": "127.0.0.1",
            },
        })
    );
    assert_eq!(license.authorized_by, "callback");
    assert_eq!(license.title.as_deref(), Some("movie"));
    assert_eq!(count(service, "token-spent.v1"), 0);

    // A repeat is answered by the ledger, also when the service is gone.
    drop(server);
    let again = service.client.challenge(&challenge, "");
    let again = device.accept(&again.body, &asked.nonce).unwrap();
    assert_eq!(again.licenses[0].rights_id, got.licenses[0].rights_id);
    assert_eq!(ask(service, &device), Err("try_later".to_owned()));
}

#[test]
fn the_device_is_told_by_its_reference_once_it_is_known() {
    let server = Server::start(|_, _| allow(&[kid(1)]));
    let asking = ask_at(&server.url, Setup::default());
    let (service, device) = (&asking.service, asking.service.device("tv"));
    assert_eq!(ask(service, &device), Ok(()));
    assert_eq!(ask(service, &device), Ok(()));
    let told = server.asked();
    let inventory = service.inventory(&device);
    assert_eq!(told[1].json()["data"]["device"], inventory["device"]);
    assert_ne!(told[0].header("webhook-id"), told[1].header("webhook-id"));
}

#[test]
fn a_denial_reaches_the_device_with_its_reason() {
    let answers = [
        (json!({"decision": "deny", "reason": "subscription expired"}), ": subscription expired"),
        (json!({"decision": "deny"}), ""),
        (json!({"decision": "deny", "reason": "x".repeat(201)}), ""),
        (json!({"decision": "deny", "reason": "line\nbreak"}), ""),
        (json!({"decision": "allow", "license": license(&[kid(2)])}), ""),
    ];
    let bodies = answers.clone();
    let server = Server::start(move |n, _| Answer::json(&bodies[n].0));
    let asking = ask_at(&server.url, Setup::default());
    let (service, device) = (&asking.service, asking.service.device("tv"));
    let events = service.event_count();
    for (answer, reason) in &answers {
        assert_eq!(ask(service, &device), Err(format!("not_entitled{reason}")), "{answer}");
    }
    assert_eq!(service.event_count(), events);
}

#[test]
fn failures_are_tried_again_under_the_same_id() {
    let server = Server::start(|n, _| match n {
        0 => Answer::Body(500, b"oops".to_vec()),
        1 => Answer::Nothing,
        _ => allow(&[kid(1)]),
    });
    let asking = ask_at(&server.url, Setup::default());
    let device = asking.service.device("tv");
    assert_eq!(ask(&asking.service, &device), Ok(()));
    let told = server.asked();
    assert_eq!(told.len(), 3);
    for attempt in &told {
        check_signature(attempt);
        assert_eq!(attempt.header("webhook-id"), told[0].header("webhook-id"));
        assert_eq!(attempt.body, told[0].body);
    }
}

#[test]
fn without_an_answer_to_go_by_the_device_is_told_to_try_later() {
    let elsewhere = Server::start(|_, _| allow(&[kid(1)]));
    let redirect = Answer::Redirect(elsewhere.url.clone());
    let mut large = json!({ "decision": "allow", "license": license(&[kid(1)]) });
    large["license"]["account"] = "x".repeat(1 << 19).into();
    let not_allowed =
        |license: Value| Answer::json(&json!({"decision": "allow", "license": license}));
    // Each with the attempts that it takes.
    let answers = [
        (Answer::Body(503, Vec::new()), 3),
        (Answer::Body(404, b"not here".to_vec()), 1),
        (redirect, 1),
        (Answer::Body(200, b"garbage \xff".to_vec()), 1),
        (Answer::Body(200, Vec::new()), 1),
        (Answer::json(&large), 1),
        (Answer::json(&json!({"decision": "maybe"})), 1),
        (Answer::json(&json!({"license": license(&[kid(1)])})), 1),
        (Answer::json(&json!({"decision": "deny", "resaon": "x"})), 1),
        (not_allowed(json!({"keys": []})), 1),
        (not_allowed(json!({"keys": [{"kid": kid(1), "polcy": {}}]})), 1),
    ];
    for (answer, attempts) in answers {
        let what = format!("{answer:.80?}");
        let server = Server::start(move |_, _| answer.clone());
        let asking = ask_at(&server.url, Setup::default());
        let device = asking.service.device("tv");
        assert_eq!(ask(&asking.service, &device), Err("try_later".to_owned()), "{what}");
        assert_eq!(server.asked().len(), attempts, "{what}");
        assert_eq!(acquired(&asking.service).len(), 0);
    }
    assert_eq!(elsewhere.asked().len(), 0, "a redirect is not followed");
}

#[test]
fn silence_ends_at_the_deadline_and_keeps_nobody_else_waiting() {
    let server = Server::start(|n, _| if n == 0 { Answer::Silence } else { allow(&[kid(1)]) });
    let setup = Setup::default().with("callback.timeout_ms", 300).with("callback.retries", 0);
    let asking = ask_at(&server.url, setup.with("callback.deadline_ms", 300));
    let device = asking.service.device("tv");
    assert_eq!(ask(&asking.service, &device), Err("try_later".to_owned()));
    assert_eq!(ask(&asking.service, &device), Ok(()));
    // With one place, which silence takes, the next one finds it taken until the deadline.
    let silent = Server::start(|_, _| Answer::Silence);
    let setup = Setup::default().with("callback.timeout_ms", 60_000).with("callback.in_flight", 1);
    let asking = ask_at(&silent.url, setup.with("callback.deadline_ms", 1_000));
    let device = asking.service.device("tv");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let send = |_| scope.spawn(|| ask(&asking.service, &device));
        let sent: Vec<_> = (0..4).map(send).collect();
        sent.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    assert_eq!(answers, vec![Err("try_later".to_owned()); 4]);
    assert_eq!(silent.asked().len(), 1, "more than one waited for an answer");
}

#[test]
fn nobody_is_asked_about_what_cannot_be_granted() {
    let server = Server::start(|_, _| allow(&[kid(1), kid(9)]));
    let asking = ask_at(&server.url, Setup::default());
    let (service, device) = (&asking.service, asking.service.device("tv"));
    let refused = |kids: &[Uuid]| {
        device.acquire(&service.client, &request(kids), "").err().map(|fault| reason(&fault))
    };
    assert_eq!(refused(&[kid(8), kid(9)]).as_deref(), Some("key_unknown"));
    assert_eq!(refused(&[]).as_deref(), Some("no_kid"));
    assert_eq!(server.asked().len(), 0, "the service was asked for nothing");
    // Nor about a wish that cannot be read.
    let custom_data = Some(json!({"persistent": "no"}).to_string());
    let unreadable = AcquireRequest { custom_data, ..request(&[kid(1)]) };
    let fault = device.acquire(&service.client, &unreadable, "").err().unwrap();
    assert_eq!(reason(&fault), "invalid_cfg");
    assert_eq!(server.asked().len(), 0, "the service was asked for nothing");
    // One that can is enough.
    assert_eq!(refused(&[kid(9), kid(1)]), None);
    assert_eq!(server.asked().len(), 1);
}

/// All that a statement allows can be granted at once, whatever has to be recorded with it.
#[test]
fn the_longest_statement_is_granted_whole_and_a_longer_one_not_at_all() {
    const MOST: u128 = 250;
    // Apart from those that have keys of their own.
    let numbers = |count| (10..10 + count).map(kid).collect::<Vec<_>>();
    let allowed = move |count| {
        let mut license = license(&numbers(count));
        license["account"] = json!("family");
        Answer::json(&json!({ "decision": "allow", "license": license }))
    };
    let server = Server::start(move |n, _| allowed(if n == 0 { 300 } else { MOST }));
    let asking = ask_at(&server.url, Setup::default().with("quota.device_limit", 1_000));
    let (service, device) = (&asking.service, asking.service.device("library"));
    let (seed_id, seed) = ("default".to_owned(), zeroize::Zeroizing::new(vec![5; 30]));
    service.command(&license_ledger::cli::admin::Command::AddSeed { seed_id, seed }).unwrap();
    let before = service.event_count();
    let acquire = || device.acquire(&service.client, &request(&numbers(300)), "");
    assert_eq!(acquire().map(drop).map_err(|fault| reason(&fault)), Err("try_later".to_owned()));
    assert_eq!(service.event_count(), before);
    assert_eq!(acquire().unwrap().licenses.len() as u128, MOST);
    let each =
        ["license-acquired.v1", "slot-taken.v1", "content-key-bound.v1", "content-key-typed.v1"];
    for kind in each {
        assert_eq!(count(service, kind) as u128, MOST, "{kind}");
    }
}
