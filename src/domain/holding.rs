//! What devices and accounts hold, as far as rules count it: the parts that both states share.

mod issued;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::event::{MovedLimit, QuotaOverrideSet};
use super::ids::{AccountRef, DeviceRef, KeyId, LicenseId, Tag};

pub use issued::{ISSUED_KEPT, Issued, IssuedLog};

/// Released on weak evidence: so many are remembered, the newest.
const DOUBTFUL_KEPT: usize = 128;

/// Limits set in place of those of rules, of one device or account.
pub const OVERRIDES_MAX: usize = 64;

/// A license or a reservation that counts until its time, unless an event ends it before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The license, or what a reservation holds for one.
    pub license_id: LicenseId,
    /// From when on it does not count.
    pub counted_until_ms: Option<i64>,
    /// Whether the device confirmed that it stored it, and has not said since that it deleted it.
    pub confirmed: bool,
    /// Whether it is a reservation.
    pub reserved: bool,
    /// The title, if the service named one.
    pub title: Option<Tag>,
    /// The content group, if the service named one.
    pub content_group: Option<Tag>,
}

impl Held {
    /// A license that nobody has confirmed.
    pub(super) fn new(
        license_id: LicenseId,
        counted_until_ms: Option<i64>,
        title: Option<&str>,
        content_group: Option<&str>,
    ) -> Self {
        Self {
            license_id,
            counted_until_ms,
            confirmed: false,
            reserved: false,
            title: title.map(Tag::of),
            content_group: content_group.map(Tag::of),
        }
    }

    /// What is remembered of its having been issued; accounts name the device.
    pub(super) fn issued(&self, at_ms: i64, device: Option<Tag>) -> Issued {
        Issued { at_ms, device, title: self.title, content_group: self.content_group }
    }

    /// Whether it counts at this time.
    pub fn is_live(&self, now_ms: i64) -> bool {
        self.counted_until_ms.is_none_or(|until| now_ms < until)
    }

    /// Lets it count until `frees_at_ms` at most: nobody has it any more.
    pub(super) fn give_up(&mut self, frees_at_ms: i64) {
        let until_ms = self.counted_until_ms.unwrap_or(i64::MAX).min(frees_at_ms);
        self.counted_until_ms = Some(until_ms);
        self.confirmed = false;
    }
}

/// What a device may still hold although it no longer counts: released on weak evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Doubtful(VecDeque<Doubt>);

/// A license that was released on weak evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doubt {
    /// The license; `None` of what was moved by an event that does not say.
    pub(super) license_id: Option<LicenseId>,
    pub(super) key_id: KeyId,
    /// When it ends by itself.
    pub(super) until_ms: Option<i64>,
    /// The device that may hold it; only accounts say.
    pub(super) device: Option<DeviceRef>,
    /// The account that paid for it; only devices say.
    pub(super) account: Option<AccountRef>,
}

impl Doubt {
    fn is_live(&self, now_ms: i64) -> bool {
        self.until_ms.is_none_or(|until| now_ms < until)
    }
}

impl Doubtful {
    pub(super) fn add(&mut self, doubt: Doubt) {
        if doubt.license_id.is_some() {
            self.0.retain(|other| other.license_id != doubt.license_id);
        }
        if self.0.len() >= DOUBTFUL_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(doubt);
    }

    /// Nobody holds this license any more.
    pub(super) fn settle(&mut self, license_id: LicenseId) {
        self.0.retain(|doubt| doubt.license_id != Some(license_id));
    }

    /// Has one device in the place of another.
    pub(super) fn rename(&mut self, from: &DeviceRef, into: &DeviceRef) {
        for doubt in self.0.iter_mut().filter(|doubt| doubt.device.as_ref() == Some(from)) {
            doubt.device = Some(into.clone());
        }
    }

    /// All that is remembered, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Doubt> {
        self.0.iter()
    }

    pub(super) fn forget_expired(&mut self, now_ms: i64) {
        self.0.retain(|doubt| doubt.is_live(now_ms));
    }

    /// Slots, as (device, KID), that may still be held at this time, one for each license; accounts
    /// name the device.
    pub fn slots(&self, now_ms: i64) -> impl Iterator<Item = (Option<&DeviceRef>, KeyId)> {
        let live = self.0.iter().filter(move |doubt| doubt.is_live(now_ms));
        live.map(|doubt| (doubt.device.as_ref(), doubt.key_id))
    }
}

/// Limits in place of those of rules, by rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overrides(BTreeMap<String, Override>);

/// A limit in place of a rule's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The limit.
    pub limit: u32,
    /// Until when.
    pub until_ms: Option<i64>,
}

impl Overrides {
    pub(super) fn set(&mut self, e: &QuotaOverrideSet) {
        match e.limit {
            Some(limit) => {
                self.0.insert(e.rule.clone(), Override { limit, until_ms: e.until_ms });
            }
            None => {
                self.0.remove(&e.rule);
            }
        }
        self.0.retain(|_, set| set.is_in_force(e.at_ms));
    }

    /// Takes over the limits of another device, for rules of which none is in force here.
    pub(super) fn inherit(&mut self, limits: &[MovedLimit], now_ms: i64) {
        for MovedLimit { rule, limit, until_ms } in limits {
            if self.limit(rule, now_ms).is_none() {
                self.0.insert(rule.clone(), Override { limit: *limit, until_ms: *until_ms });
            }
        }
        self.0.retain(|_, set| set.is_in_force(now_ms));
    }

    /// The limit set for `rule`, if one is in force.
    pub fn limit(&self, rule: &str, now_ms: i64) -> Option<u32> {
        self.0.get(rule).filter(|set| set.is_in_force(now_ms)).map(|set| set.limit)
    }

    /// All in force, by rule.
    pub fn in_force(&self, now_ms: i64) -> impl Iterator<Item = (&str, Override)> {
        let all = self.0.iter().filter(move |(_, set)| set.is_in_force(now_ms));
        all.map(|(rule, set)| (rule.as_str(), *set))
    }
}

impl Override {
    fn is_in_force(&self, now_ms: i64) -> bool {
        self.until_ms.is_none_or(|until| now_ms < until)
    }
}
