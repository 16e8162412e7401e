//! Signatures of [Standard Webhooks](https://www.standardwebhooks.com) 1.0.0.
//!
//! What is signed is `id.timestamp.body`: the message's id, the Unix seconds of the attempt, and the
//! body as sent. A message goes out with three headers: `webhook-id`, `webhook-timestamp`, and
//! `webhook-signature`, one signature for each key, separated by spaces.
//!
//! | key | secret as text | signature |
//! |---|---|---|
//! | HMAC-SHA-256 | `whsec_` and the base64 of 24 to 64 bytes | `v1,` and base64 |
//! | Ed25519 | `whsk_` and the base64 of the 32-byte seed; public: `whpk_` and base64 | `v1a,` and base64 |

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key that messages are signed with. It does not print.
pub enum SigningKey {
    /// HMAC-SHA-256: the receiver has the same secret.
    Shared(Zeroizing<Vec<u8>>),
    /// Ed25519: the receiver has the public key.
    Private(Ed25519KeyPair),
}

/// The text is no secret of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it does not hold a webhook secret; make one with: \
     printf 'whsec_%s\\n' \"$(head -c 32 /dev/urandom | base64 -w0)\""
)]
pub struct InvalidSecret;

impl SigningKey {
    /// Reads `whsec_…` or `whsk_…`; space around it does not matter.
    ///
    /// # Errors
    ///
    /// [`InvalidSecret`], which shows nothing of the text.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        let decode = |encoded: &str| {
            let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| InvalidSecret)?;
            Ok(Zeroizing::new(bytes))
        };
        if let Some(encoded) = text.strip_prefix("whsec_") {
            let bytes = decode(encoded)?;
            return (24..=64)
                .contains(&bytes.len())
                .then_some(Self::Shared(bytes))
                .ok_or(InvalidSecret);
        }
        let seed = decode(text.strip_prefix("whsk_").ok_or(InvalidSecret)?)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| InvalidSecret)?;
        Ok(Self::Private(pair))
    }

    /// The public key as text, where there is one.
    pub fn public(&self) -> Option<String> {
        match self {
            Self::Shared(_) => None,
            Self::Private(pair) => {
                Some(format!("whpk_{}", BASE64.encode(pair.public_key().as_ref())))
            }
        }
    }

    /// The signature of a message, its scheme before it.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        match self {
            Self::Shared(secret) => {
                let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret);
                let Ok(mut mac) = mac else { unreachable!("HMAC takes keys of any length") };
                for part in parts {
                    mac.update(part);
                }
                format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()))
            }
            Self::Private(pair) => {
                format!("v1a,{}", BASE64.encode(pair.sign(&parts.concat()).as_ref()))
            }
        }
    }
}

/// The value of `webhook-signature`: a signature by each key.
pub fn signatures(keys: &[SigningKey], id: &str, timestamp: &str, body: &[u8]) -> String {
    let signatures = keys.iter().map(|key| key.sign(id, timestamp, body));
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: &str = "1614265330";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    /// The examples of the Standard Webhooks reference libraries; the keys are those of their tests.
    #[test]
    fn signs_as_the_published_examples_do() {
        let shared = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let private =
            SigningKey::parse("whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=").unwrap();
        let both = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= \
                    v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==";
        assert_eq!(signatures(&[shared, private], ID, TIMESTAMP, BODY), both);
    }

    /// The first key pair of RFC 8032, section 7.1.
    #[test]
    fn shows_the_public_key_of_a_private_one() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let bytes = |hex: &str| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        let key = SigningKey::parse(&format!("whsk_{}", BASE64.encode(&bytes(seed)))).unwrap();
        assert_eq!(key.public().unwrap(), format!("whpk_{}", BASE64.encode(&bytes(public))));
        let shared = format!("whsec_{}", BASE64.encode(&[1; 32]));
        assert_eq!(SigningKey::parse(&shared).unwrap().public(), None);
    }

    #[test]
    fn refuses_what_is_no_webhook_secret() {
        let shared = |bytes: &[u8]| format!("whsec_{}", BASE64.encode(bytes));
        let private = |bytes: &[u8]| format!("whsk_{}", BASE64.encode(bytes));
        for text in [
            "",
            "whsec_",
            "whsk_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_*",
            "whsk_*",
            &shared(&[1; 23]),
            &shared(&[1; 65]),
            &private(&[1; 31]),
            &private(&[1; 33]),
            &format!("whpk_{}", BASE64.encode(&[1; 32])),
        ] {
            assert_eq!(SigningKey::parse(text).err(), Some(InvalidSecret), "{text}");
        }
        assert!(SigningKey::parse(&shared(&[1; 24])).is_ok());
        assert!(SigningKey::parse(&shared(&[1; 64])).is_ok());
    }
}
