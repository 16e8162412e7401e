//! How a leaf license hangs on its root (section 5.5, ours).
//!
//! ```text
//! KEK = AES-CMAC(RK, 01 ‖ "license-ledger leaf wrap v1" ‖ 00 ‖ root KID[16] ‖ leaf KID[16] ‖ 0080)
//!
//! wrapped key   40 bytes = AES-KW(KEK, CI ‖ CK)
//! UPLINK 003B   root KID[16], u16 1, u16 8, AES-ECB(RK, root KID)[0:8]
//! ```
//!
//! The root's key RK is never a wrapping key itself, and a wrapped key cannot be moved to another
//! KID or root.

use aes_kw::cipher::consts::U32;
use aes_kw::{KeyInit, KwAes128};
use cmac::Mac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::seal::Root;
use super::{IntegrityKey, mac};
use crate::playready::content_key::ContentKey;
use crate::playready::kid::Kid;
use crate::playready::reader::{Malformed, Reader};

/// Bytes of a wrapped CI‖CK.
pub(super) const WRAPPED_BYTES: usize = 40;
const LABEL: &[u8] = b"license-ledger leaf wrap v1";

pub(super) fn wrap(
    root: &Root<'_>,
    leaf: Kid,
    ci: &IntegrityKey,
    content_key: &ContentKey,
) -> [u8; WRAPPED_BYTES] {
    let mut keys = Zeroizing::new([0; 32]);
    let (head, tail) = keys.split_at_mut(16);
    head.copy_from_slice(ci.as_ref());
    tail.copy_from_slice(content_key.expose());
    KwAes128::new(&(*wrapping_key(root, leaf)).into()).wrap_fixed_key::<U32>((&*keys).into()).into()
}

/// CI and CK, or `None` if they were not wrapped for this leaf under this root.
pub(super) fn unwrap(
    root: &Root<'_>,
    leaf: Kid,
    wrapped: &[u8],
) -> Option<(IntegrityKey, ContentKey)> {
    let mut keys = Zeroizing::new([0; 32]);
    let unwrapped = KwAes128::new(&(*wrapping_key(root, leaf)).into())
        .unwrap_key(wrapped, keys.as_mut())
        .ok()?;
    split_keys(unwrapped)
}

/// CI and CK from CI‖CK.
pub(super) fn split_keys(keys: &[u8]) -> Option<(IntegrityKey, ContentKey)> {
    let (ci, content_key) = keys.split_at_checked(16)?;
    let mut integrity_key = Zeroizing::new([0; 16]);
    integrity_key.copy_from_slice(ci);
    Some((integrity_key, ContentKey::new(content_key.try_into().ok()?)))
}

/// The body of UPLINK.
pub(super) fn uplink(root: &Root<'_>) -> Vec<u8> {
    let mut body = root.kid.to_wire().to_vec();
    body.extend_from_slice(&[0, 1, 0, 8]);
    body.extend_from_slice(&root.key.checksum(root.kid));
    body
}

/// What UPLINK says about a leaf's root.
pub(super) struct Uplink {
    pub(super) root_kid: Kid,
    checksum: [u8; 8],
}

impl Uplink {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let root_kid = Kid::from_wire(reader.array()?);
        reader.expect(&[0, 1, 0, 8], "leaf license has an unknown kind of root checksum")?;
        let checksum = reader.array()?;
        reader.finish()?;
        Ok(Self { root_kid, checksum })
    }

    pub(super) fn names(&self, root: &Root<'_>) -> bool {
        self.root_kid == root.kid && self.checksum.ct_eq(&root.key.checksum(root.kid)).into()
    }
}

fn wrapping_key(root: &Root<'_>, leaf: Kid) -> Zeroizing<[u8; 16]> {
    let input = derivation_input(root.kid, leaf);
    let key = Zeroizing::new(*root.key.expose());
    Zeroizing::new(mac(&key, &input).finalize().into_bytes().into())
}

fn derivation_input(root: Kid, leaf: Kid) -> Vec<u8> {
    [&[1], LABEL, &[0], &root.to_wire(), &leaf.to_wire(), &[0, 0x80]].concat()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn golden_derivation_and_wrap_agree() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../tests/golden/vectors.json")).unwrap();
        let case = &vectors["chained"];
        let hex = |name: &str| HEXLOWER.decode(case[name].as_str().unwrap().as_bytes()).unwrap();
        let kid = |name: &str| Kid::from(case[name].as_str().unwrap().parse::<Uuid>().unwrap());
        let root_key = ContentKey::new(hex("root_ck").try_into().unwrap());
        let root = Root { kid: kid("root_kid"), key: &root_key };
        let leaf = kid("leaf_kid");
        assert_eq!(derivation_input(root.kid, leaf), hex("kdf_input"));
        assert_eq!(wrapping_key(&root, leaf).to_vec(), hex("kek"));
        let ci = Zeroizing::new(hex("leaf_ci").try_into().unwrap());
        let leaf_key = ContentKey::new(hex("leaf_ck").try_into().unwrap());
        let wrapped = wrap(&root, leaf, &ci, &leaf_key);
        assert_eq!(wrapped.to_vec(), hex("wrapped"));
        assert_eq!(uplink(&root)[20..], hex("uplink_checksum"));

        assert!(unwrap(&root, leaf, &wrapped).is_some());
        assert!(unwrap(&root, root.kid, &wrapped).is_none(), "moved to another KID");
        let moved = Root { kid: leaf, key: &root_key };
        assert!(unwrap(&moved, leaf, &wrapped).is_none(), "moved to another root");
        assert!(unwrap(&root, leaf, &wrapped[..32]).is_none());
        assert!(unwrap(&root, leaf, &[]).is_none());
    }
}
