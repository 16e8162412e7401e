//! What is asked of the service, by whom, and what the answers say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use license_ledger::clock::{Clock, UnixMillis};
use license_ledger::domain::quota::BLOCKED;
use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::policy::SecurityLevel;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::{Effect, Subject, Told};
use super::{DEVICE_SLOTS, Load, NEW, Shared};
use crate::authorize::claims;
use crate::client::{Answer, Client};
use crate::device::{Device, deleted, kid, request};
use crate::mutations::Rng;
use crate::service::make_device;

/// A hold that ends by itself before long.
const SHORT_HOLD_S: u32 = 1;
const LONG_HOLD_S: u32 = 3600;

/// Later than all that happens.
const AFTER_ALL_MS: i64 = 4_000_000_000_000;

/// Something that a device has, and how it is given back.
#[derive(Clone)]
pub(super) enum Had {
    /// A license that its identity deletes, and may acknowledge before, in this transaction.
    Own { by: Arc<Device>, session: [u8; 16], key_id: Uuid, license: Uuid, stored: Option<Uuid> },
    /// A license of another system.
    Reported { license: Uuid },
    /// A reservation for these KIDs.
    Reserved { reservation: Uuid, key_ids: Vec<Uuid>, short: bool },
}

/// A call on its way.
pub(super) struct Sent {
    pub(super) started: u64,
    pub(super) started_ms: i64,
    pub(super) request: Request,
    device: usize,
    asked: Asked,
}

pub(super) enum Request {
    Challenge(Vec<u8>),
    Command { method: &'static str, path: String, key: String, body: Value },
}

enum Asked {
    License {
        by: Arc<Device>,
        nonce: [u8; 16],
        key_id: Uuid,
        title: Option<String>,
    },
    Acknowledgement {
        license: Uuid,
        had: Had,
    },
    Deletion {
        session: [u8; 16],
        license: Uuid,
    },
    Reservation {
        key_ids: Vec<Uuid>,
        short: bool,
    },
    Report,
    ReportedDeletion {
        license: Uuid,
    },
    WriteOff {
        license: Uuid,
    },
    Release {
        reservation: Uuid,
        short: bool,
    },
    Join {
        fresh: Arc<Device>,
        replaces: bool,
    },
    Limit {
        reason: String,
    },
    Block {
        reason: String,
    },
    Link {
        fresh: Arc<Device>,
    },
    /// A device that asks once for room, or of which one license is reported.
    Guest,
}

impl Request {
    pub(super) fn send(&self, client: &Client) -> Option<Answer> {
        match self {
            Self::Challenge(bytes) => client.try_challenge(bytes, ""),
            Self::Command { method, path, key, body } => {
                client.try_command_by(method, path, key, body)
            }
        }
    }
}

impl Shared {
    /// One of its identities that ask for licenses.
    fn identity(&self, rng: &mut Rng) -> Arc<Device> {
        let identities = self.identities.read().unwrap();
        Arc::clone(&identities[rng.below(identities.len())])
    }

    /// Something that it has, so that nobody else gives it back.
    fn take(&self, rng: &mut Rng) -> Option<Had> {
        let mut has = self.has.lock().unwrap();
        let choice = (!has.is_empty()).then(|| rng.below(has.len()))?;
        Some(has.swap_remove(choice))
    }

    fn has(&self, had: Had) {
        self.has.lock().unwrap().push(had);
    }
}

impl Load {
    /// Whatever comes next: half of the time something is given back.
    pub(super) fn next_call(&self, client: &Client, number: usize, rng: &mut Rng) -> Sent {
        let device = rng.below(self.devices.len());
        let shared = &self.devices[device];
        if rng.below(60) == 0
            && !shared.joining.swap(true, Ordering::Relaxed)
            && let Some(sent) = self.join(client, device, number, rng)
        {
            return sent;
        }
        match rng.below(100) {
            0..4 => return self.set_limit(device, number, rng),
            4..8 => return self.block(device, number, rng),
            8 => return self.link(device, number, rng),
            9..16 => return self.guest(number, rng),
            _ => {}
        }
        let given_back = if rng.below(2) == 0 { shared.take(rng) } else { None };
        match given_back {
            Some(had) => self.give_back(device, had, number, rng),
            None => match rng.below(10) {
                0..6 => self.acquire(device, number, rng),
                6..9 => self.reserve(device, number, rng),
                _ => self.report(device, None, kid(number as u128), number, rng),
            },
        }
    }

