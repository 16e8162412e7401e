//! How a content key encrypts, and what it is for.

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

/// What the key of a KID is for. The key of a root wraps the keys of leaves and encrypts no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// It encrypts content.
    Content,
    /// It is that of root licenses.
    Root,
}

impl KeyRole {
    /// The role of the key in a license that is a root, or is not.
    pub fn in_license(is_root: bool) -> Self {
        if is_root { Self::Root } else { Self::Content }
    }

    /// The stored word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Root => "root",
        }
    }
}

/// What is settled of how the key of a KID is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// How it encrypts.
    pub key_type: Option<KeyType>,
    /// Whether no other type can replace that one.
    pub is_final: bool,
    /// What it is for. Nothing replaces that.
    pub role: Option<KeyRole>,
}

impl KeyUse {
    /// What is known of a key together with what was read of it, be that older or newer.
    pub fn and(self, read: Self) -> Self {
        let keeps_type = self.is_final && !read.is_final;
        let newer = if keeps_type { self.key_type } else { read.key_type.or(self.key_type) };
        Self {
            key_type: newer,
            is_final: self.is_final || read.is_final,
            role: self.role.or(read.role),
        }
    }

    /// Whether the key may be used so, as far as anything is settled.
    pub fn allows(self, key_type: Option<KeyType>, role: KeyRole) -> bool {
        let same_type =
            self.key_type.zip(key_type).is_none_or(|(settled, stated)| settled == stated);
        same_type && self.role.is_none_or(|settled| settled == role)
    }

    /// Whether such a use leaves nothing to be settled.
    pub fn covers(self, key_type: Option<KeyType>) -> bool {
        self.role.is_some() && (self.key_type.is_some() || key_type.is_none())
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: KeyUse = KeyUse { key_type: None, is_final: false, role: None };
    const BY_DEVICE: KeyUse = KeyUse { key_type: Some(KeyType::AesCbc), ..NOTHING };
    const BY_OPERATOR: KeyUse =
        KeyUse { key_type: Some(KeyType::AesCtr), is_final: true, role: None };
    const OF_ROOT: KeyUse = KeyUse { role: Some(KeyRole::Root), ..NOTHING };

    #[test]
    fn what_is_read_late_takes_nothing_back() {
        for read in [NOTHING, BY_DEVICE, BY_OPERATOR] {
            assert_eq!(BY_OPERATOR.and(read), BY_OPERATOR, "{read:?}");
        }
        assert_eq!(BY_DEVICE.and(BY_OPERATOR), BY_OPERATOR);
        assert_eq!(BY_DEVICE.and(NOTHING), BY_DEVICE);
        let both = KeyUse { role: Some(KeyRole::Root), ..BY_OPERATOR };
        assert_eq!(OF_ROOT.and(BY_OPERATOR), both);
        assert_eq!(BY_OPERATOR.and(OF_ROOT), both);
        assert_eq!(both.and(BY_DEVICE), both);
    }

    #[test]
    fn what_is_settled_holds_for_every_later_use() {
        let (ctr, cbc) = (Some(KeyType::AesCtr), Some(KeyType::AesCbc));
        for (known, key_type, role, allowed, covered) in [
            (NOTHING, ctr, KeyRole::Content, true, false),
            (NOTHING, None, KeyRole::Content, true, false),
            (BY_DEVICE, cbc, KeyRole::Root, true, false),
            (BY_DEVICE, ctr, KeyRole::Root, false, false),
            (OF_ROOT, None, KeyRole::Root, true, true),
            (OF_ROOT, ctr, KeyRole::Root, true, false),
            (OF_ROOT, None, KeyRole::Content, false, true),
            (OF_ROOT.and(BY_OPERATOR), ctr, KeyRole::Root, true, true),
            (OF_ROOT.and(BY_OPERATOR), ctr, KeyRole::Content, false, true),
        ] {
            assert_eq!(known.allows(key_type, role), allowed, "{known:?} {key_type:?} {role:?}");
            assert_eq!(known.covers(key_type), covered, "{known:?} {key_type:?} {role:?}");
        }
    }
}
