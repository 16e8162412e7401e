//! Root and leaf licenses, from the policy string to the device that plays under them.

use std::collections::BTreeMap;

use license_ledger::playready::content_key::KeyType;
use license_ledger::playready::kid::Kid;
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::simulator::store::Which;
use license_ledger::simulator::{Device as Player, SimulatorError, Unplayable, Wanted, WantedKey};
use serde_json::{Value, json};
use uuid::Uuid;

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
