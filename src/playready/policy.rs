//! What a license allows, and the rules by which its conditions combine (sections 5.3 and 11).

pub mod cfg;
pub mod published;
mod ranges;
mod rules;

pub use ranges::OutOfRange;
pub use rules::{Client, Conflict, Refusal};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The conditions of one license. Its right is always to play.
///
/// The JSON form is stored in events for ever: a member is never renamed, and one with its
/// default value is left out. Times are Unix seconds, durations seconds, GUIDs text, other binary
/// data standard base64. Names are those of sections 10 and 5.3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LicensePolicy {
    /// Minimum security level of the device. Has no default, so that nobody gets 150 by
    /// forgetting it.
    pub sl: SecurityLevel,
    /// Whether the device may store the license.
    #[serde(default, skip_serializing_if = "is_default")]
    pub persist: bool,
    /// Not valid before this time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub begin: Option<u32>,
    /// Not valid from this time on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub end: Option<u32>,
    /// Valid for so long after the first play.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first_play_seconds: Option<u32>,
    /// Playback stops when the license expires, not only at the next start.
    #[serde(default, skip_serializing_if = "is_default")]
    pub real_time: bool,
    /// The device removes the license at this time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub removal: Option<u32>,
    /// Usable for so long after `end`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grace_seconds: Option<u32>,
    /// Source id (object 0022).
    #[serde(default, skip_serializing_if = "is_default")]
    pub source_id: Option<u32>,
    /// Metering id (object 0016).
    #[serde(default, skip_serializing_if = "is_default")]
    pub metering_id: Option<BinaryId>,
    /// Metering id of the secure stop service (object 005A).
    #[serde(default, skip_serializing_if = "is_default")]
    pub secure_stop_id: Option<BinaryId>,
    /// The domain that the license is bound to (object 0029).
    #[serde(default, skip_serializing_if = "is_default")]
    pub domain: Option<DomainBinding>,
    /// Output protection level of compressed audio.
    #[serde(default, skip_serializing_if = "is_default")]
    pub caopl: u16,
    /// Output protection level of uncompressed audio.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ucaopl: u16,
    /// Output protection level of compressed video.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cvopl: u16,
    /// Output protection level of uncompressed video.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ucvopl: u16,
    /// Output protection level of analog video.
    #[serde(default, skip_serializing_if = "is_default")]
    pub avopl: u16,
    /// Explicit digital video protections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dvop: Vec<OutputProtection>,
    /// Explicit digital audio protections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub daop: Vec<OutputProtection>,
    /// Explicit analog video protections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub avop: Vec<OutputProtection>,
    /// Restrictions of the play right outside the published ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extended_restrictions: Vec<ExtendedRestriction>,
    /// Outputs that the play right is extended to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub play_enablers: Vec<Uuid>,
}

/// Minimum security level; compared with "at least", never "equal" (section 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum SecurityLevel {
    /// 150: for tests.
    Test,
    /// 2000: software protection.
    Software,
    /// 3000: hardware protection.
    Hardware,
}

/// Binary data in a policy; base64 in text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Data(pub Vec<u8>);

/// A 16-byte id that is not a GUID on the wire; base64 in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BinaryId(pub [u8; 16]);

/// A domain and the revision of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainBinding {
    /// The account whose devices form the domain.
    pub account_id: BinaryId,
    /// Revision of the domain's key pair.
    pub revision: u32,
}

/// An explicit output protection: what it is and how it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputProtection {
    /// Which protection; the published ones are in section 5.3.
    pub id: Uuid,
    /// Its configuration; may be empty.
    #[serde(default)]
    pub data: Data,
}

/// An extended restriction (section 5.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendedRestriction {
    /// Its object type, 0x0100 to 0xFFFC.
    #[serde(rename = "type")]
    pub kind: u16,
    /// A device that does not know it refuses the license.
    pub must_understand: bool,
    /// Enforced as far as the device can.
    pub best_effort: bool,
    /// Its payload; may be empty.
    pub data: Data,
}

/// The numbers an extended restriction may have (section 10).
pub const EXTENDED_RESTRICTION_TYPES: std::ops::RangeInclusive<u16> = 0x0100..=0xFFFC;
/// Output protection levels are at most this (section 10).
pub const OUTPUT_LEVEL_MAX: u16 = 999;
/// Protections, restrictions and enablers of one policy, at most: a client reads a license of up to
/// 256 objects (section 5.4), and each of these is one.
pub const LISTED_MAX: usize = 224;
/// Bytes of data that those have together, at most: with all else that a license may have it then
/// still has no more than the 10,240 bytes that device certificates state (section 3).
pub const LISTED_DATA_BYTES_MAX: usize = 4096;

impl LicensePolicy {
    /// A non-persistent license without any condition but the minimum security level.
    pub fn new(sl: SecurityLevel) -> Self {
        Self {
            sl,
            persist: false,
            begin: None,
            end: None,
            first_play_seconds: None,
            real_time: false,
            removal: None,
            grace_seconds: None,
            source_id: None,
            metering_id: None,
            secure_stop_id: None,
            domain: None,
            caopl: 0,
            ucaopl: 0,
            cvopl: 0,
            ucvopl: 0,
            avopl: 0,
            dvop: Vec::new(),
            daop: Vec::new(),
            avop: Vec::new(),
            extended_restrictions: Vec::new(),
            play_enablers: Vec::new(),
        }
    }

    /// Unix seconds from which a persistent license no longer counts as held: its removal date,
    /// else its end plus grace. `None` if it counts until it is deleted: a limit that starts with
    /// the first play never ends the count, since the ledger does not see the first play.
    pub fn counted_until_s(&self) -> Option<u64> {
        let after_end = || {
            let grace = u64::from(self.grace_seconds.unwrap_or(0));
            self.end.map(|end| u64::from(end) + grace)
        };
        self.removal.map(u64::from).or_else(after_end)
    }
}

/// 150, 2000 and 3000 are the only levels.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a security level is 150, 2000 or 3000")]
pub struct InvalidSecurityLevel;

/// Binary data is standard base64 with padding; an id has 16 bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBinary {
    /// Not base64.
    #[error("binary data is standard base64 with padding")]
    Base64,
    /// Not 16 bytes.
    #[error("a binary id is the base64 of 16 bytes")]
    Length,
}

impl TryFrom<u16> for SecurityLevel {
    type Error = InvalidSecurityLevel;

    fn try_from(level: u16) -> Result<Self, Self::Error> {
        match level {
            150 => Ok(Self::Test),
            2000 => Ok(Self::Software),
            3000 => Ok(Self::Hardware),
            _ => Err(InvalidSecurityLevel),
        }
    }
}

impl From<SecurityLevel> for u16 {
    fn from(level: SecurityLevel) -> Self {
        match level {
            SecurityLevel::Test => 150,
            SecurityLevel::Software => 2000,
            SecurityLevel::Hardware => 3000,
        }
    }
}

impl TryFrom<String> for Data {
    type Error = InvalidBinary;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64.decode(text.as_bytes()).map(Self).map_err(|_| InvalidBinary::Base64)
    }
}

impl From<Data> for String {
    fn from(data: Data) -> Self {
        BASE64.encode(&data.0)
    }
}

impl TryFrom<String> for BinaryId {
    type Error = InvalidBinary;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let Data(bytes) = Data::try_from(text)?;
        bytes.try_into().map(Self).map_err(|_| InvalidBinary::Length)
    }
}

impl From<BinaryId> for String {
    fn from(id: BinaryId) -> Self {
        BASE64.encode(&id.0)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
pub(super) mod tests;
