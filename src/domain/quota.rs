//! Quotas on persistent licenses: the policy, and decisions that explain themselves.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::event::Grade;
use super::ids::{KeyId, LicenseId};

/// The rule that bounds one slot, [`QuotaPolicy::licenses_per_slot`], as refusals name it. No rule
/// of the list may have this id.
pub const LICENSES_PER_SLOT: &str = "licenses-per-slot";

/// The id of the rule that the configuration's limit of live slots becomes.
pub const DEVICE_SLOTS: &str = "device-slots";

/// Length of the longest rule id, in bytes.
const RULE_ID_BYTES_MAX: usize = 64;

/// The quota policy in force: data, versioned by its revision in the `policy` stream. A member or
/// a word that this version does not know is refused, never ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaPolicy {
    /// All of them must hold; the first that does not denies.
    pub rules: Vec<QuotaRule>,
    /// Live licenses one slot may hold: bounds what a device can make the ledger remember.
    pub licenses_per_slot: u32,
    /// Evidence grades whose deletions end a license.
    pub releasing_grades: Vec<Grade>,
    /// What ends licenses that a device did not store; without it nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voiding: Option<Voiding>,
}

/// Ends licenses that a device did not store, by what it says or fails to say. A device can keep a
/// license all the same, so that this is for devices whose word counts: from a security level on.
/// A license with a result that came late, after it was voided, stays voided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voiding {
    /// Licenses count whose device had this security level, or a higher one, when it acquired them.
    pub min_security_level: u32,
    /// Whether a license ends when the device acknowledges that it failed to store it.
    pub store_failed: bool,
    /// A license ends that the device has not confirmed so many seconds after it acquired it;
    /// `None`: none does.
    pub unconfirmed_after_seconds: Option<u32>,
}

impl Voiding {
    /// Until when a license acquired at `acquired_ms` may be confirmed, if there is such a time.
    pub fn confirm_until_ms(&self, acquired_ms: i64) -> Option<i64> {
        let after_ms = i64::from(self.unconfirmed_after_seconds?) * 1000;
        Some(acquired_ms.saturating_add(after_ms))
    }
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaRule {
    /// By which decisions and refusals name it: 1 to 64 lower-case letters, digits and hyphens,
    /// unique in its policy.
    pub id: String,
    /// Whose use is counted.
    pub scope: Scope,
    /// What is counted.
    pub counts: Counts,
    /// The most that may be in use.
    pub limit: u32,
    /// What happens to a request that goes beyond it.
    pub on_exceed: OnExceed,
}

/// Whose use a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Each device for itself.
    Device,
}

/// What a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// KIDs with at least one live persistent license.
    LiveSlots,
}

/// What a rule does to a request that goes beyond its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceed {
    /// Refuses it.
    Deny,
}

impl Default for QuotaPolicy {
    /// 25 live slots a device, 16 live licenses a slot, deletions of grade A to C release.
    fn default() -> Self {
        Self::with_device_limit(25, 16)
    }
}

impl QuotaPolicy {
    /// The policy with one rule, [`DEVICE_SLOTS`]: `limit` live slots a device. Deletions of grade
    /// A to C release.
    pub fn with_device_limit(limit: u32, licenses_per_slot: u32) -> Self {
        let rule = QuotaRule {
            id: DEVICE_SLOTS.to_owned(),
            scope: Scope::Device,
            counts: Counts::LiveSlots,
            limit,
            on_exceed: OnExceed::Deny,
        };
        let releasing_grades = vec![Grade::A, Grade::B, Grade::C];
        Self { rules: vec![rule], licenses_per_slot, releasing_grades, voiding: None }
    }

    /// Checks what the types cannot: to be called before a policy is published.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        if self.licenses_per_slot == 0 {
            return Err(InvalidPolicy::NoLicensesPerSlot);
        }
        if let Some(Voiding { store_failed, unconfirmed_after_seconds, .. }) = self.voiding {
            if !store_failed && unconfirmed_after_seconds.is_none() {
                return Err(InvalidPolicy::VoidsNothing);
            }
            if unconfirmed_after_seconds == Some(0) {
                return Err(InvalidPolicy::VoidsAtOnce);
            }
        }
        let mut ids = BTreeSet::new();
        for QuotaRule { id, .. } in &self.rules {
            let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if id.is_empty() || id.len() > RULE_ID_BYTES_MAX || !id.bytes().all(letters) {
                return Err(InvalidPolicy::RuleId(id.clone()));
            }
            if id == LICENSES_PER_SLOT || !ids.insert(id) {
                return Err(InvalidPolicy::RuleIdTwice(id.clone()));
            }
        }
        Ok(())
    }
}

/// Why a policy cannot be published. The fault of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// A slot that may hold nothing contradicts every rule that grants slots.
    #[error("licenses_per_slot is 0: a slot must be allowed 1 license or more")]
    NoLicensesPerSlot,
    /// The rule on voiding names no case.
    #[error("voiding ends nothing: set store_failed or unconfirmed_after_seconds, or leave it out")]
    VoidsNothing,
    /// No device could confirm a license in time.
    #[error("unconfirmed_after_seconds is 0: give a device 1 second or more")]
    VoidsAtOnce,
    /// A rule's id is out of form.
    #[error("rule id {0:?} must be 1 to 64 lower-case letters, digits and hyphens")]
    RuleId(String),
    /// Two rules have one id, or a rule has that of the cap on one slot.
    #[error("rule id `{0}` is taken: give every rule an id of its own")]
    RuleIdTwice(String),
}

