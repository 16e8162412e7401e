//! The log worked out: what takes room at each prefix of it, and where each effect is.

use std::collections::{BTreeSet, HashMap};
use std::iter;

use license_ledger::domain::holding::ISSUED_KEPT;
use license_ledger::domain::quota::BLOCKED;
use uuid::Uuid;

use super::history::{History, Place, Window};
use super::limits::{Counts, Own, Rule, Scope};
use super::meters::Meter;
use super::{Broken, By, Change, Effect, Slot, Subject, Taken, What};

/// Something that takes room.
pub(super) struct Held {
    pub(super) device: String,
    pub(super) account: Option<String>,
    pub(super) slot: Slot,
    pub(super) reserved: bool,
    until_ms: Option<i64>,
}

/// The log worked out.
pub(super) struct Ledger<'a> {
    rules: &'a [Rule],
    /// What the rule in this place among all counts.
    meters: HashMap<(usize, Subject), Meter>,
    /// The licenses of whatever kind that this rule has to remember, of a device or account.
    memories: HashMap<(usize, Subject), Meter>,
    /// The limits set in place of this rule's own, for a device or account.
    own: HashMap<(usize, Subject), History<Option<Own>>>,
    live: HashMap<Uuid, Held>,
    /// What frees by itself, and when, by [clock](Held::clock).
    expiring: HashMap<String, BTreeSet<(i64, Uuid)>>,
    /// What each device has.
    on_device: HashMap<String, BTreeSet<Uuid>>,
    /// The devices that each identity belonged to, and from which length of the log on.
    belongs: HashMap<String, Vec<(usize, String)>>,
    /// The identities that belong to each device.
    identities: HashMap<String, Vec<String>>,
    /// The accounts at whose expense each device has or had something.
    payers: HashMap<String, BTreeSet<String>>,
    /// Whether each device is blocked.
    blocks: HashMap<String, History<bool>>,
    /// Where each effect is.
    places: HashMap<Effect, usize>,
    /// Where what has an id stopped to take room, or was given up.
    gone: HashMap<Uuid, usize>,
    /// The parts of each reservation.
    parts: HashMap<Uuid, Vec<Uuid>>,
}

/// More of something than there is room for.
struct Excess {
    subject: Subject,
    /// It is beyond the overage as well.
    over: bool,
}

impl Held {
    /// Whose events tell the time: that of one account, and of its devices, never goes back, while
    /// others may stand in the log before it that were decided later.
    fn clock(&self) -> &str {
        self.account.as_deref().unwrap_or(&self.device)
    }
}

impl<'a> Ledger<'a> {
    /// Folds the log; refuses duplicates, and whatever is over a limit at a prefix.
    pub(super) fn of(changes: &[Change], rules: &'a [Rule]) -> Result<Self, Broken> {
        let mut ledger = Self {
            rules,
            meters: HashMap::new(),
            memories: HashMap::new(),
            own: HashMap::new(),
            live: HashMap::new(),
            expiring: HashMap::new(),
            on_device: HashMap::new(),
            belongs: HashMap::new(),
            identities: HashMap::new(),
            payers: HashMap::new(),
            blocks: HashMap::new(),
            places: HashMap::new(),
            gone: HashMap::new(),
            parts: HashMap::new(),
        };
        for (sequence, change) in changes.iter().enumerate() {
            let place = Place { sequence, at_ms: change.at_ms };
            ledger.let_time_pass(change, place);
            for effect in &change.effects {
                if ledger.places.insert(effect.clone(), sequence).is_some() {
                    return Err(Broken::Duplicate(effect.clone()));
                }
            }
            ledger.apply(&change.what, place)?;
        }
        Ok(ledger)
    }

    fn apply(&mut self, what: &What, place: Place) -> Result<(), Broken> {
        match what {
            What::Taken(taken) => self.take(taken, place)?,
            What::Freed { ids, until_ms: None } => ids.iter().for_each(|id| self.free(*id, place)),
            What::Freed { ids, until_ms: Some(until_ms) } => {
                for id in ids {
                    self.gone.entry(*id).or_insert(place.sequence);
                    self.cut_short(*id, *until_ms);
                }
            }
            What::Belongs { identity, device } => {
                self.belongs.insert(identity.clone(), vec![(0, device.clone())]);
                self.identities.entry(device.clone()).or_default().push(identity.clone());
            }
            What::Joined { from, into } => self.join(from, into, place),
            What::Limited { holder, rule, own } => {
                if let Some(index) = self.rule(rule) {
                    self.own.entry((index, holder.clone())).or_default().push(place, *own);
                }
            }
            What::Blocked { device, blocked } => {
                self.blocks.entry(device.clone()).or_default().push(place, *blocked);
            }
            What::Other => {}
        }
        Ok(())
    }

