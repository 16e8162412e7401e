//! The state of one account: what its devices hold at its expense.
//!
//! Its stream mirrors what the streams of its devices say: [`mirror`] derives the one from the
//! other, and both are stored in one append, so that neither is ever ahead.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::event::{
    DeletionRecorded, Event, Grade, LicenseAcquired, LicenseDeleted, LicenseRecorded,
    ReservationClosed, ReservationMade, SlotConfirmed, SlotEnd, SlotReleased, SlotTaken,
    SlotsMoved,
};
use super::holding::{Doubt, Doubtful, Held, ISSUED_KEPT, IssuedLog, Overrides};
use super::ids::{AccountRef, DeviceRef, KeyId, LicenseId, Tag};
use super::quota::WINDOW_SECONDS_MAX;

/// Devices that an account remembers although nothing live is on them, those used last: for rules on
/// added devices, and for those on issued licenses that ask what a device is. As many as the issued
/// licenses that are remembered, so that of each of those the device is known.
pub const EMPTY_MEMBERS_KEPT: usize = ISSUED_KEPT;

/// Everything a decision about one account needs. Bounded by what is live, by
/// [`ISSUED_KEPT`], and by 256 devices without anything live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Time of the last event; later events are never earlier.
    pub at_ms: i64,
    members: BTreeMap<DeviceRef, Member>,
    /// When that of the devices was added which was added last of those no longer remembered.
    forgotten_added_ms: Option<i64>,
    /// Persistent licenses issued lately.
    pub(super) issued: IssuedLog,
    /// What devices may still hold although it was released.
    pub(super) doubtful: Doubtful,
    /// Limits set for it.
    pub(super) overrides: Overrides,
}

/// A device of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// When it got its first persistent license of the account; `None`: there is only room reserved
    /// for one.
    pub added_ms: Option<i64>,
    /// When it got the last one.
    used_ms: Option<i64>,
    /// Security level it was last seen with.
    pub security_level: Option<u32>,
    /// Maker, model name and number; empty if they are not known.
    pub model: String,
    slots: BTreeMap<KeyId, Vec<Held>>,
}

impl Member {
    /// Every live license and reservation, ordered by KID, within one KID by acquisition.
    pub fn held(&self, now_ms: i64) -> impl Iterator<Item = (KeyId, &Held)> {
        let all = self.slots.iter();
        let all = all.flat_map(|(key_id, held)| held.iter().map(|held| (*key_id, held)));
        all.filter(move |(_, held)| held.is_live(now_ms))
    }

    /// When the last of what it holds ends by itself.
    pub(super) fn ends_ms(&self, now_ms: i64) -> Option<i64> {
        let ends = self.held(now_ms).map(|(_, held)| held.counted_until_ms);
        ends.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
    }

    fn find(&mut self, key_id: KeyId, license_id: LicenseId) -> Option<&mut Held> {
        self.slots.get_mut(&key_id)?.iter_mut().find(|held| held.license_id == license_id)
    }
}

impl Account {
    /// Applies one stored fact. Total: it cannot fail, because the fact has already happened.
    pub fn evolve(&mut self, fact: &Event) {
        self.at_ms = self.at_ms.max(fact.at_ms());
        match fact {
            Event::SlotTaken(e) => self.take(e),
            Event::SlotConfirmed(e) => {
                let member = self.members.get_mut(&e.device);
                if let Some(held) = member.and_then(|m| m.find(e.key_id, e.license_id)) {
                    held.confirmed = e.confirmed;
                }
            }
            Event::SlotReleased(e) => self.release(e),
            Event::SlotsMoved(e) => self.move_slots(e),
            Event::QuotaOverrideSet(e) => self.overrides.set(e),
            _ => {}
        }
        self.forget_expired();
    }

    fn take(&mut self, e: &SlotTaken) {
        let (title, group) = (e.title.as_deref(), e.content_group.as_deref());
        let held = Held::new(e.license_id, e.counted_until_ms, title, group);
        let held = Held { reserved: e.reserved, ..held };
        if !e.reserved {
            let device = Some(Tag::of(&e.device.to_string()));
            self.issued.add(held.issued(e.at_ms, device));
        }
        let member = self.members.entry(e.device.clone()).or_insert_with(|| Member {
            added_ms: None,
            used_ms: None,
            security_level: None,
            model: String::new(),
            slots: BTreeMap::new(),
        });
        if !e.reserved {
            member.added_ms.get_or_insert(e.at_ms);
            member.used_ms = Some(e.at_ms);
        }
        member.security_level = e.security_level.or(member.security_level);
        if !e.model.is_empty() && member.model != e.model {
            member.model.clone_from(&e.model);
        }
        member.slots.entry(e.key_id).or_default().push(held);
    }

