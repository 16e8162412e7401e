//! What a long history costs: a device with 100,000 past acquisitions beside one with a single one.
//!
//! Each past acquisition has an event of its own and one for its deletion, so both devices hold the
//! same number of live licenses all the time. The service is stopped and opened again forty times;
//! each time both devices decide for the first time, then answer dry runs and real acquisitions in
//! process, in turns. Whoever goes first finds everything cold, so medians are taken of first and of
//! second turns, and a figure is the mean of the two; the line's ratio is the worst of the three,
//! and `ours` and `limit` belong to it. The device that stands for a new one is enrolled, so that
//! both append exactly one event.
//!
//! ```text
//! cargo bench --bench history
//! HISTORY_ACQUISITIONS=1000 HISTORY_ROUNDS=2 cargo bench --bench history    a quick look
//! ```

// A measurement that fails has nothing to recover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod lab;
mod report;

use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Challenger, Lab, random_array};
use license_ledger::cli::service::Service;
use license_ledger::domain::event::{Grade, LicenseAcquired, LicenseDeleted};
use license_ledger::domain::ids::Wire16;
use license_ledger::domain::usage::Wanted;
use license_ledger::domain::{
    DeviceRef, Digest, Event, KeyId, LicenseId, Nonce, SessionId, TransactionId,
};
use license_ledger::ledger::state::store::DEVICE_STREAM;
use license_ledger::ledger::tail::Fact;
use license_ledger::ledger::{Append, Expected, NewEvent, StreamName};
use license_ledger::licensing::{Licensing, Posted, Question};
use report::{median, setting, surroundings};
use tokio::runtime::Runtime;
use uuid::Uuid;

