//! Several processes in front of one ledger, which a further process keeps and serves over gRPC.

mod cuts;
mod faults;
mod keys;
mod lag;
mod prefixes;
mod promises;
mod tls;
mod wire;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use license_ledger::domain::quota::DEVICE_SLOTS;
use license_ledger::ledger::tail::Fact;
use license_ledger::ledger::{Embedded, Ledger};
use license_ledger::playready::policy::SecurityLevel;
use serde_json::json;
use uuid::Uuid;

use self::wire::Wire;
use crate::checker::limits::{Rule, Scope};
use crate::checker::log::changes;
use crate::checker::{Call, Effect, Subject, Told, check};
use crate::client::{Answer, Client};
use crate::device::{Device, PERSISTENT, deleted, kid, request};
use crate::process::{Serving, run};
use crate::service::{block_on, make_device};
use crate::webhooks::secret_file;

/// Rounds of two; `LICENSE_LEDGER_TEST_ROUNDS` sets another number.
const ROUNDS: usize = 2_000;
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
    /// The same with all members behind one wire.
    fn behind_wire(device_limit: usize, members: usize) -> (Self, Wire) {
        let wire = Mutex::new(None);
        let group = Self::start(device_limit, members, |port| {
            let started = Wire::start(port);
            let through = started.port;
            *wire.lock().unwrap() = Some(started);
            through
        });
        (group, wire.into_inner().unwrap().unwrap())
    }

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
        let ledger = ledger_at(port);
        let config = self.path("member.toml");
        let args = ["--config", config.to_str().unwrap(), "--ledger", &ledger];
        Serving::start(&self.path(&format!("member-{member}")), &args)
    }

    /// The same with further settings, which come before those of all members.
    fn write_member_config(&self, name: &str, more: &str) -> PathBuf {
        let config = self.path(name);
        let common = std::fs::read_to_string(self.path("member.toml")).unwrap();
        std::fs::write(&config, format!("{more}\n{common}")).unwrap();
        config
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
    /// What it was told that it has, and nobody is about to give back.
    has: Mutex<Vec<Had>>,
}

/// A license: its session, its KID, itself.
type Had = ([u8; 16], Uuid, Uuid);

/// When calls began and ended, and whether those that get no answer go on.
struct Clock<'a> {
    clock: Instant,
    over: &'a (dyn Fn() -> bool + Sync),
}

impl Player {
    fn new(device: Device) -> Self {
        Self { device, calls: Mutex::default(), has: Mutex::default() }
    }

    /// Asks for one license until there is an answer; whether it was granted. `None`: it is over.
    fn acquire(&self, clients: &[Client], key_id: Uuid, clock: &Clock) -> Option<bool> {
        let asked = request(&[key_id]);
        let told = self.call(clients, &self.device.ask(&asked), PERSISTENT, clock, |answer| {
            if answer.status == 200 {
                let acquired = self.device.accept(&answer.body, &asked.nonce).unwrap();
                let ids = acquired.rights_ids().into_iter();
                let effects: Vec<_> = ids.map(Effect::Taken).collect();
                return Some(Told::Done(effects));
            }
            let subject = Subject::DeviceOf(self.device.identity());
            let refused = answer.text().contains("persistent_license_limit");
            let rule = DEVICE_SLOTS.to_owned();
            refused.then_some(Told::Refused { rule, subject, wanted: 1 })
        })?;
        let Told::Done(effects) = told else { return Some(false) };
        let [Effect::Taken(license)] = effects[..] else { panic!("{effects:?}") };
        self.has.lock().unwrap().push((asked.nonce, key_id, license));
        Some(true)
    }

    /// Deletes one of the licenses that it has, if there is one.
    fn give_back(&self, clients: &[Client], clock: &Clock) {
        let Some((session, key_id, license)) = self.has.lock().unwrap().pop() else { return };
        let challenge = self.device.give_back(session, &[key_id]);
        self.call(clients, &challenge, "", clock, |answer| {
            assert!(!answer.text().contains("unknown_session"), "{}", answer.text());
            let done = answer.status == 200 && deleted(&answer.body, session).is_ok();
            done.then(|| Told::Done(vec![Effect::Deleted(license)]))
        });
    }

    /// Sends the same challenge to one process after the other until `told` reads an answer.
    fn call(
        &self,
        clients: &[Client],
        challenge: &[u8],
        query: &str,
        Clock { clock, over }: &Clock,
        told: impl Fn(&Answer) -> Option<Told>,
    ) -> Option<Told> {
        let now = || u64::try_from(clock.elapsed().as_nanos()).unwrap();
        let (started, started_ms) = (now(), license_ledger::clock::Clock::System.now().0);
        for client in clients.iter().cycle() {
            let answer = client.try_challenge(challenge, query);
            if let Some(answered) = answer.as_ref().and_then(&told) {
                let (ended, told) = (Some(now()), answered.clone());
                let call = Call { started, started_ms, ended, told };
                self.calls.lock().unwrap().push(call);
                return Some(answered);
            }
            if over() {
                break;
            }
            // Nobody decides at present: the device asks again.
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }
}

fn ledger_at(port: u16) -> String {
    format!("kurrentdb://127.0.0.1:{port}?tls=false")
}

/// Checks what all players were told against the ledger.
fn check_all(players: &[Player], facts: &[Fact], limit: usize) {
    let calls = players.iter().map(|player| std::mem::take(&mut *player.calls.lock().unwrap()));
    let history: Vec<_> = calls.flatten().collect();
    let rule = Rule::on_slots(DEVICE_SLOTS, Scope::Device, limit);
    assert_eq!(check(&history, &changes(facts), &[rule]), Ok(()));
}

#[test]
fn two_processes_at_the_edge_of_a_quota_never_both_grant() {
    let rounds = from_environment("LICENSE_LEDGER_TEST_ROUNDS", ROUNDS);
    let group = Group::start(1, 2, |port| port);
    let clients = [[group.client(0)], [group.client(1)]];
    let clock = Clock { clock: Instant::now(), over: &|| false };
    let players: Vec<_> =
        (0..rounds).map(|round| Player::new(group.device(&format!("device-{round}")))).collect();
    let mut won = [0, 0];
    for (round, player) in players.iter().enumerate() {
        let granted = std::thread::scope(|scope| {
            let ask = |member: usize| {
                let key_id = kid((2 * round + member) as u128);
                player.acquire(&clients[member], key_id, &clock).unwrap()
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
