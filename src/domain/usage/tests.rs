use super::*;
use crate::domain::acquire::{Outcome, Refusal};
use crate::domain::event::{Event, QuotaOverrideSet, ReservationMade, ReservedSlot, SlotTaken};
use crate::domain::scenario::{Ask, Removal, Scenario, account_ref, device_ref, kid, kids};
use uuid::Uuid;

/// A device under these rules and no others; `rules` is JSON.
fn under(rules: &str) -> Scenario {
    let mut scenario = Scenario::with_room_for(0);
    scenario.policy.rules = serde_json::from_str(rules).unwrap();
    scenario.policy.device_classes =
        [("tv".to_owned(), vec!["Example TV".to_owned()])].into_iter().collect();
    scenario.policy.check().unwrap();
    scenario
}

fn denied(scenario: &mut Scenario, ask: &Ask) -> RuleUse {
    match scenario.refused(ask) {
        Refusal::Quota(exceeded) => *exceeded.rule,
        other => panic!("refused for another reason: {other:?}"),
    }
}

const ACCOUNT_OF_2: &str = r#"[{"id":"family","scope":"account","counts":"live_slots","limit":2,
    "on_exceed":"deny"}]"#;

#[test]
fn account_rule_counts_what_the_account_pays_for_and_nothing_else() {
    let mut device = under(ACCOUNT_OF_2);
    device.granted(&Ask::new(1, &kids([1, 2])).paid_by("family"));
    let refused = denied(&mut device, &Ask::new(2, &kids([3])).paid_by("family"));
    assert_eq!((refused.rule.as_str(), refused.scope), ("family", Scope::Account));
    assert_eq!((refused.limit, refused.in_use.live, refused.requested), (2, 2, 1));
    assert_eq!(refused.held_kids(), kids([1, 2]));
    device.granted(&Ask::new(3, &kids([3])).paid_by("office"));
    device.granted(&Ask::new(4, &kids([4, 5, 6])));
    device.granted(&Ask::new(5, &kids([1])).paid_by("family"));
}

#[test]
fn account_slot_frees_by_deletion_and_by_time() {
    let mut device = under(ACCOUNT_OF_2);
    let until_ms = device.now_ms + 1000;
    device.granted(&Ask::new(1, &kids([1])).paid_by("family").until(until_ms));
    device.granted(&Ask::new(2, &kids([2])).paid_by("family"));
    let refused = denied(&mut device, &Ask::new(3, &kids([3])).paid_by("family"));
    assert_eq!(refused.next_free_at_ms, Some(until_ms));
    device.delete(&Removal::new(2, &kids([2])));
    device.granted(&Ask::new(4, &kids([3])).paid_by("family"));
    device.wait(999);
    denied(&mut device, &Ask::new(5, &kids([4])).paid_by("family"));
    device.wait(1);
    device.granted(&Ask::new(6, &kids([4])).paid_by("family"));
}

#[test]
fn title_rule_counts_each_title_of_an_account_for_itself() {
    let mut device = under(
        r#"[{"id":"title","scope":"account_title","counts":"live_slots","limit":1,
            "on_exceed":"deny"}]"#,
    );
    let ask = |nonce, n, title| Ask::new(nonce, &kids([n])).paid_by("family").titled(title);
    device.granted(&ask(1, 1, "a film"));
    let refused = denied(&mut device, &ask(2, 2, "a film"));
    assert_eq!((refused.title.as_deref(), refused.in_use.live), (Some("a film"), 1));
    device.granted(&ask(3, 2, "a series"));
    device.granted(&ask(4, 3, "a film").paid_by("office"));
    device.granted(&Ask::new(5, &kids([4, 5])).paid_by("family"));
}

