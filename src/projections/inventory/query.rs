//! Rows into answers.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::acts::{self, DeviceAct};
use super::reserved::{self, HeldReservation};
use super::support::{Block, Successor, WrittenOffLicense, written_off_licenses};
use super::voided::{VoidedLicense, voided_licenses};
use super::{Inventory, InventoryError, next_sequence};
use crate::clock::UnixMillis;
use crate::domain::{DeviceRef, Identity};

/// A device at a glance.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "device": "beb4pw6chv22zwww44tn5zxsb4",
    "identities": ["9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f"],
    "enrolled_at": "2026-11-22T17:35:47.159Z", "security_level": 3000, "model": "Lab tv 1",
    "last_event_at": "2026-11-22T17:35:47.159Z", "persistent_acquired": 1,
    "non_persistent_acquired": 0, "refused": 0, "deleted": 0, "voided": 0, "written_off": 0,
}))]
pub struct DeviceSummary {
    /// The device's reference.
    #[schema(pattern = "^[a-z2-7]{26}$", example = "beb4pw6chv22zwww44tn5zxsb4")]
    pub device: String,
    /// Certificates that belong to it: SHA-256 of their SIGN keys.
    #[schema(example = json!(["9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f"]))]
    pub identities: Vec<String>,
    /// First seen.
    pub enrolled_at: UnixMillis,
    /// Security level of the certificate it was first seen with, or else as other systems report it;
    /// `None` if they do not say.
    #[schema(example = 3000)]
    pub security_level: Option<u32>,
    /// Maker, model name and number, from the same; empty if they are not known.
    #[schema(example = "Lab tv 1")]
    pub model: String,
    /// When its last acquisition, refusal, deletion or voiding was recorded.
    pub last_event_at: UnixMillis,
    /// Persistent licenses it acquired, ever.
    pub persistent_acquired: u64,
    /// Non-persistent licenses it acquired, ever.
    pub non_persistent_acquired: u64,
    /// Refusals recorded; repeats within an hour are not.
    pub refused: u64,
    /// Licenses it deleted, ever.
    pub deleted: u64,
    /// Licenses that a rule voided, ever.
    pub voided: u64,
    /// Licenses that operators wrote off, ever.
    pub written_off: u64,
    /// Since when, by whom and why it gets no licenses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Block>,
    /// The device that goes on in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub successor: Option<Successor>,
    #[serde(skip)]
    enrolled_sequence: u64,
}

/// A page of devices, oldest first.
#[derive(Clone, Debug)]
pub struct DevicePage {
    /// The devices.
    pub devices: Vec<DeviceSummary>,
    /// Where the next page begins, if there is one.
    pub next: Option<u64>,
    /// Sequence of the next event the inventory will apply: all before it is in the answer.
    pub next_sequence: u64,
}

/// What is known of a license. Whether it has expired is another matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LicenseStatus {
    /// Issued; the device has not said whether it stored it.
    Issued,
    /// The device acknowledged that it stored it.
    Stored,
    /// The device said that it could not store it. Still counted: it could say so and keep it.
    StoreFailed,
    /// The device signed that it deleted it, and the evidence was too weak to release it.
    DeletedUnreleased,
    /// An operator wrote it off, and it counts until its slot is given to others.
    WrittenOff,
    /// The device signed that it deleted it, and that released it.
    Deleted,
    /// A rule of the quota policy voided it.
    Voided,
}

/// What a license is in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum ChainPart {
    /// Leaves open only with it.
    Root,
    /// It plays only while the device has a license for its root. It counts all the same when that
    /// is gone: the root can be renewed.
    Leaf {
        /// The root's KID.
        root_key_id: Uuid,
    },
}

