//! Voiding while serving: licenses that no device confirms, also where nobody asks for the device.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, UnixMillis};
use crate::domain::DeviceRef;
use crate::domain::quota::Voiding;
use crate::licensing::{Licensing, LicensingError};
use crate::projections::Inventory;

/// How long a license may be overdue before it is found, if no decision about its device finds it
/// first.
const PAUSE: Duration = Duration::from_secs(5);
/// Licenses looked at in one step.
const PAGE: u32 = 1000;
/// How far each sweep goes back behind the one before it: further than clocks of nodes that share a
/// ledger differ.
const OVERLAP_MS: i64 = 60_000;

/// Goes through unconfirmed licenses in the order their time runs out, each once.
pub struct Sweep {
    licensing: Arc<Licensing>,
    inventory: Arc<Inventory>,
    clock: Clock,
    /// The rule by which the licenses up to `newest` were looked at.
    rule: Option<Voiding>,
    newest: (i64, u64),
    /// Devices at which the last sweep failed.
    failed: BTreeSet<DeviceRef>,
}

impl Sweep {
    /// Begins with the oldest unconfirmed license of `inventory`.
    pub fn new(licensing: Arc<Licensing>, inventory: Arc<Inventory>, clock: Clock) -> Self {
        Self { licensing, inventory, clock, rule: None, newest: START, failed: BTreeSet::new() }
    }

    /// Sweeps again and again, until the task is aborted.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "overdue licenses are not voided for now: {error:#}");
            }
        }
    }

    /// Voids what became overdue since the last sweep. Without a rule it does nothing. A device at
    /// which it fails is tried again with each sweep, and keeps no other one waiting.
    ///
    /// # Errors
    ///
    /// The inventory or the ledger failed as a whole; the next sweep takes it up from there.
    pub async fn sweep(&mut self) -> anyhow::Result<()> {
        let rule = self.licensing.voiding();
        if self.rule != rule {
            (self.rule, self.newest) = (rule, START);
        }
        let Some(rule) = rule else { return Ok(()) };
        let Some(after_s) = rule.unconfirmed_after_seconds else { return Ok(()) };
        let now = self.clock.now();
        // At this very moment the time runs out; one millisecond later it has.
        let until = UnixMillis(now.0 - i64::from(after_s) * 1000 - 1);
        for device in self.failed.clone() {
            self.void_on(&device).await?;
        }
        let mut after = (self.newest.0.saturating_sub(OVERLAP_MS), 0);
        loop {
            let page = self.inventory.unconfirmed(after, until, PAGE)?;
            let Some(last) = page.last().map(|license| license.place) else { return Ok(()) };
            let overdue = page.iter().filter(|license| {
                license.security_level >= rule.min_security_level
                    && license.counted_until.is_none_or(|counted_until| now < counted_until)
            });
            let devices: BTreeSet<_> = overdue.map(|license| &license.device).collect();
            for device in devices {
                self.void_on(device).await?;
            }
            after = last;
            self.newest = self.newest.max(last);
        }
    }

    async fn void_on(&mut self, device: &DeviceRef) -> anyhow::Result<()> {
        let Err(error) = self.licensing.void_overdue_on(device).await else {
            self.failed.remove(device);
            return Ok(());
        };
        // Also if the sweep ends here: it may be a device that no page names any more.
        let is_new = self.failed.insert(device.clone());
        if error.is_temporary() && !matches!(error, LicensingError::Contended) {
            return Err(error.into());
        }
        if is_new {
            tracing::warn!(%device, %error, "what is overdue on device {device} stays: {error}");
        }
        Ok(())
    }
}

const START: (i64, u64) = (i64::MIN, 0);
