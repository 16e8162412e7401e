use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::domain::KeyId;
use crate::domain::quota::{Counts, OnExceed, QuotaRule, Scope};
use crate::domain::scenario::{Ask, Removal, Scenario, account_ref, kids};

const DEVICE_LIMIT: usize = 3;
const ACCOUNT_LIMIT: usize = 2;
const MINUTE_MS: i64 = 60_000;

fn scenario() -> Scenario {
    let mut device = Scenario::with_room_for(DEVICE_LIMIT as u32);
    device.policy.rules.push(QuotaRule {
        id: "account-slots".to_owned(),
        scope: Scope::Account,
        counts: Counts::LiveSlots,
        limit: ACCOUNT_LIMIT as u32,
        on_exceed: OnExceed::Deny,
        when: None,
    });
    device
}

#[test]
fn room_is_held_until_its_time_and_then_free_without_an_event() {
    let mut device = scenario();
    assert!(device.reserve(&kids([1, 2]), None, MINUTE_MS).is_some());
    assert!(device.reserve(&kids([3, 4]), None, MINUTE_MS).is_none(), "it does not fit whole");
    assert!(device.reserve(&kids([1, 3]), None, MINUTE_MS).is_some(), "a held KID takes no slot");
    assert!(device.reserve(&kids([4]), None, MINUTE_MS).is_none());
    let events = device.events.len();
    device.wait(MINUTE_MS - 1);
    assert!(device.reserve(&kids([4]), None, MINUTE_MS).is_none());
    device.wait(1);
    assert_eq!(device.events.len(), events);
    assert_eq!(device.held(), []);
    assert!(device.reserve(&kids([4, 5, 6]), None, MINUTE_MS).is_some());
}

#[test]
fn a_reservation_is_given_back_once() {
    let mut device = scenario();
    let first = device.reserve(&kids([1, 2]), None, MINUTE_MS).unwrap();
    let second = device.reserve(&kids([2, 3]), None, MINUTE_MS).unwrap();
    assert!(device.release(first));
    assert_eq!(device.held(), kids([2, 3]), "what another reservation holds stays");
    assert!(!device.release(first));
    device.wait(MINUTE_MS);
    assert!(!device.release(second), "it has ended by itself");
}

#[test]
fn room_that_is_held_is_not_granted_to_a_challenge() {
    let mut device = scenario();
    let held = device.reserve(&kids([1, 2, 3]), None, MINUTE_MS).unwrap();
    device.refused(&Ask::new(1, &kids([4])));
    device.release(held);
    device.granted(&Ask::new(2, &kids([4])));
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { kids: Vec<u8>, family: bool, minutes: i64 },
    Release { back: usize },
    Acquire { kids: Vec<u8>, family: bool, minutes: Option<i64> },
    Delete { back: usize },
    Wait { minutes: i64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let kids = || vec(1..=5u8, 1..=3);
    prop_oneof![
        4 => (kids(), any::<bool>(), 1..30i64)
            .prop_map(|(kids, family, minutes)| Step::Reserve { kids, family, minutes }),
        3 => (0..6usize).prop_map(|back| Step::Release { back }),
        3 => (kids(), any::<bool>(), prop::option::of(1..30i64))
            .prop_map(|(kids, family, minutes)| Step::Acquire { kids, family, minutes }),
        2 => (0..6usize).prop_map(|back| Step::Delete { back }),
        2 => (1..20i64).prop_map(|minutes| Step::Wait { minutes }),
    ]
}

/// What is held, on paper: (KID, whether the family pays, until when).
type Entry = (KeyId, bool, Option<i64>);

#[derive(Default)]
struct Paper {
    reservations: BTreeMap<uuid::Uuid, Vec<Entry>>,
    licenses: BTreeMap<u8, Vec<Entry>>,
}

impl Paper {
    fn live(&self, now_ms: i64) -> Vec<Entry> {
        let all = self.reservations.values().chain(self.licenses.values()).flatten();
        all.filter(|(.., until)| until.is_none_or(|until| now_ms < until)).copied().collect()
    }

    /// Whether these KIDs fit, as a clerk would count.
    fn has_room(&self, wanted: &[KeyId], family: bool, now_ms: i64) -> bool {
        let live = self.live(now_ms);
        let fits = |of: &dyn Fn(&Entry) -> bool, limit: usize| {
            let mut slots: Vec<_> = live.iter().filter(|e| of(e)).map(|e| e.0).collect();
            slots.sort();
            slots.dedup();
            let before = slots.len();
            slots.extend(wanted);
            slots.sort();
            slots.dedup();
            slots.len() == before || slots.len() <= limit
        };
        fits(&|_| true, DEVICE_LIMIT) && (!family || fits(&|e| e.1, ACCOUNT_LIMIT))
    }
}

fn family_or(family: bool) -> Option<&'static str> {
    family.then_some("family")
}

