//! A repeat is an answer, not an effect.

use license_ledger::playready::acquire::AcquireRequest;

use crate::device::{
    Acquired, Device, INVALID, PERSISTENT, fault_of, fresh_nonce, kid, refused, request, words,
};
use crate::service::TestService;

const HOUR_S: i64 = 60 * 60;

struct Challenge {
    request: AcquireRequest,
    bytes: Vec<u8>,
}

impl Challenge {
    fn of(device: &Device, kids: u128) -> Self {
        let request = request(&(0..kids).map(kid).collect::<Vec<_>>());
        Self { bytes: device.ask(&request), request }
    }

    fn send(&self, service: &TestService, device: &Device, query: &str) -> (Vec<u8>, Acquired) {
        let answer = service.client.challenge(&self.bytes, query);
        let acquired = device.accept(&answer.body, &self.request.nonce).unwrap();
        (answer.body, acquired)
    }

    /// The refusal it gets.
    fn refusal(&self, service: &TestService) -> (u32, Option<String>) {
        fault_of(&service.client.challenge(&self.bytes, PERSISTENT).body)
    }
}

#[test]
fn the_same_challenge_gets_the_same_licenses_freshly_wrapped() {
    for query in [PERSISTENT, "", "cfg=(persist:true,sl:2000,cvopl:400),(kid:header)"] {
        let mut service = TestService::new();
        let device = service.device("repeater");
        let challenge = Challenge::of(&device, 2);
        let (first_bytes, first) = challenge.send(&service, &device, query);
        let events = service.event_count();
        // Neither the query nor a restart changes what was decided.
        service.restart();
        for later_query in [query, "cfg=(persist:true,avopl:200)", "cfg=(nonsense"] {
            let (bytes, again) = challenge.send(&service, &device, later_query);
            assert_ne!(bytes, first_bytes, "the wrapping is the same");
            assert_eq!(again.rights_ids(), first.rights_ids());
            assert_eq!(again.transaction_id, first.transaction_id);
            assert_eq!(again.keys(), first.keys());
            for (again, first) in again.licenses.iter().zip(&first.licenses) {
                assert_eq!(again.policy, first.policy);
            }
        }
        assert_eq!(service.event_count(), events, "a repeat left an event");
    }
}

#[test]
fn a_challenge_is_spent_once_one_of_its_licenses_is_deleted() {
    let service = TestService::new();
    let device = service.device("deleter");
    let challenge = Challenge::of(&device, 2);
    challenge.send(&service, &device, PERSISTENT);
    device.delete(&service.client, challenge.request.nonce, &[kid(0)]).unwrap();
    let events = service.event_count();
    assert_eq!(challenge.refusal(&service), refused("challenge_spent"));
    assert_eq!(service.event_count(), events);
    assert_eq!(service.live(&device), 1);
}

#[test]
fn a_challenge_is_spent_after_a_day() {
    let service = TestService::new();
    let device = service.device("late");
    let challenge = Challenge::of(&device, 1);
    let (_, first) = challenge.send(&service, &device, PERSISTENT);
    service.advance_s(24 * HOUR_S);
    let (_, again) = challenge.send(&service, &device, PERSISTENT);
    assert_eq!(again.rights_ids(), first.rights_ids());
    service.advance_s(1);
    assert_eq!(challenge.refusal(&service), refused("challenge_spent"));
    assert_eq!(service.live(&device), 1);
}

#[test]
fn a_nonce_with_other_signed_bytes_is_refused() {
    let service = TestService::new();
    let device = service.device("reuser");
    let challenge = Challenge::of(&device, 1);
    challenge.send(&service, &device, PERSISTENT);
    let events = service.event_count();
    let other = AcquireRequest { nonce: challenge.request.nonce, ..request(&[kid(9)]) };
    assert_eq!(fault_of(&service.client.challenge(&device.ask(&other), "").body), INVALID);
    // The same request signed again is other bytes too: its ciphertext differs.
    let again = device.ask(&challenge.request);
    assert_eq!(fault_of(&service.client.challenge(&again, PERSISTENT).body), INVALID);
    assert_eq!(service.event_count(), events);
    // Another device may happen to have the same nonce.
    let neighbor = service.device("neighbor");
    neighbor.acquire(&service.client, &other, PERSISTENT).unwrap();
}

#[test]
fn a_refusal_is_decided_again() {
    let service = crate::service::Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("patient");
    let first = Challenge::of(&device, 1);
    first.send(&service, &device, PERSISTENT);
    let request = request(&[kid(5)]);
    let second = Challenge { bytes: device.ask(&request), request };
    assert_eq!(second.refusal(&service), refused("persistent_license_limit"));
    let events = service.event_count();
    assert_eq!(second.refusal(&service), refused("persistent_license_limit"));
    assert_eq!(service.event_count(), events, "the repeat of a refusal left an event");
    device.delete(&service.client, first.request.nonce, &[kid(0)]).unwrap();
    second.send(&service, &device, PERSISTENT);
    assert_eq!(service.live(&device), 1);
}

