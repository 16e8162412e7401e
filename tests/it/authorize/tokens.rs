use license_ledger::access::Scope;
use license_ledger::domain::Event;
use serde_json::json;

use super::issuer::{ISSUER, b64, hmac_token};
use super::*;
use crate::device::{fresh_nonce, words};
use crate::key_types::detail;
use crate::service::NOW_S;

#[test]
fn each_algorithm_authorizes_and_the_ledger_says_what_the_token_said() {
    let algorithms = ["HS256", "RS256", "PS256", "ES256", "EdDSA"];
    let issuers = algorithms.map(|algorithm| Issuer::new(algorithm, algorithm));
    let token_service = TokenService::new(&issuers.each_ref());
    let service = &token_service.service;
    let device = service.device("phone");
    for issuer in &issuers {
        let license = json!({
            "account": "alice", "device": "alice-phone",
            "policy": {"sl": 150, "persist": true, "end": NOW_S + 86_400},
            "keys": [
                {"kid": kid(1), "title": "movie-7", "content_group": "movies"},
                {"kid": kid(2), "policy": {"sl": 2000}},
            ],
        });
        let token = issuer.token(&claims(&issuer.kid, license));
        let asked = with_token(&[kid(1), kid(2)], &token);
        let got = device.acquire(&service.client, &asked, "").map_err(|fault| reason(&fault));
        let got = got.map_err(|why| format!("{}: {why}", issuer.kid)).unwrap();
        assert_eq!(got.licenses[0].content_key.expose(), &content_key(1));
        assert!(got.licenses[0].policy.persist && !got.licenses[1].policy.persist);
        assert_eq!(got.licenses[0].policy.end, Some(u32::try_from(NOW_S).unwrap() + 86_400));
    }
    let licenses = acquired(service);
    assert_eq!(licenses.len(), 2 * issuers.len());
    assert_eq!(count(service, "token-spent.v1"), issuers.len());
    for pair in licenses.chunks(2) {
        let (stored, streamed) = (&pair[0], &pair[1]);
        assert!(pair.iter().all(|license| license.authorized_by == "token"));
        assert_eq!(stored.title.as_deref(), Some("movie-7"));
        assert_eq!(stored.content_group.as_deref(), Some("movies"));
        assert_eq!(streamed.title, None);
        assert!(stored.persistent.requested && stored.persistent.effective);
        assert!(!streamed.persistent.requested && !streamed.persistent.effective);
        let account = stored.account.as_ref().unwrap().to_string();
        assert_eq!(account.len(), 26);
        assert_eq!(stored.account, streamed.account);
    }
    let inventory = service.inventory(&device);
    let shown = &inventory["licenses"][0];
    let account = licenses[0].account.as_ref().unwrap().to_string();
    assert_eq!(shown["account"], account.as_str());
    assert_eq!((&shown["title"], &shown["content_group"]), (&json!("movie-7"), &json!("movies")));
}

#[test]
fn the_algorithm_is_that_of_the_key_whatever_the_token_says() {
    let rsa = Issuer::new("RS256", "rsa");
    let token_service = TokenService::new(&[&rsa, &Issuer::new("ES256", "ec")]);
    let service = &token_service.service;
    let device = service.device("forger");
    let good = claims("forged", license(&[kid(1)]));
    let mut forged = Vec::new();
    for public in rsa.public_forms() {
        for kid in ["rsa", "ec"] {
            let header = json!({ "alg": "HS256", "kid": kid });
            forged.push(hmac_token(&header, &good, &public));
        }
    }
    // Made with the right key, for another algorithm than the key's.
    for alg in ["PS256", "RS512", "ES256", "EdDSA"] {
        forged.push(rsa.token_with(&json!({ "alg": alg, "kid": "rsa" }), &good));
    }
    for alg in ["none", "None", "NONE", ""] {
        let header = b64(json!({ "alg": alg, "kid": "rsa" }).to_string());
        forged.push(format!("{header}.{}.", b64(good.to_string())));
        forged.push(format!("{header}.{}.{}", b64(good.to_string()), b64("x")));
    }
    // Another key's signature, an extension that must be understood, keys that the token brings.
    forged.push(rsa.token_with(&json!({ "alg": "RS256", "kid": "ec" }), &good));
    let header = json!({ "alg": "RS256", "kid": "rsa", "crit": ["x"], "x": true });
    forged.push(rsa.token_with(&header, &good));
    let other = Issuer::new("RS256", "other");
    let header = json!({ "alg": "RS256", "kid": "rsa", "jwk": other.jwk() });
    forged.push(other.token_with(&header, &good));
    forged.push(other.token_with(&json!({ "alg": "RS256" }), &good));
    let token = rsa.token(&good);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    forged.push(format!("{signed}."));
    let (header, _) = signed.split_once('.').unwrap();
    let more = claims("forged", license(&[kid(1), kid(2)]));
    forged.push(format!("{header}.{}.{signature}", b64(more.to_string())));
    for token in forged {
        let refused = try_token(service, &device, &token).err();
        assert_eq!(refused.as_deref(), Some("not_entitled: token_invalid"), "{token}");
    }
    assert!(try_token(service, &device, &token).is_ok());
    assert_eq!(acquired(service).len(), 1);
}

