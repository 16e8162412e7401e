//! Wrapping content keys for the packagers that may have them (CPIX 2.3, "Key Management").
//!
//! ```text
//! content key   AES-256-CBC under the document key; IV || ciphertext, padded as XML Encryption says
//! MAC           HMAC-SHA-512 over IV || ciphertext under the MAC key
//! document key  32 random bytes of this document, RSA-OAEP (SHA-1, MGF1) for each certificate
//! MAC key       64 random bytes of this document, likewise
//! ```
//!
//! **Who is trusted.** A certificate counts if the same certificate, byte for byte, lies in the
//! configured folder as a PEM file: it needs no issuer, and taking the file away ends the trust. It
//! must be valid at the time, and its key RSA of 2048 bits or more. Without a folder no certificate
//! is trusted. Only public-key operations are done here.

use std::path::{Path, PathBuf};

use aes::Aes256;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use rsa::pkcs8::DecodePublicKey;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::{PaddingScheme, PublicKeyParts};
use rsa::{Oaep, RsaPublicKey};
use sha1::Sha1;
use sha2::Sha512;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::keys::ContentKey;

/// Why no key is wrapped for a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not an X.509 certificate.
    #[error("is not an X.509 certificate in base64 of DER")]
    Unreadable,
    /// Not among the trusted ones.
    #[error("is not one of the packagers' certificates that this server trusts")]
    Untrusted,
    /// Its time has not come, or is over.
    #[error("is not valid at present, but from {from} to {to}")]
    Expired {
        /// First moment, RFC 3339.
        from: String,
        /// Last moment, RFC 3339.
        to: String,
    },
    /// Its key is of another kind, or too short.
    #[error("has no RSA key of 2048 to 8192 bits")]
    Key,
}

/// The folder of trusted certificates cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The folder or a file in it.
    #[error("cannot read {}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds no certificates.
    #[error("{} is not a PEM file of certificates", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
    },
}

/// The certificates that keys may be wrapped for.
#[derive(Default)]
pub struct Trusted(Vec<Vec<u8>>);

impl Trusted {
    /// Reads every file of `folder` whose name ends in `.pem`, `.crt` or `.cer`.
    ///
    /// # Errors
    /// [`TrustError`]: an unreadable file could be the one that is missed.
    pub fn read(folder: &Path) -> Result<Self, TrustError> {
        let failed = |path: &Path, source| TrustError::Io { path: path.to_owned(), source };
        let mut trusted = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
            let path = entry.map_err(|error| failed(folder, error))?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if !matches!(extension, Some("pem" | "crt" | "cer")) {
                continue;
            }
            let pem = std::fs::read(&path).map_err(|error| failed(&path, error))?;
            let not_pem = || TrustError::NotPem { path: path.clone() };
            let chain = Certificate::load_pem_chain(&pem).map_err(|_| not_pem())?;
            if chain.is_empty() {
                return Err(not_pem());
            }
            for certificate in chain {
                trusted.push(certificate.to_der().map_err(|_| not_pem())?);
            }
        }
        Ok(Self(trusted))
    }

    /// The key of a certificate, if keys may be wrapped for it at `now`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn check(&self, der: &[u8], now: UnixMillis) -> Result<Recipient, CertificateError> {
        use CertificateError::{Expired, Key, Unreadable, Untrusted};
        let certificate = Certificate::from_der(der).map_err(|_| Unreadable)?;
        if !self.0.iter().any(|trusted| trusted == der) {
            return Err(Untrusted);
        }
        let certificate = certificate.tbs_certificate();
        let validity = certificate.validity();
        let [from, to] = [validity.not_before, validity.not_after].map(|time| {
            let ms = time.to_unix_duration().as_millis();
            UnixMillis(i64::try_from(ms).unwrap_or(i64::MAX))
        });
        if now < from || now > to {
            return Err(Expired { from: from.to_rfc3339(), to: to.to_rfc3339() });
        }
        let key = certificate.subject_public_key_info().to_der().map_err(|_| Unreadable)?;
        let key = RsaPublicKey::from_public_key_der(&key).map_err(|_| Key)?;
        if RSA_BITS.contains(&key.n().bits()) { Ok(Recipient(key)) } else { Err(Key) }
    }
}

/// A packager's public key.
pub struct Recipient(RsaPublicKey);

/// Sizes of keys that are neither too weak nor a way to keep this server busy.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// The operating system gave no randomness, or the cryptography failed.
#[derive(Debug, thiserror::Error)]
#[error("keys could not be wrapped")]
pub struct WrapFailed;

/// The keys of one document.
pub struct DocumentKeys {
    document: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 64]>,
}

/// A content key as it travels.
pub struct Encrypted {
    /// IV and ciphertext.
    pub cipher_value: Vec<u8>,
    /// The MAC over that.
    pub mac: Vec<u8>,
}

impl DocumentKeys {
    /// Draws new keys.
    ///
    /// # Errors
    /// [`WrapFailed`].
    pub fn random() -> Result<Self, WrapFailed> {
        let mut keys = Self { document: Zeroizing::new([0; 32]), mac: Zeroizing::new([0; 64]) };
        fill(&mut *keys.document)?;
        fill(&mut *keys.mac)?;
        Ok(keys)
    }

    /// Document key and MAC key, wrapped for a packager.
    ///
    /// # Errors
    /// [`WrapFailed`].
    pub fn wrap(&self, recipient: &Recipient) -> Result<[Vec<u8>; 2], WrapFailed> {
        let wrap = |key: &[u8]| {
            let padding = Oaep::<Sha1>::new();
            padding.encrypt(&mut SystemRandom, &recipient.0, key).map_err(|_| WrapFailed)
        };
        Ok([wrap(&*self.document)?, wrap(&*self.mac)?])
    }

    /// Encrypts a content key.
    ///
    /// # Errors
    /// [`WrapFailed`].
    pub fn encrypt(&self, key: &ContentKey) -> Result<Encrypted, WrapFailed> {
        let mut iv = [0; 16];
        fill(&mut iv)?;
        let encryptor = cbc::Encryptor::<Aes256>::new(&(*self.document).into(), &iv.into());
        let mut cipher_value = iv.to_vec();
        cipher_value.extend(encryptor.encrypt_padded_vec::<Pkcs7>(key.as_slice()));
        let mac = <Hmac<Sha512> as KeyInit>::new_from_slice(&*self.mac);
        let mut mac = mac.map_err(|_| WrapFailed)?;
        mac.update(&cipher_value);
        let mac = mac.finalize().into_bytes().to_vec();
        Ok(Encrypted { cipher_value, mac })
    }
}

/// The randomness of everything else here, as `rsa` asks for it.
struct SystemRandom;

impl TryRng for SystemRandom {
    type Error = WrapFailed;

    fn try_next_u32(&mut self) -> Result<u32, WrapFailed> {
        let mut bytes = [0; 4];
        fill(&mut bytes).map(|()| u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, WrapFailed> {
        let mut bytes = [0; 8];
        fill(&mut bytes).map(|()| u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), WrapFailed> {
        fill(bytes)
    }
}

impl TryCryptoRng for SystemRandom {}

fn fill(bytes: &mut [u8]) -> Result<(), WrapFailed> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| WrapFailed)
}

#[cfg(test)]
mod tests;
