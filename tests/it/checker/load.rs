//! Calls from many threads at the edge of the limits of devices, accounts and titles, of what is new
//! to an account or device, and of those set for one of them, by every path there is, with kills in
//! between; the checker goes through all of it afterwards.

mod answers;
mod calls;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use license_ledger::clock::Clock;
use license_ledger::domain::Event;
use license_ledger::domain::event::QuotaPolicyPublished;
use license_ledger::domain::quota::BLOCKED;
use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::tail::Fact;
use license_ledger::ledger::{
    Append, Embedded, Expected, Ledger as EventLog, NewEvent, StreamName,
};
use license_ledger::playready::policy::SecurityLevel;
use serde_json::{Value, json};

use super::limits::{Counts, Scope};
use super::log::changes;
use super::*;
use crate::authorize::{AUDIENCE, ISSUER, Issuer, key_set};
use crate::client::Client;
use crate::device::{Device, kid};
use crate::mutations::Rng;
use crate::process::{Serving, run};
use crate::service::{block_on, make_device};
use calls::{Had, Sent};

/// Calls; `LICENSE_LEDGER_TEST_CALLS` sets another number.
const CALLS: usize = 3_000;
/// One kill after so many calls.
const CALLS_A_KILL: usize = 600;
const THREADS: usize = 16;
const DEVICES: usize = 6;
const ACCOUNTS: usize = 2;

/// The content group of licenses of which few may be issued at once at an account's expense.
const NEW: &str = "new";

/// That of those of which few may be issued at once to a device.
const RARE: &str = "rare";

const DEVICE_SLOTS: Rule = Rule::on_slots("device-slots", Scope::Device, 5);

/// Fewer than what the devices of an account hold together, also with what goes beyond it.
const ACCOUNT_SLOTS: Rule =
    Rule { overage: 2, ..Rule::on_slots("account-slots", Scope::Account, 10) };

const TITLE_SLOTS: Rule = Rule::on_slots("title-slots", Scope::Title, 2);

/// Times so short that they pass during the load, and limits so low that they are met all the same.
const NEW_LICENSES: Rule = Rule {
    id: "new-licenses",
    scope: Scope::Account,
    counts: Counts::Issued { within_ms: 1_000 },
    group: Some(NEW),
    limit: 2,
    overage: 0,
};
const NEW_DEVICES: Rule = Rule {
    id: "new-devices",
    counts: Counts::Added { within_ms: 2_000 },
    group: None,
    limit: 4,
    ..NEW_LICENSES
};
const RARE_LICENSES: Rule = Rule {
    id: "rare-licenses",
    scope: Scope::Device,
    counts: Counts::Issued { within_ms: 2_000 },
    group: Some(RARE),
    ..NEW_LICENSES
};

const RULES: [Rule; 6] =
    [TITLE_SLOTS, NEW_LICENSES, RARE_LICENSES, NEW_DEVICES, DEVICE_SLOTS, ACCOUNT_SLOTS];

/// An account, as services call it and as the log does.
#[derive(Clone)]
struct Account {
    name: String,
    reference: String,
}

/// A device that several threads act for, as its identities: more with each that it is joined with.
struct Shared {
    name: String,
    account: Account,
    /// Those that ask for licenses.
    identities: RwLock<Vec<Arc<Device>>>,
    /// The reference of the device, once it was joined with another.
    reference: Mutex<Option<String>>,
    /// Whether it is being joined with another one.
    joining: AtomicBool,
    /// The one that it is to be joined with next, if that was refused. An account may forget one of
    /// its devices where too many are left alone.
    waiting: Mutex<Option<Arc<Device>>>,
    /// What it was told that it has, and nobody is about to give back.
    has: Mutex<Vec<Had>>,
}

/// What all threads share.
struct Load {
    issuer: Issuer,
    pki: std::path::PathBuf,
    devices: Vec<Shared>,
    guests: Account,
    clock: Instant,
    calls: Mutex<Vec<Call>>,
    /// Calls whose answers never came.
    open: Mutex<Vec<Sent>>,
    asked: AtomicUsize,
    killed: AtomicBool,
}

