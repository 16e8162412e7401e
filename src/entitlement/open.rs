//! Test mode: the request says what it wants.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use subtle::ConstantTimeEq;

use super::{
    Asked, AskedType, Asker, Entitled, Grant, KeyFailure, LICENSES_MAX, NotEntitled, StatedType,
};
use crate::domain::KeyId;
use crate::domain::event::{Chain, KeySource};
use crate::keys::Keys;
use crate::playready::content_key::ContentKey;
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;
use crate::playready::policy::cfg::{self, Group, KidChoice, Scripted};
use crate::playready::policy::{BinaryId, LicensePolicy, Refusal as PolicyRefusal};
use crate::playready::soap::{ClientInfo, Fault, FaultCode, Refusal};

/// What a device is called that neither signs its requests nor names itself.
const ANONYMOUS: &str = "anonymous";
/// Longest name that a request gives a device, in characters. Shorter than an identity in text, by
/// which the ledger calls devices that nobody named: nobody can pass for one of those.
const NAME_MAX: usize = 63;

/// Serves every verified device as the policy string of its request says (section 10 of the
/// license protocol page).
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    /// The metering id of the secure stop service; without one, `securestop` is refused.
    pub secure_stop_id: Option<BinaryId>,
}

impl Open {
    /// What the request may have. Keys come from the request, else from the registered content
    /// keys, else from a registered key seed, else from the seed that is published for tests;
    /// those of roots as well. A device that does not sign is the one that `device=NAME` in the
    /// query says, or `anonymous`.
    ///
    /// # Errors
    /// The fault to answer: no KID or more licenses than [`LICENSES_MAX`], a policy string that is
    /// malformed or contradicts itself, or one that asks for what is not offered; and what the
    /// string asks for in place of licenses. Or a failure of ours.
    pub fn grant(&self, asked: &Asked<'_>, keys: &Keys) -> Result<Grant, NotEntitled> {
        let groups = cfg::from_request(asked.query, asked.custom_data).map_err(refused)?;
        cfg::check_header_kids(&groups, asked.kids.len()).map_err(refused)?;
        if let Some(scripted) = cfg::scripted(&groups) {
            return Err(act_out(scripted, &asked.asker).into());
        }
        check_count(&groups, asked.kids)?;
        let mut licenses = Vec::new();
        for group in &groups {
            if group.account_id.is_some() {
                return Err(invalid("accountid: there are no domains on this server").into());
            }
            let policy = group.policy(self.secure_stop_id).map_err(refused)?;
            let chain = chain(group, &groups, keys)?;
            for kid in kids_of(group, asked.kids) {
                licenses.push(entitled(*kid, group, (&policy, &chain), asked, keys)?);
            }
        }
        if licenses.is_empty() {
            return Err(Fault::refused(Refusal::NoKid).into());
        }
        if groups.len() > 1 {
            one_key_for_each_kid(&licenses)?;
            licenses.sort_by_key(|license| license.chain != Some(Chain::Root));
        }
        let device = match asked.asker.identity {
            Some(_) => None,
            None => Some(named_device(asked.query)?),
        };
        let transaction_id = groups.iter().find_map(|group| group.transaction_id);
        Ok(Grant {
            licenses,
            transaction_id,
            authorized_by: "open",
            account: None,
            device,
            spends: None,
        })
    }
}

/// The KIDs of a group.
fn kids_of<'a>(group: &'a Group, header: &'a [Kid]) -> &'a [Kid] {
    match &group.kid {
        KidChoice::Header => header,
        KidChoice::Kid(kid) => std::slice::from_ref(kid),
    }
}

/// Refuses what is more than one response has, before there is any work on it.
fn check_count(groups: &[Group], header: &[Kid]) -> Result<(), Fault> {
    let count: usize = groups.iter().map(|group| kids_of(group, header).len()).sum();
    if count <= LICENSES_MAX {
        return Ok(());
    }
    Err(invalid(format!(
        "kid: {count} licenses are asked for, and one request is granted at most {LICENSES_MAX}; \
         ask for fewer KIDs at once"
    )))
}

