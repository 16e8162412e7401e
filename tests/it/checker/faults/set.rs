//! Limits set in place of those of rules.

use super::*;

/// The effect of setting a limit until a time, or of taking it back.
fn effect(rule: Rule, holder: &Subject, limit: Option<usize>, until_ms: i64) -> Effect {
    let own = limit.map(|limit| Own { limit, until_ms });
    let (rule, reason) = (rule.id.to_owned(), format!("{holder:?} may have {limit:?}"));
    Effect::Limited { rule, own, reason }
}

/// Somebody may have so much until a time, or as much as the rule has it again.
fn set_until(rule: Rule, holder: Subject, limit: Option<usize>, until_ms: i64) -> Change {
    let own = limit.map(|limit| Own { limit, until_ms });
    let effect = effect(rule, &holder, limit, until_ms);
    change(effect, What::Limited { holder, rule: rule.id.to_owned(), own })
}

fn limited_until(device: &str, limit: Option<usize>, until_ms: i64) -> Change {
    set_until(OF_DEVICE, Subject::Device(device.to_owned()), limit, until_ms)
}

fn limited(device: &str, limit: Option<usize>) -> Change {
    limited_until(device, limit, i64::MAX)
}

/// The account may have so much.
fn set(rule: Rule, limit: Option<usize>) -> Change {
    set_until(rule, account(), limit, i64::MAX)
}

#[test]
fn a_limit_set_for_a_device_holds_from_there_on_in_place_of_the_rules() {
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[OF_DEVICE]);
    let [one, two, three] = [1, 2, 3].map(granted);
    let more = limited("a", Some(3));
    let raised = [one.clone(), more.clone(), two.clone(), three.clone()];
    assert_eq!(found(&[], &raised), Ok(()));
    let late = [one.clone(), two.clone(), three.clone(), more.clone()];
    assert_eq!(found(&[], &late), Err(over(OF_DEVICE, device(), 2)));
    let back = [more, limited("a", None), one.clone(), two.clone(), three.clone()];
    assert_eq!(found(&[], &back), Err(over(OF_DEVICE, device(), 4)));
    let less = limited("a", Some(1));
    let lowered = [one.clone(), less.clone(), two.clone()];
    assert_eq!(found(&[], &lowered), Err(over(OF_DEVICE, device(), 2)));
    // It goes with the device, unless the other has its own.
    let elsewhere = limited("b", Some(1));
    let moved = [one.clone(), elsewhere.clone(), joined("b", "a"), two.clone()];
    assert_eq!(found(&[], &moved), Err(over(OF_DEVICE, device(), 3)));
    let own = [one.clone(), limited("a", Some(2)), elsewhere, joined("b", "a"), two];
    assert_eq!(found(&[], &own), Ok(()));
    // What was set while a call was under way may have refused it.
    let set = effect(OF_DEVICE, &device(), Some(1), i64::MAX);
    let told = Told::Refused { rule: OF_DEVICE.id.to_owned(), subject: device(), wanted: 1 };
    let asked = |at| {
        let calls =
            [call(0, 1, grant(1)), call(10, 20, done(set.clone())), call(at, at + 1, told.clone())];
        found(&calls, &[one.clone(), less.clone()])
    };
    assert_eq!(asked(15), Ok(()));
    assert_eq!(asked(25), Ok(()));
    assert_eq!(asked(5), Err(Broken::Stale { subject: device(), call: 2 }));
    let lost = [call(0, 1, grant(1)), call(10, 20, done(set.clone()))];
    assert_eq!(found(&lost, std::slice::from_ref(&one)), Err(Broken::Lost(set.clone())));
    let other = Change { effects: vec![effect(OF_DEVICE, &device(), Some(2), i64::MAX)], ..less };
    assert_eq!(found(&lost, &[one, other]), Err(Broken::Lost(set)), "another limit");
}

