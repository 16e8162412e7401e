//! What is asked of the service, and by whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use license_ledger::clock::{Clock, UnixMillis};
use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::policy::SecurityLevel;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::limits::{Own, Rule, Scope};
use super::super::{Effect, Subject};
use super::answers::id;
use super::{Account, Load, NEW, RARE, RULES, Shared};
use crate::authorize::claims;
use crate::client::{Answer, Client};
use crate::device::{Device, kid, request};
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
    pub(super) device: usize,
    pub(super) asked: Asked,
}

pub(super) enum Request {
    Challenge(Vec<u8>),
    Command { method: &'static str, path: String, key: String, body: Value },
}

pub(super) enum Asked {
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
    /// With this effect.
    Limit {
        holder: Subject,
        effect: Effect,
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

    pub(super) fn has(&self, had: Had) {
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
            0..6 => return self.change_limit(device, number, rng),
            6..10 => return self.block(device, number, rng),
            10 => return self.link(device, number, rng),
            11..18 => return self.guest(number, rng),
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
        account: &Account,
        token: &str,
        (key, persist): (&Value, bool),
    ) -> (Vec<u8>, [u8; 16]) {
        let policy = json!({ "sl": 150, "persist": persist });
        let keys = [key];
        let key_id = id(&key["kid"]).unwrap();
        let license = json!({ "account": account.name, "policy": policy, "keys": keys });
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
            "device": shared.identity(rng).identity(), "account": shared.account.name,
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
            "device": shared.identity(rng).identity(), "account": shared.account.name,
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
                if rng.below(2) == 0 =>
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
        let waiting = shared.waiting.lock().unwrap().take();
        let newcomer = waiting.or_else(|| self.newcomer(client, device, number, rng));
        let Some(fresh) = newcomer else {
            shared.joining.store(false, Ordering::Relaxed);
            return None;
        };
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

    /// A device that the ledger got to know by a license that takes no room, and at times by one that
    /// others report. `None`: the service is gone.
    fn newcomer(
        &self,
        client: &Client,
        device: usize,
        number: usize,
        rng: &mut Rng,
    ) -> Option<Arc<Device>> {
        let Shared { name, account, .. } = &self.devices[device];
        let name = format!("{name}-{number}");
        let fresh = make_device(&self.pki, &name, SecurityLevel::Software);
        let (token, key_id) = (format!("fresh-{number}"), kid(number as u128));
        let key = json!({ "kid": key_id });
        let (challenge, _) = self.challenge(&fresh, account, &token, (&key, false));
        let is_done = |answer: &Answer| answer.status == 200;
        client.try_challenge(&challenge, "").filter(is_done)?;
        if rng.below(3) > 0 {
            let license = labeled(short_lived(reported(key_id, number)), rng);
            let body = json!({
                "device": fresh.identity(), "account": account.name,
                "drm_system": "widevine", "licenses": [license],
            });
            client.try_command("/v1/acquisitions", &token, &body).filter(is_done)?;
        }
        Some(Arc::new(fresh))
    }

    /// A device or account gets a limit of its own in place of the one before, or has none any more.
    fn change_limit(&self, device: usize, number: usize, rng: &mut Rng) -> Sent {
        let shared = &self.devices[device];
        let of_device = rng.below(2) == 0;
        let of_holder = |rule: &&Rule| of_device == (rule.scope == Scope::Device);
        let rules: Vec<_> = RULES.iter().filter(of_holder).collect();
        let rule = rules[rng.below(rules.len())];
        let account = if rng.below(3) == 0 { &self.guests } else { &shared.account };
        let (path, holder) = if of_device {
            let identity = shared.identity(rng).identity();
            (format!("/v1/devices/{identity}"), Subject::DeviceOf(identity))
        } else {
            let holder = Subject::Account(account.reference.clone());
            (format!("/v1/accounts/{}", account.name), holder)
        };
        let (path, reason) = (format!("{path}/overrides/{}", rule.id), format!("call-{number}"));
        let own = (rng.below(2) == 0).then(|| own_limit(rule, number, rng));
        let (method, path, body) = match own {
            Some(Own { limit, until_ms }) => {
                let until = UnixMillis(until_ms);
                ("PUT", path, json!({ "limit": limit, "until": until, "reason": reason }))
            }
            None => ("DELETE", format!("{path}?reason={reason}"), json!({})),
        };
        let request = Request::Command { method, path, key: number.to_string(), body };
        let effect = Effect::Limited { rule: rule.id.to_owned(), own, reason };
        self.sent(device, request, Asked::Limit { holder, effect })
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
        let mut body = json!({ "device": name, "account": self.guests.name });
        let path = if rng.below(4) == 0 {
            body["drm_system"] = json!("widevine");
            body["licenses"] = json!([short_lived(reported(key_id, number))]);
            "/v1/acquisitions"
        } else {
            body["key_ids"] = json!([key_id]);
            body["commit"] = json!(true);
            body["hold_seconds"] = json!(SHORT_HOLD_S);
            "/v1/quota/decisions"
        };
        self.command(0, path, number, body, Asked::Guest)
    }
}

/// A limit beside that of the rule. None is the one before again: it is another limit, or ends at
/// another time.
fn own_limit(rule: &Rule, number: usize, rng: &mut Rng) -> Own {
    let until_ms = match rng.below(2) {
        0 => (Clock::System.now().0 / 1000 + 2) * 1000 + i64::try_from(number % 1000).unwrap(),
        _ => AFTER_ALL_MS + i64::try_from(number).unwrap(),
    };
    Own { limit: rule.limit - 2 + (number + number / 1000) % 5, until_ms }
}

/// What names a KID, with the title and the content group that some have.
fn labeled(mut named: Value, rng: &mut Rng) -> Value {
    if rng.below(3) == 0 {
        named["title"] = json!(format!("film-{}", rng.below(2)));
    }
    match rng.below(12) {
        0..3 => named["content_group"] = json!(NEW),
        3..5 => named["content_group"] = json!(RARE),
        _ => {}
    }
    named
}

/// A license of another system.
fn reported(key_id: Uuid, number: usize) -> Value {
    let reference = format!("wv-{number}");
    json!({ "key_id": key_id, "license_reference": reference, "persistent": true })
}

/// One that counts for a moment only.
fn short_lived(mut license: Value) -> Value {
    license["counted_until"] = json!(UnixMillis(Clock::System.now().0 + 1000));
    license
}
