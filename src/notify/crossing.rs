//! When a device comes near its limit: shares of the limit that its live slots reach.
//!
//! Counted as decisions count, by folding the device's events, and at the time of each event. A
//! share is reached once each time the slots grow past it; they fall below it by a release or by
//! expiry. A change of the policy reaches nothing by itself: the next slot that is taken does.

use serde::{Deserialize, Serialize};

use crate::domain::quota::{Counts, QuotaPolicy, QuotaRule, Scope};
use crate::domain::{Device, Event};

/// A share of a limit, reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crossing {
    /// Whose use the rule counts.
    pub(super) scope: Scope,
    /// The rule with the lowest limit.
    pub(super) rule: String,
    /// Its limit.
    pub(super) limit: u32,
    /// The share that was reached.
    pub(super) threshold_percent: u8,
    /// Live slots with the event.
    pub(super) live: u32,
    /// Revision of the `policy` stream.
    pub(super) quota_policy_revision: u64,
}

/// The limit that holds for every device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceLimit {
    pub(super) rule: String,
    pub(super) limit: u32,
    pub(super) quota_policy_revision: u64,
}

impl DeviceLimit {
    /// That of the rule on live slots of a device that allows the fewest.
    pub(super) fn of(policy: &QuotaPolicy, quota_policy_revision: u64) -> Option<Self> {
        let of_devices = |rule: &&QuotaRule| {
            matches!((rule.scope, rule.counts), (Scope::Device, Counts::LiveSlots))
        };
        let rule = policy.rules.iter().filter(of_devices).min_by_key(|rule| rule.limit)?;
        Some(Self { rule: rule.id.clone(), limit: rule.limit, quota_policy_revision })
    }

    /// The shares of it that are reached when `before` slots become `live`, lowest first.
    fn reached(&self, before: u32, live: u32, percents: &[u8]) -> Vec<Crossing> {
        let reached = percents.iter().filter(|percent| {
            let share = u64::from(self.limit) * u64::from(**percent);
            // A share of no slot is not reached by taking one.
            let slots = share.div_ceil(100).max(1);
            u64::from(before) < slots && slots <= u64::from(live) && self.limit > 0
        });
        let crossing = |percent: &u8| Crossing {
            scope: Scope::Device,
            rule: self.rule.clone(),
            limit: self.limit,
            threshold_percent: *percent,
            live,
            quota_policy_revision: self.quota_policy_revision,
        };
        reached.map(crossing).collect()
    }
}

/// Applies an event to the device it is about, and tells which shares of `limit` it makes it reach.
pub(super) fn evolve(
    device: &mut Device,
    event: &Event,
    limit: Option<&DeviceLimit>,
    percents: &[u8],
) -> Vec<Crossing> {
    let live =
        |device: &Device| u32::try_from(device.held_slots(event.at_ms()).len()).unwrap_or(u32::MAX);
    let before = live(device);
    device.evolve(event);
    limit.map(|limit| limit.reached(before, live(device), percents)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u8; 0] = [];

    fn reached(limit: u32, before: u32, live: u32) -> Vec<u8> {
        let rule = "device-slots".to_owned();
        let limit = DeviceLimit { rule, limit, quota_policy_revision: 0 };
        let crossings = limit.reached(before, live, &[80, 100]);
        crossings.iter().map(|crossing| crossing.threshold_percent).collect()
    }

    #[test]
    fn a_share_is_reached_upwards_and_once() {
        assert_eq!(reached(25, 18, 19), NONE);
        assert_eq!(reached(25, 19, 20), [80]);
        assert_eq!(reached(25, 20, 21), NONE);
        assert_eq!(reached(25, 24, 25), [100]);
        assert_eq!(reached(25, 25, 26), NONE);
        assert_eq!(reached(25, 20, 20), NONE);
        assert_eq!(reached(25, 20, 19), NONE);
        assert_eq!(reached(25, 0, 25), [80, 100]);
    }

    #[test]
    fn shares_are_rounded_up_to_whole_slots() {
        assert_eq!(reached(1, 0, 1), [80, 100]);
        assert_eq!(reached(3, 1, 2), NONE);
        assert_eq!(reached(3, 2, 3), [80, 100]);
        assert_eq!(reached(u32::MAX, u32::MAX - 1, u32::MAX), [100]);
    }

    #[test]
    fn a_limit_of_nothing_has_no_shares() {
        assert_eq!(reached(0, 0, 1), NONE);
    }

    #[test]
    fn the_rule_that_allows_the_fewest_is_the_limit() {
        let mut policy = QuotaPolicy::with_device_limit(25, 16);
        let mut stricter = policy.rules[0].clone();
        (stricter.id, stricter.limit) = ("few".to_owned(), 3);
        policy.rules.push(stricter);
        let limit = DeviceLimit::of(&policy, 7).unwrap();
        assert_eq!((limit.rule.as_str(), limit.limit, limit.quota_policy_revision), ("few", 3, 7));
        policy.rules.clear();
        assert_eq!(DeviceLimit::of(&policy, 0), None);
    }
}
