//! Verification of a chain up to a root key (section 3, "Chain verification").

use super::{Certificate, Chain, NEVER_EXPIRES, certificate_type, usage};
use crate::playready::ecc::PublicKey;
use crate::playready::reader::Malformed;

/// What a chain's leaf must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// A device: signs challenges with its SIGN key, receives licenses under its ENCRYPT_KEY key.
    Device,
    /// A signer of responses: key usage SIGN_RESPONSE.
    Server,
    /// A signer of revocation lists: key usage SIGN_CRL.
    CrlSigner,
}

impl Leaf {
    fn certificate_type(self) -> u32 {
        match self {
            Self::Device => certificate_type::DEVICE,
            Self::Server => certificate_type::SERVER,
            Self::CrlSigner => certificate_type::CRL_SIGNER,
        }
    }

    /// What the leaf's signing key is used for.
    fn signing_usage(self) -> u32 {
        match self {
            Self::Device => usage::SIGN,
            Self::Server => usage::SIGN_RESPONSE,
            Self::CrlSigner => usage::SIGN_CRL,
        }
    }

    /// The usage that lets a key issue such a chain, besides ISSUER_ALL.
    fn issuing_usage(self) -> u32 {
        match self {
            Self::Device => usage::ISSUER_DEVICE,
            Self::Server => usage::ISSUER_SERVER,
            Self::CrlSigner => usage::ISSUER_CRL,
        }
    }
}

/// Why a chain is not accepted. Numbers count certificates from the leaf, which is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The bytes are not a chain.
    #[error("certificate chain is malformed")]
    Malformed(#[from] Malformed),
    /// The signature does not verify under the stated issuer key.
    #[error("certificate {0} has a wrong signature")]
    Signature(usize),
    /// The expiration has passed.
    #[error("certificate {0} has expired")]
    Expired(usize),
    /// `public_key_digest` is not the digest of the first key.
    #[error("certificate {0} states a wrong digest of its key")]
    Digest(usize),
    /// A parent is not of type ISSUER, does not hold the key that issued its child, or that key
    /// may not issue such a leaf.
    #[error("certificate {0} may not issue the certificate before it")]
    NotAnIssuer(usize),
    /// A child claims a higher security level than its parent.
    #[error("certificate {0} has a lower security level than the certificate before it")]
    SecurityLevel(usize),
    /// The topmost issuer key is not the root key.
    #[error("certificate chain does not end at the root key")]
    Root,
    /// The leaf is of another type.
    #[error("leaf certificate is of the wrong type")]
    LeafType,
    /// The leaf lacks a key that its type needs, or its digest is not that of its signing key.
    #[error("leaf certificate lacks a key")]
    LeafKey,
}

/// A chain that has been verified up to the root. Public data, cheap to share behind an `Arc`.
#[derive(Clone, Debug)]
pub struct VerifiedChain {
    identity: [u8; 32],
    signing_key: PublicKey,
    encrypt_key: Option<PublicKey>,
    security_level: u32,
    digests: Vec<[u8; 32]>,
    expiration: u32,
    client_id: [u8; 16],
    manufacturer: [String; 3],
    features: Vec<u32>,
    bytes: Vec<u8>,
}

impl VerifiedChain {
    /// SHA-256 of the leaf's signing key: the identity of a device.
    pub fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// The leaf's signing key: SIGN of a device, SIGN_RESPONSE or SIGN_CRL of a signer.
    pub fn signing_key(&self) -> &PublicKey {
        &self.signing_key
    }

    /// The key that licenses are wrapped to. Every device has one, signers have none.
    pub fn encrypt_key(&self) -> Option<&PublicKey> {
        self.encrypt_key.as_ref()
    }

    /// The leaf's security level: 150, 2000 or 3000 for devices.
    pub fn security_level(&self) -> u32 {
        self.security_level
    }

    /// `public_key_digest` of every certificate, leaf first: what revocation lists name.
    pub fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// The earliest expiration in the chain, in Unix seconds; `None` if none expires.
    pub fn expires_at(&self) -> Option<u64> {
        (self.expiration != NEVER_EXPIRES).then_some(self.expiration.into())
    }

    /// BASIC.client_id of the leaf. Several units may share one.
    pub fn client_id(&self) -> &[u8; 16] {
        &self.client_id
    }

