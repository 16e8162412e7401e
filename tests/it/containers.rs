//! `docker-compose.yml` and what lies in `.docker/`: as far as they can be held against the service
//! without an engine that runs containers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use license_ledger::config::Sources;
use license_ledger::ledger::kurrent::Address;
use serde_json::{Value, json};

use crate::client::fresh_key;
use crate::device::{PERSISTENT, kid, request};
use crate::process::run;
use crate::service::{Setup, TestService};
use crate::webhooks::{eventually, secret_file};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lists behind `CMD` in the Dockerfile: of the health check, and of the image.
fn commands() -> [Vec<String>; 2] {
    let dockerfile = read(".docker/Dockerfile");
    let lists = dockerfile.lines().filter_map(|line| line.trim().strip_prefix("CMD "));
    let lists: Vec<Vec<String>> = lists.map(|list| serde_json::from_str(list).unwrap()).collect();
    lists.try_into().unwrap()
}

/// A service in which everything that is counted has happened.
fn busy_service(dir: &Path) -> TestService {
    let text = format!("whsec_{}\n", BASE64.encode(&[7; 32]));
    let endpoint = json!({"id": "nobody", "url": "http://127.0.0.1:9/", "allow_http": true,
        "allow_private": true, "secret_files": [secret_file(dir, "secret", &text)]});
    let endpoints: toml::Value = serde_json::from_value(json!([endpoint])).unwrap();
    let setup = Setup::default().with("webhooks.endpoints", endpoints);
    let setup = setup.with("quota.device_limit", 1).with("quota.void_store_failed", true);
    let service = setup.with("quota.void_min_security_level", 2000).start();
    let (client, device) = (&service.client, service.device("phone"));
    let ask = |number| device.acquire(client, &request(&[kid(number)]), PERSISTENT);
    let failed = ask(1).unwrap();
    let refused = ask(2);
    assert!(refused.is_err());
    let transaction = failed.transaction_id.unwrap();
    device.acknowledge(client, transaction, &[(kid(1), 0x8000_0001)]).unwrap();
    let asked = request(&[kid(2)]);
    device.acquire(client, &asked, PERSISTENT).unwrap();
    device.delete(client, asked.nonce, &[kid(2)]).unwrap();
    let question = json!({ "device": device.identity(), "key_ids": [kid(3)] });
    client.command("/v1/quota/decisions", &fresh_key(), &question);
    client.challenge(b"not a challenge", "");
    service
}

/// Names of metrics in an expression, and the labels that it groups each by.
fn used(expression: &str) -> (Vec<String>, Vec<String>) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = expression.match_indices("license_ledger_").map(|(at, _)| &expression[at..]);
    let names = starts.map(|rest| rest.split(|c| !is_name(c)).next().unwrap().to_owned());
    let groups = expression.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap());
    let labels = groups.flat_map(|group| group.split(", ")).map(str::to_owned);
    (names.collect(), labels.collect())
}

#[test]
fn the_dashboard_asks_for_what_the_service_tells() {
    let dir = tempfile::TempDir::new().unwrap();
    let service = busy_service(dir.path());
    let metrics = || service.client.get("/metrics").text();
    eventually("a webhook is tried", || {
        metrics().contains("license_ledger_webhook_attempts_total{")
    });
    let metrics = metrics();
    let dashboard: Value =
        serde_json::from_str(&read(".docker/grafana/license-ledger.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut seen = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let (names, labels) = used(expression);
        for name in names {
            let ends = |rest: &str| rest.starts_with([' ', '{']);
            let sample = metrics.lines().find(|line| line.strip_prefix(&name).is_some_and(ends));
            let sample = sample.unwrap_or_else(|| panic!("no {name} in {metrics}"));
            for label in &labels {
                assert!(sample.contains(&format!("{label}=\"")), "no {label} in {sample}");
            }
            seen.insert(name);
        }
        // What a legend shows is in the result.
        let legend = target["legendFormat"].as_str().unwrap();
        for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap()) {
            assert!(label == "instance" || labels.iter().any(|by| by == label), "{legend}");
        }
        assert_eq!(target["datasource"]["uid"], "prometheus");
    }
    assert!(seen.len() > 10, "{seen:?}");
    assert!(read(".docker/grafana/datasource.yml").contains("uid: prometheus"));
}

