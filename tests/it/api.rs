//! The JSON API: pages, positions, scopes, decisions.

use std::collections::BTreeSet;

use license_ledger::access::Scope;
use serde_json::{Value, json};

use crate::client::Client;
use crate::device::{Device, PERSISTENT, kid, request, words};
use crate::service::{Setup, TestService};

/// A service on which `count` devices hold one license each.
fn with_devices(count: usize) -> (TestService, Vec<Device>) {
    let service = TestService::new();
    let devices: Vec<_> = (0..count).map(|n| service.device(&format!("device-{n}"))).collect();
    devices.iter().for_each(|device| hold(&service, device, 1));
    service.client.json(&format!("/v1/devices?min_position={}", service.event_count()));
    (service, devices)
}

fn hold(service: &TestService, device: &Device, number: u128) {
    device.acquire(&service.client, &request(&[kid(number)]), PERSISTENT).unwrap();
}

/// Walks a list in pages of `limit`; calls `between` after the first page.
fn walk(client: &Client, path: &str, limit: usize, between: impl FnOnce()) -> Vec<Value> {
    let join = if path.contains('?') { '&' } else { '?' };
    let mut page = client.json(&format!("{path}{join}limit={limit}"));
    let position = page["position"].clone();
    let mut items = page["items"].as_array().unwrap().clone();
    between();
    while let Some(cursor) = page["next_cursor"].as_str() {
        page = client.json(&format!("{path}{join}limit={limit}&cursor={cursor}"));
        assert_eq!(page["position"], position, "the list moved");
        let more = page["items"].as_array().unwrap();
        assert!((1..=limit).contains(&more.len()), "an empty page");
        items.extend(more.iter().cloned());
    }
    items
}

#[test]
fn lists_show_everything_once_as_of_their_first_page() {
    let (service, devices) = with_devices(4);
    let client = &service.client;
    for limit in [1, 3, 4, 1_000] {
        let (before, now) = (service.event_count(), std::cell::Cell::new(0));
        let append = || {
            let late = service.device(&format!("late-{limit}"));
            hold(&service, &late, 1);
            client.json(&format!("/v1/devices?min_position={}", service.event_count()));
            now.set(service.event_count());
        };
        let events = walk(client, "/v1/events", limit, append);
        assert!(now.get() > before);
        let sequences: Vec<_> = events.iter().map(|e| e["sequence"].as_u64().unwrap()).collect();
        assert_eq!(sequences, (0..before).collect::<Vec<_>>());
    }
    let all = walk(client, "/v1/devices", 1_000, || ());
    let pages = walk(client, "/v1/devices", 1, || hold(&service, &service.device("last"), 1));
    assert_eq!(pages, all);
    let mut identities = pages.iter().map(|device| device["identities"][0].as_str().unwrap());
    for device in &devices {
        assert_eq!(identities.next(), Some(device.identity().as_str()), "first seen first");
    }
}

#[test]
fn a_device_s_events_are_its_own_and_in_order() {
    let (service, devices) = with_devices(2);
    hold(&service, &devices[0], 2);
    let path = format!(
        "/v1/devices/{}/events?min_position={}",
        devices[0].identity(),
        service.event_count()
    );
    let events = walk(&service.client, &path, 1, || hold(&service, &devices[0], 3));
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["device-enrolled.v1", "license-acquired.v1", "license-acquired.v1"]);
    let streams: BTreeSet<_> = events.iter().map(|e| e["stream"].as_str().unwrap()).collect();
    assert_eq!(streams.len(), 1);
    let revisions: Vec<_> = events.iter().map(|e| e["revision"].as_u64().unwrap()).collect();
    assert_eq!(revisions, [0, 1, 2]);
}

#[test]
fn events_are_shown_with_the_bytes_that_are_stored() {
    let (service, _) = with_devices(1);
    let text = service.client.get("/v1/events").text();
    for fact in service.facts() {
        let stored = String::from_utf8(fact.recorded.data).unwrap();
        assert!(text.contains(&stored), "{stored} is not in {text}");
    }
    let from = service.client.json("/v1/events?from=2&limit=1");
    assert_eq!(from["items"][0]["sequence"], 2);
}

#[test]
fn a_writer_sees_its_own_write() {
    let service = TestService::new();
    let device = service.device("writer");
    for number in 0..20 {
        let challenge = device.ask(&request(&[kid(number)]));
        let answer = service.client.challenge(&challenge, PERSISTENT);
        let position = answer.position().unwrap();
        assert_eq!(position, service.event_count());
        let at = |path: &str| {
            service.client.json(&format!("{path}?min_position={position}"))["position"].clone()
        };
        let path = format!("/v1/devices/{}", device.identity());
        let seen = service.client.json(&format!("{path}/inventory?min_position={position}"));
        assert_eq!(seen["live"], number as u64 + 1);
        for path in [path.as_str(), &format!("{path}/inventory"), &format!("{path}/events")] {
            assert!(at(path).as_str().unwrap().parse::<u64>().unwrap() >= position);
        }
    }
}

