//! The log worked out a second time, with nothing but `evolve`, and checked while doing so.

use std::collections::{BTreeMap, HashSet};

use license_ledger::clock::UnixMillis;
use license_ledger::domain::event::LicenseAcquired;
use license_ledger::domain::{Device, Event, LicenseId};
use license_ledger::ledger::tail::Fact;
use license_ledger::projections::Inventory;

/// What a log says.
#[derive(Default)]
pub struct Replay {
    /// Devices by their references.
    pub devices: BTreeMap<String, Device>,
    /// Every license ever granted, in order.
    pub acquired: Vec<LicenseAcquired>,
    /// Licenses ended by a deletion, in order.
    pub deleted: Vec<LicenseId>,
    /// Licenses acknowledged as stored, in order.
    pub stored: Vec<LicenseId>,
    /// The most slots that any device held right after any event.
    pub most_held: usize,
    /// Time of the last event.
    pub at_ms: i64,
    revisions: BTreeMap<String, u64>,
}

impl Replay {
    /// Folds all events of a log. Panics if sequences or revisions have gaps, an id comes twice, or
    /// time goes back within a stream.
    pub fn of(facts: &[Fact]) -> Self {
        let mut replay = Self::default();
        let mut ids = HashSet::new();
        for (sequence, fact) in (0..).zip(facts) {
            assert_eq!(fact.recorded.sequence, sequence, "a gap in the log");
            assert!(ids.insert(fact.recorded.id), "event {} is there twice", fact.recorded.id);
            replay.apply(fact);
        }
        replay
    }

    fn apply(&mut self, fact: &Fact) {
        let stream = fact.recorded.stream.to_string();
        let next = self.revisions.entry(stream.clone()).or_default();
        assert_eq!(fact.recorded.revision, *next, "a gap in {stream}");
        *next += 1;
        self.at_ms = self.at_ms.max(fact.event.at_ms());
        match &fact.event {
            Event::LicenseAcquired(license) => self.acquired.push((**license).clone()),
            Event::LicenseDeleted(e) => self.deleted.push(e.license_id),
            Event::LicenseStored(e) => self.stored.push(e.license_id),
            _ => {}
        }
        if let Some(reference) = stream.strip_prefix("device-") {
            let device = self.devices.entry(reference.to_owned()).or_default();
            assert!(fact.event.at_ms() >= device.at_ms, "time goes back in {stream}");
            device.evolve(&fact.event);
            self.most_held = self.most_held.max(device.held_slots(fact.event.at_ms()).len());
        }
    }

    /// The only device of the log.
    pub fn only_device(&self) -> &Device {
        assert_eq!(self.devices.len(), 1);
        self.devices.values().next().unwrap()
    }

    /// Slots the only device of the log holds at its last event.
    pub fn held(&self) -> usize {
        self.only_device().held_slots(self.at_ms).len()
    }

    /// Checks that the read model says of every device what the fold says.
    pub fn check_inventory(&self, inventory: &Inventory, now: UnixMillis) {
        for (reference, device) in &self.devices {
            let shown = inventory.inventory(&reference.parse().unwrap(), now).unwrap().unwrap();
            let counted: Vec<_> = device.held(now.0).collect();
            let licenses = counted.iter().filter(|(_, held)| !held.reserved);
            let mut folded: Vec<_> = licenses.map(|(_, held)| held.license_id.0).collect();
            let mut listed: Vec<_> = shown.licenses.iter().map(|l| l.license_id).collect();
            folded.sort();
            listed.sort();
            assert_eq!(listed, folded, "licenses of {reference}");
            let slots = shown.live + shown.reserved;
            assert_eq!(slots, device.held_slots(now.0).len(), "live slots of {reference}");
            let reserved: usize = shown.reservations.iter().map(|r| r.key_ids.len()).sum();
            assert_eq!(reserved + listed.len(), counted.len(), "reservations of {reference}");
            let confirmed = counted.iter().filter(|(_, held)| held.confirmed);
            let confirmed: HashSet<_> = confirmed.map(|(key_id, _)| key_id).collect();
            assert_eq!(shown.confirmed, confirmed.len(), "confirmed slots of {reference}");
        }
    }
}
