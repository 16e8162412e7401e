//! Ledgers under several prefixes of stream names, on a server that keeps none of its own.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use license_ledger::access::secrets::Secret;
use license_ledger::access::{KEY_RANDOM_BYTES, Registry, Scope};
use license_ledger::clock::{Clock, UnixMillis};
use license_ledger::config::Config;
use license_ledger::grpc::{Endpoint, Parts, Running};
use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::{Embedded, Ledger};

use super::ledger_at;
use crate::process::{Ran, Serving, run};
use crate::webhooks::secret_file;

struct Server {
    dir: tempfile::TempDir,
    running: Running,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Embedded::open(&dir.path().join("server"), Options::default()).unwrap();
        let access = Registry::new(Secret::new([7; 32]));
        let scopes = BTreeSet::from([Scope::EventsRead, Scope::LedgerAppend]);
        let random = [9; KEY_RANDOM_BYTES];
        let (record, text) = access.issue("processes", scopes, UnixMillis(0), &random).unwrap();
        access.apply_created(record);
        let credentials = format!("processes:{}\n", text.expose());
        secret_file(dir.path(), "credentials", &credentials);
        let parts = Parts {
            ledger: Arc::new(Ledger::Embedded(ledger)),
            access: Arc::new(access),
            clock: Clock::System,
        };
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let running = Endpoint::start(&Config::default(), local, None, parts).unwrap();
        Self { dir, running }
    }

    /// Flags of a process that uses this prefix.
    fn place(&self, prefix: &str) -> (PathBuf, Vec<String>) {
        let path = |name: &str| self.dir.path().join(name);
        let prefix_setting = match prefix {
            "" => String::new(),
            prefix => format!("stream_prefix = {prefix:?}\n"),
        };
        let credentials = path("credentials");
        let config = format!(
            "secrets = {:?}\n[kurrentdb]\ncredentials_file = {credentials:?}\n{prefix_setting}",
            path("secrets"),
        );
        let file = path(&format!("{prefix}.toml"));
        std::fs::write(&file, config).unwrap();
        let ledger = ledger_at(self.running.address().port());
        let flags = ["--config", file.to_str().unwrap(), "--ledger", &ledger];
        (path(&format!("data-{prefix}")), flags.map(str::to_owned).to_vec())
    }

    fn serve(&self, prefix: &str, more: &[&str]) {
        let (data, flags) = self.place(prefix);
        let flags: Vec<_> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let serving = Serving::start(&data, &flags);
        serving.ask_to_stop();
        assert_eq!(serving.ended().1, 0);
    }

    fn run(&self, prefix: &str, command: &[&str]) -> Ran {
        let (data, flags) = self.place(prefix);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        run(&[command, &["--data", data.to_str().unwrap()], &flags].concat())
    }
}

#[test]
fn a_ledger_under_another_prefix_is_not_begun_by_mistake() {
    let server = Server::start();
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    server.serve("a.", &[]);
    server.run("b.", &serve).failed(2, &["\"b.\"", "\"a.\"", "--new-ledger"]);
    server.run("b.", &["keys", "api", "list"]).failed(2, &["\"b.\"", "\"a.\""]);
    // What would mix is begun by no means.
    for prefix in ["", "a", "a.b."] {
        let ran = server.run(prefix, &[&serve[..], &["--new-ledger"]].concat());
        ran.failed(2, &[&format!("{prefix:?}"), "\"a.\"", "neither begins with the other"]);
    }
    server.serve("b.", &["--new-ledger"]);
    // From then on it is there, and so is the first.
    server.serve("b.", &[]);
    server.serve("a.", &[]);
}
