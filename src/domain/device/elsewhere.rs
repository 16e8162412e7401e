//! What other systems report of licenses that they issued.
//!
//! A report is a fact, not a wish: it is recorded also for a blocked device and beyond a limit. What
//! it is refused for is being about no license, or about one that the device itself must speak for.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Device, LiveLicense};
use crate::domain::account::{Account, mirror};
use crate::domain::event::{
    DeletionRecorded, Event, Grade, LicenseRecorded, MovedEnd, ReservationClosed, ReservationEnd,
    StorageRecorded,
};
use crate::domain::holding::Held;
use crate::domain::ids::{AccountRef, DeviceRef, Digest, KeyId, LicenseId, Tag};
use crate::domain::quota::QuotaPolicy;
use crate::domain::usage::{Usage, Verdict, Wanted};

/// Licenses issued elsewhere that a device remembers when they have ended, the newest.
const ENDED_KEPT: usize = 256;

/// What every report says.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The report.
    pub report_id: Uuid,
    /// Who brings it: the public part of an API key.
    pub actor: &'a str,
    /// What shows that it is so.
    pub grade: Grade,
    /// SHA-256 of the message that came with it.
    pub evidence: Option<Digest>,
    /// When it happened, by the reporter's word.
    pub occurred_ms: Option<i64>,
}

/// Licenses that another system issued for one device.
#[derive(Clone, Debug)]
pub struct Record {
    /// The licenses, all paid by one account. What the report says, their `quota_policy_revision`,
    /// `overage` and `at_ms` are set by the decision.
    pub licenses: Vec<LicenseRecorded>,
    /// The reservation that held room for them.
    pub reservation_id: Option<Uuid>,
}

/// What a record is judged on, beside the device.
#[derive(Clone, Copy, Debug)]
pub struct RecordTerms<'a> {
    /// The device's name.
    pub device: &'a DeviceRef,
    /// The account that pays, by name and state.
    pub account: Option<(&'a AccountRef, &'a Account)>,
    /// The quota policy.
    pub policy: &'a QuotaPolicy,
    /// Its revision.
    pub policy_revision: u64,
}

/// Which license a report is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that this ledger calls so.
    License(LicenseId),
    /// The one that another system calls so.
    Reference {
        /// The system.
        drm_system: String,
        /// Its name there.
        license_reference: String,
    },
}

/// Why a report is not recorded. Each names the license by its place in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportRefused {
    /// The device holds a live license that the system calls so, or the report says it twice.
    #[error("is held already under this drm_system and license_reference: report its end first")]
    AlreadyHeld(usize),
    /// No license is meant that the device holds, or one of the last that it held.
    #[error("is no license that the device holds or held lately")]
    NotHeld(usize),
    /// The license was issued by this service for a device that signs its deletions.
    #[error(
        "was issued by this service: only a deletion that its device signed, or an operator's \
         write-off, ends it"
    )]
    SignedOnly(usize),
    /// Who pays is not said, nor known of the reservation.
    #[error(
        "is no reservation whose account is known: name the account that pays, or leave \
         reservation_id out if none does"
    )]
    UnknownReservation,
}

impl ReportRefused {
    /// Place of the license in the report, if it is about one.
    pub fn place(self) -> Option<usize> {
        match self {
            Self::AlreadyHeld(place) | Self::NotHeld(place) | Self::SignedOnly(place) => {
                Some(place)
            }
            Self::UnknownReservation => None,
        }
    }
}

impl Which {
    fn means(&self, license: &LiveLicense) -> bool {
        match self {
            Self::License(id) => license.reservation.is_none() && license.held.license_id == *id,
            Self::Reference { .. } => license.reported == self.tag(),
        }
    }

    /// What is kept of the name in another system, if it goes by that.
    fn tag(&self) -> Option<Tag> {
        match self {
            Self::License(_) => None,
            Self::Reference { drm_system, license_reference } => {
                Some(reference_tag(drm_system, license_reference))
            }
        }
    }
}

/// A license that a report is about.
struct Meant {
    license_id: LicenseId,
    key_id: KeyId,
    /// Whether it was said whether the device stored it.
    spoken_of: bool,
    /// The best grade on which it was said that the device deleted it.
    deletion: Option<Grade>,
    /// Whether it counts.
    live: bool,
}

