//! What other systems report of licenses that they issued.
//!
//! A report is a fact, not a wish: it is recorded also for a blocked device and beyond a limit. What
//! it is refused for is being about no license, or about one that the device itself must speak for.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Device, LiveLicense};
use crate::domain::account::{Account, mirror};
use crate::domain::event::{
    DeletionRecorded, Event, Grade, LicenseRecorded, ReservationClosed, ReservationEnd,
    StorageRecorded,
};
use crate::domain::holding::{Held, Issued};
use crate::domain::ids::{AccountRef, DeviceRef, Digest, KeyId, LicenseId, Tag};
use crate::domain::quota::QuotaPolicy;
use crate::domain::usage::{Usage, Verdict, Wanted};

/// What every report says.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The report.
    pub report_id: Uuid,
    /// Who brings it: the public part of an API key.
    pub actor: &'a str,
    /// SHA-256 of the message that came with it.
    pub evidence: Option<Digest>,
    /// When it happened, by the reporter's word.
    pub occurred_ms: Option<i64>,
}

/// Licenses that another system issued for one device.
#[derive(Clone, Debug)]
pub struct Record {
    /// The licenses, all paid by one account. Their `quota_policy_revision`, `overage` and `at_ms`
    /// are set by the decision.
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
    /// No live license of the device is meant.
    #[error("is no license that the device holds")]
    NotHeld(usize),
    /// The license was issued by this service for a device that signs its deletions.
    #[error(
        "was issued by this service: only a deletion that its device signed, or an operator's \
         write-off, ends it"
    )]
    SignedOnly(usize),
}

impl ReportRefused {
    /// Place of the license in the report.
    pub fn place(self) -> usize {
        match self {
            Self::AlreadyHeld(place) | Self::NotHeld(place) | Self::SignedOnly(place) => place,
        }
    }
}

impl Which {
    fn means(&self, license: &LiveLicense) -> bool {
        match self {
            Self::License(id) => license.reservation.is_none() && license.held.license_id == *id,
            Self::Reference { drm_system, license_reference } => {
                license.reported == Some(reference_tag(drm_system, license_reference))
            }
        }
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
        let closed = record.reservation_id.and_then(|reservation_id| {
            self.commit_reservation(reservation_id, &record.licenses, report, now_ms)
        });
        let mut events: Vec<_> = closed.into_iter().map(Event::ReservationClosed).collect();
        let overage = self.is_beyond_limits(&record.licenses, &events, terms, now_ms);
        let recorded = record.licenses.into_iter().map(|license| {
            Event::LicenseRecorded(Box::new(LicenseRecorded {
                quota_policy_revision: terms.policy_revision,
                overage: overage && license.persistent,
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
            let (key_id, license) = self.reported(which, place, now_ms)?;
            let license_id = license.held.license_id;
            let said = license.stored || license.store_failed;
            if said || events.iter().any(|event| event.license_id == license_id) {
                continue;
            }
            events.push(StorageRecorded {
                report_id: report.report_id,
                license_id,
                key_id,
                stored: *stored,
                evidence: report.evidence,
                occurred_ms: report.occurred_ms,
                actor: report.actor.to_owned(),
                at_ms: now_ms,
            });
        }
        Ok(events)
    }

    /// Decides about licenses that another system says the device deleted. Whether that frees them
    /// depends on the grade of the evidence, as the policy has it.
    pub fn record_deletions(
        &self,
        deleted: &[Which],
        grade: Grade,
        report: Report<'_>,
        policy: &QuotaPolicy,
        now_ms: i64,
    ) -> Result<Vec<DeletionRecorded>, ReportRefused> {
        let mut events = Vec::<DeletionRecorded>::new();
        for (place, which) in deleted.iter().enumerate() {
            let (key_id, license) = self.reported(which, place, now_ms)?;
            let license_id = license.held.license_id;
            if events.iter().any(|event| event.license_id == license_id) {
                continue;
            }
            events.push(DeletionRecorded {
                report_id: report.report_id,
                license_id,
                key_id,
                grade,
                releases: policy.releasing_grades.contains(&grade),
                evidence: report.evidence,
                occurred_ms: report.occurred_ms,
                actor: report.actor.to_owned(),
                at_ms: now_ms,
            });
        }
        Ok(events)
    }

    /// The live license that is meant, if others may speak for it.
    fn reported(
        &self,
        which: &Which,
        place: usize,
        now_ms: i64,
    ) -> Result<(KeyId, &LiveLicense), ReportRefused> {
        let all = self.slots.iter().flat_map(|(key_id, slot)| slot.iter().map(|l| (*key_id, l)));
        let mut live = all.filter(|(_, license)| license.is_live(now_ms));
        let found = live.find(|(_, license)| which.means(license));
        match found.ok_or(ReportRefused::NotHeld(place))? {
            (_, license) if license.reported.is_none() => Err(ReportRefused::SignedOnly(place)),
            found => Ok(found),
        }
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
        let title = e.title.as_deref().map(Tag::of);
        let content_group = e.content_group.as_deref().map(Tag::of);
        self.issued.add(Issued { at_ms: e.at_ms, device: None, title, content_group });
        self.paid_by(e.account.as_ref());
        self.slots.entry(e.key_id).or_default().push(LiveLicense {
            held: Held {
                license_id: e.license_id,
                counted_until_ms: e.counted_until_ms,
                confirmed: false,
                reserved: false,
                title,
                content_group,
            },
            identity: None,
            account: e.account.clone(),
            acquired_ms: e.at_ms,
            security_level: e.security_level.unwrap_or_default(),
            stored: false,
            store_failed: false,
            deleted: false,
            written_off: false,
            root_key: None,
            reservation: None,
            reported: Some(reference_tag(&e.drm_system, &e.license_reference)),
        });
    }
}

#[cfg(test)]
mod tests;
