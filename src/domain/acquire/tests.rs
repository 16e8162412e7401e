use super::*;
use crate::domain::Event;
use crate::domain::event::KeySource;
use crate::domain::quota::{DEVICE_SLOTS, LICENSES_PER_SLOT, QuotaRule};
use crate::domain::scenario::{Ask, DAY_MS, Removal, Scenario, kid, kids, session};
use crate::domain::usage::RuleUse;

const TV: u8 = 2;
const HOUR_MS: i64 = DAY_MS / 24;

fn exceeded(refusal: Refusal) -> RuleUse {
    match refusal {
        Refusal::Quota(exceeded) => *exceeded.rule,
        other => panic!("refused for another reason: {other:?}"),
    }
}

fn refusals(scenario: &Scenario) -> Vec<&AcquisitionRefused> {
    let refused = scenario.events.iter().filter_map(|event| match event {
        Event::AcquisitionRefused(refused) => Some(refused),
        _ => None,
    });
    refused.collect()
}

#[test]
fn grants_until_the_slots_are_taken_and_refuses_the_next() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([2])));
    let refusal = exceeded(device.refused(&Ask::new(3, &kids([3]))));
    assert_eq!((refusal.rule.as_str(), refusal.limit), (DEVICE_SLOTS, 2));
    assert_eq!((refusal.in_use.live, refusal.requested), (2, 1));
    assert_eq!(refusal.held_kids(), kids([1, 2]));
    assert_eq!(refusal.next_free_at_ms, None);
    assert_eq!(device.held(), kids([1, 2]));
}

#[test]
fn first_rule_that_is_exceeded_denies_and_gives_its_name() {
    let mut device = Scenario::with_room_for(3);
    let rule = device.policy.rules[0].clone();
    let tight = |id: &str, limit| QuotaRule { id: id.to_owned(), limit, ..rule.clone() };
    device.policy.rules.extend([tight("two", 2), tight("one", 1)]);
    device.granted(&Ask::new(1, &kids([1])));
    let by = |refusal: RuleUse| (refusal.rule, refusal.limit);
    assert_eq!(by(exceeded(device.refused(&Ask::new(2, &kids([2]))))), ("one".to_owned(), 1));
    assert_eq!(by(exceeded(device.refused(&Ask::new(3, &kids([2, 3]))))), ("two".to_owned(), 2));
    let most = by(exceeded(device.refused(&Ask::new(4, &kids([2, 3, 4])))));
    assert_eq!(most, (DEVICE_SLOTS.to_owned(), 3));
    assert_eq!(device.explain(&[]).decisive().map(|rule| rule.rule.as_str()), Some("one"));
}

#[test]
fn policy_without_rules_limits_only_each_slot() {
    let mut device = Scenario::with_room_for(0);
    device.policy.rules.clear();
    device.granted(&Ask::new(1, &kids(1..100)));
    assert_eq!(device.explain(&[]).decisive(), None);
    let refusal = exceeded(device.refused(&Ask::new(2, &[kid(1); 16])));
    assert_eq!(refusal.rule, LICENSES_PER_SLOT);
}

#[test]
fn refuses_a_batch_whole_when_a_part_of_it_does_not_fit() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])));
    let refusal = exceeded(device.refused(&Ask::new(2, &kids([2, 3]))));
    assert_eq!((refusal.in_use.live, refusal.requested), (1, 2));
    assert_eq!(device.held(), kids([1]));
    device.granted(&Ask::new(3, &kids([2])));
}

#[test]
fn counts_a_kid_that_a_batch_names_twice_as_one_slot() {
    let mut device = Scenario::with_room_for(1);
    assert_eq!(device.granted(&Ask::new(1, &kids([1, 1]))).len(), 2);
    assert_eq!(device.held(), kids([1]));
    assert_eq!(device.live().len(), 2);
}

#[test]
fn slots_are_the_devices_whichever_of_its_identities_asks() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    exceeded(device.refused(&Ask::new(1, &kids([2])).by(TV)));
    device.granted(&Ask::new(2, &kids([1])).by(TV));
    device.delete(&Removal::new(1, &kids([1])));
    assert_eq!(device.held(), kids([1]), "the other identity still has its license");
    device.delete(&Removal::new(2, &kids([1])).by(TV));
    assert_eq!(device.held(), []);
}

#[test]
fn records_the_terms_and_the_time_of_a_grant() {
    let mut device = Scenario::with_room_for(1);
    let Outcome::Grant(licenses) = device.acquire(&Ask::new(1, &kids([1]))) else {
        panic!("not granted")
    };
    assert_eq!(licenses[0].quota_policy_revision, 3);
    assert_eq!(licenses[0].at_ms, device.now_ms);
    assert!(!licenses[0].overage);
}

