//! One API key: its text, its id, and the record that is kept of it.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::Scope;
use super::secrets::Secret;
use crate::clock::UnixMillis;

/// Random bytes that go into a key: 10 of its id and 32 of its secret.
pub const KEY_RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;

/// Names a key without opening anything: 16 characters of lower-case base32.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApiKeyId(String);

impl ApiKeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ApiKeyId {
    /// Takes any text: one that names no key simply finds none.
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole key, as its holder sends it. It does not print and is zeroed when dropped.
pub struct ApiKeyText(Zeroizing<String>);

impl ApiKeyText {
    /// The text itself, to be shown once to whoever asked for the key.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(super) fn from_random(random: &[u8; KEY_RANDOM_BYTES]) -> (ApiKeyId, Self) {
        let (id, secret) = random.split_at(ID_BYTES);
        let id = ApiKeyId(base32(id));
        let secret = Zeroizing::new(base32(secret));
        let text = Zeroizing::new(format!("{PREFIX}{id}_{}", *secret));
        (id, Self(text))
    }

    /// Accepts the shape that [`Self::from_random`] writes. Letters of the other case pass here and
    /// fail authentication, which covers the text as it was sent.
    pub(super) fn parse(text: &str) -> Option<(ApiKeyId, Self)> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let secret_bytes = Zeroizing::new(BASE32_NOPAD_NOCASE.decode(secret.as_bytes()).ok()?);
        let id_bytes = BASE32_NOPAD_NOCASE.decode(id.as_bytes()).ok()?;
        if id_bytes.len() != ID_BYTES || secret_bytes.len() != SECRET_BYTES {
            return None;
        }
        Some((ApiKeyId(id.to_owned()), Self(Zeroizing::new(text.to_owned()))))
    }

    pub(super) fn authenticator(&self, secret: &Secret) -> [u8; HMAC_BYTES] {
        let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, secret.expose()), self.0.as_bytes());
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// Compares in constant time.
    pub(super) fn is_authentic(&self, secret: &Secret, expected: &[u8; HMAC_BYTES]) -> bool {
        let key = hmac::Key::new(HMAC_SHA256, secret.expose());
        hmac::verify(&key, self.0.as_bytes(), expected).is_ok()
    }
}

/// What is kept of a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyRecord {
    /// Names the key.
    pub id: ApiKeyId,
    /// A label for people: 1 to 64 of `a-z 0-9 . _ -`.
    pub name: String,
    /// HMAC-SHA-256(`api.key`, key text); hex in JSON.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub hmac: [u8; HMAC_BYTES],
    /// What the key may do.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    #[serde(rename = "created_at_ms")]
    pub created_at: UnixMillis,
    /// When it stopped working, if it did.
    #[serde(rename = "revoked_at_ms", default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<UnixMillis>,
}

impl fmt::Debug for ApiKeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyRecord")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// The label of a key is not one that records may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key name is 1 to 64 characters of a-z, 0-9, dot, hyphen and underscore; choose another")]
pub struct InvalidName;

/// Records are kept forever, so a name is a label and no free text about people.
pub(super) fn check_name(name: &str) -> Result<(), InvalidName> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    match name.len() {
        1..=64 if name.bytes().all(allowed) => Ok(()),
        _ => Err(InvalidName),
    }
}

fn base32(bytes: &[u8]) -> String {
    let mut text = BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

fn to_hex<S: Serializer>(bytes: &[u8; HMAC_BYTES], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&HEXLOWER.encode(bytes))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; HMAC_BYTES], D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = HEXLOWER.decode(text.as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| serde::de::Error::custom("hmac is not 64 lower-case hex digits"))
}

const PREFIX: &str = "llk_";
const ID_BYTES: usize = 10;
const SECRET_BYTES: usize = 32;
const HMAC_BYTES: usize = 32;
