//! Proves from a history of concurrent calls, and the log they left, that every promise was kept:
//! no limit exceeded at any prefix of the log, every acknowledged effect in the log exactly once,
//! effects in the order of real time, every refusal justified at some moment of its call.
//!
//! It knows nothing of how the service decides: it counts licenses, by device and by account, with
//! the times at which they were granted and ended. Its time grows with the length of history and
//! log, but for the sorting of the calls.

mod faults;
mod load;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use license_ledger::domain::Event;
use license_ledger::ledger::tail::Fact;
use uuid::Uuid;

/// Whose use a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The device with this reference.
    Device(String),
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
    /// These licenses, each for a KID that its device had never asked for before.
    Granted(Vec<Uuid>),
    /// So many licenses for new KIDs would exceed the limit of this subject.
    Refused { subject: Subject, wanted: usize },
    /// These licenses are gone.
    Ended(Vec<Uuid>),
    /// Nothing.
    Unknown,
}

/// A change of what is held, as the log has it.
#[derive(Clone, Debug)]
pub struct Change {
    pub at_ms: i64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Granted { license: Uuid, subjects: Vec<Subject>, key_id: Uuid, until_ms: Option<i64> },
    Ended { license: Uuid },
    Other,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// More is held than the limit allows right after this event.
    Overshoot { subject: Subject, sequence: usize },
    /// An effect that was acknowledged is not in the log.
    Lost(Uuid),
    /// An effect is in the log twice.
    Duplicate(Uuid),
    /// An effect stands before one that was acknowledged before its call began.
    OutOfOrder(Uuid),
    /// There was room throughout the call that was refused.
    Stale { subject: Subject, call: usize },
}

/// The changes that a log says, one a fact.
pub fn changes(facts: &[Fact]) -> Vec<Change> {
    let change = |fact: &Fact| {
        let device = fact.recorded.stream.as_str().strip_prefix("device-").unwrap_or_default();
        let what = match &fact.event {
            Event::LicenseAcquired(e) if e.persistent.effective => {
                let account = e.account.iter().map(|a| Subject::Account(a.to_string()));
                let subjects = [Subject::Device(device.to_owned())].into_iter().chain(account);
                What::Granted {
                    license: e.license_id.0,
                    subjects: subjects.collect(),
                    key_id: e.key_id.0,
                    until_ms: e.counted_until_ms,
                }
            }
            Event::LicenseDeleted(e) if e.releases => What::Ended { license: e.license_id.0 },
            Event::LicenseVoided(e) => What::Ended { license: e.license_id.0 },
            _ => What::Other,
        };
        Change { at_ms: fact.event.at_ms(), what }
    };
    facts.iter().map(change).collect()
}

/// What one subject holds over the log: after which event how many slots.
#[derive(Default)]
struct Timeline {
    /// Licenses by slot; an account's slot is a device and a KID.
    slots: BTreeMap<(String, Uuid), BTreeSet<Uuid>>,
    /// (sequence, slots held after it), ascending.
    held: Vec<(usize, usize)>,
}

/// The log worked out.
struct Ledger {
    timelines: HashMap<Subject, Timeline>,
    /// Where each license is granted, and where it ends.
    granted: HashMap<Uuid, usize>,
    ended: HashMap<Uuid, usize>,
}

struct License {
    subjects: Vec<Subject>,
    slot: (String, Uuid),
    until_ms: Option<i64>,
}

/// Checks a history against the log that it left. `limit` says what a subject may hold.
pub fn check(
    calls: &[Call],
    changes: &[Change],
    limit: impl Fn(&Subject) -> usize,
) -> Result<(), Broken> {
    let ledger = work_out(changes, &limit)?;
    let effects = effects(calls, &ledger)?;
    let windows = windows(calls, &effects)?;
    for (index, (call, window)) in calls.iter().zip(windows).enumerate() {
        let Told::Refused { subject, wanted } = &call.told else { continue };
        let full = limit(subject).saturating_sub(*wanted) + 1;
        let timeline = ledger.timelines.get(subject);
        if timeline.map_or(0, |timeline| timeline.most_held(window)) < full {
            return Err(Broken::Stale { subject: subject.clone(), call: index });
        }
    }
    Ok(())
}

