use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

/// One body of every type ever stored, `<type>.json`. A file is never changed once its type has
/// been released: it stands for the bytes in people's ledgers.
const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/events");

/// The golden of an event's type; a type without one does not compile.
fn golden(event: &Event) -> &'static str {
    macro_rules! body {
        ($kind:literal) => {
            include_str!(concat!("../../../tests/golden/events/", $kind, ".json"))
        };
    }
    match event {
        Event::DeviceEnrolled(_) => body!("device-enrolled.v1"),
        Event::IdentityLinked(_) => body!("identity-linked.v1"),
        Event::LicenseAcquired(_) => body!("license-acquired.v1"),
        Event::AcquisitionRefused(_) => body!("acquisition-refused.v1"),
        Event::DecisionRefused(_) => body!("decision-refused.v1"),
        Event::LicenseStored(_) => body!("license-stored.v1"),
        Event::LicenseStoreFailed(_) => body!("license-store-failed.v1"),
        Event::LicenseDeleted(_) => body!("license-deleted.v1"),
        Event::DeletionUnmatched(_) => body!("deletion-unmatched.v1"),
        Event::LicenseVoided(_) => body!("license-voided.v1"),
        Event::LicenseWrittenOff(_) => body!("license-written-off.v1"),
        Event::DeviceBlocked(_) => body!("device-blocked.v1"),
        Event::DeviceUnblocked(_) => body!("device-unblocked.v1"),
        Event::DeviceMerged(_) => body!("device-merged.v1"),
        Event::DeviceReplaced(_) => body!("device-replaced.v1"),
        Event::DeviceTookOver(_) => body!("device-took-over.v1"),
        Event::EvidenceKept(_) => body!("evidence-kept.v1"),
        Event::TokenSpent(_) => body!("token-spent.v1"),
        Event::QuotaPolicyPublished(_) => body!("quota-policy-published.v1"),
        Event::SlotTaken(_) => body!("slot-taken.v1"),
        Event::SlotConfirmed(_) => body!("slot-confirmed.v1"),
        Event::SlotReleased(_) => body!("slot-released.v1"),
        Event::SlotsMoved(_) => body!("slots-moved.v1"),
        Event::ReservationMade(_) => body!("reservation-made.v1"),
        Event::ReservationClosed(_) => body!("reservation-closed.v1"),
        Event::QuotaOverrideSet(_) => body!("quota-override-set.v1"),
        Event::LicenseRecorded(_) => body!("license-recorded.v1"),
        Event::StorageRecorded(_) => body!("storage-recorded.v1"),
        Event::DeletionRecorded(_) => body!("deletion-recorded.v1"),
        Event::ReportKept(_) => body!("report-kept.v1"),
        Event::RequestAnswered(_) => body!("request-answered.v1"),
        Event::ContentKeyRegistered(_) => body!("content-key-registered.v1"),
        Event::KeySeedRegistered(_) => body!("key-seed-registered.v1"),
        Event::ContentKeyBound(_) => body!("content-key-bound.v1"),
        Event::ContentKeyTyped(_) => body!("content-key-typed.v1"),
        Event::MasterKeyRotated(_) => body!("master-key-rotated.v1"),
        Event::KeysPinned(_) => body!("keys-pinned.v1"),
        Event::RevocationListsTaken(_) => body!("revocation-lists-taken.v1"),
        Event::ApiKeyCreated(_) => body!("api-key-created.v1"),
        Event::ApiKeyRevoked(_) => body!("api-key-revoked.v1"),
        Event::WebhookChanged(_) => body!("webhook-changed.v1"),
    }
}

/// Types and bodies of all goldens.
fn goldens() -> Vec<(String, String)> {
    let files = std::fs::read_dir(GOLDENS).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let kind = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (kind, std::fs::read_to_string(&path).unwrap())
    };
    files.map(read).collect()
}

