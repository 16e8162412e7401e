//! Root and leaf licenses, from the policy string to the device that plays under them.

mod reserved;

use std::collections::BTreeMap;

use license_ledger::cli::admin::Command;
use license_ledger::domain::event::KeySource;
use license_ledger::playready::content_key::{ContentKey, KeyType};
use license_ledger::playready::key_seed::KeySeed;
use license_ledger::playready::kid::Kid;
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::simulator::store::Which;
use license_ledger::simulator::{
    Device as Player, Sample, SimulatorError, Unplayable, Wanted, WantedKey,
};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::authorize::{
    Answer, Issuer, Server, TokenService, acquired, ask_at, claims, content_key,
};
use crate::device::kid;
use crate::policies;
use crate::service::{NOW_S, Setup, TestService};

/// The KIDs of the tests: one root, and leaves from 1 on.
fn root() -> Uuid {
    kid(100)
}

fn plays(player: &mut Player, kid: Uuid) -> Result<(), Unplayable> {
    policies::play(player, kid, KeyType::AesCtr)
}

fn ask(
    service: &TestService,
    player: &mut Player,
    kids: &[Uuid],
    cfg: &str,
) -> Result<Vec<Uuid>, SimulatorError> {
    let key = |kid: &Uuid| WantedKey { kid: Kid::from(*kid), checksum: None };
    let keys = kids.iter().map(key).collect();
    let wanted = Wanted { keys, ..policies::wanted(kids[0], cfg) };
    let acquired = player.acquire(&service.endpoint(), &wanted)?;
    Ok(acquired.answer.licenses.iter().map(|license| license.opened.kid.guid()).collect())
}

/// The word and detail of a refusal.
fn refusal<T>(outcome: Result<T, SimulatorError>) -> (String, String) {
    let Some(SimulatorError::Refused(fault)) = outcome.err() else { panic!("not refused") };
    let data: Value = serde_json::from_str(&fault.custom_data.unwrap()).unwrap();
    let text = |member: &str| data[member].as_str().unwrap_or_default().to_owned();
    (text("error"), text("detail"))
}

fn invalid(detail: &str) -> (String, String) {
    ("invalid_policy".to_owned(), detail.to_owned())
}

/// By KID, what the inventory says of chains.
fn chains(service: &TestService, player: &Player) -> BTreeMap<String, Value> {
    let identity = data_encoding::HEXLOWER.encode(player.identity());
    let position = service.event_count();
    let path = format!("/v1/devices/{identity}/inventory?min_position={position}");
    let inventory = service.client.json(&path);
    let licenses = inventory["licenses"].as_array().unwrap().iter();
    licenses.map(|l| (l["key_id"].as_str().unwrap().to_owned(), l["chain"].clone())).collect()
}

#[test]
fn root_and_leaves_come_in_one_response_roots_first() {
    for persist in [true, false] {
        let service = TestService::new();
        let name = if persist { "stored" } else { "streamed" };
        let mut player = service.player(name, SecurityLevel::Software);
        let cfg = format!(
            "(rootid:{0},persist:{persist}),(isroot:true,kid:{0},persist:{persist})",
            root()
        );
        let got = ask(&service, &mut player, &[kid(1), kid(2)], &cfg).unwrap();
        assert_eq!(got, [root(), kid(1), kid(2)]);
        assert_eq!(plays(&mut player, kid(1)), Ok(()));
        assert_eq!(plays(&mut player, kid(2)), Ok(()));
        drop(player);
        let mut player = service.same_player(name);
        assert_eq!(plays(&mut player, kid(2)).is_ok(), persist);
        let parts: Vec<_> =
            service.replay().acquired.iter().map(|license| json!(license.chain)).collect();
        let source = json!({"kind": "published_test_seed"});
        let leaf = json!({"part": "leaf", "root_key_id": root(), "root_key_source": source});
        assert_eq!(parts, [json!({"part": "root"}), leaf.clone(), leaf]);
        let shown = chains(&service, &player);
        assert_eq!(shown.len(), if persist { 3 } else { 0 });
        if persist {
            assert_eq!(shown[&root().to_string()], json!({"part": "root"}));
            let leaf = json!({"part": "leaf", "root_key_id": root()});
            assert_eq!(shown[&kid(1).to_string()], leaf);
        }
    }
}

