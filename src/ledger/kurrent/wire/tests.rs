use prost::Message;

use super::*;
use crate::kurrent_protocol::errors::{ConsistencyViolation, NodeInfo};
use crate::kurrent_protocol::status::Detail;

fn name(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn prefix() -> Prefix {
    Prefix("p.".to_owned())
}

/// What a server stores of properties: JSON, with members of its own and each number a double.
fn stored_by_server(properties: BTreeMap<String, Value>) -> Vec<u8> {
    let mut members: BTreeMap<String, Json> = properties
        .into_iter()
        .map(|(name, value)| {
            let member = match value.kind.unwrap() {
                ValueKind::StringValue(text) => Json::from(text),
                ValueKind::NumberValue(number) => Json::from(number),
                ValueKind::BoolValue(is) => Json::from(is),
                other => panic!("{other:?}"),
            };
            (name, member)
        })
        .collect();
    members.insert("$schema.format".to_owned(), Json::from("Json"));
    serde_json::to_vec(&members).unwrap()
}

#[test]
fn metadata_comes_back_byte_for_byte() {
    for metadata in [
        r#"{"correlation":"a-b","schema":1}"#,
        r#"{"attempt":-7,"dry":false}"#,
        r#"{ "schema" : 1 }"#,
        r#"{"schema":1.0}"#,
        r#"{"b":1,"a":2}"#,
        r#"{"$correlationId":"x"}"#,
        r#"{"nested":{"a":1}}"#,
        r#"{"large":9007199254740993}"#,
        r#"{"license-ledger-append":"01234567-89ab-cdef-0123-456789abcdef"}"#,
        "{}",
        "",
        "no JSON",
    ] {
        assert_comes_back(metadata.as_bytes());
    }
    assert_comes_back(&[0, 159, 146, 150]);
}

/// The last record of an append names the append beside its metadata, the others do not.
#[track_caller]
fn assert_comes_back(metadata: &[u8]) {
    let event = |id| NewEvent {
        id: Uuid::from_u128(id),
        kind: "tested.v1".into(),
        data: Vec::new(),
        metadata: metadata.to_vec(),
    };
    let append = Append {
        records: vec![(name("a"), event(1)), (name("a"), event(2))],
        checks: vec![(name("a"), Expected::NoStream)],
    };
    let id = Uuid::from_u128(7);
    let records = request(&append, &prefix(), id).records.into_iter();
    let stored = records.map(|record| metadata_of(&stored_by_server(record.properties)));
    let expected = [None, Some(id)].map(|append| (metadata.to_vec(), append));
    assert_eq!(stored.collect::<Vec<_>>(), expected);
}

#[test]
fn members_of_our_metadata_are_there_for_other_tools() {
    let properties = properties_of(br#"{"correlation":"a-b","schema":1}"#);
    assert_eq!(properties["correlation"].kind, Some(ValueKind::StringValue("a-b".to_owned())));
    assert_eq!(properties["schema"].kind, Some(ValueKind::NumberValue(1.0)));
}

#[test]
fn metadata_that_others_wrote_is_left_alone() {
    for metadata in [r#"{ "a" : 1 }"#, "{}", "", "text"] {
        assert_eq!(metadata_of(metadata.as_bytes()), (metadata.as_bytes().to_vec(), None));
    }
}

#[test]
fn no_revision_is_taken_for_a_constant() {
    assert_eq!(expected_state(Expected::NoStream), -1);
    assert_eq!(expected_state(Expected::At(0)), 0);
    assert_eq!(expected_state(Expected::At(u64::MAX)), i64::MAX);
}

#[test]
fn the_first_check_that_fails_is_the_conflict() {
    let checks = vec![
        (name("a"), Expected::At(3)),
        (name("b"), Expected::NoStream),
        (name("c"), Expected::At(0)),
    ];
    let append = Append { records: Vec::new(), checks };
    let violation = |stream: &str, actual_state| ConsistencyViolation {
        check_index: 0,
        violation: Some(Violation::StreamState(StreamStateViolation {
            stream: stream.to_owned(),
            expected_state: 0,
            actual_state,
        })),
    };
    let violations = vec![violation("p.c", -1), violation("p.b", 7), violation("other", 1)];
    let error = with_detail(&AppendConsistencyViolation { violations });
    let Verdict::Final(AppendError::Conflict { stream, expected, actual }) =
        verdict(&error, &append, &prefix())
    else {
        panic!("{error:?}");
    };
    assert_eq!((stream, expected, actual), (name("b"), Expected::NoStream, Some(7)));
    let error = with_detail(&AppendConsistencyViolation { violations: vec![violation("p.c", -1)] });
    let Verdict::Final(AppendError::Conflict { stream, actual, .. }) =
        verdict(&error, &append, &prefix())
    else {
        panic!("{error:?}");
    };
    assert_eq!((stream, actual), (name("c"), None));
}

#[test]
fn follows_the_server_to_the_leader() {
    let info = NodeInfo { host: "two".to_owned(), port: 2114, node_id: None };
    let error = with_detail(&NotLeaderNode { current_leader: Some(info) });
    let leader = Host { name: "two".to_owned(), port: 2114 };
    assert_eq!(not_leader(&error), Some(Some(leader.clone())));
    let mut error = Status::not_found("Leader info available");
    for (key, value) in [
        ("exception", "not-leader"),
        ("leader-endpoint-host", "two"),
        ("leader-endpoint-port", "2114"),
    ] {
        error.metadata_mut().insert(key, value.parse().unwrap());
    }
    assert_eq!(not_leader(&error), Some(Some(leader)));
    assert_eq!(not_leader(&Status::unavailable("")), None);
}

#[test]
fn what_may_have_been_stored_is_never_called_refused() {
    let append = Append::default();
    for code in [Code::Unavailable, Code::Unknown, Code::DeadlineExceeded, Code::Internal] {
        let verdict = verdict(&Status::new(code, ""), &append, &prefix());
        assert!(matches!(verdict, Verdict::Unclear), "{code}: {verdict:?}");
    }
}

fn with_detail(detail: &impl Detail) -> Status {
    let details = status::Status {
        code: Code::FailedPrecondition.into(),
        message: String::new(),
        details: vec![detail.packed()],
    };
    Status::with_details(Code::FailedPrecondition, "", details.encode_to_vec().into())
}
