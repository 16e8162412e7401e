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
//! cannot be moved to another id. A record is durable when [`Keys::store`] returns. A last line
//! without its line feed was never acknowledged and is cut off at the next start. A key id may stand
//! there with several keys, of which the ledger came to know one or none: that one counts, wherever
//! it stands ([`Keys::agree`]).
//!
//! # Which key a KID has
//!
//! Its own, if one is registered; else the one that a seed derives: the seed that gave it a key
//! before, else the seed that the entitlement names, else the default seed ([`Keys::source`]). Of
//! these the ledger decides the first two, once and for all: see the `content-key-bound.v1` event.
//! How the key encrypts and what it is for is the ledger's to say as well: see `content-key-typed.v1`.

mod import;
mod reseal;
mod seal;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use lru::LruCache;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::domain::{KeyId, KeyType, KeyUse};
pub use import::{ImportError, ImportedKey, parse_import, parse_seed};
pub use reseal::Resealed;
use seal::Sealer;

/// A content key: 16 bytes, wiped when dropped.
pub type ContentKey = Zeroizing<[u8; 16]>;
/// A key seed: 30 bytes or more, of which the first 30 count; wiped when dropped.
pub type KeySeed = Zeroizing<Vec<u8>>;

/// Id of the default seed, unless the configuration names another.
pub const DEFAULT_SEED: &str = "default";

/// Seeds of KIDs kept in memory; the ledger knows those of all.
const BOUND_CACHED: NonZeroUsize = NonZeroUsize::new(64 * 1024).unwrap();
/// Uses of keys kept in memory; the ledger knows all.
const USES_CACHED: NonZeroUsize = NonZeroUsize::new(128 * 1024).unwrap();

/// The key file cannot be used, or a key is not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Reading or writing failed.
    #[error("cannot use the key file {path}; check its permissions and the disk")]
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
    /// The file that is to replace the key file does not hold what the key file holds.
    #[error("{path} does not hold what it was written to hold; the key file is as it was")]
    Unproven {
        /// The file.
        path: PathBuf,
    },
    /// The KID has another key already. A KID's key never changes.
    #[error(
        "key id {0} has another content key already, and a KID's key never changes; give this key \
         another key id"
    )]
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
    store: Mutex<Store>,
    known: RwLock<Known>,
    /// From which seed KIDs got their key, as far as it was looked up.
    bound: Mutex<LruCache<KeyId, String>>,
    /// How the keys of KIDs are used, as far as it was looked up.
    uses: Mutex<LruCache<KeyId, KeyUse>>,
    default_seed: String,
}

/// The key file as it is written to.
struct Store {
    file: File,
    sealer: Sealer,
}

#[derive(Clone, Default)]
struct Known {
    keys: HashMap<KeyId, ContentKey>,
    seeds: HashMap<String, KeySeed>,
    /// On disk, and not to be given out yet: the ledger is not known to have registered them.
    stored: HashMap<KeyId, Vec<ContentKey>>,
    /// KIDs that are registered in the ledger, with a key that is not here.
    missing: HashSet<KeyId>,
}

/// What gives a KID its key is not in the key store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A seed.
    #[error(
        "key seed `{0}` is not registered here; register it with `license-ledger keys seed --id {0}`"
    )]
    Seed(String),
    /// A key that the ledger says is registered.
    #[error("the key of {0} is missing here; restore keys.sealed, or import the key again")]
    Key(KeyId),
}

/// Where a KID's key comes from.
pub enum Source {
    /// A content key of its own.
    Registered(ContentKey),
    /// A seed, which gives the KID its key.
    Seed {
        /// The seed's id.
        seed_id: String,
        /// The seed.
        seed: KeySeed,
    },
}