/// Licenses that other systems issued and that ended: so that what is said of them late is recorded
/// as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ended(VecDeque<EndedLicense>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EndedLicense {
    license_id: LicenseId,
    key_id: KeyId,
    reported: Tag,
    spoken_of: bool,
    deletion: Option<Grade>,
}

/// What is known of a deletion of which something is said once more.
pub(super) fn better(known: Option<Grade>, grade: Grade) -> Option<Grade> {
    Some(known.map_or(grade, |known| known.min(grade)))
}

/// What another device knew of a deletion. Where an event does not say how well, it is taken for the
/// least, so that whatever is better is recorded.
pub(super) fn said_of_deletion(deleted: bool, grade: Option<Grade>) -> Option<Grade> {
    grade.or(deleted.then_some(Grade::E))
}

impl Ended {
    /// Remembers a license that another system issued.
    pub(super) fn add(&mut self, key_id: KeyId, license: &LiveLicense) {
        let Some(reported) = license.reported else { return };
        self.keep(EndedLicense {
            license_id: license.held.license_id,
            key_id,
            reported,
            spoken_of: license.is_spoken_of(),
            deletion: license.deletion,
        });
    }

    fn keep(&mut self, license: EndedLicense) {
        if self.0.len() >= ENDED_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(license);
    }

    pub(super) fn delete(&mut self, license_id: LicenseId, grade: Grade) {
        self.of(license_id).for_each(|license| license.deletion = better(license.deletion, grade));
    }

    pub(super) fn speak(&mut self, license_id: LicenseId) {
        self.of(license_id).for_each(|license| license.spoken_of = true);
    }

    fn of(&mut self, license_id: LicenseId) -> impl Iterator<Item = &mut EndedLicense> {
        self.0.iter_mut().filter(move |license| license.license_id == license_id)
    }

    /// All of them for another device, oldest first.
    pub(super) fn moved(&self) -> Vec<MovedEnd> {
        let moved = self.0.iter().map(|license| MovedEnd {
            license_id: license.license_id,
            key_id: license.key_id,
            reported: license.reported,
            spoken_of: license.spoken_of,
            deleted: license.deletion.is_some(),
            deletion_grade: license.deletion,
        });
        moved.collect()
    }

    pub(super) fn take_over(&mut self, ended: &[MovedEnd]) {
        for moved in ended {
            self.keep(EndedLicense {
                license_id: moved.license_id,
                key_id: moved.key_id,
                reported: moved.reported,
                spoken_of: moved.spoken_of,
                deletion: said_of_deletion(moved.deleted, moved.deletion_grade),
            });
        }
    }

    /// The newest that is meant.
    fn find(&self, which: &Which) -> Option<Meant> {
        let means = |license: &&EndedLicense| match which {
            Which::License(id) => license.license_id == *id,
            reference => reference.tag() == Some(license.reported),
        };
        let license = self.0.iter().rev().find(means)?;
        Some(Meant {
            license_id: license.license_id,
            key_id: license.key_id,
            spoken_of: license.spoken_of,
            deletion: license.deletion,
            live: false,
        })
    }
}

impl LiveLicense {
    /// Whether it was said whether the device stored it.
    fn is_spoken_of(&self) -> bool {
        self.stored || self.store_failed
    }
}

/// What is kept of how another system names a license.
fn reference_tag(drm_system: &str, license_reference: &str) -> Tag {
    Tag::of(&format!("{drm_system}\0{license_reference}"))
}

