//! The event log in a KurrentDB cluster, for any number of service processes.
//!
//! ```text
//! append ─▶ node ─ AppendRecords ─▶ leader ─┐     one call, atomic over all streams and checks
//!   ▲                                       │
//!   └── follower ◀─ subscription to $all ───┘     numbers our events, keeps their places
//! reads ─▶ newest events here, else the leader
//! ```
//!
//! # What is kept here
//!
//! Nothing that counts. `places.db` in the data directory lists where each of our events stands
//! (`places`), because the cluster numbers bytes and the ledger numbers events; it is followed up
//! after every start and read anew if it is lost. Our events are those in streams with the configured
//! prefix, or, without one, in all streams but the system's; links, whose types begin with `$`, are
//! not counted.
//!
//! # An append
//!
//! The same request, with the same ids and checks, is sent until the leader has answered it: the
//! server recognizes what is stored already. An answer of success is passed on once the follower has
//! brought the events, and so with their sequences, and only if they are the same: the server
//! compares ids, and another process may have stored another decision about the same command. An id
//! of an event that came lately is recognized before anything is sent. Where several processes send the
//! same events, each append's own id, in a property of its last record that is taken off again by
//! whoever reads, tells whose were stored. All of it together is bounded: a request waits for it.
//!
//! # A read
//!
//! Streams and heads are always read from the leader, so that what is decided, or answered without a
//! decision, is true of a moment during the call. The log as a whole is read as far as it has been
//! followed, and how far that is behind the leader's is asked every second.

mod address;
mod appends;
mod cluster;
mod followed;
mod follower;
mod node;
mod places;
mod projections;
mod reads;
#[cfg(test)]
pub(super) mod tests;
mod wire;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use self::address::{Address, InvalidAddress};
use self::cluster::{Cluster, PAUSE};
use self::followed::Followed;
use self::follower::Follower;
use self::node::Settings;
pub use self::node::{Credentials, NodeError};
use self::places::Places;
pub use self::projections::{Definition, Projections, ProjectionsError, Standing};
use self::wire::Prefix;
use super::append::{Append, AppendError, Appended, Cause, ReadError, Unavailable};
use super::embedded::open::{OpenError, lock};
use super::event::{Recorded, StreamName};
use super::recent::Slot;

/// The engine. See the [module](self).
pub struct Kurrent {
    engine: Arc<Engine>,
    told: watch::Receiver<Option<u64>>,
    /// Appends at work; none are admitted once it is closing.
    admitted: Arc<Semaphore>,
    closing: AtomicBool,
    follower: JoinHandle<()>,
    threads: Threads,
    _lock: File,
}

