use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::playready::acknowledge::LicenseResult;
use crate::playready::acquire::HeldList;
use crate::playready::header::{AlgId, Header, HeaderKey, HeaderVersion};
use crate::playready::kid::Kid;
use crate::playready::revocation::RUNTIME_CRL;

const NOW_S: u64 = 1_700_000_000;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../../../tests/golden/", $name))
    };
}

const REQUEST: &str = golden!("request.xml");
const REQUEST_SESSION: &str = golden!("request_session.xml");
const ACK_REQUEST: &str = golden!("ack_request.xml");
const DELETE_REQUEST: &str = golden!("delete_request.xml");
const REQUESTS: [&str; 4] = [REQUEST, REQUEST_SESSION, ACK_REQUEST, DELETE_REQUEST];

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let wmrm = PrivateKey::from_pem(golden!("pki/wmrm.pem").as_bytes()).unwrap();
    let root = PublicKey::from_pem(golden!("pki/root.pub.pem").as_bytes()).unwrap();
    Verifier::new(wmrm, root)
});

static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(golden!("vectors.json")).unwrap());

fn verify(text: &str) -> Result<VerifiedChallenge, Fault> {
    VERIFIER.verify(text.as_bytes(), NOW_S)
}

fn code(text: &str) -> FaultCode {
    verify(text).unwrap_err().code
}

fn vector<const N: usize>(section: &str, name: &str) -> [u8; N] {
    let hex = VECTORS[section][name].as_str().unwrap();
    HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
}

fn kid(last: u8) -> Kid {
    Kid::from(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cd00 + u128::from(last)))
}

fn header(version: HeaderVersion, kids: &[(Kid, [u8; 8])]) -> Header {
    let keys = kids.iter().map(|(kid, checksum)| HeaderKey {
        kid: *kid,
        algid: Some(AlgId::AesCtr),
        checksum: Some(checksum.to_vec()),
    });
    Header::new(version, keys.collect())
}

const CHECKSUM_1: [u8; 8] = *b"\x42\x90\xf8\x71\xd3\xfe\x62\xbd";
const CHECKSUM_2: [u8; 8] = *b"\xe9\x33\x40\xae\x52\x4b\xea\xff";

/// What each golden request says, from the README of the vectors.
fn golden_messages() -> [Message; 4] {
    let lists = vec![HeldList { id: RUNTIME_CRL, version: 0 }];
    let one = header(HeaderVersion::V4_0, &[(kid(0xef), CHECKSUM_1)]);
    let two = [(kid(0xef), CHECKSUM_1), (kid(0xf0), CHECKSUM_2)];
    let request = AcquireRequest {
        client_version: Some("10.0.16384.10011".into()),
        revocation_lists: Some(lists.clone()),
        custom_data: Some("a & b".into()),
        client_time: Some(NOW_S),
        ..AcquireRequest::new(one, vector("challenge", "nonce"))
    };
    let request_session = AcquireRequest {
        client_version: Some("10.0.16384.10011".into()),
        revocation_lists: Some(lists),
        session: Some(vector("flow", "session")),
        client_time: Some(NOW_S),
        ..AcquireRequest::new(header(HeaderVersion::V4_2, &two), vector("flow", "nonce"))
    };
    let results = [kid(0xef), kid(0xf0)].map(|kid| LicenseResult { kid, result: 0 });
    [
        Message::Acquire(request),
        Message::Acquire(request_session),
        Message::Acknowledge(Acknowledgement {
            transaction_id: "29a674c9-0d05-6b59-2985-f6578376377c".parse().unwrap(),
            results: results.to_vec(),
            client_time: Some(NOW_S + 60),
        }),
        Message::Delete(DeleteRequest {
            session: vector("flow", "session"),
            kids: vec![kid(0xef), kid(0xf0)],
        }),
    ]
}

