//! What is told, in which form, and what happens when nobody listens.

use super::*;
use crate::service::NOW_S;

/// Longer than the pause after any attempt.
const LONG_S: i64 = 30 * 60 * 60;

#[test]
fn what_happens_is_told_in_order_signed_and_under_the_id_of_its_event() {
    let (server, dir) = (taker(), TempDir::new().unwrap());
    let shared = format!("whsec_{}", BASE64.encode(&SHARED));
    let private = format!("whsk_{}", BASE64.encode(&[7; 32]));
    let files = [("new", &private), ("old", &shared)];
    let files = files.map(|(name, text)| secret_file(dir.path(), name, text));
    let telling = Telling::with(
        &[endpoint("audit", &server.url, json!({ "secret_files": files }))],
        Setup::default().with("quota.device_limit", 2),
    );
    let (service, device) = (&telling.service, &telling.device);
    let (got, session) = telling.acquire(1);
    device.acknowledge(&service.client, got.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    let (failed, _) = telling.acquire(2);
    device.acknowledge(&service.client, failed.transaction_id.unwrap(), &[(kid(2), 5)]).unwrap();
    assert!(device.acquire(&service.client, &request(&[kid(3)]), PERSISTENT).is_err());
    device.delete(&service.client, session, &[kid(1)]).unwrap();
    telling.caught_up("audit");

    let told = server.asked();
    let events: Vec<_> =
        told.iter().filter(|asked| asked.json()["type"] != "quota.threshold").cloned().collect();
    assert_eq!(
        types(&events),
        [
            "license.acquired",
            "license.stored",
            "license.acquired",
            "license.store_failed",
            "license.refused",
            "license.deleted"
        ]
    );
    assert_eq!(
        ids(&events),
        telling.ids(&[
            "license-acquired.v1",
            "license-stored.v1",
            "license-store-failed.v1",
            "acquisition-refused.v1",
            "license-deleted.v1"
        ])
    );
    let facts: BTreeMap<_, _> =
        service.facts().into_iter().map(|fact| (fact.recorded.sequence, fact)).collect();
    let mut last = 0;
    for asked in &told {
        let data = &asked.json()["data"];
        let sequence = data["sequence"].as_u64().unwrap();
        assert!(sequence >= last, "in the order of the ledger");
        last = sequence;
        assert_eq!(data["position"], (sequence + 1).to_string());
        assert_eq!(asked.header("webhook-timestamp"), NOW_S.to_string());
        assert_eq!(asked.header("content-type"), "application/json");
        assert_eq!(asked.method, "POST");
        let signatures: Vec<_> = asked.header("webhook-signature").split(' ').collect();
        let [first, second] = signatures[..] else { panic!("{signatures:?}") };
        verify_private(asked, first, telling.state("audit")["public_keys"][0].as_str().unwrap());
        verify_shared(asked, second);
    }
    for asked in &events {
        let (body, data) = (asked.json(), &asked.json()["data"]);
        let fact = &facts[&data["sequence"].as_u64().unwrap()];
        let stored: Value = serde_json::from_slice(&fact.recorded.data).unwrap();
        assert_eq!((&data["event"], &data["event_type"]), (&stored, &json!(fact.event.kind())));
        assert_eq!(data["device"], service.inventory(device)["device"]);
        assert_eq!(body["timestamp"], "2023-11-14T22:13:20.000Z");
        assert!(asked.body.len() < 20_000);
    }
}

#[test]
fn an_endpoint_is_told_only_what_it_wants_to_know() {
    let (some, all) = (taker(), taker());
    let telling = Telling::start(&[
        endpoint("some", &some.url, json!({"types": ["license.deleted"]})),
        endpoint("all", &all.url, json!({})),
    ]);
    let (_, session) = telling.acquire(1);
    telling.device.delete(&telling.service.client, session, &[kid(1)]).unwrap();
    telling.caught_up("some");
    telling.caught_up("all");
    assert_eq!(types(&some.asked()), ["license.deleted"]);
    assert_eq!(types(&all.asked()), ["license.acquired", "license.deleted"]);
    assert_eq!(ids(&all.asked())[1], ids(&some.asked())[0], "one message, one id");
}

#[test]
fn a_message_that_fails_is_tried_again_and_holds_up_none_behind_it() {
    let server = Server::start(|n, _| match n {
        0 => Answer::Body(500, b"not now".to_vec()),
        1 => Answer::Nothing,
        _ => Answer::Body(200, b"thanks".to_vec()),
    });
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    for number in 1..=4 {
        telling.acquire(number);
    }
    telling.caught_up("e");
    let order = telling.ids(&["license-acquired.v1"]);
    assert_eq!(ids(&server.asked()), order);
    let state = telling.state("e");
    assert_eq!((&state["retrying"], &state["status"]), (&json!(2), &json!("active")));
    telling.service.advance_s(7);
    eventually("both are tried again", || server.asked().len() == 6);
    let told = server.asked();
    // In whichever order: pauses differ by chance.
    let again = BTreeMap::from_iter(ids(&told).into_iter().zip(&told).skip(4));
    for first in &told[..2] {
        let again = again[first.header("webhook-id")];
        assert_eq!(first.body, again.body);
        assert_eq!(again.header("webhook-timestamp"), (NOW_S + 7).to_string());
        verify_shared(again, again.header("webhook-signature"));
    }
    eventually("nothing is left", || telling.state("e")["retrying"] == 0);
}

#[test]
fn a_receiver_may_ask_to_be_left_alone_for_a_while() {
    let server = Server::start(|_, _| Answer::Later(3600));
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    telling.acquire(1);
    telling.caught_up("e");
    let state = telling.state("e");
    assert_eq!(state["next_retry_at"], "2023-11-14T23:13:20.000Z");
    assert_eq!(state["last_error"], "status 429");
}

#[test]
fn after_ten_attempts_a_message_is_a_dead_letter_until_it_is_sent_again() {
    let server = Server::start(|n, _| {
        if n < 20 { Answer::Body(503, Vec::new()) } else { Answer::Body(200, Vec::new()) }
    });
    let telling = Telling::start(&[endpoint("e", &server.url, json!({"in_flight": 2}))]);
    for number in 1..=2 {
        telling.acquire(number);
    }
    for attempts in 1..=10 {
        eventually("both are tried", || server.asked().len() == 2 * attempts);
        eventually("that is recorded", || {
            let state = telling.state("e");
            state["failures"] == 2 * attempts
        });
        telling.service.advance_s(LONG_S);
    }
    let state = telling.state("e");
    assert_eq!((&state["dead_letters"], &state["retrying"]), (&json!(2), &json!(0)));
    assert_eq!((&state["last_error"], &state["status"]), (&json!("status 503"), &json!("down")));
    let order = telling.ids(&["license-acquired.v1"]);
    // Page by page.
    let first = telling.service.client.json("/v1/webhooks/e/dead-letters?limit=1");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = telling
        .service
        .client
        .json(&format!("/v1/webhooks/e/dead-letters?limit=1&cursor={cursor}"));
    assert_eq!(second["next_cursor"], Value::Null);
    for (page, id) in [&first, &second].into_iter().zip(&order) {
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        let letter = &page["items"][0];
        assert_eq!((&letter["message_id"], &letter["attempts"]), (&json!(id), &json!(10)));
        assert_eq!(
            (&letter["type"], &letter["last_error"]),
            (&json!("license.acquired"), &json!("status 503"))
        );
    }

    // One, then the rest; the server takes them by now.
    let answer = telling.post("e/replay", json!({ "message_id": order[1] }));
    assert_eq!(answer.status, 202, "{}", answer.text());
    eventually("it is delivered", || telling.state("e")["dead_letters"] == 1);
    eventually("nothing is left of it", || telling.state("e")["retrying"] == 0);
    assert_eq!(ids(&server.asked()).last(), Some(&order[1]));
    assert_eq!(telling.post("e/replay", json!({"message_id": order[1]})).status, 404);
    assert_eq!(telling.post("e/replay", json!({"dead_letters": true})).status, 202);
    eventually("the rest as well", || {
        let state = telling.state("e");
        state["dead_letters"] == 0 && state["retrying"] == 0
    });
    assert_eq!(ids(&server.asked()).last(), Some(&order[0]));
    assert_eq!(telling.state("e")["status"], "active");
}

#[test]
fn an_endpoint_that_is_down_gets_what_it_missed_when_it_is_up() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static UP: AtomicBool = AtomicBool::new(false);
    let server = Server::start(|_, _| {
        Answer::Body(if UP.load(Ordering::SeqCst) { 200 } else { 502 }, Vec::new())
    });
    let telling =
        Telling::start(&[endpoint("e", &server.url, json!({"types": ["license.acquired"]}))]);
    for number in 1..=15 {
        telling.acquire(number);
    }
    eventually("it is down", || telling.state("e")["status"] == "down");
    assert_eq!(server.asked().len(), 10, "the rest waits in the ledger");
    assert_eq!(telling.service.client.get("/readyz").status, 200);
    telling.service.advance_s(7);
    eventually("these are tried again", || server.asked().len() == 20);
    // A minute later it is tried with one more.
    telling.service.advance_s(73);
    let order = telling.ids(&["license-acquired.v1"]);
    eventually("one is tried", || {
        // What was under way failed only after that time.
        telling.service.advance_s(1);
        ids(&server.asked()).contains(&order[10])
    });
    UP.store(true, Ordering::SeqCst);
    telling.service.advance_s(LONG_S);
    let end = telling.service.event_count().to_string();
    eventually("everything is delivered", || {
        telling.service.advance_s(60);
        let state = telling.state("e");
        state["position"] == *end && state["retrying"] == 0
    });
    let mut told = ids(&server.asked());
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 15);
    assert_eq!(telling.state("e")["failures"], 0);
}

