//! Reads of one stream and of the whole log.

use license_ledger::kurrent_protocol::shared::{Expectation, UuidForm, UuidMessage};
use license_ledger::kurrent_protocol::streams::*;
use serde_json::Value;
use tonic::Code;
use uuid::Uuid;

use super::client::{
    Kurrent, backwards, filtered, in_log, in_stream, live, noted, position, prefixes, regex,
};
use super::{analyst, service};
use crate::device::{PERSISTENT, kid, request};

const START: StreamStart = StreamStart::Start(());
const END: StreamStart = StreamStart::End(());

/// Writes events 1 to `count` to the stream; the position before the first.
fn write(client: &Kurrent, stream: &str, count: u128) -> u64 {
    let events = (1..=count).map(noted).collect();
    let (_, last) = client.append_any(stream, events);
    last - u64::try_from(count).unwrap()
}

fn revisions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.stream_revision).collect()
}

fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.commit_position).collect()
}

#[test]
fn a_stream_is_read_from_any_place_in_either_direction() {
    let service = service();
    let client = analyst(&service);
    write(&client, "user-a", 5);
    let read = |start, count| revisions(&client.events(in_stream("user-a", start, count)));
    let back =
        |start, count| revisions(&client.events(backwards(in_stream("user-a", start, count))));
    let at = StreamStart::Revision;
    assert_eq!(read(START, 100), [0, 1, 2, 3, 4]);
    assert_eq!(read(START, i64::MAX as u64), [0, 1, 2, 3, 4]);
    assert_eq!(read(at(2), 2), [2, 3]);
    assert_eq!(read(at(9), 100), [0; 0]);
    assert_eq!(read(at(u64::MAX), 100), [0; 0]);
    assert_eq!(read(END, 100), [0; 0]);
    assert_eq!(read(START, 0), [0; 0]);
    assert_eq!(back(END, 100), [4, 3, 2, 1, 0]);
    assert_eq!(back(at(2), 100), [2, 1, 0]);
    assert_eq!(back(at(2), 2), [2, 1]);
    assert_eq!(back(START, 100), [0]);
    assert_eq!(back(at(u64::MAX), 1), [4]);
}

#[test]
fn the_log_is_read_from_any_position_in_either_direction() {
    let service = service();
    let client = analyst(&service);
    let before = write(&client, "user-a", 3);
    let end = before + 3;
    assert_eq!(end, service.event_count());
    let read = |start, count| positions(&client.events(in_log(start, count)));
    let back = |start, count| positions(&client.events(backwards(in_log(start, count))));
    let all: Vec<_> = (1..=end).collect();
    assert_eq!(read(AllStart::Start(()), 1000), all);
    assert_eq!(read(position(0), 1000), all);
    assert_eq!(read(position(end - 1), 1000), [end - 1, end]);
    assert_eq!(read(AllStart::End(()), 1000), [0; 0]);
    assert_eq!(back(AllStart::End(()), 2), [end, end - 1]);
    // Backwards, a position stands before its event.
    assert_eq!(back(position(end), 2), [end - 1, end - 2]);
    assert_eq!(back(position(1), 2), [0; 0]);
    assert_eq!(back(AllStart::Start(()), 2), [0; 0]);
}

#[test]
fn more_than_fits_into_one_batch_comes_whole_and_in_order() {
    let service = service();
    let client = analyst(&service);
    for thousand in 0..3_u128 {
        let events = (0..1000).map(|n| noted(thousand * 1000 + n)).collect();
        client.append_any("user-a", events);
    }
    let events = client.events(in_stream("user-a", START, 10_000));
    assert_eq!(revisions(&events), (0..3000).collect::<Vec<_>>());
    let events = client.events(backwards(in_stream("user-a", END, 2_500)));
    assert_eq!(revisions(&events), (500..3000).rev().collect::<Vec<_>>());
}

