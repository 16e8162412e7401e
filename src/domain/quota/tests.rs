use super::*;

const STORED: &str = r#"{"rules":[{"id":"device-slots","scope":"device","counts":"live_slots","limit":25,"on_exceed":"deny"}],"licenses_per_slot":16,"releasing_grades":["A","B","C"]}"#;

fn with_ids(ids: &[&str]) -> QuotaPolicy {
    let mut policy = QuotaPolicy::default();
    let rule = policy.rules.remove(0);
    policy.rules = ids
        .iter()
        .zip(1..)
        .map(|(id, hours)| QuotaRule {
            id: (*id).to_owned(),
            counts: Counts::IssuedWithinSeconds(hours * 3600),
            ..rule.clone()
        })
        .collect();
    policy
}

#[test]
fn default_is_25_slots_a_device_and_releases_signed_deletions() {
    let policy = QuotaPolicy::default();
    assert_eq!(serde_json::to_string(&policy).unwrap(), STORED);
    assert_eq!(serde_json::from_str::<QuotaPolicy>(STORED).unwrap(), policy);
    assert_eq!(policy.check(), Ok(()));
}

#[test]
fn rule_on_voiding_is_stored_with_all_its_members() {
    let voiding =
        r#"{"min_security_level":3000,"store_failed":true,"unconfirmed_after_seconds":600}"#;
    let stored = STORED.replace("]}", &format!("],\"voiding\":{voiding}}}"));
    let policy: QuotaPolicy = serde_json::from_str(&stored).unwrap();
    assert_eq!(serde_json::to_string(&policy).unwrap(), stored);
    for member in [r#""min_security_level":3000,"#, r#""store_failed":true,"#] {
        assert!(serde_json::from_str::<QuotaPolicy>(&stored.replace(member, "")).is_err());
    }
}

#[test]
fn rule_on_voiding_names_a_case_and_leaves_time() {
    let check = |store_failed, unconfirmed_after_seconds| {
        let voiding = Voiding { min_security_level: 0, store_failed, unconfirmed_after_seconds };
        QuotaPolicy { voiding: Some(voiding), ..QuotaPolicy::default() }.check()
    };
    assert_eq!(check(false, None), Err(InvalidPolicy::VoidsNothing));
    assert_eq!(check(true, Some(0)), Err(InvalidPolicy::VoidsAtOnce));
    for (store_failed, seconds) in [(true, None), (false, Some(1)), (true, Some(u32::MAX))] {
        assert_eq!(check(store_failed, seconds), Ok(()));
    }
}

