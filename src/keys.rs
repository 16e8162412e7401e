//! Content keys and key seeds, sealed at rest.
//!
//! `keys.sealed` is text, one JSON object a line, only ever appended to:
//!
//! ```text
//! {"format":"license-ledger keys","version":1,"sealed":"…"}      first line; seals nothing
//! {"key_id":"<guid>","sealed":"<base64>"}                        a content key, 16 bytes
//! {"seed_id":"<text>","sealed":"<base64>"}                       a key seed, 30 bytes or more
//! ```
//!
//! `sealed` is nonce(12) ‖ AES-256-GCM ciphertext ‖ tag(16) under HMAC-SHA-256(master key,
//! `license-ledger keys v1`); the associated data is the line's kind and id, so that a sealed key
//! cannot be moved to another id. A record is durable when [`Keys::add`] returns. A last line
//! without its line feed was never acknowledged and is cut off at the next start.

mod import;
mod seal;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::domain::KeyId;
pub use import::{ImportError, parse_import, parse_seed};
use seal::Sealer;

/// A content key: 16 bytes, wiped when dropped.
pub type ContentKey = Zeroizing<[u8; 16]>;
/// A key seed: 30 bytes or more, of which the first 30 count; wiped when dropped.
pub type KeySeed = Zeroizing<Vec<u8>>;

/// Id of the seed that gives keys to KIDs without a content key of their own.
pub const DEFAULT_SEED: &str = "default";

/// The key file cannot be used, or a key is not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Reading or writing failed.
    #[error("cannot use the key file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not one of ours, or damaged.
    #[error("{path}, line {line}: not a sealed key; restore the file from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The file was sealed under another master key.
    #[error("{path} was sealed under another master key; put the right master.key in place")]
    WrongMasterKey {
        /// The file.
        path: PathBuf,
    },
    /// The KID has another key already. A KID's key never changes.
    #[error("key id {0} has another content key already, and a KID's key never changes")]
    KeyDiffers(KeyId),
    /// The seed id has another seed already.
    #[error("key seed `{0}` is another one already; choose another id")]
    SeedDiffers(String),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    Format { format: String, version: u32, sealed: String },
    Key { key_id: KeyId, sealed: String },
    Seed { seed_id: String, sealed: String },
}

const FORMAT: &str = "license-ledger keys";

/// All content keys and seeds. Shared between threads by reference.
pub struct Keys {
    path: PathBuf,
    sealer: Sealer,
    file: Mutex<File>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<KeyId, ContentKey>,
    seeds: HashMap<String, KeySeed>,
}

