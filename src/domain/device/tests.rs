use super::*;
use crate::domain::event::DeviceEnrolled;
use crate::domain::scenario::{
    Ask, DAY_MS as A_DAY_MS, PHONE, Removal, START_MS, Scenario, device_ref, identity, kid, kids,
};

fn explain(device: &Scenario, wanted: &[KeyId]) -> Explanation {
    device.device.explain(wanted, &device.policy, device.now_ms)
}

#[test]
fn device_never_seen_holds_nothing_and_is_not_enrolled() {
    let device = Device::default();
    assert!(!device.enrolled && !device.blocked);
    assert_eq!(device.counted(START_MS), []);
}

#[test]
fn enrollment_is_remembered_with_its_time() {
    let mut device = Device::default();
    device.evolve(&Event::DeviceEnrolled(DeviceEnrolled {
        device: device_ref(),
        identity: identity(PHONE),
        security_level: 2000,
        model: String::new(),
        at_ms: START_MS,
    }));
    assert!(device.enrolled);
    assert_eq!(device.at_ms, START_MS);
}

#[test]
fn license_counts_until_its_time_and_not_at_it() {
    let mut device = Scenario::with_room_for(1);
    let until_ms = device.now_ms + 1;
    let license = device.granted(&Ask::new(1, &kids([1])).until(until_ms))[0];
    assert!(device.device.keeps(kid(1), license, until_ms - 1));
    assert!(device.device.holds(kid(1), until_ms - 1));
    assert!(!device.device.keeps(kid(1), license, until_ms));
    assert!(!device.device.holds(kid(1), until_ms));
    assert_eq!(device.device.counted(until_ms), []);
}

#[test]
fn license_granted_past_its_time_never_counts() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).until(device.now_ms));
    assert_eq!(device.held(), []);
}

#[test]
fn state_keeps_nothing_of_licenses_that_have_expired() {
    let mut device = Scenario::with_room_for(2);
    for n in 1..=200 {
        let until_ms = device.now_ms + 1;
        device.granted(&Ask::new(n, &kids([n])).until(until_ms));
        device.wait(1);
    }
    device.granted(&Ask::new(201, &kids([201])));
    assert_eq!(device.device.slots.len(), 1);
}

#[test]
fn state_keeps_nothing_of_refusals_older_than_a_day() {
    let mut device = Scenario::with_room_for(0);
    device.refused(&Ask::new(1, &kids([1])));
    device.wait(A_DAY_MS);
    device.refused(&Ask::new(2, &kids([2])));
    assert_eq!(device.device.refusals.len(), 1);
}

#[test]
fn state_keeps_the_kids_of_refusals_for_an_hour_and_their_number_for_a_day() {
    let mut device = Scenario::with_room_for(0);
    device.refused(&Ask::new(1, &kids([1])));
    device.wait(REFUSAL_QUIET_MS);
    device.refused(&Ask::new(2, &kids([2])));
    let kept: Vec<_> = device.device.refusals.iter().map(|r| r.key_ids.len()).collect();
    assert_eq!(kept, [0, 1]);
}

#[test]
fn state_keeps_nothing_of_unmatched_deletions_older_than_a_day() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([1])));
    for session in [200, 201] {
        device.delete(&Removal::new(session, &kids([1])));
        device.wait(A_DAY_MS);
    }
    assert_eq!(device.device.unmatched.len(), 1);
}

#[test]
fn explanation_names_what_was_counted_and_when_it_ends() {
    let mut device = Scenario::with_room_for(3);
    let until_ms = device.now_ms + 1000;
    let first = device.granted(&Ask::new(1, &kids([2])).until(until_ms))[0];
    let second = device.granted(&Ask::new(2, &kids([1])).under(40))[0];
    device.acknowledge(PHONE, 40, &[(kid(1), 0)]);
    let explanation = explain(&device, &kids([1, 3, 3]));
    assert_eq!(explanation.denied, None);
    assert_eq!((explanation.limit, explanation.live), (Some(3), 2));
    assert_eq!((explanation.confirmed, explanation.requested), (1, 1));
    let counted = |license_id, n, confirmed, counted_until_ms| CountedLicense {
        license_id,
        key_id: kid(n),
        confirmed,
        counted_until_ms,
    };
    let expected = [counted(second, 1, true, None), counted(first, 2, false, Some(until_ms))];
    assert_eq!(explanation.counted, expected);
}

#[test]
fn license_deleted_on_weak_evidence_counts_and_is_no_longer_confirmed() {
    let mut device = Scenario::with_room_for(1);
    device.policy.releasing_grades = Vec::new();
    let license = device.granted(&Ask::new(1, &kids([1])).under(40))[0];
    device.acknowledge(PHONE, 40, &[(kid(1), 0)]);
    assert_eq!(explain(&device, &[]).confirmed, 1);
    device.delete(&Removal::new(1, &kids([1])));
    let explanation = explain(&device, &[]);
    assert_eq!((explanation.confirmed, explanation.live), (0, 1));
    assert!(!device.device.keeps(kid(1), license, device.now_ms));
}

#[test]
fn asking_for_nothing_is_allowed_even_over_the_limit() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2])));
    device.policy.rules[0].limit = 0;
    assert_eq!(explain(&device, &[]).denied, None);
}

#[test]
fn next_slot_to_free_is_the_one_whose_last_license_ends_first() {
    let mut device = Scenario::with_room_for(2);
    let now_ms = device.now_ms;
    device.granted(&Ask::new(1, &kids([1])).until(now_ms + 10));
    device.granted(&Ask::new(2, &kids([1])).until(now_ms + 40));
    device.granted(&Ask::new(3, &kids([2])).until(now_ms + 30));
    let denied = explain(&device, &kids([3])).denied.unwrap();
    assert_eq!(denied.next_free_at_ms, Some(now_ms + 30));
}

#[test]
fn folded_state_survives_its_stored_form() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).under(40).until(START_MS + 1000));
    device.acknowledge(PHONE, 40, &[(kid(1), 0)]);
    device.refused(&Ask::new(2, &kids([2])));
    device.granted(&Ask::new(3, &kids([1])));
    device.delete(&Removal::new(200, &kids([1])));
    let bytes = postcard::to_allocvec(&device.device).unwrap();
    assert_eq!(postcard::from_bytes::<Device>(&bytes).unwrap(), device.device);
}
