//! What back ends say of devices and of licenses that they issued, as rows.

use rusqlite::{Transaction, params};

use super::apply::{ACQUIRED_NON_PERSISTENT, ACQUIRED_PERSISTENT, count};
use crate::domain::event::LicenseRecorded;

/// Stands for a security level that nobody said.
const LEVEL_UNKNOWN: i64 = -1;

/// What a back end says of a device.
pub(super) struct Seen<'a> {
    pub(super) device: &'a str,
    /// Sequence of the event.
    pub(super) sequence: u64,
    pub(super) security_level: Option<u32>,
    pub(super) model: &'a str,
    pub(super) at_ms: i64,
}

/// Takes note of a device, if it is new.
pub(super) fn seen(db: &Transaction<'_>, seen: Seen<'_>) -> rusqlite::Result<()> {
    let level = seen.security_level.map_or(LEVEL_UNKNOWN, i64::from);
    db.prepare_cached(
        "INSERT INTO devices (device, enrolled_at_ms, enrolled_sequence, security_level, model,
           last_event_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?2) ON CONFLICT (device) DO NOTHING",
    )?
    .execute(params![seen.device, seen.at_ms, seen.sequence, level, seen.model])
    .map(drop)
}

/// Applies a license that was issued elsewhere, which may be the first thing said of its device.
pub(super) fn recorded(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &LicenseRecorded,
) -> rusqlite::Result<()> {
    let (security_level, model) = (e.security_level, e.model.as_str());
    seen(db, Seen { device, sequence, security_level, model, at_ms: e.at_ms })?;
    if !e.persistent {
        return count(db, ACQUIRED_NON_PERSISTENT, device, e.at_ms);
    }
    db.prepare_cached(
        "INSERT INTO licenses (sequence, license_id, device, identity, key_id, session,
           session_explicit, acquired_at_ms, counted_until_ms, security_level, account, title,
           content_group, drm_system, license_reference, overage)
         VALUES (?1, ?2, ?3, '', ?4, '', 0, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        sequence,
        e.license_id.0.as_bytes(),
        device,
        e.key_id.0.as_bytes(),
        e.at_ms,
        e.counted_until_ms,
        e.security_level.unwrap_or_default(),
        e.account.as_ref().map(ToString::to_string),
        e.title,
        e.content_group,
        e.drm_system,
        e.license_reference,
        e.overage,
    ])?;
    count(db, ACQUIRED_PERSISTENT, device, e.at_ms)
}