#[test]
fn the_configuration_of_the_processes_is_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(".docker/ledger.toml");
    let config = Sources { file: Some(file), ..Sources::default() }.load().unwrap();
    // Where the compose file mounts volumes, and where proxy and Prometheus ask.
    let compose = read("docker-compose.yml");
    for path in [config.data().unwrap().to_path_buf(), config.secrets().unwrap()] {
        assert_eq!(compose.matches(&format!(":{}", path.display())).count(), 3, "{path:?}");
    }
    // The nodes, and what the processes know them by.
    let address = config.ledger.unwrap();
    address.parse::<Address>().unwrap();
    for node in 1..=3 {
        assert!(address.contains(&format!("kurrentdb-{node}:2113")), "{address}");
        assert!(compose.contains(&format!("\n  kurrentdb-{node}:\n")));
    }
    let (_, ca) = address.split_once("tlsCaFile=").unwrap();
    let credentials = config.kurrentdb.credentials_file.unwrap();
    for file in [Path::new(ca), &credentials] {
        let (dir, name) = (file.parent().unwrap(), file.file_name().unwrap().to_str().unwrap());
        assert!(compose.contains(&format!("target: {}\n", dir.display())), "{file:?}");
        let made = ["> client/", "cp authority/"].map(|how| format!("{how}{name}"));
        let script = read(".docker/credentials.sh");
        assert!(made.iter().any(|made| script.contains(made)), "{file:?}");
    }
    let port = config.listen.port();
    for asks in [".docker/Caddyfile", ".docker/prometheus.yml"] {
        for process in 1..=3 {
            assert!(read(asks).contains(&format!("ledger-{process}:{port}")), "{asks}");
        }
    }
}

#[test]
fn the_image_serves_with_flags_that_there_are() {
    let help = run(&["serve", "--help"]).ok().stdout;
    let [_, command] = commands();
    assert_eq!(command[0], "serve");
    let flags: Vec<_> = command.iter().filter(|word| word.starts_with("--")).collect();
    assert!(!flags.is_empty());
    for flag in flags {
        assert!(help.contains(&format!("{flag} <")), "{flag} is not in {help}");
    }
}

/// How the image's health check ends for what listens on this port.
fn healthy(port: u16) -> bool {
    let [words, _] = commands();
    let script = words[2].replace("8290", &port.to_string());
    let mut check = Command::new(&words[0]);
    check.args([&words[1], &script]).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn the_health_check_sees_whether_a_process_is_ready() {
    let service = TestService::new();
    let port = service.client.url().rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(healthy(port));
    drop(service);
    assert!(!healthy(port), "nothing listens");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let unready = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        let read = peer.read(&mut head).unwrap();
        peer.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
        String::from_utf8_lossy(&head[..read]).into_owned()
    });
    assert!(!healthy(port), "not ready");
    assert!(unready.join().unwrap().starts_with("GET /readyz HTTP/1.0\r\n"));
}

#[test]
fn the_compose_file_pins_images_mounts_files_that_there_are_and_stays_on_this_machine() {
    let compose = read("docker-compose.yml");
    let values = |key: &'static str| {
        compose.lines().filter_map(move |line| line.trim().strip_prefix(key)).map(str::trim)
    };
    let images: Vec<_> = values("image:").filter(|image| *image != "license-ledger").collect();
    assert_eq!(images.len(), 5);
    for image in images {
        let (_, tag) = image.rsplit_once(':').expect(image);
        assert!(tag.trim_start_matches('v').split('.').count() >= 3, "{image}");
    }
    let mounts: Vec<_> = values("- ./").collect();
    assert!(mounts.len() > 5);
    for mount in mounts {
        let (file, _) = mount.split_once(':').unwrap();
        assert!(!read(file).is_empty() && mount.ends_with(":ro"), "{mount}");
    }
    let ports: Vec<_> = compose
        .lines()
        .map(str::trim)
        .filter(|line| {
            line.strip_prefix("- ").is_some_and(|port| port.starts_with(char::is_numeric))
        })
        .collect();
    assert_eq!(ports.len(), 3);
    assert!(ports.iter().all(|port| port.starts_with("- 127.0.0.1:")), "{ports:?}");
}
