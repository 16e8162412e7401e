//! `copy`: the real program, between directories and an endpoint that it reaches over TCP.

mod keeper;
mod moved;
mod refused;
mod resumed;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use license_ledger::access::Scope;
use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::users::UserMetadata;
use license_ledger::ledger::{Append, Embedded, Expected, Ledger, NewEvent, Recorded, StreamName};
use tempfile::TempDir;
use uuid::Uuid;

use self::keeper::Keeper;
use crate::process::{Ran, program};
use crate::service::{block_on, golden_path};

/// Events; `LICENSE_LEDGER_TEST_COPY_EVENTS` sets another number.
const EVENTS: u64 = 50_000;

/// What reads a ledger and writes it.
const COPIER: [Scope; 2] = [Scope::EventsRead, Scope::LedgerAppend];

/// A folder for several ledgers.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A ledger of so many events of all kinds.
    fn with_source(count: u64) -> Self {
        let place = Self::new();
        write(&place.path("source"), events(count));
        place
    }

    /// From one directory to another.
    fn copy(&self, from: &str, to: &str) -> Ran {
        copy(&["--from", &self.text(from), "--to", &self.text(to)])
    }
}

/// Runs `copy` with these arguments to its end, however long it takes.
fn copy(args: &[&str]) -> Ran {
    let mut command = program();
    let ran = command.arg("copy").args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = ran.status.code().unwrap_or(-1);
    Ran { code, stdout: text(ran.stdout), stderr: text(ran.stderr) }
}

/// Metadata that is hard to carry, beside what the service itself writes.
const METADATA: [&[u8]; 9] = [
    br#"{"correlation":"a-b","schema":1}"#,
    br#"{"correlation":"c \" \u00e9","schema":1}"#,
    br#"{"$correlationId":"x","schema":1.0}"#,
    br#"{ "b" : 1, "a" : [ 2.50 ] }"#,
    br#"{"license-ledger-at-ms":"7"}"#,
    b"{}",
    b"",
    b"no JSON",
    b"\n\xff\x00",
];

/// Events as a ledger may hold them: one of every kind that there is, over and over, on many
/// streams, and among them events of the users.
fn events(count: u64) -> impl Iterator<Item = (StreamName, NewEvent)> {
    let mut goldens: Vec<_> = std::fs::read_dir(golden_path("events"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_owned(), std::fs::read(path).unwrap()))
        .collect();
    goldens.sort();
    let kind = |n: usize| goldens[n % goldens.len()].0.to_str().unwrap().to_owned();
    let goldens: Vec<_> = (0..goldens.len()).map(|n| (kind(n), goldens[n].1.clone())).collect();
    (0..count).map(move |n| {
        let metadata = METADATA[n as usize % METADATA.len()];
        let (kind, data) = &goldens[n as usize % goldens.len()];
        let (stream, event) = if n % 10 == 9 {
            let known = UserMetadata { at_ms: 1_600_000_000_000 + n as i64, json: n % 20 == 9 };
            let data = [b"\x00\xff\n".to_vec(), n.to_be_bytes().to_vec()].concat();
            (format!("user-{}", n % 70), ("Noted".to_owned(), data, known.write(metadata)))
        } else {
            let stream = format!("device-{}", n.wrapping_mul(7919) % 997);
            (stream, (kind.clone(), data.clone(), metadata.to_vec()))
        };
        let (kind, data, metadata) = event;
        let id = u128::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let event = NewEvent { id: Uuid::from_u128(id), kind: kind.into(), data, metadata };
        (StreamName::new(&stream).unwrap(), event)
    })
}

/// Appends to the ledger in `data`.
fn write(data: &Path, events: impl Iterator<Item = (StreamName, NewEvent)>) {
    let ledger = Ledger::Embedded(Embedded::open(data, Options::default()).unwrap());
    let mut heads = HashMap::<StreamName, u64>::new();
    let mut events = events.peekable();
    block_on(async {
        while events.peek().is_some() {
            let records: Vec<_> = events.by_ref().take(500).collect();
            let mut checks = HashMap::new();
            for (stream, _) in &records {
                let head = heads.get(stream).copied();
                checks.entry(stream.clone()).or_insert(Expected::at_head(head));
                heads.insert(stream.clone(), head.map_or(0, |head| head + 1));
            }
            let append = Append { records, checks: checks.into_iter().collect() };
            ledger.append(append).await.unwrap();
        }
        ledger.close().await;
    });
}

