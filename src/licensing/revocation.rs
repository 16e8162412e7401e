//! The revocation lists in force.

use std::sync::{Arc, PoisonError, RwLock};

use super::Licensing;
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
}