/// A live license.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HeldLicense {
    /// The license.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// What is known of it.
    pub status: LicenseStatus,
    /// The system that issued it: `playready` is this service, unless `license_reference` is there.
    #[schema(example = "playready")]
    pub drm_system: String,
    /// How the system that issued it names it; only if it was not this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_reference: Option<String>,
    /// Who acquired it: SHA-256 of the SIGN key of its certificate; `None` if another system issued
    /// it.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub identity: Option<String>,
    /// The secure-delete session that ends it, base64; `None` if another system issued it.
    #[schema(content_encoding = "base64", example = "nePNE/GKzeFpc1WBiSUU6Q==")]
    pub session: Option<String>,
    /// Whether the device named the session itself.
    pub session_explicit: bool,
    /// Whether it is beyond a limit.
    pub overage: bool,
    /// Grade of the evidence by which it was deleted, if that was too weak to end it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grade: Option<String>,
    /// What its acknowledgement names.
    pub transaction_id: Option<Uuid>,
    /// What it is in a chain; `None` if it stands alone.
    pub chain: Option<ChainPart>,
    /// When it was granted.
    pub acquired_at: UnixMillis,
    /// When it stops counting by itself; of one that was written off, when its slot is given to
    /// others.
    pub counted_until: Option<UnixMillis>,
    /// Reference of the account that it was acquired for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The title, as the service names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The content group, as the service names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_group: Option<String>,
    /// Sequence of its acquisition.
    pub sequence: u64,
}

/// What a device holds, at one position of the ledger and one moment.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "device": "beb4pw6chv22zwww44tn5zxsb4", "confirmed": 1, "live": 1, "reserved": 0, "possible": 1,
    "licenses": [{"license_id": "80526930-b94e-b14e-a091-7ea949ede441",
        "key_id": "01234567-89ab-cdef-0123-456789abcdef", "status": "stored",
        "drm_system": "playready",
        "identity": "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f",
        "session": "nePNE/GKzeFpc1WBiSUU6Q==", "session_explicit": false, "overage": false,
        "transaction_id": "305e7c7e-a73b-50c9-73fd-91de7d7188cf", "chain": null,
        "acquired_at": "2026-11-22T17:35:47.159Z", "counted_until": null,
        "account": "g66plkzqupa3jstpsakablihiy", "title": "movie-7", "sequence": 4}],
    "reservations": [], "voided": 0, "voided_licenses": [], "written_off": 0,
    "written_off_licenses": [], "acts": [], "as_of": "2026-11-22T17:35:49.235Z",
}))]
pub struct DeviceInventory {
    /// The device's reference.
    #[schema(pattern = "^[a-z2-7]{26}$", example = "beb4pw6chv22zwww44tn5zxsb4")]
    pub device: String,
    /// KIDs of which the device confirmed that it stored a license.
    pub confirmed: usize,
    /// KIDs with a live license: quotas count these, and those of `reserved`.
    pub live: usize,
    /// KIDs without a live license for which a reservation holds room.
    pub reserved: usize,
    /// KIDs it may still hold: the live ones, and those released on weak evidence (grade C to E),
    /// voided or written off.
    pub possible: usize,
    /// The live licenses, oldest first.
    pub licenses: Vec<HeldLicense>,
    /// The reservations, oldest first.
    pub reservations: Vec<HeldReservation>,
    /// How many licenses it may still hold although a rule voided them.
    pub voided: usize,
    /// The newest 100 of them, the latest first.
    pub voided_licenses: Vec<VoidedLicense>,
    /// How many licenses it may still hold although an operator wrote them off.
    pub written_off: usize,
    /// The newest 100 of them, the latest first.
    pub written_off_licenses: Vec<WrittenOffLicense>,
    /// What operators did about the device, and why: the newest 100 acts, the latest first.
    pub acts: Vec<DeviceAct>,
    /// The moment that decided what has expired.
    pub as_of: UnixMillis,
    /// Sequence of the next event the inventory will apply.
    #[serde(skip)]
    pub next_sequence: u64,
}

impl Inventory {
    /// The device that is called `name`: its reference, or an identity that belongs to it.
    pub fn resolve(&self, name: &str) -> Result<Option<DeviceRef>, InventoryError> {
        let (sql, name) = match (name.parse::<DeviceRef>(), name.parse::<Identity>()) {
            (Ok(device), _) => ("SELECT device FROM devices WHERE device = ?1", device.to_string()),
            (_, Ok(identity)) => {
                ("SELECT device FROM identities WHERE identity = ?1", identity.to_string())
            }
            _ => return Ok(None),
        };
        let device = self.read(|db| {
            let mut query = db.prepare_cached(sql)?;
            query.query_row([name], |row| row.get::<_, String>(0)).optional()
        })?;
        Ok(device.and_then(|device| device.parse().ok()))
    }

