//! What operators say of devices: lost, blocked, another's identity, one with another.

mod large;
mod names;
mod shown;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use license_ledger::access::Scope;
use license_ledger::clock::UnixMillis;
use license_ledger::domain::Event;
use license_ledger::domain::event::QuotaPolicyPublished;
use license_ledger::domain::quota::{self, Counts, OnExceed, QuotaPolicy, QuotaRule};
use license_ledger::ledger::{Append, Expected, NewEvent, StreamName};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::authorize::{Issuer, TokenService, claims, license, reason, with_token};
use crate::client::{Answer, Client};
use crate::device::{Acquired, Device, PERSISTENT, fault_of, kid, refused, request, words};
use crate::service::{NOW_S, Setup, TestService, block_on};

const LIMIT: Option<&str> = Some("persistent_license_limit");
const REASON: &str = "the phone fell into the sea";

/// Posts a command under a key of its own.
fn command(client: &Client, path: &str, body: &Value) -> Answer {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let key = format!("support-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    command_named(client, path, &key, body)
}

fn command_named(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    client.post(path, &headers, body.to_string().as_bytes())
}

/// Has an operator do something about a device, and checks that it is done.
fn support(service: &TestService, device: &str, act: &str, body: Value) -> Value {
    let answer = command(&service.client, &format!("/v1/devices/{device}/{act}"), &body);
    assert_eq!(answer.status, 200, "{act}: {}", answer.text());
    check(service);
    answer.json()
}

/// Checks that an act is refused with 409, and what the problem says.
fn conflict(service: &TestService, device: &str, act: &str, body: Value, says: &str) {
    let events = service.event_count();
    let answer = command(&service.client, &format!("/v1/devices/{device}/{act}"), &body);
    assert_eq!(answer.status_and_code(), (409, "conflict".to_owned()), "{}", answer.text());
    assert!(answer.text().contains(says), "{}", answer.text());
    assert_eq!(service.event_count(), events);
}

/// The read model says what the log says.
fn check(service: &TestService) {
    let position = service.event_count();
    service.client.json(&format!("/v1/devices?min_position={position}"));
    let replay = service.replay();
    let now = UnixMillis(replay.at_ms);
    replay.check_inventory(&service.inner().inventory, now);
}

fn because() -> Value {
    json!({ "reason": REASON })
}

/// Asks for one KID in open mode; the word of the refusal.
fn ask(service: &TestService, device: &Device, number: u128) -> Result<Acquired, Option<String>> {
    let asked = device.acquire(&service.client, &request(&[kid(number)]), PERSISTENT);
    asked.map_err(|fault| words(&fault).1)
}

fn word(got: Result<Acquired, Option<String>>) -> Option<String> {
    got.err().map(Option::unwrap)
}

fn of(service: &TestService, device: &Device) -> Value {
    let position = service.event_count();
    service.client.json(&format!("/v1/devices/{}?min_position={position}", device.identity()))
}

#[test]
fn a_license_written_off_frees_its_slot_and_is_deleted_later_without_freeing_twice() {
    let service = Setup::default().with("quota.device_limit", 2).start();
    let device = service.device("lost");
    let first = request(&[kid(1)]);
    let challenge = device.ask(&first);
    let got = service.client.challenge(&challenge, PERSISTENT);
    let got = device.accept(&got.body, &first.nonce).unwrap();
    let id = got.rights_ids()[0];
    ask(&service, &device, 2).unwrap();
    assert_eq!(word(ask(&service, &device, 3)).as_deref(), LIMIT);

    let unknown = Uuid::from_u128(7);
    let body = json!({ "license_ids": [id, unknown], "reason": REASON });
    let done = support(&service, &device.identity(), "write-off", body.clone());
    assert_eq!(done["written_off"][0]["license_id"], id.to_string());
    assert_eq!((&done["written_off"][1], &done["not_live"]), (&Value::Null, &json!([unknown])));
    assert!(ask(&service, &device, 3).is_ok());
    // Again, under a key of its own: there is nothing left to write off.
    let events = service.event_count();
    let again = support(&service, &device.identity(), "write-off", body);
    assert_eq!(
        (&again["written_off"], again["not_live"].as_array().unwrap().len()),
        (&json!([]), 2)
    );
    assert_eq!(service.kinds_from(events), ["request-answered.v1"]);

    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["possible"]), (&2.into(), &3.into()));
    let shown = &inventory["written_off_licenses"][0];
    assert_eq!((&shown["license_id"], &shown["reason"]), (&json!(id), &json!(REASON)));
    assert_eq!(shown["written_off_at"], "2023-11-14T22:13:20.001Z");
    assert!(shown["actor"].as_str().is_some_and(|actor| !actor.is_empty()));
    assert_eq!(of(&service, &device)["written_off"], 1);

    // What the device says of it later is recorded, and that is all.
    let spent = service.client.challenge(&challenge, PERSISTENT);
    assert_eq!(fault_of(&spent.body), refused("challenge_spent"));
    let events = service.event_count();
    device.acknowledge(&service.client, got.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    device.delete(&service.client, first.nonce, &[kid(1)]).unwrap();
    device.delete(&service.client, first.nonce, &[kid(1)]).unwrap();
    let kinds = service.kinds_from(events);
    assert_eq!(kinds, ["license-stored.v1", "license-deleted.v1", "evidence-kept.v1"]);
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["possible"]), (&2.into(), &2.into()));
    check(&service);
}