impl Keys {
    /// Opens or makes the key file at `path`. `master` is the content of the master key file.
    pub fn open(path: &Path, master: &[u8; 32]) -> Result<Self, KeysError> {
        let io = |source| KeysError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(path).map_err(io)?;
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(io)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(io)?;
            file.seek(SeekFrom::End(0)).map_err(io)?;
        }
        let sealer = Sealer::new(master);
        let mut known = Known::default();
        for (index, line) in text.get(..whole).unwrap_or_default().lines().enumerate() {
            known.read_line(line, index, &sealer, path)?;
        }
        let keys = Self {
            path: path.to_owned(),
            sealer,
            file: Mutex::new(file),
            known: RwLock::new(known),
        };
        if whole == 0 {
            let sealed = keys.sealer.seal(&aad("format", FORMAT), &[]);
            keys.write(&[Line::Format { format: FORMAT.to_owned(), version: 1, sealed }])?;
        }
        Ok(keys)
    }

    /// The content key registered for `key_id`.
    pub fn content_key(&self, key_id: KeyId) -> Option<ContentKey> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys.get(&key_id).cloned()
    }

    /// The seed with this id.
    pub fn seed(&self, seed_id: &str) -> Option<KeySeed> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).seeds.get(seed_id).cloned()
    }

    /// How many content keys are registered.
    pub fn count(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys.len()
    }

    /// Registers content keys, all or none, and returns the ids that were not known before.
    ///
    /// # Errors
    /// [`KeysError::KeyDiffers`] if one of them has another key already.
    pub fn add(&self, keys: &[(KeyId, ContentKey)]) -> Result<Vec<KeyId>, KeysError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = HashMap::<KeyId, &ContentKey>::new();
        for (key_id, key) in keys {
            match known.keys.get(key_id).or_else(|| fresh.get(key_id).copied()) {
                Some(have) if !bool::from(have.ct_eq(key.as_slice())) => {
                    return Err(KeysError::KeyDiffers(*key_id));
                }
                Some(_) => {}
                None => {
                    fresh.insert(*key_id, key);
                }
            }
        }
        let seal = |(key_id, key): (&KeyId, &&ContentKey)| Line::Key {
            key_id: *key_id,
            sealed: self.sealer.seal(&aad("key", &key_id.to_string()), key.as_slice()),
        };
        self.write(&fresh.iter().map(seal).collect::<Vec<_>>())?;
        let added = fresh.keys().copied().collect();
        let fresh = fresh.into_iter().map(|(key_id, key)| (key_id, key.clone()));
        known.keys.extend(fresh.collect::<Vec<_>>());
        Ok(added)
    }

    /// Registers a seed; tells whether it was not known before.
    ///
    /// # Errors
    /// [`KeysError::SeedDiffers`] if the id has another seed already.
    pub fn add_seed(&self, seed_id: &str, seed: &KeySeed) -> Result<bool, KeysError> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(have) = known.seeds.get(seed_id) {
            let same = bool::from(have.ct_eq(seed.as_slice()));
            return if same { Ok(false) } else { Err(KeysError::SeedDiffers(seed_id.to_owned())) };
        }
        let sealed = self.sealer.seal(&aad("seed", seed_id), seed);
        self.write(&[Line::Seed { seed_id: seed_id.to_owned(), sealed }])?;
        known.seeds.insert(seed_id.to_owned(), seed.clone());
        Ok(true)
    }

    /// Appends lines and waits until they are on disk.
    fn write(&self, lines: &[Line]) -> Result<(), KeysError> {
        let io = |source| KeysError::Io { path: self.path.clone(), source };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(|error| io(error.into()))?;
            text.push(b'\n');
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let length = file.metadata().map_err(io)?.len();
        let written = file.write_all(&text).and_then(|()| file.sync_data());
        written.map_err(|source| {
            // What was written in part must not be taken for a key at the next start.
            let _ = file.set_len(length);
            io(source)
        })
    }
}

impl Known {
    fn read_line(
        &mut self,
        line: &str,
        index: usize,
        sealer: &Sealer,
        path: &Path,
    ) -> Result<(), KeysError> {
        let damaged = || KeysError::Damaged { path: path.to_owned(), line: index + 1 };
        match (index, serde_json::from_str(line).map_err(|_| damaged())?) {
            (0, Line::Format { format, version: 1, sealed }) if format == FORMAT => {
                let wrong = || KeysError::WrongMasterKey { path: path.to_owned() };
                sealer.open(&aad("format", FORMAT), &sealed).ok_or_else(wrong).map(drop)
            }
            (1.., Line::Key { key_id, sealed }) => {
                let key = sealer.open(&aad("key", &key_id.to_string()), &sealed);
                let key = key.and_then(|key| <[u8; 16]>::try_from(key.as_slice()).ok());
                self.keys.insert(key_id, Zeroizing::new(key.ok_or_else(damaged)?));
                Ok(())
            }
            (1.., Line::Seed { seed_id, sealed }) => {
                let seed = sealer.open(&aad("seed", &seed_id), &sealed).ok_or_else(damaged)?;
                self.seeds.insert(seed_id, seed);
                Ok(())
            }
            _ => Err(damaged()),
        }
    }
}

fn aad(kind: &str, id: &str) -> Vec<u8> {
    [kind.as_bytes(), b"\0", id.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
