//! `state.db`: the folded devices and the index rows, and the tail that keeps them.

use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::super::sqlite::{self, Checkpoint, Readers};
use super::super::tail::{Progress, Tail, error_text};
use super::super::{Ledger, ReadError};
use super::folder::Folder;
use crate::domain::ids::Wire16;
use crate::domain::lookup::{Key, Row};
use crate::domain::{
    Account, AccountRef, Device, DeviceRef, Digest, Identity, KeyId, Nonce, SessionId,
    TransactionId,
};

/// Raised whenever `Device::evolve`, the index rows or their encoding change: older files are
/// then folded again.
pub const FOLD_VERSION: i64 = 13;

const FILE: &str = "state.db";

/// How often new events are folded. Decisions do not wait for it, since recent events are folded
/// forward in memory.
const PAUSE: Duration = Duration::from_millis(500);

/// Prefix of the streams that hold one device each.
pub const DEVICE_STREAM: &str = "device-";
/// Prefix of the streams that hold one account each.
pub const ACCOUNT_STREAM: &str = "account-";

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// SQLite said no.
    #[error("the state database failed; `license-ledger rebuild` makes it anew")]
    Database(#[from] rusqlite::Error),
    /// A row cannot be decoded.
    #[error("a row of the state database is damaged; `license-ledger rebuild` makes it anew")]
    Row(#[from] postcard::Error),
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Ledger(#[from] ReadError),
    /// An event cannot be decoded.
    #[error("an event cannot be decoded")]
    Codec(#[from] super::super::codec::CodecError),
    /// The tail could not be started.
    #[error("the state's tail cannot be started")]
    Tail(#[from] std::io::Error),
    /// The tail stopped; the state is not kept any more.
    #[error("the state is not kept up to date: {0}")]
    Stopped(String),
}

/// Reads the folded state; a tail on its own thread keeps it.
pub struct StateStore {
    readers: Readers,
    tail: Tail,
}

impl StateStore {
    /// Opens or makes `state.db` in `dir` and starts to follow `ledger`.
    pub async fn open(dir: &Path, ledger: Arc<Ledger>) -> Result<Self, StateError> {
        let path = dir.join(FILE);
        let (file, checkpoint) = open_for(&path, &ledger).await?;
        let folder = Folder::new(file, checkpoint);
        let tail = Tail::spawn("state", ledger, checkpoint.next_sequence, PAUSE, folder).await?;
        Ok(Self { readers: Readers::new(path), tail })
    }

    /// How many events the state in `dir` was folded from; 0 if there is none.
    pub fn events_in(dir: &Path) -> u64 {
        sqlite::events_in(&dir.join(FILE))
    }

    /// Drops the state in `dir`; the next [`open`](Self::open) folds it anew.
    pub fn remove(dir: &Path) -> Result<(), StateError> {
        Ok(sqlite::remove(&dir.join(FILE))?)
    }

    /// How far the state is stored: no decision on events before has to look further.
    pub fn progress(&self) -> Progress {
        self.tail.progress()
    }

    /// Waits until the event with this sequence is folded.
    pub(super) async fn wait_for(&self, sequence: u64) -> Result<(), StateError> {
        if self.tail.wait_for(sequence).await {
            return Ok(());
        }
        Err(StateError::Stopped(self.progress().failed.unwrap_or_default()))
    }

    /// The folded state of a device and the revision of its stream it was folded to.
    pub fn device(&self, device: &DeviceRef) -> Result<Option<(u64, Device)>, StateError> {
        self.read(|db| read_state(db, SELECT_DEVICE, &device.to_string()))
    }

    /// The folded state of an account and the revision of its stream it was folded to.
    pub fn account(&self, account: &AccountRef) -> Result<Option<(u64, Account)>, StateError> {
        self.read(|db| read_state(db, SELECT_ACCOUNT, &account.to_string()))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let connection = self.readers.take()?;
        let state = read(&connection);
        self.readers.give_back(connection);
        state
    }

    /// Reads index rows as of one moment.
    pub fn moment(&self) -> Moment<'_> {
        Moment { store: self, connection: None }
    }
}

/// One read transaction, from the first row that is asked for until this is dropped: several rows
/// cost little more than one.
pub struct Moment<'a> {
    store: &'a StateStore,
    connection: Option<Connection>,
}

impl Moment<'_> {
    /// The index row under `key`.
    pub fn row(&mut self, key: &Key) -> Result<Option<Row>, StateError> {
        stored_row(self.connection()?, &StoredKey::of(key))
    }

    /// See [`keys_of`].
    pub(super) fn keys_of(
        &mut self,
        identity: Identity,
        revision: u64,
    ) -> Result<Option<Vec<u64>>, StateError> {
        keys_of(self.connection()?, identity, revision)
    }

    fn connection(&mut self) -> Result<&Connection, StateError> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => {
                let connection = self.store.readers.take()?;
                connection.prepare_cached("BEGIN")?.execute([])?;
                Ok(none.insert(connection))
            }
        }
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // A connection that cannot end its transaction is closed, which ends it.
        if connection.prepare_cached("COMMIT").and_then(|mut end| end.execute([])).is_ok() {
            self.store.readers.give_back(connection);
        }
    }
}

pub(super) const SELECT_DEVICE: &str = "SELECT revision, state FROM devices WHERE device = ?1";
pub(super) const SELECT_ACCOUNT: &str = "SELECT revision, state FROM accounts WHERE account = ?1";

pub(super) fn read_state<S: DeserializeOwned>(
    connection: &Connection,
    select: &str,
    name: &str,
) -> Result<Option<(u64, S)>, StateError> {
    let mut query = connection.prepare_cached(select)?;
    let mut rows = query.query([name])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let state = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
    Ok(Some((row.get(0)?, postcard::from_bytes(state)?)))
}

