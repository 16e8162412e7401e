use std::path::Path;

use futures_util::{FutureExt, future::join_all};
use tempfile::TempDir;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::*;
use crate::clock::UnixMillis;
use crate::domain::event::{ContentKeyBound, IdentityLinked, KeySource, QuotaPolicyPublished};
use crate::domain::quota::Voiding;
use crate::domain::{Event, KeyId, KeyType};
use crate::entitlement::Open;
use crate::ledger::embedded::Options;
use crate::ledger::state::StateStore;
use crate::ledger::tail::Fact;
use crate::ledger::{Append, Embedded, Expected, NewEvent, StreamName};
use crate::playready::acknowledge::{Acknowledgement, LicenseResult};
use crate::playready::acquire::{AcquireRequest, SignResponses};
use crate::playready::challenge::ChallengeSigner;
use crate::playready::client_data::ClientData;
use crate::playready::delete::DeleteRequest;
use crate::playready::header::{Header, HeaderKey, HeaderVersion};
use crate::playready::kid::Kid;
use crate::playready::pki::{DeviceFiles, Pki};

const NOW_S: u64 = 1_700_000_000;
const PERSIST: &str = "cfg=(persist:true)";
const PKI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pki");

fn read(path: &str) -> std::io::Result<Vec<u8>> {
    std::fs::read(Path::new(PKI).join(path))
}

/// One ledger, to be served by several nodes.
pub(super) struct Site {
    dir: TempDir,
    ledger: Arc<Ledger>,
    phone: ChallengeSigner,
}

impl Site {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Embedded::open(dir.path(), Options::default()).unwrap();
        let device =
            DeviceFiles::load(|path| read(&format!("devices/golden/{path}")), NOW_S).unwrap();
        let client_data = ClientData {
            chain: device.chain.bytes().to_vec(),
            features: vec!["AESCBC".to_owned()],
            ree: Vec::new(),
        };
        let phone = ChallengeSigner::new(device.sign, &client_data, device.wmrm);
        Self { dir, ledger: Arc::new(Ledger::Embedded(ledger)), phone }
    }

    fn keys(&self, name: &str) -> Arc<Keys> {
        let file = self.dir.path().join(format!("{name}.sealed"));
        Arc::new(Keys::open(&file, &[1; 32]).unwrap())
    }

    /// A node with a state of its own.
    async fn try_node(&self, name: &str, quota: QuotaPolicy) -> Result<Licensing, LicensingError> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let store = StateStore::open(&dir, Arc::clone(&self.ledger)).await?;
        let pki = Pki::load(read, NOW_S).unwrap();
        let chain = pki.server_chain.bytes();
        Licensing::new(Parts {
            ledger: Arc::clone(&self.ledger),
            deciding: Deciding::new(Arc::clone(&self.ledger), Arc::new(store)),
            keys: self.keys(name),
            verifier: Verifier::new(pki.wmrm, pki.root),
            root: pki.root,
            signer: ResponseSigner::new(pki.server_sign, chain, SignResponses::Always),
            revocation: None,
            reference_key: ReferenceKey::new([7; 32]),
            entitlement: Entitlement::Open(Open::default()),
            clock: Clock::manual(UnixMillis(NOW_S as i64 * 1000)),
            quota,
            replay_window_ms: 24 * 60 * 60 * 1000,
        })
        .await
    }

    pub(super) async fn node(&self, name: &str, slots: u32) -> Licensing {
        self.try_node(name, QuotaPolicy::with_device_limit(slots, 16)).await.unwrap()
    }

    fn sign(&self, message: &Message) -> Vec<u8> {
        self.phone.sign(message, &mut |bytes| aws_lc_rs::rand::fill(bytes).unwrap())
    }

    /// A challenge for one KID, with its number as nonce; it may name a session.
    fn ask(&self, nonce: u8, key: u8, session: Option<u8>) -> Vec<u8> {
        let keys = vec![HeaderKey { kid: kid(key), algid: None, checksum: None }];
        let header = Header::new(HeaderVersion::V4_2, keys);
        let session = session.map(|session| [session; 16]);
        let request = AcquireRequest { session, ..AcquireRequest::new(header, [nonce; 16]) };
        self.sign(&Message::Acquire(request))
    }

    fn removal(&self, session: u8, key: u8) -> Vec<u8> {
        let kids = vec![kid(key)];
        self.sign(&Message::Delete(DeleteRequest { session: [session; 16], kids }))
    }

    async fn events(&self) -> Vec<Event> {
        let recorded = self.ledger.read_all(0, usize::MAX).await.unwrap();
        recorded.into_iter().map(|recorded| Fact::of(recorded).unwrap().event).collect()
    }

    pub(super) async fn count(&self, kind: &str) -> usize {
        self.events().await.iter().filter(|event| event.kind() == kind).count()
    }

    /// Appends an event to a stream past all nodes.
    async fn append(&self, stream: &StreamName, event: Event) {
        let head = self.ledger.head(stream).await.unwrap();
        let records = vec![(stream.clone(), NewEvent::of(stream, &event, "test").unwrap())];
        let checks = vec![(stream.clone(), Expected::at_head(head))];
        self.ledger.append(Append { records, checks }).await.unwrap();
    }
}