#[test]
fn a_limit_set_for_a_device_ends_at_its_time() {
    let at = |at_ms, change| Change { at_ms, ..change };
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[OF_DEVICE]);
    let [one, two] = [1, 2].map(granted);
    let raised = |at_ms| {
        let more = limited_until("a", Some(3), 100);
        found(&[], &[one.clone(), two.clone(), more, at(at_ms, granted(3))])
    };
    assert_eq!(raised(99), Ok(()));
    assert_eq!(raised(100), Err(over(OF_DEVICE, device(), 3)));
    // It goes with the device for as long, and gives way to none that has ended.
    let joined = |at_ms, until_ms| {
        let (own, moved) = (limited_until("a", Some(9), 30), limited_until("b", Some(1), until_ms));
        let changes = [one.clone(), own, moved, at(50, joined("b", "a")), at(at_ms, two.clone())];
        found(&[], &changes)
    };
    assert_eq!(joined(99, 100), Err(over(OF_DEVICE, device(), 4)));
    assert_eq!(joined(100, 100), Ok(()));
    assert_eq!(joined(50, 50), Ok(()));
    // A refusal needs a moment at which it held, or one at which it had ended.
    let asked = |started_ms, held: u128, limit| {
        let (rule, subject) = (OF_DEVICE.id.to_owned(), device());
        let told = Told::Refused { rule, subject, wanted: 1 };
        let grants = (1..=held).map(|n| call(0, 1, grant(n)));
        let refused = Call { started_ms, ..call(4, 5, told) };
        let set = limited_until("a", Some(limit), 100);
        let limited = call(2, 3, done(set.effects[0].clone()));
        let calls: Vec<_> = grants.chain([limited, refused]).collect();
        let taken = (1..=held).map(granted);
        let changes: Vec<_> = taken.chain([set]).collect();
        found(&calls, &changes)
    };
    let stale = |call| Err(Broken::Stale { subject: device(), call });
    assert_eq!([asked(50, 1, 1), asked(99, 1, 1)], [Ok(()), Ok(())]);
    assert_eq!(asked(100, 1, 1), stale(2));
    assert_eq!(asked(50, 2, 3), stale(3));
    assert_eq!([asked(99, 2, 3), asked(100, 2, 3)], [Ok(()), Ok(())]);
}

#[test]
fn a_limit_set_for_an_account_holds_for_all_of_it() {
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[OF_ACCOUNT]);
    let [one, two, three] = [1, 2, 3].map(granted);
    let [more, less] = [3, 1].map(|limit| set(OF_ACCOUNT, Some(limit)));
    let raised = [one.clone(), more.clone(), two.clone(), three.clone()];
    assert_eq!(found(&[], &raised), Ok(()));
    let overshoot = |sequence| Err(over(OF_ACCOUNT, account(), sequence));
    let late = [one.clone(), two.clone(), three.clone(), more.clone()];
    assert_eq!(found(&[], &late), overshoot(2));
    let back = [more, set(OF_ACCOUNT, None), one.clone(), two.clone(), three.clone()];
    assert_eq!(found(&[], &back), overshoot(4));
    assert_eq!(found(&[], &[one.clone(), less.clone(), two.clone()]), overshoot(2));
    let neighbor = Subject::Account("neighbor".to_owned());
    let elsewhere = set_until(OF_ACCOUNT, neighbor, Some(3), i64::MAX);
    let raised = [elsewhere, one.clone(), two.clone(), three.clone()];
    assert_eq!(found(&[], &raised), overshoot(3));
    let ended = set_until(OF_ACCOUNT, account(), Some(3), 0);
    assert_eq!(found(&[], &[ended, one.clone(), two, three]), overshoot(3));
    let asked = |at| {
        let limited = call(10, 20, done(less.effects[0].clone()));
        let calls = [call(0, 1, grant(1)), limited, call(at, at + 1, refusal())];
        found(&calls, &[one.clone(), less.clone()])
    };
    assert_eq!([asked(15), asked(25)], [Ok(()), Ok(())]);
    assert_eq!(asked(5), Err(Broken::Stale { subject: account(), call: 2 }));
}

#[test]
fn a_limit_set_for_an_account_holds_for_each_of_its_titles() {
    let rule = Rule::on_slots("of-title", Scope::Title, 1);
    let subject = || Subject::Title("family".to_owned(), "film".to_owned());
    let film = |n| of_film(n, By::Decision { overage: false });
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[rule]);
    let raised = [set(rule, Some(2)), film(1), film(2), film(3)];
    assert_eq!(found(&[], &raised[..3]), Ok(()));
    assert_eq!(found(&[], &raised), Err(over(rule, subject(), 3)));
    assert_eq!(found(&[], &raised[1..]), Err(over(rule, subject(), 1)));
    // It refuses also a title of which nothing has ever been held.
    let none = set(rule, Some(0));
    let asked = |at| {
        let told = Told::Refused { rule: rule.id.to_owned(), subject: subject(), wanted: 1 };
        let limited = call(10, 20, done(none.effects[0].clone()));
        found(&[limited, call(at, at + 1, told)], std::slice::from_ref(&none))
    };
    assert_eq!([asked(15), asked(25)], [Ok(()), Ok(())]);
    assert_eq!(asked(5), Err(Broken::Stale { subject: subject(), call: 1 }));
}