#[test]
fn slots_of_a_lost_device_are_given_to_others_after_a_cooldown() {
    let service = Setup::default().with("quota.device_limit", 2).start();
    let device = service.device("lost");
    let got = ask(&service, &device, 1).unwrap();
    device.acknowledge(&service.client, got.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    ask(&service, &device, 2).unwrap();
    let body = json!({ "reason": REASON, "cooldown_seconds": 3600 });
    let done = support(&service, &device.identity(), "write-off", body);
    let frees_at = "2023-11-14T23:13:20.001Z";
    assert_eq!(done["written_off"].as_array().unwrap().len(), 2);
    assert_eq!(done["written_off"][0]["frees_at"], frees_at);
    assert_eq!(word(ask(&service, &device, 3)).as_deref(), LIMIT);
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["confirmed"]), (&2.into(), &0.into()));
    assert_eq!(inventory["licenses"][0]["status"], "written_off");
    assert_eq!(inventory["licenses"][0]["counted_until"], frees_at);
    let question = json!({ "device": device.identity(), "key_ids": [kid(3)] });
    let decision = service.client.post_json("/v1/quota/decisions", &question).json();
    assert_eq!(
        (&decision["decision"], &decision["next_free_at"]),
        (&json!("deny"), &json!(frees_at))
    );

    // In whole seconds it is said so that nobody comes too early.
    let asked = device.acquire(&service.client, &request(&[kid(3)]), PERSISTENT);
    let said = asked.err().unwrap().custom_data.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["next_free_at"], NOW_S + 3601);

    service.advance_s(3601);
    assert!(ask(&service, &device, 3).is_ok());
    let inventory = service.inventory(&device);
    assert_eq!((&inventory["live"], &inventory["possible"]), (&1.into(), &3.into()));
    assert_eq!(inventory["written_off"], 2);
    let path = format!("/v1/licenses?status=ended&device={}", device.identity());
    assert_eq!(service.client.json(&path)["items"].as_array().unwrap().len(), 2);
    check(&service);
}

