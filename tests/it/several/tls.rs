//! The way to the cluster over TLS, with a certificate that the address names.

use std::process::Stdio;

use super::ledger_at;
use crate::device::{PERSISTENT, kid, request};
use crate::process::{Serving, program, run};
use crate::service::make_device;
use crate::webhooks::secret_file;
use license_ledger::playready::policy::SecurityLevel;

/// The certificate of `localhost` that is everybody's authority in the tests, or its key.
fn shell(name: &str) -> String {
    format!("{}/tests/it/http_shell/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_cluster_is_reached_over_tls_by_those_who_know_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = shell("certificate.pem");
    let config = format!("[tls]\ncertificate = {authority:?}\nkey = {:?}\n", shell("key.pem"));
    std::fs::write(path("keeper.toml"), config).unwrap();
    let keeper_config = path("keeper.toml").display().to_string();
    let flags = ["--config", &keeper_config, "--grpc", "127.0.0.1:0"];
    let keeper = Serving::start(&path("keeper"), &flags);
    let admin_key = keeper.admin_key.clone().unwrap();
    let offered =
        keeper.greeting.lines().find_map(|line| line.split_once("kurrentdb://127.0.0.1:"));
    let port: u16 = offered.unwrap().1.parse().unwrap();
    let create = ["keys", "api", "create", "--name", "members", "--json", "--data"];
    let scopes = ["--scope", "events:read", "--scope", "ledger:append"];
    let data = path("keeper").display().to_string();
    let made = run(&[&create[..], &[&data], &scopes].concat()).ok().json();
    let key = made["api_key"]["key"].as_str().unwrap();
    let credentials = secret_file(dir.path(), "credentials", &format!("members:{key}\n"));
    let config = format!(
        "secrets = {:?}\n[kurrentdb]\ncredentials_file = {credentials:?}\n",
        path("keeper-secrets")
    );
    std::fs::write(path("member.toml"), config).unwrap();
    let member_config = path("member.toml").display().to_string();

    let ledger = format!("kurrentdb://localhost:{port}?tlsCaFile={authority}");
    let flags = ["--config", &member_config, "--ledger", &ledger];
    let member = Serving::start(&path("member"), &flags);
    let device = make_device(&path("keeper-secrets/pki"), "phone", SecurityLevel::Software);
    let client = member.client(&admin_key);
    device.acquire(&client, &request(&[kid(1)]), PERSISTENT).map(drop).unwrap();
    // Pages of the log are read by the official client.
    assert_eq!(client.json("/v1/events?from=0&limit=1")["items"][0]["type"], "keys-pinned.v1");
    member.stop();

    // Without it, or without TLS, nothing is spoken.
    let stranger = format!("kurrentdb://localhost:{port}");
    for ledger in [stranger, ledger_at(port)] {
        let log = path("stranger.log");
        let mut child = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--config", &member_config, "--data"])
            .arg(path("stranger"))
            .args(["--ledger", &ledger])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        super::eventually(|| {
            std::fs::read_to_string(&log).unwrap().contains("waiting for the event log")
        });
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
