//! A back end asks whether a device may store more.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::policy::Published;
use super::subject::Subject;
use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::account::mirror;
use crate::domain::quota::Scope;
use crate::domain::usage::{CountedLicense, Explanation, InUse, RuleUse, Usage, Verdict, Wanted};
use crate::domain::{Account, AccountRef, Device, DeviceRef, Event};

/// What is asked: may this device have these persistent licenses, at this account's expense?
pub struct Question<'a> {
    /// The device.
    pub device: &'a DeviceRef,
    /// The account that would pay; without one, rules on accounts do not apply.
    pub account: Option<&'a AccountRef>,
    /// One license each.
    pub wanted: Vec<Wanted<'a>>,
    /// Security level of a device that the ledger does not know.
    pub security_level: Option<u32>,
    /// Maker, model name and number of a device that the ledger does not know.
    pub model: Option<&'a str>,
}

/// The answer, and all it rests on.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "decision": "deny", "device": "beb4pw6chv22zwww44tn5zxsb4", "device_known": true,
    "account": "g66plkzqupa3jstpsakablihiy", "policy_version": 3, "rule": "device-slots", "limit": 1,
    "in_use": {"confirmed": 1, "live": 1, "possible": 2}, "requested": 1, "next_free_at": null,
    "remedies": ["delete_license", "write_off", "override"],
    "counted": [{"license_id": "80526930-b94e-b14e-a091-7ea949ede441",
        "key_id": "01234567-89ab-cdef-0123-456789abcdef", "device": "beb4pw6chv22zwww44tn5zxsb4",
        "confirmed": true, "reserved": false, "counted_until": null}],
    "rules": [{"rule": "device-slots", "scope": "device", "window_seconds": null, "title": null,
        "decision": "deny", "limit": 1, "overage": 0,
        "in_use": {"confirmed": 1, "live": 1, "possible": 2}, "requested": 1, "next_free_at": null}],
    "device_revision": 2, "as_of": "2026-11-22T17:35:47.159Z",
}))]
pub struct Decision {
    /// `allow`, `allow_overage` or `deny`.
    #[schema(pattern = "^(allow|allow_overage|deny)$", example = "deny")]
    pub decision: &'static str,
    /// The device asked about.
    #[schema(pattern = "^[a-z2-7]{26}$", example = "beb4pw6chv22zwww44tn5zxsb4")]
    pub device: String,
    /// Whether the ledger knows it, be it from reports alone; an unknown one is decided as new.
    pub device_known: bool,
    /// The account that would pay.
    pub account: Option<String>,
    /// Version of the quota policy: its revision in the ledger.
    pub policy_version: u64,
    /// Id of the rule that the answer rests on: the one that denies or allows as overage, else the
    /// one with the least room left. `None` if no rule applies.
    #[schema(example = "device-slots")]
    pub rule: Option<String>,
    /// That rule's limit.
    pub limit: Option<u32>,
    /// What that rule counts.
    pub in_use: Option<DecisionInUse>,
    /// How much more of it the request would take; KIDs already held take no slot.
    pub requested: u32,
    /// When the next of what that rule counts frees by itself, if it will.
    pub next_free_at: Option<UnixMillis>,
    /// What helps against a refusal: `delete_license`, `wait`, `write_off`, `override`; against that
    /// of a blocked device `unblock`.
    pub remedies: Vec<&'static str>,
    /// The live licenses and reservations that the rule counts.
    pub counted: Vec<DecisionCounted>,
    /// What each rule that applies says, in the order of the policy.
    pub rules: Vec<DecisionRule>,
    /// Revision of the device's stream the decision was made at.
    pub device_revision: Option<u64>,
    /// The moment that decided what has expired.
    pub as_of: UnixMillis,
    /// What holds room for the licenses, if the decision was to be committed and allows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<Uuid>,
    /// When the reservation ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMillis>,
}

/// How much is in use, as sure as the evidence is: `confirmed` <= `live` <= `possible`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct DecisionInUse {
    /// What devices confirmed that they stored.
    pub confirmed: u32,
    /// What counts.
    pub live: u32,
    /// What devices may hold, what was released on weak evidence included.
    pub possible: u32,
}

/// What one rule says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DecisionRule {
    /// The rule's id.
    pub rule: String,
    /// `device`, `account` or `account_title`.
    pub scope: Scope,
    /// How far it looks back; `None` if it counts live slots.
    pub window_seconds: Option<u32>,
    /// The title that it counts, if it counts titles.
    pub title: Option<String>,
    /// `allow`, `allow_overage` or `deny`.
    #[schema(pattern = "^(allow|allow_overage|deny)$", example = "deny")]
    pub decision: &'static str,
    /// The most that may be in use, as set for the device or account, else as the rule has it.
    pub limit: u32,
    /// How many more the rule allows as overage.
    pub overage: u32,
    /// What it counts.
    pub in_use: DecisionInUse,
    /// How much more the request would take.
    pub requested: u32,
    /// When the next of what it counts frees by itself, if it will.
    pub next_free_at: Option<UnixMillis>,
}

/// A license or reservation that a rule counts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DecisionCounted {
    /// The license, or what a reservation holds for one.
    pub license_id: Uuid,
    /// Its KID.
    pub key_id: Uuid,
    /// The device it is on.
    #[schema(
        value_type = String,
        pattern = "^[a-z2-7]{26}$",
        example = "beb4pw6chv22zwww44tn5zxsb4"
    )]
    pub device: DeviceRef,
    /// Whether the device confirmed that it stored it.
    pub confirmed: bool,
    /// Whether it is a reservation.
    pub reserved: bool,
    /// When it stops counting by itself.
    pub counted_until: Option<UnixMillis>,
}

