//! `inventory`, `events`, `rebuild`: with and without a running service.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use license_ledger::playready::policy::SecurityLevel;
use serde_json::Value;

use super::Place;
use crate::device::{Device, PERSISTENT, kid, request};
use crate::process::{Ran, Serving};
use crate::service::make_device;

/// A served ledger with a device that holds two licenses.
fn holding(place: &Place) -> (Serving, Device) {
    let service = place.serve();
    let device = make_device(&service.pki, "reader", SecurityLevel::Software);
    let asked = request(&[kid(1), kid(2)]);
    device.acquire(&service.client(""), &asked, PERSISTENT).unwrap();
    (service, device)
}

fn events(place: &Place) -> Vec<Value> {
    let ran = place.run(&["events", "--json"], &[]).ok();
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kids(inventory: &Ran) -> Vec<String> {
    let json = inventory.json();
    let licenses = json["licenses"].as_array().unwrap().iter();
    licenses.map(|license| license["key_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_inventory_is_shown_with_and_without_a_running_service() {
    let place = Place::new();
    let (service, device) = holding(&place);
    let show = || place.run(&["inventory", "--json"], &[&device.identity()]);
    let expected = [kid(1).to_string(), kid(2).to_string()];
    let while_serving = show().ok();
    assert_eq!(kids(&while_serving), expected);
    assert_eq!(while_serving.json()["live"], 2);
    let table = place.run(&["inventory"], &[&device.identity()]).ok();
    assert!(expected.iter().all(|kid| table.stdout.contains(kid)), "{table:?}");
    // A command sees what was answered before it began.
    for number in 3..8 {
        device.acquire(&service.client(""), &request(&[kid(number)]), PERSISTENT).unwrap();
        assert_eq!(show().ok().json()["live"], u64::try_from(number).unwrap());
    }
    service.stop();
    assert_eq!(show().ok().json()["live"], 7);
}

#[test]
fn an_unknown_device_is_exit_code_one() {
    let place = Place::new();
    let (service, device) = holding(&place);
    let stranger = make_device(&service.pki, "stranger", SecurityLevel::Software).identity();
    for name in [stranger.as_str(), "nonsense"] {
        place.run(&["inventory"], &[name]).failed(1, &[name, "events"]);
    }
    service.stop();
    place.run(&["inventory"], &[&stranger]).failed(1, &[&stranger]);
    place.run(&["inventory"], &[&device.identity()]).ok();
}

#[test]
fn events_are_shown_in_order_with_and_without_a_running_service() {
    let place = Place::new();
    let (service, _) = holding(&place);
    let shown = events(&place);
    let sequences: Vec<_> = shown.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (0..shown.len() as u64).collect::<Vec<_>>());
    let kinds: Vec<_> = shown.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let last = ["device-enrolled.v1", "identity-linked.v1", "license-acquired.v1"];
    assert!(kinds.ends_with(&[last[0], last[1], last[2], last[2]]), "{kinds:?}");
    let rest = place.run(&["events", "--from", &(shown.len() - 1).to_string()], &[]).ok();
    assert_eq!(rest.stdout.lines().count(), 1);
    service.stop();
    assert_eq!(events(&place), shown);
}

#[test]
fn followed_events_come_as_they_happen() {
    let place = Place::new();
    let (service, device) = holding(&place);
    let seen = events(&place).len();
    let mut follow = crate::process::program()
        .args(["events", "--follow", "--json", "--from", &seen.to_string()])
        .args(["--data", &place.text("data")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    for number in 10..13 {
        device.acquire(&service.client(""), &request(&[kid(number)]), PERSISTENT).unwrap();
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["data"]["key_id"], kid(number).to_string());
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
    service.stop();
}

#[test]
fn reading_needs_a_ledger() {
    let place = Place::new();
    for command in [&["events"][..], &["rebuild"]] {
        place.run(command, &[]).failed(2, &["holds no event log"]);
    }
    place.run(&["inventory"], &["nobody"]).failed(2, &["holds no event log"]);
    assert!(!place.path("data").exists());
}

#[test]
fn a_ledger_that_cannot_be_looked_at_is_not_said_to_be_missing() {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    // Nobody can follow it, not even root, whom permissions do not stop.
    std::os::unix::fs::symlink("ledger.db", place.path("data/ledger.db")).unwrap();
    for (command, rest) in [("events", &[][..]), ("rebuild", &[]), ("inventory", &["nobody"])] {
        place.run(&[command], rest).failed(2, &["data cannot be read", "who runs the service"]);
    }
}

#[test]
fn a_stopped_ledger_is_whole_in_its_one_file() {
    let place = Place::new();
    let (service, _) = holding(&place);
    service.stop();
    std::fs::create_dir(place.path("copy")).unwrap();
    std::fs::copy(place.path("data/ledger.db"), place.path("copy/ledger.db")).unwrap();
    let copied = crate::process::run(&["events", "--json", "--data", &place.text("copy")]).ok();
    let copied = copied.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(copied.collect::<Vec<_>>(), events(&place));
}

#[test]
fn a_rebuild_gives_the_same_and_needs_the_service_stopped() {
    let place = Place::new();
    let (service, device) = holding(&place);
    let show = || place.run(&["inventory", "--json"], &[&device.identity()]).ok();
    let before = kids(&show());
    place.run(&["rebuild"], &[]).failed(2, &["service must be stopped", "in use"]);
    assert_eq!(kids(&show()), before);
    service.stop();
    let count = events(&place).len();
    let rebuilt = place.run(&["rebuild", "--json"], &[]).ok().json();
    assert_eq!(rebuilt["events"], count);
    assert_eq!(kids(&show()), before);
    // The state for deciding was made anew too: a repeat is still known.
    let again = place.serve();
    let asked = request(&[kid(1)]);
    device.acquire(&again.client(""), &asked, PERSISTENT).unwrap();
    assert_eq!(show().json()["live"], 2, "a held title took a second slot");
    again.stop();
}

#[test]
fn a_pki_folder_is_made_once_and_its_devices_are_served() {
    let place = Place::new();
    let pki = place.text("pki");
    let made = crate::process::run(&["pki", "init", "--json", "--out", &pki]).ok().json();
    assert!(made["files"].as_array().unwrap().len() > 5);
    crate::process::run(&["pki", "init", "--out", &pki]).failed(2, &["never overwritten"]);
    let device = |name: &str, level: &str| {
        let named = ["pki", "device", "--pki", &pki, "--name", name, "--security-level", level];
        crate::process::run(&named)
    };
    device("phone", "3000").ok();
    device("phone", "3000").failed(2, &["never overwritten"]);
    device("tablet", "2500").failed(2, &["2500", "150, 2000 or 3000"]);
    device("../tablet", "2000").failed(2, &["../tablet"]);
    let service = Serving::start(&place.path("data"), &["--pki", &pki]);
    let phone = Device::in_dir(&place.path("pki/devices/phone"));
    phone.acquire(&service.client(""), &request(&[kid(1)]), "cfg=(sl:3000)").unwrap();
    service.stop();
}
