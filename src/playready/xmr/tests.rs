use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

use super::conditions::{Issue, decode, encode_global, encode_play};
use super::seal::seal_wrapped;
use super::tree::Node;
use super::*;
use crate::playready::content_key::{ContentKey, KeyType};
use crate::playready::ecc::{PrivateKey, PublicKey};
use crate::playready::elgamal::{Point, decrypt, encrypt};
use crate::playready::kid::Kid;
use crate::playready::policy::tests::any_policy;
use crate::playready::policy::{
    BinaryId, Data, DomainBinding, ExtendedRestriction, LISTED_DATA_BYTES_MAX, LISTED_MAX,
    LicensePolicy, OutputProtection, SecurityLevel,
};
use crate::playready::reader::put_object;

const LICENSE: &[u8] = include_bytes!("../../../tests/golden/license.xmr");
const POLICIES: &[u8] = include_bytes!("../../../tests/golden/license_policies.xmr");
const ROOT: &[u8] = include_bytes!("../../../tests/golden/root_license.xmr");
const LEAF: &[u8] = include_bytes!("../../../tests/golden/leaf_license.xmr");
const DEVICE: &[u8] = include_bytes!("../../../tests/golden/pki/devices/golden/encrypt.pem");
const ISSUED_S: u32 = 1_700_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/vectors.json")).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

fn kid(value: &Value) -> Kid {
    value.as_str().unwrap().parse::<Uuid>().unwrap().into()
}

fn device() -> PrivateKey {
    PrivateKey::from_pem(DEVICE).unwrap()
}

fn os_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}

/// Hands out the given values, in this order, and fails if more is asked for.
fn draws(values: Vec<Vec<u8>>) -> impl FnMut(&mut [u8]) {
    let mut values = values.into_iter();
    move |out| out.copy_from_slice(&values.next().unwrap())
}

/// The policy of `license.xmr`.
fn basic_policy() -> LicensePolicy {
    LicensePolicy {
        end: Some(1_700_003_600),
        cvopl: 500,
        ucvopl: 300,
        avopl: 200,
        caopl: 300,
        ucaopl: 300,
        ..LicensePolicy::new(SecurityLevel::Software)
    }
}

/// The policy of `license_policies.xmr`.
fn full_policy() -> LicensePolicy {
    let protection = |id: &str, data: &[u8]| OutputProtection {
        id: id.parse().unwrap(),
        data: Data(data.to_vec()),
    };
    LicensePolicy {
        persist: true,
        begin: Some(1_699_999_700),
        end: Some(1_702_592_000),
        first_play_seconds: Some(172_800),
        real_time: true,
        grace_seconds: Some(3600),
        source_id: Some(267),
        metering_id: Some(BinaryId(array(&"8dc885b9df7fb1ed6f8d88f0be739f6d".into()))),
        cvopl: 400,
        ucvopl: 250,
        avopl: 100,
        caopl: 100,
        ucaopl: 150,
        avop: vec![protection("c3fd11c6-f8b7-4d20-b008-1db17d61f2da", &[2, 0, 0, 0])],
        daop: vec![protection("6d5cfa59-c250-4426-930e-fac72c8fcfa6", &[0, 0, 0, 1])],
        dvop: vec![
            protection("9645e831-e01d-4fff-8342-0a720e3e028f", &[0, 0, 4, 56, 0, 0, 7, 128]),
            protection("abb2c6f1-e663-4625-a945-972d17b231e7", &[0, 0, 0, 1]),
        ],
        play_enablers: vec![
            "786627d8-c2a6-44be-8f88-08ae255b01a7".parse().unwrap(),
            "5abf0f0d-dc29-4b82-9982-fd8e57525bfc".parse().unwrap(),
        ],
        extended_restrictions: vec![ExtendedRestriction {
            kind: 400,
            must_understand: false,
            best_effort: true,
            data: Data(vec![1, 2]),
        }],
        ..LicensePolicy::new(SecurityLevel::Software)
    }
}

