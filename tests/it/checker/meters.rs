//! What one rule counts of one subject, at every prefix of the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::history::{History, Mark, Place, Times, Window};
use super::ledger::Held;
use super::limits::Counts;

/// What one rule counts of one subject, over the log.
pub(super) struct Meter {
    counts: Counts,
    /// What takes room until something ends it, by what it is counted as.
    slots: BTreeMap<(String, Uuid), BTreeSet<Uuid>>,
    /// The times of what counts for a while.
    times: Times,
    /// The devices that have been added, and when.
    added: HashMap<String, i64>,
    moments: History<Moment>,
}

/// What there was right after a change.
#[derive(Clone, Copy)]
struct Moment {
    slots: usize,
    times: Mark,
}

impl Meter {
    pub(super) fn new(counts: Counts) -> Self {
        Self {
            counts,
            slots: BTreeMap::new(),
            times: Times::new(),
            added: HashMap::new(),
            moments: History::default(),
        }
    }

    /// Counts something that happens; tells how much is in use then, if that is more than before.
    pub(super) fn take(&mut self, held: &Held, place: Place) -> Option<usize> {
        let before = self.in_use(place.at_ms);
        match self.counts {
            Counts::Issued { .. } if !held.reserved => self.times.add(place.at_ms),
            Counts::Added { .. } if !held.reserved => self.add(&held.device, place.at_ms),
            _ => {}
        }
        self.put(held, place);
        let after = self.in_use(place.at_ms);
        (after > before).then_some(after)
    }

    fn add(&mut self, device: &str, at_ms: i64) {
        if !self.added.contains_key(device) {
            self.added.insert(device.to_owned(), at_ms);
            self.times.add(at_ms);
            self.slots.remove(&(device.to_owned(), Uuid::nil()));
        }
    }

    /// Counts something where it takes room.
    pub(super) fn put(&mut self, held: &Held, place: Place) {
        if let Some(slot) = self.slot(held) {
            self.slots.entry(slot).or_default().insert(held.slot.id);
        }
        self.note(place);
    }

    pub(super) fn free(&mut self, held: &Held, place: Place) {
        if let Some(slot) = self.slot(held)
            && let Some(ids) = self.slots.get_mut(&slot)
        {
            ids.remove(&held.slot.id);
            if ids.is_empty() {
                self.slots.remove(&slot);
            }
        }
        self.note(place);
    }

    /// What something is counted as for as long as it takes room, if it is.
    fn slot(&self, held: &Held) -> Option<(String, Uuid)> {
        let device = held.device.clone();
        match self.counts {
            Counts::Slots => Some((device, held.slot.key_id)),
            Counts::Issued { .. } => held.reserved.then_some((device, held.slot.id)),
            Counts::Added { .. } => {
                let waits = held.reserved && !self.added.contains_key(&device);
                waits.then_some((device, Uuid::nil()))
            }
        }
    }

    /// Has one device in the place of another: it was added when the first of them was.
    pub(super) fn rename(&mut self, from: &str, into: &str, place: Place) {
        let Some(added_ms) = self.added.remove(from) else { return };
        self.slots.remove(&(into.to_owned(), Uuid::nil()));
        let other_ms = self.added.get(into).copied();
        if let Some(other_ms) = other_ms {
            let mut times = self.lately(place.at_ms).to_vec();
            let later = times.iter().position(|time_ms| *time_ms == added_ms.max(other_ms));
            later.map(|later| times.remove(later));
            self.times.replace(times);
        }
        self.added.insert(into.to_owned(), other_ms.map_or(added_ms, |ms| ms.min(added_ms)));
        self.note(place);
    }

    /// Gives up what counts for a while, which is another's.
    pub(super) fn hand_over(&mut self, place: Place) -> Vec<i64> {
        let handed_over = self.lately(place.at_ms).to_vec();
        self.times.replace(Vec::new());
        self.note(place);
        handed_over
    }

    /// Counts what was another's as well.
    pub(super) fn take_over(&mut self, times: &[i64], place: Place) {
        self.times.replace([self.lately(place.at_ms), times].concat());
        self.note(place);
    }

    fn note(&mut self, place: Place) {
        let moment = Moment { slots: self.slots.len(), times: self.times.mark() };
        self.moments.push(place, moment);
    }

    /// What counts for a while, and does so at this time.
    fn lately(&self, at_ms: i64) -> &[i64] {
        self.counted(self.times.mark(), at_ms)
    }

    fn counted(&self, times: Mark, at_ms: i64) -> &[i64] {
        match self.counts {
            Counts::Slots => &[],
            Counts::Issued { within_ms } | Counts::Added { within_ms } => {
                self.times.since(times, at_ms - within_ms)
            }
        }
    }

    pub(super) fn in_use(&self, at_ms: i64) -> usize {
        self.slots.len() + self.lately(at_ms).len()
    }

    /// How much was in use after so many events, at a time that was not before the last of them.
    pub(super) fn in_use_after(&self, length: usize, at_ms: i64) -> usize {
        let moment = self.moments.at(length);
        moment.map_or(0, |(_, m)| m.slots + self.counted(m.times, at_ms).len())
    }

    /// The time of the last change that so many events made.
    pub(super) fn changed_ms(&self, length: usize) -> Option<i64> {
        self.moments.at(length).map(|(place, _)| place.at_ms)
    }

    /// The lengths of the prefixes that end with a change.
    pub(super) fn changes(&self, window: Window) -> impl Iterator<Item = usize> {
        self.moments.changes(window)
    }
}
