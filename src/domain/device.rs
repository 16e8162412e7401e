//! The state of one device: what its events make true.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::event::{
    AcquisitionRefused, Event, KeySource, LicenseAcquired, LicenseVoided, VoidReason,
};
use super::ids::{KeyId, LicenseId};
use super::quota::{
    CountedLicense, Counts, Explanation, LICENSES_PER_SLOT, QuotaExceeded, QuotaPolicy, Scope,
    Voiding,
};

/// One refusal event for a device, KID and rule in this time, so that a device that keeps asking
/// cannot flood the ledger.
pub const REFUSAL_QUIET_MS: i64 = 60 * 60 * 1000;
/// Refusal events a device may cause in a day.
pub const REFUSALS_PER_DAY: usize = 100;
/// KIDs that a refusal names at most.
pub const REFUSAL_KIDS_MAX: usize = 50;
/// Deletions that match no license for sure, of one device and day, that become events; each could
/// name a session of its own, so that nothing else would bound them.
pub const UNMATCHED_PER_DAY: usize = 100;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Everything a decision about one device needs, bounded by what is live: it does not grow with
/// the device's history. Index rows ([`lookup`](super::lookup)) answer about the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Whether the device has been seen.
    pub enrolled: bool,
    /// Time of the last event; later events are never earlier.
    pub at_ms: i64,
    /// Whether an operator blocked it.
    pub blocked: bool,
    slots: BTreeMap<KeyId, Vec<LiveLicense>>,
    refusals: VecDeque<RecordedRefusal>,
    /// Times of the unmatched deletions recorded within a day.
    unmatched: VecDeque<i64>,
}

/// A persistent license that was not ended by an event. Whether it is live depends on the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LiveLicense {
    id: LicenseId,
    counted_until_ms: Option<i64>,
    acquired_ms: i64,
    /// Of the certificate that it was acquired with.
    security_level: u32,
    confirmed: bool,
    /// Whether the device said that it failed to store it.
    store_failed: bool,
    /// Whether its deletion was signed, on evidence that the policy found too weak to stop it
    /// from counting.
    deleted: bool,
    /// Of a root, where its key came from: the [label](KeySource::label), since the form in which
    /// this state is stored has no tagged enumerations.
    root_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedRefusal {
    at_ms: i64,
    rule: String,
    /// What it named; forgotten after [`REFUSAL_QUIET_MS`].
    key_ids: Vec<KeyId>,
}

impl LiveLicense {
    fn is_live(&self, now_ms: i64) -> bool {
        self.counted_until_ms.is_none_or(|until| now_ms < until)
    }

    /// The device said that it stored it, and has not said since that it deleted it.
    fn is_confirmed(&self) -> bool {
        self.confirmed && !self.deleted
    }

    /// Why `rule` voids it, if it does.
    fn void_reason(&self, rule: &Voiding, now_ms: i64) -> Option<VoidReason> {
        let due = |until_ms| now_ms > until_ms;
        if self.security_level < rule.min_security_level {
            None
        } else if rule.store_failed && self.store_failed {
            Some(VoidReason::StoreFailed)
        } else if !self.confirmed && rule.confirm_until_ms(self.acquired_ms).is_some_and(due) {
            Some(VoidReason::Unconfirmed)
        } else {
            None
        }
    }
}

impl Device {
    /// Applies one stored fact. Total: it cannot fail, because the fact has already happened.
    pub fn evolve(&mut self, fact: &Event) {
        self.at_ms = self.at_ms.max(fact.at_ms());
        match fact {
            Event::DeviceEnrolled(_) => self.enrolled = true,
            Event::LicenseAcquired(e) if e.persistent.effective => self.hold(e),
            Event::LicenseStored(e) => {
                if let Some(license) = self.license_mut(e.key_id, e.license_id) {
                    license.confirmed = true;
                }
            }
            Event::LicenseStoreFailed(e) => {
                if let Some(license) = self.license_mut(e.key_id, e.license_id) {
                    license.store_failed = true;
                }
            }
            Event::LicenseVoided(e) => self.release(e.key_id, e.license_id),
            Event::LicenseDeleted(e) if e.releases => self.release(e.key_id, e.license_id),
            Event::LicenseDeleted(e) => {
                if let Some(license) = self.license_mut(e.key_id, e.license_id) {
                    license.deleted = true;
                }
            }
            Event::AcquisitionRefused(e) => self.remember_refusal(e),
            Event::DeletionUnmatched(e) => self.unmatched.push_back(e.at_ms),
            _ => {}
        }
        self.forget_expired();
    }

    fn hold(&mut self, e: &LicenseAcquired) {
        self.slots.entry(e.key_id).or_default().push(LiveLicense {
            id: e.license_id,
            counted_until_ms: e.counted_until_ms,
            acquired_ms: e.at_ms,
            security_level: e.security_level,
            confirmed: false,
            store_failed: false,
            deleted: false,
            root_key: e.is_root().then(|| e.key_source.label()),
        });
    }

