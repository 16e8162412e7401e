//! A back end asks whether a device may store more, without asking for it.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::quota::Explanation;
use crate::domain::{DeviceRef, KeyId};

/// The answer, and all it rests on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Decision {
    /// `allow` or `deny`.
    #[schema(pattern = "^(allow|deny)$", example = "deny")]
    pub decision: &'static str,
    /// The device asked about.
    #[schema(pattern = "^[a-z2-7]{26}$", example = "beb4pw6chv22zwww44tn5zxsb4")]
    pub device: String,
    /// Whether the ledger knows it; an unknown one is decided as new.
    pub device_known: bool,
    /// Id of the rule that denied.
    #[schema(example = "device-slots")]
    pub rule: Option<String>,
    /// Slots the device may hold: the lowest limit of all rules on them; `None` if none limits.
    pub limit: Option<u32>,
    /// Slots it holds of which it confirmed a license.
    pub confirmed: u32,
    /// Slots it holds: what the limit is compared with.
    pub live: u32,
    /// New slots that the KIDs asked about would take; KIDs already held take none.
    pub requested: u32,
    /// When the next slot frees by expiry, if one will.
    pub next_free_at: Option<UnixMillis>,
    /// Every license counted.
    pub counted: Vec<DecisionCounted>,
    /// Revision of the quota policy.
    pub policy_revision: u64,
    /// Revision of the device's stream the decision was made at.
    pub device_revision: Option<u64>,
    /// The moment that decided what has expired.
    pub as_of: UnixMillis,
}

/// A license that a decision counted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DecisionCounted {
    /// The license.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// Whether the device confirmed that it stored it.
    pub confirmed: bool,
    /// When it stops counting by itself.
    pub counted_until: Option<UnixMillis>,
}

impl Licensing {
    /// Decides without recording anything: would these KIDs, one persistent license each, fit on
    /// the device at this moment?
    pub async fn decide(
        &self,
        device: &DeviceRef,
        key_ids: &[KeyId],
    ) -> Result<Decision, LicensingError> {
        let mut guard = self.deciding.hold(device).await?;
        guard.refresh().await?;
        let policy = self.policy.refresh(&self.ledger).await?;
        let now_ms = self.clock.now().0.max(guard.device().at_ms).max(policy.at_ms);
        let state = guard.device().without_overdue(&policy.policy, now_ms);
        let explained = state.explain(key_ids, &policy.policy, now_ms);
        let Explanation { denied, limit, live, confirmed, requested, counted } = explained;
        self.metrics.decided(denied.is_none());
        let counted = counted.into_iter().map(|license| DecisionCounted {
            license_id: license.license_id.0,
            key_id: license.key_id.0,
            confirmed: license.confirmed,
            counted_until: license.counted_until_ms.map(UnixMillis),
        });
        Ok(Decision {
            decision: if denied.is_none() { "allow" } else { "deny" },
            device: device.to_string(),
            device_known: guard.device().enrolled,
            rule: denied.as_ref().map(|denied| denied.rule.clone()),
            limit,
            confirmed,
            live,
            requested,
            next_free_at: denied.and_then(|denied| denied.next_free_at_ms).map(UnixMillis),
            counted: counted.collect(),
            policy_revision: policy.revision,
            device_revision: guard.head(),
            as_of: UnixMillis(now_ms),
        })
    }

    /// The reference of the device that the service, or a certificate, calls `external_id`.
    pub fn device_of(&self, external_id: &str) -> DeviceRef {
        self.reference_key.device(external_id)
    }
}
