//! Policy strings of the test server (section 10): what to issue, said by the client.
//!
//! Three forms of the same thing, at most one in a request:
//!
//! ```text
//! ?cfg=(k:v,…),(k:v,…)     one group per license set
//! ?cfg64=                  base64 of the JSON form
//! CustomData json=         [{"k":"v",…},…]; ' may stand for " throughout
//!
//! cfg   = group *("," group)
//! group = "(" [pair *("," pair)] ")"
//! pair  = key ":" value
//! value = 1*(%x21-7E except "(" ")" ",")  /  "(" item *("," item) ")"
//! item  = pair / value
//! ```
//!
//! Without any of them there is one group with every default. Both syntaxes become the same small
//! tree, which one table of keys reads. [`from_request`] also checks the combination rules of
//! section 11; [`Group::policy`] gives the conditions of the licenses.

mod groups;
mod keys;
mod syntax;

use std::borrow::Cow;
use std::sync::LazyLock;

use data_encoding::{BASE64, Encoding};
use uuid::Uuid;

use super::{BinaryId, Conflict, ExtendedRestriction, LicensePolicy, Refusal, SecurityLevel};
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::key_seed::KeySeed;
use crate::playready::kid::Kid;

pub use groups::{check_header_kids, root_group};

/// Characters in a policy string, at most.
pub const CFG_CHARACTERS_MAX: usize = 8192;
/// Groups in a policy string, at most.
pub const GROUPS_MAX: usize = 32;
/// Parentheses within parentheses, at most, those of the group included.
pub const NESTING_MAX: usize = 4;

/// Standard base64 that ignores unused trailing bits: published examples contain `Ah==`.
static LENIENT_BASE64: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE64.specification();
    specification.check_trailing_bits = false;
    specification.encoding().unwrap_or(BASE64)
});

/// One license set: which keys, and on which conditions. Holds secrets: no `Debug`.
pub struct Group {
    /// Which KIDs.
    pub kid: KidChoice,
    /// The legacy non-persistent type; issued as non-persistent.
    pub simple: bool,
    /// Keys are derived from this seed.
    pub key_seed: Option<KeySeed>,
    /// The key itself.
    pub content_key: Option<ContentKey>,
    /// How the content is encrypted; `None`: as the header says.
    pub content_key_type: Option<KeyTypeChoice>,
    /// TransactionID of the response.
    pub transaction_id: Option<Uuid>,
    /// The play right.
    pub play: bool,
    /// The read right, which is not issued.
    pub read: bool,
    /// The execute right, which is not issued.
    pub execute: bool,
    /// Rights outside the published ones, which are not issued.
    pub extended_rights: Vec<ExtendedRight>,
    /// These licenses are roots; `kid` names the root's KID.
    pub root: bool,
    /// These licenses are leaves of this root.
    pub root_kid: Option<Kid>,
    /// Answer with facts about the client instead.
    pub client_info: bool,
    /// Answer with this fault instead.
    pub error_code: Option<u32>,
    /// Answer as if the device were revoked instead.
    pub revoked: bool,
    /// Bind to the domain of this account.
    pub account_id: Option<BinaryId>,
    /// Ask for secure stop, with the configured metering id.
    pub secure_stop: bool,
    /// The other conditions; [`Group::policy`] completes them.
    conditions: LicensePolicy,
}

/// The KIDs of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KidChoice {
    /// Every KID of the header.
    Header,
    /// This one, which need not be in the header.
    Kid(Kid),
}

/// The values of `ckt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyTypeChoice {
    /// A content key.
    Content(KeyType),
    /// A published type that is not issued.
    KeyExchange,
}

/// A right outside the published ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedRight {
    /// Its number.
    pub kind: u16,
    /// Its restrictions.
    pub restrictions: Vec<ExtendedRestriction>,
}

