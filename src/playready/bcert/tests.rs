use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::playready::ecc::PrivateKey;

const CHAIN: &[u8] = include_bytes!("../../../tests/golden/chain.bcert");
const SERVER_CHAIN: &[u8] = include_bytes!("../../../tests/golden/server_chain.bcert");
const ROOT: &[u8] = include_bytes!("../../../tests/golden/pki/root.pub.pem");
const NOW_S: u64 = 1_700_000_000;

fn root() -> PublicKey {
    PublicKey::from_pem(ROOT).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/vectors.json")).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn key(label: &str) -> PrivateKey {
    let scalar = hex(&vectors()["keys"][label]["d"]);
    PrivateKey::from_scalar(&scalar.try_into().unwrap()).unwrap()
}

#[test]
fn golden_device_chain_verifies_and_names_the_device() {
    let chain = verify(CHAIN, &root(), Leaf::Device, NOW_S).unwrap();
    assert_eq!(chain.identity().to_vec(), hex(&vectors()["bcert"]["device_id"]));
    assert_eq!(chain.signing_key(), key("dev sign").public());
    assert_eq!(chain.encrypt_key(), Some(key("dev enc").public()));
    assert_eq!(chain.security_level(), 2000);
    assert_eq!(chain.manufacturer(), ["Lab", "Dev", "1"]);
    assert_eq!(chain.features(), [4, 9, 13]);
    assert_eq!(chain.expires_at(), None);
    assert_eq!(chain.digests()[0], *chain.identity());
    assert_eq!(chain.digests()[1], key("model").public().digest());
    assert_eq!(chain.digests()[2], key("ca").public().digest());
    assert_eq!(chain.bytes(), CHAIN);
}

#[test]
fn golden_device_folders_verify() {
    for chain in [
        &include_bytes!("../../../tests/golden/pki/devices/golden/chain.bcert")[..],
        include_bytes!("../../../tests/golden/pki/devices/golden-b/chain.bcert"),
        include_bytes!("../../../tests/golden/pki/devices/golden-revoked/chain.bcert"),
    ] {
        verify(chain, &root(), Leaf::Device, NOW_S).unwrap();
    }
}

#[test]
fn golden_server_chain_verifies_as_a_server_only() {
    let chain = verify(SERVER_CHAIN, &root(), Leaf::Server, NOW_S).unwrap();
    assert_eq!(chain.signing_key(), key("server sign").public());
    assert_eq!(chain.encrypt_key(), None);
    for leaf in [Leaf::Device, Leaf::CrlSigner] {
        assert!(verify(SERVER_CHAIN, &root(), leaf, NOW_S).is_err());
    }
}

#[test]
fn golden_leaf_is_built_again_up_to_its_signature() {
    let golden = hex(&vectors()["bcert"]["leaf"]);
    let read = Chain::parse(CHAIN).unwrap().certificates()[0].clone();
    let spec = CertificateSpec {
        cert_id: read.cert_id,
        security_level: 2000,
        certificate_type: certificate_type::DEVICE,
        expiration: NEVER_EXPIRES,
        client_id: read.client_id,
        features: &[feature::SECURE_CLOCK, feature::SUPPORTS_CRLS, feature::SUPPORTS_PR3],
        keys: &[
            KeySpec { key: *key("dev sign").public(), usages: &[usage::SIGN] },
            KeySpec { key: *key("dev enc").public(), usages: &[usage::ENCRYPT_KEY] },
        ],
        manufacturer: Manufacturer { maker: "Lab", model: "Dev", number: "1" },
    };
    assert_eq!(spec.signed_bytes(), read.signed);
    let issued = spec.issue(&key("model"));
    assert_eq!(issued.len(), golden.len());
    assert_eq!(issued[..360], golden[..360], "all but r‖s");
    let read = Chain::parse(CHAIN).unwrap();
    let [_, model, ca] = read.certificates() else { panic!("three certificates") };
    let rebuilt = chain(&[&issued, model.bytes, ca.bytes]);
    verify(&rebuilt, &root(), Leaf::Device, NOW_S).unwrap();
}

