//! One API key: its text, its id, and the record that is kept of it.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use zeroize::Zeroizing;

use super::Scope;
use crate::clock::UnixMillis;

/// Random bytes that go into a key: 10 of its id and 32 of its secret.
pub const KEY_RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;

/// Names a key without opening anything: 16 characters of lower-case base32.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    pub(super) fn authenticator(&self, key: &hmac::Key) -> [u8; HMAC_BYTES] {
        let tag = hmac::sign(key, self.0.as_bytes());
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// Compares in constant time.
    pub(super) fn is_authentic(&self, key: &hmac::Key, expected: &[u8; HMAC_BYTES]) -> bool {
        hmac::verify(key, self.0.as_bytes(), expected).is_ok()
    }
}

/// What is kept of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Names the key.
    pub id: ApiKeyId,
    /// A label for people: 1 to 64 of `a-z 0-9 . _ -`.
    pub name: String,
    /// HMAC-SHA-256(`api.key`, key text).
    pub hmac: [u8; HMAC_BYTES],
    /// What the key may do.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it stopped working, if it did.
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

const PREFIX: &str = "llk_";
const ID_BYTES: usize = 10;
const SECRET_BYTES: usize = 32;
const HMAC_BYTES: usize = 32;
