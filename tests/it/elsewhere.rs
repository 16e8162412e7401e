//! Licenses that other systems issued: reported, counted, ended.

use license_ledger::access::Scope;
use license_ledger::domain::Event;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Answer, fresh_key};
use crate::device::{PERSISTENT, kid, refused, request, words};
use crate::service::{Setup, TestService};

fn license(reference: &str, number: u128) -> Value {
    json!({"key_id": kid(number).to_string(), "license_reference": reference, "persistent": true})
}

fn acquisition(device: &str, licenses: &[Value]) -> Value {
    json!({"device": device, "drm_system": "widevine", "licenses": licenses})
}

fn send(service: &TestService, path: &str, body: &Value) -> Answer {
    service.client.command(path, &fresh_key(), body)
}

fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn inventory(service: &TestService, device: &str) -> Value {
    let position = service.event_count();
    service.client.json(&format!("/v1/devices/{device}/inventory?min_position={position}"))
}

fn named(reference: &str) -> Value {
    json!({"drm_system": "widevine", "license_reference": reference})
}

#[test]
fn what_another_system_issues_counts_and_is_shown_with_its_names() {
    let service = Setup::default().with("quota.device_limit", 2).start();
    let device = service.device("phone");
    let name = device.identity();
    let mut body = acquisition(&name, &[license("wv-1", 1), license("wv-2", 2)]);
    body["account"] = json!("family");
    body["security_level"] = json!(3000);
    body["model"] = json!("Example Phone 2");
    body["licenses"][0]["title"] = json!("movie-7");
    body["licenses"][1]["counted_until"] = json!("2023-11-15T01:00:00+01:00");
    let recorded = ok(&send(&service, "/v1/acquisitions", &body));
    assert_eq!(
        (&recorded["overage"], &recorded["drm_system"]),
        (&json!(false), &json!("widevine"))
    );
    // The device itself is seen for the first time, and finds no room.
    let third = request(&[kid(3)]);
    let fault = device.acquire(&service.client, &third, PERSISTENT).err().unwrap();
    assert_eq!(words(&fault), refused("persistent_license_limit"));
    let shown = inventory(&service, &name);
    assert_eq!((&shown["live"], &shown["confirmed"]), (&json!(2), &json!(0)));
    let first = &shown["licenses"][0];
    assert_eq!(first["license_id"], recorded["licenses"][0]["license_id"]);
    assert_eq!(first["license_reference"], "wv-1");
    assert_eq!((&first["drm_system"], &first["status"]), (&json!("widevine"), &json!("issued")));
    assert_eq!((&first["title"], &first["identity"]), (&json!("movie-7"), &Value::Null));
    assert_eq!(shown["licenses"][1]["counted_until"], "2023-11-15T00:00:00.000Z");
    let summary = service.client.json(&format!("/v1/devices/{name}"));
    assert_eq!(summary["security_level"], 2000, "its certificate says it better");
    // Beyond the limit it is recorded all the same.
    let over = acquisition(&name, &[license("wv-3", 3)]);
    assert_eq!(ok(&send(&service, "/v1/acquisitions", &over))["overage"], true);
    assert_eq!(inventory(&service, &name)["live"], 3);
    service.advance_s(6_400);
    assert_eq!(inventory(&service, &name)["live"], 2);
}

#[test]
fn a_device_that_was_only_reported_about_is_found_under_its_name() {
    let service = TestService::new();
    ok(&send(&service, "/v1/acquisitions", &acquisition("tv-17", &[license("a", 1)])));
    let position = service.event_count();
    let summary = service.client.json(&format!("/v1/devices/tv-17?min_position={position}"));
    assert_eq!((&summary["security_level"], &summary["model"]), (&Value::Null, &json!("")));
    assert_eq!(summary["identities"], json!([]));
    assert_eq!(summary["persistent_acquired"], 1);
}

