use super::*;
use crate::domain::acquire::Refusal;
use crate::domain::event::DeviceEnrolled;
use crate::domain::scenario::{
    Ask, DAY_MS as A_DAY_MS, PHONE, Removal, START_MS, Scenario, device_ref, identity, kid, kids,
};
use crate::domain::usage::{CountedLicense, RuleUse, Verdict};

/// What the one rule of the policy says.
fn explain(device: &Scenario, wanted: &[KeyId]) -> RuleUse {
    let explanation = device.explain(wanted);
    assert_eq!(explanation.rules.len(), 1);
    explanation.rules[0].clone()
}

#[test]
fn device_never_seen_holds_nothing_and_is_not_enrolled() {
    let device = Device::default();
    assert!(!device.enrolled && !device.blocked);
    assert_eq!(device.held(START_MS).count(), 0);
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
    assert_eq!(device.device.held(until_ms).count(), 0);
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
    assert_eq!((explanation.verdict, explanation.limit), (Verdict::Allow, 3));
    assert_eq!((explanation.in_use.live, explanation.in_use.confirmed), (2, 1));
    assert_eq!(explanation.requested, 1);
    let counted = |license_id, n, confirmed, counted_until_ms| CountedLicense {
        license_id,
        key_id: kid(n),
        device: device_ref(),
        confirmed,
        reserved: false,
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
    assert_eq!(explain(&device, &[]).in_use.confirmed, 1);
    device.delete(&Removal::new(1, &kids([1])));
    let explanation = explain(&device, &[]);
    assert_eq!((explanation.in_use.confirmed, explanation.in_use.live), (0, 1));
    assert!(!device.device.keeps(kid(1), license, device.now_ms));
}

#[test]
fn asking_for_nothing_is_allowed_even_over_the_limit() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2])));
    device.policy.rules[0].limit = 0;
    assert_eq!(explain(&device, &[]).verdict, Verdict::Allow);
}

#[test]
fn next_slot_to_free_is_the_one_whose_last_license_ends_first() {
    let mut device = Scenario::with_room_for(2);
    let now_ms = device.now_ms;
    device.granted(&Ask::new(1, &kids([1])).until(now_ms + 10));
    device.granted(&Ask::new(2, &kids([1])).until(now_ms + 40));
    device.granted(&Ask::new(3, &kids([2])).until(now_ms + 30));
    let denied = explain(&device, &kids([3]));
    assert_eq!(denied.verdict, Verdict::Deny);
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

/// A device with room for two whose policy voids what failed, and what is unconfirmed after 60 s, on
/// devices of level 2000 or more.
fn voiding() -> Scenario {
    let mut device = Scenario::with_room_for(2);
    device.policy.voiding = Some(Voiding {
        min_security_level: 2000,
        store_failed: true,
        unconfirmed_after_seconds: Some(60),
    });
    device
}

fn reasons(voided: &[LicenseVoided]) -> Vec<(LicenseId, VoidReason)> {
    voided.iter().map(|voided| (voided.license_id, voided.reason)).collect()
}

#[test]
fn without_a_rule_nothing_is_voided() {
    let mut device = voiding();
    device.policy.voiding = None;
    device.granted(&Ask::new(1, &kids([1, 2])).under(40));
    device.acknowledge(PHONE, 40, &[(kid(1), 7)]);
    device.wait(365 * A_DAY_MS);
    assert_eq!(device.void_overdue(), []);
    assert_eq!(device.held(), kids([1, 2]));
}

#[test]
fn unconfirmed_license_is_voided_when_its_time_has_run_out_and_frees_its_slot() {
    let mut device = voiding();
    let licenses = device.granted(&Ask::new(1, &kids([1, 2])).under(40));
    device.acknowledge(PHONE, 40, &[(kid(2), 0)]);
    device.wait(60_000);
    assert_eq!(device.void_overdue(), [], "it may be confirmed up to this moment");
    device.wait(1);
    let voided = device.void_overdue();
    assert_eq!(reasons(&voided), [(licenses[0], VoidReason::Unconfirmed)]);
    assert_eq!((voided[0].quota_policy_revision, voided[0].at_ms), (3, device.now_ms));
    assert_eq!(device.held(), kids([2]));
    assert_eq!(device.void_overdue(), [], "once is enough");
    device.granted(&Ask::new(2, &kids([3])));
}

#[test]
fn overdue_license_is_voided_before_a_decision() {
    let mut device = voiding();
    device.granted(&Ask::new(1, &kids([1, 2])));
    device.refused(&Ask::new(2, &kids([3])));
    device.wait(60_001);
    assert_eq!(device.held(), kids([1, 2]));
    device.granted(&Ask::new(3, &kids([3])));
    assert_eq!(device.held(), kids([3]));
}

#[test]
fn failed_license_is_voided_with_the_acknowledgement_that_says_so() {
    let mut device = voiding();
    let licenses = device.granted(&Ask::new(1, &kids([1, 2])).under(40));
    let events = device.acknowledge(PHONE, 40, &[(kid(1), 7), (kid(2), 0)]);
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, ["license-store-failed.v1", "license-stored.v1", "license-voided.v1"]);
    let Event::LicenseVoided(voided) = &events[2] else { panic!("{events:?}") };
    assert_eq!(reasons(std::slice::from_ref(voided)), [(licenses[0], VoidReason::StoreFailed)]);
    assert_eq!(device.held(), kids([2]));
}

