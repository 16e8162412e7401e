//! Official clients of KurrentDB in other languages append, read and subscribe. What they check stands
//! in `officials/client.py` and `officials/client.js`.
//!
//! They come from PyPI and npm, into folders beside what Cargo builds. Over TLS, since both send no
//! credentials otherwise.

use std::path::Path;
use std::process::{Command, Stdio};

use license_ledger::access::Scope;

use super::setup;
use crate::programs::{node_modules, skip, venv};
use crate::service::TestService;

/// Set to `required`: a client that cannot be installed is a failure.
const SETTING: &str = "LICENSE_LEDGER_TEST_KURRENTDB_CLIENTS";
/// For how long a client may take, in seconds.
const RUN_SECONDS: &str = "120";

#[test]
fn the_official_client_for_python_appends_reads_and_subscribes() {
    let installed = venv("kurrentdb-python", include_str!("officials/requirements.txt"));
    let python = installed.map(|venv| Command::new(venv.join("bin/python")));
    let remedy = "install Python 3 with venv, and let pip reach PyPI";
    let Some(mut python) = found("Python", python, remedy) else { return };
    python.arg("-c").arg(include_str!("officials/client.py"));
    let service = secure();
    run(python, &connection(&service, "tlsCaFile"), "python: done");
    assert_eq!(events_of(&service, "user-python"), 6);
}

#[test]
fn the_official_client_for_node_appends_reads_and_subscribes() {
    let package = include_str!("officials/package.json");
    let installed =
        node_modules("kurrentdb-node", package, include_str!("officials/package-lock.json"));
    let node = installed.map(|folder| {
        let mut node = Command::new("node");
        node.current_dir(folder);
        node
    });
    let Some(mut node) = found("Node", node, "install Node.js with npm, and let it reach npm")
    else {
        return;
    };
    // As text, so that it finds the packages of the working directory.
    node.arg("--eval").arg(include_str!("officials/client.js")).arg("--");
    let service = secure();
    run(node, &connection(&service, "tlsCAFile"), "node: done");
    assert_eq!(events_of(&service, "user-node"), 10);
}

fn found(language: &str, command: Result<Command, String>, remedy: &str) -> Option<Command> {
    let missing = match command {
        Ok(command) => return Some(command),
        Err(missing) => missing,
    };
    skip(&format!("the official KurrentDB client for {language}"), &missing, remedy, SETTING);
    None
}

fn beside(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/http_shell").join(name);
    path.to_str().unwrap().to_owned()
}

/// A service with a certificate.
fn secure() -> TestService {
    setup()
        .with("tls.certificate", beside("certificate.pem"))
        .with("tls.key", beside("key.pem"))
        .start()
}

/// What official clients connect by.
fn connection(service: &TestService, ca_file: &str) -> String {
    let client = service.client_with(&[Scope::EventsRead]);
    let address = service.inner().grpc.as_ref().unwrap().address();
    let certificate = beside("certificate.pem");
    format!("kurrentdb://analyst:{}@{address}?tls=true&{ca_file}={certificate}", client.key())
}

fn run(command: Command, connection: &str, done: &str) {
    let mut timed = Command::new("timeout");
    timed.arg(RUN_SECONDS).arg(command.get_program()).args(command.get_args()).arg(connection);
    if let Some(folder) = command.get_current_dir() {
        timed.current_dir(folder);
    }
    let ran = timed.stdin(Stdio::null()).output().unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.contains(done), "{said}\n{complained}");
}

fn events_of(service: &TestService, stream: &str) -> u64 {
    let stream = license_ledger::ledger::StreamName::new(stream).unwrap();
    let head = crate::service::block_on(service.inner().ledger.head(&stream)).unwrap();
    head.map_or(0, |head| head + 1)
}
