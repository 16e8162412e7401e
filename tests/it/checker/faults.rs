//! The checker finds what it is for: planted faults, each in an otherwise flawless history.

mod set;
mod windows;

use license_ledger::domain::quota::BLOCKED;

use super::limits::{Counts, Scope};
use super::*;

const OF_DEVICE: Rule = Rule::on_slots("of-device", Scope::Device, 2);
const OF_ACCOUNT: Rule = Rule::on_slots("of-account", Scope::Account, 2);

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn account() -> Subject {
    Subject::Account("family".to_owned())
}

fn device() -> Subject {
    Subject::Device("a".to_owned())
}

fn slot(n: u128) -> Slot {
    Slot { id: id(n), key_id: id(n), title: None, group: None }
}

fn taken(n: u128) -> Taken {
    Taken {
        device: "a".to_owned(),
        account: Some("family".to_owned()),
        reservation: None,
        slots: vec![slot(n)],
        until_ms: None,
        by: By::Decision { overage: false },
    }
}

fn change(effect: Effect, what: What) -> Change {
    Change { at_ms: 0, effects: vec![effect], what }
}

fn granted(n: u128) -> Change {
    change(Effect::Taken(id(n)), What::Taken(taken(n)))
}

fn reported(n: u128, overage: bool) -> Change {
    let by = By::Report { overage };
    change(Effect::Taken(id(n)), What::Taken(Taken { by, ..taken(n) }))
}

fn deleted(n: u128) -> Change {
    change(Effect::Deleted(id(n)), What::Freed { ids: vec![id(n)], until_ms: None })
}

fn written_off(n: u128, until_ms: i64) -> Change {
    let what = What::Freed { ids: vec![id(n)], until_ms: Some(until_ms) };
    change(Effect::WrittenOff(id(n)), what)
}

fn joined(from: &str, into: &str) -> Change {
    let what = What::Joined { from: from.to_owned(), into: into.to_owned() };
    change(Effect::Joined(from.to_owned()), what)
}

fn call(started: u64, ended: u64, told: Told) -> Call {
    Call { started, started_ms: 0, ended: Some(ended), told }
}

fn done(effect: Effect) -> Told {
    Told::Done(vec![effect])
}

fn grant(n: u128) -> Told {
    done(Effect::Taken(id(n)))
}

fn refusal() -> Told {
    Told::Refused { rule: OF_ACCOUNT.id.to_owned(), subject: account(), wanted: 1 }
}

/// Two grants, a refusal, a deletion while another call is refused, a third grant.
fn history() -> (Vec<Call>, Vec<Change>) {
    let calls = vec![
        call(0, 10, grant(1)),
        call(5, 20, grant(2)),
        call(30, 40, refusal()),
        call(50, 60, done(Effect::Deleted(id(1)))),
        call(45, 55, refusal()),
        call(70, 80, grant(3)),
        Call { started: 90, started_ms: 0, ended: None, told: Told::Unknown },
    ];
    (calls, vec![granted(1), granted(2), deleted(1), granted(3)])
}

fn over(rule: Rule, subject: Subject, sequence: usize) -> Broken {
    Broken::Overshoot { rule: rule.id, subject, sequence }
}

fn found((calls, changes): &(Vec<Call>, Vec<Change>)) -> Result<(), Broken> {
    check(calls, changes, &[OF_DEVICE, OF_ACCOUNT])
}

#[test]
fn nothing_is_found_in_a_flawless_history() {
    assert_eq!(found(&history()), Ok(()));
    assert_eq!(found(&(Vec::new(), Vec::new())), Ok(()));
}

#[test]
fn overshoot_is_found_at_the_event_that_exceeds() {
    let overshoot = Err(over(OF_DEVICE, device(), 2));
    let mut history = history();
    history.1.swap(2, 3);
    assert_eq!(found(&history), overshoot);
    // By the time that passed, the first license no longer counts.
    if let What::Taken(taken) = &mut history.1[0].what {
        taken.until_ms = Some(7);
    }
    history.1[2].at_ms = 6;
    assert_eq!(found(&history), overshoot);
    history.1[2].at_ms = 7;
    history.1[3].at_ms = 7;
    assert_ne!(found(&history), overshoot);
}

#[test]
fn overshoot_is_found_where_a_reservation_takes_several_slots_at_once() {
    let held = |slots: &[u128]| {
        let slots = slots.iter().map(|n| slot(*n)).collect();
        let taken = Taken { reservation: Some(id(9)), slots, ..taken(9) };
        change(Effect::Taken(id(9)), What::Taken(taken))
    };
    assert_eq!(found(&(vec![], vec![granted(1), held(&[2])])), Ok(()));
    let overshoot = found(&(vec![], vec![granted(1), held(&[2, 3])]));
    assert_eq!(overshoot, Err(over(OF_DEVICE, device(), 1)));
}

