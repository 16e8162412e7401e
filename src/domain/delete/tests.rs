use super::*;
use crate::domain::acquire::Refusal;
use crate::domain::scenario::{
    Ask, DAY_MS, PHONE, Removal, Scenario, identity, kid, kids, session,
};

const TV: u8 = 2;
/// A session that no challenge named and no nonce was.
const UNKNOWN: u8 = 200;

/// The events of an answered challenge, all of which are recorded.
fn answered(outcome: Outcome) -> Vec<Deletion> {
    match outcome {
        Outcome::Answer { deletions, left_out: 0 } => deletions,
        other => panic!("{other:?}"),
    }
}

/// The licenses that an answered challenge ended.
fn ended(outcome: Outcome) -> Vec<LicenseDeleted> {
    let deleted = answered(outcome).into_iter().map(|deletion| match deletion {
        Deletion::Deleted(deleted) => deleted,
        Deletion::Unmatched(unmatched) => panic!("unmatched: {unmatched:?}"),
    });
    deleted.collect()
}

/// The one KID that an answered challenge could not match with a license.
fn unmatched(outcome: Outcome) -> DeletionUnmatched {
    match &answered(outcome)[..] {
        [Deletion::Unmatched(unmatched)] => unmatched.clone(),
        other => panic!("{other:?}"),
    }
}

fn assert_repeat(outcome: &Outcome) {
    assert_eq!(*outcome, Outcome::Answer { deletions: Vec::new(), left_out: 0 });
}

fn grade_of(removal: Removal) -> (Grade, bool) {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    let deleted = ended(device.delete(&removal));
    (deleted[0].grade, deleted[0].linked)
}

// The rows of the table in section 9.2, in its order.

#[test]
fn all_kids_of_the_session_free_their_slots() {
    let mut device = Scenario::with_room_for(2);
    let licenses = device.granted(&Ask::new(1, &kids([1, 2])).in_session(90));
    let deleted = ended(device.delete(&Removal::new(90, &kids([1, 2]))));
    let ids: Vec<LicenseId> = deleted.iter().map(|e| e.license_id).collect();
    assert_eq!(ids, licenses);
    assert!(deleted.iter().all(|e| e.linked && e.releases));
    assert!(deleted.iter().all(|e| e.session == session(90) && e.acquired_session == e.session));
    assert_eq!(device.held(), []);
    device.granted(&Ask::new(2, &kids([3, 4])));
}

#[test]
fn some_kids_and_the_rest_later_take_effect_once_each() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2])).in_session(90));
    assert_eq!(ended(device.delete(&Removal::new(90, &kids([1])))).len(), 1);
    assert_eq!(device.held(), kids([2]));
    assert_eq!(ended(device.delete(&Removal::new(90, &kids([1, 2])))).len(), 1);
    assert_eq!(device.held(), []);
}

#[test]
fn unknown_kids_beside_own_ones_are_ignored() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])));
    let deleted = ended(device.delete(&Removal::new(1, &kids([7, 1, 8]))));
    assert_eq!(deleted.iter().map(|e| e.key_id).collect::<Vec<_>>(), kids([1]));
}

#[test]
fn repeats_are_answered_and_free_nothing_in_any_order_of_kids() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2])).in_session(90));
    device.delete(&Removal::new(90, &kids([1, 2])));
    let events = device.events.len();
    for order in [kids([1, 2]), kids([2, 1]), kids([2, 2, 1])] {
        assert_repeat(&device.delete(&Removal::new(90, &order)));
    }
    assert_eq!(device.events.len(), events);
}

#[test]
fn another_session_than_the_one_named_at_acquisition_is_unknown() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])).in_session(90));
    let events = device.events.len();
    for other in [91, 1] {
        assert_eq!(device.delete(&Removal::new(other, &kids([1]))), Outcome::UnknownSession);
    }
    assert_eq!(device.events.len(), events);
    assert_eq!(device.held(), kids([1]));
}

