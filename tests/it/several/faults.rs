//! Three processes while what they rely on fails: each of them answers again in time, and nothing
//! that any of them said is lost.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::wire::Cut;
use super::{Clock, Group, Player, RECOVERY, check_all, from_environment};
use crate::client::Client;
use crate::device::kid;

/// Acquisitions amid kills; `LICENSE_LEDGER_TEST_CALLS` sets another number.
const CALLS: usize = 10_000;
const KILLS: usize = 5;
/// Acquisitions amid cuts, at least: as many as it takes.
const CALLS_AMID_CUTS: usize = 2_000;
const THREADS: usize = 12;
const DEVICES: usize = 30;
const LIMIT: usize = 25;
/// Licenses that have to be granted before each fault, and again after it.
const GRANTS: usize = 30;
/// How long that may take, also where every byte is slow.
const GRANTED_WITHIN: Duration = Duration::from_secs(60);

/// What the threads share.
struct Shared {
    players: Vec<Player>,
    clients: [Client; 3],
    clock: Instant,
    asked: AtomicUsize,
    granted: AtomicUsize,
    enough: AtomicUsize,
    /// Whether the test has failed already.
    failed: AtomicBool,
}

impl Shared {
    /// Acquires, and deletes a third as often, so that a third is granted once the devices are full,
    /// until enough was asked.
    fn work(&self, thread: usize) {
        // Each thread has a process of its own, and turns to others in need.
        let mut clients = self.clients.clone();
        clients.rotate_left(thread % 3);
        let over = || self.failed.load(Ordering::Relaxed);
        let clock = Clock { clock: self.clock, over: &over };
        while !over() {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            if number >= self.enough.load(Ordering::Relaxed) {
                return;
            }
            let player = &self.players[number % DEVICES];
            if player.acquire(&clients, kid(number as u128), &clock) == Some(true) {
                self.granted.fetch_add(1, Ordering::Relaxed);
            }
            if number.is_multiple_of(3) {
                player.give_back(&clients, &clock);
            }
        }
    }
}

/// A load on three processes, for those who do their worst meanwhile.
struct Load<'a> {
    group: Group,
    shared: &'a Shared,
    /// A device of its own for each process.
    probes: &'a [Player],
}

