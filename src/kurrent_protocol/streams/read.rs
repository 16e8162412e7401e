//! `Read`: a stream or the whole log, once or as a subscription.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};
use prost_types::Timestamp;

use crate::kurrent_protocol::shared::{Position, StreamIdentifier, UuidMessage};

/// What is to be read.
#[derive(Clone, PartialEq, Message)]
pub struct ReadReq {
    /// All of it.
    #[prost(message, optional, tag = "1")]
    pub options: Option<ReadOptions>,
}

/// What is to be read, and how.
#[derive(Clone, PartialEq, Message)]
pub struct ReadOptions {
    /// Where from.
    #[prost(oneof = "Source", tags = "1, 2")]
    pub source: Option<Source>,
    /// Which way.
    #[prost(enumeration = "Direction", tag = "3")]
    pub read_direction: i32,
    /// Whether the event comes along that a link points to.
    #[prost(bool, tag = "4")]
    pub resolve_links: bool,
    /// How many.
    #[prost(oneof = "Count", tags = "5, 6")]
    pub count: Option<Count>,
    /// Which events, from the whole log only.
    #[prost(oneof = "Filter", tags = "7, 8")]
    pub filter: Option<Filter>,
    /// In which form ids are answered.
    #[prost(message, optional, tag = "9")]
    pub uuid_option: Option<UuidOption>,
    /// What the client understands.
    #[prost(message, optional, tag = "10")]
    pub control_option: Option<ControlOption>,
}

/// Where is read from.
#[derive(Clone, PartialEq, Oneof)]
pub enum Source {
    /// A stream.
    #[prost(message, tag = "1")]
    Stream(StreamOptions),
    /// The whole log, `$all`.
    #[prost(message, tag = "2")]
    All(AllOptions),
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
pub enum Direction {
    /// Oldest first.
    Forwards = 0,
    /// Newest first.
    Backwards = 1,
}

/// A stream, and a place in it.
#[derive(Clone, PartialEq, Message)]
pub struct StreamOptions {
    /// The stream.
    #[prost(message, optional, tag = "1")]
    pub stream_identifier: Option<StreamIdentifier>,
    /// The place.
    #[prost(oneof = "StreamStart", tags = "2, 3, 4")]
    pub start: Option<StreamStart>,
}

/// A place in a stream.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum StreamStart {
    /// The event of this revision; a subscription begins after it.
    #[prost(uint64, tag = "2")]
    Revision(u64),
    /// Before the first event.
    #[prost(message, tag = "3")]
    Start(()),
    /// After the last event.
    #[prost(message, tag = "4")]
    End(()),
}

/// A place in the whole log.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct AllOptions {
    /// The place.
    #[prost(oneof = "AllStart", tags = "1, 2, 3")]
    pub start: Option<AllStart>,
}

/// A place in the whole log.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum AllStart {
    /// The event there: reading forwards begins with it, subscriptions after it.
    #[prost(message, tag = "1")]
    Position(Position),
    /// Before the first event.
    #[prost(message, tag = "2")]
    Start(()),
    /// After the last event.
    #[prost(message, tag = "3")]
    End(()),
}

/// How many events.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum Count {
    /// At most so many.
    #[prost(uint64, tag = "5")]
    Count(u64),
    /// All, and those to come.
    #[prost(message, tag = "6")]
    Subscription(Subscription),
}

/// Stands for a subscription; it has no options.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Subscription {}

/// Which events.
#[derive(Clone, PartialEq, Oneof)]
pub enum Filter {
    /// Some.
    #[prost(message, tag = "7")]
    Some(FilterOptions),
    /// All.
    #[prost(message, tag = "8")]
    None(()),
}

/// Which events, and how often a subscription is told how far it has come without any.
#[derive(Clone, PartialEq, Message)]
pub struct FilterOptions {
    /// Which.
    #[prost(oneof = "FilterBy", tags = "1, 2")]
    pub by: Option<FilterBy>,
    /// How many events are looked at before the next checkpoint may come.
    #[prost(oneof = "Window", tags = "3, 4")]
    pub window: Option<Window>,
    /// How many windows go into one checkpoint.
    #[prost(uint32, tag = "5")]
    pub checkpoint_interval_multiplier: u32,
}

/// What of an event is matched.
#[derive(Clone, PartialEq, Oneof)]
pub enum FilterBy {
    /// Its stream's name.
    #[prost(message, tag = "1")]
    Stream(Expression),
    /// Its type.
    #[prost(message, tag = "2")]
    EventType(Expression),
}

/// What it has to match.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Expression {
    /// A regular expression of .NET; empty if there are prefixes.
    #[prost(string, tag = "1")]
    pub regex: String,
    /// It has to begin with one of these.
    #[prost(string, repeated, tag = "2")]
    pub prefix: Vec<String>,
}