#[test]
fn any_session_deletes_what_was_acquired_without_naming_one() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2])));
    let deleted = ended(device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    assert_eq!((deleted[0].session, deleted[0].acquired_session), (session(UNKNOWN), session(1)));
    assert!(!deleted[0].linked);
    assert_eq!(device.held(), kids([2]));
}

#[test]
fn another_identity_with_the_same_session_and_kids_finds_nothing() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])).in_session(90));
    device.granted(&Ask::new(2, &kids([2])));
    for (session, kid) in [(90, 1), (2, 2), (UNKNOWN, 2)] {
        let foreign = Removal::new(session, &kids([kid])).by(TV);
        assert_eq!(device.delete(&foreign), Outcome::UnknownSession);
    }
    assert_eq!(device.held(), kids([1, 2]));
}

#[test]
fn revoked_chain_is_answered_and_frees_as_the_policy_says() {
    for (releasing, held) in [(vec![Grade::A, Grade::B, Grade::C], 0), (vec![Grade::A], 1)] {
        let mut device = Scenario::with_room_for(1);
        device.policy.releasing_grades = releasing;
        device.granted(&Ask::new(1, &kids([1])));
        let revoked = Removal { chain_revoked: true, ..Removal::new(1, &kids([1])) };
        let deleted = ended(device.delete(&revoked));
        assert_eq!((deleted[0].grade, deleted[0].releases), (Grade::C, held == 0));
        assert_eq!(device.held().len(), held);
        assert_repeat(&device.delete(&revoked));
    }
}

// The rules beside the table.

#[test]
fn foreign_unknown_and_non_persistent_are_answered_alike() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])).in_session(90));
    device.granted(&Ask::new(2, &kids([2])).non_persistent());
    device.granted(&Ask::new(3, &kids([3])).in_session(91).non_persistent());
    for removal in [
        Removal::new(UNKNOWN, &kids([1])),
        Removal::new(UNKNOWN, &kids([7])),
        Removal::new(90, &kids([1])).by(TV),
        Removal::new(90, &kids([2])),
        Removal::new(2, &kids([2])),
        Removal::new(91, &kids([3])),
    ] {
        assert_eq!(device.delete(&removal), Outcome::UnknownSession, "{removal:?}");
    }
}

#[test]
fn known_session_does_not_reach_licenses_outside_it() {
    let mut device = Scenario::with_room_for(3);
    device.granted(&Ask::new(1, &kids([1])).in_session(90));
    device.granted(&Ask::new(2, &kids([2])));
    assert_eq!(device.delete(&Removal::new(90, &kids([2]))), Outcome::UnknownSession);
    ended(device.delete(&Removal::new(90, &kids([1, 2]))));
    assert_eq!(device.held(), kids([2]));
}

#[test]
fn nonce_of_an_acquisition_that_named_a_session_is_no_session() {
    let mut device = Scenario::with_room_for(3);
    device.granted(&Ask::new(1, &kids([1])).in_session(90));
    device.granted(&Ask::new(2, &kids([2])));
    let deleted = ended(device.delete(&Removal::new(1, &kids([1, 2]))));
    assert_eq!(deleted.len(), 1);
    assert_eq!((deleted[0].key_id, deleted[0].linked), (kid(2), false));
}

#[test]
fn ends_every_license_of_the_session_for_the_kid() {
    let mut device = Scenario::with_room_for(1);
    let licenses = device.granted(&Ask::new(1, &kids([1, 1, 1])).in_session(90));
    let deleted = ended(device.delete(&Removal::new(90, &kids([1]))));
    assert_eq!(deleted.iter().map(|e| e.license_id).collect::<Vec<_>>(), licenses);
    let stream = "device-x";
    let ids = deleted.into_iter().map(|e| Event::LicenseDeleted(e).id(stream));
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 3, "each is an event of its own");
}

#[test]
fn expired_license_is_deleted_all_the_same() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).until(device.now_ms + 1000));
    device.wait(5000);
    assert_eq!(ended(device.delete(&Removal::new(1, &kids([1])))).len(), 1);
    assert_repeat(&device.delete(&Removal::new(1, &kids([1]))));
}

