//! One log of all that happens to several devices and the accounts that pay, written as appends are:
//! what a device's events change on accounts is derived from the state that they were decided on, and
//! stands behind them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::domain::account::{Account, mirror};
use crate::domain::{AccountRef, Device, DeviceRef, Event, KeyId, LicenseId};

/// Whose stream an event is in.
#[derive(Clone, Debug)]
enum Stream {
    Device(DeviceRef),
    Account(AccountRef),
}

/// The events in the order of the log, and where the appends end.
#[derive(Default)]
pub(super) struct Log {
    events: Vec<(Stream, Event)>,
    ends: Vec<usize>,
}

/// Something that counts on a device at an account's expense.
type Slot = (AccountRef, DeviceRef, KeyId, LicenseId, bool, Option<i64>);

impl Log {
    /// Appends events of a device that were decided on the state `before`, and folds what they
    /// change into accounts.
    pub(super) fn append(
        &mut self,
        device: &DeviceRef,
        before: &Device,
        events: &[Event],
        accounts: &mut BTreeMap<AccountRef, Account>,
    ) {
        if events.is_empty() {
            return;
        }
        let own = events.iter().map(|event| (Stream::Device(device.clone()), event.clone()));
        self.events.extend(own);
        for (account, event) in mirror(device, before, events) {
            accounts.entry(account.clone()).or_default().evolve(&event);
            self.events.push((Stream::Account(account), event));
        }
        self.ends.push(self.events.len());
    }

    /// Has the last two appends be one.
    pub(super) fn join_last(&mut self) {
        self.ends.remove(self.ends.len() - 2);
    }

    /// Folds the log anew and compares accounts with devices after every append: at its own time,
    /// and at each later one at which something expires.
    pub(super) fn check(&self) -> Result<(), TestCaseError> {
        let mut devices = BTreeMap::<DeviceRef, Device>::new();
        let mut accounts = BTreeMap::<AccountRef, Account>::new();
        let (mut first, mut at_ms) = (0, 0);
        for end in &self.ends {
            for (stream, event) in &self.events[first..*end] {
                prop_assert!(event.at_ms() >= at_ms, "time goes back with {:?}", event);
                at_ms = event.at_ms();
                match stream {
                    Stream::Device(name) => devices.entry(name.clone()).or_default().evolve(event),
                    Stream::Account(name) => {
                        accounts.entry(name.clone()).or_default().evolve(event);
                    }
                }
            }
            let held = on_devices(&devices, at_ms);
            let later = held.iter().filter_map(|slot| slot.5).collect::<BTreeSet<_>>();
            for moment in [at_ms].into_iter().chain(later) {
                let last = &self.events[*end - 1];
                let (held, paid) = (on_devices(&devices, moment), on_accounts(&accounts, moment));
                prop_assert_eq!(held, paid, "at {} after {:?}", moment, last);
            }
            first = *end;
        }
        Ok(())
    }
}

fn on_devices(devices: &BTreeMap<DeviceRef, Device>, now_ms: i64) -> BTreeSet<Slot> {
    let all = devices.iter().flat_map(|(name, device)| {
        device.held(now_ms).filter_map(move |(key_id, held)| {
            let account = device.account_of(key_id, held.license_id, now_ms)?.clone();
            let (id, until_ms) = (held.license_id, held.counted_until_ms);
            Some((account, name.clone(), key_id, id, held.confirmed, until_ms))
        })
    });
    all.collect()
}

fn on_accounts(accounts: &BTreeMap<AccountRef, Account>, now_ms: i64) -> BTreeSet<Slot> {
    let members = accounts.iter().flat_map(|(account, state)| {
        state.members().map(move |(device, member)| (account, device, member))
    });
    let all = members.flat_map(|(account, device, member)| {
        member.held(now_ms).map(move |(key_id, held)| {
            let (id, until_ms) = (held.license_id, held.counted_until_ms);
            (account.clone(), device.clone(), key_id, id, held.confirmed, until_ms)
        })
    });
    all.collect()
}
