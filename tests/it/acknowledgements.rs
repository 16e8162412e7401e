//! Acknowledgements over HTTP: repeated, partial, late, foreign.

use std::fmt::Write as _;

use license_ledger::domain::Event;
use serde_json::Value;
use uuid::Uuid;

use crate::client::Answer;
use crate::device::{Acquired, Device, PERSISTENT, fault_of, kid, refused, request};
use crate::service::TestService;

const FAILED: u32 = 0x8004_0005;

fn acquire(service: &TestService, device: &Device, kids: &[Uuid]) -> (Acquired, [u8; 16]) {
    let request = request(kids);
    (device.acquire(&service.client, &request, PERSISTENT).unwrap(), request.nonce)
}

/// Sends results that must be taken; returns the answer and the events they made.
fn send(
    service: &TestService,
    device: &Device,
    transaction_id: Uuid,
    results: &[(Uuid, u32)],
) -> (Answer, Vec<String>) {
    let before = service.event_count();
    let answer = service.client.challenge(&device.confirm(transaction_id, results), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer, service.kinds_from(before))
}

fn statuses(inventory: &Value) -> Vec<&str> {
    let licenses = inventory["licenses"].as_array().unwrap();
    licenses.iter().map(|license| license["status"].as_str().unwrap()).collect()
}

#[test]
fn a_repeat_gets_the_same_bytes_and_leaves_no_event() {
    let service = TestService::new();
    let device = service.device("repeats");
    let transaction_id = acquire(&service, &device, &[kid(1)]).0.transaction_id.unwrap();
    let message = device.confirm(transaction_id, &[(kid(1), 0)]);
    let first = service.client.challenge(&message, "");
    assert_eq!((first.status, first.position()), (200, Some(service.event_count())));
    let before = service.event_count();
    let again = service.client.challenge(&message, "");
    assert_eq!((again.status, again.position(), &again.body), (200, None, &first.body));
    // Signed anew, with another result, a day later: still the first word counts.
    service.advance_s(24 * 60 * 60);
    for result in [0, FAILED] {
        let (answer, kinds) = send(&service, &device, transaction_id, &[(kid(1), result)]);
        assert_eq!((&answer.body, kinds), (&first.body, Vec::new()));
    }
    assert_eq!(service.event_count(), before);
    assert_eq!(statuses(&service.inventory(&device)), ["stored"]);
}

#[test]
fn parts_of_a_response_may_be_acknowledged_one_after_the_other() {
    let service = TestService::new();
    let device = service.device("parts");
    let transaction_id = acquire(&service, &device, &[kid(1), kid(2), kid(3)]).0.transaction_id;
    let transaction_id = transaction_id.unwrap();
    // A KID of somewhere else is left out.
    let (_, kinds) = send(&service, &device, transaction_id, &[(kid(2), 0), (kid(9), 0)]);
    assert_eq!(kinds, ["license-stored.v1"]);
    let inventory = service.inventory(&device);
    assert_eq!(statuses(&inventory), ["issued", "stored", "issued"]);
    assert_eq!((&inventory["confirmed"], &inventory["live"]), (&1.into(), &3.into()));
    let rest = [(kid(1), FAILED), (kid(2), FAILED), (kid(3), 0)];
    let (_, kinds) = send(&service, &device, transaction_id, &rest);
    assert_eq!(kinds, ["license-store-failed.v1", "license-stored.v1"]);
    let inventory = service.inventory(&device);
    assert_eq!(statuses(&inventory), ["store_failed", "stored", "stored"]);
    // A device can say that it failed and keep the license: the slot is not free.
    assert_eq!((&inventory["confirmed"], &inventory["live"]), (&2.into(), &3.into()));
    let (_, kinds) = send(&service, &device, transaction_id, &[(kid(1), 0)]);
    assert_eq!(kinds, Vec::<String>::new(), "a failure was taken back");
}

#[test]
fn what_was_deleted_or_has_expired_is_acknowledged_and_does_not_come_back() {
    let service = TestService::new();
    let device = service.device("late");
    let (deleted, session) = acquire(&service, &device, &[kid(1)]);
    device.delete(&service.client, session, &[kid(1)]).unwrap();
    let until = request(&[kid(2)]);
    // An hour after the clock of the test begins.
    let query = "cfg=(persist:true,enddate:20231114231320)";
    let expires = device.acquire(&service.client, &until, query).unwrap();
    assert_eq!(service.live(&device), 1);
    service.advance_s(2 * 60 * 60);
    assert_eq!(service.live(&device), 0);
    for (acquired, number) in [(deleted, 1), (expires, 2)] {
        let transaction_id = acquired.transaction_id.unwrap();
        let (_, kinds) = send(&service, &device, transaction_id, &[(kid(number), 0)]);
        assert_eq!(kinds, ["license-stored.v1"]);
    }
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["confirmed"]), (&0.into(), &0.into()));
    service.replay().check_inventory(
        &service.inner().inventory,
        license_ledger::clock::UnixMillis(service.replay().at_ms),
    );
}

