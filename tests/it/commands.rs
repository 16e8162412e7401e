//! Commands take effect once under their `Idempotency-Key`, whoever repeats them and whenever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use license_ledger::access::Scope;
use license_ledger::domain::Event;
use license_ledger::ledger::tail::Fact;
use license_ledger::ledger::{Embedded, Ledger};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Answer, Client};
use crate::device::kid;
use crate::mutations::Rng;
use crate::process::Serving;
use crate::service::{Setup, TestService, block_on};

const DECISIONS: &str = "/v1/quota/decisions";

fn hold(device: &str, number: u128) -> Value {
    json!({"device": device, "key_ids": [kid(number).to_string()], "commit": true})
}

/// What a repeat has in common with the answer it repeats.
fn told(answer: &Answer) -> (u16, Vec<u8>, Option<u64>, Option<String>) {
    let content_type = answer.header("content-type").map(str::to_owned);
    (answer.status, answer.body.clone(), answer.position(), content_type)
}

#[test]
fn a_repeat_gets_the_same_bytes_and_does_nothing_also_after_a_restart() {
    let mut service = TestService::new();
    let first = service.client.command(DECISIONS, "key-1", &hold("tv", 1));
    assert_eq!((first.status, first.position()), (200, Some(service.event_count())));
    let events = service.event_count();
    service.advance_s(100_000);
    let again = service.client.command(DECISIONS, "key-1", &hold("tv", 1));
    assert_eq!(told(&again), told(&first), "the reservation has expired, the answer stays");
    service.restart();
    let again = service.client.command(DECISIONS, "key-1", &hold("tv", 1));
    assert_eq!(told(&again), told(&first));
    assert_eq!(service.event_count(), events);
    let other = service.client.command(DECISIONS, "key-2", &hold("tv", 1));
    assert_ne!(other.json()["reservation_id"], first.json()["reservation_id"]);
}

#[test]
fn a_key_belongs_to_one_request_of_one_client() {
    let service = TestService::new();
    let client = &service.client;
    let first = client.command(DECISIONS, "key", &hold("tv", 1));
    let events = service.event_count();
    for (path, body) in [
        (DECISIONS.to_owned(), hold("tv", 2).to_string()),
        // The same request to a reader of JSON, but not the same bytes.
        (DECISIONS.to_owned(), hold("tv", 1).to_string() + " "),
        (format!("{DECISIONS}?again=1"), hold("tv", 1).to_string()),
    ] {
        let headers = [("idempotency-key", "key"), ("content-type", "application/json")];
        let answer = client.post(&path, &headers, body.as_bytes());
        let code = "idempotency-key-reused".to_owned();
        assert_eq!(answer.status_and_code(), (422, code), "{path} {body}");
    }
    assert_eq!(service.event_count(), events);
    let other = service.client_with(&[Scope::QuotaDecide]);
    let answer = other.command(DECISIONS, "key", &hold("tv", 1));
    assert_ne!(answer.json()["reservation_id"], first.json()["reservation_id"]);
}

#[test]
fn a_command_needs_a_key_of_visible_characters() {
    let service = TestService::new();
    let body = hold("tv", 1).to_string();
    let longest = "x".repeat(255);
    let too_long = "x".repeat(256);
    let json = ("content-type", "application/json");
    let events = service.event_count();
    let wrong: [&[(&str, &str)]; 6] = [
        &[],
        &[("idempotency-key", "")],
        &[("idempotency-key", "two words")],
        &[("idempotency-key", "sch\u{f6}n")],
        &[("idempotency-key", &too_long)],
        &[("idempotency-key", "one"), ("idempotency-key", "two")],
    ];
    for headers in wrong {
        let answer = service.client.post(DECISIONS, &[headers, &[json]].concat(), body.as_bytes());
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{headers:?}");
        assert_eq!(answer.problem()["errors"][0]["field"], "Idempotency-Key");
    }
    assert_eq!(service.event_count(), events);
    for key in [longest.as_str(), "!", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\""] {
        assert_eq!(service.client.command(DECISIONS, key, &hold("tv", 1)).status, 200, "{key}");
    }
}

