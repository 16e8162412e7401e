//! Messages that are not what they seem.

use data_encoding::BASE64;
use license_ledger::domain::Digest;
use license_ledger::playready::challenge::ChallengeSigner;
use license_ledger::playready::challenge::Message;
use license_ledger::playready::client_data::ClientData;

use crate::device::{Device, INVALID, PERSISTENT, fault_of, fill, kid, request};
use crate::service::TestService;

/// A genuine challenge as text.
fn challenge(device: &Device) -> String {
    String::from_utf8(device.ask(&request(&[kid(1)]))).unwrap()
}

/// The bodies that the service answers; none of them may leave an event.
fn answers(service: &TestService, messages: &[String]) -> Vec<Vec<u8>> {
    let before = service.event_count();
    let answer = |message: &String| {
        let answer = service.client.challenge(message.as_bytes(), PERSISTENT);
        assert_eq!(answer.status, 500, "accepted {message}");
        assert_eq!(fault_of(&answer.body), INVALID, "{message}");
        answer.body
    };
    let answers = messages.iter().map(answer).collect();
    assert_eq!(service.event_count(), before);
    answers
}

/// `text` with what stands between the tags of its `nth` element `name` replaced.
fn with_content(text: &str, name: &str, nth: usize, content: &str) -> String {
    let (tag, end) = (format!("<{name}>"), format!("</{name}>"));
    let start = text.match_indices(&tag).nth(nth).unwrap().0 + tag.len();
    let length = text[start..].find(&end).unwrap();
    format!("{}{content}{}", &text[..start], &text[start + length..])
}

fn content<'t>(text: &'t str, name: &str, nth: usize) -> &'t str {
    let tag = format!("<{name}>");
    let start = text.match_indices(&tag).nth(nth).unwrap().0 + tag.len();
    text[start..].split('<').next().unwrap()
}

/// The challenge with a digest and signature by its own device that fit its bytes.
fn signed_again(device: &Device, text: &str) -> String {
    let element = |text: &str, name: &str| {
        let end = format!("</{name}>");
        let start = text.find(&format!("<{name} ")).unwrap();
        text[start..text.find(&end).unwrap() + end.len()].to_owned()
    };
    let digest = BASE64.encode(&Digest::of(element(text, "LA").as_bytes()).0);
    let text = with_content(text, "DigestValue", 0, &digest);
    let signature = device.signature(element(&text, "SignedInfo").as_bytes());
    with_content(&text, "SignatureValue", 0, &BASE64.encode(&signature))
}

#[test]
fn markup_that_expands_or_hides_is_refused_before_it_is_parsed() {
    let service = TestService::new();
    let text = challenge(&service.device("xml"));
    let at_root =
        |markup: &str| text.replacen("<soap:Envelope", &format!("{markup}<soap:Envelope"), 1);
    let messages = [
        at_root("<!DOCTYPE soap:Envelope [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>"),
        at_root("<!DOCTYPE lolz [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>"),
        at_root("<!-- hidden -->"),
        at_root("<?xml-stylesheet href=\"x\"?>"),
        text.replace("<soap:Body>", "<soap:Body><![CDATA[]]>"),
        text.replace("<soap:Body>", "<soap:Body>&unknown;"),
        text.replace("<soap:Body>", "<soap:Body>&#0;"),
    ];
    answers(&service, &messages);
}

#[test]
fn bombs_of_depth_attributes_and_elements_are_refused() {
    let service = TestService::new();
    let text = challenge(&service.device("bombs"));
    let header = |inside: &str| {
        let header = format!("<soap:Header>{inside}</soap:Header><soap:Body>");
        text.replacen("<soap:Body>", &header, 1)
    };
    let many =
        |count: usize, each: &dyn Fn(usize) -> String| -> String { (0..count).map(each).collect() };
    let messages = [
        header(&format!("{}{}", "<a>".repeat(40), "</a>".repeat(40))),
        header(&format!("<a{}></a>", many(65, &|n| format!(" a{n}=\"\"")))),
        header(&format!("<a{}></a>", many(65, &|n| format!(" xmlns:n{n}=\"u:{n}\"")))),
        header(&"<a/>".repeat(4_200)),
        header("<a b=\"1\" b=\"2\"/>"),
    ];
    answers(&service, &messages);
    // What is within the limits is only a header that nobody reads.
    let harmless = header("<a><b c=\"d\"/></a>");
    assert_eq!(service.client.challenge(harmless.as_bytes(), "").status, 200);
    let oversized = service.client.challenge(header(&" ".repeat(65_536)).as_bytes(), "");
    assert_eq!(oversized.status, 413);
}