/// How many events are looked at before the next checkpoint may come.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum Window {
    /// So many.
    #[prost(uint32, tag = "3")]
    Max(u32),
    /// As the server likes.
    #[prost(message, tag = "4")]
    Count(()),
}

/// In which form ids are answered.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UuidOption {
    /// One of two forms.
    #[prost(oneof = "UuidChoice", tags = "1, 2")]
    pub choice: Option<UuidChoice>,
}

/// The forms of an id.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum UuidChoice {
    /// Two halves.
    #[prost(message, tag = "1")]
    Structured(()),
    /// Text.
    #[prost(message, tag = "2")]
    Text(()),
}

/// What the client understands.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ControlOption {
    /// From 1 on: the positions at the ends of a stream, as messages of their own.
    #[prost(uint32, tag = "1")]
    pub compatibility: u32,
}

/// One message of the answer.
#[derive(Clone, PartialEq, Message)]
pub struct ReadResp {
    /// What it says.
    #[prost(oneof = "ReadRespContent", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub content: Option<ReadRespContent>,
}

/// What a message of the answer says.
#[derive(Clone, PartialEq, Oneof)]
pub enum ReadRespContent {
    /// An event.
    #[prost(message, tag = "1")]
    Event(Box<ReadEvent>),
    /// The subscription has begun.
    #[prost(message, tag = "2")]
    Confirmation(Confirmation),
    /// All events up to here were looked at.
    #[prost(message, tag = "3")]
    Checkpoint(Checkpoint),
    /// There is no such stream.
    #[prost(message, tag = "4")]
    StreamNotFound(StreamNotFound),
    /// The revision of the stream's first event.
    #[prost(uint64, tag = "5")]
    FirstStreamPosition(u64),
    /// The revision of the stream's last event.
    #[prost(uint64, tag = "6")]
    LastStreamPosition(u64),
    /// The place of the last event.
    #[prost(message, tag = "7")]
    LastAllStreamPosition(Position),
    /// All events that there were have been sent.
    #[prost(message, tag = "8")]
    CaughtUp(CaughtUp),
    /// There are more events than the client takes.
    #[prost(message, tag = "9")]
    FellBehind(CaughtUp),
}

/// An event of the answer.
#[derive(Clone, PartialEq, Message)]
pub struct ReadEvent {
    /// The event; where a link was resolved, the one it points to.
    #[prost(message, optional, tag = "1")]
    pub event: Option<RecordedEvent>,
    /// The link.
    #[prost(message, optional, tag = "2")]
    pub link: Option<RecordedEvent>,
    /// Its place in the log.
    #[prost(oneof = "EventPosition", tags = "3, 4")]
    pub position: Option<EventPosition>,
}

/// The place of an event in the log.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum EventPosition {
    /// The place.
    #[prost(uint64, tag = "3")]
    Commit(u64),
    /// It is not known.
    #[prost(message, tag = "4")]
    None(()),
}

/// An event as the log holds it.
#[derive(Clone, PartialEq, Message)]
pub struct RecordedEvent {
    /// Its id.
    #[prost(message, optional, tag = "1")]
    pub id: Option<UuidMessage>,
    /// Its stream.
    #[prost(message, optional, tag = "2")]
    pub stream_identifier: Option<StreamIdentifier>,
    /// Its place in the stream.
    #[prost(uint64, tag = "3")]
    pub stream_revision: u64,
    /// Its place in the log.
    #[prost(uint64, tag = "4")]
    pub prepare_position: u64,
    /// Its place in the log.
    #[prost(uint64, tag = "5")]
    pub commit_position: u64,
    /// What the server says of it; see [`metadata`](crate::kurrent_protocol::metadata).
    #[prost(btree_map = "string, string", tag = "6")]
    pub metadata: BTreeMap<String, String>,
    /// What its writer said of it.
    #[prost(bytes = "vec", tag = "7")]
    pub custom_metadata: Vec<u8>,
    /// Its data.
    #[prost(bytes = "vec", tag = "8")]
    pub data: Vec<u8>,
}

/// A subscription has begun.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Confirmation {
    /// Names it.
    #[prost(string, tag = "1")]
    pub subscription_id: String,
}

/// All events up to here were looked at.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Checkpoint {
    /// The place.
    #[prost(uint64, tag = "1")]
    pub commit_position: u64,
    /// The place.
    #[prost(uint64, tag = "2")]
    pub prepare_position: u64,
    /// The server's time.
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
}

/// There is no such stream.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamNotFound {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub stream_identifier: Option<StreamIdentifier>,
}

/// A subscription has caught up, or fell behind.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct CaughtUp {
    /// The server's time.
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Timestamp>,
    /// Where it is: of a stream that has events.
    #[prost(int64, optional, tag = "2")]
    pub stream_revision: Option<i64>,
    /// Where it is: of the whole log, if that has events.
    #[prost(message, optional, tag = "3")]
    pub position: Option<Position>,
}
