//! Limits that operators set for one device or account in place of those of the policy's rules.

use serde::Serialize;
use utoipa::ToSchema;

use super::commit::Attempts;
use super::policy::{Act, Published};
use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::event::QuotaOverrideSet;
use crate::domain::holding::{OVERRIDES_MAX, Override, Overrides};
use crate::domain::quota::Scope;
use crate::domain::{AccountRef, DeviceRef, Event};
use crate::ledger::state::StateError;
use crate::ledger::state::accounts::account_stream;
use crate::ledger::state::deciding::device_stream;
use crate::ledger::{Append, AppendError, Expected, NewEvent, StreamName};

/// Whose limit it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A device.
    Device(DeviceRef),
    /// An account.
    Account(AccountRef),
}

/// A limit in place of a rule's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LimitSet {
    /// Id of the rule.
    pub rule: String,
    /// The limit.
    pub limit: u32,
    /// From when on the rule's own limit holds again; `null`: until it is taken back.
    pub until: Option<UnixMillis>,
}

/// A limit is not set.
#[derive(Debug, thiserror::Error)]
pub enum OverrideRefused {
    /// The policy in force has no such rule.
    #[error("names no rule of the policy in force, version {version}")]
    NoSuchRule {
        /// The version.
        version: u64,
    },
    /// The rule counts something else.
    #[error("is a rule on {counted}: set its limit for one of those")]
    OtherScope {
        /// Devices or accounts.
        counted: &'static str,
    },
    /// The rule looks back further than is remembered.
    #[error("is beyond what a rule on issued licenses can count: 255, overage included")]
    BeyondMemory,
    /// It would end before it begins.
    #[error("is in the past")]
    Past,
    /// There are enough.
    #[error("is one too many: a device or account has {OVERRIDES_MAX} limits of its own at most")]
    TooMany,
    /// The ledger does not know the device.
    #[error("the ledger does not know the device")]
    UnknownDevice,
    /// A failure of ours.
    #[error(transparent)]
    Failed(LicensingError),
}

impl<E: Into<LicensingError>> From<E> for OverrideRefused {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Holder {
    fn stream(&self) -> StreamName {
        match self {
            Self::Device(device) => device_stream(device),
            Self::Account(account) => account_stream(account),
        }
    }

    /// Whether rules of this scope count for such a holder.
    fn is_counted_by(&self, scope: Scope) -> bool {
        matches!(self, Self::Device(_)) == (scope == Scope::Device)
    }
}

impl LimitSet {
    fn check(
        &self,
        holder: &Holder,
        policy: &Published,
        set: &Overrides,
        now_ms: i64,
    ) -> Result<(), OverrideRefused> {
        let Some(rule) = policy.policy.rule(&self.rule) else {
            return Err(OverrideRefused::NoSuchRule { version: policy.revision });
        };
        if !holder.is_counted_by(rule.scope) {
            let counted = if rule.scope == Scope::Device { "devices" } else { "accounts" };
            return Err(OverrideRefused::OtherScope { counted });
        }
        if !rule.can_count_to(self.limit) {
            return Err(OverrideRefused::BeyondMemory);
        }
        if self.until.is_some_and(|until| until.0 <= now_ms) {
            return Err(OverrideRefused::Past);
        }
        let others = set.in_force(now_ms).filter(|(rule, _)| *rule != self.rule);
        if others.count() >= OVERRIDES_MAX {
            return Err(OverrideRefused::TooMany);
        }
        Ok(())
    }
}

/// What an attempt at a change came to.
enum Attempt {
    /// It is as wanted; at this position of the ledger, if that took an event.
    Done(Option<u64>),
    /// Something has changed: look again.
    Again,
}

impl Licensing {
    /// Sets a limit for one device or account in place of the rule's own, or, where there is one
    /// already, in place of that. Returns how many events the ledger has with that; `None` if it is
    /// as wanted already.
    pub async fn set_limit(
        &self,
        holder: &Holder,
        wanted: &LimitSet,
        act: Act<'_>,
    ) -> Result<Option<u64>, OverrideRefused> {
        self.change_limit(holder, &wanted.rule, Some(wanted), act).await
    }

    /// Takes a limit back, so that the rule's own holds again. Returns how many events the ledger has
    /// with that; `None` if there was none.
    pub async fn take_limit_back(
        &self,
        holder: &Holder,
        rule: &str,
        act: Act<'_>,
    ) -> Result<Option<u64>, OverrideRefused> {
        self.change_limit(holder, rule, None, act).await
    }

    /// The limits set for a device or account that are in force, by rule.
    pub async fn limits(&self, holder: &Holder) -> Result<Vec<LimitSet>, LicensingError> {
        let now_ms = self.clock.now().0;
        Ok(match holder {
            Holder::Device(device) => {
                let mut guard = self.deciding.hold(device).await?;
                guard.refresh().await?;
                in_force(guard.device().overrides(), now_ms)
            }
            Holder::Account(account) => {
                let mut guard = self.deciding.hold_account(account).await?;
                guard.refresh().await?;
                in_force(guard.account().overrides(), now_ms)
            }
        })
    }

