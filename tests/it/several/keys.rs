//! Processes whose configuration differs: what would break a promise is refused, and what is merely
//! different is warned about.

use std::path::{Path, PathBuf};

use license_ledger::cli::pki;
use license_ledger::domain::Event;
use license_ledger::domain::event::{KeysPinned, QuotaPolicyPublished};
use license_ledger::domain::quota::QuotaPolicy;
use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::{Append, Embedded, Expected, Ledger, NewEvent, StreamName};

use super::{Group, eventually, ledger_at};
use crate::process::{Ran, Serving, run};
use crate::service::block_on;

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").args(["-a".as_ref(), from, to]).status().unwrap();
    assert!(done.success());
}

impl Group {
    /// A copy of the secrets, PKI included, for one process to change.
    fn copied_secrets(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        copy(&self.path("keeper-secrets"), &path);
        path
    }

    /// Runs a command of a process with its own secrets and a data directory that nobody serves.
    fn with_secrets(&self, command: &[&str], secrets: &Path, rest: &[&str]) -> Ran {
        let [config, data] = ["member.toml", "with-other-secrets"].map(|name| self.path(name));
        let ledger = ledger_at(self.port);
        let place = [
            "--config",
            config.to_str().unwrap(),
            "--data",
            data.to_str().unwrap(),
            "--secrets",
            secrets.to_str().unwrap(),
            "--ledger",
            &ledger,
        ];
        run(&[command, &place, rest].concat())
    }
}

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// The keys that a ledger had, one after the other.
fn pinned(facts: &[license_ledger::ledger::tail::Fact]) -> Vec<KeysPinned> {
    let pinned = facts.iter().filter_map(|fact| match &fact.event {
        Event::KeysPinned(pinned) => Some(KeysPinned::clone(pinned)),
        _ => None,
    });
    pinned.collect()
}

#[test]
fn a_process_with_other_keys_is_refused_with_the_remedy() {
    let group = Group::start(1, 0, |port| port);
    let other = group.path("other-pki");
    pki::init(&other).unwrap();
    for (key, file) in [("reference-key", "reference.key"), ("api-key", "api.key")] {
        let secrets = group.copied_secrets(key);
        std::fs::write(secrets.join(file), [7; 32]).unwrap();
        let ran = group.with_secrets(&SERVE, &secrets, &[]);
        ran.failed(2, &[file, "keys accept", key]);
        // Nor does a command write to the ledger with it.
        let ran = group.with_secrets(&["keys", "api", "list"], &secrets, &[]);
        ran.failed(2, &[file, "keys accept", key]);
    }
    let secrets = group.copied_secrets("root");
    let ran = group.with_secrets(&SERVE, &secrets, &["--pki", other.to_str().unwrap()]);
    ran.failed(2, &["root.pub.pem", "keys accept --changed root"]);
    assert_eq!(pinned(&group.facts()).len(), 1);
}

#[test]
fn a_process_whose_configuration_differs_harmlessly_is_warned() {
    let group = Group::start(1, 0, |port| port);
    let other = group.path("other-pki");
    pki::init(&other).unwrap();
    let secrets = group.copied_secrets("warned-secrets");
    std::fs::copy(other.join("wmrm.pem"), secrets.join("pki/wmrm.pem")).unwrap();
    let config = group.write_member_config("warned.toml", "quota.device_limit = 7");
    let args = [
        "--config",
        config.to_str().unwrap(),
        "--secrets",
        secrets.to_str().unwrap(),
        "--ledger",
        &ledger_at(group.port),
    ];
    Serving::start(&group.path("warned"), &args).stop();
    let log = std::fs::read_to_string(group.path("warned.log")).unwrap();
    for warning in ["wmrm.pem of the PKI", "quota differs from policy revision 0"] {
        let warned = log.lines().filter(|line| line.contains("WARN") && line.contains(warning));
        assert_eq!(warned.count(), 1, "{warning}: {log}");
    }
    assert!(!log.contains("server_sign.pem"), "{log}");
}

