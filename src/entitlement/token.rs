//! A token of the service says what may be issued: a JWT (RFC 7519) that the service's back end signs
//! and its app passes on.
//!
//! The token is looked for in the custom data, as it is or as the member `token` of a JSON object;
//! then in the header `Authorization: Bearer`; then in the query, `?token=`. The first one found
//! counts: custom data comes first, because the device signs it. A member `token` that is no string is
//! refused as `invalid_cfg`.
//!
//! ```json
//! {"iss": "https://video.example", "aud": "license-ledger", "exp": 1798761600, "jti": "6f1c…",
//!  "license": {"account": "alice", "keys": [{"kid": "0123…", "policy": {"sl": 2000}}]}}
//! ```
//!
//! - `iss` and `aud` have to be those of the configuration; `aud` may be one of several.
//! - `exp` is required, `nbf` holds if it is there, both within the configured leeway.
//! - `jti` is required, and a grant spends it: the same challenge may come again and gets the same
//!   licenses, any other challenge is refused. A refusal spends nothing.
//! - `license` is a [statement](super::statement). Other claims are the service's own affair.
//!
//! The keys are a JSON Web Key Set (RFC 7517), a file or a URL, which may change while the service runs.
//! Each key has exactly one algorithm: the one its `alg` names, else the one its type stands for. A
//! token that names another is refused, so that nobody can pass off a public key as a shared secret.
//!
//! | `kty` | `alg` | without `alg` |
//! |---|---|---|
//! | `oct`, 32 bytes or more | HS256 | HS256 |
//! | `RSA`, 2048 bits or more | RS256, PS256 | RS256 |
//! | `EC`, P-256 | ES256 | ES256 |
//! | `OKP`, Ed25519 | EdDSA | EdDSA |
//!
//! A URL is `https`; it is `http` on this machine only, unless `token.allow_http` says otherwise:
//! whoever can replace the set can sign tokens.
//!
//! Keys of other kinds, for encryption for example, and those whose `key_ops` do not name `verify` are
//! passed over. A token without a `kid` is
//! verified if the set has one key only. A file is read again within a second of a change, a URL
//! every `token.refresh_seconds`; both at once when a token names a `kid` that is not there, a URL for
//! that reason at most every ten seconds. What cannot be used is warned about, and known keys stay.

mod keyset;

use std::borrow::Cow;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::statement::{InvalidStatement, Statement, shape_error};
use super::{Asked, EntitlementError, Grant, NotEntitled};
use crate::clock::Clock;
use crate::config;
use crate::domain::Digest;
use crate::keys::Keys;
use crate::playready::soap::{Fault, Refusal};
use keyset::KeySet;

/// The longest token that is read, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The longest `jti`, in bytes.
const JTI_BYTES_MAX: usize = 256;

/// Serves what a token says.
pub struct Token {
    keys: KeySet,
    issuer: String,
    audience: String,
    leeway_s: f64,
    clock: Clock,
}

/// The claims that are read. Holds ids of people and devices: no `Debug`.
#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Option<Cow<'a, str>>,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
    jti: Option<String>,
    license: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("there is no token in the custom data, the Authorization header or the query")]
    Missing,
    #[error("it is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is not a JWT with an accepted algorithm: HS256, RS256, PS256, ES256, EdDSA")]
    Unreadable,
    #[error("its header names extensions as critical (crit), and none is supported")]
    Critical,
    #[error("no key of the set has its kid, {0}")]
    UnknownKey(String),
    #[error("its algorithm is not that of its key")]
    Algorithm,
    #[error("its signature is wrong")]
    Signature,
    #[error("its claims are not of the form expected: {0}")]
    Shape(String),
    #[error("the claim {0} is missing")]
    NoClaim(&'static str),
    #[error("the claim {0} is not the configured one")]
    WrongClaim(&'static str),
    #[error("jti must have 1 to {JTI_BYTES_MAX} bytes")]
    Jti,
    #[error("it has expired (exp)")]
    Expired,
    #[error("it is not valid yet (nbf)")]
    NotYetValid,
    #[error("the claim license is not valid: {0}")]
    Statement(#[from] InvalidStatement),
}

impl TokenError {
    /// The `reason` that the device is told.
    fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            _ => "token_invalid",
        }
    }
}