    /// Maker, model and model number of the leaf, as it states them; any may be empty.
    pub fn manufacturer(&self) -> [&str; 3] {
        let [maker, model, number] = &self.manufacturer;
        [maker, model, number]
    }

    /// Feature numbers of the leaf, see [`feature`](super::feature).
    pub fn features(&self) -> &[u32] {
        &self.features
    }

    /// The chain as it was received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Verifies a chain up to `root` at the time `now_s` (Unix seconds).
///
/// Checks signatures, expirations, digests, issuing rights, security levels, the root and the
/// leaf's type and keys, as section 3 says. Revocation is a separate question.
///
/// # Errors
/// The first rule that does not hold.
pub fn verify(
    bytes: &[u8],
    root: &PublicKey,
    leaf: Leaf,
    now_s: u64,
) -> Result<VerifiedChain, ChainError> {
    let chain = Chain::parse(bytes)?;
    let certificates = chain.certificates();
    // The cheap checks come first, so that junk costs no signature verification.
    let top = certificates.last().ok_or(ChainError::LeafType)?;
    if top.issuer != *root {
        return Err(ChainError::Root);
    }
    let verified = leaf_of(&chain, bytes, leaf)?;
    for (index, certificate) in certificates.iter().enumerate() {
        check_certificate(certificate, index, now_s)?;
    }
    for (index, pair) in certificates.windows(2).enumerate() {
        if let [child, parent] = pair {
            check_parent(child, parent, index + 1, leaf)?;
        }
    }
    for (index, certificate) in certificates.iter().enumerate() {
        certificate
            .issuer
            .verify(certificate.signed, &certificate.signature)
            .map_err(|_| ChainError::Signature(index))?;
    }
    Ok(verified)
}

fn check_certificate(
    certificate: &Certificate<'_>,
    index: usize,
    now_s: u64,
) -> Result<(), ChainError> {
    let expiration = certificate.expiration;
    if expiration != NEVER_EXPIRES && now_s >= u64::from(expiration) {
        return Err(ChainError::Expired(index));
    }
    let first = certificate.keys.first().ok_or(ChainError::Digest(index))?;
    if first.key.digest() != certificate.public_key_digest {
        return Err(ChainError::Digest(index));
    }
    Ok(())
}

fn check_parent(
    child: &Certificate<'_>,
    parent: &Certificate<'_>,
    index: usize,
    leaf: Leaf,
) -> Result<(), ChainError> {
    let may_issue = parent.keys.iter().any(|entry| {
        entry.key == child.issuer
            && (entry.has(usage::ISSUER_ALL) || entry.has(leaf.issuing_usage()))
    });
    if parent.certificate_type != certificate_type::ISSUER || !may_issue {
        return Err(ChainError::NotAnIssuer(index));
    }
    if child.security_level > parent.security_level {
        return Err(ChainError::SecurityLevel(index));
    }
    Ok(())
}

fn leaf_of(chain: &Chain<'_>, bytes: &[u8], leaf: Leaf) -> Result<VerifiedChain, ChainError> {
    let certificates = chain.certificates();
    let certificate = certificates.first().ok_or(ChainError::LeafType)?;
    if certificate.certificate_type != leaf.certificate_type() {
        return Err(ChainError::LeafType);
    }
    let key_for = |usage| certificate.keys.iter().find(|entry| entry.has(usage));
    let signing_key = key_for(leaf.signing_usage()).ok_or(ChainError::LeafKey)?.key;
    let encrypt_key = key_for(usage::ENCRYPT_KEY).map(|entry| entry.key);
    if leaf == Leaf::Device && encrypt_key.is_none() {
        return Err(ChainError::LeafKey);
    }
    let identity = signing_key.digest();
    if identity != certificate.public_key_digest {
        return Err(ChainError::LeafKey);
    }
    Ok(VerifiedChain {
        identity,
        signing_key,
        encrypt_key: encrypt_key.filter(|_| leaf == Leaf::Device),
        security_level: certificate.security_level,
        digests: certificates.iter().map(|each| each.public_key_digest).collect(),
        expiration: certificates.iter().map(|each| each.expiration).min().unwrap_or(0),
        client_id: certificate.client_id,
        manufacturer: certificate.manufacturer.clone(),
        features: certificate.features.clone(),
        bytes: bytes.to_vec(),
    })
}