/// Folds the log; refuses duplicates, and whatever is over a limit at a prefix.
fn work_out(changes: &[Change], limit: &impl Fn(&Subject) -> usize) -> Result<Ledger, Broken> {
    let mut ledger =
        Ledger { timelines: HashMap::new(), granted: HashMap::new(), ended: HashMap::new() };
    let mut live = HashMap::<Uuid, License>::new();
    let mut expiring = BTreeSet::<(i64, Uuid)>::new();
    for (sequence, change) in changes.iter().enumerate() {
        while let Some((until_ms, license)) = expiring.first().copied()
            && until_ms <= change.at_ms
        {
            expiring.pop_first();
            live.remove(&license).into_iter().for_each(|l| ledger.release(&l, license, sequence));
        }
        match &change.what {
            What::Granted { license, subjects, key_id, until_ms } => {
                if ledger.granted.insert(*license, sequence).is_some() {
                    return Err(Broken::Duplicate(*license));
                }
                let device = match subjects.first() {
                    Some(Subject::Device(device)) => device.clone(),
                    _ => String::new(),
                };
                expiring.extend(until_ms.map(|until_ms| (until_ms, *license)));
                let slot = (device, *key_id);
                let held = License { subjects: subjects.clone(), slot, until_ms: *until_ms };
                for subject in subjects {
                    if ledger.take(subject, &held, *license, sequence) > limit(subject) {
                        return Err(Broken::Overshoot { subject: subject.clone(), sequence });
                    }
                }
                live.insert(*license, held);
            }
            What::Ended { license } => {
                if ledger.ended.insert(*license, sequence).is_some() {
                    return Err(Broken::Duplicate(*license));
                }
                if let Some(held) = live.remove(license) {
                    expiring.retain(|entry| held.until_ms.is_none() || entry.1 != *license);
                    ledger.release(&held, *license, sequence);
                }
            }
            What::Other => {}
        }
    }
    Ok(ledger)
}

impl Ledger {
    /// Returns how many slots the subject holds then.
    fn take(&mut self, of: &Subject, held: &License, license: Uuid, sequence: usize) -> usize {
        let timeline = self.timelines.entry(of.clone()).or_default();
        timeline.slots.entry(held.slot.clone()).or_default().insert(license);
        timeline.held.push((sequence, timeline.slots.len()));
        timeline.slots.len()
    }

    fn release(&mut self, held: &License, license: Uuid, sequence: usize) {
        for subject in &held.subjects {
            let timeline = self.timelines.entry(subject.clone()).or_default();
            if let Some(licenses) = timeline.slots.get_mut(&held.slot) {
                licenses.remove(&license);
                if licenses.is_empty() {
                    timeline.slots.remove(&held.slot);
                }
            }
            timeline.held.push((sequence, timeline.slots.len()));
        }
    }
}

impl Timeline {
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
fn effects(calls: &[Call], ledger: &Ledger) -> Result<Vec<Option<(usize, usize)>>, Broken> {
    let mut told = HashMap::<(bool, Uuid), usize>::new();
    let mut effects = Vec::with_capacity(calls.len());
    for (index, call) in calls.iter().enumerate() {
        let (places, licenses, is_grant) = match &call.told {
            Told::Granted(licenses) => (&ledger.granted, licenses, true),
            Told::Ended(licenses) => (&ledger.ended, licenses, false),
            Told::Refused { .. } | Told::Unknown => {
                effects.push(None);
                continue;
            }
        };
        let mut span = None;
        for license in licenses {
            if is_grant && told.insert((is_grant, *license), index).is_some() {
                return Err(Broken::Duplicate(*license));
            }
            let place = *places.get(license).ok_or(Broken::Lost(*license))?;
            let (first, last) = span.unwrap_or((place, place));
            span = Some((place.min(first), place.max(last)));
        }
        effects.push(span);
    }
    Ok(effects)
}

/// For each call the lengths of the shortest and the longest prefix of the log that it may have
/// seen: all that was acknowledged before it began, nothing of what began after it ended.
fn windows(
    calls: &[Call],
    effects: &[Option<(usize, usize)>],
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
            seen = seen.max(effects[*earlier].map_or(0, |(_, last)| last + 1));
        }
        windows[*index].0 = seen;
        if let (Some((first, _)), Told::Granted(licenses)) = (effects[*index], &calls[*index].told)
            && first < seen
        {
            return Err(Broken::OutOfOrder(licenses[0]));
        }
    }
    let (mut started, mut unseen) = (by_start.iter().rev().peekable(), usize::MAX);
    for index in by_end.iter().rev() {
        while let Some(later) = started.next_if(|s| Some(calls[**s].started) > calls[*index].ended)
        {
            if let (Some((first, _)), Told::Granted(_)) = (effects[*later], &calls[*later].told) {
                unseen = unseen.min(first);
            }
        }
        windows[*index].1 = unseen;
    }
    Ok(windows)
}