    fn release(&mut self, e: &SlotReleased) {
        if !e.weak {
            self.doubtful.settle(e.license_id);
        }
        let Some(member) = self.members.get_mut(&e.device) else { return };
        let Some(held) = member.find(e.key_id, e.license_id) else { return };
        let counted_until_ms = held.counted_until_ms;
        match e.frees_at_ms {
            Some(frees_at_ms) => held.give_up(frees_at_ms),
            None => {
                if let Some(slot) = member.slots.get_mut(&e.key_id) {
                    slot.retain(|held| held.license_id != e.license_id);
                }
            }
        }
        if e.weak {
            self.doubtful.add(Doubt {
                license_id: Some(e.license_id),
                key_id: e.key_id,
                until_ms: counted_until_ms,
                device: Some(e.device.clone()),
                account: None,
            });
        }
    }

    /// The one device is the other from here on, and was added when the first of them was.
    fn move_slots(&mut self, e: &SlotsMoved) {
        self.issued.rename(Tag::of(&e.from.to_string()), Tag::of(&e.into.to_string()));
        self.doubtful.rename(&e.from, &e.into);
        let Some(source) = self.members.remove(&e.from) else { return };
        let target = self.members.entry(e.into.clone()).or_insert_with(|| Member {
            added_ms: source.added_ms,
            used_ms: source.used_ms,
            security_level: e.security_level,
            model: e.model.clone(),
            slots: BTreeMap::new(),
        });
        target.added_ms = target.added_ms.into_iter().chain(source.added_ms).min();
        target.used_ms = target.used_ms.max(source.used_ms);
        for (key_id, held) in source.slots {
            target.slots.entry(key_id).or_default().extend(held);
        }
    }

    /// Drops what can no longer matter, as [`Device::evolve`] does.
    fn forget_expired(&mut self) {
        let now_ms = self.at_ms;
        for member in self.members.values_mut() {
            member.slots.retain(|_, held| {
                held.retain(|held| held.is_live(now_ms));
                !held.is_empty()
            });
        }
        self.doubtful.forget_expired(now_ms);
        let horizon_ms = now_ms - i64::from(WINDOW_SECONDS_MAX) * 1000;
        self.members.retain(|_, member| {
            !member.slots.is_empty() || member.used_ms.is_some_and(|used_ms| used_ms > horizon_ms)
        });
        let empty = self.members.iter().filter(|(_, member)| member.slots.is_empty());
        if empty.clone().count() > EMPTY_MEMBERS_KEPT {
            let mut empty: Vec<_> = empty.map(|(name, member)| (member.used_ms, name)).collect();
            empty.sort_unstable();
            empty.truncate(empty.len() - EMPTY_MEMBERS_KEPT);
            let unused: Vec<_> = empty.into_iter().map(|(_, name)| name.clone()).collect();
            for device in unused {
                let forgotten = self.members.remove(&device);
                let added_ms = forgotten.and_then(|member| member.added_ms);
                self.forgotten_added_ms = self.forgotten_added_ms.max(added_ms);
            }
        }
    }

    /// Whether devices were added after `since_ms` that are no longer remembered.
    pub fn has_forgotten_since(&self, since_ms: i64) -> bool {
        self.forgotten_added_ms.is_some_and(|added_ms| added_ms > since_ms)
    }

    /// Its devices, those included on which nothing is live.
    pub fn members(&self) -> impl Iterator<Item = (&DeviceRef, &Member)> {
        self.members.iter()
    }

    /// Whether the device had a persistent license of the account within the time that is
    /// remembered, or has room reserved for one.
    pub fn has_member(&self, device: &DeviceRef, now_ms: i64) -> bool {
        let member = self.members.get(device);
        member.is_some_and(|m| m.added_ms.is_some() || m.held(now_ms).next().is_some())
    }

    /// The limits set for this account that are in force.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }
}

