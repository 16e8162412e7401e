//! Encrypted media: what a content key is for.

use aes::Aes128;
use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};

use crate::playready::content_key::{ContentKey, KeyType};

const BLOCK_BYTES: usize = 16;

/// A piece of media, encrypted with AES-128: in counter mode as in the `cenc` scheme, or in CBC
/// mode as in `cbc1`, where what is left after the last whole block stays in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The mode.
    pub key_type: KeyType,
    /// The first counter block, or the initialization vector. `cenc` puts its 8-byte IV in front
    /// and a block count of 0 behind.
    pub iv: [u8; BLOCK_BYTES],
    /// The media, encrypted.
    pub bytes: Vec<u8>,
}

impl Sample {
    /// Encrypts `media`, as a packager does. One pair of key and IV is used only once.
    pub fn encrypt(
        key: &ContentKey,
        key_type: KeyType,
        iv: [u8; BLOCK_BYTES],
        media: &[u8],
    ) -> Self {
        let bytes = match key_type {
            KeyType::AesCtr => count(key, iv, media),
            KeyType::AesCbc => chain(media, |whole| {
                cbc::Encryptor::<Aes128>::new(&(*key.expose()).into(), &iv.into())
                    .encrypt_padded_vec::<NoPadding>(whole)
            }),
        };
        Self { key_type, iv, bytes }
    }

    /// The media, if `key` is the right key, and noise otherwise.
    pub fn decrypt(&self, key: &ContentKey) -> Vec<u8> {
        match self.key_type {
            KeyType::AesCtr => count(key, self.iv, &self.bytes),
            KeyType::AesCbc => chain(&self.bytes, |whole| {
                cbc::Decryptor::<Aes128>::new(&(*key.expose()).into(), &self.iv.into())
                    .decrypt_padded_vec::<NoPadding>(whole)
                    .unwrap_or_default()
            }),
        }
    }
}

/// Encrypts or decrypts in counter mode, where that is the same.
fn count(key: &ContentKey, counter: [u8; BLOCK_BYTES], bytes: &[u8]) -> Vec<u8> {
    let cipher = Aes128::new(&(*key.expose()).into());
    let mut counter = u128::from_be_bytes(counter);
    let mut out = Vec::with_capacity(bytes.len());
    for chunk in bytes.chunks(BLOCK_BYTES) {
        let mut stream: Block<Aes128> = counter.to_be_bytes().into();
        cipher.encrypt_block(&mut stream);
        out.extend(chunk.iter().zip(stream).map(|(byte, mask)| byte ^ mask));
        counter = counter.wrapping_add(1);
    }
    out
}

/// Applies a mode to the whole blocks of `bytes`.
fn chain(bytes: &[u8], mode: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let (whole, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK_BYTES);
    let mut out = mode(whole);
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// NIST SP 800-38A, F.5.1 CTR-AES128.Encrypt, all four blocks.
    #[test]
    fn agrees_with_the_published_vectors_for_counter_mode() {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let key = ContentKey::new(hex("2b7e151628aed2a6abf7158809cf4f3c").try_into().unwrap());
        let iv = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let media = hex(concat!(
            "6bc1bee22e409f96e93d7e117393172a",
            "ae2d8a571e03ac9c9eb76fac45af8e51",
            "30c81c46a35ce411e5fbc1191a0a52ef",
            "f69f2445df4f9b17ad2b417be66c3710",
        ));
        let encrypted = hex(concat!(
            "874d6191b620e3261bef6864990db6ce",
            "9806f66b7970fdff8617187bb9fffdff",
            "5ae4df3edbd5d35e5b4f09020db03eab",
            "1e031dda2fbe03d1792170a0f3009cee",
        ));
        let sample = Sample::encrypt(&key, KeyType::AesCtr, iv, &media);
        assert_eq!(sample.bytes, encrypted);
        assert_eq!(sample.decrypt(&key), media);
        let cut = Sample { bytes: encrypted[..21].to_vec(), ..sample };
        assert_eq!(cut.decrypt(&key), media[..21]);
    }

    /// NIST SP 800-38A, F.2.1 CBC-AES128.Encrypt, the first two blocks.
    #[test]
    fn agrees_with_the_published_vectors_for_cbc_and_leaves_the_rest_in_the_clear() {
        let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let key = ContentKey::new(hex("2b7e151628aed2a6abf7158809cf4f3c").try_into().unwrap());
        let iv = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let mut media = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let mut encrypted = hex("7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2");
        for rest in [&[][..], b"rest"] {
            media.extend_from_slice(rest);
            encrypted.extend_from_slice(rest);
            let sample = Sample::encrypt(&key, KeyType::AesCbc, iv, &media);
            assert_eq!(sample.bytes, encrypted);
            assert_eq!(sample.decrypt(&key), media);
        }
    }

    #[test]
    fn another_key_gives_noise() {
        for key_type in [KeyType::AesCtr, KeyType::AesCbc] {
            let key = ContentKey::new([1; 16]);
            let sample = Sample::encrypt(&key, key_type, [0; 16], b"a picture of a cat");
            assert_ne!(sample.decrypt(&ContentKey::new([2; 16])), b"a picture of a cat");
        }
    }
}
