//! Fixtures: events of a real service, and the states that they lead to, worked out by hand.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Arc;

use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::tail::Fact;
use license_ledger::ledger::{Append, Embedded, Expected, Ledger, NewEvent, StreamName};
use license_ledger::projections::Inventory;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::engine::Event;
use super::{ALL, compare, folder, load, run};
use crate::service::block_on;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    events: Vec<Stored>,
    states: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    stream: String,
    #[serde(rename = "type")]
    kind: String,
    data: Box<RawValue>,
}

fn fixture(name: &str) -> Fixture {
    let text = fs::read_to_string(folder().join(format!("{name}.fixture.json"))).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Appends events to a new ledger and returns it with its read models.
fn ledger_of(events: &[Stored], dir: &std::path::Path) -> (Vec<Fact>, Inventory) {
    let ledger = Arc::new(Ledger::Embedded(Embedded::open(dir, Options::default()).unwrap()));
    let mut heads = HashMap::new();
    for (number, stored) in (1..).zip(events) {
        let stream = StreamName::new(&stored.stream).unwrap();
        let event = NewEvent {
            id: Uuid::from_u128(number),
            kind: Cow::Owned(stored.kind.clone()),
            data: stored.data.get().as_bytes().to_vec(),
            metadata: b"{}".to_vec(),
        };
        let next = heads.entry(stored.stream.clone()).or_insert(0);
        let expected = Expected::at_head(u64::checked_sub(*next, 1));
        *next += 1;
        let records = vec![(stream.clone(), event)];
        block_on(ledger.append(Append { records, checks: vec![(stream, expected)] })).unwrap();
    }
    let recorded = block_on(ledger.read_all(0, events.len() + 1)).unwrap();
    let facts = recorded.into_iter().map(|recorded| Fact::of(recorded).unwrap());
    let inventory = block_on(Inventory::open(dir, ledger.clone())).unwrap();
    block_on(inventory.wait_for(events.len() as u64 - 1)).unwrap();
    (facts.collect(), inventory)
}

#[test]
fn fixtures_lead_to_their_states_and_to_what_the_read_models_say() {
    for name in ALL {
        let fixture = fixture(name);
        let dir = tempfile::TempDir::new().unwrap();
        let (facts, inventory) = ledger_of(&fixture.events, dir.path());
        let events: Vec<_> = facts.iter().map(Event::of).collect();
        assert_eq!(run(name, &events).states(), fixture.states, "{name}");
        compare::check(&facts, &inventory);
    }
}

#[test]
fn nothing_is_kept_beside_the_states() {
    for name in ALL {
        let fixture = fixture(name);
        let mut engine = load(name);
        for (number, stored) in (0..).zip(&fixture.events) {
            let event = Event {
                stream: stored.stream.clone(),
                revision: number,
                kind: stored.kind.clone(),
                data: stored.data.get().to_owned(),
                is_json: true,
            };
            engine.restart();
            engine.feed(&event).unwrap();
        }
        assert_eq!(engine.states(), fixture.states, "{name}");
    }
}
