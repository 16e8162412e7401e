//! The fact that says which keys a ledger belongs to. Never a key itself.

use serde::{Deserialize, Serialize};

use crate::domain::ids::Digest;

/// Every process in front of the ledger works with these keys. In the stream `pins`, whose last event
/// counts: the first process creates it, and an operator adds to it when a key has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysPinned {
    /// Which agreement of processes this is: how references, streams and ids of events are formed.
    pub format: u32,
    /// HMAC-SHA-256 of a fixed label under the reference key.
    pub reference_key: Digest,
    /// The same under the key that authenticates API keys.
    pub api_key: Digest,
    /// SHA-256 of the root key that the chains of devices end at.
    pub root: Digest,
    /// SHA-256 of the public key that challenges are encrypted to.
    pub wmrm: Digest,
    /// SHA-256 of the public key that verifies responses.
    pub server_sign: Digest,
    /// Who did it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}
