//! Facts about licenses that other systems issued, as those report them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Grade;
use crate::domain::ids::{AccountRef, Digest, KeyId, LicenseId};

/// Another system issued a license for the device. Counted like one of this service's own, and
/// recorded also where that is beyond a limit: it has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseRecorded {
    /// The license, as this ledger knows it.
    pub license_id: LicenseId,
    /// The content key's id.
    pub key_id: KeyId,
    /// The system that issued it, for example `widevine`.
    pub drm_system: String,
    /// How that system names it.
    pub license_reference: String,
    /// Whether it is persistent: only those count.
    pub persistent: bool,
    /// From when on the license no longer counts; `None` counts until it is ended.
    pub counted_until_ms: Option<i64>,
    /// The account that pays the slot.
    pub account: Option<AccountRef>,
    /// The title, as the service names it.
    pub title: Option<String>,
    /// The content group, as the service names it.
    pub content_group: Option<String>,
    /// Security level of the device, as far as it is known.
    pub security_level: Option<u32>,
    /// Maker, model name and number of the device; empty if they are not known.
    pub model: String,
    /// Revision of the `policy` stream that was in force.
    pub quota_policy_revision: u64,
    /// Whether it is beyond a limit, allowed or not.
    pub overage: bool,
    /// What shows that it was issued, by the reporter's word; never [`Grade::A`]. Absent from events
    /// of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grade: Option<Grade>,
    /// Names the `evidence-<hash>` stream: SHA-256 of the message reported with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Digest>,
    /// When it was issued, by the reporter's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_ms: Option<i64>,
    /// Who reported it: the public part of an API key.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// Another system learned whether the device stored a license. The first word counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageRecorded {
    /// The report.
    pub report_id: Uuid,
    /// The license.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// Whether the device stored it.
    pub stored: bool,
    /// What shows that, by the reporter's word; never [`Grade::A`]. Absent from events of older
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grade: Option<Grade>,
    /// Names the `evidence-<hash>` stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Digest>,
    /// When, by the reporter's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_ms: Option<i64>,
    /// Who reported it: the public part of an API key.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// Another system learned that the device deleted a license.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionRecorded {
    /// The report.
    pub report_id: Uuid,
    /// The license.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// What the deletion proves, by the reporter's word; never [`Grade::A`].
    pub grade: Grade,
    /// Whether, under the policy in force, this grade ends the license.
    pub releases: bool,
    /// Names the `evidence-<hash>` stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Digest>,
    /// When, by the reporter's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_ms: Option<i64>,
    /// Who reported it: the public part of an API key.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// A message that came with a report, kept as it came. Only event of its `evidence-<hash>` stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportKept {
    /// The message, base64.
    pub message: String,
    /// Who brought it: the public part of an API key.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}
