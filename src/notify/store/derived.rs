//! What is derived from the ledger: holders of slots, and the shares of limits that they reached.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::super::crossing::{self, Crossing, DeviceLimit};
use super::{FOLD_VERSION, Store, StoreError};
use crate::domain::quota::QuotaPolicy;
use crate::domain::{Device, Event};
use crate::ledger::Recorded;
use crate::ledger::state::store::DEVICE_STREAM;
use crate::ledger::tail::Fact;

/// The holders of slots that one batch of events is about, and the limit in force.
struct Holders<'a> {
    db: &'a Transaction<'a>,
    devices: BTreeMap<String, Device>,
    limit: Option<DeviceLimit>,
    percents: &'a [u8],
}

impl Store {
    /// Folds a batch of events, and remembers which shares (`percents` of the limit) they reached.
    pub(crate) fn fold(&self, batch: &[Fact], percents: &[u8]) -> Result<(), StoreError> {
        let Some(last) = batch.last() else { return Ok(()) };
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        let limit = limit_in_force(&transaction)?;
        let devices = BTreeMap::new();
        let mut holders = Holders { db: &transaction, devices, limit, percents };
        for fact in batch {
            holders.apply(fact)?;
        }
        holders.write()?;
        transaction.execute(
            "UPDATE checkpoint SET next_sequence = ?1, last_event_id = ?2",
            params![last.recorded.sequence + 1, last.recorded.id.as_bytes()],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// The shares that were reached by events from `from` up to and without `until`, in order.
    pub(crate) fn crossings(
        &self,
        from: u64,
        until: u64,
    ) -> Result<Vec<(u64, Crossing)>, StoreError> {
        let rows: Vec<(u64, Vec<u8>)> = self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT sequence, crossing FROM crossings WHERE sequence >= ?1 AND sequence < ?2
                 ORDER BY sequence, percent",
            )?;
            let rows = query.query_map([from, until], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })?;
        let read =
            |(sequence, json): (u64, Vec<u8>)| Ok((sequence, serde_json::from_slice(&json)?));
        rows.into_iter().map(read).collect()
    }
}

impl Holders<'_> {
    fn apply(&mut self, fact: &Fact) -> Result<(), StoreError> {
        let Recorded { stream, sequence, revision, .. } = &fact.recorded;
        if let Event::QuotaPolicyPublished(published) = &fact.event {
            self.limit = DeviceLimit::of(&published.policy, *revision);
            let policy = serde_json::to_vec(&published.policy)?;
            self.db.execute(
                "UPDATE checkpoint SET policy = ?1, policy_revision = ?2",
                params![policy, revision],
            )?;
        }
        let stream = stream.as_str();
        if !stream.starts_with(DEVICE_STREAM) {
            return Ok(());
        }
        if !self.devices.contains_key(stream) {
            let device = read_device(self.db, stream)?;
            self.devices.insert(stream.to_owned(), device);
        }
        let Some(device) = self.devices.get_mut(stream) else { return Ok(()) };
        for reached in crossing::evolve(device, &fact.event, self.limit.as_ref(), self.percents) {
            let json = serde_json::to_vec(&reached)?;
            self.db
                .prepare_cached("INSERT OR IGNORE INTO crossings VALUES (?1, ?2, ?3)")?
                .execute(params![sequence, reached.threshold_percent, json])?;
        }
        Ok(())
    }

    fn write(self) -> Result<(), StoreError> {
        let mut write = self.db.prepare_cached("INSERT OR REPLACE INTO holders VALUES (?1, ?2)")?;
        for (stream, device) in &self.devices {
            write.execute(params![stream, postcard::to_allocvec(device)?])?;
        }
        Ok(())
    }
}

fn read_device(db: &Connection, stream: &str) -> Result<Device, StoreError> {
    let mut query = db.prepare_cached("SELECT state FROM holders WHERE stream = ?1")?;
    let state: Option<Vec<u8>> = query.query_row([stream], |row| row.get(0)).optional()?;
    Ok(state.map(|state| postcard::from_bytes(&state)).transpose()?.unwrap_or_default())
}

fn limit_in_force(db: &Connection) -> Result<Option<DeviceLimit>, StoreError> {
    let (policy, revision): (Option<Vec<u8>>, Option<u64>) =
        db.query_row("SELECT policy, policy_revision FROM checkpoint", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let Some((policy, revision)) = policy.zip(revision) else { return Ok(None) };
    let policy: QuotaPolicy = serde_json::from_slice(&policy)?;
    Ok(DeviceLimit::of(&policy, revision))
}

/// Drops what another version folded. The shares that were reached stay: messages were made of them.
pub(super) fn forget(file: &Connection) -> Result<(), StoreError> {
    file.execute("DELETE FROM holders", [])?;
    file.execute(
        "UPDATE checkpoint SET fold_version = ?1, next_sequence = 0, last_event_id = NULL,
           policy = NULL, policy_revision = NULL",
        [FOLD_VERSION],
    )?;
    Ok(())
}
