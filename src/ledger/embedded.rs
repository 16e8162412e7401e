//! The event log in one directory of one machine.
//!
//! ```text
//! ledger.db       SQLite: streams, events, index tables (`migrations/ledger`)
//! ledger.db-wal   the write-ahead log: a commit is an fsync of this file
//! ledger.db-shm   what the connections share
//! ledger.lock     locked by the one process that writes
//! ```
//!
//! # An append
//!
//! `append` puts its records into a bounded queue and waits. One thread takes everything that waits
//! (`queue`), decides each append on the state that those before it left, writes all of it in one
//! transaction with `synchronous=FULL` (`log`), and answers when that is on disk: 64 writers share
//! one fsync. A failed fsync stops that thread for good, because nobody can tell what is on disk;
//! a full disk refuses the group and nothing else.
//!
//! Only `events` grows with every append, at its end. What has to be found by stream or by id stands
//! in memory first and is filed in sorted runs (`unfiled`), or else the pages of two indexes in
//! random order would cost ten times what the events do.
//!
//! # A read
//!
//! Reads are plain functions on a small pool of connections (`reader`): a head or one event takes
//! microseconds. They see what is committed, never less than what an answer has told.

mod gathering;
mod heads;
mod log;
pub(super) mod open;
mod queue;
mod reader;
#[cfg(test)]
mod tests;
mod unfiled;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use self::heads::Heads;
use self::log::Log;
pub use self::open::OpenError;
use self::open::Opened;
use self::queue::{Pending, Queue};
use self::reader::{Follower, Reader};
use self::writer::{Followers, Writer};
use super::append::{Append, AppendError, Appended, Cause, ReadError, Unavailable};
use super::event::{Recorded, StreamName};
use super::recent::{Recent, Slot};

/// The embedded engine. See the [module](self).
pub struct Embedded {
    reader: Reader,
    tail: watch::Receiver<Option<u64>>,
    recent: Arc<Recent>,
    writer: Option<Writer>,
    /// Closed last: closing it drops the locks that SQLite holds on the same file.
    _database: Option<Arc<File>>,
}

/// The sizes of the engine. The defaults suit a ledger of ten million events.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many appends may wait; the next one is refused at once.
    pub queue_appends_max: usize,
    /// How many bytes the waiting appends may hold together.
    pub queue_bytes_max: usize,
    /// How many reads run at the same time.
    pub read_connections: usize,
    /// The page cache of the writer, in KiB.
    pub cache_kib: u32,
    /// How many stream heads are remembered in each of two generations (about 150 bytes each).
    pub heads_max: usize,
    /// How many events a run of the index in memory holds (about 120 bytes each, two runs).
    pub run_events: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_appends_max: 4096,
            queue_bytes_max: 64 << 20,
            read_connections: 4,
            cache_kib: 64 << 10,
            heads_max: 32 << 10,
            run_events: 64 << 10,
        }
    }
}

impl Embedded {
    /// Opens the event log in `dir` for writing, and makes one if there is none. Directory and files
    /// are made for their owner only (0700, 0600).
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let storage = |source: Cause| OpenError::Storage { dir: dir.into(), source };
        let sqlite = |error| storage(Arc::new(error));
        let (opened, lock) = open::open(dir, options.cache_kib)?;
        let Opened { connection, database, unfiled, next_sequence, .. } = opened;
        let heads = Arc::new(Heads::new(options.heads_max));
        let (connections, known) = (options.read_connections, Some(Arc::clone(&heads)));
        let reader = Reader::open(&database, connections, Arc::clone(&unfiled), known, None);
        let reader = reader.map_err(sqlite)?;
        let checkpointer = open::connect_checkpointer(&database).map_err(sqlite)?;
        let file = Arc::new(File::open(&database).map_err(|error| storage(Arc::new(error)))?);
        let log = Log::new(connection, heads, unfiled, next_sequence, &options);
        let queue = Arc::new(Queue::new(options.queue_appends_max, options.queue_bytes_max));
        let (sender, tail) = watch::channel(log.last_sequence());
        let recent = Arc::new(Recent::default());
        let follow = Followers { recent: Arc::clone(&recent), tail: sender };
        let writer = Writer::start(log, checkpointer, Arc::clone(&file), lock, queue, follow)
            .map_err(|error| storage(Arc::new(error)))?;
        Ok(Self { reader, tail, recent, writer: Some(writer), _database: Some(file) })
    }

    /// Opens the event log in `dir` for reading, also while another process writes to it.
    pub fn open_read_only(dir: &Path) -> Result<Self, OpenError> {
        let opened = open::open_read_only(dir)?;
        let Opened { database, unfiled, next_sequence, filed_through, .. } = opened;
        let follower = Follower { next_sequence, filed_through };
        let connections = Options::default().read_connections;
        let reader = Reader::open(&database, connections, unfiled, None, Some(follower));
        let reader = reader
            .map_err(|error| OpenError::Storage { dir: dir.into(), source: Arc::new(error) })?;
        let (_, tail) = watch::channel(next_sequence.checked_sub(1));
        Ok(Self { reader, tail, recent: Arc::default(), writer: None, _database: None })
    }

    /// Makes sure that there is something in `dir` that may be an event log, and leaves it alone.
    pub fn require(dir: &Path) -> Result<(), OpenError> {
        open::require(dir)
    }

    /// See [`Ledger::append`](super::Ledger::append).
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.validate()?;
        let unavailable = |reason| Err(AppendError::Unavailable(reason));
        let Some(writer) = &self.writer else {
            return unavailable(Unavailable::ReadOnly);
        };
        let (reply, answer) = oneshot::channel();
        if let Err(reason) = writer.queue.push(Pending { append, reply }) {
            return unavailable(reason);
        }
        // No answer: the writer panicked while it had this append in its hands.
        answer.await.unwrap_or_else(|gone| Err(AppendError::Unknown(Arc::new(gone))))
    }

    /// See [`Ledger::head`](super::Ledger::head).
    pub fn head(&self, stream: &StreamName) -> Result<Option<u64>, ReadError> {
        self.reader.head(stream)
    }

    /// See [`Ledger::last_sequence`](super::Ledger::last_sequence).
    pub fn last_sequence(&self) -> Result<Option<u64>, ReadError> {
        self.reader.last_sequence()
    }

    /// See [`Ledger::read_stream`](super::Ledger::read_stream).
    pub fn read_stream(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.reader.read_stream(stream, from_revision, limit)
    }

    /// See [`Ledger::read_stream_backwards`](super::Ledger::read_stream_backwards).
    pub fn read_stream_backwards(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        self.reader.read_stream_backwards(stream, from_revision, limit)
    }

    /// See [`Ledger::read_all`](super::Ledger::read_all).
    pub fn read_all(&self, from: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.reader.read_all(from, limit)
    }

    /// See [`Ledger::read_all_backwards`](super::Ledger::read_all_backwards).
    pub fn read_all_backwards(&self, from: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.reader.read_all_backwards(from, limit)
    }

    /// See `Ledger::recent`.
    pub(super) fn recent(&self, from: u64, limit: usize) -> Option<Vec<Arc<Slot>>> {
        self.recent.from(from, limit)
    }

    /// See [`Ledger::subscribe`](super::Ledger::subscribe).
    pub fn subscribe(&self) -> watch::Receiver<Option<u64>> {
        self.tail.clone()
    }

    /// See [`Ledger::close`](super::Ledger::close).
    pub async fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.queue.close();
            let mut tail = self.tail.clone();
            // The writer drops its end as its last act.
            while tail.changed().await.is_ok() {}
        }
    }
}
