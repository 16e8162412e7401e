//! The one primitive of the ledger: what goes into an append, and what comes out.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;

use uuid::Uuid;

use super::event::{Cursor, Expected, NewEvent, Recorded, StreamName};

/// Events that are stored together or not at all, and the heads they depend on.
///
/// Every stream that is written needs a check; streams that were only read may be checked as well.
/// A check holds for the stream as it is before the append. Several records may go to one stream:
/// they get consecutive revisions in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The events, in the order in which they will stand in the log.
    pub records: Vec<(StreamName, NewEvent)>,
    /// What each stream's head must be, each stream at most once.
    pub checks: Vec<(StreamName, Expected)>,
}

impl Append {
    /// The most records of one append; a request of the service makes a few dozen at most.
    pub const RECORDS_MAX: usize = 1024;
    /// The most checks of one append: one for every record's stream, and as many only read.
    pub const CHECKS_MAX: usize = 2 * Self::RECORDS_MAX;
    /// The most that all records hold together, in bytes.
    pub const BYTES_MAX: usize = 16 << 20;

    /// Checks everything that can be checked without looking at the log.
    pub fn validate(&self) -> Result<(), InvalidAppend> {
        if self.records.is_empty() {
            return Err(InvalidAppend::NoRecord);
        }
        if self.records.len() > Self::RECORDS_MAX {
            return Err(InvalidAppend::TooManyRecords);
        }
        if self.checks.len() > Self::CHECKS_MAX {
            return Err(InvalidAppend::TooManyChecks);
        }
        if self.size_bytes() > Self::BYTES_MAX {
            return Err(InvalidAppend::TooLarge);
        }
        let checked = self.checked_streams()?;
        let mut ids = HashSet::with_capacity(self.records.len());
        for (stream, event) in &self.records {
            if !checked.contains(stream) {
                return Err(InvalidAppend::Unchecked { stream: stream.clone() });
            }
            if !ids.insert(event.id) {
                return Err(InvalidAppend::RepeatedId { id: event.id });
            }
            if event.kind.is_empty() || event.kind.len() > NewEvent::KIND_BYTES_MAX {
                return Err(InvalidAppend::Kind { id: event.id });
            }
            if event.data.len() + event.metadata.len() > NewEvent::BYTES_MAX {
                return Err(InvalidAppend::EventTooLarge { id: event.id });
            }
        }
        Ok(())
    }

    /// The bytes that all records bring along.
    pub fn size_bytes(&self) -> usize {
        self.records.iter().map(|(_, event)| event.size_bytes()).sum()
    }

    fn checked_streams(&self) -> Result<HashSet<&StreamName>, InvalidAppend> {
        let mut checked = HashSet::with_capacity(self.checks.len());
        for (stream, _) in &self.checks {
            if !checked.insert(stream) {
                return Err(InvalidAppend::CheckedTwice { stream: stream.clone() });
            }
        }
        Ok(checked)
    }
}

/// Where the events of an append stand in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The place of the last event.
    pub cursor: Cursor,
    /// The sequence of the first event.
    pub first_sequence: u64,
    /// The sequence of the last event. The events of one append stand side by side, unless they
    /// were stored already by more than one earlier append.
    pub last_sequence: u64,
    /// The revision of the last event in each stream that was written, in order of first mention.
    pub revisions: Vec<(StreamName, u64)>,
    /// Whether all events were there before: nothing was stored, and the positions are theirs. Of
    /// processes that send the same append to a cluster at the same moment, several may be told that
    /// they stored it: then it holds just what each of them sent.
    pub already_stored: bool,
}

impl Appended {
    /// Sums up where each of the records went, as (stream, revision, sequence). The
    /// cursor is that of an engine whose cursors are sequences.
    pub(super) fn summarize(
        places: impl IntoIterator<Item = (StreamName, u64, u64)>,
        already_stored: bool,
    ) -> Self {
        let mut revisions: Vec<(StreamName, u64)> = Vec::with_capacity(1);
        let (mut first_sequence, mut last_sequence) = (u64::MAX, 0);
        for (stream, revision, sequence) in places {
            first_sequence = first_sequence.min(sequence);
            last_sequence = last_sequence.max(sequence);
            match revisions.iter_mut().find(|(written, _)| *written == stream) {
                Some((_, last)) => *last = revision.max(*last),
                None => revisions.push((stream, revision)),
            }
        }
        let cursor = Cursor::new(last_sequence);
        Self { cursor, first_sequence, last_sequence, revisions, already_stored }
    }

    /// The events of `append`, which this answers, as the log holds them; none if they were there
    /// before.
    pub(super) fn recorded(&self, append: Append) -> Vec<Recorded> {
        if self.already_stored {
            return Vec::new();
        }
        let written = |stream| append.records.iter().filter(|(of, _)| of == stream).count() as u64;
        let mut next: Vec<_> = self
            .revisions
            .iter()
            .map(|(stream, last)| (stream, (last + 1).saturating_sub(written(stream))))
            .collect();
        let records = append.records.into_iter().zip(self.first_sequence..);
        let recorded = records.filter_map(|((stream, event), sequence)| {
            let (_, next) = next.iter_mut().find(|(written, _)| **written == stream)?;
            let (revision, cursor) = (*next, Cursor::new(sequence));
            *next += 1;
            let NewEvent { id, kind, data, metadata } = event;
            Some(Recorded { sequence, cursor, stream, revision, id, kind, data, metadata })
        });
        recorded.collect()
    }
}