    fn sent(&self, device: usize, request: Request, asked: Asked) -> Sent {
        let (started, started_ms) = (self.now(), Clock::System.now().0);
        Sent { started, started_ms, request, device, asked }
    }

    fn command(&self, device: usize, path: &str, number: usize, body: Value, asked: Asked) -> Sent {
        let (path, key) = (path.to_owned(), number.to_string());
        let request = Request::Command { method: "POST", path, key, body };
        self.sent(device, request, asked)
    }

    /// A challenge with a token for one KID.
    fn challenge(
        &self,
        by: &Device,
        account: &str,
        token: &str,
        (key, persist): (&Value, bool),
    ) -> (Vec<u8>, [u8; 16]) {
        let policy = json!({ "sl": 150, "persist": persist });
        let keys = [key];
        let key_id = id(&key["kid"]).unwrap();
        let license = json!({ "account": account, "policy": policy, "keys": keys });
        let mut claims = claims(token, license);
        claims["exp"] = u32::MAX.into();
        let token = self.issuer.token(&claims);
        let asked = AcquireRequest { custom_data: Some(token), ..request(&[key_id]) };
        (by.ask(&asked), asked.nonce)
    }

    fn acquire(&self, device: usize, number: usize, rng: &mut Rng) -> Sent {
        let shared = &self.devices[device];
        let (by, key_id) = (shared.identity(rng), kid(number as u128));
        let token = format!("token-{number}");
        let key = labeled(json!({ "kid": key_id }), rng);
        let title = key["title"].as_str().map(str::to_owned);
        let (challenge, nonce) = self.challenge(&by, &shared.account, &token, (&key, true));
        let asked = Asked::License { by, nonce, key_id, title };
        self.sent(device, Request::Challenge(challenge), asked)
    }

    fn reserve(&self, device: usize, number: usize, rng: &mut Rng) -> Sent {
        let shared = &self.devices[device];
        let short = rng.below(8) == 0;
        let mut key_ids = vec![kid(number as u128)];
        if rng.below(2) == 0 {
            key_ids.push(kid(number as u128 + (1 << 64)));
        }
        let body = json!({
            "device": shared.identity(rng).identity(), "account": shared.account,
            "key_ids": key_ids, "commit": true,
            "hold_seconds": if short { SHORT_HOLD_S } else { LONG_HOLD_S },
        });
        let body = labeled(body, rng);
        let asked = Asked::Reservation { key_ids, short };
        self.command(device, "/v1/quota/decisions", number, body, asked)
    }

    fn report(
        &self,
        device: usize,
        reservation: Option<Uuid>,
        key_id: Uuid,
        number: usize,
        rng: &mut Rng,
    ) -> Sent {
        let shared = &self.devices[device];
        let license = labeled(reported(key_id, number), rng);
        let body = json!({
            "device": shared.identity(rng).identity(), "account": shared.account,
            "drm_system": "widevine", "reservation_id": reservation, "licenses": [license],
        });
        self.command(device, "/v1/acquisitions", number, body, Asked::Report)
    }

