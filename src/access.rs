//! Who may call the API: keys, their scopes, and how often.
//!
//! An API key is opaque text, shown once when it is made:
//!
//! ```text
//! llk_<key id>_<secret>
//!      |        52 characters: 256 random bits
//!      16 characters: 80 random bits, not secret, names the key in records and logs
//! ```
//!
//! Both parts are base32 (RFC 4648) in lower case without padding. What is kept is
//! HMAC-SHA-256(`api.key`, whole text), so that neither the log nor a backup of it lets anyone in.
//!
//! Nothing here persists anything: an [`ApiKeyRecord`] is a plain value that its owner appends to
//! the ledger and hands to a [`Registry`], again at every start.

mod key;
mod rate;
mod scope;
pub mod secrets;

pub use key::{ApiKeyId, ApiKeyRecord, ApiKeyText, InvalidName, KEY_RANDOM_BYTES};
pub use rate::{RateLimiter, TooFast};
pub use scope::{Scope, UnknownScope};

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use secrets::Secret;

/// The caller of a request, once its key has been found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Which key was shown.
    pub key_id: ApiKeyId,
    /// The label the key was made with.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
}

impl Principal {
    /// Whether the caller may do what `scope` stands for. [`Scope::Admin`] may do everything,
    /// since it can make itself a key with any scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// The request carries no key that is good at present.
///
/// One case and one text for absent, malformed, unknown, wrong and revoked keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request carries no valid API key; send the header Authorization: Bearer llk_…")]
pub struct Unauthenticated;

/// All API keys, in memory. Shared between threads by reference.
pub struct Registry {
    /// The content of `api.key`.
    key: hmac::Key,
    records: RwLock<HashMap<ApiKeyId, Arc<ApiKeyRecord>>>,
}

impl Registry {
    /// A registry without keys. `secret` is the content of `api.key`.
    pub fn new(secret: Secret) -> Self {
        Self { key: hmac::Key::new(HMAC_SHA256, secret.expose()), records: RwLock::default() }
    }

    /// Makes a key. It opens nothing until its record has been stored and handed to
    /// [`Registry::apply_created`].
    ///
    /// # Errors
    ///
    /// [`InvalidName`] unless `name` is 1 to 64 of `a-z 0-9 . _ -`.
    pub fn issue(
        &self,
        name: &str,
        scopes: BTreeSet<Scope>,
        now: UnixMillis,
        random: &[u8; KEY_RANDOM_BYTES],
    ) -> Result<(ApiKeyRecord, ApiKeyText), InvalidName> {
        key::check_name(name)?;
        let (id, text) = ApiKeyText::from_random(random);
        let record = ApiKeyRecord {
            id,
            name: name.to_owned(),
            hmac: text.authenticator(&self.key),
            scopes,
            created_at: now,
            revoked_at: None,
        };
        Ok((record, text))
    }

    /// Takes in a key that was stored. A key id that is already known keeps its first record.
    pub fn apply_created(&self, record: ApiKeyRecord) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.entry(record.id.clone()).or_insert_with(|| Arc::new(record));
    }

    /// Takes in that a key was revoked at `at`: from here on it opens nothing. An unknown id and
    /// a repeat change nothing.
    pub fn apply_revoked(&self, id: &ApiKeyId, at: UnixMillis) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(id) {
            Arc::make_mut(record).revoked_at.get_or_insert(at);
        }
    }

    /// Every key ever made, revoked ones included, oldest first.
    pub fn list(&self) -> Vec<ApiKeyRecord> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = records.values().map(|record| ApiKeyRecord::clone(record)).collect();
        list.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        list
    }

    /// Finds out who calls, from the value of the `Authorization` header.
    ///
    /// The text is authenticated in constant time, and the same work is done whether or not its
    /// key id exists.
    ///
    /// # Errors
    ///
    /// [`Unauthenticated`] unless the header is `Bearer` and a key that is live.
    pub fn authenticate(&self, authorization: Option<&str>) -> Result<Principal, Unauthenticated> {
        let text = authorization.and_then(bearer).ok_or(Unauthenticated)?;
        self.authenticate_text(text)
    }

    /// [The same](Self::authenticate) for clients that only know user and password: `Basic`, where
    /// the password is the key and any user name will do (RFC 7617).
    ///
    /// # Errors
    ///
    /// [`Unauthenticated`] unless the header is `Basic` or `Bearer` and a key that is live.
    pub fn authenticate_basic(
        &self,
        authorization: Option<&str>,
    ) -> Result<Principal, Unauthenticated> {
        match authorization.and_then(basic) {
            Some(password) => self.authenticate_text(&password),
            None => self.authenticate(authorization),
        }
    }

    fn authenticate_text(&self, text: &str) -> Result<Principal, Unauthenticated> {
        let (id, text) = ApiKeyText::parse(text).ok_or(Unauthenticated)?;
        let record = {
            let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
            records.get(&id).cloned()
        };
        let expected = record.as_ref().map_or(&NO_KEY, |record| &record.hmac);
        let genuine = text.is_authentic(&self.key, expected);
        match record {
            Some(record) if genuine && record.revoked_at.is_none() => Ok(Principal {
                key_id: id,
                name: record.name.clone(),
                scopes: record.scopes.clone(),
            }),
            _ => Err(Unauthenticated),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// The token of `Bearer <token>`; the scheme in any case (RFC 9110 section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The password of `Basic <base64 of user:password>`.
fn basic(header: &str) -> Option<Zeroizing<String>> {
    let (scheme, credentials) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(BASE64.decode(credentials.trim().as_bytes()).ok()?);
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Zeroizing::new(password.to_owned()))
}

/// Compared against when the key id is unknown; no text is known to have this authenticator.
const NO_KEY: [u8; 32] = [0; 32];

#[cfg(test)]
mod tests;
