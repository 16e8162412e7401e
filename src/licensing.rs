//! The use cases: what devices and back ends ask of the ledger.
//!
//! One challenge in a straight line: [`Licensing::verify`] turns bytes into a request whose sender
//! is proven; [`Licensing::answer`] prepares all that can fail, decides on the device's state,
//! appends at the revision that was read, and only then seals and signs. A conflict is decided
//! again. A crash after the append is harmless: the device asks again and gets what it was granted.

mod acknowledge;
mod acquire;
mod binding;
mod clearkey;
mod commit;
mod decide;
mod delete;
mod elsewhere;
mod identities;
mod key_types;
mod metrics;
mod once;
mod outside;
mod overrides;
mod pins;
mod policy;
mod register;
mod reserve;
mod revocation;
mod sealing;
mod standing;
mod subject;
mod support;
#[cfg(test)]
mod tests;
mod void;

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Clock;
use crate::domain::quota::{InvalidPolicy, QuotaPolicy};
use crate::domain::{Digest, Identity, ReferenceKey};
use crate::entitlement::{Entitlement, KeyFailure, NotEntitled};
use crate::keys::Keys;
use crate::ledger::codec::CodecError;
use crate::ledger::state::{Deciding, StateError};
use crate::ledger::{AppendError, InvalidStreamName, Ledger, ReadError};
use crate::playready::acquire::ResponseSigner;
use crate::playready::challenge::{Message, VerifiedChallenge, Verifier};
use crate::playready::ecc::PublicKey;
use crate::playready::revocation::Revocation;
use crate::playready::soap::{Fault, FaultCode, Refusal};

pub use crate::clearkey::{LicenseFormat, RequestFormat};
pub use clearkey::{ClearKeyLicense, ClearKeyRefused, ClearKeyRequest};
pub use decide::{Decision, DecisionCounted, DecisionInUse, DecisionRule, Question};
pub use elsewhere::{IssuedElsewhere, IssuedLicense, RecordedLicenses, RecordedWord, Told};
pub use metrics::Metrics;
pub use once::{CommandAnswer, CommandError, Once};
pub use overrides::{Holder, LimitSet, OverrideRefused};
pub use pins::{BEGINNINGS, PinError, PinnedKey, Pins, compare as compare_keys};
pub use policy::{Act, Policies, PolicyVersion, PublishError};
pub use register::{KeyPage, KeyRow, RegisterError, Registered, Registry, Unknown};
pub use reserve::{NoReservation, Reservation};
pub use revocation::TakenLists;
pub use standing::Standing;
pub use support::{
    Blocked, Fate, Linked, Succession, SupportRefused, TakenOver, WrittenOff, WrittenOffLicense,
};