impl From<TokenError> for Fault {
    fn from(error: TokenError) -> Self {
        let refusal = Refusal::not_entitled(error.reason());
        Self::refused_because(refusal, format_args!("the token is refused: {error}"))
    }
}

impl Token {
    /// Verifies tokens as `config` says. Reads or fetches the key set: a file has to be there and
    /// to hold keys; a server that does not answer is asked again later, and meanwhile the service
    /// is not ready. Blocks.
    pub fn open(config: &config::Token, clock: Clock) -> Result<Self, EntitlementError> {
        Ok(Self {
            keys: KeySet::open(config, clock.clone())?,
            issuer: config.issuer.clone().unwrap_or_default(),
            audience: config.audience.clone().unwrap_or_default(),
            leeway_s: f64::from(config.leeway_seconds),
            clock,
        })
    }

    /// Whether there are keys to verify tokens with.
    pub(super) fn ready(&self) -> Result<(), String> {
        if self.keys.is_empty() {
            return Err("no key to verify tokens with was fetched yet".to_owned());
        }
        Ok(())
    }

    pub(super) async fn grant(&self, asked: &Asked<'_>, keys: &Keys) -> Result<Grant, NotEntitled> {
        asked.check_kids(keys)?;
        let token = asked.token()?.ok_or(TokenError::Missing).map_err(Fault::from)?;
        let (statement, spends) = self.verify(&token).await.map_err(Fault::from)?;
        statement.grant(asked, keys, "token", Some(spends))
    }

    /// What the token says, and what a grant spends.
    async fn verify(&self, token: &str) -> Result<(Statement, Digest), TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let header = decode_header(token).map_err(|_| TokenError::Unreadable)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let Some(key) = self.keys.find(header.kid.as_deref()).await else {
            let kid = header.kid.unwrap_or_default();
            return Err(TokenError::UnknownKey(format!("{:.64?}", kid)));
        };
        if header.alg != key.algorithm {
            return Err(TokenError::Algorithm);
        }
        // Signature only: times are compared with the clock that is passed in.
        let mut validation = Validation::new(key.algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = decode::<Box<RawValue>>(token, &key.key, &validation);
        let claims = claims.map_err(|error| match error.kind() {
            ErrorKind::Json(error) => TokenError::Shape(shape_error(error)),
            _ => TokenError::Signature,
        })?;
        let shape = |error| TokenError::Shape(shape_error(&error));
        let claims: Claims<'_> = serde_json::from_str(claims.claims.get()).map_err(shape)?;
        let spends = self.check(&claims)?;
        let license = claims.license.ok_or(TokenError::NoClaim("license"))?;
        let statement: Statement = serde_json::from_str(license.get()).map_err(shape)?;
        statement.check()?;
        Ok((statement, spends))
    }

    /// Checks the registered claims; what remembers that the token is spent.
    fn check(&self, claims: &Claims<'_>) -> Result<Digest, TokenError> {
        let issuer = claims.iss.as_deref().ok_or(TokenError::NoClaim("iss"))?;
        if issuer != self.issuer {
            return Err(TokenError::WrongClaim("iss"));
        }
        let for_us = match claims.aud.as_ref().ok_or(TokenError::NoClaim("aud"))? {
            Audience::One(audience) => *audience == self.audience,
            Audience::Several(audiences) => audiences.contains(&self.audience),
        };
        if !for_us {
            return Err(TokenError::WrongClaim("aud"));
        }
        #[allow(clippy::cast_precision_loss)] // exact until the year 285,428,751
        let now_s = self.clock.now().0 as f64 / 1000.0;
        if now_s >= claims.exp.ok_or(TokenError::NoClaim("exp"))? + self.leeway_s {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|nbf| now_s + self.leeway_s < nbf) {
            return Err(TokenError::NotYetValid);
        }
        let jti = claims.jti.as_deref().ok_or(TokenError::NoClaim("jti"))?;
        if !(1..=JTI_BYTES_MAX).contains(&jti.len()) {
            return Err(TokenError::Jti);
        }
        Ok(Digest::of([issuer, "\0", jti].concat().as_bytes()))
    }
}
