//! Room held on a device for licenses that somebody else issues, or refused.

use uuid::Uuid;

use super::device::Device;
use super::event::{
    DecisionRefused, ReservationClosed, ReservationEnd, ReservationMade, ReservedSlot,
};
use super::ids::{AccountRef, KeyId, LicenseId};
use super::usage::{Explanation, Usage, Verdict, Wanted};

/// How room is to be held. What for, a [`Usage`] is asked.
#[derive(Clone, Debug)]
pub struct Reserve<'a> {
    /// The reservation.
    pub reservation_id: Uuid,
    /// The account that pays.
    pub account: Option<&'a AccountRef>,
    /// For how long.
    pub hold_ms: i64,
    /// Revision of the policy.
    pub policy_revision: u64,
    /// Who asks: the public part of an API key.
    pub actor: &'a str,
}

impl<'a> Usage<'a> {
    /// Decides whether room is held for `wanted`, all of it or nothing; `slot_id` gives each its
    /// id, by its place. No event: it is denied, as the explanation says, and [`refuse`](Self::refuse)
    /// has what is recorded of that.
    pub fn reserve(
        &self,
        wanted: &[Wanted<'a>],
        reserve: &Reserve<'_>,
        slot_id: impl Fn(usize) -> LicenseId,
    ) -> (Explanation, Option<ReservationMade>) {
        let explanation = self.explain(wanted);
        if explanation.verdict == Verdict::Deny {
            return (explanation, None);
        }
        let slots = wanted.iter().enumerate().map(|(place, wanted)| ReservedSlot {
            license_id: slot_id(place),
            key_id: wanted.key_id,
            title: wanted.title.map(str::to_owned),
            content_group: wanted.content_group.map(str::to_owned),
        });
        let made = ReservationMade {
            reservation_id: reserve.reservation_id,
            slots: slots.collect(),
            account: reserve.account.cloned(),
            expires_ms: self.now_ms.saturating_add(reserve.hold_ms),
            security_level: self.security_level,
            model: self.model.to_owned(),
            quota_policy_revision: reserve.policy_revision,
            overage: explanation.verdict == Verdict::AllowOverage,
            actor: reserve.actor.to_owned(),
            at_ms: self.now_ms,
        };
        (explanation, Some(made))
    }

    /// The event of a denial, if it is worth one: see
    /// [`Device::refusal_to_record`](super::Device::refusal_to_record).
    pub fn refuse(
        &self,
        wanted: &[Wanted<'a>],
        explanation: &Explanation,
        reserve: &Reserve<'_>,
    ) -> Option<DecisionRefused> {
        let rule = explanation.decisive().filter(|rule| rule.verdict == Verdict::Deny)?;
        let wanted: Vec<_> = wanted.iter().map(|wanted| wanted.key_id).collect();
        let key_ids = self.device.refusal_to_record(&wanted, &rule.rule, self.now_ms);
        (!key_ids.is_empty()).then(|| DecisionRefused {
            decision_id: reserve.reservation_id,
            key_ids,
            account: reserve.account.cloned(),
            rule: rule.rule.clone(),
            limit: rule.limit,
            held: rule.in_use.live,
            requested: rule.requested,
            security_level: self.security_level,
            model: self.model.to_owned(),
            quota_policy_revision: reserve.policy_revision,
            actor: reserve.actor.to_owned(),
            at_ms: self.now_ms,
        })
    }
}

impl Device {
    /// Ends what a reservation still holds, all of it. `None`: it holds nothing, since it expired,
    /// was ended before, or never was.
    pub fn release_reservation(
        &self,
        reservation_id: Uuid,
        actor: &str,
        now_ms: i64,
    ) -> Option<ReservationClosed> {
        let slots = self.reserved_by(reservation_id, now_ms);
        let license_ids: Vec<_> = slots.map(|slot| slot.license_id).collect();
        (!license_ids.is_empty()).then(|| ReservationClosed {
            reservation_id,
            license_ids,
            end: ReservationEnd::Released,
            actor: actor.to_owned(),
            at_ms: now_ms,
        })
    }
}

/// What a reservation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved<'a> {
    /// By which the slot is counted.
    pub license_id: LicenseId,
    /// The KID.
    pub key_id: KeyId,
    /// The account that pays.
    pub account: Option<&'a AccountRef>,
    /// When it ends by itself.
    pub expires_ms: i64,
}

#[cfg(test)]
mod tests;
