//! Rules that look back.

use license_ledger::domain::holding::ISSUED_KEPT;

use super::*;

/// Two at most within ten milliseconds.
const ISSUED: Rule = Rule { id: "issued", counts: Counts::Issued { within_ms: 10 }, ..OF_ACCOUNT };

#[test]
fn what_was_issued_lately_counts_until_the_time_has_passed() {
    let at = |at_ms, change| Change { at_ms, ..change };
    let found = |calls: &[Call], changes: &[Change]| check(calls, changes, &[ISSUED]);
    // A deletion makes no room, time does.
    let with =
        |at_ms| [at(1, granted(1)), at(2, granted(2)), at(2, deleted(1)), at(at_ms, granted(3))];
    assert_eq!(found(&[], &with(10)), Err(over(ISSUED, account(), 3)));
    assert_eq!(found(&[], &with(11)), Ok(()));
    // What is reserved counts as long as it is.
    let reserved = |n| {
        let taken = Taken { reservation: Some(id(n)), until_ms: Some(30), ..taken(n) };
        at(1, change(Effect::Taken(id(n)), What::Taken(taken)))
    };
    let with = |at_ms| [reserved(1), reserved(2), at(at_ms, granted(3))];
    assert_eq!(found(&[], &with(29)), Err(over(ISSUED, account(), 2)));
    assert_eq!(found(&[], &with(30)), Ok(()));
    // A refusal is stale once the time has passed.
    let told = || Told::Refused { rule: ISSUED.id.to_owned(), subject: account(), wanted: 1 };
    let asked = |started_ms| {
        let late = Call { started_ms, ..call(4, 5, told()) };
        found(
            &[call(0, 1, grant(1)), call(2, 3, grant(2)), late],
            &[at(1, granted(1)), at(2, granted(2))],
        )
    };
    assert_eq!(asked(10), Ok(()));
    assert_eq!(asked(11), Err(Broken::Stale { subject: account(), call: 2 }));
}

#[test]
fn a_rule_on_a_content_group_is_about_nothing_else() {
    let rule = Rule { group: Some("new"), limit: 1, ..ISSUED };
    let new = |n| {
        let group = Some("new".to_owned());
        let taken = Taken { slots: vec![Slot { group, ..slot(n) }], ..taken(n) };
        change(Effect::Taken(id(n)), What::Taken(taken))
    };
    assert_eq!(check(&[], &[granted(1), new(2), granted(3)], &[rule]), Ok(()));
    let overshoot = Err(over(rule, account(), 2));
    assert_eq!(check(&[], &[new(1), granted(2), new(3)], &[rule]), overshoot);
}

#[test]
fn a_device_is_added_once_and_counts_until_the_time_has_passed() {
    let rule =
        Rule { id: "added", counts: Counts::Added { within_ms: 10 }, limit: 1, ..OF_ACCOUNT };
    let on = |device: &str, n, at_ms, reservation: Option<Uuid>| {
        let until_ms = reservation.map(|_| 5);
        let taken = Taken { device: device.to_owned(), reservation, until_ms, ..taken(n) };
        Change { at_ms, ..change(Effect::Taken(id(n)), What::Taken(taken)) }
    };
    let found = |changes: &[Change]| check(&[], changes, &[rule]);
    let first = || on("a", 1, 1, None);
    assert_eq!(found(&[first(), on("a", 2, 1, None), on("a", 3, 20, None)]), Ok(()));
    assert_eq!(found(&[first(), on("b", 2, 11, None), on("a", 3, 11, None)]), Ok(()));
    let overshoot = Err(over(rule, account(), 1));
    assert_eq!(found(&[first(), on("b", 2, 10, None)]), overshoot);
    // One that only has something reserved counts for as long, and as one when it gets a license.
    let reserved = || on("a", 1, 1, Some(id(9)));
    assert_eq!(found(&[reserved(), on("b", 2, 4, None)]), overshoot);
    assert_eq!(found(&[reserved(), on("b", 2, 5, None)]), Ok(()));
    assert_eq!(found(&[reserved(), on("a", 2, 4, None), on("b", 3, 14, None)]), Ok(()));
    // It is the same when it goes on as another.
    assert_eq!(found(&[first(), joined("a", "b"), on("b", 2, 5, None)]), Ok(()));
    let overshoot = Err(over(rule, account(), 2));
    assert_eq!(found(&[first(), joined("a", "b"), on("a", 2, 5, None)]), overshoot);
}

