//! Quota decisions per second through the JSON API of the whole service, 64 connections on loopback.
//!
//! Committed decisions (room for one KID, for devices that have room for 25) beside PostgreSQL
//! writing the same rows in one function: an event, the remembered answer, the device's row. Of
//! PostgreSQL the best of 1, 16 and 64 connections counts; it is not asked over HTTP.
//!
//! Dry-run decisions (one KID, for devices that hold 12 licenses each) beside an HTTP server of the
//! same library that answers each request with its own body.
//!
//! Each in turns with its peer, medians of the rounds. The load generators share the cores with what
//! they measure.
//!
//! ```text
//! cargo bench --bench decisions
//! DECISIONS=5000 DECISION_ROUNDS=1 cargo bench --bench decisions    a quick look
//! ```

// A measurement that fails has nothing to recover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
// Of what the benches share, each uses a part.
#![allow(dead_code)]

mod cpu;
mod lab;
mod load;
mod postgres;
mod report;

use std::net::SocketAddr;
use std::path::Path;

use actix_web::{App, HttpServer, web};
use lab::{Challenger, Lab, random_array};
use license_ledger::cli::service::Service;
use load::{CONNECTIONS, Pace};
use postgres::Postgres;
use report::{cores, median, setting, surroundings};
use uuid::Uuid;

const DEVICES: usize = 200;
const HELD: usize = 12;
/// Reservations of one device: all fit into the default quota.
const PER_DEVICE: usize = 25;
const DECISIONS: &str = "/v1/quota/decisions";

fn main() {
    let count = setting("DECISIONS", 20_000) as usize;
    let rounds = setting("DECISION_ROUNDS", 5) as usize;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lab = Lab::new(&dir.path().join("pki"));
    let service = lab::service(dir.path(), &[]);
    let headers = format!(
        "Content-Type: application/json\r\nAuthorization: Bearer {}",
        service.admin_key.as_ref().unwrap().expose()
    );
    committed(&service, &headers, count, rounds, dir.path());
    dry(&lab, &service, &headers, count, rounds, dir.path());
    service.stop().unwrap();
}

fn committed(service: &Service, headers: &str, count: usize, rounds: usize, dir: &Path) {
    // In turns, as PostgreSQL's are drawn: few of those that are in flight are about one device.
    let devices = count.div_ceil(PER_DEVICE);
    let commit = |round: usize| {
        let request = |n: usize| {
            let device = format!("viewer-{round}-{}", n % devices);
            let key_id = Uuid::from_bytes(random_array());
            let body = format!(
                r#"{{"device":"{device}","key_ids":["{key_id}"],"commit":true,"hold_seconds":86400}}"#
            );
            let headers = format!("{headers}\r\nIdempotency-Key: {key_id}");
            load::post(DECISIONS, &headers, body.as_bytes())
        };
        let address = service.running.address();
        let requests: Vec<_> = (0..count).map(request).collect();
        let outcome = load::send(address, requests, r#""reservation_id":""#, Pace::Closed);
        count as f64 / outcome.seconds
    };
    // A round that does not count: memory, and the sizes of what is stored.
    commit(rounds);
    let peer = Postgres::start().and_then(|postgres| {
        let (event, answer) = stored_sizes(service);
        postgres.prepare(devices, event, answer)?;
        Ok(postgres)
    });
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 0..rounds {
        ours.push(commit(round));
        if let Ok(postgres) = &peer {
            let rates = [1, 16, 64].map(|connections| postgres.measure(connections, 3).unwrap());
            theirs.push(rates.into_iter().fold(0.0, f64::max));
        }
    }
    let ours = median(&mut ours);
    let compared = match peer {
        Ok(_) => {
            let theirs = median(&mut theirs);
            format!("ratio={:.2} ours={ours:.0}/s postgresql={theirs:.0}/s", ours / theirs)
        }
        Err(reason) => format!("ours={ours:.0}/s, not compared with PostgreSQL: {reason};"),
    };
    println!(
        "committed-decisions: {compared} must=0.8 stretch=1.5 connections={CONNECTIONS} {}",
        surroundings(dir)
    );
}

/// Bytes of the newest reservation and of the answer remembered with it.
fn stored_sizes(service: &Service) -> (usize, usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let events = runtime.block_on(service.ledger.read_all_backwards(u64::MAX, 16)).unwrap();
    let size = |kind: &str| {
        let event = events.iter().find(|event| event.kind == kind).unwrap();
        event.data.len() + event.metadata.len()
    };
    (size("reservation-made.v1"), size("request-answered.v1"))
}

fn dry(lab: &Lab, service: &Service, headers: &str, count: usize, rounds: usize, dir: &Path) {
    let devices = enroll(lab, service);
    let echo = echo();
    let (mut ours, mut limit) = (vec![], vec![]);
    for _ in 0..rounds {
        let bodies: Vec<_> = (0..count).map(|n| question(&devices[n % DEVICES])).collect();
        let requests = |target| {
            bodies.iter().map(|body| load::post(target, headers, body.as_bytes())).collect()
        };
        let bare = load::send(echo, requests("/"), "key_ids", Pace::Closed);
        limit.push(count as f64 / bare.seconds);
        let address = service.running.address();
        let decided = load::send(address, requests(DECISIONS), r#""allow""#, Pace::Closed);
        ours.push(count as f64 / decided.seconds);
    }
    let (ours, limit) = (median(&mut ours), median(&mut limit));
    println!(
        "dry-decisions: ratio={:.2} ours={ours:.0}/s limit={limit:.0}/s (echo of the same body) \
         must=0.4 stretch=0.6 connections={CONNECTIONS} devices={DEVICES} held={HELD} {}",
        ours / limit,
        surroundings(dir)
    );
}

/// Devices with licenses, by their identities.
fn enroll(lab: &Lab, service: &Service) -> Vec<String> {
    let mut challenges = Vec::new();
    let devices = (0..DEVICES).map(|number| {
        let files = lab.device(number);
        let identity = files.chain.identity().iter().map(|byte| format!("{byte:02x}")).collect();
        let challenger = Challenger::new(files);
        challenges.extend((0..HELD).map(|_| challenger.challenge()));
        identity
    });
    let devices = devices.collect();
    let target = "/playready/rightsmanager.asmx?cfg=(persist:true)";
    load::run(service.running.address(), target, &challenges, Pace::Closed);
    devices
}

fn question(device: &str) -> String {
    let key_id = Uuid::from_bytes(random_array());
    format!(r#"{{"device":"{device}","key_ids":["{key_id}"]}}"#)
}

/// A server that answers with what it gets.
fn echo() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let serve = async {
            let app = || App::new().route("/", web::post().to(|body: web::Bytes| async { body }));
            let server = HttpServer::new(app).workers(cores()).bind("127.0.0.1:0").unwrap();
            sender.send(server.addrs()[0]).unwrap();
            server.run().await
        };
        actix_web::rt::System::new().block_on(serve).unwrap();
    });
    receiver.recv().unwrap()
}