    /// The place of a rule among all.
    fn rule(&self, id: &str) -> Option<usize> {
        self.rules.iter().position(|rule| rule.id == id)
    }

    /// What the rule in this place counts of a subject.
    fn meter(&mut self, index: usize, subject: Subject) -> &mut Meter {
        let counts = self.rules[index].counts;
        self.meters.entry((index, subject)).or_insert_with(|| Meter::new(counts))
    }

    /// All that something is counted by.
    fn count(&mut self, held: &Held, mut by: impl FnMut(&mut Meter)) {
        for (index, rule) in self.rules.iter().enumerate() {
            if let Some(subject) = rule.subject(held) {
                by(self.meter(index, subject));
            }
        }
    }

    /// Frees what frees by itself before an event.
    fn let_time_pass(&mut self, change: &Change, place: Place) {
        let clock = match &change.what {
            What::Taken(taken) => Some(taken.account.as_deref().unwrap_or(&taken.device)),
            What::Freed { ids, .. } => {
                ids.first().and_then(|id| self.live.get(id)).map(Held::clock)
            }
            _ => None,
        };
        let Some(times) = clock.and_then(|clock| self.expiring.get(clock)) else { return };
        let passed = times.iter().take_while(|(until_ms, _)| *until_ms <= change.at_ms);
        let passed: Vec<_> = passed.map(|(_, id)| *id).collect();
        passed.into_iter().for_each(|id| self.free(id, place));
    }

    fn take(&mut self, taken: &Taken, place: Place) -> Result<(), Broken> {
        let sequence = place.sequence;
        let is_decided = matches!(taken.by, By::Decision { .. });
        if is_decided && self.is_blocked(&taken.device, (sequence, sequence)) {
            return Err(Broken::Barred { device: taken.device.clone(), sequence });
        }
        let (mut any_beyond, mut overshoot) = (false, None);
        for slot in &taken.slots {
            let held = Held {
                device: taken.device.clone(),
                account: taken.account.clone(),
                slot: slot.clone(),
                reserved: taken.reservation.is_some(),
                until_ms: taken.until_ms,
            };
            for index in 0..self.rules.len() {
                let Some(Excess { subject, over }) = self.take_by(index, &held, place) else {
                    continue;
                };
                any_beyond = true;
                if over {
                    let rule = self.rules[index].id;
                    overshoot.get_or_insert(Broken::Overshoot { rule, subject, sequence });
                }
            }
            self.set_time(&held);
            self.on_device.entry(held.device.clone()).or_default().insert(slot.id);
            self.live.insert(slot.id, held);
        }
        let payers = self.payers.entry(taken.device.clone()).or_default();
        payers.extend(taken.account.clone());
        if let Some(reservation) = taken.reservation {
            self.parts.insert(reservation, taken.slots.iter().map(|slot| slot.id).collect());
        }
        match (taken.by, overshoot) {
            (By::Decision { .. }, Some(overshoot)) => Err(overshoot),
            (By::Decision { overage } | By::Report { overage }, _) if overage != any_beyond => {
                Err(Broken::Mismarked { sequence })
            }
            _ => Ok(()),
        }
    }

    /// Counts something by the rule in this place; tells if it takes more of that than there is.
    fn take_by(&mut self, index: usize, held: &Held, place: Place) -> Option<Excess> {
        let rule = self.rules[index];
        let holder = rule.holder(held)?;
        let forgets = self.remember(index, &holder, held, place);
        let subject = rule.subject(held)?;
        let in_use = self.meter(index, subject.clone()).take(held, place)?;
        let own = self.own(index, &holder, place.at_ms);
        let limit = own.map_or(rule.limit, |own| own.limit);
        let over = forgets || in_use > limit + rule.overage;
        (over || in_use > limit).then_some(Excess { subject, over })
    }

    /// Counts a license of whatever kind that a rule has to remember; tells whether there were too
    /// many of them before.
    fn remember(&mut self, index: usize, holder: &Subject, held: &Held, place: Place) -> bool {
        let counts = self.rules[index].counts;
        if !matches!(counts, Counts::Issued { .. }) {
            return false;
        }
        let memory = self.memories.entry((index, holder.clone()));
        let memory = memory.or_insert_with(|| Meter::new(counts));
        let is_full = memory.in_use(place.at_ms) >= ISSUED_KEPT;
        if !held.reserved {
            memory.take(held, place);
        }
        is_full
    }

