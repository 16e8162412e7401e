//! Packagers: headers, key exchange by SPEKE, `AcquirePackagingData`; and devices that play what was
//! packaged.

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use data_encoding::{BASE64, HEXLOWER};
use license_ledger::access::Scope;
use license_ledger::playready::header::{Object, Pssh};
use license_ledger::playready::xml::{Document, Element};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use uuid::Uuid;

use crate::client::{Answer, Client};
use crate::device::{PERSISTENT, kid, request};
use crate::service::{Setup, TestService, golden, golden_path};

const XML: (&str, &str) = ("content-type", "application/xml");
const SPEKE: (&str, &str) = ("X-Speke-Version", "2.0");

/// A service that trusts the certificates of the lab's packagers.
fn service() -> TestService {
    let folder = golden_path("packager");
    Setup::default().with("packaging.certificates", folder.display()).start()
}

/// A CPIX request for keys of these KIDs for `cenc`, with all signaling of PlayReady.
pub fn cpix(kids: &[Uuid], certificate: Option<&str>) -> String {
    let join = |each: &dyn Fn(&Uuid) -> String| kids.iter().map(each).collect::<String>();
    let delivery = certificate.map(|certificate| {
        let pem = String::from_utf8(golden(&format!("packager/{certificate}.pem"))).unwrap();
        let base64: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
        format!(
            "<cpix:DeliveryDataList><cpix:DeliveryData><cpix:DeliveryKey>\
             <ds:X509Data xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"><ds:X509Certificate>\
             {base64}</ds:X509Certificate></ds:X509Data></cpix:DeliveryKey></cpix:DeliveryData>\
             </cpix:DeliveryDataList>"
        )
    });
    format!(
        "<cpix:CPIX contentId=\"film\" version=\"2.3\" xmlns:cpix=\"urn:dashif:org:cpix\" \
         xmlns:pskc=\"urn:ietf:params:xml:ns:keyprov:pskc\">{}<cpix:ContentKeyList>{}\
         </cpix:ContentKeyList><cpix:DRMSystemList>{}</cpix:DRMSystemList>\
         <cpix:ContentKeyUsageRuleList>{}</cpix:ContentKeyUsageRuleList></cpix:CPIX>",
        delivery.unwrap_or_default(),
        join(&|kid| format!(
            "<cpix:ContentKey kid=\"{kid}\" commonEncryptionScheme=\"cenc\"></cpix:ContentKey>"
        )),
        join(&|kid| format!(
            "<cpix:DRMSystem kid=\"{kid}\" systemId=\"9a04f079-9840-4286-ab92-e65be0885f95\">\
             <cpix:PSSH/><cpix:ContentProtectionData/><cpix:HLSSignalingData playlist=\"media\"/>\
             </cpix:DRMSystem>"
        )),
        join(&|kid| format!(
            "<cpix:ContentKeyUsageRule kid=\"{kid}\" intendedTrackType=\"VIDEO\"/>"
        )),
    )
}

pub fn exchange(client: &Client, body: &str) -> Answer {
    client.post("/v1/speke/v2", &[XML, SPEKE], body.as_bytes())
}

/// The values of all elements of this name, decoded.
pub fn values(document: &Document<'_>, name: &str) -> Vec<Vec<u8>> {
    let named = document.elements().filter(|element| element.local_name() == name);
    named.map(|element| element.base64().unwrap()).collect()
}

