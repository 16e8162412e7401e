//! Appends to one stream and to several: expectations, repeats, conflicts.

use license_ledger::kurrent_protocol::errors::{
    AppendConsistencyViolation, AppendRecordSizeExceeded, ConsistencyViolation, CurrentRevision,
    Violation,
};
use license_ledger::kurrent_protocol::method;
use license_ledger::kurrent_protocol::records::{StreamRevision, state};
use license_ledger::kurrent_protocol::shared::Expectation;
use license_ledger::kurrent_protocol::status::{Detail, Status as RpcStatus};
use license_ledger::kurrent_protocol::streams::*;
use prost::Message;
use tonic::{Code, Status};

use super::client::{in_stream, noted, proposed, record, stored};
use super::{analyst, copier, service};

const ANY: Expectation = Expectation::Any(());
const NO_STREAM: Expectation = Expectation::NoStream(());
const EXISTS: Expectation = Expectation::StreamExists(());

fn conflict(current: ConflictCurrent, expected: ConflictExpected) -> AppendResult {
    AppendResult::Conflict(Conflict { current: Some(current), expected: Some(expected) })
}

#[test]
fn an_append_goes_through_only_if_the_stream_is_as_expected() {
    let service = service();
    let client = analyst(&service);
    let append = |expected, id| client.append("user-a", expected, vec![noted(id)]).unwrap();
    let absent = ConflictCurrent::NoStream(());
    assert_eq!(append(EXISTS, 1), conflict(absent, ConflictExpected::StreamExists(())));
    let wrong = ConflictExpected::Revision(0);
    assert_eq!(append(Expectation::Revision(0), 1), conflict(absent, wrong));
    let (revision, first) = stored(append(NO_STREAM, 1));
    assert_eq!(revision, 0);
    let there = ConflictCurrent::Revision(0);
    assert_eq!(append(NO_STREAM, 2), conflict(there, ConflictExpected::NoStream(())));
    let wrong = ConflictExpected::Revision(1);
    assert_eq!(append(Expectation::Revision(1), 2), conflict(there, wrong));
    assert_eq!(stored(append(Expectation::Revision(0), 2)), (1, first + 1));
    assert_eq!(stored(append(EXISTS, 3)), (2, first + 2));
    assert_eq!(stored(append(ANY, 4)), (3, first + 3));
    assert_eq!(service.event_count(), first + 3);
}

#[test]
fn a_repeat_is_answered_with_the_place_of_the_first() {
    let service = service();
    let client = analyst(&service);
    let events = || vec![noted(1), noted(2)];
    let first = stored(client.append("user-a", NO_STREAM, events()).unwrap());
    client.append_any("user-a", vec![noted(3)]);
    for expected in [NO_STREAM, ANY, EXISTS, Expectation::Revision(7)] {
        let again = client.append("user-a", expected, events()).unwrap();
        assert_eq!(stored(again), first, "{expected:?}");
    }
    // Part of it is there, so the rest never will be.
    for expected in [ANY, EXISTS, Expectation::Revision(2)] {
        let partly = client.append("user-a", expected, vec![noted(3), noted(4)]).unwrap();
        assert!(matches!(partly, AppendResult::Conflict(_)), "{expected:?}: {partly:?}");
    }
    let refused = client.append("user-a", ANY, vec![proposed(1, "Noted", b"{}")]).unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let refused = client.append("user-b", ANY, vec![noted(1)]).unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let events = client.events(in_stream("user-a", StreamStart::Start(()), 100));
    assert_eq!(events.len(), 3);
}

#[test]
fn many_who_expect_nothing_all_get_their_place() {
    let service = service();
    let clients: Vec<_> = (0..4).map(|_| analyst(&service)).collect();
    std::thread::scope(|scope| {
        for (n, client) in clients.iter().enumerate() {
            scope.spawn(move || {
                for event in 0..25 {
                    client.append_any("user-a", vec![noted(1000 * n as u128 + event)]);
                }
            });
        }
    });
    let events = clients[0].events(in_stream("user-a", StreamStart::Start(()), 1000));
    let revisions: Vec<_> = events.iter().map(|event| event.stream_revision).collect();
    assert_eq!(revisions, (0..100).collect::<Vec<_>>());
}

#[test]
fn an_append_of_nothing_only_asks() {
    let service = service();
    let client = analyst(&service);
    let ask = |expected| client.append("user-a", expected, Vec::new()).unwrap();
    let answered = |current| {
        let position = Some(WrittenPosition::None(()));
        AppendResult::Success(AppendSuccess { current: Some(current), position })
    };
    assert_eq!(ask(ANY), answered(CurrentRevision::NoStream(())));
    assert!(matches!(ask(EXISTS), AppendResult::Conflict(_)));
    client.append_any("user-a", vec![noted(1)]);
    assert_eq!(ask(EXISTS), answered(CurrentRevision::Revision(0)));
    assert!(matches!(ask(NO_STREAM), AppendResult::Conflict(_)));
}