    /// The limit in place of a rule's own.
    fn own(&self, index: usize, holder: &Subject, at_ms: i64) -> Option<Own> {
        let own = self.own.get(&(index, holder.clone()))?.last().copied()?;
        own.filter(|own| own.is_in_force(at_ms))
    }

    fn free(&mut self, id: Uuid, place: Place) {
        self.gone.entry(id).or_insert(place.sequence);
        let Some(held) = self.live.remove(&id) else { return };
        self.forget_time(&held);
        self.on_device.entry(held.device.clone()).or_default().remove(&id);
        self.count(&held, |meter| meter.free(&held, place));
    }

    fn cut_short(&mut self, id: Uuid, until_ms: i64) {
        let Some(mut held) = self.live.remove(&id) else { return };
        self.forget_time(&held);
        held.until_ms = Some(held.until_ms.map_or(until_ms, |own_ms| own_ms.min(until_ms)));
        self.set_time(&held);
        self.live.insert(id, held);
    }

    fn set_time(&mut self, held: &Held) {
        let Some(until_ms) = held.until_ms else { return };
        self.expiring.entry(held.clock().to_owned()).or_default().insert((until_ms, held.slot.id));
    }

    fn forget_time(&mut self, held: &Held) {
        let Some(until_ms) = held.until_ms else { return };
        let times = self.expiring.entry(held.clock().to_owned()).or_default();
        times.remove(&(until_ms, held.slot.id));
    }

    fn join(&mut self, from: &str, into: &str, place: Place) {
        self.rename_member(from, into, place);
        let moved = self.on_device.remove(from).unwrap_or_default();
        for id in &moved {
            let Some(mut held) = self.live.remove(id) else { continue };
            self.count(&held, |meter| meter.free(&held, place));
            self.forget_time(&held);
            held.device = into.to_owned();
            self.set_time(&held);
            self.count(&held, |meter| meter.put(&held, place));
            self.live.insert(*id, held);
        }
        self.on_device.entry(into.to_owned()).or_default().extend(moved);
        self.move_windows(from, into, place);
        self.move_limits(from, into, place);
        let identities = self.identities.remove(from).unwrap_or_default();
        for identity in &identities {
            let belongs = self.belongs.entry(identity.clone()).or_default();
            belongs.push((place.sequence + 1, into.to_owned()));
        }
        self.identities.entry(into.to_owned()).or_default().extend(identities);
    }

    /// The accounts of the one device have the other in its place.
    fn rename_member(&mut self, from: &str, into: &str, place: Place) {
        let payers = self.payers.remove(from).unwrap_or_default();
        for account in &payers {
            for index in 0..self.rules.len() {
                let meter = self.meters.get_mut(&(index, Subject::Account(account.clone())));
                meter.into_iter().for_each(|meter| meter.rename(from, into, place));
            }
        }
        self.payers.entry(into.to_owned()).or_default().extend(payers);
    }

