//! Whatever several identities of one device do, in whatever order: what the rules make of it is
//! what the words of the specification say, worked out a second time on paper.

mod joined;
mod log;
mod paper;

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::acquire::{Outcome, Refusal};
use super::delete;
use super::event::Grade;
use super::quota::Voiding;
use super::scenario::{Ask, DAY_MS, MemoryRows, Removal, Scenario, kid, session};
use super::{Device, Event, KeyId, LicenseId};
use paper::{Paper, Verdict};

const SLOTS: u32 = 3;
const LICENSES_PER_SLOT: u32 = 3;
const HOUR_MS: i64 = DAY_MS / 24;

/// One thing that happens. Numbers of earlier challenges count from the newest.
#[derive(Clone, Debug)]
enum Step {
    /// A new challenge.
    Acquire { by: u8, kids: Vec<u8>, persistent: bool, session: Option<u8>, hours: Option<i64> },
    /// An earlier challenge again, with the same or with other bytes.
    Replay { back: usize, same_bytes: bool },
    /// A new secure delete, for the session of an earlier challenge or for another one.
    Delete { by: u8, session: Named, kids: Vec<u8>, revoked: bool },
    /// An earlier secure delete again.
    ReplayDelete { back: usize },
    /// The acknowledgement of an earlier challenge's transaction.
    Acknowledge { by: u8, back: usize, result: u32 },
    /// An operator writes off the licenses for a KID, or all, at once or after some hours.
    WriteOff { kid: Option<u8>, hours: Option<i64> },
    /// An operator blocks the device, or unblocks it.
    Block { blocked: bool },
    /// Time passes.
    Wait { hours: i64 },
}

