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
//! | `keys` | the KIDs that may be licensed |
//! | `keys[].kid` | the KID as a GUID |
//! | `keys[].policy` | its own policy, instead of the common one |
//! | `keys[].key_type` | `aesctr` or `aescbc`, if the service knows; refused if another is recorded |
//! | `keys[].seed` | id of the key seed that gives the KID its key, if it has none and no seed gave it one before |
//! | `keys[].root` | KID of the root under which the license is a leaf |
//! | `keys[].title`, `keys[].content_group` | how the service names what the key is for |
//! | `roots` | the roots that may be licensed, with the members of `keys` but `key_type` and `root` |
//!
//! All but `keys` and `kid` may be left out, as long as every key has a policy. `keys` and `roots`
//! have 1 to [`LICENSES_MAX`] members together, each KID once, so that all that a statement allows can
//! be granted at once. Ids and names have 1 to [`NAME_BYTES_MAX`](crate::domain::name::NAME_BYTES_MAX)
//! bytes, not all of them spaces, and no control characters. Members that are not listed are refused
//! by name.
//!
//! A policy whose members contradict each other, are out of range, or ask for what is not offered (a
//! domain) is refused as `invalid_policy`, with the member named. `sl` has no default, so that nobody
//! gets 150 by leaving it out: a policy that states 150 is one for tests, or for Clear Key, whose
//! clients have no other level.
//!
//! A license may be stored if its policy says `"persist": true`. A request may ask for less: custom
//! data that is a JSON object with `"persistent": false` gets licenses that are not stored. A member
//! of another type is refused as `invalid_cfg`, with the member named.
//!
//! **Chains** (section 5.5 of the license protocol page). Whoever gets a leaf gets its root in the
//! same response, if `roots` has it; else the device has to hold it already. A root is also licensed
//! when it is asked for itself, which renews it. Root and leaf have the same persistence.
//!
//! ```json
//! {"policy": {"sl": 2000, "persist": true},
//!  "roots": [{"kid": "aaaaaaaa-0000-0000-0000-000000000001", "seed": "2027",
//!             "policy": {"sl": 2000, "persist": true, "end": 1798761600}}],
//!  "keys": [{"kid": "01234567-89ab-cdef-0123-456789abcdef",
//!            "root": "aaaaaaaa-0000-0000-0000-000000000001"}]}
//! ```

use std::collections::HashSet;

use serde::Deserialize;
use uuid::Uuid;

use super::{Asked, AskedType, Entitled, Grant, LICENSES_MAX, NotEntitled, StatedType, key_of};
use crate::domain::event::Chain;
use crate::domain::{Digest, KeyId, Name};
use crate::keys::Keys;
use crate::playready::content_key::KeyType;
use crate::playready::kid::Kid;
use crate::playready::policy::{LicensePolicy, Refusal as PolicyRefusal};
use crate::playready::soap::{Fault, Refusal};

/// What the service says. Holds ids of people and devices: no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Statement {
    account: Option<Name>,
    device: Option<Name>,
    policy: Option<LicensePolicy>,
    #[serde(default)]
    roots: Vec<StatedRoot>,
    #[serde(default)]
    keys: Vec<StatedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedKey {
    kid: Uuid,
    policy: Option<LicensePolicy>,
    key_type: Option<KeyType>,
    seed: Option<Name>,
    root: Option<Uuid>,
    title: Option<Name>,
    content_group: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedRoot {
    kid: Uuid,
    policy: Option<LicensePolicy>,
    seed: Option<Name>,
    title: Option<Name>,
    content_group: Option<Name>,
}

/// A key or a root.
struct Stated<'a> {
    kid: Uuid,
    policy: &'a LicensePolicy,
    key_type: Option<KeyType>,
    seed: Option<&'a str>,
    part: Part,
    title: Option<&'a Name>,
    content_group: Option<&'a Name>,
}

/// What a license is in a chain.
#[derive(Clone, Copy)]
enum Part {
    Alone,
    Root,
    LeafOf(Uuid),
}

/// A statement contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidStatement {
    /// Too few or too many keys.
    #[error("keys and roots must have 1 to {LICENSES_MAX} members")]
    KeyCount,
    /// A KID comes twice.
    #[error("keys and roots name the KID {0} twice")]
    RepeatedKid(Uuid),
    /// There is no policy for a key.
    #[error("the key {0} has no policy, and there is no common one")]
    NoPolicy(Uuid),
    /// A leaf and its root differ in persistence.
    #[error("the key {0} and its root must both be persistent, or neither")]
    RootPersistence(Uuid),
}

