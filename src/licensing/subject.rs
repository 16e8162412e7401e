//! What a decision changes: a device, seldom a second one, and the accounts that pay for what they
//! hold.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use super::commit::Attempts;
use super::{Licensing, LicensingError};
use crate::domain::{Account, AccountRef, Device, DeviceRef, Event};
use crate::ledger::state::{AccountGuard, DeviceGuard};
use crate::ledger::{Appended, Expected, StreamName};

/// A device and its accounts, held for one decision.
pub(super) struct Subject {
    /// The device that was asked for.
    pub(super) asked_for: DeviceRef,
    name: DeviceRef,
    pub(super) guard: DeviceGuard,
    /// Whether an operator replaced that device.
    pub(super) replaced: bool,
    /// The second device that the decision is about, if there is one.
    pub(super) other: Option<(DeviceRef, DeviceGuard)>,
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

    /// All devices by name.
    pub(super) fn devices(&self) -> impl DoubleEndedIterator<Item = (&DeviceRef, &DeviceGuard)> {
        let other = self.other.as_ref().map(|(name, guard)| (name, guard));
        iter::once((&self.name, &self.guard)).chain(other)
    }

    /// Whether one of the devices was given up for another: nothing is decided about it any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.devices().any(|(_, guard)| guard.device().given_up_for.is_some())
    }

    /// The state of one of the accounts.
    pub(super) fn account(&self, account: Option<&AccountRef>) -> Option<&Account> {
        Some(self.accounts.get(account?)?.account())
    }

    /// The time of the last event of all that is held.
    pub(super) fn at_ms(&self) -> i64 {
        let accounts = self.accounts.values().map(|guard| guard.account().at_ms);
        let devices = self.devices().map(|(_, guard)| guard.device().at_ms);
        devices.chain(accounts).fold(0, i64::max)
    }

    /// What an append names so that it fails if any of them has moved.
    pub(super) fn checks(&self) -> impl Iterator<Item = (StreamName, Expected)> {
        let accounts = self.accounts.values();
        let accounts = accounts.map(|a| (a.stream().clone(), Expected::at_head(a.head())));
        let devices = self.devices();
        let devices = devices.map(|(_, d)| (d.stream().clone(), Expected::at_head(d.head())));
        accounts.chain(devices)
    }

    /// Reads the heads and folds what is new; tells whether there was anything.
    pub(super) async fn refresh(&mut self) -> Result<bool, LicensingError> {
        let mut moved = self.guard.refresh().await?;
        if let Some((_, other)) = &mut self.other {
            moved |= other.refresh().await?;
        }
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
        let other = self.other.as_mut().map(|(_, guard)| guard);
        for guard in iter::once(&mut self.guard).chain(other) {
            let base = guard.head().map_or(0, |head| head + 1);
            let mine = events.iter().zip(appended.first_sequence..);
            let mine = mine.filter(|((stream, _), _)| stream == guard.stream());
            let mine = mine.zip(base..).map(|(((_, e), sequence), rev)| (e, rev, sequence));
            let mine = mine.collect::<Vec<_>>();
            guard.committed(mine).await?;
        }
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
    /// Waits for the device, or for the one that it was given up for, and for the accounts: `paying`,
    /// and those of what the device holds.
    pub(super) async fn hold(
        &self,
        device: &DeviceRef,
        paying: Option<&AccountRef>,
    ) -> Result<Subject, LicensingError> {
        let (mut name, mut replaced) = (device.clone(), false);
        let guard = loop {
            let guard = self.deciding.hold(&name).await?;
            replaced |= guard.device().replaced;
            match &guard.device().given_up_for {
                Some(other) => name = other.clone(),
                None => break guard,
            }
        };
        let (asked_for, other, accounts) = (device.clone(), None, BTreeMap::new());
        let mut subject = Subject { asked_for, name, guard, replaced, other, accounts };
        self.hold_accounts(&mut subject, paying).await?;
        Ok(subject)
    }

    /// The same with all at their heads, so that an answer which appends nothing is true as well. A
    /// device that another process gave up meanwhile is followed, and the accounts are those of
    /// what it holds by then.
    pub(super) async fn hold_at_head(
        &self,
        device: &DeviceRef,
        paying: Option<&AccountRef>,
    ) -> Result<Subject, LicensingError> {
        let mut attempts = Attempts::new();
        let mut subject = self.hold(device, paying).await?;
        while subject.refresh().await? {
            attempts.next()?;
            if subject.is_given_up() {
                // Let go of first: whoever holds a device waits for no other one.
                drop(subject);
                subject = self.hold(device, paying).await?;
            } else {
                self.hold_accounts(&mut subject, paying).await?;
            }
        }
        Ok(subject)
    }

    /// Waits for two different devices, in the order of their names, and for the accounts of both.
    pub(super) async fn hold_two(
        &self,
        name: &DeviceRef,
        other: &DeviceRef,
    ) -> Result<Subject, LicensingError> {
        let (guard, second) = if name < other {
            let guard = self.deciding.hold(name).await?;
            (guard, self.deciding.hold(other).await?)
        } else {
            let second = self.deciding.hold(other).await?;
            (self.deciding.hold(name).await?, second)
        };
        let mut subject = Subject {
            asked_for: name.clone(),
            name: name.clone(),
            replaced: guard.device().replaced,
            guard,
            other: Some((other.clone(), second)),
            accounts: BTreeMap::new(),
        };
        self.hold_accounts(&mut subject, None).await?;
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
        let mut accounts: BTreeSet<_> = paying.into_iter().cloned().collect();
        for (_, guard) in subject.devices() {
            let device = guard.device();
            let paid_by = match subject.other {
                None => device.accounts(device.at_ms),
                // What one device hands over concerns those too that pay for nothing any more.
                Some(_) => device.payers(device.at_ms),
            };
            accounts.extend(paid_by.into_iter().cloned());
        }
        for account in accounts {
            let guard = self.deciding.hold_account(&account).await?;
            subject.accounts.insert(account, guard);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