#[test]
fn a_blocked_device_gets_nothing_and_may_give_everything_back() {
    let mut service = TestService::new();
    let device = service.device("stolen");
    let first = request(&[kid(1)]);
    let challenge = device.ask(&first);
    let got = service.client.challenge(&challenge, PERSISTENT);
    let got = device.accept(&got.body, &first.nonce).unwrap();
    for _ in 0..2 {
        let done = support(&service, &device.identity(), "block", because());
        assert_eq!(done["changed"], true);
        let again = support(&service, &device.identity(), "block", because());
        assert_eq!((&again["blocked"], &again["changed"]), (&json!(true), &json!(false)));
        service.restart();
        assert_eq!(word(ask(&service, &device, 2)).as_deref(), Some("not_entitled"));
        let spent = service.client.challenge(&challenge, PERSISTENT);
        assert_eq!(fault_of(&spent.body), refused("challenge_spent"));
        let shown = of(&service, &device);
        assert_eq!(shown["blocked"]["reason"], REASON);
        let question = json!({ "device": device.identity(), "key_ids": [kid(2)] });
        let decision = service.client.post_json("/v1/quota/decisions", &question).json();
        assert_eq!(
            (&decision["decision"], &decision["rule"]),
            (&json!("deny"), &json!("device-blocked"))
        );
        assert_eq!(decision["remedies"], json!(["unblock"]));
        device.acknowledge(&service.client, got.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
        device.delete(&service.client, first.nonce, &[kid(1)]).unwrap();
        assert_eq!(service.live(&device), 0);
        let done = support(&service, &device.identity(), "unblock", because());
        assert_eq!((&done["blocked"], &done["changed"]), (&json!(false), &json!(true)));
        assert_eq!(of(&service, &device)["blocked"], Value::Null);
    }
    assert!(ask(&service, &device, 2).is_ok());
}

#[test]
fn an_identity_linked_to_a_device_is_one_of_it_with_all_it_did_before() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let (phone, anew) = (service.device("phone"), service.device("anew"));
    let first = ask(&service, &phone, 1).unwrap();
    let link = json!({ "identity": anew.identity(), "reason": REASON });

    // One that was never seen.
    let never = service.device("never");
    let body = json!({ "identity": never.identity(), "reason": REASON });
    let done = support(&service, &phone.identity(), "identities", body);
    assert_eq!((&done["previous_device"], &done["changed"]), (&Value::Null, &json!(true)));
    assert_eq!(word(ask(&service, &never, 2)).as_deref(), LIMIT, "it shares the device's quota");

    // One that has a license elsewhere stays there, until that is gone.
    let asked = request(&[kid(2)]);
    let challenge = anew.ask(&asked);
    service.client.challenge(&challenge, PERSISTENT);
    conflict(&service, &phone.identity(), "identities", link.clone(), "merge the two devices");
    anew.delete(&service.client, asked.nonce, &[kid(2)]).unwrap();
    let done = support(&service, &phone.identity(), "identities", link.clone());
    assert_eq!(done["changed"], true);
    assert_eq!(done["device"], of(&service, &phone)["device"]);
    assert_eq!(support(&service, &phone.identity(), "identities", link)["changed"], false);
    // At once, and without a look at the other device's stream, it is known what it did there.
    let spent = service.client.challenge(&challenge, PERSISTENT);
    assert_eq!(fault_of(&spent.body), refused("challenge_spent"));
    anew.delete(&service.client, asked.nonce, &[kid(2)]).unwrap();
    assert_eq!(word(ask(&service, &anew, 3)).as_deref(), LIMIT);
    assert!(ask(&service, &anew, 1).is_ok(), "the slot is held already");
    assert_eq!(of(&service, &anew)["identities"].as_array().unwrap().len(), 3);

    // Only who acquired a license deletes it.
    let session = asked.nonce;
    assert!(never.delete(&service.client, session, &[kid(1)]).is_err());
    assert_eq!(service.live(&phone), 1);
    drop(first);
}

