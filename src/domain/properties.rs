//! Whatever several identities of one device do, in whatever order: what the rules make of it is
//! what the words of the specification say, worked out a second time on paper.

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
use super::{Device, Event, KeyId, LicenseId, SessionId};

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
        1 => (1..30i64).prop_map(|hours| Step::Wait { hours }),
    ]
}

/// The ledger as a clerk would keep it: a list of licenses, and lists of what was said about them.
#[derive(Default)]
struct Paper {
    licenses: Vec<PaperLicense>,
    /// Granted challenges by identity and nonce: time and bytes.
    granted: BTreeMap<(u8, u8), (i64, u8)>,
    /// Identity, session and KID of every deletion that was answered for good.
    answered: BTreeSet<(u8, SessionId, KeyId)>,
    /// Identity and KID of effective deletions, with the number of licenses issued before.
    effective: BTreeMap<(u8, KeyId), usize>,
}

struct PaperLicense {
    id: LicenseId,
    by: u8,
    nonce: u8,
    kid: KeyId,
    session: SessionId,
    explicit: bool,
    until_ms: Option<i64>,
    acquired_ms: i64,
    level: u32,
    /// What the device said about storing it, if anything.
    stored: Option<bool>,
    deleted: bool,
    counts: bool,
}

/// What the clerk says about a challenge.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Grant,
    Repeat,
    Spent,
    NonceReused,
    SessionUsed,
    OverLimit,
}

impl PaperLicense {
    fn is_live(&self, now_ms: i64) -> bool {
        self.counts && self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }
}

impl Paper {
    fn slots(&self, now_ms: i64) -> BTreeSet<KeyId> {
        self.licenses.iter().filter(|l| l.is_live(now_ms)).map(|l| l.kid).collect()
    }

    fn judge(&self, ask: &Ask, now_ms: i64) -> Verdict {
        if let Some((at_ms, content)) = self.granted.get(&(ask.identity, ask.nonce)) {
            let its = self.licenses.iter().filter(|l| (l.by, l.nonce) == (ask.identity, ask.nonce));
            let mut its = its.map(|l| l.is_live(now_ms) && !l.deleted);
            return match () {
                () if *content != ask.content => Verdict::NonceReused,
                () if now_ms - at_ms > DAY_MS || its.any(|live| !live) => Verdict::Spent,
                () => Verdict::Repeat,
            };
        }
        if !ask.persistent {
            return Verdict::Grant;
        }
        let here = (ask.identity, ask.session_id());
        let acquired = self.licenses.iter().filter(|l| (l.by, l.session) == here);
        let mut used: BTreeSet<KeyId> = acquired.map(|l| l.kid).collect();
        let answered = self.answered.iter().filter(|(by, session, _)| (*by, *session) == here);
        used.extend(answered.map(|(_, _, kid)| kid));
        if ask.kids.iter().any(|kid| used.contains(kid)) {
            return Verdict::SessionUsed;
        }
        let mut slots = self.slots(now_ms);
        let before = slots.len();
        slots.extend(&ask.kids);
        let over_slots = slots.len() > before && slots.len() > SLOTS as usize;
        let crowded = ask.kids.iter().any(|kid| {
            let held = self.licenses.iter().filter(|l| l.kid == *kid && l.is_live(now_ms)).count();
            let wanted = ask.kids.iter().filter(|wanted| *wanted == kid).count();
            held + wanted > LICENSES_PER_SLOT as usize
        });
        if over_slots || crowded { Verdict::OverLimit } else { Verdict::Grant }
    }

    /// Strikes out what the rule voids.
    fn void(&mut self, rule: Option<Voiding>, now_ms: i64) {
        let Some(rule) = rule else { return };
        let allowed_ms = rule.unconfirmed_after_seconds.map(|seconds| i64::from(seconds) * 1000);
        let open = self.licenses.iter_mut().filter(|l| l.is_live(now_ms));
        for license in open.filter(|l| l.level >= rule.min_security_level) {
            let failed = rule.store_failed && license.stored == Some(false);
            let late = allowed_ms.is_some_and(|ms| now_ms - license.acquired_ms > ms);
            if failed || (late && license.stored != Some(true)) {
                license.counts = false;
            }
        }
    }

