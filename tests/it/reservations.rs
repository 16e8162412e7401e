//! Committed decisions hold room for licenses that somebody else issues.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use license_ledger::domain::Event;
use serde_json::{Value, json};

use crate::client::{Answer, fresh_key};
use crate::device::{Device, PERSISTENT, kid, refused, request, words};
use crate::service::{Setup, TestService};

const DECISIONS: &str = "/v1/quota/decisions";

fn hold(device: &str, kids: &[u128]) -> Value {
    let key_ids: Vec<_> = kids.iter().map(|number| kid(*number).to_string()).collect();
    json!({"device": device, "key_ids": key_ids, "commit": true})
}

fn reservation(answer: &Answer) -> String {
    let decision = answer.json();
    assert_eq!((answer.status, &decision["decision"]), (200, &json!("allow")), "{decision}");
    decision["reservation_id"].as_str().unwrap().to_owned()
}

fn acquires(service: &TestService, device: &Device, number: u128) -> bool {
    match device.acquire(&service.client, &request(&[kid(number)]), PERSISTENT) {
        Ok(_) => true,
        Err(fault) => {
            assert_eq!(words(&fault), refused("persistent_license_limit"));
            false
        }
    }
}

#[test]
fn a_reservation_holds_room_until_it_is_released_or_its_time_has_come() {
    let service = Setup::default().with("quota.device_limit", 2).start();
    let client = &service.client;
    let device = service.device("player");
    let name = device.identity();
    let mut body = hold(&name, &[1, 2]);
    body["hold_seconds"] = json!(60);
    body["account"] = json!("family");
    let made = client.command(DECISIONS, "a", &body);
    let id = reservation(&made);
    assert_eq!(made.json()["expires_at"], "2023-11-14T22:14:20.000Z");
    assert_eq!(made.json()["device_known"], false);
    let path = format!("/v1/devices/{name}/reservations/{id}");
    let shown = client.json(&path);
    assert_eq!(shown["expires_at"], "2023-11-14T22:14:20.000Z");
    assert_eq!(shown["account"], made.json()["account"]);
    assert_eq!(shown["key_ids"], json!([kid(1).to_string(), kid(2).to_string()]));
    // The device is seen for the first time, and finds no room.
    assert!(!acquires(&service, &device, 3));
    let denied = client.command(DECISIONS, "b", &hold(&name, &[3])).json();
    assert_eq!(
        (&denied["decision"], &denied["counted"][0]["reserved"]),
        (&json!("deny"), &json!(true))
    );
    assert_eq!(denied["next_free_at"], "2023-11-14T22:14:20.000Z");
    service.advance_s(60);
    assert_eq!(client.get(&path).status_and_code(), (404, "not-found".to_owned()));
    assert!(acquires(&service, &device, 3));
    assert_eq!(service.live(&device), 1);
    let id = reservation(&client.command(DECISIONS, "c", &hold(&name, &[4])));
    assert!(!acquires(&service, &device, 5));
    let release = format!("/v1/devices/{name}/reservations/{id}/release");
    let released = client.command(&release, "d", &json!({}));
    assert_eq!((released.status, released.json()["key_ids"][0].clone()), (200, json!(kid(4))));
    assert!(acquires(&service, &device, 5));
    let kinds: BTreeSet<_> = service.kinds_from(0).into_iter().collect();
    for kind in ["device-enrolled.v1", "slot-taken.v1", "reservation-closed.v1"] {
        assert!(kinds.contains(kind), "{kind}: {kinds:?}");
    }
}

