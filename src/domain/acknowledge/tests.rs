use crate::domain::event::{Event, LicenseAcknowledged};
use crate::domain::scenario::{Ask, PHONE, Removal, Scenario, kid, kids};

const TV: u8 = 2;
const FAILED: u32 = 0x8004_0005;

fn facts(events: &[Event]) -> Vec<(bool, &LicenseAcknowledged)> {
    let facts = events.iter().map(|event| match event {
        Event::LicenseStored(fact) => (true, fact),
        Event::LicenseStoreFailed(fact) => (false, fact),
        other => panic!("{other:?}"),
    });
    facts.collect()
}

fn confirmed(device: &Scenario) -> u32 {
    device.explain(&[]).rules[0].in_use.confirmed
}

#[test]
fn stored_licenses_are_confirmed() {
    let mut device = Scenario::with_room_for(3);
    let licenses = device.granted(&Ask::new(1, &kids([1, 2, 3])).under(40));
    assert_eq!(confirmed(&device), 0);
    let events = device.acknowledge(PHONE, 40, &[(kid(1), 0), (kid(3), 0)]);
    let stored: Vec<_> = facts(&events).iter().map(|(ok, fact)| (*ok, fact.license_id)).collect();
    assert_eq!(stored, [(true, licenses[0]), (true, licenses[2])]);
    assert_eq!(confirmed(&device), 2);
}

#[test]
fn failure_frees_no_slot_and_confirms_nothing() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).under(40));
    let events = device.acknowledge(PHONE, 40, &[(kid(1), FAILED)]);
    let [(stored, fact)] = facts(&events)[..] else { panic!("{events:?}") };
    assert_eq!((stored, fact.result), (false, FAILED));
    assert_eq!((device.held(), confirmed(&device)), (kids([1]), 0));
}

#[test]
fn first_result_for_a_license_counts() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).under(40));
    let first = device.acknowledge(PHONE, 40, &[(kid(1), FAILED), (kid(1), 0)]);
    assert_eq!(first.len(), 1);
    assert!(matches!(first[0], Event::LicenseStoreFailed(_)));
    for result in [0, FAILED, 1] {
        assert!(device.acknowledge(PHONE, 40, &[(kid(1), result)]).is_empty());
    }
}

#[test]
fn results_for_a_repeated_kid_go_to_its_licenses_in_issue_order() {
    let mut device = Scenario::with_room_for(2);
    let licenses = device.granted(&Ask::new(1, &kids([1, 2, 1])).under(40));
    let results = [(kid(1), 0), (kid(2), 0), (kid(1), FAILED)];
    let events = device.acknowledge(PHONE, 40, &results);
    let got: Vec<_> = facts(&events).iter().map(|(ok, fact)| (*ok, fact.license_id)).collect();
    assert_eq!(got, [(true, licenses[0]), (true, licenses[1]), (false, licenses[2])]);
}

#[test]
fn later_acknowledgement_takes_up_what_the_first_left_out() {
    let mut device = Scenario::with_room_for(2);
    let licenses = device.granted(&Ask::new(1, &kids([1, 2])).under(40));
    device.acknowledge(PHONE, 40, &[(kid(1), 0)]);
    let events = device.acknowledge(PHONE, 40, &[(kid(1), 0), (kid(2), 0)]);
    assert_eq!(facts(&events)[0].1.license_id, licenses[1]);
    assert_eq!(events.len(), 1);
}

#[test]
fn repeated_result_is_not_handed_on_to_the_next_license_for_its_kid() {
    let mut device = Scenario::with_room_for(1);
    let licenses = device.granted(&Ask::new(1, &kids([1, 1])).under(40));
    device.acknowledge(PHONE, 40, &[(kid(1), 0)]);
    assert!(device.acknowledge(PHONE, 40, &[(kid(1), FAILED)]).is_empty());
    let events = device.acknowledge(PHONE, 40, &[(kid(1), FAILED), (kid(1), 0)]);
    let got: Vec<_> = facts(&events).iter().map(|(ok, fact)| (*ok, fact.license_id)).collect();
    assert_eq!(got, [(true, licenses[1])]);
}

#[test]
fn kids_outside_the_transaction_are_ignored() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])).under(40));
    device.granted(&Ask::new(2, &kids([2])).under(41));
    assert!(device.acknowledge(PHONE, 40, &[(kid(2), 0), (kid(7), 0)]).is_empty());
}

#[test]
fn transaction_of_another_identity_looks_like_an_unknown_one() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).under(40));
    for (identity, transaction) in [(TV, 40), (PHONE, 41)] {
        assert!(device.acknowledge(identity, transaction, &[(kid(1), 0)]).is_empty());
    }
    assert_eq!(confirmed(&device), 0);
}

#[test]
fn acknowledgement_after_the_deletion_brings_nothing_back() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).under(40));
    device.delete(&Removal::new(1, &kids([1])));
    assert_eq!(device.acknowledge(PHONE, 40, &[(kid(1), 0)]).len(), 1);
    assert_eq!((device.held(), confirmed(&device)), (kids([]), 0));
}

#[test]
fn non_persistent_license_of_a_transaction_can_be_acknowledged() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])).under(40).non_persistent());
    assert_eq!(device.acknowledge(PHONE, 40, &[(kid(1), 0)]).len(), 1);
    assert_eq!(confirmed(&device), 0);
}
