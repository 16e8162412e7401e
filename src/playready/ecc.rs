//! P-256 keys: ECDSA signatures, and the PEM files of section 14.

/// A public key: a point on the curve that is not the point at infinity, as X‖Y.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 64]);

/// The bytes are not a point of P-256 (section 2.3, rule 5).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a point on P-256")]
pub struct InvalidPoint;

/// The signature does not verify, or its r or s is out of range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct BadSignature;

impl PublicKey {
    /// Reads X‖Y, big-endian, and checks that it is on the curve.
    pub fn from_xy(xy: &[u8]) -> Result<Self, InvalidPoint> {
        let _ = xy;
        todo!()
    }
    /// X‖Y, big-endian.
    pub fn xy(&self) -> &[u8; 64] {
        &self.0
    }
    /// Checks an ECDSA-P256-SHA256 signature r‖s over `message`.
    pub fn verify(&self, _message: &[u8], _signature: &[u8]) -> Result<(), BadSignature> {
        todo!()
    }
}

/// A private key. Has no `Debug`; its scalar is wiped when dropped.
pub struct PrivateKey(());

impl PrivateKey {
    /// Makes a new key from the operating system's randomness.
    pub fn generate() -> Self {
        todo!()
    }
    /// The public half.
    pub fn public(&self) -> &PublicKey {
        todo!()
    }
    /// Signs with ECDSA-P256-SHA256; returns r‖s.
    pub fn sign(&self, _message: &[u8]) -> [u8; 64] {
        todo!()
    }
}
