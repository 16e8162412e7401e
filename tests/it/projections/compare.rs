//! What the projections make of a log, held against the read models and the states of the service.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use license_ledger::clock::UnixMillis;
use license_ledger::domain::{Account, Event as Domain};
use license_ledger::ledger::tail::Fact;
use license_ledger::projections::Inventory;
use license_ledger::projections::inventory::{Filter, LicenseStatus};
use serde_json::Value;

use super::engine::Event;
use super::{ACCOUNTS, DEVICES, KIDS, REFUSALS, run};

const MANY: usize = 1_000_000;

type States = BTreeMap<String, Value>;

/// A live license: its id, its KID or device, when it ends.
type Live = BTreeSet<(String, String, Option<i64>)>;

/// Panics where a projection says anything else than `inventory`, which has all of `facts`.
pub fn check(facts: &[Fact], inventory: &Inventory) {
    let events: Vec<Event> = facts.iter().map(Event::of).collect();
    let states = |name| run(name, &events).states();
    let last_ms = facts.iter().map(|fact| fact.event.at_ms()).max().unwrap_or(0);
    devices(&states(DEVICES), inventory, last_ms);
    kids(&states(KIDS), facts, inventory, last_ms);
    accounts(&states(ACCOUNTS), facts, inventory, last_ms);
    refusals(&states(REFUSALS), facts, inventory);
}

