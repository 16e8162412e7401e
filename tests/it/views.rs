//! Accounts, titles and licenses as support sees them.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::authorize::{Issuer, TokenService, claims, with_token};
use crate::client::fresh_key;
use crate::device::{Acquired, Device, PERSISTENT, kid, request};
use crate::service::{Setup, TestService};

/// A service that gives what its tokens say.
struct Shop {
    tokens: TokenService,
    issuer: Issuer,
}

impl Shop {
    fn new(setup: Setup) -> Self {
        let issuer = Issuer::new("ES256", "k");
        Self { tokens: TokenService::with(&[&issuer], setup), issuer }
    }

    fn service(&self) -> &TestService {
        &self.tokens.service
    }

    /// Stores a license for a title at an account's expense.
    fn sell(&self, device: &Device, account: &str, number: u128, title: &str) -> Option<Acquired> {
        let license = json!({
            "account": account, "policy": {"sl": 150, "persist": true},
            "keys": [{"kid": kid(number), "title": title}],
        });
        let jti = format!("{}-{account}-{number}", self.service().event_count());
        let asked = with_token(&[kid(number)], &self.issuer.token(&claims(&jti, license)));
        device.acquire(&self.service().client, &asked, "").ok()
    }

    /// What stands at `path`, every event included.
    fn json(&self, path: &str) -> Value {
        let join = if path.contains('?') { '&' } else { '?' };
        let position = self.service().event_count();
        self.service().client.json(&format!("{path}{join}min_position={position}"))
    }
}

fn members(items: &Value, name: &str) -> Vec<Value> {
    items.as_array().unwrap().iter().map(|item| item[name].clone()).collect()
}

