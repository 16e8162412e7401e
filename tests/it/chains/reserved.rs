//! The key of a root is for nothing else, on no device and for nobody.

use std::sync::Barrier;

use license_ledger::access::Scope;
use license_ledger::domain::{Event, KeyRole, KeyType};
use license_ledger::keys::ImportedKey;
use license_ledger::playready::soap::FaultReply;

use super::*;
use crate::authorize::with_token;
use crate::clearkey;
use crate::client;
use crate::device::{Device, request};
use crate::key_types::detail;
use crate::packaging::{cpix, exchange, packaging_data};

const XML: [(&str, &str); 1] = [("content-type", "text/xml; charset=utf-8")];

/// A service that gives keys out in every way there is.
struct Site {
    issuer: Issuer,
    tokens: TokenService,
    jti: u32,
}

impl Site {
    fn new() -> Self {
        let issuer = Issuer::new("HS256", "k");
        let setup = Setup::default()
            .with("clearkey.enabled", true)
            .with("packaging.plain_keys", true)
            .with("packaging.listen", "127.0.0.1:0");
        let tokens = TokenService::with(&[&issuer], setup);
        Self { issuer, tokens, jti: 0 }
    }

    fn service(&self) -> &TestService {
        &self.tokens.service
    }

    fn token(&mut self, license: &Value) -> String {
        self.jti += 1;
        self.issuer.token(&claims(&self.jti.to_string(), license.clone()))
    }

    /// A license for this KID, of the list `roots` or `keys`.
    fn acquire(&mut self, device: &Device, list: &str, kid: Uuid) -> Result<(), FaultReply> {
        let token = self.token(&json!({"policy": {"sl": 150}, (list): [{"kid": kid}]}));
        let asked = with_token(&[kid], &token);
        device.acquire(&self.service().client, &asked, "").map(drop)
    }

    fn in_browser(&mut self, kid: Uuid) -> client::Answer {
        let license = json!({"device": "web", "policy": {"sl": 150}, "keys": [{"kid": kid}]});
        let bearer = format!("Bearer {}", self.token(&license));
        let headers = [("authorization", bearer.as_str())];
        clearkey::post(&self.service().client, "", &clearkey::ask(&[kid]), &headers)
    }

    fn by_speke(&self, kid: Uuid) -> client::Answer {
        exchange(&self.service().client_with(&[Scope::KeysDeliver]), &cpix(&[kid], None))
    }

    fn by_packaging_data(&self, kid: Uuid) -> client::Answer {
        let packager = self.service().client_with(&[Scope::KeysDeliver]);
        let packager = packager.at(&self.service().inner().packaging.as_ref().unwrap().url());
        let body = packaging_data(&kid.to_string());
        packager.post("/playready/packaging.asmx", &XML, body.as_bytes())
    }
}

fn reserved(outcome: Result<(), FaultReply>) {
    assert_eq!(detail(&outcome.unwrap_err()), invalid("root_kid_reserved"));
}

#[test]
fn the_key_of_a_root_goes_to_nobody_as_a_content_key() {
    let mut site = Site::new();
    // One whose type the ledger knows before it is used, and one of which it knows nothing.
    let key = zeroize::Zeroizing::new([7; 16]);
    let key_id = license_ledger::domain::KeyId(kid(5));
    let keys = vec![ImportedKey { key_id, key, key_type: Some(KeyType::AesCtr) }];
    site.service().command(&Command::ImportKeys { keys }).unwrap();
    let [first, second] = ["first", "second"].map(|name| site.service().device(name));
    for number in [4, 5] {
        site.acquire(&first, "roots", kid(number)).unwrap();
    }
    let events = site.service().event_count();
    for _ in 0..2 {
        for kid in [kid(4), kid(5)] {
            reserved(site.acquire(&second, "keys", kid));
            let answer = site.in_browser(kid);
            assert_eq!(answer.status, 400, "{}", answer.text());
            assert!(answer.text().contains("root_kid_reserved"), "{}", answer.text());
            let answer = site.by_speke(kid);
            assert_eq!(answer.status_and_code(), (422, "key-exchange-refused".to_owned()));
            let problem = answer.problem();
            assert_eq!(problem["errors"][0]["field"], "ContentKey@kid");
            assert!(problem["detail"].as_str().unwrap().contains("root licenses"), "{problem}");
            let answer = site.by_packaging_data(kid);
            assert!(answer.text().contains("0x8004c604"), "{}", answer.text());
            assert!(answer.text().contains("root_kid_reserved"), "{}", answer.text());
        }
        // API keys were made for the packagers; nothing else was recorded.
        let kinds = site.service().kinds_from(events);
        assert!(kinds.iter().all(|kind| kind == "api-key-created.v1"), "{kinds:?}");
        site.tokens.service.restart();
    }
    // A renewal, and the same root on another device, are what it is for.
    site.acquire(&first, "roots", kid(4)).unwrap();
    site.acquire(&second, "roots", kid(4)).unwrap();
}

#[test]
fn what_went_out_as_a_content_key_is_the_key_of_no_root() {
    let mut site = Site::new();
    let device = site.service().device("tv");
    site.acquire(&device, "keys", kid(1)).unwrap();
    clearkey::keys(&site.in_browser(kid(2)));
    assert_eq!(site.by_speke(kid(3)).status, 200);
    assert_eq!(site.by_packaging_data(kid(4)).status, 200);
    let other = site.service().device("other");
    for _ in 0..2 {
        for number in 1..=4 {
            reserved(site.acquire(&other, "roots", kid(number)));
        }
        site.tokens.service.restart();
    }
    for number in 1..=4 {
        site.acquire(&other, "keys", kid(number)).unwrap();
        clearkey::keys(&site.in_browser(kid(number)));
    }
    let events = site.service().event_count();
    site.acquire(&device, "keys", kid(2)).unwrap();
    let kinds = site.service().kinds_from(events);
    let expected = ["license-acquired.v1", "token-spent.v1"];
    assert_eq!(kinds, expected, "what is known is settled again");
}

#[test]
fn of_a_root_and_a_content_license_at_once_one_is_granted() {
    let service = TestService::new();
    let devices = ["root", "content"].map(|name| service.device(name));
    for number in 1..=40 {
        service.import(&[(kid(number), [7; 16])]);
        let queries = [format!("cfg=(isroot:true,kid:{})", kid(number)), String::new()];
        let barrier = Barrier::new(2);
        let ask = |place: usize| {
            barrier.wait();
            devices[place].acquire(&service.client, &request(&[kid(number)]), &queries[place])
        };
        let got = std::thread::scope(|scope| {
            let other = scope.spawn(|| ask(1).map(drop));
            [ask(0).map(drop), other.join().unwrap()]
        });
        let last = service.facts().into_iter().rev().find_map(|fact| match fact.event {
            Event::ContentKeyTyped(typed) => typed.role,
            _ => None,
        });
        let [root, content] = got;
        let (granted, refused) = match last.unwrap() {
            KeyRole::Root => (root, content),
            KeyRole::Content => (content, root),
        };
        assert!(granted.is_ok(), "{number}");
        reserved(refused);
    }
}