#[test]
fn what_is_no_append_is_refused_and_stores_nothing() {
    let service = service();
    let client = copier(&service);
    let before = service.event_count();
    let nameless = ProposedMessage { metadata: [].into(), ..noted(1) };
    let without_id = ProposedMessage { id: None, ..noted(1) };
    for (stream, event) in [
        ("user-a", nameless),
        ("user-a", without_id),
        ("$user-a", noted(1)),
        ("", noted(1)),
        // Streams of ours hold what we understand.
        ("device-a", noted(1)),
        ("device-a", proposed(1, "device-enrolled.v1", b"{}")),
    ] {
        let refused = client.append(stream, ANY, vec![event]).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{stream}: {refused}");
    }
    let event = AppendReqContent::ProposedMessage(noted(1));
    let refused = client.append_messages(vec![AppendReq { content: Some(event) }]).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(service.event_count(), before);
}

#[test]
fn streams_are_not_deleted() {
    let service = service();
    let client = copier(&service);
    client.append_any("user-a", vec![noted(1)]);
    for path in [method::DELETE, method::TOMBSTONE] {
        let stream_identifier = Some("user-a".into());
        let options = DeleteOptions { stream_identifier, expected: Some(ANY) };
        let request = DeleteReq { options: Some(options) };
        let refused = client.unary::<_, DeleteResp>(path, request).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("removes no events"), "{refused}");
    }
}

/// The details of a refusal, which tell the same as the call.
fn details<D: Detail>(refused: &Status) -> D {
    let status = RpcStatus::decode(refused.details()).unwrap();
    assert_eq!(status.code, i32::from(refused.code()));
    assert_eq!(status.message, refused.message());
    status.detail().unwrap()
}

fn violations(refused: &Status) -> Vec<(i32, String, i64, i64)> {
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let AppendConsistencyViolation { violations } = details(refused);
    let row = |violation: ConsistencyViolation| match violation.violation.unwrap() {
        Violation::StreamState(state) => {
            (violation.check_index, state.stream, state.expected_state, state.actual_state)
        }
    };
    violations.into_iter().map(row).collect()
}

fn note(stream: &str, id: u128) -> license_ledger::kurrent_protocol::records::AppendRecord {
    record(stream, id, "Noted", format!("{{\"n\":{id}}}").as_bytes())
}

#[test]
fn records_for_several_streams_are_stored_together_or_not_at_all() {
    let service = service();
    let client = analyst(&service);
    let before = service.event_count();
    let records = || vec![note("user-a", 1), note("user-b", 2), note("user-a", 3)];
    let checks = [("user-a", state::NO_STREAM), ("user-c", state::NO_STREAM)];
    let appended = client.append_records(records(), &checks).unwrap();
    let revision = |stream: &str, revision| StreamRevision { stream: stream.to_owned(), revision };
    assert_eq!(appended.revisions, [revision("user-a", 1), revision("user-b", 0)]);
    assert_eq!(appended.position, i64::try_from(before + 3).unwrap());

    // Everything that does not hold is told at once, what was only checked included.
    client.append_any("user-c", vec![noted(4)]);
    let more = || vec![note("user-a", 5)];
    let wrong = [
        ("user-a", 0),
        ("user-c", state::NO_STREAM),
        ("user-b", state::EXISTS),
        ("user-d", state::EXISTS),
    ];
    let refused = client.append_records(more(), &wrong).unwrap_err();
    let expected = [
        (0, "user-a".to_owned(), 0, 1),
        (1, "user-c".to_owned(), state::NO_STREAM, 0),
        (3, "user-d".to_owned(), state::EXISTS, state::NO_STREAM),
    ];
    assert_eq!(violations(&refused), expected);
    assert_eq!(service.event_count(), before + 4);

    // What is there already is there, whatever the checks say by now.
    assert_eq!(client.append_records(records(), &checks).unwrap(), appended);
    assert_eq!(client.append_records(records(), &wrong).unwrap(), appended);
    // Of this, only a part is.
    let partly = vec![note("user-a", 3), note("user-a", 6)];
    let refused = client.append_records(partly, &[("user-a", 1)]).unwrap_err();
    assert_eq!(violations(&refused), [(0, "user-a".to_owned(), 1, 1)]);
    let loose = [("user-a", state::ANY), ("user-b", state::EXISTS), ("user-z", state::ANY)];
    assert_eq!(client.append_records(more(), &loose).unwrap().revisions, [revision("user-a", 2)]);
}

#[test]
fn records_that_are_none_are_refused() {
    let service = service();
    let client = analyst(&service);
    let nameless = {
        let mut record = note("user-a", 1);
        record.record_id = "one".to_owned();
        record
    };
    let reserved = {
        let mut record = note("user-a", 1);
        record.properties = [("$schema".to_owned(), prost_types::Value::default())].into();
        record
    };
    for record in [nameless, reserved, note("", 1)] {
        let refused = client.append_records(vec![record], &[]).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let refused = client.append_records(vec![note("user-a", 1)], &[("user-a", -3)]).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = client.append_records(Vec::new(), &[]).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let large = record("user-a", 1, "Noted", &vec![b'1'; (4 << 20) + 1]);
    let refused = client.append_records(vec![large], &[]).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details: AppendRecordSizeExceeded = details(&refused);
    assert!(details.size > 4 << 20 && details.max_size == 4 << 20, "{details:?}");
}