/// Device certificates state how large a license they take (section 3).
#[test]
fn the_largest_license_that_a_policy_can_make_is_one_that_devices_take() {
    let id = Some(BinaryId([7; 16]));
    let protection =
        |bytes| OutputProtection { id: Uuid::from_u128(7), data: Data(vec![7; bytes]) };
    let restriction = ExtendedRestriction {
        kind: 400,
        must_understand: true,
        best_effort: true,
        data: Data(vec![7; LISTED_DATA_BYTES_MAX / 2]),
    };
    let policy = LicensePolicy {
        persist: false,
        secure_stop_id: id,
        dvop: vec![protection(0); LISTED_MAX - 4],
        daop: vec![protection(0)],
        avop: vec![protection(LISTED_DATA_BYTES_MAX / 2)],
        play_enablers: vec![Uuid::from_u128(7)],
        extended_restrictions: vec![restriction],
        ..full_policy()
    };
    assert_eq!(policy.check(), Ok(()));
    // What no license has together, each with the object it would need.
    let all = LicensePolicy {
        removal: Some(1),
        domain: Some(DomainBinding { account_id: BinaryId([7; 16]), revision: 1 }),
        ..policy
    };
    let spec = LicenseSpec {
        rights_id: [1; 16],
        kid: Kid::from(Uuid::from_u128(1)),
        key_type: KeyType::AesCtr,
        content_key: &ContentKey::new([2; 16]),
        policy: &all,
        issue_date: ISSUED_S,
        revinfo_version: 87,
    };
    let sealed = seal(&spec, device().public(), &mut os_random);
    assert!((9_900..=10_240).contains(&sealed.len()), "{}", sealed.len());
}

#[test]
fn golden_license_is_sealed_to_the_byte() {
    let case = &vectors()["xmr"];
    let content_key = ContentKey::new(array(&case["ck"]));
    let spec = LicenseSpec {
        rights_id: array(&vectors()["challenge"]["nonce"]),
        kid: kid(&case["kid"]),
        key_type: KeyType::AesCtr,
        content_key: &content_key,
        policy: &basic_policy(),
        issue_date: ISSUED_S,
        revinfo_version: 87,
    };
    let mut random = draws(vec![hex(&case["ci"]), hex(&case["elgamal_k"])]);
    let sealed = seal(&spec, device().public(), &mut random);
    assert_eq!(HEXLOWER.encode(&sealed), HEXLOWER.encode(LICENSE));
    assert_eq!(HEXLOWER.encode(&sealed), case["license"]);
}

#[test]
fn golden_license_opens() {
    let case = &vectors()["xmr"];
    let opened = open(LICENSE, &device()).unwrap();
    assert_eq!(opened.rights_id, array::<16>(&vectors()["challenge"]["nonce"]));
    assert_eq!(opened.kid, kid(&case["kid"]));
    assert_eq!(opened.key_type, KeyType::AesCtr);
    assert_eq!(opened.content_key.expose().to_vec(), hex(&case["ck"]));
    assert_eq!(opened.policy, basic_policy());
    assert_eq!(opened.issue_date, ISSUED_S);
    assert_eq!(opened.revinfo_version, 87);
}

#[test]
fn golden_license_with_most_conditions_opens_and_is_sealed_again_to_the_byte() {
    let opened = open(POLICIES, &device()).unwrap();
    assert_eq!(opened.policy, full_policy());
    assert_eq!(opened.key_type, KeyType::AesCbc);
    assert_eq!(reseal(POLICIES, &opened), POLICIES);
}

