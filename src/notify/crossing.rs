//! When a device or an account comes near a limit: shares of it that are in use.
//!
//! Counted as decisions count, by folding the events of the holder, and at the time of each event;
//! by every rule of the policy that is about the holder, with its conditions, and with the limit that
//! an override puts in its place. Rules on titles are asked about the title of the license that is
//! taken. A share is reached once each time the use grows past it; it falls below by a release, by
//! expiry or when a window has passed. Of several rules of which one event makes the same share
//! reached, the one with the least room left is told. A change of the policy reaches nothing by
//! itself: what is taken next does.

use serde::{Deserialize, Serialize};

use crate::domain::account::Account;
use crate::domain::event::SlotEnd;
use crate::domain::quota::{QuotaPolicy, Scope};
use crate::domain::standing::{of_account, of_device};
use crate::domain::usage::RuleUse;
use crate::domain::{Device, DeviceRef, Event};
use crate::ledger::state::store::{ACCOUNT_STREAM, DEVICE_STREAM};

/// A share of a limit, reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crossing {
    /// Whose use the rule counts.
    pub(super) scope: Scope,
    /// The rule.
    pub(super) rule: String,
    /// How far it looks back; absent if it counts live slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) window_seconds: Option<u32>,
    /// The title that it counts, if it counts titles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<String>,
    /// Its limit.
    pub(super) limit: u32,
    /// The share that was reached.
    pub(super) threshold_percent: u8,
    /// What it counts with the event.
    pub(super) live: u32,
    /// Revision of the `policy` stream.
    pub(super) quota_policy_revision: u64,
}

/// Who holds slots, as its stream says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The device; of an account a name that no device has.
    name: DeviceRef,
    who: Who,
    /// When reservations were last closed, and the holder before: a license in the place of a
    /// reservation reaches nothing anew.
    before_closing: Option<(i64, Who)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Who {
    Device(Box<Device>),
    Account(Box<Account>),
}

/// The policy in force and its revision.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) policy: QuotaPolicy,
    pub(super) revision: u64,
}

impl Who {
    fn evolve(&mut self, event: &Event) {
        match self {
            Self::Device(device) => device.evolve(event),
            Self::Account(account) => account.evolve(event),
        }
    }
}

impl Holder {
    /// The holder whose events a stream has, as it is before them; `None` if nobody's.
    pub(super) fn of_stream(stream: &str) -> Option<Self> {
        let (who, name) = if let Some(device) = stream.strip_prefix(DEVICE_STREAM) {
            (Who::Device(Box::default()), device)
        } else {
            (Who::Account(Box::default()), stream.strip_prefix(ACCOUNT_STREAM)?)
        };
        // References of accounts have the form of those of devices.
        Some(Self { name: name.parse().ok()?, who, before_closing: None })
    }

    /// Applies an event, and tells which shares (`percents` of a limit) it makes the holder reach.
    pub(super) fn evolve(
        &mut self,
        event: &Event,
        in_force: Option<&InForce>,
        percents: &[u8],
    ) -> Vec<Crossing> {
        let now_ms = event.at_ms();
        self.before_closing.take_if(|(at_ms, _)| *at_ms != now_ms);
        if closes_reservation(event) && self.before_closing.is_none() {
            self.before_closing = Some((now_ms, self.who.clone()));
        }
        let Some(in_force) = in_force.filter(|_| takes(event)) else {
            self.who.evolve(event);
            return Vec::new();
        };
        let title = title(event);
        let count = |who: &Who| self.count(who, title, &in_force.policy, now_ms);
        let mut before = count(&self.who);
        before.extend(self.before_closing.iter().flat_map(|(_, who)| count(who)));
        self.who.evolve(event);
        let after = self.count(&self.who, title, &in_force.policy, now_ms);
        let reached = |percent: &u8| {
            let reached = after.iter().filter(|rule| is_reached(rule, &before, *percent));
            let nearest = reached.min_by_key(|rule| rule.limit.saturating_sub(rule.in_use.live))?;
            Some(Crossing::of(nearest, *percent, in_force.revision))
        };
        percents.iter().filter_map(reached).collect()
    }