impl Keys {
    /// Opens or makes the key file at `path`. `master` is the content of the master key file.
    pub fn open(path: &Path, master: &[u8; 32]) -> Result<Self, KeysError> {
        let io = |source| KeysError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.open(path).map_err(io)?;
        let mut bytes = Zeroizing::new(Vec::new());
        file.read_to_end(&mut bytes).map_err(io)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let whole_lines = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n');
            KeysError::Damaged { path: path.to_owned(), line: whole_lines.count() + 1 }
        })?;
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
        let mut store = Store { file, sealer };
        if whole == 0 {
            store.write(&[store.format_line()]).map_err(io)?;
        }
        Ok(Self {
            path: path.to_owned(),
            store: Mutex::new(store),
            known: RwLock::new(known),
            bound: Mutex::new(LruCache::new(BOUND_CACHED)),
            uses: Mutex::new(LruCache::new(USES_CACHED)),
            default_seed: DEFAULT_SEED.to_owned(),
        })
    }

    /// The same, with another default seed.
    #[must_use]
    pub fn with_default_seed(self, seed_id: &str) -> Self {
        Self { default_seed: seed_id.to_owned(), ..self }
    }

    /// Id of the default seed, which need not be registered.
    pub fn default_seed(&self) -> &str {
        &self.default_seed
    }

    /// Where the key of `key_id` comes from: a key of its own, else the seed that it is known to
    /// be bound to, else the seed that is `named`, else the default seed. `None` if there is none
    /// of these.
    ///
    /// # Errors
    /// Its registered key, the seed that it is bound to, or the one that is named is not here.
    pub fn source(&self, key_id: KeyId, named: Option<&str>) -> Result<Option<Source>, Missing> {
        let known = self.known();
        if let Some(key) = known.keys.get(&key_id) {
            return Ok(Some(Source::Registered(key.clone())));
        }
        if known.missing.contains(&key_id) {
            return Err(Missing::Key(key_id));
        }
        let bound = self.bound_seed(key_id);
        let chosen = bound.as_deref().or(named);
        let seed_id = chosen.unwrap_or(&self.default_seed);
        match known.seeds.get(seed_id) {
            Some(seed) => {
                Ok(Some(Source::Seed { seed_id: seed_id.to_owned(), seed: seed.clone() }))
            }
            None if chosen.is_some() => Err(Missing::Seed(seed_id.to_owned())),
            None => Ok(None),
        }
    }

    /// Whether there could be a key for the KID: one of its own, or that of some seed.
    pub fn may_have(&self, key_id: KeyId) -> bool {
        let known = self.known();
        !known.seeds.is_empty()
            || known.keys.contains_key(&key_id)
            || known.missing.contains(&key_id)
    }

    /// The content key registered for `key_id`.
    pub fn content_key(&self, key_id: KeyId) -> Option<ContentKey> {
        self.known().keys.get(&key_id).cloned()
    }

    /// A content key that is on disk for `key_id` and that the ledger is not known to have registered.
    pub fn stored_key(&self, key_id: KeyId) -> Option<ContentKey> {
        self.known().stored.get(&key_id)?.last().cloned()
    }

    /// The seed with this id.
    pub fn seed(&self, seed_id: &str) -> Option<KeySeed> {
        self.known().seeds.get(seed_id).cloned()
    }

    /// How many content keys are registered.
    pub fn count(&self) -> usize {
        self.known().keys.len()
    }

    /// The seed that a KID is known to be bound to. `None` says nothing: ask the ledger.
    pub fn bound_seed(&self, key_id: KeyId) -> Option<String> {
        self.bound().get(&key_id).cloned()
    }

    /// Remembers that the ledger has bound a KID to a seed.
    pub fn remember_bound(&self, key_id: KeyId, seed_id: &str) {
        self.bound().put(key_id, seed_id.to_owned());
    }

    /// What is known of how the KID's key is used. What it does not say, the ledger may.
    pub fn key_use(&self, key_id: KeyId) -> KeyUse {
        self.uses().get(&key_id).copied().unwrap_or_default()
    }

    /// How the KID's key is known to encrypt. `None` says nothing: ask the ledger.
    pub fn key_type(&self, key_id: KeyId) -> Option<KeyType> {
        self.key_use(key_id).key_type
    }

    /// Remembers what the ledger says of how the KID's key is used, whenever that was read.
    pub fn remember_use(&self, key_id: KeyId, read: KeyUse) {
        let mut uses = self.uses();
        let known = uses.get(&key_id).copied().unwrap_or_default();
        uses.put(key_id, known.and(read));
    }

    /// Puts content keys on disk, all or none. They are not given to anyone before
    /// [`serve`](Self::serve): the ledger has yet to say that they count.
    ///
    /// # Errors
    /// [`KeysError::KeyDiffers`] if one of them has another key already, or comes twice.
    pub fn store(&self, keys: &[(KeyId, ContentKey)]) -> Result<(), KeysError> {
        let mut store = self.open_store();
        let known = self.known();
        let mut fresh = HashMap::<KeyId, &ContentKey>::new();
        for (key_id, key) in keys {
            match known.keys.get(key_id).or_else(|| fresh.get(key_id).copied()) {
                Some(have) if !is_same(have, key) => {
                    return Err(KeysError::KeyDiffers(*key_id));
                }
                Some(_) => {}
                None => {
                    fresh.insert(*key_id, key);
                }
            }
        }
        fresh.retain(|key_id, key| !known.has_stored(*key_id, key));
        drop(known);
        let lines: Vec<_> =
            fresh.iter().map(|(key_id, key)| store.key_line(*key_id, key)).collect();
        store.write(&lines).map_err(|source| self.io(source))?;
        let mut known = self.known_mut();
        for (key_id, key) in fresh {
            known.stored.entry(key_id).or_default().push(key.clone());
        }
        Ok(())
    }

    /// Gives these content keys out from here on: they are stored and registered in the ledger.
    pub fn serve(&self, keys: &[(KeyId, ContentKey)]) {
        let mut known = self.known_mut();
        for (key_id, key) in keys {
            known.serve(*key_id, key);
        }
    }

    /// Agrees with the ledger on what is registered: content keys that `is_registered` does not
    /// accept were stored and never registered, and count for nothing; of `registered` those that
    /// are not here are missing. Returns how many those are.
    pub fn agree(
        &self,
        is_registered: impl Fn(KeyId, &ContentKey) -> bool,
        registered: impl Iterator<Item = KeyId>,
    ) -> usize {
        let mut known = self.known_mut();
        let keys = std::mem::take(&mut known.keys).into_iter();
        let (kept, others): (HashMap<_, _>, HashMap<_, _>) =
            keys.partition(|(key_id, key)| is_registered(*key_id, key));
        known.stored.retain(|key_id, _| !kept.contains_key(key_id));
        known.keys = kept;
        for (key_id, key) in others {
            known.stored.entry(key_id).or_default().push(key);
        }
        let missing = registered.filter(|key_id| !known.promote(*key_id, &is_registered));
        let missing = missing.collect();
        known.missing = missing;
        known.missing.len()
    }

    /// Gives out from here on what is stored for these KIDs and what `is_registered` accepts: the
    /// ledger took it without anybody being there to learn of it.
    pub fn promote(&self, key_ids: &[KeyId], is_registered: impl Fn(KeyId, &ContentKey) -> bool) {
        let mut known = self.known_mut();
        for key_id in key_ids {
            known.promote(*key_id, &is_registered);
        }
    }

    /// Registers a seed; tells whether it was not known before.
    ///
    /// # Errors
    /// [`KeysError::SeedDiffers`] if the id has another seed already.
    pub fn add_seed(&self, seed_id: &str, seed: &KeySeed) -> Result<bool, KeysError> {
        let mut store = self.open_store();
        if let Some(have) = self.seed(seed_id) {
            let same = bool::from(have.ct_eq(seed.as_slice()));
            return if same { Ok(false) } else { Err(KeysError::SeedDiffers(seed_id.to_owned())) };
        }
        let line = store.seed_line(seed_id, seed);
        store.write(&[line]).map_err(|source| self.io(source))?;
        self.known_mut().seeds.insert(seed_id.to_owned(), seed.clone());
        Ok(true)
    }

    fn io(&self, source: io::Error) -> KeysError {
        KeysError::Io { path: self.path.clone(), source }
    }

    fn open_store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn bound(&self) -> MutexGuard<'_, LruCache<KeyId, String>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uses(&self) -> MutexGuard<'_, LruCache<KeyId, KeyUse>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn format_line(&self) -> Line {
        let sealed = self.sealer.seal(&aad("format", FORMAT), &[]);
        Line::Format { format: FORMAT.to_owned(), version: 1, sealed }
    }

    fn key_line(&self, key_id: KeyId, key: &ContentKey) -> Line {
        let sealed = self.sealer.seal(&aad("key", &key_id.to_string()), key.as_slice());
        Line::Key { key_id, sealed }
    }

    fn seed_line(&self, seed_id: &str, seed: &KeySeed) -> Line {
        Line::Seed {
            seed_id: seed_id.to_owned(),
            sealed: self.sealer.seal(&aad("seed", seed_id), seed),
        }
    }

    /// Appends lines and waits until they are on disk.
    fn write(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        let length = self.file.metadata()?.len();
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // What was written in part must not be taken for a key at the next start.
            let _ = self.file.set_len(length);
        }
        written
    }
}

