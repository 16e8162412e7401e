//! The state of one device: what its events make true.

pub mod elsewhere;
mod taking_over;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use uuid::Uuid;

use super::event::{
    Event, Grade, KeySource, LicenseAcquired, LicenseVoided, LicenseWrittenOff, ReservationClosed,
    ReservationMade, VoidReason,
};
use super::holding::{Doubt, Doubtful, Held, IssuedLog, Overrides};
use super::ids::{AccountRef, DeviceRef, Identity, KeyId, LicenseId, Tag};
use super::quota::{QuotaPolicy, Voiding};
use super::reserve::Reserved;
use elsewhere::{Ended, better};

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
/// Accounts that a device remembers as having paid for something on it, the latest: to any other
/// that pays for nothing live there, a device that goes on with what this one had is a new one.
const PAYERS_KEPT: usize = 8;
/// Reservations of which a device remembers who pays, the newest: of an older one that has ended,
/// a report has to say so itself.
const RESERVATIONS_KEPT: usize = 64;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Everything a decision about one device needs, bounded by what is live: it does not grow with
/// the device's history. Index rows ([`lookup`](super::lookup)) answer about the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Whether one of its certificates has been seen.
    pub enrolled: bool,
    /// Time of the last event; later events are never earlier.
    pub at_ms: i64,
    /// Whether an operator blocked it.
    pub blocked: bool,
    /// Whether an operator replaced it by another one: it gets no more licenses.
    pub replaced: bool,
    /// The device that goes on with what this one had, its identities included. Nothing happens to
    /// this one any more.
    pub given_up_for: Option<DeviceRef>,
    /// Whether it ever got an identity that was another device's: then index rows of it were put by
    /// events of that one.
    pub joined: bool,
    /// Security level it was last seen with.
    pub security_level: Option<u32>,
    /// Maker, model name and number it was last seen with; empty if they are not known.
    pub model: String,
    slots: BTreeMap<KeyId, Vec<LiveLicense>>,
    /// Accounts that paid for something on it, the latest last.
    payers: VecDeque<AccountRef>,
    /// Persistent licenses issued lately.
    pub(super) issued: IssuedLog,
    /// What it may still hold although it was released.
    pub(super) doubtful: Doubtful,
    /// Limits set for it.
    pub(super) overrides: Overrides,
    /// Licenses that other systems issued and that ended lately.
    ended: Ended,
    /// Who pays for what is reported of a reservation, the newest last.
    reservations: VecDeque<MadeReservation>,
    refusals: VecDeque<RecordedRefusal>,
    /// Times of the unmatched deletions recorded within a day.
    unmatched: VecDeque<i64>,
}

/// A persistent license that was not ended by an event, or a reservation of one. Whether it is live
/// depends on the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LiveLicense {
    held: Held,
    /// Who acquired it; `None`: it is a reservation, or another system issued it.
    identity: Option<Identity>,
    account: Option<AccountRef>,
    acquired_ms: i64,
    /// Of the certificate that it was acquired with.
    security_level: u32,
    /// Whether the device acknowledged that it stored it.
    stored: bool,
    /// Whether the device said that it failed to store it.
    store_failed: bool,
    /// The best grade on which its deletion was said, too weak for the policy to stop it from
    /// counting.
    deletion: Option<Grade>,
    /// Whether it was written off, and only counts until its time.
    written_off: bool,
    /// Of a root, where its key came from: the [label](KeySource::label), since the form in which
    /// this state is stored has no tagged enumerations.
    root_key: Option<String>,
    /// The reservation that this is a slot of, if it is no license.
    reservation: Option<Uuid>,
    /// Of a license that another system issued, how that names it.
    reported: Option<Tag>,
}

/// A reservation, live or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MadeReservation {
    id: Uuid,
    account: Option<AccountRef>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedRefusal {
    at_ms: i64,
    rule: String,
    /// What it named; forgotten after [`REFUSAL_QUIET_MS`].
    key_ids: Vec<KeyId>,
}

impl LiveLicense {
    /// One of which nothing is said yet.
    fn new(held: Held, account: Option<AccountRef>, acquired_ms: i64, security_level: u32) -> Self {
        Self {
            held,
            identity: None,
            account,
            acquired_ms,
            security_level,
            stored: false,
            store_failed: false,
            deletion: None,
            written_off: false,
            root_key: None,
            reservation: None,
            reported: None,
        }
    }

    fn is_live(&self, now_ms: i64) -> bool {
        self.held.is_live(now_ms)
    }

    /// Whether the device has it as far as everybody says: it is not deleted, nor written off.
    fn is_kept(&self) -> bool {
        self.deletion.is_none() && !self.written_off
    }