#[test]
fn condition_limits_the_licenses_and_devices_that_a_rule_is_about() {
    let mut device = under(
        r#"[{"id":"uhd","scope":"device","counts":"live_slots","limit":1,"on_exceed":"deny",
             "when":{"content_groups":["uhd"],"max_security_level":2000}},
            {"id":"tvs","scope":"device","counts":"live_slots","limit":4,"on_exceed":"deny",
             "when":{"device_classes":["tv"]}}]"#,
    );
    device.granted(&Ask::new(1, &kids([1])).in_group("uhd"));
    device.granted(&Ask::new(2, &kids([2])).in_group("hd"));
    device.granted(&Ask::new(3, &kids([3])));
    assert_eq!(denied(&mut device, &Ask::new(4, &kids([4])).in_group("uhd")).rule, "uhd");
    device.granted(&Ask::new(5, &kids([4])).in_group("uhd").of_level(3000));
    assert_eq!(denied(&mut device, &Ask::new(6, &kids([5]))).rule, "tvs");
    device.policy.device_classes.insert("tv".to_owned(), vec!["Other".to_owned()]);
    device.granted(&Ask::new(7, &kids([5])));
}

#[test]
fn window_counts_what_was_issued_whatever_became_of_it() {
    let mut device = under(
        r#"[{"id":"daily","scope":"device","counts":{"issued_within_seconds":3600},"limit":2,
            "on_exceed":"deny"}]"#,
    );
    device.granted(&Ask::new(1, &kids([1])));
    device.delete(&Removal::new(1, &kids([1])));
    device.wait(1000);
    device.granted(&Ask::new(2, &kids([1])));
    device.granted(&Ask::new(3, &kids([9])).non_persistent());
    let refused = denied(&mut device, &Ask::new(4, &kids([1])));
    assert_eq!((refused.in_use.live, refused.window_seconds), (2, Some(3600)));
    assert_eq!(refused.next_free_at_ms, Some(device.now_ms - 1000 + 3_600_000));
    device.wait(3_599_000);
    device.granted(&Ask::new(5, &kids([1])));
}

#[test]
fn more_issued_than_is_remembered_exceeds_every_window() {
    let mut device = under(
        r#"[{"id":"uhd","scope":"device","counts":{"issued_within_seconds":3600},"limit":5,
            "on_exceed":"deny","when":{"content_groups":["uhd"]}}]"#,
    );
    let many = vec![kid(1); 16];
    for nonce in 1..=16 {
        device.granted(&Ask::new(nonce, &many));
        device.delete(&Removal::new(nonce, &kids([1])));
    }
    assert_eq!(denied(&mut device, &Ask::new(17, &kids([2])).in_group("uhd")).in_use.live, 0);
    device.granted(&Ask::new(18, &kids([2])));
    device.wait(3_600_000);
    device.granted(&Ask::new(19, &kids([2])).in_group("uhd"));
}

#[test]
fn overage_is_allowed_marked_and_ends() {
    let mut device = under(
        r#"[{"id":"soft","scope":"device","counts":"live_slots","limit":1,
            "on_exceed":{"allow_overage":1}}]"#,
    );
    let overage = |outcome: Outcome| match outcome {
        Outcome::Grant(licenses) => licenses[0].overage,
        other => panic!("{other:?}"),
    };
    assert!(!overage(device.acquire(&Ask::new(1, &kids([1])))));
    assert!(overage(device.acquire(&Ask::new(2, &kids([2])))));
    assert!(!overage(device.acquire(&Ask::new(3, &kids([3])).non_persistent())));
    let refused = denied(&mut device, &Ask::new(4, &kids([3])));
    assert_eq!((refused.limit, refused.overage, refused.in_use.live), (1, 1, 2));
    assert!(!overage(device.acquire(&Ask::new(5, &kids([2])))), "a renewal takes no slot");
}

#[test]
fn devices_added_to_an_account_count_once_each() {
    let mut device = under(
        r#"[{"id":"churn","scope":"account","counts":{"devices_added_within_seconds":3600},
            "limit":0,"on_exceed":"deny"}]"#,
    );
    let refused = denied(&mut device, &Ask::new(1, &kids([1])).paid_by("family"));
    assert_eq!((refused.in_use.live, refused.requested), (0, 1));
    device.policy.rules[0].limit = 1;
    device.granted(&Ask::new(2, &kids([1])).paid_by("family"));
    device.policy.rules[0].limit = 0;
    device.granted(&Ask::new(3, &kids([2])).paid_by("family"));
    denied(&mut device, &Ask::new(4, &kids([3])).paid_by("office"));
}

