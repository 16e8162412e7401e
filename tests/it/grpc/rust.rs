//! The official client for Rust appends, reads and subscribes.

use std::time::Duration;

use eventstore::{
    AppendToStreamOptions, BatchAppendOptions, Client, Credentials, CurrentRevision, Error,
    EventData, Position, ReadAllOptions, ReadStream, ReadStreamOptions, ResolvedEvent,
    StreamPosition, StreamState, SubscribeToAllOptions, SubscribeToStreamOptions,
    SubscriptionFilter,
};
use license_ledger::access::Scope;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::service;
use crate::service::{NOW_S, TestService};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Official {
    client: Client,
    credentials: Credentials,
    runtime: Runtime,
}

impl Official {
    /// A client whose API key reads, and writes to streams of the users.
    fn of(service: &TestService) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        let address = service.inner().grpc.as_ref().unwrap().address();
        let settings = format!("kurrentdb://{address}?tls=false").parse().unwrap();
        let guard = runtime.enter();
        let client = Client::new(settings).unwrap();
        drop(guard);
        let key = service.client_with(&[Scope::EventsRead]).key().to_owned();
        Self { client, credentials: Credentials::new("anyone".to_owned(), key), runtime }
    }

    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, answer).await.expect("no answer for a long time")
        })
    }

    /// Appends; the stream's revision, and the position.
    fn append(&self, expected: StreamState, numbers: &[u64]) -> Result<(u64, Position), Error> {
        let events: Vec<_> = numbers.iter().map(|number| noted(*number)).collect();
        let options = AppendToStreamOptions::default().stream_state(expected);
        let options = options.authenticated(self.credentials.clone());
        let appended = self.wait(self.client.append_to_stream("user-rust", &options, events))?;
        Ok((appended.next_expected_version, appended.position))
    }

    fn read(&self, options: ReadStreamOptions) -> Vec<ResolvedEvent> {
        let options = options.authenticated(self.credentials.clone());
        self.wait(async {
            all(self.client.read_stream("user-rust", &options).await.unwrap()).await
        })
    }

    fn read_all(&self, options: ReadAllOptions) -> Vec<ResolvedEvent> {
        let options = options.authenticated(self.credentials.clone());
        self.wait(async { all(self.client.read_all(&options).await.unwrap()).await })
    }
}

async fn all(mut reading: ReadStream) -> Vec<ResolvedEvent> {
    let mut events = Vec::new();
    while let Some(event) = reading.next().await.unwrap() {
        events.push(event);
    }
    events
}

fn noted(number: u64) -> EventData {
    let event = EventData::json("Noted", &json!({ "n": number })).unwrap();
    event.id(Uuid::from_u128(number.into())).metadata_as_json(&json!({ "by": "me" })).unwrap()
}

fn number(event: &ResolvedEvent) -> u64 {
    let data: Value = event.get_original_event().as_json().unwrap();
    data["n"].as_u64().unwrap()
}

fn numbers(events: &[ResolvedEvent]) -> Vec<u64> {
    events.iter().map(number).collect()
}

#[test]
fn appends_with_expectations_and_repeats() {
    let service = service();
    let official = Official::of(&service);
    let first = official.append(StreamState::NoStream, &[1, 2]).unwrap();
    assert_eq!(first.0, 1);
    assert_eq!(official.append(StreamState::NoStream, &[1, 2]).unwrap(), first);
    assert_eq!(official.append(StreamState::StreamRevision(1), &[3]).unwrap().0, 2);
    assert_eq!(official.append(StreamState::StreamExists, &[4]).unwrap().0, 3);
    assert_eq!(official.append(StreamState::Any, &[5]).unwrap().0, 4);
    for wrong in [StreamState::NoStream, StreamState::StreamRevision(1)] {
        let refused = official.append(wrong, &[6]).unwrap_err();
        let Error::WrongExpectedVersion { expected, current } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((expected, current), (wrong, CurrentRevision::Current(4)));
    }
    // After a conflict as before it.
    assert_eq!(official.append(StreamState::Any, &[7]).unwrap().0, 5);
    assert_eq!(numbers(&official.read(ReadStreamOptions::default())), [1, 2, 3, 4, 5, 7]);
}

