//! Binary certificate chains (section 3). Integers are big-endian.
//!
//! ```text
//! CHAI  offset  size  field                     CERT  offset  size  field
//!       0       4     "CHAI"                          0       4     "CERT"
//!       4       4     version, 1                      4       4     version, 1
//!       8       4     length, all of it               8       4     length, all of it
//!       12      4     flags, 0                        12      4     signed length
//!       16      4     count, 1..=6                    16      …     objects
//!       20      …     certificates, leaf first
//! ```
//!
//! The signed length is the offset of the SIGNATURE object; the signature covers everything before
//! it. Only an EXTDATA container may follow the SIGNATURE.
//!
//! - [`Chain::parse`] reads and refuses what a strict reader refuses; it trusts nothing.
//! - [`verify()`] checks a chain up to a root key and gives a [`VerifiedChain`], the only form that
//!   the rest of the program accepts. [`ChainCache`] remembers successful verifications.
//! - [`CertificateSpec::issue`] makes certificates for labs.

mod build;
mod cache;
mod verify;

pub use build::{CertificateSpec, KeySpec, Manufacturer, chain};
pub use cache::ChainCache;
pub use verify::{ChainError, Leaf, VerifiedChain, verify};

use super::ecc::PublicKey;
use super::reader::{Malformed, Reader};

/// Certificates in a chain, at most.
pub const CHAIN_CERTIFICATES_MAX: usize = 6;
/// Expiration of a certificate that never expires.
pub const NEVER_EXPIRES: u32 = u32::MAX;

/// Objects in a certificate, at most: every known kind once, and room for kinds that may be
/// skipped.
const OBJECTS_MAX: usize = 32;
/// Keys in a certificate, at most. Each one costs a curve check; genuine leaves have up to four.
const KEYS_MAX: usize = 16;
/// Features in a certificate, at most.
const FEATURES_MAX: usize = 32;
/// Bits of a public key, as certificates state them.
const KEY_BITS: u16 = 512;

/// Object kinds.
mod kind {
    pub(super) const BASIC: u16 = 0x01;
    pub(super) const DEVICE: u16 = 0x04;
    pub(super) const FEATURE: u16 = 0x05;
    pub(super) const KEY: u16 = 0x06;
    pub(super) const MANUFACTURER: u16 = 0x07;
    pub(super) const SIGNATURE: u16 = 0x08;
    pub(super) const EXTDATA_CONTAINER: u16 = 0x0C;
    pub(super) const SERVER: u16 = 0x0F;
    /// The highest kind in the table of section 3; all from 1 up to it are known.
    pub(super) const LAST_KNOWN: u16 = 0x11;
}

/// Certificate types.
pub mod certificate_type {
    /// A device: the leaf of a challenge.
    pub const DEVICE: u32 = 2;
    /// A certificate whose key signs other certificates.
    pub const ISSUER: u32 = 4;
    /// The signer of revocation lists.
    pub const CRL_SIGNER: u32 = 5;
    /// The signer of responses.
    pub const SERVER: u32 = 11;
}

/// Key usages.
pub mod usage {
    /// Signs challenges.
    pub const SIGN: u32 = 0x01;
    /// Licenses are wrapped to this key.
    pub const ENCRYPT_KEY: u32 = 0x02;
    /// Signs revocation lists.
    pub const SIGN_CRL: u32 = 0x03;
    /// Issues certificates of all types.
    pub const ISSUER_ALL: u32 = 0x04;
    /// Issues devices.
    pub const ISSUER_DEVICE: u32 = 0x06;
    /// Issues signers of revocation lists.
    pub const ISSUER_CRL: u32 = 0x0B;
    /// Issues signers of responses.
    pub const ISSUER_SERVER: u32 = 0x0F;
    /// Signs responses.
    pub const SIGN_RESPONSE: u32 = 0x14;
}

/// Features of a device.
pub mod feature {
    /// Has a clock that its user cannot set.
    pub const SECURE_CLOCK: u32 = 4;
    /// Reads revocation lists.
    pub const SUPPORTS_CRLS: u32 = 9;
    /// Has the functions of version 3 and later.
    pub const SUPPORTS_PR3: u32 = 13;
}

/// A key of a certificate, with what it may be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateKey {
    /// The key; on the curve.
    pub key: PublicKey,
    /// Numbers as in [`usage`]; unknown ones are kept.
    pub usages: Vec<u32>,
}

impl CertificateKey {
    /// Whether this key may be used so.
    pub fn has(&self, usage: u32) -> bool {
        self.usages.contains(&usage)
    }
}