#[derive(Clone, Debug)]
enum Named {
    SessionOf { back: usize },
    Any(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    let by = 1..=3u8;
    let kids = || vec(1..=5u8, 1..=3);
    // Sessions that challenges name: apart from the nonces, or what was or will be one.
    let named = || prop_oneof![4 => 200..=220u8, 1 => 1..=20u8];
    let acquire = (
        by.clone(),
        kids(),
        prop::bool::weighted(0.9),
        prop::option::weighted(0.4, named()),
        prop::option::weighted(0.4, 1..48i64),
    );
    let session = prop_oneof![
        3 => (0..8usize).prop_map(|back| Named::SessionOf { back }),
        1 => (200..=222u8).prop_map(Named::Any),
    ];
    let delete = (by.clone(), session, kids(), prop::bool::weighted(0.1));
    prop_oneof![
        6 => acquire.prop_map(|(by, kids, persistent, session, hours)| {
            Step::Acquire { by, kids, persistent, session, hours }
        }),
        2 => (0..8usize, prop::bool::weighted(0.8))
            .prop_map(|(back, same_bytes)| Step::Replay { back, same_bytes }),
        5 => delete.prop_map(|(by, session, kids, revoked)| {
            Step::Delete { by, session, kids, revoked }
        }),
        2 => (0..8usize).prop_map(|back| Step::ReplayDelete { back }),
        4 => (by, 0..8usize, 0..=1u32)
            .prop_map(|(by, back, result)| Step::Acknowledge { by, back, result }),
        1 => (prop::option::weighted(0.8, 1..=5u8), prop::option::of(1..30i64))
            .prop_map(|(kid, hours)| Step::WriteOff { kid, hours }),
        1 => prop::bool::weighted(0.2).prop_map(|blocked| Step::Block { blocked }),
        1 => (1..30i64).prop_map(|hours| Step::Wait { hours }),
    ]
}

/// A device, the clerk beside it, and the messages sent so far.
struct Run {
    device: Scenario,
    paper: Paper,
    asks: Vec<Ask>,
    removals: Vec<Removal>,
    verdicts: Vec<Verdict>,
}

impl Run {
    fn new(releasing_grades: Vec<Grade>, voiding: Option<Voiding>) -> Self {
        let mut device = Scenario::with_room_for(SLOTS);
        device.policy.licenses_per_slot = LICENSES_PER_SLOT;
        device.policy.releasing_grades = releasing_grades;
        device.policy.voiding = voiding;
        Self {
            device,
            paper: Paper::default(),
            asks: Vec::new(),
            removals: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Acquire { by, kids, persistent, session, hours } => {
                let nonce = u8::try_from(self.asks.len() + 1).unwrap();
                self.send(Ask {
                    identity: *by,
                    persistent: *persistent,
                    session: *session,
                    until_ms: hours.map(|hours| self.device.now_ms + hours * HOUR_MS),
                    transaction: Some(nonce),
                    account: [None, Some("family"), Some("office")][usize::from(nonce % 3)],
                    // The third identity is of another make.
                    security_level: if *by == 3 { 3000 } else { 2000 },
                    ..Ask::new(nonce, &numbered(kids))
                })
            }
            Step::Replay { back, same_bytes } => match nth_back(&self.asks, *back) {
                Some(ask) if *same_bytes => self.send(ask),
                Some(ask) => self.send(ask.other_bytes()),
                None => Ok(()),
            },
            Step::Delete { by, session: named, kids, revoked } => {
                let session = match named {
                    Named::Any(n) => session(*n),
                    Named::SessionOf { back } => {
                        nth_back(&self.asks, *back).map_or(session(199), |ask| ask.session_id())
                    }
                };
                let removal = Removal::new(0, &numbered(kids)).by(*by);
                self.remove(Removal { session, chain_revoked: *revoked, ..removal })
            }
            Step::ReplayDelete { back } => match nth_back(&self.removals, *back) {
                Some(removal) => self.remove(removal),
                None => Ok(()),
            },
            Step::Acknowledge { by, back, result } => {
                let Some(ask) = nth_back(&self.asks, *back) else { return Ok(()) };
                let results: Vec<_> = ask.kids.iter().map(|kid| (*kid, *result)).collect();
                self.device.acknowledge(*by, ask.nonce, &results);
                self.void();
                self.paper.acknowledge(*by, ask.nonce, *result);
                self.void();
                Ok(())
            }
            Step::WriteOff { kid: number, hours } => {
                let now_ms = self.device.now_ms;
                let cooldown_ms = hours.map(|hours| hours * HOUR_MS);
                let chosen = number.map(kid);
                self.void();
                self.device.write_off(chosen.as_ref().map(std::slice::from_ref), cooldown_ms);
                self.paper.write_off(chosen, cooldown_ms.map(|ms| now_ms + ms), now_ms);
                Ok(())
            }
            Step::Block { blocked } => {
                self.device.set_blocked(*blocked);
                self.paper.blocked = *blocked;
                Ok(())
            }
            Step::Wait { hours } => {
                self.device.wait(hours * HOUR_MS);
                Ok(())
            }
        }
    }

    /// What the device does before each decision, on paper.
    fn void(&mut self) {
        self.paper.void(self.device.policy.voiding, self.device.now_ms);
    }