#[test]
fn a_position_ahead_of_the_ledger_is_refused_by_name() {
    let (service, devices) = with_devices(1);
    let device = devices[0].identity();
    let ahead = service.event_count() + 1;
    for position in [ahead.to_string(), u64::MAX.to_string(), "soon".to_owned(), "-1".to_owned()] {
        for path in ["/v1/devices".to_owned(), format!("/v1/devices/{device}/inventory")] {
            let answer = service.client.get(&format!("{path}?min_position={position}"));
            assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()));
            assert_eq!(answer.problem()["errors"][0]["field"], "min_position");
        }
    }
}

#[test]
fn parameters_that_are_wrong_or_unknown_are_named() {
    let (service, _) = with_devices(1);
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("cursor=x", "cursor"),
        ("from=x", "from"),
        ("limt=1", "limt"),
    ] {
        let answer = service.client.get(&format!("/v1/events?{query}"));
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{query}");
        assert!(answer.problem()["detail"].as_str().unwrap().contains(named), "{query}");
    }
    // A cursor of one list is none of another.
    let cursor =
        service.client.json("/v1/events?limit=1")["next_cursor"].as_str().unwrap().to_owned();
    let answer = service.client.get(&format!("/v1/devices?cursor={cursor}"));
    assert_eq!(answer.status, 400);
}

#[test]
fn a_cursor_that_nobody_gave_out_fails_nothing() {
    let (service, devices) = with_devices(1);
    let own = format!("/v1/devices/{}/events", devices[0].identity());
    for (path, list) in [
        ("/v1/devices", "devices"),
        ("/v1/events", "events"),
        ("/v1/keys", "keys"),
        (own.as_str(), "device events"),
    ] {
        for after in [0, 1 << 63, u64::MAX] {
            for at in ["", "-1", "1", "18446744073709551616"] {
                let cursor = json!({"list": list, "at": at, "after": after}).to_string();
                let cursor = data_encoding::BASE64URL_NOPAD.encode(cursor.as_bytes());
                let answer = service.client.get(&format!("{path}?cursor={cursor}"));
                assert!([200, 400].contains(&answer.status), "{path}: {}", answer.text());
            }
        }
    }
}

#[test]
fn a_key_opens_what_its_scopes_say_and_nothing_else() {
    let (service, devices) = with_devices(1);
    let device = format!("/v1/devices/{}", devices[0].identity());
    let (inventory, events) = (format!("{device}/inventory"), format!("{device}/events"));
    let reads = [
        ("/v1/devices", Scope::InventoryRead),
        (device.as_str(), Scope::InventoryRead),
        (inventory.as_str(), Scope::InventoryRead),
        ("/v1/events", Scope::EventsRead),
        (events.as_str(), Scope::EventsRead),
    ];
    let question = json!({"device": devices[0].identity(), "key_ids": [kid(1).to_string()]});
    let decide = |client: &Client| client.post_json("/v1/quota/decisions", &question);
    for scope in [Scope::InventoryRead, Scope::EventsRead, Scope::QuotaDecide] {
        let client = service.client_with(&[scope]);
        for (path, needed) in reads {
            let answer = client.get(path);
            if needed == scope {
                assert_eq!(answer.status, 200, "{path} with {scope}");
            } else {
                assert_eq!(answer.status_and_code(), (403, "missing-scope".to_owned()), "{path}");
                assert!(answer.problem()["detail"].as_str().unwrap().contains(&needed.to_string()));
            }
        }
        let decided = decide(&client).status;
        assert_eq!(decided, if scope == Scope::QuotaDecide { 200 } else { 403 });
    }
    for key in ["", "wrong", "llk_0000000000000000_0000000000000000000000000000000000000000"] {
        let stranger = service.client.with_key(key);
        for (path, _) in reads {
            let answer = stranger.get(path);
            assert_eq!(answer.status_and_code(), (401, "unauthenticated".to_owned()));
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        assert_eq!(decide(&stranger).status, 401);
        // Whoever may not read is not told which devices there are.
        assert_eq!(stranger.get("/v1/devices/nobody").status, 401);
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(stranger.get(path).status, 200, "{path}");
        }
    }
}

#[test]
fn an_unknown_device_is_not_found_under_any_name() {
    let (service, devices) = with_devices(1);
    let stranger = service.device("stranger").identity();
    for name in [stranger.as_str(), "aaaaaaaaaaaaaaaaaaaaaaaaaa", "my-phone", "%00", "..", "x y"] {
        let name = name.replace(' ', "%20");
        for path in ["", "/inventory", "/events"] {
            let answer = service.client.get(&format!("/v1/devices/{name}{path}"));
            assert_eq!(answer.status_and_code(), (404, "not-found".to_owned()), "{name}{path}");
        }
    }
    // The reference and the identity name the same device.
    let by_identity = service.client.json(&format!("/v1/devices/{}", devices[0].identity()));
    let reference = by_identity["device"].as_str().unwrap();
    let by_reference = service.client.json(&format!("/v1/devices/{reference}"));
    assert_eq!(by_reference["identities"], by_identity["identities"]);
    assert_eq!(service.client.get("/v1/nothing").status_and_code().0, 404);
}

