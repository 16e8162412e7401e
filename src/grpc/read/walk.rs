//! A walk over a stream or the whole log, one message at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use prost_types::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;

use super::Wanted;
use crate::clock::UnixMillis;
use crate::grpc::dispatch::Call;
use crate::grpc::{event, position_of, refusal};
use crate::kurrent_protocol::shared::Position;
use crate::kurrent_protocol::streams::{
    CaughtUp, Checkpoint, Confirmation, ReadResp, ReadRespContent, StreamNotFound,
};
use crate::ledger::{ReadError, Recorded};

/// Where a walk begins or goes on: a revision in a stream, a sequence in the whole log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// With this event, or the next one in the direction of the walk.
    At(u64),
    /// After the last event.
    End,
    /// There is nothing in this direction.
    Nowhere,
}

/// How many events are still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Events(u64),
    /// All, and those to come.
    ForEver,
}

pub(super) struct Walk {
    call: Arc<Call>,
    wanted: Wanted,
    phase: Phase,
    /// Messages that are made and not yet taken.
    ready: VecDeque<ReadResp>,
    committed: watch::Receiver<Option<u64>>,
    stopping: watch::Receiver<bool>,
    /// How many events the next batch may have.
    batch: usize,
    /// The last event that was looked at: sequence and revision.
    seen: Option<(u64, u64)>,
    /// Events looked at since the client was last told where it is.
    untold: u64,
}

#[derive(Clone, Copy)]
enum Phase {
    Beginning,
    /// There may be many events from here on.
    Reading(u64),
    /// All events were sent; the next one will stand here.
    Waiting(u64),
    /// Something was committed; there may be events from here on.
    Following(u64),
    Done,
}

impl Walk {
    pub(super) fn new(call: Arc<Call>, wanted: Wanted) -> Self {
        let (committed, stopping) = (call.shared.ledger.subscribe(), call.shared.stopping.clone());
        Self {
            call,
            wanted,
            phase: Phase::Beginning,
            ready: VecDeque::new(),
            committed,
            stopping,
            batch: BATCH_EVENTS_FIRST,
            seen: None,
            untold: 0,
        }
    }

