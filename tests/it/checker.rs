//! Proves from a history of concurrent calls, and the log they left, that every promise was kept:
//! nothing granted or reserved beyond a limit at any prefix of the log, what others report beyond one
//! marked as such, every acknowledged effect in the log exactly once, effects in the order of real
//! time, every refusal justified at some moment of its call.
//!
//! It knows nothing of how the service decides: it counts what takes room, by device and by account,
//! with the times at which it was taken and freed, and which devices became one. Its time grows with
//! the length of history and log, but for the sorting of the calls, and with what is live on a device
//! where that becomes another.

mod faults;
mod load;
pub mod log;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use uuid::Uuid;

/// Whose use a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The device with this reference.
    Device(String),
    /// The device that this identity belongs to.
    DeviceOf(String),
    /// The account with this reference.
    Account(String),
}

/// One call, as its caller saw it. Times are of one clock that never goes back.
#[derive(Clone, Debug)]
pub struct Call {
    pub started: u64,
    /// When the answer was there; none came to a call that a kill cut off.
    pub ended: Option<u64>,
    pub told: Told,
}

/// What a caller was told.
#[derive(Clone, Debug)]
pub enum Told {
    /// These effects.
    Done(Vec<Effect>),
    /// So many more KIDs, none of them held, would exceed the limit of this subject.
    Refused { subject: Subject, wanted: usize },
    /// The license or reservation with this id takes no room, or nobody has it any more.
    Gone(Uuid),
    /// Nothing.
    Unknown,
}

/// Something that happens once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// A license was granted or reported, or room reserved.
    Taken(Uuid),
    /// A device acknowledged that it stored a license.
    Stored(Uuid),
    /// A license was deleted.
    Deleted(Uuid),
    /// A license was written off.
    WrittenOff(Uuid),
    /// A reservation was given back.
    Released(Uuid),
    /// A slot of a reservation became a license.
    Used(Uuid),
    /// A device went on as another one.
    Joined(String),
}

/// One event of the log.
#[derive(Clone, Debug)]
pub struct Change {
    pub at_ms: i64,
    pub effects: Vec<Effect>,
    pub what: What,
}

/// What an event does to the room that is taken.
#[derive(Clone, Debug)]
pub enum What {
    /// Room is taken on a device.
    Taken(Taken),
    /// These take no room any more, or only until a time.
    Freed {
        ids: Vec<Uuid>,
        until_ms: Option<i64>,
    },
    /// An identity was seen, and belongs to a device from the beginning.
    Belongs {
        identity: String,
        device: String,
    },
    /// What the one device has is the other's, its identities included.
    Joined {
        from: String,
        into: String,
    },
    Other,
}

/// Room that is taken by one event.
#[derive(Clone, Debug)]
pub struct Taken {
    pub device: String,
    pub account: Option<String>,
    /// The reservation, if it is one.
    pub reservation: Option<Uuid>,
    /// Ids and KIDs.
    pub slots: Vec<(Uuid, Uuid)>,
    pub until_ms: Option<i64>,
    pub by: By,
}

/// Who said that room is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A decision, which keeps to the limits, and is marked if it is beyond one that allows that.
    Decision { overage: bool },
    /// A report of what has happened, marked if it is beyond a limit.
    Report { overage: bool },
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// More is held than the limit allows right after this event.
    Overshoot { subject: Subject, sequence: usize },
    /// Something is marked as beyond a limit and is not, or the other way round.
    Mismarked { sequence: usize },
    /// An effect that was acknowledged is not in the log.
    Lost(Effect),
    /// An effect is in the log twice.
    Duplicate(Effect),
    /// An effect stands before one that was acknowledged before its call began.
    OutOfOrder(Effect),
    /// There was room throughout the call that was refused.
    Stale { subject: Subject, call: usize },
    /// What a call was told to be gone was there throughout.
    NotGone { id: Uuid, call: usize },
}

/// Something that takes room.
struct Held {
    device: String,
    account: Option<String>,
    key_id: Uuid,
    until_ms: Option<i64>,
}

/// What one subject holds over the log.
#[derive(Default)]
struct Timeline {
    /// What takes room, by slot; an account's slot is a device and a KID.
    slots: BTreeMap<(String, Uuid), BTreeSet<Uuid>>,
    /// (sequence, slots held after it), ascending.
    held: Vec<(usize, usize)>,
}

