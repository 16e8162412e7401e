//! What support said of a device is shown and holds under each of its names.

use super::*;

#[test]
fn a_limit_under_the_old_name_of_a_device_is_one_of_the_device_that_goes_on() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    for (act, field) in [("merge", "into"), ("replace", "by")] {
        let (old, new) =
            (service.device(&format!("old-{act}")), service.device(&format!("new-{act}")));
        ask(&service, &old, 1).unwrap();
        ask(&service, &new, 1).unwrap();
        let given_up = of(&service, &old)["device"].as_str().unwrap().to_owned();
        let mut body = json!({ field: new.identity(), "reason": REASON });
        if act == "replace" {
            body["licenses"] = json!("move");
        }
        support(&service, &old.identity(), act, body);
        assert_eq!(word(ask(&service, &new, 2)).as_deref(), LIMIT);
        let path = format!("/v1/devices/{given_up}/overrides");
        let set = json!({ "limit": 2, "reason": REASON });
        let set = service.client.put_command(&format!("{path}/device-slots"), &set);
        assert_eq!(set.status, 200, "{}", set.text());
        assert!(ask(&service, &new, 2).is_ok());
        let position = service.event_count();
        for name in [&given_up, &new.identity()] {
            let path = format!("/v1/devices/{name}/overrides?min_position={position}");
            assert_eq!(service.client.json(&path)["items"][0]["limit"], 2, "{name}");
        }
        let back = service.client.delete_command(&format!("{path}/device-slots?reason=over"));
        assert_eq!(back.status, 204);
        assert_eq!(word(ask(&service, &new, 3)).as_deref(), LIMIT);
        check(&service);
    }
}

#[test]
fn what_operators_did_is_shown_with_who_and_why_on_every_device_concerned() {
    let mut service = TestService::new();
    let [old, new, never] = ["old", "new", "never"].map(|name| service.device(name));
    ask(&service, &old, 1).unwrap();
    ask(&service, &new, 1).unwrap();
    let [from, into] = [&old, &new].map(|device| of(&service, device)["device"].clone());
    let because = |reason: &str| json!({ "reason": reason });
    support(&service, &new.identity(), "block", because("stolen"));
    support(&service, &new.identity(), "block", because("stolen still"));
    support(&service, &new.identity(), "unblock", because("found"));
    let link = json!({ "identity": never.identity(), "reason": "set up anew" });
    support(&service, &new.identity(), "identities", link);
    let merge = json!({ "into": new.identity(), "reason": "one phone" });
    support(&service, &old.identity(), "merge", merge);
    let shown = |service: &TestService, device: &Value| {
        let device = device.as_str().unwrap();
        let acts = service.client.json(&format!("/v1/devices/{device}/inventory"))["acts"].clone();
        let acts = acts.as_array().unwrap().iter().map(|act| {
            assert!(act["actor"].as_str().is_some_and(|actor| !actor.is_empty()));
            let text = |member: &str| act[member].as_str().unwrap_or_default().to_owned();
            [text("act"), text("reason"), text("other"), text("identity")]
        });
        acts.collect::<Vec<_>>()
    };
    let (from_name, into_name) = (from.as_str().unwrap(), into.as_str().unwrap());
    let (none, never) = ("", never.identity());
    for _ in 0..2 {
        assert_eq!(
            shown(&service, &into),
            [
                ["merged_from", "one phone", from_name, none],
                ["linked", "set up anew", into_name, &never],
                ["unblocked", "found", none, none],
                ["blocked", "stolen", none, none],
            ]
        );
        assert_eq!(shown(&service, &from), [["merged_into", "one phone", into_name, none]]);
        service.restart();
    }
}

