//! What the service says may be issued: the same shape in a token and in a callback's answer.
//!
//! ```json
//! {
//!   "account": "alice",
//!   "device": "alice-tv",
//!   "policy": {"sl": 2000, "persist": true, "end": 1798761600},
//!   "keys": [
//!     {"kid": "01234567-89ab-cdef-0123-456789abcdef", "title": "movie-7"},
//!     {"kid": "01234567-89ab-cdef-0123-456789abcdf0", "policy": {"sl": 3000}}
//!   ]
//! }
//! ```
//!
//! | member | meaning |
//! |---|---|
//! | `account` | whose licenses these are; the ledger keeps a reference, never the id itself |
//! | `device` | which device this is; without it, every certificate is a device of its own |
//! | `policy` | the [license policy](crate::playready::policy::LicensePolicy) of keys without one |
//! | `keys` | 1 to [`KEYS_MAX`], each KID once |
//! | `keys[].kid` | the KID as a GUID |
//! | `keys[].policy` | its own policy, instead of the common one |
//! | `keys[].key_type` | `aesctr` or `aescbc`, if the service knows; refused if another is recorded |
//! | `keys[].title`, `keys[].content_group` | how the service names what the key is for |
//!
//! All but `keys` and `kid` may be left out, as long as every key has a policy. Ids and names have
//! 1 to [`NAME_BYTES_MAX`] bytes. Members that are not listed are refused by name.
//!
//! A license may be stored if its policy says `"persist": true`. A request may ask for less: custom
//! data that is a JSON object with `"persistent": false` gets licenses that are not stored.

use std::collections::HashSet;

use serde::Deserialize;
use uuid::Uuid;

use super::{Asked, AskedType, Entitled, Grant, StatedType};
use crate::domain::Digest;
use crate::domain::event::KeySource;
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::kid::Kid;
use crate::playready::policy::{LicensePolicy, Refusal as PolicyRefusal};
use crate::playready::soap::{Fault, Refusal};

/// The most keys of one statement: more than one request can ask for in 64 KiB is of no use.
pub const KEYS_MAX: usize = 1000;
/// The most bytes of an account, a device, a title or a content group.
pub const NAME_BYTES_MAX: usize = 256;

/// What the service says. Holds ids of people and devices: no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statement {
    account: Option<Name>,
    device: Option<Name>,
    policy: Option<LicensePolicy>,
    keys: Vec<StatedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedKey {
    kid: Uuid,
    policy: Option<LicensePolicy>,
    key_type: Option<KeyType>,
    title: Option<Name>,
    content_group: Option<Name>,
}

/// An id or a name of the service.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

/// An id or a name is empty or too long.
#[derive(Debug, thiserror::Error)]
#[error("an id or name must have 1 to {NAME_BYTES_MAX} bytes")]
struct NameLength;

impl TryFrom<String> for Name {
    type Error = NameLength;

    fn try_from(text: String) -> Result<Self, NameLength> {
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        if fits { Ok(Self(text)) } else { Err(NameLength) }
    }
}

/// A statement contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidStatement {
    /// Too few or too many keys.
    #[error("keys must have 1 to {KEYS_MAX} members")]
    KeyCount,
    /// A KID comes twice.
    #[error("keys names the KID {0} twice")]
    RepeatedKid(Uuid),
    /// There is no policy for a key.
    #[error("the key {0} has no policy, and there is no common one")]
    NoPolicy(Uuid),
}

/// A key that a request wants and that there is.
pub(super) struct Available {
    pub(super) kid: Kid,
    pub(super) key: ContentKey,
    pub(super) source: KeySource,
}

impl Statement {
    /// Checks what its shape alone does not.
    pub(super) fn check(&self) -> Result<(), InvalidStatement> {
        if !(1..=KEYS_MAX).contains(&self.keys.len()) {
            return Err(InvalidStatement::KeyCount);
        }
        let mut seen = HashSet::new();
        for key in &self.keys {
            if !seen.insert(key.kid) {
                return Err(InvalidStatement::RepeatedKid(key.kid));
            }
            if key.policy.is_none() && self.policy.is_none() {
                return Err(InvalidStatement::NoPolicy(key.kid));
            }
        }
        Ok(())
    }