#[test]
fn what_no_rule_is_about_follows_the_default() {
    let mut device = under(ACCOUNT_OF_2);
    device.policy.default = DefaultAnswer::Deny;
    assert_eq!(denied(&mut device, &Ask::new(1, &kids([1]))).rule, DEFAULT);
    device.granted(&Ask::new(2, &kids([1])).paid_by("family"));
    device.granted(&Ask::new(3, &kids([2])).non_persistent());
}

#[test]
fn limit_set_for_a_device_or_account_replaces_that_of_the_rule_until_it_ends() {
    let mut device = under(ACCOUNT_OF_2);
    let until_ms = Some(device.now_ms + 1000);
    let set = |limit, at_ms| {
        Event::QuotaOverrideSet(QuotaOverrideSet {
            rule: "family".to_owned(),
            limit,
            until_ms,
            actor: "support".to_owned(),
            reason: "a large family".to_owned(),
            at_ms,
        })
    };
    device.granted(&Ask::new(1, &kids([1, 2])).paid_by("family"));
    let account = device.accounts.get_mut(&account_ref("family")).unwrap();
    account.evolve(&set(Some(3), device.now_ms));
    device.granted(&Ask::new(2, &kids([3])).paid_by("family"));
    denied(&mut device, &Ask::new(3, &kids([4])).paid_by("family"));
    device.wait(1000);
    assert_eq!(denied(&mut device, &Ask::new(4, &kids([4])).paid_by("family")).limit, 2);
    let account = device.accounts.get_mut(&account_ref("family")).unwrap();
    account.evolve(&set(None, device.now_ms));
    assert_eq!(account.overrides().in_force(device.now_ms - 1).count(), 0);
}

#[test]
fn reservation_holds_its_slots_until_it_expires() {
    let mut device = under(
        r#"[{"id":"slots","scope":"device","counts":"live_slots","limit":1,"on_exceed":"deny"},
            {"id":"daily","scope":"device","counts":{"issued_within_seconds":3600},"limit":1,
             "on_exceed":"deny"}]"#,
    );
    device.record(reserved(&kids([1]), None, device.now_ms + 1000, device.now_ms));
    let refused = denied(&mut device, &Ask::new(1, &kids([2])));
    assert_eq!((refused.rule.as_str(), refused.counted[0].reserved), ("slots", true));
    device.policy.rules.remove(0);
    assert_eq!(denied(&mut device, &Ask::new(2, &kids([2]))).in_use.live, 1);
    device.wait(1000);
    device.granted(&Ask::new(3, &kids([2])));
}

#[test]
fn answer_rests_on_the_rule_that_denies_else_on_the_tightest() {
    let device = under(
        r#"[{"id":"loose","scope":"device","counts":"live_slots","limit":9,"on_exceed":"deny"},
            {"id":"tight","scope":"device","counts":{"issued_within_seconds":60},"limit":2,
             "on_exceed":"deny"}]"#,
    );
    let decisive = |wanted: &[KeyId]| {
        let explanation = device.explain(wanted);
        let rule = explanation.decisive().unwrap();
        (explanation.verdict, rule.rule.clone())
    };
    assert_eq!(decisive(&kids([1])), (Verdict::Allow, "tight".to_owned()));
    assert_eq!(decisive(&kids([1, 2, 3])), (Verdict::Deny, "tight".to_owned()));
    assert_eq!(decisive(&kids(1..20)), (Verdict::Deny, "loose".to_owned()));
}

#[test]
fn weakly_released_licenses_are_possible_and_do_not_count() {
    let mut device = Scenario::with_room_for(2);
    device.granted(&Ask::new(1, &kids([1])));
    device.granted(&Ask::new(2, &kids([2])));
    device.delete(&Removal { chain_revoked: true, ..Removal::new(1, &kids([1])) });
    device.delete(&Removal::new(2, &kids([2])));
    let in_use = device.explain(&[]).rules[0].in_use;
    assert_eq!(in_use, InUse { confirmed: 0, live: 0, possible: 1 });
    assert_eq!(device.name, device_ref());
}