    fn give_back(&self, device: usize, had: Had, number: usize, rng: &mut Rng) -> Sent {
        let shared = &self.devices[device];
        let name = shared.identity(rng).identity();
        match had {
            Had::Own { license, .. } | Had::Reported { license } if rng.below(4) == 0 => {
                let mut body = json!({ "license_ids": [license], "reason": "a test" });
                if rng.below(2) == 0 {
                    body["cooldown_seconds"] = json!(1);
                }
                // Who has it may delete it later, or somebody writes it off again.
                if rng.below(2) == 0 {
                    shared.has(had);
                }
                let path = format!("/v1/devices/{name}/write-off");
                self.command(device, &path, number, body, Asked::WriteOff { license })
            }
            Had::Own { by, session, key_id, license, stored: Some(transaction) }
                if rng.below(3) == 0 =>
            {
                let confirmation = by.confirm(transaction, &[(key_id, 0)]);
                let had = Had::Own { by, session, key_id, license, stored: None };
                let asked = Asked::Acknowledgement { license, had };
                self.sent(device, Request::Challenge(confirmation), asked)
            }
            Had::Own { by, session, key_id, license, .. } => {
                let challenge = by.give_back(session, &[key_id]);
                let asked = Asked::Deletion { session, license };
                self.sent(device, Request::Challenge(challenge), asked)
            }
            Had::Reported { license } => {
                let licenses = [json!({ "license_id": license })];
                let body = json!({ "device": name, "licenses": licenses, "grade": "B" });
                let asked = Asked::ReportedDeletion { license };
                self.command(device, "/v1/deletions", number, body, asked)
            }
            Had::Reserved { reservation, short, .. } if rng.below(2) == 0 => {
                let path = format!("/v1/devices/{name}/reservations/{reservation}/release");
                let asked = Asked::Release { reservation, short };
                self.command(device, &path, number, json!({}), asked)
            }
            Had::Reserved { reservation, mut key_ids, short } => {
                let key_id = key_ids.remove(rng.below(key_ids.len()));
                if !key_ids.is_empty() {
                    shared.has(Had::Reserved { reservation, key_ids, short });
                }
                self.report(device, Some(reservation), key_id, number, rng)
            }
        }
    }

    /// The device and a new one become one, or the new one replaces it. `None`: the service is gone.
    fn join(&self, client: &Client, device: usize, number: usize, rng: &mut Rng) -> Option<Sent> {
        let shared = &self.devices[device];
        let name = format!("{}-{number}", shared.name);
        let fresh = Arc::new(make_device(&self.pki, &name, SecurityLevel::Software));
        // The ledger gets to know it by a license that takes no room.
        let token = format!("fresh-{number}");
        let key = json!({ "kid": kid(number as u128) });
        let (challenge, _) = self.challenge(&fresh, &shared.account, &token, (&key, false));
        if client.try_challenge(&challenge, "").is_none_or(|answer| answer.status != 200) {
            shared.joining.store(false, Ordering::Relaxed);
            return None;
        }
        let reference = shared.reference.lock().unwrap().clone();
        let present = reference.unwrap_or_else(|| shared.identity(rng).identity());
        let (act, from, body, replaces) = match rng.below(3) {
            0 => ("merge", fresh.identity(), json!({ "into": present }), false),
            1 => ("merge", present, json!({ "into": fresh.identity() }), false),
            _ => ("replace", present, json!({ "by": fresh.identity(), "licenses": "move" }), true),
        };
        let mut body = body;
        body["reason"] = json!("a test");
        let asked = Asked::Join { fresh, replaces };
        let path = format!("/v1/devices/{from}/{act}");
        Some(self.command(device, &path, number, body, asked))
    }

    /// A device gets a limit of its own in place of the one before.
    fn set_limit(&self, device: usize, number: usize, rng: &mut Rng) -> Sent {
        let name = self.devices[device].identity(rng).identity();
        let path = format!("/v1/devices/{name}/overrides/{}", DEVICE_SLOTS.id);
        let reason = format!("call {number}");
        // None is the one before again: it is another limit, or ends at another time.
        let until_ms = match rng.below(2) {
            0 => (Clock::System.now().0 / 1000 + 2) * 1000 + i64::try_from(number % 1000).unwrap(),
            _ => AFTER_ALL_MS + i64::try_from(number).unwrap(),
        };
        let limit = DEVICE_SLOTS.limit - 2 + (number + number / 1000) % 5;
        let body = json!({ "limit": limit, "until": UnixMillis(until_ms), "reason": reason });
        let request = Request::Command { method: "PUT", path, key: number.to_string(), body };
        self.sent(device, request, Asked::Limit { reason })
    }

    /// A device is blocked, or, more often than that, unblocked.
    fn block(&self, device: usize, number: usize, rng: &mut Rng) -> Sent {
        let name = self.devices[device].identity(rng).identity();
        let act = if rng.below(5) == 0 { "block" } else { "unblock" };
        let reason = format!("call {number}");
        let (path, body) = (format!("/v1/devices/{name}/{act}"), json!({ "reason": reason }));
        self.command(device, &path, number, body, Asked::Block { reason })
    }

