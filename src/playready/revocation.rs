//! Revocation lists (section 3, "Revocation lists"). Integers are big-endian unless said otherwise.
//!
//! ```text
//! RevInfo v2  offset  size  field               CRL  offset  size  field
//!             0       4     "RLV2"                   0       16    list id, GUID-LE
//!             4       4     length, 28 + 24·n        16      4     version
//!             8       1     2                        20      4     n
//!             9       3     0                        24      32·n  digests
//!             12      4     sequence
//!             16      8     FILETIME
//!             24      4     n
//!             28      24·n  GUID-LE[16], version u64
//!
//! then, in both: signature type u8 (2, or 1 in a CRL), u16 64, r‖s[64], CHAI of the signer
//! ```
//!
//! The signature covers everything before its type byte. The server reads both from a `<RevInfo>`
//! element, whose text it copies into responses, but for lists of older clients: nothing says how
//! those are signed, and what is not verified is never sent (section 6.2). A FILETIME counts 100 ns from 1601-01-01.

mod issue;

use std::collections::HashSet;

use uuid::{Uuid, uuid};

pub use issue::RevocationSpec;

use super::bcert::{ChainError, Leaf, VerifiedChain, verify};
use super::ecc::PublicKey;
use super::reader::{Malformed, Reader};

/// ListID of the RevInfo v2, whose version a challenge tells (section 2.6).
pub const REVINFO_V2: Uuid = uuid!("52d1ff11-d388-4edd-82b7-68ea4c20a16c");
/// ListID of the runtime CRL.
pub const RUNTIME_CRL: Uuid = uuid!("4e9d8c8a-b652-45a7-9791-6925a6b4791f");
/// ListID of the application CRL.
pub const APPLICATION_CRL: Uuid = uuid!("28082e80-c7a3-40b1-8256-19e5b6d89b27");
/// Lists of older clients, which cannot be verified here.
const LEGACY_LISTS: [Uuid; 2] = [
    uuid!("ccde5a55-a688-4405-a88b-d13f90d5ba3e"), // RevInfo v1
    uuid!("cd75e604-543d-4a9c-9f09-fe6d24e8bf90"), // legacy ND
];

/// From 1601-01-01 to 1970-01-01.
const FILETIME_EPOCH_S: u64 = 11_644_473_600;
const FILETIME_PER_S: u64 = 10_000_000;

/// Lists in a RevInfo, at most; five are published.
const LISTS_MAX: usize = 32;

/// A verified set of revocation lists: one RevInfo v2 and the CRLs beside it.
#[derive(Clone)]
pub struct Revocation {
    sequence: u32,
    issued_at_s: u64,
    revoked: HashSet<[u8; 32]>,
    element: String,
    /// What responses carry, where that is not the whole element.
    sent: Option<String>,
}

/// Whether these are lists of older clients.
pub(super) fn is_legacy(list_id: [u8; 16]) -> bool {
    LEGACY_LISTS.contains(&Uuid::from_bytes_le(list_id))
}