#[test]
fn blocked_device_may_still_give_licenses_back() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    device.device.blocked = true;
    ended(device.delete(&Removal::new(1, &kids([1]))));
    assert_eq!(device.held(), []);
}

#[test]
fn without_a_known_session_only_the_sole_license_since_the_last_deletion_is_meant() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([1])));
    let unmatched = unmatched(device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    assert_eq!(unmatched.candidates, 2);
    assert_eq!(unmatched.identity, identity(PHONE));
    assert_eq!(device.live().len(), 2);
    assert_repeat(&device.delete(&Removal::new(UNKNOWN, &kids([1]))));
}

#[test]
fn without_a_known_session_an_expired_license_still_makes_two() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).until(device.now_ms + 1000));
    device.wait(2000);
    device.granted(&Ask::new(2, &kids([1])));
    assert_eq!(unmatched(device.delete(&Removal::new(UNKNOWN, &kids([1])))).candidates, 2);
    assert_eq!(device.held(), kids([1]));
}

#[test]
fn without_a_known_session_a_license_of_a_named_session_is_never_meant() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    device.delete(&Removal::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([1])).in_session(90));
    unmatched(device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    assert_eq!(device.held(), kids([1]));
}

#[test]
fn without_a_known_session_nothing_is_freed_twice_under_other_sessions() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    ended(device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    assert_eq!(unmatched(device.delete(&Removal::new(UNKNOWN + 1, &kids([1])))).candidates, 0);
    assert_repeat(&device.delete(&Removal::new(1, &kids([1]))));
}

#[test]
fn unlinked_and_unmatched_kids_of_one_challenge_are_told_apart() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2])));
    device.granted(&Ask::new(2, &kids([2])));
    let deletions = answered(device.delete(&Removal::new(UNKNOWN, &kids([1, 2, 3]))));
    let [Deletion::Deleted(deleted), Deletion::Unmatched(unmatched)] = &deletions[..] else {
        panic!("{deletions:?}")
    };
    assert_eq!((deleted.key_id, unmatched.key_id), (kid(1), kid(2)));
}

#[test]
fn records_a_hundred_unmatched_deletions_a_device_and_day_and_answers_the_others() {
    let mut device = Scenario::with_room_for(3);
    device.granted(&Ask::new(1, &kids([1, 2, 3])));
    device.granted(&Ask::new(2, &kids([1, 2])));
    for n in 0..99 {
        unmatched(device.delete(&Removal::new(100 + n, &kids([1]))));
        device.wait(1);
    }
    let events = device.events.len();
    let last = Removal::new(UNKNOWN, &kids([1, 2, 3]));
    let Outcome::Answer { deletions, left_out } = device.delete(&last) else { panic!("unknown") };
    let recorded = matches!(&deletions[..], [Deletion::Unmatched(_), Deletion::Deleted(_)]);
    assert!(recorded, "one has room, and what takes effect needs none: {deletions:?}");
    assert_eq!((left_out, device.events.len()), (1, events + 2));
    let over = Outcome::Answer { deletions: Vec::new(), left_out: 1 };
    device.wait(DAY_MS - 100);
    assert_eq!(device.delete(&last), over);
    device.wait(1);
    unmatched(device.delete(&last));
    assert_repeat(&device.delete(&last));
}

#[test]
fn grades_say_how_much_a_deletion_proves() {
    let linked = Removal::new(1, &kids([1]));
    let unlinked = Removal::new(UNKNOWN, &kids([1]));
    let at_level =
        |security_level, removal: &Removal| Removal { security_level, ..removal.clone() };
    let revoked = |removal: &Removal| Removal { chain_revoked: true, ..removal.clone() };
    assert_eq!(grade_of(at_level(3000, &linked)), (Grade::A, true));
    assert_eq!(grade_of(at_level(2999, &linked)), (Grade::B, true));
    assert_eq!(grade_of(at_level(150, &linked)), (Grade::B, true));
    assert_eq!(grade_of(at_level(3000, &revoked(&linked))), (Grade::C, true));
    assert_eq!(grade_of(at_level(3000, &unlinked)), (Grade::C, false));
    assert_eq!(grade_of(revoked(&unlinked)), (Grade::C, false));
}

