//! Following the ledger: every event once, in order, in batches, on a thread of its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::codec::{self, CodecError};
use super::{Ledger, ReadError, Recorded};
use crate::domain::Event;

/// Events applied in one transaction at most: enough to make a rebuild fast, few enough that the
/// transaction stays small.
const BATCH_EVENTS: usize = 4096;

/// How long a log that cannot be read for the moment is left alone, at least.
const RETRY: Duration = Duration::from_millis(200);

/// A stored event together with what it says.
#[derive(Clone, Debug)]
pub struct Fact {
    /// As stored.
    pub recorded: Recorded,
    /// As decoded.
    pub event: Event,
}

impl Fact {
    /// Decodes a stored event.
    pub fn of(recorded: Recorded) -> Result<Self, CodecError> {
        let event = codec::decode(&recorded.kind, &recorded.data)?;
        Ok(Self { recorded, event })
    }

    /// Decodes a stored event of any stream; `None` for one of the [users](super::users).
    pub fn of_ours(recorded: Recorded) -> Result<Option<Self>, CodecError> {
        if recorded.stream.is_users() { Ok(None) } else { Self::of(recorded).map(Some) }
    }
}

/// How far a tail has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// All events before this sequence are applied and what they changed is stored.
    pub next_sequence: u64,
    /// The latest time of an event applied, or of the last one that was there at the start; 0 if
    /// there was none.
    pub last_at_ms: i64,
    /// Why the tail stopped, if it did. It does not start again by itself.
    pub failed: Option<String>,
}