#[test]
fn storing_and_deleting_are_reported_by_id_or_by_reference() {
    let service = TestService::new();
    let licenses = [license("wv-1", 1), license("wv-2", 2), license("wv-3", 3)];
    let recorded = ok(&send(&service, "/v1/acquisitions", &acquisition("tv", &licenses)));
    let id = &recorded["licenses"][0]["license_id"];
    let mut second = named("wv-2");
    second["stored"] = json!(false);
    let results = json!({"device": "tv", "licenses": [{"license_id": id, "stored": true}, second]});
    let spoken = ok(&send(&service, "/v1/acknowledgements", &results));
    assert_eq!(spoken["licenses"].as_array().unwrap().len(), 2);
    let shown = inventory(&service, "tv");
    assert_eq!(shown["licenses"][0]["status"], "stored");
    assert_eq!(shown["licenses"][1]["status"], "store_failed");
    assert_eq!(shown["confirmed"], 1);
    let delete = |grade: &str, licenses: Value| {
        let body = json!({"device": "tv", "licenses": licenses, "grade": grade});
        send(&service, "/v1/deletions", &body)
    };
    let weak = ok(&delete("D", json!([named("wv-1")])));
    assert_eq!(weak["licenses"][0]["released"], false);
    let shown = inventory(&service, "tv");
    assert_eq!((&shown["live"], &shown["confirmed"]), (&json!(3), &json!(0)));
    assert_eq!(shown["licenses"][0]["status"], "deleted_unreleased");
    assert_eq!(shown["licenses"][0]["deletion_grade"], "D");
    let strong = ok(&delete("B", json!([named("wv-1")])));
    assert_eq!(
        (&strong["licenses"][0]["released"], &strong["licenses"][0]["license_id"]),
        (&json!(true), id)
    );
    let medium = ok(&delete("C", json!([named("wv-2")])));
    assert_eq!(medium["licenses"][0]["released"], true);
    let shown = inventory(&service, "tv");
    assert_eq!((&shown["live"], &shown["possible"]), (&json!(1), &json!(2)));
    let events = service.event_count();
    assert_eq!(ok(&delete("B", json!([named("wv-1")])))["licenses"], json!([]), "it was said");
    assert_eq!(service.kinds_from(events), ["request-answered.v1"]);
    let events = service.event_count();
    assert_eq!(
        delete("B", json!([named("wv-9")])).status_and_code(),
        (404, "not-found".to_owned())
    );
    assert_eq!(
        delete("A", json!([named("wv-3")])).status_and_code(),
        (400, "invalid-request".to_owned())
    );
    let other = json!({"device": "radio", "licenses": [named("wv-3")], "grade": "B"});
    let answer = send(&service, "/v1/deletions", &other);
    assert_eq!(answer.status_and_code(), (404, "not-found".to_owned()), "another device's");
    assert_eq!(service.event_count(), events);
}

#[test]
fn a_deletion_that_is_reported_late_is_recorded() {
    let service = TestService::new();
    let mut first = license("wv-1", 1);
    first["counted_until"] = json!("2023-11-14T22:14:20Z");
    ok(&send(&service, "/v1/acquisitions", &acquisition("tv", &[first, license("wv-2", 2)])));
    let write_off = json!({"reason": "lost at sea"});
    ok(&send(&service, "/v1/devices/tv/write-off", &write_off));
    service.advance_s(60);
    let shown = inventory(&service, "tv");
    assert_eq!((&shown["live"], &shown["possible"]), (&json!(0), &json!(1)));
    let body = json!({"device": "tv", "licenses": [named("wv-1"), named("wv-2")], "grade": "B"});
    let recorded = ok(&send(&service, "/v1/deletions", &body));
    let released = |place: usize| recorded["licenses"][place]["released"].clone();
    assert_eq!((released(0), released(1)), (json!(true), json!(true)));
    assert_eq!(inventory(&service, "tv")["possible"], 0);
    let question = json!({"device": "tv", "key_ids": [kid(3)]});
    let decision = service.client.post_json("/v1/quota/decisions", &question).json();
    assert_eq!(decision["in_use"]["possible"], 0);
    let ended = &recorded["licenses"][1]["license_id"];
    let life = service.client.json(&format!("/v1/licenses/{}", ended.as_str().unwrap()));
    let kinds: Vec<_> = life["events"].as_array().unwrap().iter().map(|e| &e["type"]).collect();
    assert_eq!(kinds, ["license-recorded.v1", "license-written-off.v1", "deletion-recorded.v1"]);
}

