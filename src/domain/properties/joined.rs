//! Several devices and accounts, in whatever order licenses come and go, are reported, reserved, voided
//! and written off, and devices are blocked, joined and replaced: accounts hold what devices hold.

use uuid::Uuid;

use super::log::Log;
use super::*;
use crate::domain::account::Account;
use crate::domain::device::elsewhere::Which;
use crate::domain::event::{
    DeviceMerged, DeviceReplaced, IdentityLinked, LicenseRecorded, Replaced,
};
use crate::domain::holding::Doubt;
use crate::domain::ids::ReferenceKey;
use crate::domain::scenario::{account_ref, by_cli, identity, reason};
use crate::domain::{AccountRef, DeviceRef};

const DEVICES: usize = 4;
const ACCOUNTS: [Option<&str>; 3] = [None, Some("family"), Some("office")];

#[derive(Clone, Debug)]
enum Act {
    /// A new challenge of an identity, at the expense of an account or of none.
    Acquire { by: usize, kids: Vec<u8>, account: usize, hours: Option<i64> },
    /// The word of an identity on its newest challenge but so many.
    Acknowledge { by: usize, back: usize, result: u32 },
    /// A secure delete for the session of one of its challenges, effective or too weak.
    Delete { by: usize, back: usize, revoked: bool },
    /// An operator writes off what the identity's device has, or one KID of it.
    WriteOff { by: usize, kid: Option<u8>, hours: Option<i64> },
    /// Another system reports a license, under a reservation or not.
    Report { by: usize, kid: u8, account: usize, hours: Option<i64>, back: Option<usize> },
    /// It reports whether one was stored.
    ReportStorage { by: usize, back: usize, stored: bool },
    /// It reports that one was deleted, on evidence good enough or not.
    ReportDeletion { by: usize, back: usize, grade: Grade },
    /// A back end reserves room.
    Reserve { by: usize, kids: Vec<u8>, account: usize, hours: i64 },
    /// It gives a reservation back.
    Release { by: usize, back: usize },
    /// An operator blocks the identity's device, or unblocks it.
    Block { by: usize, blocked: bool },
    /// An identity is linked to the device of another one.
    Link { by: usize, into: usize },
    /// The devices of two identities are one, or the one replaces the other.
    Join { from: usize, into: usize, how: How },
    /// Time passes.
    Wait { hours: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Merged,
    Moved,
    WrittenOff,
}

fn any_act() -> impl Strategy<Value = Act> {
    let by = || 0..DEVICES;
    let kids = vec(1..=5u8, 1..=3);
    let hours = || prop::option::weighted(0.4, 1..48i64);
    let how =
        prop_oneof![2 => Just(How::Merged), 1 => Just(How::Moved), 1 => Just(How::WrittenOff)];
    prop_oneof![
        8 => (by(), kids, 0..3usize, hours())
            .prop_map(|(by, kids, account, hours)| Act::Acquire { by, kids, account, hours }),
        3 => (by(), 0..4usize, 0..=1u32)
            .prop_map(|(by, back, result)| Act::Acknowledge { by, back, result }),
        4 => (by(), 0..4usize, prop::bool::weighted(0.3))
            .prop_map(|(by, back, revoked)| Act::Delete { by, back, revoked }),
        2 => (by(), prop::option::weighted(0.8, 1..=5u8), hours())
            .prop_map(|(by, kid, hours)| Act::WriteOff { by, kid, hours }),
        4 => (by(), 1..=5u8, 0..3usize, hours(), prop::option::of(0..3usize))
            .prop_map(|(by, kid, account, hours, back)| {
                Act::Report { by, kid, account, hours, back }
            }),
        1 => (by(), 0..3usize, any::<bool>())
            .prop_map(|(by, back, stored)| Act::ReportStorage { by, back, stored }),
        2 => (by(), 0..3usize, prop_oneof![Just(Grade::B), Just(Grade::C)])
            .prop_map(|(by, back, grade)| Act::ReportDeletion { by, back, grade }),
        3 => (by(), vec(1..=5u8, 1..=3), 0..3usize, 1..30i64)
            .prop_map(|(by, kids, account, hours)| Act::Reserve { by, kids, account, hours }),
        1 => (by(), 0..3usize).prop_map(|(by, back)| Act::Release { by, back }),
        1 => (by(), prop::bool::weighted(0.3))
            .prop_map(|(by, blocked)| Act::Block { by, blocked }),
        1 => (by(), by()).prop_map(|(by, into)| Act::Link { by, into }),
        2 => (by(), by(), how).prop_map(|(from, into, how)| Act::Join { from, into, how }),
        1 => (1..30i64).prop_map(|hours| Act::Wait { hours }),
    ]
}

/// Devices that share accounts. The identity with the number of a device was first seen on it.
struct Household {
    devices: Vec<Scenario>,
    accounts: BTreeMap<AccountRef, Account>,
    /// The device that each identity belongs to.
    at: Vec<usize>,
    /// Challenges of each identity.
    asks: Vec<Vec<Ask>>,
    /// The devices that ever got something at the expense of an account, as they are called by now.
    members: BTreeMap<&'static str, BTreeSet<usize>>,
    /// Licenses of other systems by their numbers, and reservations, each with its identity.
    reports: Vec<(usize, u128)>,
    reservations: Vec<(usize, Uuid)>,
    log: Log,
    now_ms: i64,
    nonce: u8,
    joined: usize,
}

impl Household {
    fn new(voiding: Option<Voiding>) -> Self {
        let devices = (0..DEVICES).map(|number| {
            let mut device = Scenario::with_room_for(4);
            device.policy.voiding = voiding;
            device.policy.releasing_grades = vec![Grade::A, Grade::B];
            device.name = ReferenceKey::new([7; 32]).device(&number.to_string());
            device.drawn = (number as u128 + 1) << 64;
            device
        });
        let devices: Vec<_> = devices.collect();
        Self {
            now_ms: devices[0].now_ms,
            devices,
            accounts: BTreeMap::new(),
            at: (0..DEVICES).collect(),
            asks: std::iter::repeat_with(Vec::new).take(DEVICES).collect(),
            members: BTreeMap::new(),
            reports: Vec::new(),
            reservations: Vec::new(),
            log: Log::default(),
            nonce: 0,
            joined: 0,
        }
    }

