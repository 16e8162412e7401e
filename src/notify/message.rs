//! What is told: events as messages. Pure, so that the same event always makes the same message.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::crossing::Crossing;
use crate::clock::UnixMillis;
use crate::domain::Event;
use crate::domain::ids::derived_id;
use crate::ledger::Recorded;
use crate::ledger::state::store::{ACCOUNT_STREAM, DEVICE_STREAM};
use crate::ledger::tail::Fact;

/// The largest body, in bytes: what the specification recommends.
pub(super) const BODY_BYTES_MAX: usize = 20_000;
/// The type of the message that a share of a limit is reached.
const QUOTA_THRESHOLD: &str = "quota.threshold";

/// Every type of message.
pub const TYPES: &[&str] = &[
    "license.acquired",
    "license.refused",
    "license.stored",
    "license.store_failed",
    "license.deleted",
    "license.deletion_unmatched",
    "license.voided",
    "license.written_off",
    "license.recorded",
    "license.storage_recorded",
    "license.deletion_recorded",
    "device.blocked",
    "device.unblocked",
    "device.merged",
    "device.replaced",
    QUOTA_THRESHOLD,
];

/// The type of the message that an event makes; `None`: nobody is told.
const fn type_of(event: &Event) -> Option<&'static str> {
    match event {
        Event::LicenseAcquired(_) => Some("license.acquired"),
        Event::AcquisitionRefused(_) | Event::DecisionRefused(_) => Some("license.refused"),
        Event::LicenseStored(_) => Some("license.stored"),
        Event::LicenseStoreFailed(_) => Some("license.store_failed"),
        Event::LicenseDeleted(_) => Some("license.deleted"),
        Event::DeletionUnmatched(_) => Some("license.deletion_unmatched"),
        Event::LicenseVoided(_) => Some("license.voided"),
        Event::LicenseWrittenOff(_) => Some("license.written_off"),
        Event::LicenseRecorded(_) => Some("license.recorded"),
        Event::StorageRecorded(_) => Some("license.storage_recorded"),
        Event::DeletionRecorded(_) => Some("license.deletion_recorded"),
        Event::DeviceBlocked(_) => Some("device.blocked"),
        Event::DeviceUnblocked(_) => Some("device.unblocked"),
        Event::DeviceMerged(_) => Some("device.merged"),
        Event::DeviceReplaced(_) => Some("device.replaced"),
        Event::DeviceEnrolled(_)
        | Event::IdentityLinked(_)
        | Event::EvidenceKept(_)
        | Event::ReportKept(_)
        | Event::TokenSpent(_)
        | Event::QuotaPolicyPublished(_)
        | Event::SlotTaken(_)
        | Event::SlotConfirmed(_)
        | Event::SlotReleased(_)
        | Event::SlotsMoved(_)
        | Event::DeviceTookOver(_)
        | Event::RequestAnswered(_)
        | Event::ReservationMade(_)
        | Event::ReservationClosed(_)
        | Event::QuotaOverrideSet(_)
        | Event::ContentKeyRegistered(_)
        | Event::KeySeedRegistered(_)
        | Event::ContentKeyBound(_)
        | Event::ContentKeyTyped(_)
        | Event::ContentKeyUsed(_)
        | Event::MasterKeyRotated(_)
        | Event::KeysPinned(_)
        | Event::RevocationListsTaken(_)
        | Event::ApiKeyCreated(_)
        | Event::ApiKeyRevoked(_)
        | Event::WebhookChanged(_) => None,
    }
}

/// Which message: the sequence of its event, and 0, or the percent of the share that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) part: u8,
}

/// A message, the same for every endpoint and attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) place: Place,
    pub(super) id: Uuid,
    pub(super) r#type: &'static str,
    pub(super) body: Vec<u8>,
}

#[derive(Serialize)]
struct Body<T> {
    r#type: &'static str,
    timestamp: UnixMillis,
    data: T,
}

/// The event that a message is about.
#[derive(Serialize)]
struct Source<'a> {
    event_id: Uuid,
    event_type: &'a str,
    sequence: u64,
    position: String,
    stream: &'a str,
    device: Option<&'a str>,
    account: Option<&'a str>,
}

#[derive(Serialize)]
struct Happened<'a> {
    #[serde(flatten)]
    source: Source<'a>,
    event: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Threshold<'a> {
    #[serde(flatten)]
    source: Source<'a>,
    #[serde(flatten)]
    crossing: &'a Crossing,
}

impl<'a> Source<'a> {
    fn of(recorded: &'a Recorded) -> Self {
        Self {
            event_id: recorded.id,
            event_type: &recorded.kind,
            sequence: recorded.sequence,
            position: (recorded.sequence + 1).to_string(),
            stream: recorded.stream.as_str(),
            device: recorded.stream.as_str().strip_prefix(DEVICE_STREAM),
            account: recorded.stream.as_str().strip_prefix(ACCOUNT_STREAM),
        }
    }
}

impl Message {
    /// The message that an event makes, if it makes one. The id is the event's own.
    pub(super) fn of_event(fact: &Fact) -> Result<Option<Self>, serde_json::Error> {
        let Some(r#type) = type_of(&fact.event) else { return Ok(None) };
        let recorded = &fact.recorded;
        let write = |event| {
            let data = Happened { source: Source::of(recorded), event };
            let timestamp = UnixMillis(fact.event.at_ms());
            serde_json::to_vec(&Body { r#type, timestamp, data })
        };
        let mut body = write(Some(serde_json::from_slice(&recorded.data)?))?;
        if body.len() > BODY_BYTES_MAX {
            body = write(None)?;
        }
        let place = Place { sequence: recorded.sequence, part: 0 };
        Ok(Some(Self { place, id: recorded.id, r#type, body }))
    }

    /// The message that an event made a holder reach a share of its limit. Its id follows from the
    /// event's.
    pub(super) fn of_crossing(fact: &Fact, crossing: &Crossing) -> Result<Self, serde_json::Error> {
        let recorded = &fact.recorded;
        let percent = crossing.threshold_percent;
        let id = derived_id(&[
            QUOTA_THRESHOLD.as_bytes(),
            recorded.id.as_bytes(),
            percent.to_string().as_bytes(),
        ]);
        let body = serde_json::to_vec(&Body {
            r#type: QUOTA_THRESHOLD,
            timestamp: UnixMillis(fact.event.at_ms()),
            data: Threshold { source: Source::of(recorded), crossing },
        })?;
        let place = Place { sequence: recorded.sequence, part: percent };
        Ok(Self { place, id, r#type: QUOTA_THRESHOLD, body })
    }
}

#[cfg(test)]
mod tests;