    fn send(&mut self, ask: Ask) -> Result<(), TestCaseError> {
        let now_ms = self.device.now_ms;
        self.void();
        let expected = self.paper.judge(&ask, now_ms);
        let verdict = match self.device.acquire(&ask) {
            Outcome::Grant(licenses) => {
                let ids: Vec<_> = licenses.iter().map(|l| l.license_id).collect();
                self.paper.grant(&ask, &ids, now_ms);
                Verdict::Grant
            }
            Outcome::Repeat(_) => Verdict::Repeat,
            Outcome::Refuse(Refusal::ChallengeSpent, None) => Verdict::Spent,
            Outcome::Refuse(Refusal::NonceReused, None) => Verdict::NonceReused,
            Outcome::Refuse(Refusal::Blocked, None) => Verdict::Blocked,
            Outcome::Refuse(Refusal::SessionUsed(_), None) => Verdict::SessionUsed,
            Outcome::Refuse(Refusal::Quota(_), _) => Verdict::OverLimit,
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(verdict, expected, "{:?}", ask);
        self.verdicts.push(verdict);
        self.asks.push(ask);
        Ok(())
    }

    fn remove(&mut self, removal: Removal) -> Result<(), TestCaseError> {
        let releasing = self.device.policy.releasing_grades.clone();
        let outcome = self.device.delete(&removal);
        self.void();
        let known = self.paper.delete(&removal, &releasing);
        prop_assert_eq!(outcome != delete::Outcome::UnknownSession, known, "{:?}", removal);
        let again = self.device.delete(&removal);
        let expected = match known {
            true => delete::Outcome::Answer { deletions: Vec::new(), left_out: 0 },
            false => delete::Outcome::UnknownSession,
        };
        prop_assert_eq!(again, expected, "the repeat of {:?}", removal);
        self.removals.push(removal);
        Ok(())
    }

    /// What must be true after every step.
    fn check(&self) -> Result<(), TestCaseError> {
        let now_ms = self.device.now_ms;
        let held: BTreeSet<KeyId> = self.device.held().into_iter().collect();
        prop_assert!(held.len() <= SLOTS as usize);
        prop_assert_eq!(&held, &self.paper.slots(now_ms));
        let live: BTreeSet<LicenseId> = self.device.live().into_iter().collect();
        let on_paper = self.paper.licenses.iter().filter(|l| l.is_live(now_ms)).map(|l| l.id);
        prop_assert_eq!(live, on_paper.collect());
        self.check_accounts()?;
        let explanation = self.device.explain(&[]);
        let in_use = explanation.rules[0].in_use;
        prop_assert!(in_use.confirmed <= in_use.live && in_use.live <= in_use.possible);
        Ok(())
    }
}

impl Run {
    /// Accounts hold what the device holds at their expense, with the same word on storing it.
    fn check_accounts(&self) -> Result<(), TestCaseError> {
        let (device, now_ms) = (&self.device, self.device.now_ms);
        let mut held = BTreeSet::new();
        for (key_id, license) in device.device.held(now_ms) {
            let account = device.device.account_of(key_id, license.license_id, now_ms).cloned();
            held.extend(account.map(|a| (a, key_id, license.license_id, license.confirmed)));
        }
        let mut mirrored = BTreeSet::new();
        for (name, account) in &device.accounts {
            for (of, member) in account.members() {
                prop_assert_eq!(of, &device.name);
                let slots = member.held(now_ms);
                mirrored.extend(slots.map(|(k, l)| (name.clone(), k, l.license_id, l.confirmed)));
            }
        }
        prop_assert_eq!(held, mirrored);
        Ok(())
    }
}

fn numbered(kids: &[u8]) -> Vec<KeyId> {
    kids.iter().map(|n| kid(*n)).collect()
}

fn nth_back<T: Clone>(sent: &[T], back: usize) -> Option<T> {
    sent.iter().rev().nth(back).cloned()
}

fn fold(events: &[Event]) -> (Device, MemoryRows) {
    let (mut device, mut rows) = (Device::default(), MemoryRows::default());
    for (place, event) in events.iter().enumerate() {
        rows.apply(event, place);
        device.evolve(event);
    }
    (device, rows)
}

fn releasing_grades() -> impl Strategy<Value = Vec<Grade>> {
    prop_oneof![
        3 => Just(vec![Grade::A, Grade::B, Grade::C]),
        1 => Just(vec![Grade::A, Grade::B]),
        1 => Just(vec![Grade::A]),
    ]
}

fn voiding() -> impl Strategy<Value = Option<Voiding>> {
    let rule =
        (prop_oneof![3 => Just(2000), 1 => Just(3000)], any::<bool>(), prop::option::of(1..20u32));
    let rule = rule.prop_map(|(min_security_level, store_failed, hours)| Voiding {
        min_security_level,
        store_failed,
        unconfirmed_after_seconds: hours.map(|hours| hours * 3600),
    });
    prop::option::weighted(0.75, rule)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Every answer and every slot is what the specification's words say, after every step; the
    /// quota holds throughout.
    #[test]
    fn every_step_is_decided_as_the_specification_says(
        steps in vec(any_step(), 0..80),
        releasing in releasing_grades(),
        voiding in voiding(),
    ) {
        let mut run = Run::new(releasing, voiding);
        for step in &steps {
            run.take(step)?;
            run.check()?;
        }
        // What was folded step by step is what a replay gives.
        let (device, rows) = fold(&run.device.events);
        prop_assert_eq!(&device, &run.device.device);
        prop_assert_eq!(&rows, &run.device.rows);
    }

    /// Time between two events changes only what has expired: the state a reader folds later is
    /// within the quota at every prefix and every moment.
    #[test]
    fn quota_holds_at_every_prefix_of_history(
        steps in vec(any_step(), 0..80),
        voiding in voiding(),
    ) {
        let mut run = Run::new(vec![Grade::A, Grade::B, Grade::C], voiding);
        for step in &steps {
            run.take(step)?;
        }
        let mut device = Device::default();
        for event in &run.device.events {
            device.evolve(event);
            prop_assert!(device.held_slots(event.at_ms()).len() <= SLOTS as usize);
        }
    }

    /// The tail may apply again what a reader has folded forward already.
    #[test]
    fn any_suffix_applied_again_changes_no_row(
        steps in vec(any_step(), 0..60),
        from in any::<prop::sample::Index>(),
        voiding in voiding(),
    ) {
        let mut run = Run::new(vec![Grade::A, Grade::B, Grade::C], voiding);
        for step in &steps {
            run.take(step)?;
        }
        let events = &run.device.events;
        let mut rows = run.device.rows.clone();
        for (place, event) in events.iter().enumerate().skip(from.index(events.len() + 1)) {
            rows.apply(event, place);
        }
        prop_assert_eq!(&rows, &run.device.rows);
    }

    /// One fact is stored once, and no identity, session and KID has an effect twice.
    #[test]
    fn every_fact_takes_effect_once(steps in vec(any_step(), 0..80), voiding in voiding()) {
        let mut run = Run::new(vec![Grade::A, Grade::B, Grade::C], voiding);
        let mut spent = BTreeSet::new();
        let mut deleted = BTreeSet::new();
        for step in &steps {
            let before = run.device.events.len();
            run.take(step)?;
            let mut triples = BTreeSet::new();
            for event in &run.device.events[before..] {
                match event {
                    Event::LicenseDeleted(e) => {
                        prop_assert!(deleted.insert(e.license_id), "{:?} again", e);
                        triples.insert((e.identity, e.session, e.key_id));
                    }
                    Event::DeletionUnmatched(e) => {
                        triples.insert((e.identity, e.session, e.key_id));
                    }
                    _ => {}
                }
            }
            prop_assert!(triples.is_disjoint(&spent), "{:?} again", triples);
            spent.extend(triples);
        }
        let ids: BTreeSet<_> = run.device.events.iter().map(|event| event.id("s")).collect();
        prop_assert_eq!(ids.len(), run.device.events.len());
    }
}

/// Otherwise the properties above would say little.
#[test]
fn steps_reach_every_kind_of_event_and_answer() {
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeMap::<String, usize>::new();
    for _ in 0..300 {
        let steps = vec(any_step(), 80).new_tree(&mut runner).unwrap().current();
        let rule = voiding().new_tree(&mut runner).unwrap().current();
        let mut run = Run::new(vec![Grade::A, Grade::B, Grade::C], rule);
        for step in &steps {
            run.take(step).unwrap();
        }
        let verdicts = run.verdicts.iter().map(|verdict| format!("{verdict:?}"));
        let events = run.device.events.iter().map(|event| match event {
            Event::LicenseDeleted(e) if e.linked => "linked deletion".to_owned(),
            Event::LicenseVoided(e) => format!("void: {}", e.reason.word()),
            event => event.kind().to_owned(),
        });
        verdicts.chain(events).for_each(|what| *reached.entry(what).or_default() += 1);
    }
    for what in [
        "Grant",
        "Repeat",
        "Spent",
        "NonceReused",
        "Blocked",
        "SessionUsed",
        "OverLimit",
        "license-acquired.v1",
        "acquisition-refused.v1",
        "license-stored.v1",
        "license-store-failed.v1",
        "linked deletion",
        "license-deleted.v1",
        "deletion-unmatched.v1",
        "license-written-off.v1",
        "device-blocked.v1",
        "void: store_failed",
        "void: unconfirmed",
    ] {
        let times = reached.get(what).copied().unwrap_or(0);
        assert!(times >= 50, "{what}: {reached:?}");
    }
}
