//! Licenses, live or not, and what happened to each; and what was refused.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::accounts::{Listed, one_more};
use super::query::{Cut, HeldLicense, counts, held, uuid};
use super::{Inventory, InventoryError, next_sequence};
use crate::clock::UnixMillis;
use crate::domain::event::{AcquisitionRefused, DecisionRefused};
use crate::domain::{AccountRef, DeviceRef, KeyId, LicenseId};

/// A persistent license, live or not.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = License, example = json!({
    "device": "beb4pw6chv22zwww44tn5zxsb4", "live": true, "deleted_at": null, "deletion_grade": null,
    "voided_at": null, "license_id": "80526930-b94e-b14e-a091-7ea949ede441",
    "key_id": "01234567-89ab-cdef-0123-456789abcdef", "status": "stored",
    "drm_system": "playready",
    "identity": "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f",
    "session": "nePNE/GKzeFpc1WBiSUU6Q==", "session_explicit": false, "overage": false,
    "transaction_id": "305e7c7e-a73b-50c9-73fd-91de7d7188cf", "chain": null,
    "acquired_at": "2026-11-22T17:35:47.159Z", "counted_until": null,
    "account": "g66plkzqupa3jstpsakablihiy", "title": "movie-7", "sequence": 4,
}))]
pub struct LicenseView {
    /// The device that acquired it, or to which it moved.
    pub device: String,
    /// Whether it counts.
    pub live: bool,
    /// When it was deleted, if the device signed that.
    pub deleted_at: Option<UnixMillis>,
    /// What the last deletion proves: A to E.
    pub deletion_grade: Option<String>,
    /// When a rule voided it.
    pub voided_at: Option<UnixMillis>,
    /// What is known of it, as of the time when it counted.
    #[serde(flatten)]
    pub license: HeldLicense,
}

/// Which licenses, or refusals, are looked for: all that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this KID.
    pub key_id: Option<KeyId>,
    /// On this device.
    pub device: Option<DeviceRef>,
    /// At this account's expense.
    pub account: Option<AccountRef>,
    /// For this title.
    pub title: Option<String>,
    /// Only those that count, or only those that do not.
    pub live: Option<bool>,
}

/// An acquisition that a quota rule refused, or a decision that was to be committed.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Refusal, example = json!({
    "sequence": 12, "device": "beb4pw6chv22zwww44tn5zxsb4", "account": "g66plkzqupa3jstpsakablihiy",
    "key_ids": ["01234567-89ab-cdef-0123-456789abcdef"], "rule": "device-slots", "limit": 25,
    "in_use": 25, "requested": 1, "policy_version": 3, "refused_at": "2026-11-22T17:35:47.159Z",
}))]
pub struct RefusalView {
    /// Place of its event in the ledger.
    pub sequence: u64,
    /// The device that asked, or for which somebody did.
    pub device: String,
    /// The account that was to pay.
    pub account: Option<String>,
    /// KIDs that were refused; those that the same rule refused within the hour before are not
    /// named again.
    pub key_ids: Vec<Uuid>,
    /// Id of the rule.
    pub rule: String,
    /// Its limit.
    pub limit: u32,
    /// How much of it was in use.
    pub in_use: u32,
    /// How much more was asked for.
    pub requested: u32,
    /// Version of the quota policy.
    pub policy_version: u64,
    /// When.
    pub refused_at: UnixMillis,
}

/// What is kept of a refusal.
pub(super) struct Refused<'a> {
    key_ids: &'a [KeyId],
    account: Option<&'a AccountRef>,
    rule: &'a str,
    limit: u32,
    held: u32,
    requested: u32,
    quota_policy_revision: u64,
    at_ms: i64,
}

impl<'a> From<&'a AcquisitionRefused> for Refused<'a> {
    fn from(e: &'a AcquisitionRefused) -> Self {
        Self {
            key_ids: &e.key_ids,
            account: e.account.as_ref(),
            rule: &e.rule,
            limit: e.limit,
            held: e.held,
            requested: e.requested,
            quota_policy_revision: e.quota_policy_revision,
            at_ms: e.at_ms,
        }
    }
}