    fn acknowledge(&mut self, by: u8, nonce: u8, result: u32) {
        for license in self.licenses.iter_mut().filter(|l| (l.by, l.nonce) == (by, nonce)) {
            license.stored.get_or_insert(result == 0);
        }
    }

    fn grant(&mut self, ask: &Ask, ids: &[LicenseId], now_ms: i64) {
        self.granted.insert((ask.identity, ask.nonce), (now_ms, ask.content));
        for (kid, id) in ask.kids.iter().zip(ids).filter(|_| ask.persistent) {
            self.licenses.push(PaperLicense {
                id: *id,
                by: ask.identity,
                nonce: ask.nonce,
                kid: *kid,
                session: ask.session_id(),
                explicit: ask.session.is_some(),
                until_ms: ask.until_ms,
                acquired_ms: now_ms,
                level: ask.security_level,
                stored: None,
                deleted: false,
                counts: true,
            });
        }
    }

    /// Section 9.2, step by step; tells whether the session is known.
    fn delete(&mut self, removal: &Removal, releasing: &[Grade]) -> bool {
        let by = removal.identity;
        let own = |l: &&PaperLicense| l.by == by;
        let linked = self.licenses.iter().filter(own).any(|l| l.session == removal.session);
        let here = |l: &PaperLicense| {
            l.by == by && if linked { l.session == removal.session } else { !l.explicit }
        };
        let triple = |kid: &KeyId| (by, removal.session, *kid);
        let matches = |kid: &&KeyId| {
            self.licenses.iter().any(|l| here(l) && l.kid == **kid)
                || self.answered.contains(&triple(kid))
        };
        let kids: BTreeSet<KeyId> = removal.kids.iter().filter(matches).copied().collect();
        let releases = match (linked, removal.chain_revoked) {
            (true, false) => releasing.contains(&Grade::B),
            _ => releasing.contains(&Grade::C),
        };
        for kid in &kids {
            if !self.answered.insert(triple(kid)) {
                continue;
            }
            let since = self.effective.get(&(by, *kid)).copied().unwrap_or(0);
            let issued =
                self.licenses.iter().skip(since).filter(|l| l.by == by && l.kid == *kid).count();
            if !linked && issued != 1 {
                continue;
            }
            let meant = self.licenses.iter_mut().skip(if linked { 0 } else { since });
            let mut meant: Vec<_> = meant.filter(|l| here(l) && l.kid == *kid).collect();
            meant.retain(|l| !l.deleted);
            for license in &mut meant {
                license.deleted = true;
                license.counts &= !releases;
            }
            let sessions: BTreeSet<SessionId> = meant.iter().map(|l| l.session).collect();
            if !meant.is_empty() {
                self.effective.insert((by, *kid), self.licenses.len());
            }
            // A session whose last license is gone has nothing left to delete.
            for session in sessions {
                let rest = self.licenses.iter().filter(|l| (l.by, l.kid) == (by, *kid));
                if rest.filter(|l| l.session == session).all(|l| l.deleted) {
                    self.answered.insert((by, session, *kid));
                }
            }
        }
        !kids.is_empty()
    }
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
    for _ in 0..200 {
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
        "SessionUsed",
        "OverLimit",
        "license-acquired.v1",
        "acquisition-refused.v1",
        "license-stored.v1",
        "license-store-failed.v1",
        "linked deletion",
        "license-deleted.v1",
        "deletion-unmatched.v1",
        "void: store_failed",
        "void: unconfirmed",
    ] {
        let times = reached.get(what).copied().unwrap_or(0);
        assert!(times >= 50, "{what}: {reached:?}");
    }
}
