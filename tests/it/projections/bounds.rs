//! States stay within what the server keeps, however much happens.

use serde_json::{Value, json};
use uuid::Uuid;

use super::engine::{Event, STATE_BYTES_MAX};
use super::{ACCOUNTS, DEVICES, KIDS, REFUSALS, load};
use crate::service::golden;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const START_MS: u64 = 1_700_000_000_000;

/// The `number`th reference of a device or account.
fn reference(number: usize) -> String {
    data_encoding::BASE32_NOPAD
        .encode(&[&[0; 8][..], &number.to_be_bytes()].concat())
        .to_lowercase()
}

/// A golden event with some members changed.
fn event(stream: String, kind: &str, changes: Value) -> Event {
    let mut data: Value = serde_json::from_slice(&golden(&format!("events/{kind}.json"))).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        data[name] = value.clone();
    }
    Event { stream, revision: 0, kind: kind.to_owned(), data: data.to_string(), is_json: true }
}

fn acquired(device: usize, key_id: usize, number: usize, until_ms: Option<u64>) -> Event {
    let changes = json!({ "license_id": Uuid::from_u128(number as u128 + 1),
        "key_id": Uuid::from_u128(key_id as u128 + 1), "counted_until_ms": until_ms,
        "at_ms": START_MS + number as u64 });
    event(format!("device-{}", reference(device)), "license-acquired.v1", changes)
}

/// The one state that `events` lead to. It must be well below the server's limit.
fn filled(name: &str, events: &[Event]) -> Value {
    let mut engine = load(name);
    engine.feed_all(events).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(engine.largest_state() < STATE_BYTES_MAX / 4, "{name}: {}", engine.largest_state());
    let (_, state) = engine.states().pop_first().unwrap();
    state
}

fn numbers<const N: usize>(state: &Value, names: [&str; N]) -> [u64; N] {
    names.map(|name| state[name].as_u64().unwrap())
}

#[test]
fn a_device_with_more_licenses_than_anyone_needs() {
    let events: Vec<_> = (0..2_500).map(|number| acquired(0, number, number, None)).collect();
    let state = filled(DEVICES, &events);
    let seen = numbers(&state, ["live_licenses", "live_slots", "untracked"]);
    assert_eq!(seen, [2_000, 2_000, 500]);
}

#[test]
fn a_title_that_everybody_holds() {
    let mut events: Vec<_> = (0..21_000).map(|number| acquired(number, 0, number, None)).collect();
    let state = filled(KIDS, &events);
    let seen = numbers(&state, ["live_licenses", "holders", "untracked"]);
    assert_eq!(seen, [20_000, 20_000, 1_000]);
    // One that is known ends, and one that is not.
    for number in [7, 20_500] {
        let changes = json!({ "license_id": Uuid::from_u128(number as u128 + 1),
            "key_id": Uuid::from_u128(1), "at_ms": START_MS + 30_000 });
        let stream = format!("device-{}", reference(number));
        events.push(event(stream, "license-deleted.v1", changes));
    }
    let seen = numbers(&filled(KIDS, &events), ["live_licenses", "holders", "untracked"]);
    assert_eq!(seen, [19_999, 19_999, 999]);
}

#[test]
fn a_title_that_is_only_rented_leaves_nothing_behind() {
    // Each license ends a second after it was acquired.
    let rented =
        |number: usize| acquired(number, 0, number, Some(START_MS + number as u64 + 1_000));
    let events: Vec<_> = (0..5_000).map(rented).collect();
    let state = filled(KIDS, &events);
    assert_eq!(numbers(&state, ["live_licenses", "holders", "untracked"]), [1_000, 1_000, 0]);
    assert_eq!(state["next_end_ms"], START_MS + 5_000);
}

#[test]
fn an_account_that_is_used_by_a_whole_town() {
    let taken = |number: usize| {
        let changes = json!({ "license_id": Uuid::from_u128(number as u128 + 1),
            "device": reference(number), "counted_until_ms": null, "reserved": number % 2 == 1,
            "at_ms": START_MS + number as u64 });
        event(format!("account-{}", reference(0)), "slot-taken.v1", changes)
    };
    let events: Vec<_> = (0..3_500).map(taken).collect();
    let state = filled(ACCOUNTS, &events);
    let seen = numbers(&state, ["issued", "live_slots", "reserved_slots", "untracked"]);
    assert_eq!(seen, [1_750, 1_500, 1_500, 500]);
}

#[test]
fn refusals_of_many_rules_on_many_days() {
    let longest = |number: usize| format!("{number:0>64}");
    let refused = |day: usize, rule: String| {
        let changes = json!({ "rule": rule, "at_ms": START_MS + day as u64 * DAY_MS });
        event(format!("device-{}", reference(day)), "acquisition-refused.v1", changes)
    };
    let days = (0..420).flat_map(|day| (0..70).map(move |rule| refused(day, longest(rule))));
    let mut events: Vec<_> = days.collect();
    // What every object has is the name of a rule like any other. A day that is forgotten stays so.
    events.push(refused(500, "constructor".to_owned()));
    events.push(refused(0, longest(0)));
    let state = filled(REFUSALS, &events);
    let days = state["days"].as_object().unwrap();
    assert_eq!(days.len(), 400);
    let (first, day) = days.iter().next().unwrap();
    assert_eq!(first, "2023-12-05", "21 of 421 days, and the last again, are gone");
    assert_eq!((&day["refusals"], &day["other_rules"]), (&json!(70), &json!(6)));
    assert_eq!(day["rules"].as_object().unwrap().len(), 64);
    let last = json!({ "refusals": 1, "rules": { "constructor": 1 }, "other_rules": 0 });
    assert_eq!(days.values().next_back(), Some(&last));
}
