//! Events into rows.

use std::sync::Arc;

use rusqlite::{Connection, Transaction, params};

use super::acts;
use super::elsewhere;
use super::query::{LEAF, ROOT};
use super::{accounts, life, reserved, support};
use crate::domain::event::{Chain, Grade, LicenseAcquired, LicenseVoided};
use crate::domain::{Event, LicenseId};
use crate::ledger::state::store::DEVICE_STREAM;
use crate::ledger::tail::{Apply, Fact};

/// Applies events to the inventory's tables.
pub(super) struct Builder {
    pub(super) file: Connection,
}

impl Apply for Builder {
    fn apply(
        &mut self,
        batch: &[Arc<Fact>],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(last) = batch.last() else { return Ok(()) };
        let transaction = self.file.transaction()?;
        for fact in batch {
            apply(&transaction, fact)?;
        }
        transaction.execute(
            "UPDATE checkpoint SET next_sequence = ?1, last_event_id = ?2",
            params![last.recorded.sequence + 1, last.recorded.id.as_bytes()],
        )?;
        transaction.commit()?;
        Ok(())
    }
}

fn apply(db: &Transaction<'_>, fact: &Fact) -> rusqlite::Result<()> {
    let stream = fact.recorded.stream.as_str();
    let device = stream.strip_prefix(DEVICE_STREAM).unwrap_or_default();
    let sequence = fact.recorded.sequence;
    if !device.is_empty() {
        acts::happened(db, device, sequence, &fact.event)?;
    }
    match &fact.event {
        Event::DeviceEnrolled(e) => db
            .prepare_cached(
                "INSERT INTO devices (device, enrolled_at_ms, enrolled_sequence, security_level,
                   model, last_event_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?2)
                 ON CONFLICT (device) DO UPDATE SET security_level = ?4, model = ?5",
            )?
            .execute(params![device, e.at_ms, sequence, e.security_level, e.model])
            .map(drop),
        // Where an operator links an identity, it stands in the streams of devices as well.
        Event::IdentityLinked(e) => db
            .prepare_cached("INSERT OR REPLACE INTO identities VALUES (?1, ?2)")?
            .execute(params![e.identity.to_string(), e.device.to_string()])
            .map(drop),
        Event::LicenseAcquired(e) => acquired(db, device, sequence, e),
        Event::LicenseRecorded(e) => elsewhere::recorded(db, device, sequence, e),
        Event::LicenseStored(e) => {
            storing(db, e.license_id, true, (sequence, e.at_ms))?;
            life::happened(db, e.license_id, sequence)
        }
        Event::LicenseStoreFailed(e) => {
            storing(db, e.license_id, false, (sequence, e.at_ms))?;
            life::happened(db, e.license_id, sequence)
        }
        Event::StorageRecorded(e) => {
            storing(db, e.license_id, e.stored, (sequence, e.at_ms))?;
            life::happened(db, e.license_id, sequence)
        }
        Event::DeletionRecorded(e) => {
            deleted(db, device, (e.license_id, e.grade, e.releases), (sequence, e.at_ms))?;
            life::happened(db, e.license_id, sequence)
        }
        Event::LicenseDeleted(e) => {
            deleted(db, device, (e.license_id, e.grade, e.releases), (sequence, e.at_ms))?;
            life::happened(db, e.license_id, sequence)
        }
        Event::LicenseVoided(e) => {
            voided(db, device, sequence, e)?;
            life::happened(db, e.license_id, sequence)
        }
        Event::LicenseWrittenOff(e) => {
            support::written_off(db, device, sequence, e)?;
            life::happened(db, e.license_id, sequence)
        }
        Event::DeviceBlocked(e) => support::blocked(db, device, e),
        Event::DeviceUnblocked(e) => support::unblocked(db, device, e),
        Event::DeviceMerged(e) => support::merged(db, device, e),
        Event::DeviceReplaced(e) => support::replaced(db, device, e),
        Event::DeviceTookOver(e) => support::took_over(db, device, sequence, e),
        Event::AcquisitionRefused(e) => {
            life::refused(db, device, sequence, &e.into())?;
            count(db, REFUSED, device, e.at_ms)
        }
        Event::DecisionRefused(e) => {
            reserved::refused(db, device, sequence, e)?;
            count(db, REFUSED, device, e.at_ms)
        }
        Event::SlotTaken(e) => {
            accounts::slot_taken(db, (stream, sequence), &e.device, e.reserved, e.at_ms)
        }
        Event::SlotsMoved(e) => accounts::slots_moved(db, (stream, sequence), e),
        Event::QuotaOverrideSet(e) => accounts::limit_set(db, stream, sequence, e),
        Event::ReservationMade(e) => reserved::made(db, device, sequence, e),
        Event::ReservationClosed(e) => reserved::closed(db, e),
        Event::DeletionUnmatched(_)
        | Event::EvidenceKept(_)
        | Event::TokenSpent(_)
        | Event::QuotaPolicyPublished(_)
        | Event::SlotConfirmed(_)
        | Event::SlotReleased(_)
        | Event::ReportKept(_)
        | Event::RequestAnswered(_)
        | Event::ContentKeyRegistered(_)
        | Event::KeySeedRegistered(_)
        | Event::ContentKeyBound(_)
        | Event::ContentKeyTyped(_)
        | Event::MasterKeyRotated(_)
        | Event::KeysPinned(_)
        | Event::RevocationListsTaken(_)
        | Event::ApiKeyCreated(_)
        | Event::ApiKeyRevoked(_)
        | Event::WebhookChanged(_) => Ok(()),
    }
}

