//! Index rows: what was seen before, found by key instead of by reading a device's history.
//!
//! [`apply`] is the one place that says how an event changes them. The tail that keeps the stored
//! rows and the reader that folds the newest events forward both call it. Every row remembers the
//! sequence of the event that last changed it, so applying an event twice changes nothing.
//!
//! All keys begin with the identity: what another identity did can neither be found nor guessed.

use serde::{Deserialize, Serialize};

use super::event::{Event, LicenseAcknowledged, LicenseAcquired, LicenseDeleted};
use super::ids::{DeviceRef, Digest, Identity, KeyId, LicenseId, Nonce, SessionId, TransactionId};

/// What an index row is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// The challenge with this nonce.
    Challenge(Identity, Nonce),
    /// One KID of one secure-delete session.
    SessionKid(Identity, SessionId, KeyId),
    /// A session that a challenge named itself.
    ExplicitSession(Identity, SessionId),
    /// One KID, over all sessions.
    Kid(Identity, KeyId),
    /// A transaction.
    Transaction(Identity, TransactionId),
}

impl Key {
    /// Whose row it is.
    pub fn identity(&self) -> Identity {
        match self {
            Self::Challenge(identity, _)
            | Self::SessionKid(identity, ..)
            | Self::ExplicitSession(identity, _)
            | Self::Kid(identity, _)
            | Self::Transaction(identity, _) => *identity,
        }
    }
}

/// An index row and the event that last changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Sequence of the last event applied.
    pub sequence: u64,
    /// What is known.
    pub value: Value,
}

/// What is known under a key. Which variant it is follows from the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Under [`Key::Challenge`]: what it was answered with.
    Challenge(Answered),
    /// Under [`Key::SessionKid`].
    SessionKid(SessionKid),
    /// Under [`Key::ExplicitSession`]: it exists.
    ExplicitSession,
    /// Under [`Key::Kid`].
    Kid(KidHistory),
    /// Under [`Key::Transaction`].
    Transaction(Vec<TransactionLicense>),
}

/// How a challenge was answered. Refusals are decided again and only remembered as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    /// Granted; the events stand in the device's stream.
    Granted(GrantPlace),
    /// Refused, and the refusal was recorded.
    Refused,
}

/// Where the licenses of a grant stand: `count` consecutive events of one device's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantPlace {
    /// The device whose stream holds them.
    pub device: DeviceRef,
    /// Revision of the first license's event.
    pub first_revision: u64,
    /// How many licenses.
    pub count: u32,
    /// SHA-256 of the signed element that was answered.
    pub signed_sha256: Digest,
    /// Whether it names a session of its own by its nonce: it granted a persistent license and
    /// named no session.
    pub is_session: bool,
}

/// What a session knows of one KID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKid {
    /// Persistent licenses of the session for the KID that no event has ended. They are of one
    /// batch: a session is not used for the same KID again.
    pub open: Vec<LicenseId>,
    /// Whether the session ever had a persistent license for the KID.
    pub matched: bool,
    /// Whether a deletion naming session and KID took effect: each does once, ever.
    pub spent: bool,
}

/// What an identity did with one KID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KidHistory {
    /// Persistent licenses issued since the last effective deletion.
    pub issued: u32,
    /// The latest of them and its session, if it was acquired without naming a session.
    pub latest_implicit: Option<(LicenseId, SessionId)>,
    /// Whether any persistent license was ever acquired without naming a session.
    pub implicit: bool,
}

impl KidHistory {
    /// The one license that a deletion can mean which names no known session, and the session it
    /// was acquired in.
    pub fn sole_implicit(&self) -> Option<(LicenseId, SessionId)> {
        self.latest_implicit.filter(|_| self.issued == 1)
    }
}

/// One license of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionLicense {
    /// The license.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// Whether the device has given its word on it.
    pub acknowledged: bool,
}

/// Where an event of a device's stream stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The device whose stream holds it.
    pub device: &'a DeviceRef,
    /// Its sequence in the ledger.
    pub sequence: u64,
    /// Its revision in the stream.
    pub revision: u64,
}

/// Something that holds index rows.
pub trait Rows {
    /// Why a row could not be read or written.
    type Error;
    /// The row under `key`.
    fn get(&mut self, key: &Key) -> Result<Option<Row>, Self::Error>;
    /// Replaces the row under `key`.
    fn put(&mut self, key: Key, row: Row) -> Result<(), Self::Error>;
}

/// Applies one event of a device's stream to the rows it concerns.
pub fn apply<R: Rows>(fact: &Event, place: Place<'_>, rows: &mut R) -> Result<(), R::Error> {
    match fact {
        Event::LicenseAcquired(e) => apply_acquired(e, place, rows),
        Event::AcquisitionRefused(e) => {
            update(rows, Key::Challenge(e.identity, e.nonce), place, |value| {
                value.or(Some(Value::Challenge(Answered::Refused)))
            })
        }
        Event::LicenseStored(e) | Event::LicenseStoreFailed(e) => {
            apply_acknowledged(e, place, rows)
        }
        Event::LicenseDeleted(e) => apply_deleted(e, place, rows),
        Event::DeletionUnmatched(e) => {
            update_session_kid(rows, (e.identity, e.session, e.key_id), place, |kid| {
                kid.spent = true;
            })
        }
        // A license that was voided can still be acknowledged and deleted, so no row changes.
        _ => Ok(()),
    }
}