#[test]
fn better_evidence_is_taken_after_the_end_and_its_message_kept() {
    let service = TestService::new();
    let licenses = [license("wv-1", 1), license("wv-2", 2)];
    let mut body = acquisition("tv", &licenses);
    body["account"] = json!("family");
    let recorded = ok(&send(&service, "/v1/acquisitions", &body));
    let id = |place: usize| recorded["licenses"][place]["license_id"].as_str().unwrap().to_owned();
    let write_off = json!({"reason": "lost at sea", "license_ids": [id(1)]});
    ok(&send(&service, "/v1/devices/tv/write-off", &write_off));
    let delete = |reference: &str, grade: &str, message: &[u8]| {
        let message = data_encoding::BASE64.encode(message);
        let licenses = json!([named(reference)]);
        let body =
            json!({"device": "tv", "licenses": licenses, "grade": grade, "message": message});
        ok(&send(&service, "/v1/deletions", &body))
    };
    let possible = || {
        let question = json!({"device": "tv", "account": "family", "key_ids": [kid(3)]});
        let decision = service.client.post_json("/v1/quota/decisions", &question).json();
        (inventory(&service, "tv")["possible"].clone(), decision["in_use"]["possible"].clone())
    };
    delete("wv-1", "C", b"c");
    delete("wv-2", "E", b"e");
    assert_eq!(possible(), (json!(2), json!(2)));
    for (reference, place) in [("wv-1", 0), ("wv-2", 1)] {
        let proof = delete(reference, "B", reference.as_bytes());
        assert_eq!(proof["licenses"][0]["license_id"], id(place));
        let stream = format!("evidence-{}", proof["evidence"].as_str().unwrap());
        let kept = service.facts().into_iter().any(|fact| {
            fact.event.kind() == "report-kept.v1" && fact.recorded.stream.to_string() == stream
        });
        assert!(kept, "{reference}");
        let again = delete(reference, "B", b"another message");
        assert_eq!((&again["licenses"], &again["evidence"]), (&json!([]), &Value::Null));
        let weaker = delete(reference, "D", b"another message");
        assert_eq!(weaker["licenses"], json!([]));
    }
    assert_eq!(possible(), (json!(0), json!(0)));
    let position = service.event_count();
    let account = service.client.json(&format!("/v1/accounts/family?min_position={position}"));
    assert_eq!(account["live_slots"], 0);
    assert_eq!(service.client.json("/v1/devices/tv")["deleted"], 2, "each once");
    let life = service.client.json(&format!("/v1/licenses/{}", id(0)));
    let grades: Vec<_> = life["events"].as_array().unwrap().iter().map(|e| &e["grade"]).collect();
    assert_eq!(grades[1..], [&json!("C"), &json!("B")]);
}

#[test]
fn no_report_ends_a_license_that_its_device_must_sign_for() {
    let service = TestService::new();
    let device = service.device("signing");
    let acquired = device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    let events = service.event_count();
    let license = json!({"license_id": acquired.rights_ids()[0].to_string()});
    let body = json!({"device": device.identity(), "licenses": [license], "grade": "B"});
    let answer = send(&service, "/v1/deletions", &body);
    assert_eq!(answer.status_and_code(), (409, "conflict".to_owned()));
    assert!(answer.problem()["detail"].as_str().unwrap().contains("signed"));
    assert_eq!(answer.problem()["errors"][0]["field"], "licenses[0]");
    assert_eq!((service.event_count(), service.live(&device)), (events, 1));
}