#[test]
fn every_golden_is_read_as_its_type_and_written_with_the_same_members() {
    let goldens = goldens();
    assert_eq!(goldens.len(), EVENT_IDS.len());
    for (kind, body) in goldens {
        let event = decode(&kind, body.as_bytes()).unwrap();
        assert_eq!(event.kind(), kind);
        assert_eq!(golden(&event), body, "{kind} is the golden of another type");
        let written: Value = serde_json::from_slice(&encode(&event).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&body).unwrap(), "{kind}");
        assert_eq!(written["at_ms"], event.at_ms(), "{kind}");
    }
}

#[test]
fn license_policy_is_kept_byte_for_byte() {
    let policy = r#"{"z": 1,  "a":[2.50] }"#;
    let golden = serde_json::from_str::<Value>(include_str!(
        "../../../tests/golden/events/license-acquired.v1.json"
    ));
    let mut body = golden.unwrap();
    body["policy"] = Value::Null;
    let body = body.to_string().replace("\"policy\":null", &format!("\"policy\":{policy}"));
    let event = decode("license-acquired.v1", body.as_bytes()).unwrap();
    let written = String::from_utf8(encode(&event).unwrap()).unwrap();
    assert!(written.contains(&format!("\"policy\":{policy}")), "{written}");
}

#[test]
fn refuses_types_it_does_not_know() {
    for kind in ["license-acquired.v2", "license-acquired", "", "License-Acquired.v1"] {
        let refused = decode(kind, b"{}");
        assert!(matches!(refused, Err(CodecError::UnknownKind(named)) if named == kind));
    }
}

#[test]
fn refuses_bodies_with_a_required_member_missing_or_null() {
    let optional = [
        "transaction_id",
        "counted_until_ms",
        "account",
        "title",
        "content_group",
        "client_version",
        "revocation_sequence",
        "until_ms",
        "frees_at_ms",
        "occurred_ms",
    ];
    let of_kind = [
        ("quota-override-set.v1", "limit"),
        ("slot-taken.v1", "security_level"),
        ("slots-moved.v1", "security_level"),
        ("reservation-made.v1", "security_level"),
        ("decision-refused.v1", "security_level"),
        ("license-recorded.v1", "security_level"),
        ("license-recorded.v1", "evidence"),
        ("storage-recorded.v1", "evidence"),
        ("deletion-recorded.v1", "evidence"),
    ];
    for (kind, body) in goldens() {
        let body: Value = serde_json::from_str(&body).unwrap();
        for member in body.as_object().unwrap().keys() {
            let is_optional = kind != "license-stored.v1"
                && kind != "license-store-failed.v1"
                && (optional.contains(&member.as_str())
                    || of_kind.contains(&(kind.as_str(), member.as_str())));
            let mut null = body.clone();
            null[member] = Value::Null;
            let mut missing = body.clone();
            missing.as_object_mut().unwrap().remove(member);
            for body in [null, missing] {
                // A license policy is opaque here, so null is as good as any.
                let opaque = member == "policy" && kind == "license-acquired.v1";
                let read = decode(&kind, body.to_string().as_bytes());
                let accepted = is_optional || (opaque && body.get(member).is_some());
                assert_eq!(read.is_ok(), accepted, "{kind} {member}");
            }
        }
    }
}

