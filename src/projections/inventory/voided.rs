//! Licenses that a rule voided, and those that one may void.

use rusqlite::{Connection, params};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::query::{VOIDED, newest_released, uuid};
use super::{Inventory, InventoryError};
use crate::clock::UnixMillis;
use crate::domain::DeviceRef;

/// A license that no longer counts because the device did not store it, as far as is known.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct VoidedLicense {
    /// The license.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// `store_failed`: the device said so. `unconfirmed`: it did not confirm it in time.
    #[schema(example = "store_failed")]
    pub reason: String,
    /// When it was granted.
    pub acquired_at: UnixMillis,
    /// When it was voided.
    pub voided_at: UnixMillis,
}

/// A license whose device has not said that it stored it.
#[derive(Clone, Debug)]
pub struct Unconfirmed {
    /// The device.
    pub device: DeviceRef,
    /// Security level of the certificate that it was acquired with.
    pub security_level: u32,
    /// When it stops counting by itself.
    pub counted_until: Option<UnixMillis>,
    /// Its place in the order of such licenses: when it was acquired, and the event's sequence.
    pub place: (i64, u64),
}

impl Inventory {
    /// Licenses that no device has confirmed and no event has ended, in the order they were acquired:
    /// at most `limit` after the place `after` that were acquired by `until`.
    pub fn unconfirmed(
        &self,
        after: (i64, u64),
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<Unconfirmed>, InventoryError> {
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT device, security_level, counted_until_ms, acquired_at_ms, sequence
                 FROM licenses
                 WHERE open = 1 AND stored_at_ms IS NULL
                   AND (acquired_at_ms, sequence) > (?1, ?2) AND acquired_at_ms <= ?3
                 ORDER BY acquired_at_ms, sequence LIMIT ?4",
            )?;
            let rows = query.query_map(params![after.0, after.1, until.0, limit], |row| {
                Ok(Unconfirmed {
                    device: row.get::<_, String>(0)?.parse().map_err(|_| {
                        rusqlite::Error::InvalidColumnType(
                            0,
                            "device".to_owned(),
                            rusqlite::types::Type::Text,
                        )
                    })?,
                    security_level: row.get(1)?,
                    counted_until: row.get::<_, Option<i64>>(2)?.map(UnixMillis),
                    place: (row.get(3)?, row.get(4)?),
                })
            })?;
            rows.collect()
        })
    }
}

/// The newest voided licenses that the device may still hold.
pub(super) fn voided_licenses(
    db: &Connection,
    device: &str,
    now: UnixMillis,
) -> rusqlite::Result<Vec<VoidedLicense>> {
    newest_released(db, device, now, (VOIDED, "voided_at_ms"), |row| {
        Ok(VoidedLicense {
            license_id: uuid(row, "license_id")?,
            key_id: uuid(row, "key_id")?,
            reason: row.get("void_reason")?,
            acquired_at: UnixMillis(row.get("acquired_at_ms")?),
            voided_at: UnixMillis(row.get("voided_at_ms")?),
        })
    })
}