#[test]
fn keys_that_were_changed_on_purpose_are_accepted_and_running_processes_hear_of_it() {
    let group = Group::start(1, 1, |port| port);
    let (client, other) = (group.client(0), group.path("other-pki"));
    assert_eq!(client.get("/readyz").status, 200);
    pki::init(&other).unwrap();
    let secrets = group.path("keeper-secrets");
    let pki = ["--pki", other.to_str().unwrap()];
    let accept = |changed: &[&str], pki: &[&str]| {
        let rest = [&["--reason", "the trial is over"], changed, pki].concat();
        group.with_secrets(&["keys", "accept"], &secrets, &rest)
    };
    accept(&["--changed", "root"], &[]).failed(2, &["root.pub.pem", "nothing has to be accepted"]);
    accept(&["--changed", "root"], &pki).ok();
    eventually(|| client.get("/readyz").status == 503);
    let told = client.get("/readyz").json();
    assert!(told["checks"]["pins"].as_str().unwrap().contains("other keys"), "{told}");
    let ran = group.with_secrets(&SERVE, &secrets, &[]);
    ran.failed(2, &["root.pub.pem"]);
    let [config, ledger] = [group.path("member.toml").display().to_string(), ledger_at(group.port)];
    let args = ["--config", &config, "--ledger", &ledger, pki[0], pki[1]];
    Serving::start(&group.path("changed"), &args).stop();
    let pinned = pinned(&group.facts());
    assert_eq!(pinned.len(), 2);
    assert_ne!(pinned[0].root, pinned[1].root);
    assert_eq!((&*pinned[1].actor, &*pinned[1].reason), ("cli", "the trial is over"));
    assert_eq!(pinned[0].reference_key, pinned[1].reference_key);
}

#[test]
fn a_ledger_in_one_directory_keeps_to_its_keys_too_and_an_earlier_one_takes_them() {
    let dir = tempfile::tempdir().unwrap();
    let [data, old, secrets] = ["data", "old", "data-secrets"].map(|name| dir.path().join(name));
    Serving::start(&data, &[]).stop();
    // A ledger as earlier versions began it, with the same keys.
    let ledger = Ledger::Embedded(Embedded::open(&old, Options::default()).unwrap());
    let stream = StreamName::new("policy").unwrap();
    let event = Event::QuotaPolicyPublished(QuotaPolicyPublished {
        policy: QuotaPolicy::default(),
        actor: "configuration".to_owned(),
        reason: "first start of an empty ledger".to_owned(),
        at_ms: 1,
    });
    let records = vec![(stream.clone(), NewEvent::of(&stream, &event, "start").unwrap())];
    let append = Append { records, checks: vec![(stream, Expected::NoStream)] };
    block_on(ledger.append(append)).unwrap();
    block_on(ledger.close());
    drop(ledger);
    let args = ["--secrets", secrets.to_str().unwrap()];
    let serving = Serving::start(&old, &args);
    serving.ask_to_stop();
    assert_eq!(serving.ended().1, 0);
    // From then on both know them.
    std::fs::write(secrets.join("api.key"), [7; 32]).unwrap();
    for data in [&data, &old] {
        let place = ["--data", data.to_str().unwrap(), "--secrets", secrets.to_str().unwrap()];
        run(&[&SERVE[..], &place].concat()).failed(2, &["api.key", "--changed api-key"]);
        let accept = ["keys", "accept", "--changed", "api-key", "--reason", "it had leaked"];
        run(&[&accept[..], &place].concat()).ok();
        Serving::start(data, &args).stop();
        let ledger = Ledger::Embedded(Embedded::open_read_only(data).unwrap());
        let all = block_on(ledger.read_all(0, 100)).unwrap();
        let pinned = all.iter().filter(|event| event.kind == "keys-pinned.v1");
        assert_eq!(pinned.count(), 2);
    }
}
