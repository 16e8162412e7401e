//! From a decision to stored events.

use std::sync::Arc;

use super::identities::Belonging;
use super::policy::Published;
use super::subject::Subject;
use super::{Licensing, LicensingError};
use crate::domain::account::mirror;
use crate::domain::event::{DeviceEnrolled, IdentityLinked};
use crate::domain::{AccountRef, DeviceRef, Digest, Event, Identity};
use crate::entitlement::LICENSES_MAX;
use crate::ledger::state::accounts::account_stream;
use crate::ledger::{Append, AppendError, Expected, NewEvent, StreamName};
use crate::playready::challenge::Sender;

/// Decisions of one command that may lose against others before it gives up. Within a process
/// decisions about a device wait for each other, so only other processes can win a race.
const ATTEMPTS: usize = 64;

/// Licenses that one append ends at most, where any number may end at once: each is an event of the
/// device and one of its account, and an append has a limit.
pub(super) const ENDED_AT_ONCE: usize = 400;

/// Events of a license at most: that it was acquired, its slot at the account, and what settles where
/// its key comes from and how that encrypts.
const EVENTS_OF_LICENSE: usize = 4;
/// Events of a grant besides: the device was enrolled, its identity linked, and a token spent.
const EVENTS_BESIDES: usize = 3;
const _: () = assert!(LICENSES_MAX * EVENTS_OF_LICENSE + EVENTS_BESIDES <= Append::RECORDS_MAX);

/// One decision about one device: the device and its accounts, held meanwhile, and all else it is
/// made on.
pub(super) struct Turn {
    pub(super) identity: Identity,
    pub(super) belonging: Belonging,
    pub(super) policy: Arc<Published>,
    pub(super) subject: Subject,
    /// The time of the decision: never before that of what it is made on.
    pub(super) at_ms: i64,
}

/// What became of an append.
pub(super) enum Committed {
    /// The events are durable; so many events the ledger has with the last of them.
    Stored {
        /// Position to read from, for whoever wants to see the effect.
        position: u64,
    },
    /// Something that the decision was made on has changed: decide again.
    DecideAgain,
    /// A license has another key source or use than its KID: follow that and decide again.
    BoundOtherwise,
}

/// Counts attempts.
pub(super) struct Attempts(usize);

impl Attempts {
    pub(super) fn new() -> Self {
        Self(0)
    }

    /// Counts one more.
    pub(super) fn next(&mut self) -> Result<(), LicensingError> {
        self.0 += 1;
        if self.0 > ATTEMPTS { Err(LicensingError::Contended) } else { Ok(()) }
    }
}

/// What the ledger keeps of who asks.
pub(super) struct Caller {
    pub(super) identity: Identity,
    pub(super) security_level: u32,
    /// Maker, model name and number, as far as they are known.
    pub(super) model: String,
}

impl Caller {
    /// The sender of a challenge, by its certificate.
    pub(super) fn of(sender: &Sender) -> Self {
        let parts = sender.chain().manufacturer().into_iter().filter(|part| !part.is_empty());
        Self {
            identity: Identity(Digest(*sender.identity())),
            security_level: sender.security_level(),
            model: parts.collect::<Vec<_>>().join(" "),
        }
    }
}

/// What the ledger says about a device that is seen for the first time.
pub(super) fn introduction(caller: &Caller, turn: &Turn) -> Vec<(StreamName, Event)> {
    let Turn { identity, belonging, subject, at_ms, .. } = turn;
    let guard = &subject.guard;
    let (identity, at_ms, device) = (*identity, *at_ms, belonging.device.clone());
    let mut events = Vec::new();
    // A back end may have spoken of the device before.
    if !guard.device().enrolled {
        let enrolled = DeviceEnrolled {
            device: device.clone(),
            identity,
            security_level: caller.security_level,
            model: caller.model.clone(),
            at_ms,
        };
        events.push((guard.stream().clone(), Event::DeviceEnrolled(enrolled)));
    }
    if belonging.expected == Expected::NoStream {
        let linked = IdentityLinked { identity, device, actor: None, reason: None, at_ms };
        events.push((belonging.stream.clone(), Event::IdentityLinked(linked)));
    }
    events
}

impl Licensing {
    /// Takes the device that `identity` belongs to, and reads what else a decision is made on. An
    /// identity that was never seen is taken for one of the device `claimed`, if there is one;
    /// `paying` is the account that is to pay for what it gets. What is overdue on the device is
    /// voided first.
    pub(super) async fn turn(
        &self,
        identity: Identity,
        claimed: Option<&DeviceRef>,
        paying: Option<&AccountRef>,
        correlation: &str,
    ) -> Result<Turn, LicensingError> {
        let mut belonging = self.identities.find(identity, &self.ledger).await?;
        if let (Expected::NoStream, Some(claimed)) = (belonging.expected, claimed) {
            belonging.device = claimed.clone();
        }
        let mut policy = self.policy.current();
        let mut subject = self.hold(&belonging.device, paying).await?;
        if belonging.device != *subject.name() {
            belonging.device = subject.name().clone();
        }
        if policy.policy.voiding.is_some() {
            policy = self.void_overdue(&mut subject, paying, policy, correlation).await?;
        }
        let read_ms = subject.at_ms().max(belonging.at_ms).max(policy.at_ms);
        let at_ms = self.clock.now().0.max(read_ms);
        Ok(Turn { identity, belonging, policy, subject, at_ms })
    }