/// The log worked out.
#[derive(Default)]
struct Ledger {
    timelines: HashMap<Subject, Timeline>,
    live: HashMap<Uuid, Held>,
    /// What frees by itself, and when, by [clock](Held::clock).
    expiring: HashMap<String, BTreeSet<(i64, Uuid)>>,
    /// What each device has.
    on_device: HashMap<String, BTreeSet<Uuid>>,
    /// The devices that each identity belonged to, and from which length of the log on.
    belongs: HashMap<String, Vec<(usize, String)>>,
    /// Where each effect is.
    places: HashMap<Effect, usize>,
    /// Where what has an id stopped to take room, or was given up.
    gone: HashMap<Uuid, usize>,
    /// The parts of each reservation.
    parts: HashMap<Uuid, Vec<Uuid>>,
}

/// What a subject may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub limit: usize,
    /// How much more decisions allow if they are marked.
    pub overage: usize,
}

impl Limit {
    fn most(self) -> usize {
        self.limit + self.overage
    }
}

/// Checks a history against the log that it left. `limit` says what a subject may hold.
pub fn check(
    calls: &[Call],
    changes: &[Change],
    limit: impl Fn(&Subject) -> Limit,
) -> Result<(), Broken> {
    let ledger = work_out(changes, &limit)?;
    let spans = spans(calls, &ledger)?;
    let windows = windows(calls, &spans)?;
    for (index, (call, window)) in calls.iter().zip(windows).enumerate() {
        match &call.told {
            Told::Refused { subject, wanted } => {
                let full = limit(subject).most().saturating_sub(*wanted) + 1;
                if ledger.most_held(subject, window) < full {
                    return Err(Broken::Stale { subject: subject.clone(), call: index });
                }
            }
            Told::Gone(id) if ledger.gone(*id).is_none_or(|gone| window.1 <= gone) => {
                return Err(Broken::NotGone { id: *id, call: index });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Folds the log; refuses duplicates, and whatever is over a limit at a prefix.
fn work_out(changes: &[Change], limit: &impl Fn(&Subject) -> Limit) -> Result<Ledger, Broken> {
    let mut ledger = Ledger::default();
    for (sequence, change) in changes.iter().enumerate() {
        ledger.let_time_pass(change, sequence);
        for effect in &change.effects {
            if ledger.places.insert(effect.clone(), sequence).is_some() {
                return Err(Broken::Duplicate(effect.clone()));
            }
        }
        match &change.what {
            What::Taken(taken) => ledger.take(taken, sequence, limit)?,
            What::Freed { ids, until_ms: None } => {
                ids.iter().for_each(|id| ledger.free(*id, sequence));
            }
            What::Freed { ids, until_ms: Some(until_ms) } => {
                for id in ids {
                    ledger.gone.entry(*id).or_insert(sequence);
                    ledger.cut_short(*id, *until_ms);
                }
            }
            What::Belongs { identity, device } => {
                ledger.belongs.insert(identity.clone(), vec![(0, device.clone())]);
            }
            What::Joined { from, into } => ledger.join(from, into, sequence),
            What::Other => {}
        }
    }
    Ok(ledger)
}

impl Held {
    /// Whose events tell the time: that of one account, and of its devices, never goes back, while
    /// others may stand in the log before it that were decided later.
    fn clock(&self) -> &str {
        self.account.as_deref().unwrap_or(&self.device)
    }

    fn subjects(&self) -> impl Iterator<Item = Subject> + use<> {
        let account = self.account.clone().map(Subject::Account);
        [Subject::Device(self.device.clone())].into_iter().chain(account)
    }
}

impl Ledger {
    /// Frees what frees by itself before an event.
    fn let_time_pass(&mut self, change: &Change, sequence: usize) {
        let clock = match &change.what {
            What::Taken(taken) => Some(taken.account.as_deref().unwrap_or(&taken.device)),
            What::Freed { ids, .. } => {
                ids.first().and_then(|id| self.live.get(id)).map(Held::clock)
            }
            What::Belongs { .. } | What::Joined { .. } | What::Other => None,
        };
        let Some(times) = clock.and_then(|clock| self.expiring.get(clock)) else { return };
        let passed = times.iter().take_while(|(until_ms, _)| *until_ms <= change.at_ms);
        let passed: Vec<_> = passed.map(|(_, id)| *id).collect();
        passed.into_iter().for_each(|id| self.free(id, sequence));
    }

    fn take(
        &mut self,
        taken: &Taken,
        sequence: usize,
        limit: &impl Fn(&Subject) -> Limit,
    ) -> Result<(), Broken> {
        let (mut beyond, mut over) = (false, None);
        for (id, key_id) in &taken.slots {
            let held = Held {
                device: taken.device.clone(),
                account: taken.account.clone(),
                key_id: *key_id,
                until_ms: taken.until_ms,
            };
            for subject in held.subjects() {
                let timeline = self.timelines.entry(subject.clone()).or_default();
                let before = timeline.slots.len();
                timeline.take(&held, *id, sequence);
                let after = timeline.slots.len();
                let limit = limit(&subject);
                beyond |= after > before && after > limit.limit;
                if after > before && after > limit.most() {
                    over.get_or_insert(subject);
                }
            }
            self.set_time(&held, *id);
            self.on_device.entry(held.device.clone()).or_default().insert(*id);
            self.live.insert(*id, held);
        }
        if let Some(reservation) = taken.reservation {
            self.parts.insert(reservation, taken.slots.iter().map(|(id, _)| *id).collect());
        }
        match (taken.by, over) {
            (By::Decision { .. }, Some(subject)) => Err(Broken::Overshoot { subject, sequence }),
            (By::Decision { overage } | By::Report { overage }, _) if overage != beyond => {
                Err(Broken::Mismarked { sequence })
            }
            _ => Ok(()),
        }
    }

    fn free(&mut self, id: Uuid, sequence: usize) {
        self.gone.entry(id).or_insert(sequence);
        let Some(held) = self.live.remove(&id) else { return };
        self.forget_time(&held, id);
        self.on_device.entry(held.device.clone()).or_default().remove(&id);
        for subject in held.subjects() {
            self.timelines.entry(subject).or_default().free(&held, id, sequence);
        }
    }

    fn cut_short(&mut self, id: Uuid, until_ms: i64) {
        let Some(mut held) = self.live.remove(&id) else { return };
        self.forget_time(&held, id);
        held.until_ms = Some(held.until_ms.map_or(until_ms, |own_ms| own_ms.min(until_ms)));
        self.set_time(&held, id);
        self.live.insert(id, held);
    }

    fn set_time(&mut self, held: &Held, id: Uuid) {
        let Some(until_ms) = held.until_ms else { return };
        self.expiring.entry(held.clock().to_owned()).or_default().insert((until_ms, id));
    }

    fn forget_time(&mut self, held: &Held, id: Uuid) {
        let Some(until_ms) = held.until_ms else { return };
        self.expiring.entry(held.clock().to_owned()).or_default().remove(&(until_ms, id));
    }

    fn join(&mut self, from: &str, into: &str, sequence: usize) {
        let moved = self.on_device.remove(from).unwrap_or_default();
        for id in &moved {
            let Some(mut held) = self.live.remove(id) else { continue };
            for subject in held.subjects() {
                self.timelines.entry(subject).or_default().free(&held, *id, sequence);
            }
            self.forget_time(&held, *id);
            held.device = into.to_owned();
            self.set_time(&held, *id);
            for subject in held.subjects() {
                self.timelines.entry(subject).or_default().take(&held, *id, sequence);
            }
            self.live.insert(*id, held);
        }
        self.on_device.entry(into.to_owned()).or_default().extend(moved);
        for belongs in self.belongs.values_mut() {
            if belongs.last().is_some_and(|(_, device)| device == from) {
                belongs.push((sequence + 1, into.to_owned()));
            }
        }
    }

    /// The most that a subject held at any of the prefixes whose lengths are from `first` to `last`.
    fn most_held(&self, subject: &Subject, (first, last): (usize, usize)) -> usize {
        let most = |subject: &Subject, window| {
            self.timelines.get(subject).map_or(0, |timeline| timeline.most_held(window))
        };
        let Subject::DeviceOf(identity) = subject else { return most(subject, (first, last)) };
        let belongs = self.belongs.get(identity).map(Vec::as_slice).unwrap_or_default();
        let ends = belongs.iter().skip(1).map(|(next, _)| next - 1).chain([usize::MAX]);
        let times = belongs.iter().zip(ends).map(|((begin, device), end)| {
            let (first, last) = (first.max(*begin), last.min(end));
            if first > last {
                return 0;
            }
            most(&Subject::Device(device.clone()), (first, last))
        });
        times.max().unwrap_or(0)
    }

    /// Where the last of what has this id was gone.
    fn gone(&self, id: Uuid) -> Option<usize> {
        let parts = self.parts.get(&id).map_or(std::slice::from_ref(&id), Vec::as_slice);
        let gone: Option<Vec<_>> = parts.iter().map(|part| self.gone.get(part).copied()).collect();
        gone?.into_iter().max()
    }
}

impl Timeline {
    fn take(&mut self, held: &Held, id: Uuid, sequence: usize) {
        self.slots.entry((held.device.clone(), held.key_id)).or_default().insert(id);
        self.held.push((sequence, self.slots.len()));
    }

    fn free(&mut self, held: &Held, id: Uuid, sequence: usize) {
        let slot = (held.device.clone(), held.key_id);
        if let Some(ids) = self.slots.get_mut(&slot) {
            ids.remove(&id);
            if ids.is_empty() {
                self.slots.remove(&slot);
            }
        }
        self.held.push((sequence, self.slots.len()));
    }

    /// The most that was held at any of the prefixes whose lengths are from `first` to `last`.
    fn most_held(&self, (first, last): (usize, usize)) -> usize {
        let from = self.held.partition_point(|(sequence, _)| *sequence < first);
        let before = from.checked_sub(1).map_or(0, |index| self.held[index].1);
        let within = self.held[from..].iter().take_while(|(sequence, _)| *sequence < last);
        within.map(|(_, held)| *held).fold(before, usize::max)
    }
}

/// First and last sequence of each call's effects, if it has any and was told of them; refuses
/// what is not in the log.
fn spans(calls: &[Call], ledger: &Ledger) -> Result<Vec<Option<(usize, usize)>>, Broken> {
    let mut told = HashSet::<&Effect>::new();
    let mut spans = Vec::with_capacity(calls.len());
    for call in calls {
        let Told::Done(effects) = &call.told else {
            spans.push(None);
            continue;
        };
        let mut span = None;
        for effect in effects {
            if !told.insert(effect) {
                return Err(Broken::Duplicate(effect.clone()));
            }
            let place = ledger.places.get(effect).copied();
            let place = place.ok_or_else(|| Broken::Lost(effect.clone()))?;
            let (first, last) = span.unwrap_or((place, place));
            span = Some((place.min(first), place.max(last)));
        }
        spans.push(span);
    }
    Ok(spans)
}

/// For each call the lengths of the shortest and the longest prefix of the log that it may have
/// seen: all that was acknowledged before it began, nothing of what began after it ended.
fn windows(
    calls: &[Call],
    spans: &[Option<(usize, usize)>],
) -> Result<Vec<(usize, usize)>, Broken> {
    let mut windows = vec![(0, usize::MAX); calls.len()];
    let mut by_start: Vec<usize> = (0..calls.len()).collect();
    by_start.sort_by_key(|index| calls[*index].started);
    let mut by_end: Vec<usize> =
        by_start.iter().copied().filter(|i| calls[*i].ended.is_some()).collect();
    by_end.sort_by_key(|index| calls[*index].ended);

    let (mut ended, mut seen) = (by_end.iter().peekable(), 0);
    for index in &by_start {
        while let Some(earlier) = ended.next_if(|e| calls[**e].ended < Some(calls[*index].started))
        {
            seen = seen.max(spans[*earlier].map_or(0, |(_, last)| last + 1));
        }
        windows[*index].0 = seen;
        if let (Some((first, _)), Told::Done(effects)) = (spans[*index], &calls[*index].told)
            && first < seen
        {
            return Err(Broken::OutOfOrder(effects[0].clone()));
        }
    }
    let (mut started, mut unseen) = (by_start.iter().rev().peekable(), usize::MAX);
    for index in by_end.iter().rev() {
        while let Some(later) = started.next_if(|s| Some(calls[**s].started) > calls[*index].ended)
        {
            unseen = unseen.min(spans[*later].map_or(usize::MAX, |(first, _)| first));
        }
        windows[*index].1 = unseen;
    }
    Ok(windows)
}
