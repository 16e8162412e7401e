//! Several processes in front of one ledger, which a further process keeps and serves over gRPC.

mod cuts;
mod wire;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use license_ledger::ledger::tail::Fact;
use license_ledger::ledger::{Embedded, Ledger};
use license_ledger::playready::policy::SecurityLevel;
use serde_json::json;
use uuid::Uuid;

use self::wire::{Cut, Wire};
use crate::checker::log::changes;
use crate::checker::{Call, Effect, Limit, Subject, Told, check};
use crate::client::Client;
use crate::device::{Device, PERSISTENT, kid, request};
use crate::process::{Serving, run};
use crate::service::{block_on, make_device};
use crate::webhooks::secret_file;

/// Rounds of two; `LICENSE_LEDGER_TEST_ROUNDS` sets another number.
const ROUNDS: usize = 2_000;
/// Acquisitions; `LICENSE_LEDGER_TEST_CALLS` sets another number.
const CALLS: usize = 3_000;
const POLICY: &str = "/v1/quota/policy";
/// How long anything may take to work again.
const RECOVERY: Duration = Duration::from_secs(10);

fn from_environment(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// A ledger, the process that keeps it, and processes that use it.
struct Group {
    dir: tempfile::TempDir,
    /// Keeps the ledger; `None` while it is down.
    keeper: Option<Serving>,
    /// Where it offers the ledger.
    port: u16,
    admin_key: String,
    members: Vec<Serving>,
}

impl Group {
    /// Starts a keeper, and `members` processes that reach it through `through`, or directly.
    fn start(device_limit: usize, members: usize, through: impl Fn(u16) -> u16) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut group = Self {
            dir: tempfile::tempdir().unwrap(),
            keeper: None,
            port: free.local_addr().unwrap().port(),
            admin_key: String::new(),
            members: Vec::new(),
        };
        drop(free);
        let config = format!("[quota]\ndevice_limit = {device_limit}\n");
        std::fs::write(group.path("keeper.toml"), config).unwrap();
        group.start_keeper();
        let keeper = group.keeper.as_mut().unwrap();
        group.admin_key = keeper.admin_key.clone().unwrap();
        let data = group.path("keeper");
        let made = run(&[
            "keys",
            "api",
            "create",
            "--name",
            "members",
            "--scope",
            "events:read",
            "--scope",
            "ledger:append",
            "--json",
            "--data",
            data.to_str().unwrap(),
        ]);
        let key = made.ok().json()["api_key"]["key"].as_str().unwrap().to_owned();
        secret_file(group.dir.path(), "credentials", &format!("members:{key}\n"));
        let config = format!(
            "secrets = {:?}\n[kurrentdb]\ncredentials_file = {:?}\n",
            group.path("keeper-secrets"),
            group.path("credentials"),
        );
        std::fs::write(group.path("member.toml"), config).unwrap();
        let port = through(group.port);
        group.members = (0..members).map(|member| group.start_member(member, port)).collect();
        group
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start_keeper(&mut self) {
        let address = format!("127.0.0.1:{}", self.port);
        let config = self.path("keeper.toml");
        let args = ["--config", config.to_str().unwrap(), "--grpc", &address];
        self.keeper = Some(Serving::start(&self.path("keeper"), &args));
    }

    fn start_member(&self, member: usize, port: u16) -> Serving {
        let ledger = format!("kurrentdb://127.0.0.1:{port}?tls=false");
        let config = self.path("member.toml");
        let args = ["--config", config.to_str().unwrap(), "--ledger", &ledger];
        Serving::start(&self.path(&format!("member-{member}")), &args)
    }

    fn kill_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            keeper.kill();
        }
    }

    fn client(&self, member: usize) -> Client {
        self.members[member].client(&self.admin_key)
    }

    fn device(&self, name: &str) -> Device {
        make_device(&self.path("keeper-secrets").join("pki"), name, SecurityLevel::Software)
    }

    /// Everything in the ledger, when nobody uses it any more.
    fn facts(mut self) -> Vec<Fact> {
        self.members.drain(..).for_each(Serving::stop);
        self.keeper.take().unwrap().stop();
        let ledger = Embedded::open_read_only(&self.path("keeper")).unwrap();
        let all = block_on(Ledger::Embedded(ledger).read_all(0, usize::MAX >> 1)).unwrap();
        all.into_iter().map(|recorded| Fact::of(recorded).unwrap()).collect()
    }
}