/// Why revocation lists are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// A list is not in the form above.
    #[error("revocation list is malformed")]
    Malformed(#[from] Malformed),
    /// The signer's chain does not verify.
    #[error("signer of the revocation list {0} is not accepted")]
    Signer(Uuid, #[source] ChainError),
    /// The signer did not sign this.
    #[error("signature of the revocation list {0} does not verify")]
    Signature(Uuid),
    /// There is no RevInfo v2, or there are two.
    #[error("there is not exactly one RevInfo v2 (ListID {REVINFO_V2})")]
    NoRevInfo,
    /// A list that no rule is known for.
    #[error("revocation list {0} is of an unknown kind")]
    UnknownList(Uuid),
    /// A list is not of the version that the RevInfo names, or is not named by it.
    #[error("revocation list {0} is not the one that the RevInfo names")]
    OtherVersion(Uuid),
    /// A list that the RevInfo names is not there.
    #[error("revocation list {0}, which the RevInfo names, is missing")]
    Missing(Uuid),
}

impl Revocation {
    /// Verifies the lists of a `<RevInfo>` element up to `root`: pairs of ListID (16 bytes,
    /// GUID-LE) and ListData, in the order of the element. `element` is its verbatim text; `sent` is
    /// what responses carry instead, where the element holds lists of older clients. `now_s` is in
    /// Unix seconds.
    ///
    /// # Errors
    /// Any list that is malformed, unknown, not signed by a CRL signer under the root, or of
    /// another version than the RevInfo names; one that it names and that is not there.
    pub fn verify(
        lists: &[([u8; 16], &[u8])],
        element: String,
        sent: Option<String>,
        root: &PublicKey,
        now_s: u64,
    ) -> Result<Self, RevocationError> {
        let mut revinfo = None;
        let mut crls = Vec::new();
        for (id, data) in lists {
            let list_id = Uuid::from_bytes_le(*id);
            let signed = match list_id {
                REVINFO_V2 => {
                    let (read, signed) = RevInfo::parse(data)?;
                    if revinfo.replace(read).is_some() {
                        return Err(RevocationError::NoRevInfo);
                    }
                    signed
                }
                RUNTIME_CRL | APPLICATION_CRL => {
                    let (crl, signed) = Crl::parse(data)?;
                    if crl.list_id != list_id {
                        return Err(Malformed("CRL states another ListID").into());
                    }
                    crls.push(crl);
                    signed
                }
                _ if is_legacy(*id) => continue,
                other => return Err(RevocationError::UnknownList(other)),
            };
            signed.verify(list_id, root, now_s)?;
        }
        let revinfo = revinfo.ok_or(RevocationError::NoRevInfo)?;
        for crl in &crls {
            if !revinfo.versions.contains(&(crl.list_id, u64::from(crl.version))) {
                return Err(RevocationError::OtherVersion(crl.list_id));
            }
        }
        // Whoever leaves a list out must not lift what it revokes.
        for (list_id, _) in &revinfo.versions {
            let is_there = crls.iter().any(|crl| crl.list_id == *list_id);
            if !is_there && !LEGACY_LISTS.contains(list_id) {
                return Err(RevocationError::Missing(*list_id));
            }
        }
        let revoked = crls.into_iter().flat_map(|crl| crl.digests).collect();
        let RevInfo { sequence, issued_at_s, .. } = revinfo;
        Ok(Self { sequence, issued_at_s, revoked, element, sent })
    }

    /// Sequence of the RevInfo: what licenses and responses state, and never goes backwards.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// When the RevInfo says it was made, in Unix seconds; 0 for a time before 1970.
    pub fn issued_at_s(&self) -> u64 {
        self.issued_at_s
    }

    /// The verbatim `<RevInfo>` element.
    pub fn element(&self) -> &str {
        &self.element
    }

    /// What responses carry of it: the element with nothing that was not verified.
    pub fn sent(&self) -> &str {
        self.sent.as_ref().unwrap_or(&self.element)
    }

    /// `public_key_digest`s of the certificates that are revoked, in no particular order.
    pub fn revoked(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.revoked.iter()
    }

    /// Whether any certificate of the chain is revoked, from the leaf to the topmost issuer.
    pub fn is_revoked(&self, chain: &VerifiedChain) -> bool {
        chain.digests().iter().any(|digest| self.revoked.contains(digest))
    }
}

struct RevInfo {
    sequence: u32,
    issued_at_s: u64,
    versions: Vec<(Uuid, u64)>,
}

impl RevInfo {
    fn parse(data: &[u8]) -> Result<(Self, Signed<'_>), Malformed> {
        let mut reader = Reader::new(data);
        reader.expect(b"RLV2", "RevInfo does not start with RLV2")?;
        let length = reader.length()?;
        reader.expect(&[2, 0, 0, 0], "RevInfo is not version 2")?;
        let sequence = reader.u32()?;
        let issued_at_s = (reader.u64()? / FILETIME_PER_S).saturating_sub(FILETIME_EPOCH_S);
        let count = reader.length()?;
        if count > LISTS_MAX || length != 28 + 24 * count {
            return Err(Malformed("RevInfo states another length"));
        }
        let versions = (0..count)
            .map(|_| Ok((Uuid::from_bytes_le(reader.array()?), reader.u64()?)))
            .collect::<Result<_, Malformed>>()?;
        let signed = Signed::parse(data, reader, 2)?;
        Ok((Self { sequence, issued_at_s, versions }, signed))
    }
}

struct Crl {
    list_id: Uuid,
    version: u32,
    digests: Vec<[u8; 32]>,
}

impl Crl {
    fn parse(data: &[u8]) -> Result<(Self, Signed<'_>), Malformed> {
        let mut reader = Reader::new(data);
        let list_id = Uuid::from_bytes_le(reader.array()?);
        let version = reader.u32()?;
        let count = reader.length()?;
        // The count is a claim; the bytes that are there bound the allocation.
        if count > reader.remaining() / 32 {
            return Err(Malformed("CRL is shorter than it states"));
        }
        let digests = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
        let signed = Signed::parse(data, reader, 1)?;
        Ok((Self { list_id, version, digests }, signed))
    }
}

/// What ends every list: a signature over all that is before it, and the signer's chain.
struct Signed<'a> {
    covered: &'a [u8],
    signature: [u8; 64],
    chain: &'a [u8],
}