#[test]
fn merged_devices_go_on_as_one_with_all_that_both_held() {
    let mut service = Setup::default().with("quota.device_limit", 2).start();
    let (old, new) = (service.device("old"), service.device("new"));
    let first = request(&[kid(1)]);
    let challenge = old.ask(&first);
    let got = service.client.challenge(&challenge, PERSISTENT);
    let got = old.accept(&got.body, &first.nonce).unwrap();
    old.acknowledge(&service.client, got.transaction_id.unwrap(), &[(kid(1), 0)]).unwrap();
    ask(&service, &old, 2).unwrap();
    ask(&service, &new, 3).unwrap();
    let given_up = of(&service, &old)["device"].as_str().unwrap().to_owned();

    let body = json!({ "into": new.identity(), "reason": REASON });
    let done = support(&service, &old.identity(), "merge", body.clone());
    assert_eq!((&done["from"], &done["moved"]), (&json!(given_up), &json!(2)));
    let merged = of(&service, &old);
    assert_eq!(merged["device"], of(&service, &new)["device"]);
    assert_eq!(merged["identities"].as_array().unwrap().len(), 2);
    let shown = service.client.json(&format!("/v1/devices/{given_up}"));
    assert_eq!(
        (&shown["successor"]["device"], &shown["successor"]["how"]),
        (&merged["device"], &json!("merged"))
    );
    assert_eq!(shown["successor"]["reason"], REASON);

    // More than the limit is held: nothing ends, and what is new is refused.
    let inventory = service.inventory(&new);
    assert_eq!((&inventory["live"], &inventory["confirmed"]), (&3.into(), &1.into()));
    for device in [&old, &new] {
        assert_eq!(word(ask(&service, device, 4)).as_deref(), LIMIT);
        assert!(ask(&service, device, 1).is_ok(), "a slot that is held takes no other");
    }
    // The same challenge gets the same licenses, before a restart and after.
    for _ in 0..2 {
        let again = service.client.challenge(&challenge, PERSISTENT);
        let again = old.accept(&again.body, &first.nonce).unwrap();
        assert_eq!(again.rights_ids(), got.rights_ids());
        service.restart();
    }
    // Who acquired a license deletes it, wherever it counts.
    assert!(new.delete(&service.client, first.nonce, &[kid(2)]).is_err());
    old.delete(&service.client, first.nonce, &[kid(1)]).unwrap();
    let spent = service.client.challenge(&challenge, PERSISTENT);
    assert_eq!(fault_of(&spent.body), refused("challenge_spent"));
    check(&service);

    // Commands about the one that was given up are about the other.
    let blocked = support(&service, &given_up, "block", because());
    assert_eq!(blocked["device"], merged["device"]);
    assert_eq!(word(ask(&service, &old, 1)).as_deref(), Some("not_entitled"));
    let decision = json!({ "device": given_up, "key_ids": [kid(9)] });
    let decision = service.client.post_json("/v1/quota/decisions", &decision).json();
    assert_eq!(decision["device"], merged["device"]);
    conflict(&service, &given_up, "merge", body, "was given up for");
    let body = json!({ "into": merged["device"], "reason": REASON });
    conflict(&service, &new.identity(), "merge", body, "both are the device");
}

#[test]
fn limits_of_a_device_that_is_given_up_hold_for_the_one_that_goes_on_if_it_has_none() {
    let mut service = Setup::default().with("quota.device_limit", 1).start();
    let devices = ["old", "new", "own"].map(|name| service.device(name));
    let [old, new, own] = &devices;
    for (number, device) in (1..).zip(&devices) {
        ask(&service, device, number).unwrap();
        of(&service, device);
    }
    let path = |device: &Device| format!("/v1/devices/{}/overrides", device.identity());
    for (device, limit) in [(old, 3), (own, 2)] {
        let body = json!({ "limit": limit, "reason": REASON });
        let set = service.client.put_command(&format!("{}/device-slots", path(device)), &body);
        assert_eq!(set.status, 200, "{}", set.text());
    }
    let limit = |service: &TestService, device: &Device| {
        let position = service.event_count();
        let shown = service.client.json(&format!("{}?min_position={position}", path(device)));
        shown["items"][0]["limit"].clone()
    };
    let into = |device: &Device| json!({ "into": device.identity(), "reason": REASON });
    support(&service, &old.identity(), "merge", into(new));
    for _ in 0..2 {
        assert_eq!(limit(&service, new), 3);
        service.restart();
    }
    assert!(ask(&service, new, 7).is_ok());
    assert_eq!(word(ask(&service, new, 8)).as_deref(), LIMIT);
    // One that has a limit of its own keeps that.
    support(&service, &new.identity(), "merge", into(own));
    assert_eq!(limit(&service, own), 2);
    assert_eq!(word(ask(&service, own, 9)).as_deref(), LIMIT);
}

