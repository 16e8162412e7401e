//! One key is for one mode of AES: who settles which, and what contradicts it.

use license_ledger::access::Scope;
use license_ledger::cli::admin::Command;
use license_ledger::domain::event::{ContentKeyTyped, TypeStatedBy};
use license_ledger::domain::{Event, KeyId, KeyRole, KeyType};
use license_ledger::keys::ImportedKey;
use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::content_key::KeyType as WireType;
use license_ledger::playready::header::{AlgId, HeaderVersion, Object};
use license_ledger::playready::soap::FaultReply;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::authorize::{Issuer, TokenService, claims, with_token};
use crate::clearkey;
use crate::device::{Device, fresh_nonce, header, kid, refused, request, words};
use crate::packaging::{cpix, exchange, packaging_data};
use crate::service::{Setup, TestService};

/// A request whose header names this mode, or none.
fn asking(number: u128, algid: Option<AlgId>) -> AcquireRequest {
    AcquireRequest::new(header(HeaderVersion::V4_3, &[kid(number)], algid), fresh_nonce())
}

fn try_type(
    service: &TestService,
    device: &Device,
    request: &AcquireRequest,
    query: &str,
) -> Result<WireType, FaultReply> {
    Ok(device.acquire(&service.client, request, query)?.licenses[0].key_type)
}

/// The type of the license that this device gets.
fn got(service: &TestService, device: &Device, number: u128, algid: Option<AlgId>) -> WireType {
    try_type(service, device, &asking(number, algid), "").unwrap()
}

fn import(service: &TestService, number: u128, key_type: Option<KeyType>) -> anyhow::Result<()> {
    let key = ImportedKey { key_id: KeyId(kid(number)), key: Zeroizing::new([7; 16]), key_type };
    service.command(&Command::ImportKeys { keys: vec![key] }).map(drop)
}

/// What settled types, in order.
fn typed(service: &TestService) -> Vec<ContentKeyTyped> {
    let events = service.facts().into_iter().map(|fact| fact.event);
    let typed = events.filter_map(|event| match event {
        Event::ContentKeyTyped(typed) => Some(typed),
        _ => None,
    });
    typed.collect()
}

/// The word and the detail of a refusal.
pub fn detail(fault: &FaultReply) -> (String, String) {
    let data: Value = serde_json::from_str(fault.custom_data.as_deref().unwrap()).unwrap();
    (data["error"].as_str().unwrap().to_owned(), data["detail"].as_str().unwrap().to_owned())
}

#[test]
fn a_registered_type_comes_before_the_header_and_is_not_to_be_contradicted() {
    let mut service = TestService::new();
    import(&service, 1, Some(KeyType::AesCbc)).unwrap();
    let device = service.device("tv");
    for _ in 0..2 {
        for algid in [None, Some(AlgId::AesCtr), Some(AlgId::AesCbc)] {
            assert_eq!(got(&service, &device, 1, algid), WireType::AesCbc, "{algid:?}");
        }
        let fault = try_type(&service, &device, &asking(1, None), "cfg=(ckt:aesctr)").unwrap_err();
        let (word, text) = detail(&fault);
        assert!(word == "invalid_cfg" && text.starts_with("ckt: "), "{word} {text}");
        assert!(text.contains("aescbc only"), "{text}");
        try_type(&service, &device, &asking(1, None), "cfg=(ckt:aescbc)").unwrap();
        service.restart();
    }
    let old = service.device("old").with_features(&[], &[]);
    let fault = try_type(&service, &old, &asking(1, Some(AlgId::AesCtr)), "").unwrap_err();
    assert_eq!(words(&fault), refused("aescbc_unsupported"));
    // Said by whoever registered it; the first license added what it is for.
    let [registered, used] = &typed(&service)[..] else { panic!("not two") };
    let actor = "cli".to_owned();
    assert_eq!(registered.stated_by, TypeStatedBy::Operator { actor });
    assert_eq!((registered.role, used.role), (None, Some(KeyRole::Content)));
    let content = ContentKeyTyped { role: used.role, at_ms: used.at_ms, ..registered.clone() };
    assert_eq!(*used, content);
    assert!(import(&service, 1, Some(KeyType::AesCbc)).is_ok());
    assert!(import(&service, 1, None).is_ok());
    let refused = import(&service, 1, Some(KeyType::AesCtr)).unwrap_err().to_string();
    assert!(refused.contains(&kid(1).to_string()) && refused.contains("aescbc"), "{refused}");
}