#[test]
fn failure_from_before_the_rule_is_voided_at_the_next_decision() {
    let mut device = voiding();
    let rule = device.policy.voiding.take();
    let license = device.granted(&Ask::new(1, &kids([1])).under(40))[0];
    device.acknowledge(PHONE, 40, &[(kid(1), 7)]);
    device.policy.voiding = rule;
    assert_eq!(reasons(&device.void_overdue()), [(license, VoidReason::StoreFailed)]);
}

#[test]
fn devices_below_the_level_of_the_rule_keep_what_they_have() {
    let mut device = voiding();
    device.granted(&Ask::new(1, &kids([1, 2])).under(40).of_level(1999));
    device.acknowledge(PHONE, 40, &[(kid(1), 7)]);
    device.wait(A_DAY_MS);
    assert_eq!(device.void_overdue(), []);
    assert_eq!(device.held(), kids([1, 2]));
}

#[test]
fn late_confirmation_is_recorded_and_brings_nothing_back() {
    let mut device = voiding();
    device.granted(&Ask::new(1, &kids([1])).under(40));
    device.wait(60_001);
    let events = device.acknowledge(PHONE, 40, &[(kid(1), 0)]);
    assert_eq!(events.iter().map(Event::kind).collect::<Vec<_>>(), ["license-stored.v1"]);
    assert_eq!(device.held(), []);
    assert_eq!(explain(&device, &[]).in_use.confirmed, 0);
    assert!(device.acknowledge(PHONE, 40, &[(kid(1), 0)]).is_empty());
}

#[test]
fn challenge_whose_license_was_voided_is_spent() {
    let mut device = voiding();
    let ask = Ask::new(1, &kids([1]));
    device.granted(&ask);
    device.wait(60_000);
    device.repeated(&ask);
    device.wait(1);
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
}

#[test]
fn voided_license_can_be_deleted_and_frees_nothing_twice() {
    let mut device = voiding();
    device.granted(&Ask::new(1, &kids([1])));
    device.wait(60_001);
    device.void_overdue();
    device.granted(&Ask::new(2, &kids([1])));
    let before = device.events.len();
    device.delete(&Removal::new(1, &kids([1])));
    assert!(matches!(device.events[before..], [Event::LicenseDeleted(_)]));
    assert_eq!(device.held(), kids([1]), "the newer license went with the older one");
}

#[test]
fn expired_license_is_not_voided_as_well() {
    let mut device = voiding();
    device.granted(&Ask::new(1, &kids([1])).until(device.now_ms + 1));
    device.wait(A_DAY_MS);
    assert_eq!(device.void_overdue(), []);
}
