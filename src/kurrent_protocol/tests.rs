//! Against bytes that others' code made: see `tests/golden/kurrentdb`.

use std::fmt::Debug;

use data_encoding::HEXLOWER;
use prost::Message;
use uuid::Uuid;

use super::errors::{
    AppendConsistencyViolation, ConsistencyViolation, CurrentRevision, ExpectedPosition, NodeInfo,
    NotLeaderNode, StreamStateViolation, Violation, WrongExpectedVersion,
};
use super::gossip::{ClusterInfo, EndPoint, MemberInfo, NodeState};
use super::records::{
    AppendRecord, AppendRecordsRequest, AppendRecordsResponse, AppendRequest, AppendResponse,
    AppendSessionResponse, Check, ConsistencyCheck, SchemaFormat, SchemaInfo, StreamRevision,
    StreamStateCheck, Value, ValueKind, state,
};
use super::shared::{Expectation, Position, UuidMessage};
use super::status::{Detail, Status};
use super::streams::*;

const REQUESTS: &str = include_str!("../../tests/golden/kurrentdb/requests.txt");
const ANSWERS: &str = include_str!("../../tests/golden/kurrentdb/answers.txt");
const ID: Uuid = Uuid::from_u128(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00);

/// The messages that a client sent to a method, oldest first.
fn requests<M: Message + Default + PartialEq>(client: &str, method: &str) -> Vec<M> {
    let lines = REQUESTS.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let wanted = lines.filter(|line| line[..2] == [client, method]);
    wanted.map(|line| read_and_written(&HEXLOWER.decode(line[2].as_bytes()).unwrap())).collect()
}

/// A message that loses nothing when it is read and written. The order of map entries is free.
fn read_and_written<M: Message + Default + PartialEq>(bytes: &[u8]) -> M {
    let message = M::decode(bytes).unwrap();
    let written = message.encode_to_vec();
    assert_eq!(written.len(), bytes.len(), "{message:?}");
    assert_eq!(M::decode(written.as_slice()).unwrap(), message);
    message
}

fn is_answer<M: Message + Default + PartialEq + Debug>(name: &str, message: &M) {
    let line = ANSWERS.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap();
    assert_eq!(HEXLOWER.encode(&message.encode_to_vec()), line, "{name}");
    assert_eq!(M::decode(HEXLOWER.decode(line.as_bytes()).unwrap().as_slice()).unwrap(), *message);
}

fn options(expected: Expectation) -> AppendReq {
    let options =
        AppendReqOptions { stream_identifier: Some("user-a".into()), expected: Some(expected) };
    AppendReq { content: Some(AppendReqContent::Options(options)) }
}

fn noted(n: u32) -> ProposedMessage {
    let metadata = [("type", "Noted"), ("content-type", "application/json")];
    ProposedMessage {
        id: Some(UuidMessage::text(Uuid::from_u128(n.into()))),
        metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        custom_metadata: br#"{"by":"me"}"#.to_vec(),
        data: format!("{{\"n\":{n}}}").into_bytes(),
    }
}

fn event(n: u32) -> AppendReq {
    AppendReq { content: Some(AppendReqContent::ProposedMessage(noted(n))) }
}

#[test]
fn reads_the_appends_of_official_clients() {
    let python: Vec<AppendReq> = requests("python", "Streams/Append");
    let expected = [
        options(Expectation::NoStream(())),
        event(1),
        options(Expectation::Any(())),
        event(4),
        options(Expectation::StreamExists(())),
        event(5),
    ];
    assert_eq!(python, expected);
    let node: Vec<AppendReq> = requests("node", "Streams/Append");
    let expected = [
        options(Expectation::NoStream(())),
        event(1),
        options(Expectation::Revision(5)),
        event(2),
        event(3),
    ];
    assert_eq!(node, expected);
}