    /// A device gets one more identity, which nobody has seen before.
    fn link(&self, device: usize, number: usize, rng: &mut Rng) -> Sent {
        let shared = &self.devices[device];
        let fresh = format!("{}-{number}", shared.name);
        let fresh = Arc::new(make_device(&self.pki, &fresh, SecurityLevel::Software));
        let path = format!("/v1/devices/{}/identities", shared.identity(rng).identity());
        let body = json!({ "identity": fresh.identity(), "reason": "a test" });
        self.command(device, &path, number, body, Asked::Link { fresh })
    }

    /// A device that nobody has seen before has something for a while, at the guests' expense.
    fn guest(&self, number: usize, rng: &mut Rng) -> Sent {
        let (name, key_id) = (format!("guest-{number}"), kid(number as u128));
        let mut body = json!({ "device": name, "account": "guests" });
        let path = if rng.below(4) == 0 {
            let mut license = reported(key_id, number);
            license["counted_until"] = json!(UnixMillis(Clock::System.now().0 + 1000));
            body["drm_system"] = json!("widevine");
            body["licenses"] = json!([license]);
            "/v1/acquisitions"
        } else {
            body["key_ids"] = json!([key_id]);
            body["commit"] = json!(true);
            body["hold_seconds"] = json!(SHORT_HOLD_S);
            "/v1/quota/decisions"
        };
        self.command(0, path, number, body, Asked::Guest)
    }