    /// Has something happen on a device, with the accounts of all, after what is overdue was voided
    /// in an append of its own.
    fn on<T>(&mut self, number: usize, what: impl FnOnce(&mut Scenario) -> T) -> T {
        self.append(number, Scenario::void_overdue);
        self.append(number, what)
    }

    fn append<T>(&mut self, number: usize, what: impl FnOnce(&mut Scenario) -> T) -> T {
        let device = &mut self.devices[number];
        device.now_ms = self.now_ms;
        device.accounts = self.accounts.clone();
        let (before, first) = (device.device.clone(), device.events.len());
        let done = what(device);
        self.now_ms = device.now_ms;
        let events = &device.events[first..];
        self.log.append(&device.name, &before, events, &mut self.accounts);
        done
    }

    fn take(&mut self, act: &Act) -> Result<(), TestCaseError> {
        // Whatever happens is later than all before, as accounts and devices are decided on.
        self.now_ms += 1;
        match act {
            Act::Acquire { by, kids, account, hours } => {
                self.nonce += 1;
                let account = ACCOUNTS[*account];
                let ask = Ask {
                    account,
                    until_ms: hours.map(|hours| self.now_ms + hours * HOUR_MS),
                    ..Ask::new(self.nonce, &numbered(kids))
                };
                let ask = ask.by(u8::try_from(*by + 1).unwrap()).under(self.nonce);
                let at = self.at[*by];
                if let Outcome::Grant(_) = self.on(at, |device| device.acquire(&ask)) {
                    self.asks[*by].push(ask);
                    if let Some(account) = account {
                        self.members.entry(account).or_default().insert(at);
                    }
                }
            }
            Act::Acknowledge { by, back, result } => {
                let Some(ask) = nth_back(&self.asks[*by], *back) else { return Ok(()) };
                let results: Vec<_> = ask.kids.iter().map(|kid| (*kid, *result)).collect();
                let at = self.at[*by];
                self.on(at, |device| device.acknowledge(ask.identity, ask.nonce, &results));
            }
            Act::Delete { by, back, revoked } => {
                let Some(ask) = nth_back(&self.asks[*by], *back) else { return Ok(()) };
                let removal = Removal::new(ask.nonce, &ask.kids).by(ask.identity);
                let removal = Removal { chain_revoked: *revoked, ..removal };
                let at = self.at[*by];
                let outcome = self.on(at, |device| device.delete(&removal));
                let delete::Outcome::Answer { deletions, .. } = outcome else {
                    return Err(TestCaseError::fail(format!("{removal:?} is of no session")));
                };
                // Whichever device it counted on: it counts on none.
                for deletion in deletions {
                    if let delete::Deletion::Deleted(e) = deletion
                        && e.releases
                    {
                        let mut live = (0..DEVICES).map(|number| self.live_on(number));
                        prop_assert!(!live.any(|live| live.contains(&e.license_id)), "{:?}", e);
                    }
                }
            }
            Act::WriteOff { by, kid: number, hours } => {
                let cooldown_ms = hours.map(|hours| hours * HOUR_MS);
                let chosen = number.map(kid);
                let chosen = chosen.as_ref().map(std::slice::from_ref);
                let at = self.at[*by];
                self.on(at, |device| device.write_off(chosen, cooldown_ms));
            }
            Act::Report { by, kid: number, account, hours, back } => {
                self.report(*by, kid(*number), ACCOUNTS[*account], *hours, *back);
            }
            Act::ReportStorage { by, back, stored } => {
                let (at, which) = (self.at[*by], self.reported(*by, *back));
                which.map(|which| self.on(at, |device| device.record_storage(which, *stored)));
            }
            Act::ReportDeletion { by, back, grade } => {
                let (at, which) = (self.at[*by], self.reported(*by, *back));
                which.map(|which| self.on(at, |device| device.record_deletion(which, *grade)));
            }
            Act::Reserve { by, kids, account, hours } => {
                let (at, kids) = (self.at[*by], numbered(kids));
                let made = self
                    .on(at, |device| device.reserve(&kids, ACCOUNTS[*account], hours * HOUR_MS));
                self.reservations.extend(made.map(|made| (*by, made)));
            }
            Act::Release { by, back } => {
                let (at, made) = (self.at[*by], self.reserved(*by, *back));
                made.map(|made| self.on(at, |device| device.release(made)));
            }
            Act::Block { by, blocked } => {
                let at = self.at[*by];
                if !self.devices[at].events.is_empty() {
                    self.on(at, |device| device.set_blocked(*blocked));
                }
            }
            Act::Link { by, into } => self.link(*by, self.at[*into]),
            Act::Join { from, into, how } => self.join(self.at[*from], self.at[*into], *how)?,
            Act::Wait { hours } => self.now_ms += hours * HOUR_MS,
        }
        Ok(())
    }