impl Known {
    fn has_stored(&self, key_id: KeyId, key: &ContentKey) -> bool {
        let stored = self.stored.get(&key_id);
        stored.is_some_and(|stored| stored.iter().any(|other| is_same(other, key)))
    }

    /// Moves the stored key that is registered, if it is here, to those that are given out; tells
    /// whether the KID has one there.
    fn promote(
        &mut self,
        key_id: KeyId,
        is_registered: &impl Fn(KeyId, &ContentKey) -> bool,
    ) -> bool {
        if self.keys.contains_key(&key_id) {
            return true;
        }
        let mut stored = self.stored.get(&key_id).into_iter().flatten();
        match stored.find(|key| is_registered(key_id, key)).cloned() {
            Some(key) => self.serve(key_id, &key),
            None => return false,
        }
        true
    }

    fn serve(&mut self, key_id: KeyId, key: &ContentKey) {
        self.missing.remove(&key_id);
        self.stored.remove(&key_id);
        self.keys.entry(key_id).or_insert_with(|| key.clone());
    }

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
                let key = Zeroizing::new(key.ok_or_else(damaged)?);
                if let Some(before) = self.keys.insert(key_id, key.clone())
                    && !is_same(&before, &key)
                {
                    self.stored.entry(key_id).or_default().push(before);
                }
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

fn is_same(one: &ContentKey, other: &ContentKey) -> bool {
    one.ct_eq(other.as_slice()).into()
}

fn aad(kind: &str, id: &str) -> Vec<u8> {
    [kind.as_bytes(), b"\0", id.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