    /// What an answer says; what the device has by it is remembered.
    pub(super) fn told(&self, sent: &Sent, answer: &Answer) -> Told {
        let shared = &self.devices[sent.device];
        let done = |effect| Told::Done(vec![effect]);
        match &sent.asked {
            Asked::License { by, nonce, key_id, title } => {
                if answer.status == 500 {
                    return refused(&answer.text(), by, &shared.account, title.as_deref());
                }
                let acquired = by.accept(&answer.body, nonce).unwrap();
                let [license] = acquired.rights_ids()[..] else { panic!("not one license") };
                let (by, session, key_id) = (Arc::clone(by), *nonce, *key_id);
                let stored = acquired.transaction_id;
                shared.has(Had::Own { by, session, key_id, license, stored });
                done(Effect::Taken(license))
            }
            Asked::Acknowledgement { license, had } => {
                assert_eq!(answer.status, 200, "{}", answer.text());
                shared.has(had.clone());
                done(Effect::Stored(*license))
            }
            Asked::Deletion { session, license } => {
                deleted(&answer.body, *session).unwrap();
                done(Effect::Deleted(*license))
            }
            Asked::Reservation { key_ids, short } => {
                let decision = ok(answer);
                let Some(reservation) = id(&decision["reservation_id"]) else {
                    return denied(&decision);
                };
                let (key_ids, short) = (key_ids.clone(), *short);
                shared.has(Had::Reserved { reservation, key_ids, short });
                done(Effect::Taken(reservation))
            }
            Asked::Report => {
                let license = id(&ok(answer)["licenses"][0]["license_id"]).unwrap();
                shared.has(Had::Reported { license });
                done(Effect::Taken(license))
            }
            Asked::ReportedDeletion { license } => match answer.status {
                404 => Told::Gone(*license),
                _ => match id(&ok(answer)["licenses"][0]["license_id"]) {
                    Some(deleted) => done(Effect::Deleted(deleted)),
                    None => Told::Gone(*license),
                },
            },
            Asked::WriteOff { license } => match id(&ok(answer)["written_off"][0]["license_id"]) {
                Some(written_off) => done(Effect::WrittenOff(written_off)),
                None => Told::Gone(*license),
            },
            // It may have ended by itself, at a time of the service's clock.
            Asked::Release { short: true, .. } if answer.status == 404 => Told::Unknown,
            Asked::Release { reservation, .. } if answer.status == 404 => Told::Gone(*reservation),
            Asked::Release { reservation, .. } => {
                ok(answer);
                done(Effect::Released(*reservation))
            }
            // Nobody has asked for anything for the device yet, or it is blocked.
            Asked::Join { .. } if [404, 409].contains(&answer.status) => {
                shared.joining.store(false, Ordering::Relaxed);
                Told::Unknown
            }
            Asked::Limit { .. } | Asked::Block { .. } | Asked::Link { .. }
                if answer.status == 404 =>
            {
                Told::Unknown
            }
            // It would have ended before the call was sent again.
            Asked::Limit { .. } if answer.status == 400 => Told::Unknown,
            Asked::Limit { reason } => {
                ok(answer);
                done(Effect::Limited(reason.clone()))
            }
            Asked::Block { reason } => match ok(answer)["changed"].as_bool().unwrap() {
                true => done(Effect::Blocked(reason.clone())),
                false => Told::Done(Vec::new()),
            },
            Asked::Link { fresh } => {
                ok(answer);
                shared.identities.write().unwrap().push(Arc::clone(fresh));
                done(Effect::Linked(fresh.identity()))
            }
            Asked::Guest => {
                let said = ok(answer);
                let taken = id(&said["licenses"][0]["license_id"]);
                let taken = taken.or_else(|| id(&said["reservation_id"]));
                taken.map_or_else(|| denied(&said), |taken| done(Effect::Taken(taken)))
            }
            Asked::Join { fresh, replaces } => {
                let joined = ok(answer);
                let text = |member: &str| joined[member].as_str().unwrap().to_owned();
                *shared.reference.lock().unwrap() = Some(text("device"));
                let mut identities = shared.identities.write().unwrap();
                if *replaces {
                    // Those of the one that was replaced only give back.
                    identities.clear();
                }
                identities.push(Arc::clone(fresh));
                shared.joining.store(false, Ordering::Relaxed);
                done(Effect::Joined(text("from")))
            }
        }
    }
}

fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn id(value: &Value) -> Option<Uuid> {
    value.as_str().map(|text| text.parse().unwrap())
}

/// What names a KID, with the title and the content group that some have.
fn labeled(mut named: Value, rng: &mut Rng) -> Value {
    if rng.below(3) == 0 {
        named["title"] = json!(format!("film-{}", rng.below(2)));
    }
    if rng.below(4) == 0 {
        named["content_group"] = json!(NEW);
    }
    named
}

/// A license of another system.
fn reported(key_id: Uuid, number: usize) -> Value {
    let reference = format!("wv-{number}");
    json!({ "key_id": key_id, "license_reference": reference, "persistent": true })
}

/// A denied decision names what it is about as the ledger does.
fn denied(decision: &Value) -> Told {
    assert_eq!(decision["decision"], "deny", "{decision}");
    let text = |member: &str| decision[member].as_str().unwrap().to_owned();
    let rule = text("rule");
    let mut said = decision["rules"].as_array().unwrap().iter();
    let denies = said.find(|said| said["rule"] == *rule && said["decision"] == "deny").unwrap();
    let subject = match denies["scope"].as_str().unwrap() {
        "device" => Subject::Device(text("device")),
        "account" => Subject::Account(text("account")),
        _ => Subject::Title(text("account"), denies["title"].as_str().unwrap().to_owned()),
    };
    Told::Refused { rule, subject, wanted: decision["requested"].as_u64().unwrap() as usize }
}

/// A refusal of a challenge; the account is called as the service calls it.
fn refused(fault: &str, by: &Device, account: &str, title: Option<&str>) -> Told {
    let text = fault.replace("&quot;", "\"");
    let (_, rest) = text.split_once("{\"error\"").unwrap_or_else(|| panic!("{fault}"));
    let (object, _) = rest.split_once("</CustomData>").unwrap_or_else(|| panic!("{fault}"));
    let custom: Value = serde_json::from_str(&format!("{{\"error\"{object}")).unwrap();
    match (custom["error"].as_str().unwrap(), custom["reason"].as_str()) {
        ("not_entitled", Some("device_replaced")) => return Told::Unknown,
        // It was granted to a call that a kill cut off, and the device blocked or replaced since.
        ("challenge_spent", None) => return Told::Unknown,
        ("not_entitled", None) => {
            let (rule, subject) = (BLOCKED.to_owned(), Subject::DeviceOf(by.identity()));
            return Told::Refused { rule, subject, wanted: 1 };
        }
        _ => {}
    }
    assert_eq!(custom["error"], "persistent_license_limit", "{custom}");
    let account = account.to_owned();
    let subject = match custom["scope"].as_str().unwrap() {
        "device" => Subject::DeviceOf(by.identity()),
        "account" => Subject::Account(account),
        _ => Subject::Title(account, title.unwrap().to_owned()),
    };
    let rule = custom["rule"].as_str().unwrap().to_owned();
    Told::Refused { rule, subject, wanted: custom["requested"].as_u64().unwrap() as usize }
}