    fn join(&mut self, from: usize, into: usize, how: How) -> Result<(), TestCaseError> {
        let ready = |number: usize| {
            let Scenario { device, events, .. } = &self.devices[number];
            !events.is_empty() && !device.replaced && !device.blocked
        };
        if from == into || !ready(from) || !ready(into) {
            return Ok(());
        }
        for number in [from, into] {
            self.append(number, Scenario::void_overdue);
        }
        self.joined += 1;
        let (at_ms, reason, actor) = (self.now_ms, reason(), "cli".to_owned());
        let names = [from, into].map(|number| self.devices[number].name.clone());
        let [name, by] = names;
        let text = reason.as_str().to_owned();
        if how == How::WrittenOff {
            self.on(from, |device| {
                device.write_off(None, None);
                let licenses = Replaced::WrittenOff;
                let replaced = DeviceReplaced { by, licenses, actor, reason: text, at_ms };
                device.record(Event::DeviceReplaced(replaced));
            });
            // What was written off before goes on to count until its time.
            let device = &self.devices[from].device;
            prop_assert_eq!(device.not_written_off(at_ms).count(), 0);
            return Ok(());
        }
        let both =
            self.live_on(from).into_iter().chain(self.live_on(into)).collect::<BTreeSet<_>>();
        let device = &self.devices[from].device;
        let took = device.hand_over(&name, how == How::Moved, by_cli(&reason), at_ms).unwrap();
        let given_up = match how {
            How::Merged => {
                Event::DeviceMerged(DeviceMerged { into: by, actor, reason: text, at_ms })
            }
            _ => {
                let licenses = Replaced::Moved;
                let replaced = DeviceReplaced { by, licenses, actor, reason: text, at_ms };
                Event::DeviceReplaced(replaced)
            }
        };
        self.on(from, |device| device.record(given_up));
        let rows = self.devices[from].rows.clone();
        self.on(into, |device| {
            // All of them are older than what the device does from here on.
            for (key, row) in rows.0 {
                device.rows.0.insert(key, crate::domain::lookup::Row { sequence: 0, ..row });
            }
            device.record(Event::DeviceTookOver(Box::new(took)));
        });
        self.log.join_last();
        for at in self.at.iter_mut().filter(|at| **at == from) {
            *at = into;
        }
        for members in self.members.values_mut() {
            if members.remove(&from) {
                members.insert(into);
            }
        }
        prop_assert!(self.live_on(from).is_empty());
        prop_assert_eq!(self.live_on(into), both, "nothing ends because devices are joined");
        Ok(())
    }