#[test]
fn an_endpoint_that_is_gone_is_left_alone_until_it_is_enabled() {
    let server = Server::start(|n, _| Answer::Body(if n == 1 { 410 } else { 200 }, Vec::new()));
    let telling = Telling::start(&[endpoint("e", &server.url, json!({}))]);
    telling.acquire(1);
    telling.acquire(2);
    eventually("it is disabled", || telling.state("e")["status"] == "disabled");
    assert_eq!(telling.state("e")["disabled_by"], "status 410");
    telling.acquire(3);
    telling.service.advance_s(LONG_S);
    let restarted = {
        let mut telling = telling;
        telling.service.restart();
        telling
    };
    assert_eq!(restarted.state("e")["status"], "disabled");
    assert_eq!(server.asked().len(), 2);
    let enabled = restarted.post("e/enable", json!({}));
    assert_eq!((enabled.status, &enabled.json()["status"]), (200, &json!("active")));
    eventually("the rest is delivered", || server.asked().len() == 4);
    let order = restarted.ids(&["license-acquired.v1"]);
    assert_eq!(ids(&server.asked())[2..], order[1..]);
}

#[test]
fn a_denied_decision_is_told_as_a_refusal() {
    let server = taker();
    let telling = Telling::with(
        &[endpoint("e", &server.url, json!({"types": ["license.refused"]}))],
        Setup::default().with("quota.device_limit", 1),
    );
    let key_ids = [kid(1), kid(2)];
    let ask = json!({"device": "tv", "key_ids": key_ids, "commit": true});
    for _ in 0..2 {
        let client = &telling.service.client;
        let answer = client.command("/v1/quota/decisions", &fresh_key(), &ask);
        assert_eq!(answer.json()["decision"], "deny");
    }
    telling.caught_up("e");
    let [told] = server.asked().try_into().unwrap();
    assert_eq!(types(std::slice::from_ref(&told)), ["license.refused"]);
    let data = told.json()["data"].clone();
    assert_eq!(data["event_type"], "decision-refused.v1");
    assert_eq!(data["event"]["key_ids"], json!(key_ids));
    assert_eq!((&data["event"]["limit"], &data["event"]["requested"]), (&json!(1), &json!(2)));
}
