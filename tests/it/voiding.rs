//! Voiding: licenses that end because a device did not store them, where the policy says so.

use std::path::Path;
use std::time::{Duration, Instant};

use license_ledger::playready::policy::SecurityLevel;
use serde_json::json;

use crate::client::fresh_key;
use crate::device::{Device, PERSISTENT, fault_of, kid, refused, request, words};
use crate::service::{Setup, TestService};

const PATIENCE: Duration = Duration::from_secs(60);

/// A service that allows one slot, and voids what failed or is unconfirmed after ten minutes on
/// devices of level 2000 or more.
fn service() -> TestService {
    let setup = Setup::default().with("quota.device_limit", 1);
    let setup = setup.with("quota.void_store_failed", true);
    let setup = setup.with("quota.void_unconfirmed_after_seconds", 600);
    setup.with("quota.void_min_security_level", 2000).start()
}

fn acquire(service: &TestService, device: &Device, number: u128) -> Option<String> {
    let asked = device.acquire(&service.client, &request(&[kid(number)]), PERSISTENT);
    asked.err().and_then(|fault| words(&fault).1)
}

#[test]
fn an_unconfirmed_license_makes_room_and_a_late_word_changes_nothing() {
    let service = service();
    let device = service.device("silent");
    let first = request(&[kid(1)]);
    let challenge = device.ask(&first);
    let granted = service.client.challenge(&challenge, PERSISTENT);
    let acquired = device.accept(&granted.body, &first.nonce).unwrap();
    assert_eq!(acquire(&service, &device, 2).as_deref(), Some("persistent_license_limit"));
    service.advance_s(600);
    assert_eq!(acquire(&service, &device, 2).as_deref(), Some("persistent_license_limit"));
    service.advance_s(1);
    assert_eq!(acquire(&service, &device, 2), None);

    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["possible"]), (&1.into(), &2.into()));
    assert_eq!(inventory["voided"], 1);
    let voided = &inventory["voided_licenses"][0];
    assert_eq!(voided["reason"], "unconfirmed");
    assert_eq!(voided["license_id"], acquired.rights_ids()[0].to_string());
    let kinds = service.kinds_from(0);
    let voided = kinds.iter().position(|kind| kind == "license-voided.v1").unwrap();
    let granted = kinds.iter().rposition(|kind| kind == "license-acquired.v1").unwrap();
    assert!(voided < granted, "{kinds:?}");

    // Recorded, and no more than that.
    let before = service.event_count();
    device.acknowledge(&service.client, acquired.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    assert_eq!(service.kinds_from(before), ["license-stored.v1"]);
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["confirmed"]), (&1.into(), &0.into()));
    assert_eq!(inventory["voided"], 1);
    let spent = service.client.challenge(&challenge, PERSISTENT);
    assert_eq!(fault_of(&spent.body), refused("challenge_spent"));

    // Its deletion is taken, too; then it is not even possible that the device holds it.
    device.delete(&service.client, first.nonce, &[kid(1)]).unwrap();
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["possible"], &inventory["voided"]), (&1.into(), &0.into()));
    let metrics = service.client.get("/metrics").text();
    let line = "license_ledger_licenses_voided_total{reason=\"unconfirmed\"} 1";
    assert!(metrics.lines().any(|shown| shown == line), "{metrics}");
}

#[test]
fn a_failure_to_store_ends_the_license_in_the_same_step() {
    let service = service();
    let device = service.device("full");
    let acquired = device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    let before = service.event_count();
    device.acknowledge(&service.client, acquired.transaction_id.unwrap(), &[(kid(1), 7)]).unwrap();
    assert_eq!(service.kinds_from(before), ["license-store-failed.v1", "license-voided.v1"]);
    let inventory = service.inventory(&device);
    assert_eq!(inventory["live"], 0);
    assert_eq!(inventory["voided_licenses"][0]["reason"], "store_failed");
    assert_eq!(acquire(&service, &device, 2), None);
    assert_eq!(service.live(&device), 1);
    let now = license_ledger::clock::UnixMillis(service.replay().at_ms);
    service.replay().check_inventory(&service.inner().inventory, now);
}

#[test]
fn a_confirmed_license_and_devices_below_the_level_are_left_alone() {
    let service = service();
    let confirms = service.device("confirms");
    let acquired = confirms.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    let transaction_id = acquired.transaction_id.unwrap();
    confirms.acknowledge(&service.client, transaction_id, &[(kid(1), 0)]).unwrap();
    let below = service.device_of_level("below", SecurityLevel::Test);
    let acquired = below.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    let transaction_id = acquired.transaction_id.unwrap();
    below.acknowledge(&service.client, transaction_id, &[(kid(1), 7)]).unwrap();
    service.advance_s(24 * 60 * 60);
    for device in [&confirms, &below] {
        assert_eq!(acquire(&service, device, 2).as_deref(), Some("persistent_license_limit"));
    }
    assert!(!service.kinds_from(0).iter().any(|kind| kind == "license-voided.v1"));
}