/// A device that several threads act for, with all that it was told.
struct Player {
    device: Device,
    calls: Mutex<Vec<Call>>,
}

impl Player {
    fn new(device: Device) -> Self {
        Self { device, calls: Mutex::default() }
    }

    /// Asks for one license until there is an answer; whether it was granted.
    fn acquire(&self, clients: &[Client], key_id: Uuid, clock: Instant) -> bool {
        let asked = request(&[key_id]);
        let challenge = self.device.ask(&asked);
        let now = || u64::try_from(clock.elapsed().as_nanos()).unwrap();
        let started = now();
        for client in clients.iter().cycle() {
            let Some(answer) = client.try_challenge(&challenge, PERSISTENT) else { continue };
            let told = if answer.status == 200 {
                let acquired = self.device.accept(&answer.body, &asked.nonce).unwrap();
                Told::Done(acquired.rights_ids().into_iter().map(Effect::Taken).collect())
            } else if answer.text().contains("persistent_license_limit") {
                Told::Refused { subject: Subject::DeviceOf(self.device.identity()), wanted: 1 }
            } else {
                // Nobody decides at present: the device asks again.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let granted = matches!(told, Told::Done(_));
            self.calls.lock().unwrap().push(Call { started, ended: Some(now()), told });
            return granted;
        }
        unreachable!("a cycle does not end")
    }
}

/// Checks what all players were told against the ledger.
fn check_all(players: &[Player], facts: &[Fact], limit: usize) {
    let calls = players.iter().map(|player| std::mem::take(&mut *player.calls.lock().unwrap()));
    let history: Vec<_> = calls.flatten().collect();
    let limit = Limit { limit, overage: 0 };
    assert_eq!(check(&history, &changes(facts), |_| limit), Ok(()));
}

#[test]
fn two_processes_at_the_edge_of_a_quota_never_both_grant() {
    let rounds = from_environment("LICENSE_LEDGER_TEST_ROUNDS", ROUNDS);
    let group = Group::start(1, 2, |port| port);
    let clients = [[group.client(0)], [group.client(1)]];
    let clock = Instant::now();
    let players: Vec<_> =
        (0..rounds).map(|round| Player::new(group.device(&format!("device-{round}")))).collect();
    let mut won = [0, 0];
    for (round, player) in players.iter().enumerate() {
        let granted = std::thread::scope(|scope| {
            let ask = |member: usize| {
                let key_id = kid((2 * round + member) as u128);
                player.acquire(&clients[member], key_id, clock)
            };
            let threads = [0, 1].map(|member| scope.spawn(move || ask(member)));
            threads.map(|thread| thread.join().unwrap())
        });
        assert_ne!(granted[0], granted[1], "in round {round}");
        won[usize::from(granted[1])] += 1;
    }
    assert!(won.iter().all(|won| *won > rounds / 20), "it was no race: {won:?}");
    check_all(&players, &group.facts(), 1);
}

/// Has devices ask three processes from many threads, while `disturb` does its worst; it is called
/// with how many were asked. Then checks all of it. Returns the longest time between two answers.
fn acquire_from_all(
    mut group: Group,
    calls: usize,
    mut disturb: impl FnMut(&mut Group, usize),
) -> Duration {
    const THREADS: usize = 12;
    const LIMIT: usize = 25;
    let players: Vec<_> =
        (0..30).map(|number| Player::new(group.device(&format!("device-{number}")))).collect();
    let members = [0, 1, 2].map(|member| group.client(member));
    let (asked, clock) = (AtomicUsize::new(0), Instant::now());
    let done = AtomicBool::new(false);
    let answers = Mutex::new(vec![Instant::now()]);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (players, members, asked, answers) = (&players, &members, &asked, &answers);
                scope.spawn(move || {
                    // Each thread has a process of its own, and turns to others in need.
                    let mut clients = members.clone();
                    clients.rotate_left(thread % 3);
                    loop {
                        let number = asked.fetch_add(1, Ordering::Relaxed);
                        if number >= calls {
                            return;
                        }
                        let player = &players[number % players.len()];
                        player.acquire(&clients, kid(number as u128), clock);
                        answers.lock().unwrap().push(Instant::now());
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            disturb(&mut group, asked.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort_unstable();
    let gaps = answers.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.max().unwrap_or_default();
    check_all(&players, &group.facts(), LIMIT);
    longest
}

#[test]
fn nothing_is_lost_when_the_keeper_of_the_ledger_is_killed() {
    let calls = from_environment("LICENSE_LEDGER_TEST_CALLS", CALLS);
    let mut kills = (1..=5).map(|kill| calls * kill / 6).collect::<BTreeSet<_>>();
    let group = Group::start(25, 3, |port| port);
    let longest = acquire_from_all(group, calls, |group, asked| {
        if kills.first().is_some_and(|next| asked >= *next) {
            kills.pop_first();
            group.kill_keeper();
            group.start_keeper();
        }
    });
    assert!(longest < RECOVERY, "{longest:?}");
    assert!(kills.is_empty());
}

#[test]
fn nothing_is_lost_when_connections_are_cut() {
    let calls = from_environment("LICENSE_LEDGER_TEST_CALLS", CALLS) / 2;
    let wire = Mutex::new(None);
    let group = Group::start(25, 3, |port| {
        let started = Wire::start(port);
        let through = started.port;
        *wire.lock().unwrap() = Some(started);
        through
    });
    let wire = wire.into_inner().unwrap().unwrap();
    let cuts = [Cut::Closed, Cut::ToClient, Cut::ToServer, Cut::BothWays];
    let mut cuts = (1..).zip(cuts).map(|(place, cut)| (calls * place / 5, cut)).peekable();
    let longest = acquire_from_all(group, calls, |_, asked| {
        if let Some((_, cut)) = cuts.next_if(|(place, _)| asked >= *place) {
            wire.cut(cut);
        }
    });
    assert!(longest < RECOVERY, "{longest:?}");
    assert!(cuts.next().is_none());
}

#[test]
fn what_is_done_through_one_process_holds_in_the_others() {
    let group = Group::start(1, 2, |port| port);
    let (one, other) = (group.client(0), group.client(1));
    let device = group.device("phone");
    device.acquire(&one, &request(&[kid(1)]), PERSISTENT).map(drop).unwrap();
    let Err(fault) = device.acquire(&other, &request(&[kid(2)]), PERSISTENT) else {
        panic!("granted over the limit")
    };
    assert!(fault.custom_data.unwrap().contains("persistent_license_limit"));
    // A policy holds at once.
    let mut policy = one.json(POLICY)["policy"].clone();
    policy["rules"][0]["limit"] = json!(2);
    let body = json!({ "policy": policy, "reason": "two for everybody" });
    let published = one.put_json(POLICY, Some("\"0\""), &body);
    assert_eq!(published.status, 200, "{}", published.text());
    device.acquire(&other, &request(&[kid(2)]), PERSISTENT).map(drop).unwrap();
    // An API key does as soon as the others have heard of it.
    let config = group.path("member.toml").display().to_string();
    let data = group.path("member-0").display().to_string();
    let at_one =
        |args: &[&str]| run(&[args, &["--config", &config, "--data", &data]].concat()).ok();
    let made = at_one(&["keys", "api", "create", "--name", "a", "--scope", "admin", "--json"]);
    let key = made.json()["api_key"]["key"].as_str().unwrap().to_owned();
    eventually(|| other.with_key(&key).get(POLICY).status == 200);
    let id = key.split('_').nth(1).unwrap();
    at_one(&["keys", "api", "revoke", id]);
    eventually(|| other.with_key(&key).get(POLICY).status == 401);
}

/// Polls until it is so.
fn eventually(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < RECOVERY);
        std::thread::sleep(Duration::from_millis(20));
    }
}
