//! What operators did about a device, each with who and why.

use rusqlite::{Connection, Transaction, params};
use serde::Serialize;
use utoipa::ToSchema;

use super::query::SHOWN_MAX;
use crate::clock::UnixMillis;
use crate::domain::Event;

/// Something that an operator did about a device.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = InventoryAct)]
pub struct DeviceAct {
    /// `blocked`, `unblocked`; `linked`: an identity belongs to `other` from here on, which may be
    /// this device; `merged_into`, `replaced_by`: `other` goes on in its place; `merged_from`,
    /// `took_over_from`: it goes on with what `other` had.
    pub act: String,
    /// The identity that was linked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Reference of the other device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// Who did it: the public part of an API key.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: UnixMillis,
    /// Sequence of the event.
    pub sequence: u64,
}

/// Takes note of an event in a device's stream, if it says what an operator did.
pub(super) fn happened(
    db: &Transaction<'_>,
    device: &str,
    sequence: u64,
    event: &Event,
) -> rusqlite::Result<()> {
    let (mut identity, mut other) = (None, None);
    let (act, actor, reason, at_ms) = match event {
        Event::DeviceBlocked(e) => ("blocked", &e.actor, &e.reason, e.at_ms),
        Event::DeviceUnblocked(e) => ("unblocked", &e.actor, &e.reason, e.at_ms),
        Event::IdentityLinked(e) => {
            let (Some(actor), Some(reason)) = (&e.actor, &e.reason) else { return Ok(()) };
            (identity, other) = (Some(e.identity.to_string()), Some(e.device.to_string()));
            ("linked", actor, reason, e.at_ms)
        }
        Event::DeviceMerged(e) => {
            other = Some(e.into.to_string());
            ("merged_into", &e.actor, &e.reason, e.at_ms)
        }
        Event::DeviceReplaced(e) => {
            other = Some(e.by.to_string());
            ("replaced_by", &e.actor, &e.reason, e.at_ms)
        }
        Event::DeviceTookOver(e) => {
            other = Some(e.from.to_string());
            let act = if e.replaces { "took_over_from" } else { "merged_from" };
            (act, &e.actor, &e.reason, e.at_ms)
        }
        _ => return Ok(()),
    };
    db.prepare_cached("INSERT INTO acts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![device, sequence, act, identity, other, actor, reason, at_ms])
        .map(drop)
}

/// The newest acts about a device, the latest first.
pub(super) fn of_device(db: &Connection, device: &str) -> rusqlite::Result<Vec<DeviceAct>> {
    let mut query =
        db.prepare_cached("SELECT * FROM acts WHERE device = ?1 ORDER BY sequence DESC LIMIT ?2")?;
    let rows = query.query_map(params![device, SHOWN_MAX], |row| {
        Ok(DeviceAct {
            act: row.get("act")?,
            identity: row.get("identity")?,
            other: row.get("other")?,
            actor: row.get("actor")?,
            reason: row.get("reason")?,
            at: UnixMillis(row.get("at_ms")?),
            sequence: row.get("sequence")?,
        })
    })?;
    rows.collect()
}
