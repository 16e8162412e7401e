//! What every engine does, in small tests that know nothing of the engine.
//!
//! They run on the embedded engine; on the engine for clusters, over a real connection to this
//! program's own endpoint; and on a KurrentDB server if `KURRENTDB_URL` says where one is
//! (`KURRENTDB_CREDENTIALS` is `name:password` for it).

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::embedded::Options;
use super::kurrent::tests::server::Server;
use super::*;

#[tokio::test]
async fn sequences_and_revisions_are_gapless_from_zero() {
    on_every_engine(async |ledger| {
        assert_eq!(ledger.last_sequence().await.unwrap(), None);
        assert_eq!(ledger.head(&name("a")).await.unwrap(), None);
        let first = ledger.append(one("a", Expected::NoStream, event(1))).await.unwrap();
        let second = ledger.append(one("b", Expected::NoStream, event(2))).await.unwrap();
        let third = ledger.append(one("a", Expected::At(0), event(3))).await.unwrap();
        assert_eq!((first.first_sequence, first.last_sequence), (0, 0));
        assert_eq!(second.revisions, [(name("b"), 0)]);
        assert_eq!(third.revisions, [(name("a"), 1)]);
        assert_eq!(third.last_sequence, 2);
        assert!(first.cursor < second.cursor && second.cursor < third.cursor);
        assert_eq!(ledger.last_sequence().await.unwrap(), Some(2));
        assert_eq!(ledger.head(&name("a")).await.unwrap(), Some(1));
    })
    .await;
}

#[tokio::test]
async fn stores_every_byte_as_it_came() {
    on_every_engine(async |ledger| {
        let event = NewEvent {
            id: Uuid::from_u128(7),
            kind: "license-acquired.v1".into(),
            data: b" { \"a\" : 1.0, \"a\": \"\xc3\xa9\x00\" } \n".to_vec(),
            metadata: Vec::new(),
        };
        let stored = ledger.append(one("a", Expected::NoStream, event.clone())).await.unwrap();
        let recorded = Recorded {
            sequence: 0,
            cursor: stored.cursor,
            stream: name("a"),
            revision: 0,
            id: event.id,
            kind: event.kind,
            data: event.data,
            metadata: event.metadata,
        };
        assert_eq!(ledger.read_all(0, 10).await.unwrap(), std::slice::from_ref(&recorded));
        assert_eq!(ledger.read_stream(&name("a"), 0, 10).await.unwrap(), [recorded]);
    })
    .await;
}

#[tokio::test]
async fn records_of_one_append_stand_side_by_side_in_the_order_given() {
    on_every_engine(async |ledger| {
        let append = Append {
            records: vec![
                (name("a"), event(1)),
                (name("b"), event(2)),
                (name("a"), event(3)),
                (name("a"), event(4)),
            ],
            checks: vec![
                (name("a"), Expected::NoStream),
                (name("b"), Expected::NoStream),
                (name("c"), Expected::NoStream),
            ],
        };
        let appended = ledger.append(append).await.unwrap();
        assert_eq!((appended.first_sequence, appended.last_sequence), (0, 3));
        assert_eq!(appended.revisions, [(name("a"), 2), (name("b"), 0)]);
        assert!(!appended.already_stored);
        let all = ledger.read_all(0, 10).await.unwrap();
        assert_eq!(places(&all), [("a", 0, 1), ("b", 0, 2), ("a", 1, 3), ("a", 2, 4)]);
    })
    .await;
}