impl Load {
    fn new(issuer: Issuer, pki: &Path, client: &Client) -> Self {
        let accounts = (0..ACCOUNTS).map(|number| account(client, &format!("account-{number}")));
        let accounts: Vec<_> = accounts.collect();
        let devices = (0..DEVICES).map(|number| {
            let name = format!("device-{number}");
            let device = make_device(pki, &name, SecurityLevel::Software);
            Shared {
                name,
                account: accounts[number % ACCOUNTS].clone(),
                identities: RwLock::new(vec![Arc::new(device)]),
                reference: Mutex::default(),
                joining: AtomicBool::new(false),
                waiting: Mutex::default(),
                has: Mutex::default(),
            }
        });
        Self {
            issuer,
            pki: pki.to_owned(),
            devices: devices.collect(),
            guests: account(client, "guests"),
            clock: Instant::now(),
            calls: Mutex::new(Vec::new()),
            open: Mutex::new(Vec::new()),
            asked: AtomicUsize::new(0),
            killed: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap()
    }

    /// Asks one thing after another until the service is gone or enough was asked.
    fn work(&self, client: &Client, seed: u64, enough: usize) {
        let mut rng = Rng(seed);
        while !self.killed.load(Ordering::Relaxed) {
            let next = |asked| (asked < enough).then_some(asked + 1);
            let asked = self.asked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
            let Ok(number) = asked else { return };
            let sent = self.next_call(client, number, &mut rng);
            self.send(client, sent);
        }
    }

    /// Sends a call, for the first time or again.
    fn send(&self, client: &Client, sent: Sent) {
        let Some(answer) = sent.request.send(client) else {
            self.open.lock().unwrap().push(sent);
            return;
        };
        let ended = Some(self.now());
        let told = self.told(&sent, &answer);
        let Sent { started, started_ms, .. } = sent;
        self.calls.lock().unwrap().push(Call { started, started_ms, ended, told });
    }
}

/// An account as the service knows it, which tells its reference in what it decides.
fn account(client: &Client, name: &str) -> Account {
    let question = json!({ "device": "any", "account": name, "key_ids": [kid(0)] });
    let decision = client.post_json("/v1/quota/decisions", &question).json();
    let reference = decision["account"].as_str().unwrap().to_owned();
    Account { name: name.to_owned(), reference }
}

fn read_log(data: &Path) -> Vec<Fact> {
    let ledger = EventLog::Embedded(Embedded::open_read_only(data).unwrap());
    let recorded = block_on(ledger.read_all(0, usize::MAX >> 1)).unwrap();
    recorded.into_iter().map(|recorded| Fact::of(recorded).unwrap()).collect()
}

/// A rule as policies have it.
fn written(rule: &Rule) -> Value {
    let scope = match rule.scope {
        Scope::Device => "device",
        Scope::Account => "account",
        Scope::Title => "account_title",
    };
    let counts = match rule.counts {
        Counts::Slots => json!("live_slots"),
        Counts::Issued { within_ms } => json!({ "issued_within_seconds": within_ms / 1000 }),
        Counts::Added { within_ms } => json!({ "devices_added_within_seconds": within_ms / 1000 }),
    };
    let on_exceed = match rule.overage {
        0 => json!("deny"),
        overage => json!({ "allow_overage": overage }),
    };
    let mut written = json!({
        "id": rule.id, "scope": scope, "counts": counts, "limit": rule.limit,
        "on_exceed": on_exceed,
    });
    if let Some(group) = rule.group {
        written["when"] = json!({ "content_groups": [group] });
    }
    written
}

/// Puts the rules into the ledger of a service that is not running.
fn publish_policy(data: &Path) {
    let rules: Vec<_> = RULES.iter().map(written).collect();
    let policy = json!({
        "rules": rules, "licenses_per_slot": 16, "releasing_grades": ["A", "B", "C"],
    });
    let event = Event::QuotaPolicyPublished(QuotaPolicyPublished {
        policy: serde_json::from_value(policy).unwrap(),
        actor: "test".to_owned(),
        reason: "limits for a test".to_owned(),
        at_ms: Clock::System.now().0,
    });
    let ledger = EventLog::Embedded(Embedded::open(data, Options::default()).unwrap());
    let stream = StreamName::new("policy").unwrap();
    let records = vec![(stream.clone(), NewEvent::of(&stream, &event, "test").unwrap())];
    let checks = vec![(stream, Expected::At(0))];
    block_on(ledger.append(Append { records, checks })).unwrap();
}

/// What there has to be so much of that the check says something.
fn check_variety(history: &[Call], facts: &[Fact], cut_off: usize) {
    let refused = |by: &str| {
        let told = |call: &&Call| matches!(&call.told, Told::Refused { rule, .. } if rule == by);
        history.iter().filter(told).count()
    };
    let mut kinds = HashMap::<&str, usize>::new();
    facts.iter().for_each(|fact| *kinds.entry(fact.event.kind()).or_default() += 1);
    let by_kind = [
        ("license-acquired.v1", 20),
        ("license-stored.v1", 50),
        ("license-deleted.v1", 50),
        ("license-recorded.v1", 50),
        ("deletion-recorded.v1", 100),
        ("license-written-off.v1", 100),
        ("reservation-made.v1", 50),
        ("reservation-closed.v1", 50),
        ("quota-override-set.v1", 50),
        ("device-blocked.v1", 1_000),
        ("device-unblocked.v1", 1_000),
        ("device-merged.v1", 300),
        ("device-replaced.v1", 600),
    ];
    let marked = facts.iter().filter(|fact| match &fact.event {
        Event::LicenseAcquired(e) => e.overage,
        Event::ReservationMade(e) => e.overage,
        _ => false,
    });
    let changed = |is_it: &dyn Fn(&Fact, Option<u32>) -> bool| {
        let changed = facts.iter().filter(|fact| match &fact.event {
            Event::QuotaOverrideSet(e) => is_it(fact, e.limit),
            _ => false,
        });
        changed.count()
    };
    let of_account = |fact: &Fact| fact.recorded.stream.as_str().starts_with("account-");
    let linked = history.iter().filter(|call| {
        matches!(&call.told, Told::Done(effects) if matches!(effects[..], [Effect::Linked(_)]))
    });
    let seen = [
        ("cut off", cut_off, 1),
        ("overage", marked.count(), history.len() / 200),
        ("linked", linked.count(), history.len() / 300),
        (
            "set for accounts",
            changed(&|fact, limit| of_account(fact) && limit.is_some()),
            history.len() / 200,
        ),
        (
            "taken back from accounts",
            changed(&|fact, limit| of_account(fact) && limit.is_none()),
            history.len() / 1_000,
        ),
        (
            "taken back from devices",
            changed(&|fact, limit| !of_account(fact) && limit.is_none()),
            history.len() / 1_000,
        ),
    ];
    let rules = RULES.iter().map(|rule| rule.id).chain([BLOCKED]);
    let by_rule = rules.map(|rule| (rule, refused(rule), history.len() / 100));
    let of_kind =
        |(kind, share)| (kind, kinds.get(kind).copied().unwrap_or(0), history.len() / share);
    let seen: Vec<_> = seen.into_iter().chain(by_rule).chain(by_kind.map(of_kind)).collect();
    assert!(seen.iter().all(|(_, count, least)| count >= least), "{seen:?}");
}

#[test]
fn concurrent_calls_at_the_edge_of_device_and_account_limits_keep_every_promise() {
    let calls = std::env::var("LICENSE_LEDGER_TEST_CALLS");
    let calls = calls.map_or(CALLS, |calls| calls.parse().unwrap());
    let dir = tempfile::TempDir::new().unwrap();
    let (data, config) = (dir.path().join("data"), dir.path().join("config.toml"));
    let issuer = Issuer::new("HS256", "service");
    let keys = dir.path().join("keys.json");
    std::fs::write(&keys, key_set(&[&issuer])).unwrap();
    let seed = dir.path().join("seed");
    std::fs::write(&seed, "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw").unwrap();
    let settings = format!(
        "authorize = \"token\"\n[token]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
         keys_file = \"{}\"\n",
        keys.display()
    );
    std::fs::write(&config, settings).unwrap();
    let start = || Serving::start(&data, &["--config", config.to_str().unwrap()]);

    let mut service = start();
    let key = service.admin_key.clone().unwrap();
    service.stop();
    publish_policy(&data);
    run(&["keys", "seed", "--data", data.to_str().unwrap(), seed.to_str().unwrap()]).ok();
    service = start();
    let mut load = Load::new(issuer, &service.pki, &service.client(&key));
    let kills = (calls / CALLS_A_KILL).clamp(1, 40);
    let mut cut_off = 0;
    for round in 0..=kills {
        let client = service.client(&key);
        // What got no answer is sent again.
        let open = std::mem::take(load.open.get_mut().unwrap());
        cut_off += open.len();
        open.into_iter().for_each(|sent| load.send(&client, sent));
        let enough = calls * (round + 1) / (kills + 1);
        let last = round == kills;
        *load.killed.get_mut() = false;
        std::thread::scope(|scope| {
            let (load, client) = (&load, &client);
            for thread in 0..THREADS {
                let seed = (round * THREADS + thread) as u64;
                scope.spawn(move || load.work(client, seed, enough));
            }
            // In the middle of calls: a little before all of this round have been asked.
            while !last && load.asked.load(Ordering::Relaxed) + THREADS / 2 < enough {
                std::thread::sleep(Duration::from_micros(200));
            }
            if !last {
                service.kill();
                load.killed.store(true, Ordering::Relaxed);
            }
        });
        if !last {
            service = start();
        }
    }
    service.stop();
    let facts = read_log(&data);
    let history = std::mem::take(load.calls.get_mut().unwrap());
    assert_eq!(history.len(), calls);
    assert_eq!(check(&history, &changes(&facts), &RULES), Ok(()));
    check_variety(&history, &facts, cut_off);
}
