//! What real clients vary, over real HTTP.

use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::header::{AlgId, HeaderVersion};

use crate::device::{
    Device, INVALID, PERSISTENT, fault_of, fresh_nonce, header, kid, refused, request, seed_key,
    words,
};
use crate::service::{Setup, TestService};

const XML: (&str, &str) = ("content-type", "text/xml");

#[test]
fn takes_the_media_types_and_forms_of_known_clients() {
    let service = TestService::new();
    let device = service.device("forms");
    let send = |body: &[u8], headers: &[(&str, &str)]| {
        service.client.challenge_as(body, "", headers).unwrap()
    };
    let action = "http://schemas.microsoft.com/DRM/2007/03/protocols/AcquireLicense";
    let quoted = format!("\"{action}\"");
    for headers in [
        vec![XML],
        vec![("content-type", "text/xml; charset=utf-8")],
        vec![("content-type", "TEXT/XML; Charset=\"UTF-8\"")],
        vec![("content-type", "application/xml")],
        vec![XML, ("soapaction", action)],
        vec![XML, ("soapaction", &quoted)],
        // Never used for dispatch.
        vec![XML, ("soapaction", "\"http://example.com/ProcessDeleteLicenseData\"")],
        vec![XML, ("soapaction", "")],
    ] {
        let answer = send(&device.ask(&request(&[kid(1)])), &headers);
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
    }
    for media_type in ["application/json", "text/plain", "text/xml; charset=utf-16", "nonsense"] {
        let answer = send(&device.ask(&request(&[kid(1)])), &[("content-type", media_type)]);
        assert_eq!(answer.status_and_code(), (415, "unsupported-media-type".to_owned()));
    }
    let challenge = device.ask(&request(&[kid(1)]));
    let text = String::from_utf8(challenge).unwrap();
    let bare = &text[text.find("<soap:Envelope").unwrap()..];
    let declared = format!("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>{bare}");
    assert_eq!(send(declared.as_bytes(), &[XML]).status, 200, "a byte order mark");
    assert_eq!(send(bare.as_bytes(), &[XML]).status, 200, "no declaration");
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(fault_of(&send(&utf16, &[XML]).body), INVALID);
}

#[test]
fn answers_only_posts_of_operations_it_knows() {
    let service = TestService::new();
    let device = service.device("operations");
    let got = service.client.get(crate::client::RIGHTS_MANAGER);
    assert_eq!(got.status_and_code(), (405, "method-not-allowed".to_owned()));
    let text = String::from_utf8(device.ask(&request(&[kid(1)]))).unwrap();
    for name in ["JoinDomain", "ProcessMeteringData", "AcquirePackagingData", "acquirelicense"] {
        let renamed = text.replace("AcquireLicense", name);
        assert_eq!(fault_of(&service.client.challenge(renamed.as_bytes(), "").body), INVALID);
    }
    for body in ["", "<", "<a/>", "{}", "not xml at all"] {
        assert_eq!(fault_of(&service.client.challenge(body.as_bytes(), "").body), INVALID);
    }
    assert_eq!(service.replay().acquired.len(), 0);
}

#[test]
fn speaks_the_versions_one_to_five() {
    let service = TestService::new();
    let device = service.device("versions");
    for version in 0..=6 {
        let request = AcquireRequest { version, ..request(&[kid(1)]) };
        let fault = device.acquire(&service.client, &request, "").err();
        let expected = (!(1..=5).contains(&version)).then_some((0x8004_C60B, None));
        assert_eq!(fault.map(|fault| words(&fault)), expected, "version {version}");
    }
}

/// The refusal of a request with this query: its word, and its detail.
fn cfg_refusal(service: &TestService, device: &Device, query: &str) -> (String, String) {
    let fault = device.acquire(&service.client, &request(&[kid(1)]), query).err();
    let fault = fault.unwrap_or_else(|| panic!("accepted {query}"));
    let json: serde_json::Value = serde_json::from_str(&fault.custom_data.unwrap()).unwrap();
    let text = |member: &str| json[member].as_str().unwrap_or_default().to_owned();
    (text("error"), text("detail"))
}

#[test]
fn names_what_is_wrong_with_a_policy_string() {
    let service = TestService::new();
    let device = service.device("cfg");
    for (query, word, named) in [
        ("cfg=(presist:true)", "invalid_cfg", "presist"),
        ("cfg=(persist:maybe)", "invalid_cfg", "persist"),
        ("cfg=(persist:true,persist:false)", "invalid_cfg", "persist"),
        ("cfg=(enddate:20240230)", "invalid_cfg", "enddate"),
        ("cfg=(persist:true", "invalid_cfg", ""),
        ("cfg=(persist:true)&cfg=(persist:true)", "invalid_cfg", ""),
        ("cfg64=e30", "invalid_cfg", ""),
        ("cfg=(accountid:AAECAwQFBgcICQoLDA0ODw==)", "invalid_cfg", "accountid"),
        ("cfg=(graceperiod:5)", "invalid_policy", "grace_needs_end"),
        ("cfg=(simple:true,persist:true)", "invalid_policy", "simple_is_non_persistent"),
        ("cfg=(readright:true)", "unsupported_right", ""),
        ("cfg=(ckt:keyexchange)", "unsupported_key_type", ""),
    ] {
        let (found, detail) = cfg_refusal(&service, &device, query);
        assert_eq!(found, word, "{query}: {detail}");
        assert!(detail.contains(named), "{query}: {detail}");
    }
    assert_eq!(service.replay().acquired.len(), 0);
    let scripted = |query| {
        let fault = device.acquire(&service.client, &request(&[kid(1)]), query).err().unwrap();
        words(&fault)
    };
    assert_eq!(scripted("cfg=(errorcode:8004C600)"), (0x8004_C600, None));
    assert_eq!(scripted("cfg=(revoked:true)"), (0x8004_C065, None));
}

