//! May this be issued, and with which policy?
//!
//! One of three answers, chosen by the configuration:
//!
//! - [`Open`]: the test mode of a license server. Every verified device is served, and the policy
//!   string of the request says how.
//! - [`Token`]: a token that the service signed and its app passes on.
//! - [`Callback`]: the service itself, asked about each request.
//!
//! What the service says has the same shape in both, a [`statement`]. KIDs without a key, and those
//! that it does not cover, are left out.

pub mod callback;
mod open;
pub mod statement;
pub mod token;

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use uuid::Uuid;

use crate::domain::event::{Chain, KeySource};
use crate::domain::{DeviceRef, Digest, Identity, KeyId};
use crate::keys::{Keys, Missing, Source};
use crate::outbound::OutboundError;
use crate::outbound::signing::InvalidSecret;
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::header::{AlgId, HeaderKey};
use crate::playready::key_seed::{KeySeed, KeySeedTooShort};
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;
use crate::playready::soap::{Fault, Refusal};

pub use callback::Callback;
pub use open::Open;
pub use token::Token;

/// Licenses that one request is granted at most: all events of a grant go into one append, and the
/// sealing of its licenses keeps nobody else waiting for long.
pub const LICENSES_MAX: usize = 250;

/// What authorizes requests cannot be put together. Every text names the setting or file to mend.
#[derive(Debug, thiserror::Error)]
pub enum EntitlementError {
    /// A server cannot be asked.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// A key set cannot be used.
    #[error("cannot use {}, the file of token.keys_file: {reason}", path.display())]
    KeySet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A secret is not in the form of a webhook secret.
    #[error("cannot use {}, the file of callback.secret_file: {source}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidSecret,
    },
}

/// Why a request gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotEntitled {
    /// An answer of the protocol.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A failure of ours.
    #[error(transparent)]
    Failed(#[from] KeyFailure),
}

/// The key of a KID that has one cannot be had here.
#[derive(Debug, thiserror::Error)]
pub enum KeyFailure {
    /// It, or the seed that it comes from, is not in the key store.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The seed that it comes from cannot be used.
    #[error(transparent)]
    Seed(#[from] KeySeedTooShort),
}

/// Who says what may be issued.
pub enum Entitlement {
    /// The request itself.
    Open(Open),
    /// A token in the request.
    Token(Token),
    /// The service's answer to a callback.
    Callback(Callback),
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
    /// The licenses: 1 to [`LICENSES_MAX`].
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
    /// How the key encrypts, as far as the request goes.
    pub key_type: AskedType,
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

/// What a request says of how a key encrypts. What is recorded of the key comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedType {
    /// What the entitlement states itself, which must not contradict the record.
    pub stated: Option<StatedType>,
    /// What the content's header says; the client wrote it.
    pub header: Option<KeyType>,
}

/// A type that an entitlement states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatedType {
    /// By `ckt` of the policy string.
    PolicyString(KeyType),
    /// By `key_type` of a [statement].
    Statement(KeyType),
}

impl StatedType {
    fn key_type(self) -> KeyType {
        match self {
            Self::PolicyString(key_type) | Self::Statement(key_type) => key_type,
        }
    }
}

impl AskedType {
    /// The type, where nothing is recorded.
    pub fn unrecorded(self) -> KeyType {
        self.stated.map(StatedType::key_type).or(self.header).unwrap_or(KeyType::AesCtr)
    }

    /// The type of the key of `kid`, of which this is recorded.
    ///
    /// # Errors
    /// What the entitlement states contradicts the record.
    pub fn settle(self, kid: Kid, recorded: Option<KeyType>) -> Result<KeyType, Refusal> {
        let Some(recorded) = recorded else { return Ok(self.unrecorded()) };
        let detail = |field| format!("{field}: the key of {kid} is for {} only", recorded.name());
        match self.stated {
            Some(StatedType::PolicyString(stated)) if stated != recorded => {
                Err(Refusal::InvalidCfg { detail: detail("ckt") })
            }
            Some(StatedType::Statement(stated)) if stated != recorded => {
                Err(Refusal::InvalidPolicy { detail: detail("key_type") })
            }
            _ => Ok(recorded),
        }
    }
}

impl Entitlement {
    /// What the request may have.
    ///
    /// # Errors
    /// The fault to answer, or a failure of ours.
    pub async fn grant(&self, asked: &Asked<'_>, keys: &Keys) -> Result<Grant, NotEntitled> {
        match self {
            Self::Open(open) => open.grant(asked, keys),
            Self::Token(token) => token.grant(asked, keys).await,
            Self::Callback(callback) => callback.grant(asked, keys).await,
        }
    }

    /// Whether somebody else is asked, so that it is worth while to ask only about what was not
    /// granted before, and to tell what the ledger knows.
    pub fn asks_others(&self) -> bool {
        matches!(self, Self::Callback(_))
    }

    /// Whether it can authorize anything at present; why not, without ids or secrets.
    pub fn ready(&self) -> Result<(), String> {
        match self {
            Self::Token(token) => token.ready(),
            Self::Open(_) | Self::Callback(_) => Ok(()),
        }
    }
}