pub(super) fn stored_row(
    connection: &Connection,
    key: &StoredKey,
) -> Result<Option<Row>, StateError> {
    let mut query = connection.prepare_cached("SELECT value FROM lookups WHERE key = ?1")?;
    let value: Option<Vec<u8>> = query.query_row([key.bytes()], |row| row.get(0)).optional()?;
    Ok(value.map(|value| postcard::from_bytes(&value)).transpose()?)
}

/// The [marks](StoredKey::mark) of the keys that `identity` has rows under; `None` if they are too many
/// to read them all, or are likely to be after the history that its device has at `revision`: then
/// nothing is read. Most of what is asked for is not there, and need not be looked for where the keys
/// are known.
pub(super) fn keys_of(
    connection: &Connection,
    identity: Identity,
    revision: u64,
) -> Result<Option<Vec<u64>>, StateError> {
    if revision >= KEYS_READ as u64 {
        return Ok(None);
    }
    let first = identity_bytes(&identity);
    let last = [first, &[u8::MAX]].concat();
    let mut query = connection.prepare_cached(SELECT_KEYS)?;
    let keys = query.query_map(params![first, last, KEYS_READ + 1], |row| {
        Ok(mark(row.get_ref(0)?.as_blob()?))
    })?;
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    Ok((keys.len() <= KEYS_READ).then_some(keys))
}

/// Keys of one identity that are read at once: those of about 30 licenses. An identity with more, or of
/// a device with as many events, is asked for each row, so that no length of history makes a first
/// decision slow.
const KEYS_READ: usize = 128;

/// What an index row is stored under: the first half of its identity, so that the rows of one device
/// share pages, then the kind of the key and its ids, 16 bytes each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredKey {
    /// Zero from `length` on.
    bytes: [u8; KEY_BYTES_MAX],
    length: usize,
}

const IDENTITY_BYTES: usize = 16;
const KEY_BYTES_MAX: usize = IDENTITY_BYTES + 1 + 16 + 16;

impl StoredKey {
    pub(super) fn of(key: &Key) -> Self {
        let identity = key.identity();
        let whose = identity_bytes(&identity);
        match key {
            Key::Challenge(_, Nonce(Wire16(nonce))) => Self::joined([whose, &[0], nonce]),
            Key::SessionKid(_, SessionId(Wire16(session)), KeyId(kid)) => {
                Self::joined([whose, &[1], session, kid.as_bytes()])
            }
            Key::ExplicitSession(_, SessionId(Wire16(session))) => {
                Self::joined([whose, &[2], session])
            }
            Key::Kid(_, KeyId(kid)) => Self::joined([whose, &[3], kid.as_bytes()]),
            Key::Transaction(_, TransactionId(id)) => Self::joined([whose, &[4], id.as_bytes()]),
        }
    }

    fn joined<const N: usize>(parts: [&[u8]; N]) -> Self {
        let mut joined = Self { bytes: [0; KEY_BYTES_MAX], length: 0 };
        for part in parts {
            let end = joined.length + part.len();
            if let Some(place) = joined.bytes.get_mut(joined.length..end) {
                place.copy_from_slice(part);
                joined.length = end;
            }
        }
        joined
    }

    /// As the database has it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// A number that tells the keys of one identity apart, almost always.
    pub(super) fn mark(&self) -> u64 {
        mark(self.bytes())
    }
}

/// The [mark](StoredKey::mark) of a key as the database has it.
fn mark(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key.get(IDENTITY_BYTES..).unwrap_or_default());
    hasher.finish()
}

fn identity_bytes(Identity(Digest(identity)): &Identity) -> &[u8] {
    identity.first_chunk::<IDENTITY_BYTES>().map_or(&[], |bytes| bytes)
}

/// Opens the file for writing, and says from where on to fold: from the start if the file is not of
/// this ledger or not of this version, or damaged.
async fn open_for(path: &Path, ledger: &Ledger) -> Result<(Connection, Checkpoint), StateError> {
    let reason = match open_current(path) {
        Ok((file, Some(checkpoint))) => {
            if checkpoint.is_of(ledger).await? {
                return Ok((file, checkpoint));
            }
            "it belongs to another ledger".to_owned()
        }
        Ok((_, None)) => "it was folded by another version".to_owned(),
        Err(error) => error_text(&error),
    };
    tracing::warn!(%reason, "state.db cannot be used and is folded again: {reason}");
    sqlite::remove(path)?;
    let (file, _) = open_current(path)?;
    Ok((file, Checkpoint::default()))
}

/// Opens the file, or makes it. No checkpoint: another version folded it.
pub(super) fn open_current(path: &Path) -> Result<(Connection, Option<Checkpoint>), StateError> {
    let file = sqlite::open_for_writing(path, SCHEMA)?;
    file.execute("INSERT OR IGNORE INTO checkpoint VALUES (1, ?1, 0, NULL)", [FOLD_VERSION])?;
    let checkpoint = file.query_row(
        "SELECT next_sequence, last_event_id FROM checkpoint WHERE fold_version = ?1",
        [FOLD_VERSION],
        |row| {
            let last_event_id: Option<[u8; 16]> = row.get(1)?;
            let last_event_id = last_event_id.map(Uuid::from_bytes);
            Ok(Checkpoint { next_sequence: row.get(0)?, last_event_id })
        },
    );
    Ok((file, checkpoint.optional()?))
}

const SELECT_KEYS: &str = "SELECT key FROM lookups WHERE key BETWEEN ?1 AND ?2 LIMIT ?3";
const SCHEMA: &[&str] = &[
    include_str!("../../../migrations/state/0001_state.sql"),
    include_str!("../../../migrations/state/0002_accounts.sql"),
];