proptest! {
    /// Room is held exactly if there is room, on the device and on the account that pays, and both
    /// hold the same afterwards, at every moment.
    #[test]
    fn reservations_and_licenses_share_what_there_is(steps in vec(any_step(), 0..60)) {
        let mut device = scenario();
        device.policy.licenses_per_slot = 1_000;
        let mut paper = Paper::default();
        for (number, step) in (1u8..).zip(&steps) {
            let now_ms = device.now_ms;
            match step {
                Step::Reserve { kids: wanted, family, minutes } => {
                    let wanted = kids(wanted.clone());
                    let room = paper.has_room(&wanted, *family, now_ms);
                    let hold_ms = minutes * MINUTE_MS;
                    let made = device.reserve(&wanted, family_or(*family), hold_ms);
                    prop_assert_eq!(made.is_some(), room, "{:?}", step);
                    let entry = |kid: &KeyId| (*kid, *family, Some(now_ms + hold_ms));
                    let entries = wanted.iter().map(entry).collect();
                    made.map(|id| paper.reservations.insert(id, entries));
                }
                Step::Release { back } => {
                    let Some(id) = paper.reservations.keys().rev().nth(*back).copied() else {
                        continue;
                    };
                    let entries = paper.reservations.remove(&id).unwrap_or_default();
                    let live = entries.iter().any(|(.., until)| until.is_some_and(|u| now_ms < u));
                    prop_assert_eq!(device.release(id), live, "{:?}", step);
                }
                Step::Acquire { kids: wanted, family, minutes } => {
                    let wanted = kids(wanted.clone());
                    let until_ms = minutes.map(|minutes| now_ms + minutes * MINUTE_MS);
                    let account = family_or(*family);
                    let ask = Ask { until_ms, account, ..Ask::new(number, &wanted) };
                    if paper.has_room(&wanted, *family, now_ms) {
                        device.granted(&ask);
                        let entry = |kid: &KeyId| (*kid, *family, until_ms);
                        paper.licenses.insert(number, wanted.iter().map(entry).collect());
                    } else {
                        device.refused(&ask);
                    }
                }
                Step::Delete { back } => {
                    let Some(nonce) = paper.licenses.keys().rev().nth(*back).copied() else {
                        continue;
                    };
                    let entries = paper.licenses.remove(&nonce).unwrap_or_default();
                    let all: Vec<_> = entries.iter().map(|(kid, ..)| *kid).collect();
                    device.delete(&Removal::new(nonce, &all));
                }
                Step::Wait { minutes } => device.wait(minutes * MINUTE_MS),
            }
            let now_ms = device.now_ms;
            let mut on_paper = paper.live(now_ms);
            on_paper.sort();
            let held = device.device.held(now_ms).map(|(key_id, held)| {
                let account = device.device.account_of(key_id, held.license_id, now_ms);
                (key_id, account == Some(&account_ref("family")), held.counted_until_ms)
            });
            let mut held: Vec<_> = held.collect();
            held.sort();
            prop_assert_eq!(&held, &on_paper, "after {:?}", step);
            let accounts = device.accounts.values().flat_map(|account| account.members());
            let mirrored = accounts.flat_map(|(_, member)| member.held(now_ms));
            let mut mirrored: Vec<_> =
                mirrored.map(|(key_id, held)| (key_id, true, held.counted_until_ms)).collect();
            mirrored.sort();
            held.retain(|(_, family, _)| *family);
            prop_assert_eq!(mirrored, held, "the account after {:?}", step);
        }
        let ids: std::collections::BTreeSet<_> =
            device.events.iter().map(|event| event.id("s")).collect();
        prop_assert_eq!(ids.len(), device.events.len());
    }
}