#[test]
fn a_decision_foretells_what_the_device_then_gets() {
    let service = Setup::default().with("quota.device_limit", 3).start();
    let device = service.device("asked-about");
    let decide = |kids: &[u128]| {
        let key_ids: Vec<_> = kids.iter().map(|number| kid(*number).to_string()).collect();
        let question = json!({"device": device.identity(), "key_ids": key_ids});
        let events = service.event_count();
        let answer = service.client.post_json("/v1/quota/decisions", &question);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(service.event_count(), events, "a dry decision left an event");
        answer.json()
    };
    let unknown = decide(&[1, 2]);
    assert_eq!((&unknown["decision"], &unknown["device_known"]), (&json!("allow"), &json!(false)));
    for (wanted, live_after) in [(&[1, 2][..], 2), (&[3, 4], 2), (&[2, 3], 3), (&[4], 3), (&[1], 3)]
    {
        let decision = decide(wanted);
        let request = request(&wanted.iter().map(|number| kid(*number)).collect::<Vec<_>>());
        let fault = device.acquire(&service.client, &request, PERSISTENT).err();
        let fault = fault.map(|fault| words(&fault));
        let foretold = if fault.is_none() { "allow" } else { "deny" };
        assert_eq!(decision["decision"], foretold, "{wanted:?}: {decision}");
        assert_eq!(decision["limit"], 3);
        assert_eq!(decision["rule"], "device-slots");
        assert_eq!(decision["rules"][0]["decision"], foretold);
        assert_eq!(service.live(&device), live_after);
    }
    let decision = decide(&[9]);
    assert_eq!((&decision["in_use"]["live"], &decision["requested"]), (&json!(3), &json!(1)));
    let inventory = service.inventory(&device);
    let ids = |licenses: &Value| -> BTreeSet<String> {
        let licenses = licenses.as_array().unwrap().iter();
        licenses.map(|license| license["license_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&decision["counted"]), ids(&inventory["licenses"]));
}

#[test]
fn a_denial_says_when_the_next_slot_frees() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("renting");
    let rental = "cfg=(persist:true,enddate:20231115000000)";
    device.acquire(&service.client, &request(&[kid(1)]), rental).unwrap();
    let question = json!({"device": device.identity(), "key_ids": [kid(2).to_string()]});
    let decide = || service.client.post_json("/v1/quota/decisions", &question).json();
    let denied = decide();
    assert_eq!(denied["decision"], "deny");
    assert_eq!(denied["next_free_at"], "2023-11-15T00:00:00.000Z");
    assert_eq!(denied["counted"][0]["counted_until"], "2023-11-15T00:00:00.000Z");
    assert_eq!(denied["as_of"], "2023-11-14T22:13:20.000Z");
    service.advance_s(6_400);
    assert_eq!(decide()["decision"], "allow");
}

#[test]
fn a_question_that_cannot_be_decided_names_its_field() {
    let service = TestService::new();
    let ask = |body: &Value| service.client.post_json("/v1/quota/decisions", body);
    let many: Vec<_> = (0..1_001).map(|number| kid(number).to_string()).collect();
    for (body, named) in [
        (json!({"device": "x", "key_ids": []}), "key_ids"),
        (json!({"device": "x", "key_ids": many}), "key_ids"),
        (json!({"device": "x", "key_ids": [kid(1).to_string(), "nonsense"]}), "key_ids[1]"),
        (json!({"device": "x"}), "key_ids"),
        (json!({"device": "x", "key_ids": [kid(1).to_string()], "acount": 1}), "acount"),
    ] {
        let answer = ask(&body);
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()));
        let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(named), "{named}: {detail}");
    }
}

#[test]
fn registered_keys_are_listed_by_id_in_pages_that_do_not_move() {
    let service = TestService::new();
    let import = |number: u128| service.import(&[(kid(number), [number as u8; 16])]);
    (1..=5).for_each(import);
    let items = walk(&service.client, "/v1/keys", 2, || import(6));
    let ids: Vec<_> = items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (1..=5).map(|number| kid(number).to_string()).collect::<Vec<_>>());
    assert_eq!(walk(&service.client, "/v1/keys", 1_000, || ()).len(), 6);
    let members: BTreeSet<_> = items[0].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["check_value", "id", "key_type", "kind", "registered_at"];
    assert_eq!(members, BTreeSet::from(expected));
    let reader = service.client_with(&[Scope::KeysDeliver]);
    assert_eq!(reader.get("/v1/keys").status_and_code(), (403, "missing-scope".to_owned()));
    let writer = service.client_with(&[Scope::KeysWrite]);
    assert_eq!(writer.get("/v1/keys").status, 200);
}