/// What is done with the events. Called on the tail's own thread.
pub trait Apply: Send + 'static {
    /// Applies a batch. Either stores what it changed and moves the checkpoint, in one transaction,
    /// or gathers changes and says so by [`unstored_from`](Self::unstored_from).
    fn apply(
        &mut self,
        batch: &[Arc<Fact>],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// The first event that was applied and whose changes are not all stored; `None`: all are.
    fn unstored_from(&self) -> Option<u64> {
        None
    }

    /// Stores all changes: nothing more has come for a while, somebody waits for them, or the tail
    /// stops.
    fn store(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

/// A running tail. Dropping it stops the thread after the batch at hand.
pub struct Tail {
    progress: watch::Receiver<Progress>,
    hurry: Arc<Notify>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    /// Follows `ledger` from `next_sequence` on. `pause` is how long events may gather before they
    /// are applied together: rows that several of them change are then written once.
    pub async fn spawn(
        name: &str,
        ledger: Arc<Ledger>,
        next_sequence: u64,
        pause: Duration,
        apply: impl Apply,
    ) -> std::io::Result<Self> {
        let last_at_ms = newest_time(&ledger).await;
        let (sender, progress) =
            watch::channel(Progress { next_sequence, last_at_ms, failed: None });
        let (hurry, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let follower = Follower {
            ledger,
            next_sequence,
            last_at_ms,
            pause,
            apply,
            progress: sender,
            hurry: Arc::clone(&hurry),
            stop: Arc::clone(&stop),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread_name = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(thread_name.clone())
            .spawn(move || runtime.block_on(follower.run(&thread_name)))?;
        Ok(Self { progress, hurry, stop, thread: Some(thread) })
    }

    /// How far the tail has come.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until the event with this sequence is applied; if there is no such event yet, until
    /// there is. `false` if the tail has failed or the ledger was closed before.
    pub async fn wait_for(&self, sequence: u64) -> bool {
        let mut progress = self.progress.clone();
        loop {
            let Progress { next_sequence, failed, .. } = progress.borrow_and_update().clone();
            if next_sequence > sequence {
                return true;
            }
            if failed.is_some() {
                return false;
            }
            self.hurry.notify_one();
            if progress.changed().await.is_err() {
                return false;
            }
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.notify_one();
        self.hurry.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Follower<A> {
    ledger: Arc<Ledger>,
    next_sequence: u64,
    last_at_ms: i64,
    pause: Duration,
    apply: A,
    progress: watch::Sender<Progress>,
    hurry: Arc<Notify>,
    stop: Arc<Notify>,
}

/// Why a tail cannot go on.
#[derive(Debug, thiserror::Error)]
enum TailError {
    #[error("the ledger cannot be read")]
    Read(#[from] ReadError),
    #[error("event {sequence} cannot be decoded")]
    Decode { sequence: u64, source: CodecError },
    #[error("events from {sequence} on cannot be applied")]
    Apply { sequence: u64, source: Box<dyn std::error::Error + Send + Sync> },
}

impl<A: Apply> Follower<A> {
    async fn run(mut self, name: &str) {
        if let Err(error) = self.follow().await {
            let reason = error_text(&error);
            tracing::error!(tail = name, %reason, "tail {name} stopped: {reason}");
            self.progress.send_modify(|progress| progress.failed = Some(reason));
        }
    }

    /// Returns once it was told to stop or the ledger takes no more events.
    async fn follow(&mut self) -> Result<(), TailError> {
        let mut committed = self.ledger.subscribe();
        let mut awaited = false;
        loop {
            while self.apply_next_batch().await? {
                tokio::select! {
                    biased;
                    () = self.stop.notified() => return self.store(),
                    () = std::future::ready(()) => {}
                }
            }
            if std::mem::take(&mut awaited) {
                self.store()?;
            }
            let next = self.next_sequence;
            let gathered = self.apply.unstored_from().is_some();
            tokio::select! {
                biased;
                () = self.stop.notified() => return self.store(),
                changed = committed.wait_for(|last| last.is_some_and(|last| last >= next)) => {
                    if changed.is_err() {
                        return self.store();
                    }
                }
                () = self.hurry.notified(), if gathered => {
                    self.store()?;
                    continue;
                }
                () = tokio::time::sleep(self.pause), if gathered => {
                    self.store()?;
                    continue;
                }
            }
            tokio::select! {
                biased;
                () = self.stop.notified() => return self.store(),
                () = self.hurry.notified() => awaited = true,
                () = tokio::time::sleep(self.pause) => {}
            }
        }
    }

    /// Applies what is there, up to one batch; tells whether there is likely more at once.
    async fn apply_next_batch(&mut self) -> Result<bool, TailError> {
        let (batch, events) = self.next_batch().await?;
        if events == 0 {
            return Ok(false);
        }
        if !batch.is_empty() {
            let sequence = self.next_sequence;
            let times = batch.iter().map(|fact| fact.event.at_ms());
            self.last_at_ms = times.fold(self.last_at_ms, i64::max);
            self.apply.apply(&batch).map_err(|source| TailError::Apply { sequence, source })?;
        }
        self.next_sequence += events as u64;
        self.report();
        Ok(events == BATCH_EVENTS)
    }

    /// The next facts, and out of how many events: those of the users are none.
    async fn next_batch(&self) -> Result<(Vec<Arc<Fact>>, usize), TailError> {
        let decoded = |(fact, sequence): (Result<_, CodecError>, u64)| {
            fact.map_err(|source| TailError::Decode { sequence, source }).transpose()
        };
        let from = self.next_sequence;
        if let Some(recent) = self.ledger.recent(from, BATCH_EVENTS) {
            let facts = recent.iter().map(|slot| slot.fact()).zip(from..).filter_map(decoded);
            return Ok((facts.collect::<Result<_, _>>()?, recent.len()));
        }
        let stored = self.read().await?;
        let events = stored.len();
        let facts = stored.into_iter().map(|recorded| Ok(Fact::of_ours(recorded)?.map(Arc::new)));
        let facts = facts.zip(from..).filter_map(decoded);
        Ok((facts.collect::<Result<_, _>>()?, events))
    }

    /// Reads the next batch. A failure that may pass is waited out: nothing is lost by it. Nothing is
    /// read once the tail was told to stop.
    async fn read(&self) -> Result<Vec<Recorded>, ReadError> {
        loop {
            let read = tokio::select! {
                biased;
                () = self.stop.notified() => {
                    self.stop.notify_one();
                    return Ok(Vec::new());
                }
                read = self.ledger.read_all(self.next_sequence, BATCH_EVENTS) => read,
            };
            match read {
                Err(error) if error.is_passing() => {
                    let reason = error_text(&error);
                    tracing::warn!(%reason, "a tail waits for the event log: {reason}");
                    tokio::time::sleep(self.pause.max(RETRY)).await;
                }
                read => return read,
            }
        }
    }

    fn store(&mut self) -> Result<(), TailError> {
        let sequence = self.apply.unstored_from().unwrap_or(self.next_sequence);
        self.apply.store().map_err(|source| TailError::Apply { sequence, source })?;
        self.report();
        Ok(())
    }

    fn report(&self) {
        let next_sequence = self.apply.unstored_from().unwrap_or(self.next_sequence);
        let last_at_ms = self.last_at_ms;
        self.progress.send_replace(Progress { next_sequence, last_at_ms, failed: None });
    }
}

/// The time of the last event that is ours; 0 if there is none. If it cannot be read, neither can the
/// first batch, and that is reported.
async fn newest_time(ledger: &Ledger) -> i64 {
    let (mut from, mut limit) = (u64::MAX, 1);
    loop {
        let recorded = ledger.read_all_backwards(from, limit).await.unwrap_or_default();
        let Some(oldest) = recorded.last().map(|oldest| oldest.sequence) else { return 0 };
        if let Some(newest) = recorded.into_iter().find(|recorded| !recorded.stream.is_users()) {
            return Fact::of(newest).map_or(0, |fact| fact.event.at_ms());
        }
        let Some(before) = oldest.checked_sub(1) else { return 0 };
        (from, limit) = (before, BATCH_EVENTS);
    }
}

/// An error and its causes in one line.
pub fn error_text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