#[test]
fn what_stores_nothing_is_decided_again() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let held = service.client.command(DECISIONS, "first", &hold("tv", 1));
    let before = service.event_count();
    let recorded = service.client.command(DECISIONS, "told", &hold("tv", 2));
    assert_eq!(recorded.json()["decision"], "deny");
    assert_eq!(service.kinds_from(before), ["decision-refused.v1", "request-answered.v1"]);
    let denied = service.client.command(DECISIONS, "second", &hold("tv", 2));
    assert_eq!((denied.status, denied.position()), (200, None), "it was said within the hour");
    assert_eq!(denied.json()["decision"], "deny");
    assert_eq!(denied.json().get("reservation_id"), None);
    let id = held.json()["reservation_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/devices/tv/reservations/{id}/release");
    let released = service.client.command(&path, "third", &json!({}));
    assert_eq!(released.status, 200, "{}", released.text());
    let allowed = service.client.command(DECISIONS, "second", &hold("tv", 2));
    assert_eq!(allowed.json()["decision"], "allow");
    let again = service.client.command(DECISIONS, "told", &hold("tv", 2));
    assert_eq!(told(&again), told(&recorded));
    // An answer that was remembered stays, though the device has no such reservation any more.
    let again = service.client.command(&path, "third", &json!({}));
    assert_eq!(told(&again), told(&released));
    let other = service.client.command(&path, "fourth", &json!({}));
    assert_eq!(other.status_and_code(), (404, "not-found".to_owned()));
}