/// The content keys of an encrypted answer, as the packager opens them.
fn opened(answer: &Answer) -> Vec<(Uuid, [u8; 16])> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let document = Document::parse(&answer.body).unwrap();
    let private = golden("packager/trusted.key");
    let private = PrivatePkcs8KeyDer::from_pem_slice(&private).unwrap();
    let private = PrivateDecryptingKey::from_pkcs8(private.secret_pkcs8_der()).unwrap();
    let private = OaepPrivateDecryptingKey::new(private).unwrap();
    let cipher_values = values(&document, "CipherValue");
    let ([document_key, mac_key], keys) = cipher_values.split_first_chunk().unwrap();
    let [document_key, mac_key] = [document_key, mac_key].map(|wrapped| {
        let mut key = vec![0; private.min_output_size()];
        private.decrypt(&OAEP_SHA1_MGF1SHA1, wrapped, &mut key, None).unwrap().to_vec()
    });
    let mac_key = hmac::Key::new(hmac::HMAC_SHA512, &mac_key);
    let listed = document.elements().filter(|element| element.local_name() == "ContentKey");
    let kids = listed.map(|element: Element<'_, '_>| element.attribute("kid").unwrap().parse());
    let macs = values(&document, "ValueMAC");
    assert_eq!(macs.len(), keys.len());
    let sealed = kids.zip(keys.iter().zip(&macs));
    sealed
        .map(|(kid, (value, mac))| {
            hmac::verify(&mac_key, value, mac).unwrap();
            let key = UnboundCipherKey::new(&AES_256, &document_key).unwrap();
            let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).unwrap();
            let (iv, mut value) = (value[..16].to_vec(), value[16..].to_vec());
            let iv: [u8; 16] = iv.try_into().unwrap();
            let key = key.decrypt(&mut value, DecryptionContext::Iv128(iv.into())).unwrap();
            (kid.unwrap(), <[u8; 16]>::try_from(&*key).unwrap())
        })
        .collect()
}

#[test]
fn a_packager_gets_new_keys_encrypted_and_devices_play_with_them() {
    let service = service();
    let packager = service.client_with(&[Scope::KeysDeliver, Scope::KeysWrite]);
    let body = cpix(&[kid(1), kid(2)], Some("trusted"));
    let before = service.event_count();
    let answer = exchange(&packager, &body);
    let keys = opened(&answer);
    assert_eq!(answer.header("x-speke-version"), Some("2.0"));
    assert!(answer.header("x-speke-user-agent").unwrap().starts_with("license-ledger/"));
    assert!(answer.header("content-type").unwrap().starts_with("application/xml"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let kinds = service.kinds_from(before);
    let (typed, registered) = ("content-key-typed.v1", "content-key-registered.v1");
    assert_eq!(kinds, [typed, typed, registered, registered]);
    assert!(keys[0].1 != keys[1].1 && keys[0].1 != [0; 16]);
    // The same again is the same keys, wrapped anew, and no event.
    let again = exchange(&packager, &body);
    assert_eq!(opened(&again), keys);
    assert_ne!(again.body, answer.body);
    assert_eq!(service.event_count(), before + 4);
    // The header of the answer is one that a license is acquired with.
    let document = Document::parse(&answer.body).unwrap();
    let pssh = Pssh::decode(&values(&document, "PSSH")[0]).unwrap();
    let header = pssh.object.header().unwrap();
    assert_eq!(header.keys[0].kid.guid(), kid(1));
    let asked = license_ledger::playready::acquire::AcquireRequest { header, ..request(&[kid(1)]) };
    let device = service.device("player");
    let acquired = device.acquire(&service.client, &asked, PERSISTENT).unwrap();
    assert_eq!(acquired.keys(), [keys[0]]);
}

#[test]
fn keys_that_are_registered_or_derived_are_those_that_are_delivered() {
    let service = service();
    service.import(&[(kid(1), [7; 16])]);
    let packager = service.client_with(&[Scope::KeysDeliver]);
    assert_eq!(
        opened(&exchange(&packager, &cpix(&[kid(1)], Some("trusted")))),
        [(kid(1), [7; 16])]
    );
    let unknown = exchange(&packager, &cpix(&[kid(1), kid(2)], Some("trusted")));
    assert_eq!(unknown.status_and_code(), (422, "key-exchange-refused".to_owned()));
    let problem = unknown.problem();
    assert_eq!(problem["errors"][0]["field"], "ContentKey@kid");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&kid(2).to_string()) && detail.contains("keys:write"), "{detail}");
    // A seed gives the second KID a key, and it stays: another one is refused.
    let seed = zeroize::Zeroizing::new(vec![5; 30]);
    let seed_id = "default".to_owned();
    service.command(&license_ledger::cli::admin::Command::AddSeed { seed_id, seed }).unwrap();
    let derived = opened(&exchange(&packager, &cpix(&[kid(2)], Some("trusted"))));
    let device = service.device("player");
    let acquired = device.acquire(&service.client, &request(&[kid(2)]), "").unwrap();
    assert_eq!(acquired.keys(), derived[..]);
    let key = (license_ledger::domain::KeyId(kid(2)), zeroize::Zeroizing::new([9; 16]));
    let keys = vec![key.into()];
    let import = license_ledger::cli::admin::Command::ImportKeys { keys };
    assert!(service.command(&import).is_err());
}