    async fn change_limit(
        &self,
        holder: &Holder,
        rule: &str,
        wanted: Option<&LimitSet>,
        act: Act<'_>,
    ) -> Result<Option<u64>, OverrideRefused> {
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            let change = Change { holder, rule, wanted, act };
            if let Attempt::Done(position) = self.try_to_change(&change).await? {
                return Ok(position);
            }
        }
    }

    async fn try_to_change(&self, change: &Change<'_>) -> Result<Attempt, OverrideRefused> {
        let policy = self.policy.refresh(&self.ledger).await?;
        match change.holder {
            Holder::Device(device) => {
                let mut guard = self.deciding.hold(device).await?;
                guard.refresh().await?;
                if !guard.device().enrolled {
                    return Err(OverrideRefused::UnknownDevice);
                }
                let (at_ms, set) = (guard.device().at_ms, guard.device().overrides());
                let event = change.event(&policy, set, self.clock.now().0, at_ms)?;
                let Some(event) = event else { return Ok(Attempt::Done(None)) };
                let appended = self.append_limit(change, &policy, &event, guard.head()).await?;
                fold(guard.refresh().await);
                Ok(appended)
            }
            Holder::Account(account) => {
                let mut guard = self.deciding.hold_account(account).await?;
                guard.refresh().await?;
                let (at_ms, set) = (guard.account().at_ms, guard.account().overrides());
                let event = change.event(&policy, set, self.clock.now().0, at_ms)?;
                let Some(event) = event else { return Ok(Attempt::Done(None)) };
                let appended = self.append_limit(change, &policy, &event, guard.head()).await?;
                fold(guard.refresh().await);
                Ok(appended)
            }
        }
    }

    /// Stores the change if neither holder nor policy has moved.
    async fn append_limit(
        &self,
        change: &Change<'_>,
        policy: &Published,
        event: &Event,
        head: Option<u64>,
    ) -> Result<Attempt, LicensingError> {
        let stream = change.holder.stream();
        let record = NewEvent::of(&stream, event, change.act.correlation)?;
        let append = Append {
            records: vec![(stream.clone(), record)],
            checks: vec![(stream, Expected::at_head(head)), self.policy.check(policy)],
        };
        match self.ledger.append(append).await {
            Ok(appended) => Ok(Attempt::Done(Some(appended.last_sequence + 1))),
            Err(AppendError::Conflict { .. } | AppendError::IdReused { .. }) => Ok(Attempt::Again),
            Err(error) => Err(error.into()),
        }
    }
}

/// A change that somebody wants.
struct Change<'a> {
    holder: &'a Holder,
    rule: &'a str,
    /// `None` takes the limit back.
    wanted: Option<&'a LimitSet>,
    act: Act<'a>,
}

impl Change<'_> {
    /// The event that makes it true; `None` if it is.
    fn event(
        &self,
        policy: &Published,
        set: &Overrides,
        now_ms: i64,
        last_ms: i64,
    ) -> Result<Option<Event>, OverrideRefused> {
        // Later than all before, so that the same change can be made again after another one.
        let at_ms = now_ms.max(last_ms + 1).max(policy.at_ms);
        if let Some(wanted) = self.wanted {
            wanted.check(self.holder, policy, set, at_ms)?;
        }
        let wanted = self.wanted.map(|w| (w.limit, w.until.map(|until| until.0)));
        let mut now_set = set.in_force(at_ms).filter(|(rule, _)| *rule == self.rule);
        let now_set = now_set.next().map(|(_, set)| (set.limit, set.until_ms));
        if wanted == now_set {
            return Ok(None);
        }
        Ok(Some(Event::QuotaOverrideSet(QuotaOverrideSet {
            rule: self.rule.to_owned(),
            limit: wanted.map(|(limit, _)| limit),
            until_ms: wanted.and_then(|(_, until_ms)| until_ms),
            actor: self.act.actor.to_owned(),
            reason: self.act.reason.as_str().to_owned(),
            at_ms,
        })))
    }
}

/// What is stored is stored: what cannot be folded is read again by the next decision.
fn fold(refreshed: Result<bool, StateError>) {
    if let Err(error) = refreshed {
        tracing::warn!(%error, "a limit could not be folded: {error}");
    }
}

fn in_force(overrides: &Overrides, now_ms: i64) -> Vec<LimitSet> {
    let limit = |(rule, set): (&str, Override)| LimitSet {
        rule: rule.to_owned(),
        limit: set.limit,
        until: set.until_ms.map(UnixMillis),
    };
    overrides.in_force(now_ms).map(limit).collect()
}
