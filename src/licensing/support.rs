//! Operators say what became of a device: lost, blocked, another's identity, one with another.
//!
//! Each act is one append over the streams of all devices and accounts that it changes, with who did
//! it and why. A device that was given up for another stands for that one in every later command.
//!
//! More licenses than one append ends are written off in parts, of which the last stores the answer. If
//! that does not come about, a repeat of the command goes on with what is left.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::commit::ENDED_AT_ONCE;
use super::once::{CommandAnswer, CommandError, Once};
use super::subject::Subject;
use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::event::{
    DeviceMerged, DeviceReplaced, IdentityLinked, LicenseWrittenOff, Replaced,
};
use crate::domain::support::{Act, TooMany, WriteOff};
use crate::domain::{DeviceRef, Event, Identity, LicenseId, Reason};
use crate::ledger::{Expected, StreamName};

/// Why an act of support is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SupportRefused {
    /// The ledger has never seen the device.
    #[error("the ledger does not know the device {0}")]
    UnknownDevice(DeviceRef),
    /// More than one event holds.
    #[error("{0}: write off those that are lost first")]
    TooManyToMove(TooMany),
    /// A device and itself.
    #[error("both are the device {0}")]
    SameDevice(DeviceRef),
    /// The device was given up for another one.
    #[error("the device {given_up} was given up for {device}: name that one")]
    GivenUp {
        /// The device named.
        given_up: DeviceRef,
        /// The one that goes on.
        device: DeviceRef,
    },
    /// What a blocked device has is not to be served as another's.
    #[error("the device {0} is blocked: unblock it first")]
    Blocked(DeviceRef),
    /// Another device took its place already.
    #[error("the device {0} is replaced already: unblock it first")]
    AlreadyReplaced(DeviceRef),
    /// Licenses stay with the device that they count on.
    #[error(
        "the device {0} holds licenses that this identity acquired: merge the two devices, or write \
         the licenses off"
    )]
    HoldsLicenses(DeviceRef),
}

/// What was written off.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "device": "beb4pw6chv22zwww44tn5zxsb4",
    "written_off": [{"license_id": "80526930-b94e-b14e-a091-7ea949ede441",
        "key_id": "01234567-89ab-cdef-0123-456789abcdef", "frees_at": null}],
    "not_live": [], "at": "2026-11-22T17:35:47.159Z",
}))]
pub struct WrittenOff {
    /// The device.
    pub device: String,
    /// What this command wrote off; of one that was interrupted and repeated, what was left by then.
    pub written_off: Vec<WrittenOffLicense>,
    /// The ids named of which the device has no live license, or one that was written off before.
    pub not_live: Vec<Uuid>,
    /// When.
    pub at: UnixMillis,
}

/// A license that was written off.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WrittenOffLicense {
    /// The license.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// From when on it does not count; `null`: at once.
    pub frees_at: Option<UnixMillis>,
}

/// Whether a device is blocked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "device": "beb4pw6chv22zwww44tn5zxsb4", "blocked": true, "changed": true,
}))]
pub struct Blocked {
    /// The device.
    pub device: String,
    /// Whether it gets no more licenses.
    pub blocked: bool,
    /// Whether this command made it so.
    pub changed: bool,
}

/// To which device an identity belongs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "identity": "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f",
    "device": "beb4pw6chv22zwww44tn5zxsb4", "previous_device": null, "changed": true,
}))]
pub struct Linked {
    /// The identity.
    pub identity: String,
    /// The device.
    pub device: String,
    /// The device that it belonged to; `null` if the ledger has not seen it yet.
    pub previous_device: Option<String>,
    /// Whether this command made it so.
    pub changed: bool,
}

