//! A ledger that nothing but an endpoint has, as a cluster is one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use license_ledger::access::secrets::Secret;
use license_ledger::access::{KEY_RANDOM_BYTES, Registry, Scope};
use license_ledger::clock::{Clock, UnixMillis};
use license_ledger::config::Config;
use license_ledger::grpc::{Endpoint, Parts, Running};
use license_ledger::ledger::embedded::Options;
use license_ledger::ledger::{Embedded, Ledger};

use super::Place;
use crate::webhooks::secret_file;

pub struct Keeper {
    pub ledger: Arc<Ledger>,
    pub url: String,
    /// A file with the credentials of a user.
    pub credentials: String,
    _running: Running,
}

impl Keeper {
    /// Makes a ledger, which has a user who may do this.
    pub fn start(place: &Place, scopes: &[Scope]) -> Self {
        let ledger = Embedded::open(&place.path("keeper"), Options::default()).unwrap();
        let ledger = Arc::new(Ledger::Embedded(ledger));
        let access = Registry::new(Secret::new([7; 32]));
        let scopes = scopes.iter().copied().collect();
        let random = [9; KEY_RANDOM_BYTES];
        let (record, key) = access.issue("copier", scopes, UnixMillis(0), &random).unwrap();
        access.apply_created(record);
        let parts =
            Parts { ledger: Arc::clone(&ledger), access: Arc::new(access), clock: Clock::System };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let running = Endpoint::start(&Config::default(), address, None, parts).unwrap();
        let credentials = format!("copier:{}\n", key.expose());
        let credentials = secret_file(place.0.path(), "credentials", &credentials);
        let credentials = credentials.to_str().unwrap().to_owned();
        Self { ledger, url: running.url(), credentials, _running: running }
    }
}
