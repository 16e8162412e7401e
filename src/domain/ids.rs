//! Ids: what they identify, how they are written, and how references are derived.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{BASE64, Encoding, HEXLOWER, HEXLOWER_PERMISSIVE, Specification};
use hmac::{Hmac, KeyInit, Mac};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

/// A text does not have the form of the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct MalformedId {
    expected: &'static str,
}

const HEX_8: MalformedId = MalformedId { expected: "16 lower-case hexadecimal digits, not all 0" };
const HEX_32: MalformedId = MalformedId { expected: "64 hexadecimal digits" };
const BASE64_16: MalformedId = MalformedId { expected: "base64 of 16 bytes" };
const REFERENCE: MalformedId = MalformedId { expected: "26 characters a-z, 2-7" };

/// 32 bytes written as lower-case hexadecimal in text formats: a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// 16 bytes written as base64 in text formats, the form they have on the license protocol's wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wire16(pub [u8; 16]);

/// What is kept of a name where only sameness matters: the first 8 bytes of its SHA-256. Names are
/// the service's own, so nobody gains from making two of them alike. As text 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(NonZeroU64);

impl Tag {
    /// The tag of `name`.
    pub fn of(name: &str) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = Digest::of(name.as_bytes()).0;
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }

    pub(super) fn to_le_bytes(self) -> [u8; 8] {
        self.0.get().to_le_bytes()
    }

    /// The tag with these bytes; of zeros, which no name has, `None`.
    pub(super) fn from_le_bytes(bytes: [u8; 8]) -> Option<Self> {
        NonZeroU64::new(u64::from_le_bytes(bytes)).map(Self)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Tag {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let number = u64::from_str_radix(text, 16).ok().and_then(NonZeroU64::new);
        // Only what `Display` writes, so that an event is written again as it was read.
        number.map(Self).filter(|tag| tag.to_string() == text).ok_or(HEX_8)
    }
}

/// As text in JSON, where other programs would round the number.
impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            text(deserializer)
        } else {
            NonZeroU64::deserialize(deserializer).map(Self)
        }
    }
}

/// Who signed: SHA-256 of the leaf certificate's SIGN key (X‖Y). Names a certificate, not a unit;
/// to which device it belongs is a fact of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub Digest);

/// The random value by which a client marks one acquisition challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub Wire16);

/// A secure-delete session: one acquisition batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Wire16);

/// A content key's id (KID), as GUID text; its bytes are in text order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub Uuid);

/// A license: for a persistent one its rights id, bytes in wire order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LicenseId(pub Uuid);

/// What a response names so that its licenses can be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransactionId(pub Uuid);

/// A device as events and stream names know it: 26 characters derived from its external id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceRef(Reference);

/// An account as events and stream names know it: 26 characters derived from its external id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountRef(Reference);

/// Text of 26 characters from `a` to `z` and `2` to `7`, in place: decisions copy many of them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Reference([u8; REFERENCE_CHARS]);

const REFERENCE_CHARS: usize = 26;

/// The key under which external ids become references. Losing it makes every account and device
/// look new; leaking it lets references be guessed back into ids.
#[derive(Clone)]
pub struct ReferenceKey(Zeroizing<[u8; 32]>);

impl ReferenceKey {
    /// Takes the 32 bytes of the key file.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The device that the service calls `external_id`.
    pub fn device(&self, external_id: &str) -> DeviceRef {
        DeviceRef(self.reference(external_id))
    }

    /// The device of an identity for which no service has named one: one device an identity.
    pub fn device_of_identity(&self, identity: Identity) -> DeviceRef {
        self.device(&identity.to_string())
    }

    /// The account that the service calls `external_id`.
    pub fn account(&self, external_id: &str) -> AccountRef {
        AccountRef(self.reference(external_id))
    }

    /// base32 (RFC 4648, lower case, no padding) of the first 16 bytes of HMAC-SHA-256.
    fn reference(&self, external_id: &str) -> Reference {
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.0.as_slice());
        let Ok(mut mac) = mac else { unreachable!("HMAC takes keys of any length") };
        mac.update(external_id.as_bytes());
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let (head, _) = full.split_at(16);
        let mut text = [0; REFERENCE_CHARS];
        REFERENCE_ENCODING.encode_mut(head, &mut text);
        Reference(text)
    }
}

static REFERENCE_ENCODING: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    match spec.encoding() {
        Ok(encoding) => encoding,
        Err(_) => unreachable!("32 distinct ASCII symbols make an encoding"),
    }
});

/// Namespace of every UUIDv5 this project derives.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c69_6365_6e73_652d_6c65_6467_6572_0001);

/// An id that follows from `parts`: UUIDv5 over the parts joined by NUL, so that the same command
/// always makes the same id and a resend can be told from a second command.
pub fn derived_id(parts: &[&[u8]]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, &parts.join(&0))
}

impl LicenseId {
    /// The id of a non-persistent license. Its rights id follows from a nonce that the client
    /// chose, so it cannot name the license in the ledger.
    pub fn non_persistent(identity: Identity, nonce: Nonce, ordinal: u32) -> Self {
        let ordinal = ordinal.to_string();
        Self(derived_id(&[
            b"license",
            identity.to_string().as_bytes(),
            nonce.to_string().as_bytes(),
            ordinal.as_bytes(),
        ]))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| HEX_32)?;
        bytes.try_into().map(Self).map_err(|_| HEX_32)
    }
}

impl fmt::Display for Wire16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        BASE64.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for Wire16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Wire16 {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| BASE64_16)?;
        bytes.try_into().map(Self).map_err(|_| BASE64_16)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            text(deserializer)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

impl Serialize for Wire16 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Wire16 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            text(deserializer)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Self)
        }
    }
}

/// Reads a value from its text form.
fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = MalformedId>,
{
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Identity {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LicenseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Display for AccountRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromStr for DeviceRef {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        text.parse().map(Self)
    }
}

impl FromStr for AccountRef {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        text.parse().map(Self)
    }
}

impl Reference {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Reference {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let bytes: [u8; REFERENCE_CHARS] = text.as_bytes().try_into().map_err(|_| REFERENCE)?;
        let fits = bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        fits.then_some(Self(bytes)).ok_or(REFERENCE)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HMAC-SHA-256 with key 00..1f over "device-1", computed with Python's hmac and base64.
    #[test]
    fn reference_agrees_with_an_independent_computation() {
        let key = ReferenceKey::new(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        assert_eq!(key.device("device-1").to_string(), "clxoin3sng2mp6etv3rgayrqnu");
    }

    #[test]
    fn ids_read_what_they_write() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let wire = Wire16([7; 16]);
        assert_eq!(serde_json::to_string(&wire).unwrap(), "\"BwcHBwcHBwcHBwcHBwcHBw==\"");
        assert_eq!(wire.to_string().parse(), Ok(wire));
    }

    #[test]
    fn refuses_references_of_another_form() {
        for text in ["", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxy1", "abc"] {
            assert!(text.parse::<DeviceRef>().is_err(), "{text}");
        }
    }

    #[test]
    fn derived_ids_keep_their_parts_apart() {
        assert_ne!(derived_id(&[b"ab", b"c"]), derived_id(&[b"a", b"bc"]));
    }
}