/// What `events`, about to be stored in the stream of `device` whose state they were decided on is
/// `before`, change in the streams of accounts. Of a license that is not live nothing changes, since
/// it has stopped counting everywhere by itself; but where it was still possible, proof that it is
/// gone is told.
pub fn mirror<'a>(
    device: &DeviceRef,
    before: &Device,
    events: impl IntoIterator<Item = &'a Event>,
) -> Vec<(AccountRef, Event)> {
    let mut mirrored = Vec::new();
    let given_up = |key_id, license_id, cause, weak, frees_at_ms, at_ms| {
        let account = before.account_of(key_id, license_id, at_ms)?;
        let device = device.clone();
        let released = SlotReleased { license_id, device, key_id, cause, weak, frees_at_ms, at_ms };
        Some((account.clone(), Event::SlotReleased(released)))
    };
    let released = |key_id, license_id, cause, weak, at_ms| {
        given_up(key_id, license_id, cause, weak, None, at_ms)
    };
    // Said once each way, as its id demands.
    let confirmed = |key_id, license_id, confirmed, at_ms| {
        let mut held = before.held(at_ms).filter(|(_, held)| held.license_id == license_id);
        if held.all(|(_, held)| held.confirmed == confirmed) {
            return None;
        }
        let account = before.account_of(key_id, license_id, at_ms)?;
        let slot = SlotConfirmed { license_id, device: device.clone(), key_id, confirmed, at_ms };
        Some((account.clone(), Event::SlotConfirmed(slot)))
    };
    for event in events {
        match event {
            Event::LicenseAcquired(e) if e.persistent.effective => {
                mirrored.extend(e.account.clone().map(|account| (account, taken(device, e))));
            }
            Event::LicenseStored(e) => {
                let keeps = before.keeps(e.key_id, e.license_id, e.at_ms);
                mirrored.extend(confirmed(e.key_id, e.license_id, keeps, e.at_ms));
            }
            Event::LicenseVoided(e) => {
                mirrored.extend(released(e.key_id, e.license_id, SlotEnd::Voided, true, e.at_ms));
            }
            Event::LicenseWrittenOff(e) => {
                let (cause, frees_at_ms) = (SlotEnd::WrittenOff, e.frees_at_ms);
                let slot = given_up(e.key_id, e.license_id, cause, true, frees_at_ms, e.at_ms);
                mirrored.extend(slot);
            }
            Event::DeviceTookOver(e) => mirrored.extend(e.accounts.iter().map(|account| {
                let moved = SlotsMoved {
                    from: e.from.clone(),
                    into: device.clone(),
                    security_level: before.security_level,
                    model: before.model.clone(),
                    at_ms: e.at_ms,
                };
                (account.clone(), Event::SlotsMoved(moved))
            })),
            Event::LicenseDeleted(LicenseDeleted {
                license_id,
                key_id,
                grade,
                releases,
                at_ms,
                ..
            })
            | Event::DeletionRecorded(DeletionRecorded {
                license_id,
                key_id,
                grade,
                releases,
                at_ms,
                ..
            }) => {
                let (license_id, key_id, at_ms) = (*license_id, *key_id, *at_ms);
                let weak = *grade >= Grade::C;
                mirrored.extend(match releases {
                    true => released(key_id, license_id, SlotEnd::Deleted, weak, at_ms),
                    false => confirmed(key_id, license_id, false, at_ms),
                });
                let proven = before
                    .in_doubt(license_id)
                    .filter(|_| !weak && before.account_of(key_id, license_id, at_ms).is_none());
                mirrored.extend(proven.map(|account| {
                    let (device, cause) = (device.clone(), SlotEnd::Deleted);
                    let (weak, frees_at_ms) = (false, None);
                    let released = SlotReleased {
                        license_id,
                        device,
                        key_id,
                        cause,
                        weak,
                        frees_at_ms,
                        at_ms,
                    };
                    (account.clone(), Event::SlotReleased(released))
                }));
            }
            Event::LicenseRecorded(e) if e.persistent => {
                mirrored.extend(e.account.clone().map(|account| (account, recorded(device, e))));
            }
            Event::StorageRecorded(e) if e.stored => {
                let keeps = before.keeps(e.key_id, e.license_id, e.at_ms);
                mirrored.extend(confirmed(e.key_id, e.license_id, keeps, e.at_ms));
            }
            Event::ReservationMade(e) => mirrored.extend(reserved(device, e)),
            Event::ReservationClosed(ReservationClosed { license_ids, at_ms, .. }) => {
                let slots = before.held(*at_ms).filter(|(_, held)| held.reserved);
                let slots = slots.filter(|(_, held)| license_ids.contains(&held.license_id));
                mirrored.extend(slots.filter_map(|(key_id, held)| {
                    released(key_id, held.license_id, SlotEnd::ReservationClosed, false, *at_ms)
                }));
            }
            _ => {}
        }
    }
    mirrored
}

fn taken(device: &DeviceRef, e: &LicenseAcquired) -> Event {
    Event::SlotTaken(SlotTaken {
        license_id: e.license_id,
        device: device.clone(),
        key_id: e.key_id,
        counted_until_ms: e.counted_until_ms,
        title: e.title.clone(),
        content_group: e.content_group.clone(),
        security_level: Some(e.security_level),
        model: e.model.clone(),
        reserved: false,
        at_ms: e.at_ms,
    })
}

fn recorded(device: &DeviceRef, e: &LicenseRecorded) -> Event {
    Event::SlotTaken(SlotTaken {
        license_id: e.license_id,
        device: device.clone(),
        key_id: e.key_id,
        counted_until_ms: e.counted_until_ms,
        title: e.title.clone(),
        content_group: e.content_group.clone(),
        security_level: e.security_level,
        model: e.model.clone(),
        reserved: false,
        at_ms: e.at_ms,
    })
}

fn reserved(device: &DeviceRef, e: &ReservationMade) -> Vec<(AccountRef, Event)> {
    let Some(account) = &e.account else { return Vec::new() };
    let slots = e.slots.iter().map(|slot| {
        let taken = SlotTaken {
            license_id: slot.license_id,
            device: device.clone(),
            key_id: slot.key_id,
            counted_until_ms: Some(e.expires_ms),
            title: slot.title.clone(),
            content_group: slot.content_group.clone(),
            security_level: e.security_level,
            model: e.model.clone(),
            reserved: true,
            at_ms: e.at_ms,
        };
        (account.clone(), Event::SlotTaken(taken))
    });
    slots.collect()
}