/// Any bytes that look random; the same in every run.
fn random() -> impl FnMut(&mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |bytes| {
        for byte in bytes {
            *byte = next(&mut state).to_le_bytes()[3];
        }
    }
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn device() -> ChallengeSigner {
    device_with(golden!("pki/devices/golden/sign.pem"), &golden_client_data())
}

fn device_with(key: &str, client_data: &ClientData) -> ChallengeSigner {
    let server = PublicKey::from_pem(golden!("pki/wmrm.pub.pem").as_bytes()).unwrap();
    ChallengeSigner::new(PrivateKey::from_pem(key.as_bytes()).unwrap(), client_data, server)
}

fn golden_client_data() -> ClientData {
    ClientData::parse(golden!("clientdata.xml").as_bytes()).unwrap()
}

#[test]
fn every_golden_request_verifies_to_what_it_says() {
    for (text, message) in REQUESTS.into_iter().zip(golden_messages()) {
        let challenge = verify(text).unwrap();
        assert_eq!(challenge.message(), &message);
        let sender = challenge.sender();
        assert_eq!(sender.identity(), &vector("bcert", "device_id"));
        assert_eq!(sender.security_level(), 2000);
        assert!(sender.handles_cbc());
        assert_eq!(sender.features(), ["AESCBC"]);
        assert_eq!(sender.chain().bytes(), include_bytes!("../../../tests/golden/chain.bcert"));
    }
}

#[test]
fn digests_and_spans_are_those_of_the_signed_element() {
    let request = verify(REQUEST).unwrap();
    assert_eq!(request.signed_digest(), &vector("challenge", "la_sha256"));
    assert_eq!(request.request(), REQUEST.as_bytes());
    let signed = &REQUEST[request.signed_span()];
    assert!(signed.starts_with("<LA ") && signed.ends_with("</LA>"));
    let delete = verify(DELETE_REQUEST).unwrap();
    assert_eq!(delete.signed_digest(), &vector("flow", "delete_signed_sha256"));
}

#[test]
fn the_request_of_another_device_carries_its_identity() {
    let other = verify(golden!("delete_request_other_device.xml")).unwrap();
    assert_eq!(other.message(), verify(DELETE_REQUEST).unwrap().message());
    assert_ne!(other.sender().identity(), &vector("bcert", "device_id"));
}

#[test]
fn anything_altered_after_signing_is_refused() {
    for text in [
        golden!("request_tampered.xml"),
        golden!("request_wrapped.xml"),
        golden!("delete_request_tampered.xml"),
    ] {
        assert_eq!(code(text), FaultCode::InvalidMessage);
    }
}

#[test]
fn a_rebuilt_request_has_the_shape_of_its_golden() {
    for (text, message) in REQUESTS.into_iter().zip(golden_messages()) {
        let rebuilt = device().sign(&message, &mut random());
        assert_eq!(masked(&String::from_utf8(rebuilt).unwrap()), masked(text));
    }
}

/// Replaces what is random or follows from it by its length.
fn masked(text: &str) -> String {
    let mut masked = text.to_owned();
    for tag in ["CipherValue", "DigestValue", "SignatureValue"] {
        let parts: Vec<_> = masked.split(&format!("<{tag}>")).map(str::to_owned).collect();
        let (first, rest) = parts.split_first().unwrap();
        let end = format!("</{tag}>");
        let rest = rest.iter().map(|part| {
            let (value, tail) = part.split_once(&end).unwrap();
            format!("<{tag}>{}{end}{tail}", value.len())
        });
        masked = first.clone() + &rest.collect::<String>();
    }
    masked
}

#[test]
fn a_built_request_verifies_to_the_message_it_was_built_from() {
    for message in golden_messages() {
        let built = device().sign(&message, &mut random());
        let challenge = VERIFIER.verify(&built, NOW_S).unwrap();
        assert_eq!(challenge.message(), &message);
    }
}

/// A signed and encrypted request whose signed element was edited before signing.
fn edited(edit: impl Fn(&str) -> String) -> String {
    let [message, ..] = golden_messages();
    let built = String::from_utf8(device().sign(&message, &mut random())).unwrap();
    resigned(&built, edit)
}

/// Edits the signed element and signs again.
fn resigned(request: &str, edit: impl Fn(&str) -> String) -> String {
    use crate::playready::signature;
    use crate::playready::xml::Writer;

    let key = PrivateKey::from_pem(golden!("pki/devices/golden/sign.pem").as_bytes()).unwrap();
    let (before, rest) = request.split_once("<LA ").unwrap();
    let (inner, _) = rest.split_once("</LA>").unwrap();
    let (_, after) = request.split_once("</Signature>").unwrap();
    let mut w = Writer::default();
    w.raw(&edit(&format!("<LA {inner}</LA>")));
    signature::write(&mut w, 0, &key, true);
    format!("{before}{}{after}", w.finish())
}

#[test]
fn accepts_versions_one_to_five_and_names_the_fault_for_others() {
    let with = |version: &str| {
        let element = format!("<Version>{version}</Version><ContentHeader>");
        edited(|la| la.replace("<Version>1</Version><ContentHeader>", &element))
    };
    for version in ["1", "2", "3", "4", "5", " 5 "] {
        assert!(verify(&with(version)).is_ok(), "{version}");
    }
    for version in ["0", "6", "01", "", "x", "4294967297"] {
        assert_eq!(code(&with(version)), FaultCode::ProtocolVersion, "{version}");
    }
}

#[test]
fn an_unknown_version_is_reported_before_a_bad_signature() {
    let text = ACK_REQUEST.replacen("<Version>1<", "<Version>2<", 1);
    assert_eq!(code(&text), FaultCode::ProtocolVersion);
}

#[test]
fn children_come_in_any_order_and_unknown_ones_are_ignored() {
    let custom = "<CustomData>a &amp; b</CustomData>";
    let text = edited(|la| {
        la.replace(custom, "")
            .replace("<ContentHeader>", &format!("<New a='1'><x/></New>{custom}\n <ContentHeader>"))
    });
    let [message, ..] = golden_messages();
    assert_eq!(verify(&text).unwrap().message(), &message);
}

#[test]
fn refuses_a_repeated_or_missing_child() {
    for (from, to) in [
        ("<CustomData>", "<CustomData></CustomData><CustomData>"),
        ("<ClientTime>", "<ClientTime>1</ClientTime><ClientTime>"),
        ("<LicenseNonce>", "<LicenseNonce>AA==</LicenseNonce><X>"),
        ("<Version>1</Version><ContentHeader>", "<ContentHeader>"),
        ("LicenseNonce>", "Nonce>"),
        ("ContentHeader>", "Header>"),
    ] {
        let to = to.replace("<X>", "<LicenseNonce>");
        assert_eq!(code(&edited(|la| la.replace(from, &to))), FaultCode::InvalidMessage, "{from}");
    }
}

#[test]
fn accepts_other_prefixes_byte_order_mark_and_no_declaration() {
    let bare = REQUEST.split_once("?>").unwrap().1;
    assert!(verify(bare).is_ok());
    let marked = format!("\u{feff}{REQUEST}");
    let challenge = verify(&marked).unwrap();
    assert!(marked[challenge.signed_span()].starts_with("<LA "));
    for prefix in ["s:", "SOAP-ENV:"] {
        let declaration = format!("xmlns:{}", prefix.trim_end_matches(':'));
        let text = REQUEST.replace("soap:", prefix).replace("xmlns:soap", &declaration);
        assert!(verify(&text).is_ok(), "{prefix}");
    }
    let spaced = REQUEST.replace("<soap:Body>", "\r\n <soap:Body>\r\n\t");
    assert!(verify(&spaced).is_ok());
}

#[test]
fn accepts_white_space_in_base64() {
    let text = REQUEST.replace("<SignatureValue>", "<SignatureValue>\r\n  ");
    assert!(verify(&text).is_ok());
    let text = edited(|la| la.replace("<CipherValue>", "<CipherValue>\n "));
    assert!(verify(&text).is_ok());
}

#[test]
fn refuses_every_way_to_wrap_the_signature() {
    let la_start = REQUEST.find("<LA ").unwrap();
    let la_end = REQUEST.find("</LA>").unwrap() + 5;
    let la = &REQUEST[la_start..la_end];
    let signature = &REQUEST[la_end..REQUEST.find("</Challenge>").unwrap()];
    let head = |inner: &str| {
        let header = format!("<soap:Header>{inner}</soap:Header><soap:Body>");
        REQUEST.replacen("<soap:Body>", &header, 1)
    };
    let wrapped = [
        head(la),
        head(signature),
        head("<x Id='SignedData'/>"),
        head("<x xml:id='SignedData'/>"),
        head("<x ID='&#83;ignedData'/>"),
        head("<LA xmlns='http://schemas.microsoft.com/DRM/2007/03/protocols'/>"),
        head("<p:SignedInfo xmlns:p='http://www.w3.org/2000/09/xmldsig#'/>"),
        head("<EncryptedData xmlns='http://www.w3.org/2001/04/xmlenc#'/>"),
        REQUEST.replace("</Challenge>", &format!("{la}</Challenge>")),
        REQUEST.replace("</Challenge>", "<x/></Challenge>"),
        REQUEST.replace(&format!("{la}{signature}"), &format!("{signature}{la}")),
        REQUEST.replace(la, &format!("<x>{la}</x>")),
        REQUEST.replace(" Id=\"SignedData\"", ""),
        REQUEST.replace("</SignedInfo>", "</SignedInfo><x/>"),
        REQUEST.replace("<Challenge ", "<Challenge Id='SignedData' "),
    ];
    assert!(verify(&head("<x Id='Other'/>")).is_ok());
    for text in wrapped {
        assert_ne!(text, REQUEST);
        assert_eq!(code(&text), FaultCode::InvalidMessage, "{text}");
    }
}

/// A prefix that only the envelope declares has no meaning in the signed bytes.
#[test]
fn refuses_names_that_depend_on_an_ancestor() {
    let text = edited(|la| la.replace("<CLIENTINFO>", "<soap:X></soap:X><CLIENTINFO>"));
    assert_eq!(code(&text), FaultCode::InvalidMessage);
    let prefixed = edited(|la| la.replacen("<LA ", "<q:LA ", 1).replace("</LA>", "</q:LA>"));
    let declared = format!("<soap:Envelope xmlns:q=\"{PROTOCOLS}\"");
    let text = prefixed.replacen("<soap:Envelope", &declared, 1);
    assert_eq!(code(&text), FaultCode::InvalidMessage);
    let own = format!("<q:LA xmlns:q=\"{PROTOCOLS}\"");
    let text = edited(|la| la.replacen("<LA", &own, 1).replace("</LA>", "</q:LA>"));
    assert!(verify(&text).is_ok());
}

#[test]
fn refuses_other_algorithms_and_transforms() {
    let key = PrivateKey::from_pem(golden!("pki/devices/golden/sign.pem").as_bytes()).unwrap();
    let with = |from: &str, to: &str| {
        let start = REQUEST.find("<SignedInfo").unwrap();
        let end = REQUEST.find("</SignedInfo>").unwrap() + "</SignedInfo>".len();
        let info = REQUEST[start..end].replacen(from, to, 1);
        let value = data_encoding::BASE64.encode(&key.sign(info.as_bytes()));
        let (_, after) = REQUEST.split_once("</SignatureValue>").unwrap();
        let before = &REQUEST[..start];
        format!("{before}{info}<SignatureValue>{value}</SignatureValue>{after}")
    };
    assert!(verify(&with("<Reference", "\n<Reference")).is_ok());
    for (from, to) in [
        ("xml-c14n-20010315", "xml-exc-c14n"),
        ("#ecdsa-sha256", "#ecdsa-sha1"),
        ("protocols#sha256", "protocols#sha1"),
        ("#SignedData", ""),
        ("#SignedData", "#Other"),
        ("<DigestMethod", "<Transforms></Transforms><DigestMethod"),
        ("</DigestValue>", "</DigestValue><x></x>"),
        ("</Reference>", "</Reference><Reference></Reference>"),
        ("<DigestValue>d", "<DigestValue>e"),
    ] {
        let text = with(from, to);
        assert_ne!(text, REQUEST);
        assert_eq!(code(&text), FaultCode::InvalidMessage, "{from} -> {to}");
    }
}

/// All faults from decryption to the comparison of keys are one (section 2.4).
#[test]
fn failures_after_the_signature_are_indistinguishable() {
    let cipher_value = |la: &str, index: usize, flip: usize| {
        let at = la.match_indices("<CipherValue>").nth(index).unwrap().0 + 13 + flip;
        let other = if la.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &la[..at], &la[at + 1..])
    };
    let last = |la: &str| la.rfind("</CipherValue>").unwrap() - la.rfind("<CipherValue>").unwrap();
    let unknown_root = ClientData { chain: vec![0; 100], ..golden_client_data() };
    let not_the_leaf = golden_client_data();
    let [message, ..] = golden_messages();
    let other_key = golden!("pki/devices/golden-b/sign.pem");
    let sign =
        |device: ChallengeSigner| String::from_utf8(device.sign(&message, &mut random())).unwrap();
    let texts = [
        edited(|la| la.replace("WMRMServer", "WMRMServes")),
        edited(|la| la.replace("#ecc256", "#ecc257")),
        edited(|la| la.replace("#aes128-cbc", "#aes256-cbc")),
        // The encrypted point, the IV, a block in the middle, the padding.
        edited(|la| cipher_value(la, 0, 5)),
        edited(|la| cipher_value(la, 1, 5)),
        edited(|la| cipher_value(la, 1, 900)),
        edited(|la| cipher_value(la, 1, last(la) - 13 - 8)),
        sign(device_with(golden!("pki/devices/golden/sign.pem"), &unknown_root)),
        sign(device_with(other_key, &not_the_leaf)),
    ];
    let faults: Vec<_> = texts.iter().map(|text| verify(text).unwrap_err()).collect();
    for fault in &faults {
        assert_eq!(fault, &Fault::invalid_message(NOT_ACCEPTED));
    }
}

