//! A device says that it deleted licenses: which of them does that end?
//!
//! Section 9.2 of the license protocol page is the rule; the page is rendered as the documentation
//! of the `playready` module.

use super::device::Device;
use super::event::{DeletionUnmatched, Event, Grade, LicenseDeleted};
use super::ids::{Digest, Identity, KeyId, LicenseId, SessionId};
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
#[derive(Clone, Debug)]
pub struct SeenKid {
    /// The KID.
    pub key_id: KeyId,
    /// Whether the session named ever had a persistent license for it.
    pub in_session: bool,
    /// Those of them that no event has ended.
    pub open_in_session: Vec<LicenseId>,
    /// Whether a deletion naming this session and KID took effect before.
    pub spent: bool,
    /// Whether a persistent license for it was ever acquired without naming a session.
    pub implicit: bool,
    /// Persistent licenses for it issued since its last effective deletion.
    pub issued: u32,
    /// That license and the session it was acquired in, if there is exactly one and it was acquired
    /// without naming a session.
    pub sole_implicit: Option<(LicenseId, SessionId)>,
}

/// What the index rows say about the challenge.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether the identity has any persistent license of the session named.
    pub session_known: bool,
    /// Its KIDs, each once.
    pub kids: Vec<SeenKid>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answer with the session, after appending the events (none for a repeat).
    Answer(Vec<Deletion>),
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
        let matches = |kid: &&SeenKid| if linked { kid.in_session } else { kid.implicit };
        let mut matching = seen.kids.iter().filter(matches).peekable();
        if matching.peek().is_none() {
            return Outcome::UnknownSession;
        }
        let grade = command.grade(linked);
        let releases = policy.releasing_grades.contains(&grade);
        let deleted = |license_id: LicenseId, acquired_session: SessionId, key_id: KeyId| {
            Deletion::Deleted(LicenseDeleted {
                license_id,
                identity: command.identity,
                session: command.session,
                acquired_session,
                key_id,
                grade,
                linked,
                releases,
                evidence: command.evidence,
                at_ms: now_ms,
            })
        };
        let mut events = Vec::new();
        for kid in matching.filter(|kid| !kid.spent) {
            if linked {
                let open = kid.open_in_session.iter();
                events.extend(open.map(|id| deleted(*id, command.session, kid.key_id)));
            } else if let Some((license_id, acquired_session)) = kid.sole_implicit {
                events.push(deleted(license_id, acquired_session, kid.key_id));
            } else {
                events.push(Deletion::Unmatched(DeletionUnmatched {
                    identity: command.identity,
                    session: command.session,
                    key_id: kid.key_id,
                    candidates: kid.issued,
                    evidence: command.evidence,
                    at_ms: now_ms,
                }));
            }
        }
        Outcome::Answer(events)
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
}