#[test]
fn a_leaf_may_come_later_and_only_under_a_root_that_is_held() {
    let service = TestService::new();
    let mut player = service.player("subscriber", SecurityLevel::Software);
    let leaf = format!("(persist:true,rootid:{})", root());
    let renewal = format!("(isroot:true,kid:{},persist:true)", root());
    let missing = invalid("root_missing");
    assert_eq!(refusal(ask(&service, &mut player, &[kid(1)], &leaf)), missing);
    ask(&service, &mut player, &[root()], &renewal).unwrap();
    assert_eq!(ask(&service, &mut player, &[kid(1)], &leaf).unwrap(), [kid(1)]);
    assert_eq!(plays(&mut player, kid(1)), Ok(()));
    // Not stored under a root that is; and not with a root whose key the request names.
    let streamed = format!("(rootid:{})", root());
    assert_eq!(refusal(ask(&service, &mut player, &[kid(2)], &streamed)), missing);
    let own = "ck:eNqVnXrElmo2NSsn7IXeEA==";
    let other = kid(101);
    let cfg = format!("(isroot:true,kid:{other},persist:true,{own}),(persist:true,rootid:{other})");
    ask(&service, &mut player, &[kid(3)], &cfg).unwrap();
    assert_eq!(plays(&mut player, kid(3)), Ok(()));
    let later = format!("(persist:true,rootid:{other})");
    assert_eq!(refusal(ask(&service, &mut player, &[kid(4)], &later)), missing);
    // Another device's root is nobody else's.
    let mut stranger = service.player("stranger", SecurityLevel::Software);
    assert_eq!(refusal(ask(&service, &mut stranger, &[kid(1)], &leaf)), missing);
}

#[test]
fn a_leaf_without_its_root_still_counts_and_plays_again_when_the_root_is_back() {
    let service = TestService::new();
    let mut player = service.player("lapsed", SecurityLevel::Software);
    let renewal = format!("(isroot:true,kid:{},persist:true)", root());
    let both = format!("{renewal},(persist:true,rootid:{})", root());
    ask(&service, &mut player, &[kid(1)], &both).unwrap();
    player.delete(&service.endpoint(), Which::Kid(Kid::from(root()))).unwrap();
    assert_eq!(plays(&mut player, kid(1)), Err(Unplayable::RootNotHeld(Kid::from(root()))));
    let held: Vec<_> = chains(&service, &player).into_keys().collect();
    assert_eq!(held, [kid(1).to_string()], "the leaf is on the device, and can be used again");
    let leaf = format!("(persist:true,rootid:{})", root());
    let refused = refusal(ask(&service, &mut player, &[kid(2)], &leaf));
    assert_eq!(refused, invalid("root_missing"));
    ask(&service, &mut player, &[root()], &renewal).unwrap();
    assert_eq!(plays(&mut player, kid(1)), Ok(()));
}

#[test]
fn limits_of_the_root_hold_for_its_leaves() {
    let service = TestService::new();
    let mut player = service.player("month", SecurityLevel::Software);
    // An hour, and ten seconds from the first play of anything under it.
    let month = format!("(isroot:true,kid:{},persist:true,enddate:20231114231320)", root());
    let cfg = format!("{month},(persist:true,rootid:{})", root());
    ask(&service, &mut player, &[kid(1)], &cfg).unwrap();
    assert_eq!(plays(&mut player, kid(1)), Ok(()));
    service.advance_s(3_600);
    let ended = Box::new(Unplayable::Ended(NOW_S + 3_600));
    let root_ended = Err(Unplayable::Root(Kid::from(root()), ended));
    assert_eq!(plays(&mut player, kid(1)), root_ended);
    // Expiry needs no event: under a root that ended no leaf is made.
    let leaf = format!("(persist:true,rootid:{})", root());
    let refused = refusal(ask(&service, &mut player, &[kid(2)], &leaf));
    assert_eq!(refused, invalid("root_missing"));
    // The renewal alone makes every leaf play again; each play counts for the root.
    let renewal = format!("(isroot:true,kid:{},persist:true,firstexp:10)", root());
    ask(&service, &mut player, &[root()], &renewal).unwrap();
    assert_eq!(plays(&mut player, kid(1)), Ok(()));
    service.advance_s(10);
    drop(player);
    let mut player = service.same_player("month");
    let Err(Unplayable::Root(_, why)) = plays(&mut player, kid(1)) else { panic!("it plays") };
    assert!(matches!(*why, Unplayable::FirstPlayOver { .. }), "{why}");
}

