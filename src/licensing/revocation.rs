//! The revocation lists in force.
//!
//! Lists come in force at once and are recorded in the ledger: what was in force once is what no later
//! start falls behind, whatever files are there by then.

use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use super::{Licensing, LicensingError, random_bytes};
use crate::domain::event::RevocationListsTaken;
use crate::domain::{Digest, Event};
use crate::ledger::tail::Fact;
use crate::ledger::{Append, AppendError, Expected, Ledger, NewEvent, StreamName};
use crate::playready::ecc::PublicKey;
use crate::playready::revocation::Revocation;

/// The newest lists known. Readers take a reference and leave; who replaces the lists waits for
/// nobody's request.
pub(super) struct RevocationInForce {
    current: RwLock<Option<Arc<Revocation>>>,
}

impl RevocationInForce {
    pub(super) fn new(lists: Option<Revocation>) -> Self {
        Self { current: RwLock::new(lists.map(Arc::new)) }
    }

    /// The lists in force, if there are any.
    pub(super) fn current(&self) -> Option<Arc<Revocation>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts lists in force if their sequence is higher; tells whether.
    fn advance(&self, lists: Revocation) -> bool {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let newer = current.as_ref().is_none_or(|held| held.sequence() < lists.sequence());
        if newer {
            *current = Some(Arc::new(lists));
        }
        newer
    }
}

/// Which lists may follow those that were in force last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenLists {
    /// The sequence of those.
    pub sequence: u32,
    lists: Digest,
}

impl TakenLists {
    /// The lists recorded last for this root, if there are any.
    pub async fn last(ledger: &Ledger, root: &PublicKey) -> Result<Option<Self>, LicensingError> {
        let taken = last(ledger, &stream_of(Digest::of(root.xy()))?).await?;
        Ok(taken.map(|(taken, _)| taken))
    }

    /// These lists.
    pub fn of(lists: &Revocation) -> Self {
        let digest = Digest::of(lists.element().as_bytes());
        Self { sequence: lists.sequence(), lists: digest }
    }

    /// Why lists cannot follow these, which they are not (section 3).
    pub fn objection(self, lists: &Revocation) -> Option<String> {
        let (held, other) = (self.sequence, Self::of(lists));
        if other.sequence < held {
            let lower = other.sequence;
            return Some(format!("its sequence {lower} is lower than {held}, which is in force"));
        }
        (other.sequence == held && other != self).then(|| {
            format!("it differs from the lists in force, whose sequence {held} is the same")
        })
    }
}

/// The stream that says which lists under a root were in force.
fn stream_of(root: Digest) -> Result<StreamName, LicensingError> {
    Ok(StreamName::new(&format!("revocation-{root}"))?)
}

/// The lists recorded last, and the revision that says so.
async fn last(
    ledger: &Ledger,
    stream: &StreamName,
) -> Result<Option<(TakenLists, u64)>, LicensingError> {
    let Some(recorded) = ledger.read_stream_backwards(stream, u64::MAX, 1).await?.pop() else {
        return Ok(None);
    };
    let revision = recorded.revision;
    match Fact::of(recorded)?.event {
        Event::RevocationListsTaken(RevocationListsTaken { sequence, lists, .. }) => {
            Ok(Some((TakenLists { sequence, lists }, revision)))
        }
        other => Err(LicensingError::Stream { stream: stream.to_string(), kind: other.kind() }),
    }
}

impl Licensing {
    /// The revocation lists in force, if there are any.
    pub fn revocation(&self) -> Option<Arc<Revocation>> {
        self.revocation.current()
    }

    /// Puts verified lists in force for the requests that come; tells whether it did, which it does
    /// only if their sequence is higher than that of the lists in force (section 3).
    pub fn advance_revocation(&self, lists: Revocation) -> bool {
        let (sequence, issued_at_s) = (lists.sequence(), lists.issued_at_s());
        let advanced = self.revocation.advance(lists);
        if advanced {
            self.metrics.revocation_in_force(sequence, issued_at_s);
        }
        advanced
    }

    /// Records the lists in force, unless they are, or newer ones, by another process.
    pub async fn record_revocation(&self) -> Result<(), LicensingError> {
        let Some(in_force) = self.revocation() else { return Ok(()) };
        let TakenLists { sequence, lists } = TakenLists::of(&in_force);
        let root = self.root_digest;
        let stream = stream_of(root)?;
        loop {
            let last = last(&self.ledger, &stream).await?;
            if last.is_some_and(|(taken, _)| taken.sequence >= sequence) {
                return Ok(());
            }
            let at_ms = self.clock.now().0;
            let taken = RevocationListsTaken { root, sequence, lists, at_ms };
            let correlation = Uuid::from_bytes(random_bytes()?).to_string();
            let event = Event::RevocationListsTaken(taken);
            let append = Append {
                records: vec![(stream.clone(), NewEvent::of(&stream, &event, &correlation)?)],
                checks: vec![(stream.clone(), Expected::at_head(last.map(|(_, at)| at)))],
            };
            match self.ledger.append(append).await {
                Err(AppendError::Conflict { .. } | AppendError::IdReused { .. }) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
        }
    }
}
