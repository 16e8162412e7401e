//! What a call that fails is answered with.

use prost::Message;
use tonic::{Code, Status};

use crate::access::TooFast;
use crate::kurrent_protocol::status::{Any, Status as RpcStatus};
use crate::ledger::{AppendError, InvalidStreamName, ReadError};

pub(super) fn unauthenticated() -> Status {
    Status::unauthenticated("send an API key as the password of basic credentials, over TLS")
}

pub(super) fn denied(reason: &str) -> Status {
    Status::permission_denied(reason)
}

pub(super) fn too_fast(reason: &TooFast) -> Status {
    Status::resource_exhausted(reason.to_string())
}

pub(super) fn overloaded() -> Status {
    Status::resource_exhausted("too many calls are being worked on; try again in a second")
}

pub(super) fn stopping() -> Status {
    Status::unavailable("the server is shutting down; connect again")
}

pub(super) fn late() -> Status {
    Status::deadline_exceeded("the deadline has passed; the outcome of an append is not known")
}

pub(super) fn never_deleted() -> Status {
    Status::failed_precondition(
        "this ledger removes no events, so streams are neither deleted nor tombstoned",
    )
}

/// Something is wrong with the request itself.
pub(super) fn invalid(reason: impl Into<String>) -> Status {
    Status::invalid_argument(reason)
}

pub(super) fn stream_name(error: InvalidStreamName) -> Status {
    invalid(error.to_string())
}

pub(super) fn read(error: &ReadError) -> Status {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the ledger cannot be read for a client of the KurrentDB protocol"
    );
    Status::unavailable("the ledger cannot be read; try again later")
}

/// An append that failed for another reason than a conflict.
pub(super) fn append(error: &AppendError) -> Status {
    let message = error.to_string();
    match error {
        AppendError::Invalid(reason) => invalid(reason.to_string()),
        AppendError::IdReused { .. } => Status::already_exists(message),
        AppendError::Conflict { .. } => Status::failed_precondition(message),
        AppendError::Unavailable(cause) => Status::unavailable(format!("{message}: {cause}")),
        AppendError::Unknown(_) => Status::unknown(message),
    }
}

/// A refusal with details for programs.
pub(super) fn detailed(code: Code, message: &str, detail: Any) -> Status {
    // Clients refuse details whose code and message are not those of the call.
    let details =
        RpcStatus { code: code.into(), message: message.to_owned(), details: vec![detail] };
    Status::with_details(code, message, details.encode_to_vec().into())
}
