//! Copies that are refused or fail: nothing of the target is changed, and one line says why.

use std::sync::Arc;

use license_ledger::access::Scope;
use license_ledger::ledger::copy::{CopyError, Stage, copy as copy_ledger};
use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::{Append, Embedded, Expected, Ledger, NewEvent, StreamName};
use uuid::Uuid;

use super::keeper::Keeper;
use super::{COPIER, Place, copy, count, events, open, write};
use crate::process::Serving;
use crate::service::block_on;

type Change = fn(&mut (StreamName, NewEvent));

#[test]
fn a_target_that_holds_something_else_is_refused_with_the_place() {
    let place = Place::with_source(400);
    let changes: [(&str, Change); 5] = [
        ("another stream", |(stream, _)| *stream = StreamName::new("device-x").unwrap()),
        ("another id", |(_, event)| event.id = Uuid::from_u128(7)),
        ("another type", |(_, event)| event.kind = "device-renamed.v1".into()),
        ("another data", |(_, event)| event.data.push(b' ')),
        ("another metadata", |(_, event)| event.metadata.push(b' ')),
    ];
    for (says, change) in changes {
        let changed = events(300).enumerate().map(|(n, mut event)| {
            if n == 234 {
                change(&mut event);
            }
            event
        });
        let target = says.split(' ').nth(1).unwrap();
        write(&place.path(target), changed);
        let ran = place.copy("source", target);
        ran.failed(1, &["event 234 of the target is not that of the source", says]);
        assert_eq!(count(&open(&place.path(target))), 300);
    }
}

#[test]
fn a_target_that_goes_on_beyond_the_source_is_refused() {
    let place = Place::with_source(400);
    write(&place.path("longer"), events(401));
    let ran = place.copy("source", "longer");
    ran.failed(1, &["holds all 400 events of the source and goes on with others (401 in all)"]);
}

#[test]
fn a_target_that_was_served_before_holds_something_else_and_one_that_is_being_served_is_in_use() {
    let place = Place::with_source(400);
    let service = Serving::start(&place.path("served"), &[]);
    place.copy("source", "served").failed(2, &["--to cannot be used", "is in use", "Stop it"]);
    // To read from it is all right.
    let events = count(&open(&place.path("served")));
    let ran = place.copy("served", "mirror").ok();
    assert!(ran.stdout.starts_with(&format!("copied {events} events")), "{ran:?}");
    service.stop();
    place.copy("source", "served").failed(1, &["event 0 of the target is not that"]);
}

#[test]
fn sides_that_cannot_be_used_are_named() {
    let place = Place::with_source(10);
    let nowhere = place.copy("nowhere", "target");
    nowhere.failed(2, &["--from cannot be used", "holds no event log"]);
    assert!(!place.path("target").exists());
    place.copy("source", "source").failed(2, &["--from and --to are the same directory"]);
    let source = place.text("source");
    let same = copy(&["--from", &source, "--to", &format!("{source}/../source")]);
    same.failed(2, &["--from and --to are the same directory"]);
    for (url, says) in [
        ("http://one:2113", "it must begin with kurrentdb://"),
        ("kurrentdb://admin:changeit@one:2113", "it must hold no credentials"),
        ("kurrentdb://one:2113?tlsVerifyCert=false", "tlsVerifyCert=false"),
        ("kurrentdb://one:2113?tlsCaFile=/nowhere/ca.pem", "/nowhere/ca.pem"),
    ] {
        let ran = copy(&["--from", &source, "--to", url]);
        ran.failed(2, &["--to cannot be used", says]);
    }
}

#[test]
fn who_may_only_read_copies_from_an_endpoint_and_not_to_it() {
    let place = Place::with_source(10);
    let keeper = Keeper::start(&place, &[Scope::EventsRead]);
    let (source, target) = (place.text("source"), place.text("target"));
    let credentials = ["--to-credentials", &keeper.credentials];
    let ran = copy(&[&["--from", &source, "--to", &keeper.url][..], &credentials].concat());
    ran.failed(2, &["does not take the events from 0 on", "ledger:append"]);
    assert_eq!(count(&keeper.ledger), 0);
    let credentials = ["--from-credentials", &keeper.credentials];
    copy(&[&["--from", &keeper.url, "--to", &target][..], &credentials].concat()).ok();
}

#[test]
fn an_event_that_the_service_does_not_understand_is_not_taken_by_its_endpoint() {
    let place = Place::new();
    let strange = events(10).enumerate().map(|(n, (stream, mut event))| {
        if n == 4 {
            event.kind = "other.v1".into();
        }
        (stream, event)
    });
    write(&place.path("source"), strange);
    let keeper = Keeper::start(&place, &COPIER);
    let source = place.text("source");
    let args = ["--from", &source, "--to", &keeper.url, "--to-credentials", &keeper.credentials];
    copy(&args).failed(2, &["none of the service's own", "other.v1"]);
}

#[test]
fn somebody_else_who_writes_to_the_target_is_noticed() {
    let place = Place::with_source(3000);
    let open = |name: &str| Embedded::open(&place.path(name), Options::default()).unwrap();
    let source = Ledger::Embedded(open("source"));
    for stage in [Stage::Copying, Stage::Verifying] {
        let name = format!("{stage:?}");
        let target = Arc::new(Ledger::Embedded(open(&name)));
        let mut intruded = false;
        let copied = block_on(copy_ledger(&source, &target, |progress| {
            if progress.stage == stage && progress.done > 0 && !intruded {
                intruded = true;
                let target = Arc::clone(&target);
                let intrude = move || block_on(target.append(foreign())).map(drop);
                std::thread::spawn(intrude).join().unwrap().unwrap();
            }
        }));
        assert!(intruded);
        assert!(matches!(copied, Err(CopyError::NotAlone { .. })), "{copied:?}");
    }
}

fn foreign() -> Append {
    let stream = StreamName::new("user-else").unwrap();
    let event = NewEvent {
        id: Uuid::from_u128(1),
        kind: "Noted".into(),
        data: b"{}".to_vec(),
        metadata: Vec::new(),
    };
    Append { records: vec![(stream.clone(), event)], checks: vec![(stream, Expected::NoStream)] }
}
