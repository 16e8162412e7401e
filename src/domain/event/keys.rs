//! Facts about keys: content keys, seeds, the master key, API keys. Never a key itself.

use serde::{Deserialize, Serialize};

use super::KeySource;
use crate::domain::ids::{Digest, KeyId};

/// A content key was registered for a KID, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentKeyRegistered {
    /// The KID.
    pub key_id: KeyId,
    /// Check value by which a copy of the key can be recognized: first 8 bytes of
    /// AES-128-ECB(key, KID in wire order), hexadecimal. Never the key.
    pub check_value: String,
    /// Who registered it.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// A key seed was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySeedRegistered {
    /// The seed's id.
    pub seed_id: String,
    /// Check value: that of the key the seed gives for the nil KID. Never the seed.
    pub check_value: String,
    /// Who registered it.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// Where a KID's key comes from was settled, for good: the only event of a `key-<guid>` stream,
/// which is created with it. A seed's first use for a KID and the registration of a content key
/// while there are seeds both create that stream, so that one of the two loses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentKeyBound {
    /// The KID.
    pub key_id: KeyId,
    /// Where its key comes from.
    pub source: KeySource,
    /// When.
    pub at_ms: i64,
}

/// Content keys and seeds were sealed anew under another master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKeyRotated {
    /// Who did it.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// An API key was made. The secret is shown once and kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyCreated {
    /// Public part of the key.
    pub key_id: String,
    /// What it is for, in the operator's words.
    pub name: String,
    /// HMAC-SHA-256 of the secret part.
    pub hmac: Digest,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Who made it.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}

/// An API key was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRevoked {
    /// Public part of the key.
    pub key_id: String,
    /// Who revoked it.
    pub actor: String,
    /// When.
    pub at_ms: i64,
}