#[test]
fn nobody_gets_keys_who_must_not() {
    let service = service();
    service.import(&[(kid(1), [7; 16])]);
    let packager = service.client_with(&[Scope::KeysDeliver]);
    let body = cpix(&[kid(1)], Some("trusted"));
    for (scope, path) in [(Scope::KeysWrite, "/v1/speke/v2"), (Scope::EventsRead, "/v1/speke/v2")] {
        let refused = service.client_with(&[scope]).post(path, &[XML, SPEKE], body.as_bytes());
        assert_eq!(refused.status_and_code(), (403, "missing-scope".to_owned()));
    }
    assert_eq!(exchange(&service.client.with_key(""), &body).status, 401);
    let refused = |answer: Answer, field: &str, text: &str| {
        assert_eq!(answer.status_and_code(), (422, "key-exchange-refused".to_owned()));
        let problem = answer.problem();
        assert_eq!(problem["errors"][0]["field"], field);
        assert!(problem["detail"].as_str().unwrap().contains(text), "{problem}");
        assert!(!answer.text().contains(&BASE64.encode(&[7; 16])));
    };
    refused(exchange(&packager, &cpix(&[kid(1)], None)), "DeliveryDataList", "certificate");
    let stranger = exchange(&packager, &cpix(&[kid(1)], Some("untrusted/stranger")));
    refused(stranger, "DeliveryData/DeliveryKey", "trusts");
    let old = packager.post("/v1/speke/v2", &[XML, ("X-Speke-Version", "1.0")], body.as_bytes());
    refused(old, "X-Speke-Version", "Unsupported SPEKE version");
    let other = body.replace("\"cenc\"", "\"cens\"");
    refused(exchange(&packager, &other), "ContentKey@commonEncryptionScheme", "cens");
    let json = packager.post("/v1/speke/v2", &[("content-type", "text/plain"), SPEKE], b"x");
    assert_eq!(json.status, 415);
    // Refused before anything is made.
    let maker = service.client_with(&[Scope::KeysDeliver, Scope::KeysWrite]);
    let before = service.event_count();
    refused(exchange(&maker, &cpix(&[kid(2)], None)), "DeliveryDataList", "certificate");
    refused(
        exchange(&maker, &cpix(&[kid(2)], Some("untrusted/stranger"))),
        "DeliveryData/DeliveryKey",
        "trusts",
    );
    assert_eq!(service.event_count(), before);
}

#[test]
fn every_certificate_in_the_folder_has_to_be_good_at_the_time() {
    let service = service();
    service.import(&[(kid(1), [7; 16])]);
    for (certificate, why) in [
        ("expired", "not valid at present"),
        ("future", "not valid at present"),
        ("short", "no RSA key of 2048"),
        ("ec", "no RSA key of 2048"),
    ] {
        let answer = exchange(&service.client, &cpix(&[kid(1)], Some(certificate)));
        let detail = answer.problem()["detail"].to_string();
        assert!(answer.status == 422 && detail.contains(why), "{certificate}: {detail}");
    }
}

