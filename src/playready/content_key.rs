//! Content keys, and the checksums that headers carry of them (section 12).

use aes::Aes128;
use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::kid::Kid;

/// A key that encrypts content. Has no `Debug`, is compared in constant time and wiped when
/// dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ContentKey([u8; 16]);

/// How a content key encrypts: one {KID, key} pair is never used for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyType {
    /// AES-128 in counter mode; 1 on the wire.
    #[serde(rename = "aesctr")]
    AesCtr,
    /// AES-128 in CBC mode; 5 on the wire.
    #[serde(rename = "aescbc")]
    AesCbc,
}

impl ContentKey {
    /// The key with these bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for encryption and for sealing at rest.
    pub fn expose(&self) -> &[u8; 16] {
        &self.0
    }

    /// The checksum of headers with ALGID AESCTR: AES-128-ECB(key, KID in wire form)\[0:8\].
    pub fn checksum(&self, kid: Kid) -> [u8; 8] {
        let mut block: Block<Aes128> = kid.to_wire().into();
        Aes128::new(&self.0.into()).encrypt_block(&mut block);
        let [a, b, c, d, e, f, g, h, ..] = block.0;
        [a, b, c, d, e, f, g, h]
    }
}

impl ConstantTimeEq for ContentKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// The checksum of headers with ALGID COCKTAIL, whose keys have 7 bytes: 21 zero bytes with the
/// key in front, SHA-1 five times, first 7 bytes.
///
/// Such keys are read in headers and never issued.
pub fn cocktail_checksum(key: &[u8; 7]) -> [u8; 7] {
    let mut padded = [0; 21];
    let (head, _) = padded.split_at_mut(key.len());
    head.copy_from_slice(key);
    let mut hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &padded);
    for _ in 1..5 {
        hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, hash.as_ref());
    }
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

impl KeyType {
    /// The type's name in policy strings and in stored licenses.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesCtr => "aesctr",
            Self::AesCbc => "aescbc",
        }
    }

    /// The type with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::AesCtr, Self::AesCbc].into_iter().find(|key_type| key_type.name() == name)
    }

    /// The number in a license.
    pub fn to_wire(self) -> u16 {
        match self {
            Self::AesCtr => 1,
            Self::AesCbc => 5,
        }
    }

    /// The type with this number in a license, if there is one.
    pub fn from_wire(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::AesCtr),
            5 => Some(Self::AesCbc),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn golden_checksums_agree() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
        let case = &vectors["checksum"];
        let hex = |name: &str| HEXLOWER.decode(case[name].as_str().unwrap().as_bytes()).unwrap();
        let kid = Kid::from(case["kid_uuid"].as_str().unwrap().parse::<Uuid>().unwrap());
        let key = ContentKey::new(hex("key").try_into().unwrap());
        assert_eq!(key.checksum(kid).to_vec(), hex("aesctr"));
        let cocktail_key: [u8; 7] = hex("cocktail_key").try_into().unwrap();
        assert_eq!(cocktail_checksum(&cocktail_key).to_vec(), hex("cocktail"));
    }

    #[test]
    fn keys_are_equal_only_if_all_bytes_are() {
        let key = ContentKey::new([1; 16]);
        assert!(bool::from(key.ct_eq(&ContentKey::new([1; 16]))));
        let mut other = [1; 16];
        other[15] = 2;
        assert!(!bool::from(key.ct_eq(&ContentKey::new(other))));
    }
}
