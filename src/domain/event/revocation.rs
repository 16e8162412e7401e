//! The fact that revocation lists came into force.

use serde::{Deserialize, Serialize};

use crate::domain::ids::Digest;

/// Revocation lists came into force. In the stream `revocation-<root>`, whose last event says below
/// which sequence no list may fall back, however often the service starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationListsTaken {
    /// SHA-256 of the root key that their signers belong to.
    pub root: Digest,
    /// Their sequence.
    pub sequence: u32,
    /// SHA-256 of the lists as responses carry them.
    pub lists: Digest,
    /// When.
    pub at_ms: i64,
}