#[test]
fn one_certificate_that_is_not_trusted_refuses_the_whole_document() {
    let service = service();
    service.import(&[(kid(1), [7; 16])]);
    let packager = service.client_with(&[Scope::KeysDeliver]);
    let delivery = |certificate: &str| {
        let text = cpix(&[kid(1)], Some(certificate));
        let [from, to] = ["<cpix:DeliveryData>", "</cpix:DeliveryDataList>"];
        text[text.find(from).unwrap()..text.find(to).unwrap()].to_owned()
    };
    let [trusted, stranger] = ["trusted", "untrusted/stranger"].map(delivery);
    let one = cpix(&[kid(1)], Some("trusted"));
    assert_eq!(exchange(&packager, &one).status, 200);
    for both in [format!("{trusted}{stranger}"), format!("{stranger}{trusted}")] {
        let answer = exchange(&packager, &one.replace(&trusted, &both));
        assert_eq!(answer.status_and_code(), (422, "key-exchange-refused".to_owned()));
        let problem = answer.problem();
        assert_eq!(problem["errors"][0]["field"], "DeliveryData/DeliveryKey");
        let number = if both.starts_with(&trusted) { "2" } else { "1" };
        assert!(problem["detail"].as_str().unwrap().contains(number), "{problem}");
        assert!(!answer.text().contains("CipherValue"));
    }
    let twice = exchange(&packager, &one.replace(&trusted, &trusted.repeat(2)));
    assert_eq!(twice.status, 200, "{}", twice.text());
}

