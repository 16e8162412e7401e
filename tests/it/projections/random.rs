//! A real service under random calls: every projection says what the read models say.

use std::collections::BTreeSet;

use license_ledger::playready::policy::SecurityLevel;
use serde_json::{Value, json};
use uuid::Uuid;

use super::compare;
use crate::authorize::{Issuer, TokenService, claims, with_token};
use crate::client::{Answer, fresh_key};
use crate::device::{Device, kid};
use crate::mutations::Rng;
use crate::service::{NOW_S, Setup, TestService, block_on};

const CALLS: usize = 260;
const ACCOUNTS: [Option<&str>; 3] = [None, Some("alice"), Some("bob")];

/// What has happened so far, as far as later calls refer to it.
struct Calls {
    token_service: TokenService,
    issuer: Issuer,
    rng: Rng,
    number: usize,
    joins: usize,
    /// Seconds since the start.
    elapsed_s: u64,
    devices: Vec<Device>,
    /// Device, nonce, transaction and KID of each persistent license acquired.
    acquired: Vec<(usize, [u8; 16], Uuid, Uuid)>,
    /// Device and reference of each license reported.
    reported: Vec<(String, String)>,
    /// Device and id of each reservation.
    reservations: Vec<(String, String)>,
}

impl Calls {
    fn new(seed: u64) -> Self {
        let issuer = Issuer::new("HS256", "service");
        let setup = Setup::default().with("quota.device_limit", 3);
        let setup = setup.with("quota.void_store_failed", true);
        let setup = setup.with("quota.void_min_security_level", 2000);
        let token_service = TokenService::with(&[&issuer], setup);
        let names = ["phone", "tablet", "tv", "car"];
        let devices =
            names.map(|name| token_service.service.device_of_level(name, SecurityLevel::Software));
        Self {
            token_service,
            issuer,
            rng: Rng(seed),
            number: 0,
            joins: 0,
            elapsed_s: 0,
            devices: devices.into(),
            acquired: Vec::new(),
            reported: Vec::new(),
            reservations: Vec::new(),
        }
    }

    fn service(&self) -> &TestService {
        &self.token_service.service
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.rng.below(bound) == 0
    }