    fn release(&mut self, key_id: KeyId, license_id: LicenseId) {
        if let Some(licenses) = self.slots.get_mut(&key_id) {
            licenses.retain(|license| license.id != license_id);
            if licenses.is_empty() {
                self.slots.remove(&key_id);
            }
        }
    }

    fn remember_refusal(&mut self, e: &AcquisitionRefused) {
        self.refusals.push_back(RecordedRefusal {
            at_ms: e.at_ms,
            rule: e.rule.clone(),
            key_ids: e.key_ids.clone(),
        });
    }

    /// Drops what can no longer matter. Recorded time never goes back, so what has expired at the
    /// last event stays expired.
    fn forget_expired(&mut self) {
        let now_ms = self.at_ms;
        self.slots.retain(|_, licenses| {
            licenses.retain(|license| license.is_live(now_ms));
            !licenses.is_empty()
        });
        while self.refusals.front().is_some_and(|r| r.at_ms <= now_ms - DAY_MS) {
            self.refusals.pop_front();
        }
        for refusal in &mut self.refusals {
            if refusal.at_ms <= now_ms - REFUSAL_QUIET_MS {
                refusal.key_ids = Vec::new();
            }
        }
        while self.unmatched.front().is_some_and(|at_ms| *at_ms <= now_ms - DAY_MS) {
            self.unmatched.pop_front();
        }
    }

    fn license_mut(&mut self, key_id: KeyId, license_id: LicenseId) -> Option<&mut LiveLicense> {
        self.slots.get_mut(&key_id)?.iter_mut().find(|license| license.id == license_id)
    }

    fn live_in(&self, key_id: KeyId, now_ms: i64) -> impl Iterator<Item = &LiveLicense> {
        let licenses = self.slots.get(&key_id).map(Vec::as_slice).unwrap_or_default();
        licenses.iter().filter(move |license| license.is_live(now_ms))
    }

    /// Whether this license is live and no signed deletion named it, even one too weak to free
    /// its slot.
    pub fn keeps(&self, key_id: KeyId, license_id: LicenseId, now_ms: i64) -> bool {
        self.live_in(key_id, now_ms).any(|license| license.id == license_id && !license.deleted)
    }

    /// Whether the device holds a root license for this KID under which a leaf can be made with
    /// the root's key from `source`. What a request named cannot be found again.
    pub fn holds_root(&self, key_id: KeyId, source: &KeySource, now_ms: i64) -> bool {
        let label = Some(source.label());
        let mut live = self.live_in(key_id, now_ms).filter(|license| !license.deleted);
        *source != KeySource::Request && live.any(|license| license.root_key == label)
    }

    /// Whether a license that the device holds for this KID stands in the way of one that
    /// `is_root`, or is not: a root's KID is for nothing else.
    pub fn is_reserved(&self, key_id: KeyId, is_root: bool, now_ms: i64) -> bool {
        self.live_in(key_id, now_ms).any(|license| license.root_key.is_some() != is_root)
    }

    /// Whether the device holds a slot for this KID.
    pub fn holds(&self, key_id: KeyId, now_ms: i64) -> bool {
        self.live_in(key_id, now_ms).next().is_some()
    }

    /// The live licenses that `policy`, of this revision, voids; to be recorded before anything is
    /// decided about the device. Ordered by KID, within one KID by acquisition.
    pub fn overdue(
        &self,
        policy: &QuotaPolicy,
        quota_policy_revision: u64,
        now_ms: i64,
    ) -> Vec<LicenseVoided> {
        let Some(rule) = &policy.voiding else { return Vec::new() };
        let live = self.slots.keys().flat_map(|key_id| {
            self.live_in(*key_id, now_ms).map(move |license| (*key_id, license))
        });
        let voided = live.filter_map(|(key_id, license)| {
            let reason = license.void_reason(rule, now_ms)?;
            let license_id = license.id;
            Some(LicenseVoided { license_id, key_id, reason, quota_policy_revision, at_ms: now_ms })
        });
        voided.collect()
    }