#[test]
fn a_signature_holds_for_the_one_element_in_its_place() {
    let service = TestService::new();
    let device = service.device("wrapped");
    let text = challenge(&device);
    let start = text.find("<LA ").unwrap();
    let end = text.find("</LA>").unwrap() + "</LA>".len();
    let genuine = &text[start..end];
    let forged = genuine.replace("Id=\"SignedData\"", "Id=\"Other\"");
    let signature = &text[end..text.find("</Signature>").unwrap() + "</Signature>".len()];
    let in_header = |what: &str| format!("<soap:Header>{what}</soap:Header><soap:Body>");
    let messages = [
        // The genuine element beside, before and after a forged one; a second one that is the same.
        text.replace(genuine, &forged).replace("<soap:Body>", &in_header(genuine)),
        text.replace(genuine, &format!("{forged}{genuine}")),
        text.replace(genuine, &format!("{genuine}{forged}")),
        text.replace(genuine, &genuine.repeat(2)),
        text.replace(genuine, &format!("<x>{genuine}</x>")),
        // Two signatures, two ids, a signature that is somewhere else.
        text.replace(signature, &signature.repeat(2)),
        text.replace("<soap:Body>", &in_header("<a ID=\"SignedData\"/>")),
        text.replace(signature, "").replace("<soap:Body>", &in_header(signature)),
        text.replace(signature, ""),
        // Other algorithms, another reference, transforms.
        text.replace("#ecdsa-sha256", "#hmac-sha1"),
        text.replace("URI=\"#SignedData\"", "URI=\"\""),
        text.replace("<DigestMethod", "<Transforms></Transforms><DigestMethod"),
    ];
    assert!(messages.iter().all(|message| *message != text));
    answers(&service, &messages);
    assert_eq!(service.client.challenge(text.as_bytes(), "").status, 200);
}

#[test]
fn points_off_the_curve_are_refused() {
    let service = TestService::new();
    let device = service.device("curves");
    let text = challenge(&device);
    let off = [[0; 64], [0xff; 64], [1; 64]].map(|point| BASE64.encode(&point));
    let mut messages: Vec<_> =
        off.iter().map(|point| with_content(&text, "PublicKey", 0, point)).collect();
    // The ElGamal points, under a signature that is valid.
    let wrapped = BASE64.decode(content(&text, "CipherValue", 0).as_bytes()).unwrap();
    assert_eq!(wrapped.len(), 128);
    for (at, length) in [(0, 64), (64, 64), (0, 128)] {
        let mut bytes = wrapped.clone();
        bytes[at..at + length].fill(0);
        let changed = with_content(&text, "CipherValue", 0, &BASE64.encode(&bytes));
        messages.push(signed_again(&device, &changed));
    }
    let short = with_content(&text, "CipherValue", 0, &BASE64.encode(&wrapped[..126]));
    messages.push(signed_again(&device, &short));
    answers(&service, &messages);
    // Signing again is not what is refused.
    let again = signed_again(&device, &text);
    assert_eq!(service.client.challenge(again.as_bytes(), "").status, 200);
}

#[test]
fn everything_behind_the_encryption_fails_alike() {
    let service = TestService::new();
    let device = service.device("oracle");
    let text = challenge(&device);
    let data = BASE64.decode(content(&text, "CipherValue", 1).as_bytes()).unwrap();
    let mut messages = Vec::new();
    // Every block of the ciphertext changed: bad padding, bad XML, bad base64, bad chain.
    for at in (0..data.len()).step_by(16).chain([data.len() - 1, data.len() - 17]) {
        let mut bytes = data.clone();
        bytes[at] ^= 0x55;
        let changed = with_content(&text, "CipherValue", 1, &BASE64.encode(&bytes));
        messages.push(signed_again(&device, &changed));
    }
    for length in [0, 8, 16, 32, data.len() - 16, data.len() - 1] {
        let changed = with_content(&text, "CipherValue", 1, &BASE64.encode(&data[..length]));
        messages.push(signed_again(&device, &changed));
    }
    messages.push(signed_again(&device, &text.replace("WMRMServer", "SomeServer")));
    // Chains that lie about their lengths, are cut, or belong to somebody else.
    let neighbor = service.device("neighbor");
    let chain = device.chain();
    let mut chains = vec![neighbor.chain().to_vec(), chain[..chain.len() - 1].to_vec(), Vec::new()];
    for (at, value) in [(8, 0xff), (11, 1), (16, 0xff), (19, 7), (28, 0xff), (31, 8), (39, 0xff)] {
        let mut bytes = chain.to_vec();
        bytes[at] = value;
        chains.push(bytes);
    }
    messages.extend(chains.into_iter().map(|chain| {
        let data = ClientData { chain, features: Vec::new(), ree: Vec::new() };
        let signer = ChallengeSigner::new(device.sign_key(), &data, device.server());
        let message = Message::Acquire(request(&[kid(1)]));
        String::from_utf8(signer.sign(&message, &mut fill)).unwrap()
    }));
    let answers = answers(&service, &messages);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "the answers differ");
}
