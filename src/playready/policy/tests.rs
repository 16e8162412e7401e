use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::playready::content_key::KeyType;

prop_compose! {
    fn times()(
        begin in option::of(1u32..u32::MAX),
        end in option::of(0u32..u32::MAX),
        first_play_seconds in option::of(any::<u32>()),
        removal in option::of(any::<u32>()),
        grace_seconds in option::of(any::<u32>()),
        real_time: bool,
        persist: bool,
    ) -> LicensePolicy {
        LicensePolicy {
            begin, end, first_play_seconds, removal, grace_seconds, real_time, persist,
            ..LicensePolicy::new(SecurityLevel::Hardware)
        }
    }
}

fn protections() -> impl Strategy<Value = Vec<OutputProtection>> {
    let one = (any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..12))
        .prop_map(|(id, data)| OutputProtection { id: Uuid::from_bytes(id), data: Data(data) });
    prop::collection::vec(one, 0..4)
}

prop_compose! {
    fn restriction()(
        kind in EXTENDED_RESTRICTION_TYPES,
        must_understand: bool,
        best_effort: bool,
        data in prop::collection::vec(any::<u8>(), 0..12),
    ) -> ExtendedRestriction {
        ExtendedRestriction { kind, must_understand, best_effort, data: Data(data) }
    }
}

prop_compose! {
    /// Any policy that has a wire form, conflicting ones included.
    pub(crate) fn any_policy()(
        base in times(),
        sl in prop::sample::select(vec![150u16, 2000, 3000]),
        source_id in option::of(any::<u32>()),
        ids in prop::array::uniform3(option::of(any::<[u8; 16]>())),
        revision: u32,
        levels in prop::array::uniform5(0..=OUTPUT_LEVEL_MAX),
        dvop in protections(),
        daop in protections(),
        avop in protections(),
        extended_restrictions in prop::collection::vec(restriction(), 0..4),
        play_enablers in prop::collection::vec(any::<[u8; 16]>(), 0..4),
    ) -> LicensePolicy {
        let [metering_id, secure_stop_id, account] = ids.map(|id| id.map(BinaryId));
        let [caopl, ucaopl, cvopl, ucvopl, avopl] = levels;
        LicensePolicy {
            sl: sl.try_into().unwrap(),
            source_id, metering_id, secure_stop_id,
            domain: account.map(|account_id| DomainBinding { account_id, revision }),
            caopl, ucaopl, cvopl, ucvopl, avopl, dvop, daop, avop, extended_restrictions,
            play_enablers: play_enablers.into_iter().map(Uuid::from_bytes).collect(),
            ..base
        }
    }
}

const NOW_S: u64 = 1_700_000_000;

fn client() -> Client {
    Client { security_level: 2000, version_major: 10, time_s: Some(NOW_S), reads_cbc: true }
}

fn policy() -> LicensePolicy {
    LicensePolicy::new(SecurityLevel::Software)
}

proptest! {
    #[test]
    fn stored_policies_are_read_back(policy in any_policy()) {
        let json = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<LicensePolicy>(&json).unwrap(), policy);
    }
}