    /// What was issued lately to the one device was to the other.
    fn move_windows(&mut self, from: &str, into: &str, place: Place) {
        let of = |index, device: &str| (index, Subject::Device(device.to_owned()));
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.scope != Scope::Device {
                continue;
            }
            for meters in [&mut self.meters, &mut self.memories] {
                let Some(source) = meters.get_mut(&of(index, from)) else { continue };
                let times = source.hand_over(place);
                let target = meters.entry(of(index, into));
                target.or_insert_with(|| Meter::new(rule.counts)).take_over(&times, place);
            }
        }
    }

    /// The one device has the limits of the other, where it has none of its own.
    fn move_limits(&mut self, from: &str, into: &str, place: Place) {
        let [from, into] = [from, into].map(|device| Subject::Device(device.to_owned()));
        for index in 0..self.rules.len() {
            let Some(moved) = self.own(index, &from, place.at_ms) else { continue };
            self.own.entry((index, from.clone())).or_default().push(place, None);
            if self.own(index, &into, place.at_ms).is_none() {
                self.own.entry((index, into.clone())).or_default().push(place, Some(moved));
            }
        }
    }

    pub(super) fn place(&self, effect: &Effect) -> Option<usize> {
        self.places.get(effect).copied()
    }

    /// Whether a device was blocked at any of the prefixes.
    fn is_blocked(&self, device: &str, window: Window) -> bool {
        let blocks = self.blocks.get(device);
        blocks.is_some_and(|blocks| blocks.during(window).flatten().any(|blocked| *blocked))
    }

    /// Who is meant at which of the prefixes: an identity may belong to one device after another.
    fn meant(&self, subject: &Subject, (first, last): Window) -> Vec<(Subject, Window)> {
        let Subject::DeviceOf(identity) = subject else {
            return vec![(subject.clone(), (first, last))];
        };
        let belongs = self.belongs.get(identity).map(Vec::as_slice).unwrap_or_default();
        let ends = belongs.iter().skip(1).map(|(next, _)| next - 1).chain([usize::MAX]);
        let meant = belongs.iter().zip(ends).map(|((begin, device), end)| {
            (Subject::Device(device.clone()), (first.max(*begin), last.min(end)))
        });
        meant.filter(|(_, (first, last))| first <= last).collect()
    }

    /// The least room that a rule left a subject at any of the prefixes, for who asked between these
    /// times: none while a block refuses all, and all there is by a rule that is not known.
    pub(super) fn least_room(
        &self,
        rule: &str,
        subject: &Subject,
        window: Window,
        times: (i64, i64),
    ) -> i64 {
        let meant = self.meant(subject, window).into_iter();
        let rooms =
            meant.map(|(subject, window)| match (&subject, self.rule(rule)) {
                (Subject::Device(device), _) if rule == BLOCKED => {
                    if self.is_blocked(device, window) { 0 } else { i64::MAX }
                }
                (_, Some(index)) => self.least_room_by(index, &subject, window, times),
                (_, None) => i64::MAX,
            });
        rooms.min().unwrap_or(i64::MAX)
    }

    fn least_room_by(
        &self,
        index: usize,
        subject: &Subject,
        window: Window,
        (since_ms, until_ms): (i64, i64),
    ) -> i64 {
        let (rule, holder) = (self.rules[index], subject.holder());
        let meter = self.meters.get(&(index, subject.clone()));
        let memory = self.memories.get(&(index, holder.clone()));
        let own = self.own.get(&(index, holder));
        let meters = || meter.into_iter().chain(memory);
        let changes = meters().flat_map(|meter| meter.changes(window));
        let changes = changes.chain(own.into_iter().flat_map(|own| own.changes(window)));
        let rooms = iter::once(window.0).chain(changes).flat_map(|length| {
            let (set_ms, own) = match own.and_then(|own| own.at(length)) {
                Some((place, own)) => (Some(place.at_ms), *own),
                None => (None, None),
            };
            let changed = meters().filter_map(|meter| meter.changed_ms(length)).chain(set_ms);
            let at_ms = changed.fold(since_ms, i64::max);
            // Time by itself only makes room, but for the end of a limit that was set.
            let end = own.map(|own| own.until_ms);
            let end = end.filter(|end_ms| (at_ms..=until_ms).contains(end_ms));
            iter::once(at_ms).chain(end).map(move |at_ms| {
                let in_use = |meter: &Meter| meter.in_use_after(length, at_ms);
                if memory.is_some_and(|memory| in_use(memory) >= ISSUED_KEPT) {
                    return 0;
                }
                let limit =
                    own.filter(|own| own.is_in_force(at_ms)).map_or(rule.limit, |o| o.limit);
                let most = i64::try_from(limit + rule.overage).unwrap();
                most - i64::try_from(meter.map_or(0, in_use)).unwrap()
            })
        });
        rooms.min().unwrap()
    }

    /// Whether nobody had set a limit in place of the rule's own, or it had ended, at any of the
    /// prefixes, until this time.
    pub(super) fn was_bare(
        &self,
        rule: &str,
        holder: &Subject,
        window: Window,
        until_ms: i64,
    ) -> bool {
        let Some(index) = self.rule(rule) else { return true };
        self.meant(holder, window).into_iter().any(|(holder, window)| {
            let Some(own) = self.own.get(&(index, holder)) else { return true };
            let mut all = own.during(window).map(|own| own.copied().flatten());
            all.any(|own| own.is_none_or(|own| !own.is_in_force(until_ms)))
        })
    }

    /// Where the last of what has this id was gone.
    pub(super) fn gone(&self, id: Uuid) -> Option<usize> {
        let parts = self.parts.get(&id).map_or(std::slice::from_ref(&id), Vec::as_slice);
        let gone: Option<Vec<_>> = parts.iter().map(|part| self.gone.get(part).copied()).collect();
        gone?.into_iter().max()
    }
}
