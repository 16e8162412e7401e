//! Requests that Schemathesis makes from the OpenAPI document, against the running service: no server
//! error, no status and no body that the document does not describe, no wrong request accepted.
//!
//! Schemathesis comes from PyPI, into a folder beside what Cargo builds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::authorize::Server;
use crate::client::fresh_key;
use crate::contract::DOCUMENT;
use crate::device::{Device, PERSISTENT, kid, request};
use crate::programs::{skip, venv};
use crate::service::{Setup, TestService, golden_flow};
use crate::webhooks::{endpoint, taker, telling};

/// Set to `required`: a missing Schemathesis is a failure.
const SETTING: &str = "LICENSE_LEDGER_TEST_SCHEMATHESIS";
/// What Schemathesis needs, itself included, each with its version.
const REQUIREMENTS: &str = include_str!("schemathesis/requirements.txt");
/// How it checks.
const SETTINGS: &str = include_str!("schemathesis/schemathesis.toml");
/// Requests for each operation at most, in each of the phases that make requests at random.
const EXAMPLES: &str = "100";
/// For how long a run may take, in seconds.
const RUN_SECONDS: &str = "540";

#[test]
fn requests_made_from_the_document_get_only_what_it_describes() {
    let Some(schemathesis) = find_or_install() else { return };
    let ran = run(&schemathesis, &DOCUMENT, &["--max-examples", EXAMPLES]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let operations = DOCUMENT["paths"].as_object().unwrap().values();
    let count: usize = operations.map(|item| item.as_object().unwrap().len()).sum();
    assert!(said.contains(&format!("Tested: {count}\n")), "not all of {count}: {said}");
}

#[test]
fn schemathesis_sees_a_status_that_is_not_described() {
    let Some(schemathesis) = find_or_install() else { return };
    let mut document = DOCUMENT.clone();
    let responses = document["paths"]["/v1/devices"]["get"]["responses"].as_object_mut().unwrap();
    assert!(responses.remove("200").is_some());
    let ran = run(&schemathesis, &document, &["--phases", "coverage"]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("Undocumented status code: 1\n"), "{said}");
}

/// A service with every route, and something at the paths that the document has for examples.
struct Furnished {
    service: TestService,
    /// Of the device `tv-17`.
    reservation: String,
    /// At the expense of the account `alice`.
    license: String,
    /// Who is told as the endpoint `audit`.
    _told: Server,
    _dir: TempDir,
}

fn service_with_data() -> Furnished {
    let (told, dir) = (taker(), TempDir::new().unwrap());
    let setup = Setup::golden().with("clearkey.enabled", true).with("packaging.plain_keys", true);
    let service = telling(setup, dir.path(), &[endpoint("audit", &told.url, json!({}))]).start();
    let flow = golden_flow();
    let kids = flow["kids"].as_array().unwrap().iter().map(|kid| kid.as_str().unwrap());
    let kids: Vec<Uuid> = kids.map(|kid| kid.parse().unwrap()).collect();
    service.import(&kids.iter().map(|kid| (*kid, [7; 16])).collect::<Vec<_>>());
    let device = Device::golden("golden");
    for kid in kids.into_iter().chain([kid(3)]) {
        device.acquire(&service.client, &request(&[kid]), PERSISTENT).unwrap();
    }
    service.inventory(&device);
    let example = &DOCUMENT["paths"]["/v1/devices/{device}"]["get"]["parameters"][0]["example"];
    assert_eq!(*example, device.identity(), "the example is a device that there is");
    let command = |path: &str, body: Value| {
        let answer = service.client.command(path, &fresh_key(), &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let license = json!({"key_id": kid(1), "license_reference": "wv-1", "persistent": true,
        "title": "film"});
    let report = json!({"device": "tv-17", "account": "alice", "drm_system": "widevine",
        "licenses": [license]});
    let reported = command("/v1/acquisitions", report);
    let hold = json!({"device": "tv-17", "account": "alice", "key_ids": [kid(2)], "commit": true,
        "hold_seconds": 86_400});
    let held = command("/v1/quota/decisions", hold);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Furnished {
        reservation: text(&held["reservation_id"]),
        license: text(&reported["licenses"][0]["license_id"]),
        service,
        _told: told,
        _dir: dir,
    }
}

impl Furnished {
    /// The settings with the ids that no document can know.
    fn settings(&self) -> String {
        let Self { reservation, license, .. } = self;
        format!(
            "{SETTINGS}
[[operations]]
include-path = \"/v1/devices/{{device}}/reservations/{{reservation}}\"
parameters = {{ \"path.device\" = \"tv-17\", \"path.reservation\" = \"{reservation}\" }}

[[operations]]
include-path = \"/v1/licenses/{{license_id}}\"
parameters = {{ \"path.license_id\" = \"{license}\" }}
"
        )
    }
}

/// Makes requests from `document` of a service of its own.
fn run(schemathesis: &Path, document: &Value, args: &[&str]) -> Output {
    let furnished = service_with_data();
    let service = &furnished.service;
    let file = service.data().join("openapi.json");
    fs::write(&file, document.to_string()).unwrap();
    let settings = service.data().join("schemathesis.toml");
    fs::write(&settings, furnished.settings()).unwrap();
    let authorization = format!("Authorization: Bearer {}", service.client.key());
    Command::new("timeout")
        .arg(RUN_SECONDS)
        .arg(schemathesis)
        .arg("--config-file")
        .arg(settings)
        .args(["run", "--url", service.client.url()])
        .args(["--header", &authorization])
        // What a schema cannot say, such as a cursor of another list, is no failure.
        .args(["--checks", "all", "--exclude-checks", "positive_data_acceptance"])
        .args(["--generation-deterministic", "--continue-on-failure", "--no-color"])
        .args(args)
        .arg(file)
        // Whatever it leaves behind goes with the service's data.
        .current_dir(service.data())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The program, installed if it is not there. `None` after it was said that this is not tested.
fn find_or_install() -> Option<PathBuf> {
    let missing = match venv("schemathesis", REQUIREMENTS) {
        Ok(venv) => return Some(venv.join("bin/schemathesis")),
        Err(missing) => missing,
    };
    let remedy = "install Python 3 with venv, and let pip reach PyPI";
    skip("the HTTP API against its document with Schemathesis", &missing, remedy, SETTING);
    None
}
