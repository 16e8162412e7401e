//! Sealing the key file anew, under another master key.
//!
//! ```text
//! 1  keys.sealed.next is written under the new key and synced
//! 2  it is read back from disk and compared with what is in memory: the new key is proven
//! 3  it is renamed over keys.sealed, and the directory synced
//! ```
//!
//! Whatever step a crash comes after, `keys.sealed` is whole and opens with the old master key up
//! to step 2, with the new one from step 3 on. Nothing is added to the file meanwhile.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use subtle::ConstantTimeEq;

use super::{ContentKey, Keys, KeysError, Known, Store};
use crate::domain::KeyId;

/// A proven copy of the key file under another master key. Dropping it changes nothing.
pub struct Resealed<'a> {
    keys: &'a Keys,
    old: MutexGuard<'a, Store>,
    new: Store,
    path: PathBuf,
}

impl Keys {
    /// Writes and proves a copy of the key file under `master`.
    ///
    /// # Errors
    /// [`KeysError::Io`], [`KeysError::Unproven`]; the key file is as it was.
    pub fn reseal(&self, master: &[u8; 32]) -> Result<Resealed<'_>, KeysError> {
        let old = self.open_store();
        let path = next_of(&self.path);
        let io = |source| KeysError::Io { path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let fresh = Self::open(&path, master)?;
        let mut new = fresh.store.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A copy, so that keys can be looked up meanwhile.
        let known = self.known().clone();
        let keys = known.all_keys().map(|(key_id, key)| new.key_line(*key_id, key));
        let seeds = known.seeds.iter().map(|(seed_id, seed)| new.seed_line(seed_id, seed));
        let lines: Vec<_> = keys.chain(seeds).collect();
        new.write(&lines).map_err(io)?;
        let written = Self::open(&path, master)?;
        if !known.is_same(&written.known()) {
            return Err(KeysError::Unproven { path });
        }
        Ok(Resealed { keys: self, old, new, path })
    }
}

impl Resealed<'_> {
    /// Puts the copy in the place of the key file, which from here on opens with the new key only.
    ///
    /// # Errors
    /// [`KeysError::Io`]; the key file is the one or the other.
    pub fn replace(mut self) -> Result<(), KeysError> {
        let replaced = fs::rename(&self.path, &self.keys.path).and_then(|()| {
            *self.old = self.new;
            sync_directory_of(&self.keys.path)
        });
        replaced.map_err(|source| KeysError::Io { path: self.keys.path.clone(), source })
    }
}

impl Known {
    /// All keys on disk; those that are given out last, as the one that a file ends with is.
    fn all_keys(&self) -> impl Iterator<Item = (&KeyId, &ContentKey)> {
        let stored = self.stored.iter();
        let stored = stored.flat_map(|(key_id, keys)| keys.iter().map(move |key| (key_id, key)));
        stored.chain(&self.keys)
    }

    /// Whether `written`, as it was read from disk, holds what this holds.
    fn is_same(&self, written: &Self) -> bool {
        let keys = self.all_keys().all(|(key_id, key)| {
            let given = written.keys.get(key_id);
            given.is_some_and(|have| super::is_same(have, key)) || written.has_stored(*key_id, key)
        });
        let seeds = self.seeds.iter().all(|(seed_id, seed)| {
            written.seeds.get(seed_id).is_some_and(|have| bool::from(have.ct_eq(seed.as_slice())))
        });
        let counts = |known: &Self| (known.all_keys().count(), known.seeds.len());
        keys && seeds && counts(self) == counts(written)
    }
}

/// Where the copy of the key file at `path` is made.
fn next_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
