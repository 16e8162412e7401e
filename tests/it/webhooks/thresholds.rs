//! When a device comes near its limit.

use super::*;

fn thresholds(asked: &[Asked]) -> Vec<(u64, u64)> {
    let data = asked.iter().map(|asked| asked.json()["data"].clone());
    data.map(|data| (data["threshold_percent"].as_u64().unwrap(), data["live"].as_u64().unwrap()))
        .collect()
}

#[test]
fn each_share_of_the_limit_is_told_once_each_time_it_is_reached() {
    let server = taker();
    let telling = Telling::with(
        &[endpoint("e", &server.url, json!({"types": ["quota.threshold"]}))],
        Setup::default()
            .with("quota.device_limit", 4)
            .with("webhooks.thresholds_percent", "[50, 100]"),
    );
    let sessions: Vec<_> = (1..=4).map(|number| telling.acquire(number).1).collect();
    // Takes no new slot.
    telling.acquire(4);
    telling.caught_up("e");
    assert_eq!(thresholds(&server.asked()), [(50, 2), (100, 4)]);
    let delete = |number: usize| {
        let kids = [kid(number as u128)];
        telling.device.delete(&telling.service.client, sessions[number - 1], &kids).unwrap();
    };
    (1..=3).for_each(delete);
    telling.acquire(5);
    telling.caught_up("e");
    let told = server.asked();
    assert_eq!(thresholds(&told), [(50, 2), (100, 4), (50, 2)]);

    let facts = telling.service.facts();
    let held = telling.service.inventory(&telling.device);
    for asked in &told {
        let data = &asked.json()["data"];
        let fact = &facts[usize::try_from(data["sequence"].as_u64().unwrap()).unwrap()];
        assert_eq!(fact.event.kind(), "license-acquired.v1");
        assert_eq!(data["event_id"], fact.recorded.id.to_string());
        assert_ne!(asked.header("webhook-id"), fact.recorded.id.to_string());
        assert_eq!((&data["rule"], &data["limit"]), (&json!("device-slots"), &json!(4)));
        assert_eq!((&data["scope"], &data["device"]), (&json!("device"), &held["device"]));
    }
    let mut ids = ids(&told);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn limits_of_accounts_titles_and_windows_are_told_with_what_they_count() {
    let server = taker();
    let telling = Telling::with(
        &[endpoint("e", &server.url, json!({"types": ["quota.threshold"]}))],
        Setup::default().with("webhooks.thresholds_percent", "[100]"),
    );
    let rule = |id: &str, scope: &str, counts: Value, limit: u32| json!({"id": id, "scope": scope, "counts": counts, "limit": limit, "on_exceed": "deny"});
    let rules = [
        rule("account-slots", "account", json!("live_slots"), 3),
        rule("copies", "account_title", json!("live_slots"), 2),
        rule("churn", "device", json!({"issued_within_seconds": 3600}), 4),
        rule("new-devices", "account", json!({"devices_added_within_seconds": 3600}), 2),
    ];
    let policy = json!({"rules": rules, "licenses_per_slot": 16, "releasing_grades": ["A"]});
    let client = &telling.service.client;
    let body = json!({"policy": policy, "reason": "a test"});
    let published = client.put_json("/v1/quota/policy", Some("*"), &body);
    assert_eq!(published.status, 200, "{}", published.text());
    let report = |device: &str, number: u128, account: Option<&str>, title: &str| {
        let license = json!({"key_id": kid(number).to_string(), "title": title,
            "license_reference": format!("wv-{number}"), "persistent": true});
        let mut body = json!({"device": device, "drm_system": "widevine", "licenses": [license]});
        if let Some(account) = account {
            body["account"] = json!(account);
        }
        let recorded = client.command("/v1/acquisitions", &fresh_key(), &body);
        assert_eq!(recorded.status, 200, "{}", recorded.text());
        recorded.json()
    };
    report("tv", 1, Some("family"), "film");
    // The second copy of the title, and the second device: of what is reached at once, one is told.
    report("phone", 2, Some("family"), "film");
    report("phone", 3, Some("family"), "series");
    // No account pays for these; the fourth within an hour reaches what the device may be issued.
    report("phone", 4, None, "series");
    let last = report("phone", 5, None, "series");
    // Neither may be issued more once the hour has passed: then the window is reached anew.
    telling.service.advance_s(3601);
    for number in 6..=9 {
        report("phone", number, None, "series");
    }
    telling.caught_up("e");
    let told = server.asked();
    let told: Vec<_> = told.iter().map(|asked| asked.json()["data"].clone()).collect();
    let rules: Vec<_> = told.iter().map(|data| data["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["copies", "account-slots", "churn", "churn"]);
    let [copies, slots, churn, again] = told.as_slice() else { unreachable!() };
    let shown = |data: &Value| {
        ["scope", "limit", "live", "title", "window_seconds"].map(|name| data[name].clone())
    };
    let none = Value::Null;
    assert_eq!(
        shown(copies),
        [json!("account_title"), json!(2), json!(2), json!("film"), none.clone()]
    );
    assert_eq!(shown(slots), [json!("account"), json!(3), json!(3), none.clone(), none.clone()]);
    for data in [churn, again] {
        assert_eq!(shown(data), [json!("device"), json!(4), json!(4), none.clone(), json!(3600)]);
        assert_eq!(data["device"], last["device"]);
    }
    assert!(slots["account"].is_string() && slots["account"] == copies["account"], "{slots}");
}

#[test]
fn slots_that_expired_are_reached_again() {
    let server = taker();
    let telling = Telling::with(
        &[endpoint("e", &server.url, json!({"types": ["quota.threshold"]}))],
        Setup::default().with("quota.device_limit", 1),
    );
    // Until 2023-12-01.
    let short = "cfg=(persist:true,enddate:20231201)";
    let (client, device) = (&telling.service.client, &telling.device);
    device.acquire(client, &request(&[kid(1)]), short).unwrap();
    telling.service.advance_s(40 * 24 * 3600);
    telling.acquire(2);
    telling.caught_up("e");
    assert_eq!(thresholds(&server.asked()), [(80, 1), (100, 1), (80, 1), (100, 1)]);
}

#[test]
fn shares_are_counted_on_across_a_restart() {
    let server = taker();
    let mut telling = Telling::with(
        &[endpoint("e", &server.url, json!({"types": ["quota.threshold"]}))],
        Setup::default().with("quota.device_limit", 2),
    );
    telling.acquire(1);
    telling.service.restart();
    telling.acquire(2);
    telling.caught_up("e");
    assert_eq!(thresholds(&server.asked()), [(80, 2), (100, 2)]);
}

#[test]
fn what_another_version_counted_is_counted_again_and_nothing_is_told_twice() {
    let server = taker();
    let mut telling = Telling::with(
        &[endpoint("e", &server.url, json!({}))],
        Setup::default().with("quota.device_limit", 2),
    );
    telling.acquire(1);
    telling.acquire(2);
    telling.caught_up("e");
    let told = server.asked().len();
    telling.service.restart_after(|data| {
        let file = rusqlite::Connection::open(data.join("webhooks.db")).unwrap();
        let changed = file.execute("UPDATE checkpoint SET fold_version = fold_version - 1", []);
        assert_eq!(changed, Ok(1));
    });
    telling.caught_up("e");
    assert_eq!(server.asked().len(), told);
    let end = telling.service.event_count().to_string();
    assert_eq!(telling.post("e/replay", json!({"from": "0", "to": end})).status, 202);
    eventually("all is told again", || telling.state("e")["replays"] == json!([]));
    let (first, again) = (ids(&server.asked()[..told]), ids(&server.asked()[told..]));
    assert_eq!((first.len(), &first), (4, &again));
}