#[test]
fn the_first_license_settles_what_nobody_registered() {
    let mut service = TestService::new();
    import(&service, 1, None).unwrap();
    let seed = Zeroizing::new(vec![5; 30]);
    service.command(&Command::AddSeed { seed_id: "default".to_owned(), seed }).unwrap();
    let device = service.device("first");
    for number in [1, 2] {
        assert_eq!(got(&service, &device, number, Some(AlgId::AesCbc)), WireType::AesCbc);
    }
    let settled = service.event_count();
    for _ in 0..2 {
        for number in [1, 2] {
            assert_eq!(got(&service, &device, number, Some(AlgId::AesCtr)), WireType::AesCbc);
            let asked = asking(number, None);
            let fault = try_type(&service, &device, &asked, "cfg=(ckt:aesctr)").unwrap_err();
            assert_eq!(words(&fault), refused("invalid_cfg"));
        }
        service.restart();
    }
    assert_eq!(typed(&service).len(), 2);
    let kinds = service.kinds_from(settled);
    assert!(kinds.iter().all(|kind| kind == "license-acquired.v1"), "{kinds:?}");
    // Keys that everybody knows, or that the request brings, are not ours to settle.
    let own = "cfg=(kid:header,ckt:aescbc,ck:eNqVnXrElmo2NSsn7IXeEA==)";
    try_type(&service, &device, &asking(1, None), own).unwrap();
    try_type(&service, &device, &asking(1, None), &own.replace("cbc", "ctr")).unwrap();
    assert_eq!(typed(&service).len(), 2);
}

#[test]
fn first_licenses_of_both_types_at_once_get_the_type_that_was_first() {
    let service = TestService::new();
    let devices = ["ctr", "cbc"].map(|name| service.device(name));
    let stated = ["cfg=(ckt:aesctr)", "cfg=(ckt:aescbc)"];
    let headers = [Some(AlgId::AesCtr), Some(AlgId::AesCbc)];
    for number in 1..=60 {
        import(&service, number, None).unwrap();
        let states = number % 2 == 0;
        let barrier = std::sync::Barrier::new(2);
        let ask = |place: usize| {
            let query = if states { stated[place] } else { "" };
            let asked = asking(number, headers[place]);
            barrier.wait();
            try_type(&service, &devices[place], &asked, query)
        };
        let got = std::thread::scope(|scope| {
            let other = scope.spawn(|| ask(1));
            [ask(0), other.join().unwrap()]
        });
        let first = typed(&service).last().unwrap().key_type;
        let types: Vec<_> = got.iter().flatten().map(|got| KeyType::from(*got)).collect();
        assert!(types.iter().all(|got| *got == first), "{types:?}");
        if !states {
            assert_eq!(types.len(), 2, "a header settles nothing that is settled");
            continue;
        }
        let [Err(refused)] = &got.iter().filter(|got| got.is_err()).collect::<Vec<_>>()[..] else {
            panic!("{got:?}")
        };
        let (word, text) = detail(refused);
        assert_eq!(word, "invalid_cfg");
        assert!(text.contains(&format!("is for {first} only")), "{text}");
    }
}

/// A device writes the header that a first license goes by, so it must not have the last word.
#[test]
fn an_operator_sets_right_what_a_device_brought_about_and_nobody_after_that() {
    let mut service = TestService::new();
    import(&service, 1, None).unwrap();
    let device = service.device("forger");
    assert_eq!(got(&service, &device, 1, Some(AlgId::AesCbc)), WireType::AesCbc);
    import(&service, 1, Some(KeyType::AesCtr)).unwrap();
    for _ in 0..2 {
        assert_eq!(got(&service, &device, 1, Some(AlgId::AesCbc)), WireType::AesCtr);
        assert!(import(&service, 1, Some(KeyType::AesCbc)).is_err());
        service.restart();
    }
    let said: Vec<_> = typed(&service).into_iter().map(|typed| typed.stated_by).collect();
    let [TypeStatedBy::License { identity }, TypeStatedBy::Operator { .. }] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(identity.to_string(), device.identity(), "nobody to ask");
}

