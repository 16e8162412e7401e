//! The checker finds what it is for: planted faults, each in an otherwise flawless history.

use super::*;

const LIMIT: usize = 2;

fn license(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn device() -> Subject {
    Subject::Device("a".to_owned())
}

fn account() -> Subject {
    Subject::Account("family".to_owned())
}

fn granted(n: u128) -> Change {
    let what = What::Granted {
        license: license(n),
        subjects: vec![device(), account()],
        key_id: license(n),
        until_ms: None,
    };
    Change { at_ms: 0, what }
}

fn ended(n: u128) -> Change {
    Change { at_ms: 0, what: What::Ended { license: license(n) } }
}

fn call(started: u64, ended: u64, told: Told) -> Call {
    Call { started, ended: Some(ended), told }
}

fn grant(n: u128) -> Told {
    Told::Granted(vec![license(n)])
}

fn refusal() -> Told {
    Told::Refused { subject: account(), wanted: 1 }
}

/// Two grants, a refusal, a deletion while another call is refused, a third grant.
fn history() -> (Vec<Call>, Vec<Change>) {
    let calls = vec![
        call(0, 10, grant(1)),
        call(5, 20, grant(2)),
        call(30, 40, refusal()),
        call(50, 60, Told::Ended(vec![license(1)])),
        call(45, 55, refusal()),
        call(70, 80, grant(3)),
        Call { started: 90, ended: None, told: Told::Unknown },
    ];
    (calls, vec![granted(1), granted(2), ended(1), granted(3)])
}

fn found((calls, changes): &(Vec<Call>, Vec<Change>)) -> Result<(), Broken> {
    check(calls, changes, |_| LIMIT)
}

#[test]
fn nothing_is_found_in_a_flawless_history() {
    assert_eq!(found(&history()), Ok(()));
    assert_eq!(found(&(Vec::new(), Vec::new())), Ok(()));
}

#[test]
fn overshoot_is_found_at_the_event_that_exceeds() {
    let mut history = history();
    history.1.swap(2, 3);
    assert_eq!(found(&history), Err(Broken::Overshoot { subject: device(), sequence: 2 }));
    // By the time that passed, the first license no longer counts.
    if let What::Granted { until_ms, .. } = &mut history.1[0].what {
        *until_ms = Some(7);
    }
    history.1[2].at_ms = 6;
    assert_eq!(found(&history), Err(Broken::Overshoot { subject: device(), sequence: 2 }));
    history.1[2].at_ms = 7;
    history.1[3].at_ms = 7;
    assert_ne!(found(&history), Err(Broken::Overshoot { subject: device(), sequence: 2 }));
}

#[test]
fn lost_acknowledgement_is_found_for_grants_and_deletions() {
    let mut lost = history();
    lost.1.remove(3);
    assert_eq!(found(&lost), Err(Broken::Lost(license(3))));
    let mut lost = history();
    lost.1.truncate(2);
    lost.0.truncate(4);
    assert_eq!(found(&lost), Err(Broken::Lost(license(1))));
}

#[test]
fn duplicates_are_found_in_log_and_history() {
    let mut twice = history();
    twice.1.extend([ended(2), ended(3), granted(2)]);
    assert_eq!(found(&twice), Err(Broken::Duplicate(license(2))));
    let mut twice = history();
    twice.1.push(ended(1));
    assert_eq!(found(&twice), Err(Broken::Duplicate(license(1))));
    let mut twice = history();
    twice.0.push(call(100, 110, grant(3)));
    assert_eq!(found(&twice), Err(Broken::Duplicate(license(3))));
}

#[test]
fn stale_decision_is_found_when_there_was_room_all_along() {
    let mut stale = history();
    // After the deletion was acknowledged and before the next grant began.
    stale.0.push(call(62, 68, refusal()));
    assert_eq!(found(&stale), Err(Broken::Stale { subject: account(), call: 7 }));
    // The same call, begun while the deletion was under way, may have been decided before it.
    stale.0[7].started = 58;
    assert_eq!(found(&stale), Ok(()));
    // It may as well have been decided after the grant that began before it ended.
    (stale.0[7].started, stale.0[7].ended) = (62, Some(75));
    assert_eq!(found(&stale), Ok(()));
}

#[test]
fn refusal_before_anything_was_held_is_stale() {
    let mut stale = history();
    stale.0.push(call(1, 2, refusal()));
    assert_eq!(found(&stale), Err(Broken::Stale { subject: account(), call: 7 }));
}

#[test]
fn order_of_real_time_is_kept() {
    let mut history = history();
    history.1.swap(0, 1);
    assert_eq!(found(&history), Ok(()), "the two calls overlap");
    history.0[1].started = 11;
    assert_eq!(found(&history), Err(Broken::OutOfOrder(license(2))));
}
