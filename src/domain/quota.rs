//! The quota policy: rules on persistent licenses as data. What they say about a request is decided
//! in [`usage`](super::usage).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::account::EMPTY_MEMBERS_KEPT;
use super::event::Grade;
use super::holding::ISSUED_KEPT;

/// The rule that bounds one slot, [`QuotaPolicy::licenses_per_slot`], as refusals name it. No rule
/// of the list may have this id.
pub const LICENSES_PER_SLOT: &str = "licenses-per-slot";

/// What refuses a request that no rule applies to, if the policy's default is to deny. No rule of
/// the list may have this id.
pub const DEFAULT: &str = "default";

/// What refuses everything to a device that is blocked or was replaced. No rule of the list may have
/// this id.
pub const BLOCKED: &str = "device-blocked";

/// The id of the rule that the configuration's limit of live slots becomes.
pub const DEVICE_SLOTS: &str = "device-slots";

/// Length of the longest rule id, or name of a device class, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Rules, device classes, and names in one condition or class at most.
const ENTRIES_MAX: usize = 256;

/// The longest window of a rule that looks back: 366 days.
pub const WINDOW_SECONDS_MAX: u32 = 366 * 24 * 60 * 60;

/// The quota policy in force: data, versioned by its revision in the `policy` stream. A member or
/// a word that this version does not know is refused, never ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaPolicy {
    /// All that apply must hold; the first that does not denies.
    #[schema(max_items = 256)]
    pub rules: Vec<QuotaRule>,
    /// Live licenses one slot may hold: bounds what a device can make the ledger remember.
    #[schema(minimum = 1)]
    pub licenses_per_slot: u32,
    /// Evidence grades whose deletions end a license.
    pub releasing_grades: Vec<Grade>,
    /// What ends licenses that a device did not store; without it nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voiding: Option<Voiding>,
    /// What happens to a license that no rule applies to.
    #[serde(default, skip_serializing_if = "DefaultAnswer::is_allow")]
    pub default: DefaultAnswer,
    /// Classes of devices that conditions name: the class, and how the models of its devices begin
    /// (maker, model name and number, as the inventory shows them).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_classes: BTreeMap<String, Vec<String>>,
}

/// What happens to a persistent license that no rule applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = QuotaDefault)]
pub enum DefaultAnswer {
    /// It is granted.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

impl DefaultAnswer {
    fn is_allow(&self) -> bool {
        *self == Self::Allow
    }
}

/// Ends licenses that a device did not store, by what it says or fails to say. A device can keep a
/// license all the same, so that this is for devices whose word counts: from a security level on.
/// A license with a result that came late, after it was voided, stays voided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaVoiding)]
pub struct Voiding {
    /// Licenses count whose device had this security level, or a higher one, when it acquired them.
    pub min_security_level: u32,
    /// Whether a license ends when the device acknowledges that it failed to store it.
    pub store_failed: bool,
    /// A license ends that the device has not confirmed so many seconds after it acquired it;
    /// `None`: none does.
    #[schema(minimum = 1)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaRule {
    /// By which decisions and refusals name it: 1 to 64 lower-case letters, digits and hyphens,
    /// unique in its policy.
    #[schema(pattern = "^[a-z0-9-]{1,64}$", example = "device-slots")]
    pub id: String,
    /// Whose use is counted.
    pub scope: Scope,
    /// What is counted.
    pub counts: Counts,
    /// The most that may be in use.
    pub limit: u32,
    /// What happens to a request that goes beyond it.
    pub on_exceed: OnExceed,
    /// To what it applies; without it, to every persistent license.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
}

/// Whose use a rule counts.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = QuotaScope)]
pub enum Scope {
    /// Each device for itself.
    Device,
    /// All devices of an account together. Licenses that name no account are not counted.
    Account,
    /// Each title for itself, on all devices of an account together. Licenses that name no account
    /// or no title are not counted.
    AccountTitle,
}

/// What a rule counts.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = QuotaCounts)]
pub enum Counts {
    /// Slots: devices and KIDs with at least one live persistent license.
    LiveSlots,
    /// Persistent licenses issued within so many seconds, live or not. The newest
    /// [`ISSUED_KEPT`] of a device or account are known; more than that within the window, of
    /// whatever kind, exceed every such rule.
    IssuedWithinSeconds(u32),
    /// Devices that got their first persistent license of an account within so many seconds, and
    /// those that have none and hold a reservation. Of devices without anything live the
    /// [`EMPTY_MEMBERS_KEPT`] used last are known; where another one was added within the window, of
    /// whatever kind, every such rule is exceeded.
    DevicesAddedWithinSeconds(u32),
}

impl Counts {
    /// How far it looks back; `None` if it counts what is live.
    pub fn window_seconds(self) -> Option<u32> {
        match self {
            Self::LiveSlots => None,
            Self::IssuedWithinSeconds(seconds) | Self::DevicesAddedWithinSeconds(seconds) => {
                Some(seconds)
            }
        }
    }

