//! A server to talk to: an embedded ledger behind this program's own endpoint, over TCP.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use crate::access::secrets::Secret;
use crate::access::{KEY_RANDOM_BYTES, Registry, Scope};
use crate::clock::{Clock, UnixMillis};
use crate::config::Config;
use crate::grpc::{Endpoint, Parts, Running};
use crate::ledger::embedded::Options as EmbeddedOptions;
use crate::ledger::kurrent::{Address, Credentials, Kurrent, Options};
use crate::ledger::{Embedded, Ledger};

/// Streams that need not hold what the service understands.
const PREFIX: &str = "user-contract-";

/// The server, which can be stopped and started again.
pub(in crate::ledger) struct Server {
    pub(super) ledger: Arc<Ledger>,
    access: Arc<Registry>,
    password: String,
    pub(super) address: SocketAddr,
    running: Option<Running>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Makes a ledger and serves it.
    pub(in crate::ledger) fn start() -> Self {
        let mut server = Self::stopped();
        server.serve();
        server
    }

    /// Makes a ledger that is to be served on an address of its own.
    pub(super) fn stopped() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Embedded::open(&dir.path().join("server"), EmbeddedOptions::default());
        let access = Registry::new(Secret::new([7; 32]));
        let scopes = BTreeSet::from([Scope::EventsRead, Scope::LedgerAppend]);
        let random = [9; KEY_RANDOM_BYTES];
        let (record, text) = access.issue("adapter", scopes, UnixMillis(0), &random).unwrap();
        access.apply_created(record);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self {
            ledger: Arc::new(Ledger::Embedded(ledger.unwrap())),
            access: Arc::new(access),
            password: text.expose().to_owned(),
            address: free.local_addr().unwrap(),
            running: None,
            dir,
        }
    }

    /// Serves, on the same address each time.
    pub(super) fn serve(&mut self) {
        self.running = Some(self.endpoint(self.address));
    }

    /// One more endpoint of the same ledger.
    pub(super) fn endpoint(&self, address: SocketAddr) -> Running {
        let mut config = Config::default();
        config.rate.per_identity_per_minute = 1_000_000_000.try_into().unwrap();
        config.rate.burst = 1_000_000_000.try_into().unwrap();
        let parts = Parts {
            ledger: Arc::clone(&self.ledger),
            access: Arc::clone(&self.access),
            clock: Clock::System,
        };
        // It waits for its own threads, which no async code may.
        let start = move || Endpoint::start(&config, address, None, parts).unwrap();
        std::thread::spawn(start).join().unwrap()
    }

    /// Stops serving in order: subscriptions are ended.
    pub(super) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            tokio::task::spawn_blocking(|| running.stop()).await.unwrap();
        }
    }

    /// Stops serving as a kill does.
    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    /// How to reach it, or what passes its bytes on.
    pub(super) fn options(&self, address: &str) -> Options {
        let address: Address = format!("kurrentdb://{address}?tls=false").parse().unwrap();
        let (user, password) = ("adapter".to_owned(), self.password.clone().into());
        let credentials = Some(Credentials { user, password });
        Options { address, credentials, stream_prefix: PREFIX.to_owned() }
    }

    /// A process's own directory.
    pub(super) fn data(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The ledger, by way of the network.
    pub(in crate::ledger) async fn connect(&self, name: &str) -> Kurrent {
        self.connect_by(&self.address.to_string(), &self.data(name)).await
    }

    /// The same by way of another address.
    pub(super) async fn connect_by(&self, address: &str, data: &Path) -> Kurrent {
        Kurrent::open(data, self.options(address)).await.unwrap()
    }
}
