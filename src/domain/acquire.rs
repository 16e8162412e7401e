//! May this device have these licenses?

use std::collections::BTreeSet;

use super::account::Account;
use super::device::Device;
use super::event::{AcquisitionRefused, Chain, LicenseAcquired};
use super::ids::{AccountRef, DeviceRef, Digest, Identity, KeyId, Nonce};
use super::lookup::{Answered, GrantPlace, Key, Value};
use super::quota::QuotaPolicy;
use super::usage::{QuotaExceeded, Usage, Verdict, Wanted};

/// A verified and entitled challenge, with everything that can fail already prepared: content
/// keys found, policies effective, license ids drawn.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Who asks.
    pub identity: Identity,
    /// The challenge's nonce.
    pub nonce: Nonce,
    /// SHA-256 of the signed element.
    pub signed_sha256: Digest,
    /// The licenses to grant, in the order of the response. Their `at_ms`, `overage` and
    /// `quota_policy_revision` are set by the decision.
    pub licenses: Vec<LicenseAcquired>,
}

impl Acquire {
    /// The account that pays for the licenses, if they name one: one for all of them.
    pub fn account(&self) -> Option<&AccountRef> {
        self.licenses.iter().find_map(|license| license.account.as_ref())
    }
}

/// What the index rows say about the challenge.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The grant this nonce was answered with, if it was.
    pub grant: Option<Vec<LicenseAcquired>>,
    /// Whether a refusal of this challenge is recorded.
    pub refusal_recorded: bool,
    /// KIDs of its persistent licenses that its session has met before, acquired or deleted.
    pub session_used: Vec<KeyId>,
    /// Whether the challenge's transaction id was used before.
    pub transaction_used: bool,
    /// Whether the entitlement names another device than the one the identity belongs to.
    pub names_other_device: bool,
    /// Whether an operator replaced the device that the identity belongs to.
    pub device_replaced: bool,
    /// Whether another challenge used up the token that this one is entitled by.
    pub token_spent: bool,
}

impl Seen {
    /// Reads the rows that a challenge concerns. `value` finds what is known under a key.
    ///
    /// If the challenge was granted before, its licenses are events of the device's stream: the
    /// second value says which, and the caller puts them into [`grant`](Self::grant). The other
    /// rows then do not matter and are not read.
    pub fn read<E>(
        command: &Acquire,
        mut value: impl FnMut(&Key) -> Result<Option<Value>, E>,
    ) -> Result<(Self, Option<GrantPlace>), E> {
        let identity = command.identity;
        let mut seen = Self::default();
        match value(&Key::Challenge(identity, command.nonce))? {
            Some(Value::Challenge(Answered::Granted(place))) => return Ok((seen, Some(place))),
            answered => seen.refusal_recorded = answered.is_some(),
        }
        for license in command.licenses.iter().filter(|license| license.persistent.effective) {
            let key = Key::SessionKid(identity, license.session, license.key_id);
            if matches!(value(&key)?, Some(Value::SessionKid(kid)) if kid.matched || kid.spent) {
                seen.session_used.push(license.key_id);
            }
        }
        if let Some(id) = command.licenses.iter().find_map(|license| license.transaction_id) {
            seen.transaction_used = value(&Key::Transaction(identity, id))?.is_some();
        }
        Ok((seen, None))
    }
}

/// What else a decision about a device is made on.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The device's name.
    pub device: &'a DeviceRef,
    /// The account that pays for the licenses, if they name one.
    pub account: Option<&'a Account>,
    /// The quota policy.
    pub policy: &'a QuotaPolicy,
    /// Its revision.
    pub policy_revision: u64,
    /// For how long the same challenge gets the same licenses again.
    pub replay_window_ms: i64,
}

/// The answer.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// New licenses: append these events, then answer with them.
    Grant(Vec<LicenseAcquired>),
    /// The same challenge again: answer with the same licenses, append nothing.
    Repeat(Vec<LicenseAcquired>),
    /// No. The event, if any, is to be appended before answering.
    Refuse(Refusal, Option<Box<AcquisitionRefused>>),
}

/// Why a challenge is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The nonce was used for other bytes.
    #[error("the nonce was used for another challenge")]
    NonceReused,
    /// The challenge was granted, and its licenses are no longer all live, or it is too old.
    #[error("the challenge is spent")]
    ChallengeSpent,
    /// An operator blocked the device.
    #[error("the device is blocked")]
    Blocked,
    /// An operator replaced the device by another one.
    #[error("the device is replaced by another one")]
    Replaced,
    /// The entitlement is for another device than the one the identity belongs to. Only an operator
    /// can link them: a claim alone would let a device move to a fresh quota.
    #[error("the identity belongs to another device than the entitlement names")]
    OtherDevice,
    /// The entitlement's token was used up by another challenge.
    #[error("the token was used by another challenge")]
    TokenSpent,
    /// The session was used before for a KID that is asked for: a session is one batch, so that a
    /// deletion signed for it cannot end what is acquired later. Section 9.2.
    #[error("the session was used for {0} before")]
    SessionUsed(KeyId),
    /// The transaction id named was used before.
    #[error("the transaction id was used before")]
    TransactionUsed,
    /// A leaf license whose root is neither in the same batch nor held by the device.
    #[error("the device holds no root {0}")]
    RootMissing(KeyId),
    /// A license for the KID of a root that is none, or a root for a KID that has other licenses.
    #[error("{0} is the KID of a root and of other licenses")]
    RootReserved(KeyId),
    /// A quota rule said no.
    #[error("the limit of {} of rule {} is reached", .0.rule.limit, .0.rule.rule)]
    Quota(QuotaExceeded),
}