#[test]
fn golden_server_certificates_are_built_again_up_to_their_signatures() {
    let read = Chain::parse(SERVER_CHAIN).unwrap().certificates()[0].clone();
    let spec = CertificateSpec {
        cert_id: read.cert_id,
        security_level: 0,
        certificate_type: certificate_type::SERVER,
        expiration: NEVER_EXPIRES,
        client_id: [0; 16],
        features: &[],
        keys: &[KeySpec { key: *key("server sign").public(), usages: &[usage::SIGN_RESPONSE] }],
        manufacturer: Manufacturer { maker: "Lab", model: "Signer", number: "1" },
    };
    assert_eq!(spec.signed_bytes(), read.signed);
}

#[test]
fn every_cut_of_a_chain_is_refused() {
    for end in 0..CHAIN.len() {
        assert!(Chain::parse(&CHAIN[..end]).is_err(), "accepted a cut at byte {end}");
    }
    assert!(Chain::parse(&[CHAIN, &[0]].concat()).is_err());
}

#[test]
fn every_changed_byte_is_refused_unless_nobody_reads_it() {
    // The flags of the three SIGNATURE objects: not signed, and of a known object.
    let flags = [20 + 0x164, 520 + 0x104, 924 + 0x104];
    for at in 0..CHAIN.len() {
        let mut changed = CHAIN.to_vec();
        changed[at] ^= 1;
        let outcome = verify(&changed, &root(), Leaf::Device, NOW_S);
        let unread = flags.iter().any(|flag| (flag..&(flag + 2)).contains(&&at));
        assert_eq!(outcome.is_ok(), unread, "byte {at}");
    }
}

#[test]
fn a_chain_under_another_root_is_refused() {
    let other = PrivateKey::generate();
    let outcome = verify(CHAIN, other.public(), Leaf::Device, NOW_S);
    assert_eq!(outcome.err(), Some(ChainError::Root));
}

/// A chain of our own with one thing wrong at a time.
struct Lab {
    root: PrivateKey,
    issuer: PrivateKey,
    sign: PrivateKey,
    encrypt: PrivateKey,
    issuer_type: u32,
    issuer_usages: Vec<u32>,
    issuer_level: u32,
    leaf_type: u32,
    leaf_usages: [u32; 2],
    leaf_expiration: u32,
}

impl Lab {
    fn new() -> Self {
        Self {
            root: PrivateKey::generate(),
            issuer: PrivateKey::generate(),
            sign: PrivateKey::generate(),
            encrypt: PrivateKey::generate(),
            issuer_type: certificate_type::ISSUER,
            issuer_usages: vec![usage::ISSUER_DEVICE],
            issuer_level: 2000,
            leaf_type: certificate_type::DEVICE,
            leaf_usages: [usage::SIGN, usage::ENCRYPT_KEY],
            leaf_expiration: NEVER_EXPIRES,
        }
    }

    fn chain(&self) -> Vec<u8> {
        let base = CertificateSpec {
            cert_id: [1; 16],
            security_level: 2000,
            certificate_type: self.leaf_type,
            expiration: self.leaf_expiration,
            client_id: [2; 16],
            features: &[],
            keys: &[
                KeySpec { key: *self.sign.public(), usages: &self.leaf_usages[..1] },
                KeySpec { key: *self.encrypt.public(), usages: &self.leaf_usages[1..] },
            ],
            manufacturer: Manufacturer { maker: "", model: "m", number: "1234" },
        };
        let issuer = CertificateSpec {
            certificate_type: self.issuer_type,
            security_level: self.issuer_level,
            expiration: NEVER_EXPIRES,
            keys: &[KeySpec { key: *self.issuer.public(), usages: &self.issuer_usages }],
            ..base
        };
        chain(&[&base.issue(&self.issuer), &issuer.issue(&self.root)])
    }

    fn outcome(&self, now_s: u64) -> Option<ChainError> {
        verify(&self.chain(), self.root.public(), Leaf::Device, now_s).err()
    }
}

#[test]
fn a_chain_of_our_own_verifies() {
    assert_eq!(Lab::new().outcome(NOW_S), None);
    let all = Lab { issuer_usages: vec![usage::ISSUER_ALL], ..Lab::new() };
    assert_eq!(all.outcome(NOW_S), None);
}

