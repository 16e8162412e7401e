//! What is derived from the ledger: holders of slots, and the shares of limits that they reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::super::crossing::{Crossing, Holder, InForce};
use super::{FOLD_VERSION, Store, StoreError};
use crate::domain::Event;
use crate::ledger::Recorded;
use crate::ledger::tail::Fact;

/// The holders of slots that one batch of events is about, by stream, and the policy in force.
struct Holders<'a> {
    db: &'a Transaction<'a>,
    holders: BTreeMap<String, Holder>,
    in_force: Option<InForce>,
    percents: &'a [u8],
}

impl Store {
    /// Folds a batch of events, and remembers which shares (`percents` of the limit) they reached.
    pub(crate) fn fold(&self, batch: &[Arc<Fact>], percents: &[u8]) -> Result<(), StoreError> {
        let Some(last) = batch.last() else { return Ok(()) };
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        let in_force = policy_in_force(&transaction)?;
        let holders = BTreeMap::new();
        let mut holders = Holders { db: &transaction, holders, in_force, percents };
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
            let (policy, revision) = (published.policy.clone(), *revision);
            self.db.execute(
                "UPDATE checkpoint SET policy = ?1, policy_revision = ?2",
                params![serde_json::to_vec(&policy)?, revision],
            )?;
            self.in_force = Some(InForce { policy, revision });
        }
        let Some(fresh) = Holder::of_stream(stream.as_str()) else { return Ok(()) };
        if !self.holders.contains_key(stream.as_str()) {
            let holder = read_holder(self.db, stream.as_str())?.unwrap_or(fresh);
            self.holders.insert(stream.to_string(), holder);
        }
        let Some(holder) = self.holders.get_mut(stream.as_str()) else { return Ok(()) };
        for reached in holder.evolve(&fact.event, self.in_force.as_ref(), self.percents) {
            let json = serde_json::to_vec(&reached)?;
            self.db
                .prepare_cached("INSERT OR IGNORE INTO crossings VALUES (?1, ?2, ?3)")?
                .execute(params![sequence, reached.threshold_percent, json])?;
        }
        Ok(())
    }

    fn write(self) -> Result<(), StoreError> {
        let mut write = self.db.prepare_cached("INSERT OR REPLACE INTO holders VALUES (?1, ?2)")?;
        for (stream, holder) in &self.holders {
            write.execute(params![stream, postcard::to_allocvec(holder)?])?;
        }
        Ok(())
    }
}

fn read_holder(db: &Connection, stream: &str) -> Result<Option<Holder>, StoreError> {
    let mut query = db.prepare_cached("SELECT state FROM holders WHERE stream = ?1")?;
    let state: Option<Vec<u8>> = query.query_row([stream], |row| row.get(0)).optional()?;
    Ok(state.map(|state| postcard::from_bytes(&state)).transpose()?)
}

fn policy_in_force(db: &Connection) -> Result<Option<InForce>, StoreError> {
    let (policy, revision): (Option<Vec<u8>>, Option<u64>) =
        db.query_row("SELECT policy, policy_revision FROM checkpoint", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let Some((policy, revision)) = policy.zip(revision) else { return Ok(None) };
    Ok(Some(InForce { policy: serde_json::from_slice(&policy)?, revision }))
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