    /// Devices in the order they were first seen, from `from` (a page's `next`) on, as long as they
    /// were first seen before the event `before`.
    pub fn devices(
        &self,
        from: u64,
        before: u64,
        limit: usize,
    ) -> Result<DevicePage, InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT * FROM devices WHERE enrolled_sequence >= ?1 AND enrolled_sequence < ?2
                 ORDER BY enrolled_sequence LIMIT ?3",
            )?;
            let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
            let [from, before] = [from, before].map(|at| i64::try_from(at).unwrap_or(i64::MAX));
            let rows = query.query_map(params![from, before, most], summary)?;
            let mut devices = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let next = devices.get(limit).map(|device| device.enrolled_sequence);
            devices.truncate(limit);
            for device in &mut devices {
                device.identities = identities(db, &device.device)?;
            }
            Ok(DevicePage { devices, next, next_sequence: next_sequence(db)? })
        })
    }

    /// One device, and the sequence from which on events are not in the answer.
    pub fn device(
        &self,
        device: &DeviceRef,
    ) -> Result<Option<(DeviceSummary, u64)>, InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached("SELECT * FROM devices WHERE device = ?1")?;
            let found = query.query_row([device.to_string()], summary).optional()?;
            let Some(mut found) = found else { return Ok(None) };
            found.identities = identities(db, &found.device)?;
            Ok(Some((found, next_sequence(db)?)))
        })
    }

    /// The device that goes on for one that was given up for another; else itself.
    pub fn goes_on_as(&self, device: &DeviceRef) -> Result<DeviceRef, InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT successor FROM devices
                 WHERE device = ?1 AND successor_how IN ('merged', 'moved')",
            )?;
            let mut name = device.to_string();
            let mut next =
                |name: &str| query.query_row([name], |row| row.get::<_, String>(0)).optional();
            while let Some(other) = next(&name)? {
                name = other;
            }
            Ok(name)
        })
        .map(|name| name.parse().unwrap_or_else(|_| device.clone()))
    }

    /// What a device holds at `now`; `None` if it was never seen.
    pub fn inventory(
        &self,
        device: &DeviceRef,
        now: UnixMillis,
    ) -> Result<Option<DeviceInventory>, InventoryError> {
        self.read(|db| {
            let name = device.to_string();
            let known = "SELECT 1 FROM devices WHERE device = ?1";
            if db.query_row(known, [&name], |_| Ok(())).optional()?.is_none() {
                return Ok(None);
            }
            let counts = counts("licenses", "?2");
            let mut query = db.prepare_cached(&format!(
                "SELECT * FROM licenses WHERE device = ?1 AND {counts} ORDER BY sequence"
            ))?;
            let licenses = query.query_map(params![name, now.0], |row| held(row, Cut::END))?;
            let licenses = licenses.collect::<rusqlite::Result<Vec<_>>>()?;
            let stored = licenses.iter().filter(|l| l.status == LicenseStatus::Stored);
            let confirmed = distinct(stored.map(|license| license.key_id));
            let live = distinct(licenses.iter().map(|license| license.key_id));
            let reservations = reserved::on_device(db, &name, now)?;
            let counted = licenses.iter().map(|license| license.key_id);
            let counted =
                counted.chain(reservations.iter().flat_map(|r| r.key_ids.iter().copied()));
            let reserved = distinct(counted) - live;
            let weak = may_hold(db, &name, now, WEAKLY_DELETED)?;
            let voided = may_hold(db, &name, now, VOIDED)?;
            let voided_licenses = voided_licenses(db, &name, now)?;
            let written_off = may_hold(db, &name, now, WRITTEN_OFF)?;
            let written_off_licenses = written_off_licenses(db, &name, now)?;
            let held = licenses.iter().map(|license| license.key_id);
            let given_up = voided.iter().chain(&written_off).copied();
            let acts = acts::of_device(db, &name)?;
            let possible = distinct(held.chain(weak).chain(given_up));
            Ok(Some(DeviceInventory {
                device: name,
                confirmed,
                live,
                reserved,
                possible,
                licenses,
                reservations,
                voided: voided.len(),
                voided_licenses,
                written_off: written_off.len(),
                written_off_licenses,
                acts,
                as_of: now,
                next_sequence: next_sequence(db)?,
            }))
        })
    }
}

