use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::domain::quota::{Counts, OnExceed, QuotaRule, Scope, Voiding};
use crate::domain::scenario::{Ask, Removal, Scenario, account_ref, by_cli, kid, kids, reason};

const MINUTE_MS: i64 = 60_000;
const LIMIT: u32 = 2;

fn scenario() -> Scenario {
    let mut device = Scenario::with_room_for(LIMIT);
    device.policy.rules.push(QuotaRule {
        id: "account-slots".to_owned(),
        scope: Scope::Account,
        counts: Counts::LiveSlots,
        limit: LIMIT,
        on_exceed: OnExceed::Deny,
        when: None,
    });
    device
}

/// A persistent license that is known by this number elsewhere and here.
fn license(number: u128, key_id: u8) -> LicenseRecorded {
    LicenseRecorded {
        license_id: LicenseId(Uuid::from_u128(1_000_000 + number)),
        key_id: kid(key_id),
        drm_system: "widevine".to_owned(),
        license_reference: format!("wv-{number}"),
        persistent: true,
        counted_until_ms: None,
        account: Some(account_ref("family")),
        title: None,
        content_group: None,
        security_level: Some(3000),
        model: "Example Phone 2".to_owned(),
        quota_policy_revision: 0,
        overage: false,
        grade: None,
        evidence: None,
        occurred_ms: None,
        actor: String::new(),
        at_ms: 0,
    }
}

fn known_as(number: u128) -> Which {
    Which::Reference {
        drm_system: "widevine".to_owned(),
        license_reference: format!("wv-{number}"),
    }
}

fn overages(device: &Scenario) -> Vec<bool> {
    let recorded = device.events.iter().filter_map(|event| match event {
        Event::LicenseRecorded(license) => Some(license.overage),
        _ => None,
    });
    recorded.collect()
}

#[test]
fn what_was_issued_elsewhere_counts_like_our_own_also_beyond_the_limit() {
    let mut device = scenario();
    device.granted(&Ask::new(1, &kids([1])));
    assert!(device.record_elsewhere(license(1, 2), None));
    device.refused(&Ask::new(2, &kids([3])));
    assert!(device.record_elsewhere(license(2, 3), None));
    assert_eq!(device.held(), kids([1, 2, 3]));
    assert_eq!(overages(&device), [false, true]);
    // For a KID that is held, no slot is taken.
    assert!(device.record_elsewhere(LicenseRecorded { account: None, ..license(3, 1) }, None));
    assert!(device.record_elsewhere(LicenseRecorded { persistent: false, ..license(4, 9) }, None));
    assert_eq!(overages(&device), [false, true, false, false]);
    assert_eq!(device.held(), kids([1, 2, 3]));
}

#[test]
fn a_report_uses_up_the_room_that_was_held_for_it() {
    let mut device = scenario();
    let held = device.reserve(&kids([1, 2]), Some("family"), MINUTE_MS).unwrap();
    assert!(device.record_elsewhere(license(1, 1), Some(held)));
    assert_eq!(overages(&device), [false], "its room was its own");
    assert_eq!(device.device.reserved_by(held, device.now_ms).count(), 1);
    device.wait(MINUTE_MS);
    assert_eq!(device.held(), kids([1]));
    // The rest has ended by itself; what was issued for it is recorded all the same.
    assert!(device.record_elsewhere(license(2, 2), Some(held)));
    assert_eq!(device.held(), kids([1, 2]));
}

#[test]
fn one_reference_names_one_live_license() {
    let mut device = scenario();
    assert!(device.record_elsewhere(license(1, 1), None));
    let again = LicenseRecorded { license_id: LicenseId(Uuid::from_u128(7)), ..license(1, 1) };
    assert!(!device.record_elsewhere(again.clone(), None));
    device.record_deletion(known_as(1), Grade::B).unwrap();
    assert!(device.record_elsewhere(again, None));
    let unknown = device.record_deletion(known_as(5), Grade::B);
    assert_eq!(unknown, Err(ReportRefused::NotHeld(0)));
}