#[tokio::test]
async fn refuses_when_a_written_stream_is_not_as_expected() {
    on_every_engine(async |ledger| {
        ledger.append(one("a", Expected::NoStream, event(1))).await.unwrap();
        for (stream, expected, actual) in [
            ("a", Expected::NoStream, Some(0)),
            ("a", Expected::At(1), Some(0)),
            ("a", Expected::At(u64::MAX), Some(0)),
            ("new", Expected::At(0), None),
        ] {
            let refused = ledger.append(one(stream, expected, event(2))).await;
            assert_conflict(refused, stream, expected, actual);
        }
        assert_eq!(ledger.last_sequence().await.unwrap(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn refuses_when_a_stream_that_is_only_checked_moved_on_and_stores_nothing() {
    on_every_engine(async |ledger| {
        ledger.append(one("policy", Expected::NoStream, event(1))).await.unwrap();
        let mut append = one("a", Expected::NoStream, event(2));
        append.records.push((name("b"), event(3)));
        append.checks.push((name("b"), Expected::NoStream));
        append.checks.push((name("policy"), Expected::NoStream));
        let refused = ledger.append(append.clone()).await;
        assert_conflict(refused, "policy", Expected::NoStream, Some(0));
        assert_eq!(ledger.head(&name("a")).await.unwrap(), None);
        assert_eq!(ledger.head(&name("b")).await.unwrap(), None);
        append.checks[2].1 = Expected::At(0);
        ledger.append(append).await.unwrap();
        assert_eq!(ledger.head(&name("policy")).await.unwrap(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_repeat_gets_the_first_positions_even_if_its_checks_fail_by_then() {
    on_every_engine(async |ledger| {
        let mut append = one("a", Expected::NoStream, event(1));
        append.records.push((name("a"), event(2)));
        append.checks.push((name("policy"), Expected::NoStream));
        let first = ledger.append(append.clone()).await.unwrap();
        ledger.append(one("policy", Expected::NoStream, event(3))).await.unwrap();
        ledger.append(one("a", Expected::At(1), event(4))).await.unwrap();
        append.records[0].1.metadata = b"{\"attempt\":2}".to_vec();
        let repeat = ledger.append(append).await.unwrap();
        assert_eq!(repeat, Appended { already_stored: true, ..first });
        assert_eq!(ledger.last_sequence().await.unwrap(), Some(3));
    })
    .await;
}

#[tokio::test]
async fn an_append_of_which_only_some_events_are_stored_is_a_conflict() {
    on_every_engine(async |ledger| {
        ledger.append(one("a", Expected::NoStream, event(1))).await.unwrap();
        for expected in [Expected::NoStream, Expected::At(0)] {
            let mut append = one("a", expected, event(1));
            append.records.push((name("a"), event(2)));
            assert_conflict(ledger.append(append).await, "a", expected, Some(0));
        }
        assert_eq!(ledger.last_sequence().await.unwrap(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn an_id_is_never_taken_for_another_fact() {
    on_every_engine(async |ledger| {
        ledger.append(one("a", Expected::NoStream, event(1))).await.unwrap();
        ledger.append(one("b", Expected::NoStream, event(2))).await.unwrap();
        let other_data = NewEvent { data: b"{}".to_vec(), ..event(1) };
        let other_kind = NewEvent { kind: "other.v1".into(), ..event(1) };
        for (stream, event) in [("a", other_data), ("a", other_kind), ("b", event(1))] {
            let refused = ledger.append(one(stream, Expected::At(0), event)).await;
            let Err(AppendError::IdReused { id }) = refused else { panic!("{refused:?}") };
            assert_eq!(id, Uuid::from_u128(1));
        }
        assert_eq!(ledger.last_sequence().await.unwrap(), Some(1));
    })
    .await;
}

#[tokio::test]
async fn refuses_what_can_never_be_stored() {
    on_every_engine(async |ledger| {
        let whole = one("a", Expected::NoStream, event(1));
        let mut unchecked = whole.clone();
        unchecked.records.push((name("b"), event(2)));
        let mut checked_twice = whole.clone();
        checked_twice.checks.push((name("a"), Expected::At(0)));
        let mut repeated = whole.clone();
        repeated.records.push((name("a"), event(1)));
        let mut kind = whole.clone();
        kind.records[0].1.kind = "".into();
        let mut large = whole.clone();
        large.records[0].1.data = vec![b' '; NewEvent::BYTES_MAX];
        let nothing = Append { records: Vec::new(), ..whole };
        let id = Uuid::from_u128(1);
        for (append, expected) in [
            (nothing, InvalidAppend::NoRecord),
            (unchecked, InvalidAppend::Unchecked { stream: name("b") }),
            (checked_twice, InvalidAppend::CheckedTwice { stream: name("a") }),
            (repeated, InvalidAppend::RepeatedId { id }),
            (kind, InvalidAppend::Kind { id }),
            (large, InvalidAppend::EventTooLarge { id }),
        ] {
            let refused = ledger.append(append).await;
            let Err(AppendError::Invalid(invalid)) = refused else { panic!("{refused:?}") };
            assert_eq!(invalid, expected);
        }
        assert_eq!(ledger.last_sequence().await.unwrap(), None);
    })
    .await;
}

// Only where all appends wait in one queue: over a network they may arrive in any order.
#[tokio::test]
async fn appends_that_wait_together_see_each_others_effects() {
    on_the_embedded_engine(&async |ledger: Arc<Ledger>| {
        // Handed in one after the other without waiting: the second relies on the first.
        let (first, second, third) = tokio::join!(
            ledger.append(one("a", Expected::NoStream, event(1))),
            ledger.append(one("a", Expected::At(0), event(2))),
            ledger.append(one("a", Expected::At(0), event(3))),
        );
        assert_eq!(first.unwrap().revisions, [(name("a"), 0)]);
        assert_eq!(second.unwrap().revisions, [(name("a"), 1)]);
        assert_conflict(third, "a", Expected::At(0), Some(1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_those_who_race_for_a_revision_exactly_one_wins() {
    on_every_engine(async |ledger| {
        let racers: Vec<_> = (0..16)
            .map(|racer| {
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move {
                    let mut wins = Vec::new();
                    for round in 0..20 {
                        let head = ledger.head(&name("a")).await.unwrap();
                        let id = 1000 * (racer + 1) + round;
                        let append = one("a", Expected::at_head(head), event(id));
                        match ledger.append(append).await {
                            Ok(appended) => wins.push(appended.revisions[0].1),
                            Err(AppendError::Conflict { .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    wins
                })
            })
            .collect();
        let mut wins = Vec::new();
        for racer in racers {
            wins.extend(racer.await.unwrap());
        }
        wins.sort_unstable();
        assert_eq!(wins, (0..wins.len() as u64).collect::<Vec<_>>());
        assert!(wins.len() >= 20, "every round has at least one winner");
        assert_eq!(ledger.head(&name("a")).await.unwrap(), Some(wins.len() as u64 - 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_streams_that_check_each_other_never_both_move() {
    on_every_engine(async |ledger| {
        for round in 0..50 {
            let (left, right) = (name(&format!("left-{round}")), name(&format!("right-{round}")));
            let checks =
                vec![(left.clone(), Expected::NoStream), (right.clone(), Expected::NoStream)];
            let racers = [left, right].into_iter().zip([1, 2]).map(|(stream, id)| {
                let records = vec![(stream, event(10 * (round + 1) + id))];
                let append = Append { records, checks: checks.clone() };
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move { ledger.append(append).await.is_ok() })
            });
            let mut winners = 0;
            for racer in racers.collect::<Vec<_>>() {
                winners += usize::from(racer.await.unwrap());
            }
            assert_eq!(winners, 1, "in round {round}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_append_sent_by_many_at_once_is_stored_once() {
    on_every_engine(async |ledger| {
        let senders: Vec<_> = (0..16)
            .map(|_| {
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move {
                    ledger.append(one("a", Expected::NoStream, event(1))).await.unwrap()
                })
            })
            .collect();
        let mut first_time = 0;
        for sender in senders {
            let appended = sender.await.unwrap();
            assert_eq!(appended.last_sequence, 0);
            first_time += usize::from(!appended.already_stored);
        }
        assert_eq!(first_time, 1);
        assert_eq!(ledger.last_sequence().await.unwrap(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn pages_of_the_log_can_be_cut_anywhere_and_in_either_direction() {
    on_every_engine(async |ledger| {
        store_unevenly(&ledger).await;
        for from in 0..EVENTS + 2 {
            let page = ledger.read_all(from, 7).await.unwrap();
            assert_eq!(sequences(&page), (from..EVENTS).take(7).collect::<Vec<_>>());
            let page = ledger.read_all_backwards(from, 7).await.unwrap();
            let backwards = (0..EVENTS.min(from + 1)).rev().take(7);
            assert_eq!(sequences(&page), backwards.collect::<Vec<_>>());
        }
        assert_eq!(ledger.read_all(u64::MAX, 1).await.unwrap(), []);
        let newest = ledger.read_all_backwards(u64::MAX, 1).await.unwrap();
        assert_eq!(sequences(&newest), [EVENTS - 1]);
        assert_eq!(ledger.read_all(0, 0).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn pages_of_a_stream_can_be_cut_anywhere_and_in_either_direction() {
    on_every_engine(async |ledger| {
        for (stream, stored) in store_unevenly(&ledger).await {
            for from in 0..stored.len() + 2 {
                let page = ledger.read_stream(&stream, from as u64, 5).await.unwrap();
                let forwards = stored.iter().copied().skip(from).take(5);
                assert_eq!(sequences(&page), forwards.collect::<Vec<_>>());
                let page = ledger.read_stream_backwards(&stream, from as u64, 5).await.unwrap();
                let backwards = stored.iter().copied().take(from + 1).rev().take(5);
                assert_eq!(sequences(&page), backwards.collect::<Vec<_>>());
            }
            let newest = ledger.read_stream_backwards(&stream, u64::MAX, 1).await.unwrap();
            assert_eq!(sequences(&newest), stored[stored.len() - 1..]);
            assert_eq!(ledger.read_stream(&stream, 0, 0).await.unwrap(), []);
        }
        assert_eq!(ledger.read_stream(&name("nowhere"), 0, 5).await.unwrap(), []);
        assert_eq!(ledger.read_stream_backwards(&name("nowhere"), 0, 5).await.unwrap(), []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tail_from_any_position_sees_every_event_once_and_in_order() {
    on_every_engine(async |ledger| {
        const STORED: u64 = 400;
        let tails: Vec<_> = [0, 1, 150]
            .into_iter()
            .map(|start| {
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move {
                    let mut told = ledger.subscribe();
                    let mut next = start;
                    while next < STORED {
                        told.wait_for(|last| *last >= Some(next)).await.unwrap();
                        let page = ledger.read_all(next, 16).await.unwrap();
                        assert!(!page.is_empty(), "told of {next} before it can be read");
                        for event in page {
                            assert_eq!(event.sequence, next);
                            next += 1;
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let ledger = Arc::clone(&ledger);
                tokio::spawn(async move {
                    let stream = format!("writer-{writer}");
                    let mut expected = Expected::NoStream;
                    for round in 0..STORED / 8 {
                        let id = u128::from(writer * STORED + round + 1);
                        let appended = ledger.append(one(&stream, expected, event(id))).await;
                        expected = Expected::At(appended.unwrap().revisions[0].1);
                    }
                })
            })
            .collect();
        for task in writers.into_iter().chain(tails) {
            tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_answered_can_be_read_and_has_been_told() {
    on_every_engine(async |ledger| {
        let mut expected = Expected::NoStream;
        for id in 1..50 {
            let appended = ledger.append(one("a", expected, event(id))).await.unwrap();
            expected = Expected::At(appended.revisions[0].1);
            assert!(*ledger.subscribe().borrow() >= Some(appended.last_sequence));
            let head = ledger.head(&name("a")).await.unwrap();
            assert_eq!(Expected::at_head(head), expected);
            let read = ledger.read_all(appended.last_sequence, 1).await.unwrap();
            assert_eq!(read[0].id, Uuid::from_u128(id));
        }
    })
    .await;
}

#[tokio::test]
async fn closing_finishes_what_was_handed_in_and_takes_no_more() {
    on_every_engine(async |ledger| {
        let (stored, ()) =
            tokio::join!(ledger.append(one("a", Expected::NoStream, event(1))), ledger.close());
        stored.unwrap();
        let refused = ledger.append(one("a", Expected::At(0), event(2))).await;
        assert!(
            matches!(refused, Err(AppendError::Unavailable(Unavailable::Closed))),
            "{refused:?}"
        );
        assert_eq!(ledger.last_sequence().await.unwrap(), Some(0));
        let mut told = ledger.subscribe();
        let ended = async { while told.changed().await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
    })
    .await;
}

#[test]
fn says_when_no_server_was_at_hand() {
    if std::env::var_os(SERVER_URL).is_none() {
        // Not through the harness, which hides what a test prints.
        let said = writeln!(
            std::io::stderr(),
            "SKIPPED: the contract of the ledger was not run on a KurrentDB server: set {SERVER_URL}"
        );
        said.unwrap();
    }
}

/// Runs a test on a fresh ledger of each engine.
async fn on_every_engine(test: impl AsyncFn(Arc<Ledger>)) {
    on_the_embedded_engine(&test).await;
    eprintln!("engine: a cluster, played by this program");
    let server = Server::start();
    let ledger = Arc::new(Ledger::Kurrent(server.connect("client").await));
    test(ledger).await;
    if let Ok(url) = std::env::var(SERVER_URL) {
        eprintln!("engine: the cluster at {url}");
        let dir = tempfile::tempdir().unwrap();
        test(Arc::new(Ledger::Kurrent(connect(&url, dir.path()).await))).await;
    }
}

/// The second run has an index so small that everything it does happens within a few events.
async fn on_the_embedded_engine(test: &impl AsyncFn(Arc<Ledger>)) {
    let small = Options { run_events: 3, heads_max: 2, ..Options::default() };
    for (engine, options) in [("embedded", Options::default()), ("embedded, small", small)] {
        eprintln!("engine: {engine}");
        let dir = tempfile::tempdir().unwrap();
        let ledger = Embedded::open(dir.path(), options).unwrap();
        test(Arc::new(Ledger::Embedded(ledger))).await;
    }
}

/// A ledger of its own on a server that others use as well.
async fn connect(url: &str, dir: &std::path::Path) -> Kurrent {
    let credentials = std::env::var("KURRENTDB_CREDENTIALS").ok().map(|text| {
        let (user, password) = text.split_once(':').unwrap();
        kurrent::Credentials { user: user.to_owned(), password: password.to_owned().into() }
    });
    // The directory's name is nobody else's.
    let own = dir.file_name().unwrap().to_string_lossy().replace('.', "");
    let stream_prefix = format!("contract-{own}-");
    let options = kurrent::Options { address: url.parse().unwrap(), credentials, stream_prefix };
    Kurrent::open(dir, options).await.unwrap()
}

/// Stores [`EVENTS`] events in three streams of different length, so that they end in different
/// places of an index, and returns the sequences of each.
async fn store_unevenly(ledger: &Ledger) -> Vec<(StreamName, Vec<u64>)> {
    let mut streams: Vec<_> =
        ["often", "sometimes", "other"].map(|stream| (name(stream), Vec::new())).into();
    for at in 0..EVENTS {
        let (stream, stored) = &mut streams[[0, 1, 0, 2, 0][at as usize % 5]];
        let expected = Expected::at_head((stored.len() as u64).checked_sub(1));
        let append = one(stream.as_str(), expected, event(u128::from(at) + 1));
        ledger.append(append).await.unwrap();
        stored.push(at);
    }
    streams
}

fn name(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn event(id: u128) -> NewEvent {
    NewEvent {
        id: Uuid::from_u128(id),
        kind: "tested.v1".into(),
        data: format!("{{\"n\":{id}}}").into_bytes(),
        metadata: b"{}".to_vec(),
    }
}

fn one(stream: &str, expected: Expected, event: NewEvent) -> Append {
    Append { records: vec![(name(stream), event)], checks: vec![(name(stream), expected)] }
}

fn places(events: &[Recorded]) -> Vec<(&str, u64, u128)> {
    events.iter().map(|event| (event.stream.as_str(), event.revision, event.id.as_u128())).collect()
}

fn sequences(events: &[Recorded]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

#[track_caller]
fn assert_conflict(
    refused: Result<Appended, AppendError>,
    on: &str,
    wanted: Expected,
    found: Option<u64>,
) {
    let Err(AppendError::Conflict { stream, expected, actual }) = refused else {
        panic!("not a conflict: {refused:?}");
    };
    assert_eq!((stream.as_str(), expected, actual), (on, wanted, found));
}

const EVENTS: u64 = 60;
/// Where a KurrentDB server is.
const SERVER_URL: &str = "KURRENTDB_URL";
