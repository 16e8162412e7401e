//! P-256 keys: ECDSA signatures, and the PEM files of section 14.
//!
//! Keys and signatures are raw big-endian integers on the wire: a public key is X‖Y (64 bytes), a
//! signature r‖s (64 bytes). In files a private key is PKCS#8 and a public key is SPKI, both in
//! PEM armor.

use std::fmt;

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use data_encoding::{BASE64, HEXLOWER};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::elgamal::{is_on_curve, out_of_memory};

/// A public key: a point on the curve that is not the point at infinity, as X‖Y.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 64]);

/// The bytes are not a point of P-256 (section 2.3, rule 5).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a point on P-256")]
pub struct InvalidPoint;

/// The number is not a private key: zero, or not below the group order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a private key on P-256")]
pub struct InvalidScalar;

/// The signature does not verify, or its r or s is out of range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// A key file is not what section 14 asks for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyFile {
    /// A private key was expected.
    #[error("not an unencrypted PKCS#8 P-256 key in PEM (\"BEGIN PRIVATE KEY\")")]
    Private,
    /// A public key was expected.
    #[error("not an uncompressed P-256 key in PEM (\"BEGIN PUBLIC KEY\")")]
    Public,
}

/// What precedes X‖Y in the SPKI form: id-ecPublicKey, prime256v1, a bit string, and the 04 byte
/// of an uncompressed point.
const SPKI_PREFIX: [u8; 27] = *b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\
    \x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";

/// What surrounds the scalar in an RFC 5915 private key that names prime256v1 and leaves out the
/// public half.
const SEC1_PREFIX: [u8; 7] = *b"\x30\x31\x02\x01\x01\x04\x20";
const SEC1_SUFFIX: [u8; 12] = *b"\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

impl PublicKey {
    /// Reads X‖Y, big-endian, and checks that it is on the curve.
    ///
    /// # Errors
    /// Any length but 64 bytes, a coordinate not below the field prime, a point off the curve.
    pub fn from_xy(xy: &[u8]) -> Result<Self, InvalidPoint> {
        let xy: &[u8; 64] = xy.try_into().map_err(|_| InvalidPoint)?;
        if is_on_curve(xy) { Ok(Self(*xy)) } else { Err(InvalidPoint) }
    }

    /// X‖Y, big-endian.
    pub fn xy(&self) -> &[u8; 64] {
        &self.0
    }

    /// SHA-256 of X‖Y: the `public_key_digest` of section 3, and of a device's SIGN key its
    /// identity.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// Checks an ECDSA-P256-SHA256 signature r‖s over `message`.
    ///
    /// # Errors
    /// Any length but 64 bytes, r or s outside 1…n−1, or a signature by another key.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        let mut sec1 = [4; 65];
        let (_, coordinates) = sec1.split_at_mut(1);
        coordinates.copy_from_slice(&self.0);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, sec1)
            .verify(message, signature)
            .map_err(|_| BadSignature)
    }

    /// Reads the SPKI form in PEM armor, as in `root.pub.pem` (section 14).
    ///
    /// # Errors
    /// Anything but an uncompressed point on P-256, named by its curve's identifier.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BadKeyFile> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| BadKeyFile::Public)?;
        let xy = der.strip_prefix(&SPKI_PREFIX).ok_or(BadKeyFile::Public)?;
        Self::from_xy(xy).map_err(|_| BadKeyFile::Public)
    }

    /// The SPKI form in PEM armor.
    pub fn to_pem(&self) -> String {
        let der = [&SPKI_PREFIX[..], &self.0].concat();
        armor("PUBLIC KEY", &der)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", HEXLOWER.encode(&self.0))
    }
}

/// A private key. Has no `Debug`; its scalar is wiped when dropped.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    scalar: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl PrivateKey {
    /// Makes a new key from the operating system's randomness.
    pub fn generate() -> Self {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .ok()
            .and_then(Self::from_pair)
            .unwrap_or_else(|| out_of_memory())
    }

    /// The key with this private number, big-endian.
    ///
    /// # Errors
    /// Zero, and numbers not below the group order.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, InvalidScalar> {
        let der = Zeroizing::new([&SEC1_PREFIX[..], scalar, &SEC1_SUFFIX].concat());
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .ok()
            .and_then(Self::from_pair)
            .ok_or(InvalidScalar)
    }

    /// Reads the PKCS#8 form in PEM armor, as in `wmrm.pem` (section 14).
    ///
    /// # Errors
    /// Another curve or algorithm, an encrypted key, or an armor of another kind.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BadKeyFile> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| BadKeyFile::Private)?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der());
        der.zeroize();
        pair.ok().and_then(Self::from_pair).ok_or(BadKeyFile::Private)
    }

    /// The PKCS#8 form in PEM armor.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let Ok(der) = self.pair.to_pkcs8v1() else { out_of_memory() };
        Zeroizing::new(armor("PRIVATE KEY", der.as_ref()))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs with ECDSA-P256-SHA256; returns r‖s. The library draws the nonce.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair
            .sign(&SystemRandom::new(), message)
            .ok()
            .and_then(|signature| signature.as_ref().try_into().ok())
            .unwrap_or_else(|| out_of_memory())
    }

    /// The private number, big-endian, for the point arithmetic beside this file.
    pub(super) fn scalar(&self) -> &[u8; 32] {
        &self.scalar
    }

    fn from_pair(pair: EcdsaKeyPair) -> Option<Self> {
        let (_, xy) = pair.public_key().as_ref().split_first()?;
        let public = PublicKey::from_xy(xy).ok()?;
        let bytes = pair.private_key().as_be_bytes().ok()?;
        let mut scalar = Zeroizing::new([0; 32]);
        scalar.copy_from_slice(bytes.as_ref().get(..32)?);
        Some(Self { pair, scalar, public })
    }
}