/// A call by which the account's limit is taken back.
fn taking_back(started: u64, ended: u64, effect: Effect) -> Call {
    let (rule, holder) = (OF_ACCOUNT.id.to_owned(), account());
    call(started, ended, Told::TakenBack { rule, holder, effect })
}

#[test]
fn what_is_taken_back_is_in_the_log_once_and_in_order() {
    let (more, back) = (set(OF_ACCOUNT, Some(3)), set(OF_ACCOUNT, None));
    let [raised, ended] = [&more, &back].map(|change| change.effects[0].clone());
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[OF_ACCOUNT]);
    let calls = [call(0, 10, done(raised.clone())), taking_back(20, 30, ended.clone())];
    assert_eq!(found(&calls, &[more.clone(), back.clone()]), Ok(()));
    let lost = Err(Broken::Lost(ended.clone()));
    assert_eq!(found(&calls, std::slice::from_ref(&more)), lost);
    let early = Err(Broken::OutOfOrder(ended.clone()));
    assert_eq!(found(&calls, &[back.clone(), more.clone()]), early);
    let twice = [&calls[..], &[taking_back(40, 50, ended.clone())]].concat();
    let duplicate = Err(Broken::Duplicate(ended));
    assert_eq!(found(&twice, &[more.clone(), back.clone()]), duplicate);
    assert_eq!(found(&calls, &[more, back.clone(), back]), duplicate);
}

#[test]
fn only_where_nothing_is_set_nothing_need_be_taken_back() {
    let ended = effect(OF_ACCOUNT, &account(), None, 0);
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[OF_ACCOUNT]);
    assert_eq!(found(&[taking_back(0, 10, ended.clone())], &[]), Ok(()));
    // The limit is set in the middle, and holds until a time.
    let more = set_until(OF_ACCOUNT, account(), Some(3), 100);
    let asked = |started, started_ms| {
        let back = Call { started_ms, ..taking_back(started, started + 1, ended.clone()) };
        let calls = [call(10, 20, done(more.effects[0].clone())), back];
        found(&calls, std::slice::from_ref(&more))
    };
    assert_eq!([asked(5, 0), asked(15, 0), asked(25, 100)], [Ok(()), Ok(()), Ok(())]);
    let lost = Err(Broken::Lost(ended.clone()));
    assert_eq!(asked(25, 90), lost);
    // Another rule's is another one.
    let other = set(OF_DEVICE, Some(3));
    let calls = [call(0, 5, done(other.effects[0].clone())), taking_back(25, 30, ended.clone())];
    assert_eq!(check(&calls, &[other], &[OF_DEVICE, OF_ACCOUNT]), Ok(()));
}

#[test]
fn a_limit_is_taken_back_from_the_device_that_goes_on() {
    let belongs = What::Belongs { identity: "tv".to_owned(), device: "b".to_owned() };
    let belongs = Change { at_ms: 0, effects: Vec::new(), what: belongs };
    let ended = effect(OF_DEVICE, &device(), None, 0);
    let asked = |of: &str, at| {
        let more = limited(of, Some(3));
        let (rule, holder) = (OF_DEVICE.id.to_owned(), Subject::DeviceOf("tv".to_owned()));
        let told = Told::TakenBack { rule, holder, effect: ended.clone() };
        let calls = [
            call(0, 5, done(more.effects[0].clone())),
            call(20, 30, done(Effect::Joined("b".to_owned()))),
            call(at, at + 1, told),
        ];
        check(&calls, &[belongs.clone(), more, joined("b", "a")], &[OF_DEVICE])
    };
    let lost = Err(Broken::Lost(ended.clone()));
    // What is set for the one is the other's as well, but not the other way round.
    assert_eq!([asked("b", 10), asked("b", 40)], [lost.clone(), lost.clone()]);
    assert_eq!([asked("a", 10), asked("a", 40)], [Ok(()), lost]);
}