#[test]
fn a_write_off_with_a_cooldown_frees_no_room_before_its_time() {
    let with = |at_ms| {
        let last = Change { at_ms, ..granted(3) };
        (vec![], vec![granted(1), granted(2), written_off(1, 7), last])
    };
    assert_eq!(found(&with(7)), Ok(()));
    let overshoot = Err(over(OF_DEVICE, device(), 3));
    assert_eq!(found(&with(6)), overshoot);
}

#[test]
fn reports_are_marked_where_they_are_beyond_a_limit_and_nowhere_else() {
    let with = |third: Change| (vec![], vec![granted(1), granted(2), third]);
    assert_eq!(found(&with(reported(3, true))), Ok(()));
    assert_eq!(found(&with(reported(3, false))), Err(Broken::Mismarked { sequence: 2 }));
    let early = (vec![], vec![granted(1), reported(2, true)]);
    assert_eq!(found(&early), Err(Broken::Mismarked { sequence: 1 }));
}

#[test]
fn decisions_beyond_a_limit_that_allows_it_are_marked_and_end_where_it_does() {
    let marked = |n, overage| {
        let by = By::Decision { overage };
        change(Effect::Taken(id(n)), What::Taken(Taken { by, ..taken(n) }))
    };
    let rules = [OF_DEVICE, OF_ACCOUNT].map(|rule| Rule { overage: 1, ..rule });
    let found = |changes: &[Change]| check(&[], changes, &rules);
    let two = [granted(1), granted(2)];
    assert_eq!(found(&[&two[..], &[marked(3, true)]].concat()), Ok(()));
    let mismarked = Err(Broken::Mismarked { sequence: 2 });
    assert_eq!(found(&[&two[..], &[marked(3, false)]].concat()), mismarked);
    assert_eq!(found(&[marked(1, true)]), Err(Broken::Mismarked { sequence: 0 }));
    let overshoot = Err(over(OF_DEVICE, device(), 3));
    assert_eq!(found(&[&two[..], &[marked(3, true), marked(4, true)]].concat()), overshoot);
    // A refusal is justified only where the overage is used up as well.
    let calls = |held: u128| {
        let grants = (1..=held).map(|n| call(0, 1, grant(n)));
        grants.chain([call(2, 3, refusal())]).collect::<Vec<_>>()
    };
    let three = [&two[..], &[marked(3, true)]].concat();
    assert_eq!(check(&calls(3), &three, &rules), Ok(()));
    assert_eq!(check(&calls(2), &two, &rules), Err(Broken::Stale { subject: account(), call: 2 }));
}

#[test]
fn an_acknowledgement_that_is_lost_or_twice_in_the_log_is_found() {
    let stored = |n| change(Effect::Stored(id(n)), What::Other);
    let mut history = history();
    history.0.push(call(11, 12, done(Effect::Stored(id(1)))));
    assert_eq!(found(&history), Err(Broken::Lost(Effect::Stored(id(1)))));
    history.1.insert(1, stored(1));
    assert_eq!(found(&history), Ok(()));
    history.1.push(stored(1));
    assert_eq!(found(&history), Err(Broken::Duplicate(Effect::Stored(id(1)))));
}

#[test]
fn devices_that_are_joined_count_together_from_there_on() {
    let elsewhere = |n| {
        let device = "b".to_owned();
        let taken = Taken { device, account: None, ..taken(n) };
        change(Effect::Taken(id(n)), What::Taken(taken))
    };
    let belongs = What::Belongs { identity: "tv".to_owned(), device: "b".to_owned() };
    let belongs = Change { at_ms: 0, effects: Vec::new(), what: belongs };
    let changes =
        |last: Change| vec![belongs.clone(), granted(1), elsewhere(2), joined("b", "a"), last];
    assert_eq!(found(&(vec![], changes(deleted(2)))), Ok(()));
    let overshoot = Err(over(OF_DEVICE, device(), 4));
    assert_eq!(found(&(vec![], changes(granted(3)))), overshoot);
    // Who acted for the one device is refused for what is on the other, but not before.
    let refused = |at| {
        let subject = Subject::DeviceOf("tv".to_owned());
        let join = call(20, 30, done(Effect::Joined("b".to_owned())));
        let told = Told::Refused { rule: OF_DEVICE.id.to_owned(), subject, wanted: 1 };
        let delete = call(90, 95, done(Effect::Deleted(id(2))));
        let grants = [call(0, 5, grant(1)), call(5, 10, grant(2))];
        (
            grants.into_iter().chain([join, call(at, at + 5, told), delete]).collect(),
            changes(deleted(2)),
        )
    };
    assert_eq!(found(&refused(40)), Ok(()));
    let stale = Broken::Stale { subject: Subject::DeviceOf("tv".to_owned()), call: 3 };
    assert_eq!(found(&refused(12)), Err(stale));
}

#[test]
fn lost_acknowledgement_is_found_for_grants_and_deletions() {
    let mut lost = history();
    lost.1.remove(3);
    assert_eq!(found(&lost), Err(Broken::Lost(Effect::Taken(id(3)))));
    let mut lost = history();
    lost.1.truncate(2);
    lost.0.truncate(4);
    assert_eq!(found(&lost), Err(Broken::Lost(Effect::Deleted(id(1)))));
    let mut lost = history();
    let join = Effect::Joined("b".to_owned());
    lost.0.push(call(100, 110, done(join.clone())));
    assert_eq!(found(&lost), Err(Broken::Lost(join)));
}