    /// What is in doubt once it is released.
    fn doubt(&self, key_id: KeyId) -> Doubt {
        Doubt {
            license_id: Some(self.held.license_id),
            key_id,
            until_ms: self.held.counted_until_ms,
            device: None,
            account: self.account.clone(),
        }
    }

    /// Why `rule` voids it, if it does.
    fn void_reason(&self, rule: &Voiding, now_ms: i64) -> Option<VoidReason> {
        let due = |until_ms| now_ms > until_ms;
        // What is written off ends when its time is up, not before.
        let exempt = self.reservation.is_some() || self.written_off;
        if exempt || self.security_level < rule.min_security_level {
            None
        } else if rule.store_failed && self.store_failed {
            Some(VoidReason::StoreFailed)
        } else if !self.stored && rule.confirm_until_ms(self.acquired_ms).is_some_and(due) {
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
            Event::DeviceEnrolled(e) => {
                self.enrolled = true;
                self.seen_as(e.security_level, &e.model);
            }
            Event::IdentityLinked(_) => self.joined = true,
            Event::LicenseAcquired(e) => {
                self.seen_as(e.security_level, &e.model);
                if e.persistent.effective {
                    self.hold(e);
                }
            }
            Event::LicenseStored(e) => self.remember_storing(e.key_id, e.license_id, true),
            Event::LicenseStoreFailed(e) => self.remember_storing(e.key_id, e.license_id, false),
            Event::LicenseVoided(e) => self.release(e.key_id, e.license_id, true),
            Event::LicenseWrittenOff(e) => self.give_up_license(e),
            Event::DeviceBlocked(_) => self.blocked = true,
            Event::DeviceUnblocked(_) => (self.blocked, self.replaced) = (false, false),
            Event::DeviceMerged(e) => self.give_up_for(&e.into),
            Event::DeviceReplaced(e) => self.be_replaced(e),
            Event::DeviceTookOver(e) => self.take_over(e),
            Event::LicenseDeleted(e) => {
                self.delete_license(e.key_id, e.license_id, e.grade, e.releases)
            }
            Event::LicenseRecorded(e) => self.hold_recorded(e),
            Event::StorageRecorded(e) => self.remember_storing(e.key_id, e.license_id, e.stored),
            Event::DeletionRecorded(e) => {
                self.delete_license(e.key_id, e.license_id, e.grade, e.releases)
            }
            Event::ReservationMade(e) => self.reserve(e),
            Event::ReservationClosed(e) => self.close_reservation(e),
            Event::QuotaOverrideSet(e) => self.overrides.set(e),
            Event::AcquisitionRefused(e) => self.remember_refusal(&e.rule, &e.key_ids, e.at_ms),
            Event::DecisionRefused(e) => self.remember_refusal(&e.rule, &e.key_ids, e.at_ms),
            Event::DeletionUnmatched(e) => self.unmatched.push_back(e.at_ms),
            _ => {}
        }
        self.forget_expired();
    }

    fn seen_as(&mut self, security_level: u32, model: &str) {
        self.security_level = Some(security_level);
        if self.model != model {
            self.model = model.to_owned();
        }
    }

    fn hold(&mut self, e: &LicenseAcquired) {
        let (title, group) = (e.title.as_deref(), e.content_group.as_deref());
        let held = Held::new(e.license_id, e.counted_until_ms, title, group);
        self.issued.add(held.issued(e.at_ms, None));
        self.paid_by(e.account.as_ref());
        self.slots.entry(e.key_id).or_default().push(LiveLicense {
            identity: Some(e.identity),
            root_key: e.is_root().then(|| e.key_source.label()),
            ..LiveLicense::new(held, e.account.clone(), e.at_ms, e.security_level)
        });
    }

    /// Whether the device stored a license.
    fn remember_storing(&mut self, key_id: KeyId, license_id: LicenseId, stored: bool) {
        self.ended.speak(license_id);
        let Some(license) = self.license_mut(key_id, license_id) else { return };
        license.stored |= stored;
        license.store_failed |= !stored;
        license.held.confirmed = license.stored && license.is_kept();
    }

    /// A deletion, which ends the license if it `releases`. What had ended before is not possible any
    /// more, if the grade is good.
    fn delete_license(
        &mut self,
        key_id: KeyId,
        license_id: LicenseId,
        grade: Grade,
        releases: bool,
    ) {
        let weak = grade >= Grade::C;
        if let Some(license) = self.license_mut(key_id, license_id) {
            license.deletion = better(license.deletion, grade);
            license.held.confirmed = false;
            if !releases {
                return;
            }
            self.release(key_id, license_id, weak);
        }
        self.ended.delete(license_id, grade);
        if !weak {
            self.doubtful.settle(license_id);
        }
    }

    fn paid_by(&mut self, account: Option<&AccountRef>) {
        let Some(account) = account.filter(|account| self.payers.back() != Some(account)) else {
            return;
        };
        self.payers.retain(|payer| payer != account);
        if self.payers.len() >= PAYERS_KEPT {
            self.payers.pop_front();
        }
        self.payers.push_back(account.clone());
    }

