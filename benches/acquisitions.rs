//! License acquisitions per second, and how long they take, through the whole service.
//!
//! A service with its embedded ledger on a real disk answers signed challenges over loopback HTTP,
//! 64 connections: each is verified, decided, its event durable, its license sealed, its response
//! signed. Every challenge asks for one persistent license for a KID of its own, from devices whose
//! chains are in the cache, few enough on each that the default quota is never reached. Read models
//! follow meanwhile; the line says how many events they were behind at the end. The load generator
//! shares the cores.
//!
//! The limit is the crypto floor: the same P-256, AES and SHA-256 operations in a bare loop on all
//! cores. Both run in turns, and the line gives the medians. `cpu` is the processor time of one
//! acquisition in the service, without the load generator, beside that of the floor: it says the
//! same when others use the machine. The time to catch up is part of it.
//!
//! Then 40 % of that rate, sent on a schedule whether answers come or not. A time runs from the
//! moment a request was to be sent.
//!
//! ```text
//! cargo bench --bench acquisitions
//! ACQUISITIONS=2000 ACQUISITION_ROUNDS=1 cargo bench --bench acquisitions    a quick look
//! ```

// A measurement that fails has nothing to recover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod cpu;
mod floor;
mod lab;
mod load;
mod report;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use floor::Floor;
use lab::{Challenger, Lab};
use load::{CONNECTIONS, Outcome, Pace};
use report::{cores, median, setting, surroundings};

fn main() {
    let count = setting("ACQUISITIONS", 20_000) as usize;
    let rounds = setting("ACQUISITION_ROUNDS", 4) as usize;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lab = Lab::new(&dir.path().join("pki"));
    let measured = (rounds + 1) * count;
    let devices = measured.div_ceil(PER_DEVICE);
    let Challenges { mut first, bodies, client_data } = sign(&lab, devices);
    let floor = Floor::of(&bodies[0], &client_data);
    let bytes = bodies[0].len();
    first.truncate(devices);

    let service = lab::service(dir.path(), &[]);
    let address = service.running.address();
    load::run(address, TARGET, &first, Pace::Closed);
    let events = || service.ledger.subscribe().borrow().unwrap();
    let before = events();
    let mut measured = bodies.chunks(count);
    let (mut ours, mut limit) = (vec![], vec![]);
    let (mut cpu, mut cpu_limit, mut cpu_client) = (vec![], vec![], vec![]);
    let mut behind = [0; 2];
    for round in measured.by_ref().take(rounds) {
        let bare = floor.measure(Duration::from_secs(1));
        limit.push(bare.per_second);
        cpu_limit.push(bare.cpu_us);
        let started = cpu::of_process();
        let Outcome { seconds, cpu_seconds: client, .. } =
            load::run(address, TARGET, round, Pace::Closed);
        behind = lab::events_behind(dir.path(), &service);
        while lab::events_behind(dir.path(), &service) != [0; 2] {
            std::thread::sleep(Duration::from_millis(20));
        }
        ours.push(round.len() as f64 / seconds);
        let each_us = |seconds: f64| seconds / round.len() as f64 * 1e6;
        cpu.push(each_us(cpu::of_process() - started - client));
        cpu_client.push(each_us(client));
    }
    let acquired = events() - before;
    assert_eq!(acquired as usize, rounds * count, "one event for every license");
    let (ours, limit) = (median(&mut ours), median(&mut limit));
    let ratio = ours / limit;
    println!(
        "acquisitions: ratio={ratio:.2} ours={ours:.0}/s limit={limit:.0}/s must=0.50 stretch=0.65 \
         cpu={:.0}us/{:.0}us cpu-client={:.0}us connections={CONNECTIONS} challenge-bytes={bytes} devices={devices} \
         behind-state={} behind-inventory={} {}",
        median(&mut cpu),
        median(&mut cpu_limit),
        median(&mut cpu_client),
        behind[0],
        behind[1],
        surroundings(dir.path())
    );
    let open = measured.next().unwrap();
    latency(dir.path(), ours * 0.4, load::run(address, TARGET, open, Pace::Open(ours * 0.4)));
    service.stop().unwrap();
}

/// Prints the second line.
fn latency(dir: &Path, rate: f64, outcome: Outcome) {
    let mut latencies = outcome.latencies;
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let p99 = at(0.99);
    println!(
        "acquisition-latency: ratio={:.2} p99={p99:.1}ms must=15ms stretch=6ms p50={:.1}ms \
         p999={:.1}ms max={:.1}ms rate={rate:.0}/s requests={} {}",
        p99 / 15.0,
        at(0.5),
        at(0.999),
        at(1.0),
        latencies.len(),
        surroundings(dir)
    );
}

struct Challenges {
    /// One of each device: enrols it and warms the cache of chains.
    first: Vec<Vec<u8>>,
    /// The others, one device after another.
    bodies: Vec<Vec<u8>>,
    client_data: Vec<u8>,
}

/// Signs on all cores. Neighbors are of different devices.
fn sign(lab: &Lab, devices: usize) -> Challenges {
    let rows = Mutex::new(vec![Vec::new(); PER_DEVICE + 1]);
    std::thread::scope(|scope| {
        for core in 0..cores() {
            let rows = &rows;
            scope.spawn(move || {
                for number in (core..devices).step_by(cores()) {
                    let device = Challenger::new(lab.device(number));
                    let signed: Vec<_> = (0..=PER_DEVICE).map(|_| device.challenge()).collect();
                    let mut rows = rows.lock().unwrap();
                    rows.iter_mut().zip(signed).for_each(|(row, body)| row.push(body));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    let first = rows.remove(0);
    let client_data = lab::client_data(&lab.device(devices)).to_xml();
    Challenges { first, bodies: rows.concat(), client_data }
}

/// Measured licenses of one device. With the first, the default quota of 25 is just not exceeded.
const PER_DEVICE: usize = 24;

/// `?cfg=(persist:true)`.
const TARGET: &str = "/playready/rightsmanager.asmx?cfg=(persist:true)";
