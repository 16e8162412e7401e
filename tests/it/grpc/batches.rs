//! `BatchAppend`.

use license_ledger::kurrent_protocol::errors::{
    AccessDenied, BadRequest, CurrentRevision, ExpectedPosition, WrongExpectedVersion,
};
use license_ledger::kurrent_protocol::shared::{Expectation, UuidMessage};
use license_ledger::kurrent_protocol::streams::*;
use tonic::Code;
use uuid::Uuid;

use super::client::{in_stream, noted};
use super::{analyst, service};

fn part(id: u128, stream: &str, expected: Expectation, events: &[u128]) -> BatchAppendReq {
    BatchAppendReq {
        correlation_id: Some(UuidMessage::structured(Uuid::from_u128(id))),
        options: Some(BatchOptions {
            stream_identifier: Some(stream.into()),
            expected: Some(expected),
            deadline: None,
        }),
        proposed_messages: events.iter().map(|id| noted(*id)).collect(),
        is_final: true,
    }
}

#[test]
fn each_batch_is_answered_and_a_failure_ends_nothing() {
    let service = service();
    let client = analyst(&service);
    let opening =
        BatchAppendReq { is_final: false, ..part(1, "user-a", Expectation::NoStream(()), &[1, 2]) };
    let rest = BatchAppendReq { options: None, ..part(1, "", Expectation::Any(()), &[3]) };
    let parts = vec![
        opening,
        rest,
        part(2, "user-a", Expectation::Revision(0), &[4]),
        part(3, "device-a", Expectation::Any(()), &[5]),
        part(4, "$user", Expectation::Any(()), &[6]),
        part(5, "user-a", Expectation::Revision(2), &[7]),
    ];
    let (answers, end) = client.batch_append(parts);
    assert_eq!(end.map(|status| status.to_string()), None);
    let ids: Vec<_> = answers.iter().map(|answer| answer.correlation_id.clone().unwrap()).collect();
    let expected = (1..=5).map(|id| UuidMessage::structured(Uuid::from_u128(id)));
    assert_eq!(ids, expected.collect::<Vec<_>>());
    let results: Vec<_> = answers.into_iter().map(|answer| answer.result.unwrap()).collect();
    let revision = |result: &BatchResult| match result {
        BatchResult::Success(success) => success.current,
        BatchResult::Error(_) => None,
    };
    assert_eq!(revision(&results[0]), Some(CurrentRevision::Revision(2)));
    assert_eq!(revision(&results[4]), Some(CurrentRevision::Revision(3)));
    let error = |result: &BatchResult| match result {
        BatchResult::Error(status) => status.clone(),
        BatchResult::Success(success) => panic!("{success:?}"),
    };
    let wrong = error(&results[1]);
    assert_eq!(wrong.code, i32::from(Code::FailedPrecondition));
    let expected = WrongExpectedVersion {
        current: Some(CurrentRevision::Revision(2)),
        expected: Some(ExpectedPosition::Revision(0)),
    };
    assert_eq!(wrong.detail(), Some(expected));
    assert_eq!(error(&results[2]).detail(), Some(AccessDenied {}));
    assert!(error(&results[3]).detail::<BadRequest>().is_some());
    let events = client.events(in_stream("user-a", StreamStart::Start(()), 100));
    let data: Vec<_> = events.iter().map(|event| &event.data[..]).collect();
    assert_eq!(data, [b"{\"n\":1}", b"{\"n\":2}", b"{\"n\":3}", b"{\"n\":7}"]);
}

#[test]
fn a_batch_that_is_not_complete_is_not_stored() {
    let service = service();
    let client = analyst(&service);
    let before = service.event_count();
    let open =
        |id| BatchAppendReq { is_final: false, ..part(id, "user-a", Expectation::Any(()), &[1]) };
    let (answers, end) = client.batch_append(vec![open(1)]);
    assert_eq!((answers.len(), end.is_none()), (0, true));
    let (answers, end) = client.batch_append(vec![open(1), open(2)]);
    assert_eq!((answers.len(), end.unwrap().code()), (0, Code::InvalidArgument));
    assert_eq!(service.event_count(), before);
}