#[test]
fn a_reservation_becomes_licenses_in_one_step() {
    let service = Setup::default().with("quota.device_limit", 2).start();
    let hold = json!({"device": "tv", "account": "family", "commit": true,
        "key_ids": [kid(1).to_string(), kid(2).to_string()]});
    let held = ok(&send(&service, "/v1/quota/decisions", &hold));
    let mut body = acquisition("tv", &[license("wv-1", 1), license("wv-2", 2)]);
    body["reservation_id"] = held["reservation_id"].clone();
    let before = service.event_count();
    let recorded = ok(&send(&service, "/v1/acquisitions", &body));
    assert_eq!(
        (&recorded["overage"], &recorded["reserved_slots_used"]),
        (&json!(false), &json!(2))
    );
    assert_eq!(recorded["account"], held["account"]);
    let kinds = [
        "reservation-closed.v1",
        "license-recorded.v1",
        "license-recorded.v1",
        "slot-released.v1",
        "slot-released.v1",
        "slot-taken.v1",
        "slot-taken.v1",
        "request-answered.v1",
    ];
    assert_eq!(service.kinds_from(before), kinds);
    assert_eq!(inventory(&service, recorded["device"].as_str().unwrap())["live"], 2);
}

#[test]
fn the_message_of_a_report_is_kept_once() {
    let service = TestService::new();
    let mut body = acquisition("tv", &[license("wv-1", 1)]);
    body["message"] = json!("AAEC/w==");
    body["occurred_at"] = json!("2023-11-14T20:00:00Z");
    let recorded = ok(&send(&service, "/v1/acquisitions", &body));
    body["licenses"] = json!([license("wv-2", 2)]);
    let other = ok(&send(&service, "/v1/acquisitions", &body));
    assert_eq!(other["evidence"], recorded["evidence"]);
    let kept = service.facts().into_iter().filter_map(|fact| match fact.event {
        Event::ReportKept(kept) => Some((fact.recorded.stream.to_string(), kept.message)),
        _ => None,
    });
    let stream = format!("evidence-{}", recorded["evidence"].as_str().unwrap());
    assert_eq!(kept.collect::<Vec<_>>(), [(stream, "AAEC/w==".to_owned())]);
    let occurred = service.facts().into_iter().find_map(|fact| match fact.event {
        Event::LicenseRecorded(license) => license.occurred_ms,
        _ => None,
    });
    assert_eq!(occurred, Some(1_699_992_000_000));
}

#[test]
fn a_report_out_of_form_names_its_field() {
    let service = TestService::new();
    let events = service.event_count();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = acquisition("tv", &[license("wv-1", 1)]);
        change(&mut body);
        body
    };
    for (body, field) in [
        (with(&|b| b["drm_system"] = json!("Widevine")), "drm_system"),
        (with(&|b| b["licenses"] = json!([])), "licenses"),
        (with(&|b| b["licenses"] = json!(vec![license("x", 1); 101])), "licenses"),
        (
            with(&|b| b["licenses"][0]["license_reference"] = json!("")),
            "licenses[0].license_reference",
        ),
        (with(&|b| b["licenses"][0]["title"] = json!("x".repeat(257))), "licenses[0].title"),
        (with(&|b| b["model"] = json!("a\nb")), "model"),
        (with(&|b| b["message"] = json!("AAE")), "message"),
    ] {
        let answer = send(&service, "/v1/acquisitions", &body);
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{field}");
        assert_eq!(answer.problem()["errors"][0]["field"], field);
    }
    let twice = with(&|b| b["licenses"] = json!([license("x", 1), license("x", 2)]));
    let answer = send(&service, "/v1/acquisitions", &twice);
    assert_eq!(answer.status_and_code(), (409, "conflict".to_owned()));
    assert_eq!(answer.problem()["errors"][0]["field"], "licenses[1]");
    for which in [
        json!({}),
        json!({"drm_system": "x"}),
        json!({"license_id": Uuid::nil(), "drm_system": "x"}),
    ] {
        let body = json!({"device": "tv", "licenses": [which], "grade": "B"});
        let answer = send(&service, "/v1/deletions", &body);
        assert_eq!(answer.problem()["errors"][0]["field"], "licenses[0]");
    }
    for (path, body) in [
        ("/v1/acquisitions", acquisition("tv", &[license("wv-1", 1)])),
        ("/v1/acknowledgements", json!({"device": "tv", "licenses": []})),
        ("/v1/deletions", json!({"device": "tv", "licenses": [], "grade": "B"})),
    ] {
        let reader = service.client_with(&[Scope::QuotaDecide]);
        assert_eq!(reader.command(path, "key", &body).status_and_code().0, 403, "{path}");
        let answer = service.client.post_json(path, &body);
        assert_eq!(answer.problem()["errors"][0]["field"], "Idempotency-Key", "{path}");
    }
    assert_eq!(service.kinds_from(events), ["api-key-created.v1"; 3]);
}

