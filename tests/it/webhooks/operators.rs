//! What operators see and do, through the API.

use license_ledger::access::Scope;
use license_ledger::domain::Event;
use license_ledger::domain::event::WebhookChange;

use super::*;

#[test]
fn a_range_is_sent_again_under_the_same_ids() {
    let server = taker();
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    for number in 1..=4 {
        telling.acquire(number);
    }
    telling.caught_up("e");
    let told = server.asked();
    let place = |n: usize| told[n].json()["data"]["position"].as_str().unwrap().to_owned();
    // From behind the first message up to behind the third.
    let answer = telling.post("e/replay", json!({"from": place(0), "to": place(2)}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    eventually("it is sent again", || telling.state("e")["replays"] == json!([]));
    let again = server.asked().split_off(4);
    assert_eq!(ids(&again), ids(&told[1..3]));
    assert_eq!(again[0].body, told[1].body);

    let end = telling.service.event_count();
    for (body, field) in [
        (json!({"from": "3", "to": (end + 1).to_string()}), "to"),
        (json!({"from": "3", "to": "3"}), "to"),
        (json!({"from": "x", "to": "3"}), "from"),
        (json!({"from": "3"}), "from and to"),
        (json!({}), "message_id"),
        (json!({"dead_letters": true, "from": "1", "to": "2"}), "dead_letters"),
        (json!({"dead_letters": true, "message_id": Uuid::nil()}), "dead_letters"),
        (json!({"dead_leters": true}), "dead_leters"),
    ] {
        let answer = telling.post("e/replay", body);
        assert_eq!(answer.status_and_code(), (400, "invalid-request".to_owned()));
        assert!(answer.problem()["detail"].as_str().unwrap().contains(field), "{}", answer.text());
    }
}

#[test]
fn an_operator_may_disable_an_endpoint_and_enable_it_again() {
    let server = taker();
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    let disabled = telling.post("e/disable", json!({}));
    assert_eq!((disabled.status, &disabled.json()["disabled_by"]), (200, &json!("operator")));
    telling.acquire(1);
    // What is told of one message is told of all before it.
    assert_eq!(telling.post("e/enable", json!({})).status, 200);
    telling.acquire(2);
    telling.caught_up("e");
    assert_eq!(ids(&server.asked()), telling.ids(&["license-acquired.v1"]));
}

#[test]
fn what_an_operator_changes_is_recorded_once_with_who_it_was() {
    let server = taker();
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    telling.acquire(1);
    let support = telling.service.client_with(&[Scope::SupportWrite]);
    telling.caught_up("e");
    let replay = |key: &str, to: &str| {
        support.command("/v1/webhooks/e/replay", key, &json!({"from": "0", "to": to}))
    };
    let end = telling.service.event_count().to_string();
    let first = replay("a", &end);
    assert_eq!(first.status, 202, "{}", first.text());
    assert_eq!(first.position(), Some(telling.service.event_count()));
    let again = replay("a", &end);
    assert_eq!((again.status, &again.body), (202, &first.body), "the same answer");
    assert_eq!(replay("a", "1").status_and_code(), (422, "idempotency-key-reused".to_owned()));
    eventually("all is told again", || telling.state("e")["replays"] == json!([]));
    assert_eq!(support.command("/v1/webhooks/e/disable", "b", &json!({})).status, 200);
    let (facts, told) = (telling.service.facts(), server.asked().len());
    let changes = facts.into_iter().filter_map(|fact| match fact.event {
        Event::WebhookChanged(e) => Some((e.endpoint, e.change, e.actor)),
        _ => None,
    });
    let changes: Vec<_> = changes.collect();
    let actor = support.key().split('_').nth(1).unwrap();
    let to = end.parse().unwrap();
    let of = |change| ("e".to_owned(), change, actor.to_owned());
    assert_eq!(
        changes,
        [of(WebhookChange::RangeReplayed { from: 0, to }), of(WebhookChange::Disabled)]
    );
    assert_eq!(told, 2, "it is told once more, and no more");
}

#[test]
fn endpoints_are_listed_without_their_secrets() {
    let server = taker();
    let url = format!("{}?token=url-token", server.url);
    let telling = Telling::start(&[
        endpoint("b", &url, json!({"types": ["license.deleted"]})),
        endpoint("a", &server.url, json!({})),
    ]);
    telling.acquire(1);
    telling.caught_up("a");
    let list = telling.service.client.json("/v1/webhooks");
    let seen: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
    assert_eq!(seen, ["b", "a"], "in the order of the configuration");
    assert_eq!(list["position"], telling.service.event_count().to_string());
    let item = &list["items"][0];
    assert_eq!((&item["url"], &item["types"]), (&json!(server.url), &json!(["license.deleted"])));
    assert!(!list.to_string().contains("url-token"));
    assert!(list["items"][1]["last_delivered_at"].is_string());
    assert_eq!(telling.service.client.get("/v1/webhooks/c").status, 404);
    assert_eq!(telling.service.client.get("/v1/webhooks/c/dead-letters").status, 404);
    assert_eq!(telling.post("c/enable", json!({})).status, 404);
}

#[test]
fn reading_and_changing_need_their_scopes() {
    let server = taker();
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    let reader = telling.service.client_with(&[Scope::EventsRead]);
    let support = telling.service.client_with(&[Scope::SupportWrite]);
    let replay = json!({"dead_letters": true});
    for path in ["/v1/webhooks", "/v1/webhooks/e", "/v1/webhooks/e/dead-letters"] {
        assert_eq!(reader.get(path).status, 200, "{path}");
        assert_eq!(support.get(path).status_and_code(), (403, "missing-scope".to_owned()));
        assert_eq!(support.with_key("").get(path).status, 401);
    }
    for path in ["/v1/webhooks/e/replay", "/v1/webhooks/e/disable", "/v1/webhooks/e/enable"] {
        let body = if path.ends_with("replay") { replay.clone() } else { json!({}) };
        assert_eq!(reader.command(path, "key", &body).status, 403, "{path}");
        let unnamed = support.post_json(path, &body);
        assert_eq!(unnamed.problem()["errors"][0]["field"], "Idempotency-Key", "{path}");
        assert!(support.command(path, path, &body).status < 300, "{path}");
    }
}

#[test]
fn without_endpoints_there_is_nothing() {
    let service = TestService::new();
    let list = service.client.json("/v1/webhooks");
    assert_eq!(list["items"], json!([]));
    assert_eq!(service.client.get("/v1/webhooks/e").status, 404);
    assert!(!service.data().join("webhooks.db").exists());
}
