//! Content keys derived from a key seed and a KID (section 12).

use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::content_key::ContentKey;
use super::kid::Kid;

/// Bytes of a seed that count.
pub const KEY_SEED_BYTES: usize = 30;

/// A secret that a packager and a license server share. Has no `Debug`; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeySeed([u8; KEY_SEED_BYTES]);

/// The seed has fewer than 30 bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key seed has at least 30 bytes")]
pub struct KeySeedTooShort;

impl KeySeed {
    /// The published test seed, `XVBovsmzhP9gRIZxWfFta3VVRPzVEWmJsazEJ46I`: for tests only,
    /// since everybody knows it.
    pub const PUBLISHED_TEST: Self = Self(
        *b"\x5d\x50\x68\xbe\xc9\xb3\x84\xff\x60\x44\x86\x71\x59\xf1\x6d\
           \x6b\x75\x55\x44\xfc\xd5\x11\x69\x89\xb1\xac\xc4\x27\x8e\x88",
    );

    /// The seed with these bytes, of which the first 30 count.
    ///
    /// # Errors
    /// Fewer than 30 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, KeySeedTooShort> {
        bytes.first_chunk().copied().map(Self).ok_or(KeySeedTooShort)
    }

    /// The bytes that count, for sealing at rest.
    pub fn expose(&self) -> &[u8; KEY_SEED_BYTES] {
        &self.0
    }

    /// The content key of `kid`.
    ///
    /// With S the seed and K the KID in wire form: A = SHA-256(S‖K), B = SHA-256(S‖K‖S),
    /// C = SHA-256(S‖K‖S‖K), and the key is the exclusive or of the six halves.
    pub fn content_key(&self, kid: Kid) -> ContentKey {
        let kid = kid.to_wire();
        let parts: [&[u8]; 4] = [&self.0, &kid, &self.0, &kid];
        let mut hash = Sha256::new();
        let mut key = Zeroizing::new([0; 16]);
        for (index, part) in parts.into_iter().enumerate() {
            hash.update(part);
            if index == 0 {
                continue;
            }
            let digest: Zeroizing<[u8; 32]> = Zeroizing::new(hash.clone().finalize().into());
            let (low, high) = digest.split_at(16);
            for ((byte, low), high) in key.iter_mut().zip(low).zip(high) {
                *byte ^= low ^ high;
            }
        }
        ContentKey::new(*key)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn golden_keys_and_checksums_follow_from_the_published_seed() {
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/golden/keyseed.json")).unwrap();
        let seed = BASE64.decode(golden["seed_b64"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(KeySeed::PUBLISHED_TEST.expose().to_vec(), seed);
        assert_eq!(HEXLOWER.encode(&seed), golden["seed_hex"]);
        let rows = golden["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 6);
        for row in rows {
            let kid = Kid::from(row["kid"].as_str().unwrap().parse::<Uuid>().unwrap());
            let key = KeySeed::new(&seed).unwrap().content_key(kid);
            assert_eq!(HEXLOWER.encode(key.expose()), row["key"]);
            assert_eq!(BASE64.encode(&key.checksum(kid)), row["checksum"]);
        }
    }

    #[test]
    fn only_the_first_thirty_bytes_of_a_seed_count() {
        let golden: Value =
            serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
        let case = &golden["key_seed"];
        let seed = HEXLOWER.decode(case["seed"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(seed.len(), 40);
        let kid = Kid::from(case["kid_uuid"].as_str().unwrap().parse::<Uuid>().unwrap());
        for seed in [&seed[..], &seed[..30]] {
            let key = KeySeed::new(seed).unwrap().content_key(kid);
            assert_eq!(HEXLOWER.encode(key.expose()), case["content_key"]);
        }
        assert_eq!(KeySeed::new(&seed[..29]).err(), Some(KeySeedTooShort));
    }
}
