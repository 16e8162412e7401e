//! `Append`: events for one stream. The client sends options, then one message for each event.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

use crate::kurrent_protocol::errors::CurrentRevision;
use crate::kurrent_protocol::shared::{Expectation, Position, StreamIdentifier, UuidMessage};

/// One message of the request.
#[derive(Clone, PartialEq, Message)]
pub struct AppendReq {
    /// What it says.
    #[prost(oneof = "AppendReqContent", tags = "1, 2")]
    pub content: Option<AppendReqContent>,
}

/// What a message of the request says.
#[derive(Clone, PartialEq, Oneof)]
pub enum AppendReqContent {
    /// Where to; the first message.
    #[prost(message, tag = "1")]
    Options(AppendReqOptions),
    /// An event.
    #[prost(message, tag = "2")]
    ProposedMessage(ProposedMessage),
}

/// Where to append.
#[derive(Clone, PartialEq, Message)]
pub struct AppendReqOptions {
    /// The stream.
    #[prost(message, optional, tag = "1")]
    pub stream_identifier: Option<StreamIdentifier>,
    /// What is expected of it.
    #[prost(oneof = "Expectation", tags = "2, 3, 4, 5")]
    pub expected: Option<Expectation>,
}

/// An event that is to be appended: `AppendReq.ProposedMessage`, `BatchAppendReq.ProposedMessage`.
#[derive(Clone, PartialEq, Message)]
pub struct ProposedMessage {
    /// Its id.
    #[prost(message, optional, tag = "1")]
    pub id: Option<UuidMessage>,
    /// Type and content type; see [`metadata`](crate::kurrent_protocol::metadata).
    #[prost(btree_map = "string, string", tag = "2")]
    pub metadata: BTreeMap<String, String>,
    /// What its writer says of it.
    #[prost(bytes = "vec", tag = "3")]
    pub custom_metadata: Vec<u8>,
    /// Its data.
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
}

/// The answer. A conflict is one as well, and no error of the call.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct AppendResp {
    /// How it went.
    #[prost(oneof = "AppendResult", tags = "1, 2")]
    pub result: Option<AppendResult>,
}

/// How an append went.
#[derive(Clone, Copy, PartialEq, Oneof)]
pub enum AppendResult {
    /// The events are stored.
    #[prost(message, tag = "1")]
    Success(AppendSuccess),
    /// The stream is not as expected.
    #[prost(message, tag = "2")]
    Conflict(Conflict),
}

/// Where the events went: `AppendResp.Success`, `BatchAppendResp.Success`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct AppendSuccess {
    /// The revision of the stream's last event.
    #[prost(oneof = "CurrentRevision", tags = "1, 2")]
    pub current: Option<CurrentRevision>,
    /// The place of the last event in the log.
    #[prost(oneof = "WrittenPosition", tags = "3, 4")]
    pub position: Option<WrittenPosition>,
}

/// The place of the last event in the log.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum WrittenPosition {
    /// The place.
    #[prost(message, tag = "3")]
    Position(Position),
    /// It is not known.
    #[prost(message, tag = "4")]
    None(()),
}

/// `AppendResp.WrongExpectedVersion`: the stream is not as expected. Clients of before 20.6.1 read
/// fields 1 to 5, which are not sent.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Conflict {
    /// Where the stream is.
    #[prost(oneof = "ConflictCurrent", tags = "6, 7")]
    pub current: Option<ConflictCurrent>,
    /// What was expected.
    #[prost(oneof = "ConflictExpected", tags = "8, 9, 10, 11")]
    pub expected: Option<ConflictExpected>,
}

/// Where the stream is, in a [`Conflict`].
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum ConflictCurrent {
    /// Its last event has this revision.
    #[prost(uint64, tag = "6")]
    Revision(u64),
    /// It has no event.
    #[prost(message, tag = "7")]
    NoStream(()),
}

/// What was expected, in a [`Conflict`].
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum ConflictExpected {
    /// The last event has this revision.
    #[prost(uint64, tag = "8")]
    Revision(u64),
    /// Nothing.
    #[prost(message, tag = "9")]
    Any(()),
    /// There is an event.
    #[prost(message, tag = "10")]
    StreamExists(()),
    /// There is no event.
    #[prost(message, tag = "11")]
    NoStream(()),
}