impl Device {
    /// Decides about licenses that were issued elsewhere. The event that ends their part of the
    /// reservation comes first, if it still holds something for them.
    pub fn record(
        &self,
        record: Record,
        report: Report<'_>,
        terms: RecordTerms<'_>,
        now_ms: i64,
    ) -> Result<Vec<Event>, ReportRefused> {
        let mut named = BTreeSet::new();
        for (place, license) in record.licenses.iter().enumerate() {
            let tag = reference_tag(&license.drm_system, &license.license_reference);
            let mut live = self.slots.values().flatten().filter(|l| l.is_live(now_ms));
            if live.any(|l| l.reported == Some(tag)) || !named.insert(tag) {
                return Err(ReportRefused::AlreadyHeld(place));
            }
        }
        let unpaid = record.licenses.iter().any(|license| license.account.is_none());
        if unpaid && record.reservation_id.is_some_and(|id| self.made(id, now_ms).is_none()) {
            return Err(ReportRefused::UnknownReservation);
        }
        let closed = record.reservation_id.and_then(|reservation_id| {
            self.commit_reservation(reservation_id, &record.licenses, report, now_ms)
        });
        let mut events: Vec<_> = closed.into_iter().map(Event::ReservationClosed).collect();
        let overage = self.is_beyond_limits(&record.licenses, &events, terms, now_ms);
        let recorded = record.licenses.into_iter().map(|license| {
            Event::LicenseRecorded(Box::new(LicenseRecorded {
                quota_policy_revision: terms.policy_revision,
                overage: overage && license.persistent,
                grade: Some(report.grade),
                evidence: report.evidence,
                occurred_ms: report.occurred_ms,
                actor: report.actor.to_owned(),
                at_ms: now_ms,
                ..license
            }))
        });
        events.extend(recorded);
        Ok(events)
    }

    /// Who pays for what a reservation holds or held, if that is remembered: all that are live, and
    /// the last that were made.
    fn made(&self, reservation_id: Uuid, now_ms: i64) -> Option<Option<&AccountRef>> {
        let live = self.reserved_by(reservation_id, now_ms).next().map(|slot| slot.account);
        let mut made = self.reservations.iter().filter(|made| made.id == reservation_id);
        live.or_else(|| made.next().map(|made| made.account.as_ref()))
    }

    /// The account that pays for what is issued under a reservation, also if that has ended.
    pub fn payer_of(&self, reservation_id: Uuid, now_ms: i64) -> Option<&AccountRef> {
        self.made(reservation_id, now_ms).flatten()
    }

    /// Ends as many slots of the reservation as licenses for their KIDs were issued.
    fn commit_reservation(
        &self,
        reservation_id: Uuid,
        licenses: &[LicenseRecorded],
        report: Report<'_>,
        now_ms: i64,
    ) -> Option<ReservationClosed> {
        let mut issued: Vec<KeyId> = licenses.iter().map(|license| license.key_id).collect();
        let mut license_ids = Vec::new();
        for slot in self.reserved_by(reservation_id, now_ms) {
            if let Some(at) = issued.iter().position(|key_id| *key_id == slot.key_id) {
                issued.swap_remove(at);
                license_ids.push(slot.license_id);
            }
        }
        (!license_ids.is_empty()).then(|| ReservationClosed {
            reservation_id,
            license_ids,
            end: ReservationEnd::Committed,
            actor: report.actor.to_owned(),
            at_ms: now_ms,
        })
    }

    /// Whether the licenses go beyond a limit, once `first` has happened.
    fn is_beyond_limits(
        &self,
        licenses: &[LicenseRecorded],
        first: &[Event],
        terms: RecordTerms<'_>,
        now_ms: i64,
    ) -> bool {
        let mut device = self.clone();
        let mut account = terms.account.map(|(name, account)| (name, account.clone()));
        for (of, event) in mirror(terms.device, self, first) {
            let paying = account.iter_mut().filter(|(name, _)| **name == of);
            paying.for_each(|(_, account)| account.evolve(&event));
        }
        first.iter().for_each(|event| device.evolve(event));
        // A block is no limit.
        (device.blocked, device.replaced) = (false, false);
        let (level, model) = match licenses.first() {
            Some(first) => (first.security_level, first.model.as_str()),
            None => (None, ""),
        };
        let usage = Usage {
            device: &device,
            name: terms.device,
            account: account.as_ref().map(|(_, account)| account),
            policy: terms.policy,
            security_level: level.or(device.security_level),
            model: if model.is_empty() { &device.model } else { model },
            now_ms,
        };
        let persistent = licenses.iter().filter(|license| license.persistent);
        let wanted: Vec<_> = persistent
            .map(|license| Wanted {
                key_id: license.key_id,
                title: license.title.as_deref(),
                content_group: license.content_group.as_deref(),
            })
            .collect();
        !matches!(usage.judge(&wanted), Ok(Verdict::Allow))
    }