/// The licenses of a state that are live at a time that is not before its own.
fn live(licenses: &Value, now_ms: i64) -> impl Iterator<Item = (&String, &Value)> {
    let licenses = licenses.as_object().unwrap().iter();
    licenses.filter(move |(_, license)| license["until_ms"].as_i64().is_none_or(|at| at > now_ms))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn devices(states: &States, inventory: &Inventory, last_ms: i64) {
    let known = inventory.devices(0, u64::MAX, MANY).unwrap().devices;
    for device in &known {
        let reference = device.device.parse().unwrap();
        let held = |now_ms| inventory.inventory(&reference, UnixMillis(now_ms)).unwrap().unwrap();
        let Some(state) = states.get(&format!("device-{}", device.device)) else {
            assert_eq!(held(last_ms).live, 0, "{}", device.device);
            continue;
        };
        let at_ms = state["at_ms"].as_i64().unwrap();
        for now_ms in [at_ms, last_ms] {
            let ours: Live = live(&state["licenses"], now_ms)
                .map(|(id, l)| (id.clone(), text(&l["key_id"]), l["until_ms"].as_i64()))
                .collect();
            let theirs = held(now_ms).licenses;
            let theirs = theirs.into_iter().map(|license| {
                let until_ms = license.counted_until.map(|at| at.0);
                (license.license_id.to_string(), license.key_id.to_string(), until_ms)
            });
            assert_eq!(ours, theirs.collect(), "{} at {now_ms}", device.device);
        }
        let held = held(at_ms);
        let confirmed = held.licenses.iter().filter(|l| l.status == LicenseStatus::Stored);
        let confirmed: BTreeSet<_> = confirmed.map(|license| license.key_id).collect();
        assert_eq!(confirmed.len(), held.confirmed);
        let numbers = ["live_licenses", "live_slots", "confirmed_slots", "untracked"];
        let numbers = numbers.map(|name| usize::try_from(state[name].as_u64().unwrap()).unwrap());
        let expected = [held.licenses.len(), held.live, held.confirmed, 0];
        assert_eq!(numbers, expected, "{}: {state}", device.device);
    }
    assert!(states.len() <= known.len(), "no partition without a device");
}

fn kids(states: &States, facts: &[Fact], inventory: &Inventory, last_ms: i64) {
    // Where the licenses of a device went.
    let mut went = HashMap::new();
    for fact in facts {
        if let Domain::DeviceTookOver(e) = &fact.event {
            let into = fact.recorded.stream.as_str().trim_start_matches("device-");
            went.insert(e.from.to_string(), into.to_owned());
        }
    }
    let holds = |device: &str| {
        let mut device = device.to_owned();
        while let Some(into) = went.get(&device) {
            device.clone_from(into);
        }
        device
    };
    for (key_id, state) in states {
        let at_ms = state["at_ms"].as_i64().unwrap();
        let filter = Filter {
            key_id: Some(license_ledger::domain::KeyId(key_id.parse().unwrap())),
            live: Some(true),
            ..Filter::default()
        };
        for now_ms in [at_ms, last_ms] {
            let theirs = inventory.licenses(&filter, (0, u64::MAX), MANY, UnixMillis(now_ms));
            let theirs = theirs.unwrap().items.into_iter().map(|view| {
                let until_ms = view.license.counted_until.map(|at| at.0);
                (view.license.license_id.to_string(), view.device, until_ms)
            });
            let devices = state["devices"].as_object().unwrap().iter();
            let ours = devices.flat_map(|(device, licenses)| {
                let licenses = licenses.as_object().unwrap().iter();
                licenses.map(|(id, until)| (id.clone(), holds(device), until.as_i64()))
            });
            let ours = ours.filter(|(.., until_ms)| until_ms.is_none_or(|at| at > now_ms));
            let ours: Live = ours.collect();
            assert_eq!(ours, theirs.collect(), "{key_id} at {now_ms}");
            if now_ms == at_ms {
                assert_eq!(state["live_licenses"], ours.len(), "{key_id}: {state}");
            }
        }
        let devices = state["devices"].as_object().unwrap();
        assert_eq!((&state["holders"], &state["untracked"]), (&devices.len().into(), &0.into()));
    }
    let all = inventory.licenses(&Filter::default(), (0, u64::MAX), MANY, UnixMillis(last_ms));
    for view in all.unwrap().items {
        assert!(states.contains_key(&view.license.key_id.to_string()));
    }
}

fn accounts(states: &States, facts: &[Fact], inventory: &Inventory, last_ms: i64) {
    for (stream, state) in states {
        let account = stream.strip_prefix("account-").unwrap().parse().unwrap();
        let at_ms = state["at_ms"].as_i64().unwrap();
        for now_ms in [at_ms, last_ms] {
            let now = UnixMillis(now_ms);
            let devices =
                inventory.account_devices(&account, ("", u64::MAX), MANY, now).unwrap().items;
            let theirs = devices.into_iter().filter(|device| device.live_slots > 0);
            let theirs: BTreeMap<_, _> = theirs.map(|d| (d.device, d.live_slots)).collect();
            let mut slots = BTreeSet::new();
            for (_, license) in live(&state["licenses"], now_ms) {
                if license["reserved"] == false {
                    slots.insert((text(&license["device"]), text(&license["key_id"])));
                }
            }
            let mut ours = BTreeMap::new();
            for (device, _) in &slots {
                *ours.entry(device.clone()).or_insert(0) += 1;
            }
            assert_eq!(ours, theirs, "{stream} at {now_ms}");
            if now_ms == at_ms {
                assert_eq!(state["devices"], serde_json::json!(ours), "{stream}");
            }
        }
        let (summary, _) = inventory.account(&account, UnixMillis(at_ms)).unwrap().unwrap();
        let mut folded = Account::default();
        let of_account = facts.iter().filter(|fact| fact.recorded.stream.as_str() == stream);
        of_account.for_each(|fact| folded.evolve(&fact.event));
        let (mut confirmed, mut reserved) = (BTreeSet::new(), BTreeSet::new());
        for (device, member) in folded.members() {
            for (key_id, held) in member.held(at_ms) {
                match (held.reserved, held.confirmed) {
                    (true, _) => reserved.insert((device, key_id)),
                    (false, true) => confirmed.insert((device, key_id)),
                    (false, false) => false,
                };
            }
        }
        let numbers = ["live_slots", "issued", "confirmed_slots", "reserved_slots", "untracked"];
        let numbers = numbers.map(|name| state[name].as_u64().unwrap());
        let [confirmed, reserved] = [confirmed.len() as u64, reserved.len() as u64];
        let expected = [summary.live_slots, summary.persistent_acquired, confirmed, reserved, 0];
        assert_eq!(numbers, expected, "{stream}: {state}");
    }
}

fn refusals(states: &States, facts: &[Fact], inventory: &Inventory) {
    // Refused decisions are not counted there.
    let challenges: BTreeSet<_> = facts
        .iter()
        .filter(|fact| matches!(fact.event, Domain::AcquisitionRefused(_)))
        .map(|fact| fact.recorded.sequence)
        .collect();
    let mut days = BTreeMap::<String, BTreeMap<String, u64>>::new();
    let all = inventory.refusals(&Filter::default(), (0, u64::MAX), MANY).unwrap().items;
    for refusal in all.into_iter().filter(|refusal| challenges.contains(&refusal.sequence)) {
        let at = serde_json::to_value(refusal.refused_at).unwrap();
        let rules = days.entry(text(&at)[..10].to_owned()).or_default();
        *rules.entry(refusal.rule).or_default() += 1;
    }
    let Some(state) = states.get("") else { return assert!(days.is_empty()) };
    let days = days.into_iter().map(|(day, rules)| {
        let refusals: u64 = rules.values().sum();
        let said = serde_json::json!({ "refusals": refusals, "rules": rules, "other_rules": 0 });
        (day, said)
    });
    assert_eq!(state["days"], Value::Object(days.collect()));
}
