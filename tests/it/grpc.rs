//! The ledger over the KurrentDB protocol: a client made of the messages, and official ones.

// `Status` is large, and it is what tonic's calls return.
#![allow(clippy::result_large_err)]

mod appends;
mod batches;
mod bounds;
pub mod client;
mod officials;
mod reads;
mod rights;
mod rust;
mod stalling;
mod subscriptions;

use license_ledger::access::Scope;

use crate::service::{Setup, TestService};
use client::Kurrent;

/// A service that offers its ledger.
fn service() -> TestService {
    setup().start()
}

fn setup() -> Setup {
    Setup::default().with("grpc.listen", "127.0.0.1:0")
}

/// A client that may read, and write to `user-…`.
fn analyst(service: &TestService) -> Kurrent {
    Kurrent::of(service, &[Scope::EventsRead])
}

/// A client that may append anywhere.
fn copier(service: &TestService) -> Kurrent {
    Kurrent::of(service, &[Scope::EventsRead, Scope::LedgerAppend])
}