/// A device that goes on with what another one had.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "from": "beb4pw6chv22zwww44tn5zxsb4", "device": "v2fbzn35sxxwxgohyyuao67tbe", "moved": 7,
    "written_off": [], "at": "2026-11-22T17:35:47.159Z",
}))]
pub struct TakenOver {
    /// The device that was given up, or replaced.
    pub from: String,
    /// The device that goes on.
    pub device: String,
    /// How many licenses and reservations count for it from here on.
    pub moved: usize,
    /// What was written off of the device replaced.
    pub written_off: Vec<WrittenOffLicense>,
    /// When.
    pub at: UnixMillis,
}

/// What becomes of the licenses of a device that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They count for the new one.
    Move,
    /// They are written off.
    WriteOff {
        /// For how long their slots are not given to others.
        cooldown_ms: Option<i64>,
    },
}

/// One device that takes the place of another.
#[derive(Clone, Copy, Debug)]
pub struct Succession<'a> {
    /// The device that is given up, or replaced.
    pub from: &'a DeviceRef,
    /// The device that goes on.
    pub into: &'a DeviceRef,
    /// What becomes of the licenses of the one that is replaced; `None`: the two are one device.
    pub replaced: Option<Fate>,
}

type Outcome = Result<Option<CommandAnswer>, CommandError<SupportRefused>>;