#[test]
fn never_counts_non_persistent_licenses() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([2, 3, 4])).non_persistent());
    assert_eq!(device.held(), kids([1]));
    assert_eq!(device.events.len(), 4, "they are recorded all the same");
}

#[test]
fn renewal_takes_no_slot_and_ends_nothing() {
    let mut device = Scenario::with_room_for(1);
    let first = device.granted(&Ask::new(1, &kids([1])));
    let second = device.granted(&Ask::new(2, &kids([1])));
    assert_eq!(device.held(), kids([1]));
    assert_eq!(device.live(), [first, second].concat());
}

#[test]
fn renewal_is_granted_even_when_the_limit_was_lowered_below_what_is_held() {
    let mut device = Scenario::with_room_for(3);
    device.granted(&Ask::new(1, &kids([1, 2, 3])));
    device.policy.rules[0].limit = 1;
    device.granted(&Ask::new(2, &kids([2])));
    let refusal = exceeded(device.refused(&Ask::new(3, &kids([2, 4]))));
    assert_eq!((refusal.limit, refusal.in_use.live, refusal.requested), (1, 3, 1));
}

#[test]
fn grants_sixteen_live_licenses_a_slot_and_refuses_the_next() {
    let mut device = Scenario::with_room_for(25);
    let end_ms = device.now_ms + 1000;
    for nonce in 1..=16 {
        device.granted(&Ask::new(nonce, &kids([1])).until(end_ms));
    }
    let refusal = exceeded(device.refused(&Ask::new(17, &kids([1, 2]))));
    assert_eq!((refusal.rule.as_str(), refusal.limit), (LICENSES_PER_SLOT, 16));
    assert_eq!((refusal.in_use.live, refusal.requested), (16, 1));
    assert_eq!(refusal.held_kids(), kids([1]));
    assert_eq!(refusal.next_free_at_ms, Some(end_ms));
    device.wait(1000);
    device.granted(&Ask::new(18, &kids([1, 2])));
}

#[test]
fn refuses_a_batch_that_overfills_a_slot_by_itself() {
    let mut device = Scenario::with_room_for(25);
    let refusal = exceeded(device.refused(&Ask::new(1, &[kid(1); 17])));
    assert_eq!((refusal.rule.as_str(), refusal.in_use.live), (LICENSES_PER_SLOT, 0));
    assert_eq!(refusal.requested, 17);
    device.granted(&Ask::new(2, &[kid(1); 16]));
}

#[test]
fn frees_a_slot_the_moment_its_last_license_stops_counting() {
    let mut device = Scenario::with_room_for(1);
    let (early, late) = (device.now_ms + 1000, device.now_ms + 2000);
    device.granted(&Ask::new(1, &kids([1])).until(late));
    device.granted(&Ask::new(2, &kids([1])).until(early));
    device.wait(1999);
    let refusal = exceeded(device.refused(&Ask::new(3, &kids([2]))));
    assert_eq!(refusal.next_free_at_ms, Some(late));
    device.wait(1);
    device.granted(&Ask::new(4, &kids([2])));
    assert_eq!(device.held(), kids([2]));
}

#[test]
fn names_no_time_for_a_slot_in_which_a_license_never_stops_counting() {
    let mut device = Scenario::with_room_for(1);
    let soon = device.now_ms + 1000;
    device.granted(&Ask::new(1, &kids([1])).until(soon));
    device.granted(&Ask::new(2, &kids([1])));
    assert_eq!(exceeded(device.refused(&Ask::new(3, &kids([2])))).next_free_at_ms, None);
}

#[test]
fn answers_the_same_challenge_with_the_same_licenses_for_a_day() {
    let mut device = Scenario::with_room_for(2);
    let ask = Ask::new(1, &kids([1, 2]));
    let licenses = device.granted(&ask);
    assert_eq!(device.repeated(&ask), licenses);
    device.wait(DAY_MS);
    assert_eq!(device.repeated(&ask), licenses);
    device.wait(1);
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
    assert_eq!(device.events.len(), 2);
}

#[test]
fn repeats_a_challenge_for_non_persistent_licenses_for_a_day() {
    let mut device = Scenario::with_room_for(0);
    let ask = Ask::new(1, &kids([1])).non_persistent();
    let licenses = device.granted(&ask);
    assert_eq!(device.repeated(&ask), licenses);
    device.wait(DAY_MS + 1);
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
}

