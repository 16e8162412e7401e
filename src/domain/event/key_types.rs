//! The facts about how content keys encrypt and what they are for.

use serde::{Deserialize, Serialize};

use crate::domain::ids::{Identity, KeyId};
use crate::domain::key_type::{KeyRole, KeyType, KeyUse};

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

/// How a KID's key encrypts was settled, and with its first use what it is for. In the stream
/// `key-type-<guid>`, of which the last event counts: each says again what is settled and goes on
/// being true. A type by a license gives way to at most one by an operator; a role to none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentKeyTyped {
    /// The KID.
    pub key_id: KeyId,
    /// How its key encrypts.
    pub key_type: KeyType,
    /// Who said so.
    pub stated_by: TypeStatedBy,
    /// What the key is for; `None` if it was only registered, or before that was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<KeyRole>,
    /// When.
    pub at_ms: i64,
}

/// A KID's key was used for content by a client that does not say how it encrypts, before that was
/// settled. The first event of its `key-type-<guid>` stream: a role without a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentKeyUsed {
    /// The KID.
    pub key_id: KeyId,
    /// Who got it.
    pub identity: Identity,
    /// When.
    pub at_ms: i64,
}

impl ContentKeyUsed {
    /// What is settled by it.
    pub fn settles(&self) -> KeyUse {
        KeyUse { key_type: None, is_final: false, role: Some(KeyRole::Content) }
    }
}

impl ContentKeyTyped {
    /// What is settled by it.
    pub fn settles(&self) -> KeyUse {
        KeyUse {
            key_type: Some(self.key_type),
            is_final: matches!(self.stated_by, TypeStatedBy::Operator { .. }),
            role: self.role,
        }
    }

    /// Tells it apart from the others of its stream. One without a role may come before one with it.
    pub(super) fn natural_key(&self) -> String {
        let typed = format!("{} {}", self.key_id, self.stated_by.word());
        match self.role {
            None => typed,
            Some(role) => format!("{typed} {}", role.word()),
        }
    }
}

impl TypeStatedBy {
    /// The stored word.
    fn word(&self) -> &'static str {
        match self {
            Self::License { .. } => "license",
            Self::Operator { .. } => "operator",
        }
    }
}
