//! What a device keeps on its disk.
//!
//! ```text
//! <device>/licenses.json    persistent licenses, and deletions that were not answered yet
//! <device>/licenses.lock    held while a process uses the device
//! <device>/revinfo.xml      the newest revocation lists that a server sent
//! ```
//!
//! `licenses.json` is replaced as a whole: it is written beside, synced, and renamed. So a license
//! that is removed and the record that it was removed (section 9.2) change in one step, and a crash
//! leaves either the old state or the new one. Binary members are base64, KIDs are GUID text.
//! Nothing in it is secret: content keys stay wrapped to the device's key.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::SimulatorError;
use crate::playready::kid::Kid;
use crate::playready::policy::{BinaryId, Data};

const LICENSES: &str = "licenses.json";
const LOCK: &str = "licenses.lock";
const REV_INFO: &str = "revinfo.xml";

/// A persistent license as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredLicense {
    /// Names the license: its id in the ledger, in the order of text.
    pub rights_id: Uuid,
    /// Which key it holds.
    pub kid: Uuid,
    /// What its deletion will name: the session of the acquisition, else its nonce.
    pub session: BinaryId,
    /// The nonce of the request that it answered.
    pub nonce: BinaryId,
    /// What its acknowledgement names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<Uuid>,
    /// Whether the server has answered the acknowledgement.
    pub acknowledged: bool,
    /// When it was stored, in Unix seconds of the device's clock.
    pub stored_at: u64,
    /// When it was first used, in the same seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_played_at: Option<u64>,
    /// The license as it came.
    pub xmr: Data,
}

/// Licenses that were removed while the server has not answered their deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingDeletion {
    /// The session that they were acquired in.
    pub session: BinaryId,
    /// Their KIDs, each once.
    pub kids: Vec<Uuid>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    licenses: Vec<StoredLicense>,
    deletions: Vec<PendingDeletion>,
}

/// The store of one device, for one process at a time.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    contents: Contents,
    /// Unlocks when it is closed.
    _lock: File,
}

/// Which licenses to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of one session.
    Session([u8; 16]),
    /// All for one KID, whatever their sessions.
    Kid(Kid),
}

impl Store {
    /// Opens the store in the folder of a device; an empty one if there is none yet.
    ///
    /// # Errors
    ///
    /// Another process has it open, or its file cannot be read.
    pub fn open(dir: &Path) -> Result<Self, SimulatorError> {
        let lock = lock(dir)?;
        let path = dir.join(LICENSES);
        let contents = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| SimulatorError::Store { path, source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(source) => return Err(SimulatorError::File { action: "read", path, source }),
        };
        Ok(Self { dir: dir.to_owned(), contents, _lock: lock })
    }

    /// The persistent licenses, oldest first.
    pub fn licenses(&self) -> &[StoredLicense] {
        &self.contents.licenses
    }

    /// The deletions to be sent, oldest first.
    pub fn deletions(&self) -> &[PendingDeletion] {
        &self.contents.deletions
    }

    /// Keeps licenses. One that is held already is replaced, as when a request was repeated.
    pub fn keep(&mut self, licenses: Vec<StoredLicense>) -> Result<(), SimulatorError> {
        self.change(|contents| {
            for license in licenses {
                let known = |held: &&mut StoredLicense| held.rights_id == license.rights_id;
                match contents.licenses.iter_mut().find(known) {
                    Some(held) => {
                        let StoredLicense { acknowledged, first_played_at, .. } = *held;
                        *held = StoredLicense { acknowledged, first_played_at, ..license };
                    }
                    None => contents.licenses.push(license),
                }
            }
        })
    }

    /// Remembers that the server has answered the acknowledgement of a transaction.
    pub fn acknowledged(&mut self, transaction_id: Uuid) -> Result<(), SimulatorError> {
        self.change(|contents| {
            for license in &mut contents.licenses {
                license.acknowledged |= license.transaction_id == Some(transaction_id);
            }
        })
    }

    /// Remembers that a license was used, unless it was before.
    pub fn played(&mut self, rights_id: Uuid, at_s: u64) -> Result<(), SimulatorError> {
        self.change(|contents| {
            for license in &mut contents.licenses {
                if license.rights_id == rights_id {
                    license.first_played_at.get_or_insert(at_s);
                }
            }
        })
    }

    /// Forgets licenses that said themselves when to go. The server is not told: it knows.
    pub fn expire(&mut self, rights_ids: &[Uuid]) -> Result<(), SimulatorError> {
        self.change(|contents| {
            contents.licenses.retain(|license| !rights_ids.contains(&license.rights_id));
        })
    }

    /// Removes licenses and records, in the same step, what has to be told to the server. Returns
    /// how many were removed.
    pub fn remove(&mut self, which: Which) -> Result<usize, SimulatorError> {
        let is_meant = |license: &StoredLicense| match which {
            Which::Session(session) => license.session.0 == session,
            Which::Kid(kid) => license.kid == kid.guid(),
        };
        let before = self.contents.licenses.len();
        self.change(|contents| {
            let (removed, kept) =
                std::mem::take(&mut contents.licenses).into_iter().partition::<Vec<_>, _>(is_meant);
            contents.licenses = kept;
            for license in removed {
                record(&mut contents.deletions, license.session, license.kid);
            }
        })?;
        Ok(before - self.contents.licenses.len())
    }

    /// Drops the record of a deletion that the server has answered.
    pub fn deleted(&mut self, answered: &PendingDeletion) -> Result<(), SimulatorError> {
        self.change(|contents| contents.deletions.retain(|record| record != answered))
    }

