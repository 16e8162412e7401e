//! Proves from a history of concurrent calls, and the log they left, that every promise was kept:
//! nothing granted or reserved beyond a limit at any prefix of the log, what others report beyond one
//! marked as such, every acknowledged effect in the log exactly once, effects in the order of real
//! time, every refusal justified at some moment of its call.
//!
//! It knows nothing of how the service decides: it counts what takes room, by device, account and
//! title, with the times at which it was taken and freed, what was issued lately, which limits were
//! set for a device or account, when a device was blocked, and which devices became one. Its time
//! grows with the length of history and log, but for the sorting of the calls and the finding of
//! places and times in lists in order, and with what is live on a device, and what was issued lately,
//! where that becomes another.

mod faults;
mod history;
mod ledger;
pub mod limits;
mod load;
pub mod log;
mod meters;

use std::collections::HashSet;

use uuid::Uuid;

use history::Window;
use ledger::Ledger;
use limits::{Own, Rule};

/// Whose use a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The device with this reference.
    Device(String),
    /// The device that this identity belongs to.
    DeviceOf(String),
    /// The account with this reference.
    Account(String),
    /// This title, on all devices of the account with this reference.
    Title(String, String),
}

impl Subject {
    /// Whose limits may be set in place of a rule's own.
    fn holder(&self) -> Self {
        match self {
            Self::Title(account, _) => Self::Account(account.clone()),
            holder => holder.clone(),
        }
    }
}

/// One call, as its caller saw it. Times are of one clock that never goes back.
#[derive(Clone, Debug)]
pub struct Call {
    pub started: u64,
    /// The same in milliseconds of the clock by which the service decides.
    pub started_ms: i64,
    /// When the answer was there; none came to a call that a kill cut off.
    pub ended: Option<u64>,
    pub told: Told,
}

/// So much further than the clock of callers may that of a ledger be, which goes on with every limit
/// that is set in the same moment.
const AHEAD_MS: i64 = 5;

impl Call {
    /// Between which times it was decided, if it was answered.
    fn times_ms(&self) -> (i64, i64) {
        let ns = self.ended.unwrap_or(self.started) - self.started;
        (
            self.started_ms,
            self.started_ms + i64::try_from(ns.div_ceil(1_000_000)).unwrap() + AHEAD_MS,
        )
    }
}

/// What a caller was told.
#[derive(Clone, Debug)]
pub enum Told {
    /// These effects.
    Done(Vec<Effect>),
    /// So much more of what this rule counts would exceed the limit of this subject.
    Refused { rule: String, subject: Subject, wanted: usize },
    /// The license or reservation with this id takes no room, or nobody has it any more.
    Gone(Uuid),
    /// The rule's own limit holds: what was set in its place is taken back, with this effect, or
    /// there was nothing to take back.
    TakenBack { rule: String, holder: Subject, effect: Effect },
    /// Nothing.
    Unknown,
}

impl Told {
    fn effects(&self) -> &[Effect] {
        match self {
            Self::Done(effects) => effects,
            Self::TakenBack { effect, .. } => std::slice::from_ref(effect),
            _ => &[],
        }
    }
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
    /// A limit was set in place of a rule's own, or taken back, for this reason.
    Limited { rule: String, own: Option<Own>, reason: String },
    /// A device was blocked or unblocked, for this reason.
    Blocked(String),
    /// This identity was said to be one of a device.
    Linked(String),
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
    /// A device or account has a limit in place of a rule's own, or no longer.
    Limited {
        holder: Subject,
        rule: String,
        own: Option<Own>,
    },
    /// A device gets no more by decisions, or gets it again.
    Blocked {
        device: String,
        blocked: bool,
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
    pub slots: Vec<Slot>,
    pub until_ms: Option<i64>,
    pub by: By,
}

/// A license, or what is reserved for one.
#[derive(Clone, Debug)]
pub struct Slot {
    pub id: Uuid,
    pub key_id: Uuid,
    pub title: Option<String>,
    pub group: Option<String>,
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
    /// More is in use than the rule allows right after this event.
    Overshoot { rule: &'static str, subject: Subject, sequence: usize },
    /// A decision gave a blocked device something.
    Barred { device: String, sequence: usize },
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

/// Checks a history against the log that it left, by the rules of the policy.
pub fn check(calls: &[Call], changes: &[Change], rules: &[Rule]) -> Result<(), Broken> {
    let ledger = Ledger::of(changes, rules)?;
    let spans = spans(calls, &ledger)?;
    let windows = windows(calls, &spans)?;
    for (index, (call, window)) in calls.iter().zip(windows).enumerate() {
        match &call.told {
            Told::Refused { rule, subject, wanted } => {
                let room = ledger.least_room(rule, subject, window, call.times_ms());
                if room >= i64::try_from(*wanted).unwrap() {
                    return Err(Broken::Stale { subject: subject.clone(), call: index });
                }
            }
            Told::Gone(id) if ledger.gone(*id).is_none_or(|gone| window.1 <= gone) => {
                return Err(Broken::NotGone { id: *id, call: index });
            }
            Told::TakenBack { rule, holder, effect }
                if spans[index].is_none()
                    && !ledger.was_bare(rule, holder, window, call.times_ms().1) =>
            {
                return Err(Broken::Lost(effect.clone()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// First and last sequence of each call's effects, if it has any and was told of them; refuses
/// what is not in the log.
fn spans(calls: &[Call], ledger: &Ledger<'_>) -> Result<Vec<Option<(usize, usize)>>, Broken> {
    let mut told = HashSet::<&Effect>::new();
    let mut spans = Vec::with_capacity(calls.len());
    for call in calls {
        let mut span = None;
        for effect in call.told.effects() {
            if !told.insert(effect) {
                return Err(Broken::Duplicate(effect.clone()));
            }
            let place = match (ledger.place(effect), &call.told) {
                (Some(place), _) => place,
                // There may have been nothing to take back.
                (None, Told::TakenBack { .. }) => continue,
                (None, _) => return Err(Broken::Lost(effect.clone())),
            };
            let (first, last) = span.unwrap_or((place, place));
            span = Some((place.min(first), place.max(last)));
        }
        spans.push(span);
    }
    Ok(spans)
}

/// For each call the lengths of the shortest and the longest prefix of the log that it may have
/// seen: all that was acknowledged before it began, nothing of what began after it ended.
fn windows(calls: &[Call], spans: &[Option<(usize, usize)>]) -> Result<Vec<Window>, Broken> {
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
        if spans[*index].is_some_and(|(first, _)| first < seen) {
            return Err(Broken::OutOfOrder(calls[*index].told.effects()[0].clone()));
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