impl Licensing {
    /// Writes licenses of a device off. Those that are not live, or were written off, stay as they
    /// are.
    pub async fn write_off(
        &self,
        device: &DeviceRef,
        command: WriteOff<'_>,
        reason: &Reason,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<SupportRefused>> {
        let mut parts = Vec::new();
        self.once(once, async || {
            let (mut subject, _) = self.known_device(device, once).await?;
            let act = Act { actor: once.client(), reason };
            let last = self.write_off_parts(&mut subject, (command, act), once, &mut parts).await?;
            let Some(LastPart { events, mut not_live, at_ms }) = last else { return Ok(None) };
            not_live.retain(|LicenseId(id)| parts.iter().all(|part| part.license_id != *id));
            let view = WrittenOff {
                device: subject.name().to_string(),
                written_off: all_parts(&parts, &events),
                not_live: not_live.into_iter().map(|LicenseId(id)| id).collect(),
                at: UnixMillis(at_ms),
            };
            let events = events.into_iter().map(Event::LicenseWrittenOff).collect();
            let done = Done { kind: "write_off", events, at_ms };
            self.act(&mut subject, done, &view, once).await
        })
        .await
    }

    /// Blocks a device, or unblocks one that is blocked or was replaced.
    pub async fn set_blocked(
        &self,
        device: &DeviceRef,
        blocked: bool,
        reason: &Reason,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<SupportRefused>> {
        self.once(once, async || {
            let (mut subject, at_ms) = self.known_device(device, once).await?;
            let state = subject.device();
            let changed = if blocked { !state.blocked } else { state.blocked || state.replaced };
            let block = Act { actor: once.client(), reason }.block(at_ms);
            let event = match blocked {
                true => Event::DeviceBlocked(block),
                false => Event::DeviceUnblocked(block),
            };
            let view = Blocked { device: subject.name().to_string(), blocked, changed };
            let kind = if blocked { "block" } else { "unblock" };
            let events = changed.then_some(event).into_iter().collect();
            self.act(&mut subject, Done { kind, events, at_ms }, &view, once).await
        })
        .await
    }

    /// Has an identity, seen or not, belong to a device.
    pub async fn link(
        &self,
        identity: Identity,
        device: &DeviceRef,
        reason: &Reason,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<SupportRefused>> {
        self.once(once, async || self.link_once(identity, device, reason, once).await).await
    }

    /// Has one device go on with what another one had, because they are one, or takes the licenses of
    /// a device off that another one replaces.
    pub async fn succeed(
        &self,
        succession: Succession<'_>,
        reason: &Reason,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<SupportRefused>> {
        let mut parts = Vec::new();
        let succeed = async || self.succeed_once(succession, reason, once, &mut parts).await;
        self.once(once, succeed).await
    }

    async fn link_once(
        &self,
        identity: Identity,
        device: &DeviceRef,
        reason: &Reason,
        once: &Once,
    ) -> Outcome {
        let belonging = self.identities.find(identity, &self.ledger).await?;
        let is_new = belonging.expected == Expected::NoStream;
        let target = self.hold(device, None).await?.name().clone();
        let present = self.hold(&belonging.device, None).await?;
        let (previous, replaced) = (present.name().clone(), present.replaced);
        drop(present);
        let mut subject = match previous == target {
            true => self.hold(&target, None).await?,
            false => self.hold_two(&previous, &target).await?,
        };
        self.settle(&mut subject, once).await?;
        let moved = self.identities.moved(identity, &belonging, &self.ledger).await?;
        if moved || subject.is_given_up() {
            return Ok(None);
        }
        require_known(&target, &subject)?;
        let at_ms = self.moment(&subject).max(belonging.at_ms + 1);
        // The device that an identity never seen would have got is another matter.
        if !is_new && previous != target {
            if subject.device().blocked {
                return Err(SupportRefused::Blocked(previous).into());
            }
            if subject.device().holds_of(identity, at_ms) {
                return Err(SupportRefused::HoldsLicenses(previous).into());
            }
        }
        // Who came by a device that was replaced is served again as one of the new device.
        let changed = is_new || previous != target || replaced;
        let view = Linked {
            identity: identity.to_string(),
            device: target.to_string(),
            previous_device: (!is_new).then(|| previous.to_string()),
            changed,
        };
        let checks = vec![(belonging.stream.clone(), belonging.expected)];
        let answer = once.answer(200, &view, at_ms)?;
        if !changed {
            return Ok(self.append_once(&mut subject, Vec::new(), checks, answer).await?);
        }
        let linked = Event::IdentityLinked(IdentityLinked {
            identity,
            device: target,
            actor: Some(once.client().to_owned()),
            reason: Some(reason.as_str().to_owned()),
            at_ms,
        });
        let known = subject.devices().filter(|(_, guard)| guard.head().is_some());
        let mut events: Vec<_> =
            known.map(|(_, guard)| (guard.stream().clone(), linked.clone())).collect();
        events.push((belonging.stream.clone(), linked));
        let stored = self.append_once(&mut subject, events, checks, answer).await?;
        self.identities.forget(identity);
        Ok(self.counted("link", stored))
    }

    async fn succeed_once(
        &self,
        succession: Succession<'_>,
        reason: &Reason,
        once: &Once,
        parts: &mut Vec<WrittenOffLicense>,
    ) -> Outcome {
        let Succession { from, into, replaced } = succession;
        if from == into {
            return Err(SupportRefused::SameDevice(from.clone()).into());
        }
        let mut subject = self.hold_two(from, into).await?;
        self.settle(&mut subject, once).await?;
        for (name, guard) in subject.devices() {
            require_known(name, &subject)?;
            if let Some(device) = guard.device().given_up_for.clone() {
                return Err(SupportRefused::GivenUp { given_up: name.clone(), device }.into());
            }
        }
        require_unhindered(&subject, replaced)?;
        let act = Act { actor: once.client(), reason };
        let (events, view) = match replaced {
            Some(Fate::WriteOff { cooldown_ms }) => {
                let all = WriteOff { license_ids: None, cooldown_ms };
                let last = self.write_off_parts(&mut subject, (all, act), once, parts).await?;
                let Some(last) = last else { return Ok(None) };
                replacement(&subject, into, act, (parts.as_slice(), last))
            }
            _ => taking_over(&subject, replaced.is_some(), act, self.moment(&subject))?,
        };
        let answer = once.answer(200, &view, view.at.0)?;
        let stored = self.append_once(&mut subject, events, Vec::new(), answer).await?;
        Ok(self.counted(if replaced.is_some() { "replace" } else { "merge" }, stored))
    }

    /// Writes off all but the last part of what `command` names; `parts` are those that are stored.
    /// Returns the last one, which is to be stored with the answer. `None`: something has changed.
    async fn write_off_parts(
        &self,
        subject: &mut Subject,
        (command, act): (WriteOff<'_>, Act<'_>),
        once: &Once,
        parts: &mut Vec<WrittenOffLicense>,
    ) -> Result<Option<LastPart>, LicensingError> {
        loop {
            let at_ms = self.moment(subject);
            let (mut events, not_live) = subject.device().write_off(command, act, at_ms);
            if events.len() <= ENDED_AT_ONCE {
                return Ok(Some(LastPart { events, not_live, at_ms }));
            }
            events.truncate(ENDED_AT_ONCE);
            let stream = subject.guard.stream().clone();
            let records = events.iter().cloned().map(Event::LicenseWrittenOff);
            let records = records.map(|event| (stream.clone(), event)).collect();
            let checks = vec![once.unanswered()];
            if self.append_to(subject, records, checks, once.correlation()).await?.is_none() {
                return Ok(None);
            }
            parts.extend(events.iter().map(WrittenOffLicense::from));
        }
    }

    /// Counts an act that was stored.
    fn counted(&self, kind: &'static str, stored: Option<CommandAnswer>) -> Option<CommandAnswer> {
        if stored.is_some() {
            self.metrics.acted(kind);
        }
        stored
    }

    /// The device that an act is about, known and at its head, and the moment of the act.
    async fn known_device(
        &self,
        device: &DeviceRef,
        once: &Once,
    ) -> Result<(Subject, i64), CommandError<SupportRefused>> {
        let mut subject = self.hold(device, None).await?;
        self.settle(&mut subject, once).await?;
        require_known(subject.name(), &subject)?;
        let at_ms = self.moment(&subject);
        Ok((subject, at_ms))
    }

    /// Brings all to its head, and voids what is overdue before anybody says anything about it.
    async fn settle(&self, subject: &mut Subject, once: &Once) -> Result<(), LicensingError> {
        subject.refresh().await?;
        let policy = self.policy.refresh(&self.ledger).await?;
        self.void_overdue(subject, None, policy, once.correlation()).await.map(drop)
    }

    /// The moment of an act: later than all before, so that the same can be done again after it was
    /// undone, as another fact.
    fn moment(&self, subject: &Subject) -> i64 {
        self.clock.now().0.max(subject.at_ms() + 1).max(self.policy.current().at_ms)
    }

    /// Stores events of the one device, if there are any, and the answer in any case: what was so
    /// already may be undone, and then a repeat must not do it.
    async fn act(
        &self,
        subject: &mut Subject,
        Done { kind, events, at_ms }: Done,
        view: &impl Serialize,
        once: &Once,
    ) -> Outcome {
        if subject.is_given_up() {
            return Ok(None);
        }
        let changed = !events.is_empty();
        let stream = subject.guard.stream().clone();
        let events = events.into_iter().map(|event| (stream.clone(), event)).collect();
        let answer = once.answer(200, view, at_ms)?;
        let stored = self.append_once(subject, events, Vec::new(), answer).await?;
        Ok(if changed { self.counted(kind, stored) } else { stored })
    }
}

/// What an act does to one device.
struct Done {
    /// By which it is counted.
    kind: &'static str,
    /// None: it is so already.
    events: Vec<Event>,
    at_ms: i64,
}

/// The last part of what is written off.
struct LastPart {
    events: Vec<LicenseWrittenOff>,
    /// The ids named that are not, or not any more, to be written off.
    not_live: Vec<LicenseId>,
    at_ms: i64,
}

fn all_parts(parts: &[WrittenOffLicense], last: &[LicenseWrittenOff]) -> Vec<WrittenOffLicense> {
    parts.iter().cloned().chain(last.iter().map(Into::into)).collect()
}

/// The events of a succession, of the device replaced first, and the answer.
type Planned = (Vec<(StreamName, Event)>, TakenOver);

/// One device replaces the other, whose licenses are written off.
fn replacement(
    subject: &Subject,
    by: &DeviceRef,
    act: Act<'_>,
    (parts, LastPart { events, at_ms, .. }): (&[WrittenOffLicense], LastPart),
) -> Planned {
    let view = TakenOver {
        from: subject.name().to_string(),
        device: by.to_string(),
        moved: 0,
        written_off: all_parts(parts, &events),
        at: UnixMillis(at_ms),
    };
    let last = Event::DeviceReplaced(DeviceReplaced {
        by: by.clone(),
        licenses: Replaced::WrittenOff,
        actor: act.actor.to_owned(),
        reason: act.reason.as_str().to_owned(),
        at_ms,
    });
    let stream = subject.guard.stream();
    let events = events.into_iter().map(Event::LicenseWrittenOff).chain([last]);
    (events.map(|event| (stream.clone(), event)).collect(), view)
}

/// One device takes over all that the other has, which it replaces or is one with.
fn taking_over(
    subject: &Subject,
    replaces: bool,
    act: Act<'_>,
    at_ms: i64,
) -> Result<Planned, SupportRefused> {
    let (name, guard) = (subject.name(), &subject.guard);
    let Some((into, other)) = &subject.other else {
        return Err(SupportRefused::SameDevice(name.clone()));
    };
    let took_over = guard.device().hand_over(name, replaces, act, at_ms);
    let took_over = took_over.map_err(SupportRefused::TooManyToMove)?;
    let view = TakenOver {
        from: name.to_string(),
        device: into.to_string(),
        moved: took_over.licenses.len(),
        written_off: Vec::new(),
        at: UnixMillis(at_ms),
    };
    let (actor, reason) = (act.actor.to_owned(), act.reason.as_str().to_owned());
    let given_up = if replaces {
        let (by, licenses) = (into.clone(), Replaced::Moved);
        Event::DeviceReplaced(DeviceReplaced { by, licenses, actor, reason, at_ms })
    } else {
        Event::DeviceMerged(DeviceMerged { into: into.clone(), actor, reason, at_ms })
    };
    let took_over = Event::DeviceTookOver(Box::new(took_over));
    Ok((vec![(guard.stream().clone(), given_up), (other.stream().clone(), took_over)], view))
}

/// Refuses a succession of devices that are blocked or replaced.
fn require_unhindered(subject: &Subject, replaced: Option<Fate>) -> Result<(), SupportRefused> {
    let mut devices = subject.devices();
    if let Some((name, _)) = devices.find(|(_, guard)| guard.device().replaced) {
        return Err(SupportRefused::AlreadyReplaced(name.clone()));
    }
    // A blocked device can be written off; what is to be served as another's must not be blocked.
    let stays = matches!(replaced, Some(Fate::WriteOff { .. }));
    let mut devices = subject.devices();
    if let Some((name, _)) = devices.find(|(_, guard)| guard.device().blocked && !stays) {
        return Err(SupportRefused::Blocked(name.clone()));
    }
    Ok(())
}

/// Refuses a device that the ledger has never seen.
fn require_known(name: &DeviceRef, subject: &Subject) -> Result<(), SupportRefused> {
    let unknown = subject.devices().find(|(n, guard)| *n == name && guard.head().is_none());
    unknown.map_or(Ok(()), |(name, _)| Err(SupportRefused::UnknownDevice(name.clone())))
}

impl From<SupportRefused> for CommandError<SupportRefused> {
    fn from(refused: SupportRefused) -> Self {
        Self::Refused(refused)
    }
}

impl From<&LicenseWrittenOff> for WrittenOffLicense {
    fn from(event: &LicenseWrittenOff) -> Self {
        Self {
            license_id: event.license_id.0,
            key_id: event.key_id.0,
            frees_at: event.frees_at_ms.map(UnixMillis),
        }
    }
}