impl Device {
    /// Decides one challenge. The batch is granted or refused whole.
    pub fn acquire(
        &self,
        command: &Acquire,
        seen: &Seen,
        terms: Terms<'_>,
        now_ms: i64,
    ) -> Outcome {
        if let Some(grant) = &seen.grant {
            return match self.repeat(command, seen, grant, terms, now_ms) {
                Ok(()) => Outcome::Repeat(grant.clone()),
                Err(refusal) => Outcome::Refuse(refusal, None),
            };
        }
        if self.blocked {
            return Outcome::Refuse(Refusal::Blocked, None);
        }
        if self.replaced || seen.device_replaced {
            return Outcome::Refuse(Refusal::Replaced, None);
        }
        if seen.names_other_device {
            return Outcome::Refuse(Refusal::OtherDevice, None);
        }
        if seen.token_spent {
            return Outcome::Refuse(Refusal::TokenSpent, None);
        }
        if let Some(key_id) = seen.session_used.first() {
            return Outcome::Refuse(Refusal::SessionUsed(*key_id), None);
        }
        if seen.transaction_used {
            return Outcome::Refuse(Refusal::TransactionUsed, None);
        }
        if let Err(refusal) = self.check_chains(&command.licenses, now_ms) {
            return Outcome::Refuse(refusal, None);
        }
        let overage = match self.fits(command, terms, now_ms) {
            Ok(verdict) => verdict == Verdict::AllowOverage,
            Err(exceeded) => {
                let event = self.refusal_event(command, seen, &exceeded, terms, now_ms);
                return Outcome::Refuse(Refusal::Quota(exceeded), event);
            }
        };
        let granted = command.licenses.iter().cloned().map(|license| LicenseAcquired {
            quota_policy_revision: terms.policy_revision,
            overage: overage && license.persistent.effective,
            at_ms: now_ms,
            ..license
        });
        Outcome::Grant(granted.collect())
    }

    /// Whether the quotas leave room for the licenses.
    fn fits(
        &self,
        command: &Acquire,
        terms: Terms<'_>,
        now_ms: i64,
    ) -> Result<Verdict, QuotaExceeded> {
        let persistent = command.licenses.iter().filter(|l| l.persistent.effective);
        let wanted: Vec<_> = persistent.map(wanted).collect();
        let Some(first) = command.licenses.first() else { return Ok(Verdict::Allow) };
        let usage = Usage {
            device: self,
            name: terms.device,
            account: terms.account,
            policy: terms.policy,
            security_level: Some(first.security_level),
            model: &first.model,
            now_ms,
        };
        let policy_revision = terms.policy_revision;
        usage.judge(&wanted).map_err(|rule| QuotaExceeded { rule, policy_revision })
    }

    /// A leaf needs its root: in the same batch, or held live and persistent, as the leaf then is
    /// too. The KID of a root is for nothing else.
    fn check_chains(&self, licenses: &[LicenseAcquired], now_ms: i64) -> Result<(), Refusal> {
        let roots = licenses.iter().filter(|license| license.is_root());
        let roots: BTreeSet<KeyId> = roots.map(|license| license.key_id).collect();
        for license in licenses {
            let key_id = license.key_id;
            let taken = !license.is_root() && roots.contains(&key_id);
            if taken || self.is_reserved(key_id, license.is_root(), now_ms) {
                return Err(Refusal::RootReserved(key_id));
            }
            if let Some(Chain::Leaf { root_key_id, root_key_source }) = &license.chain {
                let held = license.persistent.effective
                    && self.holds_root(*root_key_id, root_key_source, now_ms);
                if !held && !roots.contains(root_key_id) {
                    return Err(Refusal::RootMissing(*root_key_id));
                }
            }
        }
        Ok(())
    }

    /// Whether a challenge that was granted may be answered again.
    fn repeat(
        &self,
        command: &Acquire,
        seen: &Seen,
        grant: &[LicenseAcquired],
        terms: Terms<'_>,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        if grant.iter().any(|license| license.signed_sha256 != command.signed_sha256) {
            return Err(Refusal::NonceReused);
        }
        let fresh = grant.iter().all(|l| now_ms.saturating_sub(l.at_ms) <= terms.replay_window_ms);
        let live = grant
            .iter()
            .filter(|license| license.persistent.effective)
            .all(|license| self.keeps(license.key_id, license.license_id, now_ms));
        let barred = self.blocked || self.replaced || seen.device_replaced;
        if fresh && live && !barred { Ok(()) } else { Err(Refusal::ChallengeSpent) }
    }

    fn refusal_event(
        &self,
        command: &Acquire,
        seen: &Seen,
        exceeded: &QuotaExceeded,
        terms: Terms<'_>,
        now_ms: i64,
    ) -> Option<Box<AcquisitionRefused>> {
        let exceeded = &exceeded.rule;
        let persistent = command.licenses.iter().filter(|l| l.persistent.effective);
        let wanted: Vec<_> = persistent.map(|license| license.key_id).collect();
        let key_ids = self.refusal_to_record(&wanted, &exceeded.rule, now_ms);
        if seen.refusal_recorded || key_ids.is_empty() {
            return None;
        }
        Some(Box::new(AcquisitionRefused {
            identity: command.identity,
            nonce: command.nonce,
            account: command.account().cloned(),
            key_ids,
            rule: exceeded.rule.clone(),
            limit: exceeded.limit,
            held: exceeded.in_use.live,
            requested: exceeded.requested,
            quota_policy_revision: terms.policy_revision,
            signed_sha256: command.signed_sha256,
            at_ms: now_ms,
        }))
    }
}

fn wanted(license: &LicenseAcquired) -> Wanted<'_> {
    Wanted {
        key_id: license.key_id,
        title: license.title.as_deref(),
        content_group: license.content_group.as_deref(),
    }
}

#[cfg(test)]
mod tests;