    /// How much of what it counts is remembered for sure; `None`: all.
    fn remembered(self) -> Option<usize> {
        match self {
            Self::LiveSlots => None,
            Self::IssuedWithinSeconds(_) => Some(ISSUED_KEPT),
            Self::DevicesAddedWithinSeconds(_) => Some(EMPTY_MEMBERS_KEPT),
        }
    }
}

/// What a rule does to a request that goes beyond its limit.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = QuotaOnExceed)]
pub enum OnExceed {
    /// Refuses it.
    Deny,
    /// Allows so many beyond the limit, marked as overage, and refuses what goes beyond those.
    AllowOverage(u32),
}

/// To what a rule applies: all members that are given must hold. Security level and class are those
/// of the device that asks, or that holds what is counted; the content group is the license's.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(deny_unknown_fields)]
#[schema(as = QuotaCondition)]
pub struct Condition {
    /// Devices of this security level or a higher one. One whose level is not known is taken for
    /// one that the rule applies to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_security_level: Option<u32>,
    /// Devices of this security level or a lower one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_security_level: Option<u32>,
    /// Licenses of one of these content groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_groups: Vec<String>,
    /// Devices of one of these classes of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_classes: Vec<String>,
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
            when: None,
        };
        Self {
            rules: vec![rule],
            licenses_per_slot,
            releasing_grades: vec![Grade::A, Grade::B, Grade::C],
            voiding: None,
            default: DefaultAnswer::Allow,
            device_classes: BTreeMap::new(),
        }
    }

    /// The rule with this id.
    pub fn rule(&self, id: &str) -> Option<&QuotaRule> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// Whether devices of this model are of the class.
    pub(super) fn is_of_class(&self, model: &str, class: &str) -> bool {
        let prefixes = self.device_classes.get(class).map(Vec::as_slice).unwrap_or_default();
        prefixes.iter().any(|prefix| model.starts_with(prefix.as_str()))
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
        if self.rules.len() > ENTRIES_MAX || self.device_classes.len() > ENTRIES_MAX {
            return Err(InvalidPolicy::TooLarge);
        }
        for (class, prefixes) in &self.device_classes {
            let fits = (1..=ENTRIES_MAX).contains(&prefixes.len());
            if !is_name(class) || !fits || prefixes.iter().any(String::is_empty) {
                return Err(InvalidPolicy::DeviceClass(class.clone()));
            }
        }
        let (mut ids, mut alike) = (BTreeSet::new(), BTreeMap::new());
        for rule in &self.rules {
            let id = &rule.id;
            if !is_name(id) {
                return Err(InvalidPolicy::RuleId(id.clone()));
            }
            if [LICENSES_PER_SLOT, DEFAULT, BLOCKED].contains(&id.as_str()) || !ids.insert(id) {
                return Err(InvalidPolicy::RuleIdTwice(id.clone()));
            }
            rule.check(self)?;
            if let Some(other) = alike.insert((rule.scope, rule.counts, &rule.when), id) {
                return Err(InvalidPolicy::RulesAlike(other.clone(), id.clone()));
            }
        }
        Ok(())
    }
}

impl QuotaRule {
    /// Whether the rule could keep to `limit` in place of its own.
    pub fn can_count_to(&self, limit: u32) -> bool {
        let with = Self { limit, ..self.clone() };
        self.counts.remembered().is_none_or(|remembered| with.most() < remembered)
    }