fn reserved(kids: &[KeyId], account: Option<&str>, expires_ms: i64, at_ms: i64) -> Event {
    let slots = kids.iter().map(|key_id| ReservedSlot {
        license_id: LicenseId(Uuid::from_u128(key_id.0.as_u128() + 77)),
        key_id: *key_id,
        title: None,
        content_group: None,
    });
    Event::ReservationMade(ReservationMade {
        reservation_id: Uuid::from_u128(7),
        slots: slots.collect(),
        account: account.map(account_ref),
        expires_ms,
        security_level: None,
        model: String::new(),
        quota_policy_revision: 0,
        overage: false,
        actor: "back end".to_owned(),
        at_ms,
    })
}

#[test]
fn a_window_frees_by_what_it_counts_and_by_reservations_that_end_sooner() {
    let mut device = under(
        r#"[{"id":"uhd","scope":"device","counts":{"issued_within_seconds":3600},"limit":1,
            "on_exceed":"deny","when":{"content_groups":["uhd"]}},
            {"id":"all","scope":"device","counts":{"issued_within_seconds":3600},"limit":9,
            "on_exceed":"deny"}]"#,
    );
    let first_ms = device.now_ms;
    device.granted(&Ask::new(1, &kids([1])));
    device.wait(1000);
    device.granted(&Ask::new(2, &kids([2])).in_group("uhd"));
    let refused = denied(&mut device, &Ask::new(3, &kids([3])).in_group("uhd"));
    assert_eq!(refused.next_free_at_ms, Some(first_ms + 1000 + 3_600_000), "of the group only");
    let expires_ms = device.now_ms + 60_000;
    device.record(reserved(&kids([4]), None, expires_ms, device.now_ms));
    let rules = device.explain(&kids([5])).rules;
    assert_eq!(rules[0].next_free_at_ms, Some(first_ms + 1000 + 3_600_000));
    assert_eq!(rules[1].next_free_at_ms, Some(expires_ms));
}

#[test]
fn an_account_window_frees_by_licenses_of_the_devices_that_it_is_about() {
    let mut device = under(
        r#"[{"id":"tvs","scope":"account","counts":{"issued_within_seconds":3600},"limit":1,
            "on_exceed":"deny","when":{"device_classes":["tv"]}}]"#,
    );
    let of_phone = SlotTaken {
        license_id: LicenseId(Uuid::from_u128(9)),
        device: "a".repeat(26).parse().unwrap(),
        key_id: kid(9),
        counted_until_ms: None,
        title: None,
        content_group: None,
        security_level: Some(3000),
        model: "Acme Phone".to_owned(),
        reserved: false,
        at_ms: device.now_ms,
    };
    let family = device.accounts.entry(account_ref("family")).or_default();
    family.evolve(&Event::SlotTaken(of_phone));
    device.wait(1000);
    device.granted(&Ask::new(1, &kids([1])).paid_by("family"));
    let refused = denied(&mut device, &Ask::new(2, &kids([2])).paid_by("family"));
    assert_eq!(refused.next_free_at_ms, Some(device.now_ms + 3_600_000));
}

const CHURN: &str = r#"[{"id":"churn","scope":"account",
    "counts":{"devices_added_within_seconds":3600},"limit":0,"on_exceed":"deny"}]"#;

#[test]
fn an_abandoned_reservation_adds_no_device() {
    let mut device = under(CHURN);
    device.policy.rules[0].limit = 1;
    let expires_ms = device.now_ms + 60_000;
    device.record(reserved(&kids([1, 2]), Some("family"), expires_ms, device.now_ms));
    // While it lasts it holds the device's place, which the device itself may take.
    device.policy.rules[0].limit = 0;
    device.granted(&Ask::new(1, &kids([3])).paid_by("family"));

    let mut other = under(CHURN);
    other.policy.rules[0].limit = 1;
    other.accounts = std::mem::take(&mut device.accounts);
    other.name = "b".repeat(26).parse().unwrap();
    let refused = denied(&mut other, &Ask::new(2, &kids([4])).paid_by("family"));
    assert_eq!((refused.in_use.live, refused.requested), (1, 1));

    let mut abandoned = under(CHURN);
    abandoned.policy.rules[0].limit = 1;
    abandoned.record(reserved(&kids([1]), Some("office"), expires_ms, abandoned.now_ms));
    other.accounts = std::mem::take(&mut abandoned.accounts);
    let refused = denied(&mut other, &Ask::new(3, &kids([5])).paid_by("office"));
    assert_eq!(refused.next_free_at_ms, Some(expires_ms));
    other.wait(60_000);
    other.granted(&Ask::new(4, &kids([5])).paid_by("office"));
    let members = other.accounts[&account_ref("office")].members();
    assert_eq!(members.map(|(name, _)| name).collect::<Vec<_>>(), [&other.name]);
}