    /// What each rule about the holder counts, those on titles for `title`.
    fn count(
        &self,
        who: &Who,
        title: Option<&str>,
        policy: &QuotaPolicy,
        now_ms: i64,
    ) -> Vec<RuleUse> {
        match who {
            Who::Device(device) => of_device(device, &self.name, policy, now_ms),
            Who::Account(account) => {
                of_account(account, &self.name, title.as_slice(), policy, now_ms)
            }
        }
    }
}

/// Whether an event can make a rule count more.
fn takes(event: &Event) -> bool {
    matches!(
        event,
        Event::LicenseAcquired(_)
            | Event::LicenseRecorded(_)
            | Event::ReservationMade(_)
            | Event::DeviceTookOver(_)
            | Event::SlotTaken(_)
            | Event::SlotsMoved(_)
    )
}

/// The title of what an account pays for from here on.
fn title(event: &Event) -> Option<&str> {
    match event {
        Event::SlotTaken(e) => e.title.as_deref(),
        _ => None,
    }
}

fn closes_reservation(event: &Event) -> bool {
    match event {
        Event::ReservationClosed(_) => true,
        Event::SlotReleased(e) => e.cause == SlotEnd::ReservationClosed,
        _ => false,
    }
}

/// Whether the use of a rule reaches a share of its limit that it did not reach `before`.
fn is_reached(rule: &RuleUse, before: &[RuleUse], percent: u8) -> bool {
    let same = |other: &&RuleUse| (&other.rule, &other.title) == (&rule.rule, &rule.title);
    let before = before.iter().filter(same).map(|rule| rule.in_use.live).max().unwrap_or(0);
    let share = u64::from(rule.limit) * u64::from(percent);
    // A share of nothing is not reached by taking something.
    let least = share.div_ceil(100).max(1);
    u64::from(before) < least && least <= u64::from(rule.in_use.live) && rule.limit > 0
}