#[test]
fn the_inventory_shows_what_is_reserved_until_its_end() {
    let service = Setup::default().with("quota.device_limit", 4).start();
    let shown = |device: &str| {
        let position = service.event_count();
        service.client.json(&format!("/v1/devices/{device}/inventory?min_position={position}"))
    };
    let device = service.device("player");
    assert!(acquires(&service, &device, 1));
    let name = device.identity();
    let mut body = hold(&name, &[1, 2]);
    body["hold_seconds"] = json!(60);
    body["account"] = json!("family");
    let made = service.client.command(DECISIONS, "a", &body);
    let id = reservation(&made);
    let later = reservation(&service.client.command(DECISIONS, "b", &hold(&name, &[3])));
    let inventory = shown(&name);
    assert_eq!((&inventory["live"], &inventory["reserved"]), (&json!(1), &json!(2)));
    let first = &inventory["reservations"][0];
    assert_eq!(
        (&first["reservation_id"], &first["account"]),
        (&json!(id), &made.json()["account"])
    );
    assert_eq!(first["key_ids"], json!([kid(1), kid(2)]));
    assert_eq!(first["expires_at"], made.json()["expires_at"]);
    assert_eq!(inventory["reservations"][1]["reservation_id"], json!(later));
    service.replay().check_inventory(
        &service.inner().inventory,
        license_ledger::clock::UnixMillis(service.replay().at_ms),
    );
    // A device of which nothing else is known; and a slot that is given back.
    let only = reservation(&service.client.command(DECISIONS, "c", &hold("tv", &[7])));
    assert_eq!(shown("tv")["reservations"][0]["reservation_id"], json!(only));
    let release = format!("/v1/devices/tv/reservations/{only}/release");
    assert_eq!(service.client.command(&release, "d", &json!({})).status, 200);
    assert_eq!((&shown("tv")["reserved"], &shown("tv")["reservations"]), (&json!(0), &json!([])));
    service.advance_s(60);
    let inventory = shown(&name);
    assert_eq!(inventory["reservations"].as_array().unwrap().len(), 1);
    assert_eq!((&inventory["live"], &inventory["reserved"]), (&json!(1), &json!(1)));
}

#[test]
fn a_body_may_be_empty_where_nothing_is_asked() {
    let service = TestService::new();
    let id = reservation(&service.client.command(DECISIONS, "a", &hold("tv", &[1])));
    let path = format!("/v1/devices/tv/reservations/{id}/release");
    let released = service.client.post(&path, &[("idempotency-key", "b")], b"");
    assert_eq!(released.status, 200, "{}", released.text());
    let wrong = service.client.command(&path, "c", &json!({"reason": "none"}));
    assert_eq!(wrong.status_and_code(), (400, "invalid-request".to_owned()));
    for path in ["/v1/devices/tv/reservations/nonsense", "/v1/devices/nobody/reservations/x"] {
        assert_eq!(service.client.get(path).status_and_code(), (404, "not-found".to_owned()));
    }
}

#[test]
fn how_long_room_is_held_is_within_bounds() {
    let service = TestService::new();
    let events = service.event_count();
    let ask = |seconds: Value, commit: bool| {
        let mut body = hold("tv", &[1]);
        body["commit"] = json!(commit);
        body["hold_seconds"] = seconds;
        service.client.command(DECISIONS, &fresh_key(), &body)
    };
    for (seconds, commit) in [
        (json!(0), true),
        (json!(86_401), true),
        (json!(4_294_967_295_u32), true),
        (json!(60), false),
    ] {
        let answer = ask(seconds.clone(), commit);
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{seconds}");
        assert_eq!(answer.problem()["errors"][0]["field"], "hold_seconds");
    }
    assert_eq!(service.event_count(), events);
    for seconds in [1, 86_400] {
        assert_eq!(ask(json!(seconds), true).status, 200);
    }
}

#[test]
fn sixty_four_threads_commit_as_many_decisions_as_there_are_slots() {
    const LIMIT: usize = 25;
    let service = Setup::default().with("quota.device_limit", LIMIT).start();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= 200 {
                return made;
            }
            let mut body = hold("tv", &[number as u128]);
            body["account"] = json!("family");
            let answer = service.client.command(DECISIONS, &format!("key-{number}"), &body);
            assert_eq!(answer.status, 200, "{}", answer.text());
            if answer.json()["decision"] == "allow" {
                made.push(reservation(&answer));
            }
        }
    };
    let made: BTreeSet<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.len(), LIMIT);
    let stored = service.facts().into_iter().filter_map(|fact| match fact.event {
        Event::ReservationMade(made) => Some(made.reservation_id.to_string()),
        _ => None,
    });
    assert_eq!(stored.collect::<BTreeSet<_>>(), made);
    let taken = service.kinds_from(0).into_iter().filter(|kind| kind == "slot-taken.v1").count();
    assert_eq!(taken, LIMIT);
}