#[test]
fn a_repeat_seals_the_same_chain_again() {
    let mut service = TestService::new();
    let mut player = service.player("repeater", SecurityLevel::Software);
    let cfg = format!("(rootid:{0},persist:true),(isroot:true,kid:{0},persist:true)", root());
    let challenge = player.challenge(&policies::wanted(kid(1), &cfg)).unwrap();
    let first = player.exchange(&service.endpoint(), &challenge).unwrap();
    let events = service.event_count();
    service.restart();
    // Another policy string, with another key, changes nothing of what was granted.
    let other = format!("(kid:{},ck:eNqVnXrElmo2NSsn7IXeEA==)", root());
    for cfg in [cfg, other] {
        let again = license_ledger::simulator::Challenge { cfg: Some(cfg), ..challenge.clone() };
        let again = player.exchange(&service.endpoint(), &again).unwrap();
        for (again, first) in again.answer.licenses.iter().zip(&first.answer.licenses) {
            assert_eq!(again.opened.rights_id, first.opened.rights_id);
            assert_eq!(again.opened.root_kid, first.opened.root_kid);
            assert_eq!(again.opened.content_key.expose(), first.opened.content_key.expose());
            assert_ne!(again.xmr, first.xmr, "the wrapping is the same");
        }
        assert_eq!(plays(&mut player, kid(1)), Ok(()));
    }
    assert_eq!(service.event_count(), events, "a repeat left an event");
}

/// A statement's leaf of the root, with the seed that gives it its key, and the root if it is due.
fn statement(leaf: Uuid, with_root: bool, policy: &Value) -> Value {
    let mut license = json!({
        "policy": {"sl": 150, "persist": true},
        "keys": [{"kid": leaf, "root": root(), "seed": "studio"}],
    });
    if with_root {
        license["roots"] = json!([{"kid": root(), "seed": "roots", "policy": policy}]);
    }
    license
}

/// Tokens and answers to callbacks describe chains and name seeds as policy strings can.
#[test]
fn tokens_describe_chains_and_name_seeds() {
    let issuer = Issuer::new("HS256", "k");
    let mut tokens = TokenService::new(&[&issuer]);
    for (byte, seed_id) in [(1, "default"), (2, "roots"), (3, "studio")] {
        let seed_id = seed_id.to_owned();
        let seed = Zeroizing::new(vec![byte; 30]);
        tokens.service.command(&Command::AddSeed { seed_id, seed }).unwrap();
    }
    let mut player = tokens.service.player("chained", SecurityLevel::Software);
    let mut jti = 0;
    let mut ask = |service: &TestService, player: &mut Player, kids: &[Uuid], license: Value| {
        jti += 1;
        let token = issuer.token(&claims(&jti.to_string(), license));
        let custom_data = Some(token);
        let keys = kids.iter().map(|kid| WantedKey { kid: Kid::from(*kid), checksum: None });
        let one = Wanted::one(Kid::from(kids[0]));
        let wanted = Wanted { keys: keys.collect(), custom_data, ..one };
        let acquired = player.acquire(&service.endpoint(), &wanted)?;
        let licenses = acquired.answer.licenses.iter();
        let opened = licenses.map(|l| (l.opened.kid.guid(), *l.opened.content_key.expose()));
        Ok(opened.collect::<Vec<_>>())
    };
    let derived = |byte: u8, kid: Uuid| {
        *KeySeed::new(&[byte; 30]).unwrap().content_key(Kid::from(kid)).expose()
    };
    let play = |player: &mut Player, kid: Uuid| {
        let key = ContentKey::new(derived(3, kid));
        let sample = Sample::encrypt(&key, KeyType::AesCtr, [9; 16], b"pictures");
        player.play(Kid::from(kid), &sample).map_err(|error| error.to_string())
    };
    let open_ended = json!({"sl": 150, "persist": true});
    // A leaf whose root is neither held nor stated; then both in one response.
    let refused =
        ask(&tokens.service, &mut player, &[kid(11)], statement(kid(11), false, &open_ended));
    assert_eq!(refusal(refused), invalid("root_missing"));
    let both = statement(kid(11), true, &json!({"sl": 150, "persist": true, "end": NOW_S + 3_600}));
    let got = ask(&tokens.service, &mut player, &[kid(11)], both).unwrap();
    assert_eq!(got, [(root(), derived(2, root())), (kid(11), derived(3, kid(11)))]);
    assert_eq!(play(&mut player, kid(11)).unwrap(), b"pictures");
    let sources: Vec<_> = acquired(&tokens.service).into_iter().map(|l| l.key_source).collect();
    let seed = |seed_id: &str| KeySource::Seed { seed_id: seed_id.to_owned() };
    assert_eq!(sources, [seed("roots"), seed("studio")]);
    // Later, and by a process that does not remember which seed the root's key is from.
    tokens.service.restart();
    drop(player);
    let mut player = tokens.service.same_player("chained");
    let later = statement(kid(12), false, &open_ended);
    let got = ask(&tokens.service, &mut player, &[kid(12)], later).unwrap();
    assert_eq!(got, [(kid(12), derived(3, kid(12)))]);
    assert_eq!(play(&mut player, kid(12)).unwrap(), b"pictures");
    // The root alone is its renewal, and no leaf comes unasked.
    tokens.service.advance_s(3_600);
    let renewal = statement(kid(11), true, &open_ended);
    assert!(play(&mut player, kid(12)).is_err());
    let got = ask(&tokens.service, &mut player, &[root()], renewal).unwrap();
    assert_eq!(got, [(root(), derived(2, root()))]);
    assert_eq!(play(&mut player, kid(12)).unwrap(), b"pictures");
    // A KID stays with its seed, whatever a later statement names.
    let mut other = statement(kid(11), false, &open_ended);
    other["keys"][0]["seed"] = json!("default");
    let got = ask(&tokens.service, &mut player, &[kid(11)], other).unwrap();
    assert_eq!(got, [(kid(11), derived(3, kid(11)))]);
}