/// Licenses of one kind that were released, or acts, as many as an inventory shows.
pub(super) const SHOWN_MAX: u32 = 100;

/// Why a device may still hold licenses that were released, as conditions on their rows.
pub(super) const WEAKLY_DELETED: &str = "open = 0 AND deletion_grade IN ('C', 'D', 'E')";
pub(super) const VOIDED: &str = "voided_at_ms IS NOT NULL AND deleted_at_ms IS NULL";
pub(super) const WRITTEN_OFF: &str = "written_off_at_ms IS NOT NULL AND deleted_at_ms IS NULL";

/// KIDs of the licenses that the device may still hold although they were released, one for each
/// license.
fn may_hold(
    db: &Connection,
    device: &str,
    now: UnixMillis,
    released: &str,
) -> rusqlite::Result<Vec<Uuid>> {
    let mut query = db.prepare_cached(&format!(
        "SELECT key_id FROM licenses WHERE device = ?1 AND {released}
           AND (counted_until_ms IS NULL OR counted_until_ms > ?2)"
    ))?;
    query.query_map(params![device, now.0], |row| uuid(row, "key_id"))?.collect()
}

/// The newest rows of those licenses, the last released first by the time in column `since`.
pub(super) fn newest_released<T>(
    db: &Connection,
    device: &str,
    now: UnixMillis,
    (released, since): (&str, &str),
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut query = db.prepare_cached(&format!(
        "SELECT * FROM licenses WHERE device = ?1 AND {released}
           AND (counted_until_ms IS NULL OR counted_until_ms > ?2)
         ORDER BY {since} DESC, sequence DESC LIMIT ?3"
    ))?;
    query.query_map(params![device, now.0, SHOWN_MAX], read)?.collect()
}

fn distinct(key_ids: impl Iterator<Item = Uuid>) -> usize {
    key_ids.collect::<std::collections::HashSet<_>>().len()
}

fn identities(db: &Connection, device: &str) -> rusqlite::Result<Vec<String>> {
    let mut query = db.prepare_cached("SELECT identity FROM identities WHERE device = ?1")?;
    query.query_map([device], |row| row.get(0))?.collect()
}

fn summary(row: &Row<'_>) -> rusqlite::Result<DeviceSummary> {
    Ok(DeviceSummary {
        device: row.get("device")?,
        identities: Vec::new(),
        enrolled_at: UnixMillis(row.get("enrolled_at_ms")?),
        security_level: security_level(row)?,
        model: row.get("model")?,
        last_event_at: UnixMillis(row.get("last_event_at_ms")?),
        persistent_acquired: row.get("persistent_acquired")?,
        non_persistent_acquired: row.get("non_persistent_acquired")?,
        refused: row.get("refused")?,
        deleted: row.get("deleted")?,
        voided: row.get("voided")?,
        written_off: row.get("written_off")?,
        blocked: Block::of(row)?,
        successor: Successor::of(row)?,
        enrolled_sequence: row.get("enrolled_sequence")?,
    })
}

/// A device's security level; `None` if nobody said it.
pub(super) fn security_level(row: &Row<'_>) -> rusqlite::Result<Option<u32>> {
    let level: Option<i64> = row.get("security_level")?;
    Ok(level.and_then(|level| u32::try_from(level).ok()))
}

/// The place of the ledger that rows are read as of: what an event from there on says is left out.
#[derive(Clone, Copy)]
pub(super) struct Cut(u64);

impl Cut {
    /// Behind all events.
    pub(super) const END: Self = Self(u64::MAX);

    pub(super) fn before(sequence: u64) -> Self {
        Self(sequence)
    }