#[test]
fn words_inside_bodies_do_not_change() {
    let words = [
        ("license-acquired.v1", "key_source", r#"{"kind": "registered"}"#),
        ("license-acquired.v1", "key_source", r#"{"kind": "published_test_seed"}"#),
        ("license-acquired.v1", "key_source", r#"{"kind": "request"}"#),
        (
            "license-acquired.v1",
            "key_source",
            r#"{"kind": "request", "check_value": "4290f871d3fe62bd"}"#,
        ),
        ("license-voided.v1", "reason", r#""unconfirmed""#),
        ("slot-released.v1", "cause", r#""deleted""#),
        ("slot-released.v1", "cause", r#""voided""#),
        ("device-replaced.v1", "licenses", r#""written_off""#),
        ("slot-released.v1", "cause", r#""reservation_closed""#),
        ("reservation-closed.v1", "end", r#""released""#),
        ("content-key-typed.v1", "key_type", r#""aesctr""#),
        ("content-key-typed.v1", "stated_by", r#"{"kind": "operator", "actor": "cli"}"#),
        ("webhook-changed.v1", "change", r#""enabled""#),
        ("webhook-changed.v1", "change", r#""disabled""#),
        ("webhook-changed.v1", "change", r#"{"dead_letters_replayed": {}}"#),
        ("license-deleted.v1", "grade", r#""A""#),
        ("license-deleted.v1", "grade", r#""C""#),
        ("license-deleted.v1", "grade", r#""D""#),
        ("license-deleted.v1", "grade", r#""E""#),
        ("license-recorded.v1", "grade", r#""B""#),
        ("storage-recorded.v1", "grade", r#""D""#),
    ];
    let goldens: BTreeMap<String, String> = goldens().into_iter().collect();
    for (kind, member, word) in words {
        let mut body: Value = serde_json::from_str(&goldens[kind]).unwrap();
        body[member] = serde_json::from_str(word).unwrap();
        let event = decode(kind, body.to_string().as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&encode(&event).unwrap()).unwrap();
        assert_eq!(written, body, "{kind} {member}");
    }
}

#[test]
fn a_device_may_take_over_limits_and_licenses_that_ended() {
    let golden = include_str!("../../../tests/golden/events/device-took-over.v1.json");
    let mut body: Value = serde_json::from_str(golden).unwrap();
    body["limits"] = serde_json::json!([
        {"rule": "device-slots", "limit": 3, "until_ms": 1_700_000_600_123_i64},
        {"rule": "hourly", "limit": 9},
    ]);
    body["ended"] = serde_json::json!([{
        "license_id": "5f0d6c12-3a55-4b57-9a3c-6f1f0c2a9b11",
        "key_id": "01234567-89ab-cdef-0123-456789abcdef",
        "reported": "00c0ffee00c0ffee", "spoken_of": true, "deleted": true,
        "deletion_grade": "D",
    }]);
    body["doubtful"] = serde_json::json!([{
        "key_id": "01234567-89ab-cdef-0123-456789abcdef",
        "license_id": "5f0d6c12-3a55-4b57-9a3c-6f1f0c2a9b12",
        "account": "nbswy3dpfqqho33snrscc4dsmu",
    }]);
    let event = decode("device-took-over.v1", body.to_string().as_bytes()).unwrap();
    let written: Value = serde_json::from_slice(&encode(&event).unwrap()).unwrap();
    assert_eq!(written, body);
}

#[test]
fn event_ids_do_not_change() {
    let id = |(kind, body): (String, String)| {
        let event = decode(&kind, body.as_bytes()).unwrap();
        (kind, event.id("a-stream").to_string())
    };
    let ids: BTreeMap<String, String> = goldens().into_iter().map(id).collect();
    let expected = EVENT_IDS.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned()));
    assert_eq!(ids, expected.collect());
}

#[test]
fn an_operators_link_is_another_fact_each_time() {
    let body = format!(
        r#"{{"identity": "{IDENTITY}", "device": "{DEVICE}", "actor": "cli", "reason": "x",
            "at_ms": 1700000000123}}"#
    );
    let event = decode("identity-linked.v1", body.as_bytes()).unwrap();
    assert_eq!(event.id("a-stream").to_string(), "8c0590cc-25fd-5130-99cb-44892a761322");
    let written: Value = serde_json::from_slice(&encode(&event).unwrap()).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(&body).unwrap());
}

const IDENTITY: &str = "9699fb0df62d2a38b447e2b253a736e1bcc8ba4082a8289a502c3b2c23dbee9f";
const DEVICE: &str = "clxoin3sng2mp6etv3rgayrqnu";

/// UUIDv5 of the goldens in the stream `a-stream`, computed with Python's uuid module.
const EVENT_IDS: &[(&str, &str)] = &[
    ("acquisition-refused.v1", "4d7c9b5c-baf0-5277-9d71-f5384bfefbdf"),
    ("api-key-created.v1", "192021aa-ced0-598e-bded-9885959c6ccc"),
    ("api-key-revoked.v1", "86c93d46-ea8f-5bc1-82de-7cdc742b635b"),
    ("content-key-bound.v1", "aec45daa-1cc6-532d-b79d-7ab98020b73f"),
    ("content-key-registered.v1", "8e3d0241-0949-5c1e-abb2-0f11a18cfa02"),
    ("content-key-typed.v1", "13af6588-2032-51f0-a699-786a703830df"),
    ("decision-refused.v1", "ab00a7e1-10fc-5107-9a78-786b05eb0c32"),
    ("deletion-recorded.v1", "f1396898-23ab-59fd-806c-45ab80539620"),
    ("deletion-unmatched.v1", "c0016dd5-47bd-552e-9a6d-59c86db35e2f"),
    ("device-blocked.v1", "75a7e902-c62b-5863-94af-e586b65ff143"),
    ("device-enrolled.v1", "9ea28cf1-9744-5499-8846-ae0518c3cb7d"),
    ("device-merged.v1", "d846cdf2-2a31-583c-a743-9408184fe83b"),
    ("device-replaced.v1", "13583658-a27e-5f4c-9b8b-8085433657b8"),
    ("device-took-over.v1", "19d44511-d2b7-5aa7-9923-06360f8ce9de"),
    ("device-unblocked.v1", "67f0a91c-39dd-5ea7-88ec-b306021beac4"),
    ("evidence-kept.v1", "1b46d61f-50d2-5125-95d3-487aa3e08f00"),
    ("identity-linked.v1", "5933da19-fdbe-504f-b3d9-43aec6764781"),
    ("key-seed-registered.v1", "3320f7d5-e143-5bf4-a21c-07e65d277cf2"),
    ("keys-pinned.v1", "782b70d8-6309-5ce4-bd1d-cf9d3f23efd1"),
    ("license-acquired.v1", "4f34876c-2fc7-5ccd-946d-f77ab36d05fb"),
    ("license-deleted.v1", "38b3fdc2-b16b-57c4-a353-fe0db99ea3ba"),
    ("license-recorded.v1", "4ff85153-707b-586d-9ee2-d920660ff140"),
    ("license-store-failed.v1", "2dfdc732-d040-5973-8f32-9666e0bf377a"),
    ("license-stored.v1", "639a3862-4f9e-5d71-a002-5e06a2c7635d"),
    ("license-voided.v1", "61034d6b-4bc1-53cb-819b-5fe74f4e4f36"),
    ("license-written-off.v1", "17ba8006-c6f8-53ad-8717-07871a77b971"),
    ("master-key-rotated.v1", "d5581ae4-d21a-5e4b-aac1-ff539019edc0"),
    ("quota-override-set.v1", "782b26d7-f445-567c-8aed-c2d5c13f866b"),
    ("quota-policy-published.v1", "7357bcfe-ac4a-51fe-a885-a7bfabb460e0"),
    ("report-kept.v1", "fd8b049e-4b4b-5c10-a073-8dd16c7c35ab"),
    ("request-answered.v1", "89ca384b-7656-5fce-858b-50a307993565"),
    ("reservation-closed.v1", "f9d8088c-8610-5e8e-9f18-38b58192cdc7"),
    ("reservation-made.v1", "82f6f0f7-13ca-5381-b4c3-650d2e8e4d25"),
    ("revocation-lists-taken.v1", "7acd901a-bb91-59ea-a040-965c7c21304c"),
    ("slot-confirmed.v1", "01f98110-a50e-5590-a31a-0331f47ae354"),
    ("slot-released.v1", "29ac60bc-212c-58ad-8f54-1de8afe14c18"),
    ("slot-taken.v1", "64520225-1935-5e85-a1bf-da58f290f7e1"),
    ("storage-recorded.v1", "05a37661-8e99-5009-9105-116b4b9df566"),
    ("slots-moved.v1", "1b04d903-f48a-52ad-b8f6-23ca8adfc515"),
    ("token-spent.v1", "8cc58077-5856-5831-bc8c-4697f949a043"),
    ("webhook-changed.v1", "2248ef73-f9cd-56ec-933f-15bb603e0573"),
];