#[test]
fn only_the_first_word_about_a_license_counts() {
    let service = TestService::new();
    let device = service.device("fickle");
    let challenge = Challenge::of(&device, 1);
    let (_, acquired) = challenge.send(&service, &device, PERSISTENT);
    let transaction_id = acquired.transaction_id.unwrap();
    let other =
        service.device("other").acknowledge(&service.client, transaction_id, &[(kid(0), 0)]);
    assert_eq!(words(&other.unwrap_err()), refused("unknown_transaction"));
    device.acknowledge(&service.client, transaction_id, &[(kid(0), 7)]).unwrap();
    let events = service.event_count();
    device.acknowledge(&service.client, transaction_id, &[(kid(0), 0)]).unwrap();
    device.acknowledge(&service.client, transaction_id, &[(kid(0), 7)]).unwrap();
    assert_eq!(service.event_count(), events);
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["confirmed"]), (&1.into(), &0.into()));
    assert_eq!(inventory["licenses"][0]["status"], "store_failed");
}

#[test]
fn a_session_is_linked_by_name_or_by_nonce() {
    let service = TestService::new();
    let device = service.device("sessions");
    let named = AcquireRequest { session: Some([3; 16]), ..request(&[kid(1)]) };
    device.acquire(&service.client, &named, PERSISTENT).unwrap();
    let plain = request(&[kid(2)]);
    device.acquire(&service.client, &plain, PERSISTENT).unwrap();
    let delete = |session, kids: &[_]| device.delete(&service.client, session, kids);
    // The nonce of an acquisition that named its session is none; nor are the KIDs of another.
    for (session, kids) in [(named.nonce, [kid(1)]), ([3; 16], [kid(2)]), (plain.nonce, [kid(1)])] {
        assert_eq!(words(&delete(session, &kids).unwrap_err()), refused("unknown_session"));
    }
    assert_eq!(service.live(&device), 2);
    delete([3; 16], &[kid(1), kid(77)]).unwrap();
    delete(plain.nonce, &[kid(2)]).unwrap();
    assert_eq!(service.live(&device), 0);
    // A KID that was deleted in a named session is not issued in it again.
    let again = AcquireRequest { nonce: fresh_nonce(), ..named };
    let fault = device.acquire(&service.client, &again, PERSISTENT).err().unwrap();
    assert_eq!(words(&fault), INVALID);
}

/// Only the query names the key, and nobody signs that.
#[test]
fn a_repeat_never_gets_another_key_than_the_first_answer_had() {
    const ONE: &str = "ck:AAAAAAAAAAAAAAAAAAAAAQ==";
    const OTHER: &str = "ck:AAAAAAAAAAAAAAAAAAAAAg==";
    const SEED: &str = "keyseed:Wdkg2jsl3djgqSFer26XVBoVVRPzVEggUOSKSQaz";
    let root = "11111111-2222-3333-4444-555555555555";
    let chain =
        |key: &str| format!("cfg=(rootid:{root},kid:header),(isroot:true,kid:{root},{key})");
    let named = |key: &str| format!("cfg=({key})");
    let mut service = TestService::new();
    let device = service.device("repeater");
    for (first_query, others) in [
        (named(ONE), [named(OTHER), named(SEED), String::new()]),
        (named(SEED), [named(ONE), "cfg=(nonsense".to_owned(), String::new()]),
        (chain(ONE), [chain(OTHER), chain(SEED), named(ONE)]),
    ] {
        let challenge = Challenge::of(&device, 1);
        let ask =
            |service: &TestService, query: &str| service.client.challenge(&challenge.bytes, query);
        assert_eq!(ask(&service, &first_query).status, 200);
        let events = service.event_count();
        service.restart();
        assert_eq!(ask(&service, &first_query).status, 200, "{first_query}");
        for other in others {
            let answer = ask(&service, &other);
            assert_eq!(fault_of(&answer.body), refused("challenge_spent"), "{first_query} {other}");
        }
        assert_eq!(service.event_count(), events, "a repeat left an event");
    }
    for (query, later_query) in [(named(ONE), named(ONE)), (String::new(), named(ONE))] {
        let challenge = Challenge::of(&device, 1);
        let (_, first) = challenge.send(&service, &device, &query);
        let (_, again) = challenge.send(&service, &device, &later_query);
        assert_eq!((again.rights_ids(), again.keys()), (first.rights_ids(), first.keys()));
    }
}
