//! When a device or an account comes near its limit: shares of the limit that its live slots reach.
//!
//! Counted as decisions count, by folding the events of the holder, and at the time of each event. A
//! share is reached once each time the slots grow past it; they fall below it by a release or by
//! expiry. The limit is the lowest of all rules on live slots of such holders that apply to every
//! license, or what an override puts in its place. A change of the policy reaches nothing by itself:
//! the next slot that is taken does.

use serde::{Deserialize, Serialize};

use crate::domain::account::Account;
use crate::domain::event::SlotEnd;
use crate::domain::holding::Overrides;
use crate::domain::quota::{Counts, QuotaPolicy, Scope};
use crate::domain::{Device, Event};
use crate::ledger::state::store::{ACCOUNT_STREAM, DEVICE_STREAM};

/// A share of a limit, reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crossing {
    /// Whose use the rule counts.
    pub(super) scope: Scope,
    /// The rule with the lowest limit.
    pub(super) rule: String,
    /// Its limit.
    pub(super) limit: u32,
    /// The share that was reached.
    pub(super) threshold_percent: u8,
    /// Live slots with the event.
    pub(super) live: u32,
    /// Revision of the `policy` stream.
    pub(super) quota_policy_revision: u64,
}

/// Who holds slots, as its stream says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    who: Who,
    /// When reservations were last closed, and how many slots were live before: a license in the
    /// place of a reservation reaches nothing anew.
    before_closing: Option<(i64, u32)>,
}

#[derive(Debug, Serialize, Deserialize)]
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

impl Holder {
    /// The holder whose events a stream has, as it is before them; `None` if nobody's.
    pub(super) fn of_stream(stream: &str) -> Option<Self> {
        let who = if stream.starts_with(DEVICE_STREAM) {
            Who::Device(Box::default())
        } else if stream.starts_with(ACCOUNT_STREAM) {
            Who::Account(Box::default())
        } else {
            return None;
        };
        Some(Self { who, before_closing: None })
    }

    /// Applies an event, and tells which shares (`percents` of its limit) it makes the holder reach.
    pub(super) fn evolve(
        &mut self,
        event: &Event,
        in_force: Option<&InForce>,
        percents: &[u8],
    ) -> Vec<Crossing> {
        let now_ms = event.at_ms();
        let closed = self.before_closing.filter(|(at_ms, _)| *at_ms == now_ms);
        let before = closed.map_or(0, |(_, before)| before).max(self.live(now_ms));
        if closes_reservation(event) {
            self.before_closing = Some((now_ms, before));
        }
        match &mut self.who {
            Who::Device(device) => device.evolve(event),
            Who::Account(account) => account.evolve(event),
        }
        let live = self.live(now_ms);
        let limit = in_force.and_then(|in_force| self.limit(in_force, now_ms));
        limit.map(|limit| limit.reached(before, live, percents)).unwrap_or_default()
    }

    fn live(&self, now_ms: i64) -> u32 {
        let slots = match &self.who {
            Who::Device(device) => device.held_slots(now_ms).len(),
            Who::Account(account) => {
                let slots = account.members().map(|(_, member)| {
                    // Ordered by KID, so that the licenses of one slot stand together.
                    let mut kids: Vec<_> = member.held(now_ms).map(|(kid, _)| kid).collect();
                    kids.dedup();
                    kids.len()
                });
                slots.sum()
            }
        };
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    fn limit(&self, in_force: &InForce, now_ms: i64) -> Option<Limit> {
        let (scope, overrides): (_, &Overrides) = match &self.who {
            Who::Device(device) => (Scope::Device, device.overrides()),
            Who::Account(account) => (Scope::Account, account.overrides()),
        };
        let rules = in_force.policy.rules.iter().filter(|rule| {
            (rule.scope, rule.counts) == (scope, Counts::LiveSlots) && rule.when.is_none()
        });
        let limits = rules.map(|rule| Limit {
            scope,
            rule: rule.id.clone(),
            limit: overrides.limit(&rule.id, now_ms).unwrap_or(rule.limit),
            quota_policy_revision: in_force.revision,
        });
        limits.min_by_key(|limit| limit.limit)
    }
}

fn closes_reservation(event: &Event) -> bool {
    match event {
        Event::ReservationClosed(_) => true,
        Event::SlotReleased(e) => e.cause == SlotEnd::ReservationClosed,
        _ => false,
    }
}

/// The limit that holds for a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    scope: Scope,
    rule: String,
    limit: u32,
    quota_policy_revision: u64,
}

