//! Folds events into `state.db`.
//!
//! An event changes the row of a device or an account and a few index rows: about four pages, nearly
//! all of them pages that the next event of the same device changes again. So changes gather in
//! memory, and each time events were folded, a [small part](STORED_PART) of the changed devices and
//! accounts is stored, those first that have waited longest. So the disk, which the ledger commits to, has a little to do all the time and
//! never much at once.
//!
//! ```text
//! log        …… stored ……|…… folded, some of it stored ……|…… not read yet ……
//!                     checkpoint                      seen
//! ```
//!
//! The checkpoint stands before the oldest event whose changes are not stored. Of later ones some are
//! and others are not; all are folded again after a crash. That is harmless: the row of a device or
//! account knows its revision and an index row its sequence, and neither sees an event twice. A
//! device's row is stored together with all index rows that its events changed, since whoever reads
//! it at its revision folds only later events forward.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::error::Error;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, params};

use super::super::sqlite::Checkpoint;
use super::super::tail::{Apply, Fact};
use super::store::{
    ACCOUNT_STREAM, DEVICE_STREAM, SELECT_ACCOUNT, SELECT_DEVICE, StateError, StoredKey, keys_of,
    read_state, stored_row,
};
use crate::domain::lookup::{self, Key, Place, Row, Rows};
use crate::domain::{Account, AccountRef, Device, DeviceRef, Identity};

/// One in so many changed devices and accounts is stored each time. With half a second between those
/// times, the changes of a device gather for about ten seconds.
const STORED_PART: usize = 20;

/// Events whose changes gather, at most: they take about 1 KiB each, and are what is folded again
/// after a crash.
const GATHER_EVENTS: usize = 32 * 1024;

/// Devices and accounts stored in one transaction, so that what goes to the disk at once stays small.
const STORED_AT_ONCE: usize = 64;

/// Keeps the file.
pub(super) struct Folder {
    file: Connection,
    /// What has been folded, stored or not.
    seen: Checkpoint,
    changed: HashMap<Name, Changed>,
    /// The names of what changed, that first which has waited longest.
    waiting: VecDeque<Name>,
    /// The index rows of those whose rows changed.
    rows: HashMap<Identity, Gathered>,
    /// How many events changed all these.
    events: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Device(DeviceRef),
    Account(AccountRef),
}

/// A device or account with changes that are not stored.
struct Changed {
    /// What was seen before the first of them.
    before: Checkpoint,
    events: usize,
    /// Revision of the last event folded.
    revision: Option<u64>,
    state: State,
    /// Whose index rows were looked at, and may have changed as well.
    identities: HashSet<Identity>,
}

/// The index rows of one identity.
struct Gathered {
    changed: BTreeMap<StoredKey, Row>,
    /// Which of them the file has, where [that was read](keys_of).
    stored: Option<Vec<u64>>,
}

enum State {
    Device(Box<Device>),
    Account(Box<Account>),
}

impl Apply for Folder {
    fn apply(&mut self, batch: &[Arc<Fact>]) -> Result<(), Box<dyn Error + Send + Sync>> {
        // One transaction for all that is read: to begin one takes longer than to read a row.
        self.file.execute_batch("BEGIN")?;
        for fact in batch {
            self.fold(fact)?;
        }
        self.file.execute_batch("COMMIT")?;
        Ok(self.store_part()?)
    }

    fn unstored_from(&self) -> Option<u64> {
        Some(self.changed.get(self.waiting.front()?)?.before.next_sequence)
    }

    fn store(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        while !self.waiting.is_empty() {
            self.store_oldest(STORED_AT_ONCE)?;
        }
        Ok(())
    }
}

impl Folder {
    /// Goes on at `checkpoint`, which is that of `file`.
    pub(super) fn new(file: Connection, checkpoint: Checkpoint) -> Self {
        Self {
            file,
            seen: checkpoint,
            changed: HashMap::new(),
            waiting: VecDeque::new(),
            rows: HashMap::new(),
            events: 0,
        }
    }

    pub(super) fn fold(&mut self, fact: &Fact) -> Result<(), StateError> {
        let before = self.seen;
        let (sequence, revision) = (fact.recorded.sequence, fact.recorded.revision);
        self.seen =
            Checkpoint { next_sequence: sequence + 1, last_event_id: Some(fact.recorded.id) };
        let Some(name) = Name::of_stream(fact.recorded.stream.as_str()) else { return Ok(()) };
        let changed = match self.changed.entry(name.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.waiting.push_back(name.clone());
                entry.insert(Changed::read(&self.file, &name, before)?)
            }
        };
        if let Name::Device(device) = &name {
            let Changed { identities, .. } = changed;
            let (file, rows) = (&self.file, &mut self.rows);
            let mut rows = GatheredRows { file, revision, rows, identities };
            lookup::apply(&fact.event, Place { device, sequence, revision }, &mut rows)?;
        }
        if changed.revision.is_none_or(|folded| folded < revision) {
            changed.revision = Some(revision);
            match &mut changed.state {
                State::Device(device) => device.evolve(&fact.event),
                State::Account(account) => account.evolve(&fact.event),
            }
        }
        changed.events += 1;
        self.events += 1;
        Ok(())
    }

    /// Stores the part of what changed that is due, or more if too many events have gathered.
    fn store_part(&mut self) -> Result<(), StateError> {
        let kept = self.waiting.len() - self.waiting.len().div_ceil(STORED_PART);
        while self.waiting.len() > kept || self.events > GATHER_EVENTS {
            let due = self.waiting.len().saturating_sub(kept).max(1);
            self.store_oldest(due.min(STORED_AT_ONCE))?;
        }
        if self.waiting.is_empty() {
            // Events of other streams move the checkpoint as well.
            write_checkpoint(&self.file, &self.seen)?;
        }
        Ok(())
    }

    /// Stores the `count` devices and accounts that have waited longest, and how far everything is
    /// stored then.
    pub(super) fn store_oldest(&mut self, count: usize) -> Result<(), StateError> {
        let transaction = self.file.transaction()?;
        let count = count.min(self.waiting.len());
        for name in self.waiting.drain(..count) {
            let Some(changed) = self.changed.remove(&name) else { continue };
            self.events -= changed.events;
            for identity in &changed.identities {
                if let Some(Gathered { changed, .. }) = self.rows.remove(identity) {
                    write_rows(&transaction, changed)?;
                }
            }
            changed.write(&transaction, &name)?;
        }
        let next = self.waiting.front().and_then(|name| self.changed.get(name));
        write_checkpoint(&transaction, next.map_or(&self.seen, |changed| &changed.before))?;
        Ok(transaction.commit()?)
    }
}

