//! What clients reject is never sent: every kind of answer, looked at byte by byte for the shapes
//! that the tables of sections 5.4, 6.1 and 7 of the protocol page name.

use std::fs;

use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::header::{AlgId, HeaderVersion};
use uuid::Uuid;

use crate::client::Answer;
use crate::device::{Device, PERSISTENT, fresh_nonce, header, kid, request};
use crate::service::{Setup, TestService, golden_pki};

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope ";

/// Policies that make every object of section 5.3, and chains.
const POLICIES: [&str; 8] = [
    "",
    "cfg=(persist:true)",
    "cfg=(realtime:true,enddate:20231201,graceperiod:9)",
    "cfg=(realtime:true,firstexp:60)",
    "cfg=(persist:true,removaldate:20231201),(sourceid:7,securestop:true)",
    "cfg=(caopl:100,ucaopl:100,cvopl:400,ucvopl:270,avopl:100,maxres:1920x1080,explicitacp:1,\
     daop:(guid:6d5cfa59-c250-4426-930e-fac72c8fcfa6),allowunknownhd:true,allowunknownsd:true)",
    "cfg=(extendedrestrictions:(type:400,mustunderstand:false,data:AQI=))",
    "cfg=(rootid:11111111-2222-3333-4444-555555555555),\
     (isroot:true,kid:11111111-2222-3333-4444-555555555555)",
];

/// A service that also sends revocation lists, and its device.
fn service() -> (TestService, Device) {
    let service =
        Setup::golden().with("playready.secure_stop_id", "AAECAwQFBgcICQoLDA0ODw==").start();
    (service, Device::golden("golden"))
}

fn full_request(kids: &[Uuid]) -> AcquireRequest {
    AcquireRequest {
        revocation_lists: Some(Vec::new()),
        client_version: Some("10.0.16384.10011".to_owned()),
        client_time: Some(crate::service::NOW_S),
        ..AcquireRequest::new(header(HeaderVersion::V4_2, kids, Some(AlgId::AesCtr)), fresh_nonce())
    }
}

/// One answer of each kind that a device can get.
fn answers() -> Vec<(String, Answer)> {
    let (service, device) = service();
    let mut all = Vec::new();
    for (number, query) in (1..).zip(POLICIES) {
        let request = full_request(&[kid(number * 10), kid(number * 10 + 1)]);
        all.push((query.to_owned(), service.client.challenge(&device.ask(&request), query)));
    }
    let stored = request(&[kid(1)]);
    let acquired = device.acquire(&service.client, &stored, PERSISTENT).unwrap();
    let confirmation = device.confirm(acquired.transaction_id.unwrap(), &[(kid(1), 0)]);
    let mut send = |what: &str, body: &[u8], query: &str| {
        all.push((what.to_owned(), service.client.challenge(body, query)));
    };
    send("acknowledgement", &confirmation, "");
    send("deletion", &device.give_back(stored.nonce, &[kid(1)]), "");
    send("unknown session", &device.give_back([7; 16], &[kid(1)]), "");
    send("malformed", b"<a", "");
    send("spent", &device.ask(&stored), PERSISTENT);
    let other = request(&[kid(2)]);
    for query in [
        "cfg=(h%C3%A9:1)",
        "cfg=(msg:clientinfo)",
        "cfg=(errorcode:8004C60D)",
        "cfg=(revoked:true)",
        "cfg=(sl:3000)",
    ] {
        send(query, &device.ask(&AcquireRequest { nonce: fresh_nonce(), ..other.clone() }), query);
    }
    all
}

/// The text of every element of this name.
fn texts<'a>(body: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!("<{name}>");
    let close = format!("</{name}>");
    body.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap()).collect()
}