#[test]
fn reads_the_batches_of_official_clients() {
    let batches = |client| requests::<BatchAppendReq>(client, "Streams/BatchAppend").remove(0);
    let python = batches("python");
    let options = python.options.unwrap();
    assert_eq!(options.stream_identifier, Some("user-a".into()));
    assert_eq!(options.expected, Some(Expectation::Revision(5)));
    assert!(matches!(options.deadline, Some(BatchDeadline::Within(_))));
    assert_eq!(python.proposed_messages, [noted(2), noted(3)]);
    assert!(python.is_final && python.correlation_id.unwrap().id().is_some());
    let node = batches("node");
    let options = node.options.unwrap();
    assert_eq!(options.expected, Some(Expectation::NoStream(())));
    assert!(matches!(options.deadline, Some(BatchDeadline::At(_))));
    assert_eq!(node.proposed_messages, [noted(1)]);
}

fn read_options(source: Source, count: Count, uuids: UuidChoice) -> ReadOptions {
    ReadOptions {
        source: Some(source),
        read_direction: Direction::Forwards.into(),
        resolve_links: false,
        count: Some(count),
        filter: Some(Filter::None(())),
        uuid_option: Some(UuidOption { choice: Some(uuids) }),
        control_option: None,
    }
}

fn stream(start: StreamStart) -> Source {
    Source::Stream(StreamOptions { stream_identifier: Some("user-a".into()), start: Some(start) })
}

fn all(start: AllStart) -> Source {
    Source::All(AllOptions { start: Some(start) })
}

fn filter(by: FilterBy, window: Window, checkpoint_interval_multiplier: u32) -> Option<Filter> {
    let by = Some(by);
    let window = Some(window);
    Some(Filter::Some(FilterOptions { by, window, checkpoint_interval_multiplier }))
}

fn regex(regex: &str) -> Expression {
    Expression { regex: regex.to_owned(), prefix: Vec::new() }
}

#[test]
fn reads_the_reads_of_official_clients() {
    let everything = Count::Count(i64::MAX as u64);
    let (live, text) = (Count::Subscription(Subscription {}), UuidChoice::Text(()));
    let not_system = FilterBy::EventType(regex(r"^(?!(\$.+$|PersistentConfig\d+$|Result$))"));
    let not_system = filter(not_system, Window::Max(30), 5);
    let prefixes =
        Expression { regex: String::new(), prefix: vec!["user-".to_owned(), "device-".to_owned()] };
    let python = [
        read_options(stream(StreamStart::Start(())), everything, text),
        ReadOptions {
            read_direction: Direction::Backwards.into(),
            ..read_options(stream(StreamStart::Revision(7)), Count::Count(3), text)
        },
        ReadOptions {
            filter: not_system.clone(),
            ..read_options(all(AllStart::Start(())), everything, text)
        },
        ReadOptions {
            read_direction: Direction::Backwards.into(),
            ..read_options(all(AllStart::Position(Position::at(9))), Count::Count(4), text)
        },
        ReadOptions {
            filter: not_system,
            ..read_options(all(AllStart::Position(Position::at(9))), live, text)
        },
        ReadOptions {
            filter: filter(FilterBy::Stream(prefixes), Window::Max(30), 5),
            ..read_options(all(AllStart::End(())), live, text)
        },
        read_options(stream(StreamStart::Revision(2)), live, text),
    ];
    let python = python.map(|options| ReadReq { options: Some(options) });
    assert_eq!(requests::<ReadReq>("python", "Streams/Read"), python);
    let node = [
        ReadOptions {
            control_option: Some(ControlOption { compatibility: 1 }),
            ..read_options(stream(StreamStart::Start(())), Count::Count(3), text)
        },
        ReadOptions {
            read_direction: Direction::Backwards.into(),
            ..read_options(all(AllStart::End(())), Count::Count(3), text)
        },
        ReadOptions {
            filter: filter(FilterBy::EventType(regex("^[^$].*")), Window::Count(()), 1),
            ..read_options(all(AllStart::Start(())), live, text)
        },
        read_options(stream(StreamStart::Revision(2)), live, text),
    ];
    let node = node.map(|options| ReadReq { options: Some(options) });
    assert_eq!(requests::<ReadReq>("node", "Streams/Read"), node);
}

