//! How much of each rule is in use by one device or account.

use serde::Serialize;
use utoipa::ToSchema;

use super::decide::DecisionInUse;
use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::quota::{QuotaPolicy, Scope};
use crate::domain::standing::{beyond, of_account, of_device};
use crate::domain::usage::RuleUse;
use crate::domain::{AccountRef, DeviceRef};

/// How much of one rule is in use.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = RuleUse)]
pub struct Standing {
    /// The rule's id.
    pub rule: String,
    /// `device`, `account` or `account_title`.
    pub scope: Scope,
    /// How far it looks back; `null` if it counts live slots.
    pub window_seconds: Option<u32>,
    /// The title that it counts, if it counts titles.
    pub title: Option<String>,
    /// The most that may be in use, as set for the device or account, else as the rule has it.
    pub limit: u32,
    /// How many more the rule allows as overage.
    pub overage: u32,
    /// What it counts.
    pub in_use: DecisionInUse,
    /// How much more is in use than the limit: it stays, and nothing new is granted.
    pub over: u32,
    /// When the next of what it counts frees by itself, if it will.
    pub next_free_at: Option<UnixMillis>,
}

impl From<&RuleUse> for Standing {
    fn from(rule: &RuleUse) -> Self {
        Self {
            rule: rule.rule.clone(),
            scope: rule.scope,
            window_seconds: rule.window_seconds,
            title: rule.title.clone(),
            limit: rule.limit,
            overage: rule.overage,
            in_use: rule.in_use.into(),
            over: beyond(rule),
            next_free_at: rule.next_free_at_ms.map(UnixMillis),
        }
    }
}

impl Licensing {
    /// How much of the rules on devices, of the policy in force or of `policy`, one device uses.
    pub async fn standing_of_device(
        &self,
        device: &DeviceRef,
        policy: Option<&QuotaPolicy>,
    ) -> Result<Vec<Standing>, LicensingError> {
        let mut guard = self.deciding.hold(device).await?;
        guard.refresh().await?;
        let in_force = self.policy.refresh(&self.ledger).await?;
        let policy = policy.unwrap_or(&in_force.policy);
        let now_ms = self.clock.now().0.max(guard.device().at_ms);
        let rules = of_device(guard.device(), device, policy, now_ms);
        Ok(rules.iter().map(Standing::from).collect())
    }

    /// How much of the rules on accounts, of the policy in force or of `policy`, one account uses;
    /// of those on titles, for each of `titles`.
    pub async fn standing_of_account(
        &self,
        account: &AccountRef,
        titles: &[&str],
        policy: Option<&QuotaPolicy>,
    ) -> Result<Vec<Standing>, LicensingError> {
        let mut guard = self.deciding.hold_account(account).await?;
        guard.refresh().await?;
        let in_force = self.policy.refresh(&self.ledger).await?;
        let policy = policy.unwrap_or(&in_force.policy);
        let now_ms = self.clock.now().0.max(guard.account().at_ms);
        let any = self.device_of("");
        let rules = of_account(guard.account(), &any, titles, policy, now_ms);
        Ok(rules.iter().map(Standing::from).collect())
    }
}