    /// The device as it is once what is [`overdue`](Self::overdue) is recorded.
    pub fn without_overdue(&self, policy: &QuotaPolicy, now_ms: i64) -> Cow<'_, Self> {
        let overdue = self.overdue(policy, 0, now_ms);
        let mut device = Cow::Borrowed(self);
        for voided in overdue {
            device.to_mut().evolve(&Event::LicenseVoided(voided));
        }
        device
    }

    /// Every live license, ordered by KID, within one KID by acquisition.
    pub fn counted(&self, now_ms: i64) -> Vec<CountedLicense> {
        let live = |(key_id, licenses): (&KeyId, &Vec<LiveLicense>)| {
            let key_id = *key_id;
            let live = licenses.iter().filter(|license| license.is_live(now_ms));
            let counted = live.map(move |license| CountedLicense {
                license_id: license.id,
                key_id,
                confirmed: license.is_confirmed(),
                counted_until_ms: license.counted_until_ms,
            });
            counted.collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(live).collect()
    }

    /// Live slots: KIDs with at least one live license.
    pub fn held_slots(&self, now_ms: i64) -> Vec<KeyId> {
        self.slots.keys().copied().filter(|key_id| self.holds(*key_id, now_ms)).collect()
    }

    /// Decides whether `wanted` (KIDs, each for one more persistent license, repeats allowed) fit
    /// under `policy`, and explains it. A request that takes no new slot is within every rule on
    /// slots, also when more are held than the rule allows.
    pub fn explain(&self, wanted: &[KeyId], policy: &QuotaPolicy, now_ms: i64) -> Explanation {
        let held = self.held_slots(now_ms);
        let live = count(held.len());
        let fresh = wanted.iter().filter(|key_id| !self.holds(**key_id, now_ms));
        let requested = count(fresh.collect::<BTreeSet<_>>().len());
        let counted = self.counted(now_ms);
        let mut exceeded = policy.rules.iter().filter(|rule| match (rule.scope, rule.counts) {
            (Scope::Device, Counts::LiveSlots) => {
                requested > 0 && live.saturating_add(requested) > rule.limit
            }
        });
        let denied = exceeded.next().map(|rule| QuotaExceeded {
            rule: rule.id.clone(),
            scope: rule.scope,
            limit: rule.limit,
            held: live,
            requested,
            next_free_at_ms: next_free(&counted),
            held_kids: held,
        });
        let confirmed =
            |key_id: &&KeyId| self.live_in(**key_id, now_ms).any(LiveLicense::is_confirmed);
        Explanation {
            denied: denied.or_else(|| self.overfilled_slot(wanted, policy, now_ms)),
            limit: policy.rules.iter().map(|rule| rule.limit).min(),
            live,
            confirmed: count(self.slots.keys().filter(confirmed).count()),
            requested,
            counted,
        }
    }

    /// The first slot, by KID, that `wanted` would give more licenses than one may hold.
    fn overfilled_slot(
        &self,
        wanted: &[KeyId],
        policy: &QuotaPolicy,
        now_ms: i64,
    ) -> Option<QuotaExceeded> {
        let mut wanted_per_kid = BTreeMap::<KeyId, u32>::new();
        for key_id in wanted {
            *wanted_per_kid.entry(*key_id).or_default() += 1;
        }
        wanted_per_kid.into_iter().find_map(|(key_id, requested)| {
            let held = count(self.live_in(key_id, now_ms).count());
            let over = held.saturating_add(requested) > policy.licenses_per_slot;
            over.then(|| QuotaExceeded {
                rule: LICENSES_PER_SLOT.to_owned(),
                scope: Scope::Device,
                limit: policy.licenses_per_slot,
                held,
                requested,
                next_free_at_ms: self
                    .live_in(key_id, now_ms)
                    .filter_map(|license| license.counted_until_ms)
                    .min(),
                held_kids: vec![key_id],
            })
        })
    }

    /// The KIDs that a refusal by this rule names in its event: each at most once in an hour,
    /// [`REFUSAL_KIDS_MAX`] an event, [`REFUSALS_PER_DAY`] events a device and day. None: the
    /// refusal is not worth an event and is only counted as a metric.
    pub fn refusal_to_record(&self, wanted: &[KeyId], rule: &str, now_ms: i64) -> Vec<KeyId> {
        let today = self.refusals.iter().filter(|r| r.at_ms > now_ms - DAY_MS);
        if today.count() >= REFUSALS_PER_DAY {
            return Vec::new();
        }
        let recent = |r: &&RecordedRefusal| r.rule == rule && r.at_ms > now_ms - REFUSAL_QUIET_MS;
        let named: BTreeSet<&KeyId> =
            self.refusals.iter().filter(recent).flat_map(|r| &r.key_ids).collect();
        let fresh = wanted.iter().filter(|key_id| !named.contains(key_id));
        fresh.collect::<BTreeSet<_>>().into_iter().copied().take(REFUSAL_KIDS_MAX).collect()
    }

    /// How many more unmatched deletions become events today.
    pub fn room_for_unmatched(&self, now_ms: i64) -> usize {
        let today = self.unmatched.iter().filter(|at_ms| **at_ms > now_ms - DAY_MS);
        UNMATCHED_PER_DAY.saturating_sub(today.count())
    }
}

/// When the first slot frees by expiry: each slot frees when its last license does.
fn next_free(counted: &[CountedLicense]) -> Option<i64> {
    let mut last = BTreeMap::<KeyId, Option<i64>>::new();
    for license in counted {
        let until = last.entry(license.key_id).or_insert(Some(i64::MIN));
        *until = until.zip(license.counted_until_ms).map(|(a, b)| a.max(b));
    }
    last.into_values().flatten().min()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