#[test]
fn golden_root_and_leaf_open_and_are_sealed_again_to_the_byte() {
    let case = &vectors()["chained"];
    let root = open(ROOT, &device()).unwrap();
    assert_eq!(root.kid, kid(&case["root_kid"]));
    assert_eq!(root.content_key.expose().to_vec(), hex(&case["root_ck"]));
    assert_eq!(reseal(ROOT, &root), ROOT);

    let root = Root { kid: root.kid, key: &root.content_key };
    let leaf = open_leaf(LEAF, &root).unwrap();
    assert_eq!(leaf.kid, kid(&case["leaf_kid"]));
    assert_eq!(leaf.content_key.expose().to_vec(), hex(&case["leaf_ck"]));
    let spec = spec_of(&leaf);
    let sealed = seal_leaf(&spec, &root, &mut draws(vec![hex(&case["leaf_ci"])]));
    assert_eq!(HEXLOWER.encode(&sealed), HEXLOWER.encode(LEAF));
}

#[test]
fn a_leaf_opens_under_its_root_only() {
    let device = device();
    let root_key = open(ROOT, &device).unwrap();
    let root = Root { kid: root_key.kid, key: &root_key.content_key };
    assert_eq!(open(LEAF, &device).err(), Some(OpenError::NeedsRoot(root.kid)));
    let other_key = ContentKey::new([7; 16]);
    let other = Root { kid: root.kid, key: &other_key };
    assert_eq!(open_leaf(LEAF, &other).err(), Some(OpenError::OtherRoot));
    assert_eq!(open_leaf(ROOT, &root).err(), Some(OpenError::OtherRoot));
}

fn spec_of(opened: &OpenedLicense) -> LicenseSpec<'_> {
    LicenseSpec {
        rights_id: opened.rights_id,
        kid: opened.kid,
        key_type: opened.key_type,
        content_key: &opened.content_key,
        policy: &opened.policy,
        issue_date: opened.issue_date,
        revinfo_version: opened.revinfo_version,
    }
}

/// Seals what was opened, with the wrapped key of the original, since k of it is not known.
fn reseal(original: &[u8], opened: &OpenedLicense) -> Vec<u8> {
    let device = device();
    let at = original.len() - SIGNATURE_OBJECT_BYTES - 76 - 128;
    let wrapped = &original[at..at + 128];
    let point = decrypt(&device, wrapped).unwrap();
    let ci = Zeroizing::new(point.x()[..16].try_into().unwrap());
    seal_wrapped(&spec_of(opened), device.public(), &ci, wrapped)
}

#[test]
fn every_cut_and_every_changed_byte_is_refused() {
    let device = device();
    for license in [LICENSE, POLICIES] {
        for end in 0..license.len() {
            assert!(open(&license[..end], &device).is_err(), "accepted a cut at byte {end}");
        }
        assert!(open(&[license, &[0]].concat(), &device).is_err());
        // The flags of the signature object are outside the MAC and not read.
        let unread = license.len() - SIGNATURE_OBJECT_BYTES;
        for at in (0..license.len()).filter(|at| !(unread..unread + 2).contains(at)) {
            let mut changed = license.to_vec();
            changed[at] ^= 1;
            assert!(open(&changed, &device).is_err(), "accepted a change of byte {at}");
        }
    }
}

#[test]
fn another_devices_license_is_refused() {
    let other = PrivateKey::generate();
    assert_eq!(open(LICENSE, &other).err(), Some(OpenError::OtherDevice));
}

#[test]
fn integrity_keys_avoid_leading_zeros_and_abscissas_off_the_curve() {
    let content_key = ContentKey::new([3; 16]);
    let mut ci = [0; 16];
    let (mut good, mut bad) = (None, None);
    for first in 1..=u8::MAX {
        ci[0] = first;
        let x = [ci, [3; 16]].concat().try_into().unwrap();
        let place = if Point::from_x(&x).is_some() { &mut good } else { &mut bad };
        *place = Some(ci.to_vec());
    }
    let policy = LicensePolicy::new(SecurityLevel::Test);
    let spec = LicenseSpec {
        rights_id: [1; 16],
        kid: Uuid::from_u128(2).into(),
        key_type: KeyType::AesCtr,
        content_key: &content_key,
        policy: &policy,
        issue_date: 0,
        revinfo_version: 0,
    };
    let values = vec![vec![0; 16], bad.unwrap(), good.unwrap(), vec![9; 32]];
    let sealed = seal(&spec, device().public(), &mut draws(values));
    let opened = open(&sealed, &device()).unwrap();
    assert_eq!(opened.content_key.expose(), content_key.expose());
}