impl Load<'_> {
    /// Does something that breaks what the processes rely on, and is over when it returns.
    fn fault(&mut self, what: &str, fault: impl FnOnce(&mut Group)) {
        self.wait_for_grants(what, "before");
        fault(&mut self.group);
        self.each_answers(what);
        self.wait_for_grants(what, "after");
    }

    /// Asks every process, and none in place of another.
    fn each_answers(&self, what: &str) {
        let begun = Instant::now();
        let over = || begun.elapsed() > 2 * RECOVERY;
        let clock = Clock { clock: self.shared.clock, over: &over };
        let answered: Vec<_> = std::thread::scope(|scope| {
            let ask = |member: usize| {
                let (probe, client) = (&self.probes[member], &self.shared.clients[member]);
                let clients = slice::from_ref(client);
                let number = 1_000_000 + self.shared.asked.load(Ordering::Relaxed);
                let granted = probe.acquire(clients, kid(number as u128), &clock);
                let took = begun.elapsed();
                probe.give_back(clients, &clock);
                (granted, took)
            };
            let asking: Vec<_> = (0..3).map(|member| scope.spawn(move || ask(member))).collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect()
        });
        eprintln!("{what}: {answered:?}");
        for (member, (granted, took)) in answered.iter().enumerate() {
            assert_eq!(*granted, Some(true), "process {member}, {what}");
            assert!(*took < RECOVERY, "process {member} took {took:?}, {what}");
        }
    }

    fn wait_for_grants(&self, what: &str, when: &str) {
        let enough = self.shared.granted.load(Ordering::Relaxed) + GRANTS;
        self.wait_until(&self.shared.granted, enough, || {
            format!("nothing is granted {when} {what}")
        });
    }

    fn wait_until(&self, count: &AtomicUsize, enough: usize, why: impl Fn() -> String) {
        let started = Instant::now();
        while count.load(Ordering::Relaxed) < enough {
            assert!(started.elapsed() < GRANTED_WITHIN, "{}", why());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Has devices ask three processes from many threads, at least `calls` times and as long as `script`
/// takes, and checks all that they were told.
fn under_load(group: Group, calls: usize, script: impl FnOnce(&mut Load)) {
    let started = Instant::now();
    let player = |name: String| Player::new(group.device(&name));
    let shared = Shared {
        players: (0..DEVICES).map(|number| player(format!("device-{number}"))).collect(),
        clients: [0, 1, 2].map(|member| group.client(member)),
        clock: Instant::now(),
        asked: AtomicUsize::new(0),
        granted: AtomicUsize::new(0),
        enough: AtomicUsize::new(usize::MAX),
        failed: AtomicBool::new(false),
    };
    let probes: Vec<_> = (0..3).map(|number| player(format!("probe-{number}"))).collect();
    let mut load = Load { group, shared: &shared, probes: &probes };
    let outcome = std::thread::scope(|scope| {
        let shared = &shared;
        (0..THREADS).for_each(|thread| drop(scope.spawn(move || shared.work(thread))));
        let outcome = catch_unwind(AssertUnwindSafe(|| script(&mut load)));
        shared.enough.store(calls, Ordering::Relaxed);
        shared.failed.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    });
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    let facts = load.group.facts();
    let granted = shared.granted.load(Ordering::Relaxed);
    let asked = shared.asked.load(Ordering::Relaxed);
    eprintln!("{granted} of {asked} granted in {:?}", started.elapsed());
    assert!(asked >= calls);
    let players: Vec<_> = shared.players.into_iter().chain(probes).collect();
    check_all(&players, &facts, LIMIT);
}

#[test]
fn nothing_is_lost_when_the_keeper_of_the_ledger_is_killed() {
    let calls = from_environment("LICENSE_LEDGER_TEST_CALLS", CALLS);
    under_load(Group::start(LIMIT, 3, |port| port), calls, |load| {
        for kill in 1..=KILLS {
            let asked = &load.shared.asked;
            load.wait_until(asked, calls * kill / (KILLS + 1), || "nothing is asked".to_owned());
            load.fault("after a kill", |group| {
                group.kill_keeper();
                group.start_keeper();
            });
        }
    });
}

#[test]
fn nothing_is_lost_when_connections_are_cut() {
    let (group, wire) = Group::behind_wire(LIMIT, 3);
    under_load(group, CALLS_AMID_CUTS, |load| {
        for cut in [Cut::Closed, Cut::ToClient, Cut::ToServer, Cut::BothWays] {
            load.fault(&format!("after {cut:?}"), |_| wire.cut(cut));
        }
    });
}

#[test]
fn nothing_is_lost_when_nobody_can_connect_for_a_while() {
    let (group, wire) = Group::behind_wire(LIMIT, 3);
    under_load(group, CALLS_AMID_CUTS, |load| {
        for cut in [Cut::Closed, Cut::ToClient, Cut::ToServer, Cut::BothWays] {
            let time = Duration::from_secs(3);
            load.fault(&format!("after {cut:?} for {time:?}"), |_| wire.cut_for(cut, time));
        }
    });
}

#[test]
fn nothing_is_lost_when_the_server_is_slow() {
    let (group, wire) = Group::behind_wire(LIMIT, 3);
    under_load(group, CALLS_AMID_CUTS, |load| {
        load.fault("while every byte takes 100 ms", |_| {
            wire.slow_down(Duration::from_millis(100));
        });
        // Too slow for anything: requests arrive whose senders have given up.
        load.fault("after every byte took 2 s", |_| {
            wire.slow_down(Duration::from_secs(2));
            std::thread::sleep(Duration::from_secs(6));
            wire.slow_down(Duration::ZERO);
        });
    });
}
