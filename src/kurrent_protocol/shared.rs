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

/// The ticks (100 ns since 1970) of a time in milliseconds since 1970.
pub const fn ticks(unix_ms: i64) -> i64 {
    unix_ms.saturating_mul(TICKS_PER_MS)
}

/// The time in milliseconds since 1970 that [`ticks`] tell, rounded down.
pub const fn unix_ms(ticks: i64) -> i64 {
    ticks.div_euclid(TICKS_PER_MS)
}

const TICKS_PER_MS: i64 = 10_000;
