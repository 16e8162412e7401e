//! The keys that tokens are verified with: a JSON Web Key Set (RFC 7517), which may change while the
//! service runs.
//!
//! The documentation of [`token`](super) says which keys are taken and for what.
//!
//! A file is read again at most once a second, a URL every `token.refresh_seconds` in the background;
//! both as soon as a token names a `kid` that is not there, a URL for that reason at most every
//! [`ASK_GAP_MS`]. What cannot be used is warned about, and the keys known stay.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use crate::clock::Clock;
use crate::config;
use crate::domain::Digest;
use crate::entitlement::EntitlementError;
use crate::outbound::{Outbound, Reach, Target};

/// Bytes of a key set, at most: hundreds of RSA keys.
const SET_BYTES_MAX: u64 = 256 * 1024;
/// How old the reading of a file may be.
const FILE_AGE_MS: i64 = 1_000;
/// How long to wait after a failed fetch, unless the refresh is due before.
const RETRY_MS: i64 = 30_000;
/// Least time between two fetches that tokens with an unknown `kid` cause: anybody can make those.
pub(super) const ASK_GAP_MS: u64 = 10_000;
/// Time for a key set to arrive. A request may have to wait for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A key and the one algorithm it is for.
pub(super) struct VerifyingKey {
    kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Why a key set cannot be used. Never shows what is in it.
#[derive(Debug, thiserror::Error)]
enum KeySetError {
    #[error("the file cannot be read")]
    File(#[source] std::io::Error),
    #[error("the server cannot be reached, or does not answer in time")]
    Fetch(#[source] Box<ureq::Error>),
    #[error("the server answered with status {0} and not 200")]
    Status(u16),
    #[error("it has more than {SET_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is not a JSON Web Key Set, an object with the member keys")]
    Shape,
    #[error("none of its keys can verify HS256, RS256, PS256, ES256 or EdDSA")]
    NoKey,
    #[error("two of its keys have the same kid")]
    RepeatedKid,
}

enum Source {
    File(PathBuf),
    Url(Outbound),
}

struct Known {
    keys: Vec<Arc<VerifyingKey>>,
    /// Of the bytes that the keys were read from.
    digest: Option<Digest>,
    /// When to look again.
    due_ms: i64,
    /// When an unknown `kid` last made us look.
    asked_ms: Option<i64>,
}

struct Inner {
    source: Source,
    clock: Clock,
    refresh_ms: i64,
    known: RwLock<Known>,
}

/// The keys in force.
pub(super) struct KeySet {
    inner: Arc<Inner>,
    /// Held by the one who fetches.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

impl KeySet {
    /// Reads or fetches the set that `config` names.
    pub(super) fn open(config: &config::Token, clock: Clock) -> Result<Self, EntitlementError> {
        let source = match (&config.keys_file, &config.keys_url) {
            (Some(path), _) => Source::File(path.clone()),
            (None, url) => Source::Url(Outbound::new(&Target {
                setting: "token.keys_url",
                url: url.as_deref().unwrap_or_default(),
                ca_setting: "token.ca",
                ca: config.ca.as_deref(),
                allow_http_setting: "token.allow_http",
                allow_http: config.allow_http,
                reach: Reach::Anywhere,
            })?),
        };
        let known = Known { keys: Vec::new(), digest: None, due_ms: 0, asked_ms: None };
        let inner = Arc::new(Inner {
            source,
            clock,
            refresh_ms: i64::from(config.refresh_seconds) * 1000,
            known: RwLock::new(known),
        });
        match (inner.load(), &inner.source) {
            (Err(error), Source::File(path)) => {
                let reason = error_text(&error);
                return Err(EntitlementError::KeySet { path: path.clone(), reason });
            }
            (Err(error), Source::Url(_)) => warn(&error),
            (Ok(()), _) => {}
        }
        Ok(Self { inner, fetching: Arc::default() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inner.read().keys.is_empty()
    }

    /// The key that a token with this `kid` has to be verified with.
    pub(super) async fn find(&self, kid: Option<&str>) -> Option<Arc<VerifyingKey>> {
        let now_ms = self.inner.clock.now().0;
        if self.inner.read().due_ms <= now_ms {
            self.look_again();
        }
        if let Some(key) = self.inner.lookup(kid) {
            return Some(key);
        }
        self.look_for_unknown(now_ms).await;
        self.inner.lookup(kid)
    }

    /// Reads the file, or starts to fetch the URL; who asks does not wait for that.
    fn look_again(&self) {
        if let Source::File(_) = self.inner.source {
            return self.inner.load_or_warn();
        }
        if let Ok(turn) = Arc::clone(&self.fetching).try_lock_owned() {
            let inner = Arc::clone(&self.inner);
            tokio::task::spawn_blocking(move || {
                inner.load_or_warn();
                drop(turn);
            });
        }
    }

    /// Reads the file, or fetches the URL unless that was done for the same reason a moment ago.
    async fn look_for_unknown(&self, now_ms: i64) {
        if let Source::File(_) = self.inner.source {
            return self.inner.load_or_warn();
        }
        let turn = Arc::clone(&self.fetching).lock_owned().await;
        {
            let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
            // A clock that was set back must not keep us from asking.
            if known.asked_ms.is_some_and(|asked_ms| now_ms.abs_diff(asked_ms) < ASK_GAP_MS) {
                return;
            }
            known.asked_ms = Some(now_ms);
        }
        let inner = Arc::clone(&self.inner);
        let fetched = tokio::task::spawn_blocking(move || {
            inner.load_or_warn();
            drop(turn);
        });
        if fetched.await.is_err() {
            tracing::error!("fetching the token key set panicked");
        }
    }
}

impl Inner {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lookup(&self, kid: Option<&str>) -> Option<Arc<VerifyingKey>> {
        let known = self.read();
        match (kid, known.keys.as_slice()) {
            (None, [only]) => Some(Arc::clone(only)),
            (None, _) => None,
            (Some(_), keys) => keys.iter().find(|key| key.kid.as_deref() == kid).cloned(),
        }
    }

    fn load_or_warn(&self) {
        if let Err(error) = self.load() {
            warn(&error);
        }
    }

    /// Reads the set from where it is, and puts it in force if it can be used.
    fn load(&self) -> Result<(), KeySetError> {
        let read = match &self.source {
            Source::File(path) => read_file(path),
            Source::Url(url) => fetch(url),
        };
        let digest = read.as_deref().ok().map(Digest::of);
        let unchanged = digest.is_some() && self.read().digest == digest;
        let keys = if unchanged { Ok(None) } else { read.and_then(|set| parse(&set)).map(Some) };
        let wait_ms = match (&self.source, &keys) {
            (Source::File(_), _) => FILE_AGE_MS,
            (Source::Url(_), Ok(_)) => self.refresh_ms,
            (Source::Url(_), Err(_)) => self.refresh_ms.min(RETRY_MS),
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.due_ms = self.clock.now().0.saturating_add(wait_ms);
        if let Some(keys) = keys? {
            tracing::info!(keys = keys.len(), "a key set to verify tokens with is in force");
            known.keys = keys;
            known.digest = digest;
        }
        Ok(())
    }
}

fn warn(error: &KeySetError) {
    let reason = error_text(error);
    tracing::warn!(%reason, "the token key set cannot be used, known keys stay: {reason}");
}

/// An error and its cause in one line.
fn error_text(error: &KeySetError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Small and local, so that a worker may wait for it.
fn read_file(path: &Path) -> Result<Vec<u8>, KeySetError> {
    let file = std::fs::File::open(path).map_err(KeySetError::File)?;
    let mut set = Vec::new();
    file.take(SET_BYTES_MAX + 1).read_to_end(&mut set).map_err(KeySetError::File)?;
    if set.len() as u64 > SET_BYTES_MAX { Err(KeySetError::TooLarge) } else { Ok(set) }
}

fn fetch(url: &Outbound) -> Result<Vec<u8>, KeySetError> {
    match url.get(SET_BYTES_MAX, FETCH_TIMEOUT) {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(KeySetError::Status(answer.status)),
        Err(ureq::Error::BodyExceedsLimit(_)) => Err(KeySetError::TooLarge),
        Err(error) => Err(KeySetError::Fetch(Box::new(error))),
    }
}

fn parse(set: &[u8]) -> Result<Vec<Arc<VerifyingKey>>, KeySetError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Jwk>,
    }
    let set: Set = serde_json::from_slice(set).map_err(|_| KeySetError::Shape)?;
    let keys: Vec<_> = set.keys.iter().filter_map(verifying_key).map(Arc::new).collect();
    if keys.is_empty() {
        return Err(KeySetError::NoKey);
    }
    let mut kids = HashSet::new();
    if keys.iter().filter_map(|key| key.kid.as_deref()).any(|kid| !kids.insert(kid)) {
        return Err(KeySetError::RepeatedKid);
    }
    Ok(keys)
}

/// The key, if it is one that tokens may be verified with.
fn verifying_key(jwk: &Jwk) -> Option<VerifyingKey> {
    let operations = jwk.common.key_operations.as_ref();
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption))
        || operations.is_some_and(|listed| !listed.contains(&KeyOperations::Verify))
    {
        return None;
    }
    let stated = jwk.common.key_algorithm;
    let has_bytes = |text: &str, fits: fn(usize) -> bool| {
        BASE64URL_NOPAD.decode(text.as_bytes()).is_ok_and(|bytes| fits(bytes.len()))
    };
    let algorithm = match (&jwk.algorithm, stated) {
        (AlgorithmParameters::OctetKey(key), None | Some(KeyAlgorithm::HS256)) => {
            has_bytes(&key.value, |length| length >= 32).then_some(Algorithm::HS256)
        }
        (AlgorithmParameters::RSA(key), stated) => {
            let algorithm = match stated {
                None | Some(KeyAlgorithm::RS256) => Some(Algorithm::RS256),
                Some(KeyAlgorithm::PS256) => Some(Algorithm::PS256),
                Some(_) => None,
            };
            algorithm.filter(|_| has_bytes(&key.n, |length| length >= 256))
        }
        (AlgorithmParameters::EllipticCurve(key), None | Some(KeyAlgorithm::ES256)) => {
            let fits = key.curve == EllipticCurve::P256
                && [&key.x, &key.y].iter().all(|c| has_bytes(c, |length| length == 32));
            fits.then_some(Algorithm::ES256)
        }
        (AlgorithmParameters::OctetKeyPair(key), None | Some(KeyAlgorithm::EdDSA)) => {
            let fits =
                key.curve == EllipticCurve::Ed25519 && has_bytes(&key.x, |length| length == 32);
            fits.then_some(Algorithm::EdDSA)
        }
        _ => None,
    }?;
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(VerifyingKey { kid: jwk.common.key_id.clone(), algorithm, key })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Validation, decode};
    use serde_json::{Value, json};

    use super::*;

    fn algorithms(keys: &[Value]) -> Result<Vec<Algorithm>, String> {
        let set = json!({ "keys": keys }).to_string();
        let keys = parse(set.as_bytes()).map_err(|error| error.to_string())?;
        Ok(keys.iter().map(|key| key.algorithm).collect())
    }

    fn b64(length: usize) -> String {
        BASE64URL_NOPAD.encode(&vec![0xA5; length])
    }

    /// The keys and signatures of RFC 7515, appendix A.1 and A.3.
    #[test]
    fn verifies_the_published_examples() {
        const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtc\
            GxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let examples = [
            (
                json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75\
                    aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}),
                "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
            (
                json!({"kty": "EC", "crv": "P-256",
                    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
                "eyJhbGciOiJFUzI1NiJ9",
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-K\
                 g6NU1Q",
            ),
        ];
        for (jwk, header, signature) in examples {
            let set = json!({ "keys": [jwk] }).to_string();
            let [key] = &parse(set.as_bytes()).unwrap()[..] else { panic!("not one key") };
            let mut validation = Validation::new(key.algorithm);
            validation.validate_exp = false;
            validation.required_spec_claims.clear();
            let read = |token: String| decode::<Value>(token, &key.key, &validation);
            let claims = read(format!("{header}.{CLAIMS}.{signature}")).unwrap().claims;
            assert_eq!(claims["iss"], "joe");
            assert!(read(format!("{header}.{CLAIMS}x.{signature}")).is_err());
        }
    }

    #[test]
    fn a_key_has_the_algorithm_it_names_or_else_that_of_its_type() {
        let rsa = |alg: Value| json!({"kty": "RSA", "n": b64(256), "e": "AQAB", "alg": alg});
        let ec = json!({"kty": "EC", "crv": "P-256", "x": b64(32), "y": b64(32)});
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(32)});
        let oct = json!({"kty": "oct", "k": b64(32)});
        let all = [rsa(Value::Null), rsa("RS256".into()), rsa("PS256".into()), ec, ed, oct];
        let expected = {
            use Algorithm::{ES256, EdDSA, HS256, PS256, RS256};
            vec![RS256, RS256, PS256, ES256, EdDSA, HS256]
        };
        assert_eq!(algorithms(&all), Ok(expected));
    }

    #[test]
    fn passes_over_keys_that_are_weak_or_of_another_kind() {
        let others = [
            json!({"kty": "RSA", "n": b64(255), "e": "AQAB"}),
            json!({"kty": "RSA", "n": b64(256), "e": "AQAB", "alg": "RS512"}),
            json!({"kty": "RSA", "n": b64(256), "e": "AQAB", "alg": "HS256"}),
            json!({"kty": "RSA", "n": b64(256), "e": "AQAB", "use": "enc"}),
            json!({"kty": "EC", "crv": "P-384", "x": b64(48), "y": b64(48)}),
            json!({"kty": "EC", "crv": "P-256", "x": b64(32), "y": b64(31)}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": b64(31)}),
            json!({"kty": "oct", "k": b64(31)}),
            json!({"kty": "oct", "k": b64(32), "alg": "HS512"}),
            json!({"kty": "oct", "k": b64(32), "key_ops": ["sign"]}),
            json!({"kty": "oct", "k": b64(32), "key_ops": []}),
            json!({"kty": "RSA", "n": b64(256), "e": "AQAB", "key_ops": ["encrypt", "wrapKey"]}),
            json!({"kty": "new", "x": "y"}),
        ];
        assert_eq!(algorithms(&others), Err(KeySetError::NoKey.to_string()));
        let mut with_one = others.to_vec();
        with_one.push(json!({"kty": "oct", "k": b64(32), "use": "sig"}));
        with_one.push(json!({"kty": "oct", "k": b64(32), "key_ops": ["sign", "verify", "own"]}));
        assert_eq!(algorithms(&with_one), Ok(vec![Algorithm::HS256; 2]));
    }

    #[test]
    fn refuses_sets_that_are_none_or_ambiguous() {
        for set in ["", "[]", "{}", r#"{"keys": {}}"#] {
            assert!(matches!(parse(set.as_bytes()), Err(KeySetError::Shape)), "{set}");
        }
        let twice = json!({"kty": "oct", "k": b64(32), "kid": "a"});
        assert_eq!(algorithms(&[twice.clone(), twice]), Err(KeySetError::RepeatedKid.to_string()));
    }
}
