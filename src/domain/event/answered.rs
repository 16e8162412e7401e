//! Facts about answers that a repeat gets again.

use serde::{Deserialize, Serialize};

use crate::domain::ids::Digest;

/// A command of an API client was answered. Only event of its `once-<hash>` stream, stored together
/// with what the command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestAnswered {
    /// Who sent it: the public part of an API key.
    pub client: String,
    /// SHA-256 of method, path with query, and body, each followed by a NUL byte but the last.
    pub request_sha256: Digest,
    /// The answer's HTTP status.
    pub status: u16,
    /// The answer's body, verbatim.
    pub body: String,
    /// When.
    pub at_ms: i64,
}