    fn remember_reservation(&mut self, id: Uuid, account: Option<&AccountRef>) {
        if self.reservations.iter().any(|made| made.id == id) {
            return;
        }
        if self.reservations.len() >= RESERVATIONS_KEPT {
            self.reservations.pop_front();
        }
        self.reservations.push_back(MadeReservation { id, account: account.cloned() });
    }

    fn reserve(&mut self, e: &ReservationMade) {
        self.paid_by(e.account.as_ref());
        self.remember_reservation(e.reservation_id, e.account.as_ref());
        for slot in &e.slots {
            let (title, group) = (slot.title.as_deref(), slot.content_group.as_deref());
            let held = Held::new(slot.license_id, Some(e.expires_ms), title, group);
            let held = Held { reserved: true, ..held };
            let level = e.security_level.unwrap_or_default();
            self.slots.entry(slot.key_id).or_default().push(LiveLicense {
                reservation: Some(e.reservation_id),
                ..LiveLicense::new(held, e.account.clone(), e.at_ms, level)
            });
        }
    }

    fn close_reservation(&mut self, e: &ReservationClosed) {
        self.slots.retain(|_, licenses| {
            licenses.retain(|license| {
                license.reservation != Some(e.reservation_id)
                    || !e.license_ids.contains(&license.held.license_id)
            });
            !licenses.is_empty()
        });
    }

    /// Ends a license; `weak`: the device may hold it all the same.
    fn release(&mut self, key_id: KeyId, license_id: LicenseId, weak: bool) {
        let Some(licenses) = self.slots.get_mut(&key_id) else { return };
        let Some(at) = licenses.iter().position(|l| l.held.license_id == license_id) else {
            return;
        };
        let released = licenses.remove(at);
        if licenses.is_empty() {
            self.slots.remove(&key_id);
        }
        self.ended.add(key_id, &released);
        if weak {
            self.doubtful.add(released.doubt(key_id));
        }
    }

    fn give_up_license(&mut self, e: &LicenseWrittenOff) {
        let Some(frees_at_ms) = e.frees_at_ms else {
            return self.release(e.key_id, e.license_id, true);
        };
        let Some(license) = self.license_mut(e.key_id, e.license_id) else { return };
        let doubt = license.doubt(e.key_id);
        license.held.give_up(frees_at_ms);
        license.written_off = true;
        self.doubtful.add(doubt);
    }

    fn remember_refusal(&mut self, rule: &str, key_ids: &[KeyId], at_ms: i64) {
        let (rule, key_ids) = (rule.to_owned(), key_ids.to_vec());
        self.refusals.push_back(RecordedRefusal { at_ms, rule, key_ids });
    }

    /// Drops what can no longer matter. Recorded time never goes back, so what has expired at the
    /// last event stays expired.
    fn forget_expired(&mut self) {
        let now_ms = self.at_ms;
        let Self { slots, ended, .. } = self;
        // Nearly always nothing has expired, and to look is cheaper than to sort out.
        if slots.values().flatten().any(|license| !license.is_live(now_ms)) {
            slots.retain(|key_id, licenses| {
                licenses.retain(|license| {
                    let is_live = license.is_live(now_ms);
                    if !is_live {
                        ended.add(*key_id, license);
                    }
                    is_live
                });
                !licenses.is_empty()
            });
        }
        self.doubtful.forget_expired(now_ms);
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
        self.slots
            .get_mut(&key_id)?
            .iter_mut()
            .find(|license| license.held.license_id == license_id)
    }

    fn live_in(&self, key_id: KeyId, now_ms: i64) -> impl Iterator<Item = &LiveLicense> {
        let licenses = self.slots.get(&key_id).map(Vec::as_slice).unwrap_or_default();
        licenses.iter().filter(move |license| license.is_live(now_ms))
    }

    /// Whether this license is live, no signed deletion named it, even one too weak to free its
    /// slot, and nobody wrote it off.
    pub fn keeps(&self, key_id: KeyId, license_id: LicenseId, now_ms: i64) -> bool {
        let is_it = |license: &LiveLicense| license.held.license_id == license_id;
        self.live_in(key_id, now_ms).any(|license| is_it(license) && license.is_kept())
    }

    /// The account that pays for a license that is live on the device, if it has one.
    pub fn account_of(
        &self,
        key_id: KeyId,
        license_id: LicenseId,
        now_ms: i64,
    ) -> Option<&AccountRef> {
        let is_it = |license: &&LiveLicense| license.held.license_id == license_id;
        self.live_in(key_id, now_ms).find(is_it)?.account.as_ref()
    }