#[test]
fn a_replaced_device_gets_nothing_and_its_licenses_move_or_are_written_off() {
    let service = Setup::default().with("quota.device_limit", 2).start();
    let devices = ["broken", "stolen", "new"].map(|name| service.device(name));
    let [broken, stolen, new] = &devices;
    let first = request(&[kid(1)]);
    broken.acquire(&service.client, &first, PERSISTENT).unwrap();
    ask(&service, stolen, 2).unwrap();
    ask(&service, new, 3).unwrap();
    support(&service, &stolen.identity(), "block", because());

    let by = |licenses| json!({ "by": new.identity(), "licenses": licenses, "reason": REASON });
    conflict(&service, &stolen.identity(), "replace", by("move"), "unblock it first");
    let done = support(&service, &stolen.identity(), "replace", by("write_off"));
    assert_eq!((&done["moved"], done["written_off"].as_array().unwrap().len()), (&0.into(), 1));
    assert_eq!(service.live(stolen), 0);
    support(&service, &stolen.identity(), "unblock", because());
    assert!(ask(&service, stolen, 2).is_ok(), "it was found again");
    support(&service, &stolen.identity(), "replace", by("write_off"));
    assert_eq!(word(ask(&service, stolen, 2)).as_deref(), Some("not_entitled"));
    conflict(&service, &stolen.identity(), "replace", by("write_off"), "is replaced already");

    let done = support(&service, &broken.identity(), "replace", by("move"));
    assert_eq!((&done["moved"], &done["written_off"]), (&1.into(), &json!([])));
    assert_eq!(service.live(new), 2);
    assert_eq!(word(ask(&service, broken, 1)).as_deref(), Some("not_entitled"));
    assert!(ask(&service, new, 1).is_ok(), "it takes the slot that moved");
    assert_eq!(word(ask(&service, new, 4)).as_deref(), LIMIT);
    // The broken one can still say that it deleted what it has.
    broken.delete(&service.client, first.nonce, &[kid(1)]).unwrap();
    assert_eq!(service.live(new), 2, "the slot is held by the new one's license");
    // Repaired, it is served as one of the new device, if an operator says so.
    let body = json!({ "identity": broken.identity(), "reason": "repaired" });
    assert_eq!(support(&service, &new.identity(), "identities", body)["changed"], true);
    assert!(ask(&service, broken, 1).is_ok());
}

#[test]
fn commands_of_support_need_their_scope_a_reason_and_a_device_that_is_known() {
    let service = TestService::new();
    let device = service.device("tv");
    ask(&service, &device, 1).unwrap();
    let path = |act: &str| format!("/v1/devices/{}/{act}", device.identity());
    let reader = service.client_with(&[Scope::InventoryRead, Scope::QuotaDecide]);
    let acts = [
        ("write-off", because()),
        ("block", because()),
        ("unblock", because()),
        ("identities", json!({ "identity": device.identity(), "reason": REASON })),
        ("merge", json!({ "into": "other", "reason": REASON })),
        ("replace", json!({ "by": "other", "licenses": "move", "reason": REASON })),
    ];
    let events = service.event_count();
    for (act, body) in &acts {
        let answer = command(&reader, &path(act), body);
        assert_eq!(answer.status_and_code(), (403, "missing-scope".to_owned()), "{act}");
        for text in ["", "two\nlines", &"x".repeat(201)] {
            let mut wrong = body.clone();
            wrong["reason"] = text.into();
            let answer = command(&service.client, &path(act), &wrong);
            assert_eq!(answer.status, 400, "{act} {text:?}");
            assert_eq!(answer.problem()["errors"][0]["field"], "reason", "{act}");
        }
        let unknown = command(&service.client, &format!("/v1/devices/nobody/{act}"), body);
        assert_eq!(unknown.status_and_code(), (404, "not-found".to_owned()), "{act}");
        let unnamed = service.client.post_json(&path(act), body);
        assert_eq!(unnamed.status, 400, "{act} without an Idempotency-Key");
    }
    for (act, body, field) in [
        ("write-off", json!({ "license_ids": [], "reason": REASON }), "license_ids"),
        ("write-off", json!({ "license_ids": ["x"], "reason": REASON }), "license_ids[0]"),
        ("write-off", json!({ "cooldown_seconds": 0, "reason": REASON }), "cooldown_seconds"),
        (
            "write-off",
            json!({ "cooldown_seconds": 31_622_401, "reason": REASON }),
            "cooldown_seconds",
        ),
        ("identities", json!({ "identity": "abc", "reason": REASON }), "identity"),
    ] {
        let answer = command(&service.client, &path(act), &body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.problem()["errors"][0]["field"], field, "{body}");
    }
    assert_eq!(service.event_count(), events);
    // Under the same key the same answer, and one effect.
    let answers =
        [(); 2].map(|()| command_named(&service.client, &path("block"), "one", &because()));
    assert_eq!(answers[0].status, 200);
    assert_eq!(
        (&answers[0].body, answers[0].position()),
        (&answers[1].body, answers[1].position())
    );
    assert_eq!(service.kinds_from(events), ["device-blocked.v1", "request-answered.v1"]);
}