#[test]
fn takes_a_policy_string_in_each_of_its_three_forms() {
    let service = TestService::new();
    let json = r#"[{"persist":true,"cvopl":"400"}]"#;
    let base64 = data_encoding::BASE64.encode(json.as_bytes());
    let custom = Some(format!("json={json}"));
    let forms = [
        ("cfg=(persist:true,cvopl:400)".to_owned(), None),
        ("cfg=%28persist%3atrue%2Ccvopl%3A400%29&other=1".to_owned(), None),
        (format!("cfg64={base64}"), None),
        (String::new(), custom),
    ];
    for (number, (query, custom_data)) in forms.into_iter().enumerate() {
        let device = service.device(&format!("form-{number}"));
        let request = AcquireRequest { custom_data, ..request(&[kid(1)]) };
        let acquired = device.acquire(&service.client, &request, &query).unwrap();
        assert_eq!(acquired.licenses[0].policy.cvopl, 400);
        assert_eq!(service.live(&device), 1);
    }
}

#[test]
fn persistent_and_other_licenses_may_share_a_response() {
    let service = TestService::new();
    let device = service.device("mixed");
    let request = request(&[kid(1)]);
    let query = "cfg=(persist:true),(persist:false,kid:header),(persist:false)";
    let acquired = device.acquire(&service.client, &request, query).unwrap();
    let persist: Vec<_> = acquired.licenses.iter().map(|l| l.policy.persist).collect();
    assert_eq!(persist, [true, false, false]);
    let nonce = u128::from_be_bytes(request.nonce);
    let rights_ids: Vec<_> = acquired.rights_ids().iter().map(uuid::Uuid::as_u128).collect();
    assert_eq!(rights_ids[1..], [nonce + 1, nonce + 2]);
    assert_ne!(rights_ids[0], nonce);
    assert_eq!(service.live(&device), 1);
}

#[test]
fn a_key_for_cbc_goes_to_clients_that_handle_it() {
    let service = TestService::new();
    let device = service.device("cbc");
    let ask = |algid, query: &str| {
        let header = header(HeaderVersion::V4_3, &[kid(1)], algid);
        device.acquire(&service.client, &AcquireRequest::new(header, fresh_nonce()), query)
    };
    use license_ledger::playready::content_key::KeyType;
    let key_type = |algid, query| ask(algid, query).unwrap().licenses[0].key_type;
    assert!(key_type(Some(AlgId::AesCbc), "") == KeyType::AesCbc);
    assert!(key_type(None, "") == KeyType::AesCtr);
    assert!(key_type(None, "cfg=(ckt:aescbc)") == KeyType::AesCbc);
    let cocktail = ask(Some(AlgId::Cocktail), "").err().unwrap();
    assert_eq!(words(&cocktail), refused("unsupported_key_type"));
}

#[test]
fn a_registered_key_is_what_a_license_holds() {
    let service = TestService::new();
    let device = service.device("keys");
    service.import(&[(kid(1), [0x42; 16])]);
    let acquired = device.acquire(&service.client, &request(&[kid(1), kid(2)]), "").unwrap();
    assert_eq!(acquired.keys(), [(kid(1), [0x42; 16]), (kid(2), seed_key(kid(2)))]);
}

#[test]
fn a_header_without_kids_gets_no_license() {
    let service = TestService::new();
    let device = service.device("nothing");
    let empty = AcquireRequest::new(header(HeaderVersion::V4_2, &[], None), fresh_nonce());
    let fault = device.acquire(&service.client, &empty, "").err().unwrap();
    assert_eq!(words(&fault), refused("no_kid"));
    // Unless the policy string names some.
    let named = format!("cfg=(kid:{})", kid(5));
    let again = AcquireRequest { nonce: fresh_nonce(), ..empty };
    assert_eq!(device.acquire(&service.client, &again, &named).unwrap().keys()[0].0, kid(5));
}

#[test]
fn an_expired_license_frees_its_slot_by_the_clock_alone() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("rental");
    // The clock shows 22:13:20 on that day.
    let rental = "cfg=(persist:true,enddate:20231115000000,graceperiod:60)";
    device.acquire(&service.client, &request(&[kid(1)]), rental).unwrap();
    let second = || device.acquire(&service.client, &request(&[kid(2)]), PERSISTENT).err();
    assert_eq!(words(&second().unwrap()), refused("persistent_license_limit"));
    let events = service.event_count();
    service.advance_s(6_400 + 59);
    assert_eq!(service.live(&device), 1, "within the grace period");
    service.advance_s(1);
    assert_eq!(service.live(&device), 0);
    assert_eq!(service.event_count(), events, "expiry wrote an event");
    assert!(second().is_none());
    assert_eq!(service.live(&device), 1);
}