/// The runtime that connections are made on, and so belong to: callers have others. It may be dropped
/// where nothing may wait, and it is when a ledger cannot be opened.
struct Threads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Threads {
    fn start() -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            builder.worker_threads(2).thread_name("ledger-kurrent").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(task)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where a ledger is.
#[derive(Clone)]
pub struct Options {
    /// The cluster.
    pub address: Address,
    /// Who we are to it; `None` for a cluster that asks nobody.
    pub credentials: Option<Credentials>,
    /// What the names of our streams begin with there, in a cluster that others use as well.
    pub stream_prefix: String,
}

/// Why the ledger cannot be opened. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KurrentError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The certificates cannot be read.
    #[error("cannot read the certificates in {}; check tlsCaFile", path.display())]
    Certificates {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The prefix does not leave room for names, or belongs to the system.
    #[error(
        "kurrentdb.stream_prefix is `{0}`, but must have at most 50 letters, digits, dots, dashes \
         or underscores"
    )]
    Prefix(String),
    /// No node can be used.
    #[error(
        "the event log cannot be opened; check that the cluster runs and that the address is right"
    )]
    Node(#[from] NodeError),
    /// The events that were there could not be counted.
    #[error("the event log could not be followed from its beginning")]
    Read(#[from] ReadError),
    /// The local list of places failed.
    #[error("places.db in the data directory cannot be used; remove it, it is made anew")]
    Places(#[from] rusqlite::Error),
    /// The system gave no threads.
    #[error("the system gives no threads")]
    Threads(#[from] std::io::Error),
}

/// What the tasks of this engine work with.
struct Engine {
    cluster: Arc<Cluster>,
    followed: Arc<Followed>,
    told: watch::Receiver<Option<u64>>,
}

impl Kurrent {
    /// Connects, waiting a while for a cluster that is just starting, and counts the events that
    /// there are: all of them at the first start, later the new ones. `dir` is for this process
    /// alone.
    pub async fn open(dir: &Path, options: Options) -> Result<Self, KurrentError> {
        let lock = lock(dir)?;
        let threads = Threads::start()?;
        let cluster = Arc::new(Cluster::new(settings(options)?));
        let places = Places::open(&dir.join("places.db"), &cluster.settings.prefix.0)?;
        let opening = {
            let cluster = Arc::clone(&cluster);
            threads.spawn(async move {
                wait_for_leader(&cluster).await?;
                reads::check_places(&places, &cluster).await?;
                Ok::<_, KurrentError>(Arc::new(Followed::new(places)?))
            })
        };
        let followed = opening.await.map_err(std::io::Error::other)??;
        let (sender, told) = watch::channel(followed.mark().next_sequence.checked_sub(1));
        let follower = Follower {
            cluster: Arc::clone(&cluster),
            followed: Arc::clone(&followed),
            told: sender,
        };
        let follower = threads.spawn(follower.run());
        let engine = Arc::new(Engine { cluster, followed, told: told.clone() });
        let kurrent = Self {
            engine,
            told,
            admitted: Arc::new(Semaphore::new(APPENDS_MAX as usize)),
            closing: AtomicBool::new(false),
            follower,
            threads,
            _lock: lock,
        };
        kurrent.on_runtime(async |engine| engine.catch_up().await).await?;
        Ok(kurrent)
    }

    /// See [`Ledger::append`](super::Ledger::append).
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.validate()?;
        let unavailable = |reason| Err(AppendError::Unavailable(reason));
        if self.closing.load(Ordering::Acquire) {
            return unavailable(Unavailable::Closed);
        }
        let Ok(admitted) = Arc::clone(&self.admitted).try_acquire_owned() else {
            return unavailable(Unavailable::QueueFull);
        };
        let engine = Arc::clone(&self.engine);
        let task = async move {
            let answer = engine.append(&append).await;
            drop(admitted);
            answer
        };
        let gone = |gone| Err(AppendError::Unknown(Arc::new(gone) as Cause));
        self.threads.spawn(task).await.unwrap_or_else(gone)
    }

    /// See [`Ledger::head`](super::Ledger::head).
    pub async fn head(&self, stream: &StreamName) -> Result<Option<u64>, ReadError> {
        let stream = stream.clone();
        self.on_runtime(async move |engine| engine.head(&stream).await).await
    }

    /// See [`Ledger::last_sequence`](super::Ledger::last_sequence).
    pub async fn last_sequence(&self) -> Result<Option<u64>, ReadError> {
        self.on_runtime(async |engine| engine.last_sequence().await).await
    }

    /// See [`Ledger::read_stream`](super::Ledger::read_stream).
    pub async fn read_stream(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let stream = stream.clone();
        self.on_runtime(async move |engine| engine.read_stream(&stream, from_revision, limit).await)
            .await
    }

    /// See [`Ledger::read_stream_backwards`](super::Ledger::read_stream_backwards).
    pub async fn read_stream_backwards(
        &self,
        stream: &StreamName,
        from_revision: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let stream = stream.clone();
        self.on_runtime(async move |engine| {
            engine.read_stream_backwards(&stream, from_revision, limit).await
        })
        .await
    }

    /// See [`Ledger::read_all`](super::Ledger::read_all).
    pub async fn read_all(&self, from: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        // What tails ask for is here, most of the time.
        if let Some(page) = self.engine.newest(from, limit) {
            return Ok(page);
        }
        self.on_runtime(async move |engine| engine.read_all(from, limit).await).await
    }

    /// See [`Ledger::read_all_backwards`](super::Ledger::read_all_backwards).
    pub async fn read_all_backwards(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, ReadError> {
        let Some(last) = *self.told.borrow() else { return Ok(Vec::new()) };
        let end = from.min(last) + 1;
        let first = end.saturating_sub(limit as u64);
        let count = usize::try_from(end - first).unwrap_or(usize::MAX);
        let mut page = self.read_all(first, count).await?;
        page.reverse();
        Ok(page)
    }

    /// See [`Ledger::subscribe`](super::Ledger::subscribe).
    pub fn subscribe(&self) -> watch::Receiver<Option<u64>> {
        self.told.clone()
    }

    /// See `Ledger::recent`.
    pub(super) fn recent(&self, from: u64, limit: usize) -> Option<Vec<Arc<Slot>>> {
        self.engine.followed.recent.from(from, limit)
    }

    /// See [`Ledger::behind`](super::Ledger::behind).
    pub fn behind(&self) -> u64 {
        self.engine.followed.behind()
    }

    /// See [`Ledger::neighbors`](super::Ledger::neighbors).
    pub async fn neighbors(&self, marks: &[(&str, &str)]) -> Result<Vec<String>, ReadError> {
        let owned = |(stream, kind): &(&str, &str)| ((*stream).to_owned(), (*kind).to_owned());
        let marks: Vec<_> = marks.iter().map(owned).collect();
        self.on_runtime(async move |engine| engine.neighbors(&marks).await).await
    }

    /// Why the ledger is not to be relied on at present, if so.
    pub fn trouble(&self) -> Option<String> {
        let silent = self.engine.followed.silent_for();
        (silent > SILENCE_MAX).then(|| format!("no word from it for {} s", silent.as_secs()))
    }

    /// See [`Ledger::close`](super::Ledger::close).
    pub async fn close(&self) {
        self.closing.store(true, Ordering::Release);
        // All that were admitted are done when all places are free.
        let all = self.admitted.acquire_many(APPENDS_MAX).await;
        drop(all);
        self.follower.abort();
        let mut told = self.told.clone();
        while told.changed().await.is_ok() {}
    }

    async fn on_runtime<T: Send + 'static, F>(
        &self,
        task: impl FnOnce(Arc<Engine>) -> F,
    ) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, ReadError>> + Send + 'static,
    {
        let task = self.threads.spawn(task(Arc::clone(&self.engine)));
        task.await.unwrap_or_else(|gone| Err(ReadError::passing(Arc::new(gone))))
    }
}

fn settings(options: Options) -> Result<Settings, KurrentError> {
    let Options { address, credentials, stream_prefix } = options;
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if stream_prefix.len() > PREFIX_BYTES_MAX || !stream_prefix.chars().all(fits) {
        return Err(KurrentError::Prefix(stream_prefix));
    }
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path)
            .map_err(|source| KurrentError::Certificates { path: path.clone(), source })
    };
    let ca = address.ca.as_ref().map(read).transpose()?;
    Ok(Settings { address, prefix: Prefix(stream_prefix), credentials, ca })
}

/// A cluster and the services in front of it are often started together.
async fn wait_for_leader(cluster: &Cluster) -> Result<(), NodeError> {
    let deadline = tokio::time::Instant::now() + START_TIME;
    loop {
        match cluster.node().await {
            Ok(_) => return Ok(()),
            Err(error @ NodeError::TooOld { .. }) => return Err(error),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(error) => {
                let reason = super::tail::error_text(&error);
                tracing::warn!(%reason, "waiting for the event log: {reason}");
                tokio::time::sleep(PAUSE * 10).await;
            }
        }
    }
}

/// Appends at work at once; the next one is refused.
const APPENDS_MAX: u32 = 4096;
/// So that prefix and name together stay far below what a server takes.
const PREFIX_BYTES_MAX: usize = 50;
/// How long a starting cluster is waited for.
const START_TIME: Duration = Duration::from_secs(30);
/// The leader is asked every second when nothing comes; after several elections' time something else
/// is wrong.
const SILENCE_MAX: Duration = Duration::from_secs(10);