impl Limit {
    /// The shares of it that are reached when `before` slots become `live`, in the order of
    /// `percents`.
    fn reached(&self, before: u32, live: u32, percents: &[u8]) -> Vec<Crossing> {
        let reached = percents.iter().filter(|percent| {
            let share = u64::from(self.limit) * u64::from(**percent);
            // A share of no slot is not reached by taking one.
            let slots = share.div_ceil(100).max(1);
            u64::from(before) < slots && slots <= u64::from(live) && self.limit > 0
        });
        let crossing = |percent: &u8| Crossing {
            scope: self.scope,
            rule: self.rule.clone(),
            limit: self.limit,
            threshold_percent: *percent,
            live,
            quota_policy_revision: self.quota_policy_revision,
        };
        reached.map(crossing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::codec;

    const NONE: [u8; 0] = [];

    fn reached(limit: u32, before: u32, live: u32) -> Vec<u8> {
        let (scope, rule) = (Scope::Device, "device-slots".to_owned());
        let limit = Limit { scope, rule, limit, quota_policy_revision: 0 };
        let crossings = limit.reached(before, live, &[80, 100]);
        crossings.iter().map(|crossing| crossing.threshold_percent).collect()
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
        let mut account = Holder::of_stream("account-a").unwrap();
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
        let mut account = Holder::of_stream("account-a").unwrap();
        let mut reached = |event: &Event| account.evolve(event, Some(&in_force), &[100]).len();
        assert_eq!(reached(&reservation), 1);
        assert_eq!((reached(&closed(2)), reached(&taken(2, 2, false))), (0, 0));
        let mut again = Holder::of_stream("account-a").unwrap();
        let mut reached = |event: &Event| again.evolve(event, Some(&in_force), &[100]).len();
        assert_eq!(reached(&reservation), 1);
        assert_eq!((reached(&closed(2)), reached(&taken(3, 2, false))), (0, 1), "later it does");
    }

    #[test]
    fn the_rule_that_allows_the_fewest_is_the_limit() {
        let mut policy = QuotaPolicy::with_device_limit(25, 16);
        let mut stricter = policy.rules[0].clone();
        (stricter.id, stricter.limit) = ("few".to_owned(), 3);
        let mut of_accounts = stricter.clone();
        (of_accounts.id, of_accounts.limit) = ("account".to_owned(), 2);
        of_accounts.scope = Scope::Account;
        let mut issued = stricter.clone();
        (issued.id, issued.limit) = ("issued".to_owned(), 1);
        issued.counts = Counts::IssuedWithinSeconds(60);
        policy.rules.extend([stricter, of_accounts, issued]);
        let limit = |stream, policy: &QuotaPolicy| {
            let in_force = InForce { policy: policy.clone(), revision: 7 };
            let limit = Holder::of_stream(stream).unwrap().limit(&in_force, 0);
            limit.map(|limit| (limit.rule, limit.limit, limit.quota_policy_revision))
        };
        assert_eq!(limit("device-a", &policy), Some(("few".to_owned(), 3, 7)));
        assert_eq!(limit("account-a", &policy), Some(("account".to_owned(), 2, 7)));
        policy.rules.clear();
        assert_eq!(limit("device-a", &policy), None);
        assert!(Holder::of_stream("policy").is_none());
    }
}