/// The policy said no: which rule, and what it counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// The rule's id.
    pub rule: String,
    /// Whose use it counts.
    pub scope: Scope,
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
    /// The first rule that is exceeded; `None` allows.
    pub denied: Option<QuotaExceeded>,
    /// Slots the device may hold: the lowest limit of all rules on them. `None` if none limits.
    pub limit: Option<u32>,
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

    const STORED: &str = r#"{"rules":[{"id":"device-slots","scope":"device","counts":"live_slots","limit":25,"on_exceed":"deny"}],"licenses_per_slot":16,"releasing_grades":["A","B","C"]}"#;

    fn with_ids(ids: &[&str]) -> QuotaPolicy {
        let mut policy = QuotaPolicy::default();
        let rule = policy.rules.remove(0);
        policy.rules =
            ids.iter().map(|id| QuotaRule { id: (*id).to_owned(), ..rule.clone() }).collect();
        policy
    }

    #[test]
    fn default_is_25_slots_a_device_and_releases_signed_deletions() {
        let policy = QuotaPolicy::default();
        assert_eq!(serde_json::to_string(&policy).unwrap(), STORED);
        assert_eq!(serde_json::from_str::<QuotaPolicy>(STORED).unwrap(), policy);
        assert_eq!(policy.check(), Ok(()));
    }

    #[test]
    fn rule_on_voiding_is_stored_with_all_its_members() {
        let voiding =
            r#"{"min_security_level":3000,"store_failed":true,"unconfirmed_after_seconds":600}"#;
        let stored = STORED.replace("]}", &format!("],\"voiding\":{voiding}}}"));
        let policy: QuotaPolicy = serde_json::from_str(&stored).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), stored);
        for member in [r#""min_security_level":3000,"#, r#""store_failed":true,"#] {
            assert!(serde_json::from_str::<QuotaPolicy>(&stored.replace(member, "")).is_err());
        }
    }

    #[test]
    fn rule_on_voiding_names_a_case_and_leaves_time() {
        let check = |store_failed, unconfirmed_after_seconds| {
            let voiding =
                Voiding { min_security_level: 0, store_failed, unconfirmed_after_seconds };
            QuotaPolicy { voiding: Some(voiding), ..QuotaPolicy::default() }.check()
        };
        assert_eq!(check(false, None), Err(InvalidPolicy::VoidsNothing));
        assert_eq!(check(true, Some(0)), Err(InvalidPolicy::VoidsAtOnce));
        for (store_failed, seconds) in [(true, None), (false, Some(1)), (true, Some(u32::MAX))] {
            assert_eq!(check(store_failed, seconds), Ok(()));
        }
    }

    #[test]
    fn refuses_by_name_what_it_does_not_know() {
        for (known, unknown, named) in [
            (r#""rules""#, r#""account_limit":5,"rules""#, "account_limit"),
            (r#""scope""#, r#""window_days":30,"scope""#, "window_days"),
            (r#""scope":"device""#, r#""scope":"account""#, "account"),
            (r#""live_slots""#, r#""issued""#, "issued"),
            (r#""deny""#, r#""allow""#, "allow"),
            (r#""C""#, r#""F""#, "F"),
        ] {
            let policy = STORED.replace(known, unknown);
            assert_ne!(policy, STORED);
            let error = serde_json::from_str::<QuotaPolicy>(&policy).unwrap_err().to_string();
            assert!(error.contains(&format!("`{named}`")), "{error}");
        }
    }

    #[test]
    fn policy_without_a_member_is_not_completed_in_silence() {
        for member in [r#""limit":25,"#, r#""counts":"live_slots","#, r#""licenses_per_slot":16,"#]
        {
            let policy = STORED.replace(member, "");
            assert_ne!(policy, STORED);
            assert!(serde_json::from_str::<QuotaPolicy>(&policy).is_err(), "without {member}");
        }
    }

    #[test]
    fn every_rule_has_an_id_of_its_own() {
        assert_eq!(with_ids(&[]).check(), Ok(()));
        assert_eq!(with_ids(&["a", "b-2"]).check(), Ok(()));
        let twice = |id: &str| Err(InvalidPolicy::RuleIdTwice(id.to_owned()));
        assert_eq!(with_ids(&["a", "b", "a"]).check(), twice("a"));
        assert_eq!(with_ids(&[LICENSES_PER_SLOT]).check(), twice(LICENSES_PER_SLOT));
    }

    #[test]
    fn rule_ids_are_short_words_that_fit_anywhere() {
        let longest = "x".repeat(RULE_ID_BYTES_MAX);
        assert_eq!(with_ids(&[&longest]).check(), Ok(()));
        for id in ["", "Device", "a b", "a_b", "\u{e9}", &(longest + "x")] {
            assert_eq!(with_ids(&[id]).check(), Err(InvalidPolicy::RuleId(id.to_owned())));
        }
    }

    #[test]
    fn slots_that_may_hold_nothing_are_refused() {
        let policy = QuotaPolicy::with_device_limit(25, 0);
        assert_eq!(policy.check(), Err(InvalidPolicy::NoLicensesPerSlot));
        assert_eq!(QuotaPolicy::with_device_limit(0, 1).check(), Ok(()));
    }
}
