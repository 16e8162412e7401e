//! How much of each rule is in use, when nobody asks for more.

use uuid::Uuid;

use super::account::Account;
use super::device::Device;
use super::ids::{DeviceRef, KeyId};
use super::quota::{QuotaPolicy, Scope};
use super::usage::{RuleUse, Usage, Wanted};

/// What the rules on devices that apply to this one count.
pub fn of_device(
    device: &Device,
    name: &DeviceRef,
    policy: &QuotaPolicy,
    now_ms: i64,
) -> Vec<RuleUse> {
    let (security_level, model) = (device.security_level, device.model.as_str());
    let usage = Usage { device, name, account: None, policy, security_level, model, now_ms };
    usage.explain(&[]).rules
}

/// What the rules on accounts count of this one, those on titles for each of `titles`; a rule with a
/// condition on devices counts those that meet it. `any` is any device's name.
pub fn of_account(
    account: &Account,
    any: &DeviceRef,
    titles: &[&str],
    policy: &QuotaPolicy,
    now_ms: i64,
) -> Vec<RuleUse> {
    // Nothing is known of the device that a next license would be for, so that every rule applies.
    let usage = Usage {
        device: &Device::default(),
        name: any,
        account: Some(account),
        policy,
        security_level: None,
        model: "",
        now_ms,
    };
    // Rules on titles count those that are asked for.
    let key_id = KeyId(Uuid::nil());
    let wanted =
        titles.iter().map(|title| Wanted { key_id, title: Some(title), content_group: None });
    let mut rules = usage.explain(&wanted.collect::<Vec<_>>()).rules;
    rules.retain(|rule| rule.scope != Scope::Device);
    rules
}

/// How much more is in use than the rule allows without overage.
pub fn beyond(rule: &RuleUse) -> u32 {
    rule.in_use.live.saturating_sub(rule.limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Event, SlotTaken};
    use crate::domain::ids::LicenseId;

    fn taken(device: &str, number: u128, title: &str, model: &str) -> Event {
        Event::SlotTaken(SlotTaken {
            license_id: LicenseId(Uuid::from_u128(number)),
            device: device.repeat(26).parse().unwrap(),
            key_id: KeyId(Uuid::from_u128(number)),
            counted_until_ms: None,
            title: Some(title.to_owned()),
            content_group: None,
            security_level: Some(3000),
            model: model.to_owned(),
            reserved: false,
            at_ms: 1,
        })
    }

    #[test]
    fn an_account_is_counted_by_each_of_its_rules_and_titles() {
        let policy = serde_json::json!({
            "rules": [
                {"id": "device-slots", "scope": "device", "counts": "live_slots", "limit": 0,
                    "on_exceed": "deny"},
                {"id": "slots", "scope": "account", "counts": "live_slots", "limit": 2,
                    "on_exceed": "deny"},
                {"id": "tv-slots", "scope": "account", "counts": "live_slots", "limit": 5,
                    "on_exceed": "deny", "when": {"device_classes": ["tv"]}},
                {"id": "copies", "scope": "account_title", "counts": "live_slots", "limit": 1,
                    "on_exceed": "deny"},
            ],
            "licenses_per_slot": 16, "releasing_grades": [], "default": "deny",
            "device_classes": {"tv": ["Acme TV"]},
        });
        let policy: QuotaPolicy = serde_json::from_value(policy).unwrap();
        let mut account = Account::default();
        for event in [
            taken("a", 1, "film", "Acme TV 7"),
            taken("b", 2, "film", "Acme Phone 3"),
            taken("b", 3, "series", "Acme Phone 3"),
        ] {
            account.evolve(&event);
        }
        let any = "z".repeat(26).parse().unwrap();
        let counted = |titles: &[&str]| -> Vec<(String, u32, u32)> {
            let rules = of_account(&account, &any, titles, &policy, 2);
            rules.iter().map(|r| (r.rule.clone(), r.in_use.live, beyond(r))).collect()
        };
        let rule = |id: &str, live, beyond| (id.to_owned(), live, beyond);
        let of_account = [rule("slots", 3, 1), rule("tv-slots", 1, 0)];
        assert_eq!(counted(&[]), of_account);
        let of_titles = [rule("copies", 2, 1), rule("copies", 1, 0)];
        assert_eq!(counted(&["film", "series"]), [of_account, of_titles].concat());
    }
}