impl Licensing {
    /// Decides without recording anything: would these licenses fit at this moment?
    pub async fn decide(&self, question: &Question<'_>) -> Result<Decision, LicensingError> {
        let subject = self.hold_at_head(question.device, question.account).await?;
        let policy = self.policy.refresh(&self.ledger).await?;
        let now_ms = self.clock.now().0.max(subject.at_ms()).max(policy.at_ms);
        let decision = question.decide(&subject, &policy, now_ms);
        self.metrics.decided(decision.is_allowed());
        Ok(decision)
    }

    /// The device that an API client names: by reference, by an identity that the ledger knows, or
    /// by the id that the service has for it; it need not have been seen.
    pub async fn device_named(&self, name: &str) -> Result<DeviceRef, LicensingError> {
        if let Ok(device) = name.parse() {
            return Ok(device);
        }
        let of_identity = match name.parse() {
            Ok(identity) => self.identities.device_of(identity, &self.ledger).await?,
            Err(_) => None,
        };
        Ok(of_identity.unwrap_or_else(|| self.device_of(name)))
    }

    /// The reference of the device that the service, or a certificate, calls `external_id`.
    pub fn device_of(&self, external_id: &str) -> DeviceRef {
        self.reference_key.device(external_id)
    }

    /// The reference of the account that the service calls `external_id`.
    pub fn account_of(&self, external_id: &str) -> AccountRef {
        self.reference_key.account(external_id)
    }
}

impl Question<'_> {
    fn decide(&self, subject: &Subject, policy: &Published, now_ms: i64) -> Decision {
        // What is overdue ends before anything is decided, on the account as on the device.
        let overdue = subject.device().overdue(&policy.policy, policy.revision, now_ms);
        let overdue: Vec<_> = overdue.into_iter().map(Event::LicenseVoided).collect();
        let explain = |device: &Device, account: Option<&Account>| {
            let usage = self.usage(subject.name(), device, account, policy, now_ms);
            self.decision(&usage.explain(&self.wanted), subject, policy, now_ms)
        };
        if overdue.is_empty() {
            return explain(subject.device(), subject.account(self.account));
        }
        let mut device = subject.device().clone();
        let mut account = subject.account(self.account).cloned();
        for (of, event) in mirror(subject.name(), subject.device(), &overdue) {
            if Some(&of) == self.account {
                account.iter_mut().for_each(|account| account.evolve(&event));
            }
        }
        overdue.iter().for_each(|event| device.evolve(event));
        explain(&device, account.as_ref())
    }

    /// What the question is decided on.
    pub(super) fn usage<'u>(
        &'u self,
        name: &'u DeviceRef,
        device: &'u Device,
        account: Option<&'u Account>,
        policy: &'u Published,
        now_ms: i64,
    ) -> Usage<'u> {
        let known = |model: &&str| !model.is_empty();
        Usage {
            device,
            name,
            account,
            policy: &policy.policy,
            security_level: device.security_level.or(self.security_level),
            model: Some(device.model.as_str()).filter(known).or(self.model).unwrap_or_default(),
            now_ms,
        }
    }

    /// The answer with all it rests on.
    pub(super) fn decision(
        &self,
        explanation: &Explanation,
        subject: &Subject,
        policy: &Published,
        now_ms: i64,
    ) -> Decision {
        let decisive = explanation.decisive();
        let remedies = decisive.filter(|rule| rule.verdict == Verdict::Deny).map(RuleUse::remedies);
        Decision {
            decision: word(explanation.verdict),
            device: subject.name().to_string(),
            device_known: subject.guard.head().is_some(),
            account: self.account.map(ToString::to_string),
            policy_version: policy.revision,
            rule: decisive.map(|rule| rule.rule.clone()),
            limit: decisive.map(|rule| rule.limit),
            in_use: decisive.map(|rule| rule.in_use.into()),
            requested: decisive.map(|rule| rule.requested).unwrap_or_default(),
            next_free_at: decisive.and_then(|rule| rule.next_free_at_ms).map(UnixMillis),
            remedies: remedies.into_iter().flatten().map(|remedy| remedy.word()).collect(),
            counted: decisive.into_iter().flat_map(|r| &r.counted).map(Into::into).collect(),
            rules: explanation.rules.iter().map(Into::into).collect(),
            device_revision: subject.guard.head(),
            as_of: UnixMillis(now_ms),
            reservation_id: None,
            expires_at: None,
        }
    }
}

impl Decision {
    /// Whether the licenses may be held, be it as overage.
    pub(super) fn is_allowed(&self) -> bool {
        self.decision != word(Verdict::Deny)
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::AllowOverage => "allow_overage",
        Verdict::Deny => "deny",
    }
}

impl From<InUse> for DecisionInUse {
    fn from(InUse { confirmed, live, possible }: InUse) -> Self {
        Self { confirmed, live, possible }
    }
}

impl From<&RuleUse> for DecisionRule {
    fn from(rule: &RuleUse) -> Self {
        Self {
            rule: rule.rule.clone(),
            scope: rule.scope,
            window_seconds: rule.window_seconds,
            title: rule.title.clone(),
            decision: word(rule.verdict),
            limit: rule.limit,
            overage: rule.overage,
            in_use: rule.in_use.into(),
            requested: rule.requested,
            next_free_at: rule.next_free_at_ms.map(UnixMillis),
        }
    }
}

impl From<&CountedLicense> for DecisionCounted {
    fn from(license: &CountedLicense) -> Self {
        Self {
            license_id: license.license_id.0,
            key_id: license.key_id.0,
            device: license.device.clone(),
            confirmed: license.confirmed,
            reserved: license.reserved,
            counted_until: license.counted_until_ms.map(UnixMillis),
        }
    }
}
