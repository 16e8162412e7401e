//! `state.db`: the folded devices and the index rows, and the tail that keeps them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::super::sqlite::{self, Checkpoint, Readers};
use super::super::tail::{Apply, Fact, Progress, Tail, error_text};
use super::super::{Ledger, ReadError};
use crate::domain::ids::Wire16;
use crate::domain::lookup::{self, Key, Place, Row, Rows};
use crate::domain::{
    Account, AccountRef, Device, DeviceRef, Digest, Identity, KeyId, Nonce, SessionId,
    TransactionId,
};

/// Raised whenever `Device::evolve`, the index rows or their encoding change: older files are
/// then folded again.
const FOLD_VERSION: i64 = 5;

/// How long events gather before they are applied: events of many devices change the same pages,
/// which are then written once. Decisions do not wait for it, since recent events are folded forward
/// in memory.
const PAUSE: Duration = Duration::from_secs(1);

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
}

/// Reads the folded state; a tail on its own thread keeps it.
pub struct StateStore {
    readers: Readers,
    tail: Tail,
}

impl StateStore {
    /// Opens or makes `state.db` in `dir` and starts to follow `ledger`.
    pub async fn open(dir: &Path, ledger: Arc<Ledger>) -> Result<Self, StateError> {
        let path = dir.join("state.db");
        let (file, next_sequence) = open_for(&path, &ledger).await?;
        let tail = Tail::spawn("state", ledger, next_sequence, PAUSE, Folder { file }).await?;
        Ok(Self { readers: Readers::new(path), tail })
    }

    /// Drops the state in `dir`; the next [`open`](Self::open) folds it anew.
    pub fn remove(dir: &Path) -> Result<(), StateError> {
        Ok(sqlite::remove(&dir.join("state.db"))?)
    }

    /// How far the state has been folded.
    pub fn progress(&self) -> Progress {
        self.tail.progress()
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

    /// The [marks](StoredKey::mark) of the keys that `identity` has rows under; `None` if they are
    /// more than `limit`.
    pub(super) fn keys_of(
        &mut self,
        identity: Identity,
        limit: usize,
    ) -> Result<Option<HashSet<u64>>, StateError> {
        let first = identity_bytes(&identity);
        let last = [first, &[u8::MAX]].concat();
        let mut query = self.connection()?.prepare_cached(SELECT_KEYS)?;
        let keys = query
            .query_map(params![first, last, limit + 1], |row| Ok(StoredKey(row.get(0)?).mark()))?;
        // Rows are counted, not marks: two that are alike must not hide that there are more.
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        Ok((keys.len() <= limit).then(|| keys.into_iter().collect()))
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

const SELECT_DEVICE: &str = "SELECT revision, state FROM devices WHERE device = ?1";
const SELECT_ACCOUNT: &str = "SELECT revision, state FROM accounts WHERE account = ?1";
const WRITE_DEVICE: &str = "INSERT OR REPLACE INTO devices VALUES (?1, ?2, ?3)";
const WRITE_ACCOUNT: &str = "INSERT OR REPLACE INTO accounts VALUES (?1, ?2, ?3)";

fn read_state<S: DeserializeOwned>(
    connection: &Connection,
    select: &str,
    name: &str,
) -> Result<Option<(u64, S)>, StateError> {
    let mut query = connection.prepare_cached(select)?;
    let row = query.query_row([name], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?)));
    match row.optional()? {
        Some((revision, state)) => Ok(Some((revision, postcard::from_bytes(&state)?))),
        None => Ok(None),
    }
}

fn stored_row(connection: &Connection, key: &StoredKey) -> Result<Option<Row>, StateError> {
    let mut query = connection.prepare_cached("SELECT value FROM lookups WHERE key = ?1")?;
    let value: Option<Vec<u8>> = query.query_row([&key.0], |row| row.get(0)).optional()?;
    Ok(value.map(|value| postcard::from_bytes(&value)).transpose()?)
}

/// What an index row is stored under: the first half of its identity, so that the rows of one device
/// share pages, then the kind of the key and its ids, 16 bytes each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredKey(Vec<u8>);

const IDENTITY_BYTES: usize = 16;

impl StoredKey {
    pub(super) fn of(key: &Key) -> Self {
        let mut bytes = Vec::with_capacity(IDENTITY_BYTES + 33);
        bytes.extend_from_slice(identity_bytes(&key.identity()));
        match key {
            Key::Challenge(_, Nonce(Wire16(nonce))) => put(&mut bytes, 0, [nonce]),
            Key::SessionKid(_, SessionId(Wire16(session)), KeyId(kid)) => {
                put(&mut bytes, 1, [session, kid.as_bytes()]);
            }
            Key::ExplicitSession(_, SessionId(Wire16(session))) => put(&mut bytes, 2, [session]),
            Key::Kid(_, KeyId(kid)) => put(&mut bytes, 3, [kid.as_bytes()]),
            Key::Transaction(_, TransactionId(id)) => put(&mut bytes, 4, [id.as_bytes()]),
        }
        Self(bytes)
    }