/// Exchanges that make keys and that are cut off at any moment, and repeated.
#[test]
fn an_exchange_that_takes_too_long_costs_no_key() {
    let setup = Setup::default().with("packaging.plain_keys", true);
    let setup = setup.with("limits.body_bytes", 1 << 20);
    let mut service = setup.with("limits.request_timeout_ms", 10).start();
    let packager = service.client_with(&[Scope::KeysDeliver, Scope::KeysWrite]);
    let mut cut = 0;
    // From documents that are answered in time to those that no machine answers.
    for round in 1..=200 {
        let kids: Vec<_> = (0..2 * round).map(|number| kid(1000 * round + number)).collect();
        let document = cpix(&kids, None);
        for _ in 0..3 {
            let status = exchange(&packager, &document).status;
            assert!(matches!(status, 200 | 503), "{status}");
            cut += u32::from(status == 503);
        }
        if cut > 20 {
            break;
        }
    }
    assert!(cut > 0, "nothing took too long");
    let registered = |service: &TestService| {
        let kinds = service.kinds_from(0);
        kinds.iter().filter(|kind| *kind == "content-key-registered.v1").count()
    };
    assert!(registered(&service) > 0);
    service.restart();
    let ready = service.client.get("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.text());
}

#[test]
fn plain_keys_are_given_where_the_operator_allows_it() {
    let service = Setup::default().with("packaging.plain_keys", true).start();
    service.import(&[(kid(1), [7; 16])]);
    let answer = exchange(&service.client, &cpix(&[kid(1)], None));
    assert!(answer.text().contains("<pskc:PlainValue>BwcHBwcHBwcHBwcHBwcHBw==</pskc:PlainValue>"));
    // Not to one that asked for encryption: no folder, no trust.
    let answer = exchange(&service.client, &cpix(&[kid(1)], Some("trusted")));
    assert_eq!(answer.status, 422);
}

#[test]
fn headers_come_in_every_version_and_never_with_a_key() {
    let url = "https://licenses.example/rightsmanager.asmx";
    let service = Setup::default().with("packaging.license_url", url).start();
    let key: [u8; 16] =
        HEXLOWER.decode(b"4fede627cf0376ea335b031cbdc160e2").unwrap().try_into().unwrap();
    let known: Uuid = "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap();
    service.import(&[(known, key)]);
    let packager = service.client_with(&[Scope::KeysDeliver]);
    let headers = packager.json(&format!("/v1/headers?kid={known}"));
    assert_eq!(headers["headers"].as_array().unwrap().len(), 4);
    for forms in headers["headers"].as_array().unwrap() {
        let xml = forms["wrmheader"].as_str().unwrap();
        assert!(xml.contains("QpD4cdP+Yr0=") && xml.contains(url), "{xml}");
        let pro = BASE64.decode(forms["pro"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(Object::decode(&pro).unwrap().header_xml, xml);
    }
    let two = packager.json(&format!("/v1/headers?kid={known}&kid={}&scheme=cbcs", kid(9)));
    assert_eq!(two["headers"].as_array().unwrap().len(), 1);
    assert_eq!(two["headers"][0]["version"], "4.3.0.0");
    for (query, field) in [
        ("", "kid"),
        ("kid=1", "kid"),
        (&format!("kid={known}&kid={known}"), "kid"),
        (&format!("kid={known}&scheme=cens"), "scheme"),
        (&format!("kid={known}&key=1"), "key"),
    ] {
        let refused = packager.get(&format!("/v1/headers?{query}"));
        assert_eq!(refused.status, 400, "{query}");
        assert_eq!(refused.problem()["errors"][0]["field"], field, "{query}");
    }
    assert_eq!(service.client_with(&[Scope::KeysWrite]).get("/v1/headers").status, 403);
}

/// A request for packaging data of one program.
pub fn packaging_data(program: &str) -> String {
    let protocols = "http://schemas.microsoft.com/DRM/2007/03/protocols";
    format!(
        "<soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>\
         <AcquirePackagingData xmlns=\"{protocols}\">\
         <challenge xmlns=\"{protocols}/AcquirePackagingData/v1.0\"><ProtectionSystems>\
         <ProtectionSystemId>9a04f079-9840-4286-ab92-e65be0885f95</ProtectionSystemId>\
         </ProtectionSystems><StreamProtectionRequests><StreamInformation>\
         <ProgramIdentifier>{program}</ProgramIdentifier>\
         <OffsetFromProgramStart>P0S</OffsetFromProgramStart></StreamInformation>\
         </StreamProtectionRequests></challenge></AcquirePackagingData></soap:Body></soap:Envelope>"
    )
}

#[test]
fn packaging_data_is_served_to_packagers_on_their_own_listener_only() {
    const PATH: &str = "/playready/packaging.asmx";
    let header = [("content-type", "text/xml; charset=utf-8")];
    let service = Setup::default().with("packaging.listen", "127.0.0.1:0").start();
    service.import(&[(kid(1), [7; 16])]);
    let listener = service.inner().packaging.as_ref().unwrap().url();
    let body = packaging_data(&kid(1).to_string());
    let packager = service.client_with(&[Scope::KeysDeliver]).at(&listener);
    let answer = packager.post(PATH, &header, body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.text().contains(&format!("<KeyId>{}</KeyId>", kid(1))));
    assert!(answer.text().contains("<KeyData>BwcHBwcHBwcHBwcHBwcHBw==</KeyData>"));
    let unknown = packager.post(PATH, &header, packaging_data(&kid(2).to_string()).as_bytes());
    assert_eq!(unknown.status, 500);
    assert!(unknown.text().contains("0x8004c604") && unknown.text().contains("key_unknown"));
    // Without the scope, without a key, and on the device URL: nothing.
    let other = service.client_with(&[Scope::KeysWrite]).at(&listener);
    assert_eq!(other.post(PATH, &header, body.as_bytes()).status, 403);
    assert_eq!(packager.with_key("").post(PATH, &header, body.as_bytes()).status, 401);
    assert_eq!(service.client.post(PATH, &header, body.as_bytes()).status, 404);
    let device_url = service.client.challenge(body.as_bytes(), "");
    assert!(device_url.status == 500 && device_url.text().contains("0x8004c601"));
    let answer = packager.get("/v1/keys");
    assert_eq!(answer.status, 404, "the listener serves more than it should");
}

#[test]
fn packaging_data_is_not_served_unless_configured() {
    let service = TestService::new();
    assert!(service.inner().packaging.is_none());
    let header = [("content-type", "text/xml; charset=utf-8")];
    let body = packaging_data(&kid(1).to_string());
    let answer = service.client.post("/playready/packaging.asmx", &header, body.as_bytes());
    assert_eq!(answer.status, 404);
}