    fn check(&self, policy: &QuotaPolicy) -> Result<(), InvalidPolicy> {
        let wrong = |reason| Err(InvalidPolicy::Rule(self.id.clone(), reason));
        if self.on_exceed == OnExceed::AllowOverage(0) {
            return wrong("allow_overage of 0 allows nothing: say deny");
        }
        match self.counts.window_seconds() {
            Some(0) => return wrong("a window of 0 seconds counts nothing"),
            Some(WINDOW_SECONDS_MAX..)
                if self.counts.window_seconds() > Some(WINDOW_SECONDS_MAX) =>
            {
                return wrong("a window is 366 days at most: 31622400 seconds");
            }
            _ => {}
        }
        match self.counts {
            Counts::IssuedWithinSeconds(_) if !self.can_count_to(self.limit) => {
                return wrong("a rule on issued licenses allows 255 at most, overage included");
            }
            Counts::DevicesAddedWithinSeconds(_) if !self.can_count_to(self.limit) => {
                return wrong("a rule on added devices allows 255 at most, overage included");
            }
            Counts::DevicesAddedWithinSeconds(_) if self.scope != Scope::Account => {
                return wrong("devices are added to accounts: the scope must be account");
            }
            _ => {}
        }
        let Some(when) = &self.when else { return Ok(()) };
        if *when == Condition::default() {
            return wrong("its condition names nothing: leave `when` out");
        }
        if let (Some(min), Some(max)) = (when.min_security_level, when.max_security_level)
            && min > max
        {
            return wrong("min_security_level is above max_security_level: no device is both");
        }
        if when.content_groups.iter().any(String::is_empty) {
            return wrong("a content group is empty");
        }
        if when.content_groups.len().max(when.device_classes.len()) > ENTRIES_MAX {
            return wrong("a condition names 256 groups or classes at most");
        }
        let groups = !when.content_groups.is_empty();
        if groups && matches!(self.counts, Counts::DevicesAddedWithinSeconds(_)) {
            return wrong("devices are of no content group");
        }
        if when.device_classes.iter().any(|class| !policy.device_classes.contains_key(class)) {
            return wrong("it names a class that device_classes does not define");
        }
        Ok(())
    }

    /// The most that may be in use, overage included.
    fn most(&self) -> usize {
        let overage = match self.on_exceed {
            OnExceed::Deny => 0,
            OnExceed::AllowOverage(overage) => overage,
        };
        usize::try_from(self.limit.saturating_add(overage)).unwrap_or(usize::MAX)
    }
}

/// Whether `text` is 1 to 64 lower-case letters, digits and hyphens.
fn is_name(text: &str) -> bool {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(letters)
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
    /// Too many rules or classes.
    #[error("a policy has 256 rules and 256 device classes at most")]
    TooLarge,
    /// A device class is out of form.
    #[error(
        "device class {0:?} must be 1 to 64 lower-case letters, digits and hyphens, and name 1 to \
         256 beginnings of models, none of them empty"
    )]
    DeviceClass(String),
    /// A rule's id is out of form.
    #[error("rule id {0:?} must be 1 to 64 lower-case letters, digits and hyphens")]
    RuleId(String),
    /// Two rules have one id, or a rule has one that is kept for what no rule of the list says.
    #[error("rule id `{0}` is taken: give every rule an id of its own")]
    RuleIdTwice(String),
    /// Two rules count the same; at most one of their limits can ever matter.
    #[error("rules `{0}` and `{1}` count the same under the same condition: keep one of them")]
    RulesAlike(String, String),
    /// A rule cannot be meant.
    #[error("rule `{0}`: {1}")]
    Rule(String, &'static str),
}

impl InvalidPolicy {
    /// The member of the policy that is to blame; one rule as `rules.ID`.
    pub fn member(&self) -> String {
        match self {
            Self::NoLicensesPerSlot => "licenses_per_slot".to_owned(),
            Self::VoidsNothing | Self::VoidsAtOnce => "voiding".to_owned(),
            Self::TooLarge => "rules".to_owned(),
            Self::DeviceClass(class) => format!("device_classes.{class}"),
            Self::RuleId(id)
            | Self::RuleIdTwice(id)
            | Self::RulesAlike(_, id)
            | Self::Rule(id, _) => format!("rules.{id}"),
        }
    }
}

#[cfg(test)]
mod tests;