#[test]
fn names_in_a_question_have_the_form_of_those_in_a_report() {
    let service = TestService::new();
    let events = service.event_count();
    let license = |member: &str, name: &str| json!({"device": "tv", "licenses": [{"key_id": kid(1), member: name}]});
    let asked =
        |member: &str, name: &str| json!({"device": "tv", "key_ids": [kid(1)], member: name});
    let long = "x".repeat(257);
    for (body, field) in [
        (asked("device", ""), "device"),
        (asked("device", &long), "device"),
        (asked("account", " "), "account"),
        (asked("account", &long), "account"),
        (asked("title", &long), "title"),
        (asked("content_group", ""), "content_group"),
        (asked("model", "a\u{7}b"), "model"),
        (license("title", "a\nb"), "licenses[0].title"),
        (license("content_group", &long), "licenses[0].content_group"),
    ] {
        for commit in [false, true] {
            let mut body = body.clone();
            body["commit"] = json!(commit);
            let answer = service.client.command(DECISIONS, &fresh_key(), &body);
            assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{field}");
            assert_eq!(answer.problem()["errors"][0]["field"], field);
        }
    }
    assert_eq!(service.event_count(), events);
    let longest = asked("title", &"x".repeat(256));
    assert_eq!(service.client.post_json(DECISIONS, &longest).status, 200);
}

#[test]
fn a_denied_decision_is_recorded_with_the_restraint_of_a_refusal() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("player");
    assert!(acquires(&service, &device, 1));
    let name = device.identity();
    let denied = |kids: &[u128]| {
        let before = service.event_count();
        let mut body = hold(&name, kids);
        body["account"] = json!("family");
        let answer = service.client.command(DECISIONS, &fresh_key(), &body);
        assert_eq!(answer.json()["decision"], "deny");
        let kinds = service.kinds_from(before);
        assert_eq!(answer.position().is_some(), !kinds.is_empty());
        kinds
    };
    let recorded = ["decision-refused.v1", "request-answered.v1"];
    let asked = |commit: bool| json!({"device": name, "key_ids": [kid(2)], "commit": commit});
    let before = service.event_count();
    service.client.post_json(DECISIONS, &asked(false));
    assert_eq!(service.event_count(), before, "a dry run");
    assert_eq!(denied(&[2, 3]), recorded);
    let none = Vec::<String>::new();
    assert_eq!(denied(&[2]), none, "once for a KID and rule in an hour");
    // Challenges of the device are counted with it, and the other way round.
    assert!(!acquires(&service, &device, 3));
    assert_eq!(service.event_count(), before + 2);
    assert!(!acquires(&service, &device, 4));
    assert_eq!(denied(&[4]), none);
    assert_eq!(denied(&[4, 5]), recorded);
    service.advance_s(3_601);
    assert_eq!(denied(&[2]), recorded);
    let events = (100..220).map(|number| denied(&[number]).len()).sum::<usize>();
    assert_eq!(events, 2 * 96, "a hundred a device and day");

    let position = service.event_count();
    let path = format!("/v1/refusals?account=family&min_position={position}&limit=2");
    let found = service.client.json(&path)["items"].clone();
    assert_eq!(found[0]["key_ids"], json!([kid(2), kid(3)]));
    assert_eq!(
        (&found[0]["rule"], &found[0]["limit"], &found[0]["in_use"], &found[0]["requested"]),
        (&json!("device-slots"), &json!(1), &json!(1), &json!(2))
    );
    assert_eq!(found[1]["key_ids"], json!([kid(5)]));
    // Of a device that nobody has seen it may be the first thing that is said.
    let block = json!({"key_ids": [kid(1), kid(2)], "device": "tv", "commit": true});
    let answer = service.client.command(DECISIONS, &fresh_key(), &block).json();
    assert_eq!(answer["decision"], "deny");
    let position = service.event_count();
    let tv = service.client.json(&format!("/v1/devices/tv?min_position={position}"));
    assert_eq!((&tv["device"], &tv["refused"]), (&answer["device"], &json!(1)));
}
