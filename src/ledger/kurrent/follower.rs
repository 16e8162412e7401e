//! Follows the cluster's log: numbers our events, and tells of them.
//!
//! One subscription, from where the local list of [`places`](super::places) ends. It is watched from
//! outside: every second the leader is asked for our last event, which says how much is still to come,
//! and a subscription that brings nothing although there is something is given up. Whatever goes wrong, a new connection goes on
//! from the last event that was noted.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::{Status, Streaming};

use super::cluster::{Cluster, PAUSE};
use super::followed::Followed;
use super::node::{Node, NodeError, ReadFailed};
use super::places::Position;
use super::wire::{self, Seen};
use crate::kurrent_protocol::streams::{ReadResp, ReadRespContent};
use crate::ledger::tail::error_text;

/// The task that follows.
pub(super) struct Follower {
    pub(super) cluster: Arc<Cluster>,
    pub(super) followed: Arc<Followed>,
    /// Ends when this is dropped.
    pub(super) told: watch::Sender<Option<u64>>,
}

/// Why a subscription has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("no leader can be reached")]
    Node(#[from] NodeError),
    #[error("the node ended the subscription with an error")]
    Status(#[source] Box<Status>),
    #[error("the node ended the subscription")]
    InOrder,
    #[error("the subscription brings nothing, although there are new events")]
    Stalled,
    #[error("the node does not answer")]
    Read(#[source] Box<ReadFailed>),
    #[error("the local list of places cannot be written")]
    Places(#[from] rusqlite::Error),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<ReadFailed> for Ended {
    fn from(failed: ReadFailed) -> Self {
        Self::Read(Box::new(failed))
    }
}

impl Follower {
    /// Follows for good.
    pub(super) async fn run(self) {
        let mut pause = PAUSE;
        loop {
            let before = self.followed.mark();
            let Err(ended) = self.follow().await;
            let reason = error_text(&ended);
            tracing::warn!(%reason, "following the event log is interrupted: {reason}");
            // A server that is gone for long is not asked all the time.
            let went_on = self.followed.mark() != before;
            pause = if went_on { PAUSE } else { PAUSE_MAX.min(pause * 2) };
            sleep(pause).await;
        }
    }

    async fn follow(&self) -> Result<Infallible, Ended> {
        let node = self.cluster.node().await?;
        let ended = self.follow_on(&node).await.map(|never| match never {});
        if let Err(error) = &ended {
            let leader = match error {
                Ended::Status(status) => wire::not_leader(status).flatten(),
                Ended::Read(failed) => failed.leader(),
                _ => None,
            };
            self.cluster.failed(&node, leader);
        }
        ended
    }

    async fn follow_on(&self, node: &Node) -> Result<Infallible, Ended> {
        let messages = node.subscribe(self.followed.mark().after).await?;
        let came = AtomicBool::new(false);
        // Neither waits for the other: a slow answer to a question holds up no event.
        tokio::select! {
            ended = self.take_all(messages, &came) => ended,
            ended = self.watch(node, &came) => ended,
        }
    }

    async fn take_all(
        &self,
        mut messages: Streaming<ReadResp>,
        came: &AtomicBool,
    ) -> Result<Infallible, Ended> {
        loop {
            let first = messages.message().await?.ok_or(Ended::InOrder)?;
            self.take(first, &mut messages)?;
            came.store(true, Ordering::Relaxed);
        }
    }

    async fn watch(&self, node: &Node, came: &AtomicBool) -> Result<Infallible, Ended> {
        let mut missed = false;
        loop {
            sleep(WATCH).await;
            let behind = self.is_behind(node).await?;
            let brings_something = came.swap(false, Ordering::Relaxed);
            if behind && missed && !brings_something {
                return Err(Ended::Stalled);
            }
            // At first it may have been stored in this very moment.
            missed = behind;
        }
    }

    /// Whether the leader has an event of ours that did not come.
    async fn is_behind(&self, node: &Node) -> Result<bool, Ended> {
        let last = node.last_event().await?.map(|last| last.position);
        self.followed.heard(last);
        Ok(last > self.followed.mark().after)
    }

    /// Notes the events of a message, and of those that have come with it.
    fn take(&self, first: ReadResp, messages: &mut Streaming<ReadResp>) -> Result<(), Ended> {
        let mut mark = self.followed.mark();
        let mut events = Vec::new();
        let mut message = Some(first);
        let mut ended = None;
        while let Some(content) = message.take() {
            if let Some((position, event)) = self.look_at(content) {
                // A server that repeats itself changes nothing.
                if mark.after < Some(position) {
                    mark.after = Some(position);
                    events.extend(event);
                }
            }
            if events.len() < BATCH_EVENTS {
                match messages.message().now_or_never() {
                    Some(Ok(Some(next))) => message = Some(next),
                    Some(Ok(None)) => ended = Some(Ended::InOrder),
                    Some(Err(status)) => ended = Some(status.into()),
                    None => {}
                }
            }
        }
        if let Some(last) = self.followed.note(events, mark)? {
            self.told.send_replace(Some(last));
        }
        ended.map_or(Ok(()), Err)
    }

    /// How far a message says that the subscription has come, and the event of ours that it brings.
    fn look_at(&self, message: ReadResp) -> Option<(Position, Option<Seen>)> {
        match message.content? {
            ReadRespContent::Event(event) => {
                let recorded = event.event.as_ref()?;
                let commit = recorded.commit_position;
                let position = Position { commit, prepare: recorded.prepare_position };
                Some((position, Seen::of_message(*event, &self.cluster.settings.prefix)))
            }
            ReadRespContent::Checkpoint(checkpoint) => {
                let commit = checkpoint.commit_position;
                Some((Position { commit, prepare: checkpoint.prepare_position }, None))
            }
            _ => None,
        }
    }
}

/// Between two attempts, at most.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often the leader is asked for our last event: whether it should have come, and how much has not.
const WATCH: Duration = Duration::from_secs(1);
/// Events noted in one transaction at most.
const BATCH_EVENTS: usize = 1024;
