//! `BatchAppend`: many appends over one call. Each has an id, which its answer names.

use prost::{Message, Oneof};
use prost_types::{Duration, Timestamp};

use super::append::{AppendSuccess, ProposedMessage};
use crate::kurrent_protocol::shared::{Expectation, StreamIdentifier, UuidMessage};
use crate::kurrent_protocol::status::Status;

/// One append, or a part of one.
#[derive(Clone, PartialEq, Message)]
pub struct BatchAppendReq {
    /// Names the append.
    #[prost(message, optional, tag = "1")]
    pub correlation_id: Option<UuidMessage>,
    /// Where to; in the first part.
    #[prost(message, optional, tag = "2")]
    pub options: Option<BatchOptions>,
    /// The events.
    #[prost(message, repeated, tag = "3")]
    pub proposed_messages: Vec<ProposedMessage>,
    /// Whether this is the last part.
    #[prost(bool, tag = "4")]
    pub is_final: bool,
}

/// Where to append, and until when.
#[derive(Clone, PartialEq, Message)]
pub struct BatchOptions {
    /// The stream.
    #[prost(message, optional, tag = "1")]
    pub stream_identifier: Option<StreamIdentifier>,
    /// What is expected of it.
    #[prost(oneof = "Expectation", tags = "2, 3, 4, 5")]
    pub expected: Option<Expectation>,
    /// Until when the answer is wanted.
    #[prost(oneof = "BatchDeadline", tags = "6, 7")]
    pub deadline: Option<BatchDeadline>,
}

/// Until when the answer is wanted.
#[derive(Clone, Copy, PartialEq, Oneof)]
pub enum BatchDeadline {
    /// Until then: clients of 21.10.
    #[prost(message, tag = "6")]
    At(Timestamp),
    /// For so long. The official Rust client sends the time since 1970 until then.
    #[prost(message, tag = "7")]
    Within(Duration),
}

/// The answer to one append.
#[derive(Clone, PartialEq, Message)]
pub struct BatchAppendResp {
    /// Names the append.
    #[prost(message, optional, tag = "1")]
    pub correlation_id: Option<UuidMessage>,
    /// How it went.
    #[prost(oneof = "BatchResult", tags = "2, 3")]
    pub result: Option<BatchResult>,
    /// The stream.
    #[prost(message, optional, tag = "4")]
    pub stream_identifier: Option<StreamIdentifier>,
    /// What was expected of it.
    #[prost(oneof = "BatchExpectation", tags = "5, 6, 7, 8")]
    pub expected: Option<BatchExpectation>,
}

/// How an append went.
#[derive(Clone, PartialEq, Oneof)]
pub enum BatchResult {
    /// Nothing was stored.
    #[prost(message, tag = "2")]
    Error(Status),
    /// The events are stored.
    #[prost(message, tag = "3")]
    Success(AppendSuccess),
}

/// What was expected of the stream, in a [`BatchAppendResp`].
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum BatchExpectation {
    /// The last event has this revision.
    #[prost(uint64, tag = "5")]
    Revision(u64),
    /// There is no event.
    #[prost(message, tag = "6")]
    NoStream(()),
    /// Nothing.
    #[prost(message, tag = "7")]
    Any(()),
    /// There is an event.
    #[prost(message, tag = "8")]
    StreamExists(()),
}
