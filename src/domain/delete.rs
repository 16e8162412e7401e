//! A device says that it deleted licenses: which of them does that end?
//!
//! Section 9.2 of the license protocol page is the rule; the page is rendered as the documentation
//! of the `playready` module.

use std::collections::BTreeSet;

use super::device::Device;
use super::event::{DeletionUnmatched, Event, Grade, LicenseDeleted};
use super::ids::{Digest, Identity, KeyId, LicenseId, Nonce, SessionId};
use super::lookup::{Answered, Key, KidHistory, SessionKid, Value};
use super::quota::QuotaPolicy;

/// A verified secure-delete challenge.
#[derive(Clone, Debug)]
pub struct Delete {
    /// Who signed.
    pub identity: Identity,
    /// The session it names.
    pub session: SessionId,
    /// Security level of the sender's certificate.
    pub security_level: u32,
    /// Whether a certificate of the sender's chain is revoked. It is answered all the same.
    pub chain_revoked: bool,
    /// Names the kept message.
    pub evidence: Digest,
}

/// What the index rows say about one KID of the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenKid {
    /// The KID.
    pub key_id: KeyId,
    /// What the session named knows of it.
    pub in_session: SessionKid,
    /// What the identity did with it over all sessions; empty when the session named is known,
    /// since it then does not matter.
    pub history: KidHistory,
}

/// What the index rows say about the challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether the identity has any persistent license of the session named.
    pub session_known: bool,
    /// Its KIDs, each once.
    pub kids: Vec<SeenKid>,
}

impl Seen {
    /// Reads the rows that a challenge of `identity` for `session` and `kids` concerns. `value`
    /// finds what is known under a key.
    pub fn read<E>(
        identity: Identity,
        session: SessionId,
        kids: &[KeyId],
        mut value: impl FnMut(&Key) -> Result<Option<Value>, E>,
    ) -> Result<Self, E> {
        let explicit = value(&Key::ExplicitSession(identity, session))?.is_some();
        let session_known = explicit || {
            let challenge = value(&Key::Challenge(identity, Nonce(session.0)))?;
            matches!(challenge, Some(Value::Challenge(Answered::Granted(g))) if g.is_session)
        };
        let mut seen = Self { session_known, kids: Vec::with_capacity(kids.len()) };
        for key_id in kids.iter().copied().collect::<BTreeSet<_>>() {
            let in_session = match value(&Key::SessionKid(identity, session, key_id))? {
                Some(Value::SessionKid(kid)) => kid,
                _ => SessionKid::default(),
            };
            let key = (!session_known).then_some(Key::Kid(identity, key_id));
            let history = match key.map(|key| value(&key)).transpose()? {
                Some(Some(Value::Kid(history))) => history,
                _ => KidHistory::default(),
            };
            seen.kids.push(SeenKid { key_id, in_session, history });
        }
        Ok(seen)
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answer with the session, after appending the events.
    Answer {
        /// None for a repeat.
        deletions: Vec<Deletion>,
        /// KIDs without effect that are not worth an event: the device caused
        /// [`UNMATCHED_PER_DAY`](super::device::UNMATCHED_PER_DAY) of them today.
        left_out: usize,
    },
    /// The one refusal for an unknown session, a foreign one, or one without these KIDs.
    UnknownSession,
}

/// An event that a deletion causes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Deletion {
    Deleted(LicenseDeleted),
    Unmatched(DeletionUnmatched),
}

impl Deletion {
    /// The KID it is about.
    pub fn key_id(&self) -> KeyId {
        match self {
            Self::Deleted(e) => e.key_id,
            Self::Unmatched(e) => e.key_id,
        }
    }
}

impl From<Deletion> for Event {
    fn from(deletion: Deletion) -> Self {
        match deletion {
            Deletion::Deleted(e) => Self::LicenseDeleted(e),
            Deletion::Unmatched(e) => Self::DeletionUnmatched(e),
        }
    }
}

impl Device {
    /// Decides one secure-delete challenge. A blocked device may still give licenses back.
    pub fn delete(
        &self,
        command: &Delete,
        seen: &Seen,
        policy: &QuotaPolicy,
        now_ms: i64,
    ) -> Outcome {
        let linked = seen.session_known;
        let matching: Vec<&SeenKid> = seen.kids.iter().filter(|kid| kid.matches(linked)).collect();
        if matching.is_empty() {
            return Outcome::UnknownSession;
        }
        let grade = command.grade(linked);
        let releases = policy.releasing_grades.contains(&grade);
        let mut room = self.room_for_unmatched(now_ms);
        let (mut deletions, mut left_out) = (Vec::new(), 0);
        for kid in matching.into_iter().filter(|kid| !kid.in_session.spent) {
            let meant = kid.meant(linked, command.session);
            if !linked && meant.is_empty() {
                if room > 0 {
                    room -= 1;
                    deletions.push(Deletion::Unmatched(command.unmatched(kid, now_ms)));
                } else {
                    left_out += 1;
                }
            }
            let ended = meant.into_iter().map(|(license_id, acquired_session)| LicenseDeleted {
                license_id,
                identity: command.identity,
                session: command.session,
                acquired_session,
                key_id: kid.key_id,
                grade,
                linked,
                releases,
                evidence: command.evidence,
                at_ms: now_ms,
            });
            deletions.extend(ended.map(Deletion::Deleted));
        }
        Outcome::Answer { deletions, left_out }
    }
}

impl SeenKid {
    /// Whether the challenge is about a license of the sender for this KID. What was answered
    /// before is answered again, whatever became known since.
    fn matches(&self, linked: bool) -> bool {
        let known = if linked { self.in_session.matched } else { self.history.implicit };
        known || self.in_session.spent
    }

    /// The licenses that a first deletion under `session` ends, and the sessions they were
    /// acquired in.
    fn meant(&self, linked: bool, session: SessionId) -> Vec<(LicenseId, SessionId)> {
        if linked {
            self.in_session.open.iter().map(|license_id| (*license_id, session)).collect()
        } else {
            self.history.sole_implicit().into_iter().collect()
        }
    }
}

impl Delete {
    fn grade(&self, linked: bool) -> Grade {
        match (linked && !self.chain_revoked, self.security_level) {
            (true, 3000..) => Grade::A,
            (true, _) => Grade::B,
            (false, _) => Grade::C,
        }
    }

    fn unmatched(&self, kid: &SeenKid, at_ms: i64) -> DeletionUnmatched {
        DeletionUnmatched {
            identity: self.identity,
            session: self.session,
            key_id: kid.key_id,
            candidates: kid.history.issued,
            evidence: self.evidence,
            at_ms,
        }
    }
}

#[cfg(test)]
mod tests;
