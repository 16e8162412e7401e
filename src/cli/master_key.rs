//! The master key, and how another one takes its place.
//!
//! ```text
//! step  secrets directory                    data directory
//!  1    master.key.next is made              -
//!  2    -                                    keys.sealed.next is written under it and proven
//!  3    -                                    keys.sealed.next replaces keys.sealed
//!  4    master.key.next replaces master.key  -
//! ```
//!
//! `keys.sealed` opens with `master.key` up to step 2 and from step 4 on, with `master.key.next`
//! between. [`KeyFiles::open_keys`] tries the one and then the other, and finishes or undoes what a
//! crash left behind. Step 2 uses the new key as it was read back from disk, so the old one is there
//! until the new one has opened all that it has to open.

use std::path::{Path, PathBuf};

use crate::access::secrets::{self, Secret};
use crate::keys::{Keys, KeysError};

const MASTER: &str = "master.key";
const NEXT: &str = "master.key.next";

/// Where the master key and what it seals are.
pub(crate) struct KeyFiles {
    master: PathBuf,
    next: PathBuf,
    sealed: PathBuf,
}

impl KeyFiles {
    /// The key files of a ledger.
    pub(crate) fn new(secrets: &Path, data: &Path) -> Self {
        Self {
            master: secrets.join(MASTER),
            next: secrets.join(NEXT),
            sealed: data.join("keys.sealed"),
        }
    }

    /// Opens the key store with the master key, or the one that was about to replace it.
    pub(crate) fn open_keys(&self) -> anyhow::Result<Keys> {
        match self.open_with(&self.master) {
            Ok(keys) => {
                secrets::discard(&self.next)?;
                Ok(keys)
            }
            Err(error) if is_wrong_key(&error) && self.next.exists() => {
                let keys = self.open_with(&self.next)?;
                secrets::replace(&self.master, &self.next)?;
                tracing::info!("finished the rotation of the master key that was under way");
                Ok(keys)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes another master key and seals `keys` anew under it. The store may be in use meanwhile.
    pub(crate) fn rotate(&self, keys: &Keys) -> anyhow::Result<()> {
        secrets::discard(&self.next)?;
        secrets::create(&self.next, &Secret::new(secrets::os_random()?))?;
        let next = secrets::read(&self.next)?;
        keys.reseal(next.expose())?.replace()?;
        Ok(secrets::replace(&self.master, &self.next)?)
    }

    fn open_with(&self, master: &Path) -> anyhow::Result<Keys> {
        Ok(Keys::open(&self.sealed, secrets::read(master)?.expose())?)
    }
}

fn is_wrong_key(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(KeysError::WrongMasterKey { .. }))
}
