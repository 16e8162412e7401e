//! `Delete` and `Tombstone`: their messages have the same fields.

use prost::{Message, Oneof};

use crate::kurrent_protocol::shared::{Expectation, Position, StreamIdentifier};

/// `DeleteReq`, `TombstoneReq`.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteReq {
    /// All of it.
    #[prost(message, optional, tag = "1")]
    pub options: Option<DeleteOptions>,
}

/// What is to be deleted.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteOptions {
    /// The stream.
    #[prost(message, optional, tag = "1")]
    pub stream_identifier: Option<StreamIdentifier>,
    /// What is expected of it.
    #[prost(oneof = "Expectation", tags = "2, 3, 4, 5")]
    pub expected: Option<Expectation>,
}

/// `DeleteResp`, `TombstoneResp`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct DeleteResp {
    /// Where the deletion stands in the log.
    #[prost(oneof = "DeletedPosition", tags = "1, 2")]
    pub position: Option<DeletedPosition>,
}

/// Where a deletion stands in the log.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum DeletedPosition {
    /// The place.
    #[prost(message, tag = "1")]
    Position(Position),
    /// It is not known.
    #[prost(message, tag = "2")]
    None(()),
}
