//! Limits that operators set for one device or account in place of those of the policy's rules.

use serde::Serialize;
use utoipa::ToSchema;

use super::once::{CommandAnswer, CommandError, Once, Remembered};
use super::policy::Published;
use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::event::QuotaOverrideSet;
use crate::domain::holding::{OVERRIDES_MAX, Overrides};
use crate::domain::quota::Scope;
use crate::domain::{AccountRef, DeviceRef, Event, Reason};
use crate::ledger::{Append, AppendError, Expected, NewEvent};

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
#[schema(example = json!({
    "rule": "device-slots", "limit": 40, "until": "2026-12-31T00:00:00Z",
}))]
pub struct LimitSet {
    /// Id of the rule.
    pub rule: String,
    /// The limit.
    pub limit: u32,
    /// From when on the rule's own limit holds again; `null`: until it is taken back.
    pub until: Option<UnixMillis>,
}

/// A limit is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    #[error("is beyond what a rule that looks back can count: 255, overage included")]
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
}

impl Holder {
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

type Outcome = Result<Option<CommandAnswer>, CommandError<OverrideRefused>>;

impl Licensing {
    /// Sets a limit for one device or account in place of the rule's own, or, where there is one
    /// already, in place of that.
    pub async fn set_limit(
        &self,
        holder: &Holder,
        wanted: &LimitSet,
        reason: &Reason,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<OverrideRefused>> {
        let change = Change { holder, rule: &wanted.rule, wanted: Some(wanted), reason };
        self.once(once, async || self.change_limit(&change, once).await).await
    }

    /// Takes a limit back, if there is one, so that the rule's own holds again.
    pub async fn take_limit_back(
        &self,
        holder: &Holder,
        rule: &str,
        reason: &Reason,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<OverrideRefused>> {
        let change = Change { holder, rule, wanted: None, reason };
        self.once(once, async || self.change_limit(&change, once).await).await
    }

    async fn change_limit(&self, change: &Change<'_>, once: &Once) -> Outcome {
        let policy = self.policy.refresh(&self.ledger).await?;
        match change.holder {
            Holder::Device(device) => self.change_of_device(device, change, &policy, once).await,
            Holder::Account(account) => {
                self.change_of_account(account, change, &policy, once).await
            }
        }
    }

    async fn change_of_device(
        &self,
        device: &DeviceRef,
        change: &Change<'_>,
        policy: &Published,
        once: &Once,
    ) -> Outcome {
        let mut subject = self.hold_at_head(device, None).await?;
        if subject.guard.head().is_none() {
            return Err(CommandError::Refused(OverrideRefused::UnknownDevice));
        }
        let set = subject.device().overrides();
        let at_ms = self.moment_of_limit(subject.at_ms(), policy);
        let event = change.event(policy, set, at_ms, once)?;
        let stream = subject.guard.stream().clone();
        let events = event.into_iter().map(|event| (stream.clone(), event)).collect();
        let answer = change.answer(once, at_ms)?;
        let checks = vec![self.policy.check(policy)];
        Ok(self.append_once(&mut subject, events, checks, answer).await?)
    }

    async fn change_of_account(
        &self,
        account: &AccountRef,
        change: &Change<'_>,
        policy: &Published,
        once: &Once,
    ) -> Outcome {
        let mut guard = self.deciding.hold_account(account).await?;
        guard.refresh().await?;
        let set = guard.account().overrides();
        let at_ms = self.moment_of_limit(guard.account().at_ms, policy);
        let event = change.event(policy, set, at_ms, once)?;
        let answer = change.answer(once, at_ms)?;
        let (remembered, unanswered) = answer.record();
        let head = (guard.stream().clone(), Expected::at_head(guard.head()));
        let events = event.map(|event| (guard.stream().clone(), event));
        let mut records = Vec::with_capacity(2);
        for (stream, event) in events.into_iter().chain([remembered]) {
            let record = NewEvent::of(&stream, &event, once.correlation())?;
            records.push((stream, record));
        }
        let checks = vec![head, unanswered, self.policy.check(policy)];
        match self.ledger.append(Append { records, checks }).await {
            Ok(appended) => Ok(Some(answer.stored(appended.last_sequence + 1))),
            Err(AppendError::Conflict { .. } | AppendError::IdReused { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Later than all before, so that the same change can be made again after another one.
    fn moment_of_limit(&self, last_ms: i64, policy: &Published) -> i64 {
        self.clock.now().0.max(last_ms + 1).max(policy.at_ms)
    }
}

/// A change that somebody wants.
struct Change<'a> {
    holder: &'a Holder,
    rule: &'a str,
    /// `None` takes the limit back.
    wanted: Option<&'a LimitSet>,
    reason: &'a Reason,
}

impl Change<'_> {
    /// The event that makes it true; `None` if it is.
    fn event(
        &self,
        policy: &Published,
        set: &Overrides,
        at_ms: i64,
        once: &Once,
    ) -> Result<Option<Event>, OverrideRefused> {
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
            actor: once.client().to_owned(),
            reason: self.reason.as_str().to_owned(),
            at_ms,
        })))
    }

    fn answer<'o>(&self, once: &'o Once, at_ms: i64) -> Result<Remembered<'o>, LicensingError> {
        match self.wanted {
            Some(wanted) => once.answer(200, wanted, at_ms),
            None => Ok(once.bare_answer(204, at_ms)),
        }
    }
}

impl From<OverrideRefused> for CommandError<OverrideRefused> {
    fn from(refused: OverrideRefused) -> Self {
        Self::Refused(refused)
    }
}
