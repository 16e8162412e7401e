//! Webhooks: a real server of the test is told what the real service does.

mod delivery;
mod operators;
mod processes;
mod reach;
mod thresholds;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::authorize::{Answer, Asked, Server};
use crate::client::fresh_key;
use crate::device::{Acquired, Device, PERSISTENT, kid, request};
use crate::service::{Setup, TestService};

/// How long something may take before a test gives it up.
const PATIENCE: Duration = Duration::from_secs(60);
const SHARED: [u8; 32] = [0x6b; 32];

/// Waits until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}: it does not come to that");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A secret in a file.
pub fn secret_file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A service that tells endpoints, each with a secret of [`SHARED`].
struct Telling {
    service: TestService,
    device: Device,
    _dir: TempDir,
}

/// An endpoint on this machine, with more settings.
pub fn endpoint(id: &str, url: &str, more: Value) -> Value {
    let mut endpoint = json!({"id": id, "url": url, "allow_http": true, "allow_private": true});
    endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    endpoint
}

/// Has these endpoints told, each with a secret of [`SHARED`] that is kept in `dir`.
pub fn telling(setup: Setup, dir: &Path, endpoints: &[Value]) -> Setup {
    let text = format!("whsec_{}\n", BASE64.encode(&SHARED));
    let secret = secret_file(dir, "shared", &text);
    let mut endpoints = endpoints.to_vec();
    for endpoint in &mut endpoints {
        let files = endpoint.as_object_mut().unwrap().entry("secret_files");
        files.or_insert_with(|| json!([secret]));
    }
    let endpoints: toml::Value = serde_json::from_value(json!(endpoints)).unwrap();
    setup.with("webhooks.endpoints", endpoints)
}

impl Telling {
    fn start(endpoints: &[Value]) -> Self {
        Self::with(endpoints, Setup::default())
    }

    fn with(endpoints: &[Value], setup: Setup) -> Self {
        let dir = TempDir::new().unwrap();
        let service = telling(setup, dir.path(), endpoints).start();
        let device = service.device("tv");
        Self { service, device, _dir: dir }
    }

    fn acquire(&self, number: u128) -> (Acquired, [u8; 16]) {
        let asked = request(&[kid(number)]);
        (self.device.acquire(&self.service.client, &asked, PERSISTENT).unwrap(), asked.nonce)
    }

    fn state(&self, id: &str) -> Value {
        self.service.client.json(&format!("/v1/webhooks/{id}"))
    }

    /// Waits until everything that happened was tried at this endpoint.
    fn caught_up(&self, id: &str) {
        let end = self.service.event_count().to_string();
        eventually("the endpoint catches up", || self.state(id)["position"] == *end);
    }

    fn post(&self, path: &str, body: Value) -> crate::client::Answer {
        self.service.client.command(&format!("/v1/webhooks/{path}"), &fresh_key(), &body)
    }

    /// The id of every event of these kinds, in the order of the ledger.
    fn ids(&self, kinds: &[&str]) -> Vec<String> {
        let facts = self.service.facts().into_iter();
        let facts = facts.filter(|fact| kinds.contains(&fact.event.kind()));
        facts.map(|fact| fact.recorded.id.to_string()).collect()
    }
}

/// Takes everything.
pub fn taker() -> Server {
    Server::start(|_, _| Answer::Body(204, Vec::new()))
}

fn ids(asked: &[Asked]) -> Vec<String> {
    asked.iter().map(|asked| asked.header("webhook-id").to_owned()).collect()
}

fn types(asked: &[Asked]) -> Vec<String> {
    asked.iter().map(|asked| asked.json()["type"].as_str().unwrap().to_owned()).collect()
}

/// Verifies a signature as Standard Webhooks says, with other code than what made it.
fn verify_shared(asked: &Asked, signature: &str) {
    let signature = BASE64.decode(signature.strip_prefix("v1,").unwrap().as_bytes()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SHARED);
    hmac::verify(&key, &signed(asked), &signature).unwrap();
}

fn verify_private(asked: &Asked, signature: &str, public: &str) {
    let signature = BASE64.decode(signature.strip_prefix("v1a,").unwrap().as_bytes()).unwrap();
    let public = BASE64.decode(public.strip_prefix("whpk_").unwrap().as_bytes()).unwrap();
    UnparsedPublicKey::new(&ED25519, public).verify(&signed(asked), &signature).unwrap();
}

fn signed(asked: &Asked) -> Vec<u8> {
    let start = format!("{}.{}.", asked.header("webhook-id"), asked.header("webhook-timestamp"));
    [start.as_bytes(), &asked.body].concat()
}