/// A license for `device()` around these objects, with a right MAC.
fn license_of(global: &[u8], play: Option<&[u8]>, extra: &[u8]) -> Vec<u8> {
    let recipient: PublicKey = *device().public();
    let (ci, point) = loop {
        let mut x = [1; 32];
        os_random(&mut x[..16]);
        if let Some(point) = Point::from_x(&x) {
            break (Zeroizing::new(x[..16].try_into().unwrap()), point);
        }
    };
    let wrapped = encrypt(&recipient, &point, &mut os_random);
    let mut material = Vec::new();
    let content_key = [&[5; 16][..], &[0, 1, 0, 3, 0, 128], &wrapped].concat();
    put_object(&mut material, 1, kind::CONTENT_KEY, &content_key);
    let device_key = [&[0, 1, 0, 64], &recipient.xy()[..]].concat();
    put_object(&mut material, 0, kind::DEVICE_KEY, &device_key);

    let mut parts = Vec::new();
    put_object(&mut parts, 3, kind::GLOBAL_POLICY, global);
    if let Some(play) = play {
        put_object(&mut parts, 2, kind::PLAYBACK, play);
    }
    put_object(&mut parts, 3, kind::KEY_MATERIAL, &material);
    parts.extend_from_slice(extra);
    let mut outer = Vec::new();
    put_object(&mut outer, 3, kind::OUTER, &[&parts[..], &[0; SIGNATURE_OBJECT_BYTES]].concat());
    outer.truncate(outer.len() - SIGNATURE_OBJECT_BYTES);
    let mut license = [&PREAMBLE[..], &[6; 16], &outer].concat();
    let tag = mac(&ci, &license).finalize().into_bytes();
    put_object(&mut license, 1, kind::SIGNATURE, &[&[0, 1, 0, 16], &tag[..]].concat());
    license
}

fn object(flags: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_object(&mut out, flags, kind, body);
    out
}

fn outcome(global: &[u8], play: Option<&[u8]>, extra: &[u8]) -> Option<OpenError> {
    open(&license_of(global, play, extra), &device()).err()
}

#[test]
fn a_license_needs_its_parts() {
    let level = object(1, kind::SECURITY_LEVEL, &2000u16.to_be_bytes());
    assert_eq!(outcome(&level, Some(&[]), &[]), None);
    assert_eq!(outcome(&level, None, &[]), Some(OpenError::NoPlayRight));
    assert!(outcome(&[], Some(&[]), &[]).is_some(), "no security level");
    let twice = [&level[..], &level].concat();
    assert!(outcome(&twice, Some(&[]), &[]).is_some());
    let second_play = object(2, kind::PLAYBACK, &[]);
    assert!(outcome(&level, Some(&[]), &second_play).is_some());
}

#[test]
fn unknown_objects_are_skipped_unless_they_must_be_understood() {
    let level = object(1, kind::SECURITY_LEVEL, &2000u16.to_be_bytes());
    let refused = Some(OpenError::NotUnderstood(0x00F0));
    for (flags, expected) in [(0, None), (2, None), (1, refused), (3, refused)] {
        let unknown = object(flags, 0x00F0, &[]);
        let global = [&unknown[..], &level].concat();
        assert_eq!(outcome(&global, Some(&[]), &[]), expected);
        assert_eq!(outcome(&level, Some(&unknown), &[]), expected);
        assert_eq!(outcome(&level, Some(&[]), &unknown), expected);
    }
    let restriction = object(1, 0x0190, &[1]);
    let outcome = outcome(&level, Some(&restriction), &[]);
    assert_eq!(outcome, Some(OpenError::NotUnderstood(0x0190)));
}