    fn report(
        &mut self,
        by: usize,
        key_id: KeyId,
        account: Option<&'static str>,
        hours: Option<i64>,
        back: Option<usize>,
    ) {
        let (at, now_ms) = (self.at[by], self.now_ms);
        let number = self.reports.len() as u128 + 1;
        let reservation = back.and_then(|back| self.reserved(by, back));
        let device = &self.devices[at].device;
        let payer = reservation.and_then(|id| device.payer_of(id, now_ms));
        let payer = account.map(account_ref).or_else(|| payer.cloned());
        let license = LicenseRecorded {
            license_id: LicenseId(Uuid::from_u128(number + (1 << 100))),
            key_id,
            drm_system: "widevine".to_owned(),
            license_reference: number.to_string(),
            persistent: true,
            counted_until_ms: hours.map(|hours| now_ms + hours * HOUR_MS),
            account: payer.clone(),
            title: None,
            content_group: None,
            security_level: Some(2000),
            model: "Example TV 1".to_owned(),
            quota_policy_revision: 0,
            overage: false,
            grade: None,
            evidence: None,
            occurred_ms: None,
            actor: String::new(),
            at_ms: 0,
        };
        if self.on(at, |device| device.record_elsewhere(license, reservation)) {
            self.reports.push((by, number));
            let name = ACCOUNTS.into_iter().flatten().find(|name| Some(account_ref(name)) == payer);
            name.map(|name| self.members.entry(name).or_default().insert(at));
        }
    }

    fn reported(&self, by: usize, back: usize) -> Option<Which> {
        let mut own = self.reports.iter().rev().filter(|(of, _)| *of == by);
        own.nth(back).map(|(_, number)| Which::Reference {
            drm_system: "widevine".to_owned(),
            license_reference: number.to_string(),
        })
    }

    fn reserved(&self, by: usize, back: usize) -> Option<Uuid> {
        self.reservations.iter().rev().filter(|(of, _)| *of == by).nth(back).map(|(_, id)| *id)
    }

    fn link(&mut self, by: usize, into: usize) {
        let (from, identity) = (self.at[by], identity(u8::try_from(by + 1).unwrap()));
        let Scenario { device, events, rows, .. } = &self.devices[from];
        let stays = device.blocked || device.holds_of(identity, self.now_ms);
        if from == into || stays || self.devices[into].events.is_empty() {
            return;
        }
        let is_known = !events.is_empty();
        let of_identity = rows.0.iter().filter(|(key, _)| key.identity() == identity);
        let rows: Vec<_> = of_identity.map(|(key, row)| (key.clone(), row.clone())).collect();
        let linked = Event::IdentityLinked(IdentityLinked {
            identity,
            device: self.devices[into].name.clone(),
            actor: Some("cli".to_owned()),
            reason: Some("a test".to_owned()),
            at_ms: self.now_ms,
        });
        if is_known {
            self.on(from, |device| device.record(linked.clone()));
        }
        self.on(into, |device| {
            for (key, row) in rows {
                device.rows.0.insert(key, crate::domain::lookup::Row { sequence: 0, ..row });
            }
            device.record(linked);
        });
        self.at[by] = into;
    }

    fn live_on(&self, number: usize) -> BTreeSet<LicenseId> {
        let held = self.devices[number].device.held(self.now_ms);
        held.map(|(_, held)| held.license_id).collect()
    }