#[test]
fn replayed_challenge_is_spent_once_any_of_its_licenses_was_deleted() {
    let mut device = Scenario::with_room_for(2);
    let ask = Ask::new(1, &kids([1, 2]));
    device.granted(&ask);
    device.delete(&Removal::new(1, &kids([2])));
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
    assert_eq!(device.held(), kids([1]));
}

#[test]
fn replayed_challenge_is_spent_even_when_its_title_was_acquired_again() {
    let mut device = Scenario::with_room_for(1);
    let ask = Ask::new(1, &kids([1]));
    device.granted(&ask);
    device.delete(&Removal::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([1])));
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
}

#[test]
fn replayed_challenge_is_spent_once_any_of_its_licenses_expired() {
    let mut device = Scenario::with_room_for(1);
    let ask = Ask::new(1, &kids([1])).until(device.now_ms + 1000);
    let licenses = device.granted(&ask);
    device.wait(999);
    assert_eq!(device.repeated(&ask), licenses);
    device.wait(1);
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
}

#[test]
fn replayed_challenge_is_spent_after_a_deletion_too_weak_to_free_the_slot() {
    let mut device = Scenario::with_room_for(1);
    device.policy.releasing_grades = vec![crate::domain::event::Grade::A];
    let ask = Ask::new(1, &kids([1]));
    device.granted(&ask);
    device.delete(&Removal::new(1, &kids([1])));
    assert_eq!(device.held(), kids([1]));
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
}

#[test]
fn blocked_device_gets_nothing_not_even_what_it_had() {
    let mut device = Scenario::with_room_for(2);
    let ask = Ask::new(1, &kids([1]));
    device.granted(&ask);
    device.device.blocked = true;
    assert_eq!(device.refused(&ask), Refusal::ChallengeSpent);
    assert_eq!(device.refused(&Ask::new(2, &kids([2]))), Refusal::Blocked);
    assert_eq!(device.refused(&Ask::new(3, &kids([3])).non_persistent()), Refusal::Blocked);
}

#[test]
fn refuses_a_nonce_that_was_granted_for_other_bytes() {
    let mut device = Scenario::with_room_for(2);
    let ask = Ask::new(1, &kids([1]));
    device.granted(&ask);
    assert_eq!(device.refused(&ask.other_bytes()), Refusal::NonceReused);
}

#[test]
fn nonces_are_each_identitys_own() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(1, &kids([2])).by(TV));
}

#[test]
fn refusals_are_not_remembered_as_answers() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    let ask = Ask::new(2, &kids([2]));
    exceeded(device.refused(&ask));
    device.delete(&Removal::new(1, &kids([1])));
    device.granted(&ask.clone().other_bytes());
    assert_eq!(device.refused(&ask), Refusal::NonceReused);
}

#[test]
fn records_a_refused_challenge_once_however_often_it_comes() {
    let mut device = Scenario::with_room_for(0);
    let ask = Ask::new(1, &kids([1]));
    for _ in 0..3 {
        exceeded(device.refused(&ask));
        device.wait(2 * HOUR_MS);
    }
    assert_eq!(refusals(&device).len(), 1);
}

#[test]
fn records_what_was_refused_and_by_which_rule() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([9])));
    exceeded(device.refused(&Ask::new(2, &kids([1, 2]))));
    let [refused] = refusals(&device)[..] else { panic!("one refusal is recorded") };
    assert_eq!(refused.key_ids, kids([1, 2]));
    assert_eq!((refused.rule.as_str(), refused.limit), (DEVICE_SLOTS, 1));
    assert_eq!((refused.held, refused.requested), (1, 2));
    assert_eq!((refused.quota_policy_revision, refused.at_ms), (3, device.now_ms));
}

#[test]
fn records_a_kid_refused_by_one_rule_once_an_hour() {
    let mut device = Scenario::with_room_for(0);
    exceeded(device.refused(&Ask::new(1, &kids([1]))));
    device.wait(HOUR_MS - 1);
    exceeded(device.refused(&Ask::new(2, &kids([1]))));
    assert_eq!(refusals(&device).len(), 1);
    exceeded(device.refused(&Ask::new(3, &kids([1, 2]))));
    assert_eq!(refusals(&device)[1].key_ids, kids([2]), "the first was named within the hour");
    device.wait(1);
    exceeded(device.refused(&Ask::new(4, &kids([1]))));
    assert_eq!(refusals(&device).len(), 3);
}

