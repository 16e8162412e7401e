//! What operators said: licenses written off, devices blocked, merged and replaced.

use rusqlite::{Connection, Row, Transaction, params};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::apply::count;
use super::query::{VOIDED, WEAKLY_DELETED, WRITTEN_OFF, newest_released, uuid};
use crate::clock::UnixMillis;
use crate::domain::event::{
    DeviceBlock, DeviceMerged, DeviceReplaced, DeviceTookOver, LicenseWrittenOff, Replaced,
};

/// A license that an operator gave up.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = InventoryWrittenOff)]
pub struct WrittenOffLicense {
    /// The license.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// Who wrote it off: the public part of an API key, or `cli`.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it was granted.
    pub acquired_at: UnixMillis,
    /// When it was written off.
    pub written_off_at: UnixMillis,
    /// Until when it counts all the same; `null`: it does not.
    pub frees_at: Option<UnixMillis>,
}

/// Why a device gets no licenses.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Block {
    /// Since when.
    pub since: UnixMillis,
    /// Who blocked it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// The device that goes on in the place of another.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Successor {
    /// The device.
    pub device: String,
    /// `merged`: the two are one. `moved`: it replaced the other, whose licenses count for it.
    /// `written_off`: it replaced the other, whose licenses were written off.
    pub how: String,
    /// Since when.
    pub since: UnixMillis,
    /// Who said so.
    pub actor: String,
    /// Why.
    pub reason: String,
}

impl Block {
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Some(since) = row.get("blocked_at_ms")? else { return Ok(None) };
        let (actor, reason) = (row.get("blocked_by")?, row.get("block_reason")?);
        Ok(Some(Self { since: UnixMillis(since), actor, reason }))
    }
}

impl Successor {
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Some(device) = row.get("successor")? else { return Ok(None) };
        Ok(Some(Self {
            device,
            how: row.get("successor_how")?,
            since: UnixMillis(row.get("successor_at_ms")?),
            actor: row.get("successor_by")?,
            reason: row.get("successor_reason")?,
        }))
    }
}

pub(super) fn written_off(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &LicenseWrittenOff,
) -> rusqlite::Result<()> {
    let license_id = e.license_id.0.as_bytes();
    db.prepare_cached(
        "UPDATE licenses SET written_off_at_ms = ?2, written_off_by = ?3, write_off_reason = ?4,
           frees_at_ms = ?5, written_off_sequence = ?6,
           ended_sequence = CASE WHEN open AND ?5 IS NULL THEN ?6 ELSE ended_sequence END,
           open = open AND ?5 IS NOT NULL
         WHERE license_id = ?1",
    )?
    .execute(params![license_id, e.at_ms, e.actor, e.reason, e.frees_at_ms, sequence])?;
    count(db, COUNT_WRITTEN_OFF, device, e.at_ms)
}

pub(super) fn blocked(db: &Transaction<'_>, device: &str, e: &DeviceBlock) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE devices SET blocked_at_ms = ?2, blocked_by = ?3, block_reason = ?4,
           last_event_at_ms = ?2 WHERE device = ?1",
    )?
    .execute(params![device, e.at_ms, e.actor, e.reason])
    .map(drop)
}

/// Ends a block, and the replacement of a device that kept its own stream.
pub(super) fn unblocked(
    db: &Transaction<'_>,
    device: &str,
    e: &DeviceBlock,
) -> rusqlite::Result<()> {
    count(db, UNBLOCKED, device, e.at_ms)
}

pub(super) fn merged(db: &Transaction<'_>, device: &str, e: &DeviceMerged) -> rusqlite::Result<()> {
    let (actor, reason) = (&e.actor, &e.reason);
    db.prepare_cached(SUCCEEDED)?
        .execute(params![device, e.at_ms, e.into.to_string(), "merged", actor, reason])
        .map(drop)
}

