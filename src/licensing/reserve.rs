//! Room held for licenses that somebody else issues: decisions that are committed.

use std::convert::Infallible;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::decide::Question;
use super::once::{CommandAnswer, CommandError, Once};
use super::{Licensing, LicensingError};
use crate::clock::UnixMillis;
use crate::domain::reserve::{Reserve, Reserved};
use crate::domain::{DeviceRef, Event, LicenseId};

/// The device has no such reservation: it expired, was released or committed, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device has no such reservation: it expired, was released or committed, or never was")]
pub struct NoReservation;

/// What a reservation holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "reservation_id": "5f0c6f6e-3c3f-5d0e-9a5d-3f5c2f1b7a10", "device": "beb4pw6chv22zwww44tn5zxsb4",
    "account": "g66plkzqupa3jstpsakablihiy", "expires_at": "2026-11-22T17:40:47.159Z",
    "key_ids": ["01234567-89ab-cdef-0123-456789abcdef"],
}))]
pub struct Reservation {
    /// The reservation.
    pub reservation_id: Uuid,
    /// The device.
    pub device: String,
    /// The account that pays.
    pub account: Option<String>,
    /// When it ends by itself.
    pub expires_at: UnixMillis,
    /// The KIDs, one for each license that it holds room for.
    pub key_ids: Vec<Uuid>,
}

impl Reservation {
    fn of<'a>(
        reservation_id: Uuid,
        device: &DeviceRef,
        slots: impl IntoIterator<Item = Reserved<'a>>,
    ) -> Option<Self> {
        let mut slots = slots.into_iter().peekable();
        let Reserved { account, expires_ms, .. } = *slots.peek()?;
        Some(Self {
            reservation_id,
            device: device.to_string(),
            account: account.map(ToString::to_string),
            expires_at: UnixMillis(expires_ms),
            key_ids: slots.map(|slot| slot.key_id.0).collect(),
        })
    }
}

impl Licensing {
    /// Decides, and if the licenses fit holds room for them for so long. A denial is recorded, and
    /// remembered, as long as the device has not caused many of them; else it stores nothing.
    pub async fn reserve(
        &self,
        question: &Question<'_>,
        hold_ms: i64,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<Infallible>> {
        let answer = self.once(once, async || self.reserve_once(question, hold_ms, once).await);
        answer.await
    }

    async fn reserve_once(
        &self,
        question: &Question<'_>,
        hold_ms: i64,
        once: &Once,
    ) -> Result<Option<CommandAnswer>, CommandError<Infallible>> {
        let mut subject = self.hold(question.device, question.account).await?;
        let policy = self.policy.current();
        let policy =
            self.void_overdue(&mut subject, question.account, policy, once.correlation()).await?;
        let at_ms = self.clock.now().0.max(subject.at_ms()).max(policy.at_ms);
        let account = subject.account(question.account);
        let usage = question.usage(subject.name(), subject.device(), account, &policy, at_ms);
        let reserve = Reserve {
            reservation_id: once.derived_id("reservation"),
            account: question.account,
            hold_ms,
            policy_revision: policy.revision,
            actor: once.client(),
        };
        let slot_id = |place| LicenseId(once.derived_id(&format!("reserved slot {place}")));
        let (explanation, made) = usage.reserve(&question.wanted, &reserve, slot_id);
        let mut decision = question.decision(&explanation, &subject, &policy, at_ms);
        let event = match made {
            Some(made) => {
                decision.reservation_id = Some(made.reservation_id);
                decision.expires_at = Some(UnixMillis(made.expires_ms));
                Some(Event::ReservationMade(made))
            }
            None => {
                usage.refuse(&question.wanted, &explanation, &reserve).map(Event::DecisionRefused)
            }
        };
        let answer = match event {
            Some(event) => {
                let answer = once.answer(200, &decision, at_ms)?;
                let stream = subject.guard.stream().clone();
                let events = vec![(stream, event)];
                let checks = vec![self.policy.check(&policy)];
                self.append_once(&mut subject, events, checks, answer).await?
            }
            None => {
                let moved = subject.refresh().await?;
                let newest = self.policy.refresh(&self.ledger).await?;
                let is_true = !moved && newest.revision == policy.revision;
                is_true.then(|| CommandAnswer::of_nothing(200, &decision)).transpose()?
            }
        };
        if answer.is_some() {
            self.metrics.decided(decision.is_allowed());
        }
        Ok(answer)
    }

    /// What a reservation of the device holds; `None` if it holds nothing.
    pub async fn reservation(
        &self,
        device: &DeviceRef,
        reservation_id: Uuid,
    ) -> Result<Option<Reservation>, LicensingError> {
        let subject = self.hold_at_head(device, None).await?;
        let now_ms = self.clock.now().0.max(subject.at_ms());
        let slots = subject.device().reserved_by(reservation_id, now_ms);
        Ok(Reservation::of(reservation_id, subject.name(), slots))
    }

    /// Gives back what a reservation still holds; the answer says what that was.
    pub async fn release_reservation(
        &self,
        device: &DeviceRef,
        reservation_id: Uuid,
        once: &Once,
    ) -> Result<CommandAnswer, CommandError<NoReservation>> {
        self.once(once, async || {
            let mut subject = self.hold_at_head(device, None).await?;
            let at_ms = self.clock.now().0.max(subject.at_ms());
            let slots = subject.device().reserved_by(reservation_id, at_ms);
            let view = Reservation::of(reservation_id, subject.name(), slots);
            let closed = subject.device().release_reservation(reservation_id, once.client(), at_ms);
            let (Some(view), Some(closed)) = (view, closed) else {
                return Err(CommandError::Refused(NoReservation));
            };
            let answer = once.answer(200, &view, at_ms)?;
            let stream = subject.guard.stream().clone();
            let events = vec![(stream, Event::ReservationClosed(closed))];
            Ok(self.append_once(&mut subject, events, Vec::new(), answer).await?)
        })
        .await
    }
}
