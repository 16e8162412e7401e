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
        "{}",
        "",
        "no JSON",
    ] {
        let stored = stored_by_server(properties_of(metadata.as_bytes()));
        let back = metadata_of(&stored);
        assert_eq!(String::from_utf8(back).unwrap(), metadata);
    }
    let bytes = [0, 159, 146, 150];
    assert_eq!(metadata_of(&stored_by_server(properties_of(&bytes))), bytes);
}

/// What a server shows of an event beside its metadata.
fn shown(created: &'static str, json: bool) -> impl Fn(&str) -> Option<&'static str> {
    move |key| match key {
        metadata::CREATED => Some(created),
        metadata::CONTENT_TYPE if json => Some(metadata::JSON),
        metadata::CONTENT_TYPE => Some(metadata::BYTES),
        _ => None,
    }
}

#[test]
fn what_is_known_of_an_event_of_the_users_comes_back_with_what_its_writer_said() {
    let stream = name("user-a");
    for (at_ms, json) in [(1_700_000_000_001, true), (-1, false), (i64::MIN, true)] {
        for writers in [
            &br#"{"by":"me"}"#[..],
            br#"{"$correlationId":"x","n":1.0}"#,
            br#"{"license-ledger-at-ms":"7"}"#,
            br#"{"license-ledger-metadata":"e30="}"#,
            b"{\"at_ms\":1,\"json\":true}\n{}",
            b"{}",
            b"",
            b"\n\xff",
        ] {
            let stored = UserMetadata { at_ms, json }.write(writers);
            let (format, properties) = surroundings(&stream, &stored);
            assert_eq!(format == SchemaFormat::Json, json);
            // The server has a time of its own for it.
            let shown = shown("16000000000000000", json);
            assert_eq!(stored_metadata(&stream, &stored_by_server(properties), shown), stored);
        }
    }
    let stored = UserMetadata { at_ms: 7, json: true }.write(br#"{"by":"me"}"#);
    let (_, properties) = surroundings(&stream, &stored);
    assert_eq!(properties["by"].kind, Some(ValueKind::StringValue("me".to_owned())));
}

#[test]
fn an_event_that_a_user_wrote_to_the_cluster_happened_when_the_cluster_says() {
    let stream = name("user-a");
    for custom in [&br#"{"$correlationId":"x","n":1.0}"#[..], b"", b"\xff"] {
        let stored = stored_metadata(&stream, custom, shown("17000000000019999", false));
        let known = UserMetadata { at_ms: 1_700_000_000_001, json: false };
        assert_eq!(stored, known.write(custom));
    }
    // As events of the users were written once: all of it in base64.
    let stored = UserMetadata { at_ms: 7, json: true }.write(b"{}");
    let custom = stored_by_server(properties_of(&stored));
    assert_eq!(stored_metadata(&stream, &custom, shown("0", true)), stored);
}

#[test]
fn members_of_our_metadata_are_there_for_other_tools() {
    let properties = properties_of(br#"{"correlation":"a-b","schema":1}"#);
    assert_eq!(properties["correlation"].kind, Some(ValueKind::StringValue("a-b".to_owned())));
    assert_eq!(properties["schema"].kind, Some(ValueKind::NumberValue(1.0)));
}

#[test]
fn metadata_that_others_wrote_is_left_alone() {
    for metadata in [r#"{ "a" : 1 }"#, r#"{"$correlationId":"x","n":1.0}"#, "{}", "", "text"] {
        assert_eq!(metadata_of(metadata.as_bytes()), metadata.as_bytes());
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