#[test]
fn claims_have_to_be_there_and_right() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let device = service.device("phone");
    let good = claims("claims", license(&[kid(1)]));
    let changes = [
        ("iss", json!("https://other.example"), "token_invalid"),
        ("aud", json!("other"), "token_invalid"),
        ("aud", json!(["other", "another"]), "token_invalid"),
        ("aud", json!(7), "token_invalid"),
        ("exp", json!(NOW_S - 31), "token_expired"),
        ("exp", json!(NOW_S - 30), "token_expired"),
        ("exp", json!("tomorrow"), "token_invalid"),
        ("nbf", json!(NOW_S + 31), "token_not_yet_valid"),
        ("jti", json!(""), "token_invalid"),
        ("jti", json!("x".repeat(257)), "token_invalid"),
        ("license", json!({"keys": []}), "token_invalid"),
        ("license", json!({"acount": "a", "keys": [{"kid": kid(1)}]}), "token_invalid"),
    ];
    for (claim, value, expected) in changes {
        let mut changed = good.clone();
        changed[claim] = value;
        let refused = try_token(service, &device, &issuer.token(&changed)).err();
        assert_eq!(refused, Some(format!("not_entitled: {expected}")), "{changed}");
    }
    for claim in ["iss", "aud", "exp", "jti", "license"] {
        let mut changed = good.clone();
        changed.as_object_mut().unwrap().remove(claim);
        let refused = try_token(service, &device, &issuer.token(&changed)).err();
        assert_eq!(refused.as_deref(), Some("not_entitled: token_invalid"), "without {claim}");
    }
    assert_eq!(count(service, "token-spent.v1"), 0);
    // At the edges of the leeway, one audience of several, a claim that is none of ours.
    let edges = [
        ("aud", json!(["other", AUDIENCE])),
        ("exp", json!(NOW_S as f64 - 29.5)),
        ("nbf", json!(NOW_S + 30)),
        ("plan", json!({"any": "thing"})),
    ];
    for (number, (claim, value)) in edges.into_iter().enumerate() {
        let mut changed = good.clone();
        changed[claim] = value;
        changed["jti"] = json!(format!("edge-{number}"));
        assert!(try_token(service, &device, &issuer.token(&changed)).is_ok(), "{changed}");
    }
    assert_eq!(good["iss"], ISSUER);
}

#[test]
fn a_token_is_found_in_custom_data_header_and_query_in_this_order() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let device = service.device("phone");
    let fresh = |name: &str| issuer.token(&claims(name, license(&[kid(1)])));
    let ask = |custom_data: Option<String>, bearer: Option<&str>, query: &str| {
        let asked = AcquireRequest { custom_data, ..request(&[kid(1)]) };
        let bearer = bearer.map(|token| format!("bearer {token}"));
        let mut headers = vec![("content-type", "text/xml")];
        headers.extend(bearer.as_deref().map(|value| ("authorization", value)));
        let answer = service.client.challenge_as(&device.ask(&asked), query, &headers).unwrap();
        device.accept(&answer.body, &asked.nonce).map(drop).map_err(|fault| reason(&fault))
    };
    assert_eq!(ask(Some(format!(" {}\n", fresh("raw"))), None, ""), Ok(()));
    let member = |token: &str| Some(json!({"other": 1, "token": token}).to_string());
    assert_eq!(ask(member(&fresh("member")), None, ""), Ok(()));
    assert_eq!(ask(None, Some(&fresh("bearer")), ""), Ok(()));
    assert_eq!(ask(Some("something else".to_owned()), Some(&fresh("both")), ""), Ok(()));
    assert_eq!(ask(None, None, &format!("a=b&token={}", fresh("query"))), Ok(()));
    // What comes first counts, good or bad.
    let bad = "aaaa.bbbb.cccc";
    let invalid = Err("not_entitled: token_invalid".to_owned());
    assert_eq!(ask(Some(bad.to_owned()), Some(&fresh("b")), ""), invalid);
    assert_eq!(ask(None, Some(bad), &format!("token={}", fresh("c"))), invalid);
    assert_eq!(ask(Some(fresh("first")), Some(bad), &format!("token={bad}")), Ok(()));
    let missing = Err("not_entitled: token_missing".to_owned());
    assert_eq!(ask(None, None, ""), missing);
    assert_eq!(ask(Some("{}".to_owned()), None, "cfg=(persist:true)&token="), missing);
}