    /// Whether the event that a column names is behind the cut.
    pub(super) fn is_before(self, row: &Row<'_>, column: &str) -> rusqlite::Result<bool> {
        Ok(row.get::<_, Option<u64>>(column)?.is_some_and(|sequence| sequence >= self.0))
    }

    /// When something became known of a license.
    pub(super) fn at(self, row: &Row<'_>, what: &str) -> rusqlite::Result<Option<UnixMillis>> {
        let later = self.is_before(row, &format!("{what}_sequence"))?;
        let at: Option<i64> = row.get(format!("{what}_at_ms").as_str())?;
        Ok(at.filter(|_| !later).map(UnixMillis))
    }
}

pub(super) fn held(row: &Row<'_>, cut: Cut) -> rusqlite::Result<HeldLicense> {
    let known = |what| cut.at(row, what).map(|at| at.is_some());
    let deleted = known("deleted")?;
    let status = if known("voided")? {
        LicenseStatus::Voided
    } else if deleted {
        match row.get("open")? || cut.is_before(row, "ended_sequence")? {
            true => LicenseStatus::DeletedUnreleased,
            false => LicenseStatus::Deleted,
        }
    } else if known("written_off")? {
        LicenseStatus::WrittenOff
    } else if known("stored")? {
        LicenseStatus::Stored
    } else if known("store_failed")? {
        LicenseStatus::StoreFailed
    } else {
        LicenseStatus::Issued
    };
    let deletion_grade: Option<String> = row.get("deletion_grade")?;
    Ok(HeldLicense {
        license_id: uuid(row, "license_id")?,
        key_id: uuid(row, "key_id")?,
        status,
        drm_system: row.get("drm_system")?,
        license_reference: row.get("license_reference")?,
        identity: given(row, "identity")?,
        session: given(row, "session")?,
        overage: row.get("overage")?,
        deletion_grade: deletion_grade.filter(|_| deleted),
        session_explicit: row.get("session_explicit")?,
        transaction_id: row.get::<_, Option<[u8; 16]>>("transaction_id")?.map(Uuid::from_bytes),
        chain: chain(row)?,
        acquired_at: UnixMillis(row.get("acquired_at_ms")?),
        counted_until: counted_until(row, cut)?,
        account: row.get("account")?,
        title: row.get("title")?,
        content_group: row.get("content_group")?,
        sequence: row.get("sequence")?,
    })
}

/// A text, unless it is empty.
fn given(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<String>> {
    row.get::<_, String>(column).map(|text| (!text.is_empty()).then_some(text))
}

/// When the license stops counting by itself: when it ends, or a write-off frees it.
fn counted_until(row: &Row<'_>, cut: Cut) -> rusqlite::Result<Option<UnixMillis>> {
    let ends: Option<i64> = row.get("counted_until_ms")?;
    let frees: Option<i64> = row.get("frees_at_ms")?;
    let written_off_later = cut.is_before(row, "written_off_sequence")?;
    let frees = frees.filter(|_| !written_off_later);
    Ok(ends.into_iter().chain(frees).min().map(UnixMillis))
}

/// SQL by which licenses, called `of` in a query, count at the time that `now` stands for.
pub(super) fn counts(of: &str, now: &str) -> String {
    format!(
        "{of}.open = 1 AND ({of}.counted_until_ms IS NULL OR {of}.counted_until_ms > {now})
           AND ({of}.frees_at_ms IS NULL OR {of}.frees_at_ms > {now})"
    )
}

/// How the table names the parts of a chain.
pub(super) const ROOT: &str = "root";
pub(super) const LEAF: &str = "leaf";

fn chain(row: &Row<'_>) -> rusqlite::Result<Option<ChainPart>> {
    match row.get::<_, Option<String>>("chain_part")?.as_deref() {
        Some(LEAF) => Ok(Some(ChainPart::Leaf { root_key_id: uuid(row, "root_key_id")? })),
        part => Ok((part == Some(ROOT)).then_some(ChainPart::Root)),
    }
}

pub(super) fn uuid(row: &Row<'_>, column: &str) -> rusqlite::Result<Uuid> {
    row.get::<_, [u8; 16]>(column).map(Uuid::from_bytes)
}