impl Crossing {
    fn of(rule: &RuleUse, threshold_percent: u8, quota_policy_revision: u64) -> Self {
        Self {
            scope: rule.scope,
            rule: rule.rule.clone(),
            window_seconds: rule.window_seconds,
            title: rule.title.clone(),
            limit: rule.limit,
            threshold_percent,
            live: rule.in_use.live,
            quota_policy_revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::codec;

    const NONE: [u8; 0] = [];
    const ACCOUNT: &str = "account-mfrggzdfmztwq2lknnwg23tpoa";

    /// A use of this much of a rule on devices.
    fn used(limit: u32, live: u32) -> RuleUse {
        let device = Holder::of_stream("device-clxoin3sng2mp6etv3rgayrqnu").unwrap();
        let policy = QuotaPolicy::with_device_limit(limit, 16);
        let mut rule = device.count(&device.who, None, &policy, 0).remove(0);
        rule.in_use.live = live;
        rule
    }

    fn reached(limit: u32, before: u32, live: u32) -> Vec<u8> {
        let (before, after) = ([used(limit, before)], used(limit, live));
        [80, 100].into_iter().filter(|percent| is_reached(&after, &before, *percent)).collect()
    }

    #[test]
    fn a_share_is_reached_upwards_and_once() {
        assert_eq!(reached(25, 18, 19), NONE);
        assert_eq!(reached(25, 19, 20), [80]);
        assert_eq!(reached(25, 20, 21), NONE);
        assert_eq!(reached(25, 24, 25), [100]);
        assert_eq!(reached(25, 25, 26), NONE);
        assert_eq!(reached(25, 20, 20), NONE);
        assert_eq!(reached(25, 20, 19), NONE);
        assert_eq!(reached(25, 0, 25), [80, 100]);
    }

    #[test]
    fn shares_are_rounded_up_to_whole_slots() {
        assert_eq!(reached(1, 0, 1), [80, 100]);
        assert_eq!(reached(3, 1, 2), NONE);
        assert_eq!(reached(3, 2, 3), [80, 100]);
        assert_eq!(reached(u32::MAX, u32::MAX - 1, u32::MAX), [100]);
    }

    #[test]
    fn a_limit_of_nothing_has_no_shares() {
        assert_eq!(reached(0, 0, 1), NONE);
    }

    #[test]
    fn an_account_reaches_shares_with_the_slots_of_all_its_devices() {
        let golden = include_str!("../../tests/golden/events/slot-taken.v1.json");
        let taken = |device: char, kid: u128| {
            let mut data: serde_json::Value = serde_json::from_str(golden).unwrap();
            data["device"] = device.to_string().repeat(26).into();
            data["key_id"] = uuid::Uuid::from_u128(kid).to_string().into();
            data["counted_until_ms"] = serde_json::Value::Null;
            codec::decode("slot-taken.v1", data.to_string().as_bytes()).unwrap()
        };
        let mut policy = QuotaPolicy::with_device_limit(9, 16);
        policy.rules[0].scope = Scope::Account;
        let in_force = InForce { policy, revision: 3 };
        let mut account = Holder::of_stream(ACCOUNT).unwrap();
        let mut reached = |device, kid, limit| {
            let mut in_force = in_force.clone();
            in_force.policy.rules[0].limit = limit;
            let crossings = account.evolve(&taken(device, kid), Some(&in_force), &[50, 100]);
            crossings
                .into_iter()
                .map(|c| (c.scope, c.threshold_percent, c.live))
                .collect::<Vec<_>>()
        };
        assert_eq!(reached('a', 1, 4), []);
        assert_eq!(reached('a', 1, 4), [], "a slot that is held already");
        assert_eq!(reached('b', 1, 4), [(Scope::Account, 50, 2)], "the same title elsewhere");
        assert_eq!(reached('b', 2, 3), [(Scope::Account, 100, 3)]);
    }

    #[test]
    fn a_license_in_the_place_of_a_reservation_reaches_nothing_anew() {
        let golden = |kind: &str, text: &str, members: &[(&str, serde_json::Value)]| {
            let mut data: serde_json::Value = serde_json::from_str(text).unwrap();
            for (member, value) in members {
                data[*member] = value.clone();
            }
            codec::decode(kind, data.to_string().as_bytes()).unwrap()
        };
        let taken = |at_ms: i64, license: u128, reserved: bool| {
            let text = include_str!("../../tests/golden/events/slot-taken.v1.json");
            let id = uuid::Uuid::from_u128(license).to_string();
            let members = [
                ("license_id", id.into()),
                ("counted_until_ms", serde_json::Value::Null),
                ("reserved", reserved.into()),
                ("at_ms", at_ms.into()),
            ];
            golden("slot-taken.v1", text, &members)
        };
        let released = |at_ms: i64, device: &str, key_id: String| {
            let text = include_str!("../../tests/golden/events/slot-released.v1.json");
            let id = uuid::Uuid::from_u128(1).to_string();
            let members = [
                ("license_id", id.into()),
                ("device", device.into()),
                ("key_id", key_id.into()),
                ("cause", "reservation_closed".into()),
                ("weak", false.into()),
                ("frees_at_ms", serde_json::Value::Null),
                ("at_ms", at_ms.into()),
            ];
            golden("slot-released.v1", text, &members)
        };
        let reservation = taken(1, 1, true);
        let Event::SlotTaken(slot) = &reservation else { panic!("no slot") };
        let closed = |at_ms| released(at_ms, &slot.device.to_string(), slot.key_id.to_string());
        let mut policy = QuotaPolicy::with_device_limit(1, 16);
        policy.rules[0].scope = Scope::Account;
        let in_force = InForce { policy, revision: 3 };
        let mut account = Holder::of_stream(ACCOUNT).unwrap();
        let mut reached = |event: &Event| account.evolve(event, Some(&in_force), &[100]).len();
        assert_eq!(reached(&reservation), 1);
        assert_eq!((reached(&closed(2)), reached(&taken(2, 2, false))), (0, 0));
        let mut again = Holder::of_stream(ACCOUNT).unwrap();
        let mut reached = |event: &Event| again.evolve(event, Some(&in_force), &[100]).len();
        assert_eq!(reached(&reservation), 1);
        assert_eq!((reached(&closed(2)), reached(&taken(3, 2, false))), (0, 1), "later it does");
    }

    /// A policy of these rules, JSON; `tv` is a class of devices.
    fn in_force(rules: serde_json::Value) -> InForce {
        let policy = serde_json::json!({"rules": rules, "licenses_per_slot": 16,
            "releasing_grades": [], "device_classes": {"tv": ["Example TV"]}});
        let policy: QuotaPolicy = serde_json::from_value(policy).unwrap();
        policy.check().unwrap();
        InForce { policy, revision: 7 }
    }

    /// A license for this KID and title on the device of this number.
    fn taken(device: u8, kid: u128, title: &str, model: &str, at_ms: i64) -> Event {
        let golden = include_str!("../../tests/golden/events/slot-taken.v1.json");
        let mut data: serde_json::Value = serde_json::from_str(golden).unwrap();
        data["device"] = char::from(b'a' + device).to_string().repeat(26).into();
        let id = uuid::Uuid::from_u128(kid * 100 + u128::from(device)).to_string();
        data["license_id"] = id.into();
        data["key_id"] = uuid::Uuid::from_u128(kid).to_string().into();
        data["counted_until_ms"] = serde_json::Value::Null;
        (data["title"], data["model"], data["at_ms"]) = (title.into(), model.into(), at_ms.into());
        codec::decode("slot-taken.v1", data.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn every_rule_about_the_account_is_told_by_what_it_counts() {
        let rules = serde_json::json!([
            {"id": "tvs", "scope": "account", "counts": "live_slots", "limit": 2,
                "on_exceed": "deny", "when": {"device_classes": ["tv"]}},
            {"id": "copies", "scope": "account_title", "counts": "live_slots", "limit": 2,
                "on_exceed": "deny"},
            {"id": "hourly", "scope": "account", "counts": {"issued_within_seconds": 3600},
                "limit": 4, "on_exceed": "deny"},
            {"id": "churn", "scope": "account",
                "counts": {"devices_added_within_seconds": 86_400}, "limit": 3,
                "on_exceed": "deny"},
            {"id": "device-slots", "scope": "device", "counts": "live_slots", "limit": 1,
                "on_exceed": "deny"},
        ]);
        let in_force = in_force(rules);
        let mut account = Holder::of_stream(ACCOUNT).unwrap();
        let mut told = |event: &Event| {
            let crossings = account.evolve(event, Some(&in_force), &[100]);
            let told = crossings.into_iter().map(|c| (c.rule, c.title, c.window_seconds, c.live));
            told.collect::<Vec<_>>()
        };
        let phone = "Acme Phone";
        assert_eq!(told(&taken(0, 1, "film", "Example TV 1", 1)), []);
        let copies = ("copies".to_owned(), Some("film".to_owned()), None, 2);
        assert_eq!(told(&taken(1, 1, "film", phone, 2)), [copies]);
        let tvs = ("tvs".to_owned(), None, None, 2);
        assert_eq!(told(&taken(0, 2, "series", "Example TV 1", 3)), [tvs]);
        let hourly = ("hourly".to_owned(), None, Some(3600), 4);
        let reached = told(&taken(1, 3, "other", phone, 4));
        assert_eq!(reached, std::slice::from_ref(&hourly));
        let churn = ("churn".to_owned(), None, Some(86_400), 3);
        assert_eq!(told(&taken(2, 4, "more", phone, 5)), [churn], "five within the hour");
        // What has left the window is reached again.
        let later_ms = 3_600_010;
        for kid in 5..8 {
            assert_eq!(told(&taken(1, kid, &format!("late {kid}"), phone, later_ms)), []);
        }
        assert_eq!(told(&taken(1, 8, "late", phone, later_ms)), [hourly]);
    }

    #[test]
    fn of_rules_that_reach_the_same_share_the_nearest_to_its_limit_is_told() {
        let rule = |id: &str, limit: u32, window: Option<u32>| {
            let counts = match window {
                Some(seconds) => serde_json::json!({ "issued_within_seconds": seconds }),
                None => "live_slots".into(),
            };
            serde_json::json!({"id": id, "scope": "account", "counts": counts, "limit": limit,
                "on_exceed": "deny"})
        };
        let rules = [rule("slots", 4, None), rule("hourly", 3, Some(3600))];
        let in_force = in_force(rules.to_vec().into());
        let mut account = Holder::of_stream(ACCOUNT).unwrap();
        let mut told = |kid: u128| {
            let crossings = account.evolve(&taken(0, kid, "t", "", 1), Some(&in_force), &[50, 100]);
            let told = crossings.into_iter().map(|c| (c.rule, c.threshold_percent));
            told.collect::<Vec<_>>()
        };
        assert_eq!(told(1), []);
        assert_eq!(told(2), [("hourly".to_owned(), 50)], "it has room for one, the other for two");
        assert_eq!(told(3), [("hourly".to_owned(), 100)]);
        assert_eq!(told(4), [("slots".to_owned(), 100)]);
        assert!(Holder::of_stream("policy").is_none());
    }
}