#[test]
fn a_chain_expires_at_its_second() {
    let lab = Lab { leaf_expiration: 1_700_000_000, ..Lab::new() };
    assert_eq!(lab.outcome(1_699_999_999), None);
    assert_eq!(lab.outcome(1_700_000_000), Some(ChainError::Expired(0)));
    let chain = lab.chain();
    let cache = ChainCache::new(*lab.root.public());
    assert!(cache.verify(&chain, Leaf::Device, 1_699_999_999).is_ok());
    let later = cache.verify(&chain, Leaf::Device, 1_700_000_000);
    assert_eq!(later.err(), Some(ChainError::Expired(0)));
}

#[test]
fn issuers_need_the_type_and_the_usage_for_the_leaf() {
    let lab = Lab { issuer_type: certificate_type::DEVICE, ..Lab::new() };
    assert_eq!(lab.outcome(NOW_S), Some(ChainError::NotAnIssuer(1)));
    for usages in [vec![], vec![usage::ISSUER_SERVER], vec![usage::SIGN, usage::ISSUER_CRL]] {
        let lab = Lab { issuer_usages: usages, ..Lab::new() };
        assert_eq!(lab.outcome(NOW_S), Some(ChainError::NotAnIssuer(1)));
    }
}

#[test]
fn a_child_may_not_claim_more_security_than_its_parent() {
    let lab = Lab { issuer_level: 150, ..Lab::new() };
    assert_eq!(lab.outcome(NOW_S), Some(ChainError::SecurityLevel(1)));
}

#[test]
fn a_device_needs_both_keys_and_its_type() {
    let lab = Lab { leaf_usages: [usage::ENCRYPT_KEY, usage::SIGN], ..Lab::new() };
    assert_eq!(lab.outcome(NOW_S), Some(ChainError::LeafKey), "SIGN must be the first key");
    let lab = Lab { leaf_usages: [usage::SIGN, usage::SIGN], ..Lab::new() };
    assert_eq!(lab.outcome(NOW_S), Some(ChainError::LeafKey));
    let lab = Lab { leaf_type: certificate_type::SERVER, ..Lab::new() };
    assert_eq!(lab.outcome(NOW_S), Some(ChainError::LeafType));
}

#[test]
fn a_certificate_signed_by_another_key_is_refused() {
    let mut lab = Lab::new();
    let chain = lab.chain();
    let at = chain.len() - 144 + 8 + 4;
    let mut forged = chain.clone();
    forged[at..at + 64].copy_from_slice(&lab.issuer.sign(b"anything"));
    let outcome = verify(&forged, lab.root.public(), Leaf::Device, NOW_S);
    assert_eq!(outcome.err(), Some(ChainError::Signature(1)));

    lab.root = PrivateKey::generate();
    let outcome = verify(&chain, lab.root.public(), Leaf::Device, NOW_S);
    assert_eq!(outcome.err(), Some(ChainError::Root));
}

#[test]
fn seven_certificates_are_one_too_many() {
    let lab = Lab::new();
    let two = lab.chain();
    let certificate = &two[20..];
    let seven = [certificate; 7];
    assert!(Chain::parse(&chain(&seven)).is_err());
    assert!(Chain::parse(&chain(&[])).is_err());
}

/// The leaf of a chain with one more object before its signature.
fn with_object(flags: u16, kind: u16) -> Vec<u8> {
    let mut object = Vec::new();
    crate::playready::reader::put_object(&mut object, flags, kind, &[1, 2, 3, 4]);
    let mut bytes = CHAIN.to_vec();
    bytes.splice(20 + 356..20 + 356, object);
    for (at, value) in [(8, 1328u32 + 12), (28, 500 + 12), (32, 356 + 12)] {
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

#[test]
fn unknown_objects_are_skipped_unless_they_must_be_understood() {
    assert!(Chain::parse(&with_object(0, 0x7777)).is_ok());
    assert!(Chain::parse(&with_object(1, 0x7777)).is_err());
    assert!(Chain::parse(&with_object(1, 0x11)).is_ok(), "a known kind");
    assert!(Chain::parse(&with_object(0, kind::FEATURE)).is_err(), "a second FEATURE");
}

proptest! {
    #[test]
    fn mutated_chains_never_panic(
        changes in prop::collection::vec((0..CHAIN.len(), any::<u8>()), 1..8),
        length in 0..CHAIN.len() + 1,
    ) {
        let mut bytes = CHAIN.to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(length);
        let _ = verify(&bytes, &root(), Leaf::Device, NOW_S);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Chain::parse(&bytes);
        let _ = Chain::parse(&[&CHAIN[..20], &bytes].concat());
    }
}
