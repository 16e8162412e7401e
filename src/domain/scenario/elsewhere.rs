//! What back ends say of a device.

use uuid::Uuid;

use super::{POLICY_REVISION, Scenario, account_ref};
use crate::domain::account::Account;
use crate::domain::device::elsewhere::{Record, RecordTerms, Report, ReportRefused, Which};
use crate::domain::event::{Event, Grade, LicenseRecorded};
use crate::domain::ids::{KeyId, LicenseId};
use crate::domain::reserve::Reserve;
use crate::domain::usage::{Usage, Wanted};

impl Scenario {
    /// Has room held for these KIDs, if it is there; returns the reservation.
    pub(crate) fn reserve(
        &mut self,
        kids: &[KeyId],
        account: Option<&'static str>,
        hold_ms: i64,
    ) -> Option<Uuid> {
        self.void_overdue();
        let first = self.drawn + 1;
        self.drawn += 1 + kids.len() as u128;
        let reservation_id = Uuid::from_u128(first);
        let wanted = |key_id: &KeyId| Wanted { key_id: *key_id, title: None, content_group: None };
        let wanted: Vec<_> = kids.iter().map(wanted).collect();
        let account = account.map(account_ref);
        let new = Account::default();
        let usage = Usage {
            account: account.as_ref().map(|name| self.accounts.get(name).unwrap_or(&new)),
            ..self.usage()
        };
        let policy_revision = POLICY_REVISION;
        let account = account.as_ref();
        let reserve = Reserve { reservation_id, account, hold_ms, policy_revision, actor: "shop" };
        let slot_id = |place| LicenseId(Uuid::from_u128(first + 1 + place as u128));
        let (explanation, made) = usage.reserve(&wanted, &reserve, slot_id);
        let Some(made) = made else {
            let refused = usage.refuse(&wanted, &explanation, &reserve);
            refused.into_iter().for_each(|refused| self.record(Event::DecisionRefused(refused)));
            return None;
        };
        self.record(Event::ReservationMade(made));
        Some(reservation_id)
    }

    /// Reports a license that another system issued; tells whether it was recorded.
    pub(crate) fn record_elsewhere(
        &mut self,
        license: LicenseRecorded,
        reservation_id: Option<Uuid>,
    ) -> bool {
        self.void_overdue();
        let report = self.report();
        let new = Account::default();
        let name = license.account.clone();
        let account = name.as_ref().map(|name| (name, self.accounts.get(name).unwrap_or(&new)));
        let (device, policy) = (&self.name, &self.policy);
        let terms = RecordTerms { device, account, policy, policy_revision: POLICY_REVISION };
        let record = Record { licenses: vec![license], reservation_id };
        let events = self.device.record(record, report, terms, self.now_ms);
        let events = events.unwrap_or_default();
        let recorded = !events.is_empty();
        events.into_iter().for_each(|event| self.record(event));
        recorded
    }

    /// Reports that a license of another system was stored, or not.
    pub(crate) fn record_storage(&mut self, which: Which, stored: bool) -> bool {
        self.void_overdue();
        let report = self.report();
        let events = self.device.record_storage(&[(which, stored)], report, self.now_ms);
        let events = events.unwrap_or_default();
        let recorded = !events.is_empty();
        events.into_iter().for_each(|event| self.record(Event::StorageRecorded(event)));
        recorded
    }

    /// Reports that a license of another system was deleted.
    pub(crate) fn record_deletion(
        &mut self,
        which: Which,
        grade: Grade,
    ) -> Result<(), ReportRefused> {
        self.void_overdue();
        let report = Report { grade, ..self.report() };
        let events = self.device.record_deletions(&[which], report, &self.policy, self.now_ms)?;
        events.into_iter().for_each(|event| self.record(Event::DeletionRecorded(event)));
        Ok(())
    }

    /// A report of the shop that no other one is taken for.
    fn report(&mut self) -> Report<'static> {
        self.drawn += 1;
        let report_id = Uuid::from_u128(self.drawn);
        let (evidence, occurred_ms) = (None, None);
        Report { report_id, actor: "shop", grade: Grade::D, evidence, occurred_ms }
    }

    /// Gives a reservation back; tells whether there was anything to give.
    pub(crate) fn release(&mut self, reservation_id: Uuid) -> bool {
        let closed = self.device.release_reservation(reservation_id, "shop", self.now_ms);
        let found = closed.is_some();
        closed.into_iter().for_each(|closed| self.record(Event::ReservationClosed(closed)));
        found
    }
}