/// Publishes a policy, as another process would.
fn publish(service: &TestService, policy: QuotaPolicy, revision: u64) {
    let stream = StreamName::new("policy").unwrap();
    let published = Event::QuotaPolicyPublished(QuotaPolicyPublished {
        policy,
        actor: "test".to_owned(),
        reason: "a test".to_owned(),
        at_ms: i64::try_from(NOW_S).unwrap() * 1000 + i64::try_from(revision).unwrap(),
    });
    let append = Append {
        records: vec![(stream.clone(), NewEvent::of(&stream, &published, "test").unwrap())],
        checks: vec![(stream, Expected::At(revision - 1))],
    };
    block_on(service.inner().ledger.append(append)).unwrap();
}

fn rule(id: &str, scope: quota::Scope, counts: Counts, limit: u32) -> QuotaRule {
    QuotaRule { id: id.to_owned(), scope, counts, limit, on_exceed: OnExceed::Deny, when: None }
}

/// Devices of one account, which show tokens of the service.
struct Family {
    issuer: Issuer,
    site: TokenService,
}

impl Family {
    fn new(rules: Vec<QuotaRule>) -> Self {
        let issuer = Issuer::new("ES256", "k");
        let site = TokenService::new(&[&issuer]);
        let policy = QuotaPolicy { rules, ..QuotaPolicy::default() };
        publish(&site.service, policy, 1);
        Self { issuer, site }
    }

    /// Asks with a token of the account for the device that it names; the word of the refusal.
    fn ask(&self, device: &Device, named: &str, number: u128) -> Option<String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut license = license(&[kid(number)]);
        license["account"] = "family".into();
        license["device"] = named.into();
        let token = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let asked = with_token(&[kid(number)], &self.issuer.token(&claims(&token, license)));
        let got = device.acquire(&self.site.service.client, &asked, "");
        got.err().map(|fault| reason(&fault))
    }
}

#[test]
fn a_device_counts_as_added_once_however_it_is_joined() {
    const DAY: u32 = 24 * 60 * 60;
    let churn = rule("churn", quota::Scope::Account, Counts::DevicesAddedWithinSeconds(DAY), 2);
    let family = Family::new(vec![churn]);
    let service = &family.site.service;
    let devices = ["a", "b", "c", "d"].map(|name| service.device(name));
    let [a, b, c, d] = &devices;
    assert_eq!(family.ask(a, "a", 1), None);
    assert_eq!(family.ask(b, "b", 1), None);
    assert_eq!(family.ask(a, "a", 2), None, "it was added before");
    assert_eq!(family.ask(c, "c", 1).as_deref(), LIMIT);
    // Two that are one make room for another, whichever name it is called by.
    support(service, "b", "merge", json!({ "into": "a", "reason": REASON }));
    assert_eq!(family.ask(b, "a", 3), None);
    assert_eq!(family.ask(b, "b", 3), None);
    assert_eq!(family.ask(a, "b", 3), None);
    assert_eq!(family.ask(c, "c", 1), None);
    assert_eq!(family.ask(d, "d", 1).as_deref(), LIMIT);
    // A new identity of a device is no new device; the one that replaces another takes its place.
    let body = json!({ "identity": d.identity(), "reason": REASON });
    support(service, "c", "identities", body);
    assert_eq!(family.ask(d, "c", 2), None);
    let e = service.device("e");
    assert_eq!(family.ask(&e, "e", 1).as_deref(), LIMIT);
    support(service, "c", "replace", json!({ "by": "e", "licenses": "move", "reason": REASON }));
    assert_eq!(family.ask(&e, "e", 1), None);
    assert_eq!(family.ask(c, "c", 1).as_deref(), Some("not_entitled: device_replaced"));
}

