//! More licenses than one append ends.

use super::*;

const LICENSES: u128 = 450;

/// Reports so many licenses of a device, all at the expense of one account.
fn report(service: &TestService, device: &str, first: u128) {
    for from in (first..first + LICENSES).step_by(50) {
        let licenses: Vec<_> = (from..from + 50)
            .map(|n| json!({ "key_id": kid(n), "license_reference": n.to_string(), "persistent": true }))
            .collect();
        let body = json!({ "device": device, "account": "family", "drm_system": "widevine",
            "licenses": licenses });
        let answer = command(&service.client, "/v1/acquisitions", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn live(service: &TestService, path: &str) -> Value {
    let position = service.event_count();
    service.client.json(&format!("{path}?min_position={position}"))["live"].clone()
}

fn written_off(answer: &Value) -> usize {
    let all = answer["written_off"].as_array().unwrap().iter();
    all.map(|license| license["license_id"].as_str().unwrap()).collect::<BTreeSet<_>>().len()
}

#[test]
fn any_number_of_licenses_is_written_off_and_answered_as_one_command() {
    let service = Setup::default().with("quota.device_limit", 1_000).start();
    report(&service, "tv", 1);
    let path = "/v1/devices/tv/write-off";
    let done = command_named(&service.client, path, "all", &because());
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(written_off(&done.json()), 450);
    assert_eq!(live(&service, "/v1/devices/tv/inventory"), 0);
    check(&service);
    // A repeat is answered, also where there is much to write off again.
    report(&service, "tv", 1_001);
    let events = service.event_count();
    let again = command_named(&service.client, path, "all", &because());
    assert_eq!((again.status, again.body), (200, done.body));
    assert_eq!(service.event_count(), events);
    assert_eq!(live(&service, "/v1/devices/tv/inventory"), 450);

    let path = "/v1/devices/tv/inventory";
    let ids = service.client.json(path)["licenses"].as_array().unwrap().clone();
    let mut ids: Vec<_> = ids.iter().map(|license| license["license_id"].clone()).collect();
    ids.push(json!(Uuid::nil()));
    let named =
        support(&service, "tv", "write-off", json!({ "license_ids": ids, "reason": REASON }));
    assert_eq!((written_off(&named), &named["not_live"]), (450, &json!([Uuid::nil()])));
    assert_eq!(live(&service, "/v1/devices/tv/inventory"), 0);
}

#[test]
fn a_device_with_any_number_of_licenses_is_replaced() {
    let service = Setup::default().with("quota.device_limit", 1_000).start();
    report(&service, "old", 1);
    let new = service.device("new");
    ask(&service, &new, 1).unwrap();
    let body = json!({ "by": new.identity(), "licenses": "write_off", "reason": REASON });
    assert_eq!(written_off(&support(&service, "old", "replace", body.clone())), 450);
    assert_eq!(live(&service, "/v1/devices/old/inventory"), 0);
    assert_eq!(service.client.json("/v1/devices/old")["successor"]["how"], "written_off");
    conflict(&service, "old", "replace", body, "is replaced already");
}