#[test]
fn callbacks_describe_chains() {
    let allowed = json!({"decision": "allow", "license": {
        "policy": {"sl": 150, "persist": true},
        "roots": [{"kid": kid(4)}],
        "keys": [{"kid": kid(1), "root": kid(4)}, {"kid": kid(2), "root": kid(4)}],
    }});
    let server = Server::start(move |_, _| Answer::json(&allowed));
    let asking = ask_at(&server.url, Setup::default());
    let service = &asking.service;
    let mut player = service.player("asks", SecurityLevel::Software);
    let keys = [1, 2].map(|n| WantedKey { kid: Kid::from(kid(n)), checksum: None });
    let wanted = Wanted { keys: keys.to_vec(), ..Wanted::one(Kid::from(kid(1))) };
    let acquired = player.acquire(&service.endpoint(), &wanted).unwrap();
    let licenses = acquired.answer.licenses.iter();
    let got: Vec<_> =
        licenses.map(|l| (l.opened.kid.guid(), *l.opened.content_key.expose())).collect();
    let expected = [4, 1, 2].map(|n| (kid(n.into()), content_key(n)));
    assert_eq!(got, expected);
    let chains = chains(service, &player);
    assert_eq!(chains[&kid(4).to_string()]["part"], "root", "{chains:?}");
}

#[test]
fn roots_and_leaves_take_slots_like_all_others() {
    let service = Setup::default().with("quota.device_limit", 2).start();
    let mut player = service.player("full", SecurityLevel::Software);
    let cfg = format!("(rootid:{0},persist:true),(isroot:true,kid:{0},persist:true)", root());
    let two = ask(&service, &mut player, &[kid(1), kid(2)], &cfg);
    assert_eq!(refusal(two).0, "persistent_license_limit");
    ask(&service, &mut player, &[kid(1)], &cfg).unwrap();
    let leaf = format!("(persist:true,rootid:{})", root());
    let another = refusal(ask(&service, &mut player, &[kid(2)], &leaf));
    assert_eq!(another.0, "persistent_license_limit");
    // The KID of a root is for nothing else, also later.
    let content = refusal(ask(&service, &mut player, &[root()], "(persist:true)"));
    assert_eq!(content, invalid("root_kid_reserved"));
}