impl Statement {
    /// Checks what its shape alone does not.
    pub(super) fn check(&self) -> Result<(), InvalidStatement> {
        if !(1..=LICENSES_MAX).contains(&(self.keys.len() + self.roots.len())) {
            return Err(InvalidStatement::KeyCount);
        }
        let keys = self.keys.iter().map(|key| (key.kid, &key.policy));
        let roots = self.roots.iter().map(|root| (root.kid, &root.policy));
        let mut seen = HashSet::new();
        for (kid, policy) in keys.chain(roots) {
            if !seen.insert(kid) {
                return Err(InvalidStatement::RepeatedKid(kid));
            }
            if policy.is_none() && self.policy.is_none() {
                return Err(InvalidStatement::NoPolicy(kid));
            }
        }
        let persists = |kid| self.find(kid).map(|stated| stated.policy.persist);
        for StatedKey { kid, root, .. } in &self.keys {
            let root_persists = root.and_then(persists);
            if root_persists.is_some() && root_persists != persists(*kid) {
                return Err(InvalidStatement::RootPersistence(*kid));
            }
        }
        Ok(())
    }

    /// What it says of a KID.
    fn find(&self, kid: Uuid) -> Option<Stated<'_>> {
        if let Some(key) = self.keys.iter().find(|key| key.kid == kid) {
            return Some(Stated {
                kid,
                policy: key.policy.as_ref().or(self.policy.as_ref())?,
                key_type: key.key_type,
                seed: key.seed.as_ref().map(Name::as_str),
                part: key.root.map_or(Part::Alone, Part::LeafOf),
                title: key.title.as_ref(),
                content_group: key.content_group.as_ref(),
            });
        }
        self.find_root(kid)
    }

    /// What it says of the KID of a root.
    fn find_root(&self, kid: Uuid) -> Option<Stated<'_>> {
        let root = self.roots.iter().find(|root| root.kid == kid)?;
        Some(Stated {
            kid,
            policy: root.policy.as_ref().or(self.policy.as_ref())?,
            key_type: None,
            seed: root.seed.as_ref().map(Name::as_str),
            part: Part::Root,
            title: root.title.as_ref(),
            content_group: root.content_group.as_ref(),
        })
    }

    /// The licenses for those of the KIDs asked for that the statement covers and that have a key,
    /// and for the roots of those that are leaves.
    ///
    /// # Errors
    /// [`Refusal::NotEntitled`] if it covers none, [`Refusal::KeyUnknown`] if there is a key for
    /// none that it covers, and what a policy or the content's header does not allow; or a failure
    /// of ours.
    pub(super) fn grant(
        self,
        asked: &Asked<'_>,
        keys: &Keys,
        authorized_by: &'static str,
        spends: Option<Digest>,
    ) -> Result<Grant, NotEntitled> {
        let covered: Vec<_> = asked.kids.iter().filter_map(|kid| self.find(kid.guid())).collect();
        if covered.is_empty() {
            let detail = "what the service says covers none of the KIDs asked for";
            let refusal = Refusal::NotEntitled { reason: None };
            return Err(Fault::refused_because(refusal, detail).into());
        }
        let mut licenses = Vec::with_capacity(covered.len());
        for stated in &covered {
            licenses.extend(self.license(stated, asked, keys)?);
        }
        if licenses.is_empty() {
            return Err(Fault::refused(Refusal::KeyUnknown { kids: asked.kids.to_vec() }).into());
        }
        self.add_roots(&mut licenses, asked, keys)?;
        Ok(Grant {
            licenses,
            transaction_id: None,
            authorized_by,
            account: self.account.map(String::from),
            device: self.device.map(String::from),
            spends,
        })
    }

    /// Adds the roots that leaves need and that are not asked for, and puts all roots first.
    fn add_roots(
        &self,
        licenses: &mut Vec<Entitled>,
        asked: &Asked<'_>,
        keys: &Keys,
    ) -> Result<(), NotEntitled> {
        if self.roots.is_empty() {
            return Ok(());
        }
        let mut needed = Vec::new();
        for license in licenses.iter() {
            if let Some(Chain::Leaf { root_key_id: KeyId(root), .. }) = license.chain
                && !needed.contains(&root)
                && !licenses.iter().any(|other| other.kid.guid() == root)
            {
                needed.push(root);
            }
        }
        for root in needed.into_iter().filter_map(|root| self.find_root(root)) {
            licenses.extend(self.license(&root, asked, keys)?);
        }
        licenses.sort_by_key(|license| license.chain != Some(Chain::Root));
        Ok(())
    }

    /// The license for a key or root; `None` if there is no key for it.
    fn license(
        &self,
        stated: &Stated<'_>,
        asked: &Asked<'_>,
        keys: &Keys,
    ) -> Result<Option<Entitled>, NotEntitled> {
        let kid = Kid::from(stated.kid);
        let Some((key, source)) = key_of(kid, stated.seed, keys)? else { return Ok(None) };
        let allowed = stated.policy.persist;
        let requested_persistent = asked.wishes_persistent()?.unwrap_or(allowed);
        let persist = allowed && requested_persistent;
        let policy = LicensePolicy { persist, ..stated.policy.clone() };
        check(&policy).map_err(Fault::refused)?;
        let key_type = AskedType {
            stated: stated.key_type.map(StatedType::Statement),
            header: asked.header_key_type(kid)?,
        };
        asked.note_checksum(kid, key_type.unrecorded(), &key);
        let name = |name: Option<&Name>| name.map(|name| name.as_str().to_owned());
        Ok(Some(Entitled {
            kid,
            policy,
            requested_persistent,
            key_type,
            key,
            source,
            chain: self.chain(stated.part, keys)?,
            title: name(stated.title),
            content_group: name(stated.content_group),
        }))
    }

    fn chain(&self, part: Part, keys: &Keys) -> Result<Option<Chain>, NotEntitled> {
        let root = match part {
            Part::Alone => return Ok(None),
            Part::Root => return Ok(Some(Chain::Root)),
            Part::LeafOf(root) => root,
        };
        let seed = self.find_root(root).and_then(|stated| stated.seed);
        let (_, root_key_source) = key_of(Kid::from(root), seed, keys)?.ok_or_else(|| {
            let refusal = Refusal::KeyUnknown { kids: vec![Kid::from(root)] };
            Fault::refused_because(refusal, "there is no key for the root of a leaf")
        })?;
        Ok(Some(Chain::Leaf { root_key_id: KeyId(root), root_key_source }))
    }
}

