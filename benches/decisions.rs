//! Quota decisions per second through the JSON API of the whole service, 64 connections on loopback.
//!
//! Dry-run decisions (one KID, for devices that hold 12 licenses each) beside an HTTP server of the
//! same library that answers each request with its own body: in turns, medians of the rounds. The
//! load generator shares the cores with both.
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
mod report;

use std::net::SocketAddr;

use actix_web::{App, HttpServer, web};
use lab::{Challenger, Lab, random_array};
use license_ledger::cli::service::Service;
use load::{CONNECTIONS, Pace};
use report::{cores, median, setting, surroundings};
use uuid::Uuid;

const DEVICES: usize = 200;
const HELD: usize = 12;
const DECISIONS: &str = "/v1/quota/decisions";

fn main() {
    let count = setting("DECISIONS", 40_000) as usize;
    let rounds = setting("DECISION_ROUNDS", 5) as usize;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lab = Lab::new(&dir.path().join("pki"));
    let service = lab::service(dir.path(), &[]);
    let devices = enroll(&lab, &service);
    let headers = format!(
        "Content-Type: application/json\r\nAuthorization: Bearer {}",
        service.admin_key.as_ref().unwrap().expose()
    );
    let echo = echo();
    let (mut ours, mut limit) = (vec![], vec![]);
    for _ in 0..rounds {
        let bodies: Vec<_> = (0..count).map(|n| question(&devices[n % DEVICES])).collect();
        let requests = |target| {
            bodies.iter().map(|body| load::post(target, &headers, body.as_bytes())).collect()
        };
        let bare = load::send(echo, requests("/"), b"key_ids", Pace::Closed);
        limit.push(count as f64 / bare.seconds);
        let address = service.running.address();
        let decided = load::send(address, requests(DECISIONS), br#""allow""#, Pace::Closed);
        ours.push(count as f64 / decided.seconds);
    }
    let (ours, limit) = (median(&mut ours), median(&mut limit));
    println!(
        "dry-decisions: ratio={:.2} ours={ours:.0}/s limit={limit:.0}/s (echo of the same body) \
         must=0.4 stretch=0.6 connections={CONNECTIONS} devices={DEVICES} held={HELD} {}",
        ours / limit,
        surroundings(dir.path())
    );
    service.stop().unwrap();
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
