//! Over real connections, to this program's own endpoint. What a KurrentDB server does differently is
//! beyond these: the contract of the engines runs on one if there is one.

mod front;
pub(in crate::ledger) mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;

use self::front::{Front, Manner};
use self::server::Server;
use super::*;
use crate::ledger::event::{Expected, NewEvent};

/// How long anything may take to work again.
const RECOVERY: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_later_is_waited_for() {
    let mut server = Server::stopped();
    let options = server.options(&server.address.to_string());
    let opening = tokio::spawn({
        let data = server.data("one");
        async move { Kurrent::open(&data, options).await }
    });
    // Long enough for a first attempt to have failed.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opening.is_finished());
    server.serve();
    let ledger = timeout(RECOVERY, opening).await.unwrap().unwrap().unwrap();
    ledger.append(one("a", Expected::NoStream, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_when_the_server_was_killed_or_stopped_in_order() {
    let mut server = Server::start();
    let ledger = Arc::new(server.connect("one").await);
    ledger.append(one("a", Expected::NoStream, 1)).await.unwrap();
    for (revision, in_order) in [(1, false), (2, true), (3, false)] {
        match in_order {
            true => server.stop().await,
            false => server.kill(),
        }
        let appending = tokio::spawn({
            let ledger = Arc::clone(&ledger);
            let append = one("a", Expected::At(revision - 1), u128::from(revision) + 1);
            async move { ledger.append(append).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!appending.is_finished(), "nobody could have answered");
        server.serve();
        let appended = timeout(RECOVERY, appending).await.unwrap().unwrap().unwrap();
        assert_eq!(appended.revisions, [(name("a"), revision)]);
        assert_eq!(appended.last_sequence, revision);
        assert_eq!(ledger.head(&name("a")).await.unwrap(), Some(revision));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_a_dead_leader_for_the_next() {
    let mut server = Server::start();
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let second = server.endpoint(local);
    let both = format!("{},{}", server.address, second.address());
    let ledger = server.connect_by(&both, &server.data("one")).await;
    ledger.append(one("a", Expected::NoStream, 1)).await.unwrap();
    server.kill();
    let append = ledger.append(one("a", Expected::At(0), 2));
    assert_eq!(timeout(RECOVERY, append).await.unwrap().unwrap().last_sequence, 1);
    assert_eq!(ledger.head(&name("a")).await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_appends_do_not_wait_for_the_network() {
    let server = Server::start();
    let ledger = server.connect("one").await;
    let mut expected = Expected::NoStream;
    let started = std::time::Instant::now();
    for id in 1..=100 {
        let appended = ledger.append(one("a", expected, id)).await.unwrap();
        expected = Expected::At(appended.revisions[0].1);
    }
    // Each would wait 40 ms.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_see_what_others_store_under_the_same_numbers() {
    let server = Server::start();
    let (one_process, other) = (server.connect("one").await, server.connect("other").await);
    for id in 1..=20_u64 {
        let (writer, reader) =
            if id % 2 == 0 { (&one_process, &other) } else { (&other, &one_process) };
        let expected = Expected::at_head((id - 1).checked_sub(1));
        let appended = writer.append(one("a", expected, id.into())).await.unwrap();
        let read = reader.read_stream(&name("a"), id - 1, 10).await.unwrap();
        assert_eq!(read[0].sequence, appended.last_sequence);
        assert_eq!(read[0].cursor, appended.cursor);
        assert_eq!(reader.head(&name("a")).await.unwrap(), Some(id - 1));
        let last = reader.last_sequence().await.unwrap();
        assert_eq!(last, Some(appended.last_sequence));
        assert_eq!(reader.read_all(appended.last_sequence, 1).await.unwrap(), read);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_decisions_on_one_command_only_the_stored_one_is_acknowledged() {
    let server = Server::start();
    let (one_process, other) = (server.connect("one").await, server.connect("other").await);
    for round in 0..50_u64 {
        let expected = Expected::at_head(round.checked_sub(1));
        let id = u128::from(round) + 1;
        // The same ids and checks, as both have decided the same command, with another outcome.
        let append = one("a", expected, id);
        let mut rival = append.clone();
        rival.records[0].1.data = b"{\"other\":true}".to_vec();
        let (first, second) = tokio::join!(one_process.append(append), other.append(rival));
        let stored = server.ledger.read_all(round, 1).await.unwrap().remove(0);
        let won = (stored.data != b"{\"other\":true}", stored.data == b"{\"other\":true}");
        assert_eq!((first.is_ok(), second.is_ok()), won, "{first:?} {second:?}");
        let lost = if won.0 { second } else { first };
        assert!(matches!(lost, Err(AppendError::IdReused { .. })), "{lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_send_the_same_append_are_told_where_it_stands_once() {
    let server = Server::start();
    let (one_process, other) = (server.connect("one").await, server.connect("other").await);
    for round in 0..50_u64 {
        let append = one("a", Expected::at_head(round.checked_sub(1)), u128::from(round) + 1);
        let again = append.clone();
        let (first, second) = tokio::join!(one_process.append(append), other.append(again.clone()));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.last_sequence, round);
        assert_eq!(first.revisions, second.revisions);
        assert_eq!(first.first_sequence, second.first_sequence);
        assert!(one_process.append(again).await.unwrap().already_stored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_among_concurrent_appends_is_only_its_own() {
    let server = Server::start();
    let ledger = Arc::new(server.connect("one").await);
    ledger.append(one("a-0", Expected::NoStream, 1_000)).await.unwrap();
    for round in 0..10_u128 {
        let appends: Vec<_> = (0..32_u128)
            .map(|number| {
                let ledger = Arc::clone(&ledger);
                let stream = format!("a-{}", round * 32 + number);
                let append = match number {
                    // The first stream has an event.
                    0 => one("a-0", Expected::NoStream, 2_000 + round),
                    _ => one(&stream, Expected::NoStream, round * 32 + number + 1),
                };
                tokio::spawn(async move { ledger.append(append).await })
            })
            .collect();
        for (number, append) in appends.into_iter().enumerate() {
            let outcome = append.await.unwrap();
            let is_conflict = matches!(outcome, Err(AppendError::Conflict { .. }));
            assert_eq!((outcome.is_ok(), is_conflict), (number != 0, number == 0), "{outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_an_earlier_version_is_refused_at_once() {
    let server = Server::start();
    let front = Front::start(server.address, Manner::Old).await;
    let options = server.options(&front.address.to_string());
    let opened = timeout(RECOVERY, Kurrent::open(&server.data("one"), options)).await.unwrap();
    let Err(KurrentError::Node(error @ NodeError::TooOld { .. })) = opened else {
        panic!("it was opened, or refused for another reason");
    };
    let said = error.to_string();
    assert!(said.contains("25.1.0") && said.contains("26.0.3"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_lead_is_left_for_the_one_that_does() {
    let server = Server::start();
    let front = Front::start(server.address, Manner::Follower(server.address)).await;
    let ledger = server.connect_by(&front.address.to_string(), &server.data("one")).await;
    ledger.append(one("a", Expected::NoStream, 1)).await.unwrap();
    let asked = front.calls();
    assert!((1..=2).contains(&asked), "asked {asked} times");
    // One that led when it was connected to.
    let front = Front::start(server.address, Manner::Plain).await;
    let ledger = server.connect_by(&front.address.to_string(), &server.data("other")).await;
    ledger.append(one("a", Expected::At(0), 2)).await.unwrap();
    front.set(Manner::Follower(server.address));
    let append = timeout(RECOVERY, ledger.append(one("a", Expected::At(1), 3)));
    assert_eq!(append.await.unwrap().unwrap().last_sequence, 2);
    assert_eq!(ledger.head(&name("a")).await.unwrap(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_ended_in_order_is_begun_again_without_haste() {
    let server = Server::start();
    for number in 0..20_u64 {
        let append = one(
            "user-contract-a",
            Expected::at_head(number.checked_sub(1)),
            1 + u128::from(number),
        );
        server.ledger.append(append).await.unwrap();
    }
    let front = Front::start(server.address, Manner::Ending(4)).await;
    let ledger = server.connect_by(&front.address.to_string(), &server.data("one")).await;
    assert_eq!(ledger.last_sequence().await.unwrap(), Some(19));
    let begun = front.subscriptions();
    assert!((5..=8).contains(&begun), "{begun} subscriptions for five times four events");
    // One that ends before it has brought anything is begun less and less often.
    front.set(Manner::Ending(0));
    front.end_subscriptions();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = front.subscriptions() - begun;
    assert!((3..=12).contains(&begun), "{begun} subscriptions in 3 s");
    front.set(Manner::Plain);
    let append = ledger.append(one("a", Expected::At(19), 21));
    assert_eq!(timeout(RECOVERY, append).await.unwrap().unwrap().last_sequence, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_how_many_events_were_not_heard_of() {
    let server = Server::start();
    let front = Front::start(server.address, Manner::Plain).await;
    let ledger = server.connect_by(&front.address.to_string(), &server.data("one")).await;
    ledger.append(one("a", Expected::NoStream, 1)).await.unwrap();
    assert_eq!(ledger.behind(), 0);
    // What it follows by is ended, and what it begins anew brings nothing.
    front.set(Manner::Silent);
    front.end_subscriptions();
    let writer = server.connect("writer").await;
    for number in 1..=40_u64 {
        let append = one("a", Expected::At(number - 1), u128::from(number) + 1);
        writer.append(append).await.unwrap();
    }
    wait_until(|| ledger.behind() == 40).await;
    assert!(ledger.trouble().is_none());
    front.set(Manner::Plain);
    wait_until(|| ledger.behind() == 0).await;
    assert_eq!(*ledger.subscribe().borrow(), Some(40));
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(RECOVERY, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ledgers_under_other_prefixes_are_found_by_their_beginnings() {
    let server = Server::start();
    let begin = async |prefix: &str, stream: &str, kind: &'static str, id| {
        let options = Options {
            stream_prefix: prefix.to_owned(),
            ..server.options(&server.address.to_string())
        };
        let ledger = Kurrent::open(&server.data(prefix), options).await.unwrap();
        let mut append = one(stream, Expected::NoStream, id);
        append.records[0].1.kind = kind.into();
        ledger.append(append).await.unwrap();
        ledger
    };
    let one_ledger = begin("user-one-", "pins", "keys-pinned.v1", 1).await;
    begin("user-two-", "policy", "quota-policy-published.v1", 2).await;
    let third = begin("user-three-", "policy", "another-kind.v1", 3).await;
    let marks = [("pins", "keys-pinned.v1"), ("policy", "quota-policy-published.v1")];
    assert_eq!(one_ledger.neighbors(&marks).await.unwrap(), ["user-two-"]);
    assert_eq!(third.neighbors(&marks).await.unwrap(), ["user-one-", "user-two-"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_from_what_it_noted_and_counts_anew_what_it_did_not() {
    let server = Server::start();
    let writer = server.connect("writer").await;
    let mut expected = Expected::NoStream;
    let mut append = async |id: u128| {
        let appended = writer.append(one("a", expected, id)).await.unwrap();
        expected = Expected::At(appended.revisions[0].1);
    };
    let data = server.data("one");
    let address = server.address.to_string();
    for stop in 1..=3_u128 {
        for event in 1..=10 {
            append(stop * 100 + event).await;
        }
        if stop == 3 {
            std::fs::remove_file(data.join("places.db")).unwrap();
        }
        let ledger = server.connect_by(&address, &data).await;
        let all = ledger.read_all(0, 1000).await.unwrap();
        let sequences: Vec<_> = all.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, (0..10 * stop as u64).collect::<Vec<_>>());
        ledger.close().await;
    }
    // A directory that followed another log.
    let other = Server::start();
    let ledger = other.connect_by(&other.address.to_string(), &data).await;
    assert_eq!(ledger.last_sequence().await.unwrap(), None);
    assert_eq!(ledger.read_all(0, 10).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_the_prefix_are_another_ledger() {
    let server = Server::start();
    let ledger = server.connect("one").await;
    let options = Options {
        stream_prefix: "user-other-".to_owned(),
        ..server.options(&server.address.to_string())
    };
    let neighbor = Kurrent::open(&server.data("other"), options).await.unwrap();
    neighbor.append(one("a", Expected::NoStream, 100)).await.unwrap();
    ledger.append(one("a", Expected::NoStream, 1)).await.unwrap();
    neighbor.append(one("a", Expected::At(0), 101)).await.unwrap();
    let appended = ledger.append(one("a", Expected::At(0), 2)).await.unwrap();
    assert_eq!(appended.last_sequence, 1);
    assert_eq!(neighbor.last_sequence().await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_server_is_no_conflict() {
    let server = Server::start();
    let mut options = server.options(&server.address.to_string());
    // Streams of the service itself, where every event has to be one of the service.
    options.stream_prefix = String::new();
    let ledger = Kurrent::open(&server.data("one"), options).await.unwrap();
    let refused = ledger.append(one("device-a", Expected::NoStream, 1)).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable(Unavailable::Refused(_)))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_process() {
    let server = Server::start();
    let _ledger = server.connect("one").await;
    let second = Kurrent::open(&server.data("one"), server.options("127.0.0.1:1")).await;
    assert!(matches!(second, Err(KurrentError::Directory(OpenError::InUse { .. }))));
}

fn name(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn one(stream: &str, expected: Expected, id: u128) -> Append {
    let event = NewEvent {
        id: Uuid::from_u128(id),
        kind: "tested.v1".into(),
        data: format!("{{\"n\":{id}}}").into_bytes(),
        metadata: b"{\"schema\":1}".to_vec(),
    };
    Append { records: vec![(name(stream), event)], checks: vec![(name(stream), expected)] }
}