    /// Decides about what another system learned of the storing of licenses that it issued; of a
    /// license that the device has spoken of nothing changes.
    pub fn record_storage(
        &self,
        results: &[(Which, bool)],
        report: Report<'_>,
        now_ms: i64,
    ) -> Result<Vec<StorageRecorded>, ReportRefused> {
        let mut events = Vec::<StorageRecorded>::new();
        for (place, (which, stored)) in results.iter().enumerate() {
            let Meant { license_id, key_id, spoken_of, .. } =
                self.reported(which, place, now_ms)?;
            if spoken_of || events.iter().any(|event| event.license_id == license_id) {
                continue;
            }
            events.push(StorageRecorded {
                report_id: report.report_id,
                license_id,
                key_id,
                stored: *stored,
                grade: Some(report.grade),
                evidence: report.evidence,
                occurred_ms: report.occurred_ms,
                actor: report.actor.to_owned(),
                at_ms: now_ms,
            });
        }
        Ok(events)
    }

    /// Decides about licenses that another system says the device deleted. Whether that frees them
    /// depends on the grade of the evidence, as the policy has it. What says no more of a license
    /// than is known is left out: evidence that is no better than before, unless it ends it.
    pub fn record_deletions(
        &self,
        deleted: &[Which],
        report: Report<'_>,
        policy: &QuotaPolicy,
        now_ms: i64,
    ) -> Result<Vec<DeletionRecorded>, ReportRefused> {
        let grade = report.grade;
        let releases = policy.releasing_grades.contains(&grade);
        let mut events = Vec::<DeletionRecorded>::new();
        for (place, which) in deleted.iter().enumerate() {
            let meant = self.reported(which, place, now_ms)?;
            let Meant { license_id, key_id, .. } = meant;
            let says_more = meant.deletion.is_none_or(|known| grade < known);
            let ends_it = releases && meant.live;
            let is_named = events.iter().any(|event| event.license_id == license_id);
            if is_named || !(says_more || ends_it) {
                continue;
            }
            events.push(DeletionRecorded {
                report_id: report.report_id,
                license_id,
                key_id,
                grade,
                releases,
                evidence: report.evidence,
                occurred_ms: report.occurred_ms,
                actor: report.actor.to_owned(),
                at_ms: now_ms,
            });
        }
        Ok(events)
    }

    /// The license that is meant, if others may speak for it: a live one, else one that ended lately.
    fn reported(&self, which: &Which, place: usize, now_ms: i64) -> Result<Meant, ReportRefused> {
        let all = self.slots.iter().flat_map(|(key_id, slot)| slot.iter().map(|l| (*key_id, l)));
        let meant = all.filter(|(_, license)| which.means(license));
        // One that expired since the last event is still among the slots.
        let found = meant.max_by_key(|(_, license)| license.is_live(now_ms));
        match found {
            Some((_, license)) if license.reported.is_none() && license.is_live(now_ms) => {
                Err(ReportRefused::SignedOnly(place))
            }
            Some((key_id, license)) if license.reported.is_some() => Ok(Meant {
                license_id: license.held.license_id,
                key_id,
                spoken_of: license.is_spoken_of(),
                deletion: license.deletion,
                live: license.is_live(now_ms),
            }),
            _ => self.ended.find(which).ok_or(ReportRefused::NotHeld(place)),
        }
    }

    /// Whether this license counts at this time.
    pub fn counts(&self, key_id: KeyId, license_id: LicenseId, now_ms: i64) -> bool {
        self.live_in(key_id, now_ms).any(|license| license.held.license_id == license_id)
    }

    /// Folds a license that was issued elsewhere.
    pub(super) fn hold_recorded(&mut self, e: &LicenseRecorded) {
        if !self.enrolled {
            self.security_level = e.security_level.or(self.security_level);
            if !e.model.is_empty() {
                self.model.clone_from(&e.model);
            }
        }
        if !e.persistent {
            return;
        }
        let (title, group) = (e.title.as_deref(), e.content_group.as_deref());
        let held = Held::new(e.license_id, e.counted_until_ms, title, group);
        self.issued.add(held.issued(e.at_ms, None));
        self.paid_by(e.account.as_ref());
        let level = e.security_level.unwrap_or_default();
        self.slots.entry(e.key_id).or_default().push(LiveLicense {
            reported: Some(reference_tag(&e.drm_system, &e.license_reference)),
            ..LiveLicense::new(held, e.account.clone(), e.at_ms, level)
        });
    }
}

#[cfg(test)]
mod tests;