#[test]
fn answered_deletion_stays_answered_when_its_session_is_named_later() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])));
    ended(device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    device.granted(&Ask::new(2, &kids([2])).in_session(UNKNOWN));
    assert_repeat(&device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    assert_eq!(device.held(), kids([2]));
}

// Attacks.

#[test]
fn attack_renew_and_delete_only_the_newer_copy() {
    let mut device = Scenario::with_room_for(1);
    let first = device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([1])));
    ended(device.delete(&Removal::new(2, &kids([1]))));
    assert_eq!((device.held(), device.live()), (kids([1]), first));
    ended(device.delete(&Removal::new(1, &kids([1]))));
    assert_eq!(device.held(), []);
}

#[test]
fn attack_replay_a_delete_after_the_title_was_acquired_again() {
    for (first, again) in [
        (Ask::new(1, &kids([1])).in_session(90), Ask::new(2, &kids([1])).in_session(91)),
        (Ask::new(90, &kids([1])), Ask::new(91, &kids([1]))),
        (Ask::new(90, &kids([1])), Ask::new(91, &kids([1])).in_session(92)),
    ] {
        let mut device = Scenario::with_room_for(1);
        device.granted(&first);
        let delete = Removal::new(90, &kids([1]));
        ended(device.delete(&delete));
        device.granted(&again);
        assert_repeat(&device.delete(&delete));
        assert_eq!(device.held(), kids([1]));
    }
}

#[test]
fn attack_replay_an_unlinked_delete_after_the_title_was_acquired_again() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    let delete = Removal::new(UNKNOWN, &kids([1]));
    ended(device.delete(&delete));
    device.granted(&Ask::new(2, &kids([1])));
    assert_repeat(&device.delete(&delete));
    assert_eq!(device.held(), kids([1]));
}

#[test]
fn attack_hold_a_delete_back_until_the_title_was_acquired_again() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).in_session(90));
    let again = device.granted(&Ask::new(2, &kids([1])).in_session(91));
    ended(device.delete(&Removal::new(90, &kids([1]))));
    assert_eq!((device.held(), device.live()), (kids([1]), again));
}

#[test]
fn attack_hold_an_unlinked_delete_back_until_the_title_was_acquired_again() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([1])));
    unmatched(device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    assert_eq!(device.live().len(), 2);
    device.delete(&Removal::new(2, &kids([1])));
    assert_repeat(&device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    assert_eq!(device.live().len(), 1);
}

#[test]
fn attack_hold_a_delete_back_and_acquire_in_its_session_again() {
    for (first, again) in [
        (Ask::new(1, &kids([1])).in_session(90), Ask::new(2, &kids([1])).in_session(90)),
        (Ask::new(90, &kids([1])), Ask::new(2, &kids([1])).in_session(90)),
        (Ask::new(1, &kids([1])).in_session(90), Ask::new(90, &kids([1]))),
    ] {
        let mut device = Scenario::with_room_for(1);
        device.granted(&first);
        assert_eq!(device.refused(&again), Refusal::SessionUsed(kid(1)));
        assert_eq!(ended(device.delete(&Removal::new(90, &kids([1])))).len(), 1);
        assert_eq!(device.refused(&again), Refusal::SessionUsed(kid(1)));
        assert_eq!(device.held(), []);
    }
}

#[test]
fn attack_name_a_deleted_session_to_revive_the_other_delete_for_it() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    // One deletion, signed for an unknown session and for the license's own.
    ended(device.delete(&Removal::new(UNKNOWN, &kids([1]))));
    for used in [1, UNKNOWN] {
        let again = Ask::new(2, &kids([1])).in_session(used);
        assert_eq!(device.refused(&again), Refusal::SessionUsed(kid(1)));
    }
}