#[test]
fn reads_deletions_of_official_clients() {
    let expected = |method| {
        ["python", "node"].map(|client| {
            let options = requests::<DeleteReq>(client, method).remove(0).options.unwrap();
            assert_eq!(options.stream_identifier, Some("user-a".into()));
            options.expected.unwrap()
        })
    };
    assert_eq!(expected("Streams/Delete"), [Expectation::Any(()), Expectation::Any(())]);
    let revisions = [Expectation::Revision(3), Expectation::Revision(4)];
    assert_eq!(expected("Streams/Tombstone"), revisions);
}

#[test]
fn reads_an_append_with_checks() {
    let check = |stream: &str, expected_state| ConsistencyCheck {
        check: Some(Check::StreamState(StreamStateCheck {
            stream: stream.to_owned(),
            expected_state,
        })),
    };
    let by = Value { kind: Some(ValueKind::StringValue("me".to_owned())) };
    let json =
        SchemaInfo { format: SchemaFormat::Json.into(), name: "Noted".to_owned(), id: "".into() };
    let record = AppendRecord {
        record_id: Uuid::from_u128(6).to_string(),
        properties: [("by".to_owned(), by)].into(),
        schema: Some(json),
        data: br#"{"n":1}"#.to_vec(),
        stream: "user-a".to_owned(),
    };
    let expected = AppendRecordsRequest {
        records: vec![record],
        checks: vec![check("user-a", 4), check("user-b", state::NO_STREAM)],
    };
    let sent = requests::<AppendRecordsRequest>("python", "StreamsService/AppendRecords");
    assert_eq!(sent, [expected]);
}

fn read_resp(name: &str, content: ReadRespContent) {
    is_answer(name, &ReadResp { content: Some(content) });
}

#[test]
fn writes_what_a_read_answers() {
    let timestamp = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 });
    let event = RecordedEvent {
        id: Some(UuidMessage::text(ID)),
        stream_identifier: Some("user-a".into()),
        stream_revision: 3,
        prepare_position: 8,
        commit_position: 8,
        metadata: [("type".to_owned(), "Noted".to_owned())].into(),
        custom_metadata: b"{}".to_vec(),
        data: br#"{"n":1}"#.to_vec(),
    };
    let position = Some(EventPosition::Commit(8));
    let event = ReadEvent { event: Some(event), link: None, position };
    read_resp("read event", ReadRespContent::Event(Box::new(event)));
    let confirmation = Confirmation { subscription_id: "s".to_owned() };
    read_resp("read confirmation", ReadRespContent::Confirmation(confirmation));
    let checkpoint = Checkpoint { commit_position: 8, prepare_position: 8, timestamp };
    read_resp("read checkpoint", ReadRespContent::Checkpoint(checkpoint));
    let missing = StreamNotFound { stream_identifier: Some("user-a".into()) };
    read_resp("read stream not found", ReadRespContent::StreamNotFound(missing));
    read_resp("read last stream position", ReadRespContent::LastStreamPosition(3));
    read_resp("read first stream position", ReadRespContent::FirstStreamPosition(0));
    let last = ReadRespContent::LastAllStreamPosition(Position::at(8));
    read_resp("read last all stream position", last);
    let at = |stream_revision| CaughtUp { timestamp, stream_revision, position: None };
    read_resp("read caught up", ReadRespContent::CaughtUp(at(Some(0))));
    let all = CaughtUp { position: Some(Position::at(8)), ..at(None) };
    read_resp("read caught up all", ReadRespContent::CaughtUp(all));
    read_resp("read fell behind", ReadRespContent::FellBehind(at(Some(2))));
}