#[test]
fn a_deletion_frees_what_its_grade_allows() {
    let mut device = scenario();
    device.record_elsewhere(license(1, 1), None);
    let id = Which::License(license(1, 1).license_id);
    assert!(device.record_storage(id.clone(), true));
    assert!(!device.record_storage(id.clone(), false), "the first word counts");
    device.record_deletion(id.clone(), Grade::E).unwrap();
    assert_eq!(device.held(), kids([1]), "weak evidence frees nothing");
    let confirmed = |device: &Scenario| device.device.held(0).any(|(_, held)| held.confirmed);
    assert!(!confirmed(&device));
    device.record_deletion(id.clone(), Grade::B).unwrap();
    assert_eq!(device.held(), []);
    let events = device.events.len();
    assert_eq!(device.record_deletion(id, Grade::B), Ok(()), "it was said before");
    assert_eq!(device.events.len(), events);
    device.policy.releasing_grades = vec![Grade::A, Grade::E];
    device.record_elsewhere(license(2, 2), None);
    device.record_deletion(known_as(2), Grade::E).unwrap();
    assert_eq!(device.held(), []);
}

#[test]
fn what_is_said_of_a_license_after_its_end_is_recorded_once() {
    let mut device = scenario();
    device.policy.voiding = Some(Voiding {
        min_security_level: 2000,
        store_failed: true,
        unconfirmed_after_seconds: None,
    });
    let until = device.now_ms + MINUTE_MS;
    device
        .record_elsewhere(LicenseRecorded { counted_until_ms: Some(until), ..license(1, 1) }, None);
    device.record_elsewhere(license(2, 2), None);
    device.record_elsewhere(license(3, 3), None);
    device.record_storage(known_as(2), false);
    device.void_overdue();
    device.write_off(Some(&kids([3])), None);
    device.wait(MINUTE_MS);
    assert_eq!(device.held(), []);
    let possible = |device: &Scenario| device.explain(&[]).rules[0].in_use.possible;
    assert_eq!(possible(&device), 2, "what was voided and what was written off");
    assert!(device.record_storage(known_as(1), true));
    assert!(!device.record_storage(known_as(1), false), "the first word counts");
    assert!(!device.record_storage(known_as(2), true), "it was spoken of");
    for number in 1..=3 {
        let events = device.events.len();
        for _ in 0..2 {
            device.record_deletion(known_as(number), Grade::B).unwrap();
        }
        assert_eq!(device.events.len(), events + 1, "license {number}");
    }
    assert_eq!((possible(&device), device.held()), (0, vec![]));
    let family = &device.accounts[&account_ref("family")];
    assert_eq!(family.doubtful.slots(device.now_ms).count(), 0);
    // A device that goes on with all of it knows them, too.
    let reason = reason();
    let took_over = device.device.hand_over(&device.name, false, by_cli(&reason), device.now_ms);
    let mut other = Device::default();
    other.evolve(&Event::DeviceTookOver(Box::new(took_over.unwrap())));
    assert_eq!(other.ended, device.device.ended);
}

#[test]
fn better_evidence_of_a_deletion_is_recorded_and_ends_the_doubt() {
    let mut device = scenario();
    device.record_elsewhere(license(1, 1), None);
    device.record_elsewhere(license(2, 2), None);
    device.write_off(Some(&kids([2])), None);
    let possible = |device: &Scenario| {
        let family = &device.accounts[&account_ref("family")];
        let of_account = family.doubtful.slots(device.now_ms).count();
        (device.explain(&[]).rules[0].in_use.possible, of_account)
    };
    // Of each number: the grades, and whether each says more than those before.
    for (number, grades) in [
        (1, [(Grade::E, true), (Grade::E, false), (Grade::C, true), (Grade::D, false)]),
        (2, [(Grade::E, true), (Grade::D, true), (Grade::D, false), (Grade::E, false)]),
    ] {
        for (grade, says_more) in grades {
            let events = device.events.len();
            device.record_deletion(known_as(number), grade).unwrap();
            let recorded = device.events.len() - events;
            assert_eq!(recorded, usize::from(says_more), "{number} {grade:?}");
        }
    }
    assert_eq!((device.held(), possible(&device)), (vec![], (2, 2)));
    for (number, left) in [(1, 1), (2, 0)] {
        let events = device.events.len();
        for grade in [Grade::B, Grade::B, Grade::C] {
            device.record_deletion(known_as(number), grade).unwrap();
        }
        assert_eq!(device.events.len(), events + 1, "license {number}");
        assert_eq!(possible(&device), (left, left as usize));
    }
    let released = device.mirrored.iter().map(|(_, event)| event.id("s")).collect::<BTreeSet<_>>();
    assert_eq!(released.len(), device.mirrored.len(), "each is another fact");
}