#[test]
fn what_a_packager_encrypts_for_is_what_licenses_and_headers_are_for() {
    const XML: [(&str, &str); 1] = [("content-type", "text/xml; charset=utf-8")];
    let service = Setup::default()
        .with("packaging.plain_keys", true)
        .with("packaging.listen", "127.0.0.1:0")
        .start();
    let packager = service.client_with(&[Scope::KeysDeliver, Scope::KeysWrite]);
    let cenc = cpix(&[kid(1), kid(2)], None);
    let cbcs = cenc.replace("\"cenc\"", "\"cbcs\"");
    assert_eq!(exchange(&packager, &cbcs).status, 200);
    let before = service.event_count();
    let contradicts = exchange(&packager, &cenc);
    assert_eq!(contradicts.status_and_code(), (422, "key-exchange-refused".to_owned()));
    let problem = contradicts.problem();
    assert_eq!(problem["errors"][0]["field"], "ContentKey@commonEncryptionScheme");
    assert!(problem["detail"].as_str().unwrap().contains("aescbc"), "{problem}");
    // Nor is anything made for a document of which one KID contradicts.
    let mixed = cpix(&[kid(3), kid(1)], None);
    assert_eq!(exchange(&packager, &mixed).status, 422);
    assert_eq!(service.event_count(), before);
    assert_eq!(exchange(&packager, &cbcs).status, 200);
    let device = service.device("player");
    assert_eq!(got(&service, &device, 1, None), WireType::AesCbc);

    let headers = packager.json(&format!("/v1/headers?kid={}", kid(1)));
    assert_eq!(headers["scheme"], "cbcs");
    let refused = packager.get(&format!("/v1/headers?kid={}&scheme=cenc", kid(1)));
    assert_eq!(refused.problem()["errors"][0]["field"], "scheme");
    import(&service, 4, Some(KeyType::AesCtr)).unwrap();
    let refused = packager.get(&format!("/v1/headers?kid={}&kid={}", kid(1), kid(4)));
    assert_eq!(refused.problem()["errors"][0]["field"], "kid");

    let listener = packager.at(&service.inner().packaging.as_ref().unwrap().url());
    let answer = listener.post(
        "/playready/packaging.asmx",
        &XML,
        packaging_data(&kid(1).to_string()).as_bytes(),
    );
    let (_, rest) =
        answer.text().split_once("<Data>").map(|(a, b)| (a.len(), b.to_owned())).unwrap();
    let object = rest.split('<').next().unwrap();
    let object = Object::decode(&data_encoding::BASE64.decode(object.as_bytes()).unwrap()).unwrap();
    assert_eq!(object.header().unwrap().keys[0].algid, Some(AlgId::AesCbc));

    let rows = service.client_with(&[Scope::KeysWrite]).json("/v1/keys");
    let types = rows["items"].as_array().unwrap().iter().map(|row| row["key_type"].clone());
    assert_eq!(types.collect::<Vec<_>>(), [json!("aescbc"), json!("aescbc"), json!("aesctr")]);
}

#[test]
fn a_token_that_states_another_type_is_refused_with_the_member_named() {
    let issuer = Issuer::new("HS256", "k");
    let tokens = TokenService::new(&[&issuer]);
    let service = &tokens.service;
    import(service, 5, Some(KeyType::AesCtr)).unwrap();
    let device = service.device("tv");
    let ask = |jti: &str, number: u128, key_type: &str| {
        let key = json!({ "kid": kid(number), "key_type": key_type });
        let license = json!({ "policy": {"sl": 150}, "keys": [key] });
        let token = issuer.token(&claims(jti, license));
        try_type(service, &device, &with_token(&[kid(number)], &token), "")
    };
    assert_eq!(ask("a", 5, "aesctr").unwrap(), WireType::AesCtr);
    let (word, text) = detail(&ask("b", 5, "aescbc").unwrap_err());
    assert!(word == "invalid_policy" && text.starts_with("key_type: "), "{word} {text}");
    // The header of these requests says counter mode; the service knows better.
    assert_eq!(ask("c", 1, "aescbc").unwrap(), WireType::AesCbc);
    assert!(ask("d", 1, "aesctr").is_err());
}

#[test]
fn a_browser_does_not_say_how_content_is_encrypted() {
    let service = Setup::default().with("clearkey.enabled", true).start();
    import(&service, 1, None).unwrap();
    clearkey::keys(&clearkey::post(&service.client, "", &clearkey::ask(&[kid(1)]), &[]));
    assert!(typed(&service).is_empty());
    let device = service.device("tv");
    assert_eq!(got(&service, &device, 1, Some(AlgId::AesCbc)), WireType::AesCbc);
    clearkey::keys(&clearkey::post(&service.client, "", &clearkey::ask(&[kid(1)]), &[]));
    let last = crate::authorize::acquired(&service).pop().unwrap();
    assert_eq!((last.drm_system.as_str(), last.key_type.as_str()), ("clearkey", "aescbc"));
    let old_header = request(&[kid(1)]);
    assert_eq!(try_type(&service, &device, &old_header, "").unwrap(), WireType::AesCbc);
}