fn armor(label: &str, der: &[u8]) -> String {
    let base64 = Zeroizing::new(BASE64.encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::{Signer, Verifier};
    use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
    use serde_json::Value;

    use super::*;

    const ROOT_PEM: &str = include_str!("../../tests/golden/pki/root.pem");
    const ROOT_PUB_PEM: &str = include_str!("../../tests/golden/pki/root.pub.pem");

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap()
    }

    fn hex(value: &Value) -> Vec<u8> {
        HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn golden_scalars_give_their_golden_points() {
        for (label, key) in vectors()["keys"].as_object().unwrap() {
            let private = PrivateKey::from_scalar(&hex(&key["d"]).try_into().unwrap()).unwrap();
            assert_eq!(private.public().xy().to_vec(), hex(&key["xy"]), "{label}");
            assert_eq!(private.scalar().to_vec(), hex(&key["d"]), "{label}");
        }
    }

    #[test]
    fn golden_key_files_are_read_and_written_again() {
        let private = PrivateKey::from_pem(ROOT_PEM.as_bytes()).unwrap();
        let public = PublicKey::from_pem(ROOT_PUB_PEM.as_bytes()).unwrap();
        assert_eq!(private.public(), &public);
        assert_eq!(private.scalar().to_vec(), hex(&vectors()["keys"]["root"]["d"]));
        assert_eq!(private.to_pem().as_str(), ROOT_PEM);
        assert_eq!(public.to_pem(), ROOT_PUB_PEM);
    }

    #[test]
    fn a_key_file_of_the_other_kind_is_refused() {
        assert_eq!(PrivateKey::from_pem(ROOT_PUB_PEM.as_bytes()).err(), Some(BadKeyFile::Private));
        assert_eq!(PublicKey::from_pem(ROOT_PEM.as_bytes()), Err(BadKeyFile::Public));
        assert_eq!(PublicKey::from_pem(b""), Err(BadKeyFile::Public));
    }

    #[test]
    fn every_cut_of_a_key_file_is_refused() {
        for end in 0..ROOT_PEM.trim_end().len() {
            assert!(PrivateKey::from_pem(&ROOT_PEM.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        for end in 0..ROOT_PUB_PEM.trim_end().len() {
            assert!(PublicKey::from_pem(&ROOT_PUB_PEM.as_bytes()[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn signatures_agree_with_an_independent_implementation() {
        let key = PrivateKey::generate();
        let theirs = SigningKey::from_slice(key.scalar()).unwrap();
        let ours = key.sign(b"message");
        let verifier = VerifyingKey::from(&theirs);
        verifier.verify(b"message", &Signature::from_slice(&ours).unwrap()).unwrap();

        let signature: Signature = theirs.sign(b"message");
        let signature = signature.to_bytes();
        assert_eq!(key.public().verify(b"message", &signature), Ok(()));
        assert_eq!(key.public().verify(b"massage", &signature), Err(BadSignature));
    }

    #[test]
    fn refuses_signatures_out_of_range_or_of_another_length() {
        let order = HEXLOWER
            .decode(b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
            .unwrap();
        let key = PrivateKey::generate();
        let good = key.sign(b"message");
        let (r, s) = good.split_at(32);
        let zero = [0; 32];
        for bad in [[r, &zero], [&zero, s], [r, &order], [&order, s], [&zero, &zero]] {
            assert_eq!(key.public().verify(b"message", &bad.concat()), Err(BadSignature));
        }
        assert_eq!(key.public().verify(b"message", &good[..63]), Err(BadSignature));
        assert_eq!(key.public().verify(b"message", &[&good[..], &[0]].concat()), Err(BadSignature));
    }

    #[test]
    fn refuses_points_off_the_curve_and_scalars_out_of_range() {
        let key = PrivateKey::generate();
        let mut xy = *key.public().xy();
        xy[63] ^= 1;
        assert_eq!(PublicKey::from_xy(&xy), Err(InvalidPoint));
        assert_eq!(PublicKey::from_xy(&[0; 64]), Err(InvalidPoint));
        assert_eq!(PublicKey::from_xy(&xy[..63]), Err(InvalidPoint));
        assert_eq!(PrivateKey::from_scalar(&[0; 32]).err(), Some(InvalidScalar));
        assert_eq!(PrivateKey::from_scalar(&[0xff; 32]).err(), Some(InvalidScalar));
    }
}