#[test]
fn a_deletion_is_recorded_again_where_it_ends_the_license_by_another_policy() {
    let mut device = scenario();
    device.record_elsewhere(license(1, 1), None);
    device.record_deletion(known_as(1), Grade::D).unwrap();
    device.record_deletion(known_as(1), Grade::D).unwrap();
    assert_eq!((device.events.len(), device.held()), (2, kids([1])));
    device.policy.releasing_grades.push(Grade::D);
    device.record_deletion(known_as(1), Grade::D).unwrap();
    assert_eq!((device.events.len(), device.held()), (3, vec![]));
}

#[test]
fn a_license_of_ours_ends_only_by_its_own_device() {
    let mut device = scenario();
    let ids = device.granted(&Ask::new(1, &kids([1])));
    let held = device.reserve(&kids([2]), None, MINUTE_MS).unwrap();
    let slot = device.device.reserved_by(held, device.now_ms).next().unwrap().license_id;
    let refused = device.record_deletion(Which::License(ids[0]), Grade::B);
    assert_eq!(refused, Err(ReportRefused::SignedOnly(0)));
    assert_eq!(
        device.record_deletion(Which::License(slot), Grade::B),
        Err(ReportRefused::NotHeld(0))
    );
    assert!(!device.record_storage(Which::License(ids[0]), true));
    assert_eq!(device.held(), kids([1, 2]));
}

#[test]
fn what_was_not_stored_is_voided_where_the_policy_says_so() {
    let mut device = scenario();
    device.policy.voiding = Some(Voiding {
        min_security_level: 2000,
        store_failed: true,
        unconfirmed_after_seconds: None,
    });
    device.record_elsewhere(license(1, 1), None);
    let unsure = LicenseRecorded { security_level: None, ..license(2, 2) };
    device.record_elsewhere(unsure, None);
    assert!(device.record_storage(known_as(1), false));
    assert!(device.record_storage(known_as(2), false));
    device.void_overdue();
    let voided = device.events.iter().filter(|event| matches!(event, Event::LicenseVoided(_)));
    assert_eq!(voided.count(), 1, "of a level that nobody said nothing is voided");
    assert_eq!(device.held(), kids([2]));
}