#[test]
fn reads_streams_and_the_log_in_either_direction() {
    let service = service();
    let official = Official::of(&service);
    let (_, position) = official.append(StreamState::NoStream, &[1, 2, 3, 4]).unwrap();
    let from = |revision| ReadStreamOptions::default().position(StreamPosition::Position(revision));
    assert_eq!(numbers(&official.read(from(1).max_count(2))), [2, 3]);
    assert_eq!(numbers(&official.read(from(1).backwards())), [2, 1]);
    let newest = ReadAllOptions::default().position(StreamPosition::End).backwards().max_count(2);
    assert_eq!(numbers(&official.read_all(newest)), [4, 3]);
    let from = ReadAllOptions::default().position(StreamPosition::Position(position));
    assert_eq!(numbers(&official.read_all(from)), [4]);
    let filter = SubscriptionFilter::on_stream_name().add_prefix("user-");
    assert_eq!(numbers(&official.read_all(ReadAllOptions::default().filter(filter))), [1, 2, 3, 4]);
    let whole = official.read_all(ReadAllOptions::default());
    assert_eq!(whole.len() as u64, service.event_count());

    let events = official.read(ReadStreamOptions::default());
    let event = events[2].get_original_event();
    assert_eq!((event.id, event.revision), (Uuid::from_u128(3), 2));
    assert_eq!((event.event_type.as_str(), event.is_json), ("Noted", true));
    assert_eq!(&event.custom_metadata[..], br#"{"by":"me"}"#);
    assert_eq!(event.created.timestamp(), i64::try_from(NOW_S).unwrap());
}

#[test]
fn a_batch_that_conflicts_ends_no_other() {
    let service = service();
    let official = Official::of(&service);
    let options = BatchAppendOptions::default().authenticated(official.credentials.clone());
    official.wait(async {
        let one = official.client.batch_append(&options).await.unwrap();
        let other = official.client.batch_append(&options).await.unwrap();
        let appends = (1..=20).map(|n| {
            let stream = format!("user-{n}");
            let one = &one;
            async move { one.append_to_stream(stream, StreamState::NoStream, vec![noted(n)]).await }
        });
        for appended in futures_util::future::join_all(appends).await {
            assert_eq!(appended.unwrap().current_revision(), Some(0));
        }
        let again = other.append_to_stream("user-1", StreamState::NoStream, vec![noted(30)]).await;
        let Err(Error::Grpc { code, message }) = again else { panic!("{again:?}") };
        assert_eq!((code, message.as_str()), (9.into(), "WrongExpectedVersion"));
        // That client has given itself up; the other one goes on, and so does a third.
        let third = official.client.batch_append(&options).await.unwrap();
        for (client, n) in [(&one, 31), (&third, 32), (&one, 33)] {
            let state = StreamState::StreamExists;
            let appended = client.append_to_stream("user-1", state, vec![noted(n)]).await;
            assert_eq!(appended.unwrap().current_revision(), Some(n - 30));
        }
    });
}

#[test]
fn subscribes_to_a_stream_and_to_the_log() {
    let service = service();
    let official = Official::of(&service);
    let (_, first) = official.append(StreamState::NoStream, &[1]).unwrap();
    official.append(StreamState::Any, &[2, 3]).unwrap();
    let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Position(0));
    let options = options.authenticated(official.credentials.clone());
    let mut of_stream = official.wait(official.client.subscribe_to_stream("user-rust", &options));
    let filter = SubscriptionFilter::on_stream_name().add_prefix("user-");
    let options = SubscribeToAllOptions::default().position(StreamPosition::Position(first));
    let options = options.filter(filter).authenticated(official.credentials.clone());
    let mut of_all = official.wait(official.client.subscribe_to_all(&options));
    // What there was, and what comes.
    for n in 2..=20 {
        if n > 3 {
            official.append(StreamState::Any, &[n]).unwrap();
        }
        assert_eq!(number(&official.wait(of_stream.next()).unwrap()), n);
        assert_eq!(number(&official.wait(of_all.next()).unwrap()), n);
    }
}