fn main() {
    let acquisitions = setting("HISTORY_ACQUISITIONS", 100_000) as usize;
    let rounds = setting("HISTORY_ROUNDS", 40).max(2) as usize;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lab = Lab::new(&dir.path().join("pki"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limit = (rounds * ACQUISITION_PAIRS + 10).to_string();
    let start = || lab::service(dir.path(), &[("quota.device_limit", &limit)]);

    let mut service = start();
    let mut devices = [0, 1, 2].map(|number| Device::enrol(&lab, number, &service, &runtime));
    let [old, _, _] = &devices;
    runtime.block_on(write_history(old, &service, acquisitions));
    let mut figures = Figures::default();
    for round in 0..rounds {
        wait_for_read_models(dir.path(), &service);
        service.stop().unwrap();
        service = start();
        let [old, new, other] = &mut devices;
        // What the first of all pays for itself, here and below: connections, files that are begun.
        other.dry_run(&service.licensing, &runtime);
        figures.first.pair(round, |which| which.of(old, new).dry_run(&service.licensing, &runtime));
        for turn in 0..DRY_RUN_PAIRS {
            let run = |which: Which| which.of(old, new).dry_run(&service.licensing, &runtime);
            figures.dry_run.pair(turn, run);
        }
        other.acquire(&service.licensing, &runtime);
        for turn in round..round + ACQUISITION_PAIRS {
            let run = |which: Which| which.of(old, new).acquire(&service.licensing, &runtime);
            figures.acquire.pair(turn, run);
        }
    }
    figures.print(acquisitions, dir.path());
    service.stop().unwrap();
}

/// A device that acquires in process.
struct Device {
    name: DeviceRef,
    stream: StreamName,
    challenger: Challenger,
    /// Its first license, the pattern of its history.
    license: LicenseAcquired,
}

impl Device {
    fn enrol(lab: &Lab, number: usize, service: &Service, runtime: &Runtime) -> Self {
        let challenger = Challenger::new(lab.device(number));
        acquire(&challenger.challenge(), &service.licensing, runtime);
        let last = runtime.block_on(service.ledger.read_all_backwards(u64::MAX, 10)).unwrap();
        let facts = last.into_iter().map(|recorded| Fact::of(recorded).unwrap());
        let mut found = facts.filter_map(|fact| match fact.event {
            Event::LicenseAcquired(license) => Some((fact.recorded.stream, *license)),
            _ => None,
        });
        let (stream, license) = found.next().unwrap();
        let name = stream.as_str().strip_prefix(DEVICE_STREAM).unwrap().parse().unwrap();
        Self { name, stream, challenger, license }
    }

    fn dry_run(&mut self, licensing: &Licensing, runtime: &Runtime) -> Duration {
        let key_id = KeyId(Uuid::from_bytes(random_array()));
        let question = Question {
            device: &self.name,
            account: None,
            wanted: vec![Wanted { key_id, title: None, content_group: None }],
            security_level: None,
            model: None,
        };
        let started = Instant::now();
        let decision = runtime.block_on(licensing.decide(&question)).unwrap();
        let took = started.elapsed();
        assert!(decision.decision == "allow" && decision.device_known);
        took
    }

    fn acquire(&mut self, licensing: &Licensing, runtime: &Runtime) -> Duration {
        acquire(&self.challenger.challenge(), licensing, runtime)
    }
}

fn acquire(challenge: &[u8], licensing: &Licensing, runtime: &Runtime) -> Duration {
    let started = Instant::now();
    let request = licensing.verify(challenge).unwrap_or_else(|reply| panic!("{:?}", reply.detail));
    let posted = Posted { query: "cfg=(persist:true)", ..Posted::default() };
    let reply = runtime.block_on(licensing.answer(request, posted));
    let took = started.elapsed();
    assert!(!reply.is_fault, "{:?}", reply.detail);
    took
}

/// Appends past acquisitions with their deletions.
async fn write_history(device: &Device, service: &Service, acquisitions: usize) {
    let mut head = service.ledger.head(&device.stream).await.unwrap();
    let mut left = acquisitions;
    while left > 0 {
        let count = left.min(Append::RECORDS_MAX / 2);
        let mut append = Append::default();
        append.checks.push((device.stream.clone(), Expected::at_head(head)));
        for event in (0..count).flat_map(|_| acquired_and_deleted(&device.license)) {
            let event = NewEvent::of(&device.stream, &event, "bench").unwrap();
            append.records.push((device.stream.clone(), event));
        }
        let appended = service.ledger.append(append).await.unwrap();
        head = appended.revisions.last().map(|(_, revision)| *revision);
        left -= count;
    }
}

fn acquired_and_deleted(pattern: &LicenseAcquired) -> [Event; 2] {
    let nonce = Wire16(random_array());
    let acquired = LicenseAcquired {
        license_id: LicenseId(Uuid::from_bytes(random_array())),
        key_id: KeyId(Uuid::from_bytes(random_array())),
        transaction_id: Some(TransactionId(Uuid::from_bytes(random_array()))),
        nonce: Nonce(nonce),
        session: SessionId(nonce),
        signed_sha256: Digest::of(&nonce.0),
        ..pattern.clone()
    };
    let deleted = LicenseDeleted {
        license_id: acquired.license_id,
        identity: acquired.identity,
        session: acquired.session,
        acquired_session: acquired.session,
        key_id: acquired.key_id,
        grade: Grade::B,
        linked: true,
        releases: true,
        evidence: Digest::of(&nonce.0),
        at_ms: acquired.at_ms,
    };
    [Event::LicenseAcquired(Box::new(acquired)), Event::LicenseDeleted(deleted)]
}

fn wait_for_read_models(dir: &Path, service: &Service) {
    while lab::events_behind(dir, service) != [0, 0] {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[derive(Clone, Copy)]
enum Which {
    Old,
    New,
}

impl Which {
    fn of<'a>(self, old: &'a mut Device, new: &'a mut Device) -> &'a mut Device {
        match self {
            Self::Old => old,
            Self::New => new,
        }
    }
}

#[derive(Default)]
struct Figures {
    first: Pairs,
    dry_run: Pairs,
    acquire: Pairs,
}

/// Microseconds, of the device with a history and of the other, each of the turns in which it went
/// first and of those in which it went second.
#[derive(Default)]
struct Pairs {
    old: [Vec<f64>; 2],
    new: [Vec<f64>; 2],
}

impl Pairs {
    /// Measures both, the one that goes first changing with each turn.
    fn pair(&mut self, turn: usize, mut measure: impl FnMut(Which) -> Duration) {
        let order = if turn.is_multiple_of(2) {
            [Which::Old, Which::New]
        } else {
            [Which::New, Which::Old]
        };
        for (place, which) in order.into_iter().enumerate() {
            let took = measure(which).as_secs_f64() * 1e6;
            match which {
                Which::Old => self.old[place].push(took),
                Which::New => self.new[place].push(took),
            }
        }
    }

    fn medians(&mut self) -> [f64; 2] {
        let mean = |[first, second]: &mut [Vec<f64>; 2]| (median(first) + median(second)) / 2.0;
        [mean(&mut self.old), mean(&mut self.new)]
    }
}

impl Figures {
    fn print(&mut self, acquisitions: usize, dir: &Path) {
        let all = [self.first.medians(), self.dry_run.medians(), self.acquire.medians()];
        let ratio = |[old, new]: [f64; 2]| old / new;
        let worst = all.into_iter().max_by(|a, b| ratio(*a).total_cmp(&ratio(*b))).unwrap();
        let text = |[old, new]: [f64; 2]| format!("{old:.0}us/{new:.0}us");
        let [first, dry_run, acquire] = all.map(text);
        let [ours, limit] = worst;
        println!(
            "history: ratio={:.2} ours={ours:.0}us limit={limit:.0}us must=1.20 stretch=1.05 \
             first-after-restart={first} dry-run={dry_run} acquisition={acquire} \
             past-acquisitions={acquisitions} {}",
            ratio(worst),
            surroundings(dir)
        );
    }
}

const DRY_RUN_PAIRS: usize = 50;
const ACQUISITION_PAIRS: usize = 2;