    /// Stores `events` if nothing has changed since they were decided, and folds them.
    /// `extra_checks` are for streams beside device, accounts, identity and policy. Licenses with keys from
    /// seeds bring what binds their KIDs to those ([`binding`](super::binding)), and the first license
    /// of a KID what settles its use ([`key_types`](super::key_types)).
    pub(super) async fn commit(
        &self,
        turn: &mut Turn,
        mut events: Vec<(StreamName, Event)>,
        extra_checks: Vec<(StreamName, Expected)>,
        correlation: &str,
    ) -> Result<Committed, LicensingError> {
        let Some(bindings) = self.bindings(&events, turn.at_ms).await? else {
            return Ok(Committed::BoundOtherwise);
        };
        let Turn { identity, belonging, policy, subject, .. } = turn;
        let mut checks = extra_checks;
        checks.push((belonging.stream.clone(), belonging.expected));
        checks.push(self.policy.check(policy));
        checks.extend(bindings.iter().map(|each| (each.stream.clone(), each.expected)));
        events.extend(bindings.iter().map(|each| (each.stream.clone(), each.event.clone())));
        match self.append_to(subject, events, checks, correlation).await? {
            Some(position) => {
                if belonging.expected == Expected::NoStream {
                    self.identities.forget(*identity);
                }
                self.bound(&bindings);
                Ok(Committed::Stored { position })
            }
            // If the same challenge was answered elsewhere meanwhile, the next decision finds that
            // answer and repeats it.
            None => {
                self.moved(turn).await?;
                Ok(Committed::DecideAgain)
            }
        }
    }

    /// Stores `events`, and what they change on accounts, if the device and its accounts are still
    /// where `subject` has them and `checks` hold; then folds them. Returns how many events the
    /// ledger has with the last of them; `None` if something has changed.
    pub(super) async fn append_to(
        &self,
        subject: &mut Subject,
        mut events: Vec<(StreamName, Event)>,
        mut checks: Vec<(StreamName, Expected)>,
        correlation: &str,
    ) -> Result<Option<u64>, LicensingError> {
        if subject.is_given_up() {
            return Ok(None);
        }
        let mut mirrored = Vec::new();
        for (name, guard) in subject.devices() {
            let own = events.iter().filter(|(stream, _)| stream == guard.stream());
            mirrored.extend(mirror(name, guard.device(), own.map(|(_, event)| event)));
        }
        if mirrored.iter().any(|(account, _)| !subject.accounts.contains_key(account)) {
            return Ok(None);
        }
        // Behind what they mirror, and before what else was handed in: the last event of all is
        // still the last.
        let is_of_device =
            |stream: &StreamName| subject.devices().any(|(_, guard)| guard.stream() == stream);
        let at = events.iter().rposition(|(stream, _)| is_of_device(stream));
        let at = at.map_or(0, |last| last + 1);
        let mirrored = mirrored.into_iter();
        let mirrored = mirrored.map(|(account, event)| (account_stream(&account), event));
        events.splice(at..at, mirrored);
        checks.extend(subject.checks());
        let mut records = Vec::with_capacity(events.len());
        for (stream, event) in &events {
            records.push((stream.clone(), NewEvent::of(stream, event, correlation)?));
        }
        let appended = match self.ledger.append(Append { records, checks }).await {
            Ok(appended) => appended,
            Err(AppendError::Conflict { .. } | AppendError::IdReused { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The events are durable: what fails here is read again by the next decision.
        if let Err(error) = subject.committed(&events, &appended).await {
            tracing::warn!(%error, "a device could not be folded forward: {error}");
        }
        Ok(Some(appended.last_sequence + 1))
    }

    /// Reads the heads of all that a decision was made on, and what stands there; tells whether any
    /// of them has moved. An answer that appends nothing is only true if none has.
    pub(super) async fn moved(&self, turn: &mut Turn) -> Result<bool, LicensingError> {
        let subject = turn.subject.refresh().await? || turn.subject.is_given_up();
        let identity = self.identities.moved(turn.identity, &turn.belonging, &self.ledger).await?;
        let policy = self.policy.refresh(&self.ledger).await?;
        Ok(subject || identity || policy.revision != turn.policy.revision)
    }
}