fn apply_acquired<R: Rows>(
    e: &LicenseAcquired,
    place: Place<'_>,
    rows: &mut R,
) -> Result<(), R::Error> {
    let persistent = e.persistent.effective;
    update(rows, Key::Challenge(e.identity, e.nonce), place, |value| {
        let mut grant = match value {
            Some(Value::Challenge(Answered::Granted(grant))) => grant,
            _ => GrantPlace {
                device: place.device.clone(),
                first_revision: place.revision,
                count: 0,
                signed_sha256: e.signed_sha256,
                is_session: false,
            },
        };
        grant.count += 1;
        grant.is_session |= persistent && !e.session_explicit;
        Some(Value::Challenge(Answered::Granted(grant)))
    })?;
    if let Some(transaction_id) = e.transaction_id {
        update(rows, Key::Transaction(e.identity, transaction_id), place, |value| {
            let mut licenses = match value {
                Some(Value::Transaction(licenses)) => licenses,
                _ => Vec::new(),
            };
            licenses.push(TransactionLicense {
                license_id: e.license_id,
                key_id: e.key_id,
                acknowledged: false,
            });
            Some(Value::Transaction(licenses))
        })?;
    }
    if !persistent {
        return Ok(());
    }
    if e.session_explicit {
        update(rows, Key::ExplicitSession(e.identity, e.session), place, |_| {
            Some(Value::ExplicitSession)
        })?;
    }
    update_session_kid(rows, (e.identity, e.session, e.key_id), place, |kid| {
        kid.open.push(e.license_id);
        kid.matched = true;
    })?;
    update_kid(rows, (e.identity, e.key_id), place, |kid| {
        kid.issued = kid.issued.saturating_add(1);
        kid.latest_implicit = (!e.session_explicit).then_some((e.license_id, e.session));
        kid.implicit |= !e.session_explicit;
    })
}

fn apply_acknowledged<R: Rows>(
    e: &LicenseAcknowledged,
    place: Place<'_>,
    rows: &mut R,
) -> Result<(), R::Error> {
    update(rows, Key::Transaction(e.identity, e.transaction_id), place, |value| {
        let Some(Value::Transaction(mut licenses)) = value else { return value };
        for license in &mut licenses {
            license.acknowledged |= license.license_id == e.license_id;
        }
        Some(Value::Transaction(licenses))
    })
}

fn apply_deleted<R: Rows>(
    e: &LicenseDeleted,
    place: Place<'_>,
    rows: &mut R,
) -> Result<(), R::Error> {
    update_session_kid(rows, (e.identity, e.session, e.key_id), place, |kid| {
        kid.open.retain(|license_id| *license_id != e.license_id);
        kid.spent = true;
    })?;
    update_kid(rows, (e.identity, e.key_id), place, |kid| {
        kid.issued = 0;
        kid.latest_implicit = None;
    })?;
    if e.acquired_session == e.session {
        return Ok(());
    }
    // A session with nothing left to delete is spent, so that a deletion signed for it as well
    // cannot end what is acquired in its name later.
    update_session_kid(rows, (e.identity, e.acquired_session, e.key_id), place, |kid| {
        kid.open.retain(|license_id| *license_id != e.license_id);
        kid.spent |= kid.open.is_empty();
    })
}

fn update_session_kid<R: Rows>(
    rows: &mut R,
    (identity, session, key_id): (Identity, SessionId, KeyId),
    place: Place<'_>,
    change: impl FnOnce(&mut SessionKid),
) -> Result<(), R::Error> {
    update(rows, Key::SessionKid(identity, session, key_id), place, |value| {
        let mut kid = match value {
            Some(Value::SessionKid(kid)) => kid,
            _ => SessionKid::default(),
        };
        change(&mut kid);
        Some(Value::SessionKid(kid))
    })
}

fn update_kid<R: Rows>(
    rows: &mut R,
    (identity, key_id): (Identity, KeyId),
    place: Place<'_>,
    change: impl FnOnce(&mut KidHistory),
) -> Result<(), R::Error> {
    update(rows, Key::Kid(identity, key_id), place, |value| {
        let mut kid = match value {
            Some(Value::Kid(kid)) => kid,
            _ => KidHistory::default(),
        };
        change(&mut kid);
        Some(Value::Kid(kid))
    })
}

/// Replaces the value under `key`, unless the row has already seen this event.
fn update<R: Rows>(
    rows: &mut R,
    key: Key,
    place: Place<'_>,
    change: impl FnOnce(Option<Value>) -> Option<Value>,
) -> Result<(), R::Error> {
    let row = rows.get(&key)?;
    if row.as_ref().is_some_and(|row| row.sequence >= place.sequence) {
        return Ok(());
    }
    match change(row.map(|row| row.value)) {
        Some(value) => rows.put(key, Row { sequence: place.sequence, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