pub(super) fn replaced(
    db: &Transaction<'_>,
    device: &str,
    e: &DeviceReplaced,
) -> rusqlite::Result<()> {
    let how = match e.licenses {
        Replaced::Moved => "moved",
        Replaced::WrittenOff => "written_off",
    };
    let (actor, reason) = (&e.actor, &e.reason);
    db.prepare_cached(SUCCEEDED)?
        .execute(params![device, e.at_ms, e.by.to_string(), how, actor, reason])
        .map(drop)
}

/// What the other device has, or may still have, is this one's, and so are its identities; and its
/// limits, for rules of which this one has none.
pub(super) fn took_over(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &DeviceTookOver,
) -> rusqlite::Result<()> {
    const HAS: [&str; 3] = [
        "UPDATE identities SET device = ?1 WHERE device = ?2",
        "UPDATE reserved SET device = ?1 WHERE device = ?2",
        // A limit that is set for this one, and has not ended, stays.
        "UPDATE OR IGNORE overrides SET holder = ?1 WHERE kind = 'device' AND holder = ?2",
    ];
    db.prepare_cached(
        "DELETE FROM overrides WHERE kind = 'device' AND holder = ?1 AND until_ms <= ?2",
    )?
    .execute(params![device, e.at_ms])?;
    let from = e.from.to_string();
    for sql in HAS {
        db.prepare_cached(sql)?.execute(params![device, from])?;
    }
    // Each with an index of its own: what the other device had long ago is not looked at.
    for held in ["open = 1", WEAKLY_DELETED, VOIDED, WRITTEN_OFF] {
        let moved = format!("FROM licenses WHERE device = ?1 AND {held}");
        db.prepare_cached(&format!("INSERT INTO license_events SELECT license_id, ?2 {moved}"))?
            .execute(params![from, sequence])?;
        db.prepare_cached(&format!(
            "UPDATE licenses SET device = ?3, moved_from = ?1, moved_sequence = ?2
             WHERE device = ?1 AND {held}"
        ))?
        .execute(params![from, sequence, device])?;
    }
    db.prepare_cached("DELETE FROM overrides WHERE kind = 'device' AND holder = ?1")?
        .execute([from])?;
    db.prepare_cached("UPDATE devices SET last_event_at_ms = ?2 WHERE device = ?1")?
        .execute(params![device, e.at_ms])
        .map(drop)
}

/// The newest licenses written off that the device may still hold.
pub(super) fn written_off_licenses(
    db: &Connection,
    device: &str,
    now: UnixMillis,
) -> rusqlite::Result<Vec<WrittenOffLicense>> {
    newest_released(db, device, now, (WRITTEN_OFF, "written_off_at_ms"), |row| {
        Ok(WrittenOffLicense {
            license_id: uuid(row, "license_id")?,
            key_id: uuid(row, "key_id")?,
            actor: row.get("written_off_by")?,
            reason: row.get("write_off_reason")?,
            acquired_at: UnixMillis(row.get("acquired_at_ms")?),
            written_off_at: UnixMillis(row.get("written_off_at_ms")?),
            frees_at: row.get::<_, Option<i64>>("frees_at_ms")?.map(UnixMillis),
        })
    })
}

const COUNT_WRITTEN_OFF: &str =
    "UPDATE devices SET written_off = written_off + 1, last_event_at_ms = ?2 WHERE device = ?1";
const UNBLOCKED: &str = "UPDATE devices SET blocked_at_ms = NULL, blocked_by = NULL,
    block_reason = NULL, successor = NULL, successor_how = NULL, successor_at_ms = NULL,
    successor_by = NULL, successor_reason = NULL, last_event_at_ms = ?2 WHERE device = ?1";
const SUCCEEDED: &str = "UPDATE devices SET successor = ?3, successor_how = ?4,
    successor_at_ms = ?2, successor_by = ?5, successor_reason = ?6, last_event_at_ms = ?2
    WHERE device = ?1";
