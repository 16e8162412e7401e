//! What several services use: ids, stream names, positions, expectations.

use prost::{Message, Oneof};
use uuid::Uuid;

/// `event_store.client.UUID`. Clients send either form and choose in which they are answered.
#[derive(Clone, PartialEq, Message)]
pub struct UuidMessage {
    /// One of its two forms.
    #[prost(oneof = "UuidForm", tags = "1, 2")]
    pub form: Option<UuidForm>,
}

/// The forms of a UUID.
#[derive(Clone, PartialEq, Oneof)]
pub enum UuidForm {
    /// Two halves.
    #[prost(message, tag = "1")]
    Structured(StructuredUuid),
    /// Text with hyphens.
    #[prost(string, tag = "2")]
    Text(String),
}

/// The halves of a UUID, read big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct StructuredUuid {
    /// The first 8 bytes.
    #[prost(int64, tag = "1")]
    pub most_significant_bits: i64,
    /// The last 8 bytes.
    #[prost(int64, tag = "2")]
    pub least_significant_bits: i64,
}

impl UuidMessage {
    /// The id as two halves.
    pub fn structured(id: Uuid) -> Self {
        let (high, low) = id.as_u64_pair();
        let halves = StructuredUuid {
            most_significant_bits: high.cast_signed(),
            least_significant_bits: low.cast_signed(),
        };
        Self { form: Some(UuidForm::Structured(halves)) }
    }

    /// The id as text.
    pub fn text(id: Uuid) -> Self {
        Self { form: Some(UuidForm::Text(id.to_string())) }
    }

    /// The id, whichever form it has; `None` if there is none or its text is no UUID.
    pub fn id(&self) -> Option<Uuid> {
        match self.form.as_ref()? {
            UuidForm::Structured(halves) => Some(Uuid::from_u64_pair(
                halves.most_significant_bits.cast_unsigned(),
                halves.least_significant_bits.cast_unsigned(),
            )),
            UuidForm::Text(text) => Uuid::try_parse(text).ok(),
        }
    }
}

/// `event_store.client.StreamIdentifier`: a stream's name, in UTF-8.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StreamIdentifier {
    /// The name.
    #[prost(bytes = "vec", tag = "3")]
    pub stream_name: Vec<u8>,
}

impl From<&str> for StreamIdentifier {
    fn from(name: &str) -> Self {
        Self { stream_name: name.as_bytes().to_vec() }
    }
}

/// A place in the whole log: `AllStreamPosition` and each `Position`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Position {
    /// Where the commit stands.
    #[prost(uint64, tag = "1")]
    pub commit_position: u64,
    /// Where the record stands.
    #[prost(uint64, tag = "2")]
    pub prepare_position: u64,
}

impl Position {
    /// A place at which commit and record are one, as everywhere but in explicit transactions.
    pub const fn at(position: u64) -> Self {
        Self { commit_position: position, prepare_position: position }
    }
}

/// What an append, a delete or a tombstone expects of the stream: the oneof of `AppendReq.Options`,
/// `BatchAppendReq.Options`, `DeleteReq.Options` and `TombstoneReq.Options`.
#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub enum Expectation {
    /// The last event has this revision.
    #[prost(uint64, tag = "2")]
    Revision(u64),
    /// There is no event.
    #[prost(message, tag = "3")]
    NoStream(()),
    /// Nothing.
    #[prost(message, tag = "4")]
    Any(()),
    /// There is an event.
    #[prost(message, tag = "5")]
    StreamExists(()),
}

/// The .NET ticks (100 ns since the year 1) of a time in milliseconds since 1970; times before the
/// year 1 count as its beginning.
pub fn ticks(unix_ms: i64) -> u64 {
    let ticks = i128::from(unix_ms) * TICKS_PER_MS + TICKS_TO_1970;
    u64::try_from(ticks.max(0)).unwrap_or(u64::MAX)
}

const TICKS_PER_MS: i128 = 10_000;
/// From 0001-01-01 to 1970-01-01.
const TICKS_TO_1970: i128 = 621_355_968_000_000_000;