    /// As the database has it.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A number that tells the keys of one identity apart, almost always.
    pub(super) fn mark(&self) -> u64 {
        let own = self.0.get(IDENTITY_BYTES..).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        own.hash(&mut hasher);
        hasher.finish()
    }
}

fn identity_bytes(Identity(Digest(identity)): &Identity) -> &[u8] {
    identity.first_chunk::<IDENTITY_BYTES>().map_or(&[], |bytes| bytes)
}

fn put<const N: usize>(bytes: &mut Vec<u8>, kind: u8, ids: [&[u8; 16]; N]) {
    bytes.push(kind);
    ids.iter().for_each(|id| bytes.extend_from_slice(*id));
}

/// Opens the file for writing, and says from where on to fold: from the start if the file is not of
/// this ledger or not of this version, or damaged.
async fn open_for(path: &Path, ledger: &Ledger) -> Result<(Connection, u64), StateError> {
    let reason = match open_current(path) {
        Ok((file, Some(checkpoint))) => {
            if checkpoint.is_of(ledger).await? {
                return Ok((file, checkpoint.next_sequence));
            }
            "it belongs to another ledger".to_owned()
        }
        Ok((_, None)) => "it was folded by another version".to_owned(),
        Err(error) => error_text(&error),
    };
    tracing::warn!(%reason, "state.db cannot be used and is folded again: {reason}");
    sqlite::remove(path)?;
    let (file, _) = open_current(path)?;
    Ok((file, 0))
}

/// Opens the file, or makes it. No checkpoint: another version folded it.
fn open_current(path: &Path) -> Result<(Connection, Option<Checkpoint>), StateError> {
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

/// Folds batches of events into the file.
struct Folder {
    file: Connection,
}

impl Apply for Folder {
    fn apply(&mut self, batch: &[Fact]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.fold(batch).map_err(Into::into)
    }
}

impl Folder {
    fn fold(&mut self, batch: &[Fact]) -> Result<(), StateError> {
        let Some(last) = batch.last() else { return Ok(()) };
        let transaction = self.file.transaction()?;
        let mut devices = BTreeMap::<DeviceRef, (u64, Device)>::new();
        let mut accounts = BTreeMap::<AccountRef, (u64, Account)>::new();
        let mut rows = BatchRows { transaction: &transaction, rows: BTreeMap::new() };
        for fact in batch {
            let (sequence, revision) = (fact.recorded.sequence, fact.recorded.revision);
            if let Some(device) = named_by(fact, DEVICE_STREAM) {
                let place = Place { device: &device, sequence, revision };
                lookup::apply(&fact.event, place, &mut rows)?;
                let (folded_to, state) = loaded(&mut devices, device, &transaction, SELECT_DEVICE)?;
                *folded_to = revision;
                state.evolve(&fact.event);
            } else if let Some(account) = named_by(fact, ACCOUNT_STREAM) {
                let (folded_to, state) =
                    loaded(&mut accounts, account, &transaction, SELECT_ACCOUNT)?;
                *folded_to = revision;
                state.evolve(&fact.event);
            }
        }
        rows.flush()?;
        write_states(&transaction, WRITE_DEVICE, devices)?;
        write_states(&transaction, WRITE_ACCOUNT, accounts)?;
        transaction.execute(
            "UPDATE checkpoint SET next_sequence = ?1, last_event_id = ?2",
            params![last.recorded.sequence + 1, last.recorded.id.as_bytes()],
        )?;
        transaction.commit()?;
        Ok(())
    }
}

/// The device or account whose stream holds the event, if its stream begins like theirs.
fn named_by<N: FromStr>(fact: &Fact, prefix: &str) -> Option<N> {
    fact.recorded.stream.as_str().strip_prefix(prefix)?.parse().ok()
}

/// The state of `name` as the batch has it so far.
fn loaded<'a, N: Ord + ToString, S: Default + DeserializeOwned>(
    states: &'a mut BTreeMap<N, (u64, S)>,
    name: N,
    transaction: &Transaction<'_>,
    select: &str,
) -> Result<&'a mut (u64, S), StateError> {
    match states.entry(name) {
        Entry::Occupied(entry) => Ok(entry.into_mut()),
        Entry::Vacant(entry) => {
            let stored = read_state(transaction, select, &entry.key().to_string())?;
            Ok(entry.insert(stored.unwrap_or_default()))
        }
    }
}

fn write_states<N: ToString, S: Serialize>(
    transaction: &Transaction<'_>,
    write: &str,
    states: BTreeMap<N, (u64, S)>,
) -> Result<(), StateError> {
    let mut write = transaction.prepare_cached(write)?;
    for (name, (revision, state)) in states {
        let state = postcard::to_allocvec(&state)?;
        write.execute(params![name.to_string(), revision, state])?;
    }
    Ok(())
}

/// Index rows of one batch: read through, written once at its end, in key order.
struct BatchRows<'a> {
    transaction: &'a Transaction<'a>,
    rows: BTreeMap<StoredKey, Row>,
}

impl Rows for BatchRows<'_> {
    type Error = StateError;

    fn get(&mut self, key: &Key) -> Result<Option<Row>, StateError> {
        let key = StoredKey::of(key);
        match self.rows.get(&key) {
            Some(row) => Ok(Some(row.clone())),
            None => stored_row(self.transaction, &key),
        }
    }

    fn put(&mut self, key: Key, row: Row) -> Result<(), StateError> {
        self.rows.insert(StoredKey::of(&key), row);
        Ok(())
    }
}

impl BatchRows<'_> {
    fn flush(self) -> Result<(), StateError> {
        let mut write =
            self.transaction.prepare_cached("INSERT OR REPLACE INTO lookups VALUES (?1, ?2)")?;
        for (key, row) in &self.rows {
            write.execute(params![&key.0, postcard::to_allocvec(row)?])?;
        }
        Ok(())
    }
}