/// Refuses what no license has, and what is not offered here.
fn check(policy: &LicensePolicy) -> Result<(), Refusal> {
    policy.check().map_err(PolicyRefusal::from)?;
    if policy.domain.is_some() {
        let detail = "domain: there are no domains on this server".to_owned();
        return Err(Refusal::InvalidPolicy { detail });
    }
    Ok(())
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
            (r#"{"account": "a"}"#, "keys and roots"),
            (r#"{"roots": [{"kid": "KID", "root": "KID"}]}"#, "`root`"),
            (
                r#"{"policy": {"sl": 150}, "keys": [{"kid": "KID"}], "roots": [{"kid": "KID"}]}"#,
                "twice",
            ),
            (r#"{"roots": [{"kid": "KID"}]}"#, "has no policy"),
            (
                r#"{"policy": {"sl": 150}, "keys": [{"kid": "01234567-89ab-cdef-0123-456789abcdf0",
                    "root": "KID"}], "roots": [{"kid": "KID", "policy": {"sl": 150, "persist": true}}]}"#,
                "must both be persistent",
            ),
            (r#"{"keys": [{"policy": {"sl": 150}}]}"#, "`kid`"),
            (r#"{"keys": [{"kid": "KID", "policy": {"persist": true}}]}"#, "`sl`"),
            (r#"{"account": "a", "account": "b", "keys": []}"#, "`account`"),
            (r#"{"keys": []}"#, "keys and roots must have 1 to 250"),
            (r#"{"keys": [{"kid": "KID"}]}"#, KID),
            (r#"{"policy": {"sl": 150}, "keys": [{"kid": "KID"}, {"kid": "KID"}]}"#, "twice"),
        ] {
            let refused = read(json).err().unwrap_or_default();
            assert!(refused.contains(named), "{json}: {refused}");
        }
    }

    #[test]
    fn keys_and_roots_are_together_no_more_than_one_request_is_granted() {
        let read_with = |keys: u128, roots: u128| {
            let listed = |from: u128, count: u128| {
                let kid = |n| serde_json::json!({ "kid": Uuid::from_u128(n) });
                (from..from + count).map(kid).collect::<Vec<_>>()
            };
            let statement = serde_json::json!({
                "policy": {"sl": 2000}, "keys": listed(1, keys), "roots": listed(5000, roots),
            });
            read(&statement.to_string()).map(drop)
        };
        for (keys, roots) in [(1, 0), (0, 1), (250, 0), (249, 1)] {
            assert_eq!(read_with(keys, roots), Ok(()), "{keys} and {roots}");
        }
        let refused = Err("keys and roots must have 1 to 250 members".to_owned());
        for (keys, roots) in [(0, 0), (251, 0), (0, 251), (250, 1)] {
            assert_eq!(read_with(keys, roots), refused, "{keys} and {roots}");
        }
    }

    #[test]
    fn never_repeats_a_value() {
        let long = format!(r#"{{"account": "{}", "keys": []}}"#, "canary".repeat(50));
        let level = r#"{"keys": [{"kid": "KID", "policy": {"sl": "canary"}}]}"#;
        let kid = r#"{"keys": [{"kid": "canary"}]}"#;
        let not_json = r#"{"account": "canary"#;
        let line = r#"{"account": "canary\n", "keys": [{"kid": "KID", "policy": {"sl": 150}}]}"#;
        let blank = r#"{"device": " ", "keys": [{"kid": "KID", "policy": {"sl": 150}}]}"#;
        let empty = r#"{"account": "", "keys": [{"kid": "KID", "policy": {"sl": 150}}]}"#;
        for json in [&long, level, kid, not_json, line, blank, empty] {
            let refused = read(json).err().unwrap_or_default();
            assert!(!refused.is_empty() && !refused.contains("canary"), "{json}: {refused}");
        }
    }
}