    fn account(&mut self) -> Option<&'static str> {
        ACCOUNTS[self.rng.below(ACCOUNTS.len())]
    }

    fn key_id(&mut self) -> Uuid {
        kid(1 + self.rng.below(4) as u128)
    }

    /// A device by its certificate, or one that is only reported about.
    fn device_name(&mut self) -> String {
        match self.rng.below(self.devices.len() + 2) {
            reported @ 0..2 => format!("box-{reported}"),
            certified => self.devices[certified - 2].identity(),
        }
    }

    /// Posts a command, which may be refused.
    fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = self.service().client.command(path, &fresh_key(), body);
        assert!(answer.status < 500, "{path}: {}", answer.text());
        answer
    }

    fn acquire(&mut self) {
        let device = self.rng.below(self.devices.len());
        let key_id = self.key_id();
        let mut policy = json!({ "sl": 150, "persist": !self.one_in(8) });
        if self.one_in(3) {
            let seconds = self.elapsed_s + 60 + self.rng.below(4_000) as u64;
            policy["end"] = (NOW_S + seconds).into();
        }
        let mut license = json!({ "policy": policy, "keys": [{ "kid": key_id }] });
        if let Some(account) = self.account() {
            license["account"] = account.into();
        }
        let mut claims = claims(&format!("token-{}", self.number), license);
        claims["exp"] = u32::MAX.into();
        let asked = with_token(&[key_id], &self.issuer.token(&claims));
        let service = &self.token_service.service;
        let got = self.devices[device].acquire(&service.client, &asked, "");
        if let Some(transaction) = got.ok().and_then(|got| got.transaction_id) {
            self.acquired.push((device, asked.nonce, transaction, key_id));
        }
    }

    fn any_acquired(&mut self) -> Option<(usize, [u8; 16], Uuid, Uuid)> {
        let count = self.acquired.len();
        (count > 0).then(|| self.acquired[self.rng.below(count)])
    }

    fn acknowledge(&mut self) {
        let Some((device, _, transaction, key_id)) = self.any_acquired() else { return };
        let result = if self.one_in(4) { 0x8000_0001 } else { 0 };
        let client = &self.token_service.service.client;
        let _ = self.devices[device].acknowledge(client, transaction, &[(key_id, result)]);
    }

    fn delete(&mut self) {
        let Some((device, nonce, _, key_id)) = self.any_acquired() else { return };
        let client = &self.token_service.service.client;
        let _ = self.devices[device].delete(client, nonce, &[key_id]);
    }

    fn report(&mut self) {
        let (device, reference) = (self.device_name(), format!("wv-{}", self.number));
        let mut license = json!({ "key_id": self.key_id(), "license_reference": reference,
            "persistent": !self.one_in(8) });
        if self.one_in(3) {
            let seconds = self.elapsed_s + 60 + self.rng.below(4_000) as u64;
            let until = time::OffsetDateTime::from_unix_timestamp((NOW_S + seconds) as i64);
            let format = &time::format_description::well_known::Rfc3339;
            license["counted_until"] = until.unwrap().format(format).unwrap().into();
        }
        let mut body = json!({ "device": device, "drm_system": "widevine", "licenses": [license] });
        if let Some(account) = self.account() {
            body["account"] = account.into();
        }
        if self.post("/v1/acquisitions", &body).status == 200 {
            self.reported.push((device, reference));
        }
    }

    fn report_more(&mut self) {
        let count = self.reported.len();
        if count == 0 {
            return;
        }
        let (device, reference) = self.reported[self.rng.below(count)].clone();
        let mut license = json!({ "drm_system": "widevine", "license_reference": reference });
        if self.one_in(2) {
            license["stored"] = (!self.one_in(4)).into();
            let body = json!({ "device": device, "licenses": [license] });
            self.post("/v1/acknowledgements", &body);
        } else {
            let grade = ["B", "C", "D"][self.rng.below(3)];
            let body = json!({ "device": device, "licenses": [license], "grade": grade });
            self.post("/v1/deletions", &body);
        }
    }

    fn reserve(&mut self) {
        let device = self.device_name();
        let hold_seconds = 60 + self.rng.below(2_000);
        let mut body = json!({ "device": device, "key_ids": [self.key_id()], "commit": true,
            "hold_seconds": hold_seconds });
        if let Some(account) = self.account() {
            body["account"] = account.into();
        }
        let answer = self.post("/v1/quota/decisions", &body).json();
        if let Some(id) = answer["reservation_id"].as_str() {
            self.reservations.push((device, id.to_owned()));
        }
    }

    fn release(&mut self) {
        if let Some((device, id)) = self.reservations.pop() {
            self.post(&format!("/v1/devices/{device}/reservations/{id}/release"), &json!({}));
        }
    }

    fn write_off(&mut self) {
        let device = self.device_name();
        let mut body = json!({ "reason": "lost" });
        if self.one_in(2) {
            body["cooldown_seconds"] = (60 + self.rng.below(2_000)).into();
        }
        self.post(&format!("/v1/devices/{device}/write-off"), &body);
    }

    fn join(&mut self) {
        let (device, other) = (self.device_name(), self.device_name());
        self.joins += 1;
        if self.joins % 2 == 1 {
            let body = json!({ "into": other, "reason": "one unit" });
            self.post(&format!("/v1/devices/{device}/merge"), &body);
        } else {
            let licenses = if self.one_in(3) { "write_off" } else { "move" };
            let body = json!({ "by": other, "licenses": licenses, "reason": "repaired" });
            self.post(&format!("/v1/devices/{device}/replace"), &body);
            self.post(&format!("/v1/devices/{device}/unblock"), &json!({ "reason": "found" }));
        }
    }

    fn pass_time(&mut self) {
        let seconds = self.rng.below(1_500) as u64;
        self.elapsed_s += seconds;
        self.service().advance_s(seconds as i64);
    }

    fn call(&mut self) {
        self.number += 1;
        match self.rng.below(100) {
            0..32 => self.acquire(),
            32..46 => self.acknowledge(),
            46..56 => self.delete(),
            56..68 => self.report(),
            68..78 => self.report_more(),
            78..84 => self.reserve(),
            84..86 => self.release(),
            86..89 => self.write_off(),
            // Late, so that there is something to join, and not often: in the end all are one.
            89..92 if self.number > CALLS / 2 => self.join(),
            _ => self.pass_time(),
        }
    }
}

#[test]
fn random_calls_leave_a_log_that_projections_and_read_models_agree_on() {
    let mut kinds = BTreeSet::new();
    for seed in 1..=3 {
        let mut calls = Calls::new(seed);
        (0..CALLS).for_each(|_| calls.call());
        // Most are refused: of a device that was blocked or given up, or into itself.
        (0..12).for_each(|_| calls.join());
        let service = calls.service();
        let facts = service.facts();
        let inventory = &service.inner().inventory;
        block_on(inventory.wait_for(facts.len() as u64 - 1)).unwrap();
        println!("seed {seed}: {} events", facts.len());
        compare::check(&facts, inventory);
        kinds.extend(facts.iter().map(|fact| fact.event.kind()));
    }
    // Of each event that a projection handles, unless it had no occasion, there was one.
    let sources = super::ALL
        .map(|name| std::fs::read_to_string(super::folder().join(format!("{name}.js"))).unwrap());
    let sources = sources.concat();
    let handled =
        sources.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next());
    let missing: BTreeSet<_> = handled.filter(|kind| !kinds.contains(kind)).collect();
    assert_eq!(missing, BTreeSet::new());
}