impl<'a> From<&'a DecisionRefused> for Refused<'a> {
    fn from(e: &'a DecisionRefused) -> Self {
        Self {
            key_ids: &e.key_ids,
            account: e.account.as_ref(),
            rule: &e.rule,
            limit: e.limit,
            held: e.held,
            requested: e.requested,
            quota_policy_revision: e.quota_policy_revision,
            at_ms: e.at_ms,
        }
    }
}

/// Takes note of an event about a license after its acquisition.
pub(super) fn happened(
    db: &Transaction<'_>,
    license_id: LicenseId,
    sequence: u64,
) -> rusqlite::Result<()> {
    // Non-persistent licenses are not here.
    db.prepare_cached(
        "INSERT INTO license_events SELECT license_id, ?2 FROM licenses WHERE license_id = ?1",
    )?
    .execute(params![license_id.0.as_bytes(), sequence])
    .map(drop)
}

/// Takes note of a refusal.
pub(super) fn refused(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &Refused<'_>,
) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO refusals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
        .execute(params![
            sequence,
            device,
            e.account.map(ToString::to_string),
            e.rule,
            e.limit,
            e.held,
            e.requested,
            e.quota_policy_revision,
            e.at_ms,
        ])?;
    let mut key = db.prepare_cached("INSERT OR IGNORE INTO refused_keys VALUES (?1, ?2)")?;
    for key_id in e.key_ids {
        key.execute(params![key_id.0.as_bytes(), sequence])?;
    }
    Ok(())
}

impl Inventory {
    /// Licenses in the order they were acquired, from `from` (a page's `next`) on, as they were
    /// before the event `before`, at the time `now`.
    pub fn licenses(
        &self,
        filter: &Filter,
        (from, before): (u64, u64),
        limit: usize,
        now: UnixMillis,
    ) -> Result<Listed<LicenseView, u64>, InventoryError> {
        let mut wanted = Conditions::between(from, before);
        wanted.has("key_id", filter.key_id.map(|id| Value::Blob(id.0.as_bytes().to_vec())));
        wanted.is_on(filter.device.as_ref(), before);
        wanted.has("account", filter.account.as_ref().map(|a| Value::Text(a.to_string())));
        wanted.has("title", filter.title.clone().map(Value::Text));
        wanted.has("live", filter.live.map(|live| Value::Integer(i64::from(live))));
        let sql = format!(
            "SELECT * FROM (SELECT *, {} AS live FROM licenses)
             WHERE {} ORDER BY sequence LIMIT {}",
            counted_before("?2", now.0),
            wanted.sql,
            one_more(limit)
        );
        let cut = Cut::before(before);
        self.read(|db| {
            let mut query = db.prepare(&sql)?;
            let values = params_from_iter(&wanted.values);
            let rows = query.query_map(values, |row| license(row, cut))?;
            let licenses = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            Listed::cut(db, licenses, limit, |license| license.license.sequence)
        })
    }

    /// One license, the places of all its events in the ledger, the acquisition first, and the
    /// sequence from which on events are not in the answer.
    pub fn license(
        &self,
        license_id: LicenseId,
        now: UnixMillis,
    ) -> Result<Option<(LicenseView, Vec<u64>, u64)>, InventoryError> {
        self.read(|db| {
            let counts = counts("licenses", "?2");
            let sql = format!("SELECT *, {counts} AS live FROM licenses WHERE license_id = ?1");
            let mut query = db.prepare_cached(&sql)?;
            let id = license_id.0.as_bytes();
            let found = query.query_row(params![id, now.0], |row| license(row, Cut::END));
            let found = found.optional()?;
            let Some(found) = found else { return Ok(None) };
            let mut query = db.prepare_cached(
                "SELECT sequence FROM license_events WHERE license_id = ?1 ORDER BY sequence",
            )?;
            let mut sequences = vec![found.license.sequence];
            for sequence in query.query_map([id], |row| row.get(0))? {
                sequences.push(sequence?);
            }
            Ok(Some((found, sequences, next_sequence(db)?)))
        })
    }

