//! The projections that KurrentDB runs for its users: fixtures, the read models of the service on
//! the same events, and the limits of the server.

mod bounds;
mod compare;
mod engine;
mod fixtures;
mod install;
mod random;

use std::fs;
use std::path::{Path, PathBuf};

use license_ledger::ledger::tail::Fact;
use serde_json::Value;

use engine::{Engine, Event};

const DEVICES: &str = "live-licenses-per-device-v1";
const KIDS: &str = "holders-per-kid-v1";
const ACCOUNTS: &str = "usage-per-account-v1";
const REFUSALS: &str = "refusals-per-day-v1";
const ALL: [&str; 4] = [DEVICES, KIDS, ACCOUNTS, REFUSALS];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("projections")
}

fn load(name: &str) -> Engine {
    Engine::load(&fs::read_to_string(folder().join(format!("{name}.js"))).unwrap())
}

/// What a projection makes of a log.
fn run(name: &str, events: &[Event]) -> Engine {
    let mut engine = load(name);
    for event in events {
        engine.feed(event).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    engine
}

impl Event {
    fn of(fact: &Fact) -> Self {
        let recorded = &fact.recorded;
        Self {
            stream: recorded.stream.to_string(),
            revision: recorded.revision,
            kind: recorded.kind.to_string(),
            data: String::from_utf8(recorded.data.clone()).unwrap(),
            is_json: true,
        }
    }
}

#[test]
fn every_projection_has_its_fixture_and_its_place_here() {
    let files = fs::read_dir(folder()).unwrap();
    let mut files: Vec<_> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let mut expected: Vec<_> = ALL
        .iter()
        .flat_map(|name| [format!("{name}.fixture.json"), format!("{name}.js")])
        .collect();
    expected.sort();
    assert_eq!(files, expected);
}

#[test]
fn events_of_other_applications_change_nothing() {
    let kinds = ["license-acquired.v1", "license-deleted.v1", "slot-taken.v1", "slots-moved.v1"];
    let kinds = kinds.into_iter().chain(["device-took-over.v1", "acquisition-refused.v1"]);
    let foreign = |kind: &str| {
        let bodies =
            ["{}", "null", "7", "[]", "\"text\"", r#"{"key_id": 7, "at_ms": "soon"}"#, "\u{1}"];
        let streams = ["license-1", "device-1", "my-device-2234", "account-x", "user-a"];
        let kind = kind.to_owned();
        streams.into_iter().flat_map(move |stream| {
            let kind = kind.clone();
            bodies.into_iter().map(move |body| Event {
                stream: stream.to_owned(),
                revision: 0,
                kind: kind.clone(),
                data: body.to_owned(),
                is_json: !body.starts_with('\u{1}'),
            })
        })
    };
    let events: Vec<_> = kinds.flat_map(foreign).collect();
    for name in ALL {
        // The empty state of a partition is what a stream of others may leave behind.
        let mut states = run(name, &events).states().into_values();
        let empty = |state: &Value| match &state["days"] {
            Value::Null => state["at_ms"] == 0 && state["untracked"] == 0,
            days => days == &serde_json::json!({}),
        };
        assert!(states.all(|state| empty(&state)), "{name}");
    }
}