    /// What must be true after every act.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut held = BTreeSet::new();
        for Scenario { name, device, .. } in &self.devices {
            for (key_id, license) in device.held(self.now_ms) {
                let id = license.license_id;
                let account = device.account_of(key_id, id, self.now_ms).cloned();
                held.extend(account.map(|account| {
                    (account, name.clone(), key_id, id, license.confirmed, license.counted_until_ms)
                }));
            }
        }
        let mut mirrored = BTreeSet::new();
        for (account, state) in &self.accounts {
            for (of, member) in state.members() {
                mirrored.extend(member.held(self.now_ms).map(|(key_id, l)| {
                    let (id, until_ms) = (l.license_id, l.counted_until_ms);
                    (account.clone(), of.clone(), key_id, id, l.confirmed, until_ms)
                }));
            }
        }
        prop_assert_eq!(held, mirrored);
        prop_assert_eq!(self.doubts_of_accounts(), self.doubts_of_devices());
        for (account, members) in &self.members {
            let account = &self.accounts[&account_ref(account)];
            let expected: BTreeSet<&DeviceRef> =
                members.iter().map(|number| &self.devices[*number].name).collect();
            let added = account.members().filter(|(_, member)| member.added_ms.is_some());
            let found: BTreeSet<_> = added.map(|(name, _)| name).collect();
            prop_assert_eq!(found, expected, "a device that is joined is not another one");
        }
        for device in &self.devices {
            let in_use = device.explain(&[]).rules[0].in_use;
            prop_assert!(in_use.confirmed <= in_use.live && in_use.live <= in_use.possible);
        }
        Ok(())
    }

    /// What devices may still hold although it was released, by the account that paid.
    fn doubts_of_devices(&self) -> BTreeSet<(AccountRef, DeviceRef, Option<LicenseId>)> {
        let all = self.devices.iter().flat_map(|device| {
            let doubts = device.device.doubtful.all().filter(|doubt| self.is_open(doubt));
            doubts.filter_map(|doubt| {
                Some((doubt.account.clone()?, device.name.clone(), doubt.license_id))
            })
        });
        all.collect()
    }

    fn doubts_of_accounts(&self) -> BTreeSet<(AccountRef, DeviceRef, Option<LicenseId>)> {
        let all = self.accounts.iter().flat_map(|(account, state)| {
            let doubts = state.doubtful.all().filter(|doubt| self.is_open(doubt));
            doubts.filter_map(|doubt| {
                Some((account.clone(), doubt.device.clone()?, doubt.license_id))
            })
        });
        all.collect()
    }

    fn is_open(&self, doubt: &Doubt) -> bool {
        doubt.until_ms.is_none_or(|until_ms| self.now_ms < until_ms)
    }

    /// What was folded act by act is what a replay gives, also of the accounts.
    fn check_replay(&self) -> Result<(), TestCaseError> {
        for Scenario { device, events, .. } in &self.devices {
            let mut replayed = Device::default();
            events.iter().for_each(|event| replayed.evolve(event));
            prop_assert_eq!(&replayed, device);
            let mut ids: Vec<_> = events.iter().map(|event| event.id("s")).collect();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), events.len(), "two facts of one device have the same id");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn accounts_hold_what_devices_hold_however_devices_are_joined(
        acts in vec(any_act(), 0..60),
        voiding in voiding(),
    ) {
        let mut household = Household::new(voiding);
        for act in &acts {
            household.take(act)?;
            household.check()?;
        }
        household.check_replay()?;
        household.log.check()?;
    }
}

/// Otherwise the property above would say little.
#[test]
fn households_are_joined_and_give_up_what_they_hold() {
    let mut runner = TestRunner::deterministic();
    let (mut joined, mut kinds) = (0, BTreeMap::<&str, usize>::new());
    for _ in 0..100 {
        let acts = vec(any_act(), 60).new_tree(&mut runner).unwrap().current();
        let rule = voiding().new_tree(&mut runner).unwrap().current();
        let mut household = Household::new(rule);
        acts.iter().for_each(|act| household.take(act).unwrap());
        joined += household.joined;
        let events = household.devices.iter().flat_map(|device| &device.events);
        events.for_each(|event| *kinds.entry(event.kind()).or_default() += 1);
    }
    assert!(joined >= 100, "{joined}");
    for kind in [
        "device-merged.v1",
        "device-replaced.v1",
        "device-took-over.v1",
        "license-written-off.v1",
        "license-deleted.v1",
        "license-stored.v1",
        "license-voided.v1",
        "license-recorded.v1",
        "storage-recorded.v1",
        "deletion-recorded.v1",
        "reservation-made.v1",
        "reservation-closed.v1",
        "device-blocked.v1",
        "identity-linked.v1",
    ] {
        let times = kinds.get(kind).copied().unwrap_or(0);
        assert!(times >= 30, "{kind}: {kinds:?}");
    }
}
