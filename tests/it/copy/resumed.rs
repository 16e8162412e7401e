//! SIGKILL in the middle of a copy, and on from there.

use std::process::Stdio;
use std::time::{Duration, Instant};

use license_ledger::ledger::{Embedded, Ledger};

use super::keeper::Keeper;
use super::{COPIER, Place, copy, count, open, same};
use crate::mutations::Rng;
use crate::process::program;

const EVENTS: u64 = 50_000;
/// Copies that are killed, if they do not come to their end before.
const KILLS: usize = 6;

/// Kills the copy at moments that `seed` chooses until it is complete or was killed often enough;
/// after each kill `check` tells how many events the target holds, and that they are the right ones.
fn kill(args: &[&str], seed: u64, there: impl Fn() -> u64, check: impl Fn(u64)) {
    let mut rng = Rng(seed);
    let mut cut = 0;
    for _ in 0..KILLS {
        let before = there();
        let enough = before + rng.below(EVENTS as usize / (2 * KILLS)) as u64;
        let child =
            program().arg("copy").args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        let started = Instant::now();
        while there() <= enough && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(60), "the copy does not go on");
            std::thread::sleep(Duration::from_micros(rng.below(3000) as u64));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let after = there();
        check(after);
        assert!(after >= before);
        cut += usize::from(before < after && after < EVENTS);
    }
    assert!(cut >= 2, "no more than {cut} kills came in the middle");
}

#[test]
fn a_copy_to_a_directory_goes_on_after_kills() {
    let place = Place::with_source(EVENTS);
    let (from, to) = (place.text("source"), place.text("target"));
    let source = open(&place.path("source"));
    let target = || Embedded::open_read_only(&place.path("target")).map(Ledger::Embedded);
    let check = |events| assert!(events == 0 || same_so_far(&source, &target().unwrap(), events));
    kill(&["--from", &from, "--to", &to], 1, || target().map_or(0, |target| count(&target)), check);
    let there = count(&target().unwrap());
    let done = place.copy("source", "target").ok();
    assert!(done.stdout.contains(&format!("after {there} that were there")), "{done:?}");
    assert!(same(&source, &target().unwrap(), EVENTS));
}

#[test]
fn a_copy_to_an_endpoint_goes_on_after_kills() {
    let place = Place::with_source(EVENTS);
    let keeper = Keeper::start(&place, &COPIER);
    let from = place.text("source");
    let source = open(&place.path("source"));
    let args = ["--from", &from, "--to", &keeper.url, "--to-credentials", &keeper.credentials];
    let check = |events| assert!(same_so_far(&source, &keeper.ledger, events));
    kill(&args, 2, || count(&keeper.ledger), check);
    copy(&args).ok();
    assert!(same(&source, &keeper.ledger, EVENTS));
}

fn same_so_far(source: &Ledger, target: &Ledger, events: u64) -> bool {
    same(source, target, events);
    true
}
