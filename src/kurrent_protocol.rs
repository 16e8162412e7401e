//! The messages of the KurrentDB (EventStoreDB) gRPC protocol, as far as the ledger speaks it.
//!
//! Pure: bytes in, typed values out, and back. Who sends them over which connection is the business
//! of the endpoint and of the adapter. Two generations share one server:
//!
//! - v1, `event_store.client.*`, which every server since 20.6 has: [`streams`], [`features`],
//!   [`gossip`];
//! - v2, `kurrentdb.protocol.v2.streams`, of servers 26.0.3, 26.1 and later: [`records`], an append
//!   to several streams with checks.
//!
//! Where several messages of the protocol have the same fields under the same numbers, one type
//! stands for all of them: on the wire they are the same. Unknown fields are passed over, absent ones
//! have the default of their type, as everywhere in protocol buffers.

pub mod errors;
pub mod features;
pub mod gossip;
pub mod records;
pub mod shared;
pub mod status;
pub mod streams;
#[cfg(test)]
mod tests;

/// The methods, as the paths of HTTP requests: `/package.Service/Method`.
pub mod method {
    /// Reads a stream or the whole log, and subscribes to either.
    pub const READ: &str = "/event_store.client.streams.Streams/Read";
    /// Appends to one stream.
    pub const APPEND: &str = "/event_store.client.streams.Streams/Append";
    /// Appends many times to one stream each, over one call.
    pub const BATCH_APPEND: &str = "/event_store.client.streams.Streams/BatchAppend";
    /// Deletes a stream; it can be written again.
    pub const DELETE: &str = "/event_store.client.streams.Streams/Delete";
    /// Deletes a stream for good.
    pub const TOMBSTONE: &str = "/event_store.client.streams.Streams/Tombstone";
    /// Tells which methods there are.
    pub const SUPPORTED_METHODS: &str =
        "/event_store.client.server_features.ServerFeatures/GetSupportedMethods";
    /// Tells the members of the cluster.
    pub const GOSSIP: &str = "/event_store.client.gossip.Gossip/Read";
    /// Appends to several streams, with checks on these and others.
    pub const APPEND_RECORDS: &str = "/kurrentdb.protocol.v2.streams.StreamsService/AppendRecords";
    /// Appends to several streams, each with its own check.
    pub const APPEND_SESSION: &str = "/kurrentdb.protocol.v2.streams.StreamsService/AppendSession";
}

/// Keys of the metadata of calls and of their trailers.
pub mod header {
    /// In a request: only the leader may answer. `true` or `false`.
    pub const REQUIRES_LEADER: &str = "requires-leader";
    /// In a trailer: which error it is, one of [`exception`](super::exception).
    pub const EXCEPTION: &str = "exception";
    /// In a trailer, with `not-leader`: where the leader is.
    pub const LEADER_HOST: &str = "leader-endpoint-host";
    /// In a trailer, with `not-leader`: where the leader is.
    pub const LEADER_PORT: &str = "leader-endpoint-port";
}

/// Values of [`header::EXCEPTION`].
pub mod exception {
    /// Another node is the leader.
    pub const NOT_LEADER: &str = "not-leader";
    /// The stream was deleted.
    pub const STREAM_DELETED: &str = "stream-deleted";
}

/// Keys of the metadata map of an event, proposed or recorded.
pub mod metadata {
    /// The event's type.
    pub const TYPE: &str = "type";
    /// When it was recorded: [ticks](super::shared::ticks) as text. Recorded events only.
    pub const CREATED: &str = "created";
    /// [`JSON`] or [`BYTES`].
    pub const CONTENT_TYPE: &str = "content-type";
    /// Data is JSON.
    pub const JSON: &str = "application/json";
    /// Data is anything.
    pub const BYTES: &str = "application/octet-stream";
}

/// The largest reply that official clients accept, in bytes.
pub const REPLY_BYTES_MAX: usize = 17 << 20;
