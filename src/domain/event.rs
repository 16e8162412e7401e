//! The facts: what the ledger stores, in shapes that are frozen once shipped.
//!
//! A change of shape is a new type (`….v2`) beside the old one; every shape ever stored stays
//! readable. All that must be provable (who, why, when) is in the body, never in metadata. Times
//! are milliseconds since the Unix epoch; ids are text; no body holds a secret.

mod answered;
mod elsewhere;
mod ends;
mod key_types;
mod keys;
mod pins;
mod quota;
mod revocation;
mod support;
mod webhooks;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::ids::{
    AccountRef, DeviceRef, Digest, Identity, KeyId, LicenseId, Nonce, SessionId, TransactionId,
    derived_id,
};

pub use answered::RequestAnswered;
pub use elsewhere::{DeletionRecorded, LicenseRecorded, ReportKept, StorageRecorded};
pub use ends::{DeletionUnmatched, Grade, LicenseDeleted, LicenseVoided, VoidReason};
pub use key_types::{ContentKeyTyped, ContentKeyUsed, TypeStatedBy};
pub use keys::{
    ApiKeyCreated, ApiKeyRevoked, ContentKeyBound, ContentKeyRegistered, KeySeedRegistered,
    MasterKeyRotated,
};
pub use pins::KeysPinned;
pub use quota::{
    DecisionRefused, QuotaOverrideSet, QuotaPolicyPublished, ReservationClosed, ReservationEnd,
    ReservationMade, ReservedSlot, SlotConfirmed, SlotEnd, SlotReleased, SlotTaken,
};
pub use revocation::RevocationListsTaken;
pub use support::{
    DeviceBlock, DeviceMerged, DeviceReplaced, DeviceTookOver, LicenseWrittenOff, MovedDoubt,
    MovedEnd, MovedIssue, MovedLicense, MovedLimit, Replaced, SlotsMoved,
};
pub use webhooks::{WebhookChange, WebhookChanged};

/// A fact. The stored type tag is [`Event::kind`], chosen by us and independent of Rust names.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Event {
    DeviceEnrolled(DeviceEnrolled),
    IdentityLinked(IdentityLinked),
    LicenseAcquired(Box<LicenseAcquired>),
    AcquisitionRefused(AcquisitionRefused),
    DecisionRefused(DecisionRefused),
    LicenseStored(LicenseAcknowledged),
    LicenseStoreFailed(LicenseAcknowledged),
    LicenseDeleted(LicenseDeleted),
    DeletionUnmatched(DeletionUnmatched),
    LicenseVoided(LicenseVoided),
    LicenseWrittenOff(LicenseWrittenOff),
    DeviceBlocked(DeviceBlock),
    DeviceUnblocked(DeviceBlock),
    DeviceMerged(DeviceMerged),
    DeviceReplaced(DeviceReplaced),
    DeviceTookOver(Box<DeviceTookOver>),
    EvidenceKept(EvidenceKept),
    TokenSpent(TokenSpent),
    QuotaPolicyPublished(QuotaPolicyPublished),
    SlotTaken(SlotTaken),
    SlotConfirmed(SlotConfirmed),
    SlotReleased(SlotReleased),
    SlotsMoved(SlotsMoved),
    ReservationMade(ReservationMade),
    ReservationClosed(ReservationClosed),
    QuotaOverrideSet(QuotaOverrideSet),
    LicenseRecorded(Box<LicenseRecorded>),
    StorageRecorded(StorageRecorded),
    DeletionRecorded(DeletionRecorded),
    ReportKept(ReportKept),
    RequestAnswered(RequestAnswered),
    ContentKeyRegistered(ContentKeyRegistered),
    KeySeedRegistered(KeySeedRegistered),
    ContentKeyBound(ContentKeyBound),
    ContentKeyTyped(ContentKeyTyped),
    ContentKeyUsed(ContentKeyUsed),
    MasterKeyRotated(MasterKeyRotated),
    KeysPinned(Box<KeysPinned>),
    RevocationListsTaken(RevocationListsTaken),
    ApiKeyCreated(ApiKeyCreated),
    ApiKeyRevoked(ApiKeyRevoked),
    WebhookChanged(WebhookChanged),
}