#[test]
fn a_key_used_from_many_threads_at_once_takes_effect_once() {
    let service = TestService::new();
    let send = |_| service.client.command(DECISIONS, "shared", &hold("tv", 1));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|n| scope.spawn(move || send(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (done, busy): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    for answer in busy {
        assert_eq!(answer.status_and_code(), (409, "idempotency-key-in-use".to_owned()));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let first = told(&service.client.command(DECISIONS, "shared", &hold("tv", 1)));
    assert!(!done.is_empty());
    assert!(done.iter().all(|answer| told(answer) == first));
    let made = service.kinds_from(0).into_iter().filter(|kind| kind == "reservation-made.v1");
    assert_eq!(made.count(), 1);
}

/// One client's commands by key, and the answers that arrived.
#[derive(Default)]
struct Commands {
    sent: BTreeMap<String, Value>,
    answers: BTreeMap<String, (u16, Vec<u8>)>,
}

impl Commands {
    fn work(&mut self, client: &Client, rng: &mut Rng, answers: &AtomicUsize) {
        loop {
            let key = format!("key-{}-{}", rng.below(1 << 30), self.sent.len());
            let number = rng.below(1 << 20) as u128;
            let body = hold(&format!("device-{}", rng.below(4)), number);
            self.sent.insert(key.clone(), body.clone());
            let Some(answer) = client.try_command(DECISIONS, &key, &body) else { return };
            self.answers.insert(key, (answer.status, answer.body));
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Kills; enough that some of them fall between an append and its answer.
const KILLS: usize = 8;
const CLIENTS: usize = 8;

#[test]
fn commands_whose_answers_were_lost_in_a_kill_are_answered_once_and_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "[quota]\ndevice_limit = 1000000\n").unwrap();
    let start = || Serving::start(&data, &["--config", config.to_str().unwrap()]);
    let mut serving = start();
    let key = serving.admin_key.clone().unwrap();
    let mut all: Vec<Commands> = (0..CLIENTS).map(|_| Commands::default()).collect();
    for round in 0..KILLS {
        let client = serving.client(&key);
        let answers = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (number, commands) in all.iter_mut().enumerate() {
                let (client, answers) = (&client, &answers);
                let mut rng = Rng((round * CLIENTS + number) as u64 + 1);
                scope.spawn(move || commands.work(client, &mut rng, answers));
            }
            let begun = Instant::now();
            while answers.load(Ordering::Relaxed) < 40 {
                assert!(begun.elapsed() < Duration::from_secs(60), "no answers come");
                std::thread::sleep(Duration::from_millis(1));
            }
            serving.kill();
        });
        serving = start();
        let client = serving.client(&key);
        // All of this round again: what was answered stays, and the rest is answered by now.
        for commands in &mut all {
            for (key, body) in &commands.sent {
                let again = client.command(DECISIONS, key, body);
                let again = (again.status, again.body);
                let first = commands.answers.entry(key.clone()).or_insert_with(|| again.clone());
                assert_eq!(&again, first, "{key}");
            }
        }
    }
    serving.stop();
    check_log(&data, &all);
}

/// Every reservation that a client was told of is in the log once, and there is no other.
fn check_log(data: &std::path::Path, all: &[Commands]) {
    let ledger = Ledger::Embedded(Embedded::open_read_only(data).unwrap());
    let recorded = block_on(ledger.read_all(0, usize::MAX >> 1)).unwrap();
    let events = recorded.into_iter().map(|recorded| Fact::of(recorded).unwrap().event);
    let made = events.filter_map(|event| match event {
        Event::ReservationMade(made) => Some(made.reservation_id),
        _ => None,
    });
    let mut made: Vec<Uuid> = made.collect();
    let answers = all.iter().flat_map(|commands| commands.answers.values());
    let mut told: Vec<Uuid> = answers
        .map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap())
        .map(|answer| answer["reservation_id"].as_str().unwrap().parse().unwrap())
        .collect();
    made.sort();
    told.sort();
    assert_eq!(made, told);
}

#[test]
fn what_was_so_already_is_remembered_and_not_made_so_again() {
    let mut service = TestService::new();
    let report = json!({"device": "tv", "drm_system": "widevine", "licenses": [
        {"key_id": kid(1), "license_reference": "wv-1", "persistent": true}]});
    assert_eq!(service.client.command("/v1/acquisitions", "report", &report).status, 200);
    let because = json!({"reason": "a test"});
    let act = |service: &TestService, act: &str, key: &str, body: &Value| {
        service.client.command(&format!("/v1/devices/tv/{act}"), key, body)
    };
    act(&service, "block", "1", &because);
    let again = act(&service, "block", "2", &because);
    assert_eq!((again.status, &again.json()["changed"]), (200, &json!(false)));
    assert_eq!(again.position(), Some(service.event_count()));
    act(&service, "unblock", "3", &because);
    service.restart();
    let events = service.event_count();
    assert_eq!(told(&act(&service, "block", "2", &because)), told(&again));
    let other = act(&service, "block", "2", &json!({"reason": "another"}));
    assert_eq!(other.status_and_code(), (422, "idempotency-key-reused".to_owned()));
    assert_eq!(service.event_count(), events, "it is blocked again");

    // The same of an identity that belongs to the device already, of a limit that is set, and of
    // what a report has said before.
    let link = json!({"identity": "ab".repeat(32), "reason": "a test"});
    act(&service, "identities", "4", &link);
    let linked = act(&service, "identities", "5", &link);
    assert_eq!(linked.json()["changed"], false);
    let gone = json!({"device": "tv", "grade": "B", "licenses": [
        {"drm_system": "widevine", "license_reference": "wv-1"}]});
    service.client.command("/v1/deletions", "6", &gone);
    let said = service.client.command("/v1/deletions", "7", &gone);
    assert_eq!(said.json()["licenses"], json!([]));
    let nothing = act(&service, "write-off", "8", &because);
    assert_eq!(nothing.json()["written_off"], json!([]));
    service.client.command("/v1/acquisitions", "9", &report);
    let events = service.event_count();
    assert_eq!(told(&act(&service, "identities", "5", &link)), told(&linked));
    assert_eq!(told(&service.client.command("/v1/deletions", "7", &gone)), told(&said));
    assert_eq!(told(&act(&service, "write-off", "8", &because)), told(&nothing));
    assert_eq!(service.event_count(), events);
}

#[test]
fn a_limit_is_set_and_taken_back_once_under_a_key() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let path = "/v1/accounts/family/overrides/slots";
    let policy = json!({"rules": [{"id": "slots", "scope": "account", "counts": "live_slots",
            "limit": 1, "on_exceed": "deny"}],
        "licenses_per_slot": 16, "releasing_grades": ["A"]});
    let published = json!({"policy": policy, "reason": "a test"});
    let put = service.client.put_json("/v1/quota/policy", Some("\"0\""), &published);
    assert_eq!(put.status, 200, "{}", put.text());
    let limit = |limit: u32| json!({"limit": limit, "reason": "a test"});
    let set = |key: &str, limit: &Value| {
        let headers = [("idempotency-key", key), ("content-type", "application/json")];
        service.client.call("PUT", path, &headers, limit.to_string().as_bytes())
    };
    let take_back = |key: &str| {
        let path = format!("{path}?reason=enough");
        service.client.call("DELETE", &path, &[("idempotency-key", key)], b"")
    };
    let missing = service.client.put_json(path, None, &limit(2));
    assert_eq!(missing.problem()["errors"][0]["field"], "Idempotency-Key");
    let first = set("1", &limit(2));
    assert_eq!(first.status, 200, "{}", first.text());
    let same = set("2", &limit(2));
    let back = take_back("3");
    assert_eq!((back.status, back.body.len(), back.position().is_some()), (204, 0, true));
    let events = service.event_count();
    for (key, answer) in [("1", &first), ("2", &same)] {
        assert_eq!(told(&set(key, &limit(2))), told(answer));
    }
    assert_eq!(told(&take_back("3")), told(&back));
    assert_eq!(set("2", &limit(3)).status_and_code().0, 422);
    assert_eq!(service.event_count(), events);
    let shown =
        service.client.json(&format!("/v1/accounts/family/overrides?min_position={events}"));
    assert_eq!(shown["items"], json!([]));
}
