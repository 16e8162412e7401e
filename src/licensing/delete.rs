//! A device says that it deleted licenses.

use data_encoding::BASE64;

use super::commit::{Attempts, Committed, ENDED_AT_ONCE};
use super::{Answer, Denied, Licensing, LicensingError};
use crate::domain::delete::{Delete, Deletion, Outcome, Seen};
use crate::domain::event::EvidenceKept;
use crate::domain::ids::Wire16;
use crate::domain::{Digest, Event, Identity, KeyId, SessionId};
use crate::ledger::{Expected, StreamName};
use crate::playready::challenge::VerifiedChallenge;
use crate::playready::delete::{self as wire, DeleteRequest};
use crate::playready::soap::Refusal;

impl Licensing {
    pub(super) async fn delete(
        &self,
        challenge: &VerifiedChallenge,
        message: &DeleteRequest,
        correlation: &str,
    ) -> Result<Answer, Denied> {
        let identity = Identity(Digest(*challenge.sender().identity()));
        // One set of lists grades the deletion and is named by its evidence.
        let lists = self.revocation();
        let chain = challenge.sender().chain();
        let command = Delete {
            identity,
            session: SessionId(Wire16(message.session)),
            security_level: challenge.sender().security_level(),
            chain_revoked: lists.as_ref().is_some_and(|lists| lists.is_revoked(chain)),
            evidence: Digest::of(challenge.request()),
        };
        let key_ids: Vec<_> = message.kids.iter().map(|kid| KeyId(kid.guid())).collect();
        let mut attempts = Attempts::new();
        loop {
            attempts.next()?;
            let mut turn = self.turn(identity, None, None, correlation).await?;
            let seen = turn.subject.guard.read(|rows| {
                Seen::read(identity, command.session, &key_ids, |key| rows.value(key))
            })?;
            let policy = &turn.policy.policy;
            let outcome = turn.subject.guard.device().delete(&command, &seen, policy, turn.at_ms);
            let (deletions, left_out) = match outcome {
                Outcome::Answer { deletions, left_out } if !deletions.is_empty() => {
                    (deletions, left_out)
                }
                _ if self.moved(&mut turn).await? => continue,
                Outcome::Answer { left_out, .. } => {
                    self.metrics.deleted_without_event(left_out);
                    return Ok(Answer { body: wire::answer(&message.session), position: None });
                }
                Outcome::UnknownSession => return Err(Refusal::UnknownSession.into()),
            };
            let (deletions, rest) = first_part(deletions);
            let sequence = lists.as_ref().map(|lists| lists.sequence());
            let (kept, checks) = self.evidence(challenge, &command, sequence, turn.at_ms).await?;
            let stream = turn.subject.guard.stream().clone();
            let facts = deletions.iter().cloned().map(|d| (stream.clone(), d.into()));
            let events = facts.chain(kept).collect();
            let stored = self.commit(&mut turn, events, checks, correlation).await?;
            if let Committed::Stored { position } = stored {
                let unmatched = |deletion: &&Deletion| matches!(deletion, Deletion::Unmatched(_));
                let unmatched = deletions.iter().filter(unmatched).count();
                let left_out = if rest { 0 } else { left_out };
                self.metrics.deleted(deletions.len() - unmatched, unmatched, left_out);
                if rest {
                    attempts = Attempts::new();
                    continue;
                }
                let body = wire::answer(&message.session);
                return Ok(Answer { body, position: Some(position) });
            }
        }
    }

    /// The raw message, to be kept beside what it caused; nothing if it is kept already, because
    /// an earlier part of the same message took effect before.
    async fn evidence(
        &self,
        challenge: &VerifiedChallenge,
        command: &Delete,
        revocation_sequence: Option<u32>,
        at_ms: i64,
    ) -> Result<(Option<(StreamName, Event)>, Vec<(StreamName, Expected)>), LicensingError> {
        let stream = StreamName::new(&format!("evidence-{}", command.evidence))?;
        if self.ledger.head(&stream).await?.is_some() {
            return Ok((None, Vec::new()));
        }
        let event = Event::EvidenceKept(EvidenceKept {
            message: "secure-delete".to_owned(),
            envelope: BASE64.encode(challenge.request()),
            certificate_chain: BASE64.encode(challenge.sender().chain().bytes()),
            root: self.root_digest,
            revocation_sequence,
            at_ms,
        });
        let checks = vec![(stream.clone(), Expected::NoStream)];
        Ok((Some((stream, event)), checks))
    }
}

/// As many deletions as one append takes, and whether there are more: then the message is decided
/// again, and what was recorded of it counts as done. All of one KID are in one append, since with
/// the first of them the KID is answered for good.
fn first_part(mut deletions: Vec<Deletion>) -> (Vec<Deletion>, bool) {
    let of_kid = |pair: &[Deletion]| matches!(pair, [a, b] if a.key_id() == b.key_id());
    let mut places = deletions.windows(2).enumerate().skip(ENDED_AT_ONCE.saturating_sub(1));
    let end = places.find(|(_, pair)| !of_kid(pair)).map(|(last, _)| last + 1);
    let rest = end.is_some();
    deletions.truncate(end.unwrap_or(deletions.len()));
    (deletions, rest)
}
