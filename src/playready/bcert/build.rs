//! Making certificates for labs (section 3).

use super::{KEY_BITS, certificate_type, kind};
use crate::playready::ecc::{PrivateKey, PublicKey};
use crate::playready::reader::{MUST_UNDERSTAND, put_length, put_object};

/// A key to be certified.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec<'a> {
    /// The key.
    pub key: PublicKey,
    /// Numbers as in [`usage`](super::usage).
    pub usages: &'a [u32],
}

/// Who made a device, for the MANUFACTURER object.
#[derive(Clone, Copy, Debug)]
pub struct Manufacturer<'a> {
    /// Maker.
    pub maker: &'a str,
    /// Model.
    pub model: &'a str,
    /// Model number.
    pub number: &'a str,
}

/// A certificate to be issued.
#[derive(Clone, Copy, Debug)]
pub struct CertificateSpec<'a> {
    /// Identifies the certificate; random.
    pub cert_id: [u8; 16],
    /// 150, 2000 or 3000 for devices and their issuers, 0 for signers and theirs.
    pub security_level: u32,
    /// A number as in [`certificate_type`].
    pub certificate_type: u32,
    /// Unix seconds; [`NEVER_EXPIRES`](super::NEVER_EXPIRES) for never.
    pub expiration: u32,
    /// For devices; zero elsewhere.
    pub client_id: [u8; 16],
    /// Numbers as in [`feature`](super::feature).
    pub features: &'a [u32],
    /// The digest in BASIC is that of the first one. Some readers take the first key of an
    /// issuer for the issuing one.
    pub keys: &'a [KeySpec<'a>],
    /// Who made it.
    pub manufacturer: Manufacturer<'a>,
}

impl CertificateSpec<'_> {
    /// The CERT, signed by `issuer`.
    pub fn issue(&self, issuer: &PrivateKey) -> Vec<u8> {
        let mut certificate = self.signed_bytes();
        let mut signature = Vec::with_capacity(136);
        signature.extend_from_slice(&1u16.to_be_bytes());
        signature.extend_from_slice(&64u16.to_be_bytes());
        signature.extend_from_slice(&issuer.sign(&certificate));
        signature.extend_from_slice(&u32::from(KEY_BITS).to_be_bytes());
        signature.extend_from_slice(issuer.public().xy());
        put_object(&mut certificate, MUST_UNDERSTAND, kind::SIGNATURE, &signature);
        certificate
    }

    /// What the signature covers: the header, with final lengths, and all other objects.
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        const HEADER_BYTES: usize = 16;
        const SIGNATURE_OBJECT_BYTES: usize = 144;
        let objects = self.objects();
        let mut out = b"CERT\x00\x00\x00\x01".to_vec();
        put_length(&mut out, HEADER_BYTES + objects.len() + SIGNATURE_OBJECT_BYTES);
        put_length(&mut out, HEADER_BYTES + objects.len());
        out.extend(objects);
        out
    }

    fn objects(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_object(&mut out, MUST_UNDERSTAND, kind::BASIC, &self.basic());
        if self.certificate_type == certificate_type::DEVICE {
            put_object(&mut out, MUST_UNDERSTAND, kind::DEVICE, &DEVICE_LIMITS);
        }
        if self.certificate_type == certificate_type::SERVER {
            let days = WARNING_DAYS.to_be_bytes();
            put_object(&mut out, MUST_UNDERSTAND, kind::SERVER, &days);
        }
        put_object(&mut out, MUST_UNDERSTAND, kind::FEATURE, &numbers(self.features));
        put_object(&mut out, MUST_UNDERSTAND, kind::KEY, &self.key_entries());
        put_object(&mut out, 0, kind::MANUFACTURER, &self.manufacturer.body());
        out
    }

    fn basic(&self) -> Vec<u8> {
        let digest = self.keys.first().map_or([0; 32], |entry| entry.key.digest());
        let mut out = self.cert_id.to_vec();
        out.extend_from_slice(&self.security_level.to_be_bytes());
        out.extend_from_slice(&[0; 4]); // flags
        out.extend_from_slice(&self.certificate_type.to_be_bytes());
        out.extend_from_slice(&digest);
        out.extend_from_slice(&self.expiration.to_be_bytes());
        out.extend_from_slice(&self.client_id);
        out
    }

    fn key_entries(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_length(&mut out, self.keys.len());
        for entry in self.keys {
            out.extend_from_slice(&1u16.to_be_bytes());
            out.extend_from_slice(&KEY_BITS.to_be_bytes());
            out.extend_from_slice(&[0; 4]); // flags
            out.extend_from_slice(entry.key.xy());
            out.extend(numbers(entry.usages));
        }
        out
    }
}

/// Max license 10240, max header 15360, max chain depth 2.
const DEVICE_LIMITS: [u8; 12] = *b"\x00\x00\x28\x00\x00\x00\x3c\x00\x00\x00\x00\x02";
const WARNING_DAYS: u32 = 30;

impl Manufacturer<'_> {
    fn body(&self) -> Vec<u8> {
        let mut out = vec![0; 4]; // flags
        for text in [self.maker, self.model, self.number] {
            put_length(&mut out, text.len() + 1);
            out.extend_from_slice(text.as_bytes());
            out.push(0);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 4 * numbers.len());
    put_length(&mut out, numbers.len());
    out.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    out
}

/// The CHAI of these certificates, leaf first.
pub fn chain(certificates: &[&[u8]]) -> Vec<u8> {
    const HEADER_BYTES: usize = 20;
    let body: usize = certificates.iter().map(|certificate| certificate.len()).sum();
    let mut out = b"CHAI\x00\x00\x00\x01".to_vec();
    put_length(&mut out, HEADER_BYTES + body);
    out.extend_from_slice(&[0; 4]); // flags
    put_length(&mut out, certificates.len());
    out.extend(certificates.iter().copied().flatten());
    out
}
