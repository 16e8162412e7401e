//! Events as stored bytes, and back.
//!
//! A body is JSON, stored verbatim and never re-serialized. Every version ever written is read
//! here. In our own streams an unknown type is an error: it stops the reader and is never skipped,
//! since a state folded without it would be wrong. Streams of the [users](super::users) are not read.

use serde::de::DeserializeOwned;

use crate::domain::Event;

/// A stored event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A newer version of this program wrote it, or something else did.
    #[error("event type `{0}` is unknown to this version")]
    UnknownKind(String),
    /// The body is not what its type says.
    #[error("the body of a `{kind}` event cannot be read")]
    Body {
        /// The stored type tag.
        kind: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A body could not be written.
    #[error("an event could not be encoded")]
    Encode(#[source] serde_json::Error),
}

/// The body of an event as compact JSON.
pub fn encode(event: &Event) -> Result<Vec<u8>, CodecError> {
    let body = match event {
        Event::DeviceEnrolled(e) => serde_json::to_vec(e),
        Event::IdentityLinked(e) => serde_json::to_vec(e),
        Event::LicenseAcquired(e) => serde_json::to_vec(e),
        Event::AcquisitionRefused(e) => serde_json::to_vec(e),
        Event::DecisionRefused(e) => serde_json::to_vec(e),
        Event::LicenseStored(e) | Event::LicenseStoreFailed(e) => serde_json::to_vec(e),
        Event::LicenseDeleted(e) => serde_json::to_vec(e),
        Event::DeletionUnmatched(e) => serde_json::to_vec(e),
        Event::LicenseVoided(e) => serde_json::to_vec(e),
        Event::LicenseWrittenOff(e) => serde_json::to_vec(e),
        Event::DeviceBlocked(e) | Event::DeviceUnblocked(e) => serde_json::to_vec(e),
        Event::DeviceMerged(e) => serde_json::to_vec(e),
        Event::DeviceReplaced(e) => serde_json::to_vec(e),
        Event::DeviceTookOver(e) => serde_json::to_vec(e),
        Event::EvidenceKept(e) => serde_json::to_vec(e),
        Event::TokenSpent(e) => serde_json::to_vec(e),
        Event::QuotaPolicyPublished(e) => serde_json::to_vec(e),
        Event::SlotTaken(e) => serde_json::to_vec(e),
        Event::SlotConfirmed(e) => serde_json::to_vec(e),
        Event::SlotReleased(e) => serde_json::to_vec(e),
        Event::SlotsMoved(e) => serde_json::to_vec(e),
        Event::ReservationMade(e) => serde_json::to_vec(e),
        Event::ReservationClosed(e) => serde_json::to_vec(e),
        Event::QuotaOverrideSet(e) => serde_json::to_vec(e),
        Event::LicenseRecorded(e) => serde_json::to_vec(e),
        Event::StorageRecorded(e) => serde_json::to_vec(e),
        Event::DeletionRecorded(e) => serde_json::to_vec(e),
        Event::ReportKept(e) => serde_json::to_vec(e),
        Event::RequestAnswered(e) => serde_json::to_vec(e),
        Event::ContentKeyRegistered(e) => serde_json::to_vec(e),
        Event::KeySeedRegistered(e) => serde_json::to_vec(e),
        Event::ContentKeyBound(e) => serde_json::to_vec(e),
        Event::ContentKeyTyped(e) => serde_json::to_vec(e),
        Event::ContentKeyUsed(e) => serde_json::to_vec(e),
        Event::MasterKeyRotated(e) => serde_json::to_vec(e),
        Event::KeysPinned(e) => serde_json::to_vec(e),
        Event::RevocationListsTaken(e) => serde_json::to_vec(e),
        Event::ApiKeyCreated(e) => serde_json::to_vec(e),
        Event::ApiKeyRevoked(e) => serde_json::to_vec(e),
        Event::WebhookChanged(e) => serde_json::to_vec(e),
    };
    body.map_err(CodecError::Encode)
}

/// The event that `kind` and `body` stand for.
pub fn decode(kind: &str, body: &[u8]) -> Result<Event, CodecError> {
    Ok(match kind {
        "device-enrolled.v1" => Event::DeviceEnrolled(read(kind, body)?),
        "identity-linked.v1" => Event::IdentityLinked(read(kind, body)?),
        "license-acquired.v1" => Event::LicenseAcquired(read(kind, body)?),
        "acquisition-refused.v1" => Event::AcquisitionRefused(read(kind, body)?),
        "decision-refused.v1" => Event::DecisionRefused(read(kind, body)?),
        "license-stored.v1" => Event::LicenseStored(read(kind, body)?),
        "license-store-failed.v1" => Event::LicenseStoreFailed(read(kind, body)?),
        "license-deleted.v1" => Event::LicenseDeleted(read(kind, body)?),
        "deletion-unmatched.v1" => Event::DeletionUnmatched(read(kind, body)?),
        "license-voided.v1" => Event::LicenseVoided(read(kind, body)?),
        "license-written-off.v1" => Event::LicenseWrittenOff(read(kind, body)?),
        "device-blocked.v1" => Event::DeviceBlocked(read(kind, body)?),
        "device-unblocked.v1" => Event::DeviceUnblocked(read(kind, body)?),
        "device-merged.v1" => Event::DeviceMerged(read(kind, body)?),
        "device-replaced.v1" => Event::DeviceReplaced(read(kind, body)?),
        "device-took-over.v1" => Event::DeviceTookOver(read(kind, body)?),
        "evidence-kept.v1" => Event::EvidenceKept(read(kind, body)?),
        "token-spent.v1" => Event::TokenSpent(read(kind, body)?),
        "quota-policy-published.v1" => Event::QuotaPolicyPublished(read(kind, body)?),
        "slot-taken.v1" => Event::SlotTaken(read(kind, body)?),
        "slot-confirmed.v1" => Event::SlotConfirmed(read(kind, body)?),
        "slot-released.v1" => Event::SlotReleased(read(kind, body)?),
        "slots-moved.v1" => Event::SlotsMoved(read(kind, body)?),
        "reservation-made.v1" => Event::ReservationMade(read(kind, body)?),
        "reservation-closed.v1" => Event::ReservationClosed(read(kind, body)?),
        "quota-override-set.v1" => Event::QuotaOverrideSet(read(kind, body)?),
        "license-recorded.v1" => Event::LicenseRecorded(read(kind, body)?),
        "storage-recorded.v1" => Event::StorageRecorded(read(kind, body)?),
        "deletion-recorded.v1" => Event::DeletionRecorded(read(kind, body)?),
        "report-kept.v1" => Event::ReportKept(read(kind, body)?),
        "request-answered.v1" => Event::RequestAnswered(read(kind, body)?),
        "content-key-registered.v1" => Event::ContentKeyRegistered(read(kind, body)?),
        "key-seed-registered.v1" => Event::KeySeedRegistered(read(kind, body)?),
        "content-key-bound.v1" => Event::ContentKeyBound(read(kind, body)?),
        "content-key-typed.v1" => Event::ContentKeyTyped(read(kind, body)?),
        "content-key-used.v1" => Event::ContentKeyUsed(read(kind, body)?),
        "master-key-rotated.v1" => Event::MasterKeyRotated(read(kind, body)?),
        "keys-pinned.v1" => Event::KeysPinned(read(kind, body)?),
        "revocation-lists-taken.v1" => Event::RevocationListsTaken(read(kind, body)?),
        "api-key-created.v1" => Event::ApiKeyCreated(read(kind, body)?),
        "api-key-revoked.v1" => Event::ApiKeyRevoked(read(kind, body)?),
        "webhook-changed.v1" => Event::WebhookChanged(read(kind, body)?),
        _ => return Err(CodecError::UnknownKind(kind.to_owned())),
    })
}

fn read<T: DeserializeOwned>(kind: &str, body: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(body)
        .map_err(|source| CodecError::Body { kind: kind.to_owned(), source })
}

#[cfg(test)]
mod tests;