#[test]
fn the_stored_form_is_frozen() {
    assert_eq!(serde_json::to_string(&policy()).unwrap(), r#"{"sl":2000}"#);
    let full = LicensePolicy {
        persist: true,
        begin: Some(1),
        end: Some(2),
        first_play_seconds: Some(3),
        real_time: true,
        removal: Some(4),
        grace_seconds: Some(5),
        source_id: Some(6),
        metering_id: Some(BinaryId([7; 16])),
        secure_stop_id: Some(BinaryId([8; 16])),
        domain: Some(DomainBinding { account_id: BinaryId([9; 16]), revision: 10 }),
        caopl: 11,
        ucaopl: 12,
        cvopl: 13,
        ucvopl: 14,
        avopl: 15,
        dvop: vec![OutputProtection { id: Uuid::from_u128(16), data: Data(vec![17]) }],
        daop: vec![OutputProtection { id: Uuid::from_u128(18), data: Data(vec![]) }],
        avop: vec![OutputProtection { id: Uuid::from_u128(19), data: Data(vec![20]) }],
        extended_restrictions: vec![ExtendedRestriction {
            kind: 400,
            must_understand: false,
            best_effort: true,
            data: Data(vec![21]),
        }],
        play_enablers: vec![Uuid::from_u128(22)],
        ..policy()
    };
    let stored = concat!(
        r#"{"sl":2000,"persist":true,"begin":1,"end":2,"first_play_seconds":3,"real_time":true,"#,
        r#""removal":4,"grace_seconds":5,"source_id":6,"metering_id":"BwcHBwcHBwcHBwcHBwcHBw==","#,
        r#""secure_stop_id":"CAgICAgICAgICAgICAgICA==","#,
        r#""domain":{"account_id":"CQkJCQkJCQkJCQkJCQkJCQ==","revision":10},"#,
        r#""caopl":11,"ucaopl":12,"cvopl":13,"ucvopl":14,"avopl":15,"#,
        r#""dvop":[{"id":"00000000-0000-0000-0000-000000000010","data":"EQ=="}],"#,
        r#""daop":[{"id":"00000000-0000-0000-0000-000000000012","data":""}],"#,
        r#""avop":[{"id":"00000000-0000-0000-0000-000000000013","data":"FA=="}],"#,
        r#""extended_restrictions":[{"type":400,"must_understand":false,"best_effort":true,"#,
        r#""data":"FQ=="}],"play_enablers":["00000000-0000-0000-0000-000000000016"]}"#,
    );
    assert_eq!(serde_json::to_string(&full).unwrap(), stored);
    assert_eq!(serde_json::from_str::<LicensePolicy>(stored).unwrap(), full);
}

#[test]
fn unknown_members_and_values_are_refused() {
    for json in [
        r#"{}"#,
        r#"{"sl":151}"#,
        r#"{"sl":2000,"persistent":true}"#,
        r#"{"sl":2000,"metering_id":"AA=="}"#,
        r#"{"sl":2000,"dvop":[{"id":"00000000-0000-0000-0000-000000000010","data":"A"}]}"#,
    ] {
        assert!(serde_json::from_str::<LicensePolicy>(json).is_err(), "{json}");
    }
}

#[test]
fn conflicting_conditions_are_named() {
    let id = Some(BinaryId([1; 16]));
    let base = policy();
    let restriction = ExtendedRestriction {
        kind: 400,
        must_understand: true,
        best_effort: false,
        data: Data::default(),
    };
    let removal = LicensePolicy { persist: true, removal: Some(9), ..base.clone() };
    let excludes = Conflict::RemovalExcludesOtherLimits;
    for (policy, expected) in [
        (base.clone(), Ok(())),
        (removal.clone(), Ok(())),
        (LicensePolicy { secure_stop_id: id, ..base.clone() }, Ok(())),
        (
            LicensePolicy { begin: Some(2), end: Some(2), ..base.clone() },
            Err(Conflict::BeginNotBeforeEnd),
        ),
        (LicensePolicy { begin: Some(1), end: Some(2), ..base.clone() }, Ok(())),
        (LicensePolicy { removal: Some(9), ..base.clone() }, Err(Conflict::RemovalNeedsPersistent)),
        (LicensePolicy { begin: Some(1), ..removal.clone() }, Err(excludes)),
        (LicensePolicy { end: Some(1), ..removal.clone() }, Err(excludes)),
        (LicensePolicy { first_play_seconds: Some(1), ..removal.clone() }, Err(excludes)),
        (LicensePolicy { metering_id: id, ..removal.clone() }, Err(excludes)),
        (LicensePolicy { extended_restrictions: vec![restriction], ..removal }, Err(excludes)),
        (LicensePolicy { real_time: true, ..base.clone() }, Err(Conflict::RealtimeNeedsExpiration)),
        (LicensePolicy { real_time: true, end: Some(1), ..base.clone() }, Ok(())),
        (LicensePolicy { real_time: true, first_play_seconds: Some(1), ..base.clone() }, Ok(())),
        (LicensePolicy { grace_seconds: Some(1), ..base.clone() }, Err(Conflict::GraceNeedsEnd)),
        (
            LicensePolicy { persist: true, secure_stop_id: id, ..base },
            Err(Conflict::SecureStopNeedsNonPersistent),
        ),
    ] {
        assert_eq!(policy.check(), expected, "{policy:?}");
    }
}

#[test]
fn a_member_out_of_its_range_is_named_whatever_a_policy_comes_from() {
    let with = |json: &str| {
        let policy: LicensePolicy =
            serde_json::from_str(&format!(r#"{{"sl":2000,{json}}}"#)).unwrap();
        policy.check().map_err(|conflict| conflict.to_string())
    };
    let restriction = |kind: u32| {
        let one =
            format!(r#"{{"type":{kind},"must_understand":true,"best_effort":false,"data":""}}"#);
        format!(r#""extended_restrictions":[{one}]"#)
    };
    let enablers = |count: usize| {
        let ids = vec![r#""00000000-0000-0000-0000-000000000016""#; count].join(",");
        format!(r#""play_enablers":[{ids}]"#)
    };
    let data = |protection: usize, restriction: usize| {
        let [protection, restriction] =
            [protection, restriction].map(|bytes| BASE64.encode(&vec![7; bytes]));
        let id = "00000000-0000-0000-0000-000000000016";
        let flags = r#""must_understand":true,"best_effort":false"#;
        format!(
            r#""daop":[{{"id":"{id}","data":"{protection}"}}],
            "extended_restrictions":[{{"type":256,{flags},"data":"{restriction}"}}]"#
        )
    };
    for (wrong, named) in [
        (r#""begin":0"#, "begin: must be 1 or more"),
        (r#""begin":0,"end":5"#, "begin: must be 1 or more"),
        (r#""end":4294967295"#, "end: must be at most 4294967294"),
        (r#""first_play_seconds":0"#, "first_play_seconds: must be 1 or more"),
        (r#""caopl":1000"#, "caopl: must be 0 to 999"),
        (r#""ucaopl":1000"#, "ucaopl: must be 0 to 999"),
        (r#""cvopl":65535"#, "cvopl: must be 0 to 999"),
        (r#""ucvopl":1000"#, "ucvopl: must be 0 to 999"),
        (r#""avopl":1000"#, "avopl: must be 0 to 999"),
        (&restriction(5), "extended_restrictions: each type must be 256 to 65532"),
        (&restriction(255), "extended_restrictions: each type must be 256 to 65532"),
        (&restriction(65533), "extended_restrictions: each type must be 256 to 65532"),
        (&enablers(225), "dvop: dvop, daop, avop, extended_restrictions and play_enablers must"),
        (&data(2048, 2049), "dvop: the data of dvop, daop, avop and extended_restrictions must"),
    ] {
        let refused = with(wrong).unwrap_err();
        assert!(refused.starts_with(named), "{wrong}: {refused}");
    }
    for right in [
        r#""begin":1,"end":4294967294"#,
        r#""first_play_seconds":1"#,
        r#""caopl":999,"ucaopl":999,"cvopl":999,"ucvopl":999,"avopl":999"#,
        &restriction(256),
        &restriction(65532),
        &enablers(224),
        &data(2048, 2048),
    ] {
        assert_eq!(with(right), Ok(()), "{right}");
    }
}

#[test]
fn an_end_without_a_begin_begins_at_the_clients_time() {
    let policy = LicensePolicy { end: Some(1_800_000_000), ..policy() };
    let begin = |client: Client| {
        policy.effective(&client, KeyType::AesCtr, NOW_S).map(|effective| effective.begin)
    };
    for time_s in [NOW_S - 3600, NOW_S, NOW_S + 3600] {
        let client = Client { time_s: Some(time_s), ..client() };
        assert_eq!(begin(client), Ok(Some(u32::try_from(time_s).unwrap())));
    }
    for time_s in [NOW_S - 3601, NOW_S + 3601, u64::MAX] {
        let client = Client { time_s: Some(time_s), ..client() };
        assert_eq!(begin(client), Err(Refusal::ClockSkew { server_time: NOW_S }));
    }
    let over = LicensePolicy { end: Some(1_700_000_000), ..policy.clone() };
    let outcome = over.effective(&client(), KeyType::AesCtr, NOW_S);
    assert_eq!(outcome, Err(Conflict::BeginNotBeforeEnd.into()));
    let margin = Ok(Some(1_699_999_700));
    assert_eq!(begin(Client { time_s: None, ..client() }), margin);
    assert_eq!(begin(Client { version_major: 2, time_s: Some(5), ..client() }), margin);
}

#[test]
fn an_explicit_begin_is_kept_and_no_end_needs_none() {
    let skewed = Client { time_s: Some(5), ..client() };
    let explicit = LicensePolicy { begin: Some(7), end: Some(u32::MAX - 1), ..policy() };
    assert_eq!(explicit.effective(&skewed, KeyType::AesCtr, NOW_S), Ok(explicit.clone()));
    assert_eq!(policy().effective(&skewed, KeyType::AesCtr, NOW_S), Ok(policy()));
}

#[test]
fn what_is_over_already_is_refused_by_name() {
    let now = u32::try_from(NOW_S).unwrap();
    let outcome = |policy: LicensePolicy| {
        policy.effective(&client(), KeyType::AesCtr, NOW_S).map(drop).map_err(|e| e.to_string())
    };
    let ending = |end, grace_seconds| LicensePolicy {
        begin: Some(5),
        end: Some(end),
        grace_seconds,
        ..policy()
    };
    let removed = |at| LicensePolicy { persist: true, removal: Some(at), ..policy() };
    for live in
        [ending(now + 1, None), ending(now, Some(1)), ending(100, Some(u32::MAX)), removed(now + 1)]
    {
        assert_eq!(outcome(live.clone()), Ok(()), "{live:?}");
    }
    for (over, named) in [
        (ending(100, None), "end_passed"),
        (ending(now, None), "end_passed"),
        (ending(now - 1, Some(1)), "end_passed"),
        (removed(0), "removal_passed"),
        (removed(now), "removal_passed"),
    ] {
        let named = format!("invalid_policy: {named}");
        assert_eq!(outcome(over.clone()), Err(named), "{over:?}");
    }
}

#[test]
fn clients_that_cannot_keep_a_condition_are_refused() {
    let real_time = LicensePolicy { real_time: true, first_play_seconds: Some(1), ..policy() };
    let old = Client { version_major: 2, ..client() };
    let outcome = real_time.effective(&old, KeyType::AesCtr, NOW_S);
    assert_eq!(outcome, Err(Refusal::RealtimeUnsupported));
    assert!(real_time.effective(&client(), KeyType::AesCtr, NOW_S).is_ok());

    let no_cbc = Client { reads_cbc: false, ..client() };
    let outcome = policy().effective(&no_cbc, KeyType::AesCbc, NOW_S);
    assert_eq!(outcome, Err(Refusal::AescbcUnsupported));
    assert!(policy().effective(&no_cbc, KeyType::AesCtr, NOW_S).is_ok());

    let test = Client { security_level: 150, ..client() };
    let outcome = policy().effective(&test, KeyType::AesCtr, NOW_S);
    assert_eq!(outcome, Err(Refusal::SecurityLevel { required: 2000, device: 150 }));
    let hardware = Client { security_level: 3000, ..client() };
    assert!(policy().effective(&hardware, KeyType::AesCtr, NOW_S).is_ok());
}

#[test]
fn a_license_counts_until_its_removal_or_its_end_and_grace() {
    let until = |policy: LicensePolicy| policy.counted_until_s();
    assert_eq!(until(policy()), None);
    assert_eq!(until(LicensePolicy { first_play_seconds: Some(1), ..policy() }), None);
    assert_eq!(until(LicensePolicy { removal: Some(9), ..policy() }), Some(9));
    assert_eq!(until(LicensePolicy { end: Some(9), ..policy() }), Some(9));
    let grace = LicensePolicy { end: Some(u32::MAX - 1), grace_seconds: Some(9), ..policy() };
    assert_eq!(until(grace), Some(u64::from(u32::MAX) + 8));
}