#[test]
fn no_answer_has_a_shape_that_a_client_rejects() {
    let answers = answers();
    let mut faults = 0;
    for (what, answer) in &answers {
        let text = &answer.text();
        // Never a fault with 200, never an answer with 500.
        assert_eq!(answer.status, if answer.is_fault() { 500 } else { 200 }, "{what}: {text}");
        assert_eq!(answer.header("content-type"), Some("text/xml; charset=utf-8"), "{what}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
        assert!(text.starts_with(DECLARATION) && text.ends_with("</soap:Envelope>"), "{what}");
        assert!(text.is_ascii(), "{what}: other characters than ASCII");
        // One line without white space between elements, so none around Signature and none in
        // base64 either; empty elements in two tags.
        assert!(!text.contains(['\n', '\r', '\t']), "{what}: not one line");
        assert!(!text.contains("> <") && !text.contains("/>"), "{what}: {text}");
        assert!(!text.contains("&#x"), "{what}: a character reference that is not decimal");
        if answer.is_fault() {
            faults += 1;
            let beginning = "<soap:Fault><faultcode>soap:Server</faultcode><faultstring>";
            assert!(text.contains(beginning), "{what}: {text}");
            let codes = texts(text, "StatusCode");
            assert_eq!(codes.len(), 1, "{what}");
            assert!(codes[0].len() == 10 && codes[0].starts_with("0x8004c"), "{what}: {codes:?}");
            continue;
        }
        let body = text.split("<soap:Body>").nth(1).unwrap();
        assert!(!body.contains("xmlns:"), "{what}: another prefix than soap");
        if text.contains("<LicenseResponse ") {
            assert_license_response(what, text);
        }
    }
    assert!(faults >= 7 && answers.len() - faults >= POLICIES.len() + 2);
}

fn assert_license_response(what: &str, text: &str) {
    // `xmlns` before `Id`, and no attributes anywhere else in the answer's own elements.
    let start = "<LicenseResponse xmlns=\"http://schemas.microsoft.com/DRM/2007/03/protocols\" \
                 Id=\"SignedData\"><Version>1</Version><Licenses><License>";
    assert!(text.contains(start), "{what}: {text}");
    assert!(!text.contains("<License "), "{what}: an attribute on License");
    assert!(text.contains("</LicenseResponse><Signature xmlns="), "{what}: not signed");
    assert!(text.contains("</SignedInfo><SignatureValue>"), "{what}");
    assert!(!text.contains("<KeyInfo"), "{what}: KeyInfo in an answer");
    let own = fs::read_to_string(golden_pki().join("revinfo.xml")).unwrap();
    assert!(text.contains(own.trim()), "{what}: the revocation lists are not those of the file");
    let order = [
        "<Licenses>",
        "</Licenses>",
        "<RevInfo",
        "<LicenseNonce>",
        "<ResponseID>",
        "<SigningCertificateChain>",
        "<Signature ",
    ];
    let places: Vec<_> = order.iter().map(|tag| text.find(tag).unwrap()).collect();
    assert!(places.is_sorted(), "{what}: the order of section 6.1");
    assert_eq!(texts(text, "LicenseNonce").len(), 1);
    let licenses = texts(text, "License");
    assert!(!licenses.is_empty(), "{what}: no license");
    for license in licenses {
        let bytes = data_encoding::BASE64.decode(license.as_bytes()).unwrap();
        assert_license(what, &bytes);
    }
}

/// The objects of a license, by what contains them: flags, type, and whether it is the last there.
fn objects(bytes: &[u8], parent: u16, out: &mut Vec<(u16, u16, u16, Vec<u8>)>) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let number = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        let length = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        let (flags, kind, body) = (number(0), number(2), &rest[8..length]);
        out.push((parent, flags, kind, body.to_vec()));
        if flags & 2 != 0 {
            objects(body, kind, out);
        }
        rest = &rest[length..];
    }
}

fn assert_license(what: &str, bytes: &[u8]) {
    assert_eq!(bytes[..8], *b"XMR\0\0\0\0\x03", "{what}");
    let length = u32::from_be_bytes(bytes[28..32].try_into().unwrap()) as usize;
    assert_eq!(24 + length, bytes.len(), "{what}: bytes after OUTER");
    let mut found = Vec::new();
    objects(&bytes[24..], 0, &mut found);
    for (index, (parent, flags, kind, body)) in found.iter().enumerate() {
        assert!(*flags <= 3 || *parent == 0x0004, "{what}: flags {flags} of {kind:04x}");
        match kind {
            // Real-time expiration is never last: one client swallows the object after it.
            0x0055 => assert_eq!(found[index + 1].2, 0x0033, "{what}"),
            0x000A => {
                let cipher = u16::from_be_bytes([body[18], body[19]]);
                let leaf = found.iter().any(|(_, _, kind, _)| *kind == 0x003B);
                assert_eq!(cipher, if leaf { 2 } else { 3 }, "{what}");
                assert_eq!(body.len() - 22, if leaf { 40 } else { 128 }, "{what}");
            }
            0x000B => assert_eq!((index, body.len()), (found.len() - 1, 20), "{what}"),
            _ => {}
        }
    }
    let kinds: Vec<_> = found.iter().map(|(parent, _, kind, _)| (*parent, *kind)).collect();
    for required in [(0, 1), (1, 2), (1, 4), (1, 9), (1, 0x0B), (2, 0x13), (2, 0x33), (2, 0x34)] {
        assert_eq!(kinds.iter().filter(|kind| **kind == required).count(), 1, "{what}");
    }
}

/// Requests as each of the three clients makes them, beyond what other tests vary.
#[test]
fn what_clients_send_is_taken() {
    let (service, device) = service();
    let text = |request: &AcquireRequest| String::from_utf8(device.ask(request)).unwrap();
    // Version 1, 4 and 5 whatever the header says; a header without ALGID.
    for version in [1, 4, 5] {
        for header_version in [HeaderVersion::V4_0, HeaderVersion::V4_3] {
            let algid = (header_version == HeaderVersion::V4_0).then_some(AlgId::AesCtr);
            let header = header(header_version, &[kid(1)], algid);
            let request = AcquireRequest { version, ..AcquireRequest::new(header, fresh_nonce()) };
            device.acquire(&service.client, &request, "").unwrap();
        }
    }
    // Neither the declaration nor a SOAP header matters; the envelope may have another prefix.
    let challenge = text(&full_request(&[kid(1)]));
    let bare = &challenge[challenge.find("<soap:Envelope").unwrap()..];
    let renamed = bare.replace("soap:", "s:").replace("xmlns:soap", "xmlns:s");
    let headed = bare.replacen("<soap:Body>", "<soap:Header></soap:Header><soap:Body>", 1);
    for (what, body) in [("prefix", renamed), ("header", headed)] {
        let answer = service.client.challenge(body.as_bytes(), "");
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }
    // A client that holds the newest lists, or speaks of none, is not sent them again.
    let quiet = AcquireRequest { revocation_lists: None, ..full_request(&[kid(1)]) };
    let answer = service.client.challenge(&device.ask(&quiet), "");
    assert!(!answer.text().contains("<RevInfo"), "{}", answer.text());
}