#[test]
fn duplicates_are_found_in_log_and_history() {
    let mut twice = history();
    twice.1.extend([deleted(2), deleted(3), granted(2)]);
    assert_eq!(found(&twice), Err(Broken::Duplicate(Effect::Taken(id(2)))));
    let mut twice = history();
    twice.1.push(deleted(1));
    assert_eq!(found(&twice), Err(Broken::Duplicate(Effect::Deleted(id(1)))));
    let mut twice = history();
    twice.0.push(call(100, 110, grant(3)));
    assert_eq!(found(&twice), Err(Broken::Duplicate(Effect::Taken(id(3)))));
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
fn what_is_there_throughout_a_call_is_not_gone() {
    let mut history = history();
    history.0.push(call(61, 65, Told::Gone(id(1))));
    assert_eq!(found(&history), Ok(()));
    // While the deletion is under way it may be gone, and before that it is not.
    history.0[7] = call(51, 52, Told::Gone(id(1)));
    assert_eq!(found(&history), Ok(()));
    for n in [1, 2] {
        history.0[7] = call(41, 42, Told::Gone(id(n)));
        assert_eq!(found(&history), Err(Broken::NotGone { id: id(n), call: 7 }));
    }
}

#[test]
fn order_of_real_time_is_kept() {
    let mut history = history();
    history.1.swap(0, 1);
    assert_eq!(found(&history), Ok(()), "the two calls overlap");
    history.0[1].started = 11;
    assert_eq!(found(&history), Err(Broken::OutOfOrder(Effect::Taken(id(2)))));
}

/// Slot `n` of the film is taken.
fn of_film(n: u128, by: By) -> Change {
    let title = Some("film".to_owned());
    let taken = Taken { slots: vec![Slot { title, ..slot(n) }], by, ..taken(n) };
    change(Effect::Taken(id(n)), What::Taken(taken))
}

#[test]
fn each_title_of_an_account_counts_for_itself() {
    let rule = Rule::on_slots("of-title", Scope::Title, 1);
    let subject = || Subject::Title("family".to_owned(), "film".to_owned());
    let film = |n| of_film(n, By::Decision { overage: false });
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[rule]);
    assert_eq!(found(&[], &[granted(1), film(2), granted(3), deleted(2), film(4)]), Ok(()));
    let two = [film(1), granted(2), film(3)];
    assert_eq!(found(&[], &two), Err(over(rule, subject(), 2)));
    let reported = |overage| of_film(3, By::Report { overage });
    assert_eq!(found(&[], &[film(1), reported(true)]), Ok(()));
    let mismarked = Err(Broken::Mismarked { sequence: 1 });
    assert_eq!(found(&[], &[film(1), reported(false)]), mismarked);
    // What has no title fills none.
    let told = Told::Refused { rule: rule.id.to_owned(), subject: subject(), wanted: 1 };
    let calls = [call(0, 1, grant(1)), call(2, 3, told)];
    assert_eq!(found(&calls, &[film(1)]), Ok(()));
    let stale = Broken::Stale { subject: subject(), call: 1 };
    assert_eq!(found(&calls, &[granted(1)]), Err(stale));
}

#[test]
fn a_blocked_device_gets_nothing_and_another_is_not_refused_for_it() {
    let set = |blocked| {
        let what = What::Blocked { device: "a".to_owned(), blocked };
        change(Effect::Blocked(format!("{blocked}")), what)
    };
    let changes = |last: Change| [granted(1), set(true), set(false), last];
    assert_eq!(found(&(vec![], changes(granted(2)).into())), Ok(()));
    let barred = Err(Broken::Barred { device: "a".to_owned(), sequence: 2 });
    assert_eq!(found(&(vec![], vec![granted(1), set(true), granted(2)])), barred);
    // What others report is so, and what it has it may give back.
    let reported = reported(2, false);
    assert_eq!(found(&(vec![], vec![granted(1), set(true), reported, deleted(1)])), Ok(()));
    let asked = |at, device: &str| {
        let (rule, subject) = (BLOCKED.to_owned(), Subject::Device(device.to_owned()));
        let calls = vec![
            call(0, 5, grant(1)),
            call(10, 20, done(Effect::Blocked("true".to_owned()))),
            call(30, 40, done(Effect::Blocked("false".to_owned()))),
            call(at, at + 1, Told::Refused { rule, subject, wanted: 1 }),
        ];
        found(&(calls, changes(granted(2)).into()))
    };
    let stale =
        |device: &str| Err(Broken::Stale { subject: Subject::Device(device.to_owned()), call: 3 });
    for at in [15, 25, 35] {
        assert_eq!(asked(at, "a"), Ok(()));
        assert_eq!(asked(at, "b"), stale("b"));
    }
    for at in [7, 45] {
        assert_eq!(asked(at, "a"), stale("a"));
    }
}