#[test]
fn a_stream_that_is_not_there_is_told() {
    let service = service();
    let client = analyst(&service);
    let contents = client.read(in_stream("user-a", START, 10)).unwrap();
    let missing = StreamNotFound { stream_identifier: Some("user-a".into()) };
    assert_eq!(contents, [ReadRespContent::StreamNotFound(missing)]);
}

#[test]
fn who_knows_of_it_is_told_where_the_stream_ends() {
    let service = service();
    let client = analyst(&service);
    write(&client, "user-a", 3);
    let knowing = |options| ReadOptions {
        control_option: Some(ControlOption { compatibility: 1 }),
        ..options
    };
    let last = |options| client.read(options).unwrap().pop().unwrap();
    let end = ReadRespContent::LastStreamPosition(2);
    assert_eq!(last(knowing(in_stream("user-a", START, 10))), end);
    assert!(matches!(last(in_stream("user-a", START, 10)), ReadRespContent::Event(_)));
}

#[test]
fn an_event_of_a_user_comes_back_as_it_was_written() {
    let service = service();
    let client = analyst(&service);
    let binary = ProposedMessage {
        metadata: [("type", "Drawn"), ("content-type", "application/octet-stream")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        custom_metadata: b"\n\xff".to_vec(),
        data: b"1".to_vec(),
        ..noted(2)
    };
    client.append_any("user-a", vec![noted(1), binary]);
    let events = client.events(in_stream("user-a", START, 10));
    let entry = |event: &RecordedEvent, key: &str| event.metadata[key].clone();
    // 1,700,000,000 s after 1970, in units of 100 ns.
    assert_eq!(entry(&events[0], "created"), "17000000000000000");
    assert_eq!(entry(&events[0], "content-type"), "application/json");
    assert_eq!(
        (&events[0].data[..], &events[0].custom_metadata[..]),
        (&b"{\"n\":1}"[..], &b""[..])
    );
    assert_eq!(entry(&events[1], "content-type"), "application/octet-stream");
    assert_eq!(entry(&events[1], "type"), "Drawn");
    assert_eq!((&events[1].data[..], &events[1].custom_metadata[..]), (&b"1"[..], &b"\n\xff"[..]));
    assert_eq!(events[1].prepare_position, events[1].commit_position);
    assert_eq!(events[1].stream_identifier, Some("user-a".into()));
}

#[test]
fn ids_come_in_the_form_that_was_asked_for() {
    let service = service();
    let client = analyst(&service);
    client.append_any("user-a", vec![noted(7)]);
    let read = |choice: Option<UuidChoice>| {
        let uuid_option = choice.map(|choice| UuidOption { choice: Some(choice) });
        let options = ReadOptions { uuid_option, ..in_stream("user-a", START, 1) };
        client.events(options).remove(0).id.unwrap()
    };
    let id = Uuid::from_u128(7);
    assert_eq!(read(Some(UuidChoice::Text(()))).form, Some(UuidForm::Text(id.to_string())));
    assert_eq!(read(Some(UuidChoice::Structured(()))), UuidMessage::structured(id));
    assert_eq!(read(None), UuidMessage::structured(id));
}

#[test]
fn the_service_s_own_events_are_those_of_the_log() {
    let service = service();
    let client = analyst(&service);
    let device = service.device("tv");
    device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    let shown = client.events(in_log(AllStart::Start(()), 1000));
    let facts = service.facts();
    assert_eq!(shown.len(), facts.len());
    for (shown, fact) in shown.iter().zip(&facts) {
        let recorded = &fact.recorded;
        assert_eq!(shown.commit_position, recorded.sequence + 1);
        assert_eq!(shown.stream_revision, recorded.revision);
        assert_eq!(shown.id, Some(UuidMessage::text(recorded.id)));
        assert_eq!(shown.metadata["type"], recorded.kind);
        assert_eq!(shown.metadata["content-type"], "application/json");
        assert_eq!(shown.data, recorded.data);
        assert_eq!(shown.custom_metadata, recorded.metadata);
        let ticks = fact.event.at_ms() * 10_000;
        assert_eq!(shown.metadata["created"], ticks.to_string());
    }
    assert!(shown.iter().any(|event| event.metadata["type"] == "license-acquired.v1"));
}

#[test]
fn a_filter_takes_by_stream_or_by_type_with_prefixes_or_expressions() {
    let service = service();
    let client = analyst(&service);
    let before = write(&client, "user-a", 2);
    write_other(&client);
    let read = |by| positions(&client.events(filtered(in_log(position(before + 1), 100), by, 10)));
    let user_a = [before + 1, before + 2];
    assert_eq!(read(FilterBy::Stream(prefixes(&["user-a"]))), user_a);
    assert_eq!(read(FilterBy::Stream(regex("^user-a$"))), user_a);
    assert_eq!(read(FilterBy::Stream(regex("^(?!user-b)user-"))), user_a);
    assert_eq!(read(FilterBy::EventType(prefixes(&["Other", "None"]))), [before + 3]);
    assert_eq!(read(FilterBy::EventType(regex("^[^$].*"))).len(), 3);
    let one = filtered(in_log(AllStart::Start(()), 1), FilterBy::EventType(regex("Other")), 1);
    assert_eq!(positions(&client.events(one)), [before + 3]);
}

fn write_other(client: &Kurrent) {
    let other = super::client::proposed(99, "Other", b"{}");
    client.append_any("user-b", vec![other]);
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let service = service();
    let client = analyst(&service);
    write(&client, "user-a", 1);
    let stream = in_stream("user-a", START, 1);
    let by = || FilterBy::Stream(prefixes(&["user-"]));
    let log = in_log(AllStart::Start(()), 1);
    for (options, reason) in [
        (ReadOptions { source: None, ..stream.clone() }, "stream or all is missing"),
        (ReadOptions { count: None, ..stream.clone() }, "count or subscription is missing"),
        (ReadOptions { read_direction: 7, ..stream.clone() }, "read_direction is unknown"),
        (filtered(stream.clone(), by(), 1), "a filter is for the whole log"),
        (filtered(log.clone(), by(), 0), "at least 1"),
        (filtered(log.clone(), FilterBy::Stream(regex("(")), 1), "regex is not usable"),
        (live(backwards(stream)), "a subscription goes forwards"),
        (in_stream("$all", START, 1), "must not begin with"),
    ] {
        let refused = client.read(options).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(reason), "{refused}");
    }
    let slow = FilterBy::Stream(regex(r"^(?=((.+)+)+\1b)"));
    let long = format!("user-{}", "a".repeat(60));
    client.append(&long, Expectation::Any(()), vec![noted(50)]).unwrap();
    let refused = client.read(filtered(in_log(AllStart::Start(()), 100), slow, 1)).unwrap_err();
    assert!(refused.message().contains("takes too long"), "{refused}");
}

/// What users keep in the ledger is no business of the service.
#[test]
fn the_service_passes_over_what_users_write() {
    let mut service = super::setup().start();
    let client = analyst(&service);
    write(&client, "user-a", 100);
    let device = service.device("tv");
    device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).unwrap();
    client.append_any("user-b", vec![noted(500)]);
    assert_eq!(service.live(&device), 1);
    let page: Value = service.client.json("/v1/events?limit=1000");
    let streams: Vec<_> =
        page["items"].as_array().unwrap().iter().map(|event| event["stream"].clone()).collect();
    assert!(streams.contains(&"policy".into()), "{streams:?}");
    assert!(!streams.iter().any(|name| name.as_str().unwrap().starts_with("user-")));
    let first: Value = service.client.json("/v1/events?limit=3");
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    drop(client);
    service.restart();
    assert_eq!(service.live(&device), 1);
    assert_eq!(service.client.get("/readyz").status, 200);
}