/// A certificate that has been read but not verified.
#[derive(Clone, Debug)]
pub struct Certificate<'a> {
    /// BASIC: identifies this certificate.
    pub cert_id: [u8; 16],
    /// BASIC: 150, 2000 or 3000 for devices, 0 for signers of responses and lists.
    pub security_level: u32,
    /// BASIC: a number as in [`certificate_type`]; unknown ones are kept.
    pub certificate_type: u32,
    /// BASIC: SHA-256 of the first key, as the certificate states it.
    pub public_key_digest: [u8; 32],
    /// BASIC: Unix seconds; [`NEVER_EXPIRES`] for never.
    pub expiration: u32,
    /// BASIC: says nothing about the unit; never used as an identity.
    pub client_id: [u8; 16],
    /// FEATURE: numbers as in [`feature`]; unknown ones are kept.
    pub features: Vec<u32>,
    /// KEY: at least one.
    pub keys: Vec<CertificateKey>,
    /// MANUFACTURER: maker, model and model number; empty if absent.
    pub manufacturer: [String; 3],
    /// SIGNATURE: the key that is said to have signed this certificate.
    pub issuer: PublicKey,
    /// SIGNATURE: r‖s over [`signed`](Self::signed).
    pub signature: [u8; 64],
    /// The bytes that the signature covers.
    pub signed: &'a [u8],
    /// All of its bytes.
    pub bytes: &'a [u8],
}

/// A chain that has been read but not verified: one to six certificates, leaf first.
#[derive(Clone, Debug)]
pub struct Chain<'a>(Vec<Certificate<'a>>);

impl<'a> Chain<'a> {
    /// Reads a whole CHAI.
    ///
    /// # Errors
    /// Anything that section 3 tells readers to refuse: wrong magic, version, flags or count,
    /// lengths that do not match, unknown objects that must be understood, duplicate or missing
    /// objects, keys off the curve.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        reader.expect(b"CHAI", "certificate chain does not start with CHAI")?;
        reader.expect(&1u32.to_be_bytes(), "certificate chain is not version 1")?;
        if reader.length()? != bytes.len() {
            return Err(Malformed("certificate chain states another length"));
        }
        reader.expect(&[0; 4], "certificate chain has flags")?;
        let count = reader.length()?;
        if !(1..=CHAIN_CERTIFICATES_MAX).contains(&count) {
            return Err(Malformed("certificate chain has no certificate, or more than 6"));
        }
        let certificates =
            (0..count).map(|_| Certificate::parse(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        Ok(Self(certificates))
    }

    /// The certificates, leaf first; never empty.
    pub fn certificates(&self) -> &[Certificate<'a>] {
        &self.0
    }
}

impl<'a> Certificate<'a> {
    /// Reads one CERT from the front of `chain`.
    fn parse(chain: &mut Reader<'a>) -> Result<Self, Malformed> {
        let mut header = *chain;
        header.expect(b"CERT", "certificate does not start with CERT")?;
        header.expect(&1u32.to_be_bytes(), "certificate is not version 1")?;
        let length = header.length()?;
        let signed_length = header.length()?;
        let bytes = chain.bytes(length)?;
        let signed = bytes.get(..signed_length);
        let signed = signed.ok_or(Malformed("certificate is shorter than its signed length"))?;
        let mut objects = Reader::new(bytes);
        objects.bytes(16)?;

        let mut parts = Parts::default();
        while !objects.is_empty() {
            let offset = bytes.len() - objects.remaining();
            parts.take(&mut objects, offset == signed_length)?;
        }
        parts.into_certificate(bytes, signed)
    }
}

/// The objects of a certificate, as far as they have been read.
#[derive(Default)]
struct Parts {
    seen: Vec<u16>,
    basic: Option<Basic>,
    features: Vec<u32>,
    keys: Vec<CertificateKey>,
    manufacturer: [String; 3],
    signature: Option<([u8; 64], PublicKey)>,
}

impl Parts {
    fn take(&mut self, objects: &mut Reader<'_>, at_signed_length: bool) -> Result<(), Malformed> {
        let object = objects.object()?;
        if self.seen.contains(&object.kind) || self.seen.len() == OBJECTS_MAX {
            return Err(Malformed("certificate has an object twice, or too many objects"));
        }
        self.seen.push(object.kind);
        if self.signature.is_some() && object.kind != kind::EXTDATA_CONTAINER {
            return Err(Malformed("certificate has an object after its signature"));
        }
        if at_signed_length != (object.kind == kind::SIGNATURE) {
            return Err(Malformed("certificate states another place for its signature"));
        }
        let mut body = Reader::new(object.body);
        match object.kind {
            kind::BASIC => self.basic = Some(Basic::parse(&mut body)?),
            kind::FEATURE => self.features = parse_features(&mut body)?,
            kind::KEY => self.keys = parse_keys(&mut body)?,
            kind::MANUFACTURER => self.manufacturer = parse_manufacturer(&mut body)?,
            kind::SIGNATURE => self.signature = Some(parse_signature(&mut body)?),
            kind::DEVICE => drop(body.array::<12>()?), // limits of the device
            // Nothing that is used here.
            known if (1..=kind::LAST_KNOWN).contains(&known) => return Ok(()),
            _ if object.must_be_understood() => {
                return Err(Malformed("certificate has an unknown object that must be understood"));
            }
            _ => return Ok(()),
        }
        body.finish()
    }

