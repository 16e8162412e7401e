//! The event log: append with checks, read, tail.
//!
//! One primitive, the same for every engine:
//!
//! ```text
//! append(records: [(stream, event)], checks: [(stream, NoStream | At(revision))])
//!   -> Appended | Conflict | IdReused | Unavailable | Unknown | Invalid
//! ```
//!
//! An append is atomic over all streams it names, written or only checked, and it is durable before
//! it is answered. It is never without a check for a stream it writes, so the state that a decision
//! was made on is the state it is stored on.
//!
//! **An id names a fact.** If all events of an append are stored already, with the same streams,
//! kinds and data, it succeeds with their positions, even if its checks fail by then: whoever does
//! not know the outcome of an append sends it again, unchanged. If only some of them are, it is a
//! conflict. An id that is stored with another stream, kind or data is an error.
//!
//! **Three numbers.** `sequence` is the place in the whole log and `revision` the place in one
//! stream, both gapless from 0. A reader that has seen sequence N has seen all before N. A
//! [`Cursor`] is the place as the outside sees it.
//!
//! The engines deal in bytes: data is stored verbatim and never looked into. [`codec`] says what the
//! bytes mean, [`tail`] follows the log, and [`state`] is what decisions are made on. [`users`] sets
//! the streams apart that are not ours. [`copy`](mod@copy) brings a log from one engine to another.

mod append;
pub mod codec;
#[cfg(test)]
mod contract;
pub mod copy;
pub mod embedded;
mod event;
pub mod kurrent;
mod recent;
pub mod sqlite;
pub mod state;
pub mod tail;
pub mod users;

use std::sync::Arc;

use tokio::sync::watch;

pub use self::append::{
    Append, AppendError, Appended, Cause, InvalidAppend, ReadError, Unavailable,
};
pub use self::embedded::Embedded;
pub use self::event::{
    Cursor, Expected, InvalidCursor, InvalidStreamName, NewEvent, Recorded, StreamName,
};
pub use self::kurrent::Kurrent;
use self::recent::Slot;

/// An event log, whichever engine keeps it.
///
/// Appends wait for the disk, and reads of a cluster for the network. Reads of the embedded engine
/// are short enough, microseconds for a head or a single event, to be called from a worker thread
/// directly.
pub enum Ledger {
    /// One directory on this machine.
    Embedded(Embedded),
    /// A KurrentDB cluster, which other processes write to as well.
    Kurrent(Kurrent),
}

impl Ledger {
    /// Stores the records if all checks hold. See the [module](self) for what that means when events
    /// are stored already.
    ///
    /// What can be done to learn an outcome that is not known has been done: the embedded engine takes
    /// no more appends then, and a cluster was sent the same again for as long as a request may wait.
    ///
    /// Dropping the future does not take the append back.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        match self {
            Self::Embedded(engine) => engine.append(append).await,
            Self::Kurrent(engine) => engine.append(append).await,
        }
    }

    /// The revision of the last event of a stream; `None` if it has none.
    pub async fn head(&self, stream: &StreamName) -> Result<Option<u64>, ReadError> {
        match self {
            Self::Embedded(engine) => engine.head(stream),
            Self::Kurrent(engine) => engine.head(stream).await,
        }
    }

    /// The sequence of the last event in the log; `None` if it is empty.
    pub async fn last_sequence(&self) -> Result<Option<u64>, ReadError> {
        match self {
            Self::Embedded(engine) => engine.last_sequence(),
            Self::Kurrent(engine) => engine.last_sequence().await,
        }
    }

    /// At most `limit` events of a stream from `from_revision` on, oldest first. Fewer only if the
    /// stream ends.
    pub async fn read_stream(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        match self {
            Self::Embedded(engine) => engine.read_stream(stream, from_revision, limit),
            Self::Kurrent(engine) => engine.read_stream(stream, from_revision, limit).await,
        }
    }

    /// At most `limit` events of a stream from `from_revision` down, that one included, newest first.
    /// `u64::MAX` begins at the head.
    pub async fn read_stream_backwards(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        match self {
            Self::Embedded(engine) => engine.read_stream_backwards(stream, from_revision, limit),
            Self::Kurrent(engine) => {
                engine.read_stream_backwards(stream, from_revision, limit).await
            }
        }
    }

    /// At most `limit` events of the whole log from sequence `from` on, oldest first. Fewer only if
    /// the log ends.
    pub async fn read_all(&self, from: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        match self {
            Self::Embedded(engine) => engine.read_all(from, limit),
            Self::Kurrent(engine) => engine.read_all(from, limit).await,
        }
    }

    /// At most `limit` events of the whole log from sequence `from` down, that one included, newest
    /// first. `u64::MAX` begins at the end of the log.
    pub async fn read_all_backwards(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        match self {
            Self::Embedded(engine) => engine.read_all_backwards(from, limit),
            Self::Kurrent(engine) => engine.read_all_backwards(from, limit).await,
        }
    }

    /// The sequence up to which everything is committed, and word of each change. Its `changed`
    /// fails once the log takes no more appends.
    ///
    /// A log that was opened for reading only hears nothing of the process that writes: ask
    /// [`Ledger::last_sequence`] at intervals instead.
    pub fn subscribe(&self) -> watch::Receiver<Option<u64>> {
        match self {
            Self::Embedded(engine) => engine.subscribe(),
            Self::Kurrent(engine) => engine.subscribe(),
        }
    }

    /// The facts from sequence `from` on, at most `limit`, if they are among the last committed.
    fn recent(&self, from: u64, limit: usize) -> Option<Vec<Arc<Slot>>> {
        match self {
            Self::Embedded(engine) => engine.recent(from, limit),
            Self::Kurrent(engine) => engine.recent(from, limit),
        }
    }

    /// Whether other processes may append, so that what this one remembers is not all there is.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Kurrent(_))
    }

    /// How many events are in the log and not known here yet, as far as that is known: the places of a
    /// cluster's log are no numbers of events, so that it is estimated from its length.
    pub fn behind(&self) -> u64 {
        match self {
            Self::Embedded(_) => 0,
            Self::Kurrent(engine) => engine.behind(),
        }
    }

    /// What the names of streams begin with that belong to other ledgers in the same cluster. Such a
    /// ledger is known by a stream whose name ends in the first part of one of `marks` and that holds
    /// events of the kind in its second part.
    pub async fn neighbors(&self, marks: &[(&str, &str)]) -> Result<Vec<String>, ReadError> {
        match self {
            Self::Embedded(_) => Ok(Vec::new()),
            Self::Kurrent(engine) => engine.neighbors(marks).await,
        }
    }

    /// Why the log is not to be relied on at present, if so: its cluster is out of reach.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Embedded(_) => None,
            Self::Kurrent(engine) => engine.trouble(),
        }
    }

    /// Commits what was handed in before, and takes no more. When this returns, another process may
    /// open the log for writing. Reads go on.
    pub async fn close(&self) {
        match self {
            Self::Embedded(engine) => engine.close().await,
            Self::Kurrent(engine) => engine.close().await,
        }
    }
}