#[test]
fn a_license_that_moved_tells_from_where_and_why() {
    let service = TestService::new();
    for (act, field) in [("merge", "into"), ("replace", "by")] {
        let (old, new) =
            (service.device(&format!("old-{act}")), service.device(&format!("new-{act}")));
        let id = |acquired: Acquired| acquired.rights_ids()[0].to_string();
        let held = id(ask(&service, &old, 1).unwrap());
        let lost = id(ask(&service, &old, 2).unwrap());
        let deleted = request(&[kid(3)]);
        let gone = id(old.acquire(&service.client, &deleted, PERSISTENT).unwrap());
        old.delete(&service.client, deleted.nonce, &[kid(3)]).unwrap();
        ask(&service, &new, 4).unwrap();
        let lose = json!({ "license_ids": [&lost], "reason": "lost at sea" });
        support(&service, &old.identity(), "write-off", lose);
        let [from, into] = [&old, &new].map(|device| of(&service, device)["device"].clone());
        let mut body = json!({ field: new.identity(), "reason": REASON });
        if act == "replace" {
            body["licenses"] = json!("move");
        }
        support(&service, &old.identity(), act, body);
        let life = |id: &str| {
            let position = service.event_count();
            service.client.json(&format!("/v1/licenses/{id}?min_position={position}"))
        };
        let kinds = |life: &Value| {
            let events = life["events"].as_array().unwrap().iter();
            events.map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let moved = life(&held);
        assert_eq!(moved["device"], into);
        assert_eq!(kinds(&moved), ["license-acquired.v1", "device-took-over.v1"]);
        let event = &moved["events"][1];
        let why = format!("moved from device {}: {REASON}", from.as_str().unwrap());
        assert_eq!((&event["why"], &event["ends"]), (&json!(why), &json!(false)));
        assert!(event["who"].as_str().is_some_and(|who| !who.is_empty()));
        let in_doubt = ["license-acquired.v1", "license-written-off.v1", "device-took-over.v1"];
        assert_eq!(kinds(&life(&lost)), in_doubt, "the other device may have it");
        assert_eq!(kinds(&life(&gone)), ["license-acquired.v1", "license-deleted.v1"]);
        assert_eq!(life(&gone)["device"], from);
    }
}

#[test]
fn an_account_has_a_device_that_was_given_up_as_the_one_that_goes_on() {
    const DAY: u32 = 24 * 60 * 60;
    let churn = rule("churn", quota::Scope::Account, Counts::DevicesAddedWithinSeconds(DAY), 2);
    let family = Family::new(vec![churn]);
    let service = &family.site.service;
    let devices = ["a", "b", "c"].map(|name| service.device(name));
    let [a, b, c] = &devices;
    assert_eq!(family.ask(a, "a", 1), None);
    service.advance_s(60);
    assert_eq!(family.ask(b, "b", 2), None);
    assert_eq!(family.ask(c, "c", 1).as_deref(), LIMIT);
    let account = || {
        let position = service.event_count();
        let account = service.client.json(&format!("/v1/accounts/family?min_position={position}"));
        assert_eq!(account["rules"][0]["in_use"]["live"], account["devices"], "{account}");
        let devices = account["first_devices"].as_array().unwrap().clone();
        assert_eq!(account["devices"], devices.len());
        devices
    };
    let both = account();
    let first = service.client.json("/v1/accounts/family/devices?limit=1");
    let added: Vec<_> = both.iter().map(|device| device["added_at"].as_str().unwrap()).collect();
    let added = *added.iter().min().unwrap();
    support(service, "a", "merge", json!({ "into": "b", "reason": REASON }));
    let [one] = account().try_into().unwrap();
    assert_eq!((&one["device"], &one["live_slots"]), (&of(service, b)["device"], &json!(2)));
    assert_eq!(one["added_at"], added, "since the first of the two was");
    support(service, "b", "replace", json!({ "by": "c", "licenses": "move", "reason": REASON }));
    let [one] = account().try_into().unwrap();
    assert_eq!((&one["device"], &one["added_at"]), (&of(service, c)["device"], &json!(added)));
    // Pages that were begun before go on with the devices of then.
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest =
        service.client.json(&format!("/v1/accounts/family/devices?cursor={cursor}"))["items"]
            .clone();
    assert_eq!(rest.as_array().unwrap().len(), 1);
    assert_eq!(rest[0]["device"], both[1]["device"]);
}
