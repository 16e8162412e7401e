//! What a decision changes: a device, and the accounts that pay for what it holds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Licensing, LicensingError};
use crate::domain::{Account, AccountRef, Device, DeviceRef, Event};
use crate::ledger::state::{AccountGuard, DeviceGuard};
use crate::ledger::{Appended, Expected, StreamName};

/// A device and its accounts, held for one decision.
pub(super) struct Subject {
    name: DeviceRef,
    pub(super) guard: DeviceGuard,
    pub(super) accounts: BTreeMap<AccountRef, AccountGuard>,
}

impl Subject {
    /// The device's name.
    pub(super) fn name(&self) -> &DeviceRef {
        &self.name
    }

    /// The device's state.
    pub(super) fn device(&self) -> &Device {
        self.guard.device()
    }

    /// The state of one of the accounts.
    pub(super) fn account(&self, account: Option<&AccountRef>) -> Option<&Account> {
        Some(self.accounts.get(account?)?.account())
    }

    /// The time of the last event of all that is held.
    pub(super) fn at_ms(&self) -> i64 {
        let accounts = self.accounts.values().map(|guard| guard.account().at_ms);
        accounts.fold(self.device().at_ms, i64::max)
    }

    /// What an append names so that it fails if any of them has moved.
    pub(super) fn checks(&self) -> impl Iterator<Item = (StreamName, Expected)> {
        let accounts = self.accounts.values();
        let accounts = accounts.map(|a| (a.stream().clone(), Expected::at_head(a.head())));
        let device = (self.guard.stream().clone(), Expected::at_head(self.guard.head()));
        accounts.chain([device])
    }

    /// Reads the heads and folds what is new; tells whether there was anything.
    pub(super) async fn refresh(&mut self) -> Result<bool, LicensingError> {
        let mut moved = self.guard.refresh().await?;
        for account in self.accounts.values_mut() {
            moved |= account.refresh().await?;
        }
        Ok(moved)
    }

    /// Folds what was just stored, of which `events` are all records.
    pub(super) async fn committed(
        &mut self,
        events: &[(StreamName, Event)],
        appended: &Appended,
    ) -> Result<(), LicensingError> {
        if appended.already_stored {
            return self.refresh().await.map(drop);
        }
        let base = self.guard.head().map_or(0, |head| head + 1);
        let mine = events.iter().zip(appended.first_sequence..);
        let mine = mine.filter(|((stream, _), _)| stream == self.guard.stream());
        let mine = mine.zip(base..).map(|(((_, e), sequence), rev)| (e, rev, sequence));
        let mine = mine.collect::<Vec<_>>();
        self.guard.committed(mine).await?;
        for account in self.accounts.values_mut() {
            let mut written = appended.revisions.iter();
            let Some((stream, last)) = written.find(|(stream, _)| stream == account.stream())
            else {
                continue;
            };
            let of_account = events.iter().filter(|(of, _)| of == stream).map(|(_, event)| event);
            account.committed(of_account, *last).await?;
        }
        Ok(())
    }
}

impl Licensing {
    /// Waits for the device, and for the accounts: `paying`, and those of what the device holds.
    pub(super) async fn hold(
        &self,
        device: &DeviceRef,
        paying: Option<&AccountRef>,
    ) -> Result<Subject, LicensingError> {
        let guard = self.deciding.hold(device).await?;
        let mut subject = Subject { name: device.clone(), guard, accounts: BTreeMap::new() };
        self.hold_accounts(&mut subject, paying).await?;
        Ok(subject)
    }

    /// Waits for the accounts again, those of what the device holds by now. Let go of first, since
    /// they are taken in the order of their names.
    pub(super) async fn hold_accounts(
        &self,
        subject: &mut Subject,
        paying: Option<&AccountRef>,
    ) -> Result<(), LicensingError> {
        subject.accounts.clear();
        let device = subject.guard.device();
        let accounts: BTreeSet<_> =
            device.accounts(device.at_ms).into_iter().chain(paying).cloned().collect();
        for account in accounts {
            let guard = self.deciding.hold_account(&account).await?;
            subject.accounts.insert(account, guard);
        }
        Ok(())
    }
}