#[test]
fn a_chain_of_another_root_is_refused() {
    let wmrm = PrivateKey::from_pem(golden!("pki/wmrm.pem").as_bytes()).unwrap();
    let stranger = PrivateKey::generate();
    let verifier = Verifier::new(wmrm, *stranger.public());
    let fault = verifier.verify(REQUEST.as_bytes(), NOW_S).unwrap_err();
    assert_eq!(fault, Fault::invalid_message(NOT_ACCEPTED));
}

#[test]
fn refuses_a_utf16_wrapper() {
    let text = "<PlayReadyKeyMessage type=\"LicenseAcquisition\"></PlayReadyKeyMessage>";
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(VERIFIER.verify(&wide, NOW_S).is_err());
    assert_eq!(code(text), FaultCode::InvalidMessage);
}

#[test]
fn every_truncation_of_every_golden_request_is_refused() {
    for text in REQUESTS {
        for end in 0..text.len() {
            let cut = VERIFIER.verify(&text.as_bytes()[..end], NOW_S);
            assert!(cut.is_err(), "accepted a cut at byte {end}");
        }
    }
}

/// Random damage never panics, and what still verifies says what was signed.
#[test]
fn mutations_verify_only_if_what_is_signed_is_untouched() {
    let count = std::env::var("LICENSE_LEDGER_MUTATIONS");
    let count: u32 = count.map_or(5_000, |text| text.parse().unwrap());
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut survivors = 0_u32;
    for text in REQUESTS {
        let original = verify(text).unwrap();
        for _ in 0..count {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..=next(&mut state) % 3 {
                mutate(&mut bytes, &mut state);
            }
            if let Ok(mutant) = VERIFIER.verify(&bytes, NOW_S) {
                survivors += 1;
                assert_eq!(mutant.signed_digest(), original.signed_digest());
                assert_eq!(mutant.sender().identity(), original.sender().identity());
                assert_eq!(mutant.message(), original.message());
            }
        }
    }
    // Damage to unused namespace declarations is harmless, so the loop has reached the end.
    assert!(survivors > 0);
}

fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    const TOKENS: [&str; 12] = [
        "<",
        ">",
        "/>",
        "&",
        "&#0;",
        "\"",
        "<x/>",
        " Id='SignedData'",
        "xmlns:p='urn:x'",
        "</LA>",
        "<!--",
        "\u{fffd}",
    ];
    let mut below = |limit: usize| {
        let value = next(state) >> 16;
        usize::try_from(value % u64::try_from(limit.max(1)).unwrap()).unwrap()
    };
    let at = below(bytes.len());
    match below(6) {
        0 => bytes[at] ^= 1 << below(8),
        1 => bytes[at] = b' ' + u8::try_from(below(95)).unwrap(),
        2 => drop(bytes.drain(at..bytes.len().min(at + 1 + below(8)))),
        3 => drop(bytes.splice(at..at, TOKENS[below(TOKENS.len())].bytes())),
        4 => {
            let end = bytes.len().min(at + 1 + below(300));
            let copy = bytes[at..end].to_vec();
            let to = below(bytes.len());
            drop(bytes.splice(to..to, copy));
        }
        _ => {
            let other = below(bytes.len());
            bytes.swap(at, other);
        }
    }
}
