//! Who calls, and what they may do.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Status;

use super::Shared;
use super::refusal;
use crate::access::{Principal, Scope};
use crate::ledger::StreamName;

/// The caller of a call.
#[derive(Clone)]
pub(super) struct Caller(Principal);

impl Caller {
    /// Finds out who calls, and counts the call.
    pub(super) fn of(shared: &Shared, headers: &HeaderMap) -> Result<Self, Status> {
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let found = shared.access.authenticate_basic(authorization);
        let caller = Self(found.map_err(|_| refusal::unauthenticated())?);
        caller.count(shared)?;
        Ok(caller)
    }

    /// Takes one call from the allowance of the caller's key.
    pub(super) fn count(&self, shared: &Shared) -> Result<(), Status> {
        shared.rate.check(&self.0.key_id).map_err(|too_fast| refusal::too_fast(&too_fast))
    }

    /// Reading and subscribing.
    pub(super) fn may_read(&self) -> Result<(), Status> {
        if self.0.may(Scope::EventsRead) {
            return Ok(());
        }
        Err(refusal::denied("reading needs an API key with the scope events:read"))
    }

    /// Saying when an event of the users happened.
    pub(super) fn may_date(&self) -> Result<(), Status> {
        if self.0.may(Scope::LedgerAppend) {
            return Ok(());
        }
        Err(refusal::denied(
            "the property license-ledger-at-ms needs an API key with the scope ledger:append",
        ))
    }

    /// Appending to this stream.
    pub(super) fn may_append(&self, stream: &StreamName) -> Result<(), Status> {
        if self.0.may(Scope::LedgerAppend) {
            return Ok(());
        }
        if !stream.is_users() {
            return Err(refusal::denied(
                "appending to the service's own streams needs an API key with the scope \
                 ledger:append; streams of your own have names that begin with user-",
            ));
        }
        if self.0.may(Scope::EventsRead) {
            return Ok(());
        }
        Err(refusal::denied("appending needs an API key with the scope events:read"))
    }
}