#[test]
fn two_devices_of_an_account_that_become_one_were_added_once_when_the_first_was() {
    let rule =
        Rule { id: "added", counts: Counts::Added { within_ms: 10 }, limit: 2, ..OF_ACCOUNT };
    let on = |device: &str, n, at_ms| issued_to(device, n, at_ms, None);
    let at = |at_ms, change| Change { at_ms, ..change };
    let overshoot = |sequence| Err(over(rule, account(), sequence));
    for (from, into) in [("a", "b"), ("b", "a")] {
        let found = |join: bool, last: &[Change]| {
            let joined = join.then(|| at(6, joined(from, into)));
            let changes = [on("a", 1, 1), on("b", 2, 5)].into_iter().chain(joined);
            check(&[], &changes.chain(last.iter().cloned()).collect::<Vec<_>>(), &[rule])
        };
        let third = on("c", 3, 7);
        assert_eq!(found(false, std::slice::from_ref(&third)), overshoot(2));
        assert_eq!(found(true, std::slice::from_ref(&third)), Ok(()));
        assert_eq!(found(true, &[third.clone(), on("d", 4, 10)]), overshoot(4));
        assert_eq!(found(true, &[third, on("d", 4, 11)]), Ok(()));
    }
}

/// Two at most within ten milliseconds, to one device.
const TO_DEVICE: Rule =
    Rule { id: "to-device", scope: Scope::Device, counts: ISSUED.counts, ..OF_ACCOUNT };

fn issued_to(device: &str, n: u128, at_ms: i64, group: Option<&str>) -> Change {
    let slots = vec![Slot { group: group.map(str::to_owned), ..slot(n) }];
    let taken = Taken { device: device.to_owned(), slots, ..taken(n) };
    Change { at_ms, ..change(Effect::Taken(id(n)), What::Taken(taken)) }
}

#[test]
fn what_was_issued_lately_to_devices_that_become_one_was_to_both() {
    let on = |device: &str, n, at_ms| issued_to(device, n, at_ms, None);
    let at = |at_ms, change| Change { at_ms, ..change };
    let overshoot = |sequence| Err(over(TO_DEVICE, device(), sequence));
    // Whichever of them got its license first, and whether it is still there.
    for (first, second) in [("a", "b"), ("b", "a")] {
        let found = |last: &[Change]| {
            let joined = at(6, joined("b", "a"));
            let changes = [on(first, 1, 1), on(second, 2, 5), joined, at(6, deleted(1))];
            check(&[], &[&changes[..], last].concat(), &[TO_DEVICE])
        };
        assert_eq!(found(&[on("a", 3, 10)]), overshoot(4));
        assert_eq!(found(&[on("a", 3, 11)]), Ok(()));
        assert_eq!(found(&[on("a", 3, 11), on("a", 4, 14)]), overshoot(5));
        assert_eq!(found(&[on("a", 3, 11), on("a", 4, 15)]), Ok(()));
    }
    // What is reserved is so on the other one.
    let reserved = Taken { device: "b".to_owned(), reservation: Some(id(1)), ..taken(1) };
    let reserved = at(1, change(Effect::Taken(id(1)), What::Taken(reserved)));
    let changes = [reserved, on("a", 2, 30), at(31, joined("b", "a")), on("a", 3, 32)];
    assert_eq!(check(&[], &changes, &[TO_DEVICE]), overshoot(3));
    assert_eq!(check(&[], &changes[1..], &[TO_DEVICE]), Ok(()));
}

