//! `policy` and `explain`: with and without a running service.

use license_ledger::playready::policy::SecurityLevel;
use serde_json::Value;

use super::Place;
use crate::device::{PERSISTENT, kid, request};
use crate::service::make_device;

/// Shows the policy in force, with this limit in place of its first rule's.
fn with_limit(place: &Place, limit: u32) -> String {
    let mut policy = place.run(&["policy", "show"], &[]).ok().json();
    policy["rules"][0]["limit"] = limit.into();
    place.file("policy.json", &policy.to_string())
}

fn limits(place: &Place) -> Vec<u64> {
    let ran = place.run(&["policy", "versions", "--json"], &[]).ok();
    let versions = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    versions.map(|version| version["policy"]["rules"][0]["limit"].as_u64().unwrap()).collect()
}

#[test]
fn a_policy_is_shown_changed_and_published_with_and_without_a_running_service() {
    let (place, _) = Place::served();
    let set = |limit: u32, more: &[&str]| {
        let file = with_limit(&place, limit);
        place.run(&["policy", "set"], &[&[file.as_str(), "--reason", "a test"], more].concat())
    };
    assert_eq!(
        set(2, &["--after", "0"]).ok().stdout,
        "version 1 of the quota policy is in force\n"
    );
    set(3, &["--after", "0"]).failed(1, &["version 1"]);
    let service = place.serve();
    let device = make_device(&service.pki, "tv", SecurityLevel::Software);
    let store = |number: u128| {
        device.acquire(&service.client(""), &request(&[kid(number)]), PERSISTENT).is_ok()
    };
    assert_eq!([1, 2, 3].map(store), [true, true, false]);
    set(3, &[]).ok();
    assert!(store(3), "the serving process did not notice the policy");
    assert_eq!(limits(&place), [25, 2, 3]);
    let table = place.run(&["policy", "versions"], &[]).ok();
    assert!(table.stdout.contains("configuration") && table.stdout.contains("cli"), "{table:?}");
    let file = with_limit(&place, 4);
    place.run(&["policy", "set"], &[&file, "--reason", ""]).failed(2, &["reason"]);
    let wrong = place.file("wrong.json", r#"{"rules": [], "limit": 1}"#);
    place.run(&["policy", "set"], &[&wrong, "--reason", "r"]).failed(2, &["wrong.json", "limit"]);
    let wrong = r#"{"rules": [{"id": "r", "scope": "device", "counts": "live_slots", "limit": -1,
        "on_exceed": "deny"}], "licenses_per_slot": 1, "releasing_grades": []}"#;
    let wrong = place.file("negative.json", wrong);
    let set = place.run(&["policy", "set"], &[&wrong, "--reason", "r"]);
    set.failed(2, &["negative.json", "rules[0].limit"]);
    let double = r#"{"rules": [], "licenses_per_slot": 0, "releasing_grades": []}"#;
    let double = place.file("double.json", double);
    place.run(&["policy", "set"], &[&double, "--reason", "r"]).failed(2, &["licenses_per_slot"]);
    service.stop();
    assert_eq!(limits(&place), [25, 2, 3]);
}

#[test]
fn an_explanation_says_yes_or_no_and_why_with_and_without_a_running_service() {
    let place = Place::new();
    let service = place.serve();
    let device = make_device(&service.pki, "tv", SecurityLevel::Software);
    let asked = request(&[kid(1), kid(2)]);
    device.acquire(&service.client(""), &asked, PERSISTENT).unwrap();
    let file = with_limit(&place, 2);
    place.run(&["policy", "set"], &[&file, "--reason", "a test"]).ok();
    let identity = device.identity();
    let explain = |number: u128, more: &[&str]| {
        let kid = kid(number).to_string();
        let words = [&[identity.as_str(), kid.as_str()], more].concat();
        place.run(&["explain"], &words)
    };
    let check = || {
        let allowed = explain(1, &[]).ok();
        assert!(allowed.stdout.starts_with("allow for device "), "{allowed:?}");
        let denied = explain(3, &[]);
        assert_eq!((denied.code, denied.stderr.as_str()), (1, ""), "{denied:?}");
        for part in [
            "deny for device ",
            "policy     version 1, ",
            "rule       device-slots, limit 2\n",
            "in use     2 (confirmed 0, possible 2), and 1 more asked for\n",
            "next free  not by itself\n",
            "delete one of the licenses counted",
            &kid(1).to_string(),
            &kid(2).to_string(),
        ] {
            assert!(denied.stdout.contains(part), "{part:?} is not in {denied:?}");
        }
        let json = explain(3, &["--json", "--account", "alice", "--title", "film"]);
        assert_eq!((json.code, &json.json()["decision"]), (1, &Value::from("deny")));
        assert_eq!(json.json()["account"].as_str().unwrap().len(), 26);
        let unknown = place.run(&["explain"], &["a-phone", &kid(3).to_string()]).ok();
        assert!(unknown.stdout.contains("the ledger does not know"), "{unknown:?}");
    };
    check();
    service.stop();
    check();
    let nonsense = place.run(&["explain"], &[&identity, "nonsense"]);
    assert_eq!(nonsense.code, 2, "{nonsense:?}");
}