/// A device was seen for the first time: before this, its stream holds only what back ends said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEnrolled {
    /// The device.
    pub device: DeviceRef,
    /// The identity that was seen.
    pub identity: Identity,
    /// Security level of its leaf certificate: 150, 2000 or 3000.
    pub security_level: u32,
    /// Maker, model name and number of its certificate.
    pub model: String,
    /// When.
    pub at_ms: i64,
}

/// An identity belongs to a device. First event of every `identity-<hex>` stream; where an operator
/// says so, it stands in the streams of the devices concerned as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityLinked {
    /// The identity.
    pub identity: Identity,
    /// The device that it belongs to from here on.
    pub device: DeviceRef,
    /// The operator who said so; absent if it was seen for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why the operator said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at_ms: i64,
}

/// Persistence as asked for and as given; some policies make the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persistence {
    /// What the request or its entitlement asked for.
    pub requested: bool,
    /// What the license says.
    pub effective: bool,
}

/// Where the content key came from. Never the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KeySource {
    /// A registered content key.
    Registered,
    /// Derived from a registered key seed.
    Seed {
        /// The seed's id.
        seed_id: String,
    },
    /// Derived from the seed that Microsoft publishes for tests.
    PublishedTestSeed,
    /// Given by the request itself; test mode only.
    Request {
        /// By which a repeat can tell whether it brings the same key; events of older versions lack
        /// it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        check_value: Option<String>,
    },
}

impl KeySource {
    /// The source in one word, or two: what keys of one KID that have it in common are equal by.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Registered => "registered".to_owned(),
            Self::Seed { seed_id } => format!("seed {seed_id}"),
            Self::PublishedTestSeed => "published_test_seed".to_owned(),
            Self::Request { .. } => "request".to_owned(),
        }
    }
}

/// What a license is in a chain (section 5.5 of the license protocol page): leaves hold content
/// keys, and open only with the key of their root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Chain {
    /// Its key opens leaves, and encrypts no content.
    Root,
    /// It opens only with a license for its root.
    Leaf {
        /// The root's KID.
        root_key_id: KeyId,
        /// Where the root's key came from.
        root_key_source: KeySource,
    },
}

/// A license was granted: one event a license.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LicenseAcquired {
    /// The license; for a persistent one its rights id.
    pub license_id: LicenseId,
    /// Who asked; only this identity can acknowledge or delete it.
    pub identity: Identity,
    /// The content key's id.
    pub key_id: KeyId,
    /// The secure-delete session: the one the challenge names, else its nonce.
    pub session: SessionId,
    /// Whether the challenge named the session itself.
    pub session_explicit: bool,
    /// The challenge's nonce.
    pub nonce: Nonce,
    /// Place of the license in its response, from 0.
    pub ordinal: u32,
    /// Names the response in an acknowledgement.
    pub transaction_id: Option<TransactionId>,
    /// Persistence, requested and effective.
    pub persistent: Persistence,
    /// The whole effective license policy, in the stored form of the license protocol module.
    pub policy: Box<RawValue>,
    /// From when on the license no longer counts; `None` counts until it is ended.
    pub counted_until_ms: Option<i64>,
    /// The account that pays the slot.
    pub account: Option<AccountRef>,
    /// The title, as the service names it.
    pub title: Option<String>,
    /// The content group, as the service names it.
    pub content_group: Option<String>,
    /// Security level of the device's certificate.
    pub security_level: u32,
    /// Maker, model name and number of the device's certificate.
    pub model: String,
    /// Version text the client sent; data, never authority.
    pub client_version: Option<String>,
    /// `playready` for licenses that this service issued.
    pub drm_system: String,
    /// How the content key encrypts: `aesctr` or `aescbc`.
    pub key_type: String,
    /// Where the content key came from.
    pub key_source: KeySource,
    /// What it is in a chain of licenses; absent if it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
    /// Revision of the `policy` stream under which the quota was decided.
    pub quota_policy_revision: u64,
    /// Granted beyond a limit, as a rule allowed.
    pub overage: bool,
    /// What authorized the license: `open`, `token` or `callback`.
    pub authorized_by: String,
    /// SHA-256 of the signed element of the challenge.
    pub signed_sha256: Digest,
    /// When.
    pub at_ms: i64,
}