#[derive(Clone, Debug)]
enum Step {
    Record { number: u128, kid: u8, family: bool, minutes: Option<i64>, reserved: bool },
    Store { number: u128, stored: bool },
    Delete { number: u128, grade: Grade },
    Acquire { kid: u8 },
    DeleteOwn { back: u8 },
    Reserve { kid: u8 },
    Release,
    Wait { minutes: i64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let (number, key) = (1..8u128, 1..=4u8);
    let grade = prop_oneof![Just(Grade::B), Just(Grade::C), Just(Grade::D), Just(Grade::E)];
    let record =
        (number.clone(), key.clone(), any::<bool>(), prop::option::of(1..30i64), any::<bool>());
    prop_oneof![
        5 => record.prop_map(|(number, kid, family, minutes, reserved)| {
            Step::Record { number, kid, family, minutes, reserved }
        }),
        3 => (number.clone(), any::<bool>())
            .prop_map(|(number, stored)| Step::Store { number, stored }),
        4 => (number, grade).prop_map(|(number, grade)| Step::Delete { number, grade }),
        2 => key.clone().prop_map(|kid| Step::Acquire { kid }),
        1 => (1..5u8).prop_map(|back| Step::DeleteOwn { back }),
        3 => key.prop_map(|kid| Step::Reserve { kid }),
        1 => Just(Step::Release),
        1 => (1..20i64).prop_map(|minutes| Step::Wait { minutes }),
    ]
}

proptest! {
    /// Whatever is reported in between: accounts hold what the device holds at their expense, with
    /// the same word on storing it, no fact is stored twice, and a replay gives the same.
    #[test]
    fn reports_change_accounts_as_they_change_devices(
        steps in vec(any_step(), 0..60),
        store_failed in any::<bool>(),
    ) {
        let mut device = scenario();
        device.policy.voiding = store_failed.then_some(Voiding {
            min_security_level: 2000,
            store_failed,
            unconfirmed_after_seconds: Some(600),
        });
        let mut reservation = None;
        for (place, step) in (1u8..).zip(&steps) {
            match step.clone() {
                Step::Record { number, kid: key_id, family, minutes, reserved } => {
                    let license = LicenseRecorded {
                        license_id: LicenseId(Uuid::from_u128(2_000_000 + u128::from(place))),
                        account: family.then(|| account_ref("family")),
                        counted_until_ms: minutes.map(|m| device.now_ms + m * MINUTE_MS),
                        ..license(number, key_id)
                    };
                    device.record_elsewhere(license, reservation.filter(|_| reserved));
                }
                Step::Store { number, stored } => {
                    device.record_storage(known_as(number), stored);
                }
                Step::Delete { number, grade } => {
                    let _ = device.record_deletion(known_as(number), grade);
                }
                Step::Acquire { kid: key_id } => {
                    device.acquire(&Ask { account: Some("family"), ..Ask::new(place, &[kid(key_id)]) });
                }
                Step::DeleteOwn { back } => {
                    device.delete(&Removal::new(place.saturating_sub(back), &kids(1..=4)));
                }
                Step::Reserve { kid: key_id } => {
                    let made = device.reserve(&[kid(key_id)], Some("family"), 5 * MINUTE_MS);
                    reservation = made.or(reservation);
                }
                Step::Release => {
                    reservation.take().map(|id| device.release(id));
                }
                Step::Wait { minutes } => device.wait(minutes * MINUTE_MS),
            }
            let now_ms = device.now_ms;
            let held = device.device.held(now_ms).filter_map(|(key_id, held)| {
                device.device.account_of(key_id, held.license_id, now_ms)?;
                Some((key_id, held.license_id, held.confirmed, held.reserved))
            });
            let held: BTreeSet<_> = held.collect();
            let members = device.accounts.values().flat_map(|account| account.members());
            let slots = members.flat_map(|(_, member)| member.held(now_ms));
            let mirrored = slots.map(|(k, l)| (k, l.license_id, l.confirmed, l.reserved));
            prop_assert_eq!(mirrored.collect::<BTreeSet<_>>(), held, "after {:?}", step);
        }
        let ids: BTreeSet<_> = device.events.iter().map(|event| event.id("s")).collect();
        prop_assert_eq!(ids.len(), device.events.len());
        let mirrored = device.mirrored.iter();
        let ids: BTreeSet<_> = mirrored.map(|(name, event)| event.id(&name.to_string())).collect();
        prop_assert_eq!(ids.len(), device.mirrored.len());
        let mut again = Device::default();
        device.events.iter().for_each(|event| again.evolve(event));
        prop_assert_eq!(again, device.device);
    }
}

#[test]
fn a_late_report_is_paid_by_the_account_of_its_reservation() {
    let mut device = scenario();
    let unnamed = |number, key_id| LicenseRecorded { account: None, ..license(number, key_id) };
    let ended = device.reserve(&kids([1]), Some("family"), MINUTE_MS).unwrap();
    let own = device.reserve(&kids([2]), None, MINUTE_MS).unwrap();
    device.wait(MINUTE_MS);
    // Another event, so that what has expired is forgotten.
    device.set_blocked(false);
    let now_ms = device.now_ms;
    assert_eq!(device.device.payer_of(ended, now_ms), Some(&account_ref("family")));
    assert_eq!(device.device.payer_of(own, now_ms), None);
    assert!(device.record_elsewhere(unnamed(1, 1), Some(own)), "nobody pays, as was said");
    let unknown = Uuid::from_u128(404);
    assert!(!device.record_elsewhere(unnamed(2, 2), Some(unknown)));
    assert!(device.record_elsewhere(license(3, 3), Some(unknown)), "who pays is said");
    assert!(device.record_elsewhere(unnamed(4, 4), None));
    // Of the newest it is remembered; of what still holds room it is known however old it is.
    let held = device.reserve(&kids([1]), Some("office"), MINUTE_MS).unwrap();
    for _ in 0..64 {
        device.reserve(&kids([1]), Some("office"), 1).unwrap();
        device.wait(1);
    }
    assert_eq!(device.device.payer_of(ended, device.now_ms), None);
    assert_eq!(device.device.payer_of(held, device.now_ms), Some(&account_ref("office")));
}
