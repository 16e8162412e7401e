//! TLS, with the certificate of `http_shell` as everybody's authority: devices over https, a key set
//! and callbacks over https, and nobody who is known by another authority.

use std::fs;
use std::path::PathBuf;

use license_ledger::playready::content_key::{ContentKey, KeyType};
use license_ledger::playready::kid::Kid;
use license_ledger::playready::policy::SecurityLevel;
use license_ledger::simulator::store::Which;
use license_ledger::simulator::{Endpoint, Sample, SimulatorError, Wanted};
use serde_json::json;

use crate::authorize::{
    Answer, Issuer, Server, acquired, ask_at, claims, import_keys, key_set, license, reason,
    token_setup, try_token,
};
use crate::device::{kid, request, seed_key};
use crate::service::{Setup, TestService, golden_path};

/// A file beside the tests of the HTTP shell.
fn shell(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/http_shell").join(name)
}

/// The authority that the servers here belong to.
fn authority() -> PathBuf {
    shell("certificate.pem")
}

/// One that they do not belong to.
fn stranger() -> PathBuf {
    golden_path("packager/trusted.pem")
}

#[test]
fn a_device_acquires_and_deletes_over_https() {
    let setup = Setup::default().with("tls.certificate", authority().display());
    let service = setup.with("tls.key", shell("key.pem").display()).start();
    let url = service.inner().url();
    assert!(url.starts_with("https://"), "{url}");
    let mut player = service.player("tv", SecurityLevel::Software);
    let cfg = Some("(persist:true)".to_owned());
    let wanted = Wanted { cfg, ..Wanted::one(Kid::from(kid(1))) };
    // Whom the device does not know it tells nothing; nor does the port speak without TLS.
    let unknown = Endpoint::new(&url, Some(&fs::read(stranger()).unwrap())).unwrap();
    let plain = Endpoint::new(&url.replace("https:", "http:"), None).unwrap();
    for endpoint in [unknown, plain] {
        let refused = player.acquire(&endpoint, &wanted).err();
        assert!(matches!(refused, Some(SimulatorError::Transport { .. })), "{refused:?}");
    }
    assert!(acquired(&service).is_empty());

    let endpoint = Endpoint::new(&url, Some(&fs::read(authority()).unwrap())).unwrap();
    player.acquire(&endpoint, &wanted).unwrap();
    let content_key = ContentKey::new(seed_key(kid(1)));
    let sample = Sample::encrypt(&content_key, KeyType::AesCtr, [9; 16], b"pictures");
    assert_eq!(player.play(Kid::from(kid(1)), &sample).unwrap(), b"pictures");
    player.delete(&endpoint, Which::Kid(Kid::from(kid(1)))).unwrap();
    let kinds = service.kinds_from(0);
    for kind in ["license-acquired.v1", "license-deleted.v1"] {
        assert_eq!(kinds.iter().filter(|found| *found == kind).count(), 1, "{kinds:?}");
    }
}

#[test]
fn a_key_set_is_fetched_over_https_from_whom_the_authority_vouches_for() {
    let issuer = Issuer::new("ES256", "k");
    let set = key_set(&[&issuer]).into_bytes();
    let server = Server::secure(move |_, _| Answer::Body(200, set.clone()));
    let service = |ca: PathBuf| -> TestService {
        let setup = token_setup(Setup::default()).with("token.keys_url", &server.url);
        let service = setup.with("token.ca", ca.display()).start();
        import_keys(&service);
        service
    };
    let token = issuer.token(&claims("one", license(&[kid(1)])));
    let unknown = service(stranger());
    assert_eq!(unknown.client.get("/readyz").status, 503);
    let refused = try_token(&unknown, &unknown.device("tv"), &token).err();
    assert_eq!(refused.as_deref(), Some("not_entitled: token_invalid"));
    assert!(server.asked().is_empty(), "asked whom nobody vouches for");
    let known = service(authority());
    assert_eq!(known.client.get("/readyz").status, 200);
    try_token(&known, &known.device("tv"), &token).unwrap();
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn callbacks_go_over_https_to_whom_the_authority_vouches_for() {
    let allowed = json!({ "decision": "allow", "license": license(&[kid(1)]) });
    let server = Server::secure(move |_, _| Answer::json(&allowed));
    for (ca, expected) in [(stranger(), Err("try_later".to_owned())), (authority(), Ok(()))] {
        let asking = ask_at(&server.url, Setup::default().with("callback.ca", ca.display()));
        let service = &asking.service;
        let got = service.device("tv").acquire(&service.client, &request(&[kid(1)]), "");
        assert_eq!(got.map(drop).map_err(|fault| reason(&fault)), expected);
        assert_eq!(server.asked().len(), usize::from(expected.is_ok()));
    }
}
