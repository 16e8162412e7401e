//! Reading key files that people bring along.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{ContentKey, KeySeed};
use crate::domain::{KeyId, KeyType};

/// Shortest seed the key derivation takes (section 12 of the license protocol page).
const SEED_BYTES_MIN: usize = 30;

/// A content key that somebody brings along.
#[derive(Clone, Serialize, Deserialize)]
pub struct ImportedKey {
    /// The KID.
    pub key_id: KeyId,
    /// The key.
    pub key: ContentKey,
    /// How it encrypts, if that is known.
    pub key_type: Option<KeyType>,
}

impl From<(KeyId, ContentKey)> for ImportedKey {
    fn from((key_id, key): (KeyId, ContentKey)) -> Self {
        Self { key_id, key, key_type: None }
    }
}

/// The file does not hold keys. Names the entry, never its value.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Not a JSON object of keys.
    #[error(
        r#"the file is not a JSON object of the form {{"<kid guid>": "<32 hex digits>"}} or {{"<kid guid>": {{"key": "<32 hex digits>", "key_type": "aesctr"}}}}"#
    )]
    NotJson(#[source] serde_json::Error),
    /// A key id is not a GUID.
    #[error(
        "`{0}` is not a key id; write it as a GUID such as 01234567-89ab-cdef-0123-456789abcdef"
    )]
    KeyId(String),
    /// A key is not 32 hexadecimal digits.
    #[error("the key of {0} is not 32 hexadecimal digits (16 bytes)")]
    Key(KeyId),
    /// A key type that there is not.
    #[error("the key_type of {0} is neither aesctr (for cenc) nor aescbc (for cbcs)")]
    KeyType(KeyId),
    /// A key id comes twice.
    #[error("key id {0} comes twice; keep one")]
    Twice(KeyId),
    /// Not a seed.
    #[error("the key seed is not base64 of at least 30 bytes")]
    Seed,
}

/// Reads `{"<kid guid>": "<32 hex>"}`, where in place of a key there may be `{"key": "<32 hex>",
/// "key_type": "aesctr"}` or `"aescbc"`.
pub fn parse_import(json: &[u8]) -> Result<Vec<ImportedKey>, ImportError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let entries = deserializer.deserialize_map(Entries).map_err(ImportError::NotJson)?;
    deserializer.end().map_err(ImportError::NotJson)?;
    let mut keys = Vec::with_capacity(entries.len());
    let mut seen = std::collections::HashSet::new();
    for (key_id, Entry { key, key_type }) in entries {
        let key_id = Uuid::try_parse(&key_id).map(KeyId).map_err(|_| ImportError::KeyId(key_id))?;
        if !seen.insert(key_id) {
            return Err(ImportError::Twice(key_id));
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(key.as_bytes()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| ImportError::Key(key_id))?;
        let bytes = bytes.as_slice().try_into().map_err(|_| ImportError::Key(key_id))?;
        let key_type = match key_type.as_ref().map(|name| name.as_str()) {
            None => None,
            Some("aesctr") => Some(KeyType::AesCtr),
            Some("aescbc") => Some(KeyType::AesCbc),
            Some(_) => return Err(ImportError::KeyType(key_id)),
        };
        keys.push(ImportedKey { key_id, key: Zeroizing::new(bytes), key_type });
    }
    Ok(keys)
}

/// Reads a key seed: base64, white space around it ignored.
pub fn parse_seed(text: &str) -> Result<KeySeed, ImportError> {
    let seed = BASE64.decode(text.trim().as_bytes()).map(Zeroizing::new);
    let seed = seed.map_err(|_| ImportError::Seed)?;
    if seed.len() < SEED_BYTES_MIN { Err(ImportError::Seed) } else { Ok(seed) }
}

/// What stands beside a KID.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: Zeroizing<String>,
    /// As it was written: if somebody puts the key here, no error may show it.
    key_type: Option<Zeroizing<String>>,
}

/// An [`Entry`], or the text of its key alone.
struct EntryOrKey(Entry);

impl<'de> Deserialize<'de> for EntryOrKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneEntry).map(Self)
    }
}

struct OneEntry;

impl<'de> Visitor<'de> for OneEntry {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or an object with key and key_type")
    }

    fn visit_str<E>(self, key: &str) -> Result<Entry, E> {
        Ok(Entry { key: Zeroizing::new(key.to_owned()), key_type: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        Entry::deserialize(MapAccessDeserializer::new(map))
    }
}

/// All entries of a JSON object, repeated ones included.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, Entry)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key_id, EntryOrKey(entry))) = map.next_entry()? {
            entries.push((key_id, entry));
        }
        Ok(entries)
    }
}
