//! Folds events into `state.db`.
//!
//! An event changes a device's row and a few index rows: about four pages, nearly all of them
//! pages that its device's next event changes again. So changes gather in memory, and each time
//! events were folded, a [small part](STORED_PART) of the changed devices is stored, those first that
//! have waited longest. So the disk, which the ledger commits to, has a little to do all the time and
//! never much at once.
//!
//! ```text
//! log        …… stored ……|…… folded, some of it stored ……|…… not read yet ……
//!                     checkpoint                      seen
//! ```
//!
//! The checkpoint stands before the oldest event whose changes are not stored. After it some devices
//! are, others are not; events from there on are folded again after a crash. That is harmless: a
//! device's row knows its revision and an index row its sequence, and neither sees an event twice.
//! A device's row is stored together with all index rows that its events changed, since whoever
//! reads it at its revision folds only later events forward.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::error::Error;

use rusqlite::{Connection, Transaction, params};

use super::super::sqlite::Checkpoint;
use super::super::tail::{Apply, Fact};
use super::store::{DEVICE_STREAM, StateError, StoredKey, read_device, stored_row};
use crate::domain::lookup::{self, Key, Place, Row, Rows};
use crate::domain::{Device, DeviceRef, Identity};

/// One in so many changed devices is stored each time. With half a second between those times, the
/// changes of a device gather for about ten seconds.
const STORED_PART: usize = 20;

/// Events whose changes gather, at most: they take about 1 KiB each, and are what is folded again
/// after a crash.
const GATHER_EVENTS: usize = 32 * 1024;

/// Devices stored in one transaction, so that what goes to the disk at once stays small.
const STORE_DEVICES: usize = 64;

/// Keeps the file.
pub(super) struct Folder {
    file: Connection,
    /// What has been folded, stored or not.
    seen: Checkpoint,
    devices: HashMap<DeviceRef, Changed>,
    /// The changed devices, that first which has waited longest.
    waiting: VecDeque<DeviceRef>,
    /// Changed index rows.
    rows: HashMap<Identity, BTreeMap<StoredKey, Row>>,
    /// How many events changed all these.
    events: usize,
}

/// A device with changes that are not stored.
struct Changed {
    /// What was seen before the first of them.
    before: Checkpoint,
    events: usize,
    /// Revision of the last event folded.
    revision: Option<u64>,
    device: Device,
    /// Whose index rows changed as well.
    identities: HashSet<Identity>,
}

impl Apply for Folder {
    fn apply(&mut self, batch: &[Fact]) -> Result<(), Box<dyn Error + Send + Sync>> {
        // One transaction for all that is read: to begin one takes longer than to read a row.
        self.file.execute_batch("BEGIN")?;
        for fact in batch {
            self.fold(fact)?;
        }
        self.file.execute_batch("COMMIT")?;
        Ok(self.store_part()?)
    }

    fn unstored_from(&self) -> Option<u64> {
        Some(self.oldest_unstored()?.before.next_sequence)
    }

    fn store(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        while !self.waiting.is_empty() {
            self.store_oldest(STORE_DEVICES)?;
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
            devices: HashMap::new(),
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
        let Some(name) = device_of(fact) else { return Ok(()) };
        let changed = match self.devices.entry(name.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let stored = read_device(&self.file, &name)?;
                self.waiting.push_back(name.clone());
                entry.insert(Changed::after(before, stored))
            }
        };
        let Changed { identities, .. } = changed;
        let mut rows = GatheredRows { file: &self.file, rows: &mut self.rows, identities };
        lookup::apply(&fact.event, Place { device: &name, sequence, revision }, &mut rows)?;
        if changed.revision.is_none_or(|folded| folded < revision) {
            changed.device.evolve(&fact.event);
            changed.revision = Some(revision);
        }
        changed.events += 1;
        self.events += 1;
        Ok(())
    }

    fn oldest_unstored(&self) -> Option<&Changed> {
        self.devices.get(self.waiting.front()?)
    }

    /// Stores the part of the changed devices that is due, or more if too many events have gathered.
    fn store_part(&mut self) -> Result<(), StateError> {
        let kept = self.waiting.len() - self.waiting.len().div_ceil(STORED_PART);
        while self.waiting.len() > kept || self.events > GATHER_EVENTS {
            let due = self.waiting.len().saturating_sub(kept).max(1);
            self.store_oldest(due.min(STORE_DEVICES))?;
        }
        if self.waiting.is_empty() {
            // Events of other streams move the checkpoint as well.
            write_checkpoint(&self.file, &self.seen)?;
        }
        Ok(())
    }

    /// Stores the `devices` that have waited longest, and how far everything is stored then.
    pub(super) fn store_oldest(&mut self, devices: usize) -> Result<(), StateError> {
        let transaction = self.file.transaction()?;
        let oldest = self.waiting.len().min(devices);
        for name in self.waiting.drain(..oldest) {
            let Some(changed) = self.devices.remove(&name) else { continue };
            self.events -= changed.events;
            for identity in &changed.identities {
                write_rows(&transaction, self.rows.remove(identity).unwrap_or_default())?;
            }
            write_device(&transaction, &name, &changed)?;
        }
        let next = self.waiting.front().and_then(|name| self.devices.get(name));
        write_checkpoint(&transaction, next.map_or(&self.seen, |changed| &changed.before))?;
        Ok(transaction.commit()?)
    }
}

impl Changed {
    fn after(before: Checkpoint, stored: Option<(u64, Device)>) -> Self {
        let (revision, device) = stored.unzip();
        Self {
            before,
            events: 0,
            revision,
            device: device.unwrap_or_default(),
            identities: HashSet::new(),
        }
    }
}

/// The device whose stream holds the event, if one does.
fn device_of(fact: &Fact) -> Option<DeviceRef> {
    fact.recorded.stream.as_str().strip_prefix(DEVICE_STREAM)?.parse().ok()
}

fn write_rows(
    transaction: &Transaction<'_>,
    rows: BTreeMap<StoredKey, Row>,
) -> Result<(), StateError> {
    let mut write = transaction.prepare_cached("INSERT OR REPLACE INTO lookups VALUES (?1, ?2)")?;
    for (key, row) in rows {
        write.execute(params![key.bytes(), postcard::to_allocvec(&row)?])?;
    }
    Ok(())
}

fn write_device(
    transaction: &Transaction<'_>,
    name: &DeviceRef,
    changed: &Changed,
) -> Result<(), StateError> {
    let Changed { revision, device, .. } = changed;
    let mut write =
        transaction.prepare_cached("INSERT OR REPLACE INTO devices VALUES (?1, ?2, ?3)")?;
    write.execute(params![name.to_string(), revision, postcard::to_allocvec(device)?])?;
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
    rows: &'a mut HashMap<Identity, BTreeMap<StoredKey, Row>>,
    /// Whose rows the device's events changed.
    identities: &'a mut HashSet<Identity>,
}

impl Rows for GatheredRows<'_> {
    type Error = StateError;

    fn get(&mut self, key: &Key) -> Result<Option<Row>, StateError> {
        let stored = StoredKey::of(key);
        match self.rows.get(&key.identity()).and_then(|rows| rows.get(&stored)) {
            Some(row) => Ok(Some(row.clone())),
            None => stored_row(self.file, &stored),
        }
    }

    fn put(&mut self, key: Key, row: Row) -> Result<(), StateError> {
        let identity = key.identity();
        self.identities.insert(identity);
        self.rows.entry(identity).or_default().insert(StoredKey::of(&key), row);
        Ok(())
    }
}
