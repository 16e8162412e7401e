//! May this be issued, and with which policy?
//!
//! One of three answers, chosen by the configuration:
//!
//! - [`Open`]: the test mode of a license server. Every verified device is served, and the policy
//!   string of the request says how.

mod open;

use std::net::IpAddr;

use uuid::Uuid;

use crate::domain::event::{Chain, KeySource};
use crate::domain::{DeviceRef, Digest, Identity, KeyId};
use crate::keys::{Keys, Source};
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::header::HeaderKey;
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;
use crate::playready::soap::{Fault, FaultCode};

pub use open::Open;

/// Who says what may be issued.
pub enum Entitlement {
    /// The request itself.
    Open(Open),
}

/// What a request for licenses asks for. Nothing of it is trusted but [`Asker`].
pub struct Asked<'a> {
    /// The query string of the URL it was posted to.
    pub query: &'a str,
    /// The credentials of its `Authorization: Bearer` header.
    pub bearer: Option<&'a str>,
    /// Its custom data, decoded.
    pub custom_data: Option<&'a str>,
    /// What its content header says of keys; empty where a protocol has no such header.
    pub header_keys: &'a [HeaderKey],
    /// The KIDs it asks for in their order, each once.
    pub kids: &'a [Kid],
    /// Who asks.
    pub asker: Asker<'a>,
}

/// What is known about who asks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The DRM system, as events name it.
    pub drm_system: &'static str,
    /// Who signed the request, in protocols that sign.
    pub identity: Option<Identity>,
    /// The device that the ledger has the identity for, if it was looked up.
    pub device: Option<&'a DeviceRef>,
    /// Security level of the certificate.
    pub security_level: Option<u32>,
    /// Maker, model name and number of the certificate.
    pub model: Option<&'a str>,
    /// Version text the client sent.
    pub client_version: Option<&'a str>,
    /// The client's clock in Unix seconds. Data, never authority.
    pub client_time: Option<u64>,
    /// Names of the features that the client has.
    pub features: &'a [String],
    /// SHA-256 of what was signed, which names one request however often it is sent.
    pub request_sha256: Option<Digest>,
    /// The address that the request came from; behind a proxy, the proxy's.
    pub ip: Option<IpAddr>,
}

/// Licenses that may be issued, in the order of the response, and for whom.
pub struct Grant {
    /// The licenses; at least one.
    pub licenses: Vec<Entitled>,
    /// The transaction id that the entitlement chose, if it did.
    pub transaction_id: Option<Uuid>,
    /// What authorized them, as events name it.
    pub authorized_by: &'static str,
    /// The account that pays, as the service calls it. Never to be stored as it is.
    pub account: Option<String>,
    /// The device that the service says this is, as it calls it. Never to be stored as it is.
    pub device: Option<String>,
    /// What this grant uses up: a grant that names the same to another request is refused.
    pub spends: Option<Digest>,
}

/// A license that may be issued.
pub struct Entitled {
    /// The KID.
    pub kid: Kid,
    /// The policy, before it is fitted to the client.
    pub policy: LicensePolicy,
    /// Whether the request asked for a persistent license.
    pub requested_persistent: bool,
    /// How the key encrypts.
    pub key_type: KeyType,
    /// The content key.
    pub key: ContentKey,
    /// Where the content key came from.
    pub source: KeySource,
    /// What it is in a chain of licenses, if it does not stand alone. Roots come before all else.
    pub chain: Option<Chain>,
    /// The title, as the service names it.
    pub title: Option<String>,
    /// The content group, as the service names it.
    pub content_group: Option<String>,
}

impl Entitlement {
    /// What the request may have.
    ///
    /// # Errors
    /// The fault to answer.
    pub async fn grant(&self, asked: &Asked<'_>, keys: &Keys) -> Result<Grant, Fault> {
        match self {
            Self::Open(open) => open.grant(asked, keys),
        }
    }
}

/// The content key of a KID and where it comes from: a key of its own, the seed that gave it one
/// before, the seed that is `named`, or the default seed. `None` if there is none of these.
///
/// # Errors
/// The seed that is named, or that gave it a key before, is not registered.
fn key_of(
    kid: Kid,
    named: Option<&str>,
    keys: &Keys,
) -> Result<Option<(ContentKey, KeySource)>, Fault> {
    let failed = |detail: String| Fault::new(FaultCode::Internal, detail);
    let source = keys.source(KeyId(kid.guid()), named);
    Ok(match source.map_err(|missing| failed(missing.to_string()))? {
        None => None,
        Some(Source::Registered(key)) => Some((ContentKey::new(*key), KeySource::Registered)),
        Some(Source::Seed { seed_id, seed }) => {
            let seed = KeySeed::new(&seed).map_err(|short| failed(short.to_string()))?;
            Some((seed.content_key(kid), KeySource::Seed { seed_id }))
        }
    })
}
