//! SIGKILL under load: what was acknowledged is in the log once, and nothing is half done.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use license_ledger::clock::Clock;
use license_ledger::ledger::tail::Fact;
use license_ledger::ledger::{Embedded, Ledger};
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::projections::Inventory;
use uuid::Uuid;

use crate::client::Client;
use crate::device::{Device, PERSISTENT, deleted, fault_of, kid, refused, request};
use crate::mutations::Rng;
use crate::process::Serving;
use crate::replay::Replay;
use crate::service::{block_on, make_device};

/// Kills; `LICENSE_LEDGER_TEST_KILLS` sets another number.
const KILLS: usize = 50;
const WORKERS: usize = 4;
/// Slots a device may hold: few, so that deletions matter.
const LIMIT: usize = 4;
/// KIDs of one device: more than fit.
const KIDS: usize = 8;

/// What a device asked for.
#[derive(Clone)]
enum Asked {
    Licenses { nonce: [u8; 16], kids: Vec<Uuid>, persistent: bool },
    Confirm { transaction_id: Uuid, rights_ids: Vec<Uuid> },
    Delete { session: [u8; 16], rights_ids: Vec<Uuid> },
}

/// Persistent licenses of one session that the device holds, as it knows.
#[derive(Clone)]
struct Held {
    session: [u8; 16],
    kids: Vec<Uuid>,
    rights_ids: Vec<Uuid>,
    transaction_id: Uuid,
    confirmed: bool,
}

/// One device under load, and what it was told.
struct Worker {
    device: Device,
    rng: Rng,
    held: Vec<Held>,
    /// Rights ids by nonce, of every answer that arrived.
    granted: BTreeMap<[u8; 16], Vec<Uuid>>,
    persistent: Vec<Uuid>,
    confirmed: Vec<Uuid>,
    deleted: Vec<Uuid>,
    /// The challenge whose answer never came.
    open: Option<(Asked, Vec<u8>)>,
}

impl Worker {
    fn new(pki: &Path, number: usize) -> Self {
        let device = make_device(pki, &format!("worker-{number}"), SecurityLevel::Software);
        Self {
            device,
            rng: Rng(number as u64),
            held: Vec::new(),
            granted: BTreeMap::new(),
            persistent: Vec::new(),
            confirmed: Vec::new(),
            deleted: Vec::new(),
            open: None,
        }
    }

