//! Facts about quotas: policies, exceptions, the slots of accounts, reservations.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::ids::{AccountRef, DeviceRef, KeyId, LicenseId};
use crate::domain::quota::QuotaPolicy;

/// A quota policy came into force. Its revision in the `policy` stream is its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaPolicyPublished {
    /// The policy.
    pub policy: QuotaPolicy,
    /// Who published it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}

/// A limit was set for one device or account, in whose stream this stands, in place of what the
/// policy's rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaOverrideSet {
    /// Id of the rule.
    pub rule: String,
    /// The limit; `None` takes an earlier one back.
    pub limit: Option<u32>,
    /// From when on the rule's own limit holds again; `None`: until it is taken back.
    pub until_ms: Option<i64>,
    /// Who set it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}

/// A persistent license, or a reservation of one, counts against an account, in whose stream this
/// stands: the mirror of a fact in the device's stream, stored in the same append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTaken {
    /// The license, or what a reservation holds for one.
    pub license_id: LicenseId,
    /// The device it is on.
    pub device: DeviceRef,
    /// Its KID.
    pub key_id: KeyId,
    /// From when on it no longer counts.
    pub counted_until_ms: Option<i64>,
    /// The title, as the service names it.
    pub title: Option<String>,
    /// The content group, as the service names it.
    pub content_group: Option<String>,
    /// Security level of the device, as far as it is known.
    pub security_level: Option<u32>,
    /// Maker, model name and number of the device; empty if they are not known.
    pub model: String,
    /// Whether it is a reservation.
    pub reserved: bool,
    /// When.
    pub at_ms: i64,
}

/// What the device's word makes of a license that counts against the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotConfirmed {
    /// The license.
    pub license_id: LicenseId,
    /// The device it is on.
    pub device: DeviceRef,
    /// Its KID.
    pub key_id: KeyId,
    /// Whether the device confirmed storing it; no longer once it signed a deletion that released
    /// nothing.
    pub confirmed: bool,
    /// When.
    pub at_ms: i64,
}

/// Why a slot was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotEnd {
    /// The license was deleted.
    Deleted,
    /// A rule voided it.
    Voided,
    /// An operator wrote it off.
    WrittenOff,
    /// Its reservation was released, or became a license.
    ReservationClosed,
}

impl SlotEnd {
    /// The stored word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Voided => "voided",
            Self::WrittenOff => "written_off",
            Self::ReservationClosed => "reservation_closed",
        }
    }
}

/// A license no longer counts against an account: the mirror of a fact in the device's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReleased {
    /// The license.
    pub license_id: LicenseId,
    /// The device it was on.
    pub device: DeviceRef,
    /// Its KID.
    pub key_id: KeyId,
    /// Why.
    pub cause: SlotEnd,
    /// Whether the device may still hold it: released on weak evidence.
    pub weak: bool,
    /// From when on it does not count; `None`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frees_at_ms: Option<i64>,
    /// When.
    pub at_ms: i64,
}

impl SlotReleased {
    pub(super) fn natural_key(&self) -> String {
        // What was released on weak evidence may be proven gone later.
        let proven = self.cause == SlotEnd::Deleted && !self.weak;
        let proven = if proven { " proven" } else { "" };
        format!("{} {} {}{proven}", self.license_id, self.device, self.cause.word())
    }
}

/// One slot of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedSlot {
    /// By which the slot is counted; no license has this id.
    pub license_id: LicenseId,
    /// The KID.
    pub key_id: KeyId,
    /// The title, as the service names it.
    pub title: Option<String>,
    /// The content group, as the service names it.
    pub content_group: Option<String>,
}

/// Room was held on a device for licenses that somebody else issues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationMade {
    /// The reservation.
    pub reservation_id: Uuid,
    /// What it holds.
    pub slots: Vec<ReservedSlot>,
    /// The account that pays the slots.
    pub account: Option<AccountRef>,
    /// When it ends by itself.
    pub expires_ms: i64,
    /// Security level of the device, as far as it is known.
    pub security_level: Option<u32>,
    /// Maker, model name and number of the device; empty if they are not known.
    pub model: String,
    /// Revision of the `policy` stream under which it was decided.
    pub quota_policy_revision: u64,
    /// Made beyond a limit, as a rule allowed.
    pub overage: bool,
    /// Who made it: the public part of an API key.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// A decision that was to be committed was denied by a quota rule, so that whoever asked issues
/// nothing. Recorded with the restraint of [`AcquisitionRefused`](super::AcquisitionRefused), and
/// counted with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRefused {
    /// The decision.
    pub decision_id: Uuid,
    /// KIDs that were refused and that no refusal by the same rule named within the hour before,
    /// each once, at most 50.
    pub key_ids: Vec<KeyId>,
    /// The account that was to pay.
    pub account: Option<AccountRef>,
    /// Id of the rule that refused.
    pub rule: String,
    /// Its limit.
    pub limit: u32,
    /// How much of it was in use.
    pub held: u32,
    /// How much more was asked for.
    pub requested: u32,
    /// Security level of the device, as far as it is known.
    pub security_level: Option<u32>,
    /// Maker, model name and number of the device; empty if they are not known.
    pub model: String,
    /// Revision of the `policy` stream under which it was decided.
    pub quota_policy_revision: u64,
    /// Who asked: the public part of an API key.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// How a reservation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationEnd {
    /// Its licenses were issued.
    Committed,
    /// It was given back.
    Released,
}

/// A reservation ended, or a part of it, before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationClosed {
    /// The reservation.
    pub reservation_id: Uuid,
    /// The slots that it no longer holds.
    pub license_ids: Vec<LicenseId>,
    /// How.
    pub end: ReservationEnd,
    /// Who ended it: the public part of an API key.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}