#[test]
fn what_nobody_asks_about_is_voided_soon() {
    let service = service();
    let devices = ["a", "b"].map(|name| service.device(name));
    for device in &devices {
        assert_eq!(acquire(&service, device, 1), None);
    }
    service.advance_s(601);
    // Asking whether there is room records nothing, and counts what the rule leaves.
    let question = json!({ "device": devices[0].identity(), "key_ids": [kid(2)] });
    let decision = service.client.post_json("/v1/quota/decisions", &question).json();
    let live = &decision["in_use"]["live"];
    assert_eq!((&decision["decision"], live), (&"allow".into(), &0.into()));
    let started = Instant::now();
    while devices.iter().any(|device| service.live(device) > 0) {
        assert!(started.elapsed() < PATIENCE, "overdue licenses are not found");
        std::thread::sleep(Duration::from_millis(50));
    }
    for device in &devices {
        assert_eq!(service.inventory(device)["voided"], 1);
    }
}

#[test]
fn nothing_is_voided_unless_the_policy_says_so() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let device = service.device_of_level("silent", SecurityLevel::Hardware);
    let acquired = device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    device.acknowledge(&service.client, acquired.transaction_id.unwrap(), &[(kid(1), 7)]).unwrap();
    service.advance_s(365 * 24 * 60 * 60);
    assert_eq!(acquire(&service, &device, 2).as_deref(), Some("persistent_license_limit"));
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["voided"]), (&1.into(), &0.into()));
}

#[test]
fn more_than_one_append_holds_is_voided_part_by_part() {
    const EACH: u128 = 100;
    const REPORTS: u128 = 7;
    let setup = Setup::default().with("quota.device_limit", 1);
    let setup = setup.with("quota.void_unconfirmed_after_seconds", 600);
    let service = setup.with("quota.void_min_security_level", 2000).start();
    for report in 0..REPORTS {
        let licenses = (report * EACH..(report + 1) * EACH).map(|number| {
            json!({ "key_id": kid(number), "license_reference": number.to_string(),
                    "persistent": true })
        });
        let body = json!({ "device": "tv", "account": "family", "drm_system": "widevine",
            "security_level": 2000, "licenses": licenses.collect::<Vec<_>>() });
        let recorded = service.client.command("/v1/acquisitions", &fresh_key(), &body);
        assert_eq!(recorded.status, 200, "{}", recorded.text());
    }
    service.advance_s(601);
    let hold = json!({ "device": "tv", "account": "family", "key_ids": [kid(1)], "commit": true });
    let held = service.client.command("/v1/quota/decisions", &fresh_key(), &hold);
    assert_eq!(held.status, 200, "{}", held.text());
    assert_eq!(held.json()["decision"], "allow");
    let kinds = service.kinds_from(0);
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count() as u128;
    assert_eq!(count("license-voided.v1"), REPORTS * EACH);
    assert_eq!(count("slot-released.v1"), REPORTS * EACH);
}

#[test]
fn a_device_that_cannot_be_read_keeps_no_other_one_waiting() {
    let mut service = service();
    let mut devices = ["a", "b"].map(|name| service.device(name));
    let name = |device: &Device| service.inventory(device)["device"].as_str().unwrap().to_owned();
    for device in &devices {
        assert_eq!(acquire(&service, device, 1), None);
    }
    // Devices are swept in the order of their names.
    devices.sort_by_key(name);
    let first = name(&devices[0]);
    let state = |data: &Path| rusqlite::Connection::open(data.join("state.db")).unwrap();
    let all = "SELECT COUNT(*) FROM devices";
    let stored = state(&service.data());
    while stored.query_row(all, [], |row| row.get::<_, u64>(0)).unwrap() < 2 {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(stored);
    service.restart_after(|data| {
        let damage = "UPDATE devices SET state = x'00' WHERE device = ?1";
        assert_eq!(state(data).execute(damage, [first]), Ok(1));
    });
    service.advance_s(601);
    let started = Instant::now();
    while service.live(&devices[1]) > 0 {
        assert!(started.elapsed() < PATIENCE, "the other device is never swept");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(service.live(&devices[0]), 1);
}
