//! `kurrentdb.protocol.v2.streams`: appends to several streams, with checks on these and others.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};
pub use prost_types::{Value, value::Kind as ValueKind};

/// States of a stream that are no revision.
pub mod state {
    /// It has no event.
    pub const NO_STREAM: i64 = -1;
    /// Any.
    pub const ANY: i64 = -2;
    /// It has an event.
    pub const EXISTS: i64 = -4;
}

/// Properties of our own that a record may have.
pub mod property {
    /// Metadata that is no plain JSON object, in base64; then it is the only one that tells of it.
    pub const VERBATIM: &str = "license-ledger-metadata";
    /// When an event of the users was first appended: milliseconds since 1970, as text. A copy says
    /// so, since otherwise the time of the append counts.
    pub const AT_MS: &str = "license-ledger-at-ms";
}

/// Several events for several streams, stored together or not at all.
#[derive(Clone, PartialEq, Message)]
pub struct AppendRecordsRequest {
    /// The events, in the order in which they will stand in the log.
    #[prost(message, repeated, tag = "1")]
    pub records: Vec<AppendRecord>,
    /// What has to hold before.
    #[prost(message, repeated, tag = "2")]
    pub checks: Vec<ConsistencyCheck>,
}

/// An event that is to be appended.
#[derive(Clone, PartialEq, Message)]
pub struct AppendRecord {
    /// Its id, as text.
    #[prost(string, tag = "1")]
    pub record_id: String,
    /// Its metadata. Keys must not begin with `$`.
    #[prost(btree_map = "string, message", tag = "2")]
    pub properties: BTreeMap<String, Value>,
    /// What its data is.
    #[prost(message, optional, tag = "3")]
    pub schema: Option<SchemaInfo>,
    /// Its data.
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
    /// Its stream; empty in an [`AppendRequest`], which names one for all.
    #[prost(string, tag = "5")]
    pub stream: String,
}

/// What the data of a record is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SchemaInfo {
    /// How it is written.
    #[prost(enumeration = "SchemaFormat", tag = "1")]
    pub format: i32,
    /// The type of the event.
    #[prost(string, tag = "2")]
    pub name: String,
    /// In a registry of schemas.
    #[prost(string, tag = "3")]
    pub id: String,
}

/// How data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
pub enum SchemaFormat {
    /// It is not said.
    Unspecified = 0,
    /// JSON.
    Json = 1,
    /// Protocol buffers.
    Protobuf = 2,
    /// Avro.
    Avro = 3,
    /// Anything.
    Bytes = 4,
}

/// What has to hold for an append.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ConsistencyCheck {
    /// What kind of check.
    #[prost(oneof = "Check", tags = "1")]
    pub check: Option<Check>,
}

/// The kinds of [`ConsistencyCheck`].
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Check {
    /// A stream is in a state.
    #[prost(message, tag = "1")]
    StreamState(StreamStateCheck),
}

/// A stream is in a state.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamStateCheck {
    /// The stream.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// A revision, or one of [`state`].
    #[prost(sint64, tag = "2")]
    pub expected_state: i64,
}

/// The answer to an [`AppendRecordsRequest`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppendRecordsResponse {
    /// The last revision of each stream that was written.
    #[prost(message, repeated, tag = "1")]
    pub revisions: Vec<StreamRevision>,
    /// The place of the last event in the log.
    #[prost(sint64, tag = "2")]
    pub position: i64,
}

/// Where a stream is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamRevision {
    /// The stream.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// The revision of its last event.
    #[prost(sint64, tag = "2")]
    pub revision: i64,
}

/// A part of an append session: events for one stream. The session is stored as a whole when the
/// client has sent all of it.
#[derive(Clone, PartialEq, Message)]
pub struct AppendRequest {
    /// The stream; each at most once in a session.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// The events.
    #[prost(message, repeated, tag = "2")]
    pub records: Vec<AppendRecord>,
    /// A revision, or one of [`state`].
    #[prost(sint64, optional, tag = "3")]
    pub expected_revision: Option<i64>,
}

/// The answer to an append session.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppendSessionResponse {
    /// One for each request of the session.
    #[prost(message, repeated, tag = "1")]
    pub output: Vec<AppendResponse>,
    /// The place of the last event in the log.
    #[prost(sint64, tag = "2")]
    pub position: i64,
}

/// Where the events of one part of a session went.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AppendResponse {
    /// The stream.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// The revision of its last event.
    #[prost(sint64, tag = "2")]
    pub stream_revision: i64,
    /// The place of its last event in the log.
    #[prost(sint64, optional, tag = "3")]
    pub position: Option<i64>,
}
