//! Calls from many threads at the edge of the limits of devices and of accounts, with kills in
//! between; the checker goes through all of it afterwards.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use license_ledger::clock::Clock;
use license_ledger::domain::event::QuotaPolicyPublished;
use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::{
    Append, Embedded, Expected, Ledger as EventLog, NewEvent, StreamName,
};
use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::policy::SecurityLevel;
use serde_json::{Value, json};

use super::*;
use crate::authorize::{AUDIENCE, ISSUER, Issuer, claims, key_set};
use crate::client::Client;
use crate::device::{Device, deleted, kid, request};
use crate::mutations::Rng;
use crate::process::{Serving, run};
use crate::service::{block_on, make_device};

/// Calls; `LICENSE_LEDGER_TEST_CALLS` sets another number.
const CALLS: usize = 3_000;
/// One kill after so many calls.
const CALLS_A_KILL: usize = 600;
const THREADS: usize = 16;
const DEVICES: usize = 6;
const ACCOUNTS: usize = 2;
const DEVICE_LIMIT: usize = 5;
/// Fewer than what the devices of an account hold together.
const ACCOUNT_LIMIT: usize = 12;

fn limit(subject: &Subject) -> usize {
    match subject {
        Subject::Device(_) => DEVICE_LIMIT,
        Subject::Account(_) => ACCOUNT_LIMIT,
    }
}

/// A device that several threads act for.
struct Shared {
    device: Device,
    account: usize,
    /// What it was told that it holds, and nobody has given back: session, KID, license.
    held: Mutex<Vec<([u8; 16], Uuid, Uuid)>>,
}

/// A challenge on its way.
struct Sent {
    device: usize,
    started: u64,
    challenge: Vec<u8>,
    asked: Asked,
}

enum Asked {
    License { nonce: [u8; 16], key_id: Uuid },
    Deletion { session: [u8; 16], license: Uuid },
}

/// What all threads share.
struct Load {
    issuer: Issuer,
    devices: Vec<Shared>,
    clock: Instant,
    calls: Mutex<Vec<(usize, Call)>>,
    /// Challenges whose answers never came.
    open: Mutex<Vec<Sent>>,
    asked: AtomicUsize,
    killed: AtomicBool,
}

impl Load {
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
            let device = rng.below(self.devices.len());
            let given_back = match rng.below(2) {
                0 => {
                    let mut held = self.devices[device].held.lock().unwrap();
                    let choice = (!held.is_empty()).then(|| rng.below(held.len()));
                    choice.map(|choice| held.swap_remove(choice))
                }
                _ => None,
            };
            let sent = match given_back {
                Some(license) => self.give_back(device, license),
                None => self.acquire(device, number),
            };
            self.send(client, sent);
        }
    }

    fn acquire(&self, device: usize, number: usize) -> Sent {
        let shared = &self.devices[device];
        let key_id = kid(number as u128);
        let keys = [json!({ "kid": key_id })];
        let policy = json!({ "sl": 150, "persist": true });
        let account = format!("account-{}", shared.account);
        let license = json!({ "account": account, "policy": policy, "keys": keys });
        let mut claims = claims(&format!("token-{number}"), license);
        claims["exp"] = u32::MAX.into();
        let token = self.issuer.token(&claims);
        let asked = AcquireRequest { custom_data: Some(token), ..request(&[key_id]) };
        let challenge = shared.device.ask(&asked);
        let asked = Asked::License { nonce: asked.nonce, key_id };
        Sent { device, started: self.now(), challenge, asked }
    }

    fn give_back(&self, device: usize, held: ([u8; 16], Uuid, Uuid)) -> Sent {
        let (session, key_id, license) = held;
        let challenge = self.devices[device].device.give_back(session, &[key_id]);
        let asked = Asked::Deletion { session, license };
        Sent { device, started: self.now(), challenge, asked }
    }

    /// Sends a challenge, for the first time or again.
    fn send(&self, client: &Client, sent: Sent) {
        let Some(answer) = client.try_challenge(&sent.challenge, "") else {
            self.open.lock().unwrap().push(sent);
            return;
        };
        let ended = Some(self.now());
        let shared = &self.devices[sent.device];
        let told = match sent.asked {
            Asked::License { .. } if answer.status == 500 => refused(&answer.text()),
            Asked::License { nonce, key_id } => {
                let acquired = shared.device.accept(&answer.body, &nonce).unwrap();
                let licenses = acquired.rights_ids();
                let held = licenses.iter().map(|license| (nonce, key_id, *license));
                shared.held.lock().unwrap().extend(held);
                Told::Granted(licenses)
            }
            Asked::Deletion { session, license } => {
                deleted(&answer.body, session).unwrap();
                Told::Ended(vec![license])
            }
        };
        let call = Call { started: sent.started, ended, told };
        self.calls.lock().unwrap().push((sent.device, call));
    }
}