#[test]
fn kids_that_the_token_does_not_cover_or_that_have_no_key_are_left_out() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let device = service.device("phone");
    let ask = |jti: &str, covered: &[Uuid], asked: &[Uuid]| {
        let token = issuer.token(&claims(jti, license(covered)));
        let got = device.acquire(&service.client, &with_token(asked, &token), "");
        let kids = |got: Acquired| got.licenses.iter().map(|l| l.kid.guid()).collect::<Vec<_>>();
        got.map(kids).map_err(|fault| words(&fault).1.unwrap())
    };
    let unknown = kid(9);
    let some = ask("some", &[kid(4), kid(1), unknown], &[unknown, kid(1), kid(2), kid(4)]);
    assert_eq!(some, Ok(vec![kid(1), kid(4)]));
    assert_eq!(ask("none", &[kid(1)], &[kid(2), unknown]), Err("not_entitled".to_owned()));
    // The seed that is published for tests never fills in.
    assert_eq!(ask("unknown", &[unknown], &[unknown]), Err("key_unknown".to_owned()));
    // A policy that contradicts itself, and one that this device is too weak for.
    let one = |jti: &str, policy: Value| {
        let license = json!({"keys": [{"kid": kid(1), "policy": policy}]});
        let refused = try_token(service, &device, &issuer.token(&claims(jti, license)));
        refused.err().unwrap_or_default()
    };
    assert_eq!(one("removal", json!({"sl": 150, "removal": NOW_S + 60})), "invalid_policy");
    assert_eq!(one("level", json!({"sl": 3000})), "security_level");
    assert_eq!(count(service, "token-spent.v1"), 1);
}

#[test]
fn a_request_may_ask_for_less_than_the_token_allows_but_not_for_more() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let device = service.device("phone");
    let rows = [
        (true, None, (true, true)),
        (true, Some(true), (true, true)),
        (true, Some(false), (false, false)),
        (false, Some(true), (true, false)),
        (false, None, (false, false)),
    ];
    for (number, (allowed, wish, recorded)) in rows.into_iter().enumerate() {
        let keys = json!([{"kid": kid(1), "policy": {"sl": 150, "persist": allowed}}]);
        let token = issuer.token(&claims(&number.to_string(), json!({ "keys": keys })));
        let mut custom_data = json!({ "token": token });
        if let Some(wish) = wish {
            custom_data["persistent"] = wish.into();
        }
        let got = try_token(service, &device, &custom_data.to_string()).unwrap();
        assert_eq!(got.licenses[0].policy.persist, recorded.1, "row {number}");
        let persistent = acquired(service)[number].persistent;
        assert_eq!((persistent.requested, persistent.effective), recorded, "row {number}");
    }
}