/// What a group asks for in place of licenses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripted {
    /// The fault with this code.
    Fault(u32),
    /// The fault of a revoked device.
    Revoked,
    /// 8004C604 with facts about the client.
    ClientInfo,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            kid: KidChoice::Header,
            simple: false,
            key_seed: None,
            content_key: None,
            content_key_type: None,
            transaction_id: None,
            play: true,
            read: false,
            execute: false,
            extended_rights: Vec::new(),
            root: false,
            root_kid: None,
            client_info: false,
            error_code: None,
            revoked: false,
            account_id: None,
            secure_stop: false,
            conditions: LicensePolicy::new(SecurityLevel::Test),
        }
    }
}

/// Finds and reads the policy string of a request.
///
/// `query` is the raw query of the URL, without `?`; values are percent-decoded and `+` stays
/// `+`. `custom_data` is the CustomData of the challenge, decoded once.
///
/// # Errors
/// [`Refusal::InvalidCfg`], which names the key, for more than one policy string or a malformed
/// one; [`Refusal::InvalidPolicy`] for conditions that exclude each other.
pub fn from_request(query: &str, custom_data: Option<&str>) -> Result<Vec<Group>, Refusal> {
    let mut found = None;
    let mut only = |groups| match found.replace(groups) {
        None => Ok(()),
        Some(_) => Err(invalid("more than one policy string")),
    };
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.to_ascii_lowercase().as_str() {
            "cfg" => only(from_cfg(&percent_decoded(value)?)?)?,
            "cfg64" => only(from_cfg64(&percent_decoded(value)?)?)?,
            _ => {}
        }
    }
    if let Some(json) = custom_data.and_then(|text| text.strip_prefix("json=")) {
        only(from_json(json)?)?;
    }
    Ok(found.unwrap_or_else(|| vec![Group::default()]))
}

/// Reads the value of `cfg`, percent-decoded.
///
/// # Errors
/// As [`from_request`].
pub fn from_cfg(text: &str) -> Result<Vec<Group>, Refusal> {
    check_size(text)?;
    groups::read(syntax::parse(text)?)
}

/// Reads the value of `cfg64`, percent-decoded.
///
/// # Errors
/// As [`from_request`].
pub fn from_cfg64(text: &str) -> Result<Vec<Group>, Refusal> {
    check_size(text)?;
    let bytes = LENIENT_BASE64.decode(text.as_bytes()).map_err(|_| invalid("cfg64: not base64"))?;
    let json = String::from_utf8(bytes).map_err(|_| invalid("cfg64: not text"))?;
    from_json(&json)
}

/// Reads the JSON form.
///
/// # Errors
/// As [`from_request`].
pub fn from_json(text: &str) -> Result<Vec<Group>, Refusal> {
    check_size(text)?;
    let text = if text.contains('"') { Cow::from(text) } else { text.replace('\'', "\"").into() };
    groups::read(syntax::parse_json(&text)?)
}

/// What the groups ask for in place of licenses, to be looked at after the request has been
/// verified: an error code, then revoked, then facts about the client, in any group.
pub fn scripted(groups: &[Group]) -> Option<Scripted> {
    let fault = groups.iter().find_map(|group| group.error_code).map(Scripted::Fault);
    let revoked = groups.iter().any(|group| group.revoked).then_some(Scripted::Revoked);
    let client_info = groups.iter().any(|group| group.client_info).then_some(Scripted::ClientInfo);
    fault.or(revoked).or(client_info)
}

fn check_size(text: &str) -> Result<(), Refusal> {
    if text.len() > CFG_CHARACTERS_MAX {
        return Err(invalid("longer than 8192 characters"));
    }
    Ok(())
}

fn percent_decoded(text: &str) -> Result<String, Refusal> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.ok_or_else(|| invalid("wrong percent-encoding"))?);
        bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| invalid("wrong percent-encoding"))
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::InvalidCfg(detail.into())
}

/// A key in a refusal: visible ASCII, and not more of it than helps.
fn shown(key: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    key.chars().take(40).map(visible).collect()
}

#[cfg(test)]
mod tests;
