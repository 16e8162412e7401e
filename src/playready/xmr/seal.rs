//! Making licenses.

use cmac::Mac;
use zeroize::Zeroizing;

use super::conditions::{Issue, encode_global, encode_play};
use super::{
    CIPHER_CHAINED, CIPHER_ECC256, IntegrityKey, PREAMBLE, SIGNATURE_OBJECT_BYTES, chained, kind,
    mac,
};
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::ecc::PublicKey;
use crate::playready::elgamal::{Point, Random, encrypt};
use crate::playready::kid::Kid;
use crate::playready::policy::LicensePolicy;
use crate::playready::reader::{MUST_UNDERSTAND, OBJECT_HEADER_BYTES, put_length, put_object};

/// A license to be made.
pub struct LicenseSpec<'a> {
    /// Of a non-persistent license [`rights_id`](crate::playready::acquire::rights_id), of a persistent one random;
    /// see section 6.3.
    pub rights_id: [u8; 16],
    /// The key's id.
    pub kid: Kid,
    /// How the content is encrypted.
    pub key_type: KeyType,
    /// The key that the license gives away.
    pub content_key: &'a ContentKey,
    /// The conditions, as [`LicensePolicy::effective`] gives them.
    pub policy: &'a LicensePolicy,
    /// Unix seconds.
    pub issue_date: u32,
    /// Sequence of the server's RevInfo, 0 if it has none.
    pub revinfo_version: u32,
}

/// A root license's key, which its leaves are bound to. It never encrypts content.
pub struct Root<'a> {
    /// The root's KID.
    pub kid: Kid,
    /// The root's content key.
    pub key: &'a ContentKey,
}

/// Makes a license that only the owner of the private half of `recipient` can open: a device's
/// ENCRYPT_KEY, or a domain's key (section 5.2).
///
/// Draws 16 bytes CI from `random` until CI‖CK is the abscissa of a point and CI does not begin
/// with two zero bytes, which one client drops; then the scalar of the encryption.
pub fn seal(spec: &LicenseSpec<'_>, recipient: &PublicKey, random: Random<'_>) -> Vec<u8> {
    let (ci, point) = integrity_key(spec.content_key, random);
    let wrapped = encrypt(recipient, &point, random);
    seal_wrapped(spec, recipient, &ci, &wrapped)
}

/// Makes a leaf license that can be opened only with the root's key (section 5.5). Draws 16 bytes
/// CI from `random`.
pub fn seal_leaf(spec: &LicenseSpec<'_>, root: &Root<'_>, random: Random<'_>) -> Vec<u8> {
    let mut ci = Zeroizing::new([0; 16]);
    random(ci.as_mut());
    let wrapped = chained::wrap(root, spec.kid, &ci, spec.content_key);
    let mut material = Vec::with_capacity(120);
    put_content_key(&mut material, spec, CIPHER_CHAINED, &wrapped);
    put_object(&mut material, MUST_UNDERSTAND, kind::UPLINK, &chained::uplink(root));
    assemble(spec, &material, &ci)
}

fn integrity_key(content_key: &ContentKey, random: Random<'_>) -> (IntegrityKey, Point) {
    let mut x = Zeroizing::new([0; 32]);
    let mut ci = Zeroizing::new([0; 16]);
    loop {
        random(ci.as_mut());
        let (head, tail) = x.split_at_mut(16);
        head.copy_from_slice(ci.as_ref());
        tail.copy_from_slice(content_key.expose());
        if x.starts_with(&[0, 0]) {
            continue;
        }
        if let Some(point) = Point::from_x(&x) {
            return (ci, point);
        }
    }
}

/// The license with this wrapped CI‖CK.
pub(super) fn seal_wrapped(
    spec: &LicenseSpec<'_>,
    recipient: &PublicKey,
    ci: &IntegrityKey,
    wrapped: &[u8],
) -> Vec<u8> {
    let mut material = Vec::with_capacity(240);
    put_content_key(&mut material, spec, CIPHER_ECC256, wrapped);
    let device_key = [&[0, 1, 0, 64], &recipient.xy()[..]].concat();
    put_object(&mut material, 0, kind::DEVICE_KEY, &device_key);
    assemble(spec, &material, ci)
}

fn put_content_key(out: &mut Vec<u8>, spec: &LicenseSpec<'_>, cipher: u16, wrapped: &[u8]) {
    let length = u16::try_from(wrapped.len()).unwrap_or(u16::MAX); // 128 or 40
    let mut body = spec.kid.to_wire().to_vec();
    for number in [spec.key_type.to_wire(), cipher, length] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    body.extend_from_slice(wrapped);
    put_object(out, MUST_UNDERSTAND, kind::CONTENT_KEY, &body);
}

fn assemble(spec: &LicenseSpec<'_>, key_material: &[u8], ci: &IntegrityKey) -> Vec<u8> {
    let LicenseSpec { issue_date, revinfo_version, .. } = *spec;
    let global = encode_global(spec.policy, Issue { issue_date, revinfo_version });
    let play = encode_play(spec.policy);
    let headers = 4 * OBJECT_HEADER_BYTES;
    let outer_bytes =
        headers + global.len() + play.len() + key_material.len() + SIGNATURE_OBJECT_BYTES;

    let mut out = Vec::with_capacity(24 + outer_bytes);
    out.extend_from_slice(&PREAMBLE);
    out.extend_from_slice(&spec.rights_id);
    // The container's header by hand: the MAC covers its final length.
    out.extend_from_slice(&[0, 3]);
    out.extend_from_slice(&kind::OUTER.to_be_bytes());
    put_length(&mut out, outer_bytes);
    put_object(&mut out, 3, kind::GLOBAL_POLICY, &global);
    put_object(&mut out, 2, kind::PLAYBACK, &play);
    put_object(&mut out, 3, kind::KEY_MATERIAL, key_material);
    let tag = mac(ci, &out).finalize().into_bytes();
    let signature = [&[0, 1, 0, 16], &tag[..]].concat();
    put_object(&mut out, MUST_UNDERSTAND, kind::SIGNATURE, &signature);
    out
}