#[test]
fn depth_and_number_of_objects_are_bounded() {
    let level = object(1, kind::SECURITY_LEVEL, &2000u16.to_be_bytes());
    let nested = |depth: usize| (0..depth).fold(Vec::new(), |body, _| object(2, 0x00F0, &body));
    // OUTER is the first container.
    assert_eq!(outcome(&level, Some(&[]), &nested(7)), None);
    assert!(outcome(&level, Some(&[]), &nested(8)).is_some());
    // OUTER, its three parts, level, two keys and the signature are 8.
    assert_eq!(outcome(&level, Some(&[]), &object(0, 0x00F0, &[]).repeat(248)), None);
    assert!(outcome(&level, Some(&[]), &object(0, 0x00F0, &[]).repeat(249)).is_some());
}

proptest! {
    #[test]
    fn any_policy_survives_encoding_and_decoding(
        policy in any_policy(),
        issue_date: u32,
        revinfo_version: u32,
    ) {
        let issue = Issue { issue_date, revinfo_version };
        let (global, play) = (encode_global(&policy, issue), encode_play(&policy));
        let global_node = object(3, kind::GLOBAL_POLICY, &global);
        let play_node = object(2, kind::PLAYBACK, &play);
        let (read, read_issue) = decode(
            Node::parse(&global_node).unwrap().container().unwrap(),
            Node::parse(&play_node).unwrap().container().unwrap(),
        ).unwrap();
        prop_assert_eq!(&read, &policy);
        prop_assert_eq!(read_issue, issue);
        prop_assert_eq!(encode_global(&read, issue), global);
        prop_assert_eq!(encode_play(&read), play);
    }

    /// The same for whole licenses, as far as a device reads them.
    #[test]
    fn any_policy_is_sealed_again_to_the_byte(
        policy in any_policy().prop_map(|mut policy| {
            let restrictions = policy.extended_restrictions.iter_mut();
            restrictions.for_each(|one| one.must_understand = false);
            policy
        }),
        ids: [[u8; 16]; 2],
        keys: [[u8; 16]; 2],
        issue_date: u32,
        cbc: bool,
    ) {
        let [root_key, content_key] = keys.map(ContentKey::new);
        let root = Root { kid: Uuid::from_u128(7).into(), key: &root_key };
        let [rights_id, kid] = ids;
        let spec = LicenseSpec {
            rights_id,
            kid: Uuid::from_bytes(kid).into(),
            key_type: if cbc { KeyType::AesCbc } else { KeyType::AesCtr },
            content_key: &content_key,
            policy: &policy,
            issue_date,
            revinfo_version: 87,
        };
        let leaf = seal_leaf(&spec, &root, &mut draws(vec![vec![3; 16]]));
        let opened = open_leaf(&leaf, &root).unwrap();
        prop_assert_eq!(&opened.policy, &policy);
        let again = seal_leaf(&spec_of(&opened), &root, &mut draws(vec![vec![3; 16]]));
        prop_assert_eq!(again, leaf);

        let mut seed = 0;
        let mut random = |bytes: &mut [u8]| {
            seed += 1;
            bytes.fill(seed);
        };
        let license = seal(&spec, device().public(), &mut random);
        let opened = open(&license, &device()).unwrap();
        prop_assert_eq!(&opened.policy, &policy);
        prop_assert_eq!(opened.root_kid, None);
        prop_assert_eq!(reseal(&license, &opened), license);
    }

    #[test]
    fn mutated_licenses_never_panic(
        changes in prop::collection::vec((0..POLICIES.len(), any::<u8>()), 1..8),
        length in 0..POLICIES.len() + 1,
    ) {
        let mut bytes = POLICIES.to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(length);
        let _ = open(&bytes, &device());
    }
}