#[test]
fn writes_what_an_append_answers() {
    let answer = |name, result| is_answer(name, &AppendResp { result: Some(result) });
    let success = |revision| AppendSuccess {
        current: Some(CurrentRevision::Revision(revision)),
        position: Some(WrittenPosition::Position(Position::at(8))),
    };
    answer("append success", AppendResult::Success(success(0)));
    let conflict = |current, expected| {
        AppendResult::Conflict(Conflict { current: Some(current), expected: Some(expected) })
    };
    let (there, absent) = (ConflictCurrent::Revision(4), ConflictCurrent::NoStream(()));
    answer("append conflict", conflict(there, ConflictExpected::NoStream(())));
    answer("append conflict no stream", conflict(absent, ConflictExpected::Revision(7)));

    let batch = |result, expected| BatchAppendResp {
        correlation_id: Some(UuidMessage::structured(ID)),
        result: Some(result),
        stream_identifier: Some("user-a".into()),
        expected: Some(expected),
    };
    let stored = BatchResult::Success(success(1));
    is_answer("batch success", &batch(stored, BatchExpectation::Revision(5)));
    let wrong = WrongExpectedVersion {
        current: Some(CurrentRevision::Revision(4)),
        expected: Some(ExpectedPosition::NoStream(())),
    };
    let status = status(wrong.packed());
    assert_eq!(status.detail(), Some(wrong));
    assert_eq!(status.detail::<AppendConsistencyViolation>(), None);
    let refused = BatchResult::Error(status);
    is_answer("batch conflict", &batch(refused, BatchExpectation::NoStream(())));
}

fn status(detail: super::status::Any) -> Status {
    Status { code: 9, message: "m".to_owned(), details: vec![detail] }
}

#[test]
fn writes_what_an_append_with_checks_answers() {
    let revision = |stream: &str, revision| StreamRevision { stream: stream.to_owned(), revision };
    let revisions = vec![revision("user-a", 0), revision("user-b", 300)];
    is_answer("records appended", &AppendRecordsResponse { revisions, position: 8 });
    let violation = ConsistencyViolation {
        check_index: 1,
        violation: Some(Violation::StreamState(StreamStateViolation {
            stream: "user-b".to_owned(),
            expected_state: state::NO_STREAM,
            actual_state: 4,
        })),
    };
    let violated = AppendConsistencyViolation { violations: vec![violation] };
    is_answer("records violated", &status(violated.packed()));
    let leader = NodeInfo { host: "h".to_owned(), port: 2113, node_id: Some("n".to_owned()) };
    let elsewhere = NotLeaderNode { current_leader: Some(leader) };
    is_answer("not leader", &status(elsewhere.packed()));
    let part =
        AppendResponse { stream: "user-a".to_owned(), stream_revision: 0, position: Some(8) };
    is_answer("session appended", &AppendSessionResponse { output: vec![part], position: 8 });
    let record = AppendRecord {
        record_id: ID.to_string(),
        schema: Some(SchemaInfo { format: 1, name: "Noted".to_owned(), id: String::new() }),
        data: b"{}".to_vec(),
        ..AppendRecord::default()
    };
    let part = AppendRequest {
        stream: "user-a".to_owned(),
        records: vec![record],
        expected_revision: Some(0),
    };
    is_answer("session part", &part);
}

#[test]
fn writes_the_members_of_a_cluster() {
    let member = MemberInfo {
        instance_id: Some(UuidMessage::structured(ID)),
        time_stamp: 638_356_652_000_000_000,
        state: NodeState::Leader.into(),
        is_alive: true,
        http_end_point: Some(EndPoint { address: "127.0.0.1".to_owned(), port: 2113 }),
    };
    is_answer("gossip", &ClusterInfo { members: vec![member] });
}

#[test]
fn an_id_is_the_same_in_both_forms_and_other_text_is_none() {
    assert_eq!(UuidMessage::structured(ID).id(), Some(ID));
    assert_eq!(UuidMessage::text(ID).id(), Some(ID));
    assert_eq!(UuidMessage { form: None }.id(), None);
    let text = super::shared::UuidForm::Text("seven".to_owned());
    assert_eq!(UuidMessage { form: Some(text) }.id(), None);
}