    fn into_certificate<'a>(
        self,
        bytes: &'a [u8],
        signed: &'a [u8],
    ) -> Result<Certificate<'a>, Malformed> {
        let basic = self.basic.ok_or(Malformed("certificate has no BASIC object"))?;
        let (signature, issuer) =
            self.signature.ok_or(Malformed("certificate has no SIGNATURE object"))?;
        if self.keys.is_empty() {
            return Err(Malformed("certificate has no key"));
        }
        Ok(Certificate {
            cert_id: basic.cert_id,
            security_level: basic.security_level,
            certificate_type: basic.certificate_type,
            public_key_digest: basic.public_key_digest,
            expiration: basic.expiration,
            client_id: basic.client_id,
            features: self.features,
            keys: self.keys,
            manufacturer: self.manufacturer,
            issuer,
            signature,
            signed,
            bytes,
        })
    }
}

/// The BASIC object.
struct Basic {
    cert_id: [u8; 16],
    security_level: u32,
    certificate_type: u32,
    public_key_digest: [u8; 32],
    expiration: u32,
    client_id: [u8; 16],
}

impl Basic {
    fn parse(body: &mut Reader<'_>) -> Result<Self, Malformed> {
        let cert_id = body.array()?;
        let security_level = body.u32()?;
        let _flags = body.u32()?;
        Ok(Self {
            cert_id,
            security_level,
            certificate_type: body.u32()?,
            public_key_digest: body.array()?,
            expiration: body.u32()?,
            client_id: body.array()?,
        })
    }
}

fn parse_features(body: &mut Reader<'_>) -> Result<Vec<u32>, Malformed> {
    let count = body.length()?;
    if count > FEATURES_MAX {
        return Err(Malformed("certificate has more than 32 features"));
    }
    (0..count).map(|_| body.u32()).collect()
}

fn parse_keys(body: &mut Reader<'_>) -> Result<Vec<CertificateKey>, Malformed> {
    let count = body.length()?;
    if count > KEYS_MAX {
        return Err(Malformed("certificate has too many keys"));
    }
    (0..count).map(|_| parse_key(body)).collect()
}

fn parse_key(body: &mut Reader<'_>) -> Result<CertificateKey, Malformed> {
    if (body.u16()?, body.u16()?, body.u32()?) != (1, KEY_BITS, 0) {
        return Err(Malformed("certificate has a key that is not P-256"));
    }
    let key = parse_point(body)?;
    let count = body.length()?;
    // The count is a claim; the bytes that are there bound the allocation.
    if count > body.remaining() / 4 {
        return Err(Malformed("ends before its stated length"));
    }
    let usages = (0..count).map(|_| body.u32()).collect::<Result<_, _>>()?;
    Ok(CertificateKey { key, usages })
}

fn parse_point(body: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    PublicKey::from_xy(body.bytes(64)?)
        .map_err(|_| Malformed("certificate has a key that is not on the curve"))
}

fn parse_manufacturer(body: &mut Reader<'_>) -> Result<[String; 3], Malformed> {
    let _flags = body.u32()?;
    let maker = parse_text(body)?;
    let model = parse_text(body)?;
    let number = parse_text(body)?;
    Ok([maker, model, number])
}

/// A text with its NUL, padded to four bytes.
fn parse_text(body: &mut Reader<'_>) -> Result<String, Malformed> {
    let length = body.length()?;
    let padded = length.checked_next_multiple_of(4).ok_or(Malformed("text is too long"))?;
    let text = body.bytes(padded)?.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = text.get(..length).unwrap_or(text);
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn parse_signature(body: &mut Reader<'_>) -> Result<([u8; 64], PublicKey), Malformed> {
    if (body.u16()?, body.u16()?) != (1, 64) {
        return Err(Malformed("certificate signature is not ECDSA on P-256"));
    }
    let signature = body.array()?;
    if body.u32()? != u32::from(KEY_BITS) {
        return Err(Malformed("certificate issuer's key is not P-256"));
    }
    Ok((signature, parse_point(body)?))
}

#[cfg(test)]
mod tests;
