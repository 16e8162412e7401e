//! Test mode: the request says what it wants.

use super::{Asked, Entitled, Grant};
use crate::domain::event::KeySource;
use crate::keys::Keys;
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::header::AlgId;
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;
use crate::playready::policy::cfg::{self, Group, KidChoice, Scripted};
use crate::playready::policy::{LicensePolicy, Refusal as PolicyRefusal};
use crate::playready::soap::{Fault, FaultCode, Refusal};

/// What a device is called that neither signs its requests nor names itself.
const ANONYMOUS: &str = "anonymous";
/// Longest name that a request gives a device, in characters. Shorter than an identity in text, by
/// which the ledger calls devices that nobody named: nobody can pass for one of those.
const NAME_MAX: usize = 63;

/// Serves every verified device as the policy string of its request says (section 10 of the
/// license protocol page).
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Open {
    /// What the request may have. Keys come from the request, else from the registered content
    /// keys, else from a registered key seed, else from the seed that is published for tests.
    /// A device that does not sign is the one that `device=NAME` in the query says, or `anonymous`.
    ///
    /// # Errors
    /// The fault to answer: no KID, a policy string that is malformed or contradicts itself, or
    /// one that asks for what is not offered.
    pub fn grant(&self, asked: &Asked<'_>, keys: &Keys) -> Result<Grant, Fault> {
        let groups = cfg::from_request(asked.query, asked.custom_data).map_err(refused)?;
        cfg::check_header_kids(&groups, asked.kids.len()).map_err(refused)?;
        if let Some(scripted) = cfg::scripted(&groups) {
            return Err(act_out(scripted));
        }
        let mut licenses = Vec::new();
        for group in &groups {
            refuse_unoffered(group)?;
            let policy = group.policy(None).map_err(refused)?;
            let kids = match &group.kid {
                KidChoice::Header => asked.kids,
                KidChoice::Kid(kid) => std::slice::from_ref(kid),
            };
            for kid in kids {
                licenses.push(entitled(*kid, group, &policy, asked, keys)?);
            }
        }
        if licenses.is_empty() {
            return Err(Fault::refused(Refusal::NoKid));
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
    policy: &LicensePolicy,
    asked: &Asked<'_>,
    keys: &Keys,
) -> Result<Entitled, Fault> {
    let (key, source) = match (&group.content_key, &group.key_seed) {
        (Some(key), _) => (key.clone(), KeySource::Request),
        (None, Some(seed)) => (seed.content_key(kid), KeySource::Request),
        (None, None) => key_of(kid, keys)?,
    };
    let key_type = group.key_type(header_key_type(kid, asked)?).map_err(refused)?;
    note_checksum(kid, key_type, &key, asked);
    Ok(Entitled {
        kid,
        policy: policy.clone(),
        requested_persistent: policy.persist,
        key_type,
        key,
        source,
        title: None,
        content_group: None,
    })
}

/// The type the header gives a KID's key; CTR when it says nothing.
fn header_key_type(kid: Kid, asked: &Asked<'_>) -> Result<KeyType, Fault> {
    let entry = asked.header_keys.iter().find(|key| key.kid == kid);
    match entry.and_then(|key| key.algid) {
        Some(AlgId::Cocktail) => Err(Fault::refused(Refusal::UnsupportedKeyType)),
        Some(AlgId::AesCbc) => Ok(KeyType::AesCbc),
        Some(AlgId::AesCtr) | None => Ok(KeyType::AesCtr),
    }
}

/// A header whose checksum is not that of our key was made with another one: worth a line, never a
/// refusal (section 12).
fn note_checksum(kid: Kid, key_type: KeyType, key: &ContentKey, asked: &Asked<'_>) {
    let entry = asked.header_keys.iter().find(|entry| entry.kid == kid);
    let stated = entry.and_then(|entry| entry.checksum.as_deref());
    if key_type == KeyType::AesCtr && stated.is_some_and(|stated| stated != key.checksum(kid)) {
        tracing::warn!(%kid, "the header's checksum is not that of our content key for {kid}");
    }
}

/// The key of a KID that the request names no key for.
fn key_of(kid: Kid, keys: &Keys) -> Result<(ContentKey, KeySource), Fault> {
    let found = super::key_of(kid, None, keys)?;
    Ok(found.unwrap_or_else(|| {
        (KeySeed::PUBLISHED_TEST.content_key(kid), KeySource::PublishedTestSeed)
    }))
}

/// What a request asks for in place of licenses.
fn act_out(scripted: Scripted) -> Fault {
    match scripted {
        Scripted::Fault(code) => {
            Fault::new(FaultCode::from_number(code), "the policy string asked for this fault")
        }
        Scripted::Revoked => {
            Fault::new(FaultCode::DeviceRevoked, "the policy string asked for this fault")
        }
        Scripted::ClientInfo => unoffered("msg"),
    }
}

/// Keys of the grammar that this server reads and does not act on are refused, not passed over.
fn refuse_unoffered(group: &Group) -> Result<(), Fault> {
    let asked_for = [
        ("isroot", group.root),
        ("rootid", group.root_kid.is_some()),
        ("accountid", group.account_id.is_some()),
    ];
    match asked_for.into_iter().find(|(_, asked)| *asked) {
        Some((key, _)) => Err(unoffered(key)),
        None => Ok(()),
    }
}

fn unoffered(key: &str) -> Fault {
    Fault::refused(Refusal::InvalidCfg { detail: format!("{key}: not offered by this server") })
}

fn refused(refusal: PolicyRefusal) -> Fault {
    Fault::refused(refusal.into())
}
