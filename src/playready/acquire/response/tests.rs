use data_encoding::HEXLOWER;

use super::*;
use crate::playready::ecc::PublicKey;
use crate::playready::soap::{Fault, FaultCode};

const NOW_S: u64 = 1_700_000_000;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/golden/", $name))
    };
}

const RESPONSE: &str = golden!("response.xml");
const RESPONSE_PERSISTENT: &str = golden!("response_persistent.xml");
const LICENSE: &[u8] = include_bytes!("../../../../tests/golden/license.xmr");
const SERVER_CHAIN: &[u8] = include_bytes!("../../../../tests/golden/server_chain.bcert");
const REV_INFO: &str = golden!("pki/revinfo.xml");

fn hex<const N: usize>(text: &str) -> [u8; N] {
    HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

fn nonce() -> [u8; 16] {
    hex("2714adecffaf580e921311e5acec0ebf")
}

fn nonce_persistent() -> [u8; 16] {
    hex("467f4ce0b46a3551dfee89630fb9909c")
}

fn signer(which: SignResponses) -> ResponseSigner {
    let key = PrivateKey::from_pem(golden!("pki/server_sign.pem").as_bytes()).unwrap();
    ResponseSigner::new(key, SERVER_CHAIN, which)
}

fn trust() -> ResponseTrust {
    let root = PublicKey::from_pem(golden!("pki/root.pub.pem").as_bytes()).unwrap();
    ResponseTrust { chains: ChainCache::new(root), accept_unsigned: false }
}

fn verify(text: &str, nonce: [u8; 16]) -> Result<AcquireResponse, ResponseError> {
    AcquireResponse::verify(text.as_bytes(), &nonce, &trust(), NOW_S)
}

fn answer<'a>(licenses: &'a [Vec<u8>], nonce: &'a [u8; 16]) -> LicenseAnswer<'a> {
    LicenseAnswer {
        licenses,
        persistent: false,
        rev_info: None,
        transaction_id: None,
        custom_data: None,
        nonce,
        response_id: &[7; 32],
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Everything up to the value of the signature, which is random.
fn before_signature(text: &str) -> &str {
    text.split_once("<SignatureValue>").unwrap().0
}

#[test]
fn the_golden_response_is_verified_and_written_again() {
    let read = verify(RESPONSE, nonce()).unwrap();
    assert_eq!(read.licenses, [LICENSE]);
    assert_eq!(read.transaction_id, None);
    assert_eq!(read.signer.unwrap().bytes(), SERVER_CHAIN);
    let nonce = nonce();
    let again = LicenseAnswer { response_id: &read.response_id, ..answer(&read.licenses, &nonce) };
    let again = text(again.render(&signer(SignResponses::Always)));
    assert_eq!(before_signature(&again), before_signature(RESPONSE));
    assert_eq!(again.len(), RESPONSE.len());
    assert!(verify(&again, nonce).is_ok());
}

#[test]
fn the_golden_persistent_response_is_verified_and_written_again() {
    let nonce = nonce_persistent();
    let read = verify(RESPONSE_PERSISTENT, nonce).unwrap();
    assert_eq!(read.licenses.len(), 2);
    let id = "29a674c9-0d05-6b59-2985-f6578376377c";
    assert_eq!(read.transaction_id.unwrap().to_string(), id);
    let again = LicenseAnswer {
        response_id: &read.response_id,
        transaction_id: read.transaction_id,
        persistent: true,
        ..answer(&read.licenses, &nonce)
    };
    let again = text(again.render(&signer(SignResponses::Persistent)));
    assert_eq!(before_signature(&again), before_signature(RESPONSE_PERSISTENT));
    assert_eq!(again.len(), RESPONSE_PERSISTENT.len());
    assert!(verify(&again, nonce).is_ok());
}

#[test]
fn optional_parts_stand_in_the_order_of_the_protocol_page() {
    let (licenses, nonce) = ([LICENSE.to_vec()], nonce());
    let full = LicenseAnswer {
        rev_info: Some(REV_INFO),
        transaction_id: Some(Uuid::nil()),
        custom_data: Some("\u{fc} & <x>"),
        ..answer(&licenses, &nonce)
    };
    let rendered = text(full.render(&signer(SignResponses::Always)));
    assert!(rendered.is_ascii());
    let order = [
        "<Version>1</Version>",
        "</Licenses><RevInfo><Revocation><ListID>",
        "</RevInfo><Acknowledgement><TransactionID>",
        "</Acknowledgement><CustomData>&#252; &amp; &lt;x&gt;</CustomData><LicenseNonce>",
        "</LicenseNonce><ResponseID>",
        "</ResponseID><SigningCertificateChain>",
        "</SigningCertificateChain></LicenseResponse><Signature ",
        "</SignedInfo><SignatureValue>",
        "</SignatureValue></Signature></Response>",
    ];
    let found: Vec<_> = order.iter().map(|part| rendered.find(part).expect(part)).collect();
    assert!(found.is_sorted());
    let read = verify(&rendered, nonce).unwrap();
    assert_eq!(read.custom_data.as_deref(), Some("\u{fc} & <x>"));
    assert_eq!(read.rev_info.unwrap().element, REV_INFO);
}

#[test]
fn a_response_is_signed_as_the_policy_says() {
    let (licenses, nonce) = ([LICENSE.to_vec()], nonce());
    for (which, persistent, signed) in [
        (SignResponses::Always, false, true),
        (SignResponses::Always, true, true),
        (SignResponses::Persistent, false, false),
        (SignResponses::Persistent, true, true),
        (SignResponses::Never, false, false),
        (SignResponses::Never, true, false),
    ] {
        let answer = LicenseAnswer { persistent, ..answer(&licenses, &nonce) };
        let rendered = text(answer.render(&signer(which)));
        assert_eq!(rendered.contains("<Signature "), signed);
        assert_eq!(rendered.contains("<SigningCertificateChain>"), signed);
        assert_eq!(verify(&rendered, nonce).is_ok(), signed);
        let lenient = ResponseTrust { accept_unsigned: true, ..trust() };
        let read = AcquireResponse::verify(rendered.as_bytes(), &nonce, &lenient, NOW_S);
        assert_eq!(read.unwrap().signer.is_some(), signed);
    }
}

#[test]
fn a_client_refuses_what_is_not_the_answer_to_its_request() {
    let other = verify(RESPONSE, [1; 16]);
    assert!(matches!(other, Err(ResponseError::NotOurs("LicenseNonce"))));
    let fault = Fault::new(FaultCode::DeviceRevoked, "").render();
    let Err(ResponseError::Fault(fault)) = verify(&text(fault), nonce()) else {
        panic!("a fault was not recognized");
    };
    assert_eq!(fault.code, FaultCode::DeviceRevoked);
    assert!(verify(golden!("ack_response.xml"), nonce()).is_err());
}

#[test]
fn a_client_refuses_altered_and_badly_signed_answers() {
    let start = RESPONSE.find("<License>").unwrap() + 30;
    let mut altered = RESPONSE.to_owned();
    altered.replace_range(start..=start, "x");
    assert!(matches!(
        verify(&altered, nonce()),
        Err(ResponseError::Signature(signature::SignatureError::Digest))
    ));
    let unsigned = RESPONSE.split_once("<Signature ").unwrap();
    let unsigned = unsigned.0.to_owned() + unsigned.1.split_once("</Signature>").unwrap().1;
    assert!(matches!(verify(&unsigned, nonce()), Err(ResponseError::Unsigned)));
    let no_chain = RESPONSE.replace("SigningCertificateChain>", "X>");
    assert!(matches!(verify(&no_chain, nonce()), Err(ResponseError::Field(_))));

    let (licenses, nonce) = ([LICENSE.to_vec()], nonce());
    let stranger = ResponseSigner::new(PrivateKey::generate(), SERVER_CHAIN, SignResponses::Always);
    let rendered = text(answer(&licenses, &nonce).render(&stranger));
    assert!(matches!(
        verify(&rendered, nonce),
        Err(ResponseError::Signature(signature::SignatureError::Signature(_)))
    ));
    let device = include_bytes!("../../../../tests/golden/chain.bcert");
    let key = PrivateKey::from_pem(golden!("pki/devices/golden/sign.pem").as_bytes()).unwrap();
    let device = ResponseSigner::new(key, device, SignResponses::Always);
    let rendered = text(answer(&licenses, &nonce).render(&device));
    assert!(matches!(verify(&rendered, nonce), Err(ResponseError::Chain(_))));
}

#[test]
fn a_client_refuses_an_answer_without_licenses() {
    let nonce = nonce();
    let rendered = text(answer(&[], &nonce).render(&signer(SignResponses::Always)));
    assert!(matches!(verify(&rendered, nonce), Err(ResponseError::Field(_))));
}

#[test]
fn every_truncation_of_a_response_is_refused() {
    for end in 0..RESPONSE.len() {
        assert!(verify(&RESPONSE[..end], nonce()).is_err(), "accepted a cut at byte {end}");
    }
}

#[test]
fn an_answer_with_hundreds_of_licenses_is_read() {
    let (licenses, nonce) = (vec![LICENSE.to_vec(); 600], nonce());
    let rendered = text(answer(&licenses, &nonce).render(&signer(SignResponses::Always)));
    assert_eq!(verify(&rendered, nonce).unwrap().licenses.len(), 600);
}
