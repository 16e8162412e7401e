//! Authorization by the service: its tokens, and its answers to callbacks.

mod browsers;
mod callback;
mod devices;
mod issuer;
mod keysets;
mod policies;
mod server;
mod tokens;

use std::fs;
use std::path::PathBuf;

use license_ledger::domain::Event;
use license_ledger::domain::event::LicenseAcquired;
use license_ledger::playready::acquire::AcquireRequest;
use license_ledger::playready::soap::FaultReply;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::device::{Acquired, Device, kid, request};
use crate::service::{Setup, TestService};

pub use callback::ask_at;
pub use issuer::{AUDIENCE, ISSUER, Issuer, claims, key_set};
pub use server::{Answer, Asked, Server};

/// The content keys of the first four KIDs.
pub fn content_key(number: u8) -> [u8; 16] {
    [0x40 + number; 16]
}

/// A service that verifies tokens with keys of a file.
pub struct TokenService {
    pub service: TestService,
    pub keys: PathBuf,
    _dir: TempDir,
}

impl TokenService {
    /// One that knows the keys of these issuers.
    pub fn new(issuers: &[&Issuer]) -> Self {
        Self::with(issuers, Setup::default())
    }

    pub fn with(issuers: &[&Issuer], setup: Setup) -> Self {
        let dir = TempDir::new().unwrap();
        let keys = dir.path().join("keys.json");
        fs::write(&keys, key_set(issuers)).unwrap();
        let service = token_setup(setup).with("token.keys_file", keys.display()).start();
        import_keys(&service);
        Self { service, keys, _dir: dir }
    }
}

/// Authorization by token, but for where the keys are.
pub fn token_setup(setup: Setup) -> Setup {
    let setup = setup.with("authorize", "token").with("token.audience", AUDIENCE);
    setup.with("token.issuer", issuer::ISSUER)
}

pub fn import_keys(service: &TestService) {
    service.import(&[1, 2, 3, 4].map(|number| (kid(number.into()), content_key(number))));
}

/// A statement that allows these KIDs to be stored.
pub fn license(kids: &[Uuid]) -> Value {
    let keys: Vec<_> = kids.iter().map(|kid| json!({ "kid": kid })).collect();
    json!({ "policy": {"sl": 150, "persist": true}, "keys": keys })
}

/// A request for these KIDs that carries a token as custom data.
pub fn with_token(kids: &[Uuid], token: &str) -> AcquireRequest {
    AcquireRequest { custom_data: Some(token.to_owned()), ..request(kids) }
}

/// Asks for the first KID with a token; the reason if it is refused as not entitled.
pub fn try_token(service: &TestService, device: &Device, token: &str) -> Result<Acquired, String> {
    let asked = with_token(&[kid(1)], token);
    device.acquire(&service.client, &asked, "").map_err(|fault| reason(&fault))
}

/// The refusal's word, and its reason where it has one.
pub fn reason(fault: &FaultReply) -> String {
    assert_eq!(fault.code.number(), 0x8004_C604);
    let custom: Value = serde_json::from_str(fault.custom_data.as_deref().unwrap()).unwrap();
    match custom["reason"].as_str() {
        Some(reason) => format!("{}: {reason}", custom["error"].as_str().unwrap()),
        None => custom["error"].as_str().unwrap().to_owned(),
    }
}

/// The licenses in the ledger.
pub fn acquired(service: &TestService) -> Vec<LicenseAcquired> {
    let events = service.facts().into_iter().map(|fact| fact.event);
    let licenses = events.filter_map(|event| match event {
        Event::LicenseAcquired(license) => Some(*license),
        _ => None,
    });
    licenses.collect()
}

/// How many events of this kind the ledger has.
pub fn count(service: &TestService, kind: &str) -> usize {
    service.kinds_from(0).iter().filter(|found| *found == kind).count()
}