#[test]
fn records_a_kid_refused_by_another_rule_within_the_hour() {
    let mut device = Scenario::with_room_for(1);
    device.policy.licenses_per_slot = 1;
    device.granted(&Ask::new(1, &kids([1])));
    exceeded(device.refused(&Ask::new(2, &kids([1]))));
    exceeded(device.refused(&Ask::new(3, &kids([1, 2]))));
    let rules: Vec<&str> = refusals(&device).iter().map(|refused| refused.rule.as_str()).collect();
    assert_eq!(rules, [LICENSES_PER_SLOT, DEVICE_SLOTS]);
}

#[test]
fn records_a_hundred_refusals_a_device_and_day() {
    let mut device = Scenario::with_room_for(0);
    for n in 0..=100 {
        exceeded(device.refused(&Ask::new(n, &kids([n]))));
        device.wait(1);
    }
    assert_eq!(refusals(&device).len(), 100);
    device.wait(DAY_MS - 102);
    exceeded(device.refused(&Ask::new(101, &kids([101]))));
    assert_eq!(refusals(&device).len(), 100, "a day after the first has not passed");
    device.wait(1);
    exceeded(device.refused(&Ask::new(102, &kids([102]))));
    assert_eq!(refusals(&device).len(), 101);
}

#[test]
fn names_at_most_fifty_kids_in_a_refusal_and_none_twice() {
    let mut device = Scenario::with_room_for(0);
    exceeded(device.refused(&Ask::new(1, &kids([1, 1, 2]))));
    exceeded(device.refused(&Ask::new(2, &kids(10..90))));
    let named: Vec<usize> = refusals(&device).iter().map(|refused| refused.key_ids.len()).collect();
    assert_eq!(named, [2, 50]);
}

#[test]
fn refuses_to_acquire_in_a_named_session_what_the_session_deleted() {
    let mut device = Scenario::with_room_for(5);
    device.granted(&Ask::new(1, &kids([1, 2])).in_session(90));
    device.delete(&Removal::new(90, &kids([1])));
    let again = Ask::new(2, &kids([3, 1])).in_session(90);
    assert_eq!(device.refused(&again), Refusal::SessionUsed(kid(1)));
    device.granted(&Ask::new(3, &kids([3])).in_session(90));
    device.granted(&Ask::new(4, &kids([1])).in_session(90).non_persistent());
    device.granted(&Ask::new(5, &kids([1])).in_session(91));
    device.granted(&Ask::new(6, &kids([1])).in_session(90).by(TV));
}

#[test]
fn refuses_to_acquire_in_a_named_session_what_a_deletion_named_with_it_before() {
    let mut device = Scenario::with_room_for(5);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([1])));
    device.delete(&Removal::new(90, &kids([1])));
    let again = Ask::new(3, &kids([1])).in_session(90);
    assert_eq!(device.refused(&again), Refusal::SessionUsed(kid(1)));
}

#[test]
fn refuses_to_acquire_in_a_session_what_was_acquired_in_it_before() {
    let mut device = Scenario::with_room_for(5);
    device.granted(&Ask::new(1, &kids([1, 1])).in_session(90));
    let again = Ask::new(2, &kids([2, 1])).in_session(90);
    assert_eq!(device.refused(&again), Refusal::SessionUsed(kid(1)));
    device.granted(&Ask::new(3, &kids([1])).in_session(90).non_persistent());
    device.granted(&Ask::new(4, &kids([1])).in_session(90).by(TV));
    device.granted(&Ask::new(5, &kids([1])).in_session(91));
    device.granted(&Ask::new(6, &kids([1])));
}

#[test]
fn names_and_nonces_are_one_space_of_sessions() {
    let mut device = Scenario::with_room_for(5);
    device.granted(&Ask::new(1, &kids([1])));
    let named_after_a_nonce = Ask::new(2, &kids([1])).in_session(1);
    assert_eq!(device.refused(&named_after_a_nonce), Refusal::SessionUsed(kid(1)));
    device.granted(&Ask::new(3, &kids([1])).in_session(90));
    let nonce_like_a_name = Ask::new(90, &kids([1]));
    assert_eq!(device.refused(&nonce_like_a_name), Refusal::SessionUsed(kid(1)));
}

#[test]
fn session_of_a_license_is_the_one_named_else_the_nonce() {
    let ask = Ask::new(1, &kids([1]));
    assert_eq!(ask.session_id(), session(1));
    assert_eq!(ask.in_session(90).session_id(), session(90));
}

#[test]
fn refuses_a_transaction_id_that_was_used_before() {
    let mut device = Scenario::with_room_for(5);
    let ask = Ask::new(1, &kids([1])).under(40);
    let licenses = device.granted(&ask);
    assert_eq!(device.refused(&Ask::new(2, &kids([2])).under(40)), Refusal::TransactionUsed);
    assert_eq!(device.repeated(&ask), licenses);
    device.granted(&Ask::new(3, &kids([3])).under(40).by(TV));
}