fn acquired(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &LicenseAcquired,
) -> rusqlite::Result<()> {
    if let Some(account) = &e.account {
        accounts::named(db, &account.to_string(), e.at_ms, sequence)?;
    }
    if !e.persistent.effective {
        return count(db, ACQUIRED_NON_PERSISTENT, device, e.at_ms);
    }
    let (chain_part, root_key_id) = match &e.chain {
        None => (None, None),
        Some(Chain::Root) => (Some(ROOT), None),
        Some(Chain::Leaf { root_key_id, .. }) => (Some(LEAF), Some(root_key_id.0.as_bytes())),
    };
    db.prepare_cached(
        "INSERT INTO licenses (sequence, license_id, device, identity, key_id, session,
           session_explicit, transaction_id, acquired_at_ms, counted_until_ms, security_level,
           chain_part, root_key_id, account, title, content_group, drm_system, overage)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
        sequence,
        e.license_id.0.as_bytes(),
        device,
        e.identity.to_string(),
        e.key_id.0.as_bytes(),
        e.session.to_string(),
        e.session_explicit,
        e.transaction_id.map(|id| *id.0.as_bytes()),
        e.at_ms,
        e.counted_until_ms,
        e.security_level,
        chain_part,
        root_key_id,
        e.account.as_ref().map(ToString::to_string),
        e.title,
        e.content_group,
        e.drm_system,
        e.overage,
    ])?;
    count(db, ACQUIRED_PERSISTENT, device, e.at_ms)
}

fn storing(
    db: &Transaction<'_>,
    license_id: LicenseId,
    stored: bool,
    (sequence, at_ms): (u64, i64),
) -> rusqlite::Result<()> {
    let change = match stored {
        true => "UPDATE licenses SET stored_at_ms = ?2, stored_sequence = ?3 WHERE license_id = ?1",
        false => {
            "UPDATE licenses SET store_failed_at_ms = ?2, store_failed_sequence = ?3
             WHERE license_id = ?1"
        }
    };
    db.prepare_cached(change)?.execute(params![license_id.0.as_bytes(), at_ms, sequence]).map(drop)
}

fn deleted(
    db: &Transaction<'_>,
    device: &str,
    (license_id, grade, releases): (LicenseId, Grade, bool),
    (sequence, at_ms): (u64, i64),
) -> rusqlite::Result<()> {
    let license_id = license_id.0.as_bytes();
    db.prepare_cached(DELETED)?.execute(params![device, at_ms, license_id])?;
    db.prepare_cached(
        "UPDATE licenses SET deleted_at_ms = ?2, deletion_grade = ?3, deleted_sequence = ?5,
           ended_sequence = CASE WHEN open AND NOT ?4 THEN ?5 ELSE ended_sequence END,
           open = open AND ?4
         WHERE license_id = ?1",
    )?
    .execute(params![license_id, at_ms, grade.letter(), !releases, sequence])
    .map(drop)
}

fn voided(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &LicenseVoided,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE licenses SET voided_at_ms = ?2, void_reason = ?3, voided_sequence = ?4,
           ended_sequence = CASE WHEN open THEN ?4 ELSE ended_sequence END, open = 0
         WHERE license_id = ?1",
    )?
    .execute(params![e.license_id.0.as_bytes(), e.at_ms, e.reason.word(), sequence])?;
    count(db, VOIDED, device, e.at_ms)
}

pub(super) fn count(
    db: &Transaction<'_>,
    sql: &str,
    device: &str,
    at_ms: i64,
) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute(params![device, at_ms]).map(drop)
}

pub(super) const ACQUIRED_PERSISTENT: &str = "UPDATE devices
    SET persistent_acquired = persistent_acquired + 1, last_event_at_ms = ?2 WHERE device = ?1";
pub(super) const ACQUIRED_NON_PERSISTENT: &str = "UPDATE devices
    SET non_persistent_acquired = non_persistent_acquired + 1, last_event_at_ms = ?2
    WHERE device = ?1";
// Each license once, however often its deletion is said.
const DELETED: &str = "UPDATE devices SET last_event_at_ms = ?2, deleted = deleted +
    COALESCE((SELECT deleted_at_ms IS NULL FROM licenses WHERE license_id = ?3), 1)
    WHERE device = ?1";
const VOIDED: &str =
    "UPDATE devices SET voided = voided + 1, last_event_at_ms = ?2 WHERE device = ?1";
const REFUSED: &str =
    "UPDATE devices SET refused = refused + 1, last_event_at_ms = ?2 WHERE device = ?1";