/// A refusal, of which the device or account is filled in when the log is known.
fn refused(fault: &str) -> Told {
    let text = fault.replace("&quot;", "\"");
    let (_, rest) = text.split_once("{\"error\"").unwrap_or_else(|| panic!("{fault}"));
    let (object, _) = rest.split_once("</CustomData>").unwrap_or_else(|| panic!("{fault}"));
    let custom: Value = serde_json::from_str(&format!("{{\"error\"{object}")).unwrap();
    assert_eq!(custom["error"], "persistent_license_limit", "{custom}");
    let subject = match custom["scope"].as_str().unwrap() {
        "device" => Subject::Device(String::new()),
        _ => Subject::Account(String::new()),
    };
    Told::Refused { subject, wanted: custom["requested"].as_u64().unwrap() as usize }
}

/// Names the subjects of refusals by what the log calls the devices and accounts.
fn resolved(load: &Load, facts: &[Fact]) -> Vec<Call> {
    let mut names = HashMap::new();
    for fact in facts {
        if let Event::LicenseAcquired(e) = &fact.event {
            let device = fact.recorded.stream.as_str().strip_prefix("device-").unwrap();
            let account = e.account.as_ref().unwrap().to_string();
            names.insert(e.identity.to_string(), (device.to_owned(), account));
        }
    }
    let calls = std::mem::take(&mut *load.calls.lock().unwrap());
    let resolve = |(index, mut call): (usize, Call)| {
        if let Told::Refused { subject, .. } = &mut call.told {
            let (device, account) = &names[&load.devices[index].device.identity()];
            *subject = match subject {
                Subject::Device(_) => Subject::Device(device.clone()),
                Subject::Account(_) => Subject::Account(account.clone()),
            };
        }
        call
    };
    calls.into_iter().map(resolve).collect()
}

fn read_log(data: &Path) -> Vec<Fact> {
    let ledger = EventLog::Embedded(Embedded::open_read_only(data).unwrap());
    let recorded = block_on(ledger.read_all(0, usize::MAX >> 1)).unwrap();
    recorded.into_iter().map(|recorded| Fact::of(recorded).unwrap()).collect()
}

/// Puts limits on devices and accounts into the ledger of a service that is not running.
fn publish_policy(data: &Path) {
    let rule = |id: &str, scope: &str, limit: usize| {
        json!({ "id": id, "scope": scope, "counts": "live_slots", "limit": limit,
                "on_exceed": "deny" })
    };
    let policy = json!({
        "rules": [rule("device-slots", "device", DEVICE_LIMIT),
                  rule("account-slots", "account", ACCOUNT_LIMIT)],
        "licenses_per_slot": 16, "releasing_grades": ["A", "B", "C"],
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
    let devices = (0..DEVICES).map(|number| Shared {
        device: make_device(&service.pki, &format!("device-{number}"), SecurityLevel::Software),
        account: number % ACCOUNTS,
        held: Mutex::new(Vec::new()),
    });
    let mut load = Load {
        issuer,
        devices: devices.collect(),
        clock: Instant::now(),
        calls: Mutex::new(Vec::new()),
        open: Mutex::new(Vec::new()),
        asked: AtomicUsize::new(0),
        killed: AtomicBool::new(false),
    };
    let kills = (calls / CALLS_A_KILL).clamp(1, 40);
    let mut cut_off = 0;
    for round in 0..=kills {
        let client = service.client(&key);
        // Devices send again what got no answer.
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
    let history = resolved(&load, &facts);
    assert_eq!(history.len(), calls);
    assert_eq!(check(&history, &changes(&facts), limit), Ok(()));
    let told = |which: fn(&Told) -> bool| history.iter().filter(|call| which(&call.told)).count();
    let granted = told(|told| matches!(told, Told::Granted(_)));
    let by_device = told(|told| matches!(told, Told::Refused { subject: Subject::Device(_), .. }));
    let by_account =
        told(|told| matches!(told, Told::Refused { subject: Subject::Account(_), .. }));
    let seen = format!("{granted} granted, {by_device} + {by_account} refused, {cut_off} cut off");
    assert!(granted > calls / 10 && by_device > 0 && by_account > 0 && cut_off > 0, "{seen}");
}
