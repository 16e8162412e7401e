//! EC ElGamal on P-256 (section 2.4).

use super::ecc::{InvalidPoint, PrivateKey, PublicKey};

/// A source of random bytes, passed in so that the protocol code stays pure.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A plaintext point M, as X‖Y. Carries secrets: no `Debug`, wiped when dropped.
pub struct Point([u8; 64]);

impl Point {
    /// X, big-endian.
    pub fn x(&self) -> &[u8] {
        &self.0[..32]
    }
    /// The point with this abscissa (either Y), or `None` if there is none.
    pub fn from_x(_x: &[u8; 32]) -> Option<Self> {
        todo!()
    }
    /// A random point.
    pub fn random(_random: Random<'_>) -> Self {
        todo!()
    }
}

/// Encrypts `point` to `recipient`: C1‖C2, 128 bytes.
pub fn encrypt(_recipient: &PublicKey, _point: &Point, _random: Random<'_>) -> [u8; 128] {
    todo!()
}

/// Decrypts C1‖C2. Refuses any other length, points off the curve and M at infinity.
pub fn decrypt(_key: &PrivateKey, _ciphertext: &[u8]) -> Result<Point, InvalidPoint> {
    todo!()
}
