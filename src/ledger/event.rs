//! What an event is: where it stands, and the bytes it carries.

use std::borrow::Cow;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::codec::{self, CodecError};
use crate::domain::Event;

/// The name of a stream, for example `device-ab12…`. Cheap to clone.
///
/// 1 to [`StreamName::BYTES_MAX`] bytes of UTF-8 without control characters. A leading `$` is
/// refused, because KurrentDB keeps such names for itself and the same names must work on every
/// engine.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// The length of the longest name, in bytes.
    pub const BYTES_MAX: usize = 200;

    /// Checks `name` and takes it.
    pub fn new(name: &str) -> Result<Self, InvalidStreamName> {
        match name {
            "" => Err(InvalidStreamName::Empty),
            _ if name.len() > Self::BYTES_MAX => Err(InvalidStreamName::TooLong),
            _ if name.starts_with('$') => Err(InvalidStreamName::Reserved),
            _ if name.chars().any(char::is_control) => Err(InvalidStreamName::ControlCharacter),
            _ => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for StreamName {
    type Err = InvalidStreamName;

    fn from_str(name: &str) -> Result<Self, InvalidStreamName> {
        Self::new(name)
    }
}

/// Why a text is not a stream name. The caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStreamName {
    /// The name has no bytes.
    #[error("a stream name must not be empty")]
    Empty,
    /// The name is longer than [`StreamName::BYTES_MAX`].
    #[error("a stream name must not be longer than {} bytes", StreamName::BYTES_MAX)]
    TooLong,
    /// The name begins with `$`.
    #[error("a stream name must not begin with \"$\"")]
    Reserved,
    /// The name holds a control character.
    #[error("a stream name must not hold control characters")]
    ControlCharacter,
}

/// What the head of a stream must be for an append to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// The stream has no event.
    NoStream,
    /// The stream's last event has this revision.
    At(u64),
}

impl Expected {
    /// What a stream whose head is `head` must be expected at.
    pub fn at_head(head: Option<u64>) -> Self {
        head.map_or(Self::NoStream, Self::At)
    }

    /// Returns whether a stream whose head is `head` is as expected.
    pub fn holds(self, head: Option<u64>) -> bool {
        self == Self::at_head(head)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStream => f.write_str("no stream"),
            Self::At(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// An event that is to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The event's identity: the same id means the same fact, however often it is sent.
    pub id: Uuid,
    /// The stored tag, for example `license-acquired.v1`. 1 to [`NewEvent::KIND_BYTES_MAX`] bytes.
    pub kind: Cow<'static, str>,
    /// The fact, JSON, stored verbatim.
    pub data: Vec<u8>,
    /// What surrounds the fact, JSON, stored verbatim. With events of ours a correlation and a schema;
    /// no causation, since an event is caused by the command that its correlation names and never by
    /// another event.
    pub metadata: Vec<u8>,
}

impl NewEvent {
    /// The length of the longest kind, in bytes.
    pub const KIND_BYTES_MAX: usize = 100;
    /// The most that data and metadata of one event hold together, in bytes. A quarter of what a
    /// KurrentDB record may hold, so that every engine takes what one of them took.
    pub const BYTES_MAX: usize = 4 << 20;

    /// A domain event as it goes into `stream`. `correlation` names what caused it, for the log
    /// reader's convenience; nothing is proven by it.
    pub fn of(stream: &StreamName, event: &Event, correlation: &str) -> Result<Self, CodecError> {
        let metadata = Metadata { correlation, schema: 1 };
        Ok(Self {
            id: event.id(stream.as_str()),
            kind: Cow::Borrowed(event.kind()),
            data: codec::encode(event)?,
            metadata: serde_json::to_vec(&metadata).map_err(CodecError::Encode)?,
        })
    }

    /// The bytes that the event brings along: kind, data and metadata.
    pub fn size_bytes(&self) -> usize {
        self.kind.len() + self.data.len() + self.metadata.len()
    }
}

/// What the log's readers may want to know beside the fact itself.
#[derive(Serialize)]
struct Metadata<'a> {
    correlation: &'a str,
    schema: u8,
}

/// An event as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The place in the whole log: gapless, from 0.
    pub sequence: u64,
    /// The place in the whole log, as it is shown to the outside.
    pub cursor: Cursor,
    /// The stream that the event belongs to.
    pub stream: StreamName,
    /// The place in the stream: gapless, from 0.
    pub revision: u64,
    /// The id that the event was appended with.
    pub id: Uuid,
    /// The kind that the event was appended with.
    pub kind: Cow<'static, str>,
    /// The data, byte for byte as appended.
    pub data: Vec<u8>,
    /// The metadata, byte for byte as appended.
    pub metadata: Vec<u8>,
}

/// A place in the log as the outside sees it: opaque text, ordered only within one ledger.
///
/// The embedded engine's cursor is the sequence in decimal, that of a cluster its log position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor(u64);

impl Cursor {
    pub(super) fn new(position: u64) -> Self {
        Self(position)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        // One text for one place: what `parse` would also take ("+7", "007") is refused.
        let cursor = Self(text.parse().map_err(InvalidCursor::from)?);
        if cursor.to_string() == text { Ok(cursor) } else { Err(InvalidCursor) }
    }
}

/// The text is not a cursor that this ledger gave out. The caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor of this ledger: use one from an earlier answer, unchanged")]
pub struct InvalidCursor;

impl From<ParseIntError> for InvalidCursor {
    fn from(_: ParseIntError) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_up_to_the_limit_and_refuses_the_rest() {
        let longest = "x".repeat(StreamName::BYTES_MAX);
        assert_eq!(StreamName::new(&longest).unwrap().as_str(), longest);
        assert_eq!(StreamName::new(&(longest + "x")), Err(InvalidStreamName::TooLong));
        assert_eq!(StreamName::new(""), Err(InvalidStreamName::Empty));
        assert_eq!(StreamName::new("$all"), Err(InvalidStreamName::Reserved));
        assert_eq!(StreamName::new("a\nb"), Err(InvalidStreamName::ControlCharacter));
    }

    #[test]
    fn a_cursor_has_exactly_one_text() {
        assert_eq!("7".parse(), Ok(Cursor::new(7)));
        for other in ["+7", "007", "", "-1", "7 ", "18446744073709551616"] {
            assert_eq!(other.parse::<Cursor>(), Err(InvalidCursor), "{other:?}");
        }
    }
}
