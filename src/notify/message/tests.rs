use std::borrow::Cow;

use serde_json::{Value, json};

use super::*;
use crate::domain::quota::Scope;
use crate::ledger::StreamName;
use crate::ledger::codec;

const DEVICE: &str = "abcdefghijklmnopqrstuvwxyz";

fn fact(kind: &'static str, data: &Value) -> Fact {
    let data = data.to_string().into_bytes();
    let event = codec::decode(kind, &data).unwrap();
    let recorded = Recorded {
        sequence: 41,
        cursor: "41".parse().unwrap(),
        stream: StreamName::new(&format!("{DEVICE_STREAM}{DEVICE}")).unwrap(),
        revision: 3,
        id: Uuid::from_u128(0x77),
        kind: Cow::Borrowed(kind),
        data,
        metadata: Vec::new(),
    };
    Fact { recorded, event }
}

fn voided() -> Value {
    json!({
        "license_id": Uuid::from_u128(1), "key_id": Uuid::from_u128(2), "reason": "store_failed",
        "quota_policy_revision": 0, "at_ms": 1_774_958_400_007_i64,
    })
}

fn refused(key_ids: usize) -> Value {
    let key_ids: Vec<_> = (0..key_ids).map(|n| Uuid::from_u128(n as u128)).collect();
    json!({
        "identity": "00".repeat(32), "nonce": "AAAAAAAAAAAAAAAAAAAAAA==", "key_ids": key_ids,
        "rule": "device-slots", "limit": 25, "held": 25, "requested": 1,
        "quota_policy_revision": 0, "signed_sha256": "00".repeat(32), "at_ms": 0,
    })
}

#[test]
fn a_message_holds_the_event_as_it_is_stored_and_its_place() {
    let message = Message::of_event(&fact("license-voided.v1", &voided())).unwrap().unwrap();
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    assert_eq!(
        body,
        json!({
            "type": "license.voided", "timestamp": "2026-03-31T12:00:00.007Z",
            "data": {
                "event_id": Uuid::from_u128(0x77), "event_type": "license-voided.v1",
                "sequence": 41, "position": "42", "stream": format!("device-{DEVICE}"),
                "device": DEVICE, "account": null, "event": voided(),
            },
        })
    );
    assert_eq!(message.id, Uuid::from_u128(0x77));
    assert_eq!(message.place, Place { sequence: 41, part: 0 });
}

#[test]
fn a_message_never_grows_beyond_its_limit() {
    let fits = Message::of_event(&fact("acquisition-refused.v1", &refused(50))).unwrap().unwrap();
    let body: Value = serde_json::from_slice(&fits.body).unwrap();
    assert_eq!(body["data"]["event"], refused(50));
    let large = Message::of_event(&fact("acquisition-refused.v1", &refused(600))).unwrap().unwrap();
    assert!(large.body.len() < BODY_BYTES_MAX);
    let body: Value = serde_json::from_slice(&large.body).unwrap();
    assert_eq!((&body["data"]["event"], &body["data"]["sequence"]), (&Value::Null, &json!(41)));
}

#[test]
fn nobody_is_told_of_what_is_no_news() {
    let event = json!({"token": "00".repeat(32), "identity": "00".repeat(32),
        "nonce": "AAAAAAAAAAAAAAAAAAAAAA==", "at_ms": 0});
    assert_eq!(Message::of_event(&fact("token-spent.v1", &event)).unwrap(), None);
}

#[test]
fn each_share_of_a_limit_is_a_message_of_its_own() {
    let fact = fact("license-voided.v1", &voided());
    let crossing = |threshold_percent| Crossing {
        scope: Scope::Device,
        rule: "device-slots".to_owned(),
        window_seconds: None,
        title: None,
        limit: 25,
        threshold_percent,
        live: 25,
        quota_policy_revision: 3,
    };
    let [near, full] =
        [80, 100].map(|percent| Message::of_crossing(&fact, &crossing(percent)).unwrap());
    assert!(near.id != full.id && near.id != fact.recorded.id);
    assert_eq!(near, Message::of_crossing(&fact, &crossing(80)).unwrap());
    let body: Value = serde_json::from_slice(&near.body).unwrap();
    assert_eq!(
        (&body["type"], &body["timestamp"]),
        (&json!("quota.threshold"), &json!("2026-03-31T12:00:00.007Z"))
    );
    let data = body["data"].as_object().unwrap();
    for (member, value) in [
        ("sequence", json!(41)),
        ("position", json!("42")),
        ("device", json!(DEVICE)),
        ("scope", json!("device")),
        ("rule", json!("device-slots")),
        ("limit", json!(25)),
        ("threshold_percent", json!(80)),
        ("live", json!(25)),
        ("quota_policy_revision", json!(3)),
    ] {
        assert_eq!(data[member], value, "{member}");
    }
}