    /// The revocation lists that were kept last, as text.
    pub fn rev_info(&self) -> Result<Option<Vec<u8>>, SimulatorError> {
        let path = self.dir.join(REV_INFO);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SimulatorError::File { action: "read", path, source }),
        }
    }

    /// Keeps revocation lists.
    pub fn keep_rev_info(&self, element: &str) -> Result<(), SimulatorError> {
        replace(&self.dir, REV_INFO, element.as_bytes())
    }

    /// The disk changes first, so that memory never shows what a crash would take back.
    fn change(&mut self, change: impl FnOnce(&mut Contents)) -> Result<(), SimulatorError> {
        let mut contents = self.contents.clone();
        change(&mut contents);
        if contents == self.contents {
            return Ok(());
        }
        let path = self.dir.join(LICENSES);
        let json = serde_json::to_vec_pretty(&contents)
            .map_err(|source| SimulatorError::Store { path, source })?;
        replace(&self.dir, LICENSES, &json)?;
        self.contents = contents;
        Ok(())
    }
}

fn record(deletions: &mut Vec<PendingDeletion>, session: BinaryId, kid: Uuid) {
    match deletions.iter_mut().find(|deletion| deletion.session == session) {
        Some(deletion) if deletion.kids.contains(&kid) => {}
        Some(deletion) => deletion.kids.push(kid),
        None => deletions.push(PendingDeletion { session, kids: vec![kid] }),
    }
}

fn lock(dir: &Path) -> Result<File, SimulatorError> {
    let path = dir.join(LOCK);
    let failed = |source| SimulatorError::File { action: "lock", path: path.clone(), source };
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SimulatorError::Busy { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Writes a file so that after a crash it is there whole, or the old one is.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), SimulatorError> {
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(dir.join(name)).map_err(|failed| failed.error)?;
        File::open(dir)?.sync_all()
    };
    let path = || dir.join(name);
    write().map_err(|source| SimulatorError::File { action: "write", path: path(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn license(number: u8, session: u8, kid: u8) -> StoredLicense {
        StoredLicense {
            rights_id: Uuid::from_bytes([number; 16]),
            kid: Uuid::from_bytes([kid; 16]),
            session: BinaryId([session; 16]),
            nonce: BinaryId([session; 16]),
            transaction_id: Some(Uuid::from_bytes([session; 16])),
            acknowledged: false,
            stored_at: 1_700_000_000,
            first_played_at: None,
            xmr: Data(vec![number]),
        }
    }

    fn deletion(session: u8, kids: &[u8]) -> PendingDeletion {
        let kids = kids.iter().map(|kid| Uuid::from_bytes([*kid; 16])).collect();
        PendingDeletion { session: BinaryId([session; 16]), kids }
    }

    fn numbers(store: &Store) -> Vec<u8> {
        store.licenses().iter().map(|license| license.xmr.0[0]).collect()
    }

    #[test]
    fn licenses_survive_closing_and_opening() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.keep(vec![license(1, 1, 1), license(2, 1, 2)]).unwrap();
        store.acknowledged(Uuid::from_bytes([1; 16])).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(numbers(&store), [1, 2]);
        assert!(store.licenses().iter().all(|license| license.acknowledged));
    }

    #[test]
    fn a_license_that_comes_again_is_held_once_and_stays_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.keep(vec![license(1, 1, 1)]).unwrap();
        store.acknowledged(Uuid::from_bytes([1; 16])).unwrap();
        let again = StoredLicense { xmr: Data(vec![9]), ..license(1, 1, 1) };
        store.keep(vec![again]).unwrap();
        assert_eq!(numbers(&store), [9]);
        assert!(store.licenses()[0].acknowledged);
    }

    #[test]
    fn removing_a_session_keeps_one_record_with_each_kid_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store
            .keep(vec![license(1, 1, 1), license(2, 2, 1), license(3, 1, 2), license(4, 1, 2)])
            .unwrap();
        assert_eq!(store.remove(Which::Session([1; 16])).unwrap(), 3);
        drop(store);
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(numbers(&store), [2]);
        assert_eq!(store.deletions(), [deletion(1, &[1, 2])]);
        store.deleted(&deletion(1, &[1, 2])).unwrap();
        assert_eq!(store.deletions(), []);
    }

    #[test]
    fn removing_a_kid_keeps_one_record_for_each_session() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.keep(vec![license(1, 1, 1), license(2, 2, 1), license(3, 1, 2)]).unwrap();
        let kid = Kid::from(Uuid::from_bytes([1; 16]));
        assert_eq!(store.remove(Which::Kid(kid)).unwrap(), 2);
        assert_eq!(numbers(&store), [3]);
        assert_eq!(store.deletions(), [deletion(1, &[1]), deletion(2, &[1])]);
        assert_eq!(store.remove(Which::Kid(kid)).unwrap(), 0);
    }

    #[test]
    fn a_record_that_grew_since_it_was_sent_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.keep(vec![license(1, 1, 1), license(2, 1, 2)]).unwrap();
        store.remove(Which::Kid(Kid::from(Uuid::from_bytes([1; 16])))).unwrap();
        store.remove(Which::Kid(Kid::from(Uuid::from_bytes([2; 16])))).unwrap();
        store.deleted(&deletion(1, &[1])).unwrap();
        assert_eq!(store.deletions(), [deletion(1, &[1, 2])]);
    }

    #[test]
    fn one_process_at_a_time_uses_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(SimulatorError::Busy { .. })));
        drop(store);
        assert!(Store::open(dir.path()).is_ok());
    }

    #[test]
    fn a_damaged_store_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LICENSES);
        for text in ["", "{", r#"{"licenses":[],"deletions":[],"more":1}"#] {
            fs::write(&path, text).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, SimulatorError::Store { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_written_is_not_shown_either() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(store.keep(vec![license(1, 1, 1)]).is_err());
        assert_eq!(store.licenses(), []);
    }
}