/// A use case failed for a reason that is not the caller's.
#[derive(Debug, thiserror::Error)]
pub enum LicensingError {
    /// The ledger did not take the events.
    #[error("the ledger did not take the events")]
    Append(#[from] AppendError),
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Read(#[from] ReadError),
    /// The state for deciding failed.
    #[error("the state for deciding failed")]
    State(#[from] StateError),
    /// An event cannot be read or written.
    #[error("an event cannot be read or written")]
    Codec(#[from] CodecError),
    /// The quota policy to publish contradicts itself.
    #[error("the quota policy cannot be published")]
    Policy(#[from] InvalidPolicy),
    /// A stream's name is out of form.
    #[error("a stream's name is out of form")]
    StreamName(#[from] InvalidStreamName),
    /// A stream holds what it should not.
    #[error("stream {stream} holds {kind} where it should not")]
    Stream {
        /// The stream.
        stream: String,
        /// The type tag found.
        kind: &'static str,
    },
    /// What the ledger says of a license does not let it be sealed again.
    #[error("license {license} cannot be sealed: {reason}")]
    Seal {
        /// The license.
        license: String,
        /// Why.
        reason: &'static str,
    },
    /// The key of a KID cannot be had.
    #[error("a key cannot be had")]
    Key(#[from] KeyFailure),
    /// Others kept winning the race for the same device.
    #[error("too many others decide about the same device at once")]
    Contended,
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness")]
    Random,
    /// The service stops, or what was to be done panicked.
    #[error("it was ended before it was done")]
    Ended,
}

impl LicensingError {
    /// Whether trying again later can help: the ledger takes no appends or cannot be reached, or too
    /// many race.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Append(AppendError::Unavailable(_) | AppendError::Unknown(_))
            | Self::Contended
            | Self::Ended => true,
            Self::Read(error) | Self::State(StateError::Ledger(error)) => error.is_passing(),
            _ => false,
        }
    }
}

/// What the use cases work with.
pub struct Parts {
    /// The event log.
    pub ledger: Arc<Ledger>,
    /// The state for deciding, kept for the same log.
    pub deciding: Arc<Deciding>,
    /// Content keys and seeds.
    pub keys: Arc<Keys>,
    /// Verifies challenges.
    pub verifier: Verifier,
    /// The root that chains are verified up to; named in evidence.
    pub root: PublicKey,
    /// Signs responses.
    pub signer: ResponseSigner,
    /// The revocation lists to begin with, if there are any.
    pub revocation: Option<Revocation>,
    /// Turns external ids into references.
    pub reference_key: ReferenceKey,
    /// Says what may be issued.
    pub entitlement: Entitlement,
    /// The time.
    pub clock: Clock,
    /// Seeds the quota policy of an empty ledger.
    pub quota: QuotaPolicy,
    /// For how long the same challenge gets the same licenses again.
    pub replay_window_ms: i64,
}

/// The use cases. Shared between threads behind an `Arc`.
pub struct Licensing {
    ledger: Arc<Ledger>,
    deciding: Arc<Deciding>,
    keys: Arc<Keys>,
    verifier: Verifier,
    root_digest: Digest,
    signer: ResponseSigner,
    revocation: revocation::RevocationInForce,
    entitlement: Entitlement,
    clock: Clock,
    policy: policy::PolicyInForce,
    identities: identities::Identities,
    reference_key: ReferenceKey,
    replay_window_ms: i64,
    in_flight: once::InFlight,
    metrics: Metrics,
}

/// A request whose sender is proven.
pub struct Request(VerifiedChallenge);

/// How a request came, beside its body.
#[derive(Clone, Copy, Default)]
pub struct Posted<'a> {
    /// The query string of its URL.
    pub query: &'a str,
    /// The credentials of its `Authorization: Bearer` header.
    pub bearer: Option<&'a str>,
    /// The address it came from.
    pub ip: Option<IpAddr>,
    /// Names it in the metadata of its events.
    pub correlation: &'a str,
}

/// What is sent back to a device.
#[derive(Debug)]
pub struct Reply {
    /// The SOAP document.
    pub body: Vec<u8>,
    /// Whether it is a fault.
    pub is_fault: bool,
    /// What happened, for the log; never sent.
    pub detail: Option<String>,
    /// How many events the ledger had when the answer's own were part of it; `None` if it has
    /// none of its own.
    pub position: Option<u64>,
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        Self {
            body: fault.render(),
            is_fault: true,
            detail: Some(fault.to_string()),
            position: None,
        }
    }
}

impl Request {
    /// Who sent it.
    pub fn identity(&self) -> Identity {
        Identity(Digest(*self.0.sender().identity()))
    }

    /// The operation's name, as the protocol has it.
    pub fn operation(&self) -> &'static str {
        self.0.message().operation().name()
    }
}

/// What a device gets.
pub(crate) struct Answer {
    body: Vec<u8>,
    position: Option<u64>,
}

/// Why a device does not get what it asked for.
pub(crate) enum Denied {
    /// An answer of the protocol.
    Fault(Fault),
    /// A failure of ours.
    Failed(LicensingError),
}

impl<E: Into<LicensingError>> From<E> for Denied {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Fault(Fault::refused(refusal))
    }
}

impl From<NotEntitled> for Denied {
    fn from(not_entitled: NotEntitled) -> Self {
        match not_entitled {
            NotEntitled::Fault(fault) => Self::Fault(fault),
            NotEntitled::Failed(failure) => Self::Failed(failure.into()),
        }
    }
}

impl Licensing {
    /// Puts the parts together; publishes the configured quota policy if the ledger has none.
    pub async fn new(parts: Parts) -> Result<Self, LicensingError> {
        let now = parts.clock.now();
        let policy = policy::PolicyInForce::open(&parts.ledger, &parts.quota, now.0).await?;
        let metrics = Metrics::default();
        if let Some(lists) = &parts.revocation {
            metrics.revocation_in_force(lists.sequence(), lists.issued_at_s());
        }
        Ok(Self {
            policy,
            identities: identities::Identities::new(parts.reference_key.clone()),
            root_digest: Digest::of(parts.root.xy()),
            ledger: parts.ledger,
            deciding: parts.deciding,
            keys: parts.keys,
            verifier: parts.verifier,
            signer: parts.signer,
            revocation: revocation::RevocationInForce::new(parts.revocation),
            entitlement: parts.entitlement,
            clock: parts.clock,
            reference_key: parts.reference_key,
            replay_window_ms: parts.replay_window_ms,
            in_flight: once::InFlight::default(),
            metrics,
        })
    }

    /// Who says what may be issued.
    pub fn entitlement(&self) -> &Entitlement {
        &self.entitlement
    }

    /// Figures of what was granted, refused and deleted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Verifies a request body: signature, chain, decryption, fields. Changes nothing.
    pub fn verify(&self, body: &[u8]) -> Result<Request, Reply> {
        let now_s = u64::try_from(self.clock.now().seconds()).unwrap_or_default();
        self.verifier.verify(body, now_s).map(Request).map_err(|fault| {
            self.metrics.rejected();
            fault.into()
        })
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request, posted: Posted<'_>) -> Reply {
        let challenge = &request.0;
        let answer = match challenge.message() {
            Message::Acquire(message) => self.acquire(challenge, message, posted).await,
            Message::Acknowledge(message) => {
                self.acknowledge(challenge, message, posted.correlation).await
            }
            Message::Delete(message) => self.delete(challenge, message, posted.correlation).await,
        };
        match answer {
            Ok(Answer { body, position }) => {
                Reply { body, is_fault: false, detail: None, position }
            }
            Err(Denied::Fault(fault)) => fault.into(),
            Err(Denied::Failed(error)) => {
                tracing::error!(%error, cause = cause_of(&error), "a request failed: {error}");
                Fault::new(FaultCode::Internal, error).into()
            }
        }
    }
}

/// The innermost cause of an error.
fn cause_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// Fills an array with randomness of the operating system.
fn random_bytes<const N: usize>() -> Result<[u8; N], LicensingError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| LicensingError::Random)?;
    Ok(bytes)
}
