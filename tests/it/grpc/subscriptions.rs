//! Subscriptions: confirmed, caught up, live; with filters and checkpoints.

use std::time::Duration;

use license_ledger::kurrent_protocol::shared::Position;
use license_ledger::kurrent_protocol::streams::*;
use tonic::Code;

use super::client::{
    Reading, filtered, in_log, in_stream, live, noted, position, prefixes, proposed, regex,
};
use super::{analyst, service};

const START: StreamStart = StreamStart::Start(());

fn confirmed(reading: &mut Reading<'_>) {
    match reading.next().unwrap().unwrap() {
        ReadRespContent::Confirmation(confirmation) => {
            assert!(uuid::Uuid::try_parse(&confirmation.subscription_id).is_ok());
        }
        other => panic!("not confirmed: {other:?}"),
    }
}

fn caught_up(reading: &mut Reading<'_>) -> CaughtUp {
    match reading.next().unwrap().unwrap() {
        ReadRespContent::CaughtUp(caught_up) => caught_up,
        other => panic!("not caught up: {other:?}"),
    }
}

fn checkpoint(reading: &mut Reading<'_>) -> u64 {
    match reading.next().unwrap().unwrap() {
        ReadRespContent::Checkpoint(checkpoint) => {
            assert_eq!(checkpoint.commit_position, checkpoint.prepare_position);
            assert!(checkpoint.timestamp.is_some());
            checkpoint.commit_position
        }
        other => panic!("no checkpoint: {other:?}"),
    }
}

#[test]
fn a_stream_is_followed_from_its_start_and_then_live() {
    let service = service();
    let client = analyst(&service);
    client.append_any("user-a", vec![noted(1), noted(2)]);
    let mut reading = client.begin(live(in_stream("user-a", START, 0))).unwrap();
    confirmed(&mut reading);
    assert_eq!([reading.event(), reading.event()].map(|event| event.stream_revision), [0, 1]);
    let caught = caught_up(&mut reading);
    assert_eq!((caught.stream_revision, caught.position), (Some(1), None));
    assert_eq!(caught.timestamp.unwrap().seconds, 1_700_000_000);
    client.append_any("user-b", vec![noted(3)]);
    client.append_any("user-a", vec![noted(4)]);
    let event = reading.event();
    assert_eq!((event.stream_revision, &event.data[..]), (2, &b"{\"n\":4}"[..]));
}

#[test]
fn a_subscription_begins_after_the_place_it_names() {
    let service = service();
    let client = analyst(&service);
    // Also where there is no stream yet.
    let mut early = client.begin(live(in_stream("user-a", START, 0))).unwrap();
    confirmed(&mut early);
    assert_eq!(caught_up(&mut early).stream_revision, None);
    let (_, last) = client.append_any("user-a", (1..=3).map(noted).collect());
    assert_eq!(early.event().stream_revision, 0);

    let mut after = client.begin(live(in_stream("user-a", StreamStart::Revision(0), 0))).unwrap();
    confirmed(&mut after);
    assert_eq!(after.event().stream_revision, 1);
    let mut after = client.begin(live(in_log(position(last - 1), 0))).unwrap();
    confirmed(&mut after);
    assert_eq!(after.event().commit_position, last);
    assert_eq!(caught_up(&mut after).position, Some(Position::at(last)));
    let mut all = client.begin(live(in_log(position(0), 0))).unwrap();
    confirmed(&mut all);
    assert_eq!(all.event().commit_position, 1);
    let ends =
        [live(in_log(AllStart::End(()), 0)), live(in_stream("user-a", StreamStart::End(()), 0))];
    for end in ends {
        let mut end = client.begin(end).unwrap();
        confirmed(&mut end);
        caught_up(&mut end);
        let id = u128::from(service.event_count());
        client.append_any("user-a", vec![noted(id)]);
        assert_eq!(end.event().data, format!("{{\"n\":{id}}}").into_bytes());
    }
}

#[test]
fn a_filtered_subscription_is_told_how_far_it_has_come() {
    let service = service();
    let client = analyst(&service);
    let (_, before) = client.append_any("user-a", vec![noted(1)]);
    client.append_any("user-b", (2..=26).map(noted).collect());
    let by = FilterBy::Stream(prefixes(&["user-a"]));
    let options = filtered(live(in_log(position(before), 0)), by, 10);
    let mut reading = client.begin(options).unwrap();
    confirmed(&mut reading);
    assert_eq!(checkpoint(&mut reading), before + 10);
    assert_eq!(checkpoint(&mut reading), before + 20);
    // The rest, once there is no more.
    assert_eq!(checkpoint(&mut reading), before + 25);
    assert_eq!(caught_up(&mut reading).position, Some(Position::at(before + 25)));
    client.append_any("user-a", vec![noted(30)]);
    assert_eq!(reading.event().commit_position, before + 26);
}

#[test]
fn the_usual_exclusion_of_system_events_excludes_none_of_ours() {
    let service = service();
    let client = analyst(&service);
    let all = in_log(AllStart::Start(()), 1000);
    let count = client.events(all.clone()).len();
    for expression in ["^[^$].*", r"^(?!(\$.+$|PersistentConfig\d+$|Result$))"] {
        let options = filtered(all.clone(), FilterBy::EventType(regex(expression)), 32);
        assert_eq!(client.events(options).len(), count, "{expression}");
    }
    client.append_any("user-a", vec![proposed(1, "Result", b"{}")]);
    let excluding = FilterBy::EventType(regex(r"^(?!(\$.+$|PersistentConfig\d+$|Result$))"));
    assert_eq!(client.events(filtered(all, excluding, 32)).len(), count);
}

#[test]
fn a_subscription_that_takes_nothing_costs_nothing_and_misses_nothing() {
    let service = service();
    let client = analyst(&service);
    let mut reading = client.begin(live(in_stream("user-a", START, 0))).unwrap();
    confirmed(&mut reading);
    caught_up(&mut reading);
    // Far more than any window between the two holds.
    let text = format!("\"{}\"", "x".repeat(10_000));
    for hundred in 0..20_u128 {
        let events =
            (0..100).map(|n| proposed(hundred * 100 + n, "Noted", text.as_bytes())).collect();
        client.append_any("user-a", events);
    }
    let mut next = 0;
    while next < 2000 {
        match reading.next().unwrap().unwrap() {
            ReadRespContent::Event(event) => {
                assert_eq!(event.event.unwrap().stream_revision, next);
                next += 1;
            }
            ReadRespContent::FellBehind(_) | ReadRespContent::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_deadline_ends_a_subscription() {
    let service = service();
    let client = analyst(&service);
    let deadline = Some(Duration::from_millis(300));
    let begun = client.begin_within(live(in_log(AllStart::End(()), 0)), deadline);
    let mut reading = begun.unwrap();
    confirmed(&mut reading);
    caught_up(&mut reading);
    assert_eq!(reading.next().unwrap_err().code(), Code::DeadlineExceeded);
}

#[test]
fn the_end_of_the_service_ends_subscriptions_with_a_reason() {
    let mut service = service();
    let client = analyst(&service);
    let mut reading = client.begin(live(in_log(AllStart::End(()), 0))).unwrap();
    confirmed(&mut reading);
    caught_up(&mut reading);
    service.restart();
    let end = reading.next().unwrap_err();
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unavailable, "the server is shutting down; connect again")
    );
}