/// An acquisition was refused by a quota rule. Recorded with restraint: see
/// [`Device::refusal_to_record`](super::Device::refusal_to_record).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquisitionRefused {
    /// Who asked.
    pub identity: Identity,
    /// The challenge's nonce.
    pub nonce: Nonce,
    /// KIDs that were refused and that no refusal by the same rule named within the hour before,
    /// each once, at most 50.
    pub key_ids: Vec<KeyId>,
    /// The account that was to pay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountRef>,
    /// Id of the rule that refused.
    pub rule: String,
    /// Its limit.
    pub limit: u32,
    /// How much of it was in use.
    pub held: u32,
    /// How much more was asked for.
    pub requested: u32,
    /// Revision of the `policy` stream.
    pub quota_policy_revision: u64,
    /// SHA-256 of the signed element of the challenge.
    pub signed_sha256: Digest,
    /// When.
    pub at_ms: i64,
}

/// The device said whether it stored a license. The first word counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseAcknowledged {
    /// The license.
    pub license_id: LicenseId,
    /// Who acknowledged; the identity that acquired it.
    pub identity: Identity,
    /// The license's KID.
    pub key_id: KeyId,
    /// The transaction it was acknowledged under.
    pub transaction_id: TransactionId,
    /// The client's result code; 0 is stored.
    pub result: u32,
    /// SHA-256 of the signed element of the acknowledgement.
    pub signed_sha256: Digest,
    /// When.
    pub at_ms: i64,
}

/// A raw signed message, kept so that it can be verified again when keys have rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceKept {
    /// What the message is: `secure-delete`.
    pub message: String,
    /// The whole request body, base64.
    pub envelope: String,
    /// The sender's certificate chain, decrypted, base64.
    pub certificate_chain: String,
    /// SHA-256 of the root key that the chain was verified against.
    pub root: Digest,
    /// Sequence of the revocation list that was in force, if any.
    pub revocation_sequence: Option<u32>,
    /// When.
    pub at_ms: i64,
}

/// A token of the service was used up by a grant. Only event of its `once-<hash>` stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSpent {
    /// SHA-256 of the token's issuer, a NUL byte and its `jti`; names the stream.
    pub token: Digest,
    /// Who used it.
    pub identity: Identity,
    /// Nonce of the challenge that was granted.
    pub nonce: Nonce,
    /// When.
    pub at_ms: i64,
}

impl LicenseAcquired {
    /// Whether it is the root of a chain.
    pub fn is_root(&self) -> bool {
        self.chain == Some(Chain::Root)
    }
}