    /// Refusals in the order they were recorded, from `from` (a page's `next`) on, as long as they
    /// were recorded before the event `before`. Of `filter`, title and liveness do not matter.
    pub fn refusals(
        &self,
        filter: &Filter,
        (from, before): (u64, u64),
        limit: usize,
    ) -> Result<Listed<RefusalView, u64>, InventoryError> {
        let mut wanted = Conditions::between(from, before);
        wanted.has("device", filter.device.as_ref().map(|d| Value::Text(d.to_string())));
        wanted.has("account", filter.account.as_ref().map(|a| Value::Text(a.to_string())));
        let key_id = filter.key_id.map(|id| Value::Blob(id.0.as_bytes().to_vec()));
        let table = match key_id {
            Some(_) => "refused_keys JOIN refusals USING (sequence)",
            None => "refusals",
        };
        wanted.has("key_id", key_id);
        let sql = format!(
            "SELECT * FROM {table} WHERE {} ORDER BY sequence LIMIT {}",
            wanted.sql,
            one_more(limit)
        );
        self.read(|db| {
            let mut query = db.prepare(&sql)?;
            let rows = query.query_map(params_from_iter(&wanted.values), refusal)?;
            let mut refusals = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            for refusal in &mut refusals {
                refusal.key_ids = refused_keys(db, refusal.sequence)?;
            }
            Listed::cut(db, refusals, limit, |refusal| refusal.sequence)
        })
    }
}

/// What rows have to be like.
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Conditions {
    fn between(from: u64, before: u64) -> Self {
        let place = |sequence| Value::Integer(i64::try_from(sequence).unwrap_or(i64::MAX));
        let sql = "sequence >= ?1 AND sequence < ?2".to_owned();
        Self { sql, values: vec![place(from), place(before)] }
    }

    /// On this device before the event `before`: it may have moved since.
    fn is_on(&mut self, device: Option<&DeviceRef>, before: u64) {
        let device = device.map(|device| Value::Text(device.to_string()));
        if before == u64::MAX || device.is_none() {
            return self.has("device", device);
        }
        self.values.extend(device);
        let device = self.values.len();
        self.sql.push_str(&format!(
            " AND sequence IN (
               SELECT sequence FROM licenses WHERE device = ?{device} AND sequence >= ?1
                 AND (moved_sequence IS NULL OR moved_sequence < ?2)
               UNION ALL
               SELECT sequence FROM licenses WHERE moved_from = ?{device} AND sequence >= ?1
                 AND moved_sequence >= ?2)"
        ));
    }

    fn has(&mut self, column: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.values.push(value);
            self.sql.push_str(&format!(" AND {column} = ?{}", self.values.len()));
        }
    }
}

/// SQL by which licenses counted at the time `now_ms` as far as events before `before` say.
fn counted_before(before: &str, now_ms: i64) -> String {
    format!(
        "(open = 1 OR ended_sequence >= {before})
           AND (counted_until_ms IS NULL OR counted_until_ms > {now_ms})
           AND (frees_at_ms IS NULL OR frees_at_ms > {now_ms} OR written_off_sequence >= {before})"
    )
}

fn license(row: &Row<'_>, cut: Cut) -> rusqlite::Result<LicenseView> {
    let license = held(row, cut)?;
    let device = if cut.is_before(row, "moved_sequence")? { "moved_from" } else { "device" };
    Ok(LicenseView {
        device: row.get(device)?,
        live: row.get("live")?,
        deleted_at: cut.at(row, "deleted")?,
        deletion_grade: license.deletion_grade.clone(),
        voided_at: cut.at(row, "voided")?,
        license,
    })
}

fn refusal(row: &Row<'_>) -> rusqlite::Result<RefusalView> {
    Ok(RefusalView {
        sequence: row.get("sequence")?,
        device: row.get("device")?,
        account: row.get("account")?,
        key_ids: Vec::new(),
        rule: row.get("rule")?,
        limit: row.get("max_in_use")?,
        in_use: row.get("in_use")?,
        requested: row.get("requested")?,
        policy_version: row.get("policy_version")?,
        refused_at: UnixMillis(row.get("refused_at_ms")?),
    })
}

fn refused_keys(db: &Connection, sequence: u64) -> rusqlite::Result<Vec<Uuid>> {
    let mut query = db.prepare_cached("SELECT key_id FROM refused_keys WHERE sequence = ?1")?;
    query.query_map([sequence], |row| uuid(row, "key_id"))?.collect()
}
