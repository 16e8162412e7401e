//! The engine for clusters, over a wire that is cut.

use std::time::Duration;

use license_ledger::domain::Event;
use license_ledger::domain::event::ApiKeyRevoked;
use license_ledger::ledger::kurrent::{Credentials, Options};
use license_ledger::ledger::{Append, AppendError, Expected, Kurrent, NewEvent, StreamName};
use tokio::time::timeout;

use super::wire::{Cut, Wire};
use super::{Group, RECOVERY, ledger_at};

pub(super) async fn connect(group: &Group, name: &str, port: u16) -> Kurrent {
    let address = ledger_at(port);
    connect_to(group, name, &address).await
}

async fn connect_to(group: &Group, name: &str, address: &str) -> Kurrent {
    let credentials = std::fs::read_to_string(group.path("credentials")).unwrap();
    let (user, password) = credentials.trim_end().split_once(':').unwrap();
    let credentials =
        Some(Credentials { user: user.to_owned(), password: password.to_owned().into() });
    let address = address.parse().unwrap();
    let options = Options { address, credentials, stream_prefix: String::new() };
    Kurrent::open(&group.path(name), options).await.unwrap()
}

fn one(number: u64) -> Append {
    many("user-a", number, 1)
}

/// Appends events to a stream that is as long as the number of the first.
pub(super) fn many(stream: &str, first: u64, count: u64) -> Append {
    let stream = StreamName::new(stream).unwrap();
    let record = |number: u64| {
        let event = Event::ApiKeyRevoked(ApiKeyRevoked {
            key_id: number.to_string(),
            actor: "test".to_owned(),
            at_ms: 0,
        });
        (stream.clone(), NewEvent::of(&stream, &event, "test").unwrap())
    };
    let expected = Expected::at_head(first.checked_sub(1));
    let records = (first..first + count).map(record).collect();
    Append { records, checks: vec![(stream, expected)] }
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_and_reads_go_on_when_the_connection_was_cut_in_any_way() {
    let group = tokio::task::spawn_blocking(|| Group::start(1, 0, |port| port)).await.unwrap();
    let wire = std::thread::spawn({
        let port = group.port;
        move || Wire::start(port)
    });
    let wire = wire.join().unwrap();
    let ledger = connect(&group, "one", wire.port).await;
    let stream = StreamName::new("user-a").unwrap();
    let first = ledger.append(one(0)).await.unwrap();
    let cuts = [Cut::Closed, Cut::ToClient, Cut::ToServer, Cut::BothWays];
    for (revision, cut) in (1..).zip(cuts) {
        wire.cut(cut);
        let appended = timeout(RECOVERY, ledger.append(one(revision))).await;
        let appended = appended.unwrap_or_else(|_| panic!("{cut:?}")).unwrap();
        assert_eq!(appended.last_sequence, first.last_sequence + revision, "{cut:?}");
        assert_eq!(ledger.head(&stream).await.unwrap(), Some(revision), "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_brings_nothing_is_noticed() {
    let group = tokio::task::spawn_blocking(|| Group::start(1, 0, |port| port)).await.unwrap();
    let port = group.port;
    let wire = std::thread::spawn(move || Wire::start(port)).join().unwrap();
    let ledger = connect(&group, "one", wire.port).await;
    let other = connect(&group, "other", port).await;
    // Everything there is goes silent, and this process asks for nothing.
    wire.cut(Cut::BothWays);
    let appended = other.append(one(0)).await.unwrap();
    let mut told = ledger.subscribe();
    let told = told.wait_for(|last| *last >= Some(appended.last_sequence));
    timeout(RECOVERY, told).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_answered_in_time_whatever_the_network_does() {
    let group = tokio::task::spawn_blocking(|| Group::start(1, 0, |port| port)).await.unwrap();
    let port = group.port;
    let wire = std::thread::spawn(move || Wire::start(port)).join().unwrap();
    let ledger = connect(&group, "one", wire.port).await;
    let first = ledger.append(one(0)).await.unwrap();
    let wire = std::sync::Arc::new(wire);
    let cutting = std::thread::spawn({
        let wire = std::sync::Arc::clone(&wire);
        move || wire.cut_for(Cut::ToClient, Duration::from_secs(12))
    });
    // What the server says is lost, so that it may be stored; and a part of a request's time is over
    // when the append begins.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = std::time::Instant::now();
    let unknown = ledger.append(one(1)).await;
    let took = started.elapsed();
    assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
    // A request has 15 s.
    assert!(took < Duration::from_secs(14), "{took:?}");
    cutting.join().unwrap();
    let appended = timeout(RECOVERY, ledger.append(one(1))).await.unwrap().unwrap();
    assert_eq!(appended.last_sequence, first.last_sequence + 1);
    let again = ledger.append(one(1)).await.unwrap();
    assert!(again.already_stored);
    assert_eq!(again.last_sequence, appended.last_sequence);
}
