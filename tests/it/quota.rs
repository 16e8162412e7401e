//! The quota holds at every prefix of the log, whoever races for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use license_ledger::access::secrets;
use license_ledger::clock::Clock;
use license_ledger::domain::ReferenceKey;
use license_ledger::domain::quota::QuotaPolicy;
use license_ledger::entitlement::{Entitlement, Open};
use license_ledger::keys::Keys;
use license_ledger::ledger::state::{Deciding, StateStore};
use license_ledger::licensing::{Licensing, Parts, Posted};
use license_ledger::playready::acquire::{ResponseSigner, SignResponses};
use license_ledger::playready::challenge::Verifier;
use license_ledger::playready::pki::Pki;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::device::{Device, PERSISTENT, fault_of, kid, refused, request};
use crate::service::{NOW_S, Setup, TestService, block_on};

const LIMIT: usize = 25;
const KIDS: usize = 200;
const THREADS: usize = 64;

/// 8004C600: the client asks again.
const TRY_AGAIN: (u32, Option<String>) = (0x8004_C600, None);

/// Has 64 threads ask for 200 KIDs, one challenge each; returns the KIDs granted. `send` answers
/// the body of a challenge, whether it is a fault or not.
fn race(device: &Device, send: impl Fn(usize, &[u8]) -> Vec<u8> + Sync) -> BTreeSet<Uuid> {
    let requests: Vec<_> = (0..KIDS).map(|number| request(&[kid(number as u128)])).collect();
    let challenges: Vec<_> = requests.iter().map(|request| device.ask(request)).collect();
    let next = AtomicUsize::new(0);
    let work = |thread: usize| {
        let mut granted = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(challenge) = challenges.get(number) else { return granted };
            let mut answer = send(thread, challenge);
            while is_fault(&answer) && fault_of(&answer) == TRY_AGAIN {
                answer = send(thread, challenge);
            }
            if is_fault(&answer) {
                assert_eq!(fault_of(&answer), refused("persistent_license_limit"));
            } else {
                let acquired = device.accept(&answer, &requests[number].nonce).unwrap();
                granted.extend(acquired.keys().into_iter().map(|(kid, _)| kid));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn is_fault(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("<soap:Fault>")
}

/// Checks the log and the read model after a race.
fn check(service: &TestService, device: &Device, granted: &BTreeSet<Uuid>) {
    let replay = service.replay();
    assert_eq!(replay.held(), LIMIT);
    assert_eq!(replay.most_held, LIMIT, "over quota at some prefix of the log");
    let acquired: Vec<_> = replay.acquired.iter().map(|license| license.key_id.0).collect();
    assert_eq!(acquired.len(), LIMIT, "a grant is in the log twice, or was never answered");
    assert_eq!(&acquired.into_iter().collect::<BTreeSet<_>>(), granted);
    assert_eq!(service.live(device), LIMIT as u64);
    let now = UNMOVED;
    replay.check_inventory(&service.inner().inventory, now);
}

const UNMOVED: license_ledger::clock::UnixMillis =
    license_ledger::clock::UnixMillis(NOW_S as i64 * 1000);

fn answer(licensing: &Licensing, challenge: &[u8]) -> Vec<u8> {
    let verified = licensing.verify(challenge).map_err(|reply| reply.detail).unwrap();
    let posted = Posted { query: PERSISTENT, ..Posted::default() };
    block_on(licensing.answer(verified, posted)).body
}

#[test]
fn sixty_four_threads_never_exceed_the_quota() {
    let service = TestService::new();
    let device = service.device("racer");
    let licensing = Arc::clone(&service.inner().licensing);
    let granted = race(&device, |_, challenge| answer(&licensing, challenge));
    check(&service, &device, &granted);
}

#[test]
fn two_nodes_over_one_log_never_exceed_the_quota() {
    let service = TestService::new();
    let device = service.device("racer");
    let own = TempDir::new().unwrap();
    let nodes = [Arc::clone(&service.inner().licensing), Arc::new(second_node(&service, &own))];
    let granted = race(&device, |thread, challenge| answer(&nodes[thread % 2], challenge));
    check(&service, &device, &granted);
}

#[test]
fn sixty_four_connections_never_exceed_the_quota() {
    let service = TestService::new();
    let device = service.device("racer");
    let granted =
        race(&device, |_, challenge| service.client.challenge(challenge, PERSISTENT).body);
    check(&service, &device, &granted);
}

#[test]
fn a_batch_that_does_not_fit_is_refused_whole() {
    let service = TestService::new();
    let device = service.device("batches");
    let kids: Vec<_> = (0..LIMIT as u128 + 1).map(kid).collect();
    let acquire = |kids: &[Uuid]| {
        let refusal = device.acquire(&service.client, &request(kids), PERSISTENT).err();
        refusal.map(|fault| crate::device::words(&fault))
    };
    assert_eq!(acquire(&kids), Some(refused("persistent_license_limit")));
    assert_eq!(service.replay().acquired.len(), 0);
    assert_eq!(acquire(&kids[..LIMIT]), None);
    assert_eq!(service.live(&device), LIMIT as u64);
    // A KID that is held already takes no new slot.
    assert_eq!(acquire(&kids[..1]), None);
    assert_eq!(acquire(&kids[LIMIT..]), Some(refused("persistent_license_limit")));
}

/// The use cases once more, as another process would have them: only the log is shared.
fn second_node(service: &TestService, own: &TempDir) -> Licensing {
    let ledger = Arc::clone(&service.inner().ledger);
    let secret = |name: &str| {
        let dir = service.data().with_file_name("data-secrets");
        *secrets::read(&dir.join(name)).unwrap().expose()
    };
    let pki = Pki::load(|path| std::fs::read(service.pki.join(path)), NOW_S).unwrap();
    // Its tail runs on a thread of its own, so the runtime may end.
    let store = block_on(StateStore::open(own.path(), Arc::clone(&ledger))).unwrap();
    let parts = Parts {
        deciding: Deciding::new(Arc::clone(&ledger), Arc::new(store)),
        ledger,
        keys: Arc::new(Keys::open(&own.path().join("keys.sealed"), &secret("master.key")).unwrap()),
        verifier: Verifier::new(pki.wmrm, pki.root),
        root: pki.root,
        signer: ResponseSigner::new(
            pki.server_sign,
            pki.server_chain.bytes(),
            SignResponses::Always,
        ),
        revocation: None,
        reference_key: ReferenceKey::new(secret("reference.key")),
        entitlement: Entitlement::Open(Open::default()),
        clock: Clock::manual(UNMOVED),
        quota: QuotaPolicy::default(),
        replay_window_ms: 24 * 60 * 60 * 1000,
    };
    block_on(Licensing::new(parts)).unwrap()
}

#[test]
fn a_refusal_names_the_rule_what_it_counted_and_what_helps() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("full");
    let rental = "cfg=(persist:true,enddate:20231115000000)";
    let first = device.acquire(&service.client, &request(&[kid(1)]), rental).unwrap();
    device.acknowledge(&service.client, first.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    let Err(fault) = device.acquire(&service.client, &request(&[kid(2)]), PERSISTENT) else {
        panic!("granted over the limit")
    };
    let said: Value = serde_json::from_str(fault.custom_data.as_deref().unwrap()).unwrap();
    let expected = json!({
        "error": "persistent_license_limit", "scope": "device", "limit": 1, "held": 1,
        "requested": 1, "held_kids": [kid(1)], "rule": "device-slots", "policy_version": 0,
        "confirmed": 1, "live": 1, "possible": 1, "next_free_at": 1_700_006_400,
        "remedies": ["delete_license", "write_off", "wait", "override"],
    });
    assert_eq!(said, expected);
}