#[test]
fn an_account_gets_its_slots_back_and_keeps_those_that_move() {
    let slots = rule("family", quota::Scope::Account, Counts::LiveSlots, 3);
    let family = Family::new(vec![slots]);
    let service = &family.site.service;
    let devices = ["a", "b"].map(|name| service.device(name));
    let [a, b] = &devices;
    assert_eq!(family.ask(a, "a", 1), None);
    assert_eq!(family.ask(a, "a", 2), None);
    assert_eq!(family.ask(b, "b", 1), None);
    assert_eq!(family.ask(b, "b", 2).as_deref(), LIMIT);
    // The KID that both hold is one slot of the one device that they are.
    support(service, "a", "merge", json!({ "into": "b", "reason": REASON }));
    assert_eq!(family.ask(b, "b", 3), None);
    assert_eq!(family.ask(a, "a", 4).as_deref(), LIMIT);
    let done = support(service, "b", "write-off", because());
    assert_eq!(done["written_off"].as_array().unwrap().len(), 4);
    for number in [1, 2, 4] {
        assert_eq!(family.ask(a, "a", number), None);
    }
    assert_eq!(family.ask(b, "b", 3).as_deref(), LIMIT);
}

#[test]
fn a_title_asked_for_again_after_a_silent_eviction_takes_no_slot() {
    let service = Setup::default().with("quota.device_limit", 1).start();
    let device = service.device("evicts");
    let first = request(&[kid(1)]);
    let lost = device.acquire(&service.client, &first, PERSISTENT).unwrap();
    // The device lost its store: it asks again, and again, with nothing said.
    let second = request(&[kid(1)]);
    device.acquire(&service.client, &second, PERSISTENT).unwrap();
    assert_eq!(service.live(&device), 1);
    assert_eq!(word(ask(&service, &device, 2)).as_deref(), LIMIT);
    // It can only delete what it has: the slot is held by the license that it lost.
    device.delete(&service.client, second.nonce, &[kid(1)]).unwrap();
    assert_eq!(word(ask(&service, &device, 2)).as_deref(), LIMIT);
    let body = json!({ "license_ids": lost.rights_ids(), "reason": "evicted" });
    support(&service, &device.identity(), "write-off", body);
    assert!(ask(&service, &device, 2).is_ok());

    // Each is a license all the same: the cap on one slot and rules on issued licenses see them.
    let window = Counts::IssuedWithinSeconds(3600);
    let issued = rule("issued", quota::Scope::Device, window, 5);
    let policy =
        QuotaPolicy { rules: vec![issued], licenses_per_slot: 2, ..QuotaPolicy::default() };
    publish(&service, policy, 1);
    assert!(ask(&service, &device, 2).is_ok());
    let refusal = device.acquire(&service.client, &request(&[kid(2)]), PERSISTENT).err().unwrap();
    assert!(refusal.custom_data.unwrap().contains("licenses-per-slot"));
    assert!(ask(&service, &device, 3).is_ok());
    let refusal = device.acquire(&service.client, &request(&[kid(3)]), PERSISTENT).err().unwrap();
    assert!(refusal.custom_data.unwrap().contains("\"issued\""), "five were issued in the hour");
}
