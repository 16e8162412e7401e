//! Licenses that the policy voids because the device did not store them.

use std::sync::Arc;

use super::commit::{Attempts, ENDED_AT_ONCE};
use super::policy::Published;
use super::subject::Subject;
use super::{Licensing, LicensingError};
use crate::domain::quota::Voiding;
use crate::domain::{AccountRef, DeviceRef, Event};

impl Licensing {
    /// The rule on voiding in force, if there is one.
    pub fn voiding(&self) -> Option<Voiding> {
        self.policy.current().policy.voiding
    }

    /// Voids what is overdue on a device at this moment. Decisions about the device do the same
    /// before they are made; this is for devices that nobody asks about.
    pub async fn void_overdue_on(&self, device: &DeviceRef) -> Result<(), LicensingError> {
        let mut subject = self.hold(device, None).await?;
        subject.refresh().await?;
        let policy = self.policy.refresh(&self.ledger).await?;
        self.void_overdue(&mut subject, None, policy, "void-overdue").await.map(drop)
    }

    /// Records what `policy` voids on the device, so that whatever is decided next is decided, and
    /// committed, without it; of much that is overdue one part after the other. Returns the policy
    /// that there is nothing left to void by.
    pub(super) async fn void_overdue(
        &self,
        subject: &mut Subject,
        paying: Option<&AccountRef>,
        mut policy: Arc<Published>,
        correlation: &str,
    ) -> Result<Arc<Published>, LicensingError> {
        let mut attempts = Attempts::new();
        loop {
            let at_ms = self.clock.now().0.max(subject.at_ms()).max(policy.at_ms);
            let mut overdue = subject.device().overdue(&policy.policy, policy.revision, at_ms);
            overdue.truncate(ENDED_AT_ONCE);
            if overdue.is_empty() {
                return Ok(policy);
            }
            attempts.next()?;
            let stream = subject.guard.stream().clone();
            let events = overdue.iter().cloned().map(Event::LicenseVoided);
            let events = events.map(|event| (stream.clone(), event)).collect();
            let checks = vec![self.policy.check(&policy)];
            match self.append_to(subject, events, checks, correlation).await? {
                Some(_) => {
                    self.metrics.voided(overdue.iter().map(|voided| voided.reason));
                    attempts = Attempts::new();
                }
                None => {
                    subject.refresh().await?;
                    self.hold_accounts(subject, paying).await?;
                    policy = self.policy.refresh(&self.ledger).await?;
                }
            }
        }
    }
}
