//! Slots are freed only by the identity that acquired them, each license once.

use license_ledger::domain::Event;
use license_ledger::playready::acquire::AcquireRequest;

use crate::device::{Device, INVALID, PERSISTENT, deleted, fault_of, kid, refused, request, words};
use crate::service::{Setup, TestService};

/// A device that holds one persistent license for the first KID, and its session.
fn holder(service: &TestService, name: &str) -> (Device, [u8; 16]) {
    let device = service.device(name);
    let request = request(&[kid(1)]);
    device.acquire(&service.client, &request, PERSISTENT).unwrap();
    (device, request.nonce)
}

fn acquire(service: &TestService, device: &Device) -> [u8; 16] {
    let request = request(&[kid(1)]);
    device.acquire(&service.client, &request, PERSISTENT).unwrap();
    request.nonce
}

#[test]
fn a_foreign_an_unknown_and_a_mismatched_deletion_are_answered_alike() {
    let service = TestService::new();
    let (victim, session) = holder(&service, "victim");
    let (attacker, own) = holder(&service, "attacker");
    let events = service.event_count();
    let answer = |device: &Device, session, kid| {
        service.client.challenge(&device.give_back(session, &[kid]), "").body
    };
    // With a session that is known as somebody else's, with one that nobody knows, with one's own
    // session for a KID that is not in it, and from a device that was never seen.
    let answers = [
        answer(&attacker, session, kid(2)),
        answer(&attacker, [9; 16], kid(2)),
        answer(&attacker, own, kid(2)),
        answer(&service.device("stranger"), session, kid(1)),
    ];
    assert_eq!(fault_of(&answers[0]), refused("unknown_session"));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "the answers differ");
    assert_eq!(service.event_count(), events);
    assert_eq!((service.live(&victim), service.live(&attacker)), (1, 1));
}

#[test]
fn a_device_of_another_root_cannot_delete() {
    let service = TestService::new();
    let (victim, session) = holder(&service, "victim");
    let other_lab = TestService::new();
    let events = service.event_count();
    let forged = other_lab.device("victim").give_back(session, &[kid(1)]);
    assert_eq!(fault_of(&service.client.challenge(&forged, "").body), INVALID);
    assert_eq!(service.event_count(), events);
    assert_eq!(service.live(&victim), 1);
}

#[test]
fn a_renewal_ends_nothing() {
    let service = TestService::new();
    let (device, older) = holder(&service, "renewer");
    let newer = acquire(&service, &device);
    assert_eq!(service.live(&device), 1, "a renewal took a second slot");
    assert_eq!(service.inventory(&device)["licenses"].as_array().unwrap().len(), 2);
    device.delete(&service.client, newer, &[kid(1)]).unwrap();
    assert_eq!(service.live(&device), 1, "deleting the copy freed the slot of the original");
    device.delete(&service.client, older, &[kid(1)]).unwrap();
    assert_eq!(service.live(&device), 0);
}

#[test]
fn one_slot_gathers_a_bounded_number_of_licenses() {
    let service = Setup::default().with("quota.licenses_per_slot", 3).start();
    let (device, _) = holder(&service, "hoarder");
    acquire(&service, &device);
    acquire(&service, &device);
    let fourth = device.acquire(&service.client, &request(&[kid(1)]), PERSISTENT).err().unwrap();
    assert_eq!(words(&fourth), refused("persistent_license_limit"));
    assert_eq!(service.replay().acquired.len(), 3);
}

#[test]
fn a_replayed_deletion_frees_nothing_twice() {
    let service = TestService::new();
    let (device, session) = holder(&service, "replayed");
    let challenge = device.give_back(session, &[kid(1)]);
    let first = service.client.challenge(&challenge, "");
    deleted(&first.body, session).unwrap();
    acquire(&service, &device);
    let events = service.event_count();
    // The recorded bytes, and the same deletion signed again.
    for again in [challenge, device.give_back(session, &[kid(1)])] {
        let answer = service.client.challenge(&again, "");
        assert_eq!((answer.status, &answer.body), (200, &first.body));
    }
    assert_eq!(service.event_count(), events);
    assert_eq!(service.live(&device), 1, "a replay freed the license acquired since");
    let metrics = service.client.get("/metrics").text();
    let counted = "license_ledger_deletions_total{outcome=\"repeat\"} 2";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

#[test]
fn a_deletion_held_back_frees_only_what_its_session_acquired() {
    let service = TestService::new();
    let (device, first) = holder(&service, "holding");
    let held_back = device.give_back(first, &[kid(1)]);
    let second = acquire(&service, &device);
    deleted(&service.client.challenge(&held_back, "").body, first).unwrap();
    assert_eq!(service.live(&device), 1);
    let inventory = service.inventory(&device);
    let licenses = inventory["licenses"].as_array().unwrap();
    assert_eq!(licenses.len(), 1);
    assert_eq!(licenses[0]["session"], data_encoding::BASE64.encode(&second));
}

#[test]
fn a_deletion_without_a_known_session_frees_only_what_it_can_only_mean() {
    let service = TestService::new();
    let (device, _) = holder(&service, "vague");
    // One license for the KID: it must be that one, on weaker evidence.
    device.delete(&service.client, [8; 16], &[kid(1)]).unwrap();
    assert_eq!(service.live(&device), 0);
    let grades: Vec<_> = service.facts().iter().filter_map(grade_and_link).collect();
    assert_eq!(grades, [("C", false)]);

    acquire(&service, &device);
    let before = service.event_count();
    device.delete(&service.client, [8; 16], &[kid(1)]).unwrap();
    assert_eq!(service.event_count(), before, "a session freed the same KID twice");
    acquire(&service, &device);
    device.delete(&service.client, [7; 16], &[kid(1)]).unwrap();
    assert_eq!(service.kinds_from(before)[1..], ["deletion-unmatched.v1", "evidence-kept.v1"]);
    assert_eq!(service.live(&device), 1);
}

fn grade_and_link(fact: &license_ledger::ledger::tail::Fact) -> Option<(&'static str, bool)> {
    match &fact.event {
        Event::LicenseDeleted(e) => Some((e.grade.letter(), e.linked)),
        _ => None,
    }
}

#[test]
fn non_persistent_licenses_cannot_be_deleted() {
    let service = TestService::new();
    let device = service.device("streamer");
    let request = AcquireRequest { session: Some([4; 16]), ..request(&[kid(1)]) };
    device.acquire(&service.client, &request, "").unwrap();
    for session in [request.nonce, [4; 16]] {
        let fault = device.delete(&service.client, session, &[kid(1)]).unwrap_err();
        assert_eq!(words(&fault), refused("unknown_session"));
    }
}

#[test]
fn the_evidence_of_a_deletion_is_the_message_itself() {
    let service = TestService::new();
    let (device, session) = holder(&service, "witness");
    let challenge = device.give_back(session, &[kid(1)]);
    deleted(&service.client.challenge(&challenge, "").body, session).unwrap();
    let facts = service.facts();
    let evidence = facts.iter().find_map(|fact| match &fact.event {
        Event::EvidenceKept(e) => Some((fact.recorded.stream.to_string(), e.envelope.clone())),
        _ => None,
    });
    let (stream, envelope) = evidence.unwrap();
    let kept = data_encoding::BASE64.decode(envelope.as_bytes()).unwrap();
    assert_eq!(kept, challenge);
    let digest = license_ledger::domain::Digest::of(&challenge);
    assert_eq!(stream, format!("evidence-{digest}"));
}
