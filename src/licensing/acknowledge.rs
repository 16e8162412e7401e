//! A device says which licenses it stored.

use super::commit::{Attempts, Committed};
use super::{Answer, Denied, Licensing};
use crate::domain::acknowledge::Acknowledge;
use crate::domain::{Digest, Event, Identity, KeyId, TransactionId};
use crate::playready::acknowledge::{self as wire, Acknowledgement};
use crate::playready::challenge::VerifiedChallenge;
use crate::playready::soap::Refusal;

impl Licensing {
    pub(super) async fn acknowledge(
        &self,
        challenge: &VerifiedChallenge,
        message: &Acknowledgement,
        correlation: &str,
    ) -> Result<Answer, Denied> {
        let identity = Identity(Digest(*challenge.sender().identity()));
        let results = message.results.iter().map(|r| (KeyId(r.kid.guid()), r.result));
        let command = Acknowledge {
            identity,
            transaction_id: TransactionId(message.transaction_id),
            results: results.collect(),
            signed_sha256: Digest(*challenge.signed_digest()),
        };
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            let mut turn = self.turn(identity, None, None, correlation).await?;
            let licenses =
                turn.subject.guard.read(|rows| command.transaction(|key| rows.value(key)))?;
            let (policy, revision) = (&turn.policy.policy, turn.policy.revision);
            let device = turn.subject.guard.device();
            let events = device.acknowledge(&command, &licenses, policy, revision, turn.at_ms);
            if events.is_empty() {
                if self.moved(&mut turn).await? {
                    continue;
                }
                if licenses.is_empty() {
                    return Err(Refusal::UnknownTransaction.into());
                }
                let body = wire::answer(message.transaction_id);
                return Ok(Answer { body, position: None });
            }
            let voided = events.iter().filter_map(|event| match event {
                Event::LicenseVoided(voided) => Some(voided.reason),
                _ => None,
            });
            let voided: Vec<_> = voided.collect();
            let results = events.len() - voided.len();
            let stream = turn.subject.guard.stream().clone();
            let events = events.into_iter().map(|event| (stream.clone(), event)).collect();
            let stored = self.commit(&mut turn, events, Vec::new(), correlation).await?;
            if let Committed::Stored { position } = stored {
                self.metrics.acknowledged(results);
                self.metrics.voided(voided);
                let body = wire::answer(message.transaction_id);
                return Ok(Answer { body, position: Some(position) });
            }
        }
    }
}
