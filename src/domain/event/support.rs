//! Facts that operators and support make: what became of a device beside what it says itself.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Grade;
use crate::domain::ids::{AccountRef, DeviceRef, Identity, KeyId, LicenseId, Tag};

/// An operator gave a license up: its device lost it, or is lost itself. What the device says of it
/// later brings nothing back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseWrittenOff {
    /// The license.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// Who wrote it off: the public part of an API key, or `cli`.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// From when on it does not count; absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frees_at_ms: Option<i64>,
    /// When.
    pub at_ms: i64,
}

/// A device gets no more licenses, or gets them again. It may give back what it has all the while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceBlock {
    /// Who blocked or unblocked it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}

/// Two devices turned out to be one. Last event of the stream of the one that is given up: what it
/// held, and its identities, belong to the other from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMerged {
    /// The device that goes on.
    pub into: DeviceRef,
    /// Who merged them.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}

/// What becomes of the licenses of a device that another one replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replaced {
    /// They count for the new device, to which the old one's identities belong from here on.
    Moved,
    /// They were written off.
    WrittenOff,
}

/// Another device took the place of this one, which gets no more licenses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReplaced {
    /// The new device.
    pub by: DeviceRef,
    /// What became of the licenses.
    pub licenses: Replaced,
    /// Who said so.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}

/// A device took over what another one held: in its own stream what [`DeviceMerged`] or
/// [`DeviceReplaced`] is in that of the other, stored in the same append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTookOver {
    /// The other device.
    pub from: DeviceRef,
    /// Whether this device replaces the other; else they are one.
    pub replaces: bool,
    /// The accounts that paid for something on it lately.
    pub accounts: Vec<AccountRef>,
    /// What was live on it, or reserved.
    pub licenses: Vec<MovedLicense>,
    /// The persistent licenses issued to it lately, oldest first, for rules that look back.
    pub issued: Vec<MovedIssue>,
    /// What it may still hold although it was released.
    pub doubtful: Vec<MovedDoubt>,
    /// The limits set for it, for rules of which none is set for the device that goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<MovedLimit>,
    /// The licenses of it that other systems issued and that ended lately, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<MovedEnd>,
    /// Who made it so.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}

/// A live license or a reservation on its way to another device: all that is known of it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedLicense {
    /// The license, or what a reservation holds for one.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// Who acquired it; absent from reservations and from what another system issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The account that pays for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountRef>,
    /// Tag of the title, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Tag>,
    /// Tag of the content group, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_group: Option<Tag>,
    /// From when on it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_until_ms: Option<i64>,
    /// When it was acquired or reserved.
    pub acquired_ms: i64,
    /// Security level that it was acquired with.
    pub security_level: u32,
    /// Whether the device acknowledged that it stored it.
    pub stored: bool,
    /// Whether the device said that it failed to store it.
    pub store_failed: bool,
    /// Whether a deletion was said that was too weak to end it.
    pub deleted: bool,
    /// The best grade on which that was said; absent from events of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_grade: Option<Grade>,
    /// Whether it is written off and only counts until its time.
    pub written_off: bool,
    /// Of a root, where its key came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<String>,
    /// The reservation that it is a slot of, if it is no license.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Uuid>,
    /// Of a license that another system issued, the tag of how that names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Tag>,
}

/// A persistent license that was issued, live or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedIssue {
    /// When.
    pub at_ms: i64,
    /// Tag of the title, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Tag>,
    /// Tag of the content group, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_group: Option<Tag>,
}

/// A KID of which a device may still hold a license that was released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedDoubt {
    /// The KID.
    pub key_id: KeyId,
    /// When that license ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// The license.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license_id: Option<LicenseId>,
    /// The account that paid for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountRef>,
}

/// A limit that an operator set for a device, in place of a rule's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedLimit {
    /// Id of the rule.
    pub rule: String,
    /// The limit.
    pub limit: u32,
    /// From when on the rule's own limit holds again; absent: until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

/// A license that another system issued and that does not count any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedEnd {
    /// The license.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// The tag of how its system names it.
    pub reported: Tag,
    /// Whether it was said whether the device stored it.
    pub spoken_of: bool,
    /// Whether it was said that the device deleted it.
    pub deleted: bool,
    /// The best grade on which that was said; absent from events of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_grade: Option<Grade>,
}

/// What one device held at an account's expense counts for another from here on: the mirror, in the
/// account's stream, of [`DeviceTookOver`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsMoved {
    /// The device that held them.
    pub from: DeviceRef,
    /// The device that holds them.
    pub into: DeviceRef,
    /// Its security level, as far as it is known.
    pub security_level: Option<u32>,
    /// Its maker, model name and number; empty if they are not known.
    pub model: String,
    /// When.
    pub at_ms: i64,
}
