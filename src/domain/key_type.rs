//! How a content key encrypts.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a content key encrypts. One key is never used in both ways: what is encrypted in one would
/// weaken what is encrypted in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// AES-128 in counter mode, as the protection scheme `cenc` has it.
    AesCtr,
    /// AES-128 in CBC mode, as the protection scheme `cbcs` has it.
    AesCbc,
}

impl KeyType {
    /// The type's name in events, key files and policy strings.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesCtr => "aesctr",
            Self::AesCbc => "aescbc",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
