//! The two threads behind the appends: one commits, one copies the write-ahead log to the database.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::watch;

use super::gathering::{Gathering, Processors};
use super::log::{Checkpointed, Log, Outcome, checkpoint};
use super::queue::{Pending, Queue};
use crate::ledger::append::Unavailable;
use crate::ledger::recent::Recent;

/// The threads, and the queue in front of them. Dropping it commits what is queued.
pub(super) struct Writer {
    pub(super) queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the threads. `followers` are told of each group once it is durable; they are dropped
    /// when the log is closed and its lock released.
    pub(super) fn start(
        log: Log,
        checkpointer: Connection,
        database: Arc<File>,
        lock: File,
        queue: Arc<Queue>,
        followers: Followers,
    ) -> io::Result<Self> {
        let (checkpoints, due) = sync_channel(1);
        let restart_due = Arc::new(AtomicBool::new(false));
        let restart = Arc::clone(&restart_due);
        let checkpointer = thread::Builder::new()
            .name("ledger-checkpoint".into())
            .spawn(move || copy_write_ahead_log(&checkpointer, &database, &due, &restart))?;
        let committer = Committer {
            queue: Arc::clone(&queue),
            log,
            checkpoints: Some(checkpoints),
            checkpointer: Some(checkpointer),
            restart_due,
            uncopied_bytes: 0,
            _lock: lock,
            followers,
        };
        let thread =
            thread::Builder::new().name("ledger-commit".into()).spawn(move || committer.run())?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)) })
    }
}

/// Who hears of commits.
pub(super) struct Followers {
    /// Holds the events.
    pub(super) recent: Arc<Recent>,
    /// Holds the sequence of the last one.
    pub(super) tail: watch::Sender<Option<u64>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that commits to the event log panicked");
        }
    }
}

/// What the committing thread owns. The order matters when it is dropped: the database is closed
/// before the lock is released, and whoever waits for the end of the tail finds both done.
struct Committer {
    queue: Arc<Queue>,
    log: Log,
    checkpoints: Option<SyncSender<()>>,
    checkpointer: Option<JoinHandle<()>>,
    restart_due: Arc<AtomicBool>,
    uncopied_bytes: usize,
    _lock: File,
    followers: Followers,
}

impl Committer {
    fn run(mut self) {
        let (mut gathering, mut processors) = (Gathering::new(), Processors::new());
        while let Some(group) = self.queue.take(gathering.wanted()) {
            let appends = group.len();
            gathering.took(appends, processors.are_busy());
            let bytes: usize = group.iter().map(|pending| pending.append.size_bytes()).sum();
            if !self.commit(group) {
                return;
            }
            self.keep_write_ahead_log_short(bytes + appends * OVERHEAD_BYTES);
        }
        self.bring_all_to_the_database();
    }

    /// Makes `ledger.db` alone the whole log, as whoever copies it expects. Where that fails nothing
    /// is lost: the next start finds the rest in the write-ahead log.
    fn bring_all_to_the_database(&mut self) {
        self.end_checkpoints();
        match self.log.empty_write_ahead_log() {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("events stay in ledger.db-wal, since the ledger is being read");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "events stay in ledger.db-wal: a checkpoint failed");
            }
        }
    }

    /// Commits a group and answers. Returns whether the log can go on.
    fn commit(&mut self, group: Vec<Pending>) -> bool {
        let appends = group.iter().map(|pending| &pending.append);
        match self.log.write(appends) {
            Outcome::Decided(answers) => {
                let mut replies = Vec::with_capacity(group.len());
                let mut stored = Vec::with_capacity(group.len());
                for (Pending { append, reply }, answer) in group.into_iter().zip(answers) {
                    if let Ok(appended) = &answer {
                        stored.extend(appended.recorded(append));
                    }
                    replies.push((reply, answer));
                }
                self.followers.recent.push(stored);
                self.followers.tail.send_replace(self.log.last_sequence());
                // Nobody may listen any more, and that is fine.
                replies.into_iter().for_each(|(reply, answer)| drop(reply.send(answer)));
                true
            }
            Outcome::Refused(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "appends were refused");
                group.into_iter().for_each(|pending| pending.answer(Err(error.clone())));
                true
            }
            Outcome::Lost(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a commit failed: the event log takes no more appends until it is started again"
                );
                self.queue.stop(&Unavailable::Stopped);
                group.into_iter().for_each(|pending| pending.answer(Err(error.clone())));
                false
            }
        }
    }

    /// Waits until the other thread has ended.
    fn end_checkpoints(&mut self) {
        drop(self.checkpoints.take());
        if let Some(checkpointer) = self.checkpointer.take() {
            drop(checkpointer.join());
        }
    }

    /// Wakes the other thread now and then. It can copy everything but what is committed while it
    /// copies; when the write-ahead log has grown long, this thread copies that small rest, and the
    /// next commit starts the write-ahead log from its beginning.
    fn keep_write_ahead_log_short(&mut self, committed_bytes: usize) {
        self.uncopied_bytes += committed_bytes;
        if self.restart_due.swap(false, Ordering::Relaxed)
            && let Err(error) = self.log.checkpoint()
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "a checkpoint failed");
        }
        let Some(due) = &self.checkpoints else { return };
        let told = match self.uncopied_bytes {
            ..CHECKPOINT_BYTES => false,
            CHECKPOINT_BYTES..UNCOPIED_BYTES_MAX => due.try_send(()).is_ok(),
            // Commits wait rather than let it grow.
            _ => due.send(()).is_ok(),
        };
        if told {
            self.uncopied_bytes = 0;
        }
    }
}

impl Drop for Committer {
    /// Whatever ended the loop, a panic included: nobody is left waiting.
    fn drop(&mut self) {
        self.queue.stop(&Unavailable::Stopped);
        self.end_checkpoints();
    }
}

/// SQLite brings the database to disk when all of the write-ahead log has been copied. That is left
/// to the committing thread, which must not find much to do: so it is done after each part as well.
fn copy_write_ahead_log(
    connection: &Connection,
    database: &File,
    due: &Receiver<()>,
    restart_due: &AtomicBool,
) {
    while due.recv().is_ok() {
        let copied = checkpoint(connection);
        if let Err(error) = database.sync_data() {
            tracing::warn!(%error, "the database could not be brought to disk: {error}");
        }
        match copied {
            Ok(Checkpointed { frames, .. }) if frames >= RESTART_FRAMES => {
                restart_due.store(true, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a checkpoint failed");
            }
        }
    }
}

/// What an append brings to the write-ahead log beside its own bytes: its share of the pages that
/// are written again with each commit, and of the index.
const OVERHEAD_BYTES: usize = 600;
/// How much is committed before it is copied: small enough to be copied in a few milliseconds.
const CHECKPOINT_BYTES: usize = 8 << 20;
/// How much may have been committed since the other thread was last told, while it copies.
const UNCOPIED_BYTES_MAX: usize = 32 << 20;
/// The length from which the write-ahead log is started from its beginning: 32 MiB.
const RESTART_FRAMES: u64 = 8192;