#[test]
fn refuses_what_an_entitlement_does_not_allow_and_records_nothing() {
    let mut device = Scenario::with_room_for(1);
    let ask = Ask::new(1, &kids([1]));
    assert_eq!(device.refused(&ask.clone().for_other_device()), Refusal::OtherDevice);
    assert_eq!(device.refused(&ask.clone().with_spent_token()), Refusal::TokenSpent);
    assert_eq!(device.events.len(), 0);
    device.granted(&ask);
}

#[test]
fn repeats_a_granted_challenge_whatever_its_token_is_good_for_by_then() {
    let mut device = Scenario::with_room_for(1);
    let ask = Ask::new(1, &kids([1]));
    let licenses = device.granted(&ask);
    assert_eq!(device.repeated(&ask.with_spent_token().for_other_device()), licenses);
}

const REGISTERED: KeySource = KeySource::Registered;

#[test]
fn a_leaf_needs_a_root_that_comes_with_it_or_is_held() {
    let mut device = Scenario::with_room_for(9);
    let [root, first, second] = [kid(1), kid(2), kid(3)];
    let leaf = |nonce, leaf| Ask::new(nonce, &[leaf]).leaf(leaf, root, REGISTERED);
    let missing = Refusal::RootMissing(root);
    assert_eq!(device.refused(&leaf(1, first)), missing);
    // Held, but not as a root.
    device.granted(&Ask::new(2, &[root]));
    assert_eq!(device.refused(&leaf(3, first)), missing);
    device.delete(&Removal::new(2, &[root]));

    let both = Ask::new(4, &[root, first]).root(root).leaf(first, root, REGISTERED);
    device.granted(&both);
    device.granted(&leaf(5, second));
    // Nothing that is not stored hangs on what is, and the key must be the root's own.
    assert_eq!(device.refused(&leaf(6, second).non_persistent()), missing);
    for source in [KeySource::PublishedTestSeed, KeySource::Request { check_value: None }] {
        let other = Ask::new(7, &[second]).leaf(second, root, source);
        assert_eq!(device.refused(&other), missing);
    }
    // Root and leaves are slots like any others: a leaf counts even when its root is gone.
    assert_eq!(device.held(), [root, first, second]);
    device.delete(&Removal::new(4, &[root]));
    assert_eq!(device.refused(&leaf(8, second)), missing);
    assert_eq!(device.held(), [first, second]);
    device.granted(&Ask::new(9, &[root]).root(root));
    device.granted(&leaf(10, second));
}

#[test]
fn a_root_that_ended_takes_no_leaves() {
    let mut device = Scenario::with_room_for(9);
    let [root, leaf] = [kid(1), kid(2)];
    device.granted(&Ask::new(1, &[root]).root(root).until(device.now_ms + HOUR_MS));
    device.now_ms += HOUR_MS;
    let late = Ask::new(2, &[leaf]).leaf(leaf, root, REGISTERED);
    assert_eq!(device.refused(&late), Refusal::RootMissing(root));
}

#[test]
fn a_root_whose_key_the_request_named_takes_leaves_of_the_same_request_only() {
    let mut device = Scenario::with_room_for(9);
    let [root, first, second] = [kid(1), kid(2), kid(3)];
    let both = Ask::new(1, &[root, first]).root(root).leaf(
        first,
        root,
        KeySource::Request { check_value: None },
    );
    device.granted(&both);
    let later = Ask::new(2, &[second]).leaf(second, root, KeySource::Request { check_value: None });
    assert_eq!(device.refused(&later), Refusal::RootMissing(root));
}

#[test]
fn the_kid_of_a_root_is_for_nothing_else() {
    let mut device = Scenario::with_room_for(9);
    let [root, other] = [kid(1), kid(2)];
    device.granted(&Ask::new(1, &[root]).root(root));
    device.granted(&Ask::new(2, &[other]));
    assert_eq!(device.refused(&Ask::new(3, &[root])), Refusal::RootReserved(root));
    let non_persistent = Ask::new(4, &[root]).non_persistent();
    assert_eq!(device.refused(&non_persistent), Refusal::RootReserved(root));
    let also_root = Ask::new(5, &[other]).root(other);
    assert_eq!(device.refused(&also_root), Refusal::RootReserved(other));
    // A root is renewed like any other license.
    device.granted(&Ask::new(6, &[root]).root(root));
}