impl<'a> Signed<'a> {
    fn parse(
        data: &'a [u8],
        mut reader: Reader<'a>,
        signature_type: u8,
    ) -> Result<Self, Malformed> {
        let (covered, _) = data
            .split_at_checked(data.len() - reader.remaining())
            .ok_or(Malformed("ends before its stated length"))?;
        if (reader.u8()?, reader.u16()?) != (signature_type, 64) {
            return Err(Malformed("revocation list has another kind of signature"));
        }
        let signature = reader.array()?;
        let chain = reader.bytes(reader.remaining())?;
        Ok(Self { covered, signature, chain })
    }

    fn verify(&self, list: Uuid, root: &PublicKey, now_s: u64) -> Result<(), RevocationError> {
        let signer = verify(self.chain, root, Leaf::CrlSigner, now_s)
            .map_err(|error| RevocationError::Signer(list, error))?;
        signer
            .signing_key()
            .verify(self.covered, &self.signature)
            .map_err(|_| RevocationError::Signature(list))
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};
    use serde_json::Value;

    use super::*;

    const REVINFO: &str = include_str!("../../tests/golden/pki/revinfo.xml");
    const NOW_S: u64 = 1_700_000_000;

    /// The text of every element of this name.
    fn texts(name: &str) -> Vec<Vec<u8>> {
        let open = format!("<{name}>");
        let parts = REVINFO.split(&open).skip(1);
        parts
            .map(|part| BASE64.decode(part.split('<').next().unwrap().as_bytes()).unwrap())
            .collect()
    }

    fn lists() -> Vec<([u8; 16], Vec<u8>)> {
        let ids = texts("ListID").into_iter().map(|id| id.try_into().unwrap());
        ids.zip(texts("ListData")).collect()
    }

    fn root() -> PublicKey {
        PublicKey::from_pem(include_bytes!("../../tests/golden/pki/root.pub.pem")).unwrap()
    }

    fn outcome(lists: &[([u8; 16], Vec<u8>)]) -> Result<Revocation, RevocationError> {
        let lists: Vec<_> = lists.iter().map(|(id, data)| (*id, &data[..])).collect();
        Revocation::verify(&lists, REVINFO.to_owned(), None, &root(), NOW_S)
    }

    fn device(chain: &[u8]) -> VerifiedChain {
        verify(chain, &root(), Leaf::Device, NOW_S).unwrap()
    }

    #[test]
    fn golden_revinfo_revokes_one_device() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
        let revocation = outcome(&lists()).unwrap();
        assert_eq!(u64::from(revocation.sequence()), vectors["revinfo"]["sequence"]);
        let revoked: Vec<_> = revocation.revoked().map(|digest| HEXLOWER.encode(digest)).collect();
        assert_eq!(Value::from(revoked), vectors["revinfo"]["revoked"]);
        assert_eq!(revocation.issued_at_s(), NOW_S);
        assert_eq!(revocation.element(), REVINFO);