impl Name {
    /// The device or account that has this stream, if one does.
    fn of_stream(stream: &str) -> Option<Self> {
        if let Some(device) = stream.strip_prefix(DEVICE_STREAM) {
            return device.parse().ok().map(Self::Device);
        }
        stream.strip_prefix(ACCOUNT_STREAM)?.parse().ok().map(Self::Account)
    }
}

impl Changed {
    /// What is stored under `name`, about to change. `before` is what was seen until then.
    fn read(file: &Connection, name: &Name, before: Checkpoint) -> Result<Self, StateError> {
        let (revision, state) = match name {
            Name::Device(device) => {
                let stored = read_state(file, SELECT_DEVICE, &device.to_string())?;
                let (revision, device) = stored.unzip();
                (revision, State::Device(device.unwrap_or_default()))
            }
            Name::Account(account) => {
                let stored = read_state(file, SELECT_ACCOUNT, &account.to_string())?;
                let (revision, account) = stored.unzip();
                (revision, State::Account(account.unwrap_or_default()))
            }
        };
        Ok(Self { before, events: 0, revision, state, identities: HashSet::new() })
    }

    fn write(&self, transaction: &Transaction<'_>, name: &Name) -> Result<(), StateError> {
        let (sql, name) = match name {
            Name::Device(device) => (WRITE_DEVICE, device.to_string()),
            Name::Account(account) => (WRITE_ACCOUNT, account.to_string()),
        };
        let state = match &self.state {
            State::Device(device) => postcard::to_allocvec(device)?,
            State::Account(account) => postcard::to_allocvec(account)?,
        };
        transaction.prepare_cached(sql)?.execute(params![name, self.revision, state])?;
        Ok(())
    }
}

const WRITE_DEVICE: &str = "INSERT OR REPLACE INTO devices VALUES (?1, ?2, ?3)";
const WRITE_ACCOUNT: &str = "INSERT OR REPLACE INTO accounts VALUES (?1, ?2, ?3)";
const WRITE_ROW: &str = "INSERT OR REPLACE INTO lookups VALUES (?1, ?2)";

fn write_rows(
    transaction: &Transaction<'_>,
    rows: BTreeMap<StoredKey, Row>,
) -> Result<(), StateError> {
    let mut write = transaction.prepare_cached(WRITE_ROW)?;
    for (key, row) in rows {
        write.execute(params![key.bytes(), postcard::to_allocvec(&row)?])?;
    }
    Ok(())
}

fn write_checkpoint(file: &Connection, checkpoint: &Checkpoint) -> Result<(), StateError> {
    let Checkpoint { next_sequence, last_event_id } = checkpoint;
    file.prepare_cached("UPDATE checkpoint SET next_sequence = ?1, last_event_id = ?2")?
        .execute(params![next_sequence, last_event_id.as_ref().map(uuid::Uuid::as_bytes)])?;
    Ok(())
}

/// The index rows as of the event at hand: changed ones from memory, all others from the file.
struct GatheredRows<'a> {
    file: &'a Connection,
    /// Of the event at hand in its device's stream.
    revision: u64,
    rows: &'a mut HashMap<Identity, Gathered>,
    /// Whose rows the events of the device looked at.
    identities: &'a mut HashSet<Identity>,
}

impl GatheredRows<'_> {
    fn of(&mut self, identity: Identity) -> Result<&mut Gathered, StateError> {
        match self.rows.entry(identity) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let stored = keys_of(self.file, identity, self.revision)?;
                Ok(entry.insert(Gathered { changed: BTreeMap::new(), stored }))
            }
        }
    }
}

impl Rows for GatheredRows<'_> {
    type Error = StateError;

    fn get(&mut self, key: &Key) -> Result<Option<Row>, StateError> {
        let (file, identity, key) = (self.file, key.identity(), StoredKey::of(key));
        self.identities.insert(identity);
        let Gathered { changed, stored } = self.of(identity)?;
        match (changed.get(&key), stored) {
            (Some(row), _) => Ok(Some(row.clone())),
            (None, Some(stored)) if !stored.contains(&key.mark()) => Ok(None),
            (None, _) => stored_row(file, &key),
        }
    }

    fn put(&mut self, key: Key, row: Row) -> Result<(), StateError> {
        let identity = key.identity();
        self.identities.insert(identity);
        self.of(identity)?.changed.insert(StoredKey::of(&key), row);
        Ok(())
    }
}
