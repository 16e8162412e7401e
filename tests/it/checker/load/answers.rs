//! What the answers say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use license_ledger::domain::quota::BLOCKED;
use serde_json::Value;
use uuid::Uuid;

use super::super::{Effect, Subject, Told};
use super::Load;
use super::calls::{Asked, Had, Sent};
use crate::client::Answer;
use crate::device::{Device, deleted};

impl Load {
    /// What an answer says; what the device has by it is remembered.
    pub(super) fn told(&self, sent: &Sent, answer: &Answer) -> Told {
        let shared = &self.devices[sent.device];
        let done = |effect| Told::Done(vec![effect]);
        match &sent.asked {
            Asked::License { by, nonce, key_id, title } => {
                if answer.status == 500 {
                    let account = &shared.account.reference;
                    return refused(&answer.text(), by, account, title.as_deref());
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
            Asked::Join { fresh, .. } if [404, 409].contains(&answer.status) => {
                *shared.waiting.lock().unwrap() = Some(Arc::clone(fresh));
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
            Asked::Limit { holder, effect: effect @ Effect::Limited { rule, own: None, .. } } => {
                assert_eq!(answer.status, 204, "{}", answer.text());
                let (rule, holder, effect) = (rule.clone(), holder.clone(), effect.clone());
                Told::TakenBack { rule, holder, effect }
            }
            Asked::Limit { effect, .. } => {
                ok(answer);
                done(effect.clone())
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

pub(super) fn id(value: &Value) -> Option<Uuid> {
    value.as_str().map(|text| text.parse().unwrap())
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

/// A refusal of a challenge of this identity, at the expense of this account.
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
