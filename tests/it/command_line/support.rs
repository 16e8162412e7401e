//! `support`: with and without a running service.

use license_ledger::playready::policy::SecurityLevel;
use serde_json::{Value, json};

use super::Place;
use crate::device::{Device, PERSISTENT, kid, request};
use crate::process::Ran;
use crate::service::make_device;

const BECAUSE: [&str; 2] = ["--reason", "lost at sea"];

fn support(place: &Place, act: &str, rest: &[&str]) -> Ran {
    place.run(&["support", act], &[&BECAUSE, rest].concat())
}

fn live(place: &Place, device: &Device) -> Value {
    place.run(&["inventory", "--json"], &[&device.identity()]).ok().json()["live"].clone()
}

#[test]
fn support_acts_with_and_without_a_running_service() {
    let place = Place::new();
    let service = place.serve();
    let devices = ["phone", "new", "tablet"]
        .map(|name| make_device(&service.pki, name, SecurityLevel::Software));
    let client = service.client(service.admin_key.as_ref().unwrap());
    for (number, device) in (1..).zip(&devices) {
        device.acquire(&client, &request(&[kid(number), kid(number + 10)]), PERSISTENT).unwrap();
    }
    let [phone, new, tablet] = &devices;
    let name = phone.identity();
    let inventory = place.run(&["inventory", "--json"], &[&name]).ok().json();
    let license = inventory["licenses"][0]["license_id"].as_str().unwrap().to_owned();

    let other = uuid::Uuid::nil().to_string();
    let done = support(&place, "write-off", &[&name, "--license", &license, "--license", &other]);
    let said = done.ok().stdout;
    assert!(said.contains(&format!("wrote off {license}")), "{said}");
    assert!(said.contains(&format!("not live: {other}")), "{said}");
    assert_eq!(live(&place, phone), 1);
    let blocked = support(&place, "block", &[&name, "--json"]).ok().json();
    assert_eq!((&blocked["blocked"], &blocked["changed"]), (&json!(true), &json!(true)));
    assert!(support(&place, "block", &[&name]).ok().stdout.ends_with("is blocked already\n"));
    let denied = place.run(&["explain"], &[&name, &kid(30).to_string()]);
    assert!(denied.stdout.contains("remedies   unblock the device\n"), "{denied:?}");
    support(&place, "merge", &[&name, "--into", &new.identity()]).failed(1, &["unblock it first"]);
    support(&place, "unblock", &[&name]).ok();
    support(&place, "block", &[""]).failed(2, &["must have 1 to 256 bytes"]);
    let metrics = client.get("/metrics").text();
    for line in ["{kind=\"write_off\"} 1", "{kind=\"block\"} 1", "{kind=\"unblock\"} 1"] {
        let line = format!("license_ledger_support_acts_total{line}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    let cooldown = [name.as_str(), "--cooldown-seconds", "60", "--json"];
    let done = support(&place, "write-off", &cooldown).ok().json();
    assert_eq!(done["written_off"].as_array().unwrap().len(), 1);
    assert!(done["written_off"][0]["frees_at"].is_string(), "{done}");

    service.stop();
    let merged = support(&place, "merge", &[&name, "--into", &new.identity()]).ok().stdout;
    assert!(merged.contains(": 1 licenses and reservations moved"), "{merged}");
    let replaced = ["--by", &new.identity(), "--licenses", "write-off"];
    support(&place, "replace", &[&[tablet.identity().as_str()], &replaced[..]].concat()).ok();
    assert_eq!(live(&place, tablet), 0);
    let never = make_device(&place.path("data-secrets").join("pki"), "x", SecurityLevel::Software);
    let link = [new.identity(), "--identity".to_owned(), never.identity()];
    let linked = support(&place, "link", &link.each_ref().map(String::as_str)).ok().stdout;
    assert!(linked.starts_with(&never.identity()), "{linked}");

    let events = place.run(&["events", "--json"], &[]).ok().stdout;
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let acts: Vec<_> = events.filter(|event| event["data"]["reason"] == BECAUSE[1]).collect();
    assert!(acts.iter().all(|event| event["data"]["actor"] == "cli"), "{acts:?}");
    assert!(acts.len() >= 9, "{acts:?}");
}

#[test]
fn what_support_cannot_do_is_refused_with_one_line() {
    let (place, _) = Place::served();
    support(&place, "block", &["nobody"]).failed(1, &["does not know the device"]);
    support(&place, "merge", &["nobody", "--into", "nobody"]).failed(1, &["both are the device"]);
    let moved = ["a", "--by", "b", "--licenses", "move", "--cooldown-seconds", "1"];
    support(&place, "replace", &moved).failed(2, &["--cooldown-seconds", "leave it out"]);
    for (rest, named) in [
        (&["write-off", "a", "--license", "x"][..], "--license"),
        (&["write-off", "a", "--cooldown-seconds", "0"], "--cooldown-seconds"),
        (&["link", "a", "--identity", "x"], "--identity"),
        (&["replace", "a", "--by", "b", "--licenses", "lose"], "move, write-off"),
    ] {
        let ran = support(&place, rest[0], &rest[1..]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(named), "{named}: {ran:?}");
    }
    let ran = place.run(&["support", "block"], &["a"]);
    assert!(ran.code == 2 && ran.stderr.contains("--reason"), "{ran:?}");
}
