//! The facts about how content keys encrypt.

use serde::{Deserialize, Serialize};

use crate::domain::ids::{Identity, KeyId};
use crate::domain::key_type::KeyType;

/// Who said how a KID's key encrypts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TypeStatedBy {
    /// The first license for the KID, which had to have a type.
    License {
        /// Who got it. A type that a device brought about gives way to what an operator states.
        identity: Identity,
    },
    /// Whoever registers the key or encrypts content with it. Final.
    Operator {
        /// Who, as other events name it.
        actor: String,
    },
}

/// How a KID's key encrypts was settled. In the stream `key-type-<guid>`, of which the last event
/// counts: at most one by a license, then at most one by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentKeyTyped {
    /// The KID.
    pub key_id: KeyId,
    /// How its key encrypts.
    pub key_type: KeyType,
    /// Who said so.
    pub stated_by: TypeStatedBy,
    /// When.
    pub at_ms: i64,
}

impl ContentKeyTyped {
    /// Whether nothing can replace it.
    pub fn is_final(&self) -> bool {
        matches!(self.stated_by, TypeStatedBy::Operator { .. })
    }
}

impl TypeStatedBy {
    /// The stored word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::License { .. } => "license",
            Self::Operator { .. } => "operator",
        }
    }
}
