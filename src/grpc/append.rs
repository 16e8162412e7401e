//! Appends of clients, turned into the one primitive of the ledger.
//!
//! The ledger stores nothing without a check for each stream that it writes. For a stream of which a
//! client expects nothing, or only that it is there, the check is its head; when another append comes
//! first, the head is read again. What was stored before under the same ids is found by the ledger.

mod batch;
mod records;
mod single;

pub(super) use batch::batch_append;
pub(super) use records::append_records;
pub(super) use single::append;

use tonic::Status;

use super::dispatch::Call;
use super::refusal;
use crate::kurrent_protocol::shared::Expectation;
use crate::ledger::{Append, AppendError, Appended, Expected, NewEvent, StreamName};

/// What has to hold of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    NoStream,
    At(u64),
    Exists,
    Any,
}

impl From<Expectation> for Wanted {
    fn from(expectation: Expectation) -> Self {
        match expectation {
            Expectation::Revision(revision) => Self::At(revision),
            Expectation::NoStream(()) => Self::NoStream,
            Expectation::Any(()) => Self::Any,
            Expectation::StreamExists(()) => Self::Exists,
        }
    }
}

impl Wanted {
    /// What the ledger has to check of a stream whose head is `head`.
    fn check(self, head: Option<u64>) -> Expected {
        match self {
            Self::NoStream => Expected::NoStream,
            Self::At(revision) => Expected::At(revision),
            Self::Any => Expected::at_head(head),
            // Where there is no stream, this does not hold, or by then there is one.
            Self::Exists => Expected::At(head.unwrap_or(0)),
        }
    }

    fn holds(self, head: Option<u64>) -> bool {
        match self {
            Self::NoStream => head.is_none(),
            Self::At(revision) => head == Some(revision),
            Self::Exists => head.is_some(),
            Self::Any => true,
        }
    }

    /// Whether the ledger's check depends on the head.
    fn follows_head(self) -> bool {
        matches!(self, Self::Any | Self::Exists)
    }
}

/// Events that are stored together or not at all, and what has to hold of streams: one entry for each
/// stream that is written, and for others.
struct Order {
    records: Vec<(StreamName, NewEvent)>,
    wanted: Vec<(StreamName, Wanted)>,
}

/// How an append went.
enum Outcome {
    Stored(Appended),
    /// Which of the wanted do not hold, and the heads of their streams. All that hold may be named
    /// once: where only some of the events are stored already.
    Conflict(Vec<(usize, Option<u64>)>),
}

/// Appends, and again when others came first to streams of which no revision is expected. The caller
/// is known to have the right.
async fn store(call: &Call, order: Order) -> Result<Outcome, Status> {
    for _ in 0..ATTEMPTS_MAX {
        let checks = checks(call, &order).await?;
        let append = Append { records: order.records.clone(), checks };
        match call.shared.ledger.append_knowing_outcome(append).await {
            Ok(appended) => return Ok(Outcome::Stored(appended)),
            Err(AppendError::Conflict { stream, expected, actual }) => {
                let violated = violated(call, &order).await?;
                if !violated.is_empty() {
                    return Ok(Outcome::Conflict(violated));
                }
                // Some of the events are stored already, so the rest never will be.
                if expected.holds(actual) {
                    let named = order.wanted.iter().position(|(wanted, _)| *wanted == stream);
                    return Ok(Outcome::Conflict(vec![(named.unwrap_or(0), actual)]));
                }
            }
            Err(error) => return Err(refusal::append(&error)),
        }
    }
    Err(Status::aborted("others write to the same streams all the time; try again"))
}

async fn checks(call: &Call, order: &Order) -> Result<Vec<(StreamName, Expected)>, Status> {
    let mut checks = Vec::with_capacity(order.wanted.len());
    for (stream, wanted) in &order.wanted {
        let head = if wanted.follows_head() { head(call, stream).await? } else { None };
        checks.push((stream.clone(), wanted.check(head)));
    }
    Ok(checks)
}

/// What does not hold, with the heads of the streams.
async fn violated(call: &Call, order: &Order) -> Result<Vec<(usize, Option<u64>)>, Status> {
    let mut violated = Vec::new();
    for (index, (stream, wanted)) in order.wanted.iter().enumerate() {
        let head = head(call, stream).await?;
        if !wanted.holds(head) {
            violated.push((index, head));
        }
    }
    Ok(violated)
}

async fn head(call: &Call, stream: &StreamName) -> Result<Option<u64>, Status> {
    call.shared.ledger.head(stream).await.map_err(|error| refusal::read(&error))
}

/// More than enough for streams that many write to: each attempt fails only because another append
/// succeeded.
const ATTEMPTS_MAX: usize = 256;
