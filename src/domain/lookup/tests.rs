use super::*;
use crate::domain::scenario::{
    Ask, PHONE, Removal, Scenario, identity, kid, kids, nonce, session, transaction,
};

const TV: u8 = 2;

fn value(device: &Scenario, key: &Key) -> Option<Value> {
    device.rows.0.get(key).map(|row| row.value.clone())
}

fn session_kid(device: &Scenario, n: u8, key_id: u8) -> SessionKid {
    match value(device, &Key::SessionKid(identity(PHONE), session(n), kid(key_id))) {
        Some(Value::SessionKid(kid)) => kid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn grant_is_found_where_its_licenses_stand() {
    let mut device = Scenario::with_room_for(9);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([2, 3, 4])));
    match value(&device, &Key::Challenge(identity(PHONE), nonce(2))) {
        Some(Value::Challenge(Answered::Granted(place))) => {
            assert_eq!((place.first_revision, place.count), (1, 3));
            assert!(place.is_session);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nonce_is_a_session_only_of_persistent_licenses_that_name_none() {
    let mut device = Scenario::with_room_for(9);
    let asks = [
        (Ask::new(1, &kids([1])), true),
        (Ask::new(2, &kids([2])).non_persistent(), false),
        (Ask::new(3, &kids([3])).in_session(90), false),
    ];
    for (ask, expected) in asks {
        device.granted(&ask);
        match value(&device, &Key::Challenge(identity(PHONE), nonce(ask.nonce))) {
            Some(Value::Challenge(Answered::Granted(place))) => {
                assert_eq!(place.is_session, expected, "{ask:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn refused_challenge_is_remembered_until_it_is_granted() {
    let mut device = Scenario::with_room_for(0);
    let key = Key::Challenge(identity(PHONE), nonce(1));
    device.refused(&Ask::new(1, &kids([1])));
    assert_eq!(value(&device, &key), Some(Value::Challenge(Answered::Refused)));
    device.policy.rules[0].limit = 1;
    device.granted(&Ask::new(1, &kids([1])));
    let granted = value(&device, &key);
    assert!(matches!(granted, Some(Value::Challenge(Answered::Granted(_)))), "{granted:?}");
}

#[test]
fn what_one_identity_did_is_under_no_key_of_another() {
    let mut device = Scenario::with_room_for(9);
    device.granted(&Ask::new(1, &kids([1])).in_session(90).under(40));
    device.granted(&Ask::new(2, &kids([2])));
    let tv = identity(TV);
    for key in [
        Key::Challenge(tv, nonce(1)),
        Key::SessionKid(tv, session(90), kid(1)),
        Key::ExplicitSession(tv, session(90)),
        Key::Kid(tv, kid(2)),
        Key::Transaction(tv, transaction(40)),
    ] {
        assert_eq!(value(&device, &key), None, "{key:?}");
    }
}

#[test]
fn unlinked_deletion_closes_the_session_the_license_was_acquired_in() {
    let mut device = Scenario::with_room_for(1);
    device.granted(&Ask::new(1, &kids([1])));
    assert_eq!(session_kid(&device, 1, 1).open.len(), 1);
    device.delete(&Removal::new(200, &kids([1])));
    let (own, named) = (session_kid(&device, 1, 1), session_kid(&device, 200, 1));
    assert!(own.matched && own.open.is_empty() && own.spent);
    assert!(!named.matched && named.spent);
}

#[test]
fn applying_an_event_twice_changes_nothing() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2, 1])).under(40));
    device.refused(&Ask::new(2, &kids([3])));
    device.acknowledge(PHONE, 40, &[(kid(1), 0)]);
    device.delete(&Removal::new(200, &kids([1, 2])));
    let before = device.rows.clone();
    for (place, event) in device.events.iter().enumerate() {
        device.rows.apply(event, place);
        assert_eq!(device.rows, before, "{}", event.kind());
    }
}

#[test]
fn rows_survive_their_stored_form() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1, 2])).in_session(90).under(40));
    device.refused(&Ask::new(2, &kids([3])));
    for (key, row) in &device.rows.0 {
        let bytes = postcard::to_allocvec(&(key, row)).unwrap();
        let (read_key, read_row): (Key, Row) = postcard::from_bytes(&bytes).unwrap();
        assert_eq!((&read_key, &read_row), (key, row));
    }
}