#[test]
fn who_is_refused_for_what_another_device_was_issued_asked_after_they_became_one() {
    let belongs = What::Belongs { identity: "tv".to_owned(), device: "a".to_owned() };
    let belongs = Change { at_ms: 0, effects: Vec::new(), what: belongs };
    let changes = [
        belongs,
        issued_to("a", 1, 1, None),
        issued_to("b", 2, 5, None),
        Change { at_ms: 6, ..joined("b", "a") },
    ];
    let subject = Subject::DeviceOf("tv".to_owned());
    let asked = |started, started_ms| {
        let rule = TO_DEVICE.id.to_owned();
        let told = Told::Refused { rule, subject: subject.clone(), wanted: 1 };
        let refused = Call { started_ms, ..call(started, started + 1, told) };
        let grants = [call(0, 5, grant(1)), call(6, 10, grant(2))];
        let join = call(20, 30, done(Effect::Joined("b".to_owned())));
        check(&[&grants[..], &[join, refused]].concat(), &changes, &[TO_DEVICE])
    };
    assert_eq!([asked(25, 6), asked(40, 10)], [Ok(()), Ok(())]);
    let stale = Err(Broken::Stale { subject: subject.clone(), call: 3 });
    assert_eq!([asked(12, 6), asked(40, 11)], [stale.clone(), stale]);
}

#[test]
fn where_more_was_issued_than_is_remembered_there_is_no_room() {
    let rules = [ISSUED, TO_DEVICE].map(|rule| Rule { group: Some("new"), ..rule });
    let kept = ISSUED_KEPT as u128;
    // So many of another kind, half of them to a device that becomes the other.
    let with = |count: u128, last: Change| {
        let (half, rest) = (1..=count / 2, count / 2 + 1..=count);
        let elsewhere = half.map(|n| issued_to("b", n, 1, None));
        let changes = elsewhere.chain(rest.map(|n| issued_to("a", n, 1, None)));
        changes.chain([Change { at_ms: 2, ..joined("b", "a") }, last]).collect::<Vec<_>>()
    };
    let new = |at_ms| issued_to("a", kept + 1, at_ms, Some("new"));
    for (rule, subject) in rules.into_iter().zip([account(), device()]) {
        let found = |count, last| check(&[], &with(count, last), &[rule]);
        assert_eq!(found(kept - 1, new(10)), Ok(()));
        assert_eq!(found(kept, new(10)), Err(over(rule, subject.clone(), ISSUED_KEPT + 1)));
        assert_eq!(found(kept, new(11)), Ok(()));
        assert_eq!(found(kept, issued_to("a", kept + 1, 10, None)), Ok(()), "of no such kind");
        let report = |at_ms, overage| {
            let slots = vec![Slot { group: Some("new".to_owned()), ..slot(kept + 1) }];
            let taken = Taken { slots, by: By::Report { overage }, ..taken(kept + 1) };
            Change { at_ms, ..change(Effect::Taken(id(kept + 1)), What::Taken(taken)) }
        };
        let mismarked = Err(Broken::Mismarked { sequence: ISSUED_KEPT + 1 });
        assert_eq!(found(kept, report(10, true)), Ok(()));
        assert_eq!(found(kept, report(10, false)), mismarked);
        assert_eq!(found(kept, report(11, true)), mismarked);
        // A refusal needs a moment at which there were so many.
        let asked = |count: u128, started_ms| {
            let grants = (1..=count).map(|n| call(0, 1, grant(n)));
            let join = call(2, 3, done(Effect::Joined("b".to_owned())));
            let told =
                Told::Refused { rule: rule.id.to_owned(), subject: subject.clone(), wanted: 1 };
            let refused = Call { started_ms, ..call(4, 5, told) };
            let calls: Vec<_> = grants.chain([join, refused]).collect();
            check(&calls, &with(count, new(20)), &[rule])
        };
        let stale = |count| Err(Broken::Stale { subject: subject.clone(), call: count });
        assert_eq!(asked(kept, 10), Ok(()));
        assert_eq!(asked(kept, 11), stale(ISSUED_KEPT + 1));
        assert_eq!(asked(kept - 1, 10), stale(ISSUED_KEPT));
    }
}
