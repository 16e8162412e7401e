//! The quota policy in force, and its versions.

mod publish;

use std::sync::{Arc, PoisonError, RwLock};

use super::LicensingError;
use crate::domain::Event;
use crate::domain::event::QuotaPolicyPublished;
use crate::domain::quota::QuotaPolicy;
use crate::ledger::tail::Fact;
use crate::ledger::{Append, AppendError, Expected, Ledger, NewEvent, Recorded, StreamName};

pub use publish::{Act, Policies, PolicyVersion, PublishError};

/// A policy and where it stands in the `policy` stream.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) policy: QuotaPolicy,
    pub(super) revision: u64,
    sequence: u64,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) at_ms: i64,
}

impl Published {
    fn of(recorded: Recorded) -> Result<Self, LicensingError> {
        let fact = Fact::of(recorded)?;
        let Recorded { stream, revision, sequence, .. } = fact.recorded;
        let Event::QuotaPolicyPublished(QuotaPolicyPublished { policy, actor, reason, at_ms }) =
            fact.event
        else {
            let (stream, kind) = (stream.to_string(), fact.event.kind());
            return Err(LicensingError::Stream { stream, kind });
        };
        Ok(Self { policy, revision, sequence, actor, reason, at_ms })
    }
}

/// Holds the newest policy known. An append that names a revision which is no longer the newest
/// conflicts, and then it is read again.
pub(super) struct PolicyInForce {
    pub(super) stream: StreamName,
    current: RwLock<Arc<Published>>,
}

impl PolicyInForce {
    /// Reads the newest policy; an empty ledger gets `configured` as its first.
    pub(super) async fn open(
        ledger: &Ledger,
        configured: &QuotaPolicy,
        now_ms: i64,
    ) -> Result<Self, LicensingError> {
        let stream = policy_stream()?;
        let current = match newest(ledger, &stream).await? {
            Some(published) => published,
            None => seed(ledger, &stream, configured, now_ms).await?,
        };
        // A configuration that says nothing about quotas is no difference.
        if current.policy != *configured && *configured != QuotaPolicy::default() {
            tracing::warn!(
                revision = current.revision,
                "the configured quota differs from policy revision {} in the ledger, which is in \
                 force; the configuration only seeds an empty ledger",
                current.revision,
            );
        }
        Ok(Self { stream, current: RwLock::new(Arc::new(current)) })
    }

    /// What an append names so that it fails if `policy` is not the newest.
    pub(super) fn check(&self, policy: &Published) -> (StreamName, Expected) {
        (self.stream.clone(), Expected::At(policy.revision))
    }

    /// The newest policy known.
    pub(super) fn current(&self) -> Arc<Published> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the head of the stream and returns the policy that stands there.
    pub(super) async fn refresh(&self, ledger: &Ledger) -> Result<Arc<Published>, LicensingError> {
        let known = self.current();
        if ledger.head(&self.stream).await? == Some(known.revision) {
            return Ok(known);
        }
        let Some(published) = newest(ledger, &self.stream).await? else { return Ok(known) };
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Others may have read further meanwhile.
        if published.revision > current.revision {
            *current = Arc::new(published);
        }
        Ok(Arc::clone(&current))
    }
}

fn policy_stream() -> Result<StreamName, LicensingError> {
    Ok(StreamName::new("policy")?)
}

async fn newest(ledger: &Ledger, stream: &StreamName) -> Result<Option<Published>, LicensingError> {
    let newest = ledger.read_stream_backwards(stream, u64::MAX, 1).await?.pop();
    newest.map(Published::of).transpose()
}

async fn seed(
    ledger: &Ledger,
    stream: &StreamName,
    configured: &QuotaPolicy,
    now_ms: i64,
) -> Result<Published, LicensingError> {
    configured.check()?;
    let event = Event::QuotaPolicyPublished(QuotaPolicyPublished {
        policy: configured.clone(),
        actor: "configuration".to_owned(),
        reason: "first start of an empty ledger".to_owned(),
        at_ms: now_ms,
    });
    let append = Append {
        records: vec![(stream.clone(), NewEvent::of(stream, &event, "start")?)],
        checks: vec![(stream.clone(), Expected::NoStream)],
    };
    match ledger.append(append).await {
        // Another process was first; its policy counts.
        Ok(_) | Err(AppendError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let missing = || LicensingError::Stream { stream: stream.to_string(), kind: "nothing" };
    newest(ledger, stream).await?.ok_or_else(missing)
}