#[test]
fn an_account_is_shown_with_its_devices_titles_and_what_its_rules_count() {
    let shop = Shop::new(Setup::default());
    let service = shop.service();
    let rule = |id: &str, scope: &str, limit: u32| {
        json!({"id": id, "scope": scope, "counts": "live_slots", "limit": limit,
            "on_exceed": "deny"})
    };
    let rules = [rule("slots", "account", 3), rule("copies", "account_title", 2)];
    let policy = json!({"rules": rules, "licenses_per_slot": 16, "releasing_grades": ["A", "B"]});
    let body = json!({"policy": policy, "reason": "r"});
    assert_eq!(service.client.put_json("/v1/quota/policy", Some("*"), &body).status, 200);
    let (home, away) = (service.device("home"), service.device("away"));
    assert!(shop.sell(&home, "alice", 1, "film").is_some());
    assert!(shop.sell(&away, "alice", 1, "film").is_some());
    assert!(shop.sell(&away, "alice", 2, "series").is_some());
    assert!(shop.sell(&away, "bob", 3, "film").is_some());
    assert!(shop.sell(&home, "alice", 4, "film").is_none(), "over both limits");

    let alice = shop.json("/v1/accounts/alice");
    assert_eq!((&alice["devices"], &alice["live_slots"]), (&json!(2), &json!(3)));
    assert_eq!(alice["persistent_acquired"], 3);
    assert_eq!(alice["rules"].as_array().unwrap().len(), 1);
    assert_eq!(alice["rules"][0]["rule"], "slots");
    assert_eq!(
        (&alice["rules"][0]["in_use"]["live"], &alice["rules"][0]["limit"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(alice["overrides"], json!([]));
    let slots = members(&alice["first_devices"], "live_slots");
    assert_eq!(slots.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 3);
    let reference = alice["account"].as_str().unwrap();
    assert_eq!(shop.json(&format!("/v1/accounts/{reference}")), alice, "by reference");
    assert_eq!(shop.json("/v1/accounts/alice/devices")["items"], alice["first_devices"]);

    let titles = shop.json("/v1/accounts/alice/titles")["items"].clone();
    assert_eq!(members(&titles, "title"), ["film", "series"]);
    assert_eq!(members(&titles, "live_slots"), [2, 1]);
    assert_eq!(members(&titles, "devices"), [2, 1]);
    let copies = &titles[0]["rules"][0];
    assert_eq!((&copies["rule"], &copies["title"]), (&json!("copies"), &json!("film")));
    assert_eq!((&copies["in_use"]["live"], &copies["over"]), (&json!(2), &json!(0)));
    let first = shop.json("/v1/accounts/alice/titles?limit=1");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = shop.json(&format!("/v1/accounts/alice/titles?limit=1&cursor={cursor}"));
    assert_eq!(json!([first["items"][0], second["items"][0]]), titles);

    let accounts = shop.json("/v1/accounts");
    assert_eq!(members(&accounts["items"], "live_slots"), [3, 1], "first named first");
    let first = shop.json("/v1/accounts?limit=1");
    let cursor = first["next_cursor"].as_str().unwrap();
    shop.sell(&home, "carol", 2, "film").unwrap();
    let rest = shop.json(&format!("/v1/accounts?cursor={cursor}"));
    assert_eq!(rest["items"], json!([accounts["items"][1]]), "the list moved");
    assert_eq!(service.client.get("/v1/accounts/nobody").status, 404);
    // What comes after the first page is not on the ones behind it.
    let pages = ["devices", "titles"].map(|list| {
        let first = shop.json(&format!("/v1/accounts/alice/{list}?limit=1"));
        let cursor = first["next_cursor"].as_str().unwrap();
        (format!("/v1/accounts/alice/{list}?cursor={cursor}"), list)
    });
    let before = pages.clone().map(|(path, _)| shop.json(&path)["items"].clone());
    let more = json!({"limit": 99, "reason": "a large family"});
    let more = service.client.put_command("/v1/accounts/alice/overrides/slots", &more);
    assert_eq!(more.status, 200, "{}", more.text());
    for number in 0..8 {
        let late = service.device(&format!("late-{number}"));
        shop.sell(&late, "alice", 1, &format!("z-{number}")).unwrap();
    }
    for ((path, list), before) in pages.iter().zip(before) {
        assert_eq!(shop.json(path)["items"], before, "{list}");
    }
}

#[test]
fn a_license_tells_its_whole_life() {
    let service = TestService::new();
    let device = service.device("phone");
    let asked = request(&[kid(1)]);
    let got = device.acquire(&service.client, &asked, PERSISTENT).unwrap();
    device.acknowledge(&service.client, got.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    let position = service.event_count();
    let found =
        service.client.json(&format!("/v1/licenses?key_id={}&min_position={position}", kid(1)));
    let license = &found["items"][0];
    assert_eq!((&license["live"], &license["status"]), (&json!(true), &json!("stored")));
    service.advance_s(60);
    device.delete(&service.client, asked.nonce, &[kid(1)]).unwrap();
    let position = service.event_count();
    let path = format!("/v1/licenses/{}", license["license_id"].as_str().unwrap());
    let life = service.client.json(&format!("{path}?min_position={position}"));
    assert_eq!((&life["live"], &life["status"]), (&json!(false), &json!("deleted")));
    let kinds = ["license-acquired.v1", "license-stored.v1", "license-deleted.v1"];
    assert_eq!(members(&life["events"], "type"), kinds);
    assert_eq!(members(&life["events"], "ends"), [false, false, true]);
    assert!(members(&life["events"], "who").iter().all(|who| *who == device.identity()));
    let deleted = &life["events"][2];
    assert_eq!(deleted["grade"], life["deletion_grade"]);
    assert_eq!(deleted["at"], "2023-11-14T22:14:20.000Z");
    assert_eq!(life["events"][0]["why"], "open, by quota policy 0");
    for unknown in [Uuid::nil().to_string(), "nonsense".to_owned()] {
        let answer = service.client.get(&format!("/v1/licenses/{unknown}"));
        assert_eq!(answer.status_and_code(), (404, "not-found".to_owned()));
    }
}

#[test]
fn licenses_are_found_by_all_that_is_known_of_them() {
    let shop = Shop::new(Setup::default());
    let (home, away) = (shop.service().device("home"), shop.service().device("away"));
    let rental = |device: &Device| {
        let license = json!({"account": "alice", "keys": [{"kid": kid(1), "title": "rental"}],
            "policy": {"sl": 150, "persist": true, "end": crate::service::NOW_S + 600}});
        let asked = with_token(&[kid(1)], &shop.issuer.token(&claims("rental", license)));
        device.acquire(&shop.service().client, &asked, "").unwrap();
    };
    rental(&home);
    shop.sell(&home, "alice", 2, "film").unwrap();
    shop.sell(&away, "alice", 2, "film").unwrap();
    shop.sell(&away, "bob", 1, "film").unwrap();
    shop.service().advance_s(1_000_000);
    let found = |query: &str| shop.json(&format!("/v1/licenses?{query}"))["items"].clone();
    let count = |query: &str| found(query).as_array().unwrap().len();
    assert_eq!(count(""), 4);
    assert_eq!(count(&format!("key_id={}", kid(1))), 2);
    assert_eq!(count("account=alice"), 3);
    assert_eq!(count("account=alice&title=film"), 2);
    assert_eq!(count(&format!("account=alice&device={}", home.identity())), 2);
    assert_eq!(count(&format!("device={}", away.identity())), 2);
    assert_eq!(count(&format!("device={}&status=ended", home.identity())), 1);
    assert_eq!(count("device=nobody"), 0);
    assert_eq!(count("account=alice&status=live"), 2);
    assert_eq!(count("status=ended"), 1);
    assert_eq!(found("status=ended")[0]["title"], "rental");
    assert_eq!(count(&format!("key_id={}", kid(9))), 0);
    let first = shop.json("/v1/licenses?limit=1&account=alice");
    let cursor = first["next_cursor"].as_str().unwrap();
    shop.service().import(&[(kid(7), [7; 16])]);
    let rest = shop.json(&format!("/v1/licenses?account=alice&cursor={cursor}"));
    let both = [first["items"].clone(), rest["items"].clone()];
    let both: Vec<_> = both.iter().flat_map(|items| items.as_array().unwrap().clone()).collect();
    assert_eq!(Value::from(both), found("account=alice"));
    for (query, named) in
        [("key_id=x", "key_id"), ("status=x", "status"), ("kid=x", "kid"), ("title=x", "account")]
    {
        let answer = shop.service().client.get(&format!("/v1/licenses?{query}"));
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()), "{query}");
        assert!(answer.problem()["detail"].as_str().unwrap().contains(named), "{query}");
    }
}

#[test]
fn refusals_are_found_by_device_and_kid_with_the_rule_that_refused() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let (full, other) = (service.device("full"), service.device("other"));
    let ask = |device: &Device, number: u128| {
        device.acquire(&service.client, &request(&[kid(number)]), PERSISTENT).is_ok()
    };
    assert!(ask(&full, 1) && ask(&other, 1));
    assert!(!ask(&full, 2) && !ask(&full, 3) && !ask(&other, 2));
    let position = service.event_count();
    let found = |query: &str| {
        let path = format!("/v1/refusals?{query}&min_position={position}");
        service.client.json(&path)["items"].clone()
    };
    assert_eq!(found("limit=10").as_array().unwrap().len(), 3);
    assert_eq!(found(&format!("device={}", full.identity())).as_array().unwrap().len(), 2);
    let of_kid = found(&format!("key_id={}", kid(2)));
    assert_eq!(of_kid.as_array().unwrap().len(), 2);
    let both = found(&format!("key_id={}&device={}", kid(2), full.identity()));
    assert_eq!(both.as_array().unwrap().len(), 1);
    assert_eq!(both[0]["rule"], "device-slots");
    assert_eq!(
        (&both[0]["limit"], &both[0]["in_use"], &both[0]["requested"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(both[0]["key_ids"], json!([kid(2)]));
    let first = service.client.json("/v1/refusals?limit=2");
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = service.client.json(&format!("/v1/refusals?limit=2&cursor={cursor}"));
    assert_eq!(members(&rest["items"], "key_ids"), [json!([kid(2)])]);
}

#[test]
fn later_pages_of_licenses_show_what_was_so_at_the_first() {
    // Until 2023-12-01.
    const SHORT: &str = "cfg=(persist:true,enddate:20231201)";
    let service = TestService::new();
    let (phone, tablet) = (service.device("phone"), service.device("tablet"));
    let asked: Vec<_> = (1..=8).map(|number| request(&[kid(number)])).collect();
    let acquired = (1..).zip(&asked).map(|(number, asked)| {
        let terms = if number == 5 { SHORT } else { PERSISTENT };
        phone.acquire(&service.client, asked, terms).unwrap()
    });
    let acquired: Vec<_> = acquired.collect();
    tablet.acquire(&service.client, &request(&[kid(9)]), PERSISTENT).unwrap();
    let delete = |number: usize| {
        let (session, key_id) = (asked[number - 1].nonce, kid(number as u128));
        phone.delete(&service.client, session, &[key_id]).unwrap();
    };
    [1, 2].into_iter().for_each(delete);
    let list = |query: &str| {
        let position = service.event_count();
        service.client.json(&format!("/v1/licenses?{query}&min_position={position}"))
    };
    let name = list("limit=1")["items"][0]["device"].as_str().unwrap().to_owned();
    let queries = [
        "status=live".to_owned(),
        "status=ended".to_owned(),
        format!("device={name}"),
        format!("device={name}&status=live"),
    ];
    let begun = queries.each_ref().map(|query| (list(query), list(&format!("{query}&limit=1"))));
    assert_eq!(begun[0].0["items"].as_array().unwrap().len(), 7);

    delete(4);
    for (number, cooldown) in [(3, Some(3600)), (6, None)] {
        let ids = acquired[number - 1].rights_ids();
        let mut body = json!({"license_ids": ids, "reason": "lost"});
        if let Some(seconds) = cooldown {
            body["cooldown_seconds"] = json!(seconds);
        }
        let path = format!("/v1/devices/{name}/write-off");
        assert_eq!(service.client.command(&path, &fresh_key(), &body).status, 200);
    }
    let transaction_id = acquired[6].transaction_id.unwrap();
    phone.acknowledge(&service.client, transaction_id, &[(kid(7), 0)]).unwrap();
    phone.acquire(&service.client, &request(&[kid(10)]), PERSISTENT).unwrap();
    let body = json!({"into": tablet.identity(), "reason": "one"});
    let path = format!("/v1/devices/{name}/merge");
    assert_eq!(service.client.command(&path, &fresh_key(), &body).status, 200);
    service.advance_s(40 * 24 * 3600);

    for (query, (then, first)) in queries.iter().zip(begun) {
        let mut items = first["items"].as_array().unwrap().clone();
        let mut cursor = first["next_cursor"].clone();
        while let Some(text) = cursor.as_str() {
            let page = list(&format!("{query}&limit=1&cursor={text}"));
            assert_eq!(page["position"], first["position"], "{query}");
            items.extend(page["items"].as_array().unwrap().iter().cloned());
            cursor = page["next_cursor"].clone();
        }
        assert_eq!(Value::from(items), then["items"], "{query}");
        assert_ne!(list(query)["items"], then["items"], "{query}");
    }
}
