//! The details of errors: those of v1 (`event_store.client`), of v2
//! (`kurrentdb.protocol.v2.streams.errors`) and of the server itself (`kurrent.rpc`).

use prost::{Message, Oneof};

use super::shared::StreamIdentifier;
use super::status::Detail;

/// v1: the stream is not at the revision that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WrongExpectedVersion {
    /// Where the stream is.
    #[prost(oneof = "CurrentRevision", tags = "1, 2")]
    pub current: Option<CurrentRevision>,
    /// What was expected.
    #[prost(oneof = "ExpectedPosition", tags = "3, 4, 5, 6")]
    pub expected: Option<ExpectedPosition>,
}

/// Where a stream is: also in the success of an append.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum CurrentRevision {
    /// Its last event has this revision.
    #[prost(uint64, tag = "1")]
    Revision(u64),
    /// It has no event.
    #[prost(message, tag = "2")]
    NoStream(()),
}

/// What was expected, in [`WrongExpectedVersion`].
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum ExpectedPosition {
    /// The last event has this revision.
    #[prost(uint64, tag = "3")]
    Revision(u64),
    /// Nothing.
    #[prost(message, tag = "4")]
    Any(()),
    /// There is an event.
    #[prost(message, tag = "5")]
    StreamExists(()),
    /// There is no event.
    #[prost(message, tag = "6")]
    NoStream(()),
}

/// v1: the caller may not do this.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AccessDenied {}

/// v1: the stream was deleted.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamDeleted {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub stream_identifier: Option<StreamIdentifier>,
}

/// v1: the deadline has passed.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timeout {}

/// v1: nothing more is known.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Unknown {}

/// v1: some of the events are stored already.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct InvalidTransaction {}

/// v1: the events are too large together.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MaximumAppendSizeExceeded {
    /// How many bytes they may have.
    #[prost(uint32, tag = "1")]
    pub max_append_size: u32,
}

/// v1: one event is too large.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MaximumAppendEventSizeExceeded {
    /// Which.
    #[prost(string, tag = "1")]
    pub event_id: String,
    /// How many bytes it has.
    #[prost(uint32, tag = "2")]
    pub proposed_event_size: u32,
    /// How many it may have.
    #[prost(uint32, tag = "3")]
    pub max_append_event_size: u32,
}

/// v1: the request makes no sense.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BadRequest {
    /// Why.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// v2: checks that do not hold, all of them.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppendConsistencyViolation {
    /// In the order of the checks.
    #[prost(message, repeated, tag = "1")]
    pub violations: Vec<ConsistencyViolation>,
}

/// A check that does not hold.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConsistencyViolation {
    /// Which of the request's checks, from 0.
    #[prost(int32, tag = "1")]
    pub check_index: i32,
    /// What kind of check.
    #[prost(oneof = "Violation", tags = "2")]
    pub violation: Option<Violation>,
}

/// The kinds of [`ConsistencyViolation`].
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Violation {
    /// A stream is in another state.
    #[prost(message, tag = "2")]
    StreamState(StreamStateViolation),
}

/// A stream is not in the state that was expected.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamStateViolation {
    /// The stream.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// A revision, or one of [`records::state`](super::records::state).
    #[prost(sint64, tag = "2")]
    pub expected_state: i64,
    /// A revision, or [`NO_STREAM`](super::records::state::NO_STREAM).
    #[prost(sint64, tag = "3")]
    pub actual_state: i64,
}

/// v2: a stream is not at the revision that was expected, in an append session.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamRevisionConflict {
    /// The stream.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// What was expected.
    #[prost(sint64, tag = "2")]
    pub expected_revision: i64,
    /// What it is at.
    #[prost(sint64, tag = "3")]
    pub actual_revision: i64,
}

/// v2: a record is too large.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppendRecordSizeExceeded {
    /// Its stream.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// Its id.
    #[prost(string, tag = "2")]
    pub record_id: String,
    /// How many bytes it has.
    #[prost(int32, tag = "3")]
    pub size: i32,
    /// How many it may have.
    #[prost(int32, tag = "4")]
    pub max_size: i32,
}

/// v2: the records are too large together.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct AppendTransactionSizeExceeded {
    /// How many bytes they have.
    #[prost(int32, tag = "1")]
    pub size: i32,
    /// How many they may have.
    #[prost(int32, tag = "2")]
    pub max_size: i32,
}

/// The server: the caller may not do this.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RpcAccessDenied {
    /// What.
    #[prost(string, tag = "1")]
    pub operation: String,
    /// Who.
    #[prost(string, optional, tag = "2")]
    pub username: Option<String>,
    /// Which right is missing.
    #[prost(string, optional, tag = "3")]
    pub permission: Option<String>,
}

/// The server: another node leads.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NotLeaderNode {
    /// Which, if it is known.
    #[prost(message, optional, tag = "1")]
    pub current_leader: Option<NodeInfo>,
}

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeInfo {
    /// Host name or address.
    #[prost(string, tag = "1")]
    pub host: String,
    /// Port.
    #[prost(int32, tag = "2")]
    pub port: i32,
    /// Its id.
    #[prost(string, optional, tag = "3")]
    pub node_id: Option<String>,
}

impl Detail for WrongExpectedVersion {
    const NAME: &'static str = "event_store.client.WrongExpectedVersion";
}

impl Detail for AccessDenied {
    const NAME: &'static str = "event_store.client.AccessDenied";
}

impl Detail for StreamDeleted {
    const NAME: &'static str = "event_store.client.StreamDeleted";
}

impl Detail for Timeout {
    const NAME: &'static str = "event_store.client.Timeout";
}

impl Detail for Unknown {
    const NAME: &'static str = "event_store.client.Unknown";
}

impl Detail for InvalidTransaction {
    const NAME: &'static str = "event_store.client.InvalidTransaction";
}

impl Detail for MaximumAppendSizeExceeded {
    const NAME: &'static str = "event_store.client.MaximumAppendSizeExceeded";
}

impl Detail for MaximumAppendEventSizeExceeded {
    const NAME: &'static str = "event_store.client.MaximumAppendEventSizeExceeded";
}

impl Detail for BadRequest {
    const NAME: &'static str = "event_store.client.BadRequest";
}

impl Detail for AppendConsistencyViolation {
    const NAME: &'static str =
        "kurrentdb.protocol.v2.streams.errors.AppendConsistencyViolationErrorDetails";
}

impl Detail for StreamRevisionConflict {
    const NAME: &'static str =
        "kurrentdb.protocol.v2.streams.errors.StreamRevisionConflictErrorDetails";
}

impl Detail for AppendRecordSizeExceeded {
    const NAME: &'static str =
        "kurrentdb.protocol.v2.streams.errors.AppendRecordSizeExceededErrorDetails";
}

impl Detail for AppendTransactionSizeExceeded {
    const NAME: &'static str =
        "kurrentdb.protocol.v2.streams.errors.AppendTransactionSizeExceededErrorDetails";
}

impl Detail for RpcAccessDenied {
    const NAME: &'static str = "kurrent.rpc.AccessDeniedErrorDetails";
}

impl Detail for NotLeaderNode {
    const NAME: &'static str = "kurrent.rpc.NotLeaderNodeErrorDetails";
}
