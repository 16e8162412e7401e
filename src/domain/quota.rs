//! Quotas on persistent licenses: the policy, and decisions that explain themselves.

use serde::{Deserialize, Serialize};

use super::event::Grade;
use super::ids::{KeyId, LicenseId};

/// The quota policy in force: data, versioned by its revision in the `policy` stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaPolicy {
    /// Live slots a device may hold.
    pub device_limit: u32,
    /// Live licenses one slot may hold: bounds what a device can make the ledger remember.
    pub licenses_per_slot: u32,
    /// Evidence grades whose deletions end a license.
    pub releasing_grades: Vec<Grade>,
}

impl Default for QuotaPolicy {
    /// 25 live slots a device, 16 live licenses a slot, deletions of grade A to C release.
    fn default() -> Self {
        Self {
            device_limit: 25,
            licenses_per_slot: 16,
            releasing_grades: vec![Grade::A, Grade::B, Grade::C],
        }
    }
}

/// A rule of the policy, by its stored name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Live slots of one device.
    DeviceSlots,
    /// Live licenses of one slot.
    LicensesPerSlot,
}

/// The policy said no: which rule, and what it counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// The rule.
    pub rule: Rule,
    /// Its limit.
    pub limit: u32,
    /// How much of it is in use.
    pub held: u32,
    /// How much more was asked for.
    pub requested: u32,
    /// KIDs of what is in use, ascending.
    pub held_kids: Vec<KeyId>,
    /// When the next slot frees by expiry, if any will.
    pub next_free_at_ms: Option<i64>,
}

/// A live license as a decision counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedLicense {
    /// The license.
    pub license_id: LicenseId,
    /// Its KID.
    pub key_id: KeyId,
    /// Whether the device confirmed that it stored it.
    pub confirmed: bool,
    /// When it stops counting by itself.
    pub counted_until_ms: Option<i64>,
}

/// The answer to "may these KIDs be stored on this device?", with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// `None` allows.
    pub denied: Option<QuotaExceeded>,
    /// Slots of the device: limit and how many are held.
    pub limit: u32,
    /// Live slots.
    pub live: u32,
    /// Live slots of which the device confirmed at least one license.
    pub confirmed: u32,
    /// New slots that the request would take.
    pub requested: u32,
    /// What was counted.
    pub counted: Vec<CountedLicense>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_25_slots_a_device_and_releases_signed_deletions() {
        let policy = QuotaPolicy::default();
        assert_eq!((policy.device_limit, policy.licenses_per_slot), (25, 16));
        assert_eq!(policy.releasing_grades, [Grade::A, Grade::B, Grade::C]);
    }

    #[test]
    fn refuses_rules_it_does_not_know_instead_of_ignoring_them() {
        let known = r#"{"device_limit": 2, "licenses_per_slot": 1, "releasing_grades": ["A"]}"#;
        assert_eq!(serde_json::from_str::<QuotaPolicy>(known).unwrap().device_limit, 2);
        let unknown = known.replace('}', r#", "account_limit": 5}"#);
        assert!(serde_json::from_str::<QuotaPolicy>(&unknown).is_err());
    }
}