#[test]
fn refuses_by_name_what_it_does_not_know() {
    for (known, unknown, named) in [
        (r#""rules""#, r#""account_limit":5,"rules""#, "account_limit"),
        (r#""scope""#, r#""window_days":30,"scope""#, "window_days"),
        (r#""scope":"device""#, r#""scope":"household""#, "household"),
        (r#""live_slots""#, r#""issued""#, "issued"),
        (r#""on_exceed":"deny""#, r#""on_exceed":"deny","when":{"min_level":1}"#, "min_level"),
        (r#""deny""#, r#""allow""#, "allow"),
        (r#""C""#, r#""F""#, "F"),
    ] {
        let policy = STORED.replace(known, unknown);
        assert_ne!(policy, STORED);
        let error = serde_json::from_str::<QuotaPolicy>(&policy).unwrap_err().to_string();
        assert!(error.contains(&format!("`{named}`")), "{error}");
    }
}

#[test]
fn policy_without_a_member_is_not_completed_in_silence() {
    for member in [r#""limit":25,"#, r#""counts":"live_slots","#, r#""licenses_per_slot":16,"#] {
        let policy = STORED.replace(member, "");
        assert_ne!(policy, STORED);
        assert!(serde_json::from_str::<QuotaPolicy>(&policy).is_err(), "without {member}");
    }
}

#[test]
fn every_rule_has_an_id_of_its_own() {
    assert_eq!(with_ids(&[]).check(), Ok(()));
    assert_eq!(with_ids(&["a", "b-2"]).check(), Ok(()));
    let twice = |id: &str| Err(InvalidPolicy::RuleIdTwice(id.to_owned()));
    assert_eq!(with_ids(&["a", "b", "a"]).check(), twice("a"));
    assert_eq!(with_ids(&[LICENSES_PER_SLOT]).check(), twice(LICENSES_PER_SLOT));
}

#[test]
fn rule_ids_are_short_words_that_fit_anywhere() {
    let longest = "x".repeat(NAME_BYTES_MAX);
    assert_eq!(with_ids(&[&longest]).check(), Ok(()));
    for id in ["", "Device", "a b", "a_b", "\u{e9}", &(longest + "x")] {
        assert_eq!(with_ids(&[id]).check(), Err(InvalidPolicy::RuleId(id.to_owned())));
    }
}

#[test]
fn slots_that_may_hold_nothing_are_refused() {
    let policy = QuotaPolicy::with_device_limit(25, 0);
    assert_eq!(policy.check(), Err(InvalidPolicy::NoLicensesPerSlot));
    assert_eq!(QuotaPolicy::with_device_limit(0, 1).check(), Ok(()));
}

#[test]
fn rules_that_cannot_be_meant_are_refused_by_name() {
    let rule = |rule: &str| {
        let rules = format!("[{rule}]");
        let rules: Vec<QuotaRule> = serde_json::from_str(&rules).unwrap();
        let classes = BTreeMap::from([("tv".to_owned(), vec!["Example".to_owned()])]);
        let policy = QuotaPolicy { rules, device_classes: classes, ..QuotaPolicy::default() };
        policy.check()
    };
    let with = |scope: &str, counts: &str, rest: &str| {
        rule(&format!(r#"{{"id":"r","scope":"{scope}","counts":{counts},"limit":250,{rest}}}"#))
    };
    let (deny, live) = (r#""on_exceed":"deny""#, r#""live_slots""#);
    let when = |when: &str| with("device", live, &format!(r#"{deny},"when":{when}"#));
    for (refused, named) in [
        (with("device", live, r#""on_exceed":{"allow_overage":0}"#), "allow_overage"),
        (with("device", r#"{"issued_within_seconds":0}"#, deny), "0 seconds"),
        (with("device", r#"{"issued_within_seconds":31622401}"#, deny), "366 days"),
        (
            with(
                "account",
                r#"{"issued_within_seconds":60}"#,
                r#""on_exceed":{"allow_overage":6}"#,
            ),
            "255 at most",
        ),
        (with("device", r#"{"devices_added_within_seconds":60}"#, deny), "scope"),
        (
            with(
                "account",
                r#"{"devices_added_within_seconds":60}"#,
                r#""on_exceed":{"allow_overage":6}"#,
            ),
            "255 at most",
        ),
        (when("{}"), "names nothing"),
        (when(r#"{"min_security_level":3000,"max_security_level":2000}"#), "no device is both"),
        (when(r#"{"content_groups":[""]}"#), "empty"),
        (when(r#"{"device_classes":["phone"]}"#), "does not define"),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(&error, InvalidPolicy::Rule(id, _) if id == "r"), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    for accepted in [
        with(
            "account",
            r#"{"issued_within_seconds":31622400}"#,
            r#""on_exceed":{"allow_overage":5}"#,
        ),
        with("account", r#"{"devices_added_within_seconds":60}"#, deny),
        with("account_title", live, deny),
        when(r#"{"min_security_level":2000,"max_security_level":2000}"#),
        when(r#"{"device_classes":["tv"],"content_groups":["uhd"]}"#),
    ] {
        assert_eq!(accepted, Ok(()));
    }
}

#[test]
fn two_rules_that_count_the_same_are_refused() {
    let mut policy = QuotaPolicy::default();
    let other = QuotaRule { id: "other".to_owned(), limit: 3, ..policy.rules[0].clone() };
    policy.rules.push(other);
    let alike = InvalidPolicy::RulesAlike(DEVICE_SLOTS.to_owned(), "other".to_owned());
    assert_eq!(policy.check(), Err(alike));
    policy.rules[1].scope = Scope::Account;
    assert_eq!(policy.check(), Ok(()));
}

#[test]
fn a_condition_written_in_another_way_is_the_same() {
    let check = |one: &str, other: &str| {
        let rules = [("a", one), ("b", other)].map(|(id, when)| {
            format!(
                r#"{{"id":"{id}","scope":"device","counts":"live_slots","limit":5,"on_exceed":"deny"{when}}}"#
            )
        });
        let rules: Vec<QuotaRule> =
            serde_json::from_str(&format!("[{}]", rules.join(","))).unwrap();
        let class = |name: &str| (name.to_owned(), vec![name.to_owned()]);
        let device_classes = [class("tv"), class("phone")].into();
        QuotaPolicy { rules, device_classes, ..QuotaPolicy::default() }.check()
    };
    let alike = Err(InvalidPolicy::RulesAlike("a".to_owned(), "b".to_owned()));
    for (one, other) in [
        (
            r#","when":{"content_groups":["hd","uhd"]}"#,
            r#","when":{"content_groups":["uhd","hd","uhd"]}"#,
        ),
        (
            r#","when":{"device_classes":["tv","phone"]}"#,
            r#","when":{"device_classes":["phone","tv"]}"#,
        ),
        ("", r#","when":{"min_security_level":0}"#),
    ] {
        assert_eq!(check(one, other), alike, "{one} and {other}");
    }
    for (one, other) in [
        (r#","when":{"content_groups":["hd"]}"#, r#","when":{"content_groups":["hd","uhd"]}"#),
        (r#","when":{"content_groups":["tv"]}"#, r#","when":{"device_classes":["tv"]}"#),
        ("", r#","when":{"min_security_level":2000}"#),
    ] {
        assert_eq!(check(one, other), Ok(()), "{one} and {other}");
    }
}

#[test]
fn weaker_evidence_releases_only_what_stronger_evidence_does() {
    use Grade::{A, B, C, D, E};
    let check = |grades: &[Grade]| {
        QuotaPolicy { releasing_grades: grades.to_vec(), ..QuotaPolicy::default() }.check()
    };
    for accepted in [&[][..], &[A], &[B, A], &[A, B, C, D], &[E, D, C, B, A]] {
        assert_eq!(check(accepted), Ok(()), "{accepted:?}");
    }
    for (refused, stronger, weaker) in
        [(&[B][..], "A", "B"), (&[A, C], "B", "C"), (&[E, A, B], "C", "E"), (&[D], "A", "D")]
    {
        assert_eq!(check(refused), Err(InvalidPolicy::GradeLeftOut(stronger, weaker)));
    }
    assert_eq!(check(&[A, B, A]), Err(InvalidPolicy::GradeTwice("A")));
    // One that was published stays readable.
    let stored = STORED.replace(r#"["A","B","C"]"#, r#"["C","C"]"#);
    assert!(serde_json::from_str::<QuotaPolicy>(&stored).is_ok());
}

#[test]
fn device_classes_are_named_and_name_models() {
    for (class, models) in [("TV", vec!["a"]), ("", vec!["a"]), ("tv", vec![]), ("tv", vec![""])] {
        let models = models.into_iter().map(str::to_owned).collect();
        let device_classes = BTreeMap::from([(class.to_owned(), models)]);
        let policy = QuotaPolicy { device_classes, ..QuotaPolicy::default() };
        assert_eq!(policy.check(), Err(InvalidPolicy::DeviceClass(class.to_owned())));
    }
}

#[test]
fn full_policy_is_stored_and_read_with_all_its_members() {
    let stored = STORED.replace(
        r#""on_exceed":"deny"}]"#,
        r#""on_exceed":{"allow_overage":2},"when":{"min_security_level":2000,"content_groups":["uhd"],"device_classes":["tv"]}}]"#,
    );
    let stored = stored.replace(r#""live_slots""#, r#"{"issued_within_seconds":86400}"#);
    let stored = stored
        .replace(r#""C"]}"#, r#""C"],"default":"deny","device_classes":{"tv":["Example TV"]}}"#);
    let policy: QuotaPolicy = serde_json::from_str(&stored).unwrap();
    assert_eq!(serde_json::to_string(&policy).unwrap(), stored);
    assert_eq!(policy.check(), Ok(()));
}