fn named_device(query: &str) -> Result<String, Fault> {
    let name = query.split('&').find_map(|parameter| parameter.strip_prefix("device="));
    let name = name.unwrap_or(ANONYMOUS);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if (1..=NAME_MAX).contains(&name.len()) && name.chars().all(plain) {
        return Ok(name.to_owned());
    }
    let detail = format!("device: must be 1 to {NAME_MAX} letters, digits, -, ., _ or ~");
    Err(Fault::refused(Refusal::InvalidCfg { detail }))
}

fn entitled(
    kid: Kid,
    group: &Group,
    (policy, chain): (&LicensePolicy, &Option<Chain>),
    asked: &Asked<'_>,
    keys: &Keys,
) -> Result<Entitled, NotEntitled> {
    let (key, source) = group_key(kid, group, keys)?;
    let key_type = AskedType {
        stated: group.key_type().map_err(refused)?.map(StatedType::PolicyString),
        header: asked.header_key_type(kid)?,
    };
    asked.note_checksum(kid, key_type.unrecorded(), &key);
    Ok(Entitled {
        kid,
        policy: policy.clone(),
        requested_persistent: policy.persist,
        key_type,
        key,
        source,
        chain: chain.clone(),
        title: None,
        content_group: None,
    })
}

/// What the licenses of a group are in a chain. A root that is not in the request is one that the
/// device holds, or the ledger refuses the leaf.
fn chain(group: &Group, groups: &[Group], keys: &Keys) -> Result<Option<Chain>, KeyFailure> {
    let Some(root_kid) = group.root_kid else {
        return Ok(group.root.then_some(Chain::Root));
    };
    let (_, root_key_source) = match cfg::root_group(groups, root_kid) {
        Some(root) => group_key(root_kid, root, keys)?,
        None => key_of(root_kid, keys)?,
    };
    Ok(Some(Chain::Leaf { root_key_id: KeyId(root_kid.guid()), root_key_source }))
}

/// A KID has one key, which is for one mode of AES (section 11).
fn one_key_for_each_kid(licenses: &[Entitled]) -> Result<(), Fault> {
    let mut seen = HashMap::<Kid, &Entitled>::new();
    for license in licenses {
        let Entitled { kid, key, key_type, .. } = license;
        let first = *seen.entry(*kid).or_insert(license);
        if !bool::from(first.key.ct_eq(key)) {
            return Err(invalid(format!("kid: two content keys for {kid}")));
        }
        if first.key_type.unrecorded() != key_type.unrecorded() {
            return Err(invalid(format!("ckt: the key of {kid} cannot be of two types")));
        }
    }
    Ok(())
}

/// The key of a KID: the one that its group names, else the one that is known here.
fn group_key(kid: Kid, group: &Group, keys: &Keys) -> Result<(ContentKey, KeySource), KeyFailure> {
    let key = match (&group.content_key, &group.key_seed) {
        (Some(key), _) => key.clone(),
        (None, Some(seed)) => seed.content_key(kid),
        (None, None) => return key_of(kid, keys),
    };
    let check_value = Some(HEXLOWER.encode(&key.checksum(kid)));
    Ok((key, KeySource::Request { check_value }))
}

/// The key of a KID that the request names no key for.
fn key_of(kid: Kid, keys: &Keys) -> Result<(ContentKey, KeySource), KeyFailure> {
    let found = super::key_of(kid, None, keys)?;
    Ok(found.unwrap_or_else(|| {
        (KeySeed::PUBLISHED_TEST.content_key(kid), KeySource::PublishedTestSeed)
    }))
}

/// What a request asks for in place of licenses.
fn act_out(scripted: Scripted, asker: &Asker<'_>) -> Fault {
    let detail = "the policy string asked for this fault";
    match scripted {
        Scripted::Fault(code) => Fault::new(FaultCode::from_number(code), detail),
        Scripted::Revoked => Fault::new(FaultCode::DeviceRevoked, detail),
        Scripted::ClientInfo => Fault::refused(Refusal::ClientInfo(Box::new(ClientInfo {
            client_version: asker.client_version.map(str::to_owned),
            client_time: asker.client_time,
            features: asker.features.to_vec(),
            security_level: asker.security_level,
            device: asker.identity.map(|identity| identity.to_string()),
        }))),
    }
}

fn invalid(detail: impl Into<String>) -> Fault {
    Fault::refused(Refusal::InvalidCfg { detail: detail.into() })
}

fn refused(refusal: PolicyRefusal) -> Fault {
    Fault::refused(refusal.into())
}