#[test]
fn more_devices_added_than_are_remembered_exceed_every_such_rule() {
    let mut device = under(
        r#"[{"id":"tvs","scope":"account","counts":{"devices_added_within_seconds":3600},
            "limit":5,"on_exceed":"deny","when":{"device_classes":["tv"]}}]"#,
    );
    let family = device.accounts.entry(account_ref("family")).or_default();
    for number in 0..=256_u16 {
        let of = crate::domain::ReferenceKey::new([7; 32]).device(&number.to_string());
        family.evolve(&Event::SlotTaken(SlotTaken {
            license_id: LicenseId(Uuid::from_u128(u128::from(number) + 1)),
            device: of,
            key_id: kid(9),
            counted_until_ms: Some(device.now_ms + 1),
            title: None,
            content_group: None,
            security_level: Some(3000),
            model: "Acme Phone".to_owned(),
            reserved: false,
            at_ms: device.now_ms + i64::from(number / 256),
        }));
    }
    device.wait(1000);
    let refused = denied(&mut device, &Ask::new(1, &kids([1])).paid_by("family"));
    assert_eq!((refused.rule.as_str(), refused.in_use.live), ("tvs", 0));
    device.wait(3_600_000);
    device.granted(&Ask::new(2, &kids([1])).paid_by("family"));
}

#[test]
fn a_device_that_was_just_used_is_remembered_however_long_ago_it_was_added() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let mut device = under(
        r#"[{"id":"tvs","scope":"account","counts":{"issued_within_seconds":3600},"limit":1,
            "on_exceed":"deny","when":{"device_classes":["tv"]}},
            {"id":"churn","scope":"account","counts":{"devices_added_within_seconds":3600},
            "limit":9,"on_exceed":"deny"}]"#,
    );
    // Each license is gone a millisecond later.
    let taken = |number: u16, model: &str, at_ms: i64| {
        Event::SlotTaken(SlotTaken {
            license_id: LicenseId(Uuid::from_u128(u128::from(number) + 1)),
            device: crate::domain::ReferenceKey::new([7; 32]).device(&number.to_string()),
            key_id: kid(9),
            counted_until_ms: Some(at_ms + 1),
            title: None,
            content_group: None,
            security_level: Some(3000),
            model: model.to_owned(),
            reserved: false,
            at_ms,
        })
    };
    let start_ms = device.now_ms;
    // Others were added since in its place; or it was more than a year ago.
    for (others, days) in [(255, vec![0, 2]), (1, vec![0, 300, 370])] {
        let mut family = Account::default();
        let mut used_ms = start_ms;
        for day in days {
            used_ms = start_ms + day * DAY_MS;
            family.evolve(&taken(0, "Example TV 1", used_ms));
            for number in (1..=others).filter(|_| day == 0) {
                family.evolve(&taken(number, "Acme Phone", used_ms + i64::from(number) * 2));
            }
        }
        family.evolve(&taken(256, "Acme Phone", used_ms + 2));
        device.accounts.insert(account_ref("family"), family);
        device.now_ms = used_ms + 1000;
        let refused = denied(&mut device, &Ask::new(1, &kids([1])).paid_by("family"));
        assert_eq!((refused.rule.as_str(), refused.in_use.live), ("tvs", 1), "{others}");
        let usage =
            Usage { account: device.accounts.get(&account_ref("family")), ..device.usage() };
        let churn = usage.explain(&[]).rules.pop().unwrap();
        assert_eq!((churn.rule.as_str(), churn.in_use.live), ("churn", 1));
    }
}
