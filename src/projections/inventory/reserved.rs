//! What reservations hold.

use rusqlite::{Connection, Transaction, params};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::elsewhere::{Seen, seen};
use super::life;
use super::query::uuid;
use crate::clock::UnixMillis;
use crate::domain::event::{DecisionRefused, ReservationClosed, ReservationMade};

/// Room on a device that is held for licenses which somebody else issues.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = InventoryReservation)]
pub struct HeldReservation {
    /// The reservation.
    pub reservation_id: Uuid,
    /// The KIDs, one for each license that it still holds room for.
    pub key_ids: Vec<Uuid>,
    /// Reference of the account that pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Who made it: the public part of an API key.
    pub actor: String,
    /// When it was made.
    pub reserved_at: UnixMillis,
    /// When it ends by itself.
    pub expires_at: UnixMillis,
}

/// Takes note of a reservation, which may be the first thing said of its device.
pub(super) fn made(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &ReservationMade,
) -> rusqlite::Result<()> {
    // Whatever has expired is of no more use, so that the table holds no more than is held.
    db.prepare_cached("DELETE FROM reserved WHERE expires_at_ms <= ?1")?.execute([e.at_ms])?;
    let (security_level, model) = (e.security_level, e.model.as_str());
    seen(db, Seen { device, sequence, security_level, model, at_ms: e.at_ms })?;
    let mut row =
        db.prepare_cached("INSERT INTO reserved VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
    let account = e.account.as_ref().map(ToString::to_string);
    for slot in &e.slots {
        row.execute(params![
            slot.license_id.0.as_bytes(),
            sequence,
            e.reservation_id.as_bytes(),
            device,
            slot.key_id.0.as_bytes(),
            account,
            slot.title,
            e.actor,
            e.at_ms,
            e.expires_ms,
        ])?;
    }
    Ok(())
}

/// Takes note that none was made, which may be the first thing said of its device.
pub(super) fn refused(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    e: &DecisionRefused,
) -> rusqlite::Result<()> {
    let (security_level, model) = (e.security_level, e.model.as_str());
    seen(db, Seen { device, sequence, security_level, model, at_ms: e.at_ms })?;
    life::refused(db, device, sequence, &e.into())
}

/// Takes note that slots of a reservation are held no longer.
pub(super) fn closed(db: &Transaction<'_>, e: &ReservationClosed) -> rusqlite::Result<()> {
    let mut row = db.prepare_cached("DELETE FROM reserved WHERE license_id = ?1")?;
    for license_id in &e.license_ids {
        row.execute([license_id.0.as_bytes()])?;
    }
    Ok(())
}

/// The reservations on a device, oldest first.
pub(super) fn on_device(
    db: &Connection,
    device: &str,
    now: UnixMillis,
) -> rusqlite::Result<Vec<HeldReservation>> {
    let mut query = db.prepare_cached(
        "SELECT * FROM reserved WHERE device = ?1 AND expires_at_ms > ?2
         ORDER BY sequence, key_id",
    )?;
    let slots = query.query_map(params![device, now.0], |row| {
        Ok(HeldReservation {
            reservation_id: uuid(row, "reservation_id")?,
            key_ids: vec![uuid(row, "key_id")?],
            account: row.get("account")?,
            actor: row.get("actor")?,
            reserved_at: UnixMillis(row.get("reserved_at_ms")?),
            expires_at: UnixMillis(row.get("expires_at_ms")?),
        })
    })?;
    let mut reservations = Vec::<HeldReservation>::new();
    for slot in slots {
        let slot = slot?;
        match reservations.last_mut() {
            Some(last) if last.reservation_id == slot.reservation_id => {
                last.key_ids.extend(slot.key_ids);
            }
            _ => reservations.push(slot),
        }
    }
    Ok(reservations)
}