        let golden = include_bytes!("../../tests/golden/pki/devices/golden/chain.bcert");
        assert!(!revocation.is_revoked(&device(golden)));
        let revoked = include_bytes!("../../tests/golden/pki/devices/golden-revoked/chain.bcert");
        assert!(revocation.is_revoked(&device(revoked)));
    }

    #[test]
    fn a_revoked_issuer_revokes_its_devices() {
        let golden = include_bytes!("../../tests/golden/pki/devices/golden/chain.bcert");
        let chain = device(golden);
        for digest in chain.digests() {
            let revoked = HashSet::from([*digest]);
            let (element, sent) = (String::new(), None);
            let revocation = Revocation { sequence: 1, issued_at_s: 0, revoked, element, sent };
            assert!(revocation.is_revoked(&chain));
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_a_list_is_refused() {
        let golden = lists();
        for which in 0..golden.len() {
            let length = golden[which].1.len();
            for end in 0..length {
                let mut cut = golden.clone();
                cut[which].1.truncate(end);
                assert!(outcome(&cut).is_err(), "accepted list {which} cut at byte {end}");
            }
        }
        for which in 0..golden.len() {
            let (covered, signature) = if which == 0 { (76, 67) } else { (56, 67) };
            for at in 0..covered + signature {
                let mut changed = golden.clone();
                changed[which].1[at] ^= 1;
                assert!(outcome(&changed).is_err(), "accepted list {which} changed at {at}");
            }
        }
    }

    #[test]
    fn lists_of_unknown_kind_or_without_revinfo_are_refused() {
        let golden = lists();
        assert_eq!(outcome(&[]).err(), Some(RevocationError::NoRevInfo));
        assert_eq!(outcome(&golden[1..]).err(), Some(RevocationError::NoRevInfo));
        let twice = [&golden[..], &golden[..1]].concat();
        assert_eq!(outcome(&twice).err(), Some(RevocationError::NoRevInfo));
        let unknown = vec![([9; 16], golden[0].1.clone())];
        assert!(matches!(outcome(&unknown).err(), Some(RevocationError::UnknownList(_))));
        // A CRL of another list than the element says.
        let mut swapped = golden.clone();
        swapped[1].0 = APPLICATION_CRL.to_bytes_le();
        assert!(outcome(&swapped).is_err());
    }

    #[test]
    fn a_list_that_the_revinfo_names_and_that_is_left_out_is_noticed() {
        let golden = lists();
        for (left_out, list_id) in [(1, RUNTIME_CRL), (2, APPLICATION_CRL)] {
            let mut stripped = golden.clone();
            stripped.remove(left_out);
            assert_eq!(outcome(&stripped).err(), Some(RevocationError::Missing(list_id)));
        }
        assert_eq!(outcome(&golden[..1]).err(), Some(RevocationError::Missing(RUNTIME_CRL)));
        // Another list of the same kind takes no missing one's place.
        let twice = [&golden[..2], &golden[1..2]].concat();
        assert_eq!(outcome(&twice).err(), Some(RevocationError::Missing(APPLICATION_CRL)));
    }

    #[test]
    fn a_crl_of_another_version_than_the_revinfo_names_is_refused() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
        let scalar = vectors["keys"]["crl sign"]["d"].as_str().unwrap();
        let scalar = HEXLOWER.decode(scalar.as_bytes()).unwrap().try_into().unwrap();
        let signer = crate::playready::ecc::PrivateKey::from_scalar(&scalar).unwrap();
        for (version, expected) in
            [(7, None), (6, Some(RevocationError::OtherVersion(RUNTIME_CRL)))]
        {
            let mut lists = lists();
            let crl = &mut lists[1].1;
            crl[19] = version;
            let signature = signer.sign(&crl[..56]);
            crl[59..123].copy_from_slice(&signature);
            assert_eq!(outcome(&lists).err(), expected);
        }
    }

    #[test]
    fn lists_under_another_root_are_refused() {
        let other = crate::playready::ecc::PrivateKey::generate();
        let golden = lists();
        let borrowed: Vec<_> = golden.iter().map(|(id, data)| (*id, &data[..])).collect();
        let outcome = Revocation::verify(&borrowed, String::new(), None, other.public(), NOW_S);
        let expected = RevocationError::Signer(REVINFO_V2, ChainError::Root);
        assert_eq!(outcome.err(), Some(expected));
    }
}
