//! The connection to whoever leads the cluster, made anew whenever it fails.
//!
//! A connection that failed in any way is thrown away as a whole and never mended: the next caller
//! finds out who leads and connects to that node. Callers send their requests again, the same, as
//! long as their time lasts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::address::Host;
use super::node::{Node, NodeError, Settings, Wanted};
use super::wire::Seen;
use crate::ledger::append::{Cause, ReadError};

/// The cluster, as one process sees it.
pub(super) struct Cluster {
    pub(super) settings: Settings,
    current: Mutex<Option<Arc<Node>>>,
    /// Who leads, on the word of a node that does not.
    hint: Mutex<Option<Host>>,
    /// One connects, the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

impl Cluster {
    /// Connects to nobody yet.
    pub(super) fn new(settings: Settings) -> Self {
        let (current, hint) = (Mutex::default(), Mutex::default());
        Self { settings, current, hint, connecting: tokio::sync::Mutex::default() }
    }

    /// The connection to the leader, or a new one.
    pub(super) async fn node(&self) -> Result<Arc<Node>, NodeError> {
        if let Some(node) = self.known() {
            return Ok(node);
        }
        let _turn = self.connecting.lock().await;
        if let Some(node) = self.known() {
            return Ok(node);
        }
        let node = Arc::new(self.connect().await?);
        tracing::info!(node = %node.host, "connected to the event log at {}", node.host);
        *lock(&self.current) = Some(Arc::clone(&node));
        Ok(node)
    }

    /// Gives a connection up. `leader` is who leads on its word.
    pub(super) fn failed(&self, node: &Arc<Node>, leader: Option<Host>) {
        let mut current = lock(&self.current);
        // Somebody else may have connected anew meanwhile.
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, node)) {
            *current = None;
            *lock(&self.hint) = leader;
        }
    }

    /// Reads from the leader, until it works or the time is over. Of events that turn out not to be
    /// ours only `None` is left.
    pub(super) async fn read(&self, wanted: Wanted) -> Result<Vec<Option<Seen>>, ReadError> {
        let deadline = Instant::now() + READ_TIME;
        loop {
            let failed = match timeout_at(deadline, self.read_once(&wanted)).await {
                Ok(Ok(events)) => return Ok(events),
                Ok(Err(failed)) => failed,
                Err(late) => Arc::new(late),
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(ReadError::passing(failed));
            }
            sleep(PAUSE).await;
        }
    }

    async fn read_once(&self, wanted: &Wanted) -> Result<Vec<Option<Seen>>, Cause> {
        let node = self.node().await.map_err(|error| Arc::new(error) as Cause)?;
        node.read(wanted).await.map_err(|error| {
            self.failed(&node, error.leader());
            Arc::new(error) as Cause
        })
    }

    fn known(&self) -> Option<Arc<Node>> {
        lock(&self.current).clone()
    }

    async fn connect(&self) -> Result<Node, NodeError> {
        let hint = lock(&self.hint).take();
        if let Some(leader) = hint
            && let Ok(node) = Node::connect(leader, &self.settings).await
        {
            return Ok(node);
        }
        let mut failed = NodeError::Leaderless;
        for host in &self.settings.address.hosts {
            match self.connect_by(host).await {
                Ok(node) => return Ok(node),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect_by(&self, host: &Host) -> Result<Node, NodeError> {
        let leader = match self.settings.address.discover {
            true => Node::ask_for_leader(host, &self.settings).await?,
            false => host.clone(),
        };
        Node::connect(leader, &self.settings).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a read is tried: a leader is elected within a few seconds, and a request may wait for 15.
const READ_TIME: Duration = Duration::from_secs(10);
/// Between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