#[test]
fn a_report_that_comes_after_its_reservation_counts_against_the_same_account() {
    let service = Setup::default().with("quota.device_limit", 9).start();
    let mut hold = json!({"device": "tv", "account": "family", "commit": true,
        "hold_seconds": 60, "key_ids": [kid(1).to_string()]});
    let reserve = |hold: &Value| ok(&send(&service, "/v1/quota/decisions", hold));
    let report = |number: u128, reservation: &Value| {
        let reference = format!("wv-{number}");
        let mut body = acquisition("tv", &[license(&reference, number)]);
        body["reservation_id"] = reservation.clone();
        send(&service, "/v1/acquisitions", &body)
    };
    let held = reserve(&hold);
    hold["account"] = json!("office");
    let used = reserve(&hold);
    assert_eq!(ok(&report(1, &used["reservation_id"]))["reserved_slots_used"], 1);
    service.advance_s(61);
    for (number, reservation) in [(2, &held), (3, &used)] {
        let late = ok(&report(number, &reservation["reservation_id"]));
        assert_eq!(late["account"], reservation["account"]);
        assert_eq!(late["reserved_slots_used"], 0);
    }
    let position = service.event_count();
    for (name, slots) in [("family", 1), ("office", 2)] {
        let path = format!("/v1/accounts/{name}?min_position={position}");
        assert_eq!(service.client.json(&path)["live_slots"], slots, "{name}");
    }
    // One that nobody knows of may have been paid by anybody.
    let unknown = report(4, &json!(Uuid::from_u128(4)));
    assert_eq!(unknown.status_and_code(), (409, "conflict".to_owned()));
    assert_eq!(unknown.problem()["errors"][0]["field"], "reservation_id");
    assert_eq!(service.event_count(), position);
    let mut named = acquisition("tv", &[license("wv-4", 4)]);
    named["reservation_id"] = json!(Uuid::from_u128(4));
    named["account"] = json!("family");
    assert_eq!(ok(&send(&service, "/v1/acquisitions", &named))["account"], held["account"]);
}

#[test]
fn every_report_says_what_it_rests_on() {
    let service = TestService::new();
    let mut signed = acquisition("tv", &[license("wv-1", 1)]);
    signed["grade"] = json!("B");
    let recorded = ok(&send(&service, "/v1/acquisitions", &signed));
    assert_eq!(recorded["grade"], "B");
    let word = ok(&send(&service, "/v1/acquisitions", &acquisition("tv", &[license("wv-2", 2)])));
    assert_eq!(word["grade"], "D", "whoever reports it says so");
    let mut stored = named("wv-1");
    stored["stored"] = json!(true);
    let stored = json!({"device": "tv", "licenses": [stored], "grade": "C"});
    assert_eq!(ok(&send(&service, "/v1/acknowledgements", &stored))["grade"], "C");
    let deleted = json!({"device": "tv", "licenses": [named("wv-1")], "grade": "E"});
    assert_eq!(ok(&send(&service, "/v1/deletions", &deleted))["grade"], "E");
    let grades = |recorded: &Value| {
        let (id, position) = (&recorded["licenses"][0]["license_id"], service.event_count());
        let path = format!("/v1/licenses/{}?min_position={position}", id.as_str().unwrap());
        let life = service.client.json(&path);
        let events = life["events"].as_array().unwrap().iter();
        events.map(|event| event["grade"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (grades(&recorded), grades(&word)),
        (["B", "C", "E"].map(Into::into).into(), vec!["D".to_owned()])
    );
    for (path, mut body) in [("/v1/acquisitions", signed), ("/v1/acknowledgements", stored)] {
        for (grade, status) in [("A", 400), ("F", 400)] {
            body["grade"] = json!(grade);
            assert_eq!(send(&service, path, &body).status, status, "{path} {grade}");
        }
    }
}
