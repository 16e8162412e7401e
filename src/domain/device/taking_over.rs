//! One device goes on with what another one had.

use super::elsewhere::said_of_deletion;
use super::{Device, LiveLicense};
use crate::domain::event::{
    DeviceReplaced, DeviceTookOver, MovedDoubt, MovedEnd, MovedIssue, MovedLicense, MovedLimit,
    Replaced,
};
use crate::domain::holding::{Doubt, Held, Issued};
use crate::domain::ids::{AccountRef, DeviceRef, KeyId};

/// All that another device takes over from one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belongings {
    /// The accounts that paid for something lately.
    pub accounts: Vec<AccountRef>,
    /// What is live, or reserved.
    pub licenses: Vec<MovedLicense>,
    /// The persistent licenses issued lately.
    pub issued: Vec<MovedIssue>,
    /// What the device may still hold although it was released.
    pub doubtful: Vec<MovedDoubt>,
    /// The limits set for it.
    pub limits: Vec<MovedLimit>,
    /// The licenses that other systems issued and that ended lately.
    pub ended: Vec<MovedEnd>,
}

impl Device {
    /// What another device would take over at this moment.
    pub fn belongings(&self, now_ms: i64) -> Belongings {
        let all = self.slots.iter();
        let all = all.flat_map(|(key_id, licenses)| licenses.iter().map(|l| (*key_id, l)));
        let live = all.filter(|(_, license)| license.is_live(now_ms));
        let issued = self.issued.all().map(|issued| MovedIssue {
            at_ms: issued.at_ms,
            title: issued.title,
            content_group: issued.content_group,
        });
        let doubtful = self.doubtful.all().map(|doubt| MovedDoubt {
            key_id: doubt.key_id,
            until_ms: doubt.until_ms,
            license_id: doubt.license_id,
            account: doubt.account.clone(),
        });
        let limits = self.overrides.in_force(now_ms).map(|(rule, set)| MovedLimit {
            rule: rule.to_owned(),
            limit: set.limit,
            until_ms: set.until_ms,
        });
        Belongings {
            accounts: self.payers(now_ms).into_iter().cloned().collect(),
            licenses: live.map(|(key_id, license)| license.moved(key_id)).collect(),
            issued: issued.collect(),
            doubtful: doubtful.collect(),
            limits: limits.collect(),
            ended: self.ended.moved(),
        }
    }

    pub(super) fn give_up_for(&mut self, other: &DeviceRef) {
        self.slots.clear();
        self.payers.clear();
        self.issued = Default::default();
        self.doubtful = Default::default();
        self.overrides = Default::default();
        self.ended = Default::default();
        self.reservations.clear();
        self.given_up_for = Some(other.clone());
    }

    pub(super) fn be_replaced(&mut self, e: &DeviceReplaced) {
        self.replaced = true;
        match e.licenses {
            Replaced::Moved => self.give_up_for(&e.by),
            Replaced::WrittenOff => {}
        }
    }

    pub(super) fn take_over(&mut self, e: &DeviceTookOver) {
        self.joined = true;
        for license in &e.licenses {
            let slot = self.slots.entry(license.key_id).or_default();
            slot.push(LiveLicense::from(license));
            slot.sort_by_key(|license| license.acquired_ms);
            if let Some(reservation) = license.reservation {
                self.remember_reservation(reservation, license.account.as_ref());
            }
        }
        self.issued.take_over(e.issued.iter().map(|issued| Issued {
            at_ms: issued.at_ms,
            device: None,
            title: issued.title,
            content_group: issued.content_group,
        }));
        for doubt in &e.doubtful {
            self.doubtful.add(Doubt {
                license_id: doubt.license_id,
                key_id: doubt.key_id,
                until_ms: doubt.until_ms,
                device: None,
                account: doubt.account.clone(),
            });
        }
        self.overrides.inherit(&e.limits, e.at_ms);
        self.ended.take_over(&e.ended);
        e.accounts.iter().for_each(|account| self.paid_by(Some(account)));
    }
}

impl LiveLicense {
    fn moved(&self, key_id: KeyId) -> MovedLicense {
        MovedLicense {
            license_id: self.held.license_id,
            key_id,
            identity: self.identity,
            account: self.account.clone(),
            title: self.held.title,
            content_group: self.held.content_group,
            counted_until_ms: self.held.counted_until_ms,
            acquired_ms: self.acquired_ms,
            security_level: self.security_level,
            stored: self.stored,
            store_failed: self.store_failed,
            deleted: self.deletion.is_some(),
            deletion_grade: self.deletion,
            written_off: self.written_off,
            root_key: self.root_key.clone(),
            reservation: self.reservation,
            reported: self.reported,
        }
    }
}

impl From<&MovedLicense> for LiveLicense {
    fn from(moved: &MovedLicense) -> Self {
        let mut license = Self {
            held: Held {
                license_id: moved.license_id,
                counted_until_ms: moved.counted_until_ms,
                confirmed: false,
                reserved: moved.reservation.is_some(),
                title: moved.title,
                content_group: moved.content_group,
            },
            identity: moved.identity,
            account: moved.account.clone(),
            acquired_ms: moved.acquired_ms,
            security_level: moved.security_level,
            stored: moved.stored,
            store_failed: moved.store_failed,
            deletion: said_of_deletion(moved.deleted, moved.deletion_grade),
            written_off: moved.written_off,
            root_key: moved.root_key.clone(),
            reservation: moved.reservation,
            reported: moved.reported,
        };
        license.held.confirmed = license.stored && license.is_kept();
        license
    }
}