/// Custom data that is a JSON object; other members are other people's. Each is read when it is
/// needed, so that a wrong one hides no other.
#[derive(Default, Deserialize)]
struct CustomObject<'a> {
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    persistent: Option<&'a RawValue>,
}

impl Asked<'_> {
    /// The token in custom data, header or query; the first that is there.
    ///
    /// # Errors
    /// The member of the custom data is not a string.
    fn token(&self) -> Result<Option<Cow<'_, str>>, Fault> {
        let custom_data = self.custom_data.map(str::trim);
        let raw = custom_data.filter(|text| is_compact_jws(text)).map(Cow::Borrowed);
        let member = match raw {
            Some(_) => None,
            None => member(self.custom_object()?.token, "token: must be a string")?,
        };
        let query = || self.query.split('&').find_map(|pair| pair.strip_prefix("token="));
        let token = raw
            .or(member.map(Cow::Owned))
            .or(self.bearer.map(Cow::Borrowed))
            .or_else(|| query().map(Cow::Borrowed));
        Ok(token.filter(|token| !token.is_empty()))
    }

    /// Whether custom data asks for licenses to be stored; `None` if it does not say.
    ///
    /// # Errors
    /// The member of the custom data is not a boolean.
    fn wishes_persistent(&self) -> Result<Option<bool>, Fault> {
        member(self.custom_object()?.persistent, "persistent: must be true or false")
    }

    /// Custom data that is no JSON object has no members.
    ///
    /// # Errors
    /// It has a member twice.
    fn custom_object(&self) -> Result<CustomObject<'_>, Fault> {
        let object = self.custom_data.filter(|text| text.trim_start().starts_with('{'));
        match object.map(serde_json::from_str) {
            Some(Ok(object)) => Ok(object),
            Some(Err(error)) if error.is_data() => {
                Err(invalid_custom_data(&format!("custom_data: {error}")))
            }
            Some(Err(_)) | None => Ok(CustomObject::default()),
        }
    }

    /// Refuses what nobody needs to be asked about: there can be a key for none of the KIDs.
    ///
    /// # Errors
    /// [`Refusal::NoKid`] and [`Refusal::KeyUnknown`].
    fn check_kids(&self, keys: &Keys) -> Result<(), Fault> {
        if self.kids.is_empty() {
            return Err(Fault::refused(Refusal::NoKid));
        }
        if !self.kids.iter().any(|kid| keys.may_have(KeyId(kid.guid()))) {
            return Err(Fault::refused(Refusal::KeyUnknown { kids: self.kids.to_vec() }));
        }
        Ok(())
    }

    /// The type the header gives a KID's key, if it gives one.
    fn header_key_type(&self, kid: Kid) -> Result<Option<KeyType>, Fault> {
        let entry = self.header_keys.iter().find(|key| key.kid == kid);
        match entry.and_then(|key| key.algid) {
            Some(AlgId::Cocktail) => Err(Fault::refused(Refusal::UnsupportedKeyType)),
            Some(AlgId::AesCbc) => Ok(Some(KeyType::AesCbc)),
            Some(AlgId::AesCtr) => Ok(Some(KeyType::AesCtr)),
            None => Ok(None),
        }
    }

    /// A header whose checksum is not that of our key was made with another one: worth a line,
    /// never a refusal (section 12).
    fn note_checksum(&self, kid: Kid, key_type: KeyType, key: &ContentKey) {
        let entry = self.header_keys.iter().find(|entry| entry.kid == kid);
        let stated = entry.and_then(|entry| entry.checksum.as_deref());
        if key_type == KeyType::AesCtr && stated.is_some_and(|stated| stated != key.checksum(kid)) {
            tracing::warn!(%kid, "the header's checksum is not that of our content key for {kid}");
        }
    }
}

/// A member of custom data; `must` names it and says of which type it has to be.
fn member<T: DeserializeOwned>(value: Option<&RawValue>, must: &str) -> Result<Option<T>, Fault> {
    let read = value.map(|value| serde_json::from_str(value.get())).transpose();
    read.map_err(|_| invalid_custom_data(must))
}

fn invalid_custom_data(detail: &str) -> Fault {
    let refusal = Refusal::InvalidCfg { detail: detail.to_owned() };
    Fault::refused_because(refusal, format_args!("in the custom data, {detail}"))
}

/// Three parts in the alphabet of base64url: a JWS in its compact form (RFC 7515, section 7.1).
fn is_compact_jws(text: &str) -> bool {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().filter(|byte| *byte == b'.').count() == 2 && text.bytes().all(in_alphabet)
}

/// The content key of a KID and where it comes from: a key of its own, the seed that gave it one
/// before, the seed that is `named`, or the default seed. `None` if there is none of these.
///
/// # Errors
/// Its own key is missing, or the seed that is named or that gave it a key before.
fn key_of(
    kid: Kid,
    named: Option<&str>,
    keys: &Keys,
) -> Result<Option<(ContentKey, KeySource)>, KeyFailure> {
    Ok(match keys.source(KeyId(kid.guid()), named)? {
        None => None,
        Some(Source::Registered(key)) => Some((ContentKey::new(*key), KeySource::Registered)),
        Some(Source::Seed { seed_id, seed }) => {
            let seed = KeySeed::new(&seed)?;
            Some((seed.content_key(kid), KeySource::Seed { seed_id }))
        }
    })
}