    /// The next message; `None` when there will be no more.
    pub(super) async fn next(&mut self) -> Result<Option<ReadResp>, Status> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            match self.phase {
                Phase::Beginning => self.begin().await?,
                Phase::Reading(from) | Phase::Following(from) => {
                    self.check()?;
                    self.read(from).await?;
                    // A filter may leave out batch after batch.
                    tokio::task::yield_now().await;
                }
                Phase::Waiting(next) => self.wait(next).await?,
                Phase::Done => return Ok(None),
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Status> {
        let head = self.head().await?;
        self.phase = match (self.wanted.left, &self.wanted.stream) {
            (Left::Events(_), Some(stream)) if head.is_none() => {
                let stream_identifier = Some(stream.as_str().into());
                let missing = StreamNotFound { stream_identifier };
                self.push(ReadRespContent::StreamNotFound(missing));
                Phase::Done
            }
            (Left::Events(0), _) => Phase::Done,
            (left, _) => {
                if left == Left::ForEver {
                    self.push(ReadRespContent::Confirmation(confirmation()));
                }
                match (self.wanted.start, head, self.wanted.backwards) {
                    (Place::At(from), _, _) => Phase::Reading(from),
                    (Place::End, Some(head), true) => Phase::Reading(head),
                    (Place::End, head, false) => Phase::Reading(head.map_or(0, |head| head + 1)),
                    (Place::End, None, true) | (Place::Nowhere, _, _) => Phase::Done,
                }
            }
        };
        Ok(())
    }

    /// The last place in the stream, or in the whole log.
    async fn head(&self) -> Result<Option<u64>, Status> {
        let ledger = &self.call.shared.ledger;
        let head = match &self.wanted.stream {
            Some(stream) => ledger.head(stream).await,
            None => ledger.last_sequence().await,
        };
        head.map_err(|error| refusal::read(&error))
    }

    /// Reads the next batch.
    async fn read(&mut self, from: u64) -> Result<(), Status> {
        let limit = self.batch;
        let events = self.events(from, limit).await.map_err(|error| refusal::read(&error))?;
        let full = events.len() == limit;
        self.adapt(&events);
        let next = events.last().map(|event| self.after(event));
        for recorded in events {
            if self.wanted.left == Left::Events(0) {
                break;
            }
            self.look_at(recorded)?;
        }
        let following = matches!(self.phase, Phase::Following(_));
        self.phase = match (next.unwrap_or(Some(from)), self.wanted.left) {
            (_, Left::Events(0)) => Phase::Done,
            (Some(next), _) if full => {
                if following {
                    let fell_behind = self.whereabouts();
                    self.push(ReadRespContent::FellBehind(fell_behind));
                }
                Phase::Reading(next)
            }
            (Some(next), Left::ForEver) => {
                if !following {
                    self.caught_up();
                }
                Phase::Waiting(next)
            }
            (_, Left::Events(_)) => {
                self.end().await?;
                Phase::Done
            }
            (None, Left::ForEver) => Phase::Done,
        };
        Ok(())
    }

    async fn events(&self, from: u64, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let ledger = &self.call.shared.ledger;
        match (&self.wanted.stream, self.wanted.backwards) {
            (Some(stream), false) => ledger.read_stream(stream, from, limit).await,
            (Some(stream), true) => ledger.read_stream_backwards(stream, from, limit).await,
            (None, false) => ledger.read_all(from, limit).await,
            (None, true) => ledger.read_all_backwards(from, limit).await,
        }
    }

    /// Lets batches grow while events are small, so that no batch takes much memory.
    fn adapt(&mut self, events: &[Recorded]) {
        let bytes: usize = events.iter().map(|event| event.data.len() + event.metadata.len()).sum();
        self.batch = match bytes {
            BATCH_BYTES.. => (self.batch / 8).max(1),
            _ if events.len() == self.batch => (self.batch * 2).min(BATCH_EVENTS_MAX),
            _ => self.batch,
        };
    }

    /// The place after an event; `None` at the beginning, going backwards.
    fn after(&self, event: &Recorded) -> Option<u64> {
        let place = if self.wanted.stream.is_some() { event.revision } else { event.sequence };
        if self.wanted.backwards { place.checked_sub(1) } else { Some(place + 1) }
    }

    /// Sends the event if it is wanted, and how far the walk has come if that is due.
    fn look_at(&mut self, recorded: Recorded) -> Result<(), Status> {
        self.seen = Some((recorded.sequence, recorded.revision));
        let Some(filter) = &self.wanted.filter else {
            self.send(recorded);
            return Ok(());
        };
        let checkpoint_every = filter.checkpoint_every;
        if filter.takes(&recorded)? {
            self.send(recorded);
        }
        self.untold += 1;
        if self.untold >= checkpoint_every {
            self.checkpoint();
        }
        Ok(())
    }

    fn send(&mut self, recorded: Recorded) {
        if let Left::Events(left) = &mut self.wanted.left {
            *left -= 1;
        }
        self.ready.push_back(event::shown(recorded, self.wanted.uuids));
    }

    /// Tells a subscription with a filter where it is.
    fn checkpoint(&mut self) {
        self.untold = 0;
        if let (Left::ForEver, Some((sequence, _))) = (self.wanted.left, self.seen) {
            let Position { commit_position, prepare_position } =
                Position::at(position_of(sequence));
            let timestamp = Some(self.timestamp());
            let checkpoint = Checkpoint { commit_position, prepare_position, timestamp };
            self.push(ReadRespContent::Checkpoint(checkpoint));
        }
    }

    /// Tells a subscription that it has all events that there are.
    fn caught_up(&mut self) {
        if self.untold > 0 {
            self.checkpoint();
        }
        let caught_up = self.whereabouts();
        self.push(ReadRespContent::CaughtUp(caught_up));
    }

    /// Where a subscription is.
    fn whereabouts(&self) -> CaughtUp {
        let (stream, position) = match (&self.wanted.stream, self.seen) {
            (Some(_), Some((_, revision))) => (i64::try_from(revision).ok(), None),
            (None, Some((sequence, _))) => (None, Some(Position::at(position_of(sequence)))),
            (_, None) => (None, None),
        };
        CaughtUp { timestamp: Some(self.timestamp()), stream_revision: stream, position }
    }

    /// Tells a reader that it has come to the end of a stream.
    async fn end(&mut self) -> Result<(), Status> {
        if self.wanted.knows_ends
            && self.wanted.stream.is_some()
            && !self.wanted.backwards
            && let Some(head) = self.head().await?
        {
            self.push(ReadRespContent::LastStreamPosition(head));
        }
        Ok(())
    }

    /// Waits until the event `next` may be there.
    async fn wait(&mut self, next: u64) -> Result<(), Status> {
        // A stream may get its next event with any commit.
        let any = self.wanted.stream.is_some();
        let Self { committed, stopping, call, .. } = self;
        let arrived = async {
            committed.changed().await?;
            committed.wait_for(|last| any || last.is_some_and(|last| last >= next)).await.map(drop)
        };
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return Err(refusal::stopping()),
            () = call.too_late() => return Err(refusal::late()),
            arrived = arrived => arrived.map_err(|_| refusal::stopping())?,
        }
        // Commits come in bursts; one look serves several.
        sleep(GATHER).await;
        self.committed.mark_unchanged();
        self.phase = Phase::Following(next);
        Ok(())
    }

    /// Ends a walk that nobody waits for, between two batches.
    fn check(&self) -> Result<(), Status> {
        if *self.stopping.borrow() {
            return Err(refusal::stopping());
        }
        if self.call.is_too_late() { Err(refusal::late()) } else { Ok(()) }
    }

    fn push(&mut self, content: ReadRespContent) {
        self.ready.push_back(ReadResp { content: Some(content) });
    }

    fn timestamp(&self) -> Timestamp {
        let UnixMillis(now_ms) = self.call.shared.clock.now();
        let nanos = i32::try_from(now_ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
        Timestamp { seconds: now_ms.div_euclid(1000), nanos }
    }
}

fn confirmation() -> Confirmation {
    #[allow(clippy::disallowed_methods)]
    // names a subscription to its client; nothing derives from it
    let id = uuid::Uuid::new_v4();
    Confirmation { subscription_id: id.to_string() }
}

const BATCH_EVENTS_FIRST: usize = 16;
const BATCH_EVENTS_MAX: usize = 512;
const BATCH_BYTES: usize = 2 << 20;
const GATHER: Duration = Duration::from_millis(1);
