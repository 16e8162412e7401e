//! Makes tokens, with nothing of what verifies them: JWS by hand, signatures by aws-lc.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaEncoding,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::service::NOW_S;

pub const ISSUER: &str = "https://video.example";
pub const AUDIENCE: &str = "license-ledger";

enum Key {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Signs tokens with one key.
pub struct Issuer {
    pub kid: String,
    algorithm: &'static str,
    key: Key,
}

impl Issuer {
    pub fn new(algorithm: &'static str, kid: &str) -> Self {
        let rsa = |encoding| Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), encoding);
        let key = match algorithm {
            "HS256" => Key::Secret(format!("a secret of {kid}, and it is long enough").into()),
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "ES256" => Key::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "EdDSA" => Key::Ed(Ed25519KeyPair::generate().unwrap()),
            other => panic!("no algorithm {other}"),
        };
        Self { kid: kid.to_owned(), algorithm, key }
    }

    /// The key in the form of RFC 7517; the secret itself for HS256.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Secret(secret) => json!({ "kty": "oct", "k": b64(secret) }),
            Key::Rsa(pair, _) => {
                let (n, e) = rsa_components(pair);
                json!({ "kty": "RSA", "n": b64(&n), "e": b64(&e) })
            }
            Key::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (b64(&point[1..33]), b64(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y })
            }
            Key::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref()) })
            }
        };
        jwk["kid"] = self.kid.as_str().into();
        jwk["alg"] = self.algorithm.into();
        jwk
    }

    /// What is public of an RSA key, in the forms in which it could be taken for a secret.
    pub fn public_forms(&self) -> Vec<Vec<u8>> {
        let Key::Rsa(pair, _) = &self.key else { panic!("no RSA key") };
        let (n, _) = rsa_components(pair);
        let der = pair.public_key().as_ref().to_vec();
        let base64 = data_encoding::BASE64.encode(&der);
        let pem =
            format!("-----BEGIN RSA PUBLIC KEY-----\n{base64}\n-----END RSA PUBLIC KEY-----\n");
        vec![b64(&n).into_bytes(), n, der, pem.into_bytes()]
    }

    pub fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm, "kid": self.kid, "typ": "JWT" });
        self.token_with(&header, claims)
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Key::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// Modulus and exponent, from the PKCS #1 form of a 2048-bit key.
fn rsa_components(pair: &RsaKeyPair) -> (Vec<u8>, Vec<u8>) {
    let der = pair.public_key().as_ref();
    assert_eq!(&der[..9], b"\x30\x82\x01\x0a\x02\x82\x01\x01\x00");
    assert_eq!(&der[265..], b"\x02\x03\x01\x00\x01");
    (der[9..265].to_vec(), vec![1, 0, 1])
}

/// An HS256 token with any bytes for the secret.
pub fn hmac_token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let key = Key::Secret(secret.to_vec());
    let issuer = Issuer { kid: String::new(), algorithm: "HS256", key };
    issuer.token_with(header, claims)
}

/// Claims that are good for an hour.
pub fn claims(jti: &str, license: Value) -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "exp": NOW_S + 3600, "nbf": NOW_S - 60, "iat": NOW_S - 60,
        "jti": jti, "license": license,
    })
}

/// The set of these issuers' keys.
pub fn key_set(issuers: &[&Issuer]) -> String {
    let keys: Vec<_> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}
