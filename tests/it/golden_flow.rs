//! The golden messages against the real service: bytes that nobody here produced.

use data_encoding::HEXLOWER;
use uuid::Uuid;

use crate::device::{Device, INVALID, PERSISTENT, fault_of, refused};
use crate::service::{Setup, TestService, golden, golden_flow};

/// A service that has the content keys of the flow, and the flow's KIDs and keys.
fn service() -> (TestService, Vec<(Uuid, [u8; 16])>) {
    let service = Setup::golden().start();
    let flow = golden_flow();
    let texts = |member: &str| -> Vec<String> {
        let list = flow[member].as_array().unwrap();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let kids = texts("kids").into_iter().map(|kid| kid.parse().unwrap());
    let keys = texts("content_keys").into_iter().map(|key| sixteen(&key));
    let keys: Vec<_> = kids.zip(keys).collect();
    service.import(&keys);
    (service, keys)
}

fn sixteen(hex: &str) -> [u8; 16] {
    HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
}

fn flow_bytes(member: &str) -> [u8; 16] {
    sixteen(golden_flow()[member].as_str().unwrap())
}

/// The fault that the service answers to a golden message, which must append nothing.
fn refusal(service: &TestService, message: &str, query: &str) -> (u32, Option<String>) {
    let before = service.event_count();
    let answer = service.client.challenge(&golden(message), query);
    assert_eq!(answer.status, 500);
    assert_eq!(answer.header("content-type"), Some("text/xml; charset=utf-8"));
    assert_eq!(service.event_count(), before, "{message} left an event");
    fault_of(&answer.body)
}

#[test]
fn the_golden_flow_runs_from_acquisition_to_deletion() {
    let (service, keys) = service();
    let device = Device::golden("golden");
    let kids: Vec<_> = keys.iter().map(|(kid, _)| *kid).collect();

    let answer = service.client.challenge(&golden("request_session.xml"), PERSISTENT);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/xml; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let acquired = device.accept(&answer.body, &flow_bytes("nonce")).unwrap();
    assert_eq!(acquired.keys(), keys);
    assert!(acquired.licenses.iter().all(|license| license.policy.persist));
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["confirmed"]), (&2.into(), &0.into()));
    assert_eq!(inventory["licenses"][0]["session"], golden_flow()["session_b64"]);
    assert_eq!(inventory["licenses"][0]["session_explicit"], true);

    let results: Vec<_> = kids.iter().map(|kid| (*kid, 0)).collect();
    let transaction_id = acquired.transaction_id.unwrap();
    device.acknowledge(&service.client, transaction_id, &results).unwrap();
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["confirmed"]), (&2.into(), &2.into()));

    let before = service.event_count();
    let deleted = service.client.challenge(&golden("delete_request.xml"), "");
    assert_eq!(deleted.status, 200);
    assert_eq!(deleted.body, golden("delete_response.xml"));
    assert_eq!(
        service.kinds_from(before),
        ["license-deleted.v1", "license-deleted.v1", "evidence-kept.v1"]
    );
    assert_eq!(service.live(&device), 0);

    let before = service.event_count();
    let repeated = service.client.challenge(&golden("delete_request.xml"), "");
    assert_eq!((repeated.status, repeated.body), (200, golden("delete_response.xml")));
    assert_eq!(service.event_count(), before, "a repeated deletion left an event");
    let replay = service.replay();
    assert_eq!(replay.deleted, replay.acquired.iter().map(|l| l.license_id).collect::<Vec<_>>());
}

#[test]
fn golden_deletions_that_are_forged_or_foreign_change_nothing() {
    let (service, _) = service();
    let device = Device::golden("golden");
    let answer = service.client.challenge(&golden("request_session.xml"), PERSISTENT);
    assert_eq!(answer.status, 200);
    assert_eq!(refusal(&service, "delete_request_tampered.xml", ""), INVALID);
    assert_eq!(
        refusal(&service, "delete_request_other_device.xml", ""),
        refused("unknown_session")
    );
    assert_eq!(service.live(&device), 2);
    let other =
        service.client.get(&format!("/v1/devices/{}", Device::golden("golden-b").identity()));
    assert_eq!(other.status, 404, "a refused deletion enrolled its sender");
}

#[test]
fn the_golden_acknowledgement_fits_only_the_transaction_it_names() {
    let (service, _) = service();
    assert_eq!(refusal(&service, "ack_request.xml", ""), refused("unknown_transaction"));

    let chosen = golden_flow()["transaction_id"].as_str().unwrap().to_owned();
    let query = format!("cfg=(persist:true,tid:{chosen})");
    let answer = service.client.challenge(&golden("request_session.xml"), &query);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let acknowledged = service.client.challenge(&golden("ack_request.xml"), "");
    assert_eq!((acknowledged.status, acknowledged.body), (200, golden("ack_response.xml")));
    assert_eq!(service.replay().stored.len(), 2);
}

#[test]
fn the_plain_golden_request_gets_one_license_that_is_not_counted() {
    let (service, _) = service();
    let device = Device::golden("golden");
    let answer = service.client.challenge(&golden("request.xml"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let nonce = service.replay().acquired[0].nonce.0.0;
    let acquired = device.accept(&answer.body, &nonce).unwrap();
    assert_eq!(acquired.licenses.len(), 1);
    assert_eq!(acquired.licenses[0].rights_id, nonce);
    assert!(!acquired.licenses[0].policy.persist);
    assert_eq!(acquired.transaction_id, None);
    assert_eq!(service.live(&device), 0);
}

#[test]
fn golden_requests_that_are_tampered_or_wrapped_are_refused() {
    let (service, _) = service();
    assert_eq!(refusal(&service, "request_tampered.xml", ""), INVALID);
    assert_eq!(refusal(&service, "request_wrapped.xml", ""), INVALID);
    assert_eq!(refusal(&service, "request_tampered.xml", PERSISTENT), INVALID);
}

#[test]
fn a_revoked_device_acquires_nothing_and_may_still_delete() {
    let (service, keys) = service();
    let revoked = Device::golden("golden-revoked");
    let before = service.event_count();
    let request = crate::device::request(&[keys[0].0]);
    let fault = revoked.acquire(&service.client, &request, PERSISTENT).err().unwrap();
    assert_eq!(crate::device::words(&fault), (0x8004_C065, None));
    // It never held anything, and is told so as anybody would be.
    let fault = revoked.delete(&service.client, [7; 16], &[keys[0].0]).unwrap_err();
    assert_eq!(crate::device::words(&fault), refused("unknown_session"));
    assert_eq!(service.event_count(), before);
}
