use super::*;
use crate::domain::ReferenceKey;
use crate::playready::policy::{Data, OutputProtection};

const NOW_S: u64 = 1_700_000_000;

fn plain() -> LicensePolicy {
    LicensePolicy::new(SecurityLevel::Test)
}

/// The text of a refusal, if the policy is refused.
fn refusal(policy: &LicensePolicy) -> Option<String> {
    fitted(policy, NOW_S).err().map(|refused| refused.to_string())
}

#[test]
fn a_policy_that_allows_storing_is_issued_without_it() {
    let stored = LicensePolicy { persist: true, play_enablers: vec![uuid::Uuid::nil()], ..plain() };
    let given = fitted(&stored, NOW_S).unwrap();
    assert_eq!(given, LicensePolicy { persist: false, ..stored });
}

#[test]
fn a_security_level_above_the_lowest_is_refused() {
    for sl in [SecurityLevel::Software, SecurityLevel::Hardware] {
        let refused = refusal(&LicensePolicy { sl, ..plain() }).unwrap();
        let said = format!(r#""error":"security_level","required":{},"device":150"#, sl.number());
        assert!(refused.contains(&said), "{refused}");
    }
}

#[test]
fn a_window_holds_from_its_begin_to_its_end_and_grace() {
    let now = u32::try_from(NOW_S).unwrap();
    let between =
        |begin, end, grace_seconds| LicensePolicy { begin, end, grace_seconds, ..plain() };
    for fits in [
        between(Some(now), None, None),
        between(None, Some(now + 1), None),
        between(Some(now - 1), Some(now + 1), None),
        between(None, Some(now - 10), Some(11)),
        // An end and a grace that together do not fit into 32 bits.
        between(None, Some(u32::MAX), Some(u32::MAX)),
    ] {
        // Recorded as it is: what was granted can be read from the event.
        assert_eq!(fitted(&fits, NOW_S).unwrap(), fits);
    }
    for (early_or_late, word) in [
        (between(Some(now + 1), None, None), "begin"),
        (between(None, Some(now), None), "ended"),
        (between(None, Some(now - 10), Some(10)), "ended"),
    ] {
        let refused = refusal(&early_or_late).unwrap();
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn conditions_that_only_a_client_keeps_are_refused_by_name() {
    let id = policy::BinaryId([1; 16]);
    let protection = || vec![OutputProtection { id: uuid::Uuid::nil(), data: Data(Vec::new()) }];
    let restriction = vec![policy::ExtendedRestriction {
        kind: 400,
        must_understand: false,
        best_effort: false,
        data: Data(Vec::new()),
    }];
    let rows = [
        ("first_play_seconds", LicensePolicy { first_play_seconds: Some(1), ..plain() }),
        ("real_time", LicensePolicy { real_time: true, end: Some(u32::MAX), ..plain() }),
        ("removal", LicensePolicy { removal: Some(u32::MAX), persist: true, ..plain() }),
        ("source_id", LicensePolicy { source_id: Some(0), ..plain() }),
        ("metering_id", LicensePolicy { metering_id: Some(id), ..plain() }),
        ("secure_stop_id", LicensePolicy { secure_stop_id: Some(id), ..plain() }),
        (
            "domain",
            LicensePolicy {
                domain: Some(policy::DomainBinding { account_id: id, revision: 0 }),
                ..plain()
            },
        ),
        ("extended_restrictions", LicensePolicy { extended_restrictions: restriction, ..plain() }),
        ("caopl", LicensePolicy { caopl: 1, ..plain() }),
        ("ucaopl", LicensePolicy { ucaopl: 1, ..plain() }),
        ("cvopl", LicensePolicy { cvopl: 1, ..plain() }),
        ("ucvopl", LicensePolicy { ucvopl: 1, ..plain() }),
        ("avopl", LicensePolicy { avopl: 1, ..plain() }),
        ("dvop", LicensePolicy { dvop: protection(), ..plain() }),
        ("daop", LicensePolicy { daop: protection(), ..plain() }),
        ("avop", LicensePolicy { avop: protection(), ..plain() }),
    ];
    for (name, policy) in rows {
        let refused = refusal(&policy).unwrap_or_default();
        assert!(refused.contains(&format!("sets {name},")), "{name}: {refused:?}");
    }
}

#[test]
fn a_nonce_follows_from_what_can_come_again() {
    let [a, b] = [b"a", b"b"].map(|bytes| Digest::of(bytes));
    assert_eq!(nonce_of(None, None, a), None);
    let nonces = [
        nonce_of(Some("x"), None, a),
        nonce_of(Some("y"), None, a),
        nonce_of(None, Some(a), a),
        nonce_of(None, Some(a), b),
        nonce_of(None, Some(b), a),
    ];
    let distinct: std::collections::HashSet<_> = nonces.iter().flatten().collect();
    assert_eq!(distinct.len(), nonces.len());
    // Other bytes under the same key are to be noticed, so the key alone counts.
    assert_eq!(nonce_of(Some("x"), Some(a), b), nonces[0]);
    assert_eq!(nonce_of(None, Some(a), a), nonces[2]);
}

#[test]
fn an_identity_follows_from_the_device_and_hashes_what_no_key_can_be() {
    let reference = ReferenceKey::new([7; 32]);
    let [phone, tablet] = ["phone", "tablet"].map(|name| identity_of(&reference.device(name)));
    assert_ne!(phone, tablet);
    assert_eq!(phone, identity_of(&reference.device("phone")));
    // SHA-256 of "license-ledger clear key identity clxoin3sng2mp6etv3rgayrqnu", by coreutils.
    let device = "clxoin3sng2mp6etv3rgayrqnu".parse::<DeviceRef>().unwrap();
    let hashed = format!("license-ledger clear key identity {device}");
    assert_ne!(hashed.len(), 64, "a SIGN key has 64 bytes");
    assert_eq!(identity_of(&device).to_string(), IDENTITY);
}

const IDENTITY: &str = "e40d5d4ea02f188c5ce2b44ba6f35cd444a75d35d512e2440e2290610dfa0b96";