fn open(data: &Path) -> Ledger {
    Ledger::Embedded(Embedded::open_read_only(data).unwrap())
}

fn count(ledger: &Ledger) -> u64 {
    block_on(ledger.last_sequence()).unwrap().map_or(0, |last| last + 1)
}

/// Checks that both hold the same first `events` events, all of it, and returns whether neither
/// holds more.
fn same(one: &Ledger, other: &Ledger, events: u64) -> bool {
    let page =
        |ledger: &Ledger, from| -> Vec<Recorded> { block_on(ledger.read_all(from, 1000)).unwrap() };
    for from in (0..events).step_by(1000) {
        let (mut one, mut other) = (page(one, from), page(other, from));
        let left = usize::try_from(events - from).unwrap();
        one.truncate(left);
        other.truncate(left);
        assert!(one == other, "events differ from {from} on");
    }
    count(one) == events && count(other) == events
}

#[test]
fn events_are_copied_there_and_back_byte_for_byte() {
    let events = std::env::var("LICENSE_LEDGER_TEST_COPY_EVENTS");
    let events = events.map_or(EVENTS, |text| text.parse().unwrap());
    let place = Place::with_source(events);
    let keeper = Keeper::start(&place, &COPIER);
    let (source, back) = (place.text("source"), place.text("back"));
    let to_keeper = ["--from", &source, "--to", &keeper.url, "--to-credentials"];
    let to_keeper = [&to_keeper[..], &[&keeper.credentials]].concat();
    let there = copy(&[&to_keeper[..], &["--json"]].concat()).ok();
    let told = there.json();
    assert_eq!((&told["events"], &told["copied"]), (&events.into(), &events.into()));
    assert_eq!(told["source_sha256"], told["target_sha256"]);
    assert!(there.stderr.contains(&format!("copying   {events} of {events} events")), "{there:?}");
    let from_keeper = ["--from", &keeper.url, "--from-credentials", &keeper.credentials];
    let home = copy(&[&from_keeper[..], &["--to", &back, "--json"]].concat()).ok().json();
    assert_eq!(home["target_sha256"], told["source_sha256"]);
    let (source, back) = (open(&place.path("source")), open(&place.path("back")));
    assert!(same(&source, &keeper.ledger, events));
    assert!(same(&source, &back, events));

    // A copy that is complete is complete.
    let again = copy(&to_keeper).ok();
    let complete = format!("the copy is complete: all {events} events were there\n");
    assert!(again.stdout.starts_with(&complete), "{again:?}");
    assert!(again.stdout.contains(told["source_sha256"].as_str().unwrap()), "{again:?}");
    assert_eq!(count(&keeper.ledger), events);
}

#[test]
fn what_came_meanwhile_is_copied_by_the_next_run() {
    let place = Place::with_source(700);
    assert_eq!(
        place.copy("source", "target").ok().stdout.lines().next(),
        Some("copied 700 events")
    );
    let (before, after) = (700, 1500);
    std::fs::remove_dir_all(place.path("source")).unwrap();
    write(&place.path("source"), events(after));
    let next = place.copy("source", "target").ok();
    let said = format!("copied {} events, after {before} that were there", after - before);
    assert_eq!(next.stdout.lines().next(), Some(said.as_str()));
    assert!(same(&open(&place.path("source")), &open(&place.path("target")), after));
}

#[test]
fn a_ledger_without_events_is_copied_at_once() {
    let place = Place::with_source(0);
    let ran = place.copy("source", "target").ok();
    assert!(ran.stdout.starts_with("the copy is complete: all 0 events were there"), "{ran:?}");
}
