//! Signing lists for labs: what [`Revocation::verify`](super::Revocation::verify) reads.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{APPLICATION_CRL, FILETIME_EPOCH_S, FILETIME_PER_S, REVINFO_V2, RUNTIME_CRL};
use crate::playready::bcert::{
    CertificateSpec, KeySpec, Manufacturer, NEVER_EXPIRES, certificate_type, chain, usage,
};
use crate::playready::ecc::PrivateKey;
use crate::playready::elgamal::Random;
use crate::playready::reader::put_length;
use crate::playready::xml::Writer;

/// What new lists say.
#[derive(Clone, Copy, Debug)]
pub struct RevocationSpec<'a> {
    /// Sequence of the RevInfo, and version of the CRLs that it names.
    pub sequence: u32,
    /// When, in Unix seconds.
    pub issued_at_s: u64,
    /// `public_key_digest`s of the revoked certificates.
    pub revoked: &'a BTreeSet<[u8; 32]>,
}

impl RevocationSpec<'_> {
    /// The `<RevInfo>` element: a RevInfo v2, a runtime CRL with all digests and an empty
    /// application CRL. The signer's key is made for this, certified by `root`, and forgotten.
    pub fn issue(&self, root: &PrivateKey, random: Random<'_>) -> String {
        let signer = PrivateKey::generate();
        let chain = signer_chain(&signer, root, random);
        let nobody = BTreeSet::new();
        let lists = [
            (REVINFO_V2, self.rev_info(), 2),
            (RUNTIME_CRL, self.crl(RUNTIME_CRL, self.revoked), 1),
            (APPLICATION_CRL, self.crl(APPLICATION_CRL, &nobody), 1),
        ];
        let mut w = Writer::default();
        w.element("RevInfo", &[], |w| {
            for (list_id, covered, signature_type) in lists {
                w.element("Revocation", &[], |w| {
                    w.base64("ListID", &list_id.to_bytes_le());
                    w.base64("ListData", &signed(covered, signature_type, &signer, &chain));
                });
            }
        });
        w.finish()
    }

    fn rev_info(&self) -> Vec<u8> {
        let lists = [RUNTIME_CRL, APPLICATION_CRL];
        let mut out = b"RLV2".to_vec();
        put_length(&mut out, 28 + 24 * lists.len());
        out.extend_from_slice(&[2, 0, 0, 0]);
        out.extend_from_slice(&self.sequence.to_be_bytes());
        let filetime = self.issued_at_s.saturating_add(FILETIME_EPOCH_S);
        out.extend_from_slice(&filetime.saturating_mul(FILETIME_PER_S).to_be_bytes());
        put_length(&mut out, lists.len());
        for list_id in lists {
            out.extend_from_slice(&list_id.to_bytes_le());
            out.extend_from_slice(&u64::from(self.sequence).to_be_bytes());
        }
        out
    }

    fn crl(&self, list_id: Uuid, revoked: &BTreeSet<[u8; 32]>) -> Vec<u8> {
        let mut out = list_id.to_bytes_le().to_vec();
        out.extend_from_slice(&self.sequence.to_be_bytes());
        put_length(&mut out, revoked.len());
        out.extend(revoked.iter().flatten());
        out
    }
}

fn signed(covered: Vec<u8>, signature_type: u8, signer: &PrivateKey, chain: &[u8]) -> Vec<u8> {
    let signature = signer.sign(&covered);
    let mut out = covered;
    out.push(signature_type);
    out.extend_from_slice(&64u16.to_be_bytes());
    out.extend_from_slice(&signature);
    out.extend_from_slice(chain);
    out
}

fn signer_chain(signer: &PrivateKey, root: &PrivateKey, random: Random<'_>) -> Vec<u8> {
    let mut cert_id = [0; 16];
    random(&mut cert_id);
    let certificate = CertificateSpec {
        cert_id,
        security_level: 0,
        certificate_type: certificate_type::CRL_SIGNER,
        expiration: NEVER_EXPIRES,
        client_id: [0; 16],
        features: &[],
        keys: &[KeySpec { key: *signer.public(), usages: &[usage::SIGN_CRL] }],
        manufacturer: Manufacturer { maker: "Lab", model: "CrlSigner", number: "1" },
    };
    chain(&[&certificate.issue(root)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playready::rev_info::RevInfo;

    const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/pki/revinfo.xml");
    const NOW_S: u64 = 1_700_000_000;

    fn golden_root() -> PrivateKey {
        PrivateKey::from_pem(include_bytes!("../../../tests/golden/pki/root.pem")).unwrap()
    }

    fn issue(spec: RevocationSpec<'_>) -> RevInfo {
        let mut random = |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).unwrap();
        RevInfo::parse(spec.issue(&golden_root(), &mut random).as_bytes()).unwrap()
    }

    #[test]
    fn what_is_signed_has_the_bytes_of_the_golden_lists() {
        let golden = RevInfo::parse(GOLDEN).unwrap();
        let verified = golden.clone().verify(golden_root().public(), NOW_S).unwrap();
        let revoked = verified.revoked().copied().collect();
        let spec = RevocationSpec { sequence: 7, issued_at_s: NOW_S, revoked: &revoked };
        // RevInfo with two lists, CRL with one digest, CRL with none; then type and length of the
        // signature.
        for ((ours, theirs), covered) in
            issue(spec).lists.iter().zip(&golden.lists).zip([76, 56, 24])
        {
            assert_eq!(ours.id, theirs.id);
            assert_eq!(ours.data[..covered + 3], theirs.data[..covered + 3]);
        }
    }

    #[test]
    fn issued_lists_verify_and_say_what_they_were_issued_for() {
        let revoked = BTreeSet::from([[1; 32], [2; 32]]);
        let spec = RevocationSpec { sequence: 8, issued_at_s: NOW_S + 9, revoked: &revoked };
        let lists = issue(spec).verify(golden_root().public(), NOW_S).unwrap();
        assert_eq!((lists.sequence(), lists.issued_at_s()), (8, NOW_S + 9));
        assert_eq!(lists.revoked().copied().collect::<BTreeSet<_>>(), revoked);
    }
}
