//! The engine for clusters, over a wire that is cut.

use license_ledger::domain::Event;
use license_ledger::domain::event::ApiKeyRevoked;
use license_ledger::ledger::kurrent::{Credentials, Options};
use license_ledger::ledger::{Append, Expected, Kurrent, NewEvent, StreamName};
use tokio::time::timeout;

use super::wire::{Cut, Wire};
use super::{Group, RECOVERY};

async fn connect(group: &Group, name: &str, port: u16) -> Kurrent {
    let credentials = std::fs::read_to_string(group.path("credentials")).unwrap();
    let (user, password) = credentials.trim_end().split_once(':').unwrap();
    let credentials =
        Some(Credentials { user: user.to_owned(), password: password.to_owned().into() });
    let address = format!("kurrentdb://127.0.0.1:{port}?tls=false").parse().unwrap();
    let options = Options { address, credentials, stream_prefix: String::new() };
    Kurrent::open(&group.path(name), options).await.unwrap()
}

fn one(number: u64) -> Append {
    let stream = StreamName::new("user-a").unwrap();
    let event = Event::ApiKeyRevoked(ApiKeyRevoked {
        key_id: number.to_string(),
        actor: "test".to_owned(),
        at_ms: 0,
    });
    let event = NewEvent::of(&stream, &event, "test").unwrap();
    let expected = Expected::at_head(number.checked_sub(1));
    Append { records: vec![(stream.clone(), event)], checks: vec![(stream, expected)] }
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