impl Event {
    /// The stored type tag.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DeviceEnrolled(_) => "device-enrolled.v1",
            Self::IdentityLinked(_) => "identity-linked.v1",
            Self::LicenseAcquired(_) => "license-acquired.v1",
            Self::AcquisitionRefused(_) => "acquisition-refused.v1",
            Self::DecisionRefused(_) => "decision-refused.v1",
            Self::LicenseStored(_) => "license-stored.v1",
            Self::LicenseStoreFailed(_) => "license-store-failed.v1",
            Self::LicenseDeleted(_) => "license-deleted.v1",
            Self::DeletionUnmatched(_) => "deletion-unmatched.v1",
            Self::LicenseVoided(_) => "license-voided.v1",
            Self::LicenseWrittenOff(_) => "license-written-off.v1",
            Self::DeviceBlocked(_) => "device-blocked.v1",
            Self::DeviceUnblocked(_) => "device-unblocked.v1",
            Self::DeviceMerged(_) => "device-merged.v1",
            Self::DeviceReplaced(_) => "device-replaced.v1",
            Self::DeviceTookOver(_) => "device-took-over.v1",
            Self::EvidenceKept(_) => "evidence-kept.v1",
            Self::TokenSpent(_) => "token-spent.v1",
            Self::QuotaPolicyPublished(_) => "quota-policy-published.v1",
            Self::SlotTaken(_) => "slot-taken.v1",
            Self::SlotConfirmed(_) => "slot-confirmed.v1",
            Self::SlotReleased(_) => "slot-released.v1",
            Self::SlotsMoved(_) => "slots-moved.v1",
            Self::ReservationMade(_) => "reservation-made.v1",
            Self::ReservationClosed(_) => "reservation-closed.v1",
            Self::QuotaOverrideSet(_) => "quota-override-set.v1",
            Self::LicenseRecorded(_) => "license-recorded.v1",
            Self::StorageRecorded(_) => "storage-recorded.v1",
            Self::DeletionRecorded(_) => "deletion-recorded.v1",
            Self::ReportKept(_) => "report-kept.v1",
            Self::RequestAnswered(_) => "request-answered.v1",
            Self::ContentKeyRegistered(_) => "content-key-registered.v1",
            Self::KeySeedRegistered(_) => "key-seed-registered.v1",
            Self::ContentKeyBound(_) => "content-key-bound.v1",
            Self::ContentKeyTyped(_) => "content-key-typed.v1",
            Self::ContentKeyUsed(_) => "content-key-used.v1",
            Self::MasterKeyRotated(_) => "master-key-rotated.v1",
            Self::KeysPinned(_) => "keys-pinned.v1",
            Self::RevocationListsTaken(_) => "revocation-lists-taken.v1",
            Self::ApiKeyCreated(_) => "api-key-created.v1",
            Self::ApiKeyRevoked(_) => "api-key-revoked.v1",
            Self::WebhookChanged(_) => "webhook-changed.v1",
        }
    }

    /// When the fact was recorded.
    pub fn at_ms(&self) -> i64 {
        match self {
            Self::DeviceEnrolled(e) => e.at_ms,
            Self::IdentityLinked(e) => e.at_ms,
            Self::LicenseAcquired(e) => e.at_ms,
            Self::AcquisitionRefused(e) => e.at_ms,
            Self::DecisionRefused(e) => e.at_ms,
            Self::LicenseStored(e) | Self::LicenseStoreFailed(e) => e.at_ms,
            Self::LicenseDeleted(e) => e.at_ms,
            Self::DeletionUnmatched(e) => e.at_ms,
            Self::LicenseVoided(e) => e.at_ms,
            Self::LicenseWrittenOff(e) => e.at_ms,
            Self::DeviceBlocked(e) | Self::DeviceUnblocked(e) => e.at_ms,
            Self::DeviceMerged(e) => e.at_ms,
            Self::DeviceReplaced(e) => e.at_ms,
            Self::DeviceTookOver(e) => e.at_ms,
            Self::EvidenceKept(e) => e.at_ms,
            Self::TokenSpent(e) => e.at_ms,
            Self::QuotaPolicyPublished(e) => e.at_ms,
            Self::SlotTaken(e) => e.at_ms,
            Self::SlotConfirmed(e) => e.at_ms,
            Self::SlotReleased(e) => e.at_ms,
            Self::SlotsMoved(e) => e.at_ms,
            Self::ReservationMade(e) => e.at_ms,
            Self::ReservationClosed(e) => e.at_ms,
            Self::QuotaOverrideSet(e) => e.at_ms,
            Self::LicenseRecorded(e) => e.at_ms,
            Self::StorageRecorded(e) => e.at_ms,
            Self::DeletionRecorded(e) => e.at_ms,
            Self::ReportKept(e) => e.at_ms,
            Self::RequestAnswered(e) => e.at_ms,
            Self::ContentKeyRegistered(e) => e.at_ms,
            Self::KeySeedRegistered(e) => e.at_ms,
            Self::ContentKeyBound(e) => e.at_ms,
            Self::ContentKeyTyped(e) => e.at_ms,
            Self::ContentKeyUsed(e) => e.at_ms,
            Self::MasterKeyRotated(e) => e.at_ms,
            Self::KeysPinned(e) => e.at_ms,
            Self::RevocationListsTaken(e) => e.at_ms,
            Self::ApiKeyCreated(e) => e.at_ms,
            Self::ApiKeyRevoked(e) => e.at_ms,
            Self::WebhookChanged(e) => e.at_ms,
        }
    }

    /// The event's id in `stream`: UUIDv5 over type, stream and the fact's natural key, so that
    /// one fact cannot be stored twice.
    pub fn id(&self, stream: &str) -> Uuid {
        let key = self.natural_key();
        derived_id(&[self.kind().as_bytes(), stream.as_bytes(), key.as_bytes()])
    }

    fn natural_key(&self) -> String {
        match self {
            Self::DeviceEnrolled(e) => e.device.to_string(),
            // An operator can link an identity to a device that it belonged to before.
            Self::IdentityLinked(IdentityLinked { identity, device, actor, at_ms, .. }) => {
                match actor {
                    None => format!("{identity} {device}"),
                    Some(_) => format!("{identity} {device} {at_ms}"),
                }
            }
            Self::LicenseAcquired(e) => format!("{} {} {}", e.identity, e.nonce, e.ordinal),
            Self::AcquisitionRefused(e) => format!("{} {}", e.identity, e.nonce),
            Self::DecisionRefused(e) => e.decision_id.to_string(),
            Self::LicenseStored(e) | Self::LicenseStoreFailed(e) => e.license_id.to_string(),
            // A session can hold several licenses for one KID; each deletion names its own.
            Self::LicenseDeleted(e) => {
                format!("{} {} {} {}", e.identity, e.session, e.key_id, e.license_id)
            }
            Self::DeletionUnmatched(e) => format!("{} {} {}", e.identity, e.session, e.key_id),
            Self::LicenseVoided(e) => e.license_id.to_string(),
            Self::LicenseWrittenOff(e) => e.license_id.to_string(),
            Self::DeviceBlocked(e) | Self::DeviceUnblocked(e) => e.at_ms.to_string(),
            // A device is given up once; one whose licenses were written off can be replaced again.
            Self::DeviceMerged(e) => e.into.to_string(),
            Self::DeviceReplaced(e) => format!("{} {}", e.by, e.at_ms),
            Self::DeviceTookOver(e) => e.from.to_string(),
            Self::EvidenceKept(e) => e.message.clone(),
            Self::TokenSpent(e) => format!("{} {}", e.identity, e.nonce),
            Self::QuotaPolicyPublished(e) => e.at_ms.to_string(),
            // A license that moved is released on another device than it was taken on.
            Self::SlotTaken(e) => format!("{} {}", e.license_id, e.device),
            Self::SlotConfirmed(e) => format!("{} {} {}", e.license_id, e.device, e.confirmed),
            Self::SlotReleased(e) => e.natural_key(),
            Self::SlotsMoved(e) => format!("{} {}", e.from, e.into),
            Self::ReservationMade(e) => e.reservation_id.to_string(),
            Self::ReservationClosed(e) => {
                let first = e.license_ids.first().map(ToString::to_string).unwrap_or_default();
                format!("{} {first}", e.reservation_id)
            }
            Self::QuotaOverrideSet(e) => format!("{} {}", e.rule, e.at_ms),
            Self::LicenseRecorded(e) => e.license_id.to_string(),
            // Several reports may speak of one license: of a deletion, each on better evidence.
            Self::StorageRecorded(e) => format!("{} {}", e.report_id, e.license_id),
            Self::DeletionRecorded(e) => format!("{} {}", e.report_id, e.license_id),
            Self::ReportKept(e) => e.actor.clone(),
            Self::RequestAnswered(e) => format!("{} {}", e.client, e.request_sha256),
            Self::ContentKeyRegistered(e) => e.key_id.to_string(),
            Self::KeySeedRegistered(e) => e.seed_id.clone(),
            Self::ContentKeyBound(e) => e.key_id.to_string(),
            Self::ContentKeyTyped(e) => e.natural_key(),
            Self::ContentKeyUsed(e) => e.key_id.to_string(),
            Self::MasterKeyRotated(e) => e.at_ms.to_string(),
            Self::KeysPinned(e) => e.at_ms.to_string(),
            Self::RevocationListsTaken(e) => e.sequence.to_string(),
            Self::ApiKeyCreated(e) => e.key_id.clone(),
            Self::ApiKeyRevoked(e) => e.key_id.clone(),
            Self::WebhookChanged(e) => format!("{} {}", e.endpoint, e.at_ms),
        }
    }
}