    /// The licenses for those of the `available` keys that the statement covers.
    ///
    /// # Errors
    /// [`Refusal::NotEntitled`] if it covers none, and what a policy or the content's header does
    /// not allow.
    pub(super) fn grant(
        self,
        asked: &Asked<'_>,
        available: Vec<Available>,
        authorized_by: &'static str,
        spends: Option<Digest>,
    ) -> Result<Grant, Fault> {
        let wish = asked.wishes_persistent();
        let mut licenses = Vec::new();
        for Available { kid, key, source } in available {
            let Some(stated) = self.keys.iter().find(|key| key.kid == kid.guid()) else { continue };
            let Some(policy) = stated.policy.as_ref().or(self.policy.as_ref()) else { continue };
            let allowed = policy.persist;
            let requested_persistent = wish.unwrap_or(allowed);
            let policy =
                LicensePolicy { persist: allowed && requested_persistent, ..policy.clone() };
            policy.check().map_err(|conflict| {
                Fault::refused(Refusal::from(PolicyRefusal::InvalidPolicy(conflict)))
            })?;
            let key_type = AskedType {
                stated: stated.key_type.map(StatedType::Statement),
                header: asked.header_key_type(kid)?,
            };
            asked.note_checksum(kid, key_type.unrecorded(), &key);
            let name = |name: &Option<Name>| name.as_ref().map(|name| name.0.clone());
            licenses.push(Entitled {
                kid,
                policy,
                requested_persistent,
                key_type,
                key,
                source,
                chain: None,
                title: name(&stated.title),
                content_group: name(&stated.content_group),
            });
        }
        if licenses.is_empty() {
            let detail = "what the service says covers none of the KIDs asked for";
            let refusal = Refusal::NotEntitled { reason: None };
            return Err(Fault::refused_because(refusal, detail));
        }
        Ok(Grant {
            licenses,
            transaction_id: None,
            authorized_by,
            account: self.account.map(|name| name.0),
            device: self.device.map(|name| name.0),
            spends,
        })
    }
}

/// What is wrong with JSON that should be a statement, or around one: the name of a member that is
/// unknown, missing or there twice, but never a value, which may be somebody's id.
pub(super) fn shape_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let names_only = ["unknown field", "missing field", "duplicate field"];
    if names_only.iter().any(|start| text.starts_with(start)) {
        return text;
    }
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("a member has the wrong type or value, at column {}", error.column())
        }
        _ => format!("it is not JSON, from column {} on", error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn read(json: &str) -> Result<Statement, String> {
        let json = json.replace("KID", KID);
        let statement: Statement =
            serde_json::from_str(&json).map_err(|error| shape_error(&error))?;
        statement.check().map_err(|error| error.to_string())?;
        Ok(statement)
    }

    #[test]
    fn reads_common_and_own_policies() {
        let statement = read(
            r#"{"account": "a", "device": "d", "policy": {"sl": 2000, "persist": true},
                "keys": [{"kid": "KID", "title": "t", "content_group": "g"},
                         {"kid": "01234567-89ab-cdef-0123-456789abcdf0", "policy": {"sl": 150}}]}"#,
        )
        .unwrap();
        assert_eq!(statement.keys.len(), 2);
        assert!(read(r#"{"keys": [{"kid": "KID", "policy": {"sl": 150}}]}"#).is_ok());
    }

    #[test]
    fn refuses_by_name_what_it_does_not_know_or_misses() {
        for (json, named) in [
            (r#"{"acount": "a", "keys": []}"#, "`acount`"),
            (r#"{"keys": [{"kid": "KID", "polcy": {}}]}"#, "`polcy`"),
            (r#"{"keys": [{"kid": "KID", "policy": {"sl": 150, "persit": true}}]}"#, "`persit`"),
            (r#"{"account": "a"}"#, "`keys`"),
            (r#"{"keys": [{"policy": {"sl": 150}}]}"#, "`kid`"),
            (r#"{"keys": [{"kid": "KID", "policy": {"persist": true}}]}"#, "`sl`"),
            (r#"{"account": "a", "account": "b", "keys": []}"#, "`account`"),
            (r#"{"keys": []}"#, "keys must have 1 to 1000"),
            (r#"{"keys": [{"kid": "KID"}]}"#, KID),
            (r#"{"policy": {"sl": 150}, "keys": [{"kid": "KID"}, {"kid": "KID"}]}"#, "twice"),
        ] {
            let refused = read(json).err().unwrap_or_default();
            assert!(refused.contains(named), "{json}: {refused}");
        }
    }

    #[test]
    fn never_repeats_a_value() {
        let long = format!(r#"{{"account": "{}", "keys": []}}"#, "canary".repeat(50));
        let level = r#"{"keys": [{"kid": "KID", "policy": {"sl": "canary"}}]}"#;
        let kid = r#"{"keys": [{"kid": "canary"}]}"#;
        let not_json = r#"{"account": "canary"#;
        for json in [&long, level, kid, not_json, r#"{"account": "", "keys": []}"#] {
            let refused = read(json).err().unwrap_or_default();
            assert!(!refused.is_empty() && !refused.contains("canary"), "{json}: {refused}");
        }
    }
}
