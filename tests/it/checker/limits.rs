//! What the rules of a policy count, and how much room each left at every prefix of the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use uuid::Uuid;

use super::Subject;
use super::ledger::Held;

/// How much may be in use, of what, and whose.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub id: &'static str,
    pub scope: Scope,
    pub counts: Counts,
    /// The content group that it is about; `None`: all.
    pub group: Option<&'static str>,
    pub limit: usize,
    /// How much more decisions allow if they are marked.
    pub overage: usize,
}

/// Whose use a rule counts.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    Device,
    Account,
    /// Each title of an account for itself.
    Title,
}

/// What a rule counts.
#[derive(Clone, Copy, Debug)]
pub enum Counts {
    /// Devices and KIDs for which room is taken.
    Slots,
    /// Licenses issued within a time, and what is reserved. Of accounts and titles only: the times
    /// of a device that becomes another are not put in order with those of the other.
    Issued { within_ms: i64 },
    /// Devices that got their first license within a time, and those that only have something
    /// reserved. Of two devices that become one only one may have had a license before.
    Added { within_ms: i64 },
}

impl Rule {
    /// A rule on all slots of devices, accounts or titles that allows nothing beyond the limit.
    pub const fn on_slots(id: &'static str, scope: Scope, limit: usize) -> Self {
        Self { id, scope, counts: Counts::Slots, group: None, limit, overage: 0 }
    }

    /// Whose use of it this is, if it is about that at all.
    pub(super) fn subject(&self, held: &Held) -> Option<Subject> {
        if self.group.is_some() && held.slot.group.as_deref() != self.group {
            return None;
        }
        let account = || held.account.clone();
        match self.scope {
            Scope::Device => Some(Subject::Device(held.device.clone())),
            Scope::Account => account().map(Subject::Account),
            Scope::Title => Some(Subject::Title(account()?, held.slot.title.clone()?)),
        }
    }

    /// The room that a subject has which never took any.
    pub(super) fn most(&self) -> i64 {
        i64::try_from(self.limit + self.overage).unwrap()
    }
}

/// A limit set for one subject in place of a rule's own.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    pub limit: usize,
    /// From when on the rule's own holds again.
    pub until_ms: i64,
}

impl Own {
    fn is_in_force(self, at_ms: i64) -> bool {
        at_ms < self.until_ms
    }
}

/// Where in the log something happens, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) sequence: usize,
    pub(super) at_ms: i64,
}

/// What taking room did to what one rule counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// There is more than the limit, and more than before.
    pub(super) beyond: bool,
    /// The same of limit and overage together.
    pub(super) over: bool,
}

/// What one rule counts of one subject, over the log.
pub(super) struct Meter {
    rule: Rule,
    /// The limit set for the subject in place of the rule's own.
    own: Option<Own>,
    /// What takes room until something ends it, by what it is counted as.
    slots: BTreeMap<(String, Uuid), BTreeSet<Uuid>>,
    /// The times of what counts for a while, ascending.
    times: Vec<i64>,
    /// The devices that have been added.
    added: HashSet<String>,
    /// What it was after each change, ascending.
    moments: Vec<Moment>,
}

struct Moment {
    place: Place,
    slots: usize,
    /// How many of the times there were.
    times: usize,
    own: Option<Own>,
}

impl Meter {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            rule,
            own: None,
            slots: BTreeMap::new(),
            times: Vec::new(),
            added: HashSet::new(),
            moments: Vec::new(),
        }
    }

    /// Counts something that happens.
    pub(super) fn take(&mut self, held: &Held, place: Place) -> Growth {
        let before = self.in_use(place.at_ms);
        match self.rule.counts {
            Counts::Issued { .. } if !held.reserved => self.times.push(place.at_ms),
            Counts::Added { .. } if !held.reserved => self.add(&held.device, place.at_ms),
            _ => {}
        }
        self.put(held, place);
        let after = self.in_use(place.at_ms);
        let exceeds = |limit| after > before && after > limit;
        let limit = self.limit(self.own, place.at_ms);
        Growth { beyond: exceeds(limit), over: exceeds(limit + self.rule.overage) }
    }

    fn add(&mut self, device: &str, at_ms: i64) {
        if self.added.insert(device.to_owned()) {
            self.times.push(at_ms);
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
        match self.rule.counts {
            Counts::Slots => Some((device, held.slot.key_id)),
            Counts::Issued { .. } => held.reserved.then_some((device, held.slot.id)),
            Counts::Added { .. } => {
                let waits = held.reserved && !self.added.contains(&device);
                waits.then_some((device, Uuid::nil()))
            }
        }
    }

    /// Has one device in the place of another.
    pub(super) fn rename(&mut self, from: &str, into: &str) {
        if self.added.remove(from) {
            self.added.insert(into.to_owned());
            self.slots.remove(&(into.to_owned(), Uuid::nil()));
        }
    }

    pub(super) fn own(&self, at_ms: i64) -> Option<Own> {
        self.own.filter(|own| own.is_in_force(at_ms))
    }

    pub(super) fn set_own(&mut self, own: Option<Own>, place: Place) {
        self.own = own;
        self.note(place);
    }

    fn note(&mut self, place: Place) {
        let (slots, times) = (self.slots.len(), self.times.len());
        self.moments.push(Moment { place, slots, times, own: self.own });
    }

    /// The limit at a time, by what was set for the subject.
    fn limit(&self, own: Option<Own>, at_ms: i64) -> usize {
        own.filter(|own| own.is_in_force(at_ms)).map_or(self.rule.limit, |own| own.limit)
    }

    fn in_use(&self, at_ms: i64) -> usize {
        self.slots.len() + self.lately(self.times.len(), at_ms)
    }

    /// How many of the first so many times count at this one.
    fn lately(&self, times: usize, at_ms: i64) -> usize {
        let (Counts::Issued { within_ms } | Counts::Added { within_ms }) = self.rule.counts else {
            return 0;
        };
        times - self.times[..times].partition_point(|time_ms| *time_ms <= at_ms - within_ms)
    }

    /// The least room that there was at any of the prefixes whose lengths are from `first` to
    /// `last`, for who asked between these times.
    pub(super) fn least_room(
        &self,
        (first, last): (usize, usize),
        (since_ms, until_ms): (i64, i64),
    ) -> i64 {
        let from = self.moments.partition_point(|moment| moment.place.sequence < first);
        let before = from.checked_sub(1).map(|index| &self.moments[index]);
        let within = self.moments[from..].iter();
        let within = within.take_while(|moment| moment.place.sequence < last);
        // Time by itself only makes room, but for the end of a limit that was set.
        let rooms = before.into_iter().chain(within).flat_map(|moment| {
            let at_ms = moment.place.at_ms.max(since_ms);
            let end = moment.own.map(|own| own.until_ms);
            let end = end.filter(|end_ms| (at_ms..=until_ms).contains(end_ms));
            [Some(at_ms), end].into_iter().flatten().map(|at_ms| self.room(moment, at_ms))
        });
        let untouched = before.is_none().then(|| self.rule.most());
        rooms.chain(untouched).min().unwrap()
    }

    fn room(&self, moment: &Moment, at_ms: i64) -> i64 {
        let most = self.limit(moment.own, at_ms) + self.rule.overage;
        let in_use = moment.slots + self.lately(moment.times, at_ms);
        i64::try_from(most).unwrap() - i64::try_from(in_use).unwrap()
    }
}