#[test]
fn a_transaction_of_another_device_looks_like_one_that_never_was() {
    let service = TestService::new();
    let (device, other) = (service.device("owner"), service.device("other"));
    let transaction_id = acquire(&service, &device, &[kid(1)]).0.transaction_id.unwrap();
    acquire(&service, &other, &[kid(1)]);
    let before = service.event_count();
    let refusal = |transaction_id| {
        let answer = service.client.challenge(&other.confirm(transaction_id, &[(kid(1), 0)]), "");
        assert_eq!(answer.status, 500);
        assert_eq!(fault_of(&answer.body), refused("unknown_transaction"));
        answer.body
    };
    assert_eq!(refusal(transaction_id), refusal(Uuid::from_u128(7)));
    // Nor does it tell anything to somebody who never acquired.
    let stranger = service.device("stranger");
    let answer = service.client.challenge(&stranger.confirm(transaction_id, &[(kid(1), 0)]), "");
    assert_eq!(answer.body, refusal(transaction_id));
    assert_eq!(service.event_count(), before);
}

#[test]
fn a_transaction_id_that_the_device_used_before_is_refused() {
    let service = TestService::new();
    let (device, other) = (service.device("one"), service.device("two"));
    let query = format!("cfg=(persist:true,tid:{})", Uuid::from_u128(5));
    let first = request(&[kid(1)]);
    let challenge = device.ask(&first);
    let granted = service.client.challenge(&challenge, &query);
    let acquired = device.accept(&granted.body, &first.nonce).unwrap();
    assert_eq!(acquired.transaction_id, Some(Uuid::from_u128(5)));
    let before = service.event_count();
    // Its results could be taken for those of the first response.
    let answer = service.client.challenge(&device.ask(&request(&[kid(1)])), &query);
    assert_eq!(fault_of(&answer.body), refused("invalid_cfg"));
    assert!(answer.text().contains("tid was used before"), "{}", answer.text());
    assert_eq!(service.event_count(), before);
    // The same challenge again is a repeat, and another device's ids are its own.
    let repeated = service.client.challenge(&challenge, &query);
    let repeated = device.accept(&repeated.body, &first.nonce).unwrap();
    assert_eq!(repeated.transaction_id, acquired.transaction_id);
    other.acquire(&service.client, &request(&[kid(1)]), &query).unwrap();
    send(&service, &device, Uuid::from_u128(5), &[(kid(1), 0)]);
    assert_eq!(service.inventory(&device)["confirmed"], 1);
    assert_eq!(service.inventory(&other)["confirmed"], 0);
}

#[test]
fn a_license_that_is_not_stored_can_be_acknowledged_under_a_transaction_of_its_own() {
    let service = TestService::new();
    let device = service.device("streams");
    let query = format!("cfg=(tid:{})", Uuid::from_u128(6));
    device.acquire(&service.client, &request(&[kid(1)]), &query).unwrap();
    let (_, kinds) = send(&service, &device, Uuid::from_u128(6), &[(kid(1), 0)]);
    assert_eq!(kinds, ["license-stored.v1"]);
    assert_eq!(service.inventory(&device)["live"], 0);
}

#[test]
fn a_request_holds_six_hundred_results_and_the_rest_comes_in_another() {
    let service = TestService::new();
    let device = service.device("many");
    let transaction_id = acquire(&service, &device, &[kid(1), kid(2)]).0.transaction_id.unwrap();
    let results = |count: u128| -> Vec<_> { (1..=count).map(|n| (kid(n), 0)).collect() };
    let before = service.event_count();
    let whole = device.confirm(transaction_id, &results(1000));
    assert_eq!(service.client.challenge(&whole, "").status, 413);
    assert_eq!(service.event_count(), before);
    let (_, kinds) = send(&service, &device, transaction_id, &results(600));
    assert_eq!(kinds.len(), 2);
}

#[test]
fn results_are_recorded_with_their_codes_and_what_was_signed() {
    let service = TestService::new();
    let device = service.device("codes");
    let transaction_id = acquire(&service, &device, &[kid(1)]).0.transaction_id.unwrap();
    send(&service, &device, transaction_id, &[(kid(1), FAILED)]);
    let mut said = String::new();
    for fact in service.facts() {
        if let Event::LicenseStoreFailed(failed) = fact.event {
            assert_eq!(failed.identity.to_string(), device.identity());
            assert_eq!(failed.transaction_id.0, transaction_id);
            write!(said, "{:08x}", failed.result).unwrap();
        }
    }
    assert_eq!(said, "80040005");
}
