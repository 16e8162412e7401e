//! Quota policies and limits for one device or account, as operators change them.

use license_ledger::access::Scope;
use license_ledger::domain::Event;
use serde_json::{Value, json};

use crate::authorize::{Issuer, TokenService, claims, reason, with_token};
use crate::client::{Answer, fresh_key};
use crate::device::{Device, PERSISTENT, kid, request};
use crate::service::{Setup, TestService};

const POLICY: &str = "/v1/quota/policy";

fn rule(id: &str, scope: &str, limit: u32) -> Value {
    json!({"id": id, "scope": scope, "counts": "live_slots", "limit": limit, "on_exceed": "deny"})
}

fn policy(rules: &[Value]) -> Value {
    json!({"rules": rules, "licenses_per_slot": 16, "releasing_grades": ["A", "B", "C"]})
}

fn publish(service: &TestService, etag: Option<&str>, policy: &Value) -> Answer {
    let body = json!({"policy": policy, "reason": "a test"});
    service.client.put_json(POLICY, etag, &body)
}

/// Publishes whatever is in force.
fn set(service: &TestService, policy: &Value) -> Value {
    let answer = publish(service, Some("*"), policy);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn store(service: &TestService, device: &Device, number: u128) -> bool {
    device.acquire(&service.client, &request(&[kid(number)]), PERSISTENT).is_ok()
}

fn device_path(service: &TestService, device: &Device) -> String {
    let path = format!("/v1/devices/{}", device.identity());
    service.client.json(&format!("{path}?min_position={}", service.event_count()));
    path
}

#[test]
fn a_policy_is_published_in_place_of_the_version_that_it_was_made_from() {
    let service = TestService::new();
    let first = service.client.get(POLICY);
    assert_eq!((first.status, first.header("etag")), (200, Some("\"0\"")));
    let in_force = first.json();
    assert_eq!((&in_force["version"], &in_force["actor"]), (&json!(0), &json!("configuration")));
    let mut lower = in_force["policy"].clone();
    lower["rules"][0]["limit"] = json!(3);
    let events = service.event_count();
    for (etag, refused) in [
        (None, (428, "precondition-required".to_owned())),
        (Some("\"1\""), (412, "precondition-failed".to_owned())),
        (Some("W/\"0\""), (400, "invalid-request".to_owned())),
        (Some("0"), (400, "invalid-request".to_owned())),
    ] {
        assert_eq!(publish(&service, etag, &lower).status_and_code(), refused, "{etag:?}");
    }
    assert_eq!(service.event_count(), events, "a refused policy left an event");
    let answer = publish(&service, Some("\"0\""), &lower);
    assert_eq!((answer.status, answer.header("etag")), (200, Some("\"1\"")), "{}", answer.text());
    assert_eq!(answer.position(), Some(service.event_count()));
    assert_eq!(answer.json()["published"]["policy"], lower);
    // The clock stands still: two versions in one millisecond are two all the same.
    assert_eq!(publish(&service, Some("\"1\""), &in_force["policy"]).status, 200);
    assert_eq!(
        publish(&service, Some("\"1\""), &lower).status,
        412,
        "a version was replaced twice"
    );
    let page = service.client.json(&format!("{POLICY}/versions?limit=2"));
    let next = page["next_cursor"].as_str().unwrap();
    let rest = service.client.json(&format!("{POLICY}/versions?limit=2&cursor={next}"));
    let versions =
        [page["items"].as_array().unwrap().clone(), rest["items"].as_array().unwrap().clone()];
    let versions = versions.concat();
    let limits: Vec<_> =
        versions.iter().map(|v| v["policy"]["rules"][0]["limit"].clone()).collect();
    assert_eq!(limits, [25, 3, 25]);
    assert_eq!(versions[1]["reason"], "a test");
    assert_eq!(service.client.json(&format!("{POLICY}/versions/1")), versions[1]);
    assert_eq!(service.client.get(&format!("{POLICY}/versions/3")).status, 404);
    let actors = service.facts().into_iter().filter_map(|fact| match fact.event {
        Event::QuotaPolicyPublished(e) => Some((e.actor, e.at_ms)),
        _ => None,
    });
    let actors: Vec<_> = actors.collect();
    assert_eq!(actors[1].0.len(), 16, "the public part of an API key");
    assert!(actors.windows(2).all(|pair| pair[0].1 < pair[1].1), "{actors:?}");
}

#[test]
fn a_policy_that_cannot_be_meant_is_refused_by_name() {
    let service = TestService::new();
    let events = service.event_count();
    let slots = |id: &str| rule(id, "device", 1);
    let window = json!({"id": "hourly", "scope": "device", "counts": {"issued_within_seconds": 0},
        "limit": 1, "on_exceed": "deny"});
    for (wrong, member) in [
        (policy(&[slots("Upper")]), "policy.rules.Upper"),
        (policy(&[slots("a"), rule("a", "account", 1)]), "policy.rules.a"),
        (policy(&[slots("a"), slots("b")]), "policy.rules.b"),
        (policy(&[slots("default")]), "policy.rules.default"),
        (policy(&[window]), "policy.rules.hourly"),
        (
            json!({"rules": [], "licenses_per_slot": 0, "releasing_grades": []}),
            "policy.licenses_per_slot",
        ),
        (
            json!({"rules": [], "licenses_per_slot": 1, "releasing_grades": ["A", "C"]}),
            "policy.releasing_grades",
        ),
    ] {
        let answer = publish(&service, Some("*"), &wrong);
        assert_eq!(answer.status_and_code(), (422, "policy-invalid".to_owned()), "{wrong}");
        assert_eq!(answer.problem()["errors"][0]["field"], member);
    }
    let whole = policy(&[slots("a"), rule("b", "account", 1)]);
    for (pointer, value, member) in [
        ("/rules/1/limit", json!(-1), "policy.rules[1].limit"),
        ("/rules/1/limit", json!("many"), "policy.rules[1].limit"),
        ("/rules/1/scope", json!("family"), "policy.rules[1].scope"),
        (
            "/rules/0/counts",
            json!({"issued_within_seconds": 0.5}),
            "policy.rules[0].counts.issued_within_seconds",
        ),
        ("/rules/0", json!({"id": "a"}), "policy.rules[0]"),
        ("/licenses_per_slot", json!(null), "policy.licenses_per_slot"),
        ("/releasing_grades", json!(["A", "F"]), "policy.releasing_grades[1]"),
    ] {
        let mut wrong = whole.clone();
        *wrong.pointer_mut(pointer).unwrap() = value;
        let answer = publish(&service, Some("*"), &wrong);
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{wrong}");
        assert_eq!(answer.problem()["errors"][0]["field"], member, "{}", answer.text());
    }
    for body in [
        json!({"policy": policy(&[]), "reason": ""}),
        json!({"policy": policy(&[]), "reason": "two\nlines"}),
        json!({"policy": policy(&[]), "reason": "x".repeat(201)}),
        json!({"policy": policy(&[])}),
        json!({"policy": {"rules": [], "licenses_per_slot": 1, "releasing_grades": [], "x": 1},
            "reason": "r"}),
    ] {
        let answer = service.client.put_json(POLICY, Some("*"), &body);
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{body}");
    }
    assert_eq!(service.event_count(), events);
}

#[test]
fn a_lower_limit_ends_nothing_says_who_is_over_and_refuses_new_slots() {
    let service = TestService::new();
    let (full, fair) = (service.device("full"), service.device("fair"));
    assert!((1..=3).all(|number| store(&service, &full, number)));
    assert!(store(&service, &fair, 1));
    let path = device_path(&service, &full);
    let reference = service.client.json(&path)["device"].clone();
    let lower = policy(&[rule("device-slots", "device", 2)]);
    let dry = json!({"policy": lower, "reason": "what if"});
    let events = service.event_count();
    let dry = service.client.put_json(&format!("{POLICY}?dry_run=true"), None, &dry);
    assert_eq!((dry.status, service.event_count()), (200, events), "{}", dry.text());
    assert_eq!(dry.json()["published"], Value::Null);
    let over = dry.json()["over"].clone();
    assert_eq!((&over[0]["rule"], &over[0]["total"]), (&json!("device-slots"), &json!(1)));
    assert_eq!(over[0]["complete"], true);
    assert_eq!(over[0]["first"][0]["device"], reference);
    assert_eq!(over[0]["first"][0]["over"], 1);
    assert_eq!(service.client.json("/v1/quota/over")["items"], json!([]));
    assert_eq!(set(&service, &lower)["over"], over);
    assert_eq!(service.client.json("/v1/quota/over")["items"], over[0]["first"]);
    assert_eq!(service.live(&full), 3, "a policy ended a license");
    assert!(!store(&service, &full, 4));
    assert!(store(&service, &full, 3), "what is held may be had again");
    assert!(store(&service, &fair, 2) && !store(&service, &fair, 3));
    assert_eq!(set(&service, &policy(&[rule("device-slots", "device", 4)]))["over"], json!([]));
    assert!(store(&service, &full, 4));
}

#[test]
fn those_over_a_limit_are_listed_once_in_pages_however_many_there_are() {
    let service = TestService::new();
    let devices: Vec<_> = (0..5).map(|n| service.device(&format!("device-{n}"))).collect();
    for device in &devices {
        assert!(store(&service, device, 1) && store(&service, device, 2));
    }
    device_path(&service, &devices[4]);
    let over = set(&service, &policy(&[rule("none", "device", 0), rule("all", "account", 0)]));
    assert_eq!(over["over"][0]["total"], 5);
    let mut seen = Vec::new();
    let mut page = service.client.json("/v1/quota/over?limit=2&rule=none");
    loop {
        seen.extend(page["items"].as_array().unwrap().iter().map(|i| i["device"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        page = service.client.json(&format!("/v1/quota/over?limit=2&rule=none&cursor={cursor}"));
    }
    let all = service.client.json("/v1/devices")["items"].clone();
    let mut expected: Vec<_> =
        all.as_array().unwrap().iter().map(|device| device["device"].clone()).collect();
    expected.sort_by_key(|device| device.as_str().unwrap().to_owned());
    assert_eq!(seen, expected);
    // Of another policy a cursor says nothing.
    let page = service.client.json("/v1/quota/over?limit=2");
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    set(&service, &policy(&[rule("none", "device", 1)]));
    let answer = service.client.get(&format!("/v1/quota/over?limit=2&cursor={cursor}"));
    assert_eq!(answer.problem()["errors"][0]["field"], "cursor");
}

#[test]
fn who_is_over_a_limit_by_reservations_is_listed_while_they_last() {
    let service = TestService::new();
    let hold = |device: &str, account: &str, kids: &[u128]| {
        let licenses = kids.iter().map(|n| json!({"key_id": kid(*n), "title": "film"}));
        let licenses: Vec<_> = licenses.collect();
        let body = json!({"device": device, "account": account, "licenses": licenses,
            "commit": true, "hold_seconds": 60});
        let made = service.client.command("/v1/quota/decisions", &fresh_key(), &body).json();
        assert_eq!(made["decision"], "allow", "{made}");
        made["device"].clone()
    };
    let stored = service.device("stored");
    assert!(store(&service, &stored, 1));
    let both = hold(&stored.identity(), "family", &[2]);
    let only = hold("tv", "office", &[3, 4]);
    hold("radio", "family", &[5]);
    let rules = [
        rule("slots", "device", 1),
        rule("family-slots", "account", 1),
        rule("copies", "account_title", 1),
    ];
    service.client.json(&format!("/v1/devices?min_position={}", service.event_count()));
    set(&service, &policy(&rules));
    let over = |rule: &str, member: &str| {
        let found = service.client.json(&format!("/v1/quota/over?rule={rule}"))["items"].clone();
        let found = found.as_array().unwrap().iter().map(|item| item[member].clone());
        found.collect::<Vec<_>>()
    };
    let mut devices = vec![both, only];
    devices.sort_by_key(|device| device.as_str().unwrap().to_owned());
    assert_eq!(over("slots", "device"), devices);
    assert_eq!(over("family-slots", "account").len(), 2);
    assert_eq!(over("copies", "title"), ["film", "film"]);
    service.advance_s(60);
    for rule in ["slots", "family-slots", "copies"] {
        assert_eq!(over(rule, "rule"), Vec::<Value>::new(), "{rule}");
    }
}

#[test]
fn who_may_publish_a_policy_may_read_it() {
    let service = TestService::new();
    let publisher = service.client_with(&[Scope::PolicyWrite]);
    let path = format!("{POLICY}/versions/0");
    let limits = "/v1/accounts/family/overrides";
    for path in [POLICY, &format!("{POLICY}/versions"), &path, limits] {
        assert_eq!(publisher.get(path).status, 200, "{path}");
        let other = service.client_with(&[Scope::QuotaDecide]).get(path);
        assert_eq!(other.status_and_code(), (403, "missing-scope".to_owned()), "{path}");
        let detail = other.problem()["detail"].as_str().unwrap().to_owned();
        assert!(detail.ends_with("inventory:read or policy:write"), "{detail}");
    }
    assert_eq!(publisher.get("/v1/devices").status, 403);
}

#[test]
fn a_limit_of_its_own_holds_for_one_device_until_it_ends_or_is_taken_back() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let (family, other) = (service.device("family"), service.device("other"));
    assert!(store(&service, &family, 1) && store(&service, &other, 1));
    let path = format!("{}/overrides", device_path(&service, &family));
    let own = format!("{path}/device-slots");
    let body = json!({"limit": 2, "until": "2023-11-15T00:00:00Z", "reason": "a large family"});
    let answer = service.client.put_command(&own, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let position = answer.position().unwrap();
    assert_eq!(answer.json()["until"], "2023-11-15T00:00:00.000Z");
    // The same again is as it is.
    let again = service.client.put_command(&own, &body);
    assert_eq!((again.status, &again.body), (200, &answer.body));
    assert_eq!(service.kinds_from(position), ["request-answered.v1"]);
    let shown = service.client.json(&format!("{path}?min_position={position}"));
    assert_eq!(shown["items"][0]["limit"], 2);
    assert_eq!(shown["items"][0]["reason"], "a large family");
    assert!(store(&service, &family, 2) && !store(&service, &family, 3));
    assert!(!store(&service, &other, 2), "it holds for another device");
    service.advance_s(6_400);
    assert_eq!(service.client.json(&path)["items"], json!([]));
    assert!(!store(&service, &family, 4));
    // Its second life ends when somebody says so.
    let forever = json!({"limit": 3, "reason": "again"});
    let position = service.client.put_command(&own, &forever).position().unwrap();
    assert!(store(&service, &family, 3));
    let back = service.client.delete_command(&format!("{own}?reason=enough"));
    assert_eq!((back.status, back.position().is_some_and(|at| at > position)), (204, true));
    let events = service.event_count();
    let back = service.client.delete_command(&format!("{own}?reason=enough"));
    assert_eq!(
        (back.status, service.kinds_from(events)),
        (204, vec!["request-answered.v1".to_owned()])
    );
    assert!(!store(&service, &family, 4));
    assert_eq!(service.client.delete_command(&own).status, 400, "without a reason");
}

#[test]
fn a_policy_of_which_there_is_much_to_say_is_published_in_time() {
    let service = Setup::default().with("limits.request_timeout_ms", 3_000).start();
    for device in 0..100 {
        let report = json!({"device": format!("tv-{device}"), "drm_system": "widevine", "licenses": [
            {"key_id": kid(1), "license_reference": "wv-1", "persistent": true}]});
        let answer = service.client.command("/v1/acquisitions", &fresh_key(), &report);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let position = service.event_count();
    service.client.json(&format!("/v1/devices?min_position={position}"));
    // All devices are beyond each of these, and each is looked at for each.
    let window = |seconds: u32| {
        json!({"id": format!("within-{seconds}"), "scope": "device", "limit": 0,
            "counts": {"issued_within_seconds": seconds}, "on_exceed": "deny"})
    };
    let rules: Vec<_> = (3_600..3_850).map(window).collect();
    let published = set(&service, &policy(&rules));
    assert_eq!(published["published"]["version"], 1);
    let over = published["over"].as_array().unwrap();
    let complete = over.iter().filter(|rule| rule["complete"] == true);
    assert!(complete.count() < over.len(), "there was time for all {} rules", over.len());
    let page = service.client.json("/v1/quota/over?limit=5&rule=within-3849");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(5));
}

#[test]
fn a_limit_that_cannot_hold_is_refused_by_name() {
    let service = TestService::new();
    let device = service.device("phone");
    assert!(store(&service, &device, 1));
    let path = format!("{}/overrides", device_path(&service, &device));
    let hourly = json!({"id": "hourly", "scope": "device",
        "counts": {"issued_within_seconds": 3600}, "limit": 10, "on_exceed": "deny"});
    set(&service, &policy(&[rule("slots", "device", 5), rule("all", "account", 5), hourly]));
    let events = service.event_count();
    let put =
        |rule: &str, body: Value| service.client.put_command(&format!("{path}/{rule}"), &body);
    let body = json!({"limit": 9, "reason": "r"});
    for (rule, body, field) in [
        ("nothing", body.clone(), "rule"),
        ("all", body.clone(), "rule"),
        ("slots", json!({"limit": 9, "until": "2023-11-14T22:13:20Z", "reason": "r"}), "until"),
        ("slots", json!({"limit": 9, "until": "soon", "reason": "r"}), "until"),
        ("hourly", json!({"limit": 256, "reason": "r"}), "limit"),
    ] {
        let answer = put(rule, body);
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{rule}");
        assert_eq!(answer.problem()["errors"][0]["field"], field, "{rule}");
    }
    for body in [json!({"reason": "r"}), json!({"limit": -1, "reason": "r"}), json!({"limit": 9})] {
        assert_eq!(put("slots", body).status, 400);
    }
    let stranger = service.client.put_command("/v1/devices/stranger/overrides/slots", &body);
    assert_eq!(stranger.status_and_code(), (404, "not-found".to_owned()));
    assert_eq!(service.event_count(), events);
    assert_eq!(put("hourly", json!({"limit": 255, "reason": "r"})).status, 200);
    let reader = service.client_with(&[Scope::InventoryRead]);
    let answer = reader.put_command(&format!("{path}/slots"), &body);
    assert_eq!(answer.status_and_code(), (403, "missing-scope".to_owned()));
}

#[test]
fn a_limit_for_an_account_holds_on_all_its_devices_from_before_it_is_seen() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    set(service, &policy(&[rule("account-slots", "account", 1)]));
    let own = "/v1/accounts/alice/overrides/account-slots";
    let body = json!({"limit": 2, "reason": "two homes"});
    assert_eq!(service.client.put_command(own, &body).status, 200);
    let store = |device: &Device, account: &str, number: u128| {
        let license = json!({"account": account, "policy": {"sl": 150, "persist": true},
            "keys": [{"kid": kid(number)}]});
        let jti = service.event_count().to_string();
        let asked = with_token(&[kid(number)], &issuer.token(&claims(&jti, license)));
        device.acquire(&service.client, &asked, "").map(drop).map_err(|fault| reason(&fault))
    };
    let (home, away) = (service.device("home"), service.device("away"));
    let full = Err("persistent_license_limit".to_owned());
    assert_eq!(store(&home, "alice", 1), Ok(()));
    assert_eq!(store(&away, "alice", 1), Ok(()));
    assert_eq!(store(&away, "alice", 2), full);
    assert_eq!(store(&away, "bob", 2), Ok(()));
    assert_eq!(store(&away, "bob", 3), full);
    let position = service.event_count();
    let shown = format!("/v1/accounts/alice/overrides?min_position={position}");
    assert_eq!(service.client.json(&shown)["items"][0]["limit"], 2);
    // Who took back a limit that was made use of is over the rule's own.
    assert_eq!(service.client.delete_command(&format!("{own}?reason=moved")).status, 204);
    let position = service.event_count();
    let over = service.client.json(&format!("/v1/quota/over?min_position={position}"));
    assert_eq!(over["items"].as_array().unwrap().len(), 1);
    assert_eq!((&over["items"][0]["over"], &over["items"][0]["limit"]), (&json!(1), &json!(1)));
}

#[test]
fn the_published_schema_takes_what_the_service_takes_and_refuses_other_shapes() {
    let service = TestService::new();
    let answer = service.client.with_key("").get(&format!("{POLICY}/schema"));
    assert_eq!(answer.header("content-type"), Some("application/schema+json"));
    let schema = jsonschema::draft202012::new(&answer.json()).unwrap();
    let whole = json!({
        "rules": [
            rule("slots", "device", 25),
            {"id": "monthly", "scope": "account", "counts": {"issued_within_seconds": 2_592_000},
                "limit": 100, "on_exceed": {"allow_overage": 2},
                "when": {"min_security_level": 2000, "content_groups": ["movies"],
                    "device_classes": ["tv"]}},
            {"id": "new-devices", "scope": "account",
                "counts": {"devices_added_within_seconds": 86_400}, "limit": 3, "on_exceed": "deny"},
            rule("copies", "account_title", 2),
        ],
        "licenses_per_slot": 4,
        "releasing_grades": ["A", "B"],
        "voiding": {"min_security_level": 3000, "store_failed": true,
            "unconfirmed_after_seconds": null},
        "default": "deny",
        "device_classes": {"tv": ["Acme TV"]},
    });
    let dry = |policy: &Value| {
        let body = json!({"policy": policy, "reason": "r"});
        service.client.put_json(&format!("{POLICY}?dry_run=true"), None, &body).status
    };
    for good in [&whole, &policy(&[]), &service.client.json(POLICY)["policy"]] {
        assert_eq!((dry(good), schema.is_valid(good)), (200, true), "{good}");
    }
    let wrong = |pointer: &str, value: Value| {
        let mut policy = whole.clone();
        *policy.pointer_mut(pointer).unwrap() = value;
        policy
    };
    for bad in [
        wrong("", json!({"rules": []})),
        wrong("/rules/0", json!({"id": "slots"})),
        wrong("/rules/0/scope", json!("family")),
        wrong("/rules/0/counts", json!("everything")),
        wrong("/rules/0/limit", json!(-1)),
        wrong("/rules/1/on_exceed", json!({"allow_overage": "much"})),
        wrong("/rules/1/when", json!({"min_level": 1})),
        wrong("/rules/0/id", json!("Upper Case")),
        wrong("/releasing_grades/0", json!("F")),
        wrong("/licenses_per_slot", json!(0)),
        wrong("/default", json!("maybe")),
        wrong("/voiding/store_failed", json!(1)),
    ] {
        assert!([400, 422].contains(&dry(&bad)), "{bad}");
        assert!(!schema.is_valid(&bad), "{bad}");
    }
}

#[test]
fn a_limit_is_set_for_a_device_that_is_known_by_what_others_say_of_it() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let report = json!({"device": "tv", "drm_system": "widevine", "licenses": [
        {"key_id": kid(1), "license_reference": "wv-1", "persistent": true}]});
    assert_eq!(service.client.command("/v1/acquisitions", "1", &report).status, 200);
    let hold = |device: &str, number: u128| {
        let body = json!({"device": device, "key_ids": [kid(number)], "commit": true});
        service.client.command("/v1/quota/decisions", &fresh_key(), &body).json()["decision"]
            .clone()
    };
    assert_eq!((hold("tv", 2), hold("radio", 1)), (json!("deny"), json!("allow")));
    for device in ["tv", "radio"] {
        let body = json!({"limit": 2, "reason": "a large family"});
        let path = format!("/v1/devices/{device}/overrides/device-slots");
        let set = service.client.put_command(&path, &body);
        assert_eq!(set.status, 200, "{}", set.text());
        assert_eq!((hold(device, 2), hold(device, 3)), (json!("allow"), json!("deny")));
    }
}

#[test]
fn a_device_that_goes_on_is_over_a_window_by_what_the_other_gave_back() {
    let service = TestService::new();
    let hourly = json!({"id": "hourly", "scope": "device",
        "counts": {"issued_within_seconds": 3600}, "limit": 4, "on_exceed": "deny"});
    set(&service, &policy(std::slice::from_ref(&hourly)));
    let (old, new) = (service.device("old"), service.device("new"));
    for number in 1..=2 {
        let asked = request(&[kid(number)]);
        old.acquire(&service.client, &asked, PERSISTENT).unwrap();
        old.delete(&service.client, asked.nonce, &[kid(number)]).unwrap();
        assert!(store(&service, &new, number));
    }
    let merge = json!({"into": new.identity(), "reason": "one phone"});
    let path = format!("/v1/devices/{}/merge", old.identity());
    assert_eq!(service.client.command(&path, "merge", &merge).status, 200);
    let over = |limit: u32| {
        let mut hourly = hourly.clone();
        hourly["limit"] = json!(limit);
        set(&service, &policy(&[hourly]));
        let position = service.event_count();
        service.client.json(&format!("/v1/quota/over?min_position={position}"))["items"].clone()
    };
    assert_eq!(over(4), json!([]));
    let items = over(3);
    assert_eq!(items.as_array().map(Vec::len), Some(1), "{items}");
    let shown = service.client.json(&device_path(&service, &new));
    assert_eq!(items[0]["device"], shown["device"]);
    assert_eq!(items[0]["over"], 1);
    service.advance_s(3601);
    assert_eq!(over(2), json!([]));
}