#[test]
fn a_member_of_the_custom_data_that_cannot_be_read_is_named_and_hides_no_other() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let device = service.device("phone");
    let token = issuer.token(&claims("one", license(&[kid(1)])));
    let ask = |text: &str| {
        let asked = with_token(&[kid(1)], &text.replace("TOKEN", &token));
        device.acquire(&service.client, &asked, &format!("token={token}"))
    };
    for (custom_data, named) in [
        (r#"{"token": "TOKEN", "persistent": "yes"}"#, "persistent: must be true or false"),
        (r#"{"persistent": 1}"#, "persistent: must be true or false"),
        (r#"{"token": ["TOKEN"]}"#, "token: must be a string"),
        (r#"{"token": 7, "persistent": "yes"}"#, "token: must be a string"),
        (r#"{"token": "TOKEN", "token": "TOKEN"}"#, "custom_data: duplicate field `token`"),
    ] {
        let (word, text) = detail(&ask(custom_data).err().unwrap());
        assert!(word == "invalid_cfg" && text.starts_with(named), "{custom_data}: {word} {text}");
    }
    assert_eq!(count(service, "token-spent.v1"), 0);
    // What is no object, or has what other people put there, is nobody's business.
    for custom_data in
        [r#"["TOKEN", 7]"#, "{no json", r#"{"persistent": null, "more": {"token": 7}}"#]
    {
        let token = issuer.token(&claims(custom_data, license(&[kid(1)])));
        let asked = with_token(&[kid(1)], custom_data);
        let query = format!("token={token}");
        assert!(device.acquire(&service.client, &asked, &query).is_ok(), "{custom_data}");
    }
}

#[test]
fn a_grant_spends_a_token_and_a_repeat_or_a_refusal_does_not() {
    let issuer = Issuer::new("ES256", "k");
    let setup = Setup::default().with("quota.device_limit", 1);
    let mut token_service = TokenService::with(&[&issuer], setup);
    let service = &mut token_service.service;
    let (phone, tablet) = (service.device("phone"), service.device("tablet"));
    let token = |jti: &str, number| issuer.token(&claims(jti, license(&[kid(number)])));
    let ask = |device: &Device, number, token: &str| device.ask(&with_token(&[kid(number)], token));
    let first = ask(&phone, 1, &token("one", 1));
    assert_eq!(service.client.challenge(&first, "").status, 200);
    // The quota refuses the second title: the token stays good.
    let second = with_token(&[kid(2)], &token("two", 2));
    let over = phone.acquire(&service.client, &second, "").err().map(|fault| reason(&fault));
    assert_eq!(over.as_deref(), Some("persistent_license_limit"));
    assert_eq!(count(service, "token-spent.v1"), 1);
    // The same challenge is answered again; others with its token are not, before and after a start.
    for _ in 0..2 {
        let events = service.event_count();
        assert_eq!(service.client.challenge(&first, "").status, 200);
        for (device, name) in [(&phone, "the same device"), (&tablet, "another device")] {
            let refused = try_token(service, device, &token("one", 1)).err();
            assert_eq!(refused.as_deref(), Some("not_entitled: token_spent"), "{name}");
        }
        assert_eq!(service.event_count(), events, "refused tokens and repeats leave no event");
        service.restart();
    }
    // Expired by now, and still the answer to the challenge that it was spent for.
    service.advance_s(7200);
    assert_eq!(service.client.challenge(&first, "").status, 200);
    let spent = service.facts().into_iter().find_map(|fact| match fact.event {
        Event::TokenSpent(spent) => Some((fact.recorded.stream.to_string(), spent)),
        _ => None,
    });
    let (stream, spent) = spent.unwrap();
    assert_eq!(stream, format!("once-{}", spent.token));
    assert_eq!(spent.identity.to_string(), phone.identity());
    // What the quota refused is granted once there is room.
    service.advance_s(-7200);
    let session = acquired(service)[0].session.0.0;
    phone.delete(&service.client, session, &[kid(1)]).unwrap();
    let again = AcquireRequest { nonce: fresh_nonce(), ..second };
    assert!(phone.acquire(&service.client, &again, "").is_ok());
}

#[test]
fn of_many_challenges_that_race_for_one_token_exactly_one_wins() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let devices: Vec<_> = (0..4).map(|n| service.device(&format!("racer-{n}"))).collect();
    for round in 0..5 {
        let token = issuer.token(&claims(&format!("race-{round}"), license(&[kid(1)])));
        let asks: Vec<_> = (0..8)
            .map(|n| devices[n % devices.len()].ask(&with_token(&[kid(1)], &token)))
            .collect();
        let statuses: Vec<_> = std::thread::scope(|scope| {
            let send = |ask: &Vec<u8>| {
                let ask = ask.clone();
                let client = service.client.clone();
                scope.spawn(move || client.challenge(&ask, "").status)
            };
            let sent: Vec<_> = asks.iter().map(send).collect();
            sent.into_iter().map(|sent| sent.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(acquired(service).len(), round + 1);
        assert_eq!(count(service, "token-spent.v1"), round + 1);
    }
}

#[test]
fn what_a_token_calls_things_stays_out_of_the_ledger() {
    let issuer = Issuer::new("ES256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let device = service.device("phone");
    let mut license = license(&[kid(1)]);
    license["account"] = json!("alice@video.example");
    license["device"] = json!("alice-phone-serial");
    let token = issuer.token(&claims("a-jti-of-the-service", license));
    assert!(try_token(service, &device, &token).is_ok());
    let reader = service.client_with(&[Scope::EventsRead]);
    let events = reader.get("/v1/events").text();
    assert!(events.contains("token-spent.v1"));
    for plain in ["alice", "serial", "a-jti-of-the-service", token.as_str()] {
        assert!(!events.contains(plain), "{plain}: {events}");
    }
}

#[test]
fn a_token_has_at_most_16_kib() {
    let issuer = Issuer::new("HS256", "k");
    let token_service = TokenService::new(&[&issuer]);
    let service = &token_service.service;
    let device = service.device("phone");
    let padded = |jti: &str, padding: usize| {
        let mut claims = claims(jti, license(&[kid(1)]));
        claims["plan"] = "x".repeat(padding).into();
        issuer.token(&claims)
    };
    let fits = |token: &String| token.len() <= 16 * 1024;
    let longest = (11_000..13_000).take_while(|n| fits(&padded("long", *n))).last().unwrap();
    let over = padded("long", longest + 1);
    assert!(over.len() < 16 * 1024 + 4, "{}", over.len());
    let refused = try_token(service, &device, &over).err();
    assert_eq!(refused.as_deref(), Some("not_entitled: token_invalid"));
    assert!(try_token(service, &device, &padded("long", longest)).is_ok());
}
