//! New versions of the quota policy, and the old ones.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Published, newest, policy_stream};
use crate::clock::{Clock, UnixMillis};
use crate::domain::event::QuotaPolicyPublished;
use crate::domain::quota::{InvalidPolicy, QuotaPolicy};
use crate::domain::{Event, Reason};
use crate::ledger::{Append, AppendError, Expected, Ledger, NewEvent, StreamName};
use crate::licensing::LicensingError;
use crate::licensing::commit::Attempts;

/// Who does something, and why.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    /// The public part of an API key, or `cli`.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a Reason,
    /// Names it in the metadata of its events.
    pub correlation: &'a str,
}

/// A quota policy as it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "version": 3,
    "policy": {
        "rules": [{"id": "device-slots", "scope": "device", "counts": "live_slots", "limit": 25,
            "on_exceed": "deny"}],
        "licenses_per_slot": 16, "releasing_grades": ["A", "B", "C"],
    },
    "actor": "sbfnxnkoo23wosbr", "reason": "two homes for every family",
    "published_at": "2026-11-22T17:35:47.159Z",
}))]
pub struct PolicyVersion {
    /// Its revision in the `policy` stream: 0 for the first.
    pub version: u64,
    /// The policy.
    pub policy: QuotaPolicy,
    /// Who published it: the public part of an API key, `cli`, or `configuration`.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// From when on it was in force.
    pub published_at: UnixMillis,
    /// Place of its event in the ledger.
    #[serde(skip)]
    pub sequence: u64,
}

impl From<Published> for PolicyVersion {
    fn from(published: Published) -> Self {
        let Published { policy, revision, sequence, actor, reason, at_ms } = published;
        let published_at = UnixMillis(at_ms);
        Self { version: revision, policy, actor, reason, published_at, sequence }
    }
}

/// A policy was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It contradicts itself or cannot be meant.
    #[error(transparent)]
    Invalid(#[from] InvalidPolicy),
    /// Another version is in force than the one that it was to follow.
    #[error("version {in_force} of the policy is in force by now; look at it and decide again")]
    Superseded {
        /// The version in force.
        in_force: u64,
    },
    /// A failure of ours.
    #[error(transparent)]
    Failed(#[from] LicensingError),
}

/// Publishes quota policies and shows those that were. Whoever decides notices a new one by the
/// revision of its stream, which every append names.
pub struct Policies {
    ledger: Arc<Ledger>,
    clock: Clock,
}

impl Policies {
    /// The policies in `ledger`.
    pub fn new(ledger: Arc<Ledger>, clock: Clock) -> Self {
        Self { ledger, clock }
    }

    /// The policy in force; `None` in a ledger that was never served.
    pub async fn in_force(&self) -> Result<Option<PolicyVersion>, LicensingError> {
        let newest = newest(&self.ledger, &policy_stream()?).await?;
        Ok(newest.map(PolicyVersion::from))
    }

    /// Up to `limit` versions from this one on, the oldest first.
    pub async fn versions(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<PolicyVersion>, LicensingError> {
        if i64::try_from(from).is_err() {
            return Ok(Vec::new()); // more than a ledger can count
        }
        let recorded = self.ledger.read_stream(&policy_stream()?, from, limit).await;
        let recorded = recorded.map_err(LicensingError::from)?.into_iter();
        recorded.map(|recorded| Published::of(recorded).map(PolicyVersion::from)).collect()
    }

    /// Whether a policy could be published in place of the version `after`, or of any.
    pub async fn check(
        &self,
        policy: &QuotaPolicy,
        after: Option<u64>,
    ) -> Result<(), PublishError> {
        policy.check()?;
        let in_force = self.in_force().await?.map(|version| version.version);
        follows(after, in_force)
    }

    /// Publishes a policy, if `after` is the version in force; `None`: whatever is. Nothing that is
    /// held ends by this.
    pub async fn publish(
        &self,
        policy: &QuotaPolicy,
        after: Option<u64>,
        act: Act<'_>,
    ) -> Result<PolicyVersion, PublishError> {
        policy.check()?;
        let stream = policy_stream()?;
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            let last = newest(&self.ledger, &stream).await?;
            let in_force = last.as_ref().map(|last| last.revision);
            follows(after, in_force)?;
            // Each version has a time of its own, by which its event is told from others.
            let now_ms = self.clock.now().0;
            let at_ms = last.map_or(now_ms, |last| now_ms.max(last.at_ms + 1));
            let published = QuotaPolicyPublished {
                policy: policy.clone(),
                actor: act.actor.to_owned(),
                reason: act.reason.as_str().to_owned(),
                at_ms,
            };
            let expected = Expected::at_head(in_force);
            let event = Event::QuotaPolicyPublished(published);
            if let Some(version) = self.append(&stream, event, expected, act.correlation).await? {
                return Ok(version);
            }
        }
    }

    /// Appends one version; `None` if another came first.
    async fn append(
        &self,
        stream: &StreamName,
        event: Event,
        expected: Expected,
        correlation: &str,
    ) -> Result<Option<PolicyVersion>, LicensingError> {
        let append = Append {
            records: vec![(stream.clone(), NewEvent::of(stream, &event, correlation)?)],
            checks: vec![(stream.clone(), expected)],
        };
        let appended = match self.ledger.append(append).await {
            Ok(appended) => appended,
            Err(AppendError::Conflict { .. } | AppendError::IdReused { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let revision = appended.revisions.first().map(|(_, revision)| *revision);
        let Some(recorded) =
            self.ledger.read_stream(stream, revision.unwrap_or_default(), 1).await?.pop()
        else {
            return Err(LicensingError::Stream { stream: stream.to_string(), kind: "nothing" });
        };
        Published::of(recorded).map(|published| Some(published.into()))
    }
}

fn follows(after: Option<u64>, in_force: Option<u64>) -> Result<(), PublishError> {
    if after.is_none() || after == in_force {
        return Ok(());
    }
    Err(PublishError::Superseded { in_force: in_force.unwrap_or_default() })
}