    /// Asks one thing after another until the service is gone.
    fn work(&mut self, client: &Client, answers: &AtomicUsize) {
        while self.open.is_none() {
            let (asked, challenge) = self.next();
            self.send(client, asked, challenge);
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn next(&mut self) -> (Asked, Vec<u8>) {
        let choice = self.rng.below(10);
        if choice < 2
            && let Some(held) = self.held.iter().find(|held| !held.confirmed)
        {
            let results: Vec<_> = held.kids.iter().map(|kid| (*kid, 0)).collect();
            let challenge = self.device.confirm(held.transaction_id, &results);
            let (transaction_id, rights_ids) = (held.transaction_id, held.rights_ids.clone());
            return (Asked::Confirm { transaction_id, rights_ids }, challenge);
        }
        if choice < 5 && !self.held.is_empty() {
            let held = &self.held[self.rng.below(self.held.len())];
            let challenge = self.device.give_back(held.session, &held.kids);
            let (session, rights_ids) = (held.session, held.rights_ids.clone());
            return (Asked::Delete { session, rights_ids }, challenge);
        }
        let first = self.rng.below(KIDS);
        let numbers = first..=first + self.rng.below(2);
        let kids: Vec<_> = numbers.map(|number| kid(number as u128)).collect();
        let persistent = self.rng.below(4) > 0;
        let request = request(&kids);
        let asked = Asked::Licenses { nonce: request.nonce, kids, persistent };
        (asked, self.device.ask(&request))
    }

    fn send(&mut self, client: &Client, asked: Asked, challenge: Vec<u8>) {
        let query = match &asked {
            Asked::Licenses { persistent: true, .. } => PERSISTENT,
            _ => "",
        };
        match client.try_challenge(&challenge, query) {
            Some(answer) => self.take(asked, answer.status, &answer.body),
            None => self.open = Some((asked, challenge)),
        }
    }

    fn take(&mut self, asked: Asked, status: u16, answer: &[u8]) {
        match asked {
            Asked::Licenses { .. } if status == 500 => {
                assert_eq!(fault_of(answer), refused("persistent_license_limit"));
            }
            Asked::Licenses { nonce, kids, persistent } => {
                let acquired = self.device.accept(answer, &nonce).unwrap();
                let rights_ids = acquired.rights_ids();
                assert_eq!(rights_ids.len(), kids.len());
                self.granted.insert(nonce, rights_ids.clone());
                if persistent {
                    self.persistent.extend(&rights_ids);
                    let transaction_id = acquired.transaction_id.unwrap();
                    let held =
                        Held { session: nonce, kids, rights_ids, transaction_id, confirmed: false };
                    self.held.push(held);
                }
            }
            Asked::Confirm { transaction_id, rights_ids } => {
                assert_eq!(status, 200);
                self.confirmed.extend(rights_ids);
                let same = |held: &&mut Held| held.transaction_id == transaction_id;
                self.held.iter_mut().filter(same).for_each(|held| held.confirmed = true);
            }
            Asked::Delete { session, rights_ids } => {
                deleted(answer, session).unwrap();
                self.deleted.extend(rights_ids);
                self.held.retain(|held| held.session != session);
            }
        }
    }

    /// Sends the challenge again whose answer the kill cut off. What the log had granted for it
    /// before is what it gets.
    fn send_again(&mut self, client: &Client, log: &Log) {
        let Some((asked, challenge)) = self.open.take() else { return };
        let before = match &asked {
            Asked::Licenses { nonce, .. } => log.granted(nonce),
            _ => Vec::new(),
        };
        let nonce = match &asked {
            Asked::Licenses { nonce, .. } => Some(*nonce),
            _ => None,
        };
        self.send(client, asked, challenge);
        assert!(self.open.is_none(), "the service is gone before it was killed");
        if !before.is_empty() {
            let answered = nonce.and_then(|nonce| self.granted.get(&nonce));
            assert_eq!(answered, Some(&before), "the repeat got other licenses");
        }
    }
}

/// The log of a data directory, read further and further.
struct Log {
    facts: Vec<Fact>,
}

impl Log {
    /// Reads what was appended since.
    fn read_on(&mut self, data: &Path) {
        let ledger = Ledger::Embedded(Embedded::open_read_only(data).unwrap());
        let from = self.facts.len() as u64;
        let more = block_on(ledger.read_all(from, usize::MAX >> 1)).unwrap();
        self.facts.extend(more.into_iter().map(|recorded| Fact::of(recorded).unwrap()));
    }

    /// The rights ids, in order, of what was granted for a nonce.
    fn granted(&self, nonce: &[u8; 16]) -> Vec<Uuid> {
        let replay = Replay::of(&self.facts);
        let mut licenses: Vec<_> =
            replay.acquired.iter().filter(|license| license.nonce.0.0 == *nonce).collect();
        licenses.sort_by_key(|license| license.ordinal);
        let rights_id = |license: &&license_ledger::domain::event::LicenseAcquired| {
            if license.persistent.effective {
                license.license_id.0
            } else {
                Uuid::from_u128(u128::from_be_bytes(*nonce) + u128::from(license.ordinal))
            }
        };
        licenses.iter().map(rights_id).collect()
    }

    /// Checks the log against what devices were told.
    fn check(&self, workers: &[Worker]) {
        let replay = Replay::of(&self.facts);
        assert!(replay.most_held <= LIMIT, "over quota at some prefix of the log");
        let count = |list: &[license_ledger::domain::LicenseId], id: &Uuid| {
            list.iter().filter(|license| license.0 == *id).count()
        };
        let acquired: Vec<_> = replay.acquired.iter().map(|license| license.license_id).collect();
        for worker in workers {
            for id in &worker.persistent {
                assert_eq!(count(&acquired, id), 1, "license {id} was answered");
            }
            for id in &worker.confirmed {
                assert_eq!(count(&replay.stored, id), 1, "the storing of {id} was answered");
            }
            for id in &worker.deleted {
                assert_eq!(count(&replay.deleted, id), 1, "the deletion of {id} was answered");
            }
        }
        let mut granted = BTreeMap::<[u8; 16], Vec<u32>>::new();
        for license in &replay.acquired {
            granted.entry(license.nonce.0.0).or_default().push(license.ordinal);
        }
        for (nonce, ids) in workers.iter().flat_map(|worker| &worker.granted) {
            let ordinals: Vec<_> = (0..ids.len() as u32).collect();
            assert_eq!(granted.get(nonce), Some(&ordinals), "a batch is torn or there twice");
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let kills = std::env::var("LICENSE_LEDGER_TEST_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    let dir = tempfile::TempDir::new().unwrap();
    let data = dir.path().join("data");
    let config = dir.path().join("config.toml");
    std::fs::write(&config, format!("[quota]\ndevice_limit = {LIMIT}\n")).unwrap();
    let start = || Serving::start(&data, &["--config", config.to_str().unwrap()]);

    let mut service = start();
    let key = service.admin_key.clone().unwrap();
    let mut workers: Vec<_> = (0..WORKERS).map(|n| Worker::new(&service.pki, n)).collect();
    let mut log = Log { facts: Vec::new() };
    let mut rng = Rng(7);
    for cycle in 0..kills {
        let client = service.client(&key);
        workers.iter_mut().for_each(|worker| worker.send_again(&client, &log));
        let answers = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| worker.work(&client, &answers));
            }
            // At some moment of some answer, not before there was any.
            let enough = 1 + rng.below(60);
            let started = Instant::now();
            while answers.load(Ordering::Relaxed) < enough
                && started.elapsed() < Duration::from_secs(10)
            {
                std::thread::sleep(Duration::from_micros(50 + rng.below(900) as u64));
            }
            service.kill();
        });
        log.read_on(&data);
        if cycle % 10 == 0 {
            log.check(&workers);
        }
        service = start();
    }
    let client = service.client(&key);
    workers.iter_mut().for_each(|worker| worker.send_again(&client, &log));
    log.read_on(&data);
    log.check(&workers);
    // Waits until the read model has applied everything.
    client.json(&format!("/v1/devices?min_position={}", log.facts.len()));
    let inventory = Inventory::open_read_only(&data).unwrap();
    Replay::of(&log.facts).check_inventory(&inventory, Clock::System.now());
    service.stop();
    let told: usize = workers.iter().map(|worker| worker.granted.len()).sum();
    assert!(told >= kills, "the load was too light to mean anything: {told} grants");
}
