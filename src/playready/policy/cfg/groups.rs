//! From the tree of a policy string to groups, and the rules that concern several groups.

use std::collections::HashSet;

use super::keys::{BadEntry, canonical, may_repeat, set};
use super::syntax::{Item, Value};
use super::{
    BinaryId, Conflict, GROUPS_MAX, Group, KeyTypeChoice, Kid, KidChoice, LicensePolicy, Refusal,
    invalid, shown,
};
use crate::playready::content_key::KeyType;

/// Reads the groups of a policy string and checks section 11.
pub(super) fn read(items: Vec<Item>) -> Result<Vec<Group>, Refusal> {
    if !(1..=GROUPS_MAX).contains(&items.len()) {
        return Err(invalid("no group, or more than 32"));
    }
    let groups: Vec<Group> =
        items.iter().map(|item| Group::read(&item.value)).collect::<Result<_, _>>()?;
    for group in &groups {
        group.check(&groups)?;
    }
    let mut transaction_ids = groups.iter().filter_map(|group| group.transaction_id);
    if let Some(first) = transaction_ids.next()
        && transaction_ids.any(|other| other != first)
    {
        return Err(Conflict::TwoTransactionIds.into());
    }
    Ok(groups)
}

/// Checks the rule that needs the header: one content key is for one KID. `header_kids` is the
/// number of KIDs in the request's header.
///
/// # Errors
/// [`Conflict::ContentKeyNeedsOneKid`].
pub fn check_header_kids(groups: &[Group], header_kids: usize) -> Result<(), Refusal> {
    let many = |group: &Group| group.content_key.is_some() && group.kid == KidChoice::Header;
    if header_kids > 1 && groups.iter().any(many) {
        return Err(Conflict::ContentKeyNeedsOneKid.into());
    }
    Ok(())
}

/// The group that makes the root license for this KID. Where there is none, leaves need a root
/// that the device holds, and are refused as [`Conflict::RootMissing`] otherwise.
pub fn root_group(groups: &[Group], root_kid: Kid) -> Option<&Group> {
    groups.iter().find(|group| group.root && group.kid == KidChoice::Kid(root_kid))
}

impl Group {
    fn read(value: &Value) -> Result<Self, Refusal> {
        let Value::Items(entries) = value else {
            return Err(invalid("a group is not a list of keys and values"));
        };
        let mut group = Self::default();
        let mut seen = HashSet::new();
        for Item { key, value } in entries {
            let key = key.as_deref().ok_or_else(|| invalid("a value without a key"))?;
            let canonical = canonical(key);
            match set(&mut group, &canonical, value) {
                Ok(()) => {}
                Err(BadEntry::UnknownKey) => {
                    return Err(invalid(format!("{}: unknown key", shown(key))));
                }
                Err(BadEntry::BadValue) => {
                    return Err(invalid(format!("{}: wrong value", shown(key))));
                }
            }
            if !may_repeat(&canonical) && !seen.insert(canonical) {
                return Err(invalid(format!("{}: comes twice", shown(key))));
            }
        }
        Ok(group)
    }

    /// The conditions of this group's licenses. `secure_stop_id` is the configured metering id
    /// of the secure stop service.
    ///
    /// A domain binding is not among them: [`account_id`](Self::account_id) says that there must
    /// be one, and only the domain knows its revision.
    ///
    /// # Errors
    /// Rights that are not issued; secure stop without a configured metering id.
    pub fn policy(&self, secure_stop_id: Option<BinaryId>) -> Result<LicensePolicy, Refusal> {
        if !self.play || self.read || self.execute || !self.extended_rights.is_empty() {
            return Err(Refusal::UnsupportedRight);
        }
        let mut policy = self.conditions.clone();
        if self.secure_stop {
            let id = secure_stop_id
                .ok_or_else(|| invalid("securestop: the server has no metering id"))?;
            policy.secure_stop_id = Some(id);
        }
        Ok(policy)
    }

    /// The type of this group's keys, if it names one.
    ///
    /// # Errors
    /// A type that is not issued.
    pub fn key_type(&self) -> Result<Option<KeyType>, Refusal> {
        match self.content_key_type {
            None => Ok(None),
            Some(KeyTypeChoice::Content(key_type)) => Ok(Some(key_type)),
            Some(KeyTypeChoice::KeyExchange) => Err(Refusal::UnsupportedKeyType),
        }
    }

    fn check(&self, all: &[Self]) -> Result<(), Conflict> {
        let mut conditions = self.conditions.clone();
        // Which id it is does not matter to the rules.
        conditions.secure_stop_id = self.secure_stop.then_some(BinaryId([0; 16]));
        conditions.check()?;
        let rules = [
            (self.simple && conditions.persist, Conflict::SimpleIsNonPersistent),
            (self.root && self.kid == KidChoice::Header, Conflict::RootNeedsKid),
            (self.root && self.root_kid.is_some(), Conflict::RootWithRoot),
            (self.content_key.is_some() && self.key_seed.is_some(), Conflict::KeyAndSeed),
        ];
        if let Some((_, conflict)) = rules.into_iter().find(|(broken, _)| *broken) {
            return Err(conflict);
        }
        self.check_root(all)
    }

    fn check_root(&self, all: &[Self]) -> Result<(), Conflict> {
        let Some(root_kid) = self.root_kid else {
            return Ok(());
        };
        match root_group(all, root_kid) {
            Some(root) if root.conditions.persist != self.conditions.persist => {
                Err(Conflict::RootPersistence)
            }
            // Only the ledger knows whether the device holds one that is not there.
            _ => Ok(()),
        }
    }
}