    /// The accounts that pay for what is live on the device, or paid for what it may still hold.
    pub fn accounts(&self, now_ms: i64) -> BTreeSet<&AccountRef> {
        // The last one that paid is among them: if there is none, nobody ever did.
        if self.payers.is_empty() {
            return BTreeSet::new();
        }
        let live = self.slots.values().flatten().filter(|license| license.is_live(now_ms));
        let live = live.filter_map(|license| license.account.as_ref());
        live.chain(self.doubtful.all().filter_map(|doubt| doubt.account.as_ref())).collect()
    }

    /// The account that paid for a license that the device may still hold although it was released.
    pub fn in_doubt(&self, license_id: LicenseId) -> Option<&AccountRef> {
        let mut all = self.doubtful.all();
        all.find(|doubt| doubt.license_id == Some(license_id))?.account.as_ref()
    }

    /// Those accounts, and the last that paid for anything, up to eight.
    pub fn payers(&self, now_ms: i64) -> BTreeSet<&AccountRef> {
        self.accounts(now_ms).into_iter().chain(&self.payers).collect()
    }

    /// Whether anything is live on the device that this identity acquired.
    pub fn holds_of(&self, identity: Identity, now_ms: i64) -> bool {
        let mut live = self.slots.values().flatten().filter(|license| license.is_live(now_ms));
        live.any(|license| license.identity == Some(identity))
    }

    /// The limits set for this device that are in force.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// Whether the device holds a root license for this KID under which a leaf can be made with
    /// the root's key from `source`. What a request named cannot be found again.
    pub fn holds_root(&self, key_id: KeyId, source: &KeySource, now_ms: i64) -> bool {
        let label = Some(source.label());
        let mut live = self.live_in(key_id, now_ms).filter(|license| license.is_kept());
        !matches!(source, KeySource::Request { .. })
            && live.any(|license| license.root_key == label)
    }

    /// Whether a license that the device holds for this KID stands in the way of one that
    /// `is_root`, or is not: a root's KID is for nothing else.
    pub fn is_reserved(&self, key_id: KeyId, is_root: bool, now_ms: i64) -> bool {
        let mut licenses =
            self.live_in(key_id, now_ms).filter(|license| license.reservation.is_none());
        licenses.any(|license| license.root_key.is_some() != is_root)
    }

    /// Whether the device holds a slot for this KID.
    pub fn holds(&self, key_id: KeyId, now_ms: i64) -> bool {
        self.live_in(key_id, now_ms).next().is_some()
    }

    /// The live licenses that nobody wrote off yet, ordered by KID, within one KID by acquisition.
    pub fn not_written_off(&self, now_ms: i64) -> impl Iterator<Item = (KeyId, LicenseId)> {
        let all = self.slots.iter();
        let all = all.flat_map(|(key_id, licenses)| licenses.iter().map(|l| (*key_id, l)));
        let open = all.filter(move |(_, license)| {
            license.is_live(now_ms) && !license.written_off && license.reservation.is_none()
        });
        open.map(|(key_id, license)| (key_id, license.held.license_id))
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
            let license_id = license.held.license_id;
            Some(LicenseVoided { license_id, key_id, reason, quota_policy_revision, at_ms: now_ms })
        });
        voided.collect()
    }

    /// Every live license and reservation, ordered by KID, within one KID by acquisition.
    pub fn held(&self, now_ms: i64) -> impl Iterator<Item = (KeyId, &Held)> {
        let all = self.slots.iter();
        let all = all.flat_map(|(key_id, licenses)| licenses.iter().map(|l| (*key_id, &l.held)));
        all.filter(move |(_, held)| held.is_live(now_ms))
    }

    /// What a reservation still holds, ordered by KID.
    pub fn reserved_by(
        &self,
        reservation_id: Uuid,
        now_ms: i64,
    ) -> impl Iterator<Item = Reserved<'_>> {
        let all = self.slots.iter().flat_map(|(key_id, slot)| slot.iter().map(|l| (*key_id, l)));
        let its = all.filter(move |(_, license)| license.reservation == Some(reservation_id));
        its.filter(move |(_, license)| license.is_live(now_ms)).map(|(key_id, license)| Reserved {
            license_id: license.held.license_id,
            key_id,
            account: license.account.as_ref(),
            expires_ms: license.held.counted_until_ms.unwrap_or(i64::MAX),
        })
    }

    /// Live licenses and reservations of one slot.
    pub fn count_in_slot(&self, key_id: KeyId, now_ms: i64) -> usize {
        self.live_in(key_id, now_ms).count()
    }

    /// Live slots: KIDs with at least one live license.
    pub fn held_slots(&self, now_ms: i64) -> Vec<KeyId> {
        self.slots.keys().copied().filter(|key_id| self.holds(*key_id, now_ms)).collect()
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

#[cfg(test)]
mod tests;