/// What an append is answered with.
pub(super) type Answer = Result<Appended, AppendError>;

/// The cause of a failure below the ledger. Shared, because one failed commit fails many appends.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why an append stored nothing, or cannot tell.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A check does not hold, or only some of the events are stored already; then the stream is
    /// the one of an event that is, and `actual` may well be as expected. Nothing was stored.
    /// The caller reads again, looks for its own ids, and decides again.
    #[error("stream {stream} is not at {expected}: another append came first")]
    Conflict {
        /// The stream that is not as expected.
        stream: StreamName,
        /// What the append expected it to be at.
        expected: Expected,
        /// The revision it is at; `None` if it has no event.
        actual: Option<u64>,
    },
    /// An event of this id is stored with another stream, kind or data. Nothing was stored. The
    /// caller's fault: ids name facts.
    #[error("event id {id} is already stored with another stream, kind or data")]
    IdReused {
        /// The id.
        id: Uuid,
    },
    /// Nothing was stored. The same append may be tried again later.
    #[error("the event log takes no appends at present")]
    Unavailable(#[source] Unavailable),
    /// The events may be stored or not. The same ids with the same checks find out.
    #[error("the outcome of the append is not known: send it again, unchanged")]
    Unknown(#[source] Cause),
    /// The append can never be stored. The caller's fault.
    #[error("the append is not well formed")]
    Invalid(#[from] InvalidAppend),
}

/// Why the log takes no appends.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// More appends are waiting than the queue holds: the callers are faster than the disk.
    #[error("too many appends are waiting")]
    QueueFull,
    /// The log is closing or closed.
    #[error("the event log is closed")]
    Closed,
    /// The log was opened for reading only.
    #[error("the event log was opened for reading only")]
    ReadOnly,
    /// A commit failed earlier. What is on disk is only known after a new start.
    #[error("an earlier commit failed: check the disk and start the service again")]
    Stopped,
    /// The cluster that keeps the log cannot be reached, or has no leader.
    #[error("the event log cannot be reached")]
    Unreachable(#[source] Cause),
    /// The server that keeps the log refuses for a reason of its own, for example missing rights.
    #[error("the server of the event log refused the append: check its log and our credentials")]
    Refused(#[source] Cause),
    /// The storage refused, for example because the disk is full. Nothing was stored.
    #[error("the storage refused the append: check for free space")]
    Storage(#[source] Cause),
}

/// What is wrong with an append before the log is even looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAppend {
    /// There is nothing to append.
    #[error("an append needs a record")]
    NoRecord,
    /// More than [`Append::RECORDS_MAX`].
    #[error("an append must not hold more than {} records", Append::RECORDS_MAX)]
    TooManyRecords,
    /// More than [`Append::CHECKS_MAX`].
    #[error("an append must not hold more than {} checks", Append::CHECKS_MAX)]
    TooManyChecks,
    /// More than [`Append::BYTES_MAX`].
    #[error("an append must not hold more than {} bytes", Append::BYTES_MAX)]
    TooLarge,
    /// A stream is written without a check.
    #[error("stream {stream} is written without a check")]
    Unchecked {
        /// The stream.
        stream: StreamName,
    },
    /// A stream has two checks.
    #[error("stream {stream} is checked twice")]
    CheckedTwice {
        /// The stream.
        stream: StreamName,
    },
    /// Two records have the same id.
    #[error("event id {id} comes twice in one append")]
    RepeatedId {
        /// The id.
        id: Uuid,
    },
    /// An event's kind is empty or longer than [`NewEvent::KIND_BYTES_MAX`].
    #[error("the kind of event {id} must have 1 to {} bytes", NewEvent::KIND_BYTES_MAX)]
    Kind {
        /// The event's id.
        id: Uuid,
    },
    /// An event's data and metadata are larger than [`NewEvent::BYTES_MAX`].
    #[error("data and metadata of event {id} must not exceed {} bytes", NewEvent::BYTES_MAX)]
    EventTooLarge {
        /// The event's id.
        id: Uuid,
    },
}

/// The log could not be read: the storage failed, or holds what was never written; or the cluster
/// that keeps it cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the event log could not be read")]
pub struct ReadError {
    #[source]
    cause: Cause,
    is_passing: bool,
}

impl ReadError {
    /// A failure that is there to stay.
    pub(super) fn lasting(cause: Cause) -> Self {
        Self { cause, is_passing: false }
    }

    /// A failure that the same read may not meet again.
    pub(super) fn passing(cause: Cause) -> Self {
        Self { cause, is_passing: true }
    }

    /// Whether reading again later can help.
    pub fn is_passing(&self) -> bool {
        self.is_passing
    }
}
