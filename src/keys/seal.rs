//! Sealing of small secrets with AES-256-GCM.

use aes_gcm::aead::{Aead, Generate, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Seals and opens under one key.
pub(super) struct Sealer(Aes256Gcm);

impl Sealer {
    /// Derives the sealing key from the master key, so that each purpose has its own.
    pub(super) fn new(master: &[u8; 32]) -> Self {
        let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(master) else {
            unreachable!("HMAC takes keys of any length")
        };
        mac.update(b"license-ledger keys v1");
        Self(Aes256Gcm::new(&mac.finalize().into_bytes()))
    }

    /// base64 of nonce ‖ ciphertext ‖ tag. The nonce is random: 96 bits, and far fewer than 2^32
    /// records under one key.
    pub(super) fn seal(&self, aad: &[u8], secret: &[u8]) -> String {
        let nonce = Nonce::generate();
        let sealed = self.0.encrypt(&nonce, Payload { msg: secret, aad });
        let Ok(sealed) = sealed else { unreachable!("the secret is shorter than 64 GiB") };
        BASE64.encode(&[nonce.as_slice(), &sealed].concat())
    }

    /// The secret, or `None` if it was not sealed under this key for this associated data.
    pub(super) fn open(&self, aad: &[u8], sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
        let sealed = BASE64.decode(sealed.as_bytes()).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
        let opened = self.0.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad });
        opened.ok().map(Zeroizing::new)
    }
}
