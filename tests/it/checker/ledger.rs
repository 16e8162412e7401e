//! The log worked out: what takes room at each prefix of it, and where each effect is.

use std::collections::{BTreeSet, HashMap};

use license_ledger::domain::quota::BLOCKED;
use uuid::Uuid;

use super::limits::{Growth, Meter, Place, Rule};
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
    /// By the place of the rule among all.
    meters: HashMap<(usize, Subject), Meter>,
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
    /// Whether each device is blocked, from each place on where that changed.
    blocks: HashMap<String, Vec<(usize, bool)>>,
    /// Where each effect is.
    places: HashMap<Effect, usize>,
    /// Where what has an id stopped to take room, or was given up.
    gone: HashMap<Uuid, usize>,
    /// The parts of each reservation.
    parts: HashMap<Uuid, Vec<Uuid>>,
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
            What::Limited { device, rule, own } => {
                if let Some(index) = self.rules.iter().position(|known| known.id == rule) {
                    self.meter(index, Subject::Device(device.clone())).set_own(*own, place);
                }
            }
            What::Blocked { device, blocked } => {
                let blocks = self.blocks.entry(device.clone()).or_default();
                blocks.push((place.sequence, *blocked));
            }
            What::Other => {}
        }
        Ok(())
    }

    /// What the rule in this place counts of a subject.
    fn meter(&mut self, index: usize, subject: Subject) -> &mut Meter {
        let rule = self.rules[index];
        self.meters.entry((index, subject)).or_insert_with(|| Meter::new(rule))
    }

    /// All that something is counted by.
    fn count(&mut self, held: &Held, mut by: impl FnMut(&Rule, Subject, &mut Meter)) {
        for (index, rule) in self.rules.iter().enumerate() {
            if let Some(subject) = rule.subject(held) {
                by(rule, subject.clone(), self.meter(index, subject));
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
            self.count(&held, |rule, subject, meter| {
                let Growth { beyond, over } = meter.take(&held, place);
                any_beyond |= beyond;
                if over {
                    let rule = rule.id;
                    overshoot.get_or_insert(Broken::Overshoot { rule, subject, sequence });
                }
            });
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

    fn free(&mut self, id: Uuid, place: Place) {
        self.gone.entry(id).or_insert(place.sequence);
        let Some(held) = self.live.remove(&id) else { return };
        self.forget_time(&held);
        self.on_device.entry(held.device.clone()).or_default().remove(&id);
        self.count(&held, |_, _, meter| meter.free(&held, place));
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
        self.rename_member(from, into);
        let moved = self.on_device.remove(from).unwrap_or_default();
        for id in &moved {
            let Some(mut held) = self.live.remove(id) else { continue };
            self.count(&held, |_, _, meter| meter.free(&held, place));
            self.forget_time(&held);
            held.device = into.to_owned();
            self.set_time(&held);
            self.count(&held, |_, _, meter| meter.put(&held, place));
            self.live.insert(*id, held);
        }
        self.on_device.entry(into.to_owned()).or_default().extend(moved);
        self.move_limits(from, into, place);
        let identities = self.identities.remove(from).unwrap_or_default();
        for identity in &identities {
            let belongs = self.belongs.entry(identity.clone()).or_default();
            belongs.push((place.sequence + 1, into.to_owned()));
        }
        self.identities.entry(into.to_owned()).or_default().extend(identities);
    }

    /// The accounts of the one device have the other in its place.
    fn rename_member(&mut self, from: &str, into: &str) {
        let payers = self.payers.remove(from).unwrap_or_default();
        for account in &payers {
            for index in 0..self.rules.len() {
                let meter = self.meters.get_mut(&(index, Subject::Account(account.clone())));
                meter.into_iter().for_each(|meter| meter.rename(from, into));
            }
        }
        self.payers.entry(into.to_owned()).or_default().extend(payers);
    }

    /// The one device has the limits of the other, where it has none of its own.
    fn move_limits(&mut self, from: &str, into: &str, place: Place) {
        for index in 0..self.rules.len() {
            let source = self.meters.get(&(index, Subject::Device(from.to_owned())));
            let Some(moved) = source.and_then(|source| source.own(place.at_ms)) else { continue };
            let target = self.meter(index, Subject::Device(into.to_owned()));
            target.set_own(target.own(place.at_ms).or(Some(moved)), place);
        }
    }

    pub(super) fn place(&self, effect: &Effect) -> Option<usize> {
        self.places.get(effect).copied()
    }

    /// Whether a device was blocked at any of the prefixes whose lengths are from `first` to `last`.
    fn is_blocked(&self, device: &str, (first, last): (usize, usize)) -> bool {
        let blocks = self.blocks.get(device).map(Vec::as_slice).unwrap_or_default();
        let from = blocks.partition_point(|(sequence, _)| *sequence < first);
        let within = blocks[from..].iter().take_while(|(sequence, _)| *sequence < last);
        blocks[..from].last().into_iter().chain(within).any(|(_, blocked)| *blocked)
    }

    /// The least room that a rule left a subject at any of the prefixes whose lengths are from
    /// `first` to `last`, for who asked between these times: none while a block refuses all, and
    /// all there is by a rule that is not known.
    pub(super) fn least_room(
        &self,
        rule: &str,
        subject: &Subject,
        (first, last): (usize, usize),
        times: (i64, i64),
    ) -> i64 {
        let index = self.rules.iter().position(|known| known.id == rule);
        let room =
            |subject: &Subject, window| match (subject, index) {
                (Subject::Device(device), _) if rule == BLOCKED => {
                    if self.is_blocked(device, window) { 0 } else { i64::MAX }
                }
                (_, Some(index)) => match self.meters.get(&(index, subject.clone())) {
                    Some(meter) => meter.least_room(window, times),
                    None => self.rules[index].most(),
                },
                (_, None) => i64::MAX,
            };
        let Subject::DeviceOf(identity) = subject else { return room(subject, (first, last)) };
        let belongs = self.belongs.get(identity).map(Vec::as_slice).unwrap_or_default();
        let ends = belongs.iter().skip(1).map(|(next, _)| next - 1).chain([usize::MAX]);
        let times = belongs.iter().zip(ends).filter_map(|((begin, device), end)| {
            let (first, last) = (first.max(*begin), last.min(end));
            (first <= last).then(|| room(&Subject::Device(device.clone()), (first, last)))
        });
        times.min().unwrap_or(i64::MAX)
    }

    /// Where the last of what has this id was gone.
    pub(super) fn gone(&self, id: Uuid) -> Option<usize> {
        let parts = self.parts.get(&id).map_or(std::slice::from_ref(&id), Vec::as_slice);
        let gone: Option<Vec<_>> = parts.iter().map(|part| self.gone.get(part).copied()).collect();
        gone?.into_iter().max()
    }
}
