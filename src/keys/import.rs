//! Reading key files that people bring along.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde::de::{Deserializer, MapAccess, Visitor};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{ContentKey, KeySeed};
use crate::domain::KeyId;

/// Shortest seed the key derivation takes (section 12 of the license protocol page).
const SEED_BYTES_MIN: usize = 30;

/// The file does not hold keys. Names the entry, never its value.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Not a JSON object of texts.
    #[error(r#"the file is not a JSON object of the form {{"<kid guid>": "<32 hex digits>"}}"#)]
    NotJson(#[source] serde_json::Error),
    /// A key id is not a GUID.
    #[error(
        "`{0}` is not a key id; write it as a GUID such as 01234567-89ab-cdef-0123-456789abcdef"
    )]
    KeyId(String),
    /// A key is not 32 hexadecimal digits.
    #[error("the key of {0} is not 32 hexadecimal digits (16 bytes)")]
    Key(KeyId),
    /// A key id comes twice.
    #[error("key id {0} comes twice; keep one")]
    Twice(KeyId),
    /// Not a seed.
    #[error("the key seed is not base64 of at least 30 bytes")]
    Seed,
}

/// Reads `{"<kid guid>": "<32 hex>"}`.
pub fn parse_import(json: &[u8]) -> Result<Vec<(KeyId, ContentKey)>, ImportError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let entries = deserializer.deserialize_map(Entries).map_err(ImportError::NotJson)?;
    deserializer.end().map_err(ImportError::NotJson)?;
    let mut keys = Vec::<(KeyId, ContentKey)>::with_capacity(entries.len());
    let mut seen = std::collections::HashSet::new();
    for (key_id, key) in entries {
        let key_id = Uuid::try_parse(&key_id).map(KeyId).map_err(|_| ImportError::KeyId(key_id))?;
        if !seen.insert(key_id) {
            return Err(ImportError::Twice(key_id));
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(key.as_bytes()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| ImportError::Key(key_id))?;
        let bytes = bytes.as_slice().try_into().map_err(|_| ImportError::Key(key_id))?;
        keys.push((key_id, Zeroizing::new(bytes)));
    }
    Ok(keys)
}

/// Reads a key seed: base64, white space around it ignored.
pub fn parse_seed(text: &str) -> Result<KeySeed, ImportError> {
    let seed = BASE64.decode(text.trim().as_bytes()).map(Zeroizing::new);
    let seed = seed.map_err(|_| ImportError::Seed)?;
    if seed.len() < SEED_BYTES_MIN { Err(ImportError::Seed) } else { Ok(seed) }
}

/// All entries of a JSON object, repeated ones included.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, Zeroizing<String>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            entries.push((key, Zeroizing::new(value)));
        }
        Ok(entries)
    }
}