fn kid(n: u8) -> Kid {
    Kid::from(Uuid::from_u128(n.into()))
}

fn posted(query: &str) -> Posted<'_> {
    Posted { query, correlation: "test", ..Posted::default() }
}

async fn send(node: &Licensing, body: &[u8], query: &str) -> Reply {
    node.answer(node.verify(body).unwrap(), posted(query)).await
}

async fn granted(node: &Licensing, body: &[u8]) {
    let reply = send(node, body, PERSIST).await;
    assert!(!reply.is_fault, "{:?}", reply.detail);
}

/// Sends what must be answered with a fault, and returns its document.
async fn fault(node: &Licensing, body: &[u8], query: &str) -> String {
    let reply = send(node, body, query).await;
    assert!(reply.is_fault);
    String::from_utf8(reply.body).unwrap()
}

/// Sends challenges to two nodes by turns, all at once.
async fn send_at_once(site: &Site, slots: u32, asks: Vec<Vec<u8>>) -> Vec<Reply> {
    let nodes = [site.node("a", slots).await, site.node("b", slots).await].map(Arc::new);
    let sent = asks.into_iter().zip(nodes.iter().cycle()).map(|(ask, node)| {
        let node = Arc::clone(node);
        tokio::spawn(async move { send(&node, &ask, PERSIST).await })
    });
    let sent: Vec<_> = sent.collect();
    join_all(sent).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_share_a_ledger_never_exceed_the_quota() {
    let site = Site::new();
    let asks: Vec<_> = (1..=24).map(|n| site.ask(n, n, None)).collect();
    let replies = send_at_once(&site, 3, asks).await;
    assert_eq!(replies.iter().filter(|reply| !reply.is_fault).count(), 3);
    assert_eq!(site.count("license-acquired.v1").await, 3);
    for reply in replies.iter().filter(|reply| reply.is_fault) {
        let text = String::from_utf8_lossy(&reply.body);
        assert!(text.contains("persistent_license_limit"), "{text}");
    }
    assert_eq!(site.count("device-enrolled.v1").await, 1);
    assert_eq!(site.count("identity-linked.v1").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_challenge_sent_to_several_nodes_at_once_is_granted_once() {
    let site = Site::new();
    for reply in send_at_once(&site, 3, vec![site.ask(1, 1, None); 16]).await {
        assert!(!reply.is_fault, "{:?}", reply.detail);
    }
    assert_eq!(site.count("license-acquired.v1").await, 1);
}

#[tokio::test]
async fn challenge_given_up_in_the_middle_is_answered_with_what_it_was_granted() {
    let site = Site::new();
    let node = site.node("a", 1).await;
    let mut given_up = 0;
    for n in 1..=8 {
        let ask = site.ask(n, 1, None);
        let waiting = node.answer(node.verify(&ask).unwrap(), posted(PERSIST));
        given_up += u32::from(Box::pin(waiting).now_or_never().is_none());
        granted(&node, &ask).await;
        assert_eq!(site.count("license-acquired.v1").await, usize::from(n));
    }
    assert!(given_up > 0, "each was stored before it would wait for the disk");
}

#[tokio::test]
async fn node_that_is_behind_answers_from_the_head() {
    let site = Site::new();
    let (ahead, behind) = (site.node("a", 2).await, site.node("b", 2).await);
    granted(&behind, &site.ask(1, 1, None)).await;
    let ask = site.ask(2, 2, None);
    granted(&ahead, &ask).await;
    let events = site.events().await.len();
    // What was granted elsewhere is granted here, also if it could not be prepared here.
    let wrong_query = "cfg=(nonsense:1)";
    let reply = send(&behind, &ask, wrong_query).await;
    assert!(!reply.is_fault, "{:?}", reply.detail);
    let text = fault(&behind, &site.ask(3, 3, None), wrong_query).await;
    assert!(text.contains("invalid_cfg"), "{text}");
    assert_eq!(site.events().await.len(), events);
    // What was deleted elsewhere has left its slot.
    assert!(!send(&ahead, &site.removal(2, 2), "").await.is_fault);
    granted(&behind, &site.ask(4, 4, None)).await;
    assert!(!send(&behind, &site.removal(4, 4), "").await.is_fault);
    assert!(!send(&ahead, &site.removal(4, 4), "").await.is_fault);
    assert_eq!(site.count("license-deleted.v1").await, 2);
}

#[tokio::test]
async fn unprepared_challenge_grants_nothing_when_its_device_has_moved() {
    let site = Site::new();
    let (ahead, behind) = (site.node("a", 9).await, site.node("b", 9).await);
    granted(&behind, &site.ask(1, 1, None)).await;
    granted(&ahead, &site.ask(2, 2, None)).await;
    let events = site.events().await.len();
    let text = fault(&behind, &site.ask(3, 3, None), "cfg=(nonsense:1)").await;
    assert!(text.contains("invalid_cfg"), "{text}");
    assert_eq!(site.events().await.len(), events);
}

#[tokio::test]
async fn acknowledgement_is_recorded_once_whichever_node_takes_it() {
    let site = Site::new();
    let nodes = [site.node("a", 2).await, site.node("b", 2).await];
    granted(&nodes[0], &site.ask(1, 1, None)).await;
    let transaction_id = site.events().await.iter().find_map(|event| match event {
        Event::LicenseAcquired(e) => e.transaction_id,
        _ => None,
    });
    let acknowledgement = |transaction_id| {
        let results = vec![LicenseResult { kid: kid(1), result: 0 }];
        let client_time = None;
        site.sign(&Message::Acknowledge(Acknowledgement { transaction_id, results, client_time }))
    };
    let known = acknowledgement(transaction_id.unwrap().0);
    for node in nodes.iter().chain(&nodes) {
        assert!(!send(node, &known, "").await.is_fault);
        let text = fault(node, &acknowledgement(Uuid::from_u128(1)), "").await;
        assert!(text.contains("unknown_transaction"), "{text}");
    }
    assert_eq!(site.count("license-stored.v1").await, 1);
}

#[tokio::test]
async fn answer_is_checked_against_the_policy_and_the_device_it_was_decided_on() {
    let site = Site::new();
    let node = site.node("a", 2).await;
    let ask = site.ask(1, 1, None);
    granted(&node, &ask).await;
    let identity = node.verify(&ask).unwrap().identity();
    let mut turn = node.turn(identity, None, None, "test").await.unwrap();
    assert!(!node.moved(&mut turn).await.unwrap());

    let published = Event::QuotaPolicyPublished(QuotaPolicyPublished {
        policy: QuotaPolicy::with_device_limit(5, 16),
        actor: "operator".to_owned(),
        reason: "a test".to_owned(),
        at_ms: NOW_S as i64 * 1000 + 1,
    });
    site.append(&node.policy.stream, published).await;
    // Another request has seen it already: this decision was made on the one before all the same.
    node.policy.refresh(&site.ledger).await.unwrap();
    assert!(node.moved(&mut turn).await.unwrap());
    turn.policy = node.policy.current();
    assert_eq!((turn.policy.revision, turn.policy.policy.rules[0].limit), (1, 5));
    assert!(!node.moved(&mut turn).await.unwrap());

    let device = ReferenceKey::new([7; 32]).device("another");
    let linked = IdentityLinked {
        identity,
        device: device.clone(),
        actor: None,
        reason: None,
        at_ms: NOW_S as i64 * 1000,
    };
    site.append(&turn.belonging.stream, Event::IdentityLinked(linked)).await;
    assert!(node.moved(&mut turn).await.unwrap());
    let found = node.identities.find(identity, &site.ledger).await.unwrap();
    assert_eq!((found.device, found.expected), (device, Expected::At(1)));
}

#[tokio::test]
async fn session_named_again_for_the_same_kid_is_an_invalid_message() {
    let site = Site::new();
    let node = site.node("a", 2).await;
    granted(&node, &site.ask(1, 1, Some(90))).await;
    let events = site.events().await.len();
    let text = fault(&node, &site.ask(2, 1, Some(90)), PERSIST).await;
    assert!(text.contains("0x8004c601"), "{text}");
    assert_eq!(site.events().await.len(), events);
    granted(&node, &site.ask(3, 1, Some(91))).await;
}

#[tokio::test]
async fn unmatched_deletions_do_not_flood_the_ledger() {
    let site = Site::new();
    let node = site.node("a", 1).await;
    granted(&node, &site.ask(1, 1, None)).await;
    granted(&node, &site.ask(2, 1, None)).await;
    for session in 100..=200 {
        let reply = send(&node, &site.removal(session, 1), "").await;
        assert!(!reply.is_fault);
        assert_eq!(reply.position.is_some(), session < 200);
    }
    assert_eq!(site.count("deletion-unmatched.v1").await, 100);
    assert_eq!(site.count("evidence-kept.v1").await, 100);
    let mut registry = prometheus_client::registry::Registry::default();
    node.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("deletions_total{outcome=\"unmatched\"} 100\n"), "{text}");
    assert!(text.contains("deletions_total{outcome=\"left_out\"} 1\n"), "{text}");
}

#[tokio::test]
async fn policy_that_contradicts_itself_is_not_published() {
    let site = Site::new();
    let refused = site.try_node("a", QuotaPolicy::with_device_limit(25, 0)).await.err();
    assert!(matches!(refused, Some(LicensingError::Policy(_))), "{refused:?}");
    assert_eq!(site.events().await.len(), 0);
}

#[tokio::test]
async fn configured_policy_seeds_an_empty_ledger_only() {
    let site = Site::new();
    site.node("a", 1).await;
    let node = site.node("b", 2).await;
    assert_eq!(node.policy.current().policy.rules[0].limit, 1);
    assert_eq!(site.count("quota-policy-published.v1").await, 1);
}

#[tokio::test]
async fn keys_and_seeds_that_the_ledger_knows_never_change_though_the_key_store_is_lost() {
    let site = Site::new();
    let registry = |store: &str| {
        Registry::new(Arc::clone(&site.ledger), site.keys(store), Clock::manual(UnixMillis(1)))
    };
    let key = |n| (KeyId(Uuid::from_u128(1)), Zeroizing::new([n; 16]));
    let seed = |n| Zeroizing::new(vec![n; 30]);
    let first = registry("first");
    first.content_keys(&[key(1).into()], "op").await.unwrap();
    assert!(first.key_seed("default", &seed(1), "op").await.unwrap());
    assert_eq!(first.load().await.unwrap(), 0);

    let lost = registry("second");
    assert_eq!(lost.load().await.unwrap(), 2);
    let refused = lost.content_keys(&[key(2).into()], "op").await;
    assert!(matches!(refused, Err(RegisterError::Registered(_))), "{refused:?}");
    let refused = lost.key_seed("default", &seed(2), "op").await;
    assert!(matches!(refused, Err(RegisterError::SeedRegistered(_))), "{refused:?}");
    lost.content_keys(&[key(1).into()], "op").await.unwrap();
    lost.key_seed("default", &seed(1), "op").await.unwrap();
    assert_eq!(lost.load().await.unwrap(), 0);
    assert_eq!(site.events().await.len(), 2, "what is registered is not registered again");
}

/// Five slots, and what is unconfirmed after a minute is voided.
fn voiding() -> QuotaPolicy {
    let voiding =
        Voiding { min_security_level: 0, store_failed: false, unconfirmed_after_seconds: Some(60) };
    QuotaPolicy { voiding: Some(voiding), ..QuotaPolicy::with_device_limit(5, 16) }
}

fn advance(node: &Licensing, ms: i64) {
    let Clock::Manual(at) = &node.clock else { panic!("not a manual clock") };
    at.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_share_a_ledger_void_a_license_once() {
    let site = Site::new();
    let nodes = [
        Arc::new(site.try_node("a", voiding()).await.unwrap()),
        Arc::new(site.try_node("b", voiding()).await.unwrap()),
    ];
    granted(&nodes[0], &site.ask(1, 1, None)).await;
    granted(&nodes[0], &site.ask(2, 2, None)).await;
    nodes.iter().for_each(|node| advance(node, 60_001));
    let identity = nodes[0].verify(&site.ask(9, 9, None)).unwrap().identity();
    let device = nodes[0].turn(identity, None, None, "test").await.unwrap().belonging.device;
    assert_eq!(site.count("license-voided.v1").await, 2);
    // Neither the node that has not seen it, nor any number of calls at once, does it again.
    let sweeps = nodes.iter().cycle().take(16).map(|node| {
        let (node, device) = (Arc::clone(node), device.clone());
        tokio::spawn(async move { node.void_overdue_on(&device).await })
    });
    for swept in join_all(sweeps.collect::<Vec<_>>()).await {
        swept.unwrap().unwrap();
    }
    assert_eq!(site.count("license-voided.v1").await, 2);
}

#[tokio::test]
async fn voiding_goes_by_the_newest_policy_also_on_a_node_that_has_not_seen_it() {
    let site = Site::new();
    let node = site.try_node("a", voiding()).await.unwrap();
    granted(&node, &site.ask(1, 1, None)).await;
    let published = Event::QuotaPolicyPublished(QuotaPolicyPublished {
        policy: QuotaPolicy::with_device_limit(1, 16),
        actor: "operator".to_owned(),
        reason: "no voiding any more".to_owned(),
        at_ms: NOW_S as i64 * 1000 + 1,
    });
    site.append(&node.policy.stream, published).await;
    advance(&node, 60_001);
    let text = fault(&node, &site.ask(2, 2, None), PERSIST).await;
    assert!(text.contains("persistent_license_limit"), "{text}");
    assert_eq!(site.count("license-voided.v1").await, 0);
}

/// Parts that a node and a registry share.
struct Shared {
    site: Site,
    node: Licensing,
    registry: Arc<Registry>,
}

impl Shared {
    async fn new() -> Self {
        let site = Site::new();
        let node = site.node("a", 25).await;
        let clock = Clock::manual(UnixMillis(NOW_S as i64 * 1000));
        let registry = Registry::new(Arc::clone(&site.ledger), Arc::clone(&node.keys), clock);
        registry.load().await.unwrap();
        Self { site, node, registry: Arc::new(registry) }
    }

    async fn seed(&self, seed_id: &str, byte: u8) {
        let seed = Zeroizing::new(vec![byte; 30]);
        assert!(self.registry.key_seed(seed_id, &seed, "op").await.unwrap());
    }

    /// Registers a content key that has 16 of this byte, or the one given.
    async fn import(&self, number: u8, key: [u8; 16]) -> Result<Registered, RegisterError> {
        let key_id = KeyId(kid(number).guid());
        self.registry.content_keys(&[(key_id, Zeroizing::new(key)).into()], "op").await
    }

    async fn acquire(&self, nonce: u8, number: u8) {
        let request = self.node.verify(&self.site.ask(nonce, number, None)).ok().unwrap();
        let reply = self.node.answer(request, Posted::default()).await;
        assert!(!reply.is_fault, "{reply:?}");
    }

    async fn sources(&self) -> Vec<KeySource> {
        let events = self.site.events().await.into_iter();
        let sources = events.filter_map(|event| match event {
            Event::LicenseAcquired(license) => Some(license.key_source),
            _ => None,
        });
        sources.collect()
    }
}

fn seed_source(seed_id: &str) -> KeySource {
    KeySource::Seed { seed_id: seed_id.to_owned() }
}

fn derived(byte: u8, number: u8) -> [u8; 16] {
    let seed = crate::playready::key_seed::KeySeed::new(&[byte; 30]).unwrap();
    *seed.content_key(kid(number)).expose()
}

#[tokio::test]
async fn a_kid_that_got_its_key_from_a_seed_takes_no_other() {
    let shared = Shared::new().await;
    shared.seed("default", 1).await;
    shared.acquire(1, 1).await;
    shared.acquire(2, 1).await;
    assert_eq!(shared.site.count("content-key-bound.v1").await, 1, "bound once");
    let refused = shared.import(1, [9; 16]).await;
    assert!(matches!(refused, Err(RegisterError::Bound { .. })), "{refused:?}");
    assert_eq!(shared.import(1, derived(1, 1)).await.unwrap().added, 1, "the same key is taken");
    // A KID that had no license is free.
    assert_eq!(shared.import(2, [9; 16]).await.unwrap().added, 1);
    shared.acquire(3, 2).await;
    shared.acquire(4, 1).await;
    let seed = seed_source("default");
    let registered = KeySource::Registered;
    assert_eq!(shared.sources().await, [seed.clone(), seed, registered.clone(), registered]);
}

#[tokio::test]
async fn another_default_seed_serves_new_kids_only() {
    let shared = Shared::new().await;
    shared.seed("default", 1).await;
    shared.acquire(1, 1).await;
    shared.seed("2027", 2).await;
    // As after a restart with another setting: nothing is remembered.
    let keys = Keys::open(&shared.site.dir.path().join("a.sealed"), &[1; 32]).unwrap();
    let keys = keys.with_default_seed("2027");
    let Shared { site, node, registry } = shared;
    let shared = Shared { site, node: Licensing { keys: Arc::new(keys), ..node }, registry };
    shared.acquire(2, 1).await;
    shared.acquire(3, 2).await;
    let old = seed_source("default");
    assert_eq!(shared.sources().await, [old.clone(), old, seed_source("2027")]);
}

#[tokio::test]
async fn whoever_comes_second_to_a_kid_gives_way() {
    for round in 0..20 {
        let shared = Shared::new().await;
        shared.seed("default", 1).await;
        let (imported, ()) = tokio::join!(shared.import(1, [9; 16]), shared.acquire(1, 1));
        shared.acquire(2, 1).await;
        let sources = shared.sources().await;
        assert_eq!(sources[0], sources[1], "the key changed in round {round}");
        let taken = sources[0] == KeySource::Registered;
        assert_eq!(imported.is_ok(), taken, "{imported:?} {sources:?}");
    }
}

#[tokio::test]
async fn an_acquisition_prepared_before_a_registration_is_prepared_again() {
    let shared = Shared::new().await;
    shared.seed("default", 1).await;
    // Another process registers a key of which this one does not know yet.
    let key_id = KeyId(kid(1).guid());
    let stream = StreamName::new(&format!("key-{key_id}")).unwrap();
    let source = KeySource::Registered;
    let bound = ContentKeyBound { key_id, source, at_ms: 1 };
    shared.site.append(&stream, Event::ContentKeyBound(bound)).await;
    let serve = async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        shared.node.keys.serve(&[(key_id, Zeroizing::new([9; 16]))]);
    };
    tokio::join!(shared.acquire(1, 1), serve);
    assert_eq!(shared.sources().await, [KeySource::Registered]);
}

/// Licenses of two processes that would give one key two types.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_never_license_one_key_for_both_modes() {
    for round in 0..20 {
        let site = Site::new();
        let nodes = [site.node("a", 25).await, site.node("b", 25).await];
        for node in &nodes {
            node.keys.add_seed("default", &Zeroizing::new(vec![1; 30])).unwrap();
        }
        let [ctr, cbc] = [(1, "cfg=(ckt:aesctr)"), (2, "cfg=(ckt:aescbc)")];
        let asks = [ctr, cbc].map(|(nonce, _)| site.ask(nonce, 1, None));
        let (first, second) =
            tokio::join!(send(&nodes[0], &asks[0], ctr.1), send(&nodes[1], &asks[1], cbc.1));
        assert_eq!(u8::from(first.is_fault) + u8::from(second.is_fault), 1, "round {round}");
        let refused = if first.is_fault { &first } else { &second };
        let text = String::from_utf8_lossy(&refused.body);
        assert!(text.contains("try_later") || text.contains("invalid_cfg"), "{text}");
        assert_eq!(site.count("content-key-typed.v1").await, 1);
        // Either node knows by now.
        for (node, nonce) in nodes.iter().zip([3, 4]) {
            let again = fault(
                node,
                &site.ask(nonce, 1, None),
                [ctr.1, cbc.1][usize::from(!first.is_fault)],
            )
            .await;
            assert!(again.contains("invalid_cfg"), "{again}");
        }
    }
}

#[tokio::test]
async fn a_packager_gets_registered_derived_and_new_keys_that_stay() {
    let shared = Shared::new().await;
    let id = |number| KeyId(kid(number).guid());
    let ctr = |number| (id(number), KeyType::AesCtr);
    let refused = shared.registry.keys_for(vec![ctr(1)], Unknown::Refuse, "p".to_owned()).await;
    assert!(matches!(refused, Err(RegisterError::UnknownKey(key_id)) if key_id == id(1)));
    let made =
        shared.registry.keys_for(vec![ctr(1)], Unknown::Create, "p".to_owned()).await.unwrap();
    let again =
        shared.registry.keys_for(vec![ctr(1)], Unknown::Refuse, "p".to_owned()).await.unwrap();
    assert!(made == again && made[0].0 == id(1), "another key");
    assert_eq!(shared.site.count("content-key-registered.v1").await, 1);
    shared.seed("default", 1).await;
    let found = shared
        .registry
        .keys_for(vec![ctr(2), ctr(1)], Unknown::Refuse, "p".to_owned())
        .await
        .unwrap();
    assert!(found.contains(&(id(2), Zeroizing::new(derived(1, 2)))));
    assert!(found.contains(&made[0]));
    let refused = shared.import(2, [9; 16]).await;
    assert!(matches!(refused, Err(RegisterError::Bound { .. })), "delivered keys change");
}
